"""Kernels as they were recorded: what stands in for a guest where none can be started.

`data/atlas/records` has a log for each kernel of the atlas: its answers to the recipe of
`questions`, as root with all capabilities, and to some of it as uid 65534 too. Nothing is made up:
what was not recorded is refused in one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from prctlmm_lab.atlas.guest import MEMORY
from prctlmm_lab.atlas.images import Image, version_order
from prctlmm_lab.atlas.images import series as series_of
from prctlmm_lab.atlas.kernels import ROOT, USER, Kernel
from prctlmm_lab.atlas.survey import atlas_folder
from prctlmm_lab.errors import InputError, UnsupportedSystem
from prctlmm_lab.experiments.comparison import recipe_key
from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.record import experiment_data, in_text_form
from prctlmm_lab.specimen.recording import mode
from prctlmm_lab.specimen.recording.marks import note
from prctlmm_lab.specimen.recording.state import NotRecorded

if TYPE_CHECKING:
    from prctlmm_lab.experiments.experiment import Experiment
    from prctlmm_lab.experiments.record import Record, Request
    from prctlmm_lab.kernel.facts import Facts

Key = tuple[str, str]
"""A recipe, as `recipe_key` names it, and who asked."""
_BESIDE = 256
"""MiB that a guest takes besides its memory: QEMU, its translated code and the archive."""


def questions() -> dict[str, Experiment]:
    """Return the experiments that every kernel of the atlas was asked, by id.

    They are data/recipes/atlas/questions.toml.

    >>> "heap-touches" in questions()
    True
    """
    return {each.id: each for each in shipped_recipes("atlas")["questions"].experiments}


class RecordedKernel(Kernel):
    """A kernel that answers as it did when the atlas was made, and only what it was asked then.

    `which` is a series ("6.1") or the stable release that it contains ("6.1.192"); `levels` are
    those of page tables. Every record says that it is recorded, of which kernel and when. `why` is
    the reason for which no guest was asked, if there is one.

    >>> kernel = RecordedKernel("6.1")
    >>> print(kernel.run(questions()["vector-416"]).outcome.verdict)
    EINVAL

    Raises InputError for a kernel that is not in the atlas.
    """

    def __init__(self, which: str, *, levels: int = 4, why: str = "") -> None:
        path = _log_of(which, levels)
        self.image: Image | None = None
        self.levels, self.why = levels, why
        self._options, self._guest, self._facts = {}, None, {}
        self._upstream, self._records = _release_and_levels(path)[0], _records_in(path)
        first = next(iter(self._records.values()))
        self._release, self._day = first.facts.release, first.time[:10]

    def __repr__(self) -> str:
        return f"<Kernel {self.name}, recorded {self.day}>"

    @property
    def is_here(self) -> bool:
        """False: it is another kernel."""
        return False

    @property
    def release(self) -> str:
        """What `uname -r` said on it."""
        return self._release

    @property
    def upstream(self) -> str:
        """The stable release that it contains."""
        return self._upstream

    @property
    def day(self) -> str:
        """When it was recorded: YYYY-MM-DD."""
        return self._day

    @property
    def origin(self) -> str:
        """What its answers are marked with."""
        return f"recorded on {self.name}, {self.day}"

    def start(self) -> RecordedKernel:
        """Start nothing, and return the kernel."""
        return self

    def facts(self, *, who: str = "") -> Facts:
        """Return its facts, as they were found by asking specimens.

        Raises NotRecorded for who did not ask.
        """
        who = self._who(who)
        found = next((r.facts for (_, by), r in self._records.items() if by == who), None)
        if found is None:
            self._refuse(f"facts as {who}")
        note(self.origin)
        return found

    def run(
        self,
        experiment: Experiment,
        *,
        who: str = "",
        on_request: Callable[[Request], None] | None = None,
    ) -> Record:
        """Return the record of an experiment that was made on it.

        Raises NotRecorded for another one, and for one that was made by another user.
        """
        record = self.recorded(experiment, who=who)
        note(self.origin)
        if on_request is not None:
            on_request(record)
        return record

    def recorded(self, experiment: Experiment, *, who: str = "") -> Record:
        """Return the same without a mark below the cell, for what says itself where it is from.

        Raises NotRecorded as `run`.
        """
        who = self._who(who)
        data = in_text_form(experiment_data(experiment))
        found = self._records.get((recipe_key(data), who))
        if found is None:
            self._refuse(f"{experiment.id!r:.60} as {who}")
        said = experiment.predict
        agreement = replace(
            found.agreement, learner=found.outcome.verdict == said if said else None
        )
        return replace(
            found, experiment=data, learner=said, agreement=agreement, origin=self.origin
        )

    def _ask(self, name: str, who: str, **_: Any) -> Any:
        self._refuse(name)

    def _refuse(self, what: str) -> NoReturn:
        asked, series = ", ".join(questions()), series_of(self.upstream)
        raise NotRecorded(
            f"{what} was not recorded on {self.name}, only these, most of them as root: {asked}",
            f"In a guest everything can be asked: prctlmm-lab atlas fetch {series}",
        )


# ---- the logs ---------------------------------------------------------------------------------


def recorded_kernels(*, levels: int = 4) -> tuple[RecordedKernel, ...]:
    """Return the kernels of the atlas, from the oldest to the newest.

    >>> recorded_kernels()[0].upstream
    '5.10.262'
    """
    found = (_release_and_levels(path) for path in _logs())
    kept = sorted((release for release, has in found if has == levels), key=version_order)
    return tuple(RecordedKernel(release, levels=levels) for release in kept)


def records_folder() -> Path:
    """Return where the logs of the atlas lie."""
    return atlas_folder() / "records"


@cache
def _logs() -> tuple[Path, ...]:
    return tuple(sorted(records_folder().glob("linux-*.jsonl")))


def _release_and_levels(path: Path) -> tuple[str, int]:
    """Read the name of a log: linux-6.12.118-la57 has 5-level page tables."""
    release, _, levels = path.stem.removeprefix("linux-").partition("-")
    return release, 5 if levels == "la57" else 4


def _log_of(which: str, levels: int) -> Path:
    """Return the log of a kernel.

    Raises InputError if there is none.
    """
    name = str(which).removeprefix("v").removeprefix("linux-")
    there = {path: _release_and_levels(path) for path in _logs()}
    for path, (release, has) in there.items():
        if has == levels and name in (release, series_of(release)):
            return path
    known = sorted({release for release, has in there.values() if has == levels}, key=version_order)
    raise InputError("kernel", "is not in the atlas", f"{str(which)!r:.60}", ", ".join(known))


@cache
def _records_in(path: Path) -> dict[Key, Record]:
    return {
        (recipe_key(record.experiment), USER if record.privilege.uid else ROOT): record
        for record in LogFile(path).records()
    }


# ---- whatever is at hand ------------------------------------------------------------------------


def kernels_at_hand(*which: str) -> tuple[Kernel, ...]:
    """Return kernels that can be asked at once: each in a guest, or as it was recorded.

    The guests start at the same time. One that cannot be had (no image, no QEMU, not enough free
    memory) is recorded, and its `why` says why. Where a recording stands in for the running kernel,
    it does for the others too. Who gets them stops them.

    >>> [kernel.upstream.startswith("6.1.") for kernel in kernels_at_hand("6.1")]
    [True]

    Raises InputError for a kernel that is neither kept nor in the atlas, GuestError if a guest does
    not start.
    """
    found = [_live_or_recorded(name, place) for place, name in enumerate(which)]
    with ThreadPoolExecutor(max(1, len(found))) as pool:
        starts = [pool.submit(_started, *pair) for pair in zip(found, which, strict=True)]
    try:
        return tuple(start.result() for start in starts)
    except BaseException:
        for kernel in found:
            kernel.stop()
        raise


def kernels_text(kernels: tuple[Kernel, ...]) -> str:
    """Return which kernels these are and where each answers, a line for each.

    >>> print(kernels_text((RecordedKernel("6.1"),)))
    Linux 6.1.192 (6.1.0-...-cloud-amd64): recorded ...
    """
    return "\n".join(_lines(kernels))


def _lines(kernels: tuple[Kernel, ...]) -> Iterator[str]:
    for kernel in kernels:
        if isinstance(kernel, RecordedKernel):
            note(kernel.origin)
            why = f"; not live: {kernel.why}" if kernel.why else ""
            yield f"{kernel.name}: recorded {kernel.day}{why}"
        else:
            where = "live, in a guest" if not kernel.is_here else "live, it runs here"
            yield f"{kernel.name}: {where}"


def _live_or_recorded(which: str, others: int) -> Kernel:
    """Return a kernel that is still to be started, if it can be; `others` start beside it."""
    if not mode.is_live():
        why = "recorded mode"
    elif (free := _free_memory()) < (others + 1) * (MEMORY + _BESIDE):
        why = f"{free} MiB of memory are free"
    else:
        try:
            return Kernel(which)
        except InputError:
            why = f"`prctlmm-lab atlas fetch {which}` gets it"
    return RecordedKernel(which, why=why)


def _started(kernel: Kernel, which: str) -> Kernel:
    """Start a kernel and have its facts probed, or take the recorded one where none starts."""
    try:
        kernel.start()
        if not isinstance(kernel, RecordedKernel):
            kernel.facts()  # the first request takes longest; so all kernels' do at the same time
    except UnsupportedSystem as error:
        kernel.stop()
        return RecordedKernel(which, why=str(error))
    return kernel


def _free_memory() -> int:
    """Return how many MiB may be taken; where the system does not tell, none."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    return int(found[1]) >> 10 if found else 0
