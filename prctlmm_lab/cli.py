"""prctlmm-lab: the command line.

Exit status 0: as predicted. 1: the kernel and the specification disagree. 2: bad input or a system
that cannot do it, said in one sentence. With --json, standard output holds one JSON document or
one JSON object a line and nothing else; messages go to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from prctlmm_lab.errors import InputError, LabError

FINE, DISAGREEMENT, BAD_INPUT = 0, 1, 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
        return status
    except LabError as error:
        print(f"prctlmm-lab: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has had enough
        return FINE
    except KeyboardInterrupt:
        print("prctlmm-lab: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from prctlmm_lab import __version__

    parser = _Parser(
        prog="prctlmm-lab",
        description="See, predict and prove what prctl(PR_SET_MM, PR_SET_MM_MAP) does.",
        epilog="Exit status 0: as predicted; 1: kernel and specification disagree; 2: bad input.",
    )
    parser.add_argument("--version", action="version", version=f"prctlmm-lab {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="what works on this kernel, and the remedy")
    doctor.add_argument("--brief", action="store_true", help="a few lines")
    doctor.set_defaults(command=_doctor)

    explain = commands.add_parser("explain", help="what the kernel will say to a recipe, and why")
    explain.set_defaults(command=_explain)

    run = commands.add_parser("run", help="run a recipe's experiments on the real kernel")
    run.add_argument("--log", type=Path, metavar="FILE", help="append requests and records to it")
    run.add_argument("--picture", type=Path, metavar="FILE",
                     help="draw the address space before and after (PNG, SVG or PDF)")  # fmt: skip
    run.set_defaults(command=_run)

    for command in (explain, run):
        command.add_argument("recipe", metavar="RECIPE", help="a TOML file, as in data/recipes")
        command.add_argument("--only", metavar="ID", help="just this experiment of the recipe")
    for command in (doctor, explain, run):
        command.add_argument("--json", action="store_true", help="JSON on standard output")

    lab = commands.add_parser("lab", help="open JupyterLab on the first notebook")
    lab.set_defaults(command=_lab)
    return parser


# ---- doctor -----------------------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> int:
    from prctlmm_lab.experiments.record import plain
    from prctlmm_lab.specimen.probe import doctor

    diagnosis = doctor()
    if options.json:
        print(json.dumps(plain(diagnosis) | {"healthy": diagnosis.healthy}, indent=2))
        return FINE if diagnosis.healthy else BAD_INPUT
    print(diagnosis.text(brief=options.brief))
    return FINE if diagnosis.healthy else BAD_INPUT


# ---- explain and run --------------------------------------------------------------------------


def _experiments(options: argparse.Namespace) -> tuple:  # type: ignore[type-arg]
    from prctlmm_lab.experiments.recipe import read_recipe

    experiments = read_recipe(options.recipe).experiments
    if options.only is None:
        return experiments
    chosen = tuple(e for e in experiments if e.id == options.only)
    if not chosen:
        raise InputError("--only", "is not an experiment of this recipe", ascii(options.only)[:80],
                         ", ".join(e.id for e in experiments))  # fmt: skip
    return chosen


def _explain(options: argparse.Namespace) -> int:
    from prctlmm_lab.experiments.experiment import prepare
    from prctlmm_lab.specimen.probe import facts_here

    for experiment in _experiments(options):
        with experiment.specimen.start() as specimen:
            prepared = prepare(experiment, specimen, facts_here())
        if options.json:
            print(json.dumps(_explanation_data(prepared)))
            continue
        print(f"{experiment.id}: {prepared.explanation.verdict}")
        for finding in prepared.explanation.broken:
            print(f"  {finding}")
    return FINE


def _explanation_data(prepared) -> dict[str, object]:  # type: ignore[no-untyped-def]
    from prctlmm_lab.kernel.rules import errno_name

    explanation = prepared.explanation
    deciding = explanation.deciding
    return {
        "id": prepared.experiment.id,
        "map": {name: hex(value) for name, value in prepared.map},
        "verdict": errno_name(explanation.errno) if deciding else "accepted",
        "rule": deciding.rule.id if deciding else "",
        "rules": [
            {"id": f.rule.id, "broken": f.broken, "decides": f.decides, "numbers": f.numbers}
            for f in explanation.findings
        ],
    }


def _run(options: argparse.Namespace) -> int:
    from prctlmm_lab.experiments.experiment import run
    from prctlmm_lab.experiments.logbook import Logbook
    from prctlmm_lab.experiments.record import to_json

    experiments = _experiments(options)
    if options.picture and len(experiments) > 1:
        raise InputError("--picture", "shows one experiment; choose it with --only", "",
                         ", ".join(e.id for e in experiments))  # fmt: skip
    status = FINE
    for experiment in experiments:
        record = (Logbook(options.log).run if options.log else run)(experiment)
        status = status if record.agreement.with_lab else DISAGREEMENT
        print(to_json(record) if options.json else _record_text(record))
    if options.picture:
        _picture(experiments[0], options.picture)
    return status


def _record_text(record) -> str:  # type: ignore[no-untyped-def]
    lines = [record.summary()]
    if record.prediction.numbers:
        lines.append(f"  because {record.prediction.numbers}")
    lines += [f"  {p} {n}".rstrip() + f": {b} -> {a}" for p, n, b, a in _shown(record.difference)]
    lines += [f"  then {a.step}: {a.answer or a.refusal or 'done'}" for a in record.answers]
    lines += [f"  then {p} {n}".rstrip() + f": {b} -> {a}" for p, n, b, a in _shown(record.later)]
    lines += [f"  DISAGREES {text}" for text in record.agreement.disagreements]
    return "\n".join(lines)


def _shown(rows):  # type: ignore[no-untyped-def]
    """Make what came from a process safe for a terminal."""
    return [[part if part.isprintable() else ascii(part) for part in row] for row in rows]


def _picture(experiment, path: Path) -> None:  # type: ignore[no-untyped-def]
    from prctlmm_lab.experiments.experiment import perform, prepare
    from prctlmm_lab.specimen.probe import facts_here
    from prctlmm_lab.views.pictures import draw, save

    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, facts_here())
        specimen.set_map(prepared.map, size=prepared.size, arg5=prepared.arg5)
        perform(experiment.after, prepared.bench, experiment.id)
        save(draw(specimen.snapshot(), before=prepared.before), path)
    print(f"prctlmm-lab: {path} written", file=sys.stderr)


# ---- lab --------------------------------------------------------------------------------------


def _lab(options: argparse.Namespace) -> int:
    import subprocess

    first = next(iter(sorted(Path("notebooks").glob("00-*.ipynb"))), None)
    if first is None:
        raise InputError(
            "lab", "there is no notebooks/00-... here", "", "the folder of the project"
        )
    try:
        return subprocess.run([sys.executable, "-m", "jupyterlab", str(first)]).returncode
    except KeyboardInterrupt:
        return FINE
