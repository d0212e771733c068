"""Every notebook keeps the form of the course, and the tables of contents say what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.course.exercises import HOMES, exercises
from tests.notebooks import course_form
from tests.notebooks.course_form import (
    CONTENTS,
    METADATA,
    ROOT,
    Notebook,
    contents_rows,
    minutes_of,
    misspelt_members,
    problems,
    prose_problems,
    read,
)

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_keeps_the_form(path: Path) -> None:
    assert problems(read(path)) == []


@pytest.mark.parametrize("number", HOMES)
def test_what_its_exercises_say_is_written_as_carefully(number: str) -> None:
    for name, exercise in exercises(number).items():
        texts = [exercise.title, exercise.prompt, *exercise.hints]
        assert [*misspelt_members("\n".join(texts), set())] == [], name
        for text in texts:
            assert [*prose_problems(text)] == [], name


# ---- the tables of contents --------------------------------------------------------------------


def test_the_contents_name_every_notebook_in_order() -> None:
    assert [name for _, name in contents_rows()] == [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_contents_have_its_title_and_its_minutes(path: Path) -> None:
    first = read(path).cells("markdown")[0]
    title = f"{path.name[:2]} {first.partition(chr(10))[0].removeprefix('# ')}"
    for table, link in ((CONTENTS, path.name), (ROOT / "README.md", f"notebooks/{path.name}")):
        row = re.search(
            rf"^\| \[{re.escape(title)}\]\({link}\) \|.*$", table.read_text(), re.MULTILINE
        )
        assert row is not None, f"{table} does not have {title}"
        cells = [cell.strip() for cell in row[0].split("|")]
        assert str(minutes_of(first)) in cells, row[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_contents_name_the_notebook_to_read_first(path: Path) -> None:
    need = re.search(r"^\*\*Need:\*\*.*?( first|$)", read(path).cells("markdown")[0], re.MULTILINE)
    assert need is not None
    named = re.findall(r"\((\d\d)-[a-z-]+\.ipynb\)", need[0])
    row = next(line for line in CONTENTS.read_text().splitlines() if f"({path.name})" in line)
    assert row.split("|")[-2].strip() == (", ".join(named) or "-")


# ---- each rule sees what it is for -------------------------------------------------------------

OPENING = """# Explore a thing

**Do:** this.

**Learn:** that.

**Need:** 10 minutes, any user.

**Afterwards you can**

