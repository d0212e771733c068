"""A real process, dumped and restored by a real CRIU, and the call that it makes."""

from __future__ import annotations

import stat
from functools import cache
from pathlib import Path

import pytest

from prctlmm_lab.errors import InputError, UnsupportedSystem
from prctlmm_lab.kernel.abi import MAP_SIZE
from prctlmm_lab.restore.criu.running import (
    PROGRAM,
    CriuRestore,
    criu_if_possible,
    criu_version,
    dump_and_restore_with_criu,
)
from tests.needs import skip_unless

COMMAND = ("sleep", "86399")


@cache
def tried() -> CriuRestore | UnsupportedSystem:
    return criu_if_possible(COMMAND)


def done() -> CriuRestore:
    """Return what a real CRIU did, or skip with the reason why there is none that works."""
    told = tried()
    skip_unless(isinstance(told, CriuRestore), str(told), impossible=True)
    assert isinstance(told, CriuRestore)
    return told


def test_the_image_gives_the_bytes_that_the_kernel_received() -> None:
    told = done()
    assert len(told.call.raw) == MAP_SIZE
    assert told.comparison.same
    assert told.call.comm == "sleep"
    assert told.call.exe == told.before.exe
    assert "92 of 92 bytes are the same" in str(told)


def test_the_restored_process_shows_what_the_dumped_one_did() -> None:
    told = done()
    assert told.unequal == ()
    assert len(told.before.members) == 10
    assert told.after.cmdline == told.before.cmdline == b"sleep\x0086399\0"
    assert told.after.environ == told.before.environ
    assert told.after.exe == told.before.exe
    assert told.memory.addresses == {**told.memory.addresses, **told.after.members}


def test_what_the_restorer_had_mapped_holds_what_the_process_had() -> None:
    told = done()
    caller = {(vma.start, vma.end) for vma in told.call.vmas}
    own = [v for v in told.before.vmas if not v.label or v.label in ("[heap]", "[stack]")]
    assert {(vma.start, vma.end) for vma in own} <= caller


def test_nothing_is_left_of_it() -> None:
    done()
    commands = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                commands.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
    assert b"sleep\x0086399\0" not in commands


# ---- a CRIU that is missing or does not work ----------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name a program of our own as CRIU."""
    path = tmp_path / "criu"
    monkeypatch.setenv(PROGRAM, str(path))
    return path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_without_criu_the_reason_is_returned(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedSystem, match=f"{PROGRAM} names no program"):
        dump_and_restore_with_criu()
    told = criu_if_possible()
    assert isinstance(told, UnsupportedSystem)
    assert "apt install criu" in str(told)


def test_a_criu_that_fails_gives_its_own_reason(fake: Path) -> None:
    version = 'case "$1" in --version) echo "Version: 3.17.1"; exit 0;; esac\n'
    log = "echo '(00.1) Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds' >dump.log"
    script(fake, f"{version}{log}\nexit 1")
    assert criu_version() == "3.17.1"
    with pytest.raises(UnsupportedSystem) as caught:
        dump_and_restore_with_criu(deadline=20)
    reason = str(caught.value)
    skip_unless("kept for CRIU" not in reason, reason, impossible=True)
    assert "CRIU 3.17.1 cannot dump a process here (vdso: Unexpected rt vDSO area" in reason


def test_a_criu_that_never_ends_is_ended(fake: Path) -> None:
    script(fake, 'case "$1" in --version) echo "Version: 1.0"; exit 0;; esac\nexec sleep 999')
    with pytest.raises(UnsupportedSystem) as caught:
        dump_and_restore_with_criu(deadline=1)
    skip_unless("kept for CRIU" not in str(caught.value), str(caught.value), impossible=True)
    assert "cannot dump a process here" in str(caught.value)


def test_what_is_no_criu_is_said(fake: Path) -> None:
    script(fake, "echo hello")
    with pytest.raises(UnsupportedSystem, match="does not tell its version"):
        criu_version()
    with pytest.raises(InputError, match="command: is empty"):
        dump_and_restore_with_criu([])


def test_the_lab_itself_is_not_filtered() -> None:
    done()
    before = seccomp_filters()
    dump_and_restore_with_criu()
    assert seccomp_filters() == before


def seccomp_filters() -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((line for line in lines if line.startswith("Seccomp_filters:")), "")
