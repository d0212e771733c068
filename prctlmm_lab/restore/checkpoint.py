"""Checkpoint: read everything that /proc and the specimen itself can tell, into an image.

The specimen waits in read(2) while its registers, areas and memory are read from outside, so that
all of them are of one moment; only then is it asked for what /proc does not show. CRIU freezes its
processes with ptrace, and asks by a parasite that it puts into them.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby

from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.kernel.abi import PR_GET_AUXV, PrctlMmMap
from prctlmm_lab.kernel.procfs import (
    KERNEL_PAGES,
    Snapshot,
    Unreadable,
    Vma,
    read_parts,
    read_whole,
)
from prctlmm_lab.restore.files import FoundFiles, descriptors, link, out_of_scope
from prctlmm_lab.restore.image import (
    MOST_CONTENTS,
    RESTORED_FLAGS,
    Area,
    Credentials,
    File,
    Image,
    KernelPages,
    Run,
    room,
)
from prctlmm_lab.restore.recorded import recorded
from prctlmm_lab.specimen.process import PAGE, Specimen

PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS = 3, 39

IMPLIED_FLAGS = frozenset("rd wr ex sh mr mw me ms ac sd gu dw".split())
"""VmFlags that follow from what else is known of an area, or that say nothing of its contents."""

PRESENT, SWAPPED, OF_THE_FILE, GUARD = 1 << 63, 1 << 62, 1 << 61, 1 << 58
"""Bits of an entry of /proc/PID/pagemap (admin-guide/mm/pagemap; guard pages since v6.15)."""

NAMESPACES = ("mnt", "ipc", "net", "uts", "pid", "cgroup", "time")

_ZEROS = bytes(PAGE)
_SCAN = 1 << 20
"""Bytes of pagemap read at a time."""


@recorded
def checkpoint(specimen: Specimen) -> Image:
    """Read a specimen into an image; it lives on.

    >>> with Specimen() as specimen:
    ...     image = checkpoint(specimen)
    >>> image.build, image.comm
    ('static', b'specimen')

    Equivalent for other processes: `criu dump --tree PID --leave-running`.

    Raises InputError for a specimen that has what is out of scope: the sentence names it;
    UnsupportedSystem where the kernel does not let us look at its registers and memory;
    SpecimenGone if it has ended.
    """
    with specimen.undivided:
        registers = specimen.registers()
        read_parts(specimen.pid)  # reading cmdline and environ may make a stack grow
        proc = read_parts(specimen.pid, smaps=True)
        snapshot = Snapshot.of(proc)
        _require_in_scope(snapshot)
        files = FoundFiles(specimen)
        exe = files.behind_exe(snapshot)
        with opened(f"/proc/{specimen.pid}/mem") as memory:
            found = list(_areas(snapshot, files))
            read = {area: tuple(_runs(memory, *each)) for area, each in found if is_readable(area)}
            # Only now requests may go to its buffer again.
            read |= {
                area: _runs_shown(specimen, memory, area, *each)
                for area, each in found
                if not is_readable(area)
            }
        areas = tuple(replace(area, runs=read[area]) for area, _ in found)
        brk, vector = specimen.brk(), _vector(specimen, snapshot)
        assert not isinstance(snapshot.limits, Unreadable)
        assert not isinstance(snapshot.stat, Unreadable)
        assert not isinstance(snapshot.status, Unreadable)
        return Image(
            machine=specimen.machine,
            page=PAGE,
            build=specimen.build,
            map=PrctlMmMap(**snapshot.stat.members, brk=brk),
            auxv=vector,
            exe=exe,
            areas=areas,
            kernel_pages=tuple(
                KernelPages(vma.label, vma.start, vma.end) for vma in moved_by_the_kernel(snapshot)
            ),
            registers=registers,
            entry=specimen.entry,
            limits=snapshot.limits,
            credentials=_credentials(specimen, snapshot.status),
            comm=os.fsencode(snapshot.stat.comm),
            umask=int(snapshot.status["Umask"], 8),
            personality=int(read_whole(f"/proc/{specimen.pid}/personality"), 16),
            proc=proc,
            kernel=os.uname().release,
            left_out=tuple(_left_out(specimen.pid, files.found.values())),
        )


def moved_by_the_kernel(snapshot: Snapshot) -> list[Vma]:
    """Return the kernel's own pages in a process, but not the one that lies beyond user memory."""
    return [v for v in snapshot.vmas if v.label in KERNEL_PAGES and v.label != "[vsyscall]"]


# ---- what is in scope -------------------------------------------------------------------------


