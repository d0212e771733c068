"""Wrong models of the call, made from ours by altering one thing each: the test of the test.

Every comparison is made strict or lax, negated, its bound moved by one and by a page; every rule is
removed, and swapped with its neighbour; every formula of the effects is altered. `examine` tells
which call caught each, or why it is no different for any call.
"""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import math
import signal
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from prctlmm_lab.experiments.columns import columns_of, map_at, table_of
from prctlmm_lab.experiments.differential import (
    Batch,
    Place,
    Tally,
    Watched,
    batches,
    new_seed,
    places_in_a_round,
    watched,
    what_differs,
    wrong_singles,
)
from prctlmm_lab.experiments.formula import printable
from prctlmm_lab.experiments.generation import PARTNERS
from prctlmm_lab.kernel import effects, rules
from prctlmm_lab.kernel.abi import ADDRESSES, MEMBER, U32, U64, PrctlMmMap
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.model import Model, specification
from prctlmm_lab.kernel.rules import ExeFile, Rule, Situation, errno_name, explain, predict
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.recording import mode, store
from prctlmm_lab.specimen.recording.marks import LIVE

Alteration = tuple[str, str, ast.AST]
"""What stood there, what stands there now, and the whole with it."""


@dataclass(frozen=True)
class WrongModel:
    """One alteration of our model."""

    where: str
    """The id of a rule, or the function of an effect."""
    before: str
    after: str
    model: Model
    of_rules: bool
    """Whether a rule is altered, or an effect."""
    proof: str = ""
    """Why it is no different for any call on this kernel, if that was proved."""

    @property
    def id(self) -> str:
        """A name that tells it from all others."""
        return f"{self.where}: {self.before} -> {self.after}"


@dataclass
class Examination:
    """Every wrong model, and what came of it."""

    kernel: str
    seed: int
    calls: int = 0
    """Real calls that were made, those with all effects among them."""
    watched: int = 0
    """Accepted maps whose whole effect was compared."""
    seconds: float = 0.0
    interrupted: bool = False
    caught: dict[str, str] = field(default_factory=dict)
    """Id -> the call that caught it, and both answers."""
    caught_after: dict[str, int] = field(default_factory=dict)
    """Id -> how many calls had been made by then."""
    proved: dict[str, str] = field(default_factory=dict)
    """Id -> why it is no different for any call on this kernel."""
    escaped: list[str] = field(default_factory=list)
    origin: str = LIVE
    """Where the answers come from: real calls, or a recording."""

    def __str__(self) -> str:
        ended = "; interrupted" if self.interrupted else ""
        ended += "" if self.origin == LIVE else f"; {self.origin}"
        return (
            f"{len(self.caught) + len(self.proved) + len(self.escaped)} wrong models on Linux "
            f"{self.kernel}: {len(self.caught)} caught within {self.last:,} calls, "
            f"{len(self.proved)} proved to be no different, {len(self.escaped)} escaped "
            f"({self.seconds:.0f} s, seed {self.seed}{ended})"
        )

    @property
    def last(self) -> int:
        """How many calls it took to catch all that were caught."""
        return max(self.caught_after.values(), default=0)


# ---- altering code ----------------------------------------------------------------------------

_STRICT_OR_LAX: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
}  # fmt: skip
_NEGATED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_OTHER_SIGN: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add}


def alterations(code: ast.AST, distances: tuple[int, ...]) -> Iterator[Alteration]:
    """Yield a piece of code once for each single thing altered in it."""
    told: Counter[tuple[str, str]] = Counter()
    for number, site in enumerate(ast.walk(code)):
        if not isinstance(site, ast.expr | ast.AugAssign):
            continue
        for altered in _altered(site, distances):
            before, after = ast.unparse(site), ast.unparse(altered)
            told[before, after] += 1
            place = f" (place {told[before, after]})" if told[before, after] > 1 else ""
            yield before + place, after, _Substitute(code, number, altered).whole


