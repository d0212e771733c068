"""What an exercise is, and the three things a learner can ask of one.

A check never raises: an unanswered exercise says so, and a notebook runs to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib import import_module

from prctlmm_lab.errors import InputError, LabError

_HOMES = {"11": "prctlmm_lab.course.own_experiment"}
"""The exercises of each notebook."""


@dataclass(frozen=True, repr=False)
class Told:
    """What a learner is told about an answer."""

    right: bool | None
    """None for no answer yet."""
    message: str

    def __str__(self) -> str:
        mark = {True: "✓ right.", False: "✗ not yet.", None: "… not answered yet."}[self.right]
        return f"{mark} {self.message}".rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour = {True: "#00664b", False: "#8a5a00", None: "#5a5a5a"}[self.right]
        mark, _, rest = str(self).partition(". ")
        return (
            f'<div role="status" style="border-left:4px solid {colour};padding:4px 10px">'
            f'<b style="color:{colour}">{escape(mark)}.</b> {escape(rest)}</div>'
        )


@dataclass(frozen=True)
class Exercise:
    """One exercise."""

    prompt: str
    check: Callable[[str], Told]
    """Judges an answer that is not empty."""
    hints: tuple[str, str, str]
    """From a nudge to nearly all."""
    solution: str
    """An answer that is right."""


def check(number: str, answer: str = "") -> Told:
    """Judge an answer by the real kernel, and say what it teaches.

    >>> print(check("11.1"))
    … not answered yet. ...

    Raises InputError for a number that no exercise has.
    """
    exercise = _exercise(number)
    if not answer.strip():
        return Told(None, exercise.prompt)
    try:
        return exercise.check(answer)
    except LabError as error:
        return Told(False, str(error))


def hint(number: str, step: int = 1) -> str:
    """Return one of three hints, each saying more than the one before.

    Raises InputError for a number that no exercise has, and a step that is not 1, 2 or 3.
    """
    if step not in (1, 2, 3):
        raise InputError("hint", "is no step", repr(step)[:40], "1, 2 or 3")
    return _exercise(number).hints[step - 1]


def solution(number: str) -> str:
    """Return an answer that is right, to be run and read.

    Raises InputError for a number that no exercise has.
    """
    return _exercise(number).solution


def _exercise(number: str) -> Exercise:
    home = _HOMES.get(str(number).partition(".")[0])
    exercises: dict[str, Exercise] = import_module(home).EXERCISES if home else {}
    if number not in exercises:
        raise InputError("exercise", "is not one", repr(number)[:40], "a number such as 11.1")
    return exercises[number]
