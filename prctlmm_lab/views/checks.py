"""The order of the kernel's checks as a picture that lights up for a call: its path to the answer.

The way leads from the call at the top to "accepted" at the bottom, and leaves to the left, to an
errno, at the first check that does not hold. One pure layout serves the figure (matplotlib, which
is imported on use) and the SVG; `checks_text` says the same in words.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Experiment, prepare
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.rules import Explanation, Finding, Rule, errno_name, rules_of
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.views.legend import BROKEN, FAINT, HOLDS, INK, MOVED, PAPER, REFUSES, SOFT, Sign
from prctlmm_lab.views.scene import CELL, SANS, Box, Lines, Mark, Point, Scene, Shape, Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class State(Enum):
    """What became of a check in a call; the value is its word."""

    HOLDS = "holds"
    REFUSES = "REFUSES"
    ALSO = "would refuse too"
    UNREACHED = "not reached"
    NEXT = "asked now"
    OPEN = "not asked yet"


SIGNS: dict[State, Sign] = {
    State.HOLDS: HOLDS,
    State.REFUSES: REFUSES,
    State.ALSO: BROKEN,
    State.UNREACHED: Sign("·", SOFT, PAPER),
    State.NEXT: Sign("?", INK, PAPER),
    State.OPEN: Sign("", SOFT, PAPER),
}
_LEGEND: dict[State, str] = {
    State.HOLDS: "holds: the way goes on",
    State.REFUSES: "REFUSES: the way leaves here",
    State.ALSO: "would refuse too, but is not reached",
    State.UNREACHED: "not reached",
    State.NEXT: "asked now: does it hold?",
    State.OPEN: "not asked yet",
}
_READING = (
    "The kernel asks from top to bottom, and leaves at the first check that does not hold.",
    "Then nothing has changed: all 14 members are taken, or none.",
)
NO_CHANGE = "asks for no change"
"""What the numbers of the checks of exe_fd end with where it is (u32)-1."""
_STAGES = {
    "call": "The call itself",
    "legacy": "The call itself",
    "range": "Each address in range",
    "order": "The order of pairs",
    "heap": "The order of pairs",
    "limit": "The limit",
    "auxv": "The auxiliary vector",
    "exe": "The exe link",
}
"""The first word of a rule's id -> its stage."""


@dataclass(frozen=True)
class Check:
    """One check of the kernel, and what became of it in a call."""

    position: int
    """In the kernel's order, from 1 on."""
    rule: Rule
    errno: str
    """The name of the errno that it gives."""
    state: State
    finding: Finding | None
    """The rule applied to the call; None for no call."""

    @property
    def numbers(self) -> str:
        """The numbers that it compares, "" for no call."""
        return self.finding.numbers if self.finding else ""


@dataclass(frozen=True)
class Rung:
    """What the kernel asks in one go: a check, or its loop over the eleven addresses."""

    checks: tuple[Check, ...]

    @property
    def stage(self) -> str:
        """The stage that it belongs to."""
        return _STAGES[_family(self.checks[0].rule)]

    @property
    def is_loop(self) -> bool:
        """Tell whether it is the loop over the addresses."""
        return _family(self.checks[0].rule) == "range"

    @property
    def title(self) -> str:
        """What must be true, in plain words."""
        if self.is_loop:
            return f"each of the {len(self.checks)} addresses is one of user space"
        return self.checks[0].rule.title

    @property
    def name(self) -> str:
        """The id of its rule; of the loop that of the check that refuses, or of the family."""
        if not self.is_loop:
            return self.checks[0].rule.id
        refusing = (check.rule.id for check in self.checks if check.state is State.REFUSES)
        return next(refusing, "range.*")

    @property
    def extent(self) -> str:
        """Its position in the kernel's order: "4", or "5-15" for the loop."""
        first, last = self.checks[0].position, self.checks[-1].position
        return str(first) if first == last else f"{first}-{last}"

    @property
    def broken(self) -> tuple[Check, ...]:
        """The checks that do not hold, whether reached or not."""
        return tuple(check for check in self.checks if check.finding and check.finding.broken)

    @property
    def refuses(self) -> bool:
        """Tell whether the call would be refused here, if it came here."""
        return bool(self.broken)

    @property
    def state(self) -> State:
        """What became of it as a whole: what is worst among its checks."""
        states = {check.state for check in self.checks}
        worst = (State.REFUSES, State.ALSO, State.NEXT, State.OPEN, State.UNREACHED, State.HOLDS)
        return next(state for state in worst if state in states)


