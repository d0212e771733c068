"""The exercises of notebook 10: boundaries read off sweeps, models that calls refute or do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from inspect import getsource
from itertools import product
from typing import Any

from prctlmm_lab.course.answers import YOURS, experiment_of, number_of
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.errors import InputError, LabError
from prctlmm_lab.experiments.axes import Axis, Sweep
from prctlmm_lab.experiments.differential import Tally, fuzz
from prctlmm_lab.experiments.experiment import carry_out, prepare
from prctlmm_lab.experiments.formula import printable, shorten
from prctlmm_lab.experiments.generation import PARTNERS
from prctlmm_lab.experiments.recipe import SCHEMA, parse_recipe
from prctlmm_lab.experiments.steps import Limit
from prctlmm_lab.experiments.sweep import sweep
from prctlmm_lab.experiments.swept import SweepResult, verdict_name
from prctlmm_lab.kernel.abi import ADDRESSES, PrctlMmMap
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.model import Model, specification
from prctlmm_lab.kernel.rules import Predicate, Situation, explain
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.situation import situation_of

CALLS = 100_000
"""Real calls that a model has to survive."""
MOST_SWEPT = 100_000
"""Calls that the sweep of an answer may make."""

# ---- 10.1 --------------------------------------------------------------------------------------

_PAGES = 12


def _largest_heap(answer: object) -> Told:
    said = number_of(answer)
    heap = Axis("brk", "start_brk", f"start_brk + {_PAGES + 2}*page")
    result = sweep(Sweep("largest", heap, setup=(Limit("DATA", f"{_PAGES}*page"),)))
    largest = result.boundaries[-1].value - 1 - result.base.start_brk
    data = result.base.end_data - result.base.start_data
    limit = largest + data
    if said == limit:
        return Told(False, f"{limit:#x} is the limit itself. Is the heap alone under it? See where "
                    "the second change of the first sweep came.")  # fmt: skip
    if said == largest + 1:
        return Told(False, f"A heap of {said:#x} bytes is the first that is refused. The boundary "
                    "is where another answer begins; what is the last one before it?")  # fmt: skip
    if said == result.boundaries[-1].value - 1:
        return Told(False, "That is the last brk that is accepted, an address. How many bytes "
                    "is it above start_brk?")  # fmt: skip
    if said != largest:
        side = "accepted" if 0 <= said < largest else "refused"
        return Told(False, f"A heap of {said:#x} bytes is {side}, but not the last before the "
                    "answer changes. Sweep brk under the limit, read the boundary.")  # fmt: skip
    return Told(True, f"{largest:#x} + {data:#x} bytes of data = {limit:#x}: the limit, to the "
                "byte; nothing is rounded.")  # fmt: skip


# ---- 10.2 --------------------------------------------------------------------------------------


def _raised(error: Exception) -> InputError:
    problem = f"raises {type(error).__name__}: {printable(str(error))[:200]}"
    return InputError("your predicate", problem)


def _guarded(broken: Callable[..., Any]) -> Predicate:
    """Return a learner's predicate whose own mistakes are told in a sentence."""

    def predicate(s: Situation, f: Facts) -> Any:
        import numpy as np

        try:
            told = broken(s, f)
        except LabError:
            raise
        except Exception as error:
            raise _raised(error) from None
        if np.asarray(told).dtype != np.bool_:
            raise InputError("your predicate", "is neither true nor false", type(told).__name__,
                             "a comparison, such as s.map.brk > f.highest")  # fmt: skip
        return told

    return predicate


def model_with(rule: str, broken: object) -> Model:
    """Return our specification with a learner's predicate in the place of one rule's.

    Raises InputError for what is no predicate, or cannot serve columns.
    """
    if not callable(broken):
        raise InputError(YOURS, "is no function", shorten(broken),
                         "lambda s, f: s.map.brk > s.rlimit_data")  # fmt: skip
    try:
        model = specification(facts_here()).with_rule(rule, broken)
    except LabError:
        raise
    except Exception as error:
        raise _raised(error) from None
    rules = (replace(r, broken=_guarded(broken)) if r.id == rule else r for r in model.rules)
    return replace(model, rules=tuple(rules))


