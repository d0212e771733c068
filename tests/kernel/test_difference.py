"""Differences between snapshots: each member of the call shows in its places, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prctlmm_lab.kernel.abi import MEMBERS
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.kernel.difference import Change, difference
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable, Vma, read_snapshot
from prctlmm_lab.specimen.probe import privileged_specimen
from prctlmm_lab.specimen.process import PAGE, Specimen
from tests.needs import needs_user_namespaces

PF_SUPERPRIV = 0x100
"""The flag of a process that has used a capability, here for the first time."""

Places = set[tuple[str, str]]

TEXT: Places = {("statm", "text"), ("status", "VmExe"), ("status", "VmLib")}
MOVES: dict[str, tuple[int, Places]] = {
    "start_code": (-PAGE, TEXT),
    "end_code": (+PAGE, TEXT),
    "start_data": (-8, set()),
    "end_data": (+8, set()),
    "start_brk": (+PAGE, set()),
    "brk": (-PAGE, {("brk()", "")}),
    "start_stack": (-16, set()),
    "arg_start": (+1, {("cmdline", "")}),
    "arg_end": (-1, {("cmdline", "")}),
    "env_start": (+1, {("environ", "")}),
    "env_end": (-1, {("environ", "")}),
}
"""How far each address moves, and what shows it besides its own field of stat."""


def moved(specimen: Specimen, **members: int) -> tuple[Snapshot, Snapshot]:
    before = specimen.snapshot()
    assert specimen.set_map(specimen.current_map().changed(**members)) == 0
    return before, specimen.snapshot()


def places(changes: tuple[Change, ...]) -> Places:
    return {(change.place, change.name) for change in changes}


def test_every_member_is_moved_here() -> None:
    elsewhere = {"auxv", "auxv_size", "exe_fd"}
    assert {m.name for m in MEMBERS} == set(MOVES) | elsewhere


@pytest.mark.parametrize("member", MOVES)
def test_a_member_shows_where_it_should(specimen: Specimen, member: str) -> None:
    distance, elsewhere = MOVES[member]
    value = dict(specimen.current_map())[member]
    before, after = moved(specimen, **{member: value + distance})
    changes = difference(before, after)
    in_stat = {("stat", member)} if member != "brk" else set()
    assert places(changes) == in_stat | elsewhere
    numbers = [c for c in changes if c.place in ("stat", "brk()")]
    assert [(c.before, c.after) for c in numbers] == [(value, value + distance)]


def test_a_command_line_shows_its_bytes(specimen: Specimen) -> None:
    page = specimen.map(PAGE)
    specimen.write(page, b"new\0\xff\0")
    before, after = moved(specimen, arg_start=page, arg_end=page + 6)
    changes = {c.place: c for c in difference(before, after)}
    assert str(changes["cmdline"]) == r"cmdline: b'specimen\x00' -> b'new\x00\xff\x00'"
    assert set(changes) == {"stat", "cmdline"}


def test_a_heap_elsewhere_moves_its_label(specimen: Specimen) -> None:
    page = specimen.map(PAGE)
    (heap,) = specimen.snapshot().labelled("[heap]")
    before, after = moved(specimen, start_brk=page, brk=page + PAGE)
    changes = {c.name: c for c in difference(before, after) if c.place == "maps"}
    assert {name: (c.before, c.after) for name, c in changes.items()} == {
        f"{heap.start:#x}-{heap.end:#x}": ("rw-p [heap]", "rw-p (anonymous)"),
        f"{page:#x}-{page + PAGE:#x}": ("rw-p (anonymous)", "rw-p [heap]"),
    }


def test_a_vector_shows_entry_by_entry(specimen: Specimen) -> None:
    page = specimen.map(PAGE)
    vector = encode_auxv([("AT_PAGESZ", 1), (0x1234, 2), ("AT_PAGESZ", 3)])
    specimen.write(page, vector)
    before, after = moved(specimen, auxv=page, auxv_size=len(vector))
    changes = difference(before, after)
    assert {c.place for c in changes} == {"auxv"}
    shown = {c.name: c.after for c in changes if c.after is not None}
    assert shown == {"AT_PAGESZ": 1, "0x1234": 2, "AT_PAGESZ (entry 2)": 3}
    gone = {c.name for c in changes if c.after is None}
    assert gone == {entry.name for entry in before.aux_entries} - {"AT_PAGESZ", "AT_NULL"}


def test_another_executable_shows_in_its_link_alone() -> None:
    needs_user_namespaces()
    with privileged_specimen() as specimen:
        assert specimen is not None
        ghost = specimen.memory_file("ghost")
        specimen.release_executable()
        before, after = moved(specimen, exe_fd=ghost)
        changes = {(c.place, c.name): c.after for c in difference(before, after)}
        flags = changes.pop(("stat", "flags"), PF_SUPERPRIV)
        assert changes == {("exe", ""): "/memfd:ghost (deleted)"}
        assert flags & PF_SUPERPRIV


def test_nothing_changes_where_nothing_is_done(specimen: Specimen) -> None:
    before, after = moved(specimen)
    assert difference(before, after) == ()
    assert all(
        c.place in ("stat", "status", "statm") for c in difference(before, after, counters=True)
    )


def test_counters_are_shown_on_demand(specimen: Specimen) -> None:
    address = specimen.map(64 * PAGE)
    before = specimen.snapshot()
    specimen.write(address, b"x" * 64 * PAGE)
    after = specimen.snapshot()
    assert difference(before, after) == ()
    assert ("stat", "minflt") in places(difference(before, after, counters=True))


def test_other_parts_of_a_process_show_too(specimen: Specimen) -> None:
    before = specimen.snapshot()
    page = specimen.map(PAGE)
    specimen.set_limit("CORE", 0, 0)
    specimen.set_limit("NOFILE", 17)
    changes = difference(before, specimen.snapshot())
    assert ("limits", "RLIMIT_NOFILE") in places(changes)
    maps = [c for c in changes if c.place == "maps"]
    assert any(f"{page:#x}" in c.name or c.after == "rw-p (anonymous)" for c in maps)
    assert ("status", "VmSize") in places(changes)


def test_two_areas_that_look_alike_are_told_apart() -> None:
    snapshot = read_snapshot()
    vma = Vma(0x1000, 0x2000, "r--p", 0, (8, 1), 42, "/file", "", False)
    before = replace(snapshot, maps=(vma,))
    after = replace(snapshot, maps=(replace(vma, offset=0x3000, inode=43),))
    (change,) = difference(before, after)
    assert str(change) == (
        "maps 0x1000-0x2000: r--p /file (offset 0x0, device 08:01, inode 42) -> "
        "r--p /file (offset 0x3000, device 08:01, inode 43)"
    )


def test_what_cannot_be_read_any_more_is_a_change() -> None:
    snapshot = read_snapshot()
    hidden = replace(
        snapshot,
        auxv=Unreadable("/proc/1/auxv", 13),
        maps=Unreadable("/proc/1/maps", 13),
        exe=Unreadable("/proc/1/exe", 13),
    )
    shown = {(c.place, c.name): str(c.after) for c in difference(snapshot, hidden)}
    for place in (("auxv", ""), ("maps", ""), ("exe", "")):
        assert shown[place] == "not readable (EACCES)"
