"""Build the specimen's binaries from their assembly sources with binutils.

Run `python -m prctlmm_lab.specimen.build` after a change to a source. The binaries are package
data, so that nobody needs binutils to use the lab; a test rebuilds and compares them.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from prctlmm_lab.errors import UnsupportedSystem

HERE = Path(__file__).parent
BUILDS: dict[str, int] = {"static": 0, "static-pie": 1}
"""The builds by name, with the value of PIE in the source."""
MACHINES: tuple[str, ...] = ("x86_64", "aarch64")
"""The machines that have a specimen, as `uname -m` names them; each has a source of that name."""

Command = list[str | Path]


def binary_path(build: str, machine: str = "x86_64") -> Path:
    """Return where the binary of a build lies in the package."""
    return HERE / f"{machine}-{build}"


def build(name: str, machine: str = "x86_64") -> bytes:
    """Assemble and link one build for a machine and return the file's bytes.

    Equivalent: `as --64 --defsym PIE=0 -o o x86_64.S;
    ld -m elf_x86_64 --oformat binary -Ttext 0 -o binary o`, or for aarch64
    `aarch64-linux-gnu-as --defsym PIE=0 -o o aarch64.S;
    aarch64-linux-gnu-ld -Ttext 0 -o linked o;
    aarch64-linux-gnu-objcopy -O binary -j .text linked binary`.

    Raises UnsupportedSystem without binutils, CalledProcessError if the source does not assemble.
    """
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "binary")
        for command in _commands(name, machine, Path(folder)):
            tool = str(command[0])
            if shutil.which(tool) is None:
                package = _package(machine)
                raise UnsupportedSystem(
                    f"{tool} is not installed", f"Install the package {package}."
                )
            subprocess.run(command, check=True, timeout=60)
        return binary.read_bytes()


def _commands(name: str, machine: str, folder: Path) -> list[Command]:
    """Return what makes the file `binary` in the folder, step by step."""
    source, pie = HERE / f"{machine}.S", f"PIE={BUILDS[name]}"
    assembled, linked, binary = folder / "o", folder / "linked", folder / "binary"
    prefix = _prefix(machine)
    # The sources have C comments and no preprocessor lines, so `as` reads them as they are.
    if machine == "x86_64":
        flat = ["-m", "elf_x86_64", "--oformat", "binary", "-Ttext", "0"]
        return [
            [f"{prefix}as", "--64", "--defsym", pie, "-o", assembled, source],
            [f"{prefix}ld", *flat, "-o", binary, assembled],
        ]
    return [  # ld refuses another output format than ELF for this machine
        [f"{prefix}as", "--defsym", pie, "-o", assembled, source],
        [f"{prefix}ld", "-Ttext", "0", "-o", linked, assembled],
        [f"{prefix}objcopy", "-O", "binary", "-j", ".text", linked, binary],
    ]


def _prefix(machine: str) -> str:
    """Return what the names of the tools for a machine begin with."""
    return "" if machine == platform.machine() else f"{machine}-linux-gnu-"


def _package(machine: str) -> str:
    """Return the Debian package of the tools for a machine."""
    prefix = _prefix(machine).replace("_", "-").rstrip("-")
    return f"binutils-{prefix}" if prefix else "binutils"


def main() -> int:
    """Write the binaries of all builds into the package; say which machine's tools are missing."""
    missing = 0
    for machine in MACHINES:
        for name in BUILDS:
            path = binary_path(name, machine)
            try:
                path.write_bytes(build(name, machine))
            except UnsupportedSystem as error:
                print(f"{path.name}: left as it is. {error}", file=sys.stderr)
                missing = 1
            else:
                print(f"{path.name}: {path.stat().st_size} bytes")
    return missing


if __name__ == "__main__":
    sys.exit(main())
