"""Records compared: the same wherever things lie, and every difference seen, with its cause."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.errors import InputError, SystemCallError
from prctlmm_lab.experiments.causes import Side, cause_of
from prctlmm_lab.experiments.comparison import Difference, differences, findings, recipe_key
from prctlmm_lab.experiments.experiment import Experiment, SetupError, carry_out, prepare, run
from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.side_by_side import MOST_RECIPES, compare
from prctlmm_lab.experiments.steps import Brk, Map, Unmap
from prctlmm_lab.kernel.releases import CHANGES, facts_on
from prctlmm_lab.specimen.build import BUILDS
from prctlmm_lab.specimen.probe import facts_here

LOGBOOKS = Path(__file__).resolve().parents[2] / "data" / "logbooks"
SHIPPED = [
    experiment
    for below in ("", "conformance")
    for recipe in shipped_recipes(below).values()
    for experiment in recipe.experiments
]
MOVES = Experiment(
    "moves",
    setup=(Map("arena", pages=2), Unmap("arena.start", "arena.length")),
    change={"start_brk": "arena.start", "brk": "arena.start + 15"},
    after=(Brk("brk + page"),),
)


def compared(first: Record, second: Record) -> tuple[Difference, ...]:
    return differences(findings(first), findings(second))


def cause(first: Record, second: Record) -> str:
    return str(cause_of(Side.of(first), Side.of(second), compared(first, second)))


# ---- the same --------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS)
def test_two_runs_of_a_recipe_are_the_same_wherever_things_lie(build: str) -> None:
    """Every shipped recipe and case, twice under randomisation: on this kernel nothing differs."""
    told, moved = 0, 0
    for experiment in SHIPPED:
        subject = replace(experiment.specimen, build=build)
        try:
            first, second = (run(replace(experiment, specimen=subject)) for _ in range(2))
        except (SetupError, SystemCallError):
            continue
        assert compared(first, second) == (), experiment.id
        told, moved = told + 1, moved + (first.difference != second.difference)
    assert told > 300
    assert moved > 50, "the layouts were different indeed"


def test_labels_do_not_make_another_recipe() -> None:
    named = replace(
        MOVES, id="other", title="t", explanation="e", predict="EINVAL", rule="order.brk"
    )
    other = replace(MOVES, change={"start_brk": "arena.start", "brk": "arena.start + 16"})
    keys = [recipe_key(run(e).experiment) for e in (MOVES, named, other)]
    assert keys[0] == keys[1] != keys[2]


# ---- what differs ----------------------------------------------------------------------------


def test_a_byte_makes_a_difference() -> None:
    """Let the kernel show each address of a record one byte further, and see where it is told."""
    record = run(MOVES)
    told: list[str] = []
    for number, (place, name, before, after) in enumerate(record.difference):
        if after.startswith("0x"):
            rows = [*record.difference]
            rows[number] = place, name, before, hex(int(after, 16) + 1)
            told += map(str, compared(record, replace(record, difference=tuple(rows))))
    assert told == [
        "effect stat start_brk: arena -> arena+0x1", "effect brk(): arena+0xf -> arena+0x10"
    ]  # fmt: skip


def test_another_verdict_is_told_with_its_rule() -> None:
    other = replace(MOVES, change={**MOVES.change, "brk": "arena.start - 1"})
    told = map(str, compared(run(MOVES), run(other)))
    assert [*told][:2] == ["verdict: accepted -> EINVAL", "rule: nothing -> order.brk"]


def test_every_change_of_a_record_is_seen() -> None:
    """Alter what a record tells, one thing after the other: each alteration is a difference."""
    record = run(MOVES)
    for number, row in enumerate(record.difference):
        rows = [*record.difference]
        rows[number] = (*row[:3], row[3] + "1")
        assert compared(record, replace(record, difference=tuple(rows))), row
        del rows[number]
        assert compared(record, replace(record, difference=tuple(rows))), row
    outcome = record.outcome
    for other in (replace(outcome, verdict="EPERM"), replace(outcome, signal="SIGSEGV"),
                  replace(outcome, interrupted=True)):  # fmt: skip
        assert compared(record, replace(record, outcome=other))
    (answer,) = record.answers
    for changed in (
        replace(answer, answer="0x1"),
        replace(answer, answer="", refusal="x(0x1) = E"),
    ):
        assert compared(record, replace(record, answers=(changed,)))
    assert compared(record, replace(record, answers=()))


def test_a_learners_prediction_is_kept_apart() -> None:
    right, wrong = (run(replace(MOVES, predict=verdict)) for verdict in ("accepted", "EINVAL"))
    assert right.agreement != wrong.agreement
    assert compared(right, wrong) == ()


# ---- causes ------------------------------------------------------------------------------------


def with_facts(experiment: Experiment, **facts: Any) -> Record:
    """Return the record of a kernel of other facts, as our specification predicts it."""
    known = replace(facts_here(), **facts)
    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, known)
        record = carry_out(prepared)
    verdict = record.prediction.verdict
    errno = prepared.explanation.errno
    return replace(record, outcome=replace(record.outcome, verdict=verdict, errno=errno))


AUXV = Experiment("auxv", setup=(Map("arena"),), change={"auxv": "arena.start", "auxv_size": 416})
BELOW = Experiment("below", change={"start_brk": "page_down(start_code // 2)", "brk": "start_brk"})
HIGH = Experiment("high", change={"start_stack": 0x7FFFFFFFF000})
LOW = Experiment("low", change={"start_stack": 4096})
EMPTY = Experiment("empty", change={"start_data": "end_data"})


@pytest.mark.parametrize(
    ("experiment", "facts", "sentence"),
    [
        (AUXV, {"auxv_capacity": 368}, "1c33bb050750, v5.14; 317c8194e6ae, v6.3"),
        (BELOW, {"heap_below_data_accepted": False}, "e1fbbd073137, v5.15"),
        (EMPTY, {"empty_data_accepted": False}, "a9e73998f9d7, v5.2"),
        (HIGH, {"highest": (1 << 56) - 4097}, "5-level paging: addresses end at 0x7fffffffefff"),
        (LOW, {"lowest": 4096}, "vm.mmap_min_addr as it takes effect: addresses begin at 0x"),
        (HIGH, {"available": False, "refusal_errno": 1},
         "is built without CONFIG_CHECKPOINT_RESTORE (f606b77f1a9e, v3.18)"),
    ],
    ids=lambda value: value.id if isinstance(value, Experiment) else "",
)  # fmt: skip
def test_a_cause_is_named_with_its_commit(
    experiment: Experiment, facts: dict[str, Any], sentence: str
) -> None:
    here, there = run(experiment), with_facts(experiment, **facts)
    assert here.outcome.verdict != there.outcome.verdict
    assert sentence in cause(here, there)


def test_nothing_that_could_be_the_reason_is_unexplained() -> None:
    record = run(MOVES)
    other = replace(record, outcome=replace(record.outcome, verdict="ENOMEM"))
    assert cause(record, other) == "None"
    changed = replace(record, difference=(*record.difference, ("exe", "", "a", "b")))
    assert cause(record, changed) == "None"


def test_a_fact_that_has_nothing_to_do_with_it_is_no_cause() -> None:
    record = run(Experiment("code", change={"end_code": "start_code"}))
    facts = replace(record.facts, auxv_capacity=368, hole_shrinks=True, lowest=4096)
    other = replace(record, facts=facts, outcome=replace(record.outcome, verdict="accepted"))
    assert cause(record, other) == "None"


def test_a_run_that_was_interrupted_or_not_made_says_so() -> None:
    record = run(MOVES)
    stopped = replace(record, outcome=replace(record.outcome, verdict="", interrupted=True))
    assert "interrupted" in cause(record, stopped)
    old = run(replace(MOVES, change={}))
    assert "predicted" in cause(record, replace(old, origin="predicted"))


def test_every_documented_change_of_a_fact_explains_a_difference() -> None:
    """For each change there are two kernels, and a rule or effect of it that differs."""
    record = run(EMPTY)
    for change in CHANGES:
        if not change.fact or not change.subjects or change.fact == "available":
            continue
        facts = [
            replace(record.facts, **{change.fact: value}) for value in (change.before, change.since)
        ]
        rule = change.subjects[-1]
        sides = [replace(Side.of(record), facts=each) for each in facts]
        kinds = [Difference("verdict", "", "accepted", "EINVAL")]
        if rule in ("status.code", "maps.heap", "brk.shrink"):
            places = {"status.code": "status VmExe", "maps.heap": "maps x"}
            kinds = [Difference("effect", places.get(rule, "then brk()"), "[heap]", "")]
        else:
            sides[1] = replace(sides[1], findings=replace(sides[1].findings, rule=rule))
        assert set(change.commits) <= set(
            str(cause_of(sides[0], sides[1], kinds))
            .replace(";", ",")
            .replace("(", ", ")
            .split(", ")
        ), change


# ---- logs of other kernels -----------------------------------------------------------------------


def recorded(name: str) -> list[Record]:
    return list(LogFile(LOGBOOKS / f"linux-{name}.jsonl").records())


def test_real_kernels_differ_where_the_releases_say_and_nowhere_else() -> None:
    """Each difference between logs of real kernels has a cause, with its commit."""
    logs = {name: recorded(name) for name in ("5.10.262", "6.1.192", "7.3.4", "6.12.117-la57")}
    result = compare(logs)
    assert {row.experiment for row in result.differing} == {
        "auxv-23-entries", "auxv-27-entries", "beyond-four-levels", "heap-touches",
        "brk-over-a-hole", "exe.written",
    }  # fmt: skip
    for row in result.differing:
        for cell in row.cells.values():
            assert bool(cell.differences) == (cell.cause is not None)
    commits = {
        row.experiment: {str(c.cause) for c in row.cells.values()} for row in result.differing
    }
    assert any("d3bb89ea9c13, v6.7" in text for text in commits["heap-touches"])
    assert any("2e7ce7d354f2, v6.1" in text for text in commits["brk-over-a-hole"])
    assert any("5-level paging" in text for text in commits["beyond-four-levels"])
    assert not any(result.lacking.values())


def test_the_facts_of_real_kernels_are_as_documented() -> None:
    """Compare what was probed there with the table of releases, by the log's name."""
    here = facts_here()
    for name in ("5.10.262", "6.1.192", "7.3.4"):
        probed, documented = recorded(name)[0].facts, facts_on(name, here)
        for fact in ("auxv_capacity", "touching_heap_labelled", "hole_shrinks",
                     "written_exe_refused", "heap_below_data_accepted"):  # fmt: skip
            assert getattr(probed, fact) == getattr(documented, fact), (name, fact)


