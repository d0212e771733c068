"""The picture of a sweep: over which values the kernel says what, and which rule decides.

Needs matplotlib, which is imported on use; pyplot is never touched. `SweepResult.text` says the
same in words.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prctlmm_lab.experiments.axes import Axis
from prctlmm_lab.experiments.boundaries import Values
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.swept import Boundary, Region, SweepResult
from prctlmm_lab.kernel.rules import ACCEPTED
from prctlmm_lab.views.legend import (
    DISAGREES,
    DISAGREES_WORDS,
    FAINT,
    INK,
    PAPER,
    SOFT,
    Look,
    Pattern,
    look_of,
)
from prctlmm_lab.views.pictures import WIDTH, picture_class, with_glyphs
from prctlmm_lab.views.places import (
    apart,
    border_of,
    cell_of,
    covered,
    levels,
    outline,
    roomiest,
    step_of,
)
from prctlmm_lab.words import size_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE, NAME, SMALL = 10.5, 7.5, 6.8
"""Sizes of type, in points."""
_FIXED, _SANS = "DejaVu Sans Mono", "DejaVu Sans"  # matplotlib brings both
_POINT = 2.54 / 72
"""Centimetres."""
_ROW = 1.4 * SMALL * _POINT
"""From one line of small type to the next."""
_HATCHES = {
    Pattern.PLAIN: "", Pattern.RISING: "////", Pattern.FALLING: "\\\\\\\\", Pattern.LEVEL: "---",
    Pattern.UPRIGHT: "|||", Pattern.CROSSED: "xxx", Pattern.DOTTED: "...",
}  # fmt: skip
_RINGS = 12
"""Places along each axis at which disagreements are ringed."""
_MOST_DESCRIPTORS = 32
"""Descriptors that are told one by one."""
_BESIDE = 0.16
"""From a slanted line to the words beside it, in centimetres."""
_UNITS = {"auxv_size": "bytes", "exe_fd": "descriptor"}


def draw_verdicts(result: SweepResult) -> Figure:
    """Draw a sweep as a figure of 16 cm: each call a point, in the look of the rule that decides.

    The colour tells the family of the rule, the pattern which of them; the legend has both, in the
    kernel's order. Boundaries are labelled with their exact values. Where kernel and specification
    disagree, a point has a colour of its own and a ring. Values grow to the right and up.

    >>> from prctlmm_lab import Axis, Sweep, sweep
    >>> result = sweep(Sweep("heap", Axis("brk", "start_brk - page", "start_brk + page")))
    >>> round(draw_verdicts(result).get_figwidth() * 2.54)
    16

    Save it with `prctlmm_lab.views.pictures.save`. The command line's equivalent is
    `prctlmm-lab sweep RECIPE --picture FILE`.
    """
    return _strip(result) if result.sweep.y is None else _field(result)


@dataclass(frozen=True)
class _Page:
    """Where the plot lies on the page, in centimetres from the page's lower left corner."""

    left: float
    bottom: float
    width: float
    height: float
    tall: float
    """Of the page, which is 16 cm wide."""


@dataclass(frozen=True)
class _Plot:
    """The result's cells on a page, with axes for words and axes for cells."""

    result: SweepResult
    at: _Page
    figure: Any
    page: Any
    """Axes over the whole page, in centimetres."""
    axes: Any
    """Axes of the cells."""

    def x(self, column: float) -> float:
        """Return where a column of cells lies on the page."""
        return self.at.left + (column + 0.5) / len(self.result.x) * self.at.width

    def y(self, row: float) -> float:
        """Return where a row of cells lies on the page."""
        return self.at.bottom + (row + 0.5) / len(self.result.y) * self.at.height

    def write(self, x: float, y: float, text: str, **options: Any) -> None:
        """Write a text from (x, y) on; a second line goes below the first."""
        size = options.pop("size", SMALL)
        family = _FIXED if options.pop("fixed", False) else _SANS
        weight = options.get("weight", "normal")
        options = {"color": INK, "ha": "left", "va": "center"} | options
        for number, line in enumerate(text.split("\n")):
            self.page.text(
                x, y - number * 1.4 * size * _POINT, with_glyphs(line, family, weight),
                fontsize=size, family=family, parse_math=False, **options,
            )  # fmt: skip

    def line(self, *points: tuple[float, float]) -> None:
        """Draw a thin line."""
        from matplotlib.lines import Line2D

        self.page.add_line(Line2D(*zip(*points, strict=True), color=SOFT, linewidth=0.5))


