"""System V shared memory in a specimen: the call that once looked at start_stack."""

from __future__ import annotations

from prctlmm_lab.errors import SystemCallError
from prctlmm_lab.specimen.process import PAGE, Specimen

IPC_PRIVATE, IPC_CREAT, IPC_RMID = 0, 0o1000, 0


def attach_shared_memory(specimen: Specimen, address: int) -> str:
    """Attach a page of shared memory at an address, take it away again, and say what came.

    The segment is the specimen's own and is gone afterwards. The answer is "attached at ADDRESS",
    or the call that was refused with its errno. Up to v3.17 shmat() refused a place within five
    pages below start_stack, where the stack was thought to grow (ipc/shm.c, do_shmat; commit
    "ipc/shm: kill the historical/wrong mm->start_stack check").

    Equivalent: `shmat(shmget(IPC_PRIVATE, 4096, 0600), address, 0)` in C.

    >>> with Specimen() as specimen:
    ...     hole = specimen.map(PAGE)
    ...     specimen.unmap(hole, PAGE)
    ...     attach_shared_memory(specimen, hole)[:11]
    'attached at'

    Raises SpecimenGone if the specimen has ended.
    """
    return specimen.observed(f"shmat({address:#x})", lambda _: _attached(specimen, address))


def _attached(specimen: Specimen, address: int) -> str:
    try:
        segment = specimen.syscall("shmget", IPC_PRIVATE, PAGE, IPC_CREAT | 0o600)
    except SystemCallError as error:
        return f"shmget: {error.errno_name}"
    try:
        at = specimen.syscall("shmat", segment, address, 0)
    except SystemCallError as error:
        return f"shmat: {error.errno_name}"
    finally:
        # Removed at once: an attached segment lives on until its last user has left it.
        specimen.syscall("shmctl", segment, IPC_RMID, 0)
    specimen.syscall("shmdt", at)
    return f"attached at {at:#x}"
