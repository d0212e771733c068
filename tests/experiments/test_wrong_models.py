"""Wrong models: what is altered, what is proved, what is caught."""

from __future__ import annotations

import ast
import time

import pytest

from prctlmm_lab.experiments import wrong_models
from prctlmm_lab.experiments.wrong_models import (
    Examination,
    all_wrong_models,
    alterations,
    examine,
    wrong_effects,
    wrong_rules,
)
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.effects import EFFECTS
from prctlmm_lab.kernel.model import specification
from prctlmm_lab.kernel.rules import Situation, explain
from prctlmm_lab.specimen.probe import facts_here


def altered(code: str, *distances: int) -> set[str]:
    tree = ast.parse(code, mode="eval")
    return {ast.unparse(whole) for _, _, whole in alterations(tree, distances)}


def test_each_thing_is_altered_by_itself() -> None:
    assert altered("a < b", 1, 4096) == {
        "a <= b", "a < b + 1", "a < b - 1", "a < b + 4096", "a < b - 4096",
    }  # fmt: skip
    assert altered("a != 0", 1) == {"a == 0", "a < 0", "a > 0", "a != 0 + 1", "a != 0 - 1"}
    assert altered("a == False", 1) == {"a != False"}
    assert altered("a and b - c") == {"a or b - c", "a and b + c"}
    assert altered("a <= b <= c") == {"a < b <= c", "a <= b < c"}
    assert altered("not a") == {"a"}
    assert altered("f(new.brk)") == {"f(new.brk + 1)"}
    assert altered("f(a, 'text')") == set()


def test_every_rule_is_altered_removed_and_swapped() -> None:
    facts = facts_here()
    models = list(wrong_rules(facts))
    rules = specification(facts).rules
    for number, rule in enumerate(rules):
        mine = [wrong for wrong in models if wrong.where == rule.id]
        assert any(wrong.after == "removed" for wrong in mine)
        assert any(wrong.after == "after it" for wrong in mine) == (number + 1 < len(rules))
        if rule.id != "call.option":
            assert len(mine) >= 2, rule.id
    bounds = {wrong.after for wrong in models if wrong.where == "range.brk"}
    assert {
        "address <= f.lowest", "address < f.lowest + 1", "address < f.lowest - 1",
        "address < f.lowest + 4096", "address < f.lowest - 4096", "address >= f.highest",
    } <= bounds  # fmt: skip


def test_each_wrong_model_is_another_one_and_ours_is_untouched() -> None:
    ids = [wrong.id for wrong in all_wrong_models()]
    assert len(ids) == len(set(ids)) > 350
    situation = Situation(PrctlMmMap(start_code=1 << 20, end_code=1 << 20))
    assert explain(situation, facts_here()).errno == 22


def test_the_effects_that_are_altered_are_all_there_are() -> None:
    functions = {wrong.where for wrong in wrong_effects(facts_here())}
    shown = {
        "stat": "_stat", "statm.text": "code_size", "status.code": "_status",
        "cmdline": "_cmdline", "environ": "_environ", "auxv": "_auxv", "exe": "shown_after",
        "maps.heap": "overlaps_heap", "maps.stack": "labelled", "brk.grow": "_grown",
        "brk.shrink": "_without", "brk.limit": "_moved",
    }  # fmt: skip
    plain = {"brk", "nothing", "unchanged"}
    """They stand as they are: there is no formula in them."""
    assert {effect.id for effect in EFFECTS} - plain == set(shown)
    assert set(shown.values()) <= functions


def test_proofs_are_about_what_no_call_can_tell() -> None:
    proofs = {wrong.id: wrong.proof for wrong in wrong_rules(facts_here()) if wrong.proof}
    assert "both refuse with EINVAL" in proofs["order.code: before order.data -> after it"]
    assert "no call breaks both" in proofs["exe.descriptor: before exe.regular -> after it"]
    assert "refuses no call" in proofs["call.option: the rule -> removed"]
    assert "same for all values" in proofs["call.arg5: s.arg5 != 0 -> s.arg5 > 0"]
    partner = "range.start_code: address > f.highest -> address >= f.highest"
    assert "end_code is refused instead" in proofs[partner]
    for wrong_id in (
        "range.start_stack: the rule -> removed",
        "auxv.size: before auxv.readable -> after it",
        "limit.data: _data_need(s.map) > s.rlimit_data -> _data_need(s.map) >= s.rlimit_data",
        "range.end_code: address > f.highest -> address >= f.highest",
    ):
        assert wrong_id in {wrong.id for wrong in wrong_rules(facts_here())}
        assert wrong_id not in proofs


def test_a_few_calls_catch_most_of_them() -> None:
    result = examine(24_000, seconds=8)
    assert isinstance(result, Examination)
    assert len(result.caught) > 100
    assert set(result.caught) == set(result.caught_after)
    total = len(result.caught) + len(result.proved) + len(result.escaped)
    assert total == len(all_wrong_models())
    assert f"{len(result.escaped)} escaped" in str(result)
    evidence = result.caught["range.start_stack: the rule -> removed"]
    assert " predicted, EINVAL by the kernel; " in evidence


def test_a_model_that_is_no_different_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = specification(facts_here())
    same = wrong_models.WrongModel("limit.data", "as it is", "as it is", ours, of_rules=True)
    monkeypatch.setattr(wrong_models, "all_wrong_models", lambda: (same,))
    assert examine(5000).escaped == [same.id]


def test_an_altered_formula_that_does_not_end_is_stopped() -> None:
    def never() -> None:
        with wrong_models._time_limit():
            while True:
                pass

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        never()
    assert time.monotonic() - started < 10
