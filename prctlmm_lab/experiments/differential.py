"""The differential test: random calls by callers of every kind, the kernel held against a model.

`fuzz` is the loop, `batches` the calls in masses, `watched` those whose effects are compared one by
one. A disagreement becomes a small recipe that shows it again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
from numpy.random import Generator

from prctlmm_lab.experiments.columns import (
    Errnos,
    Table,
    ask_kernel,
    map_at,
    situation_of_all,
)
from prctlmm_lab.experiments.experiment import (
    Call,
    Experiment,
    SetupError,
    carry_out,
    prepare,
    set_up,
)
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.generation import (
    Landmarks,
    landmarks,
    random_maps,
    random_requests,
    random_shown_maps,
)
from prctlmm_lab.experiments.recipe import Recipe, recipe_text
from prctlmm_lab.experiments.scenarios import LIMITS, Scenario, scenarios
from prctlmm_lab.experiments.shrinking import as_experiment, distance, names_on, shrink
from prctlmm_lab.experiments.steps import Bench, Brk, Limit
from prctlmm_lab.kernel.abi import MAP_SIZE, NO_EXE, U64, PrctlMmMap
from prctlmm_lab.kernel.difference import shown
from prctlmm_lab.kernel.effects import Memory, disagreements
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.model import Model, specification
from prctlmm_lab.kernel.procfs import Snapshot, Vma, parse_maps, read_whole
from prctlmm_lab.kernel.rules import (
    ACCEPTED,
    Rule,
    Situation,
    decide,
    errno_name,
    first_broken,
    predict,
    rules_of,
)
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.recording import mode, store
from prctlmm_lab.specimen.recording.marks import LIVE, PREDICTED
from prctlmm_lab.specimen.situation import link_of, memory_of, situation_of

LARGEST_BATCH = 50_000
SINGLE_CALLS = 24
"""Calls of a batch that are made one by one, with another size, pointer or fifth argument."""
FEWEST_WATCHED, MOST_WATCHED = 100, 400
"""Maps that are made up for one visit to a place, of which about half are accepted. What decides
over them is asked once for each visit: the more, the cheaper."""
MOST_EXAMPLES = 5
"""Different disagreements that are kept as recipes; all are counted."""
MOST_SHRUNK = 8
"""Disagreements that are shrunk to find them."""

Progress = Callable[["Tally"], None]


@dataclass(frozen=True)
class Disagreement:
    """One call on which kernel and model differ, as a recipe's experiment."""

    scenario: str
    limit: str
    experiment: Experiment
    predicted: str
    kernel: str

    def __str__(self) -> str:
        return f"{self.scenario}: predicted {self.predicted}, kernel {self.kernel}"

    @property
    def recipe(self) -> str:
        """The recipe that shows it again, as TOML."""
        return recipe_text(Recipe(self.experiment.title, (self.experiment,)))


@dataclass
class Tally:
    """What a run has come to so far."""

    kernel: str
    seed: int
    model: str = "specification"
    calls: int = 0
    """Real calls whose verdict was compared."""
    watched: int = 0
    """Accepted maps whose whole effect was compared."""
    moves: int = 0
    """Calls of brk() that were compared."""
    disagreements: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    by_scenario: Counter[str] = field(default_factory=Counter)
    by_limit: Counter[str] = field(default_factory=Counter)
    by_verdict: Counter[str] = field(default_factory=Counter)
    by_rule: Counter[str] = field(default_factory=Counter)
    wrong_by_scenario: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    """Scenarios that cannot be set up here, with the kernel's reason."""
    examples: list[Disagreement] = field(default_factory=list)
    shrunk: int = 0
    origin: str = LIVE
    """Where the answers come from: real calls, a recording, or our specification in their place."""

    def __str__(self) -> str:
        watched = f", {self.watched:,} maps with all effects" if self.watched else ""
        moves = f", {self.moves:,} brk() calls" if self.moves else ""
        ended = "; interrupted" if self.interrupted else ""
        if self.origin == PREDICTED:
            ended += "; no real call was made: our specification stands in for the kernel"
        elif self.origin != LIVE:
            ended += f"; {self.origin}"
        return (
            f"{self.calls:,} calls{watched}{moves} on Linux {self.kernel} in {self.seconds:.1f} s: "
            f"{self.disagreements:,} disagreements (seed {self.seed}{ended})"
        )


