"""CRIU's images: held against CRIU's own decoding, and against the calls that CRIU made of them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prctlmm_lab.errors import InputError, UnsupportedSystem
from prctlmm_lab.kernel.abi import ADDRESSES, MAP_SIZE, MEMBER
from prctlmm_lab.restore.criu.calls import (
    call_of,
    compare,
    shipped_calls,
    shipped_comparisons,
)
from prctlmm_lab.restore.criu.images import (
    COMMON_MAGIC,
    FILES_MAGIC,
    MM_MAGIC,
    image_folder,
    is_image,
    read_memory,
    shipped_images,
)
from prctlmm_lab.restore.criu.schema import message_class
from prctlmm_lab.views.layout import describe, layout
from prctlmm_lab.views.tables import maps_table, members_table
from tests.ordinary_user import ROOT

FOLDER = ROOT / "data" / "criu"
IMAGES = sorted(FOLDER.glob("mm-*.img"))
SHELL = (FOLDER / "mm-28.img").read_bytes()


# ---- held against CRIU's own decoding -----------------------------------------------------------


def decoded(path: Path) -> dict[str, Any]:
    """Return what `crit decode` printed of an image."""
    (entry,) = json.loads(path.with_suffix(".json").read_text())["entries"]
    assert isinstance(entry, dict)
    return entry


PERMISSIONS = {"PROT_READ": "r", "PROT_WRITE": "w", "PROT_EXEC": "x"}


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_says_what_crit_says(path: Path) -> None:
    memory, told = read_memory(path), decoded(path)
    assert dict(memory.addresses) == {n: int(told[f"mm_{n}"], 16) for n in ADDRESSES}
    assert list(memory.auxv) == told["mm_saved_auxv"]
    assert (memory.exe_file, memory.dumpable) == (told["exe_file_id"], told["dumpable"])
    assert len(memory.vmas) == len(told["vmas"])
    for vma, other in zip(memory.vmas, told["vmas"], strict=True):
        assert (vma.start, vma.end) == (int(other["start"], 16), int(other["end"], 16))
        assert (vma.offset, vma.file) == (other["pgoff"], other["shmid"])
        letters = {PERMISSIONS[word] for word in other["prot"].split(" | ")}
        assert set(vma.permissions[:3]) - {"-"} == letters
        assert (vma.permissions[3] == "s") == ("MAP_SHARED" in other["flags"])
        assert vma.grows_down == ("MAP_GROWSDOWN" in other["flags"])
        assert vma.has_file == ("VMA_FILE" in other["status"])
        kernels = ("VMA_AREA_VVAR", "VMA_AREA_VDSO", "VMA_AREA_VSYSCALL")
        assert vma.is_kernels == any(name in other["status"] for name in kernels)
        assert ("heap" in vma.notes) == ("VMA_AREA_HEAP" in other["status"])


# ---- held against CRIU's own calls --------------------------------------------------------------


def test_the_image_gives_the_104_bytes_of_the_call() -> None:
    calls = {call.pid: call for call in shipped_calls()}
    assert len(calls) == len(shipped_images()) == 2
    for memory in shipped_images():
        call = calls[memory.pid]
        own = struct.unpack_from("<Q4xI", call.raw, 88)
        ours = memory.map(auxv=own[0], exe_fd=own[1]).pack()
        assert len(ours) == call.size == MAP_SIZE
        assert ours == call.raw
        assert memory.vector == call.vector


def test_the_comparison_says_so_and_can_fail() -> None:
    for comparison in shipped_comparisons():
        assert comparison.same
        assert comparison.same_bytes == MAP_SIZE - 12
        assert "92 of 92 bytes are the same" in str(comparison)
        assert "DIFFERENT" not in str(comparison)
        call = comparison.call
        for member in MEMBER.values():
            raw = bytearray(call.raw)
            raw[member.offset] ^= 1
            changed = compare(comparison.memory, type(call)(**{**vars(call), "raw": bytes(raw)}))
            own = member.name in ("auxv", "exe_fd")
            assert changed.same == own
            assert ("DIFFERENT" in str(changed)) != own
        other = type(call)(**{**vars(call), "vector": call.vector[:-1] + b"\1"})
        assert not compare(comparison.memory, other).same


def test_the_restorer_had_mapped_the_vmas_of_the_image() -> None:
    calls = {call.pid: call for call in shipped_calls()}
    for memory in shipped_images():
        there = {(v.start, v.end): v for v in calls[memory.pid].vmas}
        for vma in memory.vmas:
            if vma.is_kernels:  # since v6.13 vvar is shown in two parts
                continue
            found = there[vma.start, vma.end]
            assert found.permissions == vma.permissions
            assert bool(found.path) == vma.has_file
            assert (found.offset if vma.has_file else 0) == (vma.offset if vma.has_file else 0)


def test_a_record_of_a_call_that_is_not_whole_is_refused() -> None:
    good = json.loads((FOLDER / "prctl-calls.json").read_text())[0]
    call_of(good)
    for change in (
        {"raw": good["raw"][:-2]}, {"raw": 5}, {"raw": "xx"}, {"maps": ["no line"]},
        {"auxv": [["AT_NOTHING", "0x1"]]}, {"pid": None},
    ):  # fmt: skip
        with pytest.raises(InputError, match="captured call"):
            call_of({**good, **change})
    with pytest.raises(InputError, match="captured call"):
        call_of({})


# ---- as a snapshot ------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", shipped_images(), ids=lambda memory: memory.source)
def test_an_image_can_be_drawn_and_listed(memory: Any) -> None:
    snapshot = memory.snapshot()
    assert snapshot.members == memory.addresses
    assert snapshot.origin == f"read from {memory.source}"
    text = describe(layout(snapshot))
    for name in ADDRESSES:
        assert name in text
    for label in ("[heap]", "[stack]", "[vdso]"):
        assert len(snapshot.labelled(label)) == 1
        assert label in text
    assert len(members_table(snapshot)) >= len(ADDRESSES)
    assert len(maps_table(snapshot)) == len(memory.vmas)


# ---- names of files -----------------------------------------------------------------------------


def image(magic: int, *messages: Any) -> bytes:
    """Return an image as CRIU writes it."""
    parts = [message.SerializeToString() for message in messages]
    entries = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    return struct.pack("<2I", COMMON_MAGIC, magic) + entries


def shell() -> Any:
    """Return the message of the shell's address space, to be changed."""
    return message_class("mm_entry").FromString(SHELL[12:])