def _require_in_scope(snapshot: Snapshot) -> None:
    """Refuse a process of which an image would be no whole one.

    Raises InputError.
    """
    for part in (snapshot.status, snapshot.stat, snapshot.limits, snapshot.smaps, snapshot.auxv):
        if isinstance(part, Unreadable):
            raise out_of_scope("cannot be read", part.path, "a process that shows all of itself")
    assert isinstance(snapshot.status, Mapping)
    status = snapshot.status
    ids = f"{status['Uid']} {status['Gid']}".split()
    signals = ("SigPnd", "ShdPnd", "SigBlk", "SigCgt")
    for fine, what, found, expected in (
        (status["Threads"] == "1", "are its threads", status["Threads"], "one"),
        (status.get("Seccomp", "0") == "0", "is its seccomp mode", status.get("Seccomp"), "0"),
        (len(set(ids[:4])) == len(set(ids[4:])) == 1, "are its ids", " ".join(ids), "one of each"),
        (status["CapEff"] == status["CapPrm"], "are its effective capabilities", status["CapEff"],
         f"the permitted ones, {status['CapPrm']}"),
        *((not int(status[field], 16), f"is {field}", status[field], "none of its signals")
          for field in signals),
        *((link(f"/proc/self/ns/{kind}") == its, "is its namespace", its, f"our {kind}")
          for kind in NAMESPACES for its in [link(f"/proc/{snapshot.pid}/ns/{kind}")]),
    ):  # fmt: skip
        if not fine:
            raise out_of_scope(what, str(found), expected)


def _left_out(pid: int, files: Iterable[File]) -> Iterator[str]:
    """Say what of a process is not in its image, though it could go on without."""
    kept = {file.descriptor for file in files}
    for number, name in descriptors(pid):
        if number not in kept:
            yield f"descriptor {number}: {name}"
    folder = link(f"/proc/{pid}/cwd")
    if folder != os.getcwd():
        yield f"working folder: {folder}"


def _credentials(specimen: Specimen, status: Mapping[str, str]) -> Credentials:
    pid = specimen.pid
    own = link(f"/proc/{pid}/ns/user") != link("/proc/self/ns/user")
    known = read_whole(f"/proc/{pid}/uid_map").split() if own else []
    uid, gid = int(status["Uid"].split()[0]), int(status["Gid"].split()[0])
    if known and known[::2] != [b"0", b"1"]:
        raise out_of_scope("is its map of ids", b" ".join(known).decode(), f"0 {uid} 1, or none")
    return Credentials(
        uid=uid,
        gid=gid,
        groups=tuple(map(int, status["Groups"].split())),
        capabilities=int(status["CapPrm"], 16),
        own_user_namespace=own,
        ids_mapped=bool(known),
        dumpable=specimen.syscall("prctl", PR_GET_DUMPABLE),
        no_new_privileges=specimen.syscall("prctl", PR_GET_NO_NEW_PRIVS, 0, 0, 0) == 1,
    )


def _vector(specimen: Specimen, snapshot: Snapshot) -> bytes:
    """Return the auxiliary vector; since v6.4 also what lies behind its first AT_NULL."""
    assert isinstance(snapshot.auxv, bytes)
    most = 1 << 12
    address = specimen.place(bytes(most))
    size = specimen.attempt("prctl", PR_GET_AUXV, address, most, 0, 0)
    if not 0 < size <= most:
        return snapshot.auxv
    words = specimen.read(address, size).rstrip(b"\0")
    return words + bytes(-len(words) % 16 + 16)


# ---- areas and their contents -----------------------------------------------------------------


def _areas(snapshot: Snapshot, files: FoundFiles) -> Iterator[tuple[Area, Contents]]:
    """Yield the areas, each with what of its contents must be kept."""
    assert isinstance(snapshot.smaps, tuple)
    with opened(f"/proc/{snapshot.pid}/pagemap") as pagemap:
        room = MOST_CONTENTS
        for vma, fields in snapshot.smaps:
            if vma.label in KERNEL_PAGES:
                continue
            flags = frozenset(fields["VmFlags"].split())
            unknown = flags - IMPLIED_FLAGS - RESTORED_FLAGS.keys()
            if unknown:
                raise out_of_scope(f"has {' '.join(sorted(unknown))} among its VmFlags", str(vma),
                                    " ".join(RESTORED_FLAGS))  # fmt: skip
            area = Area(
                vma.start,
                vma.end,
                vma.permissions,
                flags & frozenset(RESTORED_FLAGS),
                files.behind(vma),
                vma.offset,
                _given_name(vma),
                "ac" in flags,
            )
            touched, guards = _touched(pagemap, area, fields)
            room -= sum(end - start for start, end in touched)
            if room < 0:
                raise out_of_scope("is too much memory", hex(MOST_CONTENTS - room),
                                    f"at most {MOST_CONTENTS:#x} bytes")  # fmt: skip
            is_of_file = area.file is not None and area.permissions[3] == "p"
            yield replace(area, guards=tuple(guards)), (touched, is_of_file)


