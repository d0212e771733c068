"""What this kernel and this environment are, found by asking specimens.

`facts_here` gives what the rules need. `environment` gives what a person needs to know of the
place: privileges, limits, namespaces, container, versions. `doctor` judges both: what works here,
what does not, and the remedy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from prctlmm_lab.errors import LabError, SystemCallError
from prctlmm_lab.kernel.abi import ADDRESSES, MAP_SIZE, PR_SET_MM, U64, Operation, PrctlMmMap
from prctlmm_lab.kernel.facts import CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN, Facts
from prctlmm_lab.kernel.procfs import Limit, Unreadable, read_snapshot
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.recording import mode, store
from prctlmm_lab.specimen.recording.marks import note
from prctlmm_lab.specimen.situation import may_change_exe

STACK = ("jupyterlab", "ipykernel", "ipywidgets", "matplotlib", "pandas", "numpy", "pydantic")
"""The notebook stack, whose versions decide what is shown."""

CAPABILITIES = tuple(
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE".split()
)
"""Capabilities in the order of their bits, without the CAP_ prefix (linux/capability.h)."""

_TASK_SIZE = (1 << 47) - PAGE
_EITHER = 1 << CAP_SYS_ADMIN | 1 << CAP_CHECKPOINT_RESTORE
_CLOSED = 0x7FFFFFFF
"""A descriptor that nobody has open."""

LSMS = {
    100: "capability", 101: "selinux", 102: "smack", 103: "tomoyo", 104: "apparmor", 105: "yama",
    106: "loadpin", 107: "safesetid", 108: "lockdown", 109: "bpf", 110: "landlock", 111: "ima",
    112: "evm", 113: "ipe",
}  # fmt: skip
"""Identities of the security modules (include/uapi/linux/lsm.h, v6.8)."""


# ---- the kernel's facts ---------------------------------------------------------------------


def facts_here() -> Facts:
    """Return the facts of the running kernel; asked once for each Python process.

    In recorded mode they are those of the kernel that was recorded.

    >>> facts = facts_here()
    >>> facts.lowest < facts.highest
    True

    Raises UnsupportedSystem or SpecimenError where no specimen can be started.
    """
    if mode.is_recorded():
        note(store.shipped().origin)
        return store.shipped().known_facts
    return _facts_of_this_kernel()


@cache
def _facts_of_this_kernel() -> Facts:
    with _modest_specimen() as specimen:
        return probe_facts(specimen)


def probe_facts(specimen: Specimen) -> Facts:
    """Find the facts by asking a specimen, which is left with changed notes.

    Where the kernel does not have the call, the operations for single members tell the bounds, to
    a caller that they are permitted. What cannot be asked holds the newest kernels' value and is
    named in `assumed`.
    """
    refusal, size = ask_map_size(specimen)
    modest = _modest(specimen.current_map())
    refusal = refusal or specimen.set_map(modest)
    assumed: list[str] = []

    def probed(
        name: str,
        newest: int,
        ask: Callable[[], int | None],
        without_map: Callable[[], int | None] = lambda: None,
    ) -> int:
        found = without_map() if refusal else ask()
        if found is None:
            assumed.append(name)
        return newest if found is None else found

    def accepts(**members: int) -> bool:
        return specimen.set_map(modest.changed(**members)) == 0

    def accepts_vector(auxv: int, auxv_size: int) -> bool:
        return accepts(auxv=auxv, auxv_size=auxv_size)

    start, end = modest.start_data, modest.end_data
    inside = modest.start_stack
    return Facts(
        release=platform.release(),
        machine=platform.machine(),
        page_size=_page_size(specimen),
        available=not refusal,
        refusal_errno=refusal,
        map_size=size,
        lowest=probed(
            "lowest",
            PAGE,
            lambda: _furthest(accepts, inside, 0),
            lambda: _furthest_alone(specimen, inside, 0),
        ),
        highest=probed(
            "highest",
            _TASK_SIZE - 1,
            lambda: _furthest(accepts, inside, U64),
            lambda: _furthest_alone(specimen, inside, U64),
        ),
        auxv_capacity=probed(
            "auxv_capacity",
            448,
            lambda: _auxv_capacity(specimen, accepts_vector),
            lambda: _auxv_capacity_alone(specimen),
        ),
        empty_data_accepted=bool(
            probed("empty_data_accepted", True, lambda: accepts(start_data=end))
        ),
        heap_below_data_accepted=bool(
            probed("heap_below_data_accepted", True, lambda: accepts(start_brk=start, brk=start))
        ),
        exe_permission_errno=probed("exe_permission_errno", errno.EPERM, _permission_errno),
        exe_capabilities=probed("exe_capabilities", _EITHER, _exe_capabilities),
        exe_permission_early=bool(probed("exe_permission_early", False, _permission_early)),
        exe_changes_once=bool(probed("exe_changes_once", False, _exe_changes_once)),
        mapped_exe_refused=bool(probed("mapped_exe_refused", True, _mapped_exe_refused)),
        written_exe_refused=bool(probed("written_exe_refused", True, _written_exe_refused)),
        touching_heap_labelled=bool(probed("touching_heap_labelled", False, _touching_labelled)),
        code_size_clamped=bool(probed("code_size_clamped", True, _code_size_clamped)),
        hole_shrinks=bool(probed("hole_shrinks", False, _hole_shrinks)),
        auxv_tail_kept=_auxv_tail_kept(),
        mapped_memory_joins=bool(probed("mapped_memory_joins", True, _mapped_memory_joins)),
        crossing_read_grows=bool(probed("crossing_read_grows", True, _crossing_read_grows)),
        unopened_exe_refused=bool(probed("unopened_exe_refused", True, _unopened_exe_refused)),
        assumed=tuple(assumed),
    )


def _page_size(specimen: Specimen) -> int:
    """Ask for the smallest alignment that munmap() accepts, low where nothing is mapped."""
    sizes = (1 << bit for bit in range(17))
    return next((size for size in sizes if specimen.attempt("munmap", size, 1) == 0), PAGE)


@contextlib.contextmanager
def _modest_specimen() -> Iterator[Specimen]:
    """Give a specimen without a heap, whose RLIMIT_DATA is as large as it may be."""
    with Specimen(heap_pages=0) as specimen:
        specimen.set_limit("DATA", specimen.limit("DATA")[1])
        yield specimen


def _modest(own: PrctlMmMap) -> PrctlMmMap:
    """Return a map that every kernel accepts, however small RLIMIT_DATA: one byte of data."""
    return own.changed(start_data=own.end_data - 1, brk=own.start_brk)


def ask_map_size(specimen: Specimen) -> tuple[int, int]:
    """Ask PR_SET_MM_MAP_SIZE and return (errno, size); the size is 104 where it is not told.

    Equivalent: `prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0)` in C.
    """
    address = specimen.place(bytes(4))
    answer = -specimen.attempt("prctl", PR_SET_MM, Operation.MAP_SIZE, address, 0, 0)
    told = struct.unpack("<I", specimen.read(address, 4))[0]
    return answer, told if answer == 0 else MAP_SIZE


def _furthest(accepts: Callable[..., bool], good: int, bad: int) -> int:
    """Bisect for the last start_stack that is accepted: the one member no other rule reads."""
    if accepts(start_stack=bad):
        return bad
    while abs(bad - good) > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if accepts(start_stack=middle) else (good, middle)
    return good


def _furthest_alone(specimen: Specimen, good: int, bad: int) -> int | None:
    """Ask the same by the operation for start_stack, which is judged for where it lies first.

    Above all that is mapped it gives EFAULT, beyond user space EINVAL.
    """

    def accepts(start_stack: int) -> bool:
        return _alone(specimen, Operation.START_STACK, start_stack) != errno.EINVAL

    is_permitted = _alone(specimen, Operation.START_STACK, good) == 0
    return _furthest(accepts, good, bad) if is_permitted else None


def _auxv_capacity_alone(specimen: Specimen) -> int | None:
    """Ask the same by the operation for the vector."""

    def accepts(auxv: int, auxv_size: int) -> bool:
        return _alone(specimen, Operation.AUXV, auxv, auxv_size) == 0

    return _auxv_capacity(specimen, accepts) or None


def _alone(specimen: Specimen, operation: int, value: int, size: int = 0) -> int:
    return -specimen.attempt("prctl", PR_SET_MM, operation, value, size, 0)


def _auxv_capacity(specimen: Specimen, accepts: Callable[[int, int], bool]) -> int:
    """Bisect for the largest auxv_size, over memory that is surely readable."""
    top = 1 << 16
    memory = specimen.place(bytes(top))
    good, bad = 0, top + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if accepts(memory, middle) else (good, middle)
    return good


def _auxv_tail_kept() -> bool:
    """Give PR_SET_MM_AUXV one entry of type 1, and see whether more than that and its end stay."""
    with _modest_specimen() as specimen:
        entry = specimen.place(struct.pack("<2Q", 1, 1))
        answer = _alone(specimen, Operation.AUXV, entry, 16)
        auxv = specimen.snapshot().auxv
        return answer == 0 and not isinstance(auxv, Unreadable) and len(auxv) > 32


def _permission_errno() -> int | None:
    """Ask for a change of exe with a closed descriptor, without the permission for it."""
    with _unprivileged_specimen() as specimen:
        return None if specimen is None else _exe_answer(specimen, _CLOSED)


def _permission_early() -> bool | None:
    """Lack the permission, and have the copy of the auxiliary vector fail as well."""
    with _unprivileged_specimen() as specimen:
        if specimen is None:
            return None
        new = _modest(specimen.current_map()).changed(auxv=1, auxv_size=16, exe_fd=_CLOSED)
        return specimen.set_map(new) != errno.EFAULT


@contextlib.contextmanager
def _unprivileged_specimen() -> Iterator[Specimen | None]:
    """Give a specimen that may not change its exe link."""
    with _modest_specimen() as specimen:
        if may_change_exe(specimen.snapshot()):
            try:
                specimen.become(65534)
            except SystemCallError:
                yield None
                return
        yield specimen


def _exe_capabilities() -> int | None:
    """Keep one capability only, and see whether the descriptor is looked at."""
    permitting = 0
    for bit in (CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE):
        with privileged_specimen() as specimen:
            if specimen is None:
                return None
            try:
                specimen.keep_capabilities(1 << bit)
            except SystemCallError:  # unknown before v5.9, or not ours
                continue
            permitting |= (_exe_answer(specimen, _CLOSED) == errno.EBADF) << bit
    return permitting


def _exe_answer(specimen: Specimen, descriptor: int) -> int:
    return specimen.set_map(_modest(specimen.current_map()).changed(exe_fd=descriptor))


@contextlib.contextmanager
def privileged_specimen() -> Iterator[Specimen | None]:
    """Give a specimen that may change its exe link, in a user namespace if need be, or None."""
    with _modest_specimen() as specimen:
        if not may_change_exe(specimen.snapshot()):
            try:
                specimen.enter_user_namespace()
            except SystemCallError:
                yield None
                return
        yield specimen


def _mapped_exe_refused() -> bool | None:
    with privileged_specimen() as specimen, _none_if_refused():
        if specimen is not None:
            return _exe_answer(specimen, specimen.memory_file("other")) == errno.EBUSY
    return None


def _written_exe_refused() -> bool | None:
    """Offer a memory file that was opened again, once to read and once to write."""
    with _written_memory_file() as offered:
        if offered is not None:
            specimen, descriptor = offered
            again = specimen.open(f"/proc/self/fd/{descriptor}")
            return _exe_answer(specimen, again) == errno.EACCES
    return None


def _unopened_exe_refused() -> bool | None:
    """Offer it by the descriptor with which it was made; True where no written file is refused."""
    with _written_memory_file() as offered:
        if offered is not None:
            specimen, made = offered
            again = specimen.open(f"/proc/self/fd/{made}")
            is_refused = _exe_answer(specimen, again) == errno.EACCES
            return not is_refused or _exe_answer(specimen, made) == errno.EACCES
    return None


@contextlib.contextmanager
def _written_memory_file() -> Iterator[tuple[Specimen, int] | None]:
    """Give a specimen that may change its exe link, and a memory file that is open for writing."""
    with privileged_specimen() as specimen, _none_if_refused():
        if specimen is not None:
            specimen.release_executable()
            descriptor = specimen.memory_file("written")
            specimen.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
            yield specimen, descriptor
            return
    yield None


def _exe_changes_once() -> bool | None:
    with privileged_specimen() as specimen, _none_if_refused():
        if specimen is not None:
            specimen.release_executable()
            descriptor = specimen.memory_file("other")
            if _exe_answer(specimen, descriptor) == 0:
                return _exe_answer(specimen, descriptor) == errno.EPERM
    return None


def _touching_labelled() -> bool:
    """Let an empty heap begin where a VMA ends."""
    with _modest_specimen() as specimen:
        end = specimen.map(PAGE) + PAGE
        specimen.set_map(_modest(specimen.current_map()).changed(start_brk=end, brk=end))
        return bool(specimen.snapshot().labelled("[heap]"))


def _code_size_clamped() -> bool | None:
    """Say that the code is larger than all that is executable."""
    with _modest_specimen() as specimen:
        own = _modest(specimen.current_map())
        specimen.set_map(own.changed(end_code=own.start_code + (1 << 30)))
        status = specimen.snapshot().status
        if isinstance(status, Unreadable) or "VmExe" not in status:
            return None
        return int(status["VmExe"].split()[0]) < 1 << 20


def _hole_shrinks() -> bool:
    """Let a heap be where nothing is mapped, and ask for its end to move down."""
    with _modest_specimen() as specimen:
        hole = specimen.map(2 * PAGE)
        specimen.unmap(hole, 2 * PAGE)
        own = _modest(specimen.current_map())
        specimen.set_map(own.changed(start_brk=hole, brk=hole + 2 * PAGE))
        return specimen.brk(hole) == hole


def _mapped_memory_joins() -> bool:
    """Let a mapping be the heap, and ask for a page more."""
    with _modest_specimen() as specimen:
        start = specimen.map(4 * PAGE)
        specimen.unmap(start + PAGE, 3 * PAGE)  # brk() asks for room for a page more
        own = _modest(specimen.current_map())
        specimen.set_map(own.changed(start_brk=start, brk=start + PAGE))
        specimen.brk(start + 2 * PAGE)
        vma = specimen.snapshot().vma_at(start + PAGE)
        return vma is not None and vma.start == start


def _crossing_read_grows() -> bool:
    """Let cmdline be a title that runs on from one page into the gap below another.

    Both grow down: below what grows down other memory must keep its distance (stack_guard_gap).
    """
    with _modest_specimen() as specimen:
        start = specimen.map(4 * PAGE)
        specimen.unmap(start, 4 * PAGE)
        end = specimen.map(PAGE, at=start, grows_down=True) + PAGE
        specimen.map(PAGE, at=start + 3 * PAGE, grows_down=True)
        specimen.write(end - 2, b"xx")
        title = {"arg_start": end - 2, "arg_end": end, "env_start": end, "env_end": end + 1}
        specimen.set_map(_modest(specimen.current_map()).changed(**title))
        return specimen.snapshot().cmdline != b"xx"


def _none_if_refused() -> contextlib.suppress:
    """Leave a question open whose preparations the system refuses."""
    return contextlib.suppress(SystemCallError)


# ---- the environment ------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """The place the lab runs in, as far as it decides what can be done."""

    uid: int
    capabilities: tuple[str, ...]
    """Effective capabilities, without the CAP_ prefix."""
    user_namespaces: bool
    """True if a specimen may create one and map its ids."""
    user_namespace_errno: int
    seccomp: str
    """"off", "strict" or "filter"."""
    lsms: tuple[str, ...]
    """Active security modules in the kernel's order, or () if it does not tell."""
    limits: dict[str, Limit]
    container: str
    """Kind of container, or ""."""
    virtual_machine: str
    """Kind of virtual machine, or ""."""
    single_member_errno: int
    """What a legacy operation answers that would change nothing; 0 if it is allowed."""
    randomize_off: bool
    """True if address randomisation can be switched off for a specimen."""
    identities: bool
    """True if a specimen may take on another uid."""
    python: str
    versions: dict[str, str | None]
    """The notebook stack; None for what is not installed."""


