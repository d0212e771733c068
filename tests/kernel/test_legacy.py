"""The single-member operations: live as far as privilege goes, and as the kernel's source has them.

Without CAP_SYS_RESOURCE the running kernel is the other source up to the permission check. What it
would check behind it is held to a table that was written down from the source and from runs on
kernels where root has the capability; where the tests have it too, it is held to the kernel.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from prctlmm_lab.kernel.abi import PR_SET_MM, U32, U64, Operation, PrctlMmMap
from prctlmm_lab.kernel.legacy import (
    LEGACY_RULE,
    MEMBER_OF,
    NEEDS_VMA,
    MemberSituation,
    replaced,
    rules_of,
    saved_vector,
)
from prctlmm_lab.kernel.rules import RULE, Explanation, explain
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.situation import capabilities, may_set_members, member_situation_of
from tests.needs import needs_root, needs_user_namespaces, skip_unless

FACTS = facts_here()
OF_MEMBERS = [operation for operation in Operation if operation < Operation.MAP]


def judged(situation: MemberSituation) -> Explanation:
    return explain(situation, FACTS, rules_of(situation.operation, FACTS))


def deciding(situation: MemberSituation) -> str:
    found = judged(situation).deciding
    return found.rule.id if found else ""


def answer(specimen: Specimen, operation: int, value: int, size: int = 0, arg5: int = 0) -> int:
    return -specimen.attempt("prctl", PR_SET_MM, operation, value, size, arg5)


def present(specimen: Specimen, operation: Operation) -> int:
    """Return a value that changes nothing, or nothing much."""
    if operation == Operation.AUXV:
        return specimen.place(bytes(16))
    if operation == Operation.EXE_FILE:
        return U32
    return dict(specimen.current_map())[MEMBER_OF[operation]]


def with_capability(
    specimen: Specimen, operation: int, value: int, *, size: int = 0
) -> MemberSituation:
    """Return the situation of a caller that has the capability, whether or not it does."""
    return replace(member_situation_of(specimen, operation, value, size=size), sys_resource=True)


# ---- live ---------------------------------------------------------------------------------------

Leave = Callable[[Specimen], object]
CALLERS: dict[str, Leave] = {
    "an ordinary user": lambda specimen: specimen.become(65534),
    "root of a user namespace": lambda specimen: specimen.enter_user_namespace(),
}


@pytest.fixture(params=CALLERS)
def powerless(request: pytest.FixtureRequest, specimen: Specimen) -> Specimen:
    """Give a specimen without the capability in the initial namespace."""
    if request.param == "an ordinary user":
        needs_root()
    else:
        needs_user_namespaces()
    CALLERS[request.param](specimen)
    return specimen


@pytest.mark.parametrize("operation", OF_MEMBERS, ids=lambda operation: operation.name)
def test_without_the_capability_every_operation_is_refused(
    powerless: Specimen, operation: Operation
) -> None:
    value = present(powerless, operation)
    size = 16 if operation == Operation.AUXV else 0
    situation = member_situation_of(powerless, operation, value, size=size)
    told = judged(situation)
    assert told.deciding is not None
    assert told.deciding.rule.id == "legacy.permission"
    assert answer(powerless, operation, value, size) == told.errno == errno.EPERM


@pytest.mark.parametrize(
    ("operation", "value", "size", "arg5"),
    [
        (Operation.START_CODE, 0, 0, 1),
        (Operation.START_CODE, 0, 1, 0),
        (Operation.EXE_FILE, 0, 8, 0),
        (Operation.AUXV, 0, 16, 1 << 63),
        (99, 0, 1, 0),
        (99, 0, 0, 1),
    ],
)
def test_the_arguments_are_looked_at_before_the_permission(
    powerless: Specimen, operation: int, value: int, size: int, arg5: int
) -> None:
    situation = member_situation_of(powerless, operation, value, size=size, arg5=arg5)
    assert deciding(situation) == "legacy.arguments"
    assert answer(powerless, operation, value, size, arg5) == errno.EINVAL


@pytest.mark.parametrize(
    ("operation", "value", "size"),
    [(99, 0, 0), (0, 0x1000, 0), (Operation.ARG_START, 0, 0), (Operation.AUXV, 0, 1 << 40)],
)
def test_the_permission_is_looked_at_before_the_rest(
    powerless: Specimen, operation: int, value: int, size: int
) -> None:
    situation = member_situation_of(powerless, operation, value, size=size)
    assert deciding(situation) == "legacy.permission"
    assert answer(powerless, operation, value, size) == errno.EPERM


def test_a_capability_in_a_namespace_of_ones_own_is_none(specimen: Specimen) -> None:
    needs_user_namespaces()
    specimen.enter_user_namespace()
    snapshot = specimen.snapshot()
    assert capabilities(snapshot) >> 24 & 1
    assert not may_set_members(snapshot)


def test_whether_the_capability_is_there_is_what_the_kernel_says(specimen: Specimen) -> None:
    allowed = answer(specimen, Operation.END_CODE, specimen.current_map().end_code) == 0
    assert may_set_members(specimen.snapshot()) == allowed


@pytest.mark.parametrize("offset", [0, 1, PAGE - 4, PAGE - 3, PAGE])
def test_the_size_is_written_as_four_bytes(specimen: Specimen, offset: int) -> None:
    area = specimen.map(2 * PAGE)
    specimen.write(area, b"\xff" * PAGE)
    specimen.protect(area + PAGE, PAGE, "---")
    before = specimen.read(area, PAGE)
    situation = member_situation_of(specimen, Operation.MAP_SIZE, area + offset)
    assert specimen.read(area, PAGE) == before, "asking whether it can be written writes nothing"
    told = answer(specimen, Operation.MAP_SIZE, area + offset)
    assert judged(situation).errno == told == (errno.EFAULT if offset > PAGE - 4 else 0)
    if told == 0:
        assert struct.unpack("<I", specimen.read(area + offset, 4)) == (FACTS.map_size,)
        changed = range(offset, offset + 4)
        after = specimen.read(area, PAGE)
        assert all(after[i] == before[i] for i in range(PAGE) if i not in changed)


# ---- behind the permission ----------------------------------------------------------------------

Case = tuple[int, Callable[[Specimen, PrctlMmMap], int], int, str]
BEHIND: dict[str, Case] = {
    "no change": (Operation.BRK, lambda s, own: own.brk, 0, ""),
    "address 0": (Operation.START_STACK, lambda s, own: 0, 0, "legacy.address"),
    "lowest": (Operation.START_STACK, lambda s, own: FACTS.lowest, 0, ""),
    "below": (Operation.START_STACK, lambda s, own: FACTS.lowest - 1, 0, "legacy.address"),
    "above": (Operation.END_CODE, lambda s, own: FACTS.highest + 1, 0, "legacy.address"),
    "highest": (Operation.END_CODE, lambda s, own: FACTS.highest, 0, ""),
    "operation 99": (99, lambda s, own: own.brk, 0, "legacy.operation"),
    "address before operation": (99, lambda s, own: 0, 0, "legacy.address"),
    "no code": (Operation.START_CODE, lambda s, own: own.end_code, 0, "order.code"),
    "heap reversed": (Operation.BRK, lambda s, own: own.start_brk - 1, 0, "order.brk"),
    "above all VMAs": (Operation.ENV_END, lambda s, own: FACTS.highest, 0, "legacy.mapped"),
    "order before VMA": (Operation.ARG_START, lambda s, own: FACTS.highest, 0, "order.arg"),
    "a vector": (Operation.AUXV, lambda s, own: s.place(bytes(64)), 64, ""),
    "no vector": (Operation.AUXV, lambda s, own: 0, 0, ""),
    "a vector at NULL": (Operation.AUXV, lambda s, own: 0, 16, "auxv.readable"),
    "a long vector": (
        Operation.AUXV, lambda s, own: 0, FACTS.auxv_capacity + 1, "auxv.size",
    ),
    "a very long vector": (Operation.AUXV, lambda s, own: 0, 1 << 32, "auxv.size"),
    "descriptor 999": (Operation.EXE_FILE, lambda s, own: 999, 0, "exe.descriptor"),
    "descriptor -1": (Operation.EXE_FILE, lambda s, own: U32, 0, "legacy.no_file"),
    "descriptor -1, wide": (Operation.EXE_FILE, lambda s, own: U64, 0, "legacy.no_file"),
    "still mapped": (Operation.EXE_FILE, lambda s, own: s.memory_file("ghost"), 0, "exe.busy"),
    "no x bit": (
        Operation.EXE_FILE, lambda s, own: s.memory_file("ghost", mode=0o644), 0, "exe.executable",
    ),
}  # fmt: skip
"""Operation, value, size, and the rule that decides with the capability."""

ERRNOS = {
    "": 0, "legacy.address": errno.EINVAL, "legacy.operation": errno.EINVAL,
    "legacy.mapped": errno.EFAULT, "legacy.no_file": errno.EBADF, "order.code": errno.EINVAL,
    "order.brk": errno.EINVAL, "order.arg": errno.EINVAL, "auxv.readable": errno.EFAULT,
    "auxv.size": errno.EINVAL, "exe.descriptor": errno.EBADF, "exe.executable": errno.EACCES,
    "exe.busy": errno.EBUSY,
}  # fmt: skip


@pytest.mark.parametrize("name", BEHIND)
def test_what_is_checked_with_the_capability(specimen: Specimen, name: str) -> None:
    operation, value, size, rule = BEHIND[name]
    if rule in RULE:
        made = RULE[rule].exists(FACTS)
        skip_unless(made, f"this kernel does not make the check {rule}", impossible=True)
    given = value(specimen, specimen.current_map())
    situation = with_capability(specimen, operation, given, size=size)
    told = judged(situation)
    assert (deciding(situation), told.errno) == (rule, ERRNOS[rule])
    if may_set_members(specimen.snapshot()):
        assert answer(specimen, operation, given, size) == told.errno


def test_the_limit_is_held_to_the_whole_map(specimen: Specimen) -> None:
    own = specimen.current_map()
    specimen.set_limit("DATA", own.brk - own.start_brk + own.end_data - own.start_data)
    assert deciding(with_capability(specimen, Operation.BRK, own.brk)) == ""
    assert deciding(with_capability(specimen, Operation.BRK, own.brk + 1)) == "limit.data"
    specimen.set_limit("DATA", 0)
    assert deciding(with_capability(specimen, Operation.ARG_END, own.arg_end)) == "limit.data"


@pytest.mark.parametrize("operation", [*MEMBER_OF], ids=lambda operation: operation.name)
def test_which_operations_need_a_vma_above(specimen: Specimen, operation: Operation) -> None:
    situation = with_capability(specimen, operation, present(specimen, operation))
    assert deciding(situation) == ""
    nothing_above = replace(situation, vma_above=False)
    assert deciding(nothing_above) == ("legacy.mapped" if operation in NEEDS_VMA else "")


def test_what_is_set_may_be_accepted_by_the_map(specimen: Specimen) -> None:
    """The kernel itself judges the map with one member replaced, by the other operation."""
    own = specimen.current_map()
    for operation, member in MEMBER_OF.items():
        for value in (0, FACTS.lowest, getattr(own, member), FACTS.highest, FACTS.highest + 1):
            situation = replace(with_capability(specimen, operation, value), vma_above=True)
            assert (judged(situation).errno == 0) == (
                specimen.set_map(own.changed(**{member: value})) == 0
            ), f"{operation} {value:#x}"
            assert specimen.set_map(own) == 0


def test_every_rule_of_these_operations_is_used() -> None:
    used = {rule.id for operation in [*OF_MEMBERS, 15, 99] for rule in rules_of(operation, FACTS)}
    assert set(LEGACY_RULE) <= used


@pytest.mark.parametrize("rule", ["legacy.arguments", "legacy.permission", "legacy.size"])
def test_without_a_rule_the_kernel_would_disagree(specimen: Specimen, rule: str) -> None:
    if rule == "legacy.permission":
        skip_unless(not may_set_members(specimen.snapshot()), "nobody refuses us", impossible=True)
    operation = Operation.MAP_SIZE if rule == "legacy.size" else Operation.BRK
    value = 0 if rule == "legacy.size" else specimen.current_map().brk
    size = 1 if rule == "legacy.arguments" else 0
    situation = member_situation_of(specimen, operation, value, size=size)
    left = [each for each in rules_of(operation, FACTS) if each.id != rule]
    kernel = answer(specimen, operation, value, size)
    assert explain(situation, FACTS, left).errno != kernel
    assert judged(situation).errno == kernel


# ---- the map, and the vector --------------------------------------------------------------------


def test_one_member_is_replaced() -> None:
    own = PrctlMmMap(start_code=1, brk=2)
    for operation, member in MEMBER_OF.items():
        assert replaced(own, operation, 77, 0) == own.changed(**{member: 77})
    assert replaced(own, Operation.AUXV, 7, 1 << 40) == own.changed(auxv=7, auxv_size=U32)
    assert replaced(own, Operation.EXE_FILE, U64 - 1, 0) == own.changed(exe_fd=U32 - 1)
    assert replaced(own, Operation.MAP_SIZE, 7, 0) == replaced(own, 99, 7, 0) == own


@pytest.mark.parametrize(
    ("kept", "saved"), [(False, b"new" + bytes(29)), (True, b"newvector" + bytes(23))]
)
def test_the_rest_of_a_vector(kept: bool, saved: bytes) -> None:
    facts = replace(FACTS, auxv_capacity=32, auxv_tail_kept=kept)
    assert saved_vector(b"oldvector", b"new", facts) == saved
