"""The exercises of notebook 06: what start_stack and the bounds of code and data decide."""

from __future__ import annotations

from prctlmm_lab.course.answers import Trial, experiment_of, number_of, trial, words_of
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.experiments.experiment import Experiment
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.steps import Map, Protect, Step, Unmap
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.specimen.probe import facts_here


def _refused(made: Trial) -> Told:
    by = f" by {made.rule}: {made.numbers}" if made.rule else ""
    return Told(False, f"The kernel refused the map: {made.verdict}{by}.")


def _areas(snapshot: Snapshot, label: str) -> str:
    """List the VMAs with a label, in words."""
    found = [f"{vma.start:#x}-{vma.end:#x}" for vma in snapshot.labelled(label)]
    return ", ".join(found) or "no VMA"


# ---- 06.1 --------------------------------------------------------------------------------------

_TEXT: dict[str, Value] = {"start_code": 0x400FFE, "end_code": 0x402001}


def _text_pages(answer: object) -> Told:
    said = number_of(answer)
    shown = _statm(trial(experiment_of(_TEXT)).shown)["text"]
    if said == shown:
        return Told(True, f"{shown}: from 0x400000, where the page of the first byte begins, to "
                    "0x403000, where the page of the last byte ends.")  # fmt: skip
    if said == 0x1003:
        return Told(False, "That is the code's size. statm counts pages: those that the code "
                    "touches.")  # fmt: skip
    few = "few" if said < shown else "many"
    return Told(False, f"{said:#x} is too {few}. The start is rounded down to a page, and the end "
                "is rounded up.")  # fmt: skip


def _statm(snapshot: Snapshot) -> dict[str, int]:
    return {} if isinstance(snapshot.statm, Unreadable) else dict(snapshot.statm)


# ---- 06.2 and 06.3 -----------------------------------------------------------------------------


def _other_stack(answer: object) -> Told:
    made = trial(experiment_of(answer, setup=(Map("arena", pages=2),)))
    if made.verdict != "accepted":
        return _refused(made)
    start, end = _region(made, "arena")
    stacks = made.shown.labelled("[stack]")
    where = f"start_stack = {made.shown.members['start_stack']:#x}"
    if len(stacks) != 1 or not stacks[0].start <= start < stacks[0].end:
        return Told(False, f"Accepted, but {_areas(made.shown, '[stack]')} is called [stack]; "
                    f"{where}, and arena is {start:#x}-{end:#x}.")  # fmt: skip
    return Told(True, f"{where}: arena is called [stack]. The real stack has no name now, and the "
                "specimen still runs on it.")  # fmt: skip


def _two_stacks(answer: object) -> Told:
    setup = (Map("arena", pages=2), Protect("arena.start + page", "r--"))
    made = trial(experiment_of(answer, setup=setup))
    if made.verdict != "accepted":
        return _refused(made)
    where = f"start_stack = {made.shown.members['start_stack']:#x}"
    areas = _areas(made.shown, "[stack]")
    if len(made.shown.labelled("[stack]")) != 2:
        return Told(False, f"Accepted, but {areas} is called [stack]; {where}. A VMA's start "
                    "counts as inside, and so does its end. Which address is both?")  # fmt: skip
    return Told(True, f"{areas}: {where} is the end of the one and the start of the other.")


def _region(made: Trial, name: str) -> tuple[int, int]:
    """Return where a region lies that the set-up mapped."""
    start, end = (made.record.before.regions or {})[name]
    return int(start, 16), int(end, 16)


# ---- 06.4 --------------------------------------------------------------------------------------


def _eight_kilobytes(answer: object) -> Told:
    made = trial(experiment_of(answer))
    if made.verdict != "accepted":
        return _refused(made)
    members = made.shown.members
    size = members["end_code"] - members["start_code"]
    shown = _status(made.shown).get("VmExe", "nothing")
    bounds = f"start_code = {members['start_code']:#x}, end_code = {members['end_code']:#x}"
    if size != 2:
        return Told(False, f"VmExe shows {shown}, but the code has {size:#x} bytes: {bounds}.")
    if shown != "8 kB":
        return Told(False, f"Two bytes, but VmExe shows {shown}: {bounds}. Where must they lie to "
                    "touch two pages?")  # fmt: skip
    return Told(True, f"{bounds}: a byte on either side of a page's border makes two pages.")


def _status(snapshot: Snapshot) -> dict[str, str]:
    return {} if isinstance(snapshot.status, Unreadable) else dict(snapshot.status)


# ---- 06.5 --------------------------------------------------------------------------------------

_BY_A_PAGE: dict[str, str] = {
    "start_code": "start_code - page",
    "end_code": "end_code + page",
    "start_data": "start_data - page",
    "end_data": "end_data + page",
    "start_brk": "start_brk + page",
    "brk": "brk - page",
    "start_stack": "start_stack - page",
}


def _seen_in_statm(answer: object) -> Told:
    said = words_of(answer, _BY_A_PAGE)
    visible = {member for member in _BY_A_PAGE if _changes_statm(member)}
    wrong = [member for member in _BY_A_PAGE if member in said ^ visible]
    if not wrong:
        return Told(True, "Only the bounds of the code, in the column text. The commit message "
                    "of 2014 says it of data too; with an MMU it was never so.")  # fmt: skip
    member = wrong[0]
    does = "changes statm's text" if member in visible else "changes no column of statm"
    return Told(False, f"{len(_BY_A_PAGE) - len(wrong)} of {len(_BY_A_PAGE)} are right. Moved by a "
                f"page, {member} {does}.")  # fmt: skip


