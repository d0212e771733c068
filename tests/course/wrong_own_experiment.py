"""Typical wrong answers to the exercises of notebook 11, each with words of its message."""

from __future__ import annotations

HEAD = '[[experiment]]\nid = "x"\n'

WRONG: dict[str, list[tuple[object, str]]] = {
    "11.1": [
        (HEAD + 'change.brk = "brk"', "The kernel accepted it."),
        (HEAD + 'change.end_code = "start_code"', "It is refused, but by order.code"),
        (HEAD + 'setup = [{ limit = "DATA", soft = 0 }]', "limit.data refuses it, by 0x4048 bytes"),
        (HEAD + 'setup = [{ limit = "DTA", soft = 0 }]', "'DTA' is not a resource"),
    ],
    "11.2": [
        (HEAD + 'change.brk = "brk"', "Both say accepted."),
        (HEAD + 'change.end_code = "start_code"', "Both say EINVAL."),
        (HEAD + 'change.brk = "1 +"', "'1 +' is not a formula"),
    ],
    "11.3": [
        (HEAD + 'change.brk = "brk"', "auxv_size is 0"),
        (HEAD + 'change.arg_start = "env_end"', "The kernel refused it: EINVAL by order.arg"),
        (
            HEAD + 'setup = [{ map = "a" }]\nchange.auxv = "a.start"\nchange.auxv_size = 32',
            "It shows: auxv",
        ),
    ],
}
