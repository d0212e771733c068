"""Make the recordings in data/recorded: run on a real kernel what the notebooks can ask.

`make recordings`, or `python -m tests.record`, which says with `--check` what a recording made now
would tell otherwise, and writes nothing; on Linux, as anybody: what is recorded is what an
ordinary user (uid 65534) gets. It takes about a minute. Whatever is added to a notebook or to a
recipe is recorded the next time.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

from prctlmm_lab.errors import LabError
from prctlmm_lab.experiments.differential import Tally, fuzz
from prctlmm_lab.experiments.experiment import Experiment, run, take_steps
from prctlmm_lab.experiments.scenarios import scenarios
from prctlmm_lab.experiments.sweep import sweep
from prctlmm_lab.experiments.wrong_models import Examination, examine
from prctlmm_lab.kernel.abi import MEMBER
from prctlmm_lab.kernel.procfs import Beside, Snapshot, read_parts
from prctlmm_lab.specimen.build import BUILDS
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording import mode, store
from prctlmm_lab.specimen.recording.recorder import TAPE, RecordingSpecimen, neutral
from prctlmm_lab.specimen.recording.state import State
from prctlmm_lab.specimen.situation import most_at_once, stack_limit_of_reader
from prctlmm_lab.views.exploration import OWN_MEMORY, Exploration, presets
from prctlmm_lab.views.looks import CALLS, Following
from prctlmm_lab.views.sweeping import sweep_presets
from tests.ordinary_user import ROOT, as_ordinary_user

TALLIES: tuple[dict[str, Any], ...] = (
    {"calls": 1_000_000, "effects": False},
    {"calls": 1000, "effects": True},
)
EXAMINATIONS: tuple[dict[str, Any], ...] = ({"calls": 1_000_000, "seconds": 3},)
"""What the notebooks ask of `fuzz` and `examine`."""

MASSES = re.compile(r"fuzz\(|examine\(|\btally\b|smallest")
"""Cells about masses of calls, and about the random call that refuted a model."""

FIRST_ROUND = (
    {"arg_start": "arena.start", "arg_end": "arg_start + 28"},
    {"arg_start": "arena.start", "arg_end": "arg_start + 11"},
    {"end_code": "start_code"},
    {"end_data": "start_data"},
    {"brk": "start_brk"},
    {"arg_end": "arg_start"},
    {"start_stack": "lowest"},
    {"start_stack": "lowest - 1"},
    {"start_stack": "highest"},
    {"start_stack": "highest + 1"},
)
"""What notebook 02 asks a learner to try first."""

BUSY = "Change the exe link: Refused while the old executable is mapped"
BACKWARDS = {"arg_end": "arg_start - 1"}
"""What it asks for last: this preset, and one change more."""

RUNS = (
    Experiment("half the code", change={"end_code": "start_code + 16"}),
    Experiment("no code", change={"end_code": "start_code"}),
    Experiment("no code", change={"start_code": "end_code"}),
)


def main(arguments: list[str]) -> int:
    """Record as an ordinary user, and write the file."""
    if arguments == ["--to-stdout"]:
        print(base64.b64encode(recording()).decode("ascii"))
        return 0
    command: list[str | Path] = [sys.executable, "-m", "tests.record", "--to-stdout"]
    done = as_ordinary_user(command, timeout=900)
    sys.stderr.write(done.stderr)
    if done.returncode:
        return done.returncode
    if arguments == ["--check"]:
        return check(base64.b64decode(done.stdout))
    folder = ROOT / "data" / "recorded"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.jsonl.gz"):
        old.unlink()
    path = folder / f"linux-{release()}-{platform.machine()}.jsonl.gz"
    path.write_bytes(base64.b64decode(done.stdout))
    read = store.read(path)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes, {len(read.states):,} states, "
          f"{len(read.edges):,} edges")  # fmt: skip
    return 0


def check(made: bytes) -> int:
    """Compare a recording made now with the one that ships; print what differs."""
    (path,) = (ROOT / "data" / "recorded").glob("*.jsonl.gz")
    now, then = (comparable(gzip.decompress(data)) for data in (made, path.read_bytes()))
    different = [(old, new) for old, new in zip_longest(then, now) if old != new]
    for old, new in different[:5]:
        print(f"recorded: {str(old)[:500]}\nnow:      {str(new)[:500]}")
    if different:
        print(f"{len(different)} lines differ: `make recordings`, if that is meant")
    return int(bool(different))


def comparable(data: bytes) -> list[str]:
    """Return the lines that are the same whenever they are recorded on one kernel."""
    seeded = ('{"schema"', '{"tally"', '{"examination"')
    return [line for line in data.decode("ascii").splitlines() if not line.startswith(seeded)]


def release() -> str:
    """Return the kernel's release without what its builder added."""
    found = re.match(r"\d+(\.\d+)+", platform.release())
    return found[0] if found else platform.release()


