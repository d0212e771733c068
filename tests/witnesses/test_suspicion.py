"""The defender's checks: none accuses an honest process, each finds what it is for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from prctlmm_lab.experiments.experiment import Experiment, carry_out, prepare
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable, read_snapshot
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.views.hearings import checks_table, suspicions_table
from prctlmm_lab.views.tables import whole
from prctlmm_lab.witnesses.suspicion import (
    CHECKS,
    WEAK,
    Evidence,
    judge,
    suspicions,
)
from tests.needs import needs_ordinary_user, needs_tool, needs_user_namespaces, skip_unless
from tests.ordinary_user import as_ordinary_user

NOWHERE = Unreadable("/proc/42/all", 13)

# ---- honest processes ---------------------------------------------------------------------------


@pytest.mark.parametrize("randomize", [True, False])
@pytest.mark.parametrize("heap_pages", [0, 4])
def test_a_fresh_specimen_is_not_suspected(build: str, randomize: bool, heap_pages: int) -> None:
    with Specimen(build, randomize=randomize, heap_pages=heap_pages) as specimen:
        assert suspicions(specimen.snapshot()) == ()


LOADER = "/lib64/ld-linux-x86-64.so.2"
HONEST: dict[str, list[str]] = {
    "sh": ["sh", "-c", "echo ready; read x"],
    "cat": ["cat"],
    "python": [sys.executable, "-c", "print('ready', flush=True); input()"],
    "by its loader": [LOADER, "/bin/cat"],
    "without randomisation": ["setarch", "-R", "cat"],
    "an environment of its own": ["env", "-i", "LONG=" + "x" * 9000, "/bin/cat"],
}


@pytest.mark.parametrize("command", HONEST.values(), ids=HONEST)
def test_an_ordinary_program_is_not_suspected(command: list[str]) -> None:
    needs_tool(command[0])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            if command[-1].endswith("cat"):
                process.stdin.write(b"ready\n")
                process.stdin.flush()
            line = process.stdout.readline()
            skip_unless(line, f"{command[0]} cannot run it here", impossible=True)
            assert suspicions(read_snapshot(process.pid)) == ()
        finally:
            process.kill()


def test_another_name_is_a_weak_finding() -> None:
    with Specimen() as specimen:
        specimen.execute("/bin/sleep", [b"backup", b"60"])
        (found,) = suspicions(specimen.snapshot())
    assert (found.check.id, found.check.strength) == ("names", WEAK)
    assert str(found).startswith("weak   names           comm: 'sleep', but cmdline begins with")


@pytest.mark.parametrize(
    "arguments",
    [[b"specimen: worker"], [b"-specimen"], [b"/opt/x/specimen"], [b"sh", b"/opt/specimen", b"-x"]],
)
def test_titles_of_daemons_shells_and_scripts_are_no_findings(arguments: list[bytes]) -> None:
    with Specimen(arguments=arguments) as specimen:
        assert suspicions(specimen.snapshot()) == ()


def test_a_daemon_that_gave_up_root_is_a_weak_finding() -> None:
    with Specimen() as specimen:
        skip_unless(specimen.syscall("geteuid") == 0, "only root can give up root", impossible=True)
        specimen.become(65534)
        found = suspicions(specimen.snapshot())
    assert {each.check.id for each in found} == {"auxv.identity"}
    assert {each.check.strength for each in found} == {WEAK}


def test_what_cannot_be_read_is_not_judged() -> None:
    nothing = Snapshot(42, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE, NOWHERE,
                       NOWHERE)  # fmt: skip
    assert judge(Evidence(nothing, None)) == ()


def test_a_process_of_another_user_is_not_suspected_for_what_is_hidden() -> None:
    needs_ordinary_user()
    with Specimen() as specimen:
        code = (
            "from prctlmm_lab import read_snapshot\n"
            "from prctlmm_lab.witnesses.suspicion import suspicions\n"
            f"print(suspicions(read_snapshot({specimen.pid})))"
        )
        told = as_ordinary_user(code)
    assert told.stdout == "()\n", told.stderr


# ---- every check finds what it is for -----------------------------------------------------------

Rewrite = Callable[[Specimen, PrctlMmMap], PrctlMmMap]


def with_vector(**values: int) -> Rewrite:
    """Replace entries of the vector by name."""

    def rewrite(specimen: Specimen, now: PrctlMmMap) -> PrctlMmMap:
        entries = [(e.type, values.get(e.name, e.value)) for e in specimen.snapshot().aux_entries]
        data = encode_auxv(entries)
        page = specimen.map(PAGE)
        specimen.write(page, data)
        return now.changed(auxv=page, auxv_size=len(data))

    return rewrite


def with_title(title: bytes) -> Rewrite:
    def rewrite(specimen: Specimen, now: PrctlMmMap) -> PrctlMmMap:
        page = specimen.map(PAGE)
        specimen.write(page, title)
        return now.changed(arg_start=page, arg_end=page + len(title))

    return rewrite


FINDS: dict[str, tuple[str, Rewrite]] = {
    "another name": ("names: comm", with_title(b"cron\0")),
    "a kernel thread": ("kernel.thread: cmdline", with_title(b"[kworker/0:1]\0")),
    "no command line": ("kernel.thread: cmdline", lambda _, m: m.changed(arg_end=m.arg_start)),
    "arguments elsewhere": ("stack.one: arg_start", with_title(b"specimen\0")),
    "stack elsewhere": (
        "stack.one: start_stack",
        lambda s, m: m.changed(start_stack=s.map(PAGE)),
    ),
    "random bytes elsewhere": ("stack.one: AT_RANDOM", with_vector(AT_RANDOM=0x10000)),
    "stack in the stack": (
        "stack.order: start_stack",
        lambda _, m: m.changed(start_stack=m.env_end),
    ),
    "a gap": ("stack.order: arg_end", lambda _, m: m.changed(arg_end=m.arg_end - 1)),
    "a short environment": ("stack.order: env_end", lambda _, m: m.changed(env_end=m.env_end - 1)),
    "start_code": ("segments: start_code", lambda _, m: m.changed(start_code=m.start_code - 1)),
    "end_code": ("segments: end_code", lambda _, m: m.changed(end_code=m.end_code + 1)),
    "start_data": ("segments: start_data", lambda _, m: m.changed(start_data=m.start_data + 8)),
    "end_data": ("segments: end_data", lambda _, m: m.changed(end_data=m.end_data - 8)),
    "a heap far away": (
        "heap.place: start_brk",
        lambda _, m: m.changed(start_brk=0x10000, brk=0x10000),
    ),
    "a heap that begins late": (
        "heap.start: start_brk",
        lambda _, m: m.changed(start_brk=m.start_brk + PAGE),
    ),
    "a heap without a label": ("heap.start: brk", lambda _, m: m.changed(brk=m.start_brk)),
    "AT_PHDR": ("auxv.headers: AT_PHDR", with_vector(AT_PHDR=0x10000)),
    "AT_PHNUM": ("auxv.headers: AT_PHNUM", with_vector(AT_PHNUM=9)),
    "AT_ENTRY": ("entry: AT_ENTRY", with_vector(AT_ENTRY=0x10000)),
    "AT_BASE": ("auxv.loader: AT_BASE", with_vector(AT_BASE=0x10000)),
    "the vDSO": ("auxv.vdso: AT_SYSINFO_EHDR", with_vector(AT_SYSINFO_EHDR=0x10000)),
    "the machine": ("auxv.machine: AT_PAGESZ", with_vector(AT_PAGESZ=0x2000)),
    "identity": ("auxv.identity: AT_EGID", with_vector(AT_EGID=4242)),
}


@pytest.mark.parametrize(("found", "rewrite"), FINDS.values(), ids=FINDS)
def test_each_check_finds_what_it_is_for(build: str, found: str, rewrite: Rewrite) -> None:
    with Specimen(build) as specimen:
        assert specimen.set_map(rewrite(specimen, specimen.current_map())) == 0
        told = [f"{each.check.id}: {each.subject}" for each in suspicions(specimen.snapshot())]
    assert found in told


def test_code_that_no_file_stands_behind_is_found(specimen: Specimen) -> None:
    specimen.release_executable()
    told = [f"{each.check.id}: {each.subject}" for each in suspicions(specimen.snapshot())]
    assert told == ["exe.mapped: exe", "entry: AT_ENTRY"]


def test_an_exe_link_to_what_is_no_program_is_found() -> None:
    needs_user_namespaces()
    with Specimen() as specimen:
        specimen.enter_user_namespace()
        ghost = specimen.memory_file("ghost")
        specimen.release_executable()
        assert specimen.set_map(specimen.current_map().changed(exe_fd=ghost)) == 0
        told = {each.check.id for each in suspicions(specimen.snapshot())}
    assert {"exe.kind", "exe.mapped"} <= told


def test_every_check_has_a_case() -> None:
    cases = {found.partition(":")[0] for found, _ in FINDS.values()}
    assert cases | {"exe.kind", "exe.mapped"} == {check.id for check in CHECKS}
    assert len({check.id for check in CHECKS}) == len(CHECKS)


SHIPPED = [e for recipe in shipped_recipes().values() for e in recipe.experiments]


@pytest.mark.parametrize("experiment", SHIPPED, ids=lambda each: each.id)
def test_a_recipe_that_moves_something_visible_is_found(experiment: Experiment) -> None:
    with experiment.specimen.start() as specimen:
        try:
            record = carry_out(prepare(experiment, specimen, facts_here()))
        except ValueError as why:
            pytest.skip(str(why))
        found = suspicions(specimen.snapshot()) if specimen.alive else ()
    visible = [row for row in record.difference if row[0] != "brk()"]
    if record.outcome.verdict == "accepted":
        assert bool(found) == bool(visible), (visible, found)


# ---- what no check can find ---------------------------------------------------------------------


def test_another_end_of_the_heap_is_seen_by_nobody(specimen: Specimen) -> None:
    now = specimen.current_map()
    assert specimen.set_map(now.changed(brk=now.brk - PAGE)) == 0
    assert specimen.brk() == now.brk - PAGE
    assert suspicions(specimen.snapshot()) == ()


# ---- tables -------------------------------------------------------------------------------------


def test_findings_are_shown_escaped() -> None:
    with Specimen() as specimen:
        rewrite = with_title(b"<script>\0")
        assert specimen.set_map(rewrite(specimen, specimen.current_map())) == 0
        found = suspicions(specimen.snapshot())
    table = suspicions_table(found)
    assert list(table.index) == [each.check.id for each in found]
    assert list(table["subject"]) == ["comm", "arg_start", "arg_end"]
    assert "<script>" not in whole(table).to_html()
    assert "&lt;script&gt;" in whole(table).to_html()


def test_the_checks_are_shown_with_whom_they_accuse() -> None:
    table = checks_table()
    assert list(table.index) == [check.id for check in CHECKS]
    assert all(table["honest programs that do it too"])
