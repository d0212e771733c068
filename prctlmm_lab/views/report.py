"""A logbook as one HTML page to hand in or to print: summary, pictures, a section an experiment.

The page needs no network and no script, and forbids both by its own policy. Whatever comes from a
record is escaped and of bounded length, for the log may be a stranger's.
"""

from __future__ import annotations

import os
import warnings
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.logbook import TornLineWarning
from prctlmm_lab.experiments.recipe import Recipe, experiment_from, recipe_text
from prctlmm_lab.experiments.record import Record, from_in_text_form
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.legacy import LEGACY_RULE
from prctlmm_lab.kernel.rules import RULE
from prctlmm_lab.specimen.recording.marks import LIVE, PREDICTED, mark_text
from prctlmm_lab.views.entries import (
    UNKNOWN,
    Entry,
    clear,
    entry_of,
    newest,
    sign_of,
    time_of,
    time_text,
    visible,
)
from prctlmm_lab.views.exports import write_whole
from prctlmm_lab.views.layout import Layout, layout
from prctlmm_lab.views.legend import BROKEN, DISAGREES, FAINT, HOLDS, INK, REFUSES, SOFT, Sign
from prctlmm_lab.views.outcomes import MOST_MARKS, draw_rules, draw_times, rules_text, times_text
from prctlmm_lab.views.recorded_snapshot import recorded_snapshot
from prctlmm_lab.views.svg import address_space_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prctlmm_lab.views.logbooks import Logbook

MOST_SECTIONS = 200
"""Experiments that have a section, the newest."""
MOST_ROWS = 60
"""Rows of a table of differences, and answers of later steps."""
MOST_KERNELS = 20
"""Kernels whose facts are told."""
LONGEST_CELL = 200
"""Columns of a value in a table."""
LONGEST_PARAGRAPHS = 2000
"""Characters of an explanation, and of the author's note a hundred times as many."""
LONGEST_RECIPE = 20_000
"""Characters of a recipe; a longer one is not printed."""
TITLE = "Experiments with PR_SET_MM_MAP"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
"""What the page lets a browser do: its own style sheet and its own pictures, nothing else."""
_DPI = 220