def recording() -> bytes:
    """Record everything and return the file."""
    facts = facts_here()
    started = time.monotonic()
    asked = list(function_lines())
    mode.substitute(RecordingSpecimen)
    for part in (starts, notebooks, explorations, follow, sweeps, scenario_benches):
        part()
        said = f"{part.__name__}: {len(TAPE.states)} states, {len(TAPE.edges)} edges"
        print(f"{time.monotonic() - started:5.1f} s  {said}", file=sys.stderr)
    mode.substitute(None)
    TAPE.state(python_state(), of="python")
    with Specimen() as specimen:
        header = {
            "schema": store.SCHEMA,
            "kernel": release(),
            "machine": platform.machine(),
            "date": datetime.now(UTC).date().isoformat(),
            "reader_stack_limit": stack_limit_of_reader(specimen),
            "most_at_once": most_at_once(),
        }
    lines: list[dict[str, Any]] = [
        header,
        {"facts": asdict(replace(facts, release=release()))},
        *asked,
        *TAPE.lines,
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recording.jsonl.gz")
        store.write(path, lines)
        return path.read_bytes()


def function_lines() -> Iterator[dict[str, Any]]:
    """Yield what `fuzz` and `examine` return."""
    kinds: dict[str, tuple[Callable[..., Tally | Examination], tuple[dict[str, Any], ...]]] = {
        "tally": (fuzz, TALLIES),
        "examination": (examine, EXAMINATIONS),
    }
    for kind, (function, many) in kinds.items():
        for arguments in many:
            found = vars(function(**arguments)) | {"kernel": release()}
            assert not found.get("disagreements"), found
            del found["origin"]
            yield {kind: found, "asked": arguments}


def starts() -> None:
    """Start what notebooks and their exercises start, and no more."""
    for build in BUILDS:
        for specimen in (
            Specimen(build),
            Specimen(build, heap_pages=0),
            Specimen(build, arguments=[b"x" * 10_000]),
        ):
            specimen.stop()


def notebooks() -> None:
    """Run the cells of all notebooks but those that ask for masses of calls."""
    import nbformat

    # It comes with ipykernel; only a whole shell knows what a notebook may write.
    ipython: Any = import_module("IPython.core.interactiveshell")
    os.environ["PRCTLMM_LAB_LOGBOOK"] = os.path.join(os.environ["HOME"], "logbook.jsonl")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shell = ipython.InteractiveShell()
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != "code" or MASSES.search(cell.source):
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                shell.run_cell(cell.source).raise_error()
        for value in list(shell.user_ns.values()):
            if isinstance(value, Specimen):
                value.stop()


def explorations() -> None:
    """Run what the Explorer offers: every preset, and each landmark of each member."""
    for experiment in RUNS:
        run(experiment)
    for build in BUILDS:
        for experiment in presets().values():
            explore(build, experiment)
        for change in FIRST_ROUND:
            explore(build, replace(OWN_MEMORY, change=change))
        busy = presets()[BUSY]
        explore(build, replace(busy, rule="", change={**busy.change, **BACKWARDS}))
        for member, formula in landmarks(build):
            explore(build, replace(OWN_MEMORY, change={member: formula}))


def landmarks(build: str) -> list[tuple[str, str]]:
    """Return the stops of each member's slider."""
    exploration = Exploration(logbook=None)
    exploration.choose_build(build)
    stops = [(m, mark.formula) for m in MEMBER for mark in exploration.landmarks(m) if mark.formula]
    exploration.close()
    return stops


def explore(build: str, experiment: Experiment) -> None:
    """Run an experiment as the Explorer does, as far as it can be set up."""
    exploration = Exploration(logbook=None)
    try:
        exploration.choose_build(build)
        exploration.choose_preset(experiment)
        exploration.run()
    except LabError as error:
        print(f"  {build}: {error}", file=sys.stderr)
    finally:
        exploration.close()


def follow() -> None:
    """Make the calls that the ProcViewer offers, each from the start."""
    for call in CALLS.values():
        following = Following()
        following.call(call)
        following.look()
        following.close()


def sweeps() -> None:
    """Make the sweeps that the SweepExplorer offers."""
    for wanted in sweep_presets().values():
        sweep(wanted)


def scenario_benches() -> None:
    """Set up every place at which `fuzz` makes calls."""
    for scenario in scenarios():
        with contextlib.suppress(LabError), scenario.experiment.specimen.start() as specimen:
            take_steps(scenario.experiment.setup, specimen, facts_here(), scenario.name)


def python_state() -> State:
    """Return an interpreter that does nothing, for where not even /proc/self can be read."""
    program = next(p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(p))
    command = ["setarch", "-R", program, "-I", "-S", "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, env={}, cwd="/", stdin=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                stat = Path(f"/proc/{process.pid}/wchan").read_text()
                if "nanosleep" in stat:
                    break
                time.sleep(0.01)
            else:
                time.sleep(1)
            parts = neutral(read_parts(process.pid))
        finally:
            process.kill()
    beside = Beside("", "", exe_mapped=True, own_user_namespace=False)
    nothing: frozenset[int] = frozenset()
    return State(
        snapshot=Snapshot.of(parts, None, beside), pages={}, kernel_pages=nothing,
        grows_down=nothing, moved=nothing, own_memory=(0, 0), identity=(65534,) * 4, beside=beside,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
