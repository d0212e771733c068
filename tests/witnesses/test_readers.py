"""What other readers of /proc get: beside plain reads, and beside what the kernel documents."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from prctlmm_lab import Specimen
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.witnesses.readers import FILES, read_by, readers_text, vectors_text


def columns(text: str) -> dict[str, tuple[str, str, str]]:
    rows = [line for line in text.splitlines()[1:] if not line.startswith("(")]
    return {row[:8].strip(): (row[9:14].strip(), row[15:49].strip(), row[50:]) for row in rows}


def test_another_user_reads_what_the_kernel_gives_to_all() -> None:
    with Specimen(arguments=[b"in", b"the open"], environment=[b"KEPT=secret"]) as specimen:
        rows = columns(readers_text(specimen))
        assert tuple(rows) == FILES
        assert rows["cmdline"] == ("0444", r"b'in\x00the open\x00'", r"b'in\x00the open\x00'")
        assert rows["environ"] == ("0400", r"b'KEPT=secret\x00'", "EACCES")
        assert rows["stat"] == ("0444", "ten addresses", "1 1 0 0 0 0 0 0 0 0")
        assert rows["exe"][0] == "link"
        assert rows["exe"][1] == os.readlink(f"/proc/{specimen.pid}/exe")
        for closed in ("auxv", "maps", "exe"):
            assert rows[closed][2] == "EACCES"
        for name in ("statm", "status"):
            assert rows[name] == ("0444", "readable", "readable")


def test_the_specimen_is_afterwards_what_it_was() -> None:
    with Specimen() as specimen:
        before = specimen.snapshot()
        readers_text(specimen)
        after = specimen.snapshot()
        assert (after.environ, after.members) == (before.environ, before.members)
        assert specimen.syscall("prctl", 3) == 1  # PR_GET_DUMPABLE


@pytest.mark.parametrize(
    ("size", "shown"), [(65536, b""), (16, b""), (8, b"A=1\0B=2\0"), (3, b"A=1\0B="), (1, None)]
)
def test_a_read_that_meets_a_hole_loses_what_it_had(size: int, shown: bytes | None) -> None:
    with Specimen() as specimen:
        page = specimen.map(2 * 4096)
        specimen.unmap(page + 4096, 4096)
        specimen.write(page + 4088, b"A=1\0B=2\0")
        bounds = {"env_start": page + 4088, "env_end": page + 4104}
        assert specimen.set_map(specimen.current_map().changed(**bounds)) == 0
        assert read_by(specimen, "environ", size) == (b"A=1\0B=2\0" if shown is None else shown)


def test_without_a_hole_every_buffer_gets_the_same() -> None:
    with Specimen() as specimen:
        whole = Path(f"/proc/{specimen.pid}/environ").read_bytes()
        assert {read_by(specimen, "environ", size) for size in (1, 7, 65536)} == {whole}


def test_the_file_ends_at_the_first_null_and_the_kernel_keeps_the_rest() -> None:
    vector = encode_auxv([("AT_PAGESZ", 4096), ("AT_NULL", 0), ("AT_UID", 42)])
    with Specimen() as specimen:
        page = specimen.map(4096)
        specimen.write(page, vector)
        new = specimen.current_map().changed(auxv=page, auxv_size=len(vector))
        assert specimen.set_map(new) == 0
        file, kept = vectors_text(specimen).splitlines()
        assert struct.unpack("<4Q", Path(f"/proc/{specimen.pid}/auxv").read_bytes())[1] == 4096
    assert file == "/proc/PID/auxv: AT_PAGESZ 0x1000, 1 x AT_NULL 0x0"
    assert "AT_NULL 0x0, AT_UID 0x2a, " in kept or "it came with v6.4" in kept
