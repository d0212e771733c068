"""Equality: each difference is found, and only what cannot be equal is excused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from prctlmm_lab.kernel.abi import ADDRESSES
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.kernel.procfs import Limit, Parts
from prctlmm_lab.restore.checkpoint import checkpoint
from prctlmm_lab.restore.equality import CANNOT_BE_EQUAL, Row, equal, is_restored, rows_text
from prctlmm_lab.restore.image import Area, File, Image, Run
from prctlmm_lab.restore.restorer import restore
from prctlmm_lab.specimen.process import PAGE
from tests.restore.address_spaces import LEFT_OUT, image_of, spoofed_arguments


@pytest.fixture(scope="module")
def image() -> Image:
    """Give an image."""
    return image_of("static", spoofed_arguments, randomize=True)


def unfit(before: Image, after: Image) -> set[str]:
    return {row.what for row in equal(before, after) if not row.fine}


def test_an_image_is_equal_to_itself(image: Image) -> None:
    rows = equal(image, image)
    assert all(row.equal and not row.explanation and row.before == row.after for row in rows)
    assert is_restored(rows)


@pytest.mark.parametrize("name", ADDRESSES)
def test_each_address_is_compared(image: Image, name: str) -> None:
    wrong = replace(image, map=image.map.changed(**{name: getattr(image.map, name) + 1}))
    # brk stands in the snapshot too, but only there is it asked for
    assert unfit(image, wrong) == {name}


SIZE, ONE = (encode_auxv([("AT_PAGESZ", each)]) for each in (PAGE, 1))

Changes = dict[str, tuple[Callable[[Image], dict[str, Any]], set[str]]]
CHANGES: Changes = {
    "auxv": (lambda i: {"auxv": i.auxv.replace(SIZE, ONE)}, {"auxv AT_PAGESZ"}),
    "areas": (
        lambda i: {"areas": (replace(i.areas[0], permissions="r-xp"), *i.areas[1:])},
        {f"VMA {0x400000:#x}-{0x401000:#x}"},
    ),
    "kernel_pages": (
        lambda i: {"kernel_pages": tuple(
            replace(p, start=p.start + PAGE, end=p.end + PAGE) for p in i.kernel_pages)},
        {"vDSO"},
    ),
    "registers": (
        lambda i: {"registers": replace(i.registers, number=1, sp=1, pc=2,
                                        arguments=(1, 2, 3, 4, 5, 6))},
        {"loop waits at", "stack pointer", "other registers", "system call"},
    ),
    "entry": (lambda i: {"entry": i.entry + 1}, {"program"}),
    "limits": (lambda i: {"limits": {**i.limits, "RLIMIT_NOFILE": Limit(1 << 30, 1 << 40)}},
               {"RLIMIT_NOFILE"}),
    "credentials": (
        lambda i: {"credentials": replace(
            i.credentials, uid=0, capabilities=1, dumpable=0, own_user_namespace=True,
            ids_mapped=True, no_new_privileges=True)},
        {"credentials", "dumpable", "own user namespace", "root in it", "no new privileges"},
    ),
    "comm": (lambda i: {"comm": b"x"}, {"name"}),
    "umask": (lambda i: {"umask": 0o777}, {"umask"}),
    "personality": (lambda i: {"personality": 1}, {"personality"}),
    "machine": (lambda i: {"machine": "aarch64"}, {"program"}),
    "page": (lambda i: {"page": 0x10000}, {"program"}),
    "build": (lambda i: {"build": "static-pie"}, {"program"}),
}  # fmt: skip
"""By field of an image: a change of it, and the rows that must find it."""


@pytest.mark.parametrize("name", CHANGES)
def test_each_field_is_compared(image: Image, name: str) -> None:
    change, expected = CHANGES[name]
    assert unfit(image, replace(image, **change(image))) == expected


def test_every_field_of_an_image_has_such_a_test() -> None:
    compared = {each.name for each in fields(Image)} - LEFT_OUT
    assert compared == CHANGES.keys() | {"map", "exe"}


def test_one_byte_of_memory_is_enough(image: Image) -> None:
    *others, stack = image.areas
    data = bytearray(stack.runs[-1].data)
    data[17] ^= 1
    wrong = replace(stack, runs=(*stack.runs[:-1], Run(stack.runs[-1].start, bytes(data))))
    assert unfit(image, replace(image, areas=(*others, wrong))) == {"memory"}
    moved = replace(stack, runs=tuple(replace(r, start=r.start - PAGE) for r in stack.runs))
    assert unfit(image, replace(image, areas=(*others, moved))) == {"memory"}


def with_text(image: Image, name: str, old: bytes, new: bytes) -> Image:
    """Return an image in which a text of /proc reads otherwise."""
    text = image.proc.texts[name]
    assert isinstance(text, bytes)
    assert old in text
    texts = {**image.proc.texts, name: text.replace(old, new, 1)}
    return replace(image, proc=Parts(image.proc.pid, texts, image.proc.names))


@pytest.mark.parametrize(
    ("name", "old", "new", "row"),
    [
        ("cmdline", b"another", b"AnOther", "cmdline"),
        ("environ", b"A=B", b"A=C", "environ"),
        ("status", b"Threads:\t1", b"Threads:\t2", "status Threads"),
        ("status", b"NoNewPrivs:\t0", b"NoNewPrivs:\t1", ""),
        ("status", b"SigIgn:\t00", b"SigIgn:\t10", "status SigIgn"),
        ("status", b"VmSize:\t", b"VmSize:\t1", "status VmSize"),
        ("maps", b"rw-p", b"rwxp", "maps"),
    ],
)
def test_each_text_of_proc_is_compared(
    image: Image, name: str, old: bytes, new: bytes, row: str
) -> None:
    assert unfit(image, with_text(image, name, old, new)) == ({row} if row else set())


def test_the_exe_link_is_compared(image: Image) -> None:
    """The program's own name may be another one, as where memory files are forbidden."""
    other = with_text(image, "exe", b"/memfd", b"/other")
    assert unfit(image, other) == set()
    file = File("path", "/bin/sh")
    assert unfit(image, replace(other, exe=file)) == {"exe"}
    mighty, weak = (
        replace(image, credentials=replace(image.credentials, capabilities=mask))
        for mask in (1 << 40, 0)
    )
    for each, expected in ((mighty, {"exe"}), (weak, set())):
        changed = replace(with_text(each, "exe", b"/memfd", b"/other"), exe=file)
        assert unfit(changed, each) == expected


