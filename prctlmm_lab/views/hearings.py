"""What witnesses say, and what a defender finds, as tables.

Needs pandas, which is imported on use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prctlmm_lab.witnesses.hearing import READINGS, Hearing
from prctlmm_lab.witnesses.suspicion import CHECKS, Suspicion
from prctlmm_lab.words import printable

if TYPE_CHECKING:
    from pandas import DataFrame


def hearing_table(before: Hearing, after: Hearing, *, changed: bool = False) -> DataFrame:
    """Return two hearings side by side, line by line; with `changed` only what differs.

    Witnesses that were asked only once are left out. The text twin is `print(before)` and
    `print(after)`.
    """
    from pandas import DataFrame

    asked = {account.witness for account in before.accounts}
    rows = []
    for now in (account for account in after.accounts if account.witness in asked):
        then = before[now.witness]
        if then.refusal or now.refusal:
            rows.append((then.witness, "(cannot be asked)", "", then.refusal or now.refusal, ""))
        for name in dict.fromkeys((*then.lines, *now.lines)):
            old, new = then.lines.get(name, ""), now.lines.get(name, "")
            if old != new or not changed:
                rows.append((then.witness, name, old, new, "" if old == new else "changed"))
    return DataFrame(rows, columns=["witness", "of", "before", "after", ""]).set_index("witness")


def readings_table() -> DataFrame:
    """Return who tells what of a process, where it has that from, and which members decide it.

    "no map" is what the call cannot change; comm has a call of its own, prctl(PR_SET_NAME).
    """
    from pandas import DataFrame

    rows = [
        (each.who, each.tells, each.place, ", ".join(each.decided_by) or "no map", each.source)
        for each in READINGS
    ]
    columns = ["who", "tells", "reads", "decided by", "made in the kernel by"]
    return DataFrame(rows, columns=columns).set_index("who")


def suspicions_table(found: Iterable[Suspicion]) -> DataFrame:
    """Return findings as a table: check, subject, both values, strength, who else does it.

    The text twin is to print each of them.
    """
    from pandas import DataFrame

    rows = [
        (each.check.id, each.subject, printable(each.noted), printable(each.against),
         each.check.strength, each.check.honest)
        for each in found
    ]  # fmt: skip
    columns = ["check", "subject", "noted", "but", "strength", "honest programs that do it too"]
    return DataFrame(rows, columns=columns).set_index("check")


def checks_table() -> DataFrame:
    """Return the checks: what each compares, how strong it is, and whom it finds without cause."""
    from pandas import DataFrame

    rows = [(check.id, check.compares, check.strength, check.honest) for check in CHECKS]
    columns = ["check", "compares", "strength", "honest programs that do it too"]
    return DataFrame(rows, columns=columns).set_index("check")
