"""The geometry of the picture, for any address space there may be, and for real ones."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import ADDRESSES
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable, read_snapshot
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.views.areas import MOST_TILES, Kind
from prctlmm_lab.views.layout import APART, Area, Layout, describe, layout, spread
from prctlmm_lab.words import cells, shortened, size_text
from tests.views.address_spaces import FACTS, TOP, addresses, snapshot, snapshots, vma, vmas

CLOSE = 1e-6


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Layout, Snapshot, Snapshot | None, dict[str, int]]:
    """Draw a picture of one of the four sorts, with what it was made from."""
    one = draw(snapshots())
    before = draw(st.none() | snapshots())
    names = st.sampled_from(ADDRESSES)
    draft = draw(st.none() | st.dictionaries(names, addresses(one.vmas)))
    facts = draw(st.sampled_from((None, FACTS)))
    picture = layout(one, before=before, draft=draft, facts=facts)
    return picture, one, before, {**one.members, **(draft or {})}


@given(layouts())
@settings(deadline=None)
def test_the_tiles_cover_all_addresses_in_order(
    made: tuple[Layout, Snapshot, Snapshot | None, dict[str, int]],
) -> None:
    tiles = made[0].tiles
    assert (tiles[0].start, tiles[-1].end) == (0, TOP)
    assert tiles[0].bottom == 0
    assert tiles[-1].top == pytest.approx(made[0].height)
    assert all(tile.start < tile.end and tile.top - tile.bottom >= 1 for tile in tiles)
    assert all(a.end == b.start and a.top == b.bottom for a, b in pairwise(tiles))


@given(layouts())
@settings(deadline=None)
def test_each_column_shows_each_mapped_byte_over_whole_tiles(
    made: tuple[Layout, Snapshot, Snapshot | None, dict[str, int]],
) -> None:
    picture, one, before, _ = made
    bottoms = {tile.start: tile.bottom for tile in picture.tiles}
    tops = {tile.end: tile.top for tile in picture.tiles}
    states = (one,) if len(picture.columns) == 1 else (before or one, one)
    for column, state in zip(picture.columns, states, strict=True):
        assert all(a.end == b.start for a, b in pairwise(column.areas))
        assert (column.areas[0].start, column.areas[-1].end) == (0, TOP)
        assert [area.bottom for area in column.areas] == [bottoms[a.start] for a in column.areas]
        assert [area.top for area in column.areas] == [tops[a.end] for a in column.areas]
        assert tuple(v for area in column.areas for v in area.vmas) == state.vmas
        for area in column.areas:
            assert all(area.start <= v.start and v.end <= area.end for v in area.vmas)
            if area.kind not in (Kind.FOLD, Kind.GAP, Kind.REFUSED):
                assert sum(v.size for v in area.vmas) == area.size


@given(layouts())
@settings(deadline=None)
def test_each_flag_stands_in_the_tile_that_holds_its_address(
    made: tuple[Layout, Snapshot, Snapshot | None, dict[str, int]],
) -> None:
    picture, one, before, members = made
    shown = {name: flag.address for flag in picture.flags for name in flag.members}
    assert shown == members
    for flag in picture.flags:
        tile = next(t for t in picture.tiles if t.start <= flag.address < t.end)
        assert tile == picture.tile_at(flag.address)
        assert tile.bottom - CLOSE <= flag.at <= tile.top + CLOSE
        fraction = (flag.address - tile.start) / (tile.end - tile.start)
        assert (flag.at - tile.bottom) / (tile.top - tile.bottom) == pytest.approx(fraction)
    old = {} if len(picture.columns) == 1 else (before or one).members
    moved = {name for name in old if old[name] != members[name]}
    assert {move.member for move in picture.moves} == moved
    assert {n: o for flag in picture.flags for n, o in flag.moved} == {n: old[n] for n in moved}
    assert {n: f.address for f in picture.flags for n in f.departed} == {n: old[n] for n in moved}


@given(layouts())
@settings(deadline=None)
def test_no_label_overlaps_another(
    made: tuple[Layout, Snapshot, Snapshot | None, dict[str, int]],
) -> None:
    picture = made[0]
    boxes = [
        (flag.label_at - flag.rows / 2, flag.label_at + flag.rows / 2)
        for flag in picture.flags
        if flag.label_at is not None
    ]
    boxes = sorted([*boxes, *((zoom.bottom, zoom.top) for zoom in picture.zooms)])
    assert all(a[1] <= b[0] + CLOSE for a, b in pairwise(boxes))
    assert not boxes or (boxes[0][0] >= -CLOSE and boxes[-1][1] <= picture.height + CLOSE)
    tags = sorted(move.tag_at for move in picture.moves)
    assert all(b - a >= 0.9 for a, b in pairwise(tags))


@given(layouts())
@settings(deadline=None)
def test_what_crowds_is_magnified_and_the_rest_has_a_label(
    made: tuple[Layout, Snapshot, Snapshot | None, dict[str, int]],
) -> None:
    picture = made[0]
    magnified = [flag.address for zoom in picture.zooms for flag in zoom.flags]
    assert len(magnified) == len(set(magnified))
    for flag in picture.flags:
        has_label = flag.label_at is not None
        assert has_label == (flag.address not in magnified and bool(flag.members))
    for zoom in picture.zooms:
        _check_zoom(zoom.start, zoom.end, [(s.start, s.end) for s in zoom.segments])
        assert len(zoom.flags) >= 3
        assert all(zoom.start <= flag.address <= zoom.end for flag in zoom.flags)
        lines = []
        for flag in zoom.flags:
            assert flag.label_at is not None
            lines.append((flag.label_at - flag.rows / 2, flag.label_at + flag.rows / 2))
        lines += [(s.label_at - 0.5, s.label_at + 0.5) for s in zoom.segments]
        lines.sort()
        assert all(a[1] <= b[0] + CLOSE for a, b in pairwise(lines))
        assert zoom.bottom <= lines[0][0] + CLOSE
        assert lines[-1][1] <= zoom.top + CLOSE


def _check_zoom(start: int, end: int, segments: list[tuple[int, int]]) -> None:
    assert start % 0x1000 == end % 0x1000 == 0
    assert (segments[0][0], segments[-1][1]) == (start, end)
    assert all(a[1] == b[0] for a, b in pairwise(segments))


@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0.5, 6)), max_size=15))
def test_labels_move_no_further_than_they_must(wishes: list[tuple[float, float]]) -> None:
    wishes.sort()
    wanted, room = [w for w, _ in wishes], [r for _, r in wishes]
    height = max(60.0, sum(room))
    found = spread(wanted, room, height)
    assert all(
        b - a >= (ra + rb) / 2 - CLOSE
        for (a, ra), (b, rb) in pairwise(zip(found, room, strict=True))
    )
    apart = all(
        b - a >= (ra + rb) / 2 for (a, ra), (b, rb) in pairwise(zip(wanted, room, strict=True))
    )
    inside = all(r / 2 <= w <= height - r / 2 for w, r in wishes)
    if apart and inside:
        assert found == pytest.approx(wanted)


@given(snapshots(), st.data())
@settings(deadline=None)
def test_a_draft_leaves_the_areas_alone(one: Snapshot, data: st.DataObject) -> None:
    draft = data.draw(st.dictionaries(st.sampled_from(ADDRESSES), addresses(one.vmas)))
    still, moved = layout(one, draft={}), layout(one, draft=draft)
    for a, b in zip(still.columns, moved.columns, strict=True):
        assert [(x.start, x.end, x.kind, x.name) for x in a.areas] == [
            (x.start, x.end, x.kind, x.name) for x in b.areas
        ]


@given(vmas(most=200))
@settings(deadline=None, max_examples=30)
def test_a_crowded_address_space_is_folded_to_a_page(areas: tuple[object, ...]) -> None:
    picture = layout(snapshot(areas, {}))  # type: ignore[arg-type]
    assert len(picture.tiles) <= MOST_TILES


def test_sixty_thousand_vmas_fit_on_a_page() -> None:
    areas = tuple(vma(i * 0x4000, i * 0x4000 + 0x1000) for i in range(1, 60_000))
    picture = layout(snapshot(areas, {}))
    assert len(picture.tiles) <= MOST_TILES
    assert sum(len(area.vmas) for area in picture.columns[0].areas) == len(areas)


def test_folding_spares_what_members_point_into_and_what_the_kernel_names() -> None:
    areas = [vma(i * 0x4000, i * 0x4000 + 0x1000) for i in range(1, 100)]
    areas[50] = vma(areas[50].start, areas[50].end, name="[heap]")
    picture = layout(snapshot(tuple(areas), {"arg_start": areas[20].start + 8}))
    alone = [area.vmas[0] for area in picture.columns[0].areas if len(area.vmas) == 1]
    assert areas[20] in alone
    assert areas[50] in alone


def test_folding_spares_what_differs() -> None:
    old = tuple(vma(i * 0x4000, i * 0x4000 + 0x1000) for i in range(1, 100))
    new = (*old[:40], vma(old[40].start, old[40].end, "r--p"), *old[41:])
    before, after = layout(snapshot(new, {}), before=snapshot(old, {})).columns
    assert _at(before.areas, old[40].start).permissions == "rw-p"
    assert _at(after.areas, old[40].start).permissions == "r--p"


def test_a_thousand_heaps_fit_on_a_page() -> None:
    areas = tuple(vma(i * 0x4000, i * 0x4000 + 0x1000, name="[heap]") for i in range(1, 1000))
    assert len(layout(snapshot(areas, {})).tiles) <= MOST_TILES


def test_a_zoom_shows_the_border_between_two_areas() -> None:
    areas = (vma(0x100000, 0x200000, "r-xp", "/bin/a"), vma(0x200000, 0x300000, "rw-p", "/bin/a"))
    members = {"start_code": 0x1FFFF0, "end_code": 0x1FFFF8, "start_data": 0x200010}
    (zoom,) = [z for z in layout(snapshot(areas, members)).zooms if z.flags[-1].address == 0x200010]
    assert [(s.start, s.kind) for s in zoom.segments][-3:] == [
        (0x1FFFF8, Kind.CODE),
        (0x200000, Kind.DATA),
        (0x200010, Kind.DATA),
    ]


# ---- what is mapped ----------------------------------------------------------------------------


def test_touching_vmas_of_one_file_are_one_area_unless_a_member_points_there() -> None:
    library = [vma(0x10000 + i * 0x1000, 0x11000 + i * 0x1000, p, "/lib/libc.so.6")
               for i, p in enumerate(("r--p", "r-xp", "rw-p"))]  # fmt: skip
    far = vma(0x20000, 0x21000, "r--p", "/lib/libc.so.6")
    areas = layout(snapshot((*library, far), {})).columns[0].areas
    assert [(a.name, a.count) for a in areas if a.vmas] == [("libc.so.6", "3 VMAs"),
                                                            ("libc.so.6", "")]  # fmt: skip
    areas = layout(snapshot((*library, far), {"start_code": 0x11000})).columns[0].areas
    assert [a.permissions for a in areas if a.vmas] == ["r--p", "r-xp", "rw-p", "r--p"]


def test_before_and_after_share_the_tiles_of_both() -> None:
    old = snapshot((vma(0x1000, 0x3000, name="[heap]"),), {})
    new = snapshot((vma(0x1000, 0x5000, name="[heap]"), vma(0x9000, 0xA000)), {})
    picture = layout(new, before=old)
    assert [tile.start for tile in picture.tiles] == [0, 0x1000, 0x3000, 0x5000, 0x9000, 0xA000]
    before, after = picture.columns
    assert [area.end for area in before.areas] == [0x1000, 0x3000, TOP]
    assert [area.end for area in after.areas] == [0x1000, 0x5000, 0x9000, 0xA000, TOP]


def test_maps_that_tell_a_place_twice_are_drawn_once() -> None:
    picture = layout(snapshot((vma(0x1000, 0x4000), vma(0x2000, 0x5000), vma(0x3000, 0x4000)), {}))
    areas = picture.columns[0].areas
    assert [(a.start, a.end) for a in areas if a.vmas] == [(0x1000, 0x4000), (0x4000, 0x5000)]
    assert all(a.end == b.start for a, b in pairwise(areas))


def test_what_the_call_never_accepts_is_marked_where_facts_are_known() -> None:
    areas = layout(snapshot((vma(0x400000, 0x401000),), {}), facts=FACTS).columns[0].areas
    assert [(a.start, a.kind) for a in areas] == [
        (0, Kind.REFUSED),
        (0x1000, Kind.GAP),
        (0x400000, Kind.ANONYMOUS),
        (0x401000, Kind.GAP),
        (FACTS.highest + 1, Kind.REFUSED),
    ]


def test_members_at_one_place_share_a_flag() -> None:
    heap = vma(0x1000, 0x3000, name="[heap]")
    picture = layout(snapshot((heap,), {"start_brk": 0x2000, "brk": 0x2000, "end_data": 0x2000}))
    flag = next(flag for flag in picture.flags if flag.address == 0x2000)
    assert flag.members == ("end_data", "start_brk", "brk")
    assert " ".join(flag.names) == "end_data = start_brk = brk"


def test_a_span_is_drawn_only_where_its_start_lies_below_its_end() -> None:
    area = vma(0x10000, 0x20000)
    members = {"start_code": 0x12000, "end_code": 0x11000, "arg_start": 0x13000, "arg_end": 0x14000,
               "env_start": 0x13800, "env_end": 0x15000}  # fmt: skip
    spans = layout(snapshot((area,), members)).columns[0].spans
    assert [(s.name, s.start, s.end, s.lane) for s in spans] == [
        ("command line", 0x13000, 0x14000, 0),
        ("environment", 0x13800, 0x15000, 1),
    ]


def test_parts_that_could_not_be_read_are_said_to_be_so() -> None:
    denied = Unreadable("/proc/42/maps", 13)
    picture = layout(snapshot(denied, dict.fromkeys(ADDRESSES, 0x1000)))
    (area,) = picture.columns[0].areas
    assert (area.kind, area.name) == (Kind.UNKNOWN, "not readable (EACCES)")
    assert "/proc/42/maps is not readable (EACCES)" in picture.notes
    assert picture.flags[0].members == ADDRESSES


def test_stand_ins_of_the_kernel_are_not_shown_as_values_without_a_word() -> None:
    hidden = layout(snapshot((), {"start_code": 1, "end_code": 1}))
    assert any("no permission" in note for note in hidden.notes)


@pytest.mark.parametrize("draft", [{"brk": -1}, {"brk": TOP}, {"heap": 0}, {"brk": "0x1000"}])
def test_a_draft_that_is_no_map_is_refused(draft: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(draft))):
        layout(snapshot((), {}), draft=draft)


# ---- the text twin -----------------------------------------------------------------------------


def _hexes(text: str) -> set[int]:
    return {int(word, 16) for word in re.findall(r"0x[0-9a-f]+", text)}


@given(layouts())
@settings(deadline=None)
def test_the_text_fits_a_terminal_and_has_exactly_the_addresses(
    made: tuple[Layout, Snapshot, Snapshot | None, dict[str, int]],
) -> None:
    picture, one, before, members = made
    text = describe(picture)
    assert max(map(cells, text.split("\n"))) <= 80
    assert all(line.isprintable() for line in text.split("\n"))
    old = (before or one).members if len(picture.columns) > 1 else {}
    borders = {tile.start for tile in picture.tiles} | {TOP}
    body = text.split("\n", 1)[1]
    assert _hexes(body) == borders | set(members.values()) | set(old.values())


def test_the_text_of_a_specimen_has_the_addresses_of_maps_and_stat(specimen: Specimen) -> None:
    state = specimen.snapshot()
    maps = (f"/proc/{specimen.pid}/maps", f"/proc/{specimen.pid}/stat")
    with open(maps[0]) as file:
        borders = {int(x, 16) for line in file for x in line.split()[0].split("-")}
    with open(maps[1]) as file:
        fields = file.read().rpartition(")")[2].split()
    noted = {int(fields[i - 3]) for i in (26, 27, 28, 45, 46, 47, 48, 49, 50, 51)}
    assert _hexes(describe(layout(state))) == {0, TOP} | borders | noted | {specimen.brk()}


def test_the_text_says_where_a_member_came_from(specimen: Specimen) -> None:
    before = specimen.snapshot()
    page = specimen.map(0x1000)
    new = specimen.current_map().changed(arg_start=page + 16, arg_end=page + 32)
    assert specimen.set_map(new) == 0
    lines = describe(layout(specimen.snapshot(), before=before)).split("\n")
    old = before.members["arg_start"]
    (line,) = [line for line in lines if line.split()[:2] == [f"{page + 16:#x}", "arg_start"]]
    assert line.endswith(f"was {old:#x}")
    above = lines[: lines.index(line)]
    mapped = next(line for line in reversed(above) if "-0x" in line)
    low, high = (int(x, 16) for x in mapped.split()[0].split("-"))
    assert low <= page + 16 < high


# ---- real ones ---------------------------------------------------------------------------------


def test_the_picture_of_a_specimen_is_its_maps(specimen: Specimen) -> None:
    with open(f"/proc/{specimen.pid}/maps") as file:
        lines = [line.split(maxsplit=5) for line in file]
    picture = layout(specimen.snapshot())
    areas = [area for area in picture.columns[0].areas if area.vmas]
    assert [f"{a.start:08x}-{a.end:08x}" for a in areas] == [line[0] for line in lines]
    assert [area.permissions for area in areas] == [line[1] for line in lines]
    assert _at(picture.columns[0].areas, specimen.brk() - 1).kind is Kind.HEAP


def test_the_strings_at_the_top_of_the_stack_are_magnified(specimen: Specimen) -> None:
    picture = layout(specimen.snapshot())
    (zoom,) = picture.zooms
    assert {name for flag in zoom.flags for name in flag.members} == {
        "start_stack", "arg_start", "arg_end", "env_start", "env_end"}  # fmt: skip
    named = {segment.name: segment.size for segment in zoom.segments if segment.name}
    assert named == {"command line": len(b"specimen\0"), "environment": len(b"LAB=prctlmm_lab\0")}
    places = [picture.tile_at(flag.address).place(flag.address) for flag in zoom.flags]
    assert all(b - a < APART for a, b in pairwise(places))


def test_the_picture_of_this_python_names_its_own_program() -> None:
    picture = layout(read_snapshot())
    assert len(picture.tiles) <= MOST_TILES
    state = read_snapshot()
    code = state.vma_at(state.members["start_code"])
    assert code is not None
    assert _at(picture.columns[0].areas, code.start).path == code.path


def _at(areas: tuple[Area, ...], address: int) -> Area:
    return next(area for area in areas if area.start <= address < area.end)


# ---- words -------------------------------------------------------------------------------------


@given(st.integers(1, TOP))
def test_a_size_is_told_to_three_digits(size: int) -> None:
    number, unit = size_text(size).split()
    factor = {"byte": 0, "bytes": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4, "PiB": 5, "EiB": 6}
    assert float(number) < 1024
    assert float(number) * 1024 ** factor[unit] == pytest.approx(size, rel=0.06)


@given(st.text(max_size=60), st.integers(1, 40))
def test_a_shortened_name_fits(text: str, room: int) -> None:
    found = shortened(text, room)
    assert cells(found) <= room
    if cells(text) <= room:
        assert found == text
