"""What the lab knows as pandas tables: members, maps, differences, rules, releases, tallies.

Needs pandas, which is imported on use. Addresses are hex strings, ends are exclusive. A part of a
snapshot that could not be read is shown as such, with its errno.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import MEMBERS
from prctlmm_lab.kernel.difference import Change, shown
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable, Vma
from prctlmm_lab.kernel.releases import CHANGES
from prctlmm_lab.kernel.rules import RULE, Explanation, Finding, errno_name
from prctlmm_lab.words import printable, size_text

if TYPE_CHECKING:
    from pandas import DataFrame
    from pandas.io.formats.style import Styler

    from prctlmm_lab.experiments.differential import Tally
    from prctlmm_lab.experiments.wrong_models import Examination

NOTHING_MAPPED = "nothing mapped"
ONLY_GIVEN = "(only given, never shown)"
"""auxv, auxv_size and exe_fd are read by the call; the kernel keeps what they led to."""
NOT_IN_PROC = "(not in /proc: brk(0) tells)"
_POINTERS = frozenset(
    "AT_PHDR AT_BASE AT_ENTRY AT_PLATFORM AT_BASE_PLATFORM AT_RANDOM AT_EXECFN AT_SYSINFO "
    "AT_SYSINFO_EHDR".split()
)


def members_table(snapshot: Snapshot) -> DataFrame:
    """Return the 14 members: value, meaning, the VMA it points into, where it shows.

    >>> from prctlmm_lab.kernel.procfs import read_snapshot
    >>> members_table(read_snapshot()).loc["arg_start", "points into"].split()[-1]
    '[stack]'

    Equivalent: `cut -d' ' -f26-28,45-51 /proc/PID/stat` beside `cat /proc/PID/maps`.
    """
    rows = [
        (member.name, _value(snapshot, member.name), member.meaning,
         _target(snapshot, snapshot.members.get(member.name)), "; ".join(member.shows))
        for member in MEMBERS
    ]  # fmt: skip
    return _frame("member", ("value", "meaning", "points into", "shows in"), rows)


def maps_table(snapshot: Snapshot) -> DataFrame:
    """Return the VMAs in ascending order, with the members that point into each.

    Equivalent: `cat /proc/PID/maps`.
    """
    columns = ("end", "size", "permissions", "offset", "device", "inode", "name", "members")
    if isinstance(snapshot.maps, Unreadable):
        return _frame("start", columns, [("", *[""] * 6, str(snapshot.maps), "")])
    return _frame("start", columns, [_vma_row(snapshot, vma) for vma in snapshot.maps])


def auxv_table(snapshot: Snapshot) -> DataFrame:
    """Return the auxiliary vector, entry by entry; pointers with the VMA they point into.

    Equivalent: `LD_SHOW_AUXV=1 true`, for the shell's own.
    """
    columns = ("value", "points into")
    if isinstance(snapshot.auxv, Unreadable):
        return _frame("type", columns, [("", str(snapshot.auxv), "")])
    rows = [
        (e.name, hex(e.value), _target(snapshot, e.value) if e.name in _POINTERS else "")
        for e in snapshot.aux_entries
    ]
    return _frame("type", columns, rows)


def difference_table(changes: Iterable[Change]) -> DataFrame:
    """Return what changed between two snapshots, one row for each change.

    Equivalent: `diff` of two copies of /proc/PID.
    """
    rows = [
        (change.place, *map(printable, (change.name, shown(change.before), shown(change.after))))
        for change in changes
    ]
    return _frame("place", ("name", "before", "after"), rows)


def rules_table(explanation: Explanation) -> DataFrame:
    """Return every check that the kernel makes for one call, in its order.

    `state` is holds, broken, or REFUSES for the one that decides; `errno` is what the check gives.

    The command line's equivalent is `prctlmm-lab explain RECIPE`.
    """
    columns = ("rule", "title", "numbers", "state", "errno", "requirement", "source")
    rows = [
        _rule_row(position, finding, explanation.errno)
        for position, finding in enumerate(explanation.findings, 1)
    ]
    return _frame("order", columns, rows)


def releases_table() -> DataFrame:
    """Return every change of the call and of what it shows, the earlier first, with its source.

    `stable` names the first stable kernels that took it over, `known` how it is known: run, read in
    the source, read in mails, or recalled.

    >>> releases_table().loc["v4.10", "rules and effects"]
    'exe.once'
    """
    columns = ("commit", "rules and effects", "what changed", "stable", "known", "not certain")
    rows = [
        (str(change.first), ", ".join(change.commits), ", ".join(change.subjects), change.what,
         ", ".join(f"v{series}.{number}" for series, number in change.stable.items()),
         ", ".join(change.known), change.doubt)
        for change in CHANGES
    ]  # fmt: skip
    return _frame("release", columns, rows)


def tally_table(tally: Tally, by: str = "rule") -> DataFrame:
    """Return how the calls of a run divide: by "rule", "caller", "scenario", "limit" or "verdict".

    By rule, the rows stand in the kernel's order and calls that no rule refused come last. A
    scenario is a caller with one of the programs; by either, there are the disagreements too, and
    what cannot be set up here has the reason.

    >>> from prctlmm_lab import fuzz
    >>> tally_table(fuzz(2000), by="limit").index[0]
    'unset'

    The command line's equivalent is `prctlmm-lab fuzz`.

    Raises InputError for another word.
    """
    counts: dict[str, Counter[str]] = {
        "rule": _in_order(tally), "caller": _by_caller(tally.by_scenario),
        "scenario": tally.by_scenario, "limit": tally.by_limit, "verdict": tally.by_verdict,
    }  # fmt: skip
    if by not in counts:
        raise InputError("by", "is no way to divide calls", repr(by)[:80], ", ".join(counts))
    rows = [(name, number, f"{100 * number / tally.calls:.1f} %")
            for name, number in counts[by].items()]  # fmt: skip
    if by == "rule":
        titles = {name: rule.title for name, rule in RULE.items()} | {"accepted": "all rules hold"}
        told = [(*row, titles.get(row[0], "")) for row in rows]
        return _frame(by, ("calls", "share", "what must be true"), told)
    if by in ("caller", "scenario"):
        wrong, skipped = tally.wrong_by_scenario, tally.skipped
        if by == "caller":
            wrong, skipped = _by_caller(wrong), {_caller(k): why for k, why in skipped.items()}
        columns = ("calls", "share", "disagreements", "not possible here")
        known = [(*row, wrong[row[0]], skipped.get(row[0], "")) for row in rows]
        never = [(name, 0, "", 0, skipped[name]) for name in skipped if name not in counts[by]]
        return _frame(by, columns, [*known, *never])
    return _frame(by, ("calls", "share"), rows)


def _in_order(tally: Tally) -> Counter[str]:
    order = [*RULE, "accepted"]
    return Counter(dict(sorted(tally.by_rule.items(), key=lambda item: order.index(item[0]))))


def _by_caller(by_scenario: Counter[str]) -> Counter[str]:
    callers: Counter[str] = Counter()
    for name, number in by_scenario.items():
        callers[_caller(name)] += number
    return callers


def _caller(scenario: str) -> str:
    """Return who calls: a scenario's name goes on with the program and its executable."""
    return scenario.rsplit(", ", 2)[0]


