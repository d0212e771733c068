"""Sweeps: every cell against a call of its own, every count against counting, every edge exact."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prctlmm_lab import Axis, InputError, Sweep, sweep
from prctlmm_lab.experiments import sweep as sweep_module
from prctlmm_lab.experiments.axes import spread
from prctlmm_lab.experiments.boundaries import edges_along_x, equation, symbol
from prctlmm_lab.experiments.experiment import Experiment, SetupError, Subject, prepare, take_steps
from prctlmm_lab.experiments.formula import evaluate, evaluate_columns
from prctlmm_lab.experiments.recipe import Recipe, parse_recipe, recipe_text, shipped_recipes
from prctlmm_lab.experiments.steps import Limit, Map, Open, UserNamespace
from prctlmm_lab.experiments.swept import SweepResult, SweptCall, verdict_name
from prctlmm_lab.kernel import rules
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.rules import ACCEPTED, RULES, explain
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.situation import situation_of
from tests.needs import needs_ordinary_user, needs_user_namespaces
from tests.ordinary_user import as_ordinary_user

SHIPPED = {wanted.id: wanted for wanted in shipped_recipes()["sweeps"].sweeps}
FACTS = facts_here()


@cache
def swept(name: str) -> SweepResult:
    if any(isinstance(step, UserNamespace) for step in SHIPPED[name].setup):
        needs_user_namespaces()
    return sweep(SHIPPED[name])


def small(count: int = 16, **more: Any) -> Sweep:
    """Return a heap between order and limit, quickly swept."""
    around = ("lowest - page", "lowest + 7*page", count)
    return Sweep("small", Axis("start_brk", *around), Axis("brk", *around), **more)


def some_cells(result: SweepResult, count: int) -> list[tuple[int, int]]:
    """Return cells at random, and the corners."""
    generator = np.random.default_rng()
    tall, wide = result.errnos.shape
    rows, columns = generator.integers(0, tall, count), generator.integers(0, wide, count)
    corners = [(r, c) for r in (0, tall - 1) for c in (0, wide - 1)]
    return [*corners, *zip(rows.tolist(), columns.tolist(), strict=True)]


# ---- the kernel and the rules -------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_each_cell_is_what_an_experiment_of_its_own_says(name: str) -> None:
    """An experiment with the cell's values, in another specimen, predicted and called one by one.

    The layout is the same where addresses are not random, which the set-up's own do not need to be.
    """
    wanted = replace(SHIPPED[name], specimen=Subject(randomize=False))
    result = sweep(wanted)
    for row, column in some_cells(result, 25):
        cell = result.call_at(row, column)
        values = {a.member: v for a, v in zip(wanted.axes, (cell.x, cell.y), strict=False)}
        changes = {**wanted.change, **values}
        experiment = Experiment(name, setup=wanted.setup, change=changes, specimen=wanted.specimen)
        with experiment.specimen.start() as specimen:
            prepared = prepare(experiment, specimen, FACTS)
            deciding = prepared.explanation.deciding
            assert specimen.set_map(prepared.map) == cell.errno, cell
        rule = result.rule(cell.rule)
        assert (rule.id if rule else "") == (deciding.rule.id if deciding else ""), cell
        assert cell.predicted == prepared.explanation.errno


@pytest.mark.parametrize("name", SHIPPED)
def test_kernel_and_rules_agree_and_several_rules_decide(name: str) -> None:
    result = swept(name)
    assert result.disagreements == 0, result.text()
    assert np.array_equal(result.errnos, result.predicted)
    assert len(result.regions) >= 3
    assert result.regions[0].rule is None
    assert set(result.verdicts) > {"accepted"}


def test_each_shipped_sweep_shows_what_its_title_says() -> None:
    edges = {name: [edge.text for edge in swept(name).boundaries] for name in SHIPPED}
    low, high = hex(FACTS.lowest), hex(FACTS.highest + 1)
    assert edges["heap"] == [
        f"start_brk = lowest = {low}", f"brk = lowest = {low}",
        "brk = start_brk + 4*page", "brk = start_brk",
    ]  # fmt: skip
    assert edges["limit"][-1] == "end_data + brk = start_data + start_brk + 4*page"
    assert edges["command-line"] == [
        f"arg_start = highest + 1 = {high}", f"arg_end = highest + 1 = {high}",
        "arg_end = arg_start",
    ]  # fmt: skip
    size = f"auxv_size = auxv_capacity + 1 = {FACTS.auxv_capacity + 1:#x}"
    assert edges["vector"] == [size, "auxv + auxv_size = arena.start + page"]
    assert edges["null-vector"] == ["auxv = 0x1", "auxv_size = 0x1", size]
    assert edges["lowest"] == [
        f"start_code = lowest = {low}",
        f"start_code = end_code = {FACTS.lowest + 4 * PAGE:#x}",
    ]
    slid = f"arg_start = highest - page + 1 = {FACTS.highest + 1 - PAGE:#x}"
    assert edges["highest"] == [slid, f"arg_start = highest + 1 = {high}"]
    found = {rule.id for _, _, rule, _ in swept("descriptors").intervals() if rule}
    assert found == {"exe.descriptor", "exe.regular", "exe.noexec", "exe.executable"}


def test_every_value_of_64_bits_can_be_swept() -> None:
    result = sweep(Sweep("all", Axis("end_code", 0, (1 << 64) - 1, count=1 << 18)))
    assert [int(result.x[0]), int(result.x[-1])] == [0, (1 << 64) - 1]
    assert result.disagreements == 0
    # Only one of the values lies among the addresses: what is beside it is found all the same.
    rows = [(first, last, rule.id if rule else "") for first, last, rule, _ in result.intervals()]
    start = dict(result.base)["start_code"]
    assert rows == [
        (0, FACTS.lowest - 1, "range.end_code"), (FACTS.lowest, start, "order.code"),
        (start + 1, FACTS.highest, ""), (FACTS.highest + 1, (1 << 64) - 1, "range.end_code"),
    ]  # fmt: skip


def test_an_edge_between_two_values_is_found_where_the_kernel_has_it() -> None:
    """The calls on both sides are real, follow on each other, and differ."""
    for name in SHIPPED:
        result = swept(name)
        for edge in result.boundaries:
            axis = [a.member for a in result.sweep.axes].index(edge.member)
            sides = [(call.x, call.y)[axis] for call in (edge.below, edge.above)]
            assert sides == [edge.value - 1, edge.value]
            assert edge.below.rule != edge.above.rule
            assert edge.below.agrees
            assert edge.above.agrees


def test_what_lies_hidden_between_two_values_is_found() -> None:
    """Two values far apart, and three rules between them."""
    wanted = Sweep("wide", Axis("end_data", 0, "start_data + (1 << 40)", count=2))
    result = sweep(replace(wanted, setup=(Limit("DATA", "1 << 30"),)))
    rows = [(first, rule.id if rule else "") for first, _, rule, _ in result.intervals()]
    start = dict(result.base)["start_data"]
    heap = result.base.brk - result.base.start_brk
    assert rows == [
        (0, "range.end_data"), (FACTS.lowest, "order.data"), (start, ""),
        (start + (1 << 30) - heap + 1, "limit.data"),
    ]  # fmt: skip


def without(identity: str) -> tuple[rules.Rule, ...]:
    return tuple(rule for rule in RULES if rule.id != identity)


def off_by_one(identity: str) -> tuple[rules.Rule, ...]:
    """Return the rules with one that forgets that the end is exclusive."""
    wrong = replace(rules.RULE[identity], broken=lambda s, f: s.map.start_code > s.map.end_code)
    return tuple(wrong if rule.id == identity else rule for rule in RULES)


def test_a_rule_that_is_missing_shows_as_disagreements(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = (Limit("DATA", "2*page + end_data - start_data"),)
    right = sweep(small(setup=limit))
    refused = right.frame().query("rule == 'limit.data'")
    monkeypatch.setattr(rules, "RULES", without("limit.data"))
    wrong = sweep(small(setup=limit))
    assert np.array_equal(wrong.errnos, right.errnos)
    frame = wrong.frame()
    assert frame[~frame.agrees].index.tolist() == refused.index.tolist()
    assert set(frame[~frame.agrees].predicted) == {"accepted"}
    beside = [call for call in wrong.boundary_calls if not call.agrees]
    assert wrong.disagreements == len(refused) + len(beside) > 50
    assert f"{wrong.disagreements} DISAGREEMENTS" in wrong.summary()
    assert wrong.text().count("DISAGREES") == len(wrong.examples()) == 5
    first = wrong.examples()[0]
    assert (first.errno, first.predicted, first.agrees) == (22, 0, False)


def test_a_comparison_that_is_off_by_one_shows_between_the_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of the values is the one that matters; the calls at the boundary are."""
    wanted = Sweep("code", Axis("start_code", "end_code - 1000", "end_code + 999", count=50))
    assert sweep(wanted).disagreements == 0
    monkeypatch.setattr(rules, "RULES", off_by_one("order.code"))
    wrong = sweep(wanted)
    assert np.array_equal(wrong.errnos, wrong.predicted)
    assert wrong.disagreements == 1
    (call,) = wrong.examples()
    assert (call.x, call.errno, call.predicted) == (wrong.base.end_code, 22, 0)
    assert f"start_code = {call.x:#x}: predicted accepted, kernel EINVAL" in wrong.text()
    assert wrong.data()["examples"] == [
        {"start_code": hex(call.x), "predicted": "accepted", "rule": "", "kernel": "EINVAL"}
    ]


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_batches_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    whole = sweep(small())
    monkeypatch.setattr(sweep_module, "_BATCH", batch)
    parts = sweep(small())
    for name in ("errnos", "predicted", "deciding"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


def test_the_specimen_is_ended_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Specimen] = []
    start = Subject.start

    def noted(subject: Subject) -> Specimen:
        started.append(start(subject))
        return started[-1]

    monkeypatch.setattr(Subject, "start", noted)
    sweep(small())
    with pytest.raises(InputError):
        sweep(Sweep("late", Axis("brk", "brk", "brk - 1")))
    assert [specimen.alive for specimen in started] == [False, False]


