"""Dump and restore a real process with CRIU, and see the call as the kernel receives it.

Needs CRIU. Root uses it as it is; an ordinary user becomes root of a user namespace and needs one
that knows --unprivileged (tried: 4.2). What runs does so in a pid namespace of its own, so that
nothing of it is left when its first process, `keeper`, ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prctlmm_lab.errors import InputError, UnsupportedSystem
from prctlmm_lab.kernel.procfs import Parts, Snapshot
from prctlmm_lab.restore.criu import keeper
from prctlmm_lab.restore.criu.calls import CapturedCall, Comparison, call_of, compare
from prctlmm_lab.restore.criu.images import CriuMemory, read_memory

PROGRAM = "PRCTLMM_LAB_CRIU"
"""The variable of the environment that names the CRIU to use; without it, the one on PATH."""

_MISSING = "CRIU is not installed"
_REMEDY = f"Install it (apt install criu), or name one in {PROGRAM}; 4.1.1 and 4.2.1 work on v6.18."


@dataclass(frozen=True)
class CriuRestore:
    """One process, dumped and restored by CRIU."""

    criu: str
    """Its version."""
    command: tuple[str, ...]
    pid: int
    """In its pid namespace; dumped and restored process have the same."""
    before: Snapshot
    """The process that was dumped."""
    after: Snapshot
    """The process that was restored."""
    memory: CriuMemory
    """What the image of its address space says."""
    call: CapturedCall
    """The one PR_SET_MM_MAP call that restored the map."""
    log: str
    """What CRIU wrote down of the restore, at level 4."""
    seconds: float
    """That `criu dump` and `criu restore` took together."""

    @property
    def comparison(self) -> Comparison:
        """The image held against the call."""
        return compare(self.memory, self.call)

    @property
    def unequal(self) -> tuple[str, ...]:
        """Which members differ between the dumped and the restored process; none should."""
        old, new = self.before.members, self.after.members
        return tuple(name for name in old if old[name] != new[name])

    def __str__(self) -> str:
        return f"CRIU {self.criu} dumped and restored {self.command[0]}\n{self.comparison}"


def criu_program() -> str:
    """Return the path of the CRIU to use.

    Raises UnsupportedSystem if there is none.
    """
    named = os.environ.get(PROGRAM)
    found = shutil.which(named or "criu", path=_path())
    if found is None:
        raise UnsupportedSystem(f"{PROGRAM} names no program" if named else _MISSING, _REMEDY)
    return found


def criu_version(program: str | None = None) -> str:
    """Return the version of CRIU, such as "4.2".

    Raises UnsupportedSystem if there is none, or if it does not start.
    """
    program = program or criu_program()
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedSystem(f"{program} does not start ({error})", _REMEDY) from None
    found = re.search(r"Version: ([0-9.]+)", told.stdout)
    if found is None:
        raise UnsupportedSystem(f"{program} does not tell its version", _REMEDY)
    return found[1]


def dump_and_restore_with_criu(
    command: Sequence[str] = ("sleep", "1000"),
    *,
    program: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    deadline: float = 30.0,
) -> CriuRestore:
    """Start a process, dump it with CRIU, restore it, and catch the call that restores its map.

    The process gets no descriptors. When this returns, it has ended. Images and logs are written
    to `folder`, or to one that is removed again. All of it takes `deadline` seconds at most.

    Equivalent: `criu dump -t PID -D FOLDER -v4 --shell-job`, `criu restore -d -D FOLDER -v4
    --shell-job`, and a seccomp filter that answers SECCOMP_RET_USER_NOTIF to the call.

    Raises UnsupportedSystem where CRIU is missing or does not work here, with its own reason;
    InputError for an empty command.
    """
    if not command:
        raise InputError("command", "is empty", "", "a program and its arguments")
    program = program or criu_program()
    version = criu_version(program)
    with tempfile.TemporaryDirectory(prefix="prctlmm-lab-criu-") as temporary:
        images = Path(temporary if folder is None else folder).resolve()
        told = _kept(images, program, command, deadline)
        _check(told, images, version)
        return CriuRestore(
            criu=version,
            command=tuple(command),
            pid=told["pid"],
            before=_snapshot(told["pid"], told["before"]),
            after=_snapshot(told["pid"], told["after"]),
            memory=read_memory(images / f"mm-{told['pid']}.img"),
            call=call_of(told["calls"][0]),
            log=(images / "restore.log").read_text("utf-8", "replace"),
            seconds=told["seconds"],
        )


def criu_if_possible(command: Sequence[str] = ("sleep", "1000")) -> CriuRestore | UnsupportedSystem:
    """Do as `dump_and_restore_with_criu`; where it cannot be done, return the reason, not raise it.

    Both have a text that says what there is to say.
    """
    try:
        return dump_and_restore_with_criu(command)
    except UnsupportedSystem as reason:
        return reason


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _namespaces() -> list[str]:
    """Return the command that makes the namespaces; its child is killed with it."""
    unshare = shutil.which("unshare", path=_path())
    if unshare is None:
        raise UnsupportedSystem("unshare is not installed", "util-linux brings it.")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [unshare, *user, "--pid", "--fork", "--mount-proc", "--kill-child"]


def _kept(images: Path, program: str, command: Sequence[str], deadline: float) -> dict[str, Any]:
    """Run the keeper to its end and return what it told."""
    criu = [program] if os.geteuid() == 0 else [program, "--unprivileged"]
    arguments = [str(images), str(deadline), *criu, "--", *command]
    try:
        done = subprocess.run(
            [*_namespaces(), sys.executable, "-m", keeper.__name__, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline + 10,
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedSystem(f"CRIU took more than {deadline:g} s and was ended") from None
    if done.returncode or not done.stdout:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UnsupportedSystem(f"No process can be kept for CRIU here ({reason})")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _check(told: dict[str, Any], images: Path, version: str) -> None:
    """Refuse what did not get to the end, with the first reason that CRIU's log gives."""
    for step in ("dump", "restore"):
        if told.get(step) != 0:
            reason = _reason(images / f"{step}.log") or f"exit status {told.get(step)}"
            raise UnsupportedSystem(
                f"CRIU {version} cannot {step} a process here ({reason})",
                "Another may: on v6.18 3.17.1 does not work, 4.1.1 and 4.2.1 do.",
            )
    if len(told["calls"]) != 1:
        raise UnsupportedSystem(f"CRIU {version} made {len(told['calls'])} calls of PR_SET_MM_MAP "
                                "to restore one process")  # fmt: skip


def _reason(log: Path) -> str:
    """Return the first error of a log that says why, or "" for none."""
    try:
        lines = log.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    errors = [line.partition("): ")[2] for line in lines if " Error (" in line]
    no_reason = ("FAILED", "rlimit", "exited, status", "tun:", "net: Unexpected")
    telling = [each for each in errors if each and not any(word in each for word in no_reason)]
    return telling[0] if telling else ""


def _snapshot(pid: int, told: dict[str, str]) -> Snapshot:
    texts = {name: bytes.fromhex(text) for name, text in told.items() if name != "exe"}
    names = ("statm", "status", "limits", "smaps")
    parts = Parts(pid, {**dict.fromkeys(names), **texts, "exe": os.fsencode(told["exe"])}, {})
    return Snapshot.of(parts)
