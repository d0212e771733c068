"""Kernels from packages: what apt offers, what it refuses, and what is kept.

apt, dpkg and gpg are real; the mirror and the machine's settings are made up (mirror.py).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.atlas.images import (
    Image,
    cache_folder,
    find,
    image_at,
    images,
    images_elsewhere,
    keep,
    remove,
    user_mode_linux,
    version_order,
)
from prctlmm_lab.atlas.packages import chosen, fetch, newest_of_each_series, offers, read_index
from prctlmm_lab.atlas.sources import (
    Source,
    kernel_sources,
    machine_sources,
    read_lines,
    read_paragraphs,
)
from prctlmm_lab.errors import InputError, LabError, UnsupportedSystem
from tests.atlas.mirror import Key, Mirror, bzimage, debian, gpg, new_key
from tests.needs import needs_ordinary_user, needs_tool, skip_unless
from tests.ordinary_user import ROOT, as_ordinary_user

NEWEST = ["5.10.262", "6.19.14", "7.2.10"]
"""What the made-up mirror has as the newest of each series from 5.10 on."""


@pytest.fixture(scope="module")
def key() -> Iterator[Key]:
    for tool in ("gpg", "gpgconf"):
        needs_tool(tool)
    with new_key() as made:
        yield made


@pytest.fixture
def mirror(tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """Return the made-up mirror; this process is on the machine that is set up for it."""
    made = debian(tmp_path, key)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is this process's folder of kernels."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    monkeypatch.setenv("PRCTLMM_LAB_KERNELS", str(folder))
    return folder


def one_sentence(error: LabError) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 600
    return text


def kept_one(release: str = "6.1.0-9-cloud-amd64", version: str = "6.1.27-1") -> Image:
    """Keep a made-up image."""

    def write(path: Path) -> str:
        path.write_bytes(bzimage(release, version))
        return release

    return keep(f"linux-image-{release}", version, "x86_64", write)


# ---- fetch ------------------------------------------------------------------------------------


def test_the_newest_of_each_series_is_fetched_whole(mirror: Mirror) -> None:
    told: list[Image] = []
    found = fetch(on_image=told.append)
    assert [image.upstream for image in found] == NEWEST
    assert found == told == images()
    for image in found:
        assert image.path.read_bytes() == bzimage(image.release, image.version)
        assert image == image_at(image.path)
    assert found[0].release == "5.10.0-46-cloud-amd64", "the small build, not the whole one"
    assert {path.name[0] for path in cache_folder().iterdir()} == {".", "l"}
    assert not [*cache_folder().rglob("*.deb")]


def test_what_is_kept_is_not_fetched_again(mirror: Mirror) -> None:
    first = fetch(["7.2"])
    shutil.rmtree(mirror.root / "pool")
    assert fetch(["7.2.10"]) == first
    with pytest.raises(UnsupportedSystem, match=r"apt did not get linux-image-5\.10\.0-46-cloud"):
        fetch(["5.10"])


def test_one_kernel_that_cannot_be_had_does_not_keep_the_others_back(mirror: Mirror) -> None:
    [lost] = (mirror.root / "pool").glob("linux-image-5.10.0-46-cloud*")
    lost.unlink()
    with pytest.raises(UnsupportedSystem) as caught:
        fetch()
    assert "apt did not get linux-image-5.10.0-46-cloud-amd64=" in one_sentence(caught.value)
    assert [image.upstream for image in images()] == NEWEST[1:]


@pytest.mark.parametrize(("name", "release"), [
    ("5.10", "5.10.0-46-cloud-amd64"),
    ("v5.10", "5.10.0-46-cloud-amd64"),
    ("5.10.259", "5.10.0-45-cloud-amd64"),
    ("5.10.0-46-amd64", "5.10.0-46-amd64"),
    ("linux-image-5.10.0-47-rt-amd64", "5.10.0-47-rt-amd64"),
    ("7.2.9-1~bpo13+1", "7.2.9+deb13-cloud-amd64"),
    ("4.19", "4.19.0-9-cloud-amd64"),
])  # fmt: skip
def test_a_name_means_one_kernel(mirror: Mirror, name: str, release: str) -> None:
    assert [offer.release for offer in chosen(offers(), [name, name])] == [release]


def test_an_unknown_version_is_refused_with_what_there_is(mirror: Mirror) -> None:
    for name, there in (("6.3", "4.19, 5.10, 6.19, 7.2"), ("7.2.1", "7.2.9, 7.2.10"),
                        ("?" * 999, "4.19, 5.10")):  # fmt: skip
        with pytest.raises(InputError) as caught:
            fetch(["5.10", name])
        assert there in one_sentence(caught.value)
    assert images() == []


def test_apt_reads_the_machine_and_changes_nothing_of_it(mirror: Mirror) -> None:
    before = mirror.state()
    fetch(["5.10"])
    assert mirror.state() == before, "a hook ran, or apt wrote into the machine's own state"


def test_an_ordinary_user_fetches(mirror: Mirror) -> None:
    needs_ordinary_user()
    program = (
        "import os; from prctlmm_lab.atlas.packages import fetch\n"
        "os.environ['PRCTLMM_LAB_KERNELS'] = os.environ['HOME'] + '/a/b'\n"
        "print(os.getuid() != 0, *(image.release for image in fetch(['5.10', '7.2'])))"
    )
    for path in (mirror.folder, mirror.key.home, mirror.key.public):
        path.chmod(0o755)
    ran = as_ordinary_user(program, reach=[mirror.folder, mirror.key.home],
                           environment=mirror.environment)  # fmt: skip
    assert (ran.stdout, ran.stderr) == (
        "True 5.10.0-46-cloud-amd64 7.2.10+deb13-cloud-amd64\n", "",
    )  # fmt: skip


# ---- what apt refuses -------------------------------------------------------------------------


def test_a_tampered_package_is_refused(mirror: Mirror) -> None:
    [path] = (mirror.root / "pool").glob("linux-image-5.10.0-46-cloud*")
    data = bytearray(path.read_bytes())
    data[data.index(b"HdrS") + 0x1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnsupportedSystem, match="Hash Sum mismatch") as caught:
        fetch(["5.10"])
    one_sentence(caught.value)
    assert images() == []
    assert [*cache_folder().glob("[!.]*")] == [], "a part is left"


def tampered_release(dists: Path, mirror: Mirror) -> None:
    signed = dists / "InRelease"
    signed.write_text(signed.read_text().replace("Label: Debian", "Label: Debiam"))


def tampered_index(dists: Path, mirror: Mirror) -> None:
    [index] = dists.rglob("Packages")
    index.write_text(index.read_text().replace("5.10.262", "5.10.999"))


def unsigned(dists: Path, mirror: Mirror) -> None:
    (dists / "InRelease").unlink()


def unsigned_and_trusted(dists: Path, mirror: Mirror) -> None:
    (dists / "InRelease").unlink()
    mirror.machine(more="Trusted: yes\nAllow-Insecure: yes\n")


def signed_by_another(dists: Path, mirror: Mirror) -> None:
    with new_key() as other:
        other.sign(dists / "Release")


DAMAGES = {
    tampered_release: "BADSIG",
    tampered_index: "Hash Sum mismatch|unexpected size",
    unsigned: "is not signed",
    unsigned_and_trusted: "is not signed",
    signed_by_another: "NO_PUBKEY",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_suite_that_is_not_as_it_was_signed_is_refused(mirror: Mirror, damage: Any) -> None:
    shutil.rmtree(mirror.root / "dists" / "trixie-backports")
    damage(mirror.root / "dists" / "bullseye", mirror)
    with pytest.raises(UnsupportedSystem, match=DAMAGES[damage]) as caught:
        fetch(["5.10"])
    assert one_sentence(caught.value).startswith("apt has no kernel that it can verify")
    assert images() == []


def test_one_suite_that_is_refused_is_told_and_the_others_are_used(mirror: Mirror) -> None:
    tampered_release(mirror.root / "dists" / "bullseye", mirror)
    notes: list[str] = []
    found = fetch(on_note=notes.append)
    assert [image.upstream for image in found] == NEWEST[1:]
    assert any("BADSIG" in note for note in notes)
    assert not any("does not have a Release file" in note for note in notes), notes


# ---- what the machine lacks -------------------------------------------------------------------


def test_without_apt_it_says_what_else_can_be_done(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedSystem, match=r"^apt-get is not here") as caught:
        fetch()
    assert "/boot" in one_sentence(caught.value)


def test_without_a_network_it_says_what_apt_says(mirror: Mirror) -> None:
    mirror.machine(uri="http://127.0.0.1:9/nothing")  # the port discard, where nobody listens
    with pytest.raises(UnsupportedSystem, match=r"127\.0\.0\.1.*Connection refused") as caught:
        fetch()
    one_sentence(caught.value)


def test_sources_without_a_distribution_are_refused(mirror: Mirror) -> None:
    mirror.machine(suites="nodistro")
    with pytest.raises(UnsupportedSystem, match="no mirror of Debian or Ubuntu"):
        fetch()


def test_a_full_disk_is_one_sentence_and_leaves_no_part(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*of: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(UnsupportedSystem, match=r"There is no room in .*No space left"):
            fetch(["5.10"])
    assert [*cache_folder().glob(".part*")] == []
    usage = shutil.disk_usage(mirror.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=4096))
    with pytest.raises(UnsupportedSystem, match="needs 64 MiB, and only 4 KiB are free"):
        fetch(["5.10"])
    assert images() == []


def test_apt_on_a_full_disk_is_one_sentence(mirror: Mirror) -> None:
    needs_ordinary_user()
    skip_unless(os.geteuid() == 0, "only root can mount a small disk", impossible=True)
    small = mirror.folder / "small"
    small.mkdir()
    program = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True)\n"
        "def check(r): r and sys.exit(f'mount: {os.strerror(ctypes.get_errno())}')\n"
        f"place = {os.fsencode(small)!r}\n"
        "check(libc.unshare(0x20000)); check(libc.mount(None, b'/', None, 0x44000, None))\n"
        "check(libc.mount(b'tmpfs', place, b'tmpfs', 0, b'size=64k'))\n"
        "os.environ['PRCTLMM_LAB_KERNELS'] = os.fsdecode(place)\n"
        "from prctlmm_lab.atlas.packages import fetch\n"
        "try: fetch(['5.10'])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)  # fmt: skip
    skip_unless(not ran.stderr.startswith("mount:"), "no mount here", impossible=True)
    assert ran.stdout.startswith(f"UnsupportedSystem There is no room in {small}: "), ran
    assert ran.stdout.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRCTLMM_LAB_KERNELS", str(tmp_path / "file" / "kernels"))
    with pytest.raises(UnsupportedSystem, match="cannot be written: Not a directory"):
        fetch()


def test_two_do_not_fetch_at_the_same_time(mirror: Mirror) -> None:
    def again(image: Image) -> None:
        with pytest.raises(UnsupportedSystem, match=r"being fetched into .* already"):
            fetch()
        refused.append(image)

    refused: list[Image] = []
    fetch(["5.10"], on_image=again)
    assert len(refused) == 1


# ---- the package index ------------------------------------------------------------------------

UBUNTU = """\
Package: linux-image-{release}
Architecture: amd64
Version: {version}
Installed-Size: {size}
Source: linux-signed
Depends: kmod, linux-base, linux-modules-{release}
Filename: pool/main/l/linux-signed/linux-image-{release}_{version}_amd64.deb
Size: 14633154
Description: Signed kernel image
 Package: linux-image-1.0-amd64

