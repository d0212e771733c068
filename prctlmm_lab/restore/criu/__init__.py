"""CRIU's own files: its images of an address space, its log of a failed restore, its calls.

CRIU (criu.org) is the program that PR_SET_MM_MAP was made for. Nothing of it is needed to read its
files; `running` needs it installed.
"""
