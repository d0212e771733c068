"""The picture of the struct: its bytes are those that the kernel is given, nothing overlaps."""

from __future__ import annotations

import struct
from itertools import combinations

import pytest

from prctlmm_lab.kernel.abi import MEMBERS, PrctlMmMap
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.views.legend import MOVED
from prctlmm_lab.views.scene import CELL, SANS, Scene, Text
from prctlmm_lab.views.struct_diagram import struct_scene, struct_svg, struct_text

HIGH = PrctlMmMap(**{member.name: (1 << 8 * member.size) - 1 for member in MEMBERS})
"""Every member as long as it can be."""
LOW = PrctlMmMap()


def texts(scene: Scene) -> list[Text]:
    return [mark for mark in scene.marks if isinstance(mark, Text)]


def extent(text: Text) -> tuple[float, float, float, float]:
    width = len(text.text) * text.size * (CELL if text.fixed else SANS)
    left = text.x - {"start": 0.0, "middle": width / 2, "end": width}[text.anchor]
    return left, text.y - text.size * 0.4, left + width, text.y + text.size * 0.4


@pytest.mark.parametrize("before", [None, LOW])
@pytest.mark.parametrize("map_", [None, HIGH, LOW])
def test_no_text_lies_over_another_or_off_the_page(
    map_: PrctlMmMap | None, before: PrctlMmMap | None
) -> None:
    scene = struct_scene(map_, before)
    places = [(text, extent(text)) for text in texts(scene)]
    for text, (left, top, right, bottom) in places:
        assert left >= 0, text
        assert right <= scene.width, text
        assert 0 <= top < bottom <= scene.height, text
    for (one, a), (other, b) in combinations(places, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)


def test_the_bytes_are_those_that_the_kernel_is_given() -> None:
    with Specimen() as specimen:
        own = specimen.current_map()
        page = specimen.map(4096)
        specimen.write(page, own.pack())
        in_memory = specimen.read(page, 104)
    shown = [text.text for text in texts(struct_scene(own, None)) if len(text.text) == 2]
    shown = [text for text in shown if text[0] != "+"]
    assert bytes.fromhex("".join(shown)) == in_memory


def test_what_has_changed_has_its_old_value_beside_it() -> None:
    new = LOW.changed(brk=0x5000, exe_fd=3)
    changed = [t.text for t in texts(struct_scene(new, LOW)) if t.colour == MOVED]
    assert [text for text in changed if "was" in text] == ["0x5000  was 0x0", "0x3  was 0xffffffff"]
    assert changed.count("50") == 1
    assert not [t for t in texts(struct_scene(new, new)) if t.colour == MOVED]


def test_the_text_says_what_the_picture_says() -> None:
    new = LOW.changed(brk=0x5000)
    lines = struct_text(new, before=LOW).splitlines()[1:]
    offset = 0
    for member, line in zip(MEMBERS, lines, strict=True):
        at, size, name, value, *_ = line.split()
        assert (int(at, 16), name) == (offset, member.name)
        offset += int(size)
        assert int(value, 16) == getattr(new, member.name)
    assert offset == struct.calcsize("12Q2I")
    assert [line for line in lines if "(was 0x0)" in line] == [lines[5]]


def test_the_svg_has_every_member_and_nothing_to_run() -> None:
    svg = struct_svg(HIGH, before=LOW)
    assert all(f">{member.name}</text>" in svg for member in MEMBERS)
    assert "<script" not in svg
