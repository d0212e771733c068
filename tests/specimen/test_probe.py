"""The facts of the running kernel and the doctor, against what other sources say of them."""

from __future__ import annotations

import errno
import json
import os
import platform
import resource
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.errors import SpecimenStartError
from prctlmm_lab.kernel.abi import (
    ADDRESSES,
    MAP_SIZE,
    PR_GET_AUXV,
    PR_SET_MM,
    U64,
    Operation,
    PrctlMmMap,
)
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.specimen import probe
from prctlmm_lab.specimen.probe import (
    CAPABILITIES,
    STACK,
    capability_names,
    doctor,
    environment,
    facts_here,
    probe_facts,
)
from prctlmm_lab.specimen.process import PAGE, Specimen
from tests.needs import needs_ordinary_user, needs_tool, needs_user_namespaces, skip_unless
from tests.ordinary_user import ROOT, as_ordinary_user

FACTS = """
import json
from dataclasses import asdict
from prctlmm_lab.specimen.probe import facts_here
print(json.dumps(asdict(facts_here())))
"""


def as_data(facts: Facts) -> dict[str, Any]:
    from dataclasses import asdict

    data: dict[str, Any] = json.loads(json.dumps(asdict(facts)))
    return data


# ---- facts ------------------------------------------------------------------------------------


def test_nothing_had_to_be_assumed() -> None:
    needs_user_namespaces()
    facts = facts_here()
    assert (facts.available, facts.refusal_errno, facts.assumed) == (True, 0, ())
    assert (facts.release, facts.machine) == (platform.release(), platform.machine())
    assert (facts.map_size, facts.page_size) == (MAP_SIZE, resource.getpagesize())


def test_a_page_is_what_a_mapping_of_one_byte_takes(specimen: Specimen) -> None:
    start = specimen.map(1, permissions="---")
    vma = specimen.snapshot().vma_at(start)
    assert vma is not None
    assert vma.size == facts_here().page_size


def test_the_bounds_hold_for_every_address(specimen: Specimen) -> None:
    """Move the others out of the way, so that only the range of the one can refuse."""
    facts = facts_here()
    wide = specimen.current_map()
    for name in ADDRESSES:
        low = name.startswith("start") or name.endswith("_start")
        wide = wide.changed(**{name: facts.lowest if low else facts.highest})
    narrow = {"low": facts.lowest, "high": facts.highest}
    assert specimen.set_map(wide) == 0
    for name in ADDRESSES:
        moved = [wide.changed(**{name: bound}) for bound in narrow.values()]
        beyond = [wide.changed(**{name: bound}) for bound in (facts.lowest - 1, facts.highest + 1)]
        pair = {"start_code": "end_code", "end_code": "start_code"}.get(name)
        said = list(specimen.set_maps(b"".join(new.pack() for new in moved)))
        # Code must not be empty, so that its start and end cannot meet at a bound.
        assert said == [0, 0] if pair is None else sorted(said) == [0, 22]
        assert set(specimen.set_maps(b"".join(new.pack() for new in beyond))) == {22}
    almost = wide.changed(start_code=facts.highest - 1), wide.changed(end_code=facts.lowest + 1)
    assert [specimen.set_map(new) for new in almost] == [0, 0]


def test_the_highest_address_is_the_end_of_user_space(specimen: Specimen) -> None:
    highest = facts_here().highest
    stack = specimen.snapshot().labelled("[stack]")[0]
    assert stack.end <= highest + 1
    assert (highest + 1) % PAGE == 0
    assert (
        specimen.attempt("munmap", highest + 1 - PAGE, PAGE) == 0
    )  # nothing is there, but could be
    assert specimen.attempt("munmap", highest + 1, PAGE) == -22
    flags = {
        line.split(":")[0].strip(): line for line in Path("/proc/cpuinfo").read_text().splitlines()
    }
    if "la57" not in flags["flags"].split():
        assert highest + 1 == (1 << 47) - PAGE


def test_the_lowest_address_is_no_lower_than_the_sysctl() -> None:
    told = int(Path("/proc/sys/vm/mmap_min_addr").read_text())
    assert facts_here().lowest >= told
    assert facts_here().lowest % PAGE == 0