def environment() -> Environment:
    """Look around: who we are, what is allowed, what surrounds us."""
    snapshot = read_snapshot()
    status = {} if isinstance(snapshot.status, Unreadable) else snapshot.status
    namespace_errno = _tries(lambda specimen: specimen.enter_user_namespace())
    return Environment(
        uid=os.geteuid(),
        capabilities=capability_names(int(status.get("CapEff", "0"), 16)),
        user_namespaces=namespace_errno == 0,
        user_namespace_errno=namespace_errno,
        seccomp={"0": "off", "1": "strict", "2": "filter"}.get(status.get("Seccomp", "0"), "?"),
        lsms=_active_lsms(),
        limits={} if isinstance(snapshot.limits, Unreadable) else dict(snapshot.limits),
        container=_container(),
        virtual_machine=_virtual_machine(),
        single_member_errno=_tries(_set_start_code_as_it_is),
        randomize_off=_tries(lambda specimen: specimen.syscall("personality", 0x0040000)) == 0,
        identities=_tries(lambda specimen: specimen.become(65534)) == 0,
        python=platform.python_version(),
        versions={name: _version(name) for name in STACK},
    )


def capability_names(bits: int) -> tuple[str, ...]:
    """Name the capabilities of a mask.

    >>> capability_names(1 << 24 | 1 << 40)
    ('SYS_RESOURCE', 'CHECKPOINT_RESTORE')

    Equivalent: `capsh --decode=MASK`.
    """
    known = dict(enumerate(CAPABILITIES))
    return tuple(known.get(i, str(i)) for i in range(bits.bit_length()) if bits >> i & 1)


