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
from prctlmm_lab.experiments.formula import Value, shorten
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

    There are `count` values (2 or more), evenly spread and exact; a range that holds fewer is taken
    value by value. In the two ends a member's name means its value before the call. Both ends are
    included because what is worth asking lies at them: "lowest - 1" and "lowest".
    """

    member: str
    first: Value
    last: Value
    count: int = 400

    @property
    def ends(self) -> tuple[tuple[str, Value], ...]:
        """The two ends, each with the key that a recipe has for it."""
        return (("from", self.first), ("to", self.last))

    def check(self, known: set[str], where: str) -> None:
        """Refuse what no specimen could make an axis of; `known` are the names of the set-up.

        Raises InputError; `where` names the axis in messages.
        """
        if self.member not in MEMBER:
            raise unknown_member(self.member, f"{where}.member")
        count: object = self.count
        if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= MOST_CALLS:
            raise InputError(f"{where}.count", "is no number of values", shorten(count),
                             f"0x2 to {MOST_CALLS:#x}")  # fmt: skip
        for name, value in self.ends:
            check_value(value, known, f"{where}.{name}", widest(self.member))

    def values(self, bench: Bench, where: str) -> list[int]:
        """Return the values on a bench that stands, in ascending order.

        Raises InputError for an end that does not fit the member, and ends in the wrong order.
        """
        first, last = (
            unsigned(bench.value(value, f"{where}.{name}"), f"{where}.{name}", widest(self.member))
            for name, value in self.ends
        )
        if first > last:
            raise InputError(f"{where}.to", "lies below the other end", hex(last),
                             f"{first:#x} or more")  # fmt: skip
        return spread(first, last, self.count)


def spread(first: int, last: int, count: int) -> list[int]:
    """Return at most `count` numbers from one end to the other, both included, evenly and exact.

    >>> spread(0x1000, 0x1003, 400)
    [4096, 4097, 4098, 4099]
    >>> spread(0, 2**64 - 1, 3) == [0, 2**63 - 1, 2**64 - 1]
    True
    """
    steps = min(count - 1, last - first)
    return [first + (last - first) * step // max(steps, 1) for step in range(steps + 1)]


@dataclass(frozen=True)
class Sweep:
    """One sweep, as a recipe declares it: an experiment with as many maps as its axes have values.

    `change` holds for every call; a formula in it may name a swept member, which then means the
    value that it has in that call.

    >>> Sweep("order", Axis("arg_start", "arg_end - 8", "arg_end + 8"), change={"arg_start": 0})
    Traceback (most recent call last):
    ...
    prctlmm_lab.errors.InputError: sweep "order": change.arg_start: is swept; expected ...

    Raises InputError for an unknown member or name, a formula that is none, a member that is named
    twice, members that need each other in a circle, and more than 0x1000000 calls.
    """

    id: str
    x: Axis
    y: Axis | None = None
    title: str = ""
    explanation: str = ""
    """What it shows, in a sentence or two."""
    specimen: Subject = field(default_factory=Subject)
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
            place = f"{where}: change.{member}"
            if member not in MEMBER:
                raise unknown_member(member, f"{where}: change")
            if any(member == axis.member for axis in self.axes):
                raise InputError(place, "is swept", "", "an axis or a change, not both")
            check_value(value, known, place, widest(member))
        check_circles(self.change, f"{where}: change")

    def _check_axes(self, known: set[str]) -> None:
        calls = 1
        for name, axis in zip("xy", self.axes, strict=False):
            axis.check(known, f"{self.where}: {name}")
            calls *= axis.count
        if self.y is not None and self.x.member == self.y.member:
            raise InputError(f"{self.where}: y.member", "is swept along x already", self.y.member,
                             "another member")  # fmt: skip
        if calls > MOST_CALLS:
            raise InputError(self.where, "calls are too many for one sweep", hex(calls),
                             f"at most {MOST_CALLS:#x}")  # fmt: skip

    @property
    def where(self) -> str:
        """How messages name it."""
        return f'sweep "{self.id}"'

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The one axis, or both: x and y."""
        return (self.x,) if self.y is None else (self.x, self.y)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy by value: a mapping proxy cannot be."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return _rebuilt, ({**values, "change": dict(self.change)},)


def _rebuilt(values: dict[str, Any]) -> Sweep:
    return Sweep(**values)
