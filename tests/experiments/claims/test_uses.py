"""Claims about where the members are used: on this kernel, and as other kernels would show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from prctlmm_lab.experiments.claims import (
    uses_by_brk,
    uses_by_others,
    uses_in_maps,
    uses_in_proc,
)
from prctlmm_lab.experiments.claims.claim import Claim, Finding, Verdict, settle
from prctlmm_lab.experiments.claims.uses_by_others import (
    Executables,
    names_executable,
    read_core_name,
    read_event,
    read_executables,
    read_vdso,
)
from prctlmm_lab.experiments.claims.uses_in_maps import read_names, read_thread
from prctlmm_lab.experiments.claims.uses_in_proc import (
    VECTOR,
    Handed,
    Strings,
    read_handed,
    read_link,
    read_rights,
    read_strings,
    read_vector,
)
from prctlmm_lab.experiments.experiment import run
from prctlmm_lab.experiments.record import Answer, Outcome, Record, View
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.kernel.procfs import Unreadable, parse_maps
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.witnesses.readers import Reading
from tests.needs import needs_ordinary_user, skip_unless
from tests.ordinary_user import as_ordinary_user

MODULES = (uses_by_brk, uses_by_others, uses_in_maps, uses_in_proc)
CLAIM: dict[str, Claim] = {claim.id: claim for module in MODULES for claim in module.CLAIMS}
FALSE = {
    "data.in_statm", "brk.in_stat", "brk.inside_heap", "strings.need_rights",
    "stack.name_of_threads",
}  # fmt: skip
"""What no kernel that can run this shows."""
BY_RELEASE = {"vdso.place"}
MAY_BE_UNSHOWN = {"selinux.execheap", "exe.in_core"}


@cache
def found(claim: str) -> Finding:
    return settle(CLAIM[claim], facts_here())


@cache
def records(claim: str) -> tuple[Record, ...]:
    return tuple(run(experiment) for experiment in CLAIM[claim].experiments)


# ---- on this kernel ---------------------------------------------------------------------------


def test_every_number_of_our_share_is_there() -> None:
    numbers = {claim.number for claim in CLAIM.values()}
    assert {*range(20, 44)} <= numbers


@pytest.mark.parametrize("claim", CLAIM)
def test_the_kernel_settles_it_as_we_say(claim: str) -> None:
    finding = found(claim)
    assert not finding.contradicts, finding.evidence
    if finding.verdict is Verdict.UNSHOWN:
        assert CLAIM[claim].documented
        skip_unless(False, finding.evidence, impossible=claim in MAY_BE_UNSHOWN)
    if claim not in BY_RELEASE:
        assert finding.verdict is (Verdict.FAILS if claim in FALSE else Verdict.HOLDS)
    assert "0x" in finding.evidence or "'" in finding.evidence or claim == "exe.in_proc"
    assert "\n" not in finding.evidence


AS_USER = """
import json
from prctlmm_lab.experiments.claims import (
    uses_by_brk, uses_by_others, uses_in_maps, uses_in_proc
)
from prctlmm_lab.experiments.claims.claim import settle
from prctlmm_lab.specimen.probe import facts_here
found = [settle(claim, facts_here())
         for module in (uses_by_brk, uses_by_others, uses_in_maps, uses_in_proc)
         for claim in module.CLAIMS]
