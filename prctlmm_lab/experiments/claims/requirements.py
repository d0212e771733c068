"""The seven requirements of the commit message as claims.

Sources: kernel/sys.c of v3.18 to v7.3, validate_prctl_map() and validate_prctl_map_addr(),
prctl_set_mm_map() and prctl_set_mm_exe_file(); kernel/fork.c, replace_mm_exe_file().
"""

from __future__ import annotations

from collections.abc import Sequence

from prctlmm_lab.experiments.claims.claim import MAIL, RUN, SOURCE, Claim, History, Shown
from prctlmm_lab.experiments.experiment import Experiment
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.steps import (
    Limit,
    LosePrivilege,
    Map,
    MemoryFile,
    Open,
    ReleaseExecutable,
    Unmap,
    UserNamespace,
)
from prctlmm_lab.kernel.releases import Release

NAMESPACE = (LosePrivilege(True), UserNamespace(True))
"""An ordinary user, in a user namespace of its own: there it may change its exe link."""
POSTED = "An earlier posting of the patch (July 2014) had this check, no release has."


def verdict_of(record: Record) -> str:
    """Return what the kernel said to the call."""
    return record.outcome.verdict


def refused(record: Record, *errnos: str) -> bool:
    """Tell whether the call was refused, with one of some errnos if any are given."""
    verdict = record.outcome.verdict
    return verdict in errnos if errnos else verdict != "accepted"


def asked(record: Record, *members: str) -> str:
    """Write the members of a call as NAME = VALUE.

    >>> from prctlmm_lab.experiments.experiment import run
    >>> asked(run(Experiment("one", change={"brk": "start_brk", "start_stack": 0x10000})),
    ...       "start_stack")
    'start_stack = 0x10000'
    """
    return ", ".join(f"{member} = {record.map[member]}" for member in members)


PAIRS: dict[str, tuple[str, str]] = {
    "code": ("start_code", "end_code"),
    "data": ("start_data", "end_data"),
    "heap": ("start_brk", "brk"),
    "arguments": ("arg_start", "arg_end"),
    "environment": ("env_start", "env_end"),
}


# ---- 1: addresses in user space -----------------------------------------------------------------

OUTSIDE: tuple[tuple[str, str], ...] = (
    ("start_code", "lowest"), ("end_code", "highest"), ("start_data", "lowest"),
    ("end_data", "highest"), ("start_brk", "highest"), ("brk", "highest"),
    ("start_stack", "lowest"), ("start_stack", "highest"), ("arg_start", "lowest"),
    ("arg_end", "highest"), ("env_start", "lowest"), ("env_end", "highest"),
)  # fmt: skip
"""Each member, and the end of user space at which no other rule stands in its way."""


def _at_the_end(member: str, end: str, *, beyond: bool) -> Experiment:
    """Put a member on an end of user space, or one byte beyond."""
    value = end if not beyond else "lowest - 1" if end == "lowest" else "highest + 1"
    change = {member: value}
    if member in ("start_brk", "brk"):
        change = {"start_brk": end, "brk": end} | change
    # Before v5.15 nothing of the heap could lie above such data: the outermost end_data that is
    # allowed lies one page below the highest address.
    if member == "end_data" and not beyond:
        change = {"end_data": "highest - page", "start_brk": "highest", "brk": "highest"}
    return Experiment(
        f"{'beyond' if beyond else 'on'}-{end}-{member.replace('_', '-')}",
        setup=(Limit("DATA", "unlimited"),), change=change,
    )  # fmt: skip


def _range(records: Sequence[Record]) -> Shown:
    inside, outside = records[::2], records[1::2]
    wrong = [
        f"{record.experiment['id']} {asked(record, member)}: {verdict_of(record)}"
        for (member, _), pair in zip(OUTSIDE, zip(inside, outside, strict=True), strict=True)
        for record, right in zip(pair, ("accepted", "EINVAL"), strict=True)
        if verdict_of(record) != right
    ]
    if wrong:
        return Shown(False, "; ".join(wrong))
    low, high = (record.map["start_stack"] for record in inside[6:8])
    under, over = (record.map["start_stack"] for record in outside[6:8])
    members = len({member for member, _ in OUTSIDE})
    evidence = f"{low} and {high} accepted, {under} and {over}: EINVAL, for {members:#x} members"
    return Shown(True, evidence)


# ---- 2: what may point anywhere -----------------------------------------------------------------


def _code_and_data_anywhere(records: Sequence[Record]) -> Shown:
    (record,) = records
    areas = [PAIRS["code"], PAIRS["data"]]
    text = asked(record, *(member for area in areas for member in area))
    if any(is_mapped(record, *area) for area in areas):
        return Shown(None, f"{text}: something is mapped there")
    return Shown(not refused(record), f"{text}, nothing mapped there: {verdict_of(record)}")


