"""Shrinking: what is left of an experiment when everything is gone that does not matter."""

from __future__ import annotations

from dataclasses import replace

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Experiment, Subject
from prctlmm_lab.experiments.shrinking import distance, shrink
from prctlmm_lab.experiments.steps import Limit, Map, Protect

BIG = Experiment(
    "big",
    setup=(Map("a"), Map("b"), Protect("a.start", "---"), Limit("DATA", "unlimited")),
    change={"arg_start": "a.start + 0x123", "arg_end": "a.start + 0x456", "brk": "brk + 7"},
)


def test_what_does_not_matter_goes() -> None:
    smaller = shrink(BIG, lambda e: "arg_end" in e.change and any("Map" in str(s) for s in e.setup))
    assert smaller.change == {"arg_end": "a.start"}
    assert smaller.setup == (Map("a"),)


def test_numbers_come_as_near_to_their_names_as_matters() -> None:
    def disagrees(experiment: Experiment) -> bool:
        offset = str(experiment.change.get("arg_start", "a.start")).rpartition(" ")[2]
        return offset.startswith("0x") and int(offset, 16) >= 0x20

    assert shrink(BIG, disagrees).change == {"arg_start": "a.start + 0x20"}


def test_the_specimen_becomes_an_ordinary_one_if_it_may() -> None:
    odd = replace(BIG, specimen=Subject("static-pie", ("odd", "one"), heap_pages=9))
    assert shrink(odd, lambda _: True).specimen == Subject()
    same_build = shrink(odd, lambda e: e.specimen.build == "static-pie")
    assert same_build.specimen == Subject("static-pie")
    assert shrink(odd, lambda e: e.specimen == odd.specimen).specimen == odd.specimen


def test_what_cannot_be_set_up_does_not_count() -> None:
    def disagrees(experiment: Experiment) -> bool:
        if not experiment.setup:
            raise InputError("x", "cannot be set up")
        return True

    smaller = shrink(BIG, disagrees)
    assert len(smaller.setup) == 1
    assert not smaller.change


def test_what_cannot_be_shown_again_stays_whole() -> None:
    assert shrink(BIG, lambda _: False) is BIG


def test_a_number_is_written_by_the_nearest_name() -> None:
    names = {"lowest": 0x10000, "arena.start": 0x7F0000001000}
    assert distance(0x7F0000000FFF, names).formula == "arena.start - 0x1"
    assert distance(0x10000, names).formula == "lowest"
    assert distance(1 << 63, names).formula == hex(1 << 63)
    assert distance(5, {}).formula == "0x5"
