"""A writer of maps against readers of /proc: what one look of a reader may mix, and what never.

A specimen makes the call without a pause, with two maps that are accepted and two that are refused
between them. No member is the same in any two of the four, and no two look alike in any file: each
look at a file is either what one map shows, or a mix, and then it says of which.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from prctlmm_lab.errors import LabError, UnsupportedSystem
from prctlmm_lab.kernel.abi import MEMBER, PrctlMmMap
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import parse_members
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.recording.state import NotRecorded

READS = 20_000
"""Looks of each reader, unless its time is over before."""
_SECONDS, _READS_A_SECOND = 2.0, 10_000

Parts = Mapping[str, int | str]
"""What a look shows, part by part: the members, words or labels that it lets be told."""
Look = tuple[bytes, ...]
"""The answers to the reads of one look at a file."""


# ---- the maps -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """One of the maps that take turns, and the vector that it brings."""

    name: str
    map: PrctlMmMap
    vector: tuple[int, ...]
    """The words in front of the pair that ends it."""
    heap: int
    stack: int
    """The VMAs that it has called [heap] and [stack], by their first address."""
    is_refused: bool = False


@dataclass(frozen=True)
class Stage:
    """The maps of a race, and the memory that they point to."""

    bundles: tuple[Bundle, ...]
    strings: int
    """Where the memory of arguments and environment begins; it holds `TEXT`."""


_STRINGS = 4 * PAGE
_STEP = 8
TEXT = b"".join(b"%07x\0" % at for at in range(0, _STRINGS, _STEP))
"""Memory that says of each of its bytes where it lies. It holds no title that would run on."""
_VECTOR = 1024
"""Bytes from one vector to the next."""
_NAMES = ("map A", "map B", "map C, out of range", "map D, its vector unreadable")
_SPOTS = (
    (2, "heap"), (2, "stack"), (3, "heap"), (3, "stack"),
    (0, "heap"), (1, "heap"), (0, "stack"), (1, "stack"),
)  # fmt: skip
"""Whose heap and stack lie where. From start_brk of A to brk of B there is none but their heaps."""
_FIRST_PAIR = 0x1000


def set_the_stage(specimen: Specimen, facts: Facts) -> Stage:
    """Give a specimen the memory of a race and return the maps; none of them is in force yet.

    Raises SystemCallError if the kernel refuses the memory.
    """
    strings = specimen.map(_STRINGS)
    specimen.write(strings, TEXT)
    vectors = specimen.map(len(_NAMES) * _VECTOR)
    # A page of memory for each name, with one between them that nobody may touch.
    pages = 2 * len(_SPOTS) + 1
    barred = specimen.map(pages * PAGE, permissions="---")
    spots = {spot: barred + (2 * place + 1) * PAGE for place, spot in enumerate(_SPOTS)}
    for spot in spots.values():
        specimen.protect(spot, PAGE, "rw-")
    own, made = specimen.current_map(), []
    for number, name in enumerate(_NAMES):
        words = _words(number, facts.auxv_capacity)
        vector = vectors + number * _VECTOR
        specimen.write(vector, struct.pack(f"<{len(words)}Q", *words))
        heap, stack = spots[number, "heap"], spots[number, "stack"]
        new = _apart(own, number, strings, heap, stack)
        new = new.changed(auxv=vector, auxv_size=8 * len(words))
        made.append(Bundle(name, new, words, heap, stack))
    one, other, range_, blind = made
    out_of_range = range_.map.changed(env_end=facts.highest + 1)
    without = blind.map.changed(auxv=barred)
    refused = (
        replace(range_, map=out_of_range, is_refused=True),
        replace(blind, map=without, is_refused=True),
    )
    return Stage((one, refused[0], other, refused[1]), strings)


def _words(number: int, capacity: int) -> tuple[int, ...]:
    """Return a vector that has room for the pair that ends it; its words are nowhere else."""
    count = 2 * (capacity // 16 - 1)
    return tuple(_FIRST_PAIR * (number + 1) + place for place in range(count))


def _apart(own: PrctlMmMap, number: int, strings: int, heap: int, stack: int) -> PrctlMmMap:
    """Return the map of a number: every start lies below every end, whichever map either is of."""
    base, room = 0x1000_0000, 0x10_0000
    arg, env = strings, strings + _STRINGS // 2
    at = base + number * PAGE
    return own.changed(
        start_code=at, end_code=at + room,
        start_data=at + 2 * room, end_data=at + 2 * room + PAGE // 2,
        start_brk=heap + 0x100, brk=heap + 0x200, start_stack=stack + 0x300,
        arg_start=arg + 0x40 * number, arg_end=arg + 0x200 + 0x80 * number,
        env_start=env + 0x40 * number, env_end=env + 0x200 + 0x80 * number,
    )  # fmt: skip


# ---- the readers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """Somebody who looks at a file of the specimen's folder below /proc."""

    name: str
    file: str
    told: Callable[[Look, Stage], Parts]
    """Takes a look apart."""
    shows: Callable[[Bundle, Stage], Parts]
    """What a look at one map tells."""
    pieces: tuple[int, ...] = ()
    """How many bytes the first reads of a look ask for; one more read asks for all the rest."""

    def look(self, descriptor: int) -> Look:
        """Look once."""
        at, found = 0, []
        for size in (*self.pieces, 1 << 16):
            found.append(os.pread(descriptor, size, at))
            at += size
        return tuple(found)


