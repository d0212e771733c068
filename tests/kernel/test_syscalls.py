"""The numbers of the system calls, against the system's headers and the running kernel."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.syscalls import NUMBERS, number
from prctlmm_lab.specimen.process import Specimen
from tests.needs import skip_unless

HEADERS = {
    "x86_64": ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"],
    "aarch64": ["/usr/include/asm-generic/unistd.h"],
}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_header(machine: str) -> None:
    header = next(filter(Path.exists, map(Path, HEADERS[machine])), None)
    skip_unless(header, f"no header with the system calls of {machine} (linux-libc-dev)")
    assert header is not None
    found = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", header.read_text()))
    # Bounds of the numbers, and a second name of one call, for powerpc and arm.
    notes = {"syscalls", "arch_specific_syscall", "sync_file_range2"}
    newest = max(NUMBERS[machine].values())
    wide_times = range(403, 424)  # only 32-bit machines have these
    theirs = {
        name: int(value)
        for name, value in found.items()
        if name not in notes and int(value) <= newest and int(value) not in wide_times
    }
    assert len(theirs) > 200
    assert {name: NUMBERS[machine].get(name) for name in theirs} == theirs


@pytest.mark.parametrize("machine", HEADERS)
def test_no_number_has_two_names(machine: str) -> None:
    table = NUMBERS[machine]
    assert len(set(table.values())) == len(table)


def test_a_name_is_the_call_it_says(specimen: Specimen) -> None:
    with open(os.devnull) as file:
        answers = {
            "getpid": specimen.pid,
            "getppid": os.getpid(),
            "getsid": specimen.pid,
            "gettid": specimen.pid,
            "geteuid": os.geteuid(),
            "getegid": os.getegid(),
        }
        assert {name: specimen.syscall(name) for name in answers} == answers
        assert specimen.syscall("getpgid", os.getpid()) == os.getpgid(0)
        assert file.readable()


def test_an_unknown_name_leads_to_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'mprotekt' is not known on x86_64; expected mprotect"):
        number("mprotekt")
