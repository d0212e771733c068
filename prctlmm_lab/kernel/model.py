"""A model of the call: the rules in their order, and what is shown after. Ours, or a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prctlmm_lab.kernel import effects
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.effects import Memory
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot, Vma
from prctlmm_lab.kernel.rules import Rule, rules_of


@dataclass(frozen=True)
class Model:
    """What somebody says of the call; `fuzz` holds it against the kernel."""

    name: str
    rules: tuple[Rule, ...]
    """In the order in which they are checked."""
    shown_after: Callable[[Snapshot, PrctlMmMap, Memory, Facts], Snapshot] = effects.shown_after
    brk_after: Callable[[Snapshot, int, Memory, Facts], tuple[int, tuple[Vma, ...]]] = (
        effects.brk_after
    )


def specification(facts: Facts) -> Model:
    """Return our model of the kernel that the facts describe.

    >>> from prctlmm_lab.specimen.probe import facts_here
    >>> specification(facts_here()).rules[0].id
    'call.arg5'
    """
    return Model("specification", rules_of(facts))