# ---- a formula that follows ---------------------------------------------------------------------


def test_members_that_follow_a_swept_one_are_worked_out_for_each_call() -> None:
    """Column by column as `prepare` does it one by one."""
    changes = {
        "brk": "start_brk + 2*page + auxv_capacity",
        "end_data": "brk - before.brk + before.end_data",
        "arg_end": "arg_end + 1",
        "env_start": "page_down((start_brk + start_stack) // 2) | 5",
    }
    subject = Subject(randomize=False)
    wanted = Sweep(
        "follow", Axis("start_brk", "before.start_brk", "start_brk + 9*page", count=5),
        Axis("start_stack", "heap.end", "stack.end", count=3), change=changes, specimen=subject,
    )  # fmt: skip
    with subject.start() as specimen:
        run = sweep_module._Run(wanted, specimen)
        x, y = np.meshgrid(run.x, run.y)
        table = run._table(x.ravel(), y.ravel())
        for row, (start_brk, start_stack) in enumerate(zip(x.ravel(), y.ravel(), strict=True)):
            fixed = {"start_brk": int(start_brk), "start_stack": int(start_stack)}
            one = prepare(Experiment("one", change={**changes, **fixed}), specimen, FACTS)
            assert PrctlMmMap.unpack(table[row].tobytes()) == one.map
    assert sweep(wanted).disagreements == 0


