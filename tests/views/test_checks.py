"""The picture of the checks: the way goes as the kernel's does, no word lies over another."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import pytest

from prctlmm_lab.course.refusals import RESTORE
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Experiment, SetupError, run
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.steps import Limit, LosePrivilege
from prctlmm_lab.kernel.abi import ADDRESSES, PrctlMmMap
from prctlmm_lab.kernel.facts import CAP_SYS_ADMIN
from prctlmm_lab.kernel.releases import facts_on
from prctlmm_lab.kernel.rules import ExeFile, Explanation, Situation, explain, rules_of
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.views.checks import (
    NO_CHANGE,
    SIGNS,
    State,
    checks_scene,
    checks_svg,
    checks_text,
    draw_checks,
    explanation_of,
    rungs,
)
from prctlmm_lab.views.pictures import HEIGHT, WIDTH
from prctlmm_lab.views.scene import Box, Scene, Text
from tests.needs import skip_unless
from tests.views.test_pictures import words
from tests.views.test_scene import extent
from tests.views.test_svg import ALLOWED, SVG, texts

pytestmark = pytest.mark.starts_for_session("matplotlib keeps the files of its faces open")

REFUSALS = {e.id: e for e in shipped_recipes()["refusals"].experiments}
MANY = Experiment(
    "many",
    setup=(LosePrivilege(True), Limit("DATA", 0)),
    change={
        "end_code": "start_code", "env_end": "env_start - 1", "brk": "start_brk - 1", "auxv": 0,
        "auxv_size": 16, "exe_fd": 99,
    },
)  # fmt: skip
FIVE_LEVELS = replace(facts_on("v4.13", facts_here()), highest=(1 << 56) - 0x1001)
"""An old kernel, which makes checks that newer ones do not, with the longest addresses."""
EARLY = replace(FIVE_LEVELS, exe_capabilities=1 << CAP_SYS_ADMIN, exe_permission_early=True)


def longest(**call: int) -> Situation:
    """Return a call in which nearly everything is wrong, with numbers as long as they can be."""
    top = FIVE_LEVELS.highest
    map_ = PrctlMmMap(**dict.fromkeys(ADDRESSES, top)).changed(
        start_brk=(1 << 64) - 1, arg_start=(1 << 64) - 1, auxv=(1 << 64) - 1,
        auxv_size=(1 << 32) - 1, exe_fd=(1 << 32) - 2,
    )  # fmt: skip
    file = ExeFile(is_open=True, is_noexec=True, is_written=True)
    return Situation(map_, auxv_readable=False, rlimit_data=1 << 63, exe=file, exe_changed=True,
                     struct_readable=False, **call)  # fmt: skip


SCENES: dict[str, Callable[[], Scene]] = {
    "no call": checks_scene,
    "no call, an old kernel": lambda: checks_scene(None, EARLY),
    "accepted": lambda: checks_scene(explanation_of(Experiment("as it is"))),
    "range": lambda: checks_scene(explanation_of(REFUSALS["range.env_end"])),
    "many": lambda: checks_scene(explanation_of(MANY)),
    "the last check": lambda: checks_scene(explanation_of(REFUSALS["exe.permission"])),
    "a restorer": lambda: checks_scene(explanation_of(RESTORE)),
    "half asked": lambda: checks_scene(explanation_of(MANY), asked=4),
    "five levels": lambda: checks_scene(explain(longest(), FIVE_LEVELS), FIVE_LEVELS),
    "five levels, size": lambda: checks_scene(
        explain(longest(size=(1 << 64) - 1, arg5=(1 << 64) - 1), EARLY), EARLY
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_the_way_leaves_where_the_kernel_refuses(name: str) -> None:
    try:
        verdict = run(REFUSALS[name]).outcome.verdict
        explanation = explanation_of(REFUSALS[name])
    except SetupError as error:
        skip_unless(False, f"cannot be set up here: {error}", impossible=True)
        return
    checks = [check for rung in rungs(explanation) for check in rung.checks]
    refusing = [check for check in checks if check.state is State.REFUSES]
    assert [check.errno for check in refusing] == [verdict][: verdict != "accepted"]
    if refusing:
        (check,) = refusing
        assert check.rule.id == name
        before, after = checks[: check.position - 1], checks[check.position :]
        assert {each.state for each in before} <= {State.HOLDS}
        assert {each.state for each in after} <= {State.ALSO, State.UNREACHED}
        assert f"{verdict}: check {check.position} of {len(checks)}" in checks_text(explanation)


def test_a_call_that_the_kernel_accepts_comes_to_the_end() -> None:
    experiment = Experiment("as it is")
    assert run(experiment).outcome.verdict == "accepted"
    explanation = explanation_of(experiment)
    assert {rung.state for rung in rungs(explanation)} == {State.HOLDS}
    assert checks_text(explanation).startswith("accepted: all ")


@pytest.mark.parametrize("release", ["v3.18", "v4.14", "v5.1", "v5.14", "v7.3"])
def test_every_check_of_a_kernel_is_there_in_its_order(release: str) -> None:
    facts = facts_on(release, facts_here())
    ladder = rungs(None, facts)
    checks = [check for rung in ladder for check in rung.checks]
    assert [check.rule.id for check in checks] == [rule.id for rule in rules_of(facts)]
    assert [check.position for check in checks] == [*range(1, len(checks) + 1)]
    (loop,) = (rung for rung in ladder if rung.is_loop)
    assert [check.rule.members[0] for check in loop.checks] == list(ADDRESSES)
    names = [t.text for t in checks_scene(None, facts).marks if isinstance(t, Text)]
    assert {rung.name for rung in ladder} <= set(names)


def test_what_is_not_asked_yet_is_not_told() -> None:
    explanation = explanation_of(MANY)
    for asked in range(6):
        told = checks_text(explanation, asked=asked) + checks_svg(explanation, asked=asked)
        assert "REFUSES" not in told
        assert "would refuse" not in told
        assert SIGNS[State.ALSO].symbol not in told
        ladder = rungs(explanation, asked=asked)
        assert [r.state for r in ladder[: asked + 1]] == [State.HOLDS] * asked + [State.NEXT]
        assert {rung.state for rung in ladder[asked + 1 :]} == {State.OPEN}
    assert checks_text(explanation, asked=6).splitlines()[0].endswith("start_code < end_code")


@pytest.mark.parametrize("name", SCENES)
def test_no_word_lies_over_another_or_off_the_page(name: str) -> None:
    scene = SCENES[name]()
    shown = [mark for mark in scene.marks if isinstance(mark, Text) and mark.text.strip()]
    places = [(word.text, extent(word)) for word in shown]
    for word, (left, top, right, bottom) in places:
        assert left >= 0, word
        assert right <= scene.width, word
        assert 0 <= top < bottom <= scene.height, word
    for (one, a), (other, b) in combinations(places, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (one, other)


@pytest.mark.parametrize("name", SCENES)
def test_no_border_runs_through_a_word(name: str) -> None:
    scene = SCENES[name]()
    edges = [(b.x, b.y, b.x + b.width, b.y + b.height) for b in scene.marks
             if isinstance(b, Box) and b.stroke]  # fmt: skip
    for word in scene.marks:
        if not isinstance(word, Text) or not word.text.strip():
            continue
        left, top, right, bottom = extent(word)
        for x0, y0, x1, y1 in edges:
            inside = x0 <= left and right <= x1 and y0 <= top and bottom <= y1
            outside = right <= x0 or x1 <= left or bottom <= y0 or y1 <= top
            assert inside or outside, word


def test_both_renderers_write_the_same_words_on_one_page() -> None:
    for explanation in (None, explanation_of(RESTORE), explain(longest(), FIVE_LEVELS)):
        figure = draw_checks(explanation, FIVE_LEVELS)
        assert [t.get_text() for t in words(figure)] == texts(checks_svg(explanation, FIVE_LEVELS))
        width, height = figure.get_size_inches() * 2.54
        assert width <= WIDTH + 0.01
        assert height <= HEIGHT + 0.01


def test_the_text_says_what_the_picture_says() -> None:
    explanation = explanation_of(RESTORE)
    text = checks_text(explanation)
    for finding in explanation.findings:
        family = finding.rule.id.partition(".")[0]
        assert finding.rule.id in text or family == "range"
        if not finding.numbers.endswith(NO_CHANGE):  # that stands in the heading
            assert (finding.numbers in text) == finding.broken
    for rung in rungs(explanation):
        assert f"{rung.stage}" in text
        for check in rung.checks:
            if check.finding and check.finding.broken:
                line = next(line for line in text.splitlines() if f" {check.rule.id} " in line)
                assert check.state.value in line
                assert check.errno in line


def test_states_are_told_apart_without_colour() -> None:
    assert set(SIGNS) == set(State)
    assert len({sign.symbol for sign in SIGNS.values()}) == len(State)


def test_the_legend_has_what_is_shown_and_no_more() -> None:
    shown = texts(checks_svg(explanation_of(REFUSALS["order.code"])))
    assert "REFUSES: the way leaves here" in shown
    assert "not reached" in shown
    assert "would refuse too, but is not reached" not in shown
    assert "asked now: does it hold?" in texts(checks_svg(explanation_of(MANY), asked=1))


def test_the_svg_is_safe_and_named() -> None:
    root = ElementTree.fromstring(checks_svg(explanation_of(RESTORE)))
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= ALLOWED
    assert re.match(r"EINVAL: check \d+ of \d+ fails", root.get("aria-label") or "")


def test_where_exe_fd_asks_for_no_change_it_says_so() -> None:
    assert "The exe link: exe_fd = 0xffffffff asks for no change" in checks_text(
        explanation_of(Experiment("as it is"))
    )
    assert "The exe link:" in checks_text(explanation_of(MANY)).splitlines()


def test_an_explanation_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="has no check"):
        draw_checks(Explanation((), 0))
