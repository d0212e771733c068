"""Images: the kernels that are at hand, what each is, and where they are kept.

A kept image is a folder `PACKAGE_VERSION` with the kernel itself, `vmlinuz`, and `image.json`, that
says what it is. The folder gets that name in one step once both are written to the disk, and loses
it in one step before anything in it is deleted: part of an image is never taken for one.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prctlmm_lab.errors import InputError

FOLDER = "PRCTLMM_LAB_KERNELS"
"""The environment variable that names another folder for the images."""
X86_64, AARCH64, UML = "x86_64", "aarch64", "um"
"""The machines, as `uname -m` names them; user-mode Linux is a machine of its own."""
BUILDS = ("cloud-amd64", "cloud-arm64", "generic", "amd64", "arm64", "")
"""The flavours that are taken where none is named, the best first; the others only by name."""
PART = ".part-"
"""How the name of a folder begins that is not an image yet, or not any more."""


@dataclass(frozen=True)
class Image:
    """One kernel that a guest can be started with.

    >>> image = Image(Path("vmlinuz"), "6.1.0-56-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64",
    ...               "6.1.192-2", "x86_64")
    >>> image.upstream, image.series
    ('6.1.192', '6.1')
    """

    path: Path
    release: str
    """What `uname -r` will say."""
    package: str
    """The package it came in; empty if nothing tells."""
    version: str
    """The package's version; empty if nothing tells."""
    machine: str

    @property
    def upstream(self) -> str:
        """The stable release that it contains, which a distribution's `release` may not name."""
        return upstream(self.version or self.release)

    @property
    def series(self) -> str:
        """The first two numbers of that."""
        return series(self.version or self.release)


# ---- names and their order ----------------------------------------------------------------------


def upstream(version: str) -> str:
    """Return the numbers that a version begins with.

    >>> [upstream(each) for each in ("6.1.192-2", "7.3~rc7-1~exp1", "7.1.3+deb13-cloud-amd64")]
    ['6.1.192', '7.3~rc7', '7.1.3']
    """
    found = re.match(r"\d+\.\d+(\.\d+)?([~-]rc\d+)?", version)
    return found[0].replace("-", "~") if found else version


def series(version: str) -> str:
    """Return the first two numbers of a version.

    >>> series("6.1.192-2"), series("7.3~rc7-1~exp1")
    ('6.1', '7.3')
    """
    return ".".join(upstream(version).partition("~")[0].split(".")[:2])


def version_order(version: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Return what versions of packages are sorted by.

    Texts without digits and numbers take turns. In a text ~ sorts before the end, the end before
    letters, letters before everything else (deb-version(7)).

    >>> sorted(["6.1.10-1", "6.1.9-1", "7.3-1", "7.3~rc7-1", "6.1.9-1~bpo1"], key=version_order)
    ['6.1.9-1~bpo1', '6.1.9-1', '6.1.10-1', '7.3~rc7-1', '7.3-1']
    """
    return tuple(
        ((*(_letter_order(c) for c in text), 0), int(number or 0))
        for text, number in re.findall(r"([^0-9]*)([0-9]*)", version)
    )


def _letter_order(letter: str) -> int:
    return -1 if letter == "~" else ord(letter) + (0 if letter.isalpha() else 0x200000)


def flavour(release: str) -> str:
    """Return for whom a distribution built a kernel: what is left without the numbers.

    >>> [flavour(each) for each in ("5.10.0-46-cloud-amd64", "6.1.0-0.deb11.48-amd64",
    ...                             "6.8.0-51-generic", "6.18.44")]
    ['cloud-amd64', 'amd64', 'generic', '']
    """
    parts = re.sub(r"-rc\d+", "", release).split("-")[1:]
    while parts and parts[0][:1].isdigit():
        del parts[0]
    return "-".join(parts)


def matching(name: str, image: Any) -> bool:
    """Say whether a name means an image, or one that could be had.

    A name is a series (`6.1`, `v6.1`), the stable release that is contained (`6.1.192`), the
    version of the package, its name, both (`PACKAGE_VERSION`), or what `uname -r` says.
    """
    return name.removeprefix("v") in (
        image.series, image.upstream, image.version, image.package, image.release,
        f"{image.package}_{image.version}",
    )  # fmt: skip


# ---- what is kept -------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the folder that images are kept in, which need not be there.

    It is $PRCTLMM_LAB_KERNELS, or ~/.cache/prctlmm-lab/kernels ($XDG_CACHE_HOME for ~/.cache).
    """
    if named := os.environ.get(FOLDER):
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base).absolute() / "prctlmm-lab" / "kernels"