def _changes_statm(member: str) -> bool:
    """Ask the kernel."""
    made = trial(Experiment("by-a-page", change={member: _BY_A_PAGE[member]}))
    return _statm(made.before) != _statm(made.shown)


# ---- 06.6 --------------------------------------------------------------------------------------

_NOWHERE: tuple[Step, ...] = (Map("gone", pages=3), Unmap("gone.start", length="gone.length"))


def _nameless(answer: object) -> Told:
    made = trial(experiment_of(answer, setup=_NOWHERE))
    if made.verdict != "accepted":
        return _refused(made)
    shown = made.shown
    members = shown.members
    for label, names in (("[stack]", ("start_stack",)), ("[heap]", ("start_brk", "brk"))):
        if shown.labelled(label):
            where = ", ".join(f"{name} = {members[name]:#x}" for name in names)
            return Told(False, f"{_areas(shown, label)} is still called {label}: {where}.")
    size = members["end_code"] - members["start_code"]
    if size != 1:
        return Told(False, f"No [stack] and no [heap], but the code has {size:#x} bytes.")
    return Told(True, "No stack, no heap, one byte of code; and the specimen has just answered "
                f"from code at {_running(shown):#x} on a stack that has no name.")  # fmt: skip


def _running(snapshot: Snapshot) -> int:
    """Return where the executable memory of its program begins."""
    code = (vma for vma in snapshot.vmas if "x" in vma.permissions and vma.path)
    return next((vma.start for vma in code), 0)


def _no_vdso() -> str:
    with Experiment("nothing").specimen.start() as specimen:
        status = _status(specimen.snapshot())
    counted = sum(int(status.get(name, "0").split()[0]) for name in ("VmExe", "VmLib"))
    if facts_here().code_size_clamped and counted < 8:
        return f"only {counted} kB of the specimen are executable, and VmExe never shows more"
    return ""


EXERCISES = {
    "06.1": Exercise(
        "Pages of code",
        "`start_code` is `0x400ffe` and `end_code` is `0x402001`. Which number does `statm` show "
        "in its fourth column, text? A number, such as `2`.",
        _text_pages,
        (
            "The column counts pages, not bytes.",
            "The start is rounded down to a page, the end is rounded up.",
            "From 0x400000 to 0x403000.",
        ),
        3,
    ),
    "06.2": Exercise(
        "Another stack",
        "The exercise maps two pages called `arena`, one VMA. Give changes after which `arena` is "
        'called `[stack]`, and nothing else is. A dict, such as `{"start_stack": 4096}`.',
        _other_stack,
        (
            "One member decides who is called [stack].",
            "It must point into arena.",
            'A formula such as "arena.start" is the address of its first byte.',
        ),
        {"start_stack": "arena.start + page"},
    ),
    "06.3": Exercise(
        "Two stacks",
        "The exercise maps two pages called `arena`; the second is read-only, so that they are two "
        "VMAs. Give changes after which both are called `[stack]`. A dict.",
        _two_stacks,
        (
            "There is only one start_stack, so one address must be enough for both.",
            "A VMA is called [stack] if start_stack is at least its start and at most its end.",
            "The end of the first page is the start of the second: arena.start + page.",
        ),
        {"start_stack": "arena.start + page"},
    ),
    "06.4": Exercise(
        "Two bytes of 8 kB",
        "Give changes after which the code has exactly two bytes (`end_code - start_code` is 2) "
        'and VmExe shows 8 kB. A dict, such as `{"end_code": "start_code + 16"}`.',
        _eight_kilobytes,
        (
            "VmExe counts whole pages: those that the code touches.",
            "One byte must be the last of a page, the other the first of the next.",
            '{"start_code": "page_down(start_code) + page - 1", ...}; in the formula of end_code, '
            "start_code means the new one.",
        ),
        {"start_code": "page_down(start_code) + page - 1", "end_code": "start_code + 2"},
        _no_vdso,
    ),
    "06.5": Exercise(
        "What statm shows",
        "Each of `start_code`, `end_code`, `start_data`, `end_data`, `start_brk`, `brk` and "
        "`start_stack` is moved by a page, one at a time. Which of these moves change a number in "
        '`statm`? Their names, such as `"brk, start_brk"`.',
        _seen_in_statm,
        (
            "Most of statm is counted from what is mapped. The call maps nothing.",
            "One column is computed from the map: text.",
            "text is the pages from start_code to end_code.",
        ),
        "start_code, end_code",
    ),
    "06.6": Exercise(
        "Adversarial: a process of nothing",
        "The exercise unmaps three pages; `gone.start` is where they were. Give changes that the "
        "kernel accepts, and after which nothing is called `[stack]`, nothing is called `[heap]`, "
        "and the code has one byte. The specimen must still answer. A dict.",
        _nameless,
        (
            "All these members may point to where nothing is mapped.",
            "start_code must be below end_code; the heap may be empty.",
            'Point start_stack, start_brk and brk at "gone.start + page"; the last change is that '
            "of end_code.",
        ),
        {
            "start_stack": "gone.start + page",
            "start_brk": "gone.start + page",
            "brk": "gone.start + page",
            "end_code": "start_code + 1",
        },
    ),
}
"""By number."""
