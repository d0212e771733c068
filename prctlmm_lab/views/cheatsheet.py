"""The cheat sheet: one page of A4 with what the lab knows of the call, made from its own tables.

Members, rules and changes come from `kernel.abi`, `kernel.rules` and `kernel.releases`; only the
places of /proc with who may read them, and the two programs, stand here. Needs matplotlib, which
is imported on use.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from prctlmm_lab.kernel.abi import ADDRESSES, MAP_SIZE, MEMBER, MEMBERS, NO_EXE
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.releases import CHANGES, INTRODUCED, NEWEST, Change, facts_on
from prctlmm_lab.kernel.rules import RULES, Rule, errno_name
from prctlmm_lab.views.legend import FAINT, INK, PAPER, SHADE, SOFT
from prctlmm_lab.views.pictures import draw_marks, picture_class
from prctlmm_lab.views.scene import Box, Lines, Mark, Scene, Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 210.0, 297.0
"""A4 in millimetres, the unit of everything here; type sizes are given in points."""
POINT = 25.4 / 72
SMALLEST = 6.5
"""Points of the smallest type: legible at arm's length."""
_SIZES = tuple(tenths / 10 for tenths in range(72, 64, -1))
"""Sizes that are tried, the largest first: the page takes as large a type as it has room for."""
_SHARES = (0.5, 0.48, 0.46, 0.44)
"""Shares of the right column that are tried."""
_HEAD, _TITLE = 8.5, 13.0
_MARGIN, _GUTTER, _PADDING, _BETWEEN = 8.0, 6.0, 1.8, 2.2


class Place(NamedTuple):
    """One place where members show, and who may look."""

    name: str
    readers: str
    """Who may read it: ANYBODY, THE_SAME_USER, ITSELF, or a remark."""
    shows: str


ANYBODY, THE_SAME_USER, ITSELF = "anybody", "ptrace", "itself"
PLACES: tuple[Place, ...] = (
    Place("cmdline", ANYBODY, "arg_start to arg_end, anonymous memory only; and a title that runs "
          "on behind arg_end when env_start = arg_end"),
    Place("stat", ANYBODY, "ten of the addresses; without ptrace 0, and 1 for the code"),
    Place("statm, status", ANYBODY, "text pages; VmExe, VmLib"),
    Place("maps, smaps, numa_maps", THE_SAME_USER, "[heap] overlaps start_brk to brk; [stack] "
          "holds start_stack; both name anonymous memory only"),
    Place("environ", THE_SAME_USER, "env_start to env_end, anonymous memory only"),
    Place("auxv", THE_SAME_USER, "the saved vector, up to its first AT_NULL"),
    Place("exe", THE_SAME_USER, "the path of what exe_fd named"),
    Place("brk(0), PR_GET_AUXV", ITSELF, "brk; the whole saved vector (since v6.4)"),
)  # fmt: skip
READERS = (
    "anybody: unless /proc is mounted with hidepid. ptrace: the same user if the process is "
    "dumpable, or a capability such as CAP_SYS_PTRACE. itself: two system calls, no file."
)
"""Under /proc/PID/, and the two calls that tell what no file does.

Source: fs/proc/base.c (tid_base_stuff), fs/proc/array.c (do_task_stat), fs/proc/task_mmu.c
(proc_maps_open), fs/proc/base.c (__mem_open, proc_pid_get_link); mount option hidepid is not
considered.
"""

_FIELDS = max(member.stat_field or 0 for member in MEMBERS)
_NEW_NAME = "a new name"


def c_program() -> str:
    """Return a whole C program that renames itself: every member filled in, two changed.

    It needs a C library whose sbrk(0) tells what brk(0) does, as glibc's and musl's.
    """
    values = {m.name: f"v[{m.stat_field}]" for m in MEMBERS if m.stat_field}
    values |= {"brk": "(long)sbrk(0)", "auxv": "0", "auxv_size": "0", "exe_fd": "-1"}
    members = [values[name] for name in MEMBER]
    rows = [members[:5], members[5:10], members[10:]]
    body = ",\n".join("        " + ", ".join(row) for row in rows)
    return f"""\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/prctl.h>
int main(void) {{
    unsigned long v[{_FIELDS + 1}] = {{0}};
    char stat[4096], *p, *name = strdup("{_NEW_NAME}");
    FILE *file = fopen("/proc/self/stat", "r");
    stat[fread(stat, 1, sizeof stat - 1, file)] = 0;
    p = strrchr(stat, ')') + 3;  /* behind field 3 */
    for (int n = 4; n <= {_FIELDS}; n++) v[n] = strtoul(p, &p, 10);
    struct prctl_mm_map map = {{
{body} }};
    map.arg_start = (long)name;
    map.arg_end = map.arg_start + sizeof "{_NEW_NAME}";
    if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0))
        return perror("PR_SET_MM_MAP"), 1;
    return system("cat /proc/$PPID/cmdline");
}}"""


