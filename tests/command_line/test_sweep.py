"""`prctlmm-lab sweep`: the text twin, JSON, pictures, tables, and its exit status."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from prctlmm_lab import sweep
from prctlmm_lab.cli import main
from prctlmm_lab.experiments.experiment import Subject
from prctlmm_lab.experiments.recipe import read_recipe
from prctlmm_lab.kernel import rules
from prctlmm_lab.kernel.rules import RULES
from tests.command_line.command import HEAD, RECIPES, assert_readable, prctlmm_lab
from tests.needs import needs_ordinary_user, needs_user_namespaces
from tests.ordinary_user import ROOT, as_ordinary_user

SWEEPS = RECIPES / "sweeps.toml"
SHIPPED = {wanted.id: wanted for wanted in read_recipe(SWEEPS).sweeps}
SMALL = (
    '[[sweep]]\nid = "small"\nx = { member = "brk", from = "start_brk - 2", to = "start_brk" }\n'
)


def told(
    capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0
) -> tuple[str, str]:
    assert main(["sweep", *map(str, arguments)]) == status
    said = capsys.readouterr()
    return said.out, said.err


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(HEAD + text, "utf-8")
    return path


def test_each_shipped_sweep_is_told_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    needs_user_namespaces()
    said, errors = told(capsys, SWEEPS)
    assert errors == ""
    assert_readable(said)
    heads = [line for line in said.splitlines() if line and not line.startswith(" ")]
    assert heads == [f"{name}: {wanted.title}" for name, wanted in SHIPPED.items()]
    assert said.count(", no disagreement\n") == len(SHIPPED)


def test_text_and_json_say_what_the_api_says(capsys: pytest.CaptureFixture[str]) -> None:
    """The one whose addresses are the kernel's bounds, which are the same in every specimen."""
    result = sweep(SHIPPED["heap"])
    assert told(capsys, SWEEPS, "--only", "heap") == (f"{result.text()}\n", "")
    said, _ = told(capsys, SWEEPS, "--only", "heap", "--json")
    assert json.loads(said) == result.data()


def test_json_is_one_object_a_line_and_nothing_else() -> None:
    needs_user_namespaces()
    ran = prctlmm_lab("sweep", "--json", SWEEPS)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["id"] for line in lines] == list(SHIPPED)
    for line in lines:
        wanted = SHIPPED[line["id"]]
        assert [axis["member"] for axis in line["axes"].values()] == [a.member for a in wanted.axes]
        assert sum(line["rules"].values()) == sum(line["verdicts"].values()) == line["calls"]
        assert line["disagreements"] == 0


def test_a_disagreement_is_told_and_is_the_exit_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without = tuple(rule for rule in RULES if rule.id != "limit.data")
    monkeypatch.setattr(rules, "RULES", without)
    said, _ = told(capsys, SWEEPS, "--only", "heap", status=1)
    assert "  DISAGREES start_brk = 0x" in said
    assert " DISAGREEMENTS\n" in said
    assert "predicted accepted, kernel" in said
    line = json.loads(told(capsys, SWEEPS, "--only", "heap", "--json", status=1)[0])
    assert line["disagreements"] > 30_000
    assert [example["kernel"] for example in line["examples"]] == ["EINVAL"] * 5


