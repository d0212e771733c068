"""A logbook in the notebook against the lines of its file: selection, table, text, exports."""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prctlmm_lab import Logbook
from prctlmm_lab.errors import InputError, UnsupportedSystem
from prctlmm_lab.experiments.logbook import TornLineWarning
from prctlmm_lab.experiments.record import Record, interrupted, to_json
from prctlmm_lab.views import exports, overview
from prctlmm_lab.views.entries import LONGEST_TEXT
from prctlmm_lab.views.exports import COLUMNS, LeftOutWarning
from prctlmm_lab.views.overview import SHOWN, TEXT_WIDTH
from prctlmm_lab.words import cells
from tests.views.logs import HOSTILE_TEXTS, START, at, disagreeing, hostile, many, real, write

BREAKS_A_LINE = '{"a": 1}\n'


@pytest.fixture
def book(tmp_path: Path) -> Logbook:
    return write(tmp_path / "log.jsonl", many(200, 10))


def lines(book: Logbook) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(book.path).read_text("ascii").splitlines()]


def ids(records: Iterable[Record]) -> list[str]:
    return [record.id for record in records]


# ---- selection ----------------------------------------------------------------------------------


def minute(number: float) -> str:
    return (START + timedelta(minutes=number)).isoformat(timespec="milliseconds")


DAY_5 = START + timedelta(days=5)
CHOICES: list[tuple[dict[str, Any], Any]] = [
    ({"verdict": "EINVAL"}, lambda one: one["outcome"]["verdict"] == "EINVAL"),
    ({"verdict": "E*"}, lambda one: one["outcome"]["verdict"].startswith("E")),
    ({"verdict": "interrupted"}, lambda one: one["outcome"]["interrupted"]),
    ({"rule": "order.arg"}, lambda one: one["prediction"]["rule"] == "order.arg"),
    ({"rule": "order.*"}, lambda one: one["prediction"]["rule"].startswith("order.")),
    ({"rule": ""}, lambda one: one["prediction"]["rule"] == ""),
    ({"experiment": "code-*"}, lambda one: one["experiment"]["id"] == "code-grows"),
    ({"experiment": "code"}, lambda one: False),
    ({"text": "ONLY the bounds"}, lambda one: "explanation" in one["experiment"]),
    ({"text": "keyboardinterrupt"}, lambda one: one["outcome"]["interrupted"]),
    ({"since": DAY_5}, lambda one: one["time"] >= DAY_5.isoformat(timespec="milliseconds")),
    ({"until": DAY_5}, lambda one: one["time"] < DAY_5.isoformat(timespec="milliseconds")),
    ({"since": "2026-11-14"}, lambda one: one["time"] >= "2026-11-14"),
    ({"until": date(2026, 11, 14)}, lambda one: one["time"] < "2026-11-14"),
    ({"origin": "live"}, lambda one: one["origin"] == "live"),
    ({"origin": "recorded on *"}, lambda one: one["origin"].startswith("recorded")),
    ({"agreed": False}, lambda one: one["agreement"]["disagreements"]),
    ({"agreed": True}, lambda one: not one["agreement"]["disagreements"]
     and not one["outcome"]["interrupted"] and one["origin"] != "predicted"),
    ({"learner": "right"}, lambda one: one["agreement"]["learner"] is True),
    ({"learner": "wrong"}, lambda one: one["agreement"]["learner"] is False),
    ({"learner": "none"}, lambda one: one["learner"] == ""),
    ({"learner": "open"}, lambda one: one["learner"] and one["agreement"]["learner"] is None),
    ({"kernel": os.uname().release}, lambda one: True),
    ({"kernel": "2.4*"}, lambda one: False),
    ({"verdict": "accepted", "learner": "right", "until": DAY_5},
     lambda one: one["outcome"]["verdict"] == "accepted" and one["agreement"]["learner"]
     and one["time"] < DAY_5.isoformat(timespec="milliseconds")),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "has"), CHOICES, ids=[str(asked) for asked, _ in CHOICES])
