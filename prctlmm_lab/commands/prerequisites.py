"""What must be there before a command starts: packages that it needs, the format of a picture."""

from __future__ import annotations

from pathlib import Path

from prctlmm_lab.commands.output import require_folder_of
from prctlmm_lab.errors import InputError, UnsupportedSystem
from prctlmm_lab.specimen.recording import mode


def forbid_recordings() -> None:
    """Let nothing but real calls answer in this process: a script depends on that."""
    mode.forbid()


def require_package(name: str) -> None:
    """Refuse to go on without a package.

    Raises UnsupportedSystem.
    """
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise UnsupportedSystem(f"{name} is not installed", "Run `make lab`.")


def require_picture(path: Path, argument: str = "--picture") -> None:
    """Refuse what would be known to fail only after the call.

    Raises InputError for an ending that is no picture's and a folder that is not there,
    UnsupportedSystem without matplotlib.
    """
    from prctlmm_lab.views.pictures import FORMATS

    require_package("matplotlib")
    if path.suffix.removeprefix(".").lower() not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise InputError(argument, "has no ending of a picture", str(path), endings)
    require_folder_of(argument, path)