def _plot(result: SweepResult, at: _Page) -> _Plot:
    """Open a page with the cells, the title and the caption."""
    figure = picture_class()(figsize=(WIDTH / 2.54, at.tall / 2.54))
    place = at.left / WIDTH, at.bottom / at.tall, at.width / WIDTH, at.height / at.tall
    axes = figure.add_axes(place)
    page = figure.add_axes((0, 0, 1, 1))
    page.set_axis_off()
    page.set(xlim=(0, WIDTH), ylim=(0, at.tall))
    plot = _Plot(result, at, figure, page, axes)
    _paint(plot)
    title = result.sweep.title or result.sweep.id
    plot.write(0.35, at.tall - 0.5, title, size=TITLE, weight="bold")
    plot.write(0.35, 0.35 + _ROW, _caption(result), color=SOFT)
    return plot


def _finished(plot: _Plot) -> Figure:
    """Mark the disagreements, above everything else."""
    _ring(plot.page, _wrong_places(plot))
    figure: Figure = plot.figure
    return figure


def _caption(result: SweepResult) -> str:
    more = len(result.boundary_calls)
    beside = f"; {more} more lie at boundaries" if more else ""
    directions = "to the right" if result.sweep.y is None else "to the right and up"
    steps = " and ".join(f"every {_step_text(axis, values)}" for axis, values in result.scales)
    return (
        f"Linux {result.facts.release}, {result.facts.machine}. Each of {result.calls:,} points is "
        f"a real call, predicted before it was made{beside}.\n"
        f"Values grow {directions}, both ends included; a point {steps}."
    )


def _step_text(axis: Axis, values: Values) -> str:
    step = step_of(values)
    if axis.member == "exe_fd":
        return "descriptor" if step == 1 else f"{step} descriptors"
    return f"{size_text(step) if step > 1 else 'byte'} of {axis.member}"


# ---- the cells --------------------------------------------------------------------------------


def _paint(plot: _Plot) -> None:
    """Paint a cell for each call, then the patterns and outlines of the regions, then rings."""
    result, axes = plot.result, plot.axes
    colours = np.zeros((256, 4), np.uint8)
    for region in result.regions:
        colours[region.code] = _rgba(look_of(region.rule).tint)
    rows, columns = result.deciding.shape
    extent = (-0.5, columns - 0.5, -0.5, rows - 0.5)
    how = {"origin": "lower", "aspect": "auto", "interpolation": "none", "extent": extent}
    axes.imshow(colours[result.deciding], **how)
    for region in result.regions:
        _outline(axes, result, region)
    if result.disagreements:
        wrong = np.zeros((rows, columns, 4), np.uint8)
        wrong[result.errnos != result.predicted] = _rgba(DISAGREES)
        axes.imshow(wrong, **how, zorder=4)
    axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])


def _rgba(colour: str) -> tuple[int, ...]:
    return (*bytes.fromhex(colour.removeprefix("#")), 255)


def _outline(axes: Any, result: SweepResult, region: Region) -> None:
    from matplotlib.patches import PathPatch

    path = outline(result.deciding == region.code)
    axes.add_patch(hatched(PathPatch(path), look_of(region.rule)))
    axes.add_patch(PathPatch(path, fill=False, edgecolor=INK, linewidth=0.5))


def hatched(patch: Any, look: Look) -> Any:
    """Give a patch nothing but the pattern of a look."""
    patch.set(facecolor="none", edgecolor=look.colour, linewidth=0, hatch=_HATCHES[look.pattern])
    patch.set_hatch_linewidth(0.5)
    return patch


