"""The pictures of a logbook: what came of its experiments one after another, and by rule.

Needs matplotlib, which is imported on use; pyplot is never touched. `text_of_plot` says the same in
words and numbers.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.kernel.legacy import LEGACY_RULE
from prctlmm_lab.kernel.rules import RULE
from prctlmm_lab.specimen.recording.marks import PREDICTED
from prctlmm_lab.views.entries import INTERRUPTED, NO_ANSWER, Entry, time_text
from prctlmm_lab.views.exports import newest_entries
from prctlmm_lab.views.legend import (
    DISAGREES,
    DISAGREES_WORDS,
    FAINT,
    INK,
    MOVED,
    PAPER,
    SHADE,
    SOFT,
    look_of,
)
from prctlmm_lab.views.pictures import WIDTH, picture_class, with_glyphs
from prctlmm_lab.views.verdicts import NAME, SMALL, TITLE, hatched
from prctlmm_lab.words import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS = ("time", "rule")
OTHER_ERRNO = "another errno"
MOST_MARKS = 20_000
"""Records of a picture, the newest."""
_FACE = "DejaVu Sans"  # matplotlib brings it
_EDGE = 0.35
"""From the rim of the page to the words, in centimetres."""


def draw_outcomes(records: Iterable[Record], by: str = "time") -> Figure:
    """Draw the outcomes of a logbook one after another ("time"), or by the "rule" that decides.

    The figure is 16 cm wide. By time each record is a mark in the row of its verdict, from left to
    right in the order of their times: a scale tells when, for experiments come in bursts and hours
    pass between them. By rule the bars stand in the kernel's order, in the looks of `draw_tally`.
    At most the newest 20,000 records; a LeftOutWarning says if there are more.

    Save it with `prctlmm_lab.views.pictures.save`.

    Raises InputError for another word.
    """
    if by not in WAYS:
        raise InputError("by", "is no way to draw outcomes", shorten(by), " or ".join(WAYS))
    entries = newest_entries(records, MOST_MARKS)
    return draw_times(entries) if by == "time" else draw_rules(entries)


def text_of_plot(records: Iterable[Record], by: str = "time") -> str:
    """Write what `draw_outcomes` draws as plain text, at most 80 columns."""
    if by not in WAYS:
        raise InputError("by", "is no way to tell outcomes", shorten(by), " or ".join(WAYS))
    entries = newest_entries(records, MOST_MARKS)
    return times_text(entries) if by == "time" else rules_text(entries)


def outcome_of(entry: Entry) -> str:
    """Return in which row of a picture a record stands: a verdict, or what came in its place.

    A verdict that nothing but the specification gave stands in a row of its own.
    """
    if entry.origin == PREDICTED:
        return PREDICTED
    return entry.verdict if entry.verdict in _MARKS else OTHER_ERRNO


def deciding(entry: Entry) -> str:
    """Return by what a record is counted: the rule that decides, or what came in its place."""
    if entry.verdict in (INTERRUPTED, NO_ANSWER):
        return entry.verdict
    if entry.agrees is False and entry.verdict != entry.predicted:
        return DISAGREES_WORDS
    return entry.rule or "accepted"


# ---- marks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mark:
    """How a record is marked: a marker of matplotlib's or `_LINES`, and a colour, darkened."""

    shape: str
    colour: str


_MARKS: dict[str, _Mark] = {
    "accepted": _Mark("o", "#00664b"),
    "EINVAL": _Mark("s", "#a86f00"),
    "EFAULT": _Mark("^", "#0072b2"),
    "EPERM": _Mark("D", "#8f3f6d"),
    "EBADF": _Mark("v", "#1b6f9e"),
    "EACCES": _Mark("P", MOVED),
    "EBUSY": _Mark("p", "#5a5a5a"),
    OTHER_ERRNO: _Mark("*", "#5a5a5a"),
    NO_ANSWER: _Mark("X", INK),
    INTERRUPTED: _Mark("d", SOFT),
    PREDICTED: _Mark("h", "#8c8c8c"),
}
_RIGHT, _WRONG = "you: right", "you: wrong"
_LEARNERS = {_RIGHT: _Mark("tick", "#00664b"), _WRONG: _Mark("cross", MOVED)}
_ORDER = list(_MARKS)
"""The rows from top to bottom."""


