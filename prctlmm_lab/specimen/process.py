"""class Specimen: a child process that does nothing but the system calls it is told to do.

Its program is `x86_64.S` beside this file: a loop that serves requests from a socket. Everything
else is composed here from that one primitive. Memory is read and written through a memory file
that both sides hold (descriptor 4): no ptrace, no permission, no extra mapping in the specimen.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType

from prctlmm_lab.errors import (
    InputError,
    SpecimenChannelError,
    SpecimenGone,
    SpecimenStartError,
    SpecimenTimeout,
    SystemCallError,
    UnsupportedSystem,
    call_text,
)
from prctlmm_lab.kernel import syscalls
from prctlmm_lab.kernel.abi import MAP_SIZE, PR_SET_MM, U64, Operation, PrctlMmMap
from prctlmm_lab.kernel.auxv import decode_auxv
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable, parse_stat, read_snapshot
from prctlmm_lab.specimen.build import BUILDS, binary_path

PAGE = os.sysconf("SC_PAGE_SIZE")
CHANNEL, EXCHANGE = 3, 4
"""The specimen's descriptors: the socket of requests, the memory file of contents."""

_REQUEST = struct.Struct("<8Q")
_ANSWER = struct.Struct("<Qq")
_BATCH = U64
_SCRATCH = 16 * PAGE
_CHUNK = 1 << 20

PROT = {"r": 1, "w": 2, "x": 4, "-": 0}
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
MAP_GROWSDOWN, MAP_FIXED_NOREPLACE = 0x0100, 0x100000
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
CLONE_NEWUSER = 0x10000000
ADDR_NO_RANDOMIZE = 0x0040000
PR_SET_DUMPABLE, PR_SET_NAME = 4, 15
AT_FDCWD = -100

RESOURCES = (
    "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO "
    "RTTIME"
).split()
"""Resource limits in the order of their numbers, without the RLIMIT_ prefix."""

SECOND_PROCESS = frozenset({"fork", "vfork", "clone", "clone3"})
"""Calls that would leave two processes on one channel."""


