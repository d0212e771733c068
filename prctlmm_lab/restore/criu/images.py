"""CRIU's image of an address space, mm-PID.img: read into the 11 addresses, the vector, the VMAs.

An image is two little-endian 32-bit magic words and then entries, each a 32-bit length and as many
bytes of protobuf (CRIU's criu/include/magic.h and `schema`). Whatever is damaged or contradicts
itself is refused in one sentence.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import ADDRESSES, NO_EXE, U64, PrctlMmMap
from prctlmm_lab.kernel.auxv import AuxEntry, decode_auxv
from prctlmm_lab.kernel.procfs import STAT_FIELDS, Beside, Snapshot, Stat, Unreadable, Vma
from prctlmm_lab.restore.criu.schema import SCHEMA, message_class
from prctlmm_lab.words import printable

COMMON_MAGIC = 0x54564319
"""The first word of nearly every image since v1.1."""
MM_MAGIC, FILES_MAGIC = 0x57492820, 0x56303138

_PAGE = 4096
_MOST_BYTES = 64 << 20
"""Of an image: more than a million VMAs."""
_MOST_WORDS = 1 << 12
"""Of an auxiliary vector; kernels have at most some sixty."""

STATUS: dict[int, str] = {
    0: "regular",
    1: "stack",
    2: "vsyscall",
    3: "vdso",
    5: "heap",
    6: "file, private",
    7: "file, shared",
    8: "anonymous, shared",
    9: "anonymous, private",
    10: "SysV shared memory",
    11: "socket",
    12: "vvar",
    13: "aio ring",
    14: "memory file",
    15: "shadow stack",
    16: "guard",
    17: "uprobes",
}
"""What CRIU noted of a VMA, by the bit (criu/include/image.h, v4.2)."""

_REGULAR, _VSYSCALL, _VDSO, _HEAP, _VVAR = (1 << bit for bit in (0, 2, 3, 5, 12))
_FILE = 1 << 6 | 1 << 7
_LABELS = ((_VSYSCALL, "[vsyscall]"), (_VDSO, "[vdso]"), (_VVAR, "[vvar]"), (_HEAP, "[heap]"))
_MAP_SHARED, _MAP_GROWSDOWN = 0x01, 0x0100


@dataclass(frozen=True)
class CriuVma:
    """One VMA of an image; `end` is exclusive."""

    start: int
    end: int
    offset: int
    """Bytes into the file."""
    file: int
    """The number of its file in files.img; 0, or an id of shared memory, where there is none."""
    permissions: str
    """Four letters, as in /proc/PID/maps."""
    grows_down: bool
    status: int
    """What CRIU noted of it, as bits of `STATUS`."""

    @property
    def size(self) -> int:
        """Bytes from start to end."""
        return self.end - self.start

    @property
    def has_file(self) -> bool:
        """True if it maps a file."""
        return bool(self.status & _FILE)

    @property
    def is_kernels(self) -> bool:
        """True for the pages that the kernel itself puts into a process."""
        return bool(self.status & (_VSYSCALL | _VDSO | _VVAR))

    @property
    def notes(self) -> tuple[str, ...]:
        """What CRIU noted of it, in words."""
        return tuple(text for bit, text in STATUS.items() if self.status >> bit & 1)

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.end


@dataclass(frozen=True)
class CriuMemory:
    """One address space, as CRIU noted it."""

    source: str
    """The file that it was read from."""
    pid: int
    """From the file's name; 0 if it has none."""
    addresses: Mapping[str, int]
    """The 11 addresses by their member's name, in the order of the struct."""
    auxv: tuple[int, ...]
    """The auxiliary vector in 64-bit words: type, value, type, value."""
    exe_file: int
    """The number, in files.img, of the file that the exe link named."""
    vmas: tuple[CriuVma, ...]
    """In ascending order."""
    dumpable: int | None = None
    files: Mapping[int, str] = field(default_factory=dict)
    """Names of files by their number, where files.img lies beside the image."""

    @property
    def vector(self) -> bytes:
        """The auxiliary vector as the kernel reads it."""
        return struct.pack(f"<{len(self.auxv)}Q", *self.auxv)

    @property
    def aux_entries(self) -> tuple[AuxEntry, ...]:
        """The auxiliary vector decoded."""
        return decode_auxv(self.vector)

    @property
    def exe(self) -> str:
        """The name of the file that the exe link named, or which file of the image it is."""
        return self.file_name(self.exe_file)

    def file_name(self, number: int) -> str:
        """Return a file's name; without files.img, its number.

        >>> shipped_images()[0].file_name(9)
        'file 9 of files.img'
        """
        return self.files.get(number, f"file {number} of files.img")

    def map(self, *, auxv: int = 0, exe_fd: int = NO_EXE) -> PrctlMmMap:
        """Return the 14 members of the call that a restorer makes of this image.

        12 of them come from the image. `auxv` is where the restorer keeps the vector, and `exe_fd`
        its descriptor of the executable: each restore has its own. With `auxv` 0 the vector is
        left out.

        >>> hex(shipped_images()[0].map(auxv=0x2a270, exe_fd=6).auxv_size)
        '0x160'
        """
        size = 8 * len(self.auxv) if auxv else 0
        return PrctlMmMap(**self.addresses, auxv=auxv, auxv_size=size, exe_fd=exe_fd)

    def vma_at(self, address: int) -> CriuVma | None:
        """Return the VMA that holds an address, or None."""
        return next((vma for vma in self.vmas if address in vma), None)

    def snapshot(self) -> Snapshot:
        """Return what /proc showed of the process, as far as the image tells, to draw and to list.

        What no image of an address space holds is marked as not readable (ENODATA).

        >>> [vma.size for vma in shipped_images()[0].snapshot().labelled("[heap]")]
        [135168]
        """
        missing = Unreadable(self.source, errno.ENODATA)
        name = Path(self.files.get(self.exe_file, self.source)).name
        numbers = dict.fromkeys((name for name in STAT_FIELDS if name not in ("comm", "state")), 0)
        numbers |= {name: value for name, value in self.addresses.items() if name != "brk"}
        return Snapshot(
            pid=self.pid,
            stat=Stat(name, "?", numbers),
            statm=missing,
            status=missing,
            maps=tuple(self._as_in_maps(vma) for vma in self.vmas),
            auxv=self.vector,
            cmdline=missing,
            environ=missing,
            exe=self.exe,
            limits=missing,
            brk=self.addresses["brk"],
            beside=Beside(f"read from {self.source}", "", exe_mapped=False,
                          own_user_namespace=False),
        )  # fmt: skip

    def _as_in_maps(self, vma: CriuVma) -> Vma:
        label = next((label for bit, label in _LABELS if vma.status & bit), "")
        if not label and not vma.has_file and self.addresses["start_stack"] in vma:
            label = "[stack]"
        path = self.file_name(vma.file) if vma.has_file else ""
        inode = vma.file if vma.has_file else 0
        return Vma(
            vma.start, vma.end, vma.permissions, vma.offset, (0, 0), inode, path, label, False
        )

    def __str__(self) -> str:
        lines = [f"{printable(self.source)}: {len(self.vmas)} VMAs, exe is {printable(self.exe)}"]
        lines += [f"  {name:11} {value:#x}" for name, value in self.addresses.items()]
        lines.append(
            f"  auxv        {len(self.auxv)} words: {', '.join(map(str, self.aux_entries))}"
        )
        return "\n".join(lines)


