"""What lies in an address space, cut into the pieces that a picture shows.

Touching VMAs of one file become one piece, and where there are more pieces than a page has room
for, runs of them are folded; what a member points into always stays by itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import KERNEL_PAGES, Snapshot, Unreadable, Vma
from prctlmm_lab.words import printable

TOP = 1 << 64
"""The exclusive end of all addresses."""

MOST_TILES = 26
"""More tiles than this are folded: a page of a book has no room for more."""


class Kind(Enum):
    """What an area is, which decides over its colour and pattern (see `legend`)."""

    CODE = "executable"
    FILE = "file, read-only"
    DATA = "file, writable"
    HEAP = "[heap]"
    STACK = "[stack]"
    ANONYMOUS = "anonymous memory"
    RESERVED = "no access (---)"
    KERNEL = "page of the kernel"
    GROUP = "VMAs of one file"
    FOLD = "many areas, folded"
    GAP = "nothing mapped"
    REFUSED = "no member may point here"
    UNKNOWN = "not readable"


EMPTY = frozenset({Kind.GAP, Kind.REFUSED})
"""What is not mapped."""


class Piece(NamedTuple):
    """A part of the address space and what is there; it has no place in a picture yet."""

    start: int
    end: int
    kind: Kind
    name: str
    permissions: str
    vmas: tuple[Vma, ...]

    def looks_like(self, other: Piece) -> bool:
        """Tell whether the other would be drawn the same."""
        return self[:5] == other[:5]


def all_pieces(
    states: Sequence[Snapshot], standing: set[int], facts: Facts | None
) -> list[list[Piece]]:
    """Cut 0 to 2**64 into the pieces that a picture shows, one list for each state.

    `standing` are the addresses that members hold: what they point into is neither grouped nor
    folded.
    """
    marks = sorted(standing)
    holding = {
        vma.path for state in states for vma in state.vmas if vma.path and _any_in(marks, vma)
    }
    return _folded([_pieces(state, holding, facts) for state in states], marks)


def _any_in(marks: Sequence[int], what: Vma | Piece | _Block) -> bool:
    position = bisect_left(marks, what.start)
    return position < len(marks) and marks[position] < what.end


def _pieces(snapshot: Snapshot, holding: set[str], facts: Facts | None) -> list[Piece]:
    """Cut 0 to 2**64 into VMAs, groups of VMAs of one file, and what is between."""
    if isinstance(snapshot.maps, Unreadable):
        name = str(snapshot.maps)
        return [
            piece._replace(kind=Kind.UNKNOWN, name=name) if piece.kind is Kind.GAP else piece
            for piece in _between(0, TOP, facts)
        ]
    pieces: list[Piece] = []
    end = 0
    for group in _groups(snapshot.vmas, holding):
        start, stop = max(group[0].start, end), min(group[-1].end, TOP)
        if start >= stop:  # maps read while the process changed them may tell a place twice
            continue
        pieces += _between(end, start, facts)
        end = stop
        pieces.append(_mapped(start, end, group))
    return pieces + _between(end, TOP, facts)


def _between(start: int, end: int, facts: Facts | None) -> list[Piece]:
    low, high = (facts.lowest, facts.highest + 1) if facts else (0, TOP)
    borders = [start, *(b for b in (low, high) if start < b < end), end]
    kinds = [Kind.GAP if low <= a < high else Kind.REFUSED for a in borders]
    return [
        Piece(a, b, kind, kind.value, "", ())
        for (a, b), kind in zip(pairwise(borders), kinds, strict=False)
        if a < b
    ]


def _groups(vmas: Sequence[Vma], holding: set[str]) -> list[tuple[Vma, ...]]:
    """Join touching VMAs of one file, unless a member points into a VMA of that file."""
    groups: list[list[Vma]] = []
    for vma in vmas:
        last = groups[-1] if groups else []
        joins = (
            bool(last)
            and bool(vma.path)
            and vma.path not in holding
            and last[-1].end == vma.start
            and (last[0].path, last[0].inode) == (vma.path, vma.inode)
        )
        if joins:
            last.append(vma)
        else:
            groups.append([vma])
    return [tuple(group) for group in groups]


def _mapped(start: int, end: int, group: tuple[Vma, ...]) -> Piece:
    first = group[0]
    if len(group) > 1:
        return Piece(start, end, Kind.GROUP, _name(first), "", group)
    return Piece(start, end, kind_of(first), _name(first), first.permissions, group)


def kind_of(vma: Vma) -> Kind:
    """Return what a VMA is: the kernel's label first, then its permissions, then its file."""
    by_label = {"[heap]": Kind.HEAP, "[stack]": Kind.STACK}
    if vma.label in by_label:
        return by_label[vma.label]
    if vma.label in KERNEL_PAGES:
        return Kind.KERNEL
    if vma.permissions.startswith("---"):
        return Kind.RESERVED
    if "x" in vma.permissions:
        return Kind.CODE
    if not vma.path:
        return Kind.ANONYMOUS
    return Kind.DATA if "w" in vma.permissions else Kind.FILE


