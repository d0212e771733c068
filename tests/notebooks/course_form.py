"""The form that every notebook of the course keeps: rules, each of which lists what breaks it.

On the command line: `python -m tests.notebooks.course_form NOTEBOOK...`; exit status 1 and one line
for each problem if there is any.
"""

from __future__ import annotations

import ast
import errno
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from prctlmm_lab.kernel.abi import MEMBER
from prctlmm_lab.kernel.facts import Facts

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = ROOT / "notebooks" / "README.md"

METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}
LINES, COLUMNS = 12, 100
"""What a cell of code may have at most."""
EXERCISES = 3
"""How many a notebook has at least."""
CHECK = re.compile(r'check\("(\d\d\.\d+)", answer\)')
PROMPT = re.compile(r"^\*\*Exercise (\d\d\.\d+): .+?[.?!]\*\* \S", re.MULTILINE)


@dataclass(frozen=True)
class Notebook:
    """A notebook as its file has it."""

    path: Path
    text: str

    @property
    def number(self) -> str:
        """The two digits that its name begins with."""
        return self.path.name[:2]

    @property
    def data(self) -> Any:
        """The whole document."""
        return json.loads(self.text)

    def cells(self, kind: str) -> list[str]:
        """Return the sources of the cells of a kind, "markdown" or "code"."""
        found = (cell for cell in self.data["cells"] if cell["cell_type"] == kind)
        return ["".join(cell["source"]) for cell in found]


Rule = Callable[[Notebook], Iterator[str]]


def read(path: Path) -> Notebook:
    """Read a notebook."""
    return Notebook(path, path.read_text("utf-8"))


# ---- the file ----------------------------------------------------------------------------------


def file_form(notebook: Notebook) -> Iterator[str]:
    """Hold the file to one way of writing, so that a change of a word changes a line."""
    if notebook.text != json.dumps(notebook.data, indent=1, ensure_ascii=False) + "\n":
        yield "is not written with indent=1, ensure_ascii=False and a newline at the end"
    if (notebook.data["nbformat"], notebook.data["nbformat_minor"]) != (4, 5):
        yield "is not of nbformat 4.5"
    if notebook.data["metadata"] != METADATA:
        yield f"has the metadata {notebook.data['metadata']}"


def identities(notebook: Notebook) -> Iterator[str]:
    """Want an id of its own for each cell: the notebook's number and two digits."""
    ids = [cell.get("id", "") for cell in notebook.data["cells"]]
    wrong = [each for each in ids if not re.fullmatch(rf"{notebook.number}-\d\d", each)]
    if wrong:
        yield f"has cells with the ids {wrong}"
    if len(set(ids)) < len(ids):
        yield "has two cells with one id"


def no_outputs(notebook: Notebook) -> Iterator[str]:
    """Want nothing of a run to be kept."""
    for cell in notebook.data["cells"]:
        if cell.get("outputs") or cell.get("execution_count") is not None:
            yield f"cell {cell['id']} has outputs or a count"
        if cell["metadata"]:
            yield f"cell {cell['id']} has metadata"


# ---- code --------------------------------------------------------------------------------------


def short_cells(notebook: Notebook) -> Iterator[str]:
    """Want cells of code that are short and define nothing."""
    for source in notebook.cells("code"):
        lines = source.splitlines()
        if len(lines) > LINES:
            yield f"a cell has {len(lines)} lines: {lines[0]}"
        yield from (f"a line is too long: {line}" for line in lines if len(line) > COLUMNS)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield f"a cell defines {node.name}"


# ---- parts -------------------------------------------------------------------------------------


def opening(notebook: Notebook) -> Iterator[str]:
    """Want a title, what to do, learn and need, and three to six objectives in the first cell."""
    first = notebook.cells("markdown")[0]
    if not re.match(r"# [A-Z]\S* ?.*\n", first):
        yield "does not begin with a title"
    heads = re.findall(r"^\*\*(Do|Learn|Need):\*\* \S", first, re.MULTILINE)
    if heads != ["Do", "Learn", "Need"]:
        yield f"begins with {heads}, not with Do, Learn, Need"
    if minutes_of(first) is None:
        yield "does not say how many minutes it needs"
    objectives = re.split(r"^\*\*Afterwards you can\*\*$", first, flags=re.MULTILINE)[1:]
    number = len(re.findall(r"^(?:-|\d\.) \S", objectives[0], re.MULTILINE)) if objectives else 0
    if not 3 <= number <= 6:
        yield f"has {number} objectives, not three to six"


