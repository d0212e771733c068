"""Looks at a living specimen, and the ProcViewer: nothing is lost, nothing is left running."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab import Specimen
from prctlmm_lab.errors import InputError, SpecimenGone
from prctlmm_lab.kernel.abi import MEMBER
from prctlmm_lab.kernel.difference import difference
from prctlmm_lab.views import following as module
from prctlmm_lab.views.following import ProcViewer
from prctlmm_lab.views.looks import (
    ARENA_TEXT,
    CALLS,
    MOST_LOOKS,
    PLACES,
    Following,
    parse_changes,
)


@pytest.fixture
def following() -> Iterator[Following]:
    made = Following()
    yield made
    made.close()


@pytest.fixture
def viewer() -> Iterator[ProcViewer]:
    made = ProcViewer(every=0.01)
    yield made
    made.close()


# ---- plain calls --------------------------------------------------------------------------------


def test_a_look_has_what_changed_since_the_one_before(following: Following) -> None:
    first = following.last
    look = following.call("end_code = end_code + page")
    assert look.changes == difference(first.snapshot, look.snapshot) != ()
    assert (first.number, look.number, look.before) == (1, 2, first.snapshot)
    assert following.look().changes == ()
    assert [each.number for each in following.looks] == [1, 2, 3]


def test_every_place_shows_what_the_file_says(following: Following) -> None:
    specimen, look = following.specimen, following.last
    assert specimen is not None
    stat = Path(f"/proc/{specimen.pid}/stat").read_text().rpartition(")")[2].split()
    for line in look.lines("stat"):
        field, name = line.name.split()
        assert int(line.text, 16) == int(stat[int(field) - 3])
        assert MEMBER[name].stat_field == int(field)
    maps = Path(f"/proc/{specimen.pid}/maps").read_text().splitlines()
    ends = [line.split()[0].split("-") for line in maps]
    ranges = [f"{int(start, 16):#x}-{int(end, 16):#x}" for start, end in ends]
    assert [line.name for line in look.lines("maps")] == ranges[::-1]
    assert look.lines("brk()")[0].text == hex(specimen.brk())
    pages = Path(f"/proc/{specimen.pid}/statm").read_text().split()
    assert [line.text for line in look.lines("statm")] == [pages[0], pages[3], pages[5]]
    assert look.lines("cmdline")[0].text == repr(b"specimen\0")


@pytest.mark.parametrize("name", CALLS)
def test_each_call_to_choose_does_what_it_says(following: Following, name: str) -> None:
    look = following.call(CALLS[name])
    shown = look.snapshot
    accepted = "accepted" in look.what
    assert accepted != name.startswith("Refused"), look.what
    expected = {
        "No command line": shown.cmdline == b"",
        "A command line in a page of its own": shown.cmdline == ARENA_TEXT[:28],
        "A title that runs on into the environment":
            shown.cmdline == b"a title longer than its room\0",
        "An environment that it never had": shown.environ == b"NOTE=/nowhere\0",
        "A page more of code": any(c.place == "statm" for c in look.changes),
        "1 GiB of data": [c.name for c in look.changes] == ["end_data"],
        "No [heap]": shown.brk == shown.members["start_brk"],
        "No [stack]": not shown.labelled("[stack]"),
        "Two pages below the stack": any(c.place == "maps" for c in following.look().changes),
        "Refused: a command line that ends before it begins":
            look.what.endswith(": EINVAL by order.arg") and look.changes == (),
    }  # fmt: skip
    assert expected[name]
    assert following.put_back().snapshot.members == following.looks[0].snapshot.members


def test_text_and_html_mark_the_same_lines(following: Following) -> None:
    look = following.call("start_stack = lowest, arg_end = arg_start")
    text, html = look.text(PLACES), look.html(PLACES)
    changed = [line for place in PLACES for line in look.lines(place) if line.was is not None]
    assert len(changed) == text.count("\n* ") == html.count("≠ ") == 4
    assert "(was rw-p [stack])" in text
    assert following.put_back().changes != ()


def test_what_is_gone_and_what_is_new_is_told(following: Following) -> None:
    specimen = following.specimen
    assert specimen is not None
    area = following.last.snapshot.vma_at(specimen.map(4096))
    assert area is None
    grown = following.look("mapped")
    assert "(was not there)" in grown.text(["maps"])
    start, _ = following._bench.regions["arena"]
    specimen.unmap(start - 4096, 8192)
    assert "(gone)" in following.look("unmapped").text(["maps"])
    assert "(gone)" in following.last.html(["maps"])


def test_only_what_is_different_is_kept_when_nobody_asks(following: Following) -> None:
    specimen = following.specimen
    assert specimen is not None
    assert following.look_if_changed() is None
    assert specimen.set_map(specimen.current_map().changed(arg_end=1 << 20, arg_start=1 << 20)) == 0
    look = following.look_if_changed()
    assert look is not None
    assert look.snapshot.cmdline == b""
    assert following.look_if_changed() is None
    assert len(following.looks) == 2


def test_it_never_waits_for_a_specimen_that_somebody_uses(following: Following) -> None:
    specimen = following.specimen
    assert specimen is not None
    taken, done = threading.Event(), threading.Event()

    def use() -> None:
        with specimen.undivided:
            taken.set()
            assert done.wait(30)

    thread = threading.Thread(target=use)
    thread.start()
    assert taken.wait(30)
    try:
        assert following.look_if_changed() is None
    finally:
        done.set()
        thread.join(30)


def test_a_specimen_that_is_given_is_not_ended() -> None:
    with Specimen() as specimen:
        page = specimen.map(4096)
        specimen.write(page, b"mine\0")
        given = Following(specimen, {"mine": (page, page + 4096)})
        look = given.call({"arg_start": "mine.start", "arg_end": "mine.start + 5"})
        assert look.snapshot.cmdline == b"mine\0"
        given.close()
        assert specimen.alive
    with pytest.raises(SpecimenGone):
        given.look()


def test_the_oldest_looks_go_first(following: Following) -> None:
    for _ in range(MOST_LOOKS):
        following.look()
    assert (following.looks[0].number, len(following.looks)) == (2, MOST_LOOKS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "changes nothing"),
        ("arg_end", "is no change"),
        ("arg_end =", "is no change"),
        ("brk = 1, brk = 2", "changed twice"),
        ("arg_edn = 1", "expected arg_end?"),
        ("brk = nothing", "is not a known name"),
        ("brk = __import__('os')", "is not a formula"),
        ("brk = -1", "does not fit"),
        ("exe_fd = 1 << 32", "does not fit"),
        ("arg_end = arg_start, arg_start = arg_end", "needs itself"),
        ("brk = " + "1 + " * 400 + "1", "too many"),
    ],
)
def test_changes_that_are_none_are_one_sentence(
    following: Following, text: str, problem: str
) -> None:
    with pytest.raises(InputError, match=re.escape(problem)):
        following.call(text)
    assert len(following.looks) == 1


def test_changes_may_stand_on_lines_too() -> None:
    assert parse_changes("brk = 1,\n arg_end=arg_start\n") == {"brk": "1", "arg_end": "arg_start"}


def test_hostile_bytes_stay_text() -> None:
    with Specimen(arguments=[b"<script>alert(1)</script>\x1b[31m"]) as specimen:
        look = Following(specimen).last
        assert "<script" not in look.html(PLACES) + look.picture()
        assert "\x1b" not in look.text(PLACES) + look.html(PLACES)


# ---- the widget ---------------------------------------------------------------------------------


def test_every_control_has_a_name_and_says_what_it_does(viewer: ProcViewer) -> None:
    controls = [
        viewer.choice, viewer.entry, viewer.look_button, viewer.follow_toggle, viewer.call_button,
        viewer.back_button, viewer.history, viewer.with_picture, viewer.as_text,
        *viewer.places.values(),
    ]  # fmt: skip
    for control in controls:
        assert control.description
        assert control.tooltip


def test_a_choice_writes_its_changes_and_a_call_makes_them(viewer: ProcViewer) -> None:
    viewer.choice.value = CALLS["No command line"]
    assert viewer.entry.value == "arg_end = arg_start"
    viewer.call_button.click()
    assert "accepted" in viewer.view.value
    assert "≠ 49 arg_end" in viewer.view.value
    assert "<svg" in viewer.picture.value
    viewer.back_button.click()
    assert "put back: accepted" in viewer.view.value


def test_one_can_go_back_to_an_earlier_look(viewer: ProcViewer) -> None:
    viewer.entry.value = "arg_end = arg_start"
    viewer.call_button.click()
    newest = viewer.view.value
    assert [number for _, number in viewer.history.options] == [1, 2]
    viewer.history.value = 1
    assert "started (the first)" in viewer.view.value
    viewer.history.value = 2
    assert viewer.view.value == newest
    viewer.history.value = 1
    viewer.look_button.click()
    assert viewer.history.value == 3, "a new look is shown"


def test_places_are_chosen_and_the_text_twin_says_the_same(viewer: ProcViewer) -> None:
    for place in PLACES:
        viewer.places[place].value = place == "auxv"
    assert "AT_PHDR" in viewer.view.value
    assert "start_code" not in viewer.view.value
    viewer.as_text.value = True
    assert "<pre" in viewer.view.value
    assert "AT_PHDR" in viewer.view.value
    viewer.with_picture.value = False
    assert viewer.picture.value == ""


def test_what_does_not_parse_is_said_and_not_lost(viewer: ProcViewer) -> None:
    viewer.entry.value = "<img src=x>"
    viewer.call_button.click()
    assert 'role="alert"' in viewer.message.value
    assert "<img" not in viewer.message.value
    viewer.look_button.click()
    assert viewer.message.value == ""


def test_a_mistake_in_a_handler_is_shown_and_marked(
    viewer: ProcViewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer.following, "look", lambda: 1 / 0)
    viewer.look_button.click()
    assert "data-lab-error" in viewer.message.value


def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="is no place"):
        ProcViewer(places=["smaps"])


# ---- following ----------------------------------------------------------------------------------


async def until(wanted: Any, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not wanted():
            await asyncio.sleep(0.005)


def test_it_follows_what_others_do_and_keeps_no_look_without_a_change(viewer: ProcViewer) -> None:
    specimen = viewer.following.specimen
    assert specimen is not None

    async def follow() -> None:
        viewer.follow_toggle.value = True
        assert viewer.is_following
        await asyncio.sleep(0.1)
        assert len(viewer.following.looks) == 1
        specimen.set_map(specimen.current_map().changed(start_code=1 << 20))
        await until(lambda: len(viewer.following.looks) == 2)
        assert "changed by somebody" in viewer.view.value
        assert "0x100000" in viewer.view.value
        task = viewer._task
        assert task is not None
        viewer.follow_toggle.value = False
        await until(task.done)
        assert not viewer.is_following

    asyncio.run(follow())


def test_it_stops_when_the_specimen_ends_and_says_so(viewer: ProcViewer) -> None:
    async def follow() -> None:
        viewer.follow_toggle.value = True
        task = viewer._task
        assert task is not None
        assert viewer.following.specimen is not None
        viewer.following.specimen.stop()
        await until(task.done)
        assert task.exception() is None

    asyncio.run(follow())
    assert viewer.follow_toggle.value is False
    assert "No longer following: specimen" in viewer.message.value
    assert "started" in viewer.view.value, "the looks stay"


def test_a_mistake_while_following_is_shown_and_ends_it(
    viewer: ProcViewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def follow() -> None:
        monkeypatch.setattr(viewer.following, "look_if_changed", lambda: 1 / 0)
        viewer.follow_toggle.value = True
        task = viewer._task
        assert task is not None
        await until(task.done)
        assert task.exception() is None

    asyncio.run(follow())
    assert "ZeroDivisionError" in viewer.message.value
    assert "data-lab-error" in viewer.message.value
    assert viewer.follow_toggle.value is False


def test_it_ends_by_itself_when_nothing_changes(
    viewer: ProcViewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_FOLLOWING", 0.05)

    async def follow() -> None:
        viewer.follow_toggle.value = True
        await until(lambda: not viewer.is_following)

    asyncio.run(follow())
    assert "nothing changed for" in viewer.message.value
    assert viewer.follow_toggle.value is False


def test_closing_ends_the_following_and_the_specimen() -> None:
    viewer = ProcViewer(every=3600)  # it would not end by itself
    specimen = viewer.following.specimen
    assert specimen is not None

    async def follow() -> None:
        viewer.follow_toggle.value = True
        task = viewer._task
        assert task is not None
        viewer.close()
        await until(task.done)

    asyncio.run(follow())
    assert not specimen.alive


def test_without_an_event_loop_it_says_so(viewer: ProcViewer) -> None:
    viewer.follow_toggle.value = True
    assert "no event loop runs" in viewer.message.value
    assert viewer.follow_toggle.value is False


def test_a_viewer_that_is_thrown_away_leaves_nothing() -> None:
    shown = ProcViewer()
    specimen = shown.following.specimen
    assert specimen is not None
    gone = weakref.ref(shown)
    shown.close()
    assert not specimen.alive
    del shown
    gc.collect()
    assert gone() is None
