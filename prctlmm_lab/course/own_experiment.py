"""The exercises of notebook 11: an experiment of one's own, as a recipe."""

from __future__ import annotations

from prctlmm_lab.course.answers import experiment_of, trial
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.experiments.experiment import carry_out, prepare
from prctlmm_lab.kernel.releases import facts_on
from prctlmm_lab.kernel.rules import errno_name, explain
from prctlmm_lab.specimen.probe import facts_here

OLD = "5.10.262"

# ---- 11.1 --------------------------------------------------------------------------------------


def _one_byte(answer: object) -> Told:
    record = trial(experiment_of(answer)).record
    rule, verdict = record.prediction.rule, record.outcome.verdict
    if verdict == "accepted":
        return Told(False, "The kernel accepted it. Heap and data together must be larger than "
                    "RLIMIT_DATA, by one byte.")  # fmt: skip
    if rule != "limit.data":
        return Told(False, f"It is refused, but by {rule}: {record.prediction.numbers}. That check "
                    "comes first.")  # fmt: skip
    sides = record.prediction.numbers.split(", ")
    size, limit = (int(side.rpartition("= ")[2], 16) for side in sides)
    if size - limit != 1:
        return Told(False, f"limit.data refuses it, by {size - limit:#x} bytes: "
                    f"{record.prediction.numbers}. Make that one.")  # fmt: skip
    return Told(True, f"{record.prediction.numbers}: one byte decides.")


# ---- 11.2 --------------------------------------------------------------------------------------


def _two_kernels(answer: object) -> Told:
    experiment = experiment_of(answer)
    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, facts_here())
        old = explain(prepared.situation, facts_on(OLD, facts_here()))
        here = carry_out(prepared).outcome.verdict
    there = "accepted" if old.errno == 0 else errno_name(old.errno)
    if here == there:
        return Told(False, f"Both say {here}. Which rule or fact changed since v5.10? "
                    "`releases_table()` lists them.")  # fmt: skip
    rule = f" by {old.deciding.rule.id}" if old.deciding else ""
    return Told(True, f"Here {here}; Linux {OLD}, as documented, {there}{rule}.")


def _same_everywhere() -> str:
    now, old = facts_here(), facts_on(OLD, facts_here())
    return f"this kernel makes the checks of Linux {OLD}" if now == old else ""


# ---- 11.3 --------------------------------------------------------------------------------------


def _unseen(answer: object) -> Told:
    record = trial(experiment_of(answer)).record
    if record.outcome.verdict != "accepted":
        return Told(False, f"The kernel refused it: {record.outcome.verdict} by "
                    f"{record.prediction.rule}.")  # fmt: skip
    if int(record.map["auxv_size"], 16) == 0:
        return Told(False, "auxv_size is 0, so the kernel was given no vector at all. Give it one.")
    if record.difference:
        place, name, before, after = record.difference[0]
        return Told(False, f"It shows: {place} {name}: {before} -> {after}.")
    return Told(True, "A whole vector was replaced, and nothing in /proc tells.")


EXERCISES = {
    "11.1": Exercise(
        "One byte",
        "A recipe whose call is refused by limit.data, by one byte and no more.",
        _one_byte,
        (
            'A step before the call sets the limit: setup = [{ limit = "DATA", soft = "..." }].',
            "The limit is on (brk - start_brk) + (end_data - start_data), all values after the "
            "call; a step's formula takes those before it.",
            'soft = "brk - start_brk + end_data - start_data - 1" makes it too small by one byte.',
        ),
        """[[experiment]]
id = "one-byte"
title = "One byte too much"
setup = [{ limit = "DATA", soft = "brk - start_brk + end_data - start_data - 1" }]
predict = "EINVAL"
""",
    ),
    "11.2": Exercise(
        "Two kernels",
        f"A recipe that this kernel and Linux {OLD} answer differently.",
        _two_kernels,
        (
            "Look at releases_table(): what changed after v5.10, and which rule does it concern?",
            "The room for the auxiliary vector grew with almost every long-term release.",
            'Map a page, point auxv at it, and say change.auxv_size = 384: "room" was 368 bytes.',
        ),
        """[[experiment]]
id = "more-room"
title = "A vector that v5.10 has no room for"
setup = [{ map = "arena" }]
change.auxv = "arena.start"
change.auxv_size = 384
""",
        _same_everywhere,
    ),
    "11.3": Exercise(
        "Adversarial: unseen",
        "A recipe that gives the kernel an auxiliary vector of your own, and after "
        "which /proc shows nothing else than before.",
        _unseen,
        (
            "What would the vector have to hold for nothing to change?",
            "A step can write a vector entry by entry, but AT_RANDOM and others are addresses that "
            "differ each time. Where does the specimen have all of them already?",
            "The kernel put the vector onto the stack when the program started: behind the zero "
            "word that ends the environment's pointers. start_stack points at argc.",
        ),
        """[[experiment]]
id = "unseen"
title = "A vector that changes nothing"
change.auxv = "start_stack + 8 * (1 + 1 + 1 + 1 + 1)"
change.auxv_size = "auxv_capacity"
""",
    ),
}
"""By number."""
