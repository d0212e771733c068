"""Restore: what was there is there again, and what must not be restored is refused."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from prctlmm_lab.errors import InputError, SystemCallError
from prctlmm_lab.kernel.abi import ADDRESSES
from prctlmm_lab.kernel.procfs import Limit, Snapshot, read_snapshot
from prctlmm_lab.restore.checkpoint import checkpoint
from prctlmm_lab.restore.equality import equal, is_restored
from prctlmm_lab.restore.image import Area, Image, Run
from prctlmm_lab.restore.plan import Step, find_hole, occupied_by, plan
from prctlmm_lab.restore.restorer import FRAME_ROOM, MapRefused, place, restore
from prctlmm_lab.specimen.process import PAGE, Specimen
from tests.needs import needs_ordinary_user, needs_root, needs_user_namespaces
from tests.ordinary_user import ROOT, as_ordinary_user
from tests.restore.address_spaces import (
    MADV_GUARD_INSTALL,
    NAMESPACES,
    SPACES,
    another_exe,
    grown_heap,
    guard_pages,
    hidden_contents,
    image_of,
    moved_heap,
    plain,
    spoofed_arguments,
    unequal,
)

Space = Callable[[Specimen], None]


@pytest.mark.parametrize("randomize", [True, False], ids=["aslr", "no-aslr"])
@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.__name__)
def test_everything_is_equal_but_what_cannot_be(build: str, space: Space, randomize: bool) -> None:
    if space in NAMESPACES:
        needs_user_namespaces()
    image = image_of(build, space, randomize=randomize)
    with restore(image) as restored:
        assert unequal(image, checkpoint(restored)) == []


def test_an_ordinary_user_restores_all_of_them_too() -> None:
    needs_ordinary_user()
    needs_user_namespaces()
    command = [sys.executable, "-m", "tests.restore.address_spaces"]
    done = as_ordinary_user(command, cwd=ROOT, environment={"PYTHONPATH": str(ROOT)}, timeout=300)
    assert (done.stdout, done.stderr, done.returncode) == ("0 failed\n", "", 0)


def test_a_restored_specimen_can_be_restored_again(build: str) -> None:
    first = image_of(build, moved_heap, randomize=True)
    with restore(first) as restored:
        second = checkpoint(restored)
    with restore(second) as restored:
        third = checkpoint(restored)
    assert unequal(first, third) == unequal(second, third) == []


def test_a_snapshot_does_not_disturb_its_memory() -> None:
    """It would if the specimen were asked for its brk: requests arrive in its memory."""
    image = image_of("static", plain, randomize=True)
    with restore(image) as restored:
        assert restored.snapshot().brk == image.map.brk
        assert unequal(image, checkpoint(restored)) == []


def test_the_stack_does_not_grow_down_to_where_the_fresh_arguments_were() -> None:
    image = image_of("static", plain, randomize=False)
    *others, stack = image.areas
    page = Run(stack.end - PAGE, stack.runs[-1].data[-PAGE:])
    small = replace(stack, start=page.start, runs=(page,))
    assert image.registers.sp > small.start
    with Specimen(environment=(FRAME_ROOM,), randomize=False) as fresh:
        assert fresh.current_map().arg_start < small.start, "in the way of a stack that grows"
    with restore(replace(image, areas=(*others, small))) as restored:
        assert checkpoint(restored).areas[-1].start == small.start


def test_a_hard_limit_that_nobody_may_set_is_explained() -> None:
    """Not even root may set more descriptors than sysctl fs.nr_open."""
    image = image_of("static", plain, randomize=True)
    more = replace(image, limits={**image.limits, "RLIMIT_NOFILE": Limit(5, None)})
    with restore(more) as restored:
        rows = equal(more, checkpoint(restored))
        assert restored.limit("NOFILE")[0] == 5
    (row,) = (row for row in rows if row.what == "RLIMIT_NOFILE")
    assert row.explanation == "only CAP_SYS_RESOURCE may raise a hard limit"
    assert is_restored(rows)


def test_it_answers_and_lives_on(build: str) -> None:
    image = image_of(build, grown_heap, randomize=True)
    with restore(image) as restored:
        assert restored.syscall("getpid") == restored.pid != image.snapshot.pid
        assert restored.brk() == image.map.brk
        assert restored.brk(image.map.brk + PAGE) == image.map.brk + PAGE
        restored.write(restored.map(PAGE), b"new memory")
        assert restored.set_map(restored.current_map()) == 0
        restored.restart([b"again"], [])
        assert restored.snapshot().cmdline == b"again\0"


def test_memory_is_what_the_specimen_itself_reads(build: str) -> None:
    """Read by its own system calls, before and after; the image was read from outside."""
    with Specimen(build) as specimen:
        area = specimen.map(300 * PAGE)
        specimen.write(area + 100, os.urandom(200 * PAGE))
        before = specimen.read(area, 300 * PAGE)
        own = specimen.current_map()
        program = specimen.read(own.start_code & -PAGE, PAGE)
        strings = specimen.read(own.arg_start, own.env_end - own.arg_start)
        image = checkpoint(specimen)
    with restore(image) as restored:
        assert restored.read(area, 300 * PAGE) == before
        assert restored.read(own.start_code & -PAGE, PAGE) == program
        assert restored.read(own.arg_start, own.env_end - own.arg_start) == strings


def test_hidden_contents_appear_again_when_they_are_shown() -> None:
    image = image_of("static", hidden_contents, randomize=True)
    (area,) = (area for area in image.areas if area.permissions == "---p")
    with restore(image) as restored:
        with pytest.raises(SystemCallError):
            restored.read(area.start, 6)
        restored.protect(area.start, PAGE, "r--")
        assert restored.read(area.start, 6) == b"secret"


def test_guard_pages_are_guarded_again() -> None:
    with Specimen() as specimen:
        page = specimen.map(PAGE)
        if specimen.attempt("madvise", page, PAGE, MADV_GUARD_INSTALL):
            pytest.skip("this kernel has no guard pages (since v6.13)")
    image = image_of("static", guard_pages, randomize=True)
    ((first, last),) = (guards for area in image.areas for guards in area.guards)
    with restore(image) as restored:
        assert restored.can_read(first - PAGE, PAGE)
        assert not restored.can_read(first, last - first)
        assert restored.can_read(last, PAGE)


def test_shared_memory_is_shared_again() -> None:
    with Specimen() as specimen:
        area = specimen.map(PAGE, shared=True)
        specimen.write(area, b"one")
        twin = specimen.syscall("mremap", area, 0, PAGE, 1, 0)
        image = checkpoint(specimen)
    with restore(image) as restored:
        assert restored.read(twin, 3) == b"one"
        restored.write(area, b"two")
        assert restored.read(twin, 3) == b"two"


def test_the_exe_link_is_restored_only_where_it_may_be() -> None:
    needs_user_namespaces()
    image = image_of("static", another_exe, randomize=True)
    assert image.exe.kind == "path"
    with restore(image) as restored:
        assert restored.snapshot().exe == image.snapshot.exe
    with restore(image, exe=False) as restored:
        after = checkpoint(restored)
        assert after.exe.kind == "program"
        assert not is_restored(equal(image, after)), "it may have been changed"
    alone = replace(
        image, credentials=replace(image.credentials, capabilities=0, own_user_namespace=False)
    )
    if os.geteuid():
        with restore(alone) as restored:
            rows = {row.what: row for row in equal(alone, checkpoint(restored))}
            assert "CAP_CHECKPOINT_RESTORE" in rows["exe"].explanation
        with pytest.raises(MapRefused, match="EPERM"):
            restore(alone, exe=True)


def test_root_restores_another_user() -> None:
    needs_root()
    with Specimen() as specimen:
        specimen.become(1000, 1001)
        image = checkpoint(specimen)
    assert (image.credentials.uid, image.credentials.gid) == (1000, 1001)
    assert image.credentials.capabilities == 0
    with restore(image) as restored:
        assert unequal(image, checkpoint(restored)) == []


def test_an_ordinary_user_is_told_why_it_is_not_root_again(tmp_path: Path) -> None:
    needs_root()
    needs_ordinary_user()
    folder = tmp_path / "image"
    image_of("static", plain, randomize=True).save(folder)
    for path in (tmp_path, folder, *folder.iterdir()):
        path.chmod(0o755)
    program = f"""
