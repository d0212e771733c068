"""Calls that must be accepted: before that, a claim about what they do cannot be settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps

from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.experiments.claims.claim import Reader, Shown
from prctlmm_lab.experiments.record import Record, View
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.specimen.process import Specimen


def change(specimen: Specimen, **members: int) -> None:
    """Make the call with some members changed.

    Raises UnsupportedSystem if it is refused, SpecimenError.
    """
    refused = specimen.set_map(specimen.current_map().changed(**members))
    if refused:
        raise UnsupportedSystem(f"The call is refused here: {errno_name(refused)}")


def of_accepted(read: Callable[[Sequence[Record]], Shown]) -> Reader:
    """Have a reader see records only if each call was accepted; else nothing can be shown."""

    @wraps(read)
    def of_all(records: Sequence[Record]) -> Shown:
        for record in records:
            if record.outcome.verdict != "accepted" or record.after is None:
                verdict = record.outcome.verdict or record.outcome.ended
                return Shown(None, f"{record.experiment['id']}: the call was refused ({verdict})")
        return read(records)

    return of_all


def after(record: Record) -> View:
    """Return what was seen after an accepted call; a reader of `of_accepted` has it always."""
    view = record.view_after
    if view is None:
        raise ValueError("a record without a view after the call")
    return view


def number(text: str | None) -> int:
    """Return the number of a hex string in a record; raise ValueError if there is none.

    >>> number("0x10")
    16
    """
    if not text:
        raise ValueError("a record without a number")
    return int(text, 16)
