"""The steps of an experiment before and after the call: a small vocabulary, declared as data.

Each step is a frozen dataclass. In a recipe it is a table whose first key is the step's verb:
`{ map = "arena", pages = 1 }`. `perform` does it to the specimen of a `Bench` and returns what the
kernel answered, or None.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import Value, check_name, evaluate, names_of, shorten
from prctlmm_lab.kernel.abi import MEMBER, U64, PrctlMmMap
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.specimen.process import RESOURCES, Specimen

LONGEST_WRITE = 1 << 20
_OPEN_FLAGS = {
    "read": os.O_RDONLY,
    "write": os.O_WRONLY,
    "read-write": os.O_RDWR,
    "path": os.O_PATH,
    "directory": os.O_RDONLY | os.O_DIRECTORY,
}


@dataclass
class Bench:
    """A specimen on the bench, and the names that its experiment's formulas may use."""

    specimen: Specimen
    facts: Facts
    regions: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Mapped by steps: name -> (start, end), the end exclusive."""
    descriptors: dict[str, int] = field(default_factory=dict)

    def lookup(self, name: str) -> int | None:
        """Return the present value of a name, or None if it is not known."""
        first, dot, part = name.partition(".")
        if name in MEMBER or first == "before":
            return self._member(part if dot else name)
        if dot:
            start, end = self.regions.get(first) or self._labelled(first) or (None, None)
            if start is None or end is None:
                return None
            return {"start": start, "end": end, "length": end - start}.get(part)
        return self._constants().get(name, self.descriptors.get(name))

    def names(self) -> tuple[str, ...]:
        """List the names that are known now, for the message about one that is not."""
        regions = [f"{name}.start" for name in (*self.regions, "heap", "stack", "vdso")]
        return (*MEMBER, *regions, *self.descriptors, *self._constants())

    def value(self, value: Value, where: str) -> int:
        """Return the number that a value stands for now."""
        return evaluate(value, self.lookup, where, self.names())

    def address(self, value: Value, where: str) -> int:
        """Return an unsigned 64-bit number: an address, a length or a limit."""
        number = self.value(value, where)
        if not 0 <= number <= U64:
            raise InputError(where, "is not a 64-bit number", hex(number), f"0 to {U64:#x}")
        return number

    def take(self, name: str, where: str) -> None:
        """Refuse a name that means something already."""
        taken = {*MEMBER, *self.regions, *self.descriptors, *self._constants(), "before", "heap"}
        check_name(name, where, taken | {"stack", "vdso"})

    @staticmethod
    def constant_names() -> tuple[str, ...]:
        """Name the facts that formulas may use."""
        return ("page", "lowest", "highest", "auxv_capacity", "map_size", "unlimited")

    def _member(self, name: str) -> int | None:
        return dict(self.specimen.current_map()).get(name)

    def _labelled(self, label: str) -> tuple[int, int] | None:
        found = self.specimen.snapshot().labelled(f"[{label}]")
        return (found[0].start, found[-1].end) if found else None

    def _constants(self) -> dict[str, int]:
        f = self.facts
        values = (f.page_size, f.lowest, f.highest, f.auxv_capacity, f.map_size, U64)
        return dict(zip(self.constant_names(), values, strict=True))


@dataclass(frozen=True)
class Step:
    """One thing that is done to the specimen."""

    verb: ClassVar[str]

    def perform(self, bench: Bench, where: str) -> int | None:
        """Do it; `where` names the step in messages.

        Raises InputError for a value that makes no sense, SystemCallError if the kernel refuses,
        SpecimenError if the specimen ends.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Map(Step):
    """Map anonymous memory and give it a name, so that NAME.start and NAME.end can be used."""

    verb: ClassVar[str] = "map"
    map: str
    pages: Value = 1
    at: Value | None = None
    permissions: str = "rw-"
    shared: bool = False
    grows_down: bool = False

    def perform(self, bench: Bench, where: str) -> int:
        bench.take(self.map, f"{where}.map")
        length = bench.address(self.pages, f"{where}.pages") * bench.facts.page_size
        if not 0 < length <= bench.facts.highest:
            raise InputError(f"{where}.pages", "bytes cannot be mapped", hex(length),
                             "1 page or more, inside user space")  # fmt: skip
        start = bench.specimen.map(
            length,
            at=None if self.at is None else bench.address(self.at, f"{where}.at"),
            permissions=self.permissions,
            shared=self.shared,
            grows_down=self.grows_down,
        )
        bench.regions[self.map] = (start, start + length)
        return start


