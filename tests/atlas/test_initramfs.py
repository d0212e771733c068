"""The archive of a guest: what the kernel will unpack is what lies here, file by file."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import prctlmm_lab
from prctlmm_lab.atlas import initramfs as made
from prctlmm_lab.atlas.initramfs import (
    LAB,
    Cpio,
    Entry,
    cache_folder,
    initramfs,
    interpreter_here,
    interpreter_in,
)
from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.experiments.recipe import recipe_folder
from tests.needs import needs_tool

PACKAGE = Path(prctlmm_lab.__file__).parent


def read(archive: bytes) -> dict[str, tuple[int, bytes, int]]:
    """Read an archive by the format's description: mode, contents and time by name."""
    found: dict[str, tuple[int, bytes, int]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, mtime, size, length = fields[1], fields[5], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        data = (at + 110 + length + 3) // 4 * 4
        at = (data + size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        assert name not in found, f"{name} stands twice"
        found[name] = mode, archive[data : data + size], mtime


@pytest.fixture(scope="module")
def contents() -> dict[str, tuple[int, bytes, int]]:
    return read(initramfs(packages=()).read_bytes())


def test_the_guest_runs_the_same_source_byte_for_byte(
    contents: dict[str, tuple[int, bytes, int]],
) -> None:
    lab = str(LAB)[1:]
    there = {name: data for name, (_, data, _) in contents.items()
             if name.startswith(f"{lab}/prctlmm_lab/") and "__pycache__" not in name}  # fmt: skip
    for name, data in there.items():
        path = PACKAGE.parent / name.removeprefix(f"{lab}/")
        if path.is_file():
            assert data == path.read_bytes(), name
    for layer in ("kernel", "specimen", "witnesses", "experiments", "atlas"):
        for path in (PACKAGE / layer).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{lab}/{path.relative_to(PACKAGE.parent)}" in there
    recipes = {path.relative_to(recipe_folder()) for path in recipe_folder().rglob("*.toml")}
    assert all(f"{lab}/data/recipes/{path}" in contents for path in recipes)


def test_files_keep_their_times_and_modules_are_compiled(
    contents: dict[str, tuple[int, bytes, int]],
) -> None:
    """With another time Python would compile every module again, which takes a guest seconds."""
    modules = [name for name in contents if name.endswith(".py") and "/prctlmm_lab/" in name]
    assert len(modules) > 50
    for name in modules:
        _, source, mtime = contents[name]
        folder, _, file = name.rpartition("/")
        tag = sys.implementation.cache_tag
        compiled = contents[f"{folder}/__pycache__/{file.removesuffix('.py')}.{tag}.pyc"][1]
        assert int.from_bytes(compiled[4:8], "little") == 0, "checked by time and size"
        assert int.from_bytes(compiled[8:12], "little") == mtime
        assert int.from_bytes(compiled[12:16], "little") == len(source)
        assert mtime == int((PACKAGE.parent / name.removeprefix("lab/")).stat().st_mtime)


def test_a_folder_stands_before_what_lies_in_it_and_everybody_may_read_it(
    contents: dict[str, tuple[int, bytes, int]],
) -> None:
    seen = set()
    for name, (mode, _, _) in contents.items():
        folder, _, _ = name.rpartition("/")
        assert not folder or folder in seen, name
        seen.add(name)
        assert mode & 0o044 == 0o044, name
        if stat.S_ISDIR(mode):
            assert mode & 0o055 == 0o055, name


def test_the_guest_has_all_libraries_of_its_python(
    contents: dict[str, tuple[int, bytes, int]],
) -> None:
    """Independent of ldd: what this very process has loaded of the base interpreter."""
    told = subprocess.run(
        [interpreter_here().program, "-I", "-S", "-c",
         "import ctypes, socket, select, math, _struct, zlib\n"
         "print(open('/proc/self/maps').read())"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    loaded = {line.split(None, 5)[5] for line in told.splitlines() if ".so" in line}
    assert loaded
    there = {os.path.realpath(f"/{name}") for name in contents}
    assert {path for path in loaded if os.path.realpath(path) not in there} == set()


def test_cpio_reads_what_we_write(tmp_path: Path) -> None:
    cpio = needs_tool("cpio") if shutil.which("cpio") else None
    entries = [
        Entry("folder", stat.S_IFDIR | 0o755),
        Entry("folder/odd", stat.S_IFREG | 0o640, b"12345", 1_700_000_000),
        Entry("folder/empty", stat.S_IFREG | 0o755),
    ]
    file = io.BytesIO()
    Cpio(file).write(entries)
    assert read(file.getvalue()) == {e.name: (e.mode, e.data, e.mtime) for e in entries}
    if cpio:
        subprocess.run([cpio, "-idm", "--quiet"], input=file.getvalue(), cwd=tmp_path, check=True,
                       timeout=60)  # fmt: skip
        odd = tmp_path / "folder" / "odd"
        assert (odd.read_bytes(), odd.stat().st_mode, odd.stat().st_mtime) == (
            b"12345", stat.S_IFREG | 0o640, 1_700_000_000)  # fmt: skip


def test_an_archive_is_made_once_and_anew_when_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module = tmp_path / "module.py"
    module.write_text("a = 1\n")
    here = interpreter_here()
    small = made.Interpreter(here.program, here.version, {LAB / "module.py": module})
    first = initramfs(python=small)
    written = first.stat().st_ino
    assert first.parent == cache_folder()
    assert initramfs(python=small) == first
    assert first.stat().st_ino == written, "not made again"
    module.write_text("a = 22\n")
    second = initramfs(python=small)
    assert second != first
    assert read(second.read_bytes())["lab/module.py"][1] == b"a = 22\n"
    assert sorted(path.name for path in first.parent.iterdir()) == sorted(
        (first.name, second.name)
    ), "nothing half made is left"


def test_archives_that_nobody_uses_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    old = cache_folder() / "x86_64-old.cpio"
    old.write_bytes(b"")
    os.utime(old, (1, 1))
    here = interpreter_here()
    initramfs(python=made.Interpreter(here.program, here.version, {}))
    assert not old.exists()


def test_a_module_that_does_not_compile_goes_as_it_is(tmp_path: Path) -> None:
    module = tmp_path / "broken.py"
    module.write_text("def\n")
    here = interpreter_here()
    places = [place for place, *_ in made._with_compiled(LAB / "broken.py", module, here)]
    assert places == [LAB / "broken.py"]


def test_a_machine_that_is_not_this_one_needs_its_own_python() -> None:
    with pytest.raises(UnsupportedSystem, match="the guest is Linux on s390x"):
        initramfs("s390x")


def test_a_folder_without_a_python_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSystem, match="There is no Python in"):
        interpreter_in(tmp_path)
