"""The older operations of PR_SET_MM in a row: one member at a time, each judged with all others.

The kernel asks for CAP_SYS_RESOURCE first, which few callers have. So each call is made, and beside
the kernel's answer stands what the rules say for a caller who has it: then a call that is accepted
has replaced its member when the next is judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import PR_SET_MM, U64, Operation, PrctlMmMap
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.legacy import MEMBER_OF, replaced, rules_of
from prctlmm_lab.kernel.rules import Explanation, errno_name, explain
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.situation import member_situation_of

OPERATIONS: tuple[str, ...] = tuple(Operation(number).name for number in MEMBER_OF)
"""The names of the eleven that set an address."""


@dataclass(frozen=True)
class SingleCall:
    """One call of a row, and what is said of it."""

    operation: str
    value: int
    explanation: Explanation
    """By the rules, for a caller with CAP_SYS_RESOURCE."""
    errno: int | None = None
    """What the kernel answered; None if it was not asked."""

    @property
    def accepted(self) -> bool:
        """True if the rules accept it."""
        return self.explanation.errno == 0

    @property
    def by_rules(self) -> str:
        """The rules' verdict, with the rule that decides and its numbers."""
        return self.explanation.verdict

    @property
    def by_kernel(self) -> str:
        """The kernel's verdict, "" if it was not asked."""
        if self.errno is None:
            return ""
        return errno_name(self.errno) if self.errno else "accepted"


def single_calls(
    specimen: Specimen, facts: Facts, calls: Iterable[tuple[str, int]]
) -> tuple[SingleCall, ...]:
    """Make calls such as ("ARG_START", 0x7f0000000000) one after the other.

    >>> from prctlmm_lab.specimen.probe import facts_here
    >>> with Specimen() as specimen:
    ...     own = specimen.current_map()
    ...     (call,) = single_calls(specimen, facts_here(), [("ARG_START", own.arg_end + 1)])
    >>> call.explanation.deciding.rule.id
    'order.arg'

    Raises InputError for what is no such operation, SpecimenError.
    """
    done = []
    with specimen.undivided:
        for call in _judged_all(specimen, facts, calls):
            arguments = PR_SET_MM, Operation[call.operation], call.value, 0, 0
            done.append(replace(call, errno=-specimen.attempt("prctl", *arguments)))
    return tuple(done)


def judged_in_turn(
    specimen: Specimen, facts: Facts, calls: Iterable[tuple[str, int]]
) -> tuple[SingleCall, ...]:
    """Judge calls by the rules alone, up to the first that is refused; none is made.

    Raises as `single_calls`.
    """
    done = []
    for call in _judged_all(specimen, facts, calls):
        done.append(call)
        if not call.accepted:
            break
    return tuple(done)


def _judged_all(
    specimen: Specimen, facts: Facts, calls: Iterable[tuple[str, int]]
) -> Iterator[SingleCall]:
    """Hold calls to the rules, each as if those before it had replaced their members."""
    present = specimen.current_map()
    for name, value in calls:
        operation = _checked(name, value)
        asked = member_situation_of(specimen, operation, value)
        new = replaced(present, operation, value, 0)
        situation = replace(asked, map=new, sys_resource=True)
        explanation = explain(situation, facts, rules_of(operation, facts))
        present = present if explanation.errno else new
        yield SingleCall(name, value, explanation)


def after_all(present: PrctlMmMap, calls: Iterable[SingleCall]) -> PrctlMmMap:
    """Return a map with the members replaced that calls set which the rules accept."""
    for call in calls:
        if call.accepted:
            present = replaced(present, Operation[call.operation], call.value, 0)
    return present


def _checked(operation: str, value: int) -> Operation:
    if operation not in OPERATIONS:
        raise InputError("operation", "sets no address", repr(operation)[:40],
                         f"one of {', '.join(OPERATIONS)}")  # fmt: skip
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= U64:
        raise InputError(operation, "is no address", repr(value)[:40], f"0 to {U64:#x}")
    return Operation[operation]


def member_of(operation: str) -> str:
    """Return the member that an operation sets.

    >>> member_of("ARG_START")
    'arg_start'
    """
    return MEMBER_OF[Operation[operation]]