def test_the_capacity_is_what_the_kernel_returns(specimen: Specimen) -> None:
    answer = specimen.attempt("prctl", PR_GET_AUXV, specimen.place(bytes(8)), 8, 0, 0)
    skip_unless(answer > 0, "PR_GET_AUXV came with v6.4", impossible=True)
    assert answer == facts_here().auxv_capacity


def test_facts_do_not_depend_on_the_specimen(build: str) -> None:
    with Specimen(build) as specimen:
        assert probe_facts(specimen) == facts_here()


@pytest.mark.parametrize("less", [0, 1, 71])
def test_facts_do_not_depend_on_a_small_limit(less: int) -> None:
    with Specimen(heap_pages=0) as specimen:
        own = specimen.current_map()
        limit = own.end_data - own.start_data - less
        specimen.set_limit("DATA", limit, limit)
        assert specimen.set_map(own) == (22 if less else 0)
        assert probe_facts(specimen) == facts_here()


def test_facts_in_a_process_with_little_memory() -> None:
    code = "import resource\nresource.setrlimit(resource.RLIMIT_DATA, (100 << 20,) * 2)" + FACTS
    assert json.loads(python(code)) == as_data(facts_here())


def test_a_limit_that_lets_nothing_start_is_said() -> None:
    code = f"""
import resource
from prctlmm_lab.specimen.probe import doctor
resource.setrlimit(resource.RLIMIT_DATA, ({PAGE}, resource.RLIM_INFINITY))
diagnosis = doctor()
resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY,) * 2)
print(diagnosis.healthy, *(check.seen for check in diagnosis.checks if check.essential))
"""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    skip_unless(hard == resource.RLIM_INFINITY, "RLIMIT_DATA is limited already", impossible=True)
    shown = python(code)
    assert shown.startswith("False no specimen could be started: ")
    assert "Cannot allocate memory" in shown
    assert "RLIMIT_DATA" in shown


def test_facts_are_the_same_for_an_ordinary_user() -> None:
    needs_ordinary_user()
    needs_user_namespaces()
    done = as_ordinary_user(FACTS)
    assert done.stderr == ""
    assert json.loads(done.stdout) == as_data(facts_here())


def test_facts_are_asked_once() -> None:
    assert facts_here() is facts_here()


def python(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# ---- other kernels, by a specimen that answers as they would ------------------------------------


class OldKernel(Specimen):
    """A specimen whose kernel makes the checks of v3.18 as well."""

    def set_map(
        self, new: PrctlMmMap, *, size: int = MAP_SIZE, arg5: int = 0, pointer: int | None = None
    ) -> int:
        below = new.start_brk <= new.end_data or new.brk <= new.end_data
        if below or new.start_data >= new.end_data:
            return 22
        return super().set_map(new, size=size, arg5=arg5, pointer=pointer)


def test_an_older_kernel_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "Specimen", OldKernel)
    with OldKernel() as specimen:
        facts = probe_facts(specimen)
    assert (facts.empty_data_accepted, facts.heap_below_data_accepted) == (False, False)
    here = facts_here()
    assert (facts.lowest, facts.highest, facts.auxv_capacity) == (
        here.lowest,
        here.highest,
        here.auxv_capacity,
    )


class KernelOf61(Specimen):
    """A specimen whose kernel lets no title run on into the gap below a stack, as v6.1.192."""

    def snapshot(self, *, smaps: bool = False) -> Snapshot:
        shown = super().snapshot(smaps=smaps)
        is_crossing = isinstance(shown.cmdline, bytes) and shown.cmdline.startswith(b"xx\0")
        return replace(shown, cmdline=b"xx") if is_crossing else shown


class KernelOf612(Specimen):
    """A specimen whose kernel takes a file in memory as it was made, as v6.12.117."""

    made = -1

    def memory_file(self, name: str, contents: bytes = b"", mode: int = 0o755) -> int:
        self.made = super().memory_file(name, contents, mode)
        return self.made

    def set_map(
        self, new: PrctlMmMap, *, size: int = MAP_SIZE, arg5: int = 0, pointer: int | None = None
    ) -> int:
        answer = super().set_map(new, size=size, arg5=arg5, pointer=pointer)
        return 0 if answer == errno.EACCES and new.exe_fd == self.made else answer


