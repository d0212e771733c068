"""A logbook as a learner meets it: a log file that shows itself.

Heavy packages are imported on use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prctlmm_lab.experiments.logbook import LogFile, default_logbook
from prctlmm_lab.experiments.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from prctlmm_lab.views.overview import Overview
    from prctlmm_lab.views.selection import Stage


@dataclass(frozen=True, repr=False)
class Logbook(LogFile):
    """The learner's own log, or the one at `path`: append experiments, and look at what happened.

    `where` and `last` give the same log with fewer records in view. In a notebook a logbook shows
    its newest records as a table; `text()` is the same in words.

    >>> import tempfile
    >>> from prctlmm_lab import Experiment
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     book = Logbook(f"{folder}/logbook.jsonl")
    ...     record = book.run(Experiment("nothing changes"))
    ...     again = [each.outcome.verdict for each in book.where(verdict="accepted")]
    >>> again
    ['accepted']

    A log may come from a stranger: nothing in it is run, and what is shown of it is escaped. A
    line has at most 16 MiB, and no more than one of them is in memory at once.
    """

    path: str | Path = field(default_factory=default_logbook)
    stages: tuple[Stage, ...] = ()
    """What `where` and `last` asked for, in that order."""

    def records(self) -> Iterator[Record]:
        """Yield the records in view, as `LogFile.records` does: in the order of the file.

        After `last` they are in the order of their times.
        """
        records = super().records()
        for stage in self.stages:
            records = stage.apply(records)
        return records

    def __iter__(self) -> Iterator[Record]:
        return self.records()

    def count(self) -> int:
        """Return how many records are in view; the file is read for it."""
        return sum(1 for _ in self.records())

    def where(
        self,
        *,
        verdict: str | None = None,
        rule: str | None = None,
        experiment: str | None = None,
        text: str | None = None,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        origin: str | None = None,
        agreed: bool | None = None,
        learner: str | None = None,
        kernel: str | None = None,
        **unknown: object,
    ) -> Logbook:
        """Return the same log with only the records in view that meet all that is asked.

        In `verdict` ("EINVAL", "interrupted", "no answer"), `rule` (the one that decides by the
        specification, "" for none), `experiment` (the id), `origin` ("live", "predicted",
        "recorded on *") and `kernel` (the release) a * stands for any characters. `text` is looked
        for in all that the experiment says and in the differences, in any case of letters. `since`
        is included, `until` is not; without a zone they are UTC, as the times in a log.
        `agreed=False` is where kernel and specification disagree. `learner` is the learner's
        prediction: "right", "wrong", "open" (no answer came) or "none".

        >>> Logbook("log.jsonl").where(rule="order.*").where(learner="wrong").selected
        'rule=order.*; learner=wrong'

        Equivalent: `jq 'select(.outcome.verdict == "EINVAL")' LOG`.

        Raises InputError for another keyword, and for a value that no record can have.
        """
        from prctlmm_lab.views.selection import where

        asked = {"verdict": verdict, "rule": rule, "experiment": experiment, "text": text,
                 "since": since, "until": until, "origin": origin, "agreed": agreed,
                 "learner": learner, "kernel": kernel}  # fmt: skip
        return replace(self, stages=(*self.stages, where({**asked, **unknown})))

    def last(self, count: int = 20) -> Logbook:
        """Return the same log with only the newest records in view, 100,000 at most.

        Raises InputError for what is no number of records.
        """
        from prctlmm_lab.views.selection import last

        return replace(self, stages=(*self.stages, last(count)))

    @property
    def selected(self) -> str:
        """What is in view, in words; "" for every record."""
        return "; ".join(map(str, self.stages))

    # ---- to look at ---------------------------------------------------------------------------

    def table(self) -> DataFrame:
        """Return the records in view as a pandas table, one row for each, the oldest first.

        The columns are the fields of `prctlmm_lab.views.entries.Entry`: among them the time (UTC),
        what changed (formulas, and the numbers they came to, in hex), verdict, rule, what was
        predicted, whether kernel and specification agree, whether the learner was right, and the
        first differences. At most the newest 100,000 rows; a LeftOutWarning says if there are more.

        Raises as `LogFile.records`.
        """
        from prctlmm_lab.views.exports import logbook_table

        return logbook_table(self)

    def plot(self, by: str = "time") -> Figure:
        """Draw the outcomes one after another, by "time", or counted by the "rule" that decides.

        `text_of_plot` of `prctlmm_lab.views.outcomes` says the same in words.

        Raises InputError for another word; and as `LogFile.records`.
        """
        from prctlmm_lab.views.outcomes import draw_outcomes

        return draw_outcomes(self, by)

    def text(self) -> str:
        """Return what the logbook shows of itself as plain text, at most 80 columns."""
        from prctlmm_lab.views.overview import overview_text

        return overview_text(self._look_over())

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        from prctlmm_lab.views.overview import overview_html

        return overview_html(self._look_over())

    def _look_over(self) -> Overview:
        from prctlmm_lab.views.overview import look_over

        return look_over(os.fspath(self.path), self.selected, self.records())

    # ---- to take away -------------------------------------------------------------------------

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the records in view as CSV: UTF-8, a header, times in ISO 8601, ends of line LF.

        The columns are those of `table`; there are no more rows than fit a disk. A text that a
        spreadsheet would take for a formula (it begins with = + - @, a tab or a carriage return)
        has an apostrophe before it.

        The file is written whole or not at all. One that is there is replaced, as pandas does, so
        that a notebook can be run again; but never the log itself.

        Raises InputError for a path that cannot be written; and as `LogFile.records`.
        """
        from prctlmm_lab.views.exports import write_csv

        write_csv(self, path)

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the table of the records in view as Parquet; otherwise as `to_csv`.

        Raises UnsupportedSystem if pyarrow or fastparquet is not installed; as `to_csv`.
        """
        from prctlmm_lab.views.exports import write_parquet

        write_parquet(self, path)

    def report(
        self, path: str | os.PathLike[str], *, title: str = "", author: str = "", note: str = ""
    ) -> None:
        """Write the records in view as a page with pictures, to hand in or to print.

        It is one HTML file that needs no network and runs no script. The newest 200 experiments
        have a section each. The file is written as `to_csv` does.

        Raises as `to_csv`.
        """
        from prctlmm_lab.views.report import write_report

        write_report(self, path, title=title, author=author, note=note)
