"""The file of a recording: JSON Lines, compressed by gzip; read strictly, nothing is evaluated.

The first line names the schema, the kernel's release, the machine, the date, and what the one who
recorded was allowed. Then come, each on a line of its own:

- `content`: a number, and bytes as `text` (ASCII) or `base64`. Each is there once.
- `state`: a number, and a specimen at that moment: the files of /proc by number of content (or the
  errno that refused them), brk, pages, descriptors and so on.
- `edge`: from a state (null: from nothing, a start) by `do`, a method with its arguments, to a
  state, with the `answer` or the `error` (errno, call, arguments).
- `facts`, `tally`, `examination`: what the functions of these names returned.

Process numbers, times and counters are replaced, random bytes and what the specimen's own program
keeps in memory are zeros: so that equal states are one, and nothing tells of the machine.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Beside, Parts, Snapshot, Unreadable
from prctlmm_lab.kernel.rules import ExeFile
from prctlmm_lab.specimen.recording.state import PAGE, Descriptor, NotRecorded, State

SCHEMA = "prctlmm-lab/recorded/1"
PID = 4321
"""Every recorded process has this number."""
FILES = ("exe", "limits", "auxv", "stat", "statm", "status", "maps", "cmdline", "environ")
_MOST_BYTES = 1 << 28
"""Bytes that a file may have when it is unpacked."""


@dataclass(frozen=True)
class Edge:
    """What a call answered, and the state after it."""

    answer: Any
    error: tuple[int, str, tuple[int, ...]] | None
    to: int | None


@dataclass
class Recording:
    """A recording in memory."""

    kernel: str
    machine: str
    date: str
    reader_stack_limit: int
    most_at_once: int
    facts: Facts | None = None
    tallies: list[dict[str, Any]] = field(default_factory=list)
    examinations: list[dict[str, Any]] = field(default_factory=list)
    edges: dict[tuple[int | None, str], Edge] = field(default_factory=dict)
    states: dict[int, dict[str, Any]] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    python: int | None = None
    """The state of an interpreter, for where not even /proc/self can be read."""

    def __post_init__(self) -> None:
        self._states: dict[int, State] = {}

    @property
    def origin(self) -> str:
        """What answers from it are marked with."""
        return f"recorded on Linux {self.kernel}, {self.date}"

    @property
    def known_facts(self) -> Facts:
        """The facts of the recorded kernel, which every recording holds."""
        assert self.facts is not None
        return self.facts

    def asked(self, kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a function returned that was asked with just these arguments.

        Raises NotRecorded for others.
        """
        lines = self.tallies if kind == "tally" else self.examinations
        for line in lines:
            if line["asked"] == arguments:
                return dict(line[kind])
        known = " or ".join(_arguments_text(line["asked"]) for line in lines)
        what = f"That with {_arguments_text(arguments)} was not recorded, but with {known}"
        raise NotRecorded(what)

    def state(self, number: int) -> State:
        """Return a state; it is built when it is first asked for."""
        if number not in self._states:
            self._states[number] = _state(self.states[number], self.contents, self.origin)
        return self._states[number]


def _arguments_text(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in arguments.items())


def key(method: str, arguments: Mapping[str, Any]) -> str:
    """Return the text by which a call is found: bytes stand as base64, or as a hash if long.

    >>> key("brk", {"address": 4096})
    '["brk",{"address":4096}]'
    """
    return json.dumps([method, arguments], default=_told, separators=(",", ":"))


def _told(data: object) -> str:
    assert isinstance(data, bytes | bytearray | memoryview)
    if len(data) > PAGE:
        return f"sha256:{hashlib.sha256(data).hexdigest()}"
    return f"base64:{base64.b64encode(data).decode()}"


def pack(answer: object) -> Any:
    """Return an answer as JSON holds it: long bytes are compressed."""
    if isinstance(answer, bytes):
        return {"zlib": base64.b64encode(zlib.compress(answer, 9)).decode()}
    return answer


def _unpacked(answer: Any) -> Any:
    if isinstance(answer, dict):
        unpacker = zlib.decompressobj()
        return unpacker.decompress(base64.b64decode(answer["zlib"], validate=True), _MOST_BYTES)
    return answer


# ---- reading ------------------------------------------------------------------------------------


@cache
def shipped() -> Recording:
    """Return the recording that comes with the lab; read once.

    Raises InputError if it is missing or damaged.
    """
    package = Path(__file__).parents[2]
    folders = (package.parent / "data" / "recorded", package / "data" / "recorded")
    found = [path for folder in folders for path in sorted(folder.glob("*.jsonl.gz"))]
    if not found:
        raise InputError(str(folders[0]), "holds no recording", "", "linux-*.jsonl.gz")
    return read(found[-1])


def read(path: Path) -> Recording:
    """Read a recording.

    Raises InputError that says what is wrong and where, for anything but a whole one.
    """
    try:
        with gzip.open(path) as file:
            data = file.read(_MOST_BYTES)
        lines = data.decode("ascii").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(str(path), f"is not a readable recording: {error}") from None
    number = 1
    try:
        recording = _header(json.loads(lines[0]) if lines else {})
        for line in lines[1:]:
            number += 1
            _take(json.loads(line), recording)
        _check_numbers(recording)
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        where = f"{path}, line {number}"
        what = str(error) or type(error).__name__
        problem = f"is not a line of a recording: {what[:200]}"
        raise InputError(where, problem, "", SCHEMA) from None
    return recording


