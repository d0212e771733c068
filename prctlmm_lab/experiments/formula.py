"""Symbolic values: `end_data - 8`, `arena.start + 15`. A small grammar over ast, never eval.

A formula is whole numbers, names, `+ - * // % << >> & |`, brackets, and the functions `page_up`
and `page_down`, which round to a multiple of the name `page`, or of 4096 where it has no value.
What is not in the grammar is refused by name and place. Precedence is Python's.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from prctlmm_lab.errors import InputError

Value = int | str
"""A number, or the text of a formula."""
Lookup = Callable[[str], int | None]
"""From a name to its value, None for a name that it does not know.

It may raise LookupError with the reason why a name that it does know has no value now.
"""

N = TypeVar("N")
"""An int, or a numpy column of them."""

LONGEST = 200
"""Characters of the longest formula, which also bounds how deep one can nest."""
_WIDEST = 1 << 80
_USUAL_PAGE = 4096

_BINARY: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_FUNCTIONS: Mapping[str, Callable[[int, int], int]] = {
    "page_up": lambda address, page: -(-address // page) * page,
    "page_down": lambda address, page: address // page * page,
}
_GRAMMAR = "numbers, names, + - * // % << >> & |, brackets, page_up() and page_down()"
# A number that runs into a letter or a point would make ast.parse warn, so it is kept from it.
_TOKENS = re.compile(r"(?: |[0-9]\w*+(?!\.)|[A-Za-z_]\w*+|<<|>>|[-+*/%&|().])+", re.ASCII)


def evaluate(value: Value, lookup: Lookup, where: str, names: Iterable[str] = ()) -> int:
    """Return the number that a value stands for; `//` and `%` round down, as in Python.

    `names` are suggestions for a name that `lookup` does not know.

    >>> evaluate("end_data - 8", {"end_data": 0x402048}.get, "change.arg_start") == 0x402040
    True
    >>> evaluate("__import__('os')", {}.get, "change.brk")
    Traceback (most recent call last):
    ...
    prctlmm_lab.errors.InputError: change.brk: "__import__('os')" is not a formula; expected ...

    Raises InputError, with `where` in it, for anything outside the grammar, an unknown name, a
    division by zero, a shift by more than 64 bits, or a number beyond 80 bits.
    """
    number: int = evaluate_columns(value, lookup, where, names)
    return number


def evaluate_columns(
    value: Value, lookup: Callable[[str], Any], where: str, names: Iterable[str] = ()
) -> Any:
    """Evaluate a formula whose names may stand for numpy columns of Python ints (dtype object).

    Every row comes to exactly what `evaluate` would say of it; a formula that names no column is
    one number.

    >>> import numpy as np
    >>> brk = np.array([0x5000, 2**64 - 1], object)
    >>> evaluate_columns("page_up(brk) + 1", {"brk": brk}.get, "").tolist() == [0x5001, 2**64 + 1]
    True

    Raises InputError as `evaluate`, if it would for any row.
    """
    if isinstance(value, str):
        return _number(parse(value, where), _Meaning(value, lookup, where, tuple(names)))
    return _literal(value, where)


def names_of(value: Value, where: str) -> frozenset[str]:
    """Return the names that a value refers to; what they stand for need not be known.

    >>> sorted(names_of("arena.start + page_up(brk)", ""))
    ['arena.start', 'brk']

    Raises InputError for anything outside the grammar.
    """
    if isinstance(value, str):
        form = _Form(value, where)
        _number(parse(value, where), form)
        return frozenset(form.names)
    _literal(value, where)
    return frozenset()


def _literal(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(where, "is not a whole number or a formula", shorten(value),
                         'such as 4096, 0x1000 or "end_data - 8"')  # fmt: skip
    return _bounded(value, where)


def parse(text: str, where: str) -> ast.expr:
    """Parse a formula's text into an expression, of which only the characters are checked yet.

    Raises InputError for text that is empty, too long, or no expression.
    """
    if len(text) > LONGEST:
        raise InputError(where, "characters are too many for a formula", str(len(text)),
                         f"at most {LONGEST}")  # fmt: skip
    try:
        if not _TOKENS.fullmatch(text):
            raise ValueError
        for number in re.findall(r"\b[0-9]\w*", text):
            int(number, 0)
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(where, "is not a formula", shorten(text), _GRAMMAR) from None


class _Form:
    """What the parts of a formula come to if only its form is looked at: all numbers are 0."""

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where = text, where
        self.names: list[str] = []

    def refusal(self) -> InputError:
        return InputError(self.where, "is not a formula", shorten(self.text), _GRAMMAR)

    def named(self, name: str) -> int:
        self.names.append(name)
        return 0

    def applied(self, _sign: type[ast.operator], _left: int, _right: int) -> int:
        return 0

    def rounded(self, _function: str, _number: int) -> int:
        return 0


class _Meaning(_Form):
    """What the parts of a formula come to by the values of its names."""

    def __init__(
        self, text: str, lookup: Callable[[str], Any], where: str, known: tuple[str, ...]
    ) -> None:
        super().__init__(text, where)
        self.lookup, self.known = lookup, known

    def named(self, name: str) -> int:
        try:
            number: int | None = self.lookup(name)
        except LookupError as error:
            raise InputError(self.where, str(error.args[0]), shorten(name)) from None
        if number is None:
            raise unknown_name(name, self.where, self.known)
        return number

    def applied(self, sign: type[ast.operator], left: int, right: int) -> int:
        low, high = extremes(right)
        if sign in (ast.FloorDiv, ast.Mod) and low <= 0 <= high and _has_zero(right):
            raise InputError(self.where, "divides by zero", shorten(self.text))
        if sign in (ast.LShift, ast.RShift) and not 0 <= low <= high <= 64:
            wrong = low if low < 0 else high
            raise InputError(self.where, "is not a shift", hex(wrong), "0 to 64 bits")
        return _bounded(_BINARY[sign](left, right), self.where)

    def rounded(self, function: str, number: int) -> int:
        page = self.lookup("page") or _USUAL_PAGE
        return _bounded(_FUNCTIONS[function](number, page), self.where)


def _number(node: ast.expr, form: _Form) -> int:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return _bounded(number, form.where)
        case ast.Name(id=name):
            return form.named(name)
        case ast.Attribute(value=ast.Name(id=name), attr=attribute):
            return form.named(f"{name}.{attribute}")
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _number(operand, form)
            return -number if isinstance(sign, ast.USub) else number
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return form.applied(type(sign), _number(left, form), _number(right, form))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return form.rounded(name, _number(argument, form))
    raise form.refusal()


def _bounded(number: N, where: str) -> N:
    for end in extremes(number):
        if not -_WIDEST < end < _WIDEST:
            raise InputError(where, "is too large", shorten(end), "at most 64 bits")
    return number


def extremes(number: Any) -> tuple[int, int]:
    """Return the smallest and the largest number of a column; one number is both."""
    return (number, number) if isinstance(number, int) else (number.min(), number.max())


def _has_zero(number: Any) -> bool:
    return number == 0 if isinstance(number, int) else bool((number == 0).any())


def unknown_name(name: str, where: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that nothing defines, with the nearest one that is known."""
    names = sorted(known)
    short = [name for name in names if "." not in name]
    return InputError(where, "is not a known name", shorten(name), suggestion(name, names, short))