def test_a_choice_is_what_the_lines_say(book: Logbook, asked: dict[str, Any], has: Any) -> None:
    wanted = [line["id"] for line in lines(book) if has(line)]
    assert ids(book.where(**asked)) == wanted
    chained = book
    for key, value in asked.items():
        chained = chained.where(**{key: value})
    assert ids(chained) == wanted
    assert ids(book) == [line["id"] for line in lines(book)], "the book itself is as it was"


def test_choices_tell_records_apart(book: Logbook) -> None:
    sizes = [book.where(**asked).count() for asked, _ in CHOICES]
    assert sum(0 < size < 200 for size in sizes) >= 20


def test_a_time_with_a_zone_is_that_moment(book: Logbook) -> None:
    east = DAY_5.astimezone(timezone(timedelta(hours=9)))
    assert ids(book.where(since=east)) == ids(book.where(since=DAY_5))
    assert ids(book.where(since=east.isoformat())) == ids(book.where(since=DAY_5))
    assert ids(book.where(since=DAY_5.replace(tzinfo=None))) == ids(book.where(since=DAY_5))


def test_the_last_are_the_newest_by_their_times(tmp_path: Path) -> None:
    records = [at(real()[0], minutes, f"{n:032x}") for n, minutes in enumerate((5, 1, 9, 3))]
    book = write(tmp_path / "log.jsonl", records)
    assert ids(book.last(2)) == [f"{0:032x}", f"{2:032x}"]
    assert ids(book.last(2).where(until=minute(6))) == [f"{0:032x}"]
    assert ids(book.where(until=minute(6)).last(2)) == [f"{3:032x}", f"{0:032x}"]
    assert book.last(9).count() == 4


