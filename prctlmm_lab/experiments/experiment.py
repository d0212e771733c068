"""An experiment: a declarative description, and `run`, which makes it happen and records it.

An experiment says which specimen, what is done before the call, which members change, and what is
done after. Values are symbolic, so that it can be replayed under another layout.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from errno import EINVAL, EPERM
from types import MappingProxyType
from typing import Any

from prctlmm_lab.errors import (
    InputError,
    SpecimenError,
    SpecimenGone,
    SpecimenTimeout,
    SystemCallError,
    signal_name,
)
from prctlmm_lab.experiments.formula import Value, shorten, suggestion
from prctlmm_lab.experiments.needs import check_need, unmet
from prctlmm_lab.experiments.record import (
    Agreement,
    Answer,
    Outcome,
    Prediction,
    Privilege,
    Record,
    Request,
    View,
    change_texts,
    experiment_data,
    in_text_form,
    text_bytes,
    text_form,
    view,
)
from prctlmm_lab.experiments.steps import (
    Bench,
    Step,
    check_circles,
    check_steps,
    check_value,
    known_names,
    resolve_changes,
    widest,
)
from prctlmm_lab.kernel.abi import (
    MAP_SIZE,
    MEMBER,
    PR_SET_MM,
    Operation,
    PrctlMmMap,
    unknown_member,
)
from prctlmm_lab.kernel.difference import difference, shown
from prctlmm_lab.kernel.effects import EFFECT, Memory, disagreements
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.legacy import LEGACY_RULE, rules_of, saved_vector
from prctlmm_lab.kernel.message import PLACES
from prctlmm_lab.kernel.model import Model, specification
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.kernel.rules import RULE, Explanation, Situation, errno_name, explain
from prctlmm_lab.specimen.build import BUILDS
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.marks import weaker
from prctlmm_lab.specimen.situation import (
    is_readable,
    may_set_members,
    member_situation_of,
    memory_of,
    situation_of,
)

VERDICTS = ("accepted", "EINVAL", "EFAULT", "EPERM", "EBADF", "EACCES", "EBUSY")
"""What the call can end with, for predictions."""


class SetupError(InputError):
    """An experiment cannot be set up here: the kernel refused one of its steps."""


@dataclass(frozen=True)
class Subject:
    """Which specimen an experiment is made on.

    Text stands for its UTF-8 bytes; an environment entry reads NAME=value.
    """

    build: str = "static"
    arguments: tuple[str, ...] = ("specimen",)
    environment: tuple[str, ...] = ("LAB=prctlmm_lab",)
    heap_pages: int = 4
    randomize: bool = True

    def check(self, where: str) -> None:
        """Refuse what no specimen can be started with.

        Raises InputError; `where` names the place in messages.
        """
        if self.build not in BUILDS:
            raise InputError(f"{where}.build", "is not a build", shorten(self.build),
                             " or ".join(BUILDS))  # fmt: skip
        if not 0 <= self.heap_pages <= 1 << 16:
            raise InputError(f"{where}.heap_pages", "pages are no heap", shorten(self.heap_pages),
                             "0 to 0x10000")  # fmt: skip
        if not self.arguments:
            raise InputError(f"{where}.arguments", "is empty", "", "the program's name at least")
        for kind in ("arguments", "environment"):
            for number, text in enumerate(getattr(self, kind)):
                place = f"{where}.{kind}[{number}]"
                if b"\0" in text_bytes(text, place):
                    raise InputError(place, "holds a zero byte", shorten(text), "text without one")
                if kind == "environment" and text.find("=") < 1:
                    raise InputError(place, "is not an entry", shorten(text), "NAME=value")

    def start(self) -> Specimen:
        """Start it.

        Raises InputError for what no specimen can be started with, SpecimenError if it does not
        start.
        """
        self.check("specimen")
        return Specimen(
            self.build,
            arguments=[text_bytes(text, "arguments") for text in self.arguments],
            environment=[text_bytes(text, "environment") for text in self.environment],
            heap_pages=self.heap_pages,
            randomize=self.randomize,
        )


@dataclass(frozen=True)
class Call:
    """How the call is made, apart from the map."""

    size: Value | None = None
    """The fourth argument; if None the size of the struct for MAP, else 0."""
    arg5: Value = 0
    pointer: Value | None = None
    """Where MAP's struct is said to lie; by default it is written to memory and found there."""
    operation: str = "MAP"
    """Of PR_SET_MM, such as START_CODE; or the number of one that does not exist."""
    value: Value | None = None
    """The third argument of any other operation than MAP: an address, or a descriptor."""

    @property
    def number(self) -> int:
        """The second argument: the operation's number."""
        by_name = Operation.__members__.get(self.operation)
        return int(self.operation, 0) if by_name is None else by_name

    @property
    def fourth(self) -> Value:
        """The fourth argument, or what stands for it."""
        if self.size is not None:
            return self.size
        return MAP_SIZE if self.number == Operation.MAP else 0

    def check(self, where: str, *, changes: bool) -> None:
        """Refuse an operation that cannot be named so, and what does not go with it.

        `changes` says that the experiment changes members. Raises InputError; `where` names the
        experiment in messages.
        """
        _check_operation(self.operation, f"{where}: call.operation")
        if self.number == Operation.MAP:
            if self.value is not None:
                raise InputError(f"{where}: call.value", "is not for MAP", shorten(self.value),
                                 "change, or call.pointer")  # fmt: skip
            if self.pointer is not None and changes:
                raise InputError(f"{where}: change", "has no effect when call.pointer says where "
                                 "the struct lies", "", "one of the two")  # fmt: skip
            return
        if changes or self.pointer is not None:
            place = "change" if changes else "call.pointer"
            raise InputError(f"{where}: {place}", f"is not for {self.operation}", "", "call.value")
        if self.value is None:
            raise InputError(f"{where}: call.value", "is missing")


