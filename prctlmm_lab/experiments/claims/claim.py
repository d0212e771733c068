"""What a claim is: a statement of the commit message, how the kernel settles it, and its history.

A claim is settled by what specimens show, never by a version number. What is known of other
releases stands beside it, so that a kernel that contradicts us is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import reduce
from types import MappingProxyType

from prctlmm_lab.errors import LabError, UnsupportedSystem
from prctlmm_lab.experiments.experiment import Experiment, SetupError, run
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.message import PLACES
from prctlmm_lab.kernel.releases import INTRODUCED, MAIL, RECALLED, RUN, SOURCE, Release
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording import mode
from prctlmm_lab.specimen.recording.marks import LIVE, PREDICTED, weaker
from prctlmm_lab.specimen.recording.state import NotRecorded
from prctlmm_lab.words import printable


class Verdict(Enum):
    """What comes of a claim on one kernel."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNSHOWN = "cannot be shown"


@dataclass(frozen=True)
class History:
    """On which releases a claim is true, as far as that is known without running them.

    `since` is the first release on which it is true, None if it never was in one; `until` the first
    on which it is not true any more, None if it is to this day.
    """

    since: Release | None = INTRODUCED
    until: Release | None = None
    commits: tuple[str, ...] = ("f606b77f1a9e",)
    """What made it true, or ended it."""
    stable: Mapping[str, int] = field(default_factory=dict)
    """Series -> the number of its first release that took over what ended it (or made it true)."""
    known: tuple[str, ...] = (RUN, SOURCE)
    """How it is known, from the surest on: run, source, mail, recalled."""
    note: str = ""
    """What else there is to say of it, in a sentence or two."""
    machine: str = ""
    """The only one with a specimen on which it was ever true, as `uname -m` says it; "": all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stable", MappingProxyType(dict(self.stable)))

    def holds_on(self, release: Release) -> bool:
        """Tell whether the claim is true on a release.

        >>> above_data = History(until=Release(5, 15), stable={"5.10": 69})
        >>> [above_data.holds_on(Release(5, 10, number)) for number in (0, 69)]
        [True, False]
        """
        if self.since is None:
            return False
        taken = self.stable.get(release.series)
        turned = taken is not None and release.stable >= taken
        if self.until is None:
            return release >= self.since or turned
        return self.since <= release < self.until and not turned

    @property
    def text(self) -> str:
        """Since when and until when, in words."""
        if self.since is None:
            return "never in a release"
        if self.until is None:
            return f"since {self.since}"
        return f"{self.since}, until {self.until} ended it"

    @property
    def when(self) -> str:
        """The same in a few words, for a table."""
        if self.since is None:
            return "never"
        return f"{self.since} on" if self.until is None else f"{self.since} until {self.until}"


@dataclass(frozen=True)
class Shown:
    """What was seen: the claim is true, false, or nobody can say here; and the evidence."""

    holds: bool | None
    evidence: str
    """One line, with the numbers in hex; of what cannot be shown, why."""
    records: tuple[Record, ...] = ()
    """Of the experiments that a test ran."""


Reader = Callable[[Sequence[Record]], Shown]
"""From the records of a claim's experiments, in their order, to what they show."""
Test = Callable[[Facts], Shown]
"""What takes more than experiments: it starts what it needs, and ends it."""


@dataclass(frozen=True)
class Claim:
    """One factual statement of the commit message.

    Either `experiments` and `read`, or `test` settle it.

    Raises ValueError for a claim that is not complete.
    """

    id: str
    """subject.what, such as "brk.in_stat"."""
    number: int
    """Its place in the message, from 1 on."""
    statement: str
    """What the message says, in our words."""
    place: str
    """Where it says so: a key of `PLACES`."""
    history: History
    experiments: tuple[Experiment, ...] = ()
    read: Reader | None = None
    test: Test | None = None
    documented: str = ""
    """Where it cannot be shown: what is documented or recorded, and where."""
    in_turn: bool = False
    """Whether the experiments follow one another on one specimen; else each has a fresh one."""
    without_call: bool = False
    """Whether a kernel that lacks the call settles it too."""

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ValueError(f"{self.id}: {self.place!r} is no place of the message")
        if not re.fullmatch(r"[a-z_]+\.[a-z_]+", self.id):
            raise ValueError(f"{self.id!r} is no id")
        if bool(self.experiments and self.read) == bool(self.test):
            raise ValueError(f"{self.id}: experiments and a reader, or a test")


