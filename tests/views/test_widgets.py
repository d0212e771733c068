"""The Explorer's widgets: what a learner does reaches the kernel, what goes wrong is shown."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest

from prctlmm_lab.experiments.steps import Open
from prctlmm_lab.kernel.abi import MEMBERS
from prctlmm_lab.views.exploration import OWN_MEMORY
from prctlmm_lab.views.widgets import Explorer, result_html


@pytest.fixture
def explorer() -> Iterator[Explorer]:
    shown = Explorer(logbook=None)
    yield shown
    shown.close()


def test_every_member_has_a_row_and_every_row_a_label(explorer: Explorer) -> None:
    assert list(explorer.rows) == [member.name for member in MEMBERS]
    for name, row in explorer.rows.items():
        assert row.slider.description == name
        assert row.text.tooltip.startswith(name)


def test_a_slider_moves_text_value_rules_and_picture(explorer: Explorer) -> None:
    row, picture = explorer.rows["end_code"], explorer.picture.value
    row.slider.value = "before.start_code"
    assert row.text.value == "before.start_code"
    start = explorer.exploration.predict().before.members["start_code"]
    assert f"{start:#x}" in row.value.value
    assert "order.code" in explorer.answer.value
    assert "EINVAL" in explorer.picture.value != picture


def test_text_moves_the_slider_to_the_nearest_landmark(explorer: Explorer) -> None:
    row = explorer.rows["start_stack"]
    row.text.value = "arena.start + 1"
    assert row.slider.value == "arena.start"
    assert row.text.value == "arena.start + 1"


def test_a_space_that_is_still_being_typed_stays(explorer: Explorer) -> None:
    row = explorer.rows["brk"]
    row.text.value = "brk "
    assert row.text.value == "brk "


def test_run_shows_the_kernels_answer_beside_the_prediction(explorer: Explorer) -> None:
    explorer.rows["end_code"].text.value = "start_code"
    explorer.prediction.value = "EFAULT"
    explorer.run_button.click()
    assert explorer.result is not None
    assert explorer.result.record.outcome.verdict == "EINVAL"
    assert "EFAULT ✗" in explorer.answer.value
    assert "EINVAL (order.code) ✓" in explorer.answer.value


def test_what_does_not_parse_is_said_at_its_place_and_kept(explorer: Explorer) -> None:
    bad = "<img src=x onerror=alert(1)>"
    explorer.rows["arg_start"].text.value = bad
    explorer.rows["brk"].slider.value = "brk + page"
    assert explorer.rows["arg_start"].text.value == bad
    said = explorer.rows["arg_start"].value.value
    assert 'role="alert"' in said
    assert "is not a formula" in said
    assert "<img" not in said
    assert dict(explorer.exploration.draft.change) == {"brk": "brk + page"}
    explorer.run_button.click()
    assert "waits" in explorer.message.value
    assert explorer.result is None
    explorer.rows["arg_start"].text.value = ""
    assert "alert" not in explorer.rows["arg_start"].value.value


def test_undo_and_reset_also_take_back_a_text_that_does_not_parse(explorer: Explorer) -> None:
    row = explorer.rows["arg_start"]
    for button in (explorer.undo_button, explorer.reset_button):
        row.text.value = "nonsense"
        assert row.problem
        button.click()
        assert row.text.value == ""
        assert not row.problem
    explorer.undo_button.click()
    assert "nothing to undo" in explorer.message.value


def test_presets_and_builds_are_followed(explorer: Explorer) -> None:
    explorer.preset.value = "Make each rule refuse: No code at all"
    assert explorer.rows["end_code"].text.value == "before.start_code"
    explorer.preset.value = "Move the stack's label: No stack at all"
    explorer.undo_button.click()
    assert explorer.preset.value == "Make each rule refuse: No code at all"
    assert explorer.rows["end_code"].text.value == "before.start_code"
    explorer.build.value = "static-pie"
    assert explorer.exploration.predict().bench.specimen.build == "static-pie"
    explorer.undo_button.click()
    explorer.undo_button.click()
    assert explorer.build.value == "static"
    assert explorer.preset.value == OWN_MEMORY.title


def test_the_recipe_can_be_copied(explorer: Explorer) -> None:
    explorer.rows["brk"].text.value = "brk + page"
    explorer.recipe_button.click()
    assert 'change.brk = "brk + page"' in explorer.recipe.value
    assert explorer.recipe.layout.display == ""


def test_a_setup_that_the_kernel_refuses_is_one_sentence(explorer: Explorer) -> None:
    refused = replace(OWN_MEMORY, id="refused", title="refused", setup=(Open("x", "/nowhere"),))
    explorer._presets = {"A page of your own": refused}
    explorer.preset.value = explorer.preset.options[1]
    explorer.preset.value = "A page of your own"
    assert "ENOENT" in explorer.message.value
    assert "Traceback" not in explorer.message.value


def test_a_mistake_in_a_handler_is_shown_and_marked(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("<b>ours</b>")

    monkeypatch.setattr(explorer.exploration, "run", broken)
    explorer.run_button.click()
    assert "data-lab-error" in explorer.message.value
    assert "&lt;b&gt;ours" in explorer.message.value


def test_what_the_process_shows_is_escaped(explorer: Explorer) -> None:
    draft = OWN_MEMORY
    hostile = replace(draft.specimen, arguments=("<script>alert(1)</script>",))
    explorer.exploration.draft = replace(draft, specimen=hostile, change={"arg_end": "arg_end - 1"})
    explorer.run_button.click()
    assert explorer.result is not None
    assert "<script" not in result_html(explorer.result) + explorer.picture.value
    assert "&lt;script" in explorer.answer.value


def test_an_explorer_that_is_thrown_away_ends_its_specimens() -> None:
    shown = Explorer(logbook=None)
    specimen = shown.exploration.bench().specimen
    ended = weakref.ref(specimen)
    shown.close()
    assert not specimen.alive
    del shown, specimen
    gc.collect()
    assert ended() is None or not ended().alive  # type: ignore[union-attr]