def _check_operation(operation: str, where: str) -> None:
    if operation in Operation.__members__:
        return
    if not re.fullmatch(r"[0-9]{1,9}", operation):
        raise InputError(where, "is not an operation of PR_SET_MM", shorten(operation),
                         suggestion(operation, Operation.__members__))  # fmt: skip
    known = {int(each): each.name for each in Operation}.get(int(operation))
    if known or operation != str(int(operation)):
        right = known or str(int(operation))
        raise InputError(where, "is not how it is written", shorten(operation), f'"{right}"')


@dataclass(frozen=True)
class Experiment:
    """One experiment, as a recipe declares it.

    >>> Experiment("shorter", change={"arg_start": "arg_star + 1"})
    Traceback (most recent call last):
    ...
    prctlmm_lab.errors.InputError: experiment "shorter": change.arg_start: 'arg_star' is not a ...

    Raises InputError for an unknown member, name, rule or verdict, a formula that is none, and
    members that need each other in a circle.
    """

    id: str
    title: str = ""
    explanation: str = ""
    """What it shows, in a sentence or two."""
    specimen: Subject = Subject()
    setup: tuple[Step, ...] = ()
    change: Mapping[str, Value] = field(default_factory=dict)
    call: Call = Call()
    after: tuple[Step, ...] = ()
    predict: str = ""
    """The learner's prediction: "accepted" or the name of an errno."""
    rule: str = ""
    """The id of the rule that the author wants to decide; empty for none."""
    effect: str = ""
    """The id of the effect that it is about; empty for none."""
    requirement: str = ""
    """The place of commit f606b77f1a's message that it is about, as `kernel/message.py` has it."""
    needs: tuple[str, ...] = ()
    """What a kernel must do or not do for it: "hole_shrinks", "not heap.above_data"."""

    def __post_init__(self) -> None:
        where = f'experiment "{self.id}"'
        for member in self.change:
            if member not in MEMBER:
                raise unknown_member(member, f"{where}: change")
        if self.predict and self.predict not in VERDICTS:
            raise InputError(f"{where}: predict", "is not a verdict", shorten(self.predict),
                             suggestion(self.predict, VERDICTS))  # fmt: skip
        self._check_citations(where)
        for number, need in enumerate(self.needs):
            check_need(need, f"{where}: needs[{number}]")
        self.call.check(where, changes=bool(self.change))
        object.__setattr__(self, "needs", tuple(self.needs))
        object.__setattr__(self, "change", MappingProxyType(dict(self.change)))
        object.__setattr__(self, "setup", tuple(self.setup))
        object.__setattr__(self, "after", tuple(self.after))
        self.specimen.check(f"{where}: specimen")
        known = known_names()
        check_steps(self.setup, known, f"{where}: setup")
        for member, value in self.change.items():
            check_value(value, known, f"{where}: change.{member}", widest(member))
        check_circles(self.change, f"{where}: change")
        for name in ("value", "size", "arg5", "pointer"):
            value = getattr(self.call, name)
            if value is not None:
                check_value(value, known, f"{where}: call.{name}")
        check_steps(self.after, known, f"{where}: after")

    def _check_citations(self, where: str) -> None:
        cited: tuple[tuple[str, str, Iterable[str]], ...] = (
            ("rule", "is not a rule", RULE | LEGACY_RULE),
            ("effect", "is not an effect", EFFECT),
            ("requirement", "is not a place of the commit message", PLACES),
        )
        for name, problem, known in cited:
            value = getattr(self, name)
            if value and value not in known:
                raise InputError(f"{where}: {name}", problem, shorten(value),
                                 suggestion(value, known))  # fmt: skip

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy by value: a mapping proxy cannot be."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return _rebuilt, ({**values, "change": dict(self.change)},)


