"""`prctlmm-lab checkpoint` and `prctlmm-lab restore`: from a recipe to a folder and back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from prctlmm_lab.cli import main
from prctlmm_lab.restore.image import Image
from tests.command_line.command import (
    COMMAND,
    RECIPES,
    assert_readable,
    environment,
    prctlmm_lab,
    recipe,
)

HEAP = (RECIPES / "heap.toml", "--only", "heap-up")


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Give a folder with the image of an experiment."""
    assert main(["checkpoint", *map(str, HEAP), str(tmp_path / "image")]) == 0
    capsys.readouterr()
    return tmp_path / "image"


def test_an_experiment_is_saved_and_restored(tmp_path: Path) -> None:
    """Each command in a process of its own."""
    told = prctlmm_lab("checkpoint", *HEAP, "image", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    first, second = told.stdout.splitlines()
    assert first == "heap-up: predicted accepted, kernel accepted"
    assert second.startswith("  saved in image: ")
    assert second.endswith(" of contents")
    image = Image.load(tmp_path / "image")
    told = prctlmm_lab("restore", "image", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert_readable(told.stdout)
    lines = [" ".join(line.split()) for line in told.stdout.splitlines()]
    assert f"= brk {image.map.brk:#x}" in lines
    assert lines[-1] == "restored: yes"
    assert not [line for line in lines if line.startswith("#")]


def test_both_print_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "image")
    assert main(["checkpoint", *map(str, HEAP), path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    image = Image.load(path)
    assert told == {
        "experiment": "heap-up", "outcome": "accepted", "folder": path,
        "areas": len(image.areas), "bytes": image.size, "left_out": list(image.left_out),
    }  # fmt: skip
    assert main(["restore", path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["restored"] is True
    brk = next(row for row in told["rows"] if row["what"] == "brk")
    assert brk == {"what": "brk", "before": hex(image.map.brk), "after": hex(image.map.brk),
                   "equal": True, "explanation": ""}  # fmt: skip


def test_a_member_left_out_is_status_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    omit = ["--omit", "arg_start", "--omit", "arg_end"]
    assert main(["restore", str(folder), *omit]) == 1
    told = capsys.readouterr().out
    assert told.endswith("restored: no\n")
    assert [line.split()[1] for line in told.splitlines() if line.startswith("#")] == [
        "arg_start", "arg_end", "cmdline",
    ]  # fmt: skip


def test_a_refused_map_is_status_1_with_its_rule(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["restore", str(folder), "--omit", "brk"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "the kernel refused the map of the image: EINVAL: start_brk <= brk" in told.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["restore", "nothing"], "folder: "),
        (["restore", "image", "--omit", "brk2"], "'brk2' is not a member"),
        (["checkpoint", str(HEAP[0]), "new"], "FOLDER: shows one experiment"),
        (["checkpoint", *map(str, HEAP), "image"], "is not empty"),
        (["checkpoint", *map(str, HEAP), "no/folder"], "cannot be written"),
    ],
)
def test_bad_input_is_status_2_with_one_sentence(
    folder: Path, arguments: list[str], words: str
) -> None:
    told = prctlmm_lab(*arguments, cwd=folder.parent)
    assert (told.returncode, told.stdout) == (2, "")
    assert words in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_a_hostile_text_is_shown_and_not_acted_on(folder: Path) -> None:
    path = folder / "image.json"
    data = json.loads(path.read_text())
    data["left_out"] = ["\x1b]0;a title\x07\nnext"]
    path.write_text(json.dumps(data))
    told = prctlmm_lab("restore", folder)
    assert_readable(told.stdout)
    assert r"\x1b]0;a title\x07\nnext" in " ".join(told.stdout.split())


def test_a_refused_experiment_can_be_saved_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, 'id = "refused"\n[experiment.change]\nend_code = "0"')
    assert main(["checkpoint", str(path), str(tmp_path / "image")]) == 0
    assert "kernel EINVAL" in capsys.readouterr().out
    assert main(["restore", str(tmp_path / "image")]) == 0


def test_it_can_be_held_to_be_looked_at(folder: Path) -> None:
    command = [*COMMAND, "restore", str(folder), "--hold"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        words = process.stderr.readline().split()
        assert (words[1], words[3]) == ("process", "waits")
        assert Path(f"/proc/{words[2]}/comm").read_text() == "specimen\n"
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert not os.path.exists(f"/proc/{words[2]}")
