"""What two texts say of the call: each question is asked, and the specification agrees."""

from __future__ import annotations

import pytest

from prctlmm_lab.experiments.asking import ask_in_turn
from prctlmm_lab.experiments.statements import STATEMENT, STATEMENTS, Statement, refuted
from prctlmm_lab.specimen.probe import ask_map_size, facts_here
from prctlmm_lab.specimen.process import Specimen
from tests.needs import skip_unless


def asked(statement: Statement) -> str:
    answer = statement.ask()
    skip_unless(not answer.why_not or not statement.experiments, answer.why_not, impossible=True)
    assert answer.told is not None
    return answer.told


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.word)
def test_the_kernel_answers_as_the_specification_says(statement: Statement) -> None:
    assert asked(statement)
    if statement.experiments:
        records = ask_in_turn(*statement.experiments).told
        assert records is not None
        assert all(record.agreement.with_lab for record in records)


def test_the_words_are_unlike_and_each_text_says_something() -> None:
    assert len(STATEMENT) == len(STATEMENTS)
    for statement in STATEMENTS:
        sources = (statement.manual, statement.message)
        assert any(source.says != "nothing" for source in sources)
        assert all(source.says != "nothing" for source in sources if source.foretells)


def test_the_facts_tell_the_same_as_the_answers() -> None:
    facts = facts_here()
    heap = "accepted" if facts.heap_below_data_accepted else "EINVAL"
    again = "EPERM" if facts.exe_changes_once else "accepted"
    assert (asked(STATEMENT["heap"]), asked(STATEMENT["again"])) == (heap, again)


def test_the_size_is_where_the_probe_finds_it(specimen: Specimen) -> None:
    refusal, size = ask_map_size(specimen)  # reads it where arg3 points
    assert (refusal, size) == (0, facts_here().map_size)
    assert asked(STATEMENT["size"]) == "at arg3"


def test_what_is_refuted_was_foretold_otherwise() -> None:
    for source, sure in (("manual", {"caller", "pointer"}), ("message", {"pairs", "stack-limit"})):
        found = refuted(source)
        assert sure <= set(found)
        assert "data-limit" not in found, "both texts are right about this"
        for word in found:
            foretold = getattr(STATEMENT[word], source).foretells
            told = asked(STATEMENT[word])
            assert foretold not in ("", told)
            assert foretold != "a refusal" or told == "accepted" or told.startswith("in ")


def test_a_kernel_without_the_option_is_another_kernel() -> None:
    answer = STATEMENT["option"].ask()
    assert answer.told == "EPERM"
    assert "linux-6.1.176-uml" in answer.why_not