def is_mapped(record: Record, start: str, end: str) -> bool:
    """Tell whether anything was mapped, before the call, between what two members are to be."""
    first, last = (int(record.map[member], 16) for member in (start, end))
    areas = (line.partition(" ")[0].split("-") for line in record.before.maps or ())
    return any(first < int(area[1], 16) and int(area[0], 16) < last for area in areas)


_OTHERS = ("start_brk", "brk", "start_stack", "arg_start", "arg_end", "env_start", "env_end")


def _others_mapped(records: Sequence[Record]) -> Shown:
    (record,) = records
    start, end = record.map["start_brk"], record.map["env_end"]
    text = f"start_brk to env_end at {start} to {end}, where nothing is mapped: "
    return Shown(refused(record), text + verdict_of(record))


# ---- 3: order -----------------------------------------------------------------------------------


def _equal(pair: str) -> Experiment:
    start, end = PAIRS[pair]
    # The heap goes down and the others go up, so that start_brk stays above end_data.
    return Experiment(f"equal-{pair}", change={end: start} if pair == "heap" else {start: end})


def _reversed(pair: str) -> Experiment:
    start, end = PAIRS[pair]
    change = {start: f"{end} + 1"} if pair != "heap" else {end: f"{start} - 1"}
    return Experiment(f"reversed-{pair}", change=change)


def _pairs(records: Sequence[Record]) -> Shown:
    """Read whether every call of some pairs is refused; one pair is shown with its numbers."""
    answers = []
    for record in records:
        pair = record.experiment["id"].partition("-")[2]
        numbers = asked(record, *PAIRS[pair]) if len(records) == 1 else _both(record, pair)
        answers.append(f"{numbers}: {verdict_of(record)}")
    return Shown(all(refused(record, "EINVAL") for record in records), "; ".join(answers))


def _both(record: Record, pair: str) -> str:
    start, end = (record.map[member] for member in PAIRS[pair])
    return f"{pair} {start}" if start == end else f"{pair} {start} to {end}"


# ---- 4 to 7 -------------------------------------------------------------------------------------


def _above_data(records: Sequence[Record]) -> Shown:
    (record,) = records
    text = f"{asked(record, 'end_data', 'start_brk', 'brk')}: {verdict_of(record)}"
    return Shown(refused(record, "EINVAL"), text)


NEED = "brk - start_brk + end_data - start_data"


def _data_limit(records: Sequence[Record]) -> Shown:
    exact, less = records
    map_ = {member: int(value, 16) for member, value in less.map.items()}
    need = map_["brk"] - map_["start_brk"] + map_["end_data"] - map_["start_data"]
    text = (
        f"{NEED} = {need:#x}: {verdict_of(exact)} under RLIMIT_DATA {need:#x}, "
        f"{verdict_of(less)} under {need - 1:#x}"
    )
    return Shown(not refused(exact) and refused(less, "EINVAL"), text)


def _stack_limit(records: Sequence[Record]) -> Shown:
    (record,) = records
    length = int(record.map["arg_end"], 16) - int(record.map["arg_start"], 16)
    text = (
        f"RLIMIT_STACK 0x1000, {asked(record, 'start_stack')}, arguments of {length:#x} bytes: "
        f"{verdict_of(record)}"
    )
    return Shown(refused(record), text)


def _vector_size(records: Sequence[Record]) -> Shown:
    whole, more = records
    text = "; ".join(f"{asked(record, 'auxv_size')}: {verdict_of(record)}" for record in records)
    return Shown(not refused(whole) and refused(more, "EINVAL"), text)


