"""The rules of a call and the differences of /proc as small HTML tables, for what follows a slider.

Needs the standard library only. All text of other processes is escaped; the tables bring their own
ground and colours, so that they are legible in light and dark notebooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from itertools import groupby

from prctlmm_lab.kernel.difference import Change, shown
from prctlmm_lab.kernel.rules import Explanation, Finding, errno_name
from prctlmm_lab.views.legend import BROKEN, FAINT, HOLDS, INK, PAPER, REFUSES, SOFT, Sign
from prctlmm_lab.words import printable, shortened

_TABLE = (
    f"border-collapse:collapse;table-layout:fixed;width:100%;background:{PAPER};color:{INK};"
    "font:13px/1.35 'DejaVu Sans','Liberation Sans',Helvetica,Arial,sans-serif"
)
_CELL = (
    "overflow-wrap:anywhere;padding:2px 8px;text-align:left;vertical-align:top;"
    f"border-bottom:1px solid {FAINT}"
)
_FIXED = "font-family:'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace;font-size:12px"
_RULE_COLUMNS = {"check": 9, "state": 27, "rule": 30, "numbers": 34}
_DIFFERENCE_COLUMNS = {"place": 10, "name": 24, "before": 33, "after": 33}
_LONGEST = 160
"""Characters of a value; of longer ones the middle is left out."""


def rules_html(explanation: Explanation) -> str:
    """Write the rules as a table: first those that are broken, then the others in kernel order.

    Each row has a symbol, a word, the rule and its numbers. The range checks that hold share a
    row, and so do those of exe_fd.

    The command line's equivalent is `prctlmm-lab explain RECIPE`.
    """
    numbered = list(enumerate(explanation.findings, 1))
    rows = [_rule_row([pair], explanation.errno) for pair in numbered if pair[1].broken]
    holding = [pair for pair in numbered if not pair[1].broken]
    for family, group in groupby(holding, lambda pair: _family(pair[1])):
        pairs = list(group)
        rows += [
            _rule_row(together, explanation.errno)
            for together in ([pairs] if family else [[pair] for pair in pairs])
        ]
    return _table(_caption(explanation), _RULE_COLUMNS, rows)


_FAMILIES = {"range": "addresses of user space", "exe": "checks of exe_fd"}
"""Checks that share a row while they hold, and what they are."""


def _family(finding: Finding) -> str:
    family = finding.rule.id.partition(".")[0]
    return family if family in _FAMILIES else ""


def _caption(explanation: Explanation) -> str:
    total = len(explanation.findings)
    if explanation.deciding is None:
        return f"{HOLDS.symbol} accepted: all {total} checks hold"
    more = len(explanation.broken) - 1
    others = f"; {more} more {'is' if more == 1 else 'are'} broken" if more else ""
    return (
        f"{REFUSES.symbol} {errno_name(explanation.errno)}: the check "
        f"“{explanation.deciding.rule.title}” decides{others}"
    )


def _rule_row(pairs: list[tuple[int, Finding]], errno: int) -> str:
    """Write a row for one check, or for several of a family that hold, with their positions."""
    order, finding = _extent([position for position, _ in pairs]), pairs[0][1]
    title, numbers, name = finding.rule.title, finding.numbers, finding.rule.id
    if len(pairs) > 1:
        name = _family(finding)
        title = f"{len(pairs)} {_FAMILIES[name]}"
        # What the numbers of the family have in common: the bounds, or the descriptor.
        numbers = numbers.rpartition(", ")[2] if name == "range" else _first_value(numbers)
    sign, word = _state(finding, errno)
    return _row(
        sign,
        (order, False),
        (f"{sign.symbol} {word}", False),
        (f"{title} ({name})", False),
        (numbers, True),
    )


def _first_value(numbers: str) -> str:
    return " ".join(numbers.split()[:3])


def _extent(positions: list[int]) -> str:
    """Write ascending numbers with their runs shortened.

    >>> _extent([6, 7, 8, 11])
    '6-8, 11'
    """
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _state(finding: Finding, errno: int) -> tuple[Sign, str]:
    if finding.decides:
        return REFUSES, f"REFUSES, {errno_name(errno)}"
    return (BROKEN, "broken") if finding.broken else (HOLDS, "holds")


def difference_html(changes: Iterable[Change]) -> str:
    """Write the differences of two snapshots as a table.

    Equivalent: `diff` of two copies of /proc/PID.
    """
    rows = [
        _row(None, (change.place, False), (change.name, True), (shown(change.before), True),
             (shown(change.after), True))
        for change in changes
    ]  # fmt: skip
    caption = f"{len(rows)} differences" if len(rows) != 1 else "1 difference"
    return _table(caption if rows else "no difference", _DIFFERENCE_COLUMNS, rows)


def _row(sign: Sign | None, *texts: tuple[str, bool]) -> str:
    """Write a row; each text comes with whether it is fixed-width."""
    marked = sign is not None and sign is not HOLDS
    ground = f' style="background:{sign.ground}"' if sign and marked else ""
    return f"<tr{ground}>{''.join(_cells(sign, texts))}</tr>"


def _cells(sign: Sign | None, texts: tuple[tuple[str, bool], ...]) -> Iterator[str]:
    for position, (text, is_fixed) in enumerate(texts):
        style = f"{_CELL};{_FIXED}" if is_fixed else _CELL
        if sign is not None and position == 1:
            style += f";color:{sign.colour};font-weight:bold;white-space:nowrap"
        yield f'<td style="{style}">{escape(shortened(printable(text), _LONGEST))}</td>'


def _table(caption: str, heads: dict[str, int], rows: list[str]) -> str:
    """Write a table; each head comes with the width of its column in percent."""
    style = f"{_CELL};color:{SOFT};font-weight:normal"
    head = "".join(
        f'<th scope="col" style="{style};width:{width}%">{name}</th>'
        for name, width in heads.items()
    )
    title = (
        f'<caption style="text-align:left;padding:4px 8px;font-weight:bold;background:{PAPER};'
        f'color:{INK}">{escape(caption)}</caption>'
    )
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>" if rows else ""
    return f'<table style="{_TABLE}">{title}{body}</table>'
