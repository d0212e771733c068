"""Witnesses: what other programs and the kernel's own reporters say of a specimen.

ps, top, pgrep, gdb, perf's events, core files, other readers of /proc; and what a defender makes of
it. Needs nothing beyond the standard library.
"""
