"""Random maps, biased towards every boundary: what a specimen's call is tried with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from prctlmm_lab.experiments.columns import Table, table_of
from prctlmm_lab.experiments.steps import Bench
from prctlmm_lab.kernel.abi import ADDRESSES, U32, U64, PrctlMmMap
from prctlmm_lab.kernel.effects import STACK_GUARD_PAGES, Memory, is_data
from prctlmm_lab.kernel.procfs import READ_SIZE, Snapshot
from prctlmm_lab.specimen.situation import grows_down, stack_limit_of_reader
from prctlmm_lab.specimen.spawn import CHANNEL

Words = NDArray[np.uint64]

PARTNERS = {
    "start_code": "end_code", "start_data": "end_data", "start_brk": "brk",
    "arg_start": "arg_end", "env_start": "env_end", "start_stack": "brk",
}  # fmt: skip
"""Members that are compared with each other, or that meet in what is shown."""


def _words(numbers: Any) -> Words:
    return np.array([number & U64 for number in numbers], np.uint64)


@dataclass(frozen=True)
class Landmarks:
    """The numbers near which something is decided, on one bench."""

    own: PrctlMmMap
    addresses: Words
    """Bounds, members, the borders of VMAs."""
    steps: Words
    """Small distances, as unsigned words that wrap."""
    vectors: Words
    """Rows of auxv and auxv_size."""
    descriptors: Words
    growing: tuple[tuple[int, int], ...]
    """End and first start of each VMA that grows down."""
    lowest: int
    highest: int
    page: int
    """Bytes of a page."""


def landmarks(bench: Bench) -> Landmarks:
    """Look where the boundaries are on a bench."""
    facts, page = bench.facts, bench.facts.page_size
    own = bench.specimen.current_map()
    vmas = bench.specimen.snapshot().vmas
    borders = [border for vma in vmas for border in (vma.start, vma.end)]
    bounds = [0, facts.lowest, facts.highest, facts.highest + 1, 1 << 32, 1 << 63, U64]
    near = [0, 1, 2, 7, 8, page - 1, page, page + 1, 3 * page]
    vectors, last = bench.regions["vectors"][0], bench.regions["arena"][1] - page
    pointers = [0, 1, vectors, vectors + 3, vectors + 1024, last - facts.auxv_capacity,
                last - 16, last - 15, last - 1, last, bench.regions["closed"][0],
                1 << 63, U64 - 15, U64]  # fmt: skip
    capacity = facts.auxv_capacity
    growing = grows_down(bench.specimen)
    sizes = [1, 8, 15, 16, 17, 21, 32, capacity - 16, capacity - 1, capacity, capacity + 1,
             capacity + page, U32]  # fmt: skip
    return Landmarks(
        own=own,
        addresses=_words([*bounds, *(own_value for _, own_value in own), *borders]),
        steps=_words([0, 0, *near, *(-distance for distance in near)]),
        vectors=np.array([*product(pointers, sizes)], np.uint64),
        descriptors=_words([*bench.descriptors.values(), CHANNEL, 0, 1 << 31, U32 - 1, U32]),
        growing=tuple((v.end, v.start) for v in vmas if v.end in growing),
        lowest=facts.lowest,
        highest=facts.highest,
        page=page,
    )


def random_maps(marks: Landmarks, limit: int, count: int, rng: Generator) -> Table:
    """Return maps, most of them a few changes away from one that is accepted.

    `limit` is RLIMIT_DATA: a part of the maps needs about as much.
    """
    table = table_of(marks.own, count)
    _empty_some(table, rng)
    eagerness = rng.choice([0.06, 0.2, 1.0], count, p=[0.6, 0.25, 0.15])
    for member in rng.permutation(ADDRESSES):
        rows = np.flatnonzero(rng.random(count, np.float32) < eagerness)
        table[member][rows] = _values(marks, table, member, rows, rng)
    _meet_limit(table, limit, marks, rng)
    _meet_bounds(table, marks, rng)
    _ask_for_vectors(table, marks, rng)
    rows = np.flatnonzero(rng.random(count, np.float32) < 0.15)
    table["exe_fd"][rows] = rng.choice(marks.descriptors, rows.size)
    return table


def _empty_some(table: Table, rng: Generator) -> None:
    """Let some maps have neither heap nor data, so that even a limit of 0 accepts them."""
    empty = rng.random(table.size, np.float32) < 0.3
    for start, end in (("start_brk", "brk"), ("start_data", "end_data")):
        table[end] = np.where(empty, table[start], table[end])


def _values(marks: Landmarks, table: Table, member: str, rows: Any, rng: Generator) -> Any:
    """Return values near a landmark, near another member of the row, or anywhere."""
    count = rows.size
    steps = rng.choice(marks.steps, count)
    partner = PARTNERS.get(member) or next(k for k, v in PARTNERS.items() if v == member)
    other = str(rng.choice(ADDRESSES))
    kinds = rng.random(count, np.float32)
    values = rng.choice(marks.addresses, count) + steps
    values = np.where(kinds < 0.5, table[partner][rows] + steps, values)
    values = np.where(kinds < 0.25, table[other][rows] + steps, values)
    anywhere = rng.integers(marks.lowest, marks.highest, count, np.uint64, endpoint=True)
    values = np.where(kinds < 0.15, anywhere, values)
    wild = rng.integers(0, U64, count, np.uint64, endpoint=True)
    return np.where(kinds < 0.01, wild, values)


def _meet_limit(table: Table, limit: int, marks: Landmarks, rng: Generator) -> None:
    """Let some maps need RLIMIT_DATA, a little less or a little more, through brk or end_data."""
    if limit > marks.highest:
        return
    pairs = [("start_brk", "brk"), ("start_data", "end_data")]
    for (start, end), (other_start, other_end) in (pairs, pairs[::-1]):
        rows = np.flatnonzero(rng.random(table.size, np.float32) < 0.1)
        other = table[other_end][rows] - table[other_start][rows]
        rest = np.uint64(limit) - other + rng.choice(marks.steps, rows.size)
        table[end][rows] = table[start][rows] + rest


def _meet_bounds(table: Table, marks: Landmarks, rng: Generator) -> None:
    """Let both members of a pair lie at one end of user space, together or a little apart."""
    steps = _words([0, 0, 1, 2, marks.page - 1, marks.page])
    for start, end in PARTNERS.items():
        rows = np.flatnonzero(rng.random(table.size, np.float32) < 0.02)
        first, second = rng.choice(steps, rows.size), rng.choice(steps, rows.size)
        first = np.where(rng.random(rows.size) < 0.2, np.uint64(U64), first)  # one beyond
        low = rng.random(rows.size) < 0.5
        at_low = np.uint64(marks.lowest) + first, np.uint64(marks.lowest) + first + second
        at_high = np.uint64(marks.highest) - first - second, np.uint64(marks.highest) - first
        if start != "start_stack":
            table[start][rows] = np.where(low, at_low[0], at_high[0])
            table[end][rows] = np.where(low, at_low[1], at_high[1])


def _ask_for_vectors(table: Table, marks: Landmarks, rng: Generator) -> None:
    rows = np.flatnonzero(rng.random(table.size, np.float32) < 0.2)
    chosen = rng.choice(marks.vectors, rows.size, axis=0)
    table["auxv"][rows], table["auxv_size"][rows] = chosen[:, 0], chosen[:, 1]


# ---- maps that show much ----------------------------------------------------------------------


def random_shown_maps(
    marks: Landmarks, bench: Bench, limit: int, count: int, rng: Generator
) -> Table:
    """Return maps that are mostly accepted, whose ends meet the borders and contents of memory."""
    table, page = table_of(marks.own, count), marks.page
    _empty_some(table, rng)
    borders = _borders(bench)
    for start, end in PARTNERS.items():
        if start != "start_stack":
            _span_borders(table, start, end, borders, page, rng)
    _reach_below(table, _growing_places(bench), rng)
    _begin_at_ends(table, _ends_with_room(bench), page, rng)
    _end_inside(table, bench.regions["shared"][0], page, rng)
    rows = np.flatnonzero(rng.random(count) < 0.4)
    table["start_stack"][rows] = _in_memory(borders, page, rows.size, rng)
    _let_environment_follow(table, page, rng)
    rows = np.flatnonzero(rng.random(count) < 0.3)
    sizes = _words([1, page - 1, page, page + 1, 2 * page, 1 << 20, 1 << 30, 1 << 40])
    table["end_code"][rows] = table["start_code"][rows] + rng.choice(sizes, rows.size)
    _meet_limit(table, limit, marks, rng)
    _ask_for_vectors(table, marks, rng)
    rows = np.flatnonzero(rng.random(count) < 0.1)
    table["exe_fd"][rows] = rng.choice(marks.descriptors, rows.size)
    return table


def _span_borders(
    table: Table, start: str, end: str, borders: Words, page: int, rng: Generator
) -> None:
    """Let some pairs begin near a border, and end a length later or near another one."""
    rows = np.flatnonzero(rng.random(table.size) < 0.4)
    first, other = (_in_memory(borders, page, rows.size, rng) for _ in range(2))
    length = rng.choice(_lengths(page), rows.size) + rng.integers(0, 3, rows.size, np.uint64)
    second = np.where(rng.random(rows.size) < 0.4, other, first + length)
    table[start][rows] = np.minimum(first, second)
    table[end][rows] = np.maximum(first, second)


def _lengths(page: int) -> Words:
    """Return lengths of strings: short, about a page, more than /proc gives in one read."""
    return _words([0, 1, 15, 16, 20, 50, 100, page - 1, page, page + 104, 2 * page, 5 * page - 480,
                   READ_SIZE, READ_SIZE + 4464])  # fmt: skip


def _borders(bench: Bench) -> Words:
    """Return where something begins, ends or changes in the memory that is there now."""
    page = bench.facts.page_size
    vmas = bench.specimen.snapshot().vmas
    arena = bench.regions["arena"][0]
    places = [border for vma in vmas for border in (vma.start, vma.end)]
    texts = [arena, arena + 33, arena + page, arena + 4 * page - 7, arena + 4 * page,
             arena + 5 * page + 97]  # fmt: skip
    highest = bench.facts.highest
    return _words([*places, *texts, *texts, highest, highest + 1 - 4 * page])


def _growing_places(bench: Bench) -> Words:
    """Return addresses below what grows down, on both sides of every limit of its growth."""
    page, regions = bench.facts.page_size, bench.regions
    stack_limit = min(stack_limit_of_reader(bench.specimen), 1 << 23)
    starts = [regions[name][0] for name in ("growing", "cramped", "bold", "lower")]
    gap = regions["floor"][1] + STACK_GUARD_PAGES * page
    return _words([
        *(start - distance * page for start in starts for distance in (1, 8)),
        *(at + step for at in (gap, regions["growing"][1] - stack_limit)
          for step in (-page, -1, 0, page)),
        regions["lower"][1] - 20,
    ])  # fmt: skip


def _ends_with_room(bench: Bench) -> Words:
    """Return where a VMA ends and nothing follows at once."""
    vmas = bench.specimen.snapshot().vmas
    room = 4 * bench.facts.page_size
    return _words(a.end for a, b in pairwise(vmas) if a.end + room <= b.start)


def _in_memory(borders: Words, page: int, count: int, rng: Generator) -> Any:
    steps = _words([0, 0, 0, 1, -1, 2, 16, 20, -16, 100, page, -page, page // 2])
    return rng.choice(borders, count) + rng.choice(steps, count)


def _reach_below(table: Table, places: Words, rng: Generator) -> None:
    """Let some strings begin below what grows down."""
    for start, end in (("arg_start", "arg_end"), ("env_start", "env_end")):
        rows = np.flatnonzero(rng.random(table.size) < 0.06)
        table[start][rows] = rng.choice(places, rows.size)
        table[end][rows] = table[start][rows] + rng.choice(_words([1, 20, 5000]), rows.size)


def _begin_at_ends(table: Table, ends: Words, page: int, rng: Generator) -> None:
    """Let some heaps begin where memory ends and have room to grow."""
    rows = np.flatnonzero(rng.random(table.size) < 0.15)
    steps = rng.choice(_words([0, 0, 0, -1, 1, -page, 1 - page]), rows.size)
    table["start_brk"][rows] = rng.choice(ends, rows.size) + steps
    table["brk"][rows] = table["start_brk"][rows] + rng.choice(_words([0, 0, 1]), rows.size)


def _end_inside(table: Table, start: int, page: int, rng: Generator) -> None:
    """Let some heaps end inside a file's mapping, so that brk() can cut off its beginning."""
    rows = np.flatnonzero(rng.random(table.size) < 0.05)
    table["start_brk"][rows] = start - page * rng.integers(0, 3, rows.size)
    table["brk"][rows] = start + page * rng.integers(1, 3, rows.size)


