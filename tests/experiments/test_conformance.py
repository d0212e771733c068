"""Conformance: the cases say what is true here, none is empty, and the report is KTAP."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from prctlmm_lab.cli import main
from prctlmm_lab.errors import InputError, SpecimenStartError
from prctlmm_lab.experiments.conformance import (
    FAIL,
    PASS,
    SKIP,
    CaseResult,
    cases,
    citation,
    conformance,
    examine,
    header,
    ktap,
    places,
)
from prctlmm_lab.experiments.experiment import Call, Experiment, Subject, run
from prctlmm_lab.experiments.needs import unmet
from prctlmm_lab.experiments.recipe import parse_recipe, read_recipe, recipe_text
from prctlmm_lab.experiments.steps import Brk, Open, Read, Unmap, UserNamespace
from prctlmm_lab.kernel import effects, rules
from prctlmm_lab.kernel.abi import ADDRESSES, Operation
from prctlmm_lab.kernel.effects import EFFECT
from prctlmm_lab.kernel.legacy import LEGACY_RULE
from prctlmm_lab.kernel.rules import RULE, RULES
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.situation import may_set_members
from tests.needs import needs_ordinary_user, needs_user_namespaces
from tests.ordinary_user import ROOT, as_ordinary_user

FACTS = facts_here()
CASES = cases()
FOLDER = ROOT / "data" / "recipes" / "conformance"
ALL = [case for of_group in CASES.values() for case in of_group]


# ---- the cases ----------------------------------------------------------------------------------


def test_there_are_many_and_each_is_named_once() -> None:
    assert len(ALL) >= 150
    assert [name for name, count in Counter(case.id for case in ALL).items() if count > 1] == []
    assert list(CASES) == sorted(path.stem for path in FOLDER.iterdir())


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_each_says_what_it_shows_and_what_it_cites(case: Experiment) -> None:
    assert case.title
    assert case.explanation.endswith(".")
    assert case.rule or case.effect
    assert places(case)
    assert re.fullmatch(r"[a-z0-9_.-]+", case.id)
    assert not case.predict


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.stem)
def test_each_recipe_reads_as_it_was_written(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.title
    assert parse_recipe(recipe_text(recipe)) == recipe


def test_every_rule_effect_and_requirement_is_cited() -> None:
    cited = {case.rule for case in ALL} | {case.effect for case in ALL}
    # An experiment makes one call, and this rule of v3.18 to v4.9 is about the second.
    assert (set(RULE) | set(LEGACY_RULE) | set(EFFECT)) - cited == {"exe.once"}
    assert {place for case in ALL for place in places(case)} >= set("1234567")


def test_each_bound_has_both_sides_for_each_address() -> None:
    ids = {case.id for case in CASES["range"]}
    for member in ADDRESSES:
        sides = ("lowest", "highest", "below_lowest", "above_highest")
        assert ids >= {f"range.{member}.{side}" for side in sides}


# ---- this kernel --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here() -> dict[str, CaseResult]:
    return {told.case: told for told in conformance(CASES)}


def test_the_kernel_does_as_every_case_says(here: dict[str, CaseResult]) -> None:
    assert [told for told in here.values() if told.result == FAIL] == []
    assert list(here) == [case.id for case in ALL]


def why_not_here(case: Experiment, *, capable: bool) -> bool:
    """Tell whether a case cannot be shown here, as far as a kernel and its capabilities decide."""
    of_members = case.call.number not in (Operation.MAP, Operation.MAP_SIZE)
    before = case.rule in ("legacy.arguments", "legacy.permission")
    needs = [*case.needs, *([case.rule] if case.rule else [])]
    return (of_members and not before and not capable) or any(unmet(n, FACTS) for n in needs)


def test_nothing_is_skipped_that_could_be_shown(here: dict[str, CaseResult]) -> None:
    needs_user_namespaces()
    with Specimen() as specimen:
        capable = may_set_members(specimen.snapshot())
        ordinary = specimen.syscall("geteuid") != 0
    skipped = {case.id for case in ALL if why_not_here(case, capable=capable)}
    skipped |= {"identities.uid_65534"} if ordinary else set()
    assert {told.case for told in here.values() if told.result == SKIP} == skipped
    assert all(told.reasons[0] for told in here.values() if told.result == SKIP)


@pytest.mark.parametrize(
    "case",
    [c for c in ALL if c.effect and not c.rule and not why_not_here(c, capable=False)],
    ids=lambda case: case.id,
)
def test_the_effect_that_a_case_is_about_can_be_seen(case: Experiment) -> None:
    """An accepted case that changed nothing would pass for any specification of its effect."""
    if any(isinstance(step, UserNamespace) for step in case.setup):
        needs_user_namespaces()
    record = run(case)
    seen = {place for place, *_ in record.difference}
    columns = {f"{place} {name}" for place, name, *_ in record.difference}
    labels = [row for row in record.difference if row[0] == "maps"]
    shown = {
        "unchanged": record.difference == (),
        "stat": "stat" in seen,
        "statm.text": "statm text" in columns,
        "status.code": "status VmExe" in columns or "status VmLib" in columns,
        "maps.heap": any("[heap]" in text for row in labels for text in row),
        "maps.stack": any("[stack]" in text for row in labels for text in row),
        "brk": "brk()" in seen,
    }
    of_brk = case.effect.startswith("brk.") and any(answer.expected for answer in record.answers)
    assert shown.get(case.effect, case.effect in seen or of_brk)


def test_an_ordinary_user_sees_the_same(here: dict[str, CaseResult]) -> None:
    needs_ordinary_user()
    needs_user_namespaces()
    told = as_ordinary_user([sys.executable, "-m", "prctlmm_lab", "conformance", "--json"])
    assert told.returncode == 0, told.stderr
    seen = {entry["case"]: entry for entry in map(json.loads, told.stdout.splitlines())}
    assert list(seen) == list(here)
    for name, entry in seen.items():
        if here[name].result == entry["result"] == PASS:
            assert entry["expected"] == here[name].expected
    more = {name for name in seen if (seen[name]["result"] == SKIP) != (here[name].result == SKIP)}
    legacy = {case.id for case in CASES["legacy"]}
    assert more - legacy <= {"identities.uid_65534"}


# ---- what fails, and what is skipped ------------------------------------------------------------


def judged(**parts: object) -> CaseResult:
    return examine(Experiment("x", **parts), FACTS)  # type: ignore[arg-type]


def test_a_case_that_is_refused_must_name_the_rule() -> None:
    told = judged(change={"end_code": "before.start_code"})
    assert told.result == FAIL
    assert told.reasons == ("rule: the case is to be accepted, order.code decides",)
    told = judged(change={"end_code": "before.start_code"}, rule="order.env")
    assert told.reasons == ("rule: the recipe aims at order.env, order.code decides",)
    assert judged(change={"end_code": "before.start_code"}, rule="order.code").result == PASS


def test_a_case_whose_specimen_ends_fails_and_the_next_one_runs() -> None:
    ends = Experiment("ends", after=(Unmap("page_down(start_code)"),))
    first, second = conformance({"group": (ends, Experiment("goes on"))})
    assert (first.result, second.result) == (FAIL, PASS)
    assert "was killed by SIGSEGV" in first.reasons[0]


def test_a_case_whose_specimen_ends_before_the_call_fails() -> None:
    told = judged(setup=(Unmap("page_down(start_code)"),))
    assert told.result == FAIL
    assert "was killed by SIGSEGV" in told.reasons[0]
    assert told.kernel == ""


def test_a_case_of_values_that_make_no_sense_fails() -> None:
    told = judged(change={"brk": "before.start_code - before.start_stack"})
    assert told.result == FAIL
    assert "does not fit" in told.reasons[0]


def test_a_step_that_is_not_answered_as_expected_fails() -> None:
    told = judged(after=(Brk(0, expect="brk + 1"),))
    assert told.result == FAIL
    assert re.fullmatch(r"after\[0\] brk: expected 0x\w+, kernel 0x\w+", told.reasons[0])
    assert judged(after=(Brk("brk + page", expect="brk + page"),)).result == PASS
    told = judged(after=(Read("highest", expect=0),))
    assert re.match(r"after\[0\] read: expected 0x0, kernel \w+\(.* = EFAULT", told.reasons[0])


def test_a_step_that_is_refused_fails() -> None:
    told = judged(after=(Unmap(1),))
    assert told.result == FAIL
    assert re.match(r"after\[0\] unmap: munmap\(.* = EINVAL", told.reasons[0])


def test_a_preparation_that_the_kernel_refuses_is_a_skip() -> None:
    told = judged(setup=(Open("file", "/nowhere/at/all"),))
    assert told.result == SKIP
    assert told.reasons[0].startswith("the kernel refused openat(")
    assert "ENOENT" in told.reasons[0]


def test_what_this_kernel_does_not_do_is_a_skip() -> None:
    facts = replace(FACTS, heap_below_data_accepted=True, empty_data_accepted=False)
    case = Experiment("x", rule="heap.above_data")
    assert examine(case, facts).reasons[0].startswith("this kernel does not make the check heap.")
    case = Experiment("x", needs=("not order.data_strict",))
    assert examine(case, facts).reasons[0].startswith("this kernel makes the check order.data_st")
    case = Experiment("x", needs=("available", "not hole_shrinks"))
    told = examine(case, replace(facts, hole_shrinks=True))
    assert told.reasons == ("of this kernel the fact hole_shrinks is true",)


def test_without_the_call_only_other_operations_are_left() -> None:
    facts = replace(FACTS, available=False, refusal_errno=1)
    for case in (Experiment("x"), Experiment("x", call=Call(operation="MAP_SIZE", value=0))):
        told = examine(case, facts)
        assert told.reasons == ("this kernel does not have the call (CONFIG_CHECKPOINT_RESTORE)",)
    case = Experiment("x", rule="legacy.arguments", call=Call(operation="BRK", value="brk", arg5=1))
    assert examine(case, facts).result == PASS


def test_no_specimen_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: Subject) -> Specimen:
        raise SpecimenStartError(0, "posix_spawn", ("no",))

    monkeypatch.setattr(Subject, "start", none)
    with pytest.raises(SpecimenStartError):
        list(conformance({"group": (Experiment("x"),)}))


def test_a_wrong_rule_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Break the specification: it no longer knows that code must not be empty."""
    monkeypatch.setattr(rules, "RULES", tuple(rule for rule in RULES if rule.id != "order.code"))
    assert main(["conformance", "order.code"]) == 1
    told = read_ktap(capsys.readouterr().out.splitlines())
    failed = {test.name: test for test in told.tests[0].tests if not test.ok}
    assert list(failed) == ["order.code.equal", "order.code.reversed"]
    assert failed["order.code.equal"].notes == [
        "order.code.equal: Code of no byte",
        "cites rule order.code (validate_prctl_map_addr, __prctl_check_order); "
        'requirement "3" of f606b77f1a (the start of each pair lies below its end)',
        "expected accepted, got EINVAL",
        "verdict: predicted accepted, kernel EINVAL",
        "rule: the recipe aims at order.code, none decides",
    ]
    assert not told.tests[0].ok


