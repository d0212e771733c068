"""Restore: make of a fresh specimen the one that an image holds.

`plan` says what is to be done, here it is done: by system calls that the fresh specimen makes,
from pages out of its own way. Between the call of PR_SET_MM_MAP and the jump back, limits, rights
and name are set. Out of scope are threads, signals, open descriptors and sockets, timers, and every
namespace but the user namespace.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from prctlmm_lab.errors import InputError, LabError, SystemCallError
from prctlmm_lab.kernel.abi import MAP_SIZE, U64, PrctlMmMap
from prctlmm_lab.kernel.auxv import TYPES, decode_auxv, encode_auxv
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable, parse_maps, read_whole
from prctlmm_lab.kernel.rules import Explanation, explain
from prctlmm_lab.restore.checkpoint import opened
from prctlmm_lab.restore.files import OpenedFiles, sha256
from prctlmm_lab.restore.image import Area, Bytes, Image, KernelPages
from prctlmm_lab.restore.plan import (
    Range,
    Step,
    find_hole,
    hole_size,
    is_alike,
    kept_apart,
    occupied_by,
    placing,
    plan,
    waited_at,
)
from prctlmm_lab.restore.recorded import name_of_restore
from prctlmm_lab.specimen.build import binary_path
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import (
    ADDR_NO_RANDOMIZE,
    PAGE,
    PR_SET_DUMPABLE,
    PR_SET_NAME,
    Specimen,
)
from prctlmm_lab.specimen.recording import mode
from prctlmm_lab.specimen.situation import capabilities, may_change_exe, situation_of

PR_SET_NO_NEW_PRIVS = 38

FRAME_ROOM = b"ROOM=" + bytes([ord(".")]) * 4800
"""In the fresh specimen's environment, it leaves room for a signal frame above its buffer."""


class MapRefused(LabError):
    """Say that the kernel refused the map of an image, by which rule and which numbers."""

    def __init__(self, explanation: Explanation) -> None:
        super().__init__(explanation)
        self.explanation = explanation

    def __str__(self) -> str:
        return f"the kernel refused the map of the image: {self.explanation.verdict}"


def restore(
    image: Image, *, omit: Collection[str] = (), exe: bool | None = None, deadline: float = 10.0
) -> Specimen:
    r"""Start a specimen and make of it the one in the image.

    Members named in `omit` are left out of the call: they keep what the fresh specimen had. The exe
    link is changed where the image has another one than the specimen's own program: `exe` None if
    the kernel permits it to this user, True in any case, False never.

    >>> from prctlmm_lab.restore.checkpoint import checkpoint
    >>> with Specimen(arguments=(b"first",)) as first:
    ...     image = checkpoint(first)
    >>> with restore(image) as second:
    ...     second.snapshot().cmdline
    b'first\x00'

    Equivalent for other processes: `criu restore`.

    Raises InputError for an image of another machine, program or file; MapRefused if the kernel
    refuses the call; SystemCallError if it refuses another step.
    """
    if not mode.is_recorded():
        _require_restorable(image)
    specimen = Specimen(
        image.build,
        environment=(FRAME_ROOM,),
        randomize=not image.personality & ADDR_NO_RANDOMIZE,
        deadline=deadline,
    )
    try:

        def work() -> None:
            _become(specimen, image)
            _rebuild(specimen, image, omit, exe)

        specimen.rebuilt(name_of_restore(image, omit, exe), work)
    except BaseException:
        specimen.stop()
        raise
    return specimen


def place(
    specimen: Specimen,
    areas: Sequence[Area],
    *,
    kernel_pages: Sequence[KernelPages] = (),
    free: Iterable[Range] = (),
) -> None:
    """Unmap all that a specimen has and map these areas; it lives on in the restorer's pages.

    These lie where neither the areas nor the ranges `free`, their ends exclusive, are. The kernel's
    notes stay as they are: `set_map` can then be called. Start the specimen with `environment=
    (FRAME_ROOM,)`, or something as long.

    >>> with Specimen(environment=(FRAME_ROOM,)) as specimen:
    ...     place(specimen, [Area(0x10000, 0x20000, "rw-p"), Area(0x20000, 0x21000, "---p")])
    ...     [str(vma) for vma in specimen.snapshot().vmas[:2]]
    ['0x10000-0x20000 rw-p', '0x20000-0x21000 ---p']

    Raises SystemCallError if the kernel refuses a step, InputError if nowhere is room left.
    """
    with specimen.undivided:
        fresh = specimen.snapshot()
        occupied = [*occupied_by(fresh, areas, kernel_pages), *free]
        hole = find_hole(occupied, hole_size(fresh))
        waiting = specimen.registers()
        with _Restorer(specimen) as restorer:
            for step in placing(fresh, hole, waiting, specimen.entry, areas, kernel_pages):
                restorer.do(step)
        _note_mapped(specimen, areas)


