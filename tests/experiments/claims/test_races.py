"""Races: looks that are made up are judged right, and the live ones can come out either way."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest

from prctlmm_lab.cli import main
from prctlmm_lab.errors import LabError, SpecimenGone, UnsupportedSystem
from prctlmm_lab.experiments import races
from prctlmm_lab.experiments.claims import races as claims
from prctlmm_lab.experiments.claims import requirements
from prctlmm_lab.experiments.claims.claim import Claim, Shown, Verdict, settle
from prctlmm_lab.experiments.experiment import run
from prctlmm_lab.experiments.races import (
    IN_TWO,
    READERS,
    TEXT,
    Bundle,
    Look,
    Parts,
    Race,
    Reader,
    Seen,
    Stage,
    Tally,
    judge,
    race,
    refuse_dangerous,
)
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.procfs import STAT_FIELDS, STAT_MEMBERS
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording import mode
from prctlmm_lab.specimen.recording.state import NotRecorded
from tests.conftest import children
from tests.needs import skip_unless
from tests.views.address_spaces import FACTS

AT = 0x7F00_0000_0000
A = PrctlMmMap(0x1000, 0x2000, 0x3000, 0x4000, 0x10100, 0x10200, 0x30100,
               AT, AT + 0x200, AT + 0x2000, AT + 0x2200)  # fmt: skip
B = PrctlMmMap(0x1100, 0x2100, 0x3100, 0x4100, 0x20100, 0x20200, 0x40100,
               AT + 0x40, AT + 0x300, AT + 0x2040, AT + 0x2300)  # fmt: skip
C = PrctlMmMap(0x1200, 0x2200, 0x3200, 0x4200, 0x50100, 0x50200, 0x60100,
               AT + 0x80, AT + 0x380, AT + 0x2080, AT + 0x2380)  # fmt: skip
STAGE = Stage(
    (
        Bundle("A", A, tuple(range(100, 108)), 0x10000, 0x30000),
        Bundle("B", B, tuple(range(200, 208)), 0x20000, 0x40000),
        Bundle("C", C, tuple(range(300, 308)), 0x50000, 0x60000, is_refused=True),
    ),
    AT,
)


def seen(reader: str, *look: bytes) -> Seen:
    """Judge a look that is made up."""
    each = READERS[reader]
    shows = {bundle.name: each.shows(bundle, STAGE) for bundle in STAGE.bundles}
    refused = {"C": shows.pop("C")}
    return judge(each.told(look, STAGE), shows, refused)


def text(start: int, end: int) -> bytes:
    return TEXT[start - AT : end - AT]


def stat(**members: int) -> bytes:
    fields = dict.fromkeys(STAT_FIELDS[3:], 7) | members
    return b"1 (a b) c) R " + b" ".join(b"%d" % value for value in fields.values())


def members_of(new: PrctlMmMap) -> dict[str, int]:
    return {name: getattr(new, name) for name in STAT_MEMBERS}


def vector(*words: int) -> bytes:
    return struct.pack(f"<{len(words) + 2}Q", *words, 0, 0)


def maps(**labels: int) -> bytes:
    spots = range(0x10000, 0x70000, 0x10000)
    named = {spot: f" [{label.rstrip('2')}]" for label, spot in labels.items()}
    lines = [f"{s:08x}-{s + 0x1000:08x} rw-p 00000000 00:00 0{named.get(s, '')}" for s in spots]
    return "\n".join(lines).encode()


# ---- looks that are made up ---------------------------------------------------------------------


@pytest.mark.parametrize("name", "AB")
def test_a_look_at_one_map_is_that_map_s(name: str) -> None:
    bundle = next(each for each in STAGE.bundles if each.name == name)
    m = bundle.map
    cmdline, environ = text(m.arg_start, m.arg_end), text(m.env_start, m.env_end)
    assert seen("cmdline", cmdline) == seen("environ", environ) == Seen(of=name)
    assert seen(IN_TWO, cmdline[:0x40], cmdline[0x40:]) == Seen(of=name)
    assert seen("stat", stat(**members_of(m))) == Seen(of=name)
    assert seen("auxv", vector(*bundle.vector)) == Seen(of=name)
    assert seen("maps", maps(heap=bundle.heap, stack=bundle.stack)) == Seen(of=name)


def test_bounds_of_two_maps_are_a_mix() -> None:
    first = f"arg_start {A.arg_start:#x} as in A, arg_end {B.arg_end:#x} as in B"
    assert seen("cmdline", text(A.arg_start, B.arg_end)).mixed == first
    assert seen("cmdline", text(B.arg_start, A.arg_end)).mixed
    assert seen("environ", text(B.env_start, A.env_end)).mixed
    then = text(B.arg_start + 0x40, B.arg_end)
    told = seen(IN_TWO, text(A.arg_start, A.arg_start + 0x40), then).mixed
    assert told.startswith(f"arg_start {A.arg_start:#x} as in A, arg_start in read 2 ")


@pytest.mark.parametrize("member", STAT_MEMBERS)
def test_one_member_of_another_map_is_a_mix(member: str) -> None:
    text_ = stat(**members_of(A) | {member: getattr(B, member)})
    assert f"{member} {getattr(B, member):#x} as in B" in seen("stat", text_).mixed


@pytest.mark.parametrize("place", range(8))
def test_one_word_of_another_vector_is_a_mix(place: int) -> None:
    words = [*range(100, 108)]
    words[place] += 100
    assert f"word {place} {words[place]:#x} as in B" in seen("auxv", vector(*words)).mixed


@pytest.mark.parametrize(
    "labels",
    [
        {"heap": 0x10000, "stack": 0x40000},
        {"stack": 0x30000},
        {"heap": 0x10000, "heap2": 0x20000, "stack": 0x30000},
        {},
    ],
)
def test_labels_of_two_maps_are_a_mix(labels: dict[str, int]) -> None:
    assert seen("maps", maps(**labels)).mixed


def test_what_a_refused_map_has_is_never_taken_for_a_mix() -> None:
    strange = f"arg_end {C.arg_end:#x} as in C"
    assert seen("cmdline", text(A.arg_start, C.arg_end)) == Seen(strange=strange)
    assert seen("stat", stat(**members_of(C))).strange.endswith(" as in C")
    assert seen("stat", stat(**members_of(A) | {"env_end": C.env_end})).strange
    assert seen("auxv", vector(100, 101, 302, 103, 104, 105, 106, 107)).strange == (
        f"word 2 {302:#x} as in C"
    )
    assert seen("maps", maps(heap=0x10000, stack=0x60000)).strange


@pytest.mark.parametrize(
    ("reader", "look"),
    [
        ("cmdline", b""),
        ("cmdline", b"specimen\0"),
        ("cmdline", TEXT[:0x40] + b"!"),
        ("environ", TEXT[1:0x200]),
        ("stat", stat(**members_of(A) | {"arg_end": 0xBAD})),
        ("auxv", b""),
        ("auxv", vector(100, 101)),
        ("auxv", vector(*range(900, 908))),
        ("maps", maps(heap=0x10000, stack=0x20000)),
    ],
)
def test_what_no_map_has_is_strange(reader: str, look: bytes) -> None:
    assert seen(reader, look).strange


# ---- what is made of a race ---------------------------------------------------------------------


def raced(**tallies: tuple[int, int, int]) -> Race:
    """Make up a race: of each reader whole, mixed and strange looks."""
    made = {
        name: Tally(name, {"A": whole, "B": 0}, mixed, strange, "MIX", "STRANGE")
        for name, (whole, mixed, strange) in tallies.items()
    }
    return Race(made, 1000, 1000)


def control(mixed: int) -> dict[str, tuple[int, int, int]]:
    return {IN_TWO: (10_000, mixed, 0)}


def test_no_mix_is_a_never_only_where_another_reader_mixed() -> None:
    fine, evidence = (10_000, 0, 0), []
    for mixed, holds in ((claims.ENOUGH, True), (claims.ENOUGH - 1, None), (0, None)):
        shown = claims.whole_looks(raced(cmdline=fine, **control(mixed)), ["cmdline"])
        assert shown.holds is holds
        evidence.append(shown.evidence)
    assert evidence[0] == (
        "none of 10000 (cmdline) looks was mixed, beside 1000 accepted maps; 100 of 10100 at "
        "cmdline in two reads were"
    )


@pytest.mark.parametrize(
    ("tally", "said"),
    [
        ((9_999, 1, 0), "1 of 10000 looks at environ were mixed: MIX"),
        ((9_999, 0, 1), "1 of 10000 looks at environ were of neither map: STRANGE"),
    ],
)
def test_one_mixed_look_is_enough(tally: tuple[int, int, int], said: str) -> None:
    found = raced(cmdline=(10_000, 0, 0), environ=tally, **control(0))
    assert claims.whole_looks(found, ["cmdline", "environ"]) == Shown(False, said)


def test_a_part_of_a_refused_map_is_told() -> None:
    assert claims.nothing_refused(raced(stat=(900, 100, 0), auxv=(10, 0, 0))).holds is True
    assert claims.nothing_refused(raced(stat=(900, 99, 0), auxv=(10, 0, 0))).holds is None
    told = claims.nothing_refused(raced(stat=(900, 500, 0), auxv=(10, 0, 2)))
    assert told == Shown(False, "2 of 12 looks at auxv showed STRANGE")


# ---- accepted and refused as a whole ------------------------------------------------------------


@pytest.fixture(scope="module")
def together() -> list[Record]:
    return [run(experiment) for experiment in claims.TOGETHER]


@pytest.fixture(scope="module")
def refused() -> list[Record]:
    return [run(experiment) for experiment in claims.REFUSED]


def test_a_bundle_that_is_not_whole_is_told(together: list[Record]) -> None:
    whole, alone = together
    assert claims.accepted_as_a_whole(together).holds is True
    assert alone.prediction.rule == "order.arg"
    for member in ("env_end", "start_code", "brk"):
        other = replace(whole, map={**whole.map, member: "0x123000"})
        shown = claims.accepted_as_a_whole([other, alone])
        assert shown.holds is False
        assert f"but not {member} " in shown.evidence
    kept = [row for row in whole.difference if row[0] != "auxv"]
    shown = claims.accepted_as_a_whole([replace(whole, difference=tuple(kept)), alone])
    assert "but not auxv " in shown.evidence
    taken = replace(alone, outcome=whole.outcome)
    assert claims.accepted_as_a_whole([whole, taken]).holds is False
    assert claims.accepted_as_a_whole([replace(whole, outcome=alone.outcome), alone]).holds is False


def test_a_refusal_that_changes_something_is_told(refused: list[Record]) -> None:
    assert claims.refused_as_a_whole(refused).holds is True
    assert [record.outcome.verdict for record in refused[:2]] == ["EINVAL", "EFAULT"]
    assert refused[2].outcome.verdict in ("EACCES", "EPERM")
    for number, record in enumerate(refused):
        rows = (("exe", "", "/before", "/after"),)
        altered = [*refused[:number], replace(record, difference=rows), *refused[number + 1 :]]
        told = claims.refused_as_a_whole(altered)
        assert told == Shown(False, f"{record.outcome.verdict}, and yet exe : /before -> /after")
        used = replace(record, difference=(("stat", "flags", "0x1", "0x2"),))
        altered[number] = used
        assert claims.refused_as_a_whole(altered).holds is True
        accepted = replace(record.outcome, verdict="accepted", errno=0)
        altered[number] = replace(record, outcome=accepted)
        assert claims.refused_as_a_whole(altered).holds is None


def test_every_member_would_have_changed(refused: list[Record]) -> None:
    for record in refused:
        stat_before = record.before.stat
        assert isinstance(stat_before, Mapping)
        before = {**stat_before, "brk": record.before.brk, "exe_fd": "0xffffffff"}
        same = [name for name, value in record.map.items() if before.get(name) == value]
        assert same == []
        assert record.map["auxv_size"] == "0x20"


# ---- live ---------------------------------------------------------------------------------------


@pytest.fixture
def two_processors() -> None:
    processors = len(os.sched_getaffinity(0))
    skip_unless(processors > 1, "a race needs two processors", impossible=True)


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.id)
def test_this_kernel_settles_each_claim(claim: Claim) -> None:
    finding = settle(claim, facts_here())
    assert finding.verdict is not Verdict.UNSHOWN, finding.evidence
    assert not finding.contradicts, finding.evidence


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize("reads", [300_000])
def test_hundreds_of_thousands_of_looks_at_cmdline_mix_nothing(reads: int) -> None:
    """Takes at most 30 s; `claims(5_000_000)` looks oftener."""
    found = race(("cmdline", "environ", IN_TWO), facts_here(), reads=reads)
    for name in ("cmdline", "environ"):
        tally = found.tallies[name]
        assert (tally.mixed, tally.strange) == (0, 0), (tally.mix, tally.stranger)
        assert all(count > tally.looks // 100 for count in tally.whole.values())
    assert found.tallies[IN_TWO].mixed >= claims.RARELY
    assert found.calls > 1000


@dataclass(frozen=True)
class TwoStats(Reader):
    """A reader that takes arg_start and arg_end from two looks at stat: nothing is locked."""

    def look(self, descriptor: int) -> Look:
        return os.pread(descriptor, 4096, 0), os.pread(descriptor, 4096, 0)


def from_two_stats(look: Look, stage: Stage) -> Parts:
    first, second = (READERS["stat"].told((each,), stage) for each in look)
    return {"arg_start": first["arg_start"], "arg_end": second["arg_end"]}


@pytest.mark.usefixtures("two_processors")
def test_a_reader_without_a_lock_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    careless = TwoStats("cmdline", "stat", from_two_stats, READERS["cmdline"].shows)
    monkeypatch.setitem(READERS, "cmdline", careless)
    finding = settle(named("bundle.cmdline_readers"), facts_here())
    assert finding.verdict is Verdict.FAILS
    assert "looks at cmdline were mixed: arg_start 0x" in finding.evidence
    assert finding.contradicts


def named(id_: str) -> Claim:
    return next(claim for claim in claims.CLAIMS if claim.id == id_)


# ---- it ends ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def all_ends() -> Iterator[None]:
    before = children(), threading.active_count(), os.sched_getaffinity(0)
    yield
    assert (children(), threading.active_count(), os.sched_getaffinity(0)) == before


def test_a_race_ends_in_time() -> None:
    began = time.monotonic()
    found = race(("cmdline",), facts_here(), reads=100_000_000, seconds=0.2)
    assert time.monotonic() - began < 5
    assert 0 < found.tallies["cmdline"].looks < 100_000_000


def test_a_race_ends_when_enough_was_seen() -> None:
    found = race(("cmdline",), facts_here(), reads=10_000, enough=lambda tallies: True)
    assert found.tallies["cmdline"].looks == 500
    few = race(("cmdline",), facts_here(), reads=3)
    assert few.tallies["cmdline"].looks == 3


def test_a_reader_s_error_ends_the_writer() -> None:
    def interrupted(tallies: Mapping[str, Tally]) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        race(("cmdline",), facts_here(), enough=interrupted)


def test_the_end_of_the_specimen_is_no_mix() -> None:
    facts, before = facts_here(), children()

    def killed(tallies: Mapping[str, Tally]) -> bool:
        for name in children() - before:
            os.kill(int(name.split()[-2]), signal.SIGKILL)
        return False

    with pytest.raises((SpecimenGone, ProcessLookupError)):
        race(("cmdline", "environ"), facts, enough=killed)


def test_a_map_that_is_judged_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(specimen: Specimen, facts: object) -> Stage:
        stage = original(specimen, facts_here())
        first, *rest = stage.bundles
        return replace(stage, bundles=(replace(first, is_refused=True), *rest))

    original = races.set_the_stage
    monkeypatch.setattr(races, "set_the_stage", wrong)
    with pytest.raises(LabError, match="before the race map A was accepted"):
        race(("cmdline",), facts_here())


# ---- where there is none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "may_crash"),
    [("4.1.52", False), ("4.2.0", True), ("4.3.6", True), ("4.4.0-210-generic", True),
     ("4.5.0", False), ("4.19.0", False), ("4.20.1", False), ("5.10.0", False), ("14.2", False)],
)  # fmt: skip
def test_a_kernel_that_would_crash_is_left_alone(release: str, may_crash: bool) -> None:
    facts = replace(FACTS, release=release)
    if not may_crash:
        refuse_dangerous(facts)
        return
    with pytest.raises(UnsupportedSystem, match="stops with BUG"):
        race(("cmdline",), facts)
    finding = settle(named("bundle.cmdline_readers"), facts)
    assert finding.verdict is Verdict.UNSHOWN
    assert release in finding.evidence


def test_a_race_is_not_recorded() -> None:
    class Standing(Specimen):
        pass

    mode.substitute(Standing)
    try:
        with pytest.raises(NotRecorded):
            race(("cmdline",), facts_here())
    finally:
        mode.substitute(None)


def test_more_looks_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float | None]] = []

    def noted(
        readers: Sequence[str], facts: object, *, reads: int, seconds: float | None = None,
        enough: object = None,
    ) -> Race:  # fmt: skip
        asked.append((reads, seconds))
        return raced(**dict.fromkeys(readers, (1, 0, 0)))

    monkeypatch.setattr(claims, "race", noted)
    many = claims.with_reads((*claims.CLAIMS, *requirements.CLAIMS), 1_000_000)
    assert many[len(claims.CLAIMS) :] == requirements.CLAIMS
    assert [claim.id for claim in many[:7]] == [claim.id for claim in claims.CLAIMS]
    for claim in many[:7]:
        if claim.test is not None:
            settle(claim, FACTS)
    assert asked == [(1_000_000, None)] * 2 + [(10_000_000, 100.0)] * 3


def test_the_command_takes_the_number_of_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--reads", "1000", "bundle.cmdline_readers"]) == 0
    assert "none of 1000 (cmdline) + 1000 (environ) looks was" in capsys.readouterr().out
    for wrong in ("0", "-1", "many", "", "1.5", "99999999999"):
        with pytest.raises(SystemExit) as caught:
            main(["claims", "--reads", wrong])
        assert caught.value.code == 2
