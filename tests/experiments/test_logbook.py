"""Logbooks: whole lines from many processes, full disks, torn lines, and refusals in time."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments import logbook as logbook_module
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.logbook import LogFile, TornLineWarning, is_torn
from prctlmm_lab.experiments.record import Record, Request, interrupted, to_json
from prctlmm_lab.specimen.process import Specimen
from tests.needs import needs_ordinary_user
from tests.ordinary_user import ROOT, as_ordinary_user

MOVES = Experiment("moves", change={"end_code": "end_code + page"})


@pytest.fixture
def book(tmp_path: Path) -> LogFile:
    return LogFile(tmp_path / "logbook.jsonl")


@pytest.fixture(scope="module")
def record() -> Record:
    return run(MOVES)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def problem(book: LogFile, record: Record) -> str:
    with pytest.raises(InputError) as refused:
        book.append(record)
    said = str(refused.value)
    assert said.startswith(f"{book.path}: ")
    return said.removeprefix(f"{book.path}: ")


def lines(book: LogFile) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(book.path).read_text("ascii").splitlines()]


def test_a_run_leaves_its_request_and_its_record(book: LogFile) -> None:
    first, second = book.run(MOVES), book.run(MOVES)
    schemas = [(line["schema"], line["id"]) for line in lines(book)]
    assert schemas == [
        ("prctlmm-lab/request/2", first.id),
        ("prctlmm-lab/record/2", first.id),
        ("prctlmm-lab/request/2", second.id),
        ("prctlmm-lab/record/2", second.id),
    ]
    assert list(book.records()) == [first, second]
    mode = stat.S_IMODE(os.stat(book.path).st_mode)
    assert mode == 0o600, "what somebody tried is their own business"


def test_the_request_is_written_before_the_call(
    book: LogFile, specimen: Specimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> int:
        assert [line["schema"] for line in lines(book)] == ["prctlmm-lab/request/2"]
        raise KeyboardInterrupt

    monkeypatch.setattr(specimen, "set_map", interrupted)
    with pytest.raises(KeyboardInterrupt):
        book.run(MOVES, specimen=specimen)
    assert [line["schema"] for line in lines(book)] == [
        "prctlmm-lab/request/2", "prctlmm-lab/record/2"
    ]  # fmt: skip
    (record,) = book.records()
    assert record.outcome.interrupted
    assert record.summary() == (
        "moves: predicted accepted, kernel no answer (interrupted by KeyboardInterrupt)"
    )


def test_a_request_without_a_record_is_an_interrupted_run(book: LogFile, record: Record) -> None:
    request = Request(**{
        field.name: getattr(record, field.name)
        for field in fields(Request) if field.name not in ("schema", "id")
    }, id="0" * 32)  # fmt: skip
    book.append(request)
    book.append(record)
    first, last = book.records()
    assert first == record
    assert last == interrupted(request)
    assert (last.id, last.outcome.interrupted, last.agreement.verdict) == ("0" * 32, True, None)
    assert "interrupted" in last.summary()


# ---- many writers ------------------------------------------------------------------------------

WRITER = """
import sys
from prctlmm_lab import Experiment
from prctlmm_lab.experiments.logbook import LogFile
book = LogFile(sys.argv[1])
sys.stdin.read()  # all begin together
for number in range(12):
    book.run(Experiment(f"{sys.argv[2]}-{number}", title="x" * 2000, explanation="y" * 2000))
"""


def test_lines_of_several_processes_stay_whole(book: LogFile) -> None:
    path = Path(book.path)
    path.write_text('{"schema":"prctlmm-lab/rec')  # and a torn one is kept apart only once
    writers = [
        subprocess.Popen(
            [*python(WRITER), str(path), str(number)],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for number in range(4)
    ]
    try:
        for writer in writers:
            assert writer.stdin
            writer.stdin.close()
        assert [writer.wait(timeout=60) for writer in writers] == [0] * 4
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    torn, *whole = path.read_text("ascii").split("\n")
    assert torn == '{"schema":"prctlmm-lab/rec'
    assert whole.pop() == ""
    entries = [json.loads(line) for line in whole]
    wanted = sorted(f"{writer}-{number}" for writer in range(4) for number in range(12))
    for schema in ("prctlmm-lab/request/2", "prctlmm-lab/record/2"):
        ids = sorted(e["experiment"]["id"] for e in entries if e["schema"] == schema)
        assert ids == wanted


def test_a_lock_that_is_never_given_back_is_an_error(
    book: LogFile, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logbook_module, "LONGEST_WAIT", 0.05)
    with open(book.path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert problem(book, record) == (
            "cannot be written: another process has held it for 0.05 s"
        )
    assert Path(book.path).read_bytes() == b""
    book.append(record)


# ---- kill -9 -----------------------------------------------------------------------------------

ENDLESS = """
import sys
from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.record import Record
from dataclasses import replace
book = LogFile(sys.argv[1])
(first,) = book.records()
long = replace(first, learner="x" * 300_000)  # many pages: a write can be cut between two
for number in range(1 << 30):
    sys.stdout.write(f"{number:032x}\\n")  # what is told was on its way
    sys.stdout.flush()
    book.append(replace(long, id=f"{number:032x}"))
