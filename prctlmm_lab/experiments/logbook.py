"""A logbook: a file of requests and records, one JSON object a line, that only ever grows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.formula import printable
from prctlmm_lab.experiments.record import (
    RECORD_SCHEMA,
    Record,
    Request,
    is_torn,
    parse_line,
    to_json,
)
from prctlmm_lab.specimen.process import Specimen

LONGEST_WAIT = 10.0
"""Seconds that a line waits for another process to write its own."""


class TornLineWarning(UserWarning):
    """A line of a logbook was not written to its end; it was passed over."""


@dataclass(frozen=True)
class Logbook:
    """Append experiments to a file and read them back.

    Several processes may append to one file: each line is written whole, under a lock.
    """

    path: str | Path

    def run(self, experiment: Experiment, *, specimen: Specimen | None = None) -> Record:
        """Run an experiment; write its request before the call and its record after it.

        Raises as `experiment.run`; InputError if the file cannot be written, before any call.
        """
        record = run(experiment, on_request=self.append, specimen=specimen)
        self.append(record)
        return record

    def append(self, line: Request) -> None:
        """Append one request or record.

        Raises InputError if the file cannot be opened or the line not be written whole; nothing of
        the line is then left in it.
        """
        data = to_json(line).encode("ascii") + b"\n"
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o600)
            try:
                _lock(descriptor)
                _append_whole(descriptor, data)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its name holds a zero byte"
            raise InputError(self._name, f"cannot be written: {reason}") from None

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records as JSON objects, oldest first; requests are passed over.

        So are torn lines, which an interrupted write left: each is reported by a TornLineWarning.

        Raises InputError for a file that cannot be read or a line that is no record, with its
        number.
        """
        try:
            with open(self.path, encoding="utf-8", errors="surrogateescape") as file:
                for number, line in enumerate(file, 1):
                    entry = self._entry(line, number) if line.strip() else None
                    if entry and entry["schema"] == RECORD_SCHEMA:
                        yield entry
        except InputError:
            raise
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its name holds a zero byte"
            raise InputError(self._name, f"cannot be read: {reason}") from None

    def _entry(self, line: str, number: int) -> dict[str, Any] | None:
        where = f"{self._name}: line {number}"
        try:
            return parse_line(line, where)
        except InputError:
            if not is_torn(line):
                raise
        warnings.warn(f"{where} is torn and was skipped", TornLineWarning, stacklevel=3)
        return None

    @property
    def _name(self) -> str:
        return printable(str(self.path))


def _lock(descriptor: int) -> None:
    """Wait for the lock, which goes with the descriptor.

    Raises OSError if it is not to be had in time.
    """
    deadline = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(0, f"another process has held it for {LONGEST_WAIT:g} s") from None
            time.sleep(0.005)


def _append_whole(descriptor: int, data: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        data = b"\n" + data  # leave a line that was torn on a line of its own
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(0, "the disk took only a part")
    except OSError:
        with contextlib.suppress(OSError):  # a device has nothing to take back
            os.ftruncate(descriptor, size)
        raise