def refuting(tally: Tally) -> str:
    """Say which call refutes a model, in words; the smallest that was found."""
    if not tally.examples:
        return f"{tally.disagreements:,} calls"
    found = min(tally.examples, key=lambda each: len(each.recipe))
    changes = ", ".join(f"{name} = {value}" for name, value in found.experiment.change.items())
    limits = [step for step in found.experiment.setup if isinstance(step, Limit)]
    under = f" under RLIMIT_DATA = {limits[-1].soft}" if limits else ""
    return (
        f"{changes or 'no change'}{under}: your model says {found.predicted}, the kernel "
        f"{found.kernel}"
    )


def _limit_as_predicate(answer: object) -> Told:
    model = model_with("limit.data", answer)
    tally = fuzz(CALLS, model=model)
    if tally.disagreements:
        return Told(False, f"Refuted by {tally.disagreements:,} of {tally.calls:,} calls. One of "
                    f"them: {refuting(tally)}.")  # fmt: skip
    return Told(True, f"{tally.calls:,} calls, {tally.by_rule['limit.data']:,} of them refused by "
                "this rule, and none refutes it. That is no proof, but it is what "
                "check_data_rlimit() in the kernel's source says.")  # fmt: skip


# ---- 10.3 --------------------------------------------------------------------------------------


def bounds_missed() -> dict[str, str]:
    """Return, of each bound of an address, a call that needs it; "" for one that nobody misses.

    A member and its partner are put at both sides of both ends of user space, in every way there
    is; each of those calls is made, and asked of the model that lacks the bound.
    """
    facts = facts_here()
    ours = specification(facts)
    found = {}
    with Specimen() as specimen:
        calls = list(_calls_at_the_bounds(specimen, facts))
        for member in ADDRESSES:
            for bound in ("lowest", "highest"):
                model = ours.with_rule(f"range.{member}", _half(member, bound))
                needs = (said for said, situation, errno in calls
                         if explain(situation, facts, model.rules).errno != errno)  # fmt: skip
                found[f"{bound} {member}"] = next(needs, "")
    return found


def _half(member: str, left_out: str) -> Predicate:
    if left_out == "lowest":
        return lambda s, f: getattr(s.map, member) > f.highest
    return lambda s, f: getattr(s.map, member) < f.lowest


def _calls_at_the_bounds(specimen: Specimen, facts: Facts) -> Iterator[tuple[str, Situation, int]]:
    """Make the calls, and yield what each changed, its situation, and the kernel's errno."""
    places = {"lowest - 1": facts.lowest - 1, "lowest": facts.lowest,
              "highest": facts.highest, "highest + 1": facts.highest + 1}  # fmt: skip
    own = specimen.current_map()
    pairs = [(start, end) for start, end in PARTNERS.items() if start != "start_stack"]
    for members in [*pairs, ("start_stack",)]:
        for names in product(places, repeat=len(members)):
            new = own.changed(**{m: places[n] for m, n in zip(members, names, strict=True)})
            said = ", ".join(f"{m} = {n}" for m, n in zip(members, names, strict=True))
            situation = situation_of(specimen, new)
            errno = specimen.set_map(new)
            yield said, situation, errno
            if errno == 0:
                specimen.set_map(own)


def _superfluous(answer: object) -> Told:
    said, missed = number_of(answer), bounds_missed()
    needed = [name for name, call in missed.items() if call]
    spare = len(missed) - len(needed)
    if said == spare:
        stack = missed["lowest start_stack"]
        return Told(True, f"{spare} of {len(missed)}: the lower bound of each end and the upper "
                    "bound of each start. The order of the pair and the partner's bound do their "
                    f"work. start_stack has no partner and needs both: {stack}.")  # fmt: skip
    if said == len(missed):
        return Told(False, f"Not all {len(missed)}: leave out a bound of start_stack, and the "
                    f"model is wrong about {missed['highest start_stack']}.")  # fmt: skip
    if said == len(ADDRESSES):
        return Told(False, f"{said} would be one bound of each address. But start_stack has no "
                    "partner that could do its work.")  # fmt: skip
    if said == spare // 2:
        return Told(False, f"{said} are the lower bounds of the ends, as the one of brk. Think of "
                    "the same argument upside down.")  # fmt: skip
    return Told(False, f"{said} of {len(missed)}? Take one pair, arg_start and arg_end, and go "
                "through its four bounds: which call would need each?")  # fmt: skip


# ---- 10.4 --------------------------------------------------------------------------------------

_STEP = 0x1234


