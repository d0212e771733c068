"""The atlas as table, text and picture says what was recorded; what differs is marked twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prctlmm_lab.atlas.recorded import RecordedKernel, questions
from prctlmm_lab.atlas.turns import (
    FIVE_LEVELS,
    UNEXPLAINED,
    Atlas,
    Row,
    Turn,
    atlas_of,
    recorded_atlas,
)
from prctlmm_lab.specimen.recording.marks import take_noted
from prctlmm_lab.views.atlas import answers_table, atlas_table, atlas_text, draw_atlas


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return recorded_atlas()


def texts(atlas: Atlas) -> list[str]:
    return [text.get_text() for text in draw_atlas(atlas).axes[0].texts]


def test_the_table_has_every_question_and_every_kernel(atlas: Atlas) -> None:
    table = atlas_table(atlas)
    assert list(table.index) == [*questions()]
    assert list(table.columns) == ["title", *atlas.kernels, "why"]
    for row in atlas.rows:
        assert [table.loc[row.id, kernel] for kernel in atlas.kernels] == [*row.answers.values()]
        assert bool(table.loc[row.id, "why"]) == row.differs
        assert all(commits in str(table.loc[row.id, "why"]) for commits in commits_of(row))


def commits_of(row: Row) -> list[str]:
    return [turn.commits for turn in row.turns if turn.commits]


def test_the_picture_marks_each_turn_by_a_line_and_a_number_and_explains_it(atlas: Atlas) -> None:
    shown = texts(atlas)
    told = " ".join(" ".join(shown).split())
    turns = [turn for row in atlas.differing for turn in row.turns]
    assert len(turns) > 10
    for number in range(1, len(turns) + 1):
        assert str(number) in shown
    for turn in turns:
        assert " ".join(turn.why.split()) in told
    thick = [line for line in draw_atlas(atlas).axes[0].lines if line.get_linewidth() > 1]
    assert len(thick) == len(turns)


def test_the_picture_says_the_answers_that_the_table_says(atlas: Atlas) -> None:
    shown = texts(atlas)
    for row in atlas.rows:
        assert row.id in shown
        assert {*row.answers.values()} <= {*shown}
    assert "All kernels alike" in shown
    assert any("recorded on Linux" in text for text in shown)


def test_the_text_has_each_run_of_one_answer(atlas: Atlas) -> None:
    text = atlas_text(atlas)
    tail = text.partition("vector-tail:")[2]
    runs = [line.strip() for line in tail.splitlines()[1:5]]
    assert [run.rpartition(": ")[2] for run in runs] == ["kept", "gone", "kept", "gone"]
    assert runs[1] == "6.1.192 to 6.12.118: gone"


def test_what_is_recorded_is_marked_below_a_cell(atlas: Atlas) -> None:
    for show in (atlas_table, atlas_text, draw_atlas):
        take_noted()
        show(atlas)
        assert take_noted() == [atlas.origin]
    take_noted()
    answers_table([RecordedKernel("6.1")], [questions()["same-map"]])
    assert [origin.partition(" (")[0] for origin in take_noted()] == ["recorded on Linux 6.1.192"]


def test_kernels_that_are_asked_are_a_table_of_their_own() -> None:
    kernels = [RecordedKernel(release) for release in ("7.3", "6.1")]
    table = answers_table(kernels, [questions()["heap-touches"]])
    assert list(table.columns) == ["title", "6.1.192", "7.3.4", "why"]
    assert list(table.loc["heap-touches", ["6.1.192", "7.3.4"]]) == ["[heap]", "no name"]
    assert "d3bb89ea9c13" in str(table.loc["heap-touches", "why"])


def test_what_a_stranger_calls_things_cannot_break_the_picture(atlas: Atlas) -> None:
    hostile = "$\\frac{$ <script>\x1b[31m\u202e" + "x" * 500
    (first, *_) = atlas.kernels
    turn = Turn(first, hostile, (), hostile)
    row = Row(hostile, hostile, {first: hostile, hostile: "EINVAL"}, (turn,))
    odd = replace(atlas, kernels=(first, hostile), rows=(row,))
    shown = "".join(texts(odd)) + atlas_text(odd)
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_a_turn_without_a_known_cause_says_so(atlas: Atlas) -> None:
    row = next(row for row in atlas.rows if row.id == "vector-384")
    odd = replace(row, turns=(replace(row.turns[0], cause=UNEXPLAINED),))
    assert any(UNEXPLAINED in text for text in texts(replace(atlas, rows=(odd,))))


def test_kernels_with_five_levels_stand_apart_and_last(atlas: Atlas) -> None:
    wide = [kernel for kernel in atlas.kernels if kernel.endswith(FIVE_LEVELS)]
    assert [*atlas.kernels[-len(wide) :]] == wide
    assert any("5-level page tables" in text for text in texts(atlas))
    asked = questions()["stack-too-high"]
    four = atlas_of({kernel: [RecordedKernel(kernel).run(asked)] for kernel in ("6.1", "6.12")})
    assert not any("5-level page tables" in text for text in texts(four))
