"""The Explorer: tweak any of the 14 members, predict, run the real call, compare.

It only shows an `Exploration` (exploration.py) and passes on what the learner does. What follows a
slider is one HTML string, made by pure functions; nothing here draws. Whatever goes wrong in a
handler is shown at its place, never lost.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from prctlmm_lab.errors import InputError, LabError
from prctlmm_lab.experiments.experiment import VERDICTS, Experiment, Prepared
from prctlmm_lab.experiments.logbook import default_logbook
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.kernel.abi import ADDRESSES, MEMBER, MEMBERS
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.specimen.build import BUILDS
from prctlmm_lab.specimen.recording.marks import LIVE, PREDICTED, mark_html, mark_text
from prctlmm_lab.views.exploration import Exploration, Result, presets
from prctlmm_lab.views.html import difference_html, rules_html
from prctlmm_lab.views.landmarks import nearest
from prctlmm_lab.views.layout import layout
from prctlmm_lab.views.svg import address_space_svg

_WRAP = widgets.Layout(flex_flow="row wrap")
_NARROW = widgets.Layout(width="62px")
_MARKS = {True: "✓", False: "✗", None: ""}


class MemberRow:
    """One member: a slider over its landmarks, a text for anything else, and its value."""

    def __init__(self, name: str, on_formula: Callable[[str, str], None]) -> None:
        self.name = name
        self.problem = ""
        """What is wrong with the text; a text that does not parse stays until it is mended."""
        self.slider = widgets.SelectionSlider(
            options=[("(unchanged)", "")],
            description=name,
            readout=False,
            continuous_update=True,
            tooltip=f"{MEMBER[name].meaning}: meaningful values",
            style={"description_width": "82px"},
            layout=widgets.Layout(width="250px"),
        )
        self.text = widgets.Text(
            placeholder="(unchanged)",
            tooltip=f"{name}: hex, a number, or a formula such as end_data - 8",
            layout=widgets.Layout(width="175px"),
        )
        self.value = widgets.HTML(layout=widgets.Layout(width="150px"))
        self.box = widgets.HBox(
            [self.slider, self.text, self.value], layout=widgets.Layout(flex_flow="row wrap")
        )
        self.slider.observe(lambda change: on_formula(name, change["new"]), "value")
        self.text.observe(lambda change: on_formula(name, change["new"]), "value")

    def show(self, formula: str, value: int, options: tuple[Any, ...]) -> None:
        """Show a formula and what it stands for; the slider goes to the nearest landmark."""
        choices = [(landmark.label, landmark.formula) for landmark in options]
        if list(self.slider.options) != choices:
            self.slider.options = choices
        if self.problem:
            return
        self.slider.value = nearest(options, value).formula
        if self.text.value.strip() != formula:  # a space at its end is the learner's, still typing
            self.text.value = formula
        number = f"<code>{value:#x}</code>"
        self.value.value = f"<b>{number}</b>" if formula else number

    def complain(self, problem: str) -> None:
        """Show what is wrong with the text, beside it."""
        self.problem = problem
        said = escape(problem.removeprefix(f"{self.name}: "))
        self.value.value = (
            f'<div role="alert" style="color:#a00;font-size:11px;line-height:1.2">✗ {said}</div>'
        )


class Explorer(widgets.VBox):
    """Show a specimen's address space, and change its 14 members by slider, hex or formula.

    The picture and the rules follow each change at once; "Run" makes the real call and shows the
    kernel's answer beside the prediction. The same without a widget is `Exploration`, or
    `run(Experiment(...))`.

    `logbook` is the file that records are appended to; None for none, and by default the learner's
    own (`default_logbook`).

    Raises UnsupportedSystem or SpecimenError where no specimen can be started.
    """

    def __init__(self, logbook: str | Path | None = "") -> None:
        path = default_logbook() if logbook == "" else logbook
        self.exploration = Exploration(logbook=None if path is None else Path(path))
        self.result: Result | None = None
        self._quiet = False
        self._presets = presets()
        self._make_controls()
        self._make_rows()
        self.picture = widgets.HTML(layout=widgets.Layout(flex="1 1 560px", min_width="380px"))
        self.answer = widgets.HTML()
        self.message = widgets.HTML()
        self.about = widgets.HTML()
        self.recipe = widgets.Textarea(
            description="recipe", layout=widgets.Layout(width="98%", height="220px", display="none")
        )
        buttons = [self.run_button, self.undo_button, self.reset_button, self.recipe_button]
        left = widgets.VBox(
            [
                *(row.box for row in self.rows.values()),
                widgets.HBox([self.prediction, *buttons], layout=_WRAP),
                self.message,
                self.answer,
                self.recipe,
            ],
            layout=widgets.Layout(flex="1 1 590px"),
        )
        super().__init__(
            [
                widgets.HBox([self.preset, self.build], layout=_WRAP),
                self.about,
                widgets.HBox([left, self.picture], layout=_WRAP),
            ]
        )
        with self._shown_errors():
            self._refresh()

    def _make_controls(self) -> None:
        wide = {"description_width": "82px"}
        self.preset = widgets.Dropdown(
            options=list(self._presets), description="start from", style=wide,
            layout=widgets.Layout(width="520px"),
        )  # fmt: skip
        self.build = widgets.Dropdown(options=list(BUILDS), description="specimen", style=wide)
        self.prediction = widgets.Dropdown(
            options=[("(nothing yet)", ""), *((verdict, verdict) for verdict in VERDICTS)],
            description="I predict", style=wide, layout=widgets.Layout(width="225px"),
        )  # fmt: skip
        self.run_button = widgets.Button(
            description="Run",
            button_style="primary",
            tooltip="make the real call",
            layout=_NARROW,
        )
        self.undo_button = widgets.Button(
            description="Undo", tooltip="take back the last change", layout=_NARROW
        )
        self.reset_button = widgets.Button(
            description="Reset", tooltip="take back all changes", layout=_NARROW
        )
        self.recipe_button = widgets.Button(
            description="Copy as recipe",
            tooltip="show the draft as a TOML recipe",
            layout=widgets.Layout(width="120px"),
        )
        self.preset.observe(self._on(self._choose_preset), "value")
        self.build.observe(self._on(self._choose_build), "value")
        self.prediction.observe(self._on(self._choose_prediction), "value")
        self.run_button.on_click(self._on(self.run))
        self.undo_button.on_click(self._on(self.undo))
        self.reset_button.on_click(self._on(self.reset))
        self.recipe_button.on_click(self._on(self.copy_as_recipe))

    def _make_rows(self) -> None:
        self.rows = {member.name: MemberRow(member.name, self.edit) for member in MEMBERS}

    # ---- what the learner does ------------------------------------------------------------------

    def edit(self, member: str, formula: str) -> None:
        """Give a member a value, as its slider and text do; a problem is shown beside it."""
        if self._quiet:
            return
        with self._shown_errors(member):
            self.exploration.edit(member, formula)
            self.rows[member].problem = ""
            self._refresh()

    def run(self) -> None:
        """Make the real call and show what came of it.

        Raises InputError while the text of a member does not parse.
        """
        for row in self.rows.values():
            if row.problem:
                raise InputError("Run", f"waits: {row.problem}")
        self.result = self.exploration.run()
        self._show_result(self.result)

    def undo(self) -> None:
        """Take back the last change."""
        undone = self.exploration.undo()
        self._start_over()
        if not undone:
            self.message.value = note("There is nothing to undo.")

    def reset(self) -> None:
        """Take back every change since the preset was chosen."""
        self.exploration.reset()
        self._start_over()

    def copy_as_recipe(self) -> None:
        """Show the draft as a recipe, to be copied."""
        self.recipe.value = self.exploration.recipe()
        self.recipe.layout.display = ""
        self.message.value = note("Save the text as draft.toml and run: prctlmm-lab run draft.toml")

    def close(self) -> None:
        """End the specimens and take the widget off the page."""
        self.exploration.close()
        super().close()

    def _choose_preset(self) -> None:
        self.exploration.choose_preset(self._presets[self.preset.value])
        self._start_over()

    def _choose_build(self) -> None:
        self.exploration.choose_build(self.build.value)
        self._refresh()

    def _choose_prediction(self) -> None:
        self.exploration.choose_prediction(self.prediction.value)

    # ---- what is shown --------------------------------------------------------------------------

    def _start_over(self) -> None:
        """Show the draft and nothing else: texts that do not parse go too."""
        for row in self.rows.values():
            row.problem = ""
        self._refresh()

    def _refresh(self) -> None:
        """Show the draft: every row, the picture with its flags where they would go, the rules."""
        prepared = self.exploration.predict()
        draft, values = self.exploration.draft, dict(prepared.map)
        self.picture.value = _draft_html(prepared)
        self.answer.value = rules_html(prepared.explanation)
        self.message.value, self.about.value = "", note(draft.explanation)
        with self._silently():
            for name, row in self.rows.items():
                formula = str(draft.change.get(name, ""))
                row.show(formula, values[name], self.exploration.landmarks(name))
            self.build.value = draft.specimen.build
            self.prediction.value = draft.predict
            started_from = (p for p, e in self._presets.items() if _key(e) == _key(draft))
            self.preset.value = next(started_from, self.preset.value)

    def _show_result(self, result: Result) -> None:
        self.answer.value = result_html(result)
        self.message.value = note(
            f"Record {len(self.exploration.records)} of this session: {result.logged}"
        )
        if result.after is not None:
            picture = layout(result.after, before=result.before)
            origin = result.record.origin
            mark = "" if origin == LIVE else mark_html(mark_text(origin))
            self.picture.value = f"<div>{address_space_svg(picture)}</div>{mark}"

    def _on(self, handler: Callable[[], None]) -> Callable[[Any], None]:
        def handle(_: Any) -> None:
            if not self._quiet:
                with self._shown_errors():
                    handler()

        return handle

    @contextmanager
    def _silently(self) -> Iterator[None]:
        """Change widgets without taking the change for the learner's."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    @contextmanager
    def _shown_errors(self, member: str = "") -> Iterator[None]:
        """Show an error where it belongs: beside the member it is about, else below."""
        try:
            yield
        except LabError as error:
            problem = str(error).partition(": change.")[2] or str(error)
            if member and isinstance(error, InputError):
                self.rows[member].complain(problem)
            else:
                self.message.value = alert(str(error))
        except Exception:
            self.message.value = mistake()


