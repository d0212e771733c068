"""System calls, memory, limits, identity and files: what a specimen is told, it does."""

from __future__ import annotations

import errno
import os
import pickle
import random
import resource
import stat
import struct
from pathlib import Path

import pytest

from prctlmm_lab.errors import InputError, SystemCallError
from prctlmm_lab.kernel.abi import U64
from prctlmm_lab.kernel.procfs import Unreadable
from prctlmm_lab.kernel.syscalls import X86_64
from prctlmm_lab.specimen.process import PAGE, SECOND_PROCESS, Specimen
from tests.conftest import StartSpecimen
from tests.needs import needs_root, needs_user_namespaces
from tests.ordinary_user import UID

# ---- calls ------------------------------------------------------------------------------------


def test_a_refused_call_says_which_and_with_what(specimen: Specimen) -> None:
    with pytest.raises(SystemCallError) as caught:
        specimen.syscall("munmap", 1, 4096)
    error = caught.value
    assert isinstance(error, OSError)
    assert (error.errno, error.errno_name) == (errno.EINVAL, "EINVAL")
    assert (error.call, error.arguments) == ("munmap", (1, 4096))
    assert (error.strerror, error.filename) == ("Invalid argument", None)
    assert str(error) == "munmap(0x1, 0x1000) = EINVAL (Invalid argument)"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), again.errno, again.arguments) == (str(error), error.errno, (1, 4096))


def test_an_attempt_gives_the_raw_result(specimen: Specimen) -> None:
    assert specimen.attempt("close", 77) == -errno.EBADF
    assert specimen.attempt("getpid") == specimen.pid


def test_negative_arguments_are_twos_complement(specimen: Specimen) -> None:
    folder = specimen.open("/")
    name = specimen.place(b"proc\0")
    relative = specimen.syscall("openat", folder, name, os.O_RDONLY, 0)
    absolute = specimen.syscall("openat", -100, specimen.place(b"/proc\0"), os.O_RDONLY, 0)
    links = [os.stat(f"/proc/{specimen.pid}/fd/{number}") for number in (relative, absolute)]
    assert links[0].st_ino == links[1].st_ino
    assert specimen.attempt("close", U64) == specimen.attempt("close", -1) == -errno.EBADF


