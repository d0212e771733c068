"""Execute a notebook from top to bottom, and find every error in it, those inside widgets too.

An exception in a button handler, in `interact` or in `@out.capture` does not stop an execution. So
the outputs of the cells and the state of the widgets are searched afterwards.

On the command line: `python tests/notebooks/execution.py NOTEBOOK...`; exit status 1 and one line
for each problem if there is any.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
MARK = "data-lab-error"
"""What the lab's widgets put into the HTML of an error that nobody expected."""


def execute(path: Path, *, seconds: int = 120) -> Any:
    """Run all cells in a fresh kernel, in the notebook's own folder, and return the notebook.

    Raises CellExecutionError where a cell raises, CellTimeoutError after `seconds` for one cell.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
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


def _errors(output: Any) -> Iterator[str]:
    if output.get("output_type") == "error":
        yield f"{output.get('ename')}: {output.get('evalue')}"
    text = str(output.get("text", "")) + str(output.get("data", {}).get("text/html", ""))
    if "Traceback (most recent call last)" in text or MARK in text:
        yield text.strip().splitlines()[-1]


def main(arguments: list[str]) -> int:
    """Execute the notebooks named and print their problems."""
    failed = False
    for argument in arguments:
        found = problems(execute(Path(argument)))
        for problem in found:
            print(f"{argument}: {problem}")
        failed = failed or bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
