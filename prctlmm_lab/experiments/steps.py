"""The steps of an experiment before and after the call: a small vocabulary, declared as data.

Each step is a frozen dataclass. In a recipe it is a table whose first key is the step's verb:
`{ map = "arena", pages = 1 }`. `perform` does it to the specimen of a `Bench` and returns what the
kernel answered, or None.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import (
    Value,
    check_name,
    evaluate,
    evaluate_columns,
    extremes,
    names_of,
    shorten,
    suggestion,
    unknown_name,
)
from prctlmm_lab.experiments.record import text_bytes
from prctlmm_lab.kernel.abi import MEMBER, U32, U64, PrctlMmMap
from prctlmm_lab.kernel.auxv import TYPES, encode_auxv
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.specimen.process import RESOURCES, Specimen

LONGEST_WRITE = 1 << 20
_LONGEST_PATH = 4095
_OPEN_FLAGS = {
    "read": 0,
    "write": 1,
    "read-write": 2,
    "path": 0o10000000,
    "directory": 0o200000,
}
"""As Linux has them on x86-64, whatever system this is."""
_OPEN_FLAGS_OF_ARM = _OPEN_FLAGS | {"directory": 0o40000}


@dataclass
class Bench:
    """A specimen on the bench, and the names that its experiment's formulas may use."""

    specimen: Specimen
    facts: Facts
    regions: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Mapped by steps: name -> (start, end), the end exclusive."""
    descriptors: dict[str, int] = field(default_factory=dict)
    own_files: set[str] = field(default_factory=set)
    """Names of the descriptors whose files the steps made."""
    before: PrctlMmMap | None = None
    """The map just before the call, once the set-up is done."""

    def lookup(self, name: str) -> int | None:
        """Return the present value of a name, or None if it is not known.

        Raises LookupError for a VMA that is not there now.
        """
        first, dot, part = name.partition(".")
        if first == "before":
            return dict(self.before or self.specimen.current_map()).get(part)
        if name in MEMBER:
            return dict(self.specimen.current_map())[name]
        if not dot:
            return self._constants().get(name, self.descriptors.get(name))
        if first not in self.regions and first not in LABELLED:
            return None
        start, end = self.regions.get(first) or self._labelled(first)
        return {"start": start, "end": end, "length": end - start}.get(part)

    def names(self) -> tuple[str, ...]:
        """List the names that are known now, for the message about one that is not."""
        regions = [f"{name}.start" for name in (*self.regions, *LABELLED)]
        return (*MEMBER, *regions, *self.descriptors, *self._constants())

    def value(self, value: Value, where: str) -> int:
        """Return the number that a value stands for now."""
        return evaluate(value, self.lookup, where, self.names())

    def address(self, value: Value, where: str) -> int:
        """Return an unsigned 64-bit number: an address, a length or a limit."""
        return unsigned(self.value(value, where), where)

    @staticmethod
    def constant_names() -> tuple[str, ...]:
        """Name the facts that formulas may use."""
        return ("page", "lowest", "highest", "auxv_capacity", "map_size", "unlimited")

    def _labelled(self, label: str) -> tuple[int, int]:
        found = self.specimen.snapshot().labelled(f"[{label}]")
        if not found:
            raise LookupError(f"is not there: no memory is labelled [{label}] now")
        return found[0].start, found[-1].end

    def _constants(self) -> dict[str, int]:
        f = self.facts
        values = (f.page_size, f.lowest, f.highest, f.auxv_capacity, f.map_size, U64)
        return dict(zip(self.constant_names(), values, strict=True))


def unsigned(number: int, where: str, top: int = U64) -> int:
    """Return a number that lies between 0 and `top`.

    Raises InputError for one that does not.
    """
    _check_fits(number, where, top)
    return number


def _check_fits(number: Any, where: str, top: int) -> None:
    """Refuse a number, or a column, that does not lie between 0 and `top`."""
    for end in extremes(number):
        if not 0 <= end <= top:
            raise InputError(where, "does not fit", shorten(end), f"0 to {top:#x}")


SHARED_CALLS = ("pread64", "pwrite64", "brk")
"""With these contents come and go, and brk(0) tells a formula where the heap ends."""


@dataclass(frozen=True)
class Step:
    """One thing that is done to the specimen."""

    verb: ClassVar[str]
    calls: ClassVar[tuple[str, ...]] = ()
    """The system calls that the specimen makes for it, besides `SHARED_CALLS`."""

    def check(self, where: str) -> None:
        """Refuse what can be seen to be wrong before anything runs; formulas are checked apart.

        Raises InputError; `where` names the step in messages.
        """

    def expected(self, _bench: Bench, _where: str, /) -> int | None:
        """Return what the kernel should answer, as things stand before the step; None for any.

        Raises InputError for a value that makes no sense.
        """
        return None

    def perform(self, bench: Bench, where: str) -> int | None:
        """Do it, and return what the kernel answered, if that is a number.

        Raises InputError for a value that makes no sense, SystemCallError if the kernel refuses,
        SpecimenError if the specimen ends.
        """
        return self._perform(bench, where)

    def _perform(self, bench: Bench, where: str, /) -> int | None:
        raise NotImplementedError


@dataclass(frozen=True)
class Map(Step):
    """Map anonymous memory and give it a name, so that NAME.start and NAME.end can be used."""

    verb: ClassVar[str] = "map"
    calls: ClassVar[tuple[str, ...]] = ("mmap",)
    map: str
    pages: Value = 1
    at: Value | None = None
    permissions: str = "rw-"
    shared: bool = False
    grows_down: bool = False

    def check(self, where: str) -> None:
        """Refuse permissions that are none."""
        _check_permissions(self.permissions, where)

    def _perform(self, bench: Bench, where: str, /) -> int:
        pages = bench.address(self.pages, f"{where}.pages")
        length = pages * bench.facts.page_size
        if not 0 < length <= bench.facts.highest:
            raise InputError(f"{where}.pages", "pages cannot be mapped", hex(pages),
                             "1 or more, inside user space")  # fmt: skip
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

    def check(self, where: str) -> None:
        """Refuse what is not exactly one kind of contents, hex that is none, and too much."""
        given = (self.text, self.hex, self.auxv, self.identity_map or None)
        if sum(part is not None for part in given) != 1:
            raise InputError(where, "must have exactly one of text, hex, auxv and identity_map")
        length = len(self._bytes(where))
        if length > LONGEST_WRITE:
            raise InputError(where, "bytes are too many to write", hex(length),
                             f"at most {LONGEST_WRITE:#x}")  # fmt: skip

    def _bytes(self, where: str) -> bytes:
        """Return the contents that are known without a specimen."""
        if self.text is not None:
            return text_bytes(self.text, f"{where}.text")
        try:
            return bytes.fromhex(self.hex or "")
        except ValueError:
            raise InputError(f"{where}.hex", "is not hex", shorten(self.hex),
                             "pairs of hex digits") from None  # fmt: skip

    def _perform(self, bench: Bench, where: str, /) -> None:
        if self.auxv is not None:
            data = encode_auxv(self._entries(bench, where))
        elif self.identity_map:
            data = bench.specimen.current_map().pack()
        else:
            data = self._bytes(where)
        bench.specimen.write(bench.address(self.write, f"{where}.write"), data)

    def _entries(self, bench: Bench, where: str) -> Iterable[tuple[str | int, int]]:
        for number, (kind, value) in enumerate(self.auxv or ()):
            place = f"{where}.auxv[{number}]"
            type_ = TYPES[kind] if kind in TYPES else bench.address(kind, f"{place}[0]")
            yield type_, bench.address(value, f"{place}[1]")


@dataclass(frozen=True)
class Unmap(Step):
    """Unmap whatever lies in a range."""

    verb: ClassVar[str] = "unmap"
    calls: ClassVar[tuple[str, ...]] = ("munmap",)
    unmap: Value
    length: Value = "page"

    def _perform(self, bench: Bench, where: str, /) -> None:
        address = bench.address(self.unmap, f"{where}.unmap")
        bench.specimen.unmap(address, bench.address(self.length, f"{where}.length"))


@dataclass(frozen=True)
class Protect(Step):
    """Change the permissions of mapped memory."""

    verb: ClassVar[str] = "protect"
    calls: ClassVar[tuple[str, ...]] = ("mprotect",)
    protect: Value
    permissions: str
    length: Value = "page"

    def check(self, where: str) -> None:
        """Refuse permissions that are none."""
        _check_permissions(self.permissions, where)

    def _perform(self, bench: Bench, where: str, /) -> None:
        address = bench.address(self.protect, f"{where}.protect")
        length = bench.address(self.length, f"{where}.length")
        bench.specimen.protect(address, length, self.permissions)


@dataclass(frozen=True)
class Brk(Step):
    """Ask for a new end of the heap; the answer is the end that it then has."""

    verb: ClassVar[str] = "brk"
    brk: Value
    expect: Value | None = None
    """The answer to expect, by values before the step: "brk" for a heap that stays as it is."""

    def expected(self, bench: Bench, where: str, /) -> int | None:
        """Return the end of the heap that is expected."""
        return _expected(self.expect, bench, where)

    def _perform(self, bench: Bench, where: str, /) -> int:
        return bench.specimen.brk(bench.address(self.brk, f"{where}.brk"))


@dataclass(frozen=True)
class Read(Step):
    """Read a number of 1 to 8 bytes, the lowest first, from the specimen's memory."""

    verb: ClassVar[str] = "read"
    read: Value
    length: int = 8
    expect: Value | None = None
    """The number to expect, by values before the step."""

    def check(self, where: str) -> None:
        """Refuse what is no length of a number."""
        if not 1 <= self.length <= 8:
            raise InputError(f"{where}.length", "bytes are no number", shorten(self.length),
                             "1 to 8")  # fmt: skip

    def expected(self, bench: Bench, where: str, /) -> int | None:
        """Return the number that is expected."""
        return _expected(self.expect, bench, where)

    def _perform(self, bench: Bench, where: str, /) -> int:
        address = bench.address(self.read, f"{where}.read")
        return int.from_bytes(bench.specimen.read(address, self.length), "little")


