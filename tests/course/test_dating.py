"""The game: a seeded unknown kernel, that answers, hides its release and is judged."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from prctlmm_lab import Experiment
from prctlmm_lab.atlas.images import FOLDER
from prctlmm_lab.atlas.recorded import questions
from prctlmm_lab.course import check, dating
from prctlmm_lab.course.dating import UnknownKernel, answers, fewest, judge, unknown_kernel
from prctlmm_lab.course.many_kernels import SEED
from prctlmm_lab.errors import InputError
from prctlmm_lab.specimen.recording.marks import take_noted
from prctlmm_lab.specimen.recording.state import NotRecorded

KERNELS = dating.atlas()


@pytest.fixture(autouse=True)
def no_guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))


def alike(kernel: str) -> list[str]:
    rows = answers().values()
    return [other for other in KERNELS if all(row[kernel] == row[other] for row in rows)]


def span(kernels: list[str]) -> tuple[str, str]:
    first, last = (".".join(k.split(".")[:2]) for k in (kernels[0], kernels[-1]))
    return first, last


def drawn(seed: int) -> str:
    """Find out which kernel a seed draws, by what the judge says."""
    (told,) = {kernel for kernel in KERNELS if judge(seed, span(alike(kernel)), []).right} & {
        dating._drawn(seed)
    }
    return told


def test_a_seed_is_the_same_game_each_time_and_seeds_differ() -> None:
    first = [drawn(seed) for seed in range(100)]
    assert first == [drawn(seed) for seed in range(100)]
    assert len({*first}) == len(KERNELS)


def test_every_kernel_can_be_dated_and_only_by_its_own_group() -> None:
    for seed in range(40):
        right = alike(drawn(seed))
        for kernel in KERNELS:
            told = judge(seed, span(alike(kernel)), [])
            assert told.right is (kernel in right), (seed, kernel, told)


def test_it_answers_and_hides_what_it_is() -> None:
    with unknown_kernel(3) as unknown:
        kernel = drawn(3)
        shown = ""
        for name in questions():
            take_noted()
            reply = unknown.ask(name)
            assert reply.answer == answers()[name][kernel]
            shown += repr(reply) + "".join(take_noted())
        shown += repr(unknown)
    assert "its release is hidden" in shown
    for release in KERNELS:
        assert release not in shown


def test_questions_are_counted_and_the_same_one_once() -> None:
    unknown = unknown_kernel(3)
    for name in ("same-map", "vector-416", "same-map"):
        unknown.ask(name)
    assert [reply.number for reply in unknown.asked] == [1, 2]
    told = unknown.between(*span(alike(drawn(3))))
    assert told.right
    assert "You asked 2 questions" in told.message
    assert "But it was luck" in told.message


def test_who_asked_enough_was_not_lucky() -> None:
    unknown = unknown_kernel(3)
    for name in fewest([drawn(3)], KERNELS):
        unknown.ask(name)
    told = unknown.between(*span(alike(drawn(3))))
    assert told.right
    assert "luck" not in told.message


def test_as_few_questions_as_will_do_are_found() -> None:
    """Against a count over all subsets that are smaller."""
    from itertools import combinations

    key = fewest(KERNELS, KERNELS)
    groups = {tuple(answers()[name][k] for name in questions()) for k in KERNELS}
    split = {tuple(answers()[name][k] for name in key) for k in KERNELS}
    assert len(split) == len(groups)
    for fewer in combinations(questions(), len(key) - 1):
        assert len({tuple(answers()[name][k] for name in fewer) for k in KERNELS}) < len(groups)


def test_a_wrong_guess_is_told_what_would_have_separated() -> None:
    kernel = drawn(SEED)
    for other in KERNELS:
        if other in alike(kernel):
            continue
        told = judge(SEED, span([other]), [])
        assert told.right is False
        named = told.message.partition(" Ask ")[2].rstrip(".").split(", or ")[0]
        assert answers()[named][other] != answers()[named][kernel]
        assert kernel not in told.message


def test_what_is_no_question_and_no_guess_is_refused() -> None:
    unknown = unknown_kernel(3)
    with pytest.raises(InputError, match="expected vector-416"):
        unknown.ask("vector-415")
    with pytest.raises(NotRecorded, match="was not recorded"):
        unknown.ask(Experiment("mine", change={"brk": "brk + 1"}))
    for guess in (("6.1", "5.10"), ("never", "6.1"), ("4.4", "4.9"), ("6.1", "6.99")):
        with pytest.raises(InputError):
            unknown.between(*guess)
    assert unknown.asked == ()


def test_the_exercise_knows_the_game_of_the_session() -> None:
    answer = span(alike(drawn(SEED)))
    assert "You asked" not in check("13.4", answer).message
    game: UnknownKernel | None = unknown_kernel(SEED)
    assert game is not None
    game.ask("same-map")
    assert "You asked 1 question;" in check("13.4", answer).message
    game = None
    gc.collect()
    assert "You asked" not in check("13.4", answer).message
