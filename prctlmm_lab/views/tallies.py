"""The picture of a differential test: how many calls each rule decided.

Needs matplotlib, which is imported on use; pyplot is never touched. `tally_table` says the same in
words and numbers.
"""

from __future__ import annotations

from math import log10
from typing import TYPE_CHECKING, Any

from prctlmm_lab.kernel.rules import RULE
from prctlmm_lab.views.legend import FAINT, INK, SOFT, look_of
from prctlmm_lab.views.pictures import WIDTH, picture_class, with_glyphs
from prctlmm_lab.views.verdicts import NAME, SMALL, TITLE, hatched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prctlmm_lab.experiments.differential import Tally

_ROW, _HEAD, _FOOT = 0.44, 1.75, 1.4
_LEFT, _RIGHT = 4.3, 14.0
"""Where 1 call is, and the most, in centimetres from the left."""
_FACE = "DejaVu Sans"  # matplotlib brings it


def draw_tally(tally: Tally) -> Figure:
    """Draw how many calls each rule decided, in the kernel's order, on a logarithmic scale.

    The figure is 16 cm wide. The looks are those of `draw_verdicts`; accepted comes last.

    >>> from prctlmm_lab import fuzz
    >>> round(draw_tally(fuzz(2000)).get_figwidth() * 2.54)
    16

    Save it with `prctlmm_lab.views.pictures.save`.
    """
    counts = [(name, tally.by_rule[name]) for name in (*RULE, "accepted") if tally.by_rule[name]]
    powers = len(str(max((number for _, number in counts), default=1)))
    tall = _HEAD + _ROW * len(counts) + _FOOT
    page = _page(tall)
    _write(page, 0.35, tall - 0.5, "Which rule decided", size=TITLE, weight="bold")
    _scale(page, powers, tall - _HEAD + 0.1, _FOOT - 0.1)
    for place, (name, number) in enumerate(counts):
        _row(page, tall - _HEAD - (place + 0.5) * _ROW, name, number, powers)
    for y, line in zip((0.72, 0.36), _caption(tally), strict=True):
        _write(page, 0.35, y, line, color=SOFT)
    figure: Figure = page.figure
    return figure


def _page(tall: float) -> Any:
    """Open a page and return axes over all of it, in centimetres."""
    figure = picture_class()(figsize=(WIDTH / 2.54, tall / 2.54))
    page = figure.add_axes((0, 0, 1, 1))
    page.set_axis_off()
    page.set(xlim=(0, WIDTH), ylim=(0, tall))
    return page


def _caption(tally: Tally) -> tuple[str, str]:
    return (
        f"Linux {tally.kernel}. {tally.calls:,} random calls, seed {tally.seed}.",
        "The first broken rule decides. From top to bottom in the order of the kernel's checks.",
    )


def _place(number: float, powers: int) -> float:
    return _LEFT + log10(number) / powers * (_RIGHT - _LEFT)


def _scale(page: Any, powers: int, top: float, bottom: float) -> None:
    """Draw a line for each power of ten."""
    for power in range(powers + 1):
        x = _place(10**power, powers)
        page.plot((x, x), (bottom, top), color=FAINT, linewidth=0.5, zorder=0)
        _write(page, x, top + 0.22, f"{10**power:,}", color=SOFT, ha="center")
    words = "calls; each line is ten times the one before (logarithmic)"
    _write(page, _LEFT, top + 0.62, words, color=SOFT)


def _row(page: Any, y: float, name: str, number: int, powers: int) -> None:
    """Write a rule and how many calls it decided, and draw a bar so long, from 1 call on."""
    from matplotlib.patches import Rectangle

    look, high = look_of(RULE.get(name)), _ROW * 0.62
    box: dict[str, Any] = {"xy": (_LEFT, y - high / 2), "height": high,
                           "width": _place(number, powers) - _LEFT}  # fmt: skip
    page.add_patch(Rectangle(**box, facecolor=look.tint))
    page.add_patch(hatched(Rectangle(**box), look))
    page.add_patch(Rectangle(**box, fill=False, edgecolor=INK, linewidth=0.5))
    _write(page, _LEFT - 0.2, y, name, size=NAME, ha="right")
    _write(page, WIDTH - 0.35, y, f"{number:,}", ha="right")


def _write(page: Any, x: float, y: float, text: str, **options: Any) -> None:
    weight = options.get("weight", "normal")
    look = {"color": INK, "ha": "left", "va": "center", "size": SMALL} | options
    page.text(x, y, with_glyphs(text, _FACE, weight), family=_FACE, parse_math=False, **look)
