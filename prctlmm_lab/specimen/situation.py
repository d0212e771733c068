"""What the rules must know of a specimen before a call: limits, permission, memory, the exe file.

Every answer comes from the kernel: the specimen is asked by system calls that change nothing.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from prctlmm_lab.kernel.abi import MAP_SIZE, NO_EXE, PrctlMmMap
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.kernel.rules import ExeFile, Situation
from prctlmm_lab.specimen.process import EXCHANGE, Specimen

CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE = 21, 40
_O_PATH = 0o10000000
_ST_NOEXEC = 8
_PROC_SUPER_MAGIC = 0x9FA0
_F_GETFL, _F_SETLEASE, _F_RDLCK, _F_UNLCK = 3, 1024, 0, 2
_AT_EMPTY_PATH, _AT_EACCESS = 0x1000, 0x200


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
    changes_exe = new.exe_fd != NO_EXE
    return Situation(
        map=new,
        size=size,
        arg5=arg5,
        struct_readable=pointer is None or is_readable(specimen, pointer, MAP_SIZE),
        auxv_readable=not new.auxv_size or is_readable(specimen, new.auxv, new.auxv_size),
        rlimit_data=specimen.limit("DATA")[0],
        may_change_exe=may_change_exe(specimen.snapshot()) if changes_exe else False,
        exe=exe_file(specimen, new.exe_fd) if changes_exe else ExeFile(),
        exe_mapped=exe_is_mapped(specimen.snapshot()) if changes_exe else True,
    )


def is_readable(specimen: Specimen, address: int, length: int) -> bool:
    """Ask the kernel to copy from the specimen's memory and say whether all bytes could be.

    Lengths above 1 MiB are judged by their first: no rule lets such a size reach the copy.
    """
    length = min(length, 1 << 20)
    return specimen.attempt("pwrite64", EXCHANGE, address, length, 0) == length


def may_change_exe(snapshot: Snapshot) -> bool:
    """Tell whether the process holds one of the two capabilities in its own user namespace."""
    if isinstance(snapshot.status, Unreadable):
        return False
    effective = int(snapshot.status.get("CapEff", "0"), 16)
    return bool(effective >> CAP_SYS_ADMIN & 1 or effective >> CAP_CHECKPOINT_RESTORE & 1)


def exe_is_mapped(snapshot: Snapshot) -> bool:
    """Tell whether a VMA maps the very file that the exe link names."""
    try:
        found = os.stat(f"/proc/{snapshot.pid}/exe")
    except OSError:
        return True  # what cannot be seen is taken as the usual case
    identity = (os.major(found.st_dev), os.minor(found.st_dev)), found.st_ino
    link = snapshot.exe if isinstance(snapshot.exe, str) else ""
    name = link.removesuffix(" (deleted)")
    return any((v.device, v.inode) == identity and v.path in (link, name) for v in snapshot.vmas)


def exe_file(specimen: Specimen, descriptor: int) -> ExeFile:
    """Look at a descriptor of the specimen as the kernel will for exe_fd."""
    flags = specimen.attempt("fcntl", descriptor, _F_GETFL, 0)
    if flags < 0 or flags & _O_PATH:
        return ExeFile()
    buffer = specimen.place(bytes(256))
    specimen.syscall("fstat", descriptor, buffer)
    (mode,) = struct.unpack_from("<I", specimen.read(buffer, 144), 24)
    specimen.syscall("fstatfs", descriptor, buffer)
    file_system = specimen.read(buffer, 120)
    (kind,) = struct.unpack_from("<q", file_system)
    (mount_flags,) = struct.unpack_from("<q", file_system, 80)
    is_noexec = bool(mount_flags & _ST_NOEXEC) or kind == _PROC_SUPER_MAGIC
    return ExeFile(
        is_open=True,
        is_regular=stat.S_ISREG(mode),
        is_noexec=is_noexec,
        is_executable=_is_executable(specimen, descriptor, mode, is_noexec),
        is_written=stat.S_ISREG(mode) and _is_written(specimen, descriptor),
    )


def _is_executable(specimen: Specimen, descriptor: int, mode: int, is_noexec: bool) -> bool:
    if is_noexec:  # access(2) would answer for the mount, not for the file
        return bool(mode & 0o111)
    empty = specimen.place(b"\0")
    flags = _AT_EMPTY_PATH | _AT_EACCESS
    answer = specimen.attempt("faccessat2", descriptor, empty, os.X_OK, flags)
    return bool(mode & 0o111) if answer == -errno.ENOSYS else answer == 0  # before v5.8


def _is_written(specimen: Specimen, descriptor: int) -> bool:
    """Ask for a read lease, which the kernel refuses while any process could write the file."""
    answer = specimen.attempt("fcntl", descriptor, _F_SETLEASE, _F_RDLCK)
    if answer == 0:
        specimen.syscall("fcntl", descriptor, _F_SETLEASE, _F_UNLCK)
        return False
    if answer == -errno.EAGAIN:
        return True
    return _written_by_itself(specimen, descriptor)  # not the file's owner, or no leases there


def _written_by_itself(specimen: Specimen, descriptor: int) -> bool:
    folder = f"/proc/{specimen.pid}/fd"
    file = os.stat(f"{folder}/{descriptor}")
    for name in os.listdir(folder):
        other = os.stat(f"{folder}/{name}")
        if (other.st_dev, other.st_ino) == (file.st_dev, file.st_ino):
            flags = specimen.attempt("fcntl", int(name), _F_GETFL, 0)
            if flags >= 0 and flags & os.O_ACCMODE != os.O_RDONLY:
                return True
    return False
