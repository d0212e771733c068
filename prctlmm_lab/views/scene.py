"""From a layout to a drawing: boxes, lines and texts with their places, for every renderer.

Places are units of an SVG's view box: x to the right, y downwards, a line of text is `ROW` high.
Renderers only translate; all decisions about the page are made here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count, takewhile
from typing import NamedTuple

from prctlmm_lab.views.areas import Kind, kind_of
from prctlmm_lab.views.layout import Area, Column, Flag, Layout, Move, Segment, Zoom, names_room
from prctlmm_lab.views.legend import (
    FAINT,
    INK,
    LOOKS,
    MOVE_WORDS,
    MOVED,
    PAPER,
    READING,
    SHADE,
    SOFT,
    SPAN_WORDS,
    ZOOM_WORDS,
    Look,
    Pattern,
    Symbol,
    symbol_of,
)
from prctlmm_lab.words import cells, shortened, size_text

ROW = 16.0
CELL = 0.602
"""Width of a character of the fixed-width face, as a part of its size (DejaVu Sans Mono)."""
SANS = 0.57
"""The same for running text, which only captions have: a mean of DejaVu Sans."""

TITLE, HEADING, NAME, ADDRESS, DETAIL, CAPTION = 13.0, 12.0, 11.0, 10.5, 10.0, 10.5
"""Sizes of type."""

Point = tuple[float, float]


class Box(NamedTuple):
    """A rectangle; `hint` is what a renderer may show when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = ""
    dashed: bool = False
    hint: str = ""


class Lines(NamedTuple):
    """Polylines of one look, open and not filled; ends are round."""

    paths: tuple[tuple[Point, ...], ...]
    colour: str
    width: float = 1.0


class Shape(NamedTuple):
    """A closed polygon."""

    points: tuple[Point, ...]
    fill: str
    stroke: str = ""


class Curve(NamedTuple):
    """A line that leaves and arrives level."""

    start: Point
    end: Point
    colour: str
    width: float


class Text(NamedTuple):
    """One line of text; `y` is its middle. `anchor` is start, middle or end."""

    x: float
    y: float
    text: str
    size: float
    colour: str = INK
    anchor: str = "start"
    bold: bool = False
    fixed: bool = True
    """In the fixed-width face, which everything that is an identifier or a number has."""


Mark = Box | Lines | Shape | Curve | Text


class Scene(NamedTuple):
    """A finished drawing, its marks in the order of painting."""

    width: float
    height: float
    marks: tuple[Mark, ...]


_MARGIN, _SPINE = 10.0, 11.0
_TAGS, _CHANNEL, _LEADER = 91.0, 30.0, 36.0
_STRIP, _INSET, _SIGN = 13.0, 22.0, 8.0
_ADDRESS = len("0x7fffffffffff")
"""Characters that a label's address has room for in any case, so that the page keeps its width."""
_LEFT = len("was start_stack")


class _Frame(NamedTuple):
    """Where things stand on the page, and the way from rows to y."""

    columns: tuple[float, ...]
    widths: tuple[float, ...]
    label: float
    """Where the addresses of the labels start."""
    right: float
    top: float
    bottom: float

    def y(self, at: float) -> float:
        return self.bottom - at * ROW


def draw_scene(layout: Layout) -> Scene:
    """Turn a layout into boxes, lines and texts."""
    frame = _frame(layout)
    legend, height = _legend(layout, frame)
    width = frame.right + _MARGIN
    marks: list[Mark] = [Box(0.0, 0.0, width, height, PAPER)]
    marks += _heading(layout, frame)
    for zoom in layout.zooms:
        marks += _zoom(zoom, frame)
    for i, column in enumerate(layout.columns):
        for area in column.areas:
            marks += _area(area, i, frame, _is_named(area, layout.columns[i + 1 :]))
    marks += _boundaries(layout, frame)
    marks += _ticks(layout, frame)
    marks += _spans(layout.columns[-1], frame)
    for move in layout.moves:
        marks += _move(move, frame)
    for flag in layout.flags:
        if flag.label_at is not None:
            marks += _pointed(flag, flag.label_at, frame)
    return Scene(width, height, (*marks, *legend))


