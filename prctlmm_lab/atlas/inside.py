"""The program inside a guest, process 1: serve what is asked over the line, one at a time.

What it can be asked stands in a table here; nothing that comes over the line is evaluated. The work
is done by two other processes, one as root with all capabilities and one as uid 65534 without any,
so that it stays alive and can say so, whatever becomes of them.

Requests: `{"ask": number, "what": name, "who": name, "arguments": {...}}` and `{"stop": number}`.
Answers, each with `id`, the number: `told` (on the way), `answer`, `error`, `bug`, `interrupted`,
`alive`. User-mode Linux also says how many bytes it has `taken`. When the line ends, the machine
does.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from prctlmm_lab.atlas.line import Unpacker, pack

if TYPE_CHECKING:
    from collections.abc import Mapping

ORDINARY = 65534
"""The uid and gid of who is called "user"."""
WHO = ("root", "user")
_BREATH = 1.0
"""Seconds after which work that goes on is said to."""
_PIECE = 1 << 16

Say = Callable[[Any], None]
"""Tells something on the way."""


# ---- what can be asked ------------------------------------------------------------------------


def _facts(say: Say) -> Any:
    from prctlmm_lab.specimen.probe import facts_here

    return facts_here()


def _doctor(say: Say) -> Any:
    from prctlmm_lab.specimen.probe import doctor

    return doctor()


def _run(say: Say, *, experiment: Any, tell_request: bool = False) -> Any:
    from prctlmm_lab.experiments.experiment import run

    return run(experiment, on_request=say if tell_request else None)


def _fuzz(say: Say, **options: Any) -> Any:
    from prctlmm_lab.experiments.differential import Tally, fuzz

    last = time.monotonic()

    def tell(tally: Tally) -> None:
        nonlocal last
        if time.monotonic() - last >= _BREATH / 2:
            last = time.monotonic()
            say(tally)

    return fuzz(**options, on_progress=tell)


def _sweep(say: Say, *, wanted: Any) -> Any:
    from prctlmm_lab.experiments.sweep import sweep

    return sweep(wanted)


def _conformance(say: Say, *, groups: Any) -> None:
    from prctlmm_lab.experiments.conformance import conformance

    for told in conformance(groups):
        say(told)


def _claims(say: Say, *, ids: tuple[str, ...], reads: int | None, patience: float) -> None:
    from prctlmm_lab.experiments.claims import CLAIM, settle_all
    from prctlmm_lab.experiments.claims.races import with_reads
    from prctlmm_lab.specimen.probe import facts_here

    wanted: Any = tuple(CLAIM[name] for name in ids)
    if reads:
        wanted = with_reads(wanted, reads)
    settle_all(wanted, facts_here(), on_finding=say, deadline=patience)


def _restore(say: Say, *, files: Any) -> Any:
    """Restore an image on this kernel, and compare the living process with it."""
    from prctlmm_lab.errors import InputError
    from prctlmm_lab.restore.checkpoint import checkpoint
    from prctlmm_lab.restore.equality import equal
    from prctlmm_lab.restore.folder import from_parts
    from prctlmm_lab.restore.restorer import MapRefused, restore

    image = from_parts(files)
    try:
        with restore(image) as restored:
            return tuple(map(_of_another_machine, equal(image, checkpoint(restored))))
    except MapRefused as refused:
        raise InputError("restore", f"was refused: {refused}") from None


def _of_another_machine(row: Any) -> Any:
    """Name the reason for what another kernel, or its machine, tells otherwise of any process."""
    from dataclasses import replace

    if row.fine or not row.what.startswith(("stat ", "statm ", "status ", "maps")):
        return row
    return replace(row, explanation="another kernel on another machine tells it")


def _panic(say: Say) -> None:
    """Crash the kernel, as root: the way to see what becomes of a guest then."""
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")


ASKED: Mapping[str, Callable[..., Any]] = {
    "facts": _facts,
    "doctor": _doctor,
    "run": _run,
    "fuzz": _fuzz,
    "sweep": _sweep,
    "conformance": _conformance,
    "claims": _claims,
    "restore": _restore,
    "panic": _panic,
}
"""What a guest can be asked, by name."""


# ---- process 1 --------------------------------------------------------------------------------


def main() -> NoReturn:
    """Be process 1: set the machine up, serve, and end the machine; never return."""
    try:
        _mount_all()
        line = _open_line(sys.argv[1])
        _Server(line).serve()
    except BaseException:
        traceback.print_exc()  # on the console, the last that is heard
    finally:
        _end_machine()


def _mount_all() -> None:
    """Mount what programs expect; what a kernel does not have is done without."""
    for kind, where in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"),
                        ("securityfs", "/sys/kernel/security"), ("tmpfs", "/tmp"),
                        ("tmpfs", "/dev/shm")):  # fmt: skip
        try:
            if where == "/dev/shm":
                os.mkdir(where, 0o1777)
            _libc().mount(kind.encode(), where.encode(), kind.encode(), 0, None)
            if kind == "tmpfs":
                os.chmod(where, 0o1777)
        except OSError as error:
            print(f"{where}: {error}", file=sys.stderr)


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _open_line(path: str) -> int:
    """Open the serial line, so that bytes pass as they are."""
    import termios
    import tty

    line = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    tty.setraw(line)
    settings = termios.tcgetattr(line)
    settings[2] |= termios.CLOCAL | termios.CREAD
    settings[4] = settings[5] = termios.B115200
    termios.tcsetattr(line, termios.TCSANOW, settings)
    return line


def _end_machine() -> NoReturn:
    """End the machine; there is no disk to be written to.

    One that QEMU runs ends when it reboots. User-mode Linux would start again, so it goes off.
    """
    import ctypes

    reboot, off = 0x01234567, 0x4321FEDC
    _libc().reboot(ctypes.c_int(off if _is_user_mode() else reboot))
    while True:
        signal.pause()


def _is_user_mode() -> bool:
    """Tell whether this is user-mode Linux."""
    with open("/proc/cpuinfo") as told:
        return "User Mode Linux" in told.read()


class _Server:
    """Takes requests from the line, gives them to workers, and passes on what those say."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.taken = 0
        self.is_paced = _is_user_mode()
        self.workers: dict[str, _Worker] = {}
        self.busy: tuple[int, _Worker] | None = None

    def serve(self) -> None:
        """Serve until the line ends."""
        unpacker = Unpacker()
        self.tell({"ready": {"release": os.uname().release, "version": os.uname().version,
                             "machine": os.uname().machine}})  # fmt: skip
        while True:
            poll = select.poll()
            poll.register(self.line, select.POLLIN)
            if self.busy:
                poll.register(self.busy[1].ours, select.POLLIN)
            ready = [descriptor for descriptor, _ in poll.poll(_BREATH * 1000)]
            if not ready and self.busy:
                self.tell({"id": self.busy[0], "alive": time.monotonic()})
            if self.busy and self.busy[1].ours.fileno() in ready:
                self._pass_on()
            if self.line in ready:
                data = os.read(self.line, _PIECE)
                if not data:
                    return
                self.taken += len(data)
                if self.is_paced:
                    self.tell({"taken": self.taken})
                for message in unpacker.feed(data):
                    self._take(message)
            self._reap()

    def tell(self, message: Any) -> None:
        self.write(pack(message))

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.line, view) :]

    def _take(self, message: Any) -> None:
        if "stop" in message:
            if self.busy and self.busy[0] == message["stop"]:
                os.kill(self.busy[1].pid, signal.SIGINT)
            return
        who = message["who"]
        worker = self.workers.get(who)
        if worker is None:
            worker = self.workers[who] = _Worker(who, self)
        self.busy = message["ask"], worker
        worker.ours.sendall(pack(message))

    def _pass_on(self) -> None:
        """Pass on whole lines only: what we say ourselves must not come in between."""
        assert self.busy is not None
        number, worker = self.busy
        data = worker.ours.recv(_PIECE)
        *lines, worker.rest = (worker.rest + data).split(b"\n")
        for line in lines:
            if line:
                self.write(line + b"\n")
            else:  # an empty line: the request is served
                self.busy = None
        if not data:
            self.busy = None
            _, status = os.waitpid(worker.pid, 0)
            self._forget(worker)
            how = os.waitstatus_to_exitcode(status)
            self.tell(
                {"id": number, "bug": f"the process that worked as {worker.who} ended: {how}"}
            )

    def _forget(self, worker: _Worker) -> None:
        worker.ours.close()
        self.workers = {who: each for who, each in self.workers.items() if each is not worker}

    def _reap(self) -> None:
        """Collect what was left to us: process 1 inherits every orphan."""
        alive = {worker.pid: worker for worker in self.workers.values()}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            worker = alive.get(ended.si_pid)
            if worker is not None:
                if self.busy and self.busy[1] is worker:
                    return  # its last words first
                self._forget(worker)
            os.waitpid(ended.si_pid, 0)


