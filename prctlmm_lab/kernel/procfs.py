"""Everything /proc says about a process at one moment: text in, a typed Snapshot out.

The parsers are pure (bytes to data). `read_snapshot` is the only function that opens files. A part
that could not be read is an `Unreadable` with its errno, never missing.

Source: fs/proc/array.c (stat, statm, status), fs/proc/task_mmu.c (maps, smaps), fs/proc/base.c
(auxv, cmdline, environ, exe, limits); proc(5).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import MEMBERS
from prctlmm_lab.kernel.auxv import AuxEntry, decode_auxv

STAT_FIELDS: tuple[str, ...] = tuple(
    """pid comm state ppid pgrp session tty_nr tpgid flags minflt cminflt majflt cmajflt utime stime
    cutime cstime priority nice num_threads itrealvalue starttime vsize rss rsslim start_code
    end_code start_stack kstkesp kstkeip signal blocked sigignore sigcatch wchan nswap cnswap
    exit_signal processor rt_priority policy delayacct_blkio_ticks guest_time cguest_time start_data
    end_data start_brk arg_start arg_end env_start env_end exit_code""".split()
)
"""The 52 fields of /proc/PID/stat in order; the ten of the struct have its members' names."""

_NUMBERS = tuple(name for name in STAT_FIELDS if name not in ("comm", "state"))

STAT_MEMBERS: tuple[str, ...] = tuple(m.name for m in MEMBERS if m.stat_field)
"""The ten members that stat shows, in the order of the struct."""

_MEMBER_PLACES = tuple((name, STAT_FIELDS.index(name) - 2) for name in STAT_MEMBERS)
"""Where they stand behind the process's name."""

STATM_FIELDS = ("size", "resident", "shared", "text", "lib", "data", "dt")

READ_SIZE = 1 << 16
"""Bytes asked for at a time: environ answers by the whole read."""

LIMIT_NAMES: dict[str, str] = {
    "Max cpu time": "RLIMIT_CPU",
    "Max file size": "RLIMIT_FSIZE",
    "Max data size": "RLIMIT_DATA",
    "Max stack size": "RLIMIT_STACK",
    "Max core file size": "RLIMIT_CORE",
    "Max resident set": "RLIMIT_RSS",
    "Max processes": "RLIMIT_NPROC",
    "Max open files": "RLIMIT_NOFILE",
    "Max locked memory": "RLIMIT_MEMLOCK",
    "Max address space": "RLIMIT_AS",
    "Max file locks": "RLIMIT_LOCKS",
    "Max pending signals": "RLIMIT_SIGPENDING",
    "Max msgqueue size": "RLIMIT_MSGQUEUE",
    "Max nice priority": "RLIMIT_NICE",
    "Max realtime priority": "RLIMIT_RTPRIO",
    "Max realtime timeout": "RLIMIT_RTTIME",
}


@dataclass(frozen=True)
class Unreadable:
    """A part of /proc that could not be read, and the errno that said so."""

    path: str
    errno: int

    @property
    def errno_name(self) -> str:
        """The name of the errno, such as EACCES."""
        return errno.errorcode.get(self.errno, str(self.errno))

    def __str__(self) -> str:
        return f"not readable ({self.errno_name})"


@dataclass(frozen=True)
class Stat:
    """The fields of /proc/PID/stat by name.

    Without permission to trace the process the kernel shows 1 for start_code and end_code and 0
    for the other eight members, in place of their values.
    """

    comm: str
    state: str
    numbers: Mapping[str, int]
    """Every other field, by its name in `STAT_FIELDS`."""

    def __getitem__(self, field: str) -> int:
        return self.numbers[field]

    @property
    def members(self) -> dict[str, int]:
        """The ten members that stat shows, in the order of the struct."""
        return {name: self.numbers[name] for name in STAT_MEMBERS}


