"""Surveys: made in parts that are kept, resumed, bounded and ended; files are read strictly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from prctlmm_lab.atlas import surveying
from prctlmm_lab.atlas.guest import MEMORY
from prctlmm_lab.atlas.images import Image
from prctlmm_lab.atlas.kernels import Kernel
from prctlmm_lab.atlas.survey import (
    SCHEMA,
    Calls,
    Case,
    Made,
    Ran,
    Settled,
    Survey,
    Target,
    Wrong,
    read_survey,
    survey_text,
    surveys,
    write_survey,
)
from prctlmm_lab.atlas.surveying import (
    BESIDE,
    Subject,
    Wanted,
    available_memory,
    guests_at_once,
    ran,
    survey_all,
)
from prctlmm_lab.errors import GuestError, InputError, UnsupportedSystem
from prctlmm_lab.experiments.claims import CLAIMS, settle_all
from prctlmm_lab.experiments.comparison import findings
from prctlmm_lab.experiments.conformance import cases, conformance
from prctlmm_lab.experiments.differential import Tally, fuzz
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.steps import Open
from prctlmm_lab.specimen.probe import facts_here

ALL_BOTH = ("root", "user")
HEAP = {"heap": shipped_recipes()["heap"]}


def image(release: str) -> Image:
    return Image(Path("/nowhere"), release, "", "", "x86_64")


SUBJECTS = [Subject(image("5.10.9")), Subject(image("6.1.9"))]


class Machine:
    """Stands for guests: each answers as the running kernel does, and what is asked is noted."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.alive, self.most = 0, 0
        self.lock = threading.Lock()
        self.trouble: Callable[[str, str], None] = lambda release, what: None

    def kernel(self, subject: Subject, cpus: int) -> MadeUp:
        return MadeUp(self, subject.image.release)

    def count(self, what: str) -> int:
        return sum(each[2] == what for each in self.asked)


class MadeUp:
    def __init__(self, machine: Machine, release: str) -> None:
        self.machine, self.release, self.is_warm = machine, release, False
        self._guest: Any = None

    def start(self) -> MadeUp:
        if not self.is_warm:
            with self.machine.lock:
                self.machine.alive += 1
                self.machine.most = max(self.machine.most, self.machine.alive)
            self.is_warm = True
            self._guest = subprocess.Popen(["sleep", "60"], start_new_session=True)
        return self

    def stop(self) -> None:
        if self.is_warm:
            with self.machine.lock:
                self.machine.alive -= 1
            self.is_warm = False
            self._guest.kill()
            self._guest.wait()

    def _note(self, who: str, what: str) -> None:
        assert self.is_warm
        self.machine.asked.append((self.release, who, what))
        self.machine.trouble(self.release, what)

    def facts(self, *, who: str) -> Any:
        self._note(who, "facts")
        return facts_here()

    def conformance(self, *, on_result: Callable[[Any], None], who: str) -> None:
        self._note(who, "conformance")
        for result in conformance(cases(["call.identity"])):
            on_result(result)

    def claims(self, *, who: str) -> Any:
        self._note(who, "claims")
        return settle_all(CLAIMS[1:2], facts_here())

    def run(self, experiment: Any, *, who: str) -> Any:
        self._note(who, experiment.id)
        return run(experiment)

    def fuzz(self, calls: int, *, effects: bool, who: str, **options: Any) -> Tally:
        self._note(who, "effects" if effects else "verdicts")
        if options["seed"] == WAITING:
            self._guest.wait()
            raise GuestError(self.release, "fuzz", "was ended")
        tally = Tally(self.release, options["seed"], calls=calls, watched=calls * effects)
        options["on_progress"](tally)
        return tally


WAITING = 7


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine()
    monkeypatch.setattr(surveying, "_kernel", made.kernel)
    yield made
    assert made.alive == 0
    assert not [each for each in threading.enumerate() if "_serve" in each.name]


# ---- made in parts that are kept --------------------------------------------------------------

