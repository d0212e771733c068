"""Execute a notebook from top to bottom, and find every error in it, those inside widgets too.

An exception in a button handler, in `interact` or in `@out.capture` does not stop an execution. So
the outputs of the cells and the state of the widgets are searched afterwards.

On the command line: `python tests/notebooks/execution.py [--solved] NOTEBOOK...`; exit status 1 and
one line for each problem if there is any. With `--solved` each exercise is answered with its
solution, and one that is then not right is a problem too.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
MARK = "data-lab-error"
"""What the lab's widgets put into the HTML of an error that nobody expected."""


CHECK = re.compile(r'^check\("([\d.]+)", answer\)$', re.MULTILINE)
"""The last line of an exercise's cell."""


def execute(path: Path, *, seconds: int = 120, solved: bool = False) -> Any:
    """Run all cells in a fresh kernel, in the notebook's own folder, and return the notebook.

    If `solved`, each exercise is answered with its solution.

    Raises CellExecutionError where a cell raises, CellTimeoutError after `seconds` for one cell.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells if solved else ():
        cell.source = CHECK.sub(_answered, cell.source)
    with tempfile.TemporaryDirectory(prefix="kernel-") as runtime:
        client = NotebookClient(
            notebook,
            timeout=seconds,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
            store_widget_state=True,
        )
        manager = client.create_kernel_manager()
        # Sockets in a folder of their own: no open port, and nothing left when they are removed.
        manager.transport, manager.ip = "ipc", os.path.join(runtime, "socket")
        manager.connection_file = os.path.join(runtime, "connection.json")
        client.execute()
    return notebook


def problems(notebook: Any) -> list[str]:
    """List what went wrong in an executed notebook: in cells and in widgets."""
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            found += [f"cell {number}: {text}" for text in _errors(output)]
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for model in state.values():
        name, values = model.get("model_name", "?"), model.get("state", {})
        for output in values.get("outputs", ()):
            found += [f"{name}: {text}" for text in _errors(output)]
        if MARK in str(values.get("value", "")):
            found.append(f"{name}: {values['value']}")
    return found


def _answered(check: re.Match[str]) -> str:
    asked = f'__import__("prctlmm_lab.course", fromlist=["course"]).solution("{check[1]}")'
    return f"answer = {asked}\n{check[0]}"


def unsolved(notebook: Any) -> list[str]:
    """List the exercises of an executed notebook that were not told to be right."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and (asked := CHECK.search(cell.source)):
            texts = [str(o.get("data", {}).get("text/plain", "")) for o in cell.outputs]
            if not any(text.startswith(("✓ right.", "… cannot be done here.")) for text in texts):
                found.append(f"exercise {asked[1]}: {' '.join(texts) or 'nothing was told'}")
    return found


def _errors(output: Any) -> Iterator[str]:
    if output.get("output_type") == "error":
        yield f"{output.get('ename')}: {output.get('evalue')}"
    text = str(output.get("text", "")) + str(output.get("data", {}).get("text/html", ""))
    if "Traceback (most recent call last)" in text or MARK in text:
        yield text.strip().splitlines()[-1]


def main(arguments: list[str]) -> int:
    """Execute the notebooks named and print their problems."""
    failed, solved = False, "--solved" in arguments
    for argument in arguments:
        if argument == "--solved":
            continue
        notebook = execute(Path(argument), solved=solved)
        found = problems(notebook) + (unsolved(notebook) if solved else [])
        for problem in found:
            print(f"{argument}: {problem}")
        failed = failed or bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