@dataclass(frozen=True)
class Vma:
    """One virtual memory area, as a line of /proc/PID/maps tells it; `end` is exclusive."""

    start: int
    end: int
    permissions: str
    """Four letters: r, w, x or -, and p (private) or s (shared)."""
    offset: int
    device: tuple[int, int]
    inode: int
    path: str
    """The mapped file, or ""; bytes that are not UTF-8 are kept by surrogates."""
    label: str
    """The kernel's own name in brackets, such as [heap], or ""."""
    deleted: bool
    """True if the file no longer has the name it was opened by."""

    @property
    def size(self) -> int:
        """Bytes from start to end."""
        return self.end - self.start

    @property
    def is_anonymous(self) -> bool:
        """True for memory without a file behind it, the kernel's own pages not counted."""
        return not self.path and self.label not in KERNEL_PAGES

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.end

    def __str__(self) -> str:
        name = self.label or self.path
        return f"{self.start:#x}-{self.end:#x} {self.permissions} {name}".rstrip()


KERNEL_PAGES = frozenset({"[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]"})
"""Labels of pages that the kernel itself puts into a process."""


Identity = tuple[int, int, int]
"""Major and minor number of a file's device, and its inode."""


@dataclass(frozen=True)
class Parts:
    """The files below /proc/PID as they were read at one moment."""

    pid: int
    texts: Mapping[str, bytes | Unreadable | None]
    """By name; None for what was not asked for."""
    names: Mapping[str, Identity | None]
    """Which files had, at that moment, the names that maps and smaps leave in doubt."""


@dataclass(frozen=True)
class Beside:
    """What a recording holds in place of a living process's folder below /proc."""

    origin: str
    """"recorded on Linux X, DATE", or "predicted"."""
    program: str
    """The build of the specimen whose program it runs, "" for any other program."""
    exe_mapped: bool
    """Whether a VMA maps the file that the exe link names."""
    own_user_namespace: bool
    """Whether it is in another user namespace than the one who recorded it."""


@dataclass(frozen=True)
class Limit:
    """One resource limit; None stands for unlimited."""

    soft: int | None
    hard: int | None


@dataclass(frozen=True)
class Snapshot:
    """Everything /proc says about one process at one moment.

    `brk` is the heap's present end, which /proc does not show: a specimen is asked for it.
    """

    pid: int
    stat: Stat | Unreadable
    statm: Mapping[str, int] | Unreadable
    """Pages: size, resident, shared, text, lib (always 0), data, dt (always 0)."""
    status: Mapping[str, str] | Unreadable
    maps: tuple[Vma, ...] | Unreadable
    auxv: bytes | Unreadable
    cmdline: bytes | Unreadable
    environ: bytes | Unreadable
    exe: str | Unreadable
    limits: Mapping[str, Limit] | Unreadable
    smaps: tuple[tuple[Vma, Mapping[str, str]], ...] | Unreadable | None = None
    """Each VMA with its smaps fields, if it was asked for."""
    brk: int | None = None
    beside: Beside | None = field(default=None, compare=False)
    """Of a recorded process what else was noted of it; None for a living one."""

    @classmethod
    def of(cls, parts: Parts, brk: int | None = None, beside: Beside | None = None) -> Snapshot:
        """Return the snapshot that the files of a process make; each is parsed on first use."""
        snapshot = object.__new__(cls)
        snapshot.__dict__.update(_parts=parts, pid=parts.pid, brk=brk, beside=beside)
        return snapshot

    @property
    def origin(self) -> str:
        """Where it comes from: "live", "recorded on Linux X, DATE" or "predicted"."""
        return self.beside.origin if self.beside else "live"

    @property
    def vmas(self) -> tuple[Vma, ...]:
        """The VMAs in ascending order, or none if maps could not be read."""
        return () if isinstance(self.maps, Unreadable) else self.maps

    @property
    def aux_entries(self) -> tuple[AuxEntry, ...]:
        """The auxiliary vector decoded, or nothing if it could not be read."""
        return () if isinstance(self.auxv, Unreadable) else decode_auxv(self.auxv)

    @property
    def members(self) -> dict[str, int]:
        """The addresses that are known: ten from stat, and brk where it was asked for."""
        known = {} if isinstance(self.stat, Unreadable) else self.stat.members
        if self.brk is not None:
            known["brk"] = self.brk
        return {m.name: known[m.name] for m in MEMBERS if m.name in known}

    def vma_at(self, address: int) -> Vma | None:
        """Return the VMA that holds the address, or None."""
        return next((vma for vma in self.vmas if address in vma), None)

    def labelled(self, label: str) -> tuple[Vma, ...]:
        """Return the VMAs that carry a label, such as [heap]."""
        return tuple(vma for vma in self.vmas if vma.label == label)


