"""The recording that ships: like the kernel in every answer, strict in form, silent on the machine.

The kernel that is asked here is another source than the file: a stale recording fails.
"""

from __future__ import annotations

import base64
import gzip
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.errors import InputError, SystemCallError
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.specimen.recording import mode, store
from prctlmm_lab.specimen.recording.recorded import RecordedSpecimen
from prctlmm_lab.specimen.recording.state import NotRecorded
from tests.needs import needs_ordinary_user
from tests.ordinary_user import as_ordinary_user

ROOT = Path(__file__).resolve().parents[2]
(SHIPPED,) = (ROOT / "data" / "recorded").glob("*.jsonl.gz")
LARGEST = 3 << 19


@pytest.fixture
def recorded(build: str) -> Iterator[RecordedSpecimen]:
    specimen = RecordedSpecimen(build)
    yield specimen
    specimen.stop()


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(SHIPPED.read_bytes()).splitlines()]


# ---- like the kernel ----------------------------------------------------------------------------


def test_a_recording_made_now_is_the_same() -> None:
    """Run again all that was recorded: every answer, and every byte of /proc and memory."""
    needs_ordinary_user()
    if platform.release().partition("-")[0] != store.shipped().kernel:
        pytest.skip(f"{store.shipped().origin}, and this is another kernel")
    command = [sys.executable, "-m", "tests.record", "--check"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (made.returncode, made.stdout) == (0, ""), made.stdout + made.stderr[-2000:]


FALLBACK = ROOT / "tests" / "specimen" / "predicted_and_live.py"


def test_what_was_not_recorded_is_as_a_real_specimen_has_it() -> None:
    """Compare random maps and plain calls, one after the other: the answer, and all of /proc."""
    needs_ordinary_user()
    done = as_ordinary_user([sys.executable, FALLBACK, "60"], timeout=120)
    told = json.loads(done.stdout or "{}")
    assert told.get("different") == [], done.stderr[-2000:]
    assert told["maps"] > 400
    assert told["accepted"] > 150
    assert told["calls"] > 150


def test_reading_and_writing(recorded: RecordedSpecimen) -> None:
    arena = recorded.map(3 * 4096)
    recorded.write(arena + 4090, b"over the border")
    assert recorded.read(arena + 4088, 18) == b"\0\0over the border\0"
    assert not recorded.can_read(arena + 3 * 4096 - 4, 1 << 16)
    with pytest.raises(SystemCallError, match="EFAULT"):
        recorded.read(1, 1)
    recorded.unmap(arena, 4096)
    with pytest.raises(SystemCallError, match="EFAULT"):
        recorded.write(arena, b"x")


def test_an_answer_says_where_it_comes_from(recorded: RecordedSpecimen) -> None:
    own = recorded.current_map()
    assert recorded.origin == recorded.snapshot().origin == store.shipped().origin
    assert recorded.set_map(own.changed(end_code=own.end_code - 3)) == 0
    assert recorded.origin == recorded.snapshot().origin == recorded.weakest == "predicted"


def test_after_its_end_it_answers_nothing(recorded: RecordedSpecimen) -> None:
    recorded.stop()
    assert not recorded.alive
    with pytest.raises(Exception, match=r"is gone at stop\(\), before snapshot\(\)"):
        recorded.snapshot()


def test_what_cannot_be_told_raises_one_sentence(recorded: RecordedSpecimen) -> None:
    for ask in (
        lambda: recorded.become(1),
        lambda: recorded.map(1 << 22),
        lambda: recorded.place(b"x"),
        lambda: RecordedSpecimen(arguments=[b"never started"]),
    ):
        with pytest.raises(NotRecorded, match=r"On Linux the real call is made\.$"):
            ask()
    code = recorded.current_map().start_code
    with pytest.raises(NotRecorded, match="without its own memory"):
        recorded.unmap(code // 4096 * 4096, 4096)


# ---- when ---------------------------------------------------------------------------------------

SCRIPT = """
from prctlmm_lab import Specimen
with Specimen() as specimen:
    print(specimen.origin)
"""


@pytest.mark.parametrize(("value", "origin"), [("1", "recorded on Linux"), ("", "live")])
def test_a_script_gets_a_recording_only_if_it_asks(
    value: str, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mode.VARIABLE, value)
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.startswith(origin), ran.stderr


def test_the_command_line_never_takes_a_recording_for_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(mode.VARIABLE, "1")
    command = [sys.executable, "-m", "prctlmm_lab", "doctor", "--json"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert json.loads(ran.stdout)["facts"]["release"] == platform.release()


# ---- the file -----------------------------------------------------------------------------------


def test_it_is_small() -> None:
    assert SHIPPED.stat().st_size < LARGEST


def test_it_tells_nothing_of_the_machine_or_of_who_made_it() -> None:
    whole = b"\n".join(
        base64.b64decode(line["base64"]) if "base64" in line else json.dumps(line).encode()
        for line in lines()
    )
    whole = whole.replace(b"HOME=/somewhere/else\0USER=nobody", b"")  # of a recipe
    foreign = rb"/home/|/root\b|/opt/|/Users/|site-packages|USER=|HOME=|PATH=|HOSTNAME="
    assert not re.search(foreign, whole)
    for own in (ROOT, sys.prefix, Path.home()):
        assert str(own) == "/" or f"{own}/".encode() not in whole
    builder = platform.release().partition("-")[2]
    assert not builder or builder.encode() not in whole
    assert not re.search(rb"\b%b\b" % re.escape(platform.node()).encode(), whole)
    kept = set(re.findall(rb"/[a-z][\w./:+-]*", b"\n".join(_maps())))
    neutral = (b"/usr/bin/", b"/usr/lib/", b"/memfd:", b"/dev/zero", b"/tmp/")
    assert [path for path in kept if not path.startswith(neutral)] == []


def _maps() -> Iterator[bytes]:
    recording = store.shipped()
    for line in recording.states.values():
        if isinstance(line["files"]["maps"], int):
            yield recording.contents[line["files"]["maps"]]


def changed(line: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**line, **values}


def first(kind: str, given: list[dict[str, Any]]) -> int:
    return next(number for number, line in enumerate(given) if kind in line)


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        pytest.param("schema", {"schema": "recorded/9"}, "schema is another", id="schema"),
        pytest.param("schema", {"kernel": 6}, "must be text", id="kernel"),
        pytest.param("schema", {"most_at_once": True}, "True is no whole number", id="number"),
        pytest.param("edge", {"to": 10**9}, "state 1000000000, which is not there", id="to"),
        pytest.param("edge", {"do": 7}, "line 3|line \\d+", id="do"),
        pytest.param("state", {"files": {}}, "the files are others", id="files"),
        pytest.param("state", {"pages": {"0x1000": 10**9}}, "content 1000000000 is not", id="page"),
        pytest.param("content", {"base64": "?"}, "line", id="base64"),
        pytest.param("facts", {"facts": {"release": "1"}}, "line", id="facts"),
    ],
)  # fmt: skip
def test_a_damaged_recording_is_refused_in_one_sentence(
    kind: str, values: dict[str, Any], told: str, tmp_path: Path
) -> None:
    given = lines()
    number = first(kind, given)
    given[number] = changed(given[number], **values)
    if "base64" in values:
        given[number].pop("text", None)
    path = tmp_path / "damaged.jsonl.gz"
    store.write(path, given)
    with pytest.raises(InputError, match=told) as caught:
        store.read(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_recording_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    texts = b"", b"[]", b'{"schema": 1}', b"\xff"
    for data in (b"", b"not gzip", SHIPPED.read_bytes()[:-100], *map(gzip.compress, texts)):
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            store.read(path)
        assert "\n" not in str(caught.value)


def test_written_and_read_again_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "again.jsonl.gz"
    store.write(path, lines())
    assert path.read_bytes() == SHIPPED.read_bytes()
    assert store.read(path).edges == store.shipped().edges


def test_an_identity_map_is_recorded_as_accepted(recorded: RecordedSpecimen) -> None:
    own = recorded.current_map()
    assert isinstance(own, PrctlMmMap)
    assert recorded.set_map(own) == 0
    assert recorded.current_map() == own