- do one thing;
- do another;
- do a third."""
SOURCES = [
    ("markdown", OPENING),
    ("code", "value = 1\nvalue"),
    ("markdown", "`brk` is a member, and `EINVAL` an errno.\n\n## Exercises\n\n"
     "**Exercise 98.1: One.** A map whose heap is empty."),
    ("code", 'answer = {}\ncheck("98.1", answer)'),
    ("markdown", "**Exercise 98.2: Two.** A number."),
    ("code", 'answer = None\ncheck("98.2", answer)'),
    ("markdown", "**Exercise 98.3: Why?** A word."),
    ("code", 'answer = """\n"""\ncheck("98.3", answer)'),
    ("markdown", "## What this does not show\n\nMuch.\n\n**Next:** [A thing](99-next.ipynb)"),
]  # fmt: skip


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """Write a notebook that keeps every rule, beside its contents and the one that follows."""
    contents = tmp_path / "README.md"
    contents.write_text("| [98 Explore a thing](98-a.ipynb) | x |\n| [99 N](99-next.ipynb) | x |\n")
    monkeypatch.setattr(course_form, "CONTENTS", contents)
    cells = [cell(kind, source, number) for number, (kind, source) in enumerate(SOURCES, 1)]
    whole = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "99-next.ipynb").write_text(dumped(whole))
    return Notebook(tmp_path / "98-a.ipynb", dumped(whole))


def cell(kind: str, source: str, number: int) -> dict[str, Any]:
    made: dict[str, Any] = {"cell_type": kind, "id": f"98-{number:02}", "metadata": {}}
    if kind == "code":
        made |= {"execution_count": None, "outputs": []}
    return made | {"source": source.splitlines(keepends=True)}


def dumped(whole: Any) -> str:
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def test_a_good_notebook_has_no_problems(good: Notebook) -> None:
    assert problems(good) == []


def in_cell(number: int, old: str, new: str) -> Callable[[Any], None]:
    """Return what replaces a text in a cell."""

    def change(whole: Any) -> None:
        source = "".join(whole["cells"][number]["source"])
        assert old in source
        whole["cells"][number]["source"] = source.replace(old, new).splitlines(keepends=True)

    return change


def in_data(*path: str | int, value: object) -> Callable[[Any], None]:
    """Return what puts a value into the document."""

    def change(whole: Any) -> None:
        for step in path[:-1]:
            whole = whole[step]
        whole[path[-1]] = value

    return change


BAD = [
    ("file_form", "metadata", in_data("metadata", "kernelspec", "name", value="other")),
    ("file_form", "nbformat", in_data("nbformat_minor", value=4)),
    ("identities", "ids", in_data("cells", 1, "id", value="97-02")),
    ("identities", "one id", in_data("cells", 1, "id", value="98-01")),
    ("no_outputs", "outputs", in_data("cells", 1, "outputs", value=[{}])),
    ("no_outputs", "count", in_data("cells", 1, "execution_count", value=3)),
    ("no_outputs", "metadata", in_data("cells", 1, "metadata", value={"tags": []})),
    ("short_cells", "13 lines", in_cell(1, "value = 1\n", "value = 1\n" * 12)),
    ("short_cells", "too long", in_cell(1, "value = 1", f"value = {'1' * 100}")),
    ("short_cells", "defines", in_cell(1, "value = 1", "if True:\n    def value(): 1")),
    ("opening", "title", in_cell(0, "# Explore", "Explore")),
    ("opening", "Learn", in_cell(0, "**Learn:** that.\n", "\n")),
    ("opening", "minutes", in_cell(0, "10 minutes", "a while")),
    ("opening", "objectives", in_cell(0, "- do another;\n", "")),
    ("opening", "objectives", in_cell(0, "**Afterwards you can**", "Afterwards")),
    ("exercises", "section", in_cell(2, "## Exercises", "## On your own")),
    ("exercises", "prompt", in_cell(4, "**Exercise 98.2: Two.** A number.", "A number.")),
    ("exercises", "prompt", in_cell(4, "98.2", "98.1")),
    ("exercises", "stub", in_cell(5, "answer = None\n", "1 + 1\n")),
    ("exercises", "stub", in_cell(5, "answer)", "answer)\nvalue")),
    ("exercises", "order", in_cell(5, "98.2", "98.4")),
    ("exercises", "at least", in_cell(7, 'check("98.3", answer)', "answer")),
    ("ending", "section", in_cell(8, "## What this does not show", "## Limits")),
    ("ending", "leads on", in_cell(8, "99-next", "98-a")),
    ("links", "not there", in_cell(8, "99-next", "97-none")),
    ("links", "heading", in_cell(8, "99-next.ipynb", "99-next.ipynb#Nowhere")),
    ("member_names", "arg_start is", in_cell(2, "`brk`", "`arg_strat`")),
    ("member_names", "start_brk is", in_cell(2, "`brk`", "`start_break`")),
    ("member_names", "end_stack is no", in_cell(2, "`brk`", "`end_stack`")),
    ("member_names", "heap_start is no", in_cell(1, "value = 1", 'value = "heap_start - 8"')),
    ("prose", "two spaces", in_cell(2, "is a", "is  a")),
    ("prose", "at the end", in_cell(2, "errno.", "errno. ")),
    ("prose", "simply", in_cell(2, "is a", "is simply a")),
    ("prose", "Obviously", in_cell(2, "`brk`", "Obviously `brk`")),
    ("prose", "just", in_cell(2, "`brk`", "Here you just run it: `brk`")),
    ("prose", "TODO", in_cell(2, "errno.", "errno. TODO")),
    ("prose", "kernal", in_cell(2, "errno.", "errno of the kernal.")),
    ("prose", "EINAVL", in_cell(2, "errno.", "errno, not EINAVL.")),
    ("field_words", "EINVAL", in_cell(2, "`EINVAL`", "EINVAL")),
    ("field_words", "start_brk", in_cell(2, "`brk`", "start_brk")),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "told", "change"), BAD, ids=[f"{r}-{t}" for r, t, _ in BAD])
def test_what_breaks_a_rule_is_told(
    good: Notebook, rule: str, told: str, change: Callable[[Any], None]
) -> None:
    whole = good.data
    change(whole)
    found = problems(Notebook(good.path, dumped(whole)))
    assert any(each.startswith(f"{rule}: ") and told in each for each in found), found


def test_another_way_of_writing_the_file_is_told(good: Notebook) -> None:
    assert "file_form" in problems(Notebook(good.path, good.text + "\n"))[0]


def test_every_rule_is_broken_once() -> None:
    assert {rule.__name__ for rule in course_form.RULES} == {rule for rule, _, _ in BAD}


@pytest.mark.parametrize(
    "text", ["has just started", "just that order", "just as freely", "`just  so`", "| a  | b |"]
)
def test_what_only_looks_wrong_is_let_be(text: str) -> None:
    assert [*prose_problems(f"It is so: {text} indeed.".replace("so: |", "so:\n|"))] == []
