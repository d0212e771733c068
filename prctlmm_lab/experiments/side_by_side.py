"""The same recipes in several logs, side by side: from other kernels, other users, other years."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.causes import Cause, Side, cause_of
from prctlmm_lab.experiments.comparison import Difference, differences, recipe_key
from prctlmm_lab.experiments.record import Record

MOST_RECIPES = 10_000
"""Different recipes that the logs of one comparison may hold together."""


@dataclass(frozen=True)
class Cell:
    """What one log says of one recipe, beside the first log that has it."""

    verdict: str
    """"accepted", an errno, or "" if the kernel's answer is not known."""
    rule: str
    differences: tuple[Difference, ...] = ()
    """From the first log to this one."""
    cause: Cause | None = None
    varies: bool = False
    """True if this log's own records of the recipe do not agree; the last one counts."""

    @property
    def text(self) -> str:
        """The verdict as a table shows it."""
        return self.verdict or "no answer"

    @property
    def other_verdict(self) -> bool:
        """True if the verdict is another than the first log's; the rest then follows from it."""
        return any(each.kind == "verdict" for each in self.differences)


@dataclass(frozen=True)
class Row:
    """One recipe in all logs."""

    experiment: str
    title: str
    cells: Mapping[str, Cell]
    """By the name of the log; a log without the recipe is not there."""

    @property
    def differs(self) -> bool:
        """True if any log says another thing than the first."""
        return any(cell.differences or cell.varies for cell in self.cells.values())


@dataclass(frozen=True)
class Comparison:
    """Several logs beside each other; what differs, differs from the first that has a recipe."""

    kernels: Mapping[str, str]
    """The name of each log, and the kernels and users that it is of."""
    rows: tuple[Row, ...]

    @property
    def differing(self) -> tuple[Row, ...]:
        """The rows in which logs differ."""
        return tuple(row for row in self.rows if row.differs)

    @property
    def lacking(self) -> dict[str, int]:
        """How many recipes each log does not have."""
        return {log: sum(log not in row.cells for row in self.rows) for log in self.kernels}


@dataclass
class _Held:
    """What is kept of one recipe while logs are read."""

    experiment: str
    title: str
    sides: dict[str, Side] = field(default_factory=dict)
    varies: set[str] = field(default_factory=set)


def compare(logs: Mapping[str, Iterable[Record]]) -> Comparison:
    """Compare the records of several logs, by recipe.

    Each log is read once, and no more is kept of it than what its last record of each recipe tells.

    >>> from prctlmm_lab.experiments.experiment import Experiment, run
    >>> record = run(Experiment("moves", change={"end_code": "end_code + page"}))
    >>> compare({"a": [record], "b": [record]}).differing
    ()

    The command line's equivalent is `prctlmm-lab compare A B`.

    Raises InputError for logs with more than `MOST_RECIPES` recipes.
    """
    held: dict[str, _Held] = {}
    kernels: dict[str, dict[str, set[int]]] = {name: {} for name in logs}
    for name, records in logs.items():
        for record in records:
            users = kernels[name].setdefault(record.facts.release, set())
            users.add(record.privilege.uid)
            _note(name, record, held)
    told = {name: _kernels(found) for name, found in kernels.items()}
    return Comparison(told, tuple(map(_row, held.values())))


def _kernels(found: Mapping[str, set[int]]) -> str:
    """Write which kernels a log is of, each with the users who asked it."""
    return "; ".join(
        f"Linux {release}, uid {' and '.join(map(str, sorted(users)))}"
        for release, users in found.items()
    ) or "no records"  # fmt: skip


def _note(log: str, record: Record, held: dict[str, _Held]) -> None:
    experiment = record.experiment
    key = recipe_key(experiment)
    if key not in held:
        if len(held) == MOST_RECIPES:
            raise InputError(log, "is one recipe too many", "", f"at most {MOST_RECIPES}")
        name, title = str(experiment.get("id", "")), str(experiment.get("title", ""))
        held[key] = _Held(name, title)
    one, side = held[key], Side.of(record)
    before = one.sides.get(log)
    if before and differences(before.findings, side.findings):
        one.varies.add(log)
    one.sides[log] = side


def _row(held: _Held) -> Row:
    first = next(iter(held.sides.values()))
    return Row(
        held.experiment,
        held.title,
        {log: _cell(first, side, log in held.varies) for log, side in held.sides.items()},
    )


def _cell(first: Side, side: Side, varies: bool) -> Cell:
    found = differences(first.findings, side.findings)
    cause = cause_of(first, side, found) if found else None
    return Cell(side.findings.verdict, side.findings.rule, found, cause, varies)
