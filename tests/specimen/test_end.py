"""How a specimen ends, in every way that is not asked for: a clear error, and nothing left."""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prctlmm_lab.errors import (
    InputError,
    LabError,
    SpecimenChannelError,
    SpecimenGone,
    SpecimenStartError,
    SpecimenTimeout,
    SystemCallError,
    UnsupportedSystem,
)
from prctlmm_lab.kernel.procfs import Unreadable
from prctlmm_lab.specimen.process import PAGE, Request, Specimen
from prctlmm_lab.specimen.spawn import CHANNEL
from tests.conftest import StartSpecimen, children, descriptors, left_behind
from tests.needs import needs_tool
from tests.ordinary_user import ROOT

SHORT = 0.2
"""A deadline for what never answers."""


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check after each test, not only after the module."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = children(), descriptors()
    yield
    assert left_behind(before) == ([], [])
    assert os.listdir(tmp_path / "temporary") == []


def ended(specimen: Specimen) -> None:
    """Wait until the process has ended, however it did."""
    descriptor = os.pidfd_open(specimen.pid)
    try:
        assert select.select([descriptor], [], [], 10)[0]
    finally:
        os.close(descriptor)


# ---- asked for --------------------------------------------------------------------------------


def test_stopping_ends_it_and_twice_does_no_harm(build: str) -> None:
    specimen = Specimen(build)
    assert specimen.alive
    assert repr(specimen) == f"<Specimen {build} pid {specimen.pid} alive>"
    specimen.stop()
    specimen.stop()
    assert not specimen.alive
    assert repr(specimen) == f"<Specimen {build} pid {specimen.pid} ended>"
    assert not os.path.exists(f"/proc/{specimen.pid}")


def test_the_end_of_a_block_ends_it_whatever_happened() -> None:
    with pytest.raises(ZeroDivisionError), Specimen() as specimen:
        _ = 1 // 0
    assert not specimen.alive


def test_one_that_nobody_holds_is_ended() -> None:
    specimen = Specimen()
    pid, circle = specimen.pid, [specimen]
    circle.append(circle)  # type: ignore[arg-type]
    del specimen, circle
    gc.collect()
    assert not os.path.exists(f"/proc/{pid}")


def test_the_end_of_python_ends_it() -> None:
    code = """
from prctlmm_lab.specimen.process import Specimen
specimen = Specimen()
print(specimen.pid)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    assert not os.path.exists(f"/proc/{int(done.stdout)}")


def test_a_forked_process_leaves_its_parents_specimen_alone() -> None:
    code = """
import os, sys
from prctlmm_lab.specimen.process import Specimen
specimen = Specimen()
if not (child := os.fork()):
    sys.exit(0)
os.waitpid(child, 0)
print(specimen.alive, specimen.syscall("getpid") == specimen.pid)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("True True\n", "")


# ---- killed, crashed, left --------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, 40])
def test_one_that_is_killed_from_outside(specimen: Specimen, number: int) -> None:
    os.kill(specimen.pid, number)
    ended(specimen)
    assert not specimen.alive
    with pytest.raises(SpecimenGone) as caught:
        specimen.syscall("getpid")
    name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
    assert str(caught.value) == f"specimen {specimen.pid} was killed by {name} at getpid()"
    assert (caught.value.signal, caught.value.status) == (number, -1)
    with pytest.raises(SpecimenGone, match=rf"killed by {name} at getpid\(\), before getuid\(\)"):
        specimen.syscall("getuid")
    with pytest.raises(SpecimenGone):
        specimen.snapshot()


def test_one_that_is_killed_is_gone_for_a_snapshot_too(specimen: Specimen) -> None:
    os.kill(specimen.pid, signal.SIGKILL)
    ended(specimen)
    with pytest.raises(SpecimenGone, match=r"was killed by SIGKILL at snapshot\(\)$"):
        specimen.snapshot()


def test_one_that_is_killed_while_it_works(start_specimen: StartSpecimen) -> None:
    specimen = start_specimen(deadline=10)
    threading.Timer(0, wait_and_kill, [specimen.pid]).start()
    with pytest.raises(SpecimenGone, match=r"was killed by SIGKILL at pause\(\)$"):
        specimen.syscall("pause")


