"""Comparisons as table and picture say what the comparison says, and show nothing unescaped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.side_by_side import Comparison, compare
from prctlmm_lab.views.comparisons import MOST_DRAWN, causes, comparison_table, draw_comparison

LOGBOOKS = Path(__file__).resolve().parents[2] / "data" / "logbooks"
NAMES = ("linux-5.10.262", "linux-6.12.117-la57", "linux-7.3.4")


@pytest.fixture(scope="module")
def result() -> Comparison:
    return compare({name: LogFile(LOGBOOKS / f"{name}.jsonl").records() for name in NAMES})


def texts(result: Comparison, *, whole: bool = False) -> list[str]:
    return [text.get_text() for text in draw_comparison(result, whole=whole).axes[0].texts]


def test_the_table_has_a_row_for_each_recipe_that_differs(result: Comparison) -> None:
    table = comparison_table(result)
    assert list(table.index) == [row.experiment for row in result.differing]
    assert list(table.columns) == ["title", *NAMES, "why"]
    for row in result.differing:
        for name, cell in row.cells.items():
            assert str(table.loc[row.experiment, name]).startswith(cell.verdict)
        assert str(table.loc[row.experiment, "why"]) == "; ".join(causes(row))
    assert len(comparison_table(result, whole=True)) == len(result.rows)


def test_the_picture_says_what_the_table_says(result: Comparison) -> None:
    shown = texts(result)
    for row in result.differing:
        assert row.experiment in shown
        verdicts = [cell.verdict for cell in row.cells.values()]
        assert all(any(text.startswith(v) for text in shown) for v in verdicts)
    told = " ".join(shown)
    for row in result.differing:
        for cause in causes(row):
            assert cause in told


def test_what_differs_has_a_second_mark(result: Comparison) -> None:
    """A border and a sign beside the colour: the same verdict with another effect has a sign."""
    others = [
        cell
        for row in result.differing
        for cell in row.cells.values()
        if cell.differences and not cell.other_verdict
    ]
    assert texts(result).count("accepted ≠") == len(others) > 0


def test_a_log_that_lacks_a_recipe_has_words_in_its_place(result: Comparison) -> None:
    first, *rest = result.differing
    fewer = replace(first, cells={k: v for k, v in first.cells.items() if k != NAMES[1]})
    partial = replace(result, rows=(fewer, *rest))
    assert "not in this log" in texts(partial)
    assert comparison_table(partial).loc[first.experiment, NAMES[1]] == ""


def test_what_a_stranger_calls_things_cannot_break_the_picture(result: Comparison) -> None:
    hostile = "$\\frac{$ <script>\x1b[31m\u202e" + "x" * 1000
    row = replace(result.differing[0], experiment=hostile, title=hostile)
    (name, *_) = result.kernels
    odd = Comparison({**result.kernels, name: hostile}, (row,))
    shown = "".join(texts(odd))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert len(shown) < 3000


def test_only_so_many_are_drawn_and_it_is_said(result: Comparison) -> None:
    many = replace(result, rows=tuple(result.differing[0] for _ in range(MOST_DRAWN + 5)))
    told = f"{MOST_DRAWN + 5} recipes, {MOST_DRAWN + 5} differ; {MOST_DRAWN} are drawn."
    assert any(text.endswith(told) for text in texts(many))
