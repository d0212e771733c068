"""prctlmm-lab: the command line.

Exit status 0: as predicted. 1: the kernel and the specification disagree. 2: bad input or a system
that cannot do it, said in one sentence. With --json, standard output holds one JSON document or
one JSON object a line and nothing else; messages go to standard error.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from prctlmm_lab.commands import fuzz
from prctlmm_lab.errors import (
    InputError,
    LabError,
    SpecimenError,
    SpecimenStartError,
    UnsupportedSystem,
)

if TYPE_CHECKING:
    from prctlmm_lab.experiments.axes import Sweep
    from prctlmm_lab.experiments.conformance import CaseResult
    from prctlmm_lab.experiments.experiment import Experiment, Prepared
    from prctlmm_lab.experiments.record import Record
    from prctlmm_lab.experiments.swept import SweepResult
    from prctlmm_lab.kernel.facts import Facts
    from prctlmm_lab.kernel.rules import Explanation, Finding

    Elsewhere = tuple[Facts, Explanation]
    """The facts of a release, and what its rules say to a call."""

FINE, DISAGREEMENT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
COLUMNS = 80

_Part = TypeVar("_Part", "Experiment", "Sweep")
"""Of a recipe."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)  # scripts depend on whole names

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    status, problem = FINE, None
    try:
        status = _status(arguments)
    except OSError as error:
        problem = error
    try:
        if sys.stdout is not None:  # the caller may have closed it
            sys.stdout.flush()
    except OSError as error:
        problem = problem or error
        _drop_output()
    if problem is None or isinstance(problem, BrokenPipeError):  # the reader has had enough
        return status
    _complain(problem)
    return BAD_INPUT


