"""When a recording stands in for the kernel.

`PRCTLMM_LAB_RECORDED=1` forces it. Otherwise it does so by itself in a notebook only, and only
where the real call cannot be made. The command line never takes a recording for an answer.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from prctlmm_lab.errors import LabError
from prctlmm_lab.specimen.build import MACHINES

if TYPE_CHECKING:
    from prctlmm_lab.specimen.process import Specimen

VARIABLE = "PRCTLMM_LAB_RECORDED"

_substitute: type[Specimen] | None = None
_forbidden = False


def specimen_class(cls: type[Specimen]) -> type[Specimen]:
    """Return the class that `Specimen(...)` makes here: the real one, or one that stands in."""
    if _substitute is not None:
        return _substitute
    if not is_recorded():
        return cls
    from prctlmm_lab.specimen.recording.recorded import RecordedSpecimen

    return RecordedSpecimen


def substitute(cls: type[Specimen] | None) -> None:
    """Have `Specimen(...)` make specimens of another class; None for the usual ones."""
    global _substitute
    _substitute = cls


@contextmanager
def without_substitute() -> Iterator[None]:
    """Have `Specimen(...)` make the usual specimens for a while, also where they are recorded."""
    kept = _substitute
    substitute(None)
    try:
        yield
    finally:
        substitute(kept)


def forbid() -> None:
    """Never take a recording for an answer in this process, as the command line must not."""
    global _forbidden
    _forbidden = True


def is_recorded() -> bool:
    """Tell whether a recording stands in for the kernel in this process."""
    if _forbidden or _substitute is not None:
        return False
    return bool(why())


def is_live() -> bool:
    """Tell whether every call in this process is a real one, and none is being recorded."""
    return _substitute is None and not is_recorded()


@cache
def why() -> str:
    """Return why a recording stands in for the kernel, or "" if it does not; asked once."""
    if os.environ.get(VARIABLE) == "1":
        return f"{VARIABLE}=1 asks for it"
    # Not in a script: who calls a function there counts on a real answer, or on an error.
    return why_not_live() if "ipykernel.kernelapp" in sys.modules else ""


def why_not_live() -> str:
    """Return why the real call cannot be made here, or "" if it can."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return f"there is no specimen for {sys.platform} on {platform.machine()}"
    from prctlmm_lab.kernel.rules import errno_name
    from prctlmm_lab.specimen.process import Specimen

    real = object.__new__(Specimen)
    try:
        real.__init__(heap_pages=0)  # type: ignore[misc]
        with real:
            answer = real.set_map(real.current_map())
    except LabError as error:
        return str(error)
    return f"the call gives {errno_name(answer)} here" if answer else ""
