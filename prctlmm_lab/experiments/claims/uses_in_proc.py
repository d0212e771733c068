"""What the message says is printed in /proc: claims that the files of a process settle.

Source: fs/proc/array.c, do_task_stat(); fs/proc/task_mmu.c, task_statm(); fs/proc/base.c,
get_mm_cmdline(), environ_read(), auxv_read(), proc_exe_link().
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.experiments.claims.accepted import after, change, number, of_accepted
from prctlmm_lab.experiments.claims.claim import RUN, SOURCE, Claim, History, Reader, Shown
from prctlmm_lab.experiments.experiment import Experiment
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.steps import Map, Write
from prctlmm_lab.kernel.auxv import decode_auxv, encode_auxv
from prctlmm_lab.kernel.difference import shown
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Unreadable
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.situation import link_of, may_change_exe
from prctlmm_lab.witnesses.core_files import THE_KERNEL, told_by_core
from prctlmm_lab.witnesses.readers import Reading, kept_vector, read_by_two

GIB = 0x40000000

# ---- stat and statm ---------------------------------------------------------------------------


def in_stat(*members: str) -> Reader:
    """Return a reader of whether stat shows each of some members as the call set it."""

    @of_accepted
    def read(records: Sequence[Record]) -> Shown:
        (record,) = records
        before, now = record.before.stat, after(record).stat
        if not isinstance(before, Mapping) or not isinstance(now, Mapping):
            return Shown(None, f"stat: {now}")
        told = ", ".join(f"{name} {before[name]} -> {now[name]}" for name in members)
        right = all(now[name] == record.map[name] != before[name] for name in members)
        asked = ", ".join(f"{name} = {record.map[name]}" for name in members)
        return Shown(right, f"stat: {told}" + ("" if right else f", where the call set {asked}"))

    return read


def _columns(record: Record) -> tuple[Mapping[str, int], Mapping[str, int]] | None:
    """Return statm before and after; None if it cannot be read."""
    before, now = record.before.statm, after(record).statm
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return None
    return before, now


@of_accepted
def _code_in_statm(records: Sequence[Record]) -> Shown:
    (record,) = records
    columns = _columns(record)
    if columns is None:
        return Shown(None, "statm cannot be read")
    start, end = (number(record.map[name]) for name in ("start_code", "end_code"))
    page = record.facts.page_size
    pages = -(-end // page) - start // page
    before, now = (column["text"] for column in columns)
    text = f"code {start:#x}-{end:#x} touches {pages:#x} pages; text {before:#x} -> {now:#x}"
    return Shown(now == pages != before, text)


_NO_COUNTERS = ("size", "text", "lib", "data", "dt")
"""The columns of statm that do not move by themselves."""


@of_accepted
def _data_in_statm(records: Sequence[Record]) -> Shown:
    (record,) = records
    columns = _columns(record)
    if columns is None:
        return Shown(None, "statm cannot be read")
    before, now = columns
    moved = [f"{n} {before[n]:#x} -> {now[n]:#x}" for n in _NO_COUNTERS if before[n] != now[n]]
    start, end = (record.map[name] for name in ("start_data", "end_data"))
    told = f"statm: {', '.join(moved)}" if moved else f"statm unchanged, data {now['data']:#x}"
    return Shown(bool(moved), f"data {start}-{end}: {told}")


@of_accepted
def _brk_in_stat(records: Sequence[Record]) -> Shown:
    (record,) = records
    # The flags tell of a privilege that was used, not of the map.
    fields = [row for row in record.difference if row[0] == "stat" and row[1] != "flags"]
    told = ", ".join(f"{name} {before} -> {after}" for _, name, before, after in fields)
    text = f"brk {record.before.brk} -> {record.map['brk']}: "
    return Shown(bool(fields), text + (f"stat: {told}" if fields else "no field of stat changes"))


# ---- arguments, environment and what else the kernel notes of a new program -------------------


@dataclass(frozen=True)
class Strings:
    """What is told of a specimen whose arguments and environment were moved."""

    wanted: tuple[bytes, bytes]
    cmdline: bytes | Unreadable
    environ: bytes | Unreadable
    psargs: str
    """In its core file; "" if the kernel wrote none that can be seen."""


def _moved_strings(_: Facts) -> Shown:
    wanted = b"moved\0arguments\0", b"MOVED=yes\0"
    with Specimen() as specimen:
        page = specimen.map(PAGE)
        specimen.write(page, b"".join(wanted))
        middle, end = page + len(wanted[0]), page + len(b"".join(wanted))
        change(specimen, arg_start=page, arg_end=middle, env_start=middle, env_end=end)
        snapshot = specimen.snapshot()
        core = told_by_core(specimen)
        psargs = core["psargs"] if core.lines.get("written by") == THE_KERNEL else ""
    return read_strings(Strings(wanted, snapshot.cmdline, snapshot.environ, psargs))


def read_strings(told: Strings) -> Shown:
    """Read whether cmdline and environ show what lies between the bounds."""
    right = (told.cmdline, told.environ) == told.wanted
    core = f"a core file has psargs {told.psargs!r}" if told.psargs else "no core file to be seen"
    cmdline, environ = (shown(part) for part in (told.cmdline, told.environ))
    return Shown(right, f"cmdline {cmdline}, environ {environ}; {core}")


def _as_given(_: Facts) -> Shown:
    arguments, environment = [b"one", b"two words"], [b"KEY=value"]
    with Specimen(arguments=arguments, environment=environment) as specimen:
        own = specimen.current_map()
        lying = (
            specimen.read(own.arg_start, own.arg_end - own.arg_start),
            specimen.read(own.env_start, own.env_end - own.env_start),
        )
    given = tuple(b"".join(text + b"\0" for text in texts) for texts in (arguments, environment))
    text = (
        f"{own.arg_start:#x}-{own.arg_end:#x} holds {shown(lying[0])}, "
        f"{own.env_start:#x}-{own.env_end:#x} {shown(lying[1])}"
    )
    return Shown(lying == given, text)


def _rights(_: Facts) -> Shown:
    with Specimen(arguments=[b"in", b"the open"], environment=[b"KEPT=here"]) as specimen:
        return read_rights(*read_by_two(specimen))


def read_rights(readings: Mapping[str, Reading], stranger: str) -> Shown:
    """Read whether both files are closed to a reader without rights over the process."""
    told = {file: readings[file] for file in ("cmdline", "environ")}
    if isinstance(readings["stat"].other, int):
        return Shown(None, f"{stranger} sees nothing of the process: /proc hides it (hidepid)")
    if any(isinstance(reading.own, int) for reading in told.values()):
        return Shown(None, "its owner cannot read its files either")
    text = ", ".join(f"{file} {_reading_text(reading.other)}" for file, reading in told.items())
    closed = all(isinstance(reading.other, int) for reading in told.values())
    return Shown(closed, f"{stranger} gets of another's process: {text}")


def _reading_text(reading: bytes | int) -> str:
    return errno.errorcode.get(reading, "?") if isinstance(reading, int) else shown(reading)


# ---- the auxiliary vector ---------------------------------------------------------------------

VECTOR: tuple[tuple[str | int, int], ...] = (
    ("AT_PAGESZ", 0x1234), ("AT_ENTRY", 0x5EED), ("AT_HWCAP", 0xBAD), (0x7777, 0xABCD),
)  # fmt: skip
"""No page has that size, no program begins there, and nobody knows such a type."""


@of_accepted
def _vector_in_proc(records: Sequence[Record]) -> Shown:
    (record,) = records
    told = after(record).auxv
    if told is None or isinstance(told, str):
        return Shown(None, f"auxv: {told}")
    wanted = tuple(map(str, decode_auxv(encode_auxv((*VECTOR, ("AT_NULL", 0))))))
    return Shown(tuple(told) == wanted, f"auxv: {', '.join(told)}")


@dataclass(frozen=True)
class Handed:
    """What the kernel made of a vector that makes no sense."""

    file: bytes
    kept: bytes
    """By PR_GET_AUXV; b"" where there is no such call."""
    core: Mapping[str, str]
    """Of its core file, where one can be seen."""
    hwcap: tuple[int, int]
    """AT_HWCAP as the program got it at first, and after a further execve."""


def _not_cared_for(facts: Facts) -> Shown:
    with Specimen() as specimen:
        first = _hwcap(specimen)
        _set_vector(specimen, facts)
        file, kept = specimen.snapshot().auxv, kept_vector(specimen)
        specimen.restart([b"specimen"], [])
        after = _hwcap(specimen)
        _set_vector(specimen, facts)
        core = told_by_core(specimen).lines
    if isinstance(file, Unreadable):
        raise UnsupportedSystem(f"auxv: {file}")
    return read_handed(Handed(file, kept, core, (first, after)))


def _set_vector(specimen: Specimen, facts: Facts) -> None:
    """Set a vector that fills all the room, without an end of its own."""
    pairs = facts.auxv_capacity // 16
    vector = encode_auxv((*VECTOR, *[(0x7778, 1)] * (pairs - len(VECTOR))))
    page = specimen.map(PAGE)
    specimen.write(page, vector)
    change(specimen, auxv=page, auxv_size=len(vector))


def _hwcap(specimen: Specimen) -> int:
    entries = {entry.name: entry.value for entry in specimen.snapshot().aux_entries}
    return entries.get("AT_HWCAP", 0)


def read_handed(told: Handed) -> Shown:
    """Read whether a senseless vector is handed on as it is, and nobody goes by it."""
    words = encode_auxv(VECTOR)
    pairs = decode_auxv(told.file)
    entries = ", ".join(map(str, pairs[: len(VECTOR)]))
    handed = told.file.startswith(words) and (not told.kept or told.kept.startswith(words))
    core = "no core file to be seen"
    if told.core.get("written by") == THE_KERNEL:
        size = told.core.get("NT_AUXV: AT_PAGESZ", "")
        core = f"a core file has AT_PAGESZ={size}"
        handed = handed and size == hex(dict(VECTOR)["AT_PAGESZ"])
    before, after = told.hwcap
    return Shown(
        handed and before == after,
        f"auxv {entries} and so on, {pairs[-1]} after {len(pairs) - 1:#x} pairs; {core}; "
        f"the next program gets AT_HWCAP={after:#x}, the first got {before:#x}",
    )


def _vector_as_given(_: Facts) -> Shown:
    with Specimen() as specimen:
        vector = specimen.snapshot().auxv
        own = specimen.current_map()
        if isinstance(vector, Unreadable):
            raise UnsupportedSystem(f"auxv: {vector}")
        stack = specimen.read(own.start_stack, own.arg_start - own.start_stack)
        return read_vector(stack, vector)


def read_vector(stack: bytes, vector: bytes) -> Shown:
    """Read whether the kernel's vector is the one behind the environment's pointers.

    `stack` begins with the number of arguments, as a program finds it.
    """
    words = struct.unpack(f"<{len(stack) // 8}Q", stack[: len(stack) // 8 * 8])
    behind_arguments = words[0] + 2
    place = 8 * (words.index(0, behind_arguments) + 1)
    same = stack[place : place + len(vector)] == vector
    word = "the same" if same else "others"
    text = f"auxv has {len(vector):#x} bytes; {word} lie {place:#x} above start_stack"
    return Shown(same, text)


# ---- the exe link -----------------------------------------------------------------------------


def let_change_exe(specimen: Specimen) -> None:
    """Make a specimen one that may change its exe link, in a user namespace if need be.

    Raises SystemCallError where that is refused.
    """
    if not may_change_exe(specimen.snapshot()):
        specimen.enter_user_namespace()
    specimen.release_executable()


def _link(_: Facts) -> Shown:
    with Specimen() as specimen:
        before = specimen.snapshot().exe
        let_change_exe(specimen)
        file = specimen.memory_file("another")
        change(specimen, exe_fd=file)
        return read_link(str(before), str(specimen.snapshot().exe), link_of(specimen, file))


def read_link(before: str, after: str, descriptor: str) -> Shown:
    """Read whether the exe link reads what the descriptor's link does."""
    text = f"exe link {before} -> {after}; the descriptor's link is {descriptor}"
    return Shown(after == descriptor != before, text)


