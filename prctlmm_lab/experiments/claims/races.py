"""One bundle, judged together: for the caller, for whom it refuses, and for who looks meanwhile.

The message says that all new values come at once. Read strictly, that has three sides: an accepted
map is there as a whole, a refused one not at all, and nobody sees a half. The first two are the
caller's and hold; what a reader of /proc sees in the very moment depends on the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from prctlmm_lab.experiments.claims.claim import Claim, History, Shown
from prctlmm_lab.experiments.experiment import Experiment
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.races import IN_TWO, READS, Race, Tally, race, time_for
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.steps import Map, MemoryFile, ReleaseExecutable, Write
from prctlmm_lab.kernel.abi import ADDRESSES
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.releases import MAIL, RUN, SOURCE, Release

# ---- accepted as a whole, refused as a whole ----------------------------------------------------

_ELSEWHERE: dict[str, Value] = {
    "start_code": "before.end_code + page", "end_code": "before.end_code + 2 * page",
    "start_data": "before.end_data + 16", "end_data": "before.end_data + 32",
    "start_brk": "arena.start", "brk": "arena.start + 0x100",
    "start_stack": "arena.start + 0x1100",
    "arg_start": "arena.start + 0x2000", "arg_end": "arena.start + 0x2009",
    "env_start": "arena.start + 0x3000", "env_end": "arena.start + 0x300b",
    "auxv": "table.start", "auxv_size": 32,
}  # fmt: skip
"""Every member but the exe link, each where it was not before."""
_MEMORY = (
    Map("arena", pages=4),
    Write("arena.start + 0x2000", text="together\0"),
    Write("arena.start + 0x3000", text="ALL=at once"),
    Map("table"),
    Write("table.start", auxv=(("AT_PAGESZ", 4096), ("AT_UID", 1))),
    Map("forbidden", permissions="---"),
)
_LINK = (ReleaseExecutable(True), MemoryFile("other"), MemoryFile("text", mode=0o644))

TOGETHER = (
    Experiment("all-at-once", setup=_MEMORY, change=_ELSEWHERE),
    # The same arg_end beside the old arg_start.
    Experiment("arg-end-alone", setup=_MEMORY, change={"arg_end": _ELSEWHERE["arg_end"]}),
)
REFUSED = (
    Experiment("refused-last-address", setup=(*_MEMORY, *_LINK),
               change={**_ELSEWHERE, "exe_fd": "other", "env_end": (1 << 64) - 1}),
    Experiment("refused-vector", setup=(*_MEMORY, *_LINK),
               change={**_ELSEWHERE, "exe_fd": "other", "auxv": "forbidden.start"}),
    # The exe link is the last that can fail: not executable, or not permitted.
    Experiment("refused-exe", setup=(*_MEMORY, *_LINK), change={**_ELSEWHERE, "exe_fd": "text"}),
)  # fmt: skip


def accepted_as_a_whole(records: Sequence[Record]) -> Shown:
    """Tell whether all members are where one call put them, and were judged by one another."""
    whole, alone = records
    arg_end = f"arg_end = {alone.map['arg_end']} beside arg_start = {alone.map['arg_start']}"
    evidence = f"{arg_end}: {alone.outcome.verdict}; with the rest of its bundle: "
    if whole.outcome.errno or whole.view_after is None:
        return Shown(False, evidence + whole.outcome.verdict)
    view = whole.view_after
    stat = view.stat if not isinstance(view.stat, str) and view.stat else {}
    shown = {**stat, "brk": view.brk}
    missing = [name for name in ADDRESSES if shown.get(name) != whole.map[name]]
    if not any(row[0] == "auxv" for row in whole.difference):
        missing.append("auxv")
    holds = not missing and alone.outcome.errno != 0
    said = f"but not {', '.join(missing)}" if missing else "all 11 addresses and the vector"
    return Shown(holds, f"{evidence}accepted, {said} (arg_start = {whole.map['arg_start']})")


def refused_as_a_whole(records: Sequence[Record]) -> Shown:
    """Tell whether refused maps left every file of /proc and brk() as they were."""
    told = []
    for record in records:
        if record.outcome.errno <= 0:
            return Shown(None, f"{record.experiment['id']} was {record.outcome.verdict or 'ended'}")
        # A capability that was asked for shows in the task's flags, also if it was of no use.
        rows = [row for row in record.difference if row[:2] != ("stat", "flags")]
        if rows:
            place, name, before, after = rows[0]
            changed = f"{record.outcome.verdict}, and yet {place} {name}: {before} -> {after}"
            return Shown(False, changed)
        told.append(record.outcome.verdict)
    env_end, auxv = records[0].map["env_end"], records[1].map["auxv"]
    return Shown(
        True,
        f"every member another, but env_end = {env_end}: {told[0]}; auxv = {auxv}: {told[1]}; a "
        f"text as exe: {told[2]}; nothing changed",
    )


# ---- who looks meanwhile ------------------------------------------------------------------------

ENOUGH = 100
"""Mixed looks after which a race is known for one; without them nobody can say "never"."""
RARELY = 1_000
"""The same where a mix is expected, but seldom: auxv is copied in an instant."""


def whole_looks(race: Race, asked: Sequence[str], enough: int = ENOUGH) -> Shown:
    """Tell whether each look of the readers asked about showed one map, and no other's part."""
    for name in asked:
        tally = race.tallies[name]
        if tally.strange:
            said = f"{tally.strange} of {tally.looks} looks at {name} were of neither map"
            return Shown(False, f"{said}: {tally.stranger}")
        if tally.mixed:
            said = f"{tally.mixed} of {tally.looks} looks at {name} were mixed"
            return Shown(False, f"{said}: {tally.mix}")
    control = race.tallies[IN_TWO]
    proof = f"{control.mixed} of {control.looks} at {IN_TWO} were"
    evidence = f"{_none(race, asked)} was mixed, beside {race.calls} accepted maps; {proof}"
    return _never(control.mixed >= enough, evidence)


