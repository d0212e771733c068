"""The defender's side: what in a snapshot contradicts itself, the executable, or the machine.

A check compares a note that a process can rewrite with something that it cannot rewrite by the same
call: the areas in maps, the headers of the executable, the identity in status, or other notes that
execve wrote in the same moment. A finding is no proof: each check says which honest programs it
finds too. A rewrite that is consistent in all of this is not found.

Source: fs/binfmt_elf.c, load_elf_binary() and create_elf_tables(); fs/exec.c, setup_arg_pages().
"""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from prctlmm_lab.kernel.procfs import Snapshot, Stat, Unreadable, Vma, read_snapshot
from prctlmm_lab.specimen.process import PAGE
from prctlmm_lab.witnesses.executable import Executable, NoExecutable, executable_of
from prctlmm_lab.words import printable, shortened

if TYPE_CHECKING:
    pass

WEAK, FAIR, STRONG = "weak", "fair", "strong"
"""Many honest programs do it; some do; hardly any does."""

Pair = tuple[str, str, str]
"""What was compared, the value that is noted, and what speaks against it."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a process from outside, to be compared."""

    snapshot: Snapshot
    executable: Executable | None
    """The headers of the file that its exe link names, if that can be read."""
    no_executable: str = ""
    """Why that file is no executable; "" if it is one, or cannot be read."""
    machine: tuple[tuple[str, int], ...] = ()
    """Entries of an auxiliary vector that are the same for all processes of this machine."""

    @cached_property
    def noted(self) -> dict[str, int]:
        """The ten members in stat; none where the kernel hides them behind 1 and 0."""
        stat = self.snapshot.stat
        known = stat.members if isinstance(stat, Stat) else {}
        return known if known.get("start_code", 0) > 1 else {}

    @cached_property
    def vector(self) -> dict[str, int]:
        """The auxiliary vector by names."""
        return {entry.name: entry.value for entry in self.snapshot.aux_entries}

    @cached_property
    def of_executable(self) -> tuple[Vma, ...]:
        """The VMAs that map the file of the exe link."""
        if not isinstance(self.snapshot.exe, str):
            return ()
        names = {self.snapshot.exe, self.snapshot.exe.removesuffix(" (deleted)")}
        return tuple(vma for vma in self.snapshot.vmas if vma.path in names)

    @cached_property
    def moved(self) -> int | None:
        """By how much the kernel moved the program, by maps; None if that cannot be told."""
        if self.executable is None:
            return None
        code = [vma for vma in self.of_executable if "x" in vma.permissions]
        if code:
            return self.executable.moved(code[0])
        return None if self.executable.is_relocatable else 0

    @cached_property
    def stack(self) -> tuple[Vma | None, dict[str, int]]:
        """The VMA that holds most of what execve puts on the stack; and all those addresses."""
        names = ("start_stack", "arg_start", "arg_end", "env_start", "env_end")
        addresses = {name: self.noted[name] for name in names if name in self.noted}
        pointers = ("AT_RANDOM", "AT_PLATFORM", "AT_EXECFN")
        addresses |= {name: self.vector[name] for name in pointers if name in self.vector}
        places = Counter(filter(None, map(self.snapshot.vma_at, addresses.values())))
        order = sorted(places, key=lambda vma: (places[vma], vma.label == "[stack]"))
        return (order[-1] if order else None), addresses

    def place(self, address: int) -> str:
        """Write an address and what it lies in."""
        vma = self.snapshot.vma_at(address)
        name = "nothing mapped" if vma is None else _name(vma)
        return f"{address:#x} in {name}"


def _name(vma: Vma) -> str:
    return vma.label or vma.path or f"anonymous memory {vma.start:#x}-{vma.end:#x}"


@dataclass(frozen=True)
class Check:
    """One comparison, and what it is worth."""

    id: str
    compares: str
    strength: str
    """"weak", "fair" or "strong"."""
    honest: str
    """Which honest programs it finds too."""
    find: Callable[[Evidence], Iterable[Pair]]


@dataclass(frozen=True)
class Suspicion:
    """One thing that does not fit."""

    check: Check
    subject: str
    """The member, entry or file that was compared."""
    noted: str
    """What the process's own notes say."""
    against: str
    """What speaks against it."""

    def __str__(self) -> str:
        return (
            f"{self.check.strength:6} {self.check.id:15} {self.subject}: {printable(self.noted)}, "
            f"but {printable(self.against)}"
        )


