"""The book: notebooks as they ran, every link leads on, and a failure leaves the old one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import nbformat
import pytest

from docs.book import CONTENTS, HOME, SHEET, Book, DoesNotRun, made_on, main, make
from docs.pages import Page, Way, markdown_html, notebook_html, page_html
from docs.still_widgets import STATE, VIEW, still
from prctlmm_lab.course.exercises import HOMES, exercises

pytestmark = pytest.mark.starts_for_session("multiprocessing's resource tracker")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def nowhere(to: str) -> str | None:
    return to


# ---- the whole of it, not executed: what does not depend on outputs ------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the book of all notebooks as they are committed, without outputs."""
    folder = tmp_path_factory.mktemp("book") / "site"
    notebooks = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    Book(NOTEBOOKS, notebooks).write(folder)
    (folder / SHEET.to).touch()
    return folder


def html_of(site: Path) -> dict[str, str]:
    return {str(path.relative_to(site)): path.read_text("utf-8") for path in site.rglob("*.html")}


def test_every_notebook_is_a_page_and_stands_in_the_contents(site: Path) -> None:
    contents = (site / HOME.to).read_text("utf-8")
    for path in NOTEBOOKS:
        assert (site / f"{path.stem}.html").is_file()
        assert f'href="{path.stem}.html"' in contents


def test_every_local_link_leads_somewhere(site: Path) -> None:
    pages, followed = html_of(site), 0
    for name, html in pages.items():
        for target in map(unescape, re.findall(r'(?:href|src)="([^"]+)"', html)):
            if re.match(r"https?:|data:", target):
                continue
            followed += 1
            to, _, place = target.partition("#")
            path = (site / name).parent / to if to else site / name
            assert path.is_file(), f"{name}: {target}"
            if place:
                assert f'id="{place}"' in path.read_text("utf-8"), f"{name}: {target}"
    assert followed > 5 * len(NOTEBOOKS)


def test_nothing_of_it_is_fetched_or_runs(site: Path) -> None:
    for html in html_of(site).values():
        assert "<script" not in html
        assert not re.search(r'(?:src|<link[^>]*href)="https?:', html)
    assert "url(" not in (site / "book.css").read_text()
    assert "@import" not in (site / "book.css").read_text()


def test_the_exercises_are_there_with_their_prompts_and_without_solutions(site: Path) -> None:
    texts = {name: _plain(html) for name, html in html_of(site).items()}
    for path in NOTEBOOKS:
        text = texts[f"{path.stem}.html"]
        for number, exercise in exercises(path.name[:2]).items():
            assert f"Exercise {number}: {exercise.title}" in text
            assert f'check("{number}", answer)' in text
            if len(str(exercise.solution)) > 40:
                assert " ".join(str(exercise.solution).split()) not in text, number


