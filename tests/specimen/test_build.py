"""The specimen's binaries, against their source and against readelf."""

from __future__ import annotations

import itertools
import platform
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.specimen import build as building
from prctlmm_lab.specimen.build import BUILDS, MACHINES, binary_path
from prctlmm_lab.specimen.process import Specimen
from tests.needs import needs_tool

ELSEWHERE = {"x86_64": ("inc     %r14", "inc     %r15"), "aarch64": ("[x21], #1", "[x21], #2")}
"""For each machine a change that lets the errnos of a batch go elsewhere."""
PREFIX = {machine: f"{machine}-linux-gnu-" for machine in MACHINES} | {platform.machine(): ""}


def needs_binutils(machine: str) -> None:
    """Skip unless the binutils for a machine are installed."""
    for tool in ("as", "ld", "objcopy"):
        needs_tool(PREFIX[machine] + tool)


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    """Name each machine that has a specimen in turn."""
    return str(request.param)


def test_the_source_gives_the_same_bytes(build: str, machine: str) -> None:
    needs_binutils(machine)
    assert building.build(build, machine) == binary_path(build, machine).read_bytes()


def test_another_source_gives_other_bytes(
    build: str, machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_binutils(machine)
    source = (building.HERE / f"{machine}.S").read_text()
    (tmp_path / f"{machine}.S").write_text(source.replace(*ELSEWHERE[machine]))
    monkeypatch.setattr(building, "HERE", tmp_path)
    changed = building.build(build, machine)
    monkeypatch.undo()
    assert changed != binary_path(build, machine).read_bytes()
    assert len(changed) == binary_path(build, machine).stat().st_size


def test_rebuilding_writes_the_binaries_of_all_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for machine in MACHINES:
        needs_binutils(machine)
        shutil.copy(building.HERE / f"{machine}.S", tmp_path)
    monkeypatch.setattr(building, "HERE", tmp_path)
    assert building.main() == 0
    shown = capsys.readouterr().out
    monkeypatch.undo()
    for machine, name in itertools.product(MACHINES, BUILDS):
        made = tmp_path / binary_path(name, machine).name
        assert made.read_bytes() == binary_path(name, machine).read_bytes()
        assert f"{made.name}: {made.stat().st_size} bytes\n" in shown


def test_missing_binutils_are_named(
    machine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    prefix = PREFIX[machine]
    package = "binutils" + f"-{prefix}".replace("_", "-").rstrip("-")
    words = rf"^{prefix}as is not installed\. Install the package {package}\.$"
    with pytest.raises(UnsupportedSystem, match=words):
        building.build("static", machine)


def test_without_binutils_the_binaries_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(building, "HERE", tmp_path)
    assert building.main() == 1
    shown = capsys.readouterr().err
    assert all(f"{binary_path('static', name).name}: left as it is. " in shown for name in MACHINES)
    assert not any(tmp_path.iterdir())


def test_headers_are_what_readelf_reads(build: str, machine: str) -> None:
    command = [needs_tool("readelf"), "-hlW", str(binary_path(build, machine))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    assert done.stderr == ""
    shown = done.stdout
    assert re.search(r"Class:\s+ELF64\b", shown)
    named = {"x86_64": "Advanced Micro Devices X86-64", "aarch64": "AArch64"}[machine]
    assert re.search(rf"Machine:\s+{named}\b", shown)
    kind = {"static": "EXEC", "static-pie": "DYN"}[build]
    assert re.search(rf"Type:\s+{kind}\b", shown)
    segments = re.findall(
        r"^\s+(LOAD|GNU_STACK|INTERP)\s+(\S+) (\S+) \S+ (\S+) (\S+) ([R ][W ][E ]) (\S+)$",
        shown,
        re.MULTILINE,
    )
    flags = [(kind, flag.replace(" ", "")) for kind, *_, flag, _ in segments]
    assert flags == [("LOAD", "R"), ("LOAD", "RE"), ("LOAD", "RW"), ("GNU_STACK", "RW")]
    base = {"static": 0x400000, "static-pie": 0}[build]
    for _, offset, address, in_file, in_memory, _, align in segments[:3]:
        assert int(address, 16) == base + int(offset, 16)
        assert in_file == in_memory
        # Of 64-bit Arm, the largest page that a kernel may be built for.
        assert int(align, 16) == {"x86_64": 1 << 12, "aarch64": 1 << 16}[machine]
    entry = re.search(r"Entry point address:\s+(\S+)", shown)
    assert entry is not None
    assert int(entry[1], 16) == int(segments[1][2], 16)


def test_headers_are_what_the_kernel_notes(build: str) -> None:
    data = binary_path(build, platform.machine()).read_bytes()
    entry, offset = struct.unpack_from("<2Q", data, 24)
    size, count = struct.unpack_from("<2H", data, 54)
    loads = [struct.unpack_from("<2I6Q", data, offset + number * size) for number in range(count)]
    code, contents = (load for load in loads if load[0] == 1 and load[1] in (5, 6))
    with Specimen(build) as specimen:
        own = specimen.current_map()
        shift = own.start_code - code[3]
        assert shift == 0 if build == "static" else shift > 0
        assert own.end_code - shift == code[3] + code[6]
        assert (own.start_data - shift, own.end_data - shift) == (
            contents[3],
            contents[3] + contents[6],
        )
        assert own.start_code == entry + shift
        assert specimen.read(own.start_code, code[5]) == data[code[2] : code[2] + code[5]]
        assert specimen.read(own.start_data, contents[5]) == data[contents[2] :]


def test_the_program_needs_no_file_but_its_own(specimen: Specimen) -> None:
    paths = {vma.path for vma in specimen.snapshot().vmas if vma.path}
    assert paths == {f"/memfd:specimen-{specimen.build}"}
