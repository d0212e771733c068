"""What came of a sweep: verdicts beside predictions as grids, a table, text, and data for JSON.

`prctlmm_lab.experiments.sweep` makes one. Needs numpy; pandas is imported on use.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from prctlmm_lab.experiments.axes import Axis, Sweep
from prctlmm_lab.experiments.boundaries import Grid, Values
from prctlmm_lab.experiments.formula import printable
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.rules import ACCEPTED, Rule, errno_name
from prctlmm_lab.specimen.recording.marks import LIVE, mark_text

if TYPE_CHECKING:
    from pandas import DataFrame

_LONGEST_LIST = 40
"""Lines of any list in the text; the table and the JSON have everything."""


@dataclass(frozen=True)
class SweptCall:
    """One call of a sweep: its place, what the kernel said, what was predicted and by which rule.

    `rule` is the index in the result's rules, `ACCEPTED` for none.
    """

    x: int
    y: int
    errno: int
    predicted: int
    rule: int

    @property
    def agrees(self) -> bool:
        """Whether the kernel said what was predicted."""
        return self.errno == self.predicted


@dataclass(frozen=True)
class Boundary:
    """An exact place where another rule begins to decide, with the real call on either side.

    Along the swept `member` the values of the two calls follow on each other: `above` has the first
    value of what lies beyond.
    """

    member: str
    value: int
    """The member's value in `above`."""
    below: SweptCall
    above: SweptCall
    slope: int
    """0 where many values of the other member have the same boundary, else as in `Edge`."""
    formula: str
    """The value in names, such as "lowest", or ""; of a slanted boundary its equation."""

    @property
    def text(self) -> str:
        """The boundary as an equation, with its number unless it is slanted."""
        if self.slope:
            return self.formula
        name = f" = {self.formula}" if self.formula else ""
        return f"{self.member}{name} = {self.value:#x}"


@dataclass(frozen=True)
class Region:
    """All calls of a sweep over which one rule decides."""

    rule: Rule | None
    """None where every rule holds."""
    code: int
    """Its number in the grid of deciding rules."""
    verdict: str
    """What was predicted: "accepted", or the errno's name."""
    calls: int

    @property
    def id(self) -> str:
        """The rule's id; "" where every rule holds."""
        return self.rule.id if self.rule else ""

    @property
    def title(self) -> str:
        """What must be true, in plain words."""
        return self.rule.title if self.rule else "every rule holds"