def _wrong_places(plot: _Plot) -> list[tuple[float, float]]:
    """Return where rings belong on the page: one for disagreements that lie close by."""
    result = plot.result
    rows, columns = np.nonzero(result.errnos != result.predicted)
    tall, wide = result.errnos.shape
    blocks = rows * _RINGS // tall * _RINGS + columns * _RINGS // wide
    _, first = np.unique(blocks, return_index=True)
    inside = [(float(columns[number]), float(rows[number])) for number in first]
    beside = [
        (cell_of(result.x, call.x), cell_of(result.y, call.y))
        for call in result.boundary_calls
        if not call.agrees
    ]
    return [(plot.x(column), plot.y(row)) for column, row in [*inside, *beside]]


def _ring(page: Any, places: list[tuple[float, float]]) -> None:
    """Mark places on the page so that even a single point is seen."""
    if not places:
        return
    page.scatter(*zip(*places, strict=True), s=5, color=DISAGREES, marker="s", zorder=5)
    for colour, width in ((PAPER, 3.4), (DISAGREES, 1.7)):
        page.scatter(*zip(*places, strict=True), s=80, facecolors="none", edgecolors=colour,
                     linewidths=width, zorder=5)  # fmt: skip


# ---- two axes ---------------------------------------------------------------------------------

_SIDE = 7.6
"""Of the plot, in centimetres."""


def _field(result: SweepResult) -> Figure:
    left = 3.15
    told, depth = _told_below(result, left, _SIDE, 0.25)
    bottom = depth + 1.65
    plot = _plot(result, _Page(left, bottom, _SIDE, _SIDE, bottom + _SIDE + 1.4))
    _ticks_below(plot, told)
    y, values = result.scales[1]
    _ticks_beside(plot, y, values)
    plot.write(left + _SIDE / 2, bottom - depth - 0.2, _axis_text(result.sweep.x), **_AXIS_NAME)
    plot.write(0.45, bottom + _SIDE / 2, _axis_text(y), rotation=90, **_AXIS_NAME)
    _legend(plot, (left + _SIDE + 0.4,), bottom + _SIDE - 0.15)
    taken = result.errnos != result.predicted  # no words over a disagreement
    for edge in result.boundaries:
        if edge.slope and edge.formula:
            _name_slant(plot, edge, taken)
    for region in result.regions:
        _name_region(plot, region, taken)
    return _finished(plot)


def _ticks_beside(plot: _Plot, axis: Axis, values: Values) -> None:
    """Write the values of the y axis left of the plot, moved apart where they crowd."""
    ticks = _ticks(plot.result, axis, values)
    places = [plot.y(tick.cell) - plot.at.bottom for tick in ticks]
    for tick, place, moved in zip(
        ticks, places, apart(places, 2.2 * _ROW, plot.at.height), strict=True
    ):
        y = plot.at.bottom + moved
        plot.line(
            (plot.at.left, plot.at.bottom + place),
            (plot.at.left - 0.18, y),
            (plot.at.left - 0.25, y),
        )
        _tell(plot, plot.at.left - 0.32, y + (_ROW / 2 if tick.name else 0), tick, "right")


def _name_slant(plot: _Plot, edge: Boundary, taken: Any) -> None:
    """Write the equation of a slanted boundary along it, in two lines where it is short.

    It stands beside the line, preferably where calls are refused; over it only for want of room.
    """
    result, at = plot.result, plot.at
    x, y = result.x, result.y
    angle = _angle(plot, edge)
    left, right = result.deciding[:, :-1], result.deciding[:, 1:]
    one, other = edge.below.rule, edge.above.rule
    rows = (((left == one) & (right == other)) | ((left == other) & (right == one))).any(axis=1)
    length = np.count_nonzero(rows) / len(y) * at.height / abs(np.sin(angle))
    text = edge.formula
    if _wide(text, NAME) > 0.9 * length:
        text = text.replace(" = ", "\n= ")
    lines = text.split("\n")
    size = max(_wide(line, NAME) for line in lines), 0.1 + len(lines) * 0.37
    column, row = cell_of(x, edge.above.x), cell_of(y, edge.above.y)
    across, up = _cells(plot, (-np.sin(angle), np.cos(angle)))
    wide, high = at.width / len(x), at.height / len(y)
    away = size[1] / 2 + _BESIDE + wide * high / np.hypot(wide, high)  # large cells make stairs
    beside = [(column + n * across, row + n * up) for n in (away, -away)]
    beside.sort(key=lambda place: _code_at(result, *place) == ACCEPTED)
    degrees = float(np.degrees(angle))
    fitting = [place for place in beside if _lies_in_one_region(plot, place, size, degrees)]
    for place in (*fitting, (column, row)):
        if _take(plot, taken, place, size, degrees):
            _label(plot, *place, text, degrees)
            return


