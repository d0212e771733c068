"""Pythons for guests of another machine: gathered from packages, with all that they load."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from prctlmm_lab.atlas import pythons
from prctlmm_lab.atlas.images import FOLDER
from prctlmm_lab.atlas.pythons import fetch_python, gather, interpreter_for
from prctlmm_lab.errors import UnsupportedSystem
from tests.needs import needs_tool

ELF = b"\x7fELF" + bytes(12)
LIBRARIES = "usr/lib/aarch64-linux-gnu"
CONTENTS = {
    "python3.11-minimal": {
        "usr/bin/python3.11": ELF + b"\0/lib/ld-linux-aarch64.so.1\0libz.so.1\0libc.so.6\0",
        "usr/share/doc/python": b"a page",
    },
    "libpython3.11-stdlib": {
        "usr/lib/python3.11/json.py": b"",
        "usr/lib/python3.11/test/test_json.py": b"",
        "usr/lib/python3.11/lib-dynload/_ctypes.so": ELF + b"\0libffi.so.8\0",
        "usr/lib/python3.11/lib-dynload/_ssl.cpython-311.so": ELF + b"\0libssl.so.3\0",
    },
    "python3-numpy": {
        "usr/lib/python3/dist-packages/numpy/__init__.py": b"",
        "usr/lib/python3/dist-packages/numpy/core.so": ELF + b"\0libblas.so.3\0",
    },
    "libc6": {
        "lib/aarch64-linux-gnu/libc.so.6": ELF,
        "lib/aarch64-linux-gnu/ld-linux-aarch64.so.1": ELF + b"the loader",
    },
    "zlib1g": {"lib/aarch64-linux-gnu/libz.so.1": ELF + b"\0libc.so.6\0"},
    "libffi8": {f"{LIBRARIES}/libffi.so.8": ELF},
    "libssl3": {f"{LIBRARIES}/libssl.so.3": ELF},
    "libblas3": {f"{LIBRARIES}/blas/libblas.so.3": ELF + b"\0libdeep.so\0"},
    "libdeep1": {f"{LIBRARIES}/libdeep.so": ELF},
}
"""Packages by name, and the files in them: /lib beside /usr/lib, as in Debian 12."""
KEPT = {
    "/usr/bin/python3.11",
    "/usr/lib/python3.11/json.py",
    "/usr/lib/python3.11/lib-dynload/_ctypes.so",
    "/lab/numpy/__init__.py",
    "/lab/numpy/core.so",
    "/lib/ld-linux-aarch64.so.1",
    *(f"/{LIBRARIES}/{name}" for name in
      ("libz.so.1", "libc.so.6", "libffi.so.8", "libblas.so.3", "libdeep.so")),
}  # fmt: skip


class Apt:
    """Answers as apt does, and packs what it is asked to download."""

    def __init__(self, folder: Path, *, suites: tuple[str, ...] = ("bookworm",)) -> None:
        self.folder, self.suites, self.asked = folder, suites, [""]

    def __call__(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        self.asked.append(" ".join(command))
        told, status = "", 0
        if command[1] == "policy":
            told = "".join(
                f"        500 http://mirror/debian {suite}/main arm64 Packages\n"
                for suite in self.suites
            )
        elif "-s" in command:
            told = "".join(f"Inst {name} (1-{name} Debian [arm64])\n" for name in CONTENTS)
            told += "Inst perl-base (5 Debian [arm64])\n"
        elif "download" in command:
            assert cwd is not None
            for wanted in command[3:]:
                name, version = wanted.split("=")
                assert version == f"1-{name}"
                self._pack(name, version, cwd)
        return subprocess.CompletedProcess(command, status, told, "E: no reason\n")

    def _pack(self, name: str, version: str, place: Path) -> None:
        tree = self.folder / name
        for path, data in CONTENTS[name].items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN" / "control").write_text(
            f"Package: {name}\nVersion: {version}\nArchitecture: arm64\nMaintainer: nobody\n"
            "Description: none\n"
        )
        subprocess.run(["dpkg-deb", "--build", str(tree), str(place)], check=True,
                       capture_output=True, timeout=60)  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of images that holds none."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return folder


def test_what_a_guest_needs_is_kept_and_nothing_else(tmp_path: Path, cache: Path) -> None:
    needs_tool("dpkg-deb")
    apt = Apt(tmp_path / "trees")
    fetch_python(apt, "aarch64")
    python = interpreter_for("aarch64")
    assert python is not None
    assert (python.program, python.version) == (PurePosixPath("/usr/bin/python3.11"), "3.11")
    assert {str(path) for path in python.files} == KEPT
    assert not any("perl" in asked for asked in apt.asked)
    assert [path.name for path in cache.iterdir()] == [pythons.FOLDER]
    loader = python.files[PurePosixPath("/lib/ld-linux-aarch64.so.1")]
    assert loader.read_bytes().endswith(b"the loader")


def test_packages_without_machine_code_are_taken_from_here(tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("elftools")
    needs_tool("dpkg-deb")
    fetch_python(Apt(tmp_path / "trees"), "aarch64")
    python = interpreter_for("aarch64")
    assert python is not None
    assert PurePosixPath("/lab/elftools/__init__.py") in python.extra
    assert not any(path.suffix == ".so" for path in python.extra)


def test_it_is_fetched_once(tmp_path: Path, cache: Path) -> None:
    needs_tool("dpkg-deb")
    apt = Apt(tmp_path / "trees")
    fetch_python(apt, "aarch64")
    asked = len(apt.asked)
    fetch_python(apt, "aarch64")
    assert len(apt.asked) == asked


def test_our_own_machine_needs_none(tmp_path: Path, cache: Path) -> None:
    apt = Apt(tmp_path)
    fetch_python(apt, "x86_64")
    assert interpreter_for("x86_64") is None
    assert apt.asked == [""]


def test_without_one_the_command_that_fetches_it_is_named(cache: Path) -> None:
    with pytest.raises(UnsupportedSystem, match="`prctlmm-lab atlas fetch --machine aarch64"):
        interpreter_for("aarch64")


def test_a_mirror_without_python_is_told(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UnsupportedSystem, match="apt has no Python with numpy"):
        fetch_python(Apt(tmp_path, suites=()), "aarch64")
    assert not any((cache / pythons.FOLDER).iterdir())


def test_packages_that_hold_no_python_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSystem, match=r"hold no Python 3\.11"):
        gather(tmp_path, tmp_path / "whole", "3.11", "aarch64-linux-gnu")
