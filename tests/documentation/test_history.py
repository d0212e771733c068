"""The history is what the tables make and holds all of them, and they do not contradict."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from docs import history
from docs.history import COMMIT, FIRST, PAGE, page
from docs.pages import markdown_html
from prctlmm_lab.experiments.claims import CLAIMS, Claim
from prctlmm_lab.kernel.effects import EFFECTS, Effect
from prctlmm_lab.kernel.releases import (
    AROUND,
    CHANGES,
    DEVIATIONS,
    INTRODUCED,
    PROPOSALS,
    Change,
    Release,
    read_release,
)
from prctlmm_lab.kernel.rules import RULES, Rule

TEXT = PAGE.read_text("utf-8")
EVERY_CHANGE = (*CHANGES, *AROUND, *DEVIATIONS)


def section(title: str, text: str = TEXT) -> str:
    """Return what stands under a heading, down to the next of its kind."""
    mark = re.match(r"#+", title)
    assert mark is not None
    after = text.split(f"\n{title}\n", 1)[1]
    return re.split(rf"^#{{1,{len(mark[0])}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def plain(text: str) -> str:
    """Return a text without the links and the characters that Markdown needs."""
    return re.sub(r"\[([0-9a-f]{10,12})\]", r"\1", text).replace("&lt;", "<").replace("&gt;", ">")


def test_it_is_what_the_tables_make() -> None:
    assert page() == TEXT, "docs/history.md is not what the tables make: run `make history`"


# ---- it holds the tables ------------------------------------------------------------------------


@pytest.mark.parametrize("change", EVERY_CHANGE, ids=lambda change: change.what[:30])
def test_a_change_has_its_row(change: Change) -> None:
    rows = [line for line in section("## What changed when").splitlines() if change.what in line]
    (row,) = rows
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    release, _, concerns, commits, stable, known = cells
    assert release == str(change.first)
    assert set(re.findall(r"`([^`]+)`", concerns)) == set(change.subjects)
    assert re.findall(r"[0-9a-f]{12}", commits) == list(change.commits)
    assert stable.split(", ") == (
        [f"v{series}.{number}" for series, number in change.stable.items()] or [""]
    )
    assert known.split("; ")[0].split(", ") == list(change.known)
    assert ("not certain" in known) == bool(change.doubt)
    assert not change.doubt or change.doubt in plain(section("## What is open"))


def test_the_releases_follow_one_another() -> None:
    found = re.findall(r"^\| (v\S+) \|", section("## What changed when"), re.MULTILINE)
    releases = [read_release(name) for name in found]
    assert releases == sorted(releases)
    assert len(releases) == len(EVERY_CHANGE)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_claim_stands_where_its_history_puts_it(claim: Claim) -> None:
    message = section("## What the message said")
    (line,) = re.findall(rf"^- \*\*{claim.number}\*\*.*$", message, re.MULTILINE)
    said = plain(line)
    assert claim.statement.rstrip(".") in said
    assert claim.history.note in said
    assert all(commit in said for commit in claim.history.commits if commit != FIRST)
    assert all(f"v{s}.{number}" in said for s, number in claim.history.stable.items())
    since, until = claim.history.since, claim.history.until
    title = "So from the first release to this day"
    if since is None:
        title = "Never so, in no release"
    elif until is not None:
        title = "Once so, and no more"
        assert f"({since} until {until})" in said
    elif since != INTRODUCED:
        title = "So only later"
        assert f"({since} on)" in said
    assert line in section(f"### {title}")


@pytest.mark.parametrize("told", [*RULES, *EFFECTS], ids=lambda told: told.id)
def test_a_check_and_an_effect_are_there(told: Rule | Effect) -> None:
    title = "## The checks, one by one" if isinstance(told, Rule) else "## Where it shows"
    listed = "range.*" if told.id.startswith("range.") else told.id
    if told.history in (f"since {INTRODUCED}", f"since {INTRODUCED} ({FIRST[:10]})"):
        last = section(title).strip().splitlines()[-1]
        assert last.startswith("As ")
        assert f"`{listed}`" in last
    else:
        assert f"| `{told.id}` | {told.title} | {told.history} |" in plain(section(title))


def test_a_proposal_is_there() -> None:
    proposed = plain(section("## Posted, and in no release"))
    for proposal in PROPOSALS:
        for part in (proposal.when, proposal.what, proposal.source, proposal.became):
            assert part in proposed


def test_what_is_new_in_a_table_comes_onto_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    change = replace(CHANGES[-1], what="Something | new.", commits=("0123456789ab",))
    claim = replace(CLAIMS[0], statement="Something newer.", number=999)
    claim = replace(claim, history=replace(claim.history, until=Release(5, 0)))
    monkeypatch.setattr(history, "CHANGES", (*CHANGES, change))
    monkeypatch.setattr(history, "CLAIMS", (*CLAIMS, claim))
    made = page()
    assert made != TEXT
    assert "| Something \\| new. |" in section("## What changed when", made)
    assert "[0123456789ab]: https://git.kernel.org/linus/0123456789ab" in made
    assert "**999**" in section("### Once so, and no more", made)


# ---- it reads well ------------------------------------------------------------------------------


def test_every_commit_is_a_link_and_every_link_is_a_commit() -> None:
    defined = re.findall(r"^\[([0-9a-f]+)\]: https://git.kernel.org/linus/\1$", TEXT, re.MULTILINE)
    body = "\n".join(line for line in TEXT.splitlines() if "]: https://" not in line)
    used = re.findall(r"\[([0-9a-f]{10,12})\]", body)
    assert set(used) == set(defined)
    assert len(defined) == len(set(defined))
    assert not COMMIT.findall(re.sub(r"\[[0-9a-f]{10,12}\]", "", body))


def test_it_becomes_a_page_of_the_book() -> None:
    html = markdown_html(TEXT, lambda to: to)
    assert html.count("<tr>") == sum(line.startswith("|") for line in TEXT.splitlines()) - 3
    assert f'<a href="https://git.kernel.org/linus/{FIRST}">' in html
    assert "[f606b77f1a9e]" not in html
    assert "@openvz.org&gt;" in html


def test_every_row_has_the_cells_of_its_head() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1


# ---- the command --------------------------------------------------------------------------------


def test_the_command_writes_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "history.md"
    monkeypatch.setattr(history, "PAGE", file)
    assert history.main(["--check"]) == 1
    assert "run `make history`" in capsys.readouterr().err
    assert history.main([]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    assert file.read_text("utf-8") == page()
    assert history.main(["--check"]) == 0
    file.write_text("old", "utf-8")
    assert history.main(["--check"]) == 1


# ---- the tables agree ---------------------------------------------------------------------------

TABLE = {commit: change for change in EVERY_CHANGE for commit in change.commits}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_claim_and_the_table_of_changes_say_the_same(claim: Claim) -> None:
    its = claim.history
    told = [*its.commits, *COMMIT.findall(its.note)]
    unknown = [commit for commit in told if commit not in TABLE]
    assert unknown == [], "no change in kernel/releases.py has this commit"
    firsts = {TABLE[commit].first for commit in its.commits}
    for turn in (its.since, its.until):
        if turn is not None:
            assert turn in firsts, f"none of its commits came with {turn}"
    ending = its.until or its.since
    for commit in its.commits:
        if its.stable and TABLE[commit].first == ending and TABLE[commit].stable:
            assert dict(TABLE[commit].stable) == dict(its.stable)
