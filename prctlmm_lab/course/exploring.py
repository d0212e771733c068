"""The exercises of notebook 02: verdicts, labels, and which of many broken rules decides."""

from __future__ import annotations

from collections.abc import Mapping

from prctlmm_lab.course.answers import (
    YOURS,
    Trial,
    experiment_of,
    trial,
    word_of,
)
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import VERDICTS
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.experiments.steps import LosePrivilege, Step
from prctlmm_lab.kernel.procfs import Vma
from prctlmm_lab.views.exploration import OWN_MEMORY


def _tried(answer: object, *first: Step) -> Trial:
    """Try an answer as the Explorer starts; a recipe brings all its own steps."""
    setup = (*first, *OWN_MEMORY.setup) if isinstance(answer, Mapping) else ()
    return trial(experiment_of(answer, setup=setup))


def _why(tried: Trial) -> str:
    """Return the rule that decided, with its numbers."""
    return f"{tried.rule}: {tried.numbers}" if tried.rule else "no rule is broken"


# ---- 02.1 --------------------------------------------------------------------------------------


def _highest(answer: object) -> Told:
    tried = _tried({"start_stack": answer})
    address = int(tried.record.map["start_stack"], 16)
    if tried.verdict != "accepted":
        side = "too low" if address < tried.before.members["start_code"] else "too high"
        return Told(False, f"{address:#x} is refused, {tried.verdict} by {tried.rule}: {side}.")
    if _tried({"start_stack": address + 1}).verdict == "accepted":
        return Told(False, f"{address:#x} is accepted, and so is the next address.")
    return Told(True, f"{address:#x} is accepted and {address + 1:#x} refused: there user space "
                "ends. Nothing needs to be mapped at an address for it to be noted.")  # fmt: skip


# ---- 02.2 --------------------------------------------------------------------------------------

WITHOUT_PRIVILEGE = VERDICTS[:4]


def _verdicts(answer: object) -> Told:
    if not isinstance(answer, Mapping):
        expected = 'a dict such as {"accepted": {"brk": "start_brk"}, ...}'
        raise InputError(YOURS, "has no verdicts", shorten(answer), expected)
    wanted = {word_of(verdict, VERDICTS): changes for verdict, changes in answer.items()}
    rules = []
    for verdict, changes in wanted.items():
        tried = _tried(changes, LosePrivilege(True))
        if tried.verdict != verdict:
            return Told(False, f"For {verdict} the kernel says {tried.verdict}: {_why(tried)}.")
        rules.append(f"{verdict} ({tried.rule or 'no rule is broken'})")
    if missing := [verdict for verdict in WITHOUT_PRIVILEGE if verdict not in wanted]:
        return Told(False, f"Right so far: {', '.join(rules)}. Missing: {', '.join(missing)}.")
    return Told(True, f"{', '.join(rules)}. EBADF, EACCES and EBUSY are left: all three are about "
                "exe_fd, and come after the permission that EPERM asks for.")  # fmt: skip


# ---- 02.3 and 02.4 -----------------------------------------------------------------------------


def _no_stack(answer: object) -> Told:
    tried = _tried(answer)
    if tried.verdict != "accepted":
        return _refused(tried)
    if found := tried.shown.labelled("[stack]"):
        return Told(False, f"[stack] stands at {_places(found)}; {_noted(tried)}.")
    (was, *_) = tried.before.labelled("[stack]")
    now = tried.shown.vma_at(was.end - 1)
    name = (now.label or "without a name") if now else "gone"
    return Told(True, f"The area that was called so, {was.start:#x}-{was.end:#x}, is now {name}. "
                "The program has answered since: it goes by its stack pointer.")  # fmt: skip


def _two_stacks(answer: object) -> Told:
    tried = _tried(answer)
    if tried.verdict != "accepted":
        return _refused(tried)
    found, noted = tried.shown.labelled("[stack]"), _noted(tried)
    if len(found) == 2:
        return Told(True, f"[stack] stands at {_places(found)}; {noted}: the end of the one and "
                    "the start of the other. For the label both ends count.")  # fmt: skip
    if not found:
        return Told(False, f"There is none at all; {noted}.")
    (only,) = found
    stack = tried.shown.members["start_stack"]
    if only.start < stack < only.end:
        return Told(False, f"There is one, {_places(found)}, and {noted}: inside it. If you mapped "
                    "two areas, they are one now, because nothing tells them apart.")  # fmt: skip
    return Told(False, f"There is one, {_places(found)}; {noted} is its edge, but no second "
                "anonymous area touches it there.")  # fmt: skip


def _refused(tried: Trial) -> Told:
    return Told(False, f"The kernel refuses it: {tried.verdict} by {_why(tried)}.")


def _places(areas: tuple[Vma, ...]) -> str:
    return " and ".join(f"{vma.start:#x}-{vma.end:#x}" for vma in areas)


def _noted(tried: Trial) -> str:
    return f"start_stack = {tried.shown.members['start_stack']:#x}"


# ---- 02.5 and 02.6 -----------------------------------------------------------------------------

MANY, SOME = 20, 3


def _many(answer: object) -> Told:
    tried = _tried(answer)
    broken = tried.record.prediction.broken
    if not broken:
        return Told(False, "The kernel accepts it: no rule is broken.")
    many = "1 rule is" if len(broken) == 1 else f"{len(broken)} rules are"
    told = f"{many} broken; {tried.verdict} comes from {_why(tried)}."
    if len(broken) < MANY:
        return Told(False, f"{told} Broken are: {', '.join(broken)}.")
    return Told(True, f"{told} The kernel stops there, and never looks at the other "
                f"{len(broken) - 1}.")  # fmt: skip


