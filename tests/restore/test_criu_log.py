"""CRIU's logs: real ones, and ones written in their form of calls that the kernel refused here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prctlmm_lab.cli import main
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Experiment, prepare
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.kernel.abi import ADDRESSES, PrctlMmMap
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.releases import facts_on
from prctlmm_lab.kernel.rules import RULE, RULES, ExeFile, errno_name
from prctlmm_lab.restore.criu.diagnosis import SANDBOX, diagnose_image, diagnose_log
from prctlmm_lab.restore.criu.images import shipped_images
from prctlmm_lab.restore.criu.log import CriuLog, is_log, parse_log, read_log
from prctlmm_lab.restore.remedies import remedy
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from tests.command_line.command import assert_readable, prctlmm_lab
from tests.ordinary_user import ROOT

FOLDER = ROOT / "data" / "criu"
LOGS = sorted(FOLDER.glob("refused-*.log"))


def of_log(log: CriuLog) -> Facts:
    """Return the facts of the kernel that a log names, whichever kernel runs the tests."""
    return replace(facts_here(), release=log.kernel)


# ---- real logs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.name)
def test_a_real_log_is_read(path: Path) -> None:
    data = path.read_bytes()
    assert is_log(data)
    log = read_log(path)
    (call,) = log.refused
    assert log.version in ("4.1.1", "4.2.1")
    assert (log.kernel, log.machine) == ("6.18.44-fc-v595", "x86_64")
    assert (log.lowest, log.task_size) == (0x10000, 0x7FFFFFFFF000)
    assert call.map.auxv_size == 8 * len(call.vector) == 0x160
    assert len(call.mappings) == data.count(b"\tmmap(")
    lines = data.decode().splitlines()
    assert f"failed with {-call.errno}" in lines[call.line - 1]
    for name in ADDRESSES:
        assert f"  .{name} = {call.members[name]:#x}" in "\n".join(lines)
    assert len(call.singles) == sum("prctl failed @" in line for line in lines)


def test_the_values_alone_name_the_rule_of_an_edited_image() -> None:
    log = read_log(FOLDER / "refused-order.log")
    (found,) = diagnose_log(log, of_log(log))
    assert (found.rule, found.decided, found.conditions) == ("order.arg", True, ())
    assert found.verdict == "EINVAL by rule order.arg"
    assert found.remedy == remedy("order.arg")
    assert any("13 of 13 failed too (EPERM)" in note for note in found.notes)


def test_what_the_log_does_not_tell_is_found_by_elimination_or_given() -> None:
    log = read_log(FOLDER / "refused-limit.log")
    (found,) = diagnose_log(log, of_log(log))
    (condition,) = found.conditions
    assert (found.rule, found.decided, condition.rule) == ("limit.data", False, "limit.data")
    assert "below 0x100000214f0" in condition.broken_if
    (found,) = diagnose_log(log, of_log(log), rlimit_data=0x4000000)
    assert (found.rule, found.decided) == ("limit.data", True)
    (found,) = diagnose_log(log, of_log(log), rlimit_data=(1 << 64) - 1)
    assert (found.rule, found.contradicts) == ("", True)


def test_of_the_executable_every_reason_is_named_until_more_is_known() -> None:
    log = read_log(FOLDER / "refused-exe.log")
    (found,) = diagnose_log(log, of_log(log))
    rules = {each.rule for each in found.conditions}
    assert {"exe.executable", "exe.written", "exe.noexec", "exe.regular", SANDBOX} == rules
    assert (found.rule, found.remedy) == ("", "")
    written = ExeFile(is_open=True, is_regular=True, is_executable=True, is_written=True)
    (found,) = diagnose_log(log, of_log(log), exe_file=written)
    assert (found.rule, found.decided) == ("exe.written", True)
    fine = replace(written, is_written=False)  # now; at that time it may have been
    (found,) = diagnose_log(log, of_log(log), exe_file=fine)
    assert {each.rule for each in found.conditions} == {"exe.written", SANDBOX}


# ---- logs of calls that the kernel refused here -------------------------------------------------


def log_lines(new: PrctlMmMap, errno: int, kernel: str, vector: Iterable[int] = ()) -> list[str]:
    """Write down a refused call as CRIU 3.18 to 4.2 do."""
    lines = ["(00.000124) Version: 4.2 (gitid 0)",
             f"(00.000125) Running on host Linux {kernel} #1 SMP x86_64"]  # fmt: skip
    order = ("start_code end_code start_data end_data start_stack start_brk brk arg_start arg_end "
             "env_start env_end").split()  # fmt: skip
    lines.append(f"(00.047356) pie: 42: prctl PR_SET_MM_MAP failed with -{errno}")
    lines += [f"(00.047358) pie: 42:   .{name} = {getattr(new, name):#x}" for name in order]
    lines.append(f"(00.047370) pie: 42:   .auxv_size = {new.auxv_size}")
    lines += [
        f"(00.047371) pie: 42:   .auxv[{n}] = {word:#x}" for n, word in enumerate(vector)
    ]  # fmt: skip
    return [*lines, f"(00.047417) pie: 42:   .exe_fd = {new.exe_fd}"]


BY_VALUES = [
    experiment
    for experiment in shipped_recipes()["refusals"].experiments
    if experiment.rule.partition(".")[0] in ("range", "order")
    or experiment.rule in ("limit.data", "auxv.size")
]


@pytest.mark.parametrize("experiment", BY_VALUES, ids=lambda experiment: experiment.id)
def test_the_rule_that_refused_here_is_named(experiment: Experiment) -> None:
    here = facts_here()
    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, here)
        errno = specimen.set_map(prepared.map)
        limit = specimen.limit("DATA")[0]
    assert errno, "the kernel refuses"
    log = parse_log(log_lines(prepared.map, errno, here.release))
    (found,) = diagnose_log(log, here, rlimit_data=limit)
    assert found.decided
    assert found.rule == experiment.rule
    assert found.verdict == f"{errno_name(errno)} by rule {experiment.rule}"
    assert found.explanation.deciding is not None
    assert "0x" in found.explanation.deciding.numbers


def static_pie_map() -> PrctlMmMap:
    with Specimen("static-pie") as specimen:
        new = specimen.current_map()
        if new.brk > new.end_data:  # the kernel placed the heap above
            new = new.changed(start_brk=new.start_data - 0x2000, brk=new.start_data - 0x1000)
        return new


def test_a_static_pie_on_an_early_kernel_is_the_heap_rule() -> None:
    new = static_pie_map()
    (found,) = diagnose_log(parse_log(log_lines(new, 22, "5.10.0-8-amd64")), facts_here())
    assert (found.rule, found.decided) == ("heap.above_data", True)
    assert found.facts.release == "v5.10 (documented)"
    assert any("5.10.0-8-amd64" in note and "--on" in note for note in found.notes)
    assert "v5.15 or newer" in found.remedy
    # Of a kernel that should have the change, the old check stays a possibility, and is named.
    (found,) = diagnose_log(
        parse_log(log_lines(new, 22, "5.10.100")), facts_here(), rlimit_data=(1 << 64) - 1
    )
    rules = [each.rule for each in found.conditions]
    assert "heap.above_data" in rules
    assert found.rule == ""


def test_a_missing_permission_before_v5_9_is_among_the_reasons_for_einval() -> None:
    with Specimen() as specimen:
        new = specimen.current_map().changed(exe_fd=5)
    (found,) = diagnose_log(parse_log(log_lines(new, 22, "5.4.0-42-generic")), facts_here())
    assert "exe.permission" in [each.rule for each in found.conditions]
    (found,) = diagnose_log(parse_log(log_lines(new, 1, "5.10.200")), facts_here())
    rules = [each.rule for each in found.conditions]
    assert rules[0] == "call.option"
    assert {"exe.permission", SANDBOX} <= set(rules)


def test_an_errno_that_no_rule_gives_is_a_contradiction() -> None:
    with Specimen() as specimen:
        new = specimen.current_map()
    (found,) = diagnose_log(parse_log(log_lines(new, 5, facts_here().release)), facts_here())
    assert found.contradicts
    assert "EIO, which no rule of" in found.verdict


def test_every_rule_has_a_remedy() -> None:
    for name in [*RULE, SANDBOX]:
        assert remedy(name).endswith(".")
    assert {rule.id for rule in RULES} == set(RULE)


# ---- images -------------------------------------------------------------------------------------


def test_an_image_is_accepted_here_and_says_what_it_needs() -> None:
    here = facts_here()
    for memory in shipped_images():
        found = diagnose_image(memory, here)
        assert found.explanation.errno == 0
        assert "accepted" in found.verdict
        rules = [each.rule for each in found.conditions]
        assert rules[0] == "limit.data"
        without = diagnose_image(memory, here, exe=False, rlimit_data=1 << 30)
        assert without.conditions == ()


def test_an_image_of_a_static_pie_is_refused_by_an_early_kernel() -> None:
    new = static_pie_map()
    memory = replace(shipped_images()[0], addresses={n: getattr(new, n) for n in ADDRESSES})
    early = diagnose_image(memory, facts_on("v5.10", facts_here()))
    assert (early.rule, early.verdict) == ("heap.above_data", "EINVAL by rule heap.above_data")
    assert diagnose_image(memory, facts_on("v5.15", facts_here())).rule == ""


# ---- damaged, hostile and other logs ------------------------------------------------------------

CALL = (FOLDER / "refused-order.log").read_text().splitlines()
START = next(n for n, line in enumerate(CALL) if "prctl PR_SET_MM_MAP failed" in line)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (CALL[: START + 5], "tells of a call without its start_brk, brk, start_stack"),
        ([*CALL, CALL[START]], "tells of a second call of one process"),
        ([line.replace("failed with -22", "failed with 22") for line in CALL], "22 is no errno"),
        ([line.replace(".brk = 0x", ".brk = 0xfffff") for line in CALL], "does not fit into brk"),
        ([line.replace(".auxv[3]", ".auxv[4]") for line in CALL], "4 is not the next word"),
        ([line.replace("exe_fd = 20", "exe_fd = 2a") for line in CALL], "is no value of exe_fd"),
        ([line.replace("exe_fd = 20", "exe_fd = 99999999999") for line in CALL],
         "does not fit into exe_fd"),
    ],
)  # fmt: skip
def test_a_damaged_log_is_refused_in_one_sentence(lines: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_log(lines, "restore.log")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("restore.log, line ")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "tells of no refused PR_SET_MM_MAP"),
        (["(00.1) Error (criu/mem.c:1): Can't open vma"], "it fails with: Can't open vma"),
        (["(00.1) pie: 7: Error (criu/pie/restorer.c:2080): sys_prctl(PR_SET_MM, PR_SET_MM_MAP) "
          "failed with -13"], "PR_SET_MM_MAP of process 7 gave EACCES, but not the values"),
    ],
)  # fmt: skip
def test_a_log_without_the_values_says_what_it_has(lines: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        diagnose_log(parse_log(lines, "restore.log"), facts_here())
    assert words in str(caught.value)
    assert "-v4" in str(caught.value)


def test_a_kernel_that_is_not_known_is_asked_for() -> None:
    lines = [line.replace("6.18.44-fc-v595", "9x-own") for line in CALL]
    log = parse_log(lines)
    with pytest.raises(InputError, match="'9x-own' is a kernel without documented rules"):
        diagnose_log(log, facts_here())
    (found,) = diagnose_log(log, facts_here(), release="v6.12")
    assert (found.rule, found.facts.release) == ("order.arg", "v6.12 (documented)")


def test_calls_of_several_processes_are_told_apart() -> None:
    other = [line.replace("pie: ", "pie: 9") for line in CALL[2:]]
    mixed = [*CALL[:2], *(line for pair in zip(CALL[2:], other, strict=True) for line in pair)]
    log = parse_log(mixed)
    first, second = diagnose_log(log, of_log(log))
    assert first.rule == second.rule == "order.arg"
    assert second.process == f"9{first.process}"


PIECES = st.sampled_from([*CALL, "pie: ", "(00.000001) ", ".brk = ", "mmap(0x", "\x1b[31m", "-22"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=40)), max_size=60))
def test_any_lines_are_read_or_refused(lines: list[str]) -> None:
    try:
        log = parse_log(lines)
        found = diagnose_log(log, facts_here())
    except InputError:
        return
    assert found


# ---- the command --------------------------------------------------------------------------------


def explained(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    status = main(["explain", *map(str, arguments)])
    told = capsys.readouterr()
    assert (status, told.err) == (0, "")
    return told.out


@pytest.mark.parametrize("path", [*LOGS, *sorted(FOLDER.glob("*.img"))], ids=lambda p: p.name)
def test_explain_reads_images_and_logs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = explained(capsys, path)
    assert_readable(told)
    assert "\n  verdict   " in told
    data = json.loads(explained(capsys, path, "--json"))
    assert data["verdict"] in " ".join(told.split())
    assert data["map"]["brk"].startswith("0x")


def test_explain_takes_what_a_log_does_not_tell(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    limit, exe = FOLDER / "refused-limit.log", FOLDER / "refused-exe.log"
    told = explained(capsys, limit, "--rlimit-data", "0x4000000", "--on", "6.18.44")
    assert "EINVAL by rule limit.data\n" in told
    assert "RLIMIT_DATA\n              = 0x4000000" in told
    program = tmp_path / "program"
    program.write_bytes(b"")
    program.chmod(0o644)
    told = explained(capsys, exe, "--exe", program)
    assert "EACCES by rule exe.executable" in told


def test_explain_shows_several_releases_of_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    told = explained(capsys, FOLDER / "mm-28.img", "--on", "3.10,6.1")
    assert "EINVAL by rule call.option" in told
    assert "v6.1 (documented), not asked" in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([FOLDER / "mm-28.img", "--only", "7"], "--only: is for a recipe or a log"),
        ([LOGS[0], "--only", "7"], "--only: '7' is no process of this log; expected 14479"),
        ([ROOT / "data" / "recipes" / "heap.toml", "--rlimit-data", "1"],
         "--rlimit-data: is for an image or a log of CRIU"),
        ([LOGS[0], "--exe", "/nowhere/program"], "ENOENT"),
        ([LOGS[0], "--rlimit-data", "lots"], "'lots' is no limit"),
    ],
)  # fmt: skip
def test_explain_refuses_in_one_sentence(arguments: list[str | Path], sentence: str) -> None:
    told = prctlmm_lab("explain", *arguments)
    assert (told.returncode, told.stdout) == (2, "")
    assert sentence in told.stderr
    assert told.stderr.count("\n") == 1


def test_explain_says_with_its_status_that_log_and_rules_disagree(tmp_path: Path) -> None:
    with Specimen() as specimen:
        new = specimen.current_map()
    path = tmp_path / "restore.log"
    path.write_text("\n".join(log_lines(new, 5, facts_here().release)))
    told = prctlmm_lab("explain", path)
    assert (told.returncode, told.stderr) == (1, "")
    assert "EIO, which no rule of" in told.stdout
