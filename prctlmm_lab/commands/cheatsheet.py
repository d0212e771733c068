"""prctlmm-lab cheatsheet: what the lab knows of the call, on one page of A4."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prctlmm_lab.commands.output import FINE, write
from prctlmm_lab.commands.prerequisites import require_picture


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "cheatsheet", help="write members, checks and changes on one page of A4",
        epilog="Example: prctlmm-lab cheatsheet cheatsheet.pdf",
    )  # fmt: skip
    parser.add_argument("file", type=Path, metavar="FILE", help="a PDF, or an SVG or PNG")
    parser.set_defaults(command=cheatsheet)


def cheatsheet(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    require_picture(options.file, "FILE")
    from prctlmm_lab.views.cheatsheet import cheat_sheet
    from prctlmm_lab.views.pictures import save

    write(options.file, lambda: save(cheat_sheet(), options.file))
    return FINE
