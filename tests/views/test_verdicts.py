"""The picture of a sweep: its cells, looks, words and rings against the result that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.text import Text

from prctlmm_lab import Axis, Sweep, sweep
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.steps import UserNamespace
from prctlmm_lab.experiments.swept import SweepResult
from prctlmm_lab.kernel import rules
from prctlmm_lab.kernel.rules import ACCEPTED, RULES
from prctlmm_lab.views import legend
from prctlmm_lab.views.legend import DISAGREES, Look, Pattern, look_of
from prctlmm_lab.views.pictures import HEIGHT, WIDTH, save
from prctlmm_lab.views.places import apart, border_of, cell_of, levels, outline, roomiest
from prctlmm_lab.views.verdicts import draw_verdicts
from tests.needs import needs_user_namespaces

pytestmark = pytest.mark.starts_for_session("matplotlib keeps the files of its faces open")

SHIPPED = {wanted.id: wanted for wanted in shipped_recipes()["sweeps"].sweeps}


@cache
def swept(name: str) -> SweepResult:
    if any(isinstance(step, UserNamespace) for step in SHIPPED[name].setup):
        needs_user_namespaces()
    return sweep(SHIPPED[name])


@cache
def wrong() -> SweepResult:
    """Return a result over which kernel and rules disagree in one cell."""
    right = swept("heap")
    predicted = right.predicted.copy()
    predicted[100, 300] = 1
    return replace(right, predicted=predicted)


def words(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def pixels(figure: Any) -> Any:
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def rings(figure: Any) -> list[tuple[float, float]]:
    """Return the places of the rings on the page, in centimetres; the first is the legend's."""
    _, page = figure.axes
    found = [c for c in page.findobj(PathCollection) if c.get_sizes()[0] > 50]
    return [tuple(place) for c in found[::2] for place in np.asarray(c.get_offsets()).tolist()]


# ---- the looks ----------------------------------------------------------------------------------


def test_nothing_else_has_the_colour_of_a_disagreement() -> None:
    others: set[str] = set()
    for name, value in vars(legend).items():
        if isinstance(value, str) and re.fullmatch("#[0-9a-f]{6}", value) and name != "DISAGREES":
            others.add(value)
        elif isinstance(value, dict):
            for look in value.values():
                if isinstance(look, Look):
                    others |= {look.colour, look.tint, look.lines}
    others |= {legend.ACCEPTED_LOOK.tint, legend.ACCEPTED_LOOK.colour}
    assert len(others) > 25
    assert DISAGREES not in others
    distances = {o: sum((a - b) ** 2 for a, b in zip(rgb(o), rgb(DISAGREES), strict=True)) ** 0.5
                 for o in others}  # fmt: skip
    assert min(distances.values()) > 60, distances


def test_each_rule_has_a_look_and_no_two_have_the_same() -> None:
    looks = [look_of(rule) for rule in [None, *RULES] if rule is None or rule.id]
    kinds = {(look.tint, look.pattern) for look in looks}
    # The two places of one rule in different kernels never meet.
    assert len(kinds) >= len(looks) - 1
    assert look_of(None).pattern is Pattern.PLAIN
    assert all(look_of(rule).pattern is not Pattern.PLAIN for rule in RULES)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_regions_of_a_picture_are_told_apart_without_colour(name: str) -> None:
    patterns = [look_of(region.rule).pattern for region in swept(name).regions]
    assert len(set(patterns)) == len(patterns)


# ---- the cells ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_each_cell_has_the_look_of_the_rule_that_decides(name: str) -> None:
    result = swept(name)
    plot, _ = draw_verdicts(result).axes
    (image,) = plot.images
    painted: Any = image.get_array()
    assert painted.shape[:2] == result.deciding.shape
    assert image.origin == "lower"
    for row, column in np.ndindex(painted.shape[:2]):
        if (row * 7 + column) % 97 == 0:
            code = int(result.deciding[row, column])
            rule = None if code == ACCEPTED else result.rules[code]
            assert tuple(painted[row, column, :3]) == rgb(look_of(rule).tint)


def test_low_values_are_at_the_left_and_at_the_bottom() -> None:
    """Look at the picture itself: accepted is only the upper half, right of the middle."""
    around = ("lowest - 8*page", "lowest + 8*page", 40)
    result = sweep(Sweep("corner", Axis("arg_start", *around), Axis("env_start", *around)))
    figure = draw_verdicts(result)
    seen = pixels(figure)
    box = figure.axes[0].get_window_extent()
    tall = seen.shape[0]

    def colour(x: float, y: float) -> set[tuple[int, ...]]:
        left, low = int(box.x0 + x * box.width), tall - int(box.y0 + y * box.height)
        return {tuple(p) for p in seen[low - 4 : low + 4, left - 4 : left + 4].reshape(-1, 3)}

    accepted = rgb(look_of(None).tint)
    assert colour(0.95, 0.9) == {accepted}
    for place in ((0.3, 0.9), (0.3, 0.3), (0.9, 0.3)):
        assert accepted not in colour(*place)


