"""What is asked before a call: memory, permission, the file, and that asking changes nothing."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from prctlmm_lab.errors import SystemCallError
from prctlmm_lab.kernel.difference import difference
from prctlmm_lab.kernel.procfs import Unreadable
from prctlmm_lab.kernel.rules import ExeFile
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.situation import (
    exe_file,
    exe_is_mapped,
    is_readable,
    may_change_exe,
    situation_of,
)
from tests.needs import needs_root, needs_tool, needs_user_namespaces, skip_unless
from tests.ordinary_user import UID

GOOD = ExeFile(is_open=True, is_regular=True, is_executable=True)


def test_memory_that_can_be_read(specimen: Specimen) -> None:
    page = specimen.map(2 * PAGE)
    specimen.protect(page + PAGE, PAGE, "---")
    asked = {
        (page, PAGE): True,
        (page, PAGE + 1): False,
        (page + PAGE - 1, 1): True,
        (page + PAGE, 1): False,
        (0, 1): False,
        ((1 << 64) - 8, 16): False,
        (specimen.map(4 << 20), 4 << 20): True,
    }
    assert {key: is_readable(specimen, *key) for key in asked} == asked
    for address, length in asked:
        if length <= 1 << 20:
            try:
                readable = len(specimen.read(address, length)) == length
            except SystemCallError:
                readable = False
            assert readable == asked[address, length]


def test_a_capability_is_what_the_kernel_asks_for(specimen: Specimen) -> None:
    status = specimen.snapshot().status
    assert not isinstance(status, Unreadable)
    command = [needs_tool("capsh"), f"--decode={status['CapEff']}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    named = {"cap_sys_admin", "cap_checkpoint_restore"} & set(
        shown.strip().split("=")[1].split(",")
    )
    assert may_change_exe(specimen.snapshot()) == bool(named)
    answer = specimen.set_map(specimen.current_map().changed(exe_fd=77))
    assert answer == (errno.EBADF if named else errno.EPERM)


@pytest.mark.parametrize("kept", [(21,), (40,), (21, 40), (0, 1, 2, 19, 24), ()])
def test_either_of_two_capabilities_is_enough(specimen: Specimen, kept: tuple[int, ...]) -> None:
    needs_user_namespaces()
    specimen.enter_user_namespace()
    specimen.keep_capabilities(sum(1 << capability for capability in kept))
    permitted = specimen.set_map(specimen.current_map().changed(exe_fd=77)) == errno.EBADF
    assert may_change_exe(specimen.snapshot()) == permitted == bool({21, 40} & set(kept))


def test_permission_goes_with_the_identity_and_comes_with_a_namespace(specimen: Specimen) -> None:
    needs_root()
    needs_user_namespaces()
    specimen.become(UID)
    assert not may_change_exe(specimen.snapshot())
    specimen.enter_user_namespace()
    assert may_change_exe(specimen.snapshot())


# ---- the file that exe_fd names ---------------------------------------------------------------


def permitted(specimen: Specimen) -> None:
    needs_user_namespaces()
    if not may_change_exe(specimen.snapshot()):
        specimen.enter_user_namespace()
    specimen.release_executable()


def accepts(specimen: Specimen, descriptor: int) -> int:
    return specimen.set_map(specimen.current_map().changed(exe_fd=descriptor))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Make an executable file on the disk that holds temporary files."""
    path = tmp_path / "program"
    shutil.copy(needs_tool("true"), path)
    path.chmod(0o755)
    skip_unless(os.access(path, os.X_OK), "temporary files cannot be executed here")
    return path


def test_an_ordinary_program(specimen: Specimen, program: Path) -> None:
    permitted(specimen)
    descriptor = specimen.open(str(program))
    assert exe_file(specimen, descriptor) == GOOD
    assert accepts(specimen, descriptor) == 0


@pytest.mark.parametrize("mode", [0o644, 0o000, 0o100, 0o010, 0o001, 0o111])
def test_permission_bits(specimen: Specimen, mode: int) -> None:
    permitted(specimen)
    descriptor = specimen.memory_file("bits", mode=mode)
    found = exe_file(specimen, descriptor)
    assert (found.is_open, found.is_regular, found.is_noexec) == (True, True, False)
    assert accepts(specimen, descriptor) == (0 if found.is_executable else errno.EACCES)


@pytest.mark.parametrize(
    ("path", "flags", "expected"),
    [
        ("/", os.O_RDONLY, {"is_regular": False}),
        ("/dev/null", os.O_RDONLY, {"is_regular": False}),
        ("/proc/self/stat", os.O_RDONLY, {"is_regular": True, "is_noexec": True}),
        ("/sys/kernel/notes", os.O_RDONLY, {"is_regular": True, "is_noexec": True}),
        ("/proc/self/exe", os.O_PATH, {"is_open": False}),
    ],
)
def test_what_is_no_program(
    specimen: Specimen, path: str, flags: int, expected: dict[str, bool]
) -> None:
    skip_unless(os.path.exists(path), f"there is no {path} here", impossible=True)
    permitted(specimen)
    descriptor = specimen.open(path, flags)
    found = exe_file(specimen, descriptor)
    assert {name: getattr(found, name) for name in expected} == expected
    assert accepts(specimen, descriptor) == (errno.EACCES if found.is_open else errno.EBADF)


