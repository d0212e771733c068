"""The folder of an image: what is written is read again, anything else is refused."""

from __future__ import annotations

import json
import os
import random
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.errors import InputError
from prctlmm_lab.restore.files import sha256
from prctlmm_lab.restore.image import SCHEMA, Area, Image, Run
from prctlmm_lab.specimen.process import PAGE, Specimen
from tests.ordinary_user import ROOT
from tests.restore.address_spaces import (
    all_at_once,
    guard_pages,
    image_of,
    limits_and_name,
    memory_file,
    unequal,
)


@pytest.fixture(scope="module")
def image() -> Image:
    """Give an image with something of all that an image can have."""
    with Specimen(arguments=(b"one", b"\xff not UTF-8"), environment=(b"A=B",)) as specimen:
        for space in (all_at_once, guard_pages, memory_file, limits_and_name):
            space(specimen)
        from prctlmm_lab.restore.checkpoint import checkpoint

        return checkpoint(specimen)


@pytest.fixture
def folder(image: Image, tmp_path: Path) -> Path:
    """Give a folder in which it is saved."""
    image.save(tmp_path / "image")
    return tmp_path / "image"


def test_what_is_written_is_read_again(image: Image, folder: Path, build: str) -> None:
    assert Image.load(folder) == image
    assert Image.load(folder).proc == image.proc
    other = image_of(build, all_at_once, randomize=True)
    other.save(folder.parent / "other")
    assert unequal(other, Image.load(folder.parent / "other")) == []


def test_files_are_for_their_owner_only(folder: Path) -> None:
    """Memory holds secrets."""
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert (modes, stat.S_IMODE(folder.stat().st_mode)) == ({0o600}, 0o700)


def test_page_files_hold_memory_as_it_was(image: Image, folder: Path) -> None:
    """As a person finds it: by the area's start and the ranges in the JSON."""
    told = json.loads((folder / "image.json").read_text())
    found = {}
    for area in told["areas"]:
        start = int(area["range"].partition("-")[0], 16)
        data = (folder / f"{start:x}.pages").read_bytes() if area["touched"] else b""
        for text in area["touched"]:
            first, last = (int(each, 16) for each in text.split("-"))
            found[first], data = data[: last - first], data[last - first :]
        assert data == b""
    assert found == {run.start: bytes(run.data) for area in image.areas for run in area.runs}


