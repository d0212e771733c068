"""prctlmm-lab atlas run, atlas table: many kernels asked the same, and what they answer."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prctlmm_lab.commands.output import (
    BAD_INPUT,
    DISAGREEMENT,
    FINE,
    add_json,
    complain,
    wrapped,
)
from prctlmm_lab.errors import InputError

if TYPE_CHECKING:
    from prctlmm_lab.atlas.explained import Turn
    from prctlmm_lab.atlas.survey import Survey, Target
    from prctlmm_lab.atlas.surveying import Subject, Wanted
    from prctlmm_lab.experiments.recipe import Recipe


def add_run(commands: Any) -> None:
    """Add `atlas run`."""
    parser = commands.add_parser(
        "run", help="ask many kernels the same, and keep what they answer",
        description="Run recipes, conformance cases, claims and random calls on many kernels, "
        "each in a guest, several at a time. What is kept in the folder already is not asked "
        "again: an interrupted run goes on where it was.",
        epilog="Example: prctlmm-lab atlas run questions heap --kernel 5.10 --kernel 6.1",
    )  # fmt: skip
    parser.add_argument("recipes", nargs="*", metavar="RECIPE",
                        help="a file, or the name of one that comes with the lab")  # fmt: skip
    parser.add_argument("--kernel", action="append", default=[], metavar="VERSION",
                        help="a kept kernel, the path of one, or um; may be given again (all "
                        "that are kept)")  # fmt: skip
    parser.add_argument("--levels", type=int, choices=(4, 5), default=4,
                        help="of page tables (4)")  # fmt: skip
    parser.add_argument("--who", choices=("root", "user", "both"), default="both",
                        help="root with all capabilities, uid 65534 with none (both)")  # fmt: skip
    parser.add_argument("--conformance", action="store_true", help="all conformance cases")
    parser.add_argument("--claims", action="store_true", help="all claims")
    parser.add_argument("--fuzz", type=_count, default=0, metavar="N",
                        help="random calls whose verdict is compared")  # fmt: skip
    parser.add_argument("--effects", type=_count, default=0, metavar="N",
                        help="accepted maps of which everything is compared")  # fmt: skip
    parser.add_argument("--seed", type=_count, metavar="S", help="of the random calls")
    parser.add_argument("--memory", type=_count, metavar="MIB",
                        help="for all guests together (three quarters of the free)")  # fmt: skip
    parser.add_argument("--jobs", type=_count, metavar="N",
                        help="guests at a time (one for each processor)")  # fmt: skip
    parser.add_argument("--into", type=Path, metavar="FOLDER",
                        help="where the surveys go ($PRCTLMM_LAB_ATLAS or "
                        "~/.local/share/prctlmm-lab/atlas)")  # fmt: skip
    add_json(parser)
    parser.set_defaults(command=run)


def add_table(commands: Any) -> None:
    """Add `atlas table`."""
    parser = commands.add_parser(
        "table", help="what kernels answered, where they differ, and why",
        epilog="Example: prctlmm-lab atlas table data/atlas",
    )  # fmt: skip
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER",
                        help="of surveys (your own, or those that come with the lab)")  # fmt: skip
    add_json(parser)
    parser.set_defaults(command=table)


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text[:20]) < 1 << 48:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a whole number above 0")


# ---- run ----------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Ask kernels and return the exit status."""
    from prctlmm_lab.atlas.survey import own_folder, read_survey
    from prctlmm_lab.atlas.surveying import survey_all

    wanted = _wanted(options)
    found = survey_all(
        _subjects(options), wanted, options.into or own_folder(), jobs=options.jobs,
        memory=options.memory, report=_report,
    )  # fmt: skip
    made = sorted(map(read_survey, found), key=lambda each: (each.target.order, each.target.who))
    if options.json:
        for survey in made:
            print(json.dumps(survey_data(survey)))
    else:
        print("\n".join(surveys_text(made)))
    for survey in made:
        for part, why in survey.failures.items():
            complain(f"{_name(survey.target)}: {part}: {why}")
    if any(survey.disagreements for survey in made):
        return DISAGREEMENT
    return BAD_INPUT if any(survey.failures for survey in made) else FINE


def _wanted(options: argparse.Namespace) -> Wanted:
    from prctlmm_lab.atlas.kernels import ROOT, USER
    from prctlmm_lab.atlas.surveying import SEED, Wanted

    wanted = Wanted(
        recipes=dict(map(_recipe, options.recipes)),
        conformance=options.conformance,
        claims=options.claims,
        verdicts=options.fuzz,
        effects=options.effects,
        seed=SEED if options.seed is None else options.seed,
        who=(ROOT, USER) if options.who == "both" else (options.who,),
    )
    asked = options.conformance, options.claims, options.fuzz, options.effects
    if not wanted.recipes and not any(asked):
        known = "a RECIPE or more, --conformance, --claims, --fuzz or --effects"
        raise InputError("atlas run", "needs to know what to ask", "", known)
    return wanted


