"""Values on their way to a guest and back are the same, and nothing else is made of what comes."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from prctlmm_lab import Axis, Experiment, Sweep, fuzz, run, sweep
from prctlmm_lab.atlas.forms import received, sent
from prctlmm_lab.errors import GuestError, InputError, LabError, SpecimenGone, SystemCallError
from prctlmm_lab.experiments.claims import CLAIM, settle
from prctlmm_lab.experiments.conformance import cases, conformance
from prctlmm_lab.experiments.experiment import SetupError
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.record import to_json
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.specimen.probe import doctor, facts_here


def there_and_back(value: Any) -> Any:
    return received(json.loads(json.dumps(sent(value))))


@pytest.mark.parametrize(
    "value",
    [None, True, 1 << 64, 1.5, "a\udcff", [1, [2]], (1, (2,)), b"\0\xff", {1: "a", "b": (2,)},
     frozenset({1, 2}), Counter(a=2), PrctlMmMap(brk=1)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    again = there_and_back(value)
    assert again == value
    assert type(again) is type(value)


def test_every_experiment_that_is_shipped_comes_back_as_it_was() -> None:
    shipped = [*shipped_recipes().values(), *shipped_recipes("conformance").values()]
    experiments = [each for recipe in shipped for each in recipe.experiments]
    assert len(experiments) > 300
    for experiment in experiments:
        assert there_and_back(experiment) == experiment


def test_a_record_comes_back_as_it_was() -> None:
    record = run(Experiment("moves", change={"end_code": "end_code + page"}))
    again = there_and_back(record)
    assert again == record
    assert to_json(again) == to_json(record)


def test_a_sweeps_result_comes_back_with_its_grids_and_rules() -> None:
    wanted = Sweep("heap", Axis("brk", "start_brk - page", "start_brk + page"))
    result = sweep(wanted)
    again = there_and_back(result)
    assert again.sweep == wanted
    assert again.text() == result.text()
    assert again.rules == result.rules
    assert np.array_equal(again.errnos, result.errnos)
    assert again.x.dtype == result.x.dtype


def test_what_else_a_guest_answers_comes_back_as_it_was() -> None:
    told = [fuzz(500, seed=1), facts_here(), doctor(), *conformance(cases(["order.code"])),
            settle(CLAIM["limit.data"], facts_here())]  # fmt: skip
    for value in told:
        assert there_and_back(value) == value


@pytest.mark.parametrize(
    "error",
    [InputError("where", "what", "value", "right"), SetupError("where", "what"),
     SpecimenGone(1, "munmap", 11, -1), SystemCallError(12, "mmap", (0, 1)),
     GuestError("Linux 6.1", "run", "crashed", "panic")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_errors_come_back_as_they_were(error: LabError) -> None:
    again = there_and_back(error)
    assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize(
    "value", [object(), open, {"a": lambda: 1}], ids=["object", "builtin", "lambda"]
)
def test_what_cannot_be_sent_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="cannot be sent to a guest"):
        sent(value)


@pytest.mark.parametrize(
    "form",
    [
        {"made": ["Path", {"x": 1}]},
        {"made": ["PrctlMmMap", {"nothing": 1}]},
        {"made": ["__import__", {"name": "os"}]},
        {"made": ["LabError", {}]},
        {"error": ["SystemExit", [1]]},
        {"error": ["LabError.__init__", []]},
        {"enum": ["Verdict", "MAYBE"]},
        {"array": ["|O", [1], "AAAAAAAAAAA="]},
        {"array": ["<u8", [3], "AAAAAAAAAAA="]},
        {"finding": {"claim": "no.such"}},
        {"tuple": 1},
        {"eval": "1"},
        {"tuple": [], "bytes": ""},
        {},
    ],
    ids=json.dumps,
)
def test_what_nobody_sends_is_refused(form: Any) -> None:
    with pytest.raises(InputError):
        received(form)
