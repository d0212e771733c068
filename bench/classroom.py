"""A class at once: thirty kernels run notebook 02 on this machine, and what each of them takes.

Every learner has a kernel of their own (and with it a specimen for each Explorer), sockets in a
folder of their own and a logbook of their own. Memory is the proportional set size: what several
share counts once. Nothing ends before all have finished, as in a class.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import HERE, Row
from tests.browser.jupyterlab import server
from tests.notebooks.execution import problems

LEARNERS = 30
SECONDS = 600
"""How long a cell may take when all want the processors."""
NOTEBOOK = HERE.parent / "notebooks" / "02-explore.ipynb"


@dataclass(frozen=True)
class Learner:
    """What came of one learner's run."""

    seconds: float
    """From the start of the kernel to the end of the last cell."""
    memory: int
    """Bytes, of the kernel and all that it started, when all have finished."""
    problems: tuple[str, ...]


def rows() -> list[Row]:
    """Measure a class of thirty, and a server for one of them."""
    started = time.perf_counter()
    before = _processor_time()
    learners = classroom(LEARNERS)
    whole, used = time.perf_counter() - started, _processor_time() - before
    times = [learner.seconds for learner in learners]
    memory = statistics.median(learner.memory for learner in learners) / 1e6
    failed = [problem for learner in learners for problem in learner.problems]
    name = f"class of {LEARNERS}"
    print(*dict.fromkeys(failed), sep="\n", end="\n" if failed else "")
    return [
        Row(f"{name}, notebooks that failed", float(len(failed)), None, "", "0"),
        Row(f"{name}, notebook 02, median", statistics.median(times), None, "s", ""),
        Row(f"{name}, notebook 02, slowest", max(times), None, "s", ""),
        Row(f"{name}, with start and end", whole, None, "s", ""),
        Row("processor time of a learner", used / LEARNERS, None, "s", ""),
        Row("memory of a learner's kernel", memory, None, "MB", ""),
        Row("memory of a learner's JupyterLab", _server_memory() / 1e6, None, "MB", ""),
    ]


def classroom(learners: int, notebook: Path = NOTEBOOK) -> list[Learner]:
    """Run a notebook in so many kernels at once; all have ended when it returns.

    Raises CellTimeoutError if a cell takes longer than the deadline, DeadKernelError if a kernel is
    lost.
    """
    with tempfile.TemporaryDirectory(prefix="classroom-") as folder:
        return asyncio.run(_class(learners, notebook, Path(folder)))


async def _class(learners: int, notebook: Path, folder: Path) -> list[Learner]:
    all_done = asyncio.Barrier(learners)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_learner(notebook, folder / str(number), all_done))
            for number in range(learners)
        ]
    return [task.result() for task in tasks]


async def _learner(path: Path, folder: Path, all_done: asyncio.Barrier) -> Learner:
    import nbformat
    from nbclient import NotebookClient

    folder.mkdir()
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook, timeout=SECONDS, startup_timeout=SECONDS, kernel_name="python3",
        resources=resources, store_widget_state=True, allow_errors=True,
    )  # fmt: skip
    manager = client.create_kernel_manager()
    manager.transport, manager.ip = "ipc", str(folder / "socket")
    manager.connection_file = str(folder / "connection.json")
    environment = os.environ | {"PRCTLMM_LAB_LOGBOOK": str(folder / "logbook.jsonl")}
    started = time.perf_counter()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(client.async_setup_kernel(env=environment))
        for number, cell in enumerate(notebook.cells):
            await client.async_execute_cell(cell, number)
        seconds = time.perf_counter() - started
        client.set_widgets_metadata()
        await all_done.wait()
        kernel: Any = manager.provisioner
        memory = sum(_memory(process) for process in _with_children(kernel.pid))
        await all_done.wait()  # nobody leaves while memory is being looked at
    return Learner(seconds, memory, tuple(problems(notebook)))


def _processor_time() -> float:
    """Return the seconds of all kernels that have ended, and of all that they started."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def _with_children(process: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _with_children(int(child))


def _memory(process: int) -> int:
    """Return the proportional set size of a process, in bytes."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    found: Any = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024


def _server_memory() -> int:
    """Return the bytes of a JupyterLab without a kernel, as a hub starts one for each learner."""
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)):
        ours = [*_with_children(os.getpid())][1:]
        lab = [n for n in ours if b"jupyterlab" in Path(f"/proc/{n}/cmdline").read_bytes()]
        return max(map(_memory, lab))
