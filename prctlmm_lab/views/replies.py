"""What the kernel replied to experiments, as a table: who asked, the verdict, what decided.

Needs pandas, which is imported on use. A question that cannot be asked here has a row too, with the
reason in a sentence, and the recorded answer if there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prctlmm_lab.experiments.asking import Asked, ask_in_turn
from prctlmm_lab.experiments.exe_turns import TURNS, Turn, take_turns
from prctlmm_lab.experiments.experiment import Experiment
from prctlmm_lab.experiments.record import Privilege, Record
from prctlmm_lab.experiments.single_calls import single_calls
from prctlmm_lab.experiments.statements import STATEMENTS
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.specimen.probe import capability_names, facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.marks import LIVE, mark_text
from prctlmm_lab.words import printable

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("caller", "kernel", "decided by", "also broken", "changed")


def replies_table(*experiments: Experiment, in_turn: bool = False) -> DataFrame:
    """Ask the kernel and return a row for each experiment.

    Each has a specimen of its own; with `in_turn` they share one, in their order. `caller` is who
    the specimen was at the call; `decided by` the rule with its numbers, `also broken` the rules
    that would have refused the call too, and `changed` what /proc shows differently.

    >>> replies_table(Experiment("nothing")).loc["nothing", "kernel"]
    'accepted'

    Raises as `prctlmm_lab.run`; a set-up that is refused is told in the row.
    """
    from pandas import DataFrame

    if in_turn:
        asked = ask_in_turn(*experiments)
        told = asked.told or (None,) * len(experiments)
        rows = [_row(e, r, asked) for e, r in zip(experiments, told, strict=True)]
    else:
        rows = [_row(each, *_one(each)) for each in experiments]
    return DataFrame(rows, columns=["experiment", *COLUMNS]).set_index("experiment")


def _one(experiment: Experiment) -> tuple[Record | None, Asked[tuple[Record, ...]]]:
    asked = ask_in_turn(experiment)
    return (asked.told[0] if asked.told else None), asked


def _row(
    experiment: Experiment, record: Record | None, asked: Asked[tuple[Record, ...]]
) -> tuple[str, ...]:
    name = printable(experiment.title or experiment.id)
    if record is None:
        return name, "", asked.sentence, "", "", ""
    prediction = record.prediction
    decided = f"{prediction.rule}: {prediction.numbers}" if prediction.rule else ""
    return (
        name,
        caller_text(record.privilege),
        verdict_text(record, asked),
        decided,
        ", ".join(prediction.broken[1:]),
        "; ".join(changes_of(record)),
    )


def verdict_text(record: Record, asked: Asked[tuple[Record, ...]]) -> str:
    """Write the kernel's verdict; of a record that is not of this kernel, where it comes from."""
    verdict = record.outcome.verdict or "no answer"
    if not asked.why_not:
        return verdict
    origin = "" if record.origin == LIVE else f"{mark_text(record.origin)}; "
    return f"{verdict} ({origin}{asked.sentence})"


def caller_text(privilege: Privilege) -> str:
    """Write who made a call: uid, number of capabilities, and whether in a namespace of its own.

    >>> caller_text(Privilege(65534, "0x0", False, 0))
    'uid 65534, no capability'
    """
    names = capability_names(int(privilege.capabilities, 16))
    if len(names) == 1:
        held = f"CAP_{names[0]}"
    else:
        held = f"{len(names)} capabilities" if names else "no capability"
    where = " in a user namespace of its own" if privilege.own_user_namespace else ""
    return f"uid {privilege.uid}, {held}{where}"


def changes_of(record: Record) -> Iterator[str]:
    """Yield what /proc shows differently after a call, a text for each place."""
    for place, name, before, after in record.difference:
        yield f"{place} {name}".rstrip() + f": {before} -> {after}"


def turns_table(*words: str) -> DataFrame:
    """Take turns at the exe link, words of `exe_turns.TURNS`, and return a row for each.

    >>> turns_table("write first").loc["write first", "kernel"]
    'accepted'
    """
    from pandas import DataFrame

    asked = take_turns(words)
    told = asked.told or ()
    rows = [
        (word, TURNS[word], *_turn_cells(told[n : n + 1], asked)) for n, word in enumerate(words)
    ]
    columns = ["turn", "what it does", "kernel", "exe link after it"]
    return DataFrame(rows, columns=columns).set_index("turn")


def _turn_cells(turn: tuple[Turn, ...], asked: Asked[tuple[Turn, ...]]) -> tuple[str, str]:
    if not turn:
        return asked.sentence, ""
    note = f" (recorded; {asked.sentence})" if asked.why_not else ""
    return turn[0].verdict + note, printable(turn[0].exe)


def single_calls_table(specimen: Specimen, calls: Iterable[tuple[str, int]]) -> DataFrame:
    """Make calls of the older operations one after the other and return a row for each.

    `kernel` is its answer to this caller, `with CAP_SYS_RESOURCE` what the rules say for a caller
    who has the capability, and `which decides` the rule with its numbers.

    Raises as `single_calls`.
    """
    from pandas import DataFrame

    rows = [
        (call.operation, hex(call.value), call.by_kernel,
         errno_name(call.explanation.errno) if call.explanation.errno else "accepted",
         f"{decides.rule.id}: {decides.numbers}" if (decides := call.explanation.deciding) else "")
        for call in single_calls(specimen, facts_here(), calls)
    ]  # fmt: skip
    columns = ["operation", "value", "kernel", "with CAP_SYS_RESOURCE", "which decides"]
    return DataFrame(rows, columns=columns).set_index("operation")


def statements_table() -> DataFrame:
    """Return what the manual page, the commit message and this kernel say, a row for each question.

    Each answer of the kernel is that of a real call; where it is not of this kernel, the cell says
    so.
    """
    from pandas import DataFrame

    rows = [
        (each.word, each.question, each.manual.says, each.message.says, _answer(each.ask()))
        for each in STATEMENTS
    ]
    columns = ["word", "question", "manual page", "commit message", "kernel"]
    return DataFrame(rows, columns=columns).set_index("word")


def _answer(asked: Asked[str]) -> str:
    if not asked.why_not:
        return asked.told or ""
    return f"{asked.told} ({asked.why_not})" if asked.told else asked.sentence
