r"""prctlmm_lab: see, predict and prove what PR_SET_MM_MAP does to a process.

>>> from prctlmm_lab import Specimen
>>> with Specimen() as specimen:
...     page = specimen.map(4096)
...     specimen.write(page, b"a new name\0")
...     new = specimen.current_map().changed(arg_start=page, arg_end=page + 11)
...     errno = specimen.set_map(new)
...     shown = specimen.snapshot().cmdline
>>> errno, shown
(0, b'a new name\x00')

The names below are loaded when they are first used, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prctlmm_lab.atlas.kernels import Kernel as Kernel
    from prctlmm_lab.errors import InputError as InputError
    from prctlmm_lab.errors import LabError as LabError
    from prctlmm_lab.errors import SpecimenError as SpecimenError
    from prctlmm_lab.errors import SystemCallError as SystemCallError
    from prctlmm_lab.errors import UnsupportedSystem as UnsupportedSystem
    from prctlmm_lab.experiments.axes import Axis as Axis
    from prctlmm_lab.experiments.axes import Sweep as Sweep
    from prctlmm_lab.experiments.differential import fuzz as fuzz
    from prctlmm_lab.experiments.experiment import Experiment as Experiment
    from prctlmm_lab.experiments.experiment import run as run
    from prctlmm_lab.experiments.recipe import read_recipe as read_recipe
    from prctlmm_lab.experiments.replay import replay as replay
    from prctlmm_lab.experiments.side_by_side import compare as compare
    from prctlmm_lab.experiments.sweep import sweep as sweep
    from prctlmm_lab.kernel.abi import MEMBERS as MEMBERS
    from prctlmm_lab.kernel.abi import PrctlMmMap as PrctlMmMap
    from prctlmm_lab.kernel.difference import difference as difference
    from prctlmm_lab.kernel.model import specification as specification
    from prctlmm_lab.kernel.releases import facts_on as facts_on
    from prctlmm_lab.kernel.rules import RULES as RULES
    from prctlmm_lab.kernel.rules import explain as explain
    from prctlmm_lab.specimen.probe import doctor as doctor
    from prctlmm_lab.specimen.probe import facts_here as facts_here
    from prctlmm_lab.specimen.process import Specimen as Specimen
    from prctlmm_lab.specimen.recording.recorded import read_snapshot as read_snapshot
    from prctlmm_lab.specimen.situation import situation_of as situation_of
    from prctlmm_lab.views.logbooks import Logbook as Logbook

__version__ = "0.1.0"

_HOMES = {
    "errors": "InputError LabError SpecimenError SystemCallError UnsupportedSystem",
    "atlas.kernels": "Kernel",
    "experiments.axes": "Axis Sweep",
    "experiments.differential": "fuzz",
    "experiments.experiment": "Experiment run",
    "views.logbooks": "Logbook",
    "experiments.recipe": "read_recipe",
    "experiments.replay": "replay",
    "experiments.side_by_side": "compare",
    "experiments.sweep": "sweep",
    "kernel.abi": "MEMBERS PrctlMmMap",
    "kernel.difference": "difference",
    "kernel.model": "specification",
    "kernel.releases": "facts_on",
    "kernel.rules": "RULES explain",
    "specimen.probe": "doctor facts_here",
    "specimen.process": "Specimen",
    "specimen.recording.recorded": "read_snapshot",
    "specimen.situation": "situation_of",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
