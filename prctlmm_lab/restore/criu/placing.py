"""Put CRIU's image of an address space into a specimen: its VMAs, empty, and then its map."""

from __future__ import annotations

from dataclasses import dataclass

from prctlmm_lab.kernel.abi import NO_EXE
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot
from prctlmm_lab.kernel.rules import Explanation, explain
from prctlmm_lab.restore.criu.images import CriuMemory, CriuVma
from prctlmm_lab.restore.image import Area
from prctlmm_lab.restore.restorer import place
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.situation import situation_of


@dataclass(frozen=True)
class Applied:
    """An image that was put into a specimen."""

    memory: CriuMemory
    explanation: Explanation
    """What the rules said of the call."""
    errno: int
    """What the kernel said: 0 for accepted."""
    before: Snapshot
    """The specimen as it was started."""
    after: Snapshot

    @property
    def placed(self) -> tuple[CriuVma, ...]:
        """The VMAs that were mapped: all but the pages that the kernel itself puts there."""
        return tuple(vma for vma in self.memory.vmas if not vma.is_kernels)

    @property
    def agreed(self) -> bool:
        """True if the kernel answered as the rules said."""
        return self.errno == self.explanation.errno

    def __str__(self) -> str:
        left = len(self.memory.vmas) - len(self.placed)
        return (
            f"{self.memory.source} in specimen {self.after.pid}: {self.explanation.verdict}\n"
            f"  {len(self.placed)} VMAs placed, empty; {left} are the kernel's own"
        )


def apply(
    memory: CriuMemory, specimen: Specimen, *, exe_fd: int = NO_EXE, facts: Facts | None = None
) -> Applied:
    """Place an image's VMAs in a specimen and make the call that gives it the image's map.

    The specimen gives up all its own memory and lives on in pages that the image leaves free, as
    `restorer.place` does it; start it with `environment=(FRAME_ROOM,)`. The VMAs are anonymous and
    empty: contents and files are not in this image. The vector is written to a page of its own.

    >>> from prctlmm_lab.restore.criu.images import shipped_images
    >>> from prctlmm_lab.restore.restorer import FRAME_ROOM
    >>> with Specimen(environment=(FRAME_ROOM,)) as specimen:
    ...     applied = apply(shipped_images()[1], specimen)
    >>> applied.errno, applied.after.members == applied.memory.addresses
    (0, True)

    Raises SystemCallError for a step that the kernel refuses, InputError if the image leaves no
    room, SpecimenError if the specimen ends.
    """
    areas = [
        Area(
            vma.start,
            vma.end,
            vma.permissions,
            frozenset({"gd"}) if vma.grows_down else frozenset(),
        )
        for vma in memory.vmas
        if not vma.is_kernels
    ]
    with specimen.undivided:
        before = specimen.snapshot()
        specimen.rebuilt(f"CRIU's {memory.source}", lambda: place(specimen, areas))
        auxv = 0
        if memory.auxv:
            auxv = specimen.map(len(memory.vector))
            specimen.write(auxv, memory.vector)
        new = memory.map(auxv=auxv, exe_fd=exe_fd)
        explanation = explain(situation_of(specimen, new), facts or facts_here())
        number = specimen.set_map(new)
        after = specimen.snapshot()
    return Applied(memory, explanation, number, before, after)
