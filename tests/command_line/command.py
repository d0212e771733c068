"""The command as a shell runs it, and what is true of everything that it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from prctlmm_lab.experiments.recipe import read_recipe
from tests.ordinary_user import ROOT

RECIPES = ROOT / "data" / "recipes"
FILES = [path for path in sorted(RECIPES.glob("*.toml")) if read_recipe(path).experiments]
"""The shipped recipes that hold experiments; one holds sweeps."""
COMMAND = [sys.executable, "-m", "prctlmm_lab"]
HEAD = 'schema = "prctlmm-lab/recipe/1"\n'


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment to run in: this checkout's code, and a terminal of 80 columns.

    Output is buffered, as it is for everybody, so that errors of writing come at the end too.
    """
    own = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**own, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **(more or {})}


def prctlmm_lab(
    *arguments: str | Path, cwd: Path | None = None, more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(more),
        timeout=60,
    )


def assert_readable(text: str) -> None:
    """Check that a terminal of 80 columns shows the text well, and does not act on any of it."""
    for line in text.splitlines():
        assert line.isprintable(), repr(line)
        assert line == line.rstrip()
        # A word that is too long alone is not torn apart.
        assert len(line) <= 80 or " " not in line.strip(), line


def recipe(folder: Path, *experiments: str) -> Path:
    """Write a recipe of experiments and return its path."""
    path = folder / "recipe.toml"
    path.write_text(HEAD + "".join(f"[[experiment]]\n{text}\n" for text in experiments), "utf-8")
    return path
