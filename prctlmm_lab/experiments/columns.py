"""Many maps at once: numpy tables of maps, and what decides over each, asked of a specimen.

A table is a numpy structured array of `MAP_TYPE`, laid out as the kernel reads it: row by row the
104 bytes of `struct prctl_mm_map`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import MAP_SIZE, MEMBERS, NO_EXE, PrctlMmMap
from prctlmm_lab.kernel.rules import ExeFile, Situation, predict
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.recorded import RecordedSpecimen
from prctlmm_lab.specimen.situation import capabilities, exe_file, exe_is_mapped, is_readable

Table = NDArray[np.void]
Errnos = NDArray[np.uint8]

MAP_TYPE = np.dtype([(m.name, "<u8" if m.size == 8 else "<u4") for m in MEMBERS])
"""One map: the 14 members in the order of the struct, without gaps."""

MOST_QUESTIONS = 4096
"""As many different vectors or descriptors a table may name: each is asked of the kernel."""


def table_of(base: PrctlMmMap, count: int) -> Table:
    """Return `count` rows that all hold the same map.

    >>> table = table_of(PrctlMmMap(brk=0x5000), 3)
    >>> table["brk"].tolist(), table.itemsize
    ([20480, 20480, 20480], 104)
    """
    return np.full(count, np.frombuffer(base.pack(), MAP_TYPE)[0])


def map_at(table: Table, row: int) -> PrctlMmMap:
    """Return one row as a map."""
    return PrctlMmMap.unpack(table[row].tobytes())


def columns_of(table: Table) -> SimpleNamespace:
    """Return a table's members as contiguous columns, which is how rules are quick over them."""
    return SimpleNamespace(
        **{member.name: np.ascontiguousarray(table[member.name]) for member in MEMBERS}
    )


def situation_of_all(specimen: Specimen, table: Table) -> Situation:
    """Gather what decides over each map of a table, just before the calls are made.

    What `situation_of` asks for one map is asked here once for every different auxiliary vector
    and descriptor.

    Raises InputError if they are too many to ask, SpecimenError if the specimen ends meanwhile.
    """
    with specimen.undivided:
        columns = columns_of(table)
        return Situation(
            map=columns,
            auxv_readable=_auxv_readable(specimen, columns),
            rlimit_data=specimen.limit("DATA")[0],
            **_exe_columns(specimen, columns),
        )


def _auxv_readable(specimen: Specimen, columns: Any) -> Any:
    rows = np.flatnonzero(columns.auxv_size)
    if not rows.size:
        return True
    pairs = np.stack([columns.auxv[rows], columns.auxv_size[rows].astype(np.uint64)], axis=1)
    kinds, which = np.unique(pairs, axis=0, return_inverse=True)
    _check_count("auxv and auxv_size", len(kinds))
    answers: list[bool] = []
    for address, of_address in groupby(kinds.tolist(), key=itemgetter(0)):
        sizes = [size for _, size in of_address]
        count = _how_many(sizes, partial(is_readable, specimen, address))
        answers += [True] * count + [False] * (len(sizes) - count)
    readable = np.ones(columns.auxv.size, bool)
    readable[rows] = np.array(answers)[which]
    return readable


def _how_many(sizes: Sequence[int], holds: Callable[[int], bool]) -> int:
    """Return for how many of ascending sizes something holds, asking for few of them.

    What does not hold for a size does not hold for a larger one.

    >>> _how_many([1, 2, 4, 8, 16], lambda size: size < 5)
    3
    """
    low, high, asked = 0, len(sizes), 0
    while low < high:
        if holds(sizes[asked]):
            low = asked + 1
        else:
            high = asked
        asked = (low + high) // 2
    return low


def _exe_columns(specimen: Specimen, columns: Any) -> dict[str, Any]:
    descriptors, which = np.unique(columns.exe_fd, return_inverse=True)
    _check_count("exe_fd", descriptors.size)
    if descriptors.tolist() == [NO_EXE]:
        return {}
    snapshot = specimen.snapshot()
    closed = ExeFile()
    files = [exe_file(specimen, int(d)) if d != NO_EXE else closed for d in descriptors]
    exe = {name: np.array([getattr(file, name) for file in files])[which] for name in vars(closed)}
    return {
        "capabilities": capabilities(snapshot),
        "namespace_root": specimen.syscall("getuid") == specimen.syscall("getgid") == 0,
        "exe": ExeFile(**exe),
        "exe_mapped": exe_is_mapped(snapshot),
        "exe_changed": specimen.exe_changed,
    }


def _check_count(what: str, count: int) -> None:
    if count > MOST_QUESTIONS:
        raise InputError(what, "different values are too many to ask the kernel about each",
                         hex(count), f"at most {MOST_QUESTIONS:#x}")  # fmt: skip


def ask_kernel(specimen: Specimen, table: Table) -> Errnos:
    """Make the real call for every row, in order, and return the errno of each; 0 is accepted.

    What is accepted takes effect; the last accepted row stays.

    Raises SpecimenError if the specimen ends meanwhile.
    """
    if not table.size:
        return np.zeros(0, np.uint8)
    assert table.itemsize == MAP_SIZE
    maps = table.tobytes()
    if isinstance(specimen, RecordedSpecimen) and not specimen.was_recorded("set_maps", maps=maps):
        return _predicted(specimen, table)
    return np.frombuffer(specimen.set_maps(maps), np.uint8)


def _predicted(specimen: RecordedSpecimen, table: Table) -> Errnos:
    """Let the rules stand in for the kernel where nothing was recorded."""
    errnos = predict(situation_of_all(specimen, table), specimen.facts, table.size)
    accepted = np.flatnonzero(errnos == 0)
    specimen.take(map_at(table, accepted[-1]) if accepted.size else None)
    return np.asarray(errnos, np.uint8)
