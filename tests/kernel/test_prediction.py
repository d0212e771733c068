"""A column of predictions against as many real calls, and against the explanation of each map."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prctlmm_lab.kernel import rules
from prctlmm_lab.kernel.abi import ADDRESSES, MEMBERS, NO_EXE, U32, U64, PrctlMmMap
from prctlmm_lab.kernel.rules import RULES, ExeFile, Situation, explain, predict
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.situation import capabilities, exe_file
from tests.ordinary_user import UID

Columns = dict[str, Any]

DTYPE = np.dtype([(m.name, "<u8" if m.size == 8 else "<u4") for m in MEMBERS])
COUNT = 100_000
LIMITS = ("unset", "0", "exact", "one below")


@pytest.fixture(scope="module")
def seed() -> int:
    """Another one on each run; a failure shows it."""
    return int(os.environ.get("PRCTLMM_LAB_SEED") or random.SystemRandom().getrandbits(32))


class Field:
    """A specimen whose maps are told at random, biased towards every boundary."""

    def __init__(self, specimen: Specimen) -> None:
        self.specimen, self.facts = specimen, facts_here()
        pages = specimen.map(2 * PAGE)
        specimen.protect(pages + PAGE, PAGE, "---")
        self.start, self.edge = pages, pages + PAGE
        self.descriptor = specimen.memory_file("ghost")
        self.own = specimen.current_map()
        self.need = self.own.brk - self.own.start_brk + self.own.end_data - self.own.start_data

    def maps(self, count: int, generator: np.random.Generator) -> Any:
        """Return maps, most of them a few changes away from one that is accepted."""
        f, table = self.facts, np.zeros(count, DTYPE)
        bounds = np.array(
            [0, 1, f.lowest - 1, f.lowest, f.highest, f.highest + 1, 1 << 63, U64], np.uint64
        )
        for name, own in self.own:
            table[name] = own
        for name in ADDRESSES:
            own, other = dict(self.own)[name], generator.choice(ADDRESSES)
            kinds = generator.integers(0, 40, count)
            near = generator.integers(-2, 3, count).astype(np.uint64)  # wraps, as it should
            table[name] = np.select(
                [kinds == 0, kinds == 1, kinds == 2, kinds <= 8],
                [
                    generator.choice(bounds, count),
                    generator.integers(0, U64, count, np.uint64, endpoint=True),
                    table[other] + near,
                    np.uint64(own) + near,
                ],
                own,
            )
        empty = generator.random(count) < 0.3  # so that even a limit of 0 lets some pass
        table["end_data"][empty], table["brk"][empty] = (
            table["start_data"][empty],
            table["start_brk"][empty],
        )
        vectors = [0, self.start, self.edge - 16, self.edge - 1, self.edge, U64]
        sizes = [1, 16, 17, f.auxv_capacity, f.auxv_capacity + 1, U32]
        with_vector = generator.random(count) < 0.3
        table["auxv"] = generator.choice(np.array(vectors, np.uint64), count)
        table["auxv_size"] = np.where(with_vector, generator.choice(sizes, count), 0)
        other_exe = generator.random(count) < 0.1
        table["exe_fd"] = np.where(other_exe, self.descriptor, NO_EXE)
        return table

    def situation(self, table: Any, limit: int) -> Situation:
        columns = {name: table[name].astype(np.uint64) for name in table.dtype.names}
        last = columns["auxv"] + columns["auxv_size"]
        inside = (columns["auxv"] >= self.start) & (last <= self.edge)
        return Situation(
            map=SimpleNamespace(**columns),
            auxv_readable=inside & (last >= columns["auxv"]),
            rlimit_data=limit,
            capabilities=capabilities(self.specimen.snapshot()),
            exe=exe_file(self.specimen, self.descriptor),
            exe_mapped=True,
        )

    def limit(self, kind: str) -> int:
        return {"unset": U64, "0": 0, "exact": self.need, "one below": self.need - 1}[kind]

    def ask_kernel(self, table: Any, limit: int) -> Any:
        self.specimen.set_limit("DATA", limit)
        errnos = np.frombuffer(self.specimen.set_maps(table.tobytes()), np.uint8)
        self.specimen.set_limit("DATA", self.specimen.limit("DATA")[1])
        assert self.specimen.set_map(self.own) == 0
        return errnos


@pytest.fixture(scope="module", params=["as we are", "as uid 65534"])
def field(request: pytest.FixtureRequest) -> Iterator[Field]:
    with Specimen() as specimen:
        if request.param == "as uid 65534" and os.geteuid() == 0:
            specimen.become(UID)
        yield Field(specimen)


@pytest.mark.parametrize("kind", LIMITS)
def test_predictions_are_what_the_kernel_says(field: Field, kind: str, seed: int) -> None:
    generator = np.random.default_rng([seed, LIMITS.index(kind)])
    limit = field.limit(kind)
    table = field.maps(COUNT, generator)
    predicted = predict(field.situation(table, limit), field.facts, COUNT)
    said = field.ask_kernel(table, limit)
    wrong = np.flatnonzero(predicted != said)
    assert not wrong.size, (
        f"PRCTLMM_LAB_SEED={seed}: {wrong.size} disagree; the first: "
        f"{PrctlMmMap.unpack(table[wrong[0]].tobytes())}, RLIMIT_DATA {limit:#x}, "
        f"predicted {predicted[wrong[0]]}, kernel {said[wrong[0]]}"
    )
    verdicts = set(np.unique(said).tolist())
    assert {0, errno.EINVAL, errno.EFAULT} <= verdicts
    assert verdicts & {errno.EPERM, errno.EBUSY}  # by identity


@pytest.mark.parametrize("kind", LIMITS)
def test_predictions_are_what_each_explanation_says(field: Field, kind: str, seed: int) -> None:
    count = 1000
    generator = np.random.default_rng([seed, 100 + LIMITS.index(kind)])
    limit = field.limit(kind)
    table = field.maps(count, generator)
    columns = field.situation(table, limit)
    predicted = predict(columns, field.facts, count)
    for number in range(count):
        one = Situation(
            map=PrctlMmMap.unpack(table[number].tobytes()),
            auxv_readable=bool(columns.auxv_readable[number]),
            rlimit_data=limit,
            capabilities=columns.capabilities,
            exe=columns.exe,
            exe_mapped=True,
        )
        explanation = explain(one, field.facts)
        assert explanation.errno == predicted[number], f"PRCTLMM_LAB_SEED={seed}\n{explanation}"


@pytest.mark.parametrize("member", ADDRESSES)
def test_a_rule_that_is_missing_shows_in_the_predictions(
    field: Field, seed: int, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = field.maps(COUNT, np.random.default_rng(seed))
    said = field.ask_kernel(table, U64)
    without = tuple(rule for rule in RULES if rule.id != f"range.{member}")
    monkeypatch.setattr(rules, "RULES", without)
    predicted = predict(field.situation(table, U64), field.facts, COUNT)
    assert (predicted != said).any(), f"PRCTLMM_LAB_SEED={seed}"


def test_a_wrong_comparison_shows_in_the_predictions(field: Field, seed: int) -> None:
    table = field.maps(COUNT, np.random.default_rng(seed))
    limit = field.need
    said = field.ask_kernel(table, limit)
    for wrong in (limit - 1, limit + 1):
        predicted = predict(field.situation(table, wrong), field.facts, COUNT)
        assert (predicted != said).any(), f"PRCTLMM_LAB_SEED={seed}"


def test_scalars_of_the_call_are_spread_over_the_column(field: Field) -> None:
    table = field.maps(5, np.random.default_rng(1))
    columns = field.situation(table, U64)
    for change, number in (
        ({"size": 103}, 22),
        ({"arg5": 1}, 22),
        ({"struct_readable": False}, 14),
    ):
        situation = Situation(map=columns.map, **change)
        assert predict(situation, field.facts, 5).tolist() == [number] * 5
    closed = Situation(map=columns.map, capabilities=U64, exe=ExeFile(), rlimit_data=0)
    assert predict(closed, field.facts, 5).shape == (5,)


def test_one_map_and_a_column_are_not_mixed_up(field: Field) -> None:
    with pytest.raises(TypeError, match=r"explain\(\) takes one map; predict\(\) takes columns"):
        explain(Situation(map=SimpleNamespace()), field.facts)
