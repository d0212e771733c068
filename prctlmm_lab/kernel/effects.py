"""Effects: what /proc and brk() will show after the call, worked out without making it.

`shown_after` is a pure function from the snapshot before, the memory that will be read, an accepted
map and the facts of a kernel to the snapshot after. `brk_after` says what brk() then answers.

Source: fs/proc/array.c (stat), fs/proc/task_mmu.c (statm, status, maps), fs/proc/base.c (cmdline,
environ, auxv, exe), mm/memory.c (__access_remote_vm), mm/vma.c (expand_downwards), mm/mmap.c (brk).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from prctlmm_lab.kernel.abi import NO_EXE, U64, PrctlMmMap
from prctlmm_lab.kernel.difference import Change, difference
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import READ_SIZE, STAT_MEMBERS, Snapshot, Stat, Unreadable, Vma


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
    "overlap of VMA and heap since v6.7 and in 6.6.y (d3bb89ea9c13); before, a VMA that only "
    "touched the heap's edge was called [heap] too"
)

EFFECTS: tuple[Effect, ...] = (
    Effect("stat", "ten members stand in stat as they are", STAT_MEMBERS, "all but brk",
           "do_task_stat", _STAT_HISTORY),
    Effect("statm.text", "statm's fourth column counts the pages of the code, unclamped",
           ("start_code", "end_code"), "start_code, end_code", "task_statm", "since v3.18"),
    Effect("status.code", "VmExe is the code, at most what is executable; VmLib is the rest",
           ("start_code", "end_code"), "", "task_mem", "clamped since v4.18 (8526d84f8171)"),
    Effect("cmdline", "cmdline shows the bytes from arg_start to arg_end, or a title",
           ("arg_start", "arg_end", "env_start", "env_end"), "arg_start, arg_end",
           "get_mm_cmdline, get_mm_proctitle",
           "anonymous memory only since v4.17 (7f7ccc2ccc2e); titles of one page since v5.3 "
           "(d26d0cd97c88)"),
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
           "since v3.18"),
    Effect("brk.shrink", "brk() moves down to start_brk and unmaps whatever lies between",
           ("start_brk", "brk"), "start_brk", "brk",
           "needs something mapped there since v6.1; before, it moved over holes too"),
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
    vector: bytes = b""
    """The auxv_size bytes at auxv."""
    exe_link: str = ""
    """What the link of the descriptor exe_fd reads."""
    unknown: tuple[int, int] = (0, 0)
    """A range, its end exclusive, whose bytes may change at any moment."""
    reader_stack_limit: int = U64
    """RLIMIT_STACK of the process that reads /proc: how far its reading may grow a stack."""
    reader_size_limit: int = U64
    """RLIMIT_AS of that process, which is held against the size of the one that is read."""
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
    known = before.members
    if not isinstance(before.maps, Unreadable) and len(known) == len(STAT_MEMBERS) + 1:
        _cmdline(space, PrctlMmMap(**known))
        _environ(space, PrctlMmMap(**known))
    vmas = space.vmas
    executable = executable_bytes(vmas, memory.grows_down)
    grown = space.grown
    return replace(
        before,
        stat=_known(before.stat, lambda stat: _stat(stat, new, grown)),
        statm=_known(before.statm, lambda statm: _statm(statm, new, grown, facts)),
        status=_known(before.status, lambda status: _status(status, new, grown, executable, facts)),
        maps=_known(before.maps, lambda _: tuple(labelled(vmas, new, facts))),
        cmdline=_known(before.cmdline, lambda _: _cmdline(space, new)),
        environ=_known(before.environ, lambda _: _environ(space, new)),
        auxv=_known(before.auxv, lambda auxv: _auxv(auxv, new, memory.vector, facts)),
        exe=_known(before.exe, lambda exe: exe if new.exe_fd == NO_EXE else memory.exe_link),
        brk=None if before.brk is None else new.brk,
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
            shown[name] = _bytes(status[name]) + grown
    return {**status, **{name: f"{size // 1024} kB" for name, size in shown.items()}}


def _bytes(text: str) -> int:
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
    if facts.touching_heap_labelled:
        return vma.start <= new.brk and vma.end >= new.start_brk
    return vma.start < new.brk and vma.end > new.start_brk


# ---- memory, as /proc reads it ----------------------------------------------------------------


STACK_GUARD_PAGES = 256
"""How near the stack may come to other memory: the kernel's stack_guard_gap."""


