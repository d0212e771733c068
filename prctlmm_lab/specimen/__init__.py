"""The child process that experiments are made on, and what it tells of this kernel."""
