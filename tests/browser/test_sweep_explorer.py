"""The SweepExplorer as a learner uses it, in notebook 10: a real browser, a real kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.jupyterlab import browser_path, page, run_all, server
from tests.needs import skip_unless

NOTEBOOK = "10-maps-by-the-million.ipynb"
pytestmark = pytest.mark.starts_for_session("playwright's driver")


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    skip_unless(browser_path(), "Chromium is not installed (Debian: chromium)")
    folder = tmp_path_factory.mktemp("jupyter")
    with server(folder) as address:
        end_with_the_explorer(folder / "notebooks" / NOTEBOOK)
        with page(address, NOTEBOOK) as opened:
            run_all(opened)
            picture(opened).wait_for()
            yield opened


def end_with_the_explorer(path: Path) -> None:
    """Leave out the cells after the explorer's: what they do takes long and is not looked at."""
    notebook = json.loads(path.read_text())
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    (place,) = (n for n, source in enumerate(sources) if "= SweepExplorer()" in source)
    notebook["cells"] = notebook["cells"][: place + 1]
    path.write_text(json.dumps(notebook))


def field(opened: Any, axis: str, end: str) -> Any:
    return opened.get_by_label(f"{axis} {end}", exact=True)


def picture(opened: Any) -> Any:
    return opened.locator(".widget-html img[src^='data:image/png']")


def test_typing_a_smaller_range_and_run_zooms(notebook: Any) -> None:
    before = picture(notebook).get_attribute("src")
    assert "160,000 calls" in picture(notebook).get_attribute("alt")
    for axis in "xy":
        for end, formula in (("from", "lowest - 8"), ("to", "lowest + 8")):
            field(notebook, axis, end).fill(formula)
            field(notebook, axis, end).press("Tab")
    assert picture(notebook).get_attribute("src") == before, "nothing is asked before Run"
    notebook.get_by_role("button", name="Run", exact=True).click()
    notebook.locator("img[alt*=' 289 calls']").wait_for()
    assert picture(notebook).get_attribute("src") != before

    notebook.get_by_text("The same as text").click()
    twin = notebook.locator(".widget-html details pre").inner_text()
    assert "start_brk: 17 values, lowest - 8 to lowest + 8" in twin
    assert "289 calls" in twin
    assert "no disagreement" in twin


def test_what_is_no_formula_is_said_beside_it_and_the_picture_stays(notebook: Any) -> None:
    before = picture(notebook).get_attribute("src")
    kept = field(notebook, "y", "from").input_value()
    field(notebook, "y", "from").fill("brk + <b>nonsense</b>")
    field(notebook, "y", "from").press("Tab")
    notebook.get_by_role("alert").first.wait_for()
    notebook.get_by_role("button", name="Run", exact=True).click()
    said = notebook.get_by_role("alert")
    said.first.wait_for()
    assert "y.from: " in said.first.inner_text()
    assert "is not a formula" in said.first.inner_text()
    assert picture(notebook).get_attribute("src") == before
    field(notebook, "y", "from").fill(kept)
    field(notebook, "y", "from").press("Tab")
    said.first.wait_for(state="detached")


def test_back_shows_the_picture_before(notebook: Any) -> None:
    notebook.get_by_role("button", name="Back", exact=True).click()
    notebook.locator("img[alt*='160,000 calls']").wait_for()
    assert field(notebook, "x", "from").input_value() == "lowest - 2*page"
