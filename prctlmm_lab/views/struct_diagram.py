"""The struct of the call as a picture: 104 bytes, 14 members, and which of them belong together.

Needs the standard library for the drawing and its text twin; matplotlib only for the figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from prctlmm_lab.kernel.abi import MAP_SIZE, MEMBER, MEMBERS, Member, PrctlMmMap
from prctlmm_lab.views.areas import Kind
from prctlmm_lab.views.legend import FAINT, INK, LOOKS, MOVED, PAPER, SOFT, Look
from prctlmm_lab.views.scene import Box, Lines, Mark, Scene, Text, swatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARGIN, _TOP, _ROW = 10.0, 62.0, 33.0
_CELLS, _CELL = 48.0, 21.0
"""Where the bytes start, and how wide one is."""
_NAMES = _CELLS + 8 * _CELL + 50
_WIDTH = 640.0
_TITLE, _NAME, _DETAIL, _BYTE, _CAPTION = 13.0, 11.0, 10.0, 10.0, 10.5


class _Pair(NamedTuple):
    """Two members that bound something, and the sign of the check between them."""

    start: str
    end: str
    sign: str


_PAIRS = (
    _Pair("start_code", "end_code", "<"),
    _Pair("start_data", "end_data", "≤"),
    _Pair("start_brk", "brk", "≤"),
    _Pair("arg_start", "arg_end", "≤"),
    _Pair("env_start", "env_end", "≤"),
)
"""As since v5.2 (a9e73998f9d7): before, start_data had to be below end_data."""

_KINDS = {
    **dict.fromkeys(("start_code", "end_code"), Kind.CODE),
    **dict.fromkeys(("start_data", "end_data"), Kind.DATA),
    **dict.fromkeys(("start_brk", "brk"), Kind.HEAP),
    "start_stack": Kind.STACK,
    **dict.fromkeys(("arg_start", "arg_end", "env_start", "env_end"), Kind.ANONYMOUS),
    **dict.fromkeys(("auxv", "auxv_size", "exe_fd"), Kind.KERNEL),
}
_LEGEND = (
    (Kind.CODE, "code"),
    (Kind.DATA, "data"),
    (Kind.HEAP, "heap"),
    (Kind.STACK, "stack"),
    (Kind.ANONYMOUS, "command line, environment"),
    (Kind.KERNEL, "read by the call, not kept as it is"),
)
_READING = (
    "Offsets in bytes: those of row and column added. The lowest byte of a number comes first.",
    "A bracket: the start may not lie after its end; where it says <, they may not be equal.",
)


def draw_struct(map_: PrctlMmMap | None = None, *, before: PrctlMmMap | None = None) -> Figure:
    """Draw `struct prctl_mm_map`: offsets, bytes and meaning of its 14 members.

    With a map its bytes and values stand in the picture; with `before` too, what is different has
    another colour and its old value. Figures as those of `draw`: at most 16 by 22 cm.

    >>> int(draw_struct(PrctlMmMap()).get_figwidth() * 2.54) <= 16
    True
    """
    from prctlmm_lab.views.pictures import draw_marks

    return draw_marks(struct_scene(map_, before))


def struct_svg(map_: PrctlMmMap | None = None, *, before: PrctlMmMap | None = None) -> str:
    """Draw the same as SVG, for what follows a widget."""
    from prctlmm_lab.views.svg import scene_svg

    summary = f"struct prctl_mm_map: {MAP_SIZE} bytes, {len(MEMBERS)} members"
    return scene_svg(struct_scene(map_, before), summary)


def struct_text(map_: PrctlMmMap | None = None, *, before: PrctlMmMap | None = None) -> str:
    """Write the same as text: offset, size, name, value, meaning; one line for each member.

    >>> print(struct_text(PrctlMmMap(start_code=0x401000)).splitlines()[1])
    0x00  8  start_code   0x401000            first byte of the program's machine code
    """
    lines = ["offset, bytes, member" + (", value" if map_ else "") + ", meaning"]
    for member in MEMBERS:
        value = f"{getattr(map_, member.name):#x}" if map_ else ""
        old = _old_value(member, map_, before)
        told = f"{value:18}  " if map_ else ""
        was = f" (was {old})" if old else ""
        line = f"{member.offset:#04x}  {member.size}  {member.name:11}  {told}{member.meaning}{was}"
        lines.append(line)
    return "\n".join(lines)


def _old_value(member: Member, new: PrctlMmMap | None, before: PrctlMmMap | None) -> str:
    """Return the value that a member had, "" if it has not changed."""
    if new is None or before is None:
        return ""
    old = getattr(before, member.name)
    return "" if old == getattr(new, member.name) else f"{old:#x}"


# ---- the drawing --------------------------------------------------------------------------------


def struct_scene(map_: PrctlMmMap | None, before: PrctlMmMap | None) -> Scene:
    """Lay the picture out."""
    bottom = _TOP + len(MEMBERS) * _ROW
    legend = [*_legend(bottom + 16)]
    height = bottom + 16 + 18 * 2 + 15 * len(_READING) + 14
    marks: list[Mark] = [Box(0, 0, _WIDTH, height, PAPER)]
    marks += _heading(map_)
    for place, member in enumerate(MEMBERS):
        marks += _member(member, _TOP + place * _ROW, map_, _old_value(member, map_, before))
    for pair in _PAIRS:
        marks += _bracket(pair)
    return Scene(_WIDTH, height, (*marks, *legend))


def _heading(map_: PrctlMmMap | None) -> Iterator[Mark]:
    title = f"struct prctl_mm_map: {MAP_SIZE} bytes, {len(MEMBERS)} members"
    yield Text(_MARGIN, _MARGIN + 7, title, _TITLE, bold=True, fixed=False)
    yield Text(_CELLS - 8, _TOP - 14, "offset", _DETAIL, SOFT, "end", fixed=False)
    for byte in range(8):
        x = _CELLS + (byte + 0.5) * _CELL
        yield Text(x, _TOP - 14, f"+{byte}", _DETAIL, SOFT, "middle")
    words = "member, its value, what it says" if map_ else "member, what it says"
    yield Text(_NAMES, _TOP - 14, words, _DETAIL, SOFT, fixed=False)


def _member(member: Member, y: float, map_: PrctlMmMap | None, old: str) -> Iterator[Mark]:
    look, middle = LOOKS[_KINDS[member.name]], y + _ROW / 2
    rules = ((_MARGIN, _CELLS + 8 * _CELL), (_NAMES, _WIDTH - _MARGIN))
    yield Lines(tuple(((left, y), (right, y)) for left, right in rules), FAINT, 0.5)
    yield Text(_CELLS - 8, middle, f"{member.offset & ~7:#04x}", _DETAIL, SOFT, "end")
    yield from _bytes(member, y + 3, look, map_, old)
    name, colour = Text(_NAMES, y + 11, member.name, _NAME, INK, bold=True), MOVED if old else INK
    yield name
    if map_ is not None:
        value = f"{getattr(map_, member.name):#x}" + (f"  was {old}" if old else "")
        yield Text(_NAMES + 86, y + 11, value, _NAME, colour)
    yield Text(_NAMES, y + 24, member.meaning, _DETAIL, SOFT, fixed=False)


def _bytes(
    member: Member, y: float, look: Look, map_: PrctlMmMap | None, old: str
) -> Iterator[Mark]:
    """Draw the bytes of a member at their places in a word of eight."""
    first, height = member.offset % 8, _ROW - 6
    x, width = _CELLS + first * _CELL, member.size * _CELL
    yield Box(x, y, width, height, look.tint, SOFT)
    yield from swatch(look, x, y + height - 5, width, 5)
    data = b"" if map_ is None else map_.pack()[member.offset : member.offset + member.size]
    edges = [x + byte * _CELL for byte in range(1, member.size)]
    yield Lines(tuple(((at, y), (at, y + height)) for at in edges), FAINT, 0.5)
    yield Box(x, y, width, height, "none", MOVED if old else SOFT)
    for byte, value in enumerate(data):
        at = x + (byte + 0.5) * _CELL
        colour = MOVED if old else (INK if value else SOFT)
        yield Text(at, y + (height - 5) / 2, f"{value:02x}", _BYTE, colour, "middle")


def _bracket(pair: _Pair) -> Iterator[Mark]:
    """Join the two members of a pair, with the sign of their check."""
    places = [MEMBERS.index(MEMBER[name]) for name in (pair.start, pair.end)]
    top, bottom = (_TOP + place * _ROW + _ROW / 2 for place in places)
    left = _CELLS + 8 * _CELL + 6
    right = left + 10
    yield Lines((((left, top), (right, top), (right, bottom), (left, bottom)),), SOFT, 1.0)
    yield Text(right + 12, (top + bottom) / 2, pair.sign, _TITLE, INK, "middle", bold=True)


def _legend(y: float) -> Iterator[Mark]:
    yield Lines((((_MARGIN, y - 12), (_WIDTH - _MARGIN, y - 12)),), FAINT, 0.8)
    for place, (kind, words) in enumerate(_LEGEND):
        row, column = divmod(place, 4)
        x, at = _MARGIN + (0, 110, 220, 330)[column], y + 18 * row
        if row:
            x = _MARGIN + (0, 220)[column]
        yield from swatch(LOOKS[kind], x, at - 6, 14, 12)
        yield Text(x + 20, at, words, _CAPTION, INK, fixed=False)
    for place, line in enumerate(_READING):
        yield Text(_MARGIN, y + 18 * 2 + 4 + 15 * place, line, _CAPTION, SOFT, fixed=False)
