"""What a logbook shows of itself: how many records from when to when, and the newest as rows.

One pass over the file, in which nothing is kept but the newest rows. A line that is no record ends
the pass and is told; it is no error here, for what stands before it can still be shown.
"""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import printable
from prctlmm_lab.experiments.logbook import TornLineWarning
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.specimen.recording.marks import LIVE, mark_text
from prctlmm_lab.views.entries import (
    DISAGREED,
    INTERRUPTED,
    NO_ANSWER,
    Entry,
    clear,
    entry_of,
    newest,
    sign_of,
    time_of,
    time_text,
)
from prctlmm_lab.views.legend import (
    BROKEN,
    DISAGREES_WORDS,
    FAINT,
    HOLDS,
    INK,
    PAPER,
    REFUSES,
    SOFT,
    Sign,
)
from prctlmm_lab.words import cells, shortened

SHOWN = 20
"""Rows of a logbook that shows itself."""
LONGEST_CELL = 90
"""Columns of a text in a cell."""
MOST_TORN = 5
"""So many torn lines are told one by one."""
TEXT_WIDTH = 80


@dataclass(frozen=True)
class Overview:
    """A logbook as it shows itself."""

    path: str
    selected: str
    """What was asked for, "" for every record."""
    entries: tuple[Entry, ...]
    """The newest first, `SHOWN` at most."""
    total: int
    """All records that were asked for."""
    first: str
    """The time of the oldest, "" if there is none."""
    last: str
    remarks: tuple[str, ...]
    """Torn lines that were skipped; and the line, if there is one, behind which nothing was read.
    """
    exists: bool
    """False if there is no file yet, or nothing in it."""


def look_over(path: str, selected: str, records: Iterable[Record]) -> Overview:
    """Read a logbook once and return what it shows of itself; it raises nothing for a bad line."""
    selected = clear(selected, 200)
    if not _has_lines(path):
        return Overview(printable(path), selected, (), 0, "", "", (), exists=False)
    times: list[str] = []
    total, problem = 0, ""

    def rows() -> Iterator[tuple[str, Entry]]:
        nonlocal total, problem
        try:
            for record in records:
                total += 1
                moment = time_text(time_of(record))
                times[:] = (min([*times[:1], moment]), max([*times[1:], moment]))
                yield record.time, entry_of(record)
        except InputError as error:
            problem = f"{error}."
            if total:
                problem += " What stands behind it was not read."

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TornLineWarning)
        entries = newest(rows(), SHOWN)
    torn = [str(one.message) for one in caught if issubclass(one.category, TornLineWarning)]
    more = [f"{len(torn) - MOST_TORN} more are torn"] if len(torn) > MOST_TORN else []
    remarks = [*torn[:MOST_TORN], *more, *([problem] if problem else [])]
    first, last = times or ("", "")
    return Overview(printable(path), selected, tuple(reversed(entries)), total, first, last,
                    tuple(clear(text) for text in remarks), exists=True)  # fmt: skip


def _has_lines(path: str) -> bool:
    """Tell whether there is anything to read; what cannot be looked at is read, and complains."""
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def count_text(overview: Overview) -> str:
    """Return how many records there are and from when to when."""
    of = f" where {overview.selected}" if overview.selected else ""
    if not overview.total:
        return f"No record{of}."
    number = f"{overview.total:,} record{'' if overview.total == 1 else 's'}{of}"
    extent = overview.first
    if overview.last != overview.first:
        extent += f" to {overview.last}"
    shown = len(overview.entries)
    cut = f"; newest {shown} shown" if shown < overview.total else ""
    return f"{number}, {extent} UTC{cut}, newest first."


def empty_text(overview: Overview) -> str:
    """Return what a logbook says that has no line yet."""
    return (
        "No experiment is written down yet. The first makes the file: "
        'book.run(Experiment("nothing changes")), or Run in the Explorer.'
    )


# ---- text -------------------------------------------------------------------------------------


def overview_text(overview: Overview) -> str:
    """Write the overview as plain text, at most 80 columns."""
    lines = [f"Logbook {overview.path}"]
    lines += _wrapped(count_text(overview) if overview.exists else empty_text(overview))
    for entry in overview.entries:
        lines += _entry_lines(entry)
    lines += [line for remark in overview.remarks for line in _wrapped(f"Note: {remark}")]
    return "\n".join(shortened(line, TEXT_WIDTH) for line in lines)


def _entry_lines(entry: Entry) -> list[str]:
    sign = sign_of(entry)
    last = entry.rule or _made(entry)
    row = (
        f"{time_text(entry.time):19}  {_padded(f'{sign.symbol} {entry.verdict}', 13)}  "
        f"{_padded(entry.experiment, 22)}  {shortened(last, 20)}"
    )
    return [row, *(f"{'':21}{line}" for line in _wrapped("; ".join(remarks_of(entry)), 21))]


def _padded(text: str, room: int) -> str:
    short = shortened(text, room)
    return short + " " * (room - cells(short))


def _wrapped(text: str, indent: int = 0) -> list[str]:
    """Break a text into lines; a word that is longer than a line is shortened."""
    return textwrap.wrap(text, TEXT_WIDTH - indent, break_long_words=False)


def _made(entry: Entry) -> str:
    """Return how many differences a call made, where that is known."""
    number = entry.differences
    if not number:
        return "not known" if entry.verdict in (INTERRUPTED, NO_ANSWER) else "no difference"
    return f"{number:,} difference{'' if number == 1 else 's'}"


