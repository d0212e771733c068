"""Typical wrong answers to the exercises of notebook 09, each with words of its message."""

from __future__ import annotations

HEAD = '[[experiment]]\nid = "x"\n'
PAGE = 'setup = [{ map = "arena" }, { write = "arena.start", text = "%s" }]\n'
MOVED = 'change.arg_start = "arena.start"\nchange.arg_end = "arg_start + %d"\n'
CRON = PAGE % r"/usr/sbin/cron\u0000-f\u0000"
INNOCENT = PAGE % r"specimen\u0000--innocent\u0000"

BELIEFS = {
    "ps -f": "arg_start",
    "pgrep": "none",
    "[stack] in gdb": "start_stack",
    "rsp in gdb": "none",
    "[heap] in perf": "brk",
    "psargs of a core": "arg_end",
    "files of a core": "none",
}
TEXT = "This text lies in the data of the specimen, behind which stands a file."

WRONG: dict[str, list[tuple[object, str]]] = {
    "09.1": [
        (BELIEFS | {"rsp in gdb": "start_stack"}, "6 of 7 are right. 'rsp in gdb' reads ptrace(2)"),
        (BELIEFS | {"psargs of a core": "none"}, "some member does decide it"),
        (BELIEFS | {"[heap] in perf": "end_data"}, "end_data is not what decides it"),
        (BELIEFS | {"pgrep": "arg_strat"}, "'arg_strat' is none of the words"),
        ({"ps -f": "arg_start"}, "has no 'pgrep'"),
    ],
    "09.2": [
        ({"file": "", "letters": 79, "fname": ""}, "That is what cmdline shows"),
        ({"file": TEXT, "letters": 200, "fname": ""}, "It is cut off."),
        ({"file": TEXT, "letters": 80, "fname": ""}, "The last byte must be zero."),
        ({"file": TEXT, "letters": 79, "fname": "specimen"}, "fname: not 'specimen'"),
        ({"file": TEXT, "letters": "many", "fname": ""}, "'many' is no number"),
    ],
    "09.3": [
        ({"arg_end": "before.arg_start"}, "ps -f shows '[specimen]'"),
        ({"arg_start": "env_end"}, "was refused by the kernel: EINVAL, rule order.arg"),
        (HEAD + CRON + MOVED % 18 + 'change.end_code = "end_code + 1"\n', "segments (end_code)"),
        (HEAD + CRON + MOVED % 18 + 'change.env_end = "env_start + 1"\n', "stack.order (env_end)"),
    ],
    "09.4": [
        (HEAD + INNOCENT + MOVED % 20, "2 findings: stack.one (arg_start); stack.one (arg_end)"),
        (
            HEAD + r'setup = [{ write = "arg_start", text = "specimen\u0000--innocent\u0000" }]'
            '\nchange.arg_end = "arg_start + 20"\n',
            "1 finding: stack.order (arg_end)",
        ),
        (
            HEAD + r'setup = [{ write = "arg_start", text = "innocent\u0000" }]' + "\n",
            "ps -f shows 'innocent'",
        ),
        ({"brk": "start_brk - 1"}, "was refused by the kernel: EINVAL, rule order.brk"),
    ],
    "09.5": [
        (["auxv", "none", "auxv", "start_stack"], "Suspect 1 is not 'auxv'"),
        (["env_end", "arg_start", "auxv", "start_stack"], "Suspect 2 is not 'arg_start'"),
        (["env_end", "none", "env_end", "start_stack"], "Suspect 3 is not 'env_end'"),
        (["env_end", "none", "auxv", "arg_start"], "Suspect 4 is not 'arg_start'"),
        (["env_end", "none", "auxv"], "is no list of four words"),
    ],
}
