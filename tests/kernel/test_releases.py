"""The table of changes: against the probed kernel, the rules' own histories, and known verdicts."""

from __future__ import annotations

import errno
import platform
import re
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.effects import EFFECT, Effect
from prctlmm_lab.kernel.facts import CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN, Facts
from prctlmm_lab.kernel.releases import (
    AROUND,
    CHANGES,
    DEVIATIONS,
    DOCUMENTED,
    INTRODUCED,
    MAIL,
    NEWEST,
    PROPOSALS,
    RECALLED,
    RUN,
    SOURCE,
    Change,
    Release,
    facts_on,
    following,
    read_release,
)
from prctlmm_lab.kernel.rules import RULE, RULES, ExeFile, Rule, Situation, explain, rules_of
from prctlmm_lab.specimen.probe import facts_here
from tests.needs import skip_unless
from tests.views.address_spaces import FACTS

HERE = replace(FACTS, machine="x86_64", auxv_capacity=1)
"""Facts that no release has, so that what is documented of one shows."""
GOOD = PrctlMmMap(0x401000, 0x402000, 0x402000, 0x403000, 0x404000, 0x405000, 0x7FFF0000,
                  0x7FFF0010, 0x7FFF0020, 0x7FFF0020, 0x7FFF0030)  # fmt: skip
FILE = ExeFile(is_open=True, is_regular=True, is_executable=True)


# ---- the running kernel ---------------------------------------------------------------------


def release_here() -> str:
    """Return the stable release that this kernel contains: distributions name another one."""
    text = platform.version()
    if found := re.search(r"\bDebian (\d+\.\d+\.\d+)", text):
        return found[1]
    signature = Path("/proc/version_signature")
    if signature.exists():  # Ubuntu
        return signature.read_text().split()[-1]
    release = platform.release()
    skip_unless(".el" not in release, "this kernel has more than its release", impossible=True)
    found = re.match(r"\d+\.\d+(\.\d+)?", release)
    assert found is not None
    return found[0]


NUMBERS_INCOMPLETE = {"auxv_tail_kept"}
"""Not every stable kernel that took the change over is known."""


@pytest.mark.parametrize("fact", sorted({*DOCUMENTED, "refusal_errno"} - NUMBERS_INCOMPLETE))
def test_this_kernel_is_as_documented(fact: str) -> None:
    here = facts_here()
    skip_unless(here.available, "this kernel lacks the call", impossible=True)
    skip_unless(fact not in here.assumed, f"{fact} cannot be probed here", impossible=True)
    nothing: dict[str, Any] = {fact: None}
    spoiled = replace(here, **nothing)  # so that it cannot be passed through
    documented = facts_on(release_here(), spoiled)
    if fact == "auxv_capacity" and here.machine != "x86_64":
        assert documented.auxv_capacity is None
        return
    assert getattr(documented, fact) == getattr(here, fact)
    assert fact in documented.assumed


# ---- verdicts -------------------------------------------------------------------------------


def on(release: str, situation: Situation) -> str:
    """Return the verdict on a release: "accepted", or the errno and the rule."""
    explanation = explain(situation, facts_on(release, HERE))
    if explanation.deciding is None:
        return "accepted"
    return f"{errno.errorcode[explanation.errno]} {explanation.deciding.rule.id}"


def exe(**more: Any) -> Situation:
    """Change the exe link, which all that is not named allows."""
    may = {"capabilities": 1 << CAP_SYS_ADMIN, "namespace_root": True, "exe": FILE}
    return Situation(GOOD.changed(exe_fd=3), **{**may, "exe_mapped": False, **more})


def vector(size: int) -> Situation:
    return Situation(GOOD.changed(auxv=0x1000, auxv_size=size))


STRICT, ABOVE, WRITTEN = "EINVAL order.data_strict", "EINVAL heap.above_data", "EACCES exe.written"
TOO_BIG, LACKING, GONE = "EINVAL auxv.size", "EINVAL call.option", "accepted"

