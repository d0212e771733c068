"""The ELF file's own words beside the kernel's notes: where four of the addresses come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.procfs import Snapshot
from prctlmm_lab.specimen.build import binary_path

if TYPE_CHECKING:
    import pandas

_FLAGS = ((4, "r"), (2, "w"), (1, "x"))


def elf_table(snapshot: Snapshot) -> pandas.DataFrame:
    """Return a table of the executable's loaded segments, and what the kernel noted of each.

    One row for each PT_LOAD header: where the file asks to be mapped (moved by as much as the
    kernel moved the program), how many bytes come from the file, how many the memory has, and the
    members of stat that point to its start or to the end of its bytes (exclusive).

    Equivalent: `readelf -lW /proc/PID/exe` beside `cat /proc/PID/stat`.

    Raises InputError if the executable cannot be read or is no ELF file.

    Source: fs/binfmt_elf.c, load_elf_binary(); the file is read by pyelftools.
    """
    import pandas
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    path: str | Path = f"/proc/{snapshot.pid}/exe"
    if snapshot.beside is not None:
        path = _recorded_program(snapshot.beside.program)
    try:
        with open(path, "rb") as file:
            elf = ELFFile(file)
            entry = elf.header["e_entry"]
            headers = [s.header for s in elf.iter_segments() if s.header["p_type"] == "PT_LOAD"]
    except (OSError, ELFError) as error:
        raise InputError(str(path), f"is not readable as an ELF file: {error}") from None
    entries = {e.name: e.value for e in snapshot.aux_entries}
    moved = entries.get("AT_ENTRY", entry) - entry
    rows = []
    for header in headers:
        start = header["p_vaddr"] + moved
        end = start + header["p_filesz"]
        flags = "".join(letter if header["p_flags"] & bit else "-" for bit, letter in _FLAGS)
        rows.append(
            {
                "segment": f"{start:#x}",
                "permissions": flags,
                "bytes in the file": f"{header['p_filesz']:#x}",
                "bytes in memory": f"{header['p_memsz']:#x}",
                "end of the bytes": f"{end:#x}",
                "noted in stat": _noted(snapshot, start, end),
            }
        )
    return pandas.DataFrame(rows)


def _recorded_program(build: str) -> Path:
    """Return where the file lies that a recorded specimen was started from."""
    if not build:
        raise InputError("exe", "was not recorded: only the specimen's own program is at hand")
    return binary_path(build)


def _noted(snapshot: Snapshot, start: int, end: int) -> str:
    members = snapshot.members
    names = ("start_code", "end_code", "start_data", "end_data")
    return ", ".join(
        f"{name} = {members[name]:#x}" for name in names if members.get(name) in (start, end)
    )