@dataclass(frozen=True)
class Write(Step):
    """Write into the specimen's memory: text (as UTF-8), hex, an auxiliary vector, or a map."""

    verb: ClassVar[str] = "write"
    write: Value
    text: str | None = None
    hex: str | None = None
    auxv: tuple[tuple[Value, Value], ...] | None = None
    identity_map: bool = False
    """Write the 104 bytes of the map that changes nothing."""

    def perform(self, bench: Bench, where: str) -> None:
        data = self._data(bench, where)
        if len(data) > LONGEST_WRITE:
            raise InputError(where, "bytes are too many to write", hex(len(data)),
                             f"at most {LONGEST_WRITE:#x}")  # fmt: skip
        bench.specimen.write(bench.address(self.write, f"{where}.write"), data)

    def _data(self, bench: Bench, where: str) -> bytes:
        given = (self.text, self.hex, self.auxv, self.identity_map or None)
        if sum(part is not None for part in given) != 1:
            raise InputError(where, "must have exactly one of text, hex, auxv and identity_map")
        if self.text is not None:
            return self.text.encode("utf-8", "surrogateescape")
        if self.auxv is not None:
            return encode_auxv(self._entries(bench, where))
        if self.identity_map:
            return bench.specimen.current_map().pack()
        try:
            return bytes.fromhex(self.hex or "")
        except ValueError:
            raise InputError(f"{where}.hex", "is not hex", shorten(self.hex),
                             "pairs of hex digits") from None  # fmt: skip

    def _entries(self, bench: Bench, where: str) -> Iterable[tuple[str | int, int]]:
        for number, (kind, value) in enumerate(self.auxv or ()):
            place = f"{where}.auxv[{number}]"
            named = isinstance(kind, str) and kind.startswith("AT_")
            yield kind if named else bench.address(kind, place), bench.address(value, place)


@dataclass(frozen=True)
class Unmap(Step):
    """Unmap whatever lies in a range."""

    verb: ClassVar[str] = "unmap"
    unmap: Value
    length: Value = "page"

    def perform(self, bench: Bench, where: str) -> None:
        address = bench.address(self.unmap, f"{where}.unmap")
        bench.specimen.unmap(address, bench.address(self.length, f"{where}.length"))


@dataclass(frozen=True)
class Protect(Step):
    """Change the permissions of mapped memory."""

    verb: ClassVar[str] = "protect"
    protect: Value
    permissions: str
    length: Value = "page"

    def perform(self, bench: Bench, where: str) -> None:
        address = bench.address(self.protect, f"{where}.protect")
        length = bench.address(self.length, f"{where}.length")
        bench.specimen.protect(address, length, self.permissions)


@dataclass(frozen=True)
class Brk(Step):
    """Ask for a new end of the heap; the answer is the end that it then has."""

    verb: ClassVar[str] = "brk"
    brk: Value

    def perform(self, bench: Bench, where: str) -> int:
        return bench.specimen.brk(bench.address(self.brk, f"{where}.brk"))


@dataclass(frozen=True)
class Limit(Step):
    """Set a resource limit, such as DATA; hard stays as it is unless given."""

    verb: ClassVar[str] = "limit"
    limit: str
    soft: Value
    hard: Value | None = None

    def perform(self, bench: Bench, where: str) -> None:
        if self.limit.removeprefix("RLIMIT_") not in RESOURCES:
            raise InputError(f"{where}.limit", "is not a resource", shorten(self.limit),
                             ", ".join(RESOURCES))  # fmt: skip
        hard = None if self.hard is None else bench.address(self.hard, f"{where}.hard")
        soft = bench.address(self.soft, f"{where}.soft")
        bench.specimen.set_limit(self.limit, soft, hard)


