"""The exercises of notebook 03: why a map is refused, and by which of its numbers."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache

from prctlmm_lab.course.answers import (
    YOURS,
    Trial,
    experiment_of,
    trial,
    word_of,
    words_of,
)
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.errors import InputError, LabError
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.formula import Value, shorten
from prctlmm_lab.experiments.recipe import SCHEMA, parse_recipe
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.kernel.abi import MEMBER
from prctlmm_lab.kernel.rules import RULE, errno_name, rules_of
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.views.checks import explanation_of

RESTORE_RECIPE = f'''schema = "{SCHEMA}"

[[experiment]]
id = "restore"
title = "A map as a restorer put it together, with four mistakes"
setup = [
  {{ map = "image", pages = 2 }},
  {{ limit = "DATA", soft = "64*page" }},
]
change.brk = "start_brk + 16*page*page"
change.start_stack = 0
change.arg_end = "before.arg_end - before.arg_start"
change.auxv = "image.start"
change.auxv_size = "8*auxv_capacity"
'''
"""A saved process that does not come back to life."""

(RESTORE,) = parse_recipe(RESTORE_RECIPE).experiments

MISTAKES = 4
"""Members of RESTORE that are wrong; no two of the broken rules' groups share one."""


def _changes_alone(answer: object) -> Experiment:
    """Read changes that need no step before the call."""
    read = experiment_of(answer)
    if read.setup or read.call != Experiment("none").call:
        raise InputError(YOURS, "has more than changes of members", "", '{"brk": "start_brk"}')
    return read


def _not_refused_by(tried: Trial, rule: str) -> str:
    """Say what came instead of a refusal by one rule."""
    if tried.verdict == "accepted":
        return f"The kernel accepted it: {rule} holds."
    return f"It is refused, but by {tried.rule}: {tried.numbers}. That check comes first."


# ---- 03.1 --------------------------------------------------------------------------------------


def _last_refused(answer: object) -> Told:
    read = _changes_alone(answer)
    if set(read.change) != {"end_code"}:
        given = ", ".join(read.change)
        return Told(False, f"Change end_code and nothing else; you change {given}.")
    tried = trial(read)
    if tried.rule != "order.code":
        return Told(False, _not_refused_by(tried, "order.code"))
    formula = read.change["end_code"]
    higher: Value = formula + 1 if isinstance(formula, int) else f"({formula}) + 1"
    above = trial(replace(read, change={"end_code": higher}))
    if above.verdict != "accepted":
        return Told(False, f"Refused by order.code: {tried.numbers}. But one byte more is refused "
                    "as well.")  # fmt: skip
    return Told(True, f"{tried.numbers}: refused. One byte more, and it is accepted: code is the "
                "pair that may not be empty.")  # fmt: skip


# ---- 03.2 and 03.3 -----------------------------------------------------------------------------


def _all_that_is_wrong(answer: object) -> Told:
    said = words_of(answer, RULE)
    explanation = explanation_of(RESTORE)
    broken = {finding.rule.id for finding in explanation.broken}
    findings = {finding.rule.id: finding for finding in explanation.findings}
    for name in RULE:
        if name in said - broken:
            if name not in findings:
                return Told(False, f"This kernel does not make the check {name}.")
            return Told(False, f"{name} holds: {findings[name].numbers}.")
    found = len(said)
    if found < len(broken):
        return Told(False, f"{found} of {len(broken)} broken rules found. The kernel tells the "
                    "first only; which would refuse if that were mended?")  # fmt: skip
    return Told(True, f"All {found}, from {MISTAKES} mistakes. arg_end holds a length, not an "
                "address: that breaks its range and the order of its pair at once.")  # fmt: skip