"""


def test_a_writer_that_is_killed_tears_its_own_last_line_at_most(
    tmp_path: Path, record: Record
) -> None:
    """Kill writers at moments of their own, and compare what they said with what is there."""
    for round_ in range(6):
        book = LogFile(tmp_path / f"{round_}.jsonl")
        book.append(record)
        told = killed(book, after=3 + 7 * round_)
        with warnings.catch_warnings(record=True) as torn:
            warnings.simplefilter("always")
            found = list(book.records())
        assert len(torn) <= 1
        assert [each.id for each in found[1:]] in (told, told[:-1])
        assert found[0] == record
        book.append(record)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert list(book.records()) == [*found, record]


def killed(book: LogFile, *, after: int) -> list[str]:
    """Start a writer, kill it once it has told of so many lines, and return all that it told."""
    writer = subprocess.Popen(
        [*python(ENDLESS), str(book.path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert writer.stdout
    with writer:
        told = [writer.stdout.readline().strip() for _ in range(after)]
        writer.kill()
        told += writer.stdout.read().split()
        writer.wait(timeout=60)
    return told


@given(st.integers(0, 1 << 15))
def test_a_file_that_ends_anywhere_keeps_every_line_before(cut: int) -> None:
    """Cut a file as kill -9 or a power failure would, at any byte, and go on with it."""
    with TemporaryDirectory() as folder:
        book = LogFile(Path(folder, "logbook.jsonl"))
        for _ in range(3):
            book.append(SAMPLE)
        data = Path(book.path).read_bytes()
        place = cut % (len(data) + 1)
        os.truncate(book.path, place)
        whole = data[:place].count(b"}\n") + data[:place].endswith(b'"answers":null}}')
        for more in (0, 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TornLineWarning)
                assert list(book.records()) == [SAMPLE] * (whole + more)
            book.append(SAMPLE)


SAMPLE = run(MOVES)


# ---- torn lines --------------------------------------------------------------------------------


def test_a_torn_line_is_reported_and_skipped(book: LogFile, record: Record) -> None:
    path = Path(book.path)
    book.append(record)
    with path.open("a") as file:
        file.write(to_json(record)[:777])
    with pytest.warns(TornLineWarning) as told:
        assert list(book.records()) == [record]
    assert [str(warning.message) for warning in told] == [f"{path}: line 2 is torn and was skipped"]
    book.append(record)
    with pytest.warns(TornLineWarning, match="line 2 is torn"):
        assert list(book.records()) == [record] * 2
    assert path.read_bytes().count(b"\n") == 3


def test_a_logbook_whose_last_line_only_lacks_its_end_loses_nothing(
    book: LogFile, record: Record
) -> None:
    path = Path(book.path)
    path.write_text(to_json(record))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(book.records()) == [record]
        book.append(record)
        assert list(book.records()) == [record] * 2


WANTED = 'expected an object with "schema": "prctlmm-lab/record/2"'


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (b"a diary\n", "line 1: 'a diary\\n' is not a JSON object"),
        (b"\n\n[1]\n", f"line 3: is no record; {WANTED}"),
        (b"{}\n", f"line 1: is no record; {WANTED}"),
        (b"caf\xe9\n", "line 1: 'caf\\\\xe9\\n' is not a JSON object"),
        (b"[" * 100_000, f"line 1: {'[' * 60!r} is not a JSON object"),
        (
            b'{"schema": "prctlmm-lab/record/3", "id": "7"}',
            "line 1: 'prctlmm-lab/record/3' is not the schema of a record; "
            "expected prctlmm-lab/record/2",
        ),
    ],
)
def test_a_file_that_is_no_logbook_is_refused(
    contents: bytes, sentence: str, book: LogFile
) -> None:
    Path(book.path).write_bytes(contents)
    with pytest.raises(InputError) as refused:
        list(book.records())
    assert str(refused.value) == f"{book.path}: {sentence}"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("none", "none: cannot be read: No such file or directory"),
        (".", ".: cannot be read: Is a directory"),
        ("a\0b", r"a\x00b: cannot be read: its name holds a zero byte"),
        ("\x1b", r"\x1b: cannot be read: No such file or directory"),
    ],
)
def test_a_logbook_that_cannot_be_read_is_named(
    path: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        list(LogFile(path).records())
    assert str(refused.value) == sentence


def test_zero_bytes_that_a_power_failure_left_are_a_torn_line(
    book: LogFile, record: Record
) -> None:
    Path(book.path).write_bytes(bytes(5000))
    book.append(record)
    with pytest.warns(TornLineWarning, match="line 1 is torn"):
        assert list(book.records()) == [record]


def test_a_line_that_was_cut_after_a_brace_is_torn(book: LogFile, record: Record) -> None:
    text = to_json(record)
    Path(book.path).write_text(text[: text.index("}") + 1] + "\n" + text + "\n")
    with pytest.warns(TornLineWarning, match="line 1 is torn"):
        assert list(book.records()) == [record]


def test_a_line_is_torn_wherever_it_was_cut() -> None:
    line = to_json(SAMPLE).encode()
    assert all(is_torn(line[:end]) for end in range(1, len(line)))
    assert not is_torn(line)
    assert not is_torn(line + b"\n")
    assert not is_torn(b"")
    assert not is_torn(b"another file's text")
    assert not is_torn(b'{"schema": "prctlmm-lab/record/2"')


# ---- a log from a stranger ---------------------------------------------------------------------


def test_a_line_longer_than_the_limit_is_refused_and_not_read(
    book: LogFile, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.append(record)
    with open(book.path, "ab") as file:
        file.write(b'{"schema":"' + b"x" * (1 << 20))
    monkeypatch.setattr(logbook_module, "LONGEST_LINE", 1 << 16)
    with pytest.raises(InputError) as refused:
        list(book.records())
    assert str(refused.value) == (
        f"{book.path}: line 2: is too long a line; expected at most 0x10000 bytes"
    )
    assert problem(book, replace(record, learner="x" * (1 << 16))).endswith(
        "bytes are too long a line; expected at most 0x10000"
    )
    assert len(Path(book.path).read_bytes().splitlines()) == 2, "nothing was added"


def test_endless_requests_are_refused(
    book: LogFile, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logbook_module, "MOST_WAITING", 3)
    line = to_json(record).replace("/record/", "/request/")
    lines_ = [line.replace(record.id, f"{number:032x}") for number in range(4)]
    Path(book.path).write_text("\n".join(lines_))
    with pytest.raises(InputError, match="more than 3 requests have no record"):
        list(book.records())


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InputError, match="cannot be read: it is no regular file"):
            list(LogFile(path).records())


def test_what_is_appended_while_a_log_is_read_is_left_for_the_next_time(
    book: LogFile, record: Record
) -> None:
    book.append(record)
    reading = book.records()
    found = [next(reading)]
    book.append(record)
    assert [*found, *reading] == [record]


# ---- no room, no right -------------------------------------------------------------------------


def test_a_full_device_is_an_error(record: Record) -> None:
    assert problem(LogFile("/dev/full"), record) == "cannot be written: No space left on device"


ALMOST_FULL = """
import os, resource, sys
from prctlmm_lab import Experiment, InputError
from prctlmm_lab.experiments.logbook import LogFile
book = LogFile(sys.argv[1])
record = book.run(Experiment("first"))
for room in (0, 1, 700):
    limit = os.path.getsize(book.path) + room
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        book.append(record)
    except InputError as error:
        print(error)
