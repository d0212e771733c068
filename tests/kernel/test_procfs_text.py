"""The parsers of /proc against text that is written as the kernel writes it, however hostile."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prctlmm_lab.kernel.procfs import (
    LIMIT_NAMES,
    STAT_FIELDS,
    STATM_FIELDS,
    Limit,
    parse_limits,
    parse_maps,
    parse_smaps,
    parse_stat,
    parse_statm,
    parse_status,
    parse_vma,
)

WORDS = st.integers(0, (1 << 64) - 1)
COMMS = st.binary(max_size=15).filter(lambda comm: b"\0" not in comm)
PIECES = st.sampled_from([b"\n", b"\\012", b" (deleted)", b" ", b"(", b")", b"\\", b"\xff", b"["])
PATHS = st.lists(PIECES | st.binary(min_size=1, max_size=3)).map(
    lambda parts: b"/" + b"".join(parts).replace(b"\0", b"")
)
IDENTITY = (0xFE, 1, 4242)


@given(COMMS, st.sampled_from("RSDTZX"), st.lists(WORDS, min_size=50, max_size=50))
@example(b"a) b (c\n", "S", [7] * 50)
@example(b") R 1 2 3", "S", [7] * 50)
def test_stat(comm: bytes, state: str, numbers: list[int]) -> None:
    pid, *rest = numbers
    line = b"%d (%s) %s %s\n" % (pid, comm, state.encode(), " ".join(map(str, rest)).encode())
    stat = parse_stat(line)
    assert (os.fsencode(stat.comm), stat.state, stat["pid"]) == (comm, state, pid)
    assert [stat[field] for field in STAT_FIELDS[3:]] == rest
    fields = [*range(26, 28), *range(45, 48), 28, *range(48, 52)]  # in the order of the struct
    assert list(stat.members.values()) == [numbers[field - 3] for field in fields]


def test_stat_of_an_older_kernel_has_fewer_fields() -> None:
    stat = parse_stat(b"7 (x) S " + b" ".join(b"%d" % n for n in range(4, 47)))
    assert stat["start_data"] == 45
    assert "start_brk" not in stat.numbers


@given(st.lists(WORDS, min_size=7, max_size=7))
def test_statm(numbers: list[int]) -> None:
    text = (" ".join(map(str, numbers)) + "\n").encode()
    assert list(parse_statm(text).items()) == list(zip(STATM_FIELDS, numbers, strict=True))


@given(COMMS)
@example(b"\\n\n\\")
@example(b" a ")
@example(b"Pid:\t1\n")
def test_status(comm: bytes) -> None:
    escaped = comm.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    status = parse_status(b"Name:\t" + escaped + b"\nPid:\t7\nVmExe:\t       4 kB\nNoNewPrivs:\t\n")
    assert os.fsencode(status["Name"]) == comm
    assert {**status, "Name": ""} == {"Name": "", "Pid": "7", "VmExe": "4 kB", "NoNewPrivs": ""}


def line_of(path: bytes, deleted: bool = False) -> bytes:
    """Write a line of maps as show_map_vma() does: 73 columns, then the name, newlines escaped."""
    start = b"7f0000001000-7f0000002000 r-xp 00001000 fe:01 4242 "
    return start.ljust(73) + path.replace(b"\n", b"\\012") + b" (deleted)" * deleted


def on_disk(*names: bytes):  # type: ignore[no-untyped-def]
    """Return what finds the one file, under any of its names."""
    return lambda path: IDENTITY if os.fsencode(path) in names else None


@given(PATHS)
@example(b"/x (deleted)")
@example(b"/a\\012b")
@example(b"/a\\012b\n (deleted)")
def test_the_name_of_a_file_that_is_there(path: bytes) -> None:
    vma = parse_vma(line_of(path), on_disk(path))
    # A name that holds both a newline and the four characters \\012 cannot be told for certain.
    if not (b"\n" in path and b"\\012" in path):
        assert (os.fsencode(vma.path), vma.deleted) == (path, False)
    assert (vma.start, vma.end, vma.offset) == (0x7F0000001000, 0x7F0000002000, 0x1000)
    assert (vma.permissions, vma.device, vma.inode) == ("r-xp", (0xFE, 1), 4242)
    assert vma.label == ""


@given(PATHS)
def test_the_name_of_a_file_that_is_gone(path: bytes) -> None:
    vma = parse_vma(line_of(path, deleted=True), on_disk())
    assert os.fsencode(vma.path) == path.replace(b"\\012", b"\n")
    assert vma.deleted


def test_another_file_of_that_name_does_not_count() -> None:
    vma = parse_vma(line_of(b"/x", deleted=True), lambda path: (0xFE, 1, 99))
    assert (vma.path, vma.deleted) == ("/x", True)


def test_btrfs_tells_stat_another_device() -> None:
    line = b"1000-2000 r--p 00000000 00:1f 42 /x (deleted)"
    assert not parse_vma(line, lambda path: (0, 0x2A, 42)).deleted
    assert parse_vma(line, lambda path: (8, 1, 42)).deleted


@pytest.mark.parametrize("label", [b"[heap]", b"[stack]", b"[vdso]", b"[anon:a b (deleted)]"])
def test_labels(label: bytes) -> None:
    vma = parse_vma(b"1000-2000 rw-p 00000000 00:00 0".ljust(73) + label)
    assert (vma.label, vma.path, vma.deleted) == (label.decode(), "", False)


@pytest.mark.parametrize("line", [b"", b"VmSize: 4 kB", b"1000-2000 rw-p 0 0:0", b"1000 rw-p"])
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a line of maps"):
        parse_vma(line)


@given(st.lists(PATHS, max_size=5))
def test_maps_and_smaps_have_the_same_areas(paths: list[bytes]) -> None:
    lines = [line_of(path) for path in paths]
    maps = parse_maps(b"".join(line + b"\n" for line in lines))
    fields = b"\nSize:                  4 kB\nVmFlags: rd ex mr \n"
    smaps = parse_smaps(b"".join(line + fields for line in lines))
    assert len(maps) == len(paths)
    assert [vma for vma, _ in smaps] == list(maps)
    assert all(shown == {"Size": "4 kB", "VmFlags": "rd ex mr"} for _, shown in smaps)


@given(st.lists(st.none() | WORDS, min_size=32, max_size=32))
@example([(1 << 64) - 2] * 32)
def test_limits(numbers: list[int | None]) -> None:
    head = "Limit                     Soft Limit           Hard Limit           Units     \n"
    pairs = dict(zip(LIMIT_NAMES, zip(numbers[::2], numbers[1::2], strict=True), strict=True))
    rows = [  # fs/proc/base.c, proc_pid_limits()
        f"{name:<25s} {text(soft):<20s} {text(hard):<20s} {'bytes':<10s}\n"
        for name, (soft, hard) in pairs.items()
    ]
    limits = parse_limits((head + "".join(rows)).encode())
    assert limits == {LIMIT_NAMES[name]: Limit(*pair) for name, pair in pairs.items()}


def text(number: int | None) -> str:
    return "unlimited" if number is None else str(number)
