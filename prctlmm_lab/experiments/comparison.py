"""Two records of one recipe, from any two kernels: the same, or what differs.

Addresses are told by landmarks (`arena+0xf`, `stack.end-0x31`), sizes by how they changed, so that
randomisation and another layout make no difference: two addresses are the same if they lie as far
from any landmark that both records have. What was there before the call is not compared, nor is
what a learner predicted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

from prctlmm_lab.experiments.record import Answer, Record
from prctlmm_lab.kernel.abi import MEMBER

LABELS = ("id", "title", "explanation", "predict", "rule", "effect", "requirement", "needs")
"""What an experiment says about itself; two that differ in nothing else are the same recipe."""
NEAR = 1 << 30
"""How far from a landmark an address is still shown by it, in bytes."""


def recipe_key(experiment: Mapping[str, object]) -> str:
    """Return what tells one recipe from another, whatever it is called.

    >>> recipe_key({"id": "a", "change": {"brk": "brk"}}) == recipe_key(
    ...     {"id": "b", "change": {"brk": "brk"}})
    True
    """
    told = {name: value for name, value in experiment.items() if name not in LABELS}
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Difference:
    """One thing that two records tell differently."""

    kind: str
    """"verdict", "rule", "effect", "answer" or "end"."""
    what: str
    """The place and name of an effect, the step of an answer; "" for what there is one of."""
    first: str
    second: str
    """What each tells; "" for nothing."""

    def __str__(self) -> str:
        head = f"{self.kind} {self.what}".rstrip()
        return f"{head}: {self.first or 'nothing'} -> {self.second or 'nothing'}"


@dataclass(frozen=True)
class Told:
    """One thing that a record tells, and every way to say it in which the layout plays no part."""

    text: str
    ways: frozenset[str] = frozenset()

    def same(self, other: Told) -> bool:
        """Tell whether both mean the same."""
        return self.text == other.text or not self.ways.isdisjoint(other.ways)


NOTHING = Told("")


@dataclass(frozen=True)
class Findings:
    """What a record tells, in a form in which the layout makes no difference."""

    verdict: str
    rule: str
    end: str
    """How the specimen ended or why nothing is known, "" for neither."""
    effects: tuple[tuple[Told, Told], ...] = ()
    """Place and name, and what is shown there after the call or after the steps behind it."""
    answers: tuple[tuple[Told, Told], ...] = ()
    """The step, and what the kernel answered."""
    vector: frozenset[str] = frozenset()
    """The entries of auxv before the call: older kernels have fewer."""


def findings(record: Record) -> Findings:
    """Return what a record tells, apart from where things lie."""
    landmarks = Landmarks(record)
    outcome = record.outcome
    end = "interrupted" if outcome.interrupted else outcome.signal
    if not end and outcome.ended:
        end = "no answer in time" if outcome.timeout else "ended"
    return Findings(
        verdict=outcome.verdict,
        rule=record.prediction.rule,
        end=end,
        effects=tuple(_effects(record, landmarks)),
        answers=tuple(
            (Told(f"{number} {answer.step}"), landmarks.told(answer.answer or _refusal(answer)))
            for number, answer in enumerate(record.answers)
        ),
        vector=frozenset(_vector(record)),
    )


def _vector(record: Record) -> Iterator[str]:
    auxv = record.before.auxv
    for entry in auxv if isinstance(auxv, tuple) else ():
        yield entry.partition("=")[0]


def differences(first: Findings, second: Findings) -> tuple[Difference, ...]:
    """Return what two findings tell differently, the verdict first; nothing for the same."""
    found = [
        Difference(kind, "", getattr(first, kind), getattr(second, kind))
        for kind in ("verdict", "rule", "end")
    ]
    found += _unlike("effect", _both_had(first, second), _both_had(second, first))
    found += _unlike("answer", first.answers, second.answers)
    return tuple(each for each in found if each.first != each.second)


Rows = tuple[tuple[Told, Told], ...]


def _unlike(kind: str, ours: Rows, theirs: Rows) -> Iterator[Difference]:
    """Yield the rows that are not the same on both sides, and those that one side alone has."""
    left = list(theirs)
    for name, value in ours:
        pair = next((row for row in left if name.same(row[0])), (name, NOTHING))
        if pair[1] is not NOTHING:
            left.remove(pair)
        if not value.same(pair[1]):
            yield Difference(kind, name.text, value.text, pair[1].text)
    for name, value in left:
        yield Difference(kind, name.text, "", value.text)


def _both_had(ours: Findings, theirs: Findings) -> Rows:
    """Leave out that an entry of auxv went which the other kernel never had."""
    never = {f"auxv {name}" for name in ours.vector - theirs.vector}
    return tuple(r for r in ours.effects if not (r[0].text in never and r[1].text == "(none)"))


# ---- effects ------------------------------------------------------------------------------------


def _effects(record: Record, landmarks: Landmarks) -> Iterator[tuple[Told, Told]]:
    for when, rows in (("", record.difference), ("then ", record.later)):
        for place, name, before, after in rows:
            if (place, name) in _COUNTERS:
                continue
            shown = _grown(place, name, before, after)
            told = Told(shown) if shown else landmarks.told(after)
            yield landmarks.told_row(f"{when}{place}", name), told


_COUNTERS = {("stat", "flags")}
"""Whether a process ever used a privilege stands there too (PF_SUPERPRIV)."""
_SIZE = re.compile(r"(0x[0-9a-f]+|[0-9]+)( kB)?")


def _grown(place: str, name: str, before: str, after: str) -> str:
    """Write a size or count as its growth, "" for anything else.

    What the kernel maps by itself, and so a whole process's size, is not the same on any two.
    """
    old, new = _SIZE.fullmatch(before), _SIZE.fullmatch(after)
    if place not in ("status", "statm", "stat") or name in MEMBER or not old or not new:
        return ""
    grown = int(new[1], 0) - int(old[1], 0)
    return f"{grown:+#x}" if new[1].startswith("0x") else f"{grown:+d}{new[2] or ''}"


def _refusal(answer: Answer) -> str:
    """Return the call and the errno of a refusal; its arguments are addresses."""
    found = re.match(r"(\w+)\(.*\) = (\w+)", answer.refusal)
    return f"{found[1]} = {found[2]}" if found else answer.refusal


# ---- addresses ----------------------------------------------------------------------------------

_LINE = re.compile(r"0x([0-9a-f]+)-0x([0-9a-f]+) (\S+)(?: (.*))?")
_HEX = re.compile(r"0x[0-9a-f]{1,16}")
_RANGE = re.compile(r"(0x[0-9a-f]{1,16})-(0x[0-9a-f]{1,16})")


_NEW = "the new "


class Landmarks:
    """The places of one record by which an address can be told.

    They are the regions that the recipe named, the members as they were before the call, the
    kernel's bounds, the VMAs, and the members as they were asked for: that something is as the
    recipe asked for is the same everywhere.
    """

    def __init__(self, record: Record) -> None:
        self._places = dict(_places(record))

    def told(self, text: str) -> Told:
        """Tell an address by every landmark, and show it by the nearest; other text is itself."""
        if not _HEX.fullmatch(text):
            return Told(text)
        address = int(text, 16)
        ways = {f"{name}{address - place:+#x}" for name, place in self._places.items()}
        return Told(self._shown(address), frozenset(ways))

    def told_row(self, place: str, name: str) -> Told:
        """Tell the name of a row; a VMA's is its range."""
        found = _RANGE.fullmatch(name)
        if found is None:
            return Told(f"{place} {name}".rstrip())
        start, end = (int(text, 16) for text in found.groups())
        size = end - start
        ways = (f"{w}, {size:#x} {place}" for w in self.told(found[1]).ways)
        return Told(f"{place} {self._shown(start)} to {self._shown(end)}", frozenset(ways))

    def _shown(self, address: int) -> str:
        """Write an address by the nearest landmark; one that was asked for comes last."""
        near = {n: p for n, p in self._places.items() if abs(address - p) <= NEAR}
        old = {n: p for n, p in near.items() if not n.startswith(_NEW)}
        if not near:
            return hex(address)
        name, place = min((old or near).items(), key=lambda item: abs(item[1] - address))
        offset = address - place
        return name + (f"{offset:+#x}" if offset else "")


def _places(record: Record) -> Iterator[tuple[str, int]]:
    view, facts = record.before, record.facts
    for name, (start, end) in (view.regions or {}).items():
        yield name, int(start, 16)
        yield f"{name}.end", int(end, 16)
    for member, value in (view.stat if isinstance(view.stat, Mapping) else {}).items():
        yield member, int(value, 16)
    if view.brk:
        yield "brk", int(view.brk, 16)
    yield from (("lowest", facts.lowest), ("highest", facts.highest))
    yield from _vma_places(view.maps)
    for member, value in record.map.items():
        yield f"{_NEW}{member}", int(value, 16)


def _vma_places(maps: Iterable[str] | str | None) -> Iterator[tuple[str, int]]:
    """Yield both ends of what lies together under one name, such as the three VMAs of a program."""
    ends: dict[str, tuple[int, int]] = {}
    for line in () if maps is None or isinstance(maps, str) else maps:
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        start, end, name = int(found[1], 16), int(found[2], 16), (found[4] or "").strip("[]")
        name = "program" if "specimen-" in name else name.rpartition("/")[2]
        if name:
            ends[name] = ends.get(name, (start, end))[0], end
    for name, (first, last) in ends.items():
        yield name, first
        yield f"{name}.end", last