def test_files_have_their_names_where_files_img_lies_beside(tmp_path: Path) -> None:
    file, regular = message_class("file_entry"), message_class("reg_file_entry")
    (tmp_path / "mm-7.img").write_bytes(SHELL)
    assert read_memory(tmp_path / "mm-7.img").exe == "file 1 of files.img"
    names = [file(id=1, reg=regular(id=1, name="/bin/with space")), file(id=2)]
    (tmp_path / "files.img").write_bytes(image(FILES_MAGIC, *names))
    memory = read_memory(tmp_path / "mm-7.img")
    assert (memory.pid, memory.exe) == (7, "/bin/with space")
    assert memory.snapshot().vmas[0].path == "/bin/with space"
    assert memory.file_name(2) == "file 2 of files.img"
    (tmp_path / "files.img").write_bytes(SHELL)
    with pytest.raises(InputError, match=r"files\.img: .* are not the magic words of a file_entry"):
        read_memory(tmp_path / "mm-7.img")


# ---- damaged and hostile ------------------------------------------------------------------------


def refusal(folder: Path, data: bytes) -> str:
    path = folder / "mm-1.img"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_memory(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "mm-1.img" in sentence
    return sentence


def test_an_image_that_ends_early_is_refused(tmp_path: Path) -> None:
    assert is_image(SHELL)
    for length in range(len(SHELL)):
        refusal(tmp_path, SHELL[:length])


def changed(**fields: Any) -> bytes:
    message = shell()
    for name, value in fields.items():
        setattr(message, name, value)
    return image(MM_MAGIC, message)


def without(field: str) -> bytes:
    message = shell()
    message.ClearField(field)
    return image(MM_MAGIC, message)


def with_vma(number: int, **fields: Any) -> bytes:
    message = shell()
    for name, value in fields.items():
        if value is None:
            message.vmas[number].ClearField(name)
        else:
            setattr(message.vmas[number], name, value)
    return image(MM_MAGIC, message)


def with_vector(count: int) -> bytes:
    message = shell()
    message.mm_saved_auxv.extend([0] * count)
    return image(MM_MAGIC, message)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0" * 8 + SHELL[8:], "0x0, 0x0 are not the magic words of a mm_entry image"),
        (SHELL[:4] + struct.pack("<I", FILES_MAGIC) + SHELL[8:], "0x56303138 are not the magic"),
        (SHELL[:8], "0 address spaces are in it; expected one"),
        (image(MM_MAGIC, shell(), shell()), "2 address spaces are in it; expected one"),
        (SHELL + b"\0", "ends within the entry at 0x40c"),
        (SHELL[:8] + b"\xff\xff\xff\xff" + SHELL[12:], "ends within the entry at 0x8"),
        (SHELL[:12] + b"\xff" * (len(SHELL) - 12), "bytes at 0xc are no protobuf of mm_entry"),
        (without("mm_brk"), "lacks mm_brk"),
        (with_vma(3, start=None), "vmas[3]: lacks start"),
        (with_vma(3, fd=None), "vmas[3]: lacks fd"),
        (with_vma(3, start=0x5636613F1000), "vmas[3]: 0x5636613f1000-0x5636613f1000 is no range"),
        (with_vma(3, end=0x5636613F1001), "vmas[3]: 0x5636613ef000-0x5636613f1001 is no range"),
        (with_vma(3, end=0x5636613F2000), "vmas[4]: 0x5636613f1000 begins before the one before"),
        (with_vma(3, prot=8), "vmas[3].prot: 0x8 are no permissions; expected 0 to 0x7"),
        (with_vector(1), "mm_saved_auxv: 45 words are no vector"),
        (with_vector(1 << 12), "mm_saved_auxv: 4140 words are no vector"),
    ],
)
def test_a_damaged_image_is_refused_in_one_sentence(
    data: bytes, words: str, tmp_path: Path
) -> None:
    assert words in refusal(tmp_path, data)


def test_a_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "mm-\x1b[31m.img"
    path.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        read_memory(path)
    assert "\x1b" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SHELL) - 1), st.integers(0, 255)), max_size=8))
def test_any_changed_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(SHELL)
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.getbasetemp() / "mm-1.img"
    path.write_bytes(data)
    try:
        memory = read_memory(path)
    except InputError:
        return
    describe(layout(memory.snapshot()))


# ---- the library --------------------------------------------------------------------------------


def test_protobuf_is_imported_on_use_only() -> None:
    program = (
        "import sys, prctlmm_lab.restore.criu.images, prctlmm_lab.commands.explain\n"
        "print([name for name in sys.modules if name.startswith('google')])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=True,
    )  # fmt: skip
    assert told.stdout == "[]\n"


def test_without_protobuf_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)
    with pytest.raises(UnsupportedSystem, match="without the protobuf library"):
        read_memory(image_folder() / "mm-28.img")
