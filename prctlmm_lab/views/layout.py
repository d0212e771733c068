"""The picture of an address space as pure geometry: snapshots in, tiles, flags and zooms out.

An address space is drawn as an ordered list of tiles, not as an axis: a gap of 127 TiB and a page
of 4 KiB stand side by side. The tiles cover 0 to 2**64 without a hole, so every address has its
place, also one that points nowhere. Within a tile the scale is linear.

Units: addresses and sizes are bytes, ends are exclusive. Heights are rows (one row is the height
of one line of text) and grow upwards, as the addresses do: high addresses up.
"""

from __future__ import annotations

import math
import textwrap
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from prctlmm_lab.kernel.abi import ADDRESSES, MEMBER, check_member, unknown_member
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot, Stat, Unreadable, Vma
from prctlmm_lab.views.areas import EMPTY, TOP, Kind, Piece, all_pieces
from prctlmm_lab.words import printable, shortened, size_text

RANGES: tuple[tuple[str, str, str], ...] = (
    ("code", "start_code", "end_code"),
    ("data", "start_data", "end_data"),
    ("heap", "start_brk", "brk"),
    ("command line", "arg_start", "arg_end"),
    ("environment", "env_start", "env_end"),
)
"""What lies between two members: its name, the member where it starts, the one where it ends."""

APART = 0.35
"""Rows between two places that the eye still tells apart."""
CROWD = 3
"""So many places that cannot be told apart are magnified; two are told apart by their labels."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A piece of the address space with one linear scale, shared by all columns."""

    start: int
    end: int
    bottom: float
    top: float

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.end

    def place(self, address: int) -> float:
        """Return the height of an address of this tile, in rows."""
        fraction = (address - self.start) / (self.end - self.start)
        return self.bottom + fraction * (self.top - self.bottom)


@dataclass(frozen=True, slots=True)
class Area:
    """What one column shows over one or more whole tiles: a VMA, several, or a gap."""

    start: int
    end: int
    bottom: float
    top: float
    kind: Kind
    name: str
    """The last part of the path, the kernel's label, or what it is; safe to print."""
    permissions: str
    """As in maps, or "" where there is more than one VMA or none."""
    vmas: tuple[Vma, ...]

    @property
    def size(self) -> int:
        """Bytes from start to end."""
        return self.end - self.start

    @property
    def count(self) -> str:
        """How many VMAs, where the area stands for more than one: "5 VMAs", else ""."""
        return f"{len(self.vmas)} VMAs" if self.kind in (Kind.GROUP, Kind.FOLD) else ""

    @property
    def path(self) -> str:
        """The whole path of a mapped file, or ""; safe to print."""
        file = self.kind in (Kind.GROUP, Kind.FILE, Kind.CODE, Kind.DATA, Kind.RESERVED)
        return printable(self.vmas[0].path) if file else ""


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes between a start member and its end member, such as the heap's."""

    name: str
    start: int
    end: int
    bottom: float
    top: float
    lane: int
    """0 or more: spans that overlap lie in different lanes."""


@dataclass(frozen=True, slots=True)
class Column:
    """One state of the process: its areas from low to high addresses, and its spans."""

    heading: str
    areas: tuple[Area, ...]
    spans: tuple[Span, ...]
    places: tuple[tuple[str, float], ...]
    """Each known member and its height."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One address that members hold, or held before, and where it is drawn."""

    address: int
    members: tuple[str, ...]
    """The members that hold it now, in the order of the struct."""
    moved: tuple[tuple[str, int], ...]
    """Those of them that held another address before, with that address."""
    departed: tuple[str, ...]
    """The members that held it before and hold another now."""
    at: float
    """Its true height."""
    label_at: float | None
    """The height of the middle of its label; None if the label stands in a zoom or there is none.
    """
    names: tuple[str, ...]
    """The lines of the label: "arg_end = env_start"."""
    remarks: tuple[str, ...]
    """More lines: where its members came from."""

    @property
    def rows(self) -> int:
        """Lines of the label."""
        return max(1, len(self.names) + len(self.remarks))


