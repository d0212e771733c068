"""Scenarios: callers of every kind, each with memory and descriptors of every kind at hand.

A scenario is an experiment without changes: a program, an identity, and set-up steps. What the
differential test finds in it is therefore a recipe as it stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from prctlmm_lab.experiments.experiment import Experiment, Subject
from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.steps import (
    Close,
    LosePrivilege,
    Map,
    MemoryFile,
    Open,
    OwnMount,
    Protect,
    ReleaseExecutable,
    Step,
    Unmap,
    UserNamespace,
    Write,
)
from prctlmm_lab.specimen.build import BUILDS
from prctlmm_lab.specimen.recording import mode

CALLERS: dict[str, tuple[Step, ...]] = {
    "as we are": (),
    "uid 65534": (LosePrivilege(True),),
    "user namespace": (UserNamespace(True), OwnMount("on_noexec_mount", noexec=True)),
    "user namespace of uid 65534": (LosePrivilege(True), UserNamespace(True, map_ids=False)),
}
"""Who makes the call. To an ordinary user the first two are the same, and so are the others."""

TEXT = "text without a zero byte, then one\0and more text"

MEMORY: tuple[Step, ...] = (
    Map("arena", 8),
    Write("arena.start", text=TEXT * 3),
    Write("arena.start + page - 20", text=TEXT),
    Write("arena.start + 4*page - 7", text="x" * 4200),
    Write("arena.end - page - 40", text="the last bytes before a closed page have no end."[:40]),
    Protect("arena.end - page", "---"),
    Map("shared", 3, shared=True),
    Write("shared.start", text="shared memory is a file's\0"),
    Map("vectors", 2),
    Write("vectors.start", auxv=(("AT_PAGESZ", "page"), ("AT_UID", 7), ("AT_NULL", 0), (6, 1))),
    Write("vectors.start + 1024", hex="01" * 2048),
    Map("closed", permissions="---"),
    # Last, so that nothing else is put into the room below what grows down.
    Map("narrow", 280, permissions="---"),
    Unmap("narrow.start", "narrow.length"),
    Map("floor", at="narrow.start"),
    Map("cramped", at="narrow.end - page", grows_down=True),
    Map("deep", 40, permissions="---"),
    Unmap("deep.start", "deep.length"),
    Map("cellar", at="deep.start", permissions="---"),
    Map("lower", at="deep.start + 10*page", grows_down=True),
    Map("bold", at="deep.end - page", grows_down=True),
    Map("room", 4096, permissions="---"),
    Unmap("room.start", "room.length"),
    Map("growing", at="room.end - page", grows_down=True),
)
"""Memory with text, a page that cannot be read behind it, shared memory, vectors, and pages
that grow down: above a page of ours, above one that cannot be read, above each other, with much
room.
"""

DESCRIPTORS: tuple[Step, ...] = (
    MemoryFile("program"),
    MemoryFile("another"),
    MemoryFile("not_executable", mode=0o644),
    MemoryFile("written"),
    Open("writer", "/proc/self/fd/{written}", access="read-write"),
    MemoryFile("shut"),
    Close("shut"),
    Open("folder", "/", access="directory"),
    Open("device", "/dev/null"),
    Open("path_only", "/proc/self/exe", access="path"),
    Open("of_proc", "/proc/self/stat"),
)
"""A descriptor of every kind that exe_fd can be."""

LIMITS: dict[str, Value] = {
    "unset": "unlimited",
    "0": 0,
    "the need": "brk - start_brk + end_data - start_data",
    "one below": "brk - start_brk + end_data - start_data - 1",
    "48 pages": "48*page",
    "a gigabyte": 1 << 30,
    "huge": (1 << 46) + 3,
    "one below unlimited": "unlimited - 1",
}
"""RLIMIT_DATA, of which the soft limit counts."""


@dataclass(frozen=True)
class Scenario:
    """A caller, before its limit is set."""

    name: str
    experiment: Experiment


def scenarios() -> tuple[Scenario, ...]:
    """Return every scenario: who, which program, before or after it released its executable."""
    return tuple(
        Scenario(name, Experiment(name, specimen=_subject(build), setup=steps))
        for name, build, steps in _kinds()
    )


def _subject(build: str) -> Subject:
    """Return a specimen whose heap is more than one read of /proc gives at once."""
    return Subject(build, ("specimen", "two"), heap_pages=24)


def _is_root() -> bool:
    """Tell whether specimens start as root; recorded ones do not."""
    return not mode.is_recorded() and os.geteuid() == 0


def _kinds() -> Iterator[tuple[str, str, tuple[Step, ...]]]:
    for caller, identity in CALLERS.items():
        if not _is_root() and caller in ("uid 65534", "user namespace of uid 65534"):
            continue  # the same as the one before it
        for build in BUILDS:
            for released in (False, True):
                release = (ReleaseExecutable(True),) if released else ()
                name = f"{caller}, {build}, executable {'released' if released else 'mapped'}"
                yield name, build, (*identity, *MEMORY, *DESCRIPTORS, *release)
