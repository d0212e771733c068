"""Make the book: every notebook, executed, as pages that open from disk without a network.

`python -m docs.book [--out FOLDER] [NOTEBOOK ...]`, from the top folder; `make book` makes all of
it in build/book. Exit status 1, and one sentence, if a notebook does not run to its end.

Two notebooks run at a time, each with a kernel and a logbook of its own. The pages replace those of
an earlier run only when all of them are there.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from docs.pages import Page, Way, markdown_html, notebook_html, page_html, title_of

TOP = Path(__file__).resolve().parents[1]
CONTENTS = TOP / "notebooks" / "README.md"
OUT = TOP / "build" / "book"
HOME = Way("index.html", "Rewrite an address space")
SHEET = Way("cheatsheet.pdf", "Cheat sheet (PDF, one page)")
AT_ONCE = 2
SECONDS = 600
"""How long a notebook may take; a cell of it has the deadline of the tests."""
_OWN = "~/.local/share/prctlmm-lab"
"""Where a learner's logbook lies, in place of the folder that it lay in here."""


class DoesNotRun(Exception):
    """A notebook did not run to its end; the message is one sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the book and say where it is; 1 if a notebook does not run, 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m docs.book", description="Make the book.")
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="only these")
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="FOLDER", help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    paths = options.notebooks or [*(TOP / "notebooks").glob("*.ipynb")]
    for path in paths:
        if not path.is_file():
            parser.error(f"{path} is no notebook")
    try:
        make(sorted(paths, key=lambda path: path.name), options.out)
    except DoesNotRun as error:
        print(f"docs.book: {error}", file=sys.stderr)
        return 1
    print(options.out / HOME.to)
    return 0


def make(paths: Sequence[Path], out: Path) -> None:
    """Execute notebooks and write the book of them; they stand in it in the order given.

    Raises DoesNotRun; an earlier book then stays as it is.
    """
    from prctlmm_lab.views.cheatsheet import cheat_sheet
    from prctlmm_lab.views.pictures import save

    book = Book(paths, [*executed(paths)])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".book-") as folder:
        fresh = Path(folder, "book")
        book.write(fresh)
        save(cheat_sheet(), fresh / SHEET.to)
        if out.exists():
            out.rename(Path(folder, "old"))
        fresh.rename(out)


# ---- execution ---------------------------------------------------------------------------------


def executed(paths: Sequence[Path]) -> Iterator[Any]:
    """Yield the notebooks with their outputs, in their order.

    Raises DoesNotRun.
    """
    with ProcessPoolExecutor(AT_ONCE, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(_execute, path) for path in paths]
        try:
            for path, each in zip(paths, running, strict=True):
                notebook, problem = each.result(SECONDS * len(paths))
                if problem:
                    raise DoesNotRun(f"{path.name} does not run to its end: {problem}")
                yield notebook
        finally:
            pool.shutdown(cancel_futures=True)


def _execute(path: Path) -> tuple[Any, str]:
    """Run a notebook in this process's own kernel; return it, and in a sentence what went wrong."""
    import nbformat
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    from tests.notebooks.execution import execute, problems

    with tempfile.TemporaryDirectory(prefix="logbook-") as folder:
        os.environ["PRCTLMM_LAB_LOGBOOK"] = os.path.join(folder, "logbook.jsonl")
        try:
            notebook = execute(path.resolve())
        except CellExecutionError as error:
            return None, f"{error.ename}: {error.evalue}"
        except (CellTimeoutError, DeadKernelError) as error:
            return None, str(error).splitlines()[0]
        text = nbformat.writes(notebook).replace(folder, _OWN)
    return nbformat.reads(text, as_version=4), "; ".join(problems(notebook))


# ---- pages -------------------------------------------------------------------------------------


class Book:
    """The pages of some executed notebooks, the contents before them, and files they link to."""

    def __init__(self, paths: Sequence[Path], notebooks: Sequence[Any]) -> None:
        self.paths = [path.resolve() for path in paths]
        self.notebooks = notebooks
        self.files: dict[Path, str] = {}
        """Files outside of the notebooks' folder that a page links to -> their names here."""

    def write(self, folder: Path) -> None:
        """Write every page, what it links to, and the style."""
        folder.mkdir(parents=True)
        shutil.copy(TOP / "docs" / "book.css", folder)
        for page in self.pages():
            made = page_html(page, made_on(), HOME, SHEET)
            (folder / page.name).write_text(made, encoding="utf-8")
        for path, name in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md":
                target.write_text(
                    page_html(_text_page(path, name), made_on(), HOME, SHEET), "utf-8"
                )
            else:
                shutil.copyfile(path, target)

    def pages(self) -> Iterator[Page]:
        """Yield the contents, then the notebooks."""
        body = markdown_html(CONTENTS.read_text("utf-8"), lambda to: self.resolve(CONTENTS, to))
        ways = [HOME, *(Way(_page_name(p), self._words(n)) for n, p in enumerate(self.paths))]
        yield Page(HOME.to, HOME.words, body, after=ways[1] if len(ways) > 1 else None)
        for number, (path, notebook) in enumerate(zip(self.paths, self.notebooks, strict=True), 1):
            body = notebook_html(notebook, lambda to, path=path: self.resolve(path, to))  # type: ignore[misc]
            after = ways[number + 1] if number + 1 < len(ways) else None
            before = Way(HOME.to, "Contents") if number == 1 else ways[number - 1]
            yield Page(_page_name(path), ways[number].words, body, before, after)

    def _words(self, number: int) -> str:
        return f"{self.paths[number].name[:2]} {title_of(self.notebooks[number])}"

    def resolve(self, at: Path, to: str) -> str | None:
        """Return where a link of a file leads in the book; None if the book does not have it."""
        if re.match(r"[a-z]+:|#", to):
            return to
        name, _, place = to.partition("#")
        path = (at.parent / name).resolve()
        place = f"#{place}" if place else ""
        if path in self.paths:
            return _page_name(path) + place
        if path == CONTENTS:
            return HOME.to + place
        if path.suffix == ".ipynb" or not path.is_file() or not path.is_relative_to(TOP):
            return None
        name = str(path.relative_to(TOP))
        self.files[path] = (
            f"files/{name.removesuffix('.md')}.html" if name.endswith(".md") else f"files/{name}"
        )
        return self.files[path] + place


def _page_name(path: Path) -> str:
    return f"{path.stem}.html"


def _text_page(path: Path, name: str) -> Page:
    """Return a text of the project as a page; only its links to elsewhere lead on."""
    text = path.read_text("utf-8")
    title = text.partition("\n")[0].removeprefix("# ")
    return Page(
        name, title, markdown_html(text, lambda to: to if re.match(r"https?:|#", to) else None)
    )


def made_on() -> str:
    """Say on which kernel the pages were made, and by whom: that decides what the cells show."""
    from prctlmm_lab import __version__
    from prctlmm_lab.specimen.recording import mode

    user = f", as uid {os.geteuid()}" if hasattr(os, "geteuid") else ""
    recorded = "; its answers come from a recording" if mode.why() else ""
    return (
        f"Made with prctlmm_lab {__version__} on {platform.system()} {platform.release()} "
        f"({platform.machine()}){user}{recorded}. Run the notebooks to change anything."
    )


if __name__ == "__main__":
    sys.exit(main())
