"""Typical wrong answers to the exercises of notebook 06, each with words of its message."""

from __future__ import annotations

NO_STACK = {"start_stack": "gone.start + page"}
NO_HEAP = {"start_brk": "gone.start + page", "brk": "gone.start + page"}

WRONG: dict[str, list[tuple[object, str]]] = {
    "06.1": [
        (2, "0x2 is too few"),
        (0x1003, "That is the code's size."),
        (4, "0x4 is too many"),
        ("three", "is no number"),
    ],
    "06.2": [
        ({"start_stack": "arena.start - 1"}, "no VMA is called [stack]; start_stack = 0x"),
        ({"start_brk": "arena.start", "brk": "arena.end"}, "is called [stack]; start_stack = 0x"),
        ({"start_stack": 0}, "by range.start_stack: start_stack = 0x0"),
        ({"stack": "arena.start"}, "stack"),
    ],
    "06.3": [
        ({"start_stack": "arena.start + page - 1"}, "Which address is both?"),
        ({"start_stack": "arena.start + page + 1"}, "is called [stack]; start_stack = 0x"),
        ({"start_stack": "highest + 1"}, "by range.start_stack"),
    ],
    "06.4": [
        ({"end_code": "start_code + 2"}, "Two bytes, but VmExe shows 4 kB"),
        ({"end_code": "start_code + page + 1"}, "the code has 0x1001 bytes"),
        ({"end_code": "start_code"}, "by order.code"),
    ],
    "06.5": [
        ("start_code, end_code, start_data, end_data", "5 of 7 are right. Moved by a page"),
        ("end_code", "start_code changes statm's text"),
        ("start_code, end_code, brk", "brk changes no column of statm"),
        ("text", "is none of the words"),
    ],
    "06.6": [
        (NO_STACK | {"end_code": "start_code + 1"}, "is still called [heap]: start_brk = 0x"),
        (NO_HEAP | {"end_code": "start_code + 1"}, "is still called [stack]: start_stack = 0x"),
        (NO_STACK | NO_HEAP, "the code has 0x145 bytes"),
        (NO_STACK | NO_HEAP | {"end_code": "start_code"}, "by order.code"),
    ],
}
