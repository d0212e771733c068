"""Where the parts of a verdict picture go: cells, outlines of regions, room for labels.

Pure geometry over numpy grids and lengths; matplotlib, which is imported on use, traces outlines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prctlmm_lab.experiments.boundaries import Values

if TYPE_CHECKING:
    from matplotlib.path import Path

Mask = NDArray[np.bool_]

_FINE = 300
"""Cells along a side that are small enough to lose a corner."""


def cell_of(values: Values, value: float) -> float:
    """Return where a value lies among the cells of an axis, whose centres are at 0, 1, 2...

    Exact for every 64-bit value: ends are subtracted before anything becomes a float.

    >>> cell_of(np.array([2**64 - 3, 2**64 - 2, 2**64 - 1], np.uint64), 2**64 - 2)
    1.0
    """
    first, last = int(values[0]), int(values[-1])
    return (value - first) / max(last - first, 1) * (len(values) - 1)


def border_of(values: Values, value: int) -> float:
    """Return the border between cells at which a value begins that the axis may not hold itself.

    >>> border_of(np.array([0, 8, 16], np.uint64), 9)
    1.5
    """
    return float(np.searchsorted(values, np.uint64(value))) - 0.5


def step_of(values: Values) -> int:
    """Return the largest step from one value of an axis to the next."""
    return int(np.diff(values).max()) if len(values) > 1 else 1


def outline(mask: Mask) -> Path:
    """Return the outline of a region, with all its parts and holes, in cells.

    What touches the rim reaches beyond it. A corner loses half of a cell, so that a slanted border
    of many cells comes out as a line; few large cells are divided first and keep their corners.
    """
    from matplotlib.figure import Figure
    from matplotlib.path import Path

    rows, columns = (-(-_FINE // size) for size in mask.shape)
    fine = np.repeat(np.repeat(mask.astype(np.float32), rows, axis=0), columns, axis=1)
    padded = np.pad(fine, 1, mode="edge")
    (traced,) = Figure().add_subplot().contourf(padded, [0.5, 2]).get_paths()
    corners = np.asarray(traced.vertices)
    return Path((corners - 0.5) / (columns, rows) - 0.5, traced.codes)


def apart(places: Sequence[float], least: float, end: float) -> list[float]:
    """Move ascending places apart by at least `least`, within 0 and `end` where that is possible.

    >>> apart([1, 1.5, 5], 1.0, 6.0)
    [1, 2.0, 5]
    >>> apart([5.5, 5.8], 1.0, 6.0)
    [5.0, 6.0]
    """
    moved = list(places)
    for number in range(1, len(moved)):
        moved[number] = max(moved[number], moved[number - 1] + least)
    for number in range(len(moved) - 1, -1, -1):
        moved[number] = min(moved[number], end)
        end = moved[number] - least
    return moved


def levels(spans: Sequence[tuple[float, float]], gap: float) -> list[int]:
    """Give each span, from left to right end, the first level on which none before it lies.

    >>> levels([(0, 2), (1, 3), (2.5, 4)], 0.1)
    [0, 1, 0]
    """
    found: list[int] = []
    for number, (left, right) in enumerate(spans):
        taken = {
            found[other]
            for other in range(number)
            if left < spans[other][1] + gap and spans[other][0] < right + gap
        }
        found.append(next(level for level in range(number + 1) if level not in taken))
    return found


def covered(right: Any, up: Any, size: tuple[float, float], angle: float) -> Mask:
    """Tell which points a label of a width and a height covers that is turned by some degrees.

    The points are given by how far to the right and up of the label's middle they lie.

    >>> up, right = np.indices((3, 3)) - 1
    >>> covered(right, up, (3.0, 1.0), 90).astype(int).tolist()
    [[0, 1, 0], [0, 1, 0], [0, 1, 0]]
    """
    turned = np.radians(angle)
    along = right * np.cos(turned) + up * np.sin(turned)
    across = up * np.cos(turned) - right * np.sin(turned)
    covers: Mask = (np.abs(along) <= size[0] / 2) & (np.abs(across) <= size[1] / 2)
    return covers


def roomiest(mask: Mask, width: int, height: int) -> tuple[float, float] | None:
    """Return the column and row about which a label of a number of cells fits best into a region.

    None where it does not fit.

    >>> roomiest(np.ones((5, 9), bool), 3, 1)
    (4.0, 2.0)
    """
    rows, columns = mask.shape
    total = np.pad(np.cumsum(np.cumsum(mask, 0, np.int64), 1), ((1, 0), (1, 0)))
    for margin in (3.0, 2.0, 1.5, 1.0):
        w, h = max(round(width * margin), 1), max(round(height * margin), 1)
        if w > columns or h > rows:
            continue
        inside = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
        fits_y, fits_x = np.nonzero(inside == w * h)
        if fits_x.size:
            far = (fits_x - fits_x.mean()) ** 2 + (fits_y - fits_y.mean()) ** 2
            best = int(far.argmin())
            return float(fits_x[best] + (w - 1) / 2), float(fits_y[best] + (h - 1) / 2)
    return None
