"""The record of an experiment: what was asked, what was predicted, what the kernel did.

One JSON object a line. Addresses and masks are hex strings, times are UTC, bytes from a process are
text that loses nothing (`text_form`). A `Request` is written before the call and the `Record` after
it; both carry the same id.

What comes back from a file is checked by `validation.py`, which also knows the older schemas.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from typing import Annotated, Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.difference import Change, shown
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable

REQUEST_SCHEMA = "prctlmm-lab/request/2"
RECORD_SCHEMA = "prctlmm-lab/record/2"
OLDER_SCHEMAS = {
    "prctlmm-lab/request/1": REQUEST_SCHEMA,
    "prctlmm-lab/record/1": RECORD_SCHEMA,
}
"""What is still read, and what it is read as.

In schema 1 the facts `IN_HEX` are numbers (which JavaScript and jq round above 2**53), what is not
UTF-8 stands as a lone surrogate (which they replace), an entry of auxv is a pair, `after` has every
part, and an outcome says of an end only the sentence."""

IN_HEX = ("lowest", "highest", "exe_capabilities")
"""The facts that are addresses or masks: hex strings in a record."""
HEX = r"^0x[0-9a-f]{1,16}$"


@dataclass(frozen=True)
class Pattern:
    """What a text must look like: a note for pydantic, which reads it without our importing it."""

    pattern: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(source) | {"pattern": self.pattern}


class HexFacts:
    """Facts whose addresses and masks are hex strings; also a note for pydantic."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: Callable[[Any], Any]) -> Any:
        before = {"type": "no-info", "function": _numbers}
        return {"type": "function-before", "function": before, "schema": handler(source)}


def _numbers(told: Any) -> Any:
    """Turn the facts that are hex strings into numbers; in schema 1 they were numbers."""
    if not isinstance(told, dict):
        return told
    found = {name: int(told[name], 16) for name in IN_HEX if isinstance(told.get(name), str)}
    return told | found | {"assumed": tuple(told.get("assumed", ()))}