def test_an_old_request_without_a_record_is_not_the_newest(tmp_path: Path) -> None:
    old, new = at(real()[0], 0, f"{1:032x}"), at(real()[1], 60)
    request = json.loads(to_json(interrupted(old)))
    for key in ("outcome", "after", "difference", "answers", "later", "agreement"):
        del request[key]
    request["schema"] = "prctlmm-lab/request/2"
    path = tmp_path / "log.jsonl"
    path.write_text(f"{json.dumps(request)}\n{to_json(new)}\n")
    assert ids(Logbook(path)) == [old.id, new.id][::-1]
    assert ids(Logbook(path).last(1)) == [new.id]
    assert ids(Logbook(path).where(verdict="interrupted")) == [old.id]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rulle": "x"}, "where: 'rulle' is nothing a record can be chosen by; expected rule?"),
        ({"verdict": "einval"}, "verdict: 'einval' is none that a record can have; "
                                "expected EINVAL?"),
        ({"rule": "order"}, "rule: 'order' is none that a record can have; expected order.*?"),
        ({"rule": "ordr.*"}, "rule: 'ordr.*' is none"),
        ({"learner": "maybe"}, "expected one of right, wrong, open, none"),
        ({"origin": "here"}, "origin: 'here' is none"),
        ({"agreed": "yes"}, "agreed: 'yes' is neither; expected True or False"),
        ({"since": "yesterday"}, "since: 'yesterday' is no time; expected a datetime"),
        ({"until": 5}, "until: 0x5 is no time"),
        ({"since": "0001-01-01T00:00+05:00"}, "is no time in UTC"),
        ({"text": b"x"}, "text: b'x' is no text"),
        ({"experiment": "x" * 201}, "experiment: 201 characters are too many"),
    ],
)  # fmt: skip
def test_a_wrong_choice_is_said_in_a_sentence(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        Logbook("not read").where(**asked)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("count", [0, -1, True, "3", 100_001])
def test_a_wrong_number_of_records_is_refused(count: Any) -> None:
    with pytest.raises(InputError, match="is no number of records; expected 1 to 100,000"):
        Logbook("not read").last(count)


def test_a_choice_of_a_choice_is_told(book: Logbook) -> None:
    chosen = book.where(verdict="EINVAL", rule="order.*").last(3)
    assert chosen.selected == "verdict=EINVAL, rule=order.*; the last 3"
    assert chosen.selected in chosen.text().replace("\n", " ")


# ---- table --------------------------------------------------------------------------------------


def test_the_table_says_what_the_lines_say(book: Logbook) -> None:
    table = book.table()
    told = lines(book)
    assert tuple(table.columns) == COLUMNS
    assert list(table["id"]) == [line["id"] for line in told]
    assert table["time"].dt.tz is not None
    assert [t.isoformat() for t in table["time"].dt.to_pydatetime()] == [
        datetime.fromisoformat(line["time"]).isoformat() for line in told
    ]
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    for row, line in zip(rows, told, strict=True):
        outcome, predicted, agreement = line["outcome"], line["prediction"], line["agreement"]
        assert row["experiment"] == line["experiment"]["id"]
        assert row["title"] == line["experiment"].get("title", "")
        assert row["operation"] == line["operation"]
        assert row["verdict"] == (outcome["verdict"] or "interrupted")
        assert (row["rule"], row["predicted"]) == (predicted["rule"], predicted["verdict"])
        assert row["learner"] == line["learner"]
        assert _known(row["right"]) == agreement["learner"]
        if agreement["disagreements"]:
            assert _known(row["agrees"]) is False
        elif outcome["interrupted"] or line["origin"] == "predicted":
            assert _known(row["agrees"]) is None
        else:
            assert _known(row["agrees"]) is True
        assert row["differences"] == len(line["difference"])
        assert row["kernel"] == line["facts"]["release"]
        assert row["uid"] == line["privilege"]["uid"]
        assert row["origin"] == line["origin"]


def _known(value: Any) -> bool | None:
    return None if pd.isna(value) else bool(value)


def test_changes_are_told_as_formulas_and_as_numbers(book: Logbook) -> None:
    row = book.where(experiment="code-grows").table().iloc[0]
    line = next(one for one in lines(book) if one["experiment"]["id"] == "code-grows")
    assert row["changed"] == "end_code = end_code + page"
    assert row["values"] == f"end_code = {line['map']['end_code']}"
    place, name, before, after = line["difference"][0]
    assert f"{place} {name}: {before} -> {after}" in row["first_differences"]


def test_an_empty_choice_is_an_empty_table_of_the_same_kinds(book: Logbook) -> None:
    none, some = book.where(kernel="2.4").table(), book.table()
    assert len(none) == 0
    assert list(none.dtypes) == list(some.dtypes)


def test_a_table_that_was_cut_says_so(book: Logbook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MOST_ROWS", 50)
    with pytest.warns(LeftOutWarning, match="newest 50 of 200 records"):
        table = book.table()
    assert list(table["id"]) == [line["id"] for line in lines(book)][-50:]


def test_a_user_number_beyond_any_user_and_a_time_that_is_none_are_not_told(
    tmp_path: Path,
) -> None:
    one = real()[0]
    odd = replace(one, time="2026-99-99T25:00:00+00:00",
                  privilege=replace(one.privilege, uid=1 << 200))  # fmt: skip
    book = write(tmp_path / "log.jsonl", [odd])
    row = book.table().iloc[0]
    assert pd.isna(row["uid"])
    assert pd.isna(row["time"])
    assert book.where(since="2020-01-01").count() == 0
    assert book.text()
    assert book._repr_html_()
    assert book.plot()


# ---- shows itself -------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would make of HTML: its elements, their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.rows, self.text = 0, ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.rows += tag == "tr"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_newest_are_shown_with_the_number_of_all(book: Logbook) -> None:
    page = Page(book._repr_html_())
    told = lines(book)
    assert page.rows == 1 + SHOWN
    assert str(book.path) in page.text
    assert f"200 records, {told[0]['time'][:10]}" in page.text
    assert f"newest {SHOWN} shown" in page.text
    newest = told[-SHOWN:]
    assert page.text.count("✖ EINVAL") == sum(
        one["outcome"]["verdict"] == "EINVAL" and not one["agreement"]["disagreements"]
        for one in newest
    )
    assert page.text.count("recorded on Linux") == sum("recorded" in o["origin"] for o in newest)
    assert page.text.count("predicted by the rules") == sum(
        one["origin"] == "predicted" for one in newest
    )


def test_what_must_not_be_overlooked_is_in_words(tmp_path: Path) -> None:
    wrong, cut = disagreeing(real()[0]), interrupted(real()[1], "interrupted by KeyboardInterrupt")
    book = write(tmp_path / "log.jsonl", [wrong, cut, real()[1]])
    for told in (Page(book._repr_html_()).text, book.text()):
        assert "disagreement" in told.lower()
        assert "≠ EPERM" in told
        assert "○ interrupted" in told
        assert "interrupted by KeyboardInterrupt" in told
        assert "you said accepted: ✖ wrong" in " ".join(told.split())


def test_the_text_has_the_rows_of_the_html_in_80_columns(book: Logbook) -> None:
    text = book.text()
    assert repr(book) == text
    assert max(cells(line) for line in text.splitlines()) <= TEXT_WIDTH
    table = book.table().iloc[::-1].head(SHOWN)
    rows = [line for line in text.splitlines() if line.startswith("2026-")]
    assert [row[:19] for row in rows] == [f"{t:%Y-%m-%d %H:%M:%S}" for t in table["time"]]


@pytest.mark.parametrize("make", [None, b""], ids=["no file", "an empty file"])
def test_a_new_logbook_says_where_it_will_be(tmp_path: Path, make: bytes | None) -> None:
    path = tmp_path / "new" / "log.jsonl"
    if make is not None:
        path.parent.mkdir()
        path.write_bytes(make)
    book = Logbook(path)
    for told in (repr(book), Page(book._repr_html_()).text):
        assert "No experiment is written down yet" in told
        assert path.name in told
    assert path.exists() == (make is not None)


def test_a_broken_line_is_told_beside_what_stands_before_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f"{to_json(real()[0])}\n{BREAKS_A_LINE}{to_json(real()[1])}\n")
    book = Logbook(path)
    with pytest.raises(InputError) as refused:
        list(book)
    for told in (repr(book), Page(book._repr_html_()).text):
        flat = " ".join(told.split())
        assert "code-grows" in flat
        assert "order-broken" not in flat
        assert "line 2" in flat
        assert str(refused.value).partition(": ")[2][:30] in flat


def test_a_torn_line_is_told_and_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f"{to_json(real()[0])}\n{to_json(real()[1])[:300]}")
    with pytest.warns(TornLineWarning):
        assert Logbook(path).count() == 1
    assert "line 2 is torn" in " ".join(repr(Logbook(path)).split())  # a warning is an error here


