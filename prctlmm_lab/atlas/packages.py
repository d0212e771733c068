"""Packages: kernels from the mirror that this machine's apt is set up for, without root.

apt runs with a state, a cache and a list of sources of its own, below the folder of the images. Of
the machine's configuration it reads the rest: proxies, keys, and the mirror. Only the mirror's
other suites are added, under the key that the machine has for it; apt verifies the signature of
each suite and with it the hash of each package. Nothing is installed: of a package only the kernel
itself is taken out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from prctlmm_lab.atlas.images import (
    AARCH64,
    BUILDS,
    PART,
    X86_64,
    Image,
    cache_folder,
    find,
    flavour,
    image_at,
    images,
    images_elsewhere,
    keep,
    matching,
    preference,
    remove,
    series,
    upstream,
    user_mode_linux,
    version_order,
)
from prctlmm_lab.atlas.pythons import FOLDER as PYTHONS
from prctlmm_lab.atlas.pythons import fetch_python
from prctlmm_lab.atlas.sources import sources_text
from prctlmm_lab.errors import InputError, LabError, UnsupportedSystem
from prctlmm_lab.words import size_text

__all__ = [
    "Image",
    "Offer",
    "cache_folder",
    "chosen",
    "fetch",
    "find",
    "forget",
    "image_at",
    "images",
    "images_elsewhere",
    "kept",
    "newest_of_each_series",
    "offers",
    "remove",
    "user_mode_linux",
]

ARCHITECTURES = {X86_64: "amd64", AARCH64: "arm64"}
"""How Debian and Ubuntu name the machines."""
OLDEST = "5.10"
"""The first series that is fetched where none is named."""
APT = ".apt"
"""What apt's index and settings are kept in, below the folder of the images."""
DEADLINE = 600.0
"""Seconds that apt may take for its index, and for one package."""
LEAST = 4 << 10
"""KiB that a package with a kernel has at least; smaller ones only depend on others."""
ROOM = 64 << 20
"""Bytes that must be free beside a package: the kernel, and room for those who write meanwhile."""

# Debian's image lay in /boot until 7.1; since 7.2 it lies beside its modules.
_PLACE = re.compile(r"\.?/?(?:boot/vmlinuz-(?P<boot>[^/]+)|"
                    r"(?:usr/)?lib/modules/(?P<modules>[^/]+)/vmlinuz)")  # fmt: skip
# linux-binary-* has the kernel since 6.19, and linux-image-* is a metapackage that needs it.
_NAME = re.compile(r"linux-(?:image|binary)-(?P<release>\d+\.\d+.*)(?<!-unsigned)(?<!-dbg)"
                   r"(?<!-dbgsym)")  # fmt: skip


@dataclass(frozen=True)
class Offer:
    """One kernel that apt can get, from the package index."""

    package: str
    version: str
    release: str
    machine: str
    size: int
    """Bytes of the package, which is what is downloaded."""

    @property
    def upstream(self) -> str:
        """The stable release that it contains."""
        return upstream(self.version)

    @property
    def series(self) -> str:
        """The first two numbers of that."""
        return series(self.version)


# ---- choosing -----------------------------------------------------------------------------------


def newest_of_each_series(found: Sequence[Offer], *, oldest: str = OLDEST) -> list[Offer]:
    """Return one offer for each series, from `oldest` to the newest there is.

    >>> newest_of_each_series([Offer(f"linux-image-{v}-amd64", f"{v}-1", f"{v}-amd64", "x86_64", 0)
    ...                        for v in ("5.4.9", "6.1.9", "6.1.10")])[0].version
    '6.1.10-1'
    """
    plain = [each for each in found if flavour(each.release) in BUILDS]
    plain.sort(key=preference)
    by_series = groupby(plain, key=lambda each: each.series)
    best = [[*group][-1] for _, group in by_series]
    return [each for each in best if version_order(each.series) >= version_order(oldest)]


def chosen(found: Sequence[Offer], names: Sequence[str]) -> list[Offer]:
    """Return the offers that the names mean, one for each; without names the newest of each series.

    A name is a series (`6.1`), a stable release (`6.1.192`), a package or its version, or what
    `uname -r` will say; the last three also name flavours other than the plain ones.

    Raises InputError for a name that means none, with what there is.
    """
    if not names:
        return newest_of_each_series(found)
    return [*dict.fromkeys(_choice(found, name) for name in names)]


