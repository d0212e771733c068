"""A recorded kernel answers as the real one does; what was not recorded it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from prctlmm_lab import Experiment, compare
from prctlmm_lab.atlas import recorded
from prctlmm_lab.atlas.images import FOLDER, Image, series, version_order
from prctlmm_lab.atlas.kernels import Kernel
from prctlmm_lab.atlas.recorded import (
    RecordedKernel,
    kernels_at_hand,
    kernels_text,
    questions,
    recorded_kernels,
    records_folder,
)
from prctlmm_lab.atlas.turns import UNEXPLAINED, atlas_of, recorded_atlas, side_of
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.comparison import differences, recipe_key
from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.record import LIVE, experiment_data, in_text_form
from prctlmm_lab.specimen.recording import mode
from prctlmm_lab.specimen.recording.marks import take_noted
from prctlmm_lab.specimen.recording.state import NotRecorded
from tests.needs import needs_guest, skip_unless

LOGS = sorted(records_folder().glob("*.jsonl"))


# ---- what was recorded --------------------------------------------------------------------------


def test_there_are_eight_kernels_and_more() -> None:
    kernels = recorded_kernels()
    assert len(kernels) >= 8
    releases = [kernel.upstream for kernel in kernels]
    assert releases == sorted(releases, key=version_order)
    assert [kernel.levels for kernel in recorded_kernels(levels=5)]


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_log_has_every_question_of_today_and_no_disagreement(path: Path) -> None:
    records = [*LogFile(path).records()]
    keys = {recipe_key(record.experiment) for record in records if record.privilege.uid == 0}
    asked = {recipe_key(in_text_form(experiment_data(each))) for each in questions().values()}
    assert keys == asked
    assert {record.privilege.uid for record in records} == {0, 65534}
    assert len({record.facts.release for record in records}) == 1
    for record in records:
        assert record.origin == LIVE
        assert record.agreement.with_lab, record.summary()


def test_the_logs_are_small() -> None:
    assert sum(path.stat().st_size for path in LOGS) < 1 << 20


def test_every_turn_has_a_known_cause() -> None:
    turns = [turn for row in recorded_atlas().rows for turn in row.turns]
    assert not [turn for turn in turns if turn.cause == UNEXPLAINED]


def test_a_word_changes_from_kernel_to_kernel_where_the_records_differ_and_only_there() -> None:
    """The words of the atlas against the comparison of the whole records."""
    kernels = recorded_kernels()
    words = {row.id: row.answers for row in recorded_atlas().rows}
    for question in questions().values():
        sides = {k.upstream: side_of(k.recorded(question)).findings for k in kernels}
        for one, other in pairwise(sides):
            same = words[question.id][one] == words[question.id][other]
            assert same == (not differences(sides[one], sides[other])), (question.id, one, other)


# ---- how it answers -----------------------------------------------------------------------------


def test_a_record_says_that_it_is_recorded_and_a_cell_too() -> None:
    kernel = RecordedKernel("6.1")
    take_noted()
    record = kernel.run(questions()["vector-416"])
    assert take_noted() == [record.origin] == [kernel.origin]
    assert record.origin.startswith("recorded on Linux 6.1.192 (6.1.0-")
    assert record.outcome.verdict == "EINVAL"
    assert record.facts.auxv_capacity < 416
    assert kernel.facts() == record.facts
    assert not kernel.is_here
    assert kernel.start() is kernel
    assert not kernel.is_warm
    kernel.stop()


def test_the_same_experiment_under_another_name_is_the_same_question() -> None:
    asked = replace(questions()["code-reversed"], id="mine", predict="accepted", rule="")
    record = RecordedKernel("7.3").run(asked)
    assert record.experiment["id"] == "mine"
    assert (record.learner, record.agreement.learner) == ("accepted", False)


def test_what_was_not_recorded_is_refused_in_a_sentence() -> None:
    kernel = RecordedKernel("6.1.192")
    refused: list[Callable[[], object]] = [
        lambda: kernel.run(Experiment("mine", change={"end_code": "end_code + 1"})),
        lambda: kernel.run(questions()["heap-touches"], who="user"),
        lambda: kernel.fuzz(10),
        lambda: kernel.conformance(["call"]),
        kernel.doctor,
    ]
    for ask in refused:
        with pytest.raises(NotRecorded, match=r"was not recorded on Linux 6\.1\.192") as caught:
            ask()
        assert "prctlmm-lab atlas fetch 6.1" in str(caught.value)
        assert "\n" not in str(caught.value)
    for which in ("4.9", "6.1.191", "", "<b>"):
        with pytest.raises(InputError, match="is not in the atlas"):
            RecordedKernel(which)
    with pytest.raises(InputError, match="is not in the atlas"):
        RecordedKernel("5.10", levels=5)


def test_logs_of_recorded_kernels_are_compared_as_any_other() -> None:
    asked = questions().values()
    logs = {k: [*map(RecordedKernel(k).run, asked)] for k in ("6.1", "6.12")}
    found = {row.experiment for row in compare(logs).differing}
    rows = atlas_of({"6.1": logs["6.1"], "6.12": logs["6.12"]}).differing
    assert found == {row.id for row in rows} == {"vector-416", "heap-touches", "exe-unopened"}


# ---- whatever is at hand ------------------------------------------------------------------------


def test_without_an_image_a_kernel_is_recorded_and_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    kernels = kernels_at_hand("5.10", "7.3")
    assert all(isinstance(kernel, RecordedKernel) for kernel in kernels)
    text = kernels_text(kernels)
    assert "recorded" in text
    assert "`prctlmm-lab atlas fetch 5.10` gets it" in text
    with pytest.raises(InputError, match="is not in the atlas"):
        kernels_at_hand("3.2")


def test_without_memory_or_qemu_a_kernel_is_recorded_and_says_so(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = known(image)
    monkeypatch.setattr(recorded, "_free_memory", lambda: 100)
    assert "100 MiB of memory are free" in kernels_text(kernels_at_hand(name))
    monkeypatch.setattr(recorded, "_free_memory", lambda: 1 << 20)
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, *rest: None if "qemu" in name else which(name, *rest)
    )
    assert "is not installed" in kernels_text(kernels_at_hand(name))


def test_where_a_recording_stands_in_for_this_kernel_it_does_for_others(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode, "is_live", lambda: False)
    (kernel,) = kernels_at_hand(known(image))
    assert isinstance(kernel, RecordedKernel)


@pytest.fixture(scope="module")
def image() -> Image:
    return needs_guest()


def known(image: Image) -> str:
    """Return the name by which a kept image is meant, if the atlas has its series too."""
    kept = {series(kernel.upstream) for kernel in recorded_kernels()}
    skip_unless(image.series in kept, f"the atlas has no {image.series}", impossible=True)
    return image.series


@pytest.fixture(scope="module")
def live(image: Image) -> Iterator[Kernel]:
    (kernel,) = kernels_at_hand(known(image))
    with kernel:
        yield kernel


def test_a_guest_answers_as_it_was_recorded(live: Kernel) -> None:
    """If it is the very kernel; another one of its series may have taken a change over."""
    assert not isinstance(live, RecordedKernel)
    there = {kernel.upstream: kernel for kernel in recorded_kernels()}
    skip_unless(live.upstream in there, f"the atlas has no {live.upstream}", impossible=True)
    for question in questions().values():
        take_noted()
        record = live.run(question)
        assert take_noted() == []
        assert record.origin == LIVE
        was = there[live.upstream].recorded(question)
        assert differences(side_of(was).findings, side_of(record).findings) == ()
