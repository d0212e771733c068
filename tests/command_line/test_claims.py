"""`prctlmm-lab claims`: a table for people, JSON lines for programs, an exit status for both."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.cli import main
from prctlmm_lab.experiments import claims
from prctlmm_lab.experiments.claims import CLAIM, CLAIMS
from prctlmm_lab.experiments.claims.claim import History
from prctlmm_lab.experiments.logbook import LogFile
from tests.command_line.command import COMMAND, assert_readable, environment, prctlmm_lab
from tests.command_line.test_fuzz import on_a_terminal, seen_until
from tests.conftest import children
from tests.needs import needs_ordinary_user
from tests.ordinary_user import ROOT, as_ordinary_user

ROW = re.compile(r"([ \d]\d)  ([a-z_]+\.[a-z_]+) +(holds|does not hold|cannot be shown) +(.+)")


def told(text: str) -> dict[str, dict[str, Any]]:
    """Return the lines of --json, by claim."""
    return {entry["id"]: entry for entry in map(json.loads, text.splitlines())}


def rows(text: str) -> dict[str, dict[str, Any]]:
    """Read the table: claim -> number, verdict, when, and the lines below as one."""
    found: dict[str, dict[str, Any]] = {}
    for line in text.partition("\n\n")[0].splitlines():
        if row := ROW.fullmatch(line):
            number, name, verdict, when = row.groups()
            found[name] = {"number": int(number), "verdict": verdict, "when": when, "below": ""}
        else:
            below = found[[*found][-1]]
            below["below"] = f"{below['below']} {line.strip()}".strip()
    return found


def without_numbers(text: str) -> str:
    """Return a text with every number the same: addresses and counts differ from run to run."""
    return re.sub(r"0x[0-9a-f]+|\d+", "N", text)


# ---- what it says ------------------------------------------------------------------------------


def test_all_claims_are_settled_in_time_and_nothing_is_news() -> None:
    started = time.monotonic()
    ran = prctlmm_lab("claims")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert time.monotonic() - started < 20
    assert_readable(ran.stdout)
    table = rows(ran.stdout)
    assert [row["number"] for row in table.values()] == [claim.number for claim in CLAIMS]
    assert [*table] == [claim.id for claim in CLAIMS]
    for name, row in table.items():
        assert row["when"] == CLAIM[name].history.when
        assert row["below"].startswith(f"{CLAIM[name].statement} ")
    counts = [
        sum(row["verdict"] == verdict for row in table.values())
        for verdict in ("holds", "does not hold", "cannot be shown")
    ]
    summary = " ".join(ran.stdout.partition("\n\n")[2].split())
    assert summary == (
        f"{len(CLAIMS)} claims on Linux {platform.release()} {platform.machine()}, "
        f"uid {os.geteuid()}: {counts[0]} hold, {counts[1]} do not, {counts[2]} cannot be shown; "
        "none otherwise than we say"
    )


def test_table_and_json_tell_the_same() -> None:
    names = ("limit", "order", "heap.above_data", "47", "exe")
    text, lines = prctlmm_lab("claims", *names), prctlmm_lab("claims", "--json", *names)
    assert (lines.returncode, lines.stderr) == (text.returncode, text.stderr) == (0, "")
    table, entries = rows(text.stdout), told(lines.stdout)
    assert [*table] == [*entries]
    for name, entry in entries.items():
        row = table[name]
        assert (row["number"], row["verdict"]) == (entry["number"], entry["verdict"])
        below = without_numbers(row["below"])
        for part in (entry["statement"], entry["evidence"], entry["history"]["note"]):
            assert without_numbers(part) in below
        assert all(commit in row["below"] for commit in entry["history"]["commits"])


def test_json_has_everything_of_a_claim() -> None:
    entry = told(prctlmm_lab("claims", "--json", "15").stdout)["heap.above_data"]
    assert entry["place"] == {"id": "4", "what": "start_brk and brk lie above end_data"}
    history = entry["history"]
    assert (history["since"], history["until"]) == ("v3.18", "v5.15")
    assert history["commits"][-1] == "e1fbbd073137"
    assert history["stable"]["5.10"] == "v5.10.69"
    assert set(history["known"]) == {"source", "mail"}
    assert entry["verdict"] in ("holds", "does not hold")
    assert entry["expected"] in (entry["verdict"], "")
    assert entry["contradicts"] is False
    assert "end_data = 0x" in entry["evidence"]
    assert (entry["kernel"], entry["uid"]) == (platform.release(), os.geteuid())
    assert len(entry["record_ids"]) == 1
    assert entry["records"] == [], "only what is news is told in full"


def test_what_cannot_be_shown_is_documented(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unshown = replace(CLAIM["old.gone"], documented="in a book, on page 0x7")
    monkeypatch.setattr(claims, "CLAIMS", (unshown,))
    assert main(["claims"]) == 0
    row = rows(capsys.readouterr().out)["old.gone"]
    shown = row["verdict"] != "cannot be shown"
    assert shown or row["below"].endswith("documented: in a book, on page 0x7")


# ---- news --------------------------------------------------------------------------------------


def test_a_kernel_that_contradicts_us_is_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = replace(CLAIM["limit.data"], history=History(since=None))
    monkeypatch.setattr(claims, "CLAIMS", (wrong, CLAIM["limit.stack"]))
    assert main(["claims"]) == 1
    said = capsys.readouterr()
    assert "OTHERWISE THAN WE SAY: does not hold is expected" in said.out
    assert "1 otherwise than we say" in " ".join(said.out.split())
    assert_readable(said.out)
    assert said.err.startswith(
        f"prctlmm-lab: Linux {platform.release()} settles limit.data otherwise than we say: "
    )
    assert "prctlmm-lab claims --json limit.data" in said.err
    assert said.err.count("\n") == 1
    assert main(["claims", "--json"]) == 1
    said = capsys.readouterr()
    entries = told(said.out)
    assert [entry["contradicts"] for entry in entries.values()] == [True, False]
    news = entries["limit.data"]
    assert (news["verdict"], news["expected"]) == ("holds", "does not hold")
    assert "is news" in said.err
    # What is to be sent has whole records, which can be replayed.
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f"{json.dumps(record)}\n" for record in news["records"]))
    assert [record.id for record in LogFile(log).records()] == news["record_ids"]


# ---- mistakes, and how it ends -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"), [("heap.above_dta", "heap.above_data?"), ("99", "one of privilege, ")]
)
def test_an_unknown_claim_is_one_sentence(name: str, expected: str) -> None:
    ran = prctlmm_lab("claims", "limit", name)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(
        f"prctlmm-lab: claims: '{name}' is neither a claim, nor the beginning or number of one; "
        f"expected {expected}"
    )
    assert ran.stderr.count("\n") == 1


def test_progress_is_seen_on_a_terminal_and_ctrl_c_leaves_nothing_behind() -> None:
    with on_a_terminal("claims") as (process, terminal):
        seen = seen_until(terminal, "5 of ")
        assert f"1 of {len(CLAIMS)} settled, {CLAIMS[1].id}" in seen
        specimens = {int(name.split()[-2]) for name in children(process.pid)}
        os.kill(process.pid, signal.SIGINT)
        rest = seen_until(terminal, "interrupted")
        assert process.stdout
        output = process.stdout.read()
        assert process.wait(timeout=60) == 130
    assert "Traceback" not in rest
    assert [*rows(output)] == [claim.id for claim in CLAIMS[: len(rows(output))]]
    assert not any(Path(f"/proc/{pid}").exists() for pid in specimens)


def test_it_runs_on_a_bare_python() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from prctlmm_lab.cli import main\n"
        "status = main(['claims', 'order', 'exe', '--json'])\n"
        "heavy = {'numpy', 'pydantic', 'pandas', 'tqdm'} & {*sys.modules}\n"
        "sys.exit(status or bool(heavy))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=60,
        env=environment(),
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {"order.code", "exe.once"} < {*told(ran.stdout)}


def test_an_ordinary_user_settles_them_too() -> None:
    needs_ordinary_user()
    ran = as_ordinary_user([*COMMAND, "claims", "--json"])
    assert (ran.returncode, ran.stderr) == (0, "")
    entries = told(ran.stdout)
    assert [*entries] == [claim.id for claim in CLAIMS]
    assert {entry["uid"] for entry in entries.values()} == {65534}
    mine = told(prctlmm_lab("claims", "--json", "order", "limit", "auxv.size", "areas").stdout)
    assert {name: entries[name]["verdict"] for name in mine} == {
        name: entry["verdict"] for name, entry in mine.items()
    }
