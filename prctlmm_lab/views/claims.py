"""The commit message in two pictures: every claim with its verdict, and what changed since v3.18.

Each is one pure layout for two renderers, the figure (matplotlib, which is imported on use) and the
SVG, and has a twin in words. A picture fits a page of A4, however many claims there are.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from prctlmm_lab.experiments.claims import CLAIMS, Claim, Finding
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.message import PLACES
from prctlmm_lab.kernel.releases import CHANGES, INTRODUCED, NEWEST, Change, Release, following
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.views.areas import Kind
from prctlmm_lab.views.judgement import NEWS, Fate, fate_of
from prctlmm_lab.views.legend import ACCEPTED_LOOK, FAINT, INK, LOOKS, PAPER, SHADE, SOFT, Sign
from prctlmm_lab.views.scene import CELL, Box, Lines, Mark, Scene, Shape, Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prctlmm_lab.experiments.claims.claim import History

_TITLE, _HEADING, _WORDS, _SMALL = 13.0, 10.2, 9.6, 8.6
_LINE, _MARGIN = 11.6, 10.0
_ADVANCES = {
    0.29: "ijlIJ'", 0.34: " ,./:;|", 0.41: "()[]!-frt", 0.53: '?"_sz', 0.6: "cLFkvxyPTao",
    0.64: "eESbdghnpqu0123456789", 0.7: "KAVBRXZC", 0.8: "UHNDG&OQ", 0.86: "w#+<=>~M",
}  # fmt: skip
"""How wide characters of DejaVu Sans are, as parts of its size; all others are a little wider."""
_ADVANCE = {character: wide for wide, each in _ADVANCES.items() for character in each}
_RATIO = 1.36
"""How much higher than wide a page may be."""
_NARROWEST = 620.0


# ---- picture 1: every claim ---------------------------------------------------------------------

_OPEN = Sign("", SOFT, PAPER)
_OPEN_WORDS = "not run yet"
_NUMBER, _STATEMENT, _NEWS = 33.0, 39.0, 17.0
"""In a row: where the number ends and the statement starts; and the room for the mark of news."""
_GAP = 16.0


class _Row(NamedTuple):
    """A claim with its lines of text."""

    claim: Claim
    finding: Finding | None
    lines: tuple[str, ...]

    @property
    def height(self) -> float:
        return len(self.lines) * _LINE + 3


class _Group(NamedTuple):
    """A place of the message with its claims."""

    name: str
    heading: tuple[str, ...]
    """What stands there, in lines; the first one goes on after the name."""
    rows: tuple[_Row, ...]

    @property
    def height(self) -> float:
        return len(self.heading) * _LINE + 2 + sum(row.height + 2 for row in self.rows) + 6


def draw_claims(findings: Sequence[Finding], claims: Sequence[Claim] = CLAIMS) -> Figure:
    """Draw every claim by its place in the message, with its mark and its releases.

    Claims that were not run are there without a mark. Figures as those of `draw`: at most 16 by
    22 cm.

    >>> round(draw_claims(()).get_figwidth() * 2.54) <= 16
    True

    The command line's equivalent is `prctlmm-lab claims`.
    """
    from prctlmm_lab.views.pictures import draw_marks

    return draw_marks(claims_scene(findings, claims))


def claims_svg(findings: Sequence[Finding], claims: Sequence[Claim] = CLAIMS) -> str:
    """Draw the same as an SVG string, which a projector shows as large as the page is wide."""
    from prctlmm_lab.views.svg import scene_svg

    return scene_svg(claims_scene(findings, claims), " ".join(_claims_heading(findings, claims)))


def claims_text(findings: Sequence[Finding], claims: Sequence[Claim] = CLAIMS) -> str:
    """Write the same as text: place by place, a line for each claim.

    >>> print(claims_text(()).splitlines()[0])
    The commit message of f606b77f1a, claim by claim
    """
    known = {finding.claim.id: finding for finding in findings}
    lines = [*_claims_heading(findings, claims)]
    for place, members in _by_place(claims):
        lines.append(f"{_place_name(place)} {PLACES[place]}")
        for claim in members:
            finding = known.get(claim.id)
            sign, word = _mark_of(finding)
            told = f" [{NEWS.symbol} not what we say]" if _is_news(finding) else ""
            releases = releases_text(claim.history)
            lines.append(
                f"{claim.number:>4} {sign.symbol or ' '} {word:16}{releases:12} {claim.id:27} "
                f"{claim.statement}{told}"
            )
    return "\n".join(lines)


def _by_place(claims: Sequence[Claim]) -> Iterator[tuple[str, list[Claim]]]:
    for place in PLACES:
        members = [claim for claim in claims if claim.place == place]
        if members:
            yield place, members


def _place_name(place: str) -> str:
    name = f"requirement {place}" if place.isdigit() else place.replace("uses:", "use of")
    return f"{name[0].upper()}{name[1:]}:"


def releases_text(history: History) -> str:
    """Write on which releases a claim was true, in few characters; the second is no more.

    >>> from prctlmm_lab.experiments.claims import CLAIM
    >>> releases_text(CLAIM["heap.above_data"].history)
    'v3.18-v5.15'
    """
    if history.since is None:
        return "never"
    return f"{history.since}-{history.until}" if history.until else f"since {history.since}"


def _note(claim: Claim) -> str:
    """Return what stands at the right of a claim: nothing for one that was always true."""
    always = claim.history.since == INTRODUCED and claim.history.until is None
    return "" if always else releases_text(claim.history)


def _mark_of(finding: Finding | None) -> tuple[Sign, str]:
    if finding is None:
        return _OPEN, _OPEN_WORDS
    fate = fate_of(finding)
    return fate.sign, fate.value


def _claims_heading(findings: Sequence[Finding], claims: Sequence[Claim]) -> Iterator[str]:
    yield "The commit message of f606b77f1a, claim by claim"
    counts = Counter(fate_of(finding) for finding in findings)
    parts = [f"{counts[fate]} {_counted(fate, counts[fate])}" for fate in Fate if counts[fate]]
    parts += [f"{len(claims) - len(findings)} not run yet"] * (len(claims) > len(findings))
    yield f"{len(claims)} claims: {', '.join(parts)}."


def _counted(fate: Fate, number: int) -> str:
    return "hold" if fate is Fate.HOLDS and number != 1 else fate.value


def claims_scene(findings: Sequence[Finding], claims: Sequence[Claim] = CLAIMS) -> Scene:
    """Lay the first picture out, on the narrowest page that has room for it."""
    return _fitting(lambda width: _claims_page(findings, claims, width))


def _fitting(page: Callable[[float], Scene]) -> Scene:
    """Return a page that is as narrow as can be, and not too high: the wider, the more fits in."""
    scene = page(_NARROWEST)
    while scene.height > scene.width * _RATIO:
        # Of the same area it would be so wide; lines that get longer save a little of that.
        wanted = 0.95 * math.sqrt(scene.width * scene.height / _RATIO)
        scene = page(max(scene.width + 10, 10 * round(wanted / 10)))
    return scene


def _claims_page(findings: Sequence[Finding], claims: Sequence[Claim], width: float) -> Scene:
    known = {finding.claim.id: finding for finding in findings}
    room = (width - 2 * _MARGIN - _GAP) / 2
    groups = [_group(place, members, known, room) for place, members in _by_place(claims)]
    first, second = _halves(groups)
    heading = [*_heading_marks(_claims_heading(findings, claims))]
    top = _MARGIN + 42
    marks: list[Mark] = []
    for column, members in enumerate((first, second)):
        y = top
        for group in members:
            marks += _group_marks(group, _MARGIN + column * (room + _GAP), y, room)
            y += group.height
    bottom = top + max(sum(group.height for group in half) for half in (first, second))
    legend, height = _claims_legend(findings, claims, bottom + 6, width)
    ground = Box(0, 0, width, height, PAPER)
    return Scene(width, height, (ground, *heading, *marks, *legend))


def _halves(groups: Sequence[_Group]) -> tuple[Sequence[_Group], Sequence[_Group]]:
    """Divide groups into two columns, the order kept, as evenly as can be."""

    def longer(place: int) -> float:
        return max(sum(g.height for g in groups[:place]), sum(g.height for g in groups[place:]))

    place = min(range(len(groups) + 1), key=longer)
    return groups[:place], groups[place:]


def _group(
    place: str, members: Sequence[Claim], known: dict[str, Finding], room: float
) -> _Group:  # fmt: skip
    rows = []
    for claim in members:
        finding = known.get(claim.id)
        beside = len(_note(claim)) * CELL * _SMALL + (_NEWS if _is_news(finding) else 0)
        lines = _wrapped(claim.statement, room - _STATEMENT - 8 - beside)
        rows.append(_Row(claim, finding, lines))
    name = _place_name(place)
    heading = _wrapped(PLACES[place], room, indent=_width(name, bold=True) + 5)
    return _Group(name, heading, tuple(rows))


def _is_news(finding: Finding | None) -> bool:
    return finding is not None and finding.contradicts


def _width(text: str, *, bold: bool = False) -> float:
    """Return how wide running text is."""
    return sum(_ADVANCE.get(c, 1.0) for c in text) * _WORDS * (1.15 if bold else 1.0)


def _wrapped(text: str, room: float, *, indent: float = 0) -> tuple[str, ...]:
    """Break running text into lines, the first of which has less room; long words stay whole."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        free = room - (indent if len(lines) == 1 else 0)
        if lines and _width(longer) <= free:
            lines[-1] = longer
        else:
            lines.append(word)
    return tuple(lines) or ("",)


