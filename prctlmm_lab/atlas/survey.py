"""Surveys: what a kernel showed one caller, kept in a file; a folder of them is an atlas.

A survey is of one kernel, with one kind of page tables, as one caller. It holds what came of every
conformance case, claim and experiment that it was held to, the tallies of random calls, and the
kernel's facts. Its file is JSON of the schema below: an entry a line, so that two can be compared
by `diff`. It is written whole or not at all, and read strictly: what is torn or made up is refused
in a sentence.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from prctlmm_lab.atlas.images import flavour, version_order
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.record import IN_HEX
from prctlmm_lab.kernel.facts import Facts

SCHEMA = "prctlmm-lab/survey/1"
LARGEST = 1 << 24
"""Bytes of the largest file that is read."""


# ---- what is in it ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What a survey is of: a kernel, and who calls it.

    >>> Target("6.1.0-56-cloud-amd64", "6.1.192", "x86_64", 4, "root").name
    '6.1.192'
    >>> Target("7.3.4+deb13-cloud-amd64", "7.3.4", "x86_64", 5, "user").file
    '7.3.4-cloud-amd64-5-level-user.json'
    """

    release: str
    """What `uname -r` says."""
    upstream: str
    """The stable release that it contains."""
    machine: str
    """x86_64, aarch64, or um for user-mode Linux."""
    levels: int
    """Of page tables."""
    who: str
    """"root", with all capabilities, or "user": uid 65534 without any."""

    @property
    def name(self) -> str:
        """The kernel in a few words, without who calls it."""
        machine = "" if self.machine == "x86_64" else f" {self.machine}"
        return self.upstream + machine + (" 5-level" if self.levels == 5 else "")

    @property
    def file(self) -> str:
        """The name of its file."""
        kind = flavour(self.release) or self.machine
        parts = self.upstream, kind, f"{self.levels}-level", self.who
        return re.sub(r"[^A-Za-z0-9.+~-]", "-", "-".join(parts)) + ".json"

    @property
    def order(self) -> tuple[object, ...]:
        """What targets are sorted by: x86-64 with 4 levels first, from the oldest to the newest."""
        return self.machine != "x86_64", self.machine, self.levels, version_order(self.upstream)


@dataclass(frozen=True)
class Made:
    """When a part of a survey was made, and with what."""

    lab: str
    """The version of this package."""
    specification: str
    """Its fingerprint for this kernel (`prctlmm_lab.atlas.fingerprint`)."""
    asked: str
    """What tells the questions from those of another day: a digest of them."""
    time: str
    """When it was done: UTC, to the second."""
    seconds: float


@dataclass(frozen=True)
class Case:
    """A conformance case."""

    result: str
    """"pass", "fail" or "skip"."""
    kernel: str = ""
    """"accepted", the errno, or "" without an answer."""
    expected: str = ""
    """What the specification says, with the rule that decides."""
    reasons: tuple[str, ...] = ()
    """Why it failed, or was skipped."""


@dataclass(frozen=True)
class Settled:
    """A claim."""

    verdict: str
    """"holds", "does not hold" or "cannot be shown"."""
    expected: str
    """What we say of this kernel; "" where nothing is said."""
    evidence: str

    @property
    def contradicts(self) -> bool:
        """True if the kernel shows otherwise than we say."""
        shown = self.verdict != "cannot be shown"
        return shown and self.expected not in ("", self.verdict)


@dataclass(frozen=True)
class Ran:
    """An experiment of a recipe: what the kernel answered, apart from where things lie."""

    key: str
    """What tells the experiment from another of its name (`comparison.recipe_key`)."""
    verdict: str = ""
    """"accepted", the errno, or "" without an answer."""
    rule: str = ""
    """The rule that decides, by the specification."""
    end: str = ""
    """How the specimen ended, if it did."""
    refused: str = ""
    """Why the experiment could not be made."""
    effects: tuple[tuple[str, str], ...] = ()
    """What the call and the steps after it changed in /proc, addresses by landmarks."""
    answers: tuple[tuple[str, str], ...] = ()
    """To the steps after the call."""
    capabilities: str = "0x0"
    own_user_namespace: bool | None = False
    disagreements: tuple[str, ...] = ()
    """What the specification had not said, a sentence each."""
    exact: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of effects that are addresses: what in the recipe or the layout they are exactly."""
    missed: str = ""
    """Which rule the author aims at, where another one decides on this kernel, or none."""


@dataclass(frozen=True)
class Wrong:
    """One call on which kernel and specification differ."""

    scenario: str
    limit: str
    predicted: str
    kernel: str
    recipe: str
    """What shows it again, as TOML."""


@dataclass(frozen=True)
class Calls:
    """Random calls that were compared with the specification: a part of a survey's many."""

    seed: int
    first: int
    """Places that were passed over, of those that the seed leads to."""
    wanted: int
    calls: int
    watched: int = 0
    moves: int = 0
    disagreements: int = 0
    interrupted: bool = False
    by_scenario: Mapping[str, int] = field(default_factory=dict)
    by_limit: Mapping[str, int] = field(default_factory=dict)
    by_verdict: Mapping[str, int] = field(default_factory=dict)
    by_rule: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[Wrong, ...] = ()
    made: Made | None = None

    @property
    def slice(self) -> tuple[int, int, int]:
        """What tells it from other slices."""
        return self.seed, self.first, self.wanted


