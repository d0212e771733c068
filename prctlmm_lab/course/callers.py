"""The exercises of notebook 08: which capability for what, one call or many, whom to believe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prctlmm_lab.course.answers import YOURS, experiment_of, number_of, trial, word_of, words_of
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.asking import ask, refusal_of
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.single_calls import (
    OPERATIONS,
    SingleCall,
    after_all,
    judged_in_turn,
    member_of,
    single_calls,
)
from prctlmm_lab.experiments.statements import STATEMENT, refuted
from prctlmm_lab.experiments.steps import LosePrivilege
from prctlmm_lab.kernel.abi import ADDRESSES, PR_SET_MM, U64, Operation
from prctlmm_lab.kernel.facts import CAP_CHECKPOINT_RESTORE, Facts
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen

ORDINARY = LosePrivilege(True)
NEITHER = 0x7FFFFFFF
"""A descriptor that is not open: EBADF says that the permission was there."""

# ---- 08.1 --------------------------------------------------------------------------------------

CAPABILITIES = ("none", "CAP_CHECKPOINT_RESTORE", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE")
CALLS = ("MAP", "MAP with exe_fd", "MAP_SIZE", "ARG_START", "AUXV")
_NOT_HELD = {
    "MAP with exe_fd": "in the caller's own user namespace one of two capabilities is looked for",
    "ARG_START": "CAP_SYS_RESOURCE is looked for, in the initial user namespace",
    "AUXV": "CAP_SYS_RESOURCE is looked for, in the initial user namespace",
}


def _least(answer: object) -> Told:
    if not isinstance(answer, Mapping):
        raise InputError(YOURS, "is no dict", shorten(answer), '{"MAP": "none", ...}')
    said = {word_of(call, CALLS): word_of(word, CAPABILITIES) for call, word in answer.items()}
    without = ask(_without_any).told or {}
    missing = [call for call in CALLS if call not in said]
    if missing:
        return Told(False, f"Nothing is said of {', '.join(missing)}.")
    right = _right_capabilities(facts_here())
    wrong = [call for call in CALLS if said[call] != right[call]]
    if wrong:
        return Told(False, f"{len(CALLS) - len(wrong)} of {len(CALLS)} are right. "
                    + " ".join(_lesson(call, said[call], without) for call in wrong))  # fmt: skip
    heard = ", ".join(f"{call} {verdict}" for call, verdict in without.items())
    return Told(True, f"Without any capability this kernel says: {heard}.")


def _right_capabilities(facts: Facts) -> dict[str, str]:
    narrow = facts.exe_capabilities >> CAP_CHECKPOINT_RESTORE & 1
    exe = "CAP_CHECKPOINT_RESTORE" if narrow else "CAP_SYS_ADMIN"
    resource = "CAP_SYS_RESOURCE"
    return dict(zip(CALLS, ("none", exe, "none", resource, resource), strict=True))


def _without_any(specimen: Specimen, _facts: Facts) -> dict[str, str]:
    """Make each call without any capability; none of them would change anything."""
    specimen.keep_capabilities(0)
    own, place = specimen.current_map(), specimen.map(PAGE)
    single = {"MAP_SIZE": (place, 0), "ARG_START": (own.arg_start, 0), "AUXV": (place, 16)}
    errnos = {
        "MAP": specimen.set_map(own),
        "MAP with exe_fd": specimen.set_map(own.changed(exe_fd=NEITHER)),
    } | {
        name: -specimen.attempt("prctl", PR_SET_MM, Operation[name], value, size, 0)
        for name, (value, size) in single.items()
    }
    return {call: errno_name(errno) if errno else "accepted" for call, errno in errnos.items()}


def _lesson(call: str, word: str, without: Mapping[str, str]) -> str:
    heard = without.get(call, "nothing")
    if call not in _NOT_HELD:
        return f"{call}: not {word}; without any capability this kernel says {heard}."
    wide = word == "CAP_SYS_ADMIN" and call == "MAP with exe_fd"
    if wide:
        return f"{call}: {word} would do, but a narrower one is enough since v5.9."
    return f"{call}: not {word}; without any it is {heard}: {_NOT_HELD[call]}."


# ---- 08.2 --------------------------------------------------------------------------------------


def _as_many(answer: object) -> Told:
    experiment = experiment_of(answer, setup=(ORDINARY,))
    record = trial(experiment).record
    if record.operation != "MAP":
        return Told(False, f"{record.operation} sets one member at most. Use PR_SET_MM_MAP.")
    if int(record.privilege.capabilities, 16):
        return Told(False, "At the call the specimen had capabilities "
                    f"({record.privilege.capabilities}): enter no user namespace.")  # fmt: skip
    prediction = record.prediction
    if record.outcome.verdict != "accepted":
        gate = " That member is the one with a gate." if "exe." in prediction.rule else ""
        return Told(False, f"The kernel says {record.outcome.verdict} by {prediction.rule}: "
                    f"{prediction.numbers}.{gate}")  # fmt: skip
    if same := _unchanged(record):
        return Told(False, f"Accepted, with {13 - len(same)} of 13 members new. As before: "
                    f"{', '.join(same)}.")  # fmt: skip
    return Told(True, f"13 of 14 members are new, for uid {record.privilege.uid} without any "
                "capability. The fourteenth, exe_fd, is the only one with a gate.")  # fmt: skip


def _unchanged(record: Record) -> list[str]:
    """Name the members but exe_fd that a call left as they were."""
    before = record.before
    stat = before.stat if isinstance(before.stat, Mapping) else {}
    old = {**stat, "brk": before.brk, "auxv": hex(0), "auxv_size": hex(0)}
    return [member for member, value in old.items() if record.map[member] == value]


def _never_ordinary() -> str:
    """Say why a specimen cannot become an ordinary user's here, "" if it can."""
    return refusal_of(ORDINARY)