Hex = Annotated[str, Pattern(HEX)]
"""64 bits at most."""
HexOrNone = Annotated[str, Pattern(f"{HEX}|^$")]
Bytes = Annotated[str, Pattern(r"^([0-9a-f]{2}){0,4096}$")]
Time = Annotated[str, Pattern(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00$")]
Identity = Annotated[str, Pattern(r"^[0-9a-f]{32}$")]
Origin = Annotated[str, Pattern(r"^(live|predicted|recorded on Linux [ -~]{1,100})$")]

LIVE = "live"
INTERRUPTED = "interrupted: nothing was written after the request"


@dataclass(frozen=True)
class View:
    """What a snapshot shows of the call, in a form that a file can hold.

    A part that could not be read reads "not readable (ERRNO)". None stands for what is as it was
    before the call, and is left out of the line.
    """

    stat: Mapping[str, Hex] | str | None = None
    """The ten members of stat, in hex."""
    brk: Hex | None = None
    statm: Mapping[str, int] | str | None = None
    """In pages."""
    status: Mapping[str, str] | str | None = None
    """VmExe, VmLib, VmData, VmStk."""
    maps: tuple[str, ...] | str | None = None
    auxv: tuple[str, ...] | str | None = None
    """Its entries: AT_PAGESZ=0x1000."""
    cmdline: str | None = None
    environ: str | None = None
    exe: str | None = None
    regions: Mapping[str, tuple[Hex, Hex]] | None = None
    """What the experiment's steps mapped: name -> start and end (exclusive), in hex."""

    def since(self, before: View) -> View:
        """Return only the parts that differ from an earlier view."""
        return View(**{n: v for n, v in vars(self).items() if v != getattr(before, n)})

    def on(self, before: View) -> View:
        """Return every part: what is not here is as it was before."""
        return replace(before, **{n: v for n, v in vars(self).items() if v is not None})


@dataclass(frozen=True)
class Privilege:
    """What the specimen was allowed at the time of the call."""

    uid: int
    capabilities: Hex
    """CapEff, in hex."""
    own_user_namespace: bool | None
    """Whether it is in another user namespace than the lab; `capabilities` then count there.

    None if that cannot be seen.
    """
    seccomp: int
    """0 off, 1 strict, 2 filter."""


@dataclass(frozen=True)
class Prediction:
    """What the lab's rules and effects said before the call."""

    verdict: str
    """"accepted" or the name of an errno."""
    rule: str
    """The id of the rule that decides, "" for none."""
    numbers: str
    broken: tuple[str, ...]
    """Every rule that is broken, the deciding one first."""
    effects: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What the kernel did."""

    verdict: str
    """"accepted", the name of an errno, or "" if the specimen ended in the call."""
    errno: int
    """0 for accepted, -1 where none came."""
    ended: str = ""
    """How and where the specimen ended, if it did; or that the run was interrupted."""
    signal: str = ""
    """The signal that ended the specimen, such as SIGSEGV."""
    timeout: bool = False
    """True if the specimen did not answer in time."""
    interrupted: bool = False
    """True if the lab itself was interrupted before it knew the outcome."""


@dataclass(frozen=True)
class Answer:
    """What the kernel answered to a step."""

    step: str
    answer: str
    """A number in hex, or "" for a step that has none."""
    refusal: str
    """The system call with its errno, or "" for a step that was done."""
    expected: str = ""
    """The number that the recipe expects, in hex, or "" where it expects none."""

    @property
    def as_expected(self) -> bool:
        """True unless the recipe expects another number."""
        return not self.expected or self.expected == self.answer


@dataclass(frozen=True)
class Agreement:
    """Whether prediction and kernel agree; None where nothing was predicted, or nothing came."""

    verdict: bool | None
    effects: bool | None
    rule: bool | None
    """Whether the rule that the author aimed at decides."""
    learner: bool | None
    disagreements: tuple[str, ...]
    """What was predicted or aimed at and did not come, one sentence each; not the learner's."""
    answers: bool | None = None
    """Whether the steps after the call were answered as the recipe expects."""

    @property
    def with_lab(self) -> bool:
        """True if the kernel did what the specification says, and the author meant.

        Also where it never came to an answer, which says nothing.
        """
        return False not in (self.verdict, self.effects, self.rule, self.answers)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is known just before the call."""

    schema: str = REQUEST_SCHEMA
    id: Identity
    """Of this run; a request and its record have the same."""
    time: Time
    """UTC."""
    lab: str
    """The lab's version."""
    experiment: Mapping[str, Any]
    """The experiment with its symbolic values, as a recipe holds it; texts in `text_form`."""
    operation: str = "MAP"
    """The operation of PR_SET_MM, or its number if none has it."""
    value: HexOrNone = ""
    """The third argument of any other operation than MAP, in hex."""
    map: Mapping[str, Hex]
    """The 14 members, resolved: what the kernel is to judge, also for one member alone."""
    struct: Bytes
    """The 104 bytes, in hex; "" for an operation that takes no struct."""
    size: Hex
    """The fourth argument."""
    arg5: Hex
    facts: Annotated[Facts, HexFacts]
    privilege: Privilege
    before: View
    prediction: Prediction
    learner: str
    """The learner's prediction, or ""."""
    origin: Origin = LIVE
    """"live" for a real call; else "recorded on Linux X, DATE" or "predicted"."""


@dataclass(frozen=True, kw_only=True)
class Record(Request):
    """A request, and what came of it."""

    schema: str = RECORD_SCHEMA
    outcome: Outcome
    after: View | None
    """The parts that differ from `before`; None if the specimen could not be looked at."""
    difference: tuple[tuple[str, str, str, str], ...]
    """What the call changed: place, name, before, after."""
    answers: tuple[Answer, ...]
    """To the steps after the call."""
    later: tuple[tuple[str, str, str, str], ...]
    """What those steps changed."""
    agreement: Agreement

    @property
    def view_after(self) -> View | None:
        """The whole view after the call, None if the specimen could not be looked at."""
        return self.after and self.after.on(self.before)

    def summary(self) -> str:
        """Return one line: the experiment, the prediction, the kernel's answer.

        >>> from prctlmm_lab.experiments.experiment import Experiment, run
        >>> run(Experiment("identity")).summary()
        'identity: predicted accepted, kernel accepted'
        """
        kernel = f"kernel {self.outcome.verdict or 'no answer'}"
        if self.origin == "predicted":
            kernel = "no real call"
        rule = f" by {self.prediction.rule}" if self.prediction.rule else ""
        text = f"{self.experiment['id']}: predicted {self.prediction.verdict}{rule}, {kernel}"
        ended = f" ({self.outcome.ended})" if self.outcome.ended else ""
        if self.origin.startswith("recorded"):
            ended += f" ({self.origin})"
        return text + ended + ("" if self.agreement.with_lab else " - DISAGREEMENT")


def interrupted(request: Request, how: str = INTERRUPTED) -> Record:
    """Return the record of a request whose outcome is not known."""
    return Record(
        **{f.name: getattr(request, f.name) for f in fields(Request) if f.name != "schema"},
        outcome=Outcome("", -1, how, interrupted=True),
        after=None,
        difference=(),
        answers=(),
        later=(),
        agreement=Agreement(None, None, None, None, ()),
    )


def to_json(line: Request) -> str:
    """Return a request or record as one line of JSON, all ASCII, no newline at its end."""
    return _ENCODER.encode(line)


def plain(value: Any) -> Any:
    """Turn dataclasses, mappings and tuples into what JSON has."""
    return json.loads(_ENCODER.encode(value))


def _plain_part(value: object) -> dict[str, Any]:
    """Return what the encoder is to write in place of an object that it does not know."""
    if isinstance(value, View):
        return {name: part for name, part in vars(value).items() if part is not None}
    if isinstance(value, Facts):
        return vars(value) | {name: hex(getattr(value, name)) for name in IN_HEX}
    if dataclasses.is_dataclass(value):
        return vars(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


_ENCODER = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=_plain_part)


def text_form(text: str) -> str:
    r"""Return text in a form that every reader of JSON gives back as it is.

    A backslash is doubled. A lone surrogate, which stands for a byte that is not UTF-8 and which
    most readers refuse or replace, is written as `\xff`, or `\ud800` where it stands for none.

    >>> print(text_form("a\udcff \\ é"))
    a\xff \\ é
    """
    if text.isascii() and "\\" not in text:
        return text
    return _SPECIAL.sub(_escape, text)


def from_text_form(text: str) -> str:
    r"""Return the text that was given to `text_form`.

    >>> from_text_form(text_form("a\udcff \\xff")) == "a\udcff \\xff"
    True
    """
    return _ESCAPE.sub(_unescape, text) if "\\" in text else text


_SPECIAL = re.compile(r"[\\\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:\\|x([89a-f][0-9a-f])|u(d[89a-f][0-9a-f]{2}))")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code == 0x5C:
        return r"\\"
    return rf"\x{code - 0xDC00:02x}" if 0xDC80 <= code < 0xDD00 else rf"\u{code:04x}"


def _unescape(found: re.Match[str]) -> str:
    byte, code = found.groups()
    if byte:
        return chr(0xDC00 + int(byte, 16))
    return chr(int(code, 16)) if code else "\\"


def bytes_text(data: bytes) -> str:
    r"""Return bytes as a record holds them: UTF-8 as it reads, other bytes as `\xff`.

    >>> print(bytes_text(b"a\xff"))
    a\xff
    """
    return text_form(data.decode("utf-8", "surrogateescape"))


def recorded_bytes(text: str) -> bytes:
    r"""Return the bytes that a record's text stands for.

    >>> recorded_bytes(bytes_text(b"a\xff\\\xc3\xa9"))
    b'a\xff\\\xc3\xa9'

    Raises InputError for a text that stands for none.
    """
    return text_bytes(from_text_form(text), "record")


def text_bytes(text: str, where: str) -> bytes:
    r"""Return the bytes that a recipe's text stands for: UTF-8, and a byte for each surrogate.

    >>> text_bytes("é", "").hex()
    'c3a9'

    Raises InputError for a surrogate that stands for no byte.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        character = f"U+{ord(text[error.start]):04X}"
        raise InputError(where, "is half of a character", character, "whole ones") from None


def view(snapshot: Snapshot, regions: Mapping[str, tuple[int, int]]) -> View:
    """Return what a snapshot shows of the call."""
    status = snapshot.status
    if not isinstance(status, Unreadable):
        status = {
            key: status[key] for key in ("VmExe", "VmLib", "VmData", "VmStk") if key in status
        }
    auxv = snapshot.auxv
    vector = tuple(f"{entry.name}={entry.value:#x}" for entry in snapshot.aux_entries)
    stat = snapshot.stat
    members = stat if isinstance(stat, Unreadable) else _hex(stat.members)
    maps = snapshot.maps
    return View(
        stat=_readable(members),
        brk=None if snapshot.brk is None else hex(snapshot.brk),
        statm=_readable(snapshot.statm),
        status=_readable(status),
        maps=str(maps) if isinstance(maps, Unreadable) else tuple(_place(str(v)) for v in maps),
        auxv=str(auxv) if isinstance(auxv, Unreadable) else vector,
        cmdline=_text(snapshot.cmdline),
        environ=_text(snapshot.environ),
        exe=_place(str(snapshot.exe)),
        regions={name: (hex(start), hex(end)) for name, (start, end) in regions.items()},
    )


def _hex(members: Mapping[str, int]) -> dict[str, str]:
    return {name: hex(value) for name, value in members.items()}


def _readable(part: Any) -> Any:
    return str(part) if isinstance(part, Unreadable) else part


def _text(part: bytes | Unreadable) -> str:
    return str(part) if isinstance(part, Unreadable) else _kept(part)


LONGEST_TEXT = 1 << 16
"""Bytes of the longest cmdline or environ that a record holds as it is."""


def _kept(data: bytes) -> str:
    """Return bytes as text, or their number and checksum where they are too many to keep."""
    if len(data) <= LONGEST_TEXT:
        return bytes_text(data)
    return f"not kept ({len(data):#x} bytes, SHA-256 {sha256(data).hexdigest()})"


def change_texts(changes: Iterable[Change]) -> tuple[tuple[str, str, str, str], ...]:
    """Return changes as rows of text: place, name, before, after."""
    return tuple((c.place, c.name, _value(c.before), _value(c.after)) for c in changes)


def _value(value: Any) -> str:
    return _kept(value) if isinstance(value, bytes) else _place(shown(value))


_FOLDER = re.compile(r"/.*/(?=specimen-[a-z0-9_]{8}(?: \(deleted\))?(?: \(offset|$))")


def _place(text: str) -> str:
    """Leave out the folder in which the specimen's program lay where memory files are forbidden.

    It may be somebody's own.
    """
    return text_form(_FOLDER.sub(".../", text))


def in_text_form(data: Any) -> Any:
    """Put every text of a table into `text_form`."""
    return _with_texts(data, text_form)


def from_in_text_form(data: Any) -> Any:
    """Put every text of a table back from `text_form`."""
    return _with_texts(data, from_text_form)


def _with_texts(data: Any, change: Callable[[str], str]) -> Any:
    if isinstance(data, str):
        return change(data)
    if isinstance(data, Mapping):
        return {key: _with_texts(item, change) for key, item in data.items()}
    if isinstance(data, tuple | list):
        return [_with_texts(item, change) for item in data]
    return data


def experiment_data(experiment: Any) -> dict[str, Any]:
    """Return an experiment as a recipe's table holds it: only what differs from the defaults."""
    table: dict[str, Any] = _without_defaults(experiment)
    return table


def _without_defaults(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        table: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            if default is dataclasses.MISSING or item != default:
                table[field.name] = _without_defaults(item)
        return table
    if isinstance(value, Mapping):
        return {key: _without_defaults(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_without_defaults(item) for item in value]
    return value
