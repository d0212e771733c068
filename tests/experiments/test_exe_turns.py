"""Turns at the exe link, compared with the rules, and with the link as the system tells it."""

from __future__ import annotations

import os

import pytest

from prctlmm_lab.experiments.asking import ask
from prctlmm_lab.experiments.exe_turns import TURNS, Turn, _turns, take_turns
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from tests.needs import needs_user_namespaces


def verdicts(*words: str) -> list[str]:
    asked = take_turns(words)
    assert asked.told is not None
    assert asked.why_not == ""
    return [turn.verdict for turn in asked.told]


def test_each_turn_is_known_by_what_it_does() -> None:
    needs_user_namespaces()
    assert verdicts(*TURNS)[0] == "accepted"
    with pytest.raises(KeyError):
        take_turns(["exe third"])


def test_the_guard_against_writers_is_the_one_that_the_facts_tell() -> None:
    needs_user_namespaces()
    guarded = facts_here().written_exe_refused
    here = ("ETXTBSY", "EACCES") if guarded else ("accepted", "accepted")
    assert verdicts("exe first", "write first")[-1] == here[0]
    assert verdicts("write first", "exe first")[-1] == here[1]
    assert verdicts("exe first", "exe second", "write first")[-1] == "accepted"


def test_a_mapped_page_of_data_keeps_the_link() -> None:
    needs_user_namespaces()
    expected = "EBUSY" if facts_here().mapped_exe_refused else "accepted"
    assert verdicts("exe first", "map first", "exe second")[-1] == expected
    assert verdicts("exe first", "map second", "exe second")[-1] == "accepted"


def test_the_link_is_what_readlink_tells() -> None:
    needs_user_namespaces()

    def work(specimen: Specimen, facts: Facts) -> tuple[Turn, str]:
        turn = _turns(specimen, facts, ["exe first", "exe shell"])[-1]
        return turn, os.readlink(f"/proc/{specimen.pid}/exe")

    told = ask(work).told
    assert told is not None
    assert told[0].exe == told[1] == os.path.realpath("/bin/sh")
