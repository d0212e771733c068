"""Every member moved alone in a real specimen, and every place where that showed.

Nothing here says where a member shows: `every_member_alone` makes the calls and looks. What the
specification promises (`kernel/effects.py`) stands beside it, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from prctlmm_lab.errors import LabError, SystemCallError
from prctlmm_lab.experiments.experiment import (
    Experiment,
    SetupError,
    Subject,
    carry_out,
    predict,
    set_up,
)
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.steps import (
    Brk,
    Limit,
    Map,
    MemoryFile,
    ReleaseExecutable,
    Step,
    UserNamespace,
    Write,
)
from prctlmm_lab.kernel.abi import MEMBER
from prctlmm_lab.kernel.effects import EFFECT
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.marks import LIVE, weaker


@dataclass(frozen=True)
class Place:
    """A place where members may show, and the effects that the specification has for it."""

    name: str
    effects: tuple[str, ...]

    def promises(self, member: str) -> bool:
        """Tell whether the specification says that a member shows here."""
        return any(member in EFFECT[effect].members for effect in self.effects)


STAT, HEAP, STACK, GROWS = "stat", "maps [heap]", "maps [stack]", "brk() grows"
ELSEWHERE = "elsewhere"
"""Any other field or file of a snapshot; nothing is promised there."""

PLACES: tuple[Place, ...] = (
    Place(STAT, ("stat",)),
    Place("statm text", ("statm.text",)),
    Place("status VmExe, VmLib", ("status.code",)),
    Place(HEAP, ("maps.heap",)),
    Place(STACK, ("maps.stack",)),
    Place("cmdline", ("cmdline",)),
    Place("environ", ("environ",)),
    Place("auxv", ("auxv",)),
    Place("exe", ("exe",)),
    Place("brk(0)", ("brk",)),
    Place(GROWS, ("brk.grow", "brk.limit")),
    Place(ELSEWHERE, ()),
)  # fmt: skip

_FIXED_PLACES: Mapping[tuple[str, str], str] = {
    ("statm", "text"): "statm text",
    ("status", "VmExe"): "status VmExe, VmLib",
    ("status", "VmLib"): "status VmExe, VmLib",
    ("cmdline", ""): "cmdline",
    ("environ", ""): "environ",
    ("exe", ""): "exe",
    ("brk()", ""): "brk(0)",
}

Row = tuple[str, str, str, str]
"""A change: place, name, before, after."""


def place_of(member: str, row: Row) -> str:
    """Return the name of the place in which a change shows that moving a member made.

    >>> place_of("brk", ("stat", "start_brk", "0x1000", "0x2000"))
    'elsewhere'
    """
    file, name, before, after = row
    if file == "stat":
        return STAT if name == member else ELSEWHERE
    if file == "auxv":
        return "auxv"
    if file == "maps":
        # A label comes or goes; a VMA as such does not.
        labels = {text.partition("[")[2] for text in (before, after) if "[" in text}
        found = {"heap]": HEAP, "stack]": STACK}
        return found.get(labels.pop(), ELSEWHERE) if len(labels) == 1 else ELSEWHERE
    return _FIXED_PLACES.get((file, name), ELSEWHERE)


# ---- what is moved, and where to ----------------------------------------------------------------

ROOM = 1 << 20
"""RLIMIT_DATA in the special situation; four of the moves then use it up to the last byte."""
_DATA, _HEAP = "(end_data - start_data)", "(brk - start_brk)"
_FULL = {
    "start_data": f"end_data - ({ROOM} - {_HEAP})",
    "end_data": f"start_data + {ROOM} - {_HEAP}",
    "start_brk": f"brk - ({ROOM} - {_DATA})",
    "brk": f"start_brk + {ROOM} - {_DATA}",
}
VECTOR: dict[str, Value] = {"auxv": "table.start", "auxv_size": 32}
"""The vector that each specimen is given first, so that one of the two can then be moved alone."""
MOVES: Mapping[str, dict[str, Value]] = {
    "start_code": {"start_code": "start_code - page"},
    "end_code": {"end_code": "end_code + page"},
    **{member: {member: formula} for member, formula in _FULL.items()},
    "start_stack": {"start_stack": "table.start"},
    "arg_start": {"arg_start": "arg_start + 1"},
    "arg_end": {"arg_end": "arg_end - 1"},
    "env_start": {"env_start": "env_start + 1"},
    "env_end": {"env_end": "env_end - 1"},
    "auxv": VECTOR | {"auxv": "table.start + 16"},
    "auxv_size": VECTOR | {"auxv_size": 16},
    "exe_fd": {"exe_fd": "other"},
}
"""Every member's move. The last three are no addresses in the notes but orders; a vector needs
both of its members in the same call."""

_SETUP: tuple[Step, ...] = (
    Map("table"),
    Write("table.start", auxv=(("AT_PAGESZ", 4096), ("AT_UID", 1), ("AT_GID", 2))),
    # Anonymous memory where the heap's ends will go, to be called [heap] then.
    Map("below", at=f"page_down({_FULL['start_brk']})"),
    Map("above", pages=2, at=f"page_down({_FULL['brk']}) - page"),
)
_SPECIAL: tuple[Step, ...] = (Limit("DATA", ROOM), Write("arg_end - 1", text="!"))
_EXE: tuple[Step, ...] = (UserNamespace(True), MemoryFile("other"), ReleaseExecutable(True))
SPECIAL = "the last byte of the arguments is not zero, and RLIMIT_DATA is 1 MiB"
"""The special situation, in words. In the usual one the program is as execve started it."""


# ---- what is seen -------------------------------------------------------------------------------


class Seen(Enum):
    """What a member's move shows in a place."""

    ALWAYS = "shows"
    SPECIAL = "shows in the special situation only"
    NOTHING = "shows nothing, and nothing is promised"
    NOT_HERE = "could not be moved here"
    MISSING = "promised, but nothing showed"
    UNEXPECTED = "showed, but is not promised"


