"""From an executed notebook, or a text in Markdown, to a page of HTML that needs nothing else.

Markdown and code are converted by nbconvert's own filters; a page holds no script, and nothing on
it is fetched.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from html import escape, unescape
from typing import Any

from docs.still_widgets import VIEW, state_of, still

Resolve = Callable[[str], str | None]
"""The address of a link -> where it leads in the book, or None if it leads nowhere there."""

_LINK = re.compile(r'<a\b(?P<before>[^>]*?)href="(?P<to>[^"]*)"(?P<after>[^>]*)>(?P<text>.*?)</a>',
                   re.DOTALL)  # fmt: skip
_IMAGE = re.compile(r'(<img\b[^>]*?src=")([^"]*)(")')
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Way:
    """A link to a page of the book: its address and its words."""

    to: str
    words: str


@dataclass(frozen=True)
class Page:
    """What a page of the book shows, and where it stands."""

    name: str
    """Its file, as the book's folder has it."""
    title: str
    body: str
    before: Way | None = None
    after: Way | None = None


def title_of(notebook: Any) -> str:
    """Return the title: the first heading of the first cell."""
    found = _TITLE.match(notebook["cells"][0]["source"])
    if found is None:
        raise ValueError("the first cell does not begin with a title")
    return found[1].strip()


# ---- cells -------------------------------------------------------------------------------------


def notebook_html(notebook: Any, resolve: Resolve) -> str:
    """Return all cells of an executed notebook, in their order."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(markdown_html(cell.source, resolve))
        elif cell.source.strip():
            shown = "".join(_output(notebook, cell, output) for output in cell.outputs)
            parts.append(f'<div class="cell">{_code(cell.source)}{shown}</div>')
    return "\n".join(parts)


def markdown_html(text: str, resolve: Resolve) -> str:
    """Return a text with its links and pictures where the book has them."""
    from nbconvert.filters import markdown2html

    html: str = markdown2html(_lines_apart(text))
    html = html.replace("<table>", '<div class="wide"><table>').replace(
        "</table>", "</table></div>"
    )
    html = _IMAGE.sub(lambda found: found[1] + (resolve(found[2]) or found[2]) + found[3], html)
    return f'<div class="text">{_LINK.sub(lambda found: _link(found, resolve), html)}</div>'


def _lines_apart(text: str) -> str:
    """Give the lines Do, Learn and Need paragraphs of their own, as notebooks mean them."""
    return re.sub(r"(?<=[^\n])\n(?=\*\*(?:Do|Learn|Need):\*\*)", "\n\n", text)


def _link(found: re.Match[str], resolve: Resolve) -> str:
    to = resolve(unescape(found["to"]))
    if to is None:
        return found["text"]
    return f'<a{found["before"]}href="{escape(to)}"{found["after"]}>{found["text"]}</a>'


def _code(source: str) -> str:
    from nbconvert.filters import Highlight2HTML

    html: str = Highlight2HTML(pygments_lexer="ipython3")(source.rstrip("\n"))
    return html


def _output(notebook: Any, cell: Any, output: Any) -> str:
    """Return one output, in the richest form that needs no script."""
    from nbconvert.filters import ansi2html

    if output.output_type == "stream":
        said = " said" if output.name == "stderr" else ""
        return f'<pre class="output{said}">{ansi2html(output.text.rstrip())}</pre>'
    if output.output_type == "error":
        return f'<pre class="output said">{ansi2html(chr(10).join(output.traceback))}</pre>'
    data = output.data
    if VIEW in data:
        shown = still(state_of(notebook), data[VIEW]["model_id"])
        note = "Controls work in the notebook; this is how they begin."
        return f'<figure class="rich widget">{shown}<figcaption>{note}</figcaption></figure>'
    if "text/html" in data:
        return f'<div class="rich">{data["text/html"]}</div>'
    if "image/svg+xml" in data:
        return f'<div class="rich">{data["image/svg+xml"]}</div>'
    if "image/png" in data:
        return f'<div class="rich">{_picture(cell, output)}</div>'
    return f'<pre class="output">{ansi2html(str(data.get("text/plain", "")).rstrip())}</pre>'


def _picture(cell: Any, output: Any) -> str:
    made_by = cell.source.rstrip().splitlines()[-1].strip()
    width = output.metadata.get("image/png", {}).get("width")
    size = f' width="{int(width)}" style="min-width:min(34rem,{int(width)}px)"' if width else ""
    image = b64encode(b64decode(output.data["image/png"])).decode("ascii")
    alt = escape(f"Picture made by {made_by}")
    return f'<img{size} alt="{alt}" src="data:image/png;base64,{image}">'


# ---- the page around them ----------------------------------------------------------------------


def page_html(page: Page, made_on: str, home: Way, extra: Way | None = None) -> str:
    """Return a whole page: its way back and forth above and below, and what it was made on."""
    up = "../" * page.name.count("/")
    title = page.title if page.title == home.words else f"{page.title} - {home.words}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{up}book.css">
</head>
<body>
<header><a class="home" href="{up}{home.to}">{escape(home.words)}</a>{_aside(up, extra)}</header>
{_ways(page, "Pages")}
<main>
{page.body}
</main>
{_ways(page, "Pages, again")}
<footer>{escape(made_on)}</footer>
</body>
</html>
"""


def _aside(up: str, extra: Way | None) -> str:
    return f'<a href="{up}{extra.to}">{escape(extra.words)}</a>' if extra else ""


def _ways(page: Page, label: str) -> str:
    if page.before is None and page.after is None:
        return ""
    before, after = (
        f'<a rel="{rel}" href="{escape(way.to)}">{arrow % escape(way.words)}</a>' if way else ""
        for rel, way, arrow in (("prev", page.before, "← %s"), ("next", page.after, "%s →"))
    )
    return f'<nav aria-label="{label}"><span>{before}</span><span>{after}</span></nav>'
