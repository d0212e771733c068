"""The exercises of notebook 12: which claims hold, who is wrong, and what a few kernels prove."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cache

from prctlmm_lab.course.answers import YOURS, experiment_of, trial
from prctlmm_lab.course.exercises import Exercise, Shown, Told
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.claims import CLAIM, Verdict, settle
from prctlmm_lab.experiments.experiment import carry_out, prepare
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.experiments.logbook import shipped_logbooks
from prctlmm_lab.experiments.statements import STATEMENT, Statement
from prctlmm_lab.kernel.facts import CAP_CHECKPOINT_RESTORE, Facts
from prctlmm_lab.kernel.releases import (
    CHANGES,
    INTRODUCED,
    NEWEST,
    Release,
    facts_on,
    following,
    read_release,
)
from prctlmm_lab.kernel.rules import errno_name, explain
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.words import shortened

# ---- 12.1 --------------------------------------------------------------------------------------


def _never(answer: object) -> Told:
    named = sorted(_claims_of(answer), key=lambda name: CLAIM[name].number)
    if len(named) < 3:
        return Told(False, f"That is {len(named)}; name three at least.")
    evidence = []
    for name in named:
        finding = settle(CLAIM[name], facts_here())
        if finding.verdict is Verdict.HOLDS:
            return Told(False, f"{name} holds here: {finding.evidence}.")
        if finding.verdict is Verdict.UNSHOWN:
            return Told(False, f"{name} cannot be shown here: {finding.evidence}. Name one that "
                        "this kernel refutes.")  # fmt: skip
        if CLAIM[name].history.since is not None:
            return Told(False, f"{name} does not hold here, but it did once: "
                        f"{CLAIM[name].history.text}.")  # fmt: skip
        evidence.append(f"{name}: {finding.evidence}")
    seen = ". ".join(shortened(text, 160) for text in evidence[:3])
    return Told(True, f"This kernel refutes each, and no release ever did it. {seen}.")


def _claims_of(answer: object) -> frozenset[str]:
    """Read an answer as ids of claims: one, a list, or text with commas or spaces.

    Raises InputError for another form, and for what is no id.
    """
    said = answer.replace(",", " ").split() if isinstance(answer, str) else answer
    if not isinstance(said, list | tuple | set | frozenset):
        raise InputError(YOURS, "are no ids of claims", shorten(answer), '"limit.stack" or a list')
    for each in said:
        if not isinstance(each, str) or each not in CLAIM:
            near = get_close_matches(str(each)[:60], CLAIM, n=1)
            raise InputError(YOURS, "is no claim's id", shorten(each), (near or ["limit.stack"])[0])
    return frozenset(said)


# ---- 12.2 --------------------------------------------------------------------------------------

PAGE: dict[str, str] = {
    "privilege.not_needed": "caller",
    "privilege.lost_in_namespace": "namespace",
    "map_size.returned": "size",
    "areas.others_mapped": "mapped",
    "order.strict": "pairs",
    "heap.above_data": "heap",
    "limit.data": "data-limit",
    "limit.stack": "stack-limit",
    "exe.once": "again",
}
"""Claim -> the question of `statements.py` in which manual page and message are side by side."""


def _page_is_wrong(answer: object) -> Told:
    named = _claims_of(answer)
    if len(named) != 1:
        return Told(False, f"That is {len(named)} claims; name one.")
    (name,) = named
    statement = STATEMENT.get(PAGE.get(name, ""))
    if statement is None:
        return Told(False, f"Of {name} the manual page does not speak.")
    asked = statement.ask()
    if asked.told is None:
        return Told(False, f"{name} {asked.sentence}. Name another one.")
    page = f"the manual page says: {statement.manual.says}"
    if not statement.manual.foretells:
        return Told(False, f"{name}: {page}. From that no answer follows that could be wrong.")
    if statement.manual.agrees(asked.told):
        return Told(False, f"{name}: {page}. The kernel says {asked.told}: the page is right.")
    if not statement.message.agrees(asked.told):
        return Told(False, f"{name}: {page}. The kernel says {asked.told}: the page is wrong, but "
                    "so is the message.")  # fmt: skip
    return Told(True, _who_is_right(name, statement, asked.told))


def _who_is_right(name: str, statement: Statement, told: str) -> str:
    finding = settle(CLAIM[name], facts_here())
    return (
        f"The page says: {statement.manual.says}; the message: {statement.message.says}. The "
        f"kernel says {told}. {finding.evidence}."
    )


# ---- 12.3 --------------------------------------------------------------------------------------

SEVEN = ("start_brk", "brk", "start_stack", "arg_start", "arg_end", "env_start", "env_end")
"""The addresses that requirement 2 wants to lie in a VMA that exists."""


def _own_experiment(answer: object) -> Told:
    tried = trial(experiment_of(answer))
    record = tried.record
    if record.outcome.verdict != "accepted":
        return Told(False, f"The kernel says {record.outcome.verdict}, by {tried.rule}: "
                    f"{tried.numbers}. That is another rule, and settles nothing.")  # fmt: skip
    inside = {
        member: vma
        for member in SEVEN
        if (vma := tried.before.vma_at(int(record.map[member], 16))) is not None
    }
    if inside:
        member, vma = next(iter(inside.items()))
        return Told(False, f"Accepted, but {len(inside)} of the seven lie in mapped memory, such "
                    f"as {member} = {record.map[member]} in {vma}.")  # fmt: skip
    claim = CLAIM["areas.others_mapped"]
    shown = claim.read((record,)) if claim.read else None
    if shown is None or shown.holds is not False:
        evidence = "no reading" if shown is None else shown.evidence
        return Told(False, f"Read as the claim is read, it does not refute it: {evidence}.")
    seven = ", ".join(f"{member} = {record.map[member]}" for member in SEVEN[:3])
    return Told(True, f"{seven} and so on: nothing is mapped there, and the call is accepted. One "
                "call of your own refutes the sentence, whoever wrote it.")  # fmt: skip


# ---- 12.4 --------------------------------------------------------------------------------------

UNNAMED = Release(5, 17)
"""The kernel that is to be dated."""
Answer = Callable[[Facts], str]

CLUES: tuple[tuple[str, str, Answer], ...] = (
    ("start_data equals end_data", "empty_data_accepted",
     lambda facts: _word(facts.empty_data_accepted, "EINVAL")),
    ("start_brk and brk lie below end_data", "heap_below_data_accepted",
     lambda facts: _word(facts.heap_below_data_accepted, "EINVAL")),
    ("the exe link changes a second time", "exe_changes_once",
     lambda facts: _word(not facts.exe_changes_once, "EPERM")),
    ("the exe link, without any capability", "exe_permission_errno",
     lambda facts: errno_name(facts.exe_permission_errno)),
    ("the exe link, with CAP_CHECKPOINT_RESTORE alone", "exe_capabilities",
     lambda facts: _word(facts.exe_capabilities >> CAP_CHECKPOINT_RESTORE & 1, "refused")),
    ("the exe link, to a file that is open for writing", "written_exe_refused",
     lambda facts: _word(not facts.written_exe_refused, "EACCES")),
    ("brk() down over a range in which nothing is mapped", "hole_shrinks",
     lambda facts: "goes down" if facts.hole_shrinks else "stays"),
    ("memory that only touches an empty heap", "touching_heap_labelled",
     lambda facts: "[heap]" if facts.touching_heap_labelled else "no name"),
)  # fmt: skip
"""What is tried, the fact that decides it, and how a kernel with certain facts answers."""


def _word(accepted: object, refusal: str) -> str:
    return "accepted" if accepted else refusal


def unnamed_kernel() -> str:
    """Return how a kernel behaves whose release is not told, a line for each thing tried.

    >>> print(unnamed_kernel().splitlines()[0])
    start_data equals end_data                            accepted
    """
    facts = facts_on(str(UNNAMED), facts_here())
    return Shown("\n".join(f"{tried:52}  {answer(facts)}" for tried, _, answer in CLUES))


@cache
def _behaviour(release: Release, here: Facts) -> tuple[str, ...]:
    facts = facts_on(str(release), here)
    return tuple(answer(facts) for _, _, answer in CLUES)


def _dated(answer: object) -> Told:
    first, last = _two_releases(answer)
    here = facts_here()
    wanted = _behaviour(UNNAMED, here)
    for release in (first, last):
        behaviour = zip(_behaviour(release, here), wanted, CLUES, strict=True)
        for said, right, (tried, fact, _) in behaviour:
            if said != right:
                return Told(False, f"{release} would answer otherwise: {tried}: {said}, not "
                            f"{right}{_cause(fact, release)}.")  # fmt: skip
    same = [r for r in following(INTRODUCED, NEWEST) if _behaviour(r, here) == wanted]
    for release in same:
        if not first <= release <= last:
            return Told(False, f"All that you name fits, but {release} would answer the same.")
    return Told(True, f"{first} to {last}: older ones say otherwise by what {_ends(first)} brought,"
                f" newer ones by {_ends(_after(last))}. It was {UNNAMED}.")  # fmt: skip


def _two_releases(answer: object) -> tuple[Release, Release]:
    said = re.split(r"[\s,;-]+", answer.strip()) if isinstance(answer, str) else answer
    wanted = '("5.4", "5.14")'
    if not isinstance(said, list | tuple) or not all(isinstance(each, str) for each in said):
        raise InputError(YOURS, "are no two releases as text", shorten(answer), wanted)
    if len(said) != 2:
        raise InputError(YOURS, "is not a first and a last release", shorten(answer), wanted)
    first, last = (Release(*read_release(each, YOURS)[:2]) for each in said)
    if not INTRODUCED <= first <= last <= NEWEST:
        raise InputError(YOURS, "is no range of releases with the call", shorten(answer),
                         f"from {INTRODUCED} to {NEWEST}, the earlier first")  # fmt: skip
    return first, last


def _cause(fact: str, release: Release) -> str:
    """Name the change that lies between the unnamed kernel and a release."""
    low, high = sorted((release, UNNAMED))
    between = (c for c in CHANGES if c.fact == fact and low < c.first <= high)
    change = next(between, None)
    return f" ({change.commits[0]}, {change.first})" if change else ""


def _after(release: Release) -> Release:
    return next(each for each in following(release, NEWEST) if each > release)


def _ends(release: Release) -> str:
    facts = {fact for _, fact, _ in CLUES}
    commits = [c.commits[0] for c in CHANGES if c.first == release and c.fact in facts]
    return f"{release} ({', '.join(commits)})"


# ---- 12.5 --------------------------------------------------------------------------------------


def _true_wherever_tried(answer: object) -> Told:
    experiment = experiment_of(answer)
    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, facts_here())
        here = carry_out(prepared).outcome.verdict

    def verdict_on(facts: Facts) -> tuple[str, str]:
        explanation = explain(prepared.situation, facts)
        rule = explanation.deciding.rule.id if explanation.deciding else ""
        return ("accepted" if explanation.errno == 0 else errno_name(explanation.errno)), rule

    for name, facts in _kernels_at_hand():
        verdict, rule = verdict_on(facts)
        if verdict != here:
            by = f" by {rule}" if rule else ""
            return Told(False, f"Here {here}, but Linux {name} says {verdict}{by}: who tries that "
                        "kernel, sees it.")  # fmt: skip
    every = [*following(INTRODUCED, NEWEST)]
    other = [(r, *verdict_on(facts_on(str(r), facts_here()))) for r in every]
    differs = [(release, verdict, rule) for release, verdict, rule in other if verdict != here]
    if not differs:
        return Told(False, f"{here} here and on the others, and on every release from {INTRODUCED} "
                    f"to {NEWEST} as well, as documented: that is true.")  # fmt: skip
    (first, verdict, rule), (last, *_) = differs[0], differs[-1]
    by = f" by {rule}" if rule else ""
    return Told(True, f"{here} here, and on every other kernel at hand. But {first} to {last}, as "
                f"documented, said {verdict}{by}. What all of your kernels agree on is true of "
                "them, and not yet of Linux.")  # fmt: skip


@cache
def _kernels_at_hand() -> tuple[tuple[str, Facts], ...]:
    """Return the kernels of data/logbooks that have the call, with the facts that they showed."""
    return tuple(_facts_of_logs())


def _facts_of_logs() -> Iterator[tuple[str, Facts]]:
    for name, book in shipped_logbooks().items():
        facts = next(iter(book.records())).facts
        if facts.available:
            yield name.removeprefix("linux-").partition("-")[0], facts


EXERCISES = {
    "12.1": Exercise(
        "Never",
        "Three claims, by their ids, that this kernel refutes and that never held in any release.",
        _never,
        (
            "The picture marks them with ✖, and the list of `judging.findings` has their ids.",
            "The patch was posted before with stricter checks; three of the requirements still "
            "speak of those: 2, 3 and 5.",
            '`["limit.stack", "areas.others_mapped", ...]`, and the strictest claim about pairs.',
        ),
        ["limit.stack", "areas.others_mapped", "order.strict"],
    ),
    "12.2": Exercise(
        "Who is wrong",
        "The one claim, by its id, in which the message is right and the manual page "
        "(PR_SET_MM(2const)) is wrong about this kernel.",
        _page_is_wrong,
        (
            "Notebook 08 holds the page against the kernel. Where do page and message contradict "
            "each other?",
            "The page was written for the operations for single members; what it says of them, it "
            "says of all of PR_SET_MM.",
            "It says that every operation needs CAP_SYS_RESOURCE. Which claim says what this one "
            "needs?",
        ),
        "privilege.not_needed",
    ),
    "12.3": Exercise(
        "Settle one yourself",
        "Requirement 2 says that start_brk, brk, start_stack, arg_start, arg_end, env_start and "
        "env_end must lie in memory that exists. A recipe with a set-up of your own, or changes, "
        "that refutes it for all seven by one call.",
        _own_experiment,
        (
            "Where is certainly nothing mapped? And which other rules must still hold?",
            "A step maps an arena, another one unmaps it: then nothing is there, and its name "
            "still stands for the place.",
            'setup = [{ map = "arena" }, { unmap = "arena.start" }], and all seven are '
            '"arena.start": empty heap, empty strings.',
        ),
        """[[experiment]]
