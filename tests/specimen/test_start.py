"""How a specimen starts: what it is given, what it does not inherit, and every way it can fail."""

from __future__ import annotations

import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from prctlmm_lab.errors import (
    InputError,
    SpecimenGone,
    SpecimenStartError,
    SystemCallError,
    UnsupportedSystem,
)
from prctlmm_lab.kernel.procfs import Unreadable
from prctlmm_lab.specimen import spawn
from prctlmm_lab.specimen.build import binary_path
from prctlmm_lab.specimen.process import PAGE, Request, Specimen
from tests.conftest import StartSpecimen, children, descriptors
from tests.needs import needs_root, needs_tool, skip_unless
from tests.ordinary_user import ROOT

# ---- what it is given -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ([b"specimen"], [b"LAB=prctlmm_lab"]),
        ([b""], []),
        ([b"a b", b"", b"\xff\n", b"x" * 5000], [b"A=", b"B==c=", b"\xff=\xfe", b"C=\n"]),
        ([b"a"], [b"no equals sign", b"=no name", b"", b"A=1", b"A=2"]),
    ],
)
@pytest.mark.parametrize("randomize", [True, False])
def test_arguments_and_environment_are_exact(
    start_specimen: StartSpecimen,
    build: str,
    arguments: list[bytes],
    environment: list[bytes],
    randomize: bool,
) -> None:
    specimen = start_specimen(
        build, arguments=arguments, environment=environment, randomize=randomize
    )
    snapshot = specimen.snapshot()
    assert snapshot.cmdline == b"".join(text + b"\0" for text in arguments)
    assert snapshot.environ == b"".join(text + b"\0" for text in environment)


def test_there_are_ten_areas_at_most_and_a_heap(specimen: Specimen) -> None:
    snapshot = specimen.snapshot()
    own = specimen.current_map()
    (heap,) = snapshot.labelled("[heap]")
    assert len(snapshot.labelled("[stack]")) == 1
    assert [v.permissions for v in snapshot.vmas if v.path] == ["r--p", "r-xp", "rw-p"]
    assert (heap.start, heap.size) == (own.start_brk, 4 * PAGE)
    assert own.brk == heap.end
    assert len(snapshot.vmas) <= 10


@pytest.mark.parametrize("pages", [0, 1, 1000])
def test_the_heap_has_the_size_that_was_asked_for(
    start_specimen: StartSpecimen, build: str, pages: int
) -> None:
    own = start_specimen(build, heap_pages=pages).current_map()
    assert own.brk - own.start_brk == pages * PAGE


def test_without_randomisation_everything_lies_at_the_same_place(build: str) -> None:
    layouts = []
    for _ in range(2):
        with Specimen(build, randomize=False) as specimen:
            snapshot = specimen.snapshot()
            areas = [(v.start, v.end, v.permissions, v.label or v.path) for v in snapshot.vmas]
            layouts.append((areas, specimen.current_map()))
    assert layouts[0] == layouts[1]


def test_with_randomisation_it_does_not() -> None:
    with Path("/proc/sys/kernel/randomize_va_space").open() as file:
        skip_unless(file.read().strip() == "2", "this kernel does not randomise", impossible=True)
    stacks = set()
    for _ in range(4):
        with Specimen() as specimen:
            stacks.add(specimen.current_map().start_stack)
    assert len(stacks) > 1


# ---- what it does not inherit -----------------------------------------------------------------


def test_no_descriptor_is_inherited(start_specimen: StartSpecimen, build: str) -> None:
    pipes = [os.pipe() for _ in range(3)]
    try:
        for descriptor in (d for pair in pipes for d in pair):
            os.set_inheritable(descriptor, True)
        os.dup2(pipes[0][0], 900, inheritable=True)
        specimen = start_specimen(build)
        folder = Path(f"/proc/{specimen.pid}/fd")
        links = {int(link.name): os.readlink(link) for link in folder.iterdir()}
    finally:
        for descriptor in (*(d for pair in pipes for d in pair), 900):
            os.close(descriptor)
    assert links.pop(3).startswith("socket:")
    assert links.pop(4).startswith("/memfd:exchange")
    assert links.pop(5).startswith("pipe:")
    assert links == dict.fromkeys(range(3), "/dev/null")


