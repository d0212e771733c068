"""Releases: what differs between kernels, as documented; and the facts of a release not at hand.

The facts of the running kernel are probed and need none of this. `facts_on` answers "and on
v5.10?" from the table below: commits, first releases, and the stable kernels that took them over.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.facts import CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN, Facts


class Release(NamedTuple):
    """A release of Linus Torvalds' kernel, or of a stable one that continues it.

    >>> str(Release(5, 10)), str(Release(5, 10, 69)), Release(5, 9) < Release(5, 10)
    ('v5.10', 'v5.10.69', True)
    """

    major: int
    minor: int
    stable: int = 0
    """0 is the first release of its series, which is named without it."""

    def __str__(self) -> str:
        return f"v{self.series}" + (f".{self.stable}" if self.stable else "")

    @property
    def series(self) -> str:
        """The two numbers that all its stable releases begin with."""
        return f"{self.major}.{self.minor}"


INTRODUCED = Release(3, 18)
"""The first with PR_SET_MM_MAP (commit f606b77f1a9e)."""
NEWEST = Release(7, 3)
"""The newest whose source was read for this table."""
_LAST_MINOR = {3: 19, 4: 20, 5: 19, 6: 19}
"""After these the major number grew."""


def following(first: Release, last: Release) -> Iterator[Release]:
    """Yield the first releases of all series from one to another, both included.

    >>> [str(release) for release in following(Release(3, 18), Release(4, 1))]
    ['v3.18', 'v3.19', 'v4.0', 'v4.1']
    """
    release = Release(first.major, first.minor)
    while release <= last:
        yield release
        # A major number that ended after this table was written is taken to end as those before.
        usual = last.minor if release.major == last.major else 19
        ends = release.minor >= _LAST_MINOR.get(release.major, usual)
        major, minor = (release.major + 1, 0) if ends else (release.major, release.minor + 1)
        release = Release(major, minor)


RUN, SOURCE, MAIL, RECALLED = "run", "source", "mail", "recalled"
"""How a change is known, from the surest on: seen on live kernels of both sides, read in the text
of both sides, read in a mail or an announcement, or only remembered."""


@dataclass(frozen=True)
class Change:
    """One change of the kernel that a program, or whoever looks at it, can see."""

    first: Release
    """The first release that has it."""
    commits: tuple[str, ...]
    subjects: tuple[str, ...]
    """The rules and effects that it concerns, by their ids."""
    what: str
    """What it changed for programs, in a sentence."""
    fact: str = ""
    """The fact that it changes; empty for what no fact holds."""
    before: Any = None
    since: Any = None
    stable: Mapping[str, int] = field(default_factory=dict)
    """Series -> the number of its first release that took the change over."""
    known: tuple[str, ...] = (SOURCE, MAIL)
    """How the change and its commits are known."""
    doubt: str = ""
    """What of it is not certain."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stable", MappingProxyType(dict(self.stable)))

    def holds_on(self, release: Release) -> bool:
        """Tell whether a release has the change.

        >>> above_data = next(c for c in CHANGES if c.fact == "heap_below_data_accepted")
        >>> [above_data.holds_on(Release(5, 10, n)) for n in (0, 68, 69)]
        [False, False, True]
        """
        return release >= self.first or self.was_taken_over_by(release)

    def was_taken_over_by(self, release: Release) -> bool:
        """Tell whether a release is a stable one that took the change over."""
        taken = self.stable.get(release.series)
        return taken is not None and release.stable >= taken