# ---- 08.3 --------------------------------------------------------------------------------------

MOVED = ("ARG_START", "ARG_END", "ENV_START", "ENV_END", "START_BRK", "BRK")


def _in_order(answer: object) -> Told:
    words = [word_of(word, OPERATIONS) for word in _list_of(answer, '["ARG_START", ...]')]
    if other := [word for word in words if word not in MOVED]:
        return Told(False, f"{other[0]} is not among the six.")
    if twice := [word for word in MOVED if words.count(word) > 1]:
        return Told(False, f"{twice[0]} comes twice; each member needs to move once.")
    told = ask(lambda specimen, facts: _moved(specimen, facts, words)).told
    return told or Told(False, "The specimen could not be prepared.")


def _moved(specimen: Specimen, facts: Facts, words: Sequence[str]) -> Told:
    """Judge the operations in their order; strings move down to a new page, the heap up."""
    page, heap = specimen.map(PAGE), specimen.map(4 * PAGE)
    values = dict(zip(MOVED, (page, page + 64, page + 64, page + 128, heap, heap + 4 * PAGE),
                      strict=True))  # fmt: skip
    calls = judged_in_turn(specimen, facts, [(word, values[word]) for word in words])
    if not calls[-1].accepted:
        return Told(False, f"{_place(calls)} Which end must go first?")
    if missing := [word for word in MOVED if word not in words]:
        return Told(False, f"All {len(calls)} are accepted, but these have not moved: "
                    f"{', '.join(missing)}.")  # fmt: skip
    return Told(True, "Six calls, and the one order in each pair that keeps start <= end: down "
                "goes the start first, up goes the end first. "
                + _asked_of_kernel(specimen, facts, calls))  # fmt: skip


def _asked_of_kernel(specimen: Specimen, facts: Facts, calls: Sequence[SingleCall]) -> str:
    """Make the calls for real, and then PR_SET_MM_MAP from the same start; tell what came."""
    own = specimen.current_map()
    made = single_calls(specimen, facts, [(call.operation, call.value) for call in calls])
    single = ", ".join(dict.fromkeys(call.by_kernel for call in made))
    specimen.set_map(own)
    once = specimen.set_map(after_all(own, calls))
    return (
        f"Asked of this kernel, by this caller: the {len(made)} calls {single}; PR_SET_MM_MAP with "
        f"all at once {errno_name(once) if once else 'accepted'}."
    )


