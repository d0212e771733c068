"""The means by which other tests run as an ordinary user, and the checks that conftest makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ordinary_user
from tests.conftest import children, descriptors, own_notes
from tests.needs import FORCE, needs_ordinary_user, needs_root, skip_unless
from tests.ordinary_user import ROOT, as_ordinary_user

WHO = """
import json, os, sys, tempfile
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
print(json.dumps({
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(),
    "capabilities": int(status["CapEff"], 16), "prefix": sys.prefix, "home": os.environ["HOME"],
    "written": open(os.path.join(tempfile.mkdtemp(), "a"), "w").write("a"),
}))
import prctlmm_lab
"""


def test_the_interpreter_of_the_tests_runs_as_an_ordinary_user() -> None:
    needs_ordinary_user()
    done = as_ordinary_user(WHO)
    assert done.stderr == ""
    who = json.loads(done.stdout)
    wanted = ordinary_user.UID if os.geteuid() == 0 else os.geteuid()
    assert (who["uid"], who["prefix"]) == ([wanted] * 3, sys.prefix)
    assert who["capabilities"] == 0 if os.geteuid() == 0 else True
    assert not os.path.exists(who["home"])


def test_folders_that_are_closed_to_others_are_opened_for_the_command_alone(tmp_path: Path) -> None:
    needs_root()
    needs_ordinary_user()
    wanted, other = tmp_path / "closed" / "deep" / "wanted", tmp_path / "closed" / "other"
    for folder in (wanted, other):
        folder.mkdir(parents=True)
        (folder / "file").write_text(folder.name)
    (tmp_path / "closed").chmod(0o700)
    code = f"import sys; print(open({str(wanted / 'file')!r}).read())"
    assert as_ordinary_user(code, reach=[wanted]).stdout == "wanted\n"
    refused = as_ordinary_user(f"open({str(other / 'file')!r})", reach=[wanted])
    assert refused.returncode == 1
    assert "Error" in refused.stderr
    assert (other / "file").read_text() == "other"


def test_its_command_line_passes_the_exit_status() -> None:
    needs_ordinary_user()
    script = [sys.executable, str(ROOT / "tests" / "ordinary_user.py"), "--"]
    command = [sys.executable, "-c", "import os; print(os.geteuid()); raise SystemExit(3)"]
    done = subprocess.run([*script, *command], capture_output=True, text=True, timeout=60)
    uid = ordinary_user.UID if os.geteuid() == 0 else os.geteuid()
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{uid}\n", "")


def test_a_command_that_hangs_is_ended() -> None:
    before = children()
    with pytest.raises(subprocess.TimeoutExpired):
        as_ordinary_user("import signal; signal.pause()", timeout=1)
    assert children() == before


def test_a_skip_is_a_failure_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FORCE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no moon"):
        skip_unless(False, "no moon")
    monkeypatch.setenv(FORCE, "1")
    with pytest.raises(pytest.fail.Exception, match="no moon"):
        skip_unless(False, "no moon")
    with pytest.raises(pytest.skip.Exception, match="no moon"):
        skip_unless(False, "no moon", impossible=True)
    skip_unless(True, "")


def test_what_is_left_behind_is_seen() -> None:
    before = children(), descriptors()
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit"])
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    left = children() - before[0], descriptors() - before[1]
    os.close(descriptor)
    process.wait()
    assert [name.split()[-2:] for name in left[0]] == [[str(process.pid), "Z"]]
    assert list(left[1]) == [f"{descriptor} -> {os.devnull}"]
    assert (children(), descriptors()) == before


def test_the_notes_of_this_process_are_seen_in_full() -> None:
    notes = own_notes()
    assert len(notes) == 14
    assert notes["cmdline"].split(b"\0")[0]
    assert len(notes["auxv"]) % 16 == 0
    assert int(notes["stat field 26"]) < int(notes["stat field 27"])
