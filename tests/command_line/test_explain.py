"""`prctlmm-lab explain`: the rules in words and numbers, without a call."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import pytest

from prctlmm_lab.cli import main
from prctlmm_lab.experiments.experiment import prepare
from prctlmm_lab.experiments.recipe import read_recipe
from prctlmm_lab.kernel.releases import facts_on
from prctlmm_lab.kernel.rules import RULE, explain, rules_of
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


# ---- on other releases -------------------------------------------------------------------------

HERE = platform.release()


def test_one_release_is_explained_in_full_and_said_to_be_documented(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = explained(capsys, RECIPES / "heap.toml", "--only", "heap-down", "--on", "v4.19")
    assert_readable(told)
    flowing = re.sub(r"\s+", " ", told)
    rule = RULE["heap.above_data"]
    for part in (
        "on v4.19 (documented), not run",
        f"here accepted ({HERE})",
        f"verdict EINVAL by rule {rule.id}",
        f"needed {rule.title}",
        "numbers start_brk = 0x200000, brk = 0x200000, end_data = 0x",
        f"history {rule.history}",
    ):
        assert part in flowing


def test_what_a_release_accepts_is_explained_by_its_own_rules(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = explained(capsys, RECIPES / "heap.toml", "--only", "heap-up", "--on", "4.19")
    count = len(rules_of(facts_on("4.19", facts_here())))
    assert f"verdict   accepted: none of the {count} rules of v4.19 is broken\n" in told
    assert "heap.above_data: start_brk = 0x" in told


@pytest.mark.parametrize(
    "options", [["--on", "3.10,v4.19, 5.10.69,9.1"], ["--on", "3.10", "--on", "4.19,5.10.69,v9.1"]]
)
def test_several_releases_stand_side_by_side(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = explained(capsys, RECIPES / "heap.toml", "--only", "heap-down", *options)
    assert_readable(told)
    assert re.sub(r"\s+", " ", told) == re.sub(
        r"\s+",
        " ",
        f"""\
heap-down: The heap moves below the program
  here      accepted ({HERE})
  v3.10     EINVAL by rule call.option: PR_SET_MM_MAP_SIZE answers an error
  v4.19     EINVAL by rule heap.above_data: start_brk = 0x200000, brk = 0x200000, end_data =
              0x402048
  v5.10.69  accepted
  v9.1      accepted (documented to v7.3)
            releases as documented, not run
""",
    )


def test_numbers_are_told_where_a_rule_decides_first(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = RECIPES / "refusals.toml"
    told = explained(capsys, recipe, "--only", "order.code", "--on", "4.4,5.4")
    assert told.count("EINVAL by rule order.code") == 3
    assert told.count("start_code = 0x") == 1


def test_a_release_named_twice_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    told = explained(capsys, RECIPES / "identity.toml", "--on", "v5.10,5.10,5.10.0")
    assert "  on        v5.10 (documented), not run\n" in told


def test_json_on_releases_says_what_the_api_says() -> None:
    path, releases = RECIPES / "refusals.toml", ("4.13", "5.10.69")
    told = prctlmm_lab("explain", path, "--json", "--on", ",".join(releases))
    assert (told.returncode, told.stderr) == (0, "")
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    experiments = read_recipe(path).experiments
    assert len(lines) == len(experiments)
    for line, experiment in zip(lines, experiments, strict=True):
        assert len(line["on"]) == len(releases)
        with experiment.specimen.start() as specimen:
            situation = prepare(experiment, specimen, facts_here()).situation
        for entry, release in zip(line["on"], releases, strict=True):
            facts = facts_on(release, facts_here())
            explanation = explain(situation, facts)
            deciding = explanation.deciding
            assert entry["release"] == facts.release == f"v{release} (documented)"
            assert entry["assumed"] == list(facts.assumed)
            assert entry["verdict"] == explanation.verdict.partition(":")[0]
            assert entry["rule"] == (deciding.rule.id if deciding else "")
            assert [r["id"] for r in entry["rules"]] == [r.id for r in rules_of(facts)]


def test_json_without_releases_does_not_speak_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert "on" not in json.loads(explained(capsys, RECIPES / "identity.toml", "--json"))


@pytest.mark.parametrize(
    ("release", "sentence"),
    [
        ("", "'' is no release; expected one like v5.10 or 5.10.69"),
        ("5.10,", "'' is no release; expected one like v5.10 or 5.10.69"),
        ("4.19,five", "'five' is no release; expected one like v5.10 or 5.10.69"),
        ("6.1.0-28-amd64",
         "'6.1.0-28-amd64' is no release; expected one like v5.10 or 5.10.69"),
        ("5.99", "'5.99' was never released; expected v5.0 to v5.19"),
    ],
)  # fmt: skip
def test_a_bad_release_is_one_sentence_before_anything_is_started(
    release: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a specimen was started")

    monkeypatch.setattr(Specimen, "__init__", refuse)
    assert main(["explain", str(RECIPES / "heap.toml"), "--on", release]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"prctlmm-lab: --on: {sentence}\n")
