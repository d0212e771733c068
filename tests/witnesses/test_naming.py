"""What memory is called: each report beside the labels of maps, which a snapshot has."""

from __future__ import annotations

from pathlib import Path

from prctlmm_lab import Specimen
from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.specimen.process import PAGE
from prctlmm_lab.witnesses.core_files import core_pattern, name_of_core, why_not_by_kernel
from prctlmm_lab.witnesses.events import MAPPED, name_of_new_page, told_by_perf
from prctlmm_lab.witnesses.naming import NOT_HERE, names_of_memory
from tests.needs import skip_unless


def test_the_reports_agree_with_a_snapshot(specimen: Specimen) -> None:
    for vma in specimen.snapshot().vmas:
        if vma.label == "[vsyscall]":
            continue
        told = names_of_memory(specimen, vma.start)
        name = vma.label or vma.path or "no name"
        assert told["maps"] == told["smaps"] == name
        query = told["PROCMAP_QUERY"].removesuffix(" (deleted)")
        assert query in (name, NOT_HERE)
        bare = name.strip("[]") if vma.label in ("[heap]", "[stack]") else "no name"
        if vma.path:
            assert told["numa_maps"].startswith("file=") or told["numa_maps"] == NOT_HERE
        else:
            assert told["numa_maps"] in (bare, NOT_HERE)


def test_where_nothing_is_mapped_nothing_has_a_name(specimen: Specimen) -> None:
    page = specimen.map(PAGE)
    specimen.unmap(page, PAGE)
    told = names_of_memory(specimen, page)
    assert {*told.lines.values()} <= {"no memory", NOT_HERE}
    assert told["maps"] == "no memory"


def test_perf_and_core_files_have_names_too() -> None:
    with Specimen() as specimen:
        start = specimen.map(3 * PAGE, permissions="r--")
        specimen.unmap(start + PAGE, PAGE)
        maps = specimen.snapshot().maps
        try:
            assert name_of_new_page(specimen, start + PAGE) == told_by_perf(specimen)[MAPPED]
            assert specimen.snapshot().maps == maps
        except UnsupportedSystem as why:
            skip_unless(False, str(why), impossible=True)


def test_a_core_file_is_named_after_the_pattern() -> None:
    with Specimen() as specimen:
        why_not = why_not_by_kernel(specimen)
        skip_unless(
            not why_not and core_pattern() == "core",
            why_not or f"core_pattern is {core_pattern()}",
            impossible=True,
        )
        uses_pid = Path("/proc/sys/kernel/core_uses_pid").read_text().strip() == "1"
        name = name_of_core(specimen)
        assert name == (f"core.{specimen.pid}" if uses_pid else "core")
        assert not specimen.alive
