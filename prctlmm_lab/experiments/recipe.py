"""Recipes: experiments and sweeps in a TOML file, read strictly and written back.

A recipe is data. Its values are numbers and formulas (`prctlmm_lab.experiments.formula`); nothing
of it is evaluated as code. What is wrong is said in one sentence, with the place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.axes import Axis, Sweep
from prctlmm_lab.experiments.experiment import Call, Experiment, Subject
from prctlmm_lab.experiments.formula import printable, shorten, suggestion
from prctlmm_lab.experiments.record import experiment_data
from prctlmm_lab.experiments.steps import STEPS, Step
from prctlmm_lab.kernel.abi import MEMBER, unknown_member
from prctlmm_lab.kernel.syscalls import X86_64

SCHEMA = "prctlmm-lab/recipe/1"
LARGEST = 1 << 20
"""Bytes of the largest recipe."""
T = TypeVar("T", Experiment, Sweep)
MOST = 1000
"""Experiments in one recipe, and entries in any list of it."""
AXIS_KEYS = {"first": "from", "last": "to"}
"""What the ends of an axis are called in a recipe."""
# tomllib needs time that grows with the square of a dotted key's length.
_DEEP_KEY = re.compile(r"""(?:\.[ \t]*(?:"[^"\n]*+"|'[^'\n]*+'|[\w-]*+)[ \t]*){100}""")


@dataclass(frozen=True)
class Recipe:
    """Experiments and sweeps that belong together, under a title."""

    title: str
    experiments: tuple[Experiment, ...] = ()
    sweeps: tuple[Sweep, ...] = ()


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file.

    Raises InputError if it cannot be read, is no TOML, or is no recipe, saying where.
    """
    name = printable(str(path))
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name holds a zero byte"
        raise InputError(name, f"cannot be read: {reason}") from None
    if len(data) > LARGEST:
        raise InputError(name, "is too large for a recipe", "", f"at most {LARGEST:#x} bytes")
    try:
        return parse_recipe(data.decode("utf-8"), name)
    except UnicodeDecodeError as error:
        byte = hex(data[error.start])
        raise InputError(name, f"at byte {error.start:#x} is not UTF-8", byte) from None


def parse_recipe(text: str, where: str = "recipe") -> Recipe:
    """Parse the text of a recipe.

    >>> text = '''
    ... schema = "prctlmm-lab/recipe/1"
    ... title = "A longer look at the code"
    ... [[experiment]]
    ... id = "code-grows"
    ... change.end_code = "end_code + page"
    ... '''
    >>> parse_recipe(text).experiments[0].change["end_code"]
    'end_code + page'

    Raises InputError for text that is no TOML, unknown keys, wrong types, values that are no
    formula, and ids that are used twice.
    """
    table = _toml_table(text.removeprefix("\ufeff"), where)
    _only(table, ("schema", "title", "experiment", "sweep"), where)
    if "schema" not in table:
        raise InputError(f"{where}: schema", "is missing", "", f'"{SCHEMA}"')
    if table["schema"] != SCHEMA:
        raise InputError(f"{where}: schema", "is not that of a recipe", shorten(table["schema"]),
                         f'"{SCHEMA}"')  # fmt: skip
    title = _label(table.get("title", ""), f"{where}: title")
    if "experiment" not in table and "sweep" not in table:
        raise InputError(f"{where}: experiment", "must be written as [[experiment]] tables", "",
                         f"1 to {MOST} of them")  # fmt: skip
    return Recipe(
        title,
        _entries(table, "experiment", experiment_from, where),
        _entries(table, "sweep", sweep_from, where),
    )


def _entries(
    table: Mapping[str, object], key: str, read: Callable[[object, str, int], T], where: str
) -> tuple[T, ...]:
    """Read the tables [[key]], of which each must have an id of its own."""
    if key not in table:
        return ()
    entries = table[key]
    if not isinstance(entries, list) or not entries or len(entries) > MOST:
        raise InputError(f"{where}: {key}", f"must be written as [[{key}]] tables", "",
                         f"1 to {MOST} of them")  # fmt: skip
    found: dict[str, T] = {}
    for number, entry in enumerate(entries):
        one = read(entry, where, number)
        if one.id in found:
            raise InputError(f"{where}: {key}[{number}].id", "is used twice", shorten(one.id))
        found[one.id] = one
    return tuple(found.values())


def _toml_table(text: str, where: str) -> dict[str, Any]:
    if _DEEP_KEY.search(text):
        raise InputError(where, "is nested too deeply for a recipe")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(where, f"is not TOML: {printable(str(error))}") from None
    except RecursionError:
        raise InputError(where, "is nested too deeply for a recipe") from None
    except ValueError:  # of int(), for thousands of decimal digits
        raise InputError(where, "holds a number that is too large", "", "at most 64 bits") from None


def experiment_from(table: object, where: str = "", number: int = 0) -> Experiment:
    """Build an experiment from a table, as TOML or JSON gives it.

    `where` names the file and `number` the place in it, counted from 0, for messages about an
    experiment that has no id to name it by.

    Raises InputError as `parse_recipe`.
    """
    entries, place = _named(table, "experiment", where, number)
    _only(entries, [field.name for field in fields(Experiment)], place)
    labels = ("title", "explanation", "predict", "rule", "effect", "requirement")
    parts = _common_parts(entries, labels, place) | {
        "call": _build(Call, entries.get("call", {}), f"{place}: call"),
        "after": _steps(entries.get("after", []), f"{place}: after"),
        "needs": _typed(entries.get("needs", []), "tuple[str, ...]", f"{place}: needs"),
    }
    return _checked(Experiment, parts, where)


def sweep_from(table: object, where: str = "", number: int = 0) -> Sweep:
    """Build a sweep from a table, as TOML or JSON gives it; otherwise as `experiment_from`."""
    entries, place = _named(table, "sweep", where, number)
    _only(entries, [field.name for field in fields(Sweep)], place)
    if "x" not in entries:
        raise InputError(f"{place}: x", "is missing")
    axes = {
        name: _build(Axis, entries[name], f"{place}: {name}", AXIS_KEYS)
        for name in ("x", "y")
        if name in entries
    }
    return _checked(Sweep, axes | _common_parts(entries, ("title", "explanation"), place), where)


def _named(table: object, key: str, where: str, number: int) -> tuple[dict[str, Any], str]:
    """Return an entry's table, and the place by which messages name it: its id, if it has one."""
    start = f"{where}: " if where else ""
    entries = _table(table, f"{start}{key}[{number}]")
    identity = _identity(entries, f"{start}{key}[{number}].id")
    # By its id it is found in the file: TOML does not tell lines.
    return entries, f'{start}{key} "{identity}"'


