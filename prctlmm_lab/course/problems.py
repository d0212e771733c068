"""Problems for practice: one call near a boundary, and a question about what comes of it.

Pure: from a topic, a level and a die to an experiment with symbolic values and a question. Nothing
here makes a call, and no address of a process stands in it. A topic is a rule or an effect, by its
id. Every set-up is possible for an ordinary user; what needs a user namespace says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

from prctlmm_lab.experiments.experiment import VERDICTS, Call, Experiment
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.generation import PARTNERS
from prctlmm_lab.experiments.steps import (
    Brk,
    Limit,
    LosePrivilege,
    Map,
    MemoryFile,
    Open,
    OwnMount,
    Protect,
    ReleaseExecutable,
    Step,
    Unmap,
    UserNamespace,
    Write,
)
from prctlmm_lab.kernel.abi import ADDRESSES, MEMBER
from prctlmm_lab.kernel.difference import difference
from prctlmm_lab.kernel.effects import EFFECT
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import STAT_MEMBERS, Snapshot, Unreadable
from prctlmm_lab.kernel.rules import RULE, rules_of

LEVELS = 3
T = TypeVar("T")


class Die:
    """Chance that can be repeated: the same parts give the same throws, on every Python."""

    def __init__(self, *parts: object) -> None:
        # Of all that Random does, only random() is promised to stay the same.
        self._random = Random("/".join(map(str, parts)))

    def below(self, count: int) -> int:
        """Return a whole number from 0 to `count` - 1."""
        return int(self._random.random() * count)

    def between(self, first: int, last: int) -> int:
        """Return a whole number from `first` to `last`, both included."""
        return first + self.below(last - first + 1)

    def pick(self, choices: Sequence[T]) -> T:
        """Return one of several, each as likely as the others."""
        return choices[self.below(len(choices))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """Return one of several, by their weights."""
        left = self._random.random() * sum(weights.values())
        *others, last = weights.items()
        for choice, weight in others:
            left -= weight
            if left < 0:
                return choice
        return last[0]

    def some(self, choices: Sequence[T], count: int) -> list[T]:
        """Return at most `count` different ones, in a random order."""
        rest = list(choices)
        taken: list[T] = []
        while rest and len(taken) < count:
            taken.append(rest.pop(self.below(len(rest))))
        return taken


# ---- questions --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What comes of a call, as the kernel answered or as the specification predicts."""

    verdict: str
    rule: str
    """The id of the rule that decides, "" for none."""
    before: Snapshot
    after: Snapshot
    regions: Mapping[str, tuple[int, int]]
    """What the steps mapped: name -> (start, end), the end exclusive."""
    new: Mapping[str, int]
    """The 14 members that were asked for."""
    old: Mapping[str, int]
    request: int = 0
    """The end that brk() was asked for afterwards."""
    answer: int = 0
    """What brk() answered."""


@dataclass(frozen=True)
class Choice:
    """One answer that can be given: the word that is said, and what it means."""

    word: str
    gloss: str = ""

    def __str__(self) -> str:
        return f"{self.word}: {self.gloss}" if self.gloss else self.word


@dataclass(frozen=True)
class Question:
    """What is asked of one call."""

    kind: str
    """"verdict", "rule", or the id of the effect that is asked about."""
    text: str
    choices: tuple[Choice, ...]
    truth: Callable[[Seen], str]
    """Reads the word that is right off what came."""


@dataclass(frozen=True)
class Posed:
    """A problem before any specimen: all of it symbolic."""

    topic: str
    level: int
    experiment: Experiment
    question: Question
    shows: tuple[str, ...]
    """Members whose values belong to it, changed or not, in the order of the struct."""
    places: Mapping[str, tuple[Value, Value]]
    """Names that the question uses, and where that is; the end is exclusive."""

    @property
    def identity(self) -> str:
        """A text that tells it from every other problem."""
        made = self.experiment
        changes = sorted((name, str(value)) for name, value in made.change.items())
        return repr((self.question.text, made.setup, changes, made.call, made.after))


_PLAIN = Call()


@dataclass(frozen=True)
class Draft:
    """What a topic comes up with."""

    change: Mapping[str, Value]
    setup: tuple[Step, ...] = ()
    call: Call = _PLAIN
    after: tuple[Step, ...] = ()
    question: Question | None = None
    """None for what the kernel says: the verdict, or the rule that decides."""
    about: tuple[str, ...] = ()
    """Rules that one may think of."""
    shows: tuple[str, ...] = ()
    places: Mapping[str, tuple[Value, Value]] = field(default_factory=dict)


@dataclass(frozen=True)
class Topic:
    """One thing to practise: a rule or an effect."""

    id: str
    family: str
    """What it is counted with in the score."""
    notebook: str
    """The notebook that teaches it."""
    nudge: str
    make: Callable[[str, int, Die], Draft]
    """From the topic's id, a level from 1 to 3 and a die."""
    weight: float = 1.0
    """How often it comes up, beside the others, while nothing is known of the learner."""
    first: int = 1
    """The lowest level at which it comes up."""
    namespace: bool = False
    """It needs a user namespace of the specimen's own."""

    def is_possible(self, facts: Facts, *, namespaces: bool) -> bool:
        """Tell whether an ordinary user meets it on this kernel."""
        made = self.id in EFFECT or self.id in _ALWAYS or RULE[self.id].exists(facts)
        return made and (namespaces or not self.namespace)


