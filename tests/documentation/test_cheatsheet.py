"""The cheat sheet: one page of A4 that holds the lab's tables, tells the truth and can be read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text as Drawn

from prctlmm_lab.kernel.abi import MEMBERS
from prctlmm_lab.kernel.releases import CHANGES
from prctlmm_lab.kernel.rules import RULES, errno_name
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.views import cheatsheet
from prctlmm_lab.views.cheatsheet import (
    ANYBODY,
    HEIGHT,
    ITSELF,
    PLACES,
    PYTHON_PROGRAM,
    SMALLEST,
    THE_SAME_USER,
    WIDTH,
    c_program,
    cheat_sheet,
    sheet,
)
from prctlmm_lab.views.scene import Text
from tests.command_line.command import prctlmm_lab
from tests.needs import needs_ordinary_user, needs_root, needs_tool
from tests.ordinary_user import as_ordinary_user


def texts() -> list[Text]:
    return [mark for mark in sheet().marks if isinstance(mark, Text)]


def words() -> str:
    """Return all words in the order of the page, those of a column together."""
    by_column = sorted(texts(), key=lambda text: (round(text.x, 3), text.y))
    return " ".join(" ".join(text.text for text in by_column).split())


# ---- it is one page that can be read -----------------------------------------------------------


def test_the_command_writes_one_page_of_a4_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    files = [tmp_path / "one.pdf", tmp_path / "two.pdf"]
    for seed, file in enumerate(files):
        ran = prctlmm_lab("cheatsheet", file, more={"PYTHONHASHSEED": str(seed)})
        assert (ran.returncode, ran.stdout) == (0, "")
        assert ran.stderr == f"prctlmm-lab: {file} written\n"
    one, two = (file.read_bytes() for file in files)
    assert one == two
    assert one.count(b"/Type /Page ") == 1
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", one)
    assert box is not None
    assert [float(side) for side in box.groups()] == pytest.approx([595.28, 841.89], abs=0.1)


def test_another_ending_is_refused_before_anything_is_made() -> None:
    ran = prctlmm_lab("cheatsheet", "sheet.txt")
    assert ran.returncode == 2
    assert "FILE: sheet.txt has no ending of a picture" in ran.stderr


def drawn() -> list[Any]:
    """Return the texts as matplotlib draws them, with their extents in millimetres."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = cheat_sheet()
    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    scale = 25.4 / figure.dpi
    found = []
    for text in figure.findobj(Drawn):
        if text.get_text():
            extent = text.get_window_extent(renderer)
            found.append((text, extent.x0 * scale, extent.y0 * scale, extent.x1 * scale,
                          extent.y1 * scale))  # fmt: skip
    return found


def test_every_text_is_large_enough_and_on_the_page() -> None:
    for text, left, bottom, right, top in drawn():
        assert text.get_fontsize() >= SMALLEST - 1e-6, text.get_text()
        assert left >= 7
        assert bottom >= 5
        assert right <= WIDTH - 7, text.get_text()
        assert top <= HEIGHT - 7


def test_no_text_lies_on_another() -> None:
    boxes = sorted(drawn(), key=lambda box: -box[4])
    assert len(boxes) > 200
    overlapping = [
        (one[0].get_text(), other[0].get_text())
        for number, one in enumerate(boxes)
        for other in boxes[number + 1 :]
        # Of a line's height the type itself takes the middle: accents and tails may touch.
        if min(one[3], other[3]) - max(one[1], other[1]) > 0.1
        and min(one[4], other[4]) - max(one[2], other[2]) > 0.5
    ]
    assert overlapping == []


def test_tables_that_outgrow_the_page_are_no_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cheatsheet, "CHANGES", CHANGES * 2)
    with pytest.raises(ValueError, match="mm high"):
        sheet()


# ---- it holds the tables -----------------------------------------------------------------------


def test_every_member_is_there_with_its_offset_meaning_and_places() -> None:
    said, on_page = words(), texts()
    for member in MEMBERS:
        assert member.meaning in said
        heights = {t.y for t in on_page if t.text == member.name and t.bold}
        (row,) = (t.y for t in on_page if t.text == str(member.offset) and t.y in heights)
        if member.stat_field:
            assert str(member.stat_field) in [t.text for t in on_page if t.y == row]


def test_every_place_of_a_member_is_told_with_who_may_look() -> None:
    places = {name for place in PLACES for name in re.split(r", ?", place.name)}
    shown = " ".join(place for member in MEMBERS for place in member.shows)
    named = set(re.findall(r"/proc/PID/(\w+)", shown)) | {"smaps", "numa_maps"}
    assert named | {"brk(0)", "PR_GET_AUXV"} == places


