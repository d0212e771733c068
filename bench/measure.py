"""What all measures share: a row of the table, chunks that alternate, and the yardsticks in C.

Two things are compared by running them in turns, chunk by chunk: a busy machine slows both. What
counts is the ratio of their medians, not the time.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
_FOLDERS: list[TemporaryDirectory[str]] = []


class Missing(Exception):
    """Something that a measure needs is not installed; the message is one sentence."""


@dataclass(frozen=True)
class Row:
    """One line of the table: two quantities in the same unit, and what is wanted of their ratio."""

    name: str
    ours: float
    yardstick: float | None
    """None where a bound is wanted of our figure alone."""
    unit: str
    wanted: str

    @property
    def ratio(self) -> float | None:
        """Ours over the yardstick."""
        return None if self.yardstick is None else self.ours / self.yardstick


def alternate(
    ours: Callable[[], float], theirs: Callable[[], float], rounds: int
) -> tuple[float, float]:
    """Take two measurements in turns, the first of each for warming up; return their medians."""
    pairs = [(theirs(), ours()) for _ in range(rounds + 1)][1:]
    return statistics.median(pair[1] for pair in pairs), statistics.median(p[0] for p in pairs)


@cache
def compiled(name: str) -> Path:
    """Return the program made of a C file beside this module.

    Raises Missing without a C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise Missing("a C compiler is needed for the yardsticks; install the package gcc")
    _FOLDERS.append(TemporaryDirectory())  # it lives as long as we do
    program = Path(_FOLDERS[-1].name, name)
    command: list[str | Path] = [compiler, "-O2", "-o", program, HERE / f"{name}.c"]
    subprocess.run(command, check=True, timeout=60)
    return program


def in_c(name: str, *arguments: str) -> float:
    """Run a yardstick; return the nanoseconds that it prints."""
    command: list[str | Path] = [compiled(name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return float(done.stdout)
