"""The guest's first and only file system: this Python and this package, as a cpio archive.

Nothing is installed in a guest. Its kernel unpacks the archive into memory, so what runs there are
the same modules from the same source as here. The archive is written by Python alone: no root, no
disk image, no other program than the loader of shared libraries.

Source: Documentation/driver-api/early-userspace/buffer-format.rst (the format), and
Documentation/filesystems/ramfs-rootfs-initramfs.rst.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import marshal
import os
import platform
import re
import stat
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from prctlmm_lab.errors import UnsupportedSystem

LAB = PurePosixPath("/lab")
"""The guest's folder with this package, and with the packages beside it."""
PACKAGES = ("numpy", "elftools")
"""What beside the standard library goes into a guest: for masses of calls, and for core files."""
_FORMAT = "1"
"""Is part of an archive's name: another one where the same files give another archive."""
_KEPT = 7 * 24 * 3600
"""Seconds after which an archive that nobody used is removed."""

_STANDARD_LEFT_OUT = frozenset(
    "__pycache__ config dist-packages distutils ensurepip idlelib lib2to3 msilib pydoc_data "
    "site-packages test tests tkinter turtledemo venv".split()
)
_EXTENSIONS_LEFT_OUT = frozenset(
    "_crypt _ctypes_test _curses _curses_panel _dbm _gdbm _hashlib _sqlite3 _ssl _testbuffer "
    "_testcapi _testclinic _testimportmultiple _testinternalcapi _testmultiphase _testsinglephase "
    "_tkinter _uuid _xxtestfuzz nis ossaudiodev readline xxlimited xxlimited_35".split()
)
"""Extension modules that nothing here imports; the libraries behind them are large."""
_PACKAGE_LEFT_OUT = frozenset(
    "__pycache__ _pyinstaller distutils doc f2py include testing tests".split()
)
_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
_LAYERS = (
    "errors", "words", "kernel", "specimen", "witnesses", "experiments", "restore", "atlas",
)  # fmt: skip
"""The parts of this package that a guest needs."""

Files = dict[PurePosixPath, Path]
"""Where a file is to stand in the guest, and where it stands here."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that goes into a guest, with its standard library and all that it loads."""

    program: PurePosixPath
    """Its path in the guest."""
    version: str
    """Such as "3.11": compiled modules of another one are of no use to it."""
    files: Files = field(repr=False)
    """The program, the standard library, and every shared library."""
    extra: Files = field(default_factory=dict, repr=False)
    """Files of packages such as numpy, and their libraries."""


def interpreter_here(packages: tuple[str, ...] = ()) -> Interpreter:
    """Return the Python that runs this, with the packages that are installed for it.

    A package that is not there is left out.

    Raises UnsupportedSystem where its shared libraries cannot be listed.
    """
    program = _program()
    files: Files = {PurePosixPath(program): program}
    libraries = {Path(sysconfig.get_path("stdlib"))}
    if extensions := sysconfig.get_config_var("DESTSHARED"):
        libraries.add(Path(extensions))
    for folder in libraries:
        for path in _standard_library(folder):
            files[PurePosixPath(path)] = path
    extra: Files = {}
    for name in packages:
        extra |= installed_package(name)
    loaders = [
        program,
        *(path for path in (*files.values(), *extra.values()) if ".so" in path.name),
    ]
    for path in _shared_libraries(tuple(sorted({*loaders}))):
        if not any(path.is_relative_to(folder) for folder in _folders_of(packages)):
            files.setdefault(PurePosixPath(path), path)
    return Interpreter(PurePosixPath(program), _VERSION, files, extra)


def interpreter_in(folder: Path) -> Interpreter:
    """Return the Python whose Debian packages were unpacked into a folder: of another machine.

    Raises UnsupportedSystem if there is none in the folder.
    """
    programs = sorted(folder.glob("usr/bin/python3.*[0-9]"))
    if not programs:
        raise UnsupportedSystem(f"There is no Python in {folder}", "Unpack python3-minimal there.")
    program = programs[-1]
    files: Files = {}
    for path in _below(folder, _STANDARD_LEFT_OUT | {"doc", "gconv", "man", "share", "sbin"}):
        if path.name.partition(".")[0] in _EXTENSIONS_LEFT_OUT or path.suffix in (".a", ".o"):
            continue
        files[PurePosixPath("/") / path.relative_to(folder)] = path
    return Interpreter(
        PurePosixPath("/") / program.relative_to(folder), program.name.removeprefix("python"), files
    )