def _angle(plot: _Plot, edge: Boundary) -> float:
    """Return how far a slanted boundary rises on the page, in radians."""
    x, y = (
        step_of(values) * len(values) / length
        for values, length in ((plot.result.x, plot.at.width), (plot.result.y, plot.at.height))
    )
    return float(np.arctan(x / y * edge.slope))


def _lies_in_one_region(
    plot: _Plot, place: tuple[float, float], size: tuple[float, float], angle: float
) -> bool:
    """Tell whether all of a turned label lies in the plot and over one region."""
    turned, deciding = np.radians(angle), plot.result.deciding
    along, across = np.meshgrid(np.linspace(-0.5, 0.5, 41) * size[0],
                                np.linspace(-0.5, 0.5, 9) * size[1])  # fmt: skip
    right, up = _cells(plot, (1.0, 1.0))
    columns = np.rint(place[0] + (along * np.cos(turned) - across * np.sin(turned)) * right)
    rows = np.rint(place[1] + (along * np.sin(turned) + across * np.cos(turned)) * up)
    high, wide = deciding.shape
    if min(columns.min(), rows.min()) < 0 or columns.max() >= wide or rows.max() >= high:
        return False
    return len(np.unique(deciding[rows.astype(int), columns.astype(int)])) == 1


def _code_at(result: SweepResult, column: float, row: float) -> int:
    """Return which rule decides at the cell nearest to a place; beyond the rim, at the rim."""
    rows, columns = result.deciding.shape
    across, up = (min(max(round(n), 0), most - 1) for n, most in ((column, columns), (row, rows)))
    return int(result.deciding[up, across])


def _name_region(plot: _Plot, region: Region, taken: Any) -> None:
    """Write the rule's id into its region where there is room: level, upright, or along a slant."""
    text = region.id or region.verdict
    size = _wide(text, NAME) + 0.3, 0.5
    mask = plot.result.deciding == region.code
    for angle, room in ((0.0, size), (90.0, size[::-1])):
        place = roomiest(mask & ~taken, *(round(n) for n in _cells(plot, room)))
        if place is not None and _take(plot, taken, place, size, angle):
            _label(plot, *place, text, angle)
            return
    row, column = (float(n) for n in np.argwhere(mask).mean(axis=0))
    for edge in plot.result.boundaries:
        if edge.slope and region.code in (edge.below.rule, edge.above.rule):
            angle = float(np.degrees(_angle(plot, edge)))
            fits = _lies_in_one_region(plot, (column, row), size, angle)
            if fits and _take(plot, taken, (column, row), size, angle):
                _label(plot, column, row, text, angle)
                return


def _cells(plot: _Plot, size: tuple[float, float]) -> tuple[float, float]:
    """Return how many cells a width and a height take."""
    rows, columns = plot.result.deciding.shape
    return size[0] / plot.at.width * columns, size[1] / plot.at.height * rows


def _take(
    plot: _Plot, taken: Any, place: tuple[float, float], size: tuple[float, float], angle: float
) -> bool:
    """Take the cells that a label covers; return False if some of them are taken already."""
    across, up = _cells(plot, (1.0, 1.0))
    # In centimetres, where the label is a rectangle whatever the shape of a cell.
    rows, columns = np.indices(taken.shape, float)
    cells = covered((columns - place[0]) / across, (rows - place[1]) / up, size, angle)
    if (taken & cells).any():
        return False
    taken |= cells
    return True


def _label(plot: _Plot, column: float, row: float, text: str, angle: float = 0.0) -> None:
    box = {"facecolor": PAPER, "edgecolor": FAINT, "linewidth": 0.4, "boxstyle": "round,pad=0.22"}
    plot.page.text(
        plot.x(column), plot.y(row), with_glyphs(text, _SANS, "normal"), fontsize=NAME,
        family=_SANS, color=INK, ha="center", va="center", multialignment="center",
        rotation=angle, rotation_mode="anchor", bbox=box, parse_math=False,
    )  # fmt: skip


