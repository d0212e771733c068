"""A model of the call: the rules in their order, and what is shown after. Ours, or a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel import effects
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.effects import Memory
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot, Vma
from prctlmm_lab.kernel.rules import Predicate, Rule, rules_of


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

    def with_rule(self, rule: str, broken: Predicate) -> Model:
        """Return a model in which another predicate says when a rule is broken.

        The predicate gets a Situation and the Facts. It serves one map and columns of them, so it
        is written with `&`, `|` and comparisons, without `and`, `or` and `not`.

        >>> from prctlmm_lab.specimen.probe import facts_here
        >>> ours = specification(facts_here())
        >>> ours.with_rule("order.code", lambda s, f: s.map.start_code > s.map.end_code).name
        'specification with another order.code'

        Raises InputError for a rule that the model does not have.
        """
        number = self._index(rule)
        changed = replace(self.rules[number], broken=broken)
        rules = (*self.rules[:number], changed, *self.rules[number + 1 :])
        return replace(self, name=f"{self.name} with another {rule}", rules=rules)

    def without(self, rule: str) -> Model:
        """Return a model that lacks a rule.

        Raises InputError for a rule that the model does not have.
        """
        number = self._index(rule)
        rules = self.rules[:number] + self.rules[number + 1 :]
        return replace(self, name=f"{self.name} without {rule}", rules=rules)

    def _index(self, rule: str) -> int:
        ids = [known.id for known in self.rules]
        if rule not in ids:
            near = get_close_matches(str(rule), ids, n=1)
            hint = f"{near[0]}?" if near else f"one of {', '.join(ids)}"
            raise InputError("model", "is not a rule of it", repr(rule)[:80], hint)
        return ids.index(rule)


def specification(facts: Facts) -> Model:
    """Return our model of the kernel that the facts describe.

    >>> from prctlmm_lab.specimen.probe import facts_here
    >>> specification(facts_here()).rules[0].id
    'call.arg5'
    """
    return Model("specification", rules_of(facts))