@pytest.mark.parametrize("name", sorted(SECOND_PROCESS))
def test_a_second_process_is_refused(specimen: Specimen, name: str) -> None:
    with pytest.raises(InputError, match="would put a second process"):
        specimen.syscall(name)
    assert specimen.alive


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("getpidd", (), "'getpidd' is not known on x86_64; expected getpid"),
        ("getpid", (0,) * 7, "getpid: 7 is too many arguments; expected at most 6"),
        ("mmap", (1 << 64,), "mmap: 18446744073709551616 is not a 64-bit argument"),
        ("mmap", (-(1 << 63) - 1,), "is not a 64-bit argument; expected -0x8000000000000000 to"),
        ("mmap", (1.5,), "mmap: 1.5 is not a 64-bit argument"),
        ("mmap", ("0",), "mmap: '0' is not a 64-bit argument"),
    ],
)
def test_bad_requests_are_one_sentence(
    specimen: Specimen, name: str, arguments: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        specimen.syscall(name, *arguments)
    assert specimen.syscall("getpid") == specimen.pid


def test_calls_that_a_later_kernel_knows_are_refused_by_this_one(specimen: Specimen) -> None:
    answers = {
        name: specimen.attempt(name, -1, -1, -1, -1, -1, -1) for name in ("tuxcall", "uselib")
    }
    assert answers["tuxcall"] == -errno.ENOSYS
    assert len(X86_64) > 350


# ---- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 7, 4095, 4096, 4097, 65537, (3 << 20) + 5])
@pytest.mark.parametrize("offset", [0, 1, 4095])
def test_what_is_written_is_read(specimen: Specimen, length: int, offset: int) -> None:
    address = specimen.map(length + offset + PAGE) + offset
    data = random.Random(length).randbytes(length)
    specimen.write(address, data)
    assert specimen.read(address, length) == data
    with open(f"/proc/{specimen.pid}/mem", "rb", buffering=0) as memory:  # another way to look
        memory.seek(address)
        assert memory.read(min(length, 65536)) == data[:65536]


def test_the_exchange_file_does_not_stay_large(specimen: Specimen) -> None:
    address = specimen.map(2 << 20)
    specimen.protect(address + (2 << 20) - PAGE, PAGE, "---")
    size = Path(f"/proc/{specimen.pid}/fd/4")
    specimen.write(address, bytes((2 << 20) - PAGE))
    specimen.read(address, (2 << 20) - PAGE)
    assert size.stat().st_size <= PAGE
    with pytest.raises(SystemCallError):
        specimen.read(address + PAGE, 2 << 20)
    assert size.stat().st_size <= PAGE
    assert specimen.can_read(address, 1 << 20)
    specimen.set_maps(specimen.current_map().pack() * 1000)
    assert size.stat().st_size <= PAGE


def test_memory_that_is_not_there_is_efault(specimen: Specimen) -> None:
    page = specimen.map(2 * PAGE)
    specimen.write(page, b"x" * 2 * PAGE)
    specimen.protect(page + PAGE, PAGE, "---")
    assert specimen.read(page, PAGE) == b"x" * PAGE
    for address, length in (
        (page, PAGE + 1),
        (page + PAGE, 1),
        (0, 1),
        (U64 - 10, 5),
        (1 << 63, 1),
    ):
        with pytest.raises(SystemCallError) as caught:
            specimen.read(address, length)
        assert caught.value.errno == errno.EFAULT
        with pytest.raises(SystemCallError) as caught:
            specimen.write(address, b"y" * length)
        assert caught.value.errno == errno.EFAULT
    assert specimen.read(page, PAGE) == b"y" * PAGE  # what lay before the hole
    specimen.protect(page + PAGE, PAGE, "r--")
    assert specimen.read(page + PAGE, PAGE) == b"x" * PAGE
    with pytest.raises(SystemCallError):
        specimen.write(page + PAGE, b"y")


@pytest.mark.parametrize("letters", ["---", "r--", "rw-", "r-x", "rwx", "-w-", "--x"])
def test_permissions_are_those_of_maps(specimen: Specimen, letters: str) -> None:
    mapped = specimen.map(PAGE, permissions=letters)
    protected = specimen.map(PAGE)
    specimen.protect(protected, PAGE, letters)
    for address in (mapped, protected):
        vma = specimen.snapshot().vma_at(address)
        assert vma is not None
        assert vma.permissions == letters + "p"


@pytest.mark.parametrize("letters", ["rwz", "RW", "7"])
def test_permissions_that_are_none_are_refused(specimen: Specimen, letters: str) -> None:
    with pytest.raises(InputError, match=f"'{letters}' is not of the form rwx"):
        specimen.map(PAGE, permissions=letters)


def test_memory_can_be_had_at_an_address_once(specimen: Specimen) -> None:
    free = specimen.map(4 * PAGE)
    specimen.unmap(free, 4 * PAGE)
    assert specimen.map(PAGE, at=free + PAGE) == free + PAGE
    with pytest.raises(SystemCallError) as caught:
        specimen.map(PAGE, at=free + PAGE)
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(SystemCallError) as caught:
        specimen.unmap(free + 1, PAGE)
    assert caught.value.errno == errno.EINVAL


def test_shared_and_growing_memory_say_so(specimen: Specimen) -> None:
    shared = specimen.map(PAGE, shared=True)
    growing = specimen.map(PAGE, grows_down=True)
    smaps = specimen.snapshot(smaps=True).smaps
    assert isinstance(smaps, tuple)
    flags = {vma.start: (vma.permissions, fields["VmFlags"].split()) for vma, fields in smaps}
    assert flags[shared][0] == "rw-s"
    assert "gd" in flags[growing][1]


def test_the_heap_grows_and_shrinks(specimen: Specimen) -> None:
    end = specimen.brk()
    assert specimen.brk(end + 3 * PAGE) == end + 3 * PAGE == specimen.brk()
    specimen.write(end, b"heap")
    assert specimen.current_map().brk == end + 3 * PAGE
    assert specimen.brk(end) == end
    assert specimen.brk(1) == end  # refused: below the start of the heap
    with pytest.raises(SystemCallError):
        specimen.read(end, 1)


def test_what_is_placed_lies_in_the_stack_below_the_request(specimen: Specimen) -> None:
    address = specimen.place(b"x" * 65536)
    assert specimen.read(address, 65536) == b"x" * 65536
    vma = specimen.snapshot().vma_at(address)
    assert vma is not None
    assert vma.label == "[stack]"
    with pytest.raises(InputError, match=r"0x10001 bytes are too many for one call; .* 0x10000"):
        specimen.place(bytes(65537))


# ---- limits -----------------------------------------------------------------------------------


def test_limits_are_set_as_the_parent_sees(specimen: Specimen) -> None:
    specimen.set_limit("NOFILE", 17, 99)
    assert resource.prlimit(specimen.pid, resource.RLIMIT_NOFILE) == (17, 99)
    specimen.set_limit("RLIMIT_NOFILE", 18)
    assert specimen.limit("NOFILE") == (18, 99)
    with pytest.raises(SystemCallError) as caught:
        specimen.set_limit("NOFILE", 100)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(InputError, match="'FILES' is not a resource; expected CPU, FSIZE, DATA"):
        specimen.limit("FILES")


def test_the_data_limit_stops_the_heap(specimen: Specimen) -> None:
    own = specimen.current_map()
    specimen.set_limit("DATA", own.brk - own.start_brk + own.end_data - own.start_data)
    assert specimen.brk(own.brk + 1) == own.brk


# ---- identity ---------------------------------------------------------------------------------


def test_another_identity_is_for_good(specimen: Specimen) -> None:
    needs_root()
    specimen.syscall("setgroups", 2, specimen.place(struct.pack("<2I", 7, 8)))
    specimen.become(UID)
    status = specimen.snapshot().status
    assert not isinstance(status, Unreadable)
    assert status["Uid"].split() == status["Gid"].split() == [str(UID)] * 4
    assert (status["Groups"], int(status["CapEff"], 16), int(status["CapPrm"], 16)) == ("", 0, 0)
    with pytest.raises(SystemCallError) as caught:
        specimen.become(0)
    assert caught.value.errno == errno.EPERM
    assert specimen.set_map(specimen.current_map()) == 0
    assert os.stat(f"/proc/{specimen.pid}/stat").st_uid == UID  # it is not hidden from its owner


def test_uid_and_group_may_differ(specimen: Specimen) -> None:
    needs_root()
    specimen.become(UID, 12345)
    assert (specimen.syscall("geteuid"), specimen.syscall("getegid")) == (UID, 12345)


def test_who_is_not_root_cannot_become_another(specimen: Specimen) -> None:
    if os.geteuid() == 0:
        specimen.become(UID)
    with pytest.raises(SystemCallError) as caught:
        specimen.become(12345)
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize("map_ids", [True, False])
def test_a_user_namespace_gives_every_capability(specimen: Specimen, map_ids: bool) -> None:
    needs_user_namespaces()
    outside = specimen.syscall("geteuid")
    specimen.enter_user_namespace(map_ids=map_ids)
    overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
    assert specimen.syscall("geteuid") == (0 if map_ids else overflow)
    status = specimen.snapshot().status
    assert not isinstance(status, Unreadable)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) > 0
    assert status["Uid"].split()[0] == str(outside)
    own, theirs = (os.readlink(f"/proc/{pid}/ns/user") for pid in ("self", specimen.pid))
    assert own != theirs
    uid_map = Path(f"/proc/{specimen.pid}/uid_map").read_text().split()
    assert uid_map == (["0", str(outside), "1"] if map_ids else [])