@dataclass(frozen=True, eq=False)
class SweepResult:
    """What the kernel said to every map of a sweep, and what the rules had predicted.

    The grids have a row for each value of y (one row without y) and a column for each of x.

    >>> from prctlmm_lab import Axis, Sweep, sweep
    >>> result = sweep(Sweep("order", Axis("end_code", "start_code - 2", "start_code + 2")))
    >>> [verdict_name(errno) for errno in result.errnos[0]]
    ['EINVAL', 'EINVAL', 'EINVAL', 'accepted', 'accepted']
    """

    sweep: Sweep
    facts: Facts
    rules: tuple[Rule, ...]
    """The rules of this kernel, in its order."""
    base: PrctlMmMap
    """The map whose members a call has where they neither are swept nor need a swept one."""
    names: Mapping[str, int]
    """Names that addresses can be told by, in the specimen that was asked."""
    descriptors: Mapping[str, int]
    """The descriptors that the set-up named."""
    x: Values
    y: Values
    """Without a second axis one value, 0."""
    errnos: Grid
    """What the kernel said; 0 is accepted."""
    predicted: Grid
    deciding: Grid
    """The index of the rule that decides, `ACCEPTED` for none."""
    boundaries: tuple[Boundary, ...]
    """The exact places of the changes: first those at one x, then those at one y, then slanted."""
    origin: str = LIVE
    """Where the kernel's answers come from: real calls, a recording, or predictions."""

    @property
    def calls(self) -> int:
        """Real calls in the grid."""
        return self.errnos.size

    @property
    def scales(self) -> tuple[tuple[Axis, Values], ...]:
        """The one axis, or both, with their values."""
        return tuple(zip(self.sweep.axes, (self.x, self.y), strict=False))

    # ---- agreement ------------------------------------------------------------------------------

    @cached_property
    def boundary_calls(self) -> tuple[SweptCall, ...]:
        """The real calls beside boundaries that lie between those of the grid."""
        sides = (side for edge in self.boundaries for side in (edge.below, edge.above))
        return tuple(call for call in dict.fromkeys(sides) if not self._is_in_grid(call))

    def _is_in_grid(self, call: SweptCall) -> bool:
        return all(
            (column := int(np.searchsorted(values, np.uint64(value)))) < len(values)
            and int(values[column]) == value
            for values, value in ((self.x, call.x), (self.y, call.y))
        )

    @cached_property
    def disagreements(self) -> int:
        """Calls over which kernel and specification disagree, in the grid and at boundaries."""
        beside = sum(not call.agrees for call in self.boundary_calls)
        return int(np.count_nonzero(self.errnos != self.predicted)) + beside

    def examples(self, count: int = 5) -> tuple[SweptCall, ...]:
        """Return the first calls over which kernel and specification disagree."""
        places = np.flatnonzero(self.errnos != self.predicted)[:count]
        inside = [self.call_at(*divmod(place, len(self.x))) for place in places.tolist()]
        beside = [call for call in self.boundary_calls if not call.agrees]
        return tuple([*inside, *beside][:count])

    def call_at(self, row: int, column: int) -> SweptCall:
        """Return one call of the grid."""
        grids = (self.errnos, self.predicted, self.deciding)
        answers = (int(grid[row, column]) for grid in grids)
        return SweptCall(int(self.x[column]), int(self.y[row]), *answers)

    # ---- rules ----------------------------------------------------------------------------------

    def rule(self, code: int) -> Rule | None:
        """Return the rule of a number in the grid of deciding rules."""
        return None if code == ACCEPTED else self.rules[code]

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The regions: accepted first, then in the order of the kernel's checks."""
        codes, counts = np.unique(self.deciding, return_counts=True)
        pairs = zip(codes.tolist(), counts.tolist(), strict=True)
        found = [self._region(code, calls) for code, calls in pairs]
        return tuple(sorted(found, key=lambda region: -1 if region.rule is None else region.code))

    def _region(self, code: int, calls: int) -> Region:
        rule = self.rule(code)
        return Region(rule, code, self._predicted(rule), calls)

    def _predicted(self, rule: Rule | None) -> str:
        return verdict_name(rule.errno_on(self.facts) if rule else 0)

    @cached_property
    def verdicts(self) -> dict[str, int]:
        """The kernel's verdicts, with how many calls had each."""
        errnos, counts = np.unique(self.errnos, return_counts=True)
        return {verdict_name(e): n for e, n in zip(errnos.tolist(), counts.tolist(), strict=True)}

    # ---- as a table, as text, as data -----------------------------------------------------------

    def frame(self) -> DataFrame:
        """Return a table of the grid, one row for each call, in the order they were made.

        Columns: the swept members (ints), `verdict` of the kernel, `predicted`, the deciding `rule`
        ("" for accepted), and whether verdict and prediction agree (`agrees`). Names are
        categories, so that a row takes some twenty bytes.

        >>> from prctlmm_lab import Axis, Sweep, sweep
        >>> sweep(Sweep("one", Axis("brk", "start_brk - 1", "start_brk"))).frame().rule.tolist()
        ['order.brk', '']

        The command line's equivalent is `prctlmm-lab sweep RECIPE --csv FILE`.
        """
        from pandas import DataFrame

        columns: dict[str, Any] = {self.sweep.x.member: np.tile(self.x, len(self.y))}
        if self.sweep.y is not None:
            columns[self.sweep.y.member] = np.repeat(self.y, len(self.x))
        rules = {index: rule.id for index, rule in enumerate(self.rules)} | {ACCEPTED: ""}
        both = np.union1d(self.errnos, self.predicted).tolist()
        verdicts = {errno: verdict_name(errno) for errno in both}
        columns["verdict"] = _categories(self.errnos, verdicts)
        columns["predicted"] = _categories(self.predicted, verdicts)
        columns["rule"] = _categories(self.deciding, rules)
        columns["agrees"] = (self.errnos == self.predicted).ravel()
        return DataFrame(columns, copy=False)

    def summary(self) -> str:
        """Return one line: the kernel, the calls, how many were accepted, whether all agree."""
        release = self.facts.release
        text = f"{self.sweep.id} on Linux {release}: {self.calls_text()}, {self.agreement_text()}"
        return text if self.origin == LIVE else f"{text} ({mark_text(self.origin)})"

    def calls_text(self) -> str:
        """Say how many calls were made, and how many of them were accepted."""
        more = len(self.boundary_calls)
        beside = f" and {more} at boundaries" if more else ""
        return f"{self.calls:,} calls{beside}, {self.verdicts.get('accepted', 0):,} accepted"

    def agreement_text(self) -> str:
        """Say over how many of them kernel and specification disagree."""
        count = self.disagreements
        return f"{count:,} DISAGREEMENT{'S' * (count > 1)}" if count else "no disagreement"

    def text(self) -> str:
        """Return the sweep as text of 80 columns: what the picture shows, in words and numbers.

        >>> from prctlmm_lab import Axis, Sweep, sweep
        >>> lines = sweep(Sweep("low", Axis("arg_start", 0, "lowest", 9))).text().splitlines()
        >>> [line.split()[2:4] for line in lines[4:6]]
        [['EINVAL', 'range.arg_start'], ['accepted', 'lowest']]
        """
        return "\n".join(_wrapped(line) for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield ": ".join(filter(None, (self.sweep.id, self.sweep.title)))
        if self.sweep.explanation:
            yield f"  {' '.join(self.sweep.explanation.split())}"
        for axis, values in self.scales:
            ends = f"{int(values[0]):#x} to {int(values[-1]):#x}"
            formulas = f"{axis.first} to {axis.last}"
            yield f"  {axis.member}: {len(values):,} values, {formulas}, {ends}"
        yield ""
        yield from self._interval_lines() if self.sweep.y is None else self._region_lines()
        if self.sweep.y is not None and self.boundaries:
            yield ""
            yield from _listed([f"  {edge.text}" for edge in self.boundaries])
        yield ""
        yield from (f"  DISAGREES {self.call_text(call)}" for call in self.examples())
        yield f"  {self.calls_text()}, {self.agreement_text()}"
        release = f"Linux {self.facts.release}"
        yield f"  {release if self.origin == LIVE else mark_text(self.origin)}"

    def call_text(self, call: SweptCall) -> str:
        """Say where a call lies, what was predicted and what the kernel said."""
        place = ", ".join(
            f"{axis.member} = {value:#x}"
            for axis, value in zip(self.sweep.axes, (call.x, call.y), strict=False)
        )
        rule = self.rule(call.rule)
        by = f" by {rule.id}" if rule else ""
        predicted, kernel = verdict_name(call.predicted), verdict_name(call.errno)
        return f"{place}: predicted {predicted}{by}, kernel {kernel}"

    def _region_lines(self) -> Iterator[str]:
        rows = [
            (f"{region.calls:,}", f"{100 * region.calls / self.calls:.1f} %", region.verdict,
             region.id, region.title)
            for region in self.regions
        ]  # fmt: skip
        yield from _columns([("calls", "share", "verdict", "rule", "what must be true"), *rows])

    def _interval_lines(self) -> Iterator[str]:
        rows = [
            (f"{first:#x}", f"{last:#x}", self._predicted(rule), rule.id if rule else "", name)
            for first, last, rule, name in self.intervals()
        ]
        head = ("from", "to", "verdict", "rule", "begins at")
        yield from _listed(list(_columns([head, *rows])))

    def intervals(self) -> list[tuple[int, int, Rule | None, str]]:
        """Return the parts of the first row over which one rule decides, in ascending order.

        Each has its first and last value, the rule (None for accepted), and its beginning in names.
        The ends are exact where a boundary was found, else as exact as the grid.
        """
        row = self.deciding[0]
        changes = np.flatnonzero(row[1:] != row[:-1]) + 1
        starts = {int(self.x[column]): (int(row[column]), "") for column in changes.tolist()}
        exact = [edge for edge in self.boundaries if edge.member == self.sweep.x.member]
        for edge in exact:
            after = self.x[np.searchsorted(self.x, np.uint64(edge.value))]
            starts.pop(int(after), None)
        starts |= {edge.value: (edge.above.rule, edge.formula) for edge in exact}
        first = {int(self.x[0]): (int(row[0]), str(self.sweep.x.first))}
        parts = sorted((first | starts).items())
        lasts = [start - 1 for start, _ in parts[1:]] + [int(self.x[-1])]
        return [
            (start, last, self.rule(code), name)
            for (start, (code, name)), last in zip(parts, lasts, strict=True)
        ]

    def data(self) -> dict[str, Any]:
        """Return what JSON holds of the sweep: axes, counts, boundaries, disagreements."""
        return {
            "id": self.sweep.id,
            "title": self.sweep.title,
            "kernel": self.facts.release,
            "axes": {
                name: {
                    "member": axis.member,
                    "from": str(axis.first),
                    "to": str(axis.last),
                    "first": hex(int(values[0])),
                    "last": hex(int(values[-1])),
                    "values": len(values),
                }
                for name, (axis, values) in zip("xy", self.scales, strict=False)
            },
            "calls": self.calls,
            "boundary_calls": len(self.boundary_calls),
            "verdicts": self.verdicts,
            "rules": {region.id or "accepted": region.calls for region in self.regions},
            "boundaries": [
                {"member": edge.member, "value": hex(edge.value), "formula": edge.formula,
                 "slope": edge.slope}
                for edge in self.boundaries
            ],
            "disagreements": self.disagreements,
            "examples": [self._example(call) for call in self.examples()],
        }  # fmt: skip

    def _example(self, call: SweptCall) -> dict[str, str]:
        rule = self.rule(call.rule)
        values = zip(self.sweep.axes, (call.x, call.y), strict=False)
        return {axis.member: hex(value) for axis, value in values} | {
            "predicted": verdict_name(call.predicted),
            "rule": rule.id if rule else "",
            "kernel": verdict_name(call.errno),
        }


def verdict_name(errno: int) -> str:
    """Name an errno of the grids: "accepted" for 0."""
    return errno_name(int(errno)) if errno else "accepted"


def _categories(grid: Grid, names: Mapping[int, str]) -> Any:
    from pandas import Categorical, Index

    place = np.zeros(256, np.int8)
    place[list(names)] = np.arange(len(names))
    return Categorical.from_codes(place[grid.ravel()], Index(list(names.values())))


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Write rows in columns, indented by two, numbers of calls and shares to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield f"  {'  '.join(cells)}".rstrip()


def _listed(lines: list[str]) -> list[str]:
    more = len(lines) - _LONGEST_LIST
    return [*lines[:_LONGEST_LIST], f"  and {more:,} more"] if more > 0 else lines


def _wrapped(line: str) -> str:
    """Break a line at 80 columns; what follows is indented."""
    return textwrap.fill(
        printable(line), 80, subsequent_indent=" " * 6, break_long_words=False,
        break_on_hyphens=False, drop_whitespace=True,
    )  # fmt: skip