def _family(rule: Rule) -> str:
    return rule.id.partition(".")[0]


def rungs(
    explanation: Explanation | None = None,
    facts: Facts | None = None,
    *,
    asked: int | None = None,
) -> tuple[Rung, ...]:
    """Return the checks of a kernel in its order, with what became of each in a call.

    Without an explanation there is no call, and all checks are open. `asked` says after how many
    rungs to stop: the next one is being asked, and the state of the others is not told yet.
    `facts` are those of the kernel here unless others are given.

    >>> [rung.name for rung in rungs() if rung.stage == "The limit"]
    ['limit.data']

    Raises InputError for an explanation without a check.
    """
    facts = facts_here() if facts is None else facts
    findings: Sequence[Finding | None]
    if explanation is None:
        rules = rules_of(facts)
        findings = [None] * len(rules)
    else:
        rules = tuple(finding.rule for finding in explanation.findings)
        findings = explanation.findings
    if not rules:
        raise InputError("explanation", "has no check")
    grouped = groupby(enumerate(zip(rules, findings, strict=True), 1), _rung_key)
    found, left = [], False
    for number, (_, members) in enumerate(grouped):
        checks = []
        for position, (rule, finding) in members:
            state = _state(finding, left)
            told = errno_name(rule.errno_on(facts) or rule.errno)
            if finding and finding.decides and explanation:
                left, told = True, errno_name(explanation.errno)
            if asked is not None and number >= asked:
                state = State.NEXT if number == asked else State.OPEN
            checks.append(Check(position, rule, told, state, finding))
        found.append(Rung(tuple(checks)))
    return tuple(found)


def _rung_key(numbered: tuple[int, tuple[Rule, Finding | None]]) -> str:
    _, (rule, _) = numbered
    return "range" if _family(rule) == "range" else rule.id


def _state(finding: Finding | None, left: bool) -> State:
    if finding is None:
        return State.OPEN
    if finding.decides:
        return State.REFUSES
    if left:
        return State.ALSO if finding.broken else State.UNREACHED
    return State.HOLDS


def explanation_of(experiment: Experiment) -> Explanation:
    """Apply every rule to the call of an experiment, in a fresh specimen; no call is made.

    >>> from prctlmm_lab import Experiment
    >>> explanation_of(Experiment("no code", change={"end_code": "start_code"})).errno
    22

    The command line's equivalent is `prctlmm-lab explain RECIPE`. Raises as `prepare`.
    """
    with experiment.specimen.start() as specimen:
        return prepare(experiment, specimen, facts_here()).explanation


def draw_checks(explanation: Explanation | None = None, facts: Facts | None = None) -> Figure:
    """Draw the kernel's checks in its order, and the way of a call through them.

    Each check has its errno at the left and its rule at the right; those that do not hold have
    their numbers. Without an explanation, only the order is drawn. `facts` are those of the kernel
    here unless others are given (`facts_on("v5.1", facts_here())`).

    >>> round(draw_checks().get_figwidth() * 2.54) <= 16
    True

    Save it with `prctlmm_lab.views.pictures.save`; the command line's equivalent is
    `prctlmm-lab explain RECIPE`.
    """
    from prctlmm_lab.views.pictures import draw_marks

    return draw_marks(checks_scene(explanation, facts))


def checks_svg(
    explanation: Explanation | None = None,
    facts: Facts | None = None,
    *,
    asked: int | None = None,
) -> str:
    """Draw the same as an SVG string, for what follows a widget; `asked` as in `rungs`."""
    from prctlmm_lab.views.svg import scene_svg

    ladder = rungs(explanation, facts, asked=asked)
    return scene_svg(checks_scene(explanation, facts, asked=asked), " ".join(_heading(ladder)))


