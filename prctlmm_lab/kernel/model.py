"""A model of the call: the rules in their order, and what is shown after. Ours, or a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel import effects
from prctlmm_lab.kernel.abi import MEMBERS, PrctlMmMap
from prctlmm_lab.kernel.effects import Memory
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot, Vma
from prctlmm_lab.kernel.rules import ExeFile, Predicate, Rule, Situation, rules_of


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
        is written with `&`, `|` and comparisons in brackets, without `and`, `or` and `not`.

        >>> from prctlmm_lab.specimen.probe import facts_here
        >>> ours = specification(facts_here())
        >>> ours.with_rule("order.code", lambda s, f: s.map.start_code > s.map.end_code).name
        'specification with another order.code'

        Raises InputError for a rule that the model does not have, and for a predicate that cannot
        serve columns or names what no situation has.
        """
        number = self._index(rule)
        _check(rule, broken)
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


class _UsedAsTruth(Exception):
    """A column was asked whether it is true."""


class _Column:
    """Stands for a column of values: it counts and compares, but is neither true nor false."""

    def _again(self, *others: object) -> _Column:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _again
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _again
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = _again
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _again
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _again  # type: ignore[assignment]
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise _UsedAsTruth


def _check(rule: str, broken: Predicate) -> None:
    """Refuse a predicate that could not be asked about columns.

    Raises InputError.
    """
    column, place = _Column(), f'predicate of "{rule}"'
    parts: dict[str, Any] = {field.name: column for field in fields(Situation)}
    parts["map"] = SimpleNamespace(**{member.name: column for member in MEMBERS})
    parts["exe"] = ExeFile(**{field.name: column for field in fields(ExeFile)})
    facts: Any = SimpleNamespace(**{field.name: 1 for field in fields(Facts)})
    try:
        broken(Situation(**parts), facts)
    except _UsedAsTruth:
        raise InputError(
            place, "asks whether a whole column of values is true", "",
            "& and | in place of and and or, == False in place of not, comparisons in brackets",
        ) from None  # fmt: skip
    except AttributeError as error:
        paths = {
            name: f"{path}.{name}"
            for path, there in (("f", facts), ("s", Situation(**parts)), ("s.exe", parts["exe"]),
                                ("s.map", parts["map"]))
            for name in vars(there)
        }  # fmt: skip
        near = get_close_matches(error.name or "", paths, n=1)
        hint = f"{paths[near[0]]}?" if near else "such as s.map.brk, s.rlimit_data, f.lowest"
        raise InputError(place, "is not there", repr(error.name)[:80], hint) from None
