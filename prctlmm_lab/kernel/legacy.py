"""The other operations of PR_SET_MM: one member at a time, and the question for the struct's size.

They came first (v3.3 to v3.5) and were never removed. Since v4.2 (4a00e9df293d) the kernel replaces
the one member in its own map and holds the whole to the rules of PR_SET_MM_MAP, which are therefore
used here as they are; what is added is what only these operations ask.

Source: kernel/sys.c, prctl_set_mm(), prctl_set_auxv(), prctl_set_mm_exe_file(); as from v5.4 on.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace

from prctlmm_lab.kernel.abi import MEMBER, U32, Operation, PrctlMmMap
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.rules import RULE, RULES, Rule, Situation

MEMBER_OF: dict[int, str] = {
    operation: operation.name.lower()
    for operation in Operation
    if operation.name.lower() in MEMBER and operation != Operation.AUXV
}
"""The eleven operations that set one address, and the member that each sets."""

NEEDS_VMA = frozenset({
    Operation.START_STACK, Operation.ARG_START, Operation.ARG_END, Operation.ENV_START,
    Operation.ENV_END,
})  # fmt: skip
"""The operations whose address must not lie above everything that is mapped."""


@dataclass(frozen=True)
class MemberSituation(Situation):
    """One call of another operation than MAP, and what the kernel knows of the caller.

    `map` is the present map with the one member replaced, `size` the call's fourth argument.
    """

    operation: int = Operation.START_CODE
    value: int = 0
    """The call's third argument: an address, or a descriptor for EXE_FILE."""
    sys_resource: bool = False
    """The caller has CAP_SYS_RESOURCE in the initial user namespace."""
    vma_above: bool = True
    """A VMA ends above the address."""
    size_writable: bool = True
    """For MAP_SIZE: four bytes can be written at the address."""


def _of(situation: Situation) -> MemberSituation:
    """Return a situation as what it is; these rules are never applied to another kind."""
    assert isinstance(situation, MemberSituation)
    return situation


def _outside(situation: Situation, facts: Facts) -> bool:
    """Hold the address to the rule of every address member."""
    s = _of(situation)
    moved = replace(s, map=s.map.changed(start_code=s.value))
    return bool(RULE["range.start_code"].broken(moved, facts))


def _takes_size(operation: int) -> bool:
    return operation in (Operation.AUXV, Operation.MAP, Operation.MAP_SIZE)


_MM = "prctl_set_mm"
_V33 = "since v3.3 for code, data and heap, v3.5 for the others; always built since v3.10"

LEGACY_RULES: tuple[Rule, ...] = (
    Rule(
        "legacy.arguments", "arg5 is 0, and so is arg4 except for AUXV", errno.EINVAL, (), None,
        _MM, _V33,
        lambda s, f: s.arg5 != 0 or (s.size != 0 and not _takes_size(_of(s).operation)),
        lambda s, f: f"arg4 = {s.size:#x}, arg5 = {s.arg5:#x}",
    ),
    Rule(
        "legacy.permission", "the caller has CAP_SYS_RESOURCE in the initial user namespace",
        errno.EPERM, (), None, _MM, "since v3.3; PR_SET_MM_MAP does without (f606b77f1a)",
        lambda s, f: not _of(s).sys_resource,
        lambda s, f: (
            f"the caller {'has' if _of(s).sys_resource else 'lacks'} CAP_SYS_RESOURCE there"
        ),
    ),
    Rule(
        "legacy.address", "the address is one of user space", errno.EINVAL, (), None, _MM, _V33,
        _outside,
        lambda s, f: f"arg3 = {_of(s).value:#x}, allowed {f.lowest:#x} to {f.highest:#x}",
    ),
    Rule(
        "legacy.operation", "the operation exists", errno.EINVAL, (), None, _MM, _V33,
        lambda s, f: _of(s).operation not in MEMBER_OF,
        lambda s, f: f"operation = {_of(s).operation}",
    ),
    Rule(
        "legacy.mapped", "a VMA ends above the address", errno.EFAULT,
        ("start_stack", "arg_start", "arg_end", "env_start", "env_end"), None, _MM,
        "since v3.5; PR_SET_MM_MAP never asked for it",
        lambda s, f: not _of(s).vma_above,
        lambda s, f: (
            f"{'a' if _of(s).vma_above else 'no'} VMA ends above arg3 = {_of(s).value:#x}"
        ),
    ),
    Rule(
        "legacy.no_file", "the descriptor is not -1", errno.EBADF, ("exe_fd",), None,
        "prctl_set_mm_exe_file", "since v3.5; for PR_SET_MM_MAP it means no change",
        lambda s, f: _of(s).value & U32 == U32,
        lambda s, f: f"arg3 = {_of(s).value:#x}",
    ),
    Rule(
        "legacy.size", "the struct's size can be written where arg3 points", errno.EFAULT, (), None,
        "prctl_set_mm_map", "since v3.18 (f606b77f1a)",
        lambda s, f: not _of(s).size_writable,
        lambda s, f: (
            f"four bytes at arg3 = {_of(s).value:#x} can"
            f"{'' if _of(s).size_writable else 'not'} be written"
        ),
    ),
)  # fmt: skip
"""What only these operations check."""

