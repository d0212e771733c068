"""`prctlmm-lab atlas run|table`: kernels asked the same, what they answer, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from prctlmm_lab.atlas.explained import differences
from prctlmm_lab.atlas.survey import atlas_folder, surveys, write_survey
from tests.command_line.command import assert_readable, prctlmm_lab
from tests.needs import needs_guest


def atlas(
    *arguments: str | Path, kernels: Path | None = None, own: Path = Path("/nowhere")
) -> CompletedProcess[str]:
    more = {"PRCTLMM_LAB_ATLAS": str(own)}
    more |= {"PRCTLMM_LAB_KERNELS": str(kernels)} if kernels else {}
    return prctlmm_lab("atlas", *arguments, more=more)


def refused(ran: CompletedProcess[str]) -> str:
    """Return the one sentence of a command that could not do it."""
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("prctlmm-lab")
    assert ran.stderr.count("\n") == 1
    return ran.stderr


@pytest.fixture
def some(tmp_path: Path) -> Path:
    """Give a folder with the surveys of two kernels, as root."""
    for release in ("6.1.192", "6.12.118"):
        (path,) = atlas_folder().glob(f"{release}-*-4-level-root.json")
        shutil.copy(path, tmp_path)
    return tmp_path


# ---- table ------------------------------------------------------------------------------------


def test_the_table_of_the_labs_own_atlas_is_readable_and_explained() -> None:
    ran = atlas("table")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert_readable(ran.stdout)
    for survey in surveys():
        assert f"\n{survey.target.name}  " in ran.stdout
    assert "UNEXPLAINED" not in ran.stdout
    assert "DISAGREEMENT" not in ran.stdout
    for turn in differences(surveys()):
        if turn.is_of_kind:
            assert f"\n{turn.newer.name} beside {turn.older.name}: " in ran.stdout
        else:
            assert f"\n{turn.kind} {turn.name}\n" in ran.stdout
            assert all(commit in ran.stdout for commit in turn.commits)


def test_the_table_as_json_is_one_document_with_every_difference(some: Path) -> None:
    ran = atlas("table", some, "--json")
    assert ran.returncode == 0
    told = json.loads(ran.stdout)
    assert [each["upstream"] for each in told["surveys"]] == ["6.1.192", "6.12.118"]
    assert told["surveys"][0]["disagreements"] == []
    label = next(d for d in told["differences"] if d["name"] == "questions/heap-touches")
    assert (label["older"], label["newer"]) == ("6.1.192", "6.12.118")
    assert label["commits"] == ["d3bb89ea9c13"]
    assert len(told["differences"]) == len(differences(surveys(some)))


def test_ones_own_surveys_come_before_the_labs(some: Path) -> None:
    assert atlas("table", own=some).stdout.split()[:3] == ["2", "surveys", "in"]
    assert "2 surveys in" not in atlas("table", own=some / "gone").stdout


def test_what_is_unexplained_comes_first_and_is_no_success(some: Path) -> None:
    _, newer = surveys(some)
    name, case = next((n, c) for n, c in newer.conformance.items() if c.kernel == "EINVAL")
    changed = {**newer.conformance, name: replace(case, kernel="accepted", expected="accepted")}
    write_survey(replace(newer, conformance=changed), some)
    ran = atlas("table", some)
    assert ran.returncode == 1
    first = ran.stdout.partition("Where kernels differ:\n")[2].splitlines()
    assert first[0] == f"case {name}"
    assert " ".join(first[1:3]).count("UNEXPLAINED") == 1


def test_a_disagreement_is_shown_and_is_no_success(some: Path) -> None:
    older, _ = surveys(some)
    name, case = next(iter(older.conformance.items()))
    failed = replace(case, result="fail", reasons=("because",))
    write_survey(replace(older, conformance={**older.conformance, name: failed}), some)
    ran = atlas("table", some)
    assert ran.returncode == 1
    assert f"DISAGREEMENT, 6.1.192 root: case {name}: because" in ran.stdout


def test_no_table_of_what_is_no_survey(some: Path, tmp_path: Path) -> None:
    assert "is no folder" in refused(atlas("table", some / "gone"))
    (empty := tmp_path / "empty").mkdir()
    assert "holds no survey; `prctlmm-lab atlas run` makes some" in refused(atlas("table", empty))
    torn = next(some.glob("*.json"))
    torn.write_text(torn.read_text()[:-100])
    assert f"{torn}: is torn: it is no whole JSON document" in refused(atlas("table", some))


# ---- run --------------------------------------------------------------------------------------


def test_what_cannot_be_run_is_one_sentence(tmp_path: Path) -> None:
    def told(*arguments: str | Path) -> str:
        return refused(atlas("run", *arguments, "--into", tmp_path / "new", kernels=tmp_path))

    assert "a RECIPE or more, --conformance, --claims, --fuzz or --effects" in told()
    assert "gone.toml: cannot be read: No such file" in told("gone.toml")
    assert "sweeps: holds no experiments" in told("sweeps")
    assert "no kernel is kept; `prctlmm-lab atlas fetch` gets some" in told("identity")
    assert "prctlmm-lab atlas fetch 5.10" in told("identity", "--kernel", "5.10")
    for option in ("--fuzz", "--effects", "--jobs", "--memory", "--seed"):
        assert "is not a whole number above 0" in told("identity", option, "0")
    assert "invalid choice: 'nobody'" in told("identity", "--who", "nobody")
    assert not (tmp_path / "new").exists()


def test_a_guest_that_does_not_fit_is_not_started(tmp_path: Path) -> None:
    image = needs_guest()
    arguments = ("run", "identity", "--kernel", image.path, "--into", tmp_path, "--memory", "100")
    assert "MiB of memory, and 100 may be taken" in refused(atlas(*arguments))
    assert [*tmp_path.iterdir()] == []


def test_a_torn_survey_is_not_written_over(some: Path) -> None:
    image = needs_guest()
    first = atlas("run", "identity", "--kernel", image.path, "--who", "user", "--into", some)
    assert first.returncode == 0, first.stderr
    (path,) = some.glob("*-user.json")
    path.write_text(torn := path.read_text()[:-5])
    again = atlas("run", "identity", "--kernel", image.path, "--who", "user", "--into", some)
    assert "is torn" in refused(again)
    assert path.read_text() == torn


def test_a_recipe_runs_on_a_kernel_once(tmp_path: Path) -> None:
    image = needs_guest()
    arguments = ("run", "identity", "--kernel", image.path, "--who", "user", "--into", tmp_path)
    ran = atlas(*arguments, "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["release"], told["who"], told["experiments"]) == (image.release, "user", 1)
    assert "user: identity: 1 experiments, 0 disagreements" in ran.stderr
    (survey,) = surveys(tmp_path)
    assert survey.recipes["identity/identity"].verdict == "accepted"
    assert survey.facts is not None
    assert survey.facts.release == image.release
    again = atlas(*arguments)
    assert (again.returncode, again.stderr) == (0, "")
    assert_readable(again.stdout)
    assert surveys(tmp_path) == (survey,)


@pytest.mark.parametrize("name", ["run", "table"])
def test_help_fits_a_terminal_and_has_an_example(name: str) -> None:
    ran = atlas(name, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert_readable(ran.stdout)
    assert f"Example: prctlmm-lab atlas {name}" in ran.stdout
