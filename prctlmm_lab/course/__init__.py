"""Exercises: each with its prompt, its check, its hints and its solution in one place."""

from prctlmm_lab.course.exercises import check, hint, solution

__all__ = ["check", "hint", "solution"]