CHANGES: tuple[Change, ...] = (
    Change(
        Release(3, 18), ("f606b77f1a9e",), ("call.option",),
        "The call exists; before, an unknown operation with a fourth argument gave EINVAL.",
        "available", False, True,
    ),
    Change(
        Release(4, 3), ("90f8572b0f02",), ("exe.noexec",),
        "File systems that forbid executing as a whole, such as proc, count as noexec too.",
        known=(SOURCE, RECALLED), doubt="the commit's first release is remembered",
    ),
    Change(
        Release(4, 10), ("3fb4afd9a504",), ("exe.once",),
        "The exe link may be changed more than once after an execve.",
        "exe_changes_once", True, False,
    ),
    Change(
        Release(4, 14), ("4d28df6152aa",), ("exe.ids", "exe.permission_early", "exe.permission"),
        "To change the exe link asks for CAP_SYS_ADMIN in the caller's user namespace, no longer "
        "for uid and gid 0 there.",
        "exe_capabilities", 0, 1 << CAP_SYS_ADMIN,
    ),
    Change(
        Release(4, 16), ("8526d84f8171",), ("status.code",),
        "VmExe is never more than what is executable, and VmLib never wraps around.",
        "code_size_clamped", False, True,
        doubt="the release follows from the queue of memory management patches: it was there "
        "before v4.16 and no longer after",
    ),
    Change(
        Release(4, 17), ("7f7ccc2ccc2e",), ("cmdline", "environ"),
        "cmdline and environ show anonymous memory only.",
        doubt="stable kernels have it too, v4.4.178 for one; since which numbers was not found",
    ),
    Change(
        Release(5, 2), ("a9e73998f9d7",), ("order.data_strict", "order.data"),
        "start_data may equal end_data.",
        "empty_data_accepted", False, True,
        {"5.1": 10, "4.19": 51, "4.14": 126, "4.9": 183, "4.4": 183},
    ),
    Change(
        Release(5, 2), ("11bbd8b41683",),
        ("exe.permission_early", "exe.permission", "auxv.readable"),
        "The permission to change the exe link is checked after the auxiliary vector is copied: "
        "where both fail, EFAULT.",
        "exe_permission_early", True, False,
        known=(SOURCE, RECALLED), doubt="the commit's id is remembered, its title was read",
    ),
    Change(
        Release(5, 3), ("d26d0cd97c88",), ("cmdline",),
        "A title that runs on behind arg_end is shown from arg_start on, at most a page of it.",
        doubt="posted for v5.2 stable kernels too",
    ),
    Change(
        Release(5, 9), ("ebd6de681238",), ("exe.permission",),
        "CAP_CHECKPOINT_RESTORE is enough to change the exe link.",
        "exe_capabilities", 1 << CAP_SYS_ADMIN, 1 << CAP_SYS_ADMIN | 1 << CAP_CHECKPOINT_RESTORE,
    ),
    Change(
        Release(5, 9), ("227175b2c914",), ("exe.permission",),
        "Without permission to change the exe link the call gives EPERM, no longer EINVAL.",
        "exe_permission_errno", errno.EINVAL, errno.EPERM,
    ),
    Change(
        Release(5, 14), ("1c33bb050750",), ("auxv.size",),
        "The saved auxiliary vector of x86-64 has room for AT_MINSIGSTKSZ.",
        "auxv_capacity", 368, 384,
    ),
    Change(
        Release(5, 15), ("e1fbbd073137",), ("heap.above_data",),
        "start_brk and brk may lie at or below end_data.",
        "heap_below_data_accepted", False, True,
        {"5.14": 8, "5.10": 69, "5.4": 149, "4.19": 208, "4.14": 248, "4.9": 284, "4.4": 285},
    ),
    Change(
        Release(5, 15), ("35d7bdc86031", "fe69d560b5bd"), ("exe.written",),
        "A file that is open for writing cannot become the exe link's.",
        "written_exe_refused", False, True, known=(RUN, SOURCE, MAIL),
    ),
    Change(
        Release(6, 1), ("2e7ce7d354f2",), ("brk.shrink", "brk.grow"),
        "brk() does not move down over a range in which nothing is mapped, and what an empty heap "
        "grows by is an area of its own, even where memory ends at start_brk.",
        "hole_shrinks", True, False, known=(RUN, SOURCE, MAIL),
        doubt="which commit of the maple tree's series brought it follows from its title",
    ),
    Change(
        Release(6, 3), ("317c8194e6ae",), ("auxv.size",),
        "The saved auxiliary vector has room for two entries about rseq.",
        "auxv_capacity", 384, 416,
    ),
    Change(
        Release(6, 7), ("d3bb89ea9c13",), ("maps.heap",),
        "A VMA that only touches start_brk or brk is not called [heap].",
        "touching_heap_labelled", True, False, known=(RUN, MAIL),
        doubt="said to be in v6.6 stable kernels too; their announcements up to v6.6.10 and a "
        "v6.6 tree read do not have it",
    ),
    Change(
        Release(6, 11), ("2a010c412853",), ("exe.written",),
        "A file that is open for writing can become the exe link's again.",
        "written_exe_refused", True, False, known=(MAIL,),
    ),
    Change(
        Release(6, 13), ("3b832035387f",), ("exe.written",),
        "A file that is open for writing cannot become the exe link's: v6.11's change is undone.",
        "written_exe_refused", False, True, {"6.12": 2, "6.11": 11}, known=(RUN, MAIL),
    ),
    Change(
        Release(7, 0), ("4ced4cf5c9d1",), ("auxv.size",),
        "The saved auxiliary vector has room for AT_HWCAP3 and AT_HWCAP4.",
        "auxv_capacity", 416, 448, {"6.19": 10, "6.18": 20}, known=(RUN, SOURCE, MAIL),
    ),
    Change(
        Release(7, 3), ("5146e0688d86",), (),
        "PR_SET_MM_AUXV replaces the whole saved vector, however short the new one is.",
        "auxv_tail_kept", True, False, {"7.2": 13, "6.12": 117, "6.1": 192},
        known=(RUN, SOURCE, MAIL),
        doubt="the release follows from its date; the stable numbers are those whose text was "
        "read: earlier ones, and other series, may have it too",
    ),
)  # fmt: skip
"""Every change, the earlier first. Where several concern one fact, they follow one another.

Sources: the text of kernel/sys.c, kernel/fork.c, fs/proc and mm in v3.18 to v7.3; announcements of
stable kernels on stable@vger.kernel.org; mails of the patches' authors.
"""

