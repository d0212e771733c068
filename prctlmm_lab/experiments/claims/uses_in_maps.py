"""What the message says of [heap] and [stack]: claims that the names of memory settle.

Source: fs/proc/task_mmu.c, show_map_vma(), get_vma_name(), is_stack(); include/linux/mm.h,
vma_is_initial_heap() and vma_is_initial_stack().
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.experiments.claims.accepted import change
from prctlmm_lab.experiments.claims.claim import RECALLED, RUN, SOURCE, Claim, History, Shown
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Vma, parse_maps, parse_smaps
from prctlmm_lab.kernel.releases import Release
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.witnesses.accounts import Account
from prctlmm_lab.witnesses.naming import MAPS, NO_NAME, SMAPS, names_of_memory

HEAP, STACK = "[heap]", "[stack]"


def three_areas(specimen: Specimen) -> int:
    """Map three areas of a page side by side and return where the middle one starts.

    They differ in permissions, so that they stay three.
    """
    start = specimen.map(3 * PAGE, permissions="r--")
    specimen.protect(start + PAGE, PAGE, "rw-")
    return start + PAGE


def _heap(_: Facts) -> Shown:
    with Specimen() as specimen:
        middle = three_areas(specimen)
        return _before_and_after(
            specimen, HEAP, middle, specimen.brk() - 1, start_brk=middle, brk=middle + PAGE
        )


def _stack(_: Facts) -> Shown:
    with Specimen() as specimen:
        middle, own = three_areas(specimen), specimen.current_map()
        return _before_and_after(
            specimen, STACK, middle, own.start_stack, start_stack=middle + PAGE // 2
        )


def _before_and_after(
    specimen: Specimen, label: str, middle: int, old: int, **members: int
) -> Shown:
    """Move what names an area to another one, and ask for names before and after."""
    before = _told(specimen, middle)
    change(specimen, **members)
    sides = [_told(specimen, middle + distance)[MAPS] for distance in (-PAGE, PAGE)]
    text = ", ".join(f"{name} = {value:#x}" for name, value in members.items())
    return read_names(label, before, _told(specimen, middle), _told(specimen, old), sides, text)


def _told(specimen: Specimen, address: int) -> Mapping[str, str]:
    told: Account = names_of_memory(specimen, address)
    if told.refusal:
        raise UnsupportedSystem(told.refusal)
    return told.lines


def read_names(
    label: str,
    before: Mapping[str, str],
    after: Mapping[str, str],
    old: Mapping[str, str],
    sides: Sequence[str],
    asked: str,
) -> Shown:
    """Read whether maps and smaps give the label to the new place, and no longer to the old one.

    `before` and `after` are the names of the new place, `old` those of the old one, after the call;
    `sides` is what maps calls the new place's neighbours.
    """
    moved = all(before[r] != label == after[r] != old[r] for r in (MAPS, SMAPS))
    names = ", ".join(f"{report} {name}" for report, name in after.items())
    where = f"{asked}: {names}; neighbours {' and '.join(sides)}; where it was: maps {old[MAPS]}"
    return Shown(moved, where)


# ---- threads ----------------------------------------------------------------------------------

_SECONDS = 5.0


def _threads(_: Facts) -> Shown:
    over = threading.Event()
    thread = threading.Thread(target=over.wait, daemon=True)
    thread.start()
    try:
        pointer = _stack_pointer(thread.native_id or 0)
        try:
            maps = parse_maps(Path("/proc/self/maps").read_bytes())
            smaps = parse_smaps(Path("/proc/self/smaps").read_bytes())
        except OSError as error:
            raise UnsupportedSystem(f"{error.filename}: {error.strerror}") from None
    finally:
        over.set()
        thread.join()
    return read_thread(pointer, maps, [vma for vma, _ in smaps])


def _stack_pointer(thread: int) -> int:
    """Return the stack pointer of a thread of ours that sleeps in a system call.

    Source: fs/proc/base.c, proc_pid_syscall(): number, six arguments, stack pointer, program
    counter; "running" as long as it does not sleep.
    """
    path, deadline = f"/proc/self/task/{thread}/syscall", time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        try:
            words = Path(path).read_text().split()
        except OSError as error:
            raise UnsupportedSystem(f"{path}: {error.strerror}") from None
        if len(words) == 9:
            return int(words[7], 16)
        os.sched_yield()
    raise UnsupportedSystem("A thread of ours did not sleep in time")


def read_thread(pointer: int, maps: Sequence[Vma], smaps: Sequence[Vma]) -> Shown:
    """Read whether the memory that a thread's stack pointer points into is called a stack."""
    vma = next((vma for vma in maps if pointer in vma), None)
    if vma is None:
        return Shown(None, f"nothing is mapped at a thread's stack pointer {pointer:#x}")
    labels = [v.label for v in (vma, *(v for v in smaps if pointer in v))]
    main = next((f"{v.start:#x}-{v.end:#x}" for v in maps if v.label == STACK), "nowhere")
    place = f"{vma.start:#x}-{vma.end:#x}"
    text = f"a thread's stack pointer {pointer:#x} lies in {place}, {vma.label or NO_NAME}"
    named = all(label.startswith("[stack") for label in labels)
    return Shown(named, f"{text}; {STACK} is {main}")


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "heap.name", 32,
        "start_brk and brk decide which memory is called [heap] in maps and smaps.", "uses: brk",
        History(note="So it is in numa_maps and for PROCMAP_QUERY (v6.11). What only touched an "
                     "edge of the heap had the name too, until v6.7 (d3bb89ea9c13)."),
        test=_heap,
    ),
    Claim(
        "stack.name", 34, "start_stack decides which memory is called [stack] in maps and smaps.",
        "uses: start_stack",
        History(since=Release(4, 5), commits=("65376df58217", "b18cb64ead40"),
                known=(RUN, SOURCE, RECALLED),
                note="Before, some thread's stack pointer had to lie there too. In files below "
                     "task/ it alone counted until v4.9. v4.4.178 was read, no earlier one was."),
        test=_stack,
    ),
    Claim(
        "stack.name_of_threads", 51, "The stacks of threads have a name in maps and smaps.",
        "uses: start_stack",
        History(until=Release(4, 5), commits=("f606b77f1a9e", "65376df58217"),
                known=(SOURCE, RECALLED),
                note="It was [stack:TID], and start_stack only told which one is [stack]. v4.4.178 "
                     "was read, earlier ones were not."),
        test=_threads,
        documented="fs/proc/task_mmu.c of v4.9 and later knows no stack but start_stack's",
        without_call=True,
    ),
)  # fmt: skip
