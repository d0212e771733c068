"""Experiments: declared in a recipe, run on a specimen, kept as records in a logbook."""