def _sweep_of(answer: object) -> Sweep:
    if isinstance(answer, Sweep):
        return answer
    if not isinstance(answer, str):
        raise InputError(YOURS, "is no recipe", shorten(answer), "text with one [[sweep]]")
    text = answer if "schema" in answer else f'schema = "{SCHEMA}"\n{answer}'
    recipe = parse_recipe(text, "your recipe")
    if len(recipe.sweeps) != 1 or recipe.experiments:
        found = f"{len(recipe.sweeps)} sweeps and {len(recipe.experiments)} experiments"
        raise InputError("your recipe", f"has {found}", "", "one [[sweep]] and nothing else")
    return recipe.sweeps[0]


def _boundary_made(answer: object) -> Told:
    wanted = _sweep_of(answer)
    if wanted.y is not None or wanted.x.member != "brk":
        return Told(False, 'Sweep one member, brk: x = { member = "brk", from = ..., to = ... }.')
    if wanted.x.count > MOST_SWEPT:
        return Told(False, f"{wanted.x.count:,} calls are more than it takes: the boundary is "
                    f"found to the byte with any count up to {MOST_SWEPT:,}.")  # fmt: skip
    result = sweep(wanted)
    found = [b for b in result.boundaries if _decider(result, b.above.rule) == "limit.data"]
    if not found:
        seen = "; ".join(f"{b.text}: {_decider(result, b.above.rule)}" for b in result.boundaries)
        return Told(False, f"limit.data begins nowhere in it. Boundaries: {seen or 'none'}.")
    at = found[0].value - result.base.start_brk
    if at != _STEP:
        return Told(False, f"limit.data begins at brk = start_brk + {at:#x}, {abs(at - _STEP):#x} "
                    f"too {'high' if at > _STEP else 'low'}.")  # fmt: skip
    below = verdict_name(found[0].below.errno)
    return Told(True, f"{below} at start_brk + {at - 1:#x}, limit.data at start_brk + {at:#x}: "
                f"{result.calls:,} calls, and the boundary is where you put it.")  # fmt: skip


def _decider(result: SweepResult, code: int) -> str:
    rule = result.rule(code)
    return rule.id if rule else "accepted"


# ---- 10.5 --------------------------------------------------------------------------------------

_FORM = '("order.code", lambda s, f: ..., {"start_code": ..., "end_code": ...})'


def _survivor(answer: object) -> Told:
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        raise InputError(YOURS, "is not a rule, a predicate and a call", shorten(answer), _FORM)
    rule, broken, changes = answer
    if not isinstance(rule, str) or not isinstance(changes, Mapping):
        raise InputError(YOURS, "does not begin with a rule's id and end with changes", "", _FORM)
    model, experiment = model_with(rule, broken), experiment_of(changes)
    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, facts_here(), model)
        record = carry_out(prepared)
    mine, kernel = record.prediction.verdict, record.outcome.verdict
    numbers = _values(prepared.map, experiment.change)
    if mine == kernel:
        return Told(False, f"Your call does not refute it: {numbers}: your model and the kernel "
                    f"say {kernel}.")  # fmt: skip
    tally = fuzz(CALLS, model=model)
    if tally.disagreements:
        return Told(False, f"Your call refutes it, but so do {tally.disagreements:,} of "
                    f"{tally.calls:,} random ones: {refuting(tally)}.")  # fmt: skip
    return Told(True, f"{tally.calls:,} calls found nothing, and one is enough: {numbers}. Your "
                f"model: {mine}, the kernel: {kernel}. No number of calls is a proof.")  # fmt: skip


def _values(new: PrctlMmMap, changed: Mapping[str, object]) -> str:
    return ", ".join(f"{name} = {value:#x}" for name, value in new if name in changed)


class Readable:
    """A function that shows itself as it is written."""

    def __init__(self, function: Predicate) -> None:
        self.function = function

    def __call__(self, s: Situation, f: Facts) -> Any:
        """Call the function."""
        return self.function(s, f)

    def __repr__(self) -> str:
        return getsource(self.function)


def heap_and_data_exceed_the_limit(s: Situation, f: Facts) -> Any:
    """Tell where heap and data together are larger than the limit."""
    return (s.map.brk - s.map.start_brk) + (s.map.end_data - s.map.start_data) > s.rlimit_data


