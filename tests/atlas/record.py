"""Make data/atlas/records anew: every kept kernel is asked every question, in a guest.

`python -m tests.atlas.record`; kernels are those of `prctlmm-lab atlas fetch`. A quarter of a
minute for each. As uid 65534 only those questions are asked whose answers teach something.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from prctlmm_lab.atlas.images import X86_64, Image, images
from prctlmm_lab.atlas.kernels import ROOT, USER, Kernel
from prctlmm_lab.atlas.recorded import questions, records_folder
from prctlmm_lab.experiments.record import Record, to_json

AS_USER = ("same-map", "vector-tail")
FIVE_LEVELS = "6.12"
"""The series that is asked once more, with 5-level page tables."""


def answered(kernel: Kernel) -> Iterator[Record]:
    """Ask a kernel, and yield what it answers."""
    for who, names in ((ROOT, [*questions()]), (USER, AS_USER)):
        for name in names:
            record = kernel.run(questions()[name], who=who)
            if not record.agreement.with_lab:
                print(f"{kernel.name}: {record.summary()}", file=sys.stderr)
            yield record


def record(image: Image, levels: int) -> None:
    """Write the log of one kernel, whole."""
    name = f"linux-{image.upstream}{'-la57' if levels == 5 else ''}.jsonl"
    with Kernel(image, levels=levels) as kernel:
        lines = [f"{to_json(each).strip()}\n" for each in answered(kernel)]
    records_folder().mkdir(parents=True, exist_ok=True)
    (records_folder() / name).write_text("".join(lines), "utf-8")
    print(name, len(lines), "records")


def main() -> None:
    """Ask every kept kernel of each series once."""
    for image in images(machine=X86_64):
        for levels in (4, 5) if image.series == FIVE_LEVELS else (4,):
            record(image, levels)


if __name__ == "__main__":
    main()
