"""prctlmm-lab replay, compare and schema: what they print, and how they end."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.record import to_json
from prctlmm_lab.experiments.replay import replay
from prctlmm_lab.experiments.side_by_side import compare
from tests.command_line.command import assert_readable, prctlmm_lab
from tests.ordinary_user import ROOT

LOGBOOKS = ROOT / "data" / "logbooks"
OLD, NEW = LOGBOOKS / "linux-5.10.262.jsonl", LOGBOOKS / "linux-7.3.4.jsonl"
MOVES = run(Experiment("moves", title="Moves", change={"end_code": "end_code + page"}))
ODD = replace(MOVES, id="0" * 32, outcome=replace(MOVES.outcome, verdict="EPERM", errno=1))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    LogFile(tmp_path / "log.jsonl").append(MOVES)
    return tmp_path / "log.jsonl"


# ---- replay ----------------------------------------------------------------------------------


def test_a_log_of_here_is_the_same_here(log: Path, tmp_path: Path) -> None:
    told = prctlmm_lab("replay", log, "--log", tmp_path / "new.jsonl")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == "same     moves: accepted\n1 records: 1 the same\n"
    assert len(list(LogFile(tmp_path / "new.jsonl").records())) == 1


def test_a_difference_ends_with_status_1(log: Path) -> None:
    LogFile(log).append(ODD)
    told = prctlmm_lab("replay", log)
    assert (told.returncode, told.stderr) == (1, "")
    assert "differs  moves\n  verdict: EPERM -> accepted\n  unexplained\n" in told.stdout


def test_what_cannot_be_shown_alone_ends_with_status_2(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    table = {**MOVES.experiment, "setup": [{"reboot": True}]}
    LogFile(path).append(replace(MOVES, experiment=table))
    told = prctlmm_lab("replay", path)
    assert (told.returncode, told.stderr) == (2, "")
    assert told.stdout.startswith("cannot   moves: experiment \"moves\": setup[0]: 'reboot'")


def test_json_is_what_the_api_says() -> None:
    told = prctlmm_lab("replay", OLD, "--json")
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    ours = list(replay(LogFile(OLD).records()))
    assert [(line["id"], line["result"], line["here"]) for line in lines] == [
        (each.id, each.result, each.here) for each in ours
    ]
    assert [line["cause"] and line["cause"]["source"] for line in lines] == [
        each.cause and each.cause.source for each in ours
    ]


def test_one_experiment_can_be_chosen() -> None:
    told = prctlmm_lab("replay", OLD, "--only", "heap-up")
    assert told.stdout == "same     heap-up: accepted\n1 records: 1 the same\n"
    none = prctlmm_lab("replay", OLD, "--only", "heap-sideways")
    assert (none.returncode, none.stdout) == (2, "")
    assert none.stderr == f"prctlmm-lab: {OLD}: holds no experiment 'heap-sideways'\n"


def test_torn_lines_are_said_and_the_rest_is_replayed(log: Path) -> None:
    with log.open("a") as file:
        file.write(to_json(MOVES)[:500])
    told = prctlmm_lab("replay", log)
    assert told.returncode == 0
    assert told.stderr == f"prctlmm-lab: {log}: line 2 is torn and was skipped\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "holds no record"), ("a diary\n", "line 1: 'a diary\\n' is not a JSON object")],
)
@pytest.mark.parametrize("command", ["replay", "compare"])
def test_bad_logs_are_refused_in_one_sentence(
    command: str, text: str, sentence: str, tmp_path: Path, log: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    told = prctlmm_lab(command, path, *([log] if command == "compare" else []))
    if command == "compare" and not text:
        assert (told.returncode, told.stderr) == (0, "")
    else:
        assert (told.returncode, told.stdout) == (2, "")
        assert told.stderr == f"prctlmm-lab: {path}: {sentence}\n"


# ---- compare ---------------------------------------------------------------------------------


def test_two_kernels_are_compared_with_causes() -> None:
    told = prctlmm_lab("compare", OLD, NEW)
    assert (told.returncode, told.stderr) == (1, "")
    assert_readable(told.stdout)
    assert "A  linux-5.10.262: Linux 5.10.0" in told.stdout
    assert "heap-touches: An empty heap that touches other memory\n  A  accepted\n" in told.stdout
    assert "(d3bb89ea9c13,\n" in told.stdout or "d3bb89ea9c13, v6.7" in told.stdout
    assert "unexplained" not in told.stdout


def test_json_of_a_comparison_is_what_the_api_says() -> None:
    told = json.loads(prctlmm_lab("compare", OLD, NEW, "--json").stdout)
    ours = compare({path.stem: LogFile(path).records() for path in (OLD, NEW)})
    assert told["kernels"] == ours.kernels
    assert [row["experiment"] for row in told["rows"]] == [row.experiment for row in ours.rows]
    assert [row["cells"]["linux-7.3.4"]["verdict"] for row in told["rows"]] == [
        row.cells["linux-7.3.4"].verdict for row in ours.rows
    ]


def test_a_log_and_its_copy_do_not_differ(log: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    shutil.copy(log, tmp_path / "copy" / "log.jsonl")
    told = prctlmm_lab("compare", log, tmp_path / "copy" / "log.jsonl")
    assert (told.returncode, told.stderr) == (0, "")
    assert "1 recipes, 0 differ" in told.stdout
    assert "copy/log: Linux" in told.stdout, "as much of the folder as tells the two apart"
    whole = prctlmm_lab("compare", "--all", log, tmp_path / "copy" / "log.jsonl").stdout
    assert "moves: Moves\n  A B  accepted\n" in whole


@pytest.mark.parametrize(
    ("logs", "sentence"),
    [((OLD,), "is one log alone; expected two or more"), ((OLD, OLD), "is named twice")],
)
def test_a_comparison_needs_two_logs(logs: tuple[Path, ...], sentence: str) -> None:
    told = prctlmm_lab("compare", *logs)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.endswith(f"{sentence}\n")


# ---- schema ----------------------------------------------------------------------------------


def test_the_schema_that_is_printed_holds_for_what_run_prints() -> None:
    schema = json.loads(prctlmm_lab("schema").stdout)
    validator = jsonschema.Draft202012Validator(schema)
    told = prctlmm_lab("run", "--json", ROOT / "data" / "recipes" / "heap.toml").stdout
    lines = [json.loads(line) for line in told.splitlines()]
    assert lines
    assert [error for line in lines for error in validator.iter_errors(line)] == []
    assert list(validator.iter_errors({**lines[0], "id": "x"}))