def parse_stat(text: bytes) -> Stat:
    """Parse /proc/PID/stat; the name may hold spaces, parentheses and newlines.

    >>> parse_stat(b"7 (a) b (c) S 1 7" + b" 0" * 46).comm
    'a) b (c'
    """
    first, last = text.index(b"("), text.rindex(b")")
    state, *numbers = text[last + 1 :].split()
    values = [int(text[:first]), *map(int, numbers)]
    comm = os.fsdecode(text[first + 1 : last])
    return Stat(comm, state.decode(), dict(zip(_NUMBERS, values, strict=False)))


def parse_members(text: bytes) -> dict[str, int]:
    """Parse only the ten members in /proc/PID/stat; `parse_stat` parses all of it.

    >>> parse_members(b"7 (a) b (c) S 1 7" + b" 0" * 46)["start_code"]
    0
    """
    fields = text[text.rindex(b")") + 1 :].split()
    return {name: int(fields[place]) for name, place in _MEMBER_PLACES}


def parse_statm(text: bytes) -> dict[str, int]:
    r"""Parse /proc/PID/statm: seven counts of pages.

    >>> parse_statm(b"9 1 1 2 0 5 0\n")["text"]
    2
    """
    return dict(zip(STATM_FIELDS, map(int, text.split()), strict=False))


def parse_status(text: bytes) -> dict[str, str]:
    r"""Parse /proc/PID/status into its fields; the name's escapes are undone.

    >>> parse_status(b"Name:\ta\\nb\nVmExe:\t       4 kB\n")
    {'Name': 'a\nb', 'VmExe': '4 kB'}
    """
    fields = dict(map(_field, filter(_has_colon, text.split(b"\n"))))
    if "Name" in fields:
        unescaped = re.sub(rb"\\(n|\\)", _unescape, text.partition(b"\n")[0])
        fields["Name"] = os.fsdecode(unescaped[len(b"Name:\t") :])
    return fields


def _has_colon(line: bytes) -> bool:
    return b":" in line


@lru_cache(4096)
def _field(line: bytes) -> tuple[str, str]:
    """Parse a line of status or smaps; most lines are the same the next time."""
    name, _, value = line.partition(b":")
    return os.fsdecode(name), os.fsdecode(value.strip(b" \t"))


def _unescape(match: re.Match[bytes]) -> bytes:
    return b"\n" if match[1] == b"n" else b"\\"


_MAPS_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)"
    rb"(?: +(.*))?",
    re.DOTALL,
)
_DELETED = " (deleted)"

Identify = Callable[[str], Identity | None]
"""From a path to the file that has it now, or None."""


def parse_vma(line: bytes, identify: Identify | None = None) -> Vma:
    r"""Parse one line of /proc/PID/maps.

    The kernel writes a newline in a name as ``\012`` and appends `` (deleted)`` to the name of a
    file that is gone; a file may have such a name in earnest. `identify` decides: the reading that
    leads to the very file (device and inode) is the right one. Without it, or if none leads there,
    the kernel's marks are taken as marks.

    >>> vma = parse_vma(b"7f00-8000 r-xp 00001000 fe:01 42   /a b (deleted)")
    >>> vma.path, vma.deleted
    ('/a b', True)

    Raises ValueError for a line that is none of maps.
    """
    vma = _parse_vma(line)
    if identify is None or vma.label or not _is_in_doubt(line):
        return vma
    for candidate in _readings(_shown_name(line)):
        if _is_same_file(identify(candidate), (*vma.device, vma.inode)):
            return replace(vma, path=candidate, deleted=False)
    return vma


