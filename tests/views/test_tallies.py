"""What a differential test came to, as tables and as a picture, against the tally itself."""

from __future__ import annotations

import os
from collections import Counter
from functools import cache
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.differential import Tally, fuzz
from prctlmm_lab.experiments.recipe import parse_recipe
from prctlmm_lab.experiments.scenarios import CALLERS
from prctlmm_lab.experiments.wrong_models import Examination
from prctlmm_lab.kernel.model import specification
from prctlmm_lab.kernel.rules import RULES
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.views.pictures import HEIGHT, WIDTH
from prctlmm_lab.views.tables import (
    counterexamples_table,
    examination_table,
    tally_table,
    whole,
)
from prctlmm_lab.views.tallies import draw_tally

pytestmark = pytest.mark.starts_for_session("matplotlib keeps the files of its faces open")


@cache
def tally() -> Tally:
    return fuzz(20_000)


@cache
def refuted() -> Tally:
    ours = specification(facts_here())
    return fuzz(20_000, model=ours.without("order.arg"))


# ---- tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["rule", "caller", "scenario", "limit"])
def test_no_call_is_lost_in_a_table(by: str) -> None:
    table = tally_table(tally(), by)
    assert table["calls"].sum() == tally().calls
    shares = [float(share.removesuffix(" %")) for share in table["share"]]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))


def test_the_rules_stand_in_the_kernels_order_and_accepted_after_them() -> None:
    table = tally_table(tally())
    order = [rule.id for rule in RULES] + ["accepted"]
    assert list(table.index) == sorted(table.index, key=order.index)
    for name, number in tally().by_rule.items():
        assert table["calls"][name] == number
    assert table["what must be true"]["order.brk"] == "start_brk <= brk"


def test_the_verdicts_are_those_of_the_tally() -> None:
    assert dict(tally_table(tally(), "verdict")["calls"]) == dict(tally().by_verdict)


def test_a_caller_is_all_its_scenarios() -> None:
    table = tally_table(refuted(), "caller")
    expected = [name for name in CALLERS if not os.geteuid() or "uid" not in name]
    assert set(table.index) == set(expected)
    assert table["disagreements"].sum() == refuted().disagreements > 0


def test_what_cannot_be_set_up_has_its_reason() -> None:
    some = Tally("6.1", 1, calls=10, by_scenario=Counter({"as we are, static, executable x": 10}))
    some.skipped["user namespace, static, executable mapped"] = "unshare: EPERM"
    for by, name in (("caller", "user namespace"),
                     ("scenario", "user namespace, static, executable mapped")):  # fmt: skip
        row = tally_table(some, by).loc[name]
        assert (row["calls"], row["not possible here"]) == (0, "unshare: EPERM")


def test_another_word_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match="'seed' is no way to divide calls; expected rule"):
        tally_table(tally(), "seed")


def test_the_shortest_counterexample_comes_first() -> None:
    table = counterexamples_table(refuted())
    assert len(table) == len(refuted().examples) > 0
    lengths = {
        ", ".join(f"{k} = {v}" for k, v in e.experiment.change.items()): len(e.recipe)
        for e in refuted().examples
    }
    assert [lengths[change] for change in table.index] == sorted(lengths.values())
    first = table.iloc[0]
    assert (first["the model says"], first["the kernel says"]) == ("accepted", "EINVAL")
    assert parse_recipe(refuted().examples[0].recipe).experiments


def test_a_model_that_survives_has_no_counterexample() -> None:
    table = counterexamples_table(tally())
    assert len(table) == 0
    assert "the kernel says" in whole(table).to_html()


def test_each_wrong_model_is_counted_once_in_its_family() -> None:
    result = Examination(
        "6.1", 1, caught={"order.code: a -> b": "", "range.brk: a -> b": "", "_grow: a -> b": ""},
        caught_after={"order.code: a -> b": 7, "range.brk: a -> b": 9, "_grow: a -> b": 20},
        proved={"range.brk: a -> c": ""}, escaped=["range.end_code: a -> b", "_auxv: a -> b"],
    )  # fmt: skip
    table = examination_table(result)
    assert {name: list(row) for name, row in table.iterrows()} == {
        "range": [3, 1, 1, 1, 9],
        "order": [1, 1, 0, 0, 7],
        "effects": [2, 1, 0, 1, 20],
    }
    assert list(table.columns[1:4]) == ["caught", "proved", "escaped"]


# ---- the picture --------------------------------------------------------------------------------


def texts(figure: Any) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text()]


def test_the_picture_says_what_the_table_says() -> None:
    told = [text.get_text() for text in texts(draw_tally(tally()))]
    table = tally_table(tally())
    for name, number in table["calls"].items():
        assert f"{number:,}" in told
        assert name in told
    words = " ".join(told)
    assert f"seed {tally().seed}" in words
    assert "logarithmic" in words
    assert tally().kernel in words


def test_a_bar_is_as_long_as_the_logarithm_of_its_calls() -> None:
    some = Tally("6.1", 1, calls=1101, by_rule=Counter({"order.brk": 1000, "order.arg": 100,
                                                        "accepted": 1}))  # fmt: skip
    bars = draw_tally(some).findobj(Rectangle)
    lengths = sorted({round(bar.get_width(), 3) for bar in bars if bar.get_x() > 1})
    short, middle, long = lengths
    assert short == 0
    assert long == pytest.approx(1.5 * middle, abs=0.01)


def test_a_tally_without_rules_is_drawn() -> None:
    assert "Which rule decided" in [t.get_text() for t in texts(draw_tally(Tally("6.1", 1)))]


def test_no_word_is_cut_off() -> None:
    figure = draw_tally(fuzz(2000, seed=(1 << 64) - 1))
    width, height = figure.get_size_inches() * 2.54
    assert width == pytest.approx(WIDTH)
    assert height <= HEIGHT
    canvas = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    for text in texts(figure):
        box, page = text.get_window_extent(renderer), figure.bbox
        assert page.x0 <= box.x0 < box.x1 <= page.x1, text
        assert page.y0 <= box.y0 < box.y1 <= page.y1, text
