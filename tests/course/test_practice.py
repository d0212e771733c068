"""Practice: problems that can be set up and judged, a score, and a history that survives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prctlmm_lab.course import practice
from prctlmm_lab.course.answered import (
    Answered,
    append_answer,
    eagerness,
    history_beside,
    level_after,
    read_history,
)
from prctlmm_lab.course.asking import Explained, Problem, identity_of
from prctlmm_lab.course.problems import TOPICS, Die, Posed, pose, possible_topics
from prctlmm_lab.errors import InputError, SystemCallError
from prctlmm_lab.experiments.logbook import LogFile, TornLineWarning
from prctlmm_lab.kernel.effects import EFFECT
from prctlmm_lab.kernel.rules import RULE, errno_name, rules_of
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
ANSWER = Answered(
    "order.code", 1, "verdict", "EINVAL", "EINVAL", True, "0" * 16, 1, "2026-01-01T00:00:00+00:00",
    "live", "0" * 32,
)  # fmt: skip


def namespaces() -> bool:
    with Specimen() as specimen:
        try:
            specimen.enter_user_namespace()
        except SystemCallError:
            return False
    return True


@pytest.fixture(autouse=True)
def own_logbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "logbook.jsonl"
    monkeypatch.setenv("PRCTLMM_LAB_LOGBOOK", str(path))
    return path


def posed_by(seed: int) -> Posed:
    """Return the problem of a seed: any topic, the three levels in turn."""
    topics = possible_topics(facts_here(), namespaces=namespaces())
    die = Die(seed)
    return pose(die.pick([*topics]), 1 + seed % 3, die, facts_here())


# ---- what is asked ----------------------------------------------------------------------------


def test_ten_thousand_seeds_give_problems_that_are_well_formed_and_hardly_ever_the_same() -> None:
    topics = [*possible_topics(facts_here(), namespaces=True)]
    identities, kinds = set(), Counter[str]()
    for seed in range(10_000):
        die = Die(seed)
        posed = pose(die.pick(topics), 1 + seed % 3, die, facts_here())  # checked as it is made
        words = [choice.word for choice in posed.question.choices]
        assert 2 <= len(words) == len(set(words)) <= 10, posed
        identities.add(posed.identity)
        kinds[posed.question.kind] += 1
    assert len(identities) > 9000
    effects = {name for name in topics if name in EFFECT}
    assert {*kinds} == {"verdict", "rule"} | effects


@pytest.fixture(scope="module")
def judged() -> dict[int, tuple[Problem, Explained]]:
    """Make the real call of many problems, of every topic at every level."""
    topics = possible_topics(facts_here(), namespaces=namespaces())
    seen = {}
    for seed, (topic, level, _) in enumerate(
        (topic, level, again) for topic in topics for level in (1, 2, 3) for again in range(6)
    ):
        posed = pose(topic, level, Die("judged", seed), facts_here())
        problem = Problem(posed, seed=seed, number=1)  # raises if it cannot be set up
        told = problem.answer("a")
        assert isinstance(told, Explained)
        seen[seed] = problem, told
    return seen


def truth_of(problem: Problem) -> str:
    return problem.posed.question.truth(problem._predicted)


def test_kernel_and_specification_agree_on_every_problem(
    judged: dict[int, tuple[Problem, Explained]],
) -> None:
    assert [told.message for _, told in judged.values() if "News" in told.message] == []


def test_the_right_answer_is_always_among_the_choices(
    judged: dict[int, tuple[Problem, Explained]],
) -> None:
    for problem, told in judged.values():
        words = [choice.word for choice in problem.choices]
        assert truth_of(problem) in words
        assert told.right == (words[0] == truth_of(problem))
    by_us = sum(len(p.choices) > len(p.posed.question.choices) for p, _ in judged.values())
    assert by_us < len(judged) / 10, "the choices that are made up miss the truth too often"


def test_every_rule_that_an_ordinary_user_meets_decides_and_every_effect_is_asked(
    judged: dict[int, tuple[Problem, Explained]],
) -> None:
    decided = {p._predicted.rule for p, _ in judged.values()}
    namespace = {name for name, topic in TOPICS.items() if topic.namespace}
    unmet = {"call.option"} | (set() if namespaces() else namespace)
    assert {rule.id for rule in rules_of(facts_here())} - unmet <= decided
    kinds = {p.posed.question.kind for p, _ in judged.values()}
    assert set(EFFECT) - unmet <= kinds | {"verdict"}
    assert set(EFFECT) <= set(TOPICS)


def test_answers_of_all_kinds_are_right_somewhere(
    judged: dict[int, tuple[Problem, Explained]],
) -> None:
    said: dict[str, set[str]] = {}
    for problem, _ in judged.values():
        said.setdefault(problem.posed.question.kind, set()).add(truth_of(problem))
    errnos = {errno_name(rule.errno_on(facts_here())) for rule in rules_of(facts_here())
              if rule.id in TOPICS and (namespaces() or not TOPICS[rule.id].namespace)}  # fmt: skip
    assert said["verdict"] == {"accepted", *errnos}
    for kind, truths in said.items():
        alone = kind == "unchanged"  # nothing is mapped by the call: 0, whatever moves
        assert len(truths) > 1 or alone, (kind, truths)


def test_a_topic_has_a_notebook_that_is_there() -> None:
    for topic in TOPICS.values():
        assert topic.id in RULE or topic.id in EFFECT
        assert (NOTEBOOKS / f"{topic.notebook}.ipynb").exists() or topic.notebook[0] == "0"


# ---- one problem ------------------------------------------------------------------------------


@pytest.fixture
def empty_code() -> Iterator[Problem]:
    """Give a problem whose answer is known: code that ends where it begins."""
    posed = pose("order.code", 1, Die("x"), facts_here())
    experiment = replace(posed.experiment, setup=(), change={"end_code": "start_code"})
    problem = Problem(replace(posed, experiment=experiment), seed=1, number=1)
    yield problem
    problem.stop()


def test_it_shows_its_numbers_in_words_and_as_html(empty_code: Problem) -> None:
    start = empty_code._own.start_code
    text, html = repr(empty_code), empty_code._repr_html_()
    assert f"{start:#x}" in text
    assert "[start_code]" in text
    assert "a) accepted\n  b) EINVAL" in text
    assert "<svg" in html
    assert f"<code>{start:#x}</code>" in html
    assert "Address space of" in empty_code.picture_text()
    assert not any(word in text for word in ("order.code", "order of pairs")), "it gives it away"


@pytest.mark.parametrize("said", ["b", "EINVAL", "einval", " B "])
def test_a_letter_or_the_words_are_an_answer(empty_code: Problem, said: str) -> None:
    told = empty_code.answer(said)
    assert told.right
    assert "EINVAL by order.code (start_code < end_code): start_code = 0x" in told.message


def test_a_wrong_answer_is_told_the_right_one_and_only_the_first_counts(
    empty_code: Problem,
) -> None:
    told = empty_code.answer("accepted")
    assert str(told).startswith("✗ no. It is: EINVAL. EINVAL by order.code")
    assert empty_code.answer("EINVAL") is told
    assert not empty_code.specimen.alive
    html = told._repr_html_()
    assert 'href="03-why-einval.ipynb"' in html
    assert "<svg" not in html, "a refused call leaves no other picture than before"


def test_after_an_accepted_call_the_picture_shows_what_moved() -> None:
    posed = pose("maps.stack", 1, Die("x"), facts_here())
    problem = Problem(posed, seed=1, number=1)
    start = dict(problem._prepared.map)["start_stack"]
    html = problem.answer("a")._repr_html_()
    assert "<svg" in html
    assert f"{start:#x}" in html


@pytest.mark.parametrize("said", ["", "z", None, 17, "<b>", ["a"], object(), {"brk": 1}])
def test_what_is_no_choice_does_not_count(empty_code: Problem, said: object) -> None:
    told = empty_code.answer(said)
    assert told.right is None
    assert "none of the choices" in told.message
    assert "a (accepted), b (EINVAL)" in told.message
    assert empty_code.told is None
    assert empty_code.answer("b").right


def test_the_second_hint_has_the_numbers(empty_code: Problem) -> None:
    assert empty_code.hint() == f"Hint 1 of 2: {TOPICS['order.code'].nudge}"
    assert "needed start_code < end_code" in empty_code.hint()
    assert "needed start_code < end_code" in empty_code.hint()


def test_news_is_told_where_kernel_and_specification_disagree(empty_code: Problem) -> None:
    wrong = replace(empty_code._predicted, verdict="accepted")
    empty_code._predicted = wrong
    told = empty_code.answer("accepted")
    assert told.right is False
    assert "News: kernel and specification disagree (predicted accepted)" in told.message


# ---- a practice -------------------------------------------------------------------------------


def test_it_is_run_through_the_logbook_with_the_learners_prediction(own_logbook: Path) -> None:
    problems, verdicts = practice(seed=3), 0
    for _ in range(6):
        problem = problems.next()
        problem.answer("a")
        verdicts += problem.posed.question.kind == "verdict"
    records = list(LogFile(own_logbook).records())
    answers = read_history(history_beside(own_logbook))
    assert [a.record for a in answers] == [r.id for r in records]
    for answer, record in zip(answers, records, strict=True):
        if answer.kind == "verdict":
            assert (record.learner, record.outcome.verdict) == (answer.said, answer.truth)
            assert record.agreement.learner is answer.right
        else:
            assert record.learner == ""
    assert verdicts, "nothing was asked about a verdict"


def asked(seed: int, count: int) -> list[str]:
    """Return the next problems of a seed, each answered with "a"."""
    problems, found = practice(seed=seed), []
    for _ in range(count):
        problem = problems.next()
        found.append(problem.posed.identity)
        problem.answer("a")
    return found


def test_the_same_seed_and_history_give_the_same_problems(own_logbook: Path) -> None:
    first = asked(5, 8)
    kept = history_beside(own_logbook).read_bytes()
    history_beside(own_logbook).unlink()
    assert asked(5, 4) == first[:4]
    assert asked(5, 4) == first[4:], "a second session goes on where the first one ended"
    assert len({*first}) == 8
    told = [{k: v for k, v in json.loads(line).items() if k not in ("time", "record")}
            for line in kept.splitlines()]  # fmt: skip
    again = [{k: v for k, v in json.loads(line).items() if k not in ("time", "record")}
             for line in history_beside(own_logbook).read_bytes().splitlines()]  # fmt: skip
    assert told == again


def test_another_process_draws_the_same_problems() -> None:
    program = (
        "from prctlmm_lab.course import practice\n"
        "p = practice(seed=8, logbook=None)\n"
        "print(p.next().posed.identity)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    problems = practice(seed=8, logbook=None)
    assert done.stdout.decode().strip() == problems.next().posed.identity
    problems.stop()


def test_a_problem_that_is_passed_over_does_not_come_at_once_again() -> None:
    problems = practice(seed=2, logbook=None)
    seen = [problems.next().posed.identity for _ in range(5)]
    assert len({*seen}) == 5
    assert problems.score().asked == 0
    problems.stop()


def test_what_was_missed_comes_again_and_what_is_known_gets_rarer() -> None:
    missed, known = "limit.data", "cmdline"
    counts = Counter[str]()
    problems = practice(seed=1, logbook=None)
    problems.answers += [replace(ANSWER, topic=missed, right=False)] * 2
    problems.answers += [replace(ANSWER, topic=known)] * 3
    problems.answers += [ANSWER]
    for seed in range(400):
        counts[problems._draw(Die(seed)).topic] += 1
    assert counts[missed] > 12 * counts[known]
    assert eagerness(missed, problems.answers) == 8
    assert eagerness(known, problems.answers) == 1 / 8
    assert ANSWER.topic not in counts, "never the same topic twice in a row"


def test_a_problem_that_was_answered_is_not_drawn_again() -> None:
    problems = practice(seed=1, logbook=None)
    drawn = problems._draw(Die("again"))
    problems.answers.append(replace(ANSWER, topic="call.arg5", problem=identity_of(drawn)))
    assert problems._draw(Die("again")).identity != drawn.identity


def test_the_level_rises_with_right_answers_and_falls_with_wrong_ones() -> None:
    right, wrong = ANSWER, replace(ANSWER, right=False)
    assert [level_after([right] * n) for n in (0, 4, 5, 9, 10, 99)] == [1, 1, 2, 2, 3, 3]
    assert level_after([right] * 10 + [wrong]) == 2
    assert level_after([right] * 99 + [wrong] * 5) == 2
    assert level_after([wrong] * 9 + [right] * 5) == 2


def test_the_score_counts_this_session_and_all() -> None:
    asked(4, 5)
    problems = practice(seed=9)
    problems.next().answer("a")
    score = problems.score()
    assert (score.asked, score.remembered) == (1, 6)
    assert score.right <= score.remembered_right
    assert sum(total for _, total in score.by_topic.values()) == 6
    assert sum(right for right, _ in score.by_topic.values()) == score.remembered_right
    assert str(score).startswith(f"{score.right} of 1 right in this session, ")
    assert "<table>" in score._repr_html_()


def test_it_shows_its_present_problem_and_answers_it() -> None:
    problems = practice(seed=1, logbook=None)
    assert "Problem 1 (level 1 of 3, seed 1)" in repr(problems)
    assert "<svg" in problems._repr_html_()
    assert problems.hint().startswith("Hint 1 of 2: ")
    assert problems.answer("a") is problems.current.told  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", ["1", 1.5, True])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(InputError, match="is no whole number"):
        practice(seed=seed)  # type: ignore[arg-type]


def test_what_cannot_be_set_up_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    def grudging(posed: Posed, **options: object) -> Problem:
        if not refused:
            refused.append(posed.identity)
            raise InputError("setup", "the kernel refused it")
        return Problem(posed, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("prctlmm_lab.course.practising.Problem", grudging)
    problems = practice(seed=1, logbook=None)
    assert problems.next().posed.identity not in refused
    problems.stop()


# ---- the history ------------------------------------------------------------------------------


def test_it_is_kept_beside_the_logbook(own_logbook: Path) -> None:
    problems = practice(seed=1)
    problems.next().answer("a")
    kept = own_logbook.with_name("logbook.practice.jsonl")
    assert read_history(kept) == problems.answers
    assert kept.stat().st_mode & 0o777 == 0o600


def test_the_users_own_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRCTLMM_LAB_LOGBOOK")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    append_answer(tmp_path / "data" / "prctlmm-lab" / "logbook.practice.jsonl", ANSWER)
    problems = practice(seed=1)
    assert problems.answers == [ANSWER]


@pytest.mark.parametrize(
    "damage",
    [b'{"schema":"prctlmm-lab/practice/1","topic":"or', b"\0\0\0\0\n", b"[1]\n", b"no json\n",
     b'{"schema":"prctlmm-lab/record/3"}\n', b"{" * 70_000 + b"\n",
     b'{"schema":"prctlmm-lab/practice/1","topic":7}\n'],
    ids=["torn", "zeros", "a list", "text", "a record", "long", "another type"],
)  # fmt: skip
def test_a_damaged_line_is_reported_and_skipped(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "history.jsonl"
    append_answer(path, ANSWER)
    with open(path, "ab") as file:
        file.write(damage)
    append_answer(path, ANSWER)
    with pytest.warns(TornLineWarning, match=r"line 2 is no answer and was skipped"):
        assert read_history(path) == [ANSWER, ANSWER]


def test_a_history_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_history(tmp_path / "none.jsonl") == []


def test_a_history_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_history(tmp_path)


def test_where_nothing_can_be_kept_the_practice_goes_on(tmp_path: Path) -> None:
    problems = practice(seed=1, logbook=tmp_path / "missing" / "logbook.jsonl")
    told = problems.next().answer("a")
    assert "(Not kept for the next time: " in told.message
    assert problems.score().asked == 1


def test_two_who_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    program = (
        "import sys; from pathlib import Path\n"
        "from tests.course.test_practice import ANSWER, append_answer\n"
        "for _ in range(200): append_answer(Path(sys.argv[1]), ANSWER)"
    )
    command = [sys.executable, "-c", program, str(path)]
    root = Path(__file__).resolve().parents[2]
    both = [subprocess.Popen(command, cwd=root) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert read_history(path) == [ANSWER] * 400


RECORDED = """
from prctlmm_lab.course import practice
problems = practice(seed=3, logbook=None)
for _ in range(30):
    told = problems.next().answer("b")
    assert told.right is not None
    assert "predicted by the rules" in told.message or "recorded on Linux" in told.message, told
assert "live" not in {answer.origin for answer in problems.answers}
"""


def test_where_the_call_cannot_be_made_it_is_graded_by_prediction_and_says_so() -> None:
    elsewhere = dict(os.environ) | {"PRCTLMM_LAB_RECORDED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RECORDED], env=elsewhere, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
