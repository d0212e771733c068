"""The picture of members and places, and its text twin: the same marks, and room for all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prctlmm_lab.experiments.alone import PLACES, SPECIAL, Seen, Sighting, Sightings
from prctlmm_lab.kernel.abi import MEMBER
from prctlmm_lab.views.legend import DISAGREES
from prctlmm_lab.views.members_and_places import draw_places, places_scene, text_of_places
from prctlmm_lab.views.pictures import save
from prctlmm_lab.views.scene import CELL, SANS, Box, Text

PROMISED = {m: frozenset(p.name for p in PLACES if p.promises(m)) for m in MEMBER}
AS_PROMISED = Sightings(
    {m: Sighting(m, places=PROMISED[m]) for m in MEMBER},
    {m: Sighting(m, places=PROMISED[m]) for m in MEMBER},
)


def with_one(member: str, sighting: Sighting) -> Sightings:
    changed = AS_PROMISED.usual | {member: sighting}  # type: ignore[operator]
    return Sightings(changed, changed)


def words(sightings: Sightings) -> list[str]:
    return [mark.text for mark in places_scene(sightings).marks if isinstance(mark, Text)]


def test_every_member_and_every_place_stands_in_both() -> None:
    text, drawn = text_of_places(AS_PROMISED), words(AS_PROMISED)
    for member in MEMBER:
        assert member in drawn
        assert text.count(f"\n{member} ") == 2
    ticks = [word for word in drawn if word.endswith("✓")]
    assert len(ticks) == sum(map(len, PROMISED.values())) + 1  # one is the legend's
    assert SPECIAL in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_both_count_the_marks_alike() -> None:
    table = text_of_places(AS_PROMISED).split("■ shows")[0]
    boxes = [m for m in places_scene(AS_PROMISED).marks if isinstance(m, Box) and m.width == 34]
    assert table.count("■") == len(boxes) - 1  # one is the legend's


@pytest.mark.parametrize(
    ("sighting", "symbol", "sentence"),
    [
        (Sighting("brk", places=frozenset()), "○", "not as promised"),
        (Sighting("brk", places=PROMISED["brk"] | {"elsewhere"}), "!", "not as promised"),
        (Sighting("brk", why_not="the call gave EPERM"), "?", "brk could not be moved here"),
    ],
)
def test_what_is_not_as_promised_is_plain_to_see(
    sighting: Sighting, symbol: str, sentence: str
) -> None:
    sightings = with_one("brk", sighting)
    text, drawn = text_of_places(sightings), words(sightings)
    assert symbol in text
    assert symbol in drawn
    assert sentence in text
    assert any(sentence in word for word in drawn)
    colours = {m.stroke for m in places_scene(sightings).marks if isinstance(m, Box)}
    assert (DISAGREES in colours) == (symbol != "?")


def test_a_recording_is_named() -> None:
    recorded = Sightings(
        AS_PROMISED.usual, AS_PROMISED.special, "recorded on Linux 9.9, 2030-01-01"
    )
    assert "recorded on Linux 9.9" in text_of_places(recorded)
    assert any("recorded on Linux 9.9" in word for word in words(recorded))


def test_words_stay_on_the_page_and_in_their_columns(tmp_path: Path) -> None:
    scene = places_scene(with_one("exe_fd", Sighting("exe_fd", why_not="x" * 300)))
    for mark in scene.marks:
        if isinstance(mark, Text):
            width = len(mark.text) * mark.size * (CELL if mark.fixed else SANS)
            left = mark.x - (width / 2 if mark.anchor == "middle" else 0)
            assert left >= 0, mark
            assert left + width <= scene.width, mark
            assert 0 <= mark.y <= scene.height, mark
    path = tmp_path / "places.png"
    save(draw_places(AS_PROMISED), path)
    assert path.stat().st_size > 10_000


def test_the_legend_has_what_is_drawn_and_no_more() -> None:
    assert not any("special situation only" in word for word in words(AS_PROMISED))
    assert AS_PROMISED.seen("env_end", PLACES[5]) is Seen.ALWAYS
