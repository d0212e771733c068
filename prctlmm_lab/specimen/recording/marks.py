"""Where an answer comes from: a real call here, a recording, or the specification.

In a notebook a line below each cell that used anything but real calls says which.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from typing import Any

LIVE, PREDICTED = "live", "predicted"

_PREDICTED_TEXT = "predicted by the rules: not recorded, and no real call was made"
_noted: dict[str, None] = {}
"""The origins that were used since the last cell, in the order of their first use."""
_hooked = False


def note(origin: str) -> None:
    """Note that an answer of this origin was used; the cell that asked will say so."""
    if origin != LIVE:
        _noted.setdefault(origin)
        _hook()


def weaker(one: str, other: str) -> str:
    """Return the origin that says less: a prediction before a recording before a real call."""
    return max(one, other, key=lambda origin: (origin != LIVE, origin == PREDICTED))


def mark_text(origin: str) -> str:
    """Return an origin as a reader is told it."""
    return _PREDICTED_TEXT if origin == PREDICTED else origin


def take_noted() -> list[str]:
    """Return the origins that were used since the last time, and forget them."""
    origins = list(_noted)
    _noted.clear()
    return origins


class Mark:
    """The line below a cell, as HTML and as text."""

    def __init__(self, origins: list[str]) -> None:
        self.text = "; ".join(map(mark_text, origins))

    def __repr__(self) -> str:
        return f"[{self.text}]"

    def _repr_html_(self) -> str:
        return mark_html(self.text)


def mark_html(text: str) -> str:
    """Return a mark as HTML: small, at the edge, but with words."""
    return (
        '<div data-lab-origin="1" style="font-size:11px;opacity:.75;border-left:3px solid #b8860b;'
        f'padding:0 6px;margin:2px 0">{escape(text)}</div>'
    )


def _hook() -> None:
    """Have IPython, if it runs the cells, show the marks after each."""
    global _hooked
    shell = _shell()
    if shell is not None and not _hooked:
        _hooked = True
        shell.events.register("post_run_cell", _after_cell)


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def _after_cell(result: Any) -> None:
    """Show where the answers came from that a cell asked for, or that stand in what it names."""
    origins = dict.fromkeys(take_noted())
    shell = _shell()
    if shell is not None and result.info is not None:
        origins |= dict.fromkeys(_named_origins(result.info.raw_cell, shell))
    if shell is not None and origins:
        data, _ = shell.display_formatter.format(Mark(list(origins)))
        shell.display_pub.publish(data)


def _named_origins(cell: str, shell: Any) -> list[str]:
    """Return the origins of the values that a cell names."""
    try:
        tree = ast.parse(shell.transform_cell(cell))
    except SyntaxError:
        return []
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    values = [shell.user_ns[name] for name in sorted(names) if name in shell.user_ns]
    # A specimen tells by itself, when it is asked; to name it is not to ask.
    data = (value for value in values if not hasattr(value, "weakest"))
    found = (getattr(v, "origin", None) for v in data if type(v).__module__.startswith(_PACKAGE))
    return [origin for origin in found if isinstance(origin, str) and origin not in ("", LIVE)]


_PACKAGE = __name__.partition(".")[0]
