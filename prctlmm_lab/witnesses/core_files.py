"""A process through its core file, which the kernel writes when a signal ends it.

Source: fs/binfmt_elf.c, fill_psinfo(), fill_auxv_note(), fill_files_note(); core(5).
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prctlmm_lab.errors import LabError, SpecimenError, UnsupportedSystem
from prctlmm_lab.kernel.auxv import decode_auxv
from prctlmm_lab.specimen import spawn
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.witnesses.accounts import Account, account
from prctlmm_lab.witnesses.debugger import AUXV_LINES, attached, may_be_traced

THE_KERNEL, GDB = "the kernel", "gdb"
_PATTERN = Path("/proc/sys/kernel/core_pattern")
_ENOUGH = 1 << 28
"""Bytes that a core file may have; a specimen's has some hundred thousand."""


def told_by_core(specimen: Specimen) -> Account:
    """End a specimen by SIGABRT and read what its core file says of it.

    `fname` and `psargs` stand in NT_PRPSINFO, AT_... in NT_AUXV; `files`, of NT_FILE, are the names
    of what is mapped. The kernel writes the file into a folder that is removed again. Where the
    system sends core files elsewhere, or forbids them, gdb writes one of the living process, with
    `fname` and `psargs` from the first word of cmdline. Either way the specimen has ended then.

    Equivalent: `ulimit -c unlimited; kill -ABRT PID; readelf --notes core`.
    """
    try:
        return account(specimen, "core", lambda pid: _look(specimen, pid))
    finally:
        specimen.stop()


def name_of_core(specimen: Specimen) -> str:
    """End a specimen by SIGABRT and return the name that the kernel gives to its core file.

    The system's core_pattern says what goes into it (core(5)); the file is removed again.

    Raises UnsupportedSystem where the kernel writes none that can be seen.
    """
    try:
        if why_not := why_not_by_kernel(specimen):
            raise UnsupportedSystem(why_not[0].upper() + why_not[1:])
        with tempfile.TemporaryDirectory(prefix="core-") as folder:
            _abort(specimen, specimen.pid, folder)
            return _only_file(folder).name
    finally:
        specimen.stop()


def core_pattern() -> str:
    """Return the pattern of core files' names, "" if it cannot be read.

    Equivalent: `sysctl kernel.core_pattern`.
    """
    try:
        return _PATTERN.read_text().strip()
    except OSError:
        return ""


def why_not_by_kernel(specimen: Specimen) -> str:
    """Return why the kernel would not write a specimen's core file where it can be read, or ""."""
    try:
        pattern = _PATTERN.read_text().strip()
        limit = specimen.limit("CORE")[1]
    except OSError as error:
        return f"core_pattern cannot be read: {error.strerror}"
    except SpecimenError:
        return "the specimen became a program that takes no orders"
    if not pattern or pattern[0] in "|@" or "/" in pattern:
        return f"core files of this system go elsewhere: core_pattern is {pattern!r}"
    if limit < _ENOUGH:
        return f"core files are forbidden here: the hard limit RLIMIT_CORE is {limit:#x}"
    return ""


def _look(specimen: Specimen, pid: int) -> Mapping[str, str]:
    why_not = why_not_by_kernel(specimen)
    with tempfile.TemporaryDirectory(prefix="core-") as folder:
        if why_not:
            _write_by_gdb(specimen, pid, folder, why_not)
        else:
            _abort(specimen, pid, folder)
        file = _only_file(folder, why_not)
        return {"written by": GDB if why_not else THE_KERNEL} | _parsed(file)


def _only_file(folder: str, why_not: str = "") -> Path:
    files = sorted(Path(folder).iterdir())
    if len(files) != 1:
        raise UnsupportedSystem("No core file was written", why_not)
    return files[0]


def _write_by_gdb(specimen: Specimen, pid: int, folder: str, why_not: str) -> None:
    try:
        with may_be_traced(specimen):
            attached(pid, f"generate-core-file {folder}/core")
    except UnsupportedSystem as error:
        raise UnsupportedSystem(f"{error.problem}, and {why_not}", error.remedy) from None


def _abort(specimen: Specimen, pid: int, folder: str) -> None:
    """End it in a folder where its core file may lie, and wait for the file."""
    end = os.pidfd_open(pid)
    try:
        with specimen.undivided:
            specimen.set_limit("CORE", _ENOUGH)
            specimen.syscall("chdir", specimen.place(os.fsencode(folder) + b"\0"))
            os.kill(pid, signal.SIGABRT)
            spawn.readable(end, specimen.deadline)  # the kernel first writes the file
    except LabError as error:
        raise UnsupportedSystem(f"It cannot be ended with a core file: {error}") from None
    finally:
        os.close(end)


def _parsed(path: Path) -> dict[str, str]:
    """Read the notes of a core file."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            segments: Iterator[Any] = ELFFile(file).iter_segments("PT_NOTE")
            notes: dict[str, Any] = {
                note["n_type"]: note for segment in segments for note in segment.iter_notes()
            }
            process, files = notes["NT_PRPSINFO"]["n_desc"], notes["NT_FILE"]["n_desc"]
            entries = {e.name: e.value for e in decode_auxv(notes["NT_AUXV"]["n_descdata"])}
    except (ELFError, KeyError, OSError) as error:
        raise UnsupportedSystem(f"The core file cannot be read: {error}") from None
    told = {"fname": _text(process["pr_fname"]), "psargs": _text(process["pr_psargs"])}
    told |= {f"NT_AUXV: {n}": hex(entries[n]) if n in entries else "(nothing)" for n in AUXV_LINES}
    return told | {"files": ", ".join(dict.fromkeys(map(_text, files["filename"]))) or "(none)"}


def _text(data: bytes) -> str:
    """Return a name of a core file, which zero bytes fill; arguments end with a space."""
    return data.split(b"\0")[0].decode("utf-8", "surrogateescape").rstrip(" ")
