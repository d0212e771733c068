"""Judge the claims of the commit message as a widget: one claim, four words, what came, the score.

It only shows a `Judging` (judgement.py) and passes on what the learner does, so that it can be used
with the keyboard alone. Whatever goes wrong in a handler is shown, never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import ipywidgets as widgets

from prctlmm_lab.errors import LabError
from prctlmm_lab.specimen.recording.marks import LIVE, mark_html, mark_text
from prctlmm_lab.views.judgement import WORDS, Judging, place_text
from prctlmm_lab.views.widgets import alert, mistake, note
from prctlmm_lab.words import shortened

_NARROW = widgets.Layout(width="auto")


class JudgingBoard(widgets.VBox):
    """Show one claim after another: judge it, have the kernel settle it, go on.

    The same without a widget is `Judging`: `run(claim, word)` for each, then `score()`.
    """

    def __init__(self, judging: Judging | None = None) -> None:
        self.judging = judging or Judging()
        self._quiet = False
        self.choice = widgets.Dropdown(
            description="claim", options=self._options(), tooltip="go to any claim",
            style={"description_width": "50px"}, layout=widgets.Layout(width="98%"),
        )  # fmt: skip
        self.statement = widgets.HTML()
        self.words = widgets.RadioButtons(
            description="it", options=list(WORDS), value=None,
            style={"description_width": "50px"}, layout=widgets.Layout(width="auto"),
        )  # fmt: skip
        self.run_button = self._button("Run", "have the kernel settle this claim", self.run)
        self.run_button.button_style = "primary"
        self.previous_button = self._button("Previous", "the claim before", self.previous)
        self.next_button = self._button("Next", "the claim after", self.next)
        self.rest_button = self._button(
            "Run the rest", "settle every claim that was not run yet", self.run_rest
        )
        self.text_button = widgets.ToggleButton(
            description="As text", tooltip="show all that was judged and run in words", value=False,
            layout=_NARROW,
        )  # fmt: skip
        self.message = widgets.HTML()
        self.told = widgets.HTML()
        self.score = widgets.HTML()
        self.text = widgets.HTML()
        self.choice.observe(self._on(self._show), "value")
        self.words.observe(self._on(self._judge), "value")
        self.text_button.observe(self._on(self._show_text), "value")
        buttons = [self.run_button, self.previous_button, self.next_button, self.rest_button,
                   self.text_button]  # fmt: skip
        super().__init__(
            [self.choice, self.statement, self.words,
             widgets.HBox(buttons, layout=widgets.Layout(flex_flow="row wrap")),
             self.message, self.told, self.score, self.text]
        )  # fmt: skip
        with self._shown_errors():
            self._show()

    def _options(self) -> list[tuple[str, str]]:
        return [(shortened(f"{c.number}. {c.statement}", 90), c.id) for c in self.judging.claims]

    def _button(self, name: str, tooltip: str, handler: Callable[[], None]) -> widgets.Button:
        button = widgets.Button(description=name, tooltip=tooltip, layout=_NARROW)
        button.on_click(self._on(handler))
        return button

    # ---- what the learner does ------------------------------------------------------------------

    def run(self) -> None:
        """Have the kernel settle the claim that is shown; it need not be judged."""
        self.judging.run(self.choice.value)
        self._show()

    def run_rest(self) -> None:
        """Have the kernel settle every claim that was not run yet."""
        self.message.value = note("Asking the kernel about the rest; this takes some seconds.")
        self.judging.run_all()
        self._show()

    def next(self) -> None:
        """Go to the claim after this one; after the last comes the first."""
        self._go(1)

    def previous(self) -> None:
        """Go to the claim before this one."""
        self._go(-1)

    def _go(self, by: int) -> None:
        ids = [claim.id for claim in self.judging.claims]
        self.choice.value = ids[(ids.index(self.choice.value) + by) % len(ids)]

    def _judge(self) -> None:
        if self.words.value is None:
            return
        if self.judging.of(self.choice.value).finding is not None:
            self._show()
            self.message.value = note("Another cell has run this claim: this is what came.")
            return
        self.judging.judge(self.choice.value, self.words.value)
        self.message.value = ""

    # ---- what is shown --------------------------------------------------------------------------

    def _show(self) -> None:
        """Show the chosen claim, what was said of it, and what came, if it was run."""
        judged = self.judging.of(self.choice.value)
        claim, settled = judged.claim, judged.finding is not None
        self.statement.value = (
            f"<div><small>{escape(place_text(claim.place))}</small></div>"
            f"<div><b>{claim.number}.</b> The message says: <b>{escape(claim.statement)}</b></div>"
        )
        self._quiet = True
        try:
            self.words.value = judged.said or None
        finally:
            self._quiet = False
        self.words.disabled = settled
        self.message.value = ""
        told = judged._repr_html_() if settled else ""
        mark = "" if judged.origin == LIVE else mark_html(mark_text(judged.origin))
        self.told.value = f'<div aria-live="polite">{told}{mark}</div>' if settled else ""
        head = str(self.judging.score()).partition("\n")[0]
        self.score.value = f'<div aria-live="polite">{note(head)}</div>'
        self._show_text()

    def _show_text(self) -> None:
        shown = self.judging.text() if self.text_button.value else ""
        style = "white-space:pre-wrap"
        self.text.value = f'<pre style="{style}">{escape(shown)}</pre>' if shown else ""

    def _on(self, handler: Callable[[], None]) -> Callable[[Any], None]:
        def handle(_: Any) -> None:
            if not self._quiet:
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