def _tries(step: Callable[[Specimen], object]) -> int:
    """Let a specimen do something and return the errno, 0 if it could."""
    with Specimen(heap_pages=0) as specimen:
        try:
            step(specimen)
        except SystemCallError as error:
            return error.errno or 0
    return 0


def _set_start_code_as_it_is(specimen: Specimen) -> None:
    address = specimen.current_map().start_code
    specimen.syscall("prctl", PR_SET_MM, Operation.START_CODE, address, 0, 0)


def _active_lsms() -> tuple[str, ...]:
    with contextlib.suppress(OSError):
        return tuple(Path("/sys/kernel/security/lsm").read_text().strip().split(","))
    with Specimen(heap_pages=0) as specimen:
        ids = specimen.place(bytes(512) + struct.pack("<I", 512))
        count = specimen.attempt("lsm_list_modules", ids, ids + 512, 0)  # v6.8
        if count <= 0:
            return ()
        numbers = struct.unpack(f"<{count}Q", specimen.read(ids, 8 * count))
        return tuple(LSMS.get(number, str(number)) for number in numbers)


def _container() -> str:
    named = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}
    for path, kind in named.items():
        if os.path.exists(path):
            return kind
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    with contextlib.suppress(OSError):
        return Path("/run/systemd/container").read_text().strip()
    with contextlib.suppress(OSError):
        groups = Path("/proc/1/cgroup").read_text()
        if match := re.search(r"docker|kubepods|lxc|containerd", groups):
            return match[0]
    return ""


