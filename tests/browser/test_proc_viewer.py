"""One journey through the ProcViewer as a learner makes it: a real browser, a real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.jupyterlab import browser_path, page, run_all, server
from tests.needs import skip_unless

pytestmark = pytest.mark.starts_for_session("playwright's driver")


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    skip_unless(browser_path(), "Chromium is not installed (Debian: chromium)")
    folder: Path = tmp_path_factory.mktemp("jupyter")
    with server(folder) as address, page(address, "04-what-proc-shows.ipynb") as opened:
        run_all(opened)
        opened.get_by_text("Look 1: started").first.wait_for()
        yield opened


def test_a_learner_makes_a_call_by_keyboard_and_goes_back(notebook: Any) -> None:
    notebook.get_by_label("a call").select_option(label="No command line")
    changes = notebook.get_by_label("changes")
    notebook.wait_for_function("f => f.value === 'arg_end = arg_start'",
                               arg=changes.element_handle())  # fmt: skip
    notebook.get_by_role("button", name="Call", exact=True).focus()
    notebook.keyboard.press("Enter")
    notebook.get_by_text("≠ 49 arg_end").first.wait_for()
    looks = notebook.get_by_label("looks")
    looks.focus()
    notebook.keyboard.press("Home")
    notebook.get_by_role("table").get_by_text("started (the first)").wait_for()


def test_it_follows_when_it_is_asked_to(notebook: Any) -> None:
    follow = notebook.get_by_role("button", name="Follow", exact=True)
    follow.focus()
    notebook.keyboard.press("Enter")
    notebook.get_by_text("Following: a look every 0.5 s").wait_for()
    add = """() => {
      const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
      const code = 'viewer.following.specimen.set_map(viewer.following.specimen.current_map()'
        + '.changed(start_code=1 << 20))';
      kernel.requestExecute({code});
    }"""
    notebook.evaluate(add)
    notebook.get_by_text("changed by somebody").first.wait_for()
    notebook.get_by_text("0x100000").first.wait_for()