def _recipe(name: str) -> tuple[str, Recipe]:
    """Return a recipe by its name: of a file, or one that comes with the lab."""
    from prctlmm_lab.experiments.recipe import read_recipe, shipped_recipes

    shipped = {**shipped_recipes(), **shipped_recipes("atlas")}
    recipe = shipped[name] if name in shipped else read_recipe(name)
    if not recipe.experiments:
        raise InputError(name, "holds no experiments")
    return Path(name).stem, recipe


def _subjects(options: argparse.Namespace) -> list[Subject]:
    from prctlmm_lab.atlas.images import images
    from prctlmm_lab.atlas.kernels import Kernel
    from prctlmm_lab.atlas.machines import machine_of
    from prctlmm_lab.atlas.surveying import Subject

    chosen = [Kernel(name).image for name in options.kernel]
    chosen = chosen or [*images(machine=platform.machine())]
    if not chosen:
        raise InputError("--kernel", "no kernel is kept; `prctlmm-lab atlas fetch` gets some")
    for image in chosen:
        if image is not None:
            machine_of(image, options.levels)
    found = (Subject(image, options.levels) for image in chosen if image is not None)
    return [*dict.fromkeys(found)]


def _report(target: Target, line: str) -> None:
    """Say on standard error what goes on."""
    first = line.splitlines()[0] if line else ""
    told = f"{time.strftime('%H:%M:%S')} {_name(target)}: {first}"
    print(wrapped(told, later=4), file=sys.stderr, flush=True)


def _name(target: Target) -> str:
    return f"{target.name} {target.who}"


def survey_data(survey: Survey) -> dict[str, Any]:
    """Return as JSON has it what a survey comes to."""
    return {
        **vars(survey.target),
        "conformance": dict(survey.results),
        "claims": len(survey.claims),
        "experiments": len(survey.recipes),
        "calls": survey.calls,
        "maps": survey.watched,
        "disagreements": list(survey.disagreements),
        "failures": dict(survey.failures),
        "seconds": round(survey.seconds, 1),
    }


# ---- table --------------------------------------------------------------------------------------


def table(options: argparse.Namespace) -> int:
    """Print what kernels answered and return the exit status."""
    from prctlmm_lab.atlas.explained import differences
    from prctlmm_lab.atlas.survey import atlas_folder, own_folder, surveys

    own = any(own_folder().glob("*.json"))
    folder = options.folder or (own_folder() if own else atlas_folder())
    found = surveys(folder)
    if not found:
        raise InputError(str(folder), "holds no survey; `prctlmm-lab atlas run` makes some")
    turns = differences(found)
    if options.json:
        print(json.dumps({
            "surveys": [survey_data(survey) for survey in found],
            "differences": [turn_data(turn) for turn in turns],
        }))  # fmt: skip
    else:
        print(wrapped(f"{len(found)} surveys in {folder}", later=2))
        print("\n".join(table_lines(found, turns)))
    wrong = any(survey.disagreements for survey in found)
    return DISAGREEMENT if wrong or not all(turn.reason for turn in turns) else FINE


def turn_data(turn: Turn) -> dict[str, Any]:
    """Return as JSON has it where two kernels differ, and why."""
    older, newer = turn.older.name, turn.newer.name
    return {**vars(turn), "older": older, "newer": newer, "commits": list(turn.commits)}


def table_lines(found: Sequence[Survey], turns: Sequence[Turn]) -> Iterator[str]:
    """Yield the whole table as text: the kernels, where they differ and why, what is alike."""
    yield from surveys_text(found)
    yield made_text(found)
    for survey in found:
        for line in survey.disagreements:
            yield wrapped(f"DISAGREEMENT, {_name(survey.target)}: {line}", later=2)
    yield ""
    yield from difference_lines(turns)
    yield ""
    yield wrapped(alike_text(found, turns), later=0)
    yield from unsettled_lines(found)


def surveys_text(found: Sequence[Survey]) -> Iterator[str]:
    """Yield a table of surveys: a line each, with what was compared and how it ended."""
    width = max((len(survey.target.name) for survey in found), default=0)
    yield (f"{'kernel':{width}}  who   pass skip fail  claims  exps      calls    maps  wrong")
    for survey in found:
        cases = "".join(f"{survey.results[kind]:5}" for kind in ("pass", "skip", "fail"))
        yield (
            f"{survey.target.name:{width}}  {survey.target.who:4} {cases}  {len(survey.claims):6}"
            f"  {len(survey.recipes):4} {survey.calls:10,} {survey.watched:7,} "
            f"{len(survey.disagreements):6}"
        )


