"""Effects: what /proc and brk() will show after the call.

Source: fs/proc/array.c do_task_stat() (stat), fs/proc/task_mmu.c task_statm() (statm),
mm/mmap.c brk(); unchanged in these points from v3.18 to v7.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import STAT_MEMBERS, Snapshot, Unreadable


@dataclass(frozen=True)
class Effect:
    """One number that will be shown: `name` at `place` below /proc/PID, or brk()."""

    place: str
    name: str
    value: int


def effects(new: PrctlMmMap, facts: Facts) -> tuple[Effect, ...]:
    """Return what an accepted map makes stat, statm and brk() show.

    >>> from prctlmm_lab.specimen.probe import facts_here
    >>> [e.value for e in effects(PrctlMmMap(brk=0x5000), facts_here()) if e.place == "brk()"]
    [20480]
    """
    members = dict(new)
    stat = [Effect("stat", name, members[name]) for name in STAT_MEMBERS]
    return (*stat, Effect("statm", "text", text_pages(new, facts)), Effect("brk()", "", new.brk))


def text_pages(new: PrctlMmMap, facts: Facts) -> int:
    """Return statm's fourth column: the pages that start_code to end_code touch, unclamped."""
    first = new.start_code // facts.page_size
    last = -(-new.end_code // facts.page_size)
    return last - first


def observed(snapshot: Snapshot, effect: Effect) -> int | None:
    """Return what a snapshot shows in an effect's place, None if it cannot be read."""
    if effect.place == "brk()":
        return snapshot.brk
    part = getattr(snapshot, effect.place)
    return None if isinstance(part, Unreadable) else part[effect.name]
