"""What the manual page and the commit message say of the call, and an experiment for each.

Both texts are put into words of ours. Where one of them lets the answer to a question be foretold,
that answer stands beside it, so that the kernel can be asked who is right.

Sources: man-pages 6.15, PR_SET_MM(2const) and its pages for single operations (the older prctl(2)
where it differs); the message of commit f606b77f1a (v3.18).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prctlmm_lab.experiments.asking import Asked, ask_in_turn
from prctlmm_lab.experiments.experiment import VERDICTS, Call, Experiment
from prctlmm_lab.experiments.logbook import shipped_logbooks
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.steps import (
    Limit,
    LosePrivilege,
    Map,
    MemoryFile,
    Read,
    ReleaseExecutable,
    Unmap,
    UserNamespace,
)

Teller = Callable[[Sequence[Record]], str]

ORDINARY = LosePrivilege(True)
NAMESPACE = (ORDINARY, UserNamespace(True))
REFUSED = "a refusal"
"""What follows from a text that names no errno."""
ERRNOS = frozenset(VERDICTS) - {"accepted"}
WITHOUT_OPTION = "linux-6.1.176-uml"
"""The log of a kernel that was built without CONFIG_CHECKPOINT_RESTORE."""


@dataclass(frozen=True)
class Source:
    """What a text says about a question."""

    says: str = "nothing"
    """In our words."""
    foretells: str = ""
    """The answer that follows from it, as the kernel's is told, or `REFUSED`; "" if none does."""

    def agrees(self, told: str) -> bool:
        """Tell whether what is foretold fits what the kernel told."""
        return self.foretells == told or (self.foretells == REFUSED and told in ERRNOS)


def _verdict(records: Sequence[Record]) -> str:
    return records[-1].outcome.verdict


@dataclass(frozen=True)
class Statement:
    """One question about the call: what two texts say, and how the kernel is asked."""

    word: str
    question: str
    manual: Source
    message: Source
    experiments: tuple[Experiment, ...] = ()
    """Run in turn on one specimen; none for a question that only another kernel can answer."""
    told: Teller = _verdict
    """Puts what the records show into the words that a source foretells."""

    def ask(self) -> Asked[str]:
        """Ask the kernel; return its answer, or that of a kernel that was asked before."""
        if not self.experiments:
            return Asked(
                _without_option(), f"from the log of {WITHOUT_OPTION}, which is such a kernel"
            )
        asked = ask_in_turn(*self.experiments)
        return Asked(self.told(asked.told) if asked.told else None, asked.why_not)


def _without_option() -> str:
    """Return what a kernel without the option answered to a call that changes nothing."""
    book = shipped_logbooks()[WITHOUT_OPTION]
    return next(r.outcome.verdict for r in book.records() if r.experiment["id"] == "identity")


def _where_the_size_is(records: Sequence[Record]) -> str:
    record = records[-1]
    third, fourth = (int(answer.answer, 16) for answer in record.answers)
    size = record.facts.map_size
    places = {"arg3": third, "arg4": fourth}
    found = [place for place, number in places.items() if number == size]
    return f"at {found[0]}" if found else record.outcome.verdict


def _where_it_shows(records: Sequence[Record]) -> str:
    places = dict.fromkeys(place for place, *_ in records[-1].difference)
    files = [place for place in places if place != "brk()"]
    return f"in {', '.join(files)}" if files else "in no file"


