"""The registers that a waiting system call needs, and the frame that rt_sigreturn takes them from.

A process that waits in a system call can be continued elsewhere by few registers: the call's number
and arguments, the stack pointer, and where the instruction stands that makes the call. rt_sigreturn
loads all registers from a frame in memory; the kernel writes such a frame when it delivers a signal
(arch/x86/kernel/signal_64.c, arch/arm64/kernel/signal.c), but it takes one that anybody wrote.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass

from prctlmm_lab.errors import SpecimenTimeout, UnsupportedSystem
from prctlmm_lab.kernel.procfs import read_whole

SYSCALL_SIZE = {"x86_64": 2, "aarch64": 4}
"""Bytes of the instruction that makes a system call."""

_USER_CODE_SEGMENT, _USER_DATA_SEGMENT = 0x33, 0x2B
_INTERRUPTS_ON = 0x202
_SS_DISABLE = 2
_FPSIMD_MAGIC, _FPSIMD_SIZE = 0x46508001, 528


@dataclass(frozen=True)
class Registers:
    """A system call that is under way: which, with what, and where in the program.

    `pc` is the address behind the instruction that made the call.
    """

    number: int
    arguments: tuple[int, int, int, int, int, int]
    sp: int
    pc: int


def parse_registers(text: bytes) -> Registers | None:
    r"""Parse /proc/PID/syscall; None for a process that is not in a system call.

    >>> parse_registers(b"0 0x3 0x7ff0 0xc0 0x0 0x0 0x0 0x7ff0 0x401071\n").pc == 0x401071
    True
    >>> parse_registers(b"running\n")
    """
    words = text.split()
    if len(words) != 9 or words[0].startswith(b"-"):
        return None
    number, *rest = int(words[0]), *(int(word, 16) for word in words[1:])
    a, b, c, d, e, f, sp, pc = rest
    return Registers(number, (a, b, c, d, e, f), sp, pc)


def read_registers(pid: int, number: int, seconds: float) -> Registers:
    """Wait until a process waits in the system call with a number, and return its registers.

    Equivalent: `cat /proc/PID/syscall`.

    Raises UnsupportedSystem where the kernel does not show them, SpecimenTimeout if it does not
    come to that call.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            registers = parse_registers(read_whole(f"/proc/{pid}/syscall"))
        except OSError as error:
            raise UnsupportedSystem(
                f"The registers of process {pid} cannot be read: /proc/PID/syscall: "
                f"{error.strerror}",
                "A process may look so closely only at its own children "
                "(sysctl kernel.yama.ptrace_scope at most 1), or with CAP_SYS_PTRACE.",
            ) from None
        if registers is not None and registers.number == number:
            return registers
        if time.monotonic() > deadline:
            raise SpecimenTimeout(pid, "reading its registers", seconds, "not waiting for us")
        os.sched_yield()


def signal_frame(registers: Registers, machine: str) -> bytes:
    """Return the frame that makes rt_sigreturn make this system call again.

    It is meant to lie where the stack pointer points. What of it has no meaning here is zero.
    """
    again = registers.pc - SYSCALL_SIZE[machine]
    if machine == "aarch64":
        return _frame_aarch64(registers, again)
    return _frame_x86_64(registers, again)


def _frame_x86_64(registers: Registers, again: int) -> bytes:
    """Struct ucontext; the word below it, a return address, is only for the handler."""
    a, b, c, d, e, f = registers.arguments
    context = struct.pack("<2QQi4xQ", 0, 0, 0, _SS_DISABLE, 0)
    # r8 r9 r10 r11 r12 .. r15 di si bp bx dx ax cx sp ip flags
    context += struct.pack("<18Q", e, f, d, 0, 0, 0, 0, 0, a, b, 0, 0, c, registers.number, 0,
                           registers.sp, again, _INTERRUPTS_ON)  # fmt: skip
    context += struct.pack("<4H", _USER_CODE_SEGMENT, 0, 0, _USER_DATA_SEGMENT)
    return context + bytes(4 * 8 + 8 + 8 * 8) + bytes(8)  # no FPU state; no signal is blocked


def _frame_aarch64(registers: Registers, again: int) -> bytes:
    """Struct siginfo of 128 bytes, struct ucontext, and the record of the FPU that is required."""
    general = [*registers.arguments, *[0] * 25]
    general[8] = registers.number
    frame = bytes(128) + struct.pack("<2QQi4xQ", 0, 0, 0, _SS_DISABLE, 0) + bytes(128)
    frame += bytes(8)  # the machine's part is aligned to 16
    frame += struct.pack("<Q31Q3Q", 0, *general, registers.sp, again, 0) + bytes(8)
    return frame + struct.pack("<2I", _FPSIMD_MAGIC, _FPSIMD_SIZE) + bytes(_FPSIMD_SIZE - 8 + 16)