def _status(arguments: Sequence[str] | None) -> int:
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal that is not UTF-8
        options = _parser().parse_args(arguments)
        status: int = options.command(options)
        return status
    except LabError as error:
        _complain(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED


def _complain(problem: object) -> None:
    from prctlmm_lab.experiments.formula import printable

    print(f"prctlmm-lab: {printable(str(problem))}", file=sys.stderr)


def _drop_output() -> None:
    """Let what is still buffered go nowhere, or Python would complain about it at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


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

    explain = commands.add_parser(
        "explain", help="what the kernel will say to a recipe, and why",
        epilog="Example: prctlmm-lab explain data/recipes/refusals.toml --only order.code",
    )  # fmt: skip
    explain.add_argument("--on", action="append", metavar="RELEASE",
                         help="as documented of a release: v5.10, or 4.19,5.10.69")  # fmt: skip
    explain.set_defaults(command=_explain)

    run = commands.add_parser(
        "run", help="run a recipe's experiments on the real kernel",
        epilog="Example: prctlmm-lab run data/recipes/heap.toml --log logbook.jsonl",
    )  # fmt: skip
    run.add_argument("--log", type=Path, metavar="FILE", help="append requests and records to it")
    run.add_argument("--picture", type=Path, metavar="FILE",
                     help="draw the address space before and after (PNG, SVG or PDF)")  # fmt: skip
    run.set_defaults(command=_run)

    conformance = commands.add_parser(
        "conformance", help="hold this kernel to the named cases, as KTAP",
        epilog="Example: prctlmm-lab conformance order limit.data",
    )  # fmt: skip
    conformance.add_argument("names", nargs="*", metavar="NAME",
                             help="a subject, a case, or the beginning of cases")  # fmt: skip
    conformance.add_argument("--json", action="store_true", help="one JSON object for each case")
    conformance.set_defaults(command=_conformance)

    sweep = commands.add_parser(
        "sweep", help="ask the real kernel about a whole range of one or two members",
        epilog="Example: prctlmm-lab sweep data/recipes/sweeps.toml --only heap --picture a.png",
    )  # fmt: skip
    sweep.add_argument("--picture", type=Path, metavar="FILE",
                       help="draw which rule decides where (PNG, SVG or PDF)")  # fmt: skip
    sweep.add_argument("--csv", type=Path, metavar="FILE", help="write one row for each call")
    sweep.set_defaults(command=_sweep)

    for command in (explain, run, sweep):
        command.add_argument("recipe", metavar="RECIPE", help="a TOML file, as in data/recipes")
        command.add_argument("--only", metavar="ID", help="just this one of the recipe")
    for command in (doctor, explain, run, sweep):
        command.add_argument("--json", action="store_true", help="JSON on standard output")

    fuzz.add(commands)

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
    for line in diagnosis.text(brief=options.brief).splitlines():
        print(_wrapped(line, later=32))
    return FINE if diagnosis.healthy else BAD_INPUT


# ---- explain and run --------------------------------------------------------------------------


def _experiments(options: argparse.Namespace) -> tuple[Experiment, ...]:
    from prctlmm_lab.experiments.recipe import read_recipe

    return _choose(read_recipe(options.recipe).experiments, "experiment", options)


def _choose(
    entries: tuple[_Part, ...], kind: str, options: argparse.Namespace
) -> tuple[_Part, ...]:
    """Return those of a recipe's experiments or sweeps that are asked for."""
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


def _prepared(experiments: Iterable[Experiment]) -> Iterator[Prepared | None]:
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
                _complain(error)
            yield prepared


def _explain(options: argparse.Namespace) -> int:
    status, releases = FINE, _releases(options.on)
    for prepared in _prepared(_experiments(options)):
        if prepared is None:
            status = BAD_INPUT
            continue
        elsewhere = [_explained_on(release, prepared) for release in releases]
        if options.json:
            print(json.dumps(_explanation_data(prepared, elsewhere)))
        else:
            print(_explanation_text(prepared, elsewhere))
    return status


def _releases(named: list[str] | None) -> list[str]:
    """Split what --on was given, and refuse what is no release before anything is started."""
    from prctlmm_lab.kernel.releases import read_release

    texts = [text.strip() for part in named or [] for text in part.split(",")]
    return list(dict.fromkeys(str(read_release(text, "--on")) for text in texts))


def _explained_on(release: str, prepared: Prepared) -> Elsewhere:
    """Apply the rules of a release to a call that was prepared here."""
    from prctlmm_lab.kernel.releases import facts_on
    from prctlmm_lab.kernel.rules import explain

    facts = facts_on(release, prepared.bench.facts)
    return facts, explain(prepared.situation, facts)


def _explanation_data(prepared: Prepared, elsewhere: list[Elsewhere]) -> dict[str, object]:
    data = {
        "id": prepared.experiment.id,
        "title": prepared.experiment.title,
        "map": {name: hex(value) for name, value in prepared.map},
        "changes": {name: [hex(old), hex(new)] for name, old, new in _changed(prepared)},
        **_verdict_data(prepared.explanation),
    }
    if elsewhere:
        data["on"] = [
            {"release": facts.release, "assumed": facts.assumed, **_verdict_data(explanation)}
            for facts, explanation in elsewhere
        ]
    return data


def _verdict_data(explanation: Explanation) -> dict[str, object]:
    from prctlmm_lab.kernel.rules import errno_name

    deciding = explanation.deciding
    return {
        "verdict": errno_name(explanation.errno) if deciding else "accepted",
        "rule": deciding.rule.id if deciding else "",
        "rules": [_finding_data(finding) for finding in explanation.findings],
    }


def _finding_data(finding: Finding) -> dict[str, object]:
    rule = finding.rule
    return {
        "id": rule.id,
        "title": rule.title,
        "broken": finding.broken,
        "decides": finding.decides,
        "numbers": finding.numbers,
        "requirement": rule.requirement,
        "source": rule.source,
        "history": rule.history,
    }


def _changed(prepared: Prepared) -> list[tuple[str, int, int]]:
    before = dict(prepared.bench.before or prepared.map)
    return [(name, before[name], new) for name, new in prepared.map if new != before[name]]


def _explanation_text(prepared: Prepared, elsewhere: list[Elsewhere]) -> str:
    experiment = prepared.experiment
    if not elsewhere:
        rows = _explanation_rows(prepared, prepared.explanation, "this kernel")
    elif len(elsewhere) == 1:
        ((facts, explanation),) = elsewhere
        kernel = facts.release.split()[0]
        rows = [
            ("on", f"{facts.release}, not run"),
            ("here", f"{_short_verdict(prepared.explanation)} ({prepared.bench.facts.release})"),
            *_explanation_rows(prepared, explanation, kernel),
        ]
    else:
        rows = _comparison_rows(prepared, elsewhere)
    head = ": ".join(filter(None, (experiment.id, experiment.title)))
    return "\n".join([
        _wrapped(head, later=4), *(_wrapped(f"  {what:9} {text}", later=14) for what, text in rows)
    ])  # fmt: skip


def _explanation_rows(
    prepared: Prepared, explanation: Explanation, kernel: str
) -> list[tuple[str, str]]:
    if explanation.deciding is None:
        return _acceptance_rows(prepared, explanation, kernel)
    return _refusal_rows(explanation, explanation.deciding)


def _comparison_rows(prepared: Prepared, elsewhere: list[Elsewhere]) -> list[tuple[str, str]]:
    """Say the verdict here and on each release; what a rule compared stands where it is first."""
    here = f"({prepared.bench.facts.release})"
    rows, told = [], set()
    for kernel, explanation in [
        (f"here {here}", prepared.explanation),
        *((facts.release, explanation) for facts, explanation in elsewhere),
    ]:
        name, _, note = kernel.partition(" ")
        verdict = _short_verdict(explanation)
        if note != "(documented)":
            verdict += f" {note}"
        deciding = explanation.deciding
        if deciding and deciding.rule.id not in told:
            verdict += f": {deciding.numbers}"
            told.add(deciding.rule.id)
        rows.append((name, verdict))
    return [*rows, ("", "releases as documented, not run")]


def _short_verdict(explanation: Explanation) -> str:
    from prctlmm_lab.kernel.rules import errno_name

    if explanation.deciding is None:
        return "accepted"
    return f"{errno_name(explanation.errno)} by rule {explanation.deciding.rule.id}"


def _acceptance_rows(
    prepared: Prepared, explanation: Explanation, kernel: str
) -> list[tuple[str, str]]:
    """Say what changes, and each rule that looked at it, with its numbers."""
    findings, changes = explanation.findings, _changed(prepared)
    names = {name for name, _, _ in changes}
    checked = [finding for finding in findings if names & set(finding.rule.members)]
    first = ("verdict", f"accepted: none of the {len(findings)} rules of {kernel} is broken")
    moved = [(name, f"{old:#x} -> {new:#x}") for name, old, new in changes]
    rows = [("changes", f"{name} {values}") for name, values in moved]
    rows += [("checked", f"{finding.rule.id}: {finding.numbers}") for finding in checked]
    return [first, *_once(rows or [("changes", "nothing: every member keeps its value")])]


def _refusal_rows(explanation: Explanation, deciding: Finding) -> list[tuple[str, str]]:
    rule = deciding.rule
    asked = "in none of the requirements of commit f606b77f1a"
    if rule.requirement:
        asked = f"in requirement {rule.requirement} of commit f606b77f1a's message"
    others = [finding for finding in explanation.broken if finding is not deciding]
    return [
        ("verdict", _short_verdict(explanation)),
        ("needed", rule.title),
        ("numbers", deciding.numbers),
        ("stated", asked),
        ("source", rule.source),
        ("history", rule.history),
        *_once([("also", f"{other.rule.id} is broken: {other.numbers}") for other in others]),
    ]


def _once(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave a label out where the row before has the same."""
    before = ["", *(what for what, _ in rows)]
    return [("" if what == old else what, text)
            for old, (what, text) in zip(before, rows, strict=False)]  # fmt: skip


def _run(options: argparse.Namespace) -> int:
    experiments = _experiments(options)
    if options.picture and len(experiments) > 1:
        raise InputError("--picture", "shows one experiment; choose it with --only", "",
                         ", ".join(e.id for e in experiments))  # fmt: skip
    if options.picture:
        _require_picture(options.picture)
    statuses = [_run_one(prepared, options) for prepared in _prepared(experiments)]
    if len(statuses) > 1 and not options.json:
        print(_summary(statuses))
    return DISAGREEMENT if DISAGREEMENT in statuses else max(statuses)


def _run_one(prepared: Prepared | None, options: argparse.Namespace) -> int:
    from prctlmm_lab.experiments.experiment import carry_out
    from prctlmm_lab.experiments.logbook import Logbook
    from prctlmm_lab.experiments.record import to_json

    if prepared is None:
        return BAD_INPUT
    book = Logbook(options.log) if options.log else None
    record = carry_out(prepared, on_request=book.append if book else None)
    if book:
        book.append(record)
    print(to_json(record) if options.json else _record_text(record))
    if options.picture:
        _picture(prepared, options.picture)
    return FINE if record.agreement.with_lab else DISAGREEMENT


def _summary(statuses: list[int]) -> str:
    counts = {
        "as predicted": statuses.count(FINE),
        "not": statuses.count(DISAGREEMENT),
        "cannot be set up here": statuses.count(BAD_INPUT),
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{len(statuses)} experiments: {', '.join(parts)}"


def _record_text(record: Record) -> str:
    lines = []
    if record.prediction.numbers:
        lines.append(f"because {record.prediction.numbers}")
    if record.learner:
        right = "right" if record.agreement.learner else "wrong"
        lines.append(f"the prediction written down was {record.learner}: {right}")
    lines += _change_lines(record)
    lines += [
        f"after[{number}] {answer.step}: {answer.answer or answer.refusal or 'done'}"
        for number, answer in enumerate(record.answers)
    ]
    lines += [f"then {_change_line(row)}" for row in record.later]
    lines += [f"DISAGREES {text}" for text in record.agreement.disagreements]
    return "\n".join([
        _wrapped(record.summary(), later=4), *(_wrapped(f"  {line}", later=6) for line in lines)
    ])  # fmt: skip


def _change_lines(record: Record) -> list[str]:
    """Write a line for each change, but one for a vector that is another as a whole."""
    rows = list(record.difference)
    new = sum(place == "auxv" for place, *_ in rows) > 3
    vectors = [view.auxv for view in (record.before, record.after) if view is not None]
    if not new or len(vectors) != 2 or str in map(type, vectors):
        return [_change_line(row) for row in rows]
    old, now = ([pair for pair in vector if pair[0] != "AT_NULL"] for vector in vectors)
    left = " ".join("=".join(pair) for pair in now) or "none"
    summary = f"auxv: {len(old)} entries -> {len(now)} ({left})"
    lines = [summary if row[0] == "auxv" else _change_line(row) for row in rows]
    return list(dict.fromkeys(lines))


def _change_line(row: tuple[str, str, str, str]) -> str:
    """Write one change so that a terminal shows what a process wrote and does not act on it."""
    place, name, *values = row
    before, after = (_cut(repr(v) if place in ("cmdline", "environ") else v) for v in values)
    return f"{place} {name}".rstrip() + f": {before} -> {after}"


def _cut(text: str, longest: int = 240) -> str:
    if len(text) <= longest:
        return text
    return f"{text[:longest]}... ({len(text)} characters; --json has them all)"


def _wrapped(line: str, *, later: int) -> str:
    """Break a line at 80 columns; what follows is indented by `later`."""
    from prctlmm_lab.experiments.formula import printable

    return textwrap.fill(
        printable(line), COLUMNS, subsequent_indent=" " * later, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _require_picture(path: Path) -> None:
    """Refuse what would be known to fail only after the call."""
    from prctlmm_lab.views.pictures import FORMATS

    _require("matplotlib")
    if path.suffix.removeprefix(".").lower() not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise InputError("--picture", "has no ending of a picture", str(path), endings)
    _require_folder("--picture", path)


def _require(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise UnsupportedSystem(f"{package} is not installed", "Run `make lab`.")


def _require_folder(option: str, path: Path) -> None:
    if not path.parent.is_dir():
        raise InputError(option, "has no folder to go to", str(path), "one that is there")


def _picture(prepared: Prepared, path: Path) -> None:
    from prctlmm_lab.views.pictures import draw, save

    figure = draw(prepared.bench.specimen.snapshot(), before=prepared.before)
    _write(path, lambda: save(figure, path))


def _write(path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {error.strerror}") from None
    print(f"prctlmm-lab: {path} written", file=sys.stderr)


# ---- sweep ------------------------------------------------------------------------------------


def _sweep(options: argparse.Namespace) -> int:
    from prctlmm_lab.experiments.recipe import read_recipe

    sweeps = _choose(read_recipe(options.recipe).sweeps, "sweep", options)
    for name in ("picture", "csv"):
        if getattr(options, name) and len(sweeps) > 1:
            raise InputError(f"--{name}", "shows one sweep; choose it with --only", "",
                             ", ".join(wanted.id for wanted in sweeps))  # fmt: skip
    _require("numpy")
    if options.picture:
        _require_picture(options.picture)
    if options.csv:
        _require("pandas")
        _require_folder("--csv", options.csv)
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
        _complain(error)
        return BAD_INPUT
    if options.json:
        print(json.dumps(result.data()))
    else:
        print(result.text())
    _write_sweep(result, options)
    return DISAGREEMENT if result.disagreements else FINE


def _write_sweep(result: SweepResult, options: argparse.Namespace) -> None:
    if options.picture:
        from prctlmm_lab.views.pictures import save
        from prctlmm_lab.views.verdicts import draw_verdicts

        figure = draw_verdicts(result)
        _write(options.picture, lambda: save(figure, options.picture))
    if options.csv:
        _write(options.csv, lambda: result.frame().to_csv(options.csv, index=False))


# ---- conformance ------------------------------------------------------------------------------


def _conformance(options: argparse.Namespace) -> int:
    from prctlmm_lab.experiments.conformance import FAIL, cases, conformance, header, ktap
    from prctlmm_lab.experiments.record import plain
    from prctlmm_lab.specimen.probe import facts_here

    groups = cases(options.names)
    heading = header(facts_here(), os.geteuid(), groups)
    failed = False

    def results() -> Iterator[CaseResult]:
        nonlocal failed
        for told in conformance(groups):
            failed |= told.result == FAIL
            yield told

    if options.json:
        lines: Iterator[str] = (json.dumps(plain(told)) for told in results())
    else:
        lines = ktap(groups, results(), heading)
    for line in lines:
        print(line, flush=True)
    return DISAGREEMENT if failed else FINE


# ---- lab --------------------------------------------------------------------------------------


def _lab(_options: argparse.Namespace) -> int:
    import subprocess
    from importlib.util import find_spec

    first = next(iter(sorted(Path("notebooks").glob("00-*.ipynb"))), None)
    if first is None:
        raise InputError("lab", "there is no notebooks/00-... here", "", "the project's folder")
    if find_spec("jupyterlab") is None:
        raise UnsupportedSystem("jupyterlab is not installed", "Run `make lab`.")
    command = [sys.executable, "-m", "jupyterlab", str(first)]
    if os.geteuid() == 0:  # as in most containers; JupyterLab wants it said
        command.append("--allow-root")
    try:
        return subprocess.run(command).returncode
    except KeyboardInterrupt:
        return FINE
