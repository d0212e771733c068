"""class RecordedSpecimen: a specimen that walks through what was recorded of a real one.

A call that was recorded has the kernel's own answer. One that was not is predicted where the
specification, or plain arithmetic, says what the kernel would do; else it raises `NotRecorded`.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prctlmm_lab.errors import SpecimenGone, SystemCallError
from prctlmm_lab.kernel import procfs
from prctlmm_lab.kernel.abi import MAP_SIZE, NO_EXE, PrctlMmMap
from prctlmm_lab.kernel.effects import UNKNOWN, shown_after
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.kernel.rules import ExeFile, explain
from prctlmm_lab.specimen.process import (
    Specimen,
    check_descriptor,
    check_maps,
    check_options,
    check_permissions,
    check_resource,
)
from prctlmm_lab.specimen.recording import mode, store
from prctlmm_lab.specimen.recording.marks import PREDICTED, note
from prctlmm_lab.specimen.recording.state import NotRecorded, State
from prctlmm_lab.specimen.spawn import check_texts

_IDENTITY = ("getuid", "geteuid", "getgid", "getegid")

Fallback = Callable[[State], tuple[Any, State]]
"""From a state to an answer and the next state."""


class RecordedSpecimen(Specimen):
    """A specimen without a process: it answers as a real one did when it was recorded."""

    def __init__(
        self,
        build: str = "static",
        *,
        arguments: Sequence[bytes] = (b"specimen",),
        environment: Sequence[bytes] = (b"LAB=prctlmm_lab",),
        heap_pages: int = 4,
        randomize: bool = True,
        deadline: float = 10.0,
    ) -> None:
        check_options(build, heap_pages, deadline)
        check_texts(arguments, environment)
        self.recording = store.shipped()
        self.build, self.deadline, self.machine = build, deadline, self.recording.machine
        self.undivided = threading.RLock()
        self.pid = store.PID
        self._ended: SpecimenGone | None = None
        self._is_another_program = False
        self._node: int | None = None
        self.weakest = self.recording.origin
        start = store.key("start", _start(build, arguments, environment, heap_pages))
        edge = self.recording.edges.get((None, start))
        if edge is None:
            raise NotRecorded(
                f"A {build} specimen with these arguments, this environment and {heap_pages} pages "
                "of heap was not recorded"
            )
        assert edge.to is not None
        self._enter(edge.to)
        vmas = [vma for vma in self._state.vmas if vma.end not in self._state.grows_down]
        self._top = max(vma.end for vma in vmas if vma.label != "[vsyscall]")
        """Below this the kernel looks for room."""

    def _enter(self, node: int) -> None:
        self._node, self._state = node, self.recording.state(node)
        self._follow()

    def _follow(self) -> None:
        self.exe_changed, self.moved = self._state.exe_changed, self._state.moved

    # ---- life ---------------------------------------------------------------------------------

    @property
    def origin(self) -> str:  # type: ignore[override]
        """Where its present state comes from."""
        return PREDICTED if self._node is None else self.recording.origin

    @property
    def alive(self) -> bool:
        """True until `stop`."""
        return self._ended is None

    def stop(self) -> None:
        """End it; a second call does nothing."""
        if self._ended is None:
            self._ended = SpecimenGone(self.pid, "stop()", -1, -1)

    def __repr__(self) -> str:
        state = "alive" if self.alive else "ended"
        return f"<Specimen {self.build} {self.origin}, {state}>"

    @property
    def own_memory(self) -> tuple[int, int]:
        """The range, its end exclusive, that its program uses."""
        return self._state.own_memory

    def _require(self, step: str) -> None:
        if self._ended is not None:
            raise SpecimenGone(self.pid, f"{self._ended.step}, before {step}", -1, -1)
        if self._is_another_program:
            raise SpecimenGone(self.pid, f"execve, before {step}", -1, -1)

    # ---- walking ------------------------------------------------------------------------------

    def _act(
        self, method: str, arguments: Mapping[str, Any], fallback: Fallback | None = None
    ) -> Any:
        """Answer a call that acts: as recorded, else as predicted, and go to the state after it."""
        with self.undivided:
            self._require(f"{method}()")
            edge = self.recording.edges.get((self._node, store.key(method, arguments)))
            if self._node is None or edge is None:
                return self._predict(method, fallback)
            if edge.to is not None and edge.to != self._node:
                self._enter(edge.to)
            note(self.recording.origin)
            if edge.error is not None:
                raise SystemCallError(*edge.error)
            return edge.answer

    def _predict(self, method: str, fallback: Fallback | None) -> Any:
        if fallback is None:
            raise NotRecorded(f"{method}() was not recorded at this place")
        try:
            answer, state = fallback(self._state)
        finally:
            note(PREDICTED)
            self.weakest = PREDICTED
        if state is not self._state:
            beside = replace(state.beside, origin=PREDICTED)
            snapshot = replace(state.snapshot, beside=beside)
            self._state, self._node = replace(state, beside=beside, snapshot=snapshot), None
            self._follow()
        return answer

    def _look(self, step: str) -> State:
        """Return the present state for a call that only reads."""
        self._require(step)
        note(self.origin)
        return self._state

    @property
    def facts(self) -> Facts:
        """The recorded kernel's facts."""
        return self.recording.known_facts

    def was_recorded(self, method: str, **arguments: Any) -> bool:
        """Tell whether a call would now have the answer of a real kernel."""
        key = self._node, store.key(method, arguments)
        return self._node is not None and key in self.recording.edges

    def origin_of_call(self, new: PrctlMmMap, size: int, arg5: int, pointer: int | None) -> str:
        """Return where the answer to a call would come from."""
        recorded = self.was_recorded("set_map", **_call(new, size, arg5, pointer))
        return self.recording.origin if recorded else PREDICTED

    # ---- the primitive ------------------------------------------------------------------------

    def attempt(self, name: str, *arguments: int) -> int:
        """Answer a system call that was recorded, or that only asks who it is."""
        if name in _IDENTITY and not arguments:
            return self._look(name).identity[_IDENTITY.index(name)]
        if name == "brk" and len(arguments) == 1:
            return self.brk(*arguments)
        return int(self._act("attempt", {"name": name, "arguments": list(arguments)}))

    # ---- memory -------------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        """Return bytes of the recorded memory."""
        state, end = self._look("read()").reached(address, length, "r")
        self._state = state
        if end < address + length:
            raise SystemCallError(errno.EFAULT, "pwrite64", (4, end, address + length - end, 0))
        return state.read(address, length)

    def can_read(self, address: int, length: int) -> bool:
        """Tell whether all bytes can be read; more than 1 MiB is judged by its first."""
        length = min(length, 1 << 20)
        self._state, end = self._look("can_read()").reached(address, length, "r")
        return end == address + length

    def write(self, address: int, data: bytes) -> None:
        """Write bytes into the recorded memory."""

        def written(state: State) -> tuple[None, State]:
            grown, end = state.reached(address, len(data), "w")
            after = grown.written(address, data[: end - address])
            if end < address + len(data):
                self._state = after
                raise SystemCallError(errno.EFAULT, "pread64", (4, end, len(data), 0))
            return None, after

        self._act("write", {"address": address, "data": data}, written)

    def place(self, data: bytes) -> int:
        """Refuse: a recording has no scratch memory."""
        raise NotRecorded("A system call over scratch memory was not recorded")

    def map(
        self,
        length: int,
        *,
        at: int | None = None,
        permissions: str = "rw-",
        shared: bool = False,
        descriptor: int = -1,
        offset: int = 0,
        grows_down: bool = False,
    ) -> int:
        """Map memory and return its address."""
        check_permissions(permissions)
        arguments = {
            "length": length, "at": at, "permissions": permissions, "shared": shared,
            "descriptor": descriptor, "offset": offset, "grows_down": grows_down,
        }  # fmt: skip
        plain = descriptor < 0 and not shared and not grows_down and not offset
        facts = self.facts
        fallback: Fallback = lambda state: state.mapped(length, at, permissions, self._top, facts)  # noqa: E731
        return int(self._act("map", arguments, fallback if plain else None))

    def unmap(self, address: int, length: int) -> None:
        """Unmap whatever lies in the range."""
        self._act(
            "unmap", {"address": address, "length": length},
            lambda state: (None, state.unmapped(address, length, self.facts)),
        )  # fmt: skip

    def protect(self, address: int, length: int, permissions: str) -> None:
        """Change the permissions of mapped memory."""
        check_permissions(permissions)
        self._act(
            "protect", {"address": address, "length": length, "permissions": permissions},
            lambda state: (None, state.protected(address, length, permissions, self.facts)),
        )  # fmt: skip

    def brk(self, address: int = 0) -> int:
        """Ask for a new end of the heap and return what it is then."""
        if address == 0:
            return self._look("brk()").snapshot.brk or 0

        def moved(state: State) -> tuple[int, State]:
            from prctlmm_lab.specimen.situation import memory_of

            memory = replace(memory_of(self, state.own_map, state.snapshot), unknown=(0, 0))
            answer, after = state.with_heap_end(address, memory, self.facts)
            return answer, state if answer == state.snapshot.brk else after

        return int(self._act("brk", {"address": address}, moved))

    # ---- limits, identity, files, programs ------------------------------------------------------

    def limit(self, resource: str) -> tuple[int, int]:
        """Return the soft and hard limit of a resource; 2**64 - 1 is unlimited."""
        return self._look("limit()").limit(check_resource(resource))

    def set_limit(self, resource: str, soft: int, hard: int | None = None) -> None:
        """Set a limit."""
        name = check_resource(resource)

        def limited(state: State) -> tuple[None, State]:
            now = state.limit(name)
            wanted = soft, now[1] if hard is None else hard
            if wanted[0] > wanted[1] or wanted[1] > now[1]:
                number = errno.EINVAL if wanted[0] > wanted[1] else errno.EPERM
                raise SystemCallError(number, "prlimit64", (0, 0, 0, 0))
            return None, state if wanted == now else state.with_limit(name, *wanted)

        self._act("set_limit", {"resource": name, "soft": soft, "hard": hard}, limited)

    def become(self, uid: int, gid: int | None = None) -> None:
        """Take on another identity."""
        self._act("become", {"uid": uid, "gid": gid})

    def enter_user_namespace(self, *, map_ids: bool = True) -> None:
        """Move into a new user namespace."""
        self._act("enter_user_namespace", {"map_ids": map_ids})

    def keep_capabilities(self, mask: int) -> None:
        """Give up capabilities."""
        self._act("keep_capabilities", {"mask": mask})

    def open(self, path: str | bytes, flags: int = 0, mode: int = 0o600) -> int:
        """Open a file and return the descriptor."""
        name = path if isinstance(path, str) else path.decode("utf-8", "surrogateescape")
        return int(self._act("open", {"path": name, "flags": flags, "mode": mode}))

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        check_descriptor(descriptor)

        def closed(state: State) -> tuple[None, State]:
            if descriptor not in state.descriptors:
                raise SystemCallError(errno.EBADF, "close", (descriptor,))
            left = {k: v for k, v in state.descriptors.items() if k != descriptor}
            return None, replace(state, descriptors=left)

        self._act("close", {"descriptor": descriptor}, closed)

    def file_kind(self, descriptor: int) -> tuple[int, int]:
        """Return the mode of an open file, and the number of the device that it is."""
        known = self._look("file_kind()").descriptors.get(descriptor)
        if known is None:
            raise SystemCallError(errno.EBADF, "fstat", (descriptor,))
        return known.kind, known.device

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file."""
        self._act("write_file", {"path": path, "data": data})

    def memory_file(self, name: str, contents: bytes = b"", mode: int = 0o755) -> int:
        """Make a file that lives in memory and return a descriptor of it."""
        return int(self._act("memory_file", {"name": name, "contents": contents, "mode": mode}))

    def file_on_own_mount(self, name: str, *, noexec: bool = False) -> int:
        """Make an executable file on a tmpfs of its own; return a descriptor."""
        return int(self._act("file_on_own_mount", {"name": name, "noexec": noexec}))

    def release_executable(self) -> None:
        """Leave no mapping of its own executable."""
        self._act("release_executable", {})

    def restart(
        self, arguments: Sequence[bytes], environment: Sequence[bytes], *, heap_pages: int = 4
    ) -> None:
        """Execute its own program again."""
        check_texts(arguments, environment)
        self._act("restart", _texts(arguments, environment) | {"heap_pages": heap_pages})

    def execute(
        self, path: str, arguments: Sequence[bytes], environment: Sequence[bytes] = ()
    ) -> None:
        """Become another program."""
        check_texts(arguments, environment)
        self._act("execute", {"path": path} | _texts(arguments, environment))
        self._is_another_program = True

    # ---- the call -----------------------------------------------------------------------------

    def set_map(
        self, new: PrctlMmMap, *, size: int = MAP_SIZE, arg5: int = 0, pointer: int | None = None
    ) -> int:
        """Answer the call: the recorded errno, or the one that the rules predict."""

        def judged(state: State) -> tuple[int, State]:
            from prctlmm_lab.specimen.situation import situation_of

            struct = new
            if pointer is not None and self.can_read(pointer, MAP_SIZE):
                struct = PrctlMmMap.unpack(self.read(pointer, MAP_SIZE))
            situation = situation_of(self, struct, size=size, arg5=arg5, pointer=pointer)
            answer = explain(situation, self.facts).errno
            return answer, state if answer else self._after(struct)

        return int(self._act("set_map", _call(new, size, arg5, pointer), judged))

    def set_maps(self, maps: bytes) -> bytes:
        """Answer the call for an array of packed maps, one errno byte for each."""
        check_maps(maps)

        def judged(state: State) -> tuple[bytes, State]:
            structs = (maps[at : at + MAP_SIZE] for at in range(0, len(maps), MAP_SIZE))
            answers = bytes(self.set_map(PrctlMmMap.unpack(struct)) for struct in structs)
            return answers, self._state

        return bytes(self._act("set_maps", {"maps": maps}, judged))

    def take(self, new: PrctlMmMap | None) -> None:
        """Go to the state after the last map that others judged to be accepted, if any was."""
        self._predict("take", lambda state: (None, self._after(new) if new else state))

    def _after(self, new: PrctlMmMap) -> State:
        """Return the present state with an accepted map in force."""
        from prctlmm_lab.specimen.situation import memory_of

        state = self._state
        memory = replace(memory_of(self, new, state.snapshot), unknown=(0, 0))
        state = self._state  # looking at its memory may have made it grow
        shown = _told(shown_after(_readable(state.snapshot), new, memory, self.facts))
        changed = new.exe_fd != NO_EXE
        beside = state.beside
        if changed:
            beside = replace(beside, exe_mapped=False, program="")
        return replace(
            state, snapshot=shown, beside=beside, exe_changed=state.exe_changed or changed
        )

    def current_map(self) -> PrctlMmMap:
        """Return the map that changes nothing."""
        return self._look("current_map()").own_map

    def snapshot(self, *, smaps: bool = False) -> Snapshot:
        """Return what /proc showed, or is predicted to show."""
        if self._ended is not None:
            self._require("snapshot()")
        note(self.origin)
        snapshot = self._state.snapshot
        if self._node is None and not self._is_another_program:
            # To read cmdline and environ can make a stack grow; the next look shows it.
            self._state = self._after(self._state.own_map)
        if smaps:
            missing = Unreadable(f"/proc/{self.pid}/smaps", errno.ENODATA)
            snapshot = replace(snapshot, smaps=missing)
        return snapshot

    def rebuilt(self, name: str, work: Callable[[], None]) -> None:
        """Become what the work of this name made when it was recorded."""
        self._act("rebuilt", {"name": name})

    def observed(self, name: str, look: Callable[[int], str]) -> str:
        """Return what the look of this name told when it was recorded."""
        if self._ended is not None:
            self._require(f"observed({name!r})")
        edge = self.recording.edges.get((self._node, store.key("observed", {"name": name})))
        if self._node is None or edge is None:
            raise NotRecorded(f"What {name} tells was not recorded at this place")
        note(self.recording.origin)
        return str(edge.answer)

    # ---- what the rules ask -------------------------------------------------------------------

    def grows_down(self) -> frozenset[int]:
        """Return the ends of the VMAs that grow down."""
        return self._state.grows_down

    def link(self, descriptor: int) -> str:
        """Return what the link of a descriptor reads, "" for one that is not open."""
        known = self._state.descriptors.get(descriptor)
        return known.link if known else ""

    def exe_file(self, descriptor: int) -> ExeFile:
        """Return what the rules ask about a descriptor."""
        known = self._state.descriptors.get(descriptor)
        return known.file if known else ExeFile()


_TEXTS = ("cmdline", "environ")


def _readable(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot without what an earlier prediction could not tell."""
    lost = [n for n in _TEXTS if _errno_of(getattr(snapshot, n)) in (errno.ENODATA, errno.EFBIG)]
    return replace(snapshot, **dict.fromkeys(lost, b"")) if lost else snapshot  # type: ignore[arg-type]