def _rebuilt(values: dict[str, Any]) -> Experiment:
    return Experiment(**values)


@dataclass(frozen=True)
class Prepared:
    """An experiment just before its call: the specimen stands, the map is known."""

    experiment: Experiment
    bench: Bench
    map: PrctlMmMap
    situation: Situation
    explanation: Explanation
    shown: Snapshot
    """What /proc is predicted to show after the call."""
    before: Snapshot
    size: int
    arg5: int
    pointer: int | None
    value: int = 0
    """The third argument of any other operation than MAP."""


def prepare(
    experiment: Experiment, specimen: Specimen, facts: Facts, model: Model | None = None
) -> Prepared:
    """Do the set-up steps, resolve the values, and predict; the call is not made.

    The prediction is that of our specification, or of another model.

    Raises InputError, SetupError for a step that the kernel refuses, SpecimenError.
    """
    return predict(experiment, set_up(experiment, specimen, facts), model)


def set_up(experiment: Experiment, specimen: Specimen, facts: Facts) -> Bench:
    """Do the steps before the call and return the bench that knows the names they made.

    Raises InputError, SetupError for a step that the kernel refuses and for what the experiment
    needs of a kernel and this one has not, SpecimenError.
    """
    where = f'experiment "{experiment.id}"'
    for number, need in enumerate(experiment.needs):
        if reason := unmet(need, facts):
            raise SetupError(f"{where}: needs[{number}]", reason)
    return take_steps(experiment.setup, specimen, facts, f"{where}: setup")


def take_steps(steps: Iterable[Step], specimen: Specimen, facts: Facts, where: str) -> Bench:
    """Do steps one after the other and return the bench that knows the names they made.

    Raises as `set_up`; `where` names the place of the steps in messages.
    """
    bench = Bench(specimen, facts)
    for number, step in enumerate(steps):
        answer = perform(step, bench, f"{where}[{number}]")
        if answer.refusal:
            raise SetupError(f"{where}[{number}]", f"the kernel refused {answer.refusal}")
        if not answer.as_expected:
            problem = f"the kernel answered {answer.answer}"
            raise SetupError(f"{where}[{number}]", problem, "", answer.expected)
    return bench


def predict(experiment: Experiment, bench: Bench, model: Model | None = None) -> Prepared:
    """Resolve an experiment's values on a bench that stands, and predict; nothing is changed.

    Raises InputError for a value that does not fit, SpecimenError.
    """
    where = f'experiment "{experiment.id}"'
    try:
        return _predicted(experiment, bench, model or specification(bench.facts), where)
    except SystemCallError as error:
        problem = f"the specimen cannot be asked any more: {error}"
        raise SetupError(f"{where}: setup", problem) from None