def nothing_refused(race: Race) -> Shown:
    """Tell whether no look showed a part of a map that was refused."""
    for tally in race.tallies.values():
        if tally.strange:
            said = f"{tally.strange} of {tally.looks} looks at {tally.reader} showed"
            return Shown(False, f"{said} {tally.stranger}")
    mixed = sum(tally.mixed for tally in race.tallies.values())
    evidence = f"{_none(race, [*race.tallies])} showed a part of {race.refused} refused maps"
    close = f"{mixed} showed parts of both that were accepted"
    return _never(mixed >= ENOUGH, f"{evidence}; {close}")


def _never(it_was_a_race: bool, evidence: str) -> Shown:
    if it_was_a_race:
        return Shown(True, evidence)
    return Shown(None, f"{evidence}: too few for a race, which needs two processors")


def _none(race: Race, asked: Sequence[str]) -> str:
    looks = " + ".join(f"{race.tallies[name].looks} ({name})" for name in asked)
    return f"none of {looks} looks"


def _never_mixed(reads: int, facts: Facts) -> Shown:
    asked = ("cmdline", "environ")
    return whole_looks(race((*asked, IN_TWO), facts, reads=reads), asked)


def _ever_mixed(reader: str, reads: int, facts: Facts) -> Shown:
    """Race until a reader has mixed often enough to be counted, with ten times the looks."""

    def enough(tallies: Mapping[str, Tally]) -> bool:
        return tallies[reader].mixed >= ENOUGH

    found = race((reader, IN_TWO), facts, reads=10 * reads, seconds=time_for(reads), enough=enough)
    return whole_looks(found, (reader,), RARELY)


def _refused_in_a_race(reads: int, facts: Facts) -> Shown:
    found = race(("stat", "auxv", "cmdline", "environ"), facts, reads=reads)
    return nothing_refused(found)


