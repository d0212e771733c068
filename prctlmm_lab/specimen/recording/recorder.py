"""class RecordingSpecimen: a real specimen whose every call is noted, to be answered elsewhere.

It is for the maintainers' command that makes the recordings (`make recordings`). It starts
without address randomisation, so that equal starts are equal in every byte, and reads the whole
specimen after each call that acts.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

from prctlmm_lab.errors import SpecimenError, SystemCallError
from prctlmm_lab.kernel.difference import COUNTERS
from prctlmm_lab.kernel.procfs import (
    KERNEL_PAGES,
    STAT_FIELDS,
    Beside,
    Parts,
    Snapshot,
    Unreadable,
    read_parts,
)
from prctlmm_lab.kernel.rules import ExeFile
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.recording import store
from prctlmm_lab.specimen.recording.recorded import _IDENTITY, _start
from prctlmm_lab.specimen.recording.state import Descriptor, State
from prctlmm_lab.specimen.spawn import LIFELINE

_ACTS = (
    "map unmap protect brk write set_limit become enter_user_namespace "
    "keep_capabilities open close write_file memory_file file_on_own_mount release_executable "
    "restart execute set_map set_maps"
).split()


class Tape:
    """What has been recorded so far: states, each once, and the edges between them."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}
        """Contents, and the number of each."""
        self.states: dict[str, int] = {}
        """The lines of states, and the number of each."""
        self.lines: list[dict[str, Any]] = []
        self.edges: dict[tuple[int | None, str], dict[str, Any]] = {}

    def number_of(self, data: bytes) -> int:
        """Return the number of some bytes, which are noted when they are new."""
        if data not in self.numbers:
            self.numbers[data] = len(self.numbers)
            self.lines.append(store.content_line(self.numbers[data], data))
        return self.numbers[data]

    def state(self, state: State, of: str = "") -> int:
        """Return the number of a state, which is noted when it is new."""
        line = store.state_line(state, self.number_of) | ({"of": of} if of else {})
        text = store.key("state", line)
        if text not in self.states:
            self.states[text] = len(self.states)
            self.lines.append({"state": self.states[text], **line})
        return self.states[text]

    def edge(
        self, start: int | None, method: str, arguments: Mapping[str, Any], answer: dict[str, Any],
        to: int,
    ) -> int:  # fmt: skip
        """Note an edge and return where it leads, which is where it led the first time.

        Raises ValueError if the same call was answered otherwise before.
        """
        key = start, store.key(method, arguments)
        do = [method, _plain(arguments)]
        line = {"edge": start, "do": do, **answer, "to": to}
        known = self.edges.setdefault(key, line)
        if known is line:
            self.lines.append(line)
        elif {k: known[k] for k in known if k != "to"} != {k: line[k] for k in line if k != "to"}:
            raise ValueError(f"{do}: answered {answer}, and before {known}")
        return int(known["to"])


def _plain(arguments: Mapping[str, Any]) -> Any:
    """Return arguments as the key has them, which is how they are found again."""
    import json

    return json.loads(store.key("", arguments))[1]


TAPE = Tape()


_READS = "syscall place limit file_kind read can_read current_map snapshot".split()
"""What is not noted: a recorded state answers it. Among it is what the rules ask."""


def _reading(name: str) -> Callable[..., Any]:
    original = getattr(Specimen, name)

    @wraps(original)
    def unrecorded(self: RecordingSpecimen, *args: Any, **kwargs: Any) -> Any:
        with self._inside():
            return original(self, *args, **kwargs)

    return unrecorded