def _heading_marks(lines: Iterator[str]) -> Iterator[Mark]:
    title, counts = lines
    yield Text(_MARGIN, _MARGIN + 6, title, _TITLE, bold=True, fixed=False)
    yield Text(_MARGIN, _MARGIN + 24, counts, _WORDS, SOFT, fixed=False)


def _group_marks(group: _Group, x: float, y: float, room: float) -> Iterator[Mark]:
    yield Text(x, y + _LINE / 2, group.name, _WORDS, INK, bold=True, fixed=False)
    start = x + _width(group.name, bold=True) + 5
    for line in group.heading:
        yield Text(start, y + _LINE / 2, line, _WORDS, SOFT, fixed=False)
        start, y = x, y + _LINE
    y += 2
    for row in group.rows:
        yield from _row_marks(row, x, y, room)
        y += row.height + 2


def _row_marks(row: _Row, x: float, y: float, room: float) -> Iterator[Mark]:
    sign, word = _mark_of(row.finding)
    news = _is_news(row.finding)
    hint = f"{word}: {row.finding.evidence}" if row.finding else word
    stroke = NEWS.colour if news else FAINT
    yield Box(x, y, room, row.height, SHADE if row.finding is None else sign.ground, stroke,
              sign.symbol == "?", hint)  # fmt: skip
    yield from _sign(sign, x + 9, y + row.height / 2)
    middle = y + 1.5 + _LINE / 2
    yield Text(x + _NUMBER, middle, str(row.claim.number), _SMALL, SOFT, "end")
    for number, line in enumerate(row.lines):
        yield Text(x + _STATEMENT, middle + number * _LINE, line, _WORDS, INK, fixed=False)
    note = _note(row.claim)
    if note:
        yield Text(x + room - 4 - _NEWS * news, middle, note, _SMALL, sign.colour, "end")
    if news:
        yield from _sign(NEWS, x + room - 9, y + row.height / 2)