def is_image(data: bytes) -> bool:
    """Tell whether bytes begin as CRIU's images do."""
    return data[:4] == struct.pack("<I", COMMON_MAGIC)


def read_memory(path: str | os.PathLike[str]) -> CriuMemory:
    """Read mm-PID.img, and the names of files from files.img if that lies beside it.

    >>> memory = read_memory(image_folder() / "mm-28.img")
    >>> memory.pid, len(memory.vmas), hex(memory.addresses["brk"])
    (28, 24, '0x56368d2e3000')

    Equivalent: `crit show mm-PID.img`.

    Raises InputError for what is no such image, is damaged or contradicts itself; OSError if it
    cannot be read; UnsupportedSystem without the protobuf library.
    """
    path = Path(path)
    where = printable(str(path))
    (message,) = _only(_entries(_bytes_of(path), MM_MAGIC, "mm_entry", where), where)
    for name in ("mm_" + name for name in ADDRESSES):
        if not message.HasField(name):
            raise InputError(where, f"lacks {name}", "", "all 11 addresses")
    number = re.fullmatch(r"mm-([0-9]{1,9})\.img", path.name)
    memory = CriuMemory(
        source=path.name,
        pid=int(number[1]) if number else 0,
        addresses={name: getattr(message, f"mm_{name}") for name in ADDRESSES},
        auxv=tuple(message.mm_saved_auxv),
        exe_file=message.exe_file_id,
        vmas=tuple(_vma(entry, f"{where}: vmas[{n}]") for n, entry in enumerate(message.vmas)),
        dumpable=message.dumpable if message.HasField("dumpable") else None,
        files=_file_names(path.with_name("files.img")),
    )
    _check(memory, where)
    return memory


