"""The notebooks run where the call cannot be made: from a recording, and every result says so."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from prctlmm_lab.specimen.recording.store import shipped
from tests.notebooks.elsewhere import execute_elsewhere
from tests.notebooks.execution import WIDGET_STATE, problems

pytestmark = pytest.mark.starts_for_session("jupyter_client's event loop")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HOWS = (
    "darwin",
    "win32",
    f"seccomp:{errno.EPERM}",
    f"seccomp:{errno.ENOSYS}",
    f"seccomp:{errno.EINVAL}",
)
UNMARKED = re.compile(
    r"print\(doctor\(\)\)"  # says it in its own words
    r"|draw\(read_snapshot\(\)\)"  # is live wherever there is a /proc
    r"|\.recipe\(\)|check\("  # shows what the learner typed, no answer
    r"|shipped_logbooks\(\)"  # shows records of other kernels, with their names
    r"|readings_table\(\)|checks_table\(\)"  # say what is read and looked for, by whom
    r"|comparisons\[0\]|refused_log\("  # show what CRIU once did, and on which kernel
)


@pytest.fixture(autouse=True)
def own_logbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRCTLMM_LAB_LOGBOOK", str(tmp_path / "logbook.jsonl"))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_every_result_is_marked(path: Path, how: str, tmp_path: Path) -> None:
    notebook = execute_elsewhere(path, how, tmp_path)
    assert problems(notebook) == []
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.outputs and not UNMARKED.search(cell.source):
            assert marks(cell), cell.source
    for html in pictures(notebook):
        assert "recorded on Linux" in html or "predicted" in html


def marks(cell: Any) -> list[str]:
    """Return the marks below a cell."""
    shown = (output.get("data", {}).get("text/html", "") for output in cell.outputs)
    return [html for html in shown if "data-lab-origin" in html]


def pictures(notebook: Any) -> list[str]:
    """Return the HTML of the widgets that show a picture or an answer."""
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    values = (str(model.get("state", {}).get("value", "")) for model in state.values())
    return [value for value in values if "<svg" in value or "<img" in value]


def test_the_doctor_says_why_and_what_is_shown_instead(tmp_path: Path) -> None:
    text = outputs("from prctlmm_lab import doctor\nprint(doctor())", "win32", tmp_path)
    assert "there is no specimen for win32 on arm64" in text
    assert shipped().origin in text


def test_what_has_no_record_is_predicted_and_says_so(tmp_path: Path) -> None:
    source = (
        "from prctlmm_lab import Experiment, run\n"
        "record = run(Experiment('odd', change={'end_code': 'end_code - 3'}))\n"
        "print(record.origin, record.outcome.verdict)"
    )
    text = outputs(source, "win32", tmp_path)
    assert "predicted accepted" in text
    assert "predicted by the rules" in text


def test_the_explorer_tells_a_record_from_a_prediction(tmp_path: Path) -> None:
    source = (
        "from prctlmm_lab.views.widgets import Explorer\n"
        "explorer = Explorer(logbook=None)\n"
        "for formula in ('start_code', 'start_code + 3'):\n"
        "    explorer.edit('end_code', formula)\n"
        "    explorer.run_button.click()\n"
        "    print(explorer.answer.value.partition('</table>')[0], explorer.message.value)"
    )
    first, second = outputs(source, "win32", tmp_path).split("Record 1")
    kernel = shipped().kernel
    assert f"Linux {kernel} answered (recorded, {shipped().date})" in first
    assert "No kernel answered: predicted" in second


def test_what_is_not_known_raises_one_clear_error(tmp_path: Path) -> None:
    source = (
        "from prctlmm_lab import Specimen\n"
        "try:\n    Specimen().open('/etc/hostname')\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    text = outputs(source, "win32", tmp_path)
    assert "NotRecorded open() was not recorded at this place. On Linux" in text


def test_a_model_of_the_learner_is_refuted_by_the_specification(tmp_path: Path) -> None:
    source = (
        "from prctlmm_lab import facts_here, fuzz, specification\n"
        "mine = specification(facts_here()).with_rule('order.code',\n"
        "    lambda s, f: s.map.start_code > s.map.end_code)\n"
        "tally = fuzz(20_000, seed=3, model=mine)\n"
        "print(tally.disagreements > 0, {len(e.experiment.setup) for e in tally.examples}, tally)"
    )
    text = outputs(source, "win32", tmp_path)
    assert "True {0}" in text  # shrunk to a recipe without steps
    assert "our specification stands in for the kernel" in text


def outputs(source: str, how: str, folder: Path) -> str:
    """Execute one cell elsewhere and return all that it shows as text."""
    path = folder / "one-cell.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    (folder / "out").mkdir(exist_ok=True)
    notebook = execute_elsewhere(path, how, folder / "out")
    assert problems(notebook) == []
    shown = (
        o.get("text", "") or o["data"].get("text/plain", "") for o in notebook.cells[0].outputs
    )
    return "".join(shown)
