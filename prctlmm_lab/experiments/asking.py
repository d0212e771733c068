"""Ask the kernel, or say in one sentence why it cannot be asked here.

Some questions need more than every system grants: a user namespace, another identity. Where a
set-up is refused, the answers come from the recording that ships, if it has them; each says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from prctlmm_lab.errors import SystemCallError, UnsupportedSystem
from prctlmm_lab.experiments.experiment import (
    Experiment,
    SetupError,
    Subject,
    carry_out,
    prepare,
    take_steps,
)
from prctlmm_lab.experiments.record import Record, text_bytes
from prctlmm_lab.experiments.steps import Step
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.recorded import RecordedSpecimen

T = TypeVar("T")

CANNOT = "cannot be shown here"


@dataclass(frozen=True)
class Asked(Generic[T]):
    """What came of work with a specimen."""

    told: T | None
    """What the work returned; None if neither this kernel nor the recording can tell."""
    why_not: str = ""
    """Why it was not done on this kernel, in a sentence; "" if it was."""

    @property
    def sentence(self) -> str:
        """Why nothing was done here, as it is shown; "" if it was."""
        return f"{CANNOT}: {self.why_not}" if self.why_not else ""


def ask(work: Callable[[Specimen, Facts], T], subject: Subject | None = None) -> Asked[T]:
    """Do work with a fresh specimen; where the system refuses a step of it, with a recorded one.

    The work is a function of the specimen and of the facts of its kernel. Only the preparations may
    be refused: SystemCallError and SetupError are taken as a refusal of them.

    >>> ask(lambda specimen, facts: specimen.set_map(specimen.current_map())).told
    0

    Raises as the work otherwise, and as `Subject.start`.
    """
    subject = subject or Subject()
    try:
        with subject.start() as specimen:
            return Asked(work(specimen, facts_here()))
    except SetupError as error:
        why_not = error.problem
    except SystemCallError as error:
        why_not = f"the kernel refused {error}"
    try:
        recorded = _recorded(subject)
        with recorded:
            return Asked(work(recorded, recorded.facts), why_not)
    except (SetupError, SystemCallError, UnsupportedSystem):
        return Asked(None, why_not)


def ask_in_turn(*experiments: Experiment) -> Asked[tuple[Record, ...]]:
    """Run experiments one after the other on one specimen, as `ask` does.

    The specimen is the first one's. Each has names for its own steps only.

    >>> (record,) = ask_in_turn(Experiment("nothing changes")).told
    >>> record.outcome.verdict
    'accepted'

    Raises as `prctlmm_lab.run`, but for a refused set-up.
    """

    def work(specimen: Specimen, facts: Facts) -> tuple[Record, ...]:
        return tuple(carry_out(prepare(each, specimen, facts)) for each in experiments)

    return ask(work, experiments[0].specimen)


def refusal_of(*steps: Step) -> str:
    """Return why a specimen cannot take steps here, in a sentence; "" if it can.

    >>> from prctlmm_lab.experiments.steps import Map
    >>> refusal_of(Map("arena"))
    ''
    """
    return ask(lambda specimen, facts: take_steps(steps, specimen, facts, "setup")).why_not


def _recorded(subject: Subject) -> RecordedSpecimen:
    return RecordedSpecimen(
        subject.build,
        arguments=[text_bytes(text, "arguments") for text in subject.arguments],
        environment=[text_bytes(text, "environment") for text in subject.environment],
        heap_pages=subject.heap_pages,
    )