VERDICTS: dict[str, tuple[Situation, dict[str, str]]] = {
    "an identity map": (
        Situation(GOOD),
        {"2.6": LACKING, "v3.10.108": LACKING, "3.17": LACKING, "3.18": GONE, "7.3": GONE},
    ),
    "empty data": (
        Situation(GOOD.changed(end_data=GOOD.start_data)),
        {
            "3.18": STRICT, "4.4.182": STRICT, "4.4.183": GONE, "4.9.182": STRICT, "4.9.183": GONE,
            "4.14.125": STRICT, "4.14.126": GONE, "4.19.50": STRICT, "4.19.51": GONE,
            "4.20.17": STRICT, "5.1": STRICT, "5.1.9": STRICT, "5.1.10": GONE, "5.2": GONE,
        },
    ),
    "a heap below the data": (
        Situation(GOOD.changed(start_brk=0x400000, brk=0x400000)),
        {
            "3.18": ABOVE, "4.4.284": ABOVE, "4.4.285": GONE, "4.9.283": ABOVE, "4.9.284": GONE,
            "4.14.247": ABOVE, "4.14.248": GONE, "4.19.0": ABOVE, "4.19.207": ABOVE,
            "4.19.208": GONE, "4.19.325": GONE, "5.4.148": ABOVE, "5.4.149": GONE, "v5.10": ABOVE,
            "5.10.68": ABOVE, "5.10.69": GONE, "5.13.19": ABOVE, "5.14.7": ABOVE, "5.14.8": GONE,
            "5.15": GONE,
        },
    ),
    "a second change of exe": (
        exe(exe_changed=True),
        {"3.18": "EPERM exe.once", "4.9": "EPERM exe.once", "4.9.337": "EPERM exe.once",
         "4.10": GONE},
    ),
    "exe without permission": (
        exe(capabilities=0, namespace_root=False),
        {
            "4.13": "EINVAL exe.ids", "4.14": "EINVAL exe.permission_early",
            "5.1": "EINVAL exe.permission_early", "5.2": "EINVAL exe.permission",
            "5.8": "EINVAL exe.permission", "5.9": "EPERM exe.permission",
        },
    ),
    "exe as root of a namespace without capabilities": (
        exe(capabilities=0),
        {"4.13": GONE, "4.14": "EINVAL exe.permission_early"},
    ),
    "exe with CAP_SYS_ADMIN as nobody": (
        exe(namespace_root=False),
        {"4.13": "EINVAL exe.ids", "4.14": GONE, "5.9": GONE},
    ),
    "exe with CAP_CHECKPOINT_RESTORE alone": (
        exe(capabilities=1 << CAP_CHECKPOINT_RESTORE, namespace_root=False),
        {"5.8": "EINVAL exe.permission", "5.9": GONE},
    ),
    "neither permission nor a vector": (
        replace(
            exe(capabilities=0, namespace_root=False, auxv_readable=False),
            map=GOOD.changed(exe_fd=3, auxv=1, auxv_size=16),
        ),
        {
            "4.9": "EINVAL exe.ids", "4.19": "EINVAL exe.permission_early",
            "5.1.21": "EINVAL exe.permission_early", "5.2": "EFAULT auxv.readable",
            "5.4": "EFAULT auxv.readable",
        },
    ),
    "exe that is written, and was not opened": (
        exe(exe=replace(FILE, is_written=True, was_opened=False)),
        {
            "5.14.21": GONE, "5.15": WRITTEN, "6.1.192": WRITTEN, "6.11": GONE, "6.12.2": WRITTEN,
            "6.12.117": GONE, "6.13": WRITTEN, "6.14": WRITTEN, "6.16.12": WRITTEN,
        },
    ),
    "exe that is written": (
        exe(exe=replace(FILE, is_written=True)),
        {
            "5.14.21": GONE, "5.15": WRITTEN, "6.10": WRITTEN, "6.11": GONE, "6.11.10": GONE,
            "6.11.11": WRITTEN, "6.12": GONE, "6.12.1": GONE, "6.12.2": WRITTEN, "6.13": WRITTEN,
            "6.12.117": WRITTEN,
        },
    ),
    "a vector of 369 bytes": (vector(369), {"3.18": TOO_BIG, "5.13": TOO_BIG, "5.14": GONE}),
    "a vector of 385 bytes": (vector(385), {"5.14": TOO_BIG, "6.2": TOO_BIG, "6.3": GONE}),
    "a vector of 417 bytes": (
        vector(417),
        {
            "6.12.117": TOO_BIG, "6.18.19": TOO_BIG, "6.18.20": GONE, "6.19.9": TOO_BIG,
            "6.19.10": GONE, "7.0": GONE,
        },
    ),
    "a vector of 449 bytes": (vector(449), {"7.0": TOO_BIG, "7.3": TOO_BIG}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "release"),
    [(name, release) for name, (_, told) in VERDICTS.items() for release in told],
)
def test_a_verdict_depends_on_the_release(name: str, release: str) -> None:
    situation, told = VERDICTS[name]
    assert on(release, situation) == told[release]


