"""Effects: what /proc and brk() will show after the call, worked out without making it.

`shown_after` is a pure function from the snapshot before, the memory that will be read, an accepted
map and the facts of a kernel to the snapshot after. `brk_after` says what brk() then answers.

Source: fs/proc/array.c (stat), fs/proc/task_mmu.c (statm, status, maps), fs/proc/base.c (cmdline,
environ, auxv, exe), mm/memory.c (__access_remote_vm), mm/vma.c (expand_downwards), mm/mmap.c (brk).
"""

from __future__ import annotations

import errno
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prctlmm_lab.kernel.abi import NO_EXE, U64, PrctlMmMap
from prctlmm_lab.kernel.difference import Change, difference
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import (
    LONGEST_SHOWN,
    READ_SIZE,
    STAT_MEMBERS,
    Snapshot,
    Stat,
    Unreadable,
    Vma,
)


@dataclass(frozen=True)
class Effect:
    """One thing that the map decides: where it shows, and since when."""

    id: str
    title: str
    members: tuple[str, ...]
    paragraph: str
    """The member's paragraph of commit f606b77f1a's message that names it, or "" for none."""
    source: str
    history: str


_STAT_HISTORY = "since v3.18, unchanged to v7.3; brk is not shown there"
_HEAP_HISTORY = (
    "overlap of VMA and heap since v6.7 (d3bb89ea9c13); before, a VMA that only "
    "touched the heap's edge was called [heap] too"
)

EFFECTS: tuple[Effect, ...] = (
    Effect("stat", "ten members stand in stat as they are", STAT_MEMBERS, "all but brk",
           "do_task_stat", _STAT_HISTORY),
    Effect("statm.text", "statm's fourth column counts the pages of the code, unclamped",
           ("start_code", "end_code"), "start_code, end_code", "task_statm", "since v3.18"),
    Effect("status.code", "VmExe is the code, at most what is executable; VmLib is the rest",
           ("start_code", "end_code"), "", "task_mem", "clamped since v4.16 (8526d84f8171)"),
    Effect("cmdline", "cmdline shows the bytes from arg_start to arg_end, or a title",
           ("arg_start", "arg_end", "env_start", "env_end"), "arg_start, arg_end",
           "get_mm_cmdline, get_mm_proctitle",
           "anonymous memory only since v4.17 (7f7ccc2ccc2e); titles of one page since v5.3 "
           "(d26d0cd97c88); in v6.1 stable kernels a title ends at the gap below a stack, by a "
           "part of v6.5 (8d7071af8907)"),
    Effect("environ", "environ shows the bytes from env_start to env_end",
           ("env_start", "env_end"), "env_start, env_end", "environ_read",
           "anonymous memory only since v4.17 (7f7ccc2ccc2e)"),
    Effect("auxv", "auxv shows the new vector up to its first AT_NULL", ("auxv", "auxv_size"),
           "auxv, auxv_size", "auxv_read", "since v3.18"),
    Effect("exe", "the exe link names the new file", ("exe_fd",), "exe_fd", "proc_exe_link",
           "since v3.18"),
    Effect("maps.heap", "anonymous VMAs between start_brk and brk are called [heap]",
           ("start_brk", "brk"), "start_brk, brk", "vma_is_initial_heap", _HEAP_HISTORY),
    Effect("maps.stack", "anonymous VMAs at start_stack, ends included, are called [stack]",
           ("start_stack",), "start_stack", "vma_is_initial_stack",
           "by start_stack alone since v4.5 and v4.9; before, a thread's stack pointer counted"),
    Effect("brk", "brk(0) answers brk", ("brk",), "brk", "brk", "since v3.18"),
    Effect("brk.grow", "brk() grows from brk on, where there is room",
           ("start_brk", "brk", "start_data", "end_data"), "brk", "brk, do_brk_flags",
           "an empty heap is an area of its own since v6.1 (2e7ce7d354f2); before, it extended "
           "memory that ended at start_brk"),
    Effect("brk.shrink", "brk() moves down to start_brk and unmaps whatever lies between",
           ("start_brk", "brk"), "start_brk", "brk",
           "needs something mapped there since v6.1 (2e7ce7d354f2); before, holes were no matter"),
    Effect("brk.limit", "heap and data together stay within RLIMIT_DATA",
           ("start_brk", "start_data", "end_data"), "start_data, end_data", "check_data_rlimit",
           "since v3.18"),
    Effect("nothing", "a call that is refused changes nothing at all", (), "", "prctl_set_mm_map",
           "since v3.18"),
    Effect("unchanged", "what is mapped, counted and named otherwise stays as it was", (), "",
           "prctl_set_mm_map", "since v3.18"),
)  # fmt: skip
"""Every effect of the call, each cited by the cases that show it."""

