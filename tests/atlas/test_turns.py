"""Kernels beside each other: from records, and from surveys, the same question turns alike."""

from __future__ import annotations

from collections.abc import Iterator

from prctlmm_lab.atlas.recorded import RecordedKernel, questions, recorded_kernels
from prctlmm_lab.atlas.survey import Case, Ran, Survey, Target
from prctlmm_lab.atlas.turns import UNEXPLAINED, atlas_of, stands_beside, surveyed_atlas
from prctlmm_lab.experiments.comparison import findings, recipe_key

ASKED = ("same-map", "vector-416", "heap-touches", "brk-over-a-hole")


def surveys(who: str = "root") -> Iterator[Survey]:
    """Make surveys of what was recorded, the newest kernel first."""
    for kernel in (*recorded_kernels(levels=5), *reversed(recorded_kernels())):
        target = Target(kernel.release, kernel.upstream, "x86_64", kernel.levels, who)
        recipes = {f"q/{name}": ran(kernel, name) for name in ASKED}
        cases = {"order/a": Case("pass"), "exe/b": Case("pass" if kernel.levels == 4 else "skip")}
        facts = kernel.recorded(questions()["same-map"]).facts
        yield Survey(target, facts, recipes=recipes, conformance=cases)


def ran(kernel: RecordedKernel, name: str) -> Ran:
    record = kernel.recorded(questions()[name])
    found = findings(record)
    return Ran(
        recipe_key(record.experiment), found.verdict, found.rule, found.end,
        effects=tuple((name.text, value.text) for name, value in found.effects),
        answers=tuple((name.text, value.text) for name, value in found.answers),
    )  # fmt: skip


def test_from_surveys_the_same_kernels_turn_at_the_same_places() -> None:
    kernels = (*recorded_kernels(), *recorded_kernels(levels=5))
    names = {k: k.upstream + (" 5-level" if k.levels == 5 else "") for k in kernels}
    direct = atlas_of(
        {names[k]: [k.recorded(questions()[name]) for name in ASKED] for k in kernels}
    )
    surveyed = surveyed_atlas(surveys())
    assert surveyed.kernels == direct.kernels == tuple(names.values())
    for one, other in zip(surveyed.rows, direct.rows, strict=True):
        assert one.id == f"q/{other.id}"
        places = [(turn.older, turn.newer) for turn in one.turns]
        assert places == [(turn.older, turn.newer) for turn in other.turns]
        assert [t.cause != UNEXPLAINED for t in one.turns] == [True] * len(places)
        runs = [[answers[a] == answers[b] for a in names.values() for b in names.values()]
                for answers in (one.answers, other.answers)]  # fmt: skip
        assert runs[0] == runs[1], (one.id, one.answers)


def test_a_kernel_of_another_kind_is_held_against_its_like() -> None:
    (row,) = (r for r in surveyed_atlas(surveys(), kinds=["case"]).rows if r.id == "exe/b")
    assert [(turn.older, turn.newer) for turn in row.turns] == [("6.12.118", "6.12.118 5-level")]
    assert row.answers["6.12.118"] == row.answers["7.3.4"]
    assert row.answers["6.12.118 5-level"] != row.answers["6.12.118"]


def test_only_one_caller_is_in_an_atlas() -> None:
    both = [*surveys("root"), *surveys("user")]
    assert len(surveyed_atlas(both, who="user").kernels) == len(both) // 2
    assert [stands_beside(kernel) for kernel in surveyed_atlas(both).kernels].count(True) == 1
