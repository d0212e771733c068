"""The fingerprint of the specification: nothing that it predicts can change unnoticed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from prctlmm_lab.atlas import fingerprint as module
from prctlmm_lab.atlas.fingerprint import fingerprint
from prctlmm_lab.atlas.survey import surveys
from prctlmm_lab.kernel import effects, legacy, rules
from prctlmm_lab.kernel.facts import Facts
from tests.ordinary_user import ROOT
from tests.views.address_spaces import FACTS

OLD = replace(
    FACTS, empty_data_accepted=False, heap_below_data_accepted=False, exe_permission_early=True,
    exe_changes_once=True, exe_capabilities=0, touching_heap_labelled=True, hole_shrinks=True,
    code_size_clamped=False,
)  # fmt: skip
"""Facts such as those of v3.18."""
MIDDLE = replace(FACTS, exe_permission_early=True)
KERNELS = (FACTS, MIDDLE, OLD, replace(FACTS, available=False))
BEFORE = {facts: fingerprint(facts) for facts in KERNELS}


def now(facts: Facts) -> str:
    """Return the fingerprint as it is at this moment, whatever it was before."""
    return fingerprint.__wrapped__(facts)


def test_a_process_of_its_own_tells_the_same() -> None:
    code = (
        "from tests.views.address_spaces import FACTS\n"
        "from prctlmm_lab.atlas.fingerprint import fingerprint\nprint(fingerprint(FACTS))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                         timeout=60, check=True)  # fmt: skip
    assert ran.stdout.strip() == now(FACTS) == now(replace(FACTS, release="x", assumed=("lowest",)))


@pytest.mark.parametrize("rule", [rule.id for rule in rules.RULES])
def test_a_rule_that_refuses_nothing_is_noticed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = next(f for f in KERNELS if any(r.id == rule for r in rules.rules_of(f))
                 and (rule != "call.option" or not f.available))  # fmt: skip
    mended = tuple(
        replace(each, broken=lambda s, f: False) if each.id == rule else each
        for each in rules.RULES
    )
    monkeypatch.setattr(rules, "RULES", mended)
    assert now(facts) != BEFORE[facts]


@pytest.mark.parametrize("rule", [*legacy.LEGACY_RULE])
def test_so_is_one_of_the_other_operations(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(legacy.LEGACY_RULE[rule], broken=lambda s, f: False)
    monkeypatch.setitem(legacy.LEGACY_RULE, rule, changed)
    assert now(FACTS) != BEFORE[FACTS]


@pytest.mark.parametrize("fact", [f.name for f in fields(Facts) if f.type == "bool"])
def test_a_fact_that_decides_is_noticed(fact: str) -> None:
    other: Any = {fact: not getattr(FACTS, fact)}
    assert now(replace(FACTS, **other)) != BEFORE[FACTS]


_JOINS = effects._joins


@pytest.mark.parametrize(
    ("name", "otherwise"),
    [
        ("_auxv", lambda before, new, vector, facts: before),
        ("_environ", lambda space, new: b""),
        ("code_size", lambda new, facts: 0),
        ("overlaps_heap", lambda vma, new: False),
        ("_joins", lambda *_: False),
        ("_joins", lambda vma, old, own, *rest: _JOINS(vma, old, own.changed(start_brk=0), *rest)),
        ("_shrunk", lambda *_: None),
        ("is_data", lambda vma, grows_down: False),
        ("STACK_GUARD_PAGES", 0),
    ],
)
def test_another_effect_is_noticed(
    name: str, otherwise: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, name, otherwise)
    assert now(FACTS) != BEFORE[FACTS]


def test_another_text_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    other = tuple(replace(r, title="x", history="y", numbers=lambda s, f: "z") for r in rules.RULES)
    monkeypatch.setattr(rules, "RULES", other)
    assert now(FACTS) == BEFORE[FACTS]


def test_the_sample_meets_accepted_calls_and_every_kind_of_label() -> None:
    assert [*module._verdicts(FACTS, module._Chance("_verdicts"))].count(None) > 50
    told = " ".join(str(a) for a in module._effects(FACTS, module._Chance("_effects")))
    for words in ("label='[heap]'", "label='[stack]'", "a title", "/another"):
        assert words in told


@pytest.mark.parametrize("survey", surveys(), ids=lambda s: f"{s.target.name} {s.target.who}")
def test_the_atlas_was_made_by_what_the_specification_says_now(survey: object) -> None:
    """Where it fails, the specification says something else of that kernel: ask it again.

    `prctlmm-lab atlas run --into data/atlas` does, as CONTRIBUTING.md says.
    """
    from prctlmm_lab.atlas.survey import Survey

    assert isinstance(survey, Survey)
    assert survey.facts is not None
    made = [*survey.made.values(), *(part.made for part in (*survey.verdicts, *survey.effects))]
    assert {each.specification for each in made if each} == {fingerprint(survey.facts)}