def _choice(found: Sequence[Offer], name: str) -> Offer:
    if meant := [each for each in found if matching(name, each)]:
        return max(meant, key=preference)
    asked = series(name.removeprefix("v"))
    same = {each.upstream for each in found if each.series == asked}
    there = same or {each.series for each in found}
    raise InputError("atlas fetch", "is no kernel that apt has here", repr(name)[:80],
                     f"one of {', '.join(sorted(there, key=version_order))}")  # fmt: skip


# ---- getting ------------------------------------------------------------------------------------


def offers(*, machine: str = X86_64, on_note: Callable[[str], None] | None = None) -> list[Offer]:
    """Return every kernel that apt can get for a machine, after asking its mirror again.

    `on_note` is told what apt refused or could not get while other suites answered.

    Raises UnsupportedSystem where there is no apt, no Debian or Ubuntu mirror, no network, no room,
    or nothing that apt could verify, with apt's own words.
    """
    with _cache() as folder:
        return _Apt(folder, machine).offers(on_note or _ignore)


def fetch(
    names: Sequence[str] = (),
    *,
    machine: str = X86_64,
    on_choice: Callable[[Sequence[Offer]], None] | None = None,
    on_image: Callable[[Image], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> list[Image]:
    """Get kernels through apt and keep them; without names the newest of each series from 5.10.

    What is kept already is not fetched again. `on_choice` is told what will be fetched, `on_image`
    each image as soon as it is kept, `on_note` what apt could not get while other suites answered.
    For another machine than this one a Python for its guests is fetched too, once.

    Equivalent: `prctlmm-lab atlas fetch NAME...`; by hand `apt-get download PACKAGE=VERSION`, then
    `dpkg-deb --fsys-tarfile PACKAGE.deb | tar x ./boot`.

    Raises InputError for a name that means no kernel, before anything is fetched, and what `offers`
    raises. If a kernel cannot be had, the others are fetched before it is said.
    """
    with _cache() as folder:
        apt = _Apt(folder, machine)
        wanted = chosen(apt.offers(on_note or _ignore), names)
        if on_choice:
            on_choice(wanted)
        fetch_python(apt._run, machine)
        found, refused = [], []
        for offer in wanted:
            try:
                image = kept(offer) or _fetched(apt, offer)
            except LabError as error:  # the others may still be had
                refused.append(error)
                continue
            found.append(image)
            if on_image:
                on_image(image)
    if len(refused) > 1:
        raise UnsupportedSystem(f"{len(refused)} of {len(wanted)} kernels were not got; the "
                                f"first: {refused[0]}")  # fmt: skip
    if refused:
        raise refused[0]
    return found


def kept(offer: Offer) -> Image | None:
    """Return the kept image of an offer, if it is there."""
    of = (offer.package, offer.version)
    return next((each for each in images() if (each.package, each.version) == of), None)


def _ignore(note: str) -> None:
    pass


def _fetched(apt: _Apt, offer: Offer) -> Image:
    def write(path: Path) -> str:
        return unpack(apt.download(offer, path.parent), path)

    with _room_told(apt.folder):
        free, needed = shutil.disk_usage(apt.folder).free, offer.size + ROOM
        if free < needed:
            raise _no_room(apt.folder, f"{offer.package} needs {size_text(needed)}, and only "
                                       f"{size_text(free)} are free")  # fmt: skip
        return keep(offer.package, offer.version, offer.machine, write)


def unpack(package: Path, path: Path) -> str:
    """Write the kernel in a package to a path, delete the package, and return the release.

    Raises InputError if there is none in it, or another one than the package says.
    """
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacking:
        assert unpacking.stdout is not None
        try:
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
                release = _write_kernel(archive, path)
        except tarfile.TarError:
            release = ""
        unpacking.kill()  # what follows the kernel is not needed
    if not release:
        raise InputError(package.name, "holds no kernel that could be taken out of it")
    package.unlink()
    found = image_at(path).release
    if found != release:
        raise InputError(package.name, "is the kernel in it by its boot header", found, release)
    return release


def _write_kernel(archive: tarfile.TarFile, path: Path) -> str:
    for member in archive:
        place = _PLACE.fullmatch(member.name)
        content = archive.extractfile(member) if place and member.isreg() else None
        if place and content:
            with path.open("wb") as file:
                shutil.copyfileobj(content, file)
            return place["boot"] or place["modules"]
    return ""


def forget() -> None:
    """Delete apt's index and the Pythons for guests, which the next fetch gets again.

    Raises UnsupportedSystem while kernels are being fetched.
    """
    if cache_folder().exists():
        with _cache() as folder:
            for name in (APT, PYTHONS):
                shutil.rmtree(folder / name, ignore_errors=True)


@contextlib.contextmanager
def _cache() -> Iterator[Path]:
    """Hold the folder of the images for one who changes it, and clear what others left."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UnsupportedSystem(f"{folder} cannot be written: {error.strerror}",
                                "Set PRCTLMM_LAB_KERNELS to another folder.") from None  # fmt: skip
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnsupportedSystem(f"Kernels are being fetched into {folder} already",
                                    "Wait until that is done.") from None  # fmt: skip
        for part in folder.glob(f"{PART}*"):
            shutil.rmtree(part, ignore_errors=True)
        yield folder
    finally:
        for index in folder.glob(f"{APT}/*/pkgcache.bin"):  # made again from the lists, and large
            index.unlink(missing_ok=True)
        os.close(lock)


@contextlib.contextmanager
def _room_told(folder: Path) -> Iterator[None]:
    """Turn a full disk into one sentence."""
    try:
        yield
    except OSError as error:
        raise _no_room(folder, error.strerror or "it cannot be written") from None


def _no_room(folder: Path, why: str) -> UnsupportedSystem:
    return UnsupportedSystem(
        f"There is no room in {folder}: {why}",
        "Make some, or set PRCTLMM_LAB_KERNELS to another folder.",
    )


# ---- apt ----------------------------------------------------------------------------------------

# The hooks would tell the machine's own programs of an update that is not theirs.
_CONFIGURATION = """\
#clear APT::Update;
#clear APT::Architectures;
#clear DPkg::Post-Invoke;
"""
_OPTIONS = {
    "Dir::Etc::sourcelist": "/dev/null",
    "Dir::Etc::preferences": "/dev/null",
    "Dir::Etc::preferencesparts": "/dev/null",
    "Dir::State::status": "/dev/null",
    "Acquire::AllowInsecureRepositories": "false",
    "Acquire::AllowWeakRepositories": "false",
    "Acquire::AllowDowngradeToInsecureRepositories": "false",
    "Acquire::AllowReleaseInfoChange": "true",  # trixie is named stable today, oldstable later
    "Acquire::GzipIndexes": "true",
    "Acquire::Retries": "1",
    **{f"Acquire::{scheme}::Timeout": "20" for scheme in ("http", "https")},
    "APT::Color": "false",
}


class _Apt:
    """apt for one machine's kernels, with everything that it writes in a folder of its own."""

    def __init__(self, images_folder: Path, machine: str) -> None:
        if machine not in ARCHITECTURES:
            raise InputError("machine", "has no kernels that are fetched", repr(machine)[:80],
                             " or ".join(ARCHITECTURES))  # fmt: skip
        for program in ("apt-get", "apt-cache", "apt-config", "dpkg-deb"):
            if shutil.which(program) is None:
                raise UnsupportedSystem(
                    f"{program} is not here, and kernels are fetched with it",
                    "Wherever a kernel is asked for, name a vmlinuz that you have, such as one "
                    "in /boot.",
                )
        self.machine, self.architecture = machine, ARCHITECTURES[machine]
        self.folder = images_folder
        own = images_folder / APT / self.architecture
        self.options = _OPTIONS | {
            "Dir::State": f"{own}/",
            "Dir::State::lists": f"{own}/lists/",
            "Dir::State::extended_states": f"{own}/extended_states",
            "Dir::Cache": f"{own}/",
            "Dir::Cache::archives": f"{own}/archives/",
            "Dir::Cache::pkgcache": f"{own}/pkgcache.bin",
            "Dir::Cache::srcpkgcache": "",
            "Dir::Etc::sourceparts": f"{own}/sources/",
            "APT::Architecture": self.architecture,
            "APT::Architectures::": self.architecture,
        }
        self.configuration = own / "apt.conf"
        text = sources_text(self.architecture)
        with _room_told(images_folder):
            for folder in ("lists/partial", "archives/partial", "sources"):
                (own / folder).mkdir(parents=True, exist_ok=True)
            self.configuration.write_text(_CONFIGURATION)
            (own / "sources" / "kernels.sources").write_text(text, "utf-8")

    def _run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program of apt to its end; what it printed is in English.

        Raises UnsupportedSystem if it takes too long or finds the disk full.
        """
        options = [f"-o{name}={value}" for name, value in self.options.items()]
        program, *rest = command
        try:
            ran = subprocess.run(
                [program, f"-c{self.configuration}", *options, *rest], cwd=cwd,
                stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
                env={**os.environ, "LC_ALL": "C"}, timeout=DEADLINE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UnsupportedSystem(
                f"{program} did not end within {DEADLINE:g} s",
                "Look whether its mirror can be reached.",
            ) from None
        if "No space left on device" in ran.stderr or "enough free space" in ran.stderr:
            raise _no_room(self.folder, "apt could not write all that it got")
        return ran

    def offers(self, on_note: Callable[[str], None]) -> list[Offer]:
        """Update the index and return the kernels in it.

        Raises UnsupportedSystem if there are none, with what apt says.
        """
        updated = self._run("apt-get", "-q", "update")
        # What is wrong with an index is said there only, if a suite is missing as well.
        indexes = re.findall(r"^Err:\d+ (.* Packages)\n +(.*)", updated.stdout, re.MULTILINE)
        notes = [f"{index}: {why}" for index, why in indexes] + _complaints(updated.stderr)
        told = self._run("apt-cache", "show", "^linux-(image|binary)-[0-9]")
        found = read_index(told.stdout, self.machine)
        if not found:
            why = (notes or _complaints(told.stderr) or ["it names no reason"])[0].rstrip(".")
            raise UnsupportedSystem(f"apt has no kernel that it can verify: {why}",
                                    "A vmlinuz that you have serves as well, such as one in "
                                    "/boot.")  # fmt: skip
        for note in notes:
            on_note(note)
        return found

    def download(self, offer: Offer, folder: Path) -> Path:
        """Get a package, whose hash apt verifies, into a folder.

        Raises UnsupportedSystem with apt's own words.
        """
        wanted = f"{offer.package}={offer.version}"
        ran = self._run("apt-get", "-q", "download", wanted, cwd=folder)
        packages = [*folder.glob("*.deb")]
        if ran.returncode or len(packages) != 1:
            why = _complaints(ran.stderr) or [f"its exit status is {ran.returncode}"]
            raise UnsupportedSystem(f"apt did not get {wanted}: {why[0]}")
        return packages[0]


# A suite that a mirror does not have is none of ours; and apt says in general what it said before.
_NO_NEWS = ("does not have a Release file", "Some index files failed", "The repository is insecure",
            "unsandboxed", "List directory", "Unable to fetch some archives")  # fmt: skip


def _complaints(text: str) -> list[str]:
    """Return what apt says in its errors and warnings, each once, reasons before consequences."""
    said = [" ".join(words.split()) for words in re.findall(r"^[EW]: (.*)", text, re.MULTILINE)]
    news = [words for words in said if not any(each in words for each in _NO_NEWS)]
    return [*dict.fromkeys(sorted(news, key=lambda words: not words.startswith("GPG error")))]


def read_index(text: str, machine: str) -> list[Offer]:
    """Return the kernels in what `apt-cache show` prints of Debian's and Ubuntu's packages.

    >>> read_index('''Package: linux-image-6.8.0-51-generic
    ... Version: 6.8.0-51.52
    ... Architecture: amd64
    ... Installed-Size: 14624
    ... Size: 14633154
    ... ''', "x86_64")[0].release
    '6.8.0-51-generic'
    """
    found: dict[tuple[str, str], Offer] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): *(.*)$", paragraph, re.MULTILINE))
        name = _NAME.fullmatch(fields.get("Package", ""))
        sizes = [fields.get(field, "") for field in ("Installed-Size", "Size")]
        if (
            name is None
            or fields.get("Architecture") != ARCHITECTURES[machine]
            or not all(re.fullmatch(r"[0-9]{1,15}", size) for size in sizes)
            or int(sizes[0]) < LEAST
            or not re.fullmatch(r"\d+\.\d+[\w.+~:-]*", fields.get("Version", ""), re.ASCII)
        ):
            continue
        offer = Offer(name[0], fields["Version"], name["release"], machine, int(sizes[1]))
        found[offer.release, offer.version] = offer
    return sorted(found.values(), key=lambda each: (version_order(each.version), each.release))
