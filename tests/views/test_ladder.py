"""The ladder: it ends where the kernel does, tells nothing too early, and shows what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from prctlmm_lab.errors import InputError, LabError
from prctlmm_lab.experiments.experiment import Call, Experiment, run
from prctlmm_lab.experiments.steps import Open
from prctlmm_lab.views import ladder as module
from prctlmm_lab.views.checks import State, explanation_of
from prctlmm_lab.views.ladder import (
    Climb,
    RuleLadder,
    ladder_steps,
    refusals,
    refusals_table,
    step_text,
)
from tests.needs import needs_user_namespaces

ODD = Experiment(
    "odd", title="odd", change={"brk": "start_brk", "auxv": 1, "auxv_size": 16, "exe_fd": 99}
)


@pytest.fixture
def shown() -> Iterator[RuleLadder]:
    widget = RuleLadder(ODD)
    yield widget
    widget.close()


# ---- the climb ----------------------------------------------------------------------------------


def test_it_ends_where_the_kernel_does() -> None:
    for title, experiment in refusals().items():
        try:
            climb = Climb(experiment)
        except LabError:
            continue  # a set-up that is refused here; the table below tells it
        climb.to_the_end()
        last, verdict = climb.rungs[-1], climb.call().record.outcome.verdict
        if verdict == "accepted":
            assert not last.refuses, title
        else:
            assert (last.name, last.broken[0].errno) == (experiment.rule, verdict), title


def test_every_step_is_a_check_that_the_kernel_makes() -> None:
    explanation = explanation_of(ODD)
    steps = ladder_steps(explanation)
    made = [finding.rule.id for finding in explanation.findings]
    asked = [check.rule.id for rung in steps for check in rung.checks]
    assert asked == made[: made.index("auxv.readable") + 1]
    assert [rung.state for rung in steps] == [State.HOLDS] * (len(steps) - 1) + [State.REFUSES]


def test_a_step_tells_numbers_source_and_history_but_not_what_comes() -> None:
    rung = ladder_steps(explanation_of(ODD))[-1]
    told, asked = step_text(rung), step_text(rung, told=False)
    for part in ("auxv.readable", "0x10 bytes at auxv = 0x1", "prctl_set_mm_map", "since v3.18"):
        assert part in told
        assert part in asked
    assert "REFUSES by auxv.readable: the kernel returns EFAULT" in told
    assert "REFUSES" not in asked
    loop = ladder_steps(explanation_of(Experiment("low", change={"start_stack": 0})))[-1]
    assert step_text(loop, told=False).startswith("checks 5-15, range.*: ")
    assert step_text(loop).startswith("checks 5-15, range.start_stack: ")
    assert step_text(loop, told=False).count("allowed") == 11


def test_the_score_counts_what_was_said() -> None:
    climb = Climb(ODD)
    climb.next(refuses=False)
    climb.next(refuses=True)
    climb.next()
    assert climb.score == (1, 2)
    assert climb.back()
    assert climb.back()
    assert climb.score == (1, 1)
    climb.start_again()
    assert (climb.asked, climb.score, climb.back()) == (0, (0, 0), False)


def test_the_learners_verdict_follows_from_what_was_said() -> None:
    climb = Climb(ODD)
    for rung in climb.rungs:
        climb.next(refuses=rung.refuses)
    assert (climb.predicted, climb.score) == ("EFAULT", (len(climb.rungs),) * 2)
    assert climb.call().record.agreement.learner is True
    climb.start_again()
    climb.next(refuses=True)
    assert climb.predicted == "EINVAL"
    calm = Climb(Experiment("as it is"))
    assert calm.predicted == ""
    while not calm.done:
        calm.next(refuses=False)
    assert calm.predicted == calm.call().record.outcome.verdict == "accepted"


def test_after_the_last_step_there_is_no_next() -> None:
    climb = Climb(ODD)
    climb.to_the_end()
    assert climb.done
    assert climb.current is None
    with pytest.raises(InputError, match="the answer is known"):
        climb.next()


def test_nothing_is_told_too_early() -> None:
    climb = Climb(ODD)
    while not climb.done:
        assert "would refuse" not in climb.svg() + climb.text()
        assert "REFUSES" not in climb.svg() + climb.text()
        climb.next()
    assert "REFUSES" in climb.text()
    assert "exe.busy" in climb.text().splitlines()[-1]


def test_another_operation_has_no_ladder_here() -> None:
    with pytest.raises(InputError, match="expected MAP"):
        Climb(Experiment("one", call=Call(operation="BRK", value=0)))


def test_the_table_tells_what_the_kernel_says() -> None:
    needs_user_namespaces()
    table = refusals_table()
    assert list(table.index) == [*range(1, len(refusals()) + 1)]
    for row, experiment in zip(table.itertuples(index=False), refusals().values(), strict=True):
        verdict = run(experiment).outcome.verdict
        assert row[1] == verdict
        assert row[2] == (experiment.rule if verdict != "accepted" else "")
    said = set(table["kernel says"])
    assert {"EINVAL", "EFAULT", "EPERM", "EBADF", "EACCES"} <= said


def test_what_cannot_be_set_up_is_a_row_with_its_reason() -> None:
    refused = Experiment("x", title="no such file", setup=(Open("x", "/nowhere"),), rule="exe.busy")
    (row,) = refusals_table([refused]).itertuples(index=False)
    assert row[:3] == ("no such file", "(not asked)", "exe.busy")
    assert "cannot be set up here" in row[3]
    assert "ENOENT" in row[3]


# ---- the widget ---------------------------------------------------------------------------------


def test_every_control_has_words(shown: RuleLadder) -> None:
    buttons = (shown.holds_button, shown.refuses_button, shown.next_button, shown.back_button,
               shown.end_button, shown.again_button, shown.call_button)  # fmt: skip
    for button in buttons:
        assert button.description
        assert button.tooltip
    assert len({button.description for button in buttons}) == len(buttons)
    assert shown.choice.description == "the call"


def test_a_step_shows_its_numbers_and_lights_the_picture(shown: RuleLadder) -> None:
    before = shown.picture.value
    assert "Next: check 1, call.arg5" in shown.step.value
    shown.holds_button.click()
    assert "Last: check 1, call.arg5" in shown.step.value
    assert "You were right. Right so far: 1 of 1." in shown.step.value
    assert shown.picture.value != before
    shown.refuses_button.click()
    assert "You said otherwise. Right so far: 1 of 2." in shown.step.value
    shown.back_button.click()
    shown.next_button.click()
    assert "Right so far: 1 of 1." in shown.step.value
    assert "holds" in shown.twin.value


def test_the_real_call_waits_for_the_end_and_agrees(shown: RuleLadder) -> None:
    assert shown.call_button.disabled
    shown.call_button.click()
    assert "waits until the answer is known" in shown.message.value
    shown.end_button.click()
    assert not shown.call_button.disabled
    assert shown.next_button.disabled
    shown.call_button.click()
    assert not shown.message.value
    verdict = run(ODD).outcome.verdict
    assert f"<b>{verdict}</b>" in shown.answer.value
    assert f"{verdict} (auxv.readable) ✓" in shown.answer.value
    shown.again_button.click()
    assert not shown.answer.value
    assert shown.call_button.disabled


def test_another_call_can_be_chosen(shown: RuleLadder) -> None:
    shown.next_button.click()
    shown.choice.value = next(title for title in shown.choice.options if "order.env" in title)
    assert shown.climb is not None
    assert (shown.climb.asked, shown.climb.experiment.rule) == (0, "order.env")
    assert len(shown.choice.options) == len(refusals()) + 1


def test_changes_are_enough_and_so_is_nothing() -> None:
    widget = RuleLadder({"end_code": "start_code"})
    assert widget.climb is not None
    assert widget.climb.rungs[-1].name == "order.code"
    widget.close()
    widget = RuleLadder()
    assert widget.choice.value == next(iter(refusals()))
    widget.close()


def test_a_setup_that_the_kernel_refuses_is_one_sentence() -> None:
    widget = RuleLadder(replace(ODD, setup=(Open("x", "/nowhere"),)))
    assert "ENOENT" in widget.message.value
    assert "Traceback" not in widget.message.value
    assert widget.picture.value == ""
    widget.next_button.click()
    assert "has no call that can be set up here" in widget.message.value
    widget.choice.value = widget.choice.options[1]
    assert "<svg" in widget.picture.value
    widget.close()


def test_a_mistake_in_a_handler_is_shown_and_marked(
    shown: RuleLadder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> str:
        raise ZeroDivisionError("<b>ours</b>")

    monkeypatch.setattr(module, "step_html", broken)
    shown.next_button.click()
    assert "data-lab-error" in shown.message.value
    assert "&lt;b&gt;ours" in shown.message.value


def test_what_others_wrote_is_escaped() -> None:
    hostile = replace(ODD, id="<script>", title="<script>", setup=(Open("x", "/nowhere"),))
    widget = RuleLadder(hostile)
    assert "&lt;script" in widget.message.value
    assert "<script" not in widget.message.value + widget.step.value
    widget.close()
