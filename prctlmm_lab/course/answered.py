"""What was answered in practice, kept in a file beside the logbook: one JSON object a line.

The file only grows, and is written as a logbook is: each line whole, under a lock. A line that is
damaged is reported and passed over, so that no accident ends the practice.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import printable
from prctlmm_lab.experiments.logbook import TornLineWarning, append_line, settled_lines

SCHEMA = "prctlmm-lab/practice/1"
POINTS_OF_A_LEVEL = 5


@dataclass(frozen=True)
class Answered:
    """One problem and what was answered."""

    topic: str
    """The id of the rule or effect that it was about."""
    level: int
    kind: str
    """"verdict", "rule", or the id of the effect that was asked about."""
    said: str
    truth: str
    """What the kernel answered."""
    right: bool
    problem: str
    """Tells the problem from all others."""
    seed: int
    time: str
    """ISO 8601, UTC."""
    origin: str
    """"live", or where the kernel's answer comes from."""
    record: str
    """The id of the record in the logbook."""


def history_beside(logbook: Path) -> Path:
    """Return the file in which the answers are kept: logbook.jsonl -> logbook.practice.jsonl.

    >>> history_beside(Path("mine/logbook.jsonl")).name
    'logbook.practice.jsonl'
    """
    return logbook.with_name(f"{logbook.stem}.practice.jsonl")


def read_history(path: Path) -> list[Answered]:
    """Return the answers in a file, the oldest first; none if there is no such file.

    A damaged line is reported by a TornLineWarning with its number, and skipped.

    Raises InputError for a file that cannot be read.
    """
    found, name = [], printable(str(path))
    try:
        for number, line in settled_lines(path):
            answer = _parsed(line)
            if answer is not None:
                found.append(answer)
            elif not line.isspace():
                problem = f"{name}: line {number} is no answer and was skipped"
                warnings.warn(problem, TornLineWarning, stacklevel=2)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(name, f"cannot be read: {_reason(error)}") from None
    return found


def append_answer(path: Path, answer: Answered) -> None:
    """Append an answer to a file.

    Raises InputError if it cannot be written; nothing of the line is then left in it.
    """
    line = json.dumps({"schema": SCHEMA, **asdict(answer)}, separators=(",", ":"))
    try:
        append_line(path, line.encode("ascii") + b"\n")
    except (OSError, ValueError) as error:
        raise InputError(printable(str(path)), f"cannot be written: {_reason(error)}") from None


def _reason(error: OSError | ValueError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "its name holds a zero byte"


_TYPES = {field.name: {"str": str, "int": int, "bool": bool}[str(field.type)]
          for field in fields(Answered)}  # fmt: skip


def _parsed(line: bytes) -> Answered | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.pop("schema", None) != SCHEMA:
        return None
    if {name: type(part) for name, part in value.items()} != _TYPES:
        return None
    return Answered(**value)


def level_after(answers: Sequence[Answered]) -> int:
    """Return the level that comes after some answers: 1, 2 or 3.

    A right answer is a point, a wrong one takes two; five points are a level.
    """
    points = 0
    for answer in answers:
        points = min(points + 1, 3 * POINTS_OF_A_LEVEL) if answer.right else max(points - 2, 0)
    return min(1 + points // POINTS_OF_A_LEVEL, 3)


def eagerness(topic: str, answers: Sequence[Answered]) -> float:
    """Return how much more often than at first a topic should come up: 1/8 to 8 times.

    What was missed comes again, what is known gets rarer; the last six answers count.
    """
    factor = 1.0
    for answer in [each for each in answers if each.topic == topic][-6:]:
        factor = max(factor / 2, 1 / 8) if answer.right else min(max(factor, 1.0) * 4, 8.0)
    return factor