class _Worker:
    """A process that does what is asked, as one user."""

    def __init__(self, who: str, server: _Server) -> None:
        self.who = who
        self.rest = b""
        self.ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.ours.close()
                os.close(server.line)
                for worker in server.workers.values():
                    worker.ours.close()
                _work(who, theirs)
            finally:
                os._exit(1)
        theirs.close()


def _work(who: str, channel: socket.socket) -> None:
    """Serve requests as one user, for ever."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if who == "user":
        os.setgroups([])
        os.setresgid(ORDINARY, ORDINARY, ORDINARY)
        os.setresuid(ORDINARY, ORDINARY, ORDINARY)
    os.chdir("/tmp")
    from prctlmm_lab.specimen.recording import mode

    mode.forbid()
    unpacker = Unpacker()
    while data := channel.recv(_PIECE):
        for message in unpacker.feed(data):
            channel.sendall(pack(_served(message, channel)) + b"\n")


def _served(message: Any, channel: socket.socket) -> dict[str, Any]:
    """Do what a request asks and return what answers it."""
    from prctlmm_lab.atlas.forms import received, sent
    from prctlmm_lab.errors import LabError

    number = message["ask"]

    def say(value: Any) -> None:
        channel.sendall(pack({"id": number, "told": sent(value)}))

    try:
        asked = ASKED[message["what"]]
        arguments = {name: received(form) for name, form in message["arguments"].items()}
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            answer = asked(say, **arguments)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return {"id": number, "answer": sent(answer)}
    except KeyboardInterrupt:
        return {"id": number, "interrupted": True}
    except LabError as error:
        return {"id": number, "error": sent(error)}
    except BaseException:
        return {"id": number, "bug": traceback.format_exc()}
