"""A logbook: a file of requests and records, one JSON object a line, that only ever grows."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.record import RECORD_SCHEMA, Record, Request, parse_line, to_json
from prctlmm_lab.specimen.process import Specimen


@dataclass(frozen=True)
class Logbook:
    """Append experiments to a file and read them back.

    Several processes may append to one file: each line is written whole, under a lock.
    """

    path: Path

    def run(self, experiment: Experiment, *, specimen: Specimen | None = None) -> Record:
        """Run an experiment; write its request before the call and its record after it.

        Raises as `experiment.run`; InputError if the file cannot be written, before any call.
        """
        record = run(experiment, on_request=self.append, specimen=specimen)
        self.append(record)
        return record

    def append(self, line: Request) -> None:
        """Append one request or record.

        Raises InputError if the file cannot be opened or the line not be written whole.
        """
        data = to_json(line).encode("ascii") + b"\n"
        try:
            descriptor = os.open(
                self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise InputError(str(self.path), f"cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # leave a line that was torn on a line of its own
            _append_whole(descriptor, data, size, self.path)
        finally:
            os.close(descriptor)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records as JSON objects, oldest first; requests are passed over.

        Raises InputError for a file that cannot be read or a line that is no record, with its
        number.
        """
        try:
            with open(self.path, encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        entry = parse_line(line, f"{self.path}: line {number}")
                        if entry["schema"] == RECORD_SCHEMA:
                            yield entry
        except OSError as error:
            raise InputError(str(self.path), f"cannot be read: {error.strerror}") from None


def _append_whole(descriptor: int, data: bytes, size: int, path: Path) -> None:
    try:
        written = os.write(descriptor, data)
        problem = "" if written == len(data) else "the disk took only a part"
    except OSError as error:
        problem = error.strerror or "write failed"
    if problem:
        os.ftruncate(descriptor, size)  # nothing half-written stays behind
        raise InputError(str(path), f"cannot be written: {problem}")
