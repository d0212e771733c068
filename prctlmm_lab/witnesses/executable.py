"""What the headers of a process's executable say: the word of the file, not of the process.

Source: include/uapi/linux/elf.h, struct elf64_hdr and elf64_phdr; elf(5).
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from prctlmm_lab.errors import LabError
from prctlmm_lab.kernel.procfs import Snapshot, Stat, Unreadable, Vma, parse_stat, read_whole
from prctlmm_lab.specimen.build import binary_path
from prctlmm_lab.specimen.process import PAGE

_HEADER = struct.Struct("<4s2B10x2HI3QI3H")
_PROGRAM_HEADER = struct.Struct("<2I6Q")
_64_BIT, _LITTLE_ENDIAN, _ET_DYN = 2, 1, 3
_EM_X86_64, _EM_AARCH64 = 62, 183
# Recorded specimens are of x86-64, wherever they are shown.
_MACHINES = {_EM_X86_64, _EM_AARCH64 if platform.machine() == "aarch64" else _EM_X86_64}
_PT_LOAD, _PT_INTERP, _PF_X = 1, 3, 1
_LONGEST_NAME = 4096


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD header: what the file asks to be mapped, at addresses of the file."""

    start: int
    offset: int
    file_size: int
    """Bytes that come from the file; the memory may have more."""
    memory_size: int
    is_executable: bool

    @property
    def end(self) -> int:
        """Where the bytes of the file end (exclusive)."""
        return self.start + self.file_size


@dataclass(frozen=True)
class Executable:
    """The headers of an ELF file that a program was started from."""

    entry: int
    headers_offset: int
    header_size: int
    header_count: int
    is_relocatable: bool
    """ET_DYN: the kernel chooses where it lies."""
    interpreter: str
    """The dynamic loader that it asks for, or ""."""
    segments: tuple[Segment, ...]

    def moved(self, code: Vma) -> int | None:
        """Return by how much the program was moved, from a VMA that maps code of it."""
        for segment in self.segments:
            if segment.is_executable and segment.offset & -PAGE == code.offset:
                return code.start - (segment.start & -PAGE)
        return None

    @property
    def headers_address(self) -> int | None:
        """Where its program headers lie, at an address of the file; None outside of segments."""
        for segment in self.segments:
            if 0 <= self.headers_offset - segment.offset < segment.file_size:
                return segment.start + self.headers_offset - segment.offset
        return None


class NoExecutable(LabError, ValueError):
    """The file that an exe link names is no program."""


def executable_of(snapshot: Snapshot) -> Executable | None:
    """Read the file that a process's exe link names; None if that cannot be had.

    The process must still live. Of a recorded one only the specimen's own program is at hand.
    Programs of other machines than this one and x86-64 are not read.

    Equivalent: `readelf -hlW /proc/PID/exe`.

    Raises NoExecutable for a file that is no ELF file, or has nothing to load.
    """
    path = Path(f"/proc/{snapshot.pid}/exe")
    if snapshot.beside is not None:
        if not snapshot.beside.program:
            return None
        path = binary_path(snapshot.beside.program)
    elif isinstance(snapshot.exe, Unreadable) or not _is_still_there(snapshot):
        return None
    try:
        with path.open("rb") as file:
            return read_executable(file)
    except OSError:
        return None


def read_executable(file: BinaryIO) -> Executable | None:
    """Read the headers of an ELF file; None for one of another machine.

    Raises NoExecutable as `executable_of`, OSError if the file cannot be read.
    """
    data = file.read(_HEADER.size)
    if len(data) < _HEADER.size or data[:4] != b"\x7fELF":
        raise NoExecutable("it has no ELF header")
    _, bits, order, kind, machine, _, entry, offset, _, _, _, size, count = _HEADER.unpack(data)
    if (bits, order) != (_64_BIT, _LITTLE_ENDIAN) or machine not in _MACHINES:
        return None
    segments, interpreter = [], ""
    if size == _PROGRAM_HEADER.size:
        file.seek(offset)
        table = file.read(size * count)
        for header in _PROGRAM_HEADER.iter_unpack(table[: len(table) // size * size]):
            what, flags, at, address, _, file_size, memory_size, _ = header
            if what == _PT_LOAD:
                segments.append(Segment(address, at, file_size, memory_size, bool(flags & _PF_X)))
            elif what == _PT_INTERP:
                file.seek(at)
                name = file.read(min(file_size, _LONGEST_NAME)).split(b"\0")[0]
                interpreter = name.decode("utf-8", "backslashreplace")
    if not any(segment.is_executable for segment in segments):
        raise NoExecutable("it has no code to load")
    return Executable(entry, offset, size, count, kind == _ET_DYN, interpreter, tuple(segments))


def _is_still_there(snapshot: Snapshot) -> bool:
    """Tell whether the number is still that of the process, by the time when it started."""
    try:
        now = parse_stat(read_whole(f"/proc/{snapshot.pid}/stat"))
    except OSError:
        return False
    return isinstance(snapshot.stat, Stat) and now["starttime"] == snapshot.stat["starttime"]
