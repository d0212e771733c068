"""prctlmm-lab doctor: what works on this kernel, and the remedy."""

from __future__ import annotations

import argparse
import json
from typing import Any

from prctlmm_lab.commands.output import BAD_INPUT, FINE, add_json, wrapped


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser("doctor", help="what works on this kernel, and the remedy")
    parser.add_argument("--brief", action="store_true", help="a few lines")
    add_json(parser)
    parser.set_defaults(command=doctor)


def doctor(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    from prctlmm_lab.experiments.record import plain
    from prctlmm_lab.specimen.probe import doctor

    diagnosis = doctor()
    if options.json:
        print(json.dumps(plain(diagnosis) | {"healthy": diagnosis.healthy}, indent=2))
        return FINE if diagnosis.healthy else BAD_INPUT
    for line in diagnosis.text(brief=options.brief).splitlines():
        print(wrapped(line, later=32))
    return FINE if diagnosis.healthy else BAD_INPUT
