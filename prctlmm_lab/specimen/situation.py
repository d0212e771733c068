"""What the rules must know of a specimen before a call: limits, permission, memory, the exe file.

Every answer comes from the kernel: the specimen is asked by system calls that change nothing.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from prctlmm_lab.errors import SystemCallError
from prctlmm_lab.kernel.abi import MAP_SIZE, NO_EXE, U64, Operation, PrctlMmMap
from prctlmm_lab.kernel.effects import Memory
from prctlmm_lab.kernel.facts import CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN, CAP_SYS_RESOURCE
from prctlmm_lab.kernel.legacy import MemberSituation, replaced
from prctlmm_lab.kernel.procfs import LONGEST_SHOWN, Snapshot, Unreadable, Vma
from prctlmm_lab.kernel.rules import ExeFile, Situation
from prctlmm_lab.specimen.process import MAP_PRIVATE, PAGE, PROT, Specimen
from prctlmm_lab.specimen.recording.recorded import RecordedSpecimen

if sys.platform == "linux":
    import resource

_O_PATH = 0o10000000
_F_GETFL, _F_SETFL, _F_SETLEASE, _F_RDLCK, _F_UNLCK = 3, 4, 1024, 0, 2
_ST_NOEXEC = 8
_AT_EMPTY_PATH, _AT_EACCESS, _AT_EXECVE_CHECK = 0x1000, 0x200, 0x10000
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD
"""Its inode in /proc, always the same (include/linux/proc_ns.h, v3.8 to v7.3)."""


def situation_of(
    specimen: Specimen,
    new: PrctlMmMap,
    *,
    size: int = MAP_SIZE,
    arg5: int = 0,
    pointer: int | None = None,
) -> Situation:
    """Gather what decides over a call, just before it is made.

    With `pointer`, `new` must be what lies there, if it can be read.

    Raises SpecimenError if the specimen ends meanwhile.
    """
    with specimen.undivided:
        return Situation(
            map=new,
            size=size,
            arg5=arg5,
            struct_readable=pointer is None or is_readable(specimen, pointer, MAP_SIZE),
            auxv_readable=not new.auxv_size or is_readable(specimen, new.auxv, new.auxv_size),
            rlimit_data=specimen.limit("DATA")[0],
            **(_exe_situation(specimen, new.exe_fd) if new.exe_fd != NO_EXE else {}),
        )


def member_situation_of(
    specimen: Specimen, operation: int, value: int, *, size: int = 0, arg5: int = 0
) -> MemberSituation:
    """Gather what decides over a call of another operation than MAP, just before it is made.

    Raises SpecimenError if the specimen ends meanwhile.
    """
    with specimen.undivided:
        new = replaced(specimen.current_map(), operation, value, size)
        snapshot = specimen.snapshot()
        return MemberSituation(
            **vars(situation_of(specimen, new, size=size, arg5=arg5)),
            operation=operation,
            value=value,
            sys_resource=may_set_members(snapshot),
            vma_above=any(v.end > value for v in snapshot.vmas if v.label != "[vsyscall]"),
            size_writable=operation != Operation.MAP_SIZE or _is_writable(specimen, value, 4),
        )


def may_set_members(snapshot: Snapshot) -> bool:
    """Tell whether the process holds CAP_SYS_RESOURCE in the initial user namespace."""
    if not capabilities(snapshot) >> CAP_SYS_RESOURCE & 1:
        return False
    if snapshot.beside is not None:
        return not snapshot.beside.own_user_namespace
    try:
        return os.stat(f"/proc/{snapshot.pid}/ns/user").st_ino == _INITIAL_USER_NAMESPACE
    except OSError:
        return False


def _is_writable(specimen: Specimen, address: int, length: int) -> bool:
    """Ask the kernel to write what is there already."""
    try:
        specimen.write(address, specimen.read(address, length))
    except SystemCallError:
        return False
    return True


def memory_of(specimen: Specimen, new: PrctlMmMap, before: Snapshot) -> Memory:
    """Gather what the call and later reads of /proc will find in the specimen's memory.

    Raises SpecimenError if the specimen ends meanwhile.
    """
    with specimen.undivided:
        parts = {
            start: specimen.read(start, end - start)
            for start, end in _overlaps(before.vmas, _shown_ranges(new, before))
        }
        vector = b""
        if new.auxv_size and is_readable(specimen, new.auxv, new.auxv_size):
            vector = specimen.read(new.auxv, min(new.auxv_size, _LONGEST_VECTOR))
        return Memory(
            parts=parts,
            grows_down=grows_down(specimen),
            moved=specimen.moved,
            mapped=specimen.mapped,
            vector=vector,
            exe_link=link_of(specimen, new.exe_fd),
            unknown=specimen.own_memory,
            reader_stack_limit=stack_limit_of_reader(specimen),
            most_at_once=_most_at_once_of(specimen),
        )


_LONGEST_VECTOR = 1 << 16


def _shown_ranges(new: PrctlMmMap, before: Snapshot) -> Iterator[tuple[int, int]]:
    """Yield what reading cmdline and environ will look at: of the new map, and of the old one.

    What is too long to be shown is left out.
    """
    if new.arg_end - new.arg_start <= LONGEST_SHOWN:
        yield new.arg_start, max(new.arg_end, new.arg_start + PAGE)
    if new.env_end - new.env_start <= LONGEST_SHOWN:
        yield new.env_start, new.env_end
    if "arg_end" in before.members:
        yield before.members["arg_end"] - 1, before.members["arg_end"]


def _overlaps(vmas: Iterable[Vma], ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of anonymous, readable VMAs that lie in any of the ranges, once each."""
    sorted_ranges = sorted((start, end) for start, end in ranges if start < end)
    for vma in vmas:
        if not vma.is_anonymous or vma.permissions[0] != "r":
            continue
        at = vma.start
        for start, end in sorted_ranges:
            first, last = max(start, at), min(end, vma.end)
            if first < last:
                yield first, last
                at = last


