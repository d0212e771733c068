"""The files behind areas and the exe link: found at a checkpoint, opened again at a restore.

CRIU keeps them in reg-files images, and the contents of files that have no name in ghost files.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from io import FileIO

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable, Vma
from prctlmm_lab.restore.image import MADE_AGAIN, MOST_CONTENTS, File
from prctlmm_lab.specimen.build import binary_path
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.spawn import LIFELINE

F_DUPFD = 0
_DELETED = " (deleted)"


def out_of_scope(what: str, value: str, expected: str) -> InputError:
    """Return the error for what a process has and an image cannot have."""
    return InputError("checkpoint", f"{what}, which an image cannot hold", value, expected)


def link(path: str) -> str:
    """Return what a link reads, "" if it cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def descriptors(pid: int) -> list[tuple[int, str]]:
    """Return the descriptors of a specimen and what their links read, but not those to us."""
    numbers = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))
    return [(n, link(f"/proc/{pid}/fd/{n}")) for n in numbers if n > LIFELINE]


def sha256(data: bytes | memoryview) -> str:
    """Return a digest as `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


class FoundFiles:
    """The files of one process, each described once."""

    def __init__(self, specimen: Specimen) -> None:
        self.pid = specimen.pid
        self.program = binary_path(specimen.build, specimen.machine).read_bytes()
        self.found: dict[tuple[str, int], File] = {}
        """By the name that /proc shows, and the inode."""

    def behind(self, vma: Vma) -> File | None:
        """Return the file that a VMA maps, None for anonymous private memory.

        Raises InputError for a file that could not be opened or made again.
        """
        if vma.inode == 0:
            return None
        shown = vma.path + _DELETED * vma.deleted
        if (shown, vma.inode) not in self.found:
            is_shared = shown == "/dev/zero" + _DELETED or vma.label.startswith("[anon_shmem:")
            self.found[shown, vma.inode] = (
                File("shared", number=self._made_again())
                if is_shared
                else self._described(self._paths(vma, shown), shown, vma.inode)
            )
        return self.found[shown, vma.inode]

    def behind_exe(self, snapshot: Snapshot) -> File:
        """Return the file that the exe link names."""
        if isinstance(snapshot.exe, Unreadable):
            raise out_of_scope("cannot be read", snapshot.exe.path, "an exe link")
        path = f"/proc/{self.pid}/exe"
        inode = os.stat(path).st_ino
        file = self._described([path], snapshot.exe, inode)
        return self.found.setdefault((snapshot.exe, inode), file)

    def _made_again(self) -> int:
        """Count the files so far that a restorer makes itself."""
        return sum(file.kind in MADE_AGAIN for file in self.found.values())

    def _paths(self, vma: Vma, shown: str) -> Iterator[str]:
        """Yield where a mapped file may be opened: by its name, or where the process holds it."""
        folder = f"/proc/{self.pid}"
        if not vma.deleted:
            yield vma.path
        yield f"{folder}/exe"
        yield from (f"{folder}/fd/{number}" for number, name in descriptors(self.pid)
                    if name == shown)  # fmt: skip
        yield f"{folder}/map_files/{vma.start:x}-{vma.end:x}"  # needs CAP_CHECKPOINT_RESTORE

    def _described(self, paths: Iterable[str], shown: str, inode: int) -> File:
        for path in paths:
            try:
                with open(path, "rb", buffering=0, opener=_open_quietly) as file:
                    told = os.fstat(file.fileno())
                    if told.st_ino == inode and stat.S_ISREG(told.st_mode):
                        return self._read(file, told, shown)
            except OSError:
                continue
        raise out_of_scope("cannot be opened and read as a file", repr(shown)[:80],
                           "a regular file that has its name, or is open")  # fmt: skip

    def _read(self, file: FileIO, told: os.stat_result, shown: str) -> File:
        name, size = shown.removesuffix(_DELETED), told.st_size
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if name == shown:
            if not os.path.samestat(os.stat(shown), told):
                raise out_of_scope("is another file by now", repr(shown)[:80], "that one")
            return File("path", shown, size, digest)
        if size == len(self.program) and digest == sha256(self.program):
            return File("program", size=size, sha256=digest)
        if not name.startswith("/memfd:") or size > MOST_CONTENTS:
            raise out_of_scope("is a file that was deleted", repr(name)[:80], "one that is there")
        contents = os.pread(file.fileno(), size, 0)
        name, number = name.removeprefix("/memfd:"), self._made_again()
        return File("memory", name, size, digest, contents, number, self._open_at(told, shown))

    def _open_at(self, told: os.stat_result, shown: str) -> int | None:
        """Return the lowest descriptor of the process that leads to a file."""
        for number, name in descriptors(self.pid):
            if name == shown and os.path.samestat(os.stat(f"/proc/{self.pid}/fd/{number}"), told):
                return number
        return None


def _open_quietly(path: str, flags: int) -> int:
    """Open without waiting for a writer, should the path lead to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


class OpenedFiles:
    """The files of an image in the process that is restored: each is opened when it is needed."""

    def __init__(self, specimen: Specimen) -> None:
        self.specimen = specimen
        self.numbers: dict[tuple[File, bool], int] = {}
        """By the file, and whether it can be written to."""

    def descriptor(self, file: File, *, writable: bool = False) -> int:
        """Return a descriptor of a file in the specimen.

        Raises InputError for a file that is not there, or is another one by now; SystemCallError.
        """
        key = file, writable and file.kind == "path"
        if key not in self.numbers:
            self.numbers[key] = self._made(*key)
        return self.numbers[key]

    def close(self) -> None:
        """Close what was opened; memory files stay open where they were, if they were."""
        top = max((file.descriptor or 0 for file, _ in self.numbers), default=0) + 1
        above = {}
        for (file, _), descriptor in self.numbers.items():
            if file.descriptor is not None:
                above[file.descriptor] = self.specimen.syscall("fcntl", descriptor, F_DUPFD, top)
            self.specimen.close(descriptor)
        for wanted, descriptor in above.items():
            self.specimen.syscall("dup3", descriptor, wanted, 0)
            self.specimen.close(descriptor)
        self.numbers = {}

    def _made(self, file: File, writable: bool) -> int:
        if file.kind == "program":
            return self.specimen.open("/proc/self/exe")
        if file.kind == "memory":
            return self.specimen.memory_file(file.name, bytes(file.contents))
        mode = os.O_RDWR if writable else os.O_RDONLY
        try:
            if stat.S_ISREG(os.stat(file.name).st_mode):
                descriptor = self.specimen.open(file.name, mode | os.O_NONBLOCK)
                with open(f"/proc/{self.specimen.pid}/fd/{descriptor}", "rb") as again:
                    if hashlib.file_digest(again, "sha256").hexdigest() == file.sha256:
                        return descriptor
        except (OSError, ValueError) as error:
            raise InputError("restore", f"cannot be opened: {error}", repr(file.name)[:80],
                             "the file of the checkpoint") from None  # fmt: skip
        raise InputError("restore", "is not the file any more that was mapped",
                         repr(file.name)[:80], f"one with the digest {file.sha256}")  # fmt: skip