AROUND: tuple[Change, ...] = (
    Change(
        Release(3, 3), ("028ee4be34a0",), (),
        "PR_SET_MM comes, with an operation for each of some members; it asks for "
        "CAP_SYS_RESOURCE and CONFIG_CHECKPOINT_RESTORE.",
        known=(MAIL,),
    ),
    Change(
        Release(3, 5), ("fe8c7f5cbf91", "b32dfe377102"), (),
        "Operations for arguments, environment and vector, and one for the exe link, once after "
        "an execve.",
        known=(MAIL,),
    ),
    Change(
        Release(3, 10), ("52b3694157e3",), (),
        "The operations for single members are there without CONFIG_CHECKPOINT_RESTORE too.",
        known=(MAIL,),
    ),
    Change(
        Release(3, 18), (), (),
        "shmat() no longer asks how far below start_stack a place lies.",
        doubt="its title is known (ipc/shm: kill the historical/wrong mm->start_stack check), its "
        "commit's id was not found",
    ),
    Change(
        Release(4, 1), ("6e399cd144d8",), ("exe",),
        "The exe link is exchanged on its own, before the address space is locked for the rest.",
    ),
    Change(
        Release(4, 2), ("4a00e9df293d",), (),
        "The operations for single members judge the whole map with that member replaced: no pair "
        "can be reversed any more, and to move one, its far end goes first.",
    ),
    Change(
        Release(4, 2), ("c2c0bb44620d",), ("cmdline",),
        "cmdline is not cut at a page. A reader that meets arg_start above arg_end, as a call in "
        "the same moment can make it, stops the kernel (BUG).",
        known=(SOURCE, MAIL, RECALLED), doubt="the commit's id is remembered, its title was read",
    ),
    Change(
        Release(4, 5), ("ddf1d398e517", "a3b609ef9f8b"), ("cmdline", "environ"),
        "The call locks the address space for writing, and cmdline and environ copy the four "
        "bounds under that lock: no mix of two maps, and no stop of the kernel.",
        doubt="v4.4.178 has it too; since which number was not found",
    ),
    Change(
        Release(4, 5), ("84638335900f",), ("brk.limit",),
        "RLIMIT_DATA counts all private memory that can be written too: brk() has a second limit, "
        "which no member moves, and so has mmap().",
    ),
    Change(
        Release(4, 5), ("65376df58217",), ("maps.stack",),
        "maps of a process names no stacks of threads any more.",
        known=(SOURCE, MAIL, RECALLED),
        doubt="the first release is remembered; v4.4.178 has it too",
    ),
    Change(
        Release(4, 9), ("b18cb64ead40",), ("maps.stack",),
        "[stack] follows start_stack alone in every maps, that of a thread included.",
        known=(SOURCE, MAIL, RECALLED),
        doubt="the first release is remembered; v4.4.178 has it too",
    ),
    Change(
        Release(4, 18), ("88aa7cc688d4",), ("cmdline", "environ"),
        "The 11 stores and the copies of the bounds have a lock of their own, arg_lock; the "
        "address space is locked for reading only, so maps can be read in the midst of a call.",
    ),
    Change(
        Release(5, 2), ("bc81426f5bee",), (),
        "The operations for single members take arg_lock too, as does what audit reads as command "
        "line.",
        known=(SOURCE, MAIL, RECALLED), doubt="the commit's id is remembered, its title was read",
    ),
    Change(
        Release(5, 12), ("02f92b3868a1",), ("exe.executable",),
        "Whether exe_fd may be executed is asked of the open file, with its mount.",
        known=(SOURCE, MAIL, RECALLED),
        doubt="the first release is remembered; v5.10.223 has it, since which number was not found",
    ),
    Change(
        Release(5, 12), ("c995f12ad884",), (),
        "A short vector given to PR_SET_MM_AUXV no longer brings bytes of the kernel's stack into "
        "auxv.",
        doubt="posted for v5.10 stable kernels in March 2021, but not in the text of v5.10.223",
    ),
    Change(
        Release(6, 4), ("ddc65971bb67",), ("auxv",),
        "prctl(PR_GET_AUXV) returns the whole saved vector, also behind its first AT_NULL.",
        known=(RUN, MAIL),
    ),
    Change(
        Release(6, 6), ("a7031f145257",), ("exe",),
        "The exe link is exchanged with the address space locked for writing.",
    ),
    Change(
        Release(6, 6), ("11250fd12eb8",), ("maps.heap", "maps.stack"),
        "perf names a mapping [heap] or [stack] as maps does; before, [heap] had to cover "
        "start_brk to brk. SELinux asks for execheap by the same function.",
        known=(RUN, SOURCE, MAIL),
    ),
    Change(
        Release(6, 9), ("3c6539b4c177",), (),
        "execve of x86-64 no longer places the vDSO by the stack. A call could never move it.",
    ),
    Change(
        Release(6, 11), ("ed5d583a88a9",), ("maps.heap", "maps.stack"),
        "ioctl(PROCMAP_QUERY) on maps tells of one VMA, with the same names.",
        known=(SOURCE, MAIL, RECALLED), doubt="the first release is remembered",
    ),
    Change(
        Release(6, 11), ("05a3d6e93072",), (),
        "SELinux asks for execheap again only where a VMA lies inside start_brk to brk.",
        known=(MAIL,),
        doubt="posted for v6.6 and v6.10 stable kernels too; the numbers were not looked up",
    ),
)  # fmt: skip
"""What changed around the call, the earlier first: locks, other operations, and readers.

No verdict over a map and no fact depends on these; subjects are the effects and rules nearby.
"""