def _common_parts(entries: Mapping[str, Any], labels: Iterable[str], place: str) -> dict[str, Any]:
    """Return what experiments and sweeps have alike."""
    parts: dict[str, Any] = {
        name: _label(entries[name], f"{place}: {name}") for name in labels if name in entries
    }
    change = _table(entries.get("change", {}), f"{place}: change")
    for member in change:
        if member not in MEMBER:
            raise unknown_member(member, f"{place}: change")
    return parts | {
        "id": entries["id"],
        "specimen": _build(Subject, entries.get("specimen", {}), f"{place}: specimen"),
        "setup": _steps(entries.get("setup", []), f"{place}: setup"),
        "change": {name: _value(v, f"{place}: change.{name}") for name, v in change.items()},
    }


def _checked(kind: type[T], parts: dict[str, Any], where: str) -> T:
    try:
        return kind(**parts)
    except InputError as error:
        start = f"{where}: " if where else ""
        raise InputError(start + error.where, error.problem, error.value, error.expected) from None


def _identity(entries: Mapping[str, object], where: str) -> str:
    if "id" not in entries:
        raise InputError(where, "is missing")
    identity = _label(entries["id"], where, lines=False)
    if not 0 < len(identity) <= 80:
        raise InputError(where, "is not an id", shorten(identity), "1 to 80 characters")
    return identity


def recipe_text(recipe: Recipe) -> str:
    """Write a recipe as TOML, so that `parse_recipe` gives the same recipe again.

    Raises InputError for a text that stands for bytes that are not UTF-8, which TOML cannot hold.
    """
    lines = [f"schema = {_toml(SCHEMA)}", f"title = {_toml(recipe.title)}"]
    for experiment in recipe.experiments:
        lines += ["", "[[experiment]]", *_entry_lines(experiment_data(experiment))]
    for sweep in recipe.sweeps:
        lines += ["", "[[sweep]]", *_entry_lines(sweep_data(sweep))]
    return "\n".join(lines) + "\n"


def sweep_data(sweep: Sweep) -> dict[str, Any]:
    """Return a sweep as a recipe's table holds it: only what differs from the defaults."""
    table = experiment_data(sweep)
    for name in ("x", "y"):
        if name in table:
            table[name] = {AXIS_KEYS.get(key, key): value for key, value in table[name].items()}
    return table


