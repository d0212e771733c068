"""What a restorer does, as data: a list of steps that reads like the log of strace.

The order is CRIU's (criu/pie/restorer.c). The program that does the work must not lie where it
will map something, so it first moves itself into a hole of both layouts: CRIU calls such a program
its restorer blob. There it unmaps what is in the way, moves the vDSO, maps every area at its old
address, and makes the one call of PR_SET_MM_MAP. At last rt_sigreturn loads the old registers, as
if a signal handler ended.

Nothing here touches a process: images and snapshots in, steps out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import (
    ADDRESSES,
    MAP_SIZE,
    MEMBER,
    NO_EXE,
    PR_SET_MM,
    Operation,
    PrctlMmMap,
    unknown_member,
)
from prctlmm_lab.kernel.procfs import KERNEL_PAGES, Snapshot
from prctlmm_lab.restore.checkpoint import moved_by_the_kernel
from prctlmm_lab.restore.image import Area, Bytes, File, Image, KernelPages
from prctlmm_lab.specimen.process import (
    MAP_ANONYMOUS,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PAGE,
    PROT,
    SCRATCH,
)
from prctlmm_lab.specimen.registers import Registers

MAP_NORESERVE = 0x4000
PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0
MADV_GUARD_INSTALL = 102
ADVICE = {"sr": 2, "rr": 1, "dc": 10, "mg": 12, "hg": 14, "nh": 15, "dd": 16, "wf": 18}
"""What madvise(2) is told for a flag of an area."""

RESTORER_SIZE = SCRATCH + 2 * PAGE
"""Bytes of the restorer's memory: scratch, a page for its requests and frames, a page of code."""


def hole_size(fresh: Snapshot) -> int:
    """Return how much must be free: the restorer's memory, and behind it room for the vDSO."""
    pages = moved_by_the_kernel(fresh)
    return RESTORER_SIZE + (pages[-1].end - pages[0].start if pages else 0)


Argument = int | str
Range = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """One thing that the restorer does: mostly a system call, by its name and arguments.

    What is known only when it is done stands there as text: "fd" for the descriptor of `file`,
    "&data" for where `data` was put. Three steps are no system calls of the restorer itself: "copy"
    (from, to, size) and "fill" (address, size) put bytes into its memory, and rt_sigreturn
    (sp, pc, entry) goes on elsewhere, with `registers`.
    """

    call: str
    arguments: tuple[Argument, ...]
    why: str
    file: File | None = None
    data: Bytes = field(default=b"", repr=False)
    registers: Registers | None = None
    writes: bool = False
    """Whether a mapping writes through to its file."""
    may_fail: bool = False

    def __str__(self) -> str:
        words = (each if isinstance(each, str) else hex(each) for each in self.arguments)
        return f"{self.call}({', '.join(words)})  # {self.why}"


def plan(
    image: Image, fresh: Snapshot, *, omit: Collection[str] = (), exe: bool = True
) -> tuple[Step, ...]:
    """Say what a restorer must do to make of a fresh specimen the one in the image.

    `fresh` is what /proc says of it now. Members named in `omit` keep what it has: of the two that
    are no addresses, "auxv" (or "auxv_size") and "exe_fd" are named. With `exe=False` the exe link
    is kept too.

    >>> from prctlmm_lab.restore.checkpoint import checkpoint
    >>> from prctlmm_lab.specimen.process import Specimen
    >>> with Specimen() as specimen, Specimen() as fresh:
    ...     steps = plan(checkpoint(specimen), fresh.snapshot())
    >>> [step.call for step in steps[:5]]
    ['mmap', 'copy', 'mprotect', 'rt_sigreturn', 'munmap']

    Raises InputError for a name in `omit` that is no member.
    """
    for name in omit:
        if name not in MEMBER:
            raise unknown_member(name, "omit")
    hole = find_hole(occupied_by(fresh, image.areas, image.kernel_pages), hole_size(fresh))
    entry = fresh.members["start_code"]
    waiting = replace(image.registers, pc=image.registers.pc - image.entry + entry)
    return (
        *placing(fresh, hole, waiting, entry, image.areas, image.kernel_pages),
        _call(image, fresh, omit, exe),
        _jump(image.registers, image.entry, "the old registers: its loop goes on where it waited"),
        # Three arguments that munmap(2) has not: they leave registers as they were.
        Step(
            "munmap",
            (hole, RESTORER_SIZE, 0, *image.registers.arguments[3:]),
            "the restorer is no longer needed",
        ),
    )


