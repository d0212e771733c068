"""Tables of replies, compared with the records of the same experiments."""

from __future__ import annotations

import errno

import pytest

from prctlmm_lab.errors import SystemCallError
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.record import Privilege
from prctlmm_lab.experiments.statements import STATEMENTS
from prctlmm_lab.experiments.steps import LosePrivilege, MemoryFile, UserNamespace
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.views.replies import (
    caller_text,
    replies_table,
    single_calls_table,
    statements_table,
    turns_table,
)
from tests.needs import needs_user_namespaces

BACKWARDS = Experiment("backwards", change={"arg_end": "arg_start - 1"})
NOT_OPEN = Experiment(
    "not-open", title="Not open", setup=(LosePrivilege(True),), change={"exe_fd": 0x7FFFFFFF}
)


def test_a_row_tells_what_the_record_tells() -> None:
    table = replies_table(BACKWARDS, NOT_OPEN)
    assert [*table.index] == ["backwards", "Not open"]
    for name, experiment in (("backwards", BACKWARDS), ("Not open", NOT_OPEN)):
        record = run(experiment)
        row = table.loc[name]
        assert row["kernel"] == record.outcome.verdict
        assert row["decided by"].startswith(f"{record.prediction.rule}: ")
        assert row["also broken"] == ", ".join(record.prediction.broken[1:])
        assert row["caller"] == caller_text(record.privilege)
    assert "exe.busy" in str(table.loc["Not open", "also broken"])


def test_what_changed_is_in_the_row_and_nothing_else() -> None:
    row = replies_table(Experiment("longer", change={"start_stack": "start_stack + 8"})).iloc[0]
    assert row["changed"].count("->") == 1
    assert row["changed"].startswith("stat start_stack: 0x")


def test_in_turn_the_second_starts_where_the_first_ended() -> None:
    needs_user_namespaces()
    enter = Experiment("enter", setup=(LosePrivilege(True), UserNamespace(True)))
    after = Experiment("after", setup=(MemoryFile("file"),), change={"exe_fd": "file"})
    together = replies_table(enter, after, in_turn=True)
    assert together.loc["after", "kernel"] != "EPERM"
    assert "namespace of its own" in str(together.loc["after", "caller"])
    alone = Experiment("alone", setup=(LosePrivilege(True), *after.setup), change=after.change)
    assert replies_table(alone).loc["alone", "kernel"] == "EPERM"


def test_a_caller_in_words() -> None:
    assert caller_text(Privilege(0, "0x1000000", True, 0)) == (
        "uid 0, CAP_SYS_RESOURCE in a user namespace of its own"
    )
    assert caller_text(Privilege(7, "0x3", None, 0)) == "uid 7, 2 capabilities"


def test_what_cannot_be_shown_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(specimen: Specimen, *, map_ids: bool = True) -> None:
        raise SystemCallError(errno.ENOSPC, "unshare", (0x10000000,))

    monkeypatch.setattr(Specimen, "enter_user_namespace", refused)
    never = Experiment("never", setup=(MemoryFile("a"), MemoryFile("b"), UserNamespace(True)))
    row = replies_table(never).iloc[0]
    assert row["kernel"].startswith("cannot be shown here: the kernel refused unshare(")
    assert row["caller"] == ""
    in_turn = replies_table(never, BACKWARDS, in_turn=True)
    assert all("ENOSPC" in cell for cell in in_turn["kernel"])
    assert "cannot be shown here" in turns_table("exe first").iloc[0]["kernel"]
    assert "unshare" in str(statements_table().loc["again", "kernel"])


def test_single_calls_have_both_verdicts(specimen: Specimen) -> None:
    page = specimen.map(PAGE)
    table = single_calls_table(specimen, [("ARG_END", page + 8), ("ARG_START", page)])
    assert [*table["with CAP_SYS_RESOURCE"]] == ["EINVAL", "accepted"]
    assert set(table["kernel"]) in ({"EPERM"}, {"EINVAL", "accepted"})
    assert table.iloc[0]["which decides"].startswith("order.arg: ")


def test_every_statement_has_its_row() -> None:
    table = statements_table()
    assert [*table.index] == [statement.word for statement in STATEMENTS]
    assert (table["kernel"] != "").all()
    assert "linux-6.1.176-uml" in str(table.loc["option", "kernel"])
