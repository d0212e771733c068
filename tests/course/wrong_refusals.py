"""Typical wrong answers to the exercises of notebook 03, each with words of its message."""

from __future__ import annotations

from typing import Any

from prctlmm_lab.course.refusals import EXERCISES

HEAD = '[[experiment]]\nid = "x"\n'
ALONE: dict[str, Any] = EXERCISES["03.4"].solution
SIX: str = EXERCISES["03.5"].solution
MENDED: dict[str, Any] = EXERCISES["03.3"].solution
NAMESPACE = "setup = [{ user_namespace = true }"

WRONG: dict[str, list[tuple[object, str]]] = {
    "03.1": [
        ({"end_code": "start_code + 1"}, "The kernel accepted it: order.code holds."),
        ({"end_code": "start_code - 1"}, "But one byte more is refused as well."),
        ({"end_code": "lowest - 1"}, "refused, but by range.end_code"),
        ({"start_code": "end_code"}, "nothing else; you change start_code"),
        ({"end_code": "start_cod"}, "'start_cod' is not a known name"),
    ],
    "03.2": [
        ("range.start_stack", "1 of 5 broken rules found"),
        (["range.start_stack", "order.arg", "limit.data", "auxv.size"], "4 of 5 broken rules"),
        ("range.start_stack, order.brk", "order.brk holds: start_brk ="),
        ("range.brk", "range.brk holds: brk ="),
        ("EINVAL", "'EINVAL' is none of the words"),
    ],
    "03.3": [
        ({"start_stack": "before.start_stack"}, "EINVAL by range.arg_end"),
        ({**MENDED, "auxv_size": 0}, "auxv_size = 0 leaves the vector out"),
        ({**MENDED, "auxv": "image.start"}, "you changed 5 members. 4 are enough"),
        ({**MENDED, "arg_end": "before.arg_start - 1"}, "Still broken: order.arg"),
    ],
    "03.4": [
        ({"range.env_start": {"env_start": "highest + 1"}}, "not alone: order.env too"),
        ({**ALONE, "order.arg": {"arg_end": "arg_start"}}, "For order.arg: The kernel accepted it"),
        ({**ALONE, "auxv.size": {"auxv": 1, "auxv_size": 4096}}, "not alone: auxv.readable too"),
        (
            {**ALONE, "auxv.readable": {"auxv": 0, "auxv_size": 1}},
            "For auxv.readable: it is broken, but not alone: auxv.null too",
        ),
        ({"range.env_start": ALONE["range.env_start"]}, "1 of 5 are right; there is none for"),
        ({"auxv.null": {"auxv": 0}}, "'auxv.null' is none of the words"),
    ],
    "03.5": [
        (HEAD + 'change.end_code = "start_code"', "Missing: EFAULT, EPERM, EBADF, EACCES, EBUSY"),
        (SIX.replace("exe_fd = 99", "exe_fd = 0xffffffff"), "Missing: EPERM, EBADF."),
        (SIX + HEAD + "change.auxv_size = 1", "All six, in 7 calls"),
        (
            SIX.replace(NAMESPACE, NAMESPACE + ', { map = "more" }'),
            "All six, with 9 steps before the calls",
        ),
    ],
    "03.6": [
        ({"arg_end": "arg_start"}, "all lie in memory that is mapped"),
        ({"start_stack": "highest"}, "2 is refuted. But heap, arguments and environment have"),
        ({"start_stack": "lowest - 1"}, "EINVAL by range.start_stack"),
        ({"arg_end": "highest", "arg_start": "highest + 1"}, "EINVAL by range.arg_start"),
    ],
    "03.7": [
        ({"end_code": "start_code"}, "1 of five errnos: EINVAL (order.code)"),
        ({"brk": "brk"}, "0 of five errnos: none. The kernel says accepted"),
        ({"auxv": 1, "auxv_size": 1, "end_code": "start_code"}, "2 of five errnos: EINVAL"),
        (
            EXERCISES["03.7"].solution.replace("change.auxv_size = 1", "change.auxv_size = 0"),
            "4 of five errnos: EINVAL (order.code), EPERM (exe.permission), EBADF",
        ),
    ],
    "03.8": [
        (
            {"accepted": {"start_stack": "highest"}, "refused": {"start_stack": "highest + 1"}},
            "they differ in",
        ),
        ({"accepted": {"brk": "brk"}}, "There must be two maps"),
        (
            {"accepted": {"end_code": "start_code"}, "refused": {"end_code": "start_code"}},
            'The map "accepted": the kernel says EINVAL by order.code',
        ),
        (
            {"accepted": {"brk": "brk"}, "refused": {"brk": "start_brk"}},
            'The map "refused": the kernel says accepted',
        ),
        (
            {"accepted": HEAD + 'setup = [{ map = "a" }]', "refused": {"brk": 0}},
            "has more than changes of members",
        ),
    ],
}
