"""What comes from outside is held against the schema: ours passes, anything else is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Experiment, run
from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.recipe import experiment_from, shipped_recipes
from prctlmm_lab.experiments.record import (
    RECORD_SCHEMA,
    Record,
    from_in_text_form,
    interrupted,
    recorded_bytes,
    to_json,
)
from prctlmm_lab.experiments.schema import check_line, json_schema

TOP = Path(__file__).resolve().parents[2]
OLDER = Path(__file__).parent / "older" / "records-1.jsonl"
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
RECORD = run(Experiment("moves", change={"end_code": "end_code + page"}, predict="EINVAL"))
LINE: dict[str, Any] = json.loads(to_json(RECORD))


def problems(line: object) -> list[str]:
    return [f"{list(e.absolute_path)}: {e.message}" for e in VALIDATOR.iter_errors(line)]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_record_of_the_shipped_recipes_is_valid() -> None:
    for recipe in shipped_recipes().values():
        for experiment in recipe.experiments:
            record = run(experiment)
            for line in (record, interrupted(record)):
                assert problems(json.loads(to_json(line))) == []


@pytest.mark.parametrize(
    "path", sorted((TOP / "data").rglob("linux-*.jsonl")), ids=lambda path: path.stem
)
def test_every_record_in_data_is_valid(path: Path) -> None:
    lines = path.read_text("ascii").splitlines()
    assert lines
    assert [problem for line in lines for problem in problems(json.loads(line))] == []
    assert len(list(LogFile(path).records())) == len(lines)


WRONG: list[tuple[str, object, str]] = [
    ("id", "../../etc", "id: '../../etc' does not belong there: string should match pattern "
     "'^[0-9a-f]{32}$'"),
    ("time", "yesterday", "time: 'yesterday' does not belong there: string should match"),
    ("map.brk", "brk", "map.brk: 'brk' does not belong there: string should match"),
    ("map.brk", 4096, "map.brk: 0x1000 does not belong there: input should be a valid string"),
    ("before.stat.arg_start", "0x" + "1" * 17, "before.stat"),
    ("outcome.errno", "0", "outcome.errno: '0' does not belong there: input should be a valid "
     "integer"),
    ("outcome.verdict", None, "outcome.verdict: None does not belong there: input should be a "
     "valid string"),
    ("facts.lowest", 1.5, "facts.lowest: 1.5 does not belong there: input should be a valid "
     "integer"),
    ("facts.lowest", "lots", "facts"),
    ("facts.available", 1, "facts.available: 0x1 does not belong there: input should be a valid "
     "boolean"),
    ("difference", [["cmdline", "", "a"]], "difference.0.3: does not belong there: field required"),
    ("surprise", "<script>", "surprise: '<script>' does not belong there: unexpected keyword"),
    ("origin", "recorded on a Mac", "origin: 'recorded on a Mac' does not belong there"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "sentence"), WRONG)
def test_what_does_not_belong_is_told_with_its_place(
    place: str, value: object, sentence: str
) -> None:
    line = json.loads(to_json(RECORD))
    *parts, last = place.split(".")
    table = line
    for part in parts:
        table = table[part]
    table[last] = value
    with pytest.raises(InputError) as refused:
        check_line(json.dumps(line).encode(), RECORD_SCHEMA, "log: line 3")
    assert str(refused.value).startswith(f"log: line 3: {sentence}")
    assert problems(line), "the printed schema says the same"


@pytest.mark.parametrize("name", sorted(LINE))
def test_what_is_missing_is_told(name: str) -> None:
    line = {key: value for key, value in LINE.items() if key != name}
    required = SCHEMA["$defs"]["Record"]["required"]
    if name in required and name != "schema":
        with pytest.raises(InputError, match=f"^here: {name}: does not belong there: field requir"):
            check_line(json.dumps(line).encode(), RECORD_SCHEMA, "here")
    assert bool(problems(line)) == (name in required)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(st.sampled_from(sorted(LINE.keys() - {"schema"})), JSON)
def test_whatever_stands_in_a_line_it_is_read_or_told(name: str, value: object) -> None:
    """No other error, and the two judges agree on all but numbers that are whole in JSON alone."""
    line = json.dumps(LINE | {name: value}).encode()
    try:
        check_line(line, RECORD_SCHEMA, "here")
        told = ""
    except InputError as error:
        told = str(error)
    assert len(told) < 400
    assert told or problems(json.loads(line)) == []


# ---- older schemas -----------------------------------------------------------------------------


def test_records_of_schema_1_are_read_as_the_newest() -> None:
    old = [json.loads(line) for line in OLDER.read_text().splitlines()]
    moved, refused = LogFile(OLDER).records()
    told = [line for line in old if "outcome" in line]
    for record, line in zip((moved, refused), told, strict=True):
        assert isinstance(record, Record)
        assert record.schema == RECORD_SCHEMA
        assert (record.id, record.outcome.verdict) == (line["id"], line["outcome"]["verdict"])
        assert record.facts.highest == line["facts"]["highest"]
        assert problems(json.loads(to_json(record))) == []
        assert record.before.auxv == tuple(map("=".join, line["before"]["auxv"]))
    experiment = experiment_from(from_in_text_form(moved.experiment))
    assert experiment == experiment_from(told[0]["experiment"])
    assert experiment.specimen.arguments == ("a\udcff", "back\\slash")
    assert moved.view_after
    assert recorded_bytes(moved.view_after.environ or "") == b"\xc3(\0\\x"


def test_a_damaged_line_of_schema_1_is_told() -> None:
    line = OLDER.read_bytes().splitlines()[1]
    for damaged in (line.replace(b'"auxv":[[', b'"auxv":[['[:-1]), line.replace(b":{", b":7,{")):
        with pytest.raises(InputError):
            check_line(damaged, "prctlmm-lab/record/1", "here")
