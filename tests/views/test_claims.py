"""The pictures of the claims: each is there once, with its mark; bars and ticks stand right."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations
from xml.etree import ElementTree

import pytest

from prctlmm_lab.experiments.claims import CLAIMS, Claim, Finding, Verdict, settle_all
from prctlmm_lab.experiments.claims.claim import History, Shown
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.message import PLACES
from prctlmm_lab.kernel.releases import CHANGES, INTRODUCED, NEWEST, Release, facts_on, following
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.views.claims import (
    claims_scene,
    claims_svg,
    claims_text,
    draw_claims,
    draw_timeline,
    releases_text,
    spans,
    timeline_scene,
    timeline_svg,
    timeline_text,
)
from prctlmm_lab.views.judgement import NEWS, Fate, fate_of
from prctlmm_lab.views.legend import DISAGREES, INK
from prctlmm_lab.views.pictures import HEIGHT, WIDTH
from prctlmm_lab.views.scene import Box, Scene, Shape, Text
from tests.views.test_pictures import words
from tests.views.test_scene import extent
from tests.views.test_svg import ALLOWED, SVG, texts

pytestmark = pytest.mark.starts_for_session("matplotlib keeps the files of its faces open")


@cache
def found() -> tuple[Finding, ...]:
    """Return what this kernel says of all claims."""
    return settle_all(CLAIMS, facts_here())


def many() -> tuple[Finding, ...]:
    """Return more claims than there are, in long and in short words, with every fate."""
    histories = [
        History(), History(since=None, commits=()), History(since=Release(4, 18)),
        History(until=Release(5, 15), stable={"5.10": 9}), History(Release(4, 5), Release(6, 12)),
    ]  # fmt: skip
    findings = []
    for number in range(100):
        statement = "start_brk_and_brk mWQ " * (1 + number % 7)
        claim = Claim(
            f"many.{chr(97 + number // 26)}{chr(97 + number % 26)}", 200 + number,
            f"{statement.strip()}.", [*PLACES][number % len(PLACES)], histories[number % 5],
            test=lambda facts: Shown(True, ""),
        )  # fmt: skip
        verdict = [*Verdict][number % 3]
        findings.append(Finding(claim, verdict, "0x10 & <b>", Verdict.HOLDS))
    return tuple(findings)


def newer() -> Facts:
    return replace(facts_here(), release="8.2.0-rc1")


SCENES: dict[str, Callable[[], Scene]] = {
    "claims as found": lambda: claims_scene(found()),
    "claims not run": lambda: claims_scene(()),
    "half of them": lambda: claims_scene(found()[::2]),
    "many claims": lambda: claims_scene(many(), [f.claim for f in many()]),
    "one claim": lambda: claims_scene(found()[:1], CLAIMS[:1]),
    "time": timeline_scene,
    "time of many": lambda: timeline_scene(None, [f.claim for f in many()]),
    "time without claims": lambda: timeline_scene(None, ()),
    "time of the first": lambda: timeline_scene(facts_on("v3.18", facts_here())),
    "time of a newer one": lambda: timeline_scene(newer()),
    "time of a kernel without a name": lambda: timeline_scene(
        replace(facts_here(), release="custom")
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_no_word_lies_over_another_or_a_border_or_off_the_page(name: str) -> None:
    scene = SCENES[name]()
    places = [(mark.text, extent(mark)) for mark in scene.marks if isinstance(mark, Text)]
    for word, (left, top, right, bottom) in places:
        assert left >= 0, word
        assert right <= scene.width, word
        assert 0 <= top < bottom <= scene.height, word
    for (one, a), (other, b) in combinations(places, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)
    edges = [(b.x, b.y, b.x + b.width, b.y + b.height) for b in scene.marks
             if isinstance(b, Box) and b.stroke]  # fmt: skip
    for word, (left, top, right, bottom) in places:
        for x0, y0, x1, y1 in edges:
            inside = x0 <= left and right <= x1 and y0 <= top and bottom <= y1
            outside = right <= x0 or x1 <= left or bottom <= y0 or y1 <= top
            assert inside or outside, word


# ---- every claim ---------------------------------------------------------------------------------


@pytest.mark.parametrize("findings", [found, many, tuple], ids=["found", "many", "none"])
def test_both_renderers_write_the_same_words_on_one_page(
    findings: Callable[[], tuple[Finding, ...]],
) -> None:
    shown = findings()
    claims = [f.claim for f in shown] or CLAIMS
    figure = draw_claims(shown, claims)
    assert [t.get_text() for t in words(figure)] == texts(claims_svg(shown, claims))
    width, height = figure.get_size_inches() * 2.54
    assert width <= WIDTH + 0.01
    assert height <= HEIGHT + 0.01


@pytest.mark.parametrize("findings", [found, many], ids=["found", "many"])
def test_every_claim_is_there_once_with_its_mark_and_in_its_place(
    findings: Callable[[], tuple[Finding, ...]],
) -> None:
    shown = findings()
    claims = [finding.claim for finding in shown]
    scene = claims_scene(shown, claims)
    rows = [mark for mark in scene.marks if isinstance(mark, Box) and mark.hint]
    marks = [mark for mark in scene.marks if isinstance(mark, Text)]
    signs = {fate.sign.symbol for fate in Fate}
    known = {finding.claim.number: finding for finding in shown}
    numbers = []
    for row in rows:
        inside = [mark for mark in marks if row.x < mark.x < row.x + row.width
                  and row.y < mark.y < row.y + row.height]  # fmt: skip
        (number,) = (int(mark.text) for mark in inside if mark.text.isdecimal())
        (sign,) = (mark.text for mark in inside if mark.text in signs)
        assert sign == fate_of(known[number]).sign.symbol
        assert known[number].claim.statement in " ".join(m.text for m in inside if not m.fixed)
        numbers.append(number)
    assert sorted(numbers) == sorted(claim.number for claim in claims)
    order = [known[number].claim.place for number in numbers]
    assert [*dict.fromkeys(order)] == [place for place in PLACES if place in order]


def test_an_altered_finding_changes_its_mark_and_news_is_marked_as_such() -> None:
    finding = next(f for f in found() if f.verdict is Verdict.HOLDS and f.expected)
    altered = replace(finding, verdict=Verdict.FAILS)
    assert finding.verdict is finding.expected
    before, after = (claims_scene((f,), (f.claim,)) for f in (finding, altered))
    signs = [{m.text for m in s.marks if isinstance(m, Text)} for s in (before, after)]
    assert Fate.HOLDS.sign.symbol in signs[0]
    assert NEWS.symbol not in signs[0]
    assert Fate.HOLDS.sign.symbol not in signs[1]
    assert {Fate.ONCE.sign.symbol, NEWS.symbol} <= signs[1]
    assert not [m for m in before.marks if isinstance(m, Box) and m.stroke == DISAGREES]
    assert [m for m in after.marks if isinstance(m, Box) and m.stroke == DISAGREES]
    assert "not what we say" in claims_text((altered,), (altered.claim,))
    assert "not what we say" not in claims_text((finding,), (finding.claim,))


def test_the_text_says_what_the_picture_says() -> None:
    lines = claims_text(found()).splitlines()
    for finding in found():
        claim = finding.claim
        (line,) = (each for each in lines if re.match(rf" *{claim.number} [✓✖◐?] ", each))
        assert fate_of(finding).value in line
        assert claim.statement in line
        assert releases_text(claim.history) in line
    counts = re.findall(r"(\d+) (hold|never held|held once|cannot be shown|holds)", lines[1])
    assert sum(int(number) for number, _ in counts) == len(CLAIMS)


def test_the_svg_is_safe_and_named() -> None:
    for svg in (claims_svg(many(), [f.claim for f in many()]), timeline_svg()):
        root = ElementTree.fromstring(svg)
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= ALLOWED
        assert len(root.get("aria-label") or "") > 30


def test_fates_are_told_apart_without_colour() -> None:
    assert len({fate.sign.symbol for fate in Fate} | {NEWS.symbol}) == len(Fate) + 1


# ---- time ----------------------------------------------------------------------------------------


def test_every_change_is_there_with_its_commits_and_later_ones_stand_further_right() -> None:
    scene = timeline_scene()
    shown = [mark.text for mark in scene.marks if isinstance(mark, Text)]
    for change in CHANGES:
        assert set(change.commits) <= set(shown)
        assert shown.count(str(change.first)) >= 1
    legend = max(m.y for m in scene.marks if isinstance(m, Text) and m.text == "this kernel")
    ticks = [mark for mark in scene.marks if isinstance(mark, Shape) and mark.fill == INK]
    ticks = [mark for mark in ticks if mark.points[0][1] < legend - 5]
    assert len(ticks) == len(CHANGES)
    for (one, a), (other, b) in combinations(zip(CHANGES, ticks, strict=True), 2):
        assert (one.first < other.first) == (a.points[1][0] < b.points[1][0] - 0.01)


def test_a_bar_covers_the_releases_on_which_its_claim_is_true() -> None:
    """Two sources: where bars begin and end, and what a history says of each release."""
    releases = [*following(INTRODUCED, NEWEST)]
    shown = spans()
    scene = timeline_scene()
    bars = [mark for mark in scene.marks if isinstance(mark, Box) and mark.hint]
    assert [bar.hint.partition(":")[0] for bar in bars] == [span.claim.id for span in shown]
    for bar, (claim, since, until) in zip(bars, shown, strict=True):
        true = [r for r in releases if claim.history.holds_on(r)]
        assert true[0] == since
        assert true[-1] == (NEWEST if until is None else max(r for r in releases if r < until))
        assert bar.width > 0
    named = {span.claim.id for span in shown}
    for claim in CLAIMS:
        always = {claim.history.holds_on(release) for release in releases}
        # A claim that was true only for an update of a series has one answer on all of these.
        assert (len(always) == 2) == (claim.id in named), claim.id


@pytest.mark.parametrize("release", ["v3.18", "v4.19", "v5.10.69", "v6.18.44", "v7.3"])
def test_this_kernel_stands_between_its_neighbours(release: str) -> None:
    facts = facts_on(release, facts_here())
    scene = timeline_scene(facts)
    (words_,) = (
        m for m in scene.marks if isinstance(m, Text) and m.text.startswith("this kernel:")
    )
    assert words_.text == f"this kernel: {release}"
    (place,) = (m for m in scene.marks if isinstance(m, Shape) and m.fill == words_.colour)
    x = place.points[2][0]
    asked = tuple(map(int, re.findall(r"\d+", release)))[:2]
    ticks = [m for m in scene.marks if isinstance(m, Shape) and m.fill == INK][: len(CHANGES)]
    for change, tick in zip(CHANGES, ticks, strict=True):
        if change.first[:2] > asked:
            assert x < tick.points[1][0]
        else:
            assert x >= tick.points[1][0] - 0.01


def test_a_newer_kernel_makes_the_time_longer() -> None:
    assert "v8.2" in [m.text for m in timeline_scene(newer()).marks if isinstance(m, Text)]
    assert timeline_text(newer()).startswith("PR_SET_MM_MAP from v3.18 to v8.2; this kernel is 8.2")


def test_both_renderers_draw_the_time_on_one_page() -> None:
    for claims in (CLAIMS, (), [f.claim for f in many()]):
        figure = draw_timeline(None, claims)
        assert [t.get_text() for t in words(figure)] == texts(timeline_svg(None, claims))
        width, height = figure.get_size_inches() * 2.54
        assert width <= WIDTH + 0.01
        assert height <= HEIGHT + 0.01


def test_the_text_of_the_time_has_every_bar_and_every_change() -> None:
    text = timeline_text()
    for claim, since, until in spans():
        assert f"From {since}{f' to {until}' if until else ' on'}" in text
        assert f"{claim.number}. {claim.statement}" in text
    for change in CHANGES:
        assert change.what in text
        assert ", ".join(change.commits) in text
        assert all(f"v{series}.{n}" in text for series, n in change.stable.items())
