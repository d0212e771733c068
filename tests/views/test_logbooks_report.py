"""The report of a logbook: against its records, against hostile ones, and in a browser alone."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prctlmm_lab import Logbook
from prctlmm_lab.experiments.recipe import parse_recipe
from prctlmm_lab.experiments.record import interrupted, to_json
from prctlmm_lab.views import report
from prctlmm_lab.views.entries import entry_of
from prctlmm_lab.views.report import MOST_SECTIONS
from tests.browser.jupyterlab import browser_path
from tests.needs import skip_unless
from tests.views.logs import HOSTILE_TEXTS, MARKUP, disagreeing, hostile, many, real, write

pytestmark = pytest.mark.starts_for_session("matplotlib keeps the files of its faces open")

TAGS = set(
    """html head meta title style body header h1 p main nav ul li a section h2 table tr th td code
    strong b div caption thead tbody figure img ol h3 small svg rect path polygon text figcaption
    pre footer""".split()
)
ATTRIBUTES = set(
    """lang charset http-equiv content name class aria-label href id scope style alt src tabindex
    xmlns role viewbox width height font-family stroke-linecap stroke-linejoin fill points stroke
    stroke-width x y font-size font-weight text-anchor stroke-dasharray d""".split()
)
ABOUT_ONE = 120_000
"""Characters of the largest section, with its picture and tables full."""


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.by_tag: dict[str, list[str]] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in ("meta", "img", "rect", "path", "polygon"):
            self.open.append(tag)
            self.by_tag.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "path", "polygon"):
            assert self.open.pop() == tag, f"</{tag}> ends another element"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        for tag in dict.fromkeys(self.open):
            self.by_tag[tag][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def page_of(book: Logbook, folder: Path, **words: str) -> Page:
    book.report(folder / "out.html", **words)
    return Page((folder / "out.html").read_text("utf-8"))


@pytest.fixture
def book(tmp_path: Path) -> Logbook:
    wrong, cut = disagreeing(real()[0]), interrupted(real()[1], "interrupted by KeyboardInterrupt")
    asked = replace(real()[2], origin="recorded on Linux 6.18.15, 2026-11-24", id="f" * 32)
    others = (replace(wrong, id="d" * 32), replace(cut, id="e" * 32), asked)
    return write(tmp_path / "log.jsonl", [*real(), *others])


def test_every_record_has_a_section_that_says_what_it_says(book: Logbook, tmp_path: Path) -> None:
    page = page_of(book, tmp_path, title="Homework <3>", author="A & B", note="First.\nThen.")
    records = sorted(book.records(), key=lambda record: record.time)
    assert page.by_tag["h1"] == ["Homework <3>"]
    assert "A & B" in page.by_tag["p"]
    assert page.by_tag["p"].index("First.") + 1 == page.by_tag["p"].index("Then.")
    numbers = [name for name in page.ids if name.startswith("experiment-")]
    assert numbers == [f"experiment-{n}" for n in range(1, len(records) + 1)]
    sections = re.split(r"(?=\d+\. )", page.text[page.text.rindex("Experiments") :])
    headings = page.by_tag["h3"]
    for number, (record, heading) in enumerate(zip(records, headings, strict=True), 1):
        told = record.experiment.get("title") or record.experiment["id"]
        assert heading == f"{number}. {told}"
    assert len(sections) >= len(records)
    assert page.text.count("Only the bounds move.") >= 1
    for record in records:
        for _, name, before, after in record.difference:
            assert name in page.text
            assert before in page.text
            assert after in page.text
        if record.prediction.rule:
            assert record.prediction.numbers in page.text
    assert "interrupted by KeyboardInterrupt" in page.text
    assert "predicted accepted, kernel EPERM" in page.text
    assert "recorded on Linux 6.18.15, 2026-11-24" in page.text
    assert str(tmp_path) not in page.text, "whose folder it was is nobody's business"


def test_the_summary_counts_as_the_table(book: Logbook, tmp_path: Path) -> None:
    text = page_of(book, tmp_path).text
    table = book.table()
    assert f"{len(table)} records, {table['time'].min():%Y-%m-%d %H:%M:%S}" in text
    for verdict, number in table["verdict"].value_counts().items():
        assert f"{verdict} {number}" in text
    assert f"agree in {(table['agrees'] == True).sum()}" in text  # noqa: E712
    assert f"disagree in {(table['agrees'] == False).sum()}" in text  # noqa: E712
    answered = table["right"].notna().sum()
    assert f"{table['right'].sum()} of {answered} right" in text
    facts = real()[0].facts
    for told in (facts.release, hex(facts.lowest), hex(facts.highest), hex(facts.auxv_capacity)):
        assert told in text


def test_a_recipe_in_the_report_is_the_experiment(book: Logbook, tmp_path: Path) -> None:
    page = page_of(book, tmp_path)
    recipes = page.by_tag["pre"]
    records = sorted(book.records(), key=lambda record: record.time)
    assert len(recipes) == len(records)
    for text, record in zip(recipes, records, strict=True):
        assert tomllib.loads(text)["experiment"] == [record.experiment]
        assert parse_recipe(text).experiments[0].id == record.experiment["id"]


def test_every_experiment_has_its_picture(book: Logbook, tmp_path: Path) -> None:
    page = page_of(book, tmp_path)
    names = [value for name, value in page.attributes if name == "aria-label" and ":" in value]
    assert len(names) == book.count()
    assert sum("moved: end_code" in name for name in names) == 2
    assert sum("moved: arg_end" in name for name in names) == 2
    images = [value for name, value in page.attributes if name == "src"]
    assert len(images) == 2
    assert all(value.startswith("data:image/png;base64,iVBOR") for value in images)
    words = [value for name, value in page.attributes if name == "alt"]
    assert all("accepted" in value for value in words)


def test_links_lead_to_what_is_there(book: Logbook, tmp_path: Path) -> None:
    page = page_of(book, tmp_path)
    links = [value for name, value in page.attributes if name == "href"]
    assert len(links) > book.count()
    assert {link.removeprefix("#") for link in links} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def test_a_record_that_stands_twice_in_a_log_has_two_sections(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "log.jsonl", [*real(), *real()]), tmp_path)
    assert [name for name in page.ids if name.startswith("experiment-")] == [
        f"experiment-{number}" for number in range(1, 2 * len(real()) + 1)
    ]


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    book = write(tmp_path / "log.jsonl", many(MOST_SECTIONS + 3, 4))
    page = page_of(book, tmp_path)
    assert f"newest {MOST_SECTIONS} are here; 3 older ones are left out" in page.text
    newest = sorted(book.records(), key=lambda record: record.time)[3]
    heading = newest.experiment.get("title") or newest.experiment["id"]
    assert page.by_tag["h3"][0] == f"1. {heading}"


def test_a_log_without_records_is_a_page_too(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "log.jsonl", real()).where(kernel="2.4"), tmp_path)
    assert "Records" in page.text
    assert "none" in page.text
    assert "kernel=2.4" in page.text


def test_the_same_log_gives_the_same_bytes(book: Logbook, tmp_path: Path) -> None:
    for name in ("one", "two"):
        book.report(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


# ---- hostile ------------------------------------------------------------------------------------


def assert_harmless(page: Page, html: str) -> None:
    assert page.tags <= TAGS
    assert {name for name, _ in page.attributes} <= ATTRIBUTES
    assert html.index("Content-Security-Policy") < html.index("<title>")
    for name, value in page.attributes:
        if name == "href":
            assert value.startswith("#")
        if name == "src":
            assert value.startswith("data:image/png;base64,")
        if name in ("style", "class", "id"):
            assert "evil" not in value
    assert all(character.isprintable() or character == "\n" for character in html)


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_nothing_of_a_record_becomes_markup(tmp_path: Path, text: str) -> None:
    book = write(tmp_path / "log.jsonl", [hostile(text)])
    page = page_of(book, tmp_path, title=text, author=text, note=text[:200])
    html = (tmp_path / "out.html").read_text("utf-8")
    assert_harmless(page, html)
    assert not re.search("\u0301{4}", "".join(t for t in page.texts if "schema = " not in t))
    assert len(re.sub(r"base64,[^\"]*", "", html)) < ABOUT_ONE
    if text == MARKUP:
        assert MARKUP in unescape(page.text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(HOSTILE_TEXTS) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_KEYS = "id title explanation specimen setup change call after needs predict rule effect".split()


@given(st.dictionaries(st.sampled_from(_KEYS), _JSON))
@settings(max_examples=60)
def test_an_experiment_may_be_anything(experiment: dict[str, Any]) -> None:
    record = replace(real()[0], experiment=experiment)
    try:
        to_json(record).encode("ascii")
    except (TypeError, ValueError):
        return
    entry = entry_of(record)
    page = Page(report._section(1, record, entry))
    assert page.tags <= TAGS
    assert {name for name, _ in page.attributes} <= ATTRIBUTES


def test_facts_of_no_kernel_do_no_harm(tmp_path: Path) -> None:
    one = real()[0]
    odd = [replace(one, facts=replace(one.facts, **change), id=f"{n:032x}")  # type: ignore[arg-type]
           for n, change in enumerate((
               {"page_size": 0}, {"lowest": 1 << 70}, {"highest": 0}, {"page_size": -4096},
               {"auxv_capacity": 10**400}))]  # fmt: skip
    sections = [report._section(1, record, entry_of(record)) for record in odd]
    assert all("<svg" in section for section in sections)
    kernels = report._Summary()
    for record in odd:
        kernels.add(record, entry_of(record))
    assert len(report._kernels(kernels)) < 10_000


# ---- in a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    skip_unless(browser_path(), "Chromium is not installed (Debian: chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=browser_path(), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        try:
            yield started
        finally:
            started.close()


@pytest.mark.parametrize("kind", ["real", "hostile"])
def test_the_page_opens_without_a_network_and_runs_nothing(
    browser: Any, book: Logbook, tmp_path: Path, kind: str
) -> None:
    if kind == "hostile":
        book = write(tmp_path / "log.jsonl", [hostile(MARKUP)])
    book.report(tmp_path / "out.html")
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    try:
        page = context.new_page()
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("dialog", lambda dialog: said.append("dialog"))
        page.goto((tmp_path / "out.html").as_uri())
        assert page.locator("img").count() == 2
        assert page.evaluate("[...document.images].every(i => i.naturalWidth > 500)")
        assert page.locator("script").count() == 0
        assert [url for url in asked if not url.startswith("data:")] == [
            (tmp_path / "out.html").as_uri()
        ]
        assert said == []
        for width in (1200, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.pdf()[:5] == b"%PDF-"
    finally:
        context.close()