def wait_and_kill(pid: int) -> None:
    """Kill a process once it waits in the call that was asked for."""
    in_pause = "34 "
    deadline = time.monotonic() + 10
    while not Path(f"/proc/{pid}/syscall").read_text().startswith(in_pause):
        assert time.monotonic() < deadline
    os.kill(pid, signal.SIGKILL)


def test_one_that_unmaps_its_own_code(specimen: Specimen) -> None:
    code = specimen.current_map().start_code
    with pytest.raises(SpecimenGone) as caught:
        specimen.unmap(code, PAGE)
    assert str(caught.value) == (
        f"specimen {specimen.pid} was killed by SIGSEGV at munmap({code:#x}, 0x1000)"
    )


def test_one_that_exits(specimen: Specimen) -> None:
    with pytest.raises(SpecimenGone) as caught:
        specimen.syscall("exit_group", 7)
    assert str(caught.value) == f"specimen {specimen.pid} exited with status 7 at exit_group(0x7)"
    assert (caught.value.signal, caught.value.status) == (0, 7)


def test_one_whose_batch_answers_cannot_be_stored(specimen: Specimen) -> None:
    array = specimen.place(bytes(104))
    with pytest.raises(SpecimenGone, match="was killed by SIGSEGV at a batch of 1 maps"):
        specimen._request(Request((1 << 64) - 1, (array, 1, 0), "", label="a batch of 1 maps"))


def test_one_that_somebody_else_reaped(specimen: Specimen) -> None:
    os.kill(specimen.pid, signal.SIGKILL)
    os.waitpid(specimen.pid, 0)
    with pytest.raises(SpecimenGone, match=rf"^specimen {specimen.pid} is gone at getpid\(\)$"):
        specimen.syscall("getpid")


# ---- silent -----------------------------------------------------------------------------------