@dataclass(frozen=True)
class Sighting:
    """What moving one member changed, in one situation."""

    member: str
    changes: tuple[Row, ...] = ()
    places: frozenset[str] = frozenset()
    as_predicted: bool = True
    """Whether every file showed what the specification had predicted, byte for byte."""
    why_not: str = ""
    """Why it could not be moved here, "" if it was."""


@dataclass(frozen=True, repr=False)
class Sightings:
    """Every member's move in both situations, and what each showed."""

    usual: Mapping[str, Sighting]
    special: Mapping[str, Sighting]
    origin: str = LIVE

    def seen(self, member: str, place: Place) -> Seen:
        """Return what a member's move shows in a place, beside what is promised."""
        if self.usual[member].why_not:
            return Seen.NOT_HERE
        always = place.name in self.usual[member].places
        ever = always or place.name in self.special[member].places
        if ever != place.promises(member):
            return Seen.UNEXPECTED if ever else Seen.MISSING
        if not ever:
            return Seen.NOTHING
        return Seen.ALWAYS if always else Seen.SPECIAL

    @property
    def calls(self) -> int:
        """How many moves were made."""
        return sum(not each.why_not for each in self._all())

    @property
    def as_predicted(self) -> int:
        """After how many of them /proc showed what was predicted, byte for byte."""
        return sum(each.as_predicted and not each.why_not for each in self._all())

    @property
    def disagreements(self) -> tuple[tuple[str, str], ...]:
        """Members and places where what is seen is not what is promised."""
        wrong = (Seen.MISSING, Seen.UNEXPECTED)
        return tuple((m, p.name) for m in self.usual for p in PLACES if self.seen(m, p) in wrong)

    @property
    def left_out(self) -> Mapping[str, str]:
        """The members that could not be moved here, each with the reason."""
        return {m: each.why_not for m, each in self.usual.items() if each.why_not}

    def _all(self) -> Iterator[Sighting]:
        yield from self.usual.values()
        yield from self.special.values()


def every_member_alone(members: Iterable[str] = tuple(MEMBER)) -> Sightings:
    """Move each member alone, in a fresh specimen each time, and look at every place.

    A program that has just started shows most of it. Some members show only in the special
    situation (`SPECIAL`): so every move is made in both.

    >>> seen = every_member_alone(["end_code"])
    >>> sorted(seen.usual["end_code"].places)
    ['stat', 'statm text', 'status VmExe, VmLib']

    Raises SpecimenError if a specimen ends, UnsupportedSystem where there is none.
    """
    members, origins = tuple(members), [LIVE]
    situations: list[dict[str, Sighting]] = []
    for special in (False, True):
        setup = (*_SETUP, *_SPECIAL) if special else _SETUP
        still = _grows(_moved({}, setup, origins))
        situations.append({m: _sighting(m, setup, still, origins) for m in members})
    usual, special_ones = situations
    origin = LIVE
    for each in origins:
        origin = weaker(origin, each)
    return Sightings(usual, special_ones, origin)


def _sighting(member: str, setup: tuple[Step, ...], still: bool, origins: list[str]) -> Sighting:
    """Move a member; `still` tells whether brk() grows where nothing is moved."""
    steps = (*setup, *_EXE) if member == "exe_fd" else setup
    try:
        record = _moved(MOVES[member], steps, origins)
    except SetupError as error:
        return Sighting(member, why_not=error.problem)
    if record.outcome.errno:
        return Sighting(member, why_not=f"the call gave {record.outcome.verdict}")
    # A capability that was used shows in the task's flags; that is not the call's doing.
    rows = tuple(row for row in record.difference if row[:2] != ("stat", "flags"))
    places = {place_of(member, row) for row in rows}
    if _grows(record) != still:
        places.add(GROWS)
    return Sighting(member, rows, frozenset(places), record.agreement.with_lab)


def _moved(change: dict[str, Value], setup: tuple[Step, ...], origins: list[str]) -> Record:
    """Make one move in a fresh specimen that was given a vector, then ask brk() for a page more."""
    experiment = Experiment("alone", setup=setup, change=change, after=(Brk("brk + page"),))
    with _start() as specimen:
        bench = set_up(experiment, specimen, facts_here())
        table = bench.regions["table"][0]
        given = specimen.current_map().changed(auxv=table, auxv_size=32)
        if errno := specimen.set_map(given):
            raise LabError(f"the call that gives a vector is refused here: {errno_name(errno)}")
        record = carry_out(predict(experiment, bench))
    origins.append(record.origin)
    return record


def _start() -> Specimen:
    """Start a specimen at known addresses, where that is allowed: its moves need free room."""
    try:
        return Subject(randomize=False).start()
    except SystemCallError:  # personality(2) is refused in some containers
        return Subject().start()


def _grows(record: Record) -> bool:
    """Tell whether brk() gave the page that it was asked for after the move."""
    return int(record.answers[0].answer, 16) == int(record.map["brk"], 16) + 4096
