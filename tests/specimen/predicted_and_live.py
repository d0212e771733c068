"""Compare predictions of a recorded specimen with a real one, map after map; print it as JSON.

On the command line: `python tests/specimen/predicted_and_live.py COUNT`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.random import Generator

from prctlmm_lab.errors import SystemCallError
from prctlmm_lab.experiments.columns import map_at
from prctlmm_lab.experiments.experiment import take_steps
from prctlmm_lab.experiments.generation import landmarks, random_maps, random_shown_maps
from prctlmm_lab.experiments.scenarios import Scenario, scenarios
from prctlmm_lab.kernel.abi import U64, PrctlMmMap
from prctlmm_lab.kernel.difference import difference
from prctlmm_lab.kernel.procfs import Snapshot
from prctlmm_lab.specimen.build import BUILDS
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.specimen.recording.recorded import RecordedSpecimen
from prctlmm_lab.specimen.recording.recorder import neutral
from prctlmm_lab.specimen.recording.state import NotRecorded

SEED = 7


def main(arguments: list[str]) -> int:
    """Compare COUNT maps of two kinds at each place of an ordinary caller."""
    maps = accepted = 0
    different: list[str] = []
    for scenario in scenarios():
        if not scenario.name.startswith("as we are"):
            continue
        with start(Specimen, scenario) as live, start(RecordedSpecimen, scenario) as recorded:
            for errno, told in compare(scenario, live, recorded, int(arguments[0])):
                maps += 1
                accepted += errno == 0
                different += told
    calls = 0
    for build in BUILDS:
        for seed in range(12):
            live, recorded = Specimen(build, randomize=False), RecordedSpecimen(build)
            with live, recorded:
                for told in walk(live, recorded, np.random.default_rng(seed)):
                    calls += 1
                    different += [f"{build}, seed {seed}: {text}" for text in told]
    print(
        json.dumps(
            {"maps": maps, "calls": calls, "accepted": accepted, "different": different[:20]}
        )
    )
    return 0


def start(kind: type[Specimen], scenario: Scenario) -> Specimen:
    subject = scenario.experiment.specimen
    return kind(
        subject.build,
        arguments=[text.encode() for text in subject.arguments],
        environment=[text.encode() for text in subject.environment],
        heap_pages=subject.heap_pages,
        randomize=False,
    )


def compare(
    scenario: Scenario, live: Specimen, recorded: Specimen, count: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield for each map the real errno, and what differs."""
    facts = facts_here()
    benches = [
        take_steps(scenario.experiment.setup, specimen, facts, scenario.name)
        for specimen in (live, recorded)
    ]
    assert benches[0].regions == benches[1].regions
    rng, marks = np.random.default_rng(SEED), landmarks(benches[0])
    shown = random_shown_maps(marks, benches[0], U64, count, rng)
    table = np.concatenate([shown, random_maps(marks, U64, count, rng)])
    for row in range(len(table)):
        new = map_at(table, row)
        said, predicted = live.set_map(new), recorded.set_map(new)
        told = [] if said == predicted else [f"{scenario.name}, {row}: {said}, not {predicted}"]
        told += [f"{scenario.name}, {row}: {text}" for text in looks(live, recorded)]
        yield said, told


def walk(live: Specimen, recorded: Specimen, rng: Generator) -> Iterator[list[str]]:
    """Make plain calls at random on both; yield for each what differs."""
    areas = [live.map(3 * PAGE)]
    recorded.map(3 * PAGE)
    for _ in range(40):
        name, arguments = plain_call(areas, live.current_map(), rng)
        answers = [answer(specimen, name, arguments) for specimen in (live, recorded)]
        if answers[1] == "not recorded":
            return
        if name == "map" and isinstance(answers[0], int) and answers[0] > 0:
            areas.append(answers[0])
        call = f"{name}{arguments}"
        told = [] if answers[0] == answers[1] else [f"{call}: {answers[0]}, not {answers[1]}"]
        yield told + [f"after {call}: {text}" for text in looks(live, recorded)]


def plain_call(areas: list[int], own: PrctlMmMap, rng: Generator) -> tuple[str, tuple[Any, ...]]:
    """Return a method that the specification, or arithmetic, can answer, and its arguments."""
    at = areas[int(rng.integers(len(areas)))] + PAGE * int(rng.integers(-1, 4))
    length = PAGE * int(rng.integers(1, 4)) - int(rng.integers(0, 2))
    brk = own.brk + int(rng.integers(-3, 4)) * PAGE + int(rng.integers(0, 9))
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("map", (length,)),
        ("unmap", (at, length)),
        ("protect", (at, length, str(rng.choice(["r--", "rw-", "---"])))),
        ("write", (at + int(rng.integers(0, PAGE)), b"y" * int(rng.integers(1, 5000)))),
        ("read", (at, length)),
        ("brk", (brk,)),
        ("set_limit", ("DATA", (U64, 1 << 20, 20 * PAGE)[int(rng.integers(3))])),
    ]
    return calls[int(rng.integers(len(calls)))]


def answer(specimen: Specimen, name: str, arguments: tuple[Any, ...]) -> Any:
    """Return what a call gives, the negative errno of a refusal, or that nothing is known."""
    try:
        return getattr(specimen, name)(*arguments)
    except SystemCallError as error:
        return -(error.errno or 0)
    except NotRecorded:
        return "not recorded"


def looks(live: Specimen, recorded: Specimen) -> list[str]:
    """Return what /proc shows differently, but for bytes that change with each request."""
    real = live.snapshot()
    real = Snapshot.of(neutral(real.__dict__["_parts"]), real.brk)
    told = recorded.snapshot()
    hidden = [
        name
        for name in ("cmdline", "environ")
        if "ENODATA" in str(getattr(told, name)) or shows_own_memory(live)
    ]
    return [
        str(change)[:300]
        for change in difference(told, real)
        if (change.place, change.name) != ("stat", "flags") and change.place not in hidden
    ]


def shows_own_memory(specimen: Specimen) -> bool:
    first, last = specimen.own_memory
    own: PrctlMmMap = specimen.current_map()
    ranges = (
        (own.arg_start, max(own.arg_end, own.arg_start + 4096)),
        (own.arg_end - 1, own.arg_end),
        (own.env_start, own.env_end),
    )
    return any(start < last and first < end for start, end in ranges)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
