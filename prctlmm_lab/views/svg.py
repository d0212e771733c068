"""The picture of an address space as an SVG string, for what follows a slider.

Needs the standard library only. The string can stand in HTML as it is: it has no style sheet, no
script and no id, so that many pictures share a page; all names of other processes are escaped.
"""

from __future__ import annotations

from html import escape

from prctlmm_lab.views.layout import Layout
from prctlmm_lab.views.scene import (
    Box,
    Curve,
    Lines,
    Mark,
    Point,
    Scene,
    Shape,
    Text,
    draw_scene,
)

_FIXED = "'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace"
_RUNNING = "'DejaVu Sans','Liberation Sans',Helvetica,Arial,sans-serif"
_LARGEST = 1.35
"""A picture is never wider than this many times its own units, so that type stays modest."""


def address_space_svg(layout: Layout) -> str:
    """Draw a layout as SVG: as wide as its place, on a ground of its own.

    >>> from prctlmm_lab.kernel.procfs import read_snapshot
    >>> from prctlmm_lab.views.layout import layout
    >>> address_space_svg(layout(read_snapshot()))[:4]
    '<svg'

    Show it with `IPython.display.SVG` or in a `widgets.HTML`.
    """
    return scene_svg(draw_scene(layout), _summary(layout))


def scene_svg(scene: Scene, summary: str) -> str:
    """Write any finished drawing as SVG; `summary` is a sentence for those who hear it."""
    name = escape(summary)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{name}" '
        f'viewBox="0 0 {_number(scene.width)} {_number(scene.height)}" width="100%" '
        f'style="max-width:{scene.width * _LARGEST:.0f}px;height:auto" '
        f'font-family="{_FIXED}" stroke-linecap="round" stroke-linejoin="round" fill="none">'
        f"<title>{name}</title>"
    )
    return head + "".join(map(_element, scene.marks)) + "</svg>"


def _summary(layout: Layout) -> str:
    """Say in one sentence what the picture shows, for those who hear it."""
    areas = sum(bool(area.vmas) for area in layout.columns[-1].areas)
    moved = ", ".join(move.member for move in layout.moves)
    tail = f"; moved: {moved}" if moved else ""
    return f"{layout.title}: {areas} mapped areas, high addresses up{tail}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _points(points: tuple[Point, ...]) -> str:
    return " ".join([f"{x:.1f},{y:.1f}" for x, y in points])


def _element(mark: Mark) -> str:
    if isinstance(mark, Text):
        return _text(mark)
    if isinstance(mark, Box):
        return _box(mark)
    if isinstance(mark, Lines):
        path = "".join(f"M{_points(points)}" for points in mark.paths)
        return f'<path d="{path}" stroke="{mark.colour}" stroke-width="{mark.width}"/>'
    if isinstance(mark, Shape):
        stroke = f' stroke="{mark.stroke}"' if mark.stroke else ""
        return f'<polygon points="{_points(mark.points)}" fill="{mark.fill}"{stroke}/>'
    return _curve(mark)


def _text(mark: Text) -> str:
    # Not by dominant-baseline, which not every renderer of SVG knows.
    y = mark.y + 0.35 * mark.size
    anchor = f' text-anchor="{mark.anchor}"' if mark.anchor != "start" else ""
    bold = ' font-weight="bold"' if mark.bold else ""
    family = "" if mark.fixed else f' font-family="{_RUNNING}"'
    return (
        f'<text x="{_number(mark.x)}" y="{_number(y)}" font-size="{mark.size}" '
        f'fill="{mark.colour}"{anchor}{bold}{family}>{escape(mark.text)}</text>'
    )


def _box(mark: Box) -> str:
    stroke = f' stroke="{mark.stroke}" stroke-width="0.8"' if mark.stroke else ""
    dashed = ' stroke-dasharray="4 3"' if mark.dashed else ""
    start = (
        f'<rect x="{_number(mark.x)}" y="{_number(mark.y)}" width="{_number(mark.width)}" '
        f'height="{_number(mark.height)}" fill="{mark.fill}"{stroke}{dashed}'
    )
    return f"{start}><title>{escape(mark.hint)}</title></rect>" if mark.hint else f"{start}/>"


def _curve(mark: Curve) -> str:
    (x0, y0), (x1, y1) = mark.start, mark.end
    middle = (x0 + x1) / 2
    path = f"M{_points((mark.start,))}C{_points(((middle, y0), (middle, y1), (x1, y1)))}"
    return f'<path d="{path}" stroke="{mark.colour}" stroke-width="{mark.width}"/>'
