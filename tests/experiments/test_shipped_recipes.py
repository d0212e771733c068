"""The recipes in data/recipes: they say what is true, on both builds, as root and as anybody."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.recipe import parse_recipe, read_recipe, recipe_text, shipped_recipes
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.steps import UserNamespace
from prctlmm_lab.kernel.rules import rules_of
from prctlmm_lab.specimen.build import BUILDS
from prctlmm_lab.specimen.probe import facts_here
from tests.needs import needs_ordinary_user, needs_tool, needs_user_namespaces
from tests.ordinary_user import ROOT, as_ordinary_user

FOLDER = ROOT / "data" / "recipes"
FILES = sorted(FOLDER.glob("*.toml"))
PAGE = os.sysconf("SC_PAGE_SIZE")
ALL = {
    f"{name}/{experiment.id}": experiment
    for name, recipe in shipped_recipes().items()
    for experiment in recipe.experiments
}


def shipped(name: str, identity: str) -> Experiment:
    return next(e for e in shipped_recipes()[name].experiments if e.id == identity)


def done(name: str, identity: str) -> Record:
    experiment = shipped(name, identity)
    if any(isinstance(step, UserNamespace) for step in experiment.setup):
        needs_user_namespaces()
    return run(experiment)


# ---- all of them --------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", ALL)
def test_the_kernel_does_as_the_recipe_says(name: str, build: str) -> None:
    experiment = ALL[name]
    if any(isinstance(step, UserNamespace) for step in experiment.setup):
        needs_user_namespaces()
    subject = replace(experiment.specimen, build=build)
    record = run(replace(experiment, specimen=subject))
    assert record.agreement.disagreements == ()
    assert record.agreement.verdict
    assert record.agreement.effects
    assert record.agreement.rule is (True if experiment.rule else None)
    assert not record.outcome.ended
    if name.startswith("refusals/"):
        assert record.prediction.rule == experiment.rule == experiment.id
        assert record.outcome.errno
        assert record.difference == ()
    elif not experiment.rule and not name.startswith("kernels/"):
        assert record.outcome.verdict == "accepted"
    assert not any(answer.refusal for answer in record.answers)


ALL_AS_SOMEBODY = """
import json
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab import run, SystemCallError
told = {}
for name, recipe in shipped_recipes().items():
    for experiment in recipe.experiments:
        record = run(experiment)
        told[f"{name}/{experiment.id}"] = [
            record.privilege.uid, record.outcome.verdict, record.agreement.disagreements
        ]