@dataclass(frozen=True, slots=True)
class Move:
    """A member that changed its address: from the old column's place to the new one's."""

    member: str
    old: int
    new: int
    old_at: float
    new_at: float
    tag_at: float
    """The height of the name beside the old place; names do not overlap."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a zoom between two neighbouring borders."""

    start: int
    end: int
    bottom: float
    top: float
    kind: Kind
    label_at: float
    """The height of the middle of its label, between those of its borders."""
    name: str
    """The ranges it belongs to ("command line"), or ""."""

    @property
    def size(self) -> int:
        """Bytes from start to end."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Zoom:
    """A few whole pages magnified, where flags crowd; a flag may stand at its exclusive end.

    Segments are an ordered list, not an axis, as the tiles are.
    """

    start: int
    end: int
    bottom: float
    top: float
    """The box with its heading; the segments fill it but for the margins."""
    low_at: float
    high_at: float
    """The heights in the tiles of the first and the last flag."""
    segments: tuple[Segment, ...]
    flags: tuple[Flag, ...]
    """The crowded flags; here `at` and `label_at` are heights in this box."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A picture of an address space: where everything is drawn, in rows from the bottom."""

    title: str
    notes: tuple[str, ...]
    """What the reader must know: parts that could not be read, or where it was recorded."""
    tiles: tuple[Tile, ...]
    """From low to high addresses; they cover 0 to 2**64."""
    columns: tuple[Column, ...]
    """One, or before and after."""
    flags: tuple[Flag, ...]
    """From low to high addresses, those in zooms too."""
    zooms: tuple[Zoom, ...]
    moves: tuple[Move, ...]
    height: float

    def tile_at(self, address: int) -> Tile:
        """Return the tile that holds an address from 0 to 2**64 - 1."""
        return _tile_at(self.tiles, address)


def layout(
    snapshot: Snapshot,
    *,
    before: Snapshot | None = None,
    draft: Mapping[str, int] | None = None,
    facts: Facts | None = None,
    note: str = "",
) -> Layout:
    """Lay out the picture of an address space.

    With `before` there are two columns over the same tiles, before and after. `draft` gives new
    values to some of the 11 addresses, wherever they may point; without `before` the first column
    is then the process as it is. Drafts do not change the tiles, so that a picture stays still
    while a value is edited. With `facts` the addresses that the call never accepts are marked.
    `note` is shown with the picture.

    >>> from prctlmm_lab.kernel.procfs import read_snapshot
    >>> picture = layout(read_snapshot(), draft={"brk": 0})
    >>> [tile.start for tile in picture.tiles][0], picture.tiles[-1].end == 2**64
    (0, True)

    Equivalent: `cat /proc/PID/maps` beside fields 26 to 28 and 45 to 51 of `/proc/PID/stat`.

    Raises InputError for a draft of an unknown member or a value that is no 64-bit address.
    """
    old = before or (snapshot if draft is not None else None)
    states = (old, snapshot) if old else (snapshot,)
    members = {**snapshot.members, **_addresses_of(draft or {})}
    old_members = old.members if old else members
    standing = {address for state in states for address in state.members.values()}

    pieces = all_pieces(states, standing, facts)
    tiles = _tiles(pieces, facts.page_size if facts else 4096)
    flags = _flags(tiles, members, old_members, names_room(old is not None))
    crowds = _crowds(flags)
    blocks = [_zoom(crowd, tiles, pieces[-1], members) for crowd in crowds]
    crowded = {flag.address for crowd in crowds for flag in crowd}
    single = [flag for flag in flags if flag.address not in crowded and flag.members]
    moved = [(old_members[n], n) for n in members if old_members.get(n, members[n]) != members[n]]

    room = sum(b.top for b in blocks) + sum(f.rows + _AIR for f in single) + _ZOOM_AIR * len(blocks)
    height = max(tiles[-1].top, room, _TAG * len(moved))
    tiles = _stretched(tiles, height)
    placed, zooms = _labelled(flags, single, blocks, tiles, height)
    headings = _headings(before is not None, draft is not None)
    every_members = (old_members, members) if old else (members,)
    return Layout(
        title=_title(snapshot),
        notes=(*_notes(states), *([printable(note)] if note else [])),
        tiles=tiles,
        columns=tuple(
            _column(heading, column, tiles, values)
            for heading, column, values in zip(headings, pieces, every_members, strict=True)
        ),
        flags=placed,
        zooms=zooms,
        moves=_moves(sorted(moved, key=lambda m: m[0]), members, tiles, height),
        height=height,
    )


