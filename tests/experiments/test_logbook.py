"""Logbooks: whole lines from many processes, full disks, torn lines, and refusals in time."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from prctlmm_lab import Logbook
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments import logbook as logbook_module
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.logbook import TornLineWarning
from prctlmm_lab.experiments.record import Record, plain, to_json
from prctlmm_lab.specimen.process import Specimen
from tests.needs import needs_ordinary_user
from tests.ordinary_user import ROOT, as_ordinary_user

MOVES = Experiment("moves", change={"end_code": "end_code + page"})


@pytest.fixture
def book(tmp_path: Path) -> Logbook:
    return Logbook(tmp_path / "logbook.jsonl")


@pytest.fixture(scope="module")
def record() -> Record:
    return run(MOVES)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def problem(book: Logbook, record: Record) -> str:
    with pytest.raises(InputError) as refused:
        book.append(record)
    said = str(refused.value)
    assert said.startswith(f"{book.path}: ")
    return said.removeprefix(f"{book.path}: ")


def lines(book: Logbook) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(book.path).read_text("ascii").splitlines()]


def test_a_run_leaves_its_request_and_its_record(book: Logbook) -> None:
    first, second = book.run(MOVES), book.run(MOVES)
    schemas = [(line["schema"], line["id"]) for line in lines(book)]
    assert schemas == [
        ("prctlmm-lab/request/1", first.id),
        ("prctlmm-lab/record/1", first.id),
        ("prctlmm-lab/request/1", second.id),
        ("prctlmm-lab/record/1", second.id),
    ]
    assert list(book.records()) == [plain(first), plain(second)]
    mode = stat.S_IMODE(os.stat(book.path).st_mode)
    assert mode == 0o600, "what somebody tried is their own business"


def test_the_request_is_written_before_the_call(
    book: Logbook, specimen: Specimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> int:
        assert [line["schema"] for line in lines(book)] == ["prctlmm-lab/request/1"]
        raise KeyboardInterrupt

    monkeypatch.setattr(specimen, "set_map", interrupted)
    with pytest.raises(KeyboardInterrupt):
        book.run(MOVES, specimen=specimen)
    assert [line["schema"] for line in lines(book)] == ["prctlmm-lab/request/1"]
    assert list(book.records()) == []


# ---- many writers ------------------------------------------------------------------------------

WRITER = """
import sys
from prctlmm_lab import Experiment, Logbook
book = Logbook(sys.argv[1])
sys.stdin.read()  # all begin together
for number in range(12):
    book.run(Experiment(f"{sys.argv[2]}-{number}", title="x" * 2000, explanation="y" * 2000))
"""


def test_lines_of_several_processes_stay_whole(book: Logbook) -> None:
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
    for schema in ("prctlmm-lab/request/1", "prctlmm-lab/record/1"):
        ids = sorted(e["experiment"]["id"] for e in entries if e["schema"] == schema)
        assert ids == wanted


def test_a_lock_that_is_never_given_back_is_an_error(
    book: Logbook, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logbook_module, "LONGEST_WAIT", 0.05)
    with open(book.path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert problem(book, record) == (
            "cannot be written: another process has held it for 0.05 s"
        )
    assert Path(book.path).read_bytes() == b""
    book.append(record)


# ---- torn lines --------------------------------------------------------------------------------


def test_a_torn_line_is_reported_and_skipped(book: Logbook, record: Record) -> None:
    path = Path(book.path)
    book.append(record)
    with path.open("a") as file:
        file.write(to_json(record)[:777])
    with pytest.warns(TornLineWarning) as told:
        assert list(book.records()) == [plain(record)]
    assert [str(warning.message) for warning in told] == [f"{path}: line 2 is torn and was skipped"]
    book.append(record)
    with pytest.warns(TornLineWarning, match="line 2 is torn"):
        assert list(book.records()) == [plain(record)] * 2
    assert path.read_bytes().count(b"\n") == 3


def test_a_logbook_whose_last_line_only_lacks_its_end_loses_nothing(
    book: Logbook, record: Record
) -> None:
    path = Path(book.path)
    path.write_text(to_json(record))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(book.records()) == [plain(record)]
        book.append(record)
        assert list(book.records()) == [plain(record)] * 2


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (b"a diary\n", "line 1: 'a diary\\n' is not a JSON object"),
        (b"\n\n[1]\n", "line 3: None is not the schema of a record; expected prctlmm-lab/record/1"),
        (b"caf\xe9\n", "line 1: 'caf\\udce9\\n' is not a JSON object"),
        (b"\0\0\0\0", "line 1: '\\x00\\x00\\x00\\x00' is not a JSON object"),
    ],
)
def test_a_file_that_is_no_logbook_is_refused(
    contents: bytes, sentence: str, book: Logbook
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
        list(Logbook(path).records())
    assert str(refused.value) == sentence


# ---- no room, no right -------------------------------------------------------------------------


def test_a_full_device_is_an_error(record: Record) -> None:
    assert problem(Logbook("/dev/full"), record) == "cannot be written: No space left on device"


ALMOST_FULL = """
import os, resource, sys
from prctlmm_lab import Experiment, InputError, Logbook
book = Logbook(sys.argv[1])
record = book.run(Experiment("first"))
for room in (0, 1, 700):
    limit = os.path.getsize(book.path) + room
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        book.append(record)
    except InputError as error:
        print(error)
"""


def test_a_disk_that_fills_up_leaves_no_half_line(book: Logbook) -> None:
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
    assert [entry["experiment"]["id"] for entry in book.records()] == ["first"]


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
        Logbook(path).run(MOVES, specimen=specimen)
    assert str(refused.value) == f"{path}: cannot be written: {reason}"
    assert specimen.current_map() == before
    assert os.listdir(tmp_path) == ["file"]


def test_a_path_with_a_zero_byte_is_refused(record: Record) -> None:
    with pytest.raises(
        InputError, match=r"^a\\x00b: cannot be written: its name holds a zero byte$"
    ):
        Logbook("a\0b").append(record)


def test_an_ordinary_user_is_refused_what_is_not_theirs(tmp_path: Path, record: Record) -> None:
    needs_ordinary_user()
    theirs = tmp_path / "logbook.jsonl"
    Logbook(theirs).append(record)
    tmp_path.chmod(0o755)
    theirs.chmod(0o444)
    told = as_ordinary_user(
        "import os\n"
        "from prctlmm_lab import Experiment, InputError, Logbook\n"
        "try:\n"
        f"    Logbook({str(theirs)!r}).run(Experiment('x'))\n"
        "except InputError as error:\n"
        "    print(error)\n"
        f"print(len(list(Logbook({str(theirs)!r}).records())))\n"
        "own = os.path.join(os.environ['HOME'], 'logbook.jsonl')\n"
        "print(Logbook(own).run(Experiment('x')).summary())\n",
        reach=[tmp_path],
    )
    assert told.stderr == ""
    assert told.stdout.splitlines() == [
        f"{theirs}: cannot be written: Permission denied",
        "1",
        "x: predicted accepted, kernel accepted",
    ]
