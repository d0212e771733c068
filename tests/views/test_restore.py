"""Tables and pictures of checkpoint and restore hold what the data do, and so do their twins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from prctlmm_lab.atlas.images import images
from prctlmm_lab.errors import InputError
from prctlmm_lab.restore.checkpoint import checkpoint
from prctlmm_lab.restore.equality import Row, equal
from prctlmm_lab.restore.failures import FAILURES
from prctlmm_lab.restore.image import Image
from prctlmm_lab.restore.omissions import Omission, omissions
from prctlmm_lab.restore.plan import plan
from prctlmm_lab.restore.restorer import restore
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.recording.marks import take_noted
from prctlmm_lab.views.restore import (
    COLUMNS,
    areas_table,
    criu_here,
    differs,
    equality_table,
    failures_table,
    omissions_scene,
    omissions_table,
    orders_table,
    plan_table,
    refused_log,
    restored_elsewhere,
    text_of_omissions,
)
from prctlmm_lab.views.scene import Box, Text
from tests.needs import skip_unless

FOUND = omissions()


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with Specimen(arguments=[b"editor", b"notes.txt"]) as specimen:
        specimen.write(specimen.map(2 * PAGE), b"x")
        yield checkpoint(specimen)


def test_the_areas_are_those_of_the_image_and_their_bytes_add_up(image: Image) -> None:
    table = areas_table(image)
    assert [*table.index] == [hex(area.start) for area in image.areas]
    assert [*table["rights"]] == [area.permissions for area in image.areas]
    assert {"[heap]", "[stack]", "anonymous memory"} <= {*table["what is there"]}
    assert [*table["in the image"]].count("0 bytes") == sum(not area.runs for area in image.areas)


def test_a_plan_has_a_row_for_each_step_and_one_call(image: Image) -> None:
    with Specimen() as fresh:
        steps = plan(image, fresh.snapshot())
    table = plan_table(steps)
    assert [*table.index] == [*range(1, len(steps) + 1)]
    assert [*table["call"]] == [step.call for step in steps]
    assert [*table["arguments"]].count("0x23, 0xe, &data, 0x68, 0x0") == 1
    assert not any("-0x" in text for text in table["arguments"])


def test_equality_is_told_by_reason(image: Image) -> None:
    with restore(image) as restored:
        rows = equal(image, checkpoint(restored))
    table, long = equality_table(rows), equality_table(rows, whole=True)
    reasons = {row.explanation for row in rows if not row.equal}
    assert table.index[0] == "equal"
    assert sorted(table.index[1:]) == sorted(reasons)
    assert {*str(table["what"].iloc[0]).split(", ")} >= {"brk", "memory", "VMAs", "auxv"}
    assert [*long.index] == [row.what for row in rows]
    wrong = Row("brk", "0x1000", "0x2000", False)
    assert [*equality_table([*rows, wrong]).loc["NOT EQUAL"]] == ["brk", "0x1000", "0x2000"]


def test_omissions_are_the_same_in_table_picture_and_text() -> None:
    table, scene, text = omissions_table(FOUND), omissions_scene(FOUND), text_of_omissions(FOUND)
    assert [*table.index] == [each.name for each in FOUND]
    marks = [mark for mark in scene.marks if isinstance(mark, Text)]
    symbols = [mark.text for mark in marks if mark.text in "≠✗"]
    cells = sum(differs(each, column) for each in FOUND for column in COLUMNS)
    assert len(symbols) == cells + 2, "two are the legend's"
    refused = [each for each in FOUND if each.refused]
    assert sum(mark.text.endswith(": no process") for mark in marks) == len(refused)
    assert text.count(", and there is no process") == len(refused)
    assert text.count("✗ ") == sum(len(e.shown) + len(e.broken) for e in FOUND)
    assert max(map(len, text.splitlines())) <= 80
    for each in FOUND:
        told = table.loc[each.name]
        assert all(words in told["/proc shows otherwise"] for words in each.shown)
        assert all(words in told["what then breaks"] for words in each.broken)


def test_everything_that_can_differ_has_a_column() -> None:
    keys = {key for each in FOUND for key in (*each.shown, *each.broken)}
    known = {key for column in COLUMNS for key in column.keys}
    assert {key for key in keys if not key.startswith("stat ")} <= known


def test_no_mark_lies_outside_of_the_picture() -> None:
    scene = omissions_scene(FOUND)
    for mark in scene.marks:
        if isinstance(mark, Box):
            assert 0 <= mark.x <= mark.x + mark.width <= scene.width
            assert 0 <= mark.y <= mark.y + mark.height <= scene.height
        elif isinstance(mark, Text):
            assert 0 <= mark.y <= scene.height


def test_what_could_not_be_tried_and_what_was_recorded_says_so() -> None:
    untried = Omission("exe_fd", ("exe_fd",), "", "", {}, {}, "no user namespace here")
    recorded = replace(FOUND[0], origin="recorded on Linux 6.18.44")
    take_noted()
    table = omissions_table([untried, recorded])
    assert table.loc["exe_fd", "what then breaks"] == "no user namespace here"
    assert take_noted() == ["recorded on Linux 6.18.44"]
    words = [m.text for m in omissions_scene([untried, recorded]).marks if isinstance(m, Text)]
    assert "no user namespace here" in words
    assert "(recorded on Linux 6.18.44)" in words
    assert "no user namespace here" in text_of_omissions([untried])


def test_both_orders_are_tried_on_both_sides() -> None:
    table = orders_table()
    refused = [place for place, verdict in table["first call"].items() if verdict == "EINVAL"]
    assert refused == [("below", "end first"), ("above", "start first")]
    assert {*table["cmdline"]} == {"old", "a new name"}


def test_failures_are_made_to_happen() -> None:
    table = failures_table()
    assert [*table.index] == [*FAILURES]
    assert table.loc["data-limit", "here"] == "EINVAL"
    assert [*failures_table("exe-busy").index] == ["exe-busy"]
    with pytest.raises(KeyError):
        failures_table("nothing")


def test_a_log_names_the_rule() -> None:
    assert "EINVAL by rule limit.data" in refused_log()
    assert "EINVAL by rule order.arg" in refused_log("refused-order")
    with pytest.raises(InputError, match="refused-limit"):
        refused_log("../../etc/passwd")


def test_what_is_missing_is_one_sentence(
    image: Image, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("PRCTLMM_LAB_CRIU", "/nonexistent/criu")
    assert criu_here().startswith("cannot be shown here: PRCTLMM_LAB_CRIU names no program")
    monkeypatch.setenv("PRCTLMM_LAB_KERNELS", str(tmp_path))
    assert restored_elsewhere(image).startswith("cannot be shown here: no other kernel is kept")


def test_another_kernel_takes_the_image(image: Image) -> None:
    kept = images(machine=image.machine)
    skip_unless(kept, "no kernel is kept: prctlmm-lab atlas fetch", impossible=True)
    told = restored_elsewhere(image)
    assert "things are equal" in told
    assert "NOT EQUAL" not in told
