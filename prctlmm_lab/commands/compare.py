"""prctlmm-lab compare: the same recipes in several logs, side by side, and why they differ."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prctlmm_lab.commands.output import DISAGREEMENT, FINE, add_json, wrapped, write
from prctlmm_lab.commands.prerequisites import require_package, require_picture
from prctlmm_lab.commands.replay import told_records
from prctlmm_lab.errors import InputError

if TYPE_CHECKING:
    from prctlmm_lab.experiments.side_by_side import Comparison, Row


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "compare", help="compare logs of any kernels, recipe by recipe",
        epilog="Example: prctlmm-lab compare data/recorded/linux-5.10.262.jsonl "
        "data/recorded/linux-7.3.4.jsonl. Exit status 1 if anything differs.",
    )  # fmt: skip
    parser.add_argument("logs", type=Path, nargs="+", metavar="LOG", help="two logs or more")
    parser.add_argument("--all", action="store_true", help="show what does not differ, too")
    parser.add_argument("--picture", type=Path, metavar="FILE",
                        help="draw it (PNG, SVG or PDF)")  # fmt: skip
    add_json(parser)
    parser.set_defaults(command=compare)


def compare(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    require_package("pydantic")
    from prctlmm_lab.experiments.record import plain
    from prctlmm_lab.experiments.side_by_side import compare

    if options.picture:
        require_picture(options.picture)
    names = log_names(options.logs)
    if len(names) < 2:
        raise InputError("compare", "is one log alone", str(options.logs[0]), "two or more")
    result = compare({n: told_records(p) for n, p in zip(names, options.logs, strict=True)})
    if options.json:
        print(json.dumps(plain(result)))
    else:
        print("\n".join(comparison_text(result, whole=options.all)))
    if options.picture:
        from prctlmm_lab.views.comparisons import draw_comparison
        from prctlmm_lab.views.pictures import save

        figure = draw_comparison(result, whole=options.all)
        write(options.picture, lambda: save(figure, options.picture))
    return DISAGREEMENT if result.differing else FINE


def log_names(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each log: its file's, with as much of its folder as tells it apart.

    Raises InputError for a log that is named twice.
    """
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join((*path.parts[-length:-1], path.stem)) for path in paths]
        if len(set(names)) == len(names):
            return names
    twice = next(path for path in paths if paths.count(path) > 1)
    raise InputError("compare", "is named twice", str(twice))


def comparison_text(result: Comparison, *, whole: bool = False) -> list[str]:
    """Return the lines that a person reads: the logs, then each recipe that differs."""
    letters = dict(zip(result.kernels, _letters(), strict=False))
    lines = [
        wrapped(f"{letters[n]}  {n}: {kernels}", later=3) for n, kernels in result.kernels.items()
    ]
    for row in result.rows if whole else result.differing:
        lines += ["", *_row_text(row, letters)]
    lines += ["", f"{len(result.rows)} recipes, {len(result.differing)} differ"]
    return lines + [
        f"{letters[log]} lacks {number} of them" for log, number in result.lacking.items() if number
    ]


def _letters() -> Iterator[str]:
    """Yield A, B ... Z, then L27, L28 ..."""
    yield from map(chr, range(ord("A"), ord("Z") + 1))
    yield from (f"L{number}" for number in range(27, 10_000))


def _row_text(row: Row, letters: dict[str, str]) -> Iterator[str]:
    yield wrapped(f"{row.experiment}: {row.title}".rstrip(": "), later=2)
    for same in _alike(row):
        cell = row.cells[same[0]]
        rule = f" by rule {cell.rule}" if cell.rule else ""
        yield wrapped(f"  {' '.join(letters[log] for log in same)}  {cell.text}{rule}", later=6)
        if cell.varies:
            yield "      its own records of this recipe do not agree"
        # Where another verdict fell, the effects follow from it.
        shown = [] if cell.other_verdict else cell.differences
        yield from (wrapped(f"      {each}", later=8) for each in shown[:_MOST_SHOWN])
        if len(shown) > _MOST_SHOWN:
            yield f"      and {len(shown) - _MOST_SHOWN} differences more (--json has them all)"
        if cell.differences:
            yield wrapped(f"      because: {cell.cause}" if cell.cause else "      unexplained",
                          later=8)  # fmt: skip


_MOST_SHOWN = 6


def _alike(row: Row) -> list[list[str]]:
    """Return the logs of a row in groups that say the same, for the same reason."""
    groups: dict[object, list[str]] = {}
    for log, cell in row.cells.items():
        groups.setdefault((cell.verdict, cell.rule, cell.differences, cell.cause), []).append(log)
    return list(groups.values())
