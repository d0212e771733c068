"""What witnesses say, compared with /proc and with each other; and that they leave nothing."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from prctlmm_lab.errors import InputError, SpecimenGone, UnsupportedSystem
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.kernel.procfs import Stat, parse_status
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.views.hearings import hearing_table, readings_table
from prctlmm_lab.views.tables import whole
from prctlmm_lab.witnesses import accounts, core_files, events
from prctlmm_lab.witnesses.accounts import Account, account, output_of
from prctlmm_lab.witnesses.core_files import told_by_core
from prctlmm_lab.witnesses.debugger import told_by_gdb
from prctlmm_lab.witnesses.events import AT_STACK, GROWN, MAPPED, told_by_perf
from prctlmm_lab.witnesses.hearing import (
    READINGS,
    WITNESSES,
    Hearing,
    hear,
)
from prctlmm_lab.witnesses.processes import ps, told_by_pgrep, told_by_ps, told_by_top
from tests.needs import needs_tool, skip_unless

TITLE = b"/usr/sbin/cron\0-f\0"


def retitle(specimen: Specimen, title: bytes = TITLE) -> None:
    page = specimen.map(PAGE)
    specimen.write(page, title)
    new = specimen.current_map().changed(arg_start=page, arg_end=page + len(title))
    assert specimen.set_map(new) == 0


# ---- procps -------------------------------------------------------------------------------------


def test_ps_tells_what_proc_has(specimen: Specimen) -> None:
    needs_tool("ps")
    now = specimen.current_map()
    assert specimen.set_map(now.changed(end_code=now.start_code + 0x300000)) == 0
    retitle(specimen)
    told = told_by_ps(specimen)
    stat = specimen.snapshot().stat
    assert isinstance(stat, Stat)
    assert told["comm"] == stat.comm
    assert told["trs"] == str(0x300000 >> 10)
    assert int(told["stackp"], 16) == stat["start_stack"]
    assert told["args"] == "/usr/sbin/cron -f"


def test_ps_is_shown_as_a_table(specimen: Specimen) -> None:
    needs_tool("ps")
    retitle(specimen, b"[kworker/u8:3-events]\0")
    head, row = ps(specimen).splitlines()
    assert head.split() == ["PID", "USER", "COMMAND"]
    assert row.split(maxsplit=2)[::2] == [str(specimen.pid), "[kworker/u8:3-events]"]


def test_top_and_pgrep_look_at_the_line_only_if_told_to(specimen: Specimen) -> None:
    needs_tool("top")
    needs_tool("pgrep")
    retitle(specimen)
    top = told_by_top(specimen)
    assert (top["COMMAND"], top["COMMAND with -c"]) == ("specimen", "/usr/sbin/cron -f")
    assert list(told_by_pgrep(specimen).lines.values()) == ["finds it", "does not find it"]
    assert list(told_by_pgrep(specimen, "sbin/cron").lines.values()) == [
        "does not find it",
        "finds it",
    ]


# ---- gdb ----------------------------------------------------------------------------------------


def test_gdb_tells_what_proc_has_and_what_the_processor_has(specimen: Specimen) -> None:
    needs_tool("gdb")
    told = told_by_gdb(specimen)
    skip_unless(not told.refusal, told.refusal)
    snapshot, members = specimen.snapshot(), specimen.current_map()
    for entry in snapshot.aux_entries:
        if (name := f"info auxv: {entry.name}") in told.lines:
            assert told[name] == hex(entry.value)
    for label in ("[heap]", "[stack]"):
        (vma,) = snapshot.labelled(label)
        assert told[f"info proc mappings: {label}"] == f"{vma.start:#x}-{vma.end:#x}"
    assert told["info proc: exe"] == snapshot.exe
    assert told["info proc stat: Start of text"] == hex(members.start_code)
    assert told["info proc stat: Start of stack"] == hex(members.start_stack)
    # The last two fields of this file are the stack pointer and the program counter.
    stack, counter = Path(f"/proc/{specimen.pid}/syscall").read_text().split()[-2:]
    assert told["registers: rsp"] == f"{stack} in [stack]"
    assert told["registers: rip"] == f"{counter} in {snapshot.exe}"


def test_gdb_leaves_the_specimen_free(specimen: Specimen) -> None:
    needs_tool("gdb")
    before = specimen.snapshot().maps
    told_by_gdb(specimen)
    status = parse_status(Path(f"/proc/{specimen.pid}/status").read_bytes())
    assert (status["TracerPid"], status["State"][0]) == ("0", "S")
    assert specimen.snapshot().maps == before


# ---- perf ---------------------------------------------------------------------------------------


@pytest.fixture
def observed(specimen: Specimen) -> Specimen:
    told = told_by_perf(specimen)
    skip_unless(not told.refusal, told.refusal, impossible=True)
    return specimen


def test_perf_names_memory_as_maps_does(observed: Specimen) -> None:
    told = told_by_perf(observed)
    assert (told[GROWN], told[MAPPED]) == ("[heap]", "//anon")
    place = observed.map(PAGE) - 0x100000
    assert observed.set_map(observed.current_map().changed(start_stack=place + 8)) == 0
    assert told_by_perf(observed)[AT_STACK] == "[stack]"
    observed.map(PAGE, at=place)
    assert [vma.start for vma in observed.snapshot().labelled("[stack]")] == [place]
    assert told_by_perf(observed)[AT_STACK] == "(memory is mapped there)"


def test_perf_leaves_the_specimen_as_it_was(observed: Specimen) -> None:
    def now() -> tuple[object, ...]:
        snapshot = observed.snapshot()
        return snapshot.maps, snapshot.brk, sorted(os.listdir(f"/proc/{observed.pid}/fd"))

    before = now()
    told_by_perf(observed)
    assert now() == before


def test_perf_that_is_forbidden_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with Specimen() as specimen:
        real = specimen.attempt

        def attempt(name: str, *arguments: int) -> int:
            return -errno.EACCES if name == "perf_event_open" else real(name, *arguments)

        monkeypatch.setattr(specimen, "attempt", attempt)
        told = told_by_perf(specimen)
    assert told.refusal.startswith("perf_event_open() is refused here: EACCES. kernel.perf_event_")
    monkeypatch.setattr(events, "_PARANOID", Path("/nowhere"))
    assert events._paranoid() == "not there"


def test_a_program_that_takes_no_orders_is_not_asked_for_memory() -> None:
    with Specimen() as specimen:
        specimen.execute("/bin/sleep", [b"sleep", b"60"])
        assert "takes no orders" in told_by_perf(specimen).refusal


# ---- core files ---------------------------------------------------------------------------------


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o777)
    yield tmp_path
    assert list(tmp_path.iterdir()) == [], "left behind"


def written_by(writer: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have core files written by the kernel, if it does so here, or by gdb."""
    if writer == core_files.THE_KERNEL:
        with Specimen() as specimen:
            why = core_files.why_not_by_kernel(specimen)
        skip_unless(not why, why, impossible=True)
        return
    needs_tool("gdb")
    pattern = folder.parent / "core_pattern"
    pattern.write_text("|/usr/lib/collector %p\n")
    monkeypatch.setattr(core_files, "_PATTERN", pattern)