formulas = st.sampled_from(
    ["a + b * 3", "a - b", "-a", "a // (b % 7 + 1)", "a % (b + 1)", "a << b % 65", "a >> b % 65",
     "page_up(a) | page_down(b)", "a & b", "5", "b * b", "a * a", "a // b", "a << b - 3"]
)  # fmt: skip


@given(formulas, st.lists(st.tuples(*[st.integers(0, (1 << 64) - 1)] * 2), min_size=1, max_size=5))
def test_a_column_is_evaluated_as_each_of_its_numbers(
    formula: str, pairs: list[tuple[int, int]]
) -> None:
    def each() -> Iterator[int]:
        for a, b in pairs:
            yield evaluate(formula, {"a": a, "b": b}.get, "x")

    a, b = (np.array(column, object) for column in zip(*pairs, strict=True))
    try:
        expected = list(each())
    except InputError:
        with pytest.raises(InputError):
            evaluate_columns(formula, {"a": a, "b": b}.get, "x")
        return
    found = evaluate_columns(formula, {"a": a, "b": b}.get, "x")
    assert (found.tolist() if isinstance(found, np.ndarray) else [found] * len(a)) == expected


# ---- values, edges and their names --------------------------------------------------------------


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), st.integers(2, 500))
def test_values_are_spread_evenly_and_exactly(one: int, other: int, count: int) -> None:
    first, last = sorted((one, other))
    values = spread(first, last, count)
    assert (values[0], values[-1]) == (first, last)
    assert len(values) == min(count, last - first + 1)
    assert values == sorted(set(values))
    for place, value in enumerate(values):
        exact = first + Fraction((last - first) * place, max(len(values) - 1, 1))
        assert 0 <= exact - value < 1


