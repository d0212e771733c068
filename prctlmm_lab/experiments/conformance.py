"""Conformance: named cases, each a real call, and what the specification says of it, as KTAP.

A case passes if the kernel does what the specification predicts, in verdict and in everything
/proc shows; if the rule decides that the case names, or the call is accepted where it names none;
and if each step after the call is done and answered as the case expects.

Source of the format: Documentation/dev-tools/ktap.rst (version 1), and the last line of
tools/testing/selftests/kselftest.h.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prctlmm_lab.errors import InputError, LabError, SpecimenStartError, UnsupportedSystem
from prctlmm_lab.experiments.experiment import (
    Experiment,
    Prepared,
    SetupError,
    carry_out,
    prepare,
)
from prctlmm_lab.experiments.formula import printable, shorten, suggestion
from prctlmm_lab.experiments.needs import unmet
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.kernel.abi import Operation
from prctlmm_lab.kernel.effects import EFFECT
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.legacy import LEGACY_RULE, MemberSituation
from prctlmm_lab.kernel.message import PLACES
from prctlmm_lab.kernel.rules import RULE
from prctlmm_lab.specimen.probe import facts_here

Groups = Mapping[str, Sequence[Experiment]]
"""Cases by the subject that they are about, which is the name of their recipe."""

PASS, FAIL, SKIP = "pass", "fail", "skip"


@dataclass(frozen=True)
class CaseResult:
    """One case, and what came of it."""

    group: str
    case: str
    title: str
    rule: str
    """The id of the rule that is to refuse the call, "" for a call that is to be accepted."""
    effect: str
    """The id of the effect that it is about, or ""."""
    places: tuple[str, ...]
    """The places of commit f606b77f1a's message that it is about (`kernel/message.py`)."""
    result: str
    """"pass", "fail" or "skip"."""
    expected: str
    """"accepted", or the errno and the rule that decides."""
    kernel: str
    """"accepted", the errno, or "" if there was no answer."""
    reasons: tuple[str, ...]
    """Why it failed, a sentence each, or why it was skipped."""


def cases(names: Iterable[str] = ()) -> dict[str, tuple[Experiment, ...]]:
    """Return the cases that come with the lab, by subject; those that are named, if any are.

    A name is a subject, a case, or the beginning of cases: "order", "order.code".

    >>> [case.id for case in cases(["order.code"])["order"]][0]
    'order.code.equal'

    Raises InputError for a name that is none of them.
    """
    found = {group: recipe.experiments for group, recipe in shipped_recipes("conformance").items()}
    chosen: set[tuple[str, str]] = set()
    for name in names:
        of_name = {
            (group, case.id)
            for group, of_group in found.items()
            for case in of_group
            if name == group or f"{case.id}.".startswith(f"{name}.")
        }
        if not of_name:
            known = [*found, *(case.id for of_group in found.values() for case in of_group)]
            raise InputError("conformance", "is not a case, nor the beginning of one",
                             shorten(name), suggestion(name, known, found))  # fmt: skip
        chosen |= of_name
    picked = {
        group: tuple(case for case in of_group if not chosen or (group, case.id) in chosen)
        for group, of_group in found.items()
    }
    return {group: of_group for group, of_group in picked.items() if of_group}


def conformance(groups: Groups) -> Iterator[CaseResult]:
    """Make the call of each case in a fresh specimen, and yield what came of it, one by one.

    >>> [told.result for told in conformance(cases(["call.identity"]))]
    ['pass']

    The command line's equivalent is `prctlmm-lab conformance`.

    Raises UnsupportedSystem or SpecimenStartError where no specimen can be started.
    """
    facts = facts_here()
    for group, of_group in groups.items():
        for case in of_group:
            yield examine(case, facts, group)


def examine(case: Experiment, facts: Facts, group: str = "") -> CaseResult:
    """Make the call of one case and judge it.

    Raises as `conformance`.
    """
    reason = _not_of_this_kernel(case, facts)
    if reason:
        return _result(case, group, SKIP, (reason,))
    prepared = None
    try:
        with case.specimen.start() as specimen:
            prepared = prepare(case, specimen, facts)
            if reason := _not_permitted(prepared):
                return _result(case, group, SKIP, (reason,), prepared)
            record = carry_out(prepared)
    except SetupError as error:
        return _result(case, group, SKIP, (error.problem,), prepared)
    except (SpecimenStartError, UnsupportedSystem):
        raise
    except LabError as error:
        return _result(case, group, FAIL, (str(error),), prepared)
    wrong = tuple(_wrong(case, record))
    return _result(case, group, FAIL if wrong else PASS, wrong, prepared, record)


def _not_of_this_kernel(case: Experiment, facts: Facts) -> str:
    """Return why a kernel cannot show a case at all, "" if it can."""
    takes_map = case.call.number in (Operation.MAP, Operation.MAP_SIZE)
    if takes_map and not facts.available and case.rule not in ("call.arg5", "call.option"):
        return "this kernel does not have the call (CONFIG_CHECKPOINT_RESTORE)"
    return unmet(case.rule, facts) if case.rule else ""


