"""What the Explorer does, without a widget: a draft, its history, its bench, its records.

Each method here is a plain call, so that everything the widget can do can be done and tested
without a browser. The widget in `widgets.py` only shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from prctlmm_lab.errors import InputError, SystemCallError
from prctlmm_lab.experiments.experiment import (
    Experiment,
    Prepared,
    Subject,
    carry_out,
    predict,
    set_up,
)
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.logbook import LogFile, default_logbook
from prctlmm_lab.experiments.recipe import Recipe, recipe_text, shipped_recipes
from prctlmm_lab.experiments.record import Record, Request
from prctlmm_lab.experiments.steps import Bench, Map, Step, Write
from prctlmm_lab.kernel.abi import MEMBER
from prctlmm_lab.kernel.difference import Change, difference
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.views.landmarks import Landmark, landmarks

OWN_MEMORY = Experiment(
    "own-memory",
    title="A page of your own",
    explanation='The specimen has mapped a page called "arena" and written text into it.',
    setup=(Map("arena"), Write("arena.start", text="a-new-name\0--with\0arguments\0")),
)
"""What the Explorer starts with: memory to point at."""


def presets() -> dict[str, Experiment]:
    """Return the experiments to start from, by title: a page of your own, then all that ship."""
    named = {OWN_MEMORY.title: OWN_MEMORY}
    for recipe in shipped_recipes().values():
        named.update({f"{recipe.title}: {e.title}": e for e in recipe.experiments})
    return named


@dataclass(frozen=True)
class Result:
    """One run: its record, and the two snapshots for the picture."""

    record: Record
    before: Snapshot
    after: Snapshot | None
    changes: tuple[Change, ...]
    logged: str
    """Where the record was written, or why it was not."""


@dataclass
class Exploration:
    """A draft of an experiment that can be edited, predicted, run and undone.

    >>> exploration = Exploration(logbook=None)
    >>> exploration.edit("arg_start", "arena.start")
    >>> exploration.edit("arg_end", "arg_start + 11")
    >>> exploration.run().record.outcome.verdict
    'accepted'
    >>> exploration.close()
    """

    draft: Experiment = OWN_MEMORY
    logbook: Path | None = field(default_factory=default_logbook)
    facts: Facts = field(default_factory=facts_here)
    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start = self.draft
        self._history: list[tuple[Experiment, Experiment]] = []
        """Earlier drafts, each with what it started from."""
        self._last_edited = ""
        self._bench: Bench | None = None
        self._built_for: tuple[Subject, tuple[Step, ...]] | None = None
        self._subject = self.draft.specimen
        self._prepared: tuple[Bench, Experiment, Prepared] | None = None
        self._landmarks: dict[str, tuple[Landmark, ...]] = {}
        self._finished: Specimen | None = None

    # ---- the draft ----------------------------------------------------------------------------

    def edit(self, member: str, formula: str) -> None:
        """Give a member a new value, as text; empty text leaves it as it was before the call.

        Raises InputError for what is no formula, makes a circle or does not fit; the draft then
        stays as it was.
        """
        changes: dict[str, Value] = dict(self.draft.change)
        changes.pop(member, None)
        if formula.strip():
            changes[member] = formula.strip()
        ordered = {name: changes[name] for name in MEMBER if name in changes}
        # What a preset's author aims at is not what another call aims at.
        aim = self._start.rule if ordered == dict(self._start.change) else ""
        draft = replace(self.draft, change=ordered, rule=aim)
        self._predict(draft)
        self._set(draft, edited=member)

    def choose_prediction(self, verdict: str) -> None:
        """Write down what the learner thinks the kernel will say; "" for nothing."""
        self._set(replace(self.draft, predict=verdict), edited="prediction")

    def choose_build(self, build: str) -> None:
        """Take the other specimen, "static" or "static-pie"."""
        subject = replace(self.draft.specimen, build=build)
        self._set(replace(self.draft, specimen=subject), edited="build")

    def choose_preset(self, experiment: Experiment) -> None:
        """Start from another experiment; the build stays."""
        subject = replace(experiment.specimen, build=self.draft.specimen.build)
        self._last_edited = ""
        self._set(replace(experiment, specimen=subject, predict=""), edited="preset")
        self._start = self.draft

    def _set(self, draft: Experiment, edited: str) -> None:
        if draft == self.draft:
            return
        if edited != self._last_edited:  # many steps of one slider are one thing to undo
            self._history.append((self.draft, self._start))
        self._last_edited, self.draft = edited, draft

    def undo(self) -> bool:
        """Go back to before the last edit; return False if there is nothing to undo."""
        self._last_edited = ""
        if not self._history:
            return False
        self.draft, self._start = self._history.pop()
        return True

    def reset(self) -> None:
        """Take back every change since the preset was chosen; this too can be undone."""
        self._last_edited = ""
        self._set(self._start, edited="reset")

    def recipe(self) -> str:
        """Return the draft as a recipe, to save as a file and run again."""
        return recipe_text(Recipe(self.draft.title, (self.draft,)))

    # ---- the bench ----------------------------------------------------------------------------

    def bench(self) -> Bench:
        """Return a specimen with the draft's set-up done, the same until a run or another set-up.

        Raises InputError if the kernel refuses a step of the set-up, SpecimenError.
        """
        wanted = (self.draft.specimen, self.draft.setup)
        if self._bench is None or self._built_for != wanted or not self._bench.specimen.alive:
            self._discard()
            specimen = self._start_specimen(self.draft.specimen)
            try:
                self._bench = set_up(self.draft, specimen, self.facts)
            except BaseException:
                specimen.stop()
                raise
            self._built_for = wanted
            own = specimen.current_map()
            self._landmarks = {name: landmarks(name, own, self._bench) for name in MEMBER}
        return self._bench

    def _start_specimen(self, subject: Subject) -> Specimen:
        """Start a specimen whose addresses stay the same from one to the next, where allowed."""
        self._subject = replace(subject, randomize=False)
        try:
            return self._subject.start()
        except SystemCallError:  # personality(2) is refused in some containers
            self._subject = subject
            return subject.start()

    def landmarks(self, member: str) -> tuple[Landmark, ...]:
        """Return the meaningful values of a member, in ascending order."""
        self.bench()
        return self._landmarks[member]

    def predict(self) -> Prepared:
        """Resolve the draft on the bench and say what the kernel will do; nothing is changed.

        Raises InputError for a value that does not fit, SpecimenError.
        """
        return self._predict(self.draft)

    def _predict(self, draft: Experiment) -> Prepared:
        bench = self.bench()
        if self._prepared is None or self._prepared[0] is not bench or self._prepared[1] != draft:
            prepared = predict(replace(draft, specimen=self._subject), bench)
            self._prepared = bench, draft, prepared
        return self._prepared[2]

    def run(self) -> Result:
        """Make the real call on the bench; its specimen stays alive for a look until the next run.

        Raises InputError as `predict`, SpecimenError if the specimen ended before the call.
        """
        self._prepared = None  # what stands in /proc just before the call, not at the last edit
        prepared = self.predict()
        specimen, logged = prepared.bench.specimen, "not logged"
        book = None

        def write_request(request: Request) -> None:
            nonlocal book, logged
            book, logged = self._open_logbook(request)

        record = carry_out(prepared, on_request=write_request)
        if book is not None:
            book.append(record)
        self.records.append(record)
        self._last_edited = ""
        if self._finished is not None:
            self._finished.stop()
        self._finished, self._bench = specimen, None
        after = specimen.snapshot() if specimen.alive and not record.outcome.ended else None
        changes = difference(prepared.before, after) if after else ()
        return Result(record, prepared.before, after, changes, logged)

    def _open_logbook(self, request: Request) -> tuple[LogFile | None, str]:
        if self.logbook is None:
            return None, "not logged: no logbook was chosen"
        book = LogFile(self.logbook)
        try:
            book.append(request)
        except InputError as error:
            return None, f"not logged: {error}"
        return book, str(self.logbook)

    def _discard(self) -> None:
        if self._bench is not None:
            self._bench.specimen.stop()
            self._bench = None

    def close(self) -> None:
        """End the specimens."""
        self._discard()
        if self._finished is not None:
            self._finished.stop()
            self._finished = None