def _altered(
    site: ast.expr | ast.AugAssign, distances: tuple[int, ...]
) -> Iterator[ast.expr | ast.AugAssign]:
    if isinstance(site, ast.Compare) and len(site.ops) == 1:
        yield from _altered_comparison(site, distances)
    elif isinstance(site, ast.Compare):
        for number, sign in enumerate(site.ops):
            if type(sign) in _STRICT_OR_LAX:
                signs = [*site.ops]
                signs[number] = _STRICT_OR_LAX[type(sign)]()
                yield ast.Compare(site.left, signs, site.comparators)
    elif isinstance(site, ast.BoolOp):
        other = ast.Or() if isinstance(site.op, ast.And) else ast.And()
        yield ast.BoolOp(other, site.values)
    elif isinstance(site, ast.AugAssign) and type(site.op) in _OTHER_SIGN:
        yield ast.AugAssign(site.target, _OTHER_SIGN[type(site.op)](), site.value)
    elif isinstance(site, ast.Call | ast.Attribute) and _is_member(site):
        yield ast.BinOp(site, ast.Add(), ast.Constant(1))
    elif isinstance(site, ast.BinOp) and type(site.op) in _OTHER_SIGN:
        yield ast.BinOp(site.left, _OTHER_SIGN[type(site.op)](), site.right)
    elif isinstance(site, ast.UnaryOp) and isinstance(site.op, ast.Not):
        yield site.operand


def _is_member(site: ast.Call | ast.Attribute) -> bool:
    """Tell whether something is the value of a member, as the effects' formulas read it."""
    return ast.unparse(site) in _MEMBERS


_MEMBERS = {f"{name}.{member}" for name in ("new", "own") for member in MEMBER}
_MEMBERS.add("getattr(new, name)")


def _altered_comparison(site: ast.Compare, distances: tuple[int, ...]) -> Iterator[ast.expr]:
    (sign,), (right,) = site.ops, site.comparators
    if isinstance(right, ast.Constant) and isinstance(right.value, bool | str | bytes | None):
        yield from _negated(site, sign)
        return
    if type(sign) in _STRICT_OR_LAX:
        yield ast.Compare(site.left, [_STRICT_OR_LAX[type(sign)]()], [right])
    else:
        yield from _negated(site, sign)
    if isinstance(sign, ast.NotEq):
        yield ast.Compare(site.left, [ast.Lt()], [right])
        yield ast.Compare(site.left, [ast.Gt()], [right])
    if isinstance(sign, ast.In | ast.NotIn | ast.Is | ast.IsNot):
        return
    for distance in distances:
        for way in (ast.Add(), ast.Sub()):
            moved = ast.BinOp(right, way, ast.Constant(distance))
            yield ast.Compare(site.left, site.ops, [moved])


def _negated(site: ast.Compare, sign: ast.cmpop) -> Iterator[ast.expr]:
    if type(sign) in _NEGATED:
        yield ast.Compare(site.left, [_NEGATED[type(sign)]()], site.comparators)


class _Substitute(ast.NodeTransformer):
    """A copy of some code in which one expression is another."""

    def __init__(self, code: ast.AST, number: int, by: ast.AST) -> None:
        whole = copy.deepcopy(code)
        self.site = next(itertools.islice(ast.walk(whole), number, None))
        self.by = by
        self.whole = ast.fix_missing_locations(self.visit(whole))

    def visit(self, node: ast.AST) -> Any:
        return self.by if node is self.site else self.generic_visit(node)


# ---- rules ------------------------------------------------------------------------------------


def wrong_rules(facts: Facts) -> Iterator[WrongModel]:
    """Yield every wrong model whose rules differ from ours."""
    ours = specification(facts)
    for number, rule in enumerate(ours.rules):
        rest = ours.rules[:number], ours.rules[number + 1 :]
        for before, after, predicate in _wrong_predicates(rule, facts.page_size):
            other = replace(rule, broken=predicate)
            wrong = _with_rules(ours, rule.id, before, after, (*rest[0], other, *rest[1]))
            proof = _proof_of_equality(rule, other, facts) or _proof_by_partner(wrong, rule, facts)
            yield replace(wrong, proof=proof)
        wrong = _with_rules(ours, rule.id, "the rule", "removed", rest[0] + rest[1])
        yield replace(wrong, proof=_proof_of_absence(rule, facts))
        if rest[1]:
            following = rest[1][0]
            order = (*rest[0], following, rule, *rest[1][1:])
            wrong = _with_rules(ours, rule.id, f"before {following.id}", "after it", order)
            yield replace(wrong, proof=_proof_of_swap(rule, following, facts))


def _with_rules(
    ours: Model, where: str, before: str, after: str, order: tuple[Rule, ...]
) -> WrongModel:
    name = f"{where}: {before} -> {after}"
    return WrongModel(where, before, after, replace(ours, name=name, rules=order), of_rules=True)


def _wrong_predicates(rule: Rule, page: int) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    function = rule.broken
    assert isinstance(function, types.FunctionType)
    for before, after, code in alterations(_code_of(function), (1, page)):
        yield before, after, _built(code, function)


