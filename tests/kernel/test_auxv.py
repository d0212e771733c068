"""The auxiliary vector, against the C library's dynamic loader and the kernel's own copy."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import PR_GET_AUXV, U64
from prctlmm_lab.kernel.auxv import TYPE_NAMES, TYPES, AuxEntry, decode_auxv, encode_auxv
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from tests.needs import needs_tool, skip_unless

WORDS = st.integers(0, U64)


@given(st.lists(st.tuples(WORDS, WORDS)))
def test_decoding_undoes_encoding(pairs: list[tuple[int, int]]) -> None:
    assert [(entry.type, entry.value) for entry in decode_auxv(encode_auxv(pairs))] == pairs


@given(st.binary(max_size=100))
def test_half_a_pair_is_read_as_if_zeros_followed(data: bytes) -> None:
    whole = data + bytes(-len(data) % 16)
    assert encode_auxv((e.type, e.value) for e in decode_auxv(data)) == whole


def test_names_are_those_of_the_kernel_headers() -> None:
    headers = [Path("/usr/include/linux/auxvec.h"), *Path("/usr/include").glob("*/asm/auxvec.h")]
    skip_unless(headers[0].exists(), "the kernel's headers (linux-libc-dev) are not installed")
    text = "".join(path.read_text() for path in headers if path.exists())
    found = dict(re.findall(r"#define (AT_\w+)\s+(\d+)\b", text))
    found = {name: value for name, value in found.items() if "VECTOR_SIZE" not in name}
    assert len(found) > 20
    assert {name: str(TYPES.get(name)) for name in found} == found


def test_the_dynamic_loader_reads_the_same_vector() -> None:
    program = needs_tool("true")
    code = {"LD_SHOW_AUXV": "1"}
    shown = subprocess.run([program], env=code, capture_output=True, text=True, timeout=10).stdout
    skip_unless(shown, "this C library's loader does not show the auxiliary vector")
    loader = dict(line.split(":", 1) for line in shown.splitlines())
    own = {entry.name: entry.value for entry in decode_auxv(Path("/proc/self/auxv").read_bytes())}
    # What is the same for every program on this kernel; the loader prints addresses in hex.
    assert int(loader["AT_PAGESZ"]) == own["AT_PAGESZ"]
    assert int(loader["AT_CLKTCK"]) == own["AT_CLKTCK"]
    assert int(loader["AT_PHENT"]) == own["AT_PHENT"]
    assert int(loader["AT_UID"]) == own["AT_UID"]
    named = {name.rstrip("?") for name in loader if name.startswith("AT_") and "?" not in name}
    assert named - {"AT_NULL"} <= set(TYPES)


def test_the_file_is_the_kernels_copy(specimen: Specimen) -> None:
    capacity = facts_here().auxv_capacity
    buffer = specimen.place(bytes(capacity))
    answer = specimen.attempt("prctl", PR_GET_AUXV, buffer, capacity, 0, 0)
    skip_unless(answer > 0, "PR_GET_AUXV came with v6.4", impossible=True)
    kept = specimen.read(buffer, capacity)
    file = specimen.snapshot().auxv
    assert isinstance(file, bytes)
    assert kept[: len(file)] == file
    assert not any(kept[len(file) :])
    assert struct.unpack_from("<2Q", file, len(file) - 16) == (0, 0)


def test_the_vector_tells_the_truth_about_a_specimen(specimen: Specimen) -> None:
    entries = {entry.name: entry.value for entry in specimen.snapshot().aux_entries}
    stat = specimen.current_map()
    assert stat.start_code <= entries["AT_ENTRY"] < stat.end_code
    assert specimen.read(entries["AT_PHDR"] - 64, 4) == b"\x7fELF"
    assert len(specimen.read(entries["AT_RANDOM"], 16)) == 16
    assert specimen.read(entries["AT_SYSINFO_EHDR"], 4) == b"\x7fELF"
    assert entries["AT_UID"] == specimen.syscall("getuid")


def test_an_unknown_name_or_number_is_refused() -> None:
    with pytest.raises(InputError, match="'AT_NOTHING' is not the name of a type"):
        encode_auxv([("AT_NOTHING", 0)])
    for pair in ((U64 + 1, 0), (0, -1)):
        with pytest.raises(InputError, match="is not a 64-bit word"):
            encode_auxv([pair])
    assert [entry.name for entry in (AuxEntry(0, 0), AuxEntry(1 << 40, 0))] == [
        TYPE_NAMES[0],
        "0x10000000000",
    ]
