"""Make docs/history.md: what changed of the call, release by release, from the lab's own tables.

`python -m docs.history`, from the top folder; `make history` does it. Nothing of the page is
written by hand: changes and proposals come from `kernel.releases`, the histories of rules and
effects from `kernel.rules` and `kernel.effects`, those of the message's statements from
`experiments.claims`. With `--check` nothing is written, and exit status 1 says that the page is not
what the tables make.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from prctlmm_lab.experiments.claims import CLAIMS, Claim
from prctlmm_lab.kernel.effects import EFFECTS, Effect
from prctlmm_lab.kernel.releases import (
    AROUND,
    CHANGES,
    DEVIATIONS,
    INTRODUCED,
    MAIL,
    NEWEST,
    PROPOSALS,
    RECALLED,
    RUN,
    SOURCE,
    Change,
    read_release,
)
from prctlmm_lab.kernel.rules import RULES, Rule

PAGE = Path(__file__).with_name("history.md")
COMMIT = re.compile(r"(?<![\w<./@-])(?=[a-f]*[0-9])[0-9a-f]{10,12}(?![\w@])")
FIRST = "f606b77f1a9e"

HOW: Mapping[str, str] = {
    RUN: "seen on live kernels of both sides",
    SOURCE: "read in the text of both sides",
    MAIL: "read in a mail, an announcement, or the commit itself",
    RECALLED: "only remembered",
}
_SHORT = {RUN: "run", SOURCE: "source", MAIL: "mail", RECALLED: "recalled"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and say where it is; with --check only compare."""
    parser = argparse.ArgumentParser(prog="python -m docs.history", description="Make the page.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args(arguments)
    made = page()
    if options.check:
        if PAGE.is_file() and PAGE.read_text("utf-8") == made:
            return 0
        print(f"docs.history: {PAGE.name} is not what the tables make: run `make history`",
              file=sys.stderr)  # fmt: skip
        return 1
    PAGE.write_text(made, "utf-8")
    print(PAGE)
    return 0


def page() -> str:
    """Return the page as Markdown."""
    text = "\n\n".join(_parts())
    found = dict.fromkeys(COMMIT.findall(text))
    linked = COMMIT.sub(lambda match: f"[{match[0]}]", text)
    links = "\n".join(f"[{commit}]: https://git.kernel.org/linus/{commit}" for commit in found)
    return f"{linked}\n\n{links}\n"


def _parts() -> Iterator[str]:
    yield "# The call's history, release by release"
    yield _beginning()
    yield "## What changed when"
    yield (
        "Changes that decide over a map, or over what it shows, name their rules and effects "
        "(`prctlmm-lab explain` tells of them). The others, marked `around`, are of locks, of the "
        "operations for single members, and of readers nearby."
    )
    yield _table(("release", "what it changed", "concerns", "commits", "also in", "known"),
                 map(_change_row, _all_changes()))  # fmt: skip
    yield "## What the message said"
    yield from _message()
    yield "## The checks, one by one"
    yield from _checks()
    yield "## Where it shows"
    yield from _effects()
    yield "## Posted, and in no release"
    for proposal in PROPOSALS:
        said = f"**{proposal.when}.** {proposal.what} ({_as_text(proposal.source)}.)"
        yield f"{said} {proposal.became}"
    yield "## What is open"
    yield from _doubts()


def _beginning() -> str:
    words = "; ".join(f"*{_SHORT[word]}*: {said}" for word, said in HOW.items())
    return (
        f"`prctl(PR_SET_MM, PR_SET_MM_MAP, ...)` came with {INTRODUCED} (commit {FIRST}). The "
        f"message of that commit describes an earlier posting; this page says what was so in which "
        f"release, up to {NEWEST}. It is made by `make history` from the tables that the lab "
        "itself goes by: the same that explain a verdict on another release, and that "
        "`prctlmm-lab claims` holds against the running kernel.\n\n"
        f"How each is known: {words}. Of releases before v5.10 nothing was run."
    )


# ---- changes ------------------------------------------------------------------------------------


def _all_changes() -> list[tuple[Change, bool]]:
    """Return every change, the earlier first, and whether it is one around the call."""
    both = [(change, False) for change in CHANGES] + [
        (change, True) for change in (*AROUND, *DEVIATIONS)
    ]
    return sorted(both, key=lambda pair: pair[0].first)


def _change_row(pair: tuple[Change, bool]) -> Sequence[str]:
    change, is_around = pair
    concerns = [f"`{subject}`" for subject in change.subjects]
    if is_around or not concerns:
        concerns.insert(0, "around")
    doubt = "; not certain" if change.doubt else ""
    return (
        str(change.first), change.what, ", ".join(concerns), ", ".join(change.commits),
        _stable(change.stable), _known(change.known) + doubt,
    )  # fmt: skip


def _known(known: Iterable[str]) -> str:
    return ", ".join(_SHORT[word] for word in known)


def _stable(stable: Mapping[str, int]) -> str:
    return ", ".join(str(read_release(f"{series}.{number}")) for series, number in stable.items())


# ---- the message --------------------------------------------------------------------------------


def _message() -> Iterator[str]:
    """Yield the statements of the message by what became of them."""
    yield (
        f"{len(CLAIMS)} statements, each with its number and in words of ours; `prctlmm-lab claims "
        "NUMBER` asks the running kernel. What is true in part is read strictly, and the rest told "
        "behind it. Stable kernels are named where they took over what ended, or began, it."
    )
    groups: dict[str, list[Claim]] = {
        "Never so, in no release": [],
        "Once so, and no more": [],
        "So only later": [],
        "So from the first release to this day": [],
    }
    never, once, later, always = groups.values()
    for claim in CLAIMS:
        history = claim.history
        if history.since is None:
            never.append(claim)
        elif history.until is not None:
            once.append(claim)
        else:
            (always if history.since == INTRODUCED else later).append(claim)
    for title, claims in groups.items():
        if claims:
            yield f"### {title}"
            yield "\n".join(map(_claim_line, claims))


def _claim_line(claim: Claim) -> str:
    history = claim.history
    when = ""
    if history.until is not None:
        when = f" ({history.since} until {history.until})"
    elif history.since not in (None, INTRODUCED):
        when = f" ({history.since} on)"
    note = f" {_as_text(history.note)}" if history.note else ""
    commits = ", ".join(commit for commit in history.commits if commit != FIRST)
    sources = filter(None, (commits, _also(history.stable), _known(history.known)))
    statement = _as_text(claim.statement).rstrip(".")
    return f"- **{claim.number}**{when}: *{statement}.*{note} ({'; '.join(sources)})"


def _also(stable: Mapping[str, int]) -> str:
    return f"also {_stable(stable)}" if stable else ""


# ---- rules and effects --------------------------------------------------------------------------


def _checks() -> Iterator[str]:
    """Yield the rules whose history is more than that they came with the call."""
    changed = [rule for rule in RULES if not _is_as_ever(rule)]
    same = [rule for rule in RULES if _is_as_ever(rule)]
    yield _table(
        ("check", "needed", "history"),
        ((f"`{rule.id}`", rule.title, rule.history) for rule in changed),
    )
    ranges = sum(rule.id.startswith("range.") for rule in same)
    names = ", ".join(f"`{rule.id}`" for rule in same if not rule.id.startswith("range."))
    yield (
        f"As they were in {INTRODUCED}: the {ranges} checks `range.*`, that each address is one of "
        f"user space, and {names}."
    )


def _effects() -> Iterator[str]:
    changed = [effect for effect in EFFECTS if not _is_as_ever(effect)]
    same = [effect for effect in EFFECTS if _is_as_ever(effect)]
    yield _table(
        ("effect", "what shows", "history"),
        ((f"`{effect.id}`", effect.title, effect.history) for effect in changed),
    )
    yield f"As in {INTRODUCED}: {', '.join(f'`{effect.id}`' for effect in same)}."


def _is_as_ever(told: Rule | Effect) -> bool:
    """Tell whether a history says only that it has been so since the call came."""
    return re.fullmatch(rf"since {INTRODUCED}(?: \({FIRST[:10]}\))?", told.history) is not None


# ---- doubts -------------------------------------------------------------------------------------


def _doubts() -> Iterator[str]:
    lines = []
    for change, _ in _all_changes():
        if change.doubt:
            by = f" ({', '.join(change.commits)})" if change.commits else ""
            lines.append(f"- {change.first}{by}: {_as_text(change.doubt)}.")
    yield "\n".join(lines)
    unrun = [claim for claim in CLAIMS if RUN not in claim.history.known]
    if unrun:
        numbers = ", ".join(str(claim.number) for claim in unrun)
        yield f"Turns of these statements were read in sources and mails, not run: {numbers}."


# ---- Markdown -----------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *(map(_as_text, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _as_text(text: str) -> str:
    """Write a text so that Markdown shows it as it is, but for code."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


if __name__ == "__main__":
    sys.exit(main())
