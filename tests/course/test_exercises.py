"""Exercises: each solution passes; no answer and typical wrong ones get their own message."""

from __future__ import annotations

import pytest

from prctlmm_lab.course import check, hint, solution
from prctlmm_lab.course.own_experiment import EXERCISES, OLD
from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.releases import facts_on
from prctlmm_lab.specimen.probe import facts_here
from tests.needs import skip_unless

WRONG = {
    "11.1": {
        'change.brk = "brk"': "The kernel accepted it.",
        'change.end_code = "start_code"': "It is refused, but by order.code",
        'setup = [{ limit = "DATA", soft = 0 }]': "limit.data refuses it, by 0x4048 bytes",
        'setup = [{ limit = "DTA", soft = 0 }]': "'DTA' is not a resource",
    },
    "11.2": {
        'change.brk = "brk"': "Both say accepted.",
        'change.end_code = "start_code"': "Both say EINVAL.",
        'change.brk = "1 +"': "'1 +' is not a formula",
    },
    "11.3": {
        'change.brk = "brk"': "auxv_size is 0",
        'change.arg_start = "env_end"': "The kernel refused it: EINVAL by order.arg",
        'setup = [{ map = "a" }]\nchange.auxv = "a.start"\nchange.auxv_size = 32': "It shows: auxv",
    },
}


@pytest.mark.parametrize("number", EXERCISES)
def test_the_solution_passes(number: str) -> None:
    if number == "11.2":
        now, old = facts_here().auxv_capacity, facts_on(OLD, facts_here()).auxv_capacity
        skip_unless(now > old, "this kernel is like the old one", impossible=True)
    told = check(number, solution(number))
    assert told.right, str(told)
    assert str(told).startswith("✓ right. ")


@pytest.mark.parametrize(
    ("number", "answer", "message"),
    [(number, *pair) for number, wrong in WRONG.items() for pair in wrong.items()],
)
def test_a_wrong_answer_gets_its_own_message(number: str, answer: str, message: str) -> None:
    told = check(number, f'[[experiment]]\nid = "x"\n{answer}\n')
    assert told.right is False
    assert message in told.message
    messages = {*WRONG[number].values()}
    assert len(messages) == len(WRONG[number])


@pytest.mark.parametrize("number", EXERCISES)
def test_an_unanswered_exercise_says_so_and_tells_what_to_do(number: str) -> None:
    for nothing in ("", "\n", "  \n"):
        told = check(number, nothing)
        assert (told.right, told.message) == (None, EXERCISES[number].prompt)
    assert str(told).startswith("… not answered yet. ")


@pytest.mark.parametrize(
    "answer", ["not toml", "[[experiment]]\n", "x = 1", "[[experiment]]\n" * 2]
)
def test_what_is_no_recipe_is_told_and_never_raises(answer: str) -> None:
    for number in EXERCISES:
        assert check(number, answer).right is False


def test_there_are_three_hints_and_no_other_number() -> None:
    for number, exercise in EXERCISES.items():
        assert [hint(number, step) for step in (1, 2, 3)] == [*exercise.hints]
        with pytest.raises(InputError, match="expected 1, 2 or 3"):
            hint(number, 4)
    for number in ("11.9", "99.1", "", "11"):
        for ask in (check, hint, solution):
            with pytest.raises(InputError, match=r"expected a number such as 11\.1"):
                ask(number)


def test_what_is_told_is_escaped() -> None:
    told = check("11.1", '[[experiment]]\nid = "<script>"\nchange.brk = "<b>"\n')
    assert "<b>" in told.message
    assert "<b>&" not in told._repr_html_()
    assert "&lt;b&gt;" in told._repr_html_()
