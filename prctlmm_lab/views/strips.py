"""A few pages of memory in several states, as strips one below the other.

The picture of a whole address space (`pictures.draw`) shows where everything lies. Strips show one
place and little of it, on one linear scale: what is mapped there, how the kernel calls it, and
where members point, down to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import ADDRESSES, PrctlMmMap, unknown_member
from prctlmm_lab.kernel.effects import labelled
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable, Vma
from prctlmm_lab.specimen.recording.marks import LIVE, mark_text, weaker
from prctlmm_lab.views.areas import Kind, kind_of
from prctlmm_lab.views.legend import FAINT, LOOKS, MOVED, PAPER, SOFT
from prctlmm_lab.views.pictures import draw_marks
from prctlmm_lab.views.scene import CELL, Box, Lines, Mark, Scene, Shape, Text, swatch
from prctlmm_lab.views.svg import scene_svg
from prctlmm_lab.words import printable, shortened, size_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PAGES = 16
_PAGE = 4096


@dataclass(frozen=True, repr=False)
class Strips:
    """Some pages of memory in one state or more; a notebook shows it as a picture.

    Printed, it is the same in words.
    """

    states: Mapping[str, Snapshot]
    """Name of a row -> the snapshot that it shows."""
    start: int
    end: int
    """Exclusive, but a member that points there is shown."""
    members: tuple[str, ...]
    base: str
    """What `start` is called."""

    @property
    def origin(self) -> str:
        """Where the state comes from that says least: "live", "recorded ...", "predicted"."""
        origin = LIVE
        for snapshot in self.states.values():
            origin = weaker(origin, snapshot.origin)
        return origin

    def __repr__(self) -> str:
        lines = [f"{self.base} = {self.start:#x}, {size_text(self.end - self.start)} from there on"]
        for name, snapshot in self.states.items():
            lines += [f"{printable(name)}:", *(f"  {line}" for line in self._lines(snapshot))]
        return "\n".join(lines)

    def _lines(self, snapshot: Snapshot) -> Iterator[str]:
        for address, names in _pointers(snapshot, self.members):
            place = "" if self.start <= address <= self.end else " (not in the picture)"
            yield f"{' = '.join(names)} = {address:#x}{place}"
        if isinstance(snapshot.maps, Unreadable):
            yield f"maps {snapshot.maps}"
        for vma in _within(snapshot, self.start, self.end):
            yield printable(str(vma)) + ("" if vma.label or vma.path else " (no name)")

    def _repr_html_(self) -> str:
        summary = f"{len(self.states)} states of {size_text(self.end - self.start)} of memory"
        return scene_svg(_scene(self), f"{summary}; the same in words: print() it")

    def figure(self) -> Figure:
        """Draw the same as a figure, for a book.

        Needs matplotlib.
        """
        return draw_marks(_scene(self))


def strips(
    states: Mapping[str, Snapshot],
    *,
    start: int,
    pages: int,
    members: Sequence[str],
    base: str = "start",
) -> Strips:
    """Show `pages` pages (1 to 16) from `start` on in several states, and where members point.

    `states` are snapshots by the names of their rows; `base` is what `start` is called in the
    picture.

    >>> from prctlmm_lab import Specimen
    >>> with Specimen() as specimen:
    ...     page = specimen.map(4096)
    ...     state = specimen.snapshot()
    >>> shown = strips({"mapped": state}, start=page, pages=1, members=["start_stack"])
    >>> "start_stack" in str(shown), "(no name)" in str(shown)
    (True, True)

    Equivalent: a few lines of `/proc/PID/maps` beside `/proc/PID/stat`.

    Raises InputError for what is no member, and for too many pages or none.
    """
    for member in members:
        if member not in ADDRESSES:
            raise unknown_member(member, "strips")
    if not 1 <= pages <= MOST_PAGES:
        raise InputError("strips", "pages cannot be shown", hex(pages), f"1 to {MOST_PAGES}")
    end = start + pages * _PAGE
    return Strips(dict(states), start, end, tuple(members), base)


def with_labels_of(snapshot: Snapshot, facts: Facts) -> Snapshot:
    """Return a snapshot with the labels that the kernel of other facts would give: predicted.

    Equivalent: none; the other kernel would have to be booted.
    """
    new = PrctlMmMap(**snapshot.members)
    return replace(snapshot, maps=tuple(labelled(snapshot.vmas, new, facts)))


def _within(snapshot: Snapshot, start: int, end: int) -> list[Vma]:
    return [vma for vma in snapshot.vmas if vma.start < end and vma.end > start]


def _pointers(snapshot: Snapshot, members: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return where members point, from low to high, with those that point there."""
    known = snapshot.members
    places: dict[int, list[str]] = {}
    for member in members:
        if member in known:
            places.setdefault(known[member], []).append(member)
    return sorted(places.items())


