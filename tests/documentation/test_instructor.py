"""The instructor's guide names exercises, sections, commands and files that are there."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from bench import __main__ as bench
from prctlmm_lab import Logbook
from prctlmm_lab.cli import COMMANDS
from prctlmm_lab.course.exercises import exercises
from tests.notebooks.course_form import prose_problems, read

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "instructor.md").read_text("utf-8")
NOTEBOOKS = {path.name[:2]: path for path in (ROOT / "notebooks").glob("*.ipynb")}
PLANS = {60: "Sixty minutes", 180: "Three hours", 360: "Six hours"}


def rows(plan: str) -> list[tuple[int, int, str]]:
    """Return from, to and what of each row of a plan."""
    section = re.split(r"^## ", GUIDE.partition(f"## {plan}")[2], flags=re.MULTILINE)[0]
    found = re.findall(r"^\| (\d+)-(\d+) \| (.*?) \|", section, re.MULTILINE)
    return [(int(start), int(end), what) for start, end, what in found]


@pytest.mark.parametrize(("minutes", "plan"), PLANS.items())
def test_a_plan_fills_its_time_without_a_gap(minutes: int, plan: str) -> None:
    planned = rows(plan)
    if minutes == 360:
        planned = rows(PLANS[180]) + planned
    assert planned[0][0] == 0
    assert planned[-1][1] == minutes
    for (_, end, _), (start, after, _) in pairwise(planned):
        assert end == start < after


@pytest.mark.parametrize("plan", PLANS.values())
def test_every_section_that_a_plan_names_is_in_its_notebook(plan: str) -> None:
    for _, _, what in rows(plan):
        named = re.search(r"\b(\d\d)\b", what)
        for title in re.findall(r'"([^"]+)"', what):
            assert named is not None
            heads = re.findall(r"^## (.+)$", "\n".join(read(NOTEBOOKS[named[1]]).cells("markdown")),
                               re.MULTILINE)  # fmt: skip
            assert title in [head.replace("`", "") for head in heads], (named[1], title)


def test_every_exercise_that_is_named_exists() -> None:
    named = set(re.findall(r"\b(\d\d\.\d)\b(?!\.)", GUIDE))
    assert len(named) > 15
    for number in named:
        assert number in exercises(number[:2])


def test_every_command_that_is_named_exists() -> None:
    known = {command.__name__.rpartition(".")[2] for command in COMMANDS}
    named = set(re.findall(r"prctlmm-lab (?!lab\b\.)([a-z]+)\b", GUIDE))
    assert {"compare", "doctor", "replay"} <= named <= known
    goals = set(re.findall(r"\bmake (lab|book|cheatsheet|\w+sheet)\b", GUIDE))
    makefile = (ROOT / "Makefile").read_text()
    assert goals >= {"lab", "book", "cheatsheet"}
    assert all(re.search(rf"^{goal}:", makefile, re.MULTILINE) for goal in goals)
    measures = set(re.findall(r"python -m bench (\w+)", GUIDE))
    assert {"classroom"} <= measures <= bench.NAMES.keys()


def test_every_link_and_every_path_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", GUIDE):
        assert (ROOT / "docs" / target).exists(), target
    for path in re.findall(r"`?\.venv/bin/python (\S+\.py)", GUIDE):
        assert (ROOT / path).is_file(), path
    assert "mybinder.org/v2/gh/OWNER/REPOSITORY/HEAD?urlpath=lab/tree/" in GUIDE
    opened = re.search(r"lab/tree/(\S+\.ipynb)", GUIDE)
    assert opened is not None
    assert (ROOT / opened[1]).is_file()


def test_what_is_said_of_a_logbook_can_be_called() -> None:
    for name in re.findall(r"Logbook\([^)]*\)(?:\.last\(8\))?\.(\w+)\(", GUIDE):
        assert hasattr(Logbook, name)


@pytest.mark.parametrize("path", ["docs/instructor.md", "notebooks/README.md"])
def test_it_is_written_as_carefully_as_a_notebook(path: str) -> None:
    assert [*prose_problems((ROOT / path).read_text("utf-8"))] == []
