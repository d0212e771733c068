"""Surveying: many kernels are asked the same, several guests at a time, and the answers are kept.

What is in the folder already, made by the same specification from the same questions, is not asked
again. Each part is written as soon as it is there, so that a stop, wherever it comes, loses at most
the part that was under way. A guest that crashes is noted, and the others go on.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prctlmm_lab.atlas.fingerprint import fingerprint
from prctlmm_lab.atlas.guest import MEMORY
from prctlmm_lab.atlas.images import UML, Image
from prctlmm_lab.atlas.kernels import ROOT, USER, Kernel
from prctlmm_lab.atlas.survey import (
    Calls,
    Case,
    Made,
    Ran,
    Settled,
    Survey,
    Target,
    Wrong,
    digest,
    read_survey,
    write_survey,
)
from prctlmm_lab.errors import GuestError, LabError, UnsupportedSystem
from prctlmm_lab.experiments.comparison import Told, findings, recipe_key
from prctlmm_lab.experiments.conformance import cases
from prctlmm_lab.experiments.record import experiment_data, in_text_form

if TYPE_CHECKING:
    from prctlmm_lab.experiments.differential import Tally
    from prctlmm_lab.experiments.experiment import Experiment
    from prctlmm_lab.experiments.recipe import Recipe
    from prctlmm_lab.kernel.facts import Facts

SEED = 20261125
BESIDE = 256
"""MiB that a guest takes besides its memory: QEMU, its translated code, the archive."""
LARGEST_VERDICTS, LARGEST_EFFECTS = 1_000_000, 2_500
"""Calls of one slice: what a stop can lose."""
APART = 16
"""Places by which each slice begins later than the one before, so that together they are
everywhere: as root a round under one limit has so many."""
Report = Callable[[Target, str], None]
"""Told what goes on: with which kernel and caller, and a line."""


@dataclass(frozen=True)
class Wanted:
    """What kernels are to be asked."""

    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    """By name; their sweeps are left out."""
    conformance: bool = False
    claims: bool = False
    verdicts: int = 0
    """Random calls in masses, at least."""
    effects: int = 0
    """Accepted maps whose whole effect is compared, at least."""
    seed: int = SEED
    who: tuple[str, ...] = (ROOT, USER)

    def slices(self, kind: str) -> tuple[Calls, ...]:
        """Return the calls of a kind ("verdicts" or "effects") in slices, as yet without answers.

        >>> [(part.seed, part.wanted) for part in Wanted(effects=3000, seed=1).slices("effects")]
        [(1, 2500), (2, 500)]
        """
        largest, apart, left = {
            "verdicts": (LARGEST_VERDICTS, 0, self.verdicts),
            "effects": (LARGEST_EFFECTS, APART, self.effects),
        }[kind]
        return tuple(
            Calls(self.seed + number, number * apart, min(largest, left - start), 0)
            for number, start in enumerate(range(0, left, largest))
        )

    def rounds(self) -> tuple[Wanted, ...]:
        """Return the same in steps that every kernel takes before any takes the next one."""
        first = replace(self, effects=0)
        later = [
            Wanted(effects=min(end, self.effects), seed=self.seed, who=self.who)
            for end in range(_STEP, self.effects + _STEP, _STEP)
        ]
        others = self.recipes or self.conformance or self.claims or self.verdicts
        return (first, *later) if others or not later else (*later,)


_STEP = 2 * LARGEST_EFFECTS


@dataclass(frozen=True)
class Subject:
    """A kernel that is to be surveyed."""

    image: Image
    levels: int = 4

    def __str__(self) -> str:
        return self.image.upstream + (", 5 levels" if self.levels == 5 else "")


def survey_all(
    subjects: Sequence[Subject],
    wanted: Wanted,
    folder: Path,
    *,
    jobs: int | None = None,
    memory: int | None = None,
    report: Report = lambda target, line: None,
) -> tuple[Path, ...]:
    """Ask every kernel everything that is wanted, and return the files that hold the answers.

    At most `jobs` guests run at a time (by default one for each processor), and no more than fit
    into `memory` MiB together (by default three quarters of what is available). A kernel whose
    guest fails is passed over, which its survey says.

    Raises InputError if the folder cannot be written or holds a torn file, UnsupportedSystem if not
    one guest fits. KeyboardInterrupt ends it and its guests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    round_of = [(subject, step) for step in wanted.rounds() for subject in subjects]
    crew = _Crew(round_of, folder, report)
    return crew.work(guests_at_once(jobs, memory))