@lru_cache(4096)
def _parse_vma(line: bytes) -> Vma:
    """Parse a line, taking marks as marks; most lines are the same the next time."""
    match = _MAPS_LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"not a line of maps: {line[:100]!r}")
    start, end, offset, major, minor = (int(match[i], 16) for i in (1, 2, 4, 5, 6))
    inode, shown = int(match[7]), os.fsdecode(match[8] or b"")
    path, label, deleted = shown, "", False
    if shown.startswith("["):
        path, label = "", shown
    elif shown:
        name = shown.replace("\\012", "\n")
        path, deleted = name.removesuffix(_DELETED), name.endswith(_DELETED)
    permissions = match[3].decode()
    return Vma(start, end, permissions, offset, (major, minor), inode, path, label, deleted)


def _is_in_doubt(line: bytes) -> bool:
    """Tell whether the name in a line of maps can be read in two ways."""
    return line.endswith(b" (deleted)") or b"\\012" in line


def _shown_name(line: bytes) -> str:
    """Return the name that ends a line of maps, as it is written there."""
    return os.fsdecode(line.split(None, 5)[5])


def _readings(shown: str) -> Iterable[str]:
    return dict.fromkeys((shown, shown.replace("\\012", "\n")))


def _names_in_doubt(*texts: bytes | Unreadable | None) -> dict[str, Identity | None]:
    """Ask now which files have the names in maps and smaps that can be read in two ways."""
    shown = {
        _shown_name(line)
        for text in texts
        if isinstance(text, bytes) and (b" (deleted)" in text or b"\\012" in text)
        for line in text.split(b"\n")
        if _is_in_doubt(line)
    }
    names = dict.fromkeys(name for each in shown for name in _readings(each))
    return {name: _identify(name) for name in names}


def _is_same_file(found: Identity | None, shown: Identity) -> bool:
    """Compare inodes and devices; btrfs and overlayfs tell stat(2) another device, of major 0."""
    if found is None or found[2] != shown[2]:
        return False
    return found[:2] == shown[:2] or found[0] == shown[0] == 0


def parse_maps(text: bytes, identify: Identify | None = None) -> tuple[Vma, ...]:
    """Parse /proc/PID/maps: its VMAs in ascending order."""
    return tuple(parse_vma(line, identify) for line in text.split(b"\n") if line)


def parse_smaps(
    text: bytes, identify: Identify | None = None
) -> tuple[tuple[Vma, Mapping[str, str]], ...]:
    """Parse /proc/PID/smaps: each VMA with its fields as the kernel writes them ("4 kB")."""
    areas: list[tuple[Vma, dict[str, str]]] = []
    for line in filter(None, text.split(b"\n")):
        if line[:1].isupper():  # a field; addresses have small letters
            name, value = _field(line)
            areas[-1][1][name] = value
        else:
            areas.append((parse_vma(line, identify), {}))
    return tuple(areas)


def parse_limits(text: bytes) -> dict[str, Limit]:
    r"""Parse /proc/PID/limits, by the RLIMIT_ names; None stands for unlimited.

    >>> row = b"Max data size             4096                 unlimited            bytes     "
    >>> parse_limits(b"Limit Soft Limit\n" + row)["RLIMIT_DATA"]
    Limit(soft=4096, hard=None)
    """
    return dict(_limits(text))


@lru_cache(256)
def _limits(text: bytes) -> Mapping[str, Limit]:
    """Parse limits; they seldom change."""
    limits: dict[str, Limit] = {}
    for line in text.split(b"\n"):
        # The name has 25 columns; a number may fill its 20, and then one space follows it.
        name, words = line[:25].decode("ascii", "replace").strip(), line[25:].split()
        if name in LIMIT_NAMES:
            soft, hard = (None if word == b"unlimited" else int(word) for word in words[:2])
            limits[LIMIT_NAMES[name]] = Limit(soft, hard)
    return limits


def read_snapshot(pid: int | str = "self", *, smaps: bool = False) -> Snapshot:
    """Read everything /proc says about a process.

    The directory is opened once, so that a pid that is used again cannot mix two processes.
    Reading cmdline or environ may grow the target's stack, if its bounds point below it: the
    kernel reads through the same path as a page fault.

    >>> me = read_snapshot()
    >>> me.stat["start_code"] < me.stat["end_code"]
    True

    Equivalent: `cat /proc/PID/{stat,statm,status,maps,cmdline,environ,limits}; readlink
    /proc/PID/exe; od -tx8 /proc/PID/auxv`.

    Raises InputError for a pid that no process has.
    """
    return Snapshot.of(read_parts(pid, smaps=smaps))


