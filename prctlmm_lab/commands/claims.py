"""prctlmm-lab claims: what the commit message says, statement by statement, held to this kernel."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prctlmm_lab.commands.output import DISAGREEMENT, FINE, add_json, complain, wrapped

if TYPE_CHECKING:
    from prctlmm_lab.experiments.claims import Claim, Finding
    from prctlmm_lab.kernel.facts import Facts


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "claims", help="hold the statements of the commit message to this kernel",
        epilog="Example: prctlmm-lab claims limit heap.above_data 30",
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="ID",
                        help="a claim, the beginning of claims, or a number; then with what "
                             "is known of it")  # fmt: skip
    parser.add_argument("--reads", type=_reads, metavar="N", help="how often each reader of a race "
                        "looks; millions take minutes")  # fmt: skip
    add_json(parser)
    parser.set_defaults(command=claims)


def _reads(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < len(text) <= 10 and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a whole number of reads above 0")


def claims(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    from prctlmm_lab.experiments.claims import CLAIMS, chosen, settle_all
    from prctlmm_lab.experiments.claims.races import with_reads
    from prctlmm_lab.experiments.claims.settling import DEADLINE
    from prctlmm_lab.experiments.races import READS, time_for
    from prctlmm_lab.specimen.probe import facts_here

    reads = options.reads or READS
    wanted = with_reads(chosen(CLAIMS, options.names), reads)
    facts = facts_here()
    progress = _Progress(wanted)

    def tell(finding: Finding) -> None:
        progress.clear()
        if options.json:
            print(json.dumps(finding_data(finding, facts)), flush=True)
        else:
            for line in finding_lines(finding, at_length=bool(options.names)):
                print(line, flush=True)
        progress.show()

    progress.show()
    try:
        deadline = DEADLINE + time_for(reads)
        findings = settle_all(wanted, facts, on_finding=tell, deadline=deadline)
    finally:
        progress.clear()
    if not options.json:
        print(f"\n{wrapped(summary(findings, facts), later=0)}", flush=True)
    news = [finding.claim.id for finding in findings if finding.contradicts]
    if news:
        complain(how_to_report(news, facts))
    return DISAGREEMENT if news else FINE


class _Progress:
    """Says on a terminal how many claims are settled; on anything else nothing."""

    def __init__(self, wanted: Sequence[Claim]) -> None:
        self.wanted, self.done = wanted, 0
        self.is_seen = sys.stderr is not None and sys.stderr.isatty()

    def show(self) -> None:
        """Name the claim whose turn it is."""
        if self.is_seen and self.done < len(self.wanted):
            what = f"{self.done} of {len(self.wanted)} settled, {self.wanted[self.done].id}"
            print(f"\r{what}\x1b[K", end="", file=sys.stderr, flush=True)
            self.done += 1

    def clear(self) -> None:
        """Leave the line empty, for what is to be printed."""
        if self.is_seen:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# ---- as JSON ----------------------------------------------------------------------------------


def finding_data(finding: Finding, facts: Facts) -> dict[str, Any]:
    """Return as JSON has it what a claim says, what the kernel showed, and what was expected.

    Of a finding that contradicts us the records are there in full, so that one line tells it all.
    """
    from prctlmm_lab import __version__
    from prctlmm_lab.experiments.record import plain
    from prctlmm_lab.kernel.message import PLACES

    claim = finding.claim
    history = claim.history
    return {
        "number": claim.number,
        "id": claim.id,
        "statement": claim.statement,
        "place": {"id": claim.place, "what": PLACES[claim.place]},
        "history": {
            "since": str(history.since or ""),
            "until": str(history.until or ""),
            "commits": list(history.commits),
            "stable": {series: f"v{series}.{n}" for series, n in history.stable.items()},
            "known": list(history.known),
            "note": history.note,
        },
        "documented": claim.documented,
        "verdict": finding.verdict.value,
        "expected": finding.expected.value if finding.expected else "",
        "contradicts": finding.contradicts,
        "evidence": finding.evidence,
        "kernel": facts.release,
        "machine": facts.machine,
        "uid": os.geteuid(),
        "lab": __version__,
        "record_ids": [record.id for record in finding.records],
        "records": [plain(record) for record in finding.records if finding.contradicts],
    }


# ---- as text ----------------------------------------------------------------------------------


def finding_lines(finding: Finding, *, at_length: bool = False) -> Iterator[str]:
    """Yield a claim's line of the table, and below it what it says and the evidence.

    `at_length`: what else is known of it too.
    """
    claim = finding.claim
    yield (f"{claim.number:2}  {claim.id:30} {finding.verdict.value:16} {claim.history.when}")
    yield wrapped(f"    {claim.statement}", later=4)
    yield wrapped(f"      {finding.evidence}", later=6)
    if finding.contradicts and finding.expected:
        yield f"      OTHERWISE THAN WE SAY: {finding.expected.value} is expected"
    if claim.documented and (at_length or finding.verdict.value == "cannot be shown"):
        yield wrapped(f"      documented: {claim.documented}", later=6)
    if at_length:
        yield wrapped(f"      said in {place_text(claim)}", later=6)
        yield wrapped(f"      history: {history_text(claim)}", later=6)


def place_text(claim: Claim) -> str:
    """Say where in the message a claim stands.

    >>> from prctlmm_lab.experiments.claims import CLAIM
    >>> place_text(CLAIM["limit.data"])
    'requirement 5'
    """
    return f"requirement {claim.place}" if claim.place.isdigit() else f'paragraph "{claim.place}"'


def history_text(claim: Claim) -> str:
    """Say when a claim was true, by which commits, and how that is known."""
    history = claim.history
    by = list(history.commits)
    by += [f"v{series}.{number}" for series, number in history.stable.items()]
    sources = f"({', '.join(by)}; " if by else "("
    text = f"{history.text} {sources}known by: {', '.join(history.known)})"
    return f"{text}. {history.note}" if history.note else text


def summary(findings: Sequence[Finding], facts: Facts) -> str:
    """Return one line: how many claims hold here, and whether that is what we say."""
    counts = Counter(finding.verdict.value for finding in findings)
    counted = ", ".join(
        f"{counts[word]} {text}"
        for word, text in (("holds", "hold"), ("does not hold", "do not"),
                           ("cannot be shown", "cannot be shown"))
    )  # fmt: skip
    news = sum(finding.contradicts for finding in findings)
    return (
        f"{len(findings)} claims on Linux {facts.release} {facts.machine}, uid {os.geteuid()}: "
        f"{counted}; {news or 'none'} otherwise than we say"
    )


def how_to_report(news: Sequence[str], facts: Facts) -> str:
    """Return what to do about claims that the kernel settles otherwise than we say."""
    names = " ".join(news)
    return (
        f"Linux {facts.release} settles {names} otherwise than we say: that is news. Please tell "
        f"the project, with what `prctlmm-lab claims --json {names}` prints: each line holds the "
        "kernel's release, what was expected, the evidence and the whole records"
    )