def _sign(sign: Sign, x: float, y: float) -> Iterator[Mark]:
    """Draw a verdict's mark: a filled square with the sign in it; what is not run is empty."""
    if not sign.symbol:
        yield Box(x - 5.5, y - 5.5, 11, 11, PAPER, SOFT, True)
        return
    fill = PAPER if sign.symbol == "?" else sign.colour
    yield Box(x - 5.5, y - 5.5, 11, 11, fill, sign.colour)
    colour = sign.colour if sign.symbol == "?" else PAPER
    yield Text(x, y, sign.symbol, 8.6, colour, "middle", bold=sign.symbol != "◐", fixed=False)


_LEGEND = {
    Fate.HOLDS: "holds on this kernel",
    Fate.NEVER: "never held in a release",
    Fate.ONCE: "held once, not on this kernel",
    Fate.UNSHOWN: "cannot be shown here",
}


def _claims_legend(
    findings: Sequence[Finding], claims: Sequence[Claim], y: float, width: float
) -> tuple[list[Mark], float]:
    """Return the legend, and the height of the whole drawing."""
    shown = {fate_of(finding) for finding in findings}
    entries = [(fate.sign, _LEGEND[fate]) for fate in Fate if fate in shown]
    entries += [(_OPEN, _OPEN_WORDS)] * (len(claims) > len(findings))
    if any(finding.contradicts for finding in findings):
        entries.append((NEWS, "the kernel settles it otherwise than we say: news"))
    marks: list[Mark] = [Lines((((_MARGIN, y), (width - _MARGIN, y)),), FAINT, 0.8)]
    x, y = _MARGIN, y + 13
    for sign, words in entries:
        needed = 17 + _width(words) + 16
        if x > _MARGIN and x + needed > width - _MARGIN:
            x, y = _MARGIN, y + 16
        marks += _sign(sign, x + 6, y)
        marks.append(Text(x + 17, y, words, _WORDS, INK, fixed=False))
        x += needed
    reading = (
        f"At the right: the first release on which a claim was true, and the first on which it was "
        f"no more, as far as is known. Where nothing stands there: true since {INTRODUCED}, the "
        "first release with the call."
    )
    y += 4
    for line in _wrapped(reading, width - 2 * _MARGIN):
        y += _LINE
        marks.append(Text(_MARGIN, y, line, _WORDS, SOFT, fixed=False))
    return marks, y + _MARGIN + 2


