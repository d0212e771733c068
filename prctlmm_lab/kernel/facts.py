"""Facts: what must be known of a kernel for the rules and effects to be exact.

They are found by asking specimens (`prctlmm_lab.specimen.probe`), never from a version number.
"""

from __future__ import annotations

from dataclasses import dataclass

CAP_SYS_ADMIN, CAP_SYS_RESOURCE, CAP_CHECKPOINT_RESTORE = 21, 24, 40
"""Bits of a capability mask (linux/capability.h)."""


@dataclass(frozen=True)
class Facts:
    """What is true of one running kernel, as its answers showed."""

    release: str
    """`uname -r`: for the record, not for decisions."""
    machine: str
    page_size: int
    available: bool
    """True if PR_SET_MM_MAP_SIZE answered, which needs CONFIG_CHECKPOINT_RESTORE."""
    refusal_errno: int
    """What a kernel without the call answers instead; 0 where it is available."""
    map_size: int
    """Bytes of the struct, as PR_SET_MM_MAP_SIZE wrote them; 104 on 64-bit kernels."""
    lowest: int
    """The lowest address that any of the 11 members may hold (the effective mmap_min_addr)."""
    highest: int
    """The highest address that is accepted: TASK_SIZE - 1."""
    auxv_capacity: int
    """Bytes of the kernel's saved vector: the largest auxv_size that is accepted."""
    empty_data_accepted: bool
    """True if start_data == end_data passes (since v5.2, commit a9e73998f9d7, and stable)."""
    heap_below_data_accepted: bool
    """True if brk may lie below end_data (since v5.15, commit e1fbbd073137, and stable)."""
    exe_permission_errno: int
    """What a caller without permission gets for exe_fd: EPERM since v5.9 (commit 227175b2c914)."""
    exe_capabilities: int
    """Which capabilities permit a change of exe, as a mask; 0: uid and gid 0 instead (to v4.13)."""
    exe_permission_early: bool
    """True if that permission is checked before the auxiliary vector is copied (to v5.1)."""
    exe_changes_once: bool
    """True if the exe link can be changed only once after an execve (to v4.9)."""
    mapped_exe_refused: bool
    """True if exe_fd gives EBUSY while the old executable is mapped; overlayfs escapes it."""
    written_exe_refused: bool
    """True if a file that is open for writing is refused (v5.15, commit fe69d560b5bd)."""
    touching_heap_labelled: bool
    """True if a VMA that only touches start_brk or brk is called [heap] (to v6.6, d3bb89ea9c13)."""
    code_size_clamped: bool
    """True if VmExe is never more than what is executable (since v4.16, 8526d84f8171)."""
    hole_shrinks: bool
    """True if brk() moves down over a range in which nothing is mapped (to v6.0, 2e7ce7d354f2).

    The same change made what an empty heap grows by an area of its own; before, it extended memory
    that ended at start_brk.
    """
    assumed: tuple[str, ...] = ()
    """Names of facts that were not probed: they hold the newest kernels' value, or what is
    documented of a release (`prctlmm_lab.kernel.releases`)."""
    auxv_tail_kept: bool = False
    """True if PR_SET_MM_AUXV leaves the rest of the old vector behind a short one (to 2026).

    Only a caller with CAP_SYS_RESOURCE can ask; for others it makes no difference.
    """
    mapped_memory_joins: bool = True
    """True if brk() extends memory of mmap() that ends where the heap does.

    Not on arm64 (since v5.10, 9f3419315f3c) where the processor has no memory tags: brk()'s memory
    might be tagged all the same (VM_MTE_ALLOWED), that of mmap() not.
    """
    crossing_read_grows: bool = True
    """True if a read that runs on from memory into the gap below a stack grows that stack.

    In v6.1 stable kernels only a read that begins in the gap does.
    """
    unopened_exe_refused: bool = True
    """True if `written_exe_refused` holds for what memfd_create() returns as for files of open().

    In v6.12 stable kernels it does not: the check is skipped for a file on which fsnotify may ask
    before its contents are read, which is settled by open() alone.
    """