def _executable(records: Sequence[Record]) -> Shown:
    allowed, plain, folder = records
    text = (
        f"a memory file of mode 0o755 as exe_fd {allowed.map['exe_fd']}: {verdict_of(allowed)}; "
        f"of mode 0o644: {verdict_of(plain)}; the folder /: {verdict_of(folder)}"
    )
    return Shown(not refused(allowed) and all(refused(r, "EACCES") for r in (plain, folder)), text)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "addresses.in_user_space", 11,
        "Each of the eleven addresses lies between mmap_min_addr and the end of user space.", "1",
        History(note="The lower bound is what the kernel goes by: the larger of vm.mmap_min_addr "
                     "and what its security modules are configured to."),
        experiments=tuple(
            _at_the_end(member, end, beyond=beyond)
            for member, end in OUTSIDE for beyond in (False, True)
        ),
        read=_range,
    ),
    Claim(
        "areas.code_and_data_anywhere", 12,
        "Code and data may be said to lie where nothing is mapped.", "2", History(),
        experiments=(
            Experiment("nowhere", change={
                "start_code": "lowest + 4*page", "end_code": "lowest + 5*page",
                "start_data": "lowest + page", "end_data": "lowest + 2*page",
            }),
        ),
        read=_code_and_data_anywhere,
    ),
    Claim(
        "areas.others_mapped", 13,
        "Heap, stack, arguments and environment must lie in memory that is mapped.", "2",
        History(since=None, commits=(), known=(RUN, SOURCE, MAIL), note=POSTED),
        experiments=(
            Experiment(
                "unmapped", setup=(Map("hole", pages=8), Unmap("hole.start", "hole.length")),
                change={name: f"hole.start + {number}*page" for number, name in enumerate(_OTHERS)},
            ),
        ),
        read=_others_mapped,
    ),
    Claim(
        "order.strict", 14, "In all five pairs the start must lie below the end.", "3",
        History(since=None, commits=(), known=(RUN, SOURCE, MAIL),
                note="Heap, arguments and environment could be empty from v3.18 on; an earlier "
                     "posting was strict about the last two."),
        experiments=tuple(map(_equal, PAIRS)),
        read=_pairs,
    ),
    Claim(
        "order.code", 66, "start_code must lie below end_code.", "3", History(),
        experiments=(_equal("code"),),
        read=_pairs,
    ),
    Claim(
        "order.data", 67, "start_data must lie below end_data.", "3",
        History(
            until=Release(5, 2), commits=("f606b77f1a9e", "a9e73998f9d7"),
            stable={"5.1": 10, "4.19": 51, "4.14": 126, "4.9": 183, "4.4": 183},
            known=(SOURCE, MAIL),
            note="Programs without initialised data, as Go makes them, could not be restored.",
        ),
        experiments=(_equal("data"),),
        read=_pairs,
    ),
    Claim(
        "order.not_reversed", 68, "In none of the five pairs may the start lie above the end.",
        "3", History(),
        experiments=tuple(map(_reversed, PAIRS)),
        read=_pairs,
    ),
    Claim(
        "heap.above_data", 15, "start_brk and brk must lie above end_data.", "4",
        History(
            until=Release(5, 15), commits=("f606b77f1a9e", "e1fbbd073137"),
            stable={"5.14": 8, "5.10": 69, "5.4": 149, "4.19": 208, "4.14": 248, "4.9": 284,
                    "4.4": 285},
            known=(SOURCE, MAIL),
            note="Programs that the loader started, and static PIE, may have their heap below.",
        ),
        experiments=(
            Experiment("below", change={"start_brk": "start_data", "brk": "start_data"}),
        ),
        read=_above_data,
    ),
    Claim(
        "limit.data", 16, "New values must stay within RLIMIT_DATA.", "5", History(),
        experiments=(
            Experiment("exact", setup=(Limit("DATA", NEED),)),
            Experiment("one-less", setup=(Limit("DATA", f"{NEED} - 1"),)),
        ),
        read=_data_limit,
    ),
    Claim(
        "limit.stack", 17, "New values must stay within RLIMIT_STACK.", "5",
        History(since=None, commits=(), known=(RUN, SOURCE, MAIL), note=POSTED),
        experiments=(
            Experiment(
                "far-stack", setup=(Limit("STACK", "page"),),
                change={"start_stack": "lowest", "arg_start": "arg_start - 0x4000000"},
            ),
        ),
        read=_stack_limit,
    ),
    Claim(
        "auxv.size", 18, "The auxiliary vector is at most as large as the kernel's own.", "6",
        History(note="AT_VECTOR_SIZE counts words and depends on machine and release; auxv_size "
                     "counts bytes."),
        experiments=(
            Experiment("whole", setup=(Map("vector"),),
                       change={"auxv": "vector.start", "auxv_size": "auxv_capacity"}),
            Experiment("one-more", setup=(Map("vector"),),
                       change={"auxv": "vector.start", "auxv_size": "auxv_capacity + 1"}),
        ),
        read=_vector_size,
    ),
    Claim(
        "exe.executable", 19,
        "exe_fd must name a regular file that may be executed.", "7",
        History(note="What is in the file is not looked at. Since v4.3 file systems that forbid "
                     "executing as a whole count too (90f8572b0f02), and since v5.15 nobody may "
                     "have it open for writing (fe69d560b5bd; not v6.11 and v6.12 at first)."),
        experiments=(
            Experiment("allowed", setup=(*NAMESPACE, MemoryFile("file"), ReleaseExecutable(True)),
                       change={"exe_fd": "file"}),
            Experiment("no-permission", setup=(*NAMESPACE, MemoryFile("file", mode=0o644),
                                               ReleaseExecutable(True)),
                       change={"exe_fd": "file"}),
            Experiment("folder", setup=(*NAMESPACE, Open("file", "/", access="directory"),
                                        ReleaseExecutable(True)),
                       change={"exe_fd": "file"}),
        ),
        read=_executable,
        documented="kernel/sys.c, prctl_set_mm_exe_file(): EACCES for what is no regular file, "
                   "lies on a noexec mount, or lacks the permission to be executed",
    ),
)  # fmt: skip
