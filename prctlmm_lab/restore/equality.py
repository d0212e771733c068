"""What is the same before and after, what cannot be, and why.

Everything that an image holds is compared, and every field that /proc shows. A difference is either
named here with the reason why it cannot be otherwise, or it is a failure of the restorer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from prctlmm_lab.kernel.abi import ADDRESSES
from prctlmm_lab.kernel.auxv import decode_auxv
from prctlmm_lab.kernel.difference import COUNTERS, difference, shown
from prctlmm_lab.kernel.facts import CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN
from prctlmm_lab.kernel.procfs import KERNEL_PAGES, Unreadable
from prctlmm_lab.restore.image import Area, Image
from prctlmm_lab.words import printable, size_text

NEW_NUMBER = "a new process has a new number"
CANNOT_BE_EQUAL: dict[str, dict[str, str]] = {
    "stat": {
        **dict.fromkeys(("pid", "pgrp", "session"), NEW_NUMBER),
        "ppid": "another process started it",
        "starttime": "it was started later",
        "flags": "the kernel's own marks of what a task has done",
        **dict.fromkeys(COUNTERS["stat"], "counts what the process and the machine did"),
    },
    "status": {
        **dict.fromkeys("Tgid Pid NStgid NSpid NSpgid NSsid".split(), NEW_NUMBER),
        "PPid": "another process started it",
        "FDSize": "room for descriptors: at first that of the process that started it",
        **dict.fromkeys(COUNTERS["status"], "counts what the process and the machine did"),
    },
    "statm": dict.fromkeys(COUNTERS["statm"], "counts pages that happen to be in memory"),
}
"""By file and field of /proc: what no restorer can make equal, and why."""

EXE_CAPABILITIES = 1 << CAP_SYS_ADMIN | 1 << CAP_CHECKPOINT_RESTORE

IDENTITY = frozenset("Uid Gid Groups CapInh CapPrm CapEff CapBnd CapAmb".split())
"""Fields of status that tell who a process is."""


@dataclass(frozen=True)
class Row:
    """One thing that is compared."""

    what: str
    before: str
    after: str
    equal: bool
    explanation: str = ""
    """Why it cannot be equal; "" for what is equal, and for what should have been."""

    @property
    def fine(self) -> bool:
        """True unless it should have been equal and is not."""
        return self.equal or bool(self.explanation)


def is_restored(rows: Iterable[Row]) -> bool:
    """Tell whether everything is equal but what cannot be."""
    return all(row.fine for row in rows)


def equal(before: Image, after: Image) -> tuple[Row, ...]:
    """Compare the image of a process with that of its restored one, thing by thing.

    >>> from prctlmm_lab.restore.checkpoint import checkpoint
    >>> from prctlmm_lab.restore.restorer import restore
    >>> from prctlmm_lab.specimen.process import Specimen
    >>> with Specimen() as specimen:
    ...     image = checkpoint(specimen)
    >>> with restore(image) as restored:
    ...     is_restored(equal(image, checkpoint(restored)))
    True
    """
    return (*_notes(before, after), *_memory(before, after), *_identity(before, after),
            *_fields(before, after))  # fmt: skip


def _row(what: str, before: object, after: object, explanation: str = "") -> Row:
    same = before == after
    return Row(what, _text(before), _text(after), same, "" if same else explanation)


def _text(value: object) -> str:
    return printable(shown(value))


# ---- the kernel's notes -----------------------------------------------------------------------


def _notes(before: Image, after: Image) -> Iterator[Row]:
    for name in ADDRESSES:
        yield _row(name, getattr(before.map, name), getattr(after.map, name))
    yield from _vector(before, after)
    yield _row("exe", before.snapshot.exe, after.snapshot.exe, _why_another_exe(before, after))
    for name in ("cmdline", "environ"):
        yield _row(name, getattr(before.snapshot, name), getattr(after.snapshot, name))


def _vector(before: Image, after: Image) -> Iterator[Row]:
    old, new = decode_auxv(before.auxv), decode_auxv(after.auxv)
    if len(old) != len(new):
        yield Row("auxv", f"{len(old)} entries", f"{len(new)} entries", False)
        return
    changed = [pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]]
    if not changed:
        yield _row("auxv", f"{len(old)} entries", f"{len(new)} entries")
    for one, other in changed:
        moved = one.name == other.name == "AT_SYSINFO_EHDR" and _vdso(before) != _vdso(after)
        explanation = "names the vDSO where it is now" if moved else ""
        yield _row(f"auxv {one.name}", one.value, other.value, explanation)


def _why_another_exe(before: Image, after: Image) -> str:
    if after.exe.kind != "program":
        return ""
    if before.exe.kind == "program":
        return "the same program, started from another file"
    may_change = after.credentials.capabilities & EXE_CAPABILITIES
    return "" if may_change else "only CAP_CHECKPOINT_RESTORE may change the exe link"


# ---- memory -----------------------------------------------------------------------------------


def _memory(before: Image, after: Image) -> Iterator[Row]:
    yield from _areas(before, after)
    yield _row("memory", _contents(before), _contents(after))
    yield _row("vDSO", _vdso(before), _vdso(after), _why_another_vdso(before, after))
    yield _row("program", _program(before), _program(after))
    yield _row("system call", before.registers.number, after.registers.number)
    yield _row("loop waits at", before.registers.pc, after.registers.pc)
    yield _row("stack pointer", before.registers.sp, after.registers.sp)
    old, new = (" ".join(map(hex, each.registers.arguments)) for each in (before, after))
    yield _row("other registers", old, new)


def _areas(before: Image, after: Image) -> Iterator[Row]:
    old, new = ([_outline(area) for area in image.areas] for image in (before, after))
    counts = f"{len(old)} areas", f"{len(new)} areas"
    if old == new:
        yield Row("VMAs", *counts, True)
    elif _joined(old) == _joined(new):
        yield Row("VMAs", *counts, False, "the kernel joins neighbours that are alike")
    else:
        for area in sorted({*old, *new} - ({*old} & {*new}), key=lambda area: area.start):
            text = f"{area.permissions} {' '.join(sorted(area.flags))}".strip()
            yield Row(f"VMA {area.start:#x}-{area.end:#x}", text if area in old else "(none)",
                      text if area in new else "(none)", False)  # fmt: skip


def _outline(area: Area) -> Area:
    return replace(area, runs=())


def _joined(areas: Sequence[Area]) -> list[Area]:
    joined: list[Area] = []
    for area in areas:
        if joined and joined[-1].joins(area):
            last = joined[-1]
            joined[-1] = replace(last, end=area.end, guards=last.guards + area.guards)
        else:
            joined.append(area)
    return joined


def _contents(image: Image) -> str:
    """Return a digest of every byte that is not as in a new mapping, and of where it lies."""
    digest = hashlib.sha256()
    for area in image.areas:
        for run in area.runs:
            digest.update(run.start.to_bytes(8, "little"))
            digest.update(run.data)
    return f"{size_text(image.size)} touched, sha256 {digest.hexdigest()[:16]}..."


def _program(image: Image) -> str:
    return f"{image.build} for {image.machine}, pages of {image.page:#x}, at {image.entry:#x}"


def _vdso(image: Image) -> str:
    if not image.kernel_pages:
        return "(none)"
    first, last = image.kernel_pages[0].start, image.kernel_pages[-1].end
    return f"{first:#x}-{last:#x}"


def _why_another_vdso(before: Image, after: Image) -> str:
    sizes = [[(p.label, p.end - p.start) for p in image.kernel_pages] for image in (before, after)]
    if sizes[0] != sizes[1]:
        return "this kernel has another vDSO than that of the checkpoint"
    smaps = after.snapshot.smaps
    if isinstance(smaps, tuple) and any(
        vma.label == "[vdso]" and "sl" in fields.get("VmFlags", "").split() for vma, fields in smaps
    ):
        return "this kernel has sealed its vDSO: it cannot be moved"
    return ""


# ---- who it is, and what it may ---------------------------------------------------------------


def _identity(before: Image, after: Image) -> Iterator[Row]:
    yield _row("name", before.comm, after.comm)
    for name, limit in before.limits.items():
        other = after.limits.get(name)
        lower = other is not None and (other.hard or 1 << 64) < (limit.hard or 1 << 64)
        why = "only CAP_SYS_RESOURCE may raise a hard limit" if lower else ""
        if limit != other:
            yield _row(name, str(limit), str(other), why)
    same = sum(after.limits.get(name) == limit for name, limit in before.limits.items())
    yield _row("limits", *[f"{same} are equal"] * 2)
    yield _row("umask", before.umask, after.umask)
    yield _row("personality", before.personality, after.personality)
    old, new = before.credentials, after.credentials
    yield _row("credentials", _who(before), _who(after), _why_another_user(before, after))
    yield _row("dumpable", old.dumpable, new.dumpable)
    yield _row("own user namespace", str(old.own_user_namespace), str(new.own_user_namespace))
    yield _row("root in it", str(old.ids_mapped), str(new.ids_mapped))
    yield _row("no new privileges", str(old.no_new_privileges), str(new.no_new_privileges))
    for text in before.left_out:
        yield Row(
            "left out", printable(text), "(none)", False, "an image holds memory, not what is open"
        )


def _who(image: Image) -> str:
    own = image.credentials
    groups = ",".join(map(str, own.groups))
    return (f"uid {own.uid} gid {own.gid} groups {groups or '(none)'} "
            f"capabilities {own.capabilities:#x}")  # fmt: skip


def _why_another_user(before: Image, after: Image) -> str:
    ids = [(own.uid, own.gid, own.groups) for own in (before.credentials, after.credentials)]
    return "only root may become another user" if ids[0] != ids[1] and ids[1][0] else ""


# ---- the fields of /proc ----------------------------------------------------------------------


def _fields(before: Image, after: Image) -> Iterator[Row]:
    """Compare what else stat, statm and status show, field by field."""
    changes = difference(before.snapshot, after.snapshot, counters=True)
    told = {*ADDRESSES, "comm", "Name", "Umask", "NoNewPrivs"}
    for place in ("stat", "statm", "status"):
        own = [change for change in changes if change.place == place and change.name not in told]
        for (old, new), alike in groupby(own, lambda change: (change.before, change.after)):
            names = [change.name for change in alike]
            why = _why_another_field(place, names, before, after)
            if before.kernel != after.kernel and None in (old, new):
                why = "only one of the two kernels shows it"
            yield _row(f"{place} {' '.join(names)}", old, new, why)
        part = getattr(before.snapshot, place)
        count = 0 if isinstance(part, Unreadable) else len(getattr(part, "numbers", part))
        yield _row(f"{place}, other fields", *[f"{count - len(own)} are equal"] * 2)
    lines = [change for change in changes if change.place == "maps"]
    if lines:
        text = f"{len(lines)} lines"
        yield Row("maps", text, f"{text} differ", False, _why_other_maps(before, after))


def _why_other_maps(before: Image, after: Image) -> str:
    """Say why maps reads otherwise where nothing but files made again and the vDSO are others."""
    old, new = (
        [replace(vma, device=(0, 0), inode=0) for vma in image.snapshot.vmas
         if vma.label not in KERNEL_PAGES]
        for image in (before, after)
    )  # fmt: skip
    if old != new:
        return next((row.explanation for row in _areas(before, after)), "")
    moved = _why_another_vdso(before, after) if _vdso(before) != _vdso(after) else ""
    return moved or "a file that is made again is another file: its inode"


def _why_another_field(place: str, names: list[str], before: Image, after: Image) -> str:
    if place == "status" and IDENTITY.issuperset(names):
        return _why_another_user(before, after)
    reasons = dict.fromkeys(CANNOT_BE_EQUAL[place].get(name, "") for name in names)
    return "" if "" in reasons else ", ".join(reasons)


def rows_text(rows: Iterable[Row]) -> str:
    """Return the table as text.

    >>> print(rows_text([Row("brk", "0x5000", "0x5000", True), Row("pid", "1", "2", False, "new")]))
    =  brk  0x5000
    !  pid  1 -> 2  (new)
    """
    rows = tuple(rows)
    width = max((len(row.what) for row in rows), default=0)
    return "\n".join(_line(row, width) for row in rows)


def _line(row: Row, width: int) -> str:
    if row.equal:
        return f"=  {row.what:{width}}  {row.before}"
    mark, reason = ("!", f"  ({row.explanation})") if row.explanation else ("#", "  NOT EQUAL")
    return f"{mark}  {row.what:{width}}  {row.before} -> {row.after}{reason}"