def test_what_is_not_asked_is_said() -> None:
    situation = exe(exe=replace(FILE, is_written=True, was_opened=False))
    told = {
        release: next(
            finding.numbers
            for finding in explain(situation, facts_on(release, HERE)).findings
            if finding.rule.id == "exe.written"
        )
        for release in ("6.12.117", "6.13")
    }
    assert told["6.12.117"].endswith("comes from memfd_create(): this kernel does not ask then")
    assert told["6.13"].endswith("must not be open for writing")


SHOWN: dict[str, dict[str, bool]] = {
    "code_size_clamped": {"3.18": False, "4.15": False, "4.16": True},
    "hole_shrinks": {"5.15": True, "6.0": True, "6.1": False, "6.1.192": False},
    "touching_heap_labelled": {"6.1.192": True, "6.6": True, "6.6.10": True, "6.7": False},
    "crossing_read_grows": {"5.10": True, "6.1": True, "6.1.192": False, "6.5": True, "7.3": True},
    "auxv_tail_kept": {"5.15.135": True, "6.1.192": False, "7.2": True, "7.3": False},
}


@pytest.mark.parametrize("fact", SHOWN)
def test_what_is_shown_depends_on_the_release(fact: str) -> None:
    assert {r: getattr(facts_on(r, HERE), fact) for r in SHOWN[fact]} == SHOWN[fact]


# ---- facts ----------------------------------------------------------------------------------

AS_HERE = {
    "machine",
    "page_size",
    "map_size",
    "lowest",
    "highest",
    "mapped_exe_refused",
    "mapped_memory_joins",
}
"""What depends on the machine, the configuration or the file system."""


def test_every_fact_is_documented_or_as_it_is_here() -> None:
    derived = {"release", "refusal_errno", "assumed"}
    assert {field.name for field in fields(Facts)} == {*DOCUMENTED} | AS_HERE | derived
    told = facts_on("5.10", HERE)
    assert {name for name in AS_HERE if getattr(told, name) != getattr(HERE, name)} == set()
    assert set(told.assumed) == {*DOCUMENTED, "refusal_errno"}
    kinds = {name: {type(getattr(HERE, name)), type(getattr(told, name))} for name in DOCUMENTED}
    assert all(len(kind) == 1 for kind in kinds.values()), kinds


def test_what_was_assumed_here_stays_so() -> None:
    told = facts_on("5.10", replace(HERE, assumed=("lowest", "hole_shrinks")))
    assert told.assumed.count("lowest") == told.assumed.count("hole_shrinks") == 1


def test_a_release_is_named_with_how_it_is_known() -> None:
    assert facts_on("v5.10", HERE).release == "v5.10 (documented)"
    assert facts_on("5.10.69", HERE).release == "v5.10.69 (documented)"
    assert facts_on(str(NEWEST), HERE).release == f"{NEWEST} (documented)"
    assert facts_on(f"{NEWEST}.4", HERE).release == f"{NEWEST}.4 (documented)"


