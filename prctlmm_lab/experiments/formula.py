"""Symbolic values: `end_data - 8`, `arena.start + 15`. A small grammar over ast, never eval.

A formula is whole numbers, names, `+ - * // % << >> & |`, brackets, and the functions `page_up`
and `page_down`, which round to a page. What is not in the grammar is refused by name and place.
"""

from __future__ import annotations

import ast
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches

from prctlmm_lab.errors import InputError

Value = int | str
"""A number, or the text of a formula."""
Lookup = Callable[[str], int | None]
"""From a name to its value, None for a name that it does not know."""

LONGEST = 500
"""Characters of the longest formula."""
_WIDEST = 1 << 80
_PAGE = os.sysconf("SC_PAGE_SIZE")

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
_FUNCTIONS: Mapping[str, Callable[[int], int]] = {
    "page_up": lambda address: -(-address // _PAGE) * _PAGE,
    "page_down": lambda address: address // _PAGE * _PAGE,
}
_GRAMMAR = "numbers, names, + - * // % << >> & |, brackets, page_up() and page_down()"


def evaluate(value: Value, lookup: Lookup, where: str, names: Iterable[str] = ()) -> int:
    """Return the number that a value stands for.

    `names` are suggestions for a name that `lookup` does not know.

    >>> evaluate("end_data - 8", {"end_data": 0x402048}.get, "change.arg_start") == 0x402040
    True
    >>> evaluate("__import__('os')", {}.get, "change.brk")
    Traceback (most recent call last):
    ...
    prctlmm_lab.errors.InputError: change.brk: "__import__('os')" is not a formula; expected ...

    Raises InputError, with `where` in it, for anything outside the grammar, an unknown name, a
    division by zero, or a number beyond 80 bits.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(where, "is not a whole number or a formula", shorten(value),
                         'such as 4096, 0x1000 or "end_data - 8"')  # fmt: skip
    if isinstance(value, int):
        return _bounded(value, where)
    return _number(parse(value, where), _Scope(value, lookup, where, tuple(names)))


def names_of(value: Value, where: str) -> frozenset[str]:
    """Return the names that a value refers to.

    >>> sorted(names_of("arena.start + page_up(brk)", ""))
    ['arena.start', 'brk']
    """
    if not isinstance(value, str):
        return frozenset()
    return frozenset(_names(parse(value, where)))


def parse(text: str, where: str) -> ast.expr:
    """Parse a formula's text into an expression, not yet checked.

    Raises InputError for text that is empty, too long, or no expression.
    """
    if len(text) > LONGEST:
        raise InputError(where, "characters are too many for a formula", str(len(text)),
                         f"at most {LONGEST}")  # fmt: skip
    if not text.isascii() or not text.isprintable():
        raise InputError(where, "holds a character that no formula has", shorten(text), _GRAMMAR)
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(where, "is not a formula", shorten(text), _GRAMMAR) from None


class _Scope:
    def __init__(self, text: str, lookup: Lookup, where: str, names: tuple[str, ...]) -> None:
        self.text, self.lookup, self.where, self.names = text, lookup, where, names

    def refuse(self) -> InputError:
        return InputError(self.where, "is not a formula", shorten(self.text), _GRAMMAR)


def _number(node: ast.expr, scope: _Scope) -> int:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return _bounded(number, scope.where)
        case ast.Name() | ast.Attribute():
            return _named(node, scope)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _number(operand, scope)
            return -number if isinstance(sign, ast.USub) else number
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _applied(type(sign), _number(left, scope), _number(right, scope), scope)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](_number(argument, scope)), scope.where)
    raise scope.refuse()


def _applied(sign: type[ast.operator], left: int, right: int, scope: _Scope) -> int:
    if sign in (ast.FloorDiv, ast.Mod) and right == 0:
        raise InputError(scope.where, "divides by zero", shorten(scope.text))
    if sign in (ast.LShift, ast.RShift) and not 0 <= right <= 64:
        raise InputError(scope.where, "is not a shift", hex(right), "0 to 64 bits")
    return _bounded(_BINARY[sign](left, right), scope.where)


def _bounded(number: int, where: str) -> int:
    if not -_WIDEST < number < _WIDEST:
        shown = (
            hex(number) if number.bit_length() < 200 else f"a number of {number.bit_length()} bits"
        )
        raise InputError(where, "is too large", shown, "at most 64 bits")
    return number


def _named(node: ast.expr, scope: _Scope) -> int:
    name = _dotted(node)
    if name is None:
        raise scope.refuse()
    number = scope.lookup(name)
    if number is None:
        near = get_close_matches(name, scope.names, n=1)
        hint = f"{near[0]}?" if near else f"one of {', '.join(sorted(scope.names))}"
        raise InputError(scope.where, "is not a known name", repr(name)[:80], hint)
    return number


def _dotted(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=name), attr=attribute):
            return f"{name}.{attribute}"
    return None


def _names(node: ast.expr) -> Iterable[str]:
    name = _dotted(node)
    if name is not None:
        return [name]
    called = node.func if isinstance(node, ast.Call) else None
    parts = (n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr) and n is not called)
    return [name for part in parts for name in _names(part)]


def shorten(value: object) -> str:
    """Quote a value from outside for a message: printable, at most 80 characters."""
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value) if value.bit_length() < 200 else f"a number of {value.bit_length()} bits"
    quoted = ascii(value)
    return quoted if len(quoted) <= 80 else quoted[:77] + "..."


_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def check_name(name: object, where: str, taken: Iterable[str] = ()) -> str:
    """Return a name that a recipe gives to something, if it may have it.

    Raises InputError for what is no name or is taken.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(where, "is not a name", shorten(name),
                         "a small letter, then small letters, digits and _")  # fmt: skip
    if name in taken:
        raise InputError(where, "is taken already", repr(name), "another name")
    return name
