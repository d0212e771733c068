"""prctlmm-lab run: a recipe's experiments on the real kernel, and what changed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prctlmm_lab.commands.output import BAD_INPUT, DISAGREEMENT, FINE, add_json, wrapped, write
from prctlmm_lab.commands.prerequisites import require_picture
from prctlmm_lab.commands.recipes import (
    add_recipe,
    chosen_experiments,
    prepared_one_by_one,
    require_one,
)

if TYPE_CHECKING:
    from prctlmm_lab.experiments.experiment import Prepared
    from prctlmm_lab.experiments.record import Record


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "run", help="run a recipe's experiments on the real kernel",
        epilog="Example: prctlmm-lab run data/recipes/heap.toml --log logbook.jsonl",
    )  # fmt: skip
    parser.add_argument("--log", type=Path, metavar="FILE",
                        help="append requests and records to it")  # fmt: skip
    parser.add_argument(
        "--picture", type=Path, metavar="FILE",
        help="draw the address space before and after (PNG, SVG or PDF)",
    )  # fmt: skip
    add_recipe(parser)
    add_json(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    experiments = chosen_experiments(options)
    if options.picture:
        require_one("--picture", experiments, "experiment")
        require_picture(options.picture)
    statuses = [_run_one(prepared, options) for prepared in prepared_one_by_one(experiments)]
    if len(statuses) > 1 and not options.json:
        print(_summary(statuses))
    return DISAGREEMENT if DISAGREEMENT in statuses else max(statuses)


def _run_one(prepared: Prepared | None, options: argparse.Namespace) -> int:
    from prctlmm_lab.experiments.experiment import carry_out
    from prctlmm_lab.experiments.logbook import LogFile
    from prctlmm_lab.experiments.record import to_json

    if prepared is None:
        return BAD_INPUT
    record = LogFile(options.log).carry_out(prepared) if options.log else carry_out(prepared)
    print(to_json(record) if options.json else record_text(record))
    if options.picture:
        _picture(prepared, options.picture)
    return FINE if record.agreement.with_lab else DISAGREEMENT


def _summary(statuses: list[int]) -> str:
    counts = {
        "as predicted": statuses.count(FINE),
        "not": statuses.count(DISAGREEMENT),
        "cannot be set up here": statuses.count(BAD_INPUT),
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{len(statuses)} experiments: {', '.join(parts)}"


def _picture(prepared: Prepared, path: Path) -> None:
    from prctlmm_lab.views.pictures import draw, save

    figure = draw(prepared.bench.specimen.snapshot(), before=prepared.before)
    write(path, lambda: save(figure, path))


# ---- a record as text -------------------------------------------------------------------------


def record_text(record: Record) -> str:
    """Return a record as a person reads it."""
    lines = []
    if record.prediction.numbers:
        lines.append(f"because {record.prediction.numbers}")
    if record.learner:
        right = "right" if record.agreement.learner else "wrong"
        lines.append(f"the prediction written down was {record.learner}: {right}")
    lines += _change_lines(record)
    lines += [
        f"after[{number}] {answer.step}: {answer.answer or answer.refusal or 'done'}"
        for number, answer in enumerate(record.answers)
    ]
    lines += [f"then {_change_line(row)}" for row in record.later]
    lines += [f"DISAGREES {text}" for text in record.agreement.disagreements]
    return "\n".join([
        wrapped(record.summary(), later=4), *(wrapped(f"  {line}", later=6) for line in lines)
    ])  # fmt: skip


def _change_lines(record: Record) -> list[str]:
    """Write a line for each change, but one for a vector that is another as a whole."""
    rows = list(record.difference)
    new = sum(place == "auxv" for place, *_ in rows) > 3
    vectors = [view.auxv for view in (record.before, record.after) if view is not None]
    if not new or not all(isinstance(vector, tuple) for vector in vectors) or len(vectors) != 2:
        return [_change_line(row) for row in rows]
    old, now = ([e for e in vector or () if e != "AT_NULL=0x0"] for vector in vectors)
    left = " ".join(now) or "none"
    summary = f"auxv: {len(old)} entries -> {len(now)} ({left})"
    lines = [summary if row[0] == "auxv" else _change_line(row) for row in rows]
    return list(dict.fromkeys(lines))


def _change_line(row: tuple[str, str, str, str]) -> str:
    """Write one change so that a terminal shows what a process wrote and does not act on it."""
    from prctlmm_lab.experiments.formula import printable

    place, name, *values = row
    quote = "'" if place in ("cmdline", "environ") else ""
    before, after = (_cut(f"{quote}{printable(v)}{quote}") for v in values)
    return f"{place} {name}".rstrip() + f": {before} -> {after}"


def _cut(text: str, longest: int = 240) -> str:
    if len(text) <= longest:
        return text
    return f"{text[:longest]}... ({len(text)} characters; --json has them all)"
