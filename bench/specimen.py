"""A fresh specimen with a call and a snapshot, beside fork + prctl + the same reads in C."""

from __future__ import annotations

import time

from bench.measure import Row, alternate, in_c
from prctlmm_lab.specimen.process import Specimen

CHUNK, ROUNDS = 40, 61


def rows() -> list[Row]:
    """Measure with the nine reads of a snapshot, and with smaps as the tenth."""
    return [
        _row("specimen, call, snapshot", smaps=False),
        _row("specimen, call, full snapshot", smaps=True),
    ]


def _row(name: str, *, smaps: bool) -> Row:
    def round_trip() -> None:
        with Specimen() as specimen:
            assert specimen.set_map(specimen.current_map()) == 0
            specimen.snapshot(smaps=smaps)

    def ours() -> float:
        round_trip()  # as the yardstick: what ran before has emptied the caches
        started = time.perf_counter()
        for _ in range(CHUNK):
            round_trip()
        return (time.perf_counter() - started) / CHUNK * 1e3

    def theirs() -> float:
        return in_c("fork_and_read", str(CHUNK), *["smaps"] * smaps) / 1e6

    return Row(name, *alternate(ours, theirs, ROUNDS), "ms", "at most 1.1")