def images(*, machine: str = "") -> list[Image]:
    """Return the images that are kept, from the oldest kernel to the newest.

    `machine`: only those for it. Equivalent: `prctlmm-lab atlas list`.
    """
    try:
        folders = [*cache_folder().iterdir()]
    except OSError:
        return []
    kept = [image for folder in folders if (image := _kept(folder))]
    return sorted((i for i in kept if machine in ("", i.machine)), key=_image_order)


def _image_order(image: Image) -> tuple[Any, ...]:
    return version_order(image.upstream), version_order(image.version), image.release


def _kept(folder: Path) -> Image | None:
    """Return the image in a folder, if it is one and whole."""
    if folder.name.startswith("."):
        return None
    path = folder / "vmlinuz"
    try:
        told = json.loads((folder / "image.json").read_text("utf-8"))
        size = path.stat().st_size
    except (OSError, ValueError):
        return None
    names = ("release", "package", "version", "machine")
    if not isinstance(told, dict) or not all(isinstance(told.get(name), str) for name in names):
        return None
    if told.get("size") != size:
        return None
    return Image(path, *(told[name] for name in names))


def find(name: str, *, machine: str = X86_64) -> Image:
    """Return the newest kept image that a name means: a series, a stable release, a `uname -r`.

    >>> find("6.1").series  # doctest: +SKIP
    '6.1'

    Raises InputError if none is kept, with the command that fetches it.
    """
    found = [image for image in images(machine=machine) if matching(name, image)]
    if found:
        return max(found, key=preference)
    option = "" if machine == X86_64 else f" --machine {machine}"
    there = ", ".join(dict.fromkeys(image.series for image in images(machine=machine)))
    raise InputError(
        "kernel", "is not among the kernels that are kept", repr(name)[:80],
        f"one of {there or '(none)'}, a path, or after "
        f"`prctlmm-lab atlas fetch{option} {_plain(name)}`",
    )  # fmt: skip


def _plain(name: str) -> str:
    """Return a name as it can stand in a command, or a word for it."""
    return name if re.fullmatch(r"[\w.+~-]{1,60}", name, re.ASCII) else "VERSION"


def preference(image: Any) -> tuple[Any, ...]:
    """Return what images and offers are compared by: plain builds, newest kernel, last package.

    Of two plain builds of one kernel the one for clouds is taken: the smallest, without drivers.
    """
    build = flavour(image.release)
    rank = BUILDS.index(build) if build in BUILDS else len(BUILDS)
    order = version_order(image.upstream), -rank, version_order(image.version)
    return build in BUILDS, *order


