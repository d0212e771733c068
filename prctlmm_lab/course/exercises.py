"""What an exercise is, and the three things a learner can ask of one.

A check never raises: an unanswered exercise says so, and a notebook runs to its end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import Any

from prctlmm_lab.errors import InputError, LabError

HOMES: Mapping[str, str] = {
    "00": "renaming",
    "01": "addresses",
    "02": "exploring",
    "03": "refusals",
    "04": "what_proc_shows",
    "05": "heap",
    "06": "labels",
    "07": "exe_link",
    "08": "callers",
    "09": "witnesses",
    "10": "masses",
    "11": "own_experiment",
    "12": "claims",
    "13": "many_kernels",
    "14": "checkpoint_and_restore",
}
"""The number of a notebook -> the module beside this one that holds its exercises."""


@dataclass(frozen=True, repr=False)
class Told:
    """What a learner is told about an answer."""

    right: bool | None
    """None for no answer yet, and for an exercise that cannot be done here."""
    message: str
    mark: str = ""
    """What stands before the message, if it is not the usual."""

    def __str__(self) -> str:
        usual = {True: "✓ right.", False: "✗ not yet.", None: "… not answered yet."}[self.right]
        return f"{self.mark or usual} {self.message}".rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour = {True: "#00664b", False: "#8a5a00", None: "#5a5a5a"}[self.right]
        mark, _, rest = str(self).partition(". ")
        return (
            f'<div role="status" style="border-left:4px solid {colour};padding:4px 10px">'
            f'<b style="color:{colour}">{escape(mark)}.</b> {_with_code(escape(rest))}</div>'
        )


def _with_code(html: str) -> str:
    """Show what stands between backticks as code, as the notebook does."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html)


@dataclass(frozen=True)
class Exercise:
    """One exercise: all that belongs to it."""

    title: str
    prompt: str
    """What is to be done, and the form of the answer; it stands in the notebook word for word."""
    check: Callable[[Any], Told]
    """Judges an answer that is not empty; a LabError that it raises is told as what is wrong."""
    hints: tuple[str, str, str]
    """From a nudge to nearly all."""
    solution: Any
    """An answer that is right."""
    impossible: Callable[[], str] = lambda: ""
    """Says why it cannot be done on this kernel, or with what is allowed here; "" if it can."""


class Shown(str):
    """A text that a notebook shows as it is, line by line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def exercises(notebook: str) -> Mapping[str, Exercise]:
    """Return the exercises of a notebook ("00" to "13") by their numbers ("05.2").

    Raises InputError for a notebook that has none.
    """
    if notebook not in HOMES:
        raise InputError("notebook", "has no exercises", repr(notebook)[:40], ", ".join(HOMES))
    module = import_module(f"prctlmm_lab.course.{HOMES[notebook]}")
    found: Mapping[str, Exercise] = module.EXERCISES
    return found


def check(number: str, answer: object = None) -> Told:
    """Judge an answer by the real kernel, and say what it teaches.

    >>> print(check("11.1"))
    … not answered yet. ...

    Raises InputError for a number that no exercise has.
    """
    exercise = _exercise(number)
    if why := exercise.impossible():
        return Told(None, why, "… cannot be done here.")
    if _is_empty(answer):
        return Told(None, exercise.prompt)
    try:
        return exercise.check(answer)
    except LabError as error:
        return Told(False, str(error))


_given: Counter[str] = Counter()
"""How many hints were given to each exercise in this session."""


def hint(number: str, step: int | None = None) -> str:
    """Return the next of three hints, each saying more than the one before; or the one asked for.

    >>> hint("11.1", 1)
    Hint 1 of 3: ...

    Raises InputError for a number that no exercise has, and a step that is not 1, 2 or 3.
    """
    exercise = _exercise(number)
    if step is None:
        step = min(_given[number] + 1, len(exercise.hints))
    if step not in (1, 2, 3):
        raise InputError("hint", "is no step", repr(step)[:40], "1, 2 or 3")
    _given[number] = max(_given[number], step)
    return Shown(f"Hint {step} of 3: {exercise.hints[step - 1]}")


def solution(number: str) -> Any:
    """Return an answer that is right: to be read, and to be handed to `check`.

    Raises InputError for a number that no exercise has.
    """
    answer = _exercise(number).solution
    return Shown(answer) if isinstance(answer, str) else answer


def _is_empty(answer: object) -> bool:
    if isinstance(answer, str):
        return not answer.strip()
    if isinstance(answer, dict | list | tuple | set | bytes):
        return not answer
    return answer is None or answer is ...


def _exercise(number: str) -> Exercise:
    notebook = str(number).partition(".")[0]
    found = exercises(notebook) if notebook in HOMES else {}
    if number not in found:
        raise InputError("exercise", "is not one", repr(number)[:40], "a number such as 11.1")
    return found[number]
