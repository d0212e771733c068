"""The calls that CRIU's restorer really made, and the comparison of an image with them.

A restorer takes 12 of the 14 members from the image. The other two are its own: `auxv` is where it
keeps the vector meanwhile, and `exe_fd` its descriptor of the executable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import MAP_SIZE, MEMBERS, PrctlMmMap
from prctlmm_lab.kernel.auxv import AuxEntry, decode_auxv, encode_auxv
from prctlmm_lab.kernel.procfs import Vma, parse_vma
from prctlmm_lab.restore.criu.images import CriuMemory, image_folder, shipped_images

RESTORERS_OWN = ("auxv", "exe_fd")
"""The members that no image can tell."""


@dataclass(frozen=True)
class CapturedCall:
    """One PR_SET_MM_MAP call, as the kernel received it."""

    pid: int
    comm: str
    raw: bytes
    """The 104 bytes of the struct."""
    vector: bytes
    """The auxiliary vector that it pointed to."""
    exe: str
    """What exe_fd named."""
    vmas: tuple[Vma, ...]
    """The caller's VMAs at that moment: those of the image, and the restorer's own."""
    size: int = MAP_SIZE
    arg5: int = 0

    @property
    def map(self) -> PrctlMmMap:
        """The 14 members."""
        return PrctlMmMap.unpack(self.raw)

    @property
    def aux_entries(self) -> tuple[AuxEntry, ...]:
        """The auxiliary vector decoded."""
        return decode_auxv(self.vector)


def call_of(data: Mapping[str, Any]) -> CapturedCall:
    """Make a call from what was written down of it, as in data/criu/prctl-calls.json.

    Raises InputError for what is no such record.
    """
    try:
        if "vector" in data:
            vector = bytes.fromhex(data["vector"])
        else:
            vector = encode_auxv((kind, int(value, 16)) for kind, value in data["auxv"])
        call = CapturedCall(
            pid=int(data["pid"]),
            comm=str(data["comm"]),
            raw=bytes.fromhex(data["raw"]),
            vector=vector,
            exe=str(data["exe_fd_is"]),
            vmas=tuple(parse_vma(line.encode("utf-8", "surrogateescape")) for line in data["maps"]),
            size=int(data["arg4"]),
            arg5=int(data["arg5"]),
        )
        call.map  # noqa: B018  raises for another length than 104
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError("captured call", f"is not whole: {error}") from None
    return call


def shipped_calls() -> tuple[CapturedCall, ...]:
    """Return the two calls that restored the checkpoint that comes with the lab.

    >>> [(call.comm, len(call.raw), call.exe) for call in shipped_calls()]
    [('sleep', 104, '/usr/bin/sleep'), ('sh', 104, '/usr/bin/dash')]
    """
    text = (image_folder() / "prctl-calls.json").read_text("utf-8")
    return tuple(call_of(data) for data in json.loads(text))


@dataclass(frozen=True)
class MemberComparison:
    """One member: what we make of the image, and what the restorer passed."""

    member: str
    ours: bytes
    theirs: bytes

    @property
    def own(self) -> bool:
        """True for a member that is the restorer's own."""
        return self.member in RESTORERS_OWN

    @property
    def same(self) -> bool:
        """True if the bytes are the same."""
        return self.ours == self.theirs

    @property
    def word(self) -> str:
        """One word for how they compare."""
        return "same" if self.same else "its own" if self.own else "DIFFERENT"


@dataclass(frozen=True)
class Comparison:
    """An image held against the call that restored it."""

    memory: CriuMemory
    call: CapturedCall
    members: tuple[MemberComparison, ...]
    vector_same: bool
    """The vector of the image is, byte for byte, the one that the call pointed to."""

    @property
    def same(self) -> bool:
        """True if the vector and every byte of the struct are the same, the two members aside."""
        return self.vector_same and all(each.same or each.own for each in self.members)

    @property
    def same_bytes(self) -> int:
        """How many of the 104 bytes of the struct are the same, those of the two members aside."""
        return sum(len(each.ours) for each in self.members if each.same and not each.own)

    def __str__(self) -> str:
        head = f"{self.call.comm} (pid {self.call.pid}): {self.memory.source} and CRIU's own call"
        rows = [
            f"  {each.member:12} {'' if each.own else _hex(each.ours):>14} "
            f"{_hex(each.theirs):>14}  {each.word}"
            for each in self.members
        ]
        size = len(self.call.vector)
        word = "the same" if self.vector_same else "NOT the same"
        aside = sum(len(each.ours) for each in self.members if each.own)
        return "\n".join([
            head,
            f"  {'member':12} {'of the image':>14} {'in the call':>14}",
            *rows,
            f"  {self.same_bytes} of {MAP_SIZE - aside} bytes are the same; {aside} bytes are the "
            f"restorer's own;",
            f"  the vector of {size:#x} bytes is {word}.",
        ])  # fmt: skip


def compare(memory: CriuMemory, call: CapturedCall) -> Comparison:
    """Hold what we make of an image against the bytes of a call.

    >>> compare(shipped_images()[0], shipped_calls()[1]).same
    True
    """
    ours = memory.map(auxv=call.map.auxv).changed(auxv=0).pack()
    parts = tuple(
        MemberComparison(
            member.name,
            ours[member.offset : member.offset + member.size],
            call.raw[member.offset : member.offset + member.size],
        )
        for member in MEMBERS
    )
    return Comparison(memory, call, parts, memory.vector == call.vector)


def shipped_comparisons() -> tuple[Comparison, ...]:
    """Hold each shipped image against the shipped call of the same process.

    >>> print(shipped_comparisons()[0])
    sh (pid 28): mm-28.img and CRIU's own call
      member         of the image    in the call
      start_code   0x5636613d6000 0x5636613d6000  same
    ...
      92 of 92 bytes are the same; 12 bytes are the restorer's own;
      the vector of 0x160 bytes is the same.
    """
    calls = {call.pid: call for call in shipped_calls()}
    return tuple(compare(memory, calls[memory.pid]) for memory in shipped_images())


def _hex(value: bytes) -> str:
    return hex(int.from_bytes(value, "little"))