def no_code_but_at_one_place(s: Situation, f: Facts) -> Any:
    """Tell where there is no code; empty code at one place is wrongly let pass."""
    return (s.map.start_code >= s.map.end_code) & (s.map.end_code != 0x123456789000)


EXERCISES = {
    "10.1": Exercise(
        "The largest heap",
        "RLIMIT_DATA is 12 pages, and no other member than brk is changed. How many bytes may the "
        "specimen's heap have at most? Answer with a number: read it off a sweep.",
        _largest_heap,
        (
            "It is the first picture once more, with another limit: "
            'setup=(Limit("DATA", "12*page"),), and an axis of brk that reaches beyond it.',
            "line.boundaries[-1].value is the first brk that is refused, and line.base.start_brk "
            "is where the heap begins.",
            "answer = line.boundaries[-1].value - 1 - line.base.start_brk, from a sweep of brk up "
            'to "start_brk + 14*page" under 12 pages.',
        ),
        12 * 4096 - 0x48,
    ),
    "10.2": Exercise(
        "The limit as a predicate",
        "The commit that brought the call asks, in our words: the heap and the data together may "
        "not be larger than the limit on data. Write when the kernel refuses, as a function: "
        "answer = lambda s, f: ... (s.map has the members, s.rlimit_data the limit in bytes, f the "
        "facts). 100,000 calls are held against it.",
        _limit_as_predicate,
        (
            "Look at the counterexample that you are told: the heap is empty or nearly so, and the "
            "kernel refuses. What else takes up room?",
            "The sum of two lengths, compared with s.rlimit_data. Is a sum that equals the limit "
            "refused?",
            "(s.map.brk - s.map.start_brk) + (s.map.end_data - s.map.start_data) is what is "
            "needed; refused is what is larger than s.rlimit_data.",
        ),
        Readable(heap_and_data_exceed_the_limit),
    ),
    "10.3": Exercise(
        "Bounds that nobody misses",
        "Each of the 11 addresses has two bounds, lowest and highest, 22 in all. The lower one of "
        "brk can be left out, and no call shows it. How many of the 22 can be left out, one at a "
        "time, so that no call shows it? Answer with a number.",
        _superfluous,
        (
            "Take the pair arg_start and arg_end. Leave out one of its four bounds, and look for a "
            "call that is now wrongly accepted.",
            "An end below the lowest address: either its start is below as well, or above the end. "
            "A start above the highest address: where is its end?",
            "Five pairs have two such bounds each, one of the start and one of the end; "
            "start_stack has none.",
        ),
        10,
    ),
    "10.4": Exercise(
        "A boundary where you want it",
        "A recipe with one [[sweep]], of brk alone, in which limit.data begins to refuse at "
        "exactly start_brk + 0x1234. It must hold in every specimen, whatever the size of its "
        "data.",
        _boundary_made,
        (
            'A sweep needs an id and x = { member = "brk", from = "...", to = "..." }; a setup '
            "sets the limit.",
            "The last heap that is accepted has 0x1233 bytes. Which limit lets it pass, if the "
            "data count too?",
            'setup = [{ limit = "DATA", soft = "end_data - start_data + 0x1233" }], and an x from '
            "start_brk to start_brk + 4*page.",
        ),
        """[[sweep]]
id = "where-i-want-it"
setup = [{ limit = "DATA", soft = "end_data - start_data + 0x1233" }]
x = { member = "brk", from = "start_brk", to = "start_brk + 4*page" }
""",
    ),
    "10.5": Exercise(
        "Adversarial: a wrong model that survives",
        "A predicate that is wrong, that 100,000 random calls do not refute, and the call that "
        "does: a tuple of a rule's id, the predicate, and the changes of that call, such as "
        '("order.code", lambda s, f: ..., {"start_code": ..., "end_code": ...}).',
        _survivor,
        (
            "Random calls aim at bounds, at members and at the ends of mappings. Be wrong where "
            "none of these is.",
            "Start from the right predicate, and make one exception: & (s.map.end_code != ...) "
            "with an address of user space that nothing leads to.",
            'Code that is empty at 0x123456789000 passes: "order.code", start_code >= end_code and '
            "end_code not 0x123456789000; the call sets both to it.",
        ),
        (
            "order.code",
            Readable(no_code_but_at_one_place),
            {"start_code": "0x123456789000", "end_code": "0x123456789000"},
        ),
    ),
}
"""By number."""
