"""The picture "every member, every place": what real calls showed, beside what is promised.

Needs the standard library for the drawing and its text twin; matplotlib only for the figure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prctlmm_lab.experiments.alone import PLACES, SPECIAL, STAT, Place, Seen, Sightings
from prctlmm_lab.kernel.abi import MEMBER
from prctlmm_lab.specimen.recording.marks import LIVE, mark_text
from prctlmm_lab.views.areas import Kind
from prctlmm_lab.views.legend import (
    DISAGREES,
    FAINT,
    INK,
    LOOKS,
    PAPER,
    SHADE,
    SOFT,
)
from prctlmm_lab.views.scene import Box, Lines, Mark, Scene, Shape, Text, swatch
from prctlmm_lab.words import printable, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SYMBOLS = {
    Seen.ALWAYS: "■",
    Seen.SPECIAL: "◢",
    Seen.NOT_HERE: "?",
    Seen.MISSING: "○",
    Seen.UNEXPECTED: "!",
    Seen.NOTHING: ".",
}
"""In the text twin."""

_FAMILIES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (Kind.CODE, ("start_code", "end_code")),
    (Kind.DATA, ("start_data", "end_data")),
    (Kind.HEAP, ("start_brk", "brk")),
    (Kind.STACK, ("start_stack",)),
    (Kind.ANONYMOUS, ("arg_start", "arg_end", "env_start", "env_end")),
    (Kind.KERNEL, ("auxv", "auxv_size", "exe_fd")),
)

_MARGIN, _NAMES, _COLUMN, _ROW, _GAP = 10.0, 112.0, 44.0, 22.0, 5.0
_TITLE_ROOM, _HEAD_ROOM, _LEGEND_ROW = 26.0, 74.0, 17.0
_LEFT = _MARGIN + _NAMES
_WIDTH = _LEFT + _COLUMN * len(PLACES) + _MARGIN
_CELL_WIDTH, _CELL_HEIGHT = 34.0, 15.0
_TITLE, _NAME, _HEAD, _CAPTION = 13.0, 11.0, 9.0, 10.5
_LONGEST = 105
"""Characters of a sentence below the picture."""
_FILL, _SPECIAL_FILL = "#0072b2", "#e69f00"
_HEADS = {
    "statm text": ("statm", "text"),
    "status VmExe, VmLib": ("status", "VmExe", "VmLib"),
    "maps [heap]": ("maps", "[heap]"),
    "maps [stack]": ("maps", "[stack]"),
    "brk() grows": ("brk()", "grows"),
    "elsewhere": ("any-", "where", "else"),
}
"""The heads that need more than a line."""
_GROUPS = ((0, 9, "files of /proc/PID"), (9, 2, "a system call"))
"""The first column of a group, how many it has, and what they are."""


def draw_places(sightings: Sightings) -> Figure:
    """Draw every member against every place, as a figure 16 cm wide.

    >>> from prctlmm_lab.experiments.alone import every_member_alone
    >>> round(draw_places(every_member_alone()).get_figwidth() * 2.54)
    16

    Save it with `prctlmm_lab.views.pictures.save`. The text twin is `text_of_places`.
    """
    from prctlmm_lab.views.pictures import draw_marks

    return draw_marks(places_scene(sightings))


def text_of_places(sightings: Sightings) -> str:
    """Write what `draw_places` draws as plain text, at most 80 columns."""
    members = [member for member in MEMBER if member in sightings.usual]
    lines: list[str] = []
    for half in (PLACES[:6], PLACES[6:]):
        heads = [_HEADS.get(place.name, (place.name,)) for place in half]
        for row in range(max(map(len, heads))):
            cells = "".join(f"{head[row] if row < len(head) else '':10}" for head in heads)
            lines.append(f"{'':14}{cells}".rstrip())
        for member in members:
            cells = "".join(f"{_cell_text(sightings, member, place):10}" for place in half)
            lines.append(f"{member:14}{cells}".rstrip())
        lines.append("")
    lines += [f"{_SYMBOLS[seen]} {words}" for seen, words in _legend(sightings)]
    for sentence in _said(sightings):
        lines += textwrap.wrap(sentence, 80)
    return "\n".join(lines)


def places_scene(sightings: Sightings) -> Scene:
    """Turn sightings into boxes, lines and texts."""
    top = _MARGIN + _TITLE_ROOM + _HEAD_ROOM
    rows = dict(_rows(sightings, top))
    bottom = max(y for y in rows.values()) + _ROW
    legend = _legend(sightings)
    said = _said(sightings)
    height = bottom + 20 + _LEGEND_ROW * (-(-len(legend) // 2) + len(said)) + _MARGIN
    marks: list[Mark] = [
        Box(0, 0, _WIDTH, height, PAPER),
        Text(_MARGIN, _MARGIN + 8, "Each member moved alone: where did it show?", _TITLE,
             bold=True, fixed=False),
    ]  # fmt: skip
    marks += _heads(top, bottom)
    for member, y in rows.items():
        marks += _row(sightings, member, y)
    marks += _foot(legend, said, bottom + 14 + _LEGEND_ROW / 2)
    return Scene(_WIDTH, height, tuple(marks))


def _rows(sightings: Sightings, top: float) -> Iterator[tuple[str, float]]:
    y = top
    for _, members in _FAMILIES:
        shown = [member for member in members if member in sightings.usual]
        for member in shown:
            yield member, y
            y += _ROW
        y += _GAP if shown else 0


def _heads(top: float, bottom: float) -> Iterator[Mark]:
    for number, place in enumerate(PLACES):
        x = _LEFT + number * _COLUMN
        if number % 2 == 0:
            yield Box(x, top - _HEAD_ROOM + 18, _COLUMN, bottom - top + _HEAD_ROOM - 18, SHADE)
        head = _HEADS.get(place.name, (place.name,))
        for row, word in enumerate(reversed(head)):
            yield Text(x + _COLUMN / 2, top - 9 - row * 12, word, _HEAD, anchor="middle")
    for first, count, words in _GROUPS:
        x, y = _LEFT + first * _COLUMN, top - _HEAD_ROOM + 14
        yield Text(x + count * _COLUMN / 2, y - 8, words, _HEAD + 1, SOFT, "middle", fixed=False)
        yield Lines((((x + 4, y), (x + count * _COLUMN - 4, y)),), SOFT, 0.8)
    yield Lines((((_MARGIN, top - 1), (_WIDTH - _MARGIN, top - 1)),), SOFT, 0.8)


def _row(sightings: Sightings, member: str, y: float) -> Iterator[Mark]:
    kind = next(kind for kind, members in _FAMILIES if member in members)
    yield from swatch(LOOKS[kind], _MARGIN, y + 2, 9, _ROW - 2)
    yield Text(_MARGIN + 16, y + _ROW / 2 + 1, member, _NAME)
    for number, place in enumerate(PLACES):
        x = _LEFT + number * _COLUMN + (_COLUMN - _CELL_WIDTH) / 2
        text = str(MEMBER[member].stat_field) if place.name == STAT else ""
        yield from _cell(sightings.seen(member, place), x, y + 4, text)
    yield Lines((((_LEFT, y + _ROW), (_WIDTH - _MARGIN, y + _ROW)),), FAINT, 0.4)


def _cell(seen: Seen, x: float, y: float, text: str = "") -> Iterator[Mark]:
    width, height = _CELL_WIDTH, _CELL_HEIGHT
    middle = x + width / 2, y + height / 2
    if seen is Seen.ALWAYS:
        yield Box(x, y, width, height, _FILL, INK)
        yield Text(*middle, f"{text} ✓".strip(), _HEAD + 1, PAPER, anchor="middle", bold=True)
    elif seen is Seen.SPECIAL:
        yield Box(x, y, width, height, PAPER, INK)
        yield Shape(((x, y + height), (x + width, y + height), (x + width, y)), _SPECIAL_FILL, INK)
        yield Text(x + width - 8, y + height - 5.5, "✓", _HEAD, anchor="middle", bold=True)
    elif seen is Seen.NOT_HERE:
        yield Box(x, y, width, height, PAPER, SOFT, dashed=True)
        yield Text(*middle, "?", _HEAD + 1, SOFT, anchor="middle", bold=True)
    elif seen is not Seen.NOTHING:
        yield Box(x, y, width, height, PAPER, DISAGREES)
        yield Text(*middle, _SYMBOLS[seen], _HEAD + 1, DISAGREES, anchor="middle", bold=True)


def _legend(sightings: Sightings) -> list[tuple[Seen, str]]:
    """Return what the legend explains: what is in the picture, and what would be a disagreement."""
    found = {sightings.seen(m, place) for m in sightings.usual for place in PLACES}
    words = {
        seen: f"{seen.value}, ✓ as promised" if seen in (Seen.ALWAYS, Seen.SPECIAL) else seen.value
        for seen in Seen
        if seen is not Seen.NOTHING
    }
    words[Seen.ALWAYS] += "; in stat the field's number"
    return [(seen, text) for seen, text in words.items() if seen in found]


def _said(sightings: Sightings) -> list[str]:
    """Return the sentences below the picture."""
    wrong = len(sightings.disagreements)
    agree = "the table of effects says the same" if not wrong else f"{wrong} are not as promised"
    calls, right = sightings.calls, sightings.as_predicted
    where = "" if sightings.origin == LIVE else f" ({mark_text(sightings.origin)})"
    said = [
        f"From {calls} calls{where}, not from a table; {agree}.",
        f"In {right} of {calls} calls every byte of every file was as predicted.",
        f"Special situation: {SPECIAL}.",
    ]
    for member, why in sightings.left_out.items():
        said.append(shortened(f"{member} could not be moved here: {printable(why)}", _LONGEST))
    return said


def _foot(legend: list[tuple[Seen, str]], said: list[str], y: float) -> Iterator[Mark]:
    for number, (seen, words) in enumerate(legend):
        x = _MARGIN + number % 2 * (_WIDTH / 2)
        line = y + number // 2 * _LEGEND_ROW
        yield from _cell(seen, x, line - _CELL_HEIGHT / 2)
        yield Text(x + _CELL_WIDTH + 8, line, words, _CAPTION, fixed=False)
    y += -(-len(legend) // 2) * _LEGEND_ROW + 6
    for number, sentence in enumerate(said):
        yield Text(_MARGIN, y + number * _LEGEND_ROW, sentence, _CAPTION, SOFT, fixed=False)


def _cell_text(sightings: Sightings, member: str, place: Place) -> str:
    seen = sightings.seen(member, place)
    number = MEMBER[member].stat_field
    return f"■ {number}" if seen is Seen.ALWAYS and place.name == STAT else _SYMBOLS[seen]
