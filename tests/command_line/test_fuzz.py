"""`prctlmm-lab fuzz`: the tally for people and for programs, how it ends, and what it finds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.cli import main
from prctlmm_lab.experiments import differential
from prctlmm_lab.experiments.recipe import read_recipe
from prctlmm_lab.experiments.scenarios import scenarios
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.model import Model, specification
from tests.command_line.command import COMMAND, environment, prctlmm_lab
from tests.conftest import children
from tests.needs import needs_ordinary_user, needs_tool, skip_unless
from tests.ordinary_user import as_ordinary_user

ENDLESS = str(1 << 40)
"""More calls than any test waits for."""


def told(*arguments: str, command: Callable[..., Any] = prctlmm_lab) -> dict[str, Any]:
    """Run it with --json; check that it found nothing and said nothing else."""
    ran = command("fuzz", "--json", *arguments)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    assert ran.stdout.count("\n") == 1
    tally: dict[str, Any] = json.loads(ran.stdout)
    assert (tally["disagreements"], tally["examples"], tally["interrupted"]) == (0, [], False)
    return tally


# ---- the tally ---------------------------------------------------------------------------------


def test_the_tally_is_one_json_object() -> None:
    tally = told("--calls", "20000")
    assert {"calls", "disagreements", "seconds", "kernel", "seed", "by_rule"} <= set(tally)
    assert tally["calls"] >= 20_000
    assert tally["watched"] == tally["moves"] == 0
    assert tally["kernel"] == platform.release()
    assert tally["seconds"] > 0
    assert 0 <= tally["seed"] < 1 << 64
    for name in ("by_scenario", "by_limit", "by_rule"):
        assert 0 < sum(tally[name].values()) <= tally["calls"]
    assert {*tally["by_scenario"], *tally["skipped"]} == {s.name for s in scenarios()}


def without_aslr(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where every address is the same each time."""
    setarch = [needs_tool("setarch"), platform.machine(), "--addr-no-randomize"]
    refused = subprocess.run([*setarch, "true"], capture_output=True, text=True).stderr
    skip_unless(not refused, f"ASLR cannot be switched off: {refused}", impossible=True)
    return subprocess.run(
        [*setarch, *COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=environment(), timeout=60,
    )  # fmt: skip


def test_the_same_seed_gives_the_same_tally_as_text_and_as_json() -> None:
    text = without_aslr("fuzz", "--calls", "20000", "--seed", "0x7")
    assert (text.returncode, text.stderr) == (0, "")
    same, other = (told("--calls", "20000", "--seed", s, command=without_aslr) for s in "78")
    assert (same["seed"], other["seed"]) == (7, 8)
    first, *rest = text.stdout.splitlines()
    release = re.escape(platform.release())
    found = re.fullmatch(
        rf"([\d,]+) calls on Linux {release} in \d+\.\d s: 0 disagreements \(seed 7\)", first
    )
    assert found, first
    assert int(found[1].replace(",", "")) == same["calls"]
    shown = counts(rest)
    assert shown == {
        "the kernel's verdict": same["by_verdict"],
        "the rule that decides": same["by_rule"],
        "RLIMIT_DATA": same["by_limit"],
        "the caller": same["by_scenario"],
    }
    assert shown["the rule that decides"] != other["by_rule"]


def counts(lines: list[str]) -> dict[str, dict[str, int]]:
    """Read the numbers of a text: title -> name -> count. Each title has its largest first."""
    found: dict[str, dict[str, int]] = {}
    for line in filter(None, lines):
        if line.startswith("  by "):
            found[line.removeprefix("  by ")] = {}
        else:
            number, name = line.strip().split("  ", 1)
            found[[*found][-1]][name] = int(number.replace(",", ""))
    for rows in found.values():
        assert [*rows.values()] == sorted(rows.values(), reverse=True)
    return found


def test_effects_are_compared_map_by_map() -> None:
    tally = told("--effects", "--calls", "300", "--seed", "0xffffffffffffffff")
    assert tally["seed"] == (1 << 64) - 1
    assert tally["watched"] >= 300
    assert 0 < tally["moves"] <= tally["watched"] <= tally["calls"]


@pytest.mark.parametrize("what", [[], ["--effects"]], ids=["verdicts", "effects"])
def test_seconds_end_it(what: list[str]) -> None:
    tally = told("--seconds", "1", "--calls", ENDLESS, *what)
    assert tally["seconds"] >= 1
    assert 0 < tally["calls"] < int(ENDLESS)


def test_an_ordinary_user_can_do_the_same() -> None:
    needs_ordinary_user()
    tally = told("--calls", "20000", command=lambda *a: as_ordinary_user([*COMMAND, *a]))
    assert tally["calls"] >= 20_000
    refused = as_ordinary_user([*COMMAND, "fuzz", "--save", "/"])
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "prctlmm-lab: --save: '/' is not a folder that can be written; expected one that is there\n"
    )


