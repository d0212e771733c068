"""prctlmm-lab sweep: the real kernel asked about a whole range of one or two members."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prctlmm_lab.commands.output import (
    BAD_INPUT,
    DISAGREEMENT,
    FINE,
    add_json,
    complain,
    require_folder_of,
    write,
)
from prctlmm_lab.commands.prerequisites import require_package, require_picture
from prctlmm_lab.commands.recipes import add_recipe, chosen_sweeps, require_one
from prctlmm_lab.errors import SpecimenError, SpecimenStartError

if TYPE_CHECKING:
    from prctlmm_lab.experiments.axes import Sweep
    from prctlmm_lab.experiments.swept import SweepResult


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "sweep", help="ask the real kernel about a whole range of one or two members",
        epilog="Example: prctlmm-lab sweep data/recipes/sweeps.toml --only heap --picture a.png",
    )  # fmt: skip
    parser.add_argument("--picture", type=Path, metavar="FILE",
                        help="draw which rule decides where (PNG, SVG or PDF)")  # fmt: skip
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row for each call")
    add_recipe(parser)
    add_json(parser)
    parser.set_defaults(command=sweep)


def sweep(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    sweeps = chosen_sweeps(options)
    for name in ("picture", "csv"):
        if getattr(options, name):
            require_one(f"--{name}", sweeps, "sweep")
    require_package("numpy")
    if options.picture:
        require_picture(options.picture)
    if options.csv:
        require_package("pandas")
        require_folder_of("--csv", options.csv)
    statuses: list[int] = []
    for wanted in sweeps:
        if not options.json and {FINE, DISAGREEMENT} & {*statuses}:
            print()
        statuses.append(_sweep_one(wanted, options))
    return DISAGREEMENT if DISAGREEMENT in statuses else max(statuses)


def _sweep_one(wanted: Sweep, options: argparse.Namespace) -> int:
    """Carry out a sweep and show it; one that cannot be set up here is said."""
    from prctlmm_lab.experiments.experiment import SetupError
    from prctlmm_lab.experiments.sweep import sweep

    try:
        result = sweep(wanted)
    except SpecimenStartError:
        raise
    except (SetupError, SpecimenError) as error:
        complain(error)
        return BAD_INPUT
    if options.json:
        print(json.dumps(result.data()))
    else:
        print(result.text())
    _write_files(result, options)
    return DISAGREEMENT if result.disagreements else FINE


def _write_files(result: SweepResult, options: argparse.Namespace) -> None:
    if options.picture:
        from prctlmm_lab.views.pictures import save
        from prctlmm_lab.views.verdicts import draw_verdicts

        figure = draw_verdicts(result)
        write(options.picture, lambda: save(figure, options.picture))
    if options.csv:
        write(options.csv, lambda: result.frame().to_csv(options.csv, index=False))
