"""Single operations in a row: their rules are those by which the kernel judges whole maps."""

from __future__ import annotations

from itertools import permutations

import pytest

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Call, Experiment, run
from prctlmm_lab.experiments.single_calls import (
    OPERATIONS,
    after_all,
    judged_in_turn,
    member_of,
    single_calls,
)
from prctlmm_lab.kernel.legacy import LEGACY_RULE
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen


def calls_to_new_memory(specimen: Specimen) -> list[tuple[str, int]]:
    page, heap = specimen.map(PAGE), specimen.map(4 * PAGE)
    return [("ARG_START", page), ("ARG_END", page + 64), ("START_BRK", heap), ("BRK", heap + PAGE)]


def test_every_order_is_judged_as_the_kernel_judges_the_same_maps(specimen: Specimen) -> None:
    own, verdicts = specimen.current_map(), set()
    for order in permutations(calls_to_new_memory(specimen)):
        judged = judged_in_turn(specimen, facts_here(), order)
        verdicts.add((len(judged), judged[-1].accepted))
        for number, call in enumerate(judged):
            before = after_all(own, judged[:number])
            new = before.changed(**{member_of(call.operation): call.value})
            assert specimen.set_map(new) == call.explanation.errno, (order, number)
            assert specimen.set_map(own) == 0
    assert (4, True) in verdicts
    assert (1, False) in verdicts


def test_a_limit_can_leave_no_order(specimen: Specimen) -> None:
    heap, own = specimen.map(4 * PAGE), specimen.current_map()
    specimen.set_limit("DATA", 8 * PAGE)
    calls = [("START_BRK", heap), ("BRK", heap + 4 * PAGE)]
    rules = []
    for order in (calls, calls[::-1]):
        (refused,) = judged_in_turn(specimen, facts_here(), order)
        deciding = refused.explanation.deciding
        assert deciding is not None
        rules.append(deciding.rule.id)
    assert rules == ["order.brk", "limit.data"]
    assert specimen.set_map(own.changed(start_brk=heap, brk=heap + 4 * PAGE)) == 0


def test_the_kernels_answer_is_that_of_an_experiment(specimen: Specimen) -> None:
    arg_start = specimen.current_map().arg_start
    (call,) = single_calls(specimen, facts_here(), [("ARG_START", arg_start + 1)])
    asked = Experiment("x", call=Call(operation="ARG_START", value="arg_start + 1"))
    assert call.by_kernel == run(asked).outcome.verdict
    assert call.accepted


def test_above_all_memory_only_a_single_operation_asks_for_a_vma(specimen: Specimen) -> None:
    call = judged_in_turn(specimen, facts_here(), [("ARG_END", facts_here().highest)])[-1]
    assert call.explanation.deciding is not None
    assert call.explanation.deciding.rule is LEGACY_RULE["legacy.mapped"]


def test_what_sets_no_address_is_refused(specimen: Specimen) -> None:
    assert len(OPERATIONS) == 11
    for bad in (("AUXV", 1), ("MAP", 1), ("nothing", 1), ("BRK", -1), ("BRK", 1 << 64)):
        with pytest.raises(InputError):
            judged_in_turn(specimen, facts_here(), [bad])