def _not_permitted(prepared: Prepared) -> str:
    """Return which permission a case of a single member lacks, "" if it has what it needs."""
    situation, aim = prepared.situation, prepared.experiment.rule
    if not isinstance(situation, MemberSituation) or situation.operation == Operation.MAP_SIZE:
        return ""
    if situation.sys_resource or aim in ("legacy.arguments", "legacy.permission"):
        return ""
    return "the caller lacks CAP_SYS_RESOURCE in the initial user namespace"


def _wrong(case: Experiment, record: Record) -> Iterator[str]:
    """Yield a sentence for everything that is not as it should be."""
    yield from record.agreement.disagreements
    if not case.rule and record.prediction.rule:
        yield f"rule: the case is to be accepted, {record.prediction.rule} decides"
    if record.outcome.ended:
        yield record.outcome.ended
    for number, answer in enumerate(record.answers):
        if answer.refusal and not answer.expected:
            yield f"after[{number}] {answer.step}: {answer.refusal}"


def _result(
    case: Experiment,
    group: str,
    result: str,
    reasons: tuple[str, ...],
    prepared: Prepared | None = None,
    record: Record | None = None,
) -> CaseResult:
    deciding = prepared.explanation.deciding if prepared else None
    verdict = prepared.explanation.verdict.partition(":")[0] if prepared else ""
    return CaseResult(
        group=group,
        case=case.id,
        title=case.title,
        rule=case.rule,
        effect=case.effect,
        places=places(case),
        result=result,
        expected=f"{verdict} by {deciding.rule.id}" if deciding else verdict,
        kernel=record.outcome.verdict if record else "",
        reasons=tuple(map(printable, reasons)),
    )


def places(case: Experiment) -> tuple[str, ...]:
    """Return the places of the commit message that a case is about.

    They are what the case names, and the requirement that its rule implements.
    """
    rule = (RULE | LEGACY_RULE).get(case.rule)
    numbered = str(rule.requirement) if rule and rule.requirement else ""
    return tuple(dict.fromkeys(filter(None, (numbered, case.requirement))))


# ---- KTAP -------------------------------------------------------------------------------------


def header(facts: Facts, uid: int, groups: Groups) -> tuple[str, ...]:
    """Return what a reader of results must know of the place where they were made."""
    from prctlmm_lab import __version__

    count = sum(map(len, groups.values()))
    return (
        f"prctl(PR_SET_MM, PR_SET_MM_MAP): {count} cases of prctlmm_lab {__version__}",
        f"Linux {facts.release} {facts.machine}, uid {uid}",
    )


def ktap(groups: Groups, results: Iterable[CaseResult], heading: Iterable[str]) -> Iterator[str]:
    """Write results as KTAP, a line at a time: a nested test for each group.

    The results come in the order of the groups; each line is yielded as soon as it is known.
    """
    yield "KTAP version 1"
    yield from (f"# {_safe(line)}" for line in heading)
    yield f"1..{len(groups)}"
    told, totals = iter(results), Counter[str]()
    for number, (group, of_group) in enumerate(groups.items(), 1):
        yield "  KTAP version 1"
        yield f"  # Subtest: {_safe(group)}"
        yield f"  1..{len(of_group)}"
        counts = Counter[str]()
        for place, _ in enumerate(of_group, 1):
            result = next(told)
            counts[result.result] += 1
            yield from (f"  {line}" for line in _case_lines(place, result))
        totals += counts
        mark = "not ok" if counts[FAIL] else "ok"
        skipped = " # SKIP all of its cases" if counts[SKIP] == len(of_group) else ""
        yield f"{mark} {number} {_safe(group)}{skipped}"
    yield (
        f"# Totals: pass:{totals[PASS]} fail:{totals[FAIL]} xfail:0 xpass:0 "
        f"skip:{totals[SKIP]} error:0"
    )


def _case_lines(number: int, told: CaseResult) -> Iterator[str]:
    """Write one case; what explains a failure stands before its line, as KTAP has it."""
    name = _safe(told.case)
    if told.result == PASS:
        yield f"ok {number} {name}"
        return
    if told.result == SKIP:
        yield f"ok {number} {name} # SKIP {_safe(' '.join(told.reasons))}"
        return
    yield f"# {name}: {_safe(told.title)}"
    yield f"# cites {_safe(citation(told))}"
    if told.expected:
        yield f"# expected {_safe(told.expected)}, got {told.kernel or 'no answer'}"
    yield from (f"# {_safe(reason)}" for reason in told.reasons)
    yield f"not ok {number} {name}"


def citation(told: CaseResult) -> str:
    """Write what a case is about: rule or effect with its source, place of the commit message."""
    parts = []
    if told.rule:
        parts.append(f"rule {told.rule} ({(RULE | LEGACY_RULE)[told.rule].source})")
    if told.effect:
        parts.append(f"effect {told.effect} ({EFFECT[told.effect].source})")
    for place in told.places:
        kind = "requirement" if place.isdigit() else "paragraph"
        parts.append(f'{kind} "{place}" of f606b77f1a ({PLACES[place]})')
    return "; ".join(parts)


def _safe(text: str) -> str:
    """Return text that no reader of KTAP takes for a directive, and that stays on its line."""
    return printable(text).replace("#", "?")