@pytest.mark.parametrize("release", ["7.4", "7.20.3", "8.0", "v99.1"])
def test_a_release_that_is_too_new_is_as_the_newest(release: str) -> None:
    told, newest = facts_on(release, HERE), facts_on(str(NEWEST), HERE)
    assert told.release == f"v{release.lstrip('v')} (documented to {NEWEST})"
    assert replace(told, release=newest.release) == newest


def test_the_vector_of_another_machine_is_not_documented() -> None:
    told = facts_on("5.10", replace(HERE, machine="aarch64"))
    assert told.auxv_capacity == HERE.auxv_capacity
    assert "auxv_capacity" not in told.assumed


@pytest.mark.parametrize(
    "text",
    ["", " ", "v", "5", "v5", "5.", ".10", "5.10.", "5.10.1.2", "5.10-rc1", "5.10.0-28-amd64",
     " 5.10", "5.10\n", "-5.10", "5.-1", "V5.10", "vv5.10", "\uff15.10", "5.1O", "5.1000",
     "\x1b[31m", "latest", "x" * 10_000],
)  # fmt: skip
def test_what_is_no_release_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        facts_on(text, HERE)
    sentence = str(caught.value)
    assert sentence.startswith("release: '")
    assert sentence.endswith("is no release; expected one like v5.10 or 5.10.69")
    assert sentence.isprintable()
    assert len(sentence) < 140


@pytest.mark.parametrize(
    ("text", "range_"),
    [("3.20", "v3.0 to v3.19"), ("4.21.3", "v4.0 to v4.20"), ("5.99", "v5.0 to v5.19"),
     ("v6.20", "v6.0 to v6.19")],
)  # fmt: skip
def test_a_series_that_never_was_is_refused(text: str, range_: str) -> None:
    with pytest.raises(InputError, match=f"'{text}' was never released; expected {range_}$"):
        read_release(text)


# ---- the table ------------------------------------------------------------------------------


def ids(change: Change) -> str:
    return change.commits[0]


def test_the_table_is_in_order() -> None:
    assert all(earlier.first <= later.first for earlier, later in pairwise(CHANGES))
    commits = [commit for change in CHANGES for commit in change.commits]
    assert len(commits) == len(set(commits))
    assert CHANGES[0].first == INTRODUCED
    assert CHANGES[-1].first <= NEWEST


@pytest.mark.parametrize("fact", DOCUMENTED)
def test_the_changes_of_a_fact_follow_one_another(fact: str) -> None:
    changes = [change for change in CHANGES if change.fact == fact]
    assert all(earlier.since == later.before for earlier, later in pairwise(changes))
    assert all(change.before != change.since for change in changes)


@pytest.mark.parametrize("change", CHANGES, ids=ids)
def test_a_change_is_whole(change: Change) -> None:
    assert all(re.fullmatch("[0-9a-f]{12}", commit) for commit in change.commits)
    assert set(change.subjects) <= {*RULE, *EFFECT}
    assert change.subjects or change.fact
    assert set(change.known) <= {RUN, SOURCE, MAIL, RECALLED}
    assert change.known
    assert change.doubt or RECALLED not in change.known
    assert re.fullmatch(r"\S.*[^.]\.", change.what)
    assert not change.first.stable
    assert change.holds_on(change.first)
    for series, number in change.stable.items():
        release = read_release(f"{series}.{number}")
        assert release.stable > 0
        assert release < change.first
        assert change.holds_on(release)
        assert not change.holds_on(release._replace(stable=number - 1))
        # What a stable kernel takes back or over must be there.
        assert all(c.holds_on(release) for c in CHANGES
                   if change.fact and c.fact == change.fact and c.first < change.first)  # fmt: skip


def ids_around(change: Change) -> str:
    return f"{change.first} {change.what[:20]}"


@pytest.mark.parametrize("change", AROUND, ids=ids_around)
def test_a_change_around_the_call_is_whole(change: Change) -> None:
    assert all(re.fullmatch("[0-9a-f]{12}", commit) for commit in change.commits)
    assert change.commits or change.doubt
    assert set(change.subjects) <= {*RULE, *EFFECT}
    assert set(change.known) <= {RUN, SOURCE, MAIL, RECALLED}
    assert change.known
    assert change.doubt or RECALLED not in change.known
    assert re.fullmatch(r"\S.*[^.]\.", change.what)
    assert not change.first.stable
    assert not change.fact, "what a fact holds belongs to the other table"


