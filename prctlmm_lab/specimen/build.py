"""Build the specimen's binaries from their assembly source with binutils.

Run `python -m prctlmm_lab.specimen.build` after a change to the source. The binaries are package
data, so that nobody needs binutils to use the lab; a test rebuilds and compares them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from prctlmm_lab.errors import UnsupportedSystem

HERE = Path(__file__).parent
BUILDS: dict[str, int] = {"static": 0, "static-pie": 1}
"""The builds by name, with the value of PIE in the source."""


def binary_path(build: str, machine: str = "x86_64") -> Path:
    """Return where the binary of a build lies in the package."""
    return HERE / f"{machine}-{build}"


def build(name: str) -> bytes:
    """Assemble and link one build and return the file's bytes.

    Equivalent: `as --64 --defsym PIE=0 -o o x86_64.S;
    ld -m elf_x86_64 --oformat binary -Ttext 0 -o binary o`.

    Raises UnsupportedSystem without binutils, CalledProcessError if the source does not assemble.
    """
    for tool in ("as", "ld"):
        if shutil.which(tool) is None:
            raise UnsupportedSystem(f"{tool} is not installed", "Install the package binutils.")
    with tempfile.TemporaryDirectory() as folder:
        # The source has C comments and no preprocessor lines, so `as` reads it as it is.
        object_file, binary = Path(folder, "o"), Path(folder, "binary")
        assemble: list[str | Path] = [
            "as",
            "--64",
            "--defsym",
            f"PIE={BUILDS[name]}",
            "-o",
            object_file,
        ]
        link: list[str | Path] = [
            "ld",
            "-m",
            "elf_x86_64",
            "--oformat",
            "binary",
            "-Ttext",
            "0",
            "-o",
            binary,
        ]
        subprocess.run([*assemble, HERE / "x86_64.S"], check=True, timeout=60)
        subprocess.run([*link, object_file], check=True, timeout=60)
        return binary.read_bytes()


def main() -> int:
    """Write the binaries of all builds into the package."""
    for name in BUILDS:
        path = binary_path(name)
        path.write_bytes(build(name))
        print(f"{path.name}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
