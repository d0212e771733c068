"""Typical wrong answers to the exercises of notebook 01, each with words of its message."""

from __future__ import annotations

WRONG: dict[str, list[tuple[object, str]]] = {
    "01.1": [
        ("start_code", "start_code = 0x401000: first byte"),
        ("start_data", "start_data = 0x402000: first byte"),
        ("auxv_size", "auxv_size is no bound of anything"),
        ("code_end", "'code_end' is none of the words"),
    ],
    "01.2": [
        ("end_code - start_code", "the size of the code itself"),
        ("page", "0x1000 is the size of the whole mapping"),
        (4096 - 0x48, "0xfb8 are more than there are"),
        (17, "0x11 are fewer than there are"),
    ],
    "01.3": [
        (104, "nothing begins there"),
        (96, "At 96 auxv_size begins; it has 4 bytes."),
        (13, "At 13 end_code has one of its bytes"),
        (112, "0x70 lies outside"),
    ],
    "01.4": [
        ("order.brk", "order.brk holds: start_brk ="),
        ("limit.data", "limit.data holds: brk - start_brk"),
        ("order.data_strict", "Linux 5.14 has no order.data_strict"),
        ("heap.below_data", "expected heap.above_data?"),
    ],
    "01.5": [
        ("start_stack", "word 0 from start_stack on: argc"),
        ("start_stack + 8", "argv[0], a pointer to an argument"),
        ("start_stack + 8 * (3 + 2)", "envp[0], a pointer to an environment entry"),
        ("start_stack + 8 * (1 + 3 + 1 + 2)", "ends the pointers to the environment"),
        ("start_stack + 8 * (1 + 3 + 1 + 2 + 1 + 2)", "inside the vector already"),
        ("start_stack + 3", "no whole number of words"),
        ("brk", "is elsewhere"),
        ("start_stock", "expected start_stack?"),
    ],
}
