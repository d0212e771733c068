"""The checks that the kernel makes, in its order: each rule once, for one map or for a million.

A predicate is written with operators that work alike on Python ints and on numpy columns of
unsigned 64-bit words, so that explaining one map and predicting many cannot drift apart.

Source: kernel/sys.c, prctl_set_mm(), prctl_set_mm_map(), validate_prctl_map_addr(); and
replace_mm_exe_file() in kernel/fork.c. The order is that of v5.2 and later.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prctlmm_lab.kernel.abi import ADDRESSES, MAP_SIZE, NO_EXE, U64, PrctlMmMap
from prctlmm_lab.kernel.facts import Facts

UNLIMITED = U64


@dataclass(frozen=True)
class ExeFile:
    """What the kernel looks at in the file that exe_fd names."""

    is_open: bool = False
    """The descriptor is open, and not with O_PATH."""
    is_regular: bool = False
    is_noexec: bool = False
    """It lies on a mount or a file system that forbids executing."""
    is_executable: bool = False
    """The caller has execute permission; root needs one x bit too."""
    is_written: bool = False
    """Some process has it open for writing."""


@dataclass(frozen=True)
class Situation:
    """One call and what the kernel knows of the caller at that moment.

    For mass prediction `map` is any object whose attributes are numpy columns of uint64.
    """

    map: Any
    """A PrctlMmMap, or columns."""
    size: Any = MAP_SIZE
    """The call's fourth argument."""
    arg5: Any = 0
    struct_readable: Any = True
    """The struct's bytes can be copied from the caller's memory."""
    auxv_readable: Any = True
    """auxv_size bytes at auxv can be copied from the caller's memory."""
    rlimit_data: Any = UNLIMITED
    """RLIMIT_DATA's soft limit in bytes; 2**64 - 1 is unlimited."""
    may_change_exe: Any = False
    """The caller has CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in its user namespace."""
    exe: ExeFile = field(default_factory=ExeFile)
    exe_mapped: Any = True
    """A VMA of the caller still maps the executable that /proc/PID/exe names."""


Predicate = Callable[[Situation, Facts], Any]
Numbers = Callable[[Situation, Facts], str]


@dataclass(frozen=True)
class Rule:
    """One check: when it refuses, with which errno, and where it comes from."""

    id: str
    title: str
    """What must be true, in plain words."""
    errno: int
    members: tuple[str, ...]
    """The members it looks at; empty for rules about the call itself."""
    requirement: int | None
    """The requirement of commit f606b77f1a's message that it implements, 1 to 7."""
    source: str
    history: str
    """Since when, until when, and the commits."""
    broken: Predicate
    """True where the kernel refuses."""
    numbers: Numbers
    """The values that it compared, in hex."""
    exists: Callable[[Facts], bool] = lambda facts: True
    """Whether this kernel makes the check at all."""
    errno_fact: str = ""
    """The fact that holds its errno, where that differs between kernels."""

    def errno_on(self, facts: Facts) -> int:
        """Return the errno that this kernel gives."""
        return getattr(facts, self.errno_fact) if self.errno_fact else self.errno


def _data_need(map_: Any) -> Any:
    """Bytes that RLIMIT_DATA is held against, with the wrap of the kernel's unsigned long."""
    return ((map_.brk - map_.start_brk) + (map_.end_data - map_.start_data)) & U64


def _changes_exe(s: Situation) -> Any:
    return s.map.exe_fd != NO_EXE


def _exe_numbers(need: str) -> Numbers:
    def numbers(s: Situation, f: Facts) -> str:
        if s.map.exe_fd == NO_EXE:
            return f"exe_fd = {s.map.exe_fd:#x} asks for no change"
        return f"exe_fd = {s.map.exe_fd:#x} {need}"

    return numbers