DEVIATIONS: tuple[Change, ...] = (
    Change(
        Release(6, 5), ("8d7071af8907",), ("cmdline",),
        "Whoever reads another process's memory grows its stack with the address space locked for "
        "writing. In v6.1 stable kernels only a read that begins in the gap below a stack grows "
        "it: a title that runs on into the gap ends there.",
        "crossing_read_grows", True, False, {"6.1": 37}, known=(RUN, SOURCE, MAIL, RECALLED),
        doubt="v6.1.192 was read and run; that it came with v6.1.37 is remembered",
    ),
    Change(
        Release(6, 14), ("0357ef03c94e",), ("exe.written",),
        "A file that fanotify watches before its contents are read is not kept from being written "
        "while it is the exe link's. In v6.12 stable kernels, which lack a fix of v6.14, neither "
        "is a file in memory by the descriptor that it was made with.",
        "unopened_exe_refused", True, False, {"6.12": 117}, known=(RUN, SOURCE, MAIL, RECALLED),
        doubt="the first release is remembered; it has 711f9b8fbe4f beside it; v6.12.117 was read "
        "and v6.12.118 run, earlier ones may have it; in v6.1.192 it stands without effect",
    ),
)  # fmt: skip
"""Changes by which one series of stable kernels differs from every release, the earlier first.

What a fact holds is so in the stable kernels alone: the release had another change beside it.
"""


@dataclass(frozen=True)
class Proposal:
    """A change that was posted and is in no release."""

    when: str
    """YYYY-MM-DD, of the posting."""
    what: str
    """What it would have changed, in a sentence."""
    source: str
    """Whose it is, and where it can be read."""
    became: str
    """What came of it, as far as that is known."""