def _facts_for(before: Snapshot, facts: Facts) -> Facts:
    """Return a kernel's facts for the caller that the steps have made.

    A kernel without the call tells whoever has CAP_SYS_RESOURCE that there is no such operation,
    and everybody else that it is not permitted.
    """
    if facts.available or facts.refusal_errno != EINVAL or may_set_members(before):
        return facts
    return replace(facts, refusal_errno=EPERM)


def _predicted(experiment: Experiment, bench: Bench, model: Model, where: str) -> Prepared:
    specimen, call = bench.specimen, experiment.call
    before = specimen.snapshot()
    facts = _facts_for(before, bench.facts)
    own = bench.before = specimen.current_map()
    new = resolve_changes(dict(experiment.change), own, bench, f"{where}: change")
    size = bench.address(call.fourth, f"{where}: call.size")
    arg5 = bench.address(call.arg5, f"{where}: call.arg5")
    if call.number != Operation.MAP:
        return _predicted_member(experiment, bench, model, before, size, arg5)
    pointer = (
        None if call.pointer is None else bench.address(call.pointer, f"{where}: call.pointer")
    )
    if pointer is not None and is_readable(specimen, pointer, MAP_SIZE):
        new = PrctlMmMap.unpack(specimen.read(pointer, MAP_SIZE))
    situation = situation_of(specimen, new, size=size, arg5=arg5, pointer=pointer)
    explanation = explain(situation, facts, model.rules)
    effective = own if explanation.errno else new
    memory = memory_of(specimen, effective, before)
    return Prepared(
        experiment=experiment,
        bench=bench,
        map=new,
        situation=situation,
        explanation=explanation,
        shown=model.shown_after(before, effective, memory, facts),
        before=before,
        size=size,
        arg5=arg5,
        pointer=pointer,
    )


def _predicted_member(
    experiment: Experiment, bench: Bench, model: Model, before: Snapshot, size: int, arg5: int
) -> Prepared:
    """Predict what another operation than MAP does; the model's rules are not for it."""
    specimen, facts, call = bench.specimen, _facts_for(before, bench.facts), experiment.call
    value = bench.address(call.value or 0, f'experiment "{experiment.id}": call.value')
    situation = member_situation_of(specimen, call.number, value, size=size, arg5=arg5)
    explanation = explain(situation, facts, rules_of(call.number, facts))
    effective: PrctlMmMap = situation.map
    if explanation.errno:
        effective = bench.before or effective
    memory = memory_of(specimen, effective, before)
    if call.number == Operation.AUXV and not explanation.errno:
        effective = effective.changed(auxv_size=facts.auxv_capacity)
        memory = replace(memory, vector=_saved_vector(before, memory, facts))
    return Prepared(
        experiment=experiment,
        bench=bench,
        map=situation.map,
        situation=situation,
        explanation=explanation,
        shown=model.shown_after(before, effective, memory, facts),
        before=before,
        size=size,
        arg5=arg5,
        pointer=None,
        value=value,
    )


def _saved_vector(before: Snapshot, memory: Memory, facts: Facts) -> bytes:
    old = b"" if isinstance(before.auxv, Unreadable) else before.auxv
    return saved_vector(old, memory.vector, facts)


def perform(step: Step, bench: Bench, where: str) -> Answer:
    """Do one step and return what the kernel answered; a refusal is an answer.

    Raises InputError if a value makes no sense, SpecimenError with the step's place in it if the
    specimen ends.
    """
    expected: int | None = None
    try:
        expected = step.expected(bench, where)
        answer = step.perform(bench, where)
    except SystemCallError as error:
        return Answer(step.verb, "", str(error), _hex(expected))
    except SpecimenError as error:
        kind, (pid, call, *more) = error.__reduce__()
        raise kind(pid, f"{call} in {where}", *more) from None
    return Answer(step.verb, _hex(answer), "", _hex(expected))


def _hex(number: int | None) -> str:
    return "" if number is None else hex(number)


