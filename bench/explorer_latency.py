"""Time the Explorer from a key press on a slider to the changed picture on the page.

A real JupyterLab in Chromium; the page itself takes both times. Needs the test extra and Chromium.
Run from the top folder: `python -m bench.explorer_latency`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

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


def main() -> int:
    """Print the median and the 90th percentile in milliseconds."""
    if browser_path() is None:
        print("explorer_latency: Chromium is needed", file=sys.stderr)
        return 2
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
    print(f"key press to changed page   median {median:.0f} ms, 90th percentile {slow:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
