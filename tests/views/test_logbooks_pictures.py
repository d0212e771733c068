"""The pictures of a logbook against its table, and the address spaces of a record against /proc."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.text import Text

from prctlmm_lab import Logbook, Specimen
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import VERDICTS, Experiment, run
from prctlmm_lab.experiments.record import View, view
from prctlmm_lab.kernel.legacy import LEGACY_RULE
from prctlmm_lab.kernel.procfs import Unreadable
from prctlmm_lab.kernel.rules import RULE
from prctlmm_lab.views import outcomes
from prctlmm_lab.views.exports import LeftOutWarning
from prctlmm_lab.views.layout import layout
from prctlmm_lab.views.legend import DISAGREES
from prctlmm_lab.views.outcomes import draw_outcomes, text_of_plot
from prctlmm_lab.views.pictures import HEIGHT, WIDTH
from prctlmm_lab.views.recorded_snapshot import MOST_AREAS, recorded_snapshot
from prctlmm_lab.views.svg import address_space_svg
from tests.views.logs import at, disagreeing, many, real, write

pytestmark = pytest.mark.starts_for_session("matplotlib keeps the files of its faces open")

SIZES = [(1, 0.0), (3, 0.8 / 86_400), (51, 2.0 / 86_400), (500, 14.0), (5000, 120.0)]
"""How many records, and over how many days."""


@pytest.fixture(params=SIZES, ids=[f"{number} records" for number, _ in SIZES])
def book(request: pytest.FixtureRequest, tmp_path: Path) -> Logbook:
    return write(tmp_path / "log.jsonl", many(*request.param))


def texts(figure: Any) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text()]


def marks(figure: Any) -> Counter[str]:
    """Count the marks of each colour, apart from those beside the names of the rows."""
    found: Counter[str] = Counter()
    for each in figure.findobj(PathCollection):
        colours = each.get_facecolors() if len(each.get_facecolors()) else each.get_edgecolors()
        found[to_hex(colours[0])] += len(each.get_offsets())
    return found


@pytest.mark.parametrize("by", ["time", "rule"])
def test_no_word_is_cut_off_and_the_page_fits(book: Logbook, by: str) -> None:
    figure = book.plot(by)
    width, height = figure.get_size_inches() * 2.54
    assert width == pytest.approx(WIDTH)
    assert height <= HEIGHT
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    boxes = [(text, text.get_window_extent(renderer)) for text in texts(figure)]
    for text, box in boxes:
        page = figure.bbox
        assert page.x0 <= box.x0 < box.x1 <= page.x1, text
        assert page.y0 <= box.y0 < box.y1 <= page.y1, text
    for number, (text, box) in enumerate(boxes):
        for other, beside in boxes[number + 1 :]:
            assert not box.shrunk(0.98, 0.98).overlaps(beside.shrunk(0.98, 0.98)), (text, other)


def test_each_record_is_a_mark(book: Logbook) -> None:
    table = book.table()
    found = marks(book.plot())
    real_calls = table[table["origin"] != "predicted"]
    for verdict in ("accepted", "EINVAL", "EPERM", "interrupted"):
        number = int((real_calls["verdict"] == verdict).sum())
        colour = outcomes._MARKS[verdict].colour
        same = [outcomes._LEARNERS[n].colour for n in outcomes._LEARNERS]
        if colour not in same:
            assert found[colour] == number + bool(number), verdict
    green = outcomes._MARKS["accepted"].colour
    accepted, right = int((real_calls["verdict"] == "accepted").sum()), int(table["right"].sum())
    assert found[green] == accepted + right + bool(accepted) + bool(right)
    assert found[DISAGREES] == int((table["agrees"] == False).sum())  # noqa: E712


def test_the_text_counts_as_the_table(book: Logbook) -> None:
    table, told = book.table(), text_of_plot(book)
    assert max(map(len, told.splitlines())) <= 80
    days = table.groupby(table["time"].dt.date)
    for day, group in days:
        accepted = ((group["verdict"] == "accepted") & (group["origin"] != "predicted")).sum()
        part = told[told.index(str(day), told.index("\n")) :]
        assert (
            not accepted
            or part.split()[1:3] == [f"{accepted:,}", "accepted,"]
            or (part.split()[1:3] == [f"{accepted:,}", "accepted"])
        )


def test_rules_are_counted_as_in_the_table(book: Logbook) -> None:
    table, told = book.table(), text_of_plot(book, "rule")
    figure = [text.get_text() for text in texts(book.plot("rule"))]
    answered = table[
        (table["verdict"] != "interrupted") & ~(table["verdict"] != table["predicted"])
    ]
    for rule, number in answered.groupby("rule")["id"].count().items():
        name = rule or "accepted"
        line = next(line for line in told.splitlines() if line.split()[0] == name)
        assert line.split()[1] == f"{number:,}"
        assert name in figure
        assert f"{number:,}" in figure


def test_rules_stand_in_the_kernels_order(tmp_path: Path) -> None:
    names = [*RULE, *LEGACY_RULE][:40:3]
    one = real()[1]
    records = [replace(one, prediction=replace(one.prediction, rule=name)) for name in names[::-1]]
    told = text_of_plot(write(tmp_path / "log.jsonl", records), "rule").splitlines()[1:]
    assert [line.split()[0] for line in told] == names


def test_every_verdict_has_a_shape_and_a_colour_of_its_own() -> None:
    looks = [outcomes._MARKS[verdict] for verdict in VERDICTS]
    assert len({look.shape for look in looks}) == len({look.colour for look in looks}) == len(looks)


def test_a_disagreement_is_ringed_and_told(tmp_path: Path) -> None:
    book = write(tmp_path / "log.jsonl", [real()[0], at(disagreeing(real()[1]), 3)])
    words = " ".join(text.get_text() for text in texts(book.plot()))
    assert "disagree (1)" in words
    assert marks(book.plot())[DISAGREES] == 1
    assert "1 disagreement" in text_of_plot(book)
    assert "disagreement" in [text.get_text() for text in texts(book.plot("rule"))]


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    book = write(tmp_path / "log.jsonl", real()).where(kernel="2.4")
    for by in ("time", "rule"):
        assert texts(book.plot(by))
    assert text_of_plot(book) == "No record."


def test_another_word_is_refused_in_a_sentence() -> None:
    for ask in (draw_outcomes, text_of_plot):
        with pytest.raises(
            InputError, match=r"'day' is no way to .* outcomes; expected time or rul"
        ):
            ask([], "day")


def test_a_picture_that_leaves_out_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "MOST_MARKS", 10)
    with pytest.warns(LeftOutWarning, match="newest 10 of 30"):
        write(tmp_path / "log.jsonl", many(30, 1)).plot()


# ---- snapshots ----------------------------------------------------------------------------------


def test_a_view_gives_back_the_snapshot_it_was_made_from(specimen: Specimen) -> None:
    live = specimen.snapshot()
    again = recorded_snapshot(view(live, {}), pid=live.pid)
    assert again.members == live.members
    assert (again.cmdline, again.environ, again.auxv) == (live.cmdline, live.environ, live.auxv)
    assert [(v.start, v.end, v.permissions, v.label) for v in again.vmas] == [
        (v.start, v.end, v.permissions, v.label) for v in live.vmas
    ]
    assert [v.path.rpartition("/")[2] for v in again.vmas] == [
        v.path.rpartition("/")[2] for v in live.vmas
    ]
    assert again.statm == live.statm


def test_before_and_after_are_drawn_as_they_were() -> None:
    record = run(Experiment("up", change={"end_code": "end_code + page"}))
    assert record.after is not None
    before = recorded_snapshot(record.before)
    after = recorded_snapshot(record.after.on(record.before))
    (move,) = layout(after, before=before).moves
    assert (move.member, hex(move.old), hex(move.new)) == (
        "end_code", record.before.stat["end_code"], record.map["end_code"],  # type: ignore[index]
    )  # fmt: skip


def test_what_was_not_readable_is_not_readable_again() -> None:
    again = recorded_snapshot(View(stat="not readable (EACCES)", maps="not readable (ESRCH)"))
    assert [str(part) for part in (again.stat, again.maps)] == [
        "not readable (EACCES)", "not readable (ESRCH)",
    ]  # fmt: skip
    assert isinstance(again.limits, Unreadable)
    assert isinstance(again.cmdline, Unreadable)


BAD_VIEWS: dict[str, View] = {
    "is no area": View(maps=("0x1000 rw-p",)),
    "is no range": View(maps=("0x2000-0x1000 rw-p",)),
    "is not above the area before it": View(maps=("0x1000-0x3000 rw-p", "0x2000-0x4000 rw-p")),
    "areas are too many": View(maps=("0x1000-0x2000 rw-p",) * (MOST_AREAS + 1)),
    "are not the ten members": View(stat={"brk": "0x1"}),
    "is no entry": View(auxv=("AT_PAGESZ",)),
    "is not the name of a type": View(auxv=("AT_EVIL=0x1",)),
    "is half of a character": View(maps=("0x1000-0x2000 rw-p /a\\ud800",)),
    "is not what a record says of it": View(maps="<script>"),
}


@pytest.mark.parametrize("said", BAD_VIEWS)
def test_a_view_that_no_process_has_is_refused_in_a_sentence(said: str) -> None:
    with pytest.raises(InputError, match=said):
        recorded_snapshot(BAD_VIEWS[said])


_LINES = st.lists(
    st.tuples(st.integers(0, 1 << 52), st.integers(0, 40), st.text(max_size=8)), max_size=12
)


@given(_LINES)
def test_whatever_a_view_says_is_drawn_or_refused(told: list[tuple[int, int, str]]) -> None:
    lines = tuple(f"{a << 12:#x}-{(a + n) << 12:#x} rw-p {name}" for a, n, name in sorted(told))
    svg = "<svg"
    with contextlib.suppress(InputError):
        svg = address_space_svg(layout(recorded_snapshot(View(maps=lines))))
    assert svg.startswith("<svg")
