"""A sweep, declared: one or two members that run over a range of values, the others as they are.

`prctlmm_lab.experiments.sweep` carries it out. Needs the standard library only, so that a recipe
with sweeps can be read everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Subject
from prctlmm_lab.experiments.formula import Value, names_of, shorten
from prctlmm_lab.experiments.steps import (
    Bench,
    Step,
    check_circles,
    check_steps,
    check_value,
    known_names,
    unsigned,
    widest,
)
from prctlmm_lab.kernel.abi import MEMBER, unknown_member

MOST_CALLS = 1 << 24
"""Calls that one sweep may make: some seven seconds of the kernel's time."""


@dataclass(frozen=True)
class Axis:
    """A member and the values it takes, from `first` to `last`, both included.

    At most `count` values, evenly spread and exact; each is taken once where the range holds fewer.
    The two ends are formulas in which a member's name means its value before the call.

    >>> Axis("brk", 0x1000, 0x1003).spread(0x1000, 0x1003)
    [4096, 4097, 4098, 4099]
    >>> Axis("brk", 0, 2**64 - 1, count=3).spread(0, 2**64 - 1) == [0, 2**63 - 1, 2**64 - 1]
    True
    """

    member: str
    first: Value
    last: Value
    count: int = 400

    def check(self, where: str) -> None:
        """Refuse what no specimen could make an axis of.

        Raises InputError; `where` names the axis in messages.
        """
        if self.member not in MEMBER:
            raise unknown_member(self.member, f"{where}.member")
        count: object = self.count
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_CALLS:
            raise InputError(f"{where}.count", "is no number of values", shorten(count),
                             f"1 to {MOST_CALLS:#x}")  # fmt: skip
        known = known_names()
        for name, value in (("from", self.first), ("to", self.last)):
            # Names that the set-up makes are checked when they are known, by the sweep.
            if not names_of(value, f"{where}.{name}"):
                check_value(value, known, f"{where}.{name}", widest(self.member))

    def spread(self, first: int, last: int) -> list[int]:
        """Return the values between two ends, in ascending order."""
        steps = min(self.count - 1, last - first)
        return [first + (last - first) * step // steps for step in range(steps + 1)] if steps else [
            first
        ]

    def values(self, bench: Bench, where: str) -> list[int]:
        """Return the values on a bench that stands, in ascending order.

        Raises InputError for an end that does not fit the member, or a range that is empty.
        """
        ends = []
        for name, value in (("from", self.first), ("to", self.last)):
            place = f"{where}.{name}"
            ends.append(unsigned(bench.value(value, place), place, widest(self.member)))
        if ends[0] > ends[1]:
            raise InputError(f"{where}.to", f"lies below {where.rpartition(' ')[2]}.from, "
                             f"{ends[0]:#x}", hex(ends[1]), "the higher end last")  # fmt: skip
        return self.spread(*ends)


@dataclass(frozen=True)
class Sweep:
    """One sweep, as a recipe declares it: an experiment whose map is many.

    `change` holds for every call; a formula in it may name a swept member, which then means the
    value that it has in that call.

    >>> Sweep("order", Axis("arg_start", "arg_end - 8", "arg_end + 8"), change={"arg_start": 0})
    Traceback (most recent call last):
    ...
    prctlmm_lab.errors.InputError: sweep "order": change.arg_start: is swept already; expected ...

    Raises InputError for an unknown member or name, a formula that is none, a member that is named
    twice, members that need each other in a circle, and more than 0x1000000 calls.
    """

    id: str
    x: Axis
    y: Axis | None = None
    title: str = ""
    explanation: str = ""
    """What it shows, in a sentence or two."""
    specimen: Subject = Subject()
    setup: tuple[Step, ...] = ()
    change: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = self.where
        object.__setattr__(self, "change", MappingProxyType(dict(self.change)))
        object.__setattr__(self, "setup", tuple(self.setup))
        self.specimen.check(f"{where}: specimen")
        known = known_names()
        check_steps(self.setup, known, f"{where}: setup")
        self._check_axes(known)
        for member, value in self.change.items():
            if member not in MEMBER:
                raise unknown_member(member, f"{where}: change")
            if member in self.axes:
                raise InputError(f"{where}: change.{member}", "is swept already", "",
                                 "an axis or a change for a member, not both")  # fmt: skip
            check_value(value, known, f"{where}: change.{member}", widest(member))
        check_circles(self.change, f"{where}: change")

    def _check_axes(self, known: set[str]) -> None:
        where, calls = self.where, 1
        for name, axis in zip("xy", self.axes.values(), strict=False):
            axis.check(f"{where}: {name}")
            for end, value in (("from", axis.first), ("to", axis.last)):
                check_value(value, known, f"{where}: {name}.{end}", widest(axis.member))
            calls *= axis.count
        if self.y is not None and self.x.member == self.y.member:
            raise InputError(f"{where}: y.member", "is that of x too", shorten(self.y.member),
                             "another member")  # fmt: skip
        if calls > MOST_CALLS:
            raise InputError(f"{where}: count", "calls are too many for one sweep", hex(calls),
                             f"at most {MOST_CALLS:#x}")  # fmt: skip

    @property
    def where(self) -> str:
        """How messages name it."""
        return f'sweep "{self.id}"'

    @property
    def axes(self) -> dict[str, Axis]:
        """The axes by their members."""
        both = (self.x,) if self.y is None else (self.x, self.y)
        return {axis.member: axis for axis in both}

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy by value: a mapping proxy cannot be."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return _rebuilt, ({**values, "change": dict(self.change)},)


def _rebuilt(values: dict[str, Any]) -> Sweep:
    return Sweep(**values)