def suggestion(name: str, known: Iterable[str], shown: Iterable[str] | None = None) -> str:
    """Return what may have been meant: the nearest name, or else all there are (or are `shown`).

    >>> suggestion("end_dta", ["end_code", "end_data"]), suggestion("?", ["brk", "auxv"])
    ('end_data?', 'one of brk, auxv')
    """
    names = list(known)
    near = get_close_matches(name, names, n=1)
    return f"{near[0]}?" if near else f"one of {', '.join(names if shown is None else shown)}"


def shorten(value: object) -> str:
    """Quote a value from outside for a message: printable, at most 80 characters."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return hex(value) if value.bit_length() < 200 else f"a number of {value.bit_length()} bits"
    try:
        quoted = repr(value)
    except (RecursionError, ValueError):  # nested as deep, or a number in it as long, as data can
        quoted = "something too large to show"
    return quoted if len(quoted) <= 80 else quoted[:77] + "..."


def printable(text: str) -> str:
    r"""Return text in which what a terminal would act on stands as an escape.

    >>> print(printable("naïve \x1b[31m"))
    naïve \x1b[31m
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_RESERVED = frozenset({"before", *_FUNCTIONS, *keyword.kwlist})


def check_name(name: object, where: str, taken: Iterable[str] = ()) -> str:
    """Return a name that a recipe gives to something, if it may have it.

    Raises InputError for what is no name, is taken, or means something else in a formula.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(where, "is not a name", shorten(name),
                         "a small letter, then small letters, digits and _")  # fmt: skip
    if name in _RESERVED or name in taken:
        raise InputError(where, "is taken already", shorten(name), "another name")
    return name
