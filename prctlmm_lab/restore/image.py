"""An image: everything that a specimen was, as data, and the folder that holds it.

The folder has one JSON file that a person can read, `image.json`, and the contents of memory as
they were: one file of pages for each area that had any. `docs/image-format.md` describes it.
Loading refuses whatever is not such an image before anybody acts on it, and evaluates nothing.

CRIU keeps the same things in many files: core (registers, limits, credentials), mm (the map, the
areas, the auxiliary vector), pagemap and pages (contents), reg-files (what stands behind them).
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.procfs import Limit, Parts, Snapshot
from prctlmm_lab.specimen.recording.marks import LIVE
from prctlmm_lab.specimen.registers import Registers

SCHEMA = "prctlmm_lab.image/1"

MOST_AREAS = 1 << 16
"""About as many as a process may have: sysctl vm.max_map_count is 65530 by default."""
MOST_CONTENTS = 1 << 32
"""Bytes of memory that an image may hold: 4 GiB."""

RESTORED_FLAGS: dict[str, str] = {
    "gd": "grows down",
    "nr": "no swap space is reserved for it",
    "lo": "locked in memory",
    "hg": "huge pages are asked for",
    "nh": "huge pages are declined",
    "dd": "left out of core files",
    "dc": "not copied on fork",
    "wf": "wiped on fork",
    "sr": "read in sequence",
    "rr": "read at random",
    "mg": "pages that are alike may be merged",
}
"""The VmFlags of smaps that an area may have in an image, and their meaning (proc_pid_smaps(5))."""

MADE_AGAIN = ("memory", "shared")
"""Kinds of files that a restorer makes anew: such a file is another one, with another inode."""

Bytes = bytes | memoryview


HUGE_PAGE = 1 << 21
"""Bytes of a huge page on machines with pages of 4 KiB."""


def room(size: int) -> mmap.mmap | bytearray:
    """Return memory for contents, in huge pages: to touch small ones takes longer than to copy."""
    if size < HUGE_PAGE:
        return bytearray(size)
    memory = mmap.mmap(-1, size)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


@dataclass(frozen=True)
class Run:
    """Pages in a row that hold something."""

    start: int
    data: Bytes

    @property
    def end(self) -> int:
        """Where it ends, exclusive."""
        return self.start + len(self.data)


@dataclass(frozen=True)
class File:
    """What stands behind an area, or behind the exe link.

    `kind` is "program" (the specimen's own, of the image's build), "path" (a file that is opened
    again by its name), "memory" (a memory file, its contents are in the image) or "shared"
    (anonymous memory that may be shared: the kernel keeps a file without a name for it).
    """

    kind: str
    name: str = ""
    """Of a path the path, of a memory file its name."""
    size: int = 0
    sha256: str = ""
    """Of the contents; "" for shared memory, whose pages are with its areas."""
    contents: Bytes = b""
    """Of a memory file."""
    number: int = 0
    """Of a file that is made again, which of them: two may be alike."""
    descriptor: int | None = None
    """Of a memory file, where it was open: it has no other name to be opened by again."""


@dataclass(frozen=True)
class Area:
    """One virtual memory area; `end` is exclusive.

    The pages of no run hold what a new mapping has: zeros, or what is in the file.
    """

    start: int
    end: int
    permissions: str
    """Four letters as in maps: r, w, x or -, and p (private) or s (shared)."""
    flags: frozenset[str] = frozenset()
    """Some of `RESTORED_FLAGS`."""
    file: File | None = None
    offset: int = 0
    """Bytes into the file."""
    name: str = ""
    """Given by prctl(PR_SET_VMA_ANON_NAME), "" for none."""
    charged: bool = False
    """Whether it counts as memory that may be needed ("ac" of smaps): it was once writable."""
    runs: tuple[Run, ...] = ()
    guards: tuple[tuple[int, int], ...] = ()
    """Ranges, their ends exclusive, of guard pages inside (madvise, since v6.13)."""

    @property
    def size(self) -> int:
        """Bytes from start to end."""
        return self.end - self.start

    def joins(self, after: Area) -> bool:
        """Tell whether the kernel may make one area of this and the one behind it.

        They touch, have no file, and are alike in all but their contents. It does not join them if
        one was moved there by mremap() with pages in it.

        Source: mm/vma.c, can_vma_merge_after().
        """
        own, other = (
            replace(each, start=0, end=0, runs=(), guards=()) for each in (self, after)
        )  # fmt: skip
        return self.end == after.start and self.file is None and own == other


@dataclass(frozen=True)
class KernelPages:
    """Pages that the kernel itself put there: the vDSO and its data."""

    label: str
    start: int
    end: int


@dataclass(frozen=True)
class Credentials:
    """Who it was, as far as it decides what the specimen may do."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    capabilities: int = 0
    """The effective and permitted ones, as a mask."""
    own_user_namespace: bool = False
    ids_mapped: bool = False
    """Whether its own user namespace knows it as root."""
    dumpable: int = 1
    no_new_privileges: bool = False


@dataclass(frozen=True)
class Image:
    """Everything of a specimen that `restore` needs, and what /proc said of it.

    `map` has the 11 addresses; `auxv` and `exe` stand beside it, as the kernel keeps them.
    """

    machine: str
    page: int
    build: str
    map: PrctlMmMap
    auxv: bytes
    exe: File
    areas: tuple[Area, ...]
    kernel_pages: tuple[KernelPages, ...]
    registers: Registers
    entry: int
    """Where the first instruction of the specimen's program lies."""
    limits: Mapping[str, Limit]
    credentials: Credentials
    comm: bytes
    umask: int
    personality: int
    proc: Parts = field(repr=False)
    """The texts of /proc: to be compared with later ones; nothing is restored from them."""
    kernel: str = field(default="", compare=False)
    """`uname -r` where it was made: for the record, not for decisions."""
    left_out: tuple[str, ...] = ()
    """What the process had that is not in the image, in words."""
    origin: str = field(default=LIVE, compare=False)
    """Where it comes from: a living process, or a recording; it is not saved."""

    @property
    def snapshot(self) -> Snapshot:
        """What /proc said when the image was made."""
        return Snapshot.of(self.proc, self.map.brk)

    @property
    def size(self) -> int:
        """Bytes of memory that it holds."""
        return sum(len(run.data) for area in self.areas for run in area.runs)

    def read(self, start: int, size: int, program: bytes = b"") -> bytes:
        """Return bytes of its memory, zeros where it has none.

        `program` is what stands behind areas of the specimen's own program.
        """
        found, end = bytearray(size), start + size
        for area in self.areas:
            behind = program if area.file and area.file.kind == "program" else b""
            for run in (Run(area.start, behind[area.offset :][: area.size]), *area.runs):
                first, last = max(start, run.start), min(end, run.end)
                if first < last:
                    found[first - start : last - start] = run.data[first - run.start :][
                        : last - first
                    ]
        return bytes(found)

    def save(self, folder: str | Path) -> None:
        """Write the image into a folder that is not there yet, or is empty.

        Raises InputError for another folder, and if it cannot be written.
        """
        from prctlmm_lab.restore.folder import save

        save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Image:
        """Read an image from its folder.

        Raises InputError for anything that is no image, is damaged or cannot be right: which file
        or member, the value, and what was expected.
        """
        from prctlmm_lab.restore.folder import load

        return load(Path(folder))