def _given_name(vma: Vma) -> str:
    kind, colon, name = vma.label.strip("[]").partition(":")
    return name if colon and kind in ("anon", "anon_shmem") else ""


def is_readable(area: Area) -> bool:
    """Tell whether the process may read what lies there, and so a debugger too."""
    return area.permissions[0] == "r"


Ranges = list[tuple[int, int]]
Contents = tuple[Ranges, bool]
"""Ranges of pages, and whether those of zeros are to be kept."""


def _touched(pagemap: int, area: Area, fields: Mapping[str, str]) -> tuple[Ranges, Ranges]:
    """Return the ranges of pages that are the area's own, and those that are guards.

    Of a private mapping these are the pages that were written to: the others are the file's, or
    zeros. Shared memory may hold pages that this process never touched: all are read.
    """
    if area.file is not None and area.permissions[3] == "s":
        return ([(area.start, area.end)] if area.file.kind == "shared" else []), []
    if area.size > 1 << 30 and fields.get("Rss") == fields.get("Swap") == "0 kB":
        return [], []  # its pagemap would be long
    touched: Ranges = []
    guards: Ranges = []
    first, last = area.start // PAGE, area.end // PAGE
    for page in range(first, last, _SCAN // 8):
        data = os.pread(pagemap, min(_SCAN, (last - page) * 8), page * 8)
        if data.count(0) == len(data):
            continue
        for kind, entries in groupby(enumerate(array("Q", data), page), _kind):
            if kind:
                pages = [number for number, _ in entries]
                ranges = touched if kind > 0 else guards
                ranges.append((pages[0] * PAGE, (pages[-1] + 1) * PAGE))
    return touched, guards


def _kind(numbered: tuple[int, int]) -> int:
    """Tell a guard page (-1) and a page of the process's own (1) from any other (0)."""
    entry = numbered[1]
    if entry & GUARD:
        return -1
    return int(bool(entry & (PRESENT | SWAPPED)) and not entry & OF_THE_FILE)


def _runs_shown(
    specimen: Specimen, memory: int, area: Area, ranges: Ranges, keep_zeros: bool
) -> tuple[Run, ...]:
    """Read what the process itself may not read, by a short change of the protection.

    A debugger may do without; whether anybody else may is up to proc_mem.force_override (v6.12).
    """
    if not ranges:
        return ()
    specimen.protect(area.start, area.size, "r" + area.permissions[1:3])
    try:
        return tuple(_runs(memory, ranges, keep_zeros))
    finally:
        specimen.protect(area.start, area.size, area.permissions[:3])


def _runs(memory: int, ranges: Ranges, keep_zeros: bool) -> Iterator[Run]:
    """Read memory from outside; leave out pages of zeros if nothing else lies below them."""
    for start, end in ranges:
        data = _read(memory, start, end - start)
        view = memoryview(data).toreadonly()
        pages = range(0, len(data), PAGE)
        for filled, group in groupby(pages, partial(_holds_something, data)):
            if filled or keep_zeros:
                offsets = list(group)
                yield Run(start + offsets[0], view[offsets[0] : offsets[-1] + PAGE])


def _holds_something(data: mmap.mmap | bytearray, page: int) -> bool:
    return data[page : page + PAGE] != _ZEROS


def _read(memory: int, start: int, size: int) -> mmap.mmap | bytearray:
    data = room(size)
    done, view = 0, memoryview(data)
    while done < size:
        try:
            done += os.preadv(memory, [view[done:]], start + done)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, "")
            raise out_of_scope(f"cannot be read ({reason})", hex(start + done),
                                "memory that a debugger may read") from None  # fmt: skip
    return data


@contextlib.contextmanager
def opened(path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open a file of /proc that shows, or changes, what a process is.

    Raises UnsupportedSystem where the kernel refuses.
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise UnsupportedSystem(f"{path} cannot be read: {error.strerror}",
                                "A process may look so closely only at its own children "
                                "(sysctl kernel.yama.ptrace_scope at most 1), or with "
                                "CAP_SYS_PTRACE.") from None  # fmt: skip
    try:
        yield descriptor
    finally:
        os.close(descriptor)
