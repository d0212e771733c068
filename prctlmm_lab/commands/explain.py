"""prctlmm-lab explain: what the kernel, or another release, will say to a recipe, and why.

It explains CRIU's files too: an image of an address space, and the log of a failed restore.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from prctlmm_lab.commands.explain_criu import (
    add_target,
    explain_criu,
    is_criu_file,
    refuse_target,
)
from prctlmm_lab.commands.output import BAD_INPUT, FINE, add_json, wrapped
from prctlmm_lab.commands.recipes import chosen_experiments, prepared_one_by_one

if TYPE_CHECKING:
    from prctlmm_lab.experiments.experiment import Prepared
    from prctlmm_lab.kernel.facts import Facts
    from prctlmm_lab.kernel.rules import Explanation, Finding

    Elsewhere = tuple[Facts, Explanation]
    """The facts of a release, and what its rules say to a call."""


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "explain", help="what the kernel will say to a recipe, and why; or why CRIU failed",
        epilog="Example: prctlmm-lab explain data/recipes/refusals.toml --only order.code; or of "
        "CRIU: prctlmm-lab explain restore.log, prctlmm-lab explain mm-28.img --on v5.10",
    )  # fmt: skip
    parser.add_argument("--on", action="append", metavar="RELEASE",
                        help="as documented of a release: v5.10, or 4.19,5.10.69")  # fmt: skip
    parser.add_argument("recipe", metavar="FILE", help="a recipe, as in data/recipes; CRIU's "
                        "mm-PID.img; or the log of criu restore -v4")  # fmt: skip
    parser.add_argument("--only", metavar="ID", help="just this one of the recipe, or process of "
                        "the log")  # fmt: skip
    add_target(parser)
    add_json(parser)
    parser.set_defaults(command=explain)


def explain(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    status, releases = FINE, _releases(options.on)
    if is_criu_file(options.recipe):
        return explain_criu(options, releases)
    refuse_target(options)
    for prepared in prepared_one_by_one(chosen_experiments(options)):
        if prepared is None:
            status = BAD_INPUT
            continue
        elsewhere = [_explained_on(release, prepared) for release in releases]
        if options.json:
            print(json.dumps(explanation_data(prepared, elsewhere)))
        else:
            print(explanation_text(prepared, elsewhere))
    return status


def _releases(named: list[str] | None) -> list[str]:
    """Split what --on was given, and refuse what is no release before anything is started."""
    from prctlmm_lab.kernel.releases import read_release

    texts = [text.strip() for part in named or [] for text in part.split(",")]
    return list(dict.fromkeys(str(read_release(text, "--on")) for text in texts))


def _explained_on(release: str, prepared: Prepared) -> Elsewhere:
    """Apply the rules of a release to a call that was prepared here."""
    from prctlmm_lab.kernel.releases import facts_on
    from prctlmm_lab.kernel.rules import explain

    facts = facts_on(release, prepared.bench.facts)
    return facts, explain(prepared.situation, facts)


# ---- as JSON ----------------------------------------------------------------------------------


def explanation_data(prepared: Prepared, elsewhere: list[Elsewhere]) -> dict[str, object]:
    """Return as JSON has it what the rules say here, and on the releases asked for."""
    data = {
        "id": prepared.experiment.id,
        "title": prepared.experiment.title,
        "map": {name: hex(value) for name, value in prepared.map},
        "changes": {name: [hex(old), hex(new)] for name, old, new in _changed(prepared)},
        **_verdict_data(prepared.explanation),
    }
    if elsewhere:
        data["on"] = [
            {"release": facts.release, "assumed": facts.assumed, **_verdict_data(explanation)}
            for facts, explanation in elsewhere
        ]
    return data


def _verdict_data(explanation: Explanation) -> dict[str, object]:
    from prctlmm_lab.kernel.rules import errno_name

    deciding = explanation.deciding
    return {
        "verdict": errno_name(explanation.errno) if deciding else "accepted",
        "rule": deciding.rule.id if deciding else "",
        "rules": [_finding_data(finding) for finding in explanation.findings],
    }


def _finding_data(finding: Finding) -> dict[str, object]:
    rule = finding.rule
    return {
        "id": rule.id,
        "title": rule.title,
        "broken": finding.broken,
        "decides": finding.decides,
        "numbers": finding.numbers,
        "requirement": rule.requirement,
        "source": rule.source,
        "history": rule.history,
    }


def _changed(prepared: Prepared) -> list[tuple[str, int, int]]:
    before = dict(prepared.bench.before or prepared.map)
    return [(name, before[name], new) for name, new in prepared.map if new != before[name]]


# ---- as text ----------------------------------------------------------------------------------


def explanation_text(prepared: Prepared, elsewhere: list[Elsewhere]) -> str:
    """Return as a person reads it what the rules say here, and on the releases asked for."""
    experiment = prepared.experiment
    if not elsewhere:
        rows = _explanation_rows(prepared, prepared.explanation, "this kernel")
    elif len(elsewhere) == 1:
        ((facts, explanation),) = elsewhere
        kernel = facts.release.split()[0]
        rows = [
            ("on", f"{facts.release}, not run"),
            ("here", f"{_short_verdict(prepared.explanation)} ({prepared.bench.facts.release})"),
            *_explanation_rows(prepared, explanation, kernel),
        ]
    else:
        rows = _comparison_rows(prepared, elsewhere)
    head = ": ".join(filter(None, (experiment.id, experiment.title)))
    return "\n".join([
        wrapped(head, later=4), *(wrapped(f"  {what:9} {text}", later=14) for what, text in rows)
    ])  # fmt: skip


def _explanation_rows(
    prepared: Prepared, explanation: Explanation, kernel: str
) -> list[tuple[str, str]]:
    if explanation.deciding is None:
        return _acceptance_rows(prepared, explanation, kernel)
    return _refusal_rows(explanation, explanation.deciding)


def _comparison_rows(prepared: Prepared, elsewhere: list[Elsewhere]) -> list[tuple[str, str]]:
    """Say the verdict here and on each release; what a rule compared stands where it is first."""
    here = f"({prepared.bench.facts.release})"
    rows, told = [], set()
    for kernel, explanation in [
        (f"here {here}", prepared.explanation),
        *((facts.release, explanation) for facts, explanation in elsewhere),
    ]:
        name, _, note = kernel.partition(" ")
        verdict = _short_verdict(explanation)
        if note != "(documented)":
            verdict += f" {note}"
        deciding = explanation.deciding
        if deciding and deciding.rule.id not in told:
            verdict += f": {deciding.numbers}"
            told.add(deciding.rule.id)
        rows.append((name, verdict))
    return [*rows, ("", "releases as documented, not run")]


def _short_verdict(explanation: Explanation) -> str:
    from prctlmm_lab.kernel.rules import errno_name

    if explanation.deciding is None:
        return "accepted"
    return f"{errno_name(explanation.errno)} by rule {explanation.deciding.rule.id}"


def _acceptance_rows(
    prepared: Prepared, explanation: Explanation, kernel: str
) -> list[tuple[str, str]]:
    """Say what changes, and each rule that looked at it, with its numbers."""
    findings, changes = explanation.findings, _changed(prepared)
    names = {name for name, _, _ in changes}
    checked = [finding for finding in findings if names & set(finding.rule.members)]
    first = ("verdict", f"accepted: none of the {len(findings)} rules of {kernel} is broken")
    moved = [(name, f"{old:#x} -> {new:#x}") for name, old, new in changes]
    rows = [("changes", f"{name} {values}") for name, values in moved]
    rows += [("checked", f"{finding.rule.id}: {finding.numbers}") for finding in checked]
    return [first, *_once(rows or [("changes", "nothing: every member keeps its value")])]


def _refusal_rows(explanation: Explanation, deciding: Finding) -> list[tuple[str, str]]:
    rule = deciding.rule
    asked = "in none of the requirements of commit f606b77f1a"
    if rule.requirement:
        asked = f"in requirement {rule.requirement} of commit f606b77f1a's message"
    others = [finding for finding in explanation.broken if finding is not deciding]
    return [
        ("verdict", _short_verdict(explanation)),
        ("needed", rule.title),
        ("numbers", deciding.numbers),
        ("stated", asked),
        ("source", rule.source),
        ("history", rule.history),
        *_once([("also", f"{other.rule.id} is broken: {other.numbers}") for other in others]),
    ]


def _once(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave a label out where the row before has the same."""
    before = ["", *(what for what, _ in rows)]
    return [("" if what == old else what, text)
            for old, (what, text) in zip(before, rows, strict=False)]  # fmt: skip
