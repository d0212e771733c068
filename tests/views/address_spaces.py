"""Address spaces to draw: made up for hypothesis, and hostile ones."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from prctlmm_lab.kernel.abi import ADDRESSES
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import STAT_MEMBERS, Snapshot, Stat, Unreadable, Vma

PAGE = 0x1000
TOP = 1 << 64
FACTS = Facts(
    release="6.18", machine="x86_64", page_size=PAGE, available=True, refusal_errno=0,
    map_size=104, lowest=0x1000, highest=0x7FFFFFFFEFFF, auxv_capacity=0x1A0,
    empty_data_accepted=True, heap_below_data_accepted=True, exe_permission_errno=1,
    exe_capabilities=1 << 21 | 1 << 40, exe_permission_early=False, exe_changes_once=False,
    mapped_exe_refused=True, written_exe_refused=True, touching_heap_labelled=False,
    code_size_clamped=True, hole_shrinks=False,
)  # fmt: skip

HOSTILE = (
    "/tmp/<script>alert(1)</script>",
    '/tmp/"><img src=x onerror=alert(1)>',
    "/tmp/a&b;c",
    "/tmp/new\nline\x1b[31m",
    "/tmp/not-utf8-\udcff\udc80",
    "/tmp/$x^2$ and \\frac{1}",
    "/tmp/日本語のファイル",
    "/tmp/\u202egpj.exe",
    "/tmp/" + "long" * 200,
    "/" * 9,
)


def vma(start: int, end: int, permissions: str = "rw-p", name: str = "") -> Vma:
    """Return a VMA; a name in brackets is a label, another one a path."""
    label = name if name.startswith("[") else ""
    path = "" if label else name
    return Vma(start, end, permissions, 0, (1, 2), 7 if path else 0, path, label, False)


def snapshot(
    vmas: tuple[Vma, ...] | Unreadable, members: dict[str, int], comm: str = "made up"
) -> Snapshot:
    """Return a snapshot with these VMAs and members; a member that is not given is 0."""
    nothing = Unreadable("/proc/42/none", 2)
    stat = Stat(comm, "S", {name: members.get(name, 0) for name in STAT_MEMBERS})
    return Snapshot(42, stat, nothing, nothing, vmas, nothing, nothing, nothing, nothing, nothing,
                    brk=members.get("brk"))  # fmt: skip


_NAMES = st.sampled_from(
    ("", "", "[heap]", "[stack]", "[vdso]", "[anon: x]", "/lib/libc.so.6", "/bin/cat", *HOSTILE)
)
_PERMISSIONS = st.sampled_from(("r--p", "r-xp", "rw-p", "---p", "rw-s", "rwxp"))
_PAGES = st.one_of(
    st.integers(0, 40),
    st.integers(0x400, 0x440),
    st.integers(0x7FFFFFFDE - 20, 0x7FFFFFFFF),
    st.integers(0, (TOP // PAGE) - 1),
)


@st.composite
def vmas(draw: st.DrawFn, most: int = 40) -> tuple[Vma, ...]:
    """Draw VMAs in ascending order, some of them touching."""
    borders = sorted(draw(st.sets(_PAGES, min_size=2, max_size=most)))
    areas = []
    for low, high in pairwise(borders):
        if draw(st.booleans()):
            areas.append(vma(low * PAGE, high * PAGE, draw(_PERMISSIONS), draw(_NAMES)))
    return tuple(areas)


def addresses(areas: tuple[Vma, ...]) -> st.SearchStrategy[int]:
    """Draw addresses: at and around the borders, inside, at the ends of all, anywhere."""
    borders = [border + by for area in areas for border in (area.start, area.end)
               for by in (-1, 0, 1, 8, 0x100) if 0 <= border + by < TOP]  # fmt: skip
    special = (0, 1, 0xFFF, 0x7FFFFFFFEFFF, 0x7FFFFFFFF000, 1 << 47, 0xFFFF800000000000, TOP - 1)
    return st.one_of(st.sampled_from([*borders, *special]), st.integers(0, TOP - 1))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Draw a whole snapshot."""
    areas = draw(vmas())
    values = draw(st.lists(addresses(areas), min_size=11, max_size=11))
    return snapshot(areas, dict(zip(ADDRESSES, values, strict=True)), draw(_NAMES))
