"""class Specimen: a child process that does nothing but the system calls it is told to do.

Its program is `x86_64.S` or `aarch64.S` beside this file: a loop that serves requests from a
socket. Everything else is composed here from that one primitive. Memory is read and written through
a memory file that both sides hold (descriptor 4): no ptrace, no permission, no extra mapping in the
specimen.
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
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import wraps
from types import TracebackType
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

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
from prctlmm_lab.kernel.abi import MAP_SIZE, NO_EXE, PR_SET_MM, U32, U64, Operation, PrctlMmMap
from prctlmm_lab.kernel.procfs import (
    Snapshot,
    parse_members,
    parse_status,
    read_parts,
    read_whole,
)
from prctlmm_lab.specimen import spawn
from prctlmm_lab.specimen.build import BUILDS, MACHINES
from prctlmm_lab.specimen.recording import mode
from prctlmm_lab.specimen.recording.marks import LIVE
from prctlmm_lab.specimen.registers import Registers, read_registers, signal_frame
from prctlmm_lab.specimen.spawn import CHANNEL, EXCHANGE, LIFELINE, check_texts

PAGE: int = os.sysconf("SC_PAGE_SIZE") if sys.platform == "linux" else 4096
"""Bytes of a page: 4 KiB on x86-64; 4, 16 or 64 KiB on 64-bit Arm, as its kernel was built.

Elsewhere, that of the machine whose specimens were recorded."""

_REQUEST = struct.Struct("<8Q")
_CARGO = 128
_GREETING = struct.Struct("<4Q")
_ANSWER = struct.Struct("<Qq")
_BATCH, _GROW = U64, U64 - 1
SCRATCH = 1 << 16
"""Bytes below its buffer, from a page's start on, that are free for what a call reads or writes."""
_CHUNK = 1 << 20
_AT_A_TIME = 1 << 14
"""Maps in half a batch: what a processor's cache holds."""

PROT = {"r": 1, "w": 2, "x": 4, "-": 0}
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
MAP_GROWSDOWN, MAP_FIXED_NOREPLACE = 0x0100, 0x100000
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_NOEXEC, MS_REC, MS_PRIVATE = 0x8, 0x4000, 0x40000
ADDR_NO_RANDOMIZE = 0x0040000
PR_SET_DUMPABLE, PR_SET_NAME = 4, 15
F_SETFD, FD_CLOEXEC = 2, 1
_CAPABILITY_VERSION_3 = 0x20080522
AT_FDCWD = -100

RESOURCES = (
    "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO "
    "RTTIME"
).split()
"""Resource limits in the order of their numbers, without the RLIMIT_ prefix."""

SECOND_PROCESS = frozenset({"fork", "vfork", "clone", "clone3"})
"""Calls that would leave two processes on one channel."""


class Request(NamedTuple):
    """One request to the program: a system call, or what only this program knows."""

    number: int
    arguments: Sequence[int]
    name: str
    cargo: bytes = b""
    """At most 128 bytes, which lie behind the request while it is served."""
    label: str = ""

    @property
    def step(self) -> str:
        """What it is called in errors."""
        return self.label or call_text(self.name, tuple(self.arguments))

    def pack(self, sequence: int) -> bytes:
        """Return the message that is sent."""
        words = [argument & U64 for argument in self.arguments]
        words += _PADDING[len(words) :]
        return _REQUEST.pack(sequence, self.number & U64, *words) + self.cargo


_PADDING = [0] * 6
_START = Request(0, (), "", label="its start")

P = ParamSpec("P")
R = TypeVar("R")