def write_report(
    book: Logbook,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    author: str = "",
    note: str = "",
) -> None:
    """Write the records of a logbook as a page: see `Logbook.report`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TornLineWarning)
        summary = _summary(book)
    torn = sum(issubclass(one.category, TornLineWarning) for one in caught)
    summary.torn = torn

    def write(file: BinaryIO) -> None:
        parts = _page(book, summary, title or TITLE, author, note)
        file.writelines(part.encode("utf-8", "backslashreplace") for part in parts)

    write_whole(book, path, write)


# ---- what it is about -------------------------------------------------------------------------


@dataclass
class _Summary:
    """What one pass over the records gathers."""

    total: int = 0
    torn: int = 0
    entries: list[Entry] = field(default_factory=list)
    """The newest, `MOST_MARKS` at most, the oldest of them first."""
    kernels: dict[str, Facts] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    agreements: Counter[bool | None] = field(default_factory=Counter)
    learner: Counter[bool | None] = field(default_factory=Counter)

    @property
    def chosen(self) -> Sequence[Entry]:
        """Those that get a section."""
        return self.entries[-MOST_SECTIONS:]

    def add(self, record: Record, entry: Entry) -> None:
        """Count a record."""
        self.total += 1
        if len(self.kernels) < MOST_KERNELS:
            self.kernels.setdefault(record.facts.release, record.facts)
        known = self.origins if len(self.origins) < MOST_KERNELS else Counter[str]()
        known[entry.origin] += 1
        self.agreements[entry.agrees] += 1
        if entry.origin != PREDICTED:
            self.verdicts[entry.verdict if len(self.verdicts) < MOST_ROWS else "others"] += 1
            if entry.learner:
                self.learner[entry.right] += 1


def _summary(book: Logbook) -> _Summary:
    summary = _Summary()

    def rows() -> Iterator[tuple[str, Entry]]:
        for record in book.records():
            entry = entry_of(record)
            summary.add(record, entry)
            yield record.time, entry

    summary.entries = newest(rows(), MOST_MARKS)
    return summary


# ---- the page ---------------------------------------------------------------------------------


def _page(book: Logbook, summary: _Summary, title: str, author: str, note: str) -> Iterator[str]:
    yield (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n'
        f"<title>{_e(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<header>\n"
        f"<h1>{_e(title)}</h1>\n"
    )
    if author:
        yield f'<p class="author">{_e(author)}</p>\n'
    yield _paragraphs(note, 100 * LONGEST_PARAGRAPHS)
    yield f"</header>\n<main>\n{_CONTENTS}{_summary_section(book, summary)}"
    yield _pictures(summary)
    yield from _experiments(book, summary)
    yield f"</main>\n<footer>{_made_by()}</footer>\n</body>\n</html>\n"


def _made_by() -> str:
    from prctlmm_lab import __version__

    return (
        f"<p>Made by prctlmm_lab {__version__} from the records of real calls of "
        "<code>prctl(PR_SET_MM, …)</code>. Addresses are in hex, ends are exclusive, times are "
        "UTC.</p>"
    )


_CONTENTS = (
    '<nav aria-label="contents"><ul><li><a href="#summary">Summary</a></li>'
    '<li><a href="#outcomes">Outcomes</a></li><li><a href="#experiments">Experiments</a></li>'
    "</ul></nav>\n"
)


def _list_of_experiments(summary: _Summary) -> str:
    items = "".join(
        f'<li><a href="#experiment-{number}">{_mark(sign_of(entry), entry.verdict)} '
        f"{_e(entry.title or entry.experiment, 70)}</a></li>"
        for number, entry in enumerate(summary.chosen, 1)
    )
    return f'<nav aria-label="experiments"><ol>{items}</ol></nav>' if items else ""


def _summary_section(book: Logbook, summary: _Summary) -> str:
    rows = [("Log", f"<code>{_e(os.path.basename(os.fspath(book.path)))}</code>")]
    if book.selected:
        rows.append(("Chosen", f"<code>{_e(book.selected)}</code>"))
    rows.append(("Records", _extent(summary)))
    if summary.total:
        rows += [
            ("Answers", _counts(summary.verdicts) or "none"),
            ("Kernel and specification", _agreement_text(summary.agreements)),
            ("Predictions of the learner", _score(summary.learner)),
            ("Where the answers come from", _origins(summary.origins)),
        ]
    if summary.torn:
        rows.append(("Torn lines", f"{summary.torn} were not written to their end, and skipped"))
    body = "".join(f'<tr><th scope="row">{name}</th><td>{told}</td></tr>' for name, told in rows)
    return (
        f'<section id="summary"><h2>Summary</h2><table class="facts">{body}</table>'
        f"{_kernels(summary)}</section>\n"
    )


def _extent(summary: _Summary) -> str:
    if not summary.total:
        return "none"
    first, last = (time_text(entry.time) for entry in (summary.entries[0], summary.entries[-1]))
    extent = first if first == last else f"{first} to {last}"
    return f"{_number(summary.total, 'record')}, {extent} UTC"


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{_e(name)} {number:,}" for name, number in counts.most_common(MOST_ROWS))


def _agreement_text(agreements: Counter[bool | None]) -> str:
    told = [f"{HOLDS.symbol} agree in {agreements[True]:,}"]
    wrong = f"disagree in {agreements[False]:,}"
    told.append(f'<strong class="disagrees">≠ {wrong}</strong>' if agreements[False] else wrong)
    if agreements[None]:
        told.append(f"no kernel answered in {agreements[None]:,}")
    return ", ".join(told)


def _score(learner: Counter[bool | None]) -> str:
    answered = learner[True] + learner[False]
    if not learner.total():
        return "none was written down"
    told = f"{learner[True]:,} of {answered:,} right" if answered else "none was answered"
    if answered:
        told += f" ({100 * learner[True] / answered:.0f} %)"
    return told + (f", {learner[None]:,} without an answer" if learner[None] else "")


def _origins(origins: Counter[str]) -> str:
    words = {LIVE: "real calls"}
    return ", ".join(
        f"{_e(words.get(name) or mark_text(name))}: {number:,}"
        for name, number in origins.most_common(MOST_KERNELS)
    )


_FACTS = ("kernel", "machine", "page", "lowest address", "highest address", "saved vector",
          "not probed")  # fmt: skip


def _kernels(summary: _Summary) -> str:
    if not summary.kernels:
        return ""
    rows = [
        (f"Linux {facts.release}", facts.machine, f"{facts.page_size:#x}", hex(facts.lowest),
         hex(facts.highest), f"{facts.auxv_capacity:#x} bytes", ", ".join(facts.assumed) or "-")
        for facts in summary.kernels.values()
    ]  # fmt: skip
    caption = "The kernels, and what was probed of them"
    return _table(caption, _FACTS, rows)


def _pictures(summary: _Summary) -> str:
    if not summary.entries:
        return ""
    entries = summary.entries
    cut = ""
    if summary.total > len(entries):
        cut = f"<p>The newest {len(entries):,} of {summary.total:,} records are drawn.</p>"
    return (
        f'<section id="outcomes"><h2>Outcomes</h2>{cut}'
        f"{_figure(draw_times(entries), times_text(entries))}"
        f"{_figure(draw_rules(entries), rules_text(entries))}</section>\n"
    )


def _figure(figure: Figure, words: str) -> str:
    """Write a figure as a PNG in the page, and what it says in words for who cannot see it."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    data = b64encode(buffer.getvalue()).decode("ascii")
    told = _e("; ".join(words.split("\n")), LONGEST_PARAGRAPHS)
    return f'<figure class="plot"><img alt="{told}" src="data:image/png;base64,{data}"></figure>'


