"""A logbook for other programs: a pandas table, CSV, Parquet; and files that are written whole."""

from __future__ import annotations

import csv
import io
import os
import secrets
import stat
import warnings
from collections.abc import Callable, Iterable
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from prctlmm_lab.errors import InputError, UnsupportedSystem
from prctlmm_lab.experiments.formula import printable
from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.views.entries import Entry, entry_of, newest

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_ROWS = 100_000
"""Rows of a table, the newest; with `LONGEST_TEXT` this bounds its memory."""
COLUMNS = tuple(field.name for field in fields(Entry))
_DTYPES = {"agrees": "boolean", "right": "boolean", "differences": "int64", "uid": "Int64"}
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


class LeftOutWarning(UserWarning):
    """A logbook has more records than a table or a picture holds; the oldest were left out."""


def newest_entries(records: Iterable[Record], most: int) -> list[Entry]:
    """Return the newest records as rows, the oldest first; a LeftOutWarning says what is left out.

    Raises as the reading of the records.
    """
    total = 0

    def rows() -> Iterable[tuple[str, Entry]]:
        nonlocal total
        for record in records:
            total += 1
            yield record.time, entry_of(record)

    found = newest(rows(), most)
    if total > most:
        said = f"the newest {most:,} of {total:,} records are here; choose others with where()"
        warnings.warn(said, LeftOutWarning, stacklevel=4)
    return found


def logbook_table(records: Iterable[Record]) -> DataFrame:
    """Return records as a pandas table: see `Logbook.table`."""
    from pandas import DataFrame, Series, to_datetime

    entries = newest_entries(records, MOST_ROWS)
    columns: dict[str, Any] = {
        name: Series([getattr(entry, name) for entry in entries], dtype=_DTYPES.get(name, "str"))
        for name in COLUMNS
        if name != "time"
    }
    times = to_datetime(Series([entry.time for entry in entries], dtype=object), utc=True)
    return DataFrame({"time": times.astype("datetime64[us, UTC]"), **columns})


def write_csv(book: LogFile, path: str | os.PathLike[str]) -> None:
    """Write a logbook as CSV: see `Logbook.to_csv`."""

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in book.records():
            entry = entry_of(record)
            writer.writerow([_csv_cell(getattr(entry, name)) for name in COLUMNS])
        text.detach()

    write_whole(book, path, write)


def _csv_cell(value: object) -> str:
    """Write a value so that a spreadsheet shows it and does not compute it."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if not isinstance(value, str):
        return str(value)
    return f"'{value}" if value.startswith(_FORMULAS) else value


def write_parquet(book: LogFile, path: str | os.PathLike[str]) -> None:
    """Write a logbook as Parquet: see `Logbook.to_parquet`."""
    from importlib.util import find_spec

    if not any(map(find_spec, ("pyarrow", "fastparquet"))):
        raise UnsupportedSystem(
            "Parquet is written by pyarrow or fastparquet, and neither is installed",
            "Install one: pip install pyarrow; or take to_csv.",
        )
    data = logbook_table(book.records()).to_parquet(None)
    write_whole(book, path, lambda file: file.write(data))


# ---- files ------------------------------------------------------------------------------------


def write_whole(
    book: LogFile, path: str | os.PathLike[str], write: Callable[[BinaryIO], object]
) -> None:
    """Write a file whole or not at all: beside its place first, and then into it.

    What is there is replaced if it is a regular file and not the log itself; a link stays one.

    Raises InputError if the path cannot be written, and whatever `write` raises.
    """
    name = printable(os.fspath(path))
    try:
        place = os.path.realpath(path)
        _check_place(book, place, name)
        beside = f"{place}.{secrets.token_hex(4)}.part"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except (OSError, ValueError) as error:
        raise _cannot(name, error) from None
    try:
        with open(descriptor, "wb") as file:
            write(file)
        os.replace(beside, place)
    except BaseException as error:
        os.unlink(beside)
        if isinstance(error, OSError):
            raise _cannot(name, error) from None
        raise


def _check_place(book: LogFile, place: str, name: str) -> None:
    try:
        mode = os.stat(place).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise InputError(name, "is no regular file", "", "the name of a file")
    if os.path.exists(book.path) and os.path.samefile(place, book.path):
        raise InputError(name, "is the log itself", "", "the name of another file")


def _cannot(name: str, error: OSError | ValueError) -> InputError:
    if isinstance(error, InputError):
        return error
    reason = error.strerror if isinstance(error, OSError) else "its name holds a zero byte"
    return InputError(name, f"cannot be written: {reason}")
