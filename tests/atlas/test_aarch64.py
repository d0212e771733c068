"""The specimen of the second architecture, on a real kernel for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from prctlmm_lab.atlas.images import AARCH64, images
from prctlmm_lab.atlas.kernels import Kernel
from prctlmm_lab.atlas.pythons import interpreter_for
from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.experiments.experiment import Experiment
from prctlmm_lab.experiments.steps import Brk, Map, Unmap
from tests.needs import needs_tool, skip_unless


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """Give the newest kept kernel for 64-bit Arm, warm."""
    needs_tool("qemu-system-aarch64")
    kept = images(machine=AARCH64)
    reason = "no kernel is kept: prctlmm-lab atlas fetch --machine aarch64"
    skip_unless(kept, reason, impossible=True)
    try:
        interpreter_for(AARCH64)
    except UnsupportedSystem as error:
        skip_unless(False, str(error), impossible=True)
    with Kernel(kept[-1], memory=1024) as started:
        yield started


def test_its_facts_come_from_probing(kernel: Kernel) -> None:
    facts = kernel.facts()
    assert (facts.machine, facts.available, facts.map_size) == ("aarch64", True, 104)
    assert facts.page_size in (1 << 12, 1 << 14, 1 << 16)
    assert facts.highest + 1 in (1 << 47, 1 << 48, 1 << 52)
    assert facts.assumed == ()


@pytest.mark.parametrize("who", ["root", "user"])
def test_every_case_that_is_chosen_passes(kernel: Kernel, who: str) -> None:
    told = kernel.conformance(["call", "order", "auxv", "brk", "static-pie"], who=who)
    assert [case for case in told if case.result not in ("pass", "skip")] == []
    assert Counter(case.result for case in told)["pass"] > 20


def test_model_and_kernel_agree_on_verdicts(kernel: Kernel) -> None:
    tally = kernel.fuzz(3000, seed=1)
    assert tally.disagreements == 0
    assert tally.calls >= 3000


def test_model_and_kernel_agree_on_effects(kernel: Kernel) -> None:
    tally = kernel.fuzz(60, seed=7, effects=True)
    assert tally.disagreements == 0


def test_memory_of_brk_joins_that_of_mmap_as_the_facts_say(kernel: Kernel) -> None:
    """Let the heap be a mapping, and grow: one area after it, or two."""
    experiment = Experiment(
        "heap-of-mmap",
        setup=(
            Map("mapping", "4*page"),
            Unmap("mapping.start + page", "3*page"),
        ),
        change={"start_brk": "mapping.start", "brk": "mapping.start + page"},
        after=(Brk("brk + page"),),
    )
    record = kernel.run(experiment)
    start = int(record.map["start_brk"], 16)
    later = [place for where, place, _, now in record.later if where == "maps" and now != "(none)"]
    grew = f"{start:#x}-{start + 2 * kernel.facts().page_size:#x}"
    assert (grew in later) == kernel.facts().mapped_memory_joins
