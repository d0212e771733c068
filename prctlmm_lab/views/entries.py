"""A record as one row: what a reader of a logbook sees of an experiment first.

A record may come from a stranger. Every text of an entry is safe to print (control characters and
those that turn the direction of text stand as escapes) and no longer than `LONGEST_TEXT`; nothing
of it is HTML, and whoever writes HTML escapes it.
"""

from __future__ import annotations

import heapq
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

from prctlmm_lab.experiments.formula import printable
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.specimen.recording.marks import PREDICTED
from prctlmm_lab.views.legend import BROKEN, DISAGREES, HOLDS, REFUSES, SHADE, SOFT, Sign
from prctlmm_lab.words import shortened

T = TypeVar("T")

LONGEST_TEXT = 400
"""Columns of the longest text of an entry; of longer ones the middle is left out."""
FIRST_DIFFERENCES = 3
"""So many differences an entry tells; it counts them all."""
MOST_MARKS_STACKED = 3
"""Combining characters that may follow each other; no script needs more."""
MOST_CHANGES = 14
"""So many changes an entry tells: one for each member."""
INTERRUPTED, NO_ANSWER = "interrupted", "no answer"
"""What stands in place of a verdict where none came."""
DISAGREED = Sign("≠", DISAGREES, "#ffe9ee")
"""Where kernel and specification disagree."""
UNKNOWN = Sign("○", SOFT, SHADE)
"""Where the lab was interrupted before it knew the outcome."""
RIGHT, WRONG, OPEN, UNASKED = "right", "wrong", "open", "none"
"""What came of the learner's prediction: open where no answer came, none where none was made."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record in a row; its fields are the columns of a logbook's table."""

    time: datetime | None
    """UTC; None if the record's text is no time that exists."""
    experiment: str
    """Its id."""
    title: str
    changed: str
    """The members that change and the formulas, as the recipe has them."""
    values: str
    """The same with the numbers that the formulas came to, in hex."""
    operation: str
    verdict: str
    """What the kernel said: accepted, the name of an errno, interrupted, or no answer."""
    rule: str
    """The id of the rule that decides by the specification, "" for none."""
    predicted: str
    """What the specification said."""
    agrees: bool | None
    """Whether the kernel did as the specification says; None where no kernel answered."""
    learner: str
    """What the learner predicted, "" for nothing."""
    right: bool | None
    """Whether the learner was right; None without a prediction or an answer."""
    differences: int
    """How many differences the call made in /proc."""
    first_differences: str
    ended: str
    """How the specimen or the run ended, if it did."""
    kernel: str
    """The release."""
    uid: int | None
    """None for a number that is no user's."""
    origin: str
    """live, recorded on Linux X, DATE, or predicted."""
    id: str
    """Of the run."""


def entry_of(record: Record) -> Entry:
    """Return a record as one row.

    >>> from prctlmm_lab import Experiment, run
    >>> entry = entry_of(run(Experiment("grows", change={"end_code": "end_code + page"})))
    >>> entry.changed, entry.verdict, entry.first_differences[:14]
    ('end_code = end_code + page', 'accepted', 'stat end_code:')
    """
    told = record.experiment
    rows = islice(record.difference, FIRST_DIFFERENCES)
    return Entry(
        time=time_of(record),
        experiment=identity_of(record),
        title=clear(told.get("title", "")),
        changed=clear(", ".join(_formulas(told))),
        values=clear(", ".join(_values(record))),
        operation=clear(record.operation),
        verdict=verdict_of(record),
        rule=clear(record.prediction.rule),
        predicted=clear(record.prediction.verdict),
        agrees=agreed(record),
        learner=clear(record.learner),
        right=record.agreement.learner if record.learner else None,
        differences=len(record.difference),
        first_differences=clear("; ".join(change_text(row) for row in rows)),
        ended=clear(record.outcome.ended),
        kernel=clear(record.facts.release),
        uid=record.privilege.uid if 0 <= record.privilege.uid < 1 << 32 else None,
        origin=clear(record.origin),
        id=record.id,
    )