# ---- files ------------------------------------------------------------------------------------


def test_files_are_opened_and_closed(specimen: Specimen, tmp_path: Path) -> None:
    path = tmp_path / "a file \udcff"
    path.write_bytes(b"contents")
    descriptor = specimen.open(path.as_posix())
    assert os.readlink(f"/proc/{specimen.pid}/fd/{descriptor}") == str(path)
    address = specimen.map(PAGE, permissions="r--", descriptor=descriptor)
    assert specimen.read(address, 8) == b"contents"
    specimen.close(descriptor)
    assert not os.path.lexists(f"/proc/{specimen.pid}/fd/{descriptor}")
    made = specimen.open(os.fsencode(tmp_path / "made"), os.O_CREAT | os.O_WRONLY, 0o600)
    specimen.close(made)
    specimen.write_file(str(tmp_path / "made"), b"written")
    assert (tmp_path / "made").read_bytes() == b"written"
    with pytest.raises(SystemCallError, match=r"^openat\(-100, .* = ENOENT"):
        specimen.open(str(tmp_path / "nothing"))


def test_a_path_with_a_zero_byte_is_refused(specimen: Specimen) -> None:
    for action in (specimen.open, specimen.memory_file, lambda name: specimen.execute(name, [])):
        with pytest.raises(InputError, match=r"b'a\\x00b' holds a zero byte"):
            action("a\0b")


@pytest.mark.parametrize("descriptor", [3, 4, 5])
def test_what_ties_it_to_us_is_not_closed(specimen: Specimen, descriptor: int) -> None:
    with pytest.raises(InputError, match="is what ties the specimen to us"):
        specimen.close(descriptor)
    with pytest.raises(SystemCallError):
        specimen.close(77)


@pytest.mark.parametrize("size", [0, 5, 65536, 200_000])
def test_files_in_memory_have_their_contents(specimen: Specimen, size: int) -> None:
    contents = random.Random(size).randbytes(size)
    descriptor = specimen.memory_file("näme", contents, 0o640)
    link = Path(f"/proc/{specimen.pid}/fd/{descriptor}")
    assert os.readlink(link) == "/memfd:näme (deleted)"
    assert link.read_bytes() == contents
    assert stat.S_IMODE(link.stat().st_mode) == 0o640
    with pytest.raises(SystemCallError):
        specimen.memory_file("x" * 300)


def test_calls_that_stop_the_lab_itself_are_understood(start_specimen: StartSpecimen) -> None:
    specimen = start_specimen()
    assert specimen.attempt("rt_sigprocmask", 0, 0, 0, 8) == 0
    assert specimen.attempt("personality", 0xFFFFFFFF) >= 0