def _virtual_machine() -> str:
    release = platform.release().lower()
    if "microsoft" in release:
        return "WSL2" if "wsl2" in release else "WSL"
    with contextlib.suppress(OSError):
        if "gvisor" in Path("/proc/version").read_text().lower():
            return "gVisor"
    with contextlib.suppress(OSError):
        vendor = Path("/sys/class/dmi/id/sys_vendor").read_text().strip()
        if re.search(r"QEMU|VMware|innotek|Xen|Amazon|Google|Microsoft|Parallels", vendor):
            return vendor
    with contextlib.suppress(OSError):
        if re.search(r"(?m)^flags\b.*\bhypervisor\b", Path("/proc/cpuinfo").read_text()):
            return "unnamed hypervisor"
    return ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ---- doctor -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One line of `doctor`: whether it works here, what was seen, and the remedy if it does not."""

    name: str
    works: bool | None
    """None for a plain fact that is neither good nor bad."""
    seen: str
    remedy: str = ""
    essential: bool = False
    """True if the lab is of little use without it."""


@dataclass(frozen=True)
class Diagnosis:
    """All that `doctor` found."""

    checks: tuple[Check, ...]
    facts: Facts | None
    environment: Environment | None

    @property
    def healthy(self) -> bool:
        """True if everything essential works."""
        return all(check.works is not False for check in self.checks if check.essential)

    def text(self, *, brief: bool = False) -> str:
        """Return what was found as lines of text; the few that matter most if `brief`."""
        lines = [f"Linux {self.facts.release} on {self.facts.machine}"] if self.facts else []
        for check in self.checks:
            if brief and check.name not in _BRIEF and not (check.essential and not check.works):
                continue
            mark = {True: "works", False: "does not", None: ""}[check.works]
            lines.append(f"{mark:>8}  {check.name:20}  {check.seen}")
            if check.works is False and check.remedy:
                lines.append(f"{'':32}{check.remedy}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text(brief=True)


_BRIEF = ("PR_SET_MM_MAP", "notebooks", "change of exe", "notebook stack")


def doctor() -> Diagnosis:
    """Say what works here, what does not, and the remedy in this environment.

    The command line's equivalent is `prctlmm-lab doctor`.
    """
    if mode.is_recorded():
        return _recorded_diagnosis()
    try:
        facts, around = facts_here(), environment()
    except LabError as error:
        remedy = "The notebooks show recorded results until then."
        return Diagnosis((Check("specimen", False, str(error), remedy, True),), None, None)
    checks = (*_call_checks(facts, around), *_place_checks(around), *_stack_checks(around.versions))
    return Diagnosis(checks, facts, around)


def _recorded_diagnosis() -> Diagnosis:
    """Say why nothing real happens here, and what is shown instead."""
    origin = store.shipped().origin
    shown = f"{origin}; what has no record is predicted, and says so"
    remedy = "Linux on x86-64 or arm64, with a kernel that lets the call pass: plain, WSL2, Docker."
    checks = (
        Check("PR_SET_MM_MAP", False, mode.why(), remedy, essential=True),
        Check("notebooks", True, shown),
        *_stack_checks({name: _version(name) for name in STACK}, ps=False),
    )
    return Diagnosis(checks, None, None)


def _call_checks(facts: Facts, around: Environment) -> tuple[Check, ...]:
    size = f"struct of {facts.map_size} bytes"
    refusal = f"the call gives {errno_name(facts.refusal_errno)}"
    addresses = f"{facts.lowest:#x} to {facts.highest:#x}, for each of {len(ADDRESSES)} members"
    permitted = {"SYS_ADMIN", "CHECKPOINT_RESTORE"} & set(around.capabilities)
    if permitted:
        exe = f"as we are ({' or '.join('CAP_' + name for name in sorted(permitted))})"
    else:
        exe = "in a user namespace" if around.user_namespaces else "not permitted"
    return (
        Check("specimen", True, "starts, answers, ends", essential=True),
        Check(
            "PR_SET_MM_MAP", facts.available, size if facts.available else refusal,
            _missing_call_remedy(around), essential=True,
        ),
        Check("addresses", None, addresses),
        Check("auxv_size", None, f"up to {facts.auxv_capacity} bytes"),
        Check(
            "change of exe", bool(permitted) or around.user_namespaces, exe,
            "Allow user namespaces (see below), or give CAP_CHECKPOINT_RESTORE.",
        ),
        Check(
            "single-member calls", not around.single_member_errno,
            f"PR_SET_MM_START_CODE gives {errno_name(around.single_member_errno)}",
            "Not needed: the legacy operations ask for CAP_SYS_RESOURCE, PR_SET_MM_MAP does not.",
        ),
    )  # fmt: skip


def _missing_call_remedy(around: Environment) -> str:
    if around.virtual_machine == "gVisor":
        return "gVisor does not have the call: use a runtime with a Linux kernel."
    if around.seccomp == "filter":
        where = "the container" if around.container else "the sandbox"
        return f"Ask for a seccomp profile that lets prctl pass, or run outside {where}."
    return "Use a kernel with CONFIG_CHECKPOINT_RESTORE=y (Debian, Ubuntu, Fedora, WSL2 have it)."


def _place_checks(around: Environment) -> tuple[Check, ...]:
    namespaces = (
        "may be created" if around.user_namespaces else errno_name(around.user_namespace_errno)
    )
    who = f"uid {around.uid}, {len(around.capabilities)} capabilities"
    place = ", ".join(filter(None, (around.container, around.virtual_machine))) or "plain system"
    data = around.limits.get("RLIMIT_DATA")
    return (
        Check("identity", None, who),
        Check("user namespaces", around.user_namespaces, namespaces, _namespace_remedy(around)),
        Check(
            "ASLR off", around.randomize_off, "for a specimen, by personality(2)",
            "Not needed: recipes are symbolic. Outside a container's seccomp profile it works.",
        ),
        Check("other identities", around.identities, "setresuid in a specimen",
              "Not needed: only to compare users; run as root to do it."),
        Check("seccomp", None, around.seccomp),
        Check("LSMs", None, ", ".join(around.lsms) or "not told"),
        Check("RLIMIT_DATA", None, "not known" if data is None else _limit_text(data)),
        Check("place", None, place),
    )  # fmt: skip


def _namespace_remedy(around: Environment) -> str:
    if around.container:
        return "Start the container with a seccomp profile that allows unshare; all else works."
    settings = {
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0",
        "/proc/sys/kernel/unprivileged_userns_clone": "1",
    }
    for path, wanted in settings.items():
        with contextlib.suppress(OSError):
            if Path(path).read_text().strip() != wanted:
                name = path.removeprefix("/proc/sys/").replace("/", ".")
                return f"Ask for `sysctl {name}={wanted}`."
    return "Ask for `sysctl user.max_user_namespaces=10000`."


def _limit_text(limit: Limit) -> str:
    return "unlimited" if limit.soft is None else f"{limit.soft:#x} bytes"


def _stack_checks(versions: dict[str, str | None], *, ps: bool = True) -> tuple[Check, ...]:
    missing = [name for name, version in versions.items() if version is None]
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    python = f"{platform.python_version()} ({Path(sys.prefix).name})"
    found = shutil.which("ps")
    eyes = Check("ps", found is not None, found or "not installed",
                 "Notebook 00 looks through its eyes: install procps.")  # fmt: skip
    return (
        Check("Python", sys.version_info >= (3, 11), python, "Use Python 3.11 or newer.",
              True),
        *([eyes] if ps else []),
        Check(
            "notebook stack", not missing, f"missing: {', '.join(missing)}" if missing else shown,
            "Run `make lab`, which installs it.",
        ),
    )  # fmt: skip
