"""Registers: read as the specimen waits, and loaded by rt_sigreturn."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from prctlmm_lab.errors import SpecimenGone, SpecimenTimeout, UnsupportedSystem
from prctlmm_lab.specimen.process import PAGE, SCRATCH, Specimen
from prctlmm_lab.specimen.registers import (
    SYSCALL_SIZE,
    Registers,
    parse_registers,
    read_registers,
    signal_frame,
)
from tests.conftest import StartSpecimen

ROOM = (b"ROOM=" + b"." * 4800,)
WAITING = Registers(0, (3, 0x7000, 192, 4, 5, 6), 0x7000, 0x401071)


def moved(specimen: Specimen) -> tuple[Registers, int]:
    """Copy the loop to new memory; return the registers of its waiting there, and its entry."""
    memory = specimen.map(SCRATCH + 2 * PAGE)
    stack, code = memory + SCRATCH, memory + SCRATCH + PAGE
    first = specimen.entry & -PAGE
    specimen.write(code, specimen.read(first, PAGE))
    specimen.protect(code, PAGE, "r-x")
    now = specimen.registers()
    a, _, *rest = now.arguments
    there = replace(
        now,
        sp=stack,
        pc=now.pc - first + code,
        arguments=(a, stack, *rest),  # type: ignore[arg-type]
    )
    return there, specimen.entry - first + code


def test_a_specimen_goes_on_elsewhere(start_specimen: StartSpecimen, build: str) -> None:
    specimen = start_specimen(build, environment=ROOM)
    there, entry = moved(specimen)
    before = specimen.syscall("getpid")
    specimen.jump(there, entry)
    assert specimen.syscall("getpid") == before
    assert specimen.registers().pc == there.pc
    assert (specimen.entry, specimen.buffer) == (entry, there.sp)
    for vma in specimen.snapshot().vmas:
        if not there.sp - SCRATCH <= vma.start < entry + PAGE and not vma.label.startswith("[v"):
            specimen.unmap(vma.start, vma.size)
    assert specimen.read(entry, 4) != b""
    assert specimen.limit("DATA") is not None, "scratch memory moved with it"


def test_all_registers_that_a_call_needs_are_loaded(
    start_specimen: StartSpecimen, build: str
) -> None:
    """Those which the loop leaves alone are still there when it waits again."""
    specimen = start_specimen(build, environment=ROOM)
    now = specimen.registers()
    wanted = replace(now, arguments=(*now.arguments[:3], 0x1234, 0x5678, 0x9ABC))
    specimen.jump(wanted, specimen.entry)
    assert read_registers(specimen.pid, now.number, 5) == wanted


def test_a_specimen_that_finds_no_loop_dies_and_says_so(start_specimen: StartSpecimen) -> None:
    specimen = start_specimen(environment=ROOM)
    specimen.jump(replace(specimen.registers(), pc=0x1000), 0x1000)
    with pytest.raises(SpecimenGone, match="killed by SIGSEGV"):
        specimen.syscall("getpid")


def test_registers_of_one_that_has_ended(start_specimen: StartSpecimen) -> None:
    specimen = start_specimen()
    specimen.stop()
    with pytest.raises(SpecimenGone):
        specimen.registers()


def test_what_is_read_is_what_proc_shows(specimen: Specimen) -> None:
    text = Path(f"/proc/{specimen.pid}/syscall").read_text()
    registers = specimen.registers()
    words = [registers.number, *registers.arguments, registers.sp, registers.pc]
    assert text == f"{words[0]} {' '.join(map(hex, words[1:]))}\n"


def test_one_that_does_not_come_to_that_call(specimen: Specimen) -> None:
    with pytest.raises(SpecimenTimeout, match="reading its registers"):
        read_registers(specimen.pid, 9999, 0.01)


def test_a_process_that_is_not_shown() -> None:
    with pytest.raises(UnsupportedSystem, match=r"/proc/PID/syscall: .*ptrace_scope"):
        read_registers(1 << 22, 0, 0.01)


@pytest.mark.parametrize("text", [b"", b"running\n", b"-1 0x0 0x0\n"])
def test_a_process_in_no_call(text: bytes) -> None:
    assert parse_registers(text) is None


# ---- frames ------------------------------------------------------------------------------------


def test_the_frame_of_x86_64_is_as_the_kernel_lays_it_out() -> None:
    """Struct ucontext: asm/ucontext.h, and gregs as <sys/ucontext.h> numbers them."""
    frame = signal_frame(WAITING, "x86_64")
    general = struct.unpack_from("<23q", frame, 40)
    by_name = dict(zip("r8 r9 r10 r11 r12 r13 r14 r15 rdi rsi rbp rbx rdx rax rcx rsp rip".split(),
                       general, strict=False))  # fmt: skip
    assert by_name["rip"] == WAITING.pc - SYSCALL_SIZE["x86_64"]
    assert by_name["rsp"] == WAITING.sp
    names = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
    assert tuple(by_name[name] for name in names) == WAITING.arguments
    assert by_name["rax"] == WAITING.number
    assert len(frame) == 40 + 256 + 8


def test_the_frame_of_aarch64_is_as_the_kernel_lays_it_out() -> None:
    """Struct rt_sigframe: siginfo of 128 bytes, ucontext, sigcontext at 176 in it."""
    frame = signal_frame(replace(WAITING, number=63), "aarch64")
    context = struct.unpack_from("<Q31Q3Q", frame, 128 + 176)
    general, (sp, pc, state) = context[1:32], context[32:]
    assert general[:6] == WAITING.arguments
    assert (general[8], sp, pc, state) == (63, WAITING.sp, WAITING.pc - 4, 0)
    magic, size = struct.unpack_from("<2I", frame, 128 + 176 + 288)
    assert (magic, size) == (0x46508001, 528)
    assert frame[128 + 176 + 288 + size :] == bytes(16)
