"""Carry out a sweep: the real call over a whole range of one or two members, each predicted before.

A sweep is declared in `prctlmm_lab.experiments.axes`. Here one specimen is set up for it, asked for
every map, and ended. What is kept is a byte or two for each call, so that millions fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from prctlmm_lab.errors import SystemCallError
from prctlmm_lab.experiments.axes import Sweep, spread
from prctlmm_lab.experiments.boundaries import (
    MOST_EDGES,
    Edge,
    Values,
    edges_along_x,
    equation,
    symbol,
)
from prctlmm_lab.experiments.columns import Table, ask_kernel, situation_of_all, table_of
from prctlmm_lab.experiments.experiment import SetupError, take_steps
from prctlmm_lab.experiments.formula import names_of
from prctlmm_lab.experiments.steps import LABELLED, resolve_changes, resolve_columns
from prctlmm_lab.experiments.swept import Boundary, SweepResult, SweptCall
from prctlmm_lab.kernel.abi import MEMBER
from prctlmm_lab.kernel.rules import ACCEPTED, decide, predict, rules_of
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen

Change = tuple[int, tuple[int, int]]
"""A value at which another rule decides, and the two rules."""

_BATCH = 1 << 16
"""Maps that are asked at a time: some 7 MB."""
_PROBES = 256
"""Values that a look between two others takes at a time."""


def sweep(wanted: Sweep) -> SweepResult:
    """Make the real call for every map of a sweep, in a specimen of its own, and predict each.

    >>> from prctlmm_lab import Axis
    >>> wanted = Sweep("heap", Axis("brk", "start_brk - page", "start_brk + page"))
    >>> result = sweep(wanted)
    >>> [(boundary.formula, boundary.above.errno) for boundary in result.boundaries]
    [('start_brk', 0)]

    The command line's equivalent is `prctlmm-lab sweep RECIPE`.

    Raises InputError for values that make no sense, SetupError if the kernel refuses a step of the
    set-up, SpecimenError if the specimen ends, UnsupportedSystem.
    """
    with wanted.specimen.start() as specimen:
        return _Run(wanted, specimen).result()


class _Run:
    """One sweep under way: the specimen on its bench, the values of the axes, the map beside."""

    def __init__(self, wanted: Sweep, specimen: Specimen) -> None:
        self.wanted, self.specimen, self.facts = wanted, specimen, facts_here()
        self.rules = rules_of(self.facts)
        self.bench = take_steps(wanted.setup, specimen, self.facts, f"{wanted.where}: setup")
        try:
            self.own = self.bench.before = specimen.current_map()
            self._resolve()
        except SystemCallError as error:
            problem = f"the specimen cannot be asked any more: {error}"
            raise SetupError(f"{wanted.where}: setup", problem) from None

    def _resolve(self) -> None:
        wanted, where = self.wanted, self.wanted.where
        lists = [
            axis.values(self.bench, f"{where}: {name}")
            for name, axis in zip("xy", wanted.axes, strict=False)
        ]
        self.x, self.y = (np.array(values, np.uint64) for values in (*lists, [0])[:2])
        self.following = dict(self._changes_that_follow())
        fixed = {name: v for name, v in wanted.change.items() if name not in self.following}
        self.base = resolve_changes(fixed, self.own, self.bench, f"{where}: change")
        self.names = dict(self._names())

    def _changes_that_follow(self) -> Iterator[tuple[str, Any]]:
        """Yield the changes that need a swept member, by themselves or by way of others."""
        needs = {name: names_of(value, name) - {name} for name, value in self.wanted.change.items()}
        swept = {axis.member for axis in self.wanted.axes}
        while new := {name for name in needs if name not in swept and needs[name] & swept}:
            swept |= new
            yield from ((name, self.wanted.change[name]) for name in new)

    def _names(self) -> Iterator[tuple[str, int]]:
        """Yield the names for addresses: bounds, what the set-up made, members as they will be."""
        swept = {axis.member for axis in self.wanted.axes}
        yield from (("lowest", self.facts.lowest), ("highest", self.facts.highest))
        for name in (*self.bench.regions, *LABELLED):
            for edge in ("start", "end"):
                try:
                    number = self.bench.lookup(f"{name}.{edge}")
                except LookupError:
                    continue  # a specimen without a heap
                if number is not None:
                    yield f"{name}.{edge}", number
        before = dict(self.own)
        for name, number in self.base:
            if MEMBER[name].is_address:
                if name not in swept and name not in self.following:
                    yield name, number
                if name in swept or number != before[name]:
                    yield f"before.{name}", before[name]

    # ---- asking ---------------------------------------------------------------------------------

    def result(self) -> SweepResult:
        shape = len(self.y), len(self.x)
        grids = [np.zeros(shape[0] * shape[1], np.uint8) for _ in range(3)]
        for start in range(0, grids[0].size, _BATCH):
            place = np.arange(start, min(start + _BATCH, grids[0].size))
            table = self._table(self.x[place % shape[1]], self.y[place // shape[1]])
            predicted, deciding = self._predict(table)
            errnos = ask_kernel(self.specimen, table)
            for grid, part in zip(grids, (errnos, predicted, deciding), strict=True):
                grid[start : start + len(place)] = part
        self.errnos, self.predicted, self.deciding = (grid.reshape(shape) for grid in grids)
        boundaries = self._sorted_boundaries()
        return SweepResult(
            self.wanted, self.facts, self.rules, self.base, self.names, self.bench.descriptors,
            self.x, self.y, self.errnos, self.predicted, self.deciding, boundaries,
            self.specimen.weakest,
        )  # fmt: skip

    def _table(self, x: Values, y: Values) -> Table:
        """Return the maps for as many places, each given by its x and y."""
        table = table_of(self.base, len(x))
        given = {
            axis.member: column for axis, column in zip(self.wanted.axes, (x, y), strict=False)
        }
        if self.following:
            exact = {name: column.astype(object) for name, column in given.items()}
            base, place = self.own, f"{self.wanted.where}: change"
            given |= resolve_columns(self.wanted.change, exact, base, self.bench, place)
        for name, column in given.items():
            table[name] = column
        return table

    def _predict(self, table: Table) -> tuple[Any, Any]:
        situation = situation_of_all(self.specimen, table)
        return (
            predict(situation, self.facts, len(table), self.rules),
            decide(situation, self.facts, len(table), self.rules),
        )

    # ---- boundaries -----------------------------------------------------------------------------

    def _sorted_boundaries(self) -> tuple[Boundary, ...]:
        first = self.wanted.x.member
        return tuple(sorted(
            self._boundaries(),
            key=lambda edge: (edge.slope != 0, edge.member != first, edge.value),
        ))  # fmt: skip

    def _boundaries(self) -> Iterator[Boundary]:
        seen: set[tuple[str, int, str]] = set()
        slants: set[frozenset[int]] = set()
        turned = self.deciding.T
        for along, grid, here, other in (("x", self.deciding, self.x, self.y),
                                         ("y", turned, self.y, self.x)):  # fmt: skip
            for edge in edges_along_x(grid, here, other):
                for found in self._located(edge, along):
                    key = found.member, found.value, found.formula if found.slope else ""
                    sides = frozenset((found.below.rule, found.above.rule))
                    if key in seen or (found.slope and sides in slants):
                        continue
                    seen.add(key)
                    if found.slope:
                        slants.add(sides)
                    yield found

    def _located(self, edge: Edge, along: str) -> Iterator[Boundary]:
        """Find the exact values at which another rule decides, between two values of the grid.

        An edge that is straight in the grid may be slanted between two values: that is seen at the
        ends of its run, and only what is the same there, or on a simple slant, is a boundary.
        """
        here, other = (self.x, self.y) if along == "x" else (self.y, self.x)
        gap = int(here[edge.column]), int(here[edge.column + 1])
        beside = [int(other[row]) for row in edge.rows]
        ends = [
            list(self._changes(*gap, beside[end], along))
            for end in ((0, 2) if edge.rows[0] != edge.rows[2] else ())
        ]
        for value, sides in self._changes(*gap, beside[1], along):
            slope = _slope(value, sides, ends, beside[2] - beside[0]) if ends else edge.slope
            if slope is not None:
                yield self._boundary(value, beside[1], slope, along)

    def _changes(self, low: int, high: int, beside: int, along: str) -> Iterator[Change]:
        """Yield each value up to `high` at which another rule decides, with the two rules."""
        for _ in range(MOST_EDGES):
            probes = [low, high]
            while probes[-1] - probes[0] > 1 or len(probes) > 2:
                probes = spread(probes[0], probes[-1], _PROBES)
                codes = self._rules_at(probes, beside, along)
                changed = np.flatnonzero(codes != codes[0])
                if not changed.size:
                    return
                probes = probes[changed[0] - 1 : changed[0] + 1]
            codes = self._rules_at(probes, beside, along)
            if codes[0] == codes[-1]:
                return
            low = probes[-1]
            yield low, (int(codes[0]), int(codes[-1]))

    def _line(self, values: list[int], beside: int, along: str) -> Table:
        line = np.array(values, np.uint64)
        still = np.full(len(values), beside, np.uint64)
        return self._table(line, still) if along == "x" else self._table(still, line)

    def _rules_at(self, values: list[int], beside: int, along: str) -> Any:
        return self._predict(self._line(values, beside, along))[1]

    def _boundary(self, value: int, beside: int, slope: int, along: str) -> Boundary:
        table = self._line([value - 1, value], beside, along)
        predicted, deciding = self._predict(table)
        errnos = ask_kernel(self.specimen, table)
        places = [(v, beside) if along == "x" else (beside, v) for v in (value - 1, value)]
        below, above = (
            SweptCall(*places[side], int(errnos[side]), int(predicted[side]), int(deciding[side]))
            for side in (0, 1)
        )
        member = self.wanted.axes["xy".index(along)].member
        formula = self._formula(value, slope, member, (below, above))
        return Boundary(member, value, below, above, slope, formula)

    def _formula(
        self, value: int, slope: int, member: str, sides: tuple[SweptCall, SweptCall]
    ) -> str:
        related = {name for side in sides if side.rule != ACCEPTED
                   for name in self.rules[side.rule].members}  # fmt: skip
        page = self.facts.page_size
        if slope:
            x, y = (axis.member for axis in self.wanted.axes)
            sums = tuple(call.y - call.x if slope == 1 else call.y + call.x for call in sides)
            return equation(slope, (x, y), sums, self.names, page, related)
        if member == "exe_fd":  # the number beside a descriptor has nothing to do with it
            return next((name for name, n in self.bench.descriptors.items() if n == value), "")
        names = self.names
        if member == "auxv_size":
            names = {"auxv_capacity": self.facts.auxv_capacity}
        named = symbol(value, names, page, related)
        return named.text if named else ""


def _slope(value: int, sides: tuple[int, int], ends: list[list[Change]], run: int) -> int | None:
    """Return the slope of a change from those at the two ends of a run; None if it is not simple.

    Straight is what changes at the same value at both ends, even to a third rule.
    """
    if all(value in [other for other, _ in changes] for changes in ends):
        return 0
    same = [[other for other, both in changes if both == sides] for changes in ends]
    if not all(same):
        return None
    (first, *_), (last, *_) = same
    return {run: 1, -run: -1}.get(last - first)