def test_a_kernel_without_the_option_is_named() -> None:
    result = compare({name: recorded(name) for name in ("6.1.192", "6.1.176-uml")})
    causes = {str(row.cells["6.1.176-uml"].cause) for row in result.differing}
    assert any("without CONFIG_CHECKPOINT_RESTORE" in text for text in causes)
    assert "None" not in causes


def test_a_log_that_does_not_agree_with_itself_says_so() -> None:
    first = run(MOVES)
    other = replace(first, outcome=replace(first.outcome, verdict="EPERM", errno=1))
    (row,) = compare({"a": [first, other, first], "b": [first]}).differing
    assert (row.cells["a"].varies, row.cells["b"].varies) == (True, False)


def test_a_log_that_lacks_a_recipe_is_told() -> None:
    result = compare({"a": [run(MOVES), run(LOW)], "b": [run(LOW)]})
    assert result.lacking == {"a": 0, "b": 1}
    assert result.differing == ()


def test_too_many_recipes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prctlmm_lab.experiments.side_by_side.MOST_RECIPES", 1)
    assert MOST_RECIPES > 1
    with pytest.raises(InputError, match="is one recipe too many"):
        compare({"a": [run(MOVES), run(LOW)]})


def test_how_a_specimen_ended_is_told_without_its_number() -> None:
    dies = Experiment("dies", after=(Unmap("start_code"),))
    first, second = run(dies), run(dies)
    assert first.outcome.signal == "SIGSEGV"
    assert first.outcome.ended != second.outcome.ended
    assert compared(first, second) == ()
    assert "end: nothing -> SIGSEGV" in map(str, compared(run(replace(dies, after=())), first))