# ---- tiles: where things stand -----------------------------------------------------------------

_GAP_ROWS, _KERNEL_ROWS, _FOLD_ROWS = 1.45, 1.25, 2.3
_LEAST_ROWS, _MOST_ROWS, _ROWS_PER_DOUBLING = 2.1, 3.9, 0.2
_AIR, _ZOOM_AIR = 0.2, 0.8
"""Rows between two labels, and between a zoom and its neighbours."""
_TAG = 0.95
"""Rows of the name beside an old place."""


def _tiles(columns: list[list[Piece]], page: int) -> tuple[Tile, ...]:
    borders = sorted({piece.start for pieces in columns for piece in pieces})
    tiles: list[Tile] = []
    bottom = 0.0
    positions = [0] * len(columns)
    for start, end in pairwise([*borders, TOP]):
        kinds = set()
        for i, pieces in enumerate(columns):
            while pieces[positions[i]].end <= start:
                positions[i] += 1
            kinds.add(pieces[positions[i]].kind)
        top = bottom + _rows(kinds, (end - start) / page)
        tiles.append(Tile(start, end, bottom, top))
        bottom = top
    return tuple(tiles)


def _rows(kinds: set[Kind], pages: float) -> float:
    mapped = kinds - EMPTY
    if not mapped:
        return _GAP_ROWS
    if mapped == {Kind.KERNEL}:
        return _KERNEL_ROWS
    if mapped == {Kind.FOLD}:
        return _FOLD_ROWS
    return min(_LEAST_ROWS + _ROWS_PER_DOUBLING * math.log2(max(1.0, pages)), _MOST_ROWS)


def _stretched(tiles: tuple[Tile, ...], height: float) -> tuple[Tile, ...]:
    factor = height / tiles[-1].top
    if factor == 1:
        return tiles
    return tuple(
        replace(tile, bottom=tile.bottom * factor, top=tile.top * factor) for tile in tiles
    )


def _tile_at(tiles: Sequence[Tile], address: int) -> Tile:
    return tiles[bisect_right(tiles, address, key=lambda tile: tile.start) - 1]


def _place(tiles: Sequence[Tile], address: int) -> float:
    return _tile_at(tiles, address).place(address)


def _column(
    heading: str, pieces: list[Piece], tiles: tuple[Tile, ...], members: Mapping[str, int]
) -> Column:
    bottoms = {tile.start: tile.bottom for tile in tiles}
    tops = {tile.end: tile.top for tile in tiles}
    areas = tuple(Area(p[0], p[1], bottoms[p[0]], tops[p[1]], *p[2:]) for p in pieces)
    places = tuple((name, _place(tiles, address)) for name, address in members.items())
    return Column(heading, areas, _spans(members, dict(places)), places)


def _spans(members: Mapping[str, int], places: Mapping[str, float]) -> tuple[Span, ...]:
    known = [r for r in RANGES if members.get(r[1], 0) < members.get(r[2], 0) and r[1] in members]
    spans: list[Span] = []
    lanes: list[float] = []
    for name, first, last in sorted(known, key=lambda r: members[r[1]]):
        bottom, top = places[first], places[last]
        lane = next((i for i, used in enumerate(lanes) if used <= bottom), len(lanes))
        lanes[lane : lane + 1] = [top]
        spans.append(Span(name, members[first], members[last], bottom, top, lane))
    return tuple(spans)