def test_every_rule_is_there_in_order_with_its_errno() -> None:
    names = [rule.id for rule in RULES if not rule.id.startswith("range.")]
    on_page = texts()
    at = {text.text: text.y for text in on_page if text.bold}
    assert [at[name] for name in names] == sorted(at[name] for name in names)
    assert at["call.struct"] < at["range.*"] < at["order.code"]
    for rule in RULES:
        name = rule.id if rule.id in at else "range.*"
        beside = {text.text for text in on_page if text.y == at[name]}
        # What v4.14 to v5.1 asked for a change of the link they refused with EINVAL.
        expected = "EINVAL" if rule.id == "exe.permission_early" else errno_name(rule.errno)
        assert expected in beside, rule.id


def test_rules_of_older_kernels_say_until_when() -> None:
    said, dated = words(), 0
    for rule in RULES:
        if rule.id in ("exe.permission", "exe.permission_early"):
            continue  # they have one title; the next test has them
        ended = re.match(r"v3\.18 to v(\d+)\.(\d+)", rule.history)
        found = re.search(rf"{re.escape(rule.title)} \(before v(\d+)\.(\d+)\)", said)
        assert (found is None) == (ended is None), rule.id
        if found and ended:
            assert (int(found[1]), int(found[2])) == (int(ended[1]), int(ended[2]) + 1)
            dated += 1
    assert dated == 4


def test_the_permission_that_came_early_says_until_when() -> None:
    assert "namespace (before v5.2)" in words()


def test_every_change_is_there_with_its_release_and_its_stable_kernels() -> None:
    said = words()
    for change in CHANGES:
        assert change.what in said
        assert str(change.first) in said
        for series, number in change.stable.items():
            assert f"{series}.{number}" in said


def test_what_is_new_in_a_table_comes_onto_the_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    new = replace(CHANGES[0], what="Something new.")
    monkeypatch.setattr(cheatsheet, "CHANGES", (*CHANGES[1:], new))
    assert "Something new." in words()


# ---- it tells the truth ------------------------------------------------------------------------


def test_the_c_program_renames_itself(tmp_path: Path) -> None:
    needs_tool("gcc")
    source, program = tmp_path / "sheet.c", tmp_path / "sheet"
    source.write_text(c_program() + "\n")
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source)]
    subprocess.run(command, check=True, timeout=60)
    ran = subprocess.run([program], capture_output=True, check=True, timeout=60)
    assert ran.stdout == b"a new name\0"


def test_the_c_program_renames_itself_for_an_ordinary_user(tmp_path: Path) -> None:
    needs_tool("gcc")
    needs_ordinary_user()
    code = (
        "import subprocess, pathlib\n"
        f"pathlib.Path('sheet.c').write_text({c_program()!r})\n"
        "subprocess.run(['gcc', '-o', 'sheet', 'sheet.c'], check=True, timeout=60)\n"
        "print(subprocess.run(['./sheet'], capture_output=True, timeout=60).stdout)"
    )
    ran = as_ordinary_user(code)
    assert (ran.returncode, ran.stdout) == (0, "b'a new name\\x00'\n"), ran.stderr


def test_the_python_program_renames_a_specimen() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PYTHON_PROGRAM], capture_output=True, text=True, timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("accepted\nerrno 0\nb'a new name\\x00'\n", "")


READ = """
import json, os, pathlib, sys
content = lambda path: pathlib.Path(path).read_bytes().decode("latin-1")
told = {}
for name in sys.argv[2].split():
    path = f"/proc/{sys.argv[1]}/{name}"
    try:
        told[name] = os.readlink(path) if name == "exe" else content(path)
    except OSError as error:
        told[name] = None
print(json.dumps(told))
"""


def test_who_may_read_a_place_is_as_the_kernel_has_it() -> None:
    """A stranger, and the user whose process it is, look at the same specimen."""
    needs_root()
    needs_ordinary_user()
    names = {n: place.readers for place in PLACES for n in re.split(r", ?", place.name)
             if place.readers != ITSELF and os.path.exists(f"/proc/self/{n}")}  # fmt: skip
    with Specimen() as specimen:
        asked = [str(specimen.pid), " ".join(names)]
        own = subprocess.run([sys.executable, "-c", READ, *asked], capture_output=True, timeout=60)
        stranger = as_ordinary_user([sys.executable, "-c", READ, *asked])
    mine, theirs = json.loads(own.stdout), json.loads(stranger.stdout)
    assert set(names.values()) == {ANYBODY, THE_SAME_USER}
    for name, readers in names.items():
        assert mine[name], name
        assert (theirs[name] is not None) == (readers == ANYBODY), name
    fields = theirs["stat"].rpartition(")")[2].split()
    seen = {m.name: int(fields[m.stat_field - 3]) for m in MEMBERS if m.stat_field}
    assert {name for name, value in seen.items() if value == 1} == {"start_code", "end_code"}
    assert set(seen.values()) == {0, 1}