def image_folder() -> Path:
    """Return where the checkpoint that comes with the lab lies."""
    package = Path(__file__).parents[2]
    folders = (package.parent / "data" / "criu", package / "data" / "criu")
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def shipped_images() -> tuple[CriuMemory, ...]:
    """Return the address spaces of the checkpoint that comes with the lab: `sh` and `sleep`."""
    return tuple(read_memory(path) for path in sorted(image_folder().glob("mm-*.img")))


# ---- bytes to messages --------------------------------------------------------------------------


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InputError(printable(str(path)), "is too long for an image", "",
                         f"at most {_MOST_BYTES:#x} bytes")  # fmt: skip
    return data


def _entries(data: bytes, magic: int, kind: str, where: str) -> Iterator[Any]:
    """Yield the entries of an image, each as a message of this kind."""
    cls = message_class(kind)
    from google.protobuf.message import DecodeError

    if len(data) < 8:
        raise InputError(where, "bytes are too few for an image", hex(len(data)), "two magic words")
    common, own = struct.unpack_from("<2I", data)
    if (common, own) != (COMMON_MAGIC, magic):
        raise InputError(where, f"are not the magic words of a {kind} image",
                         f"{common:#x}, {own:#x}", f"{COMMON_MAGIC:#x}, {magic:#x}")  # fmt: skip
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + length > len(data):
            raise InputError(where, f"ends within the entry at {at:#x}", "",
                             f"{length:#x} bytes from {at + 4:#x} on")  # fmt: skip
        try:
            yield cls.FromString(data[at + 4 : at + 4 + length])
        except (DecodeError, UnicodeDecodeError):
            raise InputError(where, f"bytes at {at + 4:#x} are no protobuf of {kind}", hex(length),
                             ) from None  # fmt: skip
        at += 4 + length


def _only(entries: Iterator[Any], where: str) -> tuple[Any]:
    found = list(entries)
    if len(found) != 1:
        raise InputError(where, "address spaces are in it", str(len(found)), "one")
    return (found[0],)


def _file_names(path: Path) -> dict[int, str]:
    """Return the names of the regular files of files.img; none if there is no such file."""
    if not path.is_file():
        return {}
    where = printable(str(path))
    entries = _entries(_bytes_of(path), FILES_MAGIC, "file_entry", where)
    return {entry.id: entry.reg.name for entry in entries if entry.HasField("reg")}


# ---- messages to what we mean by them -----------------------------------------------------------


def _vma(entry: Any, where: str) -> CriuVma:
    for needed in SCHEMA["vma_entry"]:
        if not entry.HasField(needed.name):
            raise InputError(where, f"lacks {needed.name}")
    if not entry.start < entry.end or entry.start % _PAGE or entry.end % _PAGE:
        raise InputError(where, "is no range of pages", f"{entry.start:#x}-{entry.end:#x}",
                         f"start < end, both multiples of {_PAGE:#x}")  # fmt: skip
    if entry.prot > 7:
        raise InputError(f"{where}.prot", "are no permissions", hex(entry.prot), "0 to 0x7")
    letters = "".join(
        letter if entry.prot >> bit & 1 else "-" for bit, letter in enumerate("rwx")
    )  # fmt: skip
    return CriuVma(
        start=entry.start,
        end=entry.end,
        offset=entry.pgoff,
        file=entry.shmid,
        permissions=letters + ("s" if entry.flags & _MAP_SHARED else "p"),
        grows_down=bool(entry.flags & _MAP_GROWSDOWN),
        status=entry.status,
    )


def _check(memory: CriuMemory, where: str) -> None:
    """Refuse what cannot be one process's memory."""
    if len(memory.auxv) > _MOST_WORDS or len(memory.auxv) % 2:
        raise InputError(f"{where}: mm_saved_auxv", "words are no vector", str(len(memory.auxv)),
                         f"pairs, at most {_MOST_WORDS} words")  # fmt: skip
    end = 0
    for number, vma in enumerate(memory.vmas):
        if vma.start < end:
            raise InputError(f"{where}: vmas[{number}]", "begins before the one before it ends",
                             hex(vma.start), f"{end:#x} or above")  # fmt: skip
        end = vma.end
    assert end <= U64
