"""The atlas as a table, as text and as a picture: questions by kernels, in order of release.

Where the answer to a question changes from one kernel to the next, that is marked and explained in
the row itself. pandas and matplotlib are imported on use; pyplot is never touched.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from prctlmm_lab.atlas.turns import Atlas, Row, Turn, atlas_of, recorded_atlas, stands_beside
from prctlmm_lab.specimen.recording.marks import LIVE, note
from prctlmm_lab.views.areas import Kind
from prctlmm_lab.views.legend import (
    ACCEPTED_LOOK,
    FAINT,
    INK,
    LOOKS,
    MOVED,
    PAPER,
    SOFT,
    Look,
    Pattern,
)
from prctlmm_lab.views.pictures import WIDTH, picture_class, with_glyphs
from prctlmm_lab.views.verdicts import NAME, SMALL, TITLE, hatched
from prctlmm_lab.words import printable, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from prctlmm_lab.atlas.kernels import Kernel
    from prctlmm_lab.experiments.experiment import Experiment

_FACE = "DejaVu Sans"  # matplotlib brings it
_LEFT, _RIGHT, _BAR, _ROW, _LINE = 3.15, 0.35, 0.42, 0.52, 0.31
_APART = 0.35
"""Centimetres between the kernels in order of release and those that stand beside."""
MOST_ALIKE = 12
"""Questions that all kernels answer alike in one picture; the first ones."""
_CAUSE = 122
"""Characters in a line of causes."""

REFUSED_LOOK = LOOKS[Kind.REFUSED]
OTHERWISE_LOOK = Look("#56b4e9", "#e6f4fc", Pattern.DOTTED, "accepted, but shown otherwise")
"""What is accepted as before, but shows another thing than on the oldest kernel."""


def atlas_table(atlas: Atlas | None = None) -> DataFrame:
    """Return a row for each question: the answer of each kernel, and why answers differ.

    The columns are the kernels in order of release; "why" has each turn with its commit. Without an
    atlas it is the recorded one.

    >>> atlas_table().loc["vector-416", ["5.10.262", "6.12.118"]].tolist()
    ['EINVAL', 'accepted']

    The command line's equivalent is `prctlmm-lab atlas table`.
    """
    from pandas import DataFrame

    atlas = _shown(atlas)
    data = [
        (printable(row.id), printable(row.title),
         *(printable(row.answers.get(kernel, "")) for kernel in atlas.kernels),
         "; ".join(f"{places}: {why}" for places, why in _reasons(row)))
        for row in atlas.rows
    ]  # fmt: skip
    columns = ["question", "title", *map(printable, atlas.kernels), "why"]
    return DataFrame(data, columns=columns).set_index("question")


def answers_table(kernels: Iterable[Kernel], experiments: Sequence[Experiment]) -> DataFrame:
    """Ask kernels some questions and return a row for each question, a column for each kernel.

    The words are those of the atlas; "why" explains where two kernels that follow each other
    differ. In a guest the questions are asked now, as root.

    >>> from prctlmm_lab.atlas.recorded import RecordedKernel, questions
    >>> answers_table([RecordedKernel("6.1")], [questions()["heap-touches"]])["6.1.192"].tolist()
    ['[heap]']

    Raises as `Kernel.run`.
    """
    return atlas_table(atlas_of({k.upstream: [*map(k.run, experiments)] for k in kernels}))


def atlas_text(atlas: Atlas | None = None) -> str:
    """Write the same as text: each question, its answers as runs of kernels, and its turns.

    >>> print(atlas_text().partition("heap-touches")[2].splitlines()[1])
      5.10.262 to 6.1.192: [heap]
    """
    return "\n".join(_lines(_shown(atlas)))


def _lines(atlas: Atlas) -> Iterator[str]:
    yield f"{len(atlas.kernels)} kernels, {_origin_text(atlas)}"
    for row in atlas.differing:
        yield f"{printable(row.id)}: {printable(row.title)}"
        for kernels, answer in _runs(row, atlas.kernels):
            yield f"  {_from_to(kernels)}: {printable(answer)}"
        for places, why in _reasons(row):
            yield f"  why {places}: {why}"
    if atlas.alike:
        yield "all kernels alike:"
    for row in atlas.alike:
        yield f"  {printable(row.id)}: {printable(next(iter(row.answers.values())))}"


def _from_to(kernels: Sequence[str]) -> str:
    names = [printable(kernel) for kernel in kernels]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _shown(atlas: Atlas | None) -> Atlas:
    """Return the atlas that is meant, and have the cell say where it is from."""
    atlas = recorded_atlas() if atlas is None else atlas
    if atlas.origin != LIVE:
        note(atlas.origin)
    return atlas


def _origin_text(atlas: Atlas) -> str:
    return "asked just now" if atlas.origin == LIVE else atlas.origin


def _runs(row: Row, kernels: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """Yield the kernels that follow each other with one answer, and the answer."""
    asked = [(kernel, row.answers[kernel]) for kernel in kernels if kernel in row.answers]
    for (answer, _), run in groupby(asked, lambda pair: (pair[1], stands_beside(pair[0]))):
        yield [kernel for kernel, _ in run], answer


def _reasons(row: Row) -> Iterator[tuple[str, str]]:
    """Yield where a row turns and why; turns with one cause are told together."""
    for why, turns in _by_cause(row.turns).items():
        yield ", ".join(f"{printable(t.older)} -> {printable(t.newer)}" for t in turns), why


def _by_cause(turns: Iterable[Turn]) -> dict[str, list[Turn]]:
    found: dict[str, list[Turn]] = {}
    for turn in turns:
        found.setdefault(printable(turn.why), []).append(turn)
    return found


# ---- the picture --------------------------------------------------------------------------------


def draw_atlas(atlas: Atlas | None = None) -> Figure:
    """Draw questions against kernels: bars of one answer, and a numbered mark where it changes.

    The number stands below the row again, with the cause and its commits. Bars say their answer in
    words, and are striped or dotted as well as coloured. The figure is 16 cm wide, and as tall as
    it must be. Without an atlas it is the recorded one.

    >>> round(draw_atlas().get_figwidth() * 2.54)
    16

    Save it with `prctlmm_lab.views.pictures.save`; `atlas_text` says the same in words.
    """
    atlas = _shown(atlas)
    alike, numbers = atlas.alike[:MOST_ALIKE], _numbered(atlas)
    told = {row.id: [*_cause_lines(row, numbers)] for row in atlas.differing}
    head, foot = 2.35, 1.95
    tall = head + foot + (_ROW * len(alike) + 0.55 if alike else 0)
    tall += sum(_ROW + _LINE * len(lines) + 0.14 for lines in told.values())
    plot = _Plot(_page(tall), atlas.kernels)
    _head(plot, tall, atlas)
    y = tall - head
    for row in atlas.differing:
        plot.row(row, y, numbers)
        y -= _ROW
        for line in told[row.id]:
            plot.write(0.35, y - _LINE / 2 + 0.04, line, color=SOFT)
            y -= _LINE
        plot.line(y - 0.02)
        y -= 0.14
    if alike:
        more = len(atlas.alike) - len(alike)
        plot.write(0.35, y - 0.22, "All kernels alike", weight="bold")
        if more:
            plot.write(_LEFT, y - 0.22, f"and in {more} more questions", color=SOFT)
        y -= 0.55
    for row in alike:
        plot.row(row, y, numbers)
        y -= _ROW
    _legend(plot, atlas)
    figure: Figure = plot.page.figure
    return figure


def _numbered(atlas: Atlas) -> dict[tuple[str, str, str], int]:
    """Give each turn a number, from the top, row by row."""
    turns = [(row.id, turn.older, turn.newer) for row in atlas.differing for turn in row.turns]
    return {turn: number for number, turn in enumerate(turns, 1)}


def _cause_lines(row: Row, numbers: dict[tuple[str, str, str], int]) -> Iterator[str]:
    """Yield what is asked, and then each cause after the numbers of its marks."""
    if row.title:
        yield shortened(f"{printable(row.title)}.", _CAUSE)
    for why, turns in _by_cause(row.turns).items():
        marks = " ".join(str(numbers[row.id, turn.older, turn.newer]) for turn in turns)
        yield from textwrap.wrap(f"{marks}:  {why}", _CAUSE, subsequent_indent="      ")


def _head(plot: _Plot, tall: float, atlas: Atlas) -> None:
    plot.write(0.35, tall - 0.45, "What kernels answer", size=TITLE, weight="bold")
    plot.write(0.35, tall - 0.92, shortened(f"{len(atlas.kernels)} kernels, {_origin_text(atlas)}",
                                            110), color=SOFT)  # fmt: skip
    for kernel in atlas.kernels:
        release, _, wide = kernel.partition(" ")
        series = ".".join(release.split(".")[:2])
        x = plot.middle(kernel)
        plot.write(x, tall - 1.42, shortened(printable(series), 8), size=NAME, weight="bold",
                   ha="center")  # fmt: skip
        below = printable(release.removeprefix(series) or "")
        plot.write(x, tall - 1.74, below, color=SOFT, ha="center", size=SMALL - 0.6)
        if wide:
            plot.write(
                x,
                tall - 2.02,
                shortened(printable(wide), 9),
                color=SOFT,
                ha="center",
                size=SMALL - 0.6,
            )
    plot.write(_LEFT - 0.15, tall - 1.42, "older → newer", color=SOFT, ha="right")


def _legend(plot: _Plot, atlas: Atlas) -> None:
    plot.line(1.75)
    x = 0.35
    for look in (ACCEPTED_LOOK, OTHERWISE_LOOK, REFUSED_LOOK):
        plot.box(x, 1.4, 0.6, 0.3, look)
        plot.write(x + 0.72, 1.4, look.words)
        x += 1.35 + 0.12 * len(look.words)
    plot.mark(x + 0.1, 1.4, "n")
    plot.write(x + 0.4, 1.4, "the answer changes: see n below")
    lines = [
        "Refused: the errno is in the bar. Shown otherwise: than on the oldest kernel, as the word "
        "in the bar says.",
        "Kernels stand in order of release, whatever time lay between. Beside a commit stands the "
        "first release that has it.",
    ]
    if any(stands_beside(kernel) for kernel in atlas.kernels):
        lines.append(
            "What stands apart, with 5-level page tables or on another machine, is held against "
            "the kernel that is most like it."
        )
    for number, line in enumerate(lines):
        plot.write(0.35, 0.98 - 0.32 * number, line, color=SOFT)


@dataclass(frozen=True)
class _Plot:
    """Axes over a whole page, in centimetres, with a column for each kernel."""

    page: Any
    kernels: tuple[str, ...]

    @property
    def wide(self) -> float:
        """The width of a column."""
        apart = _APART if any(stands_beside(kernel) for kernel in self.kernels) else 0
        return (WIDTH - _LEFT - _RIGHT - apart) / max(1, len(self.kernels))

    def left(self, kernel: str) -> float:
        """Return where a kernel's column begins."""
        apart = _APART if stands_beside(kernel) else 0
        return _LEFT + self.kernels.index(kernel) * self.wide + apart

    def middle(self, kernel: str) -> float:
        """Return the middle of a kernel's column."""
        return self.left(kernel) + self.wide / 2

    def row(self, row: Row, top: float, numbers: dict[tuple[str, str, str], int]) -> None:
        """Draw a question with its bars and marks."""
        y = top - _ROW / 2
        self.write(0.35, y, shortened(printable(row.id), 28), size=NAME)
        looks = _looks_of(row)
        for run, answer in _runs(row, self.kernels):
            x, end = self.left(run[0]), self.left(run[-1]) + self.wide
            self.box(x, y, end - x, _BAR, looks[answer])
            room = int((end - x) / 0.15)
            text = shortened(printable(answer), max(room, 8))
            plain = looks[answer].pattern is Pattern.PLAIN
            ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
            self.write((x + end) / 2, y, text, ha="center", bbox=None if plain else ground,
                       size=SMALL if room >= len(text) else SMALL - 1.2)  # fmt: skip
        for turn in row.turns:
            number = numbers[row.id, turn.older, turn.newer]
            self.turn(self.left(turn.newer), y, str(number))

    def turn(self, x: float, y: float, text: str) -> None:
        """Mark a change of the answer: a thick line over the row, and its number."""
        half = _ROW / 2
        self.page.plot((x, x), (y - half + 0.02, y + half), color=MOVED, linewidth=1.8, zorder=3)
        self.mark(x, y + half - 0.02, text)

    def mark(self, x: float, y: float, text: str) -> None:
        """Draw a number in a disc."""
        from matplotlib.patches import Ellipse

        self.page.add_patch(Ellipse((x, y), 0.34, 0.34, facecolor=MOVED, edgecolor=PAPER,
                                    linewidth=0.6, zorder=4))  # fmt: skip
        self.write(x, y - 0.005, text, color=PAPER, ha="center", size=SMALL - 1.2, weight="bold",
                   zorder=5)  # fmt: skip

    def box(self, x: float, y: float, wide: float, high: float, look: Look) -> None:
        """Draw a bar in the middle of a row."""
        from matplotlib.patches import Rectangle

        box: dict[str, Any] = {"xy": (x, y - high / 2), "width": wide, "height": high}
        self.page.add_patch(Rectangle(**box, facecolor=look.tint))
        self.page.add_patch(hatched(Rectangle(**box), look))
        self.page.add_patch(Rectangle(**box, fill=False, edgecolor=INK, linewidth=0.5))

    def line(self, y: float) -> None:
        """Draw a thin line over the page."""
        self.page.plot((0.35, WIDTH - _RIGHT), (y, y), color=FAINT, linewidth=0.4)

    def write(self, x: float, y: float, text: str, **options: Any) -> None:
        """Write a line of text."""
        weight = options.get("weight", "normal")
        look = {"color": INK, "ha": "left", "va": "center_baseline", "size": SMALL} | options
        shown = with_glyphs(text, _FACE, weight)
        self.page.text(x, y, shown, family=_FACE, parse_math=False, **look)


def _looks_of(row: Row) -> dict[str, Look]:
    """Return the look of each answer: refused, accepted, or accepted with something else shown."""
    first: str | None = None
    looks: dict[str, Look] = {}
    for answer in row.answers.values():
        if re.fullmatch(r"E[A-Z0-9]+", answer):
            looks[answer] = REFUSED_LOOK
            continue
        first = answer if first is None else first
        looks[answer] = ACCEPTED_LOOK if answer == first else OTHERWISE_LOOK
    return looks


def _page(tall: float) -> Any:
    """Open a page and return axes over all of it, in centimetres."""
    figure = picture_class()(figsize=(WIDTH / 2.54, tall / 2.54))
    page = figure.add_axes((0, 0, 1, 1))
    page.set_axis_off()
    page.set(xlim=(0, WIDTH), ylim=(0, tall))
    return page
