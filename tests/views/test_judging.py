"""Claims are judged before they are run: by a plain object, and by a widget that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import ipywidgets as widgets
import pytest

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.claims import CLAIM, CLAIMS, Claim, Finding, Verdict, settle
from prctlmm_lab.experiments.claims.claim import History, Shown
from prctlmm_lab.experiments.experiment import Experiment
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.releases import Release
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording import mode, recorder
from prctlmm_lab.specimen.recording.marks import LIVE
from prctlmm_lab.specimen.recording.recorder import RecordingSpecimen, Tape
from prctlmm_lab.specimen.recording.store import shipped
from prctlmm_lab.views.judgement import WORDS, Fate, Judging, fate_of, told_of
from prctlmm_lab.views.judging import JudgingBoard

FOUR = tuple(CLAIM[name] for name in ("limit.data", "limit.stack", "heap.above_data", "order.code"))


def judged() -> Judging:
    return Judging(FOUR)


# ---- the plain object ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holds", "history", "fate"),
    [
        (True, History(), Fate.HOLDS),
        (True, History(since=None), Fate.HOLDS),
        (False, History(since=None), Fate.NEVER),
        (False, History(until=Release(5, 15)), Fate.ONCE),
        (None, History(since=None), Fate.UNSHOWN),
    ],
)
def test_the_kernel_says_whether_it_holds_and_history_what_was(
    holds: bool | None, history: History, fate: Fate
) -> None:
    claim = Claim("a.b", 1, "Text.", "1", history, test=lambda facts: Shown(holds, "seen"))
    finding = settle(claim, facts_here())
    assert fate_of(finding) is fate
    assert finding.origin == LIVE
    assert "seen." in told_of(finding)


def test_a_claim_is_judged_before_it_is_run_and_told_after() -> None:
    judging = judged()
    before = judging.judge("limit.stack", "holds")
    assert (before.right, before.truth) == (None, "")
    assert "never" not in str(before), "nothing is told before"
    after = judging.run("limit.stack")
    assert (after.right, after.truth) == (False, "never held")
    assert "You say: holds. ✗" in str(after)
    assert judging.run(16, "holds").right
    assert judging.run("order.code").right is None


def test_the_score_counts_what_was_judged_and_run() -> None:
    judging = judged()
    judging.judge("limit.data", "never held")
    judging.judge("limit.stack", "never held")
    assert judging.score().judged == 0
    score = judging.run_all()
    assert (score.right, score.judged, score.settled, score.claims) == (1, 2, 4, 4)
    total = {word: tuple(numbers) for word, *numbers in score.by_truth}
    assert total["never held"] == (1, 1, 1)
    assert total["holds"][1:] == (1, 0)
    assert sum(numbers[0] for numbers in total.values()) == 4
    assert str(score).splitlines()[0] == "1 of 2 judged rightly; 4 of 4 run"


def test_findings_are_in_the_order_of_the_message_and_made_once() -> None:
    judging = judged()
    first = judging.run("order.code").finding
    judging.run_all()
    assert [finding.claim.id for finding in judging.findings] == [claim.id for claim in FOUR]
    assert judging.of("order.code").finding is first


def test_all_claims_are_settled_as_by_settle_itself() -> None:
    judging = Judging()
    judging.run_all()
    assert [finding.claim for finding in judging.findings] == list(CLAIMS)
    for name in ("limit.data", "order.code", "areas.others_mapped"):
        assert judging.of(name).finding is not None
        assert judging.of(name).finding.verdict is settle(CLAIM[name], facts_here()).verdict  # type: ignore[union-attr]
    assert judging.news == ()


def test_what_cannot_be_said_is_refused() -> None:
    judging = judged()
    with pytest.raises(InputError, match="is none of the words; expected holds, never held"):
        judging.judge("limit.data", "true")
    with pytest.raises(InputError, match=r"'limit.dat' is none; expected limit.data"):
        judging.judge("limit.dat", "holds")
    judging.run("limit.data", "never held")
    with pytest.raises(InputError, match="has been run already"):
        judging.judge("limit.data", "holds")
    assert judging.run("limit.data", "never held").right is False, "to say it again changes nothing"
    for odd in (True, 4711, ""):
        with pytest.raises(InputError, match="is none"):
            judging.run(odd)


def test_what_is_told_is_escaped() -> None:
    claim = Claim("a.b", 1, "<b>Text</b>.", "1", History(), test=lambda facts: Shown(True, "<i>"))
    html = Judging([claim]).run("a.b")._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<i>" not in html


def test_a_kernel_that_contradicts_us_is_news() -> None:
    claim = Claim("a.b", 1, "Text.", "1", History(since=None),
                  test=lambda facts: Shown(True, "seen"))  # fmt: skip
    judging = Judging([claim])
    judging.facts = replace(facts_here(), release="6.18.44")
    assert "that is news" in str(judging.run("a.b"))
    assert [finding.claim.id for finding in judging.news] == ["a.b"]


# ---- where a recording stands in -----------------------------------------------------------------


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    mode.why.cache_clear()
    monkeypatch.setenv(mode.VARIABLE, "1")
    monkeypatch.setattr(mode, "_forbidden", False)
    yield
    mode.why.cache_clear()


@pytest.mark.usefixtures("recorded")
def test_what_was_not_recorded_cannot_be_shown_and_nothing_fails() -> None:
    def never(_facts: Facts) -> Shown:
        raise AssertionError("no test is run where a recording stands in")

    odd = Experiment("odd", change={"end_code": "end_code - 3"})
    new = Claim("a.b", 1, "Text.", "1", History(), experiments=(odd,),
                read=lambda records: Shown(True, ""))  # fmt: skip
    judging = Judging([new, Claim("a.c", 2, "Text.", "1", History(), test=never)])
    judging.run_all()
    for finding in judging.findings:
        assert finding.verdict is Verdict.UNSHOWN
        assert "not recorded" in finding.evidence
    everything = Judging()
    everything.run_all()
    assert len(everything.findings) == len(CLAIMS)
    for finding in everything.findings:
        assert finding.verdict is Verdict.UNSHOWN or finding.origin == shipped().origin


@pytest.mark.parametrize("holds", [True, False, None])
def test_a_test_is_recorded_by_its_verdict_and_run_on_real_specimens(
    holds: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = []

    def test(_facts: Facts) -> Shown:
        with Specimen() as specimen:
            kinds.append(type(specimen))
        return Shown(holds, f"at {id(specimen):#x}")

    tape = Tape()
    monkeypatch.setattr(recorder, "TAPE", tape)
    claim = Claim("a.b", 1, "Text.", "1", History(), test=test)
    mode.substitute(RecordingSpecimen)
    try:
        finding = settle(claim, facts_here())
        assert type(Specimen(heap_pages=0)) is RecordingSpecimen, "recording goes on after it"
    finally:
        mode.substitute(None)
    assert kinds == [Specimen]
    verdicts = {True: Verdict.HOLDS, False: Verdict.FAILS, None: Verdict.UNSHOWN}
    assert finding.verdict is verdicts[holds]
    words = {True: "holds", False: "does not hold", None: "cannot be shown"}
    answers = [edge["answer"] for edge in tape.edges.values() if edge["do"][0] == "observed"]
    assert answers == [words[holds]]


# ---- the widget ---------------------------------------------------------------------------------


@pytest.fixture
def board() -> Iterator[JudgingBoard]:
    shown = JudgingBoard(judged())
    yield shown
    shown.close()


def test_it_shows_a_claim_and_its_place_and_chooses_nothing(board: JudgingBoard) -> None:
    assert CLAIM["limit.data"].statement in board.statement.value
    assert "requirement 5" in board.statement.value
    assert board.words.value is None
    assert board.words.options == WORDS
    assert board.told.value == ""


def test_a_word_and_run_tell_what_came_and_the_score(board: JudgingBoard) -> None:
    board.words.value = "never held"
    board.run_button.click()
    assert "You say: <b>never held</b>. ✗" in board.told.value
    assert "✓ holds." in board.told.value
    assert "0 of 1 judged rightly; 1 of 4 run" in board.score.value
    assert board.words.disabled
    board.next_button.click()
    assert not board.words.disabled
    assert board.words.value is None
    assert CLAIM["limit.stack"].statement in board.statement.value
    board.words.value = "never held"
    board.run_button.click()
    assert "1 of 2 judged rightly" in board.score.value
    board.previous_button.click()
    assert board.words.value == "never held", "what was said is shown again"
    assert "✓ holds." in board.told.value


def test_a_claim_that_another_cell_has_run_is_shown_as_it_came(board: JudgingBoard) -> None:
    board.judging.run("limit.data")
    board.words.value = "held once"
    assert "Another cell has run this claim" in board.message.value
    assert "✓ holds." in board.told.value
    assert board.words.disabled
    assert board.words.value is None
    assert board.judging.of("limit.data").said == ""


def test_next_goes_round_and_any_claim_can_be_chosen(board: JudgingBoard) -> None:
    board.previous_button.click()
    assert board.choice.value == "order.code"
    board.next_button.click()
    assert board.choice.value == "limit.data"
    board.choice.value = "heap.above_data"
    assert "requirement 4" in board.statement.value


def test_the_rest_is_run_at_once_and_all_is_there_as_text(board: JudgingBoard) -> None:
    board.words.value = "holds"
    board.rest_button.click()
    assert "1 of 1 judged rightly; 4 of 4 run" in board.score.value
    board.text_button.value = True
    assert all(claim.id in board.text.value for claim in FOUR)
    assert "✖ never held" in board.text.value
    board.text_button.value = False
    assert board.text.value == ""


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(board: JudgingBoard) -> None:
    controls = [board.choice, board.words, board.run_button, board.previous_button,
                board.next_button, board.rest_button, board.text_button]  # fmt: skip
    assert all(control.description for control in controls)
    assert all(control.tooltip for control in controls if control is not board.words)
    focusable = widgets.Button | widgets.ToggleButton | widgets.RadioButtons | widgets.Dropdown
    assert all(isinstance(control, focusable) for control in controls)


def test_what_is_told_is_announced_and_no_error_is_lost(
    board: JudgingBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.run_button.click()
    assert board.told.value.startswith('<div aria-live="polite">')

    def broken(_name: str | int, _said: str = "") -> Finding:
        raise ZeroDivisionError

    monkeypatch.setattr(board.judging, "run", broken)
    board.run_button.click()
    assert "data-lab-error" in board.message.value

    def refused(_name: str | int, _said: str = "") -> Finding:
        raise InputError("x", "cannot be <done>")

    monkeypatch.setattr(board.judging, "run", refused)
    board.run_button.click()
    assert "cannot be &lt;done&gt;" in board.message.value
