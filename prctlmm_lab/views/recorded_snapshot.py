"""A snapshot again from what a record holds of it: for the pictures of what happened elsewhere.

A record holds what a call can change, not all of /proc. What it does not hold is told as such.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, TypeVar

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.experiments.record import View, recorded_bytes
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.kernel.procfs import STAT_MEMBERS, Snapshot, Stat, Unreadable, Vma

T = TypeVar("T")

MOST_AREAS = 2000
"""VMAs of the largest address space that is read back; a record's line could hold many more."""
_VMA = re.compile(r"0x([0-9a-f]{1,16})-0x([0-9a-f]{1,17}) ([r-][w-][x-][ps])(?: (.+))?", re.DOTALL)
_UNREADABLE = re.compile(r"not readable \(([A-Z0-9]{1,20})\)")
_NOT_KEPT = "not kept ("
_ERRNO = {name: number for number, name in errno.errorcode.items()}


def recorded_snapshot(view: View, *, name: str = "specimen", pid: int = 0) -> Snapshot:
    """Return the snapshot that a record's view was made from, as far as it was written down.

    Of a VMA there are range, permissions and name, but no device, inode or offset; of stat the ten
    members. `name` and `pid` are not in a record. What changed after a call is
    `record.after.on(record.before)`.

    >>> from prctlmm_lab import Experiment, run
    >>> record = run(Experiment("nothing changes"))
    >>> hex(recorded_snapshot(record.before).members["brk"]) == record.before.brk
    True

    Raises InputError for a view that no address space looks like.
    """
    return Snapshot(
        pid=pid,
        stat=_part("stat", view.stat, lambda told: _stat(told, name)),
        statm=_part("statm", view.statm, dict),
        status=_part("status", view.status, dict),
        maps=_part("maps", view.maps, _vmas),
        auxv=_part("auxv", view.auxv, _vector),
        cmdline=_bytes("cmdline", view.cmdline),
        environ=_bytes("environ", view.environ),
        exe=_missing("exe", view.exe) or _file_name(view.exe or ""),
        limits=_not_recorded("limits"),
        brk=None if view.brk is None else int(view.brk, 16),
    )


def _not_recorded(name: str) -> Unreadable:
    return Unreadable(name, errno.ENODATA)


def _missing(name: str, told: object) -> Unreadable | None:
    """Return what stands for a part that was not readable, or is not in the record."""
    if told is None:
        return _not_recorded(name)
    found = _UNREADABLE.fullmatch(told) if isinstance(told, str) else None
    return Unreadable(name, _ERRNO.get(found[1], errno.ENODATA)) if found else None


def _part(name: str, told: Any, read: Callable[[Any], T]) -> T | Unreadable:
    if missing := _missing(name, told):
        return missing
    if isinstance(told, str):
        raise InputError(name, "is not what a record says of it", shorten(told))
    return read(told)


def _bytes(name: str, told: str | None) -> bytes | Unreadable:
    if told is not None and told.startswith(_NOT_KEPT):
        return _not_recorded(name)
    return _missing(name, told) or recorded_bytes(told or "")


def _stat(told: Mapping[str, str], name: str) -> Stat:
    if set(told) != set(STAT_MEMBERS):
        raise InputError("stat", "are not the ten members", shorten(sorted(told)))
    return Stat(name, "?", {member: int(value, 16) for member, value in told.items()})


def _vmas(told: tuple[str, ...]) -> tuple[Vma, ...]:
    if len(told) > MOST_AREAS:
        raise InputError("maps", "areas are too many", str(len(told)), f"at most {MOST_AREAS}")
    areas = tuple(map(_vma, told))
    for below, above in pairwise(areas):
        if below.end > above.start:
            raise InputError("maps", "is not above the area before it", hex(above.start))
    return areas


def _vma(line: str) -> Vma:
    found = _VMA.fullmatch(line)
    if found is None:
        raise InputError("maps", "is no area", shorten(line), "such as 0x400000-0x401000 r--p")
    start, end = int(found[1], 16), int(found[2], 16)
    if not start < end <= 1 << 64:
        raise InputError("maps", "is no range", shorten(line), "a start below its end")
    name = _file_name(found[4] or "")
    label = name if name.startswith("[") else ""
    return Vma(start, end, found[3], 0, (0, 0), 0, "" if label else name, label, False)


def _file_name(told: str) -> str:
    """Return a name with surrogates for bytes that are not UTF-8, as a snapshot has it."""
    return recorded_bytes(told).decode("utf-8", "surrogateescape")


_ENTRY = re.compile(r"(AT_[A-Z0-9_]{1,40}|0x[0-9a-f]{1,16})=(0x[0-9a-f]{1,16})")


def _vector(told: tuple[str, ...]) -> bytes:
    entries: list[tuple[str | int, int]] = []
    for text in told:
        found = _ENTRY.fullmatch(text)
        if found is None:
            raise InputError("auxv", "is no entry", shorten(text), "such as AT_PAGESZ=0x1000")
        kind = found[1] if found[1].startswith("AT_") else int(found[1], 16)
        entries.append((kind, int(found[2], 16)))
    return encode_auxv(entries)