def _entry_lines(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{name} = {_toml(item)}" for name, item in value.items())
        elif key in ("setup", "after"):
            yield from (f"{key} = [", *(f"  {_toml(step)}," for step in value), "]")
        else:
            yield f"{key} = {_toml(value)}"


def _steps(entries: object, where: str) -> tuple[Step, ...]:
    listed = enumerate(_list(entries, where))
    return tuple(_step(entry, f"{where}[{number}]") for number, entry in listed)


def _step(entry: object, where: str) -> Step:
    table = _table(entry, where)
    verbs = [key for key in table if key in STEPS]
    # "brk" is a verb and "map" may not be: the first key that is a verb names the step.
    for key in table:
        if not verbs and key in X86_64:
            raise InputError(where, "is a system call that no recipe may ask for", shorten(key),
                             f"a step: {', '.join(STEPS)}")  # fmt: skip
    if not verbs:
        raise InputError(where, "has no key that is a step", shorten(list(table)),
                         suggestion(next(iter(table), ""), STEPS))  # fmt: skip
    step: Step = _build(STEPS[verbs[0]], table, where)
    return step


def _build(
    kind: type[Any], entry: object, where: str, keys: Mapping[str, str] = MappingProxyType({})
) -> Any:
    """Build a dataclass from a table, checking keys and types by its annotations.

    `keys` are the fields that have another name in the table.
    """
    table = _table(entry, where)
    known = {keys.get(field.name, field.name): field for field in fields(kind)}
    _only(table, known, where)
    for key, field in known.items():
        if field.default is MISSING and field.default_factory is MISSING and key not in table:
            raise InputError(f"{where}.{key}", "is missing")
    return kind(**{
        known[name].name: _typed(value, str(known[name].type), f"{where}.{name}")
        for name, value in table.items()
    })  # fmt: skip


def _typed(value: object, annotation: str, where: str) -> Any:
    plain = annotation.removesuffix(" | None")
    if plain == "Value":
        return _value(value, where)
    if plain == "tuple[str, ...]":
        return tuple(
            _typed(item, "str", f"{where}[{i}]") for i, item in enumerate(_list(value, where))
        )
    if plain == "tuple[tuple[Value, Value], ...]":
        return tuple(_pair(item, f"{where}[{i}]") for i, item in enumerate(_list(value, where)))
    kinds: dict[str, tuple[type, str]] = {
        "str": (str, "a string"), "bool": (bool, "true or false"), "int": (int, "a whole number"),
    }  # fmt: skip
    kind, wanted = kinds[plain]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(where, "is of the wrong type", shorten(value), wanted)
    return value


def _value(value: object, where: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(where, "is of the wrong type", shorten(value),
                         'a whole number or a formula such as "end_data - 8"')  # fmt: skip
    return value


def _pair(item: object, where: str) -> tuple[int | str, int | str]:
    pair = _list(item, where)
    if len(pair) != 2:
        raise InputError(where, "is not a pair", shorten(item), '["AT_PAGESZ", 4096]')
    return _value(pair[0], where), _value(pair[1], where)


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise InputError(where, "is not a list", shorten(value), "[ ... ]")
    if len(value) > MOST:
        raise InputError(where, "entries are too many", str(len(value)), f"at most {MOST}")
    return value


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(where, "is not a table", shorten(value), "key = value")
    return value


def _only(table: Mapping[str, object], known: Iterable[str], where: str) -> None:
    names = list(known)
    for key in table:
        if key not in names:
            raise InputError(where, "is not a known key", shorten(key), suggestion(key, names))


def _label(value: object, where: str, *, lines: bool = True) -> str:
    """Return a text that is shown to people: no control characters, not too long."""
    if not isinstance(value, str):
        raise InputError(where, "is of the wrong type", shorten(value), "a string")
    if len(value) > 2000:
        raise InputError(where, "characters are too many", str(len(value)), "at most 2000")
    for character in value:
        if not (character.isprintable() or (character == "\n" and lines)):
            raise InputError(where, "is a control character", f"U+{ord(character):04X}", "text")
    return value


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return hex(value) if value >= 0x1000 else str(value)
    if isinstance(value, str):
        return '"' + "".join(map(_toml_character, value)) + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    assert isinstance(value, Mapping)
    return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"


def _toml_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    if 0xD800 <= code < 0xE000:
        raise InputError("recipe", "cannot be written in TOML", f"U+{code:04X}", "UTF-8, or hex")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shipped_recipes(below: str = "") -> dict[str, Recipe]:
    """Return the recipes that come with the lab, by file name without its ending.

    They lie in data/recipes of a clone, or beside the package where it was installed; `below` names
    a folder in there, such as "conformance".

    >>> shipped_recipes()["identity"].experiments[0].change
    mappingproxy({})
    """
    folder = recipe_folder()
    return {path.stem: read_recipe(path) for path in sorted((folder / below).glob("*.toml"))}


def recipe_folder() -> Path:
    """Return where the recipes that come with the lab lie."""
    package = Path(__file__).parents[1]
    folders = (package.parent / "data" / "recipes", package / "data" / "recipes")
    return next((folder for folder in folders if folder.is_dir()), folders[0])
