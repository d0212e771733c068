"""A log file: requests and records, one JSON object a line, that only ever grows.

Writing needs nothing but the standard library. Reading streams: however long the file, no more than
a line of it, and the places of requests that wait for their record, are in memory at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Experiment, Prepared, carry_out, prepare
from prctlmm_lab.experiments.formula import printable, shorten
from prctlmm_lab.experiments.record import (
    OLDER_SCHEMAS,
    RECORD_SCHEMA,
    REQUEST_SCHEMA,
    Record,
    Request,
    interrupted,
    to_json,
)
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.marks import note

LONGEST_WAIT = 10.0
"""Seconds that a line waits for another process to write its own."""
LONGEST_LINE = 1 << 24
"""Bytes of the longest line that is written or read."""
MOST_WAITING = 100_000
"""Requests without a record that a file may have."""
SCHEMAS = (RECORD_SCHEMA, REQUEST_SCHEMA, *OLDER_SCHEMAS)


class TornLineWarning(UserWarning):
    """A line of a log was not written to its end; it was passed over."""


def default_logbook() -> Path:
    """Return the learner's own log: $PRCTLMM_LAB_LOGBOOK, or one in the user's data folder."""
    if named := os.environ.get("PRCTLMM_LAB_LOGBOOK"):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "prctlmm-lab" / "logbook.jsonl"


@dataclass(frozen=True)
class LogFile:
    """Append experiments to a file and read them back.

    Several processes may append to one file: each line is written whole, under a lock. A process
    that is killed can leave at most one line that is torn, its own last.
    """

    path: str | Path

    def run(self, experiment: Experiment, *, specimen: Specimen | None = None) -> Record:
        """Run an experiment; write its request before the call and its record after it.

        A run that is interrupted between the two leaves a record that says so.

        Raises as `experiment.run`; InputError if the file cannot be written, before any call.
        """
        if specimen is not None:
            return self.carry_out(prepare(experiment, specimen, facts_here()))
        with experiment.specimen.start() as fresh:
            return self.carry_out(prepare(experiment, fresh, facts_here()))

    def carry_out(self, prepared: Prepared) -> Record:
        """Make the call of a prepared experiment, as `run` does."""
        written: list[Request] = []

        def write_request(request: Request) -> None:
            self.append(request)
            written.append(request)

        try:
            record = carry_out(prepared, on_request=write_request)
        except BaseException as error:
            if written:
                self.append(interrupted(written[0], f"interrupted by {type(error).__name__}"))
            raise
        self.append(record)
        return record

    def append(self, line: Request) -> None:
        """Append one request or record.

        Raises InputError if the file cannot be opened or the line not be written whole; nothing of
        the line is then left in it.
        """
        data = to_json(line).encode("ascii") + b"\n"
        if len(data) > LONGEST_LINE:
            raise InputError(self.name, "bytes are too long a line", hex(len(data)),
                             f"at most {LONGEST_LINE:#x}")  # fmt: skip
        with self._failing("written"):
            append_line(self.path, data)

    def records(self) -> Iterator[Record]:
        """Yield the records, oldest first; a request that never got one, as an interrupted record.

        Those come last. Torn lines, which an interrupted write left, are reported by a
        TornLineWarning with their number and skipped. What others append meanwhile is not read.

        Raises InputError for a file that cannot be read and for a line that is no record, with its
        number and what is wrong with it.
        """
        waiting: dict[str, tuple[int, int]] = {}
        with self._failing("read"), _open_to_read(self.path) as file:
            for number, start, line in self._lines(file):
                found = self._beginning(line, number)
                if found is None:
                    continue
                schema, identity = found
                if "/request/" in schema:
                    waiting[identity] = number, start
                    if len(waiting) > MOST_WAITING:
                        raise InputError(self.name, "requests have no record",
                                         f"more than {MOST_WAITING}")  # fmt: skip
                elif record := self._checked(line, schema, number):
                    waiting.pop(identity, None)
                    assert isinstance(record, Record)
                    yield record
            for number, start in waiting.values():
                file.seek(start)
                line = file.readline(LONGEST_LINE)
                found = self._beginning(line, number)
                if found and (request := self._checked(line, found[0], number)):
                    yield interrupted(request)

    def _lines(self, file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
        """Yield the number, the offset and the bytes of each line that was there at the start."""
        end, start, number = _settled_size(file), 0, 0
        while start < end and (line := file.readline(LONGEST_LINE + 1)):
            number += 1
            if len(line) > LONGEST_LINE:
                raise InputError(self._place(number), "is too long a line", "",
                                 f"at most {LONGEST_LINE:#x} bytes")  # fmt: skip
            if not line.isspace():
                yield number, start, line
            start += len(line)

    def _beginning(self, line: bytes, number: int) -> tuple[str, str] | None:
        """Return the schema and the id with which a line begins, None for a torn one.

        Raises InputError for a line that is no record's.
        """
        if found := _BEGINNING.match(line):
            schema, identity = found[1].decode(), found[2].decode()
        elif is_torn(line):
            self._report_torn(number)
            return None
        else:
            schema, identity = _schema_and_id(line, self._place(number))
        if schema not in SCHEMAS:
            raise InputError(self._place(number), "is not the schema of a record",
                             shorten(schema), RECORD_SCHEMA)  # fmt: skip
        return schema, identity

    def _checked(self, line: bytes, schema: str, number: int) -> Request | None:
        from prctlmm_lab.experiments.schema import check_line

        try:
            found = check_line(line, schema, self._place(number))
        except InputError:
            if not is_torn(line):
                raise
            self._report_torn(number)
            return None
        note(found.origin)
        return found

    def _report_torn(self, number: int) -> None:
        problem = f"{self._place(number)} is torn and was skipped"
        warnings.warn(problem, TornLineWarning, stacklevel=4)

    @contextlib.contextmanager
    def _failing(self, verb: str) -> Iterator[None]:
        """Say in one sentence what the system refuses."""
        try:
            yield
        except InputError:
            raise
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its name holds a zero byte"
            own = verb == "written" and Path(self.path) == default_logbook()
            remedy = "PRCTLMM_LAB_LOGBOOK=FILE to name another place" if own else ""
            raise InputError(self.name, f"cannot be {verb}: {reason}", "", remedy) from None

    def _place(self, number: int) -> str:
        return f"{self.name}: line {number}"

    @cached_property
    def name(self) -> str:
        """The path, as it can be printed."""
        return printable(str(self.path))


def shipped_logbooks() -> dict[str, LogFile]:
    """Return the logs of other kernels that come with the lab, by name.

    They lie in data/logbooks of a clone, or beside the package where it was installed. Each has the
    shipped recipes as one kernel and one user answered them.

    >>> "linux-5.10.262" in shipped_logbooks()
    True
    """
    package = Path(__file__).parents[1]
    folders = (package.parent / "data" / "logbooks", package / "data" / "logbooks")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {path.stem: LogFile(path) for path in sorted(folder.glob("*.jsonl"))}


# ---- lines --------------------------------------------------------------------------------------

_START = b'{"schema":"prctlmm-lab/'
_BEGINNING = re.compile(
    rb'\s*\{\s*"schema"\s*:\s*"([ -!#-~]{1,80})"\s*,\s*"id"\s*:\s*"([0-9a-f]{32})"'
)


def is_torn(line: bytes) -> bool:
    """Tell whether a line is the beginning of a request or record that was not written to its end.

    So is one of zero bytes: what some file systems leave where the power failed.

    >>> is_torn(b'{"schema":"prctlmm-lab/record/2","id":"7f'), is_torn(b"{}")
    (True, False)
    """
    text = line.rstrip(b"\n\0")
    if not text:
        return b"\0" in line
    if not (text.startswith(_START) or _START.startswith(text)):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


def _schema_and_id(line: bytes, where: str) -> tuple[str, str]:
    """Parse a line whose members stand in another order than ours.

    Raises InputError for one that is no object with both.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        shown = ascii(line[:60].decode("utf-8", "backslashreplace"))
        raise InputError(where, "is not a JSON object", shown) from None
    if not isinstance(value, dict) or "schema" not in value:
        raise InputError(where, "is no record", "", f'an object with "schema": "{RECORD_SCHEMA}"')
    return str(value["schema"])[:80], str(value.get("id"))[:80]