EFFECT: dict[str, Effect] = {effect.id: effect for effect in EFFECTS}


@dataclass(frozen=True)
class Memory:
    """What the call, and later reads of /proc, find in the memory of a process."""

    parts: Mapping[int, bytes] = field(default_factory=dict)
    """Address -> contents of anonymous memory, without overlaps; elsewhere it holds zeros."""
    grows_down: frozenset[int] = frozenset()
    """The ends (exclusive) of the VMAs that grow down when something below them is touched."""
    moved: frozenset[int] = frozenset()
    """The starts of VMAs that mremap() moved there with their pages: they join no neighbour."""
    mapped: frozenset[tuple[int, int]] = frozenset()
    """Ranges, their ends exclusive, of anonymous memory that mmap() made, and not brk()."""
    vector: bytes = b""
    """The auxv_size bytes at auxv."""
    exe_link: str = ""
    """What the link of the descriptor exe_fd reads."""
    unknown: tuple[int, int] = (0, 0)
    """A range, its end exclusive, whose bytes may change at any moment."""
    reader_stack_limit: int = U64
    """RLIMIT_STACK of the process that reads /proc: how far its reading may grow a stack."""
    most_at_once: int = U64
    """What brk() may map in one go: RAM and swap together, unless vm.overcommit_memory is 1."""


class Unknown:
    """Stands in a predicted snapshot for what cannot be told before."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: Any = Unknown()


def shown_after(before: Snapshot, new: PrctlMmMap, memory: Memory, facts: Facts) -> Snapshot:
    """Return what /proc and brk() will show after an accepted map.

    Parts of `before` that could not be read stay so. Taking `before` may itself have grown the
    stack, if its cmdline or environ lay below it: that is taken into account.
    """
    space = _space_of(before, memory, facts)
    vmas, grown = tuple(space.vmas), space.grown
    executable = executable_bytes(vmas, memory.grows_down)
    return replace(
        before,
        stat=_known(before.stat, lambda stat: _stat(stat, new, grown)),
        statm=_known(before.statm, lambda statm: _statm(statm, new, grown, facts)),
        status=_known(before.status, lambda status: _status(status, new, grown, executable, facts)),
        maps=_known(before.maps, lambda _: tuple(labelled(vmas, new, facts))),
        cmdline=_shown_bytes(
            before.cmdline, new.arg_end - new.arg_start, lambda: _told(space, _cmdline, new)
        ),
        environ=_shown_bytes(
            before.environ, new.env_end - new.env_start, lambda: _told(space, _environ, new)
        ),
        auxv=_known(before.auxv, lambda auxv: _auxv(auxv, new, memory.vector, facts)),
        exe=_known(before.exe, lambda exe: exe if new.exe_fd == NO_EXE else memory.exe_link),
        brk=new.brk,
    )


def disagreements(predicted: Snapshot, after: Snapshot) -> tuple[Change, ...]:
    """Return what a snapshot shows otherwise than predicted: `before` is the prediction.

    The task's flags are not predicted: among others, a capability that was used shows there.
    """
    return tuple(
        change
        for change in difference(predicted, after)
        if change.before is not UNKNOWN and (change.place, change.name) != ("stat", "flags")
    )


def _shown_bytes(part: Any, length: int, shown: Callable[[], Any]) -> Any:
    """Predict what lies between two addresses, unless it is too much or was too much before."""
    too_long = isinstance(part, Unreadable) and part.errno == errno.EFBIG
    if length > LONGEST_SHOWN or too_long:
        return UNKNOWN
    return _known(part, lambda _: shown())


def _known(part: Any, shown: Callable[[Any], Any]) -> Any:
    return part if isinstance(part, Unreadable) else shown(part)


# ---- numbers ----------------------------------------------------------------------------------


def _stat(stat: Stat, new: PrctlMmMap, grown: int) -> Stat:
    if stat["start_code"] == stat["end_code"] == 1:
        return stat  # what a reader without permission is shown instead
    numbers = dict(stat.numbers)
    numbers["vsize"] += grown
    for name in STAT_MEMBERS:
        numbers[name] = getattr(new, name)
    return replace(stat, numbers=numbers)


def _statm(
    statm: Mapping[str, int], new: PrctlMmMap, grown: int, facts: Facts
) -> Mapping[str, int]:
    pages = grown // facts.page_size
    return {
        **statm,
        "size": statm["size"] + pages,
        "text": code_size(new, facts) // facts.page_size,
        "data": statm["data"] + pages,
    }


def _status(
    status: Mapping[str, str], new: PrctlMmMap, grown: int, executable: int, facts: Facts
) -> Mapping[str, str]:
    code = code_size(new, facts)
    if facts.code_size_clamped:
        code = min(code, executable)
    shown = {"VmExe": code, "VmLib": (executable - code) & U64}
    for name in ("VmSize", "VmStk"):
        if name in status:
            shown[name] = _size_of(status[name]) + grown
    return {**status, **{name: f"{size // 1024} kB" for name, size in shown.items()}}


def _size_of(text: str) -> int:
    return int(text.split()[0]) * 1024


def code_size(new: PrctlMmMap, facts: Facts) -> int:
    """Return the bytes of the pages that start_code to end_code touch."""
    return page_end(new.end_code, facts) - new.start_code // facts.page_size * facts.page_size


def page_end(address: int, facts: Facts) -> int:
    """Return the address rounded up to a page, as PAGE_ALIGN does."""
    return -(-address // facts.page_size) * facts.page_size


def executable_bytes(vmas: Iterable[Vma], grows_down: frozenset[int]) -> int:
    """Return what the kernel counts as code: what is executable and not writable (mm->exec_vm)."""
    return sum(
        vma.size
        for vma in vmas
        if "x" in vma.permissions
        and "w" not in vma.permissions
        and vma.label != "[vsyscall]"
        and vma.end not in grows_down
    )


# ---- labels -----------------------------------------------------------------------------------


def labelled(vmas: Iterable[Vma], new: PrctlMmMap, facts: Facts) -> Iterator[Vma]:
    """Yield the VMAs with the labels that the map gives them; files keep their names."""
    for vma in vmas:
        if not vma.is_anonymous:
            yield vma
            continue
        label = "" if vma.label in ("[heap]", "[stack]") else vma.label
        if is_heap(vma, new, facts):
            label = "[heap]"
        elif vma.start <= new.start_stack <= vma.end:
            label = "[stack]"
        yield vma if label == vma.label else replace(vma, label=label)


def is_heap(vma: Vma, new: PrctlMmMap, facts: Facts) -> bool:
    """Tell whether the kernel calls an anonymous VMA [heap]."""
    return touches_heap(vma, new) if facts.touching_heap_labelled else overlaps_heap(vma, new)


def overlaps_heap(vma: Vma, new: PrctlMmMap) -> bool:
    """Tell whether a VMA and the heap overlap; an empty heap overlaps what it lies inside."""
    return vma.start < new.brk and vma.end > new.start_brk


def touches_heap(vma: Vma, new: PrctlMmMap) -> bool:
    """Tell whether they touch, which was enough up to v6.6."""
    return vma.start <= new.brk and vma.end >= new.start_brk


# ---- memory, as /proc reads it ----------------------------------------------------------------


STACK_GUARD_PAGES = 256
"""How near the stack may come to other memory: the kernel's stack_guard_gap."""


