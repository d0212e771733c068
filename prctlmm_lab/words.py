"""How sizes and the names of other processes are written."""

from __future__ import annotations

import unicodedata


def size_text(size: int) -> str:
    """Write a number of bytes in binary units, three digits at most.

    >>> [size_text(n) for n in (1, 187, 4096, 5 << 9, 135168, 87 << 40, 1 << 64)]
    ['1 byte', '187 bytes', '4 KiB', '2.5 KiB', '132 KiB', '87 TiB', '16 EiB']
    """
    if size < 1024:
        return f"{size} byte" if size == 1 else f"{size} bytes"
    power = min((size.bit_length() - 1) // 10, 6)
    if power < 6 and round(size / (1 << 10 * power)) >= 1024:
        power += 1
    value = size / (1 << 10 * power)
    number = f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:.0f}"
    return f"{number} {('KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[power - 1]}"


def printable(text: str) -> str:
    r"""Write a name of another process with everything visible and nothing else.

    Control characters and bytes that are no UTF-8 become escapes.

    >>> print(printable("a\nb\udcff"))
    a\nb\xff
    """
    if text.isascii() and text.isprintable():
        return text
    decoded = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in decoded)


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes.

    >>> cells("abc"), cells("日本")
    (3, 4)
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def shortened(text: str, room: int) -> str:
    """Cut the middle out of a text that needs more than `room` columns.

    >>> shortened("_image.cpython-311-x86_64-linux-gnu.so", 20)
    '_image.cpy…ux-gnu.so'
    """
    if cells(text) <= room:
        return text
    head, tail = "", ""
    for character in text:
        if cells(head + character) > room // 2:
            break
        head += character
    for character in reversed(text):
        if cells(head + "…" + character + tail) > room:
            break
        tail = character + tail
    return f"{head}…{tail}"
