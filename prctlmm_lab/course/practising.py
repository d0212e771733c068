"""Practice without end: problems that follow what the learner knows, a score, and a history.

Each problem is drawn from the seed and from all that was answered before, so that the same seed and
the same history give the same problem.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from html import escape
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING

from prctlmm_lab.course.answered import (
    Answered,
    append_answer,
    eagerness,
    history_beside,
    level_after,
    read_history,
)
from prctlmm_lab.course.asking import Problem, identity_of
from prctlmm_lab.course.exercises import Told
from prctlmm_lab.course.problems import TOPICS, Die, Posed, pose, possible_topics
from prctlmm_lab.errors import InputError, LabError
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.experiments.logbook import LogFile, default_logbook
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.marks import LIVE, weaker

if TYPE_CHECKING:
    from prctlmm_lab.views.practising import Practice

MOST_TRIES = 40
"""Problems that are drawn before one is taken that was asked before, or none is found."""


@dataclass(frozen=True)
class Score:
    """How the practice goes: of this session, and of all that is remembered."""

    right: int
    asked: int
    streak: int
    """Right answers without a wrong one between, up to now."""
    level: int
    remembered: int
    """Answers of all sessions, these included."""
    remembered_right: int
    by_topic: Mapping[str, tuple[int, int]]
    """Family of topics -> right and asked, of all that is remembered."""

    def __str__(self) -> str:
        head = (
            f"{self.right} of {self.asked} right in this session, "
            f"{self.remembered_right} of {self.remembered} in all; "
            f"{self.streak} in a row; level {self.level} of 3"
        )
        rows = (f"  {name:20} {right:4} of {asked}" for name, (right, asked) in
                self.by_topic.items())  # fmt: skip
        return "\n".join([head, *rows])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, _, _ = str(self).partition("\n")
        rows = "".join(
            f'<tr><td style="text-align:left">{escape(name)}</td><td>{right} of {asked}</td></tr>'
            for name, (right, asked) in self.by_topic.items()
        )
        table = f"<table><thead><tr><th>topic</th><th>right</th></tr></thead>{rows}</table>"
        return f"<div>{escape(head)}</div>{table if rows else ''}"


class Problems:
    """A practice: `next()` gives a problem, `answer` judges it, `score()` says how it goes.

    It shows its present problem. `problem.answer(...)` and `problems.answer(...)` are the same.
    """

    def __init__(self, seed: int, logbook: Path | None) -> None:
        self.seed = seed
        self.logbook = logbook
        self.history = None if logbook is None else history_beside(logbook)
        """The file in which the answers are kept, None for none."""
        self.answers = [] if self.history is None else read_history(self.history)
        self.current: Problem | None = None
        self._before = len(self.answers)
        self._passed_over = 0
        facts = facts_here()
        self._facts = facts
        self._topics = possible_topics(facts, namespaces=_namespaces())

    @property
    def level(self) -> int:
        """The level of the next problem, 1 to 3."""
        return level_after(self.answers)

    @property
    def origin(self) -> str:
        """Where the answers of this session come from: of all the one that says least."""
        return reduce(weaker, (answer.origin for answer in self.answers[self._before :]), LIVE)

    def next(self) -> Problem:
        """Return the next problem; one that is not answered yet is passed over.

        Raises UnsupportedSystem, SpecimenError where no specimen can be started, InputError if no
        problem can be set up here.
        """
        if self.current is not None:
            self._passed_over += self.current.told is None
            self.current.stop()
        die = Die(self.seed, len(self.answers), self._passed_over)
        reason: LabError | None = None
        for _ in range(MOST_TRIES):
            posed = self._draw(die)
            try:
                self.current = self._on_a_specimen(posed)
            except LabError as error:  # not recorded, or refused by this system: another one
                reason = error
            else:
                return self.current
        raise InputError("practice", f"no problem can be set up here: {reason}")

    def _draw(self, die: Die) -> Posed:
        """Draw a problem that was not asked before, if that can be had."""
        asked = {answer.problem for answer in self.answers}
        last = self.answers[-1].topic if self.answers else ""
        weights = {
            name: topic.weight * eagerness(name, self.answers)
            for name, topic in self._topics.items()
            if topic.first <= self.level and name != last
        }
        for _ in range(MOST_TRIES):
            posed = pose(die.weighted(weights), self.level, die, self._facts)
            if identity_of(posed) not in asked:
                break
        return posed

    def _on_a_specimen(self, posed: Posed) -> Problem:
        number = len(self.answers) - self._before + self._passed_over + 1
        book = None if self.logbook is None else LogFile(self.logbook)
        return Problem(
            posed, seed=self.seed, number=number, logbook=book, on_answer=self._remember
        )  # fmt: skip

    def _remember(self, answer: Answered) -> str:
        """Take an answer into account, and keep it; return why it could not be kept, or ""."""
        self.answers.append(answer)
        if self.history is None:
            return ""
        try:
            append_answer(self.history, answer)
        except InputError as error:
            return f"(Not kept for the next time: {error}.)"
        return ""

    def answer(self, said: object) -> Told:
        """Answer the present problem, as its own `answer` does."""
        return self._present().answer(said)

    def hint(self) -> str:
        """Return a hint for the present problem."""
        return self._present().hint()

    def _present(self) -> Problem:
        return self.current or self.next()

    def score(self) -> Score:
        """Return how it goes: of this session, and of all that is remembered."""
        mine = self.answers[self._before :]
        streak = 0
        for answer in self.answers:
            streak = streak + 1 if answer.right else 0
        right, asked = Counter[str](), Counter[str]()
        for answer in self.answers:
            family = TOPICS[answer.topic].family if answer.topic in TOPICS else answer.topic
            asked[family] += 1
            right[family] += answer.right
        families = dict.fromkeys(topic.family for topic in TOPICS.values())
        return Score(
            sum(a.right for a in mine), len(mine), streak, self.level, len(self.answers),
            sum(a.right for a in self.answers),
            {name: (right[name], asked[name]) for name in {**families, **asked} if asked[name]},
        )  # fmt: skip

    def widget(self) -> Practice:
        """Return the same as a widget, for mouse or keyboard."""
        from prctlmm_lab.views.practising import Practice

        return Practice(self)

    def stop(self) -> None:
        """End the specimen of the present problem."""
        if self.current is not None:
            self.current.stop()

    def __repr__(self) -> str:
        return repr(self._present())

    def _repr_html_(self) -> str:
        return self._present()._repr_html_()


def practice(seed: int | None = None, *, logbook: str | Path | None = "") -> Problems:
    """Begin to practise: seeded problems without end, each judged by the real call.

    Without a seed one is drawn, and shown. Each call goes to the logbook, by default the learner's
    own, and each answer to a file beside it, which the next practice continues; None keeps nothing.

    >>> problems = practice(seed=1, logbook=None)
    >>> problem = problems.next()
    >>> told = problem.answer("a")
    >>> problems.score().asked
    1

    Raises InputError for a seed that is no whole number, and for a history that cannot be read.
    """
    if seed is None:
        seed = SystemRandom().getrandbits(32)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError("seed", "is no whole number", shorten(seed), "such as 1")
    path = default_logbook() if logbook == "" else logbook
    return Problems(seed, None if path is None else Path(path))


@cache
def _namespaces() -> bool:
    """Tell whether a specimen may enter a user namespace here."""
    try:
        with Specimen(heap_pages=0) as specimen:
            specimen.enter_user_namespace()
    except LabError:
        return False
    return True
