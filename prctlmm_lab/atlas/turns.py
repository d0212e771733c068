"""Turns: what kernels answered to the same questions, in order of release, and where it changed.

Between a kernel and the next newer one the same question has one answer or two. Two are a turn, and
a turn has a cause that is known, or it is unexplained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from prctlmm_lab.atlas.images import version_order
from prctlmm_lab.atlas.recorded import RecordedKernel, questions, recorded_kernels
from prctlmm_lab.experiments.causes import Side, cause_of
from prctlmm_lab.experiments.comparison import Difference, Findings, differences
from prctlmm_lab.experiments.record import LIVE, Record

if TYPE_CHECKING:
    from prctlmm_lab.atlas.survey import Survey

UNEXPLAINED = "unexplained"
FIVE_LEVELS = " 5-level"
"""What stands behind the release of a kernel with 5-level page tables."""
_PART = {"recipe": "recipes", "case": "conformance", "claim": "claims"}
"""The kinds of questions of a survey, and where it has the answers."""


def stands_beside(kernel: str) -> bool:
    """Tell whether a kernel is not one of the series, but another machine or has other tables.

    >>> stands_beside("6.12.118"), stands_beside("6.12.118 5-level")
    (False, True)
    """
    return " " in kernel


@dataclass(frozen=True)
class Turn:
    """Two kernels beside each other that answer one question differently."""

    older: str
    newer: str
    differences: tuple[Difference, ...]
    cause: str
    """Why, with the commits; "unexplained" where none of the known causes fits."""

    @property
    def why(self) -> str:
        """The cause without the two values of its fact, which change sides where it is undone."""
        return re.sub(r" \[\w+: [^]]*\]", "", self.cause)

    @property
    def commits(self) -> str:
        """The commits of the cause with their releases, as it names them; "" for none."""
        found = re.search(r"\(([^()]*[0-9a-f]{12}[^()]*)\)$", self.cause)
        return found[1] if found else ""


@dataclass(frozen=True)
class Row:
    """One question, and what each kernel answered."""

    id: str
    title: str
    answers: Mapping[str, str]
    """Kernel -> its answer in a word or two; a kernel that was not asked is not there."""
    turns: tuple[Turn, ...]

    @property
    def differs(self) -> bool:
        """True if not all kernels answer alike."""
        return bool(self.turns)


@dataclass(frozen=True)
class Atlas:
    """Kernels in order of release, and the questions that they were asked."""

    kernels: tuple[str, ...]
    """By stable release; those with 5-level page tables or of another machine come last, and say
    so behind a space."""
    rows: tuple[Row, ...]
    origin: str
    """Where the answers come from: "live", or "recorded on Linux ..."."""

    @property
    def differing(self) -> tuple[Row, ...]:
        """The rows in which kernels differ."""
        return tuple(row for row in self.rows if row.differs)

    @property
    def alike(self) -> tuple[Row, ...]:
        """The rows in which every kernel answers the same."""
        return tuple(row for row in self.rows if not row.differs)


def recorded_atlas() -> Atlas:
    """Return what the kernels of data/atlas/records were recorded to answer, as root.

    >>> [row.id for row in recorded_atlas().alike][:2]
    ['same-map', 'code-reversed']
    """
    kernels = (*recorded_kernels(), *recorded_kernels(levels=5))
    found = {_name(kernel): [*_answered(kernel)] for kernel in kernels}
    days = {kernel.day for kernel in kernels}
    origin = f"recorded on Linux {kernels[0].upstream} to {recorded_kernels()[-1].upstream}"
    return replace(atlas_of(found), origin=f"{origin}, {max(days)}")


def _name(kernel: RecordedKernel) -> str:
    return kernel.upstream + (FIVE_LEVELS if kernel.levels == 5 else "")


def _answered(kernel: RecordedKernel) -> Iterator[Record]:
    for experiment in questions().values():
        yield kernel.recorded(experiment)


def atlas_of(records: Mapping[str, Iterable[Record]]) -> Atlas:
    """Put the records of kernels beside each other: release -> its answers to some questions.

    What is asked of several kernels under one id must be the same experiment.

    >>> from prctlmm_lab.atlas.recorded import RecordedKernel, questions
    >>> asked = questions()["heap-touches"]
    >>> row, = atlas_of({k: [RecordedKernel(k).run(asked)] for k in ("6.1", "6.12")}).rows
    >>> dict(row.answers)
    {'6.1': '[heap]', '6.12': 'no name'}
    """
    kernels = tuple(sorted(records, key=_order))
    asked: dict[str, dict[str, Record]] = {}
    for kernel in kernels:
        for record in records[kernel]:
            asked.setdefault(str(record.experiment.get("id", "")), {})[kernel] = record
    return Atlas(kernels, tuple(_row(name, found) for name, found in asked.items()), LIVE)


def _order(name: str) -> tuple[bool, object]:
    return stands_beside(name), version_order(name.partition(" ")[0])


def _row(name: str, found: Mapping[str, Record]) -> Row:
    sides = {kernel: side_of(record) for kernel, record in found.items()}
    plain = [kernel for kernel in found if not stands_beside(kernel)]
    wide = [(kernel.partition(" ")[0], kernel) for kernel in found if stands_beside(kernel)]
    beside = [*pairwise(plain), *(pair for pair in wide if pair[0] in found)]
    turns = tuple(
        turn for older, newer in beside if (turn := _turn(older, newer, sides)) is not None
    )
    title = str(next(iter(found.values())).experiment.get("title", ""))
    return Row(name, title, {k: answer_text(name, s.findings) for k, s in sides.items()}, turns)


def side_of(record: Record) -> Side:
    """Return a record as one side of a comparison, as if it had been made just now."""
    return Side.of(replace(record, origin=LIVE))


def _turn(older: str, newer: str, sides: Mapping[str, Side]) -> Turn | None:
    found = differences(sides[older].findings, sides[newer].findings)
    if not found:
        return None
    cause = cause_of(sides[older], sides[newer], found)
    return Turn(older, newer, found, str(cause) if cause else UNEXPLAINED)


# ---- of surveys -------------------------------------------------------------------------------


def surveyed_atlas(
    found: Iterable[Survey], *, who: str = "root", kinds: Sequence[str] = ("recipe",)
) -> Atlas:
    """Put the surveys of kernels beside each other, as one caller made them.

    `kinds` are of "recipe", "case" and "claim". Turns and their causes are those of
    `explained.differences`.

    >>> surveyed_atlas([]).rows
    ()
    """
    from prctlmm_lab.atlas.explained import differences

    surveys = [survey for survey in found if survey.target.who == who]
    surveys.sort(key=lambda survey: survey.target.order)
    kernels = tuple(survey.target.name for survey in surveys)
    turned: dict[tuple[str, str], list[Turn]] = {}
    words: dict[tuple[str, str], dict[str, str]] = {}
    for turn in differences(surveys):
        commits = f" ({', '.join(turn.commits)})" if turn.commits else ""
        cause = f"{turn.reason.rstrip('.')}{commits}" if turn.reason else UNEXPLAINED
        question = turn.kind, turn.name
        turned.setdefault(question, []).append(Turn(turn.older.name, turn.newer.name, (), cause))
        told = words.setdefault(question, {})
        told.setdefault(turn.older.name, turn.before)
        told[turn.newer.name] = turn.after
    rows = []
    for kind in kinds:
        names = dict.fromkeys(name for each in surveys for name in getattr(each, _PART[kind]))
        for name in names:
            answers = {
                each.target.name: _verdict(getattr(each, _PART[kind])[name])
                for each in surveys
                if name in getattr(each, _PART[kind])
            }
            turns = tuple(turned.get((kind, name), ()))
            rows.append(Row(name, "", _between(answers, words.get((kind, name), {})), turns))
    return Atlas(kernels, tuple(rows), _origin(surveys))


def _verdict(answer: Any) -> str:
    """Return the answer of a case, claim or experiment in a word."""
    for name in ("result", "verdict", "end"):
        if word := getattr(answer, name, ""):
            return str(word)
    return "cannot be made"


def _between(answers: Mapping[str, str], told: Mapping[str, str]) -> dict[str, str]:
    """Take the words of turns for the kernels between them too."""
    if not told:
        return dict(answers)
    known = {**answers, **told}
    plain = [kernel for kernel in answers if not stands_beside(kernel)]
    word = next((told[kernel] for kernel in plain if kernel in told), "")
    found = {}
    for kernel in answers:
        if not stands_beside(kernel):
            word = told.get(kernel, word or known[kernel])
            found[kernel] = word
        else:
            like = found.get(kernel.partition(" ")[0], known[kernel])
            found[kernel] = told.get(kernel, like)
    return found


def _origin(surveys: Sequence[Survey]) -> str:
    days = [made.time[:10] for survey in surveys for made in survey.made.values()]
    if not days:
        return LIVE
    names = [each.target.upstream for each in surveys if not stands_beside(each.target.name)]
    names = names or [surveys[0].target.upstream]
    return f"recorded on Linux {names[0]} to {names[-1]}, {max(days)}"


# ---- in a word ----------------------------------------------------------------------------------


def answer_text(question: str, found: Findings) -> str:
    """Say in a word or two what a kernel answered.

    It is the verdict; for a map that all kernels accept, what they show otherwise.
    """
    read = _READ.get(question)
    return read(found) if read and found.verdict == "accepted" else found.verdict or found.end


def _label(found: Findings) -> str:
    return "[heap]" if any("[heap]" in value.text for _, value in found.effects) else "no name"


def _heap_end(found: Findings) -> str:
    return "moves" if any(name.text == "then brk()" for name, _ in found.effects) else "stays"


def _rest(found: Findings) -> str:
    gone = any(
        name.text == "auxv AT_PAGESZ" and value.text == "(none)" for name, value in found.effects
    )
    return "gone" if gone else "kept"


_READ: dict[str, Callable[[Findings], str]] = {
    "heap-touches": _label, "brk-over-a-hole": _heap_end, "vector-tail": _rest,
}  # fmt: skip
"""Question -> how the answer of a kernel that accepts the map is read."""