def read_parts(pid: int | str = "self", *, smaps: bool = False) -> Parts:
    """Read the files of a process and leave their parsing for later; errors as `read_snapshot`."""
    directory = _open_process(pid)
    try:
        number = int(os.readlink("/proc/self")) if pid == "self" else int(pid)
        texts: dict[str, bytes | Unreadable | None] = {}
        for name in _PARSERS:
            try:
                if name == "exe":
                    texts[name] = os.fsencode(os.readlink(name, dir_fd=directory))
                elif name != "smaps" or smaps:
                    most, at_once = _MOST.get(name, 0), name in _AT_ONCE
                    texts[name] = read_whole(name, directory, most=most, at_once=at_once)
                else:
                    texts[name] = None
            except OSError as error:
                texts[name] = Unreadable(f"/proc/{number}/{name}", error.errno or 0)
        return Parts(number, texts, _names_in_doubt(texts["maps"], texts["smaps"]))
    finally:
        os.close(directory)


def _as_it_is(text: bytes, identify: Identify) -> bytes:
    return text


_PARSERS: dict[str, Callable[[bytes, Identify], object]] = {
    "exe": lambda text, identify: os.fsdecode(text),
    "limits": lambda text, identify: parse_limits(text),
    "auxv": _as_it_is,
    "stat": lambda text, identify: parse_stat(text),
    "statm": lambda text, identify: parse_statm(text),
    "status": lambda text, identify: parse_status(text),
    "maps": parse_maps,
    "smaps": parse_smaps,
    "cmdline": _as_it_is,
    "environ": _as_it_is,
}
"""In the order of reading: the last two may change what the others show."""


class _Parsed:
    """A field of a snapshot that is parsed when it is first asked for, and then kept.

    What stands in the instance goes before it, as it does for every descriptor that only reads.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, snapshot: Snapshot | None, owner: type) -> Any:
        if snapshot is None:
            return self
        parts: Parts = snapshot.__dict__["_parts"]
        text = parts.texts[self.name]
        value = _PARSERS[self.name](text, parts.names.get) if isinstance(text, bytes) else text
        return snapshot.__dict__.setdefault(self.name, value)


for _name in _PARSERS:
    setattr(Snapshot, _name, _Parsed(_name))


def _open_process(pid: int | str) -> int:
    shown = hex(pid) if isinstance(pid, int) else repr(pid)[:80]
    is_number = isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 1 << 31
    if pid != "self" and not is_number:
        raise InputError(
            "pid", "is not a process number", shown[:80], 'a whole number above 0, or "self"'
        )
    try:
        return os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise InputError(
            "pid", f"no process has number {pid} ({shown}); it may have ended"
        ) from error


LONGEST_SHOWN = 1 << 24
"""Bytes of cmdline or environ from which on they count as not readable (EFBIG).

They show whatever lies between two addresses, which may be all the memory that there is."""
_MOST = {"cmdline": LONGEST_SHOWN, "environ": LONGEST_SHOWN}
_AT_ONCE = frozenset({"stat", "statm", "status", "limits"})
"""Files that one read gives whole, if it asks for enough (fs/seq_file.c, single_open())."""


def read_whole(
    file: str, directory: int | None = None, *, most: int = 0, at_once: bool = False
) -> bytes:
    """Read a file of /proc to its end; with `at_once`, one that a single read gives whole.

    Raises OSError; EFBIG for one that is longer than `most`, if that is given.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        if at_once and len(text := os.read(descriptor, READ_SIZE)) < READ_SIZE:
            return text
        chunks, size = ([text], len(text)) if at_once else ([], 0)
        while chunk := os.read(descriptor, READ_SIZE):
            chunks.append(chunk)
            size += len(chunk)
            if most and size > most:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), file)
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def _identify(path: str) -> Identity | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return os.major(found.st_dev), os.minor(found.st_dev), found.st_ino