def _range_rule(member: str) -> Rule:
    def broken(s: Situation, f: Facts) -> Any:
        address = getattr(s.map, member)
        return (address < f.lowest) | (address > f.highest)

    def numbers(s: Situation, f: Facts) -> str:
        return f"{member} = {getattr(s.map, member):#x}, allowed {f.lowest:#x} to {f.highest:#x}"

    return Rule(
        f"range.{member}", f"{member} is an address of user space", errno.EINVAL, (member,), 1,
        "validate_prctl_map_addr, first loop", "since v3.18 (f606b77f1a)", broken, numbers,
    )  # fmt: skip


def _order_rule(pair: str, start: str, end: str, strict: bool, requirement_text: str) -> Rule:
    sign = "<" if strict else "<="

    def broken(s: Situation, f: Facts) -> Any:
        first, last = getattr(s.map, start), getattr(s.map, end)
        return first >= last if strict else first > last

    def numbers(s: Situation, f: Facts) -> str:
        return (
            f"{start} = {getattr(s.map, start):#x}, {end} = {getattr(s.map, end):#x}, "
            f"needed {start} {sign} {end}"
        )

    return Rule(
        f"order.{pair}", f"{start} {sign} {end}", errno.EINVAL, (start, end), 3,
        "validate_prctl_map_addr, __prctl_check_order", requirement_text, broken, numbers,
    )  # fmt: skip


_MM = "prctl_set_mm"
_MAP = "prctl_set_mm_map"
_EXE = "prctl_set_mm_exe_file"
_V318 = "since v3.18 (f606b77f1a)"

