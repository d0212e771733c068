"""The meaningful values of a member: where its slider stops, each as a formula.

Pure: from a bench's names to (formula, value) pairs in ascending order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.steps import LABELLED, Bench
from prctlmm_lab.kernel.abi import MEMBER, U32, U64, PrctlMmMap


@dataclass(frozen=True)
class Landmark:
    """A value worth trying, and the formula that names it; "" is the value before the call."""

    formula: str
    value: int

    @property
    def label(self) -> str:
        """What the slider calls it."""
        return self.formula or "(unchanged)"


def landmarks(member: str, own: PrctlMmMap, bench: Bench) -> tuple[Landmark, ...]:
    """Return a member's landmarks in ascending order, each value once.

    The value before the call is always among them, with the formula "".
    """
    before = dict(own)[member]
    found = {before: Landmark("", before)}
    for formula in _formulas(member, bench):
        try:
            value = bench.value(formula, member)
        except InputError:
            continue  # a name that this specimen does not have, such as heap.start without a heap
        top = U64 if MEMBER[member].size == 8 else U32
        if 0 <= value <= top:
            found.setdefault(value, Landmark(formula, value))
    return tuple(found[value] for value in sorted(found))


def nearest(options: tuple[Landmark, ...], value: int) -> Landmark:
    """Return the landmark closest to a value."""
    return min(options, key=lambda landmark: abs(landmark.value - value))


def _formulas(member: str, bench: Bench) -> Iterable[str]:
    if member == "exe_fd":
        return [*bench.descriptors, "0x3", "0x3e7"]
    if member == "auxv_size":
        return ["0", "16", "48", "auxv_capacity - 1", "auxv_capacity", "auxv_capacity + 1"]
    if member == "auxv":
        return ["0", "lowest", *(f"{name}.start" for name in bench.regions), "highest"]
    return _address_formulas(member, bench)


def _address_formulas(member: str, bench: Bench) -> Iterable[str]:
    own = (f"{member} {step}" for step in ("- page", "- 1", "+ 1", "+ page"))
    others = (name for name, other in MEMBER.items() if other.is_address and name != member)
    edges = ("start", "end")
    regions = (f"{name}.{edge}" for name in (*bench.regions, *LABELLED) for edge in edges)
    inside = (f"{name}.start + page // 2" for name in bench.regions)
    bounds = ("0", "lowest - 1", "lowest", "highest", "highest + 1")
    return [*own, *(f"before.{name}" for name in others), *regions, *inside, *bounds]