# ---- the experiments --------------------------------------------------------------------------


def _experiments(book: Logbook, summary: _Summary) -> Iterator[str]:
    """Yield the sections, the oldest first; the log is read a second time, a record at a time."""
    left = summary.total - len(summary.chosen)
    cut = f"<p>The newest {len(summary.chosen):,} are here; {left:,} older ones are left out.</p>"
    yield f'<section id="experiments"><h2>Experiments</h2>{cut if left else ""}'
    yield _list_of_experiments(summary)
    numbers: dict[tuple[datetime | None, str], list[int]] = {}
    for number, entry in enumerate(summary.chosen, 1):
        numbers.setdefault((entry.time, entry.id), []).append(number)
    sections: dict[int, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TornLineWarning)
        for record in book.records() if numbers else ():
            if left_of_it := numbers.get((time_of(record), record.id)):
                number = left_of_it.pop(0)  # a log may hold a record twice
                sections[number] = _section(number, record, entry_of(record))
    for _, section in sorted(sections.items()):
        yield section
    yield "</section>\n"


def _section(number: int, record: Record, entry: Entry) -> str:
    parts = (
        f'<section class="experiment" id="experiment-{number}">'
        f"<h3>{number}. {_e(entry.title or entry.experiment)}</h3>",
        _facts_line(record, entry),
        _paragraphs(record.experiment.get("explanation", ""), LONGEST_PARAGRAPHS),
        _answers_table(record, entry),
        _rule(record),
        _address_space(record),
        _differences(record),
        _later(record),
        _recipe(record),
        "</section>\n",
    )
    return "".join(parts)