PYTHON_PROGRAM = f"""\
from prctlmm_lab import *

with Specimen() as specimen:
    page = specimen.map(4096)
    specimen.write(page, b"{_NEW_NAME}\\0")
    map = specimen.current_map().changed(
        arg_start=page, arg_end=page + {len(_NEW_NAME) + 1})
    print(explain(situation_of(specimen, map), facts_here()))
    print("errno", specimen.set_map(map))
    print(specimen.snapshot().cmdline)"""
"""The same on a specimen, with the reason if it were refused."""


def cheat_sheet() -> Figure:
    """Return the cheat sheet as a figure of one page of A4; the same each time and everywhere.

    The command line's equivalent is `prctlmm-lab cheatsheet FILE.pdf`.

    Raises ValueError if the tables have outgrown the page.
    """
    figure = picture_class()(figsize=(WIDTH / 25.4, HEIGHT / 25.4))
    return draw_marks(sheet(), figure.add_axes((0, 0, 1, 1)))


def sheet() -> Scene:
    """Return the cheat sheet as a drawing in millimetres.

    Raises ValueError if the tables have outgrown the page.
    """
    for size, share in product(_SIZES, _SHARES):
        marks, bottom, right = _page(_Type(size), share)
        if bottom <= HEIGHT - _MARGIN - 3 and right <= WIDTH - _MARGIN:
            return Scene(WIDTH, HEIGHT, (Box(0, 0, WIDTH, HEIGHT, PAPER), *marks))
    raise ValueError(f"the cheat sheet is {right:.0f} mm wide and {bottom:.0f} mm high")


def _page(type_: _Type, share: float) -> tuple[list[Mark], float, float]:
    """Set the page; return its marks, the lowest place of its tables, and the rightmost."""
    whole = WIDTH - 2 * _MARGIN
    narrow = (whole - _GUTTER) * share
    broad = whole - _GUTTER - narrow
    members, y = _set_part(type_, _MARGIN, 21.5, whole, _members())
    left, left_bottom = _stack(type_, _MARGIN, y + _BETWEEN, broad, _left_side())
    right, right_bottom = _stack(
        type_, WIDTH - _MARGIN - narrow, y + _BETWEEN, narrow, _right_side()
    )
    marks = [*_title(type_), *members, *left, *right, *_foot(type_)]
    texts = (mark for mark in (*members, *right, *marks) if isinstance(mark, Text))
    return marks, max(left_bottom, right_bottom), max(map(right_end, texts))


# ---- what it holds -----------------------------------------------------------------------------


class _Type(NamedTuple):
    """The type that all but headings are set in."""

    points: float

    @property
    def size(self) -> float:
        """In millimetres."""
        return self.points * POINT

    @property
    def line(self) -> float:
        """From one line to the next, in millimetres."""
        return 1.18 * self.size


class _Column(NamedTuple):
    """A column of a table, as wide as its widest cell unless it takes the rest or is bounded."""

    head: str
    fixed: bool = False
    bold: bool = False
    rest: bool = False
    most: float = WIDTH
    """Millimetres."""


_Row = Sequence[str]


class _Part(NamedTuple):
    """A titled table with a remark below, or a titled program."""

    title: str
    columns: tuple[_Column, ...] = ()
    rows: tuple[_Row, ...] = ()
    remark: str = ""
    program: str = ""