# ---- one after another ------------------------------------------------------------------------

_LEFT, _RIGHT_END = 3.35, 15.5
"""Where the first record is and where the last, in centimetres."""
_TOP, _SCALE, _FOOT = 1.15, 0.7, 1.3
"""Room for the title, the scale and the caption."""
_SIZES = (0.24, 0.2, 0.16, 0.13, 0.1, 0.075, 0.055)
"""Diameters of a mark that are tried, the largest first."""
_TALLEST = 11.0
"""Of all rows together."""
_LEAST_ROW = 0.62


@dataclass(frozen=True)
class _Row:
    """The marks of one outcome: for each its column, and how many stand below it there."""

    name: str
    mark: _Mark
    places: tuple[tuple[int, int], ...]
    tall: float
    total: int


@dataclass(frozen=True)
class _Chart:
    """All rows, with the size of a mark; a column holds as many records as its width needs."""

    rows: tuple[_Row, ...]
    size: float
    columns: int

    @property
    def tall(self) -> float:
        return sum(row.tall for row in self.rows)

    def x(self, column: float) -> float:
        """Return where the middle of a column lies on the page."""
        return _LEFT + (column + 0.5) / self.columns * (_RIGHT_END - _LEFT)


def _chart(entries: Sequence[Entry]) -> _Chart:
    """Return the chart with the largest marks that the page has room for."""
    for size in _SIZES:
        columns = max(1, min(len(entries), int((_RIGHT_END - _LEFT) / (1.15 * size))))
        chart = _Chart(_rows(entries, columns, size), size, columns)
        if chart.tall <= _TALLEST:
            return chart
    # So many that they must overlap: each row gets its share of the height.
    share = (_TALLEST - _LEAST_ROW * len(chart.rows)) / chart.tall
    rows = tuple(_squeezed(row, share, chart.size) for row in chart.rows)
    return _Chart(rows, chart.size, chart.columns)


def _squeezed(row: _Row, share: float, size: float) -> _Row:
    return _Row(row.name, row.mark, row.places, _LEAST_ROW + share * row.tall, row.total)


def _rows(entries: Sequence[Entry], columns: int, size: float) -> tuple[_Row, ...]:
    """Stack the records of each outcome in columns; below them what the learner was."""
    found: dict[str, list[int]] = {}
    for number, entry in enumerate(entries):
        column = number * columns // len(entries)
        found.setdefault(outcome_of(entry), []).append(column)
        if entry.right is not None:
            found.setdefault(_RIGHT if entry.right else _WRONG, []).append(column)
    names = sorted(found.keys() - _LEARNERS.keys(), key=_ORDER.index)
    names += [name for name in _LEARNERS if name in found]
    return tuple(_row(name, found[name], size) for name in names)


def _row(name: str, columns: list[int], size: float) -> _Row:
    below: Counter[int] = Counter()
    places = []
    for column in columns:
        places.append((column, below[column]))
        below[column] += 1
    mark = _LEARNERS.get(name) or _MARKS[name]
    tall = max(_LEAST_ROW, max(below.values()) * size * 1.1 + 0.3)
    return _Row(name, mark, tuple(places), tall, len(columns))


