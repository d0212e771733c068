"""Importing the package in a fresh interpreter, beside an interpreter that does nothing."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.measure import HERE, Row, alternate

ROUNDS = 15
CODES = {
    "import prctlmm_lab": "import prctlmm_lab",
    "import with a specimen's parts": "from prctlmm_lab import Specimen, explain, read_snapshot",
}


def rows() -> list[Row]:
    """Measure the package alone, and with the names that most begin with."""
    return [
        Row(
            name,
            *alternate(lambda code=code: _run(code), lambda: _run("pass"), ROUNDS),  # type: ignore[misc]
            "s",
            "under 0.15 s",
        )
        for name, code in CODES.items()
    ]


def _run(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, check=True, timeout=60)
    return time.perf_counter() - started