RULES: tuple[Rule, ...] = (
    Rule(
        "call.arg5", "the fifth argument is 0", errno.EINVAL, (), None, _MM, _V318,
        lambda s, f: s.arg5 != 0,
        lambda s, f: f"arg5 = {s.arg5:#x}, needed 0",
    ),
    Rule(
        "call.option", "the kernel has the call (CONFIG_CHECKPOINT_RESTORE)", errno.EPERM, (),
        None, _MM, "since v3.18; without the option EPERM, or EINVAL with CAP_SYS_RESOURCE",
        lambda s, f: not f.available,
        lambda s, f: f"PR_SET_MM_MAP_SIZE answers {'with a size' if f.available else 'an error'}",
        errno_fact="refusal_errno",
    ),
    Rule(
        "call.size", "the size is exactly that of the struct", errno.EINVAL, (), None, _MAP, _V318,
        lambda s, f: s.size != f.map_size,
        lambda s, f: f"size = {s.size:#x}, needed {f.map_size:#x}",
    ),
    Rule(
        "call.struct", "the struct can be read", errno.EFAULT, (), None, _MAP, _V318,
        lambda s, f: s.struct_readable == False,  # noqa: E712 - also for columns
        lambda s, f: f"the struct is {'' if s.struct_readable else 'not '}readable",
    ),
    *(_range_rule(member) for member in ADDRESSES),
    _order_rule("code", "start_code", "end_code", True, _V318),
    Rule(
        "order.data_strict", "start_data < end_data", errno.EINVAL, ("start_data", "end_data"), 3,
        "validate_prctl_map, __prctl_check_order",
        "v3.18 to v5.1; a9e73998f9d7 allows equality from v5.2 on, and in stable kernels",
        lambda s, f: s.map.start_data >= s.map.end_data,
        lambda s, f: f"start_data = {s.map.start_data:#x}, end_data = {s.map.end_data:#x}",
        exists=lambda f: not f.empty_data_accepted,
    ),
    _order_rule("data", "start_data", "end_data", False, "since v5.2 (a9e73998f9d7); before: <"),
    _order_rule("brk", "start_brk", "brk", False, _V318),
    _order_rule("arg", "arg_start", "arg_end", False, _V318),
    _order_rule("env", "env_start", "env_end", False, _V318),
    Rule(
        "heap.above_data", "start_brk and brk lie above end_data", errno.EINVAL,
        ("start_brk", "brk", "end_data"), 4, "validate_prctl_map",
        "v3.18 to v5.14; e1fbbd073137 removed it in v5.15, and in stable kernels",
        lambda s, f: (s.map.start_brk <= s.map.end_data) | (s.map.brk <= s.map.end_data),
        lambda s, f: (
            f"start_brk = {s.map.start_brk:#x}, brk = {s.map.brk:#x}, "
            f"end_data = {s.map.end_data:#x}"
        ),
        exists=lambda f: not f.heap_below_data_accepted,
    ),
    Rule(
        "limit.data", "heap and data fit into RLIMIT_DATA", errno.EINVAL,
        ("start_brk", "brk", "start_data", "end_data"), 5, "check_data_rlimit", _V318,
        lambda s, f: (s.rlimit_data != UNLIMITED) & (_data_need(s.map) > s.rlimit_data),
        lambda s, f: (
            f"brk - start_brk + end_data - start_data = {_data_need(s.map):#x}, RLIMIT_DATA = "
            + ("unlimited" if s.rlimit_data == UNLIMITED else f"{s.rlimit_data:#x}")
        ),
    ),
    Rule(
        "auxv.null", "auxv is not NULL if auxv_size is not 0", errno.EINVAL, ("auxv", "auxv_size"),
        6, _MAP, _V318,
        lambda s, f: (s.map.auxv_size != 0) & (s.map.auxv == 0),
        lambda s, f: f"auxv = {s.map.auxv:#x}, auxv_size = {s.map.auxv_size:#x}",
    ),
    Rule(
        "auxv.size", "auxv_size fits into the kernel's saved vector", errno.EINVAL, ("auxv_size",),
        6, _MAP, _V318,
        lambda s, f: s.map.auxv_size > f.auxv_capacity,
        lambda s, f: f"auxv_size = {s.map.auxv_size:#x}, at most {f.auxv_capacity:#x}",
    ),
    Rule(
        "auxv.readable", "the auxiliary vector can be read", errno.EFAULT, ("auxv", "auxv_size"),
        6, _MAP, _V318,
        lambda s, f: (s.map.auxv_size != 0) & (s.auxv_readable == False),  # noqa: E712
        lambda s, f: (
            f"{s.map.auxv_size:#x} bytes at auxv = {s.map.auxv:#x} are "
            f"{'' if s.auxv_readable else 'not '}readable"
        ),
    ),
    Rule(
        "exe.permission", "to change the exe link, a capability in the caller's user namespace",
        errno.EPERM, ("exe_fd",), 7, _MAP,
        "v3.18 uid and gid 0; v4.14 CAP_SYS_ADMIN (4d28df6152aa); v5.9 or "
        "CAP_CHECKPOINT_RESTORE (ebd6de681238), EPERM instead of EINVAL (227175b2c914)",
        lambda s, f: _changes_exe(s) & (s.may_change_exe == False),  # noqa: E712
        _exe_numbers("asks for a change: CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN needed"),
        errno_fact="exe_permission_errno",
    ),
    Rule(
        "exe.descriptor", "exe_fd is open, and not with O_PATH", errno.EBADF, ("exe_fd",), 7, _EXE,
        _V318,
        lambda s, f: _changes_exe(s) & (not s.exe.is_open),
        _exe_numbers("must be an open descriptor"),
    ),
    Rule(
        "exe.regular", "exe_fd is a regular file", errno.EACCES, ("exe_fd",), 7, _EXE, _V318,
        lambda s, f: _changes_exe(s) & (s.exe.is_open and not s.exe.is_regular),
        _exe_numbers("must be a regular file"),
    ),
    Rule(
        "exe.noexec", "exe_fd does not lie on a noexec mount", errno.EACCES, ("exe_fd",), 7, _EXE,
        "since v3.18; file systems that forbid it as a whole since v4.3 (90f8572b0f02)",
        lambda s, f: _changes_exe(s) & s.exe.is_noexec,
        _exe_numbers("must not lie on a noexec mount"),
    ),
    Rule(
        "exe.executable", "exe_fd may be executed by the caller", errno.EACCES, ("exe_fd",), 7,
        _EXE, _V318,
        lambda s, f: (
            _changes_exe(s) & (s.exe.is_open and s.exe.is_regular and not s.exe.is_executable)
        ),
        _exe_numbers("needs execute permission"),
    ),
    Rule(
        "exe.busy", "no mapping of the old executable is left", errno.EBUSY, ("exe_fd",), 7,
        "replace_mm_exe_file", "since v3.18; not seen on overlayfs",
        lambda s, f: _changes_exe(s) & s.exe_mapped,
        _exe_numbers("asks for a change: every mapping of the old executable must be gone"),
        exists=lambda f: f.mapped_exe_refused,
    ),
    Rule(
        "exe.written", "exe_fd is open for writing nowhere", errno.EACCES, ("exe_fd",), 7,
        "replace_mm_exe_file, deny_write_access",
        "since v5.15 (35d7bdc86031, fe69d560b5bd), but not from v6.11 to early 6.12 "
        "(2a010c412853, 3b832035387f)",
        lambda s, f: _changes_exe(s) & s.exe.is_written,
        _exe_numbers("must not be open for writing"),
        exists=lambda f: f.written_exe_refused,
    ),
)  # fmt: skip