def _title(type_: _Type) -> Iterator[Mark]:
    call = f"prctl(PR_SET_MM, PR_SET_MM_MAP, &map, {MAP_SIZE}, 0)"
    yield Text(_MARGIN, 11.0, call, _TITLE * POINT, bold=True)
    said = (
        "replaces the kernel's notes of the caller's own address space, all 14 or none. It returns "
        "0, or -1 with the errno of the first check that fails.",
        f"Only a change of the exe link asks for privilege. auxv_size = 0 and exe_fd = {NO_EXE:#x} "
        "keep vector and link; fill in all the rest. Ends are exclusive.",
    )
    for number, line in enumerate(said):
        yield Text(_MARGIN, 15.6 + number * type_.line, line, type_.size, SOFT, fixed=False)


def _foot(type_: _Type) -> Iterator[Mark]:
    text = (
        f"Made from the tables of prctlmm_lab, {INTRODUCED} to {NEWEST}, x86-64. "
        "Why one map is refused, with its numbers: prctlmm-lab explain RECIPE."
    )
    yield Text(_MARGIN, HEIGHT - _MARGIN + 1, text, type_.size, SOFT, fixed=False)


def _members() -> _Part:
    columns = (
        _Column("offset", fixed=True),
        _Column("member", fixed=True, bold=True),
        _Column("meaning"),
        _Column("stat field", fixed=True),
        _Column("shows in /proc/PID/ and elsewhere", rest=True),
    )
    return _Part(f"The {len(MEMBERS)} members of struct prctl_mm_map", columns, (*_member_rows(),))


def _member_rows() -> Iterator[_Row]:
    for member in MEMBERS:
        stat = str(member.stat_field or "-")
        shows = [place for place in member.shows if "stat field" not in place]
        yield (str(member.offset), member.name, member.meaning, stat,
               ", ".join(shows).replace("/proc/PID/", ""))  # fmt: skip


def _rule_rows() -> Iterator[_Row]:
    old, new = _facts(str(INTRODUCED)), _facts(str(NEWEST))
    for rule in RULES:
        if rule.id.startswith("range."):
            if rule.members[0] == ADDRESSES[0]:
                said = f"each of the {len(ADDRESSES)} addresses is one of user space, in this order"
                yield _errnos(rule, old, new), "range.*", said
            continue
        gone = "" if rule.exists(new) else _until(rule)
        yield _errnos(rule, old, new), rule.id, rule.title + gone


def _errnos(rule: Rule, old: Facts, new: Facts) -> str:
    """Return the errno that a rule gives, on the newest kernel that has it."""
    return errno_name(rule.errno_on(new if rule.exists(new) else old) or rule.errno)


def _until(rule: Rule) -> str:
    """Say that a rule is one of older kernels: up to the change after which it is gone."""
    changes = [change for change in CHANGES if rule.id in change.subjects]
    last = next(c for c in changes if not rule.exists(_facts(str(c.first))))
    return f" (before {last.first})"


@cache
def _facts(release: str) -> Facts:
    """Return what is documented of a release; what depends on the machine does not matter here."""
    return facts_on(release, _ANY)


_ANY = Facts(
    release="", machine="x86_64", page_size=4096, available=True, refusal_errno=0,
    map_size=MAP_SIZE, lowest=0, highest=0, auxv_capacity=0, empty_data_accepted=True,
    heap_below_data_accepted=True, exe_permission_errno=errno.EPERM, exe_capabilities=1,
    exe_permission_early=False, exe_changes_once=False, mapped_exe_refused=True,
    written_exe_refused=True, touching_heap_labelled=False, code_size_clamped=True,
    hole_shrinks=False,
)  # fmt: skip


def _change_rows() -> Iterator[_Row]:
    for change in CHANGES:
        yield str(change.first), change.what + _taken_over(change)


def _taken_over(change: Change) -> str:
    stable = ", ".join(f"{series}.{number}" for series, number in change.stable.items())
    return f" Also {stable}." if stable else ""


def _left_side() -> Iterator[_Part]:
    columns = (
        _Column("errno", fixed=True),
        _Column("rule", fixed=True, bold=True),
        _Column("needed", rest=True),
    )
    yield _Part("The checks: the first that fails decides", columns, (*_rule_rows(),))
    columns = (
        _Column("place", fixed=True, bold=True, most=24),
        _Column("for"),
        _Column("shows", rest=True),
    )
    yield _Part("Where to look under /proc/PID/", columns, PLACES, READERS)
    yield _Part("A new name for a specimen, in Python", program=PYTHON_PROGRAM)


