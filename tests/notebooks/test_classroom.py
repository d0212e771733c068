"""Several kernels at once run the Explorer's notebook, and all come to its end."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from bench.classroom import classroom

pytestmark = pytest.mark.starts_for_session("jupyter_client's event loop")


def test_four_learners_at_once_all_finish() -> None:
    learners = classroom(4)
    assert [learner.problems for learner in learners] == [()] * 4
    assert all(learner.memory > 10_000_000 for learner in learners), "a kernel takes more"


def test_what_fails_for_one_is_told(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell("1 / 0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    (learner,) = classroom(1, tmp_path / "a.ipynb")
    assert "ZeroDivisionError" in learner.problems[0]