def _let_environment_follow(table: Table, page: int, rng: Generator) -> None:
    """Let some environments begin where the arguments end, as after execve."""
    rows = np.flatnonzero(rng.random(table.size) < 0.4)
    table["env_start"][rows] = table["arg_end"][rows]
    table["env_end"][rows] = table["arg_end"][rows] + rng.choice(_lengths(page), rows.size)


def random_requests(
    new: PrctlMmMap, marks: Landmarks, before: Snapshot, memory: Memory, limit: int, rng: Generator
) -> int:
    """Return a brk() to ask for after a map: near its heap's ends, its limits, or other memory."""
    room = limit - (new.end_data - new.start_data) + new.start_brk
    above = next((vma.start for vma in before.vmas if vma.start > new.brk), 0)
    borders = [border for vma in before.vmas for border in (vma.start, vma.end)]
    page = marks.page
    last_page = -(-new.brk // page) * page
    largest = last_page + memory.most_at_once
    data = sum(vma.size for vma in before.vmas if is_data(vma, memory.grows_down))
    last_data = last_page + limit // page * page - data
    border = borders[rng.integers(len(borders))]
    places = [new.brk, new.brk, new.start_brk, room, above, above - STACK_GUARD_PAGES * page,
              marks.highest + 1, last_data, border, largest]  # fmt: skip
    steps = [0, 0, 1, -1, 2, page - 1, page, page + 1, -page, -page - 1, -2 * page,
             -2 * page - 1, 40 * page, 1 << 44]  # fmt: skip
    if rng.random() < 0.3:
        return (new.brk + page * int(rng.integers(1, 32))) & U64
    return (places[rng.integers(len(places))] + steps[rng.integers(len(steps))]) & U64
