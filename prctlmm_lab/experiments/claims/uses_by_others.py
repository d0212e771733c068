"""What the message says of other parts of the kernel: execve, perf, SELinux, core dumps.

Source: arch/x86/entry/vdso, vdso_addr() up to v6.8; kernel/events/core.c, perf_event_mmap_event();
security/selinux/hooks.c, selinux_file_mprotect(); fs/coredump.c, cn_print_exe_file().
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prctlmm_lab.errors import SystemCallError, UnsupportedSystem
from prctlmm_lab.experiments.claims.accepted import change
from prctlmm_lab.experiments.claims.claim import MAIL, RUN, SOURCE, Claim, History, Shown
from prctlmm_lab.experiments.claims.uses_in_proc import let_change_exe
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.releases import Release
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.witnesses.core_files import core_pattern, name_of_core
from prctlmm_lab.witnesses.events import name_of_new_page

HEAP, STACK = "[heap]", "[stack]"


def hole_of_a_page(specimen: Specimen) -> int:
    """Return an address where nothing is mapped, for a page, between memory that stays."""
    start = specimen.map(3 * PAGE, permissions="r--")
    specimen.unmap(start + PAGE, PAGE)
    return start + PAGE


# ---- the vDSO -----------------------------------------------------------------------------------

_EXECUTIONS = 4
"""An address that the kernel draws may be taken, and then it lies elsewhere."""
_NEAR = 1 << 21
"""The vDSO was drawn from the stack's end on, up to the next multiple of this (PMD_SIZE)."""
_FAR = 1 << 30


def _vdso(_facts: Facts) -> Shown:
    with Specimen() as specimen:
        seen = [_vdso_and_stack(specimen)]
        moved = (specimen.brk() & -PAGE) + _FAR
        change(specimen, start_stack=moved)
        kept, _ = _vdso_and_stack(specimen)
        for _ in range(_EXECUTIONS):
            specimen.restart([b"specimen"], [])
            seen.append(_vdso_and_stack(specimen))
    return read_vdso(seen, moved, kept)


def _vdso_and_stack(specimen: Specimen) -> tuple[int, int]:
    """Return where the vDSO lies, by maps and by the vector, and start_stack."""
    snapshot = specimen.snapshot()
    areas = snapshot.labelled("[vdso]")
    vector = [entry.value for entry in snapshot.aux_entries if entry.name == "AT_SYSINFO_EHDR"]
    if not areas or [areas[0].start] != vector:
        raise UnsupportedSystem("This kernel maps no vDSO that its vector names")
    return areas[0].start, snapshot.members["start_stack"]


def read_vdso(seen: Sequence[tuple[int, int]], moved: int, kept: int) -> Shown:
    """Read whether a vDSO lies just above start_stack: a new program's own, or what the call set.

    `seen` has the vDSO and start_stack of each program, the first before the call; `moved` is where
    the call put start_stack, `kept` where the vDSO was after it.
    """
    (first, start), (then, new_start) = seen[:2]
    near = [vdso for vdso, stack in seen if 0 < vdso - stack <= _NEAR]
    by_call = kept != first or 0 < then - moved <= _NEAR
    text = (
        f"[vdso] {first:#x} for start_stack {start:#x}, {kept:#x} once that is {moved:#x}; "
        f"after execve {then:#x} for {new_start:#x}"
    )
    return Shown(bool(near) or by_call, text)


# ---- perf ---------------------------------------------------------------------------------------


def _perf_heap(_: Facts) -> Shown:
    return _named_by_perf(HEAP, lambda hole: {"start_brk": hole, "brk": hole + PAGE})


