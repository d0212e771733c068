"""Start the specimen's process, and end it: what lies around the requests.

It starts in a session of its own, with three descriptors besides /dev/null, and every signal at its
default. Nothing of it outlives `end`: no process, no zombie, no descriptor, no file. Only the
program, a file in memory, stays open for the specimens to come: see `open_program`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cache

from prctlmm_lab.errors import InputError, SpecimenStartError
from prctlmm_lab.specimen.build import binary_path

if sys.platform == "linux":  # elsewhere nothing is started, but the module can be imported
    import fcntl
    import resource

CHANNEL, EXCHANGE, LIFELINE = 3, 4, 5
"""The specimen's descriptors: the socket of requests, the memory file of contents, and a pipe whose
other end we hold: when it closes, however we end, the kernel kills the specimen."""

LOOKS = 50
"""How often we look for what comes within microseconds before we sleep: to be woken takes longer.
Each look lets others run."""

F_SETSIG = 10
MFD_NOEXEC_SEAL, MFD_EXEC = 0x08, 0x10
"""Flags of memfd_create since v6.3 (commit 105ff5339f49); EINVAL before."""


@cache
def _signals() -> tuple[int, ...]:
    """Return every signal that a process can ignore."""
    return tuple(map(int, signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))


@cache
def _standard() -> tuple[tuple[int | str, ...], ...]:
    """Return how its standard input, output and error are opened."""
    return (
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    )


def start(
    build: str,
    arguments: Sequence[bytes],
    environment: Sequence[bytes],
    requests: Sequence[bytes],
) -> tuple[int, int, socket.socket, tuple[int, int]]:
    """Start the program; return its pid, a pidfd, our end of the channel, and two descriptors.

    They are the exchange file and our end of the lifeline. The requests wait in the channel, so
    that the program serves them at once.

    Raises SpecimenStartError if no way to start it works here.
    """
    with ExitStack() as undo:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(ours.close)
        with theirs:
            for request in requests:
                ours.send(request)
            exchange = _exchange_file()
            undo.callback(os.close, exchange)
            its_end, lifeline = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, lifeline)
            try:
                given = (theirs.fileno(), exchange, its_end)
                pid = _spawn(build, given, arguments, environment)
                pidfd = _tie(pid, its_end)
            finally:
                os.close(its_end)
        undo.pop_all()
    return pid, pidfd, ours, (exchange, lifeline)


def _tie(pid: int, its_end: int) -> int:
    """Let the specimen's life hang on the lifeline, and return a pidfd of it.

    Input or the end of the lifeline is a SIGKILL, even to one that sleeps or is stopped; end of
    file on the channel ends only one that waits for a request.
    """
    try:
        fcntl.fcntl(its_end, F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(its_end, fcntl.F_SETOWN, pid)
        fcntl.fcntl(its_end, fcntl.F_SETFL, os.O_ASYNC)
        return os.pidfd_open(pid)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
            os.waitpid(pid, 0)
        if isinstance(error, OSError):
            reasons = (f"pidfd_open: {error.strerror}",)
            raise SpecimenStartError(pid, "pidfd_open", reasons) from error
        raise


def end(owner: int, pidfd: int, channel: socket.socket, descriptors: tuple[int, int]) -> None:
    """Kill, reap and close; called once for each specimen, at the latest when Python ends.

    In a process that was forked from `owner` it only closes: the specimen is not its own.
    """
    is_own = os.getpid() == owner
    try:
        if is_own:
            with contextlib.suppress(OSError):  # gone, or another user's program after execve
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        channel.close()
        for descriptor in descriptors:
            os.close(descriptor)
        if is_own:
            _reap(pidfd)
    finally:
        os.close(pidfd)


def _reap(pidfd: int) -> None:
    with contextlib.suppress(ChildProcessError):
        for _ in range(LOOKS):
            if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is not None:
                return
            os.sched_yield()
        deadline = time.monotonic() + 10
        while readable(pidfd, deadline - time.monotonic()):
            if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is not None:
                return


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
    return _wait_for(descriptor, select.POLLIN, seconds)


def _wait_for(descriptor: int, event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def send(channel: socket.socket, message: bytes, seconds: float) -> None:
    """Send a message, waiting for room in the channel; raise TimeoutError if none comes."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            channel.send(message, socket.MSG_DONTWAIT)
            return
        except BlockingIOError:
            if not _wait_for(channel.fileno(), select.POLLOUT, deadline - time.monotonic()):
                raise TimeoutError from None


