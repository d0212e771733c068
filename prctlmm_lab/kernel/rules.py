"""The checks that the kernel makes, in its order: each rule once, for one map or for a million.

A predicate is written with operators that work alike on Python ints and on numpy columns of
unsigned 64-bit words, so that explaining one map and predicting many cannot drift apart.

Source: kernel/sys.c, prctl_set_mm(), prctl_set_mm_map(), validate_prctl_map_addr(); and
replace_mm_exe_file() in kernel/fork.c; v3.18 to v7.3. What differs between kernels is data: a rule
that exists only on some says so (`exists`), and one that stood in another place stands twice.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import reduce
from itertools import groupby
from operator import or_
from types import SimpleNamespace
from typing import Any

from prctlmm_lab.kernel.abi import ADDRESSES, MAP_SIZE, NO_EXE, U64, PrctlMmMap
from prctlmm_lab.kernel.facts import Facts

UNLIMITED = U64


@dataclass(frozen=True)
class ExeFile:
    """What the kernel looks at in the file that exe_fd names; each may be a column."""

    is_open: Any = False
    """The descriptor is open, and not with O_PATH."""
    is_regular: Any = False
    is_noexec: Any = False
    """It lies on a mount or a file system that forbids executing."""
    is_executable: Any = False
    """The caller has execute permission; root needs one x bit too."""
    is_written: Any = False
    """Some process has it open for writing."""
    was_opened: Any = True
    """The descriptor comes from open(), and not from memfd_create()."""


@dataclass(frozen=True)
class Situation:
    """One call and what the kernel knows of the caller at that moment.

    For mass prediction `map` is any object whose attributes are numpy columns of unsigned words;
    everything else may be a column too.
    """

    map: Any
    """A PrctlMmMap, or columns."""
    size: Any = MAP_SIZE
    """The call's fourth argument."""
    arg5: Any = 0
    struct_readable: Any = True
    """The struct's bytes can be copied from the caller's memory."""
    auxv_readable: Any = True
    """auxv_size bytes at auxv can be copied from the caller's memory; 0 bytes always can."""
    rlimit_data: Any = UNLIMITED
    """RLIMIT_DATA's soft limit in bytes; 2**64 - 1 is unlimited."""
    capabilities: Any = 0
    """The caller's effective capabilities in its user namespace, as a mask."""
    namespace_root: Any = False
    """The caller's real uid and gid are 0 in its user namespace."""
    exe: ExeFile = field(default_factory=ExeFile)
    """The file that exe_fd names; where it asks for no change, the one that is not open."""
    exe_mapped: Any = True
    """A VMA of the caller still maps the executable that /proc/PID/exe names."""
    exe_changed: Any = False
    """The exe link was changed by the call before, since the last execve."""


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


def _exe_numbers(need: str) -> Numbers:
    def numbers(s: Situation, f: Facts) -> str:
        if s.map.exe_fd == NO_EXE:
            return f"exe_fd = {s.map.exe_fd:#x} asks for no change"
        return f"exe_fd = {s.map.exe_fd:#x} {need}"

    return numbers


def _written_numbers(s: Situation, f: Facts) -> str:
    if s.map.exe_fd == NO_EXE or s.exe.was_opened or f.unopened_exe_refused:
        return _exe_numbers("must not be open for writing")(s, f)
    return f"exe_fd = {s.map.exe_fd:#x} comes from memfd_create(): this kernel does not ask then"


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

    def not_below(s: Situation, f: Facts) -> Any:
        return getattr(s.map, start) >= getattr(s.map, end)

    def above(s: Situation, f: Facts) -> Any:
        return getattr(s.map, start) > getattr(s.map, end)

    def numbers(s: Situation, f: Facts) -> str:
        return (
            f"{start} = {getattr(s.map, start):#x}, {end} = {getattr(s.map, end):#x}, "
            f"needed {start} {sign} {end}"
        )

    return Rule(
        f"order.{pair}", f"{start} {sign} {end}", errno.EINVAL, (start, end), 3,
        "validate_prctl_map_addr, __prctl_check_order", requirement_text,
        not_below if strict else above, numbers,
    )  # fmt: skip