def _code_of(function: types.FunctionType) -> ast.AST:
    """Return the code of a function or lambda of the rules' module."""
    first = function.__code__.co_firstlineno
    (code,) = (
        node
        for node in ast.walk(ast.parse(inspect.getsource(rules)))
        if isinstance(node, ast.Lambda | ast.FunctionDef) and node.lineno == first
    )
    if isinstance(code, ast.FunctionDef):
        code.returns = None
        for argument in code.args.args:
            argument.annotation = None
    return code


def _built(code: ast.AST, function: types.FunctionType) -> Callable[..., Any]:
    """Compile altered code where the original stood, with the variables it closed over."""
    closed = dict(
        zip(
            function.__code__.co_freevars,
            (cell.cell_contents for cell in function.__closure__ or ()),
            strict=True,
        )
    )
    names = ", ".join(closed)
    body = ast.unparse(code)
    if isinstance(code, ast.Lambda):
        text = f"def _outer({names}):\n    return {body}"
    else:
        lines = body.replace("\n", "\n    ")
        text = f"def _outer({names}):\n    {lines}\n    return {function.__name__}"
    space = dict(vars(rules))
    exec(compile(text, "<a wrong model>", "exec"), space)  # noqa: S102 - our own code, altered
    built: Callable[..., Any] = space["_outer"](**closed)
    return built


# ---- effects ----------------------------------------------------------------------------------

FORMULAS = (
    "shown_after _stat _statm _status code_size page_end executable_bytes labelled overlaps_heap "
    "touches_heap read _grow _is_too_near _cmdline _environ _auxv brk_after _moved "
    "_moved_pages _shrunk _without _grown _first_use _joins is_data"
).split()
"""The functions of `kernel/effects.py` that work something out."""

WHOLE_PAGES = frozenset(
    "_grow _is_too_near _moved_pages _shrunk _without _grown _first_use".split()
)
"""Those that compare whole pages: a bound is moved by a page; by one byte, nobody could tell."""