def counterexamples_table(tally: Tally) -> DataFrame:
    """Return the calls that refute a model, the shortest first; no row if none was found.

    The whole of one, with the set-up that it takes, is the `recipe` of `tally.examples`.
    """
    rows = [
        (", ".join(f"{name} = {value}" for name, value in found.experiment.change.items()),
         found.predicted, found.kernel, found.scenario, found.limit)
        for found in sorted(tally.examples, key=lambda found: len(found.recipe))
    ]  # fmt: skip
    columns = ("the model says", "the kernel says", "found in", "RLIMIT_DATA")
    return _frame("change", columns, rows)


def examination_table(result: Examination) -> DataFrame:
    """Return what came of the wrong models, one row for each family of rules and one for effects.

    They are `caught` by a real call, `proved` to be no different for any call, or `escaped` the
    calls that were made; `after calls` is how many it took to catch the last that was caught.

    The command line's equivalent is `prctlmm-lab fuzz --wrong-models`.
    """
    fates = {"caught": result.caught, "proved": result.proved, "escaped": result.escaped}
    order = dict.fromkeys([*(rule.partition(".")[0] for rule in RULE), EFFECTS])
    counts = {family: Counter[str]() for family in order}
    for fate, models in fates.items():
        for name in models:
            counts[_family(name)][fate] += 1
    last: Counter[str] = Counter()
    for name, calls in result.caught_after.items():
        last[_family(name)] = max(last[_family(name)], calls)
    rows = [
        (family, count.total(), *(count[fate] for fate in fates), last[family])
        for family, count in counts.items()
        if count
    ]
    return _frame("altered", ("wrong models", *fates, "after calls"), rows)