@pytest.mark.parametrize("writer", [core_files.THE_KERNEL, core_files.GDB])
def test_a_core_file_tells_notes_and_areas(
    writer: str, specimen: Specimen, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by(writer, monkeypatch, empty_folder)
    retitle(specimen)
    snapshot = specimen.snapshot()
    told = told_by_core(specimen)
    assert told.refusal == ""
    assert told["written by"] == writer
    # gdb takes both from the first word of cmdline.
    names = {core_files.THE_KERNEL: ("specimen", "/usr/sbin/cron -f")}
    assert (told["fname"], told["psargs"]) == names.get(writer, ("cron", "/usr/sbin/cron"))
    for entry in snapshot.aux_entries:
        if (name := f"NT_AUXV: {entry.name}") in told.lines:
            assert told[name] == hex(entry.value)
    assert told["files"] == snapshot.exe
    assert not specimen.alive
    with pytest.raises(SpecimenGone):
        told_by_core(specimen)


def test_psargs_shows_what_cmdline_does_not(
    specimen: Specimen, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by(core_files.THE_KERNEL, monkeypatch, empty_folder)
    now = specimen.current_map()
    text = specimen.read(now.start_data, now.end_data - now.start_data)
    assert specimen.set_map(now.changed(arg_start=now.start_data, arg_end=now.end_data)) == 0
    assert specimen.snapshot().cmdline == b""
    assert told_by_core(specimen)["psargs"] == text.rstrip(b"\0").decode()


def test_a_core_file_that_cannot_be_had_says_why_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with Specimen() as specimen:
        specimen.set_limit("CORE", 0, 0)
        told = told_by_core(specimen)
    assert told.refusal.startswith("gdb is not installed, and core files ")


# ---- a witness that cannot be asked -------------------------------------------------------------


def test_what_is_not_installed_says_so(specimen: Specimen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("ps", "top", "pgrep"):
        told = WITNESSES[name](specimen)
        assert told.refusal == f"{name} is not installed. Install procps (apt install procps)."
    assert told_by_gdb(specimen).refusal == "gdb is not installed. Install gdb (apt install gdb)."
    assert ps(specimen) == f"ps: {told_by_ps(specimen).refusal}"


def test_what_does_not_end_is_ended_with_all_it_started(tmp_path: Path) -> None:
    program, note = tmp_path / "slow", tmp_path / "note"
    program.write_text(f"#!/bin/sh\nsleep 60 & echo $! > {note}\nwait\n")
    program.chmod(0o755)
    with pytest.raises(UnsupportedSystem, match=r"slow did not end within 0\.5 s"):
        output_of([str(program)], "nothing", seconds=0.5)
    started = int(note.read_text() or "0")
    if Path(f"/proc/{started}").exists():  # its new parent may not have reaped it yet
        assert Path(f"/proc/{started}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def test_another_ps_is_refused_in_words(
    specimen: Specimen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ps").write_text("#!/bin/sh\necho 'ps: bad -o argument: stackp' >&2\nexit 1\n")
    (tmp_path / "ps").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert told_by_ps(specimen).refusal == (
        "This ps cannot tell: ps: bad -o argument: stackp. Install procps."
    )


def test_a_value_keeps_to_its_line(specimen: Specimen) -> None:
    told = account(specimen, "me", lambda _: {"a": "one\ntwo\tthree", "b": ""})
    assert told.lines == {"a": r"one\ntwo\tthree", "b": ""}


# ---- hearings -----------------------------------------------------------------------------------


def test_a_hearing_is_compared_line_by_line() -> None:
    then = Hearing((Account("ps", {"comm": "a", "args": "b"}), Account("gdb", {}, "not here")))
    now = Hearing((Account("ps", {"comm": "a", "args": "<i>"}), Account("perf", {"x": "y"})))
    table = hearing_table(then, now)
    assert table.to_numpy().tolist() == [["comm", "a", "a", ""], ["args", "b", "<i>", "changed"]]
    assert len(hearing_table(then, now, changed=True)) == 1
    assert "<i>" not in whole(table).to_html()
    refused = hearing_table(then, then)
    assert list(refused.loc["gdb"]) == ["(cannot be asked)", "", "not here", ""]


def test_an_unknown_witness_is_refused(specimen: Specimen) -> None:
    with pytest.raises(InputError, match="'lsof' is not known; expected ps, top"):
        hear(specimen, "lsof")


# ---- who reads what: the table against the witnesses themselves --------------------------------

LINES = {
    ("ps", "args"): ("ps -f, ps -o args", "the command line"),
    ("ps", "comm"): ("ps -o comm, top", "the name"),
    ("ps", "trs"): ("ps -o trs", "size of the code"),
    ("ps", "stackp"): ("ps -o stackp", "bottom of the stack"),
    ("top", "COMMAND"): ("ps -o comm, top", "the name"),
    ("top", "COMMAND with -c"): ("top -c", "the command line"),
    ("pgrep", "pgrep specimen"): ("pgrep", "what the pattern is tried on"),
    ("pgrep", "pgrep -f specimen"): ("pgrep -f", "what the pattern is tried on"),
    ("gdb", "info proc: cmdline"): ("gdb, info proc", "cmdline"),
    ("gdb", "info auxv: AT_ENTRY"): ("gdb, info auxv", "the auxiliary vector"),
    ("gdb", "info proc mappings: [heap]"): ("gdb, info proc mappings", "[heap]"),
    ("gdb", "info proc mappings: [stack]"): ("gdb, info proc mappings", "[stack]"),
    ("core", "psargs"): ("core file, psargs", "the command line"),
    ("core", "fname"): ("core file, fname", "the name"),
    ("core", "NT_AUXV: AT_ENTRY"): ("core file", "the auxiliary vector"),
    ("core", "files"): ("core file", "names of the mapped files"),
}


def rewritten(specimen: Specimen, arena: int) -> dict[tuple[str, ...], dict[str, int]]:
    """Return what is changed, by the members that are changed together."""
    vector = encode_auxv([("AT_ENTRY", 0x123456), ("AT_NULL", 0)])
    specimen.write(arena, TITLE)
    specimen.write(arena + PAGE, vector)
    return {
        ("arg_start", "arg_end"): {"arg_start": arena, "arg_end": arena + len(TITLE)},
        ("start_code", "end_code"): {"start_code": 0x10000, "end_code": 0x210000},
        ("start_stack",): {"start_stack": arena + 2 * PAGE},
        ("start_brk", "brk"): {"start_brk": arena - 0x100000, "brk": arena - 0x100000},
        ("auxv", "auxv_size"): {"auxv": arena + PAGE, "auxv_size": len(vector)},
    }


GROUPS = (
    ("arg_start", "arg_end"),
    ("start_code", "end_code"),
    ("start_stack",),
    ("start_brk", "brk"),
    ("auxv", "auxv_size"),
)


@pytest.mark.parametrize("members", GROUPS, ids=" ".join)
def test_who_reads_what_is_what_they_do(members: tuple[str, ...]) -> None:
    for tool in ("ps", "top", "pgrep", "gdb"):
        needs_tool(tool)
    decided = {(r.who, r.tells): r.decided_by for r in READINGS}
    names = ("ps", "top", "pgrep", "gdb", "core")
    with Specimen(randomize=False) as honest, Specimen(randomize=False) as other:
        arenas = [specimen.map(4 * PAGE) for specimen in (honest, other)]
        change = rewritten(other, arenas[1])[members]
        assert other.set_map(other.current_map().changed(**change)) == 0
        then, now = hear(honest, *names), hear(other, *names)
    for (witness, line), reading in LINES.items():
        before, after = then[witness], now[witness]
        skip_unless(not before.refusal, before.refusal, impossible=True)
        changed = before[line] != after[line]
        assert changed == (members == decided[reading]), (witness, line, after[line])


def test_the_table_has_every_reading() -> None:
    table = readings_table()
    assert len(table) == len(READINGS)
    assert set(LINES.values()) <= {(r.who, r.tells) for r in READINGS}
    assert table.loc["gdb, info registers", "decided by"] == "no map"


def test_no_deadline_is_longer_than_half_a_minute() -> None:
    assert accounts.SECONDS <= 30
