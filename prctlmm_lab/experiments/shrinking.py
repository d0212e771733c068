"""Shrinking: from a map on which kernel and model disagree to a recipe small enough to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from prctlmm_lab.errors import LabError
from prctlmm_lab.experiments.experiment import Experiment, Subject
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.steps import Bench
from prctlmm_lab.kernel.abi import ADDRESSES, PrctlMmMap

Item = TypeVar("Item")

Disagrees = Callable[[Experiment], bool]
"""Runs an experiment in a fresh specimen and tells whether the disagreement is still there."""

NEAR = 1 << 32
"""How far a number may be from a name to be written by it."""


@dataclass(frozen=True)
class Distance:
    """A number as a distance from a name, or from 0."""

    name: str
    offset: int

    @property
    def formula(self) -> Value:
        """The number as a recipe writes it."""
        if not self.name:
            return hex(self.offset)
        if not self.offset:
            return self.name
        return f"{self.name} {'-' if self.offset < 0 else '+'} {abs(self.offset):#x}"


def distance(number: int, names: Mapping[str, int]) -> Distance:
    """Write a number by the nearest name; the first of several.

    >>> distance(0x5010, {"arena.start": 0x5000, "lowest": 0x1000}).formula
    'arena.start + 0x10'
    """
    name = min(names, key=lambda name: abs(number - names[name]), default="")
    if not name or abs(number - names[name]) > NEAR:
        return Distance("", number)
    return Distance(name, number - names[name])


def names_on(bench: Bench, own: PrctlMmMap) -> dict[str, int]:
    """Return the names that a recipe may use for addresses, with their numbers on a bench."""
    names = {"lowest": bench.facts.lowest, "highest": bench.facts.highest}
    for region, (start, end) in bench.regions.items():
        names |= {f"{region}.start": start, f"{region}.end": end}
    return names | {f"before.{member}": getattr(own, member) for member in ADDRESSES}


def as_experiment(base: Experiment, bench: Bench, own: PrctlMmMap, new: PrctlMmMap) -> Experiment:
    """Return the experiment that asks for the same map, its values by their names."""
    names = names_on(bench, own)
    changes: dict[str, Value] = {}
    for member, value in new:
        if value == getattr(own, member):
            continue
        if member == "exe_fd":
            named = {number: name for name, number in bench.descriptors.items()}
            changes[member] = named.get(value, hex(value))
        elif member == "auxv_size":
            changes[member] = distance(value, {"auxv_capacity": bench.facts.auxv_capacity}).formula
        else:
            changes[member] = distance(value, names).formula
    return replace(base, change=changes)


def shrink(experiment: Experiment, disagrees: Disagrees) -> Experiment:
    """Return a smaller experiment that still disagrees, as simple in every part as will do.

    An experiment that does not disagree in a fresh specimen is returned as it is.
    """
    if not _still(experiment, disagrees):
        return experiment
    smaller: Experiment | None = experiment
    while smaller is not None:
        experiment = smaller
        smaller = next((e for e in _smaller(experiment) if _still(e, disagrees)), None)
    return experiment


def _still(experiment: Experiment | None, disagrees: Disagrees) -> bool:
    try:
        return experiment is not None and disagrees(experiment)
    except LabError:
        return False  # it cannot even be set up any more


def _smaller(experiment: Experiment) -> Iterator[Experiment | None]:
    """Yield candidates, the most daring first."""
    change = dict(experiment.change)
    for specimen in (Subject(), Subject(experiment.specimen.build)):
        if specimen != experiment.specimen != Subject():
            yield _made(experiment, specimen=specimen)
    for setup in _without_some(experiment.setup):
        yield _made(experiment, setup=setup)
    for members in _without_some(tuple(change)):
        yield _made(experiment, change={member: change[member] for member in members})
    for member, value in change.items():
        for nearer in _nearer(value):
            yield _made(experiment, change=change | {member: nearer})


def _without_some(items: tuple[Item, ...]) -> Iterator[tuple[Item, ...]]:
    """Yield what is left without all, without each half, each quarter, and so on to each one."""
    size = len(items)
    while size:
        for start in range(0, len(items), size):
            yield items[:start] + items[start + size :]
        size //= 2


def _made(experiment: Experiment, **parts: object) -> Experiment | None:
    try:
        return replace(experiment, **parts)  # type: ignore[arg-type]
    except LabError:
        return None  # a name that another step or value needs is gone


def _nearer(value: Value) -> Iterator[Value]:
    """Yield the same name at smaller distances."""
    name, sign, offset = str(value).rpartition(" ")[0].rpartition(" ")
    number = int(str(value).rpartition(" ")[2], 0) if sign and offset in "+-" else 0
    if number > 1:
        for smaller in dict.fromkeys((0, 1, number // 2, number - 1)):
            yield Distance(name, smaller if offset == "+" else -smaller).formula
