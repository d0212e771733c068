"""No word of a picture lies over another or off the page: on specimens, on Python, on 5 levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest

from prctlmm_lab.kernel.procfs import Snapshot, read_snapshot
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.views.layout import layout
from prctlmm_lab.views.scene import CELL, Scene, Text, draw_scene
from prctlmm_lab.views.struct_diagram import struct_scene
from tests.views.address_spaces import FACTS, snapshot, vma

FIVE_LEVELS = snapshot(
    (
        vma(0x400000, 0x402000, "r-xp", "/bin/prog"),
        vma(0xF1234567890000, 0xF1234567A90000, "r-xp", "/lib/libc.so.6"),
        vma(0xFF12345678A000, 0xFF12345678B000),
        vma(0xFFDEADBEEF0000, 0xFFDEADBEF12000, "rw-p", "[stack]"),
    ),
    {
        "start_code": 0x400000, "end_code": 0x401234, "start_data": 0x402000,
        "end_data": 0x402100, "start_brk": 0xFF12345678A000, "brk": 0xFF12345678A800,
        "start_stack": 0xFFDEADBEF11000, "arg_start": 0xFFDEADBEF11FCF,
        "arg_end": 0xFFDEADBEF11FD8, "env_start": 0xFFDEADBEF11FD8, "env_end": 0xFFDEADBEF11FE8,
    },
)  # fmt: skip
HIGHER = snapshot(
    FIVE_LEVELS.vmas,
    {
        **FIVE_LEVELS.members,
        "arg_start": 0xFF12345678A100,
        "arg_end": 0xFF12345678A120,
        "start_stack": 0xF1234567890010,
    },
)


def of_a_specimen(build: str, change: Callable[[Specimen], dict[str, int]] | None) -> Scene:
    with Specimen(build) as specimen:
        before = specimen.snapshot()
        if change is None:
            return draw_scene(layout(before))
        new = specimen.current_map().changed(**change(specimen))
        assert specimen.set_map(new) == 0
        return draw_scene(layout(specimen.snapshot(), before=before))


def all_into_one_page(specimen: Specimen) -> dict[str, int]:
    page = specimen.map(4096)
    names = [name for name, _ in specimen.current_map() if not name.startswith(("auxv", "exe"))]
    return {name: page + 16 * place for place, name in enumerate(sorted(names, key=_starts_first))}


def _starts_first(name: str) -> bool:
    return not name.endswith("_start") and not name.startswith("start_")


def nothing_mapped(specimen: Specimen) -> dict[str, int]:
    return {"arg_start": 0x10000000, "arg_end": 0x10000010, "start_stack": 0x20000000}


def five_levels(before: Snapshot | None, after: Snapshot) -> Scene:
    facts = replace(FACTS, highest=(1 << 56) - 0x1001)
    return draw_scene(layout(after, before=before, facts=facts))


SCENES: dict[str, Callable[[], Scene]] = {
    "static": lambda: of_a_specimen("static", None),
    "static-pie": lambda: of_a_specimen("static-pie", None),
    "static, all in one page": lambda: of_a_specimen("static", all_into_one_page),
    "static-pie, all in one page": lambda: of_a_specimen("static-pie", all_into_one_page),
    "static, nothing mapped": lambda: of_a_specimen("static", nothing_mapped),
    "this Python": lambda: draw_scene(layout(read_snapshot())),
    "five levels": lambda: five_levels(None, FIVE_LEVELS),
    "five levels, before and after": lambda: five_levels(FIVE_LEVELS, HIGHER),
    "the struct": lambda: struct_scene(None, None),
}


def extent(text: Text) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a text, as wide as the faces really draw it."""
    width = len(text.text) * text.size * CELL if text.fixed else running_width(text)
    left = text.x - {"start": 0.0, "middle": width / 2, "end": width}[text.anchor]
    return left, text.y - text.size * 0.38, left + width, text.y + text.size * 0.38


def running_width(text: Text) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    weight = "bold" if text.bold else "normal"
    face = FontProperties(family="DejaVu Sans", weight=weight)
    path = TextPath((0, 0), text.text, size=text.size, prop=face, usetex=False)
    return float(path.get_extents().x1)


@pytest.mark.parametrize("name", SCENES)
def test_no_word_lies_over_another_or_off_the_page(name: str) -> None:
    scene = SCENES[name]()
    words = [mark for mark in scene.marks if isinstance(mark, Text) and mark.text.strip()]
    places = [(word.text, extent(word)) for word in words]
    for word, (left, top, right, bottom) in places:
        assert left >= 0, word
        assert right <= scene.width, word
        assert 0 <= top < bottom <= scene.height, word
    for (one, a), (other, b) in combinations(places, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)