def test_a_log_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert "cannot be read: Is a directory." in " ".join(repr(Logbook(tmp_path)).split())
    assert "zero byte" in repr(Logbook("a\0b"))


# ---- hostile ------------------------------------------------------------------------------------

TABLE_TAGS = {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "b", "br", "span"}


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_nothing_of_a_record_becomes_markup_or_reaches_the_terminal(
    tmp_path: Path, text: str
) -> None:
    book = write(tmp_path / "log.jsonl", [hostile(text)] * 3)
    html = book.where(text=text[:150])._repr_html_()
    page = Page(html)
    assert page.tags <= TABLE_TAGS
    assert page.attributes <= {"style", "scope"}
    assert page.rows == 4
    assert all(character.isprintable() for character in html)
    assert len(html) < 30_000
    assert "\u0301" * 4 not in html
    shown = repr(book)
    assert all(line.isprintable() for line in shown.splitlines())
    assert max(map(cells, shown.splitlines())) <= TEXT_WIDTH
    assert len(shown) < 20_000
    for value in book.table().iloc[0]:
        assert not isinstance(value, str) or cells(value) <= LONGEST_TEXT
    assert book.plot()
    assert book.plot("rule")


# ---- exports ------------------------------------------------------------------------------------


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_says_what_the_lines_say(book: Logbook, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    book.where(agreed=True).to_csv(out)
    rows = read_csv(out)
    told = {line["id"]: line for line in lines(book)}
    assert [row["id"] for row in rows] == ids(book.where(agreed=True))
    for row in rows:
        line = told[row["id"]]
        assert row["time"] == line["time"]
        assert row["verdict"] == line["outcome"]["verdict"]
        assert row["agrees"] == "True"
        assert (
            row["right"] == {None: "", True: "True", False: "False"}[line["agreement"]["learner"]]
        )
        assert row["uid"] == str(line["privilege"]["uid"])


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_csv_gives_a_spreadsheet_no_formula(tmp_path: Path, start: str) -> None:
    book = write(tmp_path / "log.jsonl", [hostile(f'{start}1+1,"x"\n\t')])
    book.to_csv(tmp_path / "out.csv")
    (row,) = read_csv(tmp_path / "out.csv")
    assert row["title"].startswith(f"'{start}1+1")
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row.values())


