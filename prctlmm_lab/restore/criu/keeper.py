"""A program: dump a process with CRIU, restore it, and write down the call that restores its map.

`running` starts it as the first process of a pid namespace, so that all it started ends with it. It
prints one JSON object. Its arguments: the folder for images, seconds to wait, the command that is
CRIU, "--", and the command to dump.

How the call is caught: before `criu restore` is started, this process installs a seccomp filter
that answers prctl(PR_SET_MM, PR_SET_MM_MAP) with SECCOMP_RET_USER_NOTIF; whoever it starts inherits
it. The kernel then holds a caller, tells us its pid and arguments, and carries the call out when we
say so. Nothing traces anybody: CRIU's own ptrace(2) stays undisturbed, as it would not with strace.

Source: seccomp_unotify(2); include/uapi/linux/seccomp.h; since v5.5 (fb3c5386b382).
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import select
import struct
import subprocess
import sys
import time

from prctlmm_lab.kernel import syscalls
from prctlmm_lab.kernel.abi import MAP_SIZE, Operation
from prctlmm_lab.restore.filters import (
    PR_SET_NO_NEW_PRIVS,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_SET_MODE_FILTER,
    USER_NOTIF,
    filter_header,
    set_mm_filter,
)

_NOTIF_RECV, _NOTIF_SEND, _NOTIF_ID_VALID = 0xC0502100, 0xC0182101, 0x40082102
_CONTINUE = 1
_NOTIFICATION = struct.Struct("<QIIiIQ6Q")
_REPLY = struct.Struct("<QqiI")
_MOST_VECTOR = 1 << 12


def listen() -> int:
    """Install the filter in this process and return the descriptor that tells of calls."""
    libc = ctypes.CDLL(None, use_errno=True)
    machine = platform.machine()
    code = set_mm_filter(machine, USER_NOTIF, Operation.MAP)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = filter_header(code, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    listener = libc.syscall(
        syscalls.number("seccomp", machine),
        SECCOMP_SET_MODE_FILTER,
        SECCOMP_FILTER_FLAG_NEW_LISTENER,
        header,
    )
    if listener < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp listener: {os.strerror(number)}")
    return int(listener)


def take_call(listener: int) -> dict[str, object]:
    """Take one notification, write down what the kernel was given, and let the call go on."""
    buffer = bytearray(_NOTIFICATION.size)
    fcntl.ioctl(listener, _NOTIF_RECV, buffer)
    identity, pid, _, _, _, _, _, operation, pointer, size, arg5, _ = _NOTIFICATION.unpack(buffer)
    try:
        call = {
            "pid": pid,
            "sub": operation,
            "arg3": hex(pointer),
            "arg4": size,
            "arg5": arg5,
            **_seen(pid, pointer),
        }
        fcntl.ioctl(listener, _NOTIF_ID_VALID, struct.pack("<Q", identity))
    finally:  # whatever we failed to see, the call is the caller's
        fcntl.ioctl(listener, _NOTIF_SEND, _REPLY.pack(identity, 0, 0, _CONTINUE))
    return call


def _seen(pid: int, pointer: int) -> dict[str, object]:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        raw = os.pread(memory.fileno(), MAP_SIZE, pointer)
        vector, size, exe = struct.unpack_from("<QII", raw, 88)
        words = os.pread(memory.fileno(), min(size, _MOST_VECTOR), vector) if size else b""
    try:
        link = os.readlink(f"/proc/{pid}/fd/{exe}")
    except OSError:
        link = ""
    return {"raw": raw.hex(), "vector": words.hex(), "exe_fd_is": link, **_texts(pid)}


def _texts(pid: int) -> dict[str, object]:
    with open(f"/proc/{pid}/comm") as comm, open(f"/proc/{pid}/maps") as maps:
        return {"comm": comm.read().rstrip("\n"), "maps": maps.read().splitlines()}


def shown(pid: int) -> dict[str, str]:
    """Return what /proc says of the process, in hex where it is bytes."""
    parts = {"exe": os.readlink(f"/proc/{pid}/exe")}
    for name in ("stat", "cmdline", "environ", "auxv", "maps"):
        with open(f"/proc/{pid}/{name}", "rb") as file:
            parts[name] = file.read().hex()
    return parts


def main(arguments: list[str]) -> int:
    """Do it, and print what came."""
    folder, patience, *rest = arguments
    at = rest.index("--")
    criu, command = rest[:at], rest[at + 1 :]
    deadline = time.monotonic() + float(patience)
    told: dict[str, object] = {"calls": []}
    os.chdir(folder)
    target = subprocess.Popen(
        command, start_new_session=True, preexec_fn=lambda: os.closerange(0, 1024)
    )
    told["pid"] = target.pid
    _wait_for_program(target, deadline)
    told["before"] = shown(target.pid)
    common = ["-D", folder, "-v4", "--shell-job"]
    started = time.perf_counter()
    told["dump"] = _run([*criu, "dump", "-t", str(target.pid), *common, "-o", "dump.log"], deadline)
    seconds = time.perf_counter() - started
    if told["dump"] == 0:
        target.wait(max(0.1, deadline - time.monotonic()))  # its number must be free again
        listener = listen()
        restore = [*criu, "restore", "-d", *common, "-o", "restore.log"]
        started = time.perf_counter()
        told["restore"], told["calls"] = _run_overheard(restore, listener, deadline)
        told["seconds"] = seconds + time.perf_counter() - started
        if told["restore"] == 0:
            told["after"] = shown(target.pid)
    json.dump(told, sys.stdout)
    return 0


def _wait_for_program(target: subprocess.Popen[bytes], deadline: float) -> None:
    """Wait until the process sleeps in its own program, so that there is something to dump."""
    mine = os.readlink("/proc/self/exe")
    while time.monotonic() < deadline:
        if target.poll() is not None:
            sys.exit(f"{target.args!r} ended with status {target.returncode}")
        with open(f"/proc/{target.pid}/stat") as stat:
            asleep = stat.read().rpartition(")")[2].split()[0] == "S"
        if asleep and os.readlink(f"/proc/{target.pid}/exe") != mine:
            return
        time.sleep(0.01)


def _run(command: list[str], deadline: float) -> int:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=max(0.1, deadline - time.monotonic()),
        )
    except subprocess.TimeoutExpired:
        return -1
    return done.returncode


def _run_overheard(
    command: list[str], listener: int, deadline: float
) -> tuple[int, list[dict[str, object]]]:
    calls = []
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    pidfd = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        ready = {descriptor for descriptor, event in poll.poll(left * 1000) if event & 1}
        if listener in ready:
            calls.append(take_call(listener))
        elif pidfd in ready:
            return process.wait(), calls
    return -1, calls


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
