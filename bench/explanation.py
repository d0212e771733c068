"""The explanation of one map: every rule with its numbers."""

from __future__ import annotations

import statistics
import timeit

from bench.measure import Row
from prctlmm_lab.kernel.rules import explain
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.situation import situation_of

CALLS, ROUNDS = 500, 15


def rows() -> list[Row]:
    """Measure a map that is accepted and one that breaks several rules."""
    facts = facts_here()
    with Specimen() as specimen:
        own = specimen.current_map()
        maps = {"accepted": own, "refused": own.changed(start_code=0, brk=0, auxv_size=16)}
        situations = {what: situation_of(specimen, new) for what, new in maps.items()}
    found = []
    for what, situation in situations.items():
        timer = timeit.Timer(lambda situation=situation: explain(situation, facts))  # type: ignore[misc]
        seconds = statistics.median(timer.repeat(ROUNDS, CALLS)) / CALLS
        found.append(Row(f"explain, {what}", seconds * 1e3, None, "ms", "under 0.2 ms"))
    return found
