"""The prediction of a million verdicts, beside the kernel's own answers to the same million."""

from __future__ import annotations

import time

import numpy as np

from bench.measure import Row, alternate
from prctlmm_lab.experiments.columns import ask_kernel, situation_of_all, table_of
from prctlmm_lab.kernel.abi import ADDRESSES
from prctlmm_lab.kernel.rules import predict
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen

COUNT, ROUNDS = 1_000_000, 7


def rows() -> list[Row]:
    """Measure maps whose members are shifted by chance: some are accepted, most rules decide."""
    facts, chance = facts_here(), np.random.default_rng(1)
    with Specimen() as specimen:
        table = table_of(specimen.current_map(), COUNT)
        for name in ADDRESSES:
            shift = chance.integers(-2 * PAGE, 2 * PAGE, COUNT).astype(np.uint64)
            table[name] += np.where(chance.random(COUNT) < 0.1, shift, np.uint64(0))
        specimen.set_limit("DATA", min(8 * PAGE, specimen.limit("DATA")[1]))
        situation = situation_of_all(specimen, table)
        assert (predict(situation, facts, COUNT) == ask_kernel(specimen, table)).all()

        def ours() -> float:
            started = time.perf_counter()
            predict(situation, facts, COUNT)
            return COUNT / (time.perf_counter() - started) / 1e6

        def theirs() -> float:
            started = time.perf_counter()
            ask_kernel(specimen, table)
            return COUNT / (time.perf_counter() - started) / 1e6

        return [
            Row("prediction", *alternate(ours, theirs, ROUNDS), "M/s", "at least 10"),
        ]
