"""Pythons: an interpreter for guests of another machine, from its Debian or Ubuntu packages.

A guest of this machine gets the Python that runs this. One of another machine cannot run it, so
apt gets the packages of one that can, as it gets kernels: verified, without root, installed
nowhere. Of what they hold only that is kept which a guest needs: the interpreter, its standard
library, numpy, and the libraries that these load. Packages without machine code are taken from
here. It is of our own minor version where the mirror
has that, so that our compiled modules serve it too.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from prctlmm_lab.atlas.images import PART, cache_folder
from prctlmm_lab.atlas.initramfs import (
    LAB,
    PACKAGES,
    Interpreter,
    installed_package,
    interpreter_in,
)
from prctlmm_lab.errors import UnsupportedSystem

FOLDER = ".python"
"""What the interpreters are kept in, below the folder of the images."""
_OURS = f"{sys.version_info[0]}.{sys.version_info[1]}"
_TRIPLETS = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
"""Where the loader of Debian and Ubuntu looks for libraries, below /usr/lib."""
_SONAME = re.compile(rb"(?<=\0)(lib[\w.+-]{1,60}\.so(?:\.\d+)*)(?=\0)", re.ASCII)
_LOADER = re.compile(rb"/lib(?:64)?/(ld-linux[\w.-]{1,40})\0", re.ASCII)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def interpreter_for(machine: str) -> Interpreter | None:
    """Return the Python for guests of a machine; None where the one that runs this will do.

    Raises UnsupportedSystem if it has not been fetched, with the command that fetches it.
    """
    if _ours_will_do(machine):
        return None
    folder = cache_folder() / FOLDER / machine
    if not folder.is_dir():
        raise UnsupportedSystem(
            f"There is no Python for guests of {machine}",
            f"`prctlmm-lab atlas fetch --machine {machine} VERSION` fetches one with a kernel.",
        )
    python = interpreter_in(folder)
    for name in PACKAGES:
        found = installed_package(name)
        if not any(".so" in path.suffixes for path in found):
            python.extra.update(found)
    return python


def fetch_python(run: Run, machine: str, *, again: bool = False) -> None:
    """Get an interpreter for guests of a machine and keep it, unless ours will do or one is kept.

    `run` runs a program of apt that knows the machine's packages.

    Equivalent: `apt-get download PACKAGE...`, and `dpkg-deb -x` of each.

    Raises UnsupportedSystem with apt's own words.
    """
    place = cache_folder() / FOLDER / machine
    if _ours_will_do(machine) or (place.is_dir() and not again):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PART, dir=cache_folder()) as part:
        unpacked, whole = Path(part, "unpacked"), Path(part, "whole")
        version, wanted = _wanted(run)
        for package in _downloaded(run, wanted, Path(part)):
            subprocess.run(["dpkg-deb", "-x", str(package), str(unpacked)],
                           stdin=subprocess.DEVNULL, check=True, timeout=600)  # fmt: skip
        gather(unpacked, whole, version, _TRIPLETS[machine])
        if place.is_dir():
            shutil.rmtree(place)
        whole.rename(place)


def _ours_will_do(machine: str) -> bool:
    return sys.platform == "linux" and platform.machine() == machine


def _wanted(run: Run) -> tuple[str, list[str]]:
    """Return the version of the interpreter and its packages, each as NAME=VERSION."""
    # Our own version if the mirror has it, otherwise the one of the newest stable release.
    for version in (_OURS, ""):
        name = f"libpython{version or '3'}-stdlib"
        policy = run("apt-cache", "policy", name).stdout
        suites = re.findall(r"^ +\d+ \S+ (\w+)(?:-\w+)*/main \w+ Packages", policy, re.MULTILINE)
        for suite in dict.fromkeys(suites):
            names = [f"python{version or '3'}-minimal", name, "python3-numpy"]
            simulated = run(
                "apt-get", "-q", "-s", f"-oAPT::Default-Release={suite}", "install",
                "--no-install-recommends", *names,
            )  # fmt: skip
            found = dict(re.findall(r"^Inst (\S+) \((\S+) ", simulated.stdout, re.MULTILINE))
            exact = re.search(r"^Inst libpython(3\.\d+)-stdlib ", simulated.stdout, re.MULTILINE)
            if simulated.returncode == 0 and exact:
                wanted = [f"{n}={v}" for n, v in found.items() if _is_wanted(n)]
                return exact[1], wanted
    raise UnsupportedSystem(
        "apt has no Python with numpy for a guest of another machine",
        "Look what `apt-get update` says of the mirror.",
    )


def _is_wanted(package: str) -> bool:
    return package.startswith(("lib", "zlib")) or bool(
        re.fullmatch(r"python3\.\d+-minimal|python3-numpy", package)
    )


def _downloaded(run: Run, wanted: list[str], folder: Path) -> list[Path]:
    ran = run("apt-get", "-q", "download", *wanted, cwd=folder)
    packages = sorted(folder.glob("*.deb"))
    if ran.returncode or len(packages) != len(wanted):
        why = re.findall(r"^E: (.*)", ran.stderr, re.MULTILINE) or ["it names no reason"]
        raise UnsupportedSystem(f"apt did not get a Python for a guest: {why[0].rstrip('.')}")
    return packages


# ---- what is kept -----------------------------------------------------------------------------


def gather(unpacked: Path, whole: Path, version: str, triplet: str) -> None:
    """Copy what a guest needs out of unpacked packages, to where the guest looks for it.

    Raises UnsupportedSystem if the packages hold no such Python.
    """
    program = unpacked / "usr" / "bin" / f"python{version}"
    standard = unpacked / "usr" / "lib" / f"python{version}"
    if not program.is_file() or not standard.is_dir():
        raise UnsupportedSystem(f"The packages hold no Python {version}")
    _copy(program, whole / program.relative_to(unpacked))
    _copy_folder(standard, whole / standard.relative_to(unpacked))
    numpy = unpacked / "usr" / "lib" / "python3" / "dist-packages" / "numpy"
    _copy_folder(numpy, whole / LAB.relative_to("/") / "numpy")
    # /lib may be a folder of its own or only another name of /usr/lib, and alternatives lie deeper.
    libraries = {path.name: path for path in sorted(unpacked.rglob("*.so*")) if path.is_file()}
    loader = _LOADER.search(program.read_bytes())
    if loader is None or loader[1].decode() not in libraries:
        raise UnsupportedSystem(f"The packages hold no loader for Python {version}")
    _copy(libraries[loader[1].decode()], whole / loader[0].strip(b"/\0").decode())
    for name in sorted(_loaded(interpreter_in(whole).files.values(), libraries)):
        _copy(libraries[name], whole / "usr" / "lib" / triplet / name)


def _loaded(files: Iterable[Path], libraries: dict[str, Path]) -> set[str]:
    """Return the names of the libraries that files load, and those load in turn.

    Every name in a file's strings counts, so that there may be some too many, but none too few.
    """
    found: set[str] = set()
    waiting = [*files]
    while waiting:
        data = waiting.pop().read_bytes()
        for soname in _SONAME.findall(data) if data.startswith(b"\x7fELF") else ():
            name = soname.decode()
            if name in libraries and name not in found:
                found.add(name)
                waiting.append(libraries[name])
    return found


def _copy_folder(source: Path, place: Path) -> None:
    for top, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name not in ("__pycache__", "test", "tests")]
        for name in names:
            path = Path(top, name)
            if path.is_file():  # a link may lead to a package that is not there
                _copy(path, place / path.relative_to(source))


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, place)