@dataclass(frozen=True)
class Limit(Step):
    """Set a resource limit, such as DATA; hard stays as it is unless given."""

    verb: ClassVar[str] = "limit"
    calls: ClassVar[tuple[str, ...]] = ("prlimit64",)
    limit: str
    soft: Value
    hard: Value | None = None

    def check(self, where: str) -> None:
        """Refuse a resource that does not exist."""
        if self.limit.removeprefix("RLIMIT_") not in RESOURCES:
            raise InputError(f"{where}.limit", "is not a resource", shorten(self.limit),
                             suggestion(self.limit, RESOURCES))  # fmt: skip

    def _perform(self, bench: Bench, where: str, /) -> None:
        hard = None if self.hard is None else bench.address(self.hard, f"{where}.hard")
        soft = bench.address(self.soft, f"{where}.soft")
        bench.specimen.set_limit(self.limit, soft, hard)


@dataclass(frozen=True)
class Become(Step):
    """Take on another uid, and a gid of the same number, for good."""

    verb: ClassVar[str] = "become"
    calls: ClassVar[tuple[str, ...]] = ("setgroups", "setresgid", "setresuid", "prctl")
    become: Value

    def _perform(self, bench: Bench, where: str, /) -> None:
        place = f"{where}.become"
        # (uid_t)-1 would tell the kernel to leave the identity as it is.
        bench.specimen.become(unsigned(bench.value(self.become, place), place, U32 - 1))


