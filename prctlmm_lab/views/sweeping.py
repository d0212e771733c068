"""The SweepExplorer: choose one or two members, type their ranges, see which rule decides where.

A draft is a `Sweep`; nothing here asks the kernel but `sweep`, and nothing draws but
`draw_verdicts`. Whatever goes wrong in a handler is shown at its place, never lost; the last
picture stays.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from typing import Any

import ipywidgets as widgets

from prctlmm_lab.errors import InputError, LabError
from prctlmm_lab.experiments.axes import Axis, Sweep
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.recipe import Recipe, recipe_text, shipped_recipes
from prctlmm_lab.experiments.sweep import sweep
from prctlmm_lab.experiments.swept import SweepResult
from prctlmm_lab.kernel.abi import MEMBERS
from prctlmm_lab.specimen.recording.marks import LIVE, mark_html, mark_text
from prctlmm_lab.views.verdicts import draw_verdicts
from prctlmm_lab.views.widgets import alert, mistake, note

_WRAP = widgets.Layout(flex_flow="row wrap")
_NO_AXIS = ""
_MOST_VALUES = 4096
_MOST_STEPS_BACK = 20


def sweep_presets() -> dict[str, Sweep]:
    """Return the sweeps to start from, by title: all that ship with the lab."""
    return {
        wanted.title or wanted.id: wanted
        for recipe in shipped_recipes().values()
        for wanted in recipe.sweeps
    }


class AxisRow:
    """One axis: its member, its two ends as formulas, how many values, and what is wrong with it.

    The y axis may be left out.
    """

    def __init__(self, name: str, on_change: Callable[[], None]) -> None:
        self.name = name
        none = [("(one axis)", _NO_AXIS)] if name == "y" else []
        self.member = widgets.Dropdown(
            options=[*none, *((member.name, member.name) for member in MEMBERS)],
            description=f"{name} axis",
            style={"description_width": "48px"},
            layout=widgets.Layout(width="180px"),
        )
        self.first, self.last = (
            widgets.Text(
                description=f"{name} {word}",
                continuous_update=False,
                tooltip=f"{name} {word}: hex, a number, or a formula such as end_data - 2*page",
                style={"description_width": "46px"},
                layout=widgets.Layout(width="215px"),
            )
            for word in ("from", "to")
        )
        self.count = widgets.BoundedIntText(
            min=2,
            max=_MOST_VALUES,
            description=f"{name} values",
            tooltip=f"how many values along {name}",
            style={"description_width": "58px"},
            layout=widgets.Layout(width="135px"),
        )
        self.problem = widgets.HTML()
        self.fields = (self.member, self.first, self.last, self.count)
        self.box = widgets.HBox([*self.fields, self.problem], layout=_WRAP)
        for field in self.fields:
            field.observe(lambda _: on_change(), "value")

    def show(self, axis: Axis | None) -> None:
        """Show an axis; None is none."""
        self.problem.value = ""
        if axis is None:
            self.member.value = _NO_AXIS
            return
        self.member.value = axis.member
        self.first.value, self.last.value = (_text(value) for _, value in axis.ends)
        self.count.value = axis.count

    def axis(self) -> Axis | None:
        """Return the axis that is typed, None for none; it is not checked yet."""
        if self.member.value == _NO_AXIS:
            return None
        first, last = self.first.value.strip(), self.last.value.strip()
        return Axis(self.member.value, first, last, self.count.value)


def _text(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:#x}"


class SweepExplorer(widgets.VBox):
    """Sweep one or two of the 14 members over ranges that are typed, and see which rule decides.

    A range is zoomed by typing a smaller one; "Run" makes the real calls and draws, "Back" shows
    the picture before. The same without a widget is `draw_verdicts(sweep(Sweep(...)))`.

    Raises UnsupportedSystem or SpecimenError where no specimen can be started.
    """

    def __init__(self) -> None:
        self.result: SweepResult | None = None
        self._earlier: list[SweepResult] = []
        self._quiet = False
        self._presets = sweep_presets()
        self._start = next(iter(self._presets.values()))
        self._make_controls()
        self.about, self.message, self.picture = (widgets.HTML() for _ in range(3))
        self.recipe = widgets.Textarea(
            description="recipe", layout=widgets.Layout(width="98%", height="200px", display="none")
        )
        buttons = widgets.HBox([self.run_button, self.back_button, self.recipe_button])
        super().__init__(
            [
                self.preset,
                self.about,
                self.rows["x"].box,
                self.rows["y"].box,
                buttons,
                self.message,
                self.recipe,
                self.picture,
            ]
        )
        with self._shown_errors():
            self._choose_preset()

    def _make_controls(self) -> None:
        self.preset = widgets.Dropdown(
            options=list(self._presets), description="start from",
            style={"description_width": "72px"}, layout=widgets.Layout(width="520px"),
        )  # fmt: skip
        self.rows = {name: AxisRow(name, self._on_change(name)) for name in "xy"}
        self.run_button = widgets.Button(
            description="Run", button_style="primary", tooltip="make the real calls",
            layout=widgets.Layout(width="62px"),
        )  # fmt: skip
        self.back_button = widgets.Button(
            description="Back", tooltip="show the picture before",
            layout=widgets.Layout(width="62px"),
        )  # fmt: skip
        self.recipe_button = widgets.Button(
            description="Copy as recipe", tooltip="show the sweep as a TOML recipe",
            layout=widgets.Layout(width="120px"),
        )  # fmt: skip
        self.preset.observe(self._on(self._choose_preset), "value")
        self.run_button.on_click(self._on(self.run))
        self.back_button.on_click(self._on(self.back))
        self.recipe_button.on_click(self._on(self.copy_as_recipe))

    # ---- what the learner does ------------------------------------------------------------------

    def draft(self) -> Sweep:
        """Return the sweep that is typed.

        Raises InputError for what is none.
        """
        x, y = (self.rows[name].axis() for name in "xy")
        assert x is not None, "only y may be left out"
        swept = {axis.member for axis in (x, y) if axis is not None}
        change = {name: v for name, v in self._start.change.items() if name not in swept}
        return replace(self._start, x=x, y=y, change=change)

    def run(self) -> None:
        """Make the real calls of the sweep that is typed, and draw them.

        Raises InputError for a range that makes no sense, SpecimenError.
        """
        result = sweep(self.draft())
        if self.result is not None:
            self._earlier = [*self._earlier, self.result][-_MOST_STEPS_BACK:]
        self._show(result)

    def back(self) -> None:
        """Show the picture before this one, and its ranges."""
        if not self._earlier:
            self.message.value = note("There is no picture before this one.")
            return
        result = self._earlier.pop()
        self._start = result.sweep
        self._fill(result.sweep)
        self._show(result)

    def copy_as_recipe(self) -> None:
        """Show the sweep that is typed as a recipe, to be copied."""
        draft = self.draft()
        self.recipe.value = recipe_text(Recipe(draft.title, sweeps=(draft,)))
        self.recipe.layout.display = ""
        self.message.value = note(
            "Save the text as draft.toml and run: prctlmm-lab sweep draft.toml"
        )

    def _choose_preset(self) -> None:
        self._start = self._presets[self.preset.value]
        self._fill(self._start)
        self.run()

    # ---- what is shown --------------------------------------------------------------------------

    def _fill(self, wanted: Sweep) -> None:
        """Show a sweep in the fields."""
        self.about.value = note(" ".join(wanted.explanation.split()))
        self._quiet = True
        try:
            self.rows["x"].show(wanted.x)
            self.rows["y"].show(wanted.y)
            titles = [title for title, p in self._presets.items() if p.id == wanted.id]
            self.preset.value = next(iter(titles), self.preset.value)
        finally:
            self._quiet = False

    def _show(self, result: SweepResult) -> None:
        self.result = result
        self.message.value = note(result.summary())
        mark = "" if result.origin == LIVE else mark_html(mark_text(result.origin))
        self.picture.value = sweep_html(result) + mark

    def _on_change(self, name: str) -> Callable[[], None]:
        def check() -> None:
            if not self._quiet:
                with self._shown_errors():
                    self.draft()

        return check

    def _on(self, handler: Callable[[], None]) -> Callable[[Any], None]:
        def handle(_: Any) -> None:
            if not self._quiet:
                with self._shown_errors():
                    handler()

        return handle

    @contextmanager
    def _shown_errors(self) -> Iterator[None]:
        """Show an error where it belongs: beside the axis it is about, else below the buttons."""
        self.message.value = ""
        for row in self.rows.values():
            row.problem.value = ""
        try:
            yield
        except LabError as error:
            self._place(error).value = alert(str(error).partition('": ')[2] or str(error))
        except Exception:
            self.message.value = mistake()

    def _place(self, error: LabError) -> Any:
        where = error.where if isinstance(error, InputError) else ""
        for name, row in self.rows.items():
            if f": {name}." in where:
                return row.problem
        return self.message


def sweep_html(result: SweepResult) -> str:
    """Return a sweep's picture as HTML that stands alone, with its text for those who hear it."""
    figure: Any = draw_verdicts(result)
    png, size = figure._repr_png_()
    said = escape(result.summary())
    return (
        f'<img src="data:image/png;base64,{b64encode(png).decode("ascii")}" alt="{said}" '
        f'style="width:{size["width"]}px;max-width:100%">'
        f"<details><summary>The same as text</summary><pre>{escape(result.text())}</pre></details>"
    )
