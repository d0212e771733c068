"""Typical wrong answers to the exercises of notebook 08, each with words of its message."""

from __future__ import annotations

HEAD = '[[experiment]]\nid = "x"\n'
RIGHT = {
    "MAP": "none",
    "MAP with exe_fd": "CAP_CHECKPOINT_RESTORE",
    "MAP_SIZE": "none",
    "ARG_START": "CAP_SYS_RESOURCE",
    "AUXV": "CAP_SYS_RESOURCE",
}

WRONG: dict[str, list[tuple[object, str]]] = {
    "08.1": [
        ({"MAP": "none"}, "Nothing is said of MAP with exe_fd, MAP_SIZE, ARG_START, AUXV."),
        (
            RIGHT | {"MAP": "CAP_SYS_RESOURCE"},
            "MAP: not CAP_SYS_RESOURCE; without any capability this kernel says accepted.",
        ),
        (
            RIGHT | {"AUXV": "none"},
            "AUXV: not none; without any it is EPERM: CAP_SYS_RESOURCE is looked for",
        ),
        (RIGHT | {"MAP with exe_fd": "none"}, "one of two capabilities is looked for"),
        (RIGHT | {"MAP": "root"}, "'root' is none of the words"),
    ],
    "08.2": [
        (HEAD + 'change.brk = "brk + 16"', "Accepted, with 1 of 13 members new."),
        (HEAD + "change.exe_fd = 3", "That member is the one with a gate."),
        (HEAD + 'change.end_code = "start_code"', "The kernel says EINVAL by order.code"),
        (HEAD + "setup = [{ user_namespace = true }]", "enter no user namespace"),
        (HEAD + 'call = { operation = "BRK", value = "brk" }', "BRK sets one member at most."),
    ],
    "08.3": [
        (["ARG_END", "ARG_START"], "Call 1, ARG_END = "),
        (["ARG_START", "ARG_END"], "these have not moved: ENV_START, ENV_END, START_BRK, BRK."),
        (
            ["ARG_START", "ARG_END", "ENV_START", "ENV_END", "START_BRK", "BRK"],
            "Call 5, START_BRK = ",
        ),
        (["ARG_START", "ARG_START"], "ARG_START comes twice"),
        (["START_CODE"], "START_CODE is not among the six."),
    ],
    "08.4": [
        ([("START_BRK", 0x10000), ("BRK", 0x10000)], "start_brk <= brk"),
        ([("BRK", 0x10000), ("START_BRK", 0x10000)], "limit.data"),
        ([("BRK", 0x3000), ("START_BRK", 0x3000)], "moved start_brk by 0x3000, brk by 0x3000"),
        ("BRK", "is no list"),
    ],
    "08.5": [
        (["caller"], "1 of 5 found, all of them right."),
        (["data-limit"], "it foretells EINVAL, and so it is"),
        (["mapped"], "it does not say what would be answered"),
        (["whoever"], "'whoever' is none of the words"),
    ],
}
