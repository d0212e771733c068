"""The SweepExplorer's widgets: what is typed reaches the kernel, what goes wrong is shown."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from prctlmm_lab import Axis, Sweep, sweep
from prctlmm_lab.experiments.recipe import parse_recipe
from prctlmm_lab.kernel.abi import MEMBERS
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.views import sweeping
from prctlmm_lab.views.sweeping import SweepExplorer, sweep_html, sweep_presets

pytestmark = pytest.mark.starts_for_session("matplotlib keeps the files of its faces open")


@pytest.fixture
def explorer() -> Iterator[SweepExplorer]:
    shown = SweepExplorer()
    yield shown
    shown.close()


def type_one_axis(explorer: SweepExplorer, member: str, first: str, last: str) -> None:
    row = explorer.rows["x"]
    explorer.rows["y"].member.value = ""
    row.member.value, row.first.value, row.last.value = member, first, last


def test_it_starts_with_the_picture_of_the_first_sweep(explorer: SweepExplorer) -> None:
    first = next(iter(sweep_presets().values()))
    assert explorer.result is not None
    assert explorer.result.sweep == first
    assert explorer.rows["x"].first.value == first.x.first
    assert explorer.result.summary() in explorer.message.value
    assert len(explorer.rows["x"].member.options) == len(MEMBERS)
    for name, row in explorer.rows.items():
        assert row.member.description == f"{name} axis"
        assert row.first.tooltip.startswith(f"{name} from")
        labels = [field.description for field in row.fields]
        assert labels == [f"{name} {word}" for word in ("axis", "from", "to", "values")]


def test_the_picture_comes_with_its_words_for_those_who_hear_it(explorer: SweepExplorer) -> None:
    assert explorer.result is not None
    shown = explorer.picture.value
    found = re.search(r'src="data:image/png;base64,([^"]+)" alt="([^"]+)"', shown)
    assert found is not None
    assert base64.b64decode(found[1]).startswith(b"\x89PNG")
    assert found[2] == explorer.result.summary()
    assert "brk = start_brk + 4*page" in shown


def test_typing_a_smaller_range_zooms(explorer: SweepExplorer) -> None:
    picture = explorer.picture.value
    for row in explorer.rows.values():
        row.first.value, row.last.value = "lowest - 4", "lowest + 4"
    assert explorer.picture.value == picture, "nothing is asked before Run"
    explorer.run_button.click()
    lowest = facts_here().lowest
    assert explorer.result is not None
    assert explorer.result.x.tolist() == list(range(lowest - 4, lowest + 5))
    assert explorer.picture.value != picture
    assert explorer.result.sweep.setup, "the set-up of the preset stays"


def test_what_is_shown_is_what_the_plain_call_gives(explorer: SweepExplorer) -> None:
    type_one_axis(explorer, "end_code", "start_code - 3", "start_code + 3")
    explorer.run_button.click()
    assert explorer.result is not None
    wanted = replace(
        sweep_presets()[explorer.preset.value],
        x=Axis("end_code", "start_code - 3", "start_code + 3"), y=None,
    )  # fmt: skip
    plain = sweep(wanted)
    assert explorer.result.sweep == wanted
    assert explorer.result.deciding.tolist() == plain.deciding.tolist()
    assert explorer.result.text() == plain.text()


@pytest.mark.parametrize("name", ["x", "y"])
def test_what_does_not_parse_is_said_at_its_axis_and_the_picture_stays(
    explorer: SweepExplorer, name: str
) -> None:
    picture, row = explorer.picture.value, explorer.rows[name]
    row.first.value = "<img src=x onerror=alert(1)>"
    said = row.problem.value
    assert 'role="alert"' in said
    assert f"{name}.from: " in said
    assert "is not a formula" in said
    assert "<img" not in said
    explorer.run_button.click()
    assert row.problem.value == said
    assert explorer.rows["y" if name == "x" else "x"].problem.value == ""
    assert explorer.picture.value == picture
    row.first.value = "lowest"
    assert row.problem.value == ""


def test_ends_in_the_wrong_order_are_said_after_run(explorer: SweepExplorer) -> None:
    picture, row = explorer.picture.value, explorer.rows["y"]
    row.first.value, row.last.value = "lowest + 2", "lowest + 1"
    assert row.problem.value == ""
    explorer.run_button.click()
    assert "lies below the other end" in row.problem.value
    assert explorer.picture.value == picture


def test_the_same_member_twice_is_said_at_y(explorer: SweepExplorer) -> None:
    explorer.rows["y"].member.value = explorer.rows["x"].member.value
    assert "is swept along x already" in explorer.rows["y"].problem.value


def test_back_shows_the_picture_before_and_its_ranges(explorer: SweepExplorer) -> None:
    before = explorer.result
    explorer.rows["x"].first.value = "lowest - 1"
    explorer.run_button.click()
    assert explorer.result is not before
    explorer.back_button.click()
    assert explorer.result is before
    assert before is not None
    assert explorer.rows["x"].first.value == before.sweep.x.first
    explorer.back_button.click()
    assert "no picture before" in explorer.message.value
    assert explorer.result is before


def test_every_preset_is_drawn_and_can_be_gone_back_from(explorer: SweepExplorer) -> None:
    for title, wanted in sweep_presets().items():
        explorer.preset.value = title
        if "EPERM" in explorer.message.value or "ENOSPC" in explorer.message.value:
            continue  # no user namespace here
        assert explorer.result is not None
        assert explorer.result.sweep.id == wanted.id
        assert explorer.rows["y"].member.value == (wanted.y.member if wanted.y else "")
    explorer.back_button.click()
    assert explorer.preset.value == list(sweep_presets())[-2]


def test_a_member_that_is_swept_is_not_changed_as_well(explorer: SweepExplorer) -> None:
    explorer.preset.value = next(t for t, s in sweep_presets().items() if s.id == "lowest")
    type_one_axis(explorer, "end_code", "start_code", "start_code + 2")
    explorer.run_button.click()
    assert explorer.result is not None
    assert explorer.result.sweep.change == {}
    assert explorer.result.disagreements == 0


def test_the_recipe_can_be_copied(explorer: SweepExplorer) -> None:
    explorer.rows["x"].count.value = 7
    explorer.recipe_button.click()
    assert explorer.recipe.layout.display == ""
    assert parse_recipe(explorer.recipe.value).sweeps == (explorer.draft(),)


def test_a_setup_that_the_kernel_refuses_is_one_sentence(
    explorer: SweepExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prctlmm_lab.experiments.steps import Open

    explorer._start = replace(explorer._start, setup=(Open("x", "/nowhere"),))
    explorer.run_button.click()
    assert "ENOENT" in explorer.message.value
    assert "Traceback" not in explorer.message.value


def test_a_mistake_in_a_handler_is_shown_and_marked(
    explorer: SweepExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Sweep) -> None:
        raise ZeroDivisionError("<b>ours</b>")

    picture = explorer.picture.value
    monkeypatch.setattr(sweeping, "sweep", broken)
    explorer.run_button.click()
    assert "data-lab-error" in explorer.message.value
    assert "&lt;b&gt;ours" in explorer.message.value
    assert explorer.picture.value == picture


def test_what_a_recipe_says_is_escaped(explorer: SweepExplorer) -> None:
    assert explorer.result is not None
    hostile = replace(explorer.result.sweep, id='"><script>', title="<script>alert(1)</script>")
    shown = sweep_html(replace(explorer.result, sweep=hostile))
    assert "<script" not in shown
    assert "&lt;script" in shown