def placing(
    fresh: Snapshot,
    hole: int,
    waiting: Registers,
    entry: int,
    areas: Sequence[Area],
    kernel_pages: Sequence[KernelPages],
) -> Iterator[Step]:
    """Yield the steps up to where every area lies at its address, with its contents."""
    yield from _leaving(hole, waiting, entry)
    for vma in fresh.vmas:
        if vma.label not in KERNEL_PAGES:
            name = vma.label or vma.path or "anonymous memory"
            yield Step("munmap", (vma.start, vma.size), f"{name} of the fresh specimen")
    yield from _moving_kernel_pages(fresh, hole + RESTORER_SIZE, areas, kernel_pages)
    occupied = [*occupied_by(fresh, areas, kernel_pages), (hole, hole + hole_size(fresh))]
    apart = {area.start for area in kept_apart(areas)}
    for area in areas:
        if area.start in apart:
            yield from _moving(area, occupied)
        elif area.file is None or area.file.kind != "shared":
            yield _mapping(area)
            yield from _filling(area)
    for file in dict.fromkeys(area.file for area in areas if area.file):
        if file.kind == "shared":
            yield from _sharing([area for area in areas if area.file == file], occupied)


def _leaving(hole: int, waiting: Registers, entry: int) -> Iterator[Step]:
    """Copy the loop into the hole and go on there, with another stack."""
    stack, code = hole + SCRATCH, hole + SCRATCH + PAGE
    first = entry & -PAGE
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    rights = PROT["r"] | PROT["w"]
    why = "a place for the restorer, free in both layouts"
    yield Step("mmap", (hole, RESTORER_SIZE, rights, flags, -1, 0), why)
    yield Step("copy", (first, code, PAGE), "the loop's code")
    yield Step("mprotect", (code, PAGE, PROT["r"] | PROT["x"]), "the restorer's code")
    there, shift = waited_at(waiting, stack, code - first), code - first
    yield _jump(there, entry + shift, "the loop goes on in the restorer's memory")


def waited_at(registers: Registers, sp: int, shift: int) -> Registers:
    """Return the registers of the loop as it would wait elsewhere: its code is shifted."""
    descriptor, _, *rest = registers.arguments
    a, b, c, d = rest
    return replace(
        registers, arguments=(descriptor, sp, a, b, c, d), sp=sp, pc=registers.pc + shift
    )


def is_alike(one: Registers, other: Registers) -> bool:
    """Tell whether two loops wait in the same way; read(2) looks at three arguments only."""
    unused = one.arguments[3:]
    a, b, c = other.arguments[:3]
    return one == replace(other, arguments=(a, b, c, *unused))


def _jump(to: Registers, entry: int, why: str) -> Step:
    return Step("rt_sigreturn", (to.sp, to.pc, entry), why, registers=to)


def _moving_kernel_pages(
    fresh: Snapshot, parking: int, areas: Sequence[Area], old: Sequence[KernelPages]
) -> Iterator[Step]:
    """Move the vDSO and its data to where they were, all by the same distance.

    Each goes by way of a free place, because the old and the new one may overlap. A kernel that
    sealed them refuses (CONFIG_MSEAL_SYSTEM_MAPPINGS, since v6.16). Another kernel's vDSO has
    another size; this one's is then only moved out of the way.
    """
    now = moved_by_the_kernel(fresh)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    alike = [(v.label, v.size) for v in now] == [(p.label, p.end - p.start) for p in old]
    alike = alike and len({p.start - v.start for p, v in zip(old, now, strict=True)}) == 1
    in_the_way = any(a.start < v.end and v.start < a.end for a in areas for v in now)
    if not in_the_way and (not alike or old[0].start == now[0].start):
        return
    for vma in now:
        to = vma.start - now[0].start + parking
        yield Step("mremap", (vma.start, vma.size, vma.size, flags, to),
                   f"{vma.label} out of the way", may_fail=True)  # fmt: skip
    for pages in old if alike else ():
        size, parked = pages.end - pages.start, pages.start - old[0].start + parking
        yield Step("mremap", (parked, size, size, flags, pages.start),
                   f"{pages.label} to its old place", may_fail=True)  # fmt: skip


def kept_apart(areas: Sequence[Area]) -> list[Area]:
    """Return the areas with contents that would become one with a neighbour that they were not."""
    pairs = [pair for pair in pairwise(areas) if pair[0].joins(pair[1])]
    return [area for pair in pairs for area in pair if area.runs]


def _moving(area: Area, occupied: list[Range]) -> Iterator[Step]:
    """Make an area elsewhere and move it into its place: so it does not join its neighbours.

    The kernel remembers where the pages were when they were first touched (vm_pgoff).
    """
    distance = find_hole(occupied, area.size) - area.start
    elsewhere = replace(
        area,
        start=area.start + distance,
        end=area.end + distance,
        runs=tuple(replace(run, start=run.start + distance) for run in area.runs),
        guards=tuple((start + distance, end + distance) for start, end in area.guards),
    )
    yield _mapping(elsewhere)
    yield from _filling(elsewhere)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    arguments = (elsewhere.start, area.size, area.size, flags, area.start)
    yield Step("mremap", arguments, "apart from its neighbour, which is alike")