# ---- the drawing -------------------------------------------------------------------------------

_MARGIN, _NAMES, _WIDTH = 10.0, 188.0, 470.0
_ROW, _BOX, _TOP = 50.0, 27.0, 34.0
_OVERHANG = 84.0
"""What the name of a member needs that points to the very end."""
_SPINE = 9.0
_NAME, _DETAIL, _CAPTION = 11.0, 10.0, 10.5


def _scene(strips: Strips) -> Scene:
    left, width = _MARGIN + _NAMES, _WIDTH
    below = _TOP + _ROW * len(strips.states)
    legend, height = _legend(strips, below + 8)
    total = left + width + _OVERHANG
    marks: list[Mark] = [Box(0.0, 0.0, total, height, PAPER)]
    marks += _axis(strips, left, width, below)
    for number, (name, snapshot) in enumerate(strips.states.items()):
        marks += _strip(strips, name, snapshot, left, _TOP + number * _ROW)
    return Scene(total, height, (*marks, *legend))


def _x(strips: Strips, address: int, left: float) -> float:
    inside = min(max(address, strips.start), strips.end)
    return left + _WIDTH * (inside - strips.start) / (strips.end - strips.start)


def _axis(strips: Strips, left: float, width: float, below: float) -> Iterator[Mark]:
    borders = range(strips.start, strips.end + 1, _PAGE)
    every = 1 if len(borders) <= 9 else 2
    paths = []
    for number, address in enumerate(borders):
        x = _x(strips, address, left)
        paths.append(((x, _TOP - 10), (x, below - 6)))
        if number % every == 0:
            text = strips.base if number == 0 else f"+{address - strips.start:#x}"
            yield Text(x, _TOP - 20, text, _DETAIL, SOFT, "middle")
    yield Lines(tuple(paths), FAINT, 0.7)


def _strip(
    strips: Strips, name: str, snapshot: Snapshot, left: float, top: float
) -> Iterator[Mark]:
    y = top + _ROW - _BOX - 8
    room = int(_NAMES / (CELL * _NAME)) - 1
    yield Text(_MARGIN, y + _BOX / 2, shortened(printable(name), room), _NAME, bold=True)
    at, empty = strips.start, "nothing mapped"
    if isinstance(snapshot.maps, Unreadable):
        empty = f"maps {snapshot.maps}"
    for vma in _within(snapshot, strips.start, strips.end):
        yield from _hole(strips, at, vma.start, left, y, empty)
        yield from _vma(strips, vma, left, y)
        at = vma.end
    yield from _hole(strips, at, strips.end, left, y, empty)
    yield from _members(strips, snapshot, left, y)


def _hole(
    strips: Strips, start: int, end: int, left: float, y: float, words: str
) -> Iterator[Mark]:
    x, right = _x(strips, start, left), _x(strips, end, left)
    if right - x < 2:
        return
    yield Box(x + 1, y + 1, right - x - 2, _BOX - 2, PAPER, FAINT, True, words)
    for text in (words, words.partition(" ")[0]):
        if len(text) * CELL * _DETAIL < right - x - 6:
            yield Text((x + right) / 2, y + _BOX / 2, text, _DETAIL, SOFT, "middle")
            return