def test_no_file_is_written_over(image: Image, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not empty"):
        image.save(folder)
    with pytest.raises(InputError, match="cannot be written: No such file"):
        image.save(tmp_path / "not" / "there")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        image.save(tmp_path / "file")


def test_the_guide_tells_every_member(folder: Path) -> None:
    guide = (ROOT / "docs" / "image-format.md").read_text()
    told = json.loads((folder / "image.json").read_text())
    names = {*told, *told["areas"][0], *told["files"][0], *told["credentials"],
             *told["registers"], *told["proc"]}  # fmt: skip
    missing = {name for name in names if f"`{name}`" not in guide}
    assert missing == set()
    assert SCHEMA in guide


# ---- damaged and hostile -----------------------------------------------------------------------

Change = Callable[[dict[str, Any]], object]


def changed(folder: Path, change: Change) -> None:
    path = folder / "image.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def put(*place: str | int, value: object) -> Change:
    """Return a change that puts a value somewhere into the JSON."""

    def change(data: Any) -> None:
        for each in place[:-1]:
            data = data[each]
        data[place[-1]] = value

    return change


def drop(*place: str | int) -> Change:
    """Return a change that takes something out of the JSON."""

    def change(data: Any) -> None:
        for each in place[:-1]:
            data = data[each]
        del data[place[-1]]

    return change


def swapped(data: dict[str, Any]) -> None:
    areas = data["areas"]
    areas[0], areas[1] = areas[1], areas[0]


def touched(data: dict[str, Any]) -> dict[str, Any]:
    area: dict[str, Any] = next(area for area in data["areas"] if area["touched"])
    return area


HOSTILE: dict[str, tuple[Change, str]] = {
    "another schema": (put("schema", value="prctlmm_lab.image/2"), "is not one that this version"),
    "no schema": (drop("schema"), "schema: None is not one"),
    "a member too many": (put("file", value="../../etc/passwd"), "file are members too many"),
    "a member too few": (drop("areas"), "areas are members too many or too few"),
    "an area's file name": (put("areas", 0, "pages", value="../x"), "pages are members too many"),
    "another machine": (put("machine", value="riscv64"), "'riscv64' is not known here"),
    "another build": (put("build", value="../static"), "'../static' is not known here"),
    "an odd page": (put("page", value="0x1001"), "is no size of a page"),
    "a number that is none": (put("map", "brk", value=5), "map.brk: 5 is not of the form"),
    "a true number": (put("map", "brk", value=True), "map.brk: True is not of the form"),
    "a real number": (put("map", "brk", value=1.5), "is not of the form"),
    "a negative number": (put("map", "brk", value="-0x5"), "is not of the form"),
    "a number with a zero": (put("map", "brk", value="0x05"), "is not of the form"),
    "a number with other digits": (put("map", "brk", value="0x\u0665"), "is not of the form"),
    "a number with a newline": (put("map", "brk", value="0x5\n"), "is not of the form"),
    "more than 64 bits": (put("map", "brk", value="0x1" + "0" * 16), "is not of the form"),
    "another member": (put("map", "brk2", value="0x5"), "brk2 are members too many"),
    "overlapping areas": (
        lambda data: put("areas", 1, "range", value=data["areas"][0]["range"])(data),
        "is no range of pages here",
    ),
    "areas out of order": (swapped, "is no range of pages here"),
    "an empty area": (put("areas", 0, "range", value="0x400000-0x400000"), "is no range"),
    "an area between pages": (put("areas", 0, "range", value="0x400001-0x401000"), "is no range"),
    "an area at zero": (put("areas", 0, "range", value="0x0-0x1000"), "is no range"),
    "an area beyond": (
        put("areas", -1, "range", value="0x7fff00000000-0x8000000000000000"),
        "is no range",
    ),
    "an area over the vDSO": (
        lambda data: put("kernel_pages", 0, "range", value=data["areas"][0]["range"])(data),
        "lies in two areas",
    ),
    "permissions": (put("areas", 0, "permissions", value="rwxz"), "is not of the form"),
    "a flag": (put("areas", 0, "flags", value=["pf"]), "'pf' is not known here"),
    "many flags": (put("areas", 0, "flags", value=["gd"] * 17), "is no such list"),
    "no file": (put("areas", 0, "file", value=9), "is no position in the list"),
    "a negative file": (put("areas", 0, "file", value=-1), "is no position in the list"),
    "a true file": (put("areas", 0, "file", value=True), "is no position in the list"),
    "an odd offset": (put("areas", 0, "offset", value="0x10"), "offset between two pages"),
    "shared without a file": (
        put("areas", 3, "permissions", value="rw-s"),
        "is shared without shared memory",
    ),
    "a kind": (put("files", 0, "kind", value="device"), "'device' is not known here"),
    "a short path": (
        put(
            "files",
            0,
            value={"kind": "path", "name": "x", "size": "0x0", "sha256": "", "descriptor": None},
        ),
        "is no whole path",
    ),
    "a descriptor of ours": (put("files", 0, "descriptor", value="0x3"), "is no descriptor"),
    "pages outside": (
        lambda data: touched(data).update(touched=["0x1000-0x2000"]),
        "is no range of pages here",
    ),
    "pages twice": (
        lambda data: touched(data).update(touched=touched(data)["touched"] * 2),
        "is no range",
    ),
    "pages without end": (
        lambda data: data["areas"].__setitem__(
            0,
            {
                **touched(data),
                "range": "0x10000-0x100000010000",
                "file": None,
                "touched": ["0x10000-0x100000010000"],
            },
        ),
        "is more memory than an image may hold",
    ),
    "a wrong digest": (
        lambda data: touched(data).update(sha256="0" * 64),
        "is its digest",
    ),
    "no digest": (lambda data: touched(data).update(sha256=""), "expected none"),
    "guards outside": (put("areas", 0, "guards", value=["0x1000-0x2000"]), "is no range"),
    "a name with a zero byte": (put("areas", 3, "name", value="a\0b"), "is no text"),
    "a long name": (put("areas", 3, "name", value="a" * 80), "is no text"),
    "a broken character": (put("comm", value="\ud800"), "is no text"),
    "a long comm": (put("comm", value="a" * 16), "is no text"),
    "the vDSO by another name": (
        put("kernel_pages", 0, "label", value="[heap]"),
        "not of the form",
    ),
    "registers": (put("registers", "arguments", value=["0x0"] * 5), "is no such list"),
    "the entry": (put("entry", value="0xffffffffffffffff"), "is too large"),
    "a vector": (put("auxv", value=["AT_NOTHING=0x0"]), "'AT_NOTHING=0x0' is of no type"),
    "a vector without end": (put("auxv", value=["AT_NULL=0x0"] * 257), "is no such list"),
    "a limit": (put("limits", "RLIMIT_NONE", value="0x0 0x0"), "'RLIMIT_NONE' is no limit"),
    "limits upside down": (put("limits", "RLIMIT_DATA", value="0x2 0x1"), "soft limit above"),
    "a user": (put("credentials", "uid", value="0x100000000"), "is too large"),
    "a flag that is none": (put("credentials", "ids_mapped", value=1), "is neither true nor false"),
    "a umask": (put("umask", value="0x1000"), "is too large"),
    "what /proc never shows": (put("proc", "stat", value=["(("]), "is not what /proc shows"),
    "maps that are none": (put("proc", "maps", value=["rwx"]), "is not what /proc shows"),
    "smaps that are none": (put("proc", "smaps", value=["Rss: 0 kB"]), "is not what /proc shows"),
    "hex that is none": (put("proc", "auxv", value="0g"), "is not of the form"),
    "no object": (put("proc", value=[]), "is no object"),
    "no list": (put("areas", value={}), "is no such list"),
    "many areas": (lambda data: put("areas", value=[{}] * 65_537)(data), "is no such list"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_member_is_refused(folder: Path, what: str) -> None:
    change, words = HOSTILE[what]
    changed(folder, change)
    with pytest.raises(InputError) as caught:
        Image.load(folder)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"a": 1, "a": 2}', "stands there twice"),
        ("[]", "is not one that this version reads"),
        ("null", "is not one that this version reads"),
        ("\ud800".encode("utf-8", "surrogatepass"), "is no JSON"),
        (f'{{"schema": "{SCHEMA}", "page": {"9" * 5000}}}', "is no JSON"),
    ],
)
def test_what_is_no_json_is_refused(folder: Path, text: str | bytes, words: str) -> None:
    (folder / "image.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=words):
        Image.load(folder)


def test_json_that_is_cut_anywhere_is_refused(folder: Path) -> None:
    path = folder / "image.json"
    text = path.read_bytes().rstrip()
    for end in random.Random(7).sample(range(len(text)), 40):
        path.write_bytes(text[:end])
        with pytest.raises(InputError):
            Image.load(folder)


ODD: tuple[object, ...] = (None, {}, [], "", "0x", -1, 1 << 70, "../../x", [[]], True, "\0")


def test_a_value_of_another_type_is_refused_or_harmless(folder: Path) -> None:
    """Put odd values at every place of the JSON: nothing but InputError may come of it."""
    path = folder / "image.json"
    text = path.read_text()
    places = list(_places(json.loads(text)))
    chance = random.Random(8)
    for place in chance.sample(places, min(len(places), 40)):
        for value in ODD:
            data = json.loads(text)
            put(*place, value=value)(data)
            path.write_text(json.dumps(data))
            try:
                Image.load(folder)
            except InputError as error:
                assert str(error)  # noqa: PT017


def _places(data: object, *above: str | int) -> Any:
    """Yield every place in a JSON value."""
    if above:
        yield above
    items: Any = ()
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, list):
        items = enumerate(data)
    for name, value in items:
        yield from _places(value, *above, name)


