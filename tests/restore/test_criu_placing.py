"""CRIU's image in a specimen: the kernel accepts its map, and /proc then shows it."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from prctlmm_lab.kernel.difference import difference
from prctlmm_lab.restore.criu.images import CriuMemory, shipped_images
from prctlmm_lab.restore.criu.placing import apply
from prctlmm_lab.restore.restorer import FRAME_ROOM
from prctlmm_lab.specimen.build import BUILDS
from prctlmm_lab.specimen.process import PAGE, Specimen
from tests.needs import needs_user_namespaces, skip_unless

IMAGES = shipped_images()


def started(build: str) -> Specimen:
    return Specimen(build, environment=(FRAME_ROOM,))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("memory", IMAGES, ids=lambda memory: memory.source)
def test_proc_shows_the_map_of_the_image(memory: CriuMemory, build: str) -> None:
    skip_unless(PAGE == 4096, "the image's VMAs are in pages of 4 KiB", impossible=True)
    with started(build) as specimen:
        applied = apply(memory, specimen)
        assert (applied.errno, applied.agreed) == (0, True)
        after = applied.after
        assert after.members == memory.addresses
        assert isinstance(after.auxv, bytes)
        assert after.auxv[: len(memory.vector)] == memory.vector
        (heap,) = after.labelled("[heap]")
        assert (heap.start, heap.end) == (memory.addresses["start_brk"], memory.addresses["brk"])
        stack = memory.vma_at(memory.addresses["start_stack"])
        assert stack is not None
        assert [vma.start for vma in after.labelled("[stack]")] == [stack.start]
        for vma in applied.placed:  # the kernel merges neighbours that are alike
            for address in (vma.start, vma.end - 1):
                found = after.vma_at(address)
                assert found is not None
                assert found.permissions == vma.permissions
        assert len(applied.placed) == sum(not vma.is_kernels for vma in memory.vmas)
        more = memory.addresses["brk"] + PAGE
        assert specimen.brk(more) == more
        assert difference(applied.before, after)


def test_the_specimen_gives_way_where_the_image_wants_its_place() -> None:
    (memory, _) = IMAGES
    with started("static") as specimen:
        own = specimen.snapshot().vmas[1]
        assert "x" in own.permissions, "its code"
        first = replace(memory.vmas[0], start=own.start, end=own.end)
        applied = apply(replace(memory, vmas=(first, *memory.vmas[1:])), specimen)
        assert applied.errno == 0
        found = applied.after.vma_at(own.start)
        assert found is not None
        assert (found.start, found.end, found.path) == (own.start, own.end, "")
        assert found.permissions == first.permissions != own.permissions


def test_a_limit_refuses_it_by_the_rule_that_is_named() -> None:
    (memory, _) = IMAGES
    own = memory.addresses
    need = own["brk"] - own["start_brk"] + own["end_data"] - own["start_data"]
    with started("static") as specimen:
        placed = apply(memory, specimen)
        assert placed.errno == 0
        specimen.set_limit("DATA", need - 1)
        new = placed.memory.map()
        assert specimen.set_map(new) == errno.EINVAL
        specimen.set_limit("DATA", need)
        assert specimen.set_map(new) == 0


def test_the_exe_link_changes_too_where_it_may() -> None:
    needs_user_namespaces()
    with started("static") as specimen:
        specimen.enter_user_namespace()
        program = specimen.memory_file("sh")
        applied = apply(IMAGES[0], specimen, exe_fd=program)
        assert applied.errno == 0
        assert applied.after.exe == "/memfd:sh (deleted)"
