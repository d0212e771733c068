"""Typical wrong answers to the exercises of notebook 02, each with words of its message."""

from __future__ import annotations

HEAD = '[[experiment]]\nid = "x"\n'
FAULT = {"auxv": "lowest", "auxv_size": 16}

WRONG: dict[str, list[tuple[object, str]]] = {
    "02.1": [
        (0x400000, "0x400000 is accepted, and so is the next address."),
        ("0xffffffffffffffff", "range.start_stack: too high"),
        (0, "range.start_stack: too low"),
        ("highest - page", "accepted, and so is the next"),
    ],
    "02.2": [
        ({"accepted": {"end_code": "start_code"}}, "For accepted the kernel says EINVAL"),
        ({"EINVAL": {"end_data": "start_data - 1"}}, "Missing: accepted, EFAULT, EPERM."),
        ({"EFAULT": {"auxv": 0, "auxv_size": 16}}, "EINVAL: auxv.null"),
        ({"EPERM": {"brk": "start_brk"}}, "For EPERM the kernel says accepted: no rule is broken"),
        ({"brk": "start_brk"}, "'brk' is none of the words"),
        ({"EPERM": 17}, "has no form of an experiment"),
    ],
    "02.3": [
        ({"start_stack": "lowest - 1"}, "EINVAL by range.start_stack"),
        ({"start_stack": "arena.start"}, "[stack] stands at 0x7"),
        ({"start_stack": "stack.end"}, "[stack] stands at 0x7ff"),
        ({"start_stack": "nowhere"}, "'nowhere' is not a known name"),
    ],
    "02.4": [
        ({"start_stack": "arena.start"}, "is its edge"),
        (HEAD + 'setup = [{ map = "a", pages = 2 }]\nchange.start_stack = "a.start + page"',
         "they are one now"),
        (HEAD + 'change.start_stack = "lowest"', "There is none at all"),
        (HEAD + 'change.start_stack = "highest + 1"', "EINVAL by range.start_stack"),
    ],
    "02.5": [
        ({"brk": "brk"}, "no rule is broken"),
        ({"end_code": "start_code"}, "1 rule is broken; EINVAL comes from order.code"),
        (HEAD + "call.size = 96\ncall.arg5 = 1", "2 rules are broken; EINVAL comes from call.arg5"),
    ],
    "02.6": [
        ({"exe_fd": 999}, "EPERM decides, not EFAULT"),
        (FAULT, "auxv.readable is all that is broken"),
        ({**FAULT, "exe_fd": 999, "start_code": 0}, "EINVAL decides, not EFAULT: range.start_code"),
        (HEAD + 'call.pointer = "lowest"', "call.struct is all that is broken"),
    ],
}  # fmt: skip
