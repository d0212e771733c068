"""The tables, compared with /proc itself and with the rules; and their HTML twins."""

from __future__ import annotations

import errno
import re
from html.parser import HTMLParser

import pytest

from prctlmm_lab.kernel.abi import MEMBERS, PrctlMmMap
from prctlmm_lab.kernel.difference import Change, difference
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.kernel.releases import CHANGES
from prctlmm_lab.kernel.rules import Situation, explain
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.views.html import difference_html, rules_html
from prctlmm_lab.views.tables import (
    NOTHING_MAPPED,
    ONLY_GIVEN,
    auxv_table,
    difference_table,
    maps_table,
    members_table,
    releases_table,
    rules_table,
)
from tests.views.address_spaces import FACTS, HOSTILE, snapshot, vma

GOOD = PrctlMmMap(0x401000, 0x402000, 0x402000, 0x403000, 0x404000, 0x405000, 0x7FFF0000,
                  0x7FFF0010, 0x7FFF0020, 0x7FFF0020, 0x7FFF0030)  # fmt: skip
NOWHERE = Unreadable("/proc/42/all", errno.EACCES)
NOTHING_READ = Snapshot(42, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE,
                        NOWHERE)  # fmt: skip


def test_members_are_those_of_stat(specimen: Specimen) -> None:
    table = members_table(specimen.snapshot())
    with open(f"/proc/{specimen.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    assert list(table.index) == [member.name for member in MEMBERS]
    for member in MEMBERS:
        if member.stat_field:
            assert int(table["value"][member.name], 16) == int(fields[member.stat_field - 3])
    assert int(table["value"]["brk"], 16) == specimen.brk()
    assert list(table["value"])[-3:] == [ONLY_GIVEN] * 3
    assert table["points into"]["arg_start"].endswith("[stack]")
    assert table["points into"]["brk"].startswith(NOTHING_MAPPED)
    assert table["points into"]["brk"].endswith("[heap]")


def test_maps_are_those_of_the_kernel(specimen: Specimen) -> None:
    table = maps_table(specimen.snapshot())
    with open(f"/proc/{specimen.pid}/maps") as file:
        lines = [line.split(maxsplit=5) for line in file]
    ends = zip(table.index, table["end"], strict=True)
    shown = [f"{int(start, 16):08x}-{int(end, 16):08x}" for start, end in ends]
    assert shown == [line[0] for line in lines]
    assert list(table["permissions"]) == [line[1] for line in lines]
    assert [int(offset, 16) for offset in table["offset"]] == [int(line[2], 16) for line in lines]
    assert list(table["device"]) == [line[3] for line in lines]
    assert list(table["inode"]) == [line[4] for line in lines]
    (heap,) = table.index[table["name"] == "[heap]"]
    assert table["members"][heap] == "start_brk"


def test_the_auxiliary_vector_is_that_of_proc(specimen: Specimen) -> None:
    table = auxv_table(specimen.snapshot())
    with open(f"/proc/{specimen.pid}/auxv", "rb") as file:
        words = memoryview(file.read()).cast("Q")
    assert [int(value, 16) for value in table["value"]] == list(words[1::2])
    assert table["points into"]["AT_SYSINFO_EHDR"].endswith("[vdso]")
    assert table["points into"]["AT_RANDOM"].endswith("[stack]")
    assert table["points into"]["AT_PAGESZ"] == ""


def test_what_could_not_be_read_is_shown_as_such() -> None:
    members = members_table(NOTHING_READ)
    assert members["value"]["arg_start"] == "not readable (EACCES)"
    assert list(maps_table(NOTHING_READ)["name"]) == ["not readable (EACCES)"]
    assert list(auxv_table(NOTHING_READ)["value"]) == ["not readable (EACCES)"]
    changes = difference(NOTHING_READ, snapshot((), {}))
    assert "not readable (EACCES)" in list(difference_table(changes)["before"])


def test_a_difference_has_a_row_for_each_change(specimen: Specimen) -> None:
    before = specimen.snapshot()
    new = specimen.current_map().changed(arg_end=before.members["arg_start"] + 4)
    assert specimen.set_map(new) == 0
    changes = difference(before, specimen.snapshot())
    table = difference_table(changes)
    assert list(table.index) == [change.place for change in changes]
    row = table[table["name"] == "arg_end"].iloc[0]
    assert (int(row["before"], 16), int(row["after"], 16)) == (
        before.members["arg_end"],
        before.members["arg_start"] + 4,
    )


@pytest.mark.parametrize(
    ("change", "first", "others"),
    [
        ({}, None, []),
        ({"brk": 0}, "range.brk", ["order.brk"]),
        ({"arg_end": 0x7FFF0000}, "order.arg", []),
        ({"start_code": 0x500000, "env_end": 1 << 63}, "range.env_end", ["order.code"]),
    ],
)
def test_rules_are_in_the_kernels_order_and_one_decides(
    change: dict[str, int], first: str | None, others: list[str]
) -> None:
    explanation = explain(Situation(GOOD.changed(**change)), FACTS)
    table = rules_table(explanation)
    assert list(table.index) == list(range(1, len(explanation.findings) + 1))
    assert list(table["rule"]) == [finding.rule.id for finding in explanation.findings]
    refusing = list(table["rule"][table["state"] == "REFUSES"])
    assert refusing == ([first] if first else [])
    assert list(table["rule"][table["state"] == "broken"]) == others
    if first:
        assert list(table["errno"][table["rule"] == first]) == ["EINVAL"]


def test_every_change_of_the_kernel_has_a_row() -> None:
    table = releases_table()
    assert list(table.index) == [str(change.first) for change in CHANGES]
    assert list(table["what changed"]) == [change.what for change in CHANGES]
    row = table[table["commit"] == "a9e73998f9d7"].iloc[0]
    assert dict(row) == {
        "commit": "a9e73998f9d7",
        "rules and effects": "order.data_strict, order.data",
        "what changed": "start_data may equal end_data.",
        "stable": "v5.1.10, v4.19.51, v4.14.126, v4.9.183, v4.4.183",
        "known": "source, mail",
        "not certain": "",
    }
    assert set(table["commit"][table["known"].str.contains("recalled")]) == {
        "90f8572b0f02",
        "11bbd8b41683",
    }


# ---- HTML --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects the rows of the tables, and every tag and attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "tr":
            self.rows.append([])
        self._in_cell = tag == "td"
        if self._in_cell:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize(
    "change", [{}, {"brk": 0}, {"start_code": 0x500000, "env_end": 1 << 63}, {"exe_fd": 3}]
)
def test_the_rules_in_html_begin_with_what_is_broken_and_leave_none_out(
    change: dict[str, int],
) -> None:
    explanation = explain(Situation(GOOD.changed(**change)), FACTS)
    text = rules_html(explanation)
    page = Page(text)
    rows = [row for row in page.rows if row]
    broken = [int(row[0]) for row in rows[: len(explanation.broken)]]
    assert broken == [i for i, f in enumerate(explanation.findings, 1) if f.broken]
    for row, finding in zip(rows, explanation.broken, strict=False):
        assert ("REFUSES" in row[1]) is finding.decides
        assert finding.rule.id in row[2]
        assert row[3] == finding.numbers
    counted: list[int] = []
    for row in rows:
        for part in row[0].split(", "):
            low, _, high = part.partition("-")
            counted += range(int(low), int(high or low) + 1)
    assert sorted(counted) == list(range(1, len(explanation.findings) + 1))
    words = [row[1].split()[0] for row in rows]
    assert set(words) <= {"✓", "✗", "✖"}
    assert page.tags == TAGS
    assert ("accepted" in text) is (explanation.errno == 0)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_difference_stays_text(name: str) -> None:
    before = snapshot((vma(0x1000, 0x2000, "r-xp", name),), {}, comm=name)
    after = snapshot((vma(0x1000, 0x2000, "r--p", name),), {}, comm=name + "2")
    changes = (*difference(before, after), Change("environ", name, name.encode(errors="replace"),
                                                  name))  # fmt: skip
    text = difference_html(changes)
    text.encode()
    page = Page(text)
    assert page.tags <= TAGS
    assert page.attributes <= {"style", "scope"}
    assert not re.search(r"[\x00-\x1f\u202e]", text)
    assert len([row for row in page.rows if row]) == len(changes)
    table = difference_table(changes)
    assert len(table) == len(changes)
    table.to_html().encode()


def test_no_difference_is_said_to_be_none() -> None:
    assert "no difference" in difference_html(())
    assert len(difference_table(())) == 0
