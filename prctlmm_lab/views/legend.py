"""Colours, patterns, symbols and words: the one place that every renderer takes them from.

Each kind of area has a colour of Okabe and Ito's palette, which people with any colour vision tell
apart, and a pattern that says the same without colour. Text is dark on a light ground.

Source: Masataka Okabe and Kei Ito, Color Universal Design, 2008 (the palette).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from prctlmm_lab.kernel.rules import RULES, Rule
from prctlmm_lab.views.areas import Kind
from prctlmm_lab.views.layout import Flag

PAPER = "#ffffff"
INK = "#1a1a1a"
SOFT = "#5a5a5a"
"""Addresses, sizes and other words of second rank; 6.9:1 on white."""
SHADE = "#f4f4f4"
"""Ground of what is magnified."""
FAINT = "#b4b4b4"
"""Thin lines."""
MOVED = "#b33c00"
"""What moved; Okabe and Ito's vermilion, darkened so that text in it is legible on white."""


class Pattern(Enum):
    """How the spine of an area is hatched."""

    PLAIN = "plain"
    RISING = "lines that rise"
    FALLING = "lines that fall"
    LEVEL = "level lines"
    UPRIGHT = "upright lines"
    CROSSED = "crossed lines"
    DOTTED = "dots"


@dataclass(frozen=True)
class Look:
    """How a kind of area is drawn."""

    colour: str
    """Of the spine."""
    tint: str
    """Of the body, light enough for dark text."""
    pattern: Pattern
    words: str
    """In the legend."""
    lines: str = INK
    """Colour of the pattern."""


LOOKS: dict[Kind, Look] = {
    Kind.CODE: Look("#56b4e9", "#e6f4fc", Pattern.RISING, "executable"),
    Kind.FILE: Look("#0072b2", "#e3eef6", Pattern.UPRIGHT, "file, read-only", PAPER),
    Kind.DATA: Look("#009e73", "#e1f3ed", Pattern.FALLING, "file, writable", PAPER),
    Kind.HEAP: Look("#e69f00", "#fdf2dc", Pattern.DOTTED, "[heap]"),
    Kind.STACK: Look("#cc79a7", "#f8ebf2", Pattern.LEVEL, "[stack]"),
    Kind.ANONYMOUS: Look("#f0e442", "#fdfbdf", Pattern.CROSSED, "anonymous memory"),
    Kind.RESERVED: Look("#ffffff", "#ffffff", Pattern.CROSSED, "no access (---)", SOFT),
    Kind.KERNEL: Look("#8c8c8c", "#efefef", Pattern.PLAIN, "page of the kernel's"),
    Kind.GROUP: Look("#ffffff", "#f4f8fb", Pattern.PLAIN, "one file, several VMAs"),
    Kind.FOLD: Look("#ffffff", "#fafafa", Pattern.LEVEL, "many areas, folded", SOFT),
    Kind.GAP: Look("#ffffff", "#ffffff", Pattern.PLAIN, "gap, cut short"),
    Kind.REFUSED: Look("#d0d0d0", "#ededed", Pattern.RISING, "refused by the call", SOFT),
    Kind.UNKNOWN: Look("#ffffff", "#ffffff", Pattern.DOTTED, "not readable", SOFT),
}


class Symbol(Enum):
    """What stands at a flag's place, and the words of the legend for it."""

    START = "start: the first byte"
    END = "end: the byte after"
    BORDER = "an end and a start"
    POINT = "start_stack"
    OLD = "place before the move"


def symbol_of(flag: Flag) -> Symbol:
    """Return the symbol for the members that hold a flag's address."""
    if not flag.members:
        return Symbol.OLD
    symbols = {_SYMBOLS[name] for name in flag.members}
    return symbols.pop() if len(symbols) == 1 else Symbol.BORDER


_SYMBOLS: dict[str, Symbol] = {
    "start_code": Symbol.START,
    "end_code": Symbol.END,
    "start_data": Symbol.START,
    "end_data": Symbol.END,
    "start_brk": Symbol.START,
    "brk": Symbol.END,
    "start_stack": Symbol.POINT,
    "arg_start": Symbol.START,
    "arg_end": Symbol.END,
    "env_start": Symbol.START,
    "env_end": Symbol.END,
}

SPAN_WORDS = "from a start to its end"
MOVE_WORDS = "moved: old place to new"
ZOOM_WORDS = "pages magnified"
READING = (
    "High addresses up, ends exclusive. Taller is larger, by the logarithm; gaps are cut short."
)
"""How to read every picture."""


@dataclass(frozen=True)
class Sign:
    """How a table marks a row, beside its words."""

    symbol: str
    colour: str
    ground: str


HOLDS = Sign("✓", "#00664b", PAPER)
BROKEN = Sign("✗", "#8a5a00", "#fdf2dc")
REFUSES = Sign("✖", MOVED, "#fbe3d6")

# ---- verdicts ---------------------------------------------------------------------------------

ACCEPTED_LOOK = Look("#7d9a8c", "#f1f6f3", Pattern.PLAIN, "accepted")
"""The calm ground of what no rule refuses."""
DISAGREES = "#e0002d"
"""Where kernel and specification disagree; nothing else has this colour."""
DISAGREES_WORDS = "disagreement"

_FAMILY_COLOURS: dict[str, tuple[str, tuple[str, str]]] = {
    "call": ("#5a5a5a", ("#e2e2e2", "#c6c6c6")),
    "range": ("#0072b2", ("#cfe3f0", "#9cc6e0")),
    "order": ("#a86f00", ("#fbe3b5", "#f2c768")),
    "heap": ("#00664b", ("#9fdcc6", "#6cc6a6")),
    "limit": ("#00664b", ("#c5e8dc", "#8fd2bb")),
    "auxv": ("#8f3f6d", ("#f2dbe7", "#dfb0cb")),
    "exe": ("#1b6f9e", ("#d8eefb", "#a4d5f3")),
}
"""Families of rules: the colour of their patterns, and two grounds."""
_UPRIGHT, _LEVEL, _RISING, _FALLING, _DOTTED, _CROSSED = (
    Pattern.UPRIGHT, Pattern.LEVEL, Pattern.RISING, Pattern.FALLING, Pattern.DOTTED, Pattern.CROSSED
)  # fmt: skip
_PATTERNS = (_UPRIGHT, _LEVEL, _RISING, _FALLING, _DOTTED, _CROSSED)
_OTHER_PATTERNS = {
    # What decides side by side over the same members has different patterns, also in grey.
    "order": (_RISING, _UPRIGHT, _UPRIGHT, _FALLING, _DOTTED, _CROSSED),
    "limit": (_LEVEL,),
    "heap": (_RISING,),
}


def look_of(rule: Rule | None) -> Look:
    """Return how a region is drawn over which a rule decides: in every picture the same.

    The colour tells the family of the rule, the pattern which of them it is.
    """
    if rule is None:
        return ACCEPTED_LOOK
    return _RULE_LOOKS[rule.id]


def _rule_looks() -> dict[str, Look]:
    families: dict[str, list[str]] = {}
    for rule in RULES:
        families.setdefault(rule.id.partition(".")[0], []).append(rule.id)
    looks = {}
    for family, members in families.items():
        colour, grounds = _FAMILY_COLOURS[family]
        for number, name in enumerate(members):
            patterns = _OTHER_PATTERNS.get(family, _PATTERNS)
            again, place = divmod(number, len(patterns))
            looks[name] = Look(colour, grounds[again], patterns[place], name)
    return looks


_RULE_LOOKS = _rule_looks()