def _plain(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", "", html)).replace("¶", "").split())


def test_there_are_exercises_to_look_for() -> None:
    assert len(HOMES) >= 12


def test_the_pages_say_what_they_were_made_on(site: Path) -> None:
    for html in html_of(site).values():
        assert made_on() in unescape(html)
    assert os.uname().release in made_on()


# ---- execution -----------------------------------------------------------------------------------


def notebook(folder: Path, name: str, *sources: str) -> Path:
    cells = [nbformat.v4.new_markdown_cell("# Try\n"), *map(nbformat.v4.new_code_cell, sources)]
    path = folder / name
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_outputs_are_those_of_the_run_and_are_escaped(tmp_path: Path) -> None:
    path = notebook(tmp_path, "00-a.ipynb", "print('<b>' + str(6 * 7))", "'<i>'")
    make([path], tmp_path / "site")
    html = (tmp_path / "site" / "00-a.html").read_text()
    assert "&lt;b&gt;42" in html
    assert "&lt;i&gt;" in html
    assert "<i>" not in html
    assert (tmp_path / "site" / SHEET.to).read_bytes().startswith(b"%PDF")


def test_the_learners_logbook_is_not_written_and_its_usual_place_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRCTLMM_LAB_LOGBOOK", str(tmp_path / "mine.jsonl"))
    source = "from prctlmm_lab import Experiment, Logbook\nbook = Logbook()\n"
    source += "book.run(Experiment('a', change={}))\nprint(book.path)"
    make([notebook(tmp_path, "00-a.ipynb", source)], tmp_path / "site")
    html = (tmp_path / "site" / "00-a.html").read_text()
    assert "~/.local/share/prctlmm-lab/logbook.jsonl" in html
    assert not (tmp_path / "mine.jsonl").exists()


def test_a_notebook_that_fails_is_told_in_one_sentence_and_the_old_book_stays(
    tmp_path: Path,
) -> None:
    good = notebook(tmp_path, "00-a.ipynb", "1")
    bad = notebook(tmp_path, "01-b.ipynb", "1 / 0")
    site = tmp_path / "site"
    make([good], site)
    before = sorted(site.rglob("*"))
    command = [sys.executable, "-m", "docs.book", "--out", str(site), str(good), str(bad)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    told = "01-b.ipynb does not run to its end: ZeroDivisionError: division by zero"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", f"docs.book: {told}\n")
    assert sorted(site.rglob("*")) == before
    assert [*tmp_path.glob(".book-*")] == []


def test_an_error_inside_a_widget_is_a_failure_too(tmp_path: Path) -> None:
    source = "import ipywidgets\nbutton = ipywidgets.Button()\n"
    source += "button.on_click(lambda _: 1 / 0)\nbutton.click()"
    with pytest.raises(DoesNotRun, match="ZeroDivisionError"):
        make([notebook(tmp_path, "00-a.ipynb", source)], tmp_path / "site")


def test_the_order_is_that_of_the_names(tmp_path: Path) -> None:
    paths = [notebook(tmp_path, f"0{n}-a.ipynb", "1") for n in (2, 0, 1)]
    assert main(["--out", str(tmp_path / "site"), *map(str, paths)]) == 0
    html = (tmp_path / "site" / "01-a.html").read_text()
    assert re.findall(r'<a rel="(\w+)" href="([^"]+)"', html)[:2] == [
        ("prev", "00-a.html"),
        ("next", "02-a.html"),
    ]


def test_a_file_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["none.ipynb"])
    assert "none.ipynb is no notebook" in capsys.readouterr().err


# ---- pages ---------------------------------------------------------------------------------------


def test_a_link_to_what_the_book_does_not_have_becomes_words() -> None:
    book = Book(NOTEBOOKS[:1], [])
    at = NOTEBOOKS[0]
    assert book.resolve(at, NOTEBOOKS[0].name + "#Place") == f"{at.stem}.html#Place"
    assert book.resolve(at, "README.md") == HOME.to
    assert book.resolve(at, "../docs/trust.md") == "files/docs/trust.html"
    assert book.resolve(at, "https://example.org/") == "https://example.org/"
    for lost in ("97-none.ipynb", NOTEBOOKS[1].name, "../docs", "../../etc/passwd"):
        assert book.resolve(at, lost) is None
    html = markdown_html(
        "[a `b`](97-none.ipynb), [c](../docs/trust.md)", lambda to: book.resolve(at, to)
    )
    assert "<a" not in html.partition(",")[0]
    assert '<a href="files/docs/trust.html">c</a>' in html


def test_titles_are_escaped() -> None:
    page = Page("a.html", "<A> & B", "", Way("b.html", "<B>"), None)
    html = page_html(page, "<on>", HOME, SHEET)
    assert "<title>&lt;A&gt; &amp; B" in html
    assert "← &lt;B&gt;" in html
    assert "<on>" not in html


def test_a_picture_and_a_warning_are_shown() -> None:
    data = {"image/png": "aGFsbG8=", "text/plain": "<Figure>"}
    shown = nbformat.v4.new_output("display_data", data, metadata={"image/png": {"width": 70}})
    warned = nbformat.v4.new_output("stream", name="stderr", text="careful\n")
    cell = nbformat.v4.new_code_cell("x = 1\ndraw(x)", outputs=[shown, warned])
    html = notebook_html(nbformat.v4.new_notebook(cells=[cell]), nowhere)
    assert 'alt="Picture made by draw(x)" src="data:image/png;base64,aGFsbG8="' in html
    assert '<pre class="output said">careful</pre>' in html


# ---- widgets -------------------------------------------------------------------------------------


def model(name: str, **state: Any) -> dict[str, Any]:
    return {"model_name": f"{name}Model", "state": state}


MODELS = {
    "box": model("HBox", children=["IPY_MODEL_text", "IPY_MODEL_gone", "IPY_MODEL_list"]),
    "text": model("Text", description="<brk>", value="start_brk + 8"),
    "gone": model("Text", description="x", value="1", layout="IPY_MODEL_hidden"),
    "hidden": model("Layout", display="none"),
    "list": model("Dropdown", description="I predict", _options_labels=["no", "yes"], index=1),
    "html": model("HTML", value="<b>said</b>"),
    "odd": model("Odd"),
    "empty": model("Text", description="", value="", placeholder="(unchanged)"),
}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("text", '<span class="name">&lt;brk&gt;</span> <span class="value">start_brk + 8</span>'),
        ("list", '<span class="value">yes</span>'),
        ("html", "<b>said</b>"),
        ("odd", "(Odd: in the notebook only)"),
        ("none", "(a widget: in the notebook only)"),
    ],
)
def test_a_control_is_shown_with_its_name_and_value(name: str, told: str) -> None:
    assert told in still(MODELS, name)


def test_a_box_shows_what_is_in_it_and_nothing_that_is_hidden() -> None:
    html = still(MODELS, "box")
    assert "start_brk + 8" in html
    assert "yes" in html
    assert '<span class="name">x' not in html
    assert still(MODELS, "empty") == ""


def test_a_widget_of_a_run_is_found_by_its_id() -> None:
    shown = nbformat.v4.new_output("display_data", {VIEW: {"model_id": "html"}, "text/plain": "W"})
    cell = nbformat.v4.new_code_cell("w", outputs=[shown])
    whole = nbformat.v4.new_notebook(cells=[cell])
    whole.metadata["widgets"] = {STATE: {"state": MODELS}}
    assert "<b>said</b>" in notebook_html(whole, nowhere)


def test_the_contents_are_where_they_are_looked_for() -> None:
    assert CONTENTS.is_file()
