"""prctlmm-lab replay: every recipe of a log once more, on this kernel."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prctlmm_lab.commands.output import (
    BAD_INPUT,
    DISAGREEMENT,
    FINE,
    add_json,
    complain,
    wrapped,
)
from prctlmm_lab.commands.prerequisites import require_package
from prctlmm_lab.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prctlmm_lab.experiments.record import Record
    from prctlmm_lab.experiments.replay import Replayed


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "replay", help="run every recipe of a log on this kernel, and compare",
        epilog="Example: prctlmm-lab replay data/recorded/linux-5.10.262.jsonl. "
        "Exit status 1 if anything differs, 2 if nothing could be shown here.",
    )  # fmt: skip
    parser.add_argument("logfile", type=Path, metavar="LOG", help="a logbook, a file of JSON lines")
    parser.add_argument("--log", type=Path, metavar="OUT",
                        help="append the new requests and records to it")  # fmt: skip
    parser.add_argument("--only", metavar="ID", help="just this experiment of the log")
    add_json(parser)
    parser.set_defaults(command=replay)


def replay(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    require_package("pydantic")
    from prctlmm_lab.experiments.logbook import LogFile
    from prctlmm_lab.experiments.replay import DIFFERS, SAME, replay

    counts: Counter[str] = Counter()
    log = LogFile(options.log) if options.log else None
    for replayed in replay(chosen(options), log):
        counts[replayed.result] += 1
        if options.json:
            print(json.dumps(_data(replayed)))
        else:
            first, *more = replayed.text()
            print(wrapped(first, later=9), *(wrapped(line, later=6) for line in more), sep="\n")
    if not counts:
        what = f"no experiment {options.only!r}" if options.only else "no record"
        raise InputError(str(options.logfile), f"holds {what}")
    if not options.json:
        print(_summary(counts))
    if counts[DIFFERS]:
        return DISAGREEMENT
    return FINE if counts[SAME] else BAD_INPUT


def chosen(options: argparse.Namespace) -> Iterator[Record]:
    """Yield the records that are meant; a torn line is said."""
    for record in told_records(options.logfile):
        if options.only in (None, record.experiment.get("id")):
            yield record


def told_records(path: Path) -> Iterator[Record]:
    """Yield the records of a log, and say on standard error which lines are torn."""
    import warnings

    from prctlmm_lab.experiments.logbook import LogFile, TornLineWarning

    records = LogFile(path).records()
    while True:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", TornLineWarning)
            record = next(records, None)
        for warning in told:
            complain(warning.message)
        if record is None:
            return
        yield record


def _summary(counts: Counter[str]) -> str:
    names = {"same": "the same", "differs": "different", "cannot": "not possible here"}
    parts = [f"{counts[result]} {name}" for result, name in names.items() if counts[result]]
    return f"{counts.total()} records: {', '.join(parts)}"


def _data(replayed: Replayed) -> dict[str, Any]:
    from prctlmm_lab.experiments.record import plain

    data: dict[str, Any] = plain(replayed)
    return data