def _disagreement(entry: Entry) -> str:
    if entry.predicted == entry.verdict:
        return "it shows something else than the specification says"
    return f"the specification said {entry.predicted}"


def remarks_of(entry: Entry) -> list[str]:
    """Return what must not be overlooked in a record, in words."""
    remarks = []
    if entry.agrees is False:
        remarks.append(f"{DISAGREES_WORDS.upper()}: {_disagreement(entry)}")
    if entry.ended:
        remarks.append(entry.ended)
    if entry.learner:
        remarks.append(f"you said {entry.learner}: {learner_word(entry)}")
    if entry.origin != LIVE:
        remarks.append(mark_text(entry.origin))
    return remarks


def learner_word(entry: Entry) -> str:
    """Return what came of the learner's prediction, with a symbol."""
    if entry.right is None:
        return "open"
    return f"{HOLDS.symbol} right" if entry.right else f"{REFUSES.symbol} wrong"


# ---- HTML -------------------------------------------------------------------------------------

_TABLE = (
    f"border-collapse:collapse;table-layout:fixed;width:100%;min-width:760px;background:{PAPER};"
    f"color:{INK};font:13px/1.35 'DejaVu Sans','Liberation Sans',Helvetica,Arial,sans-serif"
)
_CELL = (
    "overflow-wrap:anywhere;padding:3px 8px;text-align:left;vertical-align:top;"
    f"border-bottom:1px solid {FAINT}"
)
_FIXED = "font-family:'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace;font-size:12px"
_COLUMNS = {"time (UTC)": 11, "the kernel said": 19, "experiment": 20, "what changed": 22,
            "what it made": 28}  # fmt: skip
_ORIGIN = "#b8860b"
"""The edge of what is not live, as below a notebook's cells."""


def overview_html(overview: Overview) -> str:
    """Write the overview as a table for a notebook; every text is escaped."""
    rows = "".join(map(_row, overview.entries))
    head = "".join(
        f'<th scope="col" style="{_CELL};color:{SOFT};font-weight:normal;width:{width}%">'
        f"{name}</th>"
        for name, width in _COLUMNS.items()
    )
    body = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>" if rows else ""
    table = f'<table style="{_TABLE}">{_caption(overview)}{body}</table>'
    return f'<div style="overflow-x:auto">{table}</div>'


def _caption(overview: Overview) -> str:
    said = count_text(overview) if overview.exists else empty_text(overview)
    notes = "".join(
        f'<div style="color:{BROKEN.colour};background:{BROKEN.ground};padding:2px 6px">'
        f"{BROKEN.symbol} {escape(remark)}</div>"
        for remark in overview.remarks
    )
    return (
        f'<caption style="text-align:left;padding:4px 8px;background:{PAPER};color:{INK}">'
        f'<b>Logbook</b> <span style="{_FIXED};overflow-wrap:anywhere">'
        f"{escape(shortened(overview.path, 200))}</span><br>{escape(said)}{notes}</caption>"
    )


def _row(entry: Entry) -> str:
    sign = sign_of(entry)
    ground = f' style="background:{sign.ground}"' if sign in (DISAGREED, BROKEN) else ""
    day, _, clock = time_text(entry.time).partition(" ")
    made = _made(entry)
    if entry.differences:
        made += f"<br>{_small(entry.first_differences, fixed=True, room=2 * LONGEST_CELL)}"
    told = (
        f"{escape(day)}<br>{_small(clock)}",
        _outcome(entry, sign),
        f"<b>{_short(entry.experiment)}</b><br>{_small(entry.title)}",
        _small(entry.changed or "nothing", fixed=bool(entry.changed)),
        made + _margin(entry),
    )
    row = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in told)
    return f"<tr{ground}>{row}</tr>"


def _outcome(entry: Entry, sign: Sign) -> str:
    """Write the verdict with its mark, the rule, and what was said before."""
    lines = [f'<b style="color:{sign.colour}">{sign.symbol} {_short(entry.verdict)}</b>']
    if entry.rule:
        lines.append(_small(entry.rule, fixed=True))
    if entry.agrees is False:
        lines.append(
            f'<b style="color:{DISAGREED.colour}">{DISAGREES_WORDS}</b>: '
            f"{_short(_disagreement(entry))}"
        )
    if entry.learner:
        tone = {True: HOLDS, False: REFUSES, None: BROKEN}[entry.right]
        lines.append(
            f'you said {_short(entry.learner)}: <b style="color:{tone.colour}">'
            f"{learner_word(entry)}</b>"
        )
    return "<br>".join(lines)


def _margin(entry: Entry) -> str:
    """Write what else must not be overlooked: how it ended, and that it was no live call."""
    lines = [f"{BROKEN.symbol} {_short(entry.ended)}"] if entry.ended else []
    if entry.origin != LIVE:
        lines.append(_short(mark_text(entry.origin)))
    style = f"border-left:3px solid {_ORIGIN};padding:0 6px;margin:2px 0;font-size:12px"
    return "".join(f'<div style="{style}">{line}</div>' for line in lines)


def _short(text: str, room: int = LONGEST_CELL) -> str:
    return escape(shortened(text, room))


def _small(text: str, *, fixed: bool = False, room: int = LONGEST_CELL) -> str:
    style = f"{_FIXED};color:{SOFT}" if fixed else f"color:{SOFT};font-size:12px"
    return f'<span style="{style}">{_short(text, room)}</span>'
