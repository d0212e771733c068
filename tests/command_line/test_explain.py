"""`prctlmm-lab explain`: the rules in words and numbers, without a call."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from prctlmm_lab.cli import main
from prctlmm_lab.experiments.experiment import prepare
from prctlmm_lab.experiments.recipe import read_recipe
from prctlmm_lab.kernel.rules import RULE, rules_of
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from tests.command_line.command import FILES, RECIPES, assert_readable, prctlmm_lab, recipe


def explained(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["explain", *map(str, arguments)]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    return told.out


def test_a_refusal_is_explained_by_its_rule(capsys: pytest.CaptureFixture[str]) -> None:
    told = explained(capsys, RECIPES / "refusals.toml", "--only", "range.arg_start")
    assert_readable(told)
    highest = facts_here().highest
    flowing = re.sub(r"\s+", " ", told)
    rule = RULE["range.arg_start"]
    assert flowing.startswith("range.arg_start: arg_start just above the highest address ")
    for part in (
        "verdict EINVAL by rule range.arg_start",
        f"needed {rule.title}",
        f"numbers arg_start = {highest + 1:#x}, allowed {facts_here().lowest:#x} to {highest:#x}",
        f"stated in requirement {rule.requirement} of commit f606b77f1a's message",
        f"source {rule.source}",
        f"history {rule.history}",
        f"also order.arg is broken: arg_start = {highest + 1:#x}, arg_end = 0x",
    ):
        assert part in flowing


def test_a_refusal_that_the_commit_does_not_speak_of_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = explained(capsys, RECIPES / "refusals.toml", "--only", "call.arg5")
    assert "  stated    in none of the requirements of commit f606b77f1a\n" in told


def test_an_accepted_map_is_explained_by_what_was_checked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = explained(capsys, RECIPES / "heap.toml", "--only", "heap-down")
    assert_readable(told)
    count = len(rules_of(facts_here()))
    assert f"verdict   accepted: none of the {count} rules of this kernel is broken\n" in told
    assert re.search(r"^  changes   start_brk 0x[0-9a-f]+ -> 0x200000$", told, re.MULTILINE)
    assert re.search(r"^            brk 0x[0-9a-f]+ -> 0x200000$", told, re.MULTILINE)
    flowing = re.sub(r"\s+", " ", told)
    checked = {"range.start_brk", "range.brk", "order.brk", "limit.data"}
    assert {rule for rule in RULE if f" {rule}: " in flowing} == checked
    assert "order.brk: start_brk = 0x200000, brk = 0x200000, needed start_brk <= brk" in flowing


def test_a_map_that_changes_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    told = explained(capsys, RECIPES / "identity.toml")
    assert told.endswith("  changes   nothing: every member keeps its value\n")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_explanation_is_readable(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = explained(capsys, path)
    assert_readable(told)
    heads = [line for line in told.splitlines() if not line.startswith(" ")]
    titles = [f"{e.id}: {e.title}" for e in read_recipe(path).experiments]
    assert heads == titles


def test_json_says_what_the_api_says() -> None:
    path = RECIPES / "refusals.toml"
    told = prctlmm_lab("explain", path, "--json")
    assert (told.returncode, told.stderr) == (0, "")
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    experiments = read_recipe(path).experiments
    assert [line["id"] for line in lines] == [experiment.id for experiment in experiments]
    for line, experiment in zip(lines, experiments, strict=True):
        with experiment.specimen.start() as specimen:
            explanation = prepare(experiment, specimen, facts_here()).explanation
        assert explanation.deciding
        rule = explanation.deciding.rule
        assert (line["title"], line["rule"]) == (experiment.title, rule.id)
        assert line["verdict"] == explanation.verdict.partition(":")[0]
        broken = [finding["id"] for finding in line["rules"] if finding["broken"]]
        assert broken == [finding.rule.id for finding in explanation.broken]
        (deciding,) = (finding for finding in line["rules"] if finding["decides"])
        assert deciding["title"] == rule.title
        assert deciding["requirement"] == rule.requirement
        assert (deciding["source"], deciding["history"]) == (rule.source, rule.history)
        assert set(line["changes"]) <= set(line["map"])
        assert all(new == line["map"][name] for name, (_, new) in line["changes"].items())


def test_nothing_is_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts_here()  # found by calls, once

    def refuse(*_arguments: object, **_options: object) -> int:
        raise AssertionError("explain made the call")

    monkeypatch.setattr(Specimen, "set_map", refuse)
    assert explained(capsys, RECIPES / "heap.toml")


def test_what_cannot_be_set_up_is_said_and_the_rest_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(
        tmp_path,
        'id = "one"',
        'id = "two"\nsetup = [{ open = "f", path = "/none/at/all" }]',
        'id = "three"\nsetup = [{ unmap = "page_down(start_code)" }]',
        'id = "four"',
    )
    assert main(["explain", str(path)]) == 2
    told = capsys.readouterr()
    heads = [line for line in told.out.splitlines() if not line.startswith(" ")]
    assert heads == ["one", "four"]
    refused, died = told.err.splitlines()
    assert refused.startswith('prctlmm-lab: experiment "two": setup[0]: the kernel refused openat(')
    assert died.endswith('in experiment "three": setup[0]')
