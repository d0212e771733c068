"""A specimen at one moment, as a recording holds it, and what simple system calls make of it.

A state is what /proc shows, the memory that can be read, and what the rules ask about descriptors.
The edits are pure: from one state to the next. They follow mm/vma.c and mm/mmap.c only as far as
that is plain; what is not plain raises `NotRecorded`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from prctlmm_lab.errors import SystemCallError, UnsupportedSystem
from prctlmm_lab.kernel.abi import U64, PrctlMmMap
from prctlmm_lab.kernel.effects import STACK_GUARD_PAGES, Memory, brk_after, is_data, labelled
from prctlmm_lab.kernel.effects import executable_bytes as executable
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import (
    KERNEL_PAGES,
    Beside,
    Limit,
    Snapshot,
    Stat,
    Unreadable,
    Vma,
)
from prctlmm_lab.kernel.rules import ExeFile

PAGE = 4096
_HUGE = 1 << 21
"""From this length on the kernel may align a mapping, for huge pages."""


class NotRecorded(UnsupportedSystem):
    """Say that a recording does not hold what was asked, and that it cannot be worked out."""

    def __init__(self, what: str, remedy: str = "On Linux the real call is made.") -> None:
        super().__init__(what, remedy)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.problem, self.remedy)


@dataclass(frozen=True)
class Descriptor:
    """An open file of the specimen: what its link reads, and what the rules ask about it."""

    link: str
    file: ExeFile
    kind: int
    """Its mode, as fstat(2) tells it."""
    device: int
    """The number of the device that it is, 0 for any other file."""


@dataclass(frozen=True)
class State:
    """A specimen at one moment."""

    snapshot: Snapshot
    pages: Mapping[int, bytes]
    """Address -> contents of the pages that are not all zero, but for the kernel's own."""
    kernel_pages: frozenset[int]
    """Which pages that the kernel put there can be read; their contents are not kept."""
    grows_down: frozenset[int]
    """The ends (exclusive) of the VMAs that grow down."""
    moved: frozenset[int]
    """Where `release_executable` has put memory by mremap()."""
    own_memory: tuple[int, int]
    """What its program uses, the end exclusive; it reads as zeros here."""
    identity: tuple[int, int, int, int]
    """uid, euid, gid and egid as it sees them itself."""
    beside: Beside
    descriptors: Mapping[int, Descriptor] = field(default_factory=dict)
    exe_changed: bool = False

    # ---- reading ------------------------------------------------------------------------------

    @property
    def vmas(self) -> tuple[Vma, ...]:
        """Its VMAs in ascending order."""
        return self.snapshot.vmas

    @property
    def own_map(self) -> PrctlMmMap:
        """The map that changes nothing."""
        return PrctlMmMap(**self.snapshot.members)

    def limit(self, name: str) -> tuple[int, int]:
        """Return a soft and hard limit, 2**64 - 1 for none."""
        limits = self.snapshot.limits
        known = {} if isinstance(limits, Unreadable) else limits
        if f"RLIMIT_{name}" not in known:
            raise NotRecorded(f"The limit {name} was not recorded")
        limit = known[f"RLIMIT_{name}"]
        return tuple(U64 if n is None else n for n in (limit.soft, limit.hard))  # type: ignore[return-value]

    def read(self, address: int, length: int) -> bytes:
        """Return bytes of memory that can all be read.

        Raises NotRecorded for the kernel's own pages.
        """
        data = bytearray(length)
        for vma in self.vmas:
            if vma.label in KERNEL_PAGES and vma.start < address + length and address < vma.end:
                raise NotRecorded(f"The contents of {vma.label} were not recorded")
        for page in _pages(address, address + length):
            if page in self.pages:
                first, last = max(page, address), min(page + PAGE, address + length)
                part = self.pages[page][first - page : last - page]
                data[first - address : last - address] = part
        return bytes(data)

    def reached(self, address: int, length: int, right: str) -> tuple[State, int]:
        """Return how far the specimen itself gets from an address on: the first byte it misses.

        The state may have grown on the way: memory that grows down does when it is touched.
        """
        state, at, end = self, address, address + length
        while at < end:
            vma = state.snapshot.vma_at(at)
            if vma is None:
                state, grew = state._grown(at)
                if not grew:
                    break
                continue
            if not state._allows(vma, at, right):
                break
            at = at // PAGE * PAGE + PAGE if vma.label in KERNEL_PAGES else vma.end
        return state, max(address, min(at, end))

    def _allows(self, vma: Vma, at: int, right: str) -> bool:
        if vma.label in KERNEL_PAGES:
            return right == "r" and at // PAGE * PAGE in self.kernel_pages
        # The processor has no right to write or execute without that to read.
        return vma.permissions[:3] != "---" if right == "r" else vma.permissions[1] == "w"

    def _grown(self, address: int) -> tuple[State, bool]:
        """Grow what grows down, if the kernel would: mm/vma.c, expand_downwards()."""
        start = address // PAGE * PAGE
        above = next((vma for vma in self.vmas if vma.start > address), None)
        below = [vma for vma in self.vmas if vma.end <= start][-1:]
        if above is None or above.end not in self.grows_down:
            return self, False
        if above.end - start > self.limit("STACK")[0]:
            return self, False
        for vma in below:
            near = start - vma.end < STACK_GUARD_PAGES * PAGE
            if near and vma.end not in self.grows_down and vma.permissions[:3] != "---":
                return self, False
        grown = replace(above, start=start)
        vmas = [grown if vma is above else vma for vma in self.vmas]
        return self.with_vmas(vmas, None), True

    # ---- editing ------------------------------------------------------------------------------

    def with_vmas(self, vmas: Iterable[Vma], facts: Facts | None) -> State:
        """Return the state with other VMAs; sizes follow, and with `facts` labels do too."""
        new = tuple(sorted(vmas, key=lambda vma: vma.start))
        if facts is not None:
            new = tuple(labelled(new, self.own_map, facts))
        there = {page for vma in new for page in self.pages if page in vma}
        pages = {page: data for page, data in self.pages.items() if page in there}
        ends = {vma.end for vma in new}
        snapshot = _resized(self.snapshot, new, self.grows_down)
        return replace(self, snapshot=snapshot, pages=pages, grows_down=self.grows_down & ends)

    def written(self, address: int, data: bytes) -> State:
        """Return the state after bytes were written where they can be."""
        pages = dict(self.pages)
        for page in _pages(address, address + len(data)):
            first, last = max(page, address), min(page + PAGE, address + len(data))
            old = pages.get(page, bytes(PAGE))
            part = data[first - address : last - address]
            new = old[: first - page] + part + old[last - page :]
            pages[page] = new
            if not any(new):
                del pages[page]
        return self if pages == self.pages else replace(self, pages=pages)

    def with_limit(self, name: str, soft: int, hard: int) -> State:
        """Return the state with another limit."""
        limits = self.snapshot.limits
        assert not isinstance(limits, Unreadable)
        numbers = (None if n == U64 else n for n in (soft, hard))
        changed = {**limits, f"RLIMIT_{name}": Limit(*numbers)}
        stat = self.snapshot.stat
        return replace(self, snapshot=replace(self.snapshot, limits=changed, stat=stat))

    def with_heap_end(self, request: int, memory: Memory, facts: Facts) -> tuple[int, State]:
        """Return what brk() answers, and the state after it."""
        answer, vmas = brk_after(self.snapshot, request, memory, facts)
        moved = replace(self, snapshot=replace(self.snapshot, brk=answer))
        return answer, moved.with_vmas(vmas, facts)

    def unmapped(self, start: int, length: int, facts: Facts) -> State:
        """Return the state without a range.

        Raises SystemCallError as munmap() does, NotRecorded if its program needs the range.
        """
        end = start + _whole_pages(length)
        if start % PAGE or not length or end > facts.highest + 1:
            raise SystemCallError(errno.EINVAL, "munmap", (start, length))
        self._spare_program(start, end)
        return self.with_vmas(_outside(self.vmas, start, end), facts)

    def protected(self, start: int, length: int, permissions: str, facts: Facts) -> State:
        """Return the state with other permissions in a range.

        Raises SystemCallError as mprotect() does, NotRecorded if its program needs the range.
        """
        end = start + _whole_pages(length)
        call = "mprotect", (start, length)
        if start % PAGE:
            raise SystemCallError(errno.EINVAL, *call)
        self._spare_program(start, end)
        inside = [vma for vma in _cut(self.vmas, start, end) if start <= vma.start < end]
        if sum(vma.size for vma in inside) != end - start:
            raise SystemCallError(errno.ENOMEM, *call)
        if any(not vma.is_anonymous or vma.permissions[3] == "s" for vma in inside):
            raise NotRecorded("A change of a file mapping's permissions was not recorded")
        letters = "".join(letter if letter in permissions else "-" for letter in "rwx")
        changed = [
            replace(vma, permissions=letters + vma.permissions[3])
            if start <= vma.start < end else vma
            for vma in _cut(self.vmas, start, end)
        ]  # fmt: skip
        old = {vma.start for vma in self.vmas}
        parts: list[Vma] = []
        for vma in changed:
            if parts and self._join(parts[-1], vma) and start <= vma.start <= end:
                if vma.start in old:
                    raise NotRecorded("Whether the kernel joins these areas was not recorded")
                vma = replace(parts.pop(), end=vma.end)
            parts.append(vma)
        return self.with_vmas(parts, facts)

    def mapped(
        self, length: int, at: int | None, permissions: str, top: int, facts: Facts
    ) -> tuple[int, State]:
        """Return where private anonymous memory is mapped, and the state after it.

        `top` is where the kernel begins to look for room, downwards (exclusive). Raises
        SystemCallError as mmap() does, NotRecorded where the place cannot be told.
        """
        size = _whole_pages(length)
        call = "mmap", (at or 0, length)
        if not length:
            raise SystemCallError(errno.EINVAL, *call)
        start = self._room(size, top) if at is None else at
        if at is not None:
            if at % PAGE:
                raise SystemCallError(errno.EINVAL, *call)
            if at + size > facts.highest + 1:
                raise SystemCallError(errno.ENOMEM, *call)
            if at < facts.lowest:
                raise SystemCallError(errno.EPERM, *call)
            if any(vma.start < at + size and at < vma.end for vma in self.vmas):
                raise SystemCallError(errno.EEXIST, *call)
        letters = "".join(letter if letter in permissions else "-" for letter in "rwx")
        new = Vma(start, start + size, f"{letters}p", 0, (0, 0), 0, "", "", False)
        if is_data(new, frozenset()) and self._data() + size > self._most_data():
            raise SystemCallError(errno.ENOMEM, *call)
        vmas = sorted([*self.vmas, new], key=lambda vma: vma.start)
        return start, self.with_vmas(self._joined(vmas, {start, start + size}), facts)

    def _room(self, size: int, top: int) -> int:
        if size >= _HUGE:
            raise NotRecorded("A mapping of 2 MiB or more was not recorded: its place is not known")
        end = top
        for vma in reversed([vma for vma in self.vmas if vma.start < top]):
            if end - vma.end >= size:
                return end - size
            gap = STACK_GUARD_PAGES * PAGE if vma.end in self.grows_down else 0
            end = min(end, vma.start - gap)
        raise NotRecorded("There is no room that was recorded")

    def _data(self) -> int:
        return sum(vma.size for vma in self.vmas if is_data(vma, self.grows_down))

    def _most_data(self) -> int:
        soft, hard = self.limit("DATA")
        return (soft or hard) // PAGE * PAGE  # mm/mmap.c, may_expand_vm(): 0 is forgiven

    def _spare_program(self, start: int, end: int) -> None:
        """Refuse to edit what the program runs on: the real one would be killed."""
        low, high = self.own_memory
        kept = (v for v in self.vmas if "x" in v.permissions or v.label in KERNEL_PAGES)
        for first, last in ((low, high), *((vma.start, vma.end) for vma in kept)):
            if start < last and first < end:
                what = "What becomes of a specimen without its own memory was not recorded"
                raise NotRecorded(what)

    def _joined(self, vmas: Iterable[Vma], new: set[int]) -> Iterator[Vma]:
        """Yield VMAs, those as one that the kernel would join at the borders of a `new` one.

        Raises NotRecorded where that hangs on what nobody can see: which of two old areas were
        ever written to, or could be (mm/vma.c, can_vma_merge_before(), is_mergeable_vma()).
        """
        last: Vma | None = None
        joined = 0
        for vma in vmas:
            if last is not None and self._join(last, vma) and last.end in new:
                joined += 1
                if joined > 1 or vma.permissions[1] != "w":
                    raise NotRecorded("Whether the kernel joins these areas was not recorded")
                last = replace(last, end=vma.end)
                continue
            if last is not None:
                yield last
            last = vma
        if last is not None:
            yield last

    def _join(self, low: Vma, high: Vma) -> bool:
        return (
            low.end == high.start
            and low.permissions == high.permissions
            and all(vma.is_anonymous and vma.permissions[3] == "p" for vma in (low, high))
            and not {low.end, high.end} & self.grows_down
            and not {low.start, high.start} & self.moved
        )


