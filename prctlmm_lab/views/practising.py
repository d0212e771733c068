"""Practice as a widget: a question, its choices, the answer, what it teaches, and the score.

It only shows a practice, whatever makes the problems, and passes on what the learner does; so it
can be used with the keyboard alone. Whatever goes wrong in a handler is shown, never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Protocol

import ipywidgets as widgets

from prctlmm_lab.errors import LabError
from prctlmm_lab.views.widgets import alert, mistake, note


class Asked(Protocol):
    """A problem, as far as the widget knows it."""

    @property
    def choices(self) -> tuple[Any, ...]:
        """The choices; each has a `word`, and is a line of text."""

    def question_html(self) -> str:
        """Return the question as HTML."""

    def picture_html(self) -> str:
        """Return the picture as HTML."""

    def text(self) -> str:
        """Return the problem in words."""

    def picture_text(self) -> str:
        """Return the picture in words."""

    def hint(self) -> str:
        """Return the next hint."""

    def answer(self, said: object, /) -> Any:
        """Judge an answer; what is told shows itself as HTML, and `picture` is a part of that."""


class Asking(Protocol):
    """A practice, as far as the widget knows it."""

    def next(self) -> Asked:
        """Return the next problem."""

    def score(self) -> object:
        """Return how it goes, as text."""

    def stop(self) -> None:
        """End what the present problem holds."""


class Practice(widgets.VBox):
    """Show one problem after another: choose, press Answer, read what decides, press Next.

    The same without a widget is `practice()` of `prctlmm_lab.course`, whose `widget()` gives this.
    """

    def __init__(self, problems: Asking) -> None:
        self.problems = problems
        self.problem: Asked | None = None
        self.question = widgets.HTML()
        self.choices = widgets.RadioButtons(
            description="answer", options=[], layout=widgets.Layout(width="98%")
        )
        self.answer_button = self._button("Answer", "make the real call and compare", self.answer)
        self.answer_button.button_style = "primary"
        self.hint_button = self._button("Hint", "say a little more", self.hint)
        self.next_button = self._button("Next", "another problem", self.next)
        self.text_button = widgets.ToggleButton(
            description="As text", tooltip="show problem and picture in words", value=False
        )
        self.text_button.observe(self._on(self._show_text), "value")
        self.told = widgets.HTML()
        self.message = widgets.HTML()
        self.picture = widgets.HTML()
        self.words = widgets.HTML()
        self.score = widgets.HTML()
        buttons = [self.answer_button, self.hint_button, self.next_button, self.text_button]
        super().__init__(
            [self.question, self.choices,
             widgets.HBox(buttons, layout=widgets.Layout(flex_flow="row wrap")),
             self.message, self.told, self.score, self.words, self.picture]
        )  # fmt: skip
        with self._shown_errors():
            self.next()

    def _button(self, name: str, tooltip: str, handler: Callable[[], None]) -> widgets.Button:
        button = widgets.Button(description=name, tooltip=tooltip)
        button.on_click(self._on(handler))
        return button

    # ---- what the learner does ------------------------------------------------------------------

    def next(self) -> None:
        """Show the next problem; one that is not answered is passed over."""
        self.problem = problem = self.problems.next()
        self.question.value = problem.question_html()
        self.choices.options = [(str(choice), choice.word) for choice in problem.choices]
        self.choices.value = None
        self.choices.disabled = False
        self.picture.value = problem.picture_html()
        self.told.value = self.message.value = ""
        self._show_score()
        self._show_text()

    def answer(self) -> None:
        """Make the real call, and show what it teaches, and the picture of what came of it.

        No button is disabled, so that the keyboard's focus stays where it is.
        """
        if self.problem is None or self.choices.value is None:
            self.message.value = note("Choose an answer first.")
            return
        if self.told.value:
            self.message.value = note("It is answered; Next gives another one.")
            return
        told = self.problem.answer(self.choices.value)
        self.message.value = ""
        self.told.value = f'<div aria-live="polite">{told._repr_html_()}</div>'
        if told.picture:  # else nothing moved, and the draft may stay
            self.picture.value = ""
        self.choices.disabled = True
        self._show_score()
        self._show_text()

    def hint(self) -> None:
        """Show the next hint."""
        if self.problem is not None:
            self.message.value = f'<span aria-live="polite">{note(self.problem.hint())}</span>'

    def close(self) -> None:
        """End the specimen and take the widget off the page."""
        self.problems.stop()
        super().close()

    # ---- what is shown --------------------------------------------------------------------------

    def text(self) -> str:
        """Return what is shown in words: problem, picture, what was told, score."""
        if self.problem is None:
            return ""
        parts = [self.problem.text(), self.problem.picture_text(), str(self.problems.score())]
        return "\n\n".join(parts)

    def _show_text(self) -> None:
        shown = self.text() if self.text_button.value else ""
        self.words.value = f"<pre>{escape(shown)}</pre>" if shown else ""

    def _show_score(self) -> None:
        head = str(self.problems.score()).partition("\n")[0]
        self.score.value = f'<div aria-live="polite">{note(head)}</div>'

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