# ---- picture 2: from v3.18 to today -------------------------------------------------------------

_AXIS, _AFTER = 0.58, 34.0
"""Where the axis starts, as a part of the width; and the room behind its end."""
_BAR = ACCEPTED_LOOK.colour
_HERE = LOOKS[Kind.FILE].colour
_DATE, _COMMIT = 36.0, 70.0


class Span(NamedTuple):
    """A claim that was true for a time: not always, and not never."""

    claim: Claim
    since: Release
    until: Release | None


def spans(claims: Sequence[Claim] = CLAIMS) -> tuple[Span, ...]:
    """Return the claims that were true on some releases only, the earlier end first.

    >>> [span.until and str(span.until) for span in spans() if span.claim.id == "heap.above_data"]
    ['v5.15']
    """
    found = [
        Span(claim, claim.history.since, claim.history.until)
        for claim in claims
        if claim.history.since is not None
        and (claim.history.until is not None or claim.history.since > INTRODUCED)
    ]
    last = Release(1 << 16, 0)
    return tuple(sorted(found, key=lambda s: (s.until or last, s.since, s.claim.number)))


def draw_timeline(facts: Facts | None = None, claims: Sequence[Claim] = CLAIMS) -> Figure:
    """Draw what changed from v3.18 to today: claims that held for a time, and every change.

    `facts` are those of the kernel whose place is marked: of the one here unless others are given.

    >>> round(draw_timeline().get_figwidth() * 2.54) <= 16
    True

    The table is `prctlmm_lab.views.tables.releases_table`.
    """
    from prctlmm_lab.views.pictures import draw_marks

    return draw_marks(timeline_scene(facts, claims))


def timeline_svg(facts: Facts | None = None, claims: Sequence[Claim] = CLAIMS) -> str:
    """Draw the same as an SVG string."""
    from prctlmm_lab.views.svg import scene_svg

    summary = f"PR_SET_MM_MAP from {INTRODUCED} to today: claims that held for a time, and changes"
    return scene_svg(timeline_scene(facts, claims), summary)


def timeline_text(facts: Facts | None = None, claims: Sequence[Claim] = CLAIMS) -> str:
    """Write the same as text: the claims that held for a time, then change by change.

    >>> print(timeline_text().splitlines()[-1][:18])
    v7.3  5146e0688d86
    """
    facts = facts_here() if facts is None else facts
    here = _here(facts)
    lines = [f"PR_SET_MM_MAP from {INTRODUCED} to {_last(here)}; this kernel is {facts.release}."]
    for claim, since, until in spans(claims):
        end = f" to {until}" if until else " on"
        taken = _taken_text(claim.history.stable)
        lines.append(f"From {since}{end}{taken}: {claim.number}. {claim.statement}")
    for change in CHANGES:
        taken, commits = _taken_text(change.stable), ", ".join(change.commits)
        lines.append(f"{change.first}  {commits}{taken}: {change.what}")
    return "\n".join(lines)


def _taken_text(stable: object) -> str:
    taken = [f"v{series}.{number}" for series, number in dict(stable).items()]  # type: ignore[call-overload]
    return f" (taken over by {', '.join(taken)})" if taken else ""