@pytest.mark.parametrize(
    ("kernel", "name"),
    [(KernelOf61, "crossing_read_grows"), (KernelOf612, "unopened_exe_refused")],
)
def test_what_one_stable_series_does_is_recognised(
    kernel: type[Specimen], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_user_namespaces()
    here = facts_here()
    changed: dict[str, Any] = {name: False}
    usual = here.crossing_read_grows and here.unopened_exe_refused and here.written_exe_refused
    skip_unless(usual, "this kernel is one of them", impossible=True)
    monkeypatch.setattr(probe, "Specimen", kernel)
    with kernel() as specimen:
        assert probe_facts(specimen) == replace(here, **changed)


class AskingKernel(Specimen):
    """A specimen whose kernel asks for a capability before it looks at the map."""

    def set_map(
        self, new: PrctlMmMap, *, size: int = MAP_SIZE, arg5: int = 0, pointer: int | None = None
    ) -> int:
        return 1


def test_a_kernel_that_refuses_every_map_is_no_failure() -> None:
    with AskingKernel() as specimen:
        facts = probe_facts(specimen)
    assert (facts.available, facts.refusal_errno) == (False, 1)
    assert set(facts.assumed) == {
        "lowest", "highest", "auxv_capacity", "empty_data_accepted", "heap_below_data_accepted",
        "exe_permission_errno", "exe_capabilities", "exe_permission_early", "exe_changes_once",
        "mapped_exe_refused", "written_exe_refused", "touching_heap_labelled", "code_size_clamped",
        "hole_shrinks", "mapped_memory_joins", "crossing_read_grows", "unopened_exe_refused",
    }  # fmt: skip


class KernelWithoutMap(Specimen):
    """A specimen whose kernel has the operations for single members alone, and permits them."""

    def set_map(
        self, new: PrctlMmMap, *, size: int = MAP_SIZE, arg5: int = 0, pointer: int | None = None
    ) -> int:
        return errno.EINVAL

    def attempt(self, name: str, *arguments: int) -> int:
        if name != "prctl" or arguments[0] != PR_SET_MM:
            return super().attempt(name, *arguments)
        _, operation, value, size, _ = arguments
        own = self.current_map()
        if operation == Operation.START_STACK:
            return -super().set_map(own.changed(start_stack=value))
        if operation == Operation.AUXV:
            return -super().set_map(own.changed(auxv=value, auxv_size=size))
        return -errno.EINVAL


def test_without_the_call_single_members_tell_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "Specimen", KernelWithoutMap)
    with KernelWithoutMap() as specimen:
        facts = probe_facts(specimen)
    here = facts_here()
    assert (facts.available, facts.refusal_errno) == (False, errno.EINVAL)
    names = ("lowest", "highest", "auxv_capacity")
    assert [getattr(facts, name) for name in names] == [getattr(here, name) for name in names]
    assert not {*names} & {*facts.assumed}
    assert len(facts.assumed) == 14


# ---- the environment --------------------------------------------------------------------------


