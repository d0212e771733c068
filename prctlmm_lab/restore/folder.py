"""The folder of an image: one JSON file and files of pages, written and read.

`docs/image-format.md` says what is where. Reading trusts nothing: the JSON has exactly the members
that it should, each in its bounds; the names of the other files follow from the format, so that
none leads elsewhere; they are regular files of the right size with the right digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import ADDRESSES, U32, U64, PrctlMmMap
from prctlmm_lab.kernel.auxv import TYPES, decode_auxv, encode_auxv
from prctlmm_lab.kernel.procfs import LIMIT_NAMES, Identity, Limit, Parts, Snapshot, Unreadable
from prctlmm_lab.restore.image import (
    MADE_AGAIN,
    MOST_AREAS,
    MOST_CONTENTS,
    RESTORED_FLAGS,
    SCHEMA,
    Area,
    Bytes,
    Credentials,
    File,
    Image,
    KernelPages,
    Run,
    room,
)
from prctlmm_lab.specimen.build import BUILDS, MACHINES
from prctlmm_lab.specimen.registers import Registers
from prctlmm_lab.specimen.spawn import LIFELINE

JSON = "image.json"
MOST_JSON = 1 << 26
"""Bytes of the JSON file: 64 MiB, enough for as many areas as a process may have."""

TOP = {"x86_64": (1 << 56) - 0x1000, "aarch64": 1 << 52}
"""The end of user memory, exclusive, on the largest machines of a kind."""

PAGES = (0x1000, 0x4000, 0x10000)
KINDS = ("program", "path", "memory", "shared")
TEXTS = ("exe", "limits", "stat", "statm", "status", "maps", "smaps")
BINARY = ("auxv", "cmdline", "environ")

Source = int | Mapping[str, bytes]
"""Where the files of an image are: a descriptor of their folder, or by name as they are."""


# ---- writing ----------------------------------------------------------------------------------


def save(image: Image, folder: Path) -> None:
    """Write an image; the JSON file comes last, so that what is torn is no image.

    Raises InputError for a folder that holds something, and if it cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError("folder", "is not empty", repr(str(folder))[:80], "a new one")
        for name, parts in _parts(image):
            with open(folder / name, "xb", buffering=0, opener=_private) as file:
                for part in parts:
                    _write(file.fileno(), part)
    except OSError as error:
        raise InputError(str(folder), f"cannot be written: {error.strerror}") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _write(descriptor: int, data: Bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _parts(image: Image) -> Iterator[tuple[str, list[Bytes]]]:
    """Yield the names of the files, the JSON file last, and what each holds."""
    for file in _files(image):
        if file.kind == "memory":
            yield _memory_name(file.number), [file.contents]
    for area in image.areas:
        if area.runs:
            yield _pages_name(area.start), [run.data for run in area.runs]
    yield JSON, [json.dumps(_data(image), indent=1).encode("ascii"), b"\n"]


def _pages_name(start: int) -> str:
    return f"{start:x}.pages"


def _memory_name(number: int) -> str:
    return f"memory-{number}.bytes"


def _files(image: Image) -> list[File]:
    behind = (area.file for area in image.areas if area.file is not None)
    return list(dict.fromkeys((image.exe, *behind)))


def _data(image: Image) -> dict[str, object]:
    """Return the JSON of an image: addresses and masks in hex, in an order to be read."""
    files, its = _files(image), image.credentials
    registers = image.registers
    return {
        "schema": SCHEMA,
        "kernel": image.kernel,
        "machine": image.machine,
        "page": hex(image.page),
        "build": image.build,
        "comm": os.fsdecode(image.comm),
        "map": {name: hex(getattr(image.map, name)) for name in ADDRESSES},
        "auxv": [str(entry) for entry in decode_auxv(image.auxv)],
        "exe": files.index(image.exe),
        "files": [
            {
                "kind": file.kind,
                "name": file.name,
                "size": hex(file.size),
                "sha256": file.sha256,
                "descriptor": file.descriptor if file.descriptor is None else hex(file.descriptor),
            }
            for file in files
        ],
        "areas": [_area_data(area, files) for area in image.areas],
        "kernel_pages": [
            {"label": pages.label, "range": _range_text(pages.start, pages.end)}
            for pages in image.kernel_pages
        ],
        "registers": {
            "number": hex(registers.number),
            "arguments": [hex(each) for each in registers.arguments],
            "sp": hex(registers.sp),
            "pc": hex(registers.pc),
        },
        "entry": hex(image.entry),
        "limits": {
            name: " ".join(
                "unlimited" if each is None else hex(each) for each in (limit.soft, limit.hard)
            )
            for name, limit in image.limits.items()
        },
        "credentials": {
            "uid": hex(its.uid),
            "gid": hex(its.gid),
            "groups": [hex(group) for group in its.groups],
            "capabilities": hex(its.capabilities),
            "own_user_namespace": its.own_user_namespace,
            "ids_mapped": its.ids_mapped,
            "dumpable": hex(its.dumpable),
            "no_new_privileges": its.no_new_privileges,
        },
        "umask": hex(image.umask),
        "personality": hex(image.personality),
        "left_out": list(image.left_out),
        "proc": _proc_data(image.proc),
    }


def _area_data(area: Area, files: list[File]) -> dict[str, object]:
    return {
        "range": _range_text(area.start, area.end),
        "permissions": area.permissions,
        "flags": sorted(area.flags),
        "file": None if area.file is None else files.index(area.file),
        "offset": hex(area.offset),
        "name": area.name,
        "charged": area.charged,
        "touched": [_range_text(run.start, run.end) for run in area.runs],
        "guards": [_range_text(*guards) for guards in area.guards],
        "sha256": _digest([run.data for run in area.runs]) if area.runs else "",
    }


def _range_text(start: int, end: int) -> str:
    return f"{start:#x}-{end:#x}"


def _digest(parts: Iterable[Bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _proc_data(parts: Parts) -> dict[str, object]:
    data: dict[str, object] = {"pid": hex(parts.pid)}
    for name in (*TEXTS, *BINARY):
        text = parts.texts[name]
        if isinstance(text, Unreadable):
            data[name] = {"unreadable": text.errno}
        elif text is None or name in BINARY:
            data[name] = text and text.hex()
        else:
            data[name] = os.fsdecode(text).split("\n")
    data["names"] = {
        name: None if found is None else list(map(hex, found))
        for name, found in parts.names.items()
    }
    return data


# ---- reading ----------------------------------------------------------------------------------


def load(folder: Path) -> Image:
    """Read an image.

    Raises InputError for anything that is no image, is damaged or cannot be right.
    """
    with _opened_folder(folder) as directory:
        return _image_of(directory)


def to_parts(image: Image) -> dict[str, bytes]:
    """Return the files that `save` would write, by name, for another way to keep or send them."""
    return {name: b"".join(map(bytes, parts)) for name, parts in _parts(image)}


def from_parts(parts: Mapping[str, bytes]) -> Image:
    """Read an image from its files, by name; raises as `load`."""
    return _image_of(parts)


def _image_of(source: Source) -> Image:
    text = bytes(_file(source, JSON, most=MOST_JSON))
    try:
        data = json.loads(text, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise InputError(JSON, f"is no JSON: {error}") from None
    return _image(_Part("", data), source)


@contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise InputError("folder", f"cannot be opened: {error}", repr(str(folder))[:80],
                         "one with an image") from None  # fmt: skip
    try:
        yield directory
    finally:
        os.close(directory)


def _file(source: Source, name: str, *, most: int, size: int | None = None) -> memoryview:
    """Read a regular file of the folder, not what a link leads to, and no more than expected."""
    if not isinstance(source, int):
        if name not in source:
            raise InputError(name, "is missing")
        return _of_size(name, memoryview(source[name]), most, size)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=source)
    except OSError as error:
        raise InputError(name, f"cannot be opened: {error.strerror}") from None
    try:
        told = os.fstat(descriptor)
        if not stat.S_ISREG(told.st_mode):
            raise InputError(name, "is no regular file")
        _require_size(name, told.st_size, most, size)
        view = rest = memoryview(room(told.st_size))
        while rest and (got := os.readv(descriptor, [rest])):
            rest = rest[got:]
        return _of_size(name, view[: len(view) - len(rest)], most, size)
    except OSError as error:
        raise InputError(name, f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _of_size(name: str, data: memoryview, most: int, size: int | None) -> memoryview:
    _require_size(name, len(data), most, size)
    return data.toreadonly()


def _require_size(name: str, found: int, most: int, size: int | None) -> None:
    if found > most or found != (found if size is None else size):
        expected = f"at most {most:#x}" if size is None else hex(size)
        raise InputError(name, "is its number of bytes", hex(found), expected)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands there twice")
    return found


_NUMBER = "0x(?:0|[1-9a-f][0-9a-f]{0,15})"


@dataclass(frozen=True)
class _Part:
    """A value somewhere in the JSON; it knows where, and is what it is asked to be, or refused."""

    where: str
    value: Any

    def bad(self, problem: str, expected: str) -> InputError:
        """Return the error for this value."""
        return InputError(self.where or JSON, problem, repr(self.value)[:60], expected)

    def members(self, *names: str) -> dict[str, _Part]:
        """Take it as an object with exactly these members."""
        if not isinstance(self.value, dict) or self.value.keys() != set(names):
            if isinstance(self.value, dict):
                odd = sorted(set(names) ^ self.value.keys())
                raise InputError(self.where or JSON, "are members too many or too few",
                                 ", ".join(odd)[:80], "those of the format")  # fmt: skip
            raise self.bad("is no object", "one in braces")
        return {name: _Part(f"{self.where}.{name}".strip("."), self.value[name]) for name in names}

    def pairs(self, most: int) -> dict[str, _Part]:
        """Take it as an object with any members."""
        if not isinstance(self.value, dict) or len(self.value) > most:
            raise self.bad("is no object", f"one with at most {most} members")
        return {name: _Part(f"{self.where}[{name[:40]!r}]", v) for name, v in self.value.items()}

    def each(self, most: int, exactly: int | None = None) -> list[_Part]:
        """Take it as a list."""
        count = len(self.value) if isinstance(self.value, list) else -1
        if not 0 <= count <= most or count != (count if exactly is None else exactly):
            raise self.bad("is no such list",
                           f"one of {'at most ' if exactly is None else ''}{most}")  # fmt: skip
        return [_Part(f"{self.where}[{i}]", value) for i, value in enumerate(self.value)]

    def number(self, top: int = U64) -> int:
        """Take it as a number in hex, 0 to `top`."""
        text = self.matching(_NUMBER, 'a number such as "0x5000"')
        if int(text, 16) > top:
            raise self.bad("is too large", f"at most {top:#x}")
        return int(text, 16)

    def index(self, count: int) -> int:
        """Take it as a position in a list."""
        if type(self.value) is not int or not 0 <= self.value < count:
            raise self.bad("is no position in the list", f"0 to {count - 1}")
        return int(self.value)

    def text(self, most: int = 4096) -> str:
        """Take it as text that could be a file's name: no zero bytes, no broken characters."""
        if not isinstance(self.value, str) or len(self.value) > most or "\0" in self.value:
            raise self.bad("is no text", f"at most {most} characters, none of them zero")
        try:
            os.fsencode(self.value)
        except UnicodeEncodeError:
            raise self.bad("is no text", "characters that a file's name may have") from None
        return self.value

    def one_of(self, words: Sequence[str]) -> str:
        """Take it as one of some words."""
        if not isinstance(self.value, str) or self.value not in words:
            raise self.bad("is not known here", " or ".join(words))
        return self.value

    def matching(self, pattern: str, what: str) -> str:
        """Take it as text of a form."""
        if not isinstance(self.value, str) or not re.fullmatch(pattern, self.value):
            raise self.bad("is not of the form", what)
        return self.value

    def flag(self) -> bool:
        """Take it as true or false."""
        if not isinstance(self.value, bool):
            raise self.bad("is neither true nor false", "one of them")
        return self.value

    def range(self, page: int, low: int, high: int) -> tuple[int, int]:
        """Take it as the start and the end, exclusive, of pages between two bounds."""
        text = self.matching(f"{_NUMBER}-{_NUMBER}", 'a range such as "0x5000-0x6000"')
        start, end = (int(each, 16) for each in text.split("-"))
        if start % page or end % page or not low <= start < end <= high:
            raise self.bad("is no range of pages here", f"between {low:#x} and {high:#x}")
        return start, end


def _image(part: _Part, source: Source) -> Image:
    if not isinstance(part.value, dict) or part.value.get("schema") != SCHEMA:
        schema = part.value.get("schema") if isinstance(part.value, dict) else part.value
        raise InputError("schema", "is not one that this version reads", repr(schema)[:60], SCHEMA)
    own = part.members(
        *"schema kernel machine page build comm map auxv exe files areas kernel_pages registers "
        "entry limits credentials umask personality left_out proc".split()
    )
    machine = own["machine"].one_of(MACHINES)
    page = own["page"].number()
    if page not in PAGES:
        raise own["page"].bad("is no size of a page", ", ".join(map(hex, PAGES)))
    top = TOP[machine]
    kernel_pages = tuple(_kernel_pages(each, page, top) for each in own["kernel_pages"].each(16))
    files: list[File] = []
    for each in own["files"].each(256):
        files.append(_described(each, files, source))
    areas = _areas(own["areas"], files, (page, top), source)
    _require_apart(own["areas"], areas, kernel_pages)
    return Image(
        machine=machine,
        page=page,
        build=own["build"].one_of(tuple(BUILDS)),
        map=PrctlMmMap(**{name: each.number() for name, each in
                          own["map"].members(*ADDRESSES).items()}),
        auxv=_vector(own["auxv"]),
        exe=files[own["exe"].index(len(files))],
        areas=areas,
        kernel_pages=kernel_pages,
        registers=_registers(own["registers"]),
        entry=own["entry"].number(top),
        limits=_limits(own["limits"]),
        credentials=_credentials(own["credentials"]),
        comm=os.fsencode(own["comm"].text(15)),
        umask=own["umask"].number(0o777),
        personality=own["personality"].number(U32),
        proc=_proc(own["proc"]),
        kernel=own["kernel"].text(128),
        left_out=tuple(each.text() for each in own["left_out"].each(1 << 12)),
    )  # fmt: skip


def _kernel_pages(part: _Part, page: int, top: int) -> KernelPages:
    own = part.members("label", "range")
    label = own["label"].matching(r"\[v\w{1,16}\]", "[vdso]")
    return KernelPages(label, *own["range"].range(page, page, top))


def _described(part: _Part, before: list[File], source: Source) -> File:
    own = part.members("kind", "name", "size", "sha256", "descriptor")
    kind, size = own["kind"].one_of(KINDS), own["size"].number(1 << 48)
    name, digest = own["name"].text(), own["sha256"].matching("([0-9a-f]{64})?", "a SHA-256 in hex")
    if kind == "path" and not name.startswith("/"):
        raise own["name"].bad("is no whole path", "one that begins with /")
    number, descriptor = sum(file.kind in MADE_AGAIN for file in before), None
    if own["descriptor"].value is not None:
        descriptor = own["descriptor"].number(1 << 20)
        if descriptor <= LIFELINE or kind != "memory":
            raise own["descriptor"].bad("is no descriptor of a memory file", f"above {LIFELINE:#x}")
        if descriptor in [file.descriptor for file in before]:
            raise own["descriptor"].bad("is taken by another file", "one of its own")
    if kind != "memory":
        return File(kind, name, size, digest, number=number if kind in MADE_AGAIN else 0)
    own["name"].text(249)
    contents = _file(source, _memory_name(number), most=MOST_CONTENTS, size=size)
    _require_digest(_memory_name(number), contents, digest)
    return File(kind, name, size, digest, bytes(contents), number, descriptor)


def _require_digest(name: str, contents: Bytes, expected: str) -> None:
    found = _digest([contents])
    if found != expected:
        raise InputError(name, "is its digest", found, expected or "none")


def _areas(
    part: _Part, files: list[File], bounds: tuple[int, int], source: Source
) -> tuple[Area, ...]:
    """Read the areas: in ascending order, without overlaps, their contents within the bound."""
    page, top = bounds
    areas: list[Area] = []
    last, room = page, MOST_CONTENTS
    for each in part.each(MOST_AREAS):
        own = each.members(
            *"range permissions flags file offset name charged touched guards sha256".split()
        )
        start, end = own["range"].range(page, last, top)
        touched = _inside(own["touched"], page, start, end)
        size = sum(stop - first for first, stop in touched)
        room -= size
        if room < 0:
            raise own["touched"].bad("is more memory than an image may hold",
                                     f"{MOST_CONTENTS:#x} bytes in all")  # fmt: skip
        number = own["file"]
        area = Area(
            start,
            end,
            own["permissions"].matching("[r-][w-][x-][ps]", "rwxp, - for what is not"),
            frozenset(flag.one_of(tuple(RESTORED_FLAGS)) for flag in own["flags"].each(16)),
            None if number.value is None else files[number.index(len(files))],
            own["offset"].number(1 << 62),
            own["name"].text(79),
            own["charged"].flag(),
            _runs(source, touched, size, start, own["sha256"]),
            tuple(_inside(own["guards"], page, start, end)),
        )
        _require_sense(each, area, page)
        areas.append(area)
        last = end
    return tuple(areas)


def _inside(part: _Part, page: int, start: int, end: int) -> list[tuple[int, int]]:
    found = []
    for each in part.each(1 << 20):
        found.append(each.range(page, start, end))
        start = found[-1][1]
    return found


def _runs(
    source: Source, touched: list[tuple[int, int]], size: int, start: int, digest: _Part
) -> tuple[Run, ...]:
    expected = digest.matching("([0-9a-f]{64})?", "a SHA-256 in hex")
    if not touched:
        return ()
    name = _pages_name(start)
    data = _file(source, name, most=MOST_CONTENTS, size=size)
    _require_digest(name, data, expected)
    view, runs = data, []
    for first, stop in touched:
        runs.append(Run(first, view[: stop - first]))
        view = view[stop - first :]
    return tuple(runs)


def _require_sense(part: _Part, area: Area, page: int) -> None:
    """Refuse an area that no process could have."""
    shared, kind = area.permissions[3] == "s", area.file.kind if area.file else ""
    if area.offset % page:
        raise part.bad("has an offset between two pages", f"a multiple of {page:#x}")
    if (shared and not kind) or (kind == "shared" and not shared):
        raise part.bad("is shared without shared memory, or the other way round", "both or none")
    if shared and kind != "shared" and area.runs:
        raise part.bad("has pages of its own in a file that is shared", "none")
    if kind == "shared" and area.offset + area.size > MOST_CONTENTS:
        raise part.bad("is shared memory too large", f"at most {MOST_CONTENTS:#x} bytes")


def _require_apart(part: _Part, areas: Sequence[Area], kernel_pages: Sequence[KernelPages]) -> None:
    ranges = [(area.start, area.end) for area in areas]
    ranges += [(pages.start, pages.end) for pages in kernel_pages]
    for (_, end), (start, _) in pairwise(sorted(ranges)):
        if start < end:
            raise InputError(part.where, "lies in two areas", hex(start), "ranges that are apart")


def _vector(part: _Part) -> bytes:
    entries = []
    for each in part.each(256):
        text = each.matching(f"(AT_[A-Z0-9_]+|{_NUMBER})={_NUMBER}", "AT_PAGESZ=0x1000")
        kind, value = text.split("=")
        if kind.startswith("AT_") and kind not in TYPES:
            raise each.bad("is of no type that is known here", "one such as AT_PAGESZ")
        entries.append((TYPES[kind] if kind in TYPES else int(kind, 16), int(value, 16)))
    return encode_auxv(entries)


def _registers(part: _Part) -> Registers:
    own = part.members("number", "arguments", "sp", "pc")
    a, b, c, d, e, f = (each.number() for each in own["arguments"].each(6, 6))
    return Registers(
        own["number"].number(), (a, b, c, d, e, f), own["sp"].number(), own["pc"].number()
    )


def _limits(part: _Part) -> dict[str, Limit]:
    limits = {}
    for name, each in part.pairs(64).items():
        if name not in LIMIT_NAMES.values():
            raise InputError(part.where, "is no limit", repr(name)[:60], "RLIMIT_DATA and others")
        form = f"({_NUMBER}|unlimited) ({_NUMBER}|unlimited)"
        words = each.matching(form, '"0x5000 unlimited"').split()
        soft, hard = (None if word == "unlimited" else int(word, 16) for word in words)
        if (U64 if soft is None else soft) > (U64 if hard is None else hard):
            raise each.bad("has its soft limit above the hard one", "the other way round")
        limits[name] = Limit(soft, hard)
    return limits


def _credentials(part: _Part) -> Credentials:
    own = part.members(*(each.name for each in fields(Credentials)))
    return Credentials(
        uid=own["uid"].number(U32),
        gid=own["gid"].number(U32),
        groups=tuple(each.number(U32) for each in own["groups"].each(1 << 16)),
        capabilities=own["capabilities"].number(),
        own_user_namespace=own["own_user_namespace"].flag(),
        ids_mapped=own["ids_mapped"].flag(),
        dumpable=own["dumpable"].number(2),
        no_new_privileges=own["no_new_privileges"].flag(),
    )


def _proc(part: _Part) -> Parts:
    """Read the texts of /proc, and make sure that they are such texts."""
    own = part.members("pid", *TEXTS, *BINARY, "names")
    pid = own["pid"].number(1 << 31)
    texts = {name: _proc_text(name, own[name], pid) for name in (*TEXTS, *BINARY)}
    names: dict[str, Identity | None] = {}
    for name, each in own["names"].pairs(1 << 12).items():
        if each.value is None:
            names[name] = None
        else:
            major, minor, inode = (number.number() for number in each.each(3, 3))
            names[name] = major, minor, inode
    parts = Parts(pid, texts, names)
    snapshot = Snapshot.of(parts)
    try:
        for name in texts:
            getattr(snapshot, name)
        assert snapshot.members is not None
    except (ValueError, LookupError, AssertionError) as error:
        raise InputError(part.where, f"is not what /proc shows: {error}"[:200]) from None
    return parts


def _proc_text(name: str, part: _Part, pid: int) -> bytes | Unreadable | None:
    if isinstance(part.value, dict):
        number = part.members("unreadable")["unreadable"].index(4096)
        return Unreadable(f"/proc/{pid}/{name}", number)
    if part.value is None and name == "smaps":
        return None
    if name in BINARY:
        return bytes.fromhex(part.matching("([0-9a-f]{2})*", "bytes in hex"))
    return os.fsencode("\n".join(line.text(1 << 16) for line in part.each(1 << 22)))