_ALWAYS = frozenset({"heap.above_data"})
"""Rules that are worth asking about where the kernel does not make them any more."""


def pose(topic: str, level: int, die: Die, facts: Facts) -> Posed:
    """Make up a problem about a topic at a level from 1 to 3.

    >>> from prctlmm_lab.specimen.probe import facts_here
    >>> posed = pose("order.code", 1, Die("any"), facts_here())
    >>> posed.question.choices[0].word
    'accepted'
    """
    draft = TOPICS[topic].make(topic, level, die)
    if draft.change and level > 1 and topic != "stat":
        draft = _with_company(topic, draft, level, die)
    changed = [*draft.change, *draft.shows]
    shows = tuple(name for name in MEMBER if name in changed)
    change = {name: draft.change[name] for name in MEMBER if name in draft.change}
    experiment = Experiment(
        "practice", setup=draft.setup, change=change, call=draft.call, after=draft.after
    )
    question = draft.question or _what_the_kernel_says(topic, draft, level, die, facts)
    return Posed(topic, level, experiment, question, shows, draft.places)


def _what_the_kernel_says(topic: str, draft: Draft, level: int, die: Die, facts: Facts) -> Question:
    if level == 1 or (level == 2 and die.below(2)):
        words = VERDICTS if topic.startswith("exe.") else VERDICTS[:4]
        choices = tuple(Choice(word) for word in words)
        return Question("verdict", "What does the kernel answer?", choices, lambda s: s.verdict)
    near = [r.id for r in rules_of(facts) if {*r.members} & {*draft.change}]
    about = dict.fromkeys([topic, *draft.about, *die.some(near, len(near))])
    ids = {name for name in [*about][:5] if name in RULE}
    choices = tuple(Choice(r.id, r.title) for r in rules_of(facts) if r.id in ids)
    text = "Which check decides? (The first one that is broken, in the kernel's order.)"
    return Question("rule", text, (Choice(NO_RULE), *choices), lambda s: s.rule or NO_RULE)


NO_RULE = "none, it is accepted"

# ---- more than one change ---------------------------------------------------------------------


def _with_company(topic: str, draft: Draft, level: int, die: Die) -> Draft:
    """Add a change that makes no difference, and at level 3 perhaps a second broken rule."""
    used = {*draft.change, *draft.shows, *(EFFECT[topic].members if topic in EFFECT else ())}
    more = [change for change in _harmless(die) if used.isdisjoint(change)]
    for change in die.some(more, 1):
        draft = replace(draft, change={**draft.change, **change})
    if draft.question is not None or level < LEVELS or not die.below(3):
        return draft
    used = {*draft.change, *draft.shows}
    broken = [
        (rule, change) for rule, change in _broken(die)
        if used.isdisjoint(change) and (not rule.startswith("call.") or draft.call == _PLAIN)
    ]  # fmt: skip
    rule, change = die.pick(broken)
    about = (*draft.about, rule)
    if rule.startswith("call."):
        call = Call(size=f"map_size - {die.between(1, 8)}")
        return replace(draft, call=call, about=about)
    return replace(draft, change={**draft.change, **change}, about=about)


def _harmless(die: Die) -> list[dict[str, Value]]:
    """Return changes of which each keeps every rule."""
    step = die.between(1, 4095)
    return [
        {"start_stack": f"start_stack - {step:#x}"},
        {"end_code": f"end_code + {step:#x}"},
        {"arg_end": f"arg_end + {step:#x}"},
        {"env_end": "env_start"},
        {"start_data": "end_data"},
        {"auxv": step},
    ]


def _broken(die: Die) -> list[tuple[str, dict[str, Value]]]:
    """Return changes of which each breaks one rule, with its id."""
    step, many = die.between(1, 64), die.between(0, 4095)
    found: list[tuple[str, dict[str, Value]]] = [
        ("order.code", {"end_code": "start_code"}),
        ("order.arg", {"arg_end": f"arg_start - {step}"}),
        ("order.env", {"env_end": f"env_start - {step}"}),
        ("auxv.null", {"auxv": 0, "auxv_size": step}),
        ("auxv.size", {"auxv": "start_stack", "auxv_size": f"auxv_capacity + {step}"}),
        ("range.start_stack", {"start_stack": f"highest + {step}"}),
        ("range.env_end", {"env_end": f"highest + {1 + many:#x}"}),
        ("call.size", {}),
    ]
    return found


def _signed(number: int) -> str:
    """Write what is added to a name, nothing for 0."""
    return f" {'+' if number > 0 else '-'} {abs(number):#x}" if number else ""


def _beside(die: Die, level: int) -> int:
    """Return a distance from a boundary: none, a byte, a page, a page and a byte; or any small."""
    near = [0, 0, 1, -1, 0x1000, -0x1000]
    if level > 1:
        near += [0xFFF, 0x1001, -0xFFF, -0x1001]
    return die.pick(near) if die.below(5) else die.between(-0x1FFF, 0x1FFF)


# ---- rules ------------------------------------------------------------------------------------