def checks_text(
    explanation: Explanation | None = None,
    facts: Facts | None = None,
    *,
    asked: int | None = None,
) -> str:
    """Write the same as text: position, state, rule, errno and title, one line for each check.

    The numbers of those that do not hold stand below them; addresses that all hold share a line.
    `asked` as in `rungs`.

    >>> print(checks_text().splitlines()[2])
        1  not asked yet       call.arg5             EINVAL  the fifth argument is 0

    The command line's equivalent is `prctlmm-lab explain RECIPE`.
    """
    ladder = rungs(explanation, facts, asked=asked)
    lines = [*_heading(ladder)][:1]
    for stage, grouped in groupby(ladder, lambda rung: rung.stage):
        members = [*grouped]
        lines.append(f"{_stage_text(stage, members)}:")
        for rung in members:
            lines += _text_lines(rung)
    lines += [*_heading(ladder)][1:]
    return "\n".join(lines)


def _text_lines(rung: Rung) -> Iterator[str]:
    if rung.is_loop and len({check.state for check in rung.checks}) == 1:
        first = rung.checks[0]
        yield _text_line(rung.extent, first.state, rung.name, first.errno, rung.title)
        return
    for check in rung.checks:
        rule = check.rule
        yield _text_line(str(check.position), check.state, rule.id, check.errno, rule.title)
        if check.state in (State.REFUSES, State.ALSO):
            yield f"{'':29}{check.numbers}"


def _text_line(position: str, state: State, name: str, errno: str, title: str) -> str:
    sign = SIGNS[state].symbol
    word = f"{sign} {state.value}" if sign else state.value
    return f"{position:>5}  {word:20}{name:22}{errno:8}{title}"


def _heading(ladder: Sequence[Rung]) -> Iterator[str]:
    """Yield what the picture is headed with: one line, and a second one if there is more."""
    checks = [check for rung in ladder for check in rung.checks]
    refusing = next((check for check in checks if check.state is State.REFUSES), None)
    if refusing is not None:
        title = refusing.rule.title
        yield f"{refusing.errno}: check {refusing.position} of {len(checks)} fails: {title}"
        more = [check.rule.id for check in checks if check.state is State.ALSO]
        if more:
            word = "is" if len(more) == 1 else "are"
            yield f"{len(more)} more would refuse too, but {word} not reached: {', '.join(more)}"
        return
    states = {check.state for check in checks}
    if states == {State.HOLDS}:
        yield f"accepted: all {len(checks)} checks hold"
    elif states == {State.OPEN}:
        yield f"The kernel's {len(checks)} checks, in its order"
    else:
        passed = sum(check.state is State.HOLDS for check in checks)
        yield f"{passed} of {len(checks)} checks hold so far"


# ---- the drawing --------------------------------------------------------------------------------

_WIDTH, _MARGIN = 580.0, 12.0
_ERRNO, _ERRNO_WIDTH = _MARGIN, 58.0
_SPINE = _ERRNO + _ERRNO_WIDTH + 30
_NODE = 7.0
_NUMBER = _SPINE + 38
"""Where positions end."""
_TEXT = _NUMBER + 8
_RIGHT = _WIDTH - _MARGIN
_TITLE, _STAGE, _WORDS, _DETAIL, _SMALL = 12.0, 10.5, 10.5, 9.0, 9.0
_LINE, _GAP = 13.0, 6.0
_NAME_ROOM = 18 * CELL * _SMALL
"""Of the longest id of a rule that has a long title."""
_CELL_HEIGHT = 41.0


class _Row(NamedTuple):
    """A rung with its lines of text and its place."""

    rung: Rung
    y: float
    title: tuple[str, ...]
    details: tuple[tuple[State, str], ...]

    @property
    def middle(self) -> float:
        """Where the way passes: beside the first line."""
        return self.y + _GAP / 2 + _LINE / 2

    @property
    def cells(self) -> float:
        """Where the cells of the loop start."""
        return self.y + _GAP / 2 + len(self.title) * _LINE + 2

    @property
    def below(self) -> float:
        """Where the numbers start."""
        return self.cells + _CELL_HEIGHT + 3 if self.rung.is_loop else self.cells - 2

    @property
    def bottom(self) -> float:
        """Where the next row starts."""
        return self.below + len(self.details) * (_LINE - 1) + _GAP / 2