def wrong_effects(facts: Facts) -> Iterator[WrongModel]:
    """Yield every wrong model whose effects differ from ours."""
    ours = specification(facts)
    tree = ast.parse(inspect.getsource(effects))
    other = "overlaps_heap" if facts.touching_heap_labelled else "touches_heap"
    for name in FORMULAS:
        if name == other:
            continue  # of another kernel
        (code,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
        distances = (facts.page_size,) if name in WHOLE_PAGES else (1, facts.page_size)
        for before, after, altered in alterations(code, distances):
            space = _with_function(altered, is_method=name in vars(effects._Space))
            model = replace(
                ours, name=f"{name}: {before} -> {after}",
                shown_after=space["shown_after"], brk_after=space["brk_after"],
            )  # fmt: skip
            yield WrongModel(name, before, after, model, of_rules=False)


def _with_function(altered: ast.AST, *, is_method: bool) -> dict[str, Any]:
    """Return the names of the effects' module with one function altered, for all that use it."""
    space = dict(vars(effects))
    for name, member in vars(effects).items():
        if isinstance(member, types.FunctionType) and member.__module__ == effects.__name__:
            space[name] = types.FunctionType(member.__code__, space, name, member.__defaults__)
    assert isinstance(altered, ast.FunctionDef)
    exec(compile(ast.Module([altered], []), "<a wrong model>", "exec"), space)  # noqa: S102 - ours
    if is_method:
        method = space.pop(altered.name)
        space["_Space"] = type("_Space", (effects._Space,), {altered.name: method})
    return space


# ---- proofs -----------------------------------------------------------------------------------


def _proof_of_swap(rule: Rule, following: Rule, facts: Facts) -> str:
    numbers = rule.errno_on(facts), following.errno_on(facts)
    if numbers[0] == numbers[1]:
        return f"both refuse with {errno_name(numbers[0])}: the answer is that of either"
    return _proof(
        "no call breaks both", facts, (rule, following),
        lambda s: not (rule.broken(s, facts) and following.broken(s, facts)),
    )  # fmt: skip


def _proof_of_absence(rule: Rule, facts: Facts) -> str:
    return _proof(
        "on this kernel it refuses no call", facts, (rule,), lambda s: not rule.broken(s, facts)
    )


def _proof_of_equality(rule: Rule, other: Rule, facts: Facts) -> str:
    return _proof(
        "the same for all values of what it reads", facts, (rule,),
        lambda s: bool(rule.broken(s, facts)) == bool(other.broken(s, facts)),
    )  # fmt: skip


def _proof_by_partner(wrong: WrongModel, rule: Rule, facts: Facts) -> str:
    """Prove that where an altered bound lets an address pass, its partner is refused anyway.

    All rules up to the auxiliary vector's refuse with one errno, so it is enough that the two
    models agree on every pair of boundary values, all other members being in order.
    """
    (member, *more) = rule.members or ("",)
    if more or member not in PAIRS:
        return ""
    values = np.array(_boundary_values(f"map.{member}", facts), np.uint64)
    table = table_of(_ORDERLY, values.size**2)
    table[member] = np.repeat(values, values.size)
    table[PAIRS[member]] = np.tile(values, values.size)
    situation, ours = Situation(map=columns_of(table)), specification(facts).rules
    verdicts = (predict(situation, facts, table.size, rules) for rules in (ours, wrong.model.rules))
    return _unless(bool(np.not_equal(*verdicts).any()), f"{PAIRS[member]} is refused instead")


PAIRS = {member: partner for pair in PARTNERS.items() if "start_stack" not in pair
         for member, partner in (pair, pair[::-1])}  # fmt: skip

_ORDERLY = PrctlMmMap(**{
    member: (1 << 30) + (member in ("end_code", "end_data", "brk", "arg_end", "env_end"))
    for member in ADDRESSES
})  # fmt: skip
"""A map that breaks no rule."""


def _unless(refuted: bool, reason: str) -> str:
    return "" if refuted else f"{reason}: tried at every boundary and beside it"


def _proof(
    reason: str, facts: Facts, tried: Iterable[Rule], holds: Callable[[Situation], bool]
) -> str:
    """Return the reason if it holds for every boundary value of what the rules read, else "".

    A comparison changes its truth value only at a boundary, so these decide for all others.
    """
    noted: dict[str, None] = {}
    for rule in tried:
        rule.broken(_Reads("", noted), facts)  # type: ignore[arg-type]
    domains = [_boundary_values(path, facts) for path in noted]
    if math.prod(map(len, domains)) > MOST_CASES:
        return ""
    for values in itertools.product(*domains):
        if not holds(_situation(dict(zip(noted, values, strict=True)))):
            return ""
    return _unless(False, reason)


MOST_CASES = 100_000


class _Reads:
    """Stands for a situation and notes what a rule reads of it."""

    def __init__(self, path: str, noted: dict[str, None]) -> None:
        self._path, self._noted = path, noted

    def __getattr__(self, name: str) -> Any:
        path = f"{self._path}{name}"
        if path in ("map", "exe"):
            return _Reads(f"{path}.", self._noted)
        self._noted[path] = None
        return 1


def _boundary_values(path: str, facts: Facts) -> tuple[Any, ...]:
    if path == "capabilities":
        return (0, 1, facts.exe_capabilities, U64 ^ facts.exe_capabilities, U64,
                *(1 << bit for bit in range(64) if facts.exe_capabilities >> bit & 1))  # fmt: skip
    if path not in ("size", "arg5", "rlimit_data") and not path.startswith("map."):
        return False, True
    top = U32 if path in ("map.auxv_size", "map.exe_fd") else U64
    bounds = (0, facts.lowest, facts.highest, facts.auxv_capacity, facts.map_size, top)
    steps = (-facts.page_size, -1, 0, 1, facts.page_size)
    return tuple(sorted({b + s for b in bounds for s in steps if 0 <= b + s <= top}))


def _situation(values: dict[str, Any]) -> Situation:
    """Return a situation with these parts; whatever else it has does not matter."""
    parts: dict[str, dict[str, Any]] = {"": {}, "map": {}, "exe": {}}
    for path, value in values.items():
        group, _, name = path.rpartition(".")
        parts[group][name] = value
    exe = ExeFile(**parts["exe"])
    return Situation(map=PrctlMmMap(**parts["map"]), exe=exe, **parts[""])


# ---- the examination --------------------------------------------------------------------------


def all_wrong_models() -> tuple[WrongModel, ...]:
    """Return every wrong model of this kernel: of the rules, then of the effects."""
    facts = facts_here()
    return (*wrong_rules(facts), *wrong_effects(facts))


def examine(
    calls: int = 1_000_000,
    *,
    seconds: float | None = None,
    seed: int | None = None,
    on_progress: Callable[[Examination], None] | None = None,
) -> Examination:
    """Let `fuzz` loose on every wrong model, and return what caught each.

    Half of the calls are made in masses and held against the wrong rules, the others are made one
    by one and held against the wrong effects; no more are made than it takes to catch them all.
    A KeyboardInterrupt ends it, with what was found so far.

    Equivalent: `prctlmm-lab fuzz --wrong-models`.

    Raises SpecimenError if a specimen ends, UnsupportedSystem for what was not recorded.
    """
    facts = facts_here()
    if mode.is_recorded():
        line = store.shipped().asked("examination", {"calls": calls, "seconds": seconds})
        return Examination(**{**line, "origin": store.shipped().origin})
    tally = Tally(facts.release, new_seed() if seed is None else seed)
    result = Examination(facts.release, tally.seed)
    started, models = time.monotonic(), all_wrong_models()
    of_rules = _Alive([m for m in models if m.of_rules], result)
    of_effects = _Alive([m for m in models if not m.of_rules], result)

    def is_over(alive: _Alive, most: int) -> bool:
        result.seconds = time.monotonic() - started
        if on_progress is not None:
            on_progress(result)
        late = seconds is not None and result.seconds >= seconds
        return late or not alive.models or result.calls >= most

    try:
        for batch in batches(tally, max(100, calls // 2 // places_in_a_round())):
            of_rules.drop_caught(partial(_caught_by_batch, batch, facts))
            result.calls += batch.table.size + len(batch.singles)
            if is_over(of_rules, calls // 2):
                break
        for watch in watched(tally):
            of_effects.drop_caught(partial(_caught_by_map, watch, facts))
            result.calls += 1
            result.watched += watch.errno == 0
            if is_over(of_effects, calls):
                break
    except KeyboardInterrupt:
        result.interrupted = True
    result.seconds = time.monotonic() - started
    result.escaped = [wrong.id for wrong in (*of_rules.models, *of_effects.models)]
    return result


class _Alive:
    """The wrong models that nothing has caught yet."""

    def __init__(self, models: list[WrongModel], result: Examination) -> None:
        self.result = result
        self.models = []
        for wrong in models:
            if wrong.proof:
                result.proved[wrong.id] = wrong.proof
            else:
                self.models.append(wrong)

    def drop_caught(self, caught: Callable[[Model], tuple[int, str] | None]) -> None:
        left = []
        for wrong in self.models:
            found = caught(wrong.model)
            if found is None:
                left.append(wrong)
                continue
            number, evidence = found
            self.result.caught[wrong.id] = evidence
            self.result.caught_after[wrong.id] = self.result.calls + number
        self.models = left


def _caught_by_batch(batch: Batch, facts: Facts, model: Model) -> tuple[int, str] | None:
    predicted = predict(batch.situation, facts, batch.table.size, model.rules)
    rows = np.flatnonzero(predicted != batch.errnos)
    if rows.size:
        row = int(rows[0])
        what = _changes(batch.place.marks.own, map_at(batch.table, row))
        return row + 1, _evidence(what, batch.place, predicted[row], batch.errnos[row])
    for number, single in enumerate(wrong_singles(batch, model, facts), batch.table.size + 1):
        s = single.situation
        said = explain(s, facts, model.rules).errno
        what = f"size {s.size:#x}, arg5 {s.arg5:#x}, struct readable: {bool(s.struct_readable)}"
        return number, _evidence(what, batch.place, said, single.errno)
    return None


def _caught_by_map(watch: Watched, facts: Facts, model: Model) -> tuple[int, str] | None:
    try:
        with _time_limit():
            answers = what_differs(watch, model, facts)
            found = answers and f"{answers[0]} predicted, {answers[1]} by the kernel"
    except Exception as error:  # whatever nonsense an altered formula leads to
        found = f"{type(error).__name__}: {error}"
    if not found:
        return None
    what = _changes(watch.place.marks.own, watch.map)
    return 1, f"{printable(found)}; {what}; {watch.place.scenario.name}"


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise TimeoutError in a formula that, altered, does not end within a second."""

    def too_long(_number: int, _frame: object) -> None:
        raise TimeoutError("no answer within a second")

    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _changes(own: PrctlMmMap, new: PrctlMmMap) -> str:
    names = [f"{name} {value:#x}" for name, value in new if value != getattr(own, name)]
    names = names or ["a map that changes nothing"]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _evidence(what: str, place: Place, said: int, kernel: int) -> str:
    answers = [errno_name(int(number)) if number else "accepted" for number in (said, kernel)]
    where = f"{place.scenario.name}, RLIMIT_DATA {place.limit}"
    return f"{answers[0]} predicted, {answers[1]} by the kernel; {what}; {where}"