# ---- flags, zooms and moves --------------------------------------------------------------------


def _addresses_of(draft: Mapping[str, int]) -> dict[str, int]:
    """Return the draft's addresses; the other three members have no place in the picture."""
    for name, value in draft.items():
        if name not in MEMBER:
            raise unknown_member(name, "draft")
        check_member(name, value)
    return {name: draft[name] for name in ADDRESSES if name in draft}


def _flags(
    tiles: Sequence[Tile], members: Mapping[str, int], old: Mapping[str, int], room: int
) -> list[Flag]:
    holders: dict[int, list[str]] = {}
    leavers: dict[int, list[str]] = {}
    for name in ADDRESSES:
        if name not in members:
            continue
        holders.setdefault(members[name], []).append(name)
        if old.get(name, members[name]) != members[name]:
            leavers.setdefault(old[name], []).append(name)
    flags = []
    for address in sorted({*holders, *leavers}):
        here, gone = holders.get(address, []), leavers.get(address, [])
        moved = tuple((n, old[n]) for n in here if old.get(n, address) != address)
        at, names = _place(tiles, address), _wrapped(here, room)
        remarks = _remarks(here, moved, address)
        flags.append(Flag(address, tuple(here), moved, tuple(gone), at, None, names, remarks))
    return flags


def names_room(has_two_columns: bool) -> int:
    """Return how many characters a label's line of names has at least."""
    return len("start_stack =") if has_two_columns else len("arg_end = env_start")


def _wrapped(names: Sequence[str], room: int) -> tuple[str, ...]:
    """Join names with "=", in lines that end in "=" where they go on."""
    lines: list[str] = []
    for name in names:
        if lines and len(f"{lines[-1]} = {name}") <= room:
            lines[-1] += f" = {name}"
        elif lines:
            lines[-1] += " ="
            lines.append(name)
        else:
            lines.append(name)
    return tuple(lines)


def _remarks(
    here: Sequence[str], moved: Sequence[tuple[str, int]], address: int
) -> tuple[str, ...]:
    origins = {old for _, old in moved}
    if len(moved) == len(here) and len(origins) == 1:
        old = origins.pop()
        return (f"was {old:#x}, {'+' if address > old else '-'}{size_text(abs(address - old))}",)
    return tuple(f"{name} was {old:#x}" for name, old in moved)


def _crowds(flags: Sequence[Flag]) -> list[list[Flag]]:
    """Return the runs of flags that are too close together to be told apart."""
    runs: list[list[Flag]] = []
    for flag in flags:
        if runs and flag.at - runs[-1][-1].at < APART:
            runs[-1].append(flag)
        else:
            runs.append([flag])
    return [run for run in runs if len(run) >= CROWD]


_ZOOM_HEAD, _ZOOM_FOOT = 1.75, 0.75
_SEGMENT_ROWS, _SEGMENT_PER_DOUBLING = 1.0, 0.05
_PAGE = 4096


