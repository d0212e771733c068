"""Replay: every recipe of a log once more, on this kernel with this layout.

A learner's prediction stays in the old log; what is compared is what the kernel did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prctlmm_lab.errors import InputError, SpecimenError, SystemCallError
from prctlmm_lab.experiments.causes import Cause, Side, cause_of
from prctlmm_lab.experiments.comparison import Difference, differences, recipe_key
from prctlmm_lab.experiments.experiment import Experiment, carry_out, prepare
from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.recipe import experiment_from
from prctlmm_lab.experiments.record import Record, from_in_text_form
from prctlmm_lab.specimen.probe import facts_here

SAME, DIFFERS, CANNOT = "same", "differs", "cannot"


@dataclass(frozen=True)
class Replayed:
    """What came of one record's recipe here."""

    id: str
    """The record's."""
    experiment: str
    """The experiment's id."""
    result: str
    """"same", "differs" or "cannot"."""
    recorded: str
    """The verdict in the log."""
    here: str = ""
    """The verdict on this kernel."""
    differences: tuple[Difference, ...] = ()
    """The first of each is the log's, the second is ours."""
    cause: Cause | None = None
    """Why it differs, if that is known."""
    reason: str = ""
    """Why it cannot be shown here."""

    def text(self) -> list[str]:
        """Return the lines that a person reads."""
        if self.result == CANNOT:
            return [f"cannot   {self.experiment}: {self.reason}"]
        if self.result == SAME:
            return [f"same     {self.experiment}: {self.recorded or 'no answer'}"]
        lines = [f"differs  {self.experiment}"]
        lines += [f"  {each}" for each in self.differences]
        return [*lines, f"  because: {self.cause}" if self.cause else "  unexplained"]


def recorded_experiment(record: Record) -> Experiment:
    """Return the experiment that a record tells of, checked as a recipe is; without a prediction.

    Raises InputError for one that this lab cannot make.
    """
    table = {k: v for k, v in from_in_text_form(dict(record.experiment)).items() if k != "predict"}
    return experiment_from(table)


def replay(
    records: Iterable[Record],
    log: LogFile | None = None,
    *,
    on: Callable[[Experiment], Record] | None = None,
) -> Iterator[Replayed]:
    """Run the recipe of every record on this kernel and compare.

    A recipe that stands in several records is run once. `log` gets the new requests and records.
    `on` runs an experiment elsewhere, on another kernel; there is no log of it.

    >>> from prctlmm_lab.experiments.experiment import run
    >>> record = run(Experiment("moves", change={"end_code": "end_code + page"}))
    >>> [each.result for each in replay([record])]
    ['same']

    The command line's equivalent is `prctlmm-lab replay LOG`.

    Raises UnsupportedSystem or SpecimenStartError where no specimen can be started, InputError if
    `log` cannot be written.
    """
    if on is None:
        facts_here()  # what is missing here altogether is told at once
    done: dict[str, Side | str] = {}
    for record in records:
        key = recipe_key(record.experiment)
        if key not in done:
            done[key] = _run_elsewhere(record, on) if on else _run(record, log)
        yield _compared(record, done[key])


def _run(record: Record, log: LogFile | None) -> Side | str:
    """Return what the recipe does here, or why it cannot be shown."""
    try:
        experiment = recorded_experiment(record)
        specimen = experiment.specimen.start()
    except (InputError, SystemCallError) as error:
        return str(error)
    with specimen:
        try:
            prepared = prepare(experiment, specimen, facts_here())
        except (InputError, SpecimenError) as error:
            return str(error)
        return Side.of(log.carry_out(prepared) if log else carry_out(prepared))


def _run_elsewhere(record: Record, on: Callable[[Experiment], Record]) -> Side | str:
    """Return what the recipe does on another kernel, or why it cannot be shown."""
    try:
        return Side.of(on(recorded_experiment(record)))
    except (InputError, SpecimenError, SystemCallError) as error:
        return str(error)


def _compared(record: Record, here: Side | str) -> Replayed:
    name, verdict = str(record.experiment.get("id", "")), record.outcome.verdict
    if isinstance(here, str):
        return Replayed(record.id, name, CANNOT, verdict, reason=here)
    if record.outcome.interrupted:
        reason = "the log does not know what came of it"
        return Replayed(record.id, name, CANNOT, verdict, here.findings.verdict, reason=reason)
    there = Side.of(record)
    found = differences(there.findings, here.findings)
    cause = cause_of(there, here, found) if found else None
    result = DIFFERS if found else SAME
    return Replayed(record.id, name, result, verdict, here.findings.verdict, found, cause)