def grows_down(specimen: Specimen) -> frozenset[int]:
    """Return the ends of the VMAs that grow down; the stack's alone where smaps is not told."""
    if isinstance(specimen, RecordedSpecimen):
        return specimen.grows_down()
    snapshot = specimen.snapshot(smaps=True)
    if snapshot.smaps and not isinstance(snapshot.smaps, Unreadable):
        flags = ((vma.end, values.get("VmFlags", "").split()) for vma, values in snapshot.smaps)
        return frozenset(end for end, names in flags if "gd" in names)
    stack = snapshot.vma_at(specimen.own_memory[0])
    return frozenset({stack.end} if stack else ())


def link_of(specimen: Specimen, descriptor: int) -> str:
    """Return what the link of a descriptor reads, "" for one that is not open."""
    if descriptor == NO_EXE:
        return ""
    if isinstance(specimen, RecordedSpecimen):
        return specimen.link(descriptor)
    try:
        return os.readlink(f"/proc/{specimen.pid}/fd/{descriptor}")
    except OSError:
        return ""


def _most_at_once_of(specimen: Specimen) -> int:
    if isinstance(specimen, RecordedSpecimen):
        return specimen.recording.most_at_once
    return most_at_once()


def stack_limit_of_reader(specimen: Specimen) -> int:
    """Return the soft RLIMIT_STACK of the process that reads /proc, 2**64 - 1 for none."""
    if isinstance(specimen, RecordedSpecimen):
        return specimen.recording.reader_stack_limit
    soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return U64 if soft == resource.RLIM_INFINITY else soft


@cache
def most_at_once() -> int:
    """Return what one mapping may have: mm/util.c, __vm_enough_memory()."""
    try:
        if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "1":
            return U64
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return U64
    sizes = dict(line.split(":") for line in lines)
    return sum(int(sizes[name].split()[0]) * 1024 for name in ("MemTotal", "SwapTotal"))


def _exe_situation(specimen: Specimen, descriptor: int) -> dict[str, Any]:
    snapshot = specimen.snapshot()
    return {
        "capabilities": capabilities(snapshot),
        "namespace_root": specimen.syscall("getuid") == specimen.syscall("getgid") == 0,
        "exe": exe_file(specimen, descriptor),
        "exe_mapped": exe_is_mapped(snapshot),
        "exe_changed": specimen.exe_changed,
    }


def is_readable(specimen: Specimen, address: int, length: int) -> bool:
    """Ask the kernel to copy from the specimen's memory and say whether all bytes could be.

    Lengths above 1 MiB are judged by their first: no rule lets such a size reach the copy.
    """
    return specimen.can_read(address, length)


def capabilities(snapshot: Snapshot) -> int:
    """Return the effective capabilities as a mask; none if they cannot be read."""
    if isinstance(snapshot.status, Unreadable):
        return 0
    return int(snapshot.status.get("CapEff", "0"), 16)


def may_change_exe(snapshot: Snapshot) -> bool:
    """Tell whether the process holds one of the two capabilities in its own user namespace."""
    return bool(capabilities(snapshot) & (1 << CAP_SYS_ADMIN | 1 << CAP_CHECKPOINT_RESTORE))


