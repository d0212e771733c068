"""Typical wrong answers to the exercises of notebook 00, each with words of its message."""

from __future__ import annotations

WRONG: dict[str, list[tuple[object, str]]] = {
    "00.1": [
        (b"tail\0-f\0/var/log/syslog", "18 bytes less than you wrote. Your last byte is b'g'"),
        (b"tail -f /var/log/syslog\0", "one word with spaces in it."),
        (b"tail -f /var/log/syslog", "one word with spaces in it, without a zero byte"),
        ("tail\0-f\0", "Three words are wanted"),
        (["tail", "-f", "/var/log/syslog"], "is no bytes of a command line"),
        (b"\0" * 5000, "0x1388 bytes are too many"),
    ],
    "00.2": [
        ({"arg_end": "arg_start - 1"}, "EINVAL by order.arg"),
        ({"arg_end": "arg_start + 4"}, "cmdline has 4 bytes, b'spec'. It must have none."),
        ({"arg_start": "brk - 16", "arg_end": "brk"}, "nothing but zero bytes, and yet not empty"),
        ({"arg_end": 0}, "EINVAL by range.arg_end"),
    ],
    "00.3": [
        ({"arg_start": "arena.start", "arg_end": "arena.start + 8"}, "One of them is enough."),
        ({"arg_end": "arena.start"}, "EINVAL by order.arg"),
        ({"start_stack": "arena.start"}, "with start_stack changed; but cmdline shows"),
        ({"arg_start": "arena.start + 3"}, "cmdline shows b'temd"),
    ],
    "00.4": [
        ({"arg_start": "arena.start", "arg_end": "arg_start + 6000"}, "a title has one page"),
        ({"arg_start": "arena.start", "arg_end": "arg_start + 4096"}, "with 4096 letters"),
        ({"arg_start": "arena.start + 8"}, "with 5992 letters"),
        ({"arg_start": "highest", "arg_end": "arena.end"}, "EINVAL by order.arg"),
    ],
}