# ---- one axis ---------------------------------------------------------------------------------


def _strip(result: SweepResult) -> Figure:
    left, width, height = 0.9, 14.2, 1.4
    ((axis, values),) = result.scales
    one_by_one = axis.member == "exe_fd" and len(values) <= _MOST_DESCRIPTORS
    told: _Told = []
    depth = 0.75 + max(_wide(name, SMALL) for name in ("", *result.descriptors))
    if not one_by_one:
        told, depth = _told_below(result, left, width, 0.8)
    columns = (left, left + 7.2)
    bottom = 1.15 + _legend_height(result, columns) + 0.65 + depth
    plot = _plot(result, _Page(left, bottom, width, height, bottom + height + 1.1))
    if one_by_one:
        _descriptors_below(plot, values)
    _ticks_below(plot, told)
    low = bottom - depth - 0.15
    plot.write(left + width / 2, low, _axis_text(axis), **_AXIS_NAME)
    _legend(plot, columns, low - 0.5)
    taken = result.errnos != result.predicted
    for region in result.regions:
        _name_region(plot, region, taken)
    return _finished(plot)


def _descriptors_below(plot: _Plot, values: Values) -> None:
    """Write each descriptor below its cell, upright, by the name that the set-up gave it."""
    names = {number: name for name, number in plot.result.descriptors.items()}
    for column, value in enumerate(values.tolist()):
        x = plot.x(column)
        plot.write(x, plot.at.bottom - 0.25, str(value), ha="center", fixed=True)
        plot.write(x, plot.at.bottom - 0.5, names.get(value, ""), ha="center", va="top",
                   rotation=90)  # fmt: skip


# ---- ticks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tick:
    """A value told beside an axis: its cell, its name ("" for none), its number."""

    cell: float
    name: str
    number: str
    is_end: bool


def _ticks(result: SweepResult, axis: Axis, values: Values) -> list[_Tick]:
    """Return the ends of an axis and its straight boundaries, in ascending order."""
    found = {
        int(values[end]): _Tick(cell, _formula(axis.ends[end][1]), f"{int(values[end]):#x}", True)
        for end, cell in ((0, -0.5), (-1, len(values) - 0.5))
    }
    for edge in result.boundaries:
        if edge.member == axis.member and not edge.slope:
            place = border_of(values, edge.value)
            found[edge.value] = _Tick(place, edge.formula, f"{edge.value:#x}", False)
    return sorted(found.values(), key=lambda tick: tick.cell)


def _formula(value: Value) -> str:
    return value if isinstance(value, str) else ""


_Told = list[tuple[_Tick, float, int]]
"""Ticks, each with the middle of its words in centimetres and the level they stand on."""


def _told_below(result: SweepResult, left: float, width: float, over: float) -> tuple[_Told, float]:
    """Place the words for the values of the x axis; return them and how far down they go.

    `over` is how far words may reach beyond the plot on the left.
    """
    axis, values = result.scales[0]
    # The boundaries are what one looks for: they stand next to the plot, the ends give way.
    ticks = sorted(_ticks(result, axis, values), key=lambda tick: tick.is_end)
    spans = []
    for tick in ticks:
        half = max(_wide(tick.name, SMALL), _wide(tick.number, SMALL, fixed=True)) / 2
        place = left + (tick.cell + 0.5) / len(values) * width
        middle = min(max(place, left + half - over), WIDTH - 0.25 - half)
        spans.append((middle - half, middle + half))
    rows = levels(spans, 0.2)
    middles = [(start + end) / 2 for start, end in spans]
    told = list(zip(ticks, middles, rows, strict=True))
    return told, 0.35 + (max(rows) * 2.5 + 1.5) * _ROW


def _ticks_below(plot: _Plot, told: _Told) -> None:
    """Write the values of the x axis below the plot."""
    for tick, middle, level in told:
        y = plot.at.bottom - 0.35 - level * 2.5 * _ROW
        plot.line((plot.x(tick.cell), plot.at.bottom), (plot.x(tick.cell), y + 0.16))
        _tell(plot, middle, y, tick, "center")