def _key(experiment: Experiment) -> tuple[str, str]:
    return experiment.id, experiment.title


def note(text: str) -> str:
    """Return a remark as HTML."""
    return f"<small>{escape(text)}</small>"


def alert(text: str) -> str:
    """Return what is wrong as HTML."""
    return f'<span role="alert" style="color:#a00">✗ {escape(text)}</span>'


def mistake() -> str:
    """Return the traceback of a mistake of ours as HTML, marked for the check after a run."""
    return f'<pre role="alert" data-lab-error="1">{escape(traceback.format_exc())}</pre>'


def _draft_html(prepared: Prepared) -> str:
    """Return the verdict on a draft and its picture, as one string."""
    values, facts = dict(prepared.map), prepared.bench.facts
    picture = layout(prepared.before, draft={name: values[name] for name in ADDRESSES}, facts=facts)
    deciding = prepared.explanation.deciding
    verdict = "✓ accepted"
    if deciding is not None:
        name = errno_name(prepared.explanation.errno)
        verdict = f"✗ {name}, by a broken rule: {escape(deciding.rule.title)}"
    said = f'<div aria-live="polite">The rules say: <b>{verdict}</b></div>'
    origin = prepared.bench.specimen.weakest
    mark = "" if origin == LIVE else mark_html(mark_text(origin))
    return f"{said}{address_space_svg(picture)}{mark}"