PROPOSALS: tuple[Proposal, ...] = (
    Proposal(
        "2014-07-24",
        "Each address but those of code and data must have a VMA at or above it, RLIMIT_STACK "
        "bounds the stack, and arguments and environment may not be empty.",
        "Cyrill Gorcunov, third posting of the call, <20140724165047.683455139@openvz.org>",
        "The message was merged as it stood there, in v3.18; the three checks were not. The "
        "mails that say why were not found.",
    ),
    Proposal(
        "2026-02-17",
        "An execve after a call that changed the vector hands AT_HWCAP on to the new program, and "
        "the vector is stored under arg_lock.",
        'Andrei Vagin, series on "HWCAP inheritance", 2025 to February 2026',
        "Not in v7.3-rc7. With it the kernel would care what the vector says.",
    ),
    Proposal(
        "2026-04-02",
        "The call asks for CAP_CHECKPOINT_RESTORE in the caller's user namespace, whatever it "
        "changes.",
        "Qi Tang, <20260402111332.55957-1-tpluszz77@gmail.com>",
        "Not merged: neither v7.2.13 nor v7.3-rc7 has it, and no second posting was found. The "
        "answers (Oleg Nesterov, Lorenzo Stoakes, David Hildenbrand, Andrei Vagin) held that it "
        "would break unprivileged callers such as LXC, that the caller changes only notes of its "
        "own, and that a comment in the code says on purpose that no capability is needed.",
    ),
)
"""What was posted and is in no release, the earlier first."""

DOCUMENTED: tuple[str, ...] = tuple(
    dict.fromkeys(change.fact for change in (*CHANGES, *DEVIATIONS) if change.fact)
)
"""The facts that depend on the release; the others depend on configuration and machine."""


def facts_on(release: str, here: Facts) -> Facts:
    """Return the facts of a release as documented, for a question that this kernel cannot answer.

    `release` reads `v5.10` (its first release) or `5.10.69`. What depends on configuration, file
    system or machine is as it is `here`; the kernel asked about is taken to have
    CONFIG_CHECKPOINT_RESTORE. The capacity of the auxiliary vector is documented for x86-64 with
    CONFIG_IA32_EMULATION. `assumed` names every fact that was not probed. A release newer than
    `NEWEST` has its values.

    Distributions' kernels keep a first release's name and take changes over; ask about those by
    the stable release that they contain.

    >>> from prctlmm_lab.specimen.probe import facts_here
    >>> facts_on("v4.19", facts_here()).heap_below_data_accepted
    False
    >>> facts_on("4.19.208", facts_here()).heap_below_data_accepted
    True

    The command line's equivalent is `prctlmm-lab explain RECIPE --on v4.19`.

    Raises InputError for what is no release.
    """
    asked = read_release(release)
    values = {name: _value(name, asked) for name in _documented_for(here)}
    limit = f" to {NEWEST}" if asked[:2] > NEWEST[:2] else ""
    return replace(
        here,
        release=f"{asked} (documented{limit})",
        refusal_errno=0 if values["available"] else errno.EINVAL,
        assumed=tuple(dict.fromkeys([*values, "refusal_errno", *here.assumed])),
        **values,
    )


def read_release(text: str, where: str = "release") -> Release:
    """Read the name of a release: `v5.10`, `5.10`, `5.10.69`.

    >>> read_release("v5.10.69")
    Release(major=5, minor=10, stable=69)

    Raises InputError for anything else, and for a series that there never was; `where` names the
    place in messages.
    """
    found = re.fullmatch(r"v?([0-9]{1,3})\.([0-9]{1,3})(?:\.([0-9]{1,3}))?", text)
    shown = repr(text) if len(text) <= 40 else repr(text[:40]) + "..."
    if found is None:
        raise InputError(where, "is no release", shown, "one like v5.10 or 5.10.69")
    release = Release(*(int(number or 0) for number in found.groups()))
    last = _LAST_MINOR.get(release.major, release.minor)
    if release.minor > last:
        raise InputError(where, "was never released", shown,
                         f"v{release.major}.0 to v{release.major}.{last}")  # fmt: skip
    return release


def _documented_for(here: Facts) -> Iterator[str]:
    for name in DOCUMENTED:
        if name != "auxv_capacity" or here.machine == "x86_64":
            yield name


def _value(fact: str, release: Release) -> Any:
    """Return what the last change that the release has left of a fact."""
    for change in DEVIATIONS:
        if change.fact == fact:
            return change.since if change.was_taken_over_by(release) else change.before
    changes = [change for change in CHANGES if change.fact == fact]
    held = [change.since for change in changes if change.holds_on(release)]
    return held[-1] if held else changes[0].before
