"""Images and restores where a recording stands in for the kernel.

An image is recorded as the files that it would be saved as, a restore as one call that made another
process of a specimen. What differs from one recording to the next is left out of both: process
numbers, counters, random bytes, and the memory in which requests arrive.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING

from prctlmm_lab.restore.image import Area, Image, Run
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording import mode

if TYPE_CHECKING:
    from prctlmm_lab.specimen.recording.recorder import RecordingSpecimen


def recorded(read: Callable[[Specimen], Image]) -> Callable[[Specimen], Image]:
    """Have a function return, where a recording stands in, the image that was recorded then."""

    @wraps(read)
    def recorded_or_read(specimen: Specimen) -> Image:
        if mode.is_live():
            return read(specimen)
        made: list[Image] = []

        def look(_pid: int) -> str:
            made.append(read(specimen))
            return _text(_neutral(made[0], specimen))  # type: ignore[arg-type]

        text = specimen.observed("image", look)
        return made[0] if made else replace(_from_text(text), origin=specimen.origin)

    return recorded_or_read


def recorded_text(name: str, work: Callable[[], str]) -> tuple[str, str]:
    """Return what work tells, and where that comes from: here, or as it was recorded by this name.

    The work is done on living specimens even while a recording is made, so what it tells must be
    the same each time: no addresses, no numbers of processes.

    Raises as the work, and NotRecorded.
    """

    def look(_pid: int) -> str:
        with mode.without_substitute():
            return work()

    with Specimen(heap_pages=0) as specimen:
        return specimen.observed(name, look), specimen.origin


def name_of_restore(image: Image, omit: Collection[str], exe: bool | None) -> str:
    """Return the name by which a recording knows a restore: another layout has another one."""
    outline = [(a.start, a.end, a.permissions, a.name) for a in image.areas]
    told = (dict(image.map), outline, image.exe.kind, image.exe.name, sorted(omit), exe)
    return f"restore {hashlib.sha256(repr(told).encode()).hexdigest()[:16]}"


def _text(image: Image) -> str:
    from prctlmm_lab.restore.folder import to_parts

    parts = to_parts(image)
    return json.dumps({name: base64.b64encode(data).decode() for name, data in parts.items()})


def _from_text(text: str) -> Image:
    from prctlmm_lab.restore.folder import from_parts

    return from_parts({name: base64.b64decode(data) for name, data in json.loads(text).items()})


def _neutral(image: Image, specimen: RecordingSpecimen) -> Image:
    """Return an image as it would be of any specimen that was started and treated alike."""
    from prctlmm_lab.specimen.recording.recorder import neutral

    def plain(area: Area) -> Area:
        runs = (Run(run.start, specimen.zeroed(run.start, bytes(run.data))) for run in area.runs)
        return replace(area, runs=tuple(runs))

    found = re.match(r"[0-9]+([.][0-9]+)+", image.kernel)
    texts = specimen.without_secrets(image.snapshot, image.proc)
    return replace(
        image,
        areas=tuple(map(plain, image.areas)),
        proc=neutral(texts),
        kernel=found[0] if found else "",
    )
