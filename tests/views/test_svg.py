"""The drawing and its SVG: well-formed, safe, complete and with nothing on top of anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings

from prctlmm_lab.kernel.abi import ADDRESSES
from prctlmm_lab.kernel.procfs import Snapshot, read_snapshot
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.views.areas import Kind
from prctlmm_lab.views.layout import Layout, layout
from prctlmm_lab.views.legend import LOOKS, READING, Pattern
from prctlmm_lab.views.scene import CELL, SANS, Scene, Text, draw_scene
from prctlmm_lab.views.svg import address_space_svg
from tests.views.address_spaces import FACTS, HOSTILE, TOP, snapshot, snapshots, vma

SVG = "{http://www.w3.org/2000/svg}"
ALLOWED = {"svg", "title", "rect", "path", "polygon", "text"}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@given(snapshots(), snapshots())
@settings(deadline=None, max_examples=50)
def test_the_svg_is_xml_of_known_elements_and_says_what_the_layout_says(
    one: Snapshot, before: Snapshot
) -> None:
    for picture in (layout(one, facts=FACTS), layout(one, before=before)):
        svg = address_space_svg(picture)
        svg.encode()
        root = ElementTree.fromstring(svg)
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= ALLOWED
        shown = texts(svg)
        for flag in picture.flags:
            if flag.members:
                assert f"{flag.address:#x}" in shown
                assert set(flag.names) <= set(shown)
        for tile in picture.tiles:
            assert f"{tile.start:#x}" in shown


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_text(name: str) -> None:
    areas = (vma(0x1000, 0x2000, "r-xp", name), vma(0x3000, 0x4000, "rw-p", f"[anon:{name}]"))
    svg = address_space_svg(layout(snapshot(areas, {}, comm=name), note=name))
    root = ElementTree.fromstring(svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= ALLOWED
    assert not re.search(r"<script|<img|\son\w+=\"", svg)
    assert all(text.isprintable() for text in root.itertext())
    attributes = {key for element in root.iter() for key in element.attrib}
    assert not {key for key in attributes if key.startswith("on") or "href" in key}


def test_two_pictures_can_share_a_page() -> None:
    svg = address_space_svg(layout(read_snapshot()))
    assert not re.search(r'\sid="|<style|url\(', svg)


def test_it_is_as_wide_as_its_place_and_named_for_those_who_hear_it() -> None:
    root = ElementTree.fromstring(address_space_svg(layout(snapshot((), {"arg_start": 7}))))
    assert root.get("width") == "100%"
    assert root.get("height") is None
    assert root.get("role") == "img"
    title = root.findtext(f"{SVG}title")
    assert title == root.get("aria-label")
    assert "made up, pid 42" in (title or "")


def test_each_picture_has_its_legend(specimen: Specimen) -> None:
    shown = texts(address_space_svg(layout(specimen.snapshot())))
    for kind in (Kind.CODE, Kind.FILE, Kind.DATA, Kind.HEAP, Kind.STACK, Kind.KERNEL, Kind.GAP):
        assert LOOKS[kind].words in shown
    assert " ".join(shown).endswith(READING)
    empty = texts(address_space_svg(layout(snapshot((), {}))))
    assert LOOKS[Kind.GAP].words in empty
    assert LOOKS[Kind.HEAP].words not in empty


def test_every_kind_differs_from_every_other_without_colour() -> None:
    assert set(LOOKS) == set(Kind)
    mapped = set(Kind) - {Kind.GAP, Kind.REFUSED, Kind.GROUP, Kind.FOLD, Kind.UNKNOWN}
    patterns = {kind: LOOKS[kind].pattern for kind in mapped}
    shared = [kind for kind in mapped if list(patterns.values()).count(patterns[kind]) > 1]
    # Both are crossed; memory without access is white, as nothing else is.
    assert set(shared) <= {Kind.ANONYMOUS, Kind.RESERVED}
    assert {pattern for pattern in patterns.values() if pattern is Pattern.PLAIN} == {Pattern.PLAIN}


@pytest.mark.parametrize("kind", list(Kind))
def test_names_are_legible_on_every_ground(kind: Kind) -> None:
    from prctlmm_lab.views.legend import INK, MOVED, PAPER, SOFT

    assert _contrast(INK, LOOKS[kind].tint) >= 7
    assert _contrast(SOFT, LOOKS[kind].tint) >= 4.5
    assert _contrast(MOVED, PAPER) >= 4.5


def _contrast(first: str, second: str) -> float:
    """Contrast of two colours as WCAG 2 defines it: 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


# ---- nothing lies on top of anything -----------------------------------------------------------


def boxes(scene: Scene) -> Iterator[tuple[float, float, float, float, str]]:
    """Yield left, top, right, bottom of each text, by the widths of the face."""
    for mark in scene.marks:
        if isinstance(mark, Text):
            width = len(mark.text) * mark.size * (CELL if mark.fixed else SANS)
            left = mark.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[mark.anchor] * width
            half = 0.42 * mark.size
            yield left, mark.y - half, left + width, mark.y + half, mark.text


def check(picture: Layout) -> None:
    scene = draw_scene(picture)
    found = list(boxes(scene))
    for left, top, right, bottom, text in found:
        assert left >= 0, text
        assert top >= 0, text
        assert right <= scene.width - 4, text
        assert bottom <= scene.height, text
    for i, one in enumerate(found):
        for other in found[:i]:
            apart = (
                one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]
            )
            assert apart, (one[4], other[4])


@given(snapshots(), snapshots())
@settings(deadline=None, max_examples=50)
def test_no_text_lies_on_another_or_is_cut_off(one: Snapshot, before: Snapshot) -> None:
    check(layout(one, facts=FACTS))
    check(layout(one, before=before))


def test_pictures_of_real_processes_have_no_text_on_another(specimen: Specimen) -> None:
    before = specimen.snapshot()
    check(layout(before))
    page = specimen.map(0x1000)
    draft = {name: page + 8 * i for i, name in enumerate(ADDRESSES)}
    check(layout(before, draft=draft))
    high = snapshot(before.vmas, {name: TOP - 99 + i for i, name in enumerate(ADDRESSES)})
    check(layout(before, before=high, draft={**draft, "start_stack": draft["brk"]}))
    check(layout(before, draft=dict.fromkeys(ADDRESSES, TOP - 1), facts=FACTS))
    check(layout(specimen.snapshot(), before=before))
    check(layout(read_snapshot()))