def _require_restorable(image: Image) -> None:
    """Refuse an image that this machine and this program cannot be made to be.

    What runs in the restored process must be the loop of the specimen's own program, waiting for a
    request: an image cannot bring code of its own.

    Raises InputError.
    """
    specimen_machine = os.uname().machine
    if (image.machine, image.page) != (specimen_machine, PAGE):
        raise InputError("image", "is the machine and page size of the image",
                         f"{image.machine}, {image.page:#x}",
                         f"this one's, {specimen_machine}, {PAGE:#x}")  # fmt: skip
    facts = facts_here()
    for area in image.areas:
        if not facts.lowest <= area.start < area.end <= facts.highest + 1:
            raise InputError("image", "lies beyond this kernel's addresses",
                             f"{area.start:#x}-{area.end:#x}",
                             f"{facts.lowest:#x} to {facts.highest + 1:#x}")  # fmt: skip
    program = binary_path(image.build, image.machine).read_bytes()
    files = {area.file for area in image.areas if area.file} | {image.exe}
    for file in files:
        if file.kind == "program" and file.sha256 != sha256(program):
            raise InputError("image", "is the digest of its program", file.sha256,
                             f"that of the specimen's, {sha256(program)}")  # fmt: skip
    offset, size = struct.unpack_from("<Q16xQ", program, 64 + 56 + 8)  # of the second segment
    code = program[offset : offset + size]
    if image.read(image.entry, size, program) != code:
        raise InputError("image", "is not where the specimen's loop lies", hex(image.entry),
                         "its code there")  # fmt: skip


def _become(specimen: Specimen, image: Image) -> None:
    """Take on the identity of the image as far as we may, and enter a user namespace if it did."""
    own, its = specimen.snapshot(), image.credentials
    if specimen.attempt("geteuid") == 0 and _identity(own) != (its.uid, its.gid, its.groups):
        groups = struct.pack(f"<{len(its.groups)}I", *its.groups)
        specimen.syscall("setgroups", len(its.groups), specimen.place(groups))
        specimen.syscall("setresgid", its.gid, its.gid, its.gid)
        specimen.syscall("setresuid", its.uid, its.uid, its.uid)
        specimen.syscall("prctl", PR_SET_DUMPABLE, 1)
    if its.own_user_namespace:
        specimen.enter_user_namespace(map_ids=its.ids_mapped)


def _identity(snapshot: Snapshot) -> tuple[int, int, tuple[int, ...]]:
    if isinstance(snapshot.status, Unreadable):
        return -1, -1, ()
    uid, gid, groups = (snapshot.status[name].split() for name in ("Uid", "Gid", "Groups"))
    return int(uid[0]), int(gid[0]), tuple(map(int, groups))


def _rebuild(specimen: Specimen, image: Image, omit: Collection[str], exe: bool | None) -> None:
    """Carry out the plan; between the call and the jump back, set what is no memory."""
    waiting, shift = specimen.registers(), image.entry - specimen.entry
    if not is_alike(waited_at(waiting, image.registers.sp, shift), image.registers):
        raise InputError("image", "are not the registers of a loop that waits",
                         str(image.registers)[:80], "those of a waiting specimen")  # fmt: skip
    fresh = specimen.snapshot()
    if exe is None:
        exe = may_change_exe(fresh)
    *placing, call, jump, unmap = plan(image, fresh, omit=omit, exe=exe)
    with _Restorer(specimen) as restorer:
        for step in placing:
            restorer.do(step)
        restorer.make_call(replace(call, data=_with_vdso_of(specimen, image, call.data)))
        restorer.files.close()
        _set_the_rest(specimen, image)
        brk = specimen.brk()
        restorer.do(jump)
        restorer.do(unmap)
        # These requests went to its buffer, in which something else lay.
        first, last = specimen.buffer, specimen.own_memory[1]
        restorer.fill(first, image.read(first, last - first))
    specimen.rebuilt_from(brk)
    _note_mapped(specimen, image.areas)


def _note_mapped(specimen: Specimen, areas: Sequence[Area]) -> None:
    """Note for predictions that mmap() made all of its memory, the heap too."""
    specimen.mapped = frozenset((each.start, each.end) for each in areas if each.file is None)
    specimen.moved = frozenset(each.start for each in kept_apart(areas))


