"""One exe link and three files that take turns at it, and are written to in between.

What is executed cannot be written, nor the other way round; the exe link counts as executing. Here
a specimen changes its link between two files of its own and the shell, maps its own files, and
opens them for writing, in any order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from prctlmm_lab.errors import SystemCallError
from prctlmm_lab.experiments.asking import Asked, ask
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.specimen.process import PAGE, Specimen

OWN_FILES = ("first", "second")
"""Files in memory that the specimen makes; both are empty and may be executed."""
SHELL = "/bin/sh"
TURNS: dict[str, str] = {
    "exe first": "the exe link names the first file",
    "exe second": "the exe link names the second file",
    "exe shell": f"the exe link names {SHELL}",
    "map first": "a page of the first file is mapped to be read, and stays mapped",
    "map second": "a page of the second file is mapped to be read, and stays mapped",
    "write first": "the first file is opened for writing, and stays open",
    "write second": "the second file is opened for writing, and stays open",
}
"""What a turn may be, and what it does."""


@dataclass(frozen=True)
class Turn:
    """What came of one turn."""

    word: str
    verdict: str
    """"accepted", or the name of the errno."""
    exe: str
    """What the exe link reads after it."""

    @property
    def accepted(self) -> bool:
        """True if the kernel did it."""
        return self.verdict == "accepted"


def take_turns(words: Sequence[str]) -> Asked[tuple[Turn, ...]]:
    """Take turns, words of `TURNS`, on a specimen that may change its link.

    It is an ordinary user's, in a user namespace of its own, and has let go of its own executable.

    >>> [turn.verdict for turn in take_turns(["write first", "write second"]).told]
    ['accepted', 'accepted']

    Raises KeyError for another word.
    """
    return ask(lambda specimen, facts: _turns(specimen, facts, words))


def _turns(specimen: Specimen, _facts: Facts, words: Sequence[str]) -> tuple[Turn, ...]:
    if specimen.syscall("geteuid") == 0:
        specimen.become(65534)
    specimen.enter_user_namespace()
    specimen.release_executable()
    files = {name: specimen.memory_file(name) for name in OWN_FILES}
    files["shell"] = specimen.open(SHELL)
    return tuple(_turn(specimen, files, word) for word in words)


def _turn(specimen: Specimen, files: dict[str, int], word: str) -> Turn:
    kind, _, name = word.partition(" ")
    if kind == "exe":
        errno = specimen.set_map(specimen.current_map().changed(exe_fd=files[name]))
    else:
        errno = _refusal(specimen, kind, files[name])
    verdict = errno_name(errno) if errno else "accepted"
    return Turn(word, verdict, str(specimen.snapshot().exe))


def _refusal(specimen: Specimen, kind: str, descriptor: int) -> int:
    """Map a file or open it for writing; return the errno, 0 if it could be done."""
    try:
        if kind == "map":
            specimen.map(PAGE, permissions="r--", descriptor=descriptor)
        else:
            specimen.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
    except SystemCallError as error:
        return error.errno or 0
    return 0