@dataclass(frozen=True)
class Finding:
    """A claim on the running kernel."""

    claim: Claim
    verdict: Verdict
    evidence: str
    expected: Verdict | None
    """What we say of this kernel; None where its release does not tell."""
    records: tuple[Record, ...] = ()
    """Of the experiments that were run."""
    origin: str = LIVE
    """"live", or which recording answered."""

    @property
    def contradicts(self) -> bool:
        """True if the kernel shows otherwise than we say: that is news."""
        settled = self.verdict is not Verdict.UNSHOWN and self.expected is not None
        return settled and self.verdict is not self.expected


def settle(claim: Claim, facts: Facts) -> Finding:
    """Have the running kernel settle a claim.

    What is refused to us (a permission, a tool, a step of a set-up) makes it one that cannot be
    shown here, with the reason; so does what a recording, where one stands in, does not hold.

    Raises nothing of the lab's own errors.
    """
    records: tuple[Record, ...] = ()
    origin = LIVE
    try:
        if not (facts.available or claim.without_call):
            shown = Shown(None, f"this kernel lacks the call (errno {facts.refusal_errno:#x})")
        elif claim.test is not None:
            shown, origin = _tested(claim, claim.test, facts)
        else:
            assert claim.read is not None
            records = _run_all(claim)
            origin = reduce(weaker, (record.origin for record in records), LIVE)
            if origin == PREDICTED:
                raise NotRecorded("An experiment of this claim was not recorded")
            ended = [record.outcome.ended for record in records if record.outcome.ended]
            shown = Shown(None, ended[0]) if ended else claim.read(records)
    except SetupError as error:
        shown = Shown(None, error.problem)
    except UnsupportedSystem as error:
        shown = Shown(None, f"{error.problem}. {error.remedy}".strip())
    except (LabError, OSError) as error:
        shown = Shown(None, str(error))
    verdict = {True: Verdict.HOLDS, False: Verdict.FAILS, None: Verdict.UNSHOWN}[shown.holds]
    return Finding(
        claim, verdict, printable(shown.evidence), expected_on(claim, facts),
        records or shown.records, origin,
    )  # fmt: skip


def _run_all(claim: Claim) -> tuple[Record, ...]:
    """Run a claim's experiments, on one specimen or each on its own."""
    if not claim.in_turn:
        return tuple(run(experiment) for experiment in claim.experiments)
    with claim.experiments[0].specimen.start() as specimen:
        return tuple(run(experiment, specimen=specimen) for experiment in claim.experiments)


def _tested(claim: Claim, test: Test, facts: Facts) -> tuple[Shown, str]:
    """Return what a test shows; of a recorded one the verdict is known, and no more.

    Its numbers differ from one run to the next, and a recording holds only what does not.
    """
    if mode.is_live():
        return test(facts), LIVE
    with Specimen(heap_pages=0) as specimen, mode.without_substitute():
        told = specimen.observed(f"claim {claim.id}", lambda _: _WORDS[test(facts).holds])
    evidence = "seen when it was recorded; its numbers were not kept"
    if _HOLDS[told] is None:
        evidence = "it could not be shown when it was recorded"
    return Shown(_HOLDS[told], evidence), specimen.weakest


_WORDS = {True: "holds", False: "does not hold", None: "cannot be shown"}
_HOLDS = {word: holds for holds, word in _WORDS.items()}


def expected_on(claim: Claim, facts: Facts) -> Verdict | None:
    """Return what the claim's history says of a kernel.

    Distributions keep a first release's name and take changes over: where that could matter (the
    kernel's name has no stable number, and a later release, or a stable one, turned the claim),
    nothing is expected.
    """
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", facts.release)
    if found is None:
        return None
    release = Release(*(int(number or 0) for number in found.groups()))
    history = claim.history
    if history.machine not in ("", facts.machine):
        return Verdict.FAILS
    turns = [turn for turn in (history.since, history.until) if turn is not None]
    later = release.series in history.stable or any(release < turn for turn in turns)
    if release.stable == 0 and later:
        return None
    return Verdict.HOLDS if history.holds_on(release) else Verdict.FAILS


def in_order(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """Return claims by their numbers.

    Raises ValueError if two have one number or one id.
    """
    ordered = tuple(sorted(claims, key=lambda claim: claim.number))
    for name in ("number", "id"):
        values = [getattr(claim, name) for claim in ordered]
        if len({*values}) != len(values):
            raise ValueError(f"a {name} stands twice")
    return ordered


__all__ = [
    "MAIL", "RECALLED", "RUN", "SOURCE", "Claim", "Finding", "History", "Reader", "Shown", "Test",
    "Verdict", "expected_on", "in_order", "settle",
]  # fmt: skip