def test_nor_where_close_range_is_not_known(
    start_specimen: StartSpecimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Specimen._call

    def without(self: Specimen, name: str, *arguments: int) -> Request:
        # A number that no kernel knows: ENOSYS.
        request = call(self, name, *arguments)
        return request._replace(number=5000) if name == "close_range" else request

    monkeypatch.setattr(Specimen, "_call", without)
    with open(os.devnull) as file:
        os.set_inheritable(file.fileno(), True)
        specimen = start_specimen()
    assert sorted(os.listdir(f"/proc/{specimen.pid}/fd")) == list("012345")


def test_every_signal_is_at_its_default(start_specimen: StartSpecimen) -> None:
    ignored = (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        specimen = start_specimen()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)
    status = specimen.snapshot().status
    assert not isinstance(status, Unreadable)
    own = 0x1_8000_0000  # the C library keeps two to itself and ignores them in what it spawns
    masks = {name: int(status[name], 16) & ~own for name in ("SigBlk", "SigIgn", "SigCgt")}
    assert masks == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


def test_it_is_alone_in_its_session(specimen: Specimen) -> None:
    assert os.getsid(specimen.pid) == os.getpgid(specimen.pid) == specimen.pid


# ---- from where it starts ---------------------------------------------------------------------


def test_from_a_process_with_many_threads_and_a_gigabyte(build: str) -> None:
    code = f"""
import mmap, threading
from prctlmm_lab.specimen.process import Specimen
memory = mmap.mmap(-1, 1 << 30)
for page in range(0, 1 << 30, 4096):
    memory[page] = 1
done = threading.Event()
threads = [threading.Thread(target=done.wait) for _ in range(200)]
for thread in threads:
    thread.start()
for _ in range(20):
    with Specimen({build!r}) as specimen:
        assert specimen.set_map(specimen.current_map()) == 0
        assert specimen.snapshot().statm["size"] < 300
done.set()
print("fine")
"""
    memory = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    skip_unless(memory > 2 << 20, "less than 2 GiB of memory is free", impossible=True)
    assert run(code) == "fine\n"


@pytest.mark.parametrize("closed", [(0,), (0, 1, 2), (0, 1, 2, 3, 4)])
def test_from_a_process_whose_low_descriptors_are_closed(closed: tuple[int, ...]) -> None:
    code = f"""
import fcntl, os
from prctlmm_lab.specimen.process import Specimen
out = fcntl.fcntl(1, fcntl.F_DUPFD, 50)
Specimen().stop()  # the program stays open
for descriptor in {closed}:
    try:
        os.close(descriptor)
    except OSError:
        pass
before = sorted(os.listdir("/proc/self/fd"))
with Specimen() as specimen:
    assert specimen.set_map(specimen.current_map()) == 0
    specimen.write(specimen.map(4096), b"bytes")
    links = [os.readlink(f"/proc/{{specimen.pid}}/fd/{{n}}") for n in range(6)]
    assert len(os.listdir(f"/proc/{{specimen.pid}}/fd")) == 6, links
    assert links[:3] == ["/dev/null"] * 3, links
    assert links[3].startswith("socket:") and "exchange" in links[4], links
    assert links[5].startswith("pipe:"), links
assert sorted(os.listdir("/proc/self/fd")) == before
os.write(out, b"fine")
"""
    assert run(code) == "fine"


def test_from_a_process_that_uses_descriptors_3_and_4_itself() -> None:
    code = """
import os
from prctlmm_lab.specimen.process import Specimen
for number in (3, 4):
    os.dup2(os.open("/dev/zero", os.O_RDONLY), number, inheritable=True)
with Specimen() as specimen:
    assert specimen.set_map(specimen.current_map()) == 0
    print([os.readlink(f"/proc/{specimen.pid}/fd/{n}").split(":")[0] for n in (3, 4)])
print([os.readlink(f"/proc/self/fd/{n}") for n in (3, 4)])
"""
    assert run(code) == "['socket', '/memfd']\n['/dev/zero', '/dev/zero']\n"


def test_from_a_process_that_ignores_its_children() -> None:
    code = """
import signal
from prctlmm_lab.errors import SpecimenGone
from prctlmm_lab.specimen.process import Specimen
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with Specimen() as specimen:
    assert specimen.set_map(specimen.current_map()) == 0
    try:
        specimen.syscall("exit_group", 7)
    except SpecimenGone as gone:
        print(gone.signal, gone.status, str(gone).replace(str(gone.pid), "PID"))
"""
    assert run(code) == "-1 -1 specimen PID is gone at exit_group(0x7)\n"


def run(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


# ---- ways to start it -------------------------------------------------------------------------


def forbid_memory_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int = 0) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(spawn, "_programs", {})


def test_without_memory_files_a_temporary_one_serves(
    build: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forbid_memory_files(monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Specimen(build) as specimen:
        assert os.listdir(tmp_path) == []
        assert str(specimen.snapshot().exe).startswith(f"{tmp_path}/specimen-")
        page = specimen.map(PAGE)
        specimen.write(page, b"bytes" * 800)
        assert specimen.read(page, 4000) == b"bytes" * 800
        assert specimen.set_map(specimen.current_map()) == 0
        assert set(specimen.set_maps(specimen.current_map().pack() * 100)) == {0}
        specimen.restart([b"again"], [])
        assert specimen.snapshot().cmdline == b"again\0"


def test_where_no_way_works_each_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = children(), descriptors()
    forbid_memory_files(monkeypatch)
    monkeypatch.setattr(spawn, "_exchange_file", lambda: os.open(os.devnull, os.O_RDWR))
    monkeypatch.setattr(spawn, "_folders", lambda: iter([str(tmp_path / "none"), str(tmp_path)]))

    def refuse(*args: object, **kwargs: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "posix_spawn", refuse)
    with pytest.raises(SpecimenStartError) as caught:
        Specimen()
    assert caught.value.reasons == (
        "a memory file: Operation not permitted",
        f"a file in {tmp_path / 'none'}: No such file or directory",
        f"a file in {tmp_path}: Permission denied",
    )
    assert str(caught.value).startswith("no specimen could be started: a memory file: ")
    assert os.listdir(tmp_path) == []
    assert (children(), descriptors()) == before


def test_where_not_even_a_file_can_be_made_each_way_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = descriptors()
    forbid_memory_files(monkeypatch)
    monkeypatch.setattr(spawn, "_folders", lambda: iter([str(tmp_path / "none")]))
    with pytest.raises(SpecimenStartError, match=r"a memory file: .*; a file in .*: No such file"):
        Specimen()
    assert descriptors() == before


def test_the_working_folder_may_be_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start_specimen: StartSpecimen
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    start_specimen()
    forbid_memory_files(monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    start_specimen()
    assert os.listdir(tmp_path) == []


MOUNTS = {
    "a noexec temporary folder": "mount -t tmpfs -o noexec none $TMPDIR",
    "a read-only temporary folder": "mount -t tmpfs -o ro none $TMPDIR",
    "forbidden memory files": (
        "mount -t tmpfs -o noexec none $TMPDIR; echo 2 > /proc/sys/vm/memfd_noexec"
    ),
}


@pytest.mark.parametrize("what", MOUNTS)
def test_in_a_hostile_place(what: str, tmp_path: Path) -> None:
    needs_root()
    unshare = needs_tool("unshare")
    if what == "forbidden memory files":
        known = Path("/proc/sys/vm/memfd_noexec").exists()
        skip_unless(known, "the sysctl vm.memfd_noexec came with v6.3", impossible=True)
    code = """
import os
from prctlmm_lab.specimen.process import Specimen
with Specimen() as specimen:
    assert specimen.set_map(specimen.current_map()) == 0
    print(specimen.snapshot().exe.split("/")[1].split("-")[0])
print(os.listdir(os.environ["TMPDIR"]))
"""
    mounts = f"mount -t proc proc /proc; {MOUNTS[what]}"
    shell = ["sh", "-c", f'set -e; {mounts}; exec "$@"', "sh"]
    wrapper = [unshare, "--mount", "--pid", "--fork", *shell]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    skip_unless("Operation not permitted" not in done.stderr, "no right to mount", impossible=True)
    assert (done.returncode, done.stderr) == (0, "")
    place = "dev" if what == "forbidden memory files" else "memfd:specimen"
    assert done.stdout == f"{place}\n[]\n"


# ---- what cannot be started -------------------------------------------------------------------

WRONG = {
    "is not a build": {"build": "dynamic"},
    "deadline: 0 is no time": {"deadline": 0},
    "deadline: nan is no time": {"deadline": float("nan")},
    "deadline: inf is no time": {"deadline": float("inf")},
    "heap_pages: -0x1 is no size": {"heap_pages": -1},
    "heap_pages: 0x10001 is no size": {"heap_pages": 0x10001},
    "arguments: b'one' is not a sequence": {"arguments": b"one"},
    r"arguments: \['one'\] is not a sequence": {"arguments": ["one"]},
    r"arguments: b'a\\x00b' holds a zero byte": {"arguments": [b"a\0b"]},
    r"environment: b'A=\\x00' holds a zero byte": {"environment": [b"A=\0"]},
}


@pytest.mark.parametrize("message", WRONG)
def test_options_that_make_no_sense_are_one_sentence(message: str) -> None:
    before = children(), descriptors()
    with pytest.raises(InputError, match=message):
        Specimen(**WRONG[message])  # type: ignore[arg-type]
    assert (children(), descriptors()) == before


def test_another_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(UnsupportedSystem, match=r"no specimen for linux on riscv64\. Linux on"):
        Specimen()


def test_a_heap_that_the_limit_refuses_is_named() -> None:
    code = """
import os, resource
from prctlmm_lab.errors import SpecimenStartError
from prctlmm_lab.specimen.process import Specimen
resource.setrlimit(resource.RLIMIT_DATA, (100 << 20, resource.RLIM_INFINITY))
Specimen().stop()  # the program stays open
before = os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")
try:
    Specimen(heap_pages=0x10000)
except SpecimenStartError as error:
    print(error)
print((os.listdir("/proc/self/fd"), os.listdir("/proc/self/task")) == before)
with Specimen(heap_pages=0x4000) as specimen:
    print(specimen.limit("DATA")[0] >> 20)
"""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    skip_unless(hard == resource.RLIM_INFINITY, "RLIMIT_DATA is limited already", impossible=True)
    refusal = "brk() gave no heap of 0x10000000 bytes (RLIMIT_DATA is 0x6400000)"
    assert run(code) == f"no specimen could be started: {refusal}\nTrue\n100\n"


def test_a_program_that_dies_at_once_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children(), descriptors()
    whole = binary_path("static").read_bytes()
    broken = whole[:0x1000] + b"\x0f\x0b" + whole[0x1002:]  # ud2: an invalid instruction
    programs: dict[str, tuple[int, tuple[int, int]]] = {}
    monkeypatch.setattr(Path, "read_bytes", lambda self: broken)
    monkeypatch.setattr(spawn, "_programs", programs)
    with pytest.raises(SpecimenGone, match=r"was killed by SIGILL at its start"):
        Specimen()
    os.close(programs["static"][0])
    monkeypatch.undo()
    assert (children(), descriptors()) == before


@pytest.mark.parametrize("step", ["_opening", "_greet", "_settle", "syscall", "_execve"])
def test_a_start_that_fails_half_way_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = children(), descriptors()

    def failing(*args: object, **kwargs: object) -> object:
        raise RuntimeError("half way")

    monkeypatch.setattr(Specimen, step, failing)
    with pytest.raises(RuntimeError, match="half way"):
        Specimen(randomize=False)
    assert (children(), descriptors()) == before


@pytest.mark.parametrize("spoilt", ["closed", "another file"])
def test_the_program_that_stays_open_is_made_anew_if_it_is_gone(
    build: str, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    monkeypatch.setattr(spawn, "_programs", {})
    first = spawn.open_program(build)
    assert spawn.open_program(build) == first
    if spoilt == "closed":
        os.close(first)
    else:
        with open(os.devnull) as other:
            os.dup2(other.fileno(), first, inheritable=False)
    with Specimen(build) as specimen:
        assert specimen.snapshot().exe == f"/memfd:specimen-{build} (deleted)"
    os.close(spawn.open_program(build))
    if spoilt == "another file":
        os.close(first)  # it is somebody else's, and was left alone


def test_the_program_that_stays_open_cannot_be_changed(build: str) -> None:
    program = spawn.open_program(build)
    assert not os.get_inheritable(program)
    with pytest.raises(PermissionError):
        os.pwrite(program, b"\0", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(program, 0)


def test_without_pidfds_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children(), descriptors()

    def refuse(pid: int, flags: int = 0) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(SpecimenStartError, match="pidfd_open: Operation not permitted"):
        Specimen()
    assert (children(), descriptors()) == before


# ---- again ------------------------------------------------------------------------------------


def test_restarting_gives_a_fresh_address_space(specimen: Specimen) -> None:
    pid, page = specimen.pid, specimen.map(PAGE)
    assert specimen.set_map(specimen.current_map().changed(arg_start=page, arg_end=page)) == 0
    specimen.restart([b"second", b""], [b"no equals sign", b"A=1", b"A=2"], heap_pages=2)
    snapshot = specimen.snapshot()
    assert snapshot.pid == pid
    assert snapshot.cmdline == b"second\0\0"
    assert snapshot.environ == b"no equals sign\0A=1\0A=2\0"
    assert sum(vma.size for vma in snapshot.labelled("[heap]")) == 2 * PAGE
    status = snapshot.status
    assert not isinstance(status, Unreadable)
    assert status["Name"] == "specimen"
    assert specimen.set_map(specimen.current_map()) == 0


def test_restarting_without_arguments_is_what_the_kernel_makes_of_it(specimen: Specimen) -> None:
    specimen.restart([], [])
    assert specimen.snapshot().cmdline in (b"\0", b"")  # one empty string since v5.18
    with Specimen(arguments=(), environment=()) as other:
        assert other.snapshot().cmdline == specimen.snapshot().cmdline


def test_a_refused_restart_changes_nothing(specimen: Specimen) -> None:
    own = specimen.current_map()
    with pytest.raises(InputError, match="bytes are too many for one call"):
        specimen.restart([b"x" * 70000], [])
    with pytest.raises(InputError, match="holds a zero byte"):
        specimen.restart([b"a\0b"], [])
    specimen.set_limit("NPROC", 0)
    specimen.syscall("prctl", 38, 1, 0, 0, 0)
    empty = specimen.memory_file("empty")
    if specimen.attempt("geteuid") == 0:
        specimen.release_executable()
        assert specimen.set_map(own.changed(exe_fd=empty)) == 0
        with pytest.raises(SystemCallError, match=r"^execve\(.*ENOEXEC"):
            specimen.restart([b"x"], [])
    assert specimen.current_map() == own
    assert specimen.set_map(own) == 0


def test_specimens_started_side_by_side_do_not_mix() -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(10):
                with Specimen(arguments=[b"%d" % number]) as specimen:
                    assert specimen.snapshot().cmdline == b"%d\0" % number
                    assert specimen.syscall("getpid") == specimen.pid
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)
