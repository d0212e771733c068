"""A recipe from a stranger: what it may ask for, what it is refused, and what bounds it."""

from __future__ import annotations

import os
import re
import socket
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.errors import InputError, SystemCallError
from prctlmm_lab.experiments import logbook, recipe, record, side_by_side, steps
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.recipe import experiment_from, shipped_recipes
from prctlmm_lab.experiments.steps import SHARED_CALLS, STEPS, Map, Step
from prctlmm_lab.kernel import procfs
from prctlmm_lab.kernel.syscalls import X86_64
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from tests.needs import needs_root

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trust.md"


def stranger(*setup: dict[str, Any], **more: Any) -> Experiment:
    return experiment_from({"id": "x", "setup": list(setup), **more})


def refusal(*setup: dict[str, Any]) -> str:
    with pytest.raises(InputError) as refused:
        run(stranger(*setup))
    return str(refused.value).removeprefix('experiment "x": ')


# ---- system calls ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(X86_64.keys() - STEPS.keys()))
def test_every_other_system_call_is_refused_by_name(name: str) -> None:
    said = refusal({name: True})
    assert said.startswith(f"setup[0]: '{name}' is a system call that no recipe may ask for; expe")


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Note which system calls the specimen is asked for while a step is done."""
    found: dict[str, set[str]] = defaultdict(set)
    under_way: list[str] = []
    call, perform = Specimen._call, Step.perform

    def noted_call(self: Specimen, name: str, *arguments: int) -> Any:
        if under_way:
            found[under_way[-1]].add(name)
        return call(self, name, *arguments)

    def noted_perform(self: Step, *arguments: Any) -> Any:
        under_way.append(self.verb)
        try:
            return perform(self, *arguments)
        finally:
            under_way.pop()

    monkeypatch.setattr(Specimen, "_call", noted_call)
    monkeypatch.setattr(Step, "perform", noted_perform)
    return found


def test_steps_make_the_system_calls_that_are_listed_and_no_other(
    observed: dict[str, set[str]],
) -> None:
    facts_here()
    for below in ("", "conformance"):
        for each in shipped_recipes(below).values():
            for experiment in each.experiments:
                try:
                    run(experiment)
                except (InputError, SystemCallError):
                    continue
    listed = {verb: {*kind.calls, *SHARED_CALLS} for verb, kind in STEPS.items()}
    assert {verb for verb, calls in observed.items() if calls - listed[verb]} == set()
    assert len(observed) > 12
    never = {verb: {*STEPS[verb].calls} - observed[verb] for verb in observed}
    assert {verb for verb, calls in never.items() if calls} <= {"own_mount", "release_executable"}


def test_the_page_lists_them() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*)\|$", PAGE.read_text(), re.MULTILINE)
    assert {verb: tuple(re.findall(r"\w+", calls)) for verb, calls in rows} == {
        verb: kind.calls for verb, kind in STEPS.items()
    }


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step", [{"map": "a", "permissions": "rwx"}, {"protect": "start_code", "permissions": "-wx"}]
)
def test_no_recipe_can_write_code(step: dict[str, Any]) -> None:
    assert "lets code be written, which no recipe may" in refusal(step)


def test_code_that_can_be_written_is_no_longer_run() -> None:
    """Without write and execute at once the program cannot go on where it was made writable."""
    gone = run(stranger(after=[{"protect": "start_code", "permissions": "rw-"}]))
    assert gone.outcome.signal == "SIGSEGV"


@pytest.mark.parametrize("access", ["write", "read-write"])
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/proc/self/root/etc/passwd", "/dev/null", "/proc/self/fd/3", "x",
             "/proc/self/fd/{a}/../../root/etc/passwd"],
)  # fmt: skip
def test_nothing_but_its_own_files_is_opened_for_writing(path: str, access: str) -> None:
    assert "a recipe may write to nothing else" in refusal(
        {"memory_file": "a"}, {"open": "f", "path": path, "access": access}
    )


def test_a_descriptor_of_another_file_is_no_way_round(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    for access in ("read", "path"):
        assert "is no file that the recipe made" in refusal(
            {"open": "theirs", "path": str(theirs), "access": access},
            {"open": "again", "path": "/proc/self/fd/{theirs}", "access": "write"},
        )
    assert "is no file that the recipe made" in refusal(
        {"memory_file": "own"},
        {"open": "name", "path": str(theirs)},
        {"close": "own"},
        {"open": "again", "path": "/proc/self/fd/{name}", "access": "read-write"},
    )


def test_opening_does_nothing_to_pipes_sockets_and_devices(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    paths: list[str] = [str(pipe), "/dev/zero", "/dev/tty"]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path in [*paths, str(tmp_path / "socket")]:
            if os.path.exists(path):
                assert "is no regular file, and a recipe may open no other" in refusal(
                    {"open": "f", "path": path}
                )
    os.close(reader)
    assert run(stranger({"open": "f", "path": "/dev/null"})).outcome.verdict == "accepted"


def test_the_kind_of_a_file_is_what_stat_tells(tmp_path: Path) -> None:
    with Specimen() as specimen:
        for path in (str(tmp_path), "/dev/null", __file__):
            told, found = specimen.file_kind(specimen.open(path)), os.stat(path)
            assert told == (found.st_mode, found.st_rdev)


def test_what_root_mounts_is_the_specimens_own() -> None:
    needs_root()
    before = Path("/proc/self/mountinfo").read_text()
    run(stranger({"own_mount": "f", "noexec": True}))
    assert Path("/proc/self/mountinfo").read_text() == before


# ---- what bounds it ----------------------------------------------------------------------------


def test_a_command_line_of_a_gigabyte_is_not_read() -> None:
    huge = stranger(
        {"map": "a", "pages": 1 << 18, "permissions": "r--"},
        change={"arg_start": "a.start", "arg_end": "a.end"},
    )
    told = run(huge)
    assert told.outcome.verdict == "accepted"
    assert told.after
    assert told.after.cmdline == "not readable (EFBIG)"
    assert told.agreement.disagreements == ()
    longest = Experiment("y", setup=(Map("a", pages=procfs.LONGEST_SHOWN // 4096),),
                         change={"env_start": "a.start", "env_end": "a.end"})  # fmt: skip
    whole = run(longest)
    assert whole.after
    assert str(whole.after.environ).startswith(
        f"not kept ({procfs.LONGEST_SHOWN:#x} bytes, SHA-256"
    )
    assert whole.agreement.disagreements == ()


def test_the_page_tells_the_limits() -> None:
    text = PAGE.read_text()
    for limit in (recipe.LARGEST, steps.LONGEST_WRITE, procfs.LONGEST_SHOWN, record.LONGEST_TEXT,
                  logbook.LONGEST_LINE):  # fmt: skip
        assert f"{limit:#x} bytes" in text
    assert f"{logbook.MOST_WAITING:,}" in text
    assert f"{side_by_side.MOST_RECIPES:,}" in text
    assert f"{recipe.MOST} experiments, {recipe.MOST} steps" in text
