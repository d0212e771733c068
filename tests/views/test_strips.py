"""Strips of a few pages against maps and stat, and against the specification of another kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prctlmm_lab import Specimen
from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.procfs import Beside, Snapshot, Unreadable
from prctlmm_lab.views.scene import Box, Shape, Text
from prctlmm_lab.views.strips import Strips, _scene, strips, with_labels_of
from tests.views.address_spaces import FACTS, HOSTILE, PAGE, snapshot, vma

START = 0x10000
THREE = (
    vma(START + PAGE, START + 2 * PAGE, "rw-p", "[heap]"),
    vma(START + 2 * PAGE, START + 3 * PAGE, "r--p"),
)
HEAP = {"start_brk": START + PAGE, "brk": START + 2 * PAGE}


def shown(**states: Snapshot) -> Strips:
    return strips(states, start=START, pages=4, members=("start_brk", "brk"), base="room")


def texts(picture: Strips) -> list[str]:
    return [mark.text for mark in _scene(picture).marks if isinstance(mark, Text)]


def test_each_vma_and_each_hole_has_its_place() -> None:
    picture = shown(one=snapshot(THREE, HEAP))
    boxes = [m for m in _scene(picture).marks if isinstance(m, Box) and m.hint]
    hints = [box.hint for box in boxes]
    assert [hint == "nothing mapped" for hint in hints] == [True, False, False, True]
    width = boxes[-1].x + boxes[-1].width - boxes[0].x + 2
    for box, (first, pages) in zip(boxes, ((0, 1), (1, 1), (2, 1), (3, 1)), strict=True):
        assert box.x - 1 - (boxes[0].x - 1) == pytest.approx(first * width / 4)
        assert box.width + 2 == pytest.approx(pages * width / 4)
    assert {"[heap]", "no name", "rw-p", "r--p", "one"} <= set(texts(picture))


def test_members_stand_at_their_byte() -> None:
    picture = shown(
        one=snapshot(THREE, {"start_brk": START + PAGE + 0x800, "brk": START + 4 * PAGE})
    )
    pins = [m for m in _scene(picture).marks if isinstance(m, Shape)][:2]
    (left, *_), (right, *_) = (pin.points for pin in pins)
    boxes = [m for m in _scene(picture).marks if isinstance(m, Box) and m.hint]
    start = boxes[0].x - 1
    assert (left[0] - start) / (right[0] - start) == pytest.approx(1.5 / 4)


def test_words_and_picture_say_the_same() -> None:
    picture = shown(one=snapshot(THREE, HEAP), two=snapshot((), {"start_brk": 0x99, "brk": 0x99}))
    words = str(picture).splitlines()
    assert words == [
        "room = 0x10000, 16 KiB from there on",
        "one:",
        "  start_brk = 0x11000",
        "  brk = 0x12000",
        "  0x11000-0x12000 rw-p [heap]",
        "  0x12000-0x13000 r--p (no name)",
        "two:",
        "  start_brk = brk = 0x99 (not in the picture)",
    ]
    assert "start_brk = brk elsewhere" in texts(picture)
    assert "nothing mapped" in texts(picture)


def test_what_cannot_be_read_is_not_called_unmapped() -> None:
    picture = shown(one=snapshot(Unreadable("/proc/1/maps", 13), HEAP))
    assert "maps not readable (EACCES)" in texts(picture)
    assert "maps not readable (EACCES)" in str(picture)
    assert "nothing mapped" not in texts(picture)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_others_are_escaped(name: str) -> None:
    picture = shown(**{name: snapshot((vma(START, START + 4 * PAGE, "r--p", name),), HEAP)})
    html = picture._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert "\n" not in html
    assert "\x1b" not in html + str(picture)


def test_another_kernel_gives_its_own_labels() -> None:
    old = replace(FACTS, touching_heap_labelled=True)
    before = snapshot(THREE, HEAP)
    assert [v.label for v in with_labels_of(before, FACTS).vmas] == ["[heap]", ""]
    assert [v.label for v in with_labels_of(before, old).vmas] == ["[heap]", "[heap]"]


def test_a_recorded_state_is_marked() -> None:
    origin = "recorded on Linux 6.1, 2026-01-01"
    state = replace(snapshot(THREE, HEAP), beside=Beside(origin, "static", True, False))
    picture = shown(live=snapshot(THREE, HEAP), recorded=state)
    assert picture.origin == origin
    assert any(origin in text for text in texts(picture))
    assert "recorded" not in "".join(texts(shown(live=snapshot(THREE, HEAP))))


def test_a_living_specimen_is_shown_as_maps_has_it() -> None:
    with Specimen() as specimen:
        page = specimen.map(2 * PAGE)
        specimen.set_map(specimen.current_map().changed(start_stack=page + PAGE))
        now = specimen.snapshot()
        picture = strips({"now": now}, start=page, pages=2, members=("start_stack",))
    (line,) = (str(v) for v in now.vmas if page in v)
    assert line.endswith("[stack]")
    assert line in str(picture)
    assert picture.figure().get_figwidth() * 2.54 <= 16.01


def test_what_makes_no_picture_is_refused() -> None:
    state = snapshot(THREE, HEAP)
    for pages in (0, 17):
        with pytest.raises(InputError, match="1 to 16"):
            strips({"one": state}, start=START, pages=pages, members=())
    for member in ("brrk", "auxv"):
        with pytest.raises(InputError, match="strips"):
            strips({"one": state}, start=START, pages=1, members=(member,))
