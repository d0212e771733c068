"""Every member moved alone: what real calls show is what both tables say, and smaps agrees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prctlmm_lab import Specimen
from prctlmm_lab.experiments.alone import (
    ELSEWHERE,
    MOVES,
    PLACES,
    Place,
    Seen,
    Sighting,
    Sightings,
    every_member_alone,
    place_of,
)
from prctlmm_lab.kernel.abi import MEMBER
from tests.needs import skip_unless

PLACE = {place.name: place for place in PLACES}
TOLD = {
    "/proc/PID/statm text": "statm text",
    "/proc/PID/status VmExe, VmLib": "status VmExe, VmLib",
    "[heap] in /proc/PID/maps, smaps, numa_maps": "maps [heap]",
    "[stack] in /proc/PID/maps, smaps, numa_maps": "maps [stack]",
    "/proc/PID/cmdline": "cmdline",
    "/proc/PID/cmdline after setproctitle": "cmdline",
    "/proc/PID/environ": "environ",
    "/proc/PID/auxv": "auxv",
    "/proc/PID/exe": "exe",
    "brk() under RLIMIT_DATA": "brk() grows",
}
"""What the table of members calls the places that are looked at here."""


@pytest.fixture(scope="module")
def seen() -> Sightings:
    return every_member_alone()


def test_the_kernel_shows_what_the_effects_promise(seen: Sightings) -> None:
    assert seen.disagreements == ()
    assert seen.as_predicted == seen.calls == 2 * (len(MEMBER) - len(seen.left_out))
    assert not set(seen.left_out) - {"exe_fd"}, seen.left_out


def test_the_kernel_shows_what_the_table_of_members_says(seen: Sightings) -> None:
    for name, member in MEMBER.items():
        if name in seen.left_out:
            continue
        showed = {p.name for p in PLACES if seen.seen(name, p) in (Seen.ALWAYS, Seen.SPECIAL)}
        told = {TOLD[place] for place in member.shows if place in TOLD}
        told |= {"stat"} if member.stat_field else set()
        if "brk()" in member.shows:  # the one of it that each of the two bounds decides
            told |= {"brk() grows"} | ({"brk(0)"} if name == "brk" else set())
        assert showed == told, name


def test_some_show_in_the_special_situation_only(seen: Sightings) -> None:
    special = {(m, p.name) for m in MEMBER for p in PLACES if seen.seen(m, p) is Seen.SPECIAL}
    assert special == {
        ("env_start", "cmdline"),
        ("env_end", "cmdline"),
        *((member, "brk() grows") for member in ("start_data", "end_data", "start_brk", "brk")),
    }


def test_every_move_changes_its_own_member_alone(seen: Sightings) -> None:
    for name, sighting in seen.usual.items():
        fields = {row[1] for row in sighting.changes if row[0] == "stat"}
        assert fields == ({name} if MEMBER[name].stat_field and not sighting.why_not else set())
    assert list(MOVES) == list(MEMBER)


def test_smaps_has_the_labels_of_maps() -> None:
    with Specimen() as specimen:
        page = specimen.map(4096)
        for change in ({"start_stack": page}, {"brk": page + 4096}, {"start_brk": page}):
            assert specimen.set_map(specimen.current_map().changed(**change)) == 0
            snapshot = specimen.snapshot(smaps=True)
            readable = isinstance(snapshot.smaps, tuple)
            skip_unless(readable, "smaps cannot be read here", impossible=True)
            assert isinstance(snapshot.smaps, tuple)
            assert tuple(vma for vma, _ in snapshot.smaps) == snapshot.maps


@pytest.mark.parametrize(
    ("member", "row", "place"),
    [
        ("brk", ("stat", "start_brk", "0x1", "0x2"), ELSEWHERE),
        ("brk", ("statm", "data", "0x1", "0x2"), ELSEWHERE),
        ("brk", ("maps", "0x1-0x2", "rw-p (anonymous)", "rw-p [heap]"), "maps [heap]"),
        ("brk", ("maps", "0x1-0x2", "rw-p [heap]", "rw-p [stack]"), ELSEWHERE),
        ("brk", ("maps", "0x1-0x2", "(none)", "rw-p (anonymous)"), ELSEWHERE),
        ("start_stack", ("maps", "0x1-0x2", "rw-p [stack]", "rw-p (anonymous)"), "maps [stack]"),
    ],
)
def test_a_change_belongs_to_one_place(
    member: str, row: tuple[str, str, str, str], place: str
) -> None:
    assert place_of(member, row) == place


def test_what_differs_from_the_promise_is_told() -> None:
    shows = Sighting("brk", places=frozenset({"stat", "brk(0)"}))
    both = Sightings({"brk": shows}, {"brk": shows})
    assert both.seen("brk", PLACE["stat"]) is Seen.UNEXPECTED
    assert both.seen("brk", PLACE["brk(0)"]) is Seen.ALWAYS
    assert both.seen("brk", PLACE["maps [heap]"]) is Seen.MISSING
    assert both.seen("brk", Place("limits", ())) is Seen.NOTHING
    refused = replace(shows, why_not="the call gave EPERM")
    both = Sightings({"brk": refused}, {"brk": refused})
    assert both.seen("brk", PLACE["stat"]) is Seen.NOT_HERE
    assert (both.calls, both.left_out) == (0, {"brk": "the call gave EPERM"})
