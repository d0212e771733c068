"""Looking at a specimen from outside: live it is looked at, in a recording it is remembered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prctlmm_lab.errors import SpecimenGone
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording import recorder, store
from prctlmm_lab.specimen.recording.marks import take_noted
from prctlmm_lab.specimen.recording.recorded import RecordedSpecimen
from prctlmm_lab.specimen.recording.state import NotRecorded
from prctlmm_lab.specimen.recording.store import Edge


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def test_a_look_is_given_the_process_and_its_text_comes_back(specimen: Specimen) -> None:
    text = specimen.observed("status", status_of)
    assert f"Pid:\t{specimen.pid}\n" in text


def test_what_a_look_raises_comes_out(specimen: Specimen) -> None:
    with pytest.raises(ZeroDivisionError):
        specimen.observed("nothing", lambda pid: str(pid // 0))


def test_an_ended_specimen_is_not_looked_at(specimen: Specimen) -> None:
    looked: list[int] = []
    specimen.stop()
    with pytest.raises(SpecimenGone, match=r"observed\('status'\)"):
        specimen.observed("status", lambda pid: looked.append(pid) or "")  # type: ignore[func-returns-value]
    assert not looked


def test_a_program_that_it_became_can_be_looked_at(specimen: Specimen) -> None:
    specimen.execute("/bin/sleep", [b"sleep", b"60"])
    assert "Name:\tsleep\n" in specimen.observed("status", status_of)


def test_a_recording_holds_the_text_without_the_process_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tape = recorder.Tape()
    monkeypatch.setattr(recorder, "TAPE", tape)
    with recorder.RecordingSpecimen() as specimen:
        text = specimen.observed("pid", lambda pid: f"it is {pid}, not 1{pid}")
        assert text == f"it is {store.PID}, not 1{specimen.pid}"
        (edge,) = (line for line in tape.edges.values() if line["do"][0] == "observed")
    assert edge["answer"] == text
    assert edge["edge"] == edge["to"]


def test_a_recorded_specimen_tells_what_was_told_then() -> None:
    specimen = RecordedSpecimen("static")
    with specimen:
        take_noted()
        with pytest.raises(NotRecorded, match="What the weather tells was not recorded"):
            specimen.observed("the weather", lambda pid: "fine")
        at = specimen._node
        key = at, store.key("observed", {"name": "the weather"})
        edges = {**specimen.recording.edges, key: Edge("rain", None, at)}
        specimen.recording = replace(specimen.recording, edges=edges)
        assert specimen.observed("the weather", lambda pid: "fine") == "rain"
        assert take_noted() == [specimen.recording.origin]
    with pytest.raises(SpecimenGone):
        specimen.observed("the weather", lambda pid: "fine")