RULE: dict[str, Rule] = {rule.id: rule for rule in RULES}


@dataclass(frozen=True)
class Finding:
    """One rule applied to one call."""

    rule: Rule
    broken: bool
    numbers: str
    decides: bool
    """True for the one rule whose errno the kernel returns."""

    def __str__(self) -> str:
        mark = "REFUSES" if self.decides else ("broken" if self.broken else "holds")
        return f"{mark:8} {self.rule.id:18} {self.numbers}"


@dataclass(frozen=True)
class Explanation:
    """Every rule of this kernel applied to one call, in the kernel's order."""

    findings: tuple[Finding, ...]
    errno: int
    """What the kernel returns: 0 for accepted."""

    @property
    def deciding(self) -> Finding | None:
        """The finding that decides, or None for an accepted call."""
        return next((finding for finding in self.findings if finding.decides), None)

    @property
    def broken(self) -> tuple[Finding, ...]:
        """Every finding that breaks its rule; the first of them decides."""
        return tuple(finding for finding in self.findings if finding.broken)

    @property
    def verdict(self) -> str:
        """One line: accepted, or the errno, the rule and its numbers."""
        if self.deciding is None:
            return "accepted"
        rule = self.deciding.rule
        return f"{errno_name(self.errno)}: {rule.title} ({rule.id}): {self.deciding.numbers}"

    def __str__(self) -> str:
        later = (f"also broken: {f.rule.id}: {f.numbers}" for f in self.broken[1:])
        return "\n".join([self.verdict, *later])


def errno_name(number: int) -> str:
    """Return the name of an errno, "0" for none.

    >>> errno_name(22), errno_name(0)
    ('EINVAL', '0')
    """
    return errno.errorcode.get(number, str(number)) if number else "0"


def rules_of(facts: Facts) -> tuple[Rule, ...]:
    """Return the rules that this kernel has, in its order."""
    return tuple(rule for rule in RULES if rule.exists(facts))


def explain(situation: Situation, facts: Facts) -> Explanation:
    """Apply every rule to one call: which are broken, by which numbers, and which one decides.

    The command line's equivalent is `prctlmm-lab explain RECIPE`.
    """
    if not isinstance(situation.map, PrctlMmMap):
        raise TypeError("explain() takes one map; predict() takes columns")
    findings: list[Finding] = []
    deciding: Rule | None = None
    for rule in rules_of(facts):
        broken = bool(rule.broken(situation, facts))
        decides = broken and deciding is None
        deciding = rule if decides else deciding
        findings.append(Finding(rule, broken, rule.numbers(situation, facts), decides))
    return Explanation(tuple(findings), deciding.errno_on(facts) if deciding else 0)


def predict(situation: Situation, facts: Facts, count: int) -> Any:
    """Return the errnos of `count` maps at once, as a numpy column; `situation.map` has columns.

    Needs numpy. The predicates are the ones that `explain` uses.
    """
    import numpy

    verdicts = numpy.zeros(count, numpy.uint8)
    for rule in reversed(rules_of(facts)):
        broken = numpy.broadcast_to(rule.broken(situation, facts), count)
        verdicts[broken] = rule.errno_on(facts)
    return verdicts