def test_a_single_disagreement_is_painted_and_ringed() -> None:
    result = wrong()
    figure = draw_verdicts(result)
    plot, _ = figure.axes
    painted: Any = plot.images[1].get_array()
    marked = np.argwhere(painted[..., 3] > 0).tolist()
    assert marked == [[100, 300]]
    assert tuple(painted[100, 300, :3]) == rgb(DISAGREES)
    legend_ring, ring = rings(figure)
    box = plot.get_position()
    place = (
        WIDTH * (box.x0 + box.width * 300.5 / 400),
        figure.get_figheight() * 2.54 * (box.y0 + box.height * 100.5 / 400),
    )
    assert ring == pytest.approx(place)
    assert legend_ring != ring
    seen = pixels(figure)
    tall = seen.shape[0]
    dots = figure.dpi / 2.54
    near = seen[
        tall - int((place[1] + 0.3) * dots) : tall - int((place[1] - 0.3) * dots),
        int((place[0] - 0.3) * dots) : int((place[0] + 0.3) * dots),
    ]
    assert (near == rgb(DISAGREES)).all(axis=2).sum() > 20


def test_without_a_disagreement_only_the_legend_has_its_colour() -> None:
    figure = draw_verdicts(swept("heap"))
    assert len(rings(figure)) == 1
    red = (np.abs(pixels(figure).astype(int) - rgb(DISAGREES)) < 40).all(axis=2)
    box = figure.axes[0].get_window_extent()
    columns = np.nonzero(red.any(axis=0))[0]
    assert columns.size
    assert columns.min() > box.x1


def test_disagreements_everywhere_are_not_drowned_in_rings() -> None:
    right = swept("heap")
    figure = draw_verdicts(replace(right, predicted=np.full_like(right.predicted, 1)))
    assert 100 < len(rings(figure)) <= 1 + 144 + 2 * len(right.boundaries)


def test_a_disagreement_at_a_boundary_is_ringed(monkeypatch: pytest.MonkeyPatch) -> None:
    loose = replace(
        rules.RULE["order.code"], broken=lambda s, f: s.map.start_code > s.map.end_code
    )  # fmt: skip
    changed = tuple(loose if rule.id == "order.code" else rule for rule in RULES)
    monkeypatch.setattr(rules, "RULES", changed)
    result = sweep(SHIPPED["lowest"])
    assert (result.errnos == result.predicted).all()
    figure = draw_verdicts(result)
    assert len(rings(figure)) == 2
    assert f"1 in {result.calls + len(result.boundary_calls):,} calls" in " ".join(words(figure))


# ---- the words ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_the_words_say_what_the_text_twin_says(name: str) -> None:
    result = swept(name)
    told = words(draw_verdicts(result))
    flowing = re.sub(r"\s+", " ", " ".join(told))
    assert result.sweep.title in told
    for region in result.regions:
        title = f"{region.verdict}: {region.title}" if region.rule else region.title
        assert title in flowing
        assert (region.id or region.verdict) in told
        assert f"{100 * region.calls / result.calls:.1f} %" in told
    calls = result.calls + len(result.boundary_calls)
    assert f"disagreement of kernel and rules: none in {calls:,} calls" in flowing
    assert f"Linux {result.facts.release}" in flowing
    assert "both ends included" in flowing
    for axis, _ in result.scales:
        assert any(text.startswith(f"{axis.member} (") for text in told)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "descriptors"])
def test_boundaries_and_ends_are_labelled(name: str) -> None:
    result = swept(name)
    told = words(draw_verdicts(result))
    flat = [text.replace("\n", " ") for text in told]
    for edge in result.boundaries:
        if edge.slope:
            assert edge.formula in flat
        else:
            assert hex(edge.value) in told
            assert not edge.formula or edge.formula in told
    for axis, values in result.scales:
        assert {hex(int(values[0])), hex(int(values[-1]))} <= set(told)
        assert {end for _, end in axis.ends if isinstance(end, str)} <= set(told)


@pytest.mark.parametrize("name", ["heap", "limit", "command-line", "vector"])
def test_an_equation_leaves_its_line_to_be_seen(name: str) -> None:
    """Its label lies over one region: sampled along its middle, which would lie on the line."""
    result = swept(name)
    figure = draw_verdicts(result)
    plot, page = figure.axes
    height, box = figure.get_figheight() * 2.54, plot.get_position()
    formulas = {edge.formula for edge in result.boundaries if edge.slope}
    labels = [t for t in page.findobj(Text) if t.get_text().replace("\n", " ") in formulas]
    assert len(labels) == len(formulas) >= 1
    rows, columns = result.deciding.shape
    for label in labels:
        x, y = label.get_position()
        turned = np.radians(label.get_rotation())
        under = set()
        for along in np.linspace(-0.7, 0.7, 15):
            right = ((x + along * np.cos(turned)) / WIDTH - box.x0) / box.width
            up = ((y + along * np.sin(turned)) / height - box.y0) / box.height
            under.add(int(result.deciding[int(up * rows), int(right * columns)]))
        assert len(under) == 1, label
        across = abs(label.get_rotation() % 90 - 45)
        assert across < 1, "the label rises as its line does"


