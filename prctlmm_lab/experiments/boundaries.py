"""Where a sweep's verdicts change: edges in a grid of deciding rules, and names for values.

Pure: from arrays and numbers to places and words. The exact values and the calls on both sides of
an edge are the sweep's work (`prctlmm_lab.experiments.sweep`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.uint8]
"""One byte for each call of a sweep: a row for each value of y, a column for each of x."""
Values = NDArray[np.uint64]
"""The values of an axis, ascending."""

MOST_EDGES = 48
"""As many edges of a sweep are looked at more closely."""
_FARTHEST = 16
"""Pages that a value may lie from a name to be named after it."""


@dataclass(frozen=True)
class Edge:
    """A place where another rule decides: between a column of the grid and the next."""

    column: int
    rows: tuple[int, int, int]
    """The first row in which it is so, one in the middle, and the last."""
    slope: int = 0
    """0 for an edge at one column in many rows; 1 where y - x stays the same, -1 where y + x does.
    """


def edges_along_x(deciding: Grid, x: Values, y: Values) -> list[Edge]:
    """Return the edges that are met from left to right; those of most rows first.

    With one row every change is an edge. With more, a change must stand in several rows at one x,
    or on a slant on which y - x or y + x stays the same.
    """
    rows, columns = np.nonzero(deciding[:, 1:] != deciding[:, :-1])
    pairs = deciding[rows, columns].astype(np.uint16) << 8 | deciding[rows, columns + 1]
    found: list[tuple[int, Edge]] = []
    kinds, counts = np.unique(pairs, return_counts=True)
    for kind in kinds[np.argsort(-counts, kind="stable")][:MOST_EDGES]:
        chosen = pairs == kind
        found += _edges_of_kind(rows[chosen], columns[chosen], x, y)
    found.sort(key=lambda pair: -pair[0])
    return [edge for _, edge in found[:MOST_EDGES]]


def _edges_of_kind(rows: Any, columns: Any, x: Values, y: Values) -> Iterator[tuple[int, Edge]]:
    """Yield the edges between one rule and one other, each with the number of its rows."""
    counts = np.bincount(columns, minlength=len(x) - 1)
    enough = 1 if len(y) == 1 else max(2, len(y) // 25)
    beside = np.maximum(np.append(counts[1:], 0), np.insert(counts[:-1], 0, 0))
    # A slant has neighbours with as many rows; a straight edge stands alone.
    straight = np.ones_like(counts, bool) if len(y) == 1 else counts > 3 * beside
    straight &= counts >= enough
    for column in np.flatnonzero(straight):
        inside = rows[columns == column]
        yield int(counts[column]), Edge(int(column), _ends_and_middle(inside))
    rest = ~straight[columns]
    if len(np.unique(columns[rest])) > 2:
        yield from _slanted(rows[rest], columns[rest], x, y)


def _slanted(rows: Any, columns: Any, x: Values, y: Values) -> Iterator[tuple[int, Edge]]:
    step = int(max(np.diff(x).max(), np.diff(y).max()))
    for slope in (1, -1):
        # Unsigned sums and differences wrap alike; about one of them all others lie close by.
        along = y[rows] - x[columns + 1] if slope == 1 else y[rows] + x[columns + 1]
        middle = len(rows) // 2
        off = (along - along[middle]).astype(np.int64)
        close = np.abs(off) <= step
        if close.mean() > 0.9:
            yield len(rows), Edge(int(columns[middle]), (int(rows[middle]),) * 3, slope)
            return


def _ends_and_middle(rows: Any) -> tuple[int, int, int]:
    return int(rows[0]), int(rows[len(rows) // 2]), int(rows[-1])


# ---- names ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Symbol:
    """A name for a number; the simpler, the better it sorts."""

    order: tuple[int, ...]
    text: str


def symbol(
    value: int, names: Mapping[str, int], page: int, related: Collection[str] = ()
) -> Symbol | None:
    """Return the simplest formula for a value: a name, or one plus or minus a little.

    Little is 1, or some pages, or some pages and 1. Among equals the names in `related` come first,
    then those that come first in `names`. None where no name is near; inside the first page, where
    a number says more, only a name's neighbours are near.

    >>> names = {"lowest": 0x10000, "brk": 0x405000}
    >>> [symbol(v, names, 4096).text for v in (0x10000, 0xffff, 0x408000, 0x406fff)]
    ['lowest', 'lowest - 1', 'brk + 3*page', 'brk + 2*page - 1']
    >>> symbol(0x405123, names, 4096) is None
    True
    """
    found = []
    for position, (name, number) in enumerate(names.items()):
        class_ = _class_of(value - number, page)
        if class_ is not None and (class_ < 2 or not 0 <= value < page):
            far = abs(value - number)
            order = (class_, name not in related, far, position)
            found.append(Symbol(order, name + offset_text(value - number, page)))
    return min(found, key=lambda symbol: symbol.order, default=None)


def _class_of(offset: int, page: int) -> int | None:
    pages, rest = divmod(offset + 1, page)
    if rest > 2 or abs(pages) > _FARTHEST:
        return None
    if pages == 0:
        return 0 if rest == 1 else 1
    return 2 if rest == 1 else 3


def offset_text(offset: int, page: int) -> str:
    """Write what is added to a name, nothing for 0.

    >>> [offset_text(n, 4096) for n in (0, -1, 4096, -8191, 17)]
    ['', ' - 1', ' + page', ' - 2*page + 1', ' + 0x11']
    """
    pages, rest = divmod(offset + 1, page)
    rest -= 1
    if pages == 0 or rest > 1:
        return _signed(offset, f"{abs(offset):#x}" if abs(offset) > 9 else str(abs(offset)))
    many = "page" if abs(pages) == 1 else f"{abs(pages)}*page"
    return _signed(pages, many) + _signed(rest, str(abs(rest)))


def _signed(number: int, text: str) -> str:
    return f" {'+' if number > 0 else '-'} {text}" if number else ""


def equation(
    slope: int, members: tuple[str, str], sums: Collection[int], names: Mapping[str, int],
    page: int, related: Collection[str] = (),
) -> str:  # fmt: skip
    """Write the line on which a slanted edge lies.

    `members` are those along x and y; `sums` are what y - x (slope 1) or y + x (slope -1) comes to
    on the edge's two sides, of which the one with the simpler name is taken; without a name the
    first is written in hex. Two names come together only if both are in `related`.

    >>> equation(1, ("start_brk", "brk"), (0x3fff, 0x4000), {}, 4096)
    'brk = start_brk + 4*page'
    >>> equation(-1, ("auxv", "auxv_size"), (0x7000, 0x7001), {"arena.end": 0x7000}, 4096)
    'auxv + auxv_size = arena.end'
    """
    x, y = members
    near = [name for name in names if name in related]
    if slope == 1:
        left, alone = y, {x: 0}
        pairs = {f"{x} + {a} - {b}": names[a] - names[b] for a, b in permutations(near, 2)}
    else:
        left, alone = f"{x} + {y}", dict(names)
        pairs = {f"{a} + {b}": names[a] + names[b] for a, b in combinations(near, 2)}
    for candidates in (alone, pairs):
        found = [symbol(total, candidates, page, related) for total in sums]
        named = [each for each in found if each is not None]
        if named:
            return f"{left} = {min(named, key=lambda each: each.order).text}"
    total = min(sums)
    return f"{left} = {_signed_sum(x if slope == 1 else '', total)}"


def _signed_sum(name: str, number: int) -> str:
    if not name:
        return f"{number:#x}"
    return f"{name} {'-' if number < 0 else '+'} {abs(number):#x}"