def receive(channel: socket.socket, size: int, seconds: float) -> bytes:
    """Take the next message, b"" at the end of the channel; raise TimeoutError if none comes."""
    for _ in range(LOOKS):
        try:
            return channel.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            os.sched_yield()
    deadline = time.monotonic() + seconds
    while readable(channel.fileno(), deadline - time.monotonic()):
        with contextlib.suppress(BlockingIOError):
            return channel.recv(size, socket.MSG_DONTWAIT)
    raise TimeoutError


def write_all(descriptor: int, data: bytes | memoryview, offset: int = 0) -> None:
    """Write all bytes to a file, from an offset on."""
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done


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
    variables = dict(entry.split(b"=", 1) for entry in environment)
    reasons = []
    with ExitStack() as stack:
        # In this order no move closes what a later one needs.
        numbers = range(CHANNEL, LIFELINE + 1)
        moves = [
            (os.POSIX_SPAWN_DUP2, _at_least(number, descriptor, stack), number)
            for descriptor, number in zip(given, numbers, strict=True)
        ]
        for description, executable in _executables(build):
            try:
                with executable as path:
                    return os.posix_spawn(
                        path,
                        list(arguments),
                        variables,
                        file_actions=[*_standard(), *moves],
                        setsid=True,  # so that interrupting a cell does not reach it
                        setsigmask=[],
                        setsigdef=_signals(),
                    )
            except OSError as error:
                reasons.append(f"{description}: {_why(error)}")
    raise SpecimenStartError(0, "posix_spawn", tuple(reasons))


def _why(error: OSError) -> str:
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if error.errno == errno.ENOMEM and limit != resource.RLIM_INFINITY:
        return f"{error.strerror} (RLIMIT_DATA is {limit:#x})"
    return str(error.strerror)


def _at_least(lowest: int, descriptor: int, stack: ExitStack) -> int:
    """Return the descriptor, or a duplicate of it above all that the specimen is given."""
    if descriptor >= lowest:
        return descriptor
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, LIFELINE + 1)
    stack.callback(os.close, high)
    return high


def _executables(build: str) -> Iterator[tuple[str, AbstractContextManager[str]]]:
    """Yield ways to name the program to execve, the best first, each with its clean-up.

    A memory file first: it works where temporary folders are noexec or read-only, and its name
    says nothing about the machine. A file where the system forbids executing memory files
    (sysctl vm.memfd_noexec).
    """
    yield "a memory file", _memory_file(build)
    for folder in _folders():
        yield f"a file in {folder}", _temporary_file(folder, _program(build))


def _program(build: str) -> bytes:
    return binary_path(build, platform.machine()).read_bytes()


def _folders() -> Iterator[str]:
    with contextlib.suppress(OSError):  # no folder at all that can be written
        yield tempfile.gettempdir()
    yield "/dev/shm"
    if "XDG_RUNTIME_DIR" in os.environ:
        yield os.environ["XDG_RUNTIME_DIR"]
    with contextlib.suppress(OSError):  # the working folder is gone
        yield os.getcwd()


@contextlib.contextmanager
def _memory_file(build: str) -> Iterator[str]:
    yield f"/proc/self/fd/{open_program(build)}"


def open_program(build: str) -> int:
    """Return a descriptor of the program in memory, which stays open for the next specimens.

    There is one for each build; nobody can change the file. If somebody closed the descriptor, or
    its number means another file now, a new one is made.

    Raises OSError where memory files are forbidden.
    """
    if build in _programs:
        descriptor, identity = _programs[build]
        with contextlib.suppress(OSError):
            if _identity(descriptor) == identity:
                return descriptor
    low = _memfd(f"specimen-{build}", MFD_EXEC | os.MFD_ALLOW_SEALING)
    try:
        # Not one of the numbers that the specimen's own descriptors take before execve.
        descriptor = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, LIFELINE + 1)
    finally:
        os.close(low)
    try:
        os.fchmod(descriptor, 0o555)
        write_all(descriptor, _program(build))
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    _programs[build] = descriptor, _identity(descriptor)
    return descriptor


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


_programs: dict[str, tuple[int, tuple[int, int]]] = {}


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
        return os.memfd_create(name, os.MFD_CLOEXEC | (flag & os.MFD_ALLOW_SEALING))


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
