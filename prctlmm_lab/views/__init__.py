"""Pictures, tables and widgets: what a person sees of a snapshot, an explanation, a record."""
