"""The headers of an executable, compared with what pyelftools reads in the same file."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from prctlmm_lab.kernel.procfs import Snapshot, Stat
from prctlmm_lab.specimen.build import BUILDS, binary_path
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.witnesses.executable import NoExecutable, executable_of, read_executable

FILES = [*map(binary_path, BUILDS), Path(sys.executable), Path("/bin/sh")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_headers_are_those_that_pyelftools_reads(path: Path) -> None:
    with path.open("rb") as file:
        read = read_executable(file)
        assert read is not None
        elf = ELFFile(file)
        header = elf.header
        loaded = [s.header for s in elf.iter_segments("PT_LOAD")]
        asked = [s.get_interp_name() for s in elf.iter_segments("PT_INTERP")]  # type: ignore[attr-defined]
        assert read.entry == header["e_entry"]
        assert (read.headers_offset, read.header_count) == (header["e_phoff"], header["e_phnum"])
        assert read.is_relocatable == (header["e_type"] == "ET_DYN")
        assert read.interpreter == "".join(asked)
        fields = ("p_vaddr", "p_offset", "p_filesz", "p_memsz")
        assert [(s.start, s.offset, s.file_size, s.memory_size) for s in read.segments] == [
            tuple(h[name] for name in fields) for h in loaded
        ]
        assert [s.is_executable for s in read.segments] == [bool(h["p_flags"] & 1) for h in loaded]


def test_it_was_moved_as_much_as_its_entry(specimen: Specimen) -> None:
    snapshot = specimen.snapshot()
    read = executable_of(snapshot)
    assert read is not None
    entries = {entry.name: entry.value for entry in snapshot.aux_entries}
    code = snapshot.vma_at(entries["AT_ENTRY"])
    assert code is not None
    assert read.moved(code) == entries["AT_ENTRY"] - read.entry
    assert read.headers_address is not None
    assert entries["AT_PHDR"] - entries["AT_ENTRY"] == read.headers_address - read.entry


def test_what_is_no_program_says_so() -> None:
    for data in (b"", b"#!/bin/sh\n", b"\x7fELF", bytes(200)):
        with pytest.raises(NoExecutable, match="it has no ELF header"):
            read_executable(io.BytesIO(data))


def test_one_of_another_machine_is_not_read() -> None:
    data = bytearray(binary_path("static").read_bytes())
    data[18] = 183  # EM_AARCH64
    assert read_executable(io.BytesIO(bytes(data))) is None


def test_a_file_that_is_cut_off_never_raises_anything_else() -> None:
    data = binary_path("static").read_bytes()
    for end in range(64, 400, 7):
        try:
            read = read_executable(io.BytesIO(data[:end]))
        except NoExecutable:
            continue
        assert read is None or read.segments


def test_a_number_that_is_used_again_is_not_taken_for_the_process() -> None:
    with Specimen() as specimen:
        snapshot = specimen.snapshot()
        assert executable_of(snapshot) is not None
        assert isinstance(snapshot.stat, Stat)
        then = snapshot.stat["starttime"] - 1
        numbers = {**snapshot.stat.numbers, "starttime": then}
        earlier: Snapshot = dataclasses.replace(
            snapshot, stat=dataclasses.replace(snapshot.stat, numbers=numbers)
        )
        assert executable_of(earlier) is None
    assert executable_of(snapshot) is None
