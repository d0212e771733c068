"""Logs to look at: a few real experiments, the same in great number, and hostile ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from prctlmm_lab import Logbook
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.recipe import experiment_from
from prctlmm_lab.experiments.record import RECORD_SCHEMA, Record, interrupted, to_json
from prctlmm_lab.experiments.schema import check_line

START = datetime(2026, 11, 10, 14, 2, 7, 120_000, UTC)
GROWS = Experiment("code-grows", title="More code", change={"end_code": "end_code + page"},
                   explanation="Only the bounds move.", predict="accepted")  # fmt: skip
REFUSED = Experiment("order-broken", change={"arg_end": "arg_start - 1"}, predict="accepted")
UNASKED = Experiment("nothing changes")
BRK_AFTER = experiment_from({"id": "brk-after", "after": [{"brk": "brk + page"}]})


@cache
def real() -> tuple[Record, ...]:
    """Run four experiments and return their records, with times of our own."""
    found = [run(one) for one in (GROWS, REFUSED, UNASKED, BRK_AFTER)]
    return tuple(at(record, number) for number, record in enumerate(found))


def at(record: Record, minutes: float, identity: str = "") -> Record:
    """Return a record as if its call had been made some minutes after `START`."""
    time = (START + timedelta(minutes=minutes)).isoformat(timespec="milliseconds")
    return replace(record, time=time, id=identity or record.id)


def disagreeing(record: Record) -> Record:
    """Return a record in which the kernel did not do what was predicted."""
    verdict = "EPERM" if record.outcome.verdict == "accepted" else "accepted"
    outcome = replace(record.outcome, verdict=verdict, errno=1 if verdict == "EPERM" else 0)
    told = (f"verdict: predicted {record.prediction.verdict}, kernel {verdict}",)
    agreement = replace(record.agreement, verdict=False, disagreements=told)
    return replace(record, outcome=outcome, agreement=agreement)


def many(number: int, days: float) -> Iterator[Record]:
    """Yield records as of a learner's days: some interrupted, ended, predicted and recorded."""
    minutes = days * 24 * 60 / number
    for n in range(number):
        record = at(real()[n % 4], n * minutes, f"{n:032x}")
        if n % 50 == 7:
            record = interrupted(record, "interrupted by KeyboardInterrupt")
        elif n % 50 == 11:
            record = replace(record, origin="recorded on Linux 6.18.15, 2026-11-24")
        elif n % 50 == 13:
            record = replace(record, origin="predicted")
        elif n % 50 == 17:
            record = disagreeing(record)
        yield record


def write(path: Path, records: Iterable[Record]) -> Logbook:
    """Write records as lines and return the log."""
    path.write_text("".join(f"{to_json(record)}\n" for record in records), "ascii")
    return Logbook(path)


# ---- hostile ----------------------------------------------------------------------------------

MARKUP = "</td></pre></title></style><script src=//x>evil()</script>\"'><img src=x onerror=evil()>"
HOSTILE_TEXTS = (
    MARKUP,
    "=cmd|' /C calc'!A0",
    "\x1b[2J\x07\r\n\t\0",
    "\u202egpj.exe \u2066\u2028\ufeff",
    "Z" + "\u0301" * 20_000,
    "long " * 14_000,
    "]]><!--<svg onload=evil()>",
    "{{7*7}} ${7*7} $x^2$",
)


def hostile(text: str) -> Record:
    """Return a record that the schema admits and that has a text wherever it can have one."""
    data = json.loads(to_json(disagreeing(real()[3])))
    data["answers"] = [{"step": text, "answer": text, "refusal": text, "expected": text}] * 3
    data["before"]["maps"] = [f"0x400000-0x401000 r-xp {text or 'x'}"] * 1 + [
        f"0x500000-0x501000 rw-p [{text}]"
    ]
    for key in ("difference", "later"):
        data[key] = [[text] * 4] * 3
    for key in ("operation", "learner", "lab"):
        data[key] = text
    data["facts"] |= {"release": text, "machine": text, "assumed": [text]}
    data["prediction"] = {"verdict": text, "rule": text, "numbers": text, "broken": [text] * 3,
                          "effects": {text: text}}  # fmt: skip
    data["outcome"] |= {"verdict": text, "ended": text, "signal": text}
    data["agreement"]["disagreements"] = [text] * 3
    data["experiment"] = {
        "id": text, "title": text, "explanation": text, "change": {text: text, "brk": text},
        "call": {text: text}, "setup": [{text: text}], "predict": text, "rule": text,
    }  # fmt: skip
    for view in ("before", "after"):
        if data[view]:
            data[view] |= {"cmdline": text, "environ": text, "exe": text, "auxv": [text]}
            data[view] |= {"status": {text: text}}
    return _read(data)


def _read(data: dict[str, Any]) -> Record:
    record = check_line(json.dumps(data).encode(), RECORD_SCHEMA, "hostile")
    assert isinstance(record, Record)
    return record