EVERYTHING = Wanted(HEAP, conformance=True, claims=True, verdicts=1_500_000, effects=6000, seed=3)


def test_everything_is_asked_of_every_kernel_as_everybody(machine: Machine, tmp_path: Path) -> None:
    told: list[str] = []
    paths = survey_all(SUBJECTS, EVERYTHING, tmp_path, jobs=2,
                       report=lambda target, line: told.append(line))  # fmt: skip
    assert sorted(paths) == sorted(tmp_path.iterdir())
    found = surveys(tmp_path)
    assert [(s.target.upstream, s.target.who) for s in found] == [
        (release, who) for release in ("5.10.9", "6.1.9") for who in ALL_BOTH
    ]
    for survey in found:
        assert survey.facts == facts_here()
        assert survey.results["pass"] == len(survey.conformance) == 1
        assert [*survey.claims] == [CLAIMS[1].id]
        assert [*survey.recipes] == [f"heap/{each.id}" for each in HEAP["heap"].experiments]
        assert sum(part.calls for part in survey.verdicts) == 1_500_000
        assert survey.watched == 6000
        assert (survey.disagreements, survey.failures) == ((), {})
        # No slice repeats another one.
        parts = (*survey.verdicts, *survey.effects)
        assert len({part.slice for part in parts}) == len(parts) == 5
    assert any("heap: 4 experiments, 0 disagreements" in line for line in told)


def test_every_kernel_takes_a_step_before_any_takes_the_next(
    machine: Machine, tmp_path: Path
) -> None:
    survey_all(SUBJECTS, replace(EVERYTHING, effects=9000), tmp_path, jobs=1)
    order = [release for release, who, what in machine.asked if what == "effects"]
    assert order == ["5.10.9"] * 4 + ["6.1.9"] * 4 + ["5.10.9"] * 4 + ["6.1.9"] * 4