def guests_at_once(jobs: int | None = None, memory: int | None = None) -> int:
    """Return how many guests may run at a time.

    >>> guests_at_once(8, 2000)
    2

    Raises UnsupportedSystem if there is no room for one.
    """
    room = available_memory() * 3 // 4 if memory is None else memory
    fit = room // (MEMORY + BESIDE)
    if fit < 1:
        raise UnsupportedSystem(f"a guest needs {MEMORY + BESIDE} MiB of memory, and {room} may be "
                                "taken", "End other programs, or allow more.")  # fmt: skip
    return min(fit, len(os.sched_getaffinity(0)) if jobs is None else jobs)


def available_memory() -> int:
    """Return how many MiB can be taken without swapping, 0 where the system does not tell."""
    with suppress(OSError):
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        if found:
            return int(found[1]) >> 10
    return 0


# ---- several at a time --------------------------------------------------------------------------


class _Crew:
    """Threads that each have at most one guest, and take one task after the other."""

    def __init__(
        self, tasks: Iterable[tuple[Subject, Wanted]], folder: Path, report: Report
    ) -> None:
        self.tasks, self.folder, self.report = deque(tasks), folder, report
        self.lock, self.stopping, self.working = threading.Condition(), False, 0
        self.busy: set[Subject] = set()
        self.surveyors: list[_Surveyor] = []
        self.paths: dict[Path, None] = {}
        self.error: BaseException | None = None

    def work(self, count: int) -> tuple[Path, ...]:
        """Do all tasks by so many threads, and return the files."""
        try:
            for _ in range(count):
                self.working += 1
                threading.Thread(target=self._serve, daemon=True).start()
            while not self._has_ended(_LOOK):
                pass
        finally:
            self._stop()
            self._has_ended(_LONGEST_END)
        if self.error is not None:
            raise self.error
        return tuple(self.paths)

    def _has_ended(self, seconds: float) -> bool:
        """Wait until every thread has ended, and tell whether that came in time.

        Thread.join() will not do: one that is interrupted may take a thread for ended.
        """
        with self.lock:
            return self.lock.wait_for(lambda: not self.working, seconds)

    def _stop(self) -> None:
        """Let every thread end: no new task, and the guests' processes are killed."""
        with self.lock:
            self.stopping = True
            self.tasks.clear()
            self.lock.notify_all()
            for surveyor in self.surveyors:
                surveyor.kill()

    def _serve(self) -> None:
        try:
            self._take_tasks()
        finally:
            with self.lock:
                self.working -= 1
                self.lock.notify_all()

    def _take_tasks(self) -> None:
        while (task := self._next()) is not None:
            subject, wanted = task
            surveyor = _Surveyor(subject, self.folder, self.report)
            with self.lock:
                self.surveyors.append(surveyor)
                if self.stopping:
                    surveyor.kill()
            try:
                surveyor.ask(wanted)
            except BaseException as error:
                with self.lock:
                    if not self.stopping:
                        self.error = self.error or error
                        self.tasks.clear()
            finally:
                surveyor.stop()
                with self.lock:
                    self.surveyors.remove(surveyor)
                    self.paths |= dict.fromkeys(surveyor.paths)
                    self.busy.discard(subject)
                    self.lock.notify_all()

    def _next(self) -> tuple[Subject, Wanted] | None:
        """Take the first task whose kernel nobody else works at; wait for one if need be."""
        with self.lock:
            while self.tasks:
                for number, task in enumerate(self.tasks):
                    if task[0] not in self.busy:
                        del self.tasks[number]
                        self.busy.add(task[0])
                        return task
                self.lock.wait(1.0)
        return None