@dataclass(frozen=True)
class LosePrivilege(Step):
    """Become uid 65534 if the specimen runs as root; an ordinary user stays as it is."""

    verb: ClassVar[str] = "lose_privilege"
    calls: ClassVar[tuple[str, ...]] = ("geteuid", "setgroups", "setresgid", "setresuid", "prctl")
    lose_privilege: bool

    def check(self, where: str) -> None:
        """Refuse false, which would say nothing."""
        _check_true(self.lose_privilege, f"{where}.lose_privilege")

    def _perform(self, bench: Bench, _where: str, /) -> None:
        if bench.specimen.syscall("geteuid") == 0:
            bench.specimen.become(65534)


@dataclass(frozen=True)
class UserNamespace(Step):
    """Enter a new user namespace, as its root; without id maps if map_ids is false."""

    verb: ClassVar[str] = "user_namespace"
    calls: ClassVar[tuple[str, ...]] = ("geteuid", "getegid", "unshare", "openat", "write", "close")
    user_namespace: bool
    map_ids: bool = True

    def check(self, where: str) -> None:
        """Refuse false, which would say nothing."""
        _check_true(self.user_namespace, f"{where}.user_namespace")

    def _perform(self, bench: Bench, _where: str, /) -> None:
        bench.specimen.enter_user_namespace(map_ids=self.map_ids)


