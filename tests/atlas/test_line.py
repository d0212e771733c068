"""Messages over a serial line: whole ones come through, whatever else a console says."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prctlmm_lab.atlas.line import MARK, Unpacker, pack

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
CONSOLE = st.text(st.characters(codec="utf-8", exclude_characters="\x02\n")).map(str.encode)


@given(st.lists(st.tuples(CONSOLE, st.dictionaries(st.text(), VALUES))), st.integers(1, 50))
def test_messages_come_through_between_lines_of_a_console_in_any_pieces(
    told: list[tuple[bytes, dict[str, Any]]], size: int
) -> None:
    stream = b"".join(text + b"\n" + pack(message) for text, message in told)
    unpacker = Unpacker()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    found = [message for piece in pieces for message in unpacker.feed(piece)]
    assert found == [message for _, message in told]
    assert unpacker.damaged == 0


def test_a_message_is_one_line_of_ascii_and_a_long_one_is_compressed() -> None:
    short, long = pack({"text": "é\n\x02"}), pack({"text": "the same " * 10_000})
    for line in (short, long):
        assert line.isascii()
        assert line.count(b"\n") == 1
        assert line.startswith(MARK)
    assert len(long) < 2000
    assert [*Unpacker().feed(long)] == [{"text": "the same " * 10_000}]


@pytest.mark.parametrize("place", [15, 20, 30, -2])
def test_a_message_with_console_text_in_it_is_lost_and_counted(place: int) -> None:
    whole = pack({"answer": list(range(20))})
    unpacker = Unpacker()
    assert [*unpacker.feed(whole[:place] + b"[  1.0] oops" + whole[place:])] == []
    assert unpacker.damaged == 1
    assert [*unpacker.feed(whole)] == [{"answer": list(range(20))}], "the next one comes through"


def test_a_message_that_begins_behind_console_text_without_its_newline_is_found() -> None:
    unpacker = Unpacker()
    assert [*unpacker.feed(b"[ 1.0] half a line" + pack({"a": 1}))] == [{"a": 1}]
    assert unpacker.other == b"[ 1.0] half a line\n"


@pytest.mark.parametrize("body", [b"not json", b"[" * 100_000, b'"\xff"'])
def test_what_is_no_json_is_no_message(body: bytes) -> None:
    line = b"%s j %x %08x %s\n" % (MARK, len(body), zlib.crc32(body), body)
    unpacker = Unpacker()
    assert [*unpacker.feed(line)] == []
    assert unpacker.damaged == 1


def test_only_the_newest_console_text_is_kept() -> None:
    unpacker = Unpacker()
    for number in range(10_000):
        assert [*unpacker.feed(b"line %d of a kernel that talks\n" % number)] == []
    assert len(unpacker.other) <= 1 << 16
    assert unpacker.other.endswith(b"line 9999 of a kernel that talks\n")


def test_numbers_of_64_bits_stay_exact() -> None:
    message = {"n": (1 << 64) - 1}
    assert [*Unpacker().feed(pack(message))] == [message]
    assert json.loads(pack(message).split(b" ", 4)[4]) == message