print(json.dumps(told))
"""


def test_an_ordinary_user_sees_the_same() -> None:
    needs_ordinary_user()
    needs_user_namespaces()
    told = as_ordinary_user(ALL_AS_SOMEBODY)
    assert told.returncode == 0, told.stderr
    seen = json.loads(told.stdout)
    assert len(seen) == len(ALL)
    ours = {name: run(experiment).outcome.verdict for name, experiment in ALL.items()}
    assert {name: verdict for name, (_, verdict, _) in seen.items()} == ours
    assert all(disagreements == [] for _, _, disagreements in seen.values())
    assert {uid for uid, _, _ in seen.values()} == {os.getuid() or 65534}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_reads_as_it_was_written(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.title
    assert all(experiment.title for experiment in recipe.experiments)
    assert parse_recipe(recipe_text(recipe)) == recipe
    assert shipped_recipes()[path.stem] == recipe


def test_every_rule_of_this_kernel_is_made_to_refuse() -> None:
    facts = facts_here()
    rules = {rule.id for rule in rules_of(facts)}
    # Where the kernel has the call, nothing can make this rule refuse.
    rules -= {"call.option"} if facts.available else set()
    aims = {experiment.rule for experiment in shipped_recipes()["refusals"].experiments}
    assert aims == rules


@pytest.mark.parametrize(
    ("name", "identities"),
    {
        "identity": ["identity"],
        "command-line": ["own-memory"],
        "environment": ["environment-moved"],
        "heap": ["heap-up", "heap-down"],
        "stack": ["stack-label-moved"],
        "code-and-data": ["code-of-a-gibibyte", "data-of-nothing"],
        "auxv": ["auxv-replaced"],
        "exe": ["exe-changed", "exe-refused-while-mapped"],
    }.items(),
)
def test_what_was_asked_for_is_there(name: str, identities: list[str]) -> None:
    assert {e.id for e in shipped_recipes()[name].experiments} >= set(identities)


# ---- what each says in words --------------------------------------------------------------------


def test_identity_changes_nothing() -> None:
    record = done("identity", "identity")
    assert record.difference == ()
    assert record.view_after == record.before


@pytest.mark.parametrize(
    ("identity", "cmdline"),
    [("own-memory", "a-new-name\0--with\0arguments\0"), ("empty", ""), ("unmapped", ""),
     ("file-backed", "")],
)  # fmt: skip
def test_the_command_line_is_what_its_bounds_hold(identity: str, cmdline: str) -> None:
    record = done("command-line", identity)
    assert record.view_after
    assert record.view_after.cmdline == cmdline


def test_the_data_page_would_hold_text_were_it_anonymous() -> None:
    with shipped("command-line", "file-backed").specimen.start() as specimen:
        own = specimen.current_map()
        assert specimen.read(own.start_data, own.end_data - own.start_data).strip(b"\0")
        vma = specimen.snapshot().vma_at(own.start_data)
        assert vma
        assert not vma.is_anonymous


def test_ps_shows_a_process_without_a_command_line_in_brackets() -> None:
    ps = needs_tool("ps")

    def shown(pid: int) -> str:
        return subprocess.run(
            [ps, "-o", "args=", "-p", str(pid)], capture_output=True, text=True, timeout=30
        ).stdout.strip()

    experiment = shipped("command-line", "empty")
    with experiment.specimen.start() as specimen:
        assert shown(specimen.pid) == "specimen"
        run(experiment, specimen=specimen)
        assert shown(specimen.pid) == "[specimen]"


def test_the_environment_moves() -> None:
    record = done("environment", "environment-moved")
    assert record.view_after
    assert record.view_after.environ == "HOME=/somewhere/else\0USER=nobody\0"
    assert record.before.environ == "LAB=prctlmm_lab\0"


def test_a_title_runs_on_into_the_environment() -> None:
    record = done("environment", "title-runs-on")
    assert record.view_after
    assert record.view_after.cmdline == "a title longer than its room\0"
    assert int(record.map["arg_end"], 16) - int(record.map["arg_start"], 16) == len("a title")


def regions(record: Record, name: str = "arena") -> tuple[int, int]:
    start, end = (record.before.regions or {})[name]
    return int(start, 16), int(end, 16)


def changed(rows: tuple[tuple[str, str, str, str], ...], place: str) -> dict[str, tuple[str, str]]:
    return {name: (before, after) for at, name, before, after in rows if at == place}


def test_the_heap_moves_up_and_brk_follows() -> None:
    record = done("heap", "heap-up")
    start, _ = regions(record)
    assert start > int(record.before.brk or "0", 16)
    assert record.answers[0].answer == hex(start + 2 * PAGE)
    grown = changed(record.later, "maps")
    assert grown == {f"{start:#x}-{start + 2 * PAGE:#x}": ("(none)", "rw-p [heap]")}


def test_the_heap_moves_below_the_program() -> None:
    record = done("heap", "heap-down")
    start = int(record.map["start_brk"], 16)
    assert start < int(record.map["start_code"], 16)
    assert record.answers[0].answer == hex(start + PAGE)
    assert changed(record.later, "maps")[f"{start:#x}-{start + PAGE:#x}"][1] == "rw-p [heap]"


def test_other_memory_is_called_heap() -> None:
    record = done("heap", "heap-label")
    start, end = regions(record)
    labels = changed(record.difference, "maps")
    assert labels.pop(f"{start:#x}-{end:#x}") == ("rw-p (anonymous)", "rw-p [heap]")
    assert list(labels.values()) == [("rw-p [heap]", "rw-p (anonymous)")]


def test_brk_unmaps_what_was_never_its_own() -> None:
    record = done("heap", "heap-shrinks")
    start, end = regions(record)
    assert record.answers[0].answer == hex(start + PAGE)
    assert changed(record.later, "maps") == {
        f"{start:#x}-{end:#x}": ("rw-p [heap]", "(none)"),
        f"{start:#x}-{start + PAGE:#x}": ("(none)", "rw-p [heap]"),
    }


def test_the_label_of_the_stack_moves() -> None:
    record = done("stack", "stack-label-moved")
    start, end = regions(record)
    labels = changed(record.difference, "maps")
    assert labels.pop(f"{start:#x}-{end:#x}") == ("rw-p (anonymous)", "rw-p [stack]")
    assert list(labels.values()) == [("rw-p [stack]", "rw-p (anonymous)")]


def test_the_label_of_the_stack_can_be_nowhere() -> None:
    record = done("stack", "stack-label-nowhere")
    assert record.view_after
    assert any(line.endswith("[stack]") for line in record.before.maps or ())
    assert not any(line.endswith("[stack]") for line in record.view_after.maps or ())


def test_statm_believes_a_gibibyte_of_code_and_status_does_not() -> None:
    record = done("code-and-data", "code-of-a-gibibyte")
    assert record.view_after
    assert isinstance(record.view_after.statm, dict)
    assert record.view_after.statm["text"] == (1 << 30) // PAGE
    assert isinstance(record.view_after.status, dict)
    executable = [
        line.split()[0] for line in record.view_after.maps or () if line.split()[1][2] == "x"
    ]
    mapped = sum(int(end, 16) - int(start, 16) for start, end in (r.split("-") for r in executable))
    held = sum(int(record.view_after.status[name].split()[0]) for name in ("VmExe", "VmLib"))
    assert held * 1024 <= mapped


def test_data_may_be_empty() -> None:
    record = done("code-and-data", "data-of-nothing")
    assert record.map["start_data"] == record.map["end_data"]


def test_data_leaves_the_heap_three_pages() -> None:
    record = done("code-and-data", "data-throttles-brk")
    brk = int(record.map["brk"], 16)
    assert [answer.answer for answer in record.answers] == [hex(brk), hex(brk + 3 * PAGE)]


@pytest.mark.parametrize(
    ("identity", "vector"),
    [
        ("auxv-replaced", [("AT_PAGESZ", "0x2000"), ("AT_UID", "0x1092"), ("AT_NULL", "0x0")]),
        ("auxv-ends-early", [("AT_NULL", "0x0")]),
    ],
)
def test_the_auxiliary_vector_is_shown_as_it_was_written(
    identity: str, vector: list[tuple[str, str]]
) -> None:
    record = done("auxv", identity)
    assert record.view_after
    assert list(record.view_after.auxv or ()) == ["=".join(entry) for entry in vector]


def test_the_exe_link_names_another_file() -> None:
    record = done("exe", "exe-changed")
    assert record.view_after
    assert record.view_after.exe == "/memfd:ghost (deleted)"
    assert record.before.exe != record.view_after.exe
    busy = done("exe", "exe-refused-while-mapped")
    assert busy.view_after
    assert (busy.outcome.verdict, busy.view_after.exe) == ("EBUSY", busy.before.exe)