print(json.dumps({f.claim.id: [f.verdict.value, f.contradicts] for f in found}))
"""


def test_an_ordinary_user_gets_the_same_verdicts() -> None:
    needs_ordinary_user()
    done = as_ordinary_user(AS_USER)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == {claim: [found(claim).verdict.value, False] for claim in CLAIM}


# ---- as another kernel would show it: experiments -----------------------------------------------


def after(record: Record, **parts: object) -> Record:
    """Return a record in which other things were seen after the call."""
    return replace(record, after=replace(record.after or View(), **parts))  # type: ignore[arg-type]


def answered(record: Record, *numbers: int) -> Record:
    return replace(record, answers=tuple(Answer("brk", hex(number), "") for number in numbers))


def read(claim: str, seen: Sequence[Record]) -> bool | None:
    reader = CLAIM[claim].read
    assert reader is not None
    return reader(seen).holds


@pytest.mark.parametrize("claim", [c for c in CLAIM if CLAIM[c].experiments])
def test_a_refused_call_settles_nothing(claim: str) -> None:
    refused = [replace(record, outcome=Outcome("EPERM", 1)) for record in records(claim)]
    assert read(claim, refused) is None


@pytest.mark.parametrize("claim", [c for c in CLAIM if c.endswith(".in_stat") and c not in FALSE])
def test_a_member_that_stat_does_not_show_refutes_it(claim: str) -> None:
    (record,) = records(claim)
    shown = record.view_after and record.view_after.stat
    assert isinstance(shown, dict)
    assert isinstance(record.before.stat, dict)
    for member in CLAIM[claim].experiments[0].change:
        stale = {**shown, member: record.before.stat[member]}
        assert read(claim, [after(record, stat=stale)]) is False
        assert read(claim, [after(record, stat={**shown, member: "0x0"})]) is False
    assert read(claim, [after(record, stat="not readable (EACCES)")]) is None


def test_code_that_is_clamped_in_statm_refutes_it() -> None:
    (record,) = records("code.in_statm")
    assert isinstance(record.before.statm, dict)
    text = record.before.statm["text"]
    for other in (text, text + 1):
        statm = {**record.before.statm, "text": other}
        assert read("code.in_statm", [after(record, statm=statm)]) is False


def test_data_that_statm_counts_bears_it_out() -> None:
    (record,) = records("data.in_statm")
    assert isinstance(record.before.statm, dict)
    for column, holds in (("data", True), ("text", True), ("resident", False)):
        statm = {**record.before.statm, column: 0x40000}
        assert read("data.in_statm", [after(record, statm=statm)]) is holds


def test_a_field_of_stat_that_follows_brk_bears_it_out() -> None:
    (record,) = records("brk.in_stat")
    for field, holds in (("start_brk", True), ("exit_code", True), ("flags", False)):
        row = ("stat", field, "0x1", record.map["brk"])
        assert read("brk.in_stat", [replace(record, difference=(row,))]) is holds


def test_a_vector_that_is_not_shown_refutes_it() -> None:
    (record,) = records("auxv.in_proc")
    for told in (record.before.auxv, ("AT_PAGESZ=0x1234", "AT_NULL=0x0"), ()):
        assert read("auxv.in_proc", [after(record, auxv=told)]) is False


@pytest.mark.parametrize("claim", ["data.limits_brk", "start_brk.limits_brk"])
def test_brk_that_does_not_count_it_refutes_it(claim: str) -> None:
    counted, free = records(claim)
    end, other = (uses_by_brk.brk_of(record) for record in (counted, free))
    page = counted.facts.page_size
    for answers, holds in (
        ((end, end + 3 * page), True),
        ((end + 3 * page + 1, end + 6 * page + 1), False),
        ((end + 3 * page + 1, end + 3 * page + 1), False),
        ((end, end), None),
    ):
        assert read(claim, [answered(counted, *answers), free]) is holds
    assert read(claim, [counted, answered(free, other, other)]) is None


def test_brk_that_is_not_brks_refutes_it() -> None:
    (record,) = records("brk.present_end")
    assert read("brk.present_end", [after(record, brk=record.before.brk)]) is False


def test_a_heap_that_must_be_there_bears_it_out() -> None:
    (record,) = records("brk.inside_heap")
    assert read("brk.inside_heap", [replace(record, outcome=Outcome("EINVAL", 22))]) is True
    brk = int(record.map["brk"], 16)
    for start, holds in ((brk - 0x1000, True), (brk + 0x1000, False)):
        maps = (f"{start:#x}-{start + 0x1000:#x} rw-p [heap]",)
        assert read("brk.inside_heap", [after(record, maps=maps)]) is holds


def test_an_end_that_brk_does_not_keep_refutes_it() -> None:
    (record,) = records("brk.carried_on")
    end, brk = (int(record.answers[0].answer, 16), uses_by_brk.brk_of(record))
    assert read("brk.carried_on", [answered(record, end, brk)]) is False
    assert read("brk.carried_on", [answered(record, end, -(-end // 0x1000) * 0x1000)]) is False
    assert read("brk.carried_on", [answered(record, brk, brk)]) is None


# ---- as another kernel would show it: what takes more than experiments --------------------------


def names(name: str, smaps: str = "") -> dict[str, str]:
    return {"maps": name, "smaps": smaps or name, "numa_maps": "-", "PROCMAP_QUERY": "-"}


@pytest.mark.parametrize("label", ["[heap]", "[stack]"])
def test_names_that_stay_where_they_were_refute_it(label: str) -> None:
    none, it = names("no name"), names(label)
    for before, now, old, holds in (
        (none, it, none, True),
        (none, none, it, False),
        (none, it, it, False),
        (it, it, none, False),
        (none, names(label, "no name"), none, False),
        (none, names("no name", label), none, False),
    ):
        assert read_names(label, before, now, old, [], "").holds is holds


@pytest.mark.parametrize(
    ("name", "holds"),
    [(b"", False), (b"[stack:77]", True), (b"[stack]", True), (b"[anon:thread]", False)],
)
def test_a_threads_stack_with_a_name_bears_it_out(name: bytes, holds: bool) -> None:
    maps = parse_maps(b"7f00000000-7f00001000 rw-p 00000000 00:00 0   " + name + b"\n")
    assert read_thread(0x7F00000FF8, maps, maps).holds is holds
    assert read_thread(0x7F00001000, maps, maps).holds is None


def test_strings_that_are_not_shown_refute_it() -> None:
    wanted = b"a\0", b"B=1\0"
    closed = Unreadable("/proc/1/environ", 13)
    for cmdline, environ, holds in (
        (*wanted, True), (b"", b"B=1\0", False), (b"a\0", b"", False), (b"a\0", closed, False)
    ):  # fmt: skip
        assert read_strings(Strings(wanted, cmdline, environ, "")).holds is holds


def test_files_that_are_closed_to_strangers_bear_it_out() -> None:
    def told(cmdline: bytes | int, environ: bytes | int, stat: bytes | int = b"1") -> bool | None:
        others = {"cmdline": cmdline, "environ": environ, "stat": stat}
        readings = {file: Reading("0444", b"own", other) for file, other in others.items()}
        return read_rights(readings, "a stranger").holds

    assert told(13, 13) is True
    assert told(b"a\0", 13) is False
    assert told(13, b"B=1\0") is False
    assert told(2, 2, 2) is None


def test_a_kernel_that_cares_for_the_vector_refutes_it() -> None:
    senseless = encode_auxv(VECTOR) + bytes(16)
    core = {"written by": "the kernel", "NT_AUXV: AT_PAGESZ": "0x1234"}
    right = Handed(senseless, senseless, core, (7, 7))
    assert read_handed(right).holds is True
    assert read_handed(replace(right, kept=b"", core={})).holds is True
    mended = encode_auxv([("AT_PAGESZ", 0x1000)]) + senseless[16:]
    for other in (
        replace(right, file=mended),
        replace(right, kept=mended),
        replace(right, core={**core, "NT_AUXV: AT_PAGESZ": "0x1000"}),
        replace(right, hwcap=(7, 0xBAD)),
    ):
        assert read_handed(other).holds is False


def test_another_vector_than_the_programs_refutes_it() -> None:
    vector = encode_auxv([("AT_PAGESZ", 0x1000), ("AT_NULL", 0)])
    stack = b"".join(n.to_bytes(8, "little") for n in (2, 0x10, 0x20, 0, 0x30, 0)) + vector
    assert read_vector(stack + bytes(16), vector).holds is True
    assert read_vector(stack + bytes(16), vector[:8] + vector[:8] + vector[16:]).holds is False


def test_a_link_that_does_not_follow_refutes_it() -> None:
    assert read_link("/old", "/new", "/new").holds is True
    assert read_link("/old", "/old", "/new").holds is False
    assert read_link("/new", "/new", "/new").holds is False


@pytest.mark.parametrize("label", ["[heap]", "[stack]"])
def test_events_that_do_not_follow_refute_it(label: str) -> None:
    for before, now, holds in (
        ("//anon", label, True),
        ("//anon", "//anon", False),
        (label, label, False),
        ("(no event)", "(no event)", None),
    ):
        assert read_event(label, before, now, "mmap(0x1000)", "").holds is holds


def test_a_policy_that_asks_by_start_brk_bears_it_out() -> None:
    yes, no = "allowed", "EACCES"
    for told, holds in (
        ((yes, yes, yes), None),
        ((no, yes, yes), True),
        ((no, no, yes), False),
        ((no, no, no), None),
    ):
        assert read_executables(Executables(*told), 0x5000).holds is holds


def test_a_vdso_above_the_stack_bears_it_out() -> None:
    stack, other = 0x7FFE6145C3F0, 0x7FFD000003F0
    above, below = 0x7FFE615C2000, 0x7F9F5691C000
    moved = 0x50000000
    assert read_vdso([(below, stack), (below, other)], moved, below).holds is False
    assert read_vdso([(above, stack), (below, other)], moved, above).holds is True
    assert read_vdso([(below, stack), (moved + 0x3000, other)], moved, below).holds is True
    assert read_vdso([(below, stack), (below, other)], moved, moved).holds is True


def test_a_core_file_is_named_after_the_link_or_not() -> None:
    pattern = "core.%E"
    assert read_core_name(pattern, "core.!memfd:changed-exe (deleted)").holds is True
    assert read_core_name(pattern, "core.!memfd:specimen-static (deleted)").holds is False
    assert [names_executable(p) for p in ("core", "core.%p", "a%f", "|/bin/x %E", "%%f")] == [
        False, False, True, True, False,
    ]  # fmt: skip