# ---- the file -----------------------------------------------------------------------------------


def append_line(path: str | Path, data: bytes) -> None:
    """Append one line, its end included, under the file's lock: whole, or nothing of it.

    Raises OSError if the file cannot be opened or written, ValueError for a name with a zero byte.
    """
    descriptor = _open_to_append(path)
    try:
        _lock(descriptor)
        _append_whole(descriptor, data)
    finally:
        os.close(descriptor)


def settled_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of each line that was there at the start.

    Of a line of more than 64 KiB only that much is given. Raises as `append_line`.
    """
    with _open_to_read(path) as file:
        end, number = _settled_size(file), 0
        while file.tell() < end and (line := file.readline(1 << 16)):
            number += 1
            yield number, line
            while line and not line.endswith(b"\n"):
                line = file.readline(1 << 16)


_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)


def _open_to_read(path: str | Path) -> BinaryIO:
    """Open a file without waiting for a writer, should it be a pipe."""
    waits = getattr(os, "O_NONBLOCK", 0)
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | waits))


def _open_to_append(path: str | Path) -> int:
    try:
        return os.open(path, _FLAGS, 0o600)
    except FileNotFoundError:
        if Path(path).parent != default_logbook().parent:  # that it is not there is a mistake
            raise
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, _FLAGS, 0o600)


def _lock(descriptor: int, *, shared: bool = False) -> None:
    """Wait for the lock, which goes with the descriptor.

    Raises OSError if it is not to be had in time.
    """
    deadline = time.monotonic() + LONGEST_WAIT
    while not _try_to_lock(descriptor, shared):
        if time.monotonic() > deadline:
            raise OSError(0, f"another process has held it for {LONGEST_WAIT:g} s")
        time.sleep(0.005)


if sys.platform == "win32":
    import msvcrt

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 40, os.SEEK_SET)
        with contextlib.suppress(OSError):
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

    def _try_to_lock(descriptor: int, shared: bool) -> bool:
        os.lseek(descriptor, 1 << 40, os.SEEK_SET)  # a byte that is never written
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def _unlock(descriptor: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _try_to_lock(descriptor: int, shared: bool) -> bool:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _append_whole(descriptor: int, data: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size:
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":
            data = b"\n" + data  # leave a line that was torn on a line of its own
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(0, "the disk took only a part")
    except OSError:
        with contextlib.suppress(OSError):  # a device has nothing to take back
            os.ftruncate(descriptor, size)
        raise


def _settled_size(file: BinaryIO) -> int:
    """Return the size at a moment when nobody is writing, so that no line is seen half."""
    descriptor = file.fileno()
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(0, "it is no regular file")
    with contextlib.suppress(OSError):  # a lock that never comes, or a file system without
        _lock(descriptor, shared=True)
    try:
        return os.fstat(descriptor).st_size
    finally:
        _unlock(descriptor)
