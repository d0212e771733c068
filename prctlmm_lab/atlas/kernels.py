"""Kernels: the one that runs here and others in guests, each asked in the same way.

What is asked of a kernel in a guest is done there, by the same functions of the same source as
here, and comes back as the same classes. A record's facts say which kernel it is of.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prctlmm_lab.atlas.guest import MEMORY, Guest
from prctlmm_lab.atlas.images import UML, find, image_at, upstream, user_mode_linux
from prctlmm_lab.atlas.images import Image as KernelImage
from prctlmm_lab.errors import InputError, UnsupportedSystem

if TYPE_CHECKING:
    from prctlmm_lab.atlas.initramfs import Interpreter
    from prctlmm_lab.experiments.axes import Sweep
    from prctlmm_lab.experiments.claims import Finding
    from prctlmm_lab.experiments.conformance import CaseResult, Groups
    from prctlmm_lab.experiments.differential import Progress, Tally
    from prctlmm_lab.experiments.experiment import Experiment
    from prctlmm_lab.experiments.record import Record, Request
    from prctlmm_lab.experiments.replay import Replayed
    from prctlmm_lab.experiments.swept import SweepResult
    from prctlmm_lab.kernel.facts import Facts
    from prctlmm_lab.restore.equality import Row
    from prctlmm_lab.restore.image import Image
    from prctlmm_lab.specimen.probe import Diagnosis

ROOT, USER = "root", "user"


class Kernel:
    """A kernel to make experiments on: one in a guest, or with `Kernel.here()` the running one.

    `which` is a series such as "6.1" (the newest kept image of it), a stable release such as
    "6.1.192", what `uname -r` would say, or the path of a kernel's file; "um" is user-mode Linux,
    which Debian builds without the call. A guest starts with the
    first request and stays until `stop`, the end of a `with`, or the end of its owner; after a
    crash the next request starts another one. `levels` are those of page tables, 4 or 5, and
    `memory` is in MiB.

    Requests are made as root with all capabilities, or with `who="user"` as uid 65534 without any.
    On the running kernel they are made as whoever we are.

    >>> with Kernel("6.1") as kernel:  # doctest: +SKIP
    ...     print(kernel.run(Experiment("identity")).summary())
    identity: predicted accepted, kernel accepted

    Raises InputError for a kernel that is not there, with the command that fetches it.
    """

    def __init__(
        self,
        which: str | Path | KernelImage,
        *,
        levels: int = 4,
        memory: int = MEMORY,
        cpus: int = 1,
        python: Interpreter | None = None,
    ) -> None:
        self.image: KernelImage | None = which if isinstance(which, KernelImage) else _image(which)
        self.levels = levels
        self._options: dict[str, Any] = {
            "levels": levels, "memory": memory, "cpus": cpus, "python": python,
        }  # fmt: skip
        self._guest: Guest | None = None
        self._facts: dict[str, Facts] = {}

    @classmethod
    def here(cls) -> Kernel:
        """Return the running kernel.

        >>> Kernel.here().is_here
        True
        """
        kernel = object.__new__(cls)
        kernel.image, kernel.levels, kernel._options = None, 0, {}
        kernel._guest, kernel._facts = None, {}
        return kernel

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        where = "here" if self.is_here else "warm guest" if self.is_warm else "guest"
        return f"<Kernel {self.name}, {where}>"

    @property
    def is_here(self) -> bool:
        """True for the running kernel."""
        return self.image is None

    @property
    def is_warm(self) -> bool:
        """True while its guest stands by."""
        return self._guest is not None and self._guest.alive

    @property
    def release(self) -> str:
        """What `uname -r` says on it."""
        return platform.release() if self.image is None else self.image.release

    @property
    def upstream(self) -> str:
        """The stable release that it contains, which a distribution's `uname -r` may not name.

        Of the running kernel it is known if `uname -v` tells it.
        """
        if self.image is None:
            return _contained(platform.release(), platform.version())
        if self.image.version or not self.is_warm:
            return self.image.upstream
        assert self._guest is not None
        return _contained(self.image.release, self._guest.version)

    @property
    def name(self) -> str:
        """Its releases in words: "Linux 6.1.192 (6.1.0-56-cloud-amd64)"."""
        names = self.upstream
        if not self.release.startswith(self.upstream):
            names += f" ({self.release})"
        return f"Linux {names}, 5-level page tables" if self.levels == 5 else f"Linux {names}"

    @property
    def guest(self) -> Guest:
        """The guest that it runs in, started if need be.

        Raises as `Guest`; InputError for the running kernel, which has none.
        """
        if self.image is None:
            raise InputError("kernel", "runs here and in no guest")
        if self._guest is None or not self._guest.alive:
            self.stop()
            self._guest = Guest(self.image, **self._options)
        return self._guest

    def start(self) -> Kernel:
        """Start its guest now rather than with the first request, and return the kernel.

        Raises as `Guest`.
        """
        if not self.is_here:
            _ = self.guest
        return self

    def stop(self) -> None:
        """End its guest; the next request starts another one."""
        if self._guest is not None:
            self._guest.stop()
            self._guest = None

    # ---- what it can be asked -----------------------------------------------------------------

    def facts(self, *, who: str = "") -> Facts:
        """Return its facts, found by asking specimens, once for each who asks.

        Raises as `facts_here`, and GuestError.
        """
        who = self._who(who)
        if self.is_here:
            from prctlmm_lab.specimen.probe import facts_here

            return facts_here()
        if who not in self._facts:
            self._facts[who] = self._ask("facts", who)
        return self._facts[who]

    def doctor(self, *, who: str = "") -> Diagnosis:
        """Say what works on it, and what does not.

        Raises GuestError.
        """
        who = self._who(who)
        if self.is_here:
            from prctlmm_lab.specimen.probe import doctor

            return doctor()
        diagnosis: Diagnosis = self._ask("doctor", who)
        return diagnosis

    def run(
        self,
        experiment: Experiment,
        *,
        who: str = "",
        on_request: Callable[[Request], None] | None = None,
    ) -> Record:
        """Run an experiment on it and return its record, as `run` does here.

        `on_request` is told of the call before it is made: of one that crashes a guest's kernel
        that is all that is known.

        Raises as `run`, and GuestError.
        """
        who = self._who(who)
        if self.is_here:
            from prctlmm_lab.experiments.experiment import run

            return run(experiment, on_request=on_request)
        asked = {"experiment": experiment, "tell_request": on_request is not None}
        record: Record = self._ask("run", who, on_told=on_request, **asked)
        return record

    def fuzz(
        self,
        calls: int = 1_000_000,
        *,
        seconds: float | None = None,
        seed: int | None = None,
        effects: bool = False,
        first: int = 0,
        on_progress: Progress | None = None,
        who: str = "",
    ) -> Tally:
        """Hold our specification against it by random calls, as `fuzz` does here.

        Raises as `fuzz`, and GuestError.
        """
        who = self._who(who)
        asked: dict[str, Any] = {
            "calls": calls, "seconds": seconds, "seed": seed, "effects": effects, "first": first,
        }  # fmt: skip
        if self.is_here:
            from prctlmm_lab.experiments.differential import fuzz

            return fuzz(**asked, on_progress=on_progress)
        tally: Tally = self._ask("fuzz", who, on_told=on_progress, **asked)
        return tally

    def sweep(self, wanted: Sweep, *, who: str = "") -> SweepResult:
        """Carry out a sweep on it, as `sweep` does here.

        Raises as `sweep`, and GuestError.
        """
        who = self._who(who)
        if self.is_here:
            from prctlmm_lab.experiments.sweep import sweep

            return sweep(wanted)
        result: SweepResult = self._ask("sweep", who, wanted=wanted)
        return result

    def conformance(
        self,
        wanted: Groups | Iterable[str] = (),
        *,
        on_result: Callable[[CaseResult], None] | None = None,
        who: str = "",
    ) -> tuple[CaseResult, ...]:
        """Hold it to cases, all of them or those that are named, and return what came of each.

        `on_result` is told of each as soon as it is there.

        Raises as `conformance`, and GuestError.
        """
        from prctlmm_lab.experiments.conformance import cases, conformance

        who = self._who(who)
        groups = wanted if isinstance(wanted, Mapping) else cases(wanted)
        results: list[CaseResult] = []

        def take(result: CaseResult) -> None:
            results.append(result)
            if on_result is not None:
                on_result(result)

        if self.is_here:
            for result in conformance(groups):
                take(result)
        else:
            self._ask("conformance", who, on_told=take, groups=groups)
        return tuple(results)

    def claims(
        self,
        names: Sequence[str] = (),
        *,
        reads: int | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        who: str = "",
    ) -> tuple[Finding, ...]:
        """Hold the statements of the commit message to it, and return what it showed.

        `names` chooses some, as `chosen` does; `reads` is how often a reader of a race looks. What
        is expected is that of the stable release which the kernel contains.

        Raises InputError for a name that is none, GuestError.
        """
        from prctlmm_lab.experiments.claims import CLAIMS, chosen, settle_all
        from prctlmm_lab.experiments.claims.claim import expected_on
        from prctlmm_lab.experiments.claims.races import with_reads
        from prctlmm_lab.experiments.claims.settling import DEADLINE
        from prctlmm_lab.experiments.races import READS, time_for

        who = self._who(who)
        wanted = chosen(CLAIMS, names)
        facts = replace(self.facts(who=who), release=self.upstream)
        found: list[Finding] = []

        def take(finding: Finding) -> None:
            found.append(replace(finding, expected=expected_on(finding.claim, facts)))
            if on_finding is not None:
                on_finding(found[-1])

        deadline = DEADLINE + time_for(reads or READS)
        if self.is_here:
            if reads:
                wanted = with_reads(wanted, reads)
            settle_all(wanted, self.facts(), on_finding=take, deadline=deadline)
        else:
            ids = tuple(claim.id for claim in wanted)
            self._ask(
                "claims", who, on_told=take, ids=ids, reads=reads, patience=_SLOWER * deadline
            )
        return tuple(found)

    def replay(self, records: Iterable[Record], *, who: str = "") -> Iterator[Replayed]:
        """Run the recipe of every record on it and compare, as `replay` does here.

        Raises as `replay`, and GuestError.
        """
        from prctlmm_lab.experiments.replay import replay

        who = self._who(who)
        if self.is_here:
            return replay(records)
        return replay(records, on=lambda experiment: self.run(experiment, who=who))

    def restore(self, image: Image, *, who: str = "") -> tuple[Row, ...]:
        """Restore an image on it, and return what is equal to the image and what is not.

        The process ends after that.

        Raises as `restore`; InputError with the rule if the kernel refuses the map, GuestError.
        """
        from prctlmm_lab.restore.folder import to_parts

        who = self._who(who)
        files = to_parts(image)
        if self.is_here:
            from prctlmm_lab.atlas.inside import ASKED

            here: tuple[Row, ...] = ASKED["restore"](print, files=files)
            return here
        rows: tuple[Row, ...] = self._ask("restore", who, files=files)
        return rows

    # ---- asking -------------------------------------------------------------------------------

    def _who(self, who: str) -> str:
        """Return who asks; of the running kernel it can only be who we are."""
        if not self.is_here:
            return who or ROOT
        we = ROOT if os.geteuid() == 0 else USER
        if who not in ("", we):
            raise InputError("who", "is not who we are on the running kernel", who, we)
        return we

    def _ask(
        self, name: str, who: str, *, on_told: Callable[[Any], None] | None = None, **asked: Any
    ) -> Any:
        return self.guest.ask(name, who, on_told=on_told, **asked)


_SLOWER = 6
"""Times as long as here may work in an emulated machine take that is judged by a deadline."""


def _image(which: str | Path) -> KernelImage:
    """Return the image that is meant: a path has a slash, or is one already; "um" is UML."""
    if which == UML:
        found = user_mode_linux()
        if found is None:
            raise UnsupportedSystem("linux.uml is not installed",
                                    "Install the package user-mode-linux.")  # fmt: skip
        return found
    if isinstance(which, Path) or "/" in which:
        return image_at(which)
    with suppress(InputError):
        return find(which)
    if Path(which).is_file():
        return image_at(which)
    return find(which)


def _contained(release: str, version: str) -> str:
    """Return the stable release that a kernel says it contains.

    >>> _contained("6.1.0-56-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)")
    '6.1.192'
    >>> _contained("6.18.44", "#1 SMP")
    '6.18.44'
    """
    found = re.search(r"\bDebian (\d+\.\d+\.\d+)", version)
    return found[1] if found else upstream(release)
