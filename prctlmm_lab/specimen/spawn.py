"""Start the specimen's process, and end it: what lies around the requests.

It starts in a session of its own, with three descriptors besides /dev/null, and every signal at its
default. Nothing of it outlives `end`: no process, no zombie, no descriptor, no file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import resource
import select
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack

from prctlmm_lab.errors import InputError, SpecimenStartError
from prctlmm_lab.specimen.build import binary_path

CHANNEL, EXCHANGE, LIFELINE = 3, 4, 5
"""The specimen's descriptors: the socket of requests, the memory file of contents, and a pipe whose
other end we hold: when it closes, however we end, the kernel kills the specimen."""

MFD_NOEXEC_SEAL, MFD_EXEC = 0x08, 0x10
"""Flags of memfd_create since v6.3 (commit 105ff5339f49); EINVAL before."""

_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
"""Every signal that a process can ignore."""


def start(
    build: str, arguments: Sequence[bytes], environment: Sequence[bytes]
) -> tuple[int, int, socket.socket, tuple[int, int]]:
    """Start the program; return its pid, a pidfd, our end of the channel, and two descriptors.

    They are the exchange file and our end of the lifeline.

    Raises SpecimenStartError if no way to start it works here.
    """
    with ExitStack() as undo:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(ours.close)
        with theirs:
            exchange = _exchange_file()
            undo.callback(os.close, exchange)
            its_end, lifeline = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, lifeline)
            try:
                given = (theirs.fileno(), exchange, its_end)
                pid = _spawn(build, given, arguments, environment)
            finally:
                os.close(its_end)
        try:
            pidfd = os.pidfd_open(pid)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
                os.waitpid(pid, 0)
            if isinstance(error, OSError):
                reasons = (f"pidfd_open: {error.strerror}",)
                raise SpecimenStartError(pid, "pidfd_open", reasons) from error
            raise
        undo.pop_all()
    return pid, pidfd, ours, (exchange, lifeline)


def end(owner: int, pidfd: int, channel: socket.socket, descriptors: tuple[int, int]) -> None:
    """Kill, reap and close; called once for each specimen, at the latest when Python ends.

    In a process that was forked from `owner` it only closes: the specimen is not its own.
    """
    try:
        channel.close()
        if os.getpid() != owner:
            return
        with contextlib.suppress(OSError):  # gone, or another user's program after execve
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        deadline = time.monotonic() + 10
        with contextlib.suppress(ChildProcessError):
            while os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is None:
                if not readable(pidfd, max(0.0, deadline - time.monotonic())):
                    break
    finally:
        for descriptor in (pidfd, *descriptors):
            os.close(descriptor)


def how_it_ended(pidfd: int, seconds: float) -> tuple[int, int]:
    """Wait for the end of a process; return (signal, status), or (-1, -1) if it is not known."""
    if not readable(pidfd, seconds):
        return -1, -1
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return -1, -1
    if ended is None:
        return -1, -1
    return (0, ended.si_status) if ended.si_code == os.CLD_EXITED else (ended.si_status, -1)


def readable(descriptor: int, seconds: float) -> bool:
    """Wait until a descriptor has something to say; of a pidfd, that its process has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes to the start of a file."""
    view, offset = memoryview(data), 0
    while offset < len(view):
        offset += os.pwrite(descriptor, view[offset:], offset)


def can_be_given(arguments: Sequence[bytes], environment: Sequence[bytes]) -> bool:
    """Tell whether `start` can hand over these texts; execve takes what Python's call does not."""
    names = [name for name, equals, _ in (entry.partition(b"=") for entry in environment) if equals]
    return all((arguments and arguments[0], *names)) and len(set(names)) == len(environment)


def check_texts(arguments: Sequence[bytes], environment: Sequence[bytes]) -> None:
    """Refuse what execve could not hand over as it is.

    Raises InputError for anything but bytes and for a zero byte.
    """
    for what, texts in (("arguments", arguments), ("environment", environment)):
        if isinstance(texts, bytes | str) or not all(isinstance(text, bytes) for text in texts):
            raise InputError(what, "is not a sequence of bytes", repr(texts)[:80],
                             'such as [b"one", b"two"]')  # fmt: skip
        for text in texts:
            if b"\0" in text:
                raise InputError(what, "holds a zero byte", repr(text)[:80], "bytes without one")