def _mended(answer: object) -> Told:
    given: Mapping[str, Value]
    if isinstance(answer, Mapping):  # it may name what the steps of RESTORE made
        given = {str(member): value for member, value in answer.items()}
    else:
        given = _changes_alone(answer).change
    tried = trial(replace(RESTORE, change={**RESTORE.change, **given}))
    count = len(given)
    if tried.verdict != "accepted":
        left = ", ".join(tried.record.prediction.broken)
        return Told(
            False, f"{tried.verdict} by {tried.rule}: {tried.numbers}. Still broken: {left}."
        )
    if int(tried.record.map["auxv_size"], 16) == 0:
        return Told(False, "Accepted, but auxv_size = 0 leaves the vector out, which is to be "
                    "restored too.")  # fmt: skip
    if count > MISTAKES:
        return Told(False, f"Accepted, but you changed {count} members. {MISTAKES} are enough.")
    return Told(True, f"Accepted, with {count} members. Fewer are not enough: the broken rules "
                "look at four groups of members, and no two groups share one.")  # fmt: skip


# ---- 03.4 --------------------------------------------------------------------------------------

ALONE = ("range.env_start", "order.arg", "limit.data", "auxv.size", "auxv.readable")
"""Rules that can be broken without breaking another."""


def _each_alone(answer: object) -> Told:
    if not isinstance(answer, Mapping):
        expected = "a dict from rules to changes or recipes"
        raise InputError(YOURS, "has another form", shorten(answer), expected)
    given = {word_of(name, ALONE): value for name, value in answer.items()}
    for done, name in enumerate(ALONE):
        if name not in given:
            return Told(False, f"{done} of {len(ALONE)} are right; there is none for {name} yet.")
        tried = trial(experiment_of(given[name]))
        others = [rule for rule in tried.record.prediction.broken if rule != name]
        if name not in tried.record.prediction.broken:
            return Told(False, f"For {name}: {_not_refused_by(tried, name)}")
        if others:
            return Told(False, f"For {name}: it is broken, but not alone: {', '.join(others)} "
                        f"too. {tried.rule} decides: {tried.numbers}.")  # fmt: skip
        if tried.record.agreement.verdict is not True:
            return Told(False, f"For {name}: the kernel says {tried.verdict}.")
    return Told(True, "Five calls, and each breaks one rule. Not every rule can be broken alone: "
                "a vector at NULL (auxv.null) can never be read (auxv.readable).")  # fmt: skip


# ---- 03.5 --------------------------------------------------------------------------------------

ERRNOS = ("EINVAL", "EFAULT", "EPERM", "EBADF", "EACCES", "EBUSY")
"""All that the call can answer with, but 0."""
STEPS_ENOUGH = 6
MOST_CALLS = 24


def _every_errno(answer: object) -> Told:
    experiments = [*_experiments_of(answer)]
    verdicts = [trial(experiment).verdict for experiment in experiments]
    missing = [name for name in ERRNOS if name not in verdicts]
    if missing:
        told = ", ".join(verdicts)
        return Told(False, f"The kernel said {told}. Missing: {', '.join(missing)}.")
    if len(experiments) > len(ERRNOS):
        return Told(False, f"All six, in {len(experiments)} calls. A call has one answer, so six "
                    "calls are enough.")  # fmt: skip
    steps = sum(len(experiment.setup) for experiment in experiments)
    if steps > STEPS_ENOUGH:
        return Told(False, f"All six, with {steps} steps before the calls. {STEPS_ENOUGH} are "
                    "enough.")  # fmt: skip
    facts = facts_here()
    checks = Counter(errno_name(rule.errno_on(facts)) for rule in rules_of(facts))
    others = max(number for name, number in checks.items() if name != "EINVAL")
    return Told(True, f"All six, in six calls and {steps} steps. On this kernel EINVAL stands for "
                f"{checks['EINVAL']} checks, each of the others for {others} at most.")  # fmt: skip


def _experiments_of(answer: object) -> Iterator[Experiment]:
    """Read several experiments: a recipe as text, or a list whose entries are one each."""
    if isinstance(answer, str):
        whole = answer if "schema" in answer else f'schema = "{SCHEMA}"\n{answer}'
        found = list(parse_recipe(whole, "your recipe").experiments)
    elif isinstance(answer, list | tuple):
        found = [experiment_of(each) for each in answer[: MOST_CALLS + 1]]
    else:
        raise InputError(YOURS, "has another form", shorten(answer), "a recipe as text")
    if not 0 < len(found) <= MOST_CALLS:
        raise InputError(YOURS, "experiments are no handful", str(len(found)), f"1 to {MOST_CALLS}")
    yield from found


