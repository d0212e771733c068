"""Checkpoint and restore of 64 MiB, beside CRIU's and beside a copy of the same bytes.

Side by side with CRIU, both leave and read files in one folder; a process that CRIU dumps is one of
`touched.c`, as large. CRIU writes and maps pages without looking at them, and keeps far more than
we do: descriptors, signals, threads. We keep one process of one page of code.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import Row, alternate, compiled
from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.restore.checkpoint import checkpoint
from prctlmm_lab.restore.criu.running import dump_and_restore_with_criu
from prctlmm_lab.restore.image import Image
from prctlmm_lab.restore.restorer import restore
from prctlmm_lab.specimen.process import Specimen

SIZE, ROUNDS = 64 << 20, 7


def rows() -> list[Row]:
    """Measure in memory beside a copy, and through files beside CRIU where CRIU runs."""
    contents = b"".join(n.to_bytes(4, "little") for n in range(SIZE // 4))
    with Specimen() as specimen:
        specimen.write(specimen.map(SIZE), contents)
        in_memory = alternate(
            lambda: _timed(lambda: restore(checkpoint(specimen)).stop()),
            lambda: _timed(lambda: bytearray(contents)),
            ROUNDS,
        )
        name = "checkpoint and restore, 64 MiB"
        return [Row(f"{name}, beside a copy", *_in_ms(in_memory), "ms", ""),
                _beside_criu(specimen, name)]  # fmt: skip


def _beside_criu(specimen: Specimen, name: str) -> Row:
    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return _timed(lambda: _through(specimen, Path(folder, "image")))

    try:
        dump_and_restore_with_criu([str(compiled("touched")), "4096"])
    except UnsupportedSystem as why:
        print(f"CRIU: {why}")
        alone = statistics.median(ours() for _ in range(ROUNDS))
        return Row(f"{name}, files", alone * 1e3, None, "ms", "CRIU does not run here")
    return Row(f"{name}, beside CRIU", *_in_ms(alternate(ours, _by_criu, ROUNDS)), "ms", "")


def _through(specimen: Specimen, folder: Path) -> None:
    checkpoint(specimen).save(folder)
    restore(Image.load(folder)).stop()


def _by_criu() -> float:
    """Return the seconds that `criu dump` and `criu restore` took."""
    done = dump_and_restore_with_criu([str(compiled("touched")), str(SIZE)])
    return done.seconds


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _in_ms(seconds: tuple[float, float]) -> tuple[float, float]:
    return seconds[0] * 1e3, seconds[1] * 1e3