def _fault(answer: object) -> Told:
    tried = _tried(answer, LosePrivilege(True))
    broken = tried.record.prediction.broken
    if tried.verdict != "EFAULT":
        return Told(False, f"{tried.verdict} decides, not EFAULT: {_why(tried)}. Whatever comes "
                    "before a failing copy must hold.")  # fmt: skip
    if len(broken) < SOME:
        return Told(False, f"EFAULT decides, by {_why(tried)}; but {', '.join(broken)} is all that "
                    "is broken. Which checks come after it?")  # fmt: skip
    return Told(True, f"EFAULT, by {_why(tried)}. Broken too, and never looked at: "
                f"{', '.join(broken[1:])}.")  # fmt: skip


_STARTS = "start_code start_data start_brk start_stack arg_start env_start".split()
_ENDS = "end_code end_data brk arg_end env_end".split()

EXERCISES = {
    "02.1": Exercise(
        "The highest address",
        "The highest address that `start_stack` may hold. The form is a number or a formula.",
        _highest,
        (
            "In the Explorer, move the slider of start_stack to its end, and go back stop by stop "
            "until the rules accept it.",
            "The rule is range.start_stack; its line in the table of rules has both bounds.",
            "In a formula the bound is called highest, in Python facts_here().highest.",
        ),
        "highest",
    ),
    "02.2": Exercise(
        "Four verdicts",
        "For each of accepted, EINVAL, EFAULT and EPERM, changes to which the kernel gives just "
        "that answer. The specimen is an ordinary user's. The form is a dict of dicts, such as "
        '`{"accepted": {"brk": "start_brk"}, "EINVAL": ...}`.',
        _verdicts,
        (
            "EINVAL is easy. The kernel says EFAULT when it must read memory and cannot, EPERM "
            "when somebody is not allowed to do what everything else allows.",
            "Two of the 14 members tell the kernel to read something: auxv and auxv_size. One "
            "needs a permission as soon as it asks for a change.",
            "EFAULT: auxv at an address where nothing is mapped, such as lowest, with auxv_size "
            "16. EPERM: any exe_fd.",
        ),
        {
            "accepted": {"brk": "start_brk"},
            "EINVAL": {"end_code": "start_code"},
            "EFAULT": {"auxv": "lowest", "auxv_size": 16},
            "EPERM": {"exe_fd": 3},
        },
    ),
    "02.3": Exercise(
        "No stack",
        "Changes after which no line of `/proc/PID/maps` is called `[stack]`. The form is a dict; "
        "`arena` is there, as in the Explorer. Predict first what the program will do.",
        _no_stack,
        (
            "The label follows a note, not the stack.",
            "The note is start_stack. Where could it point so that no area is at hand to be named?",
            "Nothing is mapped at `lowest`, and an area with a file keeps the file's name.",
        ),
        {"start_stack": "lowest"},
    ),
    "02.4": Exercise(
        "Two stacks",
        "A recipe after which exactly two lines of `/proc/PID/maps` are called `[stack]`. It needs "
        "steps of its own in `setup`; the line with the schema may be left out.",
        _two_stacks,
        (
            "The label asks whether start_stack lies in an area, and both ends of an area count.",
            "Two areas that touch, both anonymous. The kernel makes one of them, unless something "
            "tells them apart.",
            'Map two pages, protect the first with permissions = "r--", and let start_stack be the '
            "address where the second begins.",
        ),
        """[[experiment]]
id = "two-stacks"
setup = [
  { map = "two", pages = 2 },
  { protect = "two.start", permissions = "r--" },
]
change.start_stack = "two.start + page"
predict = "accepted"
""",
    ),
    "02.5": Exercise(
        "Adversarial: twenty at once",
        f"One call that breaks {MANY} rules or more. The form is a dict of changes, or a recipe.",
        _many,
        (
            "Eleven rules are about ranges, five about order. How can one number break both?",
            "A start above user space and an end of 0 are out of range both, and in the wrong "
            "order. Then there are auxv, auxv_size and exe_fd.",
            'Every start "highest + 1", every end 0, auxv 0 with a size above auxv_capacity, and '
            "exe_fd a descriptor that is not open. In a recipe call.size, call.arg5 and a limit "
            "break three more.",
        ),
        {
            **dict.fromkeys(_STARTS, "highest + 1"),
            **dict.fromkeys(_ENDS, 0),
            "auxv": 0,
            "auxv_size": "auxv_capacity + 1",
            "exe_fd": 999,
        },
    ),
    "02.6": Exercise(
        "Adversarial: EFAULT decides",
        f"One call that breaks {SOME} rules or more, and to which the kernel says EFAULT. The "
        "specimen is an ordinary user's. The form is a dict of changes, or a recipe.",
        _fault,
        (
            "The first broken rule decides. So which rules must hold, and which come too late?",
            "The copy of the auxiliary vector comes after ranges, order and limit. After it come "
            "the rules for exe_fd.",
            "auxv at lowest and auxv_size 16, as for EFAULT alone; and exe_fd a descriptor that is "
            "not open.",
        ),
        {"auxv": "lowest", "auxv_size": 16, "exe_fd": 999},
    ),
}
"""By number."""