def run(
    experiment: Experiment,
    *,
    on_request: Callable[[Request], None] | None = None,
    specimen: Specimen | None = None,
) -> Record:
    """Run an experiment on the real kernel and return its record.

    A specimen is started for it and ended after it, unless one is given. `on_request` is told of
    the call before it is made (a logbook writes it down, so that an interrupted run leaves a
    trace).

    >>> record = run(Experiment("nothing changes"))
    >>> record.outcome.verdict, record.agreement.verdict
    ('accepted', True)

    Raises InputError for values that make no sense, SetupError if the kernel refuses a step of the
    set-up, SpecimenError if one ends the specimen, UnsupportedSystem. A specimen that ends in the
    call itself, or after it, is an outcome.
    """
    if specimen is not None:
        return carry_out(prepare(experiment, specimen, facts_here()), on_request=on_request)
    with experiment.specimen.start() as fresh:
        return carry_out(prepare(experiment, fresh, facts_here()), on_request=on_request)


def carry_out(prepared: Prepared, *, on_request: Callable[[Request], None] | None = None) -> Record:
    """Make the call of a prepared experiment, do the steps after it, and return the record.

    Raises as `run`.
    """
    request = _request(prepared, prepared.bench.facts)
    if on_request is not None:
        on_request(request)
    outcome, after, answers, final = _make_call(prepared)
    changes = difference(prepared.before, after) if after else ()
    later = difference(after, final) if after and final else ()
    return Record(
        **{
            name: getattr(request, name)
            for name in request.__dataclass_fields__
            if name not in ("schema", "origin")
        },
        origin=weaker(request.origin, prepared.bench.specimen.weakest),
        outcome=outcome,
        after=_view(after, prepared).since(request.before) if after else None,
        difference=change_texts(changes),
        answers=tuple(answers),
        later=change_texts(later),
        agreement=_agreement(prepared, outcome, after, answers),
    )


def _make_call(
    prepared: Prepared,
) -> tuple[Outcome, Snapshot | None, list[Answer], Snapshot | None]:
    specimen, after = prepared.bench.specimen, None
    answers: list[Answer] = []
    try:
        errno = _errno(prepared)
    except SpecimenError as error:
        return _ended(Outcome("", -1), error), None, answers, None
    outcome = Outcome("accepted" if errno == 0 else errno_name(errno), errno)
    try:
        after = specimen.snapshot()
        for answer in _afterwards(prepared):
            answers.append(answer)  # one by one: those before the specimen's end are kept
        final = specimen.snapshot() if answers else None
    except SpecimenError as error:
        return _ended(outcome, error), after, answers, None
    return outcome, after, answers, final


def _ended(outcome: Outcome, error: SpecimenError) -> Outcome:
    """Return an outcome with how the specimen ended."""
    number = error.signal if isinstance(error, SpecimenGone) else 0
    return replace(
        outcome,
        ended=str(error),
        signal=signal_name(number) if number > 0 else "",
        timeout=isinstance(error, SpecimenTimeout),
    )


def _errno(prepared: Prepared) -> int:
    """Make the call and return its errno, 0 for accepted."""
    specimen, operation = prepared.bench.specimen, prepared.experiment.call.number
    if operation == Operation.MAP:
        return specimen.set_map(
            prepared.map, size=prepared.size, arg5=prepared.arg5, pointer=prepared.pointer
        )
    call = PR_SET_MM, operation, prepared.value, prepared.size, prepared.arg5
    errno = -specimen.attempt("prctl", *call)
    specimen.exe_changed |= errno == 0 and operation == Operation.EXE_FILE
    return errno


def _afterwards(prepared: Prepared) -> Iterator[Answer]:
    """Do the steps after the call; one whose value makes no sense now is refused by ourselves."""
    for number, step in enumerate(prepared.experiment.after):
        where = f'experiment "{prepared.experiment.id}": after[{number}]'
        try:
            yield perform(step, prepared.bench, where)
        except InputError as error:
            yield Answer(step.verb, "", str(error))


