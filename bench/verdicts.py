"""A batch of a million real verdicts, beside the same loop in C."""

from __future__ import annotations

import time

from bench.measure import Row, alternate, in_c
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.specimen.process import PAGE, Specimen

COUNT, ROUNDS = 1_000_000, 7


def rows() -> list[Row]:
    """Measure maps that are accepted, refused by the first check, and with a vector."""
    with Specimen() as specimen:
        own, vector = specimen.current_map(), specimen.snapshot().auxv
        assert isinstance(vector, bytes)
        place = specimen.map(PAGE)
        specimen.write(place, vector)
        with_vector = own.changed(auxv=place, auxv_size=len(vector))
        return [
            _row(specimen, "accepted", own, "valid"),
            _row(specimen, "refused at once", own.changed(start_code=0), "refused"),
            _row(specimen, "with a vector", with_vector, "auxv"),
        ]


def _row(specimen: Specimen, what: str, new: PrctlMmMap, kind: str) -> Row:
    maps = new.pack() * COUNT

    def ours() -> float:
        started = time.perf_counter()
        specimen.set_maps(maps)
        return COUNT / (time.perf_counter() - started) / 1e6

    def theirs() -> float:
        return COUNT * 1e3 / in_c("verdicts", kind, str(COUNT))

    return Row(f"verdicts, {what}", *alternate(ours, theirs, ROUNDS), "M/s", "at least 0.95")
