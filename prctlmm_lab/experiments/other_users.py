"""What others do with the call: rename a process from one end, and copy a map between processes.

systemd renames with the operations for single members, START before END or END before START (its
src/basic/argv-util.c, update_argv). rr has a new process take over the map of another one (its
src/Task.cc, dup_from and apply_mm_map). Here both are done by the call for a whole map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prctlmm_lab.kernel.abi import MAP_SIZE
from prctlmm_lab.kernel.procfs import Unreadable
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.specimen.process import PAGE, Specimen

Place = Literal["below", "above"]
"""Where the new arguments lie, seen from the old ones."""

OLD, NEW = b"old\0", b"a new name\0"

ORDERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "start first": (("arg_start",), ("arg_end",)),
    "end first": (("arg_end",), ("arg_start",)),
    "both at once": (("arg_start", "arg_end"),),
}
"""The ways to rename: calls, and the members that each of them changes."""


@dataclass(frozen=True)
class Told:
    """One call of a renaming, and what cmdline showed after it."""

    members: tuple[str, ...]
    verdict: str
    """"accepted", or the name of the errno."""
    cmdline: bytes


def rename(place: Place, order: str) -> tuple[Told, ...]:
    """Rename a fresh specimen in one of the `ORDERS`; a refused call is the last one.

    A call that changes one member is judged as the operation for that member is since v4.2
    (kernel/sys.c, prctl_set_mm): the whole map must be right, with the one value replaced.

    >>> [told.verdict for told in rename("below", "start first")]
    ['accepted', 'accepted']
    >>> [told.verdict for told in rename("below", "end first")]
    ['EINVAL']

    Raises KeyError for another order, SpecimenError.
    """
    with Specimen() as specimen:
        first = specimen.map(3 * PAGE)
        old = first + PAGE
        new = first if place == "below" else first + 2 * PAGE
        specimen.write(old, OLD)
        specimen.write(new, NEW)
        _change(specimen, arg_start=old, arg_end=old + len(OLD))
        wanted = {"arg_start": new, "arg_end": new + len(NEW)}
        told: list[Told] = []
        for members in ORDERS[order]:
            errno = _change(specimen, **{member: wanted[member] for member in members})
            cmdline = specimen.snapshot().cmdline
            shown = b"" if isinstance(cmdline, Unreadable) else cmdline
            told.append(Told(members, errno_name(errno) if errno else "accepted", shown))
            if errno:
                break
        return tuple(told)


def _change(specimen: Specimen, **members: int) -> int:
    return specimen.set_map(specimen.current_map().changed(**members))


def copy_map(source: Specimen, target: Specimen) -> int:
    """Have one specimen take over the map of another; return the errno, 0 for accepted.

    The eleven addresses come from the source; vector and exe link stay the target's. The struct is
    laid into the target's own memory, and the target makes the call: nobody can make it for it.
    Memory is not copied.

    >>> with Specimen() as source, Specimen("static-pie") as target:
    ...     answer = copy_map(source, target)
    ...     same = target.current_map() == source.current_map()
    >>> answer, same
    (0, True)

    Raises SpecimenError.
    """
    note = target.map(PAGE)
    target.write(note, source.current_map().pack())
    answer = target.set_map(target.current_map(), size=MAP_SIZE, pointer=note)
    target.unmap(note, PAGE)
    return answer