id = "nowhere"
title = "Seven addresses where nothing is"
setup = [{ map = "arena" }, { unmap = "arena.start" }]
[experiment.change]
start_brk = "arena.start"
brk = "arena.start"
start_stack = "arena.start"
arg_start = "arena.start"
arg_end = "arena.start"
env_start = "arena.start"
env_end = "arena.start"
""",
    ),
    "12.4": Exercise(
        "Date a kernel",
        'The first and the last release that behave as the unnamed kernel does: ("4.4", "4.9"), '
        "without stable updates.",
        _dated,
        (
            "`releases_table()` and the time line: which change lies nearest before it, and which "
            "nearest after?",
            "Two answers bound it: that of the file which is open for writing, and that of brk().",
            "Since v5.15 such a file is refused (v6.11 and v6.12 aside); since v6.1 brk() stays.",
        ),
        ("5.15", "6.0"),
    ),
    "12.5": Exercise(
        "Adversarial: true wherever you look",
        "A recipe, or changes, that this kernel and every kernel of data/logbooks answer alike, "
        "and that some release since v3.18 answered otherwise.",
        _true_wherever_tried,
        (
            "The oldest of those logs is of v5.10.262. What changed before it?",
            "Stable kernels took changes over: 5.10.262 does what v5.10 itself did not.",
            "Since v5.2 start_data may equal end_data.",
        ),
        {"start_data": "end_data"},
    ),
}
"""By number."""