def minutes_of(first: str) -> int | None:
    """Return the minutes that a first cell says the notebook needs; all of them, if it says more.

    >>> minutes_of("**Need:** one minute for the first, 20 minutes for all of it")
    20
    """
    need = re.search(r"^\*\*Need:\*\*(.*)$", first, re.MULTILINE)
    found = re.findall(r"(\d+) minutes?\b", need[1]) if need else []
    return max(map(int, found), default=None)


def exercises(notebook: Notebook) -> Iterator[str]:
    """Want a prompt for each exercise, and directly after it a cell that ends with its check."""
    if "\n## Exercises\n" not in "".join(f"\n{text}\n" for text in notebook.cells("markdown")):
        yield "has no section Exercises"
    found, before = [], ""
    for cell in notebook.data["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and (asked := CHECK.search(source)):
            found.append(asked[1])
            if not source.startswith("answer = ") or not source.endswith(f"\n{asked[0]}"):
                yield f"exercise {asked[1]}: the cell is not a stub and its check"
            prompts = PROMPT.findall(before)
            if prompts[-1:] != [asked[1]]:
                yield f"exercise {asked[1]}: the cell before it does not end with its prompt"
        before = source if cell["cell_type"] == "markdown" else ""
    if found != [f"{notebook.number}.{n}" for n in range(1, len(found) + 1)]:
        yield f"has its exercises in the order {found}"
    if len(found) < EXERCISES:
        yield f"has {len(found)} exercises, not at least {EXERCISES}"


def ending(notebook: Notebook) -> Iterator[str]:
    """Want its limits at the end, and the way to the notebook that follows."""
    texts = notebook.cells("markdown")
    if not any(re.search(r"^## What this does not show$", text, re.MULTILINE) for text in texts):
        yield "has no section What this does not show"
    names = [name for _, name in contents_rows()]
    following = dict(zip(names, [*names[1:], ""], strict=True)).get(notebook.path.name, "")
    found = re.findall(r"\*\*Next:\*\* \[[^]]+\]\(([^)]+)\)", texts[-1])
    if following and found != [following]:
        yield f"leads on to {found}, not to {following}"


def contents_rows() -> list[tuple[str, str]]:
    """Return number with title, and file, of the notebooks in the table of contents."""
    return re.findall(r"^\| \[(\d\d [^]]+)\]\(([^)]+)\) \|", CONTENTS.read_text(), re.MULTILINE)


# ---- links and names ---------------------------------------------------------------------------


def links(notebook: Notebook) -> Iterator[str]:
    """Follow every link to a file, and to a heading in one."""
    for text in notebook.cells("markdown"):
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?://", target):
                continue
            name, _, place = target.partition("#")
            path = notebook.path.parent / name if name else notebook.path
            if not path.exists():
                yield f"a link leads to {target}, which is not there"
            elif place and place not in _places(path):
                yield f"a link leads to {target}, which has no such heading"


def _places(path: Path) -> set[str]:
    """Return the names of a notebook's or a text's headings, as JupyterLab makes them."""
    texts = read(path).cells("markdown") if path.suffix == ".ipynb" else [path.read_text("utf-8")]
    heads = re.findall(r"^#+ (.+)$", "\n".join(texts), re.MULTILINE)
    return {head.strip().replace(" ", "-") for head in heads}


_LIKE_A_MEMBER = re.compile(
    r"\b(?:(?:start|end|arg|env|auxv|exe)_[a-z]+|[a-z]+_(?:start|end|brk|fd))\b"
)
_NAMES = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")
_OF_THE_FIELD = frozenset(["vm_start", "vm_end", *(each.name for each in fields(Facts))])
DELIBERATE = {"11": {"arg_strat"}}
"""Wrong names that a notebook shows as such."""


def member_names(notebook: Notebook) -> Iterator[str]:
    """Want each word that looks like a member's name to be one, or a name of the code."""
    code = [ast.parse(source) for source in notebook.cells("code")]
    known = {name for tree in code for name in _identifiers(tree)}
    texts = [*notebook.cells("markdown"), *(text for tree in code for text in _strings(tree))]
    known |= DELIBERATE.get(notebook.number, set())
    yield from misspelt_members("\n".join(texts), known)


def misspelt_members(text: str, known: set[str]) -> Iterator[str]:
    """List the words of a text that are nearly a member's name, or made like one, but are none."""
    words = {*_NAMES.findall(text)} - MEMBER.keys() - known - _OF_THE_FIELD
    for word in sorted(words):
        near = get_close_matches(word, MEMBER, n=1, cutoff=0.8)
        if near or _LIKE_A_MEMBER.fullmatch(word):
            yield f"{word} is no member" + (f"; {near[0]} is" if near else "")


def _identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name"):
            if isinstance(value := getattr(node, field, None), str):
                yield value


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


# ---- prose -------------------------------------------------------------------------------------

_EMPTY_WORDS = re.compile(r"\b(simply|obviously|trivially|of course)\b", re.IGNORECASE)
_ONLY = re.compile(
    r"\b(?:you|can|to|we|will) just\b(?! as\b| now\b)|\bjust (?:add|call|run|set|type|use|write)\b",
    re.IGNORECASE,
)
"""`just` where it belittles what is to be done; "just that order" and "has just ended" are fine."""
_UNDONE = re.compile(r"\b(TODO|FIXME|XXX|TBD)\b")
_MISSPELT = re.compile(
    r"\b(kernal|adress\w*|addres|seperat\w+|occured|priviledge\w*|privelege\w*|auxill?ary|recieve\w*"
    r"|namspace|existant|syscal)\b", re.IGNORECASE
)  # fmt: skip
_ERRNOS = re.compile(rf"\b({'|'.join(sorted(errno.errorcode.values(), key=len, reverse=True))})\b")
_NEARLY_ERRNOS = re.compile(r"\bE(?:INAVL|IVNAL|INVALID|PREM|FUALT|ACCESS|CCES|BUSSY)\b")


def prose(notebook: Notebook) -> Iterator[str]:
    """Want a text without spaces too many, empty words, or things left to do."""
    for text in notebook.cells("markdown"):
        yield from prose_problems(text)


def prose_problems(text: str) -> Iterator[str]:
    """List what is wrong with a text in Markdown."""
    for line in text.splitlines():
        if line != line.rstrip():
            yield f"a space at the end: {line!r}"
    said = without_code(text)
    for line in said.splitlines():
        if re.search(r"\S  +\S", line) and not line.startswith("|"):
            yield f"two spaces: {line.strip()!r}"
    for pattern in (_EMPTY_WORDS, _ONLY, _UNDONE, _MISSPELT, _NEARLY_ERRNOS):
        yield from (f"{found[0]!r} in the text" for found in pattern.finditer(said))


def field_words(notebook: Notebook) -> Iterator[str]:
    """Want errnos and members in code font; headings and prompts are free."""
    for text in notebook.cells("markdown"):
        said = re.sub(r"^#.*$|^\*\*Exercise .*", "", without_code(text), flags=re.MULTILINE)
        said = re.sub(r"\[[^]]*\]\([^)]*\)", "", said)  # titles of notebooks
        names = (name for name in _NAMES.findall(said) if name in MEMBER)
        for name in sorted({*_ERRNOS.findall(said), *names}):
            yield f"{name} does not stand in code font"


def without_code(text: str) -> str:
    """Return a text in Markdown without its blocks of code; code font becomes one letter."""
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]+`", "x", text)


RULES: Sequence[Rule] = (
    file_form, identities, no_outputs, short_cells, opening, exercises, ending, links,
    member_names, prose, field_words,
)  # fmt: skip


def problems(notebook: Notebook) -> list[str]:
    """List what breaks any rule."""
    return [f"{rule.__name__}: {problem}" for rule in RULES for problem in rule(notebook)]


def main(paths: list[str]) -> int:
    """Print the problems of the notebooks named."""
    found = [f"{path}: {problem}" for path in paths for problem in problems(read(Path(path)))]
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