def test_a_wrong_effect_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the specification: it takes the end of a VMA for outside."""
    monkeypatch.setattr(effects, "is_heap", lambda vma, new, _: vma.start <= new.brk < vma.end)
    wrong = [t.case for t in conformance(cases(["heap-labels"])) if t.result == FAIL]
    assert "heap-labels.moved" in wrong
    assert "heap-labels.nowhere" not in wrong


# ---- KTAP ---------------------------------------------------------------------------------------


@dataclass
class Test:
    """One test of a report, as an independent reader of KTAP understands it."""

    __test__ = False
    ok: bool
    name: str
    skip: str | None = None
    notes: list[str] = field(default_factory=list)
    tests: list[Test] = field(default_factory=list)


def read_ktap(lines: list[str]) -> Test:
    """Read a report; every line must be one that Documentation/dev-tools/ktap.rst knows."""
    rest = iter(lines)
    assert next(rest) == "KTAP version 1"
    top = Test(True, "")
    top.tests, end = read_tests(rest, "", top)
    assert end == ""
    return top


def read_tests(rest: Iterator[str], indent: str, parent: Test) -> tuple[list[Test], str]:
    """Read the plan and results of one level; `parent` gets the notes at its end."""
    plan, found, notes, inner = None, list[Test](), list[str](), list[Test]()
    for line in rest:
        assert line.startswith(indent), line
        text = line.removeprefix(indent)
        if text == "  KTAP version 1":
            nested = Test(True, "")
            inner, line = read_tests(rest, indent + "  ", nested)
            text = line.removeprefix(indent)
        if plan is None and (planned := re.fullmatch(r"1\.\.(\d+)", text)):
            plan = int(planned[1])
            notes = []
        elif text.startswith("# "):
            notes.append(text.removeprefix("# "))
        else:
            result = re.fullmatch(r"(ok|not ok) (\d+) ([^#]*?)(?: # SKIP (.*))?", text)
            assert result, text
            found.append(Test(result[1] == "ok", result[3], result[4], notes, inner))
            assert int(result[2]) == len(found)
            assert all(test.ok for test in inner) or not found[-1].ok
            notes, inner = [], []
        if len(found) == plan and indent:
            return found, next(rest)
    parent.notes = notes
    assert len(found) == plan
    return found, ""


def test_the_report_is_ktap(here: dict[str, CaseResult]) -> None:
    heading = header(FACTS, 1000, CASES)
    lines = list(ktap(CASES, iter(here.values()), heading))
    told = read_ktap(lines)
    assert [test.name for test in told.tests] == list(CASES)
    for test, of_group in zip(told.tests, CASES.values(), strict=True):
        assert [inner.name for inner in test.tests] == [case.id for case in of_group]
        for inner in test.tests:
            result = here[inner.name]
            assert inner.ok
            assert inner.skip == (" ".join(result.reasons) if result.result == SKIP else None)
    counts = Counter(result.result for result in here.values())
    assert told.notes == [
        f"Totals: pass:{counts[PASS]} fail:0 xfail:0 xpass:0 skip:{counts[SKIP]} error:0"
    ]


def test_the_report_names_the_kernel_and_nobody() -> None:
    lines = list(ktap({}, [], header(FACTS, 1000, CASES)))
    assert lines[1].startswith("# prctl(PR_SET_MM, PR_SET_MM_MAP): ")
    assert lines[2] == f"# Linux {FACTS.release} {FACTS.machine}, uid 1000"


def result(name: str, **parts: object) -> CaseResult:
    blank = CaseResult("group", name, "A title", "", "", (), PASS, "accepted", "accepted", ())
    return replace(blank, **parts)  # type: ignore[arg-type]


def test_no_text_can_be_taken_for_a_directive() -> None:
    group = {"#1": tuple(Experiment(name) for name in ("a # SKIP", "b", "c"))}
    results = [
        result("a # SKIP"),
        result("b", result=SKIP, reasons=("line one\nok 9 # not",)),
        result("c", result=FAIL, title="not\nok 1", reasons=("# SKIP\n  ok 4",), kernel=""),
    ]
    lines = list(ktap(group, results, ["a\nb"]))
    told = read_ktap(lines)
    assert lines[1] == "# a\\nb"
    (outer,) = told.tests
    assert (outer.ok, outer.name) == (False, "?1")
    assert [(test.ok, test.name) for test in outer.tests] == [
        (True, "a ? SKIP"), (True, "b"), (False, "c"),
    ]  # fmt: skip
    assert outer.tests[1].skip == "line one\\nok 9 ? not"
    assert outer.tests[2].notes[-2:] == ["expected accepted, got no answer", "? SKIP\\n  ok 4"]


def test_a_group_of_which_nothing_could_be_shown_is_a_skip() -> None:
    group = {"all": (Experiment("a"), Experiment("b"))}
    results = [result(name, result=SKIP, reasons=("why",)) for name in "ab"]
    (outer,) = read_ktap(list(ktap(group, results, []))).tests
    assert (outer.ok, outer.skip) == (True, "all of its cases")


def test_each_line_is_told_as_soon_as_it_is_known() -> None:
    def results() -> Iterator[CaseResult]:
        yield result("a")
        raise InputError("x", "stop")

    lines = ktap({"group": (Experiment("a"), Experiment("b"))}, results(), [])
    told: list[str] = []
    with pytest.raises(InputError, match="stop"):
        told.extend(lines)
    assert told[-1] == "  ok 1 a"


def test_a_citation_names_sources_and_places() -> None:
    told = result("x", rule="limit.data", effect="nothing", places=("5", "bundle"))
    assert citation(told) == (
        "rule limit.data (check_data_rlimit); effect nothing (prctl_set_mm_map); "
        'requirement "5" of f606b77f1a (the new values stay within RLIMIT_DATA, and RLIMIT_STACK); '
        'paragraph "bundle" of f606b77f1a (all new values come at once, and are judged together)'
    )


# ---- choosing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("order", {c.id for c in CASES["order"]}),
        ("order.code", {"order.code.equal", "order.code.one_byte", "order.code.reversed"}),
        ("order.code.equal", {"order.code.equal"}),
        ("stat", {c.id for c in CASES["stat"]}),
        ("limit.stack", {"limit.stack.not_asked", "limit.stack.strings_not_asked"}),
    ],
)
def test_a_name_chooses_a_subject_or_the_beginning_of_cases(name: str, chosen: set[str]) -> None:
    assert {case.id for of_group in cases([name]).values() for case in of_group} == chosen


def test_several_names_choose_what_any_of_them_does() -> None:
    chosen = cases(["order.code.equal", "exe.none", "order.code"])
    assert {group: len(of_group) for group, of_group in chosen.items()} == {"exe": 1, "order": 3}


@pytest.mark.parametrize(
    ("name", "expected"), [("oder", "order?"), ("", "one of"), ("order.cod", "order")]
)
def test_a_name_that_chooses_nothing_is_refused(name: str, expected: str) -> None:
    with pytest.raises(InputError, match="is not a case, nor the beginning of one") as refused:
        cases([name])
    assert refused.value.expected.startswith(expected)


# ---- on a bare Python ---------------------------------------------------------------------------

BARE = """
import sys
sys.path.insert(0, sys.argv.pop(1))

class OnlyTheStandardLibrary:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "prctlmm_lab":
            raise ImportError(f"{name} is not of the standard library")

sys.meta_path.insert(0, OnlyTheStandardLibrary())
try:
    import numpy
except ImportError as error:
    assert "standard library" in str(error)
else:
    raise SystemExit("the hook lets everything pass")
from prctlmm_lab.cli import main
status = main()
strangers = [
    name for name, found in sys.modules.items()
    if "site-packages" in (getattr(found, "__file__", None) or "")
]
assert not strangers, strangers
sys.exit(status)
"""


def test_a_copy_of_the_source_runs_on_the_standard_library_alone(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "prctlmm_lab", tmp_path / "prctlmm_lab", ignore=ignored)
    shutil.copytree(ROOT / "data" / "recipes", tmp_path / "data" / "recipes")
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", BARE, str(tmp_path), "conformance"],
        cwd="/",
        env={},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (told.returncode, told.stderr) == (0, "")
    report = read_ktap(told.stdout.splitlines())
    assert [test.name for test in report.tests] == list(CASES)