def test_capabilities_are_those_that_capsh_decodes() -> None:
    capsh = needs_tool("capsh")
    for mask in (0, (1 << len(CAPABILITIES)) - 1, 1 << 21 | 1 << 40, 0x1FFFEFFFFFF):
        command = [capsh, f"--decode={mask:x}"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
        names = shown.strip().split("=")[1]
        ours = ",".join(f"cap_{name.lower()}" for name in capability_names(mask))
        assert ours == names
    assert capability_names(1 << 60) == ("60",)


def test_the_environment_is_what_proc_says() -> None:
    around = environment()
    status = dict(
        line.split(":\t", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":\t" in line
    )
    assert around.uid == os.geteuid()
    assert len(around.capabilities) == int(status["CapEff"], 16).bit_count()
    assert around.seccomp == ["off", "strict", "filter"][int(status["Seccomp"])]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (around.limits["RLIMIT_NOFILE"].soft, around.limits["RLIMIT_NOFILE"].hard) == (
        soft,
        hard,
    )
    assert around.python == platform.python_version()
    assert around.versions == {name: version(name) for name in STACK}
    assert around.identities == (os.geteuid() == 0)
    assert around.user_namespaces == (around.user_namespace_errno == 0)
    if (told := Path("/sys/kernel/security/lsm")).exists():
        assert around.lsms == tuple(told.read_text().strip().split(","))


def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def test_a_user_namespace_is_what_unshare_gets() -> None:
    command = [needs_tool("unshare"), "--user", "--map-root-user", needs_tool("true")]
    done = subprocess.run(command, capture_output=True, timeout=10)
    assert environment().user_namespaces == (done.returncode == 0)


# ---- the doctor -------------------------------------------------------------------------------


def test_the_doctor_finds_this_place_healthy() -> None:
    diagnosis = doctor()
    works = {check.name: check.works for check in diagnosis.checks}
    assert diagnosis.healthy
    assert diagnosis.facts == facts_here()
    assert works["specimen"] is works["PR_SET_MM_MAP"] is True
    assert works["user namespaces"] == environment().user_namespaces
    assert len(works) == len(diagnosis.checks)
    assert all(check.remedy for check in diagnosis.checks if check.works is False)


def test_the_doctor_prints_what_it_found() -> None:
    diagnosis = doctor()
    whole, brief = diagnosis.text(), diagnosis.text(brief=True)
    assert str(diagnosis) == brief
    assert whole.startswith(f"Linux {platform.release()} on {platform.machine()}\n")
    for check in diagnosis.checks:
        assert check.name in whole
        assert check.seen in whole
        assert (check.remedy in whole) if check.works is False else True
    assert len(brief.splitlines()) < len(whole.splitlines())


BLOCKED = """
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
ALLOW, REFUSE = 0x7fff0000, 0x00050000 | {errno}
program = [
    (0x20, 0, 0, 0), (0x15, 0, 3, 157),        # another call than prctl: let it be
    (0x20, 0, 0, 16), (0x15, 0, 1, {argument}),  # another first argument: let it be
    (0x06, 0, 0, REFUSE), (0x06, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
filter = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()
os.execv(sys.executable, [sys.executable, "-m", "prctlmm_lab", *sys.argv[1:]])
"""


def under_a_filter(*arguments: str, refusal: int = 1) -> subprocess.CompletedProcess[str]:
    """Run the command line under a seccomp filter that refuses prctl(PR_SET_MM, ...)."""
    code = BLOCKED.format(errno=refusal, argument=35)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def blocked() -> dict[str, Any]:
    done = under_a_filter("doctor", "--json")
    assert (done.returncode, done.stderr) == (2, "")
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def test_the_doctor_says_that_the_call_is_blocked(blocked: dict[str, Any]) -> None:
    checks = {check["name"]: check for check in blocked["checks"]}
    assert blocked["healthy"] is False
    assert checks["specimen"]["works"] is True
    call = checks["PR_SET_MM_MAP"]
    assert (call["works"], call["seen"]) == (False, "the call gives EPERM")
    assert call["remedy"].startswith("Ask for a seccomp profile that lets prctl pass, or run outs")
    assert checks["seccomp"]["seen"] == "filter"


def test_what_cannot_be_asked_then_is_assumed(blocked: dict[str, Any]) -> None:
    facts, here = blocked["facts"], as_data(facts_here())
    assert (facts["available"], facts["refusal_errno"]) == (False, 1)
    assert len(facts["assumed"]) == 17
    known = set(facts) - set(facts["assumed"]) - {"available", "refusal_errno", "assumed"}
    assert {name: facts[name] for name in known} == {name: here[name] for name in known}
    assert 0 < int(facts["lowest"], 16) < int(facts["highest"], 16) < U64


def test_the_doctor_says_so_in_text_too() -> None:
    done = under_a_filter("doctor", "--brief", refusal=22)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    assert "does not  PR_SET_MM_MAP" in done.stdout
    assert "the call gives EINVAL" in done.stdout
    assert "seccomp profile" in done.stdout


def test_a_place_without_specimens_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Facts:
        raise SpecimenStartError(0, "posix_spawn", ("a memory file: no",))

    monkeypatch.setattr(probe, "facts_here", none)
    diagnosis = doctor()
    assert not diagnosis.healthy
    assert (diagnosis.facts, diagnosis.environment) == (None, None)
    assert "no specimen could be started: a memory file: no" in diagnosis.text()
    assert diagnosis.checks[0].remedy


def test_doctor_in_a_snapshot_of_limits(specimen: Specimen) -> None:
    limits = specimen.snapshot().limits
    assert not isinstance(limits, Unreadable)
    assert limits.keys() == environment().limits.keys()