def _call(topic: str, level: int, die: Die) -> Draft:
    change: dict[str, Value] = {"start_stack": f"start_stack - {die.between(1, 4095):#x}"}
    if topic == "call.arg5":
        wrong = die.pick([1, 1 << 32, 1 << 63, die.between(2, 1 << 16)])
        return Draft(change, call=Call(arg5=die.pick([0, wrong, wrong])), about=("call.size",))
    size = die.pick([0, 1, -1, 8, -8, -104, die.between(1, 4096)])
    return Draft(
        change, call=Call(size=f"map_size{_signed(size)}"), about=("call.struct", "call.arg5")
    )


def _struct(topic: str, level: int, die: Die) -> Draft:
    """Let the struct lie at the end of a readable page, a byte more or less."""
    off = die.pick([0, 1, -1, 103, 104, -die.between(2, 3000)])
    place = f"arena.end - page - map_size{_signed(off)}"
    steps = (Map("arena", die.between(3, 64)), Write(place, identity_map=True), _CLOSED)
    pointer = place if die.below(5) else die.pick(["0", "lowest", "highest - 103"])
    size = "map_size - 1" if level == LEVELS and not die.below(3) else None
    return Draft({}, steps, Call(pointer=pointer, size=size), about=("call.size", "call.arg5"))


_CLOSED = Protect("arena.end - page", "---")


def _range(topic: str, level: int, die: Die) -> Draft:
    member = topic.partition(".")[2]
    step = abs(_beside(die, level))
    forms = [f"lowest{_signed(-step)}", "lowest - 1", "lowest",
             f"highest{_signed(step)}", "highest + 1", "highest"]  # fmt: skip
    change: dict[str, Value] = {member: die.pick(forms)}
    partner = _PARTNER.get(member)
    if partner and (level > 1 or die.below(4)):
        # The other end moves along, so that their order is not what decides; or just about.
        apart = die.pick([0, 1, die.between(2, 0xFFF), die.between(2, 0xFFF)])
        sign = 1 if member in PARTNERS else -1
        change[partner] = f"{member}{_signed(sign * apart)}"
    near = [f"range.{partner}"] if partner else []
    shows = (member, *([partner] if partner else []))
    return Draft(change, about=(*_orders(member), *near), shows=shows)


_PARTNER = {
    **{start: end for start, end in PARTNERS.items() if start != "start_stack"},
    **{end: start for start, end in PARTNERS.items() if start != "start_stack"},
}
"""The other end of each pair."""
_PAIRS = {"code": ("start_code", "end_code"), "data": ("start_data", "end_data"),
          "brk": ("start_brk", "brk"), "arg": ("arg_start", "arg_end"),
          "env": ("env_start", "env_end")}  # fmt: skip


def _orders(member: str) -> tuple[str, ...]:
    return tuple(f"order.{name}" for name, pair in _PAIRS.items() if member in pair)


def _order(topic: str, level: int, die: Die) -> Draft:
    name = topic.partition(".")[2].partition("_")[0]
    start, end = _PAIRS[name]
    apart = die.pick([0, 0, 1, -1, _beside(die, level)])
    place, kind = die.between(0, 0xFFF), die.below(5)
    change: dict[str, Value]
    if kind == 0:
        change = {end: f"{start}{_signed(apart)}"}
    elif kind == 1:
        change = {start: f"{end}{_signed(-apart)}"}
    else:
        change = {start: f"arena.start + {place:#x}", end: f"{start}{_signed(apart)}"}
    steps = (Map("arena", 1),) if kind > 1 else ()
    return Draft(change, steps, about=("order.code", f"range.{end}"), shows=(start, end))


def _above_data(topic: str, level: int, die: Die) -> Draft:
    """Put a heap below the data, which kernels before v5.15 refused."""
    off, length = _beside(die, level), die.pick([0, 1, 0x1000, die.between(2, 0xFFF)])
    place = die.pick(["start_data - 2*page", "end_data", "start_data"])
    change: dict[str, Value] = {
        "start_brk": f"{place}{_signed(off)}", "brk": f"start_brk{_signed(length)}"
    }  # fmt: skip
    return Draft(change, about=("order.brk", "limit.data"), shows=("start_data", "end_data"))


_DATA = ("start_data", "end_data", "start_brk", "brk")


def _limit(topic: str, level: int, die: Die) -> Draft:
    """Limit it to what heap and data need together, or the heap alone, or a little off."""
    more, off = die.pick([0, *[die.between(1, 0x4000)] * 3]), _beside(die, level)
    kind = die.below(3 if level == 1 else 4)
    need = "brk - start_brk + end_data - start_data"
    change: dict[str, Value] = {"brk": f"brk + {more:#x}"} if more else {}
    if kind == 1:  # no heap
        need, change, more = "end_data - start_data", {"brk": "start_brk"}, 0
    elif kind == 2:  # no data
        need, change["end_data"] = "brk - start_brk", "start_data"
    elif kind == 3:  # the heap alone, as many think
        need = "brk - start_brk"
    soft = f"{need}{_signed(max(more + off, -0x10))}"
    return Draft(change, (Limit("DATA", soft),), about=("order.brk", "order.data"), shows=_DATA)