@dataclass(frozen=True)
class Place:
    """Where calls are made: a scenario that stands, under one limit."""

    scenario: Scenario
    limit: str
    bench: Bench
    marks: Landmarks

    @property
    def specimen(self) -> Any:
        """The specimen on the bench."""
        return self.bench.specimen


@dataclass(frozen=True)
class Single:
    """A call that was made by itself."""

    situation: Situation
    errno: int
    pointer: int | None
    """Where the struct was said to lie, if it was not simply put somewhere."""


@dataclass(frozen=True)
class Batch:
    """Many real calls at one place, and all that decided over them."""

    place: Place
    table: Table
    situation: Situation
    errnos: Errnos
    singles: tuple[Single, ...]


@dataclass(frozen=True)
class Watched:
    """One map, with everything that was shown before and after, and perhaps a brk() after it."""

    place: Place
    map: PrctlMmMap
    situation: Situation
    errno: int
    before: Snapshot
    effective: PrctlMmMap
    """The map that holds afterwards."""
    memory: Memory
    after: Snapshot
    request: int | None = None
    answer: int = 0
    vmas: tuple[Vma, ...] = ()
    """What is mapped after the brk()."""


# ---- the loop ---------------------------------------------------------------------------------


def fuzz(
    calls: int = 1_000_000,
    *,
    seconds: float | None = None,
    seed: int | None = None,
    effects: bool = False,
    first: int = 0,
    model: Model | None = None,
    on_progress: Progress | None = None,
) -> Tally:
    """Hold a model against the kernel, by default our specification, and return the tally.

    It ends after `calls` calls (with `effects`: accepted maps whose whole effect was compared), or
    after `seconds`. The same seed makes the same maps, but for where the kernel places memory. It
    goes from place to place (every scenario under one limit, then under the next) and passes over
    the first `first` of them. A KeyboardInterrupt ends it too, with the tally so far.

    >>> fuzz(2000, seed=1).disagreements
    0

    Equivalent: `prctlmm-lab fuzz --calls N --seed S`.

    In recorded mode our specification stands in for the kernel that another model is held against;
    of the specification itself only what was recorded can be told.

    Raises SpecimenError if a specimen ends, UnsupportedSystem for what was not recorded.
    """
    facts = facts_here()
    if mode.is_recorded() and model is None:
        return _recorded_tally(calls, effects=effects)
    tested = model or specification(facts)
    tally = Tally(facts.release, new_seed() if seed is None else seed, tested.name)
    tally.origin = PREDICTED if mode.is_recorded() else LIVE
    started = time.monotonic()
    try:
        for compared in _compared(tested, facts, tally, effects, calls, first):
            tally.seconds = time.monotonic() - started
            if on_progress is not None:
                on_progress(tally)
            if compared >= calls or (seconds is not None and tally.seconds >= seconds):
                break
    except KeyboardInterrupt:
        tally.interrupted = True
    tally.seconds = time.monotonic() - started
    return tally


def _recorded_tally(calls: int, *, effects: bool) -> Tally:
    line = store.shipped().asked("tally", {"calls": calls, "effects": effects})
    tally = Tally(**{**line, "origin": store.shipped().origin})
    for name in ("by_scenario", "by_limit", "by_verdict", "by_rule", "wrong_by_scenario"):
        setattr(tally, name, Counter(line[name]))
    return tally


def places_in_a_round() -> int:
    """Return how many batches it takes to have been everywhere once."""
    return len(scenarios()) * len(LIMITS)


def new_seed() -> int:
    """Return a seed that nobody chose."""
    return random.SystemRandom().getrandbits(32)


