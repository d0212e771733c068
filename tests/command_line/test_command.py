"""What holds for every command: help, mistakes, pipes, terminals, interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from prctlmm_lab import __version__
from prctlmm_lab.cli import main
from tests.command_line.command import (
    COMMAND,
    HEAD,
    RECIPES,
    assert_readable,
    environment,
    prctlmm_lab,
    recipe,
)
from tests.conftest import children
from tests.experiments.bad_recipes import BAD, RUIN, matches
from tests.needs import needs_ordinary_user, needs_user_namespaces
from tests.ordinary_user import as_ordinary_user

# ---- help and mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [[], *([name] for name in "doctor explain run conformance claims sweep fuzz lab".split())],
    ids=" ".join,
)
def test_help_fits_a_terminal(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert _status([*command, "--help"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.startswith(f"usage: {' '.join(['prctlmm-lab', *command])}")
    assert_readable(told.out)


def test_the_program_is_named_as_it_is_installed() -> None:
    told = prctlmm_lab("--version")
    assert (told.returncode, told.stdout, told.stderr) == (0, f"prctlmm-lab {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "prctlmm-lab: the following arguments are required: COMMAND (see prctlmm-lab --help)"),
        (
            ["run"],
            "prctlmm-lab run: the following arguments are required: RECIPE "
            "(see prctlmm-lab run --help)",
        ),
        (
            ["doctor", "--frobnicate"],
            "prctlmm-lab: unrecognized arguments: --frobnicate (see prctlmm-lab --help)",
        ),
        (  # scripts depend on whole names, so that a new option breaks none
            ["doctor", "--js"],
            "prctlmm-lab: unrecognized arguments: --js (see prctlmm-lab --help)",
        ),
        (
            ["run", "none.toml"],
            "prctlmm-lab: none.toml: cannot be read: No such file or directory",
        ),
        (
            ["explain", "."],
            "prctlmm-lab: .: cannot be read: Is a directory",
        ),
        (
            ["run", "\x1b[31m"],
            r"prctlmm-lab: \x1b[31m: cannot be read: No such file or directory",
        ),
        (
            ["explain", str(RECIPES / "exe.toml"), "--only", "exe-chnaged"],
            "prctlmm-lab: --only: 'exe-chnaged' is not an experiment of this recipe; "
            "expected exe-changed?",
        ),
        (
            ["lab"],
            "prctlmm-lab: lab: there is no notebooks/00-... here; expected the project's folder",
        ),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _status(arguments) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"{sentence}\n")


def _status(arguments: list[str]) -> object:
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code


def test_an_unknown_command_is_one_sentence_with_those_that_there_are() -> None:
    told = prctlmm_lab("rnu")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("prctlmm-lab: argument COMMAND: invalid choice: 'rnu'")
    assert told.stderr.count("\n") == 1
    assert all(name in told.stderr for name in ("doctor", "explain", "run", "lab"))


@pytest.mark.parametrize("command", ["run", "explain"])
@pytest.mark.parametrize("name", [*BAD, *RUIN])
def test_a_bad_recipe_is_one_sentence(
    name: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    text, sentence = {**BAD, **RUIN}[name]
    Path("bad.toml").write_text(text, "utf-8")
    assert main([command, "bad.toml", *(["--log", "log.jsonl"] if command == "run" else [])]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    start = "prctlmm-lab: bad.toml: " if name in BAD else "prctlmm-lab: "
    assert told.err.startswith(start)
    assert matches(told.err.removeprefix(start).removesuffix("\n"), sentence), told.err
    assert os.listdir(tmp_path) == ["bad.toml"], "nothing was run, and nothing is left"


def test_a_bad_recipe_shows_no_traceback(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_bytes(HEAD.encode() + b"title = '\xff'")
    told = prctlmm_lab("run", bad)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == f"prctlmm-lab: {bad}: 0xff at byte {len(HEAD) + 9:#x} is not UTF-8\n"


def test_a_recipe_that_may_not_be_read_is_one_sentence(tmp_path: Path) -> None:
    needs_ordinary_user()
    closed = recipe(tmp_path, 'id = "x"')
    closed.chmod(0)
    told = as_ordinary_user([*COMMAND, "run", str(closed)], reach=[tmp_path])
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == f"prctlmm-lab: {closed}: cannot be read: Permission denied\n"


# ---- where the output goes ---------------------------------------------------------------------


@contextmanager
def running(*arguments: str | Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_reader_that_has_enough_is_no_error() -> None:
    """As in `prctlmm-lab run --json data/recipes/refusals.toml | head -1`."""
    with running("run", "--json", RECIPES / "refusals.toml", stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline().startswith('{"schema"')
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr
        assert process.stderr.read() == ""


def test_a_reader_that_never_reads_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        with running("explain", RECIPES / "identity.toml", stdout=write) as process:
            assert process.wait(timeout=60) == 0
            assert process.stderr
            assert process.stderr.read() == ""
    finally:
        os.close(write)


def test_a_full_disk_is_one_sentence() -> None:
    with open("/dev/full", "w") as full, running("doctor", stdout=full) as process:
        assert process.wait(timeout=60) == 2
        assert process.stderr
        assert process.stderr.read() == "prctlmm-lab: [Errno 28] No space left on device\n"


def test_output_may_be_closed() -> None:
    with running(
        "run", RECIPES / "identity.toml", stdout=None, preexec_fn=lambda: os.close(1)
    ) as process:
        assert process.wait(timeout=60) == 0
        assert process.stderr
        assert process.stderr.read() == ""


def test_a_terminal_that_is_not_utf8_gets_escapes(tmp_path: Path) -> None:
    path = recipe(tmp_path, 'id = "写"\nspecimen.arguments = ["é"]\nchange.arg_end = "arg_start"')
    told = prctlmm_lab("run", path, more={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("\\u5199: predicted accepted")
    assert told.stdout.endswith(r"  cmdline: '\xe9\x00' -> ''" + "\n")


# ---- interrupts --------------------------------------------------------------------------------


def test_ctrl_c_ends_it_at_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    many = "\n[[experiment]]\n".join(f'id = "{number}"' for number in range(1000))
    path = recipe(tmp_path, many)
    with running("run", path, stdout=subprocess.DEVNULL) as process:
        specimen = _stopped_specimen(process.pid)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "prctlmm-lab: interrupted\n")
    assert not Path(f"/proc/{specimen}").exists()
    assert os.listdir(tmp_path) == ["recipe.toml"]


def _stopped_specimen(parent: int) -> int:
    """Stop the children of the process, so that one is waited for, and return its number.

    One that was about to be ended goes away; then the next is stopped.
    """
    deadline, stopped = time.monotonic() + 30, set[int]()
    while time.monotonic() < deadline:
        for name in children(parent):
            pid = int(name.split()[-2])
            if pid in stopped and name.endswith(" T"):
                return pid
            if "specimen" in name:  # not before execve, when its parent shares its memory
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                stopped.add(pid)
        time.sleep(0.01)
    raise AssertionError("no specimen was seen to wait")


# ---- an ordinary user --------------------------------------------------------------------------


def test_an_ordinary_user_explains_and_runs() -> None:
    needs_ordinary_user()
    needs_user_namespaces()
    paths = [RECIPES / f"{name}.toml" for name in ("refusals", "exe", "heap")]
    script = "set -e\n" + "".join(
        f'"$0" -m prctlmm_lab {command} {path}\n'
        for command in ("explain", "run --log $HOME/log.jsonl")
        for path in paths
    )
    told = as_ordinary_user(["sh", "-c", f"{script}wc -l <$HOME/log.jsonl", COMMAND[0]])
    assert (told.returncode, told.stderr) == (0, "")
    assert "DISAGREE" not in told.stdout
    *text, lines = told.stdout.splitlines()
    assert_readable("\n".join(text))
    assert int(lines) == 2 * sum(path.read_text().count("[[experiment]]") for path in paths)