# ---- names -------------------------------------------------------------------------------------


def _comm(evidence: Evidence) -> Iterator[Pair]:
    cmdline, stat = evidence.snapshot.cmdline, evidence.snapshot.stat
    if not isinstance(cmdline, bytes) or not isinstance(stat, Stat) or not evidence.snapshot.vmas:
        return
    words = [os.fsdecode(word) for word in re.split(rb"[\0 ]+", cmdline.strip(b"\0 ")) if word]
    # A script has the name of its file, which is the second word; a login shell has a dash.
    names = [os.path.basename(word).lstrip("-").rstrip(":")[:15] for word in words[:2]]
    if words and stat.comm.lstrip("-")[:15] not in names:
        yield "comm", repr(stat.comm), f"cmdline begins with {shortened(words[0], 40)!r}"


def _kernel_thread(evidence: Evidence) -> Iterator[Pair]:
    cmdline = evidence.snapshot.cmdline
    if not isinstance(cmdline, bytes) or not evidence.snapshot.vmas:
        return
    text = cmdline.strip(b"\0 ")
    if not text or (text.startswith(b"[") and text.endswith(b"]")):
        shown = shortened(os.fsdecode(text), 40)
        yield "cmdline", repr(shown), f"it has {len(evidence.snapshot.vmas)} areas of memory"


# ---- the stack ---------------------------------------------------------------------------------


def _one_stack(evidence: Evidence) -> Iterator[Pair]:
    home, addresses = evidence.stack
    if home is None:
        return
    held = sum(address in home for address in addresses.values())
    for name, address in addresses.items():
        if address not in home:
            others = f"{held} of {len(addresses)} lie in {home.start:#x}-{home.end:#x}"
            yield name, evidence.place(address), others


_ORDER = ("start_stack", "AT_RANDOM", "arg_start", "arg_end", "env_start", "env_end", "AT_EXECFN")
_SAME = {("arg_end", "env_start"), ("env_end", "AT_EXECFN")}
"""Neighbours between which nothing lies."""


def _stack_order(evidence: Evidence) -> Iterator[Pair]:
    home, addresses = evidence.stack
    known = [name for name in _ORDER if home and addresses.get(name, 0) in home]
    for low, high in pairwise(known):
        a, b = addresses[low], addresses[high]
        if a > b or ((low, high) in _SAME and a != b):
            order = "makes them equal" if (low, high) in _SAME else f"puts {low} below"
            yield low, f"{a:#x}", f"{high} is {b:#x}, and execve {order}"


# ---- code, data, heap --------------------------------------------------------------------------


def _segments(evidence: Evidence) -> Iterator[Pair]:
    program, moved = evidence.executable, evidence.moved
    if program is None or moved is None or not evidence.noted:
        return
    code = [segment for segment in program.segments if segment.is_executable]
    expected = {
        "start_code": min(segment.start for segment in code),
        "end_code": max(segment.end for segment in code),
        "start_data": max(segment.start for segment in program.segments),
        "end_data": max(segment.end for segment in program.segments),
    }
    for name, value in expected.items():
        if evidence.noted[name] != value + moved:
            yield name, f"{evidence.noted[name]:#x}", f"by the file's headers {value + moved:#x}"


_GAP = 1 << 30
"""The heap begins at most this far behind the program: arch_randomize_brk(), x86 from v6.9."""
_OWN_HEAP = {"x86_64": 0x555555554000, "aarch64": 0xAAAAAAAAA000}
"""Where the kernel puts the heap of a program without a loader, if it may: ELF_ET_DYN_BASE."""


def _heap_place(evidence: Evidence) -> Iterator[Pair]:
    program, moved = evidence.executable, evidence.moved
    if program is None or moved is None or not evidence.noted:
        return
    end = moved + max(s.start + s.memory_size for s in program.segments)
    starts = [end]
    if program.is_relocatable and not program.interpreter:
        is_here = evidence.snapshot.beside is None  # recorded specimens are of x86-64
        starts.append(_OWN_HEAP.get(platform.machine() if is_here else "", _OWN_HEAP["x86_64"]))
    start_brk = evidence.noted["start_brk"]
    if not any(start <= start_brk <= start + _GAP + PAGE for start in starts):
        yield "start_brk", evidence.place(start_brk), f"the program ends at {end:#x}"


