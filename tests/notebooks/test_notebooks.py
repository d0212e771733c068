"""The notebooks run from top to bottom, as we are and as an ordinary user, with nothing hidden."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

from tests.needs import needs_ordinary_user
from tests.notebooks.execution import execute, problems
from tests.ordinary_user import as_ordinary_user

pytestmark = pytest.mark.starts_for_session("jupyter_client's event loop")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTION = ROOT / "tests" / "notebooks" / "execution.py"


def test_there_are_notebooks_to_test() -> None:
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert {"00", "01", "02", "10", "11"} <= set(numbers)
    assert len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"\d\d-[a-z-]+\.ipynb", path.name) for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_in_the_readme_by_its_title(path: Path) -> None:
    title = json.loads(path.read_text())["cells"][0]["source"][0].removeprefix("# ").strip()
    row = f"| [{path.name[:2]} {title}](notebooks/{path.name}) |"
    assert row in (ROOT / "README.md").read_text()


@pytest.fixture(autouse=True)
def own_logbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRCTLMM_LAB_LOGBOOK", str(tmp_path / "logbook.jsonl"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_as_we_are(path: Path) -> None:
    assert problems(execute(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_as_an_ordinary_user(path: Path) -> None:
    needs_ordinary_user()
    own = {"PRCTLMM_LAB_LOGBOOK": ""}  # in their home
    ran = as_ordinary_user([sys.executable, EXECUTION, path], environment=own, timeout=180)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert "widgets" not in notebook["metadata"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_cells_are_short_and_define_nothing(path: Path) -> None:
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines()
            assert len(lines) <= 12, lines
            assert not any(line.startswith(("def ", "class ")) for line in lines)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(path: Path) -> None:
    for cell in json.loads(path.read_text())["cells"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", "".join(cell["source"])):
            assert (path.parent / target).exists(), target


# ---- exercises ----------------------------------------------------------------------------------

MILLION = ROOT / "notebooks" / "10-maps-by-the-million.ipynb"


def test_the_solution_is_not_refuted_and_what_stands_there_is(tmp_path: Path) -> None:
    """Run the exercise as it stands, and with the solution that the notebook gives."""
    cells = nbformat.read(MILLION, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    imports, exercise = sources[0], next(s for s in sources if "wrong on purpose" in s)
    (solution,) = (
        match[1]
        for cell in cells
        if (match := re.search(r"<summary>Solution.*?```python\n(.*?)```", cell.source, re.DOTALL))
    )
    line = next(line for line in exercise.splitlines() if "wrong on purpose" in line)
    solved = exercise.replace(line, solution.rstrip("\n"))
    program = "\n".join([imports, "ours = specification(facts_here())", exercise, solved])
    executed = execute(notebook_with(program, tmp_path))
    assert problems(executed) == []
    found = re.findall(r"([\d,]+) disagreements", str(executed.cells[0].outputs))
    assert len(found) == 2
    assert found[0] != "0"
    assert found[1] == "0"


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
