"""Typical wrong answers to the exercises of notebook 13, each with words of its message."""

from __future__ import annotations

RIGHT = {
    "vector-416": "accepted",
    "vector-448": "EINVAL",
    "heap-touches": "[heap]",
    "brk-over-a-hole": "stays",
}

WRONG: dict[str, list[tuple[object, str]]] = {
    "13.1": [
        (["same-map", "code-reversed", "vector-384"], "5.10.262 answered EINVAL, 6.1.192 accepted"),
        (["same-map", "stack-too-high", "data-empty"], "5-level paging"),
        (["same-map", "text-nowhere"], "That is 2; name three"),
        ("same-map, heap-touch", "is none of the words"),
    ],
    "13.2": [
        ({**RIGHT, "heap-touches": "no name"}, "3 of 4 are right. heap-touches: v6.5 is not no"),
        ({**RIGHT, "vector-416": "EINVAL"}, "317c8194e6ae, v6.3"),
        ({**RIGHT, "brk-over-a-hole": "moves"}, "2e7ce7d354f2, v6.1"),
        ({"vector-416": "accepted"}, "says nothing about vector-448, heap-touches"),
        ({**RIGHT, "vector-448": "EPERM"}, "is none of the words"),
    ],
    "13.3": [
        (("5.10", "6.1", "vector-384"), "that is the usual order"),
        (("6.1", "6.12", "vector-tail"), "6.1.192 and 6.12.118 both answered gone"),
        (("6.16", "6.12", "vector-tail"), "has not the older one first"),
        (("6.12", "6.13", "vector-tail"), "is not in the atlas"),
        (("6.12", "vector-tail"), "is not two kernels and a question"),
    ],
    "13.4": [
        (("6.12", "6.18"), "Linux 6.12.118 lies in it"),
        (("6.16", "6.19"), "Linux 6.19.14 lies in it"),
        ("6.16", "Linux 6.17.13 and Linux 6.18.15 answered every question the same"),
        (("6.13", "6.15"), "has no kernel of the atlas"),
        (("6.18", "6.16"), "the earlier release first"),
    ],
    "13.5": [
        (["vector-448", "heap-touches"], "heap-touches, vector-448: 5.10.262 and 6.1.192 answer"),
        (["vector-384", "vector-416", "vector-448"], "6.16.12 answer alike, and vector-tail"),
        (["vector-384", "vector-416", "vector-448", "vector-tail"], "4 are more than it takes"),
        (["same-map"], "same-map: 5.10.262 and 6.1.192 answer alike, and vector-384"),
    ],
}