def _perf_stack(_: Facts) -> Shown:
    return _named_by_perf(STACK, lambda hole: {"start_stack": hole + PAGE // 2})


def _named_by_perf(label: str, members_at: Callable[[int], Mapping[str, int]]) -> Shown:
    with Specimen() as specimen:
        hole = hole_of_a_page(specimen)
        before = name_of_new_page(specimen, hole)
        members = members_at(hole)
        change(specimen, **members)
        after = name_of_new_page(specimen, hole)
    asked = ", ".join(f"{name} = {value:#x}" for name, value in members.items())
    return read_event(label, before, after, f"mmap({hole:#x})", asked)


def read_event(label: str, before: str, after: str, event: str, asked: str) -> Shown:
    """Read whether an event has a label only once the call put the member there."""
    if not before or "(" in before + after:
        return Shown(None, f"{event}: perf hears {before} and {after}")
    text = f"perf hears of {event} as {before}; after {asked} as {after}"
    return Shown(before != label == after, text)


# ---- SELinux ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Executables:
    """What mprotect(PROT_EXEC) answered for a page of memory: "allowed", or an errno."""

    in_heap: str
    after_move: str
    """The same page, once start_brk and brk lie elsewhere."""
    elsewhere: str
    """A page that never was the heap's."""


def _executable_heap(_: Facts) -> Shown:
    with Specimen() as specimen:
        heap, other = specimen.brk() - PAGE, specimen.map(3 * PAGE)
        in_heap = _made_executable(specimen, heap)
        elsewhere = _made_executable(specimen, other + PAGE)
        change(specimen, start_brk=other, brk=other)
        return read_executables(
            Executables(in_heap, _made_executable(specimen, heap), elsewhere), heap
        )


def _made_executable(specimen: Specimen, page: int) -> str:
    """Make a page executable for a moment, not writable meanwhile; say what the kernel answers."""
    try:
        specimen.protect(page & -PAGE, PAGE, "r-x")
    except SystemCallError as error:
        return error.errno_name
    specimen.protect(page & -PAGE, PAGE, "rw-")
    return ALLOWED


ALLOWED = "allowed"


def read_executables(told: Executables, page: int) -> Shown:
    """Read whether memory may not be made executable as long as it is the heap's."""
    text = f"mprotect({page & -PAGE:#x}, PROT_EXEC): {told.in_heap} in [heap]"
    if told.in_heap == ALLOWED:
        return Shown(None, f"{text}; no SELinux policy forbids it here")
    if told.elsewhere != ALLOWED:
        return Shown(None, f"{text}, and {told.elsewhere} in other memory too")
    text += f", {told.after_move} once start_brk lies elsewhere"
    return Shown(told.after_move == ALLOWED, text)


# ---- core dumps ---------------------------------------------------------------------------------

CHANGED = "changed-exe"


def _core_name(_: Facts) -> Shown:
    pattern = core_pattern()
    if not names_executable(pattern):
        raise UnsupportedSystem(
            f"kernel.core_pattern is {pattern!r}: names of core files do not tell of the exe link",
            "Where it has %E, as in core.%E, they do.",
        )
    with Specimen() as specimen:
        let_change_exe(specimen)
        change(specimen, exe_fd=specimen.memory_file(CHANGED))
        return read_core_name(pattern, name_of_core(specimen))


def names_executable(pattern: str) -> bool:
    """Tell whether a core_pattern asks for the executable: %E, its path, or %f, its name.

    >>> names_executable("core.%E"), names_executable("core.%e.%p"), names_executable("%%E")
    (True, False, False)
    """
    asked = pattern.replace("%%", "")
    return "%E" in asked or "%f" in asked


def read_core_name(pattern: str, name: str) -> Shown:
    """Read whether a core file is named after the file that the call set."""
    return Shown(CHANGED in name, f"core_pattern {pattern}, exe link {CHANGED}: {name}")


PERF_DOCUMENTED = (
    "so seen on 5.10, 6.1, 6.12, 6.18 and 7.3; kernel/events/core.c, perf_event_mmap_event()"
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "perf.heap", 27, "perf calls memory heap that is mapped between start_brk and brk.",
        "uses: start_brk",
        History(note="Up to v6.5 the area had to cover the heap, since v6.6 to overlap it, as in "
                     "maps (11250fd12eb8)."),
        test=_perf_heap,
        documented=PERF_DOCUMENTED,
    ),
    Claim(
        "selinux.execheap", 28,
        "SELinux asks for the permission execheap where mprotect() makes the heap executable.",
        "uses: start_brk",
        History(known=(RUN, SOURCE, MAIL),
                note="The heap is what lies between start_brk and brk, so a call that moves them "
                     "takes the memory out of it. v6.6 to v6.10 also asked where memory only "
                     "overlapped it (undone by 05a3d6e93072)."),
        test=_executable_heap,
        documented="under a policy that denies execheap and allows execmem, 5.10.262, 6.1.176, "
                   "6.12.117 and 7.3.4 answered EACCES in the heap, and allowed the same once "
                   "start_brk lay elsewhere; security/selinux/hooks.c, selinux_file_mprotect()",
    ),
    Claim(
        "perf.stack", 35, "perf calls memory stack that is mapped where start_stack points.",
        "uses: start_stack", History(), test=_perf_stack,
        documented=PERF_DOCUMENTED,
    ),
    Claim(
        "vdso.place", 36, "The vDSO is mapped from start_stack on.", "uses: start_stack",
        History(until=Release(6, 9), commits=("f606b77f1a9e", "3c6539b4c177"),
                known=(RUN, SOURCE, MAIL),
                note="At execve(), from the new program's own; so a call could never move it. It "
                     "was true of x86-64, and is still of s390.",
                machine="x86_64"),
        test=_vdso,
        documented="arch/x86/entry/vdso, vdso_addr() up to v6.8",
    ),
    Claim(
        "exe.in_core", 43, "A core dump tells of the exe link.", "uses: exe",
        History(note="core_pattern's %E is its path; %e is the thread's name, which the call does "
                     "not change."),
        test=_core_name,
        documented="with core_pattern core.%E on 5.10.262, and %f on 6.12.117 and 7.3.4, core "
                   "files were named after the file that the call had set; fs/coredump.c",
    ),
)  # fmt: skip
