"""prctlmm-lab: the command line.

Exit status 0: as predicted. 1: the kernel and the specification disagree. 2: bad input or a system
that cannot do it, said in one sentence. With --json, standard output holds one JSON document or
one JSON object a line and nothing else; messages go to standard error.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from prctlmm_lab.commands import (
    atlas,
    cheatsheet,
    checkpoint,
    claims,
    compare,
    conformance,
    doctor,
    explain,
    fuzz,
    lab,
    replay,
    restore,
    run,
    schema,
    sweep,
)
from prctlmm_lab.commands.output import BAD_INPUT, FINE, INTERRUPTED, complain
from prctlmm_lab.commands.prerequisites import forbid_recordings
from prctlmm_lab.errors import LabError

COMMANDS = (
    doctor, explain, run, replay, compare, conformance, claims, sweep, fuzz, checkpoint,
    restore, atlas, schema, cheatsheet, lab,
)  # fmt: skip
"""In the order in which --help names them."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)  # scripts depend on whole names

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    status, problem = FINE, None
    forbid_recordings()
    try:
        status = _status(arguments)
    except OSError as error:
        problem = error
    try:
        if sys.stdout is not None:  # the caller may have closed it
            sys.stdout.flush()
    except OSError as error:
        problem = problem or error
        _drop_output()
    if problem is None or isinstance(problem, BrokenPipeError):  # the reader has had enough
        return status
    complain(problem)
    return BAD_INPUT


def _status(arguments: Sequence[str] | None) -> int:
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal that is not UTF-8
        options = _parser().parse_args(arguments)
        status: int = options.command(options)
        return status
    except LabError as error:
        complain(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED


def _drop_output() -> None:
    """Let what is still buffered go nowhere, or Python would complain about it at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _parser() -> argparse.ArgumentParser:
    from prctlmm_lab import __version__

    parser = _Parser(
        prog="prctlmm-lab",
        description="See, predict and prove what prctl(PR_SET_MM, PR_SET_MM_MAP) does.",
        epilog="Exit status 0: as predicted; 1: kernel and specification disagree; 2: bad input.",
    )
    parser.add_argument("--version", action="version", version=f"prctlmm-lab {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
