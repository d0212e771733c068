"""Models of one's own: another rule, a rule less, and predicates that cannot serve columns."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.model import _Column, specification
from prctlmm_lab.kernel.rules import RULES, Situation, explain
from tests.views.address_spaces import FACTS

OURS = specification(FACTS)
GOOD = PrctlMmMap(0x401000, 0x402000, 0x402000, 0x403000, 0x404000, 0x405000, 0x7FFF0000,
                  0x7FFF0010, 0x7FFF0020, 0x7FFF0020, 0x7FFF0030)  # fmt: skip


def errno(model: Any, change: dict[str, int]) -> int:
    return explain(Situation(GOOD.changed(**change)), FACTS, model.rules).errno


def test_another_rule_decides_in_the_place_of_ours() -> None:
    mine = OURS.with_rule("order.code", lambda s, f: s.map.start_code > s.map.end_code)
    empty = {"end_code": GOOD.start_code}
    assert (errno(OURS, empty), errno(mine, empty)) == (22, 0)
    assert errno(mine, {"end_code": GOOD.start_code - 1}) == 22
    assert [rule.id for rule in mine.rules] == [rule.id for rule in OURS.rules]


def test_a_rule_less_refuses_less() -> None:
    mine = OURS.without("range.brk")
    high = {"brk": FACTS.highest + 1}
    assert (errno(OURS, high), errno(mine, high)) == (22, 0)
    assert len(mine.rules) == len(OURS.rules) - 1


def test_every_predicate_of_ours_could_be_a_learners() -> None:
    for rule in OURS.rules:
        OURS.with_rule(rule.id, rule.broken)
    assert len(OURS.rules) > len(RULES) - 8


@pytest.mark.parametrize(
    "predicate",
    [
        lambda s, f: s.map.brk > 1 and s.map.brk < 3,
        lambda s, f: s.map.brk > 1 or s.map.brk < 3,
        lambda s, f: not s.exe.is_open,
        lambda s, f: 1 < s.map.brk < 3,
        lambda s, f: s.map.brk > 1 & s.map.end_data < 3,
        lambda s, f: max(s.map.brk, s.map.start_brk) > 3,
        lambda s, f: s.map.exe_fd in (3, 4),
        lambda s, f: s.size != 104 if s.arg5 else False,
    ],
)
def test_a_predicate_that_asks_for_one_truth_is_told_in_a_sentence(
    predicate: Callable[[Any, Any], Any],
) -> None:
    with pytest.raises(InputError) as caught:
        OURS.with_rule("limit.data", predicate)
    assert 'predicate of "limit.data": asks whether a whole column' in str(caught.value)
    assert "& and |" in str(caught.value)


@pytest.mark.parametrize(
    ("predicate", "hint"),
    [
        (lambda s, f: s.map.end_brk > 1, "'end_brk' is not there"),
        (lambda s, f: s.brk > 1, "expected s.map.brk?"),
        (lambda s, f: s.map.brk > f.lowst, "expected f.lowest?"),
        (lambda s, f: s.map.rlimit_data > 1, "expected s.rlimit_data?"),
        (lambda s, f: s.is_open, "expected s.exe.is_open?"),
    ],
)
def test_a_name_that_is_not_there_is_told_with_the_nearest(
    predicate: Callable[[Any, Any], Any], hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        OURS.with_rule("limit.data", predicate)
    assert hint in str(caught.value)


def test_a_rule_that_is_not_there_is_told_with_the_nearest() -> None:
    for call in (OURS.without, lambda name: OURS.with_rule(name, lambda s, f: False)):
        with pytest.raises(InputError, match=r"order\.code\?"):
            call("order.cod")


def test_a_column_has_the_operators_of_numbers() -> None:
    column: Any = _Column()
    names = "add sub mul floordiv mod and_ or_ xor lshift rshift lt le gt ge eq ne".split()
    for name in names:
        assert getattr(operator, name)(column, 1) is column
        assert getattr(operator, name)(1, column) is column
    assert ~column is column
