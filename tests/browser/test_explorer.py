"""One journey through the Explorer as a learner makes it: a real browser, a real kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.kernel.abi import MEMBERS
from tests.browser.jupyterlab import browser_path, page, run_all, server
from tests.needs import skip_unless

NAMES = [member.name for member in MEMBERS]
pytestmark = pytest.mark.starts_for_session("playwright's driver")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jupyter")


@pytest.fixture(scope="module")
def explorer(folder: Path) -> Iterator[Any]:
    skip_unless(browser_path(), "Chromium is not installed (Debian: chromium)")
    with server(folder) as address, page(address, "02-explore.ipynb") as opened:
        run_all(opened)
        opened.get_by_text("The rules say").first.wait_for()
        # The last cell with output is done: everything above it is, too.
        opened.get_by_text("[[experiment]]").first.wait_for()
        yield opened


def row(opened: Any, member: str) -> tuple[Any, Any]:
    """Return the slider's handle and the text field of a member."""
    number = NAMES.index(member)
    return opened.locator(".noUi-handle").nth(number), opened.locator(
        "input[placeholder='(unchanged)']"
    ).nth(number)


def test_a_learner_renames_the_specimen(explorer: Any, folder: Path) -> None:
    handle, text = row(explorer, "arg_start")
    handle.focus()
    for _ in range(40):
        if text.input_value() == "arena.start":
            break
        before = text.input_value()
        explorer.keyboard.press("ArrowLeft")
        field = text.element_handle()
        explorer.wait_for_function("([f, old]) => f.value !== old", arg=[field, before])
    assert text.input_value() == "arena.start"

    row(explorer, "arg_end")[1].fill("arg_start + 28")
    explorer.get_by_text("The rules say: ✓ accepted").wait_for()
    explorer.get_by_label("I predict").select_option("accepted")
    explorer.get_by_role("button", name="Run", exact=True).click()

    explorer.get_by_text("You predicted").wait_for()
    answer = explorer.locator(".widget-html", has_text="You predicted").inner_text()
    assert "answered\naccepted" in answer
    assert "a-new-name" in answer

    records = [json.loads(line) for line in (folder / "logbook.jsonl").read_text().splitlines()]
    assert records[-1]["outcome"]["verdict"] == "accepted"
    assert records[-1]["learner"] == "accepted"
    assert records[-1]["after"]["cmdline"] == "a-new-name\0--with\0arguments\0"


def test_what_does_not_parse_is_said_beside_it_and_kept(explorer: Any) -> None:
    text = row(explorer, "brk")[1]
    text.fill("brk + <b>nonsense</b>")
    explorer.get_by_role("alert").first.wait_for()
    said = explorer.get_by_role("alert").first.inner_text()
    assert "brk" in said
    assert "is not a formula" in said
    assert text.input_value() == "brk + <b>nonsense</b>"
    explorer.get_by_role("button", name="Run", exact=True).click()
    explorer.get_by_text("Run: waits").wait_for()
    text.fill("")
    explorer.get_by_text("The rules say").first.wait_for()
