"""A made-up mirror of packages on this disk, its key, and the settings of a made-up machine's apt.

The kernels in it are boot headers with nothing behind them. gpg signs, dpkg-deb packs, and apt is
the real one, so that what is refused is refused by apt.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.needs import needs_tool

FEW = "Package: {package}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: nobody\n"
TOOLS = ("apt-get", "apt-cache", "apt-config", "dpkg-deb", "gpg", "gpgconf", "gpgv")


def bzimage(release: str, version: str = "", *, size: int = 0x5000) -> bytes:
    """Return a boot header as Documentation/arch/x86/boot.rst lays it out, and filling."""
    data = bytearray(size)
    data[0x1F1] = 0x1F  # setup_sects
    struct.pack_into("<HH4sH", data, 0x1FE, 0xAA55, 0x66EB, b"HdrS", 0x20F)
    struct.pack_into("<H", data, 0x20E, 0x3000)
    data[0x236] = 1  # XLF_KERNEL_64
    built = f" (nobody@nowhere) #1 SMP Debian {version} (2026-01-01)" if version else " #1"
    text = f"{release}{built}".encode() + b"\0"
    data[0x3200 : 0x3200 + len(text)] = text
    return bytes(data)


@dataclass(frozen=True)
class Key:
    """A key that signs, and the file by which apt knows it."""

    home: Path
    public: Path

    def sign(self, release: Path) -> None:
        """Write the signed form of a Release file beside it."""
        gpg(self.home, "--yes", "--clearsign", "--digest-algo", "SHA512", "--output",
            str(release.with_name("InRelease")), str(release))  # fmt: skip


def gpg(home: Path, *arguments: str) -> bytes:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--no-options",
               "--pinentry-mode", "loopback", "--passphrase", "", *arguments]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@contextmanager
def new_key() -> Iterator[Key]:
    """Make a key; its agent ends with it."""
    home = Path(tempfile.mkdtemp(prefix="key-", dir="/tmp"))  # an agent's socket needs a short path
    try:
        gpg(home, "--quick-generate-key", "Made up <nobody@nowhere>", "ed25519", "sign", "never")
        public = home / "public.gpg"
        public.write_bytes(gpg(home, "--export"))
        yield Key(home, public)
    finally:
        subprocess.run(
            ["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, timeout=60
        )
        shutil.rmtree(home, ignore_errors=True)


@dataclass
class Mirror:
    """A folder that apt takes for a mirror, and the machine that is set up for it."""

    folder: Path
    key: Key
    architecture: str = "amd64"

    @property
    def root(self) -> Path:
        return self.folder / "mirror"

    @property
    def configuration(self) -> Path:
        """The machine's settings, for APT_CONFIG."""
        return self.folder / "apt.conf"

    @property
    def list(self) -> Path:
        return self.folder / "etc" / "sources.list.d" / "machine.sources"

    def package(self, name: str, version: str, files: dict[str, bytes], *, size: int = 9999,
                more: str = "") -> Path:  # fmt: skip
        """Pack files as a package into the pool; `size` is its Installed-Size in KiB."""
        tree = self.folder / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        for place, content in files.items():
            path = tree / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (tree / "DEBIAN").mkdir(parents=True)
        fields = FEW.format(package=name, version=version, architecture=self.architecture)
        control = f"{fields}Installed-Size: {size}\n{more}Description: made up\n"
        (tree / "DEBIAN" / "control").write_text(control)
        pool = self.root / "pool"
        pool.mkdir(parents=True, exist_ok=True)
        path = pool / f"{name}_{version}_{self.architecture}.deb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, path],
                       check=True, capture_output=True, timeout=60)  # fmt: skip
        return path

    def kernel(self, release: str, version: str, *, kind: str = "image", place: str = "") -> Path:
        """Pack a kernel as Debian does."""
        place = place or f"boot/vmlinuz-{release}"
        return self.package(f"linux-{kind}-{release}", version, {
            "usr/share/doc/readme": b"text",
            place: bzimage(release, version),
            f"usr/lib/modules/{release}/kernel/a.ko": b"module",
        })  # fmt: skip

    def publish(self, suite: str, packages: Sequence[Path], *, key: Key | None = None) -> Path:
        """Write a suite of the mirror, signed, and return its folder."""
        dists = self.root / "dists" / suite
        index = dists / "main" / f"binary-{self.architecture}" / "Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text("\n".join(self._paragraph(package) for package in packages))
        data = index.read_bytes()
        (dists / "Release").write_text(
            f"Origin: Debian\nLabel: Debian\nSuite: {suite}\nCodename: {suite}\n"
            "Date: Thu, 01 Jan 2026 00:00:00 UTC\n"
            f"Architectures: {self.architecture}\nComponents: main\nSHA256:\n"
            f" {hashlib.sha256(data).hexdigest()} {len(data)} {index.relative_to(dists)}\n"
        )
        (key or self.key).sign(dists / "Release")
        return dists

    def _paragraph(self, package: Path) -> str:
        told = subprocess.run(["dpkg-deb", "--field", package], check=True, capture_output=True,
                              text=True, timeout=60).stdout  # fmt: skip
        data = package.read_bytes()
        return (
            f"{told}Filename: {package.relative_to(self.root)}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        )

    def machine(self, *, suites: str = "bookworm", uri: str = "", more: str = "") -> None:
        """Set up the made-up machine's apt for this mirror: careless, and with hooks."""
        self.list.parent.mkdir(parents=True, exist_ok=True)
        self.list.write_text(
            f"Types: deb\nURIs: {uri or f'file:{self.root}'}\nSuites: {suites}\n"
            f"Components: main\nSigned-By: {self.key.public}\n{more}"
        )
        state = self.folder / "state"
        (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        user = 'APT::Sandbox::User "root";\n' if os.geteuid() == 0 else ""
        self.configuration.write_text(
            f'Dir::Etc "{self.folder}/etc";\nDir::Etc::parts "/dev/null";\n'
            f'Dir::State "{state}";\nDir::State::lists "{state}/lists";\n'
            f'Dir::Cache "{self.folder}/cache";\n'
            'Acquire::AllowInsecureRepositories "true";\nAcquire::AllowWeakRepositories "true";\n'
            'APT::Get::AllowUnauthenticated "true";\n'
            f'Dir::Cache::archives "{self.folder}/archives";\n'
            f'APT::Update::Post-Invoke {{ "touch {self.folder}/hooked"; }};\n'
            f'APT::Update::Post-Invoke-Success {{ "touch {self.folder}/hooked"; }};\n{user}'
        )

    @property
    def environment(self) -> dict[str, str]:
        """What a command is run with so that it is on the made-up machine."""
        return {"APT_CONFIG": str(self.configuration),
                "PRCTLMM_LAB_KERNELS": str(self.folder / "kernels")}  # fmt: skip

    def state(self) -> dict[str, bytes]:
        """Return everything on the made-up machine but the folder of the kernels."""
        kept = self.folder / "kernels"
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else b""
            for path in self.folder.rglob("*")
            if not path.is_relative_to(kept)
        }


def debian(folder: Path, key: Key) -> Mirror:
    """Make a mirror with the shapes that Debian's kernels have had, and a machine set up for it."""
    for tool in TOOLS:
        needs_tool(tool)
    made = Mirror(folder, key)
    old = [made.kernel("5.10.0-45-cloud-amd64", "5.10.259-1"),
           made.kernel("5.10.0-46-cloud-amd64", "5.10.262-1"),
           made.kernel("5.10.0-46-amd64", "5.10.262-1"),
           made.kernel("5.10.0-47-rt-amd64", "5.10.263-1"),
           made.kernel("4.19.0-9-cloud-amd64", "4.19.118-2")]  # fmt: skip
    new = [made.kernel("6.19.14+deb13-amd64", "6.19.14-1~bpo13+1", kind="binary"),
           made.kernel("7.2.9+deb13-cloud-amd64", "7.2.9-1~bpo13+1", kind="binary",
                       place="usr/lib/modules/7.2.9+deb13-cloud-amd64/vmlinuz"),
           made.kernel("7.2.10+deb13-cloud-amd64", "7.2.10-1~bpo13+1", kind="binary",
                       place="usr/lib/modules/7.2.10+deb13-cloud-amd64/vmlinuz"),
           made.package("linux-image-7.2.11+deb13-cloud-amd64", "7.2.11-1~bpo13+1", {},
                        size=13)]  # fmt: skip
    made.publish("bullseye", old)
    made.publish("trixie-backports", new)
    made.machine()
    return made