@given(st.integers(0, 1 << 48), st.integers(-17 * PAGE, 17 * PAGE))
def test_a_name_for_a_value_evaluates_to_it(base: int, offset: int) -> None:
    names = {"lowest": base, "brk": base + 5}
    value = base + 17 * PAGE + offset
    named = symbol(value, names, PAGE)
    if named is not None:
        assert evaluate(named.text, {**names, "page": PAGE}.get, "") == value


def test_a_related_name_comes_before_a_nearer_one() -> None:
    names = {"end_code": 0x5000, "start_data": 0x4000}
    found = symbol(0x6000, names, 4096, {"start_data"})
    assert found is not None
    assert found.text == "start_data + 2*page"


def test_equations_hold_for_the_sums_they_name() -> None:
    names = {"start_data": 0x402000, "start_brk": 0x9000000, "far": 0x70000000}
    related = {"start_data", "start_brk"}
    total = 0x402000 + 0x9000000 + 3 * PAGE
    text = equation(-1, ("end_data", "brk"), (total, total + 1), names, PAGE, related)
    assert text == "end_data + brk = start_data + start_brk + 3*page"
    assert equation(-1, ("a", "b"), (0x123456, 0x123457), {}, PAGE) == "a + b = 0x123456"
    assert equation(1, ("a", "b"), (-0x123456, -0x123455), {}, PAGE) == "b = a - 0x123456"


def test_edges_are_told_from_slants() -> None:
    x = y = np.arange(0, 40, dtype=np.uint64)
    grid = np.where(x[None, :] > y[:, None], 3, np.where(x[None, :] < 8, 1, 2)).astype(np.uint8)
    edges = edges_along_x(grid, x, y)
    found = {(edge.slope, edge.column) for edge in edges if not edge.slope}
    assert found == {(0, 7)}
    slants = [edge for edge in edges if edge.slope]
    assert {edge.slope for edge in slants} == {1}
    for edge in edges:
        for row in edge.rows:
            assert grid[row, edge.column] != grid[row, edge.column + 1]


def test_a_slant_that_looks_straight_is_told_as_a_slant() -> None:
    """Along x byte by byte, along y in steps so wide that the grid shows a level edge."""
    wanted = small(setup=(Limit("DATA", "2*page + end_data - start_data"),))
    result = sweep(replace(wanted, x=Axis("start_brk", "lowest - 40", "lowest + 40")))
    assert [edge.text for edge in result.boundaries if edge.slope] == ["brk = start_brk + 2*page"]
    straight = [edge.text for edge in result.boundaries if not edge.slope]
    low = hex(FACTS.lowest)
    assert straight == [f"start_brk = lowest = {low}", f"brk = lowest = {low}"]


# ---- what a result says -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_the_table_holds_every_call(name: str) -> None:
    result = swept(name)
    frame = result.frame()
    assert len(frame) == result.calls == len(result.x) * len(result.y)
    members = [axis.member for axis in result.sweep.axes]
    assert list(frame) == [*members, "verdict", "predicted", "rule", "agrees"]
    for row, column in some_cells(result, 50):
        cell = result.call_at(row, column)
        line = frame.iloc[row * len(result.x) + column]
        assert [int(line[m]) for m in members] == [cell.x, cell.y][: len(members)]
        rule = result.rule(cell.rule)
        assert line["rule"] == (rule.id if rule else "")
        assert (line["verdict"], line["predicted"]) == (
            verdict_name(cell.errno), verdict_name(cell.predicted)
        )  # fmt: skip
    assert frame.agrees.all()
    assert frame.memory_usage(deep=True).sum() < 25 * len(frame) + 10_000