_CODE = re.compile(rb"[0-9a-f]{7}\0")
_LABELS = re.compile(rb"^([0-9a-f]+)-.*\[(heap|stack)\]$", re.MULTILINE)


def _bounds(start: str, end: str, look: Look, stage: Stage) -> Parts:
    """Tell the bounds from the bytes themselves; each read may be of other bounds."""
    told: dict[str, int | str] = {}
    before = 0
    for number, data in enumerate(look):
        code = _CODE.match(data)
        at = int(code[0][:-1], 16) if code else -1
        if code is None or data != TEXT[at : at + len(data)]:
            return {start: f"bytes that are no part of the memory: {data[:16]!r}"}
        member = start if number == 0 else f"{start} in read {number + 1}"
        told[member] = stage.strings + at - before
        before += len(data)
        last = stage.strings + at + len(data)
    return told | {end: last}


def _has_bounds(start: str, end: str, pieces: int, bundle: Bundle, stage: Stage) -> Parts:
    first, last = getattr(bundle.map, start), getattr(bundle.map, end)
    more = {f"{start} in read {number + 2}": first for number in range(pieces)}
    return {start: first, **more, end: last}


def _members(look: Look, stage: Stage) -> Parts:
    return parse_members(look[0])


def _has_members(bundle: Bundle, stage: Stage) -> Parts:
    return {name: getattr(bundle.map, name) for name in MEMBER if MEMBER[name].stat_field}