def _here(facts: Facts) -> Release | None:
    """Return the release of a kernel as its name says; None for a name that says none."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", facts.release)
    return Release(*(int(number or 0) for number in found.groups())) if found else None


def _last(here: Release | None) -> Release:
    """Return where the axis ends: at the newest release that is known, or here."""
    return max(NEWEST, Release(*here[:2])) if here else NEWEST


class _Axis(NamedTuple):
    """Releases side by side, each a step."""

    left: float
    right: float
    series: tuple[Release, ...]

    def x(self, release: Release) -> float:
        """Return the place of a release, between those of its series and the next one."""
        step = (self.right - self.left) / (len(self.series) - 1)
        before = sum(release[:2] >= each[:2] for each in self.series) - 1
        part = min(release.stable, 100) / 125 if release[:2] in {s[:2] for s in self.series} else 0
        return self.left + max(0.0, before + part) * step


def timeline_scene(facts: Facts | None = None, claims: Sequence[Claim] = CLAIMS) -> Scene:
    """Lay the second picture out."""
    known = facts_here() if facts is None else facts
    return _fitting(lambda width: _timeline_page(known, claims, width))


def _timeline_page(facts: Facts, claims: Sequence[Claim], width: float) -> Scene:
    here = _here(facts)
    series = tuple(following(INTRODUCED, _last(here)))
    axis = _Axis(width * _AXIS, width - _MARGIN - _AFTER, series)
    room = axis.left - _MARGIN - 16
    top = _MARGIN + 58
    rows: list[Mark] = []
    y = top + 6
    found = spans(claims)
    if found:
        rows += _section("Claims that held for a time", y)
        y += 20
        for span in found:
            marks, height = _span_row(span, axis, y, room)
            rows += marks
            y += height
        y += 6
    rows += _section("What changed for programs", y)
    y += 20
    for change in CHANGES:
        marks, height = _change_row(change, axis, y, room)
        rows += marks
        y += height
    legend, height = _timeline_legend(y + 10, width, bool(found), here is not None)
    title = f"PR_SET_MM_MAP from {INTRODUCED} to today"
    ground: list[Mark] = [
        Box(0, 0, width, height, PAPER),
        Text(_MARGIN, _MARGIN + 6, title, _TITLE, bold=True, fixed=False),
    ]
    return Scene(width, height, (*ground, *_axis_marks(axis, top, y), *_place_here(
        here, axis, top, y), *rows, *legend))  # fmt: skip


def _section(words: str, y: float) -> Iterator[Mark]:
    yield Text(_MARGIN, y + 8, words, _HEADING, INK, bold=True, fixed=False)


def _axis_marks(axis: _Axis, top: float, bottom: float) -> Iterator[Mark]:
    """Draw the releases: a tick for each, a line down for the first of each major number."""
    ticks = tuple(((axis.x(r), top - 3), (axis.x(r), top)) for r in axis.series)
    majors = [r for r in axis.series if r.minor == 0 or r == axis.series[0]]
    yield Lines((*ticks, ((axis.left, top), (axis.right, top))), SOFT, 0.8)
    yield Lines(tuple(((axis.x(r), top), (axis.x(r), bottom)) for r in majors), FAINT, 0.6)
    yield from _axis_labels(axis, top - 11)


def _axis_labels(axis: _Axis, y: float) -> Iterator[Mark]:
    """Name the first and the last release, and of those between what there is room for."""
    first, last = axis.series[0], axis.series[-1]
    majors = [release for release in axis.series[1:-1] if release.minor == 0]
    tens = [release for release in axis.series[1:-1] if release.minor == 10]
    taken: list[tuple[float, float]] = []
    for release in (first, last, *majors, *tens):
        width = len(str(release)) * CELL * _SMALL
        x = axis.x(release)
        # Beside the ends there is room outwards only.
        lefts = {first: [x - width], last: [x - 2]}.get(
            release, [x - width / 2, x - 2, x - width + 2]
        )
        for left in lefts:
            if all(left + width + 4 <= a or b + 4 <= left for a, b in taken):
                taken.append((left, left + width))
                yield Text(left, y, str(release), _SMALL, INK)
                break


def _place_here(here: Release | None, axis: _Axis, top: float, bottom: float) -> Iterator[Mark]:
    if here is None:
        return
    x = axis.x(here)
    yield Lines((((x, top), (x, bottom)),), _HERE, 1.2)
    yield Shape(((x - 4, top - 6), (x + 4, top - 6), (x, top)), _HERE)
    words = f"this kernel: {here}"
    right = x - 4 + len(words) * CELL * _SMALL > axis.right + _AFTER
    yield Text(x + 4 if right else x - 4, top - 25, words, _SMALL, _HERE, "end" if right else
               "start", bold=True)  # fmt: skip


def _span_row(span: Span, axis: _Axis, y: float, room: float) -> tuple[list[Mark], float]:
    """Draw a claim and its bar; a notch for each stable series in which it ended earlier."""
    claim, since, until = span
    lines = _wrapped(claim.statement, room - 22)
    height = max(1, len(lines)) * _LINE + 5
    middle = y + 2 + len(lines) * _LINE / 2
    marks: list[Mark] = [Text(_MARGIN + 16, y + 2 + _LINE / 2, str(claim.number), _SMALL, SOFT,
                              "end")]  # fmt: skip
    marks += [
        Text(_MARGIN + 22, y + 2 + (n + 0.5) * _LINE, line, _WORDS, fixed=False)
        for n, line in enumerate(lines)
    ]
    left, right = axis.x(since), axis.x(until) if until else axis.right + 6
    hint = f"{claim.id}: {claim.history.text}"
    marks.append(Box(left, middle - 4, right - left, 8, _BAR, "", hint=hint))
    if until is None:
        marks.append(Shape(((right, middle - 7), (right + 8, middle), (right, middle + 7)),
                           _BAR))  # fmt: skip
    else:
        marks.append(Text(right + 4, middle, str(until), _SMALL, INK))
    marks += _diamonds(claim.history.stable, axis, middle)
    marks.append(_rule(y + height - 1, axis))
    return marks, height


def _change_row(change: Change, axis: _Axis, y: float, room: float) -> tuple[list[Mark], float]:
    """Draw a change: its release, its commits, what it changed, and its place on the axis."""
    start = _DATE + _COMMIT
    lines = _wrapped(change.what, room - start)
    height = max(len(lines), len(change.commits)) * _LINE + 5
    first = y + 2 + _LINE / 2
    marks: list[Mark] = [Text(_MARGIN, first, str(change.first), _SMALL, INK, bold=True)]
    marks += [
        Text(_MARGIN + _DATE, first + n * _LINE, commit, _SMALL, SOFT)
        for n, commit in enumerate(change.commits)
    ]
    marks += [
        Text(_MARGIN + start, first + n * _LINE, line, _WORDS, fixed=False)
        for n, line in enumerate(lines)
    ]
    middle = y + height / 2 - 1
    x = axis.x(change.first)
    marks.append(Lines((((axis.left, middle), (x, middle)),), FAINT, 0.6))
    marks += _diamonds(change.stable, axis, middle)
    marks.append(_diamond(x, middle, INK))
    marks.append(_rule(y + height - 1, axis))
    return marks, height


def _rule(y: float, axis: _Axis) -> Mark:
    return Lines((((_MARGIN, y), (axis.right, y)),), SHADE, 0.8)


def _diamonds(stable: object, axis: _Axis, y: float) -> Iterator[Mark]:
    """Mark the stable series that took a change over, at their places."""
    for series in dict(stable):  # type: ignore[call-overload]
        major, minor = map(int, series.split("."))
        yield _diamond(axis.x(Release(major, minor)), y, PAPER)


def _diamond(x: float, y: float, fill: str) -> Shape:
    """Draw a change: filled where it was made, smaller and empty where it was taken over."""
    half, stroke = (4.0, "") if fill == INK else (3.0, INK)
    return Shape(((x - half, y), (x, y - half - 1), (x + half, y), (x, y + half + 1)), fill, stroke)


def _timeline_legend(
    y: float, width: float, has_spans: bool, has_here: bool
) -> tuple[list[Mark], float]:  # fmt: skip
    """Return the legend, and the height of the whole drawing."""
    marks: list[Mark] = [Lines((((_MARGIN, y), (width - _MARGIN, y)),), FAINT, 0.8)]
    x, y = _MARGIN + 6, y + 13
    entries: list[tuple[Callable[[float], Mark], str]] = [
        (lambda x: _diamond(x, y, INK), "first release with the change"),
        (lambda x: _diamond(x, y, PAPER), "stable series that took it over"),
    ]
    if has_spans:
        entries.append((lambda x: Box(x - 8, y - 4, 16, 8, _BAR), "the claim is true"))
    if has_here:
        entries.append((lambda x: Lines((((x, y - 6), (x, y + 6)),), _HERE, 1.2), "this kernel"))
    for sample, words in entries:
        marks += [sample(x), Text(x + 13, y, words, _WORDS, INK, fixed=False)]
        x += 13 + _width(words) + 20
    reading = (
        "Releases stand side by side, whatever time lay between them. A bar ends at the first "
    )
    lines = _wrapped(f"{reading}release on which the claim is no more true.", width - 2 * _MARGIN)
    for number, line in enumerate(lines):
        marks.append(Text(_MARGIN, y + 17 + number * _LINE, line, _WORDS, SOFT, fixed=False))
    return marks, y + 17 + (len(lines) - 1) * _LINE + _MARGIN + 2
