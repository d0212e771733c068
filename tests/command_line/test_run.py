"""`prctlmm-lab run`: records for people and for programs, logbooks, pictures."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from prctlmm_lab import Logbook
from prctlmm_lab.cli import main
from prctlmm_lab.errors import SystemCallError
from prctlmm_lab.experiments.experiment import run
from prctlmm_lab.experiments.recipe import read_recipe
from prctlmm_lab.experiments.record import RECORD_SCHEMA, plain, to_json
from prctlmm_lab.experiments.schema import check_line
from prctlmm_lab.specimen.process import Specimen
from tests.command_line.command import FILES, RECIPES, assert_readable, prctlmm_lab, recipe
from tests.needs import skip_unless


# In this process, which is quicker; but matplotlib, which keeps its fonts open, in one of its own.
def ran(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> str:
    assert main(["run", *map(str, arguments)]) == status
    told = capsys.readouterr()
    assert told.err == ""
    return told.out


# ---- for people --------------------------------------------------------------------------------


def test_a_record_is_shown_with_what_changed() -> None:
    told = prctlmm_lab("run", RECIPES / "command-line.toml", "--only", "own-memory")
    assert (told.returncode, told.stderr) == (0, "")
    assert re.fullmatch(
        r"own-memory: predicted accepted, kernel accepted\n"
        r"  stat arg_start: 0x7\w+ -> 0x7\w+000\n"
        r"  stat arg_end: 0x7\w+ -> 0x7\w+01c\n"
        r"  cmdline: 'specimen\\x00' -> 'a-new-name\\x00--with\\x00arguments\\x00'\n",
        told.stdout,
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_record_is_readable(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ran(capsys, path)
    assert_readable(told)
    heads = [line for line in told.splitlines() if not line.startswith(" ")]
    ids = [experiment.id for experiment in read_recipe(path).experiments]
    assert [head.partition(":")[0] for head in heads[: len(ids)]] == ids
    if len(ids) > 1:
        assert heads[-1] == f"{len(ids)} experiments: {len(ids)} as predicted"
        heads.pop()
    assert len(heads) == len(ids)


def test_a_refusal_is_shown_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    told = ran(capsys, RECIPES / "refusals.toml", "--only", "call.size")
    assert told == (
        "call.size: predicted EINVAL by call.size, kernel EINVAL\n"
        "  because size = 0x67, needed 0x68\n"
    )


def test_the_steps_after_the_call_are_shown_with_what_they_changed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = ran(capsys, RECIPES / "heap.toml", "--only", "heap-down")
    assert "\n  after[0] brk: 0x201000\n" in told
    assert "\n  then brk(): 0x200000 -> 0x201000\n" in told
    assert told.index("after[0]") < told.index("then brk()")


def test_a_step_that_was_refused_or_has_no_number_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = '{ unmap = 1 }, { limit = "DATA", soft = 4096 }'
    told = ran(capsys, recipe(tmp_path, f'id = "x"\nafter = [{steps}]'))
    assert "  after[0] unmap: munmap(0x1, 0x1000) = EINVAL (Invalid argument)\n" in told
    assert "  after[1] limit: done\n" in told


def test_a_vector_that_is_another_as_a_whole_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = ran(capsys, RECIPES / "auxv.toml")
    first, second = re.findall(r"^  auxv.*$", told, re.MULTILINE)
    with Specimen() as specimen:
        count = len(specimen.snapshot().aux_entries) - 1
    assert first == f"  auxv: {count} entries -> 2 (AT_PAGESZ=0x2000 AT_UID=0x1092)"
    assert second == f"  auxv: {count} entries -> 0 (none)"
    kept = json.loads(ran(capsys, RECIPES / "auxv.toml", "--only", "auxv-replaced", "--json"))
    assert len([row for row in kept["difference"] if row[0] == "auxv"]) == count


def test_a_vector_with_one_other_entry_is_shown_by_that_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        with Specimen(randomize=False) as specimen:
            entries = [(e.name, e.value) for e in specimen.snapshot().aux_entries]
    except SystemCallError as error:
        skip_unless(False, f"ASLR cannot be switched off: {error}", impossible=True)
    listed = [f'["{name}", {0x2000 if name == "AT_PAGESZ" else value}]' for name, value in entries]
    path = recipe(
        tmp_path,
        'id = "x"\nspecimen.randomize = false\n'
        'setup = [{ map = "a" }, { write = "a.start", auxv = [' + ",".join(listed) + "] }]\n"
        f'change.auxv = "a.start"\nchange.auxv_size = {16 * len(listed)}',
    )
    told = ran(capsys, path)
    assert re.findall(r"^  auxv.*$", told, re.MULTILINE) == ["  auxv AT_PAGESZ: 0x1000 -> 0x2000"]


def test_what_a_process_wrote_cannot_act_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\\u001b]0;owned\\u0007\\u001b[2J\\r\\n\\u009b31m\\u202e"
    path = recipe(
        tmp_path,
        f'id = "x"\nspecimen.arguments = ["{hostile}"]\n'
        f'specimen.environment = ["A={hostile}"]\n'
        f'setup = [{{ map = "a" }}, {{ write = "a.start", text = "{hostile}" }}]\n'
        'change.arg_start = "a.start"\nchange.arg_end = "a.start + 8"\n'
        'change.env_end = "env_start + 3"',
    )
    told = ran(capsys, path)
    assert_readable(told)
    assert r"'\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202e\x00' -> '\x1b]0;owne'" in told
    line = ran(capsys, path, "--json")
    assert line.strip().isprintable()
    assert line.isascii()


def test_a_long_command_line_is_cut_for_people_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(
        tmp_path, f'id = "x"\nspecimen.arguments = ["{"a" * 5000}"]\nchange.arg_end = "arg_start"'
    )
    told = ran(capsys, path)
    assert len(told) < 700
    assert "characters; --json has them all) -> ''" in re.sub(r"\s+", " ", told)
    assert "a" * 5000 in ran(capsys, path, "--json")


@pytest.mark.parametrize(("prediction", "judged"), [("EINVAL", "right"), ("EPERM", "wrong")])
def test_a_written_down_prediction_is_judged_and_is_no_disagreement(
    prediction: str, judged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, f'id = "x"\npredict = "{prediction}"\ncall.arg5 = 1')
    told = ran(capsys, path)
    assert f"  the prediction written down was {prediction}: {judged}\n" in told


def test_a_recipe_that_aims_elsewhere_is_a_disagreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, 'id = "x"\nrule = "call.size"\ncall.arg5 = 1')
    told = ran(capsys, path, status=1)
    assert "  DISAGREES rule: the recipe aims at call.size, call.arg5 decides\n" in told


def test_what_cannot_be_set_up_is_said_and_the_rest_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(
        tmp_path,
        'id = "one"',
        'id = "two"\nsetup = [{ open = "f", path = "/none/at/all" }]',
        'id = "three"\nrule = "call.size"\ncall.arg5 = 1',
    )
    assert main(["run", str(path)]) == 1, "a disagreement is the graver"
    told = capsys.readouterr()
    assert told.out.endswith("3 experiments: 1 as predicted, 1 not, 1 cannot be set up here\n")
    assert told.err.startswith('prctlmm-lab: experiment "two": setup[0]: the kernel refused ')
    assert main(["run", str(path), "--only", "two"]) == 2
    assert capsys.readouterr().out == ""
    assert main(["run", str(path), "--json"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["experiment"]["id"] for line in lines] == ["one", "three"]


def test_a_specimen_that_ends_after_the_call_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, 'id = "x"\nafter = [{ unmap = "page_down(start_code)" }]')
    flowing = re.sub(r"\s+", " ", ran(capsys, path))
    assert re.fullmatch(
        r"x: predicted accepted, kernel accepted \(specimen \d+ was killed by SIGSEGV at "
        r'munmap\(0x[0-9a-f]+, 0x1000\) in experiment "x": after\[0\]\) ',
        flowing,
    )


# ---- for programs ------------------------------------------------------------------------------


def test_json_is_one_record_a_line_and_nothing_else() -> None:
    told = prctlmm_lab("run", "--json", RECIPES / "refusals.toml")
    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.encode().splitlines()
    records = [check_line(line, RECORD_SCHEMA, "") for line in lines]
    experiments = read_recipe(RECIPES / "refusals.toml").experiments
    assert [r.experiment["id"] for r in records] == [e.id for e in experiments]
    assert told.stdout.isascii()


def test_the_command_and_the_api_give_the_same_record(tmp_path: Path) -> None:
    """Without randomisation even the addresses are the same."""
    text = (RECIPES / "command-line.toml").read_text()
    path = tmp_path / "fixed.toml"
    path.write_text(text.replace("\nid =", "\nspecimen.randomize = false\nid ="))
    told = prctlmm_lab("run", "--json", path)
    skip_unless(
        "personality" not in told.stderr, f"ASLR cannot be switched off: {told.stderr}",
        impossible=True,
    )  # fmt: skip
    records = [json.loads(line) for line in told.stdout.splitlines()]
    ours = [json.loads(to_json(run(e))) for e in read_recipe(path).experiments]
    for theirs, own in zip(records, ours, strict=True):
        for name in ("id", "time"):
            assert theirs.pop(name) != own.pop(name)
        # AT_RANDOM's bytes lie at the same address, the vDSO may not.
        for part in ("before", "after"):
            for view in (theirs[part], own[part]):
                for place in ("auxv", "maps"):
                    view.pop(place, None)
        assert theirs == own


# ---- logbooks ----------------------------------------------------------------------------------


def test_a_log_holds_what_was_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    lines = ran(capsys, RECIPES / "stack.toml", "--json", "--log", log).splitlines()
    assert [plain(entry) for entry in Logbook(log).records()] == [json.loads(x) for x in lines]
    assert len(log.read_text().splitlines()) == 2 * len(lines)
    ran(capsys, RECIPES / "identity.toml", "--log", log)
    assert len(list(Logbook(log).records())) == len(lines) + 1


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("/dev/full", "No space left on device"),
        ("/none/log.jsonl", "No such file or directory"),
        ("/", "Is a directory"),
    ],
)
def test_a_log_that_cannot_be_written_stops_everything_before_the_call(
    log: str, reason: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", str(RECIPES / "identity.toml")]) == 0  # the facts are known from here on
    capsys.readouterr()

    def refuse(*_arguments: object, **_options: object) -> int:
        raise AssertionError("the call was made")

    monkeypatch.setattr(Specimen, "set_map", refuse)
    assert main(["run", str(RECIPES / "heap.toml"), "--log", log]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"prctlmm-lab: {log}: cannot be written: {reason}\n")


# ---- pictures ----------------------------------------------------------------------------------


def test_a_picture_shows_the_specimen_of_the_record(tmp_path: Path) -> None:
    picture = tmp_path / "moved.svg"
    told = prctlmm_lab("run", RECIPES / "picture.toml", "--picture", picture, "--json")
    assert told.returncode == 0, told.stderr
    assert told.stderr == f"prctlmm-lab: {picture} written\n"
    record = json.loads(told.stdout)
    root = ElementTree.parse(picture).getroot()
    assert root.tag.endswith("svg")
    drawn = picture.read_text()
    for name in ("arg_start", "start_brk"):
        assert name in drawn
    start, _ = record["before"]["regions"]["arena"]
    assert f"{int(start, 16):x}" in drawn.replace("_", "").replace(" ", "").replace("'", "")


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF")])
def test_the_ending_decides_the_kind(name: str, magic: bytes, tmp_path: Path) -> None:
    told = prctlmm_lab("run", RECIPES / "identity.toml", "--picture", tmp_path / name)
    assert told.returncode == 0, told.stderr
    assert (tmp_path / name).read_bytes().startswith(magic)


@pytest.mark.parametrize(
    ("recipe_name", "picture", "sentence"),
    [
        (
            "identity",
            "a.txt",
            "--picture: a.txt has no ending of a picture; expected .pdf, .png, .svg",
        ),
        (
            "identity",
            "a\x1b[31m",
            r"--picture: a\x1b[31m has no ending of a picture; expected .pdf, .png, .svg",
        ),
        (
            "identity",
            "none/a.svg",
            "--picture: none/a.svg has no folder to go to; expected one that is there",
        ),
        (
            "exe",
            "a.svg",
            "--picture: shows one experiment; choose it with --only; "
            "expected exe-changed, exe-refused-while-mapped",
        ),
    ],
)
def test_a_picture_that_cannot_be_is_refused_before_the_call(
    recipe_name: str,
    picture: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = RECIPES / f"{recipe_name}.toml"
    assert main(["run", str(path), "--picture", picture, "--log", "log"]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"prctlmm-lab: {sentence}\n")
    assert os.listdir(tmp_path) == []


def test_a_picture_that_cannot_be_written_loses_no_record(tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    picture.mkdir()
    told = prctlmm_lab("run", RECIPES / "identity.toml", "--picture", picture)
    assert told.returncode == 2
    assert told.stdout == "identity: predicted accepted, kernel accepted\n"
    assert told.stderr == f"prctlmm-lab: {picture}: cannot be written: Is a directory\n"