"""


def test_a_disk_that_fills_up_leaves_no_half_line(book: LogFile) -> None:
    told = subprocess.run(
        [*python(ALMOST_FULL), str(book.path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.stderr == ""
    assert told.stdout.splitlines() == [
        f"{book.path}: cannot be written: File too large",
        f"{book.path}: cannot be written: the disk took only a part",
        f"{book.path}: cannot be written: the disk took only a part",
    ]
    assert len(lines(book)) == 2
    assert Path(book.path).read_bytes().endswith(b"}\n")
    assert [record.experiment["id"] for record in book.records()] == ["first"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none/logbook", "No such file or directory"),
        (".", "Is a directory"),
        ("file/logbook", "Not a directory"),
        ("a" * 300, "File name too long"),
    ],
)
def test_a_logbook_that_cannot_be_written_is_refused_before_the_call(
    path: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, specimen: Specimen
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    before = specimen.current_map()
    with pytest.raises(InputError) as refused:
        LogFile(path).run(MOVES, specimen=specimen)
    assert str(refused.value) == f"{path}: cannot be written: {reason}"
    assert specimen.current_map() == before
    assert os.listdir(tmp_path) == ["file"]


def test_a_path_with_a_zero_byte_is_refused(record: Record) -> None:
    with pytest.raises(
        InputError, match=r"^a\\x00b: cannot be written: its name holds a zero byte$"
    ):
        LogFile("a\0b").append(record)


def test_an_ordinary_user_is_refused_what_is_not_theirs(tmp_path: Path, record: Record) -> None:
    needs_ordinary_user()
    theirs = tmp_path / "logbook.jsonl"
    LogFile(theirs).append(record)
    tmp_path.chmod(0o755)
    theirs.chmod(0o444)
    told = as_ordinary_user(
        "import os\n"
        "from prctlmm_lab import Experiment, InputError\n"
        "from prctlmm_lab.experiments.logbook import LogFile\n"
        "try:\n"
        f"    LogFile({str(theirs)!r}).run(Experiment('x'))\n"
        "except InputError as error:\n"
        "    print(error)\n"
        f"print(len(list(LogFile({str(theirs)!r}).records())))\n"
        "own = os.path.join(os.environ['HOME'], 'logbook.jsonl')\n"
        "print(LogFile(own).run(Experiment('x')).summary())\n",
        reach=[tmp_path],
    )
    assert told.stderr == ""
    assert told.stdout.splitlines() == [
        f"{theirs}: cannot be written: Permission denied",
        "1",
        "x: predicted accepted, kernel accepted",
    ]
