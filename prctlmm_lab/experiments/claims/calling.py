"""What the commit message says of the call itself: who may make it, its form, what it carries.

Sources: kernel/sys.c of v3.18 to v7.3, prctl_set_mm(), prctl_set_mm_map() and
prctl_set_mm_exe_file(); ipc/shm.c, do_shmat(); fs/exec.c, prepare_arg_pages().
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prctlmm_lab.experiments.argument_room import room_for_arguments
from prctlmm_lab.experiments.claims.accepted import change
from prctlmm_lab.experiments.claims.claim import (
    MAIL,
    RUN,
    SOURCE,
    Claim,
    History,
    Shown,
)
from prctlmm_lab.experiments.claims.requirements import NAMESPACE, asked, refused, verdict_of
from prctlmm_lab.experiments.experiment import Call, Experiment, Subject, run, take_steps
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.shared_memory import attach_shared_memory
from prctlmm_lab.experiments.steps import (
    Brk,
    LosePrivilege,
    Map,
    MemoryFile,
    Read,
    ReleaseExecutable,
    Unmap,
    UserNamespace,
    Write,
)
from prctlmm_lab.kernel.facts import CAP_SYS_RESOURCE, Facts
from prctlmm_lab.kernel.releases import Release
from prctlmm_lab.specimen.process import PAGE
from prctlmm_lab.specimen.situation import capabilities

ORDINARY = (LosePrivilege(True),)
LEGACY_NEEDS = "CAP_SYS_RESOURCE in the initial user namespace is needed to ask"
SHIFTED = {
    "start_code": "start_code + 1", "end_code": "end_code + 2",
    "start_data": "start_data + 3", "end_data": "end_data + 4",
    "start_brk": "start_brk + 5", "brk": "brk - 6", "start_stack": "start_stack + 7",
    "arg_start": "arg_start + 8", "arg_end": "arg_end + 9",
    "env_start": "env_start + 10", "env_end": "env_end + 11",
}  # fmt: skip
"""Every address another one, and all in order: nobody refuses them."""
VECTOR = (("AT_PAGESZ", 0x2A), ("AT_NULL", 0))


def new_exe(name: str, *, mode: int = 0o755) -> Experiment:
    """Make the experiment in which the exe link comes to name a file in memory, NAME."""
    setup = (MemoryFile(name, mode=mode), ReleaseExecutable(True))
    return Experiment(f"exe-{name}", setup=setup, change={"exe_fd": name})


def _in_namespace(experiment: Experiment) -> Experiment:
    return Experiment(
        experiment.id, setup=(*NAMESPACE, *experiment.setup), change=experiment.change
    )


def _holder(record: Record) -> str:
    """Write what the caller holds."""
    return f"CapEff {record.privilege.capabilities}"


def _exe_after(record: Record) -> str:
    view = record.view_after
    return str(view.exe) if view else "not seen"


# ---- who may make the call ----------------------------------------------------------------------

START_CODE = Experiment("alone", call=Call(operation="START_CODE", value="start_code"))


def _lost_in_namespace(records: Sequence[Record]) -> Shown:
    (record,) = records
    if not int(record.privilege.capabilities, 16) >> CAP_SYS_RESOURCE & 1:
        return Shown(None, f"root of a new user namespace lacks it: {_holder(record)}")
    text = (
        f"root of a new user namespace, {_holder(record)} there: "
        f"PR_SET_MM_START_CODE {record.value}: {verdict_of(record)}"
    )
    return Shown(refused(record, "EPERM"), text)


def _not_needed(records: Sequence[Record]) -> Shown:
    (record,) = records
    if int(record.privilege.capabilities, 16):
        return Shown(None, f"the caller has capabilities left: {_holder(record)}")
    text = f"uid {record.privilege.uid}, {_holder(record)}: {asked(record, 'start_stack')}: "
    return Shown(not refused(record), text + verdict_of(record))


def _works_in_namespace(records: Sequence[Record]) -> Shown:
    (record,) = records
    exe = _exe_after(record)
    text = (
        f"{len(SHIFTED):#x} addresses, a vector of {record.map['auxv_size']} bytes and exe_fd: "
        f"{verdict_of(record)}, exe is {exe}"
    )
    return Shown(not _not_as_given(record) and exe.startswith("/memfd:other"), text)


def _not_as_given(record: Record) -> list[str]:
    """Name the members that are not shown as they were given, of `SHIFTED` and `VECTOR`."""
    view = record.view_after
    if view is None or not isinstance(view.stat, Mapping):
        return [*SHIFTED]
    told = {**view.stat, "brk": view.brk}
    wrong = [member for member in SHIFTED if told.get(member) != record.map[member]]
    same = view.auxv == tuple(f"{name}={value:#x}" for name, value in VECTOR)
    return wrong if same else [*wrong, "auxv", "auxv_size"]


def _in_vain(records: Sequence[Record]) -> Shown:
    (record,) = records
    text = f"uid {record.privilege.uid}, {_holder(record)}, exe_fd {record.map['exe_fd']}: "
    return Shown(refused(record, "EPERM", "EINVAL"), text + verdict_of(record))


def _root_only(records: Sequence[Record]) -> Shown:
    (record,) = records
    text = f"no uid mapped in the user namespace, {_holder(record)} there: {verdict_of(record)}"
    return Shown(refused(record, "EINVAL", "EPERM"), text)


def _without_sys_resource(_facts: Facts) -> Shown:
    with Subject().start() as specimen:
        take_steps(NAMESPACE, specimen, _facts, "setup")
        held = capabilities(specimen.snapshot())
        specimen.keep_capabilities(held & ~(1 << CAP_SYS_RESOURCE))
        record = run(new_exe("other"), specimen=specimen)
    return read_without_sys_resource(record)


def read_without_sys_resource(record: Record) -> Shown:
    """Read a change of the exe link by a caller who gave CAP_SYS_RESOURCE up."""
    if int(record.privilege.capabilities, 16) >> CAP_SYS_RESOURCE & 1:
        return Shown(None, f"the caller still has it: {_holder(record)}", (record,))
    text = f"{_holder(record)}, without bit {CAP_SYS_RESOURCE:#x}: {verdict_of(record)}, exe is "
    return Shown(not refused(record), text + _exe_after(record), (record,))


# ---- one bundle, its form, its struct -----------------------------------------------------------


def _checks_more(records: Sequence[Record]) -> Shown:
    alone, together = records
    text = (
        f"{asked(together, 'start_code', 'end_code')}: {verdict_of(together)}; "
        f"PR_SET_MM_START_CODE {alone.value}: {verdict_of(alone)}"
    )
    if refused(alone, "EPERM"):
        return Shown(None, f"{text}: {LEGACY_NEEDS}")
    return Shown(not refused(alone) and refused(together), text)


def _exact_size(records: Sequence[Record]) -> Shown:
    less, exact, more = records
    text = "; ".join(f"size {record.size}: {verdict_of(record)}" for record in records)
    return Shown(refused(less) and not refused(exact) and refused(more), text)


def _fourteen_members(records: Sequence[Record]) -> Shown:
    """Hold each member of an accepted call to the one place that shows it."""
    shown, closed = records
    if refused(shown):
        return Shown(False, f"{shown.size} bytes: {verdict_of(shown)}")
    wrong = _not_as_given(shown) + ["exe_fd"] * (not refused(closed))
    if wrong:
        return Shown(False, f"{shown.size} bytes: not where they should be: {', '.join(wrong)}")
    text = (
        f"{shown.size} bytes: {len(SHIFTED):#x} addresses are shown as given, so is the vector; "
        f"{asked(closed, 'exe_fd')}: {verdict_of(closed)}"
    )
    return Shown(True, text)


def _kept(records: Sequence[Record]) -> Shown:
    """Read whether two sizes of one vector can be told apart afterwards."""
    short, long = records
    vectors = [record.view_after and record.view_after.auxv for record in records]
    if refused(short) or refused(long) or None in vectors:
        return Shown(None, f"the calls gave {verdict_of(short)} and {verdict_of(long)}")
    sizes = f"auxv_size {short.map['auxv_size']} and {long.map['auxv_size']}"
    if vectors[0] == vectors[1]:
        return Shown(False, f"{sizes} of one vector leave the same, so auxv_size is not kept")
    return Shown(True, f"{sizes} of one vector leave {vectors[0]} and {vectors[1]}")


# ---- what the members stand for -----------------------------------------------------------------


def _bounds_code(records: Sequence[Record]) -> Shown:
    (record,) = records
    kind = _permissions(record, "start_code")
    text = f"{asked(record, 'start_code', 'end_code')}, {kind} memory: {verdict_of(record)}"
    if "x" in kind:
        return Shown(None, f"{text}: what lies there may be executed")
    return Shown(refused(record), text)


def _bounds_data(records: Sequence[Record]) -> Shown:
    (record,) = records
    kind = _permissions(record, "start_data")
    text = f"{asked(record, 'start_data', 'end_data')}, {kind} memory: {verdict_of(record)}"
    if "w" in kind:
        return Shown(None, f"{text}: what lies there may be written")
    return Shown(refused(record), text)


def _permissions(record: Record, member: str) -> str:
    """Return the permissions of the memory that a member is to point into."""
    address = int(record.map[member], 16)
    for line in record.before.maps or ():
        area, permissions = line.split()[:2]
        start, end = (int(part, 16) for part in area.split("-"))
        if start <= address < end:
            return permissions
    return "no"


def _bounds_brk(records: Sequence[Record]) -> Shown:
    (record,) = records
    start = int(record.map["start_brk"], 16)
    if refused(record):
        return Shown(None, f"start_brk = brk = {start:#x}: {verdict_of(record)}")
    grown, below = (int(answer.answer, 16) for answer in record.answers)
    text = (
        f"start_brk = brk = {start:#x}: brk({start + 2 * PAGE:#x}) gives {grown:#x}, then "
        f"brk({start - 1:#x}) {below:#x}"
    )
    return Shown((grown, below) == (start + 2 * PAGE, start + 2 * PAGE), text)


Rooms = Sequence[tuple[int, int]]
"""start_stack, and the bytes of arguments that execve then takes."""


def _argument_space(facts: Facts) -> Shown:
    limit = 0x100000
    with Subject().start() as specimen:
        specimen.set_limit("STACK", limit)
        places = specimen.current_map().start_stack, facts.lowest, facts.highest
        rooms = []
        for place in places:
            change(specimen, start_stack=place)
            rooms.append((place, room_for_arguments(specimen)))
    return read_argument_space(limit, rooms)


def read_argument_space(limit: int, rooms: Rooms) -> Shown:
    """Read whether the room for arguments depends on start_stack."""
    found = ", ".join(f"{room:#x} with start_stack {place:#x}" for place, room in rooms)
    text = f"bytes of arguments that execve takes under RLIMIT_STACK {limit:#x}: {found}"
    if not 0 < rooms[0][1] < limit:
        return Shown(None, text)
    return Shown(len({room for _, room in rooms}) > 1, text)


def _shmat(_facts: Facts) -> Shown:
    with Subject().start() as specimen:
        hole = specimen.map(16 * PAGE)
        specimen.unmap(hole, 16 * PAGE)
        answers = []
        for place in (specimen.current_map().start_stack, hole + 2 * PAGE):
            change(specimen, start_stack=place)
            answers.append((place, attach_shared_memory(specimen, hole)))
    return read_shmat(hole, answers)


def read_shmat(hole: int, answers: Sequence[tuple[int, str]]) -> Shown:
    """Read whether shmat() refuses what lies just below start_stack, and only that."""
    (_, away), (place, below) = answers
    if not away.startswith("attached"):
        return Shown(None, f"shmat({hole:#x}) with start_stack elsewhere: {away}")
    text = f"start_stack = {place:#x}, shmat({hole:#x}): {below}"
    return Shown(not below.startswith("attached"), text)


# ---- the exe link, the old interface, the size --------------------------------------------------


def _once(records: Sequence[Record]) -> Shown:
    first, second = records
    text = (
        f"exe_fd {first.map['exe_fd']}: {verdict_of(first)}, then {second.map['exe_fd']}: "
        f"{verdict_of(second)}, exe is {_exe_after(second)}"
    )
    if refused(first):
        return Shown(None, text)
    return Shown(refused(second, "EPERM"), text)


def _not_the_code(records: Sequence[Record]) -> Shown:
    (record,) = records
    exe = _exe_after(record)
    if refused(record) or not record.answers:
        return Shown(None, f"exe_fd {record.map['exe_fd']}: {verdict_of(record)}")
    text = f"exe is {exe}, an empty file; the program still answers: brk is "
    return Shown(exe.startswith("/memfd:empty"), text + record.answers[0].answer)


def _gone(records: Sequence[Record]) -> Shown:
    (record,) = records
    text = f"PR_SET_MM_START_CODE {record.value}: {verdict_of(record)}"
    if refused(record, "EPERM"):
        return Shown(None, f"{text}: {LEGACY_NEEDS}")
    return Shown(refused(record), text)


def _size_returned(records: Sequence[Record]) -> Shown:
    (record,) = records
    returned, written = -record.outcome.errno, record.answers[0].answer
    text = f"the call gives {returned:#x}, and writes {written} where arg3 points"
    return Shown(returned == record.facts.map_size, text)


def _size_tells(records: Sequence[Record]) -> Shown:
    asked_, made = records
    text = (
        f"PR_SET_MM_MAP_SIZE to {asked_.value}: {verdict_of(asked_)}, PR_SET_MM_MAP of "
        f"{made.size} bytes: {verdict_of(made)}"
    )
    return Shown(refused(asked_) == refused(made), text)


_ASK_SIZE = Experiment(
    "size", setup=(Map("a"),), call=Call(operation="MAP_SIZE", value="a.start"),
    after=(Read("a.start", length=4),),
)  # fmt: skip
_GIVEN = (Map("a"), Write("a.start", auxv=(*VECTOR, ("AT_NULL", 0))))
_NO_ROOT = (LosePrivilege(True), UserNamespace(True, map_ids=False))

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "privilege.lost_in_namespace", 1,
        "CAP_SYS_RESOURCE of a new user namespace is not enough for the older operations.",
        "privilege",
        History(note="They ask for it in the initial user namespace, as before and since."),
        experiments=(
            Experiment("alone", setup=NAMESPACE, call=START_CODE.call),
        ),
        read=_lost_in_namespace, without_call=True,
    ),
    Claim(
        "privilege.not_needed", 2, "The call needs no capability.", "privilege",
        History(note="Only a change of the exe link asks for one."),
        experiments=(
            Experiment("nobody", setup=ORDINARY, change={"start_stack": "start_stack + 8"}),
        ),
        read=_not_needed,
    ),
    Claim(
        "privilege.works_in_namespace", 60,
        "In a user namespace the call can change all that it carries.", "privilege", History(),
        experiments=(
            Experiment(
                "all", setup=(*NAMESPACE, *_GIVEN, MemoryFile("other"), ReleaseExecutable(True)),
                change={**SHIFTED, "auxv": "a.start", "auxv_size": 32, "exe_fd": "other"},
            ),
        ),
        read=_works_in_namespace,
        documented="CRIU restores processes in user namespaces by it, since v1.4",
    ),
    Claim(
        "bundle.checks_more", 61,
        "The values are checked for more than those of the older operations are.", "bundle",
        History(
            until=Release(4, 2), commits=("f606b77f1a9e", "4a00e9df293d"),
            known=(SOURCE, MAIL),
            note="Since v4.2 the older operations judge the whole map with one member replaced.",
        ),
        experiments=(
            Experiment("alone", call=Call(operation="START_CODE", value="end_code")),
            Experiment("together", change={"start_code": "end_code"}),
        ),
        read=_checks_more,
        documented="kernel/sys.c of v3.18 compares a single address with nothing but the ends of "
                   "user space; that of v4.4 calls validate_prctl_map() for it too",
    ),
    Claim(
        "form.pointer_and_size", 4,
        "The call takes a pointer to the struct and its size; no other size will do.", "form",
        History(note="The message does not say that the size must be exact, nor that the fifth "
                     "argument must be 0."),
        experiments=tuple(
            Experiment(f"size-{size}", call=Call(size=value))
            for size, value in (("less", "map_size - 1"), ("exact", "map_size"),
                                ("more", "map_size + 1"))
        ),
        read=_exact_size,
    ),
    Claim(
        "struct.fourteen_members", 5,
        "The struct has fourteen members, in the order that the message shows.", "struct",
        History(note="On every 64-bit machine it has 0x68 bytes."),
        experiments=(
            Experiment("shifted", setup=_GIVEN,
                       change={**SHIFTED, "auxv": "a.start", "auxv_size": 32}),
            Experiment("closed", change={"exe_fd": 999}),
        ),
        read=_fourteen_members,
    ),
    Claim(
        "struct.kept", 6,
        "The kernel keeps every member but exe_fd as one of its own struct mm_struct.", "struct",
        History(
            since=None, commits=(),
            note="It keeps eleven addresses and a vector of fixed size, not auxv_size; and of "
                 "exe_fd the file, as exe_file.",
        ),
        experiments=tuple(
            Experiment(name, setup=_GIVEN, change={"auxv": "a.start", "auxv_size": size})
            for name, size in (("short", 16), ("long", 48))
        ),
        read=_kept,
    ),
    Claim(
        "meaning.code", 7,
        "The kernel sees to it that start_code and end_code bound executable memory.",
        "meaning",
        History(since=None, commits=(), note="By convention only: execve sets them so."),
        experiments=(
            Experiment("not-executable", setup=(Map("a"),),
                       change={"start_code": "a.start", "end_code": "a.end"}),
        ),
        read=_bounds_code,
    ),
    Claim(
        "meaning.data", 62,
        "The kernel sees to it that start_data and end_data bound memory for data.",
        "meaning",
        History(since=None, commits=(), note="By convention only: execve sets them so."),
        experiments=(
            Experiment("code", change={"start_data": "start_code", "end_data": "end_code"}),
        ),
        read=_bounds_data,
    ),
    Claim(
        "meaning.brk", 8, "brk() goes on from brk, and never below start_brk.", "meaning",
        History(note="Where the heap is not placed at random, a kernel with CONFIG_COMPAT_BRK goes "
                     "by end_data in place of start_brk."),
        experiments=(
            Experiment(
                "moved-heap",
                setup=(Map("hole", pages=4), Unmap("hole.start", "hole.length")),
                change={"start_brk": "hole.start", "brk": "hole.start"},
                after=(Brk("start_brk + 2*page"), Brk("start_brk - 1")),
            ),
        ),
        read=_bounds_brk,
    ),
    Claim(
        "meaning.argument_space", 9,
        "start_stack counts when execve makes room for arguments and environment.", "meaning",
        History(since=None, commits=(), note="execve sets it, and nothing of it reads it."),
        test=_argument_space,
    ),
    Claim(
        "meaning.shmat", 10, "start_stack counts when shmat() looks for room.", "meaning",
        History(since=None, commits=(), known=(RUN, SOURCE, MAIL),
                note="It did up to v3.17; the check went in the same merge window in which the "
                     'call came ("ipc/shm: kill the historical/wrong mm->start_stack check").'),
        test=_shmat,
    ),
    Claim(
        "exe.once", 44, "The exe link can be changed only once.", "uses: exe",
        History(until=Release(4, 10), commits=("f606b77f1a9e", "3fb4afd9a504"),
                known=(SOURCE, MAIL), note="Until the next execve, which begins anew."),
        experiments=(_in_namespace(new_exe("first")),
                     Experiment("again", setup=(MemoryFile("second"),),
                                change={"exe_fd": "second"})),
        read=_once, in_turn=True,
        documented="refused with EPERM by the text of v3.18 to v4.9, accepted by Debian's kernels "
                   "from 5.10 on",
    ),
    Claim(
        "exe.without_sys_resource", 45, "To change the exe link needs no CAP_SYS_RESOURCE.",
        "exe permission", History(), test=_without_sys_resource,
        documented="accepted by Debian's kernels from 5.10 on, and by the text of v3.18",
    ),
    Claim(
        "exe.namespace_root", 46,
        "Only uid 0 with gid 0 of a user namespace may change the exe link.", "exe permission",
        History(until=Release(4, 14), commits=("f606b77f1a9e", "4d28df6152aa"),
                known=(SOURCE, MAIL),
                note="Since then it takes CAP_SYS_ADMIN there, since v5.9 (ebd6de681238) "
                     "CAP_CHECKPOINT_RESTORE will do: whoever makes a user namespace has both."),
        experiments=(
            Experiment("no-root", setup=(*_NO_ROOT, MemoryFile("other"), ReleaseExecutable(True)),
                       change={"exe_fd": "other"}),
        ),
        read=_root_only,
        documented="refused with EINVAL by the text of v3.18 to v4.13, accepted by Debian's "
                   "kernels from 5.10 on",
    ),
    Claim(
        "exe.not_for_everybody", 63,
        "Who is not root of a user namespace may not change the exe link.", "exe permission",
        History(note="EINVAL up to v5.8, EPERM since (227175b2c914)."),
        experiments=(
            Experiment("nobody", setup=(*ORDINARY, MemoryFile("other"), ReleaseExecutable(True)),
                       change={"exe_fd": "other"}),
        ),
        read=_in_vain,
    ),
    Claim(
        "exe.not_the_code", 64,
        "Which code runs is to be seen in memory only, not by the exe link.", "exe permission",
        History(),
        experiments=(
            Experiment("empty", setup=(*NAMESPACE, *new_exe("empty").setup),
                       change={"exe_fd": "empty"}, after=(Brk(0),)),
        ),
        read=_not_the_code,
        documented="accepted by Debian's kernels from 5.10 on, and by the text of v3.18",
    ),
    Claim(
        "old.gone", 47, "The operations for single members are gone.", "old interface",
        History(since=None, commits=(),
                note="The message wished it for a couple of releases later."),
        experiments=(START_CODE,), read=_gone, without_call=True,
        documented="they are in the text of every release up to v7.3, and accepted with "
                   "CAP_SYS_RESOURCE by Debian's kernels 5.10 to 7.3",
    ),
    Claim(
        "map_size.returned", 48, "PR_SET_MM_MAP_SIZE returns the size of the struct.", "map size",
        History(since=None, commits=(),
                note="It returns 0 and writes the size, 4 bytes, where the third argument points."),
        experiments=(_ASK_SIZE,), read=_size_returned,
    ),
    Claim(
        "map_size.tells", 65,
        "PR_SET_MM_MAP_SIZE is accepted exactly where the call is there.", "map size",
        History(note="Without CONFIG_CHECKPOINT_RESTORE both give EPERM, or EINVAL to whoever has "
                     "CAP_SYS_RESOURCE."),
        experiments=(_ASK_SIZE, Experiment("map")), read=_size_tells, without_call=True,
    ),
)  # fmt: skip
