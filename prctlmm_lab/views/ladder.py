"""The ladder of rules: go through the kernel's checks on one call, one by one, and say what comes.

`Climb` is what a learner does, without a widget; `RuleLadder` shows it and passes on what is
clicked. Whatever goes wrong in a handler is shown at its place, never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from prctlmm_lab.errors import InputError, LabError
from prctlmm_lab.experiments.experiment import VERDICTS, Experiment, run
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.kernel.abi import Operation
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.rules import Explanation
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.recording.marks import LIVE, mark_html, mark_text
from prctlmm_lab.views.checks import SIGNS, Rung, State, checks_svg, checks_text, rungs
from prctlmm_lab.views.exploration import Exploration, Result
from prctlmm_lab.views.legend import FAINT, INK, PAPER, SOFT
from prctlmm_lab.views.widgets import alert, mistake, note, result_html

if TYPE_CHECKING:
    from pandas import DataFrame

_WRAP = widgets.Layout(flex_flow="row wrap")
_NARROW = "96px"


def ladder_steps(explanation: Explanation, facts: Facts | None = None) -> tuple[Rung, ...]:
    """Return the checks that the kernel makes for one call, up to the one that refuses it.

    The eleven addresses are one step, as they are one loop in the kernel. The rest is not reached.

    >>> from prctlmm_lab.views.checks import explanation_of
    >>> explanation = explanation_of(Experiment("no-code", change={"end_code": "start_code"}))
    >>> print(step_text(ladder_steps(explanation)[-1]).splitlines()[0])
    check 16, order.code: start_code < end_code
    """
    found = rungs(explanation, facts)
    last = next((n for n, rung in enumerate(found, 1) if rung.state is State.REFUSES), len(found))
    return found[:last]


def step_text(rung: Rung, *, told: bool = True) -> str:
    """Write one step: what must be true, the numbers, what came of it, its source and history.

    Unless `told`, what came of it is left out: it is to be predicted.
    """
    what = "checks" if len(rung.checks) > 1 else "check"
    lines = [f"{what} {rung.extent}, {rung.name if told else _family_name(rung)}: {rung.title}"]
    lines += [f"  {check.numbers}" for check in rung.checks]
    if told:
        lines.append(f"  {SIGNS[_came(rung)].symbol} {_outcome(rung)}")
    rule = rung.checks[0].rule
    lines += [f"  source:  {rule.source}", f"  history: {rule.history}"]
    return "\n".join(lines)


def _came(rung: Rung) -> State:
    return State.REFUSES if rung.refuses else State.HOLDS


def _family_name(rung: Rung) -> str:
    return "range.*" if rung.is_loop else rung.name


def _outcome(rung: Rung) -> str:
    """Say what the kernel does at a step that it reaches."""
    if not rung.refuses:
        return "holds: the kernel goes on"
    first = rung.broken[0]
    return f"REFUSES by {first.rule.id}: the kernel returns {first.errno}"


class Climb:
    """One call, gone through check by check; nothing of it is alive between two steps.

    >>> climb = Climb(Experiment("no-code", change={"end_code": "start_code"}))
    >>> climb.next(refuses=False).name, climb.score
    ('call.arg5', (1, 1))
    >>> climb.to_the_end(); climb.rungs[climb.asked - 1].name
    'order.code'
    >>> climb.call().record.outcome.verdict
    'EINVAL'

    Raises InputError for another operation than PR_SET_MM_MAP and for a set-up that the kernel
    refuses, SpecimenError, UnsupportedSystem.
    """

    def __init__(self, experiment: Experiment) -> None:
        if experiment.call.number != Operation.MAP:
            raise InputError(f'experiment "{experiment.id}": call.operation', "has another ladder",
                             experiment.call.operation, "MAP")  # fmt: skip
        self.experiment = experiment
        self.facts = facts_here()
        exploration = Exploration(draft=experiment, logbook=None)
        try:
            prepared = exploration.predict()
            self.explanation: Explanation = prepared.explanation
            self.origin: str = prepared.bench.specimen.weakest
        finally:
            exploration.close()
        self.rungs = ladder_steps(self.explanation, self.facts)
        """The steps that the kernel makes."""
        self.asked = 0
        """How many of them were made."""
        self.said: dict[int, bool] = {}
        """Step -> whether the learner said that it would refuse."""

    @property
    def done(self) -> bool:
        """Tell whether the answer is known: refused, or all checks hold."""
        return self.asked == len(self.rungs)

    @property
    def current(self) -> Rung | None:
        """The step to be made next, None when done."""
        return None if self.done else self.rungs[self.asked]

    def next(self, *, refuses: bool | None = None) -> Rung:
        """Make the next step and return it; `refuses` is what the learner says will come.

        Raises InputError when done.
        """
        rung = self.current
        if rung is None:
            raise InputError("Next check", "there is none: the answer is known", "", "Start again")
        if refuses is not None:
            self.said[self.asked] = refuses
        self.asked += 1
        return rung

    def back(self) -> bool:
        """Take back the last step and what was said of it; return False if there is none."""
        if not self.asked:
            return False
        self.asked -= 1
        self.said.pop(self.asked, None)
        return True

    def to_the_end(self) -> None:
        """Make all steps that are left."""
        self.asked = len(self.rungs)

    def start_again(self) -> None:
        """Go back to before the first step; what was said is forgotten."""
        self.asked = 0
        self.said.clear()

    @property
    def score(self) -> tuple[int, int]:
        """How often the learner was right, and how often they said what would come."""
        right = sum(self.rungs[n].refuses == refuses for n, refuses in self.said.items())
        return right, len(self.said)

    @property
    def predicted(self) -> str:
        """The verdict that follows from what the learner said, "" if it does not follow."""
        refusing = next((n for n, refuses in sorted(self.said.items()) if refuses), None)
        if refusing is not None:
            errno = self.rungs[refusing].checks[0].errno
            return errno if errno in VERDICTS else ""
        return "accepted" if len(self.said) == len(self.rungs) else ""

    def svg(self) -> str:
        """Draw the checks, lit up as far as they were made; when done all is told."""
        asked = None if self.done else self.asked
        return checks_svg(self.explanation, self.facts, asked=asked)

    def text(self) -> str:
        """Write the same as text."""
        asked = None if self.done else self.asked
        return checks_text(self.explanation, self.facts, asked=asked)

    def call(self) -> Result:
        """Make the real call in a fresh specimen, and return what came of it.

        The same without a ladder is `run(experiment)`. Raises as `run`.
        """
        draft = replace(self.experiment, predict=self.predicted)
        exploration = Exploration(draft=draft, logbook=None)
        try:
            return replace(exploration.run(), after=None)  # it does not live on
        finally:
            exploration.close()


def refusals() -> dict[str, Experiment]:
    """Return the experiments in which one rule refuses, by title: those that ship with the lab."""
    found = shipped_recipes()["refusals"].experiments
    return {f"{e.rule}: {e.title}": e for e in found}


def refusals_table(experiments: Iterable[Experiment] | None = None) -> DataFrame:
    """Make the real call of each experiment and return a row for it; by default the refusals.

    `decides` is the rule that the lab predicts, `kernel says` the verdict of the real call. What
    cannot be set up here has the reason in place of numbers.

    Equivalent: `prctlmm-lab run data/recipes/refusals.toml`.
    """
    from pandas import DataFrame

    chosen = refusals().values() if experiments is None else experiments
    columns = ["call", "kernel says", "decides", "numbers"]
    rows = [_tried(experiment) for experiment in chosen]
    return DataFrame(rows, index=range(1, len(rows) + 1), columns=columns)


def _tried(experiment: Experiment) -> tuple[str, str, str, str]:
    title = experiment.title or experiment.id
    try:
        record = run(experiment)
    except LabError as error:
        return title, "(not asked)", experiment.rule, f"cannot be set up here: {error}"
    told = record.prediction
    return title, record.outcome.verdict or record.outcome.ended, told.rule, told.numbers


class RuleLadder(widgets.VBox):
    """Go through the kernel's checks on a map, one by one: say what comes, then see.

    `experiment` is what to begin with: an Experiment, or changes of members such as
    {"end_code": "start_code"}; one of the lab's refusals by default. The same without a widget is
    `Climb(experiment)`; `ladder_steps(explanation)` gives the steps, `checks_text` the picture.
    """

    def __init__(self, experiment: Experiment | Mapping[str, Value] | None = None) -> None:
        self.climb: Climb | None = None
        self._choices = refusals()
        start = next(iter(self._choices))
        if experiment is not None:
            if not isinstance(experiment, Experiment):
                experiment = Experiment("your-map", title="Your map", change=experiment)
            start = experiment.title or experiment.id
            self._choices = {start: experiment} | self._choices
        self._make_controls(start)
        self.step, self.answer, self.message = (widgets.HTML() for _ in range(3))
        self.picture = widgets.HTML(layout=widgets.Layout(flex="1 1 420px", min_width="360px"))
        self.twin = widgets.HTML()
        guesses = widgets.HBox([self.holds_button, self.refuses_button], layout=_WRAP)
        moves = [self.next_button, self.back_button, self.end_button, self.again_button]
        left = widgets.VBox(
            [guesses, widgets.HBox(moves, layout=_WRAP), self.call_button, self.message,
             self.answer, self.step],
            layout=widgets.Layout(flex="1 1 420px"),
        )  # fmt: skip
        both = widgets.HBox([left, self.picture], layout=_WRAP)
        super().__init__([self.choice, both, self.twin])
        with self._shown_errors():
            self._choose()

    def _make_controls(self, start: str) -> None:
        self.choice = widgets.Dropdown(
            options=list(self._choices), value=start, description="the call",
            style={"description_width": "60px"}, layout=widgets.Layout(width="520px"),
        )  # fmt: skip
        self.holds_button = _button("I say: it holds", "say that this check lets the call go on")
        self.refuses_button = _button("I say: it refuses", "say that the call is refused here")
        self.next_button = _button("Next check", "see this check without saying anything", _NARROW)
        self.back_button = _button("Back", "take back the last step", _NARROW)
        self.end_button = _button("To the end", "make all steps that are left", _NARROW)
        self.again_button = _button("Start again", "go back to before the first check", _NARROW)
        self.call_button = _button("Make the real call", "in a specimen, and compare", "170px")
        self.choice.observe(self._on(self._choose), "value")
        for button, handler in (
            (self.holds_button, lambda: self._next(refuses=False)),
            (self.refuses_button, lambda: self._next(refuses=True)),
            (self.next_button, self._next),
            (self.back_button, self.back),
            (self.end_button, self.to_the_end),
            (self.again_button, self.start_again),
            (self.call_button, self.call),
        ):
            button.on_click(self._on(handler))

    # ---- what the learner does ------------------------------------------------------------------

    def _choose(self) -> None:
        self.climb = None
        self._show()
        self.climb = Climb(self._choices[self.choice.value])
        self._show()

    def _next(self, refuses: bool | None = None) -> None:
        self._climb().next(refuses=refuses)
        self._show()

    def back(self) -> None:
        """Take back the last step."""
        taken = self._climb().back()
        self._show()
        if not taken:
            self.message.value = note("There is no step to take back.")

    def to_the_end(self) -> None:
        """Make all steps that are left."""
        self._climb().to_the_end()
        self._show()

    def start_again(self) -> None:
        """Go back to before the first step."""
        self._climb().start_again()
        self._show()

    def call(self) -> None:
        """Make the real call and show what came of it, beside what the ladder says.

        Raises InputError before the last step.
        """
        climb = self._climb()
        if not climb.done:
            raise InputError("the real call", "waits until the answer is known", "", "To the end")
        self.answer.value = result_html(climb.call())

    def _climb(self) -> Climb:
        if self.climb is None:
            raise InputError("the ladder", "has no call that can be set up here", "", "another one")
        return self.climb

    # ---- what is shown --------------------------------------------------------------------------

    def _show(self) -> None:
        climb = self.climb
        self.message.value = self.answer.value = ""
        can = climb is not None and not climb.done
        for button in (self.holds_button, self.refuses_button, self.next_button, self.end_button):
            button.disabled = not can
        self.call_button.disabled = climb is None or not climb.done
        if climb is None:
            self.step.value = self.picture.value = self.twin.value = ""
            return
        self.step.value = step_html(climb)
        mark = "" if climb.origin == LIVE else mark_html(mark_text(climb.origin))
        self.picture.value = climb.svg() + mark
        self.twin.value = (
            f"<details><summary>The same as text</summary><pre>{escape(climb.text())}</pre>"
            f"</details>"
        )

    def _on(self, handler: Callable[[], None]) -> Callable[[Any], None]:
        def handle(_: Any) -> None:
            with self._shown_errors():
                handler()

        return handle

    @contextmanager
    def _shown_errors(self) -> Iterator[None]:
        try:
            yield
        except LabError as error:
            self.message.value = alert(str(error))
        except Exception:
            self.message.value = mistake()


def _button(words: str, tooltip: str, width: str = "130px") -> widgets.Button:
    return widgets.Button(description=words, tooltip=tooltip, layout=widgets.Layout(width=width))


def step_html(climb: Climb) -> str:
    """Return the next step with its numbers, and the last one with what came of it."""
    parts = []
    rung = climb.current
    if rung is not None:
        asked = "Does it hold, or does the kernel refuse here?"
        parts.append(_box(f"Next: {step_text(rung, told=False)}", asked, INK, PAPER))
    if climb.asked:
        parts.append(_told_html(climb))
    style = "font:13px/1.4 'DejaVu Sans','Liberation Sans',Helvetica,Arial,sans-serif"
    return f'<div role="status" aria-live="polite" style="{style}">{"".join(parts)}</div>'


def _told_html(climb: Climb) -> str:
    """Return the last step: told in full where it refuses, in a line where it holds."""
    rung, said = climb.rungs[climb.asked - 1], climb.said.get(climb.asked - 1)
    sign = SIGNS[_came(rung)]
    right, guesses = climb.score
    remark = f"{sign.symbol} {_outcome(rung)}."
    if said is not None:
        remark += " You were right." if said == rung.refuses else " You said otherwise."
    if guesses:
        remark += f" Right so far: {right} of {guesses}."
    if climb.done and not rung.refuses:
        remark += " All checks hold: the call is accepted."
    return _box(f"Last: {step_text(rung, told=False)}", remark, sign.colour, sign.ground)


def _box(text: str, remark: str, colour: str, ground: str) -> str:
    """Return a step as HTML: its head, its lines in a fixed face, and a remark in colour."""
    head, *lines = text.splitlines()
    fixed = "font:12px/1.4 'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace"
    body = escape("\n".join(line[2:] for line in lines))
    return (
        f'<div style="background:{ground};color:{INK};border:1px solid {FAINT};'
        f'border-left:4px solid {colour};padding:6px 10px;margin:4px 0"><b>{escape(head)}</b>'
        f'<pre style="{fixed};color:{SOFT};background:none;white-space:pre-wrap;'
        f'word-break:normal;overflow-wrap:anywhere;margin:4px 0">'
        f'{body}</pre><b style="color:{colour}">{escape(remark)}</b></div>'
    )