@dataclass(frozen=True)
class Become(Step):
    """Take on another uid, and a gid of the same number, for good."""

    verb: ClassVar[str] = "become"
    become: Value

    def perform(self, bench: Bench, where: str) -> None:
        bench.specimen.become(bench.address(self.become, f"{where}.become"))


@dataclass(frozen=True)
class LosePrivilege(Step):
    """Become uid 65534 if the specimen runs as root; an ordinary user stays as it is."""

    verb: ClassVar[str] = "lose_privilege"
    lose_privilege: bool

    def perform(self, bench: Bench, where: str) -> None:
        if bench.specimen.syscall("geteuid") == 0:
            bench.specimen.become(65534)


@dataclass(frozen=True)
class UserNamespace(Step):
    """Enter a new user namespace, as its root; without id maps if map_ids is false."""

    verb: ClassVar[str] = "user_namespace"
    user_namespace: bool
    map_ids: bool = True

    def perform(self, bench: Bench, where: str) -> None:
        bench.specimen.enter_user_namespace(map_ids=self.map_ids)


@dataclass(frozen=True)
class Open(Step):
    """Open a file by path and give the descriptor a name; `for` is read, write, path and so on."""

    verb: ClassVar[str] = "open"
    open: str
    path: str
    access: str = "read"

    def perform(self, bench: Bench, where: str) -> int:
        bench.take(self.open, f"{where}.open")
        if self.access not in _OPEN_FLAGS:
            raise InputError(f"{where}.access", "is not a way to open", shorten(self.access),
                             ", ".join(_OPEN_FLAGS))  # fmt: skip
        path = self.path
        for name, number in bench.descriptors.items():
            path = path.replace(f"{{{name}}}", str(number))
        descriptor = bench.specimen.open(path, _OPEN_FLAGS[self.access])
        bench.descriptors[self.open] = descriptor
        return descriptor


@dataclass(frozen=True)
class MemoryFile(Step):
    """Make a file in memory and give its descriptor a name."""

    verb: ClassVar[str] = "memory_file"
    memory_file: str
    mode: int = 0o755

    def perform(self, bench: Bench, where: str) -> int:
        bench.take(self.memory_file, f"{where}.memory_file")
        if not 0 <= self.mode <= 0o7777:
            raise InputError(f"{where}.mode", "is not a file mode", hex(self.mode), "0 to 0o7777")
        descriptor = bench.specimen.memory_file(self.memory_file, mode=self.mode)
        bench.descriptors[self.memory_file] = descriptor
        return descriptor


@dataclass(frozen=True)
class Close(Step):
    """Close a descriptor that a step opened; its name keeps the number."""

    verb: ClassVar[str] = "close"
    close: str

    def perform(self, bench: Bench, where: str) -> None:
        if self.close not in bench.descriptors:
            raise InputError(f"{where}.close", "is not an open descriptor", shorten(self.close),
                             f"one of {', '.join(bench.descriptors) or '(none is open)'}")  # fmt: skip
        bench.specimen.close(bench.descriptors[self.close])


@dataclass(frozen=True)
class ReleaseExecutable(Step):
    """Leave no mapping of the specimen's own executable, so that exe_fd can be accepted."""

    verb: ClassVar[str] = "release_executable"
    release_executable: bool

    def perform(self, bench: Bench, where: str) -> None:
        bench.specimen.release_executable()


STEPS: dict[str, type[Step]] = {
    step.verb: step
    for step in (
        Map, Write, Unmap, Protect, Brk, Limit, Become, LosePrivilege, UserNamespace, Open,
        MemoryFile, Close, ReleaseExecutable,
    )
}  # fmt: skip
"""The steps by verb."""


LABELLED = ("heap", "stack", "vdso")
"""VMAs that the kernel labels, and formulas may name: heap.start, stack.end."""


