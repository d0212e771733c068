"""What the commands share in how they answer: exit statuses, messages, lines, files."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from prctlmm_lab.errors import InputError

FINE, DISAGREEMENT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
COLUMNS = 80


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json to the arguments of a command."""
    parser.add_argument("--json", action="store_true", help="JSON on standard output")


def complain(problem: object) -> None:
    """Say on standard error what went wrong."""
    from prctlmm_lab.experiments.formula import printable

    print(f"prctlmm-lab: {printable(str(problem))}", file=sys.stderr)


def wrapped(line: str, *, later: int) -> str:
    """Break a line at 80 columns; what follows is indented by `later`."""
    from prctlmm_lab.experiments.formula import printable

    return textwrap.fill(
        printable(line), COLUMNS, subsequent_indent=" " * later, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


# ---- files ------------------------------------------------------------------------------------


def require_folder(option: str, folder: Path) -> None:
    """Refuse a folder in which no file can be made.

    Raises InputError.
    """
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(option, "is not a folder that can be written", repr(str(folder))[:80],
                         "one that is there")  # fmt: skip


def require_folder_of(option: str, path: Path) -> None:
    """Refuse a file in a folder that is not there.

    Raises InputError.
    """
    if not path.parent.is_dir():
        raise InputError(option, "has no folder to go to", str(path), "one that is there")


def write(path: Path, write_it: Callable[[], object]) -> None:
    """Write a file and say so on standard error.

    Raises InputError with the system's reason if it cannot be written.
    """
    try:
        write_it()
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {error.strerror}") from None
    print(f"prctlmm-lab: {path} written", file=sys.stderr)
