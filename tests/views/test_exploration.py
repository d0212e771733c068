"""What the Explorer does, as plain calls: the draft, its history, its runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prctlmm_lab.errors import InputError, SystemCallError
from prctlmm_lab.experiments.experiment import Subject, run
from prctlmm_lab.experiments.logbook import default_logbook
from prctlmm_lab.experiments.recipe import parse_recipe
from prctlmm_lab.kernel.abi import MEMBERS
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.views.exploration import OWN_MEMORY, Exploration, presets
from prctlmm_lab.views.landmarks import nearest


@pytest.fixture
def exploration(tmp_path: Path) -> Iterator[Exploration]:
    started = Exploration(logbook=tmp_path / "logbook.jsonl")
    yield started
    started.close()


def test_a_run_shows_what_the_specimen_now_shows(exploration: Exploration) -> None:
    exploration.edit("arg_start", "arena.start")
    exploration.edit("arg_end", "arg_start + 28")
    result = exploration.run()
    assert result.after is not None
    told = Path(f"/proc/{result.after.pid}/cmdline").read_bytes()
    assert told == b"a-new-name\0--with\0arguments\0" == result.after.cmdline
    assert [change.name for change in result.changes if change.place == "stat"] == [
        "arg_start",
        "arg_end",
    ]


def test_prediction_and_kernel_agree_for_every_preset(exploration: Exploration) -> None:
    for title, preset in presets().items():
        exploration.choose_preset(preset)
        predicted = exploration.predict().explanation
        outcome = exploration.run().record.outcome
        assert outcome.errno == predicted.errno, title
    assert len(exploration.records) == len(presets()) > 40


def test_a_preset_aims_at_its_rule_until_it_is_another_call(exploration: Exploration) -> None:
    preset = next(p for p in presets().values() if p.rule == "order.code" and not p.after)
    exploration.choose_preset(preset)
    exploration.edit("arg_end", "0")  # looked at before any order
    record = exploration.run().record
    assert record.prediction.rule == "range.arg_end"
    assert record.agreement.with_lab
    exploration.edit("arg_end", "")
    assert exploration.draft.rule == "order.code"
    assert exploration.run().record.agreement.rule is True


def test_each_run_is_one_request_and_one_record_in_the_logbook(exploration: Exploration) -> None:
    exploration.choose_prediction("EINVAL")
    exploration.edit("end_code", "start_code")
    record = exploration.run().record
    assert exploration.logbook is not None
    lines = [json.loads(line) for line in exploration.logbook.read_text().splitlines()]
    assert [line["id"] for line in lines] == [record.id, record.id]
    assert lines[1]["agreement"]["learner"] is True
    assert lines[1]["outcome"]["verdict"] == "EINVAL"


def test_a_logbook_that_cannot_be_written_is_said_and_the_run_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    exploration = Exploration(logbook=tmp_path / "file" / "logbook.jsonl")
    try:
        result = exploration.run()
    finally:
        exploration.close()
    assert result.logged.startswith("not logged: ")
    assert exploration.records == [result.record]


@pytest.mark.parametrize(
    "text", ["arg_star", "1 +", "__import__('os')", "1 << 70", "0 - 1", "0x1" + "0" * 16]
)
def test_text_that_is_no_value_leaves_the_draft_as_it_was(
    exploration: Exploration, text: str
) -> None:
    exploration.edit("brk", "brk + page")
    before = exploration.draft
    with pytest.raises(InputError, match="arg_start"):
        exploration.edit("arg_start", text)
    assert exploration.draft == before
    assert exploration.undo()
    assert not exploration.draft.change


def test_many_steps_of_one_slider_are_one_thing_to_undo(exploration: Exploration) -> None:
    for step in range(5):
        exploration.edit("brk", f"brk + {step + 1}")
    exploration.edit("start_stack", "arena.start")
    assert exploration.undo()
    assert dict(exploration.draft.change) == {"brk": "brk + 5"}
    assert exploration.undo()
    assert not exploration.draft.change
    assert not exploration.undo()


def test_reset_takes_back_every_change_and_can_be_undone(exploration: Exploration) -> None:
    preset = presets()["Move the heap: Other memory is called [heap]"]
    exploration.choose_preset(preset)
    exploration.edit("brk", "start_brk")
    exploration.reset()
    assert exploration.draft.change == preset.change
    exploration.undo()
    assert exploration.draft.change["brk"] == "start_brk"


def test_the_recipe_of_a_draft_runs_to_the_same_verdict(exploration: Exploration) -> None:
    exploration.choose_build("static-pie")
    exploration.edit("start_brk", "arena.start")
    exploration.edit("brk", "before.start_brk - 1")
    again = parse_recipe(exploration.recipe()).experiments[0]
    assert run(again).outcome.verdict == exploration.run().record.outcome.verdict


def test_the_draft_and_the_run_are_about_the_same_process(exploration: Exploration) -> None:
    drafted = exploration.predict().before.pid
    result = exploration.run()
    assert result.before.pid == drafted == (result.after.pid if result.after else None)
    assert exploration.predict().before.pid != drafted


def test_where_randomisation_cannot_be_switched_off_it_stays_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a container whose seccomp profile refuses personality(2)."""
    start = Subject.start

    def refusing(subject: Subject) -> Specimen:
        if not subject.randomize:
            raise SystemCallError(1, "personality", (0x0040000,))
        return start(subject)

    monkeypatch.setattr(Subject, "start", refusing)
    exploration = Exploration(logbook=None)
    try:
        exploration.edit("arg_start", "arena.start")
        exploration.edit("arg_end", "arena.start + 4")
        record = exploration.run().record
    finally:
        exploration.close()
    assert record.outcome.verdict == "accepted"
    assert "randomize" not in record.experiment.get("specimen", {})


def test_a_specimen_that_was_killed_is_replaced(exploration: Exploration) -> None:
    exploration.bench().specimen.stop()
    assert exploration.run().record.outcome.verdict == "accepted"


def test_landmarks_ascend_and_hold_the_present_value(exploration: Exploration) -> None:
    own = dict(exploration.bench().specimen.current_map())
    for member in MEMBERS:
        found = exploration.landmarks(member.name)
        values = [landmark.value for landmark in found]
        assert values == sorted(set(values))
        assert [mark.value for mark in found if not mark.formula] == [own[member.name]]
        for landmark in found:
            exploration.edit(member.name, landmark.formula)
            assert dict(exploration.predict().map)[member.name] == landmark.value
        exploration.edit(member.name, "")


def test_the_nearest_landmark_is_nearest(exploration: Exploration) -> None:
    options = exploration.landmarks("start_stack")
    for value in (0, 0x402001, 1 << 46, (1 << 64) - 1):
        best = nearest(options, value)
        assert all(abs(best.value - value) <= abs(other.value - value) for other in options)


def test_the_logbook_has_a_place_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRCTLMM_LAB_LOGBOOK", str(tmp_path / "mine"))
    assert default_logbook() == tmp_path / "mine"
    monkeypatch.delenv("PRCTLMM_LAB_LOGBOOK")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_logbook() == tmp_path / "prctlmm-lab" / "logbook.jsonl"


def test_a_preset_keeps_the_build(exploration: Exploration) -> None:
    exploration.choose_build("static-pie")
    exploration.choose_preset(OWN_MEMORY)
    assert exploration.draft.specimen == replace(Subject(), build="static-pie")
