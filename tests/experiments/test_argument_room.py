"""How many bytes of arguments execve takes: beside its manual page, and a real execve."""

from __future__ import annotations

import pytest

from prctlmm_lab.experiments.argument_room import MOST, room_for_arguments
from prctlmm_lab.specimen.process import PAGE, Specimen


@pytest.mark.parametrize("limit", [0x80000, 0x100000, 0x180000])
def test_it_is_a_quarter_of_the_stacks_limit(limit: int) -> None:
    with Specimen() as specimen:
        specimen.set_limit("STACK", limit)
        # execve(2): pointers and the file's name count too, since v4.13.
        assert 0 <= limit // 4 - room_for_arguments(specimen) < PAGE


def test_it_is_never_less_than_32_pages() -> None:
    with Specimen() as specimen:
        specimen.set_limit("STACK", 0x40000)
        assert 0 <= 32 * PAGE - room_for_arguments(specimen) < PAGE


def test_no_more_is_tried_and_the_specimen_is_as_it_was() -> None:
    with Specimen() as specimen:
        before = specimen.snapshot()
        limit = specimen.limit("STACK")[1]
        if limit >= 8 * MOST:
            specimen.set_limit("STACK", 8 * MOST)
            assert room_for_arguments(specimen) == MOST
        after = specimen.snapshot()
        assert (after.maps, after.cmdline, after.exe) == (before.maps, before.cmdline, before.exe)
        specimen.restart([b"one", b"a" * PAGE], [])
        assert specimen.snapshot().cmdline == b"one\0" + b"a" * PAGE + b"\0"
