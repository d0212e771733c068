"""CRIU's log of a failed restore: which call was refused, with which values, on which kernel.

Since v3.18 (commit 0bddecead) CRIU writes down, at -v4, the errno of a PR_SET_MM_MAP that failed
and the values of its members, all but the address of the vector (criu/pie/restorer.c). After
EINVAL alone it goes on with the 13 operations for single members, and writes an errno for each that
fails.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import ADDRESSES, U32, U64, PrctlMmMap
from prctlmm_lab.words import printable

_TIME = re.compile(r"\(\d+\.\d{6}\) ?")
_PIE = re.compile(r"pie: (?:(\d{1,10}): )?(.*)")
_FAILED = re.compile(r"prctl PR_SET_MM_MAP failed with (-?\d{1,10})$")
_ALSO_FAILED = re.compile(r"sys_prctl\(PR_SET_MM, PR_SET_MM_MAP\) failed with (-?\d{1,10})$")
_MEMBER = re.compile(r"  \.(\w{1,20})(?:\[(\d{1,4})\])? = (?:0x)?([0-9a-fA-F]{1,20})$")
_SINGLE = re.compile(r"prctl failed @\d+ with (-?\d{1,10})$")
_EXE = re.compile(r"Can't restore EXE link \((-?\d{1,10})\)$")
_MAPPED = re.compile(
    r"\s*mmap\((?:0x)?([0-9a-f]{1,16}) -> (?:0x)?([0-9a-f]{1,16}), "
    r"(?:0x)?([0-9a-f]{1,8}) (?:0x)?([0-9a-f]{1,8}) (-?\d{1,10})\)"
)
_MOVED = re.compile(
    r"Remap (?:0x)?[0-9a-f]{1,16}->(?:0x)?([0-9a-f]{1,16}) len (?:0x)?([0-9a-f]{1,16})"
)
_VERSION = re.compile(r"Version: (\S{1,40})")
_KERNEL = re.compile(r"Running on \S{1,64} Linux (\S{1,80}) .*?(\w{1,20})$")
_LOWEST = re.compile(r"Found mmap_min_addr (?:0x)?([0-9a-f]{1,16})$")
_TASK_SIZE = re.compile(r"Found task size of (?:0x)?([0-9a-f]{1,16})$")
_ERROR = re.compile(r"Error \([^)]{1,80}\): (.*)")

_MOST_WORDS = 1 << 12
_MOST_MAPPINGS = 1 << 17


@dataclass(frozen=True)
class RestoredMapping:
    """One mapping that the restorer made before the call; `end` is exclusive."""

    start: int
    end: int
    permissions: str
    """Three letters; "???" for memory that was moved to its place."""
    has_file: bool


@dataclass(frozen=True)
class RefusedCall:
    """One PR_SET_MM_MAP call that failed, as the log tells of it."""

    pid: int
    """0 where the log names none."""
    errno: int
    members: Mapping[str, int]
    """12 of the 14; the address of the vector and exe_fd may be missing."""
    vector: tuple[int, ...]
    """The auxiliary vector in words."""
    mappings: tuple[RestoredMapping, ...]
    singles: tuple[int, ...]
    """The errno of each operation for a single member that failed after it, in order."""
    line: int
    """Where the log tells of it."""

    @property
    def map(self) -> PrctlMmMap:
        """The members; the vector's address, which no log tells, is 1 where there is a vector."""
        members = {**self.members, "auxv": 1 if self.members.get("auxv_size") else 0}
        return PrctlMmMap(**members)


@dataclass(frozen=True)
class CriuLog:
    """What a log of `criu restore` tells of the call, and of where it was made."""

    source: str
    version: str
    """Of CRIU, "" if the log does not tell."""
    kernel: str
    """`uname -r` of the target, "" if the log does not tell."""
    machine: str
    lowest: int | None
    """The lowest address that CRIU found usable."""
    task_size: int | None
    refused: tuple[RefusedCall, ...]
    bare: tuple[tuple[int, int], ...]
    """Calls of which the log has no values: process number and errno."""
    errors: tuple[str, ...]
    """The other errors, in order."""


@dataclass
class _Task:
    """What one process wrote until now."""

    errno: int = 0
    line: int = 0
    members: dict[str, int] = field(default_factory=dict)
    vector: list[int] = field(default_factory=list)
    mappings: list[RestoredMapping] = field(default_factory=list)
    singles: list[int] = field(default_factory=list)
    bare: int = 0


def is_log(data: bytes) -> bool:
    """Tell whether text is a log of CRIU: each line of it begins with a time in brackets.

    >>> is_log(b"(00.000116) Version: 4.2.1 (gitid 0)")
    True
    """
    first = data[:200].decode("utf-8", "replace").split("\n", 1)[0]
    return bool(_TIME.match(first)) or b"prctl PR_SET_MM_MAP failed with" in data


