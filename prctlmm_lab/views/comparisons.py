"""Logs side by side as a table and as a picture: which kernel said what, and why they differ.

`comparison_text` says the same in plain text. pandas and matplotlib are imported on use; pyplot is
never touched.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from prctlmm_lab.experiments.side_by_side import Cell, Comparison, Row
from prctlmm_lab.kernel.rules import RULE
from prctlmm_lab.views.legend import FAINT, INK, MOVED, PAPER, SOFT, look_of
from prctlmm_lab.views.pictures import WIDTH, picture_class, with_glyphs
from prctlmm_lab.views.verdicts import NAME, SMALL, TITLE, hatched
from prctlmm_lab.words import printable, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

MOST_DRAWN = 60
"""Recipes in one picture; the first ones that differ."""
_FACE = "DejaVu Sans"  # matplotlib brings it
_LEFT, _ROW, _LINE, _FOOT = 5.4, 0.62, 0.30, 1.25
_CAUSE = 108
"""Characters in a line of causes."""


def comparison_table(result: Comparison, *, whole: bool = False) -> DataFrame:
    """Return a row for each recipe that differs, or with `whole` for every one.

    Each log has a column: the verdict with the rule that decided, "" for a log without the recipe.
    "why" has the known causes with their commits, or says that there is none.

    The command line's equivalent is `prctlmm-lab compare A B`.
    """
    from pandas import DataFrame

    rows = result.rows if whole else result.differing
    names = [*result.kernels]
    data = [
        (printable(row.experiment), printable(row.title),
         *(_cell_text(row.cells.get(name)) for name in names), "; ".join(causes(row)))
        for row in rows
    ]  # fmt: skip
    columns = ["experiment", "title", *map(printable, names), "why"]
    return DataFrame(data, columns=columns).set_index("experiment")


def causes(row: Row) -> dict[str, list[str]]:
    """Return why the logs of a row differ, and for each cause the names of the logs.

    What has no known cause is "unexplained".
    """
    found: dict[str, list[str]] = {}
    for name, cell in row.cells.items():
        if cell.differences:
            found.setdefault(printable(str(cell.cause or "unexplained")), []).append(name)
        if cell.varies:
            found.setdefault("its own records of this recipe do not agree", []).append(name)
    return found


def _cell_text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    rule = f" ({cell.rule})" if cell.rule else ""
    other = ", shows otherwise" if cell.differences and not cell.other_verdict else ""
    return f"{printable(cell.text)}{printable(rule)}{other}"


def draw_comparison(result: Comparison, *, whole: bool = False) -> Figure:
    """Draw recipes against logs: a field for each answer, and under each row why it differs.

    The looks are those of every picture of verdicts; a thick border marks what differs from the
    first log that has the recipe. The figure is 16 cm wide, and as tall as it must be.

    Save it with `prctlmm_lab.views.pictures.save`.
    """
    rows = (result.rows if whole else result.differing)[:MOST_DRAWN]
    names = [*result.kernels]
    wide = (WIDTH - _LEFT - 0.35) / max(1, len(names))
    letters = {name: _letter(place) for place, name in enumerate(names)}
    told = [_cause_lines(row, letters) for row in rows]
    head = 1.05 + 0.34 * len(names)
    tall = head + sum(_ROW + _LINE * len(lines) + 0.16 for lines in told) + _FOOT
    page = _page(tall)
    _write(page, 0.35, tall - 0.45, "Which kernel said what", size=TITLE, weight="bold")
    for place, (name, kernels) in enumerate(result.kernels.items()):
        x = _LEFT + (place + 0.5) * wide
        y = tall - 0.95 - 0.34 * place
        _write(page, 0.35, y, shortened(f"{_letter(place)}  {printable(name)}", 40))
        _write(page, _LEFT, y, shortened(printable(kernels), 70), color=SOFT)
        _write(page, x, tall - head + 0.02, _letter(place), size=NAME, weight="bold", ha="center")
    y = tall - head - 0.2
    for row, lines in zip(rows, told, strict=True):
        y = _draw_row(page, row, names, y, wide, lines)
    _write(page, 0.35, 0.62, _caption(result, len(rows)), color=SOFT)
    _write(page, 0.35, 0.3, "Thick border: differs from the first log. Striped by the rule that "
           "decided. ≠: the same verdict, but another effect.", color=SOFT)  # fmt: skip
    figure: Figure = page.figure
    return figure


def _draw_row(
    page: Any, row: Row, names: list[str], top: float, wide: float, lines: list[str]
) -> float:
    """Draw one recipe and return where the next begins."""
    middle = top - _ROW / 2
    _write(page, 0.35, middle, shortened(printable(row.experiment), 34), size=NAME)
    for place, name in enumerate(names):
        x = _LEFT + place * wide
        _draw_cell(page, row.cells.get(name), x + 0.06, middle, wide - 0.12)
    bottom = top - _ROW
    for line in lines:
        bottom -= _LINE
        _write(page, 0.6, bottom + _LINE / 2, line, color=SOFT)
    page.plot((0.35, WIDTH - 0.35), (bottom - 0.06,) * 2, color=FAINT, linewidth=0.4)
    return bottom - 0.16


def _draw_cell(page: Any, cell: Cell | None, x: float, y: float, wide: float) -> None:
    from matplotlib.patches import Rectangle

    if cell is None:
        _write(page, x + wide / 2, y, "not in this log", color=SOFT, ha="center")
        return
    look, high = look_of(RULE.get(cell.rule)), _ROW * 0.72
    box: dict[str, Any] = {"xy": (x, y - high / 2), "height": high, "width": wide}
    page.add_patch(Rectangle(**box, facecolor=look.tint))
    page.add_patch(hatched(Rectangle(**box), look))
    differs = bool(cell.differences or cell.varies)
    edge: dict[str, Any] = (
        {"edgecolor": MOVED, "linewidth": 1.8} if differs else {"edgecolor": INK, "linewidth": 0.5}
    )
    page.add_patch(Rectangle(**box, fill=False, **edge))
    text = cell.text if cell.other_verdict or not differs else f"{cell.text} ≠"
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2, "alpha": 0.88}
    _write(
        page, x + wide / 2, y, shortened(printable(text), 16), size=NAME, ha="center", bbox=ground
    )


def _cause_lines(row: Row, letters: dict[str, str]) -> list[str]:
    """Break the causes of a row into lines, each cause after the letters of its logs."""
    return [
        line
        for cause, names in causes(row).items()
        for line in textwrap.wrap(f"{' '.join(letters[n] for n in names)}: {cause}", _CAUSE)
    ]


def _caption(result: Comparison, drawn: int) -> str:
    differing = len(result.differing)
    text = f"As these logs recorded it. {len(result.rows)} recipes, {differing} differ"
    return (
        text + (f"; {drawn} are drawn" if drawn not in (differing, len(result.rows)) else "") + "."
    )


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"L{place + 1}"


def _page(tall: float) -> Any:
    """Open a page and return axes over all of it, in centimetres."""
    figure = picture_class()(figsize=(WIDTH / 2.54, tall / 2.54))
    page = figure.add_axes((0, 0, 1, 1))
    page.set_axis_off()
    page.set(xlim=(0, WIDTH), ylim=(0, tall))
    return page


def _write(page: Any, x: float, y: float, text: str, **options: Any) -> None:
    weight = options.get("weight", "normal")
    look = {"color": INK, "ha": "left", "va": "center", "size": SMALL} | options
    page.text(x, y, with_glyphs(text, _FACE, weight), family=_FACE, parse_math=False, **look)
