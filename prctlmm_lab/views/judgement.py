"""Judge the claims of the commit message first, and have the kernel settle each after that.

`Judging` is the plain object; the widget of `judging.py` only shows it and passes on what the
learner does. Needs the standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from html import escape

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.claims import CLAIMS, Claim, Finding, Verdict, settle
from prctlmm_lab.experiments.claims.settling import settle_all
from prctlmm_lab.experiments.formula import shorten, suggestion
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.message import PLACES
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.recording.marks import LIVE, weaker
from prctlmm_lab.views.legend import BROKEN, DISAGREES, FAINT, HOLDS, PAPER, REFUSES, SOFT, Sign


class Fate(Enum):
    """What becomes of a claim: whether it holds here, and else whether it ever did."""

    HOLDS = "holds"
    NEVER = "never held"
    ONCE = "held once"
    UNSHOWN = "cannot be shown"

    @property
    def sign(self) -> Sign:
        """How it is marked in every picture and list."""
        return _SIGNS[self]


_SIGNS = {
    Fate.HOLDS: HOLDS,
    Fate.NEVER: REFUSES,
    Fate.ONCE: Sign("◐", BROKEN.colour, BROKEN.ground),
    Fate.UNSHOWN: Sign("?", SOFT, PAPER),
}
WORDS: tuple[str, ...] = tuple(fate.value for fate in Fate)
"""What a learner can say of a claim."""
NEWS = Sign("!", DISAGREES, PAPER)
"""Marks a claim that the kernel settles otherwise than we say."""


def fate_of(finding: Finding) -> Fate:
    """Return what becomes of a claim: the kernel says whether it holds, its history what was.

    >>> from prctlmm_lab import facts_here
    >>> from prctlmm_lab.experiments.claims import CLAIM
    >>> fate_of(settle(CLAIM["limit.stack"], facts_here())).value
    'never held'
    """
    if finding.verdict is Verdict.HOLDS:
        return Fate.HOLDS
    if finding.verdict is Verdict.UNSHOWN:
        return Fate.UNSHOWN
    return Fate.NEVER if finding.claim.history.since is None else Fate.ONCE


def told_of(finding: Finding) -> str:
    """Say in a few sentences what came of a claim: evidence, history, note, what is documented."""
    claim, history = finding.claim, finding.claim.history
    parts = [_sentence(finding.evidence), _sentence(f"True, as far as is known: {history.text}")]
    if history.commits:
        parts.append(f"Commits: {', '.join(history.commits)}.")
    if history.stable:
        releases = (f"v{series}.{number}" for series, number in history.stable.items())
        parts.append(f"Stable series that took it over: from {', '.join(releases)}.")
    parts.append(_sentence(history.note))
    if finding.verdict is Verdict.UNSHOWN:
        parts.append(_sentence(claim.documented and f"Documented: {claim.documented}"))
    if finding.contradicts and finding.expected is not None:
        parts.append(f"We say that on this kernel it {finding.expected.value}: that is news.")
    return " ".join(filter(None, parts))


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."


@dataclass(frozen=True)
class Judged:
    """One claim: what the learner said of it, and what the kernel did; either may be missing."""

    claim: Claim
    said: str = ""
    finding: Finding | None = None

    @property
    def truth(self) -> str:
        """The word that is right, "" before it was run."""
        return fate_of(self.finding).value if self.finding else ""

    @property
    def right(self) -> bool | None:
        """Whether the learner's word is right; None if there is none, or it was not run."""
        return self.said == self.truth if self.said and self.finding else None

    @property
    def origin(self) -> str:
        """Where the answer comes from: a real call, or a recording."""
        return self.finding.origin if self.finding else LIVE

    @property
    def heading(self) -> str:
        """Its number, its id and its place in the message."""
        return f"{self.claim.number}. {self.claim.id}, {place_text(self.claim.place)}"

    def __str__(self) -> str:
        lines = [self.heading, f"  The message says: {self.claim.statement}"]
        if self.said:
            lines.append(f"  You say: {self.said}.{_judgement(self.right)}")
        if self.finding is not None:
            sign = fate_of(self.finding).sign.symbol
            lines += [f"  {sign} {self.truth}: {told_of(self.finding)}"]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the same as HTML."""
        said = f"<div>You say: <b>{self.said}</b>.{_judgement(self.right)}</div>" * bool(self.said)
        told, colour = "", FAINT
        if self.finding is not None:
            sign = fate_of(self.finding).sign
            colour = DISAGREES if self.finding.contradicts else sign.colour
            told = (
                f'<div><b style="color:{colour}">{sign.symbol} {self.truth}.</b> '
                f"{escape(told_of(self.finding))}</div>"
            )
        return (
            f'<div style="border-left:4px solid {colour};padding:4px 10px">'
            f"<small>{escape(self.heading)}</small><div>“{escape(self.claim.statement)}”</div>"
            f"{said}{told}</div>"
        )


def _judgement(right: bool | None) -> str:
    return {True: " ✓ That is right.", False: " ✗ That is not what came.", None: ""}[right]


def place_text(place: str) -> str:
    """Say where something stands in the commit message, with what stands there."""
    name = f"requirement {place}" if place.isdigit() else place
    return f"{name} ({PLACES[place]})"


@dataclass(frozen=True)
class JudgingScore:
    """How well the claims were judged, among those that were judged and run."""

    right: int
    judged: int
    settled: int
    """How many claims were run."""
    claims: int
    """How many there are."""
    by_truth: tuple[tuple[str, int, int, int], ...]
    """Of each word: of how many claims it is true, how many of those were judged, and rightly."""

    def __str__(self) -> str:
        head = f"{self.right} of {self.judged} judged rightly; {self.settled} of {self.claims} run"
        rows = (
            f"  {word:16}{total:3}, judged {judged}, rightly {right}"
            for word, total, judged, right in self.by_truth
            if total
        )
        return "\n".join([head, *rows])

    __repr__ = __str__


class Judging:
    """Judge claims, run them, and see how well they were judged.

    >>> judging = Judging()
    >>> judging.run("limit.stack", "never held").right
    True
    >>> print(judging.score())
    1 of 1 judged rightly; 1 of ...

    Raises UnsupportedSystem or SpecimenError where no specimen can be started.
    """

    def __init__(self, claims: Sequence[Claim] = CLAIMS) -> None:
        self.claims = tuple(claims)
        self.facts: Facts = facts_here()
        self._said: dict[str, str] = {}
        self._findings: dict[str, Finding] = {}

    def claim(self, name: str | int) -> Claim:
        """Return a claim by its id or its number.

        Raises InputError for what is neither.
        """
        for claim in self.claims:
            if name in (claim.id, claim.number) and not isinstance(name, bool):
                return claim
        known = suggestion(str(name), [claim.id for claim in self.claims])
        raise InputError("claim", "is none", shorten(name), known)

    def judge(self, name: str | int, said: str) -> Judged:
        """Say what will become of a claim, before it is run: one of `WORDS`; "" takes it back.

        Raises InputError for another word, for a claim that there is not, and for one that was run.
        """
        claim = self.claim(name)
        if said and said not in WORDS:
            raise InputError("judgement", "is none of the words", shorten(said), ", ".join(WORDS))
        if claim.id in self._findings and said != self._said.get(claim.id, ""):
            raise InputError(claim.id, "has been run already; judge before")
        self._said[claim.id] = said
        return self.of(claim.id)

    def run(self, name: str | int, said: str = "") -> Judged:
        """Have the kernel settle a claim; `said` judges it before. It is run once.

        Raises as `judge`.
        """
        claim = self.claim(name)
        if said:
            self.judge(claim.id, said)
        if claim.id not in self._findings:
            self._findings[claim.id] = settle(claim, self.facts)
        return self.of(claim.id)

    def run_all(self) -> JudgingScore:
        """Have the kernel settle every claim that was not run yet, and return the score."""
        rest = [claim for claim in self.claims if claim.id not in self._findings]
        found = settle_all(rest, self.facts)
        self._findings |= {finding.claim.id: finding for finding in found}
        return self.score()

    def of(self, name: str | int) -> Judged:
        """Return what was said and what came of a claim."""
        claim = self.claim(name)
        said = self._said.get(claim.id, "")
        return Judged(claim, said, self._findings.get(claim.id))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What came of the claims that were run, in the order of the message."""
        return tuple(self._findings[c.id] for c in self.claims if c.id in self._findings)

    @property
    def origin(self) -> str:
        """Where the answers come from: of all the one that says least."""
        return reduce(weaker, (finding.origin for finding in self.findings), LIVE)

    @property
    def news(self) -> tuple[Finding, ...]:
        """The claims that the kernel settles otherwise than we say."""
        return tuple(finding for finding in self.findings if finding.contradicts)

    def score(self) -> JudgingScore:
        """Return how well the claims were judged that were run."""
        every = [self.of(claim.id) for claim in self.claims]
        judged = [each for each in every if each.right is not None]
        right = [each for each in judged if each.right]

        def counted(some: list[Judged], word: str) -> int:
            return sum(each.truth == word for each in some)

        by_truth = tuple(
            (word, counted(every, word), counted(judged, word), counted(right, word))
            for word in WORDS
        )
        return JudgingScore(len(right), len(judged), len(self.findings), len(every), by_truth)

    def text(self) -> str:
        """Return every claim with what was said and what came, and the score."""
        parts = [str(self.of(claim.id)) for claim in self.claims]
        return "\n\n".join([*parts, str(self.score())])

    def __repr__(self) -> str:
        return f"<Judging {self.score()}>".replace("\n", ";")