@dataclass
class _Space:
    """An address space while /proc reads it: reading may grow what grows down."""

    vmas: list[Vma]
    memory: Memory
    page: int
    crossing_grows: bool = True
    """What grows down also grows under a read that began in other memory."""
    grown: int = 0
    met_unknown: bool = False
    """Some of the bytes that were read are not known."""
    parts: list[tuple[int, bytes]] = field(default_factory=list)

    def read(self, address: int, length: int) -> bytes:
        """Return the bytes up to the first that cannot be read, as a loop of reads gets them.

        The kernel reads anonymous memory only (FOLL_ANON), and no memory without `r`.
        """
        return self._read(address, length, crossing_grows=True)

    def read_once(self, address: int, length: int) -> bytes:
        """Return the bytes up to the first that one read (__access_remote_vm) does not get."""
        return self._read(address, length, crossing_grows=self.crossing_grows)

    def _read(self, address: int, length: int, *, crossing_grows: bool) -> bytes:
        end, stop = address, address + length
        for _ in self.vmas:
            vma = None if end == stop else self._at(end)
            if vma is None and end != stop and (crossing_grows or end == address):
                vma = self._grow(end)
            if vma is None or not vma.is_anonymous or vma.permissions[0] != "r":
                break
            end = min(vma.end, stop)
        return self._bytes(address, end)

    def _at(self, address: int) -> Vma | None:
        position = bisect_right(self.vmas, address, key=lambda vma: vma.start)
        vma = self.vmas[position - 1] if position else None
        return vma if vma is not None and address < vma.end else None

    def _bytes(self, start: int, end: int) -> bytes:
        self.met_unknown |= any(_overlap(start, end, *self.memory.unknown))
        data = bytearray(end - start)
        for address, part in self.parts:
            if end <= address:
                break
            for first, last in _overlap(start, end, address, address + len(part)):
                data[first - start : last - start] = part[first - address : last - address]
        return bytes(data)

    def _grow(self, address: int) -> Vma | None:
        """Do what the kernel does when something below a VMA that grows down is touched.

        The stack's limit is that of the process that reads.
        """
        start = address // self.page * self.page
        position = bisect_right(self.vmas, address, key=lambda vma: vma.start)
        below, above = self.vmas[:position], self.vmas[position:]
        if not above or above[0].end not in self.memory.grows_down:
            return None
        if any(self._is_too_near(start, vma) for vma in below[-1:]):
            return None
        if above[0].end - start > self.memory.reader_stack_limit:
            return None
        self.grown += above[0].start - start
        self.vmas[position] = replace(above[0], start=start)
        return self.vmas[position]

    def _is_too_near(self, start: int, below: Vma) -> bool:
        if below.end in self.memory.grows_down or below.permissions[:3] == "---":
            return False
        return start - below.end < STACK_GUARD_PAGES * self.page


