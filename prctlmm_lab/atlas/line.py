r"""Messages over a serial line: each is one line of ASCII that no other text can be taken for.

A kernel writes to its console whenever it likes, perhaps in the middle of an answer. A message
therefore says its length and its checksum; whatever else comes over the line is console text.

>>> told = pack({"answer": 42})
>>> unpacker = Unpacker()
>>> [*unpacker.feed(b"[    1.0] a kernel talks\r\n" + told[:9])], [*unpacker.feed(told[9:])]
([], [{'answer': 42}])
>>> unpacker.other
b'[    1.0] a kernel talks\n'
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

MARK = b"\x02prctlmm-lab"
"""Begins a message; no console text holds the control character."""
_MESSAGE = re.compile(re.escape(MARK) + rb" ([jz]) ([0-9a-f]{1,8}) ([0-9a-f]{8}) ([ -~]*)\Z")
_LONG = 2048
"""Bytes from which on a message is compressed: the line is slow, and JSON repeats itself."""
_OTHER = 1 << 16
"""Bytes of other text that are kept, the newest."""
_LONGEST = 1 << 28


def pack(message: Any) -> bytes:
    """Return a message, anything that JSON has, as one line."""
    body, kind = json.dumps(message, separators=(",", ":")).encode(), b"j"
    if len(body) > _LONG:
        body, kind = base64.b64encode(zlib.compress(body, 1)), b"z"
    return b"%s %s %x %08x %s\n" % (MARK, kind, len(body), zlib.crc32(body), body)


class Unpacker:
    """Take bytes as they come over the line, and give the messages that are whole."""

    def __init__(self) -> None:
        self.other = b""
        """The newest text that belongs to no message, lines ended by a newline alone."""
        self.damaged = 0
        """Messages that came with other text in them, and are lost."""
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[Any]:
        """Yield each message that is whole now."""
        *ended, rest = data.split(b"\n")
        for number, line in enumerate(ended):
            whole = b"".join((*self._parts, line)) if number == 0 else line
            if number == 0:
                self._parts.clear()
            yield from self._line(whole.removesuffix(b"\r"))
        self._parts.append(rest)

    def _line(self, line: bytes) -> Iterator[Any]:
        start = line.find(MARK)
        if start >= 0:
            message = _unpacked(line[start:])
            if message is not None:
                yield message
                line = line[:start]
                if not line:
                    return
            else:
                self.damaged += 1
        self.other = (self.other + line + b"\n")[-_OTHER:]


def _unpacked(line: bytes) -> Any:
    """Return the message that a line is, None for one that is damaged."""
    found = _MESSAGE.match(line)
    if found is None:
        return None
    kind, length, checksum, body = found.groups()
    if int(length, 16) != len(body) or int(checksum, 16) != zlib.crc32(body):
        return None
    try:
        if kind == b"z":
            expander = zlib.decompressobj()
            body = expander.decompress(base64.b64decode(body, validate=True), _LONGEST)
        return json.loads(body)
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        return None
