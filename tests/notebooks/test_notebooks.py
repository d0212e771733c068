"""The notebooks run from top to bottom, as we are and as an ordinary user, with nothing hidden."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest

from tests.needs import needs_ordinary_user
from tests.notebooks.execution import execute, problems, unsolved
from tests.ordinary_user import as_ordinary_user

pytestmark = pytest.mark.starts_for_session("jupyter_client's event loop")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTION = ROOT / "tests" / "notebooks" / "execution.py"


def test_there_are_notebooks_to_test() -> None:
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert numbers == [f"{place:02}" for place in range(len(numbers))]
    assert len(numbers) >= 12
    assert all(re.fullmatch(r"\d\d-[a-z-]+\.ipynb", path.name) for path in NOTEBOOKS)


@pytest.fixture(autouse=True)
def own_logbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRCTLMM_LAB_LOGBOOK", str(tmp_path / "logbook.jsonl"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_as_we_are(path: Path) -> None:
    assert problems(execute(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_with_its_exercises_solved(path: Path) -> None:
    notebook = execute(path, solved=True)
    assert problems(notebook) == []
    assert unsolved(notebook) == []


@pytest.mark.parametrize("solved", [False, True], ids=["as-it-is", "solved"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_as_an_ordinary_user(path: Path, solved: bool) -> None:
    needs_ordinary_user()
    own = {"PRCTLMM_LAB_LOGBOOK": ""}  # in their home
    how = ["--solved"] if solved else []
    ran = as_ordinary_user([sys.executable, EXECUTION, *how, path], environment=own, timeout=180)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


# ---- the check itself sees what an execution passes over --------------------------------------

BUTTON = """
import ipywidgets
button = ipywidgets.Button()
button.on_click(lambda _: 1 / 0)
button.click()
"""
CAPTURED = """
import ipywidgets
from IPython.display import display
out = ipywidgets.Output()
display(out)
button = ipywidgets.Button()
@out.capture()
def fail(_):
    raise ValueError("lost?")
button.on_click(fail)
button.click()
"""
EXPLORER = """
from prctlmm_lab.views.widgets import Explorer
explorer = Explorer(logbook=None)
explorer.exploration.run = lambda: 1 / 0
explorer.run_button.click()
explorer
"""
HARMLESS = """
import ipywidgets
button = ipywidgets.Button()
button.on_click(lambda _: None)
button.click()
"""


def notebook_with(source: str, folder: Path) -> Path:
    cells = [nbformat.v4.new_code_cell(source)]
    path = folder / "one-cell.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.mark.parametrize(
    ("source", "told"),
    [
        pytest.param(BUTTON, "ZeroDivisionError", id="button"),
        pytest.param(CAPTURED, "ValueError", id="output"),
        pytest.param(EXPLORER, "ZeroDivisionError", id="explorer"),
    ],
)
def test_an_error_inside_a_widget_is_seen(source: str, told: str, tmp_path: Path) -> None:
    assert told in "\n".join(problems(execute(notebook_with(source, tmp_path))))


def test_a_notebook_without_errors_has_no_problems(tmp_path: Path) -> None:
    assert problems(execute(notebook_with(HARMLESS, tmp_path))) == []