def _place(calls: Sequence[SingleCall]) -> str:
    last = calls[-1]
    return f"Call {len(calls)}, {last.operation} = {last.value:#x}: {last.by_rules}."


# ---- 08.4 --------------------------------------------------------------------------------------

ROOM, WAY = 3 * PAGE, 16 * PAGE
"""By how much RLIMIT_DATA lets the heap grow, and how far it is to move."""


def _caterpillar(answer: object) -> Told:
    steps = [_step(each) for each in _list_of(answer, '[("BRK", 0x1000), ...]')]
    told = ask(lambda specimen, facts: _crept(specimen, facts, steps)).told
    return told or Told(False, "The specimen could not be prepared.")


def _step(answer: object) -> tuple[str, int]:
    if not isinstance(answer, list | tuple) or len(answer) != 2:
        raise InputError(YOURS, "is no step", shorten(answer), '("BRK", 0x1000)')
    by = number_of(answer[1])
    if abs(by) > U64:
        raise InputError(YOURS, "is too far", shorten(by), f"at most {WAY:#x}")
    return word_of(answer[0], ("START_BRK", "BRK")), by


def _crept(specimen: Specimen, facts: Facts, steps: Sequence[tuple[str, int]]) -> Told:
    own = specimen.current_map()
    need = own.brk - own.start_brk + own.end_data - own.start_data
    specimen.set_limit("DATA", need + ROOM)
    present = dict(own)
    calls = []
    for operation, by in steps:
        value = present[member_of(operation)] + by
        if not 0 <= value <= U64:
            return Told(False, f"{operation} by {by:#x} leaves 64 bits.")
        present[member_of(operation)] = value
        calls.append((operation, value))
    judged = judged_in_turn(specimen, facts, calls)
    if not judged[-1].accepted:
        return Told(False, _place(judged))
    gone = {"start_brk": present["start_brk"] - own.start_brk, "brk": present["brk"] - own.brk}
    if short := [f"{name} by {by:#x}" for name, by in gone.items() if by != WAY]:
        return Told(False, f"All {len(judged)} are accepted, and moved {', '.join(short)}; it "
                    f"should be {WAY:#x}.")  # fmt: skip
    return Told(True, f"{len(judged)} calls, each within RLIMIT_DATA = {need + ROOM:#x}. "
                + _asked_of_kernel(specimen, facts, judged))  # fmt: skip


def _list_of(answer: object, form: str) -> Sequence[object]:
    """Read an answer as a list of at most 100."""
    if not isinstance(answer, list | tuple):
        raise InputError(YOURS, "is no list", shorten(answer), form)
    if len(answer) > 100:
        raise InputError(YOURS, "are too many", hex(len(answer)), "100 at most")
    return answer


# ---- 08.5 --------------------------------------------------------------------------------------


def _wrong_page(answer: object) -> Told:
    said = words_of(answer, STATEMENT)
    wrong = refuted("manual")
    for word in STATEMENT:
        if word in said and word not in wrong and STATEMENT[word].ask().told is not None:
            manual = STATEMENT[word].manual
            why = (f"it foretells {manual.foretells}, and so it is" if manual.foretells
                   else "it does not say what would be answered")  # fmt: skip
            return Told(False, f"{word}: the page says: {manual.says}. But {why}.")
    if missing := [word for word in wrong if word not in said]:
        found = len(wrong) - len(missing)
        return Told(False, f"{found} of {len(wrong)} found, all of them right. One more is about "
                    f"this: {STATEMENT[missing[0]].question}")  # fmt: skip
    return Told(True, " ".join(f"{word}: {why}." for word, why in wrong.items()))


HEAD = '[[experiment]]\nid = "as-many"\ntitle = "All but one"\n'

