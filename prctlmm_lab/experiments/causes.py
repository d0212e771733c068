"""Why two kernels, or two callers, answer differently: the causes that are known.

A cause is looked for among what is different about the two: the facts of their kernels, with the
commits that changed them (`kernel/releases.py`), what the callers were allowed, and how the records
came about. What none of them explains stays unexplained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.comparison import Difference, Findings, findings
from prctlmm_lab.experiments.record import LIVE, Privilege, Record
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.releases import CHANGES, DEVIATIONS, Change, read_release


@dataclass(frozen=True)
class Side:
    """One of two records, as far as it decides over a difference and its cause."""

    findings: Findings
    facts: Facts
    privilege: Privilege
    origin: str
    lab: str

    @classmethod
    def of(cls, record: Record) -> Side:
        """Return the side that a record is."""
        return cls(findings(record), record.facts, record.privilege, record.origin, record.lab)


@dataclass(frozen=True)
class Cause:
    """Why two records differ: a sentence, and where it is from."""

    what: str
    source: str = ""
    """Commits with their first releases, "" where no commit is the reason."""

    def __str__(self) -> str:
        return f"{self.what} ({self.source})" if self.source else self.what


def cause_of(first: Side, second: Side, different: Sequence[Difference]) -> Cause | None:
    """Return the known cause of what two records tell differently, None for an unexplained one."""
    for look in _LOOKS:
        if cause := next(look(first, second, _Subjects(first, second, different)), None):
            return cause
    return None


class _Subjects:
    """What a set of differences is about: ids of rules, and of effects."""

    def __init__(self, first: Side, second: Side, different: Sequence[Difference]) -> None:
        kinds = {each.kind for each in different}
        self.is_verdict = bool(kinds & {"verdict", "rule"})
        rules = {first.findings.rule, second.findings.rule} - {""}
        self.ids = rules if self.is_verdict else {_effect(each) for each in different}

    def about(self, *starts: str) -> bool:
        """Tell whether any subject begins with one of these."""
        return any(name.startswith(starts) for name in self.ids)


def _effect(difference: Difference) -> str:
    """Return the id of the effect that a row is about, as `kernel/effects.py` has it."""
    what = difference.what.removeprefix("then ")
    if difference.kind == "answer" or difference.what.startswith("then "):
        return "brk.shrink"
    if what.startswith("maps"):
        return "maps.heap" if "[heap]" in difference.first + difference.second else "maps.stack"
    if what.startswith(("status", "statm")):
        return "status.code"
    return what.partition(" ")[0]


# ---- what can be the reason, the more telling first ----------------------------------------------

Look = Callable[[Side, Side, _Subjects], Iterator[Cause]]


def _interruption(first: Side, second: Side, _: _Subjects) -> Iterator[Cause]:
    if "interrupted" in (first.findings.end, second.findings.end):
        yield Cause("one of the runs was interrupted before the kernel's answer was known")


def _no_call(first: Side, second: Side, _: _Subjects) -> Iterator[Cause]:
    for side in (first, second):
        if side.origin != LIVE:
            yield Cause(f"one of them is no call of its time: {side.origin}")


def _missing_option(first: Side, second: Side, subjects: _Subjects) -> Iterator[Cause]:
    if first.facts.available != second.facts.available:
        lacking = second if first.facts.available else first
        yield Cause(
            f"Linux {lacking.facts.release} is built without CONFIG_CHECKPOINT_RESTORE",
            "f606b77f1a9e, v3.18",
        )


def _bounds(first: Side, second: Side, subjects: _Subjects) -> Iterator[Cause]:
    ours, theirs = first.facts, second.facts
    if not subjects.about("range.", "call.struct", "auxv.readable", "legacy.address"):
        return
    if ours.highest != theirs.highest:
        wide = max(ours.highest, theirs.highest)
        levels = "5-level paging" if wide >> 48 else "the size of user space"
        yield Cause(f"{levels}: addresses end at {ours.highest:#x} / {theirs.highest:#x}")
    if ours.lowest != theirs.lowest:
        yield Cause(
            f"vm.mmap_min_addr as it takes effect: addresses begin at {ours.lowest:#x} / "
            f"{theirs.lowest:#x}"
        )


def _overlayfs(first: Side, second: Side, subjects: _Subjects) -> Iterator[Cause]:
    if first.facts.mapped_exe_refused != second.facts.mapped_exe_refused and subjects.about("exe."):
        yield Cause(
            "overlayfs: where the executable lies on one, that it is still mapped is not noticed"
        )


def _kernel_variant(first: Side, second: Side, subjects: _Subjects) -> Iterator[Cause]:
    """Look for facts that differ and concern the rules or effects in question."""
    facts = dict.fromkeys(c.fact for c in CHANGES if c.fact and subjects.ids & {*c.subjects})
    for fact in facts:
        ours, theirs = getattr(first.facts, fact), getattr(second.facts, fact)
        if ours != theirs:
            changes = [c for c in CHANGES if c.fact == fact and _lies_between(c, ours, theirs)]
            # A fact that is true or false may have gone and come back; one that grew, grew last.
            chosen = changes[:1] if isinstance(ours, bool) else changes[-1:]
            what = chosen[0].what if chosen else f"the kernels differ in {fact}"
            yield Cause(f"{what.rstrip('.')} [{fact}: {_text(ours)} / {_text(theirs)}]",
                        "; ".join(map(_source, changes)))  # fmt: skip


def _lies_between(change: Change, ours: object, theirs: object) -> bool:
    """Tell whether a change leads from one value of its fact to, or towards, the other."""
    if {change.before, change.since} == {ours, theirs}:
        return True
    if isinstance(ours, bool) or not isinstance(ours, int) or not isinstance(theirs, int):
        return False
    return bool(min(ours, theirs) < change.since <= max(ours, theirs))


def _old_vector(first: Side, second: Side, subjects: _Subjects) -> Iterator[Cause]:
    """Look at what the operation for the vector alone leaves of the old one: no rule, no effect."""
    ours, theirs = first.facts.auxv_tail_kept, second.facts.auxv_tail_kept
    if ours != theirs and not subjects.is_verdict and subjects.ids == {"auxv"}:
        change = next(change for change in CHANGES if change.fact == "auxv_tail_kept")
        taken = ", ".join(f"v{series}.{number}" for series, number in change.stable.items())
        yield Cause(f"{change.what.rstrip('.')} [auxv_tail_kept: {_text(ours)} / {_text(theirs)}]",
                    f"{_source(change)}; taken over by {taken}")  # fmt: skip


def _one_series(first: Side, second: Side, subjects: _Subjects) -> Iterator[Cause]:
    """Look for what one series of stable kernels does, and no release."""
    for change in DEVIATIONS:
        ours, theirs = getattr(first.facts, change.fact), getattr(second.facts, change.fact)
        if ours != theirs and subjects.ids & {*change.subjects}:
            (series,) = change.stable
            what = change.what.rstrip(".").split(". ")[-1]
            yield Cause(f"{what} [{change.fact}: {_text(ours)} / {_text(theirs)}]",
                        f"{change.commits[0]}, as v{series} took it over")  # fmt: skip


def _capability(first: Side, second: Side, subjects: _Subjects) -> Iterator[Cause]:
    ours, theirs = first.privilege, second.privilege
    allowed = (ours.capabilities, ours.own_user_namespace) != (
        theirs.capabilities, theirs.own_user_namespace
    )  # fmt: skip
    if allowed and subjects.about("exe.", "legacy.", "auxv", "brk.shrink", "call.option"):
        yield Cause(
            f"capabilities: uid {ours.uid} with {ours.capabilities} / uid {theirs.uid} with "
            f"{theirs.capabilities}"
        )


def _release(first: Side, second: Side, subjects: _Subjects) -> Iterator[Cause]:
    """Look for a change that no fact holds, by the release numbers; distributions may deviate."""
    for change in CHANGES:
        if change.fact or not subjects.ids & {*change.subjects}:
            continue
        try:
            releases = [read_release(_plain(side.facts.release)) for side in (first, second)]
        except InputError:
            return
        if change.holds_on(releases[0]) != change.holds_on(releases[1]):
            yield Cause(f"by their release numbers: {change.what.rstrip('.')}", _source(change))


def _plain(release: str) -> str:
    """Return the numbers that a release begins with."""
    numbers = release.replace("-", ".").replace("+", ".").split(".")
    kept = [n for n in numbers[:3] if n.isdigit()]
    return ".".join(kept)


def _machine(first: Side, second: Side, _: _Subjects) -> Iterator[Cause]:
    if first.facts.machine != second.facts.machine:
        yield Cause(f"another machine: {first.facts.machine} / {second.facts.machine}")
    elif first.facts.page_size != second.facts.page_size:
        yield Cause(f"pages of {first.facts.page_size:#x} / {second.facts.page_size:#x} bytes")


def _another_lab(first: Side, second: Side, subjects: _Subjects) -> Iterator[Cause]:
    same = first.findings.verdict == second.findings.verdict
    if subjects.is_verdict and same and first.lab != second.lab:
        yield Cause(f"lab {first.lab} / {second.lab}: the kernel's answer is the same")


_LOOKS: tuple[Look, ...] = (
    _interruption, _missing_option, _bounds, _overlayfs, _kernel_variant, _old_vector, _one_series,
    _capability, _release, _machine, _no_call, _another_lab,
)  # fmt: skip


def _source(change: Change) -> str:
    return f"{', '.join(change.commits)}, {change.first}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return hex(value) if isinstance(value, int) else str(value)
