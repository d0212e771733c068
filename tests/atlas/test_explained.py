"""What differs between kernels: the data that was made, against the tables that say why."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from prctlmm_lab.atlas import explained
from prctlmm_lab.atlas.explained import Turn, differences, neighbours, separates, unsettled
from prctlmm_lab.atlas.survey import Case, Ran, Settled, Survey, Target, surveys
from prctlmm_lab.experiments.claims import CLAIM
from prctlmm_lab.experiments.conformance import cases
from prctlmm_lab.kernel.releases import CHANGES, DEVIATIONS, DOCUMENTED, facts_on, read_release

DATA = surveys()
TURNS = differences(DATA)
PLAIN = [s for s in DATA if (s.target.machine, s.target.levels) == ("x86_64", 4)]
KERNELS = sorted({survey.target.upstream for survey in PLAIN})


def name_of(survey: Survey) -> str:
    return f"{survey.target.name} {survey.target.who}"


# ---- what was made ----------------------------------------------------------------------------


def test_eight_kernels_were_asked_as_root_and_as_an_ordinary_user() -> None:
    assert len(KERNELS) >= 8
    assert {"5.10", "7.3"} <= {release.rpartition(".")[0] for release in KERNELS}
    assert {(s.target.upstream, s.target.who) for s in PLAIN} >= {
        (release, who) for release in KERNELS for who in ("root", "user")
    }


@pytest.mark.parametrize("survey", PLAIN, ids=name_of)
def test_a_survey_is_whole(survey: Survey) -> None:
    assert survey.facts is not None
    assert survey.facts.release == survey.target.release
    assert [*survey.conformance] == [
        f"{group}/{case.id}" for group, of_group in cases().items() for case in of_group
    ]
    assert [*survey.claims] == [*CLAIM]
    assert sum(part.calls for part in survey.verdicts) >= 1_000_000
    assert survey.watched >= 10_000
    assert survey.failures == {}
    everybody = 16 if survey.target.who == "root" else 8  # an ordinary user is fewer callers
    for part in survey.verdicts:
        assert len(part.by_scenario) == everybody
        assert len(part.by_limit) == 8
        assert part.skipped == {}


@pytest.mark.parametrize("survey", DATA, ids=name_of)
def test_model_and_kernel_never_disagree(survey: Survey) -> None:
    assert survey.disagreements == ()


def test_root_tests_the_other_operations_and_a_user_cannot() -> None:
    for survey in PLAIN:
        told = Counter(
            case.result for name, case in survey.conformance.items() if name.startswith("legacy/")
        )
        assert told["fail"] == 0
        assert (told["pass"] > 50) == (survey.target.who == "root"), told


# ---- why they differ --------------------------------------------------------------------------


def test_what_differs_is_what_the_tables_say() -> None:
    assert [str(turn) for turn in TURNS if not turn.reason] == []
    assert {turn.kind for turn in TURNS} == {"fact", "case", "claim", "recipe"}


@pytest.mark.parametrize("turn", TURNS, ids=lambda turn: f"{turn.kind} {turn.name} {turn.who}")
def test_a_commit_that_explains_lies_between_the_kernels(turn: Turn) -> None:
    alike = (turn.older.machine, turn.older.levels) == (turn.newer.machine, turn.newer.levels)
    assert bool(turn.commits) or not alike
    if not alike:
        return
    older, newer = (read_release(target.upstream) for target in (turn.older, turn.newer))
    documented = {
        commit
        for change in CHANGES
        for commit in change.commits
        if change.holds_on(older) != change.holds_on(newer)
    } | {
        commit
        for change in DEVIATIONS
        for commit in change.commits
        if change.was_taken_over_by(older) != change.was_taken_over_by(newer)
    }
    if turn.kind == "claim":
        history = CLAIM[turn.name].history
        assert history.holds_on(older) != history.holds_on(newer)
    else:
        assert {*turn.commits} <= documented


@pytest.mark.parametrize("survey", PLAIN, ids=name_of)
def test_facts_are_those_of_the_release(survey: Survey) -> None:
    """Probed in the guest, and documented for the release: neither knows of the other."""
    assert survey.facts is not None
    documented = facts_on(survey.target.upstream, survey.facts)
    # Without CAP_SYS_RESOURCE, or the right to change the exe link, some cannot be probed.
    for name in (name for name in DOCUMENTED if name not in survey.facts.assumed):
        if name == "auxv_tail_kept" and survey.target.who == "user":
            continue
        assert getattr(survey.facts, name) == getattr(documented, name), name


def test_without_a_change_in_the_tables_its_turns_are_unexplained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for fact in ("hole_shrinks", "touching_heap_labelled"):
        (gone,) = (change for change in CHANGES if change.fact == fact)
        explaining = {(t.kind, t.name) for t in TURNS if {*gone.commits} & {*t.commits}}
        assert {kind for kind, _ in explaining} >= {"fact", "recipe"}
        with monkeypatch.context() as patch:
            left = tuple(change for change in CHANGES if change is not gone)
            patch.setattr(explained, "CHANGES", left)
            unexplained = {(t.kind, t.name) for t in differences(DATA) if not t.reason}
        assert unexplained == explaining


# ---- made up ----------------------------------------------------------------------------------


def survey_of(release: str, **parts: object) -> Survey:
    pattern = next(s for s in PLAIN if s.target.who == "root")
    assert pattern.facts is not None
    target = Target(release, release, "x86_64", 4, "root")
    return replace(Survey(target, replace(pattern.facts, release=release)), **parts)  # type: ignore[arg-type]


def test_an_answer_that_nobody_expects_is_unexplained() -> None:
    accepted, refused = Case("pass", "accepted", "accepted"), Case("pass", "EINVAL", "EINVAL by x")
    older = survey_of(
        "6.1.1",
        conformance={"order/order.code.equal": refused, "range/range.lowest": accepted},
        recipes={"a/b": Ran("k", "accepted"), "a/c": Ran("k"), "a/d": Ran("k", "accepted")},
        claims={"brk.in_stat": Settled("does not hold", "", "")},
    )
    newer = survey_of(
        "6.2.1",
        conformance={"order/order.code.equal": accepted, "range/range.lowest": accepted},
        recipes={"a/b": Ran("k", "EINVAL", "order.code"), "a/c": Ran("another"),
                 "a/d": Ran("k", refused="no")},
        claims={"brk.in_stat": Settled("holds", "", "")},
    )  # fmt: skip
    turns = differences((newer, older))
    assert [(t.kind, t.name, t.before, t.after, t.reason) for t in turns] == [
        ("case", "order/order.code.equal", "pass (EINVAL)", "pass (accepted)", ""),
        ("claim", "brk.in_stat", "does not hold", "holds", ""),
        ("recipe", "a/b", "accepted", "EINVAL", ""),
        ("recipe", "a/d", "accepted", "cannot be made: no", ""),
    ]
    assert str(turns[2]) == "recipe a/b, root: 6.1.1 accepted, 6.2.1 EINVAL: unexplained"


def test_facts_that_differ_without_a_change_between_explain_nothing() -> None:
    told = {"k/brk": Ran("k", "accepted", effects=(("then brk()", "arena"),))}
    stays = {"k/brk": Ran("k", "accepted")}
    older, newer = survey_of("6.1.1", recipes=told), survey_of("6.2.1", recipes=stays)
    assert older.facts is not None
    assert newer.facts is not None
    older = replace(older, facts=replace(older.facts, hole_shrinks=True))
    newer = replace(newer, facts=replace(newer.facts, hole_shrinks=False))
    assert {(t.kind, t.reason) for t in differences((older, newer))} == {
        ("fact", ""), ("recipe", ""),
    }  # fmt: skip
    # Between v6.0 and v6.1 the same is explained.
    older = replace(older, target=replace(older.target, upstream="6.0.9"))
    assert {t.commits for t in differences((older, newer))} == {("2e7ce7d354f2",)}


def test_a_claim_that_could_not_be_shown_is_no_difference() -> None:
    shown = survey_of("6.1.1", claims={"race.a": Settled("holds", "holds", "")})
    not_shown = survey_of("6.2.1", claims={"race.a": Settled("cannot be shown", "", "why")})
    assert differences((shown, not_shown)) == ()
    assert [*unsettled((shown, not_shown))] == [("race.a", not_shown.target, "why")]


def test_kernels_stand_beside_their_like() -> None:
    def of(upstream: str, machine: str = "x86_64", levels: int = 4, who: str = "root") -> Survey:
        return Survey(Target(upstream, upstream, machine, levels, who))

    folder = [of("6.10.1"), of("6.9.1"), of("7.3.4", levels=5), of("7.3.4"), of("6.9.5", "um"),
              of("5.4.1", "aarch64"), of("6.9.1", who="user")]  # fmt: skip
    assert [(a.target.name, b.target.name) for a, b in neighbours(folder)] == [
        ("6.9.1", "6.10.1"), ("6.10.1", "7.3.4"), ("7.3.4", "7.3.4 5-level"),
        ("6.9.1", "5.4.1 aarch64"), ("6.9.1", "6.9.5 um"),
    ]  # fmt: skip


def test_a_commit_separates_the_releases_around_it() -> None:
    def target(release: str) -> Target:
        return Target(release, release, "x86_64", 4, "root")

    assert separates("d3bb89ea9c13", target("6.6.5"), target("6.7.1"))
    assert not separates("d3bb89ea9c13", target("6.7.1"), target("6.8.1"))
    # Stable kernels took it over, or it is in them alone.
    assert separates("e1fbbd073137", target("5.10.68"), target("5.10.69"))
    assert separates("0357ef03c94e", target("6.12.118"), target("6.16.1"))
    assert not separates("0357ef03c94e", target("6.13.1"), target("6.16.1"))


def test_the_atlas_is_small() -> None:
    folder = Path(__file__).parents[2] / "data" / "atlas"
    assert sum(path.stat().st_size for path in folder.glob("*.json")) < 3 << 20
