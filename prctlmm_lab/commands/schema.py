"""prctlmm-lab schema: what a line of a logbook looks like, as JSON schema."""

from __future__ import annotations

import argparse
import json
from typing import Any

from prctlmm_lab.commands.output import FINE
from prctlmm_lab.commands.prerequisites import require_package


def add(commands: Any) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "schema", help="print the JSON schema of a logbook's lines",
        epilog="Example: prctlmm-lab schema > schema.json",
    )  # fmt: skip
    parser.set_defaults(command=schema)


def schema(_options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    require_package("pydantic")
    from prctlmm_lab.experiments.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return FINE
