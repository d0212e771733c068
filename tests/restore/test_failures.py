"""Why restores fail: each happens here as told, by the rule that is named."""

from __future__ import annotations

import errno

import pytest

from prctlmm_lab.errors import InputError, SystemCallError
from prctlmm_lab.experiments.experiment import SetupError
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.kernel.abi import NO_EXE
from prctlmm_lab.kernel.rules import RULE, errno_name
from prctlmm_lab.restore.failures import (
    FAILURES,
    WITHOUT_OPTION,
    Failure,
    experiment_of,
    reproduce,
    sandbox,
)
from prctlmm_lab.restore.filters import answering, set_mm_filter
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from tests.needs import needs_user_namespaces, skip_unless

RECIPE = shipped_recipes()["restore-failures"]


def happens(failure: Failure) -> str:
    """Make it happen and return what came; skip what this kernel or its settings do not have."""
    if failure.name in ("exe-busy", "exe-written"):
        needs_user_namespaces()
        exists = RULE[failure.rule].exists(facts_here())
        skip_unless(exists, f"this kernel does not check {failure.rule}", impossible=True)
    return reproduce(failure.name).came


def test_the_recipe_holds_each_that_a_recipe_can_say() -> None:
    said = {failure.name for failure in FAILURES.values() if failure.rule != "sandbox"}
    assert {experiment.id for experiment in RECIPE.experiments} == said
    with pytest.raises(InputError, match="is in no recipe"):
        experiment_of(FAILURES["sandbox-eperm"])


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_it_is_explained_and_has_a_remedy(failure: Failure) -> None:
    try:
        told = reproduce(failure.name)
    except (SetupError, SystemCallError) as error:
        pytest.skip(str(error))
    deciding = told.explained_by.deciding
    if failure.rule == "sandbox":
        assert (deciding, told.numbers) == (None, "")
        assert "a filter answered before them" in str(told)
    else:
        assert deciding is not None
        assert deciding.rule.id == failure.rule
        assert told.numbers == deciding.numbers
        assert f"rule {failure.rule}: {told.numbers}" in str(told)
    assert failure.remedy in str(told)
    assert bool(told.kernel) == bool(failure.elsewhere)
    assert ("predicted of" in str(told)) == bool(failure.elsewhere)


@pytest.mark.parametrize("name", ["exe-busy", "exe-written", "data-limit", "long-vector"])
def test_this_kernel_refuses_by_the_errno_of_the_rule(name: str) -> None:
    failure = FAILURES[name]
    assert happens(failure) == errno_name(RULE[failure.rule].errno)


def test_a_static_pie_is_refused_where_the_kernel_makes_the_check() -> None:
    told = reproduce("heap-below-data")
    early = not facts_here().heap_below_data_accepted
    assert told.came == ("EINVAL" if early else "accepted")
    assert told.predicted is not None
    assert told.predicted.errno == errno.EINVAL
    assert told.kernel == "v5.10 (documented)"


def test_a_missing_permission_is_einval_before_v5_9() -> None:
    told = reproduce("exe-permission")
    assert told.came == errno_name(facts_here().exe_permission_errno)
    assert told.predicted is not None
    assert (told.predicted.errno, told.kernel) == (errno.EINVAL, "v5.8 (documented)")


def test_without_the_option_the_call_is_like_any_unknown_operation() -> None:
    told = reproduce("no-option")
    assert told.predicted is not None
    assert (told.came, told.predicted.errno) == ("EPERM", errno.EPERM)
    assert told.kernel == WITHOUT_OPTION


@pytest.mark.parametrize(
    ("name", "came"),
    [("sandbox-eperm", "EPERM"), ("sandbox-enosys", "ENOSYS"),
     ("sandbox-killed", "killed by SIGSYS")],
)  # fmt: skip
def test_a_sandbox_answers_before_the_rules(name: str, came: str) -> None:
    told = reproduce(name)
    assert told.came == came
    assert told.here.deciding is None


def test_a_sandbox_forbids_this_call_and_nothing_else() -> None:
    with Specimen() as specimen:
        assert specimen.set_map(specimen.current_map()) == 0
        sandbox(specimen, answering(errno.ENOSYS))
        for operation in (1, 14, 15, 99):
            assert specimen.attempt("prctl", 35, operation, 0, 0, 0) == -errno.ENOSYS
        assert specimen.attempt("prctl", 3, 0, 0, 0, 0) in (0, 1)  # PR_GET_DUMPABLE
        assert specimen.set_map(specimen.current_map().changed(exe_fd=NO_EXE)) == errno.ENOSYS


def test_a_filter_for_one_operation_lets_the_others_pass() -> None:
    code = set_mm_filter("x86_64", answering(1), 14)
    assert len(code) == 8 * 10
    assert len(set_mm_filter("aarch64", answering(1))) == 8 * 8


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="is not a known one"):
        reproduce("nothing")
