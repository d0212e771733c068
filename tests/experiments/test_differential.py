"""The differential test: that it finds what is wrong, tells it in a small recipe, and ends well."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from prctlmm_lab.experiments import differential
from prctlmm_lab.experiments.differential import Tally, batches, differs, fuzz, watched
from prctlmm_lab.experiments.experiment import run
from prctlmm_lab.experiments.recipe import parse_recipe
from prctlmm_lab.experiments.scenarios import LIMITS, scenarios
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.effects import UNKNOWN, Memory, shown_after
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.model import Model, specification
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.kernel.rules import Situation
from prctlmm_lab.specimen.probe import facts_here
from tests.needs import needs_user_namespaces


def ours() -> Model:
    return specification(facts_here())


def test_kernel_and_specification_agree() -> None:
    tally = fuzz(60_000)
    assert tally.disagreements == 0, f"{tally}\n{tally.examples and tally.examples[0].recipe}"
    assert tally.calls >= 60_000
    for counts in (tally.by_scenario, tally.by_limit, tally.by_verdict):
        assert sum(counts.values()) <= tally.calls
    assert {"accepted", "EINVAL", "EFAULT"} <= set(tally.by_verdict)
    assert set(tally.by_limit) == set(LIMITS)
    assert {*tally.by_scenario, *tally.skipped} == {s.name for s in scenarios()}


def test_every_rule_of_this_kernel_decides_somewhere() -> None:
    needs_user_namespaces()
    tally = fuzz(120_000)

    here = {rule.id for rule in ours().rules} - {"call.option"}  # it refuses nothing here
    assert here <= set(tally.by_rule)
    assert sum(tally.by_rule.values()) == sum(tally.by_verdict.values()) == tally.calls


def test_all_effects_agree() -> None:
    tally = fuzz(600, effects=True)
    assert tally.disagreements == 0, f"{tally}\n{tally.examples and tally.examples[0].recipe}"
    assert tally.watched >= 600
    assert tally.moves > 50


# ---- what is wrong is found -------------------------------------------------------------------

Wrong = Callable[[Situation, Facts], Any]

LAX: Wrong = lambda s, f: s.map.start_code > s.map.end_code  # noqa: E731


def test_a_wrong_rule_is_refuted_by_a_recipe_that_shows_it_again() -> None:
    model = ours().with_rule("order.code", LAX)
    tally = fuzz(60_000, model=model)
    assert tally.disagreements
    found = tally.examples[0]
    assert (found.predicted, found.kernel) == ("accepted", "EINVAL")
    (experiment,) = parse_recipe(found.recipe).experiments
    assert set(experiment.change) <= {"start_code", "end_code"}
    assert not experiment.setup
    record = run(experiment)
    assert (record.outcome.verdict, record.prediction.rule) == ("EINVAL", "order.code")
    assert differs(experiment, model) == ("accepted", "EINVAL")
    assert differs(experiment, ours()) is None


@pytest.mark.parametrize("rule", ["call.arg5", "call.size", "call.struct"])
def test_calls_with_another_size_or_pointer_are_made_too(rule: str) -> None:
    tally = fuzz(20_000, model=ours().without(rule))
    assert tally.examples
    for found in tally.examples:
        (experiment,) = parse_recipe(found.recipe).experiments
        assert differs(experiment, ours().without(rule)) == (found.predicted, found.kernel)


def test_the_same_disagreement_is_told_once() -> None:
    tally = fuzz(60_000, model=ours().with_rule("order.code", LAX))
    recipes = [found.recipe.partition("change.")[2] for found in tally.examples]
    assert len(recipes) == len(set(recipes))
    assert len({found.experiment.id for found in tally.examples}) == len(tally.examples)


def off_by_one(before: Snapshot, new: PrctlMmMap, memory: Memory, facts: Facts) -> Snapshot:
    """Say of a command line that it is one byte longer."""
    from dataclasses import replace

    shown = shown_after(before, new, memory, facts)
    if isinstance(shown.cmdline, Unreadable) or shown.cmdline is UNKNOWN:
        return shown
    return replace(shown, cmdline=shown.cmdline + b"\0" if shown.cmdline else b"")


def test_a_wrong_effect_is_refuted_too() -> None:
    from dataclasses import replace

    tally = fuzz(50, effects=True, model=replace(ours(), name="longer", shown_after=off_by_one))
    assert tally.disagreements
    assert tally.examples[0].predicted.startswith("cmdline")


def test_a_wrong_brk_is_refuted_with_the_step_that_shows_it() -> None:
    from dataclasses import replace

    model = replace(
        ours(), name="stays", brk_after=lambda before, *_: (before.brk or 0, before.vmas)
    )
    tally = fuzz(300, effects=True, model=model)
    found = [example for example in tally.examples if "brk(" in example.predicted]
    assert found
    assert found[0].experiment.after


# ---- how it ends ------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_maps() -> None:
    one, other = (next(batches(Tally("", 7), 500)) for _ in range(2))
    for member in ("auxv_size", "exe_fd"):
        assert np.array_equal(one.table[member], other.table[member])
    assert (one.place.scenario, one.place.limit) == (other.place.scenario, other.place.limit)


def test_seconds_end_it() -> None:
    assert fuzz(1 << 40, seconds=0.1).seconds < 10


def test_an_interruption_gives_the_tally_so_far() -> None:
    seen = []

    def interrupt(tally: Tally) -> None:
        seen.append(tally.calls)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    tally = fuzz(1 << 40, on_progress=interrupt)
    assert tally.interrupted
    assert tally.calls >= seen[2] > 0
    assert "interrupted" in str(tally)


def test_a_scenario_that_cannot_be_set_up_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from prctlmm_lab.experiments.experiment import Experiment
    from prctlmm_lab.experiments.scenarios import Scenario
    from prctlmm_lab.experiments.steps import Unmap

    impossible = Scenario("odd", Experiment("odd", setup=(Unmap(1),)))
    whole = scenarios()[:2]
    monkeypatch.setattr(differential, "scenarios", lambda: (impossible, *whole))
    tally = fuzz(500)
    assert list(tally.skipped) == ["odd"]
    assert "munmap" in tally.skipped["odd"]
    assert set(tally.by_scenario) == {scenario.name for scenario in whole}


def test_what_is_watched_is_put_back() -> None:
    """The memory is the same from map to map, but for what grows down."""
    stream = watched(Tally("", 3))
    first = next(stream)
    kept = [vma for vma in first.before.vmas if vma.path]
    for _, watch in zip(range(120), stream, strict=False):
        if watch.place.scenario is not first.place.scenario:
            break
        assert [vma for vma in watch.before.vmas if vma.path and "zero" not in vma.path] == [
            vma for vma in kept if "zero" not in vma.path
        ]
    stream.close()  # type: ignore[attr-defined]
