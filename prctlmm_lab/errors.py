"""The errors of this package: one small tree, with attributes, safe to pickle.

`LabError` is the base. Each error keeps the values it was made from as attributes and builds its
sentence from them, so that a program can act on the parts and a person can read the whole.
"""

from __future__ import annotations

import errno as _errno
import os
import signal as _signal
from typing import Any

__all__ = [
    "GuestError",
    "InputError",
    "LabError",
    "SpecimenChannelError",
    "SpecimenError",
    "SpecimenGone",
    "SpecimenStartError",
    "SpecimenTimeout",
    "SystemCallError",
    "UnsupportedSystem",
]


class LabError(Exception):
    """Base of every error that this package raises on purpose."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), self._parts)


class InputError(LabError, ValueError):
    """Say what is wrong with a value from outside, where, and what would be right.

    >>> print(InputError("change.brk", "is not a 64-bit address", "0x1" + "0" * 16,
    ...                  "0 to 0xffffffffffffffff"))
    change.brk: 0x10000000000000000 is not a 64-bit address; expected 0 to 0xffffffffffffffff
    """

    def __init__(self, where: str, problem: str, value: str = "", expected: str = "") -> None:
        super().__init__(where, problem, value, expected)
        self.where, self.problem, self.value, self.expected = where, problem, value, expected

    def __str__(self) -> str:
        sentence = f"{self.value} {self.problem}" if self.value else self.problem
        if self.where:
            sentence = f"{self.where}: {sentence}"
        return f"{sentence}; expected {self.expected}" if self.expected else sentence


class UnsupportedSystem(LabError):
    """Say what this system cannot do, and what to do instead."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}" if self.remedy else self.problem


class SpecimenError(LabError):
    """Base of what can go wrong with a specimen: `pid` names it, `step` what it was asked."""

    def __init__(self, pid: int, step: str, *more: Any) -> None:
        super().__init__(pid, step, *more)
        self.pid, self.step = pid, step

    def __str__(self) -> str:
        return f"specimen {self.pid} failed at {self.step}"


class SpecimenStartError(SpecimenError):
    """Say why no specimen could be started; `reasons` has one sentence for each way tried."""

    def __init__(self, pid: int, step: str, reasons: tuple[str, ...]) -> None:
        super().__init__(pid, step, reasons)
        self.reasons = reasons

    def __str__(self) -> str:
        return f"no specimen could be started: {'; '.join(self.reasons)}"


class SpecimenGone(SpecimenError):
    """Say at which step a specimen ended, and by which signal or exit status.

    `signal` is 0 for a specimen that exited by itself, `status` is -1 for one that was killed.
    Both are -1 when another part of this process reaped it first, and for a specimen that became
    another program.

    >>> print(SpecimenGone(4242, "munmap(0x401000, 0x1000)", 11, -1))
    specimen 4242 was killed by SIGSEGV at munmap(0x401000, 0x1000)
    """

    def __init__(self, pid: int, step: str, signal: int, status: int) -> None:
        super().__init__(pid, step, signal, status)
        self.signal, self.status = signal, status

    def __str__(self) -> str:
        if self.signal > 0:
            how = f"was killed by {signal_name(self.signal)}"
        elif self.status >= 0:
            how = f"exited with status {self.status}"
        else:
            how = "is gone"
        return f"specimen {self.pid} {how} at {self.step}"


class SpecimenTimeout(SpecimenError):
    """Say that a specimen did not answer in time, and the state it was found in."""

    def __init__(self, pid: int, step: str, seconds: float, state: str) -> None:
        super().__init__(pid, step, seconds, state)
        self.seconds, self.state = seconds, state

    def __str__(self) -> str:
        return (
            f"specimen {self.pid} did not answer within {self.seconds:g} s at {self.step} "
            f"(its state was {self.state}); it was ended"
        )


class SpecimenChannelError(SpecimenError):
    """Say that a specimen's channel carried bytes that are no answer: it was flooded or misused."""

    def __init__(self, pid: int, step: str, received: int) -> None:
        super().__init__(pid, step, received)
        self.received = received

    def __str__(self) -> str:
        return (
            f"the channel of specimen {self.pid} carried {self.received:#x} bytes that are no "
            f"answer to {self.step}; it was ended"
        )


class GuestError(LabError):
    """Say what became of a guest: which kernel, at which request, how, and its console's end.

    `how` is a few words such as "crashed"; `console` is the tail of what its kernel printed.

    >>> print(GuestError("Linux 6.1.192", "run", "crashed", "Kernel panic - not syncing"))
    Linux 6.1.192 crashed in its guest at run; its console ended with:
      Kernel panic - not syncing
    """

    def __init__(self, kernel: str, step: str, how: str, console: str = "") -> None:
        super().__init__(kernel, step, how, console)
        self.kernel, self.step, self.how, self.console = kernel, step, how, console

    def __str__(self) -> str:
        sentence = f"{self.kernel} {self.how} in its guest at {self.step}"
        if not self.console:
            return f"{sentence}; its console is empty"
        lines = "".join(f"\n  {line}" for line in self.console.splitlines())
        return f"{sentence}; its console ended with:{lines}"


class SystemCallError(LabError, OSError):
    """A system call that a specimen made was refused: errno, the call and its arguments.

    >>> print(SystemCallError(12, "mmap", (0, 1 << 60, 3, 34, -1, 0)))
    mmap(0x0, 0x1000000000000000, 0x3, 0x22, -1, 0x0) = ENOMEM (Cannot allocate memory)
    """

    def __init__(self, errno: int, call: str, arguments: tuple[int, ...]) -> None:
        super().__init__(errno, call, arguments)
        self.errno, self.call, self.arguments = errno, call, arguments
        self.strerror, self.filename = os.strerror(errno), None  # OSError took call and arguments

    @property
    def errno_name(self) -> str:
        """The name of the errno, such as EFAULT."""
        return _errno.errorcode.get(self.errno, str(self.errno))  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{call_text(self.call, self.arguments)} = {self.errno_name} ({self.strerror})"


def signal_name(number: int) -> str:
    """Return the name of a signal.

    >>> signal_name(11), signal_name(40)
    ('SIGSEGV', 'signal 40')
    """
    try:
        return _signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def call_text(call: str, arguments: tuple[int, ...]) -> str:
    """Write a system call as strace would: name and arguments, small negatives as they are."""
    return f"{call}({', '.join(hex(a) if a >= 0 else str(a) for a in arguments)})"
