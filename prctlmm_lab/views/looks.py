"""Looks at a living specimen, one after another: what /proc shows, and what changed since.

This is what the ProcViewer (following.py) shows, without a widget: plain calls, text and HTML.
Needs the standard library only; all text of other processes is escaped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from html import escape

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import Value, shorten
from prctlmm_lab.experiments.steps import Bench, check_circles, resolve_changes
from prctlmm_lab.kernel.abi import MEMBER, MEMBERS, unknown_member
from prctlmm_lab.kernel.difference import Change, difference, shown
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.kernel.rules import errno_name, explain
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.marks import LIVE, mark_html, mark_text
from prctlmm_lab.specimen.situation import situation_of
from prctlmm_lab.views.layout import layout
from prctlmm_lab.views.legend import FAINT, INK, MOVED, PAPER, SOFT
from prctlmm_lab.views.svg import address_space_svg
from prctlmm_lab.words import printable, shortened

MOST_LOOKS = 200
"""So many looks are kept; the oldest goes first."""
LONGEST_CALL = 1000
"""Characters of the changes of one call."""
_LONGEST_LINE = 110

TEXT = b"a-new-name\0--with\0arguments\0"
TITLE = b"a title longer than its room\0NOTE=/nowhere\0"
ARENA_TEXT = TEXT.ljust(64, b"\0") + TITLE
"""What the page "arena" of a specimen of our own holds: at its start, and 64 bytes behind it."""

CALLS: Mapping[str, str] = {
    "No command line": "arg_end = arg_start",
    "A command line in a page of its own": "arg_start = arena.start, arg_end = arg_start + 28",
    "A title that runs on into the environment":
        "arg_start = arena.start + 64, arg_end = arg_start + 7, env_start = arg_end, "
        "env_end = arena.start + 107",
    "An environment that it never had": "env_start = arena.start + 93, env_end = env_start + 14",
    "A page more of code": "end_code = end_code + page",
    "1 GiB of data": "end_data = start_data + (1 << 30)",
    "No [heap]": "brk = start_brk",
    "No [stack]": "start_stack = lowest",
    "Two pages below the stack": "arg_start = stack.start - 2 * page, arg_end = arg_start + 8",
    "Refused: a command line that ends before it begins": "arg_end = arg_start - 1",
}  # fmt: skip
"""Calls to choose from: what they are, and their changes."""


@dataclass(frozen=True)
class Line:
    """One line of a place: what it shows, and what it showed at the look before."""

    name: str
    text: str
    """"" for what is gone."""
    was: str | None = None
    """None if it is as it was, "" if it was not there."""


Told = Mapping[str, str]


def _stat(snapshot: Snapshot) -> Told:
    if isinstance(snapshot.stat, Unreadable):
        return {"": str(snapshot.stat)}
    numbers = snapshot.stat.members
    fields = ((m.name, m.stat_field) for m in MEMBERS if m.stat_field)
    return {f"{field} {name}": hex(numbers[name]) for name, field in fields}


def _pages(snapshot: Snapshot) -> Told:
    if isinstance(snapshot.statm, Unreadable):
        return {"": str(snapshot.statm)}
    return {f"{name} (pages)": str(snapshot.statm[name]) for name in ("size", "text", "data")}


def _sizes(snapshot: Snapshot) -> Told:
    status = snapshot.status
    if isinstance(status, Unreadable):
        return {"": str(status)}
    names = ("VmSize", "VmData", "VmStk", "VmExe", "VmLib")
    return {name: status[name] for name in names if name in status}


def _vector(snapshot: Snapshot) -> Told:
    if isinstance(snapshot.auxv, Unreadable):
        return {"": str(snapshot.auxv)}
    # In a vector of one's own a type may stand more than once.
    entries = enumerate(snapshot.aux_entries)
    return {f"{place}: {entry.name}": hex(entry.value) for place, entry in entries}


def _areas(snapshot: Snapshot) -> Told:
    if isinstance(snapshot.maps, Unreadable):
        return {"": str(snapshot.maps)}
    return {
        f"{vma.start:#x}-{vma.end:#x}": f"{vma.permissions} {vma.label or vma.path}".rstrip()
        for vma in reversed(snapshot.maps)
    }


def _brk(snapshot: Snapshot) -> Told:
    return {"brk(0)": "not asked" if snapshot.brk is None else hex(snapshot.brk)}


PLACES: Mapping[str, Callable[[Snapshot], Told]] = {
    "stat": _stat,
    "statm": _pages,
    "status": _sizes,
    "cmdline": lambda snapshot: {"": shown(snapshot.cmdline)},
    "environ": lambda snapshot: {"": shown(snapshot.environ)},
    "auxv": _vector,
    "exe": lambda snapshot: {"": shown(snapshot.exe)},
    "maps": _areas,
    "brk()": _brk,
}
"""The places that can be shown; in brk() the specimen is asked, for /proc does not say."""
USUAL = ("stat", "statm", "status", "cmdline", "environ", "exe", "maps", "brk()")


@dataclass(frozen=True)
class Look:
    """One look at a specimen, and the one before it."""

    number: int
    """From 1 on."""
    what: str
    """What had been done before it."""
    snapshot: Snapshot
    before: Snapshot | None = None

    @property
    def changes(self) -> tuple[Change, ...]:
        """What changed since the look before, in all of /proc; none at the first."""
        return difference(self.before, self.snapshot) if self.before is not None else ()

    @property
    def origin(self) -> str:
        """Where it comes from: live, recorded, or predicted."""
        return self.snapshot.origin

    @property
    def title(self) -> str:
        """What it is, in a line: what had been done, and where something changed."""
        changes = self.changes
        told = f"{len(changes)} change{'s' * (len(changes) != 1)}"
        if changes:
            told += f" in {', '.join(dict.fromkeys(change.place for change in changes))}"
        if self.before is None:
            told = "the first"
        return f"Look {self.number}: {self.what} ({told})"

    def lines(self, place: str) -> list[Line]:
        """Return the lines of a place; what is gone since the look before stands at its end.

        Raises InputError for a place that is none.
        """
        if place not in PLACES:
            raise InputError("place", "is none", shorten(place), ", ".join(PLACES))
        told = PLACES[place]
        now = told(self.snapshot)
        then = now if self.before is None else told(self.before)
        lines = [
            Line(name, text, None if then.get(name) == text else then.get(name, ""))
            for name, text in now.items()
        ]
        gone = (Line(name, "", text) for name, text in then.items() if name not in now)
        return [*lines, *gone]

    def text(self, places: Iterable[str] = USUAL) -> str:
        """Write the look as plain text: what changed has a * and what it was before.

        Raises InputError for a place that is none.
        """
        rows = [f"{self.title}{'' if self.origin == LIVE else f' [{mark_text(self.origin)}]'}"]
        for place in places:
            for line in self.lines(place):
                mark = " " if line.was is None else "*"
                text = printable(line.text) or "(gone)"
                was = "" if line.was is None else f"  (was {printable(line.was) or 'not there'})"
                rows.append(f"{mark} {place:8}{line.name:32} {text}{was}".rstrip())
        return "\n".join(rows)

    __str__ = text

    def html(self, places: Iterable[str] = USUAL) -> str:
        """Write the look as a table: what changed is coloured and has a sign, and what it was.

        Raises InputError for a place that is none.
        """
        rows = [
            _row(place if number == 0 else "", line)
            for place in places
            for number, line in enumerate(self.lines(place))
        ]
        mark = "" if self.origin == LIVE else mark_html(mark_text(self.origin))
        head = "".join(
            f'<th scope="col" style="{_CELL};color:{SOFT};font-weight:normal;width:{width}">'
            f"{name}</th>"
            for name, width in _COLUMNS.items()
        )
        return (
            f'<table style="{_TABLE}"><caption style="{_CAPTION}">{escape(printable(self.title))}'
            f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{mark}"
        )

    def picture(self) -> str:
        """Draw its address space as SVG, with the flags that moved since the look before."""
        drawn = address_space_svg(layout(self.snapshot, before=self.before))
        mark = "" if self.origin == LIVE else mark_html(mark_text(self.origin))
        return f"<div>{drawn}</div>{mark}"


_COLUMNS = {"place": "9ch", "name": "35%", "shows": "29%", "before": "auto"}
_TABLE = (
    f"border-collapse:collapse;table-layout:fixed;width:100%;background:{PAPER};color:{INK};"
    "font:12px/1.35 'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace"
)
_CELL = (
    f"overflow-wrap:anywhere;padding:1px 8px;text-align:left;vertical-align:top;"
    f"border-bottom:1px solid {FAINT}"
)
_CAPTION = (
    f"text-align:left;padding:4px 8px;font-weight:bold;background:{PAPER};color:{INK};"
    "font-family:'DejaVu Sans','Liberation Sans',Helvetica,Arial,sans-serif"
)


def _row(place: str, line: Line) -> str:
    changed = line.was is not None
    ground = ' style="background:#fbe3d6"' if changed else ""
    cells = [
        (place, SOFT),
        (f"{'≠ ' if changed else ''}{line.name}", MOVED if changed else INK),
        (line.text or "(gone)", INK),
        ((line.was or "(not there)") if line.was is not None else "", SOFT),
    ]
    written = "".join(
        f'<td style="{_CELL};color:{colour}">'
        f"{escape(shortened(printable(text), _LONGEST_LINE))}</td>"
        for text, colour in cells
    )
    return f"<tr{ground}>{written}</tr>"


@dataclass
class Following:
    """Look at a living specimen again and again, make calls in it, and keep every look.

    Without a specimen one is started, and ended by `close`; it has a page called "arena" with
    texts to point at (`ARENA_TEXT`). `regions` names memory of a specimen that is given, for
    formulas: {"page": (start, end)}, ends exclusive.

    >>> following = Following()
    >>> look = following.call("arg_end = arg_start")
    >>> [change.place for change in look.changes], look.snapshot.cmdline
    (['stat', 'cmdline'], b'')
    >>> following.close()

    Looking is not without effect: reading cmdline or environ may grow a stack.

    Raises UnsupportedSystem or SpecimenError where no specimen can be started.
    """

    specimen: Specimen | None = None
    regions: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.is_own = self.specimen is None
        self._told: Specimen = Specimen() if self.specimen is None else self.specimen
        self.specimen = self._told
        regions = dict(self.regions)
        try:
            if self.is_own and "arena" not in regions:
                arena = self._told.map(4096)
                self._told.write(arena, ARENA_TEXT)
                regions["arena"] = (arena, arena + 4096)
            self._bench = Bench(self._told, facts_here(), regions)
            self._first = self._told.current_map()
            self.looks: deque[Look] = deque(maxlen=MOST_LOOKS)
            self.look("started")
        except BaseException:
            self.close()
            raise

    @property
    def last(self) -> Look:
        """The newest look."""
        return self.looks[-1]

    def look(self, what: str = "looked") -> Look:
        """Look now, keep it, and return it; `what` says what had been done before.

        Raises SpecimenGone if the specimen has ended.
        """
        return self._keep(self._told.snapshot(), what)

    def look_if_changed(self) -> Look | None:
        """Look, and keep and return the look only if something is different; never wait.

        While somebody else uses the specimen nothing is looked at.

        Raises SpecimenGone if the specimen has ended.
        """
        if not self._told.undivided.acquire(blocking=False):
            return None
        try:
            snapshot = self._told.snapshot()
        finally:
            self._told.undivided.release()
        if not difference(self.last.snapshot, snapshot):
            return None
        return self._keep(snapshot, "changed by somebody")

    def call(self, changes: str | Mapping[str, Value]) -> Look:
        """Make the call in the specimen with some members changed, and look.

        `changes` is text such as "arg_start = arena.start, arg_end = arg_start + 8", or a dict of
        the same. The values are numbers and formulas, as in a recipe. A refusal is an answer: the
        look tells the errno and the rule.

        Raises InputError for changes that are none, SpecimenError if the specimen ends.
        """
        told = parse_changes(changes) if isinstance(changes, str) else dict(changes)
        for member in told:
            if member not in MEMBER:
                raise unknown_member(str(member), "call")
        check_circles(told, "call")
        own = self._bench.before = self._told.current_map()
        new = resolve_changes(told, own, self._bench, "call")
        explanation = explain(situation_of(self._told, new), self._bench.facts)
        errno = self._told.set_map(new)
        answer = "accepted" if not errno else errno_name(errno)
        if errno and explanation.deciding is not None:
            answer += f" by {explanation.deciding.rule.id}"
        written = ", ".join(f"{member} = {value}" for member, value in told.items())
        return self.look(f"{written or 'nothing changed'}: {answer}")

    def put_back(self) -> Look:
        """Make the call with the addresses as they were at the first look, and look.

        Raises SpecimenError if the specimen ends.
        """
        errno = self._told.set_map(self._first)
        return self.look(f"put back: {errno_name(errno) if errno else 'accepted'}")

    def close(self) -> None:
        """End the specimen, if it is our own."""
        if self.is_own:
            self._told.stop()

    def _keep(self, snapshot: Snapshot, what: str) -> Look:
        last = self.looks[-1] if self.looks else None
        number, before = (last.number + 1, last.snapshot) if last else (1, None)
        self.looks.append(Look(number, what, snapshot, before))
        return self.last


def parse_changes(text: str) -> dict[str, Value]:
    """Read changes as a person types them: "arg_end = arg_start, brk = start_brk".

    >>> parse_changes("arg_end = arg_start + 8")
    {'arg_end': 'arg_start + 8'}

    Raises InputError for text that has another form, and a member that is named twice.
    """
    if len(text) > LONGEST_CALL:
        raise InputError("call", "characters are too many", hex(len(text)), f"{LONGEST_CALL:#x}")
    changes: dict[str, Value] = {}
    for part in filter(None, map(str.strip, text.replace("\n", ",").split(","))):
        member, equals, formula = (each.strip() for each in part.partition("="))
        if not equals or not formula:
            raise InputError("call", "is no change", shorten(part), '"arg_end = arg_start + 8"')
        if member in changes:
            raise InputError("call", "is changed twice", shorten(member))
        changes[member] = formula
    if not changes:
        raise InputError("call", "changes nothing", "", '"arg_end = arg_start + 8"')
    return changes
