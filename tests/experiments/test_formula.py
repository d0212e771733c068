"""Formulas: what they come to, held against two other evaluations, and all that they refuse."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import (
    LONGEST,
    check_name,
    evaluate,
    names_of,
    printable,
    shorten,
    suggestion,
)

PAGE = os.sysconf("SC_PAGE_SIZE")
NAMES = {
    "brk": 0x2000000,
    "end_data": 0x402048,
    "page": PAGE,
    "nothing": 0,
    "arena.start": 0x7F00_0000_1000,
    "arena.length": 3 * PAGE,
    "before.brk": 0x1FFFFFF,
}
GRAMMAR = "numbers, names, + - * // % << >> & |, brackets, page_up() and page_down()"


def problem(text: object, names: Mapping[str, int] = NAMES) -> str:
    with pytest.raises(InputError) as refused:
        evaluate(text, names.get, "change.brk", names)  # type: ignore[arg-type]
    return str(refused.value)


# ---- what a formula comes to --------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """An expression: how it is written, how tightly it binds, its value and its names.

    The value is None where a number on the way leaves 80 bits, a divisor is 0 or a shift is not
    between 0 and 64.
    """

    text: str
    binding: int
    value: int | None
    names: frozenset[str] = frozenset()


def _division(left: int, right: int) -> int | None:
    return None if right == 0 else math.floor(Fraction(left, right))


def _remainder(left: int, right: int) -> int | None:
    return None if right == 0 else left - right * math.floor(Fraction(left, right))


def _left_shift(left: int, right: int) -> int | None:
    return left * 2**right if 0 <= right <= 64 else None


def _right_shift(left: int, right: int) -> int | None:
    return math.floor(Fraction(left, 2**right)) if 0 <= right <= 64 else None


def _bits(choose: Callable[[int, int], int]) -> Callable[[int, int], int]:
    """Combine two's complement numbers bit by bit, on 128 bits."""

    def combine(left: int, right: int) -> int:
        bits = [choose(left >> place & 1, right >> place & 1) for place in range(128)]
        number = sum(bit << place for place, bit in enumerate(bits))
        return number - (1 << 128) if bits[-1] else number

    return combine


OPERATORS: dict[str, tuple[int, Callable[[int, int], int | None]]] = {
    "|": (1, _bits(max)),
    "&": (2, _bits(min)),
    "<<": (3, _left_shift),
    ">>": (3, _right_shift),
    "+": (4, lambda left, right: left + right),
    "-": (4, lambda left, right: left - right),
    "*": (5, lambda left, right: left * right),
    "//": (5, _division),
    "%": (5, _remainder),
}
"""Each operator with how tightly it binds, as Python's reference orders them."""


def _bounded(value: int | None) -> int | None:
    return None if value is None or abs(value) >= 1 << 80 else value


def _literal(number: int, style: str) -> Tree:
    return Tree(format(number, style), 7, number)


def _bracketed(tree: Tree, needed: bool) -> str:
    return f"( {tree.text})" if needed else tree.text


def _combined(left: Tree, sign: str, right: Tree, space: str, more: bool) -> Tree:
    binding, apply = OPERATORS[sign]
    texts = (
        _bracketed(left, more or left.binding < binding),
        _bracketed(right, more or right.binding <= binding),
    )
    known = left.value is not None and right.value is not None
    value = apply(left.value, right.value) if known else None  # type: ignore[arg-type]
    text = f"{texts[0]}{space}{sign}{space}{texts[1]}"
    return Tree(text, binding, _bounded(value), left.names | right.names)


def _signed(sign: str, tree: Tree) -> Tree:
    value = tree.value if sign == "+" or tree.value is None else -tree.value
    return Tree(sign + _bracketed(tree, tree.binding < 6), 6, value, tree.names)


