"""The call itself, the batch, and the release of the executable."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable

import pytest

from prctlmm_lab.errors import InputError, SpecimenGone
from prctlmm_lab.kernel.abi import MAP_SIZE, MEMBERS, NO_EXE, U64, PrctlMmMap
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.specimen import process
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Request, Specimen
from prctlmm_lab.specimen.situation import exe_is_mapped, may_change_exe
from tests.needs import needs_root, needs_user_namespaces
from tests.ordinary_user import UID


def test_the_present_map_changes_nothing(specimen: Specimen) -> None:
    own = specimen.current_map()
    assert specimen.set_map(own) == 0
    assert specimen.current_map() == own
    assert (own.auxv_size, own.exe_fd) == (0, NO_EXE)


def test_all_members_are_set_at_once(specimen: Specimen) -> None:
    low = facts_here().lowest
    vector = specimen.map(PAGE)
    specimen.write(vector, encode_auxv([("AT_PAGESZ", 7)]))
    addresses = {m.name: low + 16 * m.offset for m in MEMBERS if m.is_address}
    new = PrctlMmMap(**addresses, auxv=vector, auxv_size=16)
    assert specimen.set_map(new) == 0
    snapshot = specimen.snapshot()
    assert snapshot.members == addresses
    assert [str(e) for e in snapshot.aux_entries] == ["AT_PAGESZ=0x7", "AT_NULL=0x0"]


@pytest.mark.parametrize("size", [0, 1, 103, 105, 208, (1 << 32) + 104, U64])
def test_wrong_sizes(specimen: Specimen, size: int) -> None:
    own = specimen.current_map()
    assert specimen.set_map(own, size=size) == errno.EINVAL
    assert specimen.set_map(own, size=size, pointer=0) == errno.EINVAL  # before the struct is read
    assert specimen.set_map(own, size=MAP_SIZE) == 0


@pytest.mark.parametrize("arg5", [1, 1 << 32, U64])
def test_a_fifth_argument(specimen: Specimen, arg5: int) -> None:
    assert specimen.set_map(specimen.current_map(), arg5=arg5) == errno.EINVAL


@pytest.mark.parametrize("pointer", [0, 1, PAGE, 1 << 47, 1 << 63, U64])
def test_bad_pointers(specimen: Specimen, pointer: int) -> None:
    assert specimen.set_map(specimen.current_map(), pointer=pointer) == errno.EFAULT


def test_a_pointer_to_what_is_there(specimen: Specimen) -> None:
    own, page = specimen.current_map(), specimen.map(PAGE)
    specimen.write(page + 1, own.changed(arg_start=own.arg_start + 1).pack())
    assert specimen.set_map(own, pointer=page + 1) == 0
    assert specimen.current_map().arg_start == own.arg_start + 1


def test_a_refused_call_changes_nothing(specimen: Specimen) -> None:
    own = specimen.current_map()
    before = specimen.snapshot().auxv
    new = own.changed(arg_start=own.arg_start + 1, auxv=own.start_stack, auxv_size=16, exe_fd=77)
    assert specimen.set_map(new) in (errno.EPERM, errno.EBADF)
    assert specimen.current_map() == own
    assert specimen.snapshot().auxv == before


# ---- the batch --------------------------------------------------------------------------------


def test_a_batch_says_what_single_calls_say(specimen: Specimen) -> None:
    own, facts = specimen.current_map(), facts_here()
    maps = [
        own,
        own.changed(brk=facts.highest + 1),
        own.changed(end_code=own.start_code),
        own.changed(auxv=1, auxv_size=1),
        own.changed(arg_start=own.arg_start + 2),
        own.changed(auxv=own.start_stack, auxv_size=facts.auxv_capacity + 1),
    ]
    batch = list(specimen.set_maps(b"".join(new.pack() for new in maps)))
    assert specimen.current_map().arg_start == own.arg_start + 2  # the last accepted one stays
    assert batch == [specimen.set_map(new) for new in maps]
    assert batch == [0, errno.EINVAL, errno.EINVAL, errno.EFAULT, 0, errno.EINVAL]


@pytest.mark.parametrize("count", [1, 38, 39, 40, 100_000])
def test_a_batch_of_any_size(specimen: Specimen, count: int) -> None:
    own = specimen.current_map()
    areas = specimen.snapshot().maps
    good, bad = own.pack(), own.changed(brk=1).pack()
    errnos = specimen.set_maps((good + bad) * (count // 2) + good * (count % 2))
    assert errnos == bytes([0, errno.EINVAL] * (count // 2) + [0] * (count % 2))
    assert specimen.snapshot().maps == areas  # the array is gone again


@pytest.mark.parametrize("at_a_time", [1, 38, 39, 150, 299, 300, 301])
def test_a_batch_in_parts_is_in_order(
    specimen: Specimen, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    own, seed = specimen.current_map(), random.SystemRandom().getrandbits(32)
    unreadable = own.changed(auxv=1, auxv_size=1)
    kinds = {0: own, errno.EINVAL: own.changed(brk=1), errno.EFAULT: unreadable}
    wanted = random.Random(seed).choices(list(kinds), k=300)
    monkeypatch.setattr(process, "_AT_A_TIME", at_a_time)
    errnos = specimen.set_maps(b"".join(kinds[number].pack() for number in wanted))
    assert list(errnos) == wanted, f"seed {seed}"


def test_a_batch_that_is_cut_short_ends_the_specimen(
    specimen: Specimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_AT_A_TIME", 100)
    maps, send = specimen.current_map().pack() * 1000, specimen._send

    batches = iter(range(10))

    def kill_at_the_third(request: Request) -> None:
        if request.label and next(batches) == 2:
            os.kill(specimen.pid, signal.SIGKILL)
        send(request)

    monkeypatch.setattr(specimen, "_send", kill_at_the_third)
    with pytest.raises(SpecimenGone, match=r"was killed by SIGKILL at a batch of 1000 maps$"):
        specimen.set_maps(maps)
    assert not specimen.alive


@pytest.mark.parametrize("length", [0, 1, 103, 105])
def test_a_batch_is_whole_maps(specimen: Specimen, length: int) -> None:
    with pytest.raises(InputError, match=f"{length:#x} bytes are no array of maps; .* of 0x68"):
        specimen.set_maps(bytes(length))
    assert specimen.set_map(specimen.current_map()) == 0


# ---- the executable ---------------------------------------------------------------------------


def permit(specimen: Specimen) -> None:
    needs_user_namespaces()
    if not may_change_exe(specimen.snapshot()):
        specimen.enter_user_namespace()


def test_the_released_executable_is_accepted_and_repeatedly(specimen: Specimen) -> None:
    permit(specimen)
    own, exe = specimen.current_map(), specimen.snapshot().exe
    ghosts = {name: specimen.memory_file(name) for name in ("one", "two")}
    assert specimen.set_map(own.changed(exe_fd=ghosts["one"])) == errno.EBUSY
    assert specimen.snapshot().exe == exe
    specimen.release_executable()
    for name in ("one", "two", "one"):
        assert specimen.set_map(own.changed(exe_fd=ghosts[name])) == 0
        assert os.readlink(f"/proc/{specimen.pid}/exe") == f"/memfd:{name} (deleted)"


def test_release_leaves_contents_and_permissions_but_no_file(specimen: Specimen) -> None:
    before = specimen.snapshot()
    files = [vma for vma in before.vmas if vma.path]
    contents = [specimen.read(vma.start, vma.size) for vma in files]
    assert exe_is_mapped(before)
    specimen.release_executable()
    after = specimen.snapshot()
    assert not [vma for vma in after.vmas if vma.path]
    assert not exe_is_mapped(after)
    for vma, data in zip(files, contents, strict=True):
        now = after.vma_at(vma.start)
        assert now is not None
        assert (now.permissions, now.path, now.inode) == (vma.permissions, "", 0)
        assert specimen.read(vma.start, vma.size) == data
    others = [(v.start, v.end, v.label) for v in before.vmas if not v.path]
    assert others == [
        (v.start, v.end, v.label) for v in after.vmas if not any(f.start == v.start for f in files)
    ]
    assert dict(specimen.current_map()) | before.members == dict(specimen.current_map())


def test_a_second_release_does_nothing(specimen: Specimen) -> None:
    specimen.release_executable()
    specimen.write(specimen.current_map().start_brk, b"heap")
    after = specimen.snapshot(smaps=True).smaps
    specimen.release_executable()
    assert isinstance(after, tuple)
    again = specimen.snapshot(smaps=True).smaps
    assert isinstance(again, tuple)
    flags = [[(vma, fields["VmFlags"]) for vma, fields in areas] for areas in (after, again)]
    assert flags[0] == flags[1]
    assert specimen.read(specimen.current_map().start_brk, 4) == b"heap"


def test_a_new_executable_that_is_mapped_is_busy(specimen: Specimen) -> None:
    permit(specimen)
    specimen.release_executable()
    first, second = (specimen.memory_file("same name", b"x" * PAGE) for _ in range(2))
    own = specimen.current_map()
    assert specimen.set_map(own.changed(exe_fd=first)) == 0
    specimen.map(PAGE, permissions="r--", descriptor=second)
    assert not exe_is_mapped(specimen.snapshot())  # the same name, but another file
    assert specimen.set_map(own.changed(exe_fd=second)) == 0
    assert exe_is_mapped(specimen.snapshot())
    assert specimen.set_map(own.changed(exe_fd=first)) == errno.EBUSY


def test_the_exe_link_of_another_user(specimen: Specimen) -> None:
    needs_root()
    needs_user_namespaces()
    specimen.become(UID)
    own, ghost = specimen.current_map(), specimen.memory_file("ghost")
    specimen.release_executable()
    assert specimen.set_map(own.changed(exe_fd=ghost)) == errno.EPERM
    specimen.enter_user_namespace(map_ids=False)
    assert specimen.set_map(own.changed(exe_fd=ghost)) == 0


def test_a_new_command_line_is_what_ps_shows(specimen: Specimen) -> None:
    page = specimen.map(PAGE)
    specimen.write(page, b"/usr/bin/nobody\0--home\0")
    new = specimen.current_map().changed(arg_start=page, arg_end=page + 23)
    assert specimen.set_map(new) == 0
    with open(f"/proc/{specimen.pid}/cmdline", "rb") as file:
        assert file.read() == b"/usr/bin/nobody\0--home\0"


def test_after_the_end_every_method_says_so_and_touches_nothing(specimen: Specimen) -> None:
    own, page = specimen.current_map(), specimen.map(PAGE)
    specimen.stop()
    victims = [os.memfd_create("victim") for _ in range(8)]  # take the numbers of what was closed
    for victim in victims:
        os.pwrite(victim, b"mine", 0)
    actions: dict[str, Callable[[], object]] = {
        "read": lambda: specimen.read(page, 4),
        "write": lambda: specimen.write(page, b"theirs"),
        "place": lambda: specimen.place(b"theirs"),
        "set_map": lambda: specimen.set_map(own),
        "set_maps": lambda: specimen.set_maps(own.pack()),
        "current_map": specimen.current_map,
        "snapshot": specimen.snapshot,
        "limit": lambda: specimen.limit("DATA"),
        "release_executable": specimen.release_executable,
        "restart": lambda: specimen.restart([b"x"], []),
        "execute": lambda: specimen.execute("/bin/true", [b"true"]),
        "memory_file": lambda: specimen.memory_file("x"),
        "syscall": lambda: specimen.syscall("getpid"),
        "brk": specimen.brk,
        "can_read": lambda: specimen.can_read(page, 4),
    }
    for name, action in actions.items():
        with pytest.raises(SpecimenGone) as caught:
            action()
        assert (caught.value.signal, caught.value.status) == (9, -1), name
        assert str(caught.value).startswith(
            f"specimen {specimen.pid} was killed by SIGKILL at stop(), before "
        )
    assert [os.pread(victim, 100, 0) for victim in victims] == [b"mine"] * 8
    for victim in victims:
        os.close(victim)