def _who_answered(record: Record) -> str:
    """Say whose answer it is: that of the kernel here, of a recorded one, or of the rules."""
    if record.origin == PREDICTED:
        return "No kernel answered: predicted"
    if record.origin != LIVE:
        answered, _, date = record.origin.removeprefix("recorded on ").partition(", ")
        return f"{escape(answered)} answered (recorded, {escape(date)})"
    return f"Linux {escape(record.facts.release)} answered"


def result_html(result: Result) -> str:
    """Return prediction, rules and kernel side by side, and what /proc shows differently."""
    record = result.record
    learner = escape(record.learner) or "(nothing)"
    rule = f" ({escape(record.prediction.rule)})" if record.prediction.rule else ""
    kernel = escape(record.outcome.verdict or record.outcome.ended)
    agreement = record.agreement
    cells = (
        ("You predicted", learner, agreement.learner),
        ("The rules say", escape(record.prediction.verdict) + rule, agreement.with_lab),
        (_who_answered(record), f"<b>{kernel}</b>", None),
    )
    table = "".join(
        f'<td style="padding:2px 24px 2px 0">{head}<br>{text}'
        f"{' ' + _MARKS[right] if right is not None else ''}</td>"
        for head, text, right in cells
    )
    alive = ""
    if result.after is not None and record.origin == LIVE:
        pid = result.after.pid
        alive = f"<small>It is still alive: ps -o pid,comm,args -p {pid}</small>"
    return f"<table><tr>{table}</tr></table>{difference_html(result.changes)}{alive}"
