"""Effects: what is predicted to be shown, against what the kernel shows, and by hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from prctlmm_lab.kernel import effects
from prctlmm_lab.kernel.abi import U64, PrctlMmMap
from prctlmm_lab.kernel.difference import difference
from prctlmm_lab.kernel.effects import (
    EFFECT,
    EFFECTS,
    UNKNOWN,
    Memory,
    brk_after,
    code_size,
    disagreements,
    labelled,
    shown_after,
)
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.situation import memory_of
from tests.needs import needs_user_namespaces
from tests.views.address_spaces import FACTS, vma


@dataclass
class Ground:
    """A specimen with memory of every kind at hand."""

    specimen: Specimen
    arena: int
    """Four pages of text; behind them one that cannot be read, then nothing of ours."""
    shared: int
    growing: int
    """A page that grows down; the megabytes below it are free."""

    @property
    def own(self) -> PrctlMmMap:
        return self.specimen.current_map()


@pytest.fixture(params=["static", "static-pie"])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with Specimen(request.param, arguments=[b"specimen", b"two"]) as specimen:
        arena = specimen.map(5 * PAGE)
        specimen.write(arena, (b"text-" * 4 * PAGE)[: 4 * PAGE])
        specimen.write(arena + 100, b"\0")
        specimen.protect(arena + 4 * PAGE, PAGE, "---")
        shared = specimen.map(PAGE, shared=True)
        room = specimen.map(1024 * PAGE)
        specimen.unmap(room, 1024 * PAGE)
        growing = specimen.map(PAGE, at=room + 1023 * PAGE, grows_down=True)
        yield Ground(specimen, arena, shared, growing)


def accepted(ground: Ground, **members: int) -> tuple[Snapshot, Snapshot]:
    """Make the call; return what was predicted and what is shown, which must be the same."""
    specimen = ground.specimen
    before, new = specimen.snapshot(), ground.own.changed(**members)
    predicted = shown_after(before, new, memory_of(specimen, new, before), facts_here())
    assert specimen.set_map(new) == 0
    after = specimen.snapshot()
    assert disagreements(predicted, after) == ()
    return predicted, after


Members = Callable[[Ground], dict[str, int]]

MAPS: dict[str, Members] = {
    "nothing": lambda g: {},
    "code": lambda g: {"start_code": g.own.start_code + 1, "end_code": g.own.end_code + PAGE},
    "code of one byte": lambda g: {"end_code": g.own.start_code + 1},
    "code of a terabyte": lambda g: {"start_code": 1 << 30, "end_code": (1 << 30) + (1 << 40)},
    "data": lambda g: {"start_data": g.own.start_data - 5},
    "heap over all": lambda g: {"start_brk": 1 << 16, "brk": g.arena + 3 * PAGE},
    "heap in one page": lambda g: {"start_brk": g.arena + 1, "brk": g.arena + 1},
    "heap at an edge": lambda g: {"start_brk": g.arena, "brk": g.arena},
    "heap of one byte at an edge": lambda g: {
        "start_brk": g.arena + 4 * PAGE - 1, "brk": g.arena + 4 * PAGE,
    },
    "heap up to an edge": lambda g: {"start_brk": g.arena - 1, "brk": g.arena},
    "heap on a file": lambda g: {"start_brk": g.own.start_data, "brk": g.own.end_data},
    "stack in memory": lambda g: {"start_stack": g.arena + 1},
    "stack between two": lambda g: {"start_stack": g.arena + 4 * PAGE},
    "stack on a file": lambda g: {"start_stack": g.own.start_code},
    "stack nowhere": lambda g: {"start_stack": 1 << 16},
    "stack in the heap": lambda g: {"start_stack": g.own.brk - 1},
    "arguments": lambda g: {"arg_start": g.arena, "arg_end": g.arena + 101},
    "a title": lambda g: {"arg_start": g.arena, "arg_end": g.arena + 50},
    "a title that runs on": lambda g: {
        "arg_start": g.arena, "arg_end": g.arena + 50, "env_start": g.arena + 50,
        "env_end": g.arena + 400,
    },
    "a title that does not run on": lambda g: {
        "arg_start": g.arena, "arg_end": g.arena + 50, "env_start": g.arena + 51,
        "env_end": g.arena + 400,
    },
    "a title of a page": lambda g: {
        "arg_start": g.arena + 200, "arg_end": g.arena + 3 * PAGE,
    },
    "a title whose start is no memory": lambda g: {
        "arg_start": g.arena - (1 << 30), "arg_end": g.arena + 50,
    },
    "arguments into a closed page": lambda g: {
        "arg_start": g.arena, "arg_end": g.arena + 5 * PAGE,
    },
    "no arguments": lambda g: {"arg_start": g.arena, "arg_end": g.arena},
    "arguments of a file": lambda g: {"arg_start": g.own.start_data, "arg_end": g.own.end_data},
    "arguments in shared memory": lambda g: {"arg_start": g.shared, "arg_end": g.shared + 9},
    "environment": lambda g: {"env_start": g.arena + 7, "env_end": g.arena + 3 * PAGE},
    "environment into a closed page": lambda g: {
        "env_start": g.arena, "env_end": g.arena + 4 * PAGE + 1,
    },
    "environment up to a closed page": lambda g: {
        "env_start": g.arena, "env_end": g.arena + 4 * PAGE,
    },
    "no vector": lambda g: {"auxv": g.arena, "auxv_size": 0},
    "vector without end": lambda g: {"auxv": g.arena + 1, "auxv_size": facts_here().auxv_capacity},
    "vector of 21 bytes": lambda g: {"auxv": g.arena + 1, "auxv_size": 21},
    "arguments below what grows": lambda g: {
        "arg_start": g.growing - 3 * PAGE, "arg_end": g.growing + 5,
    },
    "environment below what grows": lambda g: {
        "env_start": g.growing - PAGE, "env_end": g.growing,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", MAPS)
def test_what_is_shown_is_what_was_predicted(ground: Ground, kind: str) -> None:
    accepted(ground, **MAPS[kind](ground))
    accepted(ground)  # reading may have grown the stack: that is not lost


def test_a_call_changes_what_it_is_said_to_change(ground: Ground) -> None:
    before = ground.specimen.snapshot()
    predicted, _ = accepted(ground, arg_start=ground.arena, arg_end=ground.arena + 101)
    changes = {(c.place, c.name): c.after for c in difference(before, predicted)}
    assert set(changes) == {("stat", "arg_start"), ("stat", "arg_end"), ("cmdline", "")}
    assert changes["cmdline", ""] == ground.specimen.read(ground.arena, 101)


def test_reading_below_the_stack_grows_it(ground: Ground) -> None:
    _, after = accepted(ground, arg_start=ground.growing - 3 * PAGE, arg_end=ground.growing + 5)
    assert after.cmdline == bytes(3 * PAGE + 5)
    assert after.vma_at(ground.growing - 3 * PAGE) is None  # maps was read before
    _, later = accepted(ground)
    assert later.vma_at(ground.growing - 3 * PAGE) is not None
    assert later.vma_at(ground.growing - 3 * PAGE - 1) is None


def over_a_gap(ground: Ground) -> dict[str, int]:
    """Return a title that runs on from a page into the gap below another, both growing down."""
    specimen, end = ground.specimen, ground.growing - 8 * PAGE
    specimen.map(PAGE, at=end - PAGE, grows_down=True)
    specimen.write(end - 100, b"x" * 100)
    return {"arg_start": end - 100, "arg_end": end - 10, "env_start": end - 10, "env_end": end + 50}


def test_a_title_over_the_gap_below_a_stack(ground: Ground) -> None:
    """The environment begins in memory too; its second read begins in the gap, everywhere."""
    _, after = accepted(ground, **over_a_gap(ground))
    grows = facts_here().crossing_read_grows
    assert after.cmdline == b"x" * 100 + bytes(1) * grows
    assert after.environ == b"x" * 10 + bytes(50)
    _, later = accepted(ground)
    assert later.vma_at(ground.growing - 8 * PAGE) is not None


@pytest.mark.parametrize(("grows", "shown"), [(True, 101), (False, 100)])
def test_where_a_read_that_crosses_does_not_grow_the_stack(
    ground: Ground, grows: bool, shown: int
) -> None:
    specimen, new = ground.specimen, ground.own.changed(**over_a_gap(ground))
    before, facts = specimen.snapshot(), replace(facts_here(), crossing_read_grows=grows)
    memory = memory_of(specimen, new, before)
    told = shown_after(before, new, memory, facts)
    assert told.cmdline == (b"x" * 100 + bytes(1))[:shown]
    assert told.environ == b"x" * 10 + bytes(50)
    # Arguments that end in a zero byte are read on, part by part, and grow it all the same.
    arguments = new.changed(arg_end=new.env_end, env_start=new.env_end)
    told = shown_after(before, arguments, memory_of(specimen, arguments, before), facts)
    assert told.cmdline == b"x" * 100 + bytes(50)


def test_a_new_exe_link_is_predicted(ground: Ground) -> None:
    specimen = ground.specimen
    needs_user_namespaces()
    specimen.enter_user_namespace()
    specimen.release_executable()
    descriptor = specimen.memory_file("ghost")
    _, after = accepted(ground, exe_fd=descriptor)
    assert after.exe == "/memfd:ghost (deleted)"
    assert os.readlink(f"/proc/{specimen.pid}/exe") == after.exe


def test_the_specimens_own_words_are_unknown(ground: Ground) -> None:
    start, end = ground.specimen.own_memory
    predicted, after = accepted(ground, arg_start=start - 8, arg_end=end)
    assert predicted.cmdline is UNKNOWN
    assert "unknown" in {str(c.after) for c in difference(after, predicted)}


def test_a_wrong_prediction_is_noticed(ground: Ground) -> None:
    predicted, after = accepted(ground)
    for wrong in (
        replace(predicted, cmdline=b"other"),
        replace(predicted, maps=predicted.vmas[:-1]),
        replace(predicted, brk=0),
        replace(predicted, statm={**after.statm, "text": 99}),  # type: ignore[dict-item]
    ):
        assert len(disagreements(wrong, after)) == 1


def test_what_cannot_be_read_is_not_predicted(ground: Ground) -> None:
    before = replace(ground.specimen.snapshot(), environ=Unreadable("environ", 13))
    shown = shown_after(before, ground.own.changed(env_end=ground.own.env_start), Memory(), FACTS)
    assert shown.environ == Unreadable("environ", 13)


# ---- brk() ------------------------------------------------------------------------------------


def moved(ground: Ground, request: int) -> int:
    """Ask for a new brk; return the answer, which must be the predicted one, as the VMAs."""
    specimen = ground.specimen
    before = specimen.snapshot()
    memory = memory_of(specimen, ground.own, before)
    answer, vmas = brk_after(before, request, memory, facts_here())
    assert specimen.brk(request) == answer
    assert specimen.snapshot().maps == vmas
    return answer


@pytest.mark.parametrize("distance", [-4 * PAGE, -PAGE - 1, -1, 0, 1, PAGE - 1, PAGE + 1, 1 << 46])
def test_the_heap_moves_as_predicted(ground: Ground, distance: int) -> None:
    moved(ground, ground.own.brk + distance)


def test_a_heap_elsewhere_moves_as_predicted(ground: Ground) -> None:
    hole = ground.specimen.map(64 * PAGE)
    ground.specimen.unmap(hole, 64 * PAGE)
    accepted(ground, start_brk=hole + PAGE, brk=hole + PAGE)
    for request in (hole, hole + PAGE, hole + 9 * PAGE, hole + 2 * PAGE + 3, hole + PAGE, 1):
        moved(ground, request)
    accepted(ground, start_brk=hole + 8 * PAGE, brk=hole + 12 * PAGE)
    assert moved(ground, hole + 8 * PAGE) == (
        hole + 8 * PAGE if facts_here().hole_shrinks else hole + 12 * PAGE
    )


def test_brk_unmaps_what_is_not_its_own_and_joins_what_is(ground: Ground) -> None:
    accepted(ground, start_brk=ground.arena, brk=ground.arena + 2 * PAGE)
    assert moved(ground, ground.arena + PAGE) == ground.arena + PAGE
    assert moved(ground, ground.arena + PAGE + 1) == ground.arena + PAGE  # no room below the rest
    room = ground.specimen.map(8 * PAGE)
    ground.specimen.unmap(room + PAGE, 7 * PAGE)
    accepted(ground, start_brk=room + PAGE, brk=room + PAGE)
    # The old VMA ends where the heap starts: up to v6.0 it is extended.
    moved(ground, room + 2 * PAGE)
    vma = ground.specimen.snapshot().vma_at(room + PAGE)
    assert vma is not None
    assert (vma.start == room) == facts_here().hole_shrinks
    accepted(ground, start_brk=room, brk=room + 2 * PAGE)
    moved(ground, room + 3 * PAGE)


def test_a_limit_stops_the_heap_to_the_byte(ground: Ground) -> None:
    own = ground.own
    accepted(ground, start_data=own.end_data - (1 << 21))  # else what is mapped counts first
    ground.specimen.set_limit("DATA", (1 << 21) + (own.brk - own.start_brk) + 100)
    assert moved(ground, own.brk + 100) == own.brk + 100
    assert moved(ground, own.brk + 101) == own.brk + 100


def test_a_snapshot_without_brk_tells_no_heap(ground: Ground) -> None:
    before = replace(ground.specimen.snapshot(), brk=None)
    with pytest.raises(ValueError, match="lacks stat, maps or brk"):
        brk_after(before, 0, Memory(), FACTS)


# ---- other kernels, by hand -------------------------------------------------------------------

NEIGHBOURS = (vma(0x20000, 0x21000), vma(0x21000, 0x22000), vma(0x22000, 0x23000))


def names(new: PrctlMmMap, touching: bool) -> list[str]:
    facts = replace(FACTS, touching_heap_labelled=touching)
    return [area.label for area in labelled(NEIGHBOURS, new, facts)]


def test_before_v6_7_a_touching_vma_is_heap_too() -> None:
    middle = PrctlMmMap(start_brk=0x21000, brk=0x22000, start_stack=0x50000)
    assert names(middle, touching=True) == ["[heap]"] * 3
    assert names(middle, touching=False) == ["", "[heap]", ""]
    empty = PrctlMmMap(start_brk=0x22000, brk=0x22000, start_stack=0x50000)
    assert names(empty, touching=True) == ["", "[heap]", "[heap]"]
    assert names(empty, touching=False) == ["", "", ""]


def test_code_touches_whole_pages() -> None:
    sizes = {(0x10000, 0x10001): 1, (0x10FFF, 0x11001): 2, (0x10000, 0x11000): 1}
    for (start, end), pages in sizes.items():
        new = PrctlMmMap(start_code=start, end_code=end)
        assert code_size(new, FACTS) == pages * PAGE


def test_each_effect_has_one_name() -> None:
    assert len(EFFECT) == len(EFFECTS) == 15


def test_before_v6_1_an_empty_heap_extends_what_ends_there() -> None:
    own = PrctlMmMap(start_brk=0x21000, brk=0x21000, start_stack=0x50000)
    below = vma(0x20000, 0x21000)
    for joins, count in ((True, 1), (False, 2)):
        facts = replace(FACTS, hole_shrinks=joins)
        moved_to = effects._moved([below], own, 0x22000, Memory(), facts, U64)
        assert moved_to is not None
        assert len(moved_to) == count
        assert (moved_to[0].start, moved_to[-1].end) == (0x20000, 0x22000)