def _vector(look: Look, stage: Stage) -> Parts:
    words = struct.unpack(f"<{len(look[0]) // 8}Q", look[0][: len(look[0]) // 8 * 8])
    return {f"word {number}": word for number, word in enumerate(words[:-2])}


def _has_vector(bundle: Bundle, stage: Stage) -> Parts:
    return {f"word {number}": word for number, word in enumerate(bundle.vector)}


def _labels(look: Look, stage: Stage) -> Parts:
    found = {int(start, 16): f"[{label.decode()}]" for start, label in _LABELS.findall(look[0])}
    spots = (spot for bundle in stage.bundles for spot in (bundle.heap, bundle.stack))
    return {f"VMA {spot:#x}": found.get(spot, "unnamed") for spot in spots}


def _has_labels(bundle: Bundle, stage: Stage) -> Parts:
    named = {bundle.heap: "[heap]", bundle.stack: "[stack]"}
    spots = (spot for each in stage.bundles for spot in (each.heap, each.stack))
    return {f"VMA {spot:#x}": named.get(spot, "unnamed") for spot in spots}


def _strings(name: str, file: str, which: str, *pieces: int) -> Reader:
    bounds = f"{which}_start", f"{which}_end"
    shows = partial(_has_bounds, *bounds, len(pieces))
    return Reader(name, file, partial(_bounds, *bounds), shows, pieces)


IN_TWO = "cmdline in two reads"
READERS: Mapping[str, Reader] = {
    reader.name: reader
    for reader in (
        _strings("cmdline", "cmdline", "arg"),
        _strings("environ", "environ", "env"),
        Reader("stat", "stat", _members, _has_members),
        Reader("auxv", "auxv", _vector, _has_vector),
        Reader("maps", "maps", _labels, _has_labels),
        # No lock can hold between two system calls: this one must mix, or there was no race.
        _strings(IN_TWO, "cmdline", "arg", 0x40),
    )
}


# ---- what a look is -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What one look was: `of` names the map, "" for a mix and for what is of no accepted map."""

    of: str = ""
    mixed: str = ""
    """Of a mix, the first two parts in turn that are of different maps."""
    strange: str = ""
    """A part that is of neither map that was accepted."""


def judge(parts: Parts, shows: Mapping[str, Parts], refused: Mapping[str, Parts]) -> Seen:
    """Say which map a look shows, from what each map that is accepted, or refused, would show.

    >>> shows = {"one": {"arg_start": 0x1000, "arg_end": 0x1100},
    ...          "other": {"arg_start": 0x2000, "arg_end": 0x2200}}
    >>> judge({"arg_start": 0x1000, "arg_end": 0x1100}, shows, {}).of
    'one'
    >>> judge({"arg_start": 0x1000, "arg_end": 0x2200}, shows, {}).mixed
    'arg_start 0x1000 as in one, arg_end 0x2200 as in other'
    >>> judge({"arg_start": 0x1000, "arg_end": 0x3300}, shows, {"bad": {"arg_end": 0x3300}}).strange
    'arg_end 0x3300 as in bad'
    """
    for name, expected in shows.items():
        if parts == expected:
            return Seen(of=name)
    last_owner = last_part = mixed = ""
    for part, value in parts.items():
        owners = [name for name, expected in shows.items() if expected.get(part) == value]
        if not owners:
            names = [name for name, expected in refused.items() if expected.get(part) == value]
            return Seen(strange=f"{part} {_text(value)} as in {names[0] if names else 'no map'}")
        if len(owners) == 1:
            text = f"{part} {_text(value)} as in {owners[0]}"
            if last_owner not in ("", owners[0]):
                mixed = mixed or f"{last_part}, {text}"
            last_owner, last_part = owners[0], text
    return Seen(mixed=mixed) if mixed else Seen(strange=f"only {len(parts)} parts of a map")


def _text(value: int | str) -> str:
    return value if isinstance(value, str) else hex(value)


@dataclass(frozen=True)
class Tally:
    """What all looks of one reader were."""

    reader: str
    whole: Mapping[str, int]
    """How many were of one map, by its name."""
    mixed: int = 0
    strange: int = 0
    mix: str = ""
    """One of the mixed, with its values."""
    stranger: str = ""

    @property
    def looks(self) -> int:
        """How many there were."""
        return sum(self.whole.values()) + self.mixed + self.strange


@dataclass(frozen=True)
class Race:
    """What came of a race."""

    tallies: Mapping[str, Tally]
    calls: int
    """How many were accepted meanwhile."""
    refused: int


class _Counting:
    """Counts the looks of one reader; equal ones are taken apart once."""

    def __init__(self, reader: Reader, stage: Stage) -> None:
        self.reader, self.stage = reader, stage
        groups: dict[bool, dict[str, Parts]] = {False: {}, True: {}}
        for bundle in stage.bundles:
            groups[bundle.is_refused][bundle.name] = reader.shows(bundle, stage)
        self.shows, self.refused = groups[False], groups[True]
        self.whole = dict.fromkeys(self.shows, 0)
        self.mixed = self.strange = 0
        self.mix = self.stranger = ""

    def take(self, looks: Mapping[Look, int]) -> None:
        for look, count in looks.items():
            seen = judge(self.reader.told(look, self.stage), self.shows, self.refused)
            if seen.of:
                self.whole[seen.of] += count
            elif seen.mixed:
                self.mixed, self.mix = self.mixed + count, self.mix or seen.mixed
            else:
                self.strange, self.stranger = self.strange + count, self.stranger or seen.strange

    @property
    def tally(self) -> Tally:
        return Tally(self.reader.name, self.whole, self.mixed, self.strange, self.mix,
                     self.stranger)  # fmt: skip


# ---- the race -----------------------------------------------------------------------------------

_AT_ONCE = 500
"""Looks of a reader until the next one's turn."""
_ROUNDS = 1 << 14
"""Rounds of the four maps in one batch."""


def race(
    readers: Sequence[str],
    facts: Facts,
    *,
    reads: int = READS,
    seconds: float | None = None,
    enough: Callable[[Mapping[str, Tally]], bool] = lambda tallies: False,
) -> Race:
    """Let readers, names of `READERS`, look while a specimen makes the call without a pause.

    Each looks `reads` times, or fewer if what was seen is `enough`, or if `seconds` are over
    (`time_for(reads)` if none are given). They take turns in this thread; the writer needs a
    processor of its own to be fast.

    Raises LabError if a reader does not see the maps one by one even without a race, or if the
    kernel judges a map otherwise than it must; UnsupportedSystem on kernels that it would bring
    down; NotRecorded where a recording stands in for the kernel; SpecimenError.
    """
    refuse_dangerous(facts)
    with ExitStack() as stack:
        specimen = stack.enter_context(Specimen())
        if type(specimen) is not Specimen:
            raise NotRecorded("A race comes out otherwise each time, so it is not recorded")
        stage = set_the_stage(specimen, facts)
        counting = [_Counting(READERS[name], stage) for name in readers]
        descriptors = [
            stack.enter_context(_opened(specimen.pid, each.reader.file)) for each in counting
        ]
        _rehearse(specimen, stage, counting, descriptors)
        with _writing(specimen, stage) as writer, _apart_from(specimen.pid):
            deadline = time.monotonic() + (time_for(reads) if seconds is None else seconds)
            for _ in range(-(-reads // _AT_ONCE)):
                for each, descriptor in zip(counting, descriptors, strict=True):
                    look = partial(each.reader.look, descriptor)
                    each.take(Counter(look() for _ in range(min(_AT_ONCE, reads))))
                tallies = {each.reader.name: each.tally for each in counting}
                if time.monotonic() > deadline or writer.done() or enough(tallies):
                    break
        rounds = writer.result()
    return Race(tallies, 2 * rounds, 2 * rounds)


def time_for(reads: int) -> float:
    """Return the seconds that a race of so many looks may take; a fifth is usual.

    >>> time_for(READS), time_for(5_000_000)
    (2.0, 500.0)
    """
    return max(_SECONDS, reads / _READS_A_SECOND)


def refuse_dangerous(facts: Facts) -> None:
    """Raise UnsupportedSystem on a kernel that a race of the call with cmdline can bring down.

    Since v4.2 its reader had a BUG_ON(arg_start > arg_end), and until v4.5 no lock kept the writer
    away (fixed by ddf1d398e517, in later stable kernels too). This is the one place where a number
    decides: to try it out is to crash.
    """
    if re.match(r"4\.[234](?!\d)", facts.release):
        raise UnsupportedSystem(
            f"Linux {facts.release} may be one that stops with BUG() in a race of this call with a "
            "reader of cmdline (v4.2 to v4.4)"
        )


@contextmanager
def _apart_from(pid: int) -> Iterator[None]:
    """Give the specimen one processor and this thread another, if there are two.

    On a busy machine the scheduler may else keep both on one, where they take turns of
    milliseconds and hardly ever meet.
    """
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        yield
        return
    first, second, *_ = sorted(allowed)
    os.sched_setaffinity(pid, {first})
    os.sched_setaffinity(0, {second})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def _opened(pid: int, file: str) -> Iterator[int]:
    try:
        descriptor = os.open(f"/proc/{pid}/{file}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UnsupportedSystem(f"/proc/PID/{file} cannot be read here: {error.strerror}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _rehearse(
    specimen: Specimen, stage: Stage, counting: Sequence[_Counting], descriptors: Sequence[int]
) -> None:
    """Make each call once and look at it in peace; raise LabError if that is not as it must be."""
    for bundle in stage.bundles:
        errno = specimen.set_map(bundle.map)
        if bool(errno) != bundle.is_refused:
            verdict = errno_name(errno) if errno else "accepted"
            raise LabError(f"before the race {bundle.name} was {verdict}")
        if bundle.is_refused:
            continue
        for each, descriptor in zip(counting, descriptors, strict=True):
            told = each.reader.told(each.reader.look(descriptor), stage)
            seen = judge(told, each.shows, each.refused)
            if seen.of != bundle.name:
                problem = seen.mixed or seen.strange or seen.of
                raise LabError(
                    f"before the race {each.reader.name} showed {problem} for {bundle.name}"
                )


@contextmanager
def _writing(specimen: Specimen, stage: Stage) -> Iterator[Future[int]]:
    """Have the calls made in another thread; its result is the number of rounds."""
    enough = threading.Event()
    array = b"".join(bundle.map.pack() for bundle in stage.bundles) * _ROUNDS

    def write() -> int:
        rounds = 0
        while not enough.is_set():
            errnos = specimen.set_maps(array)
            for place, bundle in enumerate(stage.bundles):
                wrong = errnos[place :: len(stage.bundles)]
                if wrong.count(0) != (0 if bundle.is_refused else _ROUNDS):
                    raise LabError(f"in the race {bundle.name} was judged now so, now otherwise")
            rounds += _ROUNDS
        return rounds

    with ThreadPoolExecutor(1, "writer of maps") as pool:
        writer = pool.submit(write)
        try:
            yield writer
        finally:
            enough.set()