EXERCISES = {
    "08.1": Exercise(
        "The least that is enough",
        "Which is the least capability that each call takes? A dict: "
        '{"MAP": ..., "MAP with exe_fd": ..., "MAP_SIZE": ..., "ARG_START": ..., "AUXV": ...}, '
        'each with "none", "CAP_CHECKPOINT_RESTORE", "CAP_SYS_ADMIN" or "CAP_SYS_RESOURCE".',
        _least,
        (
            "Two of the five take none at all, and two take the same.",
            "ARG_START and AUXV are single operations, as old as v3.5.",
            "The exe link was opened to CAP_CHECKPOINT_RESTORE in v5.9; before, it took "
            "CAP_SYS_ADMIN.",
        ),
        {
            "MAP": "none",
            "MAP with exe_fd": "CAP_CHECKPOINT_RESTORE",
            "MAP_SIZE": "none",
            "ARG_START": "CAP_SYS_RESOURCE",
            "AUXV": "CAP_SYS_RESOURCE",
        },
    ),
    "08.2": Exercise(
        "As much as nobody may",
        "A recipe of one call that is accepted for an ordinary user without any capability, and "
        "gives 13 of the 14 members a new value. (The specimen is made ordinary before your "
        "setup.)",
        _as_many,
        (
            "Code and data may point anywhere in user space, and so may all the others: nothing "
            "needs to be mapped, but for what auxv points at.",
            "Shift every address by 16: pairs stay in order. auxv and auxv_size: a page that you "
            "map, and 16 bytes of it.",
            'change.start_code = "start_code + 16", and so on for eleven members; setup = '
            '[{ map = "vector" }], change.auxv = "vector.start", change.auxv_size = 16.',
        ),
        HEAD
        + 'setup = [{ map = "vector" }]\n'
        + "".join(f'change.{member} = "{member} + 16"\n' for member in ADDRESSES)
        + 'change.auxv = "vector.start"\nchange.auxv_size = 16\n',
        _never_ordinary,
    ),
    "08.3": Exercise(
        "In the right order",
        "A new page lies below the stack: the command line and the environment are to move down "
        "into it. New memory lies above the heap: the heap is to move up there. In which order "
        "must the six single operations come, so that each is accepted (for a caller with "
        'CAP_SYS_RESOURCE)? A list of "ARG_START", "ARG_END", "ENV_START", "ENV_END", '
        '"START_BRK", "BRK".',
        _in_order,
        (
            "After each call the whole map must be in order: the start of a pair never above its "
            "end.",
            "Moving down, the end would pass the start if it went first.",
            "ARG_START before ARG_END, ENV_START before ENV_END, but BRK before START_BRK.",
        ),
        ["ARG_START", "ARG_END", "ENV_START", "ENV_END", "BRK", "START_BRK"],
    ),
    "08.4": Exercise(
        "Adversarial: a caterpillar",
        "RLIMIT_DATA has room for 0x3000 bytes more than heap and data take. Move the heap up by "
        "0x10000 all the same, start_brk and brk, by single operations (for a caller with "
        "CAP_SYS_RESOURCE). A list of steps, each an operation and by how many bytes its member "
        'goes up: [("BRK", 0x1000), ...].',
        _caterpillar,
        (
            "START_BRK cannot pass brk, and BRK cannot run away from start_brk by more than there "
            "is room for. So neither can go all the way at once.",
            "First one end by a little, then the other by as much, and again.",
            'Five times ("BRK", 0x3000), ("START_BRK", 0x3000), and 0x1000 each in the end.',
        ),
        [
            step
            for by in (*(ROOM,) * (WAY // ROOM), WAY % ROOM)
            for step in (("BRK", by), ("START_BRK", by))
        ],
    ),
    "08.5": Exercise(
        "The page against the kernel",
        "Which statements of the manual page does this kernel refute? The words of their rows in "
        'the table: "caller, size" or a list.',
        _wrong_page,
        (
            "Look at the rows where the manual page says anything at all, and where an errno or a "
            "verdict follows from it.",
            "One is about who may call, one about the heap, one about a pointer, two about the exe "
            "link (on kernels of today).",
            "Compare what the page would have the kernel answer in: caller, pointer, heap, "
            "executable-areas, again.",
        ),
        ["caller", "pointer", "heap", "executable-areas", "again"],
    ),
}  # fmt: skip
"""By number."""