class Specimen:
    """A living process that makes any system call it is told to, and nothing else.

    `build` is "static" (code at 0x400000, the textbook layout) or "static-pie" (the kernel places
    it). `arguments` and `environment` are what the process starts with; nothing is inherited.
    `heap_pages` pages of heap are there from the start. With `randomize=False` the kernel places
    everything at the same addresses each time (some containers refuse that). No wait is longer
    than `deadline` seconds.

    >>> with Specimen() as specimen:
    ...     errno_of_call = specimen.set_map(specimen.current_map())
    >>> errno_of_call
    0

    Raises SpecimenStartError if no way to start it works here, UnsupportedSystem on a system
    without a specimen, SystemCallError if a step of the start is refused.
    """

    def __init__(
        self,
        build: str = "static",
        *,
        arguments: Sequence[bytes] = (b"specimen",),
        environment: Sequence[bytes] = (b"LAB=prctlmm_lab",),
        heap_pages: int = 4,
        randomize: bool = True,
        deadline: float = 10.0,
    ) -> None:
        require_supported_system()
        if build not in BUILDS:
            raise InputError("specimen", "is not a build", repr(build)[:80], " or ".join(BUILDS))
        self.build, self.deadline = build, deadline
        self.machine = platform.machine()
        self._sequence = 0
        self._lock = threading.Lock()
        self._ended: SpecimenGone | None = None
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            with theirs:
                exchange = os.memfd_create("exchange", os.MFD_CLOEXEC)
                undo.callback(os.close, exchange)
                self.pid = _spawn(build, theirs.fileno(), exchange, arguments, environment)
            try:
                pidfd = os.pidfd_open(self.pid)
            except BaseException:
                os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
                os.waitpid(self.pid, 0)
                raise
            undo.pop_all()
        self._socket, self._exchange, self._pidfd = ours, exchange, pidfd
        self._finalizer = weakref.finalize(self, _end, pidfd, ours, exchange)
        try:
            self._settle(heap_pages)
            if not randomize:
                self.syscall("personality", ADDR_NO_RANDOMIZE)
                self.restart(arguments, environment, heap_pages=heap_pages)
        except BaseException:
            self.stop()
            raise

    def _settle(self, heap_pages: int) -> None:
        """Find the scratch memory, close what was inherited, name the process, grow the heap."""
        # The first answer also says that execve is over: posix_spawn returns before the kernel has
        # noted the new program's addresses (fs/binfmt_elf.c, load_elf_binary).
        closed = self.attempt("close_range", EXCHANGE + 1, 0xFFFFFFFF, 0)
        stat, auxv = (_read_part(self.pid, part) for part in ("stat", "auxv"))
        numbers = parse_stat(stat)
        entries = {entry.name: entry.value for entry in decode_auxv(auxv)}
        self._entry = entries["AT_ENTRY"]
        # The program keeps its request just below the stack pointer it started with, which
        # start_stack is until the first call changes it. What lies below that is free.
        self._scratch = (numbers["start_stack"] - _REQUEST.size - _SCRATCH) & ~(PAGE - 1)
        grown = numbers["start_brk"] + heap_pages * PAGE
        os.pwrite(self._exchange, b"specimen\0", 0)
        *_, top = self._request_all(
            [
                self._call("pread64", EXCHANGE, self._scratch, 9, 0),
                self._call("prctl", PR_SET_NAME, self._scratch),
                self._call("brk", grown),
            ]
        )
        if closed == -errno.ENOSYS:  # before v5.9
            for descriptor in map(int, os.listdir(f"/proc/{self.pid}/fd")):
                if descriptor > EXCHANGE:
                    self.syscall("close", descriptor)
        if top != grown:
            raise SystemCallError(errno.ENOMEM, "brk", (grown,))

    # ---- life -------------------------------------------------------------------------------

    def __enter__(self) -> Specimen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "alive" if self.alive else "ended"
        return f"<Specimen {self.build} pid {self.pid} {state}>"

    @property
    def alive(self) -> bool:
        """True until the process has ended, by itself, by a signal or by `stop`."""
        return self._finalizer.alive and not _readable(self._pidfd, 0)

    def stop(self) -> None:
        """End the specimen and give back all it used; a second call does nothing."""
        if self._ended is None:
            self._ended = SpecimenGone(self.pid, "stop()", signal.SIGKILL, -1)
        self._finalizer()

    # ---- the primitive ----------------------------------------------------------------------

    def attempt(self, name: str, *arguments: int) -> int:
        """Make a system call in the specimen and return its raw result, -errno if refused.

        Arguments are ints; negative ones are passed as their 64-bit two's complement.

        Raises InputError for an unknown name, too many arguments, or a call that would leave two
        processes on one channel; SpecimenError if the specimen ended or does not answer.
        """
        if name in SECOND_PROCESS:
            raise InputError("system call", "would put a second process on the specimen's channel",
                             repr(name), "another Specimen for a second process")  # fmt: skip
        if len(arguments) > 6:
            raise InputError(name, "is too many arguments", str(len(arguments)), "at most 6")
        return self._request_all([self._call(name, *arguments)])[0]

    def syscall(self, name: str, *arguments: int) -> int:
        """Make a system call in the specimen and return its result.

        Equivalent: the same call in a C program.

        Raises SystemCallError with the call and its arguments if the kernel refuses; else as
        `attempt`.
        """
        result = self.attempt(name, *arguments)
        if -4096 < result < 0:
            raise SystemCallError(-result, name, arguments)
        return result

    def _call(self, name: str, *arguments: int) -> tuple[int, Sequence[int], str]:
        return syscalls.number(name, self.machine), arguments, call_text(name, arguments)

    def _request_all(self, requests: Sequence[tuple[int, Sequence[int], str]]) -> list[int]:
        """Send requests without waiting between them, then take their answers in order."""
        with self._lock:
            if self._ended is not None:
                step = requests[0][2]
                raise SpecimenGone(self.pid, step, self._ended.signal, self._ended.status)
            first = self._sequence + 1
            for request in requests:
                self._send(*request)
            return [
                self._receive(step, first + number) for number, (_, _, step) in enumerate(requests)
            ]

    def _send(self, number: int, arguments: Sequence[int], step: str) -> None:
        self._sequence += 1
        words = [argument & U64 for argument in arguments] + [0] * (6 - len(arguments))
        try:
            self._socket.settimeout(self.deadline)
            self._socket.send(_REQUEST.pack(self._sequence, number & U64, *words))
        except TimeoutError:
            raise self._timeout(step) from None
        except OSError:
            raise self._gone(step) from None

    def _receive(self, step: str, sequence: int) -> int:
        """Wait for the answer to a request; whatever goes wrong ends the specimen."""
        try:
            answer = self._socket.recv(_REQUEST.size)
        except TimeoutError:
            raise self._timeout(step) from None
        except OSError:
            raise self._gone(step) from None
        except BaseException:
            self.stop()  # interrupted between request and answer: the two would no longer match
            raise
        if not answer:
            raise self._gone(step)
        if len(answer) != _ANSWER.size or _ANSWER.unpack(answer)[0] != sequence:
            self.stop()
            raise SpecimenChannelError(self.pid, step, len(answer))
        result: int = _ANSWER.unpack(answer)[1]
        return result

    def _gone(self, step: str) -> SpecimenGone:
        how = _how_it_ended(self._pidfd, self.deadline)
        self._ended = SpecimenGone(self.pid, step, *how)
        self.stop()
        return self._ended

    def _timeout(self, step: str) -> SpecimenTimeout:
        status = read_snapshot(self.pid).status
        state = str(status) if isinstance(status, Unreadable) else status.get("State", "unknown")
        self.stop()
        return SpecimenTimeout(self.pid, step, self.deadline, state)

    # ---- memory -----------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        """Return the bytes of the specimen's memory from `address` on.

        Raises SystemCallError with EFAULT if a byte of it cannot be read.
        """
        parts = []
        while length > 0:
            want = min(length, _CHUNK)
            got = self.syscall("pwrite64", EXCHANGE, address, want, 0)
            parts.append(os.pread(self._exchange, got, 0))
            address, length = address + got, length - got
        self._shrink_exchange()
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes into the specimen's memory.

        Raises SystemCallError with EFAULT if a byte of it cannot be written.
        """
        for start in range(0, len(data), _CHUNK):
            chunk = data[start : start + _CHUNK]
            done = 0
            while done < len(chunk):
                os.pwrite(self._exchange, chunk[done:], 0)
                left = len(chunk) - done
                done += self.syscall("pread64", EXCHANGE, address + start + done, left, 0)
        self._shrink_exchange()

    def _shrink_exchange(self) -> None:
        if os.fstat(self._exchange).st_size > PAGE:
            os.ftruncate(self._exchange, 0)

    def place(self, data: bytes) -> int:
        """Put bytes into the scratch memory below the specimen's request and return where."""
        if len(data) > _SCRATCH:
            raise InputError("specimen", "bytes are too many for one call", hex(len(data)),
                             f"at most {_SCRATCH:#x}")  # fmt: skip
        self.write(self._scratch, data)
        return self._scratch

    def _place_and(self, data: bytes, name: str, *arguments: int) -> int:
        """Put bytes into the scratch memory, make a call that reads them, return its raw result."""
        os.pwrite(self._exchange, data, 0)
        copy = self._call("pread64", EXCHANGE, self._scratch, len(data), 0)
        copied, result = self._request_all([copy, self._call(name, *arguments)])
        if copied != len(data):
            raise SystemCallError(errno.EFAULT, "pread64", tuple(copy[1]))
        return result

    def map(
        self,
        length: int,
        *,
        at: int | None = None,
        permissions: str = "rw-",
        shared: bool = False,
        descriptor: int = -1,
        offset: int = 0,
        grows_down: bool = False,
    ) -> int:
        """Map memory and return its address; `at` is never placed over what is there already.

        `permissions` are letters as in maps: "rw-", "r-x", "---". Without a descriptor the memory
        is anonymous.

        Raises SystemCallError: EEXIST if `at` is taken, EPERM below vm.mmap_min_addr, ENOMEM.
        """
        flags = MAP_SHARED if shared else MAP_PRIVATE
        flags |= MAP_ANONYMOUS if descriptor < 0 else 0
        flags |= MAP_GROWSDOWN if grows_down else 0
        flags |= MAP_FIXED_NOREPLACE if at is not None else 0
        return self.syscall("mmap", at or 0, length, _prot(permissions), flags, descriptor, offset)

    def unmap(self, address: int, length: int) -> None:
        """Unmap whatever lies in the range.

        Raises SystemCallError: EINVAL for an address that is not a multiple of the page size.
        """
        self.syscall("munmap", address, length)

    def protect(self, address: int, length: int, permissions: str) -> None:
        """Change the permissions of mapped memory.

        Raises SystemCallError: ENOMEM for a hole in the range, EACCES if the file forbids it.
        """
        self.syscall("mprotect", address, length, _prot(permissions))

    def brk(self, address: int = 0) -> int:
        """Ask for a new end of the heap and return what it is then, changed or not.

        brk() has no errno: the kernel refuses by returning the present end.
        """
        return self.attempt("brk", address)

    # ---- limits, identity, namespaces ---------------------------------------------------------

    def limit(self, resource: str) -> tuple[int, int]:
        """Return the soft and hard limit of a resource such as "DATA"; 2**64 - 1 is unlimited.

        Equivalent: `prlimit --pid PID --data`.
        """
        self.place(bytes(16))
        self.syscall("prlimit64", 0, _resource(resource), 0, self._scratch)
        soft, hard = struct.unpack("<2Q", self.read(self._scratch, 16))
        return soft, hard

    def set_limit(self, resource: str, soft: int, hard: int | None = None) -> None:
        """Set the soft limit of a resource, and the hard one if given.

        Equivalent: `prlimit --pid PID --data=SOFT:HARD`.

        Raises SystemCallError: EINVAL if soft is above hard, EPERM to raise hard without
        CAP_SYS_RESOURCE.
        """
        new = struct.pack("<2Q", soft, self.limit(resource)[1] if hard is None else hard)
        self.syscall("prlimit64", 0, _resource(resource), self.place(new), 0)

    def become(self, uid: int, gid: int | None = None) -> None:
        """Take on another identity for good: no groups, all three ids, no capability left.

        Equivalent: `setpriv --reuid UID --regid GID --clear-groups`.

        Raises SystemCallError: EPERM unless it was started with the right to change identity.
        """
        group = uid if gid is None else gid
        self.syscall("setgroups", 0, 0)
        self.syscall("setresgid", group, group, group)
        self.syscall("setresuid", uid, uid, uid)
        # The kernel now hides the process from its own owner, as after a set-user-id program.
        self.syscall("prctl", PR_SET_DUMPABLE, 1)

    def enter_user_namespace(self, *, map_ids: bool = True) -> None:
        """Move into a new user namespace, as its root; without id maps if `map_ids` is False.

        Equivalent: `unshare --user --map-root-user`.

        Raises SystemCallError: EPERM, ENOSPC or EINVAL where the system forbids user namespaces.
        """
        uid, gid = self.syscall("geteuid"), self.syscall("getegid")
        self.syscall("unshare", CLONE_NEWUSER)
        if map_ids:
            self.write_file("/proc/self/setgroups", b"deny")
            self.write_file("/proc/self/uid_map", f"0 {uid} 1".encode())
            self.write_file("/proc/self/gid_map", f"0 {gid} 1".encode())

    # ---- files --------------------------------------------------------------------------------

    def open(self, path: str | bytes, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
        """Open a file in the specimen and return the descriptor.

        Raises SystemCallError, and InputError for a path with a zero byte.
        """
        name = os.fsencode(path)
        if b"\0" in name:
            raise InputError("path", "holds a zero byte", repr(name)[:80], "a path without one")
        return self.syscall("openat", AT_FDCWD, self.place(name + b"\0"), flags, mode)

    def close(self, descriptor: int) -> None:
        """Close a descriptor of the specimen.

        Raises SystemCallError: EBADF. Raises InputError for the two that it answers through.
        """
        if descriptor in (CHANNEL, EXCHANGE):
            raise InputError("descriptor", "is what the specimen answers through",
                             hex(descriptor), "another one")  # fmt: skip
        self.syscall("close", descriptor)

    def write_file(self, path: str, data: bytes) -> None:
        """Open a file that exists, write all the bytes in one call, close it."""
        descriptor = self.open(path, os.O_WRONLY)
        try:
            self.syscall("write", descriptor, self.place(data), len(data))
        finally:
            self.close(descriptor)

    def memory_file(self, name: str, contents: bytes = b"", mode: int = 0o755) -> int:
        """Make a file that lives in memory and return a descriptor of it.

        Its link in /proc reads `/memfd:NAME (deleted)`.

        Raises SystemCallError: ENOSYS or EPERM where memory files are forbidden.
        """
        descriptor = self.syscall("memfd_create", self.place(name.encode() + b"\0"), 0)
        if contents:
            self.syscall("write", descriptor, self.place(contents), len(contents))
        self.syscall("fchmod", descriptor, mode)
        return descriptor

    # ---- exec ---------------------------------------------------------------------------------

    def restart(
        self, arguments: Sequence[bytes], environment: Sequence[bytes], *, heap_pages: int = 4
    ) -> None:
        """Execute its own program again, without a fork: a fresh address space, the same process.

        Raises SystemCallError if execve refuses.
        """
        call = self._execve("/proc/self/exe", arguments, environment)
        # A success has no answer: the new program waits for a request. So ask something more; the
        # answer that arrives first is that of a failed execve, or of getppid by the new program.
        with self._lock:
            failed = self._sequence
            self._send(syscalls.number("getppid", self.machine), (), "getppid() after execve")
            answer = self._socket.recv(_REQUEST.size)
        sequence, result = _ANSWER.unpack(answer) if len(answer) == _ANSWER.size else (0, 0)
        if sequence == failed:
            self._receive("getppid() after execve", self._sequence)
            raise SystemCallError(-result, "execve", call)
        if sequence != self._sequence:
            raise self._gone("execve")
        self._settle(heap_pages)

    def execute(
        self, path: str, arguments: Sequence[bytes], environment: Sequence[bytes] = ()
    ) -> None:
        """Become another program, without a fork. It can then be observed, but no longer told.

        Equivalent: `exec PATH` in a shell.

        Raises SystemCallError if execve refuses.
        """
        for descriptor in (CHANNEL, EXCHANGE):
            self.syscall("fcntl", descriptor, 2, 1)  # F_SETFD, FD_CLOEXEC
        call = self._execve(path, arguments, environment)
        with self._lock:
            try:
                answer = self._socket.recv(_REQUEST.size)
            except TimeoutError:
                raise self._timeout("execve") from None
            except OSError:
                answer = b""
        if not answer and not self.alive:
            raise self._gone("execve")
        if answer:  # end of file says that execve closed the channel: a success
            raise SystemCallError(-_ANSWER.unpack(answer)[1], "execve", call)
        self._ended = SpecimenGone(self.pid, f"execve of {path}", -1, -1)

    def _execve(
        self, path: str, arguments: Sequence[bytes], environment: Sequence[bytes]
    ) -> tuple[int, int, int]:
        """Lay out path, argv and envp in the scratch memory and send execve, not waiting."""
        strings = [os.fsencode(path), *arguments, *environment]
        block, addresses = bytearray(), []
        for text in strings:
            addresses.append(self._scratch + len(block))
            block += text + b"\0"
        block += bytes(-len(block) % 8)
        argv = self._scratch + len(block)
        pointers = [*addresses[1 : 1 + len(arguments)], 0, *addresses[1 + len(arguments) :], 0]
        envp = argv + 8 * (len(arguments) + 1)
        self.place(bytes(block) + struct.pack(f"<{len(pointers)}Q", *pointers))
        number = syscalls.number("execve", self.machine)
        with self._lock:
            if self._ended is not None:
                raise SpecimenGone(self.pid, "execve", self._ended.signal, self._ended.status)
            self._send(number, (addresses[0], argv, envp), f"execve of {path}")
        return addresses[0], argv, envp

    # ---- the call -----------------------------------------------------------------------------

    def set_map(
        self, new: PrctlMmMap, *, size: int = MAP_SIZE, arg5: int = 0, pointer: int | None = None
    ) -> int:
        """Make the call and return its errno, 0 for accepted.

        With `pointer` nothing is written: the kernel reads what is there, if anything is.

        Equivalent: `prctl(PR_SET_MM, PR_SET_MM_MAP, &map, size, arg5)` in C.
        """
        call = (PR_SET_MM, Operation.MAP)
        if pointer is not None:
            return -self.attempt("prctl", *call, pointer, size, arg5)
        return -self._place_and(new.pack(), "prctl", *call, self._scratch, size, arg5)

    def set_maps(self, maps: bytes) -> bytes:
        """Make the call for an array of packed maps and return one errno byte for each.

        The array is shared with the specimen for the time of the batch; each map that is accepted
        takes effect, the last one stays.

        Raises InputError if the length is not a multiple of 104.
        """
        count, rest = divmod(len(maps), MAP_SIZE)
        if rest or not count:
            raise InputError("maps", "bytes are no array of maps", hex(len(maps)),
                             f"a multiple of {MAP_SIZE:#x} above 0")  # fmt: skip
        length = -(-(len(maps) + count) // PAGE) * PAGE
        os.ftruncate(self._exchange, length)
        _write_all(self._exchange, maps)
        array = self.map(length, shared=True, descriptor=EXCHANGE)
        try:
            batch = (array, count, array + len(maps))
            self._request_all([(_BATCH, batch, f"a batch of {count} maps")])
            return os.pread(self._exchange, count, len(maps))
        finally:
            if self._ended is None:
                self.unmap(array, length)
                os.ftruncate(self._exchange, 0)

    def current_map(self) -> PrctlMmMap:
        """Return the map that changes nothing: ten members from stat, brk by asking.

        Raises OSError if its stat cannot be read, SpecimenError if it ended.
        """
        members = parse_stat(_read_part(self.pid, "stat")).members
        return PrctlMmMap(**members, brk=self.brk())

    def release_executable(self) -> None:
        """Leave no mapping of its own executable, so that `exe_fd` is accepted.

        Each file mapping of the executable is copied into anonymous memory, which is then moved
        over it, contents and permissions alike; the code that does it is among them.

        Raises SystemCallError if a step is refused.
        """
        snapshot = self.snapshot()
        own = snapshot.vma_at(self._entry)
        for vma in snapshot.vmas:
            if own is None or (vma.path, vma.inode) != (own.path, own.inode):
                continue
            contents = self.read(vma.start, vma.size) if "r" in vma.permissions else b""
            copy = self.map(vma.size)
            self.write(copy, contents)
            self.protect(copy, vma.size, vma.permissions[:3])
            flags = MREMAP_MAYMOVE | MREMAP_FIXED
            self.syscall("mremap", copy, vma.size, vma.size, flags, vma.start)

    def snapshot(self, *, smaps: bool = False) -> Snapshot:
        """Read everything /proc says about the specimen, and ask it for its brk."""
        snapshot = read_snapshot(self.pid, smaps=smaps)
        return replace(snapshot, brk=None if self._ended else self.brk())


def require_supported_system() -> None:
    """Raise UnsupportedSystem where no specimen exists for this system and machine."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UnsupportedSystem(
            f"There is no specimen for {sys.platform} on {platform.machine()}",
            "Linux on x86_64 is needed to make the call.",
        )


def _spawn(
    build: str,
    channel: int,
    exchange: int,
    arguments: Sequence[bytes],
    environment: Sequence[bytes],
) -> int:
    """Start the program in a session of its own, with only the two descriptors it needs."""
    for text in (*arguments, *environment):
        if b"\0" in text:
            raise InputError("specimen", "holds a zero byte", repr(text)[:80], "bytes without one")
    pairs = [entry.partition(b"=") for entry in environment]
    if any(not name or not equals for name, equals, _ in pairs):
        raise InputError("environment", "is not of the form NAME=value", repr(environment)[:80])
    reasons = []
    with contextlib.ExitStack() as descriptors:
        # Above 9, so that no dup2 below can close what the next one needs.
        sources = [_duplicate(descriptors, fd) for fd in (channel, exchange)]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        descriptors.callback(os.close, null)
        moves = [(null, 0), (null, 1), (null, 2), (sources[0], CHANNEL), (sources[1], EXCHANGE)]
        for description, path in _executables(build, descriptors):
            try:
                return os.posix_spawn(
                    path,
                    list(arguments),
                    {name: value for name, _, value in pairs},
                    file_actions=[(os.POSIX_SPAWN_DUP2, old, new) for old, new in moves],
                    setsid=True,  # so that interrupting a cell does not reach it
                    setsigmask=[],
                    setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ],
                )
            except OSError as error:
                reasons.append(f"{description}: {error.strerror}")
    raise SpecimenStartError(0, "posix_spawn", tuple(reasons))


def _read_part(pid: int, part: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{part}", "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        reason = f"its /proc/PID/{part} cannot be read: {error.strerror}"
        raise SpecimenStartError(pid, "reading /proc", (reason,)) from error


def _duplicate(descriptors: contextlib.ExitStack, descriptor: int) -> int:
    import fcntl

    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    descriptors.callback(os.close, high)
    return high


def _executables(build: str, keep: contextlib.ExitStack) -> Iterator[tuple[str, str]]:
    """Yield ways to name the program to execve, the best first; `keep` removes what they leave.

    A memory file first: it works where temporary folders are noexec or read-only, and its name
    says nothing about the machine. A file where the system forbids executing memory files
    (sysctl vm.memfd_noexec).
    """
    program = binary_path(build, platform.machine()).read_bytes()
    try:
        descriptor = _memory_file(f"specimen-{build}", program)
        keep.callback(os.close, descriptor)
        yield "a memory file", f"/proc/self/fd/{descriptor}"
    except OSError as error:
        yield f"a memory file ({error.strerror})", "/proc/self/fd/-1"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for folder in filter(os.path.isdir, (tempfile.gettempdir(), "/dev/shm", runtime, os.getcwd())):
        try:
            path = keep.enter_context(_temporary_copy(folder, program))
        except OSError as error:
            yield f"a file in {folder} ({error.strerror})", os.path.join(folder, "nothing-there")
        else:
            yield f"a file in {folder}", path


def _memory_file(name: str, contents: bytes) -> int:
    executable = 0x10  # MFD_EXEC, v6.3 (commit 105ff5339f49); EINVAL before
    try:
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | executable)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    os.fchmod(descriptor, 0o555)
    _write_all(descriptor, contents)
    return descriptor


@contextlib.contextmanager
def _temporary_copy(folder: str, program: bytes) -> Iterator[str]:
    descriptor, path = tempfile.mkstemp(prefix="specimen-", dir=folder)
    try:
        try:
            _write_all(descriptor, program)
            os.fchmod(descriptor, 0o500)
        finally:
            os.close(descriptor)
        yield path
    finally:
        os.unlink(path)


def _write_all(descriptor: int, data: bytes) -> None:
    view, offset = memoryview(data), 0
    while offset < len(view):
        offset += os.pwrite(descriptor, view[offset:], offset)


def _prot(permissions: str) -> int:
    if not set(permissions) <= set(PROT):
        raise InputError("permissions", "is not of the form rwx", repr(permissions)[:80],
                         'letters such as "rw-"')  # fmt: skip
    return sum(PROT[letter] for letter in set(permissions))


def _resource(name: str) -> int:
    short = name.removeprefix("RLIMIT_")
    if short not in RESOURCES:
        raise InputError("limit", "is not a resource", repr(name)[:80], ", ".join(RESOURCES))
    return RESOURCES.index(short)


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _how_it_ended(pidfd: int, seconds: float) -> tuple[int, int]:
    """Wait for the end of a process; return (signal, status), or (-1, -1) if it is not known."""
    if not _readable(pidfd, seconds):
        return -1, -1
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return -1, -1
    if ended is None:
        return -1, -1
    return (0, ended.si_status) if ended.si_code == os.CLD_EXITED else (ended.si_status, -1)


def _end(pidfd: int, channel: socket.socket, exchange: int) -> None:
    """Kill, reap and close; called once for each specimen, at the latest when Python ends."""
    channel.close()
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    deadline = time.monotonic() + 10
    with contextlib.suppress(ChildProcessError):
        while os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is None:
            if not _readable(pidfd, max(0.0, deadline - time.monotonic())):
                break
    os.close(pidfd)
    os.close(exchange)
