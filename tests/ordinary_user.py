"""Run a command as an ordinary user, uid and gid 65534, whoever runs the tests.

Root becomes that user for good, in a process of its own. The interpreter and the project may lie
below a folder that is closed to others (a home folder of mode 0700); then the process first gets a
mount namespace of its own, in which an open tmpfs covers each such folder and only what the
command needs is mounted back inside. Nothing outside of that process changes. Somebody who is an
ordinary user already just runs the command.

On the command line: `python tests/ordinary_user.py [--reach FOLDER]... -- COMMAND [ARGUMENT]...`
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

UID = 65534
ROOT = Path(__file__).resolve().parent.parent
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x00020000, 0x1000, 0x4000, 0x40000


def as_ordinary_user(
    command: str | Sequence[str | Path],
    *,
    reach: Iterable[Path] = (),
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run Python code (a string) or a command (a sequence) and return what it said.

    HOME and TMPDIR are an own folder that is removed afterwards. `reach` names further folders
    that the command must be able to enter; `environment` is added to the present one. The working
    folder is HOME unless `cwd` says otherwise.

    Raises TimeoutExpired after ending the command and all it started in its session.
    """
    arguments = [sys.executable, "-c", command] if isinstance(command, str) else command
    with _home() as home:
        process = subprocess.Popen(
            _command_line(arguments, [*reach, home, *([cwd] if cwd else [])]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or home,
            env=_environment(home) | dict(environment or {}),
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def why_not() -> str:
    """Return why no ordinary user can be had here, or "" if one can."""
    told = as_ordinary_user("import os; print(os.getresuid(), os.getgroups())")
    wanted = f"{(UID, UID, UID) if os.geteuid() == 0 else os.getresuid()}"
    if told.returncode == 0 and told.stdout.startswith(wanted):
        return ""
    return told.stderr.strip().splitlines()[-1] if told.stderr.strip() else told.stdout.strip()


# ---- before ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="ordinary-user-"))
    try:
        if os.geteuid() == 0:
            os.chown(home, UID, UID)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _environment(home: Path) -> dict[str, str]:
    """Return the present environment without places that belong to the present user."""
    own = ("XDG_", "JUPYTER_", "IPYTHON", "MPLCONFIGDIR", "PLAYWRIGHT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | {"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": path}


def _command_line(arguments: Sequence[str | Path], reach: Iterable[Path]) -> list[str]:
    command = [os.fspath(argument) for argument in arguments]
    if os.geteuid() != 0:
        return command
    folders = [ROOT, *_interpreter_folders(), *reach]
    covers = {os.fspath(k): [os.fspath(v) for v in w] for k, w in covers_for(folders).items()}
    return [sys.executable, "-I", "-S", __file__, "--become", json.dumps(covers), "--", *command]


def _interpreter_folders() -> list[Path]:
    prefixes = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    return [Path(folder) for folder in [*prefixes, *sys.path] if os.path.isdir(folder)]


def covers_for(folders: Iterable[Path]) -> dict[Path, list[Path]]:
    """Return what must be covered, and what must then be mounted back inside of each cover."""
    covers: dict[Path, list[Path]] = {}
    # A path is followed by its names and by where its symbolic links lead.
    for folder in sorted({p for f in folders for p in (Path(os.path.abspath(f)), f.resolve())}):
        closed = next((p for p in [*reversed(folder.parents)] if not _may_enter(p)), None)
        if closed is not None:
            inside = covers.setdefault(closed, [])
            if not any(folder.is_relative_to(other) for other in inside):
                inside.append(folder)
    return covers


def _may_enter(folder: Path) -> bool:
    found = folder.stat()
    bit = stat.S_IXOTH
    if found.st_uid == UID:
        bit = stat.S_IXUSR
    elif found.st_gid == UID:
        bit = stat.S_IXGRP
    return bool(found.st_mode & bit)


# ---- inside ---------------------------------------------------------------------------------


def become_ordinary(covers: Mapping[str, Sequence[str]]) -> None:
    """Take on the ordinary identity for good, in a mount namespace of our own if there are covers.

    Raises OSError with the step that was refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, step: str) -> None:
        if result:
            number = ctypes.get_errno()
            raise OSError(number, f"{os.strerror(number)} at {step}")

    def mount(source: str, target: str, kind: bytes | None, flags: int, data: bytes | None) -> None:
        names = source.encode(), target.encode()
        check(libc.mount(*names, kind, ctypes.c_ulong(flags), data), f"mount on {target}")

    if covers:
        check(libc.unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)")
        mount("none", "/", None, MS_REC | MS_PRIVATE, None)
    for cover, inside in covers.items():
        hidden = os.open(cover, os.O_PATH | os.O_DIRECTORY)
        mount("tmpfs", cover, b"tmpfs", 0, b"mode=0755")
        for folder in inside:
            os.makedirs(folder, mode=0o755)
            source = f"/proc/self/fd/{hidden}/{os.path.relpath(folder, cover)}"
            mount(source, folder, None, MS_BIND | MS_REC, None)
        os.close(hidden)
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)


def main() -> int:
    """Run the command of the command line as an ordinary user; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reach", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--become", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args()
    if options.become is not None:
        working_folder = os.getcwd()
        os.umask(0o022)
        become_ordinary(options.become)
        os.chdir(working_folder)  # now the one inside the cover
        os.execvp(options.command[0], options.command)
    with _home() as home:
        line = _command_line(options.command, [*options.reach, home, Path.cwd()])
        return subprocess.run(line, env=_environment(home)).returncode


if __name__ == "__main__":
    sys.exit(main())