def _permission_rule(*, early: bool) -> Rule:
    """Return the permission for exe_fd, in the place of v5.1 or of today.

    Until then it came before the copy of the auxiliary vector, which shows when both fail.
    """
    history = (
        "v4.14 (4d28df6152aa) to v5.1; since v5.2 (11bbd8b41683) after the auxiliary vector"
        if early
        else "in this place since v5.2 (11bbd8b41683); v4.14 CAP_SYS_ADMIN (4d28df6152aa); v5.9 or "
        "CAP_CHECKPOINT_RESTORE (ebd6de681238), EPERM instead of EINVAL (227175b2c914)"
    )
    return Rule(
        "exe.permission_early" if early else "exe.permission",
        "to change the exe link, a capability in the caller's user namespace",
        errno.EPERM, ("exe_fd",), 7, "validate_prctl_map" if early else _MAP, history,
        lambda s, f: (s.map.exe_fd != NO_EXE) & (s.capabilities & f.exe_capabilities == 0),
        _capability_numbers,
        exists=lambda f: f.exe_capabilities != 0 and f.exe_permission_early == early,
        errno_fact="exe_permission_errno",
    )  # fmt: skip


def _capability_numbers(s: Situation, f: Facts) -> str:
    if s.map.exe_fd == NO_EXE:
        return f"exe_fd = {s.map.exe_fd:#x} asks for no change"
    return (
        f"exe_fd = {s.map.exe_fd:#x} asks for a change: of the capabilities "
        f"{f.exe_capabilities:#x} one is needed, the caller has {s.capabilities:#x}"
    )


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
        None, _MM,
        "since v3.18 (f606b77f1a); without the option EPERM, or EINVAL with CAP_SYS_RESOURCE",
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
        lambda s, f: s.struct_readable == False,
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
        lambda s, f: _data_need(s.map) > s.rlimit_data,
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
        6, _MAP,
        "since v3.18 (f606b77f1a); the vector grew in v5.14 (1c33bb050750), v6.3 (317c8194e6ae) "
        "and v7.0 (4ced4cf5c9d1)",
        lambda s, f: s.map.auxv_size > f.auxv_capacity,
        lambda s, f: f"auxv_size = {s.map.auxv_size:#x}, at most {f.auxv_capacity:#x}",
    ),
    Rule(
        "exe.ids", "to change the exe link, uid and gid 0 in the caller's user namespace",
        errno.EINVAL, ("exe_fd",), 7, "validate_prctl_map",
        "v3.18 to v4.13; since v4.14 a capability is asked for instead (4d28df6152aa)",
        lambda s, f: (s.map.exe_fd != NO_EXE) & (s.namespace_root == False),
        _exe_numbers("asks for a change: real uid and gid 0 needed"),
        exists=lambda f: f.exe_capabilities == 0,
        errno_fact="exe_permission_errno",
    ),
    _permission_rule(early=True),
    Rule(
        "auxv.readable", "the auxiliary vector can be read", errno.EFAULT, ("auxv", "auxv_size"),
        6, _MAP,
        "since v3.18 (f606b77f1a); before the permission for exe_fd since v5.2 (11bbd8b41683)",
        lambda s, f: s.auxv_readable == False,
        lambda s, f: (
            f"{s.map.auxv_size:#x} bytes at auxv = {s.map.auxv:#x} are "
            f"{'' if s.auxv_readable else 'not '}readable"
        ),
    ),
    _permission_rule(early=False),
    Rule(
        "exe.descriptor", "exe_fd is open, and not with O_PATH", errno.EBADF, ("exe_fd",), 7, _EXE,
        _V318,
        lambda s, f: (s.map.exe_fd != NO_EXE) & (s.exe.is_open == False),
        _exe_numbers("must be an open descriptor"),
    ),
    Rule(
        "exe.regular", "exe_fd is a regular file", errno.EACCES, ("exe_fd",), 7, _EXE, _V318,
        lambda s, f: s.exe.is_open & (s.exe.is_regular == False),
        _exe_numbers("must be a regular file"),
    ),
    Rule(
        "exe.noexec", "exe_fd does not lie on a noexec mount", errno.EACCES, ("exe_fd",), 7, _EXE,
        "since v3.18; file systems that forbid it as a whole since v4.3 (90f8572b0f02)",
        lambda s, f: s.exe.is_noexec == True,
        _exe_numbers("must not lie on a noexec mount"),
    ),
    Rule(
        "exe.executable", "exe_fd may be executed by the caller", errno.EACCES, ("exe_fd",), 7,
        _EXE, _V318,
        lambda s, f: s.exe.is_regular & (s.exe.is_executable == False),
        _exe_numbers("needs execute permission"),
    ),
    Rule(
        "exe.busy", "no mapping of the old executable is left", errno.EBUSY, ("exe_fd",), 7,
        "replace_mm_exe_file", "since v3.18; not seen on overlayfs",
        lambda s, f: (s.map.exe_fd != NO_EXE) & (s.exe_mapped == True),
        _exe_numbers("asks for a change: every mapping of the old executable must be gone"),
        exists=lambda f: f.mapped_exe_refused,
    ),
    Rule(
        "exe.once", "the exe link was not changed before", errno.EPERM, ("exe_fd",), 7, _EXE,
        "v3.18 to v4.9; 3fb4afd9a504 allows more than one change from v4.10 on",
        lambda s, f: (s.map.exe_fd != NO_EXE) & (s.exe_changed == True),
        _exe_numbers("asks for a second change since execve"),
        exists=lambda f: f.exe_changes_once,
    ),
    Rule(
        "exe.written", "exe_fd is open for writing nowhere", errno.EACCES, ("exe_fd",), 7,
        "replace_mm_exe_file, deny_write_access",
        "since v5.15 (35d7bdc86031, fe69d560b5bd), but not from v6.11 (2a010c412853) on, which "
        "was undone in v6.13, v6.12.2 and v6.11.11 (3b832035387f); in v6.12 stable kernels not "
        "for what memfd_create() returns, by a part of v6.14 (0357ef03c94e)",
        lambda s, f: (s.exe.is_written == True) & (s.exe.was_opened | f.unopened_exe_refused),
        _written_numbers,
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


def explain(situation: Situation, facts: Facts, rules: Sequence[Rule] | None = None) -> Explanation:
    """Apply every rule to one call: which are broken, by which numbers, and which one decides.

    `rules` are those of the kernel that the facts describe, unless others are to be tried.

    The command line's equivalent is `prctlmm-lab explain RECIPE`.
    """
    if not isinstance(situation.map, PrctlMmMap):
        raise TypeError("explain() takes one map; predict() takes columns")
    findings: list[Finding] = []
    deciding: Rule | None = None
    for rule in rules_of(facts) if rules is None else rules:
        broken = bool(rule.broken(situation, facts))
        decides = broken and deciding is None
        deciding = rule if decides else deciding
        findings.append(Finding(rule, broken, rule.numbers(situation, facts), decides))
    return Explanation(tuple(findings), deciding.errno_on(facts) if deciding else 0)


def first_broken(situation: Situation, facts: Facts, rules: Sequence[Rule]) -> Rule | None:
    """Return the rule that decides over one call, None for an accepted one."""
    return next((rule for rule in rules if rule.broken(situation, facts)), None)


def predict(
    situation: Situation, facts: Facts, count: int, rules: Sequence[Rule] | None = None
) -> Any:
    """Return the errnos of `count` calls at once, as a numpy column of bytes; 0 is accepted.

    Whatever of the situation is a column has `count` rows; the rest holds for all of them. The
    predicates are the ones that `explain` uses. Needs numpy.
    """
    import numpy

    groups = [
        (number, tuple(rule.broken for rule in group))
        for number, group in groupby(
            rules_of(facts) if rules is None else rules, lambda rule: rule.errno_on(facts)
        )
    ]
    verdicts = numpy.zeros(count, numpy.uint8)
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        part, verdict = _rows(situation, rows), verdicts[rows]
        for number, predicates in reversed(groups):
            # Neighbours with one errno may be asked together: whichever decides, it is the same.
            broken = reduce(or_, (predicate(part, facts) for predicate in predicates))
            numpy.copyto(verdict, number, where=broken)
    return verdicts


def decide(
    situation: Situation, facts: Facts, count: int, rules: Sequence[Rule] | None = None
) -> Any:
    """Return which rule decides over each of `count` calls: its index in `rules`.

    The column is of bytes; `ACCEPTED` stands for calls that no rule refuses. Otherwise as
    `predict`.
    """
    import numpy

    deciding = numpy.full(count, ACCEPTED, numpy.uint8)
    order = rules_of(facts) if rules is None else rules
    for number, rule in reversed(tuple(enumerate(order))):
        numpy.copyto(deciding, number, where=rule.broken(situation, facts))
    return deciding


ACCEPTED = 255
"""In a column of deciding rules: none."""

_ROWS = 1 << 14
"""As many rows at a time as the processor's caches hold."""


def _rows(part: Any, rows: slice) -> Any:
    """Return some rows of everything that is a column."""
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{f.name: _rows(getattr(part, f.name), rows) for f in fields(part)})
    if isinstance(part, SimpleNamespace):
        return SimpleNamespace(**{k: _rows(value, rows) for k, value in vars(part).items()})
    return part[rows] if getattr(part, "ndim", 0) else part
