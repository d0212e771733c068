"""The ProcViewer: follow a living specimen while calls are made, and step back through the looks.

It only shows a `Following` (looks.py) and passes on what the learner does. Whatever goes wrong in a
handler, or while it follows, is shown at its place, never lost.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import ipywidgets as widgets

from prctlmm_lab.errors import InputError, LabError
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.views.looks import CALLS, PLACES, USUAL, Following, Look
from prctlmm_lab.views.widgets import alert, mistake, note
from prctlmm_lab.words import shortened

__all__ = ["Following", "Look", "ProcViewer"]

EVERY = 0.5
"""Seconds between two looks while it follows."""
LONGEST_FOLLOWING = 600.0
"""Seconds without a change after which it stops to follow by itself."""
_WRAP = widgets.Layout(flex_flow="row wrap")
_LABEL = {"description_width": "72px"}
_LONGEST_TITLE = 110


class ProcViewer(widgets.VBox):
    """Show chosen places of /proc for a living specimen, with what changed since the last look.

    "Look" looks now; "Follow" looks every half second and keeps a look when something is
    different. Calls can be chosen or typed. The list holds the looks: go back in it with the arrow
    keys. The same without a widget is `Following`.

    Without a specimen one is started, and ended by `close`. `regions` names memory of a specimen
    that is given, for formulas: {"page": (start, end)}, ends exclusive.

    Raises UnsupportedSystem or SpecimenError where no specimen can be started, InputError for a
    place that is none.
    """

    _task: asyncio.Task[None] | None = None

    def __init__(
        self,
        specimen: Specimen | None = None,
        *,
        regions: Mapping[str, tuple[int, int]] | None = None,
        places: Sequence[str] = USUAL,
        every: float = EVERY,
    ) -> None:
        super().__init__()  # first: what ipywidgets has not made it cannot take away either
        for place in places:
            if place not in PLACES:
                raise InputError("places", "is no place", repr(place)[:80], ", ".join(PLACES))
        self.following = Following(specimen, regions or {})
        self.every = every
        self._quiet = False
        self._make_controls(places)
        self.view = widgets.HTML(layout=widgets.Layout(flex="1 1 560px", min_width="380px"))
        self.picture = widgets.HTML(layout=widgets.Layout(flex="1 1 430px", min_width="340px"))
        self.message = widgets.HTML()
        boxes = [*self.places.values(), self.with_picture, self.as_text]
        self.children = [
            widgets.HBox([self.choice, self.look_button, self.follow_toggle], layout=_WRAP),
            widgets.HBox([self.entry, self.call_button, self.back_button], layout=_WRAP),
            self.message,
            widgets.HBox(boxes, layout=_WRAP),
            self.history,
            widgets.HBox([self.view, self.picture], layout=_WRAP),
        ]
        with self._shown_errors():
            self._refresh()

    def _make_controls(self, places: Sequence[str]) -> None:
        self.choice = widgets.Dropdown(
            options=[("(choose a call)", ""), *CALLS.items()], description="a call", style=_LABEL,
            tooltip="calls to begin with; the choice writes its changes below",
            layout=widgets.Layout(width="600px"),
        )  # fmt: skip
        self.entry = widgets.Text(
            description="changes", style=_LABEL, continuous_update=False,
            placeholder="arg_start = arena.start, arg_end = arg_start + 8",
            tooltip="members and their new values: numbers, hex or formulas, with commas between",
            layout=widgets.Layout(width="600px"),
        )  # fmt: skip
        self.look_button = _button("Look", "read /proc now, and keep what it shows", "70px")
        self.follow_toggle = widgets.ToggleButton(
            description="Follow", value=False, layout=widgets.Layout(width="80px"),
            tooltip=f"look every {self.every:g} seconds, and keep what is different",
        )  # fmt: skip
        self.call_button = _button("Call", "make the real call with these changes", "70px")
        self.call_button.button_style = "primary"
        self.back_button = _button("Put back", "make the call with the first addresses", "90px")
        self.places = {
            place: _box(place, f"show {place}", place in places) for place in PLACES
        }  # fmt: skip
        self.with_picture = _box("picture", "draw the address space", value=True)
        self.as_text = _box("as text", "the same as plain text, for a reader or to copy")
        self.history = widgets.Select(
            options=[], rows=4, description="looks", style=_LABEL,
            tooltip="every look, the newest last: go through them with the arrow keys",
            layout=widgets.Layout(width="98%"),
        )  # fmt: skip
        self.choice.observe(self._on(self._choose), "value")
        self.look_button.on_click(self._on(self.look))
        self.call_button.on_click(self._on(self.call))
        self.back_button.on_click(self._on(self.put_back))
        self.follow_toggle.observe(self._on(self._switch), "value")
        self.history.observe(self._on(self._show), "value")
        for box in (*self.places.values(), self.with_picture, self.as_text):
            box.observe(self._on(self._show), "value")

    # ---- what the learner does ------------------------------------------------------------------

    def look(self) -> None:
        """Look now, and show the look."""
        self.following.look()
        self._refresh()

    def call(self) -> None:
        """Make the call that is typed, and show what came of it.

        Raises InputError for changes that are none.
        """
        self.following.call(self.entry.value)
        self._refresh()

    def put_back(self) -> None:
        """Make the call with the addresses of the first look."""
        self.following.put_back()
        self._refresh()

    def close(self) -> None:
        """Stop to follow, end the specimen if it is our own, and take the widget off the page."""
        self._stop_task()
        if hasattr(self, "following"):  # else no specimen could be started
            self.following.close()
        super().close()

    def _choose(self) -> None:
        if self.choice.value:
            self.entry.value = self.choice.value

    # ---- following ------------------------------------------------------------------------------

    @property
    def is_following(self) -> bool:
        """Tell whether it looks by itself."""
        return self._task is not None and not self._task.done()

    def _switch(self) -> None:
        if not self.follow_toggle.value:
            self._stop_following("")
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._stop_following("Nothing can follow here, for no event loop runs: press Look.")
            return
        self._stop_task()
        self._task = loop.create_task(_follow(weakref.ref(self), self.every))
        self.message.value = note(f"Following: a look every {self.every:g} s, if anything changed.")

    def poll(self) -> bool:
        """Look once as following does; tell whether to go on.

        Only what is different is shown. An error is shown too, and ends the following.
        """
        try:
            look = self.following.look_if_changed()
            if look is not None:
                self._refresh()
        except LabError as error:
            self._stop_following(f"No longer following: {error}")
        except Exception:
            self._stop_following("")
            self.message.value = mistake()
        return self.follow_toggle.value is True

    def _stop_following(self, why: str) -> None:
        """Switch following off, and say why if there is something to say."""
        with self._silently():
            self.follow_toggle.value = False
        self._stop_task()
        self.message.value = alert(why) if why else ""

    def _stop_task(self) -> None:
        task, self._task = self._task, None
        # A task that stops itself comes to its end by itself.
        if task is not None and not task.done() and task is not _this_task():
            task.cancel()

    # ---- what is shown --------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Show the newest look."""
        titles = [(shortened(look.title, _LONGEST_TITLE), look.number) for look in self._looks()]
        with self._silently():
            self.history.options = titles
            self.history.value = self.following.last.number
        if not self.is_following:
            self.message.value = ""
        self._show()

    def _show(self) -> None:
        """Show the look that is chosen in the list."""
        chosen = [look for look in self._looks() if look.number == self.history.value]
        look = chosen[0] if chosen else self.following.last
        places = [place for place, box in self.places.items() if box.value]
        if self.as_text.value:
            written = escape(look.text(places))
            table = f'<pre style="white-space:pre-wrap;line-height:1.3">{written}</pre>'
        else:
            table = look.html(places)
        self.view.value = f'<div aria-live="polite">{table}</div>'
        self.picture.value = look.picture() if self.with_picture.value else ""

    def _looks(self) -> list[Look]:
        return list(self.following.looks)

    def _on(self, handler: Callable[[], None]) -> Callable[[Any], None]:
        # The widget is held weakly: its own controls must not keep it alive.
        itself = weakref.ref(self)
        name = handler.__name__

        def handle(_: Any) -> None:
            viewer = itself()
            if viewer is not None and not viewer._quiet:
                with viewer._shown_errors():
                    getattr(viewer, name)()

        return handle

    @contextmanager
    def _silently(self) -> Iterator[None]:
        """Change controls without taking the change for the learner's."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    @contextmanager
    def _shown_errors(self) -> Iterator[None]:
        try:
            yield
        except LabError as error:
            self.message.value = alert(str(error))
        except Exception:
            self.message.value = mistake()


def _this_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


async def _follow(viewer: weakref.ref[ProcViewer], every: float) -> None:
    """Poll until the widget is gone, was switched off, or nothing has changed for long."""
    clock = asyncio.get_running_loop().time
    seen, since = -1, clock()
    while True:
        await asyncio.sleep(every)
        shown = viewer()
        if shown is None or not shown.poll():
            return
        if shown.following.last.number != seen:
            seen, since = shown.following.last.number, clock()
        if clock() - since > LONGEST_FOLLOWING:
            minutes = LONGEST_FOLLOWING / 60
            shown._stop_following(f"No longer following: nothing changed for {minutes:g} minutes.")
            return
        del shown  # while it sleeps the widget may go


def _button(description: str, tooltip: str, width: str) -> widgets.Button:
    layout = widgets.Layout(width=width)
    return widgets.Button(description=description, tooltip=tooltip, layout=layout)


def _box(description: str, tooltip: str, value: bool = False) -> widgets.Checkbox:
    return widgets.Checkbox(
        value=value, description=description, tooltip=tooltip, indent=False,
        layout=widgets.Layout(width="92px"),
    )  # fmt: skip