def keep(package: str, version: str, machine: str, write: Callable[[Path], str]) -> Image:
    """Keep one more image, in the place of an earlier one of the same name.

    `write` gets the path that the kernel is to be written to and returns its release. If it fails,
    nothing is left.
    """
    folder = cache_folder()
    part = Path(tempfile.mkdtemp(prefix=PART, dir=folder))
    try:
        path = part / "vmlinuz"
        release = write(path)
        told = {"package": package, "version": version, "release": release, "machine": machine,
                "size": path.stat().st_size}  # fmt: skip
        (part / "image.json").write_text(json.dumps(told) + "\n", "utf-8")
        for name in ("vmlinuz", "image.json"):
            _to_disk(part / name)
        part.chmod(0o755)  # mkdtemp's are the owner's alone
        place = folder / f"{package}_{version}"
        _take_away(place)
        part.rename(place)
        _to_disk(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Image(place / "vmlinuz", release, package, version, machine)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_away(folder: Path) -> None:
    """Delete a folder so that it is gone from its name before anything in it is."""
    if folder.exists():
        part = Path(tempfile.mkdtemp(prefix=PART, dir=folder.parent))
        folder.rename(part / "gone")
        shutil.rmtree(part)


def remove(names: Sequence[str]) -> list[Image]:
    """Delete every kept image that the names mean, and return what they were.

    Equivalent: `prctlmm-lab atlas remove NAME...`.

    Raises InputError for a name that means none, before anything is deleted, and for an image that
    may not be deleted.
    """
    kept = images()
    for name in names:
        if not any(matching(name, image) for image in kept):
            there = ", ".join(dict.fromkeys(image.upstream for image in kept))
            raise InputError("atlas remove", "is not among the kernels that are kept",
                             repr(name)[:80], there or "none: there are none")  # fmt: skip
    found = [image for image in kept if any(matching(name, image) for name in names)]
    for image in found:
        try:
            _take_away(image.path.parent)
        except OSError as error:
            raise InputError(str(image.path), f"cannot be deleted: {error.strerror}") from None
    return found


# ---- what is elsewhere --------------------------------------------------------------------------


def image_at(path: str | Path) -> Image:
    """Read from a kernel's file what it is: a bzImage for x86-64, or an Image for arm64.

    On x86 the release is the text that the boot protocol's field kernel_version points to
    (Documentation/arch/x86/boot.rst); on arm64, where there is no such field, it is the text that
    /proc/version begins with.

    >>> image_at("/boot/vmlinuz-6.1.0-56-amd64").release  # doctest: +SKIP
    '6.1.0-56-amd64'

    Raises InputError for what cannot be read or is no kernel.
    """
    path = Path(path).absolute()
    if path.name == "vmlinuz" and (kept := _kept(path.parent)):
        return kept
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            text, machine = _banner(data)
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}", "",
                         "a kernel's file that you may read") from None  # fmt: skip
    except ValueError as error:  # an empty file cannot be mapped
        raise InputError(str(path), f"is no kernel: {error}", "",
                         "a bzImage for x86-64 or an Image for arm64") from None  # fmt: skip
    built = re.search(r"(?:Debian|Ubuntu) (\d[\w.+~-]+)", text)
    return Image(path, text.split()[0], "", built[1] if built else "", machine)


def _banner(data: mmap.mmap) -> tuple[str, str]:
    """Return the text that begins with the release, and the machine.

    Raises ValueError with the reason if there is none.
    """
    if data[0x202:0x206] == b"HdrS":
        if len(data) < 0x238:
            raise ValueError("it ends in its boot header")
        (protocol,), (offset,) = (struct.unpack_from("<H", data, at) for at in (0x206, 0x20E))
        if protocol >= 0x20C and not data[0x236] & 1:  # XLF_KERNEL_64
            raise ValueError("it has no 64-bit entry")
        text, machine = data[0x200 + offset : 0x200 + offset + 512] if offset else b"", X86_64
    elif data[0x38:0x3C] == b"ARMd":
        place = data.find(b"Linux version ") + len(b"Linux version ")
        text, machine = data[place : place + 512], AARCH64
    elif data[4:8] == b"zimg":
        raise ValueError("it is a compressed EFI program, which QEMU of this age cannot start")
    else:
        raise ValueError("it has no boot header")
    banner = text.partition(b"\0")[0].decode("ascii", "replace")
    if not re.match(r"\d+\.\d+[!-~]*(\s|$)", banner):
        raise ValueError("its boot header names no release")
    return banner, machine


def images_elsewhere() -> Iterator[Image]:
    """Yield the kernels in /boot that may be read, and user-mode Linux where it is installed."""
    for path in sorted(Path("/boot").glob("vmlinuz-*")):
        try:
            yield image_at(path)
        except InputError:
            continue
    if found := user_mode_linux():
        yield found


def user_mode_linux() -> Image | None:
    """Return user-mode Linux, a kernel that is an ordinary program, where it is installed.

    Debian's package user-mode-linux has it as `linux.uml`. It is built without
    CONFIG_CHECKPOINT_RESTORE: the exhibit of a kernel that does not have the call.
    """
    path = shutil.which("linux.uml")
    if path is None:
        return None
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            place = data.find(b"Linux version ")
            text = data[place : place + 512].decode("ascii", "replace") if place >= 0 else ""
    except (OSError, ValueError):
        return None
    found = re.match(r"Linux version (\S+)", text)
    if found is None:
        return None
    return Image(Path(path), found[1], "user-mode-linux", "", UML)