def _with_vdso_of(specimen: Specimen, image: Image, data: Bytes) -> bytes:
    """Let AT_SYSINFO_EHDR name the vDSO where it is, if it could not be moved to where it was.

    Only maps is looked at: as long as the notes are the fresh ones, reading cmdline could make the
    restored stack grow down to where they point.
    """
    now = parse_maps(read_whole(f"/proc/{specimen.pid}/maps"))
    old = [pages.start for pages in image.kernel_pages if pages.label == "[vdso]"]
    here = [vma.start for vma in now if vma.label == "[vdso]"]
    kind = TYPES["AT_SYSINFO_EHDR"]
    entries = [
        (each.type, here[0] if (each.type, [each.value]) == (kind, old) and here else each.value)
        for each in decode_auxv(bytes(data[MAP_SIZE:]))
    ]
    return bytes(data[:MAP_SIZE]) + encode_auxv(entries)


def _set_the_rest(specimen: Specimen, image: Image) -> None:
    """Set name, umask, limits and rights; what this user may not raise stays as it is."""
    specimen.syscall("prctl", PR_SET_NAME, specimen.place(image.comm + b"\0"))
    specimen.syscall("umask", image.umask)
    for name, limit in image.limits.items():
        soft, hard = (U64 if each is None else each for each in (limit.soft, limit.hard))
        now = specimen.limit(name)
        if now == (soft, hard):
            continue
        try:
            specimen.set_limit(name, soft, hard)
        except SystemCallError:  # only CAP_SYS_RESOURCE may raise the hard one
            specimen.set_limit(name, min(soft, now[1]), min(hard, now[1]))
    its = image.credentials
    snapshot = specimen.snapshot()
    if _identity(snapshot) == (its.uid, its.gid, its.groups):
        specimen.keep_capabilities(its.capabilities & capabilities(snapshot))
    if its.no_new_privileges:
        specimen.syscall("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if its.dumpable in (0, 1):
        specimen.syscall("prctl", PR_SET_DUMPABLE, its.dumpable)


class _Restorer:
    """The hand that carries out steps in one specimen: it keeps what it had to open."""

    def __init__(self, specimen: Specimen) -> None:
        self.specimen = specimen
        self.files = OpenedFiles(specimen)
        self._open = ExitStack()

    def __enter__(self) -> _Restorer:
        path = f"/proc/{self.specimen.pid}/mem"
        self.memory = self._open.enter_context(opened(path, os.O_RDWR))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def do(self, step: Step) -> None:
        """Carry out a step.

        Raises SystemCallError if the kernel refuses it, and it may not fail.
        """
        if step.call == "fill":
            self.fill(int(step.arguments[0]), step.data)
        elif step.call == "copy":
            first, to, size = map(int, step.arguments)
            self.specimen.write(to, self.specimen.read(first, size))
        elif step.call == "rt_sigreturn":
            assert step.registers is not None
            self.specimen.jump(step.registers, int(step.arguments[2]))
        else:
            self._call(step)

    def _call(self, step: Step) -> None:
        late = {}
        if step.file is not None:
            late["fd"] = self.files.descriptor(step.file, writable=step.writes)
        if "&data" in step.arguments:
            late["&data"] = self.specimen.place(bytes(step.data))
        arguments = (late[each] if isinstance(each, str) else each for each in step.arguments)
        try:
            self.specimen.syscall(step.call, *arguments)
        except SystemCallError:
            if not step.may_fail:
                raise

    def fill(self, start: int, data: Bytes) -> None:
        """Write contents into the specimen's memory, as a debugger does.

        Raises SystemCallError if a byte cannot be written.
        """
        view = memoryview(data)
        while view:
            try:
                done = os.pwrite(self.memory, view, start)
            except OSError as error:
                raise SystemCallError(error.errno or 0, "pwrite", (start, len(view))) from None
            view, start = view[done:], start + done

    def make_call(self, step: Step) -> None:
        """Make the one call of PR_SET_MM_MAP.

        Raises MapRefused if the kernel refuses it.
        """
        new, vector = PrctlMmMap.unpack(bytes(step.data[:MAP_SIZE])), bytes(step.data[MAP_SIZE:])
        if step.file is not None:
            new = new.changed(exe_fd=self.files.descriptor(step.file))
        if vector:  # only now: to open a file takes the scratch memory too
            new = new.changed(auxv=self.specimen.place(vector))
        if self.specimen.set_map(new):
            raise MapRefused(explain(situation_of(self.specimen, new), facts_here()))
