"""prctlmm-lab fuzz: random calls by callers of every kind, the kernel held against the model."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prctlmm_lab.commands.output import (
    DISAGREEMENT,
    FINE,
    INTERRUPTED,
    add_json,
    require_folder,
    write,
)
from prctlmm_lab.commands.prerequisites import require_package

if TYPE_CHECKING:
    from prctlmm_lab.experiments.differential import Tally
    from prctlmm_lab.experiments.wrong_models import Examination

CALLS, MAPS = 1_000_000, 20_000
"""How many calls, and how many maps with all their effects, where nothing else is asked for."""

# The bar has its own line on a terminal; elsewhere nothing is shown.
Show = Callable[[int, str], None]


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "fuzz", help="hold the specification against millions of real calls",
        description="Make random calls, biased towards every boundary, by callers of every kind, "
        "and compare each answer with the specification. A disagreement is shrunk to a small "
        "recipe and saved.",
        epilog="Example: prctlmm-lab fuzz --calls 10000000",
    )  # fmt: skip
    parser.add_argument("--calls", type=_count, metavar="N",
                        help="how many calls; with --effects, accepted maps")  # fmt: skip
    parser.add_argument("--seconds", type=_duration, metavar="S", help="end after so long")
    parser.add_argument("--seed", type=_seed, metavar="S", help="make the same maps again")
    parser.add_argument("--effects", action="store_true",
                        help="compare everything /proc and brk() show, map by map")  # fmt: skip
    parser.add_argument("--wrong-models", action="store_true",
                        help="test the test: which call catches each wrong model")  # fmt: skip
    parser.add_argument("--save", type=Path, default=Path(), metavar="FOLDER",
                        help="where a disagreement's recipe goes (here)")  # fmt: skip
    add_json(parser)
    parser.set_defaults(command=fuzz)


def _count(text: str) -> int:
    return _number(text, "a whole number of calls above 0", lambda n: 0 < n < 1 << 48)


def _seed(text: str) -> int:
    return _number(text, f"a whole number from 0 to {(1 << 64) - 1:#x}", lambda n: 0 <= n < 1 << 64)


def _number(text: str, wanted: str, fits: Callable[[int], bool]) -> int:
    with contextlib.suppress(ValueError):
        if fits(number := int(text, 0)):
            return number
    raise argparse.ArgumentTypeError(f"{text[:80]!r} is not {wanted}")


def _duration(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < 1e9:
            return seconds
    raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number of seconds above 0")


def fuzz(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    for package in ("numpy", "tqdm"):
        require_package(package)
    if options.wrong_models:
        return _test_the_test(options)
    from prctlmm_lab.experiments.differential import fuzz

    require_folder("--save", options.save)
    calls = options.calls or (MAPS if options.effects else CALLS)
    unit = "maps" if options.effects else "calls"
    with _bar(calls, unit) as show:
        tally = fuzz(
            calls, seconds=options.seconds, seed=options.seed, effects=options.effects,
            on_progress=lambda t: show(
                t.watched if options.effects else t.calls, f"{t.disagreements:,} disagreements"
            ),
        )  # fmt: skip
    print(json.dumps(tally_data(tally)) if options.json else tally_text(tally))
    _save(tally, options.save)
    if tally.disagreements:
        return DISAGREEMENT
    return INTERRUPTED if tally.interrupted else FINE


def tally_data(tally: Tally) -> dict[str, object]:
    """Return a tally as JSON has it."""
    data = {k: v for k, v in vars(tally).items() if k not in ("examples", "shrunk")}
    examples = [
        {"scenario": e.scenario, "limit": e.limit, "predicted": e.predicted, "kernel": e.kernel,
         "recipe": e.recipe}
        for e in tally.examples
    ]  # fmt: skip
    return data | {"examples": examples}


def tally_text(tally: Tally) -> str:
    """Return a tally as a person reads it."""
    lines = [str(tally)]
    for title, counts in (
        ("the kernel's verdict", tally.by_verdict),
        ("the rule that decides", tally.by_rule),
        ("RLIMIT_DATA", tally.by_limit),
        ("the caller", tally.by_scenario),
    ):
        lines += _counted(title, counts)
    for name, reason in tally.skipped.items():
        lines.append(f"  cannot be shown here: {name}: {reason}")
    for found in tally.examples:
        answers = f"predicted {found.predicted}, kernel {found.kernel}"
        lines += ["", f"DISAGREES: {answers}", found.recipe]
    return "\n".join(lines)


def _counted(title: str, counts: Counter[str]) -> list[str]:
    if not counts:
        return []
    width = max(len(f"{number:,}") for number in counts.values())
    rows = [f"    {number:>{width},}  {name}" for name, number in counts.most_common()]
    return ["", f"  by {title}", *rows]


def _save(tally: Tally, folder: Path) -> None:
    """Write the disagreements as one recipe, for `prctlmm-lab run`."""
    if not tally.examples:
        return
    from prctlmm_lab.experiments.recipe import Recipe, recipe_text

    title = f"Disagreements of Linux {tally.kernel} and the {tally.model}, seed {tally.seed}"
    experiments = tuple(found.experiment for found in tally.examples)
    text = recipe_text(Recipe(title, experiments))
    path = folder / f"disagreements-{tally.seed}.toml"
    write(path, lambda: path.write_text(text, encoding="utf-8"))


@contextlib.contextmanager
def _bar(total: int, unit: str) -> Iterator[Show]:
    """Show progress on standard error while it is a terminal."""
    from tqdm import tqdm

    shown = 0
    with tqdm(total=total, unit=f" {unit}", unit_scale=True, leave=False, disable=None,
              file=sys.stderr) as bar:  # fmt: skip

        def show(done: int, remark: str) -> None:
            nonlocal shown
            bar.set_postfix_str(remark, refresh=False)
            bar.update(min(done, total) - shown)
            shown = min(done, total)

        yield show


# ---- the test of the test ---------------------------------------------------------------------


def _test_the_test(options: argparse.Namespace) -> int:
    from prctlmm_lab.experiments.wrong_models import all_wrong_models, examine

    models = len(all_wrong_models())
    with _bar(models, "wrong models") as show:
        result = examine(
            calls=options.calls or CALLS, seconds=options.seconds, seed=options.seed,
            on_progress=lambda r: show(len(r.caught) + len(r.proved), f"{r.calls:,} calls"),
        )  # fmt: skip
    print(json.dumps(vars(result)) if options.json else examination_text(result))
    if result.escaped:
        return DISAGREEMENT
    return INTERRUPTED if result.interrupted else FINE


def examination_text(result: Examination) -> str:
    """Return the list of wrong models and what caught each, one line for each and a summary."""
    lines = []
    for name, evidence in result.caught.items():
        lines += [f"caught by call {result.caught_after[name]:,}  {name}", f"    {evidence}"]
    for name, reason in result.proved.items():
        lines += [f"no different  {name}", f"    {reason}"]
    lines += [f"ESCAPED  {name}" for name in result.escaped]
    return "\n".join([*lines, str(result)])