def _mapping(area: Area) -> Step:
    """Map an area, writable for now if it has contents or counts as once writable."""
    flags = MAP_SHARED if area.permissions[3] == "s" else MAP_PRIVATE
    flags |= MAP_FIXED_NOREPLACE
    flags |= MAP_GROWSDOWN if "gd" in area.flags else 0
    flags |= MAP_NORESERVE if "nr" in area.flags else 0
    flags |= MAP_ANONYMOUS if area.file is None else 0
    descriptor: Argument = -1 if area.file is None else "fd"
    arguments = (area.start, area.size, _rights_at_first(area), flags, descriptor, area.offset)
    writes = area.permissions[1] == "w" and area.permissions[3] == "s"
    return Step("mmap", arguments, what_is_there(area), file=area.file, writes=writes)


def _rights_at_first(area: Area) -> int:
    is_shared_memory = area.file is not None and area.file.kind == "shared"
    if area.runs or area.charged or is_shared_memory:
        return PROT["r"] | PROT["w"]
    return rights_of(area)


def what_is_there(area: Area) -> str:
    """Say in a few words what an area is."""
    if area.file is not None:
        kind = {"program": "the specimen's program", "shared": "shared memory"}
        text = kind.get(area.file.kind, area.file.name)
    else:
        text = "the stack" if "gd" in area.flags else area.name or "anonymous memory"
    return f"{text} {area.permissions}"


def rights_of(area: Area) -> int:
    """Return the protection of an area as mmap(2) takes it."""
    return sum(PROT[letter] for letter in area.permissions[:3])


def _filling(area: Area) -> Iterator[Step]:
    """Yield what is done to an area that is mapped: advice, contents, name, protection."""
    whole = area.start, area.size
    for flag in sorted(area.flags & ADVICE.keys()):
        yield Step("madvise", (*whole, ADVICE[flag]), f"VmFlags {flag}")
    for run in area.runs:
        yield Step("fill", (run.start, len(run.data)), "its contents", data=run.data)
    if area.name:
        arguments = (PR_SET_VMA, PR_SET_VMA_ANON_NAME, *whole, "&data")
        yield Step("prctl", arguments, "its name", data=os.fsencode(area.name) + b"\0")
    if rights_of(area) != _rights_at_first(area):
        yield Step("mprotect", (*whole, rights_of(area)), f"now {area.permissions[:3]}")
    for start, end in area.guards:
        yield Step("madvise", (start, end - start, MADV_GUARD_INSTALL), "guard pages")
    if "lo" in area.flags:
        yield Step("mlock", whole, "locked")


def _sharing(areas: Sequence[Area], occupied: list[tuple[int, int]]) -> Iterator[Step]:
    """Make one piece of shared memory and show each of its areas.

    mremap(2) with an old size of 0 maps the same pages once more.
    """
    size = max(area.offset + area.size for area in areas)
    whole = find_hole(occupied, size)
    rights = PROT["r"] | PROT["w"]
    flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    yield Step("mmap", (whole, size, rights, flags, -1, 0), "shared memory, for now elsewhere")
    for area in areas:
        again = (whole + area.offset, 0, area.size, MREMAP_MAYMOVE | MREMAP_FIXED, area.start)
        yield Step("mremap", again, what_is_there(area))
        yield from _filling(area)
    yield Step("munmap", (whole, size), "it lives on in its areas")


def _call(image: Image, fresh: Snapshot, omit: Collection[str], exe: bool) -> Step:
    """Return the one call, with all 14 members but those that are left out."""
    members = dict(image.map) | {name: fresh.members[name] for name in ADDRESSES if name in omit}
    file = None
    if exe and "exe_fd" not in omit and image.exe.kind != "program":
        file = image.exe
    vector = b"" if {"auxv", "auxv_size"} & set(omit) else image.auxv
    members |= {"auxv": 0, "auxv_size": len(vector), "exe_fd": NO_EXE}
    why = "the kernel's notes" + (f", without {', '.join(omit)}" if omit else "")
    data = PrctlMmMap(**members).pack() + vector
    arguments = (PR_SET_MM, int(Operation.MAP), "&data", MAP_SIZE, 0)
    return Step("prctl", arguments, why, file=file, data=data)


def occupied_by(
    fresh: Snapshot, areas: Iterable[Area], kernel_pages: Iterable[KernelPages]
) -> list[Range]:
    """Return the ranges of both layouts, the present one and the one to come."""
    return [
        *((vma.start, vma.end) for vma in fresh.vmas if vma.label != "[vsyscall]"),
        *((area.start, area.end) for area in areas),
        *((pages.start, pages.end) for pages in kernel_pages),
    ]


def find_hole(occupied: Iterable[Range], size: int) -> int:
    """Return where so many bytes are free: in the middle of the widest gap between the ranges.

    >>> hex(find_hole([(0x1000, 0x2000), (0x9000, 0xa000), (0xb000, 0xc000)], 0x1000))
    '0x5000'

    Raises InputError if no gap is wide enough.
    """
    place, widest, last = 0, 0, None
    for start, end in sorted(occupied):
        if last is not None and start - last > widest:
            place, widest = last, start - last
        last = end if last is None else max(last, end)
    if widest < size:
        raise InputError("restore", "bytes are nowhere free in both layouts", hex(size),
                         f"a gap; the widest has {widest:#x}")  # fmt: skip
    return place + (widest - size) // 2 & -PAGE
