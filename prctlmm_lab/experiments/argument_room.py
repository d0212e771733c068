"""How many bytes of arguments execve() takes, found without executing anything."""

from __future__ import annotations

import errno
import struct

from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.specimen.process import PAGE, Specimen

MOST = 1 << 20
"""No more bytes are tried. Under an RLIMIT_STACK below 4 MiB, execve takes fewer."""
_STRINGS = MOST // PAGE
_POINTERS = 8 * (_STRINGS + 2)


def room_for_arguments(specimen: Specimen) -> int:
    """Return how many bytes of arguments execve() takes from a specimen, `MOST` at most.

    The file that it shall execute is none that can be. The kernel copies the arguments before it
    notices: the answer is ENOEXEC if there was room and E2BIG if not, and the specimen lives on.
    Each argument is a page long, its zero byte counted, but for the last.

    Source: fs/exec.c, prepare_arg_pages() and copy_strings(), earlier get_arg_page().

    >>> with Specimen() as specimen:
    ...     specimen.set_limit("STACK", 0x40000)
    ...     0x10000 < room_for_arguments(specimen) <= 0x20000
    True

    Raises UnsupportedSystem where another errno comes, SpecimenError.
    """
    with specimen.undivided:
        file = specimen.memory_file("no-program", b"this is no program")
        length = PAGE + -(-_POINTERS // PAGE) * PAGE
        page = specimen.map(length)
        try:
            return _largest(specimen, file, page)
        finally:
            specimen.unmap(page, length)
            specimen.close(file)


def _largest(specimen: Specimen, file: int, page: int) -> int:
    """Bisect, with one string in a page and many pointers to it behind it."""
    specimen.write(page, b"a" * (PAGE - 1))
    specimen.write(page + PAGE, struct.pack("<Q", page) * _STRINGS)
    last = page + PAGE + 8 * _STRINGS
    path = f"/proc/self/fd/{file}\0".encode()
    fits, too_much = 0, MOST + 1
    while too_much - fits > 1:
        size = (fits + too_much) // 2
        whole, rest = divmod(size, PAGE)
        specimen.write(last, struct.pack("<2Q", page + PAGE - rest if rest else 0, 0))
        answer = specimen.attempt("execve", specimen.place(path), last - 8 * whole, last + 8)
        if answer not in (-errno.ENOEXEC, -errno.E2BIG):
            raise UnsupportedSystem(
                f"execve() of a file that is no program gives {errno_name(-answer)} here"
            )
        fits, too_much = (size, too_much) if answer == -errno.ENOEXEC else (fits, size)
    return fits
