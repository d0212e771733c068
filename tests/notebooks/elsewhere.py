"""Execute a notebook on a system that cannot make the call, as near as one can be had here.

"seccomp:ERRNO" is a filter under which prctl(PR_SET_MM, ...) is refused; "darwin" and "win32" are
kernels in which the lab's modules see another system: no /proc, none of the functions that only
Linux has; on win32 no fcntl and resource either, and a msvcrt that locks nothing.

On the command line: `python -m tests.notebooks.elsewhere HOW NOTEBOOK OUT`.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.notebooks.execution import execute

ROOT = Path(__file__).resolve().parents[2]

PLATFORM = """
import builtins, io, os, platform, select, signal, socket, sys, types

OURS = "prctlmm_lab"
MISSING = {
    "os": "posix_spawn pidfd_open memfd_create sysconf geteuid getuid getgid pipe2 sched_yield "
          "waitid fork major minor pread pwrite posix_fallocate P_PIDFD O_PATH O_DIRECTORY "
          "O_CLOEXEC O_NOFOLLOW O_ASYNC MFD_CLOEXEC MFD_ALLOW_SEALING POSIX_SPAWN_OPEN "
          "POSIX_SPAWN_DUP2 WEXITED WNOHANG WNOWAIT CLD_EXITED",
    "signal": "SIGKILL SIGSTOP SIGALRM setitimer pidfd_send_signal ITIMER_REAL",
    "socket": "AF_UNIX SOCK_SEQPACKET MSG_DONTWAIT",
    "select": "poll POLLIN POLLOUT",
}
SYSTEM = os.environ["LAB_TEST_PLATFORM"]
NEVER = ("fcntl", "resource", "pwd", "grp", "termios") if SYSTEM == "win32" else ()
if SYSTEM == "win32":
    msvcrt = types.ModuleType("msvcrt")
    msvcrt.LK_NBLCK, msvcrt.LK_UNLCK, msvcrt.locking = 2, 0, lambda *arguments: None
REPLACED = {
    "sys": {"platform": SYSTEM},
    "platform": {"machine": lambda: "arm64", "system": lambda: "Darwin", "release": lambda: "24.0"},
}


def no_proc(function):
    def refuse(path, *args, **kwargs):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return function(path, *args, **kwargs)
    return refuse


class Seen(types.ModuleType):
    def __init__(self, real):
        super().__init__(real.__name__)
        missing = MISSING.get(real.__name__, "").split()
        self.__dict__.update({k: v for k, v in vars(real).items() if k not in missing})
        self.__dict__.update(REPLACED.get(real.__name__, {}))
        if real.__name__ == "os":
            names = "open stat lstat readlink listdir access".split()
            self.__dict__.update({name: no_proc(getattr(real, name)) for name in names})
            self.lseek = lambda descriptor, at, how: real.lseek(descriptor, min(at, 1 << 40), how)
            path = types.ModuleType("path")
            path.__dict__.update(vars(real.path))
            path.exists = lambda p: not str(p).startswith("/proc") and real.path.exists(p)
            self.path = path


SEEN = {name: Seen(sys.modules[name]) for name in {*MISSING, *REPLACED}}
real_import = builtins.__import__


def __import__(name, globals=None, locals=None, fromlist=(), level=0):
    if str((globals or {}).get("__name__", "")).startswith(OURS) and level == 0:
        if name in NEVER:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name == "msvcrt" and SYSTEM == "win32":
            return msvcrt
        if name in SEEN:
            return SEEN[name]
    return real_import(name, globals, locals, fromlist, level)


builtins.__import__ = __import__


def no_open(event, args):
    if event != "open" or not isinstance(args[0], str) or not args[0].startswith("/proc"):
        return
    frame = sys._getframe(1)
    for _ in range(6):
        if frame is None:
            return
        if str(frame.f_globals.get("__name__", "")).startswith(OURS):
            raise FileNotFoundError(2, "No such file or directory", args[0])
        frame = frame.f_back


sys.addaudithook(no_open)
"""


def execute_elsewhere(path: Path, how: str, folder: Path) -> Any:
    """Execute a notebook in a process of its own that cannot make the call; return it."""
    import nbformat

    out = folder / path.name
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PRCTLMM_LAB_RECORDED", None)
    if not how.startswith("seccomp:"):
        environment["LAB_TEST_PLATFORM"] = how
        (folder / "sitecustomize.py").write_text(PLATFORM)
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    command = [sys.executable, "-m", "tests.notebooks.elsewhere", how, str(path), str(out)]
    ran = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return nbformat.read(out, as_version=4)


def forbid_the_call(errno: int) -> None:
    """Refuse prctl(PR_SET_MM, ...) to this process and all it starts, for good.

    The filter loads the number of the call and its first argument (linux/seccomp.h).
    """
    load, jump_if_equal, answer = 0x20, 0x15, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno
    program = [
        (load, 0, 0, 0),
        (jump_if_equal, 0, 3, 157),  # prctl
        (load, 0, 0, 16),
        (jump_if_equal, 0, 1, 35),  # PR_SET_MM
        (answer, 0, 0, refuse),
        (answer, 0, 0, allow),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    whole = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, whole, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP


def main(arguments: list[str]) -> int:
    """Execute a notebook under a filter, if one is asked for, and write it with its outputs."""
    import nbformat

    how, path, out = arguments
    if how.startswith("seccomp:"):
        forbid_the_call(int(how.removeprefix("seccomp:")))
    nbformat.write(execute(Path(path)), out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