def _rounded(function: str, tree: Tree) -> Tree:
    value = None
    if tree.value is not None:
        pages = Fraction(tree.value, PAGE)
        value = (math.ceil(pages) if function == "page_up" else math.floor(pages)) * PAGE
    return Tree(f"{function}({tree.text})", 7, _bounded(value), tree.names)


numbers = st.one_of(
    st.integers(0, 70), st.sampled_from([PAGE, PAGE - 1]), st.integers(0, (1 << 80) - 1)
)
leaves = st.one_of(
    st.builds(_literal, numbers, st.sampled_from(["d", "#x", "#o", "#b", "_"])),
    st.sampled_from([Tree(name, 7, value, frozenset({name})) for name, value in NAMES.items()]),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(
            _combined, inner, st.sampled_from(sorted(OPERATORS)), inner,
            st.sampled_from(["", " ", "  "]), st.booleans(),
        ),
        st.builds(_signed, st.sampled_from("+-"), inner),
        st.builds(_rounded, st.sampled_from(["page_up", "page_down"]), inner),
    ),
    max_leaves=8,
)  # fmt: skip


def _python(text: str) -> int:
    """Let Python itself evaluate a formula that the test has made."""
    names: dict[str, object] = {name: value for name, value in NAMES.items() if "." not in name}
    names["arena"] = SimpleNamespace(start=NAMES["arena.start"], length=NAMES["arena.length"])
    names["before"] = SimpleNamespace(brk=NAMES["before.brk"])
    names["page_up"] = lambda address: -(-address // PAGE) * PAGE
    names["page_down"] = lambda address: address - address % PAGE
    return int(eval(text, {"__builtins__": {}}, names))  # noqa: S307


@given(trees.filter(lambda tree: len(tree.text) <= LONGEST))
@settings(max_examples=300, deadline=None)
def test_a_formula_comes_to_what_two_other_evaluations_say(tree: Tree) -> None:
    if tree.value is None:
        with pytest.raises(InputError, match=r"^here: .*(too large|by zero|not a shift)"):
            evaluate(tree.text, NAMES.get, "here")
    else:
        assert tree.value == _python(tree.text)
        assert evaluate(tree.text, NAMES.get, "here") == tree.value
    assert names_of(tree.text, "here") == tree.names


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("end_data - 8", 0x402040),
        ("arena.start + 15", 0x7F000000100F),
        (" page ", PAGE),
        ("-page", -PAGE),
        ("- 7 // 2", -4),
        ("-7 % 4", 1),
        ("1 << 64", 1 << 64),
        ("1 << 4 + 1", 32),
        ("6 & 3 | 8", 10),
        ("2 * (3 + 4)", 14),
        ("page_up(1)", PAGE),
        ("page_up(page)", PAGE),
        ("page_up(0)", 0),
        ("page_up(-1)", 0),
        ("page_down(page - 1)", 0),
        ("page_down(2 * page + 1)", 2 * PAGE),
        ("page_down(-1)", -PAGE),
        ("page_up(page_down(end_data)) - end_data", -0x48),
        ("0b11 + 0o17 + 0xF + 1_000", 1033),
    ],
)
def test_a_formula_comes_to(text: str, value: int) -> None:
    assert evaluate(text, NAMES.get, "") == value


@pytest.mark.parametrize("page", [1 << 12, 1 << 14, 1 << 16])
def test_a_page_is_what_the_name_says(page: int) -> None:
    names = {"page": page, "brk": 3 * page + 1}
    assert evaluate("page_up(brk)", names.get, "") == 4 * page
    assert evaluate("page_down(brk)", names.get, "") == 3 * page


def test_without_the_name_a_page_has_4096_bytes() -> None:
    assert evaluate("page_up(brk)", {"brk": 1}.get, "") == 4096


@pytest.mark.parametrize("number", [0, -1, 1 << 64, (1 << 80) - 1, -(1 << 80) + 1])
def test_a_number_stands_for_itself(number: int) -> None:
    assert evaluate(number, NAMES.get, "") == number
    assert names_of(number, "") == frozenset()


