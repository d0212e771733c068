"""Typical wrong answers to the exercises of notebook 14, each with words of its message."""

from __future__ import annotations

RIGHT = {"stack": "start_stack", "killed": "brk", "limit": "start_data", "cmdline": "arg_end",
         "gdb": "auxv"}  # fmt: skip
UP = ["end_code", "start_code", "end_data", "start_data"]
DOWN = ["start_brk", "brk", "start_stack", "arg_start", "arg_end", "env_start", "env_end"]

WRONG: dict[str, list[tuple[object, str]]] = {
    "14.1": [
        ({"stack": "start_stack"}, '1 of 5 are right. "killed" has no member yet.'),
        (
            {**RIGHT, "cmdline": "arg_start"},
            "4 of 5 are right. Without arg_start, the kernel refuses the call: EINVAL",
        ),
        ({**RIGHT, "limit": "brk"}, "Without brk, brk() is otherwise"),
        ({"swap": "brk"}, "'swap' is none of the words"),
        ({**RIGHT, "gdb": "auxv_size"}, "'auxv_size' is none of the words"),
    ],
    "14.2": [
        (["start_code", "end_code"], "More can be left out: 5 members together."),
        (["end_code"], "the kernel refuses the call: EINVAL by order.code"),
        (["start_brk", "brk", "start_stack"], "this is otherwise: heap: brk() refuses"),
        ("start_code end_code start_data end_data arg_start arg_end", "core: arguments: none"),
        (["start_data"], "heap under a limit: brk() refuses"),
    ],
    "14.3": [
        (0x21000, "Under 0x21000 the kernel says EINVAL by limit.data"),
        (0x23000, "0x23000 is enough, and 0x22fff too."),
        (0, "is no limit in bytes"),
        ("brk", "is no number"),
    ],
    "14.4": [
        (["start_code", *UP[:1], *UP[2:], *DOWN], "Turn 1, start_code: EINVAL by order.code"),
        ([*UP, "brk", "start_brk", *DOWN[2:]], "Turn 5, brk: EINVAL by order.brk"),
        ([*UP, *DOWN[:-1]], "Not every member has its turn: env_end."),
        ([*UP, *DOWN, "brk"], "12 calls are more than one"),
        (["auxv"], "'auxv' is none of the words"),
    ],
}