def read_log(path: str | os.PathLike[str]) -> CriuLog:
    """Read the log of a restore, as `criu restore -v4 -o FILE` writes it.

    Raises InputError for a log that contradicts itself or ends too early, OSError if it cannot be
    read.
    """
    source = Path(path)
    with source.open(encoding="utf-8", errors="replace") as lines:
        return parse_log(lines, printable(str(source)))


def parse_log(lines: Iterable[str], source: str = "log") -> CriuLog:
    r"""Read a log from its lines; errors as `read_log`.

    >>> log = parse_log(["(00.1) Found mmap_min_addr 0x10000\n"])
    >>> log.lowest, log.refused
    (65536, ())
    """
    told: dict[str, str] = {}
    tasks: dict[int, _Task] = {}
    errors: list[str] = []
    for number, line in enumerate(lines, 1):
        text = _TIME.sub("", line.rstrip("\n"), count=1)
        if pie := _PIE.search(text):
            task = tasks.setdefault(int(pie[1] or 0), _Task())
            _take(task, pie[2], number, f"{source}, line {number}")
        else:
            _take_common(told, text)
        if error := _ERROR.search(text):
            errors.append(error[1])
    return CriuLog(
        source=source,
        version=told.get("version", ""),
        kernel=told.get("kernel", ""),
        machine=told.get("machine", ""),
        lowest=int(told["lowest"], 16) if "lowest" in told else None,
        task_size=int(told["task_size"], 16) if "task_size" in told else None,
        refused=tuple(
            _refused(pid, task, source) for pid, task in tasks.items() if task.line
        ),
        bare=tuple((pid, task.bare) for pid, task in tasks.items() if task.bare and not task.line),
        errors=tuple(errors),
    )  # fmt: skip


def _take_common(told: dict[str, str], text: str) -> None:
    if found := _KERNEL.search(text):
        told.setdefault("kernel", found[1])
        told.setdefault("machine", found[2])
    for name, pattern in (("version", _VERSION), ("lowest", _LOWEST), ("task_size", _TASK_SIZE)):
        if found := pattern.search(text):
            told.setdefault(name, found[1])


def _take(task: _Task, text: str, number: int, where: str) -> None:
    """Note what one line of the restorer's tells."""
    if found := _FAILED.search(text):
        if task.line:
            raise InputError(where, "tells of a second call of one process", "", "one restore")
        task.errno, task.line = _errno(found[1], where), number
    elif task.line and (found := _MEMBER.match(text)):
        _take_member(task, found, where)
    elif found := _ALSO_FAILED.search(text):
        task.bare = _errno(found[1], where)
    elif task.line and (found := _SINGLE.search(text)):
        task.singles.append(_errno(found[1], where))
    elif found := _MAPPED.match(text):
        rights, flags = int(found[3], 16), int(found[4], 16)
        letters = "".join(c if rights >> bit & 1 else "-" for bit, c in enumerate("rwx"))
        _take_mapping(task, found[1], int(found[2], 16), letters, not flags & 0x20, where)
    elif found := _MOVED.match(text):
        end = int(found[1], 16) + int(found[2], 16)
        _take_mapping(task, found[1], end, "???", False, where)


def _take_mapping(
    task: _Task, start: str, end: int, letters: str, has_file: bool, where: str
) -> None:
    if len(task.mappings) >= _MOST_MAPPINGS:
        raise InputError(where, "is one mapping too many", "", f"at most {_MOST_MAPPINGS:#x}")
    task.mappings.append(RestoredMapping(int(start, 16), end, letters, has_file))


def _take_member(task: _Task, found: re.Match[str], where: str) -> None:
    name, index = found[1], found[2]
    is_decimal = name in ("auxv_size", "exe_fd")
    try:
        value = int(found[3], 10 if is_decimal else 16)
    except ValueError:
        raise InputError(where, f"is no value of {name}", repr(found[3])) from None
    if value > (U32 if is_decimal else U64):
        raise InputError(where, f"does not fit into {name}", hex(value))
    if index is not None:
        if int(index) != len(task.vector) or int(index) >= _MOST_WORDS:
            raise InputError(where, "is not the next word of the vector", index,
                             str(len(task.vector)))  # fmt: skip
        task.vector.append(value)
    elif name in (*ADDRESSES, "auxv_size", "exe_fd"):
        task.members[name] = value


def _errno(text: str, where: str) -> int:
    number = -int(text)
    if not 0 < number < 4096:
        raise InputError(where, "is no errno", text, "-1 to -4095")
    return number


def _refused(pid: int, task: _Task, source: str) -> RefusedCall:
    missing = [name for name in (*ADDRESSES, "auxv_size", "exe_fd") if name not in task.members]
    if missing:
        problem = f"tells of a call without its {', '.join(missing)}"
        raise InputError(f"{source}, line {task.line}", problem, "",
                         "a log that is whole, made with -v4")  # fmt: skip
    return RefusedCall(
        pid=pid,
        errno=task.errno,
        members={name: task.members[name] for name in (*ADDRESSES, "auxv_size", "exe_fd")},
        vector=tuple(task.vector),
        mappings=tuple(task.mappings),
        singles=tuple(task.singles),
        line=task.line,
    )
