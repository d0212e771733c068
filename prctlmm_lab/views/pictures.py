"""The picture of an address space as a matplotlib figure: for books and slides.

Needs matplotlib, which is imported on use. pyplot and its global state are never touched, so no
display is needed and nothing must be closed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot
from prctlmm_lab.views.layout import Layout
from prctlmm_lab.views.layout import layout as lay_out
from prctlmm_lab.views.scene import Box, Curve, Lines, Mark, Scene, Shape, Text, draw_scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 16.0, 22.0
"""A figure is 16 cm wide, but narrower where it would be higher than 22 cm: it fits a page of A4.
"""
FORMATS = ("pdf", "png", "svg")
_DPI = 200
_SCREEN_DPI = 112


def draw(
    subject: Snapshot | Layout,
    *,
    before: Snapshot | None = None,
    draft: Mapping[str, int] | None = None,
    facts: Facts | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw a snapshot, or a layout that is ready, as a figure of at most 16 by 22 cm.

    The keywords are those of `layout`. With `ax` the picture is drawn into axes that exist, which
    lose their frame. A notebook shows the figure without further ado.

    >>> from prctlmm_lab.kernel.procfs import read_snapshot
    >>> int(draw(read_snapshot()).get_figwidth() * 2.54) <= 16
    True

    Raises InputError for keywords beside a layout, and as `layout`.
    """
    if isinstance(subject, Layout):
        if before is not None or draft is not None or facts is not None:
            raise InputError("draw", "a layout is ready and takes no before, draft or facts")
        picture = subject
    else:
        picture = lay_out(subject, before=before, draft=draft, facts=facts)
    return draw_marks(draw_scene(picture), ax)


def draw_marks(scene: Scene, ax: Axes | None = None) -> Figure:
    """Draw any finished drawing as a figure of at most 16 by 22 cm, or into axes that exist."""
    if ax is None:
        unit = min(WIDTH / scene.width, HEIGHT / scene.height) / 2.54
        figure = picture_class()(figsize=(scene.width * unit, scene.height * unit))
        ax = figure.add_axes((0, 0, 1, 1))
    _fill(ax, scene)
    root: Figure = ax.get_figure(root=True)  # type: ignore[assignment]
    return root


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a file whose name ends in .pdf, .svg or .png (200 dots an inch).

    The same figure gives the same bytes each time: no date, no random ids.

    Raises InputError for another ending, and OSError if the file cannot be written.
    """
    ending = os.path.splitext(path)[1].removeprefix(".").lower()
    if ending not in FORMATS:
        raise InputError("path", "has no ending of a picture", repr(os.fspath(path))[:80],
                         ", ".join(f".{name}" for name in FORMATS))  # fmt: skip
    with open(path, "wb") as file:
        file.write(_rendered(figure, ending))


def _rendered(figure: Figure, kind: str) -> bytes:
    import matplotlib as mpl

    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"CreationDate": None},
        "svg": {"Date": None},
        "png": {},
    }
    settings = {"svg.hashsalt": "prctlmm_lab", "svg.fonttype": "path", "pdf.fonttype": 42}
    buffer = BytesIO()
    with mpl.rc_context(settings):  # type: ignore[arg-type]
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata[kind])
    return buffer.getvalue()


@cache
def picture_class() -> type[Figure]:
    """Return the class of figures that show themselves in a notebook."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that shows itself in a notebook, where no pyplot has prepared that."""

        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            # Shown at the size it has on paper, a little larger; the dots are for sharp screens.
            return _rendered(self, "png"), {"width": round(self.get_figwidth() * _SCREEN_DPI)}

    return Picture


def _fill(ax: Axes, scene: Scene) -> None:
    """Draw a scene's marks into axes, one data unit to a unit of the scene."""
    width, height = ax.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
    extent = ax.get_position()
    point = 72 * min(width * extent.width / scene.width, height * extent.height / scene.height)
    ax.set_axis_off()
    ax.set_xlim(0, scene.width)
    ax.set_ylim(scene.height, 0)
    ax.set_aspect("equal")
    for order, mark in enumerate(scene.marks):
        artist = _artist(mark, point)
        artist.set_zorder(2 + order * 1e-4)
        ax.add_artist(artist)


def _artist(mark: Mark, point: float) -> Any:
    """Return the artist of a mark; `point` is the points of type that a unit has."""
    if isinstance(mark, Text):
        return _text(mark, point)
    if isinstance(mark, Lines):
        from matplotlib.collections import LineCollection

        return LineCollection(
            [list(path) for path in mark.paths],
            colors=mark.colour,
            linewidths=mark.width * point,
            capstyle="round",
            joinstyle="round",
        )
    return _patch(mark, point)


def _patch(mark: Box | Shape | Curve, point: float) -> Any:
    from matplotlib.patches import PathPatch, Polygon, Rectangle
    from matplotlib.path import Path

    if isinstance(mark, Curve):
        (x0, y0), (x1, y1) = mark.start, mark.end
        middle = (x0 + x1) / 2
        corners = [(x0, y0), (middle, y0), (middle, y1), (x1, y1)]
        path = Path(corners, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        return PathPatch(path, fill=False, edgecolor=mark.colour, linewidth=mark.width * point)
    edge = mark.stroke or "none"
    if isinstance(mark, Shape):
        width = 1.0 if mark.stroke else 0.0
        return Polygon(mark.points, facecolor=mark.fill, edgecolor=edge, linewidth=width * point)
    return Rectangle(
        (mark.x, mark.y),
        mark.width,
        mark.height,
        facecolor=mark.fill,
        edgecolor=edge,
        linewidth=(0.8 if mark.stroke else 0.0) * point,
        linestyle=(0, (4, 3)) if mark.dashed else "solid",
    )


_ALIGNMENT: dict[str, Literal["left", "center", "right"]] = {
    "start": "left",
    "middle": "center",
    "end": "right",
}


def _text(mark: Text, point: float) -> Any:
    from matplotlib.font_manager import FontProperties
    from matplotlib.text import Text as Label

    family = "DejaVu Sans Mono" if mark.fixed else "DejaVu Sans"  # matplotlib brings both
    weight = "bold" if mark.bold else "normal"
    return Label(
        mark.x,
        mark.y + 0.35 * mark.size,
        with_glyphs(mark.text, family, weight),
        color=mark.colour,
        fontproperties=FontProperties(family=family, weight=weight, size=mark.size * point),
        horizontalalignment=_ALIGNMENT[mark.anchor],
        verticalalignment="baseline",
        parse_math=False,  # a name may hold dollar signs
        usetex=False,
    )


def with_glyphs(text: str, family: str, weight: str) -> str:
    """Write characters that the face does not have as escapes, in place of empty boxes."""
    if text.isascii():
        return text
    glyphs = _glyphs(family, weight)
    return "".join(c if ord(c) in glyphs else c.encode("ascii", "backslashreplace").decode()
                   for c in text)  # fmt: skip


@cache
def _glyphs(family: str, weight: str) -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties(family=family, weight=weight))).get_charmap())