def _header(line: dict[str, Any]) -> Recording:
    if not isinstance(line, dict) or line.get("schema") != SCHEMA:
        raise ValueError("the schema is another")
    kernel, machine, date = (line[name] for name in ("kernel", "machine", "date"))
    if not all(isinstance(text, str) for text in (kernel, machine, date)):
        raise ValueError("kernel, machine and date must be text")
    limits = _number(line["reader_stack_limit"]), _number(line["most_at_once"])
    return Recording(kernel, machine, date, *limits)


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r:.80} is no whole number")
    return value


def _take(line: dict[str, Any], into: Recording) -> None:
    (kind,) = (name for name in _KINDS if name in line)
    _KINDS[kind](line, into)


def _take_content(line: dict[str, Any], into: Recording) -> None:
    data = (
        line["text"].encode("ascii")
        if "text" in line
        else base64.b64decode(line["base64"], validate=True)
    )
    into.contents[_number(line["content"])] = data


def _take_state(line: dict[str, Any], into: Recording) -> None:
    into.states[_number(line["state"])] = line
    if line.get("of") == "python":
        into.python = line["state"]


def _take_edge(line: dict[str, Any], into: Recording) -> None:
    method, arguments = line["do"]
    start = None if line["edge"] is None else _number(line["edge"])
    error = None
    if "error" in line:
        number, call, values = line["error"]
        error = _number(number), str(call), tuple(map(_number, values))
    edge = Edge(_unpacked(line.get("answer")), error, _number(line["to"]))
    into.edges[start, key(str(method), dict(arguments))] = edge


def _take_facts(line: dict[str, Any], into: Recording) -> None:
    values = dict(line["facts"])
    into.facts = Facts(**{**values, "assumed": tuple(values["assumed"])})


_KINDS: dict[str, Callable[[dict[str, Any], Recording], None]] = {
    "content": _take_content,
    "state": _take_state,
    "edge": _take_edge,
    "facts": _take_facts,
    "tally": lambda line, into: into.tallies.append(line),
    "examination": lambda line, into: into.examinations.append(line),
}


def _check_numbers(recording: Recording) -> None:
    """Refuse a recording in which a number leads nowhere.

    Raises ValueError.
    """
    for (start, _), edge in recording.edges.items():
        for number in (start, edge.to):
            if number is not None and number not in recording.states:
                raise ValueError(f"an edge leads to state {number}, which is not there")
    for number in recording.states:
        recording_contents(recording.states[number], recording.contents)
    if recording.facts is None or recording.python is None:
        raise ValueError("the facts or the Python are missing")


def recording_contents(line: Mapping[str, Any], contents: Mapping[int, bytes]) -> None:
    """Check that all contents of a state are there."""
    texts = [entry for entry in line["files"].values() if isinstance(entry, int)]
    for number in (*texts, *line["pages"].values()):
        if _number(number) not in contents:
            raise ValueError(f"content {number} is not there")
    if any(len(contents[number]) != PAGE for number in line["pages"].values()):
        raise ValueError("a page has another size")
    if set(line["files"]) != set(FILES):
        raise ValueError("the files are others")


def _state(line: Mapping[str, Any], contents: Mapping[int, bytes], origin: str) -> State:
    texts: dict[str, bytes | Unreadable | None] = {"smaps": None}
    for name, entry in line["files"].items():
        known = isinstance(entry, int)
        texts[name] = contents[entry] if known else Unreadable(f"/proc/{PID}/{name}", entry[0])
    beside = Beside(origin=origin, **line["beside"])
    return State(
        snapshot=Snapshot.of(Parts(PID, texts, {}), line["brk"], beside),
        pages={int(address, 16): contents[number] for address, number in line["pages"].items()},
        kernel_pages=frozenset(line["kernel_pages"]),
        grows_down=frozenset(line["grows_down"]),
        moved=frozenset(line["moved"]),
        own_memory=tuple(line["own_memory"]),
        identity=tuple(line["identity"]),
        beside=beside,
        descriptors={
            int(number): Descriptor(link, ExeFile(**file), _number(kind), _number(device))
            for number, (link, file, kind, device) in line["descriptors"].items()
        },
        exe_changed=line["exe_changed"],
    )


# ---- writing ------------------------------------------------------------------------------------


def state_line(state: State, number_of: Any) -> dict[str, Any]:
    """Return a state as a line; `number_of` gives the number of some bytes."""
    parts: Parts = state.snapshot.__dict__["_parts"]
    beside = {f.name: getattr(state.beside, f.name) for f in fields(Beside) if f.name != "origin"}
    return {
        "files": {
            name: number_of(text) if isinstance(text, bytes) else [text.errno]  # type: ignore[union-attr]
            for name, text in ((name, parts.texts[name]) for name in FILES)
        },
        "brk": state.snapshot.brk,
        "pages": {hex(at): number_of(data) for at, data in sorted(state.pages.items())},
        "kernel_pages": sorted(state.kernel_pages),
        "grows_down": sorted(state.grows_down),
        "moved": sorted(state.moved),
        "own_memory": list(state.own_memory),
        "identity": list(state.identity),
        "beside": beside,
        "descriptors": {
            str(number): [one.link, vars(one.file), one.kind, one.device]
            for number, one in state.descriptors.items()
        },
        "exe_changed": state.exe_changed,
    }


def content_line(number: int, data: bytes) -> dict[str, Any]:
    """Return bytes as a line."""
    if data.isascii() and b"\0" not in data:
        return {"content": number, "text": data.decode("ascii")}
    return {"content": number, "base64": base64.b64encode(data).decode()}


def write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a recording; the same lines make the same file."""
    text = "".join(_written(lines)).encode("ascii")
    path.write_bytes(gzip.compress(text, 9, mtime=0))


def _written(lines: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for line in lines:
        yield json.dumps(line, separators=(",", ":")) + "\n"