def test_what_cannot_be_equal_is_excused_and_explained(image: Image) -> None:
    with restore(image) as restored:
        rows = equal(image, checkpoint(restored))
    different = {row.what: row.explanation for row in rows if not row.equal}
    assert is_restored(rows)
    assert different["stat pid pgrp session"] == "a new process has a new number"
    for what in different:
        place, *names = what.split()
        assert place == "maps" or all(name in CANNOT_BE_EQUAL[place] for name in names), what


def test_a_counter_is_excused_but_not_beside_what_is_none(image: Image) -> None:
    other = with_text(image, "status", b"Threads:\t1", b"Threads:\t7")
    assert not is_restored(equal(image, other))
    assert is_restored(equal(image, with_text(image, "status", b"VmHWM:\t", b"VmHWM:\t1")))


def test_neighbours_that_the_kernel_joined_are_excused(image: Image) -> None:
    one = Area(0x10000, 0x12000, "rw-p")
    two = Area(0x12000, 0x13000, "rw-p")
    joined = Area(0x10000, 0x13000, "rw-p")
    before = replace(image, areas=(one, two, *image.areas))
    (row,) = (row for row in equal(before, replace(image, areas=(joined, *image.areas)))
              if row.what == "VMAs")  # fmt: skip
    assert (row.equal, row.fine) == (False, True)
    assert row.explanation == "the kernel joins neighbours that are alike"
    other = replace(joined, permissions="r--p")
    assert unfit(before, replace(image, areas=(other, *image.areas))) != set()


def test_a_lower_hard_limit_is_excused_a_higher_one_is_not(image: Image) -> None:
    lower = replace(image, limits={**image.limits, "RLIMIT_NOFILE": Limit(5, 5)})
    higher = replace(image, limits={**image.limits, "RLIMIT_NOFILE": Limit(5, None)})
    assert unfit(image, lower) == set()
    assert unfit(image, higher) == {"RLIMIT_NOFILE"}


def test_what_was_left_out_is_said(image: Image) -> None:
    rows = equal(replace(image, left_out=("descriptor 9: /etc/passwd",)), image)
    (row,) = (row for row in rows if row.what == "left out")
    assert (row.before, row.fine) == ("descriptor 9: /etc/passwd", True)


def test_the_table_says_what_is_not_equal() -> None:
    rows = [Row("brk", "0x1", "0x1", True), Row("pid", "1", "2", False, "new"),
            Row("exe", "a", "b", False)]  # fmt: skip
    assert rows_text(rows).splitlines() == [
        "=  brk  0x1", "!  pid  1 -> 2  (new)", "#  exe  a -> b  NOT EQUAL",
    ]  # fmt: skip
