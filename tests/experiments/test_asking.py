"""Questions that cannot be asked everywhere: the real answer, or the reason and a recorded one."""

from __future__ import annotations

import errno

import pytest

from prctlmm_lab.errors import InputError, SystemCallError
from prctlmm_lab.experiments.asking import ask, ask_in_turn
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.steps import MemoryFile, Open, UserNamespace
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.recording.marks import LIVE, take_noted
from prctlmm_lab.specimen.recording.store import shipped


@pytest.fixture
def no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(specimen: Specimen, *, map_ids: bool = True) -> None:
        raise SystemCallError(errno.EPERM, "unshare", (0x10000000,))

    monkeypatch.setattr(Specimen, "enter_user_namespace", refused)


def test_what_can_be_asked_is_asked_of_this_kernel() -> None:
    experiment = Experiment("half", change={"end_code": "start_code + 8"})
    asked = ask_in_turn(experiment)
    assert asked.told is not None
    assert (asked.why_not, asked.sentence) == ("", "")
    assert [record.origin for record in asked.told] == [LIVE]
    assert asked.told[0].outcome == run(experiment).outcome


def test_experiments_in_turn_share_a_specimen() -> None:
    longer = Experiment("longer", change={"brk": "brk + 8"})
    asked = ask_in_turn(longer, longer)
    assert asked.told is not None
    (first, second) = (record.difference[0] for record in asked.told)
    assert first[0] == second[0] == "brk()"
    assert first[3] == second[2]


@pytest.mark.usefixtures("no_namespaces")
def test_a_refused_set_up_is_told_and_the_recording_answers() -> None:
    (experiment,) = (e for e in shipped_recipes()["exe"].experiments if e.id == "exe-changed")
    asked = ask_in_turn(experiment)
    assert asked.sentence.startswith("cannot be shown here: the kernel refused unshare(0x10000000)")
    assert asked.told is not None
    (record,) = asked.told
    assert (record.outcome.verdict, record.origin) == ("accepted", shipped().origin)
    assert shipped().origin in take_noted(), "a notebook's cell would not be marked"


@pytest.mark.usefixtures("no_namespaces")
def test_what_was_not_recorded_either_has_the_reason_only() -> None:
    never = Open("never", path="/proc/self/stat")
    asked = ask_in_turn(Experiment("x", setup=(MemoryFile("odd"), never, UserNamespace(True))))
    assert asked.told is None
    assert "unshare" in asked.sentence


def test_a_mistake_of_the_work_is_no_refusal() -> None:
    def work(specimen: Specimen, facts: Facts) -> None:
        specimen.set_limit("NOTHING", 0)

    with pytest.raises(InputError, match="is not a resource"):
        ask(work)
    with pytest.raises(InputError, match="does not fit"):
        ask_in_turn(Experiment("x", change={"auxv_size": "highest"}))