def draw_times(entries: Sequence[Entry]) -> Figure:
    """Draw rows, the oldest first, as marks one after another: see `draw_outcomes`."""
    chart = _chart(entries) if entries else _Chart((), 0.0, 1)
    tall = _TOP + chart.tall + _SCALE + _FOOT
    page = _page(tall, "What came of the experiments, one after another")
    wrong = _wrong_columns(entries, chart)
    y = tall - _TOP
    for row in chart.rows:
        if row.name in _LEARNERS and row is _first_of_learner(chart):
            page.plot((_EDGE, WIDTH - _EDGE), (y, y), color=INK, linewidth=0.7)
        _draw_row(page, chart, row, y, wrong.get(row.name, ()))
        y -= row.tall
    if entries:
        _draw_scale(page, chart, entries, tall - _TOP, y)
    for place, line in zip((0.72, 0.36), _caption(entries), strict=True):
        _write(page, _EDGE, place, line, color=SOFT)
    figure: Figure = page.figure
    return figure


def _first_of_learner(chart: _Chart) -> _Row | None:
    return next((row for row in chart.rows if row.name in _LEARNERS), None)


def _wrong_columns(entries: Sequence[Entry], chart: _Chart) -> dict[str, list[tuple[int, int]]]:
    """Return the places of the records in which kernel and specification disagree, by row."""
    found: dict[str, list[tuple[int, int]]] = {}
    places = {row.name: iter(row.places) for row in chart.rows}
    for entry in entries:
        name = outcome_of(entry)
        place = next(places[name])
        if entry.agrees is False:
            found.setdefault(name, []).append(place)
    return found


def _draw_row(
    page: Any, chart: _Chart, row: _Row, top: float, wrong: Sequence[tuple[int, int]]
) -> None:
    """Draw the marks of an outcome upwards from the row's floor, with its name and their number."""
    floor = top - row.tall
    page.plot((_EDGE, WIDTH - _EDGE), (floor, floor), color=FAINT, linewidth=0.5, zorder=1)
    middle = floor + row.tall / 2
    _scatter(page, [(_EDGE + 0.12, middle)], row.mark, 0.19)
    _write(page, _EDGE + 0.4, middle, shortened(row.name, 16), size=NAME, weight="bold")
    _write(page, _LEFT - 0.2, middle, f"{row.total:,}", ha="right", color=SOFT)
    most = max(level for _, level in row.places) + 1
    step = min(chart.size * 1.1, (row.tall - 0.3) / most)
    low = floor + (row.tall - most * step) / 2 + step / 2

    def place(column: int, level: int) -> tuple[float, float]:
        return chart.x(column), low + level * step

    _scatter(page, [place(*one) for one in row.places], row.mark, chart.size)
    ring = (max(0.2, 1.5 * chart.size) * 72 / 2.54) ** 2
    for colour, width in ((PAPER, 2.6), (DISAGREES, 1.4)) if wrong else ():
        where = zip(*(place(*one) for one in wrong), strict=True)
        page.scatter(*where, s=ring, facecolors="none", edgecolors=colour, linewidths=width,
                     zorder=5)  # fmt: skip


_LINES: dict[str, tuple[tuple[float, float] | None, ...]] = {
    "tick": ((-0.8, -0.1), (-0.25, -0.7), (0.8, 0.7)),
    "cross": ((-0.7, -0.7), (0.7, 0.7), None, (-0.7, 0.7), (0.7, -0.7)),
}
"""Markers that are lines; None lifts the pen."""


def _scatter(page: Any, places: list[tuple[float, float]], mark: _Mark, size: float) -> None:
    """Draw marks of a diameter in centimetres."""
    area = (size * 72 / 2.54) ** 2
    if mark.shape in _LINES:
        look = {"marker": _line_path(mark.shape), "facecolors": "none", "edgecolors": mark.colour,
                "linewidths": 1.6 * min(1.0, size / 0.18)}  # fmt: skip
    else:
        look = {"marker": mark.shape, "facecolors": mark.colour, "edgecolors": PAPER,
                "linewidths": 0.25}  # fmt: skip
    page.scatter(*zip(*places, strict=True), s=0.85 * area, zorder=3, **look)