# ---- ways to start it -------------------------------------------------------------------------


def _spawn(
    build: str,
    given: tuple[int, int, int],
    arguments: Sequence[bytes],
    environment: Sequence[bytes],
) -> int:
    """Start the program in a session of its own, with only the descriptors it needs.

    `given` are ours that become CHANNEL, EXCHANGE and LIFELINE.
    """
    program = binary_path(build, platform.machine()).read_bytes()
    variables = dict(entry.split(b"=", 1) for entry in environment)
    reasons = []
    with ExitStack() as stack:
        # Above 9, so that no dup2 below can close what the next one needs.
        sources = [_duplicate(stack, descriptor) for descriptor in given]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, null)
        moves = list(zip((null, null, null, *sources), range(LIFELINE + 1), strict=True))
        for description, executable in _executables(f"specimen-{build}", program):
            try:
                with executable as path:
                    return os.posix_spawn(
                        path,
                        list(arguments),
                        variables,
                        file_actions=[(os.POSIX_SPAWN_DUP2, old, new) for old, new in moves],
                        setsid=True,  # so that interrupting a cell does not reach it
                        setsigmask=[],
                        setsigdef=_SIGNALS,
                    )
            except OSError as error:
                reasons.append(f"{description}: {_why(error)}")
    raise SpecimenStartError(0, "posix_spawn", tuple(reasons))


def _why(error: OSError) -> str:
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if error.errno == errno.ENOMEM and limit != resource.RLIM_INFINITY:
        return f"{error.strerror} (RLIMIT_DATA is {limit:#x})"
    return str(error.strerror)


def _duplicate(stack: ExitStack, descriptor: int) -> int:
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    stack.callback(os.close, high)
    return high


def _executables(name: str, program: bytes) -> Iterator[tuple[str, AbstractContextManager[str]]]:
    """Yield ways to name the program to execve, the best first, each with its clean-up.

    A memory file first: it works where temporary folders are noexec or read-only, and its name
    says nothing about the machine. A file where the system forbids executing memory files
    (sysctl vm.memfd_noexec).
    """
    yield "a memory file", _memory_file(name, program)
    for folder in _folders():
        yield f"a file in {folder}", _temporary_file(folder, program)


def _folders() -> Iterator[str]:
    with contextlib.suppress(OSError):  # no folder at all that can be written
        yield tempfile.gettempdir()
    yield "/dev/shm"
    if "XDG_RUNTIME_DIR" in os.environ:
        yield os.environ["XDG_RUNTIME_DIR"]
    with contextlib.suppress(OSError):  # the working folder is gone
        yield os.getcwd()


@contextlib.contextmanager
def _memory_file(name: str, contents: bytes) -> Iterator[str]:
    descriptor = _memfd(name, MFD_EXEC)
    try:
        os.fchmod(descriptor, 0o555)
        write_all(descriptor, contents)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary_file(folder: str, contents: bytes) -> Iterator[str]:
    descriptor, path = tempfile.mkstemp(prefix="specimen-", dir=folder)
    try:
        try:
            write_all(descriptor, contents)
            os.fchmod(descriptor, 0o555)
        finally:
            os.close(descriptor)
        yield path
    finally:
        os.unlink(path)


def _memfd(name: str, flag: int) -> int:
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | flag)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, os.MFD_CLOEXEC)


def _exchange_file() -> int:
    """Open a file without a name, in memory if that is allowed."""
    reasons = []
    try:
        return _memfd("exchange", MFD_NOEXEC_SEAL)
    except OSError as error:
        reasons.append(f"a memory file: {error.strerror}")
    for folder in _folders():
        try:
            descriptor, path = tempfile.mkstemp(prefix="exchange-", dir=folder)
            os.unlink(path)
            return descriptor
        except OSError as error:
            reasons.append(f"a file in {folder}: {error.strerror}")
    raise SpecimenStartError(0, "the exchange file", tuple(reasons))
