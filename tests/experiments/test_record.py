"""Records as lines of JSON: nothing lost, nothing told that is nobody's business."""

from __future__ import annotations

import errno
import hashlib
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
    RECORD_SCHEMA,
    REQUEST_SCHEMA,
    Record,
    Request,
    View,
    bytes_text,
    from_in_text_form,
    from_text_form,
    plain,
    recorded_bytes,
    text_bytes,
    text_form,
    to_json,
    view,
)
from prctlmm_lab.experiments.schema import check_line
from prctlmm_lab.experiments.steps import Brk, Map, Write
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from tests.ordinary_user import ROOT

PARTS: dict[str, Any] = {
    name: Unreadable(name, errno.EACCES)
    for name in ("stat", "statm", "status", "maps", "auxv", "cmdline", "environ", "exe", "limits")
}
"""Of a process that nothing can be read of."""

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
    for line, schema in ((record, RECORD_SCHEMA), (requests[0], REQUEST_SCHEMA)):
        text = to_json(line)
        assert text.isascii()
        assert text.isprintable(), "no control character, and no line break"
        assert "\\ud" not in text, "no half of a character, which most readers refuse"
        assert check_line(text.encode(), schema, "") == line
        assert json.loads(text) == plain(line)
        assert list(json.loads(text)) == [field.name for field in fields(line)]
    assert set(json.loads(to_json(record))) - set(json.loads(to_json(requests[0]))) == {
        "outcome", "after", "difference", "answers", "later", "agreement"
    }  # fmt: skip
    assert record.lab == __version__


def test_a_line_holds_the_experiment_so_that_it_can_be_run_again() -> None:
    record = run(EXPERIMENT)
    again = experiment_from(from_in_text_form(json.loads(to_json(record))["experiment"]))
    assert again == EXPERIMENT
    second = run(again)
    assert (second.outcome, second.prediction.verdict) == (record.outcome, "accepted")
    assert second.view_after
    assert record.view_after
    assert second.view_after.environ == record.view_after.environ


def test_bytes_that_are_not_utf8_survive() -> None:
    with EXPERIMENT.specimen.start() as specimen:
        record = json.loads(to_json(run(EXPERIMENT, specimen=specimen)))
        told = record["before"] | record["after"]
        for name in ("cmdline", "environ"):
            shown = Path(f"/proc/{specimen.pid}/{name}").read_bytes()
            assert recorded_bytes(told[name]) == shown
    assert shown == b"\xc3\x28\0\xe5\x86\x99\xed\xa0\x80"


@given(st.binary())
def test_text_stands_for_its_bytes(data: bytes) -> None:
    text = bytes_text(data)
    assert recorded_bytes(text.encode("utf-8").decode()) == data


@given(st.text(st.characters(exclude_categories=())))
def test_every_text_comes_back(text: str) -> None:
    form = text_form(text)
    assert from_text_form(form) == text
    assert form.encode("utf-8").decode() == form, "no lone surrogate"


def test_what_is_too_long_is_told_by_its_checksum() -> None:
    data = bytes(range(256)) * 257
    told = view(Snapshot(1, **PARTS | {"cmdline": data}), {}).cmdline
    checksum = hashlib.sha256(data).hexdigest()
    assert told == f"not kept (0x10100 bytes, SHA-256 {checksum})"


def test_a_part_that_is_as_before_is_left_out_and_comes_back() -> None:
    before = View(cmdline="a", environ="b", brk="0x1", regions={})
    after = View(cmdline="a", environ="c", brk="0x1", regions={})
    told = after.since(before)
    assert plain(told) == {"environ": "c"}
    assert told.on(before) == after


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


# ---- parts -------------------------------------------------------------------------------------


def test_a_part_that_cannot_be_read_says_so() -> None:
    seen = plain(view(Snapshot(1, **PARTS), {}))
    assert seen.pop("regions") == {}
    assert "brk" not in seen
    assert set(seen.values()) == {"not readable (EACCES)"}


def test_a_summary_is_one_line() -> None:
    record: Record = run(Experiment("x", change={"end_code": "start_code"}))
    assert record.summary() == "x: predicted EINVAL by order.code, kernel EINVAL"
