"""A game: date an unknown kernel by its behaviour.

A seed draws a kernel of the atlas. It answers questions and hides its release; the player names the
first and the last kernel that would answer as it does. Only what kernels answer counts, live or as
it was recorded, so the same seed is the same game everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from random import Random
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from prctlmm_lab.atlas.kernels import Kernel
from prctlmm_lab.atlas.recorded import (
    RecordedKernel,
    kernels_at_hand,
    questions,
    recorded_kernels,
)
from prctlmm_lab.atlas.turns import Atlas, answer_text, recorded_atlas, side_of
from prctlmm_lab.course.answers import YOURS, experiment_of
from prctlmm_lab.course.exercises import Told
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.comparison import Findings
from prctlmm_lab.experiments.formula import shorten, suggestion
from prctlmm_lab.kernel.releases import Release, read_release
from prctlmm_lab.specimen.recording.marks import LIVE, note

if TYPE_CHECKING:
    from prctlmm_lab.experiments.experiment import Experiment

_SHOWN = 6
"""Lines that a reply shows of what it brought to light, at most."""


@dataclass(frozen=True, repr=False)
class Reply:
    """What the unknown kernel answered to one question."""

    number: int
    id: str
    title: str
    answer: str
    shown: tuple[str, ...]
    """What /proc and brk() showed afterwards, apart from where things lie."""

    def __str__(self) -> str:
        return f"{self.number}. {self.id}: {self.title}: {self.answer}"

    def __repr__(self) -> str:
        if self.id in questions():
            return str(self)
        left = len(self.shown) - _SHOWN
        more = [f"   and {left} more"] if left > 0 else []
        return "\n".join([str(self), *(f"   {line}" for line in self.shown[:_SHOWN]), *more])


class UnknownKernel:
    """A kernel that answers, and does not say which it is; `unknown_kernel` draws one.

    `ask` takes the id of a question of the atlas, and in a guest any experiment or recipe.
    `between` judges. It is stopped with `stop`, the end of a `with`, or the notebook.
    """

    def __init__(self, seed: int, kernel: Kernel) -> None:
        self.seed, self._kernel = seed, kernel
        self._asked: dict[str, Reply] = {}

    def __enter__(self) -> UnknownKernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        head = f"<unknown kernel, seed {self.seed}, {_counted(len(self.asked))} asked>"
        return "\n".join([head, *map(str, self.asked)])

    @property
    def origin(self) -> str:
        """Where its answers come from, without its release."""
        if isinstance(self._kernel, RecordedKernel):
            return f"recorded on Linux (its release is hidden), {self._kernel.day}"
        return LIVE

    @property
    def asked(self) -> tuple[Reply, ...]:
        """What was asked so far, and answered; the same question counts once."""
        return tuple(self._asked.values())

    def ask(self, question: str | Experiment) -> Reply:
        """Ask it one question, as root with all capabilities, and return its answer.

        Raises InputError for what is no question, NotRecorded for an experiment of one's own where
        the kernel is recorded, GuestError if its guest is gone.
        """
        experiment = _question(question)
        if experiment.id in self._asked and experiment == questions().get(experiment.id):
            return self._asked[experiment.id]
        found = self._findings(experiment)
        answer = answer_text(experiment.id, found)
        reply = Reply(len(self._asked) + 1, experiment.id, experiment.title, answer,
                      tuple(_shown(found)))  # fmt: skip
        self._asked[experiment.id] = reply
        return reply

    def _findings(self, experiment: Experiment) -> Findings:
        note(self.origin)
        if isinstance(self._kernel, RecordedKernel):
            return side_of(self._kernel.recorded(experiment)).findings
        return side_of(self._kernel.run(experiment)).findings

    def between(self, first: str, last: str = "") -> Told:
        """Judge a guess: the first and the last kernel of the atlas that answer as it does.

        It is judged by what the kernels of the atlas were recorded to answer.

        Raises InputError for what is no release.
        """
        note(_recorded().origin)
        return judge(self.seed, (first, last or first), [reply.id for reply in self.asked])

    def stop(self) -> None:
        """End its guest, if it has one."""
        self._kernel.stop()


def _question(question: str | Experiment) -> Experiment:
    known = questions()
    if isinstance(question, str) and re.fullmatch(r"[\w.-]{1,60}", question):
        if question not in known:
            raise InputError("question", "is none of the atlas", repr(question),
                             suggestion(question, known))  # fmt: skip
        return known[question]
    return experiment_of(question)


def _shown(found: Findings) -> Iterator[str]:
    for name, value in (*found.effects, *found.answers):
        yield f"{name.text}: {value.text}"


_games: WeakValueDictionary[int, UnknownKernel] = WeakValueDictionary()
"""The latest game of each seed, for as long as the player keeps it."""


def unknown_kernel(seed: int) -> UnknownKernel:
    """Draw a kernel of the atlas: in a guest if that very kernel is kept, else as recorded.

    >>> with unknown_kernel(seed=1) as unknown:
    ...     reply = unknown.ask("same-map")
    >>> reply
    1. same-map: All 14 members keep their value: accepted

    Raises GuestError if its guest does not start.
    """
    (kernel,) = kernels_at_hand(_drawn(seed))
    game = UnknownKernel(seed, kernel)
    _games[seed] = game
    return game


def _drawn(seed: int) -> str:
    return Random(f"dating {seed}").choice([kernel.upstream for kernel in recorded_kernels()])


def judge_game(seed: int, answer: object) -> Told:
    """Judge an answer to the game of a seed, with what was asked in it in this session.

    Raises InputError for what is no pair of releases.
    """
    game = _games.get(seed)
    return judge(seed, answer, [reply.id for reply in game.asked] if game else None)


# ---- judging ------------------------------------------------------------------------------------


def judge(seed: int, answer: object, asked: Iterable[str] | None) -> Told:
    """Judge the first and the last kernel that are named; `asked` is None where nobody played.

    Raises InputError for what is no pair of releases, and for a span without a kernel of the atlas.
    """
    known = atlas()
    unknown = _drawn(seed)
    inside = _kernels_in(answer, known)
    alike = [kernel for kernel in known if not _separating(unknown, kernel)]
    # Of those that are wrong the one nearest to the end of the span tells most.
    for kernel in (inside[0], inside[-1], *inside):
        if separating := _separating(unknown, kernel):
            return Told(False, _refuted(kernel, separating))
    if missing := [kernel for kernel in alike if kernel not in inside]:
        return Told(False, f"All that you name fits, but {_listed(missing)} answered every question"
                    " the same: nothing that you can ask here excludes it.")  # fmt: skip
    return Told(True, " ".join(_lesson(unknown, alike, asked)))


def atlas() -> tuple[str, ...]:
    """Return the kernels that can be drawn, by release, the oldest first."""
    return tuple(kernel.upstream for kernel in recorded_kernels())


@cache
def answers() -> Mapping[str, Mapping[str, str]]:
    """Return what each kernel answered: question -> release -> answer in a word."""
    return {row.id: row.answers for row in _recorded().rows}


@cache
def _recorded() -> Atlas:
    return recorded_atlas()


def _separating(one: str, other: str) -> list[str]:
    """Return the questions that two kernels answered differently."""
    return [name for name, found in answers().items() if found[one] != found[other]]


def fewest(kernels: Iterable[str], among: Iterable[str]) -> tuple[str, ...]:
    """Return as few questions as tell each of some kernels from all of the others that differ."""
    pairs = [s for one in kernels for other in among if (s := {*_separating(one, other)})]
    useful = sorted(set().union(*pairs))
    for size in range(len(useful) + 1):
        for chosen in combinations(useful, size):
            if all(pair & {*chosen} for pair in pairs):
                return chosen
    return tuple(useful)


def _refuted(kernel: str, separating: list[str]) -> str:
    name, *others = separating
    too = f", or {' or '.join(others[:2])}" if others else ""
    return (
        f"Linux {kernel} lies in it, but answers {name} with {answers()[name][kernel]!r}, and the "
        f"unknown one does not. Ask {name}{too}."
    )


def _lesson(unknown: str, alike: list[str], asked: Iterable[str] | None) -> Iterator[str]:
    others = [kernel for kernel in alike if kernel != unknown]
    same = f"; {_listed(others)} answered every question the same" if others else ""
    yield f"It was Linux {unknown}{same}."
    known = atlas()
    first, last = known.index(alike[0]), known.index(alike[-1])
    for place, word in ((first - 1, "older"), (last + 1, "newer")):
        if 0 <= place < len(known):
            yield _edge(word, known[place], unknown)
    need = fewest([unknown], known)
    if asked is None:
        yield f"{_counted(len(need))} would do: {', '.join(need)}."
        return
    said = [*asked]
    yield f"You asked {_counted(len(said))}; {len(need)} would have done: {', '.join(need)}."
    left = [k for k in known if k not in alike and not {*_separating(unknown, k)} & {*said}]
    if left:
        name = _separating(unknown, left[0])[0]
        yield (
            f"But it was luck: what you asked leaves {_listed(left)} open, and {name} would have "
            "told."
        )


def _edge(word: str, kernel: str, unknown: str) -> str:
    """Say what separates it from the next kernel before or after."""
    name = _separating(unknown, kernel)[0]
    cause = _cause(name, kernel, unknown)
    return f"The next {word} one differs by {name}{f' ({cause})' if cause else ''}."


def _cause(question: str, one: str, other: str) -> str:
    """Return the commits of the turn between two kernels, if it is known."""
    known = atlas()
    low, high = sorted((known.index(one), known.index(other)))
    row = next(row for row in _recorded().rows if row.id == question)
    between = [turn for turn in row.turns if turn.newer in known[low + 1 : high + 1]]
    return between[0].commits if between else ""


def _kernels_in(answer: object, known: tuple[str, ...]) -> list[str]:
    """Return the kernels of the atlas that lie in a span.

    Raises InputError for what is no span, and for one without any.
    """
    first, last = _span(answer)
    inside = [k for k in known if first <= _series(k) <= last]
    if not inside:
        raise InputError(YOURS, "has no kernel of the atlas", f"{first} to {last}",
                         f"one of {', '.join(known)}")  # fmt: skip
    return inside


def _span(answer: object) -> tuple[Release, Release]:
    said = re.split(r"[\s,;]+|\bto\b|-", answer.strip()) if isinstance(answer, str) else answer
    wanted = '("6.1", "6.12")'
    if not isinstance(said, list | tuple) or not all(isinstance(each, str) for each in said):
        raise InputError(YOURS, "are no two releases as text", shorten(answer), wanted)
    said = [each for each in said if each]
    if len(said) not in (1, 2):
        raise InputError(YOURS, "is not a first and a last release", shorten(answer), wanted)
    first, last = (_series(each) for each in (said[0], said[-1]))
    if first > last:
        raise InputError(YOURS, "is no span", shorten(answer), "the earlier release first")
    return first, last


def _series(text: str) -> Release:
    return Release(*read_release(text, YOURS)[:2])


def _listed(kernels: Iterable[str]) -> str:
    return " and ".join(", ".join(f"Linux {k}" for k in kernels).rsplit(", ", 1))


def _counted(number: int) -> str:
    return "1 question" if number == 1 else f"{number} questions"