def _auxv_null(topic: str, level: int, die: Die) -> Draft:
    size: Value = die.pick([0, 16, 1, die.between(2, 300)])
    if level == LEVELS and die.below(2):
        size = f"auxv_capacity + {die.between(1, 16)}"
    pointer: Value = die.pick([0, 0, 1, die.between(2, 0xFFFF)])
    return Draft({"auxv": pointer, "auxv_size": size}, about=("auxv.size", "auxv.readable"))


def _auxv_size(topic: str, level: int, die: Die) -> Draft:
    off = die.pick([0, 1, -1, 16, -16, die.between(-200, 200)])
    place: Value = f"arena.start + {die.between(0, 0x800):#x}"
    if level > 1 and not die.below(3):
        place = die.pick(["0", "lowest", "highest"])
    change: dict[str, Value] = {"auxv": place, "auxv_size": f"auxv_capacity{_signed(off)}"}
    return Draft(change, (Map("arena", 1),), about=("auxv.null", "auxv.readable"))


def _auxv_readable(topic: str, level: int, die: Die) -> Draft:
    """Let the vector end where readable memory does, a byte more or less."""
    size = die.between(17, 320)
    off = die.pick([0, 1, -1, die.between(-16, 16)])
    place = f"arena.end - page - {size:#x}{_signed(off)}"
    about = ("auxv.size", "auxv.null")
    return Draft({"auxv": place, "auxv_size": size}, (Map("arena", 3), _CLOSED), about=about)


def _permission(topic: str, level: int, die: Die) -> Draft:
    descriptor = die.pick([0, 999, 0xFFFFFFFE, 0xFFFFFFFF, die.between(100, 1 << 31)])
    return Draft({"exe_fd": descriptor}, (LosePrivilege(True),), about=("exe.descriptor",))


_FILES: dict[str, tuple[tuple[Step, ...], Value]] = {
    "exe.descriptor": ((Open("file", "/proc/self/exe", access="path"),), "file"),
    "exe.regular": ((Open("file", "/", access="directory"),), "file"),
    "exe.noexec": ((OwnMount("file", noexec=True),), "file"),
    "exe.executable": ((MemoryFile("file", mode=0o644),), "file"),
    "exe.busy": ((MemoryFile("file"),), "file"),
    "exe.written": (
        (MemoryFile("file"), Open("writer", "/proc/self/fd/{file}", access="read-write")),
        "file",
    ),
}
"""Rule -> what breaks it: steps, and the descriptor."""


def _file(topic: str, level: int, die: Die) -> Draft:
    """Offer a file that one rule is about, after the old executable was let go, or not."""
    steps, descriptor = _FILES[topic]
    if topic == "exe.descriptor" and die.below(2):
        steps, descriptor = (), die.between(100, 1 << 31)
    released = die.below(2) if level > 1 else topic != "exe.busy"
    release: tuple[Step, ...] = (ReleaseExecutable(True),) if released else ()
    step = die.between(1, 0xFFF)
    change: dict[str, Value] = {
        "exe_fd": descriptor, "start_stack": f"start_stack - {step:#x}"
    }  # fmt: skip
    about = ("exe.permission", "exe.busy", "exe.descriptor")
    return Draft(change, (UserNamespace(True), *steps, *release), about=about)


# ---- effects ----------------------------------------------------------------------------------


def _words(*texts: str) -> tuple[Choice, ...]:
    return tuple(Choice(text) for text in dict.fromkeys(texts))


def _numbers(truth: int, *others: int) -> tuple[Choice, ...]:
    return _words(*(str(number) for number in sorted({truth, *others}) if number >= 0))


def _number(part: object, name: str) -> str:
    if isinstance(part, Unreadable) or not isinstance(part, Mapping):
        return str(part)
    return str(part.get(name, "it is not there"))


def _stat(topic: str, level: int, die: Die) -> Draft:
    member = die.pick([*ADDRESSES, "brk"])
    step = die.between(1, 0xFF8)
    down = member in ("start_code", "start_data", "start_brk", "arg_start", "env_start")
    change: dict[str, Value] = {member: f"{member} {'-' if down else '+'} {step:#x}"}
    fields = {name: f"field {MEMBER[name].stat_field}" for name in STAT_MEMBERS}
    others = die.some([fields[name] for name in STAT_MEMBERS if name != member], 3)
    own = [fields[member]] if member in fields else []
    ordered = sorted([*others, *own], key=lambda text: int(text.split()[1]))

    def truth(seen: Seen) -> str:
        moved = {c.name for c in difference(seen.before, seen.after) if c.place == "stat"}
        return ", ".join(fields[name] for name in fields if name in moved) or "none of them"

    text = "Which field of /proc/PID/stat is another one afterwards (counted from 1)?"
    question = Question("stat", text, _words(*ordered, "none of them"), truth)
    return Draft(change, question=question)


