"""The book opens from disk with the network refused, in light and dark, on desk and phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.book import HOME, make
from prctlmm_lab.kernel.abi import MEMBERS
from tests.browser.jupyterlab import QUIET, browser_path
from tests.needs import skip_unless

pytestmark = pytest.mark.starts_for_session("playwright's driver")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = [
    ROOT / "notebooks" / name for name in ("00-rename-a-living-process.ipynb", "02-explore.ipynb")
]
PAGES = [HOME.to, *(f"{path.stem}.html" for path in NOTEBOOKS)]
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"
_CONTRASTS = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const part = numbers(colour).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const ground = node => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor, parts = numbers(colour);
      if (parts.length < 4 || parts[3] > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, holder = node.parentElement;
    const style = getComputedStyle(holder);
    if (!node.data.trim() || holder.closest('svg') || style.visibility !== 'visible') continue;
    const [a, b] = [light(style.color), light(ground(holder))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), node.data.trim().slice(0, 60)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("book") / "site"
    make(NOTEBOOKS, out)
    return out


class Watched:
    """A page that notes what it asks for, what fails and what its console calls an error."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.outgoing: list[str] = []
        self.wrong: list[str] = []
        page.set_default_timeout(30_000)
        page.on("request", self._request)
        page.on("requestfailed", lambda request: self.wrong.append(f"failed: {request.url}"))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", self._said)

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            self.outgoing.append(request.url)

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)


Open = Callable[..., Watched]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    skip_unless(browser_path(), "Chromium is not installed (Debian: chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=browser_path(), args=[*QUIET, NO_NETWORK]
        )
        yield started
        started.close()


@pytest.fixture
def watched(browser: Any, book: Path) -> Iterator[Open]:
    opened = []

    def open_page(name: str, width: int = 1200, scheme: str = "light") -> Watched:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(page)
        seen = Watched(page)
        page.goto((book / name).as_uri())
        return seen

    yield open_page
    for page in opened:
        page.close()


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_fetched_and_nothing_fails(watched: Open, name: str) -> None:
    seen = watched(name)
    assert (seen.outgoing, seen.wrong) == ([], [])
    assert seen.page.locator("script").count() == 0


def test_a_request_that_leaves_would_be_seen(watched: Open) -> None:
    seen = watched(HOME.to)
    seen.page.evaluate("""() => new Promise(done => {
      const image = new Image();
      image.onerror = done;
      image.src = 'https://example.org/a.png';
      document.body.append(image);
    })""")
    assert seen.outgoing == ["https://example.org/a.png"]
    assert any("failed" in each for each in seen.wrong)


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_not_scroll_sideways(watched: Open, name: str, width: int) -> None:
    page = watched(name, width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sideways = page.evaluate("() => { scrollTo(10000, 0); return scrollX; }")
    assert sideways == 0


def test_what_is_too_wide_for_a_phone_scrolls_inside_itself(watched: Open) -> None:
    page = watched(PAGES[2], 390).page
    wider = page.evaluate("""() => [...document.querySelectorAll('.rich, .rich *, pre')]
      .some(node => node.scrollWidth > node.clientWidth + 100
            && ['auto', 'scroll'].includes(getComputedStyle(node).overflowX))""")
    assert wider


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_word_stands_out_from_its_ground(watched: Open, name: str, scheme: str) -> None:
    contrasts = watched(name, scheme=scheme).page.evaluate(_CONTRASTS)
    assert len(contrasts) > 20
    assert [each for each in contrasts if each[0] < 4.5] == []


def test_one_walks_through_the_book_and_back(watched: Open) -> None:
    page = watched(HOME.to).page
    for name in PAGES[1:]:
        page.get_by_role("navigation").first.get_by_text("→").click()
        page.wait_for_url(f"**/{name}")
    assert page.get_by_text("→").count() == 0, "the last page leads no further"
    for name in reversed(PAGES[:-1]):
        page.get_by_role("navigation").last.get_by_text("←").click()
        page.wait_for_url(f"**/{name}")
    page.get_by_role("link", name="02 Explore").first.click()
    page.wait_for_url(f"**/{PAGES[2]}")
    page.get_by_role("link", name=HOME.words).click()
    page.wait_for_url(f"**/{HOME.to}")


def test_the_explorer_is_shown_without_its_script(watched: Open) -> None:
    figure = watched(PAGES[2]).page.locator("figure.widget").first
    said = figure.inner_text()
    for member in MEMBERS:
        assert member.name in said
    assert "The rules say: ✓ accepted" in said
    assert figure.locator("svg").first.is_visible()


def test_on_paper_nothing_is_dark(watched: Open) -> None:
    page = watched(PAGES[1], scheme="dark").page
    page.emulate_media(media="print")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    assert not page.get_by_role("navigation").first.is_visible()