@dataclass
class _Space:
    """An address space while /proc reads it: reading may grow what grows down."""

    vmas: list[Vma]
    memory: Memory
    lowest: int
    page: int
    grown: int = 0
    parts: list[tuple[int, bytes]] = field(default_factory=list)

    def read(self, address: int, length: int) -> bytes | Any:
        """Return the bytes up to the first that cannot be read, or UNKNOWN.

        The kernel reads anonymous memory only (FOLL_ANON), and no memory without `r`.
        """
        end = address
        while end < address + length:
            vma = self._at(end) or self._grow(end)
            if vma is None or not vma.is_anonymous or vma.permissions[0] != "r":
                break
            end = min(vma.end, address + length)
        first, last = self.memory.unknown
        if address < last and first < end:
            return UNKNOWN
        return self._bytes(address, end)

    def _at(self, address: int) -> Vma | None:
        position = bisect_right(self.vmas, address, key=lambda vma: vma.start)
        vma = self.vmas[position - 1] if position else None
        return vma if vma is not None and address < vma.end else None

    def _bytes(self, start: int, end: int) -> bytes:
        data = bytearray(end - start)
        for address, part in self.parts:
            first, last = max(address, start), min(address + len(part), end)
            if first < last:
                data[first - start : last - start] = part[first - address : last - address]
        return bytes(data)

    def _grow(self, address: int) -> Vma | None:
        """Do what the kernel does when something below a VMA that grows down is touched."""
        position = bisect_right(self.vmas, address, key=lambda vma: vma.start)
        if position == len(self.vmas) or self.vmas[position].end not in self.memory.grows_down:
            return None
        vma, start = self.vmas[position], address // self.page * self.page
        below = self.vmas[position - 1] if position else None
        near = (
            below is not None
            and below.end not in self.memory.grows_down
            and below.permissions[:3] != "---"
            and start - below.end < STACK_GUARD_PAGES * self.page
        )
        more = vma.start - start
        size = sum(v.size for v in self.vmas if v.label != "[vsyscall]")
        too_large = (
            vma.end - start > self.memory.reader_stack_limit
            or size + more > self.memory.reader_size_limit
        )
        if near or too_large or start < self.lowest:
            return None
        self.vmas[position] = replace(vma, start=start)
        self.grown += more
        return self.vmas[position]


def _space_of(before: Snapshot, memory: Memory, facts: Facts) -> _Space:
    return _Space(
        list(before.vmas),
        memory,
        facts.lowest,
        facts.page_size,
        parts=sorted(memory.parts.items()),
    )


def soft_limit(snapshot: Snapshot, name: str) -> int:
    """Return a soft limit in bytes; 2**64 - 1 where it is unlimited or not known."""
    limit = None if isinstance(snapshot.limits, Unreadable) else snapshot.limits.get(name)
    return U64 if limit is None or limit.soft is None else limit.soft


def _cmdline(space: _Space, new: PrctlMmMap) -> bytes | Any:
    """Return cmdline: the arguments, or a title where the last byte of them is not zero.

    A title may run on into the environment that follows at once (setproctitle); it ends at its
    first zero byte and within a page.
    """
    if not new.env_end or new.arg_start >= new.arg_end:
        return b""
    last = space.read(new.arg_end - 1, 1)
    if last is UNKNOWN:
        return UNKNOWN
    if last in (b"", b"\0"):
        return _read_on(space, new.arg_start, new.arg_end)
    adjacent = new.env_start == new.arg_end and new.env_end >= new.env_start
    end = new.env_end if adjacent else new.arg_end
    text = space.read(new.arg_start, space.page)
    if text is UNKNOWN:
        return UNKNOWN
    zero = text.find(b"\0")
    title = text if zero < 0 else text[: zero + 1]
    return title[: end - new.arg_start]


def _read_on(space: _Space, start: int, end: int) -> bytes | Any:
    """Read a page's worth at a time, up to the first byte that cannot be read."""
    shown = []
    while start < end:
        got = space.read(start, min(space.page, end - start))
        if got is UNKNOWN:
            return UNKNOWN
        if not got:
            break
        shown.append(got)
        start += len(got)
    return b"".join(shown)


def _environ(space: _Space, new: PrctlMmMap) -> bytes | Any:
    """Return environ as a reader with a large buffer gets it.

    Where the range runs into a hole, the read that meets it returns nothing at all, not even what
    lay before the hole (environ_read).
    """
    shown, start = b"", new.env_start
    while new.env_end and start < new.env_end:
        stop = min(new.env_end, start + READ_SIZE)
        got = _read_on(space, start, stop)
        if got is UNKNOWN:
            return UNKNOWN
        if len(got) < stop - start:
            break
        shown, start = shown + got, stop
    return shown


def _auxv(before: bytes, new: PrctlMmMap, vector: bytes, facts: Facts) -> bytes:
    """Return auxv: the saved vector up to the first pair of type 0; its last pair always is."""
    if not new.auxv_size:
        return before
    saved = vector.ljust(facts.auxv_capacity, b"\0")[:-16] + bytes(16)
    types = [kind for kind, _ in struct.iter_unpack("<2Q", saved)]
    return saved[: 16 * (types.index(0) + 1)]