@pytest.mark.parametrize("name", SHIPPED)
def test_counts_are_what_counting_the_table_gives(name: str) -> None:
    result = swept(name)
    frame = result.frame()
    by_rule = Counter(frame.rule.tolist())
    assert {region.id: region.calls for region in result.regions} == by_rule
    assert result.verdicts == Counter(frame.verdict.tolist())
    data = json.loads(json.dumps(result.data()))
    assert data["rules"] == {rule or "accepted": count for rule, count in by_rule.items()}
    assert (data["calls"], data["disagreements"], data["examples"]) == (len(frame), 0, [])
    for region in result.regions:
        members = frame[frame.rule == region.id]
        assert set(members.predicted) == {region.verdict}
    text = result.text()
    assert all(len(line) <= 80 for line in text.splitlines())
    if result.sweep.y is not None:
        for region in result.regions:
            assert f"  {region.calls:,} " in text


@pytest.mark.parametrize("name", [name for name in SHIPPED if SHIPPED[name].y is None])
def test_intervals_cover_the_axis_and_say_what_each_cell_says(name: str) -> None:
    result = swept(name)
    parts = result.intervals()
    assert parts[0][0] == int(result.x[0])
    assert parts[-1][1] == int(result.x[-1])
    for (_, last, *_), (first, *_) in pairwise(parts):
        assert first == last + 1
    for value, code in zip(result.x.tolist(), result.deciding[0].tolist(), strict=True):
        (rule,) = [rule for first, last, rule, _ in parts if first <= value <= last]
        assert rule is result.rule(code)
    assert all(f"  {first:#x} " in result.text() for first, *_ in parts)


def test_the_text_of_a_sweep() -> None:
    result = sweep(Sweep("edge", Axis("arg_end", "highest - 1", "highest + 2"), title="Over"))
    low, high = FACTS.highest - 1, FACTS.highest
    assert result.text().splitlines() == [
        "edge: Over",
        f"  arg_end: 4 values, highest - 1 to highest + 2, {low:#x} to",
        f"      {high + 2:#x}",
        "",
        "  from            to              verdict   rule           begins at",
        f"  {low:#x}  {high:#x}  accepted                 highest - 1",
        f"  {high + 1:#x}  {high + 2:#x}  EINVAL    range.arg_end  highest + 1",
        "",
        "  4 calls, 2 accepted, no disagreement",
        f"  Linux {FACTS.release}",
    ]
    assert result.summary() == (
        f"edge on Linux {FACTS.release}: 4 calls, 2 accepted, no disagreement"
    )


def test_a_list_that_is_long_is_cut_in_the_text_only() -> None:
    """Every other descriptor is closed."""
    setup = [Open(f"d{number}", "/") for number in range(100)]
    result = sweep(Sweep("many", Axis("exe_fd", 0, 199), setup=tuple(setup)))
    assert len(result.text().splitlines()) < 60
    assert result.disagreements == 0


def test_a_call_that_disagrees_is_counted_once() -> None:
    """A call at a boundary may be one of the grid."""
    result = sweep(Sweep("one", Axis("brk", "start_brk - 2", "start_brk + 2")))
    assert result.boundary_calls == ()
    wrong = replace(result, predicted=np.full_like(result.predicted, 1))
    assert wrong.disagreements == 5
    assert len(wrong.examples(3)) == 3


# ---- bad input ----------------------------------------------------------------------------------

