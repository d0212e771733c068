"""What the README shows is what one gets: its commands and its Python run, to the same output."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from prctlmm_lab import Specimen

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PROGRAM = ".venv/bin/prctlmm-lab"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def without_addresses(text: str) -> str:
    """Leave out what another layout or kernel changes: numbers in hex, and the kernel's release."""
    text = re.sub(r"\(\d+\.\d+\.\d[^\s)]*\)", "(release)", text)
    return re.sub(r"0x[0-9a-f]+", "0x", re.sub(r"Linux \S+", "Linux", text))


COMMANDS = [
    (lines[0].removeprefix(f"$ {PROGRAM} "), "".join(lines[1:]))
    for lines in (block.splitlines(keepends=True) for block in blocks("console"))
    if lines[0].startswith(f"$ {PROGRAM} ")
]


def test_the_readme_has_commands_to_test() -> None:
    assert len(COMMANDS) >= 2


@pytest.mark.parametrize(("command", "shown"), COMMANDS)
def test_a_command_prints_what_the_readme_shows(command: str, shown: str) -> None:
    arguments = [sys.executable, "-m", "prctlmm_lab", *shlex.split(command)]
    ran = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == (1 if command.startswith("compare") else 0), ran.stderr
    assert without_addresses(ran.stdout) == without_addresses(shown)


@pytest.mark.parametrize(
    ("program", "shown"), list(zip(blocks("python"), blocks("text"), strict=True))
)
def test_the_python_prints_what_the_readme_shows(program: str, shown: str) -> None:
    arguments = [sys.executable, "-c", program]
    ran = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == (shown, "")


def test_the_picture_is_made_by_the_command_beside_it(tmp_path: Path) -> None:
    """The layout is the kernel's choice each time, so the labels are compared, not the bytes."""
    found = re.search(r"`prctlmm-lab (run .*) --picture (docs/\S+)`", README)
    assert found is not None
    fresh = tmp_path / "fresh.svg"
    command = [sys.executable, "-m", "prctlmm_lab", *shlex.split(found[1]), "--picture", str(fresh)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    members = r"\b(?:start|end)_(?:code|data|stack|brk)\b|\bbrk\b|\b(?:arg|env)_(?:start|end)\b"
    kept = (ROOT / found[2]).read_text()
    assert set(re.findall(members, kept)) == set(re.findall(members, fresh.read_text()))
    assert len(set(re.findall(members, kept))) == 11


def test_the_specimen_is_as_small_as_the_readme_says() -> None:
    found = re.search(r"(\d+) bytes of code", README)
    assert found is not None
    with Specimen() as specimen:
        own = specimen.current_map()
    assert int(found[1]) == own.end_code - own.start_code


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_picture_of_a_sweep_is_made_by_the_command_beside_it(tmp_path: Path) -> None:
    """But for the caption, which tells another release elsewhere."""
    found = re.search(r"`prctlmm-lab (sweep .*) --picture (docs/\S+)`", README)
    assert found is not None
    fresh = tmp_path / "fresh.png"
    command = [sys.executable, "-m", "prctlmm_lab", *shlex.split(found[1]), "--picture", str(fresh)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    one, other = (imread(path)[:-80] for path in (ROOT / found[2], fresh))
    assert one.shape == other.shape
    assert (one != other).any(axis=2).mean() < 0.01


def test_the_report_of_conformance_is_as_the_readme_shows() -> None:
    """The kernel and the user are others elsewhere, and so may be what can be shown."""
    lead = "$ python3 -m prctlmm_lab conformance "
    (shown,) = (block for block in blocks("console") if block.startswith(lead))
    first, *lines = shown.splitlines()
    arguments = [sys.executable, "-m", "prctlmm_lab", "conformance"]
    command = [*arguments, *shlex.split(first.removeprefix(lead))]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    told = ran.stdout.splitlines()
    assert [line for line in lines if not line.startswith(("# Linux", "# Totals"))] == [
        line for line in told if not line.startswith(("# Linux", "# Totals"))
    ]
