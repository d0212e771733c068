"""A process through the eyes of ps, top and pgrep, which know of it what /proc says.

Source: procps-ng 4, src/ps/output.c, src/top/top.c, src/pgrep.c, library/readproc.c.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.witnesses.accounts import Account, account, output_of

_COLUMNS = {"user": 32, "comm": 32, "trs": 24, "stackp": 24}
"""Columns of ps and the width that each is given, so that it can be cut out again."""
_PACKAGE = "procps"


def ps(specimen: Specimen) -> str:
    """Return what ps says of a specimen: its number, its user and its command line.

    The real ps is run; where it cannot be, the text says why.

    Equivalent: `ps -o pid,user,args -p PID`.
    """
    told = told_by_ps(specimen)
    if told.refusal:
        return str(told)
    return f"{'PID':>7} {'USER':<8} COMMAND\n{specimen.pid:>7} {told['user']:<8} {told['args']}"


def told_by_ps(specimen: Specimen) -> Account:
    """Ask ps for the user, the thread's name, code in KiB, start_stack and the command line.

    `args` is made of cmdline, or of the thread's name in brackets if that is empty; `comm`, `trs`
    (end_code - start_code) and `stackp` (start_stack) are fields of stat.

    Equivalent: `ps -o user,comm,trs,stackp,args -p PID`.
    """
    return account(specimen, "ps", _ask_ps)


def _ask_ps(pid: int) -> Mapping[str, str]:
    columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
    output, messages = output_of(["ps", "-ww", "-o", f"{columns},args", "-p", str(pid)], _PACKAGE)
    row = output.splitlines()[-1] if output.count("\n") > 1 else ""
    if not row:
        why = (messages.splitlines() or ["it does not list the process"])[0]
        raise UnsupportedSystem(f"This ps cannot tell: {why}", f"Install {_PACKAGE}.")
    told, start = {}, 0
    for name, width in _COLUMNS.items():
        told[name] = row[start : start + width].strip()
        start += width + 1
    return told | {"args": row[start:].rstrip()}


def told_by_top(specimen: Specimen) -> Account:
    """Ask top for its column COMMAND, without and with `-c`.

    Equivalent: `top -b -n 1 -p PID` and `top -b -c -n 1 -p PID`.
    """
    return account(
        specimen, "top", lambda pid: {"COMMAND": _top(pid), "COMMAND with -c": _top(pid, "-c")}
    )


def _top(pid: int, *options: str) -> str:
    command = ["top", "-b", *options, "-n", "1", "-w", "512", "-p", str(pid)]
    output, messages = output_of(command, _PACKAGE)
    *_, head, row = ["", "", *filter(None, output.splitlines())]
    if "COMMAND" not in head:
        why = (messages.splitlines() or ["it does not list the process"])[0]
        raise UnsupportedSystem(f"This top cannot tell: {why}", f"Install {_PACKAGE}.")
    return row[head.index("COMMAND") :].strip()


def told_by_pgrep(specimen: Specimen, pattern: str = "specimen") -> Account:
    """Ask pgrep whether a pattern finds the process, by its thread's name and by its command line.

    The pattern is an extended regular expression.

    Equivalent: `pgrep PATTERN` and `pgrep -f PATTERN`.
    """

    def look(pid: int) -> Mapping[str, str]:
        return {f"pgrep {pattern}": _pgrep(pid, pattern),
                f"pgrep -f {pattern}": _pgrep(pid, pattern, "-f")}  # fmt: skip

    return account(specimen, "pgrep", look, asked=f"pgrep {pattern}")


def _pgrep(pid: int, pattern: str, *options: str) -> str:
    output, messages = output_of(["pgrep", *options, "--", pattern], _PACKAGE)
    if messages and not output:
        raise UnsupportedSystem(f"This pgrep cannot tell: {messages.splitlines()[0]}")
    return "finds it" if re.search(rf"^{pid}$", output, re.MULTILINE) else "does not find it"
