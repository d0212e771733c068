"""The call as the kernel's header defines it: operations, the struct, its 14 members.

Source: include/uapi/linux/prctl.h, `struct prctl_mm_map` (commit f606b77f1a, v3.18); unchanged to
v7.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from operator import attrgetter
from typing import Any

from prctlmm_lab.errors import InputError

PR_SET_MM = 35
PR_GET_AUXV = 0x41555856
"""Returns the saved auxiliary vector and its full size (v6.4, commit ddc65971bb67)."""

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1
NO_EXE = U32
"""`exe_fd` of (u32)-1: leave the exe link alone."""


class Operation(IntEnum):
    """The operations of PR_SET_MM: thirteen for single members, and the two of the bundle."""

    START_CODE = 1
    END_CODE = 2
    START_DATA = 3
    END_DATA = 4
    START_STACK = 5
    START_BRK = 6
    BRK = 7
    ARG_START = 8
    ARG_END = 9
    ENV_START = 10
    ENV_END = 11
    AUXV = 12
    EXE_FILE = 13
    MAP = 14
    MAP_SIZE = 15


@dataclass(frozen=True)
class Member:
    """One of the 14 members: where it lies in the struct, what it means, where it shows."""

    name: str
    offset: int
    """Bytes from the start of the struct."""
    size: int
    """Bytes: 8, or 4 for the last two."""
    stat_field: int | None
    """Its 1-based field of /proc/PID/stat, or None."""
    meaning: str
    shows: tuple[str, ...]

    @property
    def is_address(self) -> bool:
        """True for the 11 members that the range check looks at."""
        return self.offset < 88


_STAT = "/proc/PID/stat field {}"
_HEAP = "[heap] in /proc/PID/maps, smaps, numa_maps"


def _member(name: str, offset: int, stat: int | None, meaning: str, *shows: str) -> Member:
    places = ((_STAT.format(stat),) if stat else ()) + shows
    return Member(name, offset, 4 if offset >= 96 else 8, stat, meaning, places)


MEMBERS: tuple[Member, ...] = (
    _member("start_code", 0, 26, "first byte of the program's machine code",
            "/proc/PID/statm text", "/proc/PID/status VmExe, VmLib"),
    _member("end_code", 8, 27, "end of the program's machine code (exclusive)",
            "/proc/PID/statm text", "/proc/PID/status VmExe, VmLib"),
    _member("start_data", 16, 45, "first byte of the program's initialised data",
            "brk() under RLIMIT_DATA"),
    _member("end_data", 24, 46, "end of the program's initialised data (exclusive)",
            "brk() under RLIMIT_DATA"),
    _member("start_brk", 32, 47, "where the heap begins: brk() refuses to go below",
            "brk()", _HEAP, "names of perf's mmap events"),
    _member("brk", 40, None, "where the heap ends now: what brk(0) returns",
            "brk()", _HEAP, "names of perf's mmap events"),
    _member("start_stack", 48, 28, "where the stack pointer stood when the program started",
            "[stack] in /proc/PID/maps, smaps, numa_maps", "names of perf's mmap events"),
    _member("arg_start", 56, 48, "first byte of the command line",
            "/proc/PID/cmdline", "psargs of a core file"),
    _member("arg_end", 64, 49, "end of the command line (exclusive)",
            "/proc/PID/cmdline", "psargs of a core file"),
    _member("env_start", 72, 50, "first byte of the environment",
            "/proc/PID/environ", "/proc/PID/cmdline after setproctitle"),
    _member("env_end", 80, 51, "end of the environment (exclusive)",
            "/proc/PID/environ", "/proc/PID/cmdline after setproctitle"),
    _member("auxv", 88, None, "address of a new auxiliary vector, read when auxv_size is not 0",
            "/proc/PID/auxv", "PR_GET_AUXV", "NT_AUXV of a core file"),
    _member("auxv_size", 96, None, "bytes of the new auxiliary vector; 0 keeps the old one",
            "/proc/PID/auxv", "PR_GET_AUXV", "NT_AUXV of a core file"),
    _member("exe_fd", 100, None, "descriptor of the new executable; 0xffffffff keeps the old one",
            "/proc/PID/exe", "%E of core_pattern"),
)  # fmt: skip

MEMBER: dict[str, Member] = {member.name: member for member in MEMBERS}
ADDRESSES: tuple[str, ...] = tuple(member.name for member in MEMBERS if member.is_address)
"""The 11 address members, in the order of the struct, which is the order of the range check."""

LAYOUT = struct.Struct("<12Q2I")
_VALUES = attrgetter(*MEMBER)
MAP_SIZE = LAYOUT.size
"""104 bytes on every 64-bit kernel."""


@dataclass(frozen=True)
class PrctlMmMap:
    """The 14 members of `struct prctl_mm_map`: what one call writes.

    Addresses are ints from 0 to 2**64 - 1 and ends are exclusive; `auxv_size` and `exe_fd` are
    32-bit. The default keeps the auxiliary vector and the exe link as they are.

    >>> new = PrctlMmMap(start_code=0x401000, end_code=0x4010c9)
    >>> new.pack()[:16].hex()
    '0010400000000000c910400000000000'
    >>> PrctlMmMap.unpack(new.pack()) == new
    True

    Raises InputError for a member that does not fit its width.
    """

    start_code: int = 0
    end_code: int = 0
    start_data: int = 0
    end_data: int = 0
    start_brk: int = 0
    brk: int = 0
    start_stack: int = 0
    arg_start: int = 0
    arg_end: int = 0
    env_start: int = 0
    env_end: int = 0
    auxv: int = 0
    auxv_size: int = 0
    exe_fd: int = NO_EXE

    def __post_init__(self) -> None:
        values = _VALUES(self)
        try:
            LAYOUT.pack(*values)
            plain = set(map(type, values)) == {int}
        except (struct.error, TypeError):
            plain = False
        if not plain:
            for member, value in zip(MEMBER, values, strict=True):
                check_member(member, value)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return zip(MEMBER, _VALUES(self), strict=True)

    def pack(self) -> bytes:
        """Return the 104 bytes that the kernel reads (little endian)."""
        return LAYOUT.pack(*_VALUES(self))

    @classmethod
    def unpack(cls, data: bytes) -> PrctlMmMap:
        """Read a map from exactly 104 bytes.

        Raises InputError for any other length.
        """
        if len(data) != MAP_SIZE:
            raise InputError("struct prctl_mm_map", "bytes are not one map", hex(len(data)),
                             f"{MAP_SIZE:#x} bytes")  # fmt: skip
        return cls(*LAYOUT.unpack(data))

    def hex(self) -> str:
        """Return the packed bytes in hex, one word of 8 bytes after the other."""
        return self.pack().hex(" ", -8)

    def changed(self, **members: int) -> PrctlMmMap:
        """Return a copy with some members replaced.

        >>> PrctlMmMap().changed(brk=0x5000).brk
        20480
        """
        for name, value in members.items():
            if name not in MEMBER:
                raise unknown_member(name)
            check_member(name, value)
        changes: dict[str, Any] = dict(members)
        return replace(self, **changes)


def check_member(name: str, value: int) -> None:
    """Refuse a value that does not fit the member's width, naming both.

    >>> check_member("exe_fd", 1 << 32)
    Traceback (most recent call last):
    prctlmm_lab.errors.InputError: exe_fd: 0x100000000 does not fit; expected 0 to 0xffffffff
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(name, "is not a whole number", repr(value)[:80], "an int")
    top = U64 if MEMBER[name].size == 8 else U32
    if not 0 <= value <= top:
        raise InputError(name, "does not fit", hex(value), f"0 to {top:#x}")


def unknown_member(name: str, where: str = "") -> InputError:
    """Return the error for a name that is none of the 14, with the nearest one that is."""
    from difflib import get_close_matches

    near = get_close_matches(name, MEMBER, n=1)
    hint = f"{near[0]}?" if near else f"one of {', '.join(MEMBER)}"
    return InputError(where, "is not a member of struct prctl_mm_map", repr(name)[:80], hint)
