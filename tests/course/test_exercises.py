"""Exercises: each solution passes; no answer and typical wrong ones get their own message.

The wrong answers to the exercises of a notebook stand in `wrong_NAME.py`, beside this file and
named after the module in `course/`.
"""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from prctlmm_lab.course import check, hint, solution
from prctlmm_lab.course.exercises import HOMES, Exercise, exercises
from prctlmm_lab.errors import InputError
from tests.needs import skip_unless

ROOT = Path(__file__).resolve().parents[2]
ALL: dict[str, Exercise] = {n: e for notebook in HOMES for n, e in exercises(notebook).items()}
WRONG: dict[str, list[tuple[object, str]]] = {
    number: answers
    for name in HOMES.values()
    for number, answers in import_module(f"tests.course.wrong_{name}").WRONG.items()
}


def possible(number: str) -> None:
    why = ALL[number].impossible()
    skip_unless(not why, f"exercise {number}: {why}", impossible=True)


@pytest.mark.parametrize("notebook", HOMES)
def test_a_notebook_has_three_exercises_at_least_in_order(notebook: str) -> None:
    numbers = [*exercises(notebook)]
    assert numbers == [f"{notebook}.{place}" for place in range(1, len(numbers) + 1)]
    assert len(numbers) >= 3


@pytest.mark.parametrize("number", ALL)
def test_the_solution_passes(number: str) -> None:
    possible(number)
    told = check(number, solution(number))
    assert told.right, str(told)
    assert re.match(r"✓ right\. \S", str(told)), "it does not teach anything"


@pytest.mark.parametrize(
    ("number", "answer", "message"),
    [(number, *pair) for number, wrong in WRONG.items() for pair in wrong],
)
def test_a_wrong_answer_gets_its_own_message(number: str, answer: object, message: str) -> None:
    possible(number)
    told = check(number, answer)
    assert told.right is False, str(told)
    assert message in told.message


@pytest.mark.parametrize("number", ALL)
def test_three_wrong_answers_are_told_apart(number: str) -> None:
    possible(number)
    answers = [answer for answer, _ in WRONG[number]]
    assert len(answers) >= 3
    messages = [check(number, answer).message for answer in answers]
    assert len({*messages}) == len(messages), messages


@pytest.mark.parametrize("number", ALL)
def test_an_unanswered_exercise_says_so_and_tells_what_to_do(number: str) -> None:
    possible(number)
    nothing: object
    for nothing in (None, ..., "", "\n", {}, [], b""):
        told = check(number, nothing)
        assert (told.right, told.message) == (None, ALL[number].prompt)
    assert str(told).startswith("… not answered yet. ")


@pytest.mark.parametrize(
    "answer",
    ["not toml", "[[experiment]]\n", "x = 1", "[[experiment]]\n" * 2, 17.5, object(), {"no": "x"},
     ["<b>"], b"bytes", {"brk": "1 +"}, {"brk": object()}, 1 << 70, -1],
    ids=lambda answer: repr(answer)[:20],
)  # fmt: skip
@pytest.mark.parametrize("number", ALL)
def test_what_is_no_answer_is_told_and_never_raises(number: str, answer: object) -> None:
    possible(number)
    told = check(number, answer)
    assert told.right is False
    assert len(told.message) < 800


@pytest.mark.parametrize("number", ALL)
def test_its_three_hints_say_more_and_more(number: str) -> None:
    given = [hint(number, step) for step in (1, 2, 3)]
    assert given == [f"Hint {n} of 3: {text}" for n, text in enumerate(ALL[number].hints, 1)]
    assert len({*ALL[number].hints}) == 3
    assert hint(number) == given[2], "after the third there is nothing more"


def test_a_hint_follows_the_one_before() -> None:
    from prctlmm_lab.course.exercises import _given

    _given.clear()
    assert [hint("11.1")[:11] for _ in range(4)] == [f"Hint {n} of 3"[:11] for n in (1, 2, 3, 3)]


def test_another_number_is_refused() -> None:
    with pytest.raises(InputError, match="expected 1, 2 or 3"):
        hint("11.1", 4)
    for number in ("11.9", "99.1", "", "11"):
        for ask in (check, hint, solution):
            with pytest.raises(InputError, match=r"expected a number such as 11\.1"):
                ask(number)


def test_what_is_told_is_escaped() -> None:
    told = check("11.1", '[[experiment]]\nid = "<script>"\nchange.brk = "<b>"\n')
    assert "<b>" in told.message
    assert "<b>&" not in told._repr_html_()
    assert "&lt;b&gt;" in told._repr_html_()


# ---- the notebooks say what the course says -----------------------------------------------------


def plain(text: str) -> str:
    """Return a text without its line breaks."""
    return re.sub(r"\s+", " ", text).strip()


@pytest.mark.parametrize("number", ALL)
def test_the_notebook_has_its_prompt_and_below_it_its_check(number: str) -> None:
    (path,) = (ROOT / "notebooks").glob(f"{number[:2]}-*.ipynb")
    cells = json.loads(path.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    (place,) = (n for n, text in enumerate(sources) if f'check("{number}"' in text)
    assert cells[place]["cell_type"] == "code"
    assert sources[place].splitlines()[-1] == f'check("{number}", answer)'
    exercise = ALL[number]
    said = f"**Exercise {number}: {exercise.title}.** {exercise.prompt}"
    assert plain(said) in plain(sources[place - 1])


def test_no_notebook_checks_what_is_not_there() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for number in re.findall(r'(?:check|hint|solution)\(\\?"([\d.]+)', path.read_text()):
            assert number in ALL, path.name
