"""Every rule decides over a real call, on both sides of its boundary, in the kernel's order.

The other source is the running kernel. Each observation is a real call in a fresh specimen, beside
what `explain` says of it. That these tests can fail is shown at the end: each rule is removed,
given another errno, swapped and shifted, and each time they notice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.kernel import rules
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.rules import RULE, RULES, Rule, explain, rules_of
from prctlmm_lab.specimen.build import BUILDS
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from tests.kernel.bench import (
    BEYOND,
    FURTHER,
    INSIDE,
    TOGETHER,
    Change,
    Observation,
    Plan,
    observe,
    plan_on,
)
from tests.needs import (
    needs_ordinary_user,
    needs_root,
    needs_user_namespaces,
    skip_unless,
)
from tests.ordinary_user import ROOT, UID, as_ordinary_user

IDENTITIES = ("as we are", "as uid 65534")
IDS = [rule.id for rule in RULES]


@pytest.fixture(params=IDENTITIES)
def identity(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def plan(build: str, identity: str) -> Iterator[Plan]:
    """Plan a call that the kernel accepts, in a fresh specimen of each build and identity."""
    with Specimen(build) as specimen:
        if identity == "as uid 65534":
            needs_root()
            specimen.become(UID)
        yield plan_on(specimen, facts_here())


def needs_rule(rule: str) -> Rule:
    here = RULE[rule].exists(facts_here())
    skip_unless(here, f"this kernel does not make the check {rule}", impossible=True)
    if rule.startswith("exe."):
        needs_user_namespaces()
    return RULE[rule]


def check(observation: Observation, rule: str) -> None:
    """Check that the kernel and the specification agree, and that the rule decides, or none."""
    explanation = observation.explanation
    assert explanation.errno == observation.errno, f"\n{explanation}\n{observation.situation}"
    deciding = explanation.deciding
    assert (deciding.rule.id if deciding else "") == rule
    assert observation.errno == (RULE[rule].errno_on(observation.facts) if rule else 0)


# ---- each rule, both sides ------------------------------------------------------------------


def test_every_rule_has_its_two_sides() -> None:
    assert list(INSIDE) == list(BEYOND) == IDS


@pytest.mark.parametrize("rule", IDS)
def test_a_call_at_the_boundary_is_accepted(plan: Plan, rule: str) -> None:
    needs_rule(rule)
    INSIDE[rule](plan)
    observation = observe(plan)
    check(observation, "")
    assert not observation.explanation.broken


@pytest.mark.parametrize("rule", IDS)
def test_a_call_just_beyond_is_refused_by_that_rule_alone(plan: Plan, rule: str) -> None:
    needs_rule(rule)
    BEYOND[rule](plan)
    observation = observe(plan)
    check(observation, rule)
    broken = {finding.rule.id for finding in observation.explanation.broken}
    assert broken - {rule} <= ALSO_BROKEN.get(rule, set())


ALSO_BROKEN = {
    "auxv.null": {"auxv.readable"},
}
"""What cannot help being broken too; it stands later in the order."""


@pytest.mark.parametrize(
    ("rule", "number"), [(rule, n) for rule, ways in FURTHER.items() for n in range(len(ways))]
)
def test_other_ways_to_break_a_rule(plan: Plan, rule: str, number: int) -> None:
    needs_rule(rule)
    FURTHER[rule][number](plan)
    if "exe_fd" in plan.changes:
        plan.specimen.enter_user_namespace()
    check(observe(plan), rule)


PERMISSIONS = {"exe.ids", "exe.permission_early", "exe.permission"}
"""Of these every kernel makes exactly one."""


def test_a_kernel_asks_one_permission_for_exe() -> None:
    assert len(PERMISSIONS & {rule.id for rule in rules_of(facts_here())}) == 1


def test_a_rule_that_this_kernel_lacks_lets_pass(plan: Plan) -> None:
    lacking = {r.id for r in RULES} - {r.id for r in rules_of(facts_here())} - PERMISSIONS
    skip_unless(lacking, "this kernel makes every check", impossible=True)
    for rule in lacking:
        BEYOND[rule](plan)
    check(observe(plan), "")


# ---- the order ------------------------------------------------------------------------------


def both(plan: Plan, first: str, second: str) -> Observation | None:
    """Break two rules at once; None if breaking the one mends the other."""
    if (first, second) in TOGETHER:
        TOGETHER[first, second](plan)
    else:
        BEYOND[second](plan)
        BEYOND[first](plan)
    observation = observe(plan)
    broken = {finding.rule.id for finding in observation.explanation.broken}
    return observation if {first, second} <= broken else None


def test_of_two_broken_rules_the_earlier_decides() -> None:
    needs_user_namespaces()
    seen, told_apart = 0, set()
    here = [rule.id for rule in rules_of(facts_here())]
    for number, (first, second) in enumerate(combinations(here, 2)):
        if (first, second) == ("call.arg5", "call.option"):
            continue  # the filter that stands for a kernel without the call answers first
        with Specimen(list(BUILDS)[number % 2]) as specimen:
            observation = both(plan_on(specimen, facts_here()), first, second)
        if observation is None:
            continue
        assert observation.explanation.deciding is not None
        earlier = observation.explanation.deciding.rule
        assert IDS.index(earlier.id) <= IDS.index(first)
        assert observation.errno == observation.explanation.errno, (first, second)
        seen += 1
        if RULE[first].errno_on(observation.facts) != RULE[second].errno_on(observation.facts):
            told_apart.add((first, second))
    assert seen > 300
    # The errno alone tells these apart, at each step where it changes.
    assert {
        ("call.size", "call.struct"),
        ("call.struct", "range.start_code"),
        ("limit.data", "auxv.readable"),
        ("auxv.size", "auxv.readable"),
        ("auxv.readable", "exe.permission"),
        ("exe.permission", "exe.descriptor"),
        ("exe.descriptor", "exe.busy"),
        ("exe.regular", "exe.busy"),
        ("exe.executable", "exe.busy"),
        ("exe.busy", "exe.written"),
    } <= told_apart


# ---- through recipes, as an ordinary user -----------------------------------------------------


def records(command: list[str | Path], ordinary: bool) -> list[dict[str, Any]]:
    if ordinary:
        done = as_ordinary_user(command, cwd=ROOT)
    else:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("ordinary", [False, True])
def test_the_recipe_of_refusals(ordinary: bool) -> None:
    if ordinary:
        needs_ordinary_user()
    needs_user_namespaces()
    recipe = ROOT / "data" / "recipes" / "refusals.toml"
    found = records([sys.executable, "-m", "prctlmm_lab", "run", "--json", recipe], ordinary)
    decided = [record["prediction"]["rule"] for record in found]
    assert decided == [record["experiment"]["rule"] for record in found]
    for record in found:
        rule = RULE[record["prediction"]["rule"]]
        assert record["outcome"]["errno"] == rule.errno_on(facts_here())
        uid = UID if ordinary and os.geteuid() == 0 else os.geteuid()
        assert record["privilege"]["uid"] in (uid, 0, UID)
    unreachable = {"call.option"} | ({r.id for r in RULES} - {r.id for r in rules_of(facts_here())})
    assert set(decided) == {rule.id for rule in RULES} - unreachable


# ---- that these tests can fail ----------------------------------------------------------------


@pytest.fixture(scope="module")
def observations() -> list[Observation]:
    """Real calls on both sides of every boundary, and with two rules broken."""
    needs_user_namespaces()
    here = [rule.id for rule in rules_of(facts_here())]
    made = []
    single: list[Change] = [side[rule] for side in (INSIDE, BEYOND) for rule in here]
    for change in single:
        with Specimen() as specimen:
            plan = plan_on(specimen, facts_here())
            change(plan)
            made.append(observe(plan))
    for first, second in combinations(here, 2):
        if "call.option" not in (first, second) and RULE[first].errno != RULE[second].errno:
            with Specimen() as specimen:
                observation = both(plan_on(specimen, facts_here()), first, second)
            if observation is not None:
                made.append(observation)
    return made


def disagreements(observations: list[Observation], facts: dict[str, Any] | None = None) -> int:
    changed = [replace(o.facts, **facts or {}) for o in observations]
    return sum(
        explain(o.situation, known).errno != o.errno
        for o, known in zip(observations, changed, strict=True)
    )


def test_the_specification_agrees_with_every_observation(observations: list[Observation]) -> None:
    assert len(observations) > 150
    assert disagreements(observations) == 0


def _removed(number: int) -> tuple[Rule, ...]:
    return RULES[:number] + RULES[number + 1 :]


def _with(number: int, **changes: object) -> tuple[Rule, ...]:
    changed = replace(RULES[number], **changes)  # type: ignore[arg-type]
    return (*RULES[:number], changed, *RULES[number + 1 :])


@pytest.mark.parametrize("number", range(len(RULES)), ids=IDS)
def test_a_rule_that_is_missing_or_gives_another_errno_is_noticed(
    observations: list[Observation], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    needs_rule(IDS[number])
    rule = RULES[number]
    never = _with(number, broken=lambda s, f: False)
    always = _with(number, broken=lambda s, f: True)
    another = _with(number, errno=rule.errno + 1, errno_fact="")
    for wrong in (_removed(number), never, always, another):
        monkeypatch.setattr(rules, "RULES", wrong)
        assert disagreements(observations) > 0


def test_rules_in_another_order_are_noticed(
    observations: list[Observation], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [number for number, rule in enumerate(RULES) if rule.exists(facts_here())]
    steps = [
        (a, b)
        for a, b in pairwise(here)
        if RULES[a].errno != RULES[b].errno and "call.option" not in (IDS[a], IDS[b])
    ]
    unseen = []
    for a, b in steps:
        swapped = list(RULES)
        swapped[a], swapped[b] = swapped[b], swapped[a]
        monkeypatch.setattr(rules, "RULES", tuple(swapped))
        if disagreements(observations) == 0:
            unseen.append((IDS[a], IDS[b]))
    # A descriptor that is not open is no file, so that these two cannot be broken at once.
    assert unseen == [("exe.descriptor", "exe.regular")]
    assert len(steps) >= 6


@pytest.mark.parametrize(
    "fact", ["lowest", "highest", "auxv_capacity", "map_size", "exe_permission_errno"]
)
@pytest.mark.parametrize("distance", [-1, +1])
def test_a_fact_that_is_off_by_one_is_noticed(
    observations: list[Observation], fact: str, distance: int
) -> None:
    known: Facts = facts_here()
    assert disagreements(observations, {fact: getattr(known, fact) + distance}) > 0


@pytest.mark.parametrize("fact", ["mapped_exe_refused", "written_exe_refused", "available"])
def test_a_fact_that_is_turned_round_is_noticed(observations: list[Observation], fact: str) -> None:
    assert disagreements(observations, {fact: not getattr(facts_here(), fact)}) > 0