def _overlap(start: int, end: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield what two ranges have in common, if anything."""
    low, high = max(start, first), min(end, last)
    if low < high:
        yield low, high


def _space_of(before: Snapshot, memory: Memory, facts: Facts) -> _Space:
    """Return the address space as taking the snapshot left it: its maps are read before cmdline."""
    space = _Space(
        list(before.vmas),
        memory,
        facts.page_size,
        facts.crossing_read_grows,
        parts=sorted(memory.parts.items()),
    )
    if not isinstance(before.maps, Unreadable) and _has_all_members(before):
        _cmdline(space, PrctlMmMap(**before.members))
        _environ(space, PrctlMmMap(**before.members))
    return space


def _has_all_members(snapshot: Snapshot) -> bool:
    return len(snapshot.members) == len(STAT_MEMBERS) + 1


def soft_limit(snapshot: Snapshot, name: str) -> int:
    """Return a soft limit in bytes; 2**64 - 1 where it is unlimited or not known."""
    limit = None if isinstance(snapshot.limits, Unreadable) else snapshot.limits.get(name)
    return U64 if limit is None or limit.soft is None else limit.soft


def _told(
    space: _Space, shown: Callable[[_Space, PrctlMmMap], bytes], new: PrctlMmMap
) -> bytes | Any:
    """Return what is shown, or UNKNOWN where that hangs on bytes that are not known."""
    space.met_unknown = False
    text = shown(space, new)
    return UNKNOWN if space.met_unknown else text


def _cmdline(space: _Space, new: PrctlMmMap) -> bytes:
    """Return cmdline: the arguments, or a title where the last byte of them is not zero.

    A title may run on into the environment that follows at once (setproctitle); it ends at its
    first zero byte and within a page.
    """
    if new.arg_start >= new.arg_end:
        return b""
    last = space.read(new.arg_end - 1, 1)
    if last in (b"", b"\0"):
        return space.read(new.arg_start, new.arg_end - new.arg_start)
    end = new.env_end if new.env_start == new.arg_end else new.arg_end
    text = space.read_once(new.arg_start, space.page)
    zero = text.find(b"\0")
    title = text if zero < 0 else text[: zero + 1]
    return title[: end - new.arg_start]


def _environ(space: _Space, new: PrctlMmMap) -> bytes:
    """Return environ as a reader with a large buffer gets it.

    Where the range runs into a hole, the read that meets it returns nothing at all, not even what
    lay before the hole (environ_read).
    """
    shown, length = b"", new.env_end - new.env_start
    for offset in range(0, length, READ_SIZE):
        wanted = min(READ_SIZE, length - offset)
        got = space.read(new.env_start + offset, wanted)
        if len(got) < wanted:
            break
        shown += got
    return shown


def _auxv(before: bytes, new: PrctlMmMap, vector: bytes, facts: Facts) -> bytes:
    """Return auxv: the saved vector up to the first pair of type 0; its last pair always is."""
    if not new.auxv_size:
        return before
    saved = vector.ljust(facts.auxv_capacity, b"\0")[: facts.auxv_capacity - 16] + bytes(16)
    types = [kind for kind, _ in struct.iter_unpack("<2Q", saved)]
    return saved[: 16 * (types.index(0) + 1)]


# ---- brk() ------------------------------------------------------------------------------------


def brk_after(
    before: Snapshot, request: int, memory: Memory, facts: Facts
) -> tuple[int, tuple[Vma, ...]]:
    """Return what brk(request) answers, and the VMAs that there are then, labelled.

    `before` is what is shown now, with its brk. RLIMIT_AS, RLIMIT_MEMLOCK, vm.max_map_count and
    strict accounting (vm.overcommit_memory of 2) are taken to have room.

    Raises ValueError for a snapshot that lacks stat, maps or brk.
    """
    _require_all(before)
    own = PrctlMmMap(**before.members)
    now = _space_of(before, memory, facts).vmas
    vmas = _moved(now, own, request, memory, facts, soft_limit(before, "RLIMIT_DATA"))
    if vmas is None:
        return own.brk, tuple(labelled(now, own, facts))
    return request, tuple(labelled(vmas, own.changed(brk=request), facts))


def _require_all(before: Snapshot) -> None:
    if not _has_all_members(before) or isinstance(before.maps, Unreadable):
        raise ValueError("the snapshot lacks stat, maps or brk")


def _moved(
    vmas: list[Vma], own: PrctlMmMap, request: int, memory: Memory, facts: Facts, limit: int
) -> list[Vma] | None:
    """Return the VMAs after brk() has moved, or None if it stays."""
    need = (request - own.start_brk) + (own.end_data - own.start_data)
    if request < own.start_brk or need > limit:
        return None
    old, new = page_end(own.brk, facts), page_end(request, facts)
    joins = any(_joins(vma, old, own, memory, facts) for vma in vmas)
    return _moved_pages(vmas, old, new, memory, facts, limit, joins=joins)


def _moved_pages(
    vmas: list[Vma], old: int, new: int, memory: Memory, facts: Facts, limit: int, *, joins: bool
) -> list[Vma] | None:
    if new > old:
        return _grown(vmas, old, new, memory, facts, limit, joins=joins)
    if new < old:
        return _shrunk(vmas, new, old, facts)
    return vmas


def _shrunk(vmas: list[Vma], start: int, end: int, facts: Facts) -> list[Vma] | None:
    """Unmap whatever lies in a range; where nothing does, it depends on the kernel."""
    left = list(_without(vmas, start, end))
    return None if left == vmas and not facts.hole_shrinks else left


def _without(vmas: Iterable[Vma], start: int, end: int) -> Iterator[Vma]:
    for vma in vmas:
        if vma.start < start:
            yield replace(vma, end=min(vma.end, start))
        if end < vma.end:
            first = max(vma.start, end)
            moved = first - vma.start if vma.path else 0
            yield replace(vma, start=first, offset=vma.offset + moved)


def _grown(
    vmas: list[Vma], old: int, new: int, memory: Memory, facts: Facts, limit: int, *, joins: bool
) -> list[Vma] | None:
    """Map the new pages, if they and one more have room, and the limits allow it."""
    below = [vma for vma in vmas if vma.end <= old]
    above = vmas[len(below) :]
    data = sum(vma.size for vma in vmas if is_data(vma, memory.grows_down))
    if (
        any(new + facts.page_size > _first_use(vma, memory, facts) for vma in above[:1])
        or new > facts.highest + 1
        or new - old > memory.most_at_once
        or data + (new - old) > limit // facts.page_size * facts.page_size
    ):
        return None
    if joins:
        return [*below[:-1], replace(below[-1], end=new), *above]
    return [*below, Vma(old, new, "rw-p", 0, (0, 0), 0, "", "", False), *above]


def _first_use(vma: Vma, memory: Memory, facts: Facts) -> int:
    """Return where a VMA's claim begins: a gap is kept below what grows down."""
    gap = STACK_GUARD_PAGES * facts.page_size if vma.end in memory.grows_down else 0
    return vma.start - gap


def _joins(vma: Vma, old: int, own: PrctlMmMap, memory: Memory, facts: Facts) -> bool:
    """Tell whether new pages of the heap become a part of the VMA that ends there."""
    return (
        vma.end == old
        and (vma.end > own.start_brk or facts.hole_shrinks)
        and vma.is_anonymous
        and vma.permissions == "rw-p"
        and vma.end not in memory.grows_down
        and vma.start not in memory.moved
        and (facts.mapped_memory_joins or not any(s < old <= e for s, e in memory.mapped))
    )


def is_data(vma: Vma, grows_down: frozenset[int]) -> bool:
    """Tell whether the kernel counts a VMA as data: private, writable, no stack (mm->data_vm)."""
    return vma.permissions[1] == "w" and vma.permissions[3] == "p" and vma.end not in grows_down