def test_an_export_is_whole_or_not_there(book: Logbook, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    book.to_csv(out)
    good = out.read_bytes()
    with open(book.path, "a") as file:
        file.write(BREAKS_A_LINE)
    with pytest.raises(InputError, match="line 201"):
        book.to_csv(out)
    with pytest.raises(InputError, match="line 201"):
        book.report(tmp_path / "out.html")
    assert out.read_bytes() == good
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "out.csv"]


def test_an_export_for_which_there_is_no_room_leaves_nothing(
    book: Logbook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"out\.csv: cannot be written: No space left"):
        book.to_csv(tmp_path / "out.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_an_export_replaces_a_file_but_never_the_log(book: Logbook, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("old")
    book.to_csv(out)
    assert out.read_text().startswith("time,")
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~_umask()
    (tmp_path / "link").symlink_to("log.jsonl")
    before = Path(book.path).read_bytes()
    for path in (Path(book.path), tmp_path / "link"):
        with pytest.raises(InputError, match="is the log itself"):
            book.to_csv(path)
    assert Path(book.path).read_bytes() == before
    (tmp_path / "alias.csv").symlink_to("out.csv")
    book.where(verdict="EINVAL").to_csv(tmp_path / "alias.csv")
    assert (tmp_path / "alias.csv").is_symlink()
    assert len(read_csv(out)) == book.where(verdict="EINVAL").count()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("path", "said"),
    [("", "is no regular file"), ("nowhere/out.csv", "cannot be written: No such file"),
     ("a\0b", "cannot be written: its name holds a zero byte"), ("fifo", "is no regular file")],
)  # fmt: skip
def test_a_path_that_cannot_be_written_is_said_in_a_sentence(
    book: Logbook, tmp_path: Path, path: str, said: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match=said):
        book.to_csv(f"{tmp_path}/{path}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fifo", "log.jsonl"]


def test_parquet_needs_an_engine_and_says_which(
    book: Logbook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedSystem, match=r"neither is installed\. Install one"):
        book.to_parquet(tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_parquet_is_what_pandas_makes_of_the_table(
    book: Logbook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(map(find_spec, ("pyarrow", "fastparquet"))):  # pandas with a stand-in for them
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
        monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda table, _: table.to_csv().encode())
    book.to_parquet(tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_bytes() == book.table().to_parquet(None)


def test_the_time_is_utc() -> None:
    assert real()[0].time == START.astimezone(UTC).isoformat(timespec="milliseconds")


def test_the_overview_keeps_only_what_it_shows(book: Logbook) -> None:
    found = overview.look_over(str(book.path), "", book.records())
    assert (found.total, len(found.entries)) == (200, SHOWN)
