"""The recipe that a command is given: what of it is meant, and its experiments set up."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from prctlmm_lab.commands.output import complain
from prctlmm_lab.errors import InputError, SpecimenError, SpecimenStartError

if TYPE_CHECKING:
    from prctlmm_lab.experiments.axes import Sweep
    from prctlmm_lab.experiments.experiment import Experiment, Prepared

_Part = TypeVar("_Part", "Experiment", "Sweep")
"""Of a recipe."""


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE and --only to the arguments of a command."""
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, as in data/recipes")
    parser.add_argument("--only", metavar="ID", help="just this one of the recipe")


def chosen_experiments(options: argparse.Namespace) -> tuple[Experiment, ...]:
    """Return the experiments that are asked for.

    Raises InputError for a bad recipe, and for one that has none of them.
    """
    from prctlmm_lab.experiments.recipe import read_recipe

    return _chosen(read_recipe(options.recipe).experiments, "experiment", options)


def chosen_sweeps(options: argparse.Namespace) -> tuple[Sweep, ...]:
    """Return the sweeps that are asked for.

    Raises InputError for a bad recipe, and for one that has none of them.
    """
    from prctlmm_lab.experiments.recipe import read_recipe

    return _chosen(read_recipe(options.recipe).sweeps, "sweep", options)


def _chosen(
    entries: tuple[_Part, ...], kind: str, options: argparse.Namespace
) -> tuple[_Part, ...]:
    from prctlmm_lab.experiments.formula import printable, shorten, suggestion

    if not entries:
        other = "run" if kind == "sweep" else "sweep"
        raise InputError(printable(options.recipe), f"holds no {kind}", "",
                         f"prctlmm-lab {other} for what it holds")  # fmt: skip
    chosen = tuple(entry for entry in entries if options.only in (None, entry.id))
    if not chosen:
        article = "an" if kind == "experiment" else "a"
        raise InputError("--only", f"is not {article} {kind} of this recipe", shorten(options.only),
                         suggestion(options.only, [entry.id for entry in entries]))  # fmt: skip
    return chosen


def require_one(option: str, entries: tuple[_Part, ...], kind: str) -> None:
    """Refuse an option that serves one experiment or sweep alone where there are more.

    Raises InputError.
    """
    if len(entries) > 1:
        raise InputError(option, f"shows one {kind}; choose it with --only", "",
                         ", ".join(entry.id for entry in entries))  # fmt: skip


def prepared_one_by_one(experiments: Iterable[Experiment]) -> Iterator[Prepared | None]:
    """Prepare experiments one by one; None for one that cannot be set up here, which is said."""
    from prctlmm_lab.experiments.experiment import SetupError, prepare
    from prctlmm_lab.specimen.probe import facts_here

    for experiment in experiments:
        with experiment.specimen.start() as specimen:
            prepared = None
            try:
                prepared = prepare(experiment, specimen, facts_here())
            except SpecimenStartError:
                raise
            except (SetupError, SpecimenError) as error:
                complain(error)
            yield prepared
