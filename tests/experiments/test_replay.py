"""A log replayed: the same on the same kernel; what differs is named, and what cannot be told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Experiment, Subject, run
from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.record import Record, interrupted
from prctlmm_lab.experiments.replay import CANNOT, DIFFERS, SAME, recorded_experiment, replay
from prctlmm_lab.experiments.steps import Map, Write
from prctlmm_lab.kernel.procfs import read_snapshot
from prctlmm_lab.specimen.probe import facts_here
from tests.needs import skip_unless

LOGBOOKS = Path(__file__).resolve().parents[2] / "data" / "logbooks"
MOVES = Experiment(
    "moves",
    specimen=Subject(arguments=("a\udcff", "back\\slash")),
    setup=(Map("arena"), Write("arena.start", hex="ff5c00")),
    change={"arg_start": "arena.start", "arg_end": "arena.start + 3"},
    predict="EINVAL",
)


def test_what_was_run_here_is_the_same_here() -> None:
    records = [run(e) for recipe in shipped_recipes().values() for e in recipe.experiments]
    told = list(replay(records))
    assert [each.result for each in told] == [SAME] * len(records)
    assert [each.id for each in told] == [record.id for record in records]
    assert [each.here for each in told] == [record.outcome.verdict for record in records]


def test_the_experiment_comes_back_as_it_was_but_for_the_prediction() -> None:
    assert recorded_experiment(run(MOVES)) == replace(MOVES, predict="")


def test_new_records_go_to_another_log_and_a_recipe_is_run_once(tmp_path: Path) -> None:
    record = run(MOVES)
    log = LogFile(tmp_path / "new.jsonl")
    told = list(replay([record, record], log))
    assert [each.result for each in told] == [SAME, SAME]
    (new,) = log.records()
    assert new.id != record.id
    assert new.learner == ""
    assert [recorded_experiment(each) for each in (new, record)] == [replace(MOVES, predict="")] * 2


def test_a_log_of_another_kernel_differs_where_this_one_does() -> None:
    """Compare with what the facts of the two kernels say, recipe by recipe."""
    here = facts_here()
    skip_unless(
        (here.auxv_capacity, here.hole_shrinks, here.touching_heap_labelled,
         here.written_exe_refused, here.highest >> 47) == (448, False, False, True, 0),
        "this kernel is not one like v7.0 with four levels of page tables", impossible=True,
    )  # fmt: skip
    told = {
        each.experiment: each
        for each in replay(LogFile(LOGBOOKS / "linux-5.10.262.jsonl").records())
    }
    differing = {name for name, each in told.items() if each.result == DIFFERS}
    wanted = {
        "auxv-23-entries",
        "auxv-27-entries",
        "heap-touches",
        "brk-over-a-hole",
        "exe.written",
    }
    assert differing == wanted
    assert not [each for each in told.values() if each.result == CANNOT]
    assert (told["auxv-23-entries"].recorded, told["auxv-23-entries"].here) == (
        "EINVAL",
        "accepted",
    )
    assert "1c33bb050750" in str(told["auxv-23-entries"].cause)


def test_a_difference_without_a_cause_is_unexplained() -> None:
    record = run(MOVES)
    odd = replace(record, outcome=replace(record.outcome, verdict="EPERM", errno=1))
    (told,) = replay([odd])
    assert (told.result, told.cause) == (DIFFERS, None)
    assert told.text() == ["differs  moves", "  verdict: EPERM -> accepted", "  unexplained"]


def without(record: Record, **table: object) -> Record:
    return replace(record, experiment={**record.experiment, **table})


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"setup": [{"reboot": True}]}, "setup[0]: 'reboot' is a system call that no recipe may"),
        ({"setup": [{"map": "a", "at": "1 //"}]}, "setup[0].at: '1 //' is not a formula"),
        ({"change": {"brk": "__import__('os').system('id')"}}, "is not a formula"),
        ({"needs": ["not order.code"]}, "this kernel makes the check order.code"),
        ({"id": ""}, "'' is not an id"),
        ({"surprise": 1}, "'surprise' is not a known key"),
        ({"specimen": {"heap_pages": 1 << 40}}, "heap_pages"),
        ({"setup": [{"map": "a", "pages": "highest"}], "change": {}}, "pages cannot be mapped"),
    ],
)
def test_what_cannot_be_shown_here_is_told(table: dict[str, object], reason: str) -> None:
    (told,) = replay([without(run(MOVES), **table)])
    assert told.result == CANNOT
    assert reason in told.reason
    assert len(told.reason) < 400


def test_an_interrupted_record_cannot_be_compared() -> None:
    (told,) = replay([interrupted(run(MOVES))])
    assert (told.result, told.here) == (CANNOT, "accepted")
    assert told.reason == "the log does not know what came of it"


def test_a_log_that_cannot_be_written_is_an_error_and_no_result(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        list(replay([run(MOVES)], LogFile(tmp_path / "none" / "log")))


def test_a_replay_leaves_this_process_as_it_was() -> None:
    before = read_snapshot()
    list(replay(LogFile(LOGBOOKS / "linux-7.3.4.jsonl").records()))
    after = read_snapshot()
    assert (before.members, before.cmdline, before.auxv) == (
        after.members,
        after.cmdline,
        after.auxv,
    )
    assert json.dumps(str(before.exe)) == json.dumps(str(after.exe))
