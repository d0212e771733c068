"""Measure the lab: `python -m bench [--json FILE] [NAME ...]`, from the top folder.

Without names it measures everything but the latency and the classroom. Prints a table; nothing is
judged.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from bench.measure import Missing, Row
from prctlmm_lab.errors import LabError

NAMES = {
    "verdicts": "bench.verdicts",
    "prediction": "bench.prediction",
    "specimen": "bench.specimen",
    "explanation": "bench.explanation",
    "logbook": "bench.logbook",
    "import": "bench.importing",
    "restore": "bench.restore",
    "memory": "bench.memory",
    "latency": "bench.explorer_latency",
    "classroom": "bench.classroom",
}
UNLESS_NAMED = {"latency", "classroom"}
"""What needs a browser, or the machine for itself, runs only when it is named."""


def main() -> int:
    """Run the measures that are named, or all; 2 if something they need is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the lab.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    for name in options.names:
        if name not in NAMES:
            parser.error(f"{name!r} is no measure; expected one of {', '.join(NAMES)}")
    names = options.names or [name for name in NAMES if name not in UNLESS_NAMED]
    rows: list[Row] = []
    try:
        for name in names:
            found: list[Row] = import_module(NAMES[name]).rows()
            if not rows:
                print(_line("", "ours", "yardstick", "ratio", "wanted"))
            rows += found
            print(*map(_text, found), sep="\n", flush=True)
        if options.json:
            options.json.write_text(json.dumps(_document(rows), indent=2) + "\n")
    except (Missing, LabError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


def _text(row: Row) -> str:
    yardstick = "" if row.yardstick is None else f"{row.yardstick:.3g} {row.unit}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return _line(row.name, f"{row.ours:.3g} {row.unit}", yardstick, ratio, row.wanted)


def _line(name: str, ours: str, yardstick: str, ratio: str, wanted: str) -> str:
    return f"{name:34} {ours:>12} {yardstick:>12} {ratio:>7}  {wanted}".rstrip()


def _document(rows: Iterable[Row]) -> dict[str, object]:
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": [asdict(row) | {"ratio": row.ratio} for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
