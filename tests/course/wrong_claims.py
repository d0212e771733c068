"""Typical wrong answers to the exercises of notebook 12, each with words of its message."""

from __future__ import annotations

HEAD = '[[experiment]]\nid = "x"\n'

WRONG: dict[str, list[tuple[object, str]]] = {
    "12.1": [
        (["limit.stack", "order.strict", "order.code"], "order.code holds here"),
        (["limit.stack", "order.strict", "order.data"], "but it did once: v3.18, until v5.2"),
        (["limit.stack", "order.strict"], "That is 2; name three"),
        (
            "limit.stack, order.strict, limit.stak",
            "'limit.stak' is no claim's id; expected limit.stack",
        ),
    ],
    "12.2": [
        ("limit.data", "the page is right"),
        ("exe.once", "the page is wrong, but so is the message"),
        ("map_size.returned", "the page is right"),
        ("privilege.lost_in_namespace", "no answer follows that could be wrong"),
        ("order.code", "the manual page does not speak"),
    ],
    "12.3": [
        ({"end_code": "start_code"}, "EINVAL, by order.code"),
        ({"start_stack": "lowest"}, "of the seven lie in mapped memory, such as start_brk"),
        (
            dict.fromkeys(("start_brk", "brk", "start_stack", "arg_start"), "highest"),
            "EINVAL, by order.arg",
        ),
        (
            dict.fromkeys(("brk", "start_stack", "arg_start", "arg_end"), "start_brk"),
            "of the seven lie in mapped memory",
        ),
    ],
    "12.4": [
        (("5.10", "6.0"), "v5.10 would answer otherwise: start_brk and brk lie below end_data"),
        (("5.15", "6.1"), "v6.1 would answer otherwise: brk() down over"),
        (("5.16", "5.19"), "All that you name fits, but v5.15 would answer the same"),
        (("5.15", "5.17"), "but v5.18 would answer the same"),
        (("6.0", "5.15"), "is no range of releases"),
        ("5.15", "is not a first and a last release"),
        (("5.15", "5.99"), "was never released"),
    ],
    "12.5": [
        ({"end_code": "start_code"}, "that is true"),
        (
            HEAD + 'setup = [{ map = "a" }]\nchange.auxv = "a.start"\nchange.auxv_size = 384',
            "but Linux 5.10.262 says EINVAL by auxv.size",
        ),
        ({"brk": "end_data +"}, "is not a formula"),
    ],
}
