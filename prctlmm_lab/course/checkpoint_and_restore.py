"""The exercises of notebook 14: what a restorer must not forget, and in which order it can work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prctlmm_lab.course.answers import YOURS, number_of, word_of, words_of
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.kernel.abi import ADDRESSES, MEMBER, PrctlMmMap
from prctlmm_lab.kernel.rules import Explanation, errno_name, explain
from prctlmm_lab.restore.criu.images import shipped_images
from prctlmm_lab.restore.omissions import LEFT_OUT, Omission, omissions, omitted
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.recording import mode
from prctlmm_lab.specimen.situation import situation_of

# ---- 14.1 --------------------------------------------------------------------------------------

SYMPTOMS: dict[str, tuple[str, str]] = {
    "stack": ("maps [stack]", "no memory is called [stack]"),
    "killed": ("heap", "brk() for one page more unmaps the program itself"),
    "limit": ("heap under a limit", "the heap grows, but not once RLIMIT_DATA is set"),
    "cmdline": ("cmdline", "the process lives, and its cmdline shows a whole page"),
    "gdb": ("core: vector", "a core file names another program's entry point"),
}
"""The word of a symptom -> where it shows in an omission, and how it is told."""
_SINGLE = [name for name, members in LEFT_OUT.items() if name in members]


def _diagnosis(answer: object) -> Told:
    if not isinstance(answer, Mapping):
        raise InputError(YOURS, "is no dict", shorten(answer), '{"stack": ..., ...}')
    given = {word_of(word, SYMPTOMS): word_of(name, _SINGLE) for word, name in answer.items()}
    found = {each.name: each for each in omissions(*_SINGLE)}
    wrong = [f'"{word}" has no member yet' for word in SYMPTOMS if word not in given]
    wrong += [
        f'without {name}, {came_of(found[name])}, so it is not {name} for "{word}"'
        for word, name in given.items()
        if not _is_symptom(word, found[name])
    ]
    right = len(SYMPTOMS) - len(wrong)
    if wrong:
        return Told(
            False, f"{right} of {len(SYMPTOMS)} are right. {wrong[0][:1].upper() + wrong[0][1:]}."
        )
    return Told(True, "Each was left out of a restore of its own, and each left its own mark: to "
                "whom the mark matters is another question.")  # fmt: skip


def _is_symptom(word: str, each: Omission) -> bool:
    place, _ = SYMPTOMS[word]
    told = {**each.shown, **each.broken}
    if word == "limit" and "heap" in told:
        return False
    if word == "killed":
        return "unmaps" in told.get(place, "")
    return place in told


def came_of(each: Omission) -> str:
    """Say in a few words what came of an omission."""
    if not each.restored:
        return f"the kernel refuses the call: {each.verdict} by {each.rule}"
    told = [
        f"{place} is otherwise ({words})" for place, words in {**each.shown, **each.broken}.items()
    ]
    return ", ".join(told[:3]) or "nothing is otherwise"


# ---- 14.2 --------------------------------------------------------------------------------------

SEEN = ("cmdline", "environ", "auxv", "exe", "brk()", "maps [heap]")
"""Places that nobody may find changed, beside `BEHAVIOURS`."""
_ENOUGH = 5


def _dispensable(answer: object) -> Told:
    names = words_of(answer, MEMBER)
    each = omitted("your answer", tuple(sorted(names)))
    if not each.restored:
        return Told(False, f"Without these the kernel refuses the call: {each.verdict} by "
                    f"{each.rule}. Two ends of a pair then come from two processes.")  # fmt: skip
    broken = [f"{place}: {words}" for place, words in each.broken.items()]
    broken += [f"{place}: {words}" for place, words in each.shown.items() if place in SEEN]
    if broken:
        return Told(False, f"It is restored, but this is otherwise: {'; '.join(broken[:3])}.")
    if len(names) < _ENOUGH:
        return Told(False, f"Nothing of that is otherwise without {', '.join(sorted(names))}. More "
                    f"can be left out: {_ENOUGH} members together.")  # fmt: skip
    return Told(True, "These are notes for readers: stat, statm and a label show the difference, "
                "and no system call of the program does.")  # fmt: skip


# ---- 14.3 --------------------------------------------------------------------------------------


def shell() -> PrctlMmMap:
    """Return the map of `sh` in CRIU's shipped image, without the vector."""
    memory = next(each for each in shipped_images() if "28" in each.source)
    return memory.map().changed(auxv_size=0)


def _smallest_limit(answer: object) -> Told:
    limit = number_of(answer)
    if not 0 < limit < 1 << 63:
        raise InputError(YOURS, "is no limit in bytes", shorten(limit), "such as 0x10000")
    enough, less = _under(limit), _under(limit - 1)
    if enough.errno:
        assert enough.deciding
        return Told(False, f"Under {limit:#x} the kernel says {errno_name(enough.errno)} by "
                    f"{enough.deciding.rule.id}: {enough.deciding.numbers}.")  # fmt: skip
    if not less.errno:
        return Told(False, f"{limit:#x} is enough, and {limit - 1:#x} too. Which is the smallest?")
    assert less.deciding
    return Told(True, f"Under {limit - 1:#x} it is {less.deciding.rule.id}: "
                f"{less.deciding.numbers}. What counts is the restorer's limit.")  # fmt: skip