def initramfs(
    machine: str = "x86_64",
    *,
    packages: tuple[str, ...] = PACKAGES,
    python: Interpreter | None = None,
) -> Path:
    """Return the archive for guests of a machine, made now if it is not in the cache.

    `packages` are taken from this Python where it has them. `python` is another interpreter than
    this one: a guest of another machine needs it.

    Raises UnsupportedSystem where this Python cannot run in the guest.
    """
    if python is None:
        if sys.platform != "linux" or platform.machine() != machine:
            raise UnsupportedSystem(
                f"This Python cannot run in a guest: it is of {sys.platform} on "
                f"{platform.machine()}, and the guest is Linux on {machine}",
                f"Give one for {machine}.",
            )
        python = _interpreter_known(packages)
    files = python.files | python.extra | _this_package()
    name = f"{machine}-{_digest(files, python)}.cpio"
    path = cache_folder() / name
    if not path.exists():
        _write(path, files, python)
    with contextlib.suppress(OSError):
        os.utime(path)
        _forget_old(path.parent)
    return path


def cache_folder() -> Path:
    """Return where archives are kept: below $XDG_CACHE_HOME, or ~/.cache; made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "prctlmm-lab" / "initramfs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    folder = Path(tempfile.gettempdir(), f"prctlmm-lab-initramfs-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise UnsupportedSystem(f"{folder} is somebody else's", "Set XDG_CACHE_HOME.")
    return folder


@cache
def _interpreter_known(packages: tuple[str, ...]) -> Interpreter:
    return interpreter_here(packages)


def _digest(files: Files, python: Interpreter) -> str:
    """Return what names an archive: other files, or files with other contents, another name."""
    digest = hashlib.sha256(f"{_FORMAT} {python.program} {python.version} {_magic()!r}".encode())
    for inside, path in sorted(files.items()):
        found = path.stat()
        digest.update(f"{inside}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_mode}\n".encode())
    return digest.hexdigest()[:20]


def _magic() -> bytes:
    return importlib.util.MAGIC_NUMBER


def _write(path: Path, files: Files, python: Interpreter) -> None:
    """Write the archive beside its place, and move it there when it is whole."""
    descriptor, beside = tempfile.mkstemp(prefix="making-", dir=path.parent)
    try:
        with open(descriptor, "wb") as archive:
            Cpio(archive).write(_entries(files, python))
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def _forget_old(folder: Path) -> None:
    """Remove the archives that were not used for a week: of older sources, or half made."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _KEPT:
                path.unlink()


# ---- what goes in -----------------------------------------------------------------------------


def _program() -> Path:
    """Return the interpreter itself, not the link to it in a virtual environment."""
    beside = Path(sys.base_exec_prefix, "bin", f"python{_VERSION}")
    return (beside if beside.is_file() else Path(sys.executable)).resolve()


def _standard_library(folder: Path) -> Iterator[Path]:
    for path in _below(folder, _STANDARD_LEFT_OUT):
        wanted = path.suffix == ".so" and path.name.partition(".")[0] not in _EXTENSIONS_LEFT_OUT
        if wanted or path.suffix == ".py":
            yield path


def _below(folder: Path, left_out: frozenset[str] | set[str]) -> Iterator[Path]:
    """Yield the files below a folder, without those in folders of certain names."""
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in left_out and not name.startswith("config-")
        )
        for name in sorted(names):
            path = Path(top, name)
            if path.is_file():
                yield path


def _folders_of(packages: Iterable[str]) -> Iterator[Path]:
    """Yield the folders of installed packages, and those with their own libraries."""
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent
            yield folder
            yield folder.with_name(f"{name}.libs")


def installed_package(name: str) -> Files:
    """Return an installed package without its tests, and the libraries that lie beside it."""
    return {
        LAB / path.relative_to(folder.parent): path
        for folder in _folders_of([name])
        for path in _below(folder, _PACKAGE_LEFT_OUT)
        if path.suffix not in (".pyi", ".a", ".h", ".pxd")
    }


def _this_package() -> Files:
    """Return this package's source, and the recipes that come with it."""
    from prctlmm_lab.experiments.recipe import recipe_folder

    top = Path(__file__).parents[1]
    files: Files = {LAB / top.name / "__init__.py": top / "__init__.py"}
    for layer in _LAYERS:
        single = top / f"{layer}.py"
        for path in [single] if single.is_file() else _below(top / layer, {"__pycache__"}):
            files[LAB / path.relative_to(top.parent)] = path
    recipes = recipe_folder()
    for path in _below(recipes, set()):
        files[LAB / "data" / "recipes" / path.relative_to(recipes)] = path
    return files


