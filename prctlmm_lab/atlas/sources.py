"""Sources: which mirror the machine's apt is set up for, and the suites of it that have kernels."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prctlmm_lab.errors import UnsupportedSystem

DEBIAN, UBUNTU = "debian", "ubuntu"
CODENAMES = {
    DEBIAN: ("bullseye", "bookworm", "trixie", "forky"),
    UBUNTU: ("jammy", "noble", "plucky", "questing", "resolute"),
}
"""The releases with kernels from 5.10 on; this machine's own is added if it is newer."""
ALWAYS = {DEBIAN: ("sid", "experimental"), UBUNTU: ()}
ALIASES = {DEBIAN: ("oldoldstable", "oldstable", "stable", "testing", "unstable"), UBUNTU: ()}
"""Other names that a machine's sources may have for them."""
POCKETS = {DEBIAN: ("", "-backports"), UBUNTU: ("", "-updates")}
"""What there is beside the release itself on the same mirror."""


@dataclass(frozen=True)
class Source:
    """One entry of a list of sources: where, what of it, and by which key it is signed."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str
    """Files or fingerprints, or a whole key of several lines; empty: any key that apt trusts."""


def sources_text(architecture: str) -> str:
    """Return sources in apt's deb822 form: every suite with kernels on this machine's mirror.

    A suite that the mirror does not have is passed over by apt. Suites end: their last signature
    is taken for what it is, however old, because old kernels are wanted here.

    Raises UnsupportedSystem if the machine's apt names no mirror of Debian or Ubuntu.
    """
    paragraphs = [
        "\n".join([
            "Types: deb",
            f"URIs: {' '.join(source.uris)}",
            f"Suites: {' '.join(source.suites)}",
            "Components: main",
            f"Architectures: {architecture}",
            "Targets: Packages",
            "Check-Valid-Until: no",
            *([f"Signed-By: {source.signed_by}"] if source.signed_by else []),
        ])
        for source in kernel_sources(machine_sources(), os_release())
    ]  # fmt: skip
    if not paragraphs:
        raise UnsupportedSystem(
            "The sources of this machine's apt name no mirror of Debian or Ubuntu",
            "Wherever a kernel is asked for, name a vmlinuz that you have, such as one in /boot.",
        )
    return "\n\n".join(paragraphs) + "\n"


def kernel_sources(own: Sequence[Source], system: dict[str, str]) -> list[Source]:
    """Return the sources of kernels on the mirrors that a machine's own sources name.

    `system` is what /etc/os-release says.

    >>> debian = Source(("file:/mirror",), ("bookworm",), ("main",), "/key.gpg")
    >>> kernel_sources([debian], {})[0].suites[:3]
    ('bullseye', 'bullseye-backports', 'bookworm')
    """
    made: dict[Source, None] = {}
    for source in own:
        if "main" not in source.components:
            continue
        for suite in source.suites:
            if suites := _suites_beside(suite, system):
                made[Source(source.uris, suites, ("main",), source.signed_by)] = None
    return [*made]


def _suites_beside(suite: str, system: dict[str, str]) -> tuple[str, ...]:
    """Return the suites with kernels that lie where one suite lies."""
    for distribution, codenames in CODENAMES.items():
        if system.get("ID") == distribution:
            codenames = tuple(dict.fromkeys((*codenames, system.get("VERSION_CODENAME") or "sid")))
        name, pocket = re.fullmatch(r"([^-/]*)(.*)", suite, re.DOTALL).groups()  # type: ignore[union-attr]
        if name not in (*codenames, *ALWAYS[distribution], *ALIASES[distribution]):
            continue
        if pocket in ("-security", "/updates"):  # Debian has them on another mirror
            return tuple(f"{each}-security" for each in codenames)
        beside = tuple(f"{each}{own}" for each in codenames for own in POCKETS[distribution])
        return (*beside, *ALWAYS[distribution])
    return ()


# ---- what the machine says ----------------------------------------------------------------------


def os_release() -> dict[str, str]:
    """Return what /etc/os-release says; nothing where it is missing."""
    try:
        text = Path("/etc/os-release").read_text("utf-8", "replace")
    except OSError:
        return {}
    return dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))


def machine_sources() -> list[Source]:
    """Return the entries of the machine's own list of sources that are in force.

    Equivalent: `cat /etc/apt/sources.list /etc/apt/sources.list.d/*`.

    Raises UnsupportedSystem if apt does not say where they are.
    """
    asked = ["FILE", "Dir::Etc::sourcelist/f", "FOLDER", "Dir::Etc::sourceparts/d"]
    try:
        told = subprocess.run(["apt-config", "shell", *asked], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        raise UnsupportedSystem("apt-config does not say where apt's sources are",
                                "Run `apt-config dump` to see why.") from None  # fmt: skip
    places = dict(word.split("=", 1) for word in shlex.split(told.stdout))
    files = [Path(places.get("FILE", "/dev/null"))]
    if folder := places.get("FOLDER"):
        files += sorted(Path(folder).glob("*.list")) + sorted(Path(folder).glob("*.sources"))
    found: list[Source] = []
    for path in files:
        try:
            text = path.read_text("utf-8", "replace")
        except OSError:
            continue
        found += read_paragraphs(text) if path.suffix == ".sources" else read_lines(text)
    return found


def read_lines(text: str) -> Iterator[Source]:
    """Read entries of one line each (sources.list(5)).

    >>> [*read_lines("deb [arch=amd64 signed-by=/k.gpg] file:/mirror bookworm main # ours")]
    [Source(uris=('file:/mirror',), suites=('bookworm',), components=('main',), signed_by='/k.gpg')]
    """
    for line in text.splitlines():
        entry = re.fullmatch(r"\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s+(.+)",
                             line.partition("#")[0])  # fmt: skip
        if entry is None or entry[2].startswith("cdrom:"):
            continue
        key = re.search(r"(?:^|\s)signed-by=(\S+)", entry[1] or "", re.IGNORECASE)
        signed_by = " ".join(key[1].split(",")) if key else ""
        yield Source((entry[2],), (entry[3],), tuple(entry[4].split()), signed_by)


def read_paragraphs(text: str) -> Iterator[Source]:
    r"""Read entries in the deb822 form (sources.list(5)).

    >>> [*read_paragraphs("Types: deb\nURIs: file:/mirror\nSuites: noble\nComponents: main\n")]
    [Source(uris=('file:/mirror',), suites=('noble',), components=('main',), signed_by='')]
    """
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for paragraph in re.split(r"\n[ \t]*\n", "\n".join(lines)):
        fields = {
            name.lower(): "\n ".join(line.strip() for line in value.splitlines()).rstrip()
            for name, value in re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", paragraph, re.MULTILINE)
        }
        uris = tuple(u for u in fields.get("uris", "").split() if not u.startswith("cdrom:"))
        is_off = fields.get("enabled", "yes").lower() in ("no", "false", "off", "without", "0")
        if is_off or not uris or "deb" not in fields.get("types", "").split():
            continue
        yield Source(uris, tuple(fields.get("suites", "").split()),
                     tuple(fields.get("components", "").split()),
                     fields.get("signed-by", ""))  # fmt: skip
