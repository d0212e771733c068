"""What differs between the kernels of an atlas, and why: by what we say of releases, or not at all.

Kernels are put beside each other in order of release, and each of another kind (5-level page
tables, another machine) beside its like. Whatever one answers otherwise than the other is a turn. A
turn is explained by what the kernels' facts, the rules, the effects and the histories of claims
say, with the commit; what none of them says is unexplained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

from prctlmm_lab.atlas.images import series, version_order
from prctlmm_lab.atlas.survey import Case, Ran, Survey, Target
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments import comparison
from prctlmm_lab.experiments.causes import Cause, Side, cause_of
from prctlmm_lab.experiments.claims import CLAIM
from prctlmm_lab.experiments.claims.claim import Claim
from prctlmm_lab.experiments.comparison import Difference, Findings, Told
from prctlmm_lab.experiments.conformance import cases
from prctlmm_lab.experiments.needs import unmet
from prctlmm_lab.experiments.record import LIVE, Privilege
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.releases import (
    AROUND,
    CHANGES,
    DEVIATIONS,
    Change,
    Release,
    read_release,
)

FACT, CASE, CLAIM_KIND, RECIPE = "fact", "case", "claim", "recipe"
UNSHOWN = "cannot be shown"
_NO_ANSWER = frozenset({"release", "assumed"})
"""Facts that are no answer to a question."""


@dataclass(frozen=True)
class Turn:
    """Two kernels beside each other that answer one question differently."""

    kind: str
    """"fact", "case", "claim" or "recipe"."""
    name: str
    who: str
    older: Target
    newer: Target
    before: str
    after: str
    """What each answered, in a few words."""
    reason: str = ""
    """Why, in a sentence; "" where nothing that we say explains it."""
    commits: tuple[str, ...] = ()
    """What changed it; none where it is the machine, the page tables or the configuration."""

    @property
    def is_of_kind(self) -> bool:
        """True if the two are kernels of different kinds: another machine, or other page tables."""
        ours, theirs = self.older, self.newer
        return (ours.machine, ours.levels) != (theirs.machine, theirs.levels)

    def __str__(self) -> str:
        why = self.reason or "unexplained"
        commits = f" ({', '.join(self.commits)})" if self.commits else ""
        return (
            f"{self.kind} {self.name}, {self.who}: {self.older.name} {self.before}, "
            f"{self.newer.name} {self.after}: {why}{commits}"
        )


@dataclass(frozen=True)
class Reason:
    """Why two kernels differ."""

    what: str
    commits: tuple[str, ...] = ()


def differences(surveys: Iterable[Survey]) -> tuple[Turn, ...]:
    """Return every turn in an atlas, facts first; those that nothing explains have no reason.

    >>> from prctlmm_lab.atlas.survey import surveys
    >>> [str(turn) for turn in differences(surveys()) if not turn.reason]
    []
    """
    beside = tuple(neighbours(surveys))
    return tuple(
        turn
        for turns in (_facts, _cases, _claims, _recipes)
        for older, newer in beside
        for turn in turns(older, newer)
    )


def neighbours(surveys: Iterable[Survey]) -> Iterator[tuple[Survey, Survey]]:
    """Yield the pairs of surveys that stand beside each other, made as the same caller."""
    ordered = sorted(surveys, key=lambda survey: survey.target.order)
    for who in dict.fromkeys(survey.target.who for survey in ordered):
        same = [survey for survey in ordered if survey.target.who == who]
        plain = [survey for survey in same if _is_plain(survey.target)]
        yield from pairwise(plain)
        for other in same:
            if plain and not _is_plain(other.target):
                yield _like(other, plain), other


def _is_plain(target: Target) -> bool:
    return (target.machine, target.levels) == ("x86_64", 4)


def _like(other: Survey, plain: Sequence[Survey]) -> Survey:
    """Return the survey of the kernel that is the most like another: of its series, or older."""
    wanted = version_order(other.target.upstream)
    same = [s for s in plain if series(s.target.upstream) == series(other.target.upstream)]
    if same:
        return same[-1]
    older = [each for each in plain if version_order(each.target.upstream) <= wanted]
    return older[-1] if older else plain[0]


# ---- facts --------------------------------------------------------------------------------------


def _facts(older: Survey, newer: Survey) -> Iterator[Turn]:
    if older.facts is None or newer.facts is None:
        return
    for name in (each.name for each in fields(Facts) if each.name not in _NO_ANSWER):
        ours, theirs = getattr(older.facts, name), getattr(newer.facts, name)
        if ours != theirs and name not in (*older.facts.assumed, *newer.facts.assumed):
            reason = _reason_of_fact(name, older, newer)
            yield _turn(FACT, name, older, newer, _text(ours), _text(theirs), reason)


def _reason_of_fact(name: str, older: Survey, newer: Survey) -> Reason | None:
    changes = [c for c in (*CHANGES, *DEVIATIONS) if c.fact == name]
    return _kind_of_kernel(older, newer) or _by_release(changes, older.target, newer.target)


def _by_release(changes: Iterable[Change], older: Target, newer: Target) -> Reason | None:
    """Return the changes that one of two releases has and the other has not."""
    try:
        first, second = (read_release(_plain(target)) for target in (older, newer))
    except InputError:
        return None
    found = [c for c in changes if _held(c, first) != _held(c, second)]
    if not found:
        return None
    return Reason(" ".join(c.what for c in found), tuple(x for c in found for x in c.commits))


def _plain(target: Target) -> str:
    return target.upstream.partition("~")[0]


def _held(change: Change, release: Release) -> bool:
    """Tell whether a release behaves as a change says; a deviation is of stable kernels alone."""
    if change in DEVIATIONS:
        return change.was_taken_over_by(release)
    return change.holds_on(release)


def separates(commit: str, older: Target, newer: Target) -> bool:
    """Tell whether a change is documented to lie between two kernels, by their releases alone."""
    changes = (c for c in (*CHANGES, *DEVIATIONS, *AROUND) if commit in c.commits)
    if _by_release(changes, older, newer) is not None:
        return True
    claims = (claim for claim in CLAIM.values() if commit in claim.history.commits)
    return any(_turned(claim, older, newer) for claim in claims)


def _kind_of_kernel(older: Survey, newer: Survey) -> Reason | None:
    """Return what is different about the kernels themselves, whatever their releases are."""
    ours, theirs = older.target, newer.target
    if older.facts and newer.facts and older.facts.available != newer.facts.available:
        lacking = newer if older.facts.available else older
        return Reason(
            f"Linux {lacking.target.name} is built without CONFIG_CHECKPOINT_RESTORE",
            ("f606b77f1a9e",),
        )
    if ours.machine != theirs.machine:
        return Reason(f"another machine: {ours.machine} / {theirs.machine}")
    if ours.levels != theirs.levels:
        return Reason(f"{ours.levels}-level and {theirs.levels}-level page tables")
    return None


# ---- cases --------------------------------------------------------------------------------------


def _cases(older: Survey, newer: Survey) -> Iterator[Turn]:
    known = {f"{group}/{case.id}": case for group, of_group in cases().items() for case in of_group}
    for name in _both(older.conformance, newer.conformance):
        ours, theirs = older.conformance[name], newer.conformance[name]
        if _answer(ours) == _answer(theirs):
            continue
        needs = {known[name].rule, *known[name].needs} - {""} if name in known else set()
        effect = known[name].effect if name in known else ""
        reason = (
            _kind_of_kernel(older, newer)
            or _unmet(needs, older, newer)
            or _of_findings(_verdict(ours), _verdict(theirs), effect, older, newer)
        )
        yield _turn(CASE, name, older, newer, _case_text(ours), _case_text(theirs), reason)


def _both(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    return [name for name in first if name in second]


def _answer(case: Case) -> tuple[str, ...]:
    return (case.result, case.kernel, case.expected)


def _case_text(case: Case) -> str:
    return f"{case.result} ({case.kernel})" if case.kernel else case.result


def _verdict(case: Case) -> Findings:
    return Findings(case.kernel, case.expected.partition(" by ")[2], "")


def _unmet(needs: Iterable[str], older: Survey, newer: Survey) -> Reason | None:
    """Return the change of a need that one of two kernels does not meet."""
    if older.facts is None or newer.facts is None:
        return None
    for need in needs:
        if bool(unmet(need, older.facts)) != bool(unmet(need, newer.facts)):
            name = need.removeprefix("not ")
            changes = [c for c in (*CHANGES, *DEVIATIONS) if name == c.fact or name in c.subjects]
            if reason := _by_release(changes, older.target, newer.target):
                return reason
    return None


# ---- claims -------------------------------------------------------------------------------------


def _claims(older: Survey, newer: Survey) -> Iterator[Turn]:
    for name in _both(older.claims, newer.claims):
        ours, theirs = older.claims[name], newer.claims[name]
        if ours.verdict == theirs.verdict or UNSHOWN in (ours.verdict, theirs.verdict):
            continue
        reason = _of_claim(name, older.target, newer.target) or _kind_of_kernel(older, newer)
        yield _turn(CLAIM_KIND, name, older, newer, ours.verdict, theirs.verdict, reason)


def _of_claim(name: str, older: Target, newer: Target) -> Reason | None:
    claim = CLAIM.get(name)
    if claim is None or not _turned(claim, older, newer):
        return None
    return Reason(f"true {claim.history.text}", claim.history.commits)


def _turned(claim: Claim, older: Target, newer: Target) -> bool:
    try:
        releases = [read_release(_plain(target)) for target in (older, newer)]
    except InputError:
        return False
    first, second = (claim.history.holds_on(release) for release in releases)
    return first != second


def unsettled(surveys: Iterable[Survey]) -> Iterator[tuple[str, Target, str]]:
    """Yield the claims that could not be shown: which, on what, and why.

    That is no answer, and so no difference between kernels: a race needs two processors that run
    at the same time, and a busy machine may not have given them.
    """
    for survey in surveys:
        for name, settled in survey.claims.items():
            if settled.verdict == UNSHOWN:
                yield name, survey.target, settled.evidence


# ---- recipes ------------------------------------------------------------------------------------


def _recipes(older: Survey, newer: Survey) -> Iterator[Turn]:
    for name in _both(older.recipes, newer.recipes):
        ours, theirs = older.recipes[name], newer.recipes[name]
        if ours.key != theirs.key:
            continue
        first, second = _findings(ours, older), _findings(theirs, newer)
        different = comparison.differences(first, second)
        if not different and bool(ours.refused) == bool(theirs.refused):
            continue
        reason = _kind_of_kernel(older, newer) or _cause(ours, theirs, different, older, newer)
        before, after = _ran_text(ours, different, 0), _ran_text(theirs, different, 1)
        yield _turn(RECIPE, name, older, newer, before, after, reason)


def _findings(ran: Ran, survey: Survey) -> Findings:
    return Findings(
        ran.verdict, ran.rule, ran.end,
        effects=tuple(
            (Told(name), Told(value, frozenset(ran.exact.get(name, ()))))
            for name, value in ran.effects
        ),
        answers=tuple((Told(step), Told(answer)) for step, answer in ran.answers),
        vector=frozenset(survey.vector),
    )  # fmt: skip


def _ran_text(ran: Ran, different: Sequence[Difference], side: int) -> str:
    """Say what is different about an answer, or the whole of it."""
    if ran.refused:
        return f"cannot be made: {ran.refused}"
    first = different[0] if different else None
    if first is None or first.kind == "verdict":
        return ran.verdict or ran.end
    value = (first.first, first.second)[side] or "nothing"
    return f"{first.what}: {value}" if first.what else value


def _cause(
    ours: Ran, theirs: Ran, different: Sequence[Difference], older: Survey, newer: Survey
) -> Reason | None:
    if older.facts is None or newer.facts is None:
        return None
    first = _side(_findings(ours, older), older, ours)
    second = _side(_findings(theirs, newer), newer, theirs)
    return _reason(cause_of(first, second, different), older.target, newer.target)


def _of_findings(
    ours: Findings, theirs: Findings, effect: str, older: Survey, newer: Survey
) -> Reason | None:
    """Return the cause of what two findings of one case tell differently."""
    different = comparison.differences(ours, theirs)
    if older.facts is None or newer.facts is None or not different:
        return None
    cause = cause_of(_side(ours, older, None), _side(theirs, newer, None), different)
    reason = _reason(cause, older.target, newer.target)
    if reason is None and effect:
        changes = [c for c in CHANGES if effect in c.subjects]
        reason = _by_release(changes, older.target, newer.target)
    return reason


def _side(told: Findings, survey: Survey, ran: Ran | None) -> Side:
    assert survey.facts is not None
    capabilities = ran.capabilities if ran else "0x0"
    uid = 0 if survey.target.who == "root" else 65534
    privilege = Privilege(uid, capabilities, ran.own_user_namespace if ran else False, 0)
    return Side(told, survey.facts, privilege, LIVE, "")


def _reason(cause: Cause | None, older: Target, newer: Target) -> Reason | None:
    """Take a known cause apart: its sentence, and those of its commits that lie in between.

    A cause of which no commit does explains nothing: the facts differ, and the releases do not.
    """
    if cause is None:
        return None
    named = re.findall("[0-9a-f]{12}", cause.source)
    between = tuple(commit for commit in named if separates(commit, older, newer))
    if named and not between:
        return None
    return Reason(re.sub(r" \[\w+: [^]]*\]", "", cause.what), between)


def _turn(
    kind: str, name: str, older: Survey, newer: Survey, before: str, after: str,
    reason: Reason | None,
) -> Turn:  # fmt: skip
    reason = reason or Reason("")
    return Turn(kind, name, older.target.who, older.target, newer.target, before, after,
                reason.what, reason.commits)  # fmt: skip


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return hex(value) if isinstance(value, int) else str(value)