def _pages(start: int, end: int) -> range:
    return range(start // PAGE * PAGE, end, PAGE)


def _whole_pages(length: int) -> int:
    return -(-length // PAGE) * PAGE


def _cut(vmas: Iterable[Vma], *borders: int) -> Iterator[Vma]:
    """Yield VMAs, split at the borders."""
    for vma in vmas:
        start = vma.start
        for border in sorted(border for border in borders if vma.start < border < vma.end):
            yield _part(vma, start, border)
            start = border
        yield _part(vma, start, vma.end)


def _part(vma: Vma, start: int, end: int) -> Vma:
    moved = start - vma.start if vma.path else 0
    return replace(vma, start=start, end=end, offset=vma.offset + moved)


def _outside(vmas: Iterable[Vma], start: int, end: int) -> Iterator[Vma]:
    return (vma for vma in _cut(vmas, start, end) if vma.end <= start or end <= vma.start)


def _resized(snapshot: Snapshot, vmas: tuple[Vma, ...], grows_down: frozenset[int]) -> Snapshot:
    """Return a snapshot with other VMAs, and with the sizes that follow from them."""

    def more(counts: Callable[[Vma], bool]) -> int:
        sizes = (sum(vma.size for vma in each if counts(vma)) for each in (vmas, snapshot.vmas))
        return next(sizes) - next(sizes)

    total = more(lambda vma: vma.label != "[vsyscall]")
    data = more(lambda vma: is_data(vma, grows_down))
    stack = more(lambda vma: vma.end in grows_down)
    code = executable(vmas, grows_down) - executable(snapshot.vmas, grows_down)
    parts: dict[str, object] = {"maps": vmas}
    if isinstance(snapshot.stat, Stat):
        numbers = dict(snapshot.stat.numbers)
        numbers["vsize"] += total
        parts["stat"] = replace(snapshot.stat, numbers=numbers)
    if not isinstance(snapshot.statm, Unreadable):
        pages = {"size": total // PAGE, "data": (data + stack) // PAGE}
        parts["statm"] = {k: v + pages.get(k, 0) for k, v in snapshot.statm.items()}
    if not isinstance(snapshot.status, Unreadable):
        sizes = {"VmSize": total, "VmData": data, "VmStk": stack, "VmLib": code}
        parts["status"] = {k: _plus(v, sizes.get(k, 0)) for k, v in snapshot.status.items()}
    return replace(snapshot, **parts)  # type: ignore[arg-type]


def _plus(text: str, more: int) -> str:
    return f"{int(text.split()[0]) + more // 1024} kB" if more else text