BRK = Axis("brk", 0, 1)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"x": Axis("brq", 0, 1)},
         "sweep \"s\": x.member: 'brq' is not a member of struct prctl_mm_map; expected brk?"),
        ({"x": Axis("brk", "end_dta", 1)},
         "sweep \"s\": x.from: 'end_dta' is not a known name; expected end_data?"),
        ({"x": BRK, "y": Axis("auxv", 0, "import os")},
         "sweep \"s\": y.to: 'import os' is not a formula; expected numbers, names,"),
        ({"x": Axis("brk", 0, 1 << 64)},
         'sweep "s": x.to: 0x10000000000000000 does not fit; expected 0 to 0xffffffffffffffff'),
        ({"x": Axis("exe_fd", 0, 1 << 32)},
         'sweep "s": x.to: 0x100000000 does not fit; expected 0 to 0xffffffff'),
        ({"x": Axis("brk", 0, 1.5)},  # type: ignore[arg-type]
         'sweep "s": x.to: 1.5 is not a whole number or a formula;'),
        ({"x": Axis("brk", 0, 1, 1)},
         'sweep "s": x.count: 0x1 is no number of values; expected 0x2 to 0x1000000'),
        ({"x": Axis("brk", 0, 1, True)}, 'sweep "s": x.count: true is no number of values;'),
        ({"x": Axis("brk", 0, 1, 2.0)},  # type: ignore[arg-type]
         'sweep "s": x.count: 2.0 is no number of values;'),
        ({"x": BRK, "y": BRK},
         'sweep "s": y.member: brk is swept along x already; expected another member'),
        ({"x": Axis("brk", 0, 1, 4097), "y": Axis("auxv", 0, 1, 4096)},
         'sweep "s": 0x1001000 calls are too many for one sweep; expected at most 0x1000000'),
        ({"x": BRK, "change": {"brk": 1}},
         'sweep "s": change.brk: is swept; expected an axis or a change, not both'),
        ({"x": BRK, "change": {"arg_start": "arg_end", "arg_end": "arg_start"}},
         'sweep "s": change.arg_start: needs itself: arg_start -> arg_end -> arg_start;'),
        ({"x": BRK, "change": {"argend": 1}}, "sweep \"s\": change: 'argend' is not a member of"),
        ({"x": BRK, "setup": (Map("a", permissions="x"),)}, 'sweep "s": setup[0].permissions: '),
        ({"x": BRK, "specimen": Subject("huge")}, "sweep \"s\": specimen.build: 'huge' is not a"),
    ],
)  # fmt: skip
def test_what_is_no_sweep_is_refused_before_anything_runs(
    wanted: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as refused:
        Sweep("s", **wanted)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"x": Axis("brk", "lowest + 1", "lowest")},
         f'sweep "s": x.to: {FACTS.lowest:#x} lies below the other end; '
         f"expected {FACTS.lowest + 1:#x} or more"),
        ({"x": Axis("brk", "lowest - 1 - lowest", "lowest")},
         'sweep "s": x.from: -0x1 does not fit; expected 0 to 0xffffffffffffffff'),
        ({"x": Axis("exe_fd", 0, "page << 24")},
         'sweep "s": x.to: 0x1000000000 does not fit; expected 0 to 0xffffffff'),
        ({"x": BRK, "change": {"auxv": "brk - 1"}},
         'sweep "s": change.auxv: -0x1 does not fit; expected 0 to 0xffffffffffffffff'),
        ({"x": BRK, "change": {"auxv": "1 // brk"}},
         "sweep \"s\": change.auxv: '1 // brk' divides by zero"),
        ({"x": Axis("exe_fd", 0, 9000, 9001)},
         "exe_fd: 0x2329 different values are too many to ask the kernel about each;"),
    ],
)  # fmt: skip
def test_what_only_a_specimen_shows_to_be_wrong_is_refused_as_well(
    wanted: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as refused:
        sweep(Sweep("s", **wanted))
    assert str(refused.value).startswith(sentence)


def test_a_setup_that_the_kernel_refuses_is_named() -> None:
    with pytest.raises(SetupError) as refused:
        sweep(Sweep("s", BRK, setup=(Open("f", "/none/at/all"),)))
    assert str(refused.value).startswith('sweep "s": setup[0]: the kernel refused openat(')


# ---- recipes ------------------------------------------------------------------------------------

HEAD = 'schema = "prctlmm-lab/recipe/1"\n[[sweep]]\n'
ONE = f'{HEAD}id = "s"\nx = {{ member = "brk", from = 0, to = 1 }}\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEAD, "sweep[0].id: is missing"),
        (f'{HEAD}id = "s"', 'sweep "s": x: is missing'),
        (f'{HEAD}id = "s"\nx = "brk"', "sweep \"s\": x: 'brk' is not a table;"),
        (f'{HEAD}id = "s"\nx.member = "brk"', 'sweep "s": x.from: is missing'),
        (f'{HEAD}id = "s"\nx = {{ member = "brk", first = 1 }}',
         "sweep \"s\": x: 'first' is not a known key; expected one of member, from, to, count"),
        (f'{ONE}x.count = "4"', "is not TOML"),
        (f'{ONE}y = {{ member = "auxv", from = 0, to = 1, count = "4" }}',
         "sweep \"s\": y.count: '4' is of the wrong type; expected a whole number"),
        (f'{ONE}y = {{ member = "auxv", from = [], to = 1 }}',
         'sweep "s": y.from: [] is of the wrong type; expected a whole number or a formula'),
        (f"{ONE}call.size = 3", "sweep \"s\": 'call' is not a known key;"),
        (f"{ONE}{ONE.partition(chr(10))[2]}", "sweep[1].id: 's' is used twice"),
        (f"{ONE}change.brk = 3", 'sweep "s": change.brk: is swept;'),
        ('schema = "prctlmm-lab/recipe/1"\nsweep = 3', "sweep: must be written as [[sweep]] "),
    ],
)  # fmt: skip
def test_a_recipe_of_no_sweep_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_recipe(text, "file")
    assert str(refused.value).startswith(f"file: {sentence}")