"""


def test_the_names_of_ubuntu_are_understood() -> None:
    text = "".join(
        UBUNTU.format(release=release, version=version, size=size)
        for release, version, size in (
            ("5.15.0-91-generic", "5.15.0-91.101", 14000),
            ("6.8.0-9-generic", "6.8.0-9.9", 14000),
            ("6.8.0-51-generic", "6.8.0-51.52", 14000),
            ("6.8.0-1021-aws", "6.8.0-1021.23", 14000),
            ("unsigned-6.8.0-60-generic", "6.8.0-60.63", 14000),
            ("6.8.0-59-generic-dbgsym", "6.8.0-59.61", 14000),
            ("generic", "6.8.0-60.63", 17),
            ("6.8-generic", "6.8.0-60.63", 17),
        )
    )
    found = read_index(text, "x86_64")
    newest = newest_of_each_series(found)
    assert [offer.release for offer in newest] == ["5.15.0-91-generic", "6.8.0-51-generic"]
    assert [offer.release for offer in chosen(found, ["6.8.0-1021-aws"])] == ["6.8.0-1021-aws"]


@pytest.mark.parametrize("text", [
    "", "Package", "Package: linux-image-6.1-amd64\n", "Package: linux-image-6.1.1-amd64\n"
    "Version: 6.1\nArchitecture: amd64\nInstalled-Size: x\nSize: 9\n",
    "Package: linux-image-6.1.1-amd64\nVersion: ../6\nArchitecture: amd64\n"
    "Installed-Size: 9999\nSize: 9\n",
])  # fmt: skip
def test_an_index_that_says_too_little_offers_nothing(text: str) -> None:
    assert read_index(text, "x86_64") == []


def test_versions_are_ordered_as_dpkg_orders_them() -> None:
    needs_tool("dpkg")
    chance = random.Random(7)
    versions = ["6.1.9-1", "6.1.10-1", "6.1.10-1~bpo1", "7.3~rc7-1~exp1", "7.3-1", "7.3.4-1", "7.3"]
    versions += ["".join(chance.choices("019.~+-a", k=chance.randint(1, 6))) for _ in range(40)]
    versions = [f"1{version.strip('-')}" for version in versions]
    for one, other in pairwise(versions):
        command = ["dpkg", "--compare-versions", f"0:{one}-1", "lt", f"0:{other}-1"]
        is_less = subprocess.run(command, check=False, timeout=60).returncode == 0
        ours = version_order(one), version_order(other)
        assert (ours[0] < ours[1]) == is_less, (one, other)


# ---- sources ----------------------------------------------------------------------------------


def test_the_suites_beside_the_machines_own_are_asked_for_under_its_key() -> None:
    own = [
        Source(("mirror+file:/m", "file:/n"), ("trixie", "trixie-x"), ("main", "x"), "/k.gpg"),
        Source(("file:/s",), ("stable-security",), ("main",), "/s.gpg"),
        Source(("file:/u",), ("noble-updates",), ("main", "restricted"), ""),
        Source(("file:/pg",), ("trixie-pgdg",), ("pgdg",), ""),
        Source(("file:/docker",), ("trixie",), ("stable",), ""),
        Source(("file:/other",), ("nodistro",), ("main",), ""),
    ]
    debian, security, ubuntu = kernel_sources(own, {"ID": "debian", "VERSION_CODENAME": "zurg"})
    assert (debian.uris, debian.signed_by) == (own[0].uris, "/k.gpg")
    assert {"bullseye", "bookworm-backports", "sid", "experimental", "zurg"} <= {*debian.suites}
    assert (security.uris, security.signed_by) == (("file:/s",), "/s.gpg")
    assert {"bullseye-security", "zurg-security"} <= {*security.suites}
    assert {"jammy", "jammy-updates", "noble"} <= {*ubuntu.suites}
    assert not any("security" in suite for suite in (*debian.suites, *ubuntu.suites))


def test_both_forms_of_sources_are_read() -> None:
    lines = (
        "# deb file:/no bookworm main\n"
        "deb-src file:/no bookworm main\n"
        "deb cdrom:[Debian 12]/ bookworm main\n"
        "deb [ arch=amd64,i386 Signed-By=/a.gpg,/b.gpg trusted=yes ] file:/yes bookworm main x\n"
    )
    assert [*read_lines(lines)] == [
        Source(("file:/yes",), ("bookworm",), ("main", "x"), "/a.gpg /b.gpg")
    ]
    paragraphs = (
        "# a remark\nTypes: deb deb-src\nURIs: file:/a file:/b\n# inside\nSuites: trixie\n"
        " trixie-updates\nComponents: main\nTrusted: yes\nSigned-By:\n"
        " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n -----END PGP PUBLIC KEY BLOCK-----\n"
        "\n \nEnabled: no\nTypes: deb\nURIs: file:/off\nSuites: trixie\nComponents: main\n"
        "\nTypes: deb-src\nURIs: file:/src\nSuites: trixie\nComponents: main\n"
    )
    [source] = read_paragraphs(paragraphs)
    assert source.uris == ("file:/a", "file:/b")
    assert source.suites == ("trixie", "trixie-updates")
    assert source.signed_by == (
        "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n -----END PGP PUBLIC KEY BLOCK-----"
    )


def test_a_key_that_stands_in_the_machines_own_list_verifies(mirror: Mirror) -> None:
    armored = gpg(mirror.key.home, "--armor", "--export").decode()
    text = "".join(f"\n {line or '.'}" for line in armored.splitlines())
    mirror.list.write_text(mirror.list.read_text().replace(f" {mirror.key.public}", text))
    assert "BEGIN PGP" in machine_sources()[0].signed_by
    assert [image.series for image in fetch(["5.10"])] == ["5.10"]


def test_our_code_names_no_host() -> None:
    for path in (ROOT / "prctlmm_lab" / "atlas").glob("*.py"):
        assert not re.search(r"://|\.(debian|ubuntu)\.(org|com|net)", path.read_text()), path


# ---- what is kept -----------------------------------------------------------------------------


def test_part_of_an_image_is_never_taken_for_one(kernels: Path) -> None:
    whole = kept_one()
    folder = whole.path.parent
    for name, damage in {
        ".part-x": lambda made: None,
        "cut": lambda made: (made / "vmlinuz").write_bytes(b"HdrS"),
        "bare": lambda made: (made / "image.json").unlink(),
        "torn": lambda made: (made / "image.json").write_text('{"release": "6.1'),
        "list": lambda made: (made / "image.json").write_text("[]"),
        "wrong": lambda made: (made / "image.json").write_text('{"release": 6}'),
        "empty": lambda made: shutil.rmtree(made),
    }.items():
        shutil.copytree(folder, kernels / name)
        damage(kernels / name)  # type: ignore[no-untyped-call]
    (kernels / "file").write_text("")
    assert images() == [whole]


def test_a_fetch_that_fails_or_is_killed_leaves_no_image(kernels: Path) -> None:
    def fail(path: Path) -> str:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep("linux-image-6.1.1-amd64", "6.1.1-1", "x86_64", fail)
    assert [*kernels.iterdir()] == []
    program = (
        "import os, signal; from prctlmm_lab.atlas.images import keep\n"
        "def die(path):\n path.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "keep('linux-image-6.1.1-amd64', '6.1.1-1', 'x86_64', die)"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=False, timeout=60,
                         env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert ran.returncode == -signal.SIGKILL
    assert [path.name[:6] for path in kernels.iterdir()] == [".part-"]
    assert images() == []


def test_what_a_killed_fetch_left_goes_with_the_next(mirror: Mirror) -> None:
    (cache_folder() / ".part-old").mkdir(parents=True)
    fetch(["5.10"])
    assert [*cache_folder().glob(".part*")] == []


def test_an_image_takes_the_place_of_its_like(kernels: Path) -> None:
    assert kept_one() == kept_one()
    assert len(images()) == 1
    assert [*kernels.glob(".part*")] == []


def test_kept_images_are_found_and_removed_by_name(kernels: Path) -> None:
    old, new, other = (
        kept_one("6.1.0-9-cloud-amd64", "6.1.9-1"), kept_one("6.1.0-10-cloud-amd64", "6.1.10-1"),
        kept_one("7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
    )  # fmt: skip
    assert images() == [old, new, other]
    assert find("6.1") == find("6.1.10") == find("v6.1") == new
    assert find("6.1.0-9-cloud-amd64") == old
    with pytest.raises(InputError, match=r"one of 6\.1, 7\.3, a path, or after .*fetch 6\.6`"):
        find("6.6")
    with pytest.raises(InputError, match=r"fetch --machine aarch64 7\.3`"):
        find("7.3", machine="aarch64")
    with pytest.raises(InputError, match=r"expected 6\.1\.9, 6\.1\.10, 7\.3\.4"):
        remove(["7.3", "6.6"])
    assert images() == [old, new, other], "something was deleted before all names were known"
    assert remove(["6.1"]) == [old, new]
    assert images() == [other]
    assert remove([other.package]) == [other]
    assert [*kernels.iterdir()] == []


def test_without_a_folder_nothing_is_kept(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels.rmdir()
    assert images() == []
    monkeypatch.delenv("PRCTLMM_LAB_KERNELS")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/prctlmm-lab/kernels")


# ---- any kernel's file ------------------------------------------------------------------------


def told_by_file(path: Path) -> str:
    command = [needs_tool("file"), "-b", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def test_the_release_is_read_from_the_boot_header(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage("6.1.0-9-amd64", "6.1.27-1"))
    image = image_at(path)
    assert (image.release, image.version, image.machine) == ("6.1.0-9-amd64", "6.1.27-1", "x86_64")
    assert (image.upstream, image.series, image.package) == ("6.1.27", "6.1", "")
    assert f"version {image.release} " in told_by_file(path)
    path.write_bytes(bzimage("6.18.44"))
    assert (image_at(path).upstream, image_at(path).version) == ("6.18.44", "")


def test_real_kernels_say_what_file_reads_in_them() -> None:
    found = [i for i in (*images(), *images_elsewhere()) if i.machine == "x86_64"]
    skip_unless(found, "no kernel is kept here", impossible=True)
    for image in found:
        path = image.path.resolve()
        assert f"version {image.release} " in told_by_file(path)


def test_an_image_for_arm64_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    data = bytearray(0x4000)
    data[0x38:0x3C] = b"ARMd"
    data[0x2000:0x2040] = b"Linux version 6.1.0-50-cloud-arm64 (nobody) Debian 6.1.176-1".ljust(64)
    path.write_bytes(data)
    image = image_at(path)
    assert (image.release, image.version, image.machine) == (
        "6.1.0-50-cloud-arm64", "6.1.176-1", "aarch64",
    )  # fmt: skip


def without_64_bits() -> bytes:
    data = bytearray(bzimage("6.1.1"))
    data[0x236] = 0
    return bytes(data)


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is no kernel: "),
    (b"\x7fELF" + bytes(4096), "no boot header"),
    (b"text\n" * 9, "no boot header"),
    (bzimage("6.1.1")[:0x204], "no boot header"),
    (bzimage("6.1.1")[:0x206], "ends in its boot header"),
    (bzimage("6.1.1")[:0x3000], "names no release"),
    (bzimage("\x1b[31m"), "names no release"),
    (without_64_bits(), "no 64-bit entry"),
    (b"MZ\0\0zimg" + bytes(4096), "compressed EFI"),
])  # fmt: skip
def test_what_is_no_kernel_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        image_at(path)
    assert words in one_sentence(caught.value)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(InputError, match=f"cannot be read: {words}"):
            image_at(path)


def test_a_package_without_a_kernel_or_with_another_is_refused(mirror: Mirror) -> None:
    release = "6.5.0-1-cloud-amd64"
    made = [
        mirror.package(f"linux-image-{release}", "6.5.3-1", {"boot/config": b""}),
        mirror.package("linux-image-6.6.0-1-cloud-amd64", "6.6.1-1",
                       {"boot/vmlinuz-6.6.0-1-cloud-amd64": bzimage(release)}),
    ]  # fmt: skip
    mirror.publish("bookworm", made)
    for series, words in (("6.5", "holds no kernel"), ("6.6", f"boot header {release}|{release}")):
        with pytest.raises(InputError, match=words):
            fetch([series])
    assert images() == []


def test_user_mode_linux_is_found_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert user_mode_linux() is None
    program = tmp_path / "linux.uml"
    program.write_bytes(b"\x7fELF" + bytes(5000) + b"Linux version 6.1.176 (nobody) \0" + bytes(99))
    program.chmod(0o755)
    assert user_mode_linux() == Image(program, "6.1.176", "user-mode-linux", "", "um")
    program.write_bytes(b"\x7fELF" + bytes(5000))
    assert user_mode_linux() is None