def _facts_line(record: Record, entry: Entry) -> str:
    told = [
        f"<code>{_e(entry.experiment)}</code>",
        f"{time_text(entry.time, 'milliseconds')} UTC",
        f"Linux {_e(entry.kernel)}, {_e(record.facts.machine)}",
        "unknown user" if entry.uid is None else f"uid {entry.uid}",
    ]
    mark = ""
    if entry.origin != LIVE:
        mark = f'<p class="origin">{_e(mark_text(entry.origin))}</p>'
    return f'<p class="meta">{" · ".join(told)}</p>{mark}'


def _answers_table(record: Record, entry: Entry) -> str:
    """Write side by side what was predicted and what the kernel said."""
    by = f" by <code>{_e(entry.rule)}</code>" if entry.rule else ""
    rows = [("The specification said", f"{_e(entry.predicted)}{by}")]
    if entry.learner:
        tone, word = {True: (HOLDS, "right"), False: (REFUSES, "wrong"),
                      None: (UNKNOWN, "not answered")}[entry.right]  # fmt: skip
        rows.append(("The learner said", f"{_e(entry.learner)}: {_mark(tone, word)}"))
    said = "The specification stands in" if entry.origin == PREDICTED else "The kernel said"
    answer = _mark(sign_of(entry), entry.verdict)
    if entry.ended:
        answer += f" ({_e(entry.ended)})"
    rows.append((said, answer))
    if entry.agrees is False:
        told = "".join(f"<li>{_e(t)}</li>" for t in record.agreement.disagreements[:MOST_ROWS])
        listed = f"<ul>{told}</ul>" if told else ""
        rows.append(("They disagree", f'<strong class="disagrees">≠</strong>{listed}'))
    body = "".join(f'<tr><th scope="row">{name}</th><td>{told}</td></tr>' for name, told in rows)
    return f'<table class="facts">{body}</table>'


def _rule(record: Record) -> str:
    """Write the rule that decides, with its numbers and where it stands in the kernel."""
    name = record.prediction.rule
    if not name:
        return ""
    rule = RULE.get(name) or LEGACY_RULE.get(name)
    told = [f"<p><strong>The rule.</strong> <code>{_e(name)}</code>"]
    if rule is not None:
        told.append(f": {_e(rule.title)}. <small>{_e(rule.source)}; {_e(rule.history)}.</small>")
    told.append(f"</p><p>Here <code>{_e(record.prediction.numbers)}</code>.</p>")
    others = [other for other in record.prediction.broken[:MOST_ROWS] if other != name]
    if others:
        listed = ", ".join(f"<code>{_e(other)}</code>" for other in others)
        told.append(f"<p>Broken as well, but not asked any more: {listed}.</p>")
    return "".join(told)