def _tell(plot: _Plot, x: float, y: float, tick: _Tick, align: str) -> None:
    look = {"color": SOFT} if tick.is_end else {"weight": "bold"}
    if tick.name:
        plot.write(x, y, tick.name, ha=align, **look)
        y -= _ROW
    plot.write(x, y, tick.number, ha=align, color=look.get("color", INK), fixed=True)


_AXIS_NAME: dict[str, Any] = {"size": NAME, "weight": "bold", "ha": "center"}


def _axis_text(axis: Axis) -> str:
    return f"{axis.member} ({_UNITS.get(axis.member, 'address')})"


def _wide(text: str, size: float, *, fixed: bool = False) -> float:
    """Return about how many centimetres a text takes."""
    return len(text) * size * (0.602 if fixed else 0.6) * _POINT


# ---- the legend -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """An entry of the legend; without a region it is that of disagreements."""

    region: Region | None
    head: str
    share: str
    lines: tuple[str, ...]

    @property
    def height(self) -> float:
        """In centimetres, with the space below it."""
        return 1.35 * NAME * _POINT + len(self.lines) * _ROW + 0.2


def _entries(result: SweepResult, columns: tuple[float, ...]) -> list[list[_Entry]]:
    """Return the legend's entries in rows: the regions, and last what disagreements look like."""
    room = _entry_room(columns)
    calls = result.calls + len(result.boundary_calls)
    wrong = f"{result.disagreements:,}" if result.disagreements else "none"
    told = f"of kernel and rules: {wrong} in {calls:,} calls"
    found = [_Entry(region, region.id or region.verdict,
                    f"{100 * region.calls / result.calls:.1f} %",
                    _lines(f"{region.verdict}: {region.title}" if region.rule else region.title,
                           room))
             for region in result.regions]  # fmt: skip
    found.append(_Entry(None, DISAGREES_WORDS, "", _lines(told, room)))
    size = len(columns)
    return [found[start : start + size] for start in range(0, len(found), size)]


def _entry_room(columns: tuple[float, ...]) -> float:
    """Return how wide the words of an entry may be."""
    return [*columns[1:], WIDTH - 0.1][0] - 0.25 - columns[0] - 1.0


def _lines(text: str, room: float) -> tuple[str, ...]:
    return tuple(textwrap.wrap(text, int(room / (SMALL * 0.56 * _POINT))))


def _legend_height(result: SweepResult, columns: tuple[float, ...]) -> float:
    return 0.4 + sum(max(e.height for e in row) for row in _entries(result, columns))


def _legend(plot: _Plot, columns: tuple[float, ...], top: float) -> None:
    """Write the legend downwards, in one column or two."""
    plot.write(columns[0], top, "The first broken rule decides:", color=SOFT)
    y = top - 0.55
    for row in _entries(plot.result, columns):
        for x, entry in zip(columns, row, strict=False):
            _write_entry(plot, x, y, entry, _entry_room(columns))
        y -= max(entry.height for entry in row)


def _write_entry(plot: _Plot, x: float, y: float, entry: _Entry, room: float) -> None:
    from matplotlib.patches import Rectangle

    colour = INK
    box: dict[str, Any] = {"xy": (x, y - 0.33), "width": 0.8, "height": 0.5}
    if entry.region is None:
        colour = DISAGREES if plot.result.disagreements else INK
        _ring(plot.page, [(x + 0.4, y - 0.08)])
    else:
        look = look_of(entry.region.rule)
        plot.page.add_patch(Rectangle(**box, facecolor=look.tint))
        plot.page.add_patch(hatched(Rectangle(**box), look))
        plot.page.add_patch(Rectangle(**box, fill=False, edgecolor=INK, linewidth=0.5))
    plot.write(x + 1.0, y, entry.head, size=NAME, color=colour, weight="bold")
    plot.write(x + 1.0 + room, y, entry.share, ha="right", color=SOFT)
    below = y - 1.35 * NAME * _POINT
    plot.write(x + 1.0, below, "\n".join(entry.lines), color=colour)