def _undivided(
    method: Callable[Concatenate[Specimen, P], R],
) -> Callable[Concatenate[Specimen, P], R]:
    """Make a method's requests one whole: they share the scratch memory and the exchange file."""

    @wraps(method)
    def whole(specimen: Specimen, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with specimen.undivided:
            specimen._require(f"{method.__name__}()")
            return method(specimen, *args, **kwargs)

    return whole


class Specimen:
    """A living process that makes any system call it is told to, and nothing else.

    `build` is "static" (code at 0x400000, the textbook layout) or "static-pie" (the kernel places
    it). `arguments` and `environment` are what the process starts with; neither of them is
    inherited, nor is any descriptor. `heap_pages` pages of heap (0 to 0x10000) are there from the
    start. With `randomize=False` the kernel places everything at the same addresses each time
    (some containers refuse that). No wait for an answer is longer than `deadline` seconds. Several
    threads may use it; `with specimen.undivided:` keeps the others out for more than one call.

    >>> with Specimen() as specimen:
    ...     errno_of_call = specimen.set_map(specimen.current_map())
    >>> errno_of_call
    0

    Raises SpecimenStartError if no way to start it works here, UnsupportedSystem on a system
    without a specimen, SystemCallError if a step of the start is refused, InputError for options
    that make no sense.
    """

    origin: str = LIVE
    """Where its present state comes from."""
    mapped: frozenset[tuple[int, int]] = frozenset()
    """Ranges, their ends exclusive, of private memory without a file that `map` made."""
    weakest: str = LIVE
    """The origin that says least, of all answers since it started."""

    def __new__(cls, *_arguments: object, **_options: object) -> Specimen:
        """Give one that answers from a recording where a recording stands in for the kernel."""
        return object.__new__(mode.specimen_class(cls) if cls is Specimen else cls)

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
        check_options(build, heap_pages, deadline)
        self.build, self.deadline = build, deadline
        self.machine = platform.machine()
        self.undivided = threading.RLock()
        self.exe_changed = False
        """Whether `set_map` has changed the exe link since the last execve."""
        self.moved: frozenset[int] = frozenset()
        """Where `release_executable` has put memory by mremap()."""
        self._sequence = 0
        self._ended: SpecimenGone | None = None
        check_texts(arguments, environment)
        given = spawn.can_be_given(arguments, environment)
        opening = self._opening(heap_pages)
        self._sequence = len(opening)
        self.pid, self._pidfd, self._socket, descriptors = spawn.start(
            build,
            arguments if given else (b"specimen",),
            environment if given else (),
            [request.pack(number) for number, request in enumerate(opening, 1)],
        )
        self._exchange = descriptors[0]
        self._finalizer = weakref.finalize(
            self, spawn.end, os.getpid(), self._pidfd, self._socket, descriptors
        )
        try:
            with self.undivided:
                self._greet(self._next_message(_START))
                self._settle(opening, heap_pages)
            if not randomize:
                self.syscall("personality", ADDR_NO_RANDOMIZE)
            if not (randomize and given):
                self.restart(arguments, environment, heap_pages=heap_pages)
        except BaseException:
            self.stop()
            raise

    def _opening(self, heap_pages: int) -> tuple[Request, Request]:
        """Return the first requests: close what was inherited, and grow the heap."""
        return (
            self._call("close_range", LIFELINE + 1, 0xFFFFFFFF, 0),
            Request(_GROW, (heap_pages * PAGE,), "brk", label=f"brk() by {heap_pages} pages"),
        )

    def _greet(self, greeting: bytes | None, request: Request = _START) -> None:
        """Note what the program says of itself when it starts.

        posix_spawn returns before the kernel has noted the new program's addresses
        (fs/binfmt_elf.c, load_elf_binary); the greeting also says that this is over.
        """
        if greeting is None:
            raise self._gone(request.step)
        if len(greeting) != _GREETING.size:
            raise SpecimenChannelError(self.pid, request.step, len(greeting))
        words: tuple[int, ...] = _GREETING.unpack(greeting)
        _, buffer, entry, self._start_brk = words
        self._note_places(buffer, entry)

    def _note_places(self, buffer: int, entry: int) -> None:
        self._buffer, self._entry = buffer, entry
        # What lies below the buffer on the stack is free.
        self._scratch = (buffer - SCRATCH) & -PAGE
        self._own_end = buffer + _REQUEST.size + _CARGO

    def _settle(self, opening: tuple[Request, Request], heap_pages: int) -> None:
        """Take the answers to the first requests."""
        closed, grown = self._receive_all(opening)
        self._note_brk(self._start_brk + grown)
        if closed < 0:  # before v5.9, or a seccomp filter that does not know it
            for descriptor in map(int, os.listdir(f"/proc/{self.pid}/fd")):
                if descriptor > LIFELINE:
                    self.syscall("close", descriptor)
        if grown != heap_pages * PAGE:
            limit = self.limit("DATA")[0]
            reason = (
                f"brk() gave no heap of {heap_pages * PAGE:#x} bytes (RLIMIT_DATA is {limit:#x})"
            )
            raise SpecimenStartError(self.pid, "brk", (reason,))

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
        # In this order: while the finalizer has not run, the pidfd was still its own.
        return not spawn.readable(self._pidfd, 0) and self._finalizer.alive

    def stop(self) -> None:
        """End the specimen and give back all it used; a second call does nothing.

        Another thread that waits for an answer gets a SpecimenGone.
        """
        self._stop("stop()")

    @property
    def own_memory(self) -> tuple[int, int]:
        """The range, its end exclusive, that its program and we use: it changes at each request."""
        return self._scratch, self._own_end

    def _require(self, step: str) -> None:
        """Raise SpecimenGone, with `step` in it, if the specimen can no longer be told anything."""
        if self._ended is not None:
            raise self._gone(step)

    def _stop(self, step: str) -> None:
        if self._ended is None:
            self._ended = SpecimenGone(self.pid, step, signal.SIGKILL, -1)
        if not self.undivided.acquire(blocking=False):
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for an answer
            self.undivided.acquire()
        try:
            self._finalizer()
        finally:
            self.undivided.release()

    def _gone(self, step: str) -> SpecimenGone:
        """Return the error for a specimen that has ended, and end what is left of it."""
        ended = self._ended
        if ended is None:
            how = spawn.how_it_ended(self._pidfd, self.deadline)
            self._ended = SpecimenGone(self.pid, step, *how)
            self._stop(step)
            return self._ended
        how = ended.signal, ended.status
        if how == (-1, -1) and self._finalizer.alive:  # it became another program
            how = spawn.how_it_ended(self._pidfd, 0)
        return SpecimenGone(self.pid, f"{ended.step}, before {step}", *how)

    def _timeout(self, step: str) -> SpecimenTimeout:
        state = _state(self.pid)
        self._stop(step)
        return SpecimenTimeout(self.pid, step, self.deadline, state)

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
        for argument in arguments:
            if not isinstance(argument, int) or not -(1 << 63) <= argument <= U64:
                raise InputError(name, "is not a 64-bit argument", repr(argument)[:80],
                                 f"{-1 << 63:#x} to {U64:#x}")  # fmt: skip
        return self._request(self._call(name, *arguments))

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

    def _call(self, name: str, *arguments: int) -> Request:
        return Request(syscalls.number(name, self.machine), arguments, name)

    def _request(self, request: Request) -> int:
        """Send a request and return its answer."""
        return self._request_all((request,))[0]

    def _request_all(self, requests: Sequence[Request]) -> list[int]:
        """Send requests without waiting between them, then take their answers in order.

        Whatever goes wrong on the way, even an interruption, ends the specimen: requests and
        answers would no longer match.
        """
        with self.undivided:
            if self._ended is not None:  # its step is written only if it is needed
                raise self._gone(requests[0].step)
            try:
                for request in requests:
                    self._send(request)
            except BaseException:
                self._stop(requests[0].step)
                raise
            return self._receive_all(requests)

    def _request_while(self, request: Request, work: Callable[[], R]) -> tuple[int, R]:
        """Send a request, do some work meanwhile; return the answer and what the work gave."""
        with self.undivided:
            try:
                self._send(request)
            except BaseException:
                self._stop(request.step)
                raise
            try:
                done = work()
            finally:
                (answer,) = self._receive_all((request,))
            return answer, done

    def _receive_all(self, requests: Sequence[Request]) -> list[int]:
        """Wait for the answers to what was sent last."""
        first = self._sequence - len(requests) + 1
        try:
            return [
                self._receive(request, first + number) for number, request in enumerate(requests)
            ]
        except BaseException:
            self._stop(requests[0].step)
            raise

    def _send(self, request: Request) -> None:
        self._sequence += 1
        message = request.pack(self._sequence)
        try:
            spawn.send(self._socket, message, self.deadline)
        except TimeoutError:
            raise self._timeout(request.step) from None
        except OSError:
            raise self._gone(request.step) from None

    def _receive(self, request: Request, sequence: int) -> int:
        """Wait for the answer to a request."""
        answer = self._next_answer(request)
        if answer is None:
            raise self._gone(request.step)
        if answer[0] != sequence:
            raise SpecimenChannelError(self.pid, request.step, _ANSWER.size)
        return answer[1]

    def _next_answer(self, request: Request) -> tuple[int, int] | None:
        """Wait for the next answer, its sequence and result; None is the end of the channel."""
        message = self._next_message(request)
        if message is None:
            return None
        if len(message) != _ANSWER.size:
            raise SpecimenChannelError(self.pid, request.step, len(message))
        sequence, result = _ANSWER.unpack(message)
        return sequence, result

    def _next_message(self, request: Request) -> bytes | None:
        """Wait for what the program sends next; None is the end of the channel."""
        try:
            message = spawn.receive(self._socket, _REQUEST.size, self.deadline)
        except TimeoutError:
            raise self._timeout(request.step) from None
        except OSError:
            raise self._gone(request.step) from None
        if message or not _hung_up(self._socket):
            return message
        return None

    @property
    def entry(self) -> int:
        """Where the first instruction of its program lies."""
        return self._entry

    @property
    def buffer(self) -> int:
        """Where its requests arrive, which is where its stack pointer points."""
        return self._buffer

    @_undivided
    def registers(self) -> Registers:
        """Return its registers as it waits for a request; it is not asked for them.

        Equivalent: `cat /proc/PID/syscall`.

        Raises UnsupportedSystem where the kernel does not show them.
        """
        if not self.alive:
            raise self._gone("registers()")
        return read_registers(self.pid, syscalls.number("read", self.machine), self.deadline)

    @_undivided
    def jump(self, registers: Registers, entry: int) -> None:
        """Load other registers as the end of a signal handler does, and go on from there.

        They must be those of its program's loop as it waits for a request, wherever that program
        lies now; `entry` is where its first instruction is. The frame of the signal that there
        never was is written over what lies above the buffer, 1136 bytes at most. The kernel wants
        room for the longest frame there is, 4688 bytes on arm64 (v5.10, access_ok).

        Equivalent: rt_sigreturn(2), which C programs cannot call.

        Raises SystemCallError with EFAULT if no frame can be written there. A specimen that finds
        no loop where it goes dies; the next request tells.
        """
        frame = signal_frame(registers, self.machine)
        self.write(self._buffer + _REQUEST.size, frame[_REQUEST.size :])
        words = struct.unpack("<6Q", frame[2 * 8 : _REQUEST.size])
        request = self._call("rt_sigreturn", *words)
        try:
            self._send(request)  # a success has no answer
        except BaseException:
            self._stop(request.step)
            raise
        self._note_places(registers.sp, entry)

    def rebuilt_from(self, brk: int) -> None:
        """Note where the heap ends, though what was asked since does not show it."""
        self._note_brk(brk)

    def _members(self, step: str) -> dict[str, int]:
        """Read the ten members in its stat.

        Raises SpecimenGone if the process is no more, SpecimenError if the kernel refuses.
        """
        try:
            return parse_members(read_whole(f"/proc/{self.pid}/stat"))
        except OSError as error:
            if not self.alive:
                raise self._gone(step) from None
            reason = f"its /proc/PID/stat cannot be read: {error.strerror}"
            raise SpecimenStartError(self.pid, "reading /proc", (reason,)) from error

    # ---- memory -----------------------------------------------------------------------------

    @_undivided
    def read(self, address: int, length: int) -> bytes:
        """Return the bytes of the specimen's memory from `address` on.

        Raises SystemCallError with EFAULT if a byte of it cannot be read.
        """
        parts = []
        try:
            while length > 0:
                want = min(length, _CHUNK)
                got = self.syscall("pwrite64", EXCHANGE, address, want, 0)
                parts.append(os.pread(self._exchange, got, 0))
                address, length = address + got, length - got
        finally:
            self._shrink_exchange()
        return b"".join(parts)

    @_undivided
    def write(self, address: int, data: bytes) -> None:
        """Write bytes into the specimen's memory.

        Raises SystemCallError with EFAULT if a byte of it cannot be written; what lies before that
        byte is written.
        """
        try:
            for start in range(0, len(data), _CHUNK):
                chunk = data[start : start + _CHUNK]
                done = 0
                while done < len(chunk):
                    spawn.write_all(self._exchange, chunk[done:])
                    left = len(chunk) - done
                    done += self.syscall("pread64", EXCHANGE, address + start + done, left, 0)
        finally:
            self._shrink_exchange()

    @_undivided
    def can_read(self, address: int, length: int) -> bool:
        """Ask the kernel to copy from the specimen's memory; tell whether all bytes could be.

        More than 1 MiB is judged by its first.
        """
        length = min(length, _CHUNK)
        try:
            return self.attempt("pwrite64", EXCHANGE, address, length, 0) == length
        finally:
            self._shrink_exchange()

    def _shrink_exchange(self) -> None:
        """Give back the file's memory; a specimen that ended has no file any more."""
        if self._ended is None and os.fstat(self._exchange).st_size > PAGE:
            os.ftruncate(self._exchange, 0)

    @_undivided
    def place(self, data: bytes) -> int:
        """Put bytes into the scratch memory below the specimen's request and return where."""
        if len(data) > SCRATCH:
            raise InputError("specimen", "bytes are too many for one call", hex(len(data)),
                             f"at most {SCRATCH:#x}")  # fmt: skip
        self.write(self._scratch, data)
        return self._scratch

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
        rights = _prot(permissions)
        address = self.syscall("mmap", at or 0, length, rights, flags, descriptor, offset)
        if descriptor < 0 and not shared:
            self.mapped |= {(address, address + -(-length // PAGE) * PAGE)}
        return address

    def unmap(self, address: int, length: int) -> None:
        """Unmap whatever lies in the range.

        Raises SystemCallError: EINVAL for an address that is not a multiple of the page size.
        """
        self.syscall("munmap", address, length)
        self.mapped = _without(self.mapped, address, address + -(-length // PAGE) * PAGE)

    def protect(self, address: int, length: int, permissions: str) -> None:
        """Change the permissions of mapped memory.

        Raises SystemCallError: ENOMEM for a hole in the range, EACCES if the file forbids it.
        """
        self.syscall("mprotect", address, length, _prot(permissions))

    def brk(self, address: int = 0) -> int:
        """Ask for a new end of the heap and return what it is then, changed or not.

        brk() has no errno: the kernel refuses by returning the present end.
        """
        answer = self.attempt("brk", address)
        low, high = (-(-end // PAGE) * PAGE for end in sorted((self._noted_brk[1], answer)))
        self.mapped = _without(self.mapped, low, high)  # it is the heap's now, or nobody's
        return answer

    # ---- limits, identity, namespaces ---------------------------------------------------------

    @_undivided
    def limit(self, resource: str) -> tuple[int, int]:
        """Return the soft and hard limit of a resource such as "DATA"; 2**64 - 1 is unlimited.

        Equivalent: `prlimit --pid PID --data`.
        """
        self.place(bytes(16))
        self.syscall("prlimit64", 0, _resource(resource), 0, self._scratch)
        soft, hard = struct.unpack("<2Q", self.read(self._scratch, 16))
        return soft, hard

    @_undivided
    def set_limit(self, resource: str, soft: int, hard: int | None = None) -> None:
        """Set the soft limit of a resource, and the hard one if given.

        Equivalent: `prlimit --pid PID --data=SOFT:HARD`.

        Raises SystemCallError: EINVAL if soft is above hard, EPERM to raise hard without
        CAP_SYS_RESOURCE.
        """
        new = struct.pack("<2Q", soft, self.limit(resource)[1] if hard is None else hard)
        self.syscall("prlimit64", 0, _resource(resource), self.place(new), 0)

    @_undivided
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

    @_undivided
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

    @_undivided
    def keep_capabilities(self, mask: int) -> None:
        """Give up every capability that is not in the mask, for good, whatever the uid.

        Equivalent: `capsh --drop=...` in a shell.

        Raises SystemCallError: EPERM for one that it does not have.
        """
        low, high = mask & U32, mask >> 32
        header = struct.pack("<2I", _CAPABILITY_VERSION_3, 0)
        data = struct.pack("<6I", low, low, 0, high, high, 0)  # effective, permitted, inheritable
        address = self.place(header + data)
        self.syscall("capset", address, address + len(header))

    # ---- files --------------------------------------------------------------------------------

    @_undivided
    def open(self, path: str | bytes, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
        """Open a file in the specimen and return the descriptor.

        Raises SystemCallError, and InputError for a path with a zero byte.
        """
        return self.syscall("openat", AT_FDCWD, self._place_name("path", path), flags, mode)

    def close(self, descriptor: int) -> None:
        """Close a descriptor of the specimen.

        Raises SystemCallError: EBADF. Raises InputError for the three that tie it to us.
        """
        check_descriptor(descriptor)
        self.syscall("close", descriptor)

    @_undivided
    def file_kind(self, descriptor: int) -> tuple[int, int]:
        """Return the mode and the device number of an open file, as fstat(2) tells them.

        Raises SystemCallError: EBADF.
        """
        with self.undivided:
            buffer = self.place(bytes(256))
            self.syscall("fstat", descriptor, buffer)
            told = self.read(buffer, 256)
        if self.machine == "aarch64":
            mode, device = struct.unpack_from("<16xI12xQ", told)
        else:
            mode, device = struct.unpack_from("<24xI12xQ", told)
        return mode, device

    def write_file(self, path: str, data: bytes) -> None:
        """Open a file that exists, write all the bytes in one call, close it."""
        descriptor = self.open(path, os.O_WRONLY)
        try:
            self.syscall("write", descriptor, self.place(data), len(data))
        finally:
            self.close(descriptor)

    @_undivided
    def memory_file(self, name: str, contents: bytes = b"", mode: int = 0o755) -> int:
        """Make a file that lives in memory and return a descriptor of it.

        Its link in /proc reads `/memfd:NAME (deleted)`.

        Raises SystemCallError: ENOSYS, EPERM or EACCES where memory files are forbidden, EINVAL for
        a name longer than 249 bytes. Raises InputError for a name with a zero byte.
        """
        address = self._place_name("memory file", name)
        descriptor = self.attempt("memfd_create", address, spawn.MFD_EXEC)
        if descriptor == -errno.EINVAL:
            descriptor = self.syscall("memfd_create", address, 0)
        elif descriptor < 0:
            raise SystemCallError(-descriptor, "memfd_create", (address, spawn.MFD_EXEC))
        for start in range(0, len(contents), SCRATCH):
            part = contents[start : start + SCRATCH]
            self.syscall("write", descriptor, self.place(part), len(part))
        self.syscall("fchmod", descriptor, mode)
        return descriptor

    @_undivided
    def file_on_own_mount(self, name: str, *, noexec: bool = False) -> int:
        """Make an executable file on a tmpfs that only this specimen sees; return a descriptor.

        The tmpfs lies over /tmp, in a mount namespace of its own.

        Equivalent: `unshare --mount`, `mount -t tmpfs -o noexec none /tmp`, and `install`.

        Raises SystemCallError: EPERM without CAP_SYS_ADMIN in its user namespace, ENOENT without a
        /tmp. Raises InputError for a name with a zero byte.
        """
        self.syscall("unshare", CLONE_NEWNS)
        names = self.place(b"none\0tmpfs\0/\0/tmp\0")
        none, kind, root, folder = names, names + 5, names + 11, names + 13
        self.syscall("mount", none, root, 0, MS_REC | MS_PRIVATE, 0)
        self.syscall("mount", none, folder, kind, MS_NOEXEC if noexec else 0, 0)
        path = b"/tmp/" + _name("file", name)
        writer = self.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        self.syscall("fchmod", writer, 0o755)
        self.close(writer)
        return self.open(path)

    def _place_name(self, what: str, name: str | bytes) -> int:
        return self.place(_name(what, name) + b"\0")

    # ---- exec ---------------------------------------------------------------------------------

    @_undivided
    def restart(
        self, arguments: Sequence[bytes], environment: Sequence[bytes], *, heap_pages: int = 4
    ) -> None:
        """Execute its own program again, without a fork: a fresh address space, the same process.

        Raises SystemCallError if execve refuses.
        """
        execve = self._execve("/proc/self/exe", arguments, environment, "its own program")
        opening = self._opening(heap_pages)
        try:
            self._send(execve)
            message = self._next_message(execve)
            # A success has no answer, but the greeting of the new program.
            if message is None or len(message) != _ANSWER.size:
                self._greet(message, execve)
                for request in opening:
                    self._send(request)
                message = b""
        except BaseException:
            self._stop(execve.step)
            raise
        if message:
            raise SystemCallError(-_ANSWER.unpack(message)[1], "execve", tuple(execve.arguments))
        self.exe_changed, self.moved, self.mapped = False, frozenset(), frozenset()
        self._settle(opening, heap_pages)

    @_undivided
    def execute(
        self, path: str, arguments: Sequence[bytes], environment: Sequence[bytes] = ()
    ) -> None:
        """Become another program, without a fork. It can then be observed, but no longer told.

        Equivalent: `exec PATH` in a shell.

        Raises SystemCallError if execve refuses, SpecimenGone if the kernel begins to load the
        program and cannot finish.
        """
        execve = self._execve(path, arguments, environment, path)
        self._close_on_exec(FD_CLOEXEC)
        try:
            self._send(execve)
            answer = self._next_answer(execve)
            if answer is None and self._was_killed():
                raise self._gone(execve.step)
        except BaseException:
            self._stop(execve.step)
            raise
        if answer is not None:
            self._close_on_exec(0)
            raise SystemCallError(-answer[1], "execve", tuple(execve.arguments))
        # End of file says that execve closed the channel: a success.
        self._ended = SpecimenGone(self.pid, execve.step, -1, -1)

    def _close_on_exec(self, flag: int) -> None:
        for descriptor in (CHANNEL, EXCHANGE):
            self.syscall("fcntl", descriptor, F_SETFD, flag)

    def _was_killed(self) -> bool:
        """Wait until a new program is loaded; the kernel kills one that it cannot load in full.

        The channel is closed before that. The auxiliary vector is written at the end (v3.18 to
        v7.3, fs/binfmt_elf.c, create_elf_tables).
        """
        deadline = time.monotonic() + self.deadline
        while not spawn.readable(self._pidfd, 0.001) and time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if any(_vector(self.pid)):
                    return False
        return spawn.how_it_ended(self._pidfd, 0)[0] > 0

    def _execve(
        self, path: str, arguments: Sequence[bytes], environment: Sequence[bytes], what: str
    ) -> Request:
        """Lay out path, argv and envp in the scratch memory; return the call of execve."""
        check_texts(arguments, environment)
        strings = [_name("path", path), *arguments, *environment]
        block, addresses = bytearray(), []
        for text in strings:
            addresses.append(self._scratch + len(block))
            block += text + b"\0"
        block += bytes(-len(block) % 8)
        argv = self._scratch + len(block)
        pointers = [*addresses[1 : 1 + len(arguments)], 0, *addresses[1 + len(arguments) :], 0]
        envp = argv + 8 * (len(arguments) + 1)
        self.place(bytes(block) + struct.pack(f"<{len(pointers)}Q", *pointers))
        call = self._call("execve", addresses[0], argv, envp)
        return call._replace(label=f"execve of {what}")

    # ---- the call -----------------------------------------------------------------------------

    @_undivided
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
        cargo = self._buffer + _REQUEST.size
        make = self._call("prctl", *call, cargo, size, arg5)
        made, brk = self._request_all((make._replace(cargo=new.pack()), self._call("brk", 0)))
        self._note_brk(brk)
        answer = -made
        self.exe_changed |= answer == 0 and new.exe_fd != NO_EXE
        return answer

    def origin_of_call(self, new: PrctlMmMap, size: int, arg5: int, pointer: int | None) -> str:
        """Return where the answer to a call would come from: here always a real one."""
        return LIVE

    @_undivided
    def set_maps(self, maps: bytes) -> bytes:
        """Make the call for an array of packed maps and return one errno byte for each.

        The array is shared with the specimen, part by part, for the time of the batch; each map
        that is accepted takes effect, the last one stays.

        Raises InputError if the length is not a multiple of 104.
        """
        count = check_maps(maps)
        part = min(count, _AT_A_TIME)
        half = -(-part * (MAP_SIZE + 1) // PAGE) * PAGE
        length = half if part == count else 2 * half
        try:
            os.ftruncate(self._exchange, length)
            array = self.map(length, shared=True, descriptor=EXCHANGE)
            errnos = self._batches(maps, array, half)
            self.unmap(array, length)
            return errnos
        finally:
            self._shrink_exchange()

    def _batches(self, maps: bytes, array: int, half: int) -> bytes:
        """Have the calls made in two halves of the array: one is filled while the other is used."""
        label = f"a batch of {len(maps) // MAP_SIZE} maps"
        view, errnos = memoryview(maps), bytearray()
        under_way: deque[tuple[Request, int]] = deque()

        def collect() -> None:
            request, sequence = under_way.popleft()
            self._receive(request, sequence)
            _, count, place = request.arguments
            errnos.extend(os.pread(self._exchange, count, place - array))

        try:
            for number, start in enumerate(range(0, len(maps), _AT_A_TIME * MAP_SIZE)):
                if len(under_way) == 2:
                    collect()
                part = view[start : start + _AT_A_TIME * MAP_SIZE]
                offset = number % 2 * half
                spawn.write_all(self._exchange, part, offset)
                first = array + offset
                batch = (first, len(part) // MAP_SIZE, first + len(part))
                request = Request(_BATCH, batch, "", label=label)
                self._send(request)
                under_way.append((request, self._sequence))
            while under_way:
                collect()
        except BaseException:
            self._stop(label)
            raise
        return bytes(errnos)

    @_undivided
    def current_map(self) -> PrctlMmMap:
        """Return the map that changes nothing: ten members from stat, brk by asking.

        Raises SpecimenError if its stat cannot be read, SpecimenGone if it ended.
        """
        step = "current_map()"
        brk, members = self._brk_while(step, lambda: self._members(step))
        return PrctlMmMap(**members, brk=brk)

    def _note_brk(self, brk: int) -> None:
        """Note where the heap ends: only a request can change it."""
        self._noted_brk = self._sequence, brk

    def _brk_while(self, step: str, work: Callable[[], R]) -> tuple[int, R]:
        """Return where the heap ends, and what some work gave that is done meanwhile."""
        sequence, brk = self._noted_brk
        if sequence == self._sequence:
            done = work()
            if not self.alive:
                raise self._gone(step)
        else:
            ask = self._call("brk", 0)._replace(label=step)
            brk, done = self._request_while(ask, work)
            self._note_brk(brk)
        return brk, done

    @_undivided
    def release_executable(self) -> None:
        """Leave no mapping of its own executable, so that `exe_fd` is accepted.

        Each file mapping of the executable is copied into anonymous memory, which is then moved
        over it, contents and permissions alike; the code that does it is among them.

        A second call does nothing.

        Raises SystemCallError if a step is refused.
        """
        snapshot = self.snapshot()
        own = snapshot.vma_at(self._entry)
        for vma in snapshot.vmas:
            if own is None or not own.path or (vma.path, vma.inode) != (own.path, own.inode):
                continue
            contents = self.read(vma.start, vma.size) if "r" in vma.permissions else b""
            copy = self.map(vma.size)
            self.write(copy, contents)
            self.protect(copy, vma.size, vma.permissions[:3])
            flags = MREMAP_MAYMOVE | MREMAP_FIXED
            self.syscall("mremap", copy, vma.size, vma.size, flags, vma.start)
            self.moved |= {vma.start}

    def snapshot(self, *, smaps: bool = False) -> Snapshot:
        """Read everything /proc says about the specimen, and ask it for its brk.

        Raises SpecimenGone if it has ended.
        """
        step = "snapshot()"
        with self.undivided:
            if not self.alive:
                raise self._gone(step)
            try:
                if self._ended is not None:  # it became another program
                    return Snapshot.of(read_parts(self.pid, smaps=smaps))
                brk, parts = self._brk_while(step, lambda: read_parts(self.pid, smaps=smaps))
                return Snapshot.of(parts, brk)
            except InputError:
                raise self._gone(step) from None

    def rebuilt(self, name: str, work: Callable[[], None]) -> None:
        """Have work make another process of it, in many steps that are known by one name.

        Where a recording stands in for the kernel, nobody works: it becomes what the work of this
        name made of a specimen like it when it was recorded.

        >>> with Specimen() as specimen:
        ...     specimen.rebuilt("a lower limit", lambda: specimen.set_limit("DATA", 1 << 20))
        ...     specimen.limit("DATA")[0]
        1048576

        Raises SpecimenGone if it has ended before, and what `work` raises.
        """
        with self.undivided:
            self._require(f"rebuilt({name!r})")
            work()

    def observed(self, name: str, look: Callable[[int], str]) -> str:
        """Look at it from outside, by a function of its process number, and return what it tells.

        Where a recording stands in for the kernel, nobody looks: the answer is what the look of
        this name told when it was recorded.

        >>> from pathlib import Path
        >>> with Specimen() as specimen:
        ...     name = specimen.observed("comm", lambda pid: Path(f"/proc/{pid}/comm").read_text())
        >>> name.endswith(chr(10))
        True

        Raises SpecimenGone if it has ended before, and what `look` raises.
        """
        with self.undivided:
            if not self.alive:
                raise self._gone(f"observed({name!r})")
            return look(self.pid)


def require_supported_system() -> None:
    """Raise UnsupportedSystem where no specimen exists for this system and machine."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise UnsupportedSystem(
            f"There is no specimen for {sys.platform} on {platform.machine()}",
            f"Linux on {' or '.join(MACHINES)} is needed to make the call.",
        )


def check_options(build: str, heap_pages: int, deadline: float) -> None:
    """Refuse options that no specimen can be started with; raise InputError."""
    if build not in BUILDS:
        raise InputError("specimen", "is not a build", repr(build)[:80], " or ".join(BUILDS))
    if not 0 < deadline <= threading.TIMEOUT_MAX:
        raise InputError("deadline", "is no time to wait", repr(deadline)[:80],
                         "seconds above 0")  # fmt: skip
    if not 0 <= heap_pages <= 1 << 16:
        raise InputError("heap_pages", "is no size of a heap", hex(heap_pages), "0 to 0x10000")


def check_descriptor(descriptor: int) -> None:
    """Refuse the three descriptors that tie a specimen to us; raise InputError."""
    if descriptor in (CHANNEL, EXCHANGE, LIFELINE):
        raise InputError("descriptor", "is what ties the specimen to us", hex(descriptor),
                         "another one")  # fmt: skip


def check_maps(maps: bytes) -> int:
    """Return how many maps lie in an array; raise InputError if it is none."""
    count, rest = divmod(len(maps), MAP_SIZE)
    if rest or not count:
        raise InputError("maps", "bytes are no array of maps", hex(len(maps)),
                         f"a multiple of {MAP_SIZE:#x} above 0")  # fmt: skip
    return count


def check_permissions(permissions: str) -> None:
    """Refuse permissions with other letters than r, w, x and -; raise InputError."""
    if not set(permissions) <= set(PROT):
        raise InputError("permissions", "is not of the form rwx", repr(permissions)[:80],
                         'letters such as "rw-"')  # fmt: skip


def check_resource(name: str) -> str:
    """Return a resource's name without RLIMIT_; raise InputError if there is none."""
    short = name.removeprefix("RLIMIT_")
    if short not in RESOURCES:
        raise InputError("limit", "is not a resource", repr(name)[:80], ", ".join(RESOURCES))
    return short


def _without(
    ranges: frozenset[tuple[int, int]], first: int, last: int
) -> frozenset[tuple[int, int]]:
    """Return what is left of ranges outside of another one; all ends are exclusive.

    >>> sorted(_without(frozenset({(1, 5), (7, 9)}), 2, 8))
    [(1, 2), (8, 9)]
    """
    below = ((start, min(end, first)) for start, end in ranges)
    above = ((max(start, last), end) for start, end in ranges)
    return frozenset((start, end) for start, end in (*below, *above) if start < end)


def _prot(permissions: str) -> int:
    check_permissions(permissions)
    return sum(PROT[letter] for letter in set(permissions))


def _resource(name: str) -> int:
    return RESOURCES.index(check_resource(name))


def _name(what: str, name: str | bytes) -> bytes:
    text = os.fsencode(name)
    if b"\0" in text:
        raise InputError(what, "holds a zero byte", repr(text)[:80], "a name without one")
    return text


def _hung_up(channel: socket.socket) -> bool:
    """Tell the end of a channel from an empty message."""
    poll = select.poll()
    poll.register(channel, 0)
    return bool(poll.poll(0))


def _vector(pid: int) -> bytes:
    """Return the auxiliary vector; that of another user's program is hidden, but it is there."""
    try:
        with open(f"/proc/{pid}/auxv", "rb", buffering=0) as file:
            return file.read()
    except PermissionError:
        return b"hidden"


def _state(pid: int) -> str:
    """Return the state of a process in words; reads nothing that waits for its memory's lock."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return parse_status(file.read()).get("State", "unknown")
    except OSError as error:
        return f"unknown ({error.strerror})"
