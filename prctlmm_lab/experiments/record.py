"""The record of an experiment: what was asked, what was predicted, what the kernel did.

One JSON object a line. Addresses are hex strings, times are UTC, bytes from a process are text in
which what is not UTF-8 stands as a lone surrogate, so that nothing is lost. A `Request` is written
before the call and the `Record` after it; both carry the same id.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.difference import Change, shown
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable

REQUEST_SCHEMA = "prctlmm-lab/request/1"
RECORD_SCHEMA = "prctlmm-lab/record/1"


@dataclass(frozen=True)
class View:
    """What a snapshot shows of the call, in a form that a file can hold.

    A part that could not be read reads "not readable (ERRNO)".
    """

    stat: Mapping[str, str] | str
    """The ten members of stat, in hex."""
    brk: str | None
    statm: Mapping[str, int] | str
    """In pages."""
    status: Mapping[str, str] | str
    """VmExe, VmLib, VmData, VmStk."""
    maps: tuple[str, ...] | str
    auxv: tuple[tuple[str, str], ...] | str
    cmdline: str
    environ: str
    exe: str
    regions: Mapping[str, tuple[str, str]]
    """What the experiment's steps mapped: name -> start and end (exclusive), in hex."""


@dataclass(frozen=True)
class Privilege:
    """What the specimen was allowed at the time of the call."""

    uid: int
    capabilities: str
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
    ended: str
    """How and where the specimen ended, if it did."""


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
    """Whether prediction and kernel agree; None where nothing was predicted."""

    verdict: bool
    effects: bool
    rule: bool | None
    """Whether the rule that the author aimed at decides."""
    learner: bool | None
    disagreements: tuple[str, ...]
    """What was predicted or aimed at and did not come, one sentence each; not the learner's."""
    answers: bool | None = None
    """Whether the steps after the call were answered as the recipe expects."""

    @property
    def with_lab(self) -> bool:
        """True if the kernel did what the specification says, and the author meant."""
        as_meant = self.rule is not False and self.answers is not False
        return self.verdict and self.effects and as_meant


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is known just before the call."""

    schema: str = REQUEST_SCHEMA
    id: str
    time: str
    lab: str
    """The lab's version."""
    experiment: Mapping[str, Any]
    """The experiment with its symbolic values, as a recipe holds it."""
    operation: str = "MAP"
    """The operation of PR_SET_MM, or its number if none has it."""
    value: str = ""
    """The third argument of any other operation than MAP, in hex."""
    map: Mapping[str, str]
    """The 14 members, resolved: what the kernel is to judge, also for one member alone."""
    struct: str
    """The 104 bytes, in hex; "" for an operation that takes no struct."""
    size: str
    """The fourth argument."""
    arg5: str
    facts: Facts
    privilege: Privilege
    before: View
    prediction: Prediction
    learner: str
    """The learner's prediction, or ""."""


@dataclass(frozen=True, kw_only=True)
class Record(Request):
    """A request, and what came of it."""

    schema: str = RECORD_SCHEMA
    outcome: Outcome
    after: View | None
    difference: tuple[tuple[str, str, str, str], ...]
    """What the call changed: place, name, before, after."""
    answers: tuple[Answer, ...]
    """To the steps after the call."""
    later: tuple[tuple[str, str, str, str], ...]
    """What those steps changed."""
    agreement: Agreement

    def summary(self) -> str:
        """Return one line: the experiment, the prediction, the kernel's answer.

        >>> from prctlmm_lab.experiments.experiment import Experiment, run
        >>> run(Experiment("identity")).summary()
        'identity: predicted accepted, kernel accepted'
        """
        kernel = self.outcome.verdict or "no answer"
        rule = f" by {self.prediction.rule}" if self.prediction.rule else ""
        text = (
            f"{self.experiment['id']}: predicted {self.prediction.verdict}{rule}, kernel {kernel}"
        )
        ended = f" ({self.outcome.ended})" if self.outcome.ended else ""
        return text + ended + ("" if self.agreement.with_lab else " - DISAGREEMENT")


def to_json(line: Request) -> str:
    """Return a request or record as one line of JSON, all ASCII, no newline at its end."""
    return json.dumps(plain(line), ensure_ascii=True, separators=(",", ":"))


def plain(value: Any) -> Any:
    """Turn dataclasses, mappings and tuples into what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def bytes_text(data: bytes) -> str:
    r"""Return bytes as text that keeps every byte: what is not UTF-8 becomes a lone surrogate.

    >>> text_bytes(bytes_text(b"a\xff"), "")
    b'a\xff'
    """
    return data.decode("utf-8", "surrogateescape")


def text_bytes(text: str, where: str) -> bytes:
    r"""Return the bytes that a text stands for: UTF-8, and a byte for each surrogate of one.

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
    vector = tuple((entry.name, hex(entry.value)) for entry in snapshot.aux_entries)
    stat = snapshot.stat
    members = stat if isinstance(stat, Unreadable) else _hex(stat.members)
    maps = snapshot.maps
    return View(
        stat=_readable(members),
        brk=None if snapshot.brk is None else hex(snapshot.brk),
        statm=_readable(snapshot.statm),
        status=_readable(status),
        maps=str(maps) if isinstance(maps, Unreadable) else tuple(map(str, maps)),
        auxv=str(auxv) if isinstance(auxv, Unreadable) else vector,
        cmdline=_text(snapshot.cmdline),
        environ=_text(snapshot.environ),
        exe=str(snapshot.exe),
        regions={name: (hex(start), hex(end)) for name, (start, end) in regions.items()},
    )


def _hex(members: Mapping[str, int]) -> dict[str, str]:
    return {name: hex(value) for name, value in members.items()}


def _readable(part: Any) -> Any:
    return str(part) if isinstance(part, Unreadable) else part


def _text(part: bytes | Unreadable) -> str:
    return str(part) if isinstance(part, Unreadable) else bytes_text(part)


def change_texts(changes: Iterable[Change]) -> tuple[tuple[str, str, str, str], ...]:
    """Return changes as rows of text: place, name, before, after."""
    return tuple((c.place, c.name, _value(c.before), _value(c.after)) for c in changes)


def _value(value: Any) -> str:
    return bytes_text(value) if isinstance(value, bytes) else shown(value)


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


_START = '{"schema":"prctlmm-lab/'


def is_torn(line: str) -> bool:
    """Tell whether a line is the beginning of a request or record that was not written to its end.

    >>> is_torn('{"schema":"prctlmm-lab/record/1","id":"7f'), is_torn("{}")
    (True, False)
    """
    text = line.rstrip("\n")
    if not text or not (text.startswith(_START) or _START.startswith(text)):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


def parse_line(line: str, where: str) -> dict[str, Any]:
    """Parse one line of a logbook into its object, checking that it says which schema it has.

    Raises InputError for a line that is no JSON object or of an unknown schema.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(where, "is not a JSON object", ascii(line[:60])) from None
    if not isinstance(value, dict) or value.get("schema") not in (REQUEST_SCHEMA, RECORD_SCHEMA):
        found = value.get("schema") if isinstance(value, dict) else None
        raise InputError(where, "is not the schema of a record", ascii(found)[:80], RECORD_SCHEMA)
    return value
