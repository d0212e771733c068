"""The struct and its constants, against ctypes, the system's headers and the running kernel."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import (
    ADDRESSES,
    MAP_SIZE,
    MEMBER,
    MEMBERS,
    NO_EXE,
    PR_SET_MM,
    U32,
    U64,
    Operation,
    PrctlMmMap,
)
from prctlmm_lab.kernel.procfs import STAT_FIELDS
from prctlmm_lab.specimen.probe import ask_map_size
from prctlmm_lab.specimen.process import Specimen
from tests.needs import skip_unless

HEADER = Path("/usr/include/linux/prctl.h")


class CMap(ctypes.Structure):
    """The struct as a C compiler lays it out."""

    _fields_ = (
        ("start_code", ctypes.c_uint64),
        ("end_code", ctypes.c_uint64),
        ("start_data", ctypes.c_uint64),
        ("end_data", ctypes.c_uint64),
        ("start_brk", ctypes.c_uint64),
        ("brk", ctypes.c_uint64),
        ("start_stack", ctypes.c_uint64),
        ("arg_start", ctypes.c_uint64),
        ("arg_end", ctypes.c_uint64),
        ("env_start", ctypes.c_uint64),
        ("env_end", ctypes.c_uint64),
        ("auxv", ctypes.c_uint64),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    )


def maps() -> st.SearchStrategy[PrctlMmMap]:
    widths = {m.name: st.integers(0, U64 if m.size == 8 else U32) for m in MEMBERS}
    return st.builds(PrctlMmMap, **widths)


def header() -> str:
    skip_unless(HEADER.exists(), "the kernel's headers (linux-libc-dev) are not installed")
    return HEADER.read_text()


@given(maps())
def test_packed_bytes_are_those_of_a_c_struct(new: PrctlMmMap) -> None:
    in_c = CMap(**dict(new))
    assert new.pack() == bytes(in_c)
    assert PrctlMmMap.unpack(bytes(in_c)) == new
    assert bytes.fromhex(new.hex()) == bytes(in_c)


def test_members_lie_where_a_c_compiler_puts_them() -> None:
    in_c = [getattr(CMap, name) for name, _ in CMap._fields_]
    assert [(m.name, m.offset, m.size) for m in MEMBERS] == [
        (name, place.offset, place.size)
        for (name, _), place in zip(CMap._fields_, in_c, strict=True)
    ]
    assert ctypes.sizeof(CMap) == MAP_SIZE


def test_members_are_those_of_the_kernel_header() -> None:
    body = re.search(r"struct prctl_mm_map \{(.*?)\}", header(), re.DOTALL)
    assert body is not None
    found = re.findall(r"__u(64|32)\s+(\*?)\s*(\w+);", body[1])
    assert [name for _, _, name in found] == [m.name for m in MEMBERS]
    assert [int(bits) // 8 for bits, _, _ in found] == [m.size for m in MEMBERS]


def test_operations_are_those_of_the_kernel_header() -> None:
    found = dict(re.findall(r"#\s*define PR_SET_MM_(\w+)\s+(\d+)", header()))
    assert {operation.name: str(int(operation)) for operation in Operation} == found
    assert re.search(rf"#define PR_SET_MM\s+{PR_SET_MM}\b", header())


def test_the_running_kernel_has_the_same_size(specimen: Specimen) -> None:
    assert ask_map_size(specimen) == (0, MAP_SIZE)


def test_stat_fields_have_the_numbers_of_the_members() -> None:
    numbered = {m.name: m.stat_field for m in MEMBERS if m.stat_field}
    assert numbered == {name: STAT_FIELDS.index(name) + 1 for name in numbered}
    assert sorted(numbered.values()) == [26, 27, 28, *range(45, 52)]


def test_addresses_are_the_first_eleven() -> None:
    assert [name for name, _ in CMap._fields_[:11]] == list(ADDRESSES)


def test_the_default_changes_neither_vector_nor_exe() -> None:
    assert dict(PrctlMmMap()) == dict.fromkeys(MEMBER, 0) | {"exe_fd": NO_EXE}


@pytest.mark.parametrize("member", [m.name for m in MEMBERS])
def test_a_value_that_does_not_fit_is_named(member: str) -> None:
    top = U64 if MEMBER[member].size == 8 else U32
    assert dict(PrctlMmMap().changed(**{member: top}))[member] == top
    for value in (-1, top + 1):
        with pytest.raises(InputError, match=f"^{member}: {value:#x} does not fit; .* {top:#x}$"):
            PrctlMmMap().changed(**{member: value})
        with pytest.raises(InputError, match=f"^{member}: "):
            PrctlMmMap(**{member: value})


@pytest.mark.parametrize("value", [True, 1.0, "0x1000", None])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="is not a whole number"):
        PrctlMmMap(brk=value)  # type: ignore[arg-type]


def test_an_unknown_member_leads_to_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'arg_star' is not a member .* expected arg_start\?"):
        PrctlMmMap().changed(arg_star=1)


@pytest.mark.parametrize("length", [0, 103, 105, 208])
def test_other_lengths_are_no_map(length: int) -> None:
    with pytest.raises(InputError, match=f"{length:#x} bytes are not one map; expected 0x68 bytes"):
        PrctlMmMap.unpack(bytes(length))
