"""The schema of what comes from outside: lines of a logbook, checked before they are believed.

The dataclasses of `record.py` say what a record is. Here pydantic holds a line against them, and
prints them as JSON schema. It is strict: no unknown key, no number where a text must stand, no
address that is not hex. Lines of older schemas are read as the newest.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments import record
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.experiments.record import (
    HEX,
    IN_HEX,
    OLDER_SCHEMAS,
    RECORD_SCHEMA,
    REQUEST_SCHEMA,
    Record,
    Request,
    in_text_form,
)
from prctlmm_lab.kernel.facts import Facts

DIALECT = "https://json-schema.org/draft/2020-12/schema"

for _kind in (Request, Record, record.View, record.Privilege, Facts, record.Prediction,
              record.Outcome, record.Answer, record.Agreement):  # fmt: skip
    setattr(_kind, "__pydantic_config__", ConfigDict(extra="forbid", strict=True))  # noqa: B010


@cache
def _reader(kind: type[Request]) -> TypeAdapter[Request]:
    return TypeAdapter(kind)


_KINDS = {REQUEST_SCHEMA: Request, RECORD_SCHEMA: Record}


def check_line(line: bytes, schema: str, where: str) -> Request:
    """Return the request or record that a line holds; `schema` is what it says of itself.

    Raises InputError with the place in the line that is wrong, what stands there and what should;
    `where` names the line.
    """
    newest = OLDER_SCHEMAS.get(schema, schema)
    try:
        text = line if newest == schema else _as_newest(line, newest)
        return _reader(_KINDS[newest]).validate_json(text)
    except ValidationError as error:
        raise _complaint(error, where) from None
    except (ValueError, RecursionError, TypeError, AttributeError):
        raise InputError(where, f"is no line of the schema {schema}") from None


def _as_newest(line: bytes, newest: str) -> bytes:
    """Rewrite a line of schema 1; what did not change is checked as it is."""
    old = json.loads(line)
    old["schema"] = newest
    old["experiment"] = in_text_form(old["experiment"])
    for name in ("before", "after", "prediction", "difference", "later", "agreement"):
        if name in old:
            old[name] = in_text_form(old[name])
        if isinstance(view := old.get(name), dict) and isinstance(view.get("auxv"), list):
            view["auxv"] = [f"{kind}={value}" for kind, value in view["auxv"]]
    return json.dumps(old).encode()


def _complaint(error: ValidationError, where: str) -> InputError:
    """Say the first thing that is wrong, in one sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return InputError(where, "is not a JSON object")
    place = ".".join(map(str, first["loc"]))
    shown = "" if first["type"] == "missing" else shorten(first["input"])
    problem = first["msg"][:1].lower() + first["msg"][1:]
    return InputError(f"{where}: {place}", f"does not belong there: {problem}", shown)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a line: a request or a record of the newest schema.

    The command line's equivalent is `prctlmm-lab schema`.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(Request | Record)
    definitions = adapter.json_schema()["$defs"]
    for name, wanted in (("Request", REQUEST_SCHEMA), ("Record", RECORD_SCHEMA)):
        definitions[name]["properties"]["schema"] = {"const": wanted}
        definitions[name]["required"] = ["schema", *definitions[name]["required"]]
    for name in IN_HEX:
        definitions["Facts"]["properties"][name] = {"type": "string", "pattern": HEX}
    return {
        "$schema": DIALECT,
        "title": "A line of a prctlmm_lab logbook",
        "oneOf": [{"$ref": "#/$defs/Request"}, {"$ref": "#/$defs/Record"}],
        "$defs": definitions,
    }