from prctlmm_lab.restore.checkpoint import checkpoint
from prctlmm_lab.restore.equality import equal, is_restored
from prctlmm_lab.restore.image import Image
from prctlmm_lab.restore.restorer import restore
image = Image.load({str(folder)!r})
with restore(image) as restored:
    rows = equal(image, checkpoint(restored))
print(is_restored(rows), *(r.explanation for r in rows if r.what == "credentials"), sep=": ")
"""
    done = as_ordinary_user(program, environment={"PYTHONPATH": str(ROOT)}, reach=[tmp_path])
    assert done.stderr == ""
    assert done.stdout == "True: only root may become another user\n"


# ---- what is left out --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("arg_start", "arg_end"), ("start_stack",), ("env_start", "env_end")]
)
def test_a_member_that_is_left_out_keeps_what_the_fresh_specimen_had(
    names: tuple[str, ...],
) -> None:
    image = image_of("static", plain, randomize=True)
    with Specimen() as likely:
        assert likely.current_map().arg_start != image.map.arg_start, "this test needs ASLR"
    with restore(image, omit=names) as restored:
        after = checkpoint(restored)
    changed = {name for name in ADDRESSES if getattr(after.map, name) != getattr(image.map, name)}
    assert changed == set(names)
    assert not is_restored(equal(image, after))


def test_a_vector_that_is_left_out_is_the_fresh_one() -> None:
    image = image_of("static", plain, randomize=True)
    for name in ("auxv", "auxv_size"):
        with restore(image, omit=[name]) as restored:
            assert dict(checkpoint(restored).map) == dict(image.map)
            assert checkpoint(restored).auxv != image.auxv


def test_a_map_that_the_kernel_refuses_is_explained() -> None:
    image = image_of("static", moved_heap, randomize=True)
    with pytest.raises(MapRefused, match=r"EINVAL: start_brk <= brk \(order.brk\)") as caught:
        restore(image, omit=["brk"])  # the fresh one lies lower
    assert caught.value.explanation.errno == errno.EINVAL


def test_what_is_no_member_cannot_be_left_out() -> None:
    image = image_of("static", plain, randomize=True)
    with pytest.raises(InputError, match=r"'arg_strt' is not a member of .*; expected arg_start"):
        restore(image, omit=["arg_strt"])


# ---- the plan ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned() -> tuple[Image, Snapshot, tuple[Step, ...]]:
    """Give a plan, with what it was made from."""
    image = image_of("static", spoofed_arguments, randomize=True)
    with Specimen() as fresh:
        snapshot = fresh.snapshot()
    return image, snapshot, plan(image, snapshot)


def calls(steps: tuple[Step, ...], name: str) -> list[Step]:
    return [step for step in steps if step.call == name]


Planned = tuple[Image, Snapshot, tuple[Step, ...]]


def test_the_restorer_lies_in_a_hole_of_both_layouts(planned: Planned) -> None:
    image, fresh, steps = planned
    hole, size = steps[0].arguments[:2]
    assert isinstance(hole, int)
    assert isinstance(size, int)
    for start, end in occupied_by(fresh, image.areas, image.kernel_pages):
        assert end <= hole or hole + size <= start
    assert steps[-1].arguments[:2] == (hole, size)


def test_the_plan_is_in_the_order_that_is_needed(planned: Planned) -> None:
    image, _, steps = planned
    first, last = calls(steps, "rt_sigreturn")
    (call,) = [step for step in calls(steps, "prctl") if step.arguments[:2] == (35, 14)]
    order = [steps.index(step) for step in (first, call, last)]
    unmapped = [steps.index(step) for step in calls(steps, "munmap")][:-1]
    mapped = [steps.index(step) for step in calls(steps, "mmap")][1:]
    assert order[0] < min(unmapped) < max(unmapped) < min(mapped) < max(mapped) < order[1]
    assert order[1] < order[2] == len(steps) - 2
    assert [step.arguments[0] for step in calls(steps, "mmap")][1:] == [
        area.start for area in image.areas
    ]


def test_the_call_has_all_14_members(planned: Planned) -> None:
    image, _, steps = planned
    (call,) = [step for step in calls(steps, "prctl") if step.arguments[:2] == (35, 14)]
    assert call.data[:88] == image.map.pack()[:88]
    assert call.data[96:100] == len(image.auxv).to_bytes(4, "little")
    assert call.data[104:] == image.auxv


def test_a_name_is_given_again(planned: Planned) -> None:
    """Not every kernel can (CONFIG_ANON_VMA_NAME)."""
    image, fresh, _ = planned
    named = replace(image.areas[-1], start=0x10000, end=0x12000, name="mine", runs=())
    steps = plan(replace(image, areas=(named, *image.areas)), fresh)
    (step,) = [step for step in calls(steps, "prctl") if step.arguments[0] == 0x53564D41]
    assert step.arguments == (0x53564D41, 0, 0x10000, 0x2000, "&data")
    assert step.data == b"mine\0"


def test_a_plan_reads_like_a_log_of_strace(planned: Planned) -> None:
    image, _, steps = planned
    text = "\n".join(map(str, steps))
    stack = image.areas[-1]
    assert f"mmap({stack.start:#x}, {stack.size:#x}, 0x3, 0x100122, -0x1, 0x0)" in text
    assert "prctl(0x23, 0xe, &data, 0x68, 0x0)  # the kernel's notes" in text


def test_nowhere_is_room() -> None:
    with pytest.raises(InputError, match="0x2000 bytes are nowhere free"):
        find_hole([(0x1000, 0x2000), (0x3000, 0x4000)], 0x2000)


# ---- the vDSO ----------------------------------------------------------------------------------


def test_the_vdso_is_where_it_was_even_where_old_and_new_place_overlap() -> None:
    image = image_of("static", plain, randomize=False)
    with Specimen(randomize=False) as specimen:
        (now,) = specimen.snapshot().labelled("[vdso]")
    moved = tuple(
        replace(each, start=each.start - PAGE, end=each.end - PAGE) for each in image.kernel_pages
    )
    with restore(replace(image, kernel_pages=moved)) as restored:
        assert restored.snapshot().labelled("[vdso]")[0].start == now.start - PAGE


def test_the_vdso_of_another_kernel_stays_and_the_vector_names_this_one() -> None:
    image = image_of("static", plain, randomize=True)
    *others, vdso = image.kernel_pages
    other = replace(image, kernel_pages=(*others, replace(vdso, end=vdso.end + PAGE)))
    with restore(other) as restored:
        snapshot = restored.snapshot()
        (now,) = snapshot.labelled("[vdso]")
        assert [e.value for e in snapshot.aux_entries if e.name == "AT_SYSINFO_EHDR"] == [now.start]
        rows = equal(other, checkpoint(restored))
    explained = {row.what: row.explanation for row in rows if row.explanation}
    assert is_restored(rows)
    assert "another vDSO" in explained["vDSO"]
    assert "where it is now" in explained["auxv AT_SYSINFO_EHDR"]


def test_the_vdso_makes_room_for_an_area() -> None:
    with Specimen(randomize=False, environment=(FRAME_ROOM,)) as specimen:
        (vdso,) = specimen.snapshot().labelled("[vdso]")
        place(specimen, [Area(vdso.start, vdso.end, "rw-p")])
        assert str(specimen.snapshot().vma_at(vdso.start)) == f"{vdso.start:#x}-{vdso.end:#x} rw-p"
        assert specimen.snapshot().labelled("[vdso]")


# ---- areas alone -------------------------------------------------------------------------------


def test_areas_are_placed_and_the_specimen_lives_on_beside_them() -> None:
    areas = [Area(0x10000, 0x20000, "rw-p"), Area(0x20000, 0x21000, "r-xp"),
             Area(0x21000, 0x22000, "---p")]  # fmt: skip
    with Specimen(environment=(FRAME_ROOM,)) as specimen:
        place(specimen, areas, free=[(0x30000, 0x7000_0000_0000)])
        assert [str(vma) for vma in read_snapshot(specimen.pid).vmas[:3]] == [
            "0x10000-0x20000 rw-p", "0x20000-0x21000 r-xp", "0x21000-0x22000 ---p",
        ]  # fmt: skip
        assert specimen.own_memory[0] > 0x7000_0000_0000
        specimen.write(0x10000, b"hello")
        new = specimen.current_map().changed(arg_start=0x10000, arg_end=0x10005)
        assert specimen.set_map(new) == 0
        assert specimen.snapshot().cmdline == b"hello"


def test_two_neighbours_that_are_alike_stay_two() -> None:
    with Specimen(randomize=False) as specimen:
        specimen.release_executable()  # its data and its heap touch
        image = checkpoint(specimen)
    pairs = zip(image.areas, image.areas[1:], strict=False)
    assert any(one.joins(other) for one, other in pairs)
    with restore(image) as restored:
        assert checkpoint(restored).areas == image.areas


# ---- refused before anything is mapped --------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Specimen]:
    """Note every specimen that is started."""
    found: list[Specimen] = []
    plain_init = Specimen.__init__

    def noting(specimen: Specimen, *args: object, **options: object) -> None:
        found.append(specimen)
        plain_init(specimen, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Specimen, "__init__", noting)
    return found


def test_an_image_cannot_bring_code_of_its_own(started: list[Specimen]) -> None:
    image = image_of("static", plain, randomize=True)
    started.clear()
    code = image.areas[1]
    with Specimen() as specimen:
        foreign = bytearray(specimen.read(specimen.entry, PAGE))
    foreign[10] ^= 1
    started.clear()
    areas = (image.areas[0], replace(code, runs=(Run(code.start, bytes(foreign)),)),
             *image.areas[2:])  # fmt: skip
    with pytest.raises(InputError, match="is not where the specimen's loop lies"):
        restore(replace(image, areas=areas))
    with pytest.raises(InputError, match="is not where the specimen's loop lies"):
        restore(replace(image, entry=image.entry + 1))
    assert started == []


def test_another_program_machine_or_page_is_refused(started: list[Specimen]) -> None:
    image = image_of("static", plain, randomize=True)
    started.clear()
    other = replace(image.exe, sha256="0" * 64)
    for wrong, words in (
        (replace(image, exe=other), "digest of its program"),
        (replace(image, machine="aarch64"), "machine and page size"),
        (replace(image, page=0x10000), "machine and page size"),
    ):
        with pytest.raises(InputError, match=words):
            restore(wrong)
    assert started == []


def test_registers_of_another_place_are_refused() -> None:
    image = image_of("static", plain, randomize=True)
    own = image.registers
    for registers in (replace(own, pc=own.pc + 1), replace(own, sp=own.sp + 8),
                      replace(own, number=1)):  # fmt: skip
        wrong = replace(image, registers=registers)
        with pytest.raises(InputError, match="are not the registers of a loop that waits"):
            restore(wrong)


def test_addresses_that_this_kernel_does_not_have_are_refused(started: list[Specimen]) -> None:
    image = image_of("static", plain, randomize=True)
    started.clear()
    far = Area((1 << 55), (1 << 55) + PAGE, "rw-p")
    with pytest.raises(InputError, match="lies beyond this kernel's addresses"):
        restore(replace(image, areas=(*image.areas, far)))


def test_a_file_is_written_through_again(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(bytes(PAGE))
    with Specimen() as specimen:
        descriptor = specimen.open(str(path), os.O_RDWR)
        specimen.map(PAGE, descriptor=descriptor)
        shared = specimen.map(PAGE, shared=True, descriptor=descriptor)
        specimen.write(shared, b"before")
        image = checkpoint(specimen)
    with restore(image) as restored:
        assert unequal(image, checkpoint(restored)) == []
        assert restored.read(shared, 6) == b"before"
        restored.write(shared, b"after.")
    assert path.read_bytes()[:6] == b"after."


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(b"before" * 1000)
    with Specimen() as specimen:
        specimen.map(PAGE, descriptor=specimen.open(str(path)))
        image = checkpoint(specimen)
    restore(image).stop()
    path.write_bytes(b"after." * 1000)
    with pytest.raises(InputError, match="is not the file any more that was mapped"):
        restore(image)
    path.unlink()
    with pytest.raises(InputError, match="cannot be opened"):
        restore(image)
    os.mkfifo(path)
    with pytest.raises(InputError, match="is not the file any more that was mapped"):
        restore(image)