@pytest.mark.parametrize("change", DEVIATIONS, ids=ids)
def test_what_one_series_has_is_there_alone(change: Change) -> None:
    assert all(re.fullmatch("[0-9a-f]{12}", commit) for commit in change.commits)
    assert change.commits
    assert set(change.subjects) <= {*RULE, *EFFECT}
    assert RECALLED not in change.known or change.doubt
    assert re.fullmatch(r"\S.*[^.]\.", change.what)
    assert change.before != change.since
    ((series, number),) = change.stable.items()
    taken = read_release(f"{series}.{number}")
    assert taken.stable > 0
    assert f"In {Release(*taken[:2])} stable kernels" in change.what
    there = {r for r in following(INTRODUCED, NEWEST) for r in (r, r._replace(stable=999))
             if getattr(facts_on(str(r), HERE), change.fact) == change.since}  # fmt: skip
    assert there == {taken._replace(stable=999)}
    around = [taken, taken._replace(stable=number - 1)]
    assert [getattr(facts_on(str(r), HERE), change.fact) for r in around] == [
        change.since, change.before
    ]  # fmt: skip


def test_the_tables_have_nothing_twice() -> None:
    assert all(earlier.first <= later.first for earlier, later in pairwise(AROUND))
    assert AROUND[-1].first <= NEWEST
    every = (*CHANGES, *AROUND, *DEVIATIONS)
    commits = [commit for change in every for commit in change.commits]
    assert len(commits) == len(set(commits))
    whats = [change.what for change in every]
    assert len(whats) == len(set(whats))


def test_a_proposal_is_whole() -> None:
    assert all(earlier.when < later.when for earlier, later in pairwise(PROPOSALS))
    for proposal in PROPOSALS:
        assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", proposal.when)
        assert re.fullmatch(r"[A-Z].*[^.]\.", proposal.what)
        assert re.fullmatch(r"[A-Z].*[^.]\.", proposal.became)
        assert re.fullmatch(r"[A-Z].*[^.]", proposal.source)


EVERY = sorted(
    {
        Release(3, 17),
        *(change.first for change in CHANGES),
        *(read_release(f"{s}.{n}") for change in CHANGES for s, n in change.stable.items()),
    }
)
"""Every release with which something changes, and one before them all."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_is_made_by_some_release(rule: Rule) -> None:
    assert any(rule.exists(facts_on(str(release), HERE)) for release in EVERY)


@pytest.mark.parametrize("release", EVERY, ids=str)
def test_every_release_asks_one_permission_for_exe(release: Release) -> None:
    made = {rule.id for rule in rules_of(facts_on(str(release), HERE))}
    assert len(made & {"exe.ids", "exe.permission_early", "exe.permission"}) == 1


# ---- the histories that rules and effects tell -------------------------------------------------

COMMIT = re.compile(r"\b(?=[a-f]*[0-9])[0-9a-f]{10,12}\b")


def concerning(subject: str) -> list[Change]:
    return [change for change in (*CHANGES, *DEVIATIONS) if subject in change.subjects]


@pytest.mark.parametrize("told", [*RULES, *EFFECT.values()], ids=lambda told: told.id)
def test_a_history_and_the_table_say_the_same(told: Rule | Effect) -> None:
    commits = COMMIT.findall(told.history)
    for change in concerning(told.id):
        for commit in change.commits:
            assert any(commit.startswith(short) for short in commits), commit
    for short in commits:
        (change,) = (c for c in (*CHANGES, *DEVIATIONS)
                     if any(commit.startswith(short) for commit in c.commits))  # fmt: skip
        assert told.id in change.subjects or change.first == INTRODUCED
        assert re.search(rf"{re.escape(str(change.first))}(?!\d)", told.history), change.first
