"""What a witness says of a process: a program, or a part of the kernel that tells of it.

A witness is real: it is run, or the kernel is asked. What it says is cut down to the few lines that
matter and do not differ from one run to the next. One that cannot be asked says why, in a sentence.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.marks import LIVE
from prctlmm_lab.words import printable

SECONDS = 20.0
"""No program is waited for any longer."""


@dataclass(frozen=True)
class Account:
    """What one witness says of a process, line by line; or why it cannot be asked."""

    witness: str
    lines: Mapping[str, str]
    """What is told of -> what is told, in the order of the telling."""
    refusal: str = ""
    """Why it cannot be asked here, and the remedy; "" if it was."""
    origin: str = LIVE

    def __getitem__(self, name: str) -> str:
        return self.lines[name]

    def __str__(self) -> str:
        if self.refusal:
            return f"{self.witness}: {self.refusal}"
        width = max(map(len, self.lines), default=0)
        lines = (f"{name:{width}}  {value}".rstrip() for name, value in self.lines.items())
        return "\n".join(f"{self.witness}: {line}" for line in lines)

    __repr__ = __str__


def account(
    specimen: Specimen, witness: str, look: Callable[[int], Mapping[str, str]], *, asked: str = ""
) -> Account:
    """Have a witness look at a specimen, by a function of its process number.

    `asked` tells one question to the same witness from another. Of a recorded specimen the answer
    is the recorded one, or the sentence that there is none.

    >>> with Specimen() as specimen:
    ...     print(account(specimen, "me", lambda pid: {"its number is positive": str(pid > 0)}))
    me: its number is positive  True

    Raises SpecimenGone if the specimen has ended. An UnsupportedSystem that `look` raises becomes
    the account's refusal.
    """
    try:
        told = specimen.observed(asked or witness, lambda pid: _written(look, pid))
    except UnsupportedSystem as why:
        return Account(witness, {}, str(why), specimen.origin)
    lines = dict(line.split("\t", 1) for line in told.splitlines())
    return Account(witness, lines, lines.pop(_REFUSAL, ""), specimen.origin)


_REFUSAL = ""
"""The name of the line that holds a refusal."""


def _written(look: Callable[[int], Mapping[str, str]], pid: int) -> str:
    try:
        lines: Mapping[str, str] = look(pid)
    except UnsupportedSystem as why:
        lines = {_REFUSAL: str(why)}
    return "".join(f"{printable(name)}\t{printable(value)}\n" for name, value in lines.items())


def output_of(command: Sequence[str], package: str, *, seconds: float = SECONDS) -> tuple[str, str]:
    """Run a program of the system and return its output and its messages.

    It runs in the C locale, without configuration of the user's, in a process group that is ended
    as a whole if it takes too long.

    Raises UnsupportedSystem if it is not installed, cannot be run or does not end.
    """
    own = {"LC_ALL": "C", "HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent",
           "DEBUGINFOD_URLS": ""}  # fmt: skip
    remedy = f"Install {package} (apt install {package})."
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | own, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise UnsupportedSystem(f"{command[0]} is not installed", remedy) from None
    except OSError as error:
        raise UnsupportedSystem(f"{command[0]} cannot be run: {error.strerror}", remedy) from None
    try:
        output, messages = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise UnsupportedSystem(f"{command[0]} did not end within {seconds:g} s") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return output.decode("utf-8", "replace"), messages.decode("utf-8", "replace")