def test_form_is_checked_without_values() -> None:
    """No value makes a form wrong: a difference may be 0 in one layout and not in another."""
    text = "brk // (end_data - nothing) + (1 << brk) % nothing"
    assert names_of(text, "") == {"brk", "end_data", "nothing"}


# ---- what a formula refuses ---------------------------------------------------------------------

NO_FORMULAS = [
    "",
    "   ",
    "__import__('os').system('touch marker')",
    "(lambda: open('marker', 'w'))()",
    "[open('marker', 'w') for x in (1,)]",
    "{x: x for x in (1,)}",
    "(x for x in (1,))",
    "f'{open(chr(109), chr(119))}'",
    "brk.__class__.__base__.__subclasses__()",
    "arena.start.real",
    "arena.start()",
    "(marker := 1)",
    "'text'",
    'b"bytes"',
    "1.5",
    "1.",
    ".5",
    "1e3",
    "1j",
    "...",
    "True",
    "None",
    "brk ** 2",
    "brk / 2",
    "brk @ 2",
    "brk ^ 2",
    "~brk",
    "not brk",
    "brk and page",
    "brk if page else 0",
    "brk < page",
    "brk == page",
    "brk is page",
    "brk, page",
    "[brk]",
    "{brk}",
    "brk[0]",
    "*brk",
    "page_up()",
    "page_up(brk, page)",
    "page_up(*brk)",
    "page_up(**brk)",
    "page_up(address=brk)",
    "page_up(brk)(page)",
    "page.up(brk)",
    "eval(brk)",
    "await brk",
    "yield",
    "brk; page",
    "brk = 1",
    "import os",
    "brk # a comment",
    "brk \\",
    "brk\n",
    "brk\t",
    "brk\x00",
    "brk\x1b[31m",
    "1 2",
    "1 +",
    ")",
    "007",
    "0x",
    "0xg",
    "1__0",
    "0x1for x in brk",
    "1if brk else 2",
    "1.or brk",
    "\\d",
    "brk + \uff11",
    "\uff42\uff52\uff4b",
    "brk \u2212 1",
    "(" * 99 + "1" + ")" * 98,
    "\ud800",
]


