"""A logbook: records appended one by one, and read back with every line validated.

The yardsticks write the same bytes with one plain write() each, and parse the same lines as JSON
without looking at what they say.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections import deque
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.measure import Row
from prctlmm_lab.experiments.experiment import run
from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.record import Record, to_json

RECORDS = 100_000


def rows() -> list[Row]:
    """Measure 100,000 records of the shipped recipes, as real calls made them."""
    records = [run(e) for recipe in shipped_recipes().values() for e in recipe.experiments]
    with TemporaryDirectory() as folder:
        book, plain = LogFile(Path(folder, "logbook.jsonl")), Path(folder, "plain.jsonl")
        appended, written = _append(book, records), _write(plain, records)
        _read(LogFile(plain), 1000)  # what is loaded and built on first use is not measured
        before = _peak()
        read, parsed = _read(book, RECORDS), _parse(plain)
        grown = (_peak() - before) / 1024
        size = os.path.getsize(book.path) / RECORDS
    return [
        Row("append 100,000 records", appended, written, "s", "under 5 s"),
        Row("read and validate 100,000", read, parsed, "s", "under 3 s"),
        Row("memory that reading takes", grown, None, "MB", "bounded"),
        Row("bytes of a record", size, None, "B", ""),
    ]


def _append(book: LogFile, records: list[Record]) -> float:
    started = time.perf_counter()
    for number in range(RECORDS):
        book.append(records[number % len(records)])
    return time.perf_counter() - started


def _write(path: Path, records: list[Record]) -> float:
    lines = [to_json(record).encode() + b"\n" for record in records]
    started = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        file.writelines(lines[number % len(lines)] for number in range(RECORDS))
    return time.perf_counter() - started


def _read(book: LogFile, number: int) -> float:
    started = time.perf_counter()
    deque(islice(book.records(), number), maxlen=0)
    return time.perf_counter() - started


def _parse(path: Path) -> float:
    started = time.perf_counter()
    with open(path, "rb") as file:
        deque(map(json.loads, file), maxlen=0)
    return time.perf_counter() - started


def _peak() -> float:
    """Return the most memory that this process has had, in KB."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