def check_steps(steps: Iterable[Step], known: set[str], where: str) -> None:
    """Check every formula and name of steps before anything runs; `known` grows on the way.

    Raises InputError for a formula that is none and for a name that nothing defines.
    """
    for number, step in enumerate(steps):
        place = f"{where}[{number}]"
        for entry in fields(step):
            if "Value" in str(entry.type):
                check_names(getattr(step, entry.name), known, f"{place}.{entry.name}")
        if isinstance(step, Map):
            check_name(step.map, f"{place}.map", known | set(LABELLED))
            known |= {step.map, *_parts(step.map)}
        if isinstance(step, Open | MemoryFile):
            known.add(check_name(getattr(step, step.verb), f"{place}.{step.verb}", known))


def known_names() -> set[str]:
    """Return the names that every experiment's formulas may use."""
    labelled = (part for name in LABELLED for part in _parts(name))
    before = (f"before.{member}" for member in MEMBER)
    return {*MEMBER, *before, *labelled, *Bench.constant_names()}


def check_names(value: object, known: set[str], where: str) -> None:
    """Check that a value is a number or a formula of known names; None is nothing to check.

    Raises InputError otherwise.
    """
    if isinstance(value, tuple):
        for number, part in enumerate(value):
            check_names(part, known, f"{where}[{number}]")
    elif value is not None and not (isinstance(value, str) and value.startswith("AT_")):
        # Every known name stands for 1 here: only form and names are checked, not the numbers.
        evaluate(value, lambda name: 1 if name in known else None, where, known)  # type: ignore[arg-type]


def _parts(region: str) -> tuple[str, ...]:
    return tuple(f"{region}.{part}" for part in ("start", "end", "length"))


def resolve_changes(
    changes: dict[str, Value], before: PrctlMmMap, bench: Bench, where: str
) -> PrctlMmMap:
    """Return the map that a call's changes ask for.

    In a member's own formula its name means the value before; in another's it means the new one.
    `before.NAME` always means the value before.

    Raises InputError for an unknown name and a value that does not fit. The members must not need
    each other in a circle (`check_circles`).
    """
    resolver = _Resolver(changes, dict(before), bench, where)
    return before.changed(**{member: resolver.member(member) for member in changes})


def check_circles(changes: Mapping[str, Value], where: str) -> None:
    """Check that no new member needs itself by way of others.

    Raises InputError that shows the circle.
    """
    needs = {
        member: names_of(value, f"{where}.{member}") & set(changes) - {member}
        for member, value in changes.items()
    }

    def follow(path: tuple[str, ...]) -> None:
        for name in sorted(needs[path[-1]]):
            if name in path:
                circle = " -> ".join([*path[path.index(name) :], name])
                raise InputError(f"{where}.{name}", f"needs itself: {circle}", "",
                                 f"before.{name} for the value before the call")  # fmt: skip
            follow((*path, name))

    for member in changes:
        follow((member,))


class _Resolver:
    """Works out new members one by one, each at most once."""

    def __init__(
        self, changes: dict[str, Value], before: dict[str, int], bench: Bench, where: str
    ) -> None:
        self.changes, self.before, self.bench, self.where = changes, before, bench, where
        self.done: dict[str, int] = {}
        self.under_way: list[str] = []

    def member(self, name: str) -> int:
        if name in self.done:
            return self.done[name]
        place = f"{self.where}.{name}"
        self.under_way.append(name)
        number = evaluate(self.changes[name], self.lookup, place, self.bench.names())
        self.under_way.pop()
        top = U64 if MEMBER[name].size == 8 else (1 << 32) - 1
        if not 0 <= number <= top:
            raise InputError(place, "does not fit", shorten(number), f"0 to {top:#x}")
        self.done[name] = number
        return number

    def lookup(self, name: str) -> int | None:
        first, _, part = name.partition(".")
        if first == "before":
            return self.before.get(part)
        if name not in self.before:
            return self.bench.lookup(name)
        own = bool(self.under_way) and self.under_way[-1] == name
        return self.before[name] if own or name not in self.changes else self.member(name)
