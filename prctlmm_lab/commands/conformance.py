"""prctlmm-lab conformance: this kernel held to the named cases, as KTAP."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prctlmm_lab.commands.output import DISAGREEMENT, FINE

if TYPE_CHECKING:
    from prctlmm_lab.experiments.conformance import CaseResult


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "conformance", help="hold this kernel to the named cases, as KTAP",
        epilog="Example: prctlmm-lab conformance order limit.data",
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help="a subject, a case, or the beginning of cases")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object for each case")
    parser.set_defaults(command=conformance)


def conformance(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    from prctlmm_lab.experiments.conformance import FAIL, cases, conformance, header, ktap
    from prctlmm_lab.experiments.record import plain
    from prctlmm_lab.specimen.probe import facts_here

    groups = cases(options.names)
    heading = header(facts_here(), os.geteuid(), groups)
    failed = False

    def results() -> Iterator[CaseResult]:
        nonlocal failed
        for told in conformance(groups):
            failed |= told.result == FAIL
            yield told

    if options.json:
        lines: Iterator[str] = (json.dumps(plain(told)) for told in results())
    else:
        lines = ktap(groups, results(), heading)
    for line in lines:
        print(line, flush=True)
    return DISAGREEMENT if failed else FINE
