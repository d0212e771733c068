"""A column of predictions against the explanation of each map, and against the kernel."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.columns import (
    MAP_TYPE,
    MOST_QUESTIONS,
    ask_kernel,
    map_at,
    situation_of_all,
    table_of,
)
from prctlmm_lab.experiments.experiment import set_up
from prctlmm_lab.experiments.generation import Landmarks, landmarks, random_maps
from prctlmm_lab.experiments.scenarios import LIMITS, Scenario, scenarios
from prctlmm_lab.experiments.steps import Bench
from prctlmm_lab.kernel.abi import MAP_SIZE, U64, PrctlMmMap
from prctlmm_lab.kernel.rules import ACCEPTED, Situation, decide, explain, predict, rules_of
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.situation import situation_of
from tests.needs import needs_user_namespaces

COUNT = 20_000


@pytest.fixture(scope="module")
def seed() -> int:
    """Another one on each run; a failure shows it."""
    return int(os.environ.get("PRCTLMM_LAB_SEED") or random.SystemRandom().getrandbits(32))


@pytest.fixture(scope="module", params=[s.name for s in scenarios()])
def ground(request: pytest.FixtureRequest) -> Iterator[tuple[Bench, Landmarks]]:
    scenario: Scenario = next(s for s in scenarios() if s.name == request.param)
    if "namespace" in scenario.name:
        needs_user_namespaces()
    with scenario.experiment.specimen.start() as specimen:
        bench = set_up(scenario.experiment, specimen, facts_here())
        yield bench, landmarks(bench)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_column_is_what_the_kernel_says_and_what_each_explanation_says(
    ground: tuple[Bench, Landmarks], limit: str, seed: int
) -> None:
    bench, marks = ground
    specimen, facts = bench.specimen, bench.facts
    soft = min(bench.address(LIMITS[limit], "limit"), specimen.limit("DATA")[1])
    specimen.set_limit("DATA", soft)
    table = random_maps(marks, soft, COUNT, np.random.default_rng(seed))
    situation = situation_of_all(specimen, table)
    predicted = predict(situation, facts, COUNT)
    deciding = decide(situation, facts, COUNT)
    rules = rules_of(facts)
    for row in range(0, COUNT, 200):
        explanation = explain(situation_of(specimen, map_at(table, row)), facts)
        assert explanation.errno == predicted[row], f"PRCTLMM_LAB_SEED={seed}"
        rule = rules[deciding[row]].id if deciding[row] != ACCEPTED else ""
        assert rule == (explanation.deciding.rule.id if explanation.deciding else "")
    said = ask_kernel(specimen, table)
    specimen.set_limit("DATA", specimen.limit("DATA")[1])
    assert specimen.set_map(marks.own) == 0
    wrong = np.flatnonzero(predicted != said)
    assert not wrong.size, f"PRCTLMM_LAB_SEED={seed}: {map_at(table, int(wrong[0]))}"


def test_scalars_are_spread_over_the_column() -> None:
    columns = SimpleNamespace(**{name: np.zeros(5, np.uint64) for name, _ in PrctlMmMap()})
    facts = facts_here()
    for change, number in (
        ({"size": 103}, 22),
        ({"arg5": 1}, 22),
        ({"struct_readable": False}, 14),
    ):
        assert predict(Situation(columns, **change), facts, 5).tolist() == [number] * 5


def test_whatever_is_a_column_is_taken_row_by_row() -> None:
    count = 40_000  # more than are taken at once
    base = PrctlMmMap(**dict.fromkeys(dict(PrctlMmMap()), 1 << 20)).changed(
        end_code=(1 << 20) + 1, auxv=0, auxv_size=0, exe_fd=(1 << 32) - 1
    )
    columns = SimpleNamespace(**{n: np.full(count, v, np.uint64) for n, v in base})
    odd = np.arange(count) % 2 == 1
    facts = facts_here()
    for situation, number in (
        (Situation(columns, size=np.where(odd, 103, MAP_SIZE)), 22),
        (Situation(columns, arg5=odd.astype(np.uint64)), 22),
        (Situation(columns, struct_readable=~odd), 14),
        (Situation(columns, auxv_readable=~odd), 14),
    ):
        assert predict(situation, facts, count).tolist() == (odd * number).tolist()


def test_another_order_of_rules_is_another_prediction() -> None:
    facts = facts_here()
    both = Situation(PrctlMmMap(), struct_readable=False)
    rules = rules_of(facts)
    assert explain(both, facts).errno == explain(both, facts, rules).errno == 14
    assert explain(both, facts, rules[::-1]).errno == 22


def test_one_map_and_a_column_are_not_mixed_up() -> None:
    with pytest.raises(TypeError, match=r"explain\(\) takes one map; predict\(\) takes columns"):
        explain(Situation(map=SimpleNamespace()), facts_here())


def test_a_table_is_an_array_of_the_kernels_structs() -> None:
    base = PrctlMmMap(start_code=1, exe_fd=7, auxv_size=9)
    table = table_of(base, 3)
    assert table.tobytes() == base.pack() * 3
    assert MAP_TYPE.itemsize == MAP_SIZE
    table["brk"][1] = U64
    assert map_at(table, 1) == replace(base, brk=U64)
    assert map_at(table, 2) == base


def test_an_empty_table_has_no_answers(ground: tuple[Bench, Landmarks]) -> None:
    assert ask_kernel(ground[0].specimen, table_of(PrctlMmMap(), 0)).size == 0


def test_too_many_questions_are_refused_in_one_sentence(ground: tuple[Bench, Landmarks]) -> None:
    table = table_of(ground[1].own, MOST_QUESTIONS + 1)
    table["auxv"], table["auxv_size"] = np.arange(table.size), 1
    message = r"auxv and auxv_size: 0x1001 different values .* at most 0x1000"
    with pytest.raises(InputError, match=message):
        situation_of_all(ground[0].specimen, table)