def _frame(layout: Layout) -> _Frame:
    first = _MARGIN + 18 * CELL * DETAIL + 5
    two = len(layout.columns) > 1
    widths = (84.0, 132.0) if two else (186.0,)
    columns = (first, first + widths[0] + _TAGS + _CHANNEL) if two else (first,)
    label = columns[-1] + widths[-1] + _LEADER
    addresses = max((len(f"{flag.address:#x}") for flag in layout.flags), default=0)
    names = max((len(line) for flag in layout.flags for line in flag.names), default=0)
    widest = _after(max(addresses, _ADDRESS)) + max(names, names_room(two)) * CELL * NAME
    widest = max(widest, _after(_ADDRESS) + _LEFT * CELL * DETAIL)
    top = _MARGIN + 32 + 15 * len(layout.notes) + (18 if two else 0)
    bottom = top + layout.height * ROW
    return _Frame(columns, widths, label, label + _INSET + widest + 6, top, bottom)


def _after(characters: int) -> float:
    """Return how far right of an address its names start."""
    return characters * CELL * ADDRESS + 7


def _heading(layout: Layout, frame: _Frame) -> Iterator[Mark]:
    room = frame.right - _MARGIN
    title = shortened(layout.title, int(room / (TITLE * 0.66)))
    yield Text(_MARGIN, _MARGIN + 7, title, TITLE, bold=True, fixed=False)
    for i, note in enumerate(layout.notes):
        text = shortened(note, int(room / (CAPTION * SANS)))
        yield Text(_MARGIN, _MARGIN + 25 + 15 * i, text, CAPTION, MOVED, fixed=False)
    if len(layout.columns) > 1:
        for x, width, column in zip(frame.columns, frame.widths, layout.columns, strict=True):
            middle = x + width / 2
            yield Text(middle, frame.top - 15, column.heading, HEADING, INK, "middle", True, False)


def _boundaries(layout: Layout, frame: _Frame) -> Iterator[Mark]:
    x = frame.columns[0] - 5
    for tile in layout.tiles:
        yield Text(x, frame.y(tile.bottom), f"{tile.start:#x}", DETAIL, SOFT, "end")
    yield Text(x, frame.y(layout.tiles[-1].top), "2**64", DETAIL, SOFT, "end")


# ---- areas -------------------------------------------------------------------------------------


def _is_named(area: Area, later: Sequence[Column]) -> bool:
    """Tell whether an area needs its words: not if the next column says the same."""
    return not any(
        (area.start, area.end, area.kind, area.name, area.permissions)
        == (other.start, other.end, other.kind, other.name, other.permissions)
        for column in later
        for other in column.areas
    )


def _area(area: Area, column: int, frame: _Frame, is_named: bool) -> Iterator[Mark]:
    x, width = frame.columns[column], frame.widths[column]
    y, height = frame.y(area.top), (area.top - area.bottom) * ROW
    if area.kind in (Kind.GAP, Kind.REFUSED):
        yield from _gap(area, x, y, width, height, is_named)
        return
    look, dashed = LOOKS[area.kind], area.kind in (Kind.FOLD, Kind.UNKNOWN)
    yield Box(x, y, width, height, look.tint, SOFT, dashed, _hint(area))
    yield from _spine(area, x, y, height)
    if is_named:
        yield from _area_texts(area, x + _SPINE, y + height / 2, width - _SPINE, height)


def _hint(area: Area) -> str:
    extent = f"{area.start:#x}-{area.end:#x} {size_text(area.size)}"
    name = area.path or area.name
    return " ".join(filter(None, (extent, area.permissions, name, area.count)))


