"""Why restores fail: each reason made to happen in a specimen, explained by its rule, and its cure.

What is a matter of the kernel's age is made here as far as this kernel goes; what an older one says
to the same call follows from its rules as documented, and is marked as predicted.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from prctlmm_lab.errors import InputError, SpecimenGone, signal_name
from prctlmm_lab.experiments.experiment import Experiment, Prepared, carry_out, prepare
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.kernel.releases import facts_on
from prctlmm_lab.kernel.rules import Explanation, Situation, errno_name, explain
from prctlmm_lab.restore.filters import (
    KILL_PROCESS,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP,
    SECCOMP_MODE_FILTER,
    answering,
    filter_header,
    set_mm_filter,
)
from prctlmm_lab.restore.remedies import remedy
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.situation import situation_of


@dataclass(frozen=True)
class Failure:
    """One reason why a restore fails."""

    name: str
    """The id of its experiment in data/recipes/restore-failures.toml; of a sandbox, its answer."""
    title: str
    rule: str
    """The id of the rule that refuses; "sandbox" where a filter answers before any rule."""
    story: str
    """How a restore comes to this."""
    elsewhere: str = ""
    """The release whose verdict is predicted, where age makes the difference."""
    answer: int = 0
    """What the filter of a sandbox does."""

    @property
    def remedy(self) -> str:
        """What helps."""
        return remedy(self.rule)


@dataclass(frozen=True)
class Reproduction:
    """One failure, made to happen: what the kernel said here, and what the rules say elsewhere."""

    failure: Failure
    here: Explanation
    """What the rules of this kernel say to the call."""
    came: str
    """What came of it here: "accepted", the name of an errno, or how the process ended."""
    predicted: Explanation | None
    """What the rules of the other kernel say to the same call; it was not asked."""
    kernel: str
    """That other kernel, "" if this one fails by itself."""

    @property
    def explained_by(self) -> Explanation:
        """The explanation that names the rule: this kernel's, or the other one's."""
        return self.here if self.predicted is None else self.predicted

    @property
    def numbers(self) -> str:
        """What the rule compared, "" for a sandbox."""
        deciding = self.explained_by.deciding
        return deciding.numbers if deciding else ""

    def __str__(self) -> str:
        failure = self.failure
        lines = [f"{failure.name}: {failure.title}", f"  {failure.story}", f"  here: {self.came}"]
        if self.predicted is not None:
            verdict = errno_name(self.predicted.errno)
            lines.append(f"  predicted of {self.kernel}: {verdict}")
        if self.numbers:
            lines.append(f"  rule {failure.rule}: {self.numbers}")
        elif failure.rule == "sandbox":
            lines.append(f"  the rules say: {self.here.verdict}; a filter answered before them")
        return "\n".join([*lines, f"  remedy: {failure.remedy}"])


WITHOUT_OPTION = "a kernel without CONFIG_CHECKPOINT_RESTORE"

FAILURES: dict[str, Failure] = {
    failure.name: failure
    for failure in (
        Failure(
            "heap-below-data",
            "the heap of a static PIE lies below its data",
            "heap.above_data",
            "The kernel places such a program high and its heap low. The dump notes both; to v5.14 "
            "the call refused to give them back (CRIU issue 1507). The same for `ld.so PROGRAM`.",
            elsewhere="v5.10",
        ),
        Failure(
            "exe-permission",
            "the restorer may not change the exe link",
            "exe.permission",
            "Before v5.9 the answer was EINVAL, which CRIU takes for a kernel that lacks the call: "
            "it goes on with the operations for single members, and the reason is lost.",
            elsewhere="v5.8",
        ),
        Failure(
            "exe-busy",
            "the restorer's own program is still mapped",
            "exe.busy",
            "The kernel keeps the exe link as long as a VMA maps the old executable.",
        ),
        Failure(
            "exe-written",
            "somebody has the executable open for writing",
            "exe.written",
            "Dump and restore were minutes apart, and an update was at work meanwhile.",
        ),
        Failure(
            "data-limit",
            "RLIMIT_DATA of the restorer is too small",
            "limit.data",
            "The image has more heap than the shell of the restorer may have. CRIU gives the "
            "process its own limits back after the call, so they do not help. Since v4.5 the "
            "mmap() of the heap is mostly refused before (ENOMEM).",
        ),
        Failure(
            "long-vector",
            "the auxiliary vector is longer than the kernel's",
            "auxv.size",
            "The dump was made on a newer kernel, whose vector has more pairs. (CRIU for x86-64 "
            "keeps 44 words, 0x160 bytes, for which those kernels have room.)",
        ),
        Failure(
            "no-option",
            "the kernel has no PR_SET_MM_MAP",
            "call.option",
            "Built without CONFIG_CHECKPOINT_RESTORE, the kernel does not look at the operation "
            "before it has asked for CAP_SYS_RESOURCE: an ordinary user reads EPERM and thinks of "
            "permissions. CRIU goes on after EINVAL only, so it gives up.",
            elsewhere=WITHOUT_OPTION,
        ),
        Failure(
            "sandbox-eperm",
            "a sandbox answers EPERM",
            "sandbox",
            "A container's seccomp profile forbids the call. The kernel's rules are never asked.",
            answer=answering(errno.EPERM),
        ),
        Failure(
            "sandbox-enosys",
            "a sandbox answers ENOSYS",
            "sandbox",
            "A profile that does not know the call says that there is none.",
            answer=answering(errno.ENOSYS),
        ),
        Failure(
            "sandbox-killed",
            "a sandbox kills the caller",
            "sandbox",
            "A strict profile ends whoever makes the call, by SIGSYS; no errno is left to read.",
            answer=KILL_PROCESS,
        ),
    )
}  # fmt: skip
"""By name, in the order in which they are told."""


def reproduce(name: str) -> Reproduction:
    """Make one failure happen in a specimen, and say which rule it is.

    >>> print(reproduce("data-limit").came)
    EINVAL

    Equivalent: `prctlmm-lab run data/recipes/restore-failures.toml --only NAME`, and
    `prctlmm-lab explain` of the same with `--on RELEASE`.

    Raises InputError for an unknown name, SetupError if it cannot be set up here, SpecimenError.
    """
    if name not in FAILURES:
        raise InputError("failure", "is not a known one", repr(name)[:80], ", ".join(FAILURES))
    failure = FAILURES[name]
    return _sandboxed(failure) if failure.rule == "sandbox" else _from_recipe(failure)


def experiment_of(failure: Failure) -> Experiment:
    """Return the experiment of data/recipes that makes a failure happen.

    Raises InputError for one that no recipe can say.
    """
    for experiment in shipped_recipes()["restore-failures"].experiments:
        if experiment.id == failure.name:
            return experiment
    raise InputError("failure", "is in no recipe", repr(failure.name), "reproduce() makes it")


def _from_recipe(failure: Failure) -> Reproduction:
    experiment, facts = experiment_of(failure), facts_here()
    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, facts)
        other = _predicted(failure, prepared)
        record = carry_out(prepared)
    came = record.outcome.verdict or record.outcome.ended
    kernel, predicted = other or ("", None)
    return Reproduction(failure, prepared.explanation, came, predicted, kernel)


def _predicted(failure: Failure, prepared: Prepared) -> tuple[str, Explanation] | None:
    """Return the other kernel's name and verdict, where a failure is one of another kernel."""
    facts = prepared.bench.facts
    if not failure.elsewhere:
        return None
    if failure.elsewhere == WITHOUT_OPTION:
        lacking = replace(facts, available=False, refusal_errno=errno.EPERM)
        situation: Situation = Situation(map=prepared.bench.specimen.current_map())
        return WITHOUT_OPTION, explain(situation, lacking)
    old = facts_on(failure.elsewhere, facts)
    return old.release, explain(prepared.situation, old)


# ---- the sandbox --------------------------------------------------------------------------------


def sandbox(specimen: Specimen, action: int) -> None:
    """Give a specimen a seccomp filter that takes an action on each prctl(PR_SET_MM).

    It cannot be taken away again.

    Raises SystemCallError: EINVAL on a kernel without seccomp filters.
    """
    code = set_mm_filter(specimen.machine, action)
    with specimen.undivided:
        block = specimen.map(PAGE)
        specimen.write(block, filter_header(code, block + 16) + code)
        specimen.syscall("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        specimen.syscall("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, block, 0, 0)
        specimen.unmap(block, PAGE)


def _sandboxed(failure: Failure) -> Reproduction:
    with Specimen() as specimen:
        sandbox(specimen, failure.answer)
        new = specimen.current_map()
        here = explain(situation_of(specimen, new), facts_here())
        came = _answer(specimen, lambda: specimen.set_map(new))
    return Reproduction(failure, here, came, None, "")


def _answer(specimen: Specimen, call: Callable[[], int]) -> str:
    try:
        number = call()
    except SpecimenGone as gone:
        if gone.signal != signal.SIGSYS:
            raise
        return f"killed by {signal_name(gone.signal)}"
    return errno_name(number) if number else "accepted"
