"""A fingerprint of what the specification says of a kernel: a digest of its answers to a sample.

Two specifications with one fingerprint answer the same calls alike, however their text differs. The
sample is made up, the same for every kernel but for its facts: calls near every boundary, by
callers of every kind, and what an address space of several kinds of memory shows after them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from hashlib import sha256
from random import Random
from typing import Any, TypeVar

from prctlmm_lab.kernel import legacy, rules
from prctlmm_lab.kernel.abi import ADDRESSES, MAP_SIZE, NO_EXE, U64, Operation, PrctlMmMap
from prctlmm_lab.kernel.effects import Memory, brk_after, shown_after
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.legacy import MemberSituation
from prctlmm_lab.kernel.procfs import Limit, Snapshot, Stat, Vma
from prctlmm_lab.kernel.rules import ExeFile, Situation

CALLS, MEMBER_CALLS, MAPS = 2000, 800, 500
"""Calls of PR_SET_MM_MAP and of the other operations, and maps whose effects are told."""
T = TypeVar("T")


@cache
def fingerprint(facts: Facts) -> str:
    """Return the fingerprint of the specification for a kernel with these facts.

    >>> from prctlmm_lab.specimen.probe import facts_here
    >>> len(fingerprint(facts_here()))
    12
    """
    facts = replace(facts, release="", assumed=())  # on neither does anything depend
    digest = sha256()
    for answers in (_verdicts, _member_verdicts, _effects):
        for answer in answers(facts, _Chance(answers.__name__)):
            digest.update(f"{answer}\n".encode())
    return digest.hexdigest()[:12]


class _Chance:
    """Choices that are the same in every Python."""

    def __init__(self, seed: str) -> None:
        self._random = Random(int.from_bytes(sha256(seed.encode()).digest()[:8], "big"))

    def number(self, below: int) -> int:
        return self._random.getrandbits(64) % below

    def pick(self, *values: T) -> T:
        return values[self.number(len(values))]

    def one_in(self, count: int) -> bool:
        return self.number(count) == 0


# ---- verdicts -----------------------------------------------------------------------------------


def _verdicts(facts: Facts, chance: _Chance) -> Iterator[object]:
    of_kernel = rules.rules_of(facts)
    for _ in range(CALLS):
        yield _told(rules.first_broken(_situation(facts, chance), facts, of_kernel), facts)


def _member_verdicts(facts: Facts, chance: _Chance) -> Iterator[object]:
    for _ in range(MEMBER_CALLS):
        operation = chance.pick(*range(1, 14), int(Operation.MAP_SIZE), 99)
        base = _situation(facts, chance)
        own, value = base.map, _address(facts, base.map, chance)
        size = chance.pick(0, 0, 0, 16, facts.auxv_capacity, facts.auxv_capacity + 1)
        situation = MemberSituation(
            **{**vars(base), "map": legacy.replaced(own, operation, value, size)},
            operation=operation, value=chance.pick(value, value, U64),
            sys_resource=not chance.one_in(5), vma_above=not chance.one_in(3),
            size_writable=not chance.one_in(3),
        )  # fmt: skip
        situation = replace(situation, size=size, arg5=chance.pick(0, 0, 0, 0, 0, 1))
        broken = rules.first_broken(situation, facts, legacy.rules_of(operation, facts))
        yield operation, _told(broken, facts)
    yield legacy.saved_vector(bytes(range(48)), b"short", facts).rstrip(b"\0")


def _told(rule: rules.Rule | None, facts: Facts) -> object:
    return rule and (rule.id, errno.errorcode.get(rule.errno_on(facts)))


def _situation(facts: Facts, chance: _Chance) -> Situation:
    """Make up a call that is accepted but for few things, and who makes it."""
    new = _own(facts)
    if chance.one_in(2):
        for _ in range(chance.pick(1, 1, 2, 4)):
            member = chance.pick(*ADDRESSES)
            new = new.changed(**{member: _address(facts, new, chance)})
    if chance.one_in(2):
        sizes = 1, 17, facts.auxv_capacity, facts.auxv_capacity + 1
        new = new.changed(auxv=chance.pick(0, 0x500000), auxv_size=chance.pick(*sizes))
    new = new.changed(exe_fd=chance.pick(NO_EXE, NO_EXE, 5))
    need = (new.brk - new.start_brk + new.end_data - new.start_data) & U64
    asked = {
        "size": chance.pick(*[MAP_SIZE] * 12, 0, MAP_SIZE + 1),
        "arg5": chance.pick(*[0] * 12, 1),
        "struct_readable": not chance.one_in(12),
        "auxv_readable": not chance.one_in(6),
        "rlimit_data": chance.pick(U64, U64, need, max(need - 1, 0)),
    }
    flags = ("is_open", "is_regular", "is_executable", "was_opened")
    wrong = ("is_noexec", "is_written")
    exe = ExeFile(**{name: not chance.one_in(8) for name in flags},
                  **{name: chance.one_in(6) for name in wrong})  # fmt: skip
    masks = [1 << 21, 1 << 40, (1 << 41) - 1, (1 << 41) - 1, 0]
    return Situation(
        map=new, **asked, capabilities=chance.pick(*masks), namespace_root=not chance.one_in(4),
        exe=exe, exe_mapped=chance.one_in(4), exe_changed=chance.one_in(6),
    )  # fmt: skip


def _own(facts: Facts) -> PrctlMmMap:
    """Return a map that every kernel accepts."""
    base = 0x400000
    return PrctlMmMap(
        start_code=base, end_code=base + 0x1234, start_data=base + 0x2000, end_data=base + 0x2345,
        start_brk=base + 0x10000, brk=base + 0x13000, start_stack=base + 0x80000,
        arg_start=base + 0x30000, arg_end=base + 0x30010, env_start=base + 0x30010,
        env_end=base + 0x30025,
    )  # fmt: skip


def _address(facts: Facts, new: PrctlMmMap, chance: _Chance) -> int:
    """Return an address at a bound or a member, or next to it."""
    members = [value for name, value in new if name in ADDRESSES]
    near = chance.pick(facts.lowest, facts.highest, 0, 1 << 32, 1 << 63, *members, *members)
    return (near + chance.pick(0, 0, 1, -1, 8)) & U64


# ---- effects ------------------------------------------------------------------------------------

_PAGE = 4096


def _effects(facts: Facts, chance: _Chance) -> Iterator[object]:
    space = tuple(_space())
    before = _before(space, facts)
    own = _own(facts)
    borders = sorted({border for vma in space for border in (vma.start, vma.end)})
    memory = _memory(space)
    for _ in range(MAPS):
        new = own
        for start, end in (("start_brk", "brk"), ("arg_start", "arg_end"), ("env_start", "env_end"),
                           ("start_code", "end_code")):  # fmt: skip
            if chance.one_in(2):
                first = chance.pick(*borders) + chance.pick(0, 0, 0, 0, 1, -1, -_PAGE, -30, -30)
                size = chance.pick(0, 0, 0, 1, 30, 30, _PAGE, 3 * _PAGE, 1 << 20)
                new = new.changed(**{start: first, end: first + size})
        if chance.one_in(3):
            heap = chance.pick(*(vma for vma in space if vma.permissions[1] == "w"))
            new = new.changed(start_brk=chance.pick(heap.start, heap.end), brk=heap.end)
        if chance.one_in(2):
            new = new.changed(env_start=new.arg_end, env_end=new.arg_end + chance.pick(0, 9, _PAGE))
        new = new.changed(
            start_stack=chance.pick(*borders) + chance.pick(0, 0, 1, -1),
            auxv_size=chance.pick(0, 0, 33, 48), exe_fd=chance.pick(NO_EXE, NO_EXE, 5),
        )  # fmt: skip
        after = shown_after(before, new, memory, facts)
        yield _shown(after)
        unlimited = chance.one_in(2)
        limits = {"RLIMIT_DATA": Limit(None if unlimited else 12 * _PAGE, None)}
        near = chance.pick(new.brk, new.brk, new.brk, new.start_brk, chance.pick(*borders))
        request = near + chance.pick(
            0, 1, -1, _PAGE, _PAGE, 2 * _PAGE, -_PAGE, 5 * _PAGE, 40 * _PAGE
        )
        if not isinstance(after.cmdline, bytes):
            after = replace(after, cmdline=b"")
        yield brk_after(replace(after, limits=limits), request & U64, memory, facts)


def _space() -> Iterator[Vma]:
    """Yield an address space: a program, a heap, neighbours of several kinds, what grows down."""
    kinds = [
        (0x400000, 2, "r-xp", "/program"), (0x402000, 1, "rw-p", "/program"),
        (0x410000, 3, "rw-p", ""), (0x420000, 2, "rw-p", ""), (0x422000, 1, "r--p", ""),
        (0x423000, 1, "rw-p", ""), (0x430000, 2, "rw-p", ""), (0x440000, 2, "rw-s", "/dev/zero"),
        (0x450000, 1, "---p", ""), (0x460000, 1, "rw-p", ""), (0x462000, 1, "rw-p", ""),
        (0x600000, 2, "rw-p", ""), (0x7F0000, 2, "r-xp", "[vdso]"),
    ]  # fmt: skip
    for start, pages, permissions, name in kinds:
        label = name if name.startswith("[") else ""
        path = "" if label else name
        end = start + pages * _PAGE
        yield Vma(start, end, permissions, 0, (1, 2), 7 if path else 0, path, label, False)


def _memory(space: tuple[Vma, ...]) -> Memory:
    text = b"a title without an end " * 178  # less than a page
    return Memory(
        parts={
            0x420000: text + b"\0" + text,
            0x430000: text.ljust(_PAGE, b"x") + b"more\0",
            0x460000: b"y" * _PAGE,
        },
        # The lower of two that touch nothing, the upper of them, and a stack.
        grows_down=frozenset({0x461000, 0x463000, 0x602000}),
        moved=frozenset({0x430000}),
        mapped=frozenset({(0x420000, 0x424000), (0x430000, 0x432000)}),
        vector=bytes(range(1, 34)),
        exe_link="/another",
        reader_stack_limit=8 << 20,
    )


def _before(space: tuple[Vma, ...], facts: Facts) -> Snapshot:
    own = _own(facts)
    numbers = {name: value for name, value in own if name in ADDRESSES} | {"vsize": 1 << 20}
    sizes: dict[str, Any] = dict.fromkeys(("size", "resident", "shared", "text", "lib"), 9)
    return Snapshot(
        42, Stat("made up", "S", numbers), {**sizes, "data": 5, "dt": 0},
        {"VmSize": "1024 kB", "VmStk": "132 kB", "VmExe": "4 kB", "VmLib": "0 kB"}, space,
        bytes(32), b"before\0", b"A=1\0", "/program", {"RLIMIT_DATA": Limit(None, None)},
        brk=own.brk,
    )  # fmt: skip


def _shown(after: Snapshot) -> object:
    return (after.stat, after.statm, after.status, after.maps, after.auxv, after.cmdline,
            after.environ, after.exe, after.brk)  # fmt: skip