_LOOK = 0.2
"""Seconds after which it is looked whether somebody interrupts."""
_LONGEST_END = 20.0
"""Seconds until a thread must have ended after its guest was killed."""


# ---- one kernel ---------------------------------------------------------------------------------


class _Surveyor:
    """Asks one kernel, part after part, and keeps what it answers."""

    def __init__(self, subject: Subject, folder: Path, report: Report) -> None:
        self.subject, self.folder, self.report = subject, folder, report
        self.kernel: Kernel | None = None
        self.cpus = 1
        self.killed = False
        self.paths: list[Path] = []

    def kill(self) -> None:
        """End its guest from another thread, which then sees it gone."""
        self.killed = True
        guest = self.kernel._guest if self.kernel is not None else None
        if guest is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(guest.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End its guest."""
        if self.kernel is not None:
            self.kernel.stop()

    def ask(self, wanted: Wanted) -> None:
        """Ask as everybody who is wanted."""
        for who in wanted.who:
            survey = self._kept(who)
            self.paths.append(self.folder / survey.target.file)
            for part, ask in _missing(survey, wanted):
                if self.killed:
                    return
                try:
                    started = time.monotonic()
                    kernel = self._ready(2 if part == "claims" else 1)
                    survey = ask(_Part(kernel, who, part, self._tell(survey.target)), survey)
                    line = f"{part}: {_came_of(survey, part)}, {time.monotonic() - started:.0f} s"
                    failures = {k: v for k, v in survey.failures.items() if k != part}
                except GuestError as error:
                    if self.killed:
                        return
                    self.stop()
                    line, failures = f"{part}: {error}", {**survey.failures, part: str(error)}
                except UnsupportedSystem as error:
                    line, failures = f"{part}: {error}", {**survey.failures, part: str(error)}
                survey = replace(survey, failures=failures)
                write_survey(survey, self.folder)
                self.report(survey.target, line)

    def _tell(self, target: Target) -> Callable[[str], None]:
        return lambda line: self.report(target, line)

    def _ready(self, cpus: int) -> Kernel:
        """Return the kernel in a guest with so many processors."""
        if self.kernel is None or self.cpus != cpus:
            self.stop()
            self.kernel, self.cpus = _kernel(self.subject, cpus), cpus
        self.kernel.start()
        if self.killed:
            self.kill()
        return self.kernel

    def _kept(self, who: str) -> Survey:
        """Return what is known of the kernel as one caller sees it.

        Raises InputError for a torn file.
        """
        image = self.subject.image
        target = Target(image.release, image.upstream, image.machine, self.subject.levels, who)
        path = self.folder / target.file
        kept = read_survey(path) if path.exists() else Survey(target)
        return kept if kept.target == target else Survey(target)


def _kernel(subject: Subject, cpus: int) -> Kernel:
    return Kernel(subject.image, levels=subject.levels, cpus=1 if _is_um(subject) else cpus)


def _is_um(subject: Subject) -> bool:
    return subject.image.machine == UML


@dataclass(frozen=True)
class _Part:
    """A part of a survey that is asked now."""

    kernel: Kernel
    who: str
    name: str
    tell: Callable[[str], None]

    def made(self, facts: Facts | None, asked: str, started: float) -> Made:
        """Return when and with what it was made."""
        from prctlmm_lab import __version__

        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Made(__version__, _specification(facts), asked, now, time.monotonic() - started)


Ask = Callable[[_Part, Survey], Survey]


def _missing(survey: Survey, wanted: Wanted) -> Iterator[tuple[str, Ask]]:
    """Yield the parts that a survey lacks, each with the function that adds it."""
    parts: list[tuple[str, str, Ask]] = [("facts", _asked_facts(), _ask_facts)]
    if wanted.conformance:
        parts.append(("conformance", _asked_cases(), _ask_conformance))
    for name, recipe in wanted.recipes.items():
        if recipe.experiments:
            parts.append((name, _asked_recipe(recipe), _recipe_asker(name, recipe)))
    if wanted.claims:
        parts.append(("claims", _asked_claims(), _ask_claims))
    for name, asked, ask in parts:
        if not _is_current(survey, survey.made.get(name), asked):
            yield name, ask
    for kind in ("verdicts", "effects"):
        there = {part.slice for part in getattr(survey, kind) if _is_current(survey, part.made, "")}
        for part in wanted.slices(kind):
            if part.slice not in there:
                yield kind, _calls_asker(kind, part)


def _is_current(survey: Survey, made: Made | None, asked: str) -> bool:
    """Tell whether a part was made by this specification from these questions."""
    from prctlmm_lab import __version__

    now = (__version__, _specification(survey.facts), asked)
    return made is not None and (made.lab, made.specification, made.asked) == now


def _specification(facts: Facts | None) -> str:
    return fingerprint(facts) if facts else ""


def _came_of(survey: Survey, part: str) -> str:
    """Say in a few words what came of a part."""
    if part == "conformance":
        return ", ".join(f"{number} {result}" for result, number in sorted(survey.results.items()))
    if part == "claims":
        wrong = sum(settled.contradicts for settled in survey.claims.values())
        return f"{len(survey.claims)} settled, {wrong} otherwise than we say"
    if part in ("verdicts", "effects"):
        last: Calls = getattr(survey, part)[-1]
        count = f"{last.watched:,} maps" if part == "effects" else f"{last.calls:,} calls"
        return f"{count}, {last.disagreements} disagreements"
    if part == "facts":
        return "probed"
    ran = [ran for name, ran in survey.recipes.items() if name.startswith(f"{part}/")]
    wrong = sum(bool(each.disagreements) for each in ran)
    return f"{len(ran)} experiments, {wrong} disagreements"


# ---- the parts ----------------------------------------------------------------------------------


def _asked_facts() -> str:
    from prctlmm_lab.kernel.facts import Facts

    return digest(each.name for each in fields(Facts))


def _ask_facts(part: _Part, survey: Survey) -> Survey:
    started = time.monotonic()
    facts = part.kernel.facts(who=part.who)
    made = part.made(facts, _asked_facts(), started)
    return replace(survey, facts=facts, made={**survey.made, "facts": made})


def _asked_cases() -> str:
    return digest(experiment_data(case) for group in cases().values() for case in group)


def _ask_conformance(part: _Part, survey: Survey) -> Survey:
    started, count = time.monotonic(), sum(map(len, cases().values()))
    found: dict[str, Case] = {}

    def take(told: Any) -> None:
        found[f"{told.group}/{told.case}"] = Case(
            told.result, told.kernel, told.expected, told.reasons
        )
        if len(found) % 100 == 0:
            part.tell(f"conformance: {len(found)} of {count}")

    part.kernel.conformance(on_result=take, who=part.who)
    made = part.made(survey.facts, _asked_cases(), started)
    return replace(survey, conformance=found, made={**survey.made, "conformance": made})


def _asked_claims() -> str:
    from prctlmm_lab.experiments.claims import CLAIMS

    return digest((claim.id, claim.statement) for claim in CLAIMS)


def _ask_claims(part: _Part, survey: Survey) -> Survey:
    started = time.monotonic()
    found = {
        told.claim.id: Settled(
            told.verdict.value, told.expected.value if told.expected else "", told.evidence
        )
        for told in part.kernel.claims(who=part.who)
    }
    made = part.made(survey.facts, _asked_claims(), started)
    return replace(survey, claims=found, made={**survey.made, "claims": made})


def _asked_recipe(recipe: Recipe) -> str:
    return digest(experiment_data(experiment) for experiment in recipe.experiments)


def _recipe_asker(name: str, recipe: Recipe) -> Ask:
    def ask(part: _Part, survey: Survey) -> Survey:
        started = time.monotonic()
        found: dict[str, Ran] = {}
        vector = survey.vector
        for each in recipe.experiments:
            found[f"{name}/{each.id}"], entries = ran(part.kernel, each, part.who)
            vector = entries or vector
        others = {k: v for k, v in survey.recipes.items() if not k.startswith(f"{name}/")}
        made = part.made(survey.facts, _asked_recipe(recipe), started)
        return replace(
            survey, recipes=others | found, vector=vector, made={**survey.made, name: made}
        )

    return ask


def ran(kernel: Kernel, experiment: Experiment, who: str = "") -> tuple[Ran, tuple[str, ...]]:
    """Run an experiment on a kernel; return what a survey keeps of it, and the entries of auxv.

    Raises GuestError.
    """
    key = recipe_key(in_text_form(experiment_data(experiment)))
    try:
        record = kernel.run(experiment, who=who)
    except GuestError:
        raise
    except LabError as error:
        return Ran(key, refused=str(error)), ()
    told = findings(record)
    said = record.agreement.disagreements
    missed = [text for text in said if text.startswith("rule: ")]
    kept = Ran(
        key=key,
        verdict=told.verdict,
        rule=told.rule,
        end=told.end,
        effects=tuple((name.text, value.text) for name, value in told.effects),
        exact={name.text: exact for name, value in told.effects if (exact := _exact(value))},
        answers=tuple((name.text, value.text) for name, value in told.answers),
        capabilities=record.privilege.capabilities,
        own_user_namespace=record.privilege.own_user_namespace,
        disagreements=tuple(text for text in said if text not in missed),
        missed="".join(missed),
    )
    return kept, tuple(sorted(told.vector))


def _exact(value: Told) -> tuple[str, ...]:
    """Return the landmarks that an address is exactly, where its text tells another one."""
    ways = sorted(way for way in value.ways if way.endswith("+0x0"))
    return () if f"{value.text}+0x0" in ways else tuple(ways)


def _calls_asker(kind: str, wanted: Calls) -> Ask:
    def ask(part: _Part, survey: Survey) -> Survey:
        started, last = time.monotonic(), time.monotonic()

        def tell(tally: Tally) -> None:
            nonlocal last
            if time.monotonic() - last >= _BREATH:
                last = time.monotonic()
                done = tally.watched if kind == "effects" else tally.calls
                part.tell(f"{kind}: {done:,} of {wanted.wanted:,}, "
                          f"{tally.disagreements} disagreements")  # fmt: skip

        tally = part.kernel.fuzz(
            wanted.wanted, seed=wanted.seed, first=wanted.first, effects=kind == "effects",
            on_progress=tell, who=part.who,
        )  # fmt: skip
        done = replace(kept_calls(tally, wanted), made=part.made(survey.facts, "", started))
        others = (p for p in getattr(survey, kind) if p.slice != wanted.slice)
        parts: dict[str, Any] = {kind: (*others, done)}
        return replace(survey, **parts)

    return ask


_BREATH = 30.0
"""Seconds between two lines about a slice that is under way."""


def kept_calls(tally: Tally, wanted: Calls) -> Calls:
    """Return what a survey keeps of a tally."""
    return replace(
        wanted,
        calls=tally.calls,
        watched=tally.watched,
        moves=tally.moves,
        disagreements=tally.disagreements,
        interrupted=tally.interrupted,
        by_scenario=dict(tally.by_scenario),
        by_limit=dict(tally.by_limit),
        by_verdict=dict(tally.by_verdict),
        by_rule=dict(tally.by_rule),
        skipped=dict(tally.skipped),
        examples=tuple(
            Wrong(each.scenario, each.limit, each.predicted, each.kernel, each.recipe)
            for each in tally.examples
        ),
    )