def _line_path(shape: str) -> Any:
    from matplotlib.path import Path

    points, codes, begins = [], [], True
    for point in _LINES[shape]:
        if point is not None:
            points.append(point)
            codes.append(Path.MOVETO if begins else Path.LINETO)
        begins = point is None
    return Path(points, codes)


def _caption(entries: Sequence[Entry]) -> tuple[str, str]:
    if not entries:
        return "No record.", ""
    wrong = sum(entry.agrees is False for entry in entries)
    ringed = f" Ringed: kernel and specification disagree ({wrong:,})." if wrong else ""
    return (
        _with_kernels(f"{_records(len(entries))}, {_extent(entries)} UTC.", entries),
        f"Each mark is a record, in order from left to right; the scale tells when.{ringed}",
    )


def _records(number: int) -> str:
    return f"{number:,} record{'' if number == 1 else 's'}"


def _extent(entries: Sequence[Entry]) -> str:
    first, last = (time_text(one.time) for one in (entries[0], entries[-1]))
    return first if first == last else f"{first} to {last}"


_LONGEST_CAPTION = 104
"""Characters that a line below a picture has room for."""


def _with_kernels(told: str, entries: Sequence[Entry]) -> str:
    """Add the kernels' releases to a caption, or their number where there is no room."""
    names = sorted({entry.kernel for entry in entries})
    line = f"{told} Linux {' and '.join(names)}."
    if len(names) > 2 or len(line) > _LONGEST_CAPTION:
        line = f"{told} {len(names)} kernels."
    return line


# ---- the scale of times -----------------------------------------------------------------------