def test_sweeps_are_written_as_they_are_read() -> None:
    recipe = shipped_recipes()["sweeps"]
    assert parse_recipe(recipe_text(recipe)) == recipe
    assert not recipe.experiments
    both = Recipe("both", (Experiment("one"),), recipe.sweeps)
    assert parse_recipe(recipe_text(both)) == both
    assert "from = " in recipe_text(both)
    for wanted in recipe.sweeps:
        assert wanted.title
        assert wanted.explanation
        assert pickle.loads(pickle.dumps(wanted)) == wanted  # noqa: S301 - our own
        assert copy.deepcopy(wanted) == wanted


def test_a_recipe_with_sweeps_is_read_without_numpy() -> None:
    program = (
        "import sys; from prctlmm_lab.experiments.recipe import shipped_recipes\n"
        "assert shipped_recipes()['sweeps'].sweeps; print('numpy' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert (told.stdout, told.stderr) == ("False\n", "")


# ---- everywhere ---------------------------------------------------------------------------------

ALL_AS_SOMEBODY = """
import json, os
from prctlmm_lab import sweep
from prctlmm_lab.experiments.recipe import shipped_recipes
told = {w.id: sweep(w).data() for w in shipped_recipes()["sweeps"].sweeps}
print(json.dumps([os.getuid(), told]))
"""


def test_an_ordinary_user_sees_the_same() -> None:
    needs_ordinary_user()
    needs_user_namespaces()
    told = as_ordinary_user(ALL_AS_SOMEBODY)
    assert told.returncode == 0, told.stderr
    uid, seen = json.loads(told.stdout)
    assert uid != 0
    for name, data in seen.items():
        assert data["disagreements"] == 0
        assert data["rules"] == swept(name).data()["rules"], name


def test_on_the_other_build_kernel_and_rules_agree_too() -> None:
    for name, wanted in SHIPPED.items():
        if name != "descriptors":
            subject = replace(wanted.specimen, build="static-pie")
            assert sweep(replace(wanted, specimen=subject)).disagreements == 0, name


MILLION = r"""
import re
from pathlib import Path
from prctlmm_lab import Axis, Sweep, sweep
sides = [Axis(member, "lowest - page", "lowest + 9*page", 1000) for member in ("start_brk", "brk")]
result = sweep(Sweep("million", *sides, change={"arg_end": "brk + start_brk - start_brk"}))
frame = result.frame()
assert len(frame) == 1_000_000 and frame.agrees.all()
(most,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
print(most)
"""


def test_a_million_maps_take_little_memory() -> None:
    told = subprocess.run(
        [sys.executable, "-c", MILLION], capture_output=True, text=True, timeout=120,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert told.stderr == ""
    assert int(told.stdout) < 400 * 1024, "KiB"


def test_each_side_of_a_boundary_is_explained_one_by_one() -> None:
    """Against `explain`, in a specimen with the same set-up."""
    wanted = replace(SHIPPED["limit"], specimen=Subject(randomize=False))
    result = sweep(wanted)
    with wanted.specimen.start() as specimen:
        take_steps(wanted.setup, specimen, FACTS, "")
        for edge in result.boundaries:
            for call in (edge.below, edge.above):
                _assert_explained(specimen, result, call)


def _assert_explained(specimen: Specimen, result: SweepResult, call: SweptCall) -> None:
    new = result.base.changed(end_data=call.x, brk=call.y)
    explanation = explain(situation_of(specimen, new), FACTS)
    assert explanation.errno == call.predicted == call.errno
    decided = explanation.deciding.rule.id if explanation.deciding else ""
    rule = result.rule(call.rule)
    assert decided == (rule.id if rule else "")
    assert (call.rule == ACCEPTED) == (not decided)