def _under(limit: int) -> Explanation:
    """Make the call with the shell's map under a limit, and explain the kernel's answer."""
    with Specimen() as specimen:
        specimen.set_limit("DATA", limit)
        new = shell()
        explanation = explain(situation_of(specimen, new), facts_here())
        if specimen.set_map(new) != explanation.errno:
            raise InputError("kernel", "does not answer as the rules say")
        return explanation


# ---- 14.4 --------------------------------------------------------------------------------------

FAR = 1 << 40


def target(own: PrctlMmMap) -> PrctlMmMap:
    """Return a map to be reached from a fresh specimen's: code and data up, the rest down."""
    up, down = own.start_brk + FAR, own.start_stack - FAR
    return own.changed(
        start_code=up, end_code=up + PAGE, start_data=up + PAGE, end_data=up + 2 * PAGE,
        start_brk=own.start_code // 2 & -PAGE, brk=(own.start_code // 2 & -PAGE) + PAGE,
        start_stack=down, arg_start=down + 64, arg_end=down + 80,
        env_start=down + 80, env_end=down + 96,
    )  # fmt: skip


def _one_by_one(answer: object) -> Told:
    order = tuple(_names(answer))
    if missing := [name for name in ADDRESSES if name not in order]:
        return Told(False, f"Not every member has its turn: {', '.join(missing)}.")
    if len(order) > len(ADDRESSES):
        return Told(False, f"{len(order)} calls are more than one for each of the eleven members.")
    with Specimen() as specimen:
        wanted = dict(target(specimen.current_map()))
        for turn, name in enumerate(order, 1):
            new = specimen.current_map().changed(**{name: wanted[name]})
            explanation = explain(situation_of(specimen, new), facts_here())
            if specimen.set_map(new):
                decides = explanation.deciding
                by = f" by {decides.rule.id}: {decides.numbers}" if decides else ""
                verdict = errno_name(explanation.errno)
                return Told(False, f"Turn {turn}, {name}: {verdict}{by}.")
    return Told(True, "Upwards the end goes first, downwards the start. One call with all members "
                "needs no order, and nobody ever sees a map that is half the old one.")  # fmt: skip


def _names(answer: object) -> Iterator[str]:
    if isinstance(answer, str):
        answer = answer.replace(",", " ").split()
    if not isinstance(answer, Sequence) or isinstance(answer, bytes):
        raise InputError(YOURS, "is no list of members", shorten(answer), '["brk", ...]')
    for each in answer:
        yield word_of(each, ADDRESSES)


def _not_here() -> str:
    """Say why no process can be rebuilt here, "" if one can."""
    return "" if mode.is_live() else "a process is rebuilt on a living kernel only"


def _no_low_heap() -> str:
    below = facts_here().heap_below_data_accepted
    return "" if below else "this kernel refuses a heap below the data, one step or eleven"


EXERCISES = {
    "14.1": Exercise(
        "The forgotten member",
        "Five restorers, each of which forgot one member: "
        + "; ".join(f'"{word}", {told}' for word, (_, told) in SYMPTOMS.items())
        + ". Which member did each forget? A dict from these five words to names of members.",
        _diagnosis,
        (
            "Each member has its own line in the picture of omissions. Which line has only the "
            "mark that you look for?",
            "A process that lives was accepted by the call. Of a pair, one end left out is refused "
            "and the other accepted: it is the accepted one.",
            "start_stack, brk, start_data, arg_end and auxv are the five.",
        ),
        {"stack": "start_stack", "killed": "brk", "limit": "start_data", "cmdline": "arg_end",
         "gdb": "auxv"},
    ),
    "14.2": Exercise(
        "Dispensable",
        "Five members that can be left out together, so that the process is restored, its "
        "heap grows as before, and cmdline, environ, auxv, exe and core file tell the same. A list "
        "of names.",
        _dispensable,
        (
            "Which members does no system call look at, and no core file?",
            "Two pairs and a single one. Leave out both ends of a pair, or the order is wrong.",
            "The bounds of code and data, and start_stack.",
        ),
        ["start_code", "end_code", "start_data", "end_data", "start_stack"],
        _not_here,
    ),
    "14.3": Exercise(
        "Under a limit",
        "The image data/criu/mm-28.img is of a real shell. Which is the smallest RLIMIT_DATA of "
        "the restorer, in bytes, under which the kernel accepts this map? A number.",
        _smallest_limit,
        (
            "Which rule looks at the limit, and which four members does it need?",
            "(brk - start_brk) + (end_data - start_data) must not be more than the limit.",
            "In a cell: m = shell.map(), and then the sum of the two differences.",
        ),
        (0x56368D2E3000 - 0x56368D2C2000) + (0x5636613F1240 - 0x5636613EFE30),
    ),
    "14.4": Exercise(
        "Adversarial: one by one",
        "CRIU, where the call is missing, sets one member at a time, and the kernel judges the "
        "whole map each time. Code and data shall move up, to far above the heap; heap, arguments, "
        "environment and stack shall move down, to far below where they are. In which order is "
        "each of the eleven calls accepted? A list of the eleven names.",
        _one_by_one,
        (
            "The two ends of a pair must be in order after each call. Pairs do not get in each "
            "other's way.",
            "What moves up goes with its end first. What moves down?",
            "end_code, start_code, end_data, start_data; start_brk, brk; arg_start, arg_end; and "
            "so on.",
        ),
        ["end_code", "start_code", "end_data", "start_data", "start_brk", "brk", "start_stack",
         "arg_start", "arg_end", "env_start", "env_end"],
        _no_low_heap,
    ),
}  # fmt: skip
"""By number."""
