"""The older operations of PR_SET_MM are recorded as they are asked, and answered as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from prctlmm_lab.kernel.abi import PR_SET_MM, Operation
from prctlmm_lab.specimen.recording import recorder


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> recorder.Tape:
    fresh = recorder.Tape()
    monkeypatch.setattr(recorder, "TAPE", fresh)
    return fresh


def test_a_call_is_noted_with_the_kernels_answer(tape: recorder.Tape) -> None:
    with recorder.RecordingSpecimen() as specimen:
        first = specimen.current_map().arg_start
        call = PR_SET_MM, Operation.ARG_START, first, 0, 0
        answer = specimen.attempt("prctl", *call)
        present = specimen.current_map()
    noted = [line for (_, key), line in tape.edges.items() if key.startswith('["attempt"')]
    assert [line["answer"] for line in noted] == [answer]
    assert noted[0]["do"] == ["attempt", {"arguments": [*map(int, call)], "name": "prctl"}]
    assert present.arg_start == first


def test_what_only_asks_is_not_noted(tape: recorder.Tape) -> None:
    with recorder.RecordingSpecimen() as specimen:
        edges = len(tape.edges)
        assert specimen.attempt("getpid") == specimen.pid
        assert specimen.syscall("geteuid") == Path(f"/proc/{specimen.pid}").stat().st_uid
        assert specimen.snapshot().pid == specimen.pid
        assert len(tape.edges) == edges
