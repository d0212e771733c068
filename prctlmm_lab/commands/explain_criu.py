"""What `prctlmm-lab explain` says of CRIU's files: mm-PID.img, and the log of a failed restore."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from prctlmm_lab.commands.output import DISAGREEMENT, FINE, wrapped
from prctlmm_lab.errors import InputError

if TYPE_CHECKING:
    from prctlmm_lab.kernel.facts import Facts
    from prctlmm_lab.kernel.rules import ExeFile
    from prctlmm_lab.restore.criu.diagnosis import Diagnosis

_HEAD = 4096


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add what neither an image nor a log tells to the arguments of the command."""
    parser.add_argument("--rlimit-data", metavar="BYTES", type=_limit,
                        help="of an image or log: RLIMIT_DATA of whoever restores")  # fmt: skip
    parser.add_argument("--exe", metavar="FILE", type=Path,
                        help="of an image or log: the executable, to look at it here")  # fmt: skip


def _limit(text: str) -> int:
    from prctlmm_lab.kernel.rules import UNLIMITED

    try:
        value = UNLIMITED if text == "unlimited" else int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value <= UNLIMITED:
        message = f"{text[:40]!r} is no limit; expected bytes, as 0x1000, or unlimited"
        raise argparse.ArgumentTypeError(message)
    return value


def is_criu_file(path: str) -> bool:
    """Tell whether a file is an image or a log of CRIU; what cannot be read is neither."""
    from prctlmm_lab.restore.criu.images import is_image
    from prctlmm_lab.restore.criu.log import is_log

    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return False
    return is_image(head) or is_log(head)


def refuse_target(options: argparse.Namespace) -> None:
    """Refuse, of a recipe, the options that are for CRIU's files; raise InputError."""
    for option, value in (("--rlimit-data", options.rlimit_data), ("--exe", options.exe)):
        if value is not None:
            raise InputError(option, "is for an image or a log of CRIU", "",
                             "in a recipe a step such as limit")  # fmt: skip


def explain_criu(options: argparse.Namespace, releases: list[str]) -> int:
    """Explain an image or a log and return the exit status."""
    from prctlmm_lab.specimen.probe import facts_here

    here = facts_here()
    diagnoses = _diagnoses(options, releases, here)
    for diagnosis in diagnoses:
        print(json.dumps(diagnosis_data(diagnosis)) if options.json else diagnosis_text(diagnosis))
    return DISAGREEMENT if any(each.contradicts for each in diagnoses) else FINE


def _diagnoses(options: argparse.Namespace, releases: list[str], here: Facts) -> list[Diagnosis]:
    from prctlmm_lab.kernel.releases import facts_on
    from prctlmm_lab.restore.criu.diagnosis import diagnose_image, diagnose_log
    from prctlmm_lab.restore.criu.images import is_image, read_memory
    from prctlmm_lab.restore.criu.log import read_log

    limit, exe = options.rlimit_data, _exe_file(options.exe)
    with open(options.recipe, "rb") as file:
        image = is_image(file.read(4))
    if image:
        if options.only is not None:
            raise InputError("--only", "is for a recipe or a log; an image holds one process")
        memory = read_memory(options.recipe)
        targets = [facts_on(release, here) for release in releases] or [here]
        return [diagnose_image(memory, facts, rlimit_data=limit, exe_file=exe) for facts in targets]
    log = read_log(options.recipe)
    found = [
        diagnosis
        for release in releases or [""]
        for diagnosis in diagnose_log(
            log, here, release=release, rlimit_data=limit, exe_file=exe
        )
    ]  # fmt: skip
    return [each for each in found if options.only in (None, each.process)] or _none(options, found)


def _none(options: argparse.Namespace, found: list[Diagnosis]) -> list[Diagnosis]:
    known = ", ".join(dict.fromkeys(each.process for each in found))
    raise InputError("--only", "is no process of this log", repr(options.only)[:40], known)


def _exe_file(path: Path | None) -> ExeFile | None:
    """Look at a file as the kernel will, with a specimen's eyes."""
    if path is None:
        return None
    from prctlmm_lab.specimen.process import Specimen
    from prctlmm_lab.specimen.situation import exe_file

    with Specimen() as specimen:
        return exe_file(specimen, specimen.open(str(path.resolve())))


# ---- as JSON ----------------------------------------------------------------------------------


def diagnosis_data(diagnosis: Diagnosis) -> dict[str, object]:
    """Return as JSON has it what the rules say to a restorer's call."""
    from prctlmm_lab.kernel.rules import errno_name

    came = diagnosis.came
    return {
        "file": diagnosis.source,
        "process": diagnosis.process,
        "kernel": diagnosis.facts.release,
        "assumed": list(diagnosis.facts.assumed),
        "map": {name: hex(value) for name, value in diagnosis.map if name != "auxv"},
        "came": "" if came is None else errno_name(came),
        "verdict": diagnosis.verdict,
        "rule": diagnosis.rule,
        "decided": diagnosis.decided,
        "contradicts": diagnosis.contradicts,
        "rules": [
            {"id": f.rule.id, "broken": f.broken, "decides": f.decides, "numbers": f.numbers}
            for f in diagnosis.explanation.findings
        ],
        "conditions": [
            {
                "rule": each.rule,
                "errno": errno_name(each.errno),
                "broken_if": each.broken_if,
                "remedy": each.remedy,
            }
            for each in diagnosis.conditions
        ],
        "remedy": diagnosis.remedy,
        "notes": list(diagnosis.notes),
    }


# ---- as text ----------------------------------------------------------------------------------


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """Return as a person reads it what the rules say to a restorer's call."""
    named = "" if diagnosis.process == "0" else f": process {diagnosis.process}"
    head = f"{diagnosis.source}{named}"
    rows = [("kernel", _kernel(diagnosis)), ("verdict", diagnosis.verdict)]
    rows += _rule_rows(diagnosis)
    rows += _condition_rows(diagnosis)
    rows += [("note", note) for note in diagnosis.notes]
    return "\n".join([
        wrapped(head, later=4), *(wrapped(f"  {what:9} {text}", later=14) for what, text in rows)
    ])  # fmt: skip


def _kernel(diagnosis: Diagnosis) -> str:
    facts = diagnosis.facts
    return f"{facts.release}, not asked" if "documented" in facts.release else facts.release


def _rule_rows(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    deciding = diagnosis.explanation.deciding
    if not diagnosis.decided or deciding is None:
        return []
    rule = deciding.rule
    others = [f for f in diagnosis.explanation.broken if f is not deciding]
    return [
        ("needed", rule.title),
        ("numbers", deciding.numbers),
        ("source", rule.source),
        ("history", rule.history),
        ("remedy", diagnosis.remedy),
        *(("also", f"{other.rule.id} is broken: {other.numbers}") for other in others),
    ]


def _condition_rows(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    from prctlmm_lab.kernel.rules import errno_name

    if diagnosis.came is None:
        return [
            ("refused", f"if {each.broken_if}: {errno_name(each.errno)} by {each.rule}")
            for each in diagnosis.conditions
        ]
    if diagnosis.rule and not diagnosis.decided:
        (each,) = diagnosis.conditions
        return [("because", each.broken_if), ("remedy", each.remedy)]
    return [
        ("may be", f"{each.rule}, if {each.broken_if}. {each.remedy}")
        for each in diagnosis.conditions
    ]
