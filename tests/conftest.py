"""What all tests share: specimens that end, and proof that nothing is left behind or touched."""

from __future__ import annotations

import contextlib
import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from prctlmm_lab.specimen import spawn
from prctlmm_lab.specimen.build import BUILDS
from prctlmm_lab.specimen.process import Specimen

StartSpecimen = Callable[..., Specimen]

NOTED = (*range(26, 29), *range(45, 52))
"""The fields of stat in which the kernel shows its notes of an address space."""


@pytest.fixture(params=list(BUILDS))
def build(request: pytest.FixtureRequest) -> str:
    """Name each build in turn."""
    return str(request.param)


@pytest.fixture
def specimen(build: str) -> Iterator[Specimen]:
    """Give a specimen of each build in turn."""
    with Specimen(build) as started:
        yield started


@pytest.fixture
def start_specimen() -> Iterator[StartSpecimen]:
    """Start specimens as `Specimen` does; they are ended with the test."""
    started: list[Specimen] = []

    def start(*args: object, **options: object) -> Specimen:
        started.append(Specimen(*args, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.stop()


# ---- nothing is left behind -------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def programs_that_stay_open() -> None:
    """Open what every process keeps open once it has started a specimen."""
    for name in BUILDS:
        with contextlib.suppress(OSError):  # memory files are forbidden
            spawn.open_program(name)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that a module ends with the children and descriptors that it began with.

    A module that starts something for the whole session says so: `pytestmark =
    pytest.mark.starts_for_session("what")`.
    """
    before = children(), descriptors()
    yield
    if request.node.get_closest_marker("starts_for_session"):
        return
    assert left_behind(before) == ([], []), "left behind: children, descriptors"


def left_behind(before: tuple[Counter[str], Counter[str]]) -> tuple[list[str], list[str]]:
    """Return the children and descriptors that this process did not have before."""
    for last_look in (False, True):
        if last_look:
            gc.collect()  # what hangs in a circle of references is not left behind
        now = children(), descriptors()
        left = [*(now[0] - before[0])], [*(now[1] - before[1])]
        if not any(left):
            break
    return left


def children(parent: int | None = None) -> Counter[str]:
    """Return the children of a process, zombies too: name, number and state of each."""
    parent = parent or os.getpid()
    found: Counter[str] = Counter()
    for number in _child_numbers(parent):
        try:
            text = Path(f"/proc/{number}/stat").read_bytes()
        except OSError:
            continue  # ended meanwhile
        first, last = text.index(b"("), text.rindex(b")")
        state, of = text[last + 1 :].split()[:2]
        if int(of) == parent:
            found[f"{text[first + 1 : last]!r} {number} {state.decode()}"] += 1
    return found


def _child_numbers(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task")
    try:
        texts = [(task / "children").read_text() for task in tasks.iterdir()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN, or a thread that ended
        return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [int(number) for text in texts for number in text.split()]


def descriptors() -> Counter[str]:
    """Return the open descriptors of this process: number and target of each.

    Fonts are left out: matplotlib keeps those that it has used open as long as the process lives.
    """
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the one that listed the folder
        if not target.endswith(".ttf"):
            found[f"{name} -> {target}"] += 1
    return found


# ---- nothing is touched -----------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def own_address_space_untouched() -> Iterator[None]:
    """Check that the kernel's notes of the tests' own process end as they began."""
    before = own_notes()
    yield
    after = own_notes()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"the tests' own process was changed: {changed}"


def own_notes() -> dict[str, bytes]:
    """Return what the kernel notes of this process's address space, byte for byte."""
    folder = Path("/proc/self")
    stat = (folder / "stat").read_bytes()
    fields = stat[stat.rindex(b")") + 1 :].split()  # the first is field 3
    notes = {f"stat field {number}": fields[number - 3] for number in NOTED}
    notes |= {name: (folder / name).read_bytes() for name in ("cmdline", "environ", "auxv")}
    return notes | {"exe": os.fsencode(os.readlink(folder / "exe"))}


# Speed is not judged, and nothing is kept from one run to the next.
settings.register_profile("lab", deadline=None, database=None)
settings.load_profile("lab")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "starts_for_session(what): the module starts something that lives on after it"
    )