@pytest.mark.parametrize("text", NO_FORMULAS)
def test_what_is_no_formula_is_refused_in_one_sentence_and_not_executed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert problem(text) == f"change.brk: {shorten(text)} is not a formula; expected {GRAMMAR}"
        with pytest.raises(InputError, match="is not a formula"):
            names_of(text, "")
    assert not warned, "the learner would read Python's own warning"
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("1 // nothing", "change.brk: '1 // nothing' divides by zero"),
        ("1 % (page - page)", "change.brk: '1 % (page - page)' divides by zero"),
        ("1 << 65", "change.brk: 0x41 is not a shift; expected 0 to 64 bits"),
        ("1 >> -1", "change.brk: -0x1 is not a shift; expected 0 to 64 bits"),
        (
            "1 << 64 << 64",
            f"change.brk: {1 << 128:#x} is too large; expected at most 64 bits",
        ),
        (1 << 80, f"change.brk: {1 << 80:#x} is too large; expected at most 64 bits"),
        (
            -(1 << 5000),
            "change.brk: a number of 5001 bits is too large; expected at most 64 bits",
        ),
        (
            "9" * LONGEST,
            "change.brk: a number of 665 bits is too large; expected at most 64 bits",
        ),
        (
            "1" * (LONGEST + 1),
            f"change.brk: {LONGEST + 1} characters are too many for a formula; "
            f"expected at most {LONGEST}",
        ),
        ("end_dta", "change.brk: 'end_dta' is not a known name; expected end_data?"),
        ("area.start", "change.brk: 'area.start' is not a known name; expected arena.start?"),
        (
            "xyzzy + 1",
            "change.brk: 'xyzzy' is not a known name; expected one of brk, end_data, nothing, page",
        ),
        ("page_up", "change.brk: 'page_up' is not a known name; expected page?"),
        (
            True,
            "change.brk: true is not a whole number or a formula; "
            'expected such as 4096, 0x1000 or "end_data - 8"',
        ),
        (
            1.0,
            "change.brk: 1.0 is not a whole number or a formula; "
            'expected such as 4096, 0x1000 or "end_data - 8"',
        ),
        (
            None,
            "change.brk: None is not a whole number or a formula; "
            'expected such as 4096, 0x1000 or "end_data - 8"',
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place_and_value(
    value: object, sentence: str
) -> None:
    assert problem(value) == sentence


def test_a_name_that_has_no_value_now_says_why() -> None:
    def lookup(name: str) -> int:
        raise LookupError("is not there now")

    with pytest.raises(InputError, match=r"^brk: 'heap\.start' is not there now$"):
        evaluate("heap.start", lookup, "brk")


ALPHABET = st.sampled_from(
    [*"0123456789 ()+-*/%<>&|.,'\"[]{}:=~^@#\\\n\t\0", "0x", "brk", "arena.", "page_up(", "lambda ",
     "import ", "1e9", "**", ":=", "é", "\ud800", "__class__", " if ", " or ", " for x in "]
)  # fmt: skip


def _said(read: Callable[..., object], *arguments: object) -> str:
    try:
        read(*arguments)
    except InputError as error:
        return str(error)
    return ""


@given(st.one_of(st.text(max_size=300), st.lists(ALPHABET, max_size=100).map("".join)))
@example("-" * LONGEST)
@example("-" * (LONGEST - 1) + "1")
@example("+".join("1" * (LONGEST // 2)))
@example("page_up(" * 25)
@example("a" + ".a" * 90)
@settings(max_examples=500, deadline=None)
def test_no_text_raises_anything_else(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for said in (_said(evaluate, text, NAMES.get, "here"), _said(names_of, text, "here")):
            assert said.startswith("here: ") or not said
            assert len(said) < 400


@pytest.mark.parametrize("value", ["a" * 500, [["x" * 50] * 50], 1 << 10_000, "\x1b[31m\n\ud800"])
def test_a_value_is_quoted_short_and_printable(value: object) -> None:
    assert len(shorten(value)) <= 80
    assert shorten(value).isprintable()


def test_a_value_that_cannot_be_quoted_is_named() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert shorten(deep) == "something too large to show"
    assert shorten([10**5000]) == "something too large to show"


def test_text_for_a_terminal_keeps_what_can_be_read() -> None:
    assert printable("naïve 写 a'b") == "naïve 写 a'b"
    assert printable("\x1b]0;x\x07\n\u202e\ud800\x9b") == r"\x1b]0;x\x07\n\u202e\ud800\x9b"


def test_suggestions_are_the_nearest_or_all() -> None:
    assert suggestion("arg_strat", ["arg_start", "arg_end"]) == "arg_start?"
    assert suggestion("zzz", ["arg_start", "brk"], ["brk"]) == "one of brk"


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [3, "", "A", "a b", "1a", "_a", "a.b", "a" * 41, "é", "a\n", "a\0", None]
)
def test_what_is_no_name_is_refused(name: object) -> None:
    with pytest.raises(InputError) as refused:
        check_name(name, "setup[0].map")
    assert str(refused.value) == (
        f"setup[0].map: {shorten(name)} is not a name; "
        "expected a small letter, then small letters, digits and _"
    )


@pytest.mark.parametrize("name", ["brk", "before", "page_up", "if", "lambda", "import"])
def test_a_name_that_means_something_is_taken(name: str) -> None:
    with pytest.raises(InputError) as refused:
        check_name(name, "setup[0].map", {"brk"})
    assert str(refused.value) == f"setup[0].map: '{name}' is taken already; expected another name"


def test_a_name_is_returned() -> None:
    assert check_name("arena_2", "", {"brk"}) == "arena_2"
