"""Typical wrong answers to the exercises of notebook 04, each with words of its message."""

from __future__ import annotations

RIGHT = {
    "end_code": "stat statm status",
    "start_data": "stat",
    "brk": "maps",
    "start_stack": "stat maps",
    "arg_end": "stat cmdline",
    "auxv_size": "auxv",
}
TITLE = {"arg_start": "arena.start", "arg_end": "arena.start + 6"}
TOKEN = '[[experiment]]\nid = "x"\nsetup = [{ map = "a" }, { write = "a.start", text = "%s" }]\n'
ENV = 'change.env_start = "a.start"\nchange.env_end = "a.start + 9"\n'
TWICE = TOKEN % r"TOKEN=42\u000042\u0000" + ENV

WRONG: dict[str, list[tuple[object, str]]] = {
    "04.1": [
        ({"brk": "none"}, "Still to say: end_code, start_data, start_stack"),
        (RIGHT | {"brk": "stat maps"}, "Right so far: end_code, start_data. brk was moved alone: "
         "stat did not change"),
        (RIGHT | {"start_data": "stat statm"}, "statm did not change"),
        (RIGHT | {"arg_end": "stat"}, "arg_end was moved alone: 1 more did"),
        (RIGHT | {"brk": "smap"}, "'smap' is none of the words"),
        ({"end_cod": "stat"}, "'end_cod' is not asked for"),
    ],
    "04.2": [
        (["web server: idle", "web", "web", "web"], "only the zero bytes differ"),
        (["web server: idle\0", "web server: idle\0", "", ""], "Map B shows 0x3 bytes"),
        (["web server: idle\0", b"web", "web", "web"], "Right so far: A, B. Map C"),
        (["web server: idle\0", "web", "web server: idle\0", "web server: idle\0"],
         "may not go on behind env_end"),
        ("web server", "is no list of four texts"),
        (["web server: idle\0", "web", 3, 4], "3 is no text"),
    ],
    "04.3": [
        ({"arg_start": "arena.start", "arg_end": "arena.start + 28"}, "0x1c bytes long"),
        (TITLE, "cmdline shows b'daemon'. arg_end = 0x"),
        (TITLE | {"env_start": "arg_end", "env_end": "arena.start + 20"}, "daemon: 3 clients, 0"),
        (TITLE | {"arg_end": "arg_start + 5", "env_start": "arg_end + 1",
                  "env_end": "env_start + 29"}, "cmdline shows b'daemo'. arg_end = 0x"),
        (TITLE | {"env_start": "arg_end", "env_end": "arg_start"}, "EINVAL by order.env"),
        ('[[experiment]]\nid = "x"\n', "is no dict of changes"),
    ],
    "04.4": [
        (TOKEN % r"TOKEN=42\u0000", "environ shows b'LAB=prctlmm_lab"),
        (TOKEN % r"TOKEN=42\u0000" + ENV, "environ is right. cmdline shows b'specimen"),
        (TWICE + 'change.arg_start = "a.start + 9"\nchange.arg_end = "a.start + 12"\n',
         "must overlap"),
        (TWICE + 'change.arg_end = "arg_start - 1"\n', "refused it: EINVAL by order.arg"),
        ('[[experiment]]\nid = "x"\nspecimen.environment = ["TOKEN=42"]\n', "was started with"),
    ],
    "04.5": [
        ({"arg_end": "arg_start"}, "both begin where memory is already"),
        ({"arg_start": "lowest", "arg_end": "lowest + 8"}, "nothing grew there"),
        ({"env_start": "highest - 8", "env_end": "highest"}, "A stack grows downwards"),
        ({"arg_start": "stack.start - page", "arg_end": "stack.start - 2 * page"},
         "EINVAL by order.arg"),
    ],
}  # fmt: skip
