"""The claims: all are there, each settles as its history says and could come out otherwise."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from prctlmm_lab.errors import InputError, UnsupportedSystem
from prctlmm_lab.experiments.claims import CLAIM, CLAIMS, Claim, Verdict, chosen, settle, settle_all
from prctlmm_lab.experiments.claims.calling import (
    SHIFTED,
    read_argument_space,
    read_shmat,
    read_without_sys_resource,
)
from prctlmm_lab.experiments.claims.claim import History, Shown, expected_on, in_order
from prctlmm_lab.experiments.claims.requirements import OUTSIDE
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.record import Answer, Outcome, Record, View
from prctlmm_lab.experiments.steps import Open, Unmap
from prctlmm_lab.kernel.abi import ADDRESSES
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.message import PLACES
from prctlmm_lab.kernel.releases import (
    CHANGES,
    INTRODUCED,
    MAIL,
    NEWEST,
    RECALLED,
    RUN,
    SOURCE,
    Release,
)
from prctlmm_lab.specimen.probe import facts_here
from tests.needs import skip_unless

FACTS = facts_here()


# ---- all of them -------------------------------------------------------------------------------


def test_each_of_the_49_statements_is_there_once() -> None:
    numbers = [claim.number for claim in CLAIMS]
    assert numbers == sorted({*numbers})
    assert {*range(1, 50)} <= {*numbers}
    assert all(1 <= number < 100 for number in numbers)
    assert [*CLAIM.values()] == [*CLAIMS]


def test_every_place_of_the_message_has_a_claim() -> None:
    assert {claim.place for claim in CLAIMS} == PLACES.keys()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_claim_settles_as_its_history_says(claim: Claim) -> None:
    finding = settle(claim, FACTS)
    assert not finding.contradicts, finding.evidence
    assert finding.evidence.isprintable()
    assert finding.evidence == finding.evidence.strip()
    assert all(record.agreement.with_lab for record in finding.records), "our own rules differ"
    if finding.verdict is Verdict.UNSHOWN:
        assert claim.documented, f"nobody knows then: {finding.evidence}"
    skip_unless(finding.verdict is not Verdict.UNSHOWN, finding.evidence, impossible=True)
    assert re.search(r"0x[0-9a-f]+" if claim.experiments else r"\d|E[A-Z]+|/", finding.evidence)
    assert bool(finding.records) >= bool(claim.experiments)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_what_is_said_of_a_claim_is_well_formed(claim: Claim) -> None:
    history = claim.history
    assert re.fullmatch(r"[^a-z].*\.|[a-z_]+\b.*\.", claim.statement), claim.statement
    assert len(claim.statement) <= 130
    assert all(re.fullmatch("[0-9a-f]{12}", commit) for commit in history.commits)
    assert {*history.known} <= {RUN, SOURCE, MAIL, RECALLED}
    assert (history.since is None) <= (history.until is None)
    if history.since is not None and history.until is not None:
        assert history.since < history.until <= NEWEST
    assert not history.note or history.note.endswith((".", ")"))


def test_claims_and_changes_tell_the_same_of_a_commit() -> None:
    """What changed is told twice, of facts for the rules, and of claims for the message."""
    compared = 0
    for claim in CLAIMS:
        for change in CHANGES:
            turns = (claim.history.since, claim.history.until)
            last = claim.history.commits[-1:]
            if change.first == INTRODUCED or last != change.commits[:1]:
                continue
            assert change.first in turns, claim.id
            assert claim.history.stable == change.stable, claim.id
            compared += 1
    assert compared >= 4


def test_numbers_and_ids_stand_once() -> None:
    one, two = CLAIMS[:2]
    with pytest.raises(ValueError, match="number stands twice"):
        in_order([one, replace(two, number=one.number)])
    with pytest.raises(ValueError, match="id stands twice"):
        in_order([one, replace(two, id=one.id)])
    assert in_order([two, one]) == (one, two)


@pytest.mark.parametrize(
    "wrong",
    [
        {"place": "8"}, {"id": "Limit.data"}, {"id": "limit"}, {"read": None},
        {"experiments": ()}, {"test": lambda facts: Shown(True, "")},
    ],
)  # fmt: skip
def test_a_claim_that_is_not_complete_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"[Ll]imit"):
        replace(CLAIM["limit.data"], **wrong)  # type: ignore[arg-type]


# ---- each could come out otherwise -------------------------------------------------------------

NUMBERS = {"accepted": 0, "EPERM": 1, "EACCES": 13, "EINVAL": 22}
Altered = Callable[[list[Record]], list[Record]]


def said(record: Record, verdict: str) -> Record:
    """Return a record of the same call with another verdict."""
    return replace(record, outcome=Outcome(verdict, NUMBERS[verdict]))


def nth_says(place: int, verdict: str) -> Altered:
    def alter(records: list[Record]) -> list[Record]:
        records[place] = said(records[place], verdict)
        return records

    return alter


def turned(refusal: str = "EINVAL", place: int = -1) -> Altered:
    """Alter one record: refused what was accepted, accepted what was refused."""

    def alter(records: list[Record]) -> list[Record]:
        accepted = records[place].outcome.verdict == "accepted"
        return nth_says(place, refusal if accepted else "accepted")(records)

    return alter


def all_say(verdict: str) -> Altered:
    return lambda records: [said(record, verdict) for record in records]


def seen(**parts: object) -> Altered:
    """Alter what the last record shows after the call."""

    def alter(records: list[Record]) -> list[Record]:
        after = records[-1].after or View()
        *first, last = records
        return [*first, replace(last, after=replace(after, **parts))]  # type: ignore[arg-type]

    return alter


def members_swapped(records: list[Record]) -> list[Record]:
    """Let the kernel take arg_start for arg_end, and the other way round."""
    shown, closed = records
    assert shown.view_after
    assert not isinstance(shown.view_after.stat, str)
    stat = {**(shown.view_after.stat or {})}
    stat["arg_start"], stat["arg_end"] = stat["arg_end"], stat["arg_start"]
    return [*seen(stat=stat)([shown]), closed]


def below_start_brk(records: list[Record]) -> list[Record]:
    (record,) = records
    below = hex(int(record.map["start_brk"], 16) - 1)
    return [replace(record, answers=(record.answers[0], Answer("brk", below, "")))]


def size_returned(records: list[Record]) -> list[Record]:
    return [replace(records[0], outcome=Outcome("-104", -records[0].facts.map_size))]


def exe_as_before(records: list[Record]) -> list[Record]:
    return seen(exe=records[-1].before.exe)(records)


TURNED: dict[str, Altered] = {
    "privilege.lost_in_namespace": nth_says(0, "accepted"),
    "privilege.not_needed": nth_says(0, "EPERM"),
    "privilege.works_in_namespace": exe_as_before,
    "form.pointer_and_size": nth_says(2, "accepted"),
    "struct.fourteen_members": members_swapped,
    "struct.kept": seen(auxv=("AT_PAGESZ=0x2a", "AT_NULL=0x0", "AT_NULL=0x0")),
    "meaning.code": turned(),
    "meaning.data": turned(),
    "meaning.brk": below_start_brk,
    "exe.once": turned("EPERM"),
    "exe.namespace_root": turned("EPERM"),
    "exe.not_for_everybody": turned(),
    "exe.not_the_code": exe_as_before,
    "map_size.returned": size_returned,
    "map_size.tells": turned("EPERM", 0),
    "addresses.in_user_space": nth_says(1, "accepted"),
    "areas.code_and_data_anywhere": turned(),
    "areas.others_mapped": turned(),
    "order.strict": all_say("EINVAL"),
    "order.code": turned(),
    "order.data": turned(),
    "order.not_reversed": nth_says(3, "accepted"),
    "heap.above_data": turned(),
    "limit.data": turned(),
    "limit.stack": turned(),
    "auxv.size": turned(),
    "exe.executable": nth_says(1, "accepted"),
}


def read(claim: Claim, records: Sequence[Record]) -> Shown:
    assert claim.read is not None
    return claim.read(records)


@pytest.mark.parametrize("name", TURNED)
def test_a_kernel_that_does_otherwise_is_seen(name: str) -> None:
    claim = CLAIM[name]
    real = settle(claim, FACTS)
    skip_unless(real.verdict is not Verdict.UNSHOWN, real.evidence, impossible=True)
    other = read(claim, TURNED[name]([*real.records]))
    assert other.holds is (real.verdict is Verdict.FAILS)
    assert other.evidence != real.evidence


@pytest.mark.parametrize(
    ("name", "place", "verdicts"),
    [
        ("old.gone", 0, {"accepted": False, "EINVAL": True, "EPERM": None}),
        ("bundle.checks_more", 0, {"accepted": True, "EINVAL": False, "EPERM": None}),
    ],
)
def test_what_asks_for_a_capability_is_read_with_and_without_it(
    name: str, place: int, verdicts: dict[str, bool | None]
) -> None:
    claim = CLAIM[name]
    records = settle(claim, FACTS).records
    for verdict, holds in verdicts.items():
        shown = read(claim, nth_says(place, verdict)([*records]))
        assert (shown.holds, verdict in shown.evidence) == (holds, True)


@pytest.mark.parametrize("name", ["areas.code_and_data_anywhere", "meaning.code", "meaning.data"])
def test_memory_of_another_kind_shows_nothing(name: str) -> None:
    (record,) = settle(CLAIM[name], FACTS).records
    # For the first, something is mapped; for the others, it is what they say that it is not.
    there = replace(record.before, maps=("0x10000-0x7ffffffff000 rwxp",))
    assert read(CLAIM[name], [replace(record, before=there)]).holds is None


def test_a_refusal_of_what_is_only_needed_shows_nothing() -> None:
    for name in ("meaning.brk", "exe.once", "exe.not_the_code", "struct.kept"):
        finding = settle(CLAIM[name], FACTS)
        if finding.verdict is not Verdict.UNSHOWN:
            assert read(CLAIM[name], all_say("EINVAL")([*finding.records])).holds is None


def test_a_caller_with_capabilities_shows_nothing_of_who_has_none() -> None:
    (record,) = settle(CLAIM["privilege.not_needed"], FACTS).records
    able = replace(record, privilege=replace(record.privilege, capabilities="0x1000000"))
    assert read(CLAIM["privilege.not_needed"], [able]).holds is None
    assert read_without_sys_resource(able).holds is None
    assert read_without_sys_resource(record).holds is True
    assert read_without_sys_resource(said(record, "EPERM")).holds is False


def test_every_address_is_held_to_an_end_and_moved_by_the_shift() -> None:
    assert {member for member, _ in OUTSIDE} == {*ADDRESSES} == SHIFTED.keys()


def test_room_that_depends_on_start_stack_is_seen() -> None:
    same = [(0x7FFD000, 0x3FDF0), (0x10000, 0x3FDF0)]
    assert read_argument_space(0x100000, same).holds is False
    less = read_argument_space(0x100000, [same[0], (0x10000, 0x1000)])
    assert less.holds is True
    assert "0x1000 with start_stack 0x10000" in less.evidence
    for no_bound in (0, 1 << 20):
        assert read_argument_space(0x100000, [(0x10000, no_bound)] * 2).holds is None


def test_a_shmat_that_keeps_away_from_start_stack_is_seen() -> None:
    away = (0x7FFD000, "attached at 0x5000")
    assert read_shmat(0x5000, [away, (0x7000, "attached at 0x5000")]).holds is False
    assert read_shmat(0x5000, [away, (0x7000, "shmat: EINVAL")]).holds is True
    assert read_shmat(0x5000, [(0x7FFD000, "shmget: ENOSYS"), away]).holds is None


# ---- what cannot be shown ----------------------------------------------------------------------

IDENTITY = Experiment("identity")


def claim_of(*experiments: Experiment, **more: object) -> Claim:
    """Make a claim that holds as soon as its experiments were run."""
    values = {
        "id": "a.claim", "number": 99, "statement": "It is so.", "place": "1",
        "history": History(), "experiments": experiments,
        "read": (lambda records: Shown(True, "0x0")) if experiments else None,
    }  # fmt: skip
    return Claim(**{**values, **more})  # type: ignore[arg-type]


def test_a_step_that_is_refused_cannot_be_shown() -> None:
    closed = Experiment("closed", setup=(Open("file", "/none"),))
    finding = settle(claim_of(IDENTITY, closed), FACTS)
    assert finding.verdict is Verdict.UNSHOWN
    assert "ENOENT" in finding.evidence
    assert finding.contradicts is False


def test_a_specimen_that_ends_shows_nothing() -> None:
    ends = Experiment("ends", after=(Unmap("start_code // page * page", "page"),))
    finding = settle(claim_of(ends), FACTS)
    assert finding.verdict is Verdict.UNSHOWN
    assert "SIGSEGV" in finding.evidence
    assert len(finding.records) == 1


@pytest.mark.parametrize(
    "error", [OSError(13, "denied"), UnsupportedSystem("There is no such\nthing", "Go on.")]
)
def test_what_is_refused_to_a_test_is_one_line(error: Exception) -> None:
    def test(_facts: Facts) -> Shown:
        raise error

    finding = settle(claim_of(test=test), FACTS)
    assert finding.verdict is Verdict.UNSHOWN
    assert finding.evidence.isprintable()
    assert finding.evidence


def test_a_kernel_without_the_call_shows_only_what_needs_none() -> None:
    lacking = replace(FACTS, available=False, refusal_errno=1)
    finding = settle(CLAIM["limit.data"], lacking)
    assert (finding.verdict, finding.records) == (Verdict.UNSHOWN, ())
    assert "lacks the call" in finding.evidence
    assert settle(CLAIM["map_size.tells"], lacking).verdict is Verdict.HOLDS


def test_experiments_in_turn_share_a_specimen() -> None:
    moved = Experiment("moved", change={"start_stack": "start_stack + 8"})
    records = settle(claim_of(moved, IDENTITY, in_turn=True), FACTS).records
    assert records[1].map == records[0].map
    apart = settle(claim_of(moved, IDENTITY), FACTS).records
    assert apart[1].map["start_stack"] != apart[0].map["start_stack"]


# ---- what is expected --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "release", "expected"),
    [
        ("heap.above_data", "6.18.44-fc-v595", Verdict.FAILS),
        ("heap.above_data", "5.10.68", Verdict.HOLDS),
        ("heap.above_data", "5.10.69-1", Verdict.FAILS),
        ("heap.above_data", "5.15.0-91-generic", Verdict.FAILS),
        # Distributions keep the first release's name.
        ("heap.above_data", "5.10.0-28-amd64", None),
        ("heap.above_data", "5.14.0-427.el9.x86_64", None),
        ("heap.above_data", "5.3.18", Verdict.HOLDS),
        ("heap.above_data", "5.3.0-distribution", None),
        ("heap.above_data", "next", None),
        ("limit.stack", "3.18.9", Verdict.FAILS),
        ("limit.stack", "5.10.0-28-amd64", Verdict.FAILS),
        ("limit.data", "5.10.0-28-amd64", Verdict.HOLDS),
    ],
)
def test_a_release_is_expected_to_do_what_the_history_says(
    claim: str, release: str, expected: Verdict | None
) -> None:
    assert expected_on(CLAIM[claim], replace(FACTS, release=release)) is expected


@pytest.mark.parametrize(
    ("machine", "expected"), [("x86_64", Verdict.HOLDS), ("aarch64", Verdict.FAILS)]
)
def test_what_was_true_of_one_machine_is_expected_of_no_other(
    machine: str, expected: Verdict
) -> None:
    facts = replace(FACTS, release="6.1.192", machine=machine)
    assert expected_on(CLAIM["vdso.place"], facts) is expected


def test_a_kernel_that_contradicts_us_is_noticed() -> None:
    never = replace(CLAIM["limit.data"], history=History(since=None))
    finding = settle(never, FACTS)
    assert (finding.verdict, finding.expected) == (Verdict.HOLDS, Verdict.FAILS)
    assert finding.contradicts
    assert not settle(never, replace(FACTS, release="next")).contradicts, "nothing was expected"


def test_histories_are_told_in_words() -> None:
    ended = History(until=Release(5, 15))
    assert (ended.when, ended.text) == ("v3.18 until v5.15", "v3.18, until v5.15 ended it")
    assert History(Release(4, 5)).when == "v4.5 on"
    assert History(since=None).when == "never"


# ---- many --------------------------------------------------------------------------------------


def test_claims_are_chosen_by_id_beginning_and_number() -> None:
    def ids(*names: str) -> list[str]:
        return [claim.id for claim in chosen(CLAIMS, names)]

    assert ids() == [claim.id for claim in CLAIMS]
    assert ids("limit") == ["limit.data", "limit.stack"]
    assert ids("limit.stack", "16") == ["limit.data", "limit.stack"], "in the claims' order"
    for wrong in ("limi", "limit.", "0", "100", "1 ", ""):
        with pytest.raises(InputError, match="neither a claim"):
            ids("limit", wrong)


def test_findings_come_in_order_each_as_soon_as_it_is_there() -> None:
    wanted = chosen(CLAIMS, ["order", "limit"])
    told: list[str] = []
    findings = settle_all(wanted, FACTS, on_finding=lambda finding: told.append(finding.claim.id))
    assert told == [finding.claim.id for finding in findings] == [claim.id for claim in wanted]
    for finding in findings:
        assert finding.verdict is settle(finding.claim, FACTS).verdict


def test_what_takes_too_long_cannot_be_shown_and_the_next_is() -> None:
    free, ended = threading.Event(), threading.Event()

    def endless(_facts: Facts) -> Shown:
        free.wait(60)
        ended.set()
        return Shown(True, "0x0")

    slow = claim_of(test=endless)
    late, fine = settle_all([slow, CLAIM["order.code"]], FACTS, deadline=1)
    free.set()
    assert (late.verdict, late.evidence) == (Verdict.UNSHOWN, "it was not settled within 1 s")
    assert not late.contradicts
    assert fine.verdict is Verdict.HOLDS
    assert ended.wait(60)


def test_a_mistake_of_a_reader_is_not_hidden() -> None:
    def mistaken(_records: Sequence[Record]) -> Shown:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        settle_all([claim_of(IDENTITY, read=mistaken)], FACTS)


def test_records_of_a_test_are_kept() -> None:
    record = run(IDENTITY)
    finding = settle(claim_of(test=lambda facts: Shown(True, "0x0", (record,))), FACTS)
    assert finding.records == (record,)