def test_a_band_that_is_too_narrow_for_level_words_is_named_along_it() -> None:
    figure = draw_verdicts(swept("heap"))
    accepted = [t for t in figure.findobj(Text) if t.get_text() == "accepted"]
    assert sorted(t.get_rotation() for t in accepted) == pytest.approx([0, 45])


def test_descriptors_are_told_by_their_names() -> None:
    result = swept("descriptors")
    told = words(draw_verdicts(result))
    assert set(result.descriptors) <= set(told)
    assert {str(number) for number in range(16)} <= set(told)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_word_lies_on_another_or_is_cut_off(name: str) -> None:
    figure = draw_verdicts(swept(name))
    width, height = figure.get_size_inches() * 2.54
    assert width == pytest.approx(WIDTH)
    assert height <= HEIGHT
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    page = figure.bbox
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    for text in texts:
        box = text.get_window_extent(renderer)
        assert page.x0 <= box.x0 < box.x1 <= page.x1, text
        assert page.y0 <= box.y0 < box.y1 <= page.y1, text
    upright = [t for t in texts if t.get_rotation() in (0.0, 90.0)]
    tight = [(t.get_text(), t.get_window_extent(renderer).expanded(0.98, 0.6)) for t in upright]
    for (one, a), (other, b) in combinations(tight, 2):
        assert not a.overlaps(b), (one, other)


def test_a_title_from_a_recipe_is_shown_as_it_is(tmp_path: Path) -> None:
    title = "$x^2$ <b>naïve</b> 写 \\alpha"
    result = replace(swept("lowest"), sweep=replace(SHIPPED["lowest"], title=title))
    figure = draw_verdicts(result)
    assert "$x^2$ <b>naïve</b> \\u5199 \\alpha" in words(figure)
    save(figure, tmp_path / "a.svg")
    save(figure, tmp_path / "a.pdf")


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_the_same_result_is_the_same_bytes(tmp_path: Path, ending: str) -> None:
    for name in ("one", "two"):
        save(draw_verdicts(swept("heap")), tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()


def test_a_sweep_of_one_look_and_two_values_is_drawn() -> None:
    result = sweep(Sweep("plain", Axis("start_stack", "lowest", "lowest + 1")))
    assert "accepted" in words(draw_verdicts(result))
    tiny = sweep(Sweep("t", Axis("start_stack", 0, 1), Axis("brk", "brk", "brk + 1")))
    assert "range.start_stack" in words(draw_verdicts(tiny))


def test_pyplot_is_not_touched() -> None:
    program = (
        "import sys; from prctlmm_lab import Axis, Sweep, sweep\n"
        "from prctlmm_lab.views.verdicts import draw_verdicts\n"
        "assert 'matplotlib' not in sys.modules\n"
        "draw_verdicts(sweep(Sweep('a', Axis('brk', 'brk - 9', 'brk'))))\n"
        "print('matplotlib.pyplot' in sys.modules, 'pandas' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "DISPLAY": ""}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (answer.stdout, answer.stderr) == ("False False\n", "")


# ---- places -------------------------------------------------------------------------------------


def test_cells_of_values_beyond_what_a_float_holds() -> None:
    values = np.array([(1 << 64) - 5, (1 << 64) - 3, (1 << 64) - 1], np.uint64)
    assert [cell_of(values, (1 << 64) - n) for n in (5, 3, 1)] == [0.0, 1.0, 2.0]
    assert [border_of(values, (1 << 64) - n) for n in (3, 2, 1)] == [0.5, 1.5, 1.5]


@pytest.mark.parametrize("cells", [3, 40, 400])
def test_an_outline_encloses_just_their_region(cells: int) -> None:
    """The area of the outline within the rim is that of the cells, corners apart."""
    mask = np.zeros((cells, cells), bool)
    mask[: cells // 2, cells // 3 :] = True
    mask[cells // 4, cells // 2] = False  # a hole, or a notch
    area = 0.0
    for polygon in outline(mask).to_polygons():
        x, y = np.clip(polygon, -0.5, cells - 0.5).T
        area += float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert abs(area) == pytest.approx(mask.sum(), abs=3)


def test_labels_are_moved_apart_and_stay_inside() -> None:
    assert apart([0, 0, 0], 1, 10) == [0, 1, 2]
    moved = apart([9, 9.5, 10], 2, 10)
    assert moved == [6, 8, 10]
    assert levels([(0, 1), (0, 1), (0, 1)], 0) == [0, 1, 2]


def test_a_label_is_placed_inside_its_region_or_not_at_all() -> None:
    generator = np.random.default_rng()
    for _ in range(50):
        mask = generator.random((30, 40)) < 0.9
        wide, high = int(generator.integers(1, 8)), int(generator.integers(1, 6))
        place = roomiest(mask, wide, high)
        if place is not None:
            left, low = round(place[0] - (wide - 1) / 2), round(place[1] - (high - 1) / 2)
            assert mask[low : low + high, left : left + wide].all()
    assert roomiest(np.zeros((5, 5), bool), 1, 1) is None
    assert roomiest(np.ones((5, 5), bool), 6, 1) is None