@dataclass(frozen=True)
class Survey:
    """What one kernel showed one caller."""

    target: Target
    facts: Facts | None = None
    made: Mapping[str, Made] = field(default_factory=dict)
    """By part: "facts", "conformance", "claims", and each recipe by its name."""
    conformance: Mapping[str, Case] = field(default_factory=dict)
    """By subject and case: "order/code.equal"."""
    claims: Mapping[str, Settled] = field(default_factory=dict)
    """By id."""
    recipes: Mapping[str, Ran] = field(default_factory=dict)
    """By recipe and experiment: "heap/moved"."""
    vector: tuple[str, ...] = ()
    """The entries of auxv that execve gives, as the experiments of recipes found them."""
    verdicts: tuple[Calls, ...] = ()
    """Calls in masses, whose verdicts were compared."""
    effects: tuple[Calls, ...] = ()
    """Calls one by one, with everything that they show."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """What could not be done, by part: a guest that crashed, what a kernel lacks."""

    @property
    def results(self) -> Counter[str]:
        """How many cases passed, failed and were skipped."""
        return Counter(case.result for case in self.conformance.values())

    @property
    def calls(self) -> int:
        """Calls whose verdict was compared."""
        return sum(part.calls for part in (*self.verdicts, *self.effects))

    @property
    def watched(self) -> int:
        """Accepted maps whose whole effect was compared."""
        return sum(part.watched for part in self.effects)

    @property
    def seconds(self) -> float:
        """Seconds that it took on the guest, without the guest's starts."""
        made = [*self.made.values(), *(part.made for part in (*self.verdicts, *self.effects))]
        return sum(each.seconds for each in made if each is not None)

    @property
    def disagreements(self) -> tuple[str, ...]:
        """Everything in which kernel and specification differ, a line each."""
        return tuple(self._disagreements())

    def _disagreements(self) -> Iterator[str]:
        for name, case in self.conformance.items():
            if case.result == "fail":
                yield f"case {name}: {' '.join(case.reasons)}"
        for name, settled in self.claims.items():
            if settled.contradicts:
                yield f"claim {name}: {settled.verdict}, expected {settled.expected}"
        for name, ran in self.recipes.items():
            yield from (f"recipe {name}: {text}" for text in ran.disagreements)
        for kind in ("verdicts", "effects"):
            for part in getattr(self, kind):
                if part.disagreements:
                    yield f"{kind}, seed {part.seed}: {part.disagreements} calls"


# ---- its file ---------------------------------------------------------------------------------


def atlas_folder() -> Path:
    """Return where the surveys that come with the lab lie: in a clone, or beside the package."""
    package = Path(__file__).parents[1]
    folders = (package.parent / "data" / "atlas", package / "data" / "atlas")
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def own_folder() -> Path:
    """Return where surveys of one's own go: $PRCTLMM_LAB_ATLAS, or in the user's data folder."""
    if named := os.environ.get("PRCTLMM_LAB_ATLAS"):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "prctlmm-lab" / "atlas"


def surveys(folder: str | Path | None = None) -> tuple[Survey, ...]:
    """Read the surveys in a folder, in order of their kernels; without one, the lab's own.

    Raises InputError for a folder that cannot be read, and as `read_survey`.
    """
    folder = atlas_folder() if folder is None else Path(folder)
    if not folder.is_dir():
        raise InputError(str(folder), "is no folder")
    found = [read_survey(path) for path in sorted(folder.glob("*.json"))]
    return tuple(sorted(found, key=lambda survey: (survey.target.order, survey.target.who)))