def test_closed_and_strange_numbers(specimen: Specimen) -> None:
    permitted(specimen)
    for descriptor in (77, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE):
        assert exe_file(specimen, descriptor) == ExeFile()
        assert accepts(specimen, descriptor) == errno.EBADF


@pytest.fixture
def writer(program: Path) -> Iterator[Path]:
    """Hold the program open for writing, in this process."""
    with program.open("r+b"):
        yield program


def test_a_program_that_another_process_writes(specimen: Specimen, writer: Path) -> None:
    permitted(specimen)
    descriptor = specimen.open(str(writer))
    assert exe_file(specimen, descriptor).is_written
    assert accepts(specimen, descriptor) == errno.EACCES


def test_a_program_of_another_user_that_is_written(specimen: Specimen, writer: Path) -> None:
    needs_root()
    specimen_sees(specimen, writer, is_written=True)


def test_a_program_of_another_user(specimen: Specimen, program: Path) -> None:
    needs_root()
    specimen_sees(specimen, program, is_written=False)


def specimen_sees(specimen: Specimen, path: Path, is_written: bool) -> None:
    """Let one who has no right to a lease look at root's file."""
    descriptor = specimen.open(str(path))
    specimen.become(UID)
    permitted(specimen)
    answer = specimen.attempt("fcntl", descriptor, 1024, 0)
    skip_unless(answer == -errno.EACCES, "a lease is given to anybody here", impossible=True)
    found = exe_file(specimen, descriptor)
    check = specimen.attempt("execveat", descriptor, specimen.place(b"\0"), 0, 0, 0x11000)
    skip_unless(check != -errno.EINVAL, "AT_EXECVE_CHECK came with v6.14", impossible=True)
    assert found.is_written == is_written
    assert accepts(specimen, descriptor) == (errno.EACCES if is_written else 0)


def test_a_file_in_memory_that_is_written(specimen: Specimen) -> None:
    """Only the first of three descriptors comes from memfd_create()."""
    permitted(specimen)
    made = specimen.memory_file("written")
    path = f"/proc/self/fd/{made}"
    writing, reading = specimen.open(path, os.O_RDWR), specimen.open(path)
    found = {d: exe_file(specimen, d) for d in (made, writing, reading)}
    assert all(file.is_written for file in found.values())
    assert not found[made].was_opened
    facts = facts_here()
    if tuple(map(int, re.findall(r"\d+", facts.release)[:2])) >= (6, 6):
        assert found[writing].was_opened
        assert found[reading].was_opened
    for descriptor in (writing, reading):
        assert accepts(specimen, descriptor) == (errno.EACCES if facts.written_exe_refused else 0)
    refused = facts.written_exe_refused and facts.unopened_exe_refused
    assert accepts(specimen, made) == (errno.EACCES if refused else 0)


def test_a_file_in_memory_of_the_identity_before(specimen: Specimen) -> None:
    needs_root()
    descriptor = specimen.memory_file("made by root")
    specimen.become(UID)
    permitted(specimen)
    assert not exe_file(specimen, descriptor).is_written
    assert accepts(specimen, descriptor) == 0


# ---- asking changes nothing --------------------------------------------------------------------


def test_asking_changes_nothing(specimen: Specimen) -> None:
    descriptors = [
        (made := specimen.memory_file("executable")),
        specimen.open(f"/proc/self/fd/{made}", os.O_RDWR | os.O_NONBLOCK),
        specimen.open("/"),
        specimen.open("/proc/self/stat"),
        specimen.open("/dev/null"),
        77,
    ]
    folder = f"/proc/{specimen.pid}/fd"
    before, open_before = specimen.snapshot(), sorted(os.listdir(folder))
    offsets = [Path(f"/proc/{specimen.pid}/fdinfo/{n}").read_text() for n in open_before]
    for descriptor in descriptors:
        new = specimen.current_map().changed(
            exe_fd=descriptor, auxv=before.members["start_stack"], auxv_size=448
        )
        situation_of(specimen, new, pointer=before.members["start_data"])
    after = specimen.snapshot()
    assert difference(before, after) == ()
    assert sorted(os.listdir(folder)) == open_before
    assert [Path(f"/proc/{specimen.pid}/fdinfo/{n}").read_text() for n in open_before] == offsets
    assert os.stat(f"{folder}/4").st_size <= PAGE


def test_a_situation_without_a_new_exe_asks_nothing_of_files(specimen: Specimen) -> None:
    situation = situation_of(specimen, specimen.current_map())
    assert (situation.exe, situation.exe_mapped, situation.capabilities) == (
        ExeFile(),
        True,
        0,
    )
    assert (situation.struct_readable, situation.auxv_readable) == (True, True)
    assert situation.rlimit_data == specimen.limit("DATA")[0]


def test_a_hidden_exe_is_taken_as_mapped(specimen: Specimen) -> None:
    snapshot = specimen.snapshot()
    specimen.stop()
    assert exe_is_mapped(snapshot)