_LOCKED = ("ddf1d398e517", "a3b609ef9f8b", "88aa7cc688d4")
_DOCUMENTED = "fs/proc of v3.18 to v7.3, read: "


def claims(reads: int = READS) -> tuple[Claim, ...]:
    """Return the claims, with a number of looks for each reader.

    Thousands of looks, as by default, take a second or two; millions take minutes. Where a mix is
    expected, the race is over when it was seen often enough.
    """

    def raced(reader: str) -> partial[Shown]:
        return partial(_ever_mixed, reader, reads)

    return (
        Claim(
            "bundle.together", 3,
            "All new values come in one bundle and are judged by one another: an accepted map is "
            "there as a whole.",
            "bundle", History(),
            experiments=TOGETHER, read=accepted_as_a_whole,
        ),
        Claim(
            "bundle.all_or_nothing", 49, "A refused map changes nothing, whichever check it fails.",
            "bundle", History(), experiments=REFUSED, read=refused_as_a_whole,
        ),
        Claim(
            "bundle.refused_unseen", 70,
            "No part of a refused map is seen by anybody, not even for a moment.",
            "bundle", History(known=(RUN, SOURCE)),
            test=partial(_refused_in_a_race, reads),
            documented="every check comes before the first store (kernel/sys.c, v3.18 to v7.3)",
        ),
        Claim(
            "bundle.cmdline_readers", 71,
            "Who reads cmdline or environ at that moment gets the bounds of one map: one read, "
            "never a mix.",
            "bundle",
            History(
                Release(4, 5), commits=_LOCKED, known=(RUN, SOURCE, MAIL),
                note="v4.4.178 has it too; since which number of v4.4 was not found. From v4.2 to "
                "v4.4 such a race could bring the kernel down. Two reads are two looks.",
            ),
            test=partial(_never_mixed, reads),
            documented=_DOCUMENTED + "the four bounds are copied under a lock since v4.5",
        ),
        Claim(
            "bundle.stat_readers", 72, "Who reads stat at that moment gets the members of one map.",
            "bundle",
            History(since=None, commits=(), known=(RUN, SOURCE),
                    note="stat has never taken the lock that cmdline takes."),
            test=raced("stat"),
            documented=_DOCUMENTED + "do_task_stat() reads each member as it is, without a lock",
        ),
        Claim(
            "bundle.auxv_readers", 73, "Who reads auxv at that moment gets one vector.", "bundle",
            History(since=None, commits=(), known=(RUN, SOURCE),
                    note="A comment in prctl_set_mm_map() says that a reader may see a mix."),
            test=raced("auxv"),
            documented=_DOCUMENTED + "auxv_read() copies the vector without a lock",
        ),
        Claim(
            "bundle.maps_readers", 74,
            "Who reads maps at that moment sees [heap] and [stack] of one map.", "bundle",
            History(
                Release(4, 5), Release(4, 18), ("ddf1d398e517", "88aa7cc688d4"),
                known=(RUN, SOURCE),
                note="From v4.5 to v4.17 the call held, for writing, the lock that maps holds for "
                "reading; that it kept them apart is read, not run.",
            ),
            test=raced("maps"),
            documented=_DOCUMENTED + "the writer's lock is for reading since v4.18, as is maps's",
        ),
    )  # fmt: skip


CLAIMS = claims()


def with_reads(all_claims: Iterable[Claim], reads: int) -> tuple[Claim, ...]:
    """Return claims with another number of looks in each race; the others are as they were.

    >>> many = with_reads(CLAIMS, 5_000_000)
    >>> [claim.id for claim in many if claim.test] == [claim.id for claim in CLAIMS if claim.test]
    True
    """
    tests = {claim.id: claim.test for claim in claims(reads) if claim.test is not None}
    return tuple(replace(each, test=tests.get(each.id, each.test)) for each in all_claims)
