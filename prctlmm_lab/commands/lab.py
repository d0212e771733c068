"""prctlmm-lab lab: JupyterLab on the first notebook."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from prctlmm_lab.commands.output import FINE
from prctlmm_lab.commands.prerequisites import require_package
from prctlmm_lab.errors import InputError


def add(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser("lab", help="open JupyterLab on the first notebook")
    parser.set_defaults(command=lab)


def lab(_options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    import subprocess

    first = next(iter(sorted(Path("notebooks").glob("00-*.ipynb"))), None)
    if first is None:
        raise InputError("lab", "there is no notebooks/00-... here", "", "the project's folder")
    require_package("jupyterlab")
    command = [sys.executable, "-m", "jupyterlab", str(first)]
    if os.geteuid() == 0:  # as in most containers; JupyterLab wants it said
        command.append("--allow-root")
    try:
        return subprocess.run(command).returncode
    except KeyboardInterrupt:
        return FINE
