"""What changed between two snapshots of a process, as data.

Counters that move by themselves (times, faults, resident pages) are left out unless asked for: a
difference should show what the call did, not that time went by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prctlmm_lab.kernel.procfs import Snapshot, Stat, Unreadable, Vma

COUNTERS: dict[str, frozenset[str]] = {
    "stat": frozenset(
        "minflt cminflt majflt cmajflt utime stime cutime cstime rss kstkesp kstkeip wchan "
        "processor delayacct_blkio_ticks guest_time cguest_time state".split()
    ),
    "statm": frozenset({"resident", "shared"}),
    "status": frozenset(
        "State SigQ VmHWM VmRSS RssAnon RssFile RssShmem VmPTE VmSwap voluntary_ctxt_switches "
        "nonvoluntary_ctxt_switches Cpus_allowed Cpus_allowed_list Mems_allowed "
        "Mems_allowed_list VmPeak x86_Thread_features".split()
    ),
}
"""What moves without anybody's doing, by place."""


@dataclass(frozen=True)
class Change:
    """One thing that /proc shows differently; None stands for "was not there"."""

    place: str
    """The file below /proc/PID, or "brk()"."""
    name: str
    """The field, the auxiliary vector's type, or the VMA's range; "" for a whole file."""
    before: Any
    after: Any

    def __str__(self) -> str:
        where = f"{self.place} {self.name}".rstrip()
        return f"{where}: {shown(self.before)} -> {shown(self.after)}"


def shown(value: object) -> str:
    r"""Write a value as a person reads it: ints in hex, bytes as quoted text.

    >>> shown(4096), shown(b"a\0b"), shown(None)
    ('0x1000', "b'a\\x00b'", '(none)')
    """
    if value is None:
        return "(none)"
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, bytes):
        return repr(value) if len(value) <= 80 else f"{value[:80]!r}... ({len(value)} bytes)"
    return str(value)


def difference(before: Snapshot, after: Snapshot, *, counters: bool = False) -> tuple[Change, ...]:
    """List what changed from one snapshot to the other, in the order of /proc's files.

    With `counters`, also what moves by itself.

    >>> from prctlmm_lab.kernel.procfs import read_snapshot
    >>> now = read_snapshot()
    >>> difference(now, now)
    ()

    Equivalent: `diff` of two copies of /proc/PID, without the counters.
    """
    return tuple(
        change
        for change in _all_changes(before, after)
        if counters or change.name not in COUNTERS.get(change.place, ())
    )


def _all_changes(before: Snapshot, after: Snapshot) -> Iterator[Change]:
    for place in ("stat", "statm", "status", "limits"):
        old, new = getattr(before, place), getattr(after, place)
        if old != new:
            yield from _compare(place, _fields(old), _fields(new))
    if before.brk is not None and after.brk is not None and before.brk != after.brk:
        yield Change("brk()", "", before.brk, after.brk)
    if before.maps != after.maps:
        for change in _compare("maps", _areas(before), _areas(after)):
            yield _area_change(change)
    if before.auxv != after.auxv:
        yield from _compare("auxv", _vector(before), _vector(after))
    for place in ("cmdline", "environ", "exe"):
        old, new = getattr(before, place), getattr(after, place)
        if old != new:
            yield Change(place, "", old, new)


def _fields(part: object) -> Mapping[str, object]:
    if isinstance(part, Unreadable):
        return {"": part}
    if isinstance(part, Stat):
        return {**part.numbers, "comm": part.comm, "state": part.state}
    assert isinstance(part, Mapping)
    return part


def _areas(snapshot: Snapshot) -> Mapping[str, object]:
    if isinstance(snapshot.maps, Unreadable):
        return {"": snapshot.maps}
    return {f"{vma.start:#x}-{vma.end:#x}": vma for vma in snapshot.maps}


def _area_change(change: Change) -> Change:
    """Write the two VMAs as text, with as much of each as tells them apart."""
    before, after = _area_text(change.before), _area_text(change.after)
    if before == after:
        before, after = (f"{_area_text(v)} {_area_file(v)}" for v in (change.before, change.after))
    return Change(change.place, change.name, before, after)


def _area_text(area: object) -> object:
    if not isinstance(area, Vma):
        return area
    deleted = " (deleted)" if area.deleted else ""
    return f"{area.permissions} {area.label or area.path or '(anonymous)'}{deleted}"


def _area_file(vma: Vma) -> str:
    major, minor = vma.device
    return f"(offset {vma.offset:#x}, device {major:02x}:{minor:02x}, inode {vma.inode})"


def _vector(snapshot: Snapshot) -> Mapping[str, object]:
    if isinstance(snapshot.auxv, Unreadable):
        return {"": snapshot.auxv}
    entries: dict[str, object] = {}
    for position, entry in enumerate(snapshot.aux_entries):
        name = entry.name if entry.name not in entries else f"{entry.name} (entry {position})"
        entries[name] = entry.value
    return entries


def _compare(place: str, old: Mapping[str, object], new: Mapping[str, object]) -> Iterator[Change]:
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            yield Change(place, name, old.get(name), new.get(name))