@cache
def _no_namespace() -> str:
    try:
        with Specimen() as specimen:
            specimen.enter_user_namespace()
    except LabError as error:
        return (
            "EBADF, EACCES and EBUSY come behind the permission, and a user namespace that would "
            f"give it is refused here: {error}"
        )
    return ""


def _six_impossible() -> str:
    facts = facts_here()
    if facts.exe_permission_errno != errno.EPERM:
        return "this kernel gives EINVAL where the permission lacks; EPERM came in v5.9"
    if not facts.mapped_exe_refused:
        return "overlayfs: that the executable is mapped is not noticed here, so no EBUSY"
    return _no_namespace()


# ---- 03.6 --------------------------------------------------------------------------------------

STARTS = ("start_brk", "start_stack", "arg_start", "env_start")
"""Where the message wants memory; the ends are exclusive, so that none need lie there anyway."""
MAY_BE_EMPTY = {"start_brk": "brk", "arg_start": "arg_end", "env_start": "env_end"}


def _two_refuted(answer: object) -> Told:
    tried = trial(experiment_of(answer))
    if tried.verdict != "accepted":
        return Told(False, f"{tried.verdict} by {tried.rule}: {tried.numbers}. A map that is "
                    "refused refutes nothing.")  # fmt: skip
    values = {member: int(value, 16) for member, value in tried.record.map.items()}
    nowhere = [name for name in STARTS if tried.before.vma_at(values[name]) is None]
    empty = [start for start, end in MAY_BE_EMPTY.items() if values[start] == values[end]]
    if not nowhere:
        return Told(False, f"Accepted, but {', '.join(STARTS)} all lie in memory that is mapped, "
                    "as requirement 2 wants it.")  # fmt: skip
    if not empty:
        return Told(False, f"{nowhere[0]} = {values[nowhere[0]]:#x}, where nothing is mapped: 2 is "
                    "refuted. But heap, arguments and environment have a byte each.")  # fmt: skip
    return Told(True, f"Accepted, with {nowhere[0]} = {values[nowhere[0]]:#x} where nothing is "
                f"mapped, and {empty[0]} = {MAY_BE_EMPTY[empty[0]]}. One map, and two sentences "
                "about all maps have fallen.")  # fmt: skip


# ---- 03.7 --------------------------------------------------------------------------------------


def _five_in_one(answer: object) -> Told:
    read = experiment_of(answer)
    tried, facts = trial(read), facts_here()
    broken = [RULE[name] for name in tried.record.prediction.broken if name in RULE]
    errnos = {errno_name(rule.errno_on(facts)): rule.id for rule in reversed(broken)}
    listed = ", ".join(f"{name} ({rule})" for name, rule in reversed(errnos.items()))
    if len(errnos) < 5:
        count = len(errnos)
        return Told(False, f"{count} of five errnos: {listed or 'none'}. The kernel says "
                    f"{tried.verdict}.")  # fmt: skip
    if tried.record.agreement.verdict is not True:
        return Told(False, f"The kernel says {tried.verdict}, which the rules did not predict.")
    return Told(True, f"One call, five reasons: {listed}. The kernel says {tried.verdict}, and "
                "nothing else. Six cannot be: EBADF needs a descriptor that is not open, EACCES "
                "one that is.")  # fmt: skip


def _five_impossible() -> str:
    facts = facts_here()
    if facts.exe_permission_errno != errno.EPERM or not facts.mapped_exe_refused:
        return "this kernel gives fewer errnos: no EPERM before v5.9, no EBUSY on overlayfs"
    return ""


# ---- 03.8 --------------------------------------------------------------------------------------

PAIR = ("accepted", "refused")


