"""What each member is for, shown by leaving it out: restore without it, and see what breaks.

A member that is left out keeps what the process had in which the restorer runs: its own heap, its
own stack, its own arguments. So that each of them matters, the subject is a process none of whose
notes a fresh one has by itself. Code and data are noted far above those of a fresh process, heap,
arguments and environment below. Where one end of a pair is left out, the two ends then come from
different processes: in the wrong order, and the kernel refuses the whole call; or in the right one,
and it accepts what is wrong.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache

from prctlmm_lab.errors import SpecimenGone, SystemCallError, UnsupportedSystem, signal_name
from prctlmm_lab.kernel.abi import ADDRESSES, NO_EXE, PrctlMmMap
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.restore.checkpoint import checkpoint
from prctlmm_lab.restore.image import Image
from prctlmm_lab.restore.recorded import recorded_text
from prctlmm_lab.restore.restorer import MapRefused, restore
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.recording.marks import LIVE
from prctlmm_lab.specimen.situation import may_change_exe
from prctlmm_lab.witnesses.core_files import told_by_core

ACCEPTED = "accepted"
TITLE = b"editor\0notes.txt\0"
SETTINGS = b"EDITOR=/bin/ed\0LANG=C\0"
REMEMBERED = b"what the heap remembers"

LEFT_OUT: dict[str, tuple[str, ...]] = {
    **{member: (member,) for member in ADDRESSES},
    "auxv": ("auxv", "auxv_size"),
    "exe_fd": ("exe_fd",),
    "code, both ends": ("start_code", "end_code"),
    "data, both ends": ("start_data", "end_data"),
    "heap, both ends": ("start_brk", "brk"),
    "arguments, both ends": ("arg_start", "arg_end"),
    "environment, both ends": ("env_start", "env_end"),
}
"""What is left out, by name: each member alone, then both ends of a pair."""

BEHAVIOURS: dict[str, str] = {
    "heap": "the heap grows by a page, where the program remembers its end",
    "heap under a limit": "it grows under an RLIMIT_DATA of 1 GiB too",
    "core: arguments": "a core file tells the arguments",
    "core: vector": "a core file tells the program's own entry point, so that gdb finds its way",
}
"""What is tried after a restore, and what comes of it when all is well."""


@dataclass(frozen=True)
class Omission:
    """What came of one restore without some members."""

    name: str
    members: tuple[str, ...]
    verdict: str
    """The kernel's answer to the call: "accepted", or the name of the errno; "" if not tried."""
    rule: str
    """The id of the rule that refused, "" for none."""
    shown: Mapping[str, str]
    """What /proc shows otherwise than after a whole restore: where -> what."""
    broken: Mapping[str, str]
    """What goes otherwise: a key of `BEHAVIOURS` -> what came."""
    why_not: str = ""
    """Why it could not be tried here, in a sentence; "" if it could."""
    origin: str = LIVE

    @property
    def restored(self) -> bool:
        """True if there was a process after it."""
        return self.verdict == ACCEPTED

    @property
    def refused(self) -> bool:
        """True if the kernel refused the call."""
        return self.verdict not in ("", ACCEPTED)


def omissions(*names: str) -> tuple[Omission, ...]:
    """Restore one image again and again, each time without something; all of `LEFT_OUT` by default.

    Where a recording stands in for the kernel, what came of it when it was recorded.

    >>> found = {each.name: each for each in omissions("start_brk", "brk")}
    >>> found["start_brk"].verdict, found["start_brk"].rule
    ('EINVAL', 'order.brk')
    >>> "heap" in found["brk"].broken
    True

    Raises KeyError for a name that is none, UnsupportedSystem, SpecimenError.
    """
    wanted = names or tuple(LEFT_OUT)
    for name in wanted:
        _ = LEFT_OUT[name]
    return tuple(_all_at_once()[name] for name in wanted)