def _right_side() -> Iterator[_Part]:
    columns = (_Column("since", fixed=True, bold=True), _Column("what", rest=True))
    yield _Part("What changed when", columns, (*_change_rows(),))
    yield _Part("A new name for oneself, in C", program=c_program())


# ---- how it is set -----------------------------------------------------------------------------


def _stack(
    type_: _Type, x: float, y: float, width: float, parts: Iterable[_Part]
) -> tuple[list[Mark], float]:
    """Set parts one below the other; return them and where they end."""
    marks: list[Mark] = []
    for part in parts:
        made, end = _set_part(type_, x, y, width, part)
        marks += made
        y = end + _BETWEEN
    return marks, y - _BETWEEN


def _set_part(
    type_: _Type, x: float, y: float, width: float, part: _Part
) -> tuple[list[Mark], float]:
    marks: list[Mark] = [
        Text(x, y + 1.8, part.title, _HEAD * POINT, bold=True, fixed=False),
        Lines((((x, y + 4.0), (x + width, y + 4.0)),), INK, 0.35),
    ]
    if part.program:
        made, y = _program(type_, x, y + 4.4, width, part.program)
        return marks + made, y
    made, y = _table(type_, x, y + 4.6, width, part)
    for line in _broken(type_, part.remark, width, _Column("")):
        made.append(Text(x, y + type_.line / 2, line, type_.size, SOFT, fixed=False))
        y += type_.line
    return marks + made, y


def _table(type_: _Type, x: float, y: float, width: float, part: _Part) -> tuple[list[Mark], float]:
    widths = _widths(type_, width, part)
    starts = [x + sum(widths[:number]) for number in range(len(widths))]
    marks: list[Mark] = [
        Text(start, y + type_.line / 2, column.head, type_.size, SOFT, fixed=False)
        for start, column in zip(starts, part.columns, strict=True)
    ]
    y += type_.line + 0.3
    for row in part.rows:
        lines = [
            _broken(type_, text, room - _PADDING, column)
            for text, room, column in zip(row, widths, part.columns, strict=True)
        ]
        marks.append(Lines((((x, y), (x + width, y)),), FAINT, 0.12))
        for start, column, written in zip(starts, part.columns, lines, strict=True):
            for number, line in enumerate(written):
                middle = y + 0.2 + (number + 0.5) * type_.line
                marks.append(Text(start, middle, line, type_.size, bold=column.bold,
                                  fixed=column.fixed))  # fmt: skip
        y += max(map(len, lines)) * type_.line + 0.35
    return marks, y


def _widths(type_: _Type, width: float, part: _Part) -> list[float]:
    """Return the widths of a table's columns; one of them takes what the others leave."""
    widths = []
    for number, column in enumerate(part.columns):
        cells = [wide(row[number], type_.points, column.fixed, column.bold) for row in part.rows]
        head = wide(column.head, type_.points, False, False)
        widths.append(0.0 if column.rest else min(max(*cells, head) + _PADDING, column.most))
    rest = width - sum(widths)
    return [room or rest for room in widths]


def _program(
    type_: _Type, x: float, y: float, width: float, program: str
) -> tuple[list[Mark], float]:
    lines = program.splitlines()
    height = len(lines) * type_.line + 1.2
    marks: list[Mark] = [Box(x, y, width, height, SHADE)]
    for number, line in enumerate(lines):
        middle = y + 0.6 + (number + 0.5) * type_.line
        marks.append(Text(x + 1.2, middle, line, type_.size))
    return marks, y + height


def _broken(type_: _Type, text: str, room: float, column: _Column) -> list[str]:
    """Break a text into lines that take no more than a width."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and wide(longer, type_.points, column.fixed, column.bold) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def right_end(text: Text) -> float:
    """Return where a line of text ends."""
    return text.x + wide(text.text, text.size / POINT, text.fixed, text.bold)


@cache
def wide(text: str, points: float, fixed: bool, bold: bool) -> float:
    """Return the millimetres that a line of text takes, as its face has it."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    family, weight = (
        ("DejaVu Sans Mono" if fixed else "DejaVu Sans"),
        ("bold" if bold else "normal"),
    )
    font = get_font(findfont(FontProperties(family=family, weight=weight)))
    font.set_size(100, 72)
    font.set_text(text, 0.0)
    return float(font.get_width_height()[0]) / 64 / 100 * points * POINT