def test_one_that_is_stopped(build: str, start_specimen: StartSpecimen) -> None:
    specimen = start_specimen(build, deadline=SHORT)
    os.kill(specimen.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, specimen.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(SpecimenTimeout) as caught:
        specimen.syscall("getpid")
    assert (caught.value.seconds, caught.value.state) == (SHORT, "T (stopped)")
    assert str(caught.value) == (
        f"specimen {specimen.pid} did not answer within 0.2 s at getpid() "
        "(its state was T (stopped)); it was ended"
    )
    assert not specimen.alive
    with pytest.raises(SpecimenGone, match=r"was killed by SIGKILL at getpid\(\), before getuid"):
        specimen.syscall("getuid")


@pytest.mark.parametrize(
    "action",
    [
        lambda s: s.restart([b"x"], []),
        lambda s: s.execute("/bin/true", [b"true"]),
        lambda s: s.set_maps(bytes(104)),
        lambda s: s.brk(),
    ],
)
def test_nothing_waits_for_one_that_is_stopped(
    start_specimen: StartSpecimen, action: Callable[[Specimen], object]
) -> None:
    specimen = start_specimen(deadline=SHORT)
    os.kill(specimen.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, specimen.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(SpecimenTimeout):
        action(specimen)
    assert not specimen.alive


def test_one_that_is_stopped_is_seen_all_the_same(start_specimen: StartSpecimen) -> None:
    specimen = start_specimen(deadline=SHORT)
    own = specimen.current_map()
    os.kill(specimen.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, specimen.pid, os.WSTOPPED | os.WNOWAIT)
    snapshot = specimen.snapshot()  # nothing was told since its brk was heard
    assert not isinstance(snapshot.stat, Unreadable)
    assert snapshot.stat.state == "T"
    assert snapshot.brk == own.brk


def test_one_that_is_stopped_can_be_ended(specimen: Specimen) -> None:
    os.kill(specimen.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, specimen.pid, os.WSTOPPED | os.WNOWAIT)
    specimen.stop()
    assert not specimen.alive


def test_a_call_that_never_returns(start_specimen: StartSpecimen) -> None:
    for call in (("pause",), ("read", CHANNEL, 0, 0), ("ppoll", 0, 0, 0, 0, 0)):
        specimen = start_specimen(deadline=SHORT)
        if call[0] == "read":
            call = ("read", CHANNEL, specimen.current_map().start_brk, 64)
        with pytest.raises(SpecimenTimeout, match=r"its state was S \(sleeping\)"):
            specimen.syscall(*call)
        assert not specimen.alive


def test_one_that_is_not_to_be_found_any_more(
    start_specimen: StartSpecimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    specimen = start_specimen(deadline=SHORT)
    pid = specimen.pid
    specimen.pid = (1 << 22) + 1  # no process has this number
    with pytest.raises(SpecimenTimeout, match="its state was unknown"):
        specimen.syscall("pause")
    assert not os.path.exists(f"/proc/{pid}")


# ---- a channel that carries something else ----------------------------------------------------


@pytest.mark.parametrize("length", [1, 15, 16, 17, 64, 4096])
def test_one_that_writes_into_its_channel(specimen: Specimen, length: int) -> None:
    address = specimen.place(b"\xff" * length)
    with pytest.raises(SpecimenChannelError) as caught:
        specimen.syscall("write", CHANNEL, address, length)
    assert caught.value.received == min(length, 64)
    assert "bytes that are no answer to write(0x3, " in str(caught.value)
    assert not specimen.alive
    with pytest.raises(SpecimenGone):
        specimen.syscall("getpid")


def test_an_empty_message_is_not_the_end(specimen: Specimen) -> None:
    with pytest.raises(SpecimenChannelError, match="carried 0x0 bytes"):
        specimen.syscall("sendto", CHANNEL, 0, 0, 0, 0, 0)


def test_a_flood_is_noticed_by_the_next_request(specimen: Specimen) -> None:
    text = specimen.place(b"\xff" * 16)
    with pytest.raises(SpecimenChannelError):
        specimen._request_all([specimen._call("write", CHANNEL, text, 16)] * 20)


def test_one_that_closes_its_channel(specimen: Specimen) -> None:
    with pytest.raises(SpecimenGone, match=r"exited with status 0 at close\(0x3\)$"):
        specimen.syscall("close", CHANNEL)


def test_one_that_shuts_its_channel(specimen: Specimen) -> None:
    with pytest.raises(SpecimenGone, match=r"exited with status 0 at shutdown\(0x3, 0x2\)$"):
        specimen.syscall("shutdown", CHANNEL, socket.SHUT_RDWR)


# ---- interrupted ------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_an_interruption_ends_it(
    specimen: Specimen, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    name = {"before": "_send", "between": "_receive", "after": "_next_answer"}[moment]
    monkeypatch.setattr(specimen, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        specimen.syscall("getpid")
    assert not specimen.alive
    monkeypatch.undo()
    with pytest.raises(SpecimenGone, match=r"at getpid\(\), before getuid\(\)$"):
        specimen.syscall("getuid")


@pytest.mark.parametrize("action", ["restart", "execute"])
def test_an_interruption_while_it_executes_ends_it(
    specimen: Specimen, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    original = specimen._next_message

    def interrupt(request: Request) -> bytes | None:
        if request.step.startswith("execve"):
            raise KeyboardInterrupt
        return original(request)

    monkeypatch.setattr(specimen, "_next_message", interrupt)
    arguments = {"restart": ([b"x"], []), "execute": (needs_tool("true"), [b"x"])}
    with pytest.raises(KeyboardInterrupt):
        getattr(specimen, action)(*arguments[action])
    assert not specimen.alive


def test_a_real_interruption_while_it_waits(specimen: Specimen) -> None:
    main = threading.main_thread().ident
    assert main is not None
    thread = threading.Thread(
        target=interrupt_once_it_waits, args=(main, threading.get_native_id())
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            specimen.syscall("pause")
    finally:
        thread.join(10)
        signal.signal(signal.SIGINT, before)
    assert not specimen.alive


def interrupt_once_it_waits(thread: int, task: int) -> None:
    """Send SIGINT to a thread that waits in poll(2) or recvfrom(2)."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if Path(f"/proc/self/task/{task}/syscall").read_text().split()[0] in ("7", "45", "271"):
            return signal.pthread_kill(thread, signal.SIGINT)
    raise AssertionError("it does not wait")


# ---- orphaned ---------------------------------------------------------------------------------


WHILE_IT = {
    "waits for a request": "",
    "is stopped": "os.kill(specimen.pid, signal.SIGSTOP)",
    "is another program": "specimen.execute('/bin/sleep', [b'sleep', b'60'])",
    "has another identity": "os.geteuid() or specimen.become(65534)",
    "sleeps in a call": "threading.Thread(target=specimen.syscall, args=('pause',)).start()",
}


@pytest.mark.parametrize("state", WHILE_IT)
def test_one_whose_parent_is_killed_ends_by_itself(state: str) -> None:
    code = f"""
from prctlmm_lab.specimen.process import Specimen
import os, signal, threading
specimens = [Specimen(build) for build in ("static", "static-pie")]
for specimen in specimens:
    {WHILE_IT[state] or "pass"}
print(*(specimen.pid for specimen in specimens), flush=True)
signal.pause()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pidfds = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], 10)[0], "the specimen outlives its parent"
            os.close(pidfd)


# ---- another program --------------------------------------------------------------------------


def test_another_program_can_be_observed_but_not_told(start_specimen: StartSpecimen) -> None:
    specimen = start_specimen()
    specimen.execute(needs_tool("sleep"), [b"a name", b"60"], [b"X=1"])
    snapshot = specimen.snapshot()
    assert (snapshot.cmdline, snapshot.environ, snapshot.brk) == (b"a name\x0060\0", b"X=1\0", None)
    assert specimen.alive
    # Nothing of ours but the lifeline, which ends it when we end.
    assert sorted(os.listdir(f"/proc/{specimen.pid}/fd")) == ["0", "1", "2", "5"]
    with pytest.raises(SpecimenGone, match=r"is gone at execve of .*sleep, before getpid\(\)$"):
        specimen.syscall("getpid")
    assert specimen.alive  # the question did it no harm
    os.kill(specimen.pid, signal.SIGTERM)
    ended(specimen)
    with pytest.raises(SpecimenGone, match=r"was killed by SIGTERM at execve of .*, before snap"):
        specimen.snapshot()


def test_another_program_may_end_at_once(start_specimen: StartSpecimen) -> None:
    for _ in range(20):
        specimen = start_specimen()
        specimen.execute(needs_tool("true"), [b"true"])
        ended(specimen)
        with pytest.raises(SpecimenGone, match=r"exited with status 0 at execve of .*true, before"):
            specimen.snapshot()


def test_a_program_that_cannot_be_executed(specimen: Specimen, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    for path, name in ((str(tmp_path / "text"), "ENOEXEC"), (str(tmp_path / "none"), "ENOENT")):
        with pytest.raises(SystemCallError, match=rf"^execve\(.*{name}"):
            specimen.execute(path, [b"x"])
        assert specimen.set_map(specimen.current_map()) == 0
    specimen.restart([b"still here"], [])  # its channel was not left to be closed by execve
    assert specimen.snapshot().cmdline == b"still here\0"


def test_a_program_that_the_kernel_cannot_finish_to_load(start_specimen: StartSpecimen) -> None:
    specimen = start_specimen()
    specimen.set_limit("AS", 16 * PAGE)
    with pytest.raises((SpecimenGone, SystemCallError)) as caught:
        specimen.execute(needs_tool("true"), [b"true"])
    if isinstance(caught.value, SpecimenGone):
        assert caught.value.signal in (signal.SIGKILL, signal.SIGSEGV)


# ---- from several threads ---------------------------------------------------------------------


def in_threads(work: Callable[[int], None], count: int = 6) -> list[BaseException]:
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return errors


def test_threads_do_not_mix_each_others_bytes(specimen: Specimen) -> None:
    pages = [specimen.map(16 * PAGE) for _ in range(6)]
    own = specimen.current_map()
    maps = own.pack() * 50 + own.changed(brk=1).pack() * 50

    def work(number: int) -> None:
        data = bytes([number]) * (16 * PAGE)
        for _ in range(20):
            specimen.write(pages[number], data)
            assert specimen.read(pages[number], len(data)) == data
            assert specimen.set_map(own) == 0
            assert specimen.set_map(own.changed(end_code=own.start_code)) == 22
            assert specimen.set_maps(maps) == bytes([0] * 50 + [22] * 50)
            specimen.close(specimen.open("/dev/null"))

    errors = in_threads(work)
    assert not errors, errors


def test_a_block_keeps_other_threads_out(specimen: Specimen) -> None:
    seen: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            with specimen.undivided:
                address = specimen.place(bytes([number]) * 100)
                seen.append(number if specimen.read(address, 100) == bytes([number]) * 100 else -1)

    assert not in_threads(work)
    assert sorted(seen) == sorted(list(range(6)) * 50)


def test_stopping_wakes_a_thread_that_waits(start_specimen: StartSpecimen) -> None:
    specimen = start_specimen(deadline=60)
    told: list[BaseException] = []

    def wait() -> None:
        try:
            specimen.syscall("pause")
        except SpecimenGone as error:
            told.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    deadline = time.monotonic() + 10
    while not Path(f"/proc/{specimen.pid}/syscall").read_text().startswith("34 "):
        assert time.monotonic() < deadline
    before = time.monotonic()
    specimen.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - before < 9  # neither of them waited for the deadline
    assert [str(error) for error in told] == [
        f"specimen {specimen.pid} was killed by SIGKILL at stop(), before pause()"
    ]


def test_stopping_from_all_sides_at_once_closes_nothing_twice() -> None:
    for _ in range(20):
        specimen = Specimen()
        barrier = threading.Barrier(6)

        def work(
            number: int, specimen: Specimen = specimen, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait(10)
            try:
                if number % 2:
                    specimen.stop()
                else:
                    for _ in range(3):
                        specimen.syscall("getpid")
                        specimen.snapshot()
                        assert specimen.alive in (True, False)
            except SpecimenGone:
                pass
            finally:
                os.close(os.open(os.devnull, os.O_RDONLY))

        errors = in_threads(work)
        assert not errors, errors
        assert not specimen.alive


# ---- the errors themselves --------------------------------------------------------------------

ERRORS: list[LabError] = [
    InputError("where", "is wrong", "0x1", "0x2"),
    InputError("", "is wrong"),
    UnsupportedSystem("This is no Linux", "Use one."),
    UnsupportedSystem("This is no Linux"),
    SpecimenStartError(7, "posix_spawn", ("a memory file: no", "a file: no")),
    SpecimenGone(7, "getpid()", 11, -1),
    SpecimenGone(7, "getpid()", 0, 3),
    SpecimenGone(7, "getpid()", -1, -1),
    SpecimenGone(7, "getpid()", 64 + 35, -1),
    SpecimenTimeout(7, "pause()", 0.5, "T (stopped)"),
    SpecimenChannelError(7, "write(3)", 5),
    SystemCallError(22, "mmap", (0, -1)),
    SystemCallError(5000, "mmap", ()),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_errors_survive_pickling(error: LabError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
    assert "\n" not in str(error)


def test_errors_are_what_a_caller_would_catch() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(SystemCallError, OSError)
    assert all(isinstance(error, LabError) for error in ERRORS)
    assert str(ERRORS[0]) == "where: 0x1 is wrong; expected 0x2"
    assert str(ERRORS[1]) == "is wrong"
    assert str(ERRORS[2]) == "This is no Linux. Use one."
    assert str(ERRORS[3]) == "This is no Linux"
    assert str(ERRORS[8]) == "specimen 7 was killed by signal 99 at getpid()"
    assert str(ERRORS[12]) == "mmap() = 5000 (Unknown error 5000)"
    assert isinstance(Unreadable("/proc/1/auxv", 13).errno_name, str)