def _vma(strips: Strips, vma: Vma, left: float, y: float) -> Iterator[Mark]:
    x, right = _x(strips, vma.start, left), _x(strips, vma.end, left)
    look = LOOKS[kind_of(vma)]
    hint = printable(f"{vma} {size_text(vma.size)}")
    yield Box(x + 1, y, right - x - 2, _BOX, look.tint, SOFT, hint=hint)
    yield from swatch(look, x + 1, y, _SPINE, _BOX)
    at, free = x + _SPINE + 4, right - x - _SPINE - 6
    name = vma.label or printable(vma.path)
    if name:
        text = shortened(name, max(1, int(free / (CELL * _NAME))))
        yield Text(at, y + _BOX / 2 - 6, text, _NAME, bold=True)
    details = ("no name", vma.permissions) if not name else ("", vma.permissions)
    for detail, line in zip(details, (-6, 7), strict=True):
        if detail and len(detail) * CELL * _DETAIL <= free:
            yield Text(at, y + _BOX / 2 + line, detail, _DETAIL, SOFT)


def _members(strips: Strips, snapshot: Snapshot, left: float, y: float) -> Iterator[Mark]:
    """Draw the members above their strip: a pin for each place, a line from one to the other."""
    pointers = _pointers(snapshot, strips.members)
    shown = [(a, names) for a, names in pointers if strips.start <= a <= strips.end]
    places = [_x(strips, address, left) for address, _ in shown]
    line = y - 6
    if len(shown) == 2:
        yield Lines((((places[0], line), (places[1], line)),), MOVED, 1.6)
    for number, ((_, names), x) in enumerate(zip(shown, places, strict=True)):
        yield Shape(((x, y - 1), (x - 3.5, y - 8), (x + 3.5, y - 8)), MOVED)
        # The lower of two has its name to the left, where the line between them is not.
        to_left = number < len(shown) - 1
        yield Text(x - 6 if to_left else x + 6, line, " = ".join(names), _DETAIL, MOVED,
                   "end" if to_left else "start")  # fmt: skip
    gone = [" = ".join(names) for a, names in pointers if not strips.start <= a <= strips.end]
    if gone:
        yield Text(_MARGIN, y + _BOX / 2 + 14, f"{', '.join(gone)} elsewhere", _DETAIL, SOFT)


def _legend(strips: Strips, top: float) -> tuple[list[Mark], float]:
    """Return the legend's marks, and the height of the whole drawing."""
    kinds = {
        kind_of(vma)
        for snapshot in strips.states.values()
        for vma in _within(snapshot, strips.start, strips.end)
    }
    x, y = _MARGIN, top + 12
    marks: list[Mark] = [Lines((((_MARGIN, top), (_MARGIN + _NAMES + _WIDTH, top)),), FAINT, 0.8)]
    for kind in (kind for kind in Kind if kind in kinds):
        marks += [Box(x, y - 6, 20, 12, LOOKS[kind].tint, SOFT)]
        marks += swatch(LOOKS[kind], x, y - 6, 9, 12)
        words = LOOKS[kind].words
        marks.append(Text(x + 26, y, words, _CAPTION, fixed=False))
        x += 40 + len(words) * CELL * _CAPTION
    marks.append(Shape(((x + 8, y + 5), (x + 3.5, y - 3), (x + 12.5, y - 3)), MOVED))
    marks.append(Text(x + 18, y, "where a member points", _CAPTION, fixed=False))
    caption = f"{strips.base} = {strips.start:#x}. A line is a page's border; low addresses left."
    if strips.origin != LIVE:
        caption += f" {mark_text(strips.origin)}."
    marks.append(Text(_MARGIN, y + 18, caption, _CAPTION, SOFT, fixed=False))
    return marks, y + 30
