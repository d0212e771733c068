"""How long each notebook takes, from the start of its kernel to its last cell; also when solved."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from bench.measure import HERE, Row
from tests.notebooks.execution import execute

NOTEBOOKS = HERE.parent / "notebooks"


def rows() -> list[Row]:
    """Run every notebook twice; the yardstick is the minute that each may take."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.environ["PRCTLMM_LAB_LOGBOOK"] = f"{folder}/logbook.jsonl"
        return [
            Row(f"{path.name[:2]} {how}", _seconds(path, solved=solved), 60.0, "s", "< 1")
            for path in sorted(NOTEBOOKS.glob("*.ipynb"))
            for how, solved in (("as it is", False), ("solved", True))
        ]


def _seconds(path: Path, *, solved: bool) -> float:
    started = time.perf_counter()
    execute(path, solved=solved)
    return time.perf_counter() - started
