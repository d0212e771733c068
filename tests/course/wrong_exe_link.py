"""Typical wrong answers to the exercises of notebook 07, each with words of its message."""

from __future__ import annotations

HEAD = '[[experiment]]\nid = "x"\n'
ROOT = "{ user_namespace = true }"
FILE = '{ memory_file = "void" }'
RELEASE = "{ release_executable = true }"

WRONG: dict[str, list[tuple[object, str]]] = {
    "07.1": [
        (
            {"EBADF": "ghost", "EACCES": "locked", "EBUSY": "named"},
            "exe_fd = 'ghost' for EBADF: the kernel says EBUSY by exe.busy",
        ),
        ({"EBADF": 0x7FFFFFFF, "EACCES": "folder"}, "2 of 3 are right. EBUSY has no exe_fd yet."),
        (
            {"EBADF": "named", "EACCES": "ghost", "EBUSY": "locked"},
            "for EBUSY: the kernel says EACCES by exe.executable",
        ),
        ({"EBADF": 0xFFFFFFFF}, "for EBADF: the kernel says accepted"),
        ({"EPERM": "ghost"}, "'EPERM' is none of the words"),
    ],
    "07.2": [
        (HEAD + 'change.brk = "brk"', "the link still reads"),
        (
            HEAD + f'setup = [{FILE}, {RELEASE}]\nchange.exe_fd = "void"',
            "EPERM by exe.permission",
        ),
        (HEAD + f'setup = [{ROOT}, {FILE}]\nchange.exe_fd = "void"', "EBUSY by exe.busy"),
        (
            HEAD + f'setup = [{ROOT}, {{ open = "sh", path = "/bin/sh" }}, {RELEASE}]\n'
            'change.exe_fd = "sh"',
            "Name an empty one.",
        ),
        (
            HEAD + f'setup = [{ROOT}, {{ memory_file = "void", mode = 0o644 }}, {RELEASE}]\n'
            'change.exe_fd = "void"',
            "EACCES by exe.executable",
        ),
    ],
    "07.3": [
        (["exe first", "write first"], 'Turn 2, "write first": ETXTBSY.'),
        (["write first", "exe first"], 'Turn 2, "exe first": EACCES.'),
        (["write first", "write second"], "the link never named the first file"),
        (["exe first", "exe second", "write first"], "nobody opened the second file"),
        ("exe first", "is no list of turns"),
    ],
    "07.4": [
        ("specimen", "now it reads /memfd:specimen (deleted)"),
        ("/memfd:specimen-static (deleted)", "now it reads /memfd:/memfd:specimen-static"),
        ("x" * 300, "No file in memory can have that name"),
    ],
}
