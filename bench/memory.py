"""The memory of a million maps: made, called for real and predicted, in a fresh process."""

from __future__ import annotations

import subprocess
import sys

from bench.measure import HERE, Row

AS_A_SWEEP = """
from prctlmm_lab.experiments.axes import Axis, Sweep
from prctlmm_lab.experiments.sweep import sweep
axes = (Axis(name, "start_brk - 16 * page", "start_brk + 16 * page", 1000)
        for name in ("start_brk", "brk"))
assert sweep(Sweep("a million", *axes)).calls == 1_000_000
"""
AS_ONE_TABLE = """
import numpy
from prctlmm_lab.experiments.columns import ask_kernel, situation_of_all, table_of
from prctlmm_lab.kernel.rules import predict
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
with Specimen() as specimen:
    table = table_of(specimen.current_map(), 1_000_000)
    table["brk"] += numpy.arange(1_000_000, dtype=numpy.uint64)
    predicted = predict(situation_of_all(specimen, table), facts_here(), 1_000_000)
    assert (ask_kernel(specimen, table) == predicted).all()
"""
# Not ru_maxrss, which begins with the memory of the process that was forked (exec_mmap()).
PEAK = """
import re
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def rows() -> list[Row]:
    """Measure a sweep of 1000 by 1000 values, and a million maps in one table."""
    return [
        Row(name, _peak(code), None, "MB", "under 400 MB")
        for name, code in {
            "memory, a sweep of a million": AS_A_SWEEP,
            "memory, a table of a million": AS_ONE_TABLE,
        }.items()
    ]


def _peak(code: str) -> float:
    command = [sys.executable, "-c", code + PEAK]
    done = subprocess.run(
        command, cwd=HERE.parent, capture_output=True, text=True, check=True, timeout=300
    )
    return int(done.stdout) * 1024 / 1e6
