"""An exercise from its stub to its ✓ as a learner solves it who has a keyboard and no mouse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prctlmm_lab.course.exercises import exercises
from tests.browser.jupyterlab import browser_path, page, run_all, server
from tests.course.wrong_refusals import WRONG
from tests.needs import skip_unless

pytestmark = pytest.mark.starts_for_session("playwright's driver")

NOTEBOOK, NUMBER = "03-why-einval.ipynb", "03.1"
CHECK = f'check("{NUMBER}", answer)'
MOST_KEYS = 200
_SOURCE = "() => window.jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel.source"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    skip_unless(browser_path(), "Chromium is not installed (Debian: chromium)")
    with server(tmp_path_factory.mktemp("jupyter")) as address, page(address, NOTEBOOK) as opened:
        yield opened


def test_an_exercise_is_solved_by_keyboard(notebook: Any) -> None:
    exercise = exercises(NUMBER[:2])[NUMBER]
    wrong, told = WRONG[NUMBER][0]
    run_all(notebook)
    go_to(notebook, CHECK)
    output(notebook, CHECK).get_by_text("not answered yet").wait_for()

    answer(notebook, wrong)
    output(notebook, CHECK).get_by_text("✗ not yet.").wait_for()
    assert told in output(notebook, CHECK).inner_text()

    ask = f'hint("{NUMBER}")'
    keys(notebook, "Escape", "b", "Enter")
    notebook.keyboard.type(ask)
    keys(notebook, "Control+Enter")
    output(notebook, ask).get_by_text("Hint 1 of 3:").wait_for()
    assert exercise.hints[0] in output(notebook, ask).inner_text()

    keys(notebook, "Escape", "k")
    answer(notebook, exercise.solution)
    output(notebook, CHECK).get_by_text("✓ right.").wait_for()
    assert "not yet" not in output(notebook, CHECK).inner_text()


def go_to(notebook: Any, text: str) -> None:
    """Walk up to the cell that holds a text, cell by cell: Run All ends at the last."""
    keys(notebook, "Escape")
    for _ in range(MOST_KEYS):
        if text in notebook.evaluate(_SOURCE):
            return
        keys(notebook, "k")
    raise AssertionError(f"{MOST_KEYS} keys did not lead to {text}")


def answer(notebook: Any, value: object) -> None:
    """Type an answer over what the present cell holds, and run it; the cell stays the same."""
    assert CHECK in notebook.evaluate(_SOURCE)
    keys(notebook, "Enter", "Control+a")
    notebook.keyboard.type(f"answer = {value!r}\n{CHECK}")
    assert notebook.evaluate(_SOURCE) == f"answer = {value!r}\n{CHECK}"
    keys(notebook, "Control+Enter")


def keys(notebook: Any, *names: str) -> None:
    for name in names:
        notebook.keyboard.press(name)


def output(notebook: Any, source: str) -> Any:
    """Return what is shown below the one cell with a source."""
    return notebook.locator(".jp-CodeCell", has_text=source).locator(".jp-OutputArea-output").last
