"""What each omission leaves, seen in /proc by plain reads, and by real processes that go wrong."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from prctlmm_lab.errors import InputError, SpecimenGone
from prctlmm_lab.kernel.abi import ADDRESSES, MEMBER
from prctlmm_lab.kernel.rules import explain
from prctlmm_lab.restore.checkpoint import checkpoint
from prctlmm_lab.restore.equality import equal, is_restored
from prctlmm_lab.restore.image import Image
from prctlmm_lab.restore.omissions import (
    BEHAVIOURS,
    LEFT_OUT,
    SETTINGS,
    TITLE,
    Omission,
    omissions,
    omitted,
    subject,
)
from prctlmm_lab.restore.restorer import MapRefused, restore
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.situation import situation_of
from tests.needs import needs_ordinary_user, needs_user_namespaces
from tests.ordinary_user import as_ordinary_user

FOUND = {each.name: each for each in omissions()}
STAT = {
    26: "start_code", 27: "end_code", 28: "start_stack", 45: "start_data", 46: "end_data",
    47: "start_brk", 48: "arg_start", 49: "arg_end", 50: "env_start", 51: "env_end",
}  # fmt: skip
"""By the number that proc(5) gives each field."""


@pytest.fixture(scope="module")
def image() -> Image:
    with subject() as specimen:
        return checkpoint(specimen)


def of_stat(pid: int) -> dict[str, int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {name: int(fields[number - 3]) for number, name in STAT.items()}


def test_every_member_is_left_out_once_alone() -> None:
    alone = [members for name, members in LEFT_OUT.items() if name in members]
    assert sorted(name for members in alone for name in members) == sorted(MEMBER)
    assert len(alone) == len(MEMBER) - 1, "auxv and auxv_size are one"
    assert all(members == tuple(dict.fromkeys(members)) for members in LEFT_OUT.values())


def test_the_subject_is_restored_whole_and_no_member_is_a_fresh_specimens(image: Image) -> None:
    with restore(image) as restored:
        assert is_restored(equal(image, checkpoint(restored)))
    own = dict(image.map)
    with Specimen() as fresh:
        now = dict(fresh.current_map())
    assert not [name for name in ADDRESSES if own[name] == now[name]]
    with restore(image) as restored:
        assert Path(f"/proc/{restored.pid}/cmdline").read_bytes() == TITLE
        assert Path(f"/proc/{restored.pid}/environ").read_bytes() == SETTINGS


@pytest.mark.parametrize("name", [name for name, each in FOUND.items() if not each.restored])
def test_what_is_refused_is_refused_by_the_order_of_its_pair(name: str, image: Image) -> None:
    each = FOUND[name]
    if each.why_not:
        needs_user_namespaces()
    with pytest.raises(MapRefused) as refused:
        restore(image, omit=each.members).stop()
    decides = refused.value.explanation.deciding
    assert decides
    assert decides.rule.id == each.rule
    assert name in decides.rule.members
    # The same by a plain call: the kept member beside the image's others.
    with Specimen() as specimen:
        mixed = image.map.changed(**{name: dict(specimen.current_map())[name]})
        expected = explain(situation_of(specimen, mixed), facts_here())
        assert specimen.set_map(mixed) == expected.errno != 0


@pytest.mark.parametrize("name", [name for name, each in FOUND.items() if each.restored])
def test_stat_shows_exactly_what_was_left_out(name: str, image: Image) -> None:
    each, own = FOUND[name], dict(image.map)
    with restore(image, omit=each.members) as restored:
        now = of_stat(restored.pid)
        other = {member for member, value in now.items() if value != own[member]}
        exe = os.readlink(f"/proc/{restored.pid}/exe")
    assert other == {*each.members} & {*now}
    assert other == {p.removeprefix("stat ") for p in each.shown if p.startswith("stat ")}
    assert ("editor" not in exe) == (name == "exe_fd" or not image.credentials.own_user_namespace)


def lines(pid: int, label: str) -> int:
    return sum(line.endswith(label) for line in Path(f"/proc/{pid}/maps").read_text().splitlines())


def test_labels_and_texts_are_what_plain_reads_show(image: Image) -> None:
    assert FOUND["start_stack"].shown["maps [stack]"] == "none"
    with restore(image, omit=("start_stack",)) as restored:
        assert lines(restored.pid, "[stack]") == 0
    assert FOUND["brk"].shown["maps [heap]"] == "several areas"
    with restore(image, omit=("brk",)) as restored:
        assert lines(restored.pid, "[heap]") > 1
    with restore(image, omit=("arg_end",)) as restored:
        shown = Path(f"/proc/{restored.pid}/cmdline").read_bytes()
    assert shown.startswith(TITLE + SETTINGS)
    assert FOUND["arg_end"].shown["cmdline"].startswith(f"{len(shown)} bytes")


def test_a_forgotten_brk_lets_the_program_unmap_itself(image: Image) -> None:
    with restore(image, omit=("brk",)) as restored:
        assert image.map.brk + PAGE < restored.entry < restored.brk()
        with pytest.raises(SpecimenGone, match="SIGSEGV"):
            restored.brk(image.map.brk + PAGE)
    assert "unmaps" in FOUND["brk"].broken["heap"]
    with restore(image) as whole:
        assert whole.brk(image.map.brk + PAGE) == image.map.brk + PAGE
        whole.write(image.map.brk, b"more")


def test_a_forgotten_start_of_data_counts_against_the_limit(image: Image) -> None:
    assert FOUND["start_data"].broken == {"heap under a limit": "brk() refuses"}
    with restore(image, omit=("start_data",)) as restored:
        wanted = image.map.brk + PAGE
        restored.set_limit("DATA", 1 << 30)
        assert restored.brk(wanted) == image.map.brk
        restored.set_limit("DATA", restored.limit("DATA")[1])
        assert restored.brk(wanted) == wanted


def test_what_nobody_looks_at_breaks_nothing() -> None:
    quiet = ("start_code", "end_code", "start_data", "end_data", "start_stack")
    each = omitted("quiet", quiet)
    assert each.restored
    assert each.broken == {}
    assert {*BEHAVIOURS} >= {key for found in FOUND.values() for key in found.broken}


def test_the_core_file_is_that_of_the_notes() -> None:
    assert FOUND["arguments, both ends"].broken["core: arguments"] == "none"
    assert FOUND["auxv"].broken["core: vector"] == "the restorer's"


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(KeyError):
        omissions("heap")
    with pytest.raises(InputError, match="start_bkr"):
        omitted("x", ("start_bkr",))


AS_NOBODY = """
import os
from prctlmm_lab.restore.omissions import omissions
print(os.getuid(), [(e.name, e.verdict, e.rule, dict(e.broken)) for e in omissions()])
"""


def test_an_ordinary_user_sees_the_same() -> None:
    needs_ordinary_user()
    done = as_ordinary_user(AS_NOBODY)
    assert done.returncode == 0, done.stderr
    uid, _, rest = done.stdout.strip().partition(" ")
    assert int(uid) != 0
    assert rest == str(told(FOUND.values()))


def told(found: Iterable[Omission]) -> list[object]:
    return [(e.name, e.verdict, e.rule, dict(e.broken)) for e in found]