# ---- brk() ------------------------------------------------------------------------------------


def brk_after(
    before: Snapshot, request: int, memory: Memory, facts: Facts
) -> tuple[int, tuple[Vma, ...]]:
    """Return what brk(request) answers, and the VMAs that there are then, labelled.

    `before` is what is shown now, with its brk. vm.max_map_count and strict accounting
    (vm.overcommit_memory of 2) are taken to have room.

    Raises ValueError for a snapshot that lacks stat, maps or brk.
    """
    members = before.members
    if len(members) != len(STAT_MEMBERS) + 1 or isinstance(before.maps, Unreadable):
        raise ValueError("the snapshot lacks stat, maps or brk")
    own = PrctlMmMap(**members)
    vmas = _moved(before, own, request, memory, facts)
    if vmas is None:
        return own.brk, before.maps
    return request, tuple(labelled(vmas, own.changed(brk=request), facts))


def _moved(
    before: Snapshot, own: PrctlMmMap, request: int, memory: Memory, facts: Facts
) -> list[Vma] | None:
    """Return the VMAs after brk() has moved, or None if it stays."""
    if request < own.start_brk:
        return None
    limit = soft_limit(before, "RLIMIT_DATA")
    need = (request - own.start_brk) + (own.end_data - own.start_data)
    if limit != U64 and need > limit:
        return None
    old, new = page_end(own.brk, facts), page_end(request, facts)
    if old == new:
        return list(before.vmas)
    if request <= own.brk:
        return _shrunk(before.vmas, new, old, facts)
    return _grown(before, own, old, new, memory, facts)


def _shrunk(vmas: Iterable[Vma], start: int, end: int, facts: Facts) -> list[Vma] | None:
    """Unmap whatever lies in a range; where nothing does, it depends on the kernel."""
    if not facts.hole_shrinks and not any(v.start < end and v.end > start for v in vmas):
        return None
    return list(_without(vmas, start, end))


def _without(vmas: Iterable[Vma], start: int, end: int) -> Iterator[Vma]:
    for vma in vmas:
        if vma.end <= start or end <= vma.start:
            yield vma
            continue
        if vma.start < start:
            yield replace(vma, end=start)
        if end < vma.end:
            moved = vma.offset + end - vma.start if vma.path else vma.offset
            yield replace(vma, start=end, offset=moved)


def _grown(
    before: Snapshot, own: PrctlMmMap, old: int, new: int, memory: Memory, facts: Facts
) -> list[Vma] | None:
    """Map the new pages, if they and one more have room, and the limits allow it."""
    vmas = before.vmas
    above = next((vma for vma in vmas if vma.end > old), None)
    if above is not None:
        guard = STACK_GUARD_PAGES * facts.page_size if above.end in memory.grows_down else 0
        if new + facts.page_size > max(above.start - guard, 0):
            return None
    if new > facts.highest + 1 or not _has_room(before, new - old, memory, facts):
        return None
    below = [vma for vma in vmas if vma.end <= old]
    last = below[-1] if below else None
    heap = Vma(old, new, "rw-p", 0, (0, 0), 0, "", "", False)
    joins = (
        last is not None
        and last.end == old
        and last.end > own.start_brk
        and last.is_anonymous
        and last.permissions == "rw-p"
        and last.end not in memory.grows_down
    )
    if joins and last is not None:
        below, heap = below[:-1], replace(last, end=new)
    return [*below, heap, *vmas[len(below) + joins :]]


def _has_room(before: Snapshot, more: int, memory: Memory, facts: Facts) -> bool:
    """Hold the new pages against RLIMIT_AS and, as data, against RLIMIT_DATA (since v4.5)."""
    pages = more // facts.page_size
    size = sum(v.size for v in before.vmas if v.label != "[vsyscall]") // facts.page_size
    if size + pages > soft_limit(before, "RLIMIT_AS") // facts.page_size:
        return False
    if more > memory.most_at_once:
        return False
    data = sum(v.size for v in before.vmas if is_data(v, memory.grows_down)) // facts.page_size
    soft, hard = (soft_limit(before, "RLIMIT_DATA"), _hard_data_limit(before))
    if data + pages <= soft // facts.page_size:
        return True
    return soft == 0 and data + pages <= hard // facts.page_size


def is_data(vma: Vma, grows_down: frozenset[int]) -> bool:
    """Tell whether the kernel counts a VMA as data: private, writable, no stack (mm->data_vm)."""
    return vma.permissions[1] == "w" and vma.permissions[3] == "p" and vma.end not in grows_down


def _hard_data_limit(before: Snapshot) -> int:
    limit = None if isinstance(before.limits, Unreadable) else before.limits.get("RLIMIT_DATA")
    return U64 if limit is None or limit.hard is None else limit.hard