LEGACY_RULE: dict[str, Rule] = {rule.id: rule for rule in LEGACY_RULES}

_WHOLE_MAP = tuple(
    rule for rule in RULES if rule.id.partition(".")[0] in ("range", "order", "heap", "limit")
)
_FILE = tuple(
    rule
    for rule in RULES
    if rule.id.startswith("exe.") and not rule.id.startswith(("exe.ids", "exe.permission"))
)


def rules_of(operation: int, facts: Facts) -> tuple[Rule, ...]:
    """Return the rules of an operation other than MAP on this kernel, in its order.

    >>> from prctlmm_lab.specimen.probe import facts_here
    >>> [rule.id for rule in rules_of(Operation.AUXV, facts_here())]
    ['legacy.arguments', 'legacy.permission', 'auxv.size', 'auxv.readable']
    """
    return tuple(rule for rule in _rules_of(operation) if rule.exists(facts))


def _rules_of(operation: int) -> tuple[Rule, ...]:
    own = LEGACY_RULE
    if operation == Operation.MAP_SIZE:
        return RULE["call.arg5"], RULE["call.option"], own["legacy.size"]
    first = own["legacy.arguments"], own["legacy.permission"]
    if operation == Operation.EXE_FILE:
        return *first, own["legacy.no_file"], *_FILE
    if operation == Operation.AUXV:
        return *first, RULE["auxv.size"], RULE["auxv.readable"]
    last = (own["legacy.mapped"],) if operation in NEEDS_VMA else ()
    return *first, own["legacy.address"], own["legacy.operation"], *_WHOLE_MAP, *last


def replaced(own: PrctlMmMap, operation: int, value: int, size: int) -> PrctlMmMap:
    """Return the present map with the member that the operation sets replaced.

    `size` is that of a vector. A number that its member cannot hold is the largest one it can: too
    long for any kernel.

    >>> replaced(PrctlMmMap(), Operation.BRK, 0x5000, 0).brk
    20480
    """
    if operation == Operation.AUXV:
        return own.changed(auxv=value, auxv_size=min(size, U32))
    if operation == Operation.EXE_FILE:
        return own.changed(exe_fd=value & U32)
    if operation in MEMBER_OF:
        return own.changed(**{MEMBER_OF[operation]: value})
    return own


def saved_vector(before: bytes, vector: bytes, facts: Facts) -> bytes:
    """Return the whole vector that the kernel holds after PR_SET_MM_AUXV was given a short one.

    >>> from prctlmm_lab.specimen.probe import facts_here
    >>> facts = replace(facts_here(), auxv_capacity=48, auxv_tail_kept=True)
    >>> saved_vector(b"old vector", b"new", facts).rstrip(bytes(1))
    b'new vector'
    """
    tail = before[len(vector) :] if facts.auxv_tail_kept else b""
    return (vector + tail).ljust(facts.auxv_capacity, b"\0")