def made_text(found: Sequence[Survey]) -> str:
    """Say when the surveys were made, and with which lab."""
    made = [
        each
        for survey in found
        for each in (*survey.made.values(), *(p.made for p in (*survey.verdicts, *survey.effects)))
        if each is not None
    ]
    days = sorted({each.time[:10] for each in made})
    labs = sorted({each.lab for each in made})
    return f"made {' to '.join(dict.fromkeys([*days[:1], *days[-1:]]))} with prctlmm_lab " + (
        ", ".join(labs)
    )


def difference_lines(turns: Sequence[Turn]) -> Iterator[str]:
    """Yield where kernels differ, a question at a time, what is unexplained first."""
    if not turns:
        yield "No two kernels beside each other differ."
        return
    yield "Where kernels differ:"

    def question(turn: Turn) -> tuple[bool, str, str]:
        return bool(turn.reason), turn.kind, turn.name

    unexplained = {(turn.kind, turn.name) for turn in turns if not turn.reason}
    shown = [turn for turn in turns if not turn.is_of_kind or not turn.reason]
    ordered = sorted(shown, key=lambda t: ((t.kind, t.name) not in unexplained, t.kind, t.name))
    for (kind, name), group in groupby(ordered, key=lambda turn: question(turn)[1:]):
        yield f"{kind} {name}"
        told: dict[str, list[str]] = {}
        for turn in group:
            told.setdefault(_turn_text(turn), []).append(turn.who)
        for text, who in told.items():
            asked = "" if {*who} == {"root", "user"} else f" ({', '.join(who)})"
            yield wrapped(f"  {text}{asked}", later=4)
    yield from kind_lines([turn for turn in turns if turn.is_of_kind and turn.reason])


def kind_lines(turns: Sequence[Turn]) -> Iterator[str]:
    """Yield what kernels of another kind answer otherwise: counted, or named where few do."""

    def beside(turn: Turn) -> tuple[str, str]:
        return turn.newer.name, turn.older.name

    for (newer, older), group in groupby(sorted(turns, key=beside), key=beside):
        told = [*group]
        names: dict[str, set[str]] = {}
        for turn in told:
            names.setdefault(turn.kind, set()).add(turn.name)
        reasons = "; ".join(dict.fromkeys(turn.reason for turn in told))
        yield wrapped(f"{newer} beside {older}: {reasons}", later=2)
        for kind, of_kind in names.items():
            few = len(of_kind) <= _FEW
            which = ", ".join(sorted(of_kind)) if few else str(len(of_kind))
            yield wrapped(f"  {kind}: {which}", later=4)


_FEW = 12


def _turn_text(turn: Turn) -> str:
    commits = f" ({', '.join(turn.commits)})" if turn.commits else ""
    return (
        f"{turn.older.name}: {turn.before}; {turn.newer.name}: {turn.after}. "
        f"{turn.reason or 'UNEXPLAINED'}{commits}"
    )


def alike_text(found: Sequence[Survey], turns: Sequence[Turn]) -> str:
    """Say how much is answered alike by every kernel, those of another kind aside."""
    differing = {(turn.kind, turn.name) for turn in turns if not turn.is_of_kind}
    parts = []
    for kind, part, what in (("case", "conformance", "cases"), ("claim", "claims", "claims"),
                             ("recipe", "recipes", "experiments of recipes")):  # fmt: skip
        names = {name for survey in found for name in getattr(survey, part)}
        alike = sum((kind, name) not in differing for name in names)
        parts.append(f"{alike} of {len(names)} {what}")
    return f"Alike on every kernel: {', '.join(parts)}."


def unsettled_lines(found: Sequence[Survey]) -> Iterator[str]:
    """Yield the claims that could not be shown, and where."""
    from prctlmm_lab.atlas.explained import unsettled

    asked = Counter(survey.target.who for survey in found if survey.claims)
    places: dict[str, dict[str, list[str]]] = {}
    for name, target, _ in unsettled(found):
        places.setdefault(name, {}).setdefault(target.who, []).append(target.name)
    for name, by in places.items():
        where = "; ".join(
            f"as {who}" if len(names) == asked[who] else f"as {who} on {', '.join(names)}"
            for who, names in by.items()
        )
        yield wrapped(f"Cannot be shown {where}: claim {name}", later=2)