def _one_bit(answer: object) -> Told:
    if not isinstance(answer, Mapping):
        expected = '{"accepted": changes, "refused": changes}'
        raise InputError(YOURS, "has another form", shorten(answer), expected)
    given = {word_of(name, PAIR): _changes_alone(value) for name, value in answer.items()}
    if set(given) != set(PAIR):
        return Told(False, 'There must be two maps: "accepted" and "refused".')
    with Specimen() as specimen:  # one process: a refusal changes nothing, so both start alike
        refused = run(given["refused"], specimen=specimen)
        accepted = run(given["accepted"], specimen=specimen)
    for wanted, record in (("refused", refused), ("accepted", accepted)):
        if (record.outcome.verdict == "accepted") != (wanted == "accepted"):
            rule = f" by {record.prediction.rule}" if record.prediction.rule else ""
            return Told(
                False, f'The map "{wanted}": the kernel says {record.outcome.verdict}{rule}.'
            )
    places = [*_different_bits(refused, accepted)]
    if len(places) != 1:
        told = ", ".join(dict.fromkeys(member for member, _ in places)) or "nothing"
        return Told(False, f"One accepted, one refused, but they differ in {len(places)} bits: "
                    f"{told}.")  # fmt: skip
    member, bit = places[0]
    return Told(True, f"Bit {bit} of {member} decides: {refused.prediction.rule} refuses, "
                f"{refused.prediction.numbers}.")  # fmt: skip


def _different_bits(one: Record, other: Record) -> Iterator[tuple[str, int]]:
    """Yield the bits in which two maps differ: the member, and which of its bits."""
    for member in MEMBER:
        different = int(one.map[member], 16) ^ int(other.map[member], 16)
        yield from ((member, bit) for bit in range(64) if different >> bit & 1)