_UNITS: tuple[tuple[Callable[[datetime], Any], str], ...] = (
    (lambda t: t.year, "%Y"),
    (lambda t: (t.year, t.month), "%b %Y"),
    (lambda t: t.isocalendar()[:2], "%-d %b"),
    (lambda t: t.date(), "%-d %b"),
    (lambda t: (t.date(), t.hour), "%H:%M"),
    (lambda t: (t.date(), t.hour, t.minute // 10), "%H:%M"),
    (lambda t: (t.date(), t.hour, t.minute), "%H:%M"),
    (lambda t: t.replace(microsecond=0), "%H:%M:%S"),
    (lambda t: t, "%H:%M:%S.%f"),
)
"""From long to short: what times of a unit have in common, and how the first of them is written."""
_MOST_UNITS = 24
"""Units that a scale divides into; of several that fit, the shortest is taken."""


def _draw_scale(
    page: Any, chart: _Chart, entries: Sequence[Entry], top: float, bottom: float
) -> None:
    """Draw when it was: a stripe for each unit of time, with its beginning where there is room."""
    from matplotlib.patches import Rectangle

    told = [(entry.time, n) for n, entry in enumerate(entries) if entry.time is not None]
    if not told:
        return
    key, spec = _unit([moment for moment, _ in told])
    free, day = 0.0, None
    for number, (_, group) in enumerate(groupby(told, lambda one: key(one[0]))):
        moment, first = next(group)
        x = chart.x(first * chart.columns // len(entries) - 0.5)
        last = max([n for _, n in group], default=first)
        end = chart.x(last * chart.columns // len(entries) + 0.5)
        if number % 2 == 0:
            box = Rectangle((x, bottom), end - x, top - bottom, facecolor=SHADE, zorder=0)
            page.add_patch(box)
        page.plot((x, x), (bottom, bottom - 0.12), color=SOFT, linewidth=0.5)
        if x < free:
            continue
        new_day = "%H" in spec and moment.date() != day
        text = _moment_text(moment, _DAY + spec if new_day else spec)
        room = len(text) * SMALL * 0.6 * 2.54 / 72
        if x + room < WIDTH - 0.1:
            _write(page, x, bottom - 0.3, text, color=SOFT)
            free, day = x + room + 0.3, moment.date()
    _write(page, _EDGE, bottom - 0.3, "when (UTC)", color=SOFT)


_DAY = "%-d %b "


def _unit(moments: Sequence[datetime]) -> tuple[Callable[[datetime], Any], str]:
    """Return the shortest unit of which there are not too many."""
    fitting = [_UNITS[0]]
    for unit in _UNITS[1:]:
        if len({unit[0](moment) for moment in moments}) <= _MOST_UNITS:
            fitting.append(unit)
    return fitting[-1]


def _moment_text(moment: datetime, spec: str) -> str:
    """Write the beginning of a unit in English, whatever the locale is."""
    month = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()[moment.month - 1]
    told = spec.replace("%b", month).replace("%-d", str(moment.day))
    if "%f" in told:
        return moment.strftime(told.replace(".%f", "")) + f".{moment.microsecond // 1000:03}"
    return moment.strftime(told)


# ---- by rule ----------------------------------------------------------------------------------

_ROW, _HEAD, _BAR_END = 0.44, 1.75, 11.6
_NAMES_END = 4.1


@dataclass(frozen=True)
class _Count:
    """How many records a rule decided, and how often the learner was right of how many."""

    name: str
    records: int
    right: int
    answered: int


def counts_by_rule(entries: Iterable[Entry]) -> list[_Count]:
    """Count records by the rule that decides, in the kernel's order; then what no rule decided."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(deciding(entry), []).append(entry)
    order = [*RULE, *(name for name in LEGACY_RULE if name not in RULE)]
    last = ["accepted", DISAGREES_WORDS, NO_ANSWER, INTERRUPTED]
    unknown = sorted(groups.keys() - {*order, *last})
    return [
        _Count(name, len(group), sum(e.right is True for e in group),
               sum(e.right is not None for e in group))
        for name in (*order, *unknown, *last)
        if (group := groups.get(name))
    ]  # fmt: skip


_MOST_RULES = 45
"""Rows that a page has room for; the kernels make fewer checks, but a stranger's log may not."""


def draw_rules(entries: Sequence[Entry]) -> Figure:
    """Draw how many rows each rule decided: see `draw_outcomes`."""
    counts = counts_by_rule(entries)
    shown, left = counts[:_MOST_RULES], counts[_MOST_RULES:]
    tall = _HEAD + _ROW * len(shown) + _FOOT
    page = _page(tall, "Which rule decided")
    most = max((count.records for count in shown), default=1)
    asked = any(count.answered for count in shown)
    _draw_numbers(page, most, tall - _HEAD + 0.1, _FOOT - 0.1, asked=asked)
    for place, count in enumerate(shown):
        _draw_count(page, tall - _HEAD - (place + 0.5) * _ROW, count, most)
    more = f" {len(left)} more rows are left out." if left else ""
    told = _with_kernels(f"{_records(len(entries))}.{more}", entries)
    order = (
        "The first broken rule decides, by the specification; in the order of the kernel's checks."
    )
    for y, line in zip((0.72, 0.36), (told, order), strict=True):
        _write(page, _EDGE, y, line, color=SOFT)
    figure: Figure = page.figure
    return figure


def _draw_numbers(page: Any, most: int, top: float, bottom: float, *, asked: bool) -> None:
    """Draw lines at round numbers of records."""
    step = _step(most)
    for number in range(0, most + 1, step):
        x = _bar_end(number, most)
        page.plot((x, x), (bottom, top), color=FAINT, linewidth=0.5, zorder=0)
        _write(page, x, top + 0.22, f"{number:,}", color=SOFT, ha="center")
    _write(page, _NAMES_END, top + 0.62, "records", color=SOFT)
    if asked:
        _write(page, WIDTH - _EDGE, top + 0.62, "you were right", color=SOFT, ha="right")


def _step(most: int) -> int:
    """Return a round number that divides an axis into five parts or fewer.

    >>> _step(3), _step(51), _step(4999)
    (1, 20, 1000)
    """
    step = 1
    while most / step > 5:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return step


def _bar_end(number: int, most: int) -> float:
    return _NAMES_END + number / most * (_BAR_END - _NAMES_END)


def _draw_count(page: Any, y: float, count: _Count, most: int) -> None:
    from matplotlib.patches import Rectangle

    look, high = look_of(RULE.get(count.name) or LEGACY_RULE.get(count.name)), _ROW * 0.62
    wrong = count.name == DISAGREES_WORDS
    box: dict[str, Any] = {"xy": (_NAMES_END, y - high / 2), "height": high,
                           "width": _bar_end(count.records, most) - _NAMES_END}  # fmt: skip
    silent = count.name in (NO_ANSWER, INTERRUPTED)
    page.add_patch(
        Rectangle(**box, facecolor=DISAGREES if wrong else (SHADE if silent else look.tint))
    )
    if not (silent or wrong):
        page.add_patch(hatched(Rectangle(**box), look))
    page.add_patch(Rectangle(**box, fill=False, edgecolor=INK, linewidth=0.5))
    colour = DISAGREES if wrong else INK
    name = shortened(count.name, 26)
    _write(page, _NAMES_END - 0.2, y, name, size=NAME, ha="right", color=colour)
    _write(page, _BAR_END + 0.9, y, f"{count.records:,}", ha="right", color=colour)
    if count.answered:
        told = f"{count.right:,} of {count.answered:,}"
        _write(page, WIDTH - _EDGE, y, told, ha="right")


# ---- both -------------------------------------------------------------------------------------


def _page(tall: float, title: str) -> Any:
    """Open a page with a title and return axes over all of it, in centimetres."""
    figure = picture_class()(figsize=(WIDTH / 2.54, tall / 2.54))
    page = figure.add_axes((0, 0, 1, 1))
    page.set_axis_off()
    page.set(xlim=(0, WIDTH), ylim=(0, tall))
    _write(page, _EDGE, tall - 0.5, title, size=TITLE, weight="bold")
    return page


def _write(page: Any, x: float, y: float, text: str, **options: Any) -> None:
    weight = options.get("weight", "normal")
    look = {"color": INK, "ha": "left", "va": "center", "size": SMALL} | options
    page.text(x, y, with_glyphs(text, _FACE, weight), family=_FACE, parse_math=False, **look)


# ---- in words ---------------------------------------------------------------------------------


def times_text(entries: Sequence[Entry]) -> str:
    """Write what `draw_times` draws, a line or more for each day."""
    if not entries:
        return "No record."
    lines = [f"{_records(len(entries))}, {_extent(entries)} UTC."]
    days = groupby(entries, lambda entry: time_text(entry.time)[:10])
    for day, group in days:
        today = list(group)
        counts = Counter(outcome_of(entry) for entry in today)
        told = [f"{counts[name]:,} {name}" for name in sorted(counts, key=_ORDER.index)]
        answered = [entry.right for entry in today if entry.right is not None]
        if answered:
            told.append(f"you were right {sum(answered):,} of {len(answered):,} times")
        wrong = sum(entry.agrees is False for entry in today)
        if wrong:
            told.append(f"{wrong:,} {DISAGREES_WORDS}")
        lines += _folded(f"{day}  {', '.join(told)}", 12)
    return "\n".join(lines)


def rules_text(entries: Sequence[Entry]) -> str:
    """Write what `draw_rules` draws, a line for each rule."""
    lines = [f"{'rule':34} {'records':>8}  you were right"]
    for count in counts_by_rule(entries):
        told = f"{count.right:,} of {count.answered:,}" if count.answered else ""
        lines.append(f"{shortened(count.name, 34):34} {count.records:>8,}  {told}".rstrip())
    return "\n".join(lines)


def _folded(text: str, later: int) -> list[str]:
    return textwrap.wrap(text, 80, subsequent_indent=" " * later)
