"""Checkpoint and restore as tables and pictures: an image, equality, and what each omission breaks.

Needs pandas for the tables, matplotlib for the figure; both are imported on use. Every table and
picture has a twin in plain text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from prctlmm_lab.errors import InputError, LabError, UnsupportedSystem
from prctlmm_lab.experiments.asking import CANNOT
from prctlmm_lab.experiments.other_users import ORDERS, Place, rename
from prctlmm_lab.kernel.rules import errno_name
from prctlmm_lab.restore.omissions import Omission, omissions
from prctlmm_lab.restore.recorded import recorded_text
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.recording import mode
from prctlmm_lab.specimen.recording.marks import LIVE, mark_text, note
from prctlmm_lab.views.legend import FAINT, INK, MOVED, PAPER, REFUSES, SHADE, SOFT
from prctlmm_lab.views.scene import Box, Lines, Mark, Scene, Text
from prctlmm_lab.words import printable, shortened, size_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from prctlmm_lab.restore.equality import Row
    from prctlmm_lab.restore.image import Area, Image
    from prctlmm_lab.restore.plan import Step

# ---- an image, and equality ---------------------------------------------------------------------


def areas_table(image: Image) -> DataFrame:
    """Return a row for each area of an image: where, what, and how much of it is in the image.

    `in the image` are the bytes that were not as a new mapping has them.
    """
    from pandas import DataFrame

    rows = [
        (hex(area.start), hex(area.end), size_text(area.size),
         _name(image, area), area.permissions,
         size_text(sum(len(run.data) for run in area.runs)))
        for area in image.areas
    ]  # fmt: skip
    columns = ["start", "end", "size", "what is there", "rights", "in the image"]
    return DataFrame(rows, columns=columns).set_index("start")


def _name(image: Image, area: Area) -> str:
    from prctlmm_lab.restore.plan import what_is_there

    vma = image.snapshot.vma_at(area.start)
    return vma.label if vma and vma.label else printable(what_is_there(area)).rpartition(" ")[0]


def plan_table(steps: Sequence[Step]) -> DataFrame:
    """Return a row for each step of a restorer, as `plan` has them.

    Contents are told by their size.
    """
    from pandas import DataFrame

    rows = [
        (number, step.call, ", ".join(_argument(each) for each in step.arguments),
         printable(step.why))
        for number, step in enumerate(steps, 1)
    ]  # fmt: skip
    return DataFrame(rows, columns=["step", "call", "arguments", "why"]).set_index("step")


def _argument(value: int | str) -> str:
    if isinstance(value, str):
        return value
    return str(value) if value < 0 else hex(value)


def equality_table(rows: Sequence[Row], *, whole: bool = False) -> DataFrame:
    """Return what a process and the restored one have in common, and why the rest is not equal.

    All that differs for one reason has one row, with the first of it as an example; what should be
    equal and is not stands at "NOT EQUAL". With `whole` each thing that was compared has a row.
    """
    from pandas import DataFrame

    cells = [
        ("equal" if first.equal else first.explanation or "NOT EQUAL",
         ", ".join(row.what for row in group),
         "" if first.equal and not whole else _short(first.before),
         "" if first.equal else _short(first.after))
        for group in ([[row] for row in rows] if whole else _by_reason(rows))
        for first in group[:1]
    ]  # fmt: skip
    columns = ["equal, or why not", "what", "before", "after"]
    return DataFrame(cells, columns=columns).set_index("what" if whole else columns[0])


def _by_reason(rows: Iterable[Row]) -> list[list[Row]]:
    """Put what is equal together, and what differs for one reason."""
    groups: dict[tuple[bool, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((not row.equal, row.explanation), []).append(row)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _short(value: object) -> str:
    return shortened(printable(str(value)), 48)


# ---- the order of two ends ----------------------------------------------------------------------


def orders_table() -> DataFrame:
    """Rename a specimen in each order, to both sides, and return a row for each way.

    `in between` is how much cmdline shows after the first of two calls.

    >>> orders_table().loc[("above", "start first"), "first call"]
    'EINVAL'
    """
    from pandas import DataFrame

    places: tuple[Place, ...] = ("below", "above")
    rows = []
    for place in places:
        for order in ORDERS:
            told = rename(place, order)
            between = size_text(len(told[0].cmdline)) if len(told) == 2 else ""
            second = told[1].verdict if len(told) == 2 else ""
            name = told[-1].cmdline.replace(b"\0", b" ").decode().strip()
            rows.append((place, order, told[0].verdict, between, second, name))
    columns = ["the new name lies", "order", "first call", "in between", "second call", "cmdline"]
    return DataFrame(rows, columns=columns).set_index(["the new name lies", "order"])


# ---- why restores fail, and restores by others -------------------------------------------------


def failures_table(*names: str) -> DataFrame:
    """Make reasons why restores fail happen, and return a row for each; all of them by default.

    `here` is what this kernel said to the call, `elsewhere` what the rules say of another kernel,
    where the reason is one of its age; nobody asked that one.

    Raises KeyError for an unknown name.
    """
    import json

    from pandas import DataFrame

    from prctlmm_lab.restore.failures import FAILURES

    wanted = names or tuple(FAILURES)
    for name in wanted:
        _ = FAILURES[name]
    text, _ = recorded_text("failures", lambda: json.dumps(dict(map(_reproduced, FAILURES))))
    answers = json.loads(text)
    rows = [(name, FAILURES[name].title, *answers[name], FAILURES[name].remedy) for name in wanted]
    columns = ["failure", "what is wrong", "here", "elsewhere", "which decides", "remedy"]
    return DataFrame(rows, columns=columns).set_index("failure")


def _reproduced(name: str) -> tuple[str, tuple[str, str, str]]:
    from prctlmm_lab.errors import LabError
    from prctlmm_lab.restore.failures import FAILURES, reproduce

    try:
        done = reproduce(name)
    except LabError as error:
        return name, (f"cannot be shown here: {error}", "", FAILURES[name].rule)
    there = "" if done.predicted is None else errno_name(done.predicted.errno)
    elsewhere = f"{there} predicted of {done.kernel}" if there else ""
    return name, (done.came, elsewhere, done.failure.rule)


def refused_log(name: str = "refused-limit") -> str:
    """Read one of CRIU's logs that ship, of a restore that failed, and write which rule refused.

    The command line's equivalent is `prctlmm-lab explain data/criu/NAME.log`, which says more.

    Raises InputError for a name that none has.
    """
    from prctlmm_lab.restore.criu.diagnosis import diagnose_log
    from prctlmm_lab.restore.criu.images import image_folder
    from prctlmm_lab.restore.criu.log import read_log

    known = sorted(path.stem for path in image_folder().glob("*.log"))
    if name not in known:
        raise InputError("log", "does not ship", repr(name)[:40], ", ".join(known))
    lines = []
    for each in diagnose_log(read_log(image_folder() / f"{name}.log"), facts_here()):
        needs = [condition.broken_if for condition in each.conditions]
        told = (("kernel", [each.facts.release]), ("verdict", [each.verdict]), ("if", needs),
                ("remedy", [each.remedy]), ("note", each.notes))  # fmt: skip
        lines += [
            textwrap.fill(f"{word:8}{text}", 96, subsequent_indent=" " * 8)
            for word, texts in told for text in texts if text
        ]  # fmt: skip
    return "\n".join(lines)


def criu_here(*command: str) -> str:
    """Have CRIU dump and restore a real process, and write what the kernel was asked to do.

    Where CRIU cannot do that, the text says why in a sentence. In a recording nobody asks CRIU.
    """
    live = mode.is_live()

    def work() -> str:
        if not live:
            return f"{CANNOT}: a recording has no CRIU"
        from prctlmm_lab.restore.criu.running import dump_and_restore_with_criu

        try:
            return str(dump_and_restore_with_criu(command or ("sleep", "1000")))
        except UnsupportedSystem as why:
            return f"{CANNOT}: {why}"

    return recorded_text("criu", work)[0]


def restored_elsewhere(image: Image, which: str = "") -> str:
    """Restore an image on another kernel of the atlas, and write what is not equal there.

    `which` names a kernel that is kept, such as "5.10"; by default the oldest. Where none can be
    started, the text says why in a sentence. In a recording no other kernel is asked.
    """
    live = mode.is_live()

    def work() -> str:
        return _elsewhere(image, which) if live else f"{CANNOT}: a recording has no other kernel"

    return recorded_text("elsewhere", work)[0]


def _elsewhere(image: Image, which: str) -> str:
    from prctlmm_lab.atlas.images import images
    from prctlmm_lab.atlas.kernels import Kernel

    kept = images(machine=image.machine)
    if not kept and not which:
        return f"{CANNOT}: no other kernel is kept; `prctlmm-lab atlas fetch 5.10` gets one"
    try:
        with Kernel(which or kept[0]) as kernel:
            rows = kernel.restore(image)
            name = kernel.name
    except LabError as error:
        return f"{CANNOT}: {error}"
    others = [group for group in _by_reason(rows) if not group[0].equal]
    lines = [f"{name}: {sum(row.equal for row in rows)} of {len(rows)} things are equal. Others:"]
    for group in others:
        told = f"{', '.join(row.what for row in group)}: {group[0].explanation or 'NOT EQUAL'}"
        lines += textwrap.wrap(told, 96, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


# ---- omissions ----------------------------------------------------------------------------------


def omissions_table(found: Iterable[Omission] | None = None) -> DataFrame:
    """Return a row for each omission: the call's verdict, what /proc shows, what then breaks.

    >>> table = omissions_table(omissions("start_stack", "arg_start"))
    >>> table.loc["start_stack", "the call"]
    'accepted'
    """
    from pandas import DataFrame

    rows = [
        (each.name, _verdict(each), _listed(each.shown), each.why_not or _listed(each.broken))
        for each in _noted(omissions() if found is None else found)
    ]
    columns = ["left out", "the call", "/proc shows otherwise", "what then breaks"]
    return DataFrame(rows, columns=columns).set_index("left out")


def _noted(found: Iterable[Omission]) -> Iterator[Omission]:
    """Have the cell that shows them say where they come from."""
    for each in found:
        note(each.origin)
        yield each


def _verdict(each: Omission) -> str:
    return f"{each.verdict} by {each.rule}" if each.rule else each.verdict


def _listed(told: Mapping[str, str]) -> str:
    return "; ".join(f"{place}: {printable(words)}" for place, words in told.items())


class Column(NamedTuple):
    """A column of the picture: the keys of an omission that it stands for, and its head."""

    keys: tuple[str, ...]
    head: tuple[str, ...]


COLUMNS: tuple[Column, ...] = (
    Column(("stat",), ("stat",)),
    Column(("statm text",), ("statm", "text")),
    Column(("status VmExe", "status VmLib"), ("status", "VmExe", "VmLib")),
    Column(("maps [heap]",), ("maps", "[heap]")),
    Column(("maps [stack]",), ("maps", "[stack]")),
    Column(("cmdline",), ("cmd-", "line")),
    Column(("environ",), ("envi-", "ron")),
    Column(("auxv",), ("auxv",)),
    Column(("exe",), ("exe",)),
    Column(("brk()",), ("brk(0)",)),
    Column(("heap",), ("heap", "grows")),
    Column(("heap under a limit",), ("heap,", "limit")),
    Column(("core: arguments",), ("core:", "args")),
    Column(("core: vector",), ("core:", "entry")),
)
"""Files of /proc first, then what a program, or a core file, does."""
_PLACES = 9
"""How many of the columns are files of /proc."""

_MARGIN, _NAMES, _COLUMN, _ROW, _GAP = 10.0, 158.0, 46.0, 21.0, 8.0
_LEFT = _MARGIN + _NAMES
_WIDTH = _LEFT + _COLUMN * len(COLUMNS) + _MARGIN
_TOP = _MARGIN + 26.0 + 70.0
_CELL_WIDTH, _CELL_HEIGHT = 34.0, 14.0
_TITLE, _NAME, _HEAD, _CAPTION, _LINE = 13.0, 11.0, 9.0, 10.5, 17.0
_HERE, _LATER = "#e69f00", "#b33c00"


def differs(each: Omission, column: Column) -> bool:
    """Tell whether something of a column is otherwise than after a whole restore."""
    told = {*each.shown, *each.broken}
    return (
        any(key.startswith("stat ") for key in told)
        if column.keys == ("stat",)
        else bool(told.intersection(column.keys))
    )


def draw_omissions(found: Sequence[Omission] | None = None) -> Figure:
    """Draw what each omission breaks, members against places, as a figure of at most 16 by 22 cm.

    >>> round(draw_omissions(omissions("brk")).get_figwidth() * 2.54)
    16

    Save it with `prctlmm_lab.views.pictures.save`. The text twin is `text_of_omissions`.
    """
    from prctlmm_lab.views.pictures import draw_marks

    return draw_marks(omissions_scene([*_noted(omissions() if found is None else found)]))


def text_of_omissions(found: Sequence[Omission] | None = None) -> str:
    """Write what `draw_omissions` draws as plain text, at most 80 columns."""
    lines: list[str] = []
    for each in omissions() if found is None else found:
        head = f"without {each.name}: {_verdict(each)}"
        if each.refused:
            lines.append(f"{head}, and there is no process")
            continue
        told = [f"{place}: {words}" for place, words in {**each.shown, **each.broken}.items()]
        lines.append(head + (f"; {each.why_not}" if each.why_not else ""))
        for words in told or ([] if each.why_not else ["nothing is otherwise"]):
            lines += textwrap.wrap(printable(words), 76, initial_indent="  ✗ ",
                                   subsequent_indent="    ")  # fmt: skip
    return "\n".join(lines)


def omissions_scene(found: Sequence[Omission]) -> Scene:
    """Turn omissions into boxes, lines and texts."""
    rows = list(_rows(found))
    bottom = max((y for _, y in rows), default=_TOP) + _ROW
    said = _said(found)
    height = bottom + 18 + _LINE * (1 + len(said)) + _MARGIN
    marks: list[Mark] = [
        Box(0, 0, _WIDTH, height, PAPER),
        Text(_MARGIN, _MARGIN + 8, "A restore with something left out: what is otherwise?", _TITLE,
             bold=True, fixed=False),
        *_heads(bottom),
    ]  # fmt: skip
    for each, y in rows:
        marks += _row(each, y)
    return Scene(_WIDTH, height, (*marks, *_foot(said, bottom + 18)))


def _rows(found: Sequence[Omission]) -> Iterator[tuple[Omission, float]]:
    y, alone = _TOP, True
    for each in found:
        if alone and len(each.members) > 1 and each.name not in each.members:
            y, alone = y + _GAP, False
        yield each, y
        y += _ROW


def _heads(bottom: float) -> Iterator[Mark]:
    for number, column in enumerate(COLUMNS):
        x = _LEFT + number * _COLUMN
        if number % 2 == 0:
            yield Box(x, _TOP - 50, _COLUMN, bottom - _TOP + 50, SHADE)
        for row, word in enumerate(reversed(column.head)):
            yield Text(x + _COLUMN / 2, _TOP - 9 - row * 12, word, _HEAD, anchor="middle")
    groups = ((0, _PLACES, "files of /proc/PID"), (_PLACES, len(COLUMNS) - _PLACES, "behaviour"))
    for first, count, words in groups:
        x, y = _LEFT + first * _COLUMN, _TOP - 54
        yield Text(x + count * _COLUMN / 2, y - 9, words, _HEAD + 1, SOFT, "middle", fixed=False)
        yield Lines((((x + 4, y), (x + count * _COLUMN - 4, y)),), SOFT, 0.8)
    yield Text(_MARGIN, _TOP - 9, "left out", _HEAD + 1, SOFT, fixed=False)
    yield Lines((((_MARGIN, _TOP - 1), (_WIDTH - _MARGIN, _TOP - 1)),), SOFT, 0.8)


def _row(each: Omission, y: float) -> Iterator[Mark]:
    yield Text(_MARGIN, y + _ROW / 2 + 1, each.name, _NAME)
    middle = y + _ROW / 2
    if each.refused:
        wide = _COLUMN * len(COLUMNS)
        yield _refused(_LEFT + 6, y + 3.5, wide - 12)
        words = f"✖ {_verdict(each)}: no process"
        yield Text(_LEFT + wide / 2, middle, words, _HEAD + 1, MOVED, "middle", bold=True)
    elif each.why_not:
        yield Text(_LEFT + 6, middle, shortened(each.why_not, 90), _HEAD, SOFT, fixed=False)
    else:
        for number, column in enumerate(COLUMNS):
            if differs(each, column):
                x = _LEFT + number * _COLUMN + (_COLUMN - _CELL_WIDTH) / 2
                yield from _cell(x, y + 3.5, later=number >= _PLACES)
    yield Lines((((_LEFT, y + _ROW), (_WIDTH - _MARGIN, y + _ROW)),), FAINT, 0.4)


def _cell(x: float, y: float, *, later: bool) -> Iterator[Mark]:
    yield Box(x, y, _CELL_WIDTH, _CELL_HEIGHT, _LATER if later else _HERE, INK)
    middle = x + _CELL_WIDTH / 2, y + _CELL_HEIGHT / 2
    symbol, colour = ("✗", PAPER) if later else ("≠", INK)
    yield Text(*middle, symbol, _HEAD + 1, colour, "middle", bold=True)


def _refused(x: float, y: float, width: float) -> Mark:
    return Box(x, y, width, _CELL_HEIGHT, REFUSES.ground, MOVED)


def _said(found: Sequence[Omission]) -> list[str]:
    refused = sum(each.refused for each in found)
    said = [f"{len(found)} restores of one image: {refused} refused as a whole, "
            f"{sum(each.restored for each in found)} accepted."]  # fmt: skip
    said.append("What is left out keeps what the process had in which the restorer runs.")
    origin = next((each.origin for each in found if each.origin != LIVE), LIVE)
    if origin != LIVE:
        said.append(f"({mark_text(origin)})")
    return said


def _foot(said: list[str], y: float) -> Iterator[Mark]:
    legend = [(False, "/proc shows it otherwise"), (True, "it goes otherwise: see the table")]
    for number, (later, words) in enumerate(legend):
        x = _MARGIN + number * _WIDTH / 3
        yield from _cell(x, y - _CELL_HEIGHT / 2, later=later)
        yield Text(x + _CELL_WIDTH + 8, y, words, _CAPTION, fixed=False)
    x = _MARGIN + 2 * _WIDTH / 3
    yield _refused(x, y - _CELL_HEIGHT / 2, _CELL_WIDTH)
    yield Text(x + _CELL_WIDTH / 2, y, "✖", _HEAD + 1, MOVED, "middle", bold=True)
    yield Text(x + _CELL_WIDTH + 8, y, "the kernel refused the call", _CAPTION, fixed=False)
    for number, sentence in enumerate(said):
        at = y + (number + 1) * _LINE + 4
        yield Text(_MARGIN, at, sentence, _CAPTION, SOFT, fixed=False)
