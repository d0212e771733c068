"""Values on their way between here and a guest: what goes over the line as JSON, and back.

Both ends run the same source. Only the classes that are listed here are made of what comes in, by
their own constructors; nothing is evaluated.

>>> from prctlmm_lab.kernel.abi import PrctlMmMap
>>> received(sent((PrctlMmMap(brk=4096), {1: b"two"})))[1]
{1: b'two'}
"""

from __future__ import annotations

import base64
import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from importlib import import_module
from typing import Any

from prctlmm_lab import errors
from prctlmm_lab.errors import InputError, LabError

_HOMES = {
    "experiments.axes": "Axis Sweep",
    "experiments.causes": "Cause",
    "experiments.comparison": "Difference",
    "experiments.conformance": "CaseResult",
    "experiments.differential": "Disagreement Tally",
    "experiments.experiment": "Call Experiment Subject",
    "experiments.record": "Agreement Answer Outcome Prediction Privilege Record Request View",
    "experiments.replay": "Replayed",
    "experiments.swept": "Boundary SweptCall",
    "experiments.claims.claim": "Verdict",
    "kernel.abi": "PrctlMmMap",
    "kernel.facts": "Facts",
    "kernel.procfs": "Limit",
    "restore.equality": "Row",
    "specimen.probe": "Check Diagnosis Environment",
}
"""The modules and their classes that may go over the line, beside the steps of experiments."""
_PLAIN = (bool, int, float, str, type(None))


def sent(value: Any) -> Any:
    """Return a value as JSON has it.

    Raises InputError for what cannot go over the line.
    """
    if type(value) in _PLAIN:
        return value
    if type(value) is list:
        return [*map(sent, value)]
    for tag, fits, form in _FORMS:
        if fits(value):
            return {tag: form(value)}
    raise InputError("guest", "cannot be sent to a guest", type(value).__name__)


def received(told: Any) -> Any:
    """Return the value that was sent.

    Raises InputError for what `sent` never makes.
    """
    if isinstance(told, list):
        return [*map(received, told)]
    if not isinstance(told, dict):
        return told
    try:
        ((tag, form),) = told.items()
        return _BACK[tag](form)
    except (ArithmeticError, AttributeError, KeyError, LookupError, TypeError, ValueError) as wrong:
        if isinstance(wrong, LabError):
            raise
        raise InputError("guest", "sent what nobody can read", repr(wrong)[:80]) from None


# ---- dataclasses ------------------------------------------------------------------------------


@cache
def _classes() -> frozenset[str]:
    """Return the classes that may go over the line, by their places in this package."""
    from prctlmm_lab.experiments.steps import STEPS

    known = {f"{module}.{name}" for module, names in _HOMES.items() for name in names.split()}
    return frozenset(known | {_place(kind) for kind in STEPS.values()})


def _place(kind: type) -> str:
    return f"{kind.__module__.removeprefix('prctlmm_lab.')}.{kind.__name__}"


def _class(place: str) -> Any:
    """Return a class that may go over the line."""
    if place not in _classes():
        raise KeyError(place)
    module, _, name = place.rpartition(".")
    return getattr(import_module(f"prctlmm_lab.{module}"), name)


def _is_known(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and _place(type(value)) in _classes()


def _from_instance(value: Any) -> list[Any]:
    fields = {f.name: sent(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    return [_place(type(value)), fields]


def _to_instance(form: Any) -> Any:
    place, fields = form
    return _class(place)(**{field: received(told) for field, told in fields.items()})


# ---- what needs a way of its own ----------------------------------------------------------------


def _is_named(name: str) -> Callable[[Any], bool]:
    """Return a test for instances of a class that may not be loaded yet."""
    return lambda value: f"{type(value).__module__}.{type(value).__name__}" == name


def _from_finding(finding: Any) -> dict[str, Any]:
    """Send a claim by its id: its test is a function, which both ends have."""
    names = ("verdict", "evidence", "expected", "records", "origin")
    return {name: sent(getattr(finding, name)) for name in names} | {"claim": finding.claim.id}


def _to_finding(form: Any) -> Any:
    from prctlmm_lab.experiments.claims import CLAIM, Finding

    parts = {name: received(told) for name, told in form.items() if name != "claim"}
    return Finding(claim=CLAIM[form["claim"]], **parts)


def _from_swept(result: Any) -> dict[str, Any]:
    """Send a sweep's result without the rules: they follow from the facts."""
    return {f.name: sent(getattr(result, f.name)) for f in dataclasses.fields(result)
            if f.name != "rules"}  # fmt: skip


def _to_swept(form: Any) -> Any:
    from prctlmm_lab.experiments.swept import SweepResult
    from prctlmm_lab.kernel.rules import rules_of

    parts = {name: received(told) for name, told in form.items()}
    return SweepResult(rules=rules_of(parts["facts"]), **parts)


def _is_array(value: Any) -> bool:
    return "numpy" in sys.modules and isinstance(value, sys.modules["numpy"].ndarray)


def _from_array(value: Any) -> list[Any]:
    return [value.dtype.str, [*value.shape], base64.b64encode(value.tobytes()).decode()]


def _to_array(form: Any) -> Any:
    import numpy as np

    kind, shape, data = form
    if np.dtype(kind).kind not in "biuf":
        raise ValueError(kind)
    return np.frombuffer(base64.b64decode(data, validate=True), kind).reshape(shape).copy()


def _from_error(error: LabError) -> list[Any]:
    kind, parts = error.__reduce__()[:2]
    return [kind.__name__, [*map(sent, parts)]]


def _to_error(form: Any) -> LabError:
    name, parts = form
    if name == "SetupError":
        from prctlmm_lab.experiments.experiment import SetupError

        return SetupError(*map(received, parts))
    if name not in errors.__all__:
        raise KeyError(name)
    made: LabError = getattr(errors, name)(*map(received, parts))
    return made


_FORMS: tuple[tuple[str, Callable[[Any], bool], Callable[[Any], Any]], ...] = (
    ("tuple", lambda v: type(v) is tuple, lambda v: [*map(sent, v)]),
    ("bytes", lambda v: type(v) is bytes, lambda v: base64.b64encode(v).decode()),
    ("set", lambda v: type(v) is frozenset, lambda v: [*map(sent, v)]),
    ("counter", lambda v: type(v) is Counter, lambda v: [[sent(k), n] for k, n in v.items()]),
    ("dict", lambda v: isinstance(v, Mapping), lambda v: [[*map(sent, kx)] for kx in v.items()]),
    ("error", lambda v: isinstance(v, LabError), _from_error),
    ("enum", lambda v: isinstance(v, Enum), lambda v: [_place(type(v)), v.name]),
    ("finding", _is_named("prctlmm_lab.experiments.claims.claim.Finding"), _from_finding),
    ("swept", _is_named("prctlmm_lab.experiments.swept.SweepResult"), _from_swept),
    ("array", _is_array, _from_array),
    ("made", _is_known, _from_instance),
)  # fmt: skip

_BACK: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda form: tuple(map(received, form)),
    "bytes": lambda form: base64.b64decode(form, validate=True),
    "set": lambda form: frozenset(map(received, form)),
    "counter": lambda form: Counter({received(k): n for k, n in form}),
    "dict": lambda form: {received(k): received(v) for k, v in form},
    "error": _to_error,
    "enum": lambda form: _class(form[0])[form[1]],
    "finding": _to_finding,
    "swept": _to_swept,
    "array": _to_array,
    "made": _to_instance,
}
