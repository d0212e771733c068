"""Which records of a logbook are meant: criteria that a record meets, and the newest few.

Criteria are data: they are checked when they are named, and applied while the file is read.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import VERDICTS
from prctlmm_lab.experiments.formula import shorten, suggestion
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.kernel.legacy import LEGACY_RULE
from prctlmm_lab.kernel.rules import RULE
from prctlmm_lab.specimen.recording.marks import LIVE, PREDICTED
from prctlmm_lab.views.entries import (
    INTERRUPTED,
    NO_ANSWER,
    OPEN,
    RIGHT,
    UNASKED,
    WRONG,
    agreed,
    identity_of,
    learner_of,
    newest,
    time_of,
    time_text,
    verdict_of,
)

LONGEST_PATTERN = 200
"""Characters of the longest text that is looked for."""


@dataclass(frozen=True)
class Criterion:
    """One thing that is asked of a record: the key, and what is wanted."""

    key: str
    wanted: str | bool | datetime

    def admits(self, record: Record) -> bool:
        """Tell whether a record meets it."""
        return _ADMIT[self.key](record, self.wanted)

    def __str__(self) -> str:
        wanted = self.wanted
        shown = time_text(wanted) if isinstance(wanted, datetime) else str(wanted)
        return f"{self.key}={shown}"


@dataclass(frozen=True)
class Where:
    """Only the records that meet every criterion."""

    criteria: tuple[Criterion, ...]

    def apply(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield them while reading."""
        return (one for one in records if all(c.admits(one) for c in self.criteria))

    def __str__(self) -> str:
        return ", ".join(map(str, self.criteria))


@dataclass(frozen=True)
class Last:
    """Only the newest records, by their times."""

    count: int

    def apply(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield them, the oldest of them first, once all were read."""
        yield from newest(((one.time, one) for one in records), self.count)

    def __str__(self) -> str:
        return f"the last {self.count:,}"


Stage = Where | Last


def where(wanted: Mapping[str, object]) -> Where:
    """Return the criteria that are asked for; a None asks for nothing.

    Raises InputError for a keyword that is none, and for a value that no record can have.
    """
    for key in wanted:
        if key not in _ADMIT:
            raise InputError("where", "is nothing a record can be chosen by", shorten(key),
                             suggestion(key, _ADMIT))  # fmt: skip
    asked = {key: value for key, value in wanted.items() if value is not None}
    return Where(tuple(Criterion(key, _checked(key, value)) for key, value in asked.items()))


def last(count: object) -> Last:
    """Return the stage that keeps the newest `count` records.

    Raises InputError for what is no number of records.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= MOST_LAST:
        raise InputError("last", "is no number of records", shorten(count), f"1 to {MOST_LAST:,}")
    return Last(count)


MOST_LAST = 100_000
"""So many records can be asked for as the last ones; they are all held in memory."""


# ---- what is asked ----------------------------------------------------------------------------

_ERRNOS = tuple(errno.errorcode.values())
_KNOWN: dict[str, tuple[str, ...]] = {
    "verdict": (*VERDICTS, INTERRUPTED, NO_ANSWER, *_ERRNOS),
    "rule": ("", *RULE, *LEGACY_RULE),
    "learner": (RIGHT, WRONG, OPEN, UNASKED),
    "origin": (LIVE, PREDICTED, "recorded on Linux *"),
}
_SHOWN = {"verdict": (*VERDICTS, INTERRUPTED, NO_ANSWER)}
"""What a message lists, where that is less than what is known."""


def _checked(key: str, value: object) -> str | bool | datetime:
    if key in ("since", "until"):
        return _moment(key, value)
    if key == "agreed":
        if not isinstance(value, bool):
            raise InputError(key, "is neither", shorten(value), "True or False")
        return value
    if not isinstance(value, str):
        raise InputError(key, "is no text", shorten(value), 'such as "heap-*"')
    if len(value) > LONGEST_PATTERN:
        raise InputError(key, "characters are too many", str(len(value)),
                         f"at most {LONGEST_PATTERN}")  # fmt: skip
    known = _KNOWN.get(key)
    if known is not None and not _is_known(key, value, known):
        raise InputError(key, "is none that a record can have", shorten(value),
                         _meant(value, known, _SHOWN.get(key, known)))  # fmt: skip
    return value


def _is_known(key: str, pattern: str, known: Iterable[str]) -> bool:
    if key == "origin" and pattern.startswith("recorded on "):
        return True
    return any(_matches(name, pattern) for name in known)


def _meant(value: str, known: tuple[str, ...], shown: tuple[str, ...]) -> str:
    same = [name for name in known if name and name.lower() == value.lower()]
    if same or any(name.startswith(f"{value}.") for name in known):
        return f"{(*same, f'{value}.*')[0]}?"
    return suggestion(value, filter(None, known), filter(None, shown))


def _moment(key: str, value: object) -> datetime:
    """Return a time in UTC; one that says no zone is taken to be UTC, as the times in a log are."""
    found = value
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            found = None
    elif isinstance(value, date) and not isinstance(value, datetime):
        found = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(found, datetime):
        wanted = 'a datetime, or a text such as "2026-11-24T09:30+01:00"'
        raise InputError(key, "is no time", shorten(value), wanted)
    try:
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise InputError(key, "is no time in UTC", shorten(value), "years 1 to 9999") from None


# ---- whether a record has it ------------------------------------------------------------------


def _matches(text: str, pattern: str) -> bool:
    """Tell whether a text is as a pattern has it, in which * stands for any characters.

    >>> _matches("order.brk", "order.*"), _matches("order.brk", "order")
    (True, False)
    """
    if "*" not in pattern:
        return text == pattern
    parts = ".*".join(map(re.escape, re.split(r"\*+", pattern)))
    return re.fullmatch(parts, text, re.DOTALL) is not None


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a record's table, list or text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _says(record: Record, wanted: str) -> bool:
    told = (record.experiment, record.difference, record.later, record.prediction.numbers,
            record.outcome.ended, record.agreement.disagreements)  # fmt: skip
    small = wanted.casefold()
    return any(small in text.casefold() for text in _texts(told))


def _since(record: Record, start: datetime) -> bool:
    moment = time_of(record)
    return moment is not None and moment >= start


def _until(record: Record, end: datetime) -> bool:
    moment = time_of(record)
    return moment is not None and moment < end


_ADMIT: dict[str, Callable[[Record, Any], bool]] = {
    "verdict": lambda record, wanted: _matches(verdict_of(record), wanted),
    "rule": lambda record, wanted: _matches(record.prediction.rule, wanted),
    "experiment": lambda record, wanted: _matches(identity_of(record), wanted),
    "text": _says,
    "since": _since,
    "until": _until,
    "origin": lambda record, wanted: _matches(record.origin, wanted),
    "agreed": lambda record, wanted: agreed(record) is wanted,
    "learner": lambda record, wanted: _matches(learner_of(record), wanted),
    "kernel": lambda record, wanted: _matches(record.facts.release, wanted),
}
"""By key: whether a record has what is wanted."""