def pages(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.suffix == ".pages")


def test_page_files_of_another_size_are_refused(folder: Path) -> None:
    path = pages(folder)
    whole = path.read_bytes()
    for data in (whole[:-1], whole + b"x", b""):
        path.write_bytes(data)
        with pytest.raises(InputError, match="is its number of bytes"):
            Image.load(folder)


def test_page_files_with_another_byte_are_refused(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == "image.json":
            continue
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
        with pytest.raises(InputError, match=f"{re.escape(path.name)}: .* is its digest"):
            Image.load(folder)
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
    Image.load(folder)


@pytest.mark.parametrize("name", ["image.json", "pages"])
@pytest.mark.parametrize("what", ["link", "fifo", "folder", "device", "nothing"])
def test_what_is_no_file_is_refused(folder: Path, name: str, what: str) -> None:
    path = folder / name if name == "image.json" else pages(folder)
    kept = folder.parent / "kept"
    path.rename(kept)
    if what == "link":
        path.symlink_to(kept)
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=re.escape(path.name)):
        Image.load(folder)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", tmp_path / "file", tmp_path, Path("a\0b")):
        with pytest.raises(InputError):
            Image.load(path)


def test_a_json_file_without_end_is_not_read(folder: Path) -> None:
    with open(folder / "image.json", "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"0x10000000000 is its number of bytes; expected at most"):
        Image.load(folder)


# ---- looking into an image ---------------------------------------------------------------------


def test_memory_is_read_from_runs_files_and_zeros(image: Image) -> None:
    run = Run(0x2000, b"x" * PAGE)
    area = Area(0x1000, 0x4000, "rw-p", runs=(run,))
    small = replace(image, areas=(area,))
    assert small.read(0x1FFF, 2) == b"\0x"
    assert small.read(0x2FFF, 2) == b"x\0"
    assert small.read(0x9000, 3) == bytes(3)
    program = replace(area, file=image.exe, offset=PAGE, runs=())
    assert replace(image, areas=(program,)).read(0x1000, 4, bytes(PAGE) + b"code") == b"code"


def test_a_digest_is_what_sha256sum_prints() -> None:
    assert sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