EFFECTS = "effects"


def _family(name: str) -> str:
    rule = name.partition(":")[0]
    return rule.partition(".")[0] if rule in RULE else EFFECTS


def whole(table: DataFrame) -> Styler:
    """Show a table in a notebook with all its text, aligned left, and numbers by thousands.

    pandas itself aligns right, cuts a cell after 50 characters, and takes text for HTML.
    """
    left = [{"selector": "th, td", "props": "text-align: left; vertical-align: top"}]
    shown = table.style.format(thousands=",", escape="html").format_index(escape="html")
    return shown.set_table_styles(left)  # type: ignore[arg-type]


def _frame(index: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> DataFrame:
    from pandas import DataFrame

    return DataFrame(rows, columns=[index, *columns]).set_index(index)


def _value(snapshot: Snapshot, member: str) -> str:
    if member in snapshot.members:
        return hex(snapshot.members[member])
    if member in ("auxv", "auxv_size", "exe_fd"):
        return ONLY_GIVEN
    if member == "brk":
        return NOT_IN_PROC
    return str(snapshot.stat)


def _target(snapshot: Snapshot, address: int | None) -> str:
    """Name the VMA that holds an address; an exclusive end is told as the end of its VMA."""
    if address is None:
        return ""
    if isinstance(snapshot.maps, Unreadable):
        return f"maps {snapshot.maps}"
    vma = snapshot.vma_at(address)
    if vma is not None:
        return printable(str(vma))
    ended = next((vma for vma in snapshot.vmas if vma.end == address), None)
    return f"{NOTHING_MAPPED}; the end of {printable(str(ended))}" if ended else NOTHING_MAPPED


def _vma_row(snapshot: Snapshot, vma: Vma) -> tuple[str, ...]:
    deleted = " (deleted)" if vma.deleted else ""
    name = printable(vma.label or vma.path + deleted)
    members = ", ".join(n for n, address in snapshot.members.items() if address in vma)
    major, minor = vma.device
    return (
        hex(vma.start), hex(vma.end), size_text(vma.size), vma.permissions, hex(vma.offset),
        f"{major:02x}:{minor:02x}", str(vma.inode), name, members,
    )  # fmt: skip


def _rule_row(position: int, finding: Finding, errno: int) -> tuple[Any, ...]:
    rule = finding.rule
    state = "REFUSES" if finding.decides else ("broken" if finding.broken else "holds")
    return (
        position, rule.id, rule.title, finding.numbers, state,
        errno_name(errno if finding.decides else rule.errno),
        "" if rule.requirement is None else str(rule.requirement), rule.source,
    )  # fmt: skip