@dataclass(frozen=True)
class Open(Step):
    """Open a file by path and give the descriptor a name; access is read, write, path and so on.

    `{NAME}` in the path stands for the number of a descriptor: "/proc/self/fd/{NAME}".
    """

    verb: ClassVar[str] = "open"
    calls: ClassVar[tuple[str, ...]] = ("openat", "fstat", "close")
    open: str
    path: str
    access: str = "read"

    def check(self, where: str) -> None:
        """Refuse a path that can name no file, and an access that is none."""
        path = text_bytes(self.path, f"{where}.path")
        if not path or b"\0" in path or len(path) > _LONGEST_PATH:
            raise InputError(f"{where}.path", "is not a path", shorten(self.path),
                             f"1 to {_LONGEST_PATH} bytes, none of them zero")  # fmt: skip
        if self.access not in _OPEN_FLAGS:
            raise InputError(f"{where}.access", "is not a way to open", shorten(self.access),
                             suggestion(self.access, _OPEN_FLAGS))  # fmt: skip
        if "write" in self.access and not _OWN_FILE.fullmatch(self.path):
            raise InputError(f"{where}.path", "is not the specimen's own, and a recipe may write "
                             "to nothing else", shorten(self.path),
                             '"/proc/self/fd/{NAME}" of a memory_file or own_mount')  # fmt: skip

    def _perform(self, bench: Bench, where: str, /) -> int:
        path = text_bytes(self.path, f"{where}.path")
        if "write" in self.access:
            own = _OWN_FILE.fullmatch(self.path)
            if own is None or own[1] not in bench.own_files:
                raise InputError(f"{where}.path", "is no file that the recipe made",
                                 shorten(self.path))  # fmt: skip
        for name, number in bench.descriptors.items():
            path = path.replace(b"{%b}" % name.encode(), b"%d" % number)
        if self.access == "read":
            _check_harmless(bench.specimen, path, f"{where}.path")
        descriptor = bench.specimen.open(path, _open_flags(bench.specimen)[self.access])
        bench.descriptors[self.open] = descriptor
        bench.own_files.discard(self.open)
        return descriptor


def _open_flags(specimen: Specimen) -> Mapping[str, int]:
    return _OPEN_FLAGS_OF_ARM if specimen.machine == "aarch64" else _OPEN_FLAGS


_OWN_FILE = re.compile(r"/proc/self/fd/\{([a-z][a-z0-9_]*)\}")


def _check_harmless(specimen: Specimen, path: bytes, where: str) -> None:
    """Refuse what does something when it is opened: a device (but /dev/null), a pipe, a socket.

    It is looked at through a descriptor that only names it (O_PATH).
    """
    named = specimen.open(path, _OPEN_FLAGS["path"])
    kind, device = specimen.file_kind(named)
    specimen.close(named)
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or (stat.S_ISCHR(kind) and device == _NULL)):
        shown = shorten(path.decode("utf-8", "backslashreplace"))
        raise InputError(where, "is no regular file, and a recipe may open no other but a folder "
                         "and /dev/null", shown)  # fmt: skip


_NULL = 1 << 8 | 3
"""The number of /dev/null (Documentation/admin-guide/devices.txt)."""


