"""A process through the eyes of ps(1)."""

from __future__ import annotations

import subprocess

from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.kernel.procfs import Snapshot, Stat, Unreadable
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.marks import LIVE

SECONDS = 10.0


def ps(specimen: Specimen) -> str:
    """Return what ps says of a specimen.

    The real ps is run. Of a recorded specimen the table is made from its recorded `cmdline`, as ps
    makes it, without a user's name.

    Equivalent: `ps -o pid,user,args -p PID`.

    Raises UnsupportedSystem if ps is not installed or does not answer.
    """
    if specimen.origin != LIVE:
        snapshot = specimen.snapshot()
        return f"{'PID':>7} COMMAND\n{snapshot.pid:>7} {command_column(snapshot)}"
    command = ["ps", "-o", "pid,user,args", "-p", str(specimen.pid)]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedSystem(f"ps cannot be run: {error}", "Install procps.") from None
    return ran.stdout.decode("utf-8", "replace").rstrip("\n")


def command_column(snapshot: Snapshot) -> str:
    """Return what ps writes in its column COMMAND: cmdline, or the thread's name in brackets.

    Source: procps 4, library/readproc.c, fill_cmdline_cvt().
    """
    if isinstance(snapshot.cmdline, Unreadable) or not snapshot.cmdline.strip(b"\0"):
        return f"[{snapshot.stat.comm}]" if isinstance(snapshot.stat, Stat) else "[?]"
    words = snapshot.cmdline.rstrip(b"\0").replace(b"\0", b" ")
    shown = (chr(b) if 0x20 <= b < 0x7F else "?" for b in words)
    return "".join(shown)