def read_survey(path: str | Path) -> Survey:
    """Read a survey's file.

    Raises InputError for one that cannot be read, is torn, or is none.
    """
    where = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
        told = json.loads(data) if len(data) <= LARGEST else None
    except OSError as error:
        raise InputError(where, f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(where, "is torn: it is no whole JSON document") from None
    if not isinstance(told, dict) or told.pop("schema", None) != SCHEMA:
        raise InputError(where, "is no survey", "", f'the schema "{SCHEMA}"')
    survey: Survey = _built(Survey, told, where)
    if survey.target.file != Path(path).name:
        raise InputError(where, "is the survey of another kernel or caller", "",
                         survey.target.file)  # fmt: skip
    return survey


def write_survey(survey: Survey, folder: Path) -> Path:
    """Write a survey's file, whole: what reads it meanwhile finds the old one or the new one.

    Raises InputError if it cannot be written.
    """
    path = folder / survey.target.file
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=folder, prefix=".", suffix=".part", delete=False, encoding="ascii"
        ) as file:
            try:
                file.write(survey_text(survey))
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(file.name)
                raise
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {error.strerror}") from None
    return path


def survey_text(survey: Survey) -> str:
    """Return the file of a survey: JSON, an entry of each part a line."""
    parts = [f'"schema": {json.dumps(SCHEMA)}']
    for name, value in _plain(survey).items():
        parts.append(f'"{name}": {_lines(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(value: Any) -> str:
    """Write a part: what it holds a line each, the lines themselves without breaks."""
    if isinstance(value, dict) and value:
        entries = (f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items())
        return "{\n " + ",\n ".join(entries) + "\n}"
    if isinstance(value, list) and value:
        return "[\n " + ",\n ".join(map(json.dumps, value)) + "\n]"
    return json.dumps(value)


def _plain(value: Any) -> Any:
    """Turn a survey into what JSON has; what is as it is by itself is left out."""
    if isinstance(value, Facts):
        return vars(value) | {name: hex(getattr(value, name)) for name in IN_HEX}
    if is_dataclass(value):
        return {
            each.name: _plain(getattr(value, each.name))
            for each in fields(value)
            if getattr(value, each.name) != _default(each)
        }
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [*map(_plain, value)]
    return round(value, 1) if isinstance(value, float) else value


def _default(each: Any) -> Any:
    if each.default_factory is not MISSING:
        return each.default_factory()
    return each.default


# ---- from JSON, strictly ------------------------------------------------------------------------


def _built(kind: Any, told: Any, where: str) -> Any:
    """Return the value of a type that JSON tells.

    Raises InputError with the place of what is not of its type.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if told is None and type(None) in inner:
            return None
        (kind,) = (each for each in inner if each is not type(None))
        return _built(kind, told, where)
    if is_dataclass(kind):
        return _dataclass(kind, told, where)
    if origin is tuple:
        _require(isinstance(told, list), where, "a list")
        if inner[-1:] == (...,):
            inner = inner[:1] * len(told)
        _require(len(told) == len(inner), where, f"{len(inner)} entries")
        pairs = enumerate(zip(inner, told, strict=True))
        return tuple(_built(each, entry, f"{where}[{n}]") for n, (each, entry) in pairs)
    if origin is not None and issubclass(origin, Mapping):
        _require(isinstance(told, dict), where, "an object")
        return {k: _built(inner[1], entry, f"{where}: {k[:80]}") for k, entry in told.items()}
    fine = type(told) is kind or (kind is float and type(told) is int)
    _require(fine, where, _WORDS[kind])
    return kind(told)


_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _dataclass(kind: Any, told: Any, where: str) -> Any:
    _require(isinstance(told, dict), where, "an object")
    known = _types(kind)
    for name in told:
        _require(name in known, f"{where}: {name[:80]}", f"one of {', '.join(known)}")
    if kind is Facts:
        told = told | {name: _number(told, name, where) for name in IN_HEX}
    needed = {each.name for each in fields(kind) if _default(each) is MISSING}
    for name in needed - {*told}:
        raise InputError(where, f"lacks {name}")
    return kind(**{n: _built(known[n], entry, f"{where}: {n}") for n, entry in told.items()})


@cache
def _types(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _number(told: Any, name: str, where: str) -> int:
    text = told.get(name)
    hexadecimal = isinstance(text, str) and re.fullmatch("0x[0-9a-f]{1,16}", text)
    _require(hexadecimal, f"{where}: {name}", "a number in hex")
    return int(text, 16)


def _require(fine: Any, where: str, expected: str) -> None:
    if not fine:
        raise InputError(where, "does not belong there", "", expected)


def digest(questions: Iterable[object]) -> str:
    """Return what tells some questions from others."""
    text = json.dumps([*questions], sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()[:12]


Report = Callable[[str], None]
"""Told in a line what goes on."""