EXERCISES = {
    "03.1": Exercise(
        "The last refused byte",
        "Fill in: change end_code, and nothing else, to the largest value that order.code still "
        'refuses. The answer is {"end_code": a number or a formula}.',
        _last_refused,
        (
            "The title of order.code says what must be true. When is it just not true?",
            "It reads start_code < end_code, with < and not <=.",
            'Equal is refused: end_code must hold what start_code holds, {"end_code": "..."}.',
        ),
        {"end_code": "start_code"},
    ),
    "03.2": Exercise(
        "Bug hunt: all that is wrong",
        "Name every rule that the map of RESTORE breaks, not only the one that decides. The "
        'answer is a list of rule ids, such as "order.code, limit.data".',
        _all_that_is_wrong,
        (
            "The kernel tells you one. What would it say if that one were mended?",
            "explain() applies every rule, also those that the kernel does not reach; "
            "draw_checks() and checks_text() show them.",
            "print(checks_text(explanation_of(RESTORE))) marks all: one REFUSES, the others would "
            "refuse too.",
        ),
        "range.start_stack, range.arg_end, order.arg, limit.data, auxv.size",
    ),
    "03.3": Exercise(
        "Mend it",
        "Change as few members of RESTORE as you can, so that the kernel accepts the map, with a "
        "vector in it. The answer is the changes alone; all other members stay as they are there.",
        _mended,
        (
            "Each broken rule names the members that it looks at. Which one of them is wrong?",
            "start_stack, arg_end, brk and auxv_size are wrong; before.NAME is what a member "
            "held before.",
            "For brk anything up to start_brk + 63*page will do, for auxv_size anything from 1 to "
            'auxv_capacity; the other two can be "before.start_stack" and "before.arg_end".',
        ),
        {
            "brk": "before.brk",
            "start_stack": "before.start_stack",
            "arg_end": "before.arg_end",
            "auxv_size": "auxv_capacity",
        },
    ),
    "03.4": Exercise(
        "Each alone",
        "For each of range.env_start, order.arg, limit.data, auxv.size and auxv.readable a call "
        "that breaks this rule and no other. The answer is a dict from rule ids to changes, or to "
        "a recipe as text where a step before the call is needed.",
        _each_alone,
        (
            "Of a pair, the one member can be too low, the other too high. Which of the two breaks "
            "the order as well?",
            "env_start has to be too low, arg_end below arg_start but still in range. The limit "
            "needs a step. A vector that is too long must lie where so much can be read.",
            'The step is setup = [{ limit = "DATA", soft = 0 }]; memory that can be read begins '
            "at start_stack; memory that cannot be read is at 1.",
        ),
        {
            "range.env_start": {"env_start": "lowest - 1"},
            "order.arg": {"arg_end": "arg_start - 1"},
            "limit.data": '[[experiment]]\nid = "limit"\nsetup = [{ limit = "DATA", soft = 0 }]\n',
            "auxv.size": {"auxv": "start_stack", "auxv_size": "auxv_capacity + 1"},
            "auxv.readable": {"auxv": 1, "auxv_size": 1},
        },
    ),
    "03.5": Exercise(
        "Collect them all",
        "EINVAL, EFAULT, EPERM, EBADF, EACCES and EBUSY, as an ordinary user, in six calls and "
        "with at most six steps before them in all. The answer is a recipe with an [[experiment]] "
        "for each call.",
        _every_errno,
        (
            "EINVAL and EFAULT need no step. The other four are about exe_fd: look at their order.",
            "EPERM: lose_privilege makes sure that the permission lacks. EBADF, EACCES, EBUSY come "
            "after it: user_namespace gives the permission to anybody.",
            "EBADF: a descriptor that nobody opened. EACCES: a folder, or another file that may "
            "not be executed. EBUSY: a memory_file, while the old executable is mapped.",
        ),
        """[[experiment]]
id = "EINVAL"
change.end_code = "start_code"

[[experiment]]
id = "EFAULT"
change.auxv = 1
change.auxv_size = 1

[[experiment]]
id = "EPERM"
setup = [{ lose_privilege = true }]
change.exe_fd = 99

[[experiment]]
id = "EBADF"
setup = [{ user_namespace = true }]
change.exe_fd = 99

[[experiment]]
id = "EACCES"
setup = [{ user_namespace = true }, { open = "folder", path = "/", access = "directory" }]
change.exe_fd = "folder"

[[experiment]]
id = "EBUSY"
setup = [{ user_namespace = true }, { memory_file = "ghost" }]
change.exe_fd = "ghost"
""",
        _six_impossible,
    ),
    "03.6": Exercise(
        "One map against two requirements",
        "One map that the kernel accepts, and that neither requirement 2 nor 3 of the message "
        "would allow: heap, stack, arguments or environment begin where nothing is mapped, and "
        "heap, arguments or environment are empty. The answer is changes, or a recipe as text.",
        _two_refuted,
        (
            "Which addresses are certainly not mapped, and still in range?",
            "Nothing is mapped at lowest, nor at highest. A pair may lie there with both its "
            "members.",
            'Two members are enough: arg_start and arg_end, both "highest".',
        ),
        {"arg_start": "highest", "arg_end": "highest"},
    ),
    "03.7": Exercise(
        "Adversarial: five reasons in one call",
        "One call that breaks rules of five different errnos, of which the kernel tells one. The "
        "answer is changes, or a recipe as text.",
        _five_in_one,
        (
            "The six errnos are EINVAL, EFAULT, EPERM, EBADF, EACCES, EBUSY; two of them exclude "
            "each other.",
            "A vector that cannot be read, a permission that lacks, a descriptor that is not open, "
            "an executable that is mapped: and anything that gives EINVAL.",
            "exe_fd = 99 without permission gives EPERM, EBADF and EBUSY at once; start the recipe "
            "with setup = [{ lose_privilege = true }].",
        ),
        """[[experiment]]
id = "five"
setup = [{ lose_privilege = true }]
change.end_code = "start_code"
change.auxv = 1
change.auxv_size = 1
change.exe_fd = 99
""",
        _five_impossible,
    ),
    "03.8": Exercise(
        "Adversarial: one bit",
        "Two maps of one process that differ in a single bit: the kernel accepts the one and "
        'refuses the other. The answer is {"accepted": changes, "refused": changes}.',
        _one_bit,
        (
            "Find a bound where the last refused value and the first accepted one differ in their "
            "last bit only. Or flip a high bit.",
            "Exercise 03.1 has found such a bound, and start_code is even.",
            'Refused: {"end_code": "start_code"}. Accepted: the same, one higher.',
        ),
        {
            "accepted": {"end_code": "start_code + 1"},
            "refused": {"end_code": "start_code"},
        },
    ),
}
"""By number."""
