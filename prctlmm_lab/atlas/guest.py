"""A guest: another kernel in a virtual machine, asked over its second serial line.

QEMU is started with a kernel image and an archive that holds this Python and this package; nothing
is installed, and no disk, network or privilege is needed. The guest serves until its owner is done
with it. Nothing outlives the owner, however it ends: no process, no socket, no file.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from prctlmm_lab.atlas.forms import received, sent
from prctlmm_lab.atlas.initramfs import Interpreter, initramfs, interpreter_here
from prctlmm_lab.atlas.inside import ASKED, WHO
from prctlmm_lab.atlas.line import Unpacker, pack
from prctlmm_lab.atlas.machines import (
    PROGRAM,
    UML,
    Start,
    accelerators,
    architecture,
    distrust_kvm,
    machine_of,
    qemu,
)
from prctlmm_lab.atlas.pythons import interpreter_for
from prctlmm_lab.errors import GuestError, InputError
from prctlmm_lab.words import printable

if sys.platform == "linux":  # elsewhere no guest is started, but the module can be imported
    import fcntl

if TYPE_CHECKING:
    from prctlmm_lab.atlas.images import Image

MEMORY = 512
"""Megabytes of a guest."""
BOOT = 180.0
"""Seconds until a guest must have said that it is ready; on a busy machine it takes its time."""
SILENCE = 60.0
"""Seconds without a word, while it works, after which a guest hangs: it says every second that it
lives."""
AHEAD = 2048
"""Bytes that user-mode Linux is sent before it has taken them. A terminal that has 4096 waiting
stops reading, and there it never begins again (arch/um/drivers/line.c, line_unthrottle, v6.1)."""
_LAST_LINES = 50
"""Lines of the console that an error shows."""
_F_SETSIG = 10

Told = Callable[[Any], None]


class Guest:
    """A kernel that runs in a virtual machine and is asked by name.

    It is started at once and serves until `stop`, the end of a `with`, or the end of its owner.
    One request is served at a time; other threads wait for their turn.

    Raises UnsupportedSystem without QEMU, or where no Python can be given to it; GuestError if it
    does not start.
    """

    def __init__(
        self,
        image: Image,
        *,
        levels: int = 4,
        memory: int = MEMORY,
        cpus: int = 1,
        deadline: float = BOOT,
        python: Interpreter | None = None,
    ) -> None:
        machine_of(image, levels)
        if image.machine != UML:
            qemu(image.machine)
        self.image, self.levels = image, levels
        self.name = f"Linux {image.release}"
        self._lock, self._number = threading.RLock(), 0
        of_programs = architecture(image.machine)
        python = python or interpreter_for(of_programs)
        archive = initramfs(of_programs, python=python)
        program = str((python or interpreter_here()).program)
        wanted = Start(image, levels, memory, cpus, archive, program)
        *fast, last = accelerators(image, levels)
        for self.accelerator in fast:
            try:
                self._boot(wanted, deadline)
                return
            except GuestError:
                distrust_kvm()
        self.accelerator = last
        self._boot(wanted, deadline)

    def _boot(self, wanted: Start, deadline: float) -> None:
        self._start(wanted)
        self._ready = self._wait_until_ready(deadline)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "alive" if self.alive else "ended"
        return f"<Guest {self.name}, {self.levels}-level page tables, {state}>"

    @property
    def alive(self) -> bool:
        """True until it has ended."""
        return self._finalizer.alive and self._process.poll() is None

    @property
    def version(self) -> str:
        """The kernel's `uname -v`."""
        return str(self._ready["version"])

    @property
    def pid(self) -> int:
        """The process that QEMU is."""
        return self._process.pid

    def stop(self) -> None:
        """End it at once; there is nothing to be saved in it but what its console says."""
        self.console()
        self._finalizer()

    # ---- asking -------------------------------------------------------------------------------

    def ask(
        self,
        name: str,
        who: str = "root",
        *,
        on_told: Told | None = None,
        deadline: float | None = None,
        **arguments: Any,
    ) -> Any:
        """Have the guest do something, and return what came of it.

        `name` is a key of `inside.ASKED`, `who` is "root", with all capabilities, or "user", uid
        65534 without any. `on_told` gets what is told on the way. After `deadline` seconds, if any,
        the guest counts as hanging. A KeyboardInterrupt interrupts the work in the guest.

        Raises what the work raises, of the lab's own errors; GuestError if the guest crashes,
        hangs or is gone, and for a mistake of ours in it.
        """
        for what, value, known in (("who", who, WHO), ("what", name, tuple(ASKED))):
            if value not in known:
                raise InputError(what, "is unknown to a guest", repr(value)[:80], ", ".join(known))
        with self._lock:
            if not self.alive:
                raise GuestError(self.name, name, "is gone", self.console())
            self._number += 1
            forms = {key: sent(value) for key, value in arguments.items()}
            request = {"ask": self._number, "what": name, "who": who, "arguments": forms}
            return self._served(name, request, on_told, deadline)

    def _served(
        self, name: str, request: dict[str, Any], on_told: Told | None, deadline: float | None
    ) -> Any:
        """Send a request and listen until it is answered."""
        end = None if deadline is None else time.monotonic() + deadline
        try:
            self._send(request, name)
            try:
                return self._answer(name, request["ask"], on_told, end)
            except KeyboardInterrupt:
                if self._answered:
                    raise
                self._send({"stop": request["ask"]}, name)
                return self._answer(name, request["ask"], on_told, time.monotonic() + SILENCE)
        finally:
            if not self._answered:
                self.stop()  # what it still says would be taken for another answer

    def _answer(self, name: str, number: int, on_told: Told | None, end: float | None) -> Any:
        """Listen until a request is answered."""
        for message in self._messages(name, end):
            if message.get("id") != number:
                continue
            self._answered = not {"answer", "error", "bug", "interrupted"}.isdisjoint(message)
            if "told" in message and on_told is not None:
                on_told(received(message["told"]))
            elif "answer" in message:
                return received(message["answer"])
            elif "error" in message:
                raise received(message["error"])
            elif "bug" in message:
                raise GuestError(self.name, name, "failed", str(message["bug"]))
            elif "interrupted" in message:
                raise KeyboardInterrupt
        raise AssertionError("messages end with an error")

    def _send(self, message: dict[str, Any], name: str) -> None:
        self._answered = False
        data = memoryview(pack(message))
        end = time.monotonic() + SILENCE
        while data:
            room = len(data) if self.accelerator != PROGRAM else self._taken + AHEAD - self._sent
            awaited = select.POLLOUT if room else select.POLLIN
            if not _wait(self._line, awaited, end - time.monotonic()):
                raise self._error(name, "hangs: it takes no request")
            if not room:
                self._hear(name)
                continue
            try:
                sent = self._line.send(data[:room], socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                raise self._ended(name) from None
            self._sent += sent
            data = data[sent:]

    def _messages(self, name: str, end: float | None, silence: float = 0) -> Iterator[Any]:
        """Yield what the guest says, until `end` or until it is silent for too long."""
        silence = silence or SILENCE
        heard = time.monotonic()
        while True:
            while self._inbox:
                yield self._inbox.popleft()
            limits = [heard + silence] if end is None else [heard + silence, end]
            if not _wait(self._line, select.POLLIN, min(limits) - time.monotonic()):
                late = end is not None and time.monotonic() >= end
                raise self._error(name, "is not done in time" if late else "hangs")
            if self._hear(name):
                heard = time.monotonic()

    def _hear(self, name: str) -> bool:
        """Take what has come over the line, if anything has."""
        try:
            data = self._line.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            raise self._ended(name)
        for message in self._unpacker.feed(data):
            if "taken" in message:
                self._taken = message["taken"]
            else:
                self._inbox.append(message)
        if self._unpacker.damaged:
            raise self._error(name, "sent a damaged answer")
        return True

    def _wait_until_ready(self, deadline: float) -> dict[str, Any]:
        try:
            for message in self._messages("its start", time.monotonic() + deadline, deadline):
                if "ready" in message:
                    ready: dict[str, Any] = message["ready"]
                    return ready
        except BaseException:
            self.stop()
            raise
        raise AssertionError

    # ---- what becomes of it -------------------------------------------------------------------

    def console(self) -> str:
        """Return the last lines of what its kernel printed, and of what QEMU said.

        Control characters are written as escapes.
        """
        if self._finalizer.alive:
            self._last_words = _tail(self._console) + _tail(self._complaints)
        return self._last_words

    def _error(self, step: str, how: str) -> GuestError:
        return GuestError(self.name, step, how, self.console().rstrip("\n"))

    def _ended(self, step: str) -> GuestError:
        """Return the error for a guest whose line has ended: wait for QEMU, and look why."""
        try:
            status = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return self._error(step, "closed its line")
        if self.accelerator == PROGRAM:
            return self._error(step, "crashed")
        if status < 0:
            return self._error(step, f"was ended ({signal.Signals(-status).name} to QEMU)")
        if b"terminating on signal" in os.pread(self._complaints, 1 << 16, 0):
            return self._error(step, "was ended by another process")
        return self._error(step, "crashed" if status == 0 else "could not be run by QEMU")

    # ---- its process --------------------------------------------------------------------------

    def _start(self, wanted: Start) -> None:
        """Start it, tied to this process: when our end of the lifeline closes, it is killed."""
        with contextlib.ExitStack() as undo:
            self._line, theirs = socket.socketpair()
            undo.callback(self._line.close)
            self._console = _nameless_file("console")
            undo.callback(os.close, self._console)
            self._complaints = _nameless_file("complaints")
            undo.callback(os.close, self._complaints)
            its_end, lifeline = os.pipe2(os.O_CLOEXEC)
            undo.callback(os.close, lifeline)
            try:
                # The shell waits until it is tied, and makes no core file of what fails.
                script = 'ulimit -c 0; read -r go && exec "$@"'
                command = wanted.command(self.accelerator, self._console)
                self._process: subprocess.Popen[bytes] = subprocess.Popen(
                    ["/bin/sh", "-c", script, "sh", *command],
                    stdin=theirs.fileno(), stdout=self._complaints, stderr=self._complaints,
                    pass_fds=(its_end, self._console), cwd="/", start_new_session=True,
                )  # fmt: skip
                undo.callback(_kill, self._process)
                _tie(self._process.pid, its_end)
                self._line.send(b"go\n")
            finally:
                theirs.close()
                os.close(its_end)
            undo.pop_all()
        self._unpacker, self._last_words, self._answered = Unpacker(), "", True
        self._inbox: deque[Any] = deque()
        self._sent = self._taken = 0
        descriptors = (lifeline, self._console, self._complaints)
        self._finalizer: weakref.finalize[Any, Guest] = weakref.finalize(
            self, _end, os.getpid(), self._process, self._line, descriptors
        )


# ---- around its process -----------------------------------------------------------------------


def _tie(pid: int, its_end: int) -> None:
    """Let a process and its group end with us: the end of the lifeline is a SIGKILL to them."""
    fcntl.fcntl(its_end, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(its_end, fcntl.F_SETOWN, -pid)
    fcntl.fcntl(its_end, fcntl.F_SETFL, os.O_ASYNC)


def _end(
    owner: int, process: subprocess.Popen[bytes], line: socket.socket, descriptors: tuple[int, ...]
) -> None:
    """Kill, reap and close; in a process that was forked from the owner only close."""
    if os.getpid() == owner:
        _kill(process)
    else:
        process.returncode = 0  # not ours to wait for
    line.close()
    for descriptor in descriptors:
        os.close(descriptor)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started; user-mode Linux runs its programs in others."""
    if process.returncode is None:  # not reaped yet, so the number is still its own
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


def _nameless_file(name: str) -> int:
    """Return a file in memory that has no place in any folder."""
    return os.memfd_create(f"guest-{name}", os.MFD_CLOEXEC)


def _tail(descriptor: int, size: int = 1 << 14) -> str:
    """Return the last lines of a file, everything in them visible."""
    length = os.fstat(descriptor).st_size
    data = os.pread(descriptor, size, max(0, length - size))
    text = data.replace(b"\r", b"").decode("utf-8", "surrogateescape")
    lines = [printable(line).rstrip() for line in text.split("\n")]
    return "".join(f"{line}\n" for line in lines[-_LAST_LINES - 1 :] if line)


def _wait(line: socket.socket, event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(line, event)
    return bool(poll.poll(max(0.0, seconds) * 1000))