STATEMENTS: tuple[Statement, ...] = (
    Statement(
        "caller",
        "An ordinary user without any capability makes a call that changes nothing.",
        Source("every operation of PR_SET_MM needs CAP_SYS_RESOURCE", "EPERM"),
        Source("no capability is needed, but for the exe link", "accepted"),
        (Experiment("caller", setup=(ORDINARY,)),),
    ),
    Statement(
        "namespace",
        "Root of a new user namespace sets start_code alone, to what it is.",
        Source("CAP_SYS_RESOURCE is needed; in which namespace is not said"),
        Source("a capability of a new user namespace does not count", REFUSED),
        (
            Experiment(
                "namespace", setup=NAMESPACE, call=Call(operation="START_CODE", value="start_code")
            ),
        ),
    ),
    Statement(
        "size",
        "PR_SET_MM_MAP_SIZE: where does the kernel put the struct's size?",
        Source("where arg3 points (up to man-pages 6.03: where arg4 does)", "at arg3"),
        Source("it is returned; how, is not said"),
        (
            Experiment(
                "size",
                setup=(Map("a"),),
                call=Call(operation="MAP_SIZE", value="a.start", size="a.start + 8"),
                after=(Read("a.start", length=4), Read("a.start + 8", length=4)),
            ),
        ),
        _where_the_size_is,
    ),
    Statement(
        "pointer",
        "The struct is said to lie at NULL.",
        Source("a third argument that is no valid address gives EINVAL", "EINVAL"),
        Source(),
        (Experiment("pointer", call=Call(pointer=0)),),
    ),
    Statement(
        "mapped",
        "The command line is to lie where nothing is mapped.",
        Source("for the single operation: in memory of the stack; for MAP nothing"),
        Source("all but code and data must lie in a VMA that exists", REFUSED),
        (
            Experiment(
                "mapped",
                setup=(Map("a"), Unmap("a.start")),
                change={"arg_start": "a.start", "arg_end": "a.start + 8"},
            ),
        ),
    ),
    Statement(
        "pairs",
        "arg_start equals arg_end.",
        Source(),
        Source("a start must lie below its end, in every pair", REFUSED),
        (Experiment("pairs", change={"arg_end": "arg_start"}),),
    ),
    Statement(
        "heap",
        "start_brk and brk lie below end_data.",
        Source("both must lie above the end of the data", "EINVAL"),
        Source("both must lie above end_data", REFUSED),
        (Experiment("heap", change={"start_brk": "start_data", "brk": "start_data"}),),
    ),
    Statement(
        "data-limit",
        "Heap and data together exceed RLIMIT_DATA by one byte.",
        Source("together they may not exceed RLIMIT_DATA", "EINVAL"),
        Source("the new values may not exceed RLIMIT_DATA", REFUSED),
        (
            Experiment(
                "data-limit", setup=(Limit("DATA", "brk - start_brk + end_data - start_data - 1"),)
            ),
        ),
    ),
    Statement(
        "stack-limit",
        "RLIMIT_STACK is one page, and start_stack moves down by 256 MiB.",
        Source(),
        Source("RLIMIT_STACK holds as RLIMIT_DATA does", REFUSED),
        (
            Experiment(
                "stack-limit",
                setup=(Limit("STACK", "page"),),
                change={"start_stack": "start_stack - 0x10000000"},
            ),
        ),
    ),
    Statement(
        "executable-areas",
        "The exe link changes while [vdso] and the (copied) code are executable.",
        Source("all executable memory must be unmapped first, the kernel's own as well", "EBUSY"),
        Source(),
        (
            Experiment(
                "executable-areas",
                setup=(*NAMESPACE, MemoryFile("one"), ReleaseExecutable(True)),
                change={"exe_fd": "one"},
            ),
        ),
    ),
    Statement(
        "again",
        "The exe link changes a second time.",
        Source("up to Linux 4.9 EPERM; and in the list of errors, for any kernel: EBUSY", "EBUSY"),
        Source("it can be changed only once", REFUSED),
        (
            Experiment(
                "once",
                setup=(*NAMESPACE, MemoryFile("one"), ReleaseExecutable(True)),
                change={"exe_fd": "one"},
            ),
            Experiment("again", setup=(MemoryFile("two"),), change={"exe_fd": "two"}),
        ),
    ),
    Statement(
        "brk",
        "Only brk changes, by 8 bytes: which file of /proc shows it?",
        Source(),
        Source("/proc/PID/stat shows brk", "in stat"),
        (Experiment("brk", change={"brk": "brk - 8"}),),
        _where_it_shows,
    ),
    Statement(
        "option",
        "A kernel without CONFIG_CHECKPOINT_RESTORE, and an ordinary user.",
        Source("there is no such operation then; what it answers is not said"),
        Source(),
    ),
)

STATEMENT: dict[str, Statement] = {statement.word: statement for statement in STATEMENTS}


def refuted(source: str) -> dict[str, str]:
    """Return the words of what the kernel refutes in the "manual" or the "message".

    With each, what was foretold and what was answered. What cannot be asked, and was not recorded,
    is left out.

    >>> refuted("manual")["caller"]
    'EPERM was foretold, the kernel says accepted'
    """
    found = {}
    for statement in STATEMENTS:
        text: Source = getattr(statement, source)
        told = statement.ask().told if text.foretells else None
        if told is not None and not text.agrees(told):
            found[statement.word] = f"{text.foretells} was foretold, the kernel says {told}"
    return found
