"""The widgets of an executed notebook as HTML that stands still: no script, nothing to fetch.

What nbclient stored of a widget is its state: values, options, children. A control is shown with
its name and its value, a box with what is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
_REFERENCE = "IPY_MODEL_"


def state_of(notebook: Any) -> Mapping[str, Any]:
    """Return the widgets that an executed notebook stored, by their ids."""
    stored: Mapping[str, Any] = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    return stored


def still(models: Mapping[str, Any], name: str) -> str:
    """Return a widget, and all that is inside it, as HTML.

    A widget that is not displayed gives "". One that was not stored, or of a kind that is not
    known, says that it works in the notebook only.
    """
    model = models.get(name, {"model_name": "", "state": {}})
    kind, values = model["model_name"].removesuffix("Model"), model["state"]
    if _look(models, values).get("display") == "none":
        return ""
    if "children" in values:
        inside = [still(models, each.removeprefix(_REFERENCE)) for each in values["children"]]
        column = " column" if kind in ("VBox", "Tab", "Accordion", "Stack") else ""
        return f'<div class="box{column}">{"".join(inside)}</div>' if any(inside) else ""
    if kind in ("HTML", "HTMLMath"):
        return f'<div class="part">{values["value"]}</div>' if values["value"] else ""
    if kind == "Button":
        return f'<span class="button">{escape(values["description"])}</span>'
    return _control(kind, values)


def _look(models: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    layout = str(values.get("layout", "")).removeprefix(_REFERENCE)
    look: Mapping[str, Any] = models.get(layout, {}).get("state", {})
    return look


def _control(kind: str, values: Mapping[str, Any]) -> str:
    shown = _value(values)
    if shown is None:
        return f'<span class="control">({escape(kind or "a widget")}: in the notebook only)</span>'
    name = escape(str(values.get("description") or ""))
    if not name and values.get("value") == "":
        return ""  # an empty field beside a control that has the name
    label = f'<span class="name">{name}</span> ' if name else ""
    return f'<span class="control">{label}<span class="value">{escape(shown)}</span></span>'


def _value(values: Mapping[str, Any]) -> str | None:
    """Return what a control shows: the option chosen, the text, or in its place the hint."""
    labels, index = values.get("_options_labels"), values.get("index")
    if labels is not None:
        return str(labels[index]) if isinstance(index, int) else "(nothing)"
    if "value" not in values:
        return None
    return str(values["value"] or values.get("placeholder", "").strip("\u200b") or "(empty)")