def _compared(
    model: Model, facts: Facts, tally: Tally, effects: bool, calls: int, first: int
) -> Iterator[int]:
    """Compare calls and yield how many have been, now and then."""
    if effects:
        for number, watch in enumerate(watched(tally, first, calls // 6), 1):
            _compare_watched(watch, model, facts, tally)
            if number % 50 == 0 or tally.watched >= calls:
                yield tally.watched
    else:
        size = max(100, min(LARGEST_BATCH, calls // places_in_a_round()))
        for batch in batches(tally, size, first):
            _compare_batch(batch, model, facts, tally)
            yield tally.calls


@contextmanager
def _benches(tally: Tally) -> Iterator[list[tuple[Scenario, Bench, Landmarks]]]:
    """Set up every scenario that can be set up here; end them all."""
    facts = facts_here()
    with ExitStack() as stack:
        standing = []
        for scenario in scenarios():
            specimen = stack.enter_context(scenario.experiment.specimen.start())
            try:
                bench = set_up(scenario.experiment, specimen, facts)
            except SetupError as error:
                tally.skipped[scenario.name] = str(error)
                continue
            standing.append((scenario, bench, landmarks(bench)))
        yield standing


def _places(
    standing: list[tuple[Scenario, Bench, Landmarks]], seed: int, first: int
) -> Iterator[tuple[Place, int, Generator]]:
    """Go round all scenarios under one limit after the other, for ever; pass over the first."""
    turn, passed = 0, count()
    while standing:
        for limit, value in LIMITS.items():
            for number, (scenario, bench, marks) in enumerate(standing):
                if next(passed) < first:
                    continue
                soft = min(bench.address(value, "limit"), bench.specimen.limit("DATA")[1])
                rng = np.random.default_rng([seed, turn, number])
                yield Place(scenario, limit, bench, marks), soft, rng
            turn += 1


# ---- verdicts, in masses ----------------------------------------------------------------------


def batches(tally: Tally, size: int, first: int = 0) -> Iterator[Batch]:
    """Yield batches of real calls for ever; the next is made up while the kernel answers one."""
    with _benches(tally) as standing, ThreadPoolExecutor(1) as kernel:
        under_way: Callable[[], Batch] | None = None
        for place, limit, rng in _places(standing, tally.seed, first):
            following = _begin_batch(place, limit, rng, size, kernel)
            if under_way is not None:
                yield under_way()
            under_way = following


def _begin_batch(
    place: Place, limit: int, rng: Generator, size: int, kernel: ThreadPoolExecutor
) -> Callable[[], Batch]:
    """Start a batch and return how to finish it."""
    specimen, marks = place.specimen, place.marks
    table = random_maps(marks, limit, size, rng)
    specimen.set_limit("DATA", limit)
    situation = situation_of_all(specimen, table)
    answers: Future[Errnos] = kernel.submit(ask_kernel, specimen, table)

    def finish() -> Batch:
        errnos = answers.result()
        singles = tuple(_singles(place, table, situation, rng))
        specimen.set_limit("DATA", specimen.limit("DATA")[1])
        specimen.set_map(marks.own)
        return Batch(place, table, situation, errnos, singles)

    return finish


SIZES = (0, 1, 100, MAP_SIZE - 1, MAP_SIZE, MAP_SIZE + 1, MAP_SIZE + 4096, 208,
         1 << 32 | MAP_SIZE, U64)  # fmt: skip
FIFTHS = (0, 0, 0, 0, 1, 4096, 1 << 32, U64)


def _singles(place: Place, table: Table, situation: Situation, rng: Generator) -> Iterator[Single]:
    """Make calls one by one, whose size, pointer and fifth argument vary too.

    `situation` is that of the whole table.
    """
    specimen, regions = place.specimen, place.bench.regions
    edge = regions["arena"][1] - place.bench.facts.page_size
    pointers = (None, None, None, 0, 1, edge - MAP_SIZE, edge - MAP_SIZE + 1,
                regions["closed"][0], 1 << 63, U64 - MAP_SIZE)  # fmt: skip
    for row in rng.integers(0, table.size, SINGLE_CALLS):
        size, arg5 = (int(rng.choice(np.array(values, np.uint64))) for values in (SIZES, FIFTHS))
        size = size if rng.random() < 0.5 else MAP_SIZE
        pointer = pointers[rng.integers(len(pointers))]
        if pointer is not None and specimen.can_read(pointer, MAP_SIZE):
            new = PrctlMmMap.unpack(specimen.read(pointer, MAP_SIZE))
            one = situation_of(specimen, new, size=size, arg5=arg5, pointer=pointer)
        else:
            new, readable = map_at(table, row), pointer is None
            one = replace(_row(situation, row), size=size, arg5=arg5, struct_readable=readable)
        errno = specimen.set_map(new, size=size, arg5=arg5, pointer=pointer)
        yield Single(one, errno, pointer)


def wrong_rows(batch: Batch, model: Model, facts: Facts) -> Any:
    """Return the rows of a batch for which the model says something else than the kernel."""
    predicted = predict(batch.situation, facts, batch.table.size, model.rules)
    return np.flatnonzero(predicted != batch.errnos)


def wrong_singles(batch: Batch, model: Model, facts: Facts) -> list[Single]:
    """Return the single calls for which the model says something else than the kernel."""
    return [s for s in batch.singles if _said(s.situation, facts, model.rules) != s.errno]


def _compare_batch(batch: Batch, model: Model, facts: Facts, tally: Tally) -> None:
    count, place = batch.table.size + len(batch.singles), batch.place
    tally.calls += count
    tally.by_scenario[place.scenario.name] += count
    tally.by_limit[place.limit] += count
    verdicts, counts = np.unique(batch.errnos, return_counts=True)
    for verdict, number in zip(verdicts.tolist(), counts.tolist(), strict=True):
        tally.by_verdict[_verdict(verdict)] += number
    names = [rule.id for rule in rules_of(facts)]
    deciding, counts = np.unique(
        decide(batch.situation, facts, batch.table.size), return_counts=True
    )
    for index, number in zip(deciding.tolist(), counts.tolist(), strict=True):
        tally.by_rule["accepted" if index == ACCEPTED else names[index]] += number
    for single in batch.singles:
        tally.by_rule[_decider(single.situation, facts)] += 1
        tally.by_verdict[_verdict(single.errno)] += 1
    rows = wrong_rows(batch, model, facts)
    singles = wrong_singles(batch, model, facts)
    _count_wrong(tally, place, len(rows) + len(singles))
    for row in rows[:1]:
        said = _said(_row(batch.situation, int(row)), facts, model.rules)
        answers = _verdict(said), _verdict(int(batch.errnos[row]))
        _keep(tally, place, as_recipe(place, map_at(batch.table, row)), model, answers)
    for single in singles[:1]:
        said = _said(single.situation, facts, model.rules)
        answers = _verdict(said), _verdict(single.errno)
        _keep(tally, place, single_as_recipe(place, single), model, answers)


def _decider(situation: Situation, facts: Facts) -> str:
    """Return the id of the rule that decides over one call, or "accepted"."""
    deciding = first_broken(situation, facts, rules_of(facts))
    return deciding.id if deciding else "accepted"


def _said(situation: Situation, facts: Facts, rules: Sequence[Rule]) -> int:
    """Return the errno that rules give for one call, 0 for accepted."""
    deciding = first_broken(situation, facts, rules)
    return deciding.errno_on(facts) if deciding else 0


def _count_wrong(tally: Tally, place: Place, count: int) -> None:
    tally.disagreements += count
    if count:
        tally.wrong_by_scenario[place.scenario.name] += count


# ---- from a disagreement to a recipe ----------------------------------------------------------


def as_recipe(place: Place, new: PrctlMmMap, request: int | None = None) -> Experiment:
    """Return an experiment that makes the same call at the same place, by names."""
    base, own = place.scenario.experiment, place.marks.own
    limit = Limit("DATA", LIMITS[place.limit])
    setup = base.setup if place.limit == "unset" else (*base.setup, limit)
    after: tuple[Brk, ...] = ()
    if request is not None:
        names = {k: v for k, v in names_on(place.bench, own).items() if not k.startswith("before")}
        names |= {name: getattr(new, name) for name in ("start_brk", "brk")}
        after = (Brk(distance(request, names).formula),)
    return as_experiment(replace(base, setup=setup, after=after), place.bench, own, new)


def single_as_recipe(place: Place, single: Single) -> Experiment:
    """Return an experiment that makes a single call again, with its size, pointer and arg5."""
    situation, own = single.situation, place.marks.own
    experiment = as_recipe(place, situation.map)
    pointer: Value | None = None
    if single.pointer is not None:
        names = names_on(place.bench, own)
        regions = {name: at for name, at in names.items() if not name.startswith("before")}
        pointer = distance(single.pointer, regions).formula
        experiment = replace(experiment, change={})
    call = Call(
        size=None if situation.size == MAP_SIZE else hex(situation.size),
        arg5=hex(situation.arg5) if situation.arg5 else 0,
        pointer=pointer,
    )
    return replace(experiment, call=call)


def _keep(
    tally: Tally, place: Place, experiment: Experiment, model: Model, answers: tuple[str, str]
) -> None:
    """Shrink a disagreement and keep it, unless there are enough or it is known already.

    `answers` are what the model and the kernel said at first; a fresh specimen may tell others.
    """
    if len(tally.examples) >= MOST_EXAMPLES or tally.shrunk >= MOST_SHRUNK:
        return
    tally.shrunk += 1
    found = _example(place, experiment, model, answers)
    if all(_what(found) != _what(known) for known in tally.examples):
        name = f"disagreement-{len(tally.examples) + 1}"
        tally.examples.append(replace(found, experiment=replace(found.experiment, id=name)))


def _what(found: Disagreement) -> tuple[object, ...]:
    experiment = found.experiment
    return experiment.change, experiment.call, experiment.after, found.predicted, found.kernel


def _example(
    place: Place, experiment: Experiment, model: Model, answers: tuple[str, str]
) -> Disagreement:
    """Shrink an experiment on which the model is wrong, and tell both answers."""
    smaller = shrink(experiment, lambda candidate: differs(candidate, model) is not None)
    again = differs(smaller, model)
    predicted, kernel = again or answers
    text = f"The model ({model.name}) says {predicted}, the kernel {kernel}."
    if again is None:
        text += " A fresh specimen does not show it: what was done to the first one before matters."
    title = f"Found in {place.scenario.name}, RLIMIT_DATA {place.limit}"
    example = replace(smaller, title=title, explanation=text)
    return Disagreement(place.scenario.name, place.limit, example, predicted, kernel)


def differs(experiment: Experiment, model: Model) -> tuple[str, str] | None:
    """Run an experiment in a fresh specimen; return what model and kernel say, if they differ.

    Compared are the verdict, everything shown after it, and a brk() that follows.

    Raises InputError or SetupError for an experiment that cannot be made, SpecimenError.
    """
    facts = facts_here()
    with experiment.specimen.start() as specimen:
        bench_prepared = prepare(replace(experiment, after=()), specimen, facts, model)
        record = carry_out(bench_prepared)
        if not record.agreement.verdict:
            return record.prediction.verdict, record.outcome.verdict
        if record.agreement.disagreements:
            predicted, _, seen = record.agreement.disagreements[0].partition(", shown ")
            return predicted, seen
        for step in experiment.after:
            assert isinstance(step, Brk)
            request = bench_prepared.bench.address(step.brk, "after[0].brk")
            found = _moved(specimen, request, model, facts)
            if found is not None:
                return found
    return None


def _moved(specimen: Any, request: int, model: Model, facts: Facts) -> tuple[str, str] | None:
    before = specimen.snapshot()
    memory = memory_of(specimen, specimen.current_map(), before)
    answer, vmas = model.brk_after(before, request, memory, facts)
    real = specimen.brk(request)
    now = _maps_now(specimen)
    return _brk_differs(request, (answer, vmas), (real, now))


# ---- effects, one by one ----------------------------------------------------------------------


def watched(tally: Tally, first: int = 0, at_once: int = 0) -> Iterator[Watched]:
    """Make calls one by one for ever, looking at everything before and after each.

    About `at_once` maps are made up for one visit to a place, within limits.
    """
    size = max(FEWEST_WATCHED, min(MOST_WATCHED, at_once))
    with _benches(tally) as standing:
        for place, limit, rng in _places(standing, tally.seed, first):
            specimen = place.specimen
            try:
                specimen.set_limit("DATA", limit)
                yield from _watch(place, limit, rng, size)
            finally:
                if specimen.alive:
                    specimen.set_limit("DATA", specimen.limit("DATA")[1])
                    specimen.set_map(place.marks.own)


def _watch(place: Place, limit: int, rng: Generator, size: int) -> Iterator[Watched]:
    specimen, facts = place.specimen, place.bench.facts
    table = random_shown_maps(place.marks, place.bench, limit, size, rng)
    situation = situation_of_all(specimen, table)
    keep = predict(situation, facts, table.size) == 0
    keep |= rng.random(table.size) < 0.03  # a refusal must change nothing
    before = specimen.snapshot()
    ground = _Ground(specimen, before)
    for row in np.flatnonzero(keep).tolist():
        new, own = map_at(table, row), specimen_map(before)
        one = _row(situation, row)
        errno = specimen.set_map(new)
        effective = new if errno == 0 else own
        memory = ground.memory(effective)
        after = specimen.snapshot()
        watch = Watched(place, new, one, errno, before, effective, memory, after)
        if errno == 0 and rng.random() < 0.4:
            request = random_requests(effective, place.marks, after, memory, limit, rng)
            watch = _move(watch, request, ground)
        yield watch
        settled = _shows_own_words(watch) or rng.random() < 0.5
        if settled:
            _settle(watch)
        before = specimen.snapshot() if settled or watch.request is not None else after


def _shows_own_words(watch: Watched) -> bool:
    """Tell whether cmdline or environ hang on bytes that change with each request.

    How far reading them grows a stack can then not be told either.
    """
    new, page = watch.effective, watch.place.bench.facts.page_size
    first, last = watch.memory.unknown
    ranges = ((new.arg_start, max(new.arg_end, new.arg_start + page)),
              (new.arg_end - 1, new.arg_end), (new.env_start, new.env_end))  # fmt: skip
    return any(start < last and first < end for start, end in ranges)


def _settle(watch: Watched) -> None:
    """Show the specimen's own strings again, and unmap by what reading has grown its stacks."""
    specimen, own = watch.place.specimen, watch.place.marks.own
    strings = {
        name: getattr(own, name) for name in ("arg_start", "arg_end", "env_start", "env_end")
    }
    new = watch.effective.changed(auxv=0, auxv_size=0, exe_fd=NO_EXE, brk=specimen.brk(), **strings)
    specimen.set_map(new)
    starts = dict(watch.place.marks.growing)
    for vma in _maps_now(specimen):
        start = starts.get(vma.end, 0)
        if vma.start < start:
            specimen.unmap(vma.start, start - vma.start)


def specimen_map(snapshot: Snapshot) -> PrctlMmMap:
    """Return the map that a snapshot shows, which changes nothing."""
    return PrctlMmMap(**snapshot.members)


def _row(situation: Situation, row: int) -> Situation:
    """Return one row of a situation with columns."""

    def at(value: Any) -> Any:
        return value[row].item() if isinstance(value, np.ndarray) else value

    names = vars(situation.map)
    exe = replace(situation.exe, **{k: at(v) for k, v in vars(situation.exe).items()})
    new = PrctlMmMap(**{name: at(names[name]) for name in names})
    others = {k: at(v) for k, v in vars(situation).items() if k not in ("map", "exe")}
    return Situation(map=new, exe=exe, **others)


class _Ground:
    """The memory of a specimen that nothing writes to while it is watched."""

    def __init__(self, specimen: Any, snapshot: Snapshot) -> None:
        self.specimen = specimen
        own = specimen_map(snapshot)
        self.base = memory_of(specimen, own, snapshot)
        self.parts: dict[int, bytes] = {}
        for vma in snapshot.vmas:
            if vma.is_anonymous and vma.permissions[0] == "r":
                self.parts[vma.start] = specimen.read(vma.start, vma.size)

    def memory(self, new: PrctlMmMap) -> Memory:
        """Return what the call and later reads will find."""
        vector = b""
        if new.auxv_size:
            vector = self.bytes(new.auxv, new.auxv_size)
        link = link_of(self.specimen, new.exe_fd)
        return replace(self.base, parts=self.parts, vector=vector, exe_link=link)

    def restored(self, start: int, end: int) -> None:
        """Note that a range, its end exclusive, was mapped afresh."""
        moved = frozenset(at for at in self.base.moved if not start <= at < end)
        self.specimen.moved = moved
        self.base = replace(self.base, moved=moved, mapped=self.specimen.mapped)

    def bytes(self, address: int, length: int) -> bytes:
        """Return what lies in one of the known parts."""
        for start, part in self.parts.items():
            if start <= address and address + length <= start + len(part):
                return part[address - start : address - start + length]
        return bytes(self.specimen.read(address, length))


def _move(watch: Watched, request: int, ground: _Ground) -> Watched:
    """Ask for another brk, note what is there then, and put back what it took away."""
    specimen, before = ground.specimen, watch.after
    if any(not _is_spare(vma, request, watch, ground) for vma in before.vmas):
        return watch
    answer = specimen.brk(request)
    vmas = _maps_now(specimen)
    _restore(specimen, before.vmas, vmas, ground)
    return replace(watch, request=request, answer=answer, vmas=vmas)


def _maps_now(specimen: Any) -> tuple[Vma, ...]:
    """Read maps and nothing else: cmdline may span a heap that has grown by gigabytes."""
    if specimen.origin != LIVE:
        return tuple(specimen.snapshot().vmas)
    return parse_maps(read_whole(f"/proc/{specimen.pid}/maps"))


def _is_spare(vma: Vma, request: int, watch: Watched, ground: _Ground) -> bool:
    """Tell whether a VMA may be lost to a brk() that moves down: not what the specimen runs on."""
    page = watch.place.bench.facts.page_size
    if vma.end <= request or watch.effective.brk + page <= vma.start:
        return True
    if request >= watch.effective.brk:
        return True
    spare = vma.is_anonymous or vma.permissions[3] == "s"
    return spare and vma.permissions[1] == "w" and vma.end not in ground.base.grows_down


def _restore(
    specimen: Any, before: tuple[Vma, ...], after: tuple[Vma, ...], ground: _Ground
) -> None:
    """Unmap what is new and map again what is gone, with its contents."""
    for start, end in _without(after, before):
        specimen.unmap(start, end - start)
    gone = tuple(_without(before, after))
    if not gone:
        return
    soft, hard = specimen.limit("DATA")
    specimen.set_limit("DATA", hard)
    for start, end in gone:
        if any(vma.permissions[3] == "s" and start in vma for vma in before):
            specimen.map(end - start, at=start, shared=True)
            continue
        specimen.map(end - start, at=start)
        specimen.write(start, ground.bytes(start, end - start))
        ground.restored(start, end)
    specimen.set_limit("DATA", soft)


def _without(areas: tuple[Vma, ...], others: tuple[Vma, ...]) -> Iterator[tuple[int, int]]:
    """Yield the ranges, ends exclusive, that lie in some areas and in none of the others."""
    for area in areas:
        at = area.start
        for other in others:
            if other.end <= at or area.end <= other.start:
                continue
            if at < other.start:
                yield at, other.start
            at = min(other.end, area.end)
        if at < area.end:
            yield at, area.end


def what_differs(watch: Watched, model: Model, facts: Facts) -> tuple[str, str] | None:
    """Return what the model and the kernel say, where that is not the same."""
    said = _said(watch.situation, facts, model.rules)
    if said != watch.errno:
        return _verdict(said), _verdict(watch.errno)
    predicted = model.shown_after(watch.before, watch.effective, watch.memory, facts)
    for change in disagreements(predicted, watch.after):
        where = f"{change.place} {change.name}".rstrip()
        return f"{where}: {shown(change.before)}", shown(change.after)
    if watch.request is None:
        return None
    answer, vmas = model.brk_after(watch.after, watch.request, watch.memory, facts)
    return _brk_differs(watch.request, (answer, vmas), (watch.answer, watch.vmas))


def _verdict(errno: int) -> str:
    return errno_name(errno) if errno else "accepted"


def _brk_differs(
    request: int, ours: tuple[int, tuple[Vma, ...]], kernel: tuple[int, tuple[Vma, ...]]
) -> tuple[str, str] | None:
    if ours[0] != kernel[0]:
        return f"brk({request:#x}) = {ours[0]:#x}", f"{kernel[0]:#x}"
    if ours[1] == kernel[1]:
        return None
    texts = (
        ", ".join(sorted(set(map(str, one)) - set(map(str, other))))
        for one, other in ((ours[1], kernel[1]), (kernel[1], ours[1]))
    )
    return f"after brk({request:#x}) {next(texts)}", next(texts)


def _compare_watched(watch: Watched, model: Model, facts: Facts, tally: Tally) -> None:
    place = watch.place
    tally.calls += 1
    tally.watched += watch.errno == 0
    tally.moves += watch.request is not None
    tally.by_scenario[place.scenario.name] += 1
    tally.by_limit[place.limit] += 1
    tally.by_verdict[_verdict(watch.errno)] += 1
    tally.by_rule[_decider(watch.situation, facts)] += 1
    found = what_differs(watch, model, facts)
    if found is not None:
        _count_wrong(tally, place, 1)
        _keep(tally, place, as_recipe(place, watch.map, watch.request), model, found)
