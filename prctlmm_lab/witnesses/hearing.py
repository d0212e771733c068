"""Every witness at once, before and after; and who reads what.

A hearing is the accounts of several witnesses of one process at one moment. Two hearings side by
side tell who passes a rewritten note on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prctlmm_lab.errors import InputError
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.marks import LIVE
from prctlmm_lab.witnesses.accounts import Account
from prctlmm_lab.witnesses.core_files import told_by_core
from prctlmm_lab.witnesses.debugger import told_by_gdb
from prctlmm_lab.witnesses.events import told_by_perf
from prctlmm_lab.witnesses.processes import told_by_pgrep, told_by_ps, told_by_top

WITNESSES: Mapping[str, Callable[[Specimen], Account]] = {
    "ps": told_by_ps,
    "top": told_by_top,
    "pgrep": told_by_pgrep,
    "gdb": told_by_gdb,
    "perf": told_by_perf,
    "core": told_by_core,
}
"""Who can be asked, in the order of asking; the last ends the specimen."""
_ALIVE = tuple(name for name in WITNESSES if name != "core")


@dataclass(frozen=True)
class Hearing:
    """The accounts of several witnesses of one specimen."""

    accounts: tuple[Account, ...]
    origin: str = LIVE

    def __getitem__(self, witness: str) -> Account:
        return {account.witness: account for account in self.accounts}[witness]

    def __str__(self) -> str:
        return "\n".join(map(str, self.accounts))

    __repr__ = __str__


def hear(specimen: Specimen, *names: str) -> Hearing:
    """Ask witnesses about a specimen: those that are named, or all that leave it alive.

    "core" must be named: it ends the specimen, and is asked last.

    >>> with Specimen() as specimen:
    ...     print(hear(specimen, "perf").accounts[0].witness)
    perf

    Raises InputError for a name that is none, SpecimenGone if the specimen has ended.
    """
    for name in names:
        if name not in WITNESSES:
            raise InputError("witness", "is not known", repr(name)[:40], ", ".join(WITNESSES))
    asked = sorted(names or _ALIVE, key=list(WITNESSES).index)
    return Hearing(tuple(WITNESSES[name](specimen) for name in asked), specimen.origin)


@dataclass(frozen=True)
class Reading:
    """One thing that somebody tells of a process, and where it has that from."""

    who: str
    tells: str
    place: str
    """The file or call that it reads."""
    decided_by: tuple[str, ...]
    """The members of the map that decide what stands there; none for what no map changes."""
    source: str
    """Where in the kernel the answer is made."""


_CMDLINE = "/proc/PID/cmdline", ("arg_start", "arg_end"), "fs/proc/base.c, get_mm_cmdline()"
_COMM = "/proc/PID/stat, comm", (), "fs/proc/array.c, proc_task_name()"
_AUXV = "/proc/PID/auxv", ("auxv", "auxv_size"), "fs/proc/base.c, auxv_read()"
_STAT = "fs/proc/array.c, do_task_stat()"
_LABELS = "fs/proc/task_mmu.c, get_vma_name()"


def _reading(who: str, tells: str, where: tuple[str, tuple[str, ...], str]) -> Reading:
    place, members, source = where
    return Reading(who, tells, place, members, source)


READINGS: tuple[Reading, ...] = (
    _reading("ps -f, ps -o args", "the command line", _CMDLINE),
    _reading("top -c", "the command line", _CMDLINE),
    _reading("pgrep -f", "what the pattern is tried on", _CMDLINE),
    _reading("gdb, info proc", "cmdline", _CMDLINE),
    _reading("ps -o comm, top", "the name", _COMM),
    _reading("pgrep", "what the pattern is tried on", _COMM),
    Reading("ps -o trs", "size of the code", "/proc/PID/stat", ("start_code", "end_code"), _STAT),
    Reading("ps -o stackp", "bottom of the stack", "/proc/PID/stat", ("start_stack",), _STAT),
    Reading("gdb, info proc mappings", "[heap]", "/proc/PID/maps", ("start_brk", "brk"), _LABELS),
    Reading("gdb, info proc mappings", "[stack]", "/proc/PID/maps", ("start_stack",), _LABELS),
    Reading("gdb, info proc mappings", "addresses, permissions, files", "/proc/PID/maps", (),
            "fs/proc/task_mmu.c, show_map_vma()"),
    _reading("gdb, info auxv", "the auxiliary vector", _AUXV),
    Reading("gdb, info proc", "exe; also which file it takes the symbols from", "/proc/PID/exe",
            ("exe_fd",), "fs/proc/base.c, proc_exe_link()"),
    Reading("gdb, info registers", "rip, rsp", "ptrace(2)", (),
            "kernel/ptrace.c, ptrace_regset()"),
    Reading("perf", "the name [heap] of new memory", "the kernel's event", ("start_brk", "brk"),
            "kernel/events/core.c, perf_event_mmap_event()"),
    Reading("perf", "the name [stack] of new memory", "the kernel's event", ("start_stack",),
            "kernel/events/core.c, perf_event_mmap_event()"),
    Reading("core file, psargs", "the command line", "NT_PRPSINFO", ("arg_start", "arg_end"),
            "fs/binfmt_elf.c, fill_psinfo()"),
    Reading("core file, fname", "the name", "NT_PRPSINFO", (), "fs/binfmt_elf.c, fill_psinfo()"),
    Reading("core file", "the auxiliary vector", "NT_AUXV", ("auxv", "auxv_size"),
            "fs/binfmt_elf.c, fill_auxv_note()"),
    Reading("core file", "names of the mapped files", "NT_FILE", (),
            "fs/binfmt_elf.c, fill_files_note()"),
    Reading("core_pattern's %E", "the path of the program", "exe", ("exe_fd",),
            "fs/coredump.c, cn_print_exe_file()"),
)  # fmt: skip
"""Who tells what, and which members decide it."""
