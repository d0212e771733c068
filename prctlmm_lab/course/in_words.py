"""What a problem says of a specimen, in words: where an address lies, what a step did."""

from __future__ import annotations

from collections.abc import Mapping

from prctlmm_lab.experiments.formula import Value
from prctlmm_lab.experiments.steps import (
    Bench,
    Limit,
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
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot
from prctlmm_lab.words import printable


def lies_in(
    address: int, snapshot: Snapshot, regions: Mapping[str, tuple[int, int]], facts: Facts
) -> str:
    """Name what an address lies in: a region that a step mapped, a VMA, or nothing."""
    if address < facts.lowest:
        return "below user space"
    if address > facts.highest:
        return "above user space"
    vma = snapshot.vma_at(address)
    for name, (start, end) in regions.items():
        if start <= address < end:
            empty = "" if vma else ", not mapped"
            return f"{name} + {address - start:#x}{empty}"
    if vma is not None:
        name = vma.label or printable(vma.path.rpartition("/")[2]) or "anonymous memory"
        return f"{name} + {address - vma.start:#x}"
    ended = [name for name, (_, end) in regions.items() if end == address]
    ended += [v.label or printable(v.path.rpartition("/")[2]) or "anonymous memory"
              for v in snapshot.vmas if v.end == address]  # fmt: skip
    return f"the end of {ended[0]}" if ended else "nothing mapped"


def step_in_words(step: Step, bench: Bench) -> str:
    """Say what a step did, with its numbers, on the bench on which it was done."""

    def number(value: Value) -> int:
        return bench.value(value, "step")

    if isinstance(step, Map):
        start, end = bench.regions[step.map]
        pages = (end - start) // bench.facts.page_size
        many = "1 page" if pages == 1 else f"{pages} pages"
        return f"maps {step.map}, {many}: {start:#x}-{end:#x}, {step.permissions}"
    if isinstance(step, Write):
        what = '"' + (step.text or "").replace("\0", "\\0") + '"'
        if step.identity_map:
            what = "the map that changes nothing (104 bytes)"
        elif step.auxv is not None:
            what = "a vector: " + ", ".join(f"{kind} {value}" for kind, value in step.auxv)
        return f"writes {what} at {number(step.write):#x}"
    if isinstance(step, Protect | Unmap):
        first = number(step.protect if isinstance(step, Protect) else step.unmap)
        extent = f"{first:#x}-{first + number(step.length):#x}"
        if isinstance(step, Unmap):
            return f"unmaps {extent}"
        return f"makes {extent} {step.permissions}"
    if isinstance(step, Limit):
        return f"sets RLIMIT_{step.limit} to {number(step.soft):#x}"
    return _file_or_privilege(step, bench)


def _file_or_privilege(step: Step, bench: Bench) -> str:
    if isinstance(step, LosePrivilege):
        return "gives up root, if it has it"
    if isinstance(step, UserNamespace):
        return "enters a user namespace of its own, with all capabilities there"
    if isinstance(step, ReleaseExecutable):
        return "moves its code into anonymous memory: nothing maps its executable any more"
    if isinstance(step, MemoryFile):
        mode = "may be executed" if step.mode & 0o111 else "may not be executed"
        return (
            f"makes a file in memory that {mode}: descriptor {bench.descriptors[step.memory_file]}"
        )
    if isinstance(step, OwnMount):
        noexec = "a noexec mount" if step.noexec else "a mount"
        return (
            f"makes a file on {noexec} of its own: descriptor {bench.descriptors[step.own_mount]}"
        )
    if isinstance(step, Open):
        how = {"path": "only as a name (O_PATH)"}.get(step.access, f"to {step.access}")
        path = "the same file" if "{" in step.path else step.path
        return f"opens {path} {how}: descriptor {bench.descriptors[step.open]}"
    return step.verb