def checks_scene(
    explanation: Explanation | None = None,
    facts: Facts | None = None,
    *,
    asked: int | None = None,
) -> Scene:
    """Lay the picture out; the arguments are those of `rungs`."""
    ladder = rungs(explanation, facts, asked=asked)
    heading = [*_heading(ladder)]
    notes = [line for note in heading[1:] for line in _wrapped(note, _RIGHT - _MARGIN, _DETAIL)]
    titles = _wrapped(heading[0], _RIGHT - _MARGIN, _TITLE, SANS * 1.15)
    top = _MARGIN + 24 + (len(titles) - 1) * 15 + len(notes) * _LINE
    rows, stages, bottom = _placed(ladder, top + 30)
    end = bottom + 10
    legend, height = _legend(ladder, end + 34)
    marks: list[Mark] = [Box(0, 0, _WIDTH, height, PAPER)]
    for number, line in enumerate(titles):
        y = _MARGIN + 6 + number * 15
        marks.append(Text(_MARGIN, y, line, _TITLE, bold=True, fixed=False))
    for number, note in enumerate(notes):
        y = _MARGIN + 8 + (len(titles) - 1) * 15 + (number + 1) * _LINE
        marks.append(Text(_MARGIN, y, note, _DETAIL, BROKEN.colour, fixed=False))
    for name, y in stages:
        marks += _stage(name, y)
    for row in rows:
        marks += _ground(row)
    marks += _way(rows, top + 10, end + 11)
    marks += _ends(ladder, top + 10, end + 11)
    for row in rows:
        marks += _row(row)
    return Scene(_WIDTH, height, (*marks, *legend))


def _placed(ladder: Sequence[Rung], y: float) -> tuple[list[_Row], list[tuple[str, float]], float]:
    """Give every rung and every stage its place; return them and where they end."""
    rows: list[_Row] = []
    stages = []
    for stage, grouped in groupby(ladder, lambda rung: rung.stage):
        members = [*grouped]
        stages.append((_stage_text(stage, members), y))
        y += 19
        for rung in members:
            row = _measured(rung, y)
            rows.append(row)
            y = row.bottom
        y += 3
    return rows, stages, y


def _measured(rung: Rung, y: float) -> _Row:
    room = _RIGHT - _TEXT - max(_NAME_ROOM, (len(rung.name) + 2) * CELL * _SMALL)
    details = tuple(
        (check.state, line)
        for check in rung.checks
        if check.state in (State.REFUSES, State.ALSO)
        for line in _wrapped_numbers(check.numbers, _RIGHT - _TEXT - 4)
    )
    return _Row(rung, y, tuple(_wrapped(rung.title, room, _WORDS)), details)


def _wrapped(text: str, room: float, size: float, share: float = SANS) -> list[str]:
    return textwrap.wrap(text, max(8, int(room / (size * share)))) or [""]


def _wrapped_numbers(numbers: str, room: float) -> list[str]:
    """Break numbers that are too long for a line between two of them, if that is enough."""
    if len(numbers) * CELL * _DETAIL <= room:
        return [numbers]
    head, comma, tail = numbers.rpartition(", ")
    if not comma or len(tail) * CELL * _DETAIL > room:
        return _wrapped(numbers, room, _DETAIL, CELL)
    return [*_wrapped_numbers(head + ",", room), tail]


def _stage_text(stage: str, members: Sequence[Rung]) -> str:
    """Return the heading of a stage, and that the call does not ask for it, if so."""
    idle = all(rung.checks[0].numbers.endswith(NO_CHANGE) for rung in members)
    if idle and members[0].state is not State.OPEN:
        return f"{stage}: {members[0].checks[0].numbers}"
    return stage


def _stage(name: str, y: float) -> Iterator[Mark]:
    yield Lines((((_TEXT - 26, y + 2), (_RIGHT, y + 2)),), FAINT, 0.8)
    yield Text(_TEXT - 26, y + 11, name, _STAGE, INK, bold=True, fixed=False)


