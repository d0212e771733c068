"""shmat() in a specimen: where it is allowed, and that nothing stays behind."""

from __future__ import annotations

from pathlib import Path

from prctlmm_lab import Specimen
from prctlmm_lab.experiments.shared_memory import attach_shared_memory
from prctlmm_lab.specimen.process import PAGE
from tests.needs import skip_unless


def segments() -> list[str]:
    path = Path("/proc/sysvipc/shm")
    skip_unless(path.exists(), "the kernel has no System V shared memory", impossible=True)
    return path.read_text().splitlines()


def test_it_is_attached_just_below_start_stack_and_leaves_nothing() -> None:
    before = segments()
    with Specimen() as specimen:
        hole = specimen.map(3 * PAGE)
        specimen.unmap(hole, PAGE)
        new = specimen.current_map().changed(start_stack=hole + PAGE + 8)
        assert specimen.set_map(new) == 0
        maps = specimen.snapshot().maps
        assert attach_shared_memory(specimen, hole) == f"attached at {hole:#x}"
        assert specimen.snapshot().maps == maps
        assert segments() == before


def test_a_refusal_is_told_and_leaves_nothing() -> None:
    before = segments()
    with Specimen() as specimen:
        taken = specimen.map(PAGE)
        assert attach_shared_memory(specimen, taken) == "shmat: EINVAL"
        assert attach_shared_memory(specimen, taken + 1) == "shmat: EINVAL"
        assert segments() == before
