"""A process through the eyes of gdb, which attaches to it and reads /proc.

Source: gdb, gdb/linux-tdep.c, linux_info_proc() and linux_find_memory_regions_full(); the kernel's
own answer to a debugger are registers and memory, through ptrace(2).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from prctlmm_lab.errors import LabError, UnsupportedSystem
from prctlmm_lab.kernel.abi import U64
from prctlmm_lab.kernel.auxv import TYPES
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.witnesses.accounts import Account, account, output_of

PACKAGE = "gdb"
AUXV_LINES = ("AT_PHDR", "AT_ENTRY", "AT_BASE", "AT_PAGESZ", "AT_UID", "AT_EXECFN")
"""The entries of an auxiliary vector that an account tells of."""
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, U64
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


def told_by_gdb(specimen: Specimen) -> Account:
    """Attach gdb to a specimen, ask it what it sees, and detach.

    `info proc`, `info proc stat`, `info proc mappings` and `info auxv` are what gdb reads in /proc;
    the registers come from the kernel's ptrace, and gdb's mappings tell what they point into.

    Equivalent: `gdb -nx -batch -p PID -ex 'info proc' -ex 'info auxv' ...`.
    """

    def look(pid: int) -> Mapping[str, str]:
        with may_be_traced(specimen):
            return _parsed(attached(pid, "info proc", "info proc stat", "info auxv",
                                    "info proc mappings", "info registers rip rsp"))  # fmt: skip

    return account(specimen, "gdb", look)


def attached(pid: int, *commands: str) -> str:
    """Run commands of gdb with a process attached, and return what gdb prints.

    Raises UnsupportedSystem if gdb cannot be run, or may not attach.
    """
    line = ["gdb", "-nx", "-batch", "-iex", "set auto-load no", "-iex", "set width 0"]
    line += ["-p", str(pid), *(part for each in commands for part in ("-ex", each))]
    try:
        output, messages = output_of([*line, "-ex", "detach"], PACKAGE)
    finally:
        with contextlib.suppress(OSError):  # a gdb that was ended may leave it stopped
            os.kill(pid, signal.SIGCONT)
    if "ptrace:" in messages:
        why = re.search(r"ptrace: (.*)", messages)
        raise UnsupportedSystem(
            f"gdb may not attach: {why[1].rstrip('.') if why else 'refused'}",
            "ptrace(2) says who may trace whom; see /proc/sys/kernel/yama/ptrace_scope.",
        )
    return output


@contextlib.contextmanager
def may_be_traced(specimen: Specimen) -> Iterator[None]:
    """Let a process that is no ancestor of the specimen's trace it, where Yama forbids that.

    Source: Documentation/admin-guide/LSM/Yama.rst.
    """
    restricted = _YAMA.exists() and _YAMA.read_text().strip() == "1"
    if restricted:
        with contextlib.suppress(LabError):
            specimen.attempt("prctl", _PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
    try:
        yield
    finally:
        if restricted:
            with contextlib.suppress(LabError):
                specimen.attempt("prctl", _PR_SET_PTRACER, 0, 0, 0, 0)


_MAPPING = re.compile(
    r"^ *0x([0-9a-f]+) +0x([0-9a-f]+) +0x[0-9a-f]+ +0x[0-9a-f]+ *(?:[rwxps-]{4}(?: +|$))?(.*)$",
    re.MULTILINE,
)
"""Start, end, and name; the permissions are shown since gdb 12."""
_AUXV = re.compile(r'^\d+ +(AT_\w+) .*?(0x[0-9a-f]+|\d+)(?: ".*")?$', re.MULTILINE)


def _parsed(text: str) -> dict[str, str]:
    told = {}
    for name in ("exe", "cmdline"):
        found = re.search(rf"^{name} = '(.*)'$", text, re.MULTILINE)
        told[f"info proc: {name}"] = found[1] if found else "(nothing)"
    for name in ("Exec file", "Start of text", "End of text", "Start of stack"):
        found = re.search(rf"^{name}: (.*)$", text, re.MULTILINE)
        told[f"info proc stat: {name}"] = found[1] if found else "(nothing)"
    entries = {name: hex(int(value, 0)) for name, value in _AUXV.findall(text) if name in TYPES}
    for name in AUXV_LINES:
        told[f"info auxv: {name}"] = entries.get(name, "(nothing)")
    mappings = [
        (int(start, 16), int(end, 16), name.strip()) for start, end, name in _MAPPING.findall(text)
    ]
    for label in ("[heap]", "[stack]"):
        places = [f"{start:#x}-{end:#x}" for start, end, name in mappings if name == label]
        told[f"info proc mappings: {label}"] = ", ".join(places) or "(nothing)"
    for register in ("rip", "rsp"):
        found = re.search(rf"^{register} +0x([0-9a-f]+)", text, re.MULTILINE)
        if found:
            at = int(found[1], 16)
            names = [name for start, end, name in mappings if start <= at < end] or ["no mapping"]
            told[f"registers: {register}"] = f"{at:#x} in {names[0] or 'memory without a name'}"
    return told
