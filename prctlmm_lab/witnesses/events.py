"""A process through the eyes of perf: the kernel's events for new mappings, with their names.

perf(1) never reads [heap] in maps while it records: the kernel puts the name into each event. The
specimen opens an event on itself, so nobody needs a privilege.

Source: kernel/events/core.c, perf_event_mmap_event(); since v6.6 by the functions that name the
areas in maps (vma_is_initial_heap, commit 11250fd12eb8); perf_event_open(2).
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from prctlmm_lab.errors import SpecimenError, SystemCallError, UnsupportedSystem
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.witnesses.accounts import Account, account

_TYPE_SOFTWARE, _COUNT_SW_DUMMY, _ATTR_SIZE = 1, 9, 112
_EXCLUDE_KERNEL, _EXCLUDE_HV, _MMAP, _MMAP_DATA = 1 << 5, 1 << 6, 1 << 8, 1 << 17
_RECORD_MMAP = 1
_FD_CLOEXEC = 8
_HEAD, _TAIL = 1024, 1032
"""Where the first page of a ring notes how far was written and read, and where the data lies."""
_RING = 3 * PAGE
_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")

GROWN = "brk() grows the heap by a page"
MAPPED = "mmap() of a page"
AT_STACK = "mmap() where start_stack points"


def told_by_perf(specimen: Specimen) -> Account:
    """Have a specimen make memory, and tell under which name the kernel reports it to perf.

    The heap grows by a page, a page is mapped anywhere, and one where start_stack points, if
    nothing is mapped there; then all of it is taken back.

    Equivalent: `perf record -e dummy --data PROGRAM` and `perf script --show-mmap-events`.
    """

    def look(pid: int) -> Mapping[str, str]:
        try:
            with _ring(specimen) as ring:
                return {GROWN: _grown(specimen, ring), MAPPED: _mapped(specimen, ring),
                        AT_STACK: _mapped_at_stack(specimen, ring)}  # fmt: skip
        except SpecimenError:
            raise UnsupportedSystem("The specimen became a program that takes no orders") from None

    return account(specimen, "perf", look)


def name_of_new_page(specimen: Specimen, at: int) -> str:
    """Map a page for a moment where nothing is, and return the name that perf hears of it.

    That is `//anon` for memory without a name. The event's own memory, three pages, is mapped
    meanwhile: a hole that shall stay free must be smaller.

    Raises UnsupportedSystem where the event is refused, SpecimenGone.
    """
    with _ring(specimen) as ring:
        return _mapped(specimen, ring, at)


@contextlib.contextmanager
def _ring(specimen: Specimen) -> Iterator[int]:
    """Open a dummy event on the specimen and map its ring; give the ring's address."""
    attributes = bytearray(_ATTR_SIZE)
    flags = _EXCLUDE_KERNEL | _EXCLUDE_HV | _MMAP | _MMAP_DATA
    head = (_TYPE_SOFTWARE, _ATTR_SIZE, _COUNT_SW_DUMMY, 0, 0, 0, flags)
    struct.pack_into("<2I5Q", attributes, 0, *head)
    event = specimen.attempt(
        "perf_event_open", specimen.place(bytes(attributes)), 0, -1, -1, _FD_CLOEXEC
    )
    if event < 0:
        raise UnsupportedSystem(
            f"perf_event_open() is refused here: {errno.errorcode.get(-event, str(-event))}",
            f"kernel.perf_event_paranoid is {_paranoid()}; up to 2, and outside of a container "
            "that forbids the call, no privilege is needed.",
        )
    try:
        ring = specimen.map(_RING, shared=True, descriptor=event)
        try:
            yield ring
        finally:
            specimen.unmap(ring, _RING)
    except SystemCallError as refused:
        raise UnsupportedSystem(f"The events cannot be had: {refused}") from None
    finally:
        specimen.close(event)


def _paranoid() -> str:
    try:
        return _PARANOID.read_text().strip()
    except OSError:
        return "not there"


def _grown(specimen: Specimen, ring: int) -> str:
    end = specimen.brk()
    _names(specimen, ring)
    if specimen.brk(end + PAGE) != end + PAGE:
        return "(brk() refuses)"
    told = _names(specimen, ring)
    specimen.brk(end)
    return told


def _mapped(specimen: Specimen, ring: int, at: int | None = None) -> str:
    _names(specimen, ring)
    page = specimen.map(PAGE, at=at)
    told = _names(specimen, ring)
    specimen.unmap(page, PAGE)
    return told


def _mapped_at_stack(specimen: Specimen, ring: int) -> str:
    page = specimen.current_map().start_stack & -PAGE
    if specimen.snapshot().vma_at(page):
        return "(memory is mapped there)"
    try:
        return _mapped(specimen, ring, page)
    except SystemCallError as refused:
        return f"(mmap() refuses: {refused.errno_name})"


def _names(specimen: Specimen, ring: int) -> str:
    """Return the names in the events since the last look."""
    head, tail, start, size = struct.unpack("<4Q", specimen.read(ring + _HEAD, 32))
    data = specimen.read(ring + start, size)
    names, at = [], tail
    while at < head:
        event = (data + data)[at % size :]
        kind, _, length = struct.unpack_from("<IHH", event)
        if kind == _RECORD_MMAP:  # pid, tid, address, length, offset, and then the name
            names.append(event[8 + 32 : length].split(b"\0")[0].decode("utf-8", "replace"))
        at += length
    specimen.write(ring + _TAIL, struct.pack("<Q", head))
    return ", ".join(names) or "(no event)"