def _heap_start(evidence: Evidence) -> Iterator[Pair]:
    start_brk = evidence.noted.get("start_brk", 0)
    borders = start_brk & -PAGE, -(-start_brk // PAGE) * PAGE
    # Until v6.6 an area that only touches the heap carries its label too.
    heap = [vma for vma in evidence.snapshot.labelled("[heap]") if vma.end != start_brk]
    if start_brk and heap and heap[0].start not in borders:
        yield "start_brk", f"{start_brk:#x}", f"[heap] begins at {heap[0].start:#x}"
    if start_brk and not heap:
        for vma in evidence.snapshot.vmas:
            if vma.start in borders and vma.is_anonymous and not vma.label:
                yield "brk", "no area is called [heap]", f"memory begins at start_brk: {vma}"


# ---- the auxiliary vector ----------------------------------------------------------------------


def _vector_headers(evidence: Evidence) -> Iterator[Pair]:
    program, moved = evidence.executable, evidence.moved
    if program is None or moved is None or isinstance(evidence.snapshot.auxv, Unreadable):
        return
    expected = {"AT_PHENT": program.header_size, "AT_PHNUM": program.header_count,
                "AT_ENTRY": program.entry + moved}  # fmt: skip
    if program.headers_address is not None:
        expected["AT_PHDR"] = program.headers_address + moved
    for name, value in expected.items():
        told = evidence.vector.get(name)
        if told != value:
            shown = "is not in the vector" if told is None else f"{told:#x}"
            yield name, shown, f"by the file's headers {value:#x}"


def _vector_loader(evidence: Evidence) -> Iterator[Pair]:
    base = evidence.vector.get("AT_BASE")
    if base is None or evidence.executable is None:
        return
    vma = evidence.snapshot.vma_at(base)
    if not evidence.executable.interpreter:
        if base:
            yield "AT_BASE", f"{base:#x}", "the file asks for no loader, so 0x0"
    elif vma is None or vma.start != base or vma.offset or not vma.path:
        loader = evidence.executable.interpreter
        yield "AT_BASE", evidence.place(base), f"no file, such as {loader}, is mapped from there on"


def _vector_vdso(evidence: Evidence) -> Iterator[Pair]:
    told, vdso = evidence.vector.get("AT_SYSINFO_EHDR"), evidence.snapshot.labelled("[vdso]")
    if vdso and isinstance(evidence.snapshot.auxv, bytes) and told != vdso[0].start:
        shown = "is not in the vector" if told is None else f"{told:#x}"
        yield "AT_SYSINFO_EHDR", shown, f"[vdso] begins at {vdso[0].start:#x}"


def _vector_machine(evidence: Evidence) -> Iterator[Pair]:
    for name, value in evidence.machine:
        told = evidence.vector.get(name)
        if told is not None and told != value:
            yield name, f"{told:#x}", f"everybody else's is {value:#x}"


def _vector_identity(evidence: Evidence) -> Iterator[Pair]:
    status = evidence.snapshot.status
    if isinstance(status, Unreadable):
        return
    for kind, names in (("Uid", ("AT_UID", "AT_EUID")), ("Gid", ("AT_GID", "AT_EGID"))):
        for name, now in zip(names, status.get(kind, "").split(), strict=False):
            told = evidence.vector.get(name)
            if told is not None and told != int(now):
                yield name, f"{told:#x}", f"{kind} in status is {int(now):#x}"


# ---- the exe link ------------------------------------------------------------------------------


def _exe_kind(evidence: Evidence) -> Iterator[Pair]:
    if evidence.no_executable:
        yield "exe", str(evidence.snapshot.exe), f"it is no program: {evidence.no_executable}"


def _exe_mapped(evidence: Evidence) -> Iterator[Pair]:
    exe = evidence.snapshot.exe
    if not isinstance(exe, str) or not evidence.snapshot.vmas:
        return
    if not any("x" in vma.permissions for vma in evidence.of_executable):
        mapped = (
            "only data of it is mapped" if evidence.of_executable else "nothing of it is mapped"
        )
        yield "exe", exe, mapped


def _entry(evidence: Evidence) -> Iterator[Pair]:
    entry = evidence.vector.get("AT_ENTRY")
    if entry is None or not evidence.snapshot.vmas:
        return
    vma = evidence.snapshot.vma_at(entry)
    if vma is None or not vma.path or "x" not in vma.permissions:
        what = "nothing is mapped there" if vma is None else f"that is {vma.permissions} memory"
        yield "AT_ENTRY", evidence.place(entry), f"{what}, not code of a file"


CHECKS: tuple[Check, ...] = (
    Check("names", "comm with the first word of cmdline", WEAK,
          "programs that name themselves (PR_SET_NAME), exec -a, setproctitle", _comm),
    Check("kernel.thread", "a kernel thread's title, or none, with having memory", FAIR,
          "LXC's monitor and others that choose such a title; programs started without arguments",
          _kernel_thread),
    Check("stack.one", "eight addresses that execve puts on one stack with the areas in maps", FAIR,
          "systemd and LXC, which move their command line by prctl()", _one_stack),
    Check("stack.order", "the order in which execve puts them there", FAIR,
          "programs that cut or stretch their command line by prctl()", _stack_order),
    Check("segments", "start_code to end_data with the headers of the executable", STRONG,
          "none that we know; a restorer puts back what was there", _segments),
    Check("heap.place", "start_brk with the end of the program", FAIR,
          "none that we know; kernels that leave a wider gap than x86 does", _heap_place),
    Check("heap.start", "start_brk with the start of [heap], and of memory", FAIR,
          "programs that unmap the first pages of their heap", _heap_start),
    Check("auxv.headers", "AT_PHDR, AT_PHENT, AT_PHNUM, AT_ENTRY with the file's headers", STRONG,
          "loaders in user space, which start a program without execve", _vector_headers),
    Check("auxv.loader", "AT_BASE with what is mapped there", STRONG,
          "loaders in user space", _vector_loader),
    Check("auxv.vdso", "AT_SYSINFO_EHDR with the start of [vdso]", STRONG,
          "programs that move or unmap their vDSO, such as sandboxes and restorers", _vector_vdso),
    Check("auxv.machine", "entries that tell of the machine with our own", STRONG,
          "none on the same machine; 32-bit programs are not compared", _vector_machine),
    Check("auxv.identity", "AT_UID and the like with the identity in status", WEAK,
          "every daemon that gives up root after its start; other user namespaces",
          _vector_identity),
    Check("exe.kind", "the file of the exe link with being a program", STRONG,
          "none that we know", _exe_kind),
    Check("exe.mapped", "the exe link with the code in maps", STRONG,
          "packers; programs that copy their code into huge pages (node, large databases)",
          _exe_mapped),
    Check("entry", "AT_ENTRY with being code of a file", FAIR,
          "the same packers and huge pages", _entry),
)  # fmt: skip
"""Every check, in the order in which findings are told."""

_OF_THE_MACHINE = ("AT_PAGESZ", "AT_CLKTCK", "AT_HWCAP", "AT_HWCAP2", "AT_MINSIGSTKSZ")


def suspicions(snapshot: Snapshot) -> tuple[Suspicion, ...]:
    """Compare what a process's notes say with what they do not decide; return what does not fit.

    Besides the snapshot, the file of the exe link is read, where that is allowed, and our own
    auxiliary vector. What cannot be read is not compared: no finding is no proof of innocence.

    >>> from prctlmm_lab import Specimen
    >>> with Specimen() as specimen:
    ...     print(suspicions(specimen.snapshot()))
    ()
    """
    executable, why_not = None, ""
    try:
        executable = executable_of(snapshot)
    except NoExecutable as error:
        why_not = str(error)
    return judge(Evidence(snapshot, executable, why_not, _machine(snapshot)))


def judge(evidence: Evidence) -> tuple[Suspicion, ...]:
    """Make every check on evidence that was gathered; reads nothing."""
    return tuple(Suspicion(check, *pair) for check in CHECKS for pair in check.find(evidence))


def _machine(snapshot: Snapshot) -> tuple[tuple[str, int], ...]:
    """Return our own entries for a living process; another machine's says nothing."""
    if snapshot.beside is not None:
        return ()
    own = {entry.name: entry.value for entry in read_snapshot().aux_entries}
    return tuple((name, own[name]) for name in _OF_THE_MACHINE if name in own)