# ---- the claims -------------------------------------------------------------------------------


def _shown_in_stat(id_: str, number_: int, subject: str, place: str, **changes: str) -> Claim:
    """Return the claim that members stand in stat, with an experiment that changes each."""
    members = " and ".join(changes) if len(changes) < 3 else "; ".join(changes)
    verb = "stands" if len(changes) == 1 else "stand"
    return Claim(
        id_, number_, f"{members} {verb} in stat.", place, History(),
        experiments=(Experiment(subject, change=changes),),
        read=in_stat(*changes),
    )  # fmt: skip


CLAIMS: tuple[Claim, ...] = (
    _shown_in_stat("code.in_stat", 20, "code-elsewhere", "uses: code",
                   start_code="start_code + 1", end_code="end_code - 1"),
    Claim(
        "code.in_statm", 21, "start_code and end_code stand in statm, as a number of pages.",
        "uses: code",
        History(note="What is really executable does not bound it."),
        experiments=(
            Experiment("code-of-a-gib", change={"end_code": f"start_code + {GIB}"}),
        ),
        read=_code_in_statm,
    ),
    _shown_in_stat("data.in_stat", 22, "data-elsewhere", "uses: data",
                   start_data="start_data + 1", end_data="end_data - 1"),
    Claim(
        "data.in_statm", 23, "start_data and end_data stand in statm.", "uses: data",
        History(since=None, commits=(),
                note="Where there is no MMU, statm is made of start_data and start_stack; "
                     "everywhere else of what is mapped."),
        experiments=(
            Experiment("data-of-a-gib",
                       change={"end_data": f"start_data + {GIB}",
                               # Before v5.15 the heap had to lie above.
                               "start_brk": f"start_brk + 2*{GIB}", "brk": f"brk + 2*{GIB}"}),
        ),
        read=_data_in_statm,
    ),
    _shown_in_stat("start_brk.in_stat", 25, "heap-begins-elsewhere", "uses: start_brk",
                   start_brk="start_brk + 8"),
    Claim(
        "brk.in_stat", 30, "brk stands in stat.", "uses: brk",
        History(since=None, commits=(),
                note="No file of /proc shows it; only the process itself can ask brk(0)."),
        experiments=(Experiment("brk-lower", change={"brk": "brk - 8"}),),
        read=_brk_in_stat,
    ),
    _shown_in_stat("start_stack.in_stat", 33, "stack-elsewhere", "uses: start_stack",
                   start_stack="start_stack - 8"),
    _shown_in_stat("strings.in_stat", 37, "strings-elsewhere", "uses: strings",
                   arg_start="arg_start + 1", arg_end="arg_end - 1",
                   env_start="env_start + 1", env_end="env_end - 1"),
    Claim(
        "strings.in_files", 38, "cmdline and environ show what lies between the four bounds.",
        "uses: strings",
        History(known=(RUN, SOURCE),
                note="Since v4.17 of anonymous memory only (7f7ccc2ccc2e)."),
        test=_moved_strings,
    ),
    Claim(
        "strings.need_rights", 39,
        "Who reads cmdline or environ must have rights over the process.", "uses: strings",
        History(since=None, commits=(),
                note="environ asks for the right to trace the process, cmdline for none."),
        test=_rights,
        documented="fs/proc/base.c: cmdline has mode 0444 and no check, environ has mode 0400 and "
                   "asks ptrace_may_access() when it is opened",
    ),
    Claim(
        "auxv.in_proc", 40, "The auxiliary vector can be read in /proc/PID/auxv.", "uses: auxv",
        History(note="The file ends at the first AT_NULL; since v6.4 PR_GET_AUXV tells it all."),
        experiments=(
            Experiment("vector-without-sense", setup=(Map("a"), Write("a.start", auxv=VECTOR)),
                       change={"auxv": "a.start", "auxv_size": 16 * len(VECTOR)}),
        ),
        read=_vector_in_proc,
    ),
    Claim(
        "auxv.not_cared_for", 41, "The kernel does not care what the vector says.", "uses: auxv",
        History(note="But for its last pair, which becomes AT_NULL. Patches that were posted in "
                     "2025 and 2026 would hand AT_HWCAP on to the next program."),
        test=_not_cared_for,
    ),
    Claim(
        "exe.in_proc", 42, "The file of exe_fd is the one that the exe link names.", "uses: exe",
        History(), test=_link,
        documented="kernel/sys.c, prctl_set_mm_exe_file(); fs/proc/base.c, proc_exe_link()",
    ),
    Claim(
        "strings.as_given", 53,
        "The four bounds are those of the arguments and the environment that a program is given.",
        "meaning",
        History(note="So execve() leaves them. The call takes any others."),
        test=_as_given,
    ),
    Claim(
        "auxv.as_given", 54, "The kernel keeps the vector that it gave the program.", "meaning",
        History(), test=_vector_as_given,
    ),
)  # fmt: skip
