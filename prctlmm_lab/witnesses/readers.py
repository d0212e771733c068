"""What other readers of /proc get: another user, one with a small buffer, the process itself.

Each looks at a living specimen from outside of what a Snapshot holds; where a recording stands in
for the kernel, what such a reader got is recorded too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

from prctlmm_lab.errors import SystemCallError
from prctlmm_lab.kernel.abi import PR_GET_AUXV
from prctlmm_lab.kernel.auxv import AuxEntry
from prctlmm_lab.kernel.difference import shown
from prctlmm_lab.kernel.procfs import parse_members, read_whole
from prctlmm_lab.specimen.process import AT_FDCWD, PR_SET_DUMPABLE, Specimen
from prctlmm_lab.words import printable

STRANGER = 65534
"""The uid and gid of the other user: nobody."""
FILES = ("stat", "statm", "status", "cmdline", "environ", "auxv", "maps", "exe")
_MOST = 1 << 12


def read_by(specimen: Specimen, file: str, size: int) -> bytes:
    """Read a file of a specimen's folder below /proc with a buffer of `size` bytes, to its end.

    Equivalent: `dd bs=SIZE if=/proc/PID/FILE`.

    Raises OSError if the kernel refuses.
    """

    def look(pid: int) -> str:
        descriptor = os.open(f"/proc/{pid}/{file}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = iter(lambda: os.read(descriptor, size), b"")
            return b"".join(parts).decode("latin-1")
        finally:
            os.close(descriptor)

    return specimen.observed(f"{file} by {size}", look).encode("latin-1")


def vectors_text(specimen: Specimen) -> str:
    """Tell the auxiliary vector twice: as its file shows it, and as prctl(PR_GET_AUXV) does.

    The file ends at the first pair of type AT_NULL (fs/proc/base.c, auxv_read); the call, since
    v6.4, returns all that the kernel keeps.
    """

    def look(pid: int) -> str:
        file = read_whole(f"/proc/{pid}/auxv")
        kept = kept_vector(specimen)
        told = f"/proc/PID/auxv: {_pairs(file)}\nPR_GET_AUXV:    "
        return told + (_pairs(kept) if kept else "not on this kernel (EINVAL): it came with v6.4")

    return specimen.observed("both vectors", look)


def kept_vector(specimen: Specimen) -> bytes:
    """Return all that the kernel keeps of the vector, nothing before v6.4.

    Equivalent: `prctl(PR_GET_AUXV, buffer, size, 0, 0)` in C.
    """
    place = specimen.place(bytes(_MOST))
    size = specimen.attempt("prctl", PR_GET_AUXV, place, _MOST, 0, 0)
    return specimen.read(place, size) if size > 0 else b""


def _pairs(vector: bytes) -> str:
    """Write the pairs of a vector; zeros at its end are counted only."""
    pairs = [AuxEntry(kind, value) for kind, value in struct.iter_unpack("<2Q", vector)]
    used = max((n for n, pair in enumerate(pairs, 1) if pair.type or pair.value), default=0)
    told = [f"{pair.name} {pair.value:#x}" for pair in pairs[:used]]
    return ", ".join([*told, f"{len(pairs) - used} x AT_NULL 0x0"])


def readers_text(specimen: Specimen) -> str:
    """Tell what whoever started a specimen reads in its files, and what another user does.

    The other is a second specimen, of uid 65534. Who may not make one has the first marked as not
    dumpable while the second looks: to the kernel they are then strangers as well.

    Source: fs/proc/base.c (tgid_base_stuff: modes; proc_environ_open, proc_pid_auxv), array.c
    (do_task_stat: permitted), task_mmu.c; ptrace(2).
    """

    def look(_: int) -> str:
        rows = [f"{'file':8} {'mode':5} {'who started it':34} another user"]
        readings, how = read_by_two(specimen)
        for file, reading in readings.items():
            own, other = (_told(file, each) for each in (reading.own, reading.other))
            rows.append(f"{file:8} {reading.mode:5} {own:34} {other}")
        return "\n".join([*rows, f"(the other: {how})"])

    return specimen.observed("two readers", look)


class Reading(NamedTuple):
    """What two readers get of a file: the first bytes of it, or an errno."""

    mode: str
    """In octal, or "link"."""
    own: bytes | int
    """What whoever started the process gets."""
    other: bytes | int
    """What a reader gets that has no rights over it."""


def read_by_two(specimen: Specimen) -> tuple[dict[str, Reading], str]:
    """Read each of `FILES` of a living specimen twice; return that, and who the other reader is.

    Raises SpecimenError.
    """
    own = {file: _own_reading(specimen.pid, file) for file in FILES}
    readings = {}
    with _stranger(specimen) as (reader, how):
        for file in FILES:
            mode = os.lstat(f"/proc/{specimen.pid}/{file}").st_mode
            written = "link" if stat.S_ISLNK(mode) else f"{mode & 0o777:04o}"
            readings[file] = Reading(written, own[file], _reading(reader, specimen.pid, file))
    return readings, how


def _own_reading(pid: int, file: str) -> bytes | int:
    path = f"/proc/{pid}/{file}"
    try:
        return os.fsencode(os.readlink(path)) if file == "exe" else read_whole(path)
    except OSError as error:
        return error.errno or 0


@contextlib.contextmanager
def _stranger(target: Specimen) -> Iterator[tuple[Specimen, str]]:
    """Yield a specimen that has no rights over another one, and how that was done."""
    # Never one that a recording notes, or that stands in for a process: it is our eye, no subject.
    reader = object.__new__(Specimen)
    reader.__init__(heap_pages=0)  # type: ignore[misc]
    with reader:
        try:
            reader.become(STRANGER)
            differ = target.syscall("geteuid") != STRANGER
        except SystemCallError:
            reader.keep_capabilities(0)
            differ = False
        if differ:
            yield reader, f"uid {STRANGER}"
            return
        target.syscall("prctl", PR_SET_DUMPABLE, 0)
        try:
            yield reader, "the same user, while the process is marked as not dumpable"
        finally:
            target.syscall("prctl", PR_SET_DUMPABLE, 1)


def _reading(reader: Specimen, pid: int, file: str) -> bytes | int:
    """Have a specimen read a file; return the first bytes of it, or the errno."""
    try:
        if file == "exe":
            name = f"/proc/{pid}/exe".encode() + b"\0"
            place = reader.place(name)
            room = place + len(name)
            size = reader.syscall("readlinkat", AT_FDCWD, place, room, 256)
            return reader.read(room, size)
        descriptor = reader.open(f"/proc/{pid}/{file}")
        place = reader.place(bytes(_MOST))
        size = reader.syscall("read", descriptor, place, _MOST)
        reader.close(descriptor)
        return reader.read(place, size)
    except SystemCallError as error:
        return error.errno or 0


def _told(file: str, reading: bytes | int) -> str:
    if isinstance(reading, int):
        return errno.errorcode.get(reading, str(reading))
    if file == "stat":
        numbers = parse_members(reading).values()
        return "ten addresses" if max(numbers) > 1 else " ".join(map(str, numbers))
    if file in ("cmdline", "environ"):
        return shown(reading)
    if file == "exe":
        return printable(os.fsdecode(reading))
    return "readable" if reading else "empty"