def _shared_libraries(programs: tuple[Path, ...]) -> list[Path]:
    """Return the shared libraries that programs load, the loader among them.

    Equivalent: `ldd PROGRAM...`.
    """
    try:
        told = subprocess.run(
            ["ldd", *programs], capture_output=True, text=True, timeout=60, check=False,
            stdin=subprocess.DEVNULL,
        ).stdout  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedSystem(f"The libraries of {programs[0]} cannot be listed: {error}",
                                "Install ldd (it comes with the C library).") from None  # fmt: skip
    found = {Path(path) for path in re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", told, re.MULTILINE)}
    configured = Path("/etc/ld.so.cache")  # where the loader looks beside its own folders
    return sorted(found | ({configured} if configured.is_file() else set()))


# ---- the archive ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One file, folder or device of an archive."""

    name: str
    """Its path without the leading slash."""
    mode: int
    data: bytes = b""
    mtime: int = 0
    device: tuple[int, int] = (0, 0)


def _entries(files: Files, python: Interpreter) -> Iterator[Entry]:
    """Yield what an archive holds; a folder stands before what lies in it."""
    known: set[PurePosixPath] = {PurePosixPath("/")}
    for name in ("dev", "proc", "sys", "tmp"):
        known.add(PurePosixPath("/", name))
        yield Entry(name, stat.S_IFDIR | (0o1777 if name == "tmp" else 0o755))
    # What a kernel opens for init, and what Python may read before /dev is there.
    for name, device in (("console", (5, 1)), ("null", (1, 3)), ("urandom", (1, 9))):
        yield Entry(f"dev/{name}", stat.S_IFCHR | 0o666, device=device)
    for inside, path in sorted(files.items()):
        for place, data, executable, mtime in _with_compiled(inside, path, python):
            for folder in reversed(place.parents):
                if folder not in known:
                    known.add(folder)
                    yield Entry(str(folder)[1:], stat.S_IFDIR | 0o755)
            yield Entry(
                str(place)[1:], stat.S_IFREG | (0o755 if executable else 0o644), data, mtime
            )
    yield Entry(str(LAB / "__main__.py")[1:], stat.S_IFREG | 0o644, _START)


_START = b"from prctlmm_lab.atlas.inside import main\n\nmain()\n"


def _with_compiled(
    inside: PurePosixPath, path: Path, python: Interpreter
) -> Iterator[tuple[PurePosixPath, bytes, bool, int]]:
    """Yield a file, and for a module of Python what it compiles to: place, data, mode, time."""
    data, found = path.read_bytes(), path.stat()
    mtime = int(found.st_mtime)
    yield inside, data, bool(found.st_mode & 0o111), mtime
    if path.suffix == ".py" and python.version == _VERSION:
        compiled = _compiled(path, inside, data, mtime)
        if compiled:
            yield (
                PurePosixPath(importlib.util.cache_from_source(str(inside))),
                compiled,
                False,
                mtime,
            )


def _compiled(path: Path, inside: PurePosixPath, source: bytes, mtime: int) -> bytes:
    """Return a module as Python caches it (PEP 552); a guest would take seconds for each import."""
    header = _magic() + struct.pack("<3I", 0, mtime & 0xFFFFFFFF, len(source) & 0xFFFFFFFF)
    with contextlib.suppress(OSError):
        cached = Path(importlib.util.cache_from_source(str(path))).read_bytes()
        if cached.startswith(header) and PurePosixPath(path) == inside:
            return cached
    try:
        return header + marshal.dumps(compile(source, str(inside), "exec", dont_inherit=True))
    except (SyntaxError, ValueError):  # a template among the modules: nobody imports it
        return b""


class Cpio:
    """Write an archive of the kernel's format "newc".

    >>> import io
    >>> file = io.BytesIO()
    >>> Cpio(file).write([Entry("hello", stat.S_IFREG | 0o644, b"world")])
    >>> file.getvalue()[:6], len(file.getvalue()) % 4
    (b'070701', 0)
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.inode = file, 0

    def write(self, entries: Iterable[Entry]) -> None:
        """Write entries and the end of the archive."""
        for entry in entries:
            self._add(entry)
        self._add(Entry("TRAILER!!!", 0))

    def _add(self, entry: Entry) -> None:
        self.inode += 1
        name = entry.name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        numbers = (
            self.inode, entry.mode, 0, 0, links, entry.mtime, len(entry.data), 0, 0,
            *entry.device, len(name), 0,
        )  # fmt: skip
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        self.file.write(head + bytes(-len(head) % 4))
        self.file.write(entry.data + bytes(-len(entry.data) % 4))