def _acting(name: str) -> Callable[..., Any]:
    original = getattr(Specimen, name)
    signature = inspect.signature(original)

    @wraps(original)
    def recorded(self: RecordingSpecimen, *args: Any, **kwargs: Any) -> Any:
        if self._depth:
            return original(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        del arguments["self"]
        return self._recorded(name, arguments, lambda: original(self, *args, **kwargs))

    return recorded


class RecordingSpecimen(Specimen):
    """A real specimen that notes each call, its answer, and what is there afterwards."""

    def __init__(
        self, build: str = "static", *, arguments: Any = (b"specimen",),
        environment: Any = (b"LAB=prctlmm_lab",), heap_pages: int = 4, randomize: bool = True,
        deadline: float = 10.0,
    ) -> None:  # fmt: skip
        self._depth = 1
        super().__init__(
            build, arguments=arguments, environment=environment, heap_pages=heap_pages,
            randomize=False, deadline=deadline,
        )  # fmt: skip
        self._program = build
        state = TAPE.state(self._state())
        start = _start(build, arguments, environment, heap_pages)
        self._node: int = TAPE.edge(None, "start", start, {"answer": None}, state)
        self._depth = 0

    def _recorded(self, name: str, arguments: dict[str, Any], call: Callable[[], Any]) -> Any:
        name, arguments = _canonical(name, arguments)
        reads = name == "brk" and arguments["address"] == 0
        if reads:
            with self._inside():
                return call()
        with self.undivided, self._inside():
            answer, error = None, None
            try:
                answer = call()
            except SystemCallError as refused:
                error = refused
            told = {"answer": store.pack(answer)}
            if error is not None:
                told = {"error": [error.errno, error.call, list(error.arguments)]}
            if self._ended is not None and name == "execute":
                self._wait_until_asleep()
                self._program = ""
            try:
                state = TAPE.state(self._state())
            except SpecimenError:
                return answer
            self._node = TAPE.edge(self._node, name, arguments, told, state)
        if error is not None:
            raise error
        return answer

    def attempt(self, name: str, *arguments: int) -> int:
        """Make a system call; one that may change the kernel's notes is noted."""
        if self._depth or name != "prctl":
            with self._inside():
                return super().attempt(name, *arguments)
        asked = {"name": name, "arguments": list(arguments)}
        make = super().attempt
        return int(self._recorded("attempt", asked, lambda: make(name, *arguments)))

    def rebuilt(self, name: str, work: Callable[[], None]) -> None:
        """Have work make another process of it, and note that as one call."""

        def whole() -> None:
            work()
            self.__dict__.pop("_random", None)  # the new vector says where its random bytes are

        self._recorded("rebuilt", {"name": name}, whole)

    def observed(self, name: str, look: Callable[[int], str]) -> str:
        """Look at it, and note what was told with another process number."""
        with self._inside():
            told = super().observed(name, look)
        told = re.sub(rf"\b{self.pid}\b", str(store.PID), told)
        TAPE.edge(self._node, "observed", {"name": name}, {"answer": told}, self._node)
        return told

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    # ---- looking ------------------------------------------------------------------------------

    def _state(self) -> State:
        from prctlmm_lab.specimen.situation import exe_is_mapped, grows_down

        snapshot = self.snapshot()
        parts, growing = snapshot.__dict__["_parts"], frozenset[int]()
        beside = Beside(
            origin="",
            program=self._program,
            exe_mapped=exe_is_mapped(snapshot),
            own_user_namespace=not os.path.samefile(
                "/proc/self/ns/user", f"/proc/{self.pid}/ns/user"
            ),
        )
        if self._ended is None:
            growing = grows_down(self)
        told = self._ended is None
        texts = self.without_secrets(snapshot, parts) if told else parts
        plain = Snapshot.of(neutral(texts), snapshot.brk, beside)
        return State(
            snapshot=plain,
            pages=dict(self._pages(snapshot)) if told else {},
            kernel_pages=frozenset(self._kernel_pages(snapshot)) if told else frozenset(),
            grows_down=growing,
            moved=self.moved,
            own_memory=self.own_memory,
            identity=tuple(self.attempt(name) for name in _IDENTITY) if told else (0, 0, 0, 0),  # type: ignore[arg-type]
            beside=beside,
            descriptors=dict(self._descriptors()) if told else {},
            exe_changed=self.exe_changed,
        )

    def _pages(self, snapshot: Snapshot) -> Iterator[tuple[int, bytes]]:
        for vma in snapshot.vmas:
            if vma.label in KERNEL_PAGES or vma.permissions[:3] == "---":
                continue
            try:
                data = self.read(vma.start, vma.size)
            except SystemCallError:  # a file that is shorter than its mapping
                continue
            for at in range(0, len(data), PAGE):
                page = self.zeroed(vma.start + at, data[at : at + PAGE])
                if any(page):
                    yield vma.start + at, page

    def zeroed(self, address: int, data: bytes) -> bytes:
        """Return bytes of its memory without what differs from one start or request to the next."""
        kept = bytearray(data)
        for first, last in (self.own_memory, (self._random, self._random + 16)):
            start, end = (min(max(border - address, 0), len(data)) for border in (first, last))
            kept[start:end] = bytes(end - start)
        return bytes(kept)

    def without_secrets(self, snapshot: Snapshot, parts: Parts) -> Parts:
        """Return its files with the same zeros as its memory; both show the same bytes."""
        if not hasattr(self, "_random"):  # the first vector says where execve put random bytes
            self._random = {e.name: e.value for e in snapshot.aux_entries}["AT_RANDOM"]
        texts = dict(parts.texts)
        for name, member in (("cmdline", "arg_start"), ("environ", "env_start")):
            text = texts[name]
            if isinstance(text, bytes):
                texts[name] = self.zeroed(snapshot.members[member], text)
        return Parts(parts.pid, texts, parts.names)

    def _kernel_pages(self, snapshot: Snapshot) -> Iterator[int]:
        for vma in snapshot.vmas:
            if vma.label in KERNEL_PAGES:
                yield from (p for p in range(vma.start, vma.end, PAGE) if self.can_read(p, PAGE))

    def _descriptors(self) -> Iterator[tuple[int, Descriptor]]:
        from prctlmm_lab.specimen.situation import exe_file, link_of

        for number in sorted(map(int, os.listdir(f"/proc/{self.pid}/fd"))):
            file = exe_file(self, number) if number > LIFELINE or number < 3 else ExeFile(True)
            link = re.sub(r"\[\d+\]", "[0]", link_of(self, number))
            link = re.sub(r"/proc/\d+/", f"/proc/{store.PID}/", link)
            yield number, Descriptor(link, file, *self.file_kind(number))

    def _wait_until_asleep(self) -> None:
        """Wait until the program that it became has been loaded and waits for something."""
        deadline = time.monotonic() + self.deadline
        calm = 0
        while calm < 50 and time.monotonic() < deadline:
            stat = self._files()["stat"]
            asleep = isinstance(stat, bytes) and stat[stat.rindex(b")") + 2 :][:1] == b"S"
            calm = calm + 1 if asleep else 0
            time.sleep(0.002)

    def _files(self) -> Mapping[str, bytes | Unreadable | None]:
        return read_parts(self.pid).texts


for _name in _ACTS:
    setattr(RecordingSpecimen, _name, _acting(_name))
for _name in _READS:
    setattr(RecordingSpecimen, _name, _reading(_name))


def _canonical(name: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a call as a recording knows it, however it was written."""
    if "resource" in arguments:
        arguments["resource"] = arguments["resource"].removeprefix("RLIMIT_")
    if isinstance(arguments.get("path"), bytes):
        arguments["path"] = arguments["path"].decode("utf-8", "surrogateescape")
    if "new" in arguments:
        arguments["new"] = arguments["new"].pack()
    for texts in ("arguments", "environment"):
        if texts in arguments:
            arguments[texts] = list(arguments[texts])
    return name, arguments


# ---- what is left out ---------------------------------------------------------------------------


def neutral(parts: Parts) -> Parts:
    """Return files of /proc without process numbers, times and counters."""
    texts = dict(parts.texts)
    texts["smaps"] = None
    for name, change in (("stat", _neutral_stat), ("statm", _neutral_statm),
                         ("status", _neutral_status), ("maps", _neutral_maps)):  # fmt: skip
        text = texts[name]
        if isinstance(text, bytes):
            texts[name] = change(text)
    return Parts(store.PID, texts, {})


def _neutral_stat(text: bytes) -> bytes:
    last = text.rindex(b")")
    fields = text[last + 1 :].split()
    replaced = {"state": b"S", "ppid": b"1", "starttime": b"0", "rss": b"3"}
    replaced |= dict.fromkeys(("pgrp", "session"), b"%d" % store.PID)
    for place, name in enumerate(STAT_FIELDS[2 : len(fields) + 2]):
        known = b"0" if name in COUNTERS["stat"] else fields[place]
        fields[place] = replaced.get(name, known)
    thread = text[text.index(b"(") : last + 1]
    return b"%d %b %b\n" % (store.PID, thread, b" ".join(fields))


def _neutral_maps(text: bytes) -> bytes:
    """Give every file a device and an inode by its name alone; the first are the machine's."""

    def named(match: re.Match[bytes]) -> bytes:
        device = b"00:01" if match[1] == b"00:01" else b"08:01"
        return b" %b %d %b" % (device, zlib.crc32(match[2].strip()) % 10**6, match[2])

    return re.sub(rb" ([0-9a-f]+:[0-9a-f]+) [1-9]\d* ( *\S.*)", named, text)


def _neutral_statm(text: bytes) -> bytes:
    size, _, _, *rest = text.split()
    return b" ".join([size, b"3", b"1", *rest]) + b"\n"


_STATUS = {
    **dict.fromkeys(("Tgid", "Pid", "NStgid", "NSpid", "NSpgid", "NSsid"), f"\t{store.PID}"),
    **dict.fromkeys(("VmHWM", "VmRSS", "VmPeak", "VmPTE"), "\t       4 kB"),
    **dict.fromkeys(("RssAnon", "RssFile", "RssShmem"), "\t       4 kB"),
    **dict.fromkeys(("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"), "\t1"),
    # A shell's job in the background ignores signals, and hands that on.
    **dict.fromkeys(("SigIgn", "SigCgt"), f"\t{0:016x}"),
    "PPid": "\t1",
    "State": "\tS (sleeping)",
    "SigQ": "\t0/0",
}
"""What stands in status in place of counters, and of what belongs to the machine."""


def _neutral_status(text: bytes) -> bytes:
    lines = []
    for line in text.splitlines():
        name, colon, value = line.partition(b":")
        if not name.startswith((b"Cpus_allowed", b"Mems_allowed")):
            lines.append(name + colon + _STATUS.get(name.decode(), value.decode()).encode())
    return b"\n".join(lines) + b"\n"