def _request(prepared: Prepared, facts: Facts) -> Request:
    from prctlmm_lab import __version__

    deciding, call = prepared.explanation.deciding, prepared.experiment.call
    verdict, rule = _verdict(prepared.explanation)
    alone = call.number != Operation.MAP
    specimen, how = prepared.bench.specimen, (prepared.size, prepared.arg5, prepared.pointer)
    return Request(
        origin=specimen.origin if alone else specimen.origin_of_call(prepared.map, *how),
        id=uuid.uuid4().hex,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        lab=__version__,
        experiment=in_text_form(experiment_data(prepared.experiment)),
        operation=call.operation,
        value=hex(prepared.value) if alone else "",
        map={name: hex(value) for name, value in prepared.map},
        struct="" if alone else prepared.map.pack().hex(),
        size=hex(prepared.size),
        arg5=hex(prepared.arg5),
        facts=facts,
        privilege=_privilege(prepared.before),
        before=_view(prepared.before, prepared),
        prediction=Prediction(
            verdict=verdict,
            rule=rule,
            numbers=deciding.numbers if deciding else "",
            broken=tuple(finding.rule.id for finding in prepared.explanation.broken),
            effects=_predicted_effects(prepared),
        ),
        learner=prepared.experiment.predict,
    )


def _predicted_effects(prepared: Prepared) -> dict[str, str]:
    changes = change_texts(difference(prepared.before, prepared.shown))
    return {f"{place} {name}".rstrip(): after for place, name, _, after in changes}


def _view(snapshot: Snapshot, prepared: Prepared) -> View:
    return view(snapshot, prepared.bench.regions)


def _privilege(snapshot: Snapshot) -> Privilege:
    status = {} if isinstance(snapshot.status, Unreadable) else snapshot.status
    return Privilege(
        uid=int(status.get("Uid", "0").split()[0]),
        capabilities=hex(int(status.get("CapEff", "0"), 16)),
        own_user_namespace=_in_own_user_namespace(snapshot),
        seccomp=int(status.get("Seccomp", "0")),
    )


def _in_own_user_namespace(snapshot: Snapshot) -> bool | None:
    if snapshot.beside is not None:
        return snapshot.beside.own_user_namespace
    try:
        return not os.path.samefile("/proc/self/ns/user", f"/proc/{snapshot.pid}/ns/user")
    except OSError:
        return None


def _agreement(
    prepared: Prepared, outcome: Outcome, after: Snapshot | None, answers: Sequence[Answer]
) -> Agreement:
    predicted, rule = _verdict(prepared.explanation)
    aim, learner = prepared.experiment.rule, prepared.experiment.predict
    same = outcome.errno == prepared.explanation.errno
    wrong = [
        f"{c.place} {c.name}".rstrip() + f": predicted {shown(c.before)}, shown {shown(c.after)}"
        for c in (disagreements(prepared.shown, after) if same and after else ())
    ]
    problems = list(wrong)
    if not same:
        problems.append(f"verdict: predicted {predicted}, kernel {outcome.verdict or 'no answer'}")
    if aim and rule != aim:
        problems.append(f"rule: the recipe aims at {aim}, {rule or 'none'} decides")
    steps = prepared.experiment.after
    unexpected = list(_unexpected(steps, answers))
    return Agreement(
        verdict=same,
        effects=not wrong,
        rule=rule == aim if aim else None,
        learner=outcome.verdict == learner if learner else None,
        disagreements=tuple(map(text_form, (*problems, *unexpected))),
        answers=not unexpected if any(map(_expectation, steps)) else None,
    )


def _unexpected(steps: Sequence[Step], answers: Sequence[Answer]) -> Iterator[str]:
    """Yield a sentence for each step after the call that was not answered as expected."""
    none = Answer("", "no answer", "")
    for number, step in enumerate(steps):
        wanted = _expectation(step)
        told = answers[number] if number < len(answers) else none
        if wanted and not (told.expected and told.as_expected):
            expected, answer = told.expected or wanted, told.answer or told.refusal
            yield f"after[{number}] {step.verb}: expected {expected}, kernel {answer}"


def _expectation(step: Step) -> str:
    """Return what the recipe expects as answer to a step, "" for nothing."""
    expect = getattr(step, "expect", None)
    return "" if expect is None else str(expect)


def _verdict(explanation: Explanation) -> tuple[str, str]:
    """Return the verdict's name and the id of the rule that decides, "" for none."""
    if explanation.deciding is None:
        return "accepted", ""
    return errno_name(explanation.errno), explanation.deciding.rule.id