def _name(vma: Vma) -> str:
    if vma.path.startswith("/memfd:"):  # always without a name in the file system
        return printable(vma.path.removeprefix("/memfd:")) or "(memory file)"
    base = vma.path.rstrip("/").rpartition("/")[2] or vma.path
    deleted = " (deleted)" if vma.deleted else ""
    return printable(vma.label or base + deleted) or "anonymous"


class _Block(NamedTuple):
    """The smallest part of the address space whose two borders all columns share."""

    start: int
    end: int
    columns: tuple[list[Piece], ...]

    @property
    def is_empty(self) -> bool:
        return all(piece.kind in EMPTY for pieces in self.columns for piece in pieces)

    @property
    def differs(self) -> bool:
        first, last = self.columns[0], self.columns[-1]
        return len(first) != len(last) or not all(
            a.looks_like(b) for a, b in zip(first, last, strict=True)
        )


class _Folding(NamedTuple):
    """How much to fold: what is kept in sight beside the areas that members point into."""

    largest: int
    """So many areas: the C library first, then the largest files, then the largest others."""
    gap: int
    """Gaps of this size and more."""
    telling: bool
    """Areas with a label of the kernel's, and those that differ between the columns."""


_GIB = 1 << 30
_FOLDINGS = (
    _Folding(8, _GIB, True),
    _Folding(6, _GIB, True),
    _Folding(4, _GIB, True),
    _Folding(3, _GIB, True),
    _Folding(2, _GIB, True),
    _Folding(1, _GIB, True),
    _Folding(0, _GIB, True),
    _Folding(0, TOP, True),
    _Folding(0, TOP, False),
)
_TELLING = frozenset({Kind.HEAP, Kind.STACK, Kind.KERNEL, Kind.REFUSED, Kind.UNKNOWN})


def _folded(columns: list[list[Piece]], marks: Sequence[int]) -> list[list[Piece]]:
    """Fold runs of areas that no member points into, as little as brings the tiles to a page."""
    if _count(columns) <= MOST_TILES:
        return columns
    blocks = _blocks(columns)
    result = columns
    for folding in _FOLDINGS:
        result = _fold(blocks, folding, marks, len(columns))
        if _count(result) <= MOST_TILES:
            break
    return result


def _count(columns: list[list[Piece]]) -> int:
    return len({piece.start for pieces in columns for piece in pieces})


def _blocks(columns: list[list[Piece]]) -> list[_Block]:
    shared = set.intersection(*({piece.start for piece in pieces} for pieces in columns))
    borders = [*sorted(shared), TOP]
    starts = [[piece.start for piece in pieces] for pieces in columns]
    return [
        _Block(
            low,
            high,
            tuple(
                pieces[bisect_left(begin, low) : bisect_left(begin, high)]
                for pieces, begin in zip(columns, starts, strict=True)
            ),
        )
        for low, high in pairwise(borders)
    ]


def _fold(
    blocks: list[_Block], folding: _Folding, marks: Sequence[int], columns: int
) -> list[list[Piece]]:
    ranks = sorted((_rank(block) for block in blocks if not block.is_empty), reverse=True)
    kept = {start for *_, start in ranks[: folding.largest]}
    result: list[list[Piece]] = [[] for _ in range(columns)]
    run: list[_Block] = []
    for block in [*blocks, None]:
        if block is not None and _may_fold(block, folding, marks, kept):
            run.append(block)
            continue
        for whole in (*_one_of(run), *([block] if block else [])):
            for pieces, more in zip(result, whole.columns, strict=True):
                pieces += more
        run = []
    return result


def _rank(block: _Block) -> tuple[bool, bool, int, int]:
    """Order areas by what a reader looks for; the last part is where the area starts."""
    first = block.columns[-1][0]
    is_file = first.kind is Kind.GROUP
    is_libc = is_file and first.name.startswith(("libc.so", "libc-", "ld-musl"))
    return is_libc, is_file, block.end - block.start, block.start


def _may_fold(block: _Block, folding: _Folding, marks: Sequence[int], kept: set[int]) -> bool:
    if block.start in kept or _any_in(marks, block):
        return False
    if folding.telling:
        kinds = {piece.kind for pieces in block.columns for piece in pieces}
        if kinds & _TELLING or block.differs:
            return False
    return not block.is_empty or block.end - block.start < folding.gap


def _one_of(run: list[_Block]) -> list[_Block]:
    """Return the run with all between its first and its last mapped block made one."""
    mapped = [i for i, block in enumerate(run) if not block.is_empty]
    if len(mapped) < 2:
        return run
    first, last = mapped[0], mapped[-1]
    inner = run[first : last + 1]
    columns = tuple(
        [_fold_piece([piece for block in inner for piece in block.columns[i]])]
        for i in range(len(inner[0].columns))
    )
    return [*run[:first], _Block(inner[0].start, inner[-1].end, columns), *run[last + 1 :]]


def _fold_piece(pieces: list[Piece]) -> Piece:
    vmas = tuple(vma for piece in pieces for vma in piece.vmas)
    files = len({(vma.path, vma.inode) for vma in vmas if vma.path})
    name = f"{files} file{'s' * (files != 1)}" if files else "anonymous"
    return Piece(pieces[0].start, pieces[-1].end, Kind.FOLD, name, "", vmas)
