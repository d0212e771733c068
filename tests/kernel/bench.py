"""Calls that break rules on purpose: for each rule, what stands just inside it and just beyond.

A `Plan` says what a call and its caller look like; `INSIDE` and `BEYOND` change a plan that the
kernel accepts so that one rule is met at its boundary, or broken by the least that breaks it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from prctlmm_lab.errors import SystemCallError
from prctlmm_lab.kernel.abi import ADDRESSES, MAP_SIZE, NO_EXE, PR_SET_MM, U64, PrctlMmMap
from prctlmm_lab.kernel.facts import CAP_SYS_ADMIN, Facts
from prctlmm_lab.kernel.procfs import Unreadable
from prctlmm_lab.kernel.rules import Explanation, Situation, explain
from prctlmm_lab.specimen.probe import probe_facts
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.situation import may_change_exe, situation_of

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22


@dataclass
class Plan:
    """A call that is to be made, and what its caller is to be like."""

    specimen: Specimen
    facts: Facts
    own: PrctlMmMap
    edge: int
    """The end of a page that can be read and written; behind it lies one that cannot."""
    changes: dict[str, int] = field(default_factory=dict)
    size: int = MAP_SIZE
    arg5: int = 0
    pointer: int | None = None
    need_less_limit: int | None = None
    """RLIMIT_DATA, as bytes below what the map needs."""
    file: str = ""
    """What exe_fd is; "" for no change of the exe link."""
    permitted: bool = True
    released: bool = True
    changed_before: bool = False
    """The exe link was changed once already."""
    blocked: bool = False
    """A filter answers EPERM, as a kernel without the call does."""

    @property
    def map(self) -> PrctlMmMap:
        return self.own.changed(**self.changes)


Change = Callable[[Plan], None]


@dataclass(frozen=True)
class Observation:
    """One real call: what was known before it, and what the kernel said."""

    situation: Situation
    facts: Facts
    errno: int

    @property
    def explanation(self) -> Explanation:
        return explain(self.situation, self.facts)


def plan_on(specimen: Specimen, facts: Facts) -> Plan:
    specimen.set_limit("DATA", specimen.limit("DATA")[1])
    pages = specimen.map(2 * PAGE)
    specimen.protect(pages + PAGE, PAGE, "---")
    return Plan(specimen, facts, specimen.current_map(), pages + PAGE)


def observe(plan: Plan) -> Observation:
    """Make the caller what the plan says, make the call, and note what was known before it."""
    specimen, facts = plan.specimen, plan.facts
    if plan.file:
        if plan.permitted:
            _permit(specimen)
        plan.changes["exe_fd"] = FILES[plan.file](specimen)
        if plan.released:
            specimen.release_executable()
        if plan.changed_before:
            assert specimen.set_map(plan.own.changed(exe_fd=plan.changes["exe_fd"])) == 0
        if not plan.permitted:
            specimen.keep_capabilities(0)
    new = plan.map
    if plan.pointer is not None:
        with contextlib.suppress(SystemCallError):  # as much of it as memory can hold
            specimen.write(plan.pointer, new.pack())
    if plan.need_less_limit is not None:
        need = (new.brk - new.start_brk + new.end_data - new.start_data) & U64
        specimen.set_limit("DATA", (need - plan.need_less_limit) & U64)
    if plan.blocked:
        _block_the_call(specimen)
        facts = probe_facts(specimen)
    size, arg5, pointer = plan.size, plan.arg5, plan.pointer
    situation = situation_of(specimen, new, size=size, arg5=arg5, pointer=pointer)
    said = specimen.set_map(new, size=size, arg5=arg5, pointer=pointer)
    return Observation(situation, facts, said)


# ---- what the caller is like ------------------------------------------------------------------


def _permit(specimen: Specimen) -> None:
    if not may_change_exe(specimen.snapshot()):
        specimen.enter_user_namespace()


def _block_the_call(specimen: Specimen) -> None:
    """Install a seccomp filter that refuses prctl(PR_SET_MM, ...) with EPERM and lets all else be.

    It loads the number of the call and its first argument (linux/seccomp.h, struct seccomp_data).
    """
    load, jump_if_equal, answer = 0x20, 0x15, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM
    program = [
        (load, 0, 0, 0),
        (jump_if_equal, 0, 3, 157),  # prctl
        (load, 0, 0, 16),
        (jump_if_equal, 0, 1, PR_SET_MM),
        (answer, 0, 0, refuse),
        (answer, 0, 0, allow),
    ]
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    address = specimen.place(struct.pack("<HxxxxxxQ", len(program), 0) + code)
    specimen.write(address + 8, struct.pack("<Q", address + 16))
    specimen.syscall("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    specimen.syscall("prctl", PR_SET_SECCOMP, 2, address)


# ---- what exe_fd is ---------------------------------------------------------------------------


def _closed(specimen: Specimen) -> int:
    descriptor = specimen.memory_file("closed")
    specimen.close(descriptor)
    return descriptor


def _written(specimen: Specimen) -> int:
    descriptor = specimen.memory_file("written")
    specimen.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
    return descriptor


def _written_before(specimen: Specimen) -> int:
    descriptor = specimen.memory_file("written")
    specimen.close(specimen.open(f"/proc/self/fd/{descriptor}", os.O_RDWR))
    return descriptor


def _on_own_mount(specimen: Specimen, *, noexec: bool) -> int:
    """Make an executable file on a tmpfs that only this specimen sees."""
    status = specimen.snapshot().status
    assert not isinstance(status, Unreadable)
    if not int(status["CapEff"], 16) >> CAP_SYS_ADMIN & 1:
        specimen.enter_user_namespace()
    return specimen.file_on_own_mount("program", noexec=noexec)


FILES: dict[str, Callable[[Specimen], int]] = {
    "executable": lambda s: s.memory_file("executable", mode=0o100),
    "closed": _closed,
    "path only": lambda s: s.open("/proc/self/exe", os.O_PATH),
    "folder": lambda s: s.open("/", os.O_RDONLY | os.O_DIRECTORY),
    "device": lambda s: s.open("/dev/null"),
    "socket": lambda s: 3,
    "file of proc": lambda s: s.open("/proc/self/stat"),
    "on a mount": lambda s: _on_own_mount(s, noexec=False),
    "on a noexec mount": lambda s: _on_own_mount(s, noexec=True),
    "without x": lambda s: s.memory_file("plain", mode=0o666),
    "written": _written,
    "written before": _written_before,
}


# ---- the boundaries ---------------------------------------------------------------------------


def members(**changes: Callable[[Plan], int]) -> Change:
    def change(plan: Plan) -> None:
        plan.changes |= {name: value(plan) for name, value in changes.items()}

    return change


def call(**options: object) -> Change:
    def change(plan: Plan) -> None:
        for name, value in options.items():
            setattr(plan, name, value(plan) if callable(value) else value)

    return change


def exe(file: str = "", **options: bool) -> Change:
    """Ask for a change of the exe link, to a file of this kind or of any."""
    return call(file=lambda p: file or p.file or "executable", **options)


def _ranges() -> tuple[dict[str, Change], dict[str, Change]]:
    """Meet and pass the bound of each address that breaks no other rule: starts low, ends high."""
    inside, beyond = {}, {}
    for name in ADDRESSES:
        low = name.startswith(("start", "arg_start", "env_start"))
        last = (lambda p: p.facts.lowest) if low else (lambda p: p.facts.highest)
        step = -1 if low else +1
        inside[f"range.{name}"] = members(**{name: last})
        beyond[f"range.{name}"] = members(**{name: lambda p, last=last, step=step: last(p) + step})
    return inside, beyond


def _equal(end: str, start: str, distance: int) -> Change:
    return members(**{end: lambda p: dict(p.own)[start] + distance})


RANGES_INSIDE, RANGES_BEYOND = _ranges()

INSIDE: dict[str, Change] = {
    "call.arg5": call(arg5=0),
    "call.option": call(blocked=False),
    "call.size": call(size=lambda p: p.facts.map_size),
    "call.struct": call(pointer=lambda p: p.edge - MAP_SIZE),
    **RANGES_INSIDE,
    "order.code": _equal("end_code", "start_code", +1),
    "order.data_strict": _equal("end_data", "start_data", +1),
    "order.data": _equal("end_data", "start_data", 0),
    "order.brk": _equal("brk", "start_brk", 0),
    "order.arg": _equal("arg_end", "arg_start", 0),
    "order.env": _equal("env_end", "env_start", 0),
    "heap.above_data": members(
        start_brk=lambda p: p.own.end_data + 1, brk=lambda p: p.own.end_data + 1
    ),
    "limit.data": call(need_less_limit=0),
    "auxv.null": members(auxv=lambda p: p.edge - 16, auxv_size=lambda p: 16),
    "auxv.size": members(auxv=lambda p: p.edge - 2048, auxv_size=lambda p: p.facts.auxv_capacity),
    "exe.ids": exe("executable"),
    "exe.permission_early": exe("executable"),
    "auxv.readable": members(auxv=lambda p: p.edge - 16, auxv_size=lambda p: 16),
    "exe.permission": exe("executable"),
    "exe.descriptor": exe("executable"),
    "exe.regular": exe("executable"),
    "exe.noexec": exe("on a mount"),
    "exe.executable": exe("executable"),
    "exe.busy": exe("executable"),
    "exe.once": exe("executable"),
    "exe.written": exe("written before"),
}

BEYOND: dict[str, Change] = {
    "call.arg5": call(arg5=1),
    "call.option": call(blocked=True),
    "call.size": call(size=lambda p: p.facts.map_size + 1),
    "call.struct": call(pointer=lambda p: p.edge - MAP_SIZE + 1),
    **RANGES_BEYOND,
    "order.code": _equal("end_code", "start_code", 0),
    "order.data_strict": _equal("end_data", "start_data", 0),
    "order.data": _equal("end_data", "start_data", -1),
    "order.brk": _equal("brk", "start_brk", -1),
    "order.arg": _equal("arg_end", "arg_start", -1),
    "order.env": _equal("env_end", "env_start", -1),
    "heap.above_data": members(start_brk=lambda p: p.own.end_data, brk=lambda p: p.own.end_data),
    "limit.data": call(need_less_limit=1),
    "auxv.null": members(auxv=lambda p: 0, auxv_size=lambda p: 16),
    "auxv.size": members(
        auxv=lambda p: p.edge - 2048, auxv_size=lambda p: p.facts.auxv_capacity + 1
    ),
    "exe.ids": exe(permitted=False),
    "exe.permission_early": exe(permitted=False),
    "auxv.readable": members(auxv=lambda p: p.edge - 16, auxv_size=lambda p: 17),
    "exe.permission": exe(permitted=False),
    "exe.descriptor": exe("closed"),
    "exe.regular": exe("folder"),
    "exe.noexec": exe("on a noexec mount"),
    "exe.executable": exe("without x"),
    "exe.busy": exe(released=False),
    "exe.once": exe(changed_before=True),
    "exe.written": exe("written"),
}

TOGETHER: dict[tuple[str, str], Change] = {
    ("auxv.size", "auxv.readable"): members(
        auxv=lambda p: p.edge - 16, auxv_size=lambda p: p.facts.auxv_capacity + 1
    ),
}
"""How to break two rules at once, where the one's way undoes the other's."""

FURTHER: dict[str, tuple[Change, ...]] = {
    "call.arg5": (call(arg5=U64), call(arg5=1 << 32)),
    "call.size": tuple(call(size=n) for n in (0, 103, 100, 208, (1 << 32) + 104, U64)),
    "call.struct": tuple(call(pointer=n) for n in (0, 1, U64 - 200, 1 << 63)),
    "auxv.null": (members(auxv=lambda p: 0, auxv_size=lambda p: 1),),
    "auxv.size": (members(auxv=lambda p: p.edge - 2048, auxv_size=lambda p: (1 << 32) - 1),),
    "auxv.readable": tuple(
        members(auxv=lambda p, at=at: at(p), auxv_size=lambda p: 1)  # type: ignore[misc]
        for at in (lambda p: p.edge, lambda p: 1, lambda p: U64)
    ),
    "exe.descriptor": (exe("path only"), members(exe_fd=lambda p: NO_EXE - 1)),
    "exe.regular": (exe("device"), exe("socket")),
    "exe.noexec": (exe("file of proc"),),
    **{f"range.{name}": tuple(members(**{name: lambda p, n=n: n}) for n in (0, U64, 1 << 63))
       for name in ADDRESSES},
}  # fmt: skip
"""More ways to break a rule, some of which break later rules as well."""
