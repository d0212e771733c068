"""What an experiment may need of the kernel: a check that it makes or not, a thing that it does.

A need is the id of a rule, or the name of a fact that is true or false; with "not " before it, the
opposite.
"""

from __future__ import annotations

from dataclasses import fields

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import shorten, suggestion
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.legacy import LEGACY_RULE
from prctlmm_lab.kernel.rules import RULE

_RULES = RULE | LEGACY_RULE
_TRAITS = tuple(field.name for field in fields(Facts) if field.type == "bool")


def check_need(need: str, where: str) -> None:
    """Refuse what names neither a rule nor a fact that is true or false.

    Raises InputError; `where` names the place in messages.
    """
    name = need.removeprefix("not ")
    if name not in _RULES and name not in _TRAITS:
        known = (*_RULES, *_TRAITS)
        raise InputError(where, "is neither a rule nor a fact", shorten(name),
                         suggestion(name, known, _TRAITS))  # fmt: skip


def unmet(need: str, facts: Facts) -> str:
    """Return why a kernel does not meet a need, "" if it does.

    >>> from prctlmm_lab.specimen.probe import facts_here
    >>> unmet("not order.code", facts_here())
    'this kernel makes the check order.code (since v3.18 (f606b77f1a))'
    """
    name = need.removeprefix("not ")
    wanted = name == need
    if name in _RULES:
        made = _RULES[name].exists(facts)
        verb = "makes" if made else "does not make"
        reason = f"this kernel {verb} the check {name} ({_RULES[name].history})"
    else:
        made = getattr(facts, name)
        reason = f"of this kernel the fact {name} is {str(made).lower()}"
    return "" if made == wanted else reason
