"""The auxiliary vector: pairs of 64-bit words, a type and a value, ended by AT_NULL.

Source: include/uapi/linux/auxvec.h and arch/x86/include/uapi/asm/auxvec.h; getauxval(3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import U64

TYPE_NAMES: dict[int, str] = {
    0: "AT_NULL",
    1: "AT_IGNORE",
    2: "AT_EXECFD",
    3: "AT_PHDR",
    4: "AT_PHENT",
    5: "AT_PHNUM",
    6: "AT_PAGESZ",
    7: "AT_BASE",
    8: "AT_FLAGS",
    9: "AT_ENTRY",
    10: "AT_NOTELF",
    11: "AT_UID",
    12: "AT_EUID",
    13: "AT_GID",
    14: "AT_EGID",
    15: "AT_PLATFORM",
    16: "AT_HWCAP",
    17: "AT_CLKTCK",
    23: "AT_SECURE",
    24: "AT_BASE_PLATFORM",
    25: "AT_RANDOM",
    26: "AT_HWCAP2",
    27: "AT_RSEQ_FEATURE_SIZE",
    28: "AT_RSEQ_ALIGN",
    29: "AT_HWCAP3",
    30: "AT_HWCAP4",
    31: "AT_EXECFN",
    32: "AT_SYSINFO",
    33: "AT_SYSINFO_EHDR",
    51: "AT_MINSIGSTKSZ",
}
TYPES: dict[str, int] = {name: number for number, name in TYPE_NAMES.items()}


@dataclass(frozen=True)
class AuxEntry:
    """One pair of the vector."""

    type: int
    value: int

    @property
    def name(self) -> str:
        """The AT_ name, or the number of a type that has none here.

        >>> AuxEntry(6, 4096).name, AuxEntry(0x1234, 0).name
        ('AT_PAGESZ', '0x1234')
        """
        return TYPE_NAMES.get(self.type, hex(self.type))

    def __str__(self) -> str:
        return f"{self.name}={self.value:#x}"


def decode_auxv(data: bytes) -> tuple[AuxEntry, ...]:
    """Decode the bytes of /proc/PID/auxv; a half pair at the end is read as if padded with zeros.

    Equivalent: `LD_SHOW_AUXV=1 true`, for the shell's own.

    >>> [str(entry) for entry in decode_auxv(bytes([6] + [0] * 7 + [0, 16] + [0] * 22))]
    ['AT_PAGESZ=0x1000', 'AT_NULL=0x0']
    """
    padded = data + bytes(-len(data) % 16)
    return tuple(AuxEntry(*pair) for pair in struct.iter_unpack("<2Q", padded))


def encode_auxv(entries: Iterable[tuple[str | int, int]]) -> bytes:
    """Encode (type, value) pairs; a type is a number or an AT_ name. AT_NULL is not added.

    >>> encode_auxv([("AT_PAGESZ", 4096)]).hex(" ", 8)
    '0600000000000000 0010000000000000'

    Raises InputError for a name that is not known or a number that is not 64-bit.
    """
    words = bytearray()
    for kind, value in entries:
        if isinstance(kind, str):
            if kind not in TYPES:
                raise InputError("auxv", "is not the name of a type in an auxiliary vector",
                                 repr(kind)[:80], "one such as AT_PAGESZ, or a number")  # fmt: skip
            kind = TYPES[kind]
        for word in (kind, value):
            if not 0 <= word <= U64:
                raise InputError("auxv", "is not a 64-bit word", hex(word), f"0 to {U64:#x}")
        words += struct.pack("<2Q", kind, value)
    return bytes(words)