def test_what_is_there_is_not_asked_again(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = replace(EVERYTHING, conformance=False, effects=2500)
    survey_all(SUBJECTS, some, tmp_path)
    machine.asked.clear()
    survey_all(SUBJECTS, EVERYTHING, tmp_path)
    assert Counter(what for _, _, what in machine.asked) == {"conformance": 4, "effects": 8}
    machine.asked.clear()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    survey_all(SUBJECTS, EVERYTHING, tmp_path)
    assert machine.asked == []
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    # Another specification, or another question, is another answer.
    monkeypatch.setattr(surveying, "fingerprint", lambda facts: "another one")
    survey_all(SUBJECTS[:1], Wanted(conformance=True), tmp_path)
    assert machine.count("conformance") == 2


def test_a_changed_recipe_is_run_again_and_the_others_are_not(
    machine: Machine, tmp_path: Path
) -> None:
    recipes = shipped_recipes()
    both = {name: recipes[name] for name in ("heap", "stack")}
    survey_all(SUBJECTS[:1], Wanted(both), tmp_path)
    machine.asked.clear()
    first, *rest = recipes["stack"].experiments
    changed = replace(recipes["stack"], experiments=(replace(first, change={"brk": "brk"}), *rest))
    survey_all(SUBJECTS[:1], Wanted({**both, "stack": changed}), tmp_path)
    assert {what for _, _, what in machine.asked} == {each.id for each in changed.experiments}
    (root, _) = surveys(tmp_path)
    assert len(root.recipes) == len(both["heap"].experiments) + len(changed.experiments)


def test_a_guest_that_crashes_is_noted_and_the_others_go_on(
    machine: Machine, tmp_path: Path
) -> None:
    def crash(release: str, what: str) -> None:
        if (release, what) == ("5.10.9", "conformance"):
            raise GuestError(release, what, "crashed", "Kernel panic")

    machine.trouble = crash
    survey_all(SUBJECTS, EVERYTHING, tmp_path)
    for survey in surveys(tmp_path):
        broken = survey.target.upstream == "5.10.9"
        assert ("conformance" in survey.failures) == broken
        assert bool(survey.conformance) != broken
        assert survey.watched == 6000  # in another guest
        if broken:
            assert "Kernel panic" in survey.failures["conformance"]
    # Once it works, nothing is said of it any more.
    machine.trouble = lambda release, what: None
    survey_all(SUBJECTS, EVERYTHING, tmp_path)
    assert not any(survey.failures for survey in surveys(tmp_path))


def test_a_mistake_of_ours_ends_it_and_is_told(machine: Machine, tmp_path: Path) -> None:
    def mistake(release: str, what: str) -> None:
        if what == "conformance":
            raise ZeroDivisionError

    machine.trouble = mistake
    with pytest.raises(ZeroDivisionError):
        survey_all(SUBJECTS, EVERYTHING, tmp_path)


def test_an_interrupt_leaves_no_process_and_no_half_file(machine: Machine, tmp_path: Path) -> None:
    def interrupt(release: str, what: str) -> None:
        if what == "effects":
            threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()

    machine.trouble = interrupt
    wanted = Wanted(HEAP, effects=100, seed=WAITING)
    with pytest.raises(KeyboardInterrupt):
        survey_all(SUBJECTS[:1], wanted, tmp_path, jobs=1)
    # What was done is there, what was under way is not, and nothing says that it failed.
    for survey in surveys(tmp_path):
        assert len(survey.recipes) == 4
        assert (survey.effects, survey.failures) == ((), {})
    assert all(path.suffix == ".json" for path in tmp_path.iterdir())


# ---- how many at a time -----------------------------------------------------------------------


def test_no_more_guests_than_fit(machine: Machine, tmp_path: Path) -> None:
    subjects = [Subject(image(f"6.{number}.1")) for number in range(6)]
    one = MEMORY + BESIDE
    survey_all(subjects, Wanted(HEAP), tmp_path, jobs=6, memory=2 * one + one // 2)
    assert machine.most == 2
    assert guests_at_once(1, 1 << 20) == 1
    assert guests_at_once(None, 1 << 20) == len(os.sched_getaffinity(0))
    assert 0 < available_memory() < 1 << 40
    with pytest.raises(UnsupportedSystem, match=f"{one} MiB of memory, and {one - 1} may be taken"):
        survey_all(subjects, Wanted(HEAP), tmp_path, memory=one - 1)


def test_one_kernel_is_asked_by_one_guest_at_a_time(machine: Machine, tmp_path: Path) -> None:
    survey_all(SUBJECTS[:1], EVERYTHING, tmp_path, jobs=4, memory=1 << 20)
    assert machine.most == 1


# ---- what is kept of an answer ----------------------------------------------------------------


def test_what_is_kept_of_an_experiment_is_what_a_record_tells() -> None:
    experiment = HEAP["heap"].experiments[0]
    kept, vector = ran(Kernel.here(), experiment)
    told = findings(run(experiment))
    assert (kept.verdict, kept.rule, kept.end) == (told.verdict, told.rule, told.end)
    assert {name for name, _ in kept.effects} == {name.text for name, _ in told.effects}
    assert kept.effects
    assert {*vector} == told.vector


def test_an_experiment_that_cannot_be_made_says_why() -> None:
    impossible = Experiment("impossible", setup=(Open("gone", "/nowhere"),))
    assert "ENOENT" in ran(Kernel.here(), impossible)[0].refused


def test_slices_together_are_everywhere() -> None:
    parts = replace(EVERYTHING, effects=20_000).slices("effects")
    assert sum(part.wanted for part in parts) == 20_000
    assert len({part.seed for part in parts}) == len(parts) == 8
    limits = Counter[str]()
    for part in parts:
        limits += fuzz(10, seed=part.seed, first=part.first % 128, effects=True).by_limit
    assert len(limits) > 3


# ---- the file ---------------------------------------------------------------------------------

TARGET = Target("6.1.0-56-cloud-amd64", "6.1.192", "x86_64", 5, "user")
MADE = Made("0.1.0", "0123456789ab", "ba9876543210", "2026-11-25T12:00:00+00:00", 1.5)
WRONG = Wrong("as we are", "unset", "accepted", "EINVAL", 'schema = "é\n"')
SURVEY = Survey(
    TARGET,
    replace(facts_here(), highest=(1 << 56) - 4097, assumed=("lowest",)),
    {"facts": MADE},
    {
        "order/a": Case("pass", "EINVAL", "EINVAL by order.code"),
        "b/c": Case("skip", reasons=("x",)),
    },
    {"brk.moves": Settled("holds", "", "brk = 0x1")},
    {"heap/a": Ran("key", "accepted", effects=(("exe", "a\udcff"),), exact={"exe": ("b",)})},
    ("AT_NULL", "AT_UID"),
    (Calls(1, 0, 10, 11, by_limit={"0": 3}, made=MADE),),
    (
        Calls(
            2, 16, 10, 11, 10, 3, 1, True, {"a": 1}, {"b": 2}, {}, {}, {"c": "no"}, (WRONG,), MADE
        ),
    ),
    {"claims": "crashed"},
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_survey(SURVEY, tmp_path)
    assert read_survey(path) == SURVEY
    assert surveys(tmp_path) == (SURVEY,)
    assert [*tmp_path.iterdir()] == [path]
    data = json.loads(path.read_bytes())
    assert data["schema"] == SCHEMA
    assert data["facts"]["highest"] == "0xffffffffffefff"  # more than JavaScript's numbers hold
    assert SURVEY.disagreements == ("effects, seed 2: 1 calls",)


def test_each_field_of_a_survey_is_read_back(tmp_path: Path) -> None:
    """Whatever is lost on the way is found by changing it."""
    for each in fields(Survey):
        if each.name not in ("target", "facts"):
            emptied = replace(SURVEY, **{each.name: type(getattr(SURVEY, each.name))()})
            assert read_survey(write_survey(emptied, tmp_path)) == emptied != SURVEY


@pytest.mark.parametrize("kept", [0, 1, 200, -2])
def test_a_torn_file_is_refused_in_one_sentence(tmp_path: Path, kept: int) -> None:
    path = write_survey(SURVEY, tmp_path)
    path.write_text(survey_text(SURVEY)[:kept].rstrip("\n}"))
    with pytest.raises(InputError, match="is torn: it is no whole JSON document"):
        surveys(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda d: d.update(schema="prctlmm-lab/survey/9"),
            'expected the schema "prctlmm-lab/surv',
        ),
        (lambda d: d.update(more={}), ": more: does not belong there; expected one of target, "),
        (lambda d: d["target"].update(levels="5"), "target: levels: does not belong there; expe"),
        (lambda d: d["target"].pop("who"), ": target: lacks who"),
        (lambda d: d["target"].update(who="root"), "is the survey of another kernel or caller"),
        (lambda d: d["facts"].update(highest=5), "facts: highest: does not belong there; expected"),
        (lambda d: d["claims"].update(x=[]), "claims: x: does not belong there; expected an objec"),
        (lambda d: d["verdicts"].append(3), r"verdicts\[1\]: does not belong there; expected an o"),
        (lambda d: d["recipes"]["heap/a"]["effects"].append(["a"]), r"effects\[1\]: does not belo"),
        (lambda d: d["made"]["facts"].update(seconds=True), "seconds: does not belong there; expe"),
    ],
)
def test_what_is_made_up_is_refused_with_its_place(
    tmp_path: Path, change: Callable[[Any], None], told: str
) -> None:
    path = write_survey(SURVEY, tmp_path)
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=told) as caught:
        read_survey(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = write_survey(SURVEY, tmp_path)
    with pytest.raises(TypeError):
        write_survey(replace(SURVEY, failures={"a": b"not text"}), tmp_path)  # type: ignore[dict-item]
    assert [*tmp_path.iterdir()] == [path]
    assert read_survey(path) == SURVEY
    with pytest.raises(InputError, match="cannot be written: No such file"):
        write_survey(SURVEY, tmp_path / "gone")
    with pytest.raises(InputError, match="is no folder"):
        surveys(tmp_path / "gone")