def _zoom(
    crowd: Sequence[Flag],
    tiles: Sequence[Tile],
    pieces: Sequence[Piece],
    members: Mapping[str, int],
) -> Zoom:
    """Magnify the pages that a crowd of flags lies in; its box stands at height 0."""
    start = crowd[0].address // _PAGE * _PAGE
    end = -(-crowd[-1].address // _PAGE) * _PAGE
    flags = {flag.address: _with_departed(flag) for flag in crowd}
    inner = [tile.start for tile in tiles if start < tile.start < end]
    borders = sorted({start, end, *inner, *flags})
    rows = {border: flags[border].rows if border in flags else 1 for border in borders}
    heights = {start: _ZOOM_FOOT + (rows[start] - 1) / 2}
    segments = []
    for low, high in pairwise(borders):
        log = _SEGMENT_PER_DOUBLING * math.log2(high - low)
        heights[high] = heights[low] + (rows[low] + rows[high]) / 2 + _SEGMENT_ROWS + log
        piece = pieces[bisect_right(pieces, low, key=lambda p: p.start) - 1]
        name = _covering(low, high, members)
        middle = (heights[low] + rows[low] / 2 + heights[high] - rows[high] / 2) / 2
        segments.append(Segment(low, high, heights[low], heights[high], piece.kind, middle, name))
    return Zoom(
        start, end, 0.0, heights[end] + (rows[end] - 1) / 2 + _ZOOM_HEAD,
        crowd[0].at, crowd[-1].at, tuple(segments),
        tuple(replace(f, at=heights[a], label_at=heights[a]) for a, f in flags.items()),
    )  # fmt: skip


def _with_departed(flag: Flag) -> Flag:
    gone = [f"was {name}" for name in flag.departed]
    return replace(flag, remarks=(*flag.remarks, *gone))


def _covering(low: int, high: int, members: Mapping[str, int]) -> str:
    names = [
        name
        for name, first, last in RANGES
        if first in members and last in members and members[first] <= low < high <= members[last]
    ]
    return ", ".join(names)


def _labelled(
    flags: list[Flag],
    single: list[Flag],
    blocks: list[Zoom],
    tiles: tuple[Tile, ...],
    height: float,
) -> tuple[tuple[Flag, ...], tuple[Zoom, ...]]:
    """Give the labels and the zooms, all in one column, their heights."""
    at = {flag.address: _place(tiles, flag.address) for flag in flags}
    items: list[Flag | Zoom] = [*single, *blocks]
    items.sort(key=lambda item: item.address if isinstance(item, Flag) else item.flags[0].address)
    wanted = [
        at[item.address]
        if isinstance(item, Flag)
        else (at[item.flags[0].address] + at[item.flags[-1].address]) / 2
        for item in items
    ]
    room = [item.rows + _AIR if isinstance(item, Flag) else item.top + _ZOOM_AIR for item in items]
    labels: dict[int, float] = {}
    zooms = []
    for item, middle in zip(items, spread(wanted, room, height), strict=True):
        if isinstance(item, Flag):
            labels[item.address] = middle
        else:
            ends = at[item.flags[0].address], at[item.flags[-1].address]
            zooms.append(_lifted(item, middle - item.top / 2, *ends))
    placed = (replace(f, at=at[f.address], label_at=labels.get(f.address)) for f in flags)
    return tuple(placed), tuple(zooms)


def _lifted(zoom: Zoom, by: float, low_at: float, high_at: float) -> Zoom:
    return replace(
        zoom,
        bottom=zoom.bottom + by,
        top=zoom.top + by,
        low_at=low_at,
        high_at=high_at,
        segments=tuple(
            replace(s, bottom=s.bottom + by, top=s.top + by, label_at=s.label_at + by)
            for s in zoom.segments
        ),
        flags=tuple(replace(f, at=f.at + by, label_at=f.at + by) for f in zoom.flags),
    )


def spread(wanted: Sequence[float], room: Sequence[float], height: float) -> list[float]:
    """Move labels apart as little as possible, so that none overlaps and all stay in order.

    `wanted` are the middles in ascending order, `room` the heights, all between 0 and `height`.
    The sum of the squared moves is the least there is (isotonic regression).

    >>> spread([1.0, 1.0], [1.0, 1.0], 9.0)
    [0.5, 1.5]
    """
    offsets, offset = [], 0.0
    for size in room:
        offsets.append(offset + size / 2)
        offset += size
    pools: list[list[float]] = []  # sum and count of neighbours that push each other
    for want, base in zip(wanted, offsets, strict=True):
        pools.append([want - base, 1.0])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] > pools[-1][0] * pools[-2][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    shifts = [total / count for total, count in pools for _ in range(int(count))]
    most = max(0.0, height - offset)
    return [base + min(max(s, 0.0), most) for base, s in zip(offsets, shifts, strict=True)]


def _moves(
    moved: Sequence[tuple[int, str]],
    members: Mapping[str, int],
    tiles: Sequence[Tile],
    height: float,
) -> tuple[Move, ...]:
    places = [_place(tiles, old) for old, _ in moved]
    tags = spread(places, [_TAG] * len(moved), height)
    return tuple(
        Move(name, old, members[name], at, _place(tiles, members[name]), tag)
        for (old, name), at, tag in zip(moved, places, tags, strict=True)
    )


# ---- words -------------------------------------------------------------------------------------


def _headings(has_before: bool, has_draft: bool) -> tuple[str, ...]:
    if has_draft:
        return ("before" if has_before else "now", "draft")
    return ("before", "after") if has_before else ("",)


def _title(snapshot: Snapshot) -> str:
    name = f"{printable(snapshot.stat.comm)}, " if isinstance(snapshot.stat, Stat) else ""
    return f"Address space of {name}pid {snapshot.pid}"


def _notes(states: Iterable[Snapshot]) -> list[str]:
    notes: dict[str, None] = {}
    for state in states:
        for part in (state.maps, state.stat):
            if isinstance(part, Unreadable):
                notes[f"{printable(part.path)} is {part}"] = None
        if isinstance(state.stat, Stat) and _hidden(state.stat.members):
            notes[_STAND_INS] = None
    return list(notes)


_STAND_INS = "no permission to trace it: the kernel shows 0 and 1 in place of the members"


def _hidden(members: Mapping[str, int]) -> bool:
    """Tell the kernel's stand-ins from values: 1 for the code's bounds, 0 for the rest."""
    return all(value == (name in ("start_code", "end_code")) for name, value in members.items())


def describe(layout: Layout) -> str:
    """Write the picture as plain text, at most 80 columns, high addresses up.

    Each area has its range (end exclusive), permissions, size and name; below it stand the flags in
    it, and where their members came from. A name that is too long loses its middle.

    Equivalent: `tac /proc/PID/maps`, with the members where they point.
    """
    head = [f"{layout.title}. High addresses up, ends exclusive."]
    head += [f"Note: {note}." for note in layout.notes]
    lines = [shortened(line, 80) for text in head for line in textwrap.wrap(text, 80)]
    waiting = list(layout.flags)
    for tile in reversed(layout.tiles):
        lines += _tile_lines(layout, tile)
        while waiting and waiting[-1].address >= tile.start:
            lines += _flag_lines(waiting.pop())
    return "\n".join(lines)


def _tile_lines(layout: Layout, tile: Tile) -> list[str]:
    extent = f"{tile.start:#x}-{tile.end:#x}"
    areas = [_area_of(column, tile) for column in layout.columns]
    texts = [_area_text(area) for area in areas]
    size = size_text(tile.end - tile.start)
    if len(set(texts)) == 1:
        return [shortened(f"{extent:37} {size:>9} {texts[0]}", 80).rstrip()]
    return [
        f"{extent:37} {size:>9}",
        *(
            shortened(f"{'':38}{column.heading:>9} {text}", 80)
            for column, text in zip(layout.columns, texts, strict=True)
        ),
    ]


def _area_of(column: Column, tile: Tile) -> Area:
    return column.areas[bisect_right(column.areas, tile.start, key=lambda a: a.start) - 1]


def _area_text(area: Area) -> str:
    if area.kind in EMPTY:
        return f"~ {area.name}"
    return " ".join(filter(None, (area.permissions, area.name, area.count and f"· {area.count}")))


def _flag_lines(flag: Flag) -> list[str]:
    if not flag.members:
        return [f"    {flag.address:>#18x} (was {name})" for name in flag.departed]
    origins = dict(flag.moved)
    lines = []
    for position, name in enumerate(flag.members):
        address = f"{flag.address:#x}" if position == 0 else "="
        was = f"   was {origins[name]:#x}" if name in origins else ""
        lines.append(f"    {address:>18} {name}{was}")
    lines += [f"    {'':18} (was {name})" for name in flag.departed]
    return lines