@dataclass(frozen=True)
class MemoryFile(Step):
    """Make a file in memory and give its descriptor a name."""

    verb: ClassVar[str] = "memory_file"
    calls: ClassVar[tuple[str, ...]] = ("memfd_create", "fchmod")
    memory_file: str
    mode: int = 0o755

    def check(self, where: str) -> None:
        """Refuse a mode that is none."""
        if not 0 <= self.mode <= 0o7777:
            raise InputError(f"{where}.mode", "is not a file mode", shorten(self.mode),
                             "0 to 0o7777")  # fmt: skip

    def _perform(self, bench: Bench, _where: str, /) -> int:
        descriptor = bench.specimen.memory_file(self.memory_file, mode=self.mode)
        bench.descriptors[self.memory_file] = descriptor
        bench.own_files.add(self.memory_file)
        return descriptor


@dataclass(frozen=True)
class OwnMount(Step):
    """Make an executable file on a tmpfs that only the specimen sees, noexec or not."""

    verb: ClassVar[str] = "own_mount"
    calls: ClassVar[tuple[str, ...]] = ("unshare", "mount", "openat", "fchmod", "close")
    own_mount: str
    noexec: bool = False

    def _perform(self, bench: Bench, _where: str, /) -> int:
        descriptor = bench.specimen.file_on_own_mount(self.own_mount, noexec=self.noexec)
        bench.descriptors[self.own_mount] = descriptor
        bench.own_files.add(self.own_mount)
        return descriptor


@dataclass(frozen=True)
class Close(Step):
    """Close a descriptor that a step opened; its name keeps the number."""

    verb: ClassVar[str] = "close"
    calls: ClassVar[tuple[str, ...]] = ("close",)
    close: str

    def _perform(self, bench: Bench, where: str, /) -> None:
        bench.specimen.close(bench.address(self.close, f"{where}.close"))


@dataclass(frozen=True)
class ReleaseExecutable(Step):
    """Leave no mapping of the specimen's own executable, so that exe_fd can be accepted."""

    verb: ClassVar[str] = "release_executable"
    calls: ClassVar[tuple[str, ...]] = ("mmap", "mprotect", "mremap", "munmap")
    release_executable: bool

    def check(self, where: str) -> None:
        """Refuse false, which would say nothing."""
        _check_true(self.release_executable, f"{where}.release_executable")

    def _perform(self, bench: Bench, _where: str, /) -> None:
        bench.specimen.release_executable()


def _expected(value: Value | None, bench: Bench, where: str) -> int | None:
    return None if value is None else bench.address(value, f"{where}.expect")


def _check_permissions(permissions: str, where: str) -> None:
    if not re.fullmatch("[r-][w-][x-]", permissions):
        raise InputError(f"{where}.permissions", "is not of the form rwx", shorten(permissions),
                         'three letters such as "rw-"')  # fmt: skip
    if "w" in permissions and "x" in permissions:
        # Who could write code could have the specimen make any system call.
        raise InputError(f"{where}.permissions", "lets code be written, which no recipe may",
                         shorten(permissions), '"rw-" or "r-x"')  # fmt: skip


def _check_true(value: bool, where: str) -> None:
    if value is not True:
        raise InputError(where, "says nothing", "false", "true, or no such step")


STEPS: dict[str, type[Step]] = {
    step.verb: step
    for step in (
        Map, Write, Read, Unmap, Protect, Brk, Limit, Become, LosePrivilege, UserNamespace, Open,
        MemoryFile, OwnMount, Close, ReleaseExecutable,
    )
}  # fmt: skip
"""The steps by verb."""


LABELLED = ("heap", "stack", "vdso")
"""VMAs that the kernel labels, and formulas may name: heap.start, stack.end."""


