"""Time a fresh specimen with a call and a snapshot, beside fork + prctl + the same reads in C.

Chunks of both alternate in one run; the ratio of their medians is what counts. Needs a C compiler.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prctlmm_lab import PrctlMmMap, Specimen

ROUNDS, CHUNK = 21, 60


def time_specimens() -> float:
    """Return seconds for one specimen: start, call, snapshot, end."""
    started = time.perf_counter()
    for _ in range(CHUNK):
        with Specimen() as specimen:
            assert specimen.set_map(specimen.current_map()) == 0
            specimen.snapshot()
    return (time.perf_counter() - started) / CHUNK


def time_batch() -> float:
    """Return the calls a second of one batch of 200,000 maps."""
    with Specimen() as specimen:
        maps = specimen.current_map().pack() * 200_000
        started = time.perf_counter()
        specimen.set_maps(maps)
        return 200_000 / (time.perf_counter() - started)


def main() -> int:
    """Print medians in milliseconds and their ratio."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("specimen_start: a C compiler (cc) is needed", file=sys.stderr)
        return 2
    assert len(PrctlMmMap().pack()) == 104
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "fork_and_read")
        source = Path(__file__).with_name("fork_and_read.c")
        subprocess.run([compiler, "-O2", "-o", program, source], check=True, timeout=60)
        ours, theirs = [], []
        for _ in range(ROUNDS):
            run = subprocess.run([program, str(CHUNK)], capture_output=True, check=True, timeout=60)
            theirs.append(int(run.stdout) / 1e6)
            ours.append(time_specimens() * 1e3)
    mine, yardstick = statistics.median(ours), statistics.median(theirs)
    print(f"fork + prctl + reads in C   {yardstick:.3f} ms")
    print(f"specimen, call, snapshot    {mine:.3f} ms   ratio {mine / yardstick:.2f}")
    calls = statistics.median(time_batch() for _ in range(5)) / 1e6
    print(f"batch of real calls         {calls:.2f} million a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