def _statm_text(topic: str, level: int, die: Die) -> Draft:
    """Let the code go from an offset in one page to one in another: whole pages are counted."""
    pages = die.pick([1, 2, die.between(3, 64), *([1 << 18] if level > 1 else [])])
    first = 0 if level == 1 else die.pick([0, 1, 0xFFF, die.between(2, 0xFFE)])
    length = pages * 0x1000 + die.pick([0, 1, -1, die.between(-0xFFE, 0xFFE)])
    start, end = f"page_down(start_code){_signed(first)}", f"start_code + {length:#x}"
    count = -(-(first + length) // 0x1000)
    question = Question(
        "statm.text", "How many pages does statm count as text (its fourth column)?",
        _numbers(count, count - 1, count + 1, length // 0x1000, 1),
        lambda seen: _number(seen.after.statm, "text"),
    )  # fmt: skip
    return Draft({"start_code": start, "end_code": end}, question=question)


def _status_code(topic: str, level: int, die: Die) -> Draft:
    pages = die.pick([1, die.between(300, 1 << 12), 1 << 18])
    length = pages * 0x1000 - die.between(0, 0xFFF)
    change: dict[str, Value] = {
        "start_code": "page_down(start_code)", "end_code": f"start_code + {length:#x}"
    }  # fmt: skip
    same, less, none = "the same amount", "less", "nothing"

    def truth(seen: Seen) -> str:
        told = _number(seen.after.status, "VmExe").split()[0]
        text = _number(seen.after.statm, "text")
        if not (told.isdigit() and text.isdigit()):
            return told
        shown, counted = int(told) * 1024, int(text) * 0x1000
        return none if not shown else same if shown == counted else less

    text = "statm counts whole pages of code. What does VmExe in status say, compared with that?"
    return Draft(change, question=Question("status.code", text, _words(same, less, none), truth))


def quoted(data: object) -> str:
    r"""Write bytes as an answer: in quotes, zero bytes as \0.

    >>> print(quoted(b"one\0"), quoted(b""))
    "one\0" nothing
    """
    if not isinstance(data, bytes):
        return str(data)
    if not data:
        return "nothing"
    text = "".join(chr(b) if 0x20 <= b < 0x7F else "\\0" if not b else f"\\x{b:02x}" for b in data)
    return f'"{text}"' if len(text) <= 100 else f"{len(data)} bytes"


_NAMES = "agent bash cron dhcp editor ftp getty httpd init journal kworker login mail nfs".split()


def _text(die: Die) -> str:
    return "\0".join(die.some(_NAMES, 3)) + "\0"


_ENDS = {"cmdline": ("arg_start", "arg_end"), "environ": ("env_start", "env_end")}


def _shown(topic: str, text: str, start: int, end: int, *, place: int = 0, hole: int = 0) -> Draft:
    """Point at a part of a text that is written at a place in the arena.

    With `hole`, so many of its bytes lie before memory that cannot be read.
    """
    data, base, at = text.encode(), "arena.start", place
    if hole:
        base, at = "arena.end - page", -hole
    first = data[start : data.find(b"\0", start) + 1]
    parts = [data[start:end], first, data[start:]]
    if hole:
        parts += [data[start:hole], data[start : hole + 1]]
    question = Question(
        topic, f"What does /proc/PID/{topic} show afterwards?",
        _words(*map(quoted, parts), "nothing"),
        lambda seen: quoted(getattr(seen.after, topic)),
    )  # fmt: skip
    first_member, last_member = _ENDS[topic]
    change: dict[str, Value] = {
        first_member: f"{base}{_signed(at + start)}", last_member: f"{base}{_signed(at + end)}"
    }  # fmt: skip
    steps = (Map("arena", 3), Write(f"{base}{_signed(at)}", text=text), _CLOSED)
    return Draft(change, steps, question=question)


def _string(topic: str, level: int, die: Die) -> Draft:
    """Point at words in memory of their own: whole, cut off, not there, a file's, into a hole."""
    text, place = _text(die), 8 * die.between(1, 400)
    ends = [at + 1 for at, letter in enumerate(text) if letter == "\0"]
    start, end, inside = die.pick([0, 0, ends[0]]), die.pick(ends[1:]), die.between(1, 3)
    kinds = ["whole", "empty", "inside", "inside", "unmapped", "a file's", "hole", "follows"]
    kind = die.pick(kinds[: (3, 6, 8)[level - 1]])
    if kind == "empty":
        return _shown(topic, text, start, start + die.below(2), place=place)
    if kind == "hole":
        return _shown(topic, text, start, end, hole=end - die.between(0, 2))
    draft = _shown(topic, text, start, end - inside if kind != "whole" else end, place=place)
    first, last = _ENDS[topic]
    if kind == "unmapped":
        return replace(draft, setup=(*draft.setup, Unmap("arena.start", "arena.length")))
    if kind == "a file's":
        away = f"page_down(start_code){_signed(start)}"
        return replace(draft, change={first: away, last: f"{first} + {end:#x}"})
    if kind == "follows" and topic == "cmdline":
        environment: dict[str, Value] = {
            "env_start": "arg_end", "env_end": f"env_start + {die.between(1, 12)}"
        }  # fmt: skip
        return replace(draft, change={**draft.change, **environment})
    return draft


def _auxv(topic: str, level: int, die: Die) -> Draft:
    """Give a vector of so many bytes; the file shows it up to its first AT_NULL."""
    many = die.between(2, 5)
    null = die.between(0, many - 1) if level > 1 and die.below(2) else many
    kinds: list[tuple[Value, Value]] = [
        ("AT_NULL" if n == null else die.pick(["AT_UID", "AT_PAGESZ", "AT_CLKTCK", "AT_GID"]),
         die.between(1, 1 << 20))
        for n in range(many)
    ]  # fmt: skip
    size = 16 * many if level == 1 else 16 * many - die.pick([0, 0, 1, 8, 15, 16])
    place = f"arena.start + {16 * die.between(1, 60):#x}"
    question = Question(
        "auxv", "How many entries does /proc/PID/auxv show, the last AT_NULL included?",
        _numbers(many + 1, many, many - 1, null + 1, 1),
        lambda seen: str(len(seen.after.aux_entries)),
    )  # fmt: skip
    steps = (Map("arena", 1), Write(place, auxv=tuple(kinds)))
    return Draft({"auxv": place, "auxv_size": size}, steps, question=question)


def _exe(topic: str, level: int, die: Die) -> Draft:
    new, old = "the new file", "the old executable"
    release: tuple[Step, ...] = (ReleaseExecutable(True),) if die.below(2) else ()
    steps = (UserNamespace(True), MemoryFile("file"), *release)
    step = die.between(1, 0xFFF)
    change: dict[str, Value] = {
        "exe_fd": die.pick(["file", "file", "0xffffffff"]),
        "start_stack": f"start_stack - {step:#x}",
    }
    question = Question(
        "exe", "Which file does the link /proc/PID/exe name afterwards?", _words(new, old),
        lambda seen: old if seen.after.exe == seen.before.exe else new,
    )  # fmt: skip
    return Draft(change, steps, question=question)


_PIECES = "ABC"


def _arena(size: int) -> tuple[Step, ...]:
    """Return steps for three pieces between closed pages: A and C may be written, B not."""
    return (
        Map("arena", 3 * size + 2),
        Protect("arena.start", "---"),
        Protect(_piece(1, size), "r--", f"{size}*page"),
        _CLOSED,
    )


def _piece(number: int, size: int, off: int = 0) -> str:
    """Return a place by its distance from where a piece begins: 0 for A, 3 for the end of C."""
    pages = 1 + number * size
    return f"arena.start + {'page' if pages == 1 else f'{pages}*page'}{_signed(off)}"


def _pieces_called(label: str, size: int) -> Callable[[Seen], str]:
    def truth(seen: Seen) -> str:
        start = seen.regions["arena"][0]
        found = (seen.after.vma_at(start + (1 + n * size) * 0x1000) for n in range(3))
        named = [p for p, vma in zip(_PIECES, found, strict=True) if vma and vma.label == label]
        return ", ".join(named) or "none"

    return truth


_SETS = ("none", "A", "B", "C", "A, B", "B, C", "A, B, C")


def _labels(topic: str, level: int, die: Die) -> Draft:
    label = "[heap]" if topic == "maps.heap" else "[stack]"
    size, first = die.between(1, 16), die.between(0, 3)
    near = [0, 0, 1, -1] if level > 1 else [0, 0x10, -0x10]
    off = die.pick([*near, die.between(-0x800, 0x800)])
    change: dict[str, Value] = {"start_stack": _piece(first, size, off)}
    if topic == "maps.heap":
        last = die.between(first, 3)
        end = die.pick([*near, die.between(-0x800, 0x800)])
        if last == first:
            end = off + die.pick([0, 0, 1, die.between(1, 0x600)])
        change = {"start_brk": _piece(first, size, off), "brk": _piece(last, size, end)}
    elif level == LEVELS:  # a heap too, which comes first
        change["start_brk"] = _piece(die.between(0, 2), size)
        change["brk"] = f"start_brk + {die.pick([1, 0x1000])}"
    text = f"Which of the pieces A, B and C does /proc/PID/maps call {label} afterwards?"
    question = Question(topic, text, _words(*_SETS), _pieces_called(label, size))
    places = {name: (_piece(n, size), _piece(n + 1, size)) for n, name in enumerate(_PIECES)}
    return Draft(change, _arena(size), question=question, places=places)


# ---- brk() ------------------------------------------------------------------------------------

_MOVES, _STAYS = "it moves to the end asked for", "it stays where it is"


def _moves(topic: str) -> Question:
    return Question(
        topic, "What does brk() do then?", _words(_MOVES, _STAYS),
        lambda seen: _MOVES if seen.answer == seen.request else _STAYS,
    )  # fmt: skip


def _brk_now(topic: str, level: int, die: Die) -> Draft:
    step = die.between(1, 0xFFF)
    form = die.pick([f"brk - {step:#x}", f"start_brk + {step:#x}", f"brk + {step:#x}"])
    words = ("the new brk", "the new brk, rounded up to a page", "the old brk", "start_brk")

    def truth(seen: Seen) -> str:
        rounded = -(-seen.new["brk"] // 0x1000) * 0x1000
        values = (seen.new["brk"], rounded, seen.old["brk"], seen.new["start_brk"])
        found = (word for word, value in zip(words, values, strict=True) if value == seen.answer)
        return next(found, hex(seen.answer))

    choices = _words(*die.some(words, len(words)))
    question = Question("brk", "What does brk(0) answer then?", choices, truth)
    change: dict[str, Value] = {"brk": form}
    if level > 1 and not die.below(3):
        change |= die.pick([c for _, c in _broken(die) if c])
    return Draft(change, after=(Brk(0),), question=question, shows=("start_brk",))


def _grow(topic: str, level: int, die: Die) -> Draft:
    """Let a heap grow inside its page, or into a gap of three pages below somebody else's."""
    change: dict[str, Value] = {"start_brk": "arena.start"}
    if die.below(2):
        change["brk"] = f"start_brk + {die.between(1, 0xFF0):#x}"
        setup: tuple[Step, ...] = (Map("arena", 2),)
        requests = ["page_up(brk)", "page_up(brk) + 1", f"brk + {die.between(1, 15)}"]
        return Draft(change, setup, after=(Brk(die.pick(requests)),), question=_moves(topic))
    change["brk"] = "arena.start + page"
    setup = (Map("arena", 5), Unmap("arena.start + page", "3*page"))
    off = die.pick([0, 0, 1, -1, -die.between(2, 0xFFF)])
    after = (Brk(f"brk + {die.between(1, 3)}*page{_signed(off)}"),)
    return Draft(change, setup, after=after, question=_moves(topic))


def _shrink(topic: str, level: int, die: Die) -> Draft:
    if level > 1 and die.below(2):  # nothing is mapped where it comes from
        pages = die.between(2, 6)
        change: dict[str, Value] = {"brk": f"brk + {pages}*page"}
        request = die.pick(["brk - page", "before.brk", "before.brk - page", "before.brk + 1",
                            f"brk - {die.between(1, 0xFFF):#x}"])  # fmt: skip
    else:
        off = die.pick([0, 0x1000, die.between(1, 0xFFF)])
        change = {"start_brk": f"start_brk{_signed(off)}", "start_stack": "start_stack - 8"}
        low = die.pick([0, -1, 1, -off, 0x1000])
        request = f"start_brk{_signed(low)}"
    return Draft(change, after=(Brk(request),), question=_moves(topic), shows=("start_brk", "brk"))


def _brk_limit(topic: str, level: int, die: Die) -> Draft:
    """Say that the data are large; what is left of the limit is the heap's, to the byte."""
    data, room = die.between(64, 512), die.between(1, 0x3000)
    off = die.pick([0, 1, -1, die.between(-room, 0x1000)])
    change: dict[str, Value] = {"end_data": f"start_data + {data}*page"}
    soft = f"{data}*page + brk - start_brk + {room:#x}"
    after = (Brk(f"brk{_signed(room + off)}"),)
    return Draft(change, (Limit("DATA", soft),), after=after, question=_moves(topic), shows=_DATA)


# ---- what does not change ---------------------------------------------------------------------


def _nothing(topic: str, level: int, die: Die) -> Draft:
    """Change a name, and one thing more, which breaks a rule, or does not."""
    text = _text(die)
    draft = _shown("cmdline", text, 0, text.index("\0") + 1, place=8 * die.between(1, 400))
    safe = [c for c in _harmless(die) if draft.change.keys().isdisjoint(c)]
    unsafe = [c for _, c in _broken(die) if c and draft.change.keys().isdisjoint(c)]
    more = die.pick(unsafe) if die.below(4) else die.pick(safe)
    named = quoted(text[: text.index("\0") + 1].encode())
    question = Question(
        "nothing", "What does /proc/PID/cmdline show afterwards?",
        _words(named, quoted(b"specimen\0"), "nothing"),
        lambda seen: quoted(seen.after.cmdline),
    )  # fmt: skip
    return replace(draft, change={**draft.change, **more}, question=question)


def _unchanged(topic: str, level: int, die: Die) -> Draft:
    """Bounds move by pages; what is mapped does not."""
    pages, off = die.between(1, 512), die.pick([0, 0, 1, -1])
    member = die.pick(["brk", "end_data", "end_code", "start_stack", "env_end"])
    column, place = die.pick([("size", "first"), ("data", "sixth")])
    change: dict[str, Value] = {member: f"{member} + {pages}*page{_signed(off)}"}

    def truth(seen: Seen) -> str:
        then, now = (_number(each.statm, column) for each in (seen.before, seen.after))
        return str(int(now) - int(then)) if now.isdigit() and then.isdigit() else now

    text = f"How many pages more does statm count as {column} ({place} column) afterwards?"
    question = Question("unchanged", text, _numbers(0, pages, pages + 1, 1), truth)
    return Draft(change, question=question)


# ---- what decided, in numbers -----------------------------------------------------------------


def numbers_of(topic: str, seen: Seen) -> str:
    """Return the numbers that an effect hangs on, "" where there are none to tell."""
    new, page = seen.new, 0x1000
    if topic in ("brk", "brk.grow", "brk.shrink", "brk.limit"):
        told = f"start_brk = {new['start_brk']:#x}, brk = {new['brk']:#x}"
        if topic == "brk.limit":
            need = seen.request - new["start_brk"] + new["end_data"] - new["start_data"]
            told = f"the end asked for - start_brk + end_data - start_data = {need:#x}"
        return f"{told}; brk({seen.request:#x}) answered {seen.answer:#x}"
    if topic in ("statm.text", "status.code"):
        first, last = new["start_code"] // page * page, -(-new["end_code"] // page) * page
        return f"whole pages from {first:#x} to {last:#x} are {(last - first) // page}"
    if topic in ("maps.heap", "maps.stack"):
        heap = f"heap {new['start_brk']:#x}-{new['brk']:#x}"
        return heap if topic == "maps.heap" else f"start_stack = {new['start_stack']:#x}; {heap}"
    if topic in _ENDS:
        first_name, last_name = _ENDS[topic]
        told = f"{first_name} = {new[first_name]:#x}, {last_name} = {new[last_name]:#x}"
        return told + (f", env_start = {new['env_start']:#x}" if topic == "cmdline" else "")
    if topic == "auxv":
        return f"auxv_size = {new['auxv_size']:#x}: {new['auxv_size'] / 16:g} entries of 16 bytes"
    return ""


# ---- the topics -------------------------------------------------------------------------------

WHY, PROC, HEAP = "03-why-einval", "04-what-proc-shows", "05-move-the-heap"
LABELS, EXE, CALLERS = "06-labels-and-bounds", "07-change-the-exe-link", "08-who-may-call-it"

_ORDER_NUDGE = "Is the start below the end, and is equality allowed for this pair?"
_EXE_NUDGE = "First who asks, then what the descriptor is, then what still maps the old executable."


def _topics() -> list[Topic]:
    pairs = [rule for rule in RULE if rule.startswith("order.")]
    return [
        Topic("call.arg5", "the call", WHY, "Look at the call's own arguments first.", _call, 0.4),
        Topic("call.size", "the call", WHY, "Is the size the struct's, to the byte?", _call, 0.4),
        Topic("call.struct", "the call", WHY, "Can each of its bytes be read?", _struct, 0.4, 2),
        *(
            Topic(f"range.{member}", "bounds", WHY,
                  "Compare with the lowest and the highest address of this kernel, both allowed; "
                  "then look at the other end of its pair.", _range, 2 / 11)
            for member in ADDRESSES
        ),
        *(Topic(rule, "order of pairs", WHY, _ORDER_NUDGE, _order, 2 / 5) for rule in pairs),
        Topic("heap.above_data", "order of pairs", HEAP,
              "Since v5.15 heap and data are not compared any more.", _above_data, 0.3, 2),
        Topic("limit.data", "RLIMIT_DATA", HEAP,
              "Add up heap and data, and compare the sum with the limit; equal is allowed.",
              _limit),
        Topic("auxv.null", "the vector", WHY, "A size of 0 asks for nothing.", _auxv_null, 0.5),
        Topic("auxv.size", "the vector", WHY,
              "Compare with the kernel's own vector, before anything is read.", _auxv_size, 0.5),
        Topic("auxv.readable", "the vector", WHY,
              "Where does the last byte of the vector lie?", _auxv_readable, 0.5, 2),
        Topic("exe.permission", "the exe link", CALLERS,
              "Who asks? And does exe_fd ask for anything at all?", _permission, 0.4, 2),
        *(Topic(rule, "the exe link", EXE, _EXE_NUDGE, _file, 0.2, 2, True) for rule in _FILES),
        Topic("exe", "the exe link", EXE, _EXE_NUDGE, _exe, 0.3, 2, True),
        Topic("stat", "stat, statm, status", PROC,
              "stat shows ten members as they are. Which one is not there?", _stat, 0.5),
        Topic("statm.text", "stat, statm, status", PROC,
              "The start is rounded down to a page, the end up.", _statm_text, 0.7),
        Topic("status.code", "stat, statm, status", PROC,
              "One of the two counts at most what is executable.", _status_code, 0.4, 2),
        Topic("cmdline", "cmdline and environ", PROC,
              "Look at the last byte before arg_end: is it zero? And can all be read?", _string),
        Topic("environ", "cmdline and environ", PROC,
              "Bytes are bytes here; but what if a read meets a hole?", _string, 0.7),
        Topic("auxv", "the vector", PROC,
              "The file ends at the first AT_NULL; what you do not give is zero.", _auxv, 0.5),
        Topic("maps.heap", "labels", LABELS,
              "Does the piece overlap the heap, or only touch it?", _labels),
        Topic("maps.stack", "labels", LABELS,
              "The end of a piece counts as well; and [heap] comes first.", _labels, 0.7),
        Topic("brk", "brk()", HEAP, "The kernel keeps the number as it is.", _brk_now, 0.4),
        Topic("brk.grow", "brk()", HEAP,
              "Which pages must be mapped, and is there room for one more?", _grow, 0.7, 2),
        Topic("brk.shrink", "brk()", HEAP,
              "Not below start_brk; and what is mapped where it comes from?", _shrink, 0.7, 2),
        Topic("brk.limit", "RLIMIT_DATA", HEAP,
              "The same sum as in the call, with the end that is asked for.", _brk_limit, 0.7, 2),
        Topic("nothing", "what stays", WHY, "Is the call accepted at all?", _nothing, 0.7),
        Topic("unchanged", "what stays", HEAP,
              "The call changes notes. Does it map anything?", _unchanged, 0.5),
    ]  # fmt: skip


TOPICS: dict[str, Topic] = {topic.id: topic for topic in _topics()}
"""By id: every rule and effect that an ordinary user can meet."""


def possible_topics(facts: Facts, *, namespaces: bool) -> dict[str, Topic]:
    """Return the topics that an ordinary user meets on this kernel, by id."""
    return {
        name: topic
        for name, topic in TOPICS.items()
        if topic.is_possible(facts, namespaces=namespaces)
    }