def _gap(
    area: Area, x: float, y: float, width: float, height: float, is_named: bool
) -> Iterator[Mark]:
    look = LOOKS[area.kind]
    yield Box(x, y, width, height, look.tint, hint=_hint(area))
    edges = (_zigzag(x, y, height), _zigzag(x + width, y, height))
    yield Lines(edges, SOFT, 0.8)
    if is_named:
        size = size_text(area.size)
        text = f"refused · {size}" if area.kind is Kind.REFUSED else size
        yield Text(x + width / 2, y + height / 2, text, DETAIL, SOFT, "middle")


def _zigzag(x: float, y: float, height: float) -> tuple[Point, ...]:
    teeth = max(2, round(height / 5)) // 2 * 2
    step = height / teeth
    return tuple((x + 3 * (i % 2) * (-1) ** (i // 2), y + i * step) for i in range(teeth + 1))


def _spine(area: Area, x: float, y: float, height: float) -> Iterator[Mark]:
    """Hatch the left edge; of a file in several VMAs each has its part."""
    if area.kind is not Kind.GROUP or len(area.vmas) > height / 4:
        yield from swatch(LOOKS[area.kind], x, y, _SPINE, height)
        return
    share = height / len(area.vmas)
    for i, vma in enumerate(reversed(area.vmas)):
        yield from swatch(LOOKS[kind_of(vma)], x, y + i * share, _SPINE, share)


def swatch(look: Look, x: float, y: float, width: float, height: float) -> Iterator[Mark]:
    """Fill a rectangle with the colour and the pattern of a look."""
    yield Box(x, y, width, height, look.colour, SOFT)
    paths = _hatch(look.pattern, round(width, 1), round(height, 1))
    if paths:
        moved = tuple(tuple((x + a, y + b) for a, b in path) for path in paths)
        yield Lines(moved, look.lines, 1.6 if look.pattern is Pattern.DOTTED else 0.8)


@lru_cache(maxsize=512)
def _hatch(pattern: Pattern, width: float, height: float) -> tuple[tuple[Point, ...], ...]:
    """Return a pattern's lines in a rectangle at the origin."""
    if pattern is Pattern.LEVEL:
        return tuple(((0.0, y), (width, y)) for y in _steps(2.0, 4.0, height))
    if pattern is Pattern.UPRIGHT:
        return tuple(((x, 0.0), (x, height)) for x in _steps(width / 6, width / 3, width))
    if pattern is Pattern.DOTTED:
        return tuple(
            ((x - 0.5, y), (x + 0.5, y))
            for row, y in enumerate(_steps(2.5, 3.5, height - 1))
            for x in _steps(2.75 * (1 + row % 2), 5.5, width - 1)
        )
    rising = _diagonals(width, height)
    falling = tuple(tuple((width - x, y) for x, y in path) for path in rising)
    return (
        *(rising if pattern in (Pattern.RISING, Pattern.CROSSED) else ()),
        *(falling if pattern in (Pattern.FALLING, Pattern.CROSSED) else ()),
    )


def _steps(start: float, step: float, end: float) -> list[float]:
    return list(takewhile(lambda value: value < end, count(start, step)))


def _diagonals(width: float, height: float) -> tuple[tuple[Point, ...], ...]:
    lines = []
    for foot in _steps(2.5, 5.0, width + height):  # x + y = foot
        left, right = max(0.0, foot - height), min(width, foot)
        if left < right:
            lines.append(((left, foot - left), (right, foot - right)))
    return tuple(lines)


def _area_texts(area: Area, x: float, middle: float, width: float, height: float) -> Iterator[Mark]:
    """Write name and details, on two lines where there is room."""
    left, right = x + 6, x + width - 12
    size = size_text(area.size)
    details = " ".join(filter(None, (area.permissions, size)))
    room = int((right - left) / (CELL * NAME))
    name, suffix = area.name, f" · {area.count}" if area.count else ""
    if suffix and cells(name + suffix) > room and cells(suffix) + 6 > room // 2:
        details, suffix = f"{area.count} · {details}", ""
    if height >= 1.8 * ROW:
        yield Text(left, middle - 6.5, shortened(name, room - len(suffix)) + suffix, NAME,
                   bold=True)  # fmt: skip
        fits = len(details) * CELL * DETAIL <= right - left + 6
        yield Text(left, middle + 6.5, details if fits else size, DETAIL, SOFT)
        return
    yield Text(left, middle, shortened(name, room), DETAIL)
    free = (right - left) - cells(name) * CELL * DETAIL - 8
    fitting = (text for text in (details, size) if len(text) * CELL * DETAIL <= free)
    for text in list(fitting)[:1]:
        yield Text(right + 2, middle, text, DETAIL, SOFT, "end")


# ---- members -----------------------------------------------------------------------------------


def _ticks(layout: Layout, frame: _Frame) -> Iterator[Mark]:
    """Mark each member's place on the right edge of its column."""
    moved = {move.member for move in layout.moves}
    for x, width, column in zip(frame.columns, frame.widths, layout.columns, strict=True):
        edge = x + width
        for colour, chosen in ((INK, False), (MOVED, True)):
            places = {at for name, at in column.places if (name in moved) is chosen}
            if places:
                paths = tuple(
                    ((edge - 8, frame.y(at)), (edge + 2, frame.y(at))) for at in sorted(places)
                )
                yield Lines(paths, colour, 1.6)


def _spans(column: Column, frame: _Frame) -> Iterator[Mark]:
    paths = []
    for span in column.spans:
        x = frame.columns[-1] + frame.widths[-1] + 3 + 3.5 * span.lane
        low, high = frame.y(span.bottom), frame.y(span.top)
        paths.append(((x, low), (x + 4, low), (x + 4, high), (x, high)))
    if paths:
        yield Lines(tuple(paths), INK, 1.2)


def _move(move: Move, frame: _Frame) -> Iterator[Mark]:
    """Draw the old place, the member's name beside it, and the way to the new place."""
    edge = frame.columns[0] + frame.widths[0]
    old, tag, new = frame.y(move.old_at), frame.y(move.tag_at), frame.y(move.new_at)
    left, right = edge + 22, edge + _TAGS
    end = left + len(move.member) * CELL * DETAIL + 3
    yield Lines((((edge + 6, old), (left - 10, tag), (left - 3, tag)),), MOVED, 0.8)
    yield from _sign(Symbol.OLD, edge + 4, old, MOVED)
    yield Text(left, tag, move.member, DETAIL, MOVED)
    target = frame.columns[1]
    yield Lines((((end, tag), (right, tag)),), MOVED, 1.1)
    yield Curve((right, tag), (target - 7, new), MOVED, 1.1)
    yield Shape(((target - 8, new - 3.2), (target - 1, new), (target - 8, new + 3.2)), MOVED)


def _pointed(flag: Flag, label_at: float, frame: _Frame) -> Iterator[Mark]:
    """Draw a flag's leader and its label."""
    edge, at, y = frame.columns[-1] + frame.widths[-1], frame.y(flag.at), frame.y(label_at)
    first = y - (flag.rows - 1) / 2 * ROW
    knee = frame.label - _SIGN - 8
    path = ((edge + 2, at), (edge + 14, at), (knee, first), (frame.label - _SIGN - 5, first))
    yield Lines((path,), MOVED if flag.moved else FAINT, 0.8)
    yield from _label(flag, frame.label, y)


def _label(flag: Flag, x: float, y: float) -> Iterator[Mark]:
    colour = MOVED if flag.moved or not flag.members else INK
    line = y - (flag.rows - 1) / 2 * ROW
    address = f"{flag.address:#x}"
    name = x + _after(len(address))
    yield from _sign(symbol_of(flag), x - _SIGN, line, colour)
    yield Text(x, line, address, ADDRESS, colour)
    if not flag.names:
        for i, remark in enumerate(flag.remarks):
            yield Text(name, line + i * ROW, remark, DETAIL, MOVED)
        return
    for i, names in enumerate(flag.names):
        yield Text(name, line + i * ROW, names, NAME, colour, bold=True)
    line += len(flag.names) * ROW - 1.5
    for i, remark in enumerate(flag.remarks):
        yield Text(x, line + i * ROW, remark, DETAIL, MOVED)


def _sign(symbol: Symbol, x: float, y: float, colour: str) -> Iterator[Mark]:
    if symbol is Symbol.START:
        yield Shape(((x - 4, y + 3.2), (x, y - 4), (x + 4, y + 3.2)), colour)
    elif symbol is Symbol.END:
        yield Shape(((x - 4, y - 3.2), (x, y + 4), (x + 4, y - 3.2)), colour)
    elif symbol is Symbol.BORDER:
        yield Shape(((x - 4, y), (x, y - 4.6), (x + 4, y), (x, y + 4.6)), colour)
    else:
        radius = 3.4 if symbol is Symbol.POINT else 2.8
        ring = tuple((x + radius * a, y + radius * b) for a, b in _CIRCLE)
        filled = symbol is Symbol.POINT
        yield Shape(ring, colour if filled else PAPER, "" if filled else colour)


_CIRCLE = tuple((math.cos(i * math.pi / 6), math.sin(i * math.pi / 6)) for i in range(12))


# ---- zooms -------------------------------------------------------------------------------------


def _zoom(zoom: Zoom, frame: _Frame) -> Iterator[Mark]:
    left, edge = frame.label - _SIGN - 6, frame.columns[-1] + frame.widths[-1]
    top, bottom = frame.y(zoom.top), frame.y(zoom.bottom)
    high, low = frame.y(zoom.high_at) - 1, frame.y(zoom.low_at) + 1
    yield Shape(((edge, high), (left, top), (left, bottom), (edge, low)), SHADE)
    yield Box(left, top, frame.right - left, bottom - top, SHADE, FAINT)
    x, strip = frame.label + _INSET, left + 7
    heading = f"magnified: {size_text(zoom.end - zoom.start)}"
    yield Text(left + 7, top + 10, heading, CAPTION, INK, bold=True, fixed=False)
    for segment in zoom.segments:
        yield from _segment(segment, strip, x, frame)
    flags = {flag.address: flag for flag in zoom.flags}
    for border, at in _borders(zoom):
        y = frame.y(at)
        if border not in flags:
            yield Text(x, y, f"{border:#x}", DETAIL, SOFT)
            continue
        flag = flags[border]
        first = y - (flag.rows - 1) / 2 * ROW
        path = ((strip + _STRIP, y), (x - _SIGN - 5, first))
        yield Lines((path,), MOVED if flag.moved else SOFT, 0.8)
        yield from _label(flag, x, y)


def _borders(zoom: Zoom) -> Iterator[tuple[int, float]]:
    yield zoom.start, zoom.segments[0].bottom
    for segment in zoom.segments:
        yield segment.end, segment.top


def _segment(segment: Segment, x: float, label: float, frame: _Frame) -> Iterator[Mark]:
    y, height = frame.y(segment.top), (segment.top - segment.bottom) * ROW
    look = LOOKS[segment.kind]
    if segment.name:
        yield from swatch(look, x, y, _STRIP, height)
    else:
        yield Box(x, y, _STRIP, height, look.tint, SOFT)
    size = size_text(segment.size)
    text = f"{segment.name}, {size}" if segment.name else size
    room = int((frame.right - label) / (DETAIL * CELL))
    yield Text(label, frame.y(segment.label_at), shortened(text, room), DETAIL, SOFT)


# ---- the legend --------------------------------------------------------------------------------


class _Entry(NamedTuple):
    marks: tuple[Mark, ...]
    """Drawn around the origin, within 20 by 12."""
    words: str


def _legend(layout: Layout, frame: _Frame) -> tuple[list[Mark], float]:
    """Return the legend's marks, and the height of the whole drawing."""
    entries = [*_area_entries(layout), *_member_entries(layout)]
    width = frame.right - _MARGIN
    longest = max(len(entry.words) for entry in entries)
    room = 28 + longest * SANS * CAPTION + 8
    columns = max(1, int(width // room))
    step, rows = width / columns, -(-len(entries) // columns)
    top = frame.bottom + 18
    marks: list[Mark] = [Lines((((_MARGIN, top), (frame.right, top)),), FAINT, 0.8)]
    for i, entry in enumerate(entries):
        x, y = _MARGIN + i // rows * step, top + 15 + i % rows * 17
        marks += [_shifted(mark, x, y) for mark in entry.marks]
        marks.append(Text(x + 27, y, entry.words, CAPTION, fixed=False))
    y = top + 15 + rows * 17 + 4
    lines = textwrap.wrap(READING, int(width / (CAPTION * SANS)))
    marks += [Text(_MARGIN, y + 14 * i, t, CAPTION, SOFT, fixed=False) for i, t in enumerate(lines)]
    return marks, y + 14 * len(lines) + 2


def _area_entries(layout: Layout) -> Iterator[_Entry]:
    shown = {area.kind for column in layout.columns for area in column.areas}
    for column in layout.columns:
        for area in column.areas:
            if area.kind is Kind.GROUP:
                shown |= {kind_of(vma) for vma in area.vmas}
    for kind, look in LOOKS.items():
        if kind in shown:
            yield _Entry(tuple(_area_sample(kind)), look.words)


def _area_sample(kind: Kind) -> Iterator[Mark]:
    look = LOOKS[kind]
    if kind in (Kind.GAP, Kind.REFUSED):
        yield Box(1, -6, 18, 12, look.tint)
        yield Lines((_zigzag(1, -6, 12), _zigzag(19, -6, 12)), SOFT, 0.8)
    elif kind is Kind.GROUP:
        yield Box(0, -6, 20, 12, look.tint, SOFT)
        for i, part in enumerate((Kind.DATA, Kind.CODE, Kind.FILE)):
            yield from swatch(LOOKS[part], 0, -6 + 4 * i, _SPINE, 4)
    else:
        yield Box(0, -6, 20, 12, look.tint, SOFT, kind in (Kind.FOLD, Kind.UNKNOWN))
        yield from swatch(look, 0, -6, _SPINE, 12)


def _member_entries(layout: Layout) -> Iterator[_Entry]:
    symbols = {symbol_of(flag) for flag in layout.flags}
    for symbol in Symbol:
        if symbol in symbols and symbol is not Symbol.OLD:
            yield _Entry(tuple(_sign(symbol, 10, 0, INK)), symbol.value)
    if layout.columns[-1].spans:
        yield _Entry((Lines((((7, 5), (12, 5), (12, -5), (7, -5)),), INK, 1.2),), SPAN_WORDS)
    if layout.moves:
        line = Lines((((5, 0), (14, 0)),), MOVED, 1.1)
        head = Shape(((13, -3.2), (20, 0), (13, 3.2)), MOVED)
        yield _Entry((line, *_sign(Symbol.OLD, 3, 0, MOVED), head), MOVE_WORDS)
    if layout.zooms:
        wedge = Shape(((2, -1), (18, -6), (18, 6), (2, 1)), SHADE, FAINT)
        yield _Entry((wedge,), ZOOM_WORDS)


def _shifted(mark: Mark, x: float, y: float) -> Mark:
    def move(points: Sequence[Point]) -> tuple[Point, ...]:
        return tuple((a + x, b + y) for a, b in points)

    if isinstance(mark, Lines):
        return mark._replace(paths=tuple(move(path) for path in mark.paths))
    if isinstance(mark, Shape):
        return mark._replace(points=move(mark.points))
    if isinstance(mark, Curve):
        return mark._replace(start=move([mark.start])[0], end=move([mark.end])[0])
    return mark._replace(x=mark.x + x, y=mark.y + y)
