"""Settle many claims: which ones, one after the other, none for longer than a deadline."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.claims.claim import Claim, Finding, Verdict, expected_on, settle
from prctlmm_lab.experiments.formula import shorten, suggestion
from prctlmm_lab.kernel.facts import Facts

DEADLINE = 15.0
"""Seconds for one claim: longer than any takes, and than a specimen may be silent."""
OnFinding = Callable[[Finding], None]


def chosen(claims: Sequence[Claim], names: Iterable[str]) -> tuple[Claim, ...]:
    """Return the claims that are named, in their order; all of them if none is.

    A name is an id, the beginning of ids up to a point, or a number: "limit.data", "limit", "16".

    >>> from prctlmm_lab.experiments.claims import CLAIMS
    >>> [claim.id for claim in chosen(CLAIMS, ["limit", "15"])]
    ['heap.above_data', 'limit.data', 'limit.stack']

    Raises InputError for a name that chooses nothing.
    """
    picked: set[str] = set()
    for name in names:
        of_name = {claim.id for claim in claims if _is_named(claim, name)}
        if not of_name:
            subjects = dict.fromkeys(claim.id.partition(".")[0] for claim in claims)
            known = [*subjects, *(claim.id for claim in claims)]
            raise InputError("claims", "is neither a claim, nor the beginning or number of one",
                             shorten(name), suggestion(name, known, subjects))  # fmt: skip
        picked |= of_name
    return tuple(claim for claim in claims if not picked or claim.id in picked)


def _is_named(claim: Claim, name: str) -> bool:
    return name == str(claim.number) or f"{claim.id}.".startswith(f"{name}.")


def settle_all(
    claims: Sequence[Claim],
    facts: Facts,
    *,
    on_finding: OnFinding | None = None,
    deadline: float = DEADLINE,
) -> tuple[Finding, ...]:
    """Have the running kernel settle claims, one after the other, and return what it found.

    A claim that takes longer than `deadline` seconds cannot be shown here. `on_finding` is told
    each finding as soon as it is there.

    >>> from prctlmm_lab.experiments.claims import CLAIMS
    >>> from prctlmm_lab.specimen.probe import facts_here
    >>> [found.verdict.value for found in settle_all(CLAIMS[1:2], facts_here())]
    ['holds']

    The command line's equivalent is `prctlmm-lab claims`.

    Raises nothing of the lab's own errors.
    """
    findings = []
    for claim in claims:
        findings.append(_settled_in_time(claim, facts, deadline))
        if on_finding is not None:
            on_finding(findings[-1])
    return tuple(findings)


def _settled_in_time(claim: Claim, facts: Facts, deadline: float) -> Finding:
    """Settle a claim in a thread of its own, and do not wait for it longer than the deadline.

    A thread cannot be ended from outside. One that is late is left to itself: its specimens do not
    wait forever either, and they end with this process.
    """
    told: queue.SimpleQueue[Finding | Exception] = queue.SimpleQueue()

    def work() -> None:
        try:
            told.put(settle(claim, facts))
        except Exception as error:  # a mistake of ours, for the caller to see
            told.put(error)

    thread = threading.Thread(target=work, name=claim.id, daemon=True)
    thread.start()
    try:
        finding = told.get(timeout=deadline)
    except queue.Empty:
        reason = f"it was not settled within {deadline:g} s"
        return Finding(claim, Verdict.UNSHOWN, reason, expected_on(claim, facts))
    except BaseException:  # interrupted: what is under way ends first, so that nothing is left
        thread.join(deadline)
        raise
    if isinstance(finding, Exception):
        raise finding
    thread.join()
    return finding
