"""The commands of prctlmm-lab, one module each: its arguments, what it does, how it is printed."""
