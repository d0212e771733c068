"""The exercises of notebook 05: the heap moves, and brk() goes on from there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from prctlmm_lab.course.answers import Trial, experiment_of, number_of, trial, words_of
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.experiments.experiment import Experiment, carry_out, prepare
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.steps import Brk, Limit, Map, Protect, Step, Unmap
from prctlmm_lab.kernel.procfs import Snapshot
from prctlmm_lab.kernel.releases import facts_on
from prctlmm_lab.kernel.rules import errno_name, explain
from prctlmm_lab.specimen.probe import facts_here

ROOM: tuple[Step, ...] = (Map("room", pages=8), Unmap("room.start", length="7 * page"))
"""Seven free pages, and other memory above them."""
OLD = "5.14"


def _refused(made: Trial) -> Told:
    by = f" by {made.rule}: {made.numbers}" if made.rule else ""
    return Told(False, f"The kernel refused the map: {made.verdict}{by}.")


def _moved_heap(at: Value, *requests: Value) -> Experiment:
    """Return what makes an empty heap at a place of `ROOM`, and then asks brk()."""
    change: dict[str, Value] = {"start_brk": at, "brk": at}
    after = tuple(Brk(request) for request in requests)
    return Experiment("moved-heap", setup=ROOM, change=change, after=after)


# ---- 05.1 --------------------------------------------------------------------------------------


def _mapped_bytes(answer: object) -> Told:
    said = number_of(answer)
    made = trial(_moved_heap("room.start + 0x123", "room.start + 0x1fff"))
    start, end = _region(made.record, "room")
    mapped = _mapped(made.shown, start, end) - _mapped(made.before, start, end)
    if said == mapped:
        return Told(True, f"{mapped:#x}: the page behind the old end, and no more. The page that "
                    "holds the old end was not mapped before, and is not now.")  # fmt: skip
    if said % facts_here().page_size:
        return Told(False, f"{said:#x} is not a whole number of pages: memory is mapped by pages.")
    if said > mapped:
        return Told(False, f"{said:#x} is too much. brk() takes the page that holds the old end to "
                    "be there already, and begins after it.")  # fmt: skip
    return Told(False, f"{said:#x} is too little: the byte before the new end must be mapped.")


def _mapped(snapshot: Snapshot, start: int, end: int) -> int:
    """Return how many bytes of a range are mapped."""
    return sum(max(0, min(vma.end, end) - max(vma.start, start)) for vma in snapshot.vmas)


def _region(record: Record, name: str) -> tuple[int, int]:
    """Return where a region lies that the set-up mapped; (0, 0) for none."""
    start, end = (record.before.regions or {}).get(name, ("0x0", "0x0"))
    return int(start, 16), int(end, 16)


# ---- 05.2 --------------------------------------------------------------------------------------

_THREE: tuple[Step, ...] = (Map("arena", pages=3), Protect("arena.start + page", "r--"))


def _three_heaps(answer: object) -> Told:
    made = trial(experiment_of(answer, setup=_THREE))
    if made.verdict != "accepted":
        return _refused(made)
    heaps = made.shown.labelled("[heap]")
    members = made.shown.members
    where = f"start_brk = {members['start_brk']:#x}, brk = {members['brk']:#x}"
    listed = ", ".join(f"{vma.start:#x}-{vma.end:#x}" for vma in heaps) or "none"
    if len(heaps) != 3:
        return Told(False, f"Accepted, but VMAs called [heap] are {len(heaps)}, not three: "
                    f"{listed}; {where}.")  # fmt: skip
    return Told(True, f"{listed} are all called [heap]. No byte of them has moved; {where}.")


# ---- 05.3 --------------------------------------------------------------------------------------

_REQUESTS: dict[str, str] = {
    "a": "room.start + 0xf",
    "b": "room.start + 0x1000",
    "c": "room.start + 0x4001",
    "d": "room.start + 0x7001",
}
_WHY = {
    "a": "one byte below start_brk, which is brk()'s lower bound",
    "b": "the new end lies in the page that holds the old one: nothing needs to be mapped",
    "c": "there is room for the pages from room + 0x1000 to room + 0x5000",
    "d": "it would need the page at room + 0x7000, where other memory lies",
}


def _obeyed(answer: object) -> Told:
    said = words_of(answer, _REQUESTS)
    right = {letter for letter in _REQUESTS if _obeys(_REQUESTS[letter])}
    wrong = sorted(said ^ right)
    if not wrong:
        return Told(True, "; ".join(f"{letter}: {_WHY[letter]}" for letter in _REQUESTS) + ".")
    first = wrong[0]
    does = "obeys" if first in right else "does not obey"
    return Told(False, f"{len(_REQUESTS) - len(wrong)} of {len(_REQUESTS)} are right. brk() {does} "
                f"{first}: {_WHY[first]}.")  # fmt: skip


def _obeys(request: str) -> bool:
    """Ask the kernel, on a heap that has just been moved."""
    record = trial(_moved_heap("room.start + 0x10", request)).record
    start, _ = _region(record, "room")
    wanted = start + int(request.rpartition("+ ")[2], 0)
    return int(record.answers[0].answer, 16) == wanted


# ---- 05.4 --------------------------------------------------------------------------------------

_MEBIBYTE: tuple[Step, ...] = (Limit("DATA", soft="1 << 20"),)


def _one_byte_left(answer: object) -> Told:
    experiment = experiment_of(answer, setup=_MEBIBYTE)
    record = trial(_asking(experiment, Brk("brk + 2"), Brk("brk + 1"))).record
    if record.outcome.verdict != "accepted":
        by = f"{record.prediction.rule}: {record.prediction.numbers}"
        return Told(False, f"The kernel refused the map: {record.outcome.verdict} by {by}.")
    value = {name: int(number, 16) for name, number in record.map.items()}
    need = value["brk"] - value["start_brk"] + value["end_data"] - value["start_data"]
    left = (1 << 20) - need
    numbers = f"brk - start_brk + end_data - start_data = {need:#x}, RLIMIT_DATA = 0x100000"
    two, one = (int(answer.answer, 16) - value["brk"] for answer in record.answers[-2:])
    if two > 0:
        return Told(False, f"Accepted, but brk() moved by two bytes: {numbers}. "
                    f"That leaves {left:#x}.")  # fmt: skip
    if one != 1 and left:
        return Told(False, f"Accepted, and {left:#x} is left, but brk() does not move even by one "
                    "byte: that byte needs a new page, and there is no room for it.")  # fmt: skip
    if one != 1:
        return Told(False, f"Accepted, but brk() cannot move by one byte: {numbers}. "
                    "No byte is left.")  # fmt: skip
    return Told(True, f"{numbers}: one byte fits and the second does not. Neither the call nor "
                "brk() rounds this sum to pages.")  # fmt: skip


def _asking(experiment: Experiment, *requests: Brk) -> Experiment:
    """Return an experiment that asks brk() after its own steps."""
    return replace(experiment, after=(*experiment.after, *requests))


# ---- 05.5 --------------------------------------------------------------------------------------


def _below_data(answer: object) -> Told:
    experiment = experiment_of(answer)
    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, facts_here())
        old = explain(prepared.situation, facts_on(OLD, facts_here()))
        here = carry_out(prepared)
    m = prepared.map
    where = f"start_brk = {m.start_brk:#x}, brk = {m.brk:#x}, end_data = {m.end_data:#x}"
    if here.outcome.verdict != "accepted":
        return Told(False, f"This kernel refuses it too: {here.outcome.verdict} by "
                    f"{here.prediction.rule}: {here.prediction.numbers}.")  # fmt: skip
    if old.deciding is None:
        return Told(False, f"v{OLD} accepts it as well: {where}.")
    if old.deciding.rule.id != "heap.above_data":
        return Told(False, f"v{OLD} refuses it, but by {old.deciding.rule.id}: "
                    f"{old.deciding.numbers}.")  # fmt: skip
    return Told(True, f"Here it is accepted; v{OLD} says {errno_name(old.errno)}: {where}. So it "
                "said to every process whose heap the kernel itself had put there.")  # fmt: skip


def _still_checked() -> str:
    checked = not facts_here().heap_below_data_accepted
    return "this kernel still makes the check heap.above_data itself" if checked else ""


# ---- 05.6 --------------------------------------------------------------------------------------


def _hole_by_brk(answer: object) -> Told:
    experiment = experiment_of(answer)
    others = sorted({step.verb for step in experiment.after} - {"brk"})
    if others:
        return Told(False, f"After the call there may be brk steps only; yours has {others[0]}.")
    made = trial(experiment)
    start, end = _region(made.record, "arena")
    page = facts_here().page_size
    if end - start != 3 * page:
        return Told(False, "The set-up must map three pages called arena: "
                    'setup = [{ map = "arena", pages = 3 }].')  # fmt: skip
    if made.verdict != "accepted":
        return _refused(made)
    pages = [start, start + page, start + 2 * page]
    if not all(map(made.before.vma_at, pages)):
        return Told(False, "A page of arena was not mapped any more before the call.")
    left = [bool(made.shown.vma_at(address)) for address in pages]
    if left != [True, False, True]:
        state = ", ".join("mapped" if there else "gone" for there in left)
        answers = ", ".join(_answers(made.record)) or "no brk() was asked for"
        return Told(False, f"In the end the three pages are: {state} (brk() answered: {answers}). "
                    "It unmaps from the new end up to the old one.")  # fmt: skip
    return Told(True, f"At {start + page:#x} lay memory that brk() had never given out, and brk() "
                "has unmapped it: all it asks is what lies between two addresses.")  # fmt: skip


def _answers(record: Record) -> Iterator[str]:
    yield from (answer.answer or answer.refusal for answer in record.answers)


EXERCISES = {
    "05.1": Exercise(
        "Page by page",
        "`room` is the start of some free pages. `start_brk` and `brk` are both `room + 0x123`, "
        "and nothing is mapped there. Then `brk(room + 0x1fff)` succeeds. How many bytes does it "
        "map? A number, such as `0x3000`.",
        _mapped_bytes,
        (
            "brk() rounds the old end and the new end, each up to a page, and maps what lies "
            "between.",
            "room + 0x123 rounds up to room + 0x1000.",
            "room + 0x1fff rounds up to room + 0x2000. One page lies between the two.",
        ),
        0x1000,
    ),
    "05.2": Exercise(
        "Three heaps",
        "The exercise maps three pages called `arena` and makes the middle one read-only: three "
        "VMAs. Give changes after which exactly three VMAs are called `[heap]`. A dict, such as "
        '`{"brk": "arena.end"}`.',
        _three_heaps,
        (
            "A VMA is called [heap] if it and the range from start_brk to brk overlap.",
            "The range must reach into all three pages, and into nothing else.",
            "From a byte in the first page to a byte in the last one. On every kernel this does "
            'it: {"start_brk": "arena.start + 1", ...}.',
        ),
        {"start_brk": "arena.start + 1", "brk": "arena.end - 1"},
    ),
    "05.3": Exercise(
        "What brk() obeys",
        "`room` is the start of seven free pages; in the eighth lies other memory. Four times "
        "`start_brk` and `brk` are set to `room + 0x10`, and brk() is asked once: "
        "a: `brk(room + 0xf)`, b: `brk(room + 0x1000)`, c: `brk(room + 0x4001)`, "
        'd: `brk(room + 0x7001)`. Which requests are obeyed? Their letters, such as `"a, d"`.',
        _obeyed,
        (
            "brk() needs the request to be at or above start_brk, and room for the new pages.",
            "Round each request up to a page. Which pages from room + 0x1000 on does it need?",
            "a is below start_brk. d needs the eighth page, at room + 0x7000.",
        ),
        "b, c",
    ),
    "05.4": Exercise(
        "One byte left",
        "RLIMIT_DATA is 1 MiB (`1 << 20`). Give changes that the kernel accepts, and after which "
        "brk() can move the heap's end up by one byte, but not by two. A dict, such as "
        '`{"brk": "start_brk + 4096"}`.',
        _one_byte_left,
        (
            "Heap and data are added: brk - start_brk + end_data - start_data.",
            "The sum must be (1 << 20) - 1. Members may point to where nothing is mapped.",
            'One way: "brk" is start_brk + (1 << 20) - 1, less the size of the data, which is '
            "end_data - start_data.",
        ),
        {"brk": "start_brk + (1 << 20) - 1 - (end_data - start_data)"},
    ),
    "05.5": Exercise(
        "A heap that was refused",
        f"Give changes that this kernel accepts and that Linux v{OLD} refuses by "
        '`heap.above_data`. A dict, such as `{"start_brk": "brk"}`.',
        _below_data,
        (
            f"v{OLD} wants start_brk and brk above end_data.",
            "A heap may be empty, and it may lie where nothing is mapped. Only start_brk <= brk "
            "must hold, here as there.",
            "`lowest` is the lowest address that the kernel accepts: far below the data.",
        ),
        {"start_brk": "lowest", "brk": "lowest + page"},
        _still_checked,
    ),
    "05.6": Exercise(
        "Adversarial: a hole made by brk()",
        "A recipe whose set-up maps three pages called `arena`, and whose only steps after the "
        "call are `brk`. In the end the middle page of `arena` is not mapped, and the two others "
        "are. A recipe as text.",
        _hole_by_brk,
        (
            "A brk() that moves down unmaps from the new end to the old end, both rounded up to a "
            "page. What lies there is not asked.",
            "brk must be the end of the middle page, and start_brk at or below its start.",
            'change.brk = "arena.start + 2 * page", then after = [{ brk = "arena.start + page" }].',
        ),
        """[[experiment]]
id = "hole-by-brk"
title = "brk() unmaps what was never its own"
setup = [{ map = "arena", pages = 3 }]
change.start_brk = "arena.start + page"
change.brk = "arena.start + 2 * page"
after = [{ brk = "arena.start + page" }]
""",
    ),
}
"""By number."""
