"""Typical wrong answers to the exercises of notebook 05, each with words of its message."""

from __future__ import annotations

ARENA = '[[experiment]]\nid = "x"\nsetup = [{ map = "arena", pages = 3 }]\n'
WHOLE = 'change.start_brk = "arena.start"\nchange.brk = "arena.end"\n'
MIDDLE = 'change.start_brk = "arena.start"\nchange.brk = "arena.start + 2 * page"\n'

WRONG: dict[str, list[tuple[object, str]]] = {
    "05.1": [
        (0x2000, "takes the page that holds the old end to be there already"),
        ("0x1edc", "is not a whole number of pages"),
        (0, "the byte before the new end must be mapped"),
        ("two pages", "is no number"),
    ],
    "05.2": [
        (
            {"start_brk": "arena.start + page + 1", "brk": "arena.start + page + 2"},
            "VMAs called [heap] are 1, not three",
        ),
        ({"start_brk": "arena.end - 1", "brk": "arena.start"}, "by order.brk: start_brk = 0x"),
        (
            {"start_brk": "arena.start + 1", "brk": "arena.start + page + 1"},
            "VMAs called [heap] are 2",
        ),
        ({"start_brk": "arena.strat"}, "'arena.strat' is not a known name"),
    ],
    "05.3": [
        ("a, b, c", "3 of 4 are right. brk() does not obey a: one byte below start_brk"),
        ("c", "brk() obeys b: the new end lies in the page that holds the old one"),
        (["b", "c", "d"], "where other memory lies"),
        ("e", "is none of the words"),
    ],
    "05.4": [
        ({"brk": "start_brk + (1 << 20)"}, "by limit.data: brk - start_brk"),
        ({"brk": "brk - 16"}, "brk() moved by two bytes"),
        ({"brk": "start_brk + 4096"}, "that byte needs a new page, and there is no room"),
        (
            {"brk": "start_brk + (1 << 20) - (end_data - start_data)"},
            "No byte is left",
        ),
        ({"brk": "start_brk - 1"}, "by order.brk"),
    ],
    "05.5": [
        ({"start_brk": "brk"}, "v5.14 accepts it as well: start_brk = 0x"),
        ({"brk": "start_brk - 1"}, "This kernel refuses it too: EINVAL by order.brk"),
        ({"start_brk": "lowest", "brk": "lowest - 1"}, "by range.brk"),
    ],
    "05.6": [
        (ARENA + WHOLE, "no brk() was asked for"),
        (
            ARENA + WHOLE + 'after = [{ brk = "arena.start + page" }]',
            "the three pages are: mapped, gone, gone",
        ),
        (ARENA + MIDDLE + 'after = [{ unmap = "arena.start + page" }]', "brk steps only"),
        (
            ARENA + MIDDLE + 'after = [{ brk = "arena.start" }]',
            "the three pages are: gone, gone, mapped",
        ),
        ('[[experiment]]\nid = "x"\nsetup = [{ map = "arena" }]', "must map three pages"),
    ],
}