@cache
def _all_at_once() -> Mapping[str, Omission]:
    """Try all, once in a process: a recording has them as one text."""
    text, origin = recorded_text(
        "omissions", lambda: json.dumps([asdict(each) for each in _tried()])
    )
    own = {"origin": origin}
    return {
        each["name"]: Omission(**each | own | {"members": tuple(each["members"])})
        for each in json.loads(text)
    }


# ---- the subject --------------------------------------------------------------------------------


@contextlib.contextmanager
def subject() -> Iterator[Specimen]:
    """Start a process that is worth keeping: each member says something of its own.

    It is root of a user namespace where there may be one, so that the exe link can be restored.
    """
    with Specimen() as specimen:
        with contextlib.suppress(SystemCallError):
            specimen.enter_user_namespace()
        arena = specimen.map(4 * PAGE)
        specimen.protect(arena + PAGE, PAGE, "---")
        specimen.write(arena, TITLE + SETTINGS)
        data, stack = arena + 2 * PAGE, arena + 4 * PAGE - 8
        own = specimen.current_map()
        heap = (own.start_code // 2) & -PAGE
        new = own.changed(
            start_code=data, end_code=data + 0x800, start_data=data + 0x800, end_data=data + 0xC00,
            start_brk=heap, brk=heap, start_stack=stack,
            arg_start=arena, arg_end=arena + len(TITLE),
            env_start=arena + len(TITLE), env_end=arena + len(TITLE + SETTINGS),
        )  # fmt: skip
        accepted = _with_vector(specimen, new, data)
        specimen.brk(heap + PAGE)
        specimen.write(heap, REMEMBERED)
        if not accepted:
            raise UnsupportedSystem("This kernel refuses the map of the subject")
        yield specimen


def _with_vector(specimen: Specimen, new: PrctlMmMap, entry: int) -> bool:
    """Set its map with a vector that names another entry point, and its exe link if it may."""
    kept = [(e.type, e.value) for e in specimen.snapshot().aux_entries if e.name != "AT_ENTRY"]
    vector = encode_auxv([*((t, v) for t, v in kept if t), ("AT_ENTRY", entry)])
    page = specimen.map(PAGE)
    specimen.write(page, vector)
    new = new.changed(auxv=page, auxv_size=len(vector))
    if may_change_exe(specimen.snapshot()):
        specimen.release_executable()
        file = specimen.memory_file("editor", b"no program")
        new = new.changed(exe_fd=file)
    answer = specimen.set_map(new)
    specimen.unmap(page, PAGE)
    if new.exe_fd != NO_EXE:
        specimen.close(new.exe_fd)
    return answer == 0


# ---- trying -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Baseline:
    """The image of the subject, and what there is after a restore with nothing left out."""

    image: Image
    shown: Mapping[str, str]
    behaves: Mapping[str, str]


def _baseline() -> _Baseline:
    with subject() as old:
        image = checkpoint(old)
    with restore(image) as whole:
        shown = _shown(whole.snapshot(), image)
    return _Baseline(image, shown, _behaves(image, ()))


def _tried() -> Iterator[Omission]:
    baseline = _baseline()
    for name, members in LEFT_OUT.items():
        yield _tried_one(name, members, baseline)


def omitted(name: str, members: tuple[str, ...]) -> Omission:
    """Restore the subject without any members, and say under a name what came of it.

    >>> omitted("code", ("start_code", "end_code")).broken
    {}

    Raises InputError for a name that is no member, UnsupportedSystem, SpecimenError.
    """
    return _tried_one(name, members, _baseline())


def _tried_one(name: str, members: tuple[str, ...], baseline: _Baseline) -> Omission:
    image, shown, behaves = baseline.image, baseline.shown, baseline.behaves
    if members == ("exe_fd",) and not image.credentials.own_user_namespace:
        return Omission(name, members, "", "", {}, {}, "without a user namespace the exe link is "
                        "left out of every restore")  # fmt: skip
    try:
        specimen = restore(image, omit=members)
    except MapRefused as refused:
        deciding = refused.explanation.deciding
        rule = deciding.rule.id if deciding else ""
        return Omission(name, members, errno_name(refused.explanation.errno), rule, {}, {})
    with specimen:
        now = _shown(specimen.snapshot(), image)
    then = _behaves(image, members)
    return Omission(
        name, members, ACCEPTED, "",
        {place: told for place, told in now.items() if told != shown[place]},
        {what: told for what, told in then.items() if told != behaves[what]},
    )  # fmt: skip


# ---- what /proc shows ---------------------------------------------------------------------------


def _shown(snapshot: Snapshot, image: Image) -> dict[str, str]:
    """Return what /proc shows of the notes, in words without addresses: place -> words."""
    own = dict(image.map)
    told = {
        f"stat {name}": "as it was" if value == own[name] else "the restorer's"
        for name, value in snapshot.members.items()
        if name != "brk"
    }
    told["brk()"] = "as it was" if snapshot.brk == own["brk"] else "the restorer's"
    if isinstance(snapshot.statm, Mapping):
        told["statm text"] = _size(snapshot.statm["text"] * PAGE)
    if isinstance(snapshot.status, Mapping):
        told["status VmExe"] = snapshot.status["VmExe"].strip()
        told["status VmLib"] = snapshot.status["VmLib"].strip()
    for label in ("[heap]", "[stack]"):
        places = [place for place, area in enumerate(image.areas)
                  if (vma := snapshot.vma_at(area.start)) and vma.label == label]  # fmt: skip
        told[f"maps {label}"] = (
            ("none", "one area")[len(places)] if len(places) < 2 else "several areas"
        )
    told["cmdline"] = _text(snapshot.cmdline)
    told["environ"] = _text(snapshot.environ)
    told["auxv"] = "as it was" if snapshot.auxv == image.snapshot.auxv else "the restorer's"
    told["exe"] = str(snapshot.exe)
    return told


def _size(count: int) -> str:
    """Write a size in words; one beyond a GiB depends on where things lie, and is not told."""
    return f"{count // 1024} KiB" if count < 1 << 30 else "more than a GiB"


def _text(data: bytes | Unreadable) -> str:
    if isinstance(data, Unreadable):
        return "not readable"
    if len(data) <= 64:
        return data.replace(b"\0", b" ").decode("utf-8", "backslashreplace").rstrip() or "nothing"
    return f"{len(data)} bytes, from {data[:12].decode('utf-8', 'backslashreplace')!r} on"


# ---- how it behaves -----------------------------------------------------------------------------


def _behaves(image: Image, left_out: tuple[str, ...]) -> dict[str, str]:
    """Have restored processes do what `BEHAVIOURS` lists, each of them one thing."""
    told: dict[str, str] = {}
    for name, limit in (("heap", None), ("heap under a limit", 1 << 30)):
        with restore(image, omit=left_out) as specimen:
            told[name] = _grows(specimen, image.map.brk, limit)
    with restore(image, omit=left_out) as specimen:
        core = told_by_core(specimen)
    told["core: arguments"] = core.lines.get("psargs") or core.refusal or "none"
    entries = {entry.name: hex(entry.value) for entry in image.snapshot.aux_entries}
    entry = core.lines.get("NT_AUXV: AT_ENTRY")
    own = "the program's own" if entry == entries["AT_ENTRY"] else "the restorer's"
    told["core: vector"] = core.refusal if entry is None else own
    return told


def _grows(specimen: Specimen, end: int, limit: int | None) -> str:
    """Ask for a page more behind the end that the program knows of, and write there."""
    try:
        if limit is not None:
            specimen.set_limit("DATA", limit)
        answer = specimen.brk(end + PAGE)
        if answer != end + PAGE:
            return "brk() refuses"
        specimen.write(end, b"more")
        specimen.snapshot()
    except SystemCallError:
        return "brk() agrees, and there is no memory"
    except SpecimenGone as gone:
        return f"brk() unmaps the program itself: killed by {signal_name(gone.signal)}"
    return "grows"