def exe_is_mapped(snapshot: Snapshot) -> bool:
    """Tell whether a VMA maps the very file that the exe link names.

    The device is not compared: on btrfs and overlayfs, stat(2) and maps tell different ones.
    """
    if snapshot.beside is not None:
        return snapshot.beside.exe_mapped
    try:
        inode = os.stat(f"/proc/{snapshot.pid}/exe").st_ino
    except OSError:
        return True  # what cannot be seen is taken as the usual case
    link = snapshot.exe if isinstance(snapshot.exe, str) else ""
    name = link.removesuffix(" (deleted)")
    return any(v.inode == inode and v.path in (link, name) for v in snapshot.vmas)


def exe_file(specimen: Specimen, descriptor: int) -> ExeFile:
    """Look at a descriptor of the specimen as the kernel will for exe_fd."""
    if isinstance(specimen, RecordedSpecimen):
        return specimen.exe_file(descriptor)
    with specimen.undivided:
        flags = specimen.attempt("fcntl", descriptor, _F_GETFL, 0)
        if flags < 0 or flags & _O_PATH:
            return ExeFile()
        mode, _ = specimen.file_kind(descriptor)
        is_noexec = _is_noexec(specimen, descriptor)
        return ExeFile(
            is_open=True,
            is_regular=stat.S_ISREG(mode),
            is_noexec=is_noexec,
            is_executable=_is_executable(specimen, descriptor, mode, is_noexec),
            is_written=stat.S_ISREG(mode) and _is_written(specimen, descriptor),
            was_opened=_was_opened(specimen, descriptor, flags),
        )


def _is_noexec(specimen: Specimen, descriptor: int) -> bool:
    """Ask to map the file for executing: EPERM says that its mount or file system forbids it.

    A file that cannot be read is not asked that far; its mount's flags then tell (statfs(2)).

    Source: mm/mmap.c, do_mmap(), path_noexec().
    """
    rights = PROT["r"] | PROT["x"]
    answer = specimen.attempt("mmap", 0, PAGE, rights, MAP_PRIVATE, descriptor, 0)
    if answer >= 0:
        specimen.unmap(answer, PAGE)
    if answer != -errno.EACCES:
        return answer == -errno.EPERM
    buffer = specimen.place(bytes(120))
    if specimen.attempt("fstatfs", descriptor, buffer) < 0:
        return False
    (flags,) = struct.unpack("<q", specimen.read(buffer + 80, 8))
    return bool(flags & _ST_NOEXEC)


def _is_executable(specimen: Specimen, descriptor: int, mode: int, is_noexec: bool) -> bool:
    if is_noexec:  # access(2) would answer for the mount, not for the file
        return bool(mode & 0o111)
    empty = specimen.place(b"\0")
    flags = _AT_EMPTY_PATH | _AT_EACCESS
    answer = specimen.attempt("faccessat2", descriptor, empty, os.X_OK, flags)
    return answer == 0 if answer in (0, -errno.EACCES) else bool(mode & 0o111)  # before v5.8


def _was_opened(specimen: Specimen, descriptor: int, flags: int) -> bool:
    """Ask of a memory file for direct input and output, which only open() permits (since v6.6).

    Source: mm/shmem.c, shmem_file_open(); fs/fcntl.c, setfl().
    """
    if not link_of(specimen, descriptor).startswith("/memfd:"):
        return True
    answer = specimen.attempt("fcntl", descriptor, _F_SETFL, flags | os.O_DIRECT)
    specimen.attempt("fcntl", descriptor, _F_SETFL, flags)
    return answer == 0


def _is_written(specimen: Specimen, descriptor: int) -> bool:
    """Ask for a read lease, which the kernel refuses while any process could write the file.

    Without the right to one (another user's file, a file system without leases), ask whether the
    file could be executed: ETXTBSY, since v6.14. Where neither is told, it is taken as not written.
    """
    answer = specimen.attempt("fcntl", descriptor, _F_SETLEASE, _F_RDLCK)
    if answer == 0:
        specimen.syscall("fcntl", descriptor, _F_SETLEASE, _F_UNLCK)
        return False
    if answer == -errno.EAGAIN:
        return True
    block = specimen.place(bytes(32))
    specimen.write(block + 8, struct.pack("<Q", block))  # argv: one empty string
    arguments = descriptor, block, block + 8, block + 16, _AT_EMPTY_PATH | _AT_EXECVE_CHECK
    return specimen.attempt("execveat", *arguments) == -errno.ETXTBSY
