"""prctlmm-lab checkpoint: run a recipe's experiment and save what became of its specimen."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from prctlmm_lab.commands.output import BAD_INPUT, FINE, add_json, wrapped
from prctlmm_lab.commands.recipes import (
    add_recipe,
    chosen_experiments,
    prepared_one_by_one,
    require_one,
)


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "checkpoint", help="run a recipe's experiment and save its specimen",
        epilog="Example: prctlmm-lab checkpoint data/recipes/heap.toml image --only heap-up",
    )  # fmt: skip
    add_recipe(parser)
    parser.add_argument("folder", type=Path, metavar="FOLDER",
                        help="a new folder for the image")  # fmt: skip
    add_json(parser)
    parser.set_defaults(command=checkpoint_command)


def checkpoint_command(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    from prctlmm_lab.experiments.experiment import carry_out
    from prctlmm_lab.restore.checkpoint import checkpoint
    from prctlmm_lab.words import size_text

    experiments = chosen_experiments(options)
    require_one("FOLDER", experiments, "experiment")
    for prepared in prepared_one_by_one(experiments):
        if prepared is None:
            return BAD_INPUT
        record = carry_out(prepared)
        image = checkpoint(prepared.bench.specimen)
        image.save(options.folder)
        if options.json:
            print(json.dumps({
                "experiment": prepared.experiment.id,
                "outcome": record.outcome.verdict,
                "folder": str(options.folder),
                "areas": len(image.areas),
                "bytes": image.size,
                "left_out": list(image.left_out),
            }))  # fmt: skip
            continue
        print(wrapped(record.summary(), later=4))
        saved = f"{len(image.areas)} areas and {size_text(image.size)} of contents"
        print(wrapped(f"  saved in {options.folder}: {saved}", later=4))
        for what in image.left_out:
            print(wrapped(f"  left out: {what}", later=4))
    return FINE
