"""The practice widget: by mouse or keyboard, with a text twin, and no error lost."""

from __future__ import annotations

from collections.abc import Iterator

import ipywidgets as widgets
import pytest

from prctlmm_lab.course import practice
from prctlmm_lab.course.asking import Problem
from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.views.practising import Practice


@pytest.fixture
def shown() -> Iterator[Practice]:
    widget = practice(seed=1, logbook=None).widget()
    yield widget
    widget.close()


def present(shown: Practice) -> Problem:
    assert isinstance(shown.problem, Problem)
    return shown.problem


def choose(shown: Practice, *, right: bool) -> None:
    problem = present(shown)
    truth = problem.posed.question.truth(problem._predicted)
    shown.choices.value = next(c.word for c in problem.choices if (c.word == truth) == right)


def test_it_shows_the_question_its_choices_and_the_picture(shown: Practice) -> None:
    problem = present(shown)
    assert problem.posed.question.text in shown.question.value
    assert [word for _, word in shown.choices.options] == [c.word for c in problem.choices]
    assert shown.choices.value is None, "nothing is chosen for the learner"
    assert "<svg" in shown.picture.value
    assert "0 of 0 right" in shown.score.value


@pytest.mark.parametrize("right", [True, False])
def test_an_answer_is_judged_and_counted_once(shown: Practice, right: bool) -> None:
    choose(shown, right=right)
    shown.answer_button.click()
    assert ("✓ right." in shown.told.value) is right
    assert ("✗ no." in shown.told.value) is not right
    assert "More in notebook <a href=" in shown.told.value
    assert f"{int(right)} of 1 right in this session" in shown.score.value
    assert shown.choices.disabled
    shown.answer_button.click()
    assert "of 1 right in this session" in shown.score.value
    assert "It is answered" in shown.message.value


def test_the_picture_of_what_came_takes_the_place_of_the_draft_if_anything_moved() -> None:
    seen = set()
    for seed in range(12):
        shown = practice(seed=seed, logbook=None).widget()
        choose(shown, right=True)
        shown.answer_button.click()
        accepted = not present(shown)._prepared.explanation.errno
        seen.add(accepted)
        assert ("<svg" in shown.told.value) is accepted
        assert ("<svg" in shown.picture.value) is not accepted
        shown.close()
    assert seen == {True, False}


def test_without_a_choice_it_asks_for_one(shown: Practice) -> None:
    shown.answer_button.click()
    assert "Choose an answer first." in shown.message.value
    assert shown.told.value == ""
    assert present(shown).told is None


def test_next_shows_another_problem_and_may_be_answered_again(shown: Practice) -> None:
    before, question = present(shown), shown.question.value
    choose(shown, right=True)
    shown.answer_button.click()
    shown.next_button.click()
    assert present(shown) is not before
    assert not before.specimen.alive
    assert shown.question.value != question
    assert shown.told.value == ""
    assert not shown.choices.disabled
    assert shown.message.value == ""


def test_a_hint_says_more(shown: Practice) -> None:
    shown.hint_button.click()
    assert "Hint 1 of 2" in shown.message.value
    shown.hint_button.click()
    assert "Hint 2 of 2" in shown.message.value


def test_all_of_it_is_there_as_text(shown: Practice) -> None:
    shown.text_button.value = True
    assert present(shown).posed.question.text in shown.words.value
    assert "Address space of" in shown.words.value
    assert "right in this session" in shown.text()
    shown.text_button.value = False
    assert shown.words.value == ""


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(shown: Practice) -> None:
    controls = [shown.choices, shown.answer_button, shown.hint_button, shown.next_button,
                shown.text_button]  # fmt: skip
    assert all(control.description for control in controls)
    assert all(control.tooltip for control in controls[1:])
    focusable = widgets.Button | widgets.ToggleButton | widgets.RadioButtons
    assert all(isinstance(control, focusable) for control in controls)


def test_what_is_told_is_announced_and_escaped(shown: Practice) -> None:
    choose(shown, right=False)
    shown.answer_button.click()
    assert shown.told.value.startswith('<div aria-live="polite">')
    assert "<script" not in shown.told.value


def test_an_error_of_ours_is_shown_and_marked(
    shown: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown.problems, "next", lambda: 1 / 0)
    shown.next_button.click()
    assert "ZeroDivisionError" in shown.message.value
    assert "data-lab-error" in shown.message.value


def test_what_cannot_be_done_here_is_said(shown: Practice, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Problem:
        raise UnsupportedSystem("There is no specimen here", "Use Linux.")

    monkeypatch.setattr(shown.problems, "next", refused)
    shown.next_button.click()
    assert "There is no specimen here. Use Linux." in shown.message.value
    assert "data-lab-error" not in shown.message.value


def test_closing_it_ends_the_specimen(shown: Practice) -> None:
    shown.close()
    assert not present(shown).specimen.alive
