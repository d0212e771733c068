"""Time the Explorer from a key press on a slider to the changed picture on the page.

A real JupyterLab in Chromium; the page itself takes both times. Needs the test extra and Chromium.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from bench.measure import Missing, Row
from prctlmm_lab.kernel.abi import MEMBERS
from tests.browser.jupyterlab import browser_path, page, run_all, server

PRESSES = 60
WATCH = """
() => {
  window.latencies = [];
  let pressed = null;
  document.addEventListener('keydown', () => { pressed = performance.now(); }, true);
  const picture = document.querySelector('.widget-html svg').closest('.widget-html');
  new MutationObserver(() => {
    if (pressed === null) return;
    const since = pressed;
    pressed = null;
    // The task after the next frame: the page has been laid out and painted.
    requestAnimationFrame(() => setTimeout(
      () => window.latencies.push(performance.now() - since), 0));
  }).observe(picture, {childList: true, subtree: true});
}
"""


def rows() -> list[Row]:
    """Measure the median and the 90th percentile."""
    if browser_path() is None:
        raise Missing("Chromium is needed to measure the Explorer; install the package chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder)) as address,
        page(address, "02-explore.ipynb") as opened,
    ):
        run_all(opened)
        opened.get_by_text("[[experiment]]").first.wait_for()
        handle = opened.locator(".noUi-handle").nth([m.name for m in MEMBERS].index("start_stack"))
        handle.focus()
        opened.evaluate(WATCH)
        for number in range(PRESSES):
            # There and back again, so that every press moves the slider.
            opened.keyboard.press("ArrowLeft" if number // 5 % 2 else "ArrowRight")
            # The page is asked seldom and left to rest, so that only one press is timed.
            opened.wait_for_function("n => window.latencies.length > n", arg=number, polling=200)
            opened.wait_for_timeout(150)
        times = sorted(opened.evaluate("() => window.latencies"))
    median, slow = statistics.median(times), times[int(0.9 * len(times))]
    return [
        Row("key press to page, median", median, None, "ms", "under 50 ms"),
        Row("key press to page, 90th percentile", slow, None, "ms", "under 50 ms"),
    ]
