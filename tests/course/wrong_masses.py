"""Typical wrong answers to the exercises of notebook 10, each with words of its message."""

from __future__ import annotations

from typing import Any

HEAD = '[[sweep]]\nid = "x"\n'
HEAP = 'x = { member = "brk", from = "start_brk", to = "start_brk + 4*page" }\n'
LIMIT = 'setup = [{ limit = "DATA", soft = "%s" }]\n'
CODE = {"start_code": "start_code", "end_code": "start_code"}


def heap_alone(s: Any, f: Any) -> Any:
    return s.map.brk - s.map.start_brk > s.rlimit_data


def equal_is_refused(s: Any, f: Any) -> Any:
    return (s.map.brk - s.map.start_brk) + (s.map.end_data - s.map.start_data) >= s.rlimit_data


def asks_for_truth(s: Any, f: Any) -> Any:
    return s.map.brk > s.rlimit_data and s.map.end_data > s.rlimit_data


def raises(s: Any, f: Any) -> Any:
    return 1 // 0


def no_predicate(s: Any, f: Any) -> Any:
    return s.map.brk


def below(s: Any, f: Any) -> Any:
    return s.map.start_code > s.map.end_code


WRONG: dict[str, list[tuple[object, str]]] = {
    "10.1": [
        (12 * 4096, "0xc000 is the limit itself"),
        ("0xbfb9", "0xbfb9 bytes is the first that is refused"),
        (11 * 4096, "0xb000 bytes is accepted, but"),
        (1 << 40, "0x10000000000 bytes is refused, but"),
    ],
    "10.2": [
        (heap_alone, "your model says accepted, the kernel EINVAL"),
        (equal_is_refused, "your model says EINVAL, the kernel accepted"),
        (asks_for_truth, "asks whether a whole column of values is true"),
        (raises, "your predicate: raises ZeroDivisionError"),
        (no_predicate, "is neither true nor false"),
        (lambda s, f: s.map.bkr > 0, "'bkr' is not there; expected s.map.brk?"),
        ("brk > rlimit", "is no function"),
    ],
    "10.3": [
        (22, "Not all 22: leave out a bound of start_stack"),
        (11, "11 would be one bound of each address"),
        (5, "5 are the lower bounds of the ends"),
        (1, "Take one pair, arg_start and arg_end"),
    ],
    "10.4": [
        (HEAD + HEAP, "limit.data begins nowhere in it"),
        (HEAD + LIMIT % "0x1233" + HEAP, "start_brk + 0x11ec, 0x48 too low"),
        (HEAD + LIMIT % "end_data - start_data + 0x1234" + HEAP, "0x1 too high"),
        (HEAD + HEAP.replace('"brk"', '"end_data"'), "Sweep one member, brk"),
        (HEAD + HEAP + HEAD.replace("x", "y") + HEAP, "has 2 sweeps"),
    ],
    "10.5": [
        (("order.code", below, CODE), "Your call refutes it, but so do"),
        (("order.code", below, {"end_code": "start_code - 1"}), "Your call does not refute it"),
        (("order.cod", below, CODE), "is not a rule of it"),
        (("order.code", below), "is not a rule, a predicate and a call"),
        (("order.code", 5, CODE), "is no function"),
    ],
}