def _ground(row: _Row) -> Iterator[Mark]:
    """Mark the row of a check that does not hold; every row tells its source where pointed at."""
    state = row.rung.state
    rule = row.rung.checks[0].rule
    marked = state in (State.REFUSES, State.ALSO)
    fill = SIGNS[state].ground if marked else PAPER
    x, height = _SPINE + 12, row.bottom - row.y - 2.5
    hint = f"{rule.source}; {rule.history}"
    dashed = state is State.ALSO
    stroke = SIGNS[state].colour if marked else ""
    yield Box(x, row.y, _RIGHT + 4 - x, height, fill, stroke, dashed, hint)


def _way(rows: Sequence[_Row], top: float, end: float) -> Iterator[Mark]:
    """Draw the way: thick as far as the call came, dashed where it would have gone on."""
    last = top
    reached = True
    for row in rows:
        state = row.rung.state
        reached = reached and state in (State.HOLDS, State.REFUSES)
        yield from _stretch(last, row.middle, reached)
        last = row.middle
        reached = reached and state is State.HOLDS
    yield from _stretch(last, end, reached)


def _stretch(top: float, bottom: float, reached: bool) -> Iterator[Mark]:
    if reached:
        yield Lines((((_SPINE, top), (_SPINE, bottom)),), HOLDS.colour, 3.2)
        return
    count = max(1, int((bottom - top) // 6))
    step = (bottom - top) / count
    dashes = tuple(
        ((_SPINE, top + i * step), (_SPINE, top + (i + 0.5) * step)) for i in range(count)
    )
    yield Lines(dashes, FAINT, 1.2)


def _ends(ladder: Sequence[Rung], top: float, end: float) -> Iterator[Mark]:
    """Draw the call, and what it comes to if no check refuses."""
    states = {rung.state for rung in ladder}
    accepted = states == {State.HOLDS}
    x = _SPINE - 14
    one_member = any(_family(rung.checks[0].rule) == "legacy" for rung in ladder)
    call = f"prctl(PR_SET_MM, {'...)' if one_member else 'PR_SET_MM_MAP, map, size, 0)'}"
    width = len(call) * CELL * _WORDS + 18
    yield Box(x, top - 10, width, 20, PAPER, INK)
    yield Text(x + 9, top, call, _WORDS, INK, bold=True)
    sign = SIGNS[State.HOLDS if accepted else State.UNREACHED]
    words = "0: accepted, all 14 members are taken"
    if accepted:
        words = f"{sign.symbol} {words}"
    width = len(words) * CELL * _WORDS + 18
    yield Box(x, end - 10, width, 20, PAPER, sign.colour, not accepted)
    yield Text(x + 9, end, words, _WORDS, sign.colour, bold=accepted)


def _row(row: _Row) -> Iterator[Mark]:
    rung, state = row.rung, row.rung.state
    sign = SIGNS[state]
    errnos = {check.errno for check in rung.checks if check.state is State.REFUSES}
    yield from _exit(errnos.pop() if errnos else rung.checks[0].errno, state, row.middle)
    yield from _node(state, _SPINE, row.middle)
    strong = state in (State.REFUSES, State.ALSO, State.NEXT)
    dim = state is State.UNREACHED
    colour = SOFT if dim else INK
    yield Text(_NUMBER, row.middle, rung.extent, _SMALL, SOFT, "end")
    for number, line in enumerate(row.title):
        y = row.middle + number * _LINE
        yield Text(_TEXT, y, line, _WORDS, colour, bold=strong, fixed=False)
    name = Text(_RIGHT, row.middle, rung.name, _SMALL, sign.colour if strong else SOFT, "end")
    yield name._replace(bold=strong)
    if rung.is_loop:
        yield from _cells(rung.checks, row.cells)
    for number, (kind, line) in enumerate(row.details):
        y = row.below + (number + 0.5) * (_LINE - 1)
        yield Text(_TEXT, y, line, _DETAIL, SIGNS[kind].colour)


def _exit(errno: str, state: State, y: float) -> Iterator[Mark]:
    """Draw the way out to the errno: broad where the call takes it."""
    right, end = _ERRNO + _ERRNO_WIDTH, _SPINE - _NODE
    if state is State.REFUSES:
        yield Lines((((end, y), (right + 9, y)),), MOVED, 3.2)
        yield Shape(((right + 11, y - 6.5), (right + 2, y), (right + 11, y + 6.5)), MOVED)
        yield Box(_ERRNO, y - 9, _ERRNO_WIDTH, 18, MOVED, MOVED)
        middle = _ERRNO + _ERRNO_WIDTH / 2
        yield Text(middle, y, errno, _WORDS, PAPER, "middle", bold=True)
        return
    yield Lines((((end, y), (right + 6, y)),), FAINT, 0.8)
    yield Shape(((right + 6, y - 2.6), (right + 1, y), (right + 6, y + 2.6)), FAINT)
    yield Text(right - 3, y, errno, _DETAIL, SOFT, "end")


def _node(state: State, x: float, y: float) -> Iterator[Mark]:
    sign = SIGNS[state]
    fill = {State.HOLDS: HOLDS.colour, State.REFUSES: MOVED}.get(state, sign.ground)
    yield Shape(_circle(x, y, _NODE), fill, sign.colour if state is not State.OPEN else SOFT)
    colour = PAPER if state in (State.HOLDS, State.REFUSES) else sign.colour
    if sign.symbol:
        yield Text(x, y, sign.symbol, 9.0, colour, "middle", bold=True, fixed=False)


def _circle(x: float, y: float, radius: float) -> tuple[Point, ...]:
    turns = (i * math.pi / 12 for i in range(24))
    return tuple((x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns)


def _cells(checks: Sequence[Check], y: float) -> Iterator[Mark]:
    """Draw the loop: a cell for each address, with its sign and its member."""
    width = (_RIGHT - _TEXT) / len(checks)
    for number, check in enumerate(checks):
        sign, x = SIGNS[check.state], _TEXT + number * width
        dashed = check.state not in (State.HOLDS, State.REFUSES)
        stroke = sign.colour if check.state in (State.REFUSES, State.ALSO) else SOFT
        hint = "" if check.state in (State.NEXT, State.OPEN) else check.numbers
        yield Box(x + 1, y, width - 2, _CELL_HEIGHT, sign.ground, stroke, dashed, hint)
        middle = x + width / 2
        if sign.symbol:
            yield Text(middle, y + 8, sign.symbol, 10.0, sign.colour, "middle", True, False)
        for line, part in enumerate(_parts(check.rule.members[0])):
            colour = SOFT if check.state is State.UNREACHED else INK
            strong = check.state in (State.REFUSES, State.ALSO)
            yield Text(middle, y + 20 + line * 12, part, _SMALL, colour, "middle", strong)


def _parts(member: str) -> Iterable[str]:
    """Return a member's name on two lines, if it has two words."""
    first, line, last = member.partition("_")
    return (f"{first}{line}", last) if last else (member,)


def _legend(ladder: Sequence[Rung], y: float) -> tuple[list[Mark], float]:
    """Return the legend of the states that are there, and the height of the whole drawing."""
    shown = [s for s in State if any(c.state is s for rung in ladder for c in rung.checks)]
    marks: list[Mark] = [Lines((((_MARGIN, y - 8), (_RIGHT, y - 8)),), FAINT, 0.8)]
    step = (_RIGHT - _MARGIN) / 2
    for number, state in enumerate(shown):
        row, column = divmod(number, 2)
        x, at = _MARGIN + column * step, y + 5 + row * 18
        marks += _node(state, x + 8, at)
        marks.append(Text(x + 22, at, _LEGEND[state], _WORDS, INK, fixed=False))
    y += -(-len(shown) // 2) * 18 + 4
    for number, line in enumerate(_READING):
        marks.append(Text(_MARGIN, y + 4 + number * 14, line, _WORDS, SOFT, fixed=False))
        last = y + 4 + number * 14
    return marks, last + _MARGIN