# ---- mistakes ----------------------------------------------------------------------------------

CALLS = "a whole number of calls above 0"
SECONDS = "a number of seconds above 0"
SEED = "a whole number from 0 to 0xffffffffffffffff"


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        *(("--calls", value, CALLS) for value in ("0", "-1", "x", "", "1.5", "1e6", str(1 << 48))),
        *(("--seconds", value, SECONDS) for value in ("0", "-1", "x", "nan", "inf", "1e9")),
        *(("--seed", value, SEED) for value in ("-1", "x", "0x1" + "0" * 16)),
    ],
)
def test_a_number_that_is_none_is_one_sentence(
    option: str, value: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fuzz", option, value])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err == (
        f"prctlmm-lab fuzz: argument {option}: {value!r} is not {wanted} "
        "(see prctlmm-lab fuzz --help)\n"
    )


def test_what_is_wrong_is_cut_and_cannot_act_on_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["fuzz", "--calls", "\x1b[31m" + "9" * 5000])
    said = capsys.readouterr().err
    assert said.strip().isprintable()
    assert len(said) < 250


@pytest.mark.parametrize("name", ["none", "file"])
def test_a_folder_that_is_none_is_refused_before_any_call(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("calls were made")

    monkeypatch.setattr(differential, "fuzz", refuse)
    assert main(["fuzz", "--save", name]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        f"prctlmm-lab: --save: '{name}' is not a folder that can be written; "
        "expected one that is there\n",
    )


# ---- Ctrl-C ------------------------------------------------------------------------------------


@contextlib.contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start it with a terminal of its own; yield it and the terminal's other end.

    Standard output is a pipe, as in `prctlmm-lab fuzz | tee`.
    """
    ours, theirs = pty.openpty()
    try:
        termios.tcsetwinsize(theirs, (24, 80))
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            env=environment(),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    finally:
        os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.communicate()
        os.close(ours)


def seen_until(terminal: int, words: str) -> str:
    """Read what a terminal shows until it shows some words, or until the last program ends."""
    deadline, seen = time.monotonic() + 60, b""
    while words.encode() not in seen:
        left = deadline - time.monotonic()
        assert left > 0, f"{words!r} was never shown: {seen!r}"
        if select.select([terminal], [], [], left)[0]:
            try:
                seen += os.read(terminal, 4096)
            except OSError:  # EIO: nobody has it open any more
                break
    return seen.decode()


@pytest.mark.parametrize("options", [[], ["--json"], ["--effects"]], ids=" ".join)
def test_ctrl_c_gives_the_tally_so_far_and_leaves_nothing_behind(options: list[str]) -> None:
    with on_a_terminal("fuzz", "--calls", ENDLESS, *options) as (process, terminal):
        assert "0 disagreements" in seen_until(terminal, "disagreements")
        specimens = {int(name.split()[-2]) for name in children(process.pid)}
        assert specimens
        os.write(terminal, termios.tcgetattr(terminal)[6][termios.VINTR])
        rest = seen_until(terminal, "the end")
        assert process.stdout
        output = process.stdout.read()
        assert process.wait(timeout=60) == 130
    assert "Traceback" not in rest
    assert "interrupted" not in rest, "the tally says it"
    if options == ["--json"]:
        tally = json.loads(output)
        assert tally["interrupted"] is True
        assert tally["calls"] > 0
    else:
        first = re.match(r"([\d,]+) calls.*: 0 disagreements \(seed \d+; interrupted\)\n", output)
        assert first, output
        assert int(first[1].replace(",", "")) > 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in specimens)


# ---- a wrong specification ---------------------------------------------------------------------


def lacking(facts: Facts) -> Model:
    return specification(facts).without("order.code")


def test_a_wrong_specification_is_refuted_by_a_recipe_that_can_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(differential, "specification", lacking)
    arguments = ["fuzz", "--calls", "20000", "--seed", "7", "--save", str(tmp_path)]
    assert main(arguments) == 1
    said = capsys.readouterr()
    saved = tmp_path / "disagreements-7.toml"
    assert said.err == f"prctlmm-lab: {saved} written\n"
    assert os.listdir(tmp_path) == [saved.name]
    assert "DISAGREES: predicted accepted, kernel EINVAL\n" in said.out
    recipe = read_recipe(saved)
    assert recipe.title.startswith(f"Disagreements of Linux {platform.release()}")
    assert "without order.code, seed 7" in recipe.title
    for number, experiment in enumerate(recipe.experiments, 1):
        assert experiment.id == f"disagreement-{number}"
        assert f'id = "{experiment.id}"\n' in said.out, "the recipe is printed too"
    # The specification as it is says what the kernel says.
    ran = prctlmm_lab("run", "--json", saved)
    assert (ran.returncode, ran.stderr) == (0, "")
    records = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(records) == len(recipe.experiments)
    assert {record["outcome"]["verdict"] for record in records} == {"EINVAL"}
    assert {record["prediction"]["rule"] for record in records} == {"order.code"}


def test_a_wrong_specification_is_refuted_in_json_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(differential, "specification", lacking)
    monkeypatch.chdir(tmp_path)
    assert main(["fuzz", "--calls", "20000", "--json"]) == 1
    tally = json.loads(capsys.readouterr().out)
    assert tally["model"] == "specification without order.code"
    assert tally["disagreements"] >= len(tally["examples"]) > 0
    assert sum(tally["wrong_by_scenario"].values()) == tally["disagreements"]
    experiments = read_recipe(tmp_path / f"disagreements-{tally['seed']}.toml").experiments
    for example, experiment in zip(tally["examples"], experiments, strict=True):
        assert example["kernel"] == "EINVAL" != example["predicted"]
        one = tmp_path / "one.toml"
        one.write_text(example["recipe"], "utf-8")
        assert read_recipe(one).experiments == (experiment,)
        assert f"{example['scenario']}, RLIMIT_DATA {example['limit']}" in experiment.title


def test_the_wrong_models_are_listed_with_what_caught_each() -> None:
    """Half a second is not enough to catch them all, and then some are said to have escaped."""
    ran = prctlmm_lab("fuzz", "--wrong-models", "--seconds", "0.5")
    assert (ran.returncode, ran.stderr) == (1, "")
    *lines, last = ran.stdout.splitlines()
    counts = [
        sum(line.startswith(word) for line in lines)
        for word in ("caught by call", "no different", "ESCAPED")
    ]
    found = re.fullmatch(
        r"(\d+) wrong models on Linux \S+: (\d+) caught within [\d,]+ calls, (\d+) proved to be "
        r"no different, (\d+) escaped \(\d+ s, seed \d+\)",
        last,
    )
    assert found is not None
    assert [int(number) for number in found.groups()] == [sum(counts), *counts]
    assert min(counts) > 0


def test_without_its_packages_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["fuzz"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "numpy is not installed" in said.err
