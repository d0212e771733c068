"""`prctlmm-lab doctor`: what it prints against what Python's own calls say."""

from __future__ import annotations

import json
import os
import platform

import pytest

from prctlmm_lab.cli import main
from prctlmm_lab.specimen import probe
from prctlmm_lab.specimen.probe import Check, Diagnosis
from tests.command_line.command import COMMAND, assert_readable, prctlmm_lab
from tests.needs import needs_ordinary_user
from tests.ordinary_user import as_ordinary_user


def test_doctor_says_what_works() -> None:
    told = prctlmm_lab("doctor")
    assert (told.returncode, told.stderr) == (0, "")
    assert_readable(told.stdout)
    first, *lines = told.stdout.splitlines()
    assert first == f"Linux {platform.release()} on {platform.machine()}"
    assert any(line.split()[:2] == ["works", "PR_SET_MM_MAP"] for line in lines)
    assert any(f"uid {os.geteuid()}" in line for line in lines)


def test_doctor_is_short_on_demand() -> None:
    told = prctlmm_lab("doctor", "--brief")
    assert (told.returncode, told.stderr) == (0, "")
    assert_readable(told.stdout)
    full = prctlmm_lab("doctor").stdout.splitlines()
    assert 0 < len(told.stdout.splitlines()) < len(full)
    assert set(told.stdout.splitlines()) <= set(full)


def test_doctor_as_json_is_one_document() -> None:
    told = prctlmm_lab("doctor", "--json")
    assert (told.returncode, told.stderr) == (0, "")
    diagnosis = json.loads(told.stdout)
    assert diagnosis["healthy"] is True
    assert diagnosis["facts"]["release"] == platform.release()
    assert diagnosis["facts"]["page_size"] == os.sysconf("SC_PAGE_SIZE")
    assert diagnosis["environment"]["uid"] == os.geteuid()
    checks = {check["name"]: check for check in diagnosis["checks"]}
    assert checks["PR_SET_MM_MAP"]["works"] is True
    assert set(checks["PR_SET_MM_MAP"]) == {"name", "works", "seen", "remedy", "essential"}
    text = prctlmm_lab("doctor").stdout
    assert all(f"  {name}" in text for name in checks)


@pytest.mark.parametrize("options", [[], ["--brief"], ["--json"]])
def test_what_is_missing_is_said_with_the_remedy_and_the_status(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen on a system that has none of it."""
    check = Check("PR_SET_MM_MAP", False, "gives EINVAL", "Use another kernel, as " * 5, True)
    monkeypatch.setattr(probe, "doctor", lambda: Diagnosis((check,), None, None))
    assert main(["doctor", *options]) == 2
    told = capsys.readouterr()
    assert told.err == ""
    assert "gives EINVAL" in told.out
    assert "Use another kernel" in told.out
    if options == ["--json"]:
        assert json.loads(told.out)["healthy"] is False
    else:
        assert_readable(told.out)
        assert told.out.splitlines()[1].startswith(" " * 32 + "Use another")


def test_doctor_works_for_an_ordinary_user() -> None:
    needs_ordinary_user()
    told = as_ordinary_user([*COMMAND, "doctor", "--json"])
    assert (told.returncode, told.stderr) == (0, "")
    diagnosis = json.loads(told.stdout)
    assert diagnosis["environment"]["uid"] == (os.getuid() or 65534)
    assert diagnosis["healthy"] is True