def test_a_picture_and_a_table_are_written(tmp_path: Path) -> None:
    picture, table = tmp_path / "heap.svg", tmp_path / "heap.csv"
    files: list[str | Path] = ["--picture", picture, "--csv", table]
    ran = prctlmm_lab("sweep", SWEEPS, "--only", "heap", "--json", *files)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == f"prctlmm-lab: {picture} written\nprctlmm-lab: {table} written\n"
    data = json.loads(ran.stdout)
    root = ElementTree.parse(picture).getroot()
    assert root.tag.endswith("svg")
    assert "range.start_brk" in picture.read_text()
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == data["calls"]
    counted = {rule: sum(row["rule"] == rule for row in rows) for rule in {r["rule"] for r in rows}}
    assert counted == {"" if k == "accepted" else k: n for k, n in data["rules"].items()}
    assert {row["agrees"] for row in rows} == {"True"}
    assert int(rows[0]["start_brk"]) == int(data["axes"]["x"]["first"], 16)
    assert int(rows[-1]["brk"]) == int(data["axes"]["y"]["last"], 16)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "heao"], "--only: 'heao' is not a sweep of this recipe; expected heap?"),
        (["--picture", "a.svg"], "--picture: shows one sweep; choose it with --only; "
                                 f"expected {', '.join(SHIPPED)}"),
        (["--csv", "a.csv"], "--csv: shows one sweep; choose it with --only; "
                             f"expected {', '.join(SHIPPED)}"),
        (["--only", "heap", "--picture", "a.jpg"],
         "--picture: a.jpg has no ending of a picture; expected .pdf, .png, .svg"),
        (["--only", "heap", "--csv", "none/a.csv"],
         "--csv: none/a.csv has no folder to go to; expected one that is there"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_runs(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(_: Subject) -> None:
        raise AssertionError("a specimen was started")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Subject, "start", refuse)
    assert told(capsys, SWEEPS, *arguments, status=2) == ("", f"prctlmm-lab: {sentence}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_loses_no_text(tmp_path: Path) -> None:
    ran = prctlmm_lab("sweep", recipe(tmp_path, SMALL), "--csv", tmp_path)
    assert ran.returncode == 2
    assert ran.stdout.startswith("small\n")
    assert ran.stderr == f"prctlmm-lab: {tmp_path}: cannot be written: Is a directory\n"


@pytest.mark.parametrize("command", ["run", "explain"])
def test_a_recipe_of_sweeps_only_has_nothing_to_run(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(SWEEPS)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    expected = "expected prctlmm-lab sweep for what it holds"
    assert said.err == f"prctlmm-lab: {SWEEPS}: holds no experiment; {expected}\n"


def test_a_recipe_without_sweeps_has_nothing_to_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    path = RECIPES / "heap.toml"
    _, errors = told(capsys, path, status=2)
    assert errors == (
        f"prctlmm-lab: {path}: holds no sweep; expected prctlmm-lab run for what it holds\n"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[[sweep]]\nid = "s"\nx = { member = "brk", from = "a b", to = 1 }',
         "sweep \"s\": x.from: 'a b' is not a formula; expected numbers, names, + - * // % << >> "
         "& |, brackets, page_up() and page_down()"),
        ('[[sweep]]\nid = "s"\nx = { member = "brk", from = 3, to = 1 }',
         'sweep "s": x.to: 0x1 lies below the other end; expected 0x3 or more'),
    ],
)  # fmt: skip
def test_a_bad_recipe_is_one_sentence(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, text)
    said, errors = told(capsys, path, status=2)
    assert said == ""
    assert errors.removeprefix(f"prctlmm-lab: {path}: ").removeprefix("prctlmm-lab: ") == (
        f"{sentence}\n"
    )


def test_what_cannot_be_set_up_is_said_and_the_rest_is_swept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = (
        SMALL.replace("small", "refused") + 'setup = [{ open = "f", path = "/none/at/all" }]\n'
    )
    path = recipe(tmp_path, refused + SMALL)
    said, errors = told(capsys, path, status=2)
    assert said.startswith("small\n")
    assert errors.startswith('prctlmm-lab: sweep "refused": setup[0]: the kernel refused openat(')


def test_an_ordinary_user_can_do_the_same(tmp_path: Path) -> None:
    needs_ordinary_user()
    command = "import sys; from prctlmm_lab.cli import main; sys.exit(main(sys.argv[1:]))"
    ran = as_ordinary_user(
        command.replace("sys.argv[1:]", repr(["sweep", str(SWEEPS), "--only", "heap", "--json"])),
        reach=[ROOT],
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    ours = sweep(replace(SHIPPED["heap"])).data()
    assert json.loads(ran.stdout) == ours
