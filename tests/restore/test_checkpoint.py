"""Checkpoint: the image tells what the specimen and /proc tell by other ways."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from prctlmm_lab.errors import InputError, SpecimenGone, UnsupportedSystem
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.kernel.procfs import KERNEL_PAGES
from prctlmm_lab.restore import checkpoint as module
from prctlmm_lab.restore.checkpoint import checkpoint
from prctlmm_lab.restore.image import Area, Image
from prctlmm_lab.specimen.build import binary_path
from prctlmm_lab.specimen.process import PAGE, Specimen
from tests.conftest import StartSpecimen
from tests.needs import needs_user_namespaces, skip_unless

CLONE_NEWUTS, CLONE_NEWUSER = 0x04000000, 0x10000000


def area_at(image: Image, address: int) -> Area:
    return next(area for area in image.areas if area.start <= address < area.end)


def test_the_map_is_what_the_specimen_is_asked_for(specimen: Specimen) -> None:
    image = checkpoint(specimen)
    assert image.map == specimen.current_map()
    assert image.map.brk == specimen.brk()


def test_the_areas_are_the_lines_of_maps(specimen: Specimen) -> None:
    specimen.map(5 * PAGE)
    image = checkpoint(specimen)
    lines = Path(f"/proc/{specimen.pid}/maps").read_text().splitlines()
    own = [line.split() for line in lines if not KERNEL_PAGES.intersection(line.split())]
    assert [[f"{a.start:08x}-{a.end:08x}", a.permissions] for a in image.areas] == [
        words[:2] for words in own
    ]
    kernel = [line.split()[0] for line in lines if "[v" in line and "[vsyscall]" not in line]
    assert [f"{p.start:x}-{p.end:x}" for p in image.kernel_pages] == kernel


def test_the_contents_are_what_the_specimen_reads_itself(specimen: Specimen) -> None:
    area = specimen.map(64 * PAGE)
    for page in (0, 1, 7, 63):
        specimen.write(area + page * PAGE + 5, os.urandom(PAGE - 5))
    specimen.write(area + 9 * PAGE, bytes(PAGE))
    image = checkpoint(specimen)
    program = binary_path(specimen.build, specimen.machine).read_bytes()
    for vma in specimen.snapshot().vmas:
        if vma.permissions[0] == "r" and vma.label not in KERNEL_PAGES:
            told = image.read(vma.start, vma.size, program)
            read = specimen.read(vma.start, vma.size)
            low, high = specimen.own_memory  # which each request changes
            same = [a == b for a, b in zip(told, read, strict=True)]
            for at in range(max(low, vma.start), min(high, vma.end)):
                same[at - vma.start] = True
            assert all(same), vma
    assert [(run.start - area) // PAGE for run in area_at(image, area).runs] == [0, 7, 63]


def test_only_pages_with_something_in_them_are_kept(specimen: Specimen) -> None:
    area = specimen.map(1 << 30)
    specimen.read(area, 16 * PAGE)  # of which the kernel shows its one page of zeros
    specimen.write(area + 8 * PAGE, bytes(PAGE))
    specimen.write(area + 99 * PAGE, b"here")
    ((start, data),) = ((run.start, run.data) for run in area_at(checkpoint(specimen), area).runs)
    assert (start, bytes(data)) == (area + 99 * PAGE, b"here" + bytes(PAGE - 4))


def test_a_written_page_of_a_file_is_kept_even_if_it_holds_zeros(specimen: Specimen) -> None:
    data = specimen.current_map().start_data & -PAGE
    specimen.write(data, bytes(PAGE))
    (run,) = area_at(checkpoint(specimen), data).runs
    assert bytes(run.data) == bytes(PAGE)


def test_the_registers_are_where_it_waits(specimen: Specimen) -> None:
    image = checkpoint(specimen)
    registers = image.registers
    read, size = {"x86_64": (0, 2), "aarch64": (63, 4)}[image.machine]
    assert (registers.number, registers.arguments[:3]) == (read, (3, registers.sp, 192))
    assert (registers.sp, image.entry) == (specimen.buffer, specimen.entry)
    instruction = specimen.read(registers.pc - size, size)
    assert instruction == {2: b"\x0f\x05", 4: b"\x01\x00\x00\xd4"}[size]
    assert image.read(registers.sp + 8, 8) != b"", "the last request lies there"


def test_looking_changes_nothing_that_a_second_look_would_see(specimen: Specimen) -> None:
    first = specimen.registers()
    specimen.snapshot()
    assert specimen.registers() == first


def test_a_stack_that_grows_while_it_is_looked_at_is_told_as_it_is_then(
    specimen: Specimen,
) -> None:
    """Reading cmdline goes through the same path as a page fault."""
    stack = next(vma for vma in specimen.snapshot().vmas if vma.label == "[stack]")
    below = stack.start - 4 * PAGE
    new = specimen.current_map().changed(arg_start=below, arg_end=below + 100)
    assert specimen.set_map(new) == 0
    image = checkpoint(specimen)
    assert area_at(image, stack.start).start == below
    assert specimen.snapshot().vma_at(below) is not None
    assert [vma.start for vma in image.snapshot.vmas] == [
        vma.start for vma in specimen.snapshot().vmas
    ]


def test_the_vector_is_told_to_its_end(specimen: Specimen) -> None:
    vector = encode_auxv([("AT_PAGESZ", 4096), ("AT_NULL", 0), ("AT_UID", 7), ("AT_NULL", 0)])
    page = specimen.map(PAGE)
    specimen.write(page, vector)
    new = specimen.current_map().changed(auxv=page, auxv_size=len(vector))
    assert specimen.set_map(new) == 0
    image = checkpoint(specimen)
    assert image.snapshot.auxv == vector[:32]
    if specimen.attempt("prctl", 0x41555856, page, PAGE, 0, 0) > 0:  # PR_GET_AUXV, since v6.4
        assert image.auxv == vector
    else:
        assert image.auxv == vector[:32]


def test_limits_and_name(specimen: Specimen) -> None:
    specimen.set_limit("NOFILE", 33, 44)
    specimen.syscall("prctl", 15, specimen.place(b"other\0"))
    specimen.syscall("umask", 0o123)
    image = checkpoint(specimen)
    limit = image.limits["RLIMIT_NOFILE"]
    assert (limit.soft, limit.hard) == specimen.limit("NOFILE") == (33, 44)
    assert (image.comm, image.umask) == (b"other", 0o123)


def test_a_user_namespace_and_who_is_root_in_it(start_specimen: StartSpecimen) -> None:
    needs_user_namespaces()
    plain, mapped, unmapped = (start_specimen() for _ in range(3))
    mapped.enter_user_namespace()
    unmapped.enter_user_namespace(map_ids=False)
    told = [checkpoint(each).credentials for each in (plain, mapped, unmapped)]
    assert [each.own_user_namespace for each in told] == [False, True, True]
    assert [each.ids_mapped for each in told] == [False, True, False]
    assert {each.uid for each in told} == {os.geteuid()}


# ---- files -------------------------------------------------------------------------------------


def test_each_file_is_known_by_what_it_is(specimen: Specimen, tmp_path: Path) -> None:
    path = tmp_path / "a file"
    path.write_bytes(b"in a file")
    files = {
        "path": specimen.map(PAGE, descriptor=specimen.open(str(path))),
        "memory": specimen.map(PAGE, descriptor=specimen.memory_file("mine", b"in memory")),
        "shared": specimen.map(PAGE, shared=True),
    }
    image = checkpoint(specimen)
    assert image.exe.kind == "program"
    found = {kind: area_at(image, address).file for kind, address in files.items()}
    assert {kind: file and file.kind for kind, file in found.items()} == {k: k for k in files}
    named, memory = found["path"], found["memory"]
    assert named is not None
    assert memory is not None
    assert (named.name, bytes(memory.contents)) == (str(path), b"in memory")
    assert memory.descriptor is not None
    assert f"descriptor {memory.descriptor}" not in " ".join(image.left_out)


def test_what_is_open_is_said_to_be_left_out(specimen: Specimen) -> None:
    number = specimen.open("/etc/passwd")
    specimen.syscall("chdir", specimen.place(b"/etc\0"))
    expected = (f"descriptor {number}: /etc/passwd", "working folder: /etc")
    assert checkpoint(specimen).left_out == expected


def test_a_file_that_was_deleted_or_replaced_is_refused(
    start_specimen: StartSpecimen, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    specimen = start_specimen()
    specimen.map(PAGE, descriptor=specimen.open(str(path)))
    path.rename(tmp_path / "kept")
    path.write_bytes(b"second")
    checkpoint(specimen)  # /proc tells its new name
    (tmp_path / "kept").unlink()
    with pytest.raises(InputError, match="is a file that was deleted"):
        checkpoint(specimen)


# ---- what is out of scope ----------------------------------------------------------------------


def catching(specimen: Specimen) -> None:
    restorer = 0x04000000
    action = struct.pack("<4Q", specimen.entry, restorer, specimen.entry, 0)
    specimen.syscall("rt_sigaction", 10, specimen.place(action), 0, 8)


def blocking(specimen: Specimen) -> None:
    specimen.syscall("rt_sigprocmask", 0, specimen.place(struct.pack("<Q", 1 << 9)), 0, 8)


def filtered(specimen: Specimen) -> None:
    allow = struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)
    specimen.syscall("prctl", 38, 1, 0, 0, 0)
    program = specimen.place(bytes(16) + allow)
    specimen.write(program, struct.pack("<HxxxxxxQ", 1, program + 16))
    specimen.syscall("prctl", 22, 2, program)


def elsewhere(specimen: Specimen) -> None:
    needs_user_namespaces()
    specimen.syscall("unshare", CLONE_NEWUSER | CLONE_NEWUTS)


def sealed(specimen: Specimen) -> None:
    refused = specimen.attempt("mseal", specimen.map(PAGE), PAGE, 0)
    skip_unless(refused == 0, "this kernel has no mseal (since v6.10)", impossible=True)
    if "sl" not in Path(f"/proc/{specimen.pid}/smaps").read_text():
        pytest.skip("this kernel does not tell what is sealed")


def system_v(specimen: Specimen) -> None:
    identity = specimen.syscall("shmget", 0, PAGE, 0o1600)
    specimen.syscall("shmat", identity, 0, 0)
    specimen.syscall("shmctl", identity, 0, 0)  # gone with its last user


OUT_OF_SCOPE: dict[Callable[[Specimen], None], str] = {
    catching: "is SigCgt",
    blocking: "is SigBlk",
    filtered: "is its seccomp mode",
    elsewhere: "is its namespace",
    sealed: "has sl among its VmFlags",
    system_v: "deleted",
}


@pytest.mark.parametrize("build_up", OUT_OF_SCOPE, ids=lambda each: each.__name__)
def test_what_is_out_of_scope_is_named(build_up: Callable[[Specimen], None]) -> None:
    with Specimen() as specimen:
        build_up(specimen)
        with pytest.raises(InputError, match=OUT_OF_SCOPE[build_up]) as caught:
            checkpoint(specimen)
        assert "which an image cannot hold" in str(caught.value)
        assert specimen.alive


def test_a_specimen_that_has_ended_is_gone(specimen: Specimen) -> None:
    specimen.stop()
    with pytest.raises(SpecimenGone, match="registers"):
        checkpoint(specimen)


def test_another_program_is_no_specimen_any_more(specimen: Specimen) -> None:
    specimen.execute("/bin/cat", [b"cat"])
    with pytest.raises(SpecimenGone):
        checkpoint(specimen)


def test_too_much_memory_is_refused(specimen: Specimen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CONTENTS", 16 * PAGE)
    specimen.write(specimen.map(32 * PAGE), b"x" * 32 * PAGE)
    with pytest.raises(InputError, match="is too much memory"):
        checkpoint(specimen)


def test_a_kernel_that_does_not_let_us_look_is_named(
    specimen: Specimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = os.open

    def refusing(path: str, *args: int, **options: int) -> int:
        if str(path).endswith("/mem"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return own(path, *args, **options)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UnsupportedSystem, match=r"/mem cannot be read: Permission.*ptrace_scope"):
        checkpoint(specimen)
