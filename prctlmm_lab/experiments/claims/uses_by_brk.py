"""What the message says of the heap's bounds: claims that brk() itself settles.

Source: mm/mmap.c, the system call brk(); include/linux/mm.h, check_data_rlimit().
"""

from __future__ import annotations

from collections.abc import Sequence

from prctlmm_lab.experiments.claims.accepted import after, number, of_accepted
from prctlmm_lab.experiments.claims.claim import MAIL, RUN, SOURCE, Claim, History, Shown
from prctlmm_lab.experiments.experiment import Experiment
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.steps import Brk, Limit, Map, Step, Unmap

LIMIT = 0x40000000
"""What RLIMIT_DATA is set to: far above what the specimen really has mapped, which counts too."""
_UNDER_LIMIT: tuple[Step, ...] = (Limit("DATA", LIMIT),)
_ONE_TOO_MANY = (Brk("brk + 3*page + 1"), Brk("brk + 3*page"))
"""Room is left for three pages, to the byte."""
_HOLE: tuple[Step, ...] = (Map("hole", pages=4), Unmap("hole.start", "hole.length"))


def brk_of(record: Record) -> int:
    """Return what brk(0) answered after the call."""
    return number(after(record).brk)


def answers_of(record: Record) -> list[int]:
    """Return what brk() answered to the steps after the call."""
    return [number(answer.answer) for answer in record.answers]


def _to_the_byte(what: str, records: Sequence[Record]) -> Shown:
    """Read whether brk() stops at RLIMIT_DATA where a member takes up room, and only there."""
    with_it, without = records
    page = with_it.facts.page_size
    end, other = brk_of(with_it), brk_of(without)
    too_many, enough = answers_of(with_it)
    free, _ = answers_of(without)
    if free != other + 3 * page + 1 or too_many == enough == end:
        return Shown(None, f"brk() refuses more than that: from {other:#x} it goes to {free:#x}")
    evidence = (
        f"RLIMIT_DATA {LIMIT:#x}, {what}: brk({end + 3 * page + 1:#x}) answers {too_many:#x}, "
        f"brk({end + 3 * page:#x}) {enough:#x}"
    )
    return Shown(too_many == end and enough == end + 3 * page, evidence)


@of_accepted
def _data_counts(records: Sequence[Record]) -> Shown:
    start, end = (number(records[0].map[name]) for name in ("start_data", "end_data"))
    return _to_the_byte(f"end_data - start_data = {end - start:#x}", records)


@of_accepted
def _heap_counts(records: Sequence[Record]) -> Shown:
    start, end = (number(records[0].map[name]) for name in ("start_brk", "brk"))
    return _to_the_byte(f"brk - start_brk = {end - start:#x}", records)


@of_accepted
def _present_end(records: Sequence[Record]) -> Shown:
    (record,) = records
    asked, told = number(record.map["brk"]), brk_of(record)
    before = number(record.before.brk)
    return Shown(told == asked, f"brk = {asked:#x}: brk(0) answered {before:#x}, now {told:#x}")


@of_accepted
def _inside_heap(records: Sequence[Record]) -> Shown:
    (record,) = records
    asked, told = record.map["brk"], brk_of(record)
    maps = after(record).maps
    if maps is None or isinstance(maps, str):
        return Shown(None, f"maps: {maps}")
    bounds = [vma.split(" ", 1)[0].split("-") for vma in maps if vma.endswith(" [heap]")]
    inside = any(number(start) <= told <= number(end) for start, end in bounds)
    where = "in [heap]" if inside else "where there is no [heap]"
    return Shown(inside, f"brk = {asked}: accepted, brk(0) answers {told:#x}, {where}")


def _stays_inside_heap(records: Sequence[Record]) -> Shown:
    (record,) = records
    if record.outcome.verdict != "EINVAL":
        return _inside_heap(records)
    return Shown(True, f"start_brk = brk = {record.map['brk']}, nothing mapped there: EINVAL")


@of_accepted
def _carried_on(records: Sequence[Record]) -> Shown:
    (record,) = records
    asked = brk_of(record) + record.facts.page_size + 1
    answer, then = answers_of(record)
    if answer != asked:
        return Shown(None, f"brk({asked:#x}) was refused: {answer:#x}")
    return Shown(then == asked, f"brk({asked:#x}) answers {answer:#x}, brk(0) then {then:#x}")


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "data.limits_brk", 24,
        "end_data - start_data counts when brk() keeps to RLIMIT_DATA.", "uses: data",
        History(note="Since v4.5 what is really mapped is limited beside it (84638335900f)."),
        experiments=(
            Experiment(
                "data-fills-limit", setup=_UNDER_LIMIT,
                change={"end_data": f"start_data + {LIMIT} - (brk - start_brk) - 3*page",
                        # Before v5.15 the heap had to lie above.
                        "start_brk": "start_brk + 0x80000000", "brk": "brk + 0x80000000"},
                after=_ONE_TOO_MANY,
            ),
            Experiment(
                "data-as-it-was", setup=_UNDER_LIMIT,
                change={"start_brk": "start_brk + 0x80000000", "brk": "brk + 0x80000000"},
                after=_ONE_TOO_MANY,
            ),
        ),
        read=_data_counts,
    ),
    Claim(
        "start_brk.limits_brk", 26,
        "What lies above start_brk counts when brk() keeps to RLIMIT_DATA.", "uses: start_brk",
        History(),
        experiments=(
            Experiment(
                "heap-fills-limit", setup=_UNDER_LIMIT,
                change={"brk": f"start_brk + {LIMIT} - (end_data - start_data) - 3*page"},
                after=_ONE_TOO_MANY,
            ),
            Experiment(
                "heap-begins-at-brk", setup=_UNDER_LIMIT,
                change={"brk": f"before.start_brk + {LIMIT} - (end_data - start_data) - 3*page",
                        "start_brk": "brk"},
                after=_ONE_TOO_MANY,
            ),
        ),
        read=_heap_counts,
    ),
    Claim(
        "brk.present_end", 29, "brk is the present value of brk().", "uses: brk", History(),
        experiments=(Experiment("brk-lower", change={"brk": "brk - 8"}),),
        read=_present_end,
    ),
    Claim(
        "brk.inside_heap", 50, "brk always lies in the area of the heap, its end included.",
        "uses: brk",
        History(since=None, commits=(), known=(RUN, SOURCE, MAIL),
                note="It does until somebody makes the call; an earlier posting of the patch (July "
                     "2014) asked for memory there, no release does."),
        experiments=(
            Experiment("heap-in-a-hole", setup=_HOLE,
                       change={"start_brk": "hole.start", "brk": "hole.start"}),
        ),
        read=_stays_inside_heap,
    ),
    Claim(
        "brk.carried_on", 31, "When brk() has given memory, brk is its new end.", "uses: brk",
        History(),
        experiments=(
            Experiment("brk-grows", after=(Brk("brk + page + 1"), Brk(0))),
        ),
        read=_carried_on,
    ),
)  # fmt: skip
