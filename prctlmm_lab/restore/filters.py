"""seccomp filters over prctl(PR_SET_MM): a few instructions that answer before the kernel does.

A filter is a program in classic BPF over `struct seccomp_data`. Sandboxes use such filters to
forbid calls, supervisors to be told of them.

Source: seccomp(2), seccomp_unotify(2); include/uapi/linux/seccomp.h and audit.h.
"""

from __future__ import annotations

import struct

from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.kernel import syscalls
from prctlmm_lab.kernel.abi import PR_SET_MM

SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 8
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2

ALLOW, USER_NOTIF, KILL_PROCESS = 0x7FFF0000, 0x7FC00000, 0x80000000

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_AT, _SECOND_AT = 0, 4, 16, 24
"""Offsets in struct seccomp_data; of an argument, its low half."""


def answering(errno: int) -> int:
    """Return the action that makes a call fail with an errno, without the kernel looking at it."""
    return 0x00050000 | errno


def set_mm_filter(machine: str, action: int, operation: int | None = None) -> bytes:
    """Return a filter that takes an action on prctl(PR_SET_MM), or on one operation of it alone.

    Everything else passes.

    >>> len(set_mm_filter("x86_64", answering(1))) // 8
    8

    Raises UnsupportedSystem for a machine without a filter.
    """
    if machine not in _ARCHITECTURES:
        raise UnsupportedSystem(f"There is no filter for {machine}")
    wanted = [
        (_ARCHITECTURE_AT, _ARCHITECTURES[machine]),
        (_NUMBER_AT, syscalls.number("prctl", machine)),
        (_FIRST_AT, PR_SET_MM),
    ]
    if operation is not None:
        wanted.append((_SECOND_AT, operation))
    code = []
    for number, (offset, value) in enumerate(wanted):
        otherwise = 2 * (len(wanted) - number) - 1  # instructions to skip, to the last one
        code += [(_LOAD, 0, 0, offset), (_JUMP_IF_EQUAL, 0, otherwise, value)]
    code += [(_RETURN, 0, 0, action), (_RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("<HBBI", *each) for each in code)


def filter_header(code: bytes, address: int) -> bytes:
    """Return `struct sock_fprog` for a filter that lies at an address."""
    return struct.pack("<H6xQ", len(code) // 8, address)