def check_steps(steps: Iterable[Step], known: set[str], where: str) -> None:
    """Check every formula and name of steps before anything runs; `known` grows on the way.

    Raises InputError for what no specimen could do: a formula that is none, a name that nothing
    defines or that is taken, a number that does not fit.
    """
    for number, step in enumerate(steps):
        place = f"{where}[{number}]"
        step.check(place)
        for entry in fields(step):
            value = getattr(step, entry.name)
            if entry.name == "auxv" and value is not None:
                _check_vector(value, known, f"{place}.auxv")
            elif "Value" in str(entry.type) and value is not None:
                check_value(value, known, f"{place}.{entry.name}")
        _check_definitions(step, known, f"{place}.{step.verb}")


def _check_vector(entries: tuple[tuple[Value, Value], ...], known: set[str], where: str) -> None:
    for number, (kind, value) in enumerate(entries):
        if kind not in TYPES:
            if isinstance(kind, str) and kind.startswith("AT_"):
                raise unknown_name(kind, f"{where}[{number}][0]", TYPES)
            check_value(kind, known, f"{where}[{number}][0]")
        check_value(value, known, f"{where}[{number}][1]")


def _check_definitions(step: Step, known: set[str], where: str) -> None:
    """Check the name that a step defines or uses, and add what it defines to `known`."""
    taken = {name.partition(".")[0] for name in known}
    if isinstance(step, Map):
        known |= set(_parts(check_name(step.map, where, taken)))
    elif isinstance(step, Open | MemoryFile | OwnMount):
        known.add(check_name(getattr(step, step.verb), where, taken))
    elif isinstance(step, Close):
        opened = {name for name in known if "." not in name} - known_names()
        if step.close not in opened:
            raise InputError(where, "is not a descriptor", shorten(step.close),
                             suggestion(step.close, sorted(opened)) if opened
                             else "a name that a step before gave to one")  # fmt: skip


def known_names() -> set[str]:
    """Return the names that every experiment's formulas may use."""
    labelled = (part for name in LABELLED for part in _parts(name))
    before = (f"before.{member}" for member in MEMBER)
    return {*MEMBER, *before, *labelled, *Bench.constant_names()}


def check_value(value: Value, known: set[str], where: str, top: int = U64) -> None:
    """Check that a value is a number that fits, or a formula of known names.

    Raises InputError otherwise.
    """
    names = names_of(value, where)
    for name in sorted(names - known):
        raise unknown_name(name, where, known)
    if not names:
        unsigned(evaluate(value, lambda _: None, where), where, top)


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
    return before.changed(**resolve_columns(changes, {}, before, bench, where))


def resolve_columns(
    changes: Mapping[str, Value],
    given: Mapping[str, Any],
    before: PrctlMmMap,
    bench: Bench,
    where: str,
) -> dict[str, Any]:
    """Return the members that changes ask for where some members are columns already.

    `given` are new members, each a numpy column of Python ints. A member that needs none of them
    comes out as one number, else as a column. Otherwise as `resolve_changes`.
    """
    resolver = _Resolver(changes, given, dict(before), bench, where)
    return {member: resolver.member(member) for member in changes}


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


def widest(member: str) -> int:
    """Return the largest value that a member can hold."""
    return U64 if MEMBER[member].size == 8 else U32


class _Resolver:
    """Works out new members one by one, each at most once."""

    def __init__(
        self,
        changes: Mapping[str, Value],
        given: Mapping[str, Any],
        before: dict[str, int],
        bench: Bench,
        where: str,
    ) -> None:
        self.changes, self.before, self.bench, self.where = changes, before, bench, where
        self.done = dict(given)
        self.new = {*changes, *given}
        self.under_way: list[str] = []

    def member(self, name: str) -> Any:
        if name in self.done:
            return self.done[name]
        place = f"{self.where}.{name}"
        self.under_way.append(name)
        number = evaluate_columns(self.changes[name], self.lookup, place, self.bench.names())
        self.under_way.pop()
        _check_fits(number, place, widest(name))
        self.done[name] = number
        return self.done[name]

    def lookup(self, name: str) -> Any:
        first, _, part = name.partition(".")
        if first == "before":
            return self.before.get(part)
        if name not in self.before:
            return self.bench.lookup(name)
        own = bool(self.under_way) and self.under_way[-1] == name
        return self.before[name] if own or name not in self.new else self.member(name)