def _told(snapshot: Snapshot) -> Snapshot:
    """Return a predicted snapshot in which what cannot be told is not readable (ENODATA)."""
    lost = {
        name: Unreadable(f"/proc/{store.PID}/{name}", errno.ENODATA)
        for name in _TEXTS
        if getattr(snapshot, name) is UNKNOWN
    }
    return replace(snapshot, **lost) if lost else snapshot  # type: ignore[arg-type]


def _errno_of(part: object) -> int:
    return part.errno if isinstance(part, Unreadable) else 0


def _start(
    build: str, arguments: Sequence[bytes], environment: Sequence[bytes], heap_pages: int
) -> dict[str, Any]:
    return {"build": build, **_texts(arguments, environment), "heap_pages": heap_pages}


def _texts(arguments: Sequence[bytes], environment: Sequence[bytes]) -> dict[str, Any]:
    return {"arguments": list(arguments), "environment": list(environment)}


def _call(new: PrctlMmMap, size: int, arg5: int, pointer: int | None) -> dict[str, Any]:
    return {"new": new.pack(), "size": size, "arg5": arg5, "pointer": pointer}


def read_snapshot(pid: int | str = "self", *, smaps: bool = False) -> Snapshot:
    """Read everything /proc says about a process, as `procfs.read_snapshot` does.

    Where there is no /proc, the caller's own is one of a Python that was recorded.
    """
    if pid == "self" and mode.is_recorded() and not os.path.exists("/proc/self/stat"):
        recording = store.shipped()
        note(recording.origin)
        assert recording.python is not None
        return recording.state(recording.python).snapshot
    return procfs.read_snapshot(pid, smaps=smaps)
