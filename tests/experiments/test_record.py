"""Records as lines of JSON: nothing lost, nothing told that is nobody's business."""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prctlmm_lab import __version__
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Experiment, Subject, run
from prctlmm_lab.experiments.recipe import experiment_from, shipped_recipes
from prctlmm_lab.experiments.record import (
    Record,
    Request,
    bytes_text,
    is_torn,
    parse_line,
    plain,
    text_bytes,
    to_json,
    view,
)
from prctlmm_lab.experiments.steps import Brk, Map, Write
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from tests.ordinary_user import ROOT

EXPERIMENT = Experiment(
    "naïve",
    title="写",
    specimen=Subject(arguments=("a\udcff", "\x1b[31m")),
    setup=(Map("arena"), Write("arena.start", hex="c3 28 00 e5 86 99 ed a0 80")),
    change={"env_start": "arena.start", "env_end": "arena.start + 9"},
    after=(Brk("brk + page"),),
    predict="accepted",
)


def test_a_record_is_one_line_of_ascii_that_reads_back_the_same() -> None:
    requests: list[Request] = []
    record = run(EXPERIMENT, on_request=requests.append)
    for line in (record, requests[0]):
        text = to_json(line)
        assert text.isascii()
        assert text.isprintable(), "no control character, and no line break"
        assert parse_line(text, "") == plain(line)
        assert list(json.loads(text)) == [field.name for field in fields(line)]
    assert set(json.loads(to_json(record))) - set(json.loads(to_json(requests[0]))) == {
        "outcome", "after", "difference", "answers", "later", "agreement"
    }  # fmt: skip
    assert record.lab == __version__


def test_a_line_holds_the_experiment_so_that_it_can_be_run_again() -> None:
    record = run(EXPERIMENT)
    again = experiment_from(parse_line(to_json(record), "")["experiment"])
    assert again == EXPERIMENT
    second = run(again)
    assert (second.outcome, second.prediction.verdict) == (record.outcome, "accepted")
    assert second.after
    assert record.after
    assert second.after.environ == record.after.environ


def test_bytes_that_are_not_utf8_survive() -> None:
    with EXPERIMENT.specimen.start() as specimen:
        record = parse_line(to_json(run(EXPERIMENT, specimen=specimen)), "")
        for name in ("cmdline", "environ"):
            shown = Path(f"/proc/{specimen.pid}/{name}").read_bytes()
            assert text_bytes(record["after"][name], "") == shown
    assert shown == b"\xc3\x28\0\xe5\x86\x99\xed\xa0\x80"


@given(st.binary())
def test_text_stands_for_its_bytes(data: bytes) -> None:
    text = bytes_text(data)
    assert text_bytes(json.loads(json.dumps(text)), "") == data


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_half_a_character_stands_for_no_byte(text: str) -> None:
    with pytest.raises(InputError, match=r"^here: U\+D[8F].. is half of a character"):
        text_bytes(text, "here")


# ---- what a record does not tell ---------------------------------------------------------------

TOLD = """
from prctlmm_lab.experiments.experiment import run
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.record import to_json
for recipe in shipped_recipes().values():
    for experiment in recipe.experiments:
        run(experiment, on_request=lambda request: print(to_json(request)))
        print(to_json(run(experiment)))
"""


def test_a_record_tells_no_host_user_folder_or_environment(tmp_path: Path) -> None:
    own = {"HOME": "/home/ada-lovelace", "USER": "ada-lovelace", "LOGNAME": "ada-lovelace",
           "HOSTNAME": "analytical-engine", "TOKEN": "s3cr3t-in-the-environment",
           "TMPDIR": str(tmp_path)}  # fmt: skip
    told = subprocess.run(
        [sys.executable, "-c", TOLD],
        cwd=tmp_path,
        env={**os.environ, **own, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert len(told.splitlines()) > 60
    secrets = {*own.values(), socket.gethostname(), os.uname().nodename, str(Path.home()),
               str(tmp_path), str(ROOT), sys.prefix, pwd.getpwuid(os.getuid()).pw_name}  # fmt: skip
    recipes = "".join(map(str, shipped_recipes().values()))  # one of them moves USER=nobody
    secrets = {secret for secret in secrets if secret not in recipes}
    ours = {f"{name}={value}" for name, value in os.environ.items() if value}
    for secret in secrets | ours:
        assert not re.search(rf"(?<![\w.]){re.escape(secret)}(?!\w)", told), secret
    for place in re.findall(r'"environ":"(.*?)"', told):
        assert "PATH=" not in place


# ---- reading lines -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "log: line 3: '' is not a JSON object"),
        ("{", "log: line 3: '{' is not a JSON object"),
        ("not json \x1b", r"log: line 3: 'not json \x1b' is not a JSON object"),
        ("[" * 100_000, f"log: line 3: '{'[' * 60}' is not a JSON object"),
        (
            "[]",
            "log: line 3: None is not the schema of a record; expected prctlmm-lab/record/1",
        ),
        (
            '{"schema": "prctlmm-lab/record/2"}',
            "log: line 3: 'prctlmm-lab/record/2' is not the schema of a record; "
            "expected prctlmm-lab/record/1",
        ),
        (
            '{"schema": ["\\u001b"]}',
            r"log: line 3: ['\x1b'] is not the schema of a record; expected prctlmm-lab/record/1",
        ),
    ],
)
def test_a_line_that_is_no_record_is_refused(line: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_line(line, "log: line 3")
    assert str(refused.value) == sentence


def test_a_line_is_torn_wherever_it_was_cut() -> None:
    line = to_json(run(Experiment("x")))
    assert all(is_torn(line[:end]) for end in range(1, len(line)))
    assert not is_torn(line)
    assert not is_torn(line + "\n")
    assert not is_torn("")
    assert not is_torn("another file's text")
    assert not is_torn('{"schema": "prctlmm-lab/record/1"')


def test_a_part_that_cannot_be_read_says_so() -> None:
    parts = [field.name for field in fields(Snapshot) if field.name not in ("pid", "smaps", "brk")]
    unreadable: dict[str, Any] = {name: Unreadable(name, errno.EACCES) for name in parts}
    closed = Snapshot(1, **unreadable)
    seen = plain(view(closed, {}))
    assert seen.pop("brk") is None
    assert seen.pop("regions") == {}
    assert set(seen.values()) == {"not readable (EACCES)"}


def test_a_summary_is_one_line() -> None:
    record: Record = run(Experiment("x", change={"end_code": "start_code"}))
    assert record.summary() == "x: predicted EINVAL by order.code, kernel EINVAL"