def _address_space(record: Record) -> str:
    """Draw the address space before and after the call, or beside it what was refused."""
    try:
        picture, caption = _layout_of(record)
    except InputError as error:
        return f'<p class="missing">There is no picture of the address space: {_e(str(error))}.</p>'
    return (
        f'<figure class="space">{address_space_svg(picture)}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _layout_of(record: Record) -> tuple[Layout, str]:
    """Lay out what happened: before and after, or beside what stayed the map that was asked for."""
    before, facts = recorded_snapshot(record.before), _believable(record.facts)
    title = f"Address space, {clear(record.experiment.get('id'), 40)}"
    if record.outcome.verdict == "accepted" and record.after is not None:
        after = recorded_snapshot(record.after.on(record.before))
        picture = layout(after, before=before, facts=facts)
        return replace(picture, title=title), "The address space before the call and after it."
    members = before.members
    asked = {name: int(value, 16) for name, value in record.map.items() if name in members}
    picture = layout(before, draft=asked, facts=facts)
    heads = ("as it is", "asked for")
    columns = (replace(c, heading=h) for c, h in zip(picture.columns, heads, strict=True))
    stays = "stays" if record.after is not None else "was before the call"
    caption = f"The address space as it {stays}, and the map that was asked for."
    return replace(picture, title=title, columns=tuple(columns)), caption


def _believable(facts: Facts) -> Facts | None:
    """Return facts by which a picture can be drawn, None for what no kernel is like."""
    pages = facts.page_size in {1 << shift for shift in range(12, 17)}
    return facts if pages and 0 <= facts.lowest < facts.highest < 1 << 64 else None


_DIFFERENCE = ("place", "name", "before", "after")


def _differences(record: Record) -> str:
    if record.after is None:
        return "<p>What the call changed is not known.</p>"
    if not record.difference:
        return "<p>The call changed nothing that <code>/proc</code> shows.</p>"
    caption = f"What the call changed in /proc: {_number(len(record.difference), 'difference')}"
    return _limited_table(caption, record.difference)


def _later(record: Record) -> str:
    """Write what the steps after the call were answered, and what they changed."""
    if not record.answers and not record.later:
        return ""
    items = []
    for answer in record.answers[:MOST_ROWS]:
        told = f"<code>{_e(answer.step)}</code>: <code>{_e(answer.answer or answer.refusal)}</code>"
        told = told if answer.answer or answer.refusal else f"<code>{_e(answer.step)}</code>: done"
        if answer.expected:
            sign = HOLDS if answer.as_expected else BROKEN
            told += f", expected <code>{_e(answer.expected)}</code> {_mark(sign, '')}"
        items.append(f"<li>{told}</li>")
    left = len(record.answers) - len(items)
    more = f"<p>{left:,} more answers are left out.</p>" if left > 0 else ""
    changed = ""
    if record.later:
        number = _number(len(record.later), "difference")
        changed = _limited_table(f"What those steps changed: {number}", record.later)
    return (
        f"<p><strong>The steps after the call</strong></p><ol>{''.join(items)}</ol>{more}{changed}"
    )


def _limited_table(caption: str, rows: Sequence[tuple[str, str, str, str]]) -> str:
    left = len(rows) - MOST_ROWS
    more = f"; {left:,} are left out" if left > 0 else ""
    return _table(caption + more, _DIFFERENCE, rows[:MOST_ROWS], fixed=True)


def _recipe(record: Record) -> str:
    """Write the experiment as a recipe, and how to run it again."""
    try:
        experiment = experiment_from(from_in_text_form(dict(record.experiment)))
        text = recipe_text(Recipe(experiment.title, (experiment,)))
    except InputError as error:
        return f'<p class="missing">There is no recipe: {_e(str(error))}.</p>'
    if len(text) > LONGEST_RECIPE:
        return f'<p class="missing">The recipe is too long to print: {len(text):,} characters.</p>'
    return (
        '<p class="again"><strong>To run it again</strong>, save this as <code>again.toml</code>, '
        "then <code>prctlmm-lab run again.toml</code>; "
        "<code>prctlmm-lab replay</code> does so with a whole log:</p>"
        f'<pre tabindex="0" aria-label="recipe">{escape(text)}</pre>'
    )


# ---- pieces of HTML ---------------------------------------------------------------------------


def _e(text: object, room: int = LONGEST_CELL) -> str:
    """Return a text from outside as HTML: visible, no markup, and not too long."""
    return escape(clear(text, room))


def _mark(sign: Sign, word: str) -> str:
    """Write a symbol and a word; the colour says nothing that they do not."""
    return f'<b class="mark" style="color:{sign.colour}">{sign.symbol} {_e(word)}</b>'


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _paragraphs(text: object, most: int) -> str:
    if not isinstance(text, str) or not text:
        return ""
    cut = text if len(text) <= most else f"{text[:most]}…"
    lines = (visible(line.strip()) for line in cut.splitlines())
    return "".join(f"<p>{escape(line)}</p>" for line in lines if line)


def _table(
    caption: str, heads: Iterable[str], rows: Iterable[Iterable[str]], *, fixed: bool = False
) -> str:
    head = "".join(f'<th scope="col">{_e(name)}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_e(text)}</td>' for text in row)}</tr>" for row in rows)
    kind = "rows fixed" if fixed else "rows"
    return (
        f'<div class="wide"><table class="{kind}"><caption>{_e(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


_STYLE = f"""
:root {{ color-scheme: light; }}
body {{ margin: 0 auto; max-width: 50rem; padding: 2rem 1.25rem 4rem; background: #fff;
  overflow-wrap: anywhere;
  color: {INK}; font: 16px/1.5 "DejaVu Sans", "Liberation Sans", Helvetica, Arial, sans-serif; }}
h1 {{ font-size: 1.8rem; line-height: 1.2; margin: 0 0 .3rem; }}
h2 {{ font-size: 1.3rem; margin: 2.5rem 0 .7rem; padding-bottom: .2rem;
  border-bottom: 2px solid {INK}; }}
h3 {{ font-size: 1.1rem; margin: 0 0 .2rem; }}
p {{ margin: .5rem 0; }}
a {{ color: #0b5c8f; }}
a:focus-visible, pre:focus-visible {{ outline: 3px solid #0072b2; outline-offset: 2px; }}
code, pre, table.fixed td {{ font-family: "DejaVu Sans Mono", "Liberation Mono", Menlo, Consolas,
  monospace; font-size: .84em; overflow-wrap: anywhere; }}
pre {{ background: #f4f4f4; border: 1px solid {FAINT}; padding: .6rem .8rem; overflow-x: auto;
  white-space: pre-wrap; line-height: 1.4; }}
.author {{ font-size: 1.1rem; margin-top: 0; }}
.meta, small, footer, figcaption, .missing {{ color: {SOFT}; font-size: .84rem; }}
.origin {{ border-left: 4px solid #b8860b; padding: .1rem .6rem; background: #fdf6e3; }}
.disagrees {{ color: {DISAGREES}; }}
nav ul {{ list-style: none; padding: 0; display: flex; gap: 1.5rem; flex-wrap: wrap; }}
nav ol {{ columns: 2; column-gap: 1.5rem; font-size: .84rem; padding: 0; }}
nav li {{ break-inside: avoid; overflow-wrap: anywhere; }}
nav ol li {{ margin: 0 0 .15rem 2.6rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; margin: .7rem 0; font-size: .88rem; }}
th, td {{ text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0;
  border-bottom: 1px solid #d8d8d8; }}
td {{ overflow-wrap: break-word; }}
th {{ font-weight: normal; color: {SOFT}; }}
td ul {{ margin: .2rem 0; padding-left: 1.2rem; }}
table.facts th {{ width: 13rem; }}
caption {{ text-align: left; font-weight: bold; padding: .3rem 0; }}
table.fixed {{ table-layout: fixed; }}
table.fixed td {{ overflow-wrap: anywhere; }}
table.fixed th:nth-child(1) {{ width: 10%; }}
table.fixed th:nth-child(2) {{ width: 24%; }}
figure {{ margin: 1rem 0; }}
figure.plot img {{ display: block; width: 100%; max-width: 24cm; height: auto; }}
figure.space svg {{ display: block; }}
section.experiment {{ border-top: 1px solid {FAINT}; padding-top: 1.1rem; margin-top: 1.6rem; }}
footer {{ margin-top: 3rem; border-top: 1px solid {FAINT}; }}
@media (max-width: 40rem) {{
  nav ol {{ columns: 1; }}
  table.facts th {{ width: 8rem; }}
}}
@page {{ size: A4; margin: 16mm 16mm 18mm; }}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 10.5pt; }}
  a {{ color: inherit; text-decoration: none; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  h2, h3, caption, .meta, .again {{ break-after: avoid; }}
  figure, tr, table.facts {{ break-inside: avoid; }}
  figure.space svg {{ max-height: 24cm; }}
  pre {{ break-inside: avoid-page; }}
  .wide {{ overflow: visible; }}
}}
"""
