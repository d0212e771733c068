"""What the kernel counts of a process's memory, as a table: statm and status, state by state.

Two of the numbers come from the map; the others are counted from what is mapped. Side by side it
shows which are which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prctlmm_lab.kernel.procfs import Snapshot, Unreadable

if TYPE_CHECKING:
    from pandas import DataFrame

_STATM = ("size", "text", "data")
_STATUS = ("VmExe", "VmLib", "VmData", "VmStk")


def counts_table(states: Mapping[str, Snapshot]) -> DataFrame:
    """Return what statm (in pages) and status (in kB) count in each state.

    `statm text`, VmExe and VmLib follow from start_code and end_code; no other number follows from
    a member.

    >>> from prctlmm_lab import Specimen
    >>> with Specimen() as specimen:
    ...     table = counts_table({"own": specimen.snapshot()})
    >>> int(table.loc["own", "statm text"])
    1

    Equivalent: `cat /proc/PID/statm` and `grep Vm /proc/PID/status`. Source: fs/proc/task_mmu.c,
    task_statm and task_mem. Needs pandas.
    """
    from pandas import DataFrame

    rows = {name: _counts(snapshot) for name, snapshot in states.items()}
    return DataFrame.from_dict(rows, orient="index").rename_axis("state")


def _counts(snapshot: Snapshot) -> dict[str, int | str]:
    statm, status = snapshot.statm, snapshot.status
    counts: dict[str, int | str] = {}
    for name in _STATM:
        counts[f"statm {name}"] = str(statm) if isinstance(statm, Unreadable) else statm[name]
    for name in _STATUS:
        counts[name] = str(status) if isinstance(status, Unreadable) else status.get(name, "")
    return counts