def clear(text: object, room: int = LONGEST_TEXT) -> str:
    r"""Return a text from a record so that it can be printed: visible, and not too long.

    >>> clear("a\tb \u202e c"), clear("0123456789", 5)
    ('a\\tb \\u202e c', '01…89')
    """
    if not isinstance(text, str):
        text = hex(text) if isinstance(text, int) and text.bit_length() <= 64 else ""
    if len(text) > 2 * room:  # a combining character takes no room, so there may be any number
        text = f"{text[:room]}…{text[-room:]}"
    return shortened(visible(text), room)


def visible(text: str) -> str:
    """Return a text with everything visible, and with what stays in its line.

    Marks that are stacked on one character would reach over other lines: of more than three the
    rest is left out.

    >>> visible("a" + 9 * chr(0x301)) == "a" + 3 * chr(0x301) + "…"
    True
    """
    shown = printable(text)
    if shown.isascii():
        return shown
    kept, marks = [], 0
    for character in shown:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= MOST_MARKS_STACKED:
            kept.append(character)
        elif marks == MOST_MARKS_STACKED + 1:
            kept.append("…")
    return "".join(kept)


def time_of(record: Record) -> datetime | None:
    """Return when the call was made, None for a text that is no time."""
    try:
        return datetime.fromisoformat(record.time).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def time_text(moment: datetime | None, spec: str = "seconds") -> str:
    """Write a time in UTC; what is no time as a dash."""
    if moment is None:
        return "-"
    return moment.replace(tzinfo=None).isoformat(" ", timespec=spec)


def identity_of(record: Record) -> str:
    """Return the id of the record's experiment, as it can be printed."""
    return clear(record.experiment.get("id", ""))


def verdict_of(record: Record) -> str:
    """Return what the kernel said, or in one word why it said nothing."""
    if record.outcome.interrupted:
        return INTERRUPTED
    return clear(record.outcome.verdict) or NO_ANSWER


def agreed(record: Record) -> bool | None:
    """Tell whether the kernel did as the specification says; None where no kernel answered."""
    if not record.agreement.with_lab:
        return False
    if record.agreement.verdict is None or record.origin == PREDICTED:
        return None
    return True


def learner_of(record: Record) -> str:
    """Tell what came of the learner's prediction: right, wrong, open, or none was made."""
    if not record.learner:
        return UNASKED
    return {True: RIGHT, False: WRONG, None: OPEN}[record.agreement.learner]


def sign_of(entry: Entry) -> Sign:
    """Return how an outcome is marked beside its word."""
    if entry.agrees is False:
        return DISAGREED
    if entry.verdict == INTERRUPTED:
        return UNKNOWN
    if entry.verdict == NO_ANSWER:
        return BROKEN
    return HOLDS if entry.verdict == "accepted" else REFUSES


def change_text(row: tuple[str, str, str, str]) -> str:
    """Write a difference: place, name, before and after."""
    place, name, before, after = (clear(text) for text in row)
    return f"{place} {name}".rstrip() + f": {before} -> {after}"


def newest(records: Iterable[tuple[str, T]], count: int) -> list[T]:
    """Return the items with the latest times, the oldest first; no more are held at once.

    >>> newest([("2026-01-02", "b"), ("2026-01-03", "c"), ("2026-01-01", "a")], 2)
    ['b', 'c']
    """
    kept: list[tuple[str, int, T]] = []
    for number, (time, item) in enumerate(records):
        if len(kept) < count:
            heapq.heappush(kept, (time, number, item))
        elif kept and (time, number) > kept[0][:2]:
            heapq.heapreplace(kept, (time, number, item))
    return [item for _, _, item in sorted(kept, key=lambda one: one[:2])]


def _formulas(experiment: Mapping[str, Any]) -> list[str]:
    """Write what the recipe says of the call: the members' formulas, and the call's own."""
    told = [(name, value) for name, value in _table(experiment, "change")]
    told += [(f"call.{name}", value) for name, value in _table(experiment, "call")]
    return [f"{clear(name)} = {clear(value)}" for name, value in told]


def _values(record: Record) -> list[str]:
    names = [name for name, _ in _table(record.experiment, "change")]
    told = [f"{clear(n)} = {record.map[n]}" for n in names if n in record.map]
    return told + ([f"arg3 = {record.value}"] if record.value else [])


def _table(experiment: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    """Return the first entries of a table of the experiment, none if it is no table."""
    table = experiment.get(key)
    return list(islice(table.items(), MOST_CHANGES)) if isinstance(table, dict) else []
