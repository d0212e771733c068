"""`prctlmm-lab conformance`: KTAP for people, JSON lines for programs, an exit status for both."""

from __future__ import annotations

import json

import pytest

from prctlmm_lab.cli import main
from prctlmm_lab.experiments.conformance import cases
from prctlmm_lab.kernel import rules
from tests.command_line.command import prctlmm_lab


def test_a_case_is_told_as_ktap() -> None:
    told = prctlmm_lab("conformance", "order.code.equal", "call.option")
    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.splitlines()
    assert lines[0] == "KTAP version 1"
    assert lines[1].startswith("# prctl(PR_SET_MM, PR_SET_MM_MAP): 2 cases of prctlmm_lab ")
    assert lines[2].startswith("# Linux ")
    assert lines[3:] == [
        "1..2",
        "  KTAP version 1",
        "  # Subtest: call",
        "  1..1",
        "  ok 1 call.option # SKIP of this kernel the fact available is true",
        "ok 1 call # SKIP all of its cases",
        "  KTAP version 1",
        "  # Subtest: order",
        "  1..1",
        "  ok 1 order.code.equal",
        "ok 2 order",
        "# Totals: pass:1 fail:0 xfail:0 xpass:0 skip:1 error:0",
    ]


def test_what_fails_is_in_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = tuple(rule for rule in rules.RULES if rule.id != "order.code")
    monkeypatch.setattr(rules, "RULES", left)
    assert main(["conformance", "order.code"]) == 1
    assert "  not ok 1 order.code.equal\n" in capsys.readouterr().out
    assert main(["conformance", "order.code", "--json"]) == 1
    results = [json.loads(line)["result"] for line in capsys.readouterr().out.splitlines()]
    assert results == ["fail", "pass", "fail"]
    assert main(["conformance", "order.env"]) == 0


def test_json_has_one_object_for_each_case() -> None:
    told = prctlmm_lab("conformance", "order", "--json")
    assert (told.returncode, told.stderr) == (0, "")
    entries = [json.loads(line) for line in told.stdout.splitlines()]
    assert [entry["case"] for entry in entries] == [case.id for case in cases()["order"]]
    assert entries[0] == {
        "group": "order",
        "case": "order.code.equal",
        "title": "Code of no byte",
        "rule": "order.code",
        "effect": "",
        "places": ["3"],
        "result": "pass",
        "expected": "EINVAL by order.code",
        "kernel": "EINVAL",
        "reasons": [],
    }


def test_a_name_that_chooses_nothing_is_one_sentence() -> None:
    told = prctlmm_lab("conformance", "oder")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == (
        "prctlmm-lab: conformance: 'oder' is not a case, nor the beginning of one; "
        "expected order?\n"
    )
