"""Recipes: what is read, what is refused and how that is said, and that writing is exact."""

from __future__ import annotations

import copy
import os
import pickle
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import VERDICTS, Call, Experiment, Subject, run
from prctlmm_lab.experiments.recipe import (
    LARGEST,
    Recipe,
    experiment_from,
    parse_recipe,
    read_recipe,
    recipe_text,
    shipped_recipes,
)
from prctlmm_lab.experiments.record import experiment_data, plain
from prctlmm_lab.experiments.steps import (
    STEPS,
    Become,
    Brk,
    Close,
    Limit,
    LosePrivilege,
    Map,
    MemoryFile,
    Open,
    OwnMount,
    Protect,
    Read,
    ReleaseExecutable,
    Step,
    Unmap,
    UserNamespace,
    Write,
)
from prctlmm_lab.kernel.abi import ADDRESSES, Operation
from prctlmm_lab.kernel.auxv import TYPES
from prctlmm_lab.kernel.effects import EFFECT
from prctlmm_lab.kernel.legacy import LEGACY_RULE
from prctlmm_lab.kernel.message import PLACES
from prctlmm_lab.kernel.rules import RULE
from prctlmm_lab.specimen.process import RESOURCES, Specimen
from tests.experiments.bad_recipes import BAD, HEAD, ONE, RUIN, matches
from tests.needs import skip_unless
from tests.ordinary_user import as_ordinary_user


def sentence(path: Path) -> str:
    with pytest.raises(InputError) as refused:
        read_recipe(path)
    said = str(refused.value)
    assert said.isprintable(), "one line, and nothing that a terminal acts on"
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: ")


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_is_refused_in_one_sentence_that_names_the_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, expected = BAD[name]
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    said = sentence(path)
    assert matches(said, expected), said
    assert os.listdir(tmp_path) == ["bad.toml"], "something of the recipe was executed"


@pytest.mark.parametrize("name", RUIN)
def test_what_only_a_specimen_shows_to_be_wrong_is_refused_as_well(name: str) -> None:
    text, expected = RUIN[name]
    (experiment,) = parse_recipe(text).experiments
    with pytest.raises(InputError) as refused:
        run(experiment)
    assert matches(str(refused.value), expected), str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert sentence(tmp_path / "none.toml") == "cannot be read: No such file or directory"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert sentence(tmp_path) == "cannot be read: Is a directory"


def test_a_path_with_a_zero_byte_is_no_file() -> None:
    with pytest.raises(InputError) as refused:
        read_recipe("a\0b")
    assert str(refused.value) == r"a\x00b: cannot be read: its name holds a zero byte"


def test_a_file_name_with_a_terminal_escape_is_shown_harmless(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31m\n.toml"
    path.write_text("schema = 3")
    with pytest.raises(InputError) as refused:
        read_recipe(path)
    assert str(refused.value) == (
        rf"{tmp_path}/\x1b[31m\n.toml: schema: 0x3 is not that of a recipe; "
        'expected "prctlmm-lab/recipe/1"'
    )


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "closed.toml"
    path.write_text(ONE)
    path.chmod(0)
    told = as_ordinary_user(
        "from prctlmm_lab import read_recipe, InputError\n"
        "try:\n"
        f"    read_recipe({str(path)!r})\n"
        "except InputError as error:\n"
        "    print(error)\n",
        reach=[tmp_path],
    )
    skip_unless(not told.stderr, f"no ordinary user here: {told.stderr}", impossible=True)
    assert told.stdout == f"{path}: cannot be read: Permission denied\n"


def test_bytes_that_are_not_utf8_are_named_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "latin1.toml"
    path.write_bytes(f"{HEAD}title = 'caf".encode() + b"\xe9'\n")
    assert sentence(path) == f"0xe9 at byte {len(HEAD) + 12:#x} is not UTF-8"


def test_the_largest_recipe_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_text(ONE + "#" * (LARGEST - len(ONE)))
    assert read_recipe(path).experiments == (Experiment("x"),)
    path.write_text(ONE + "#" * (LARGEST - len(ONE) + 1))
    assert sentence(path) == "is too large for a recipe; expected at most 0x100000 bytes"


def test_a_file_without_an_end_is_too_large() -> None:
    assert sentence(Path("/dev/zero")).startswith("is too large for a recipe")


def test_a_recipe_written_on_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf" + ONE.replace("\n", "\r\n").encode())
    assert read_recipe(path).experiments == (Experiment("x"),)


# ---- what a recipe says -------------------------------------------------------------------------


def test_names_may_be_used_before_the_call_in_it_and_after_it() -> None:
    recipe = parse_recipe(
        f"""{ONE}
        setup = [
          {{ map = "arena", pages = 2 }},
          {{ unmap = "arena.start + page" }},
          {{ memory_file = "ghost" }},
          {{ own_mount = "program", noexec = true }},
        ]
        change.arg_start = "arena.start"
        change.exe_fd = "program"
        call.size = "map_size"
        after = [{{ close = "ghost" }}, {{ brk = "before.brk" }}]
        """
    )
    (experiment,) = recipe.experiments
    assert experiment.setup == (
        Map("arena", pages=2), Unmap("arena.start + page"), MemoryFile("ghost"),
        OwnMount("program", noexec=True),
    )  # fmt: skip
    assert dict(experiment.change) == {"arg_start": "arena.start", "exe_fd": "program"}
    assert experiment.call == Call(size="map_size")
    assert experiment.after == (Close("ghost"), Brk("before.brk"))


def test_text_that_is_not_ascii_reaches_memory_as_utf8() -> None:
    text = "naïve-写-🐧"
    recipe = f"""{ONE}
    title = "{text}"
    specimen.arguments = ["{text}"]
    setup = [{{ map = "arena" }}, {{ write = "arena.start", text = "{text}" }}]
    """
    experiment = parse_recipe(recipe).experiments[0]
    assert experiment.title == text
    with experiment.specimen.start() as specimen:
        assert Path(f"/proc/{specimen.pid}/cmdline").read_bytes() == text.encode() + b"\0"
        record = run(experiment, specimen=specimen)
        start = int((record.before.regions or {})["arena"][0], 16)
        assert _memory(specimen, start, 32) == text.encode().ljust(32, b"\0")


def _memory(specimen: Specimen, address: int, length: int) -> bytes:
    with open(f"/proc/{specimen.pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(length)


def test_half_a_character_from_json_is_refused() -> None:
    table = {"id": "x", "setup": [{"map": "a"}, {"write": "a.start", "text": "\ud800"}]}
    with pytest.raises(InputError) as refused:
        experiment_from(table, "line 3")
    assert str(refused.value) == (
        'line 3: experiment "x": setup[1].text: U+D800 is half of a character; expected whole ones'
    )


def test_an_experiment_from_python_is_checked_alike() -> None:
    with pytest.raises(InputError, match=r'^experiment "x": setup\[0\]\.hex: .*is not hex'):
        Experiment("x", setup=(Write("heap.start", hex="zz"),))
    with pytest.raises(InputError, match=r'^experiment "x": change\.brk: 1\.5 is not a whole'):
        Experiment("x", change={"brk": 1.5})  # type: ignore[dict-item]
    listed = Experiment("x", setup=[Map("a")])  # type: ignore[arg-type]
    assert listed == Experiment("x", setup=(Map("a"),))


# ---- writing ------------------------------------------------------------------------------------

values = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.sampled_from(["brk", "end_data - 8", "page_up(before.brk) + 2 * page", "stack.end"]),
)
small = st.integers(0, (1 << 32) - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
shown = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=30)
no_zero = text.map(lambda text: text.replace("\0", ""))
maybe = st.none() | values
permissions = st.sampled_from(["rw-", "r--", "---", "r-x"])
pairs = st.lists(
    st.tuples(st.sampled_from(sorted(TYPES)) | values, values), max_size=4
).map(tuple)  # fmt: skip
contents = st.one_of(
    st.builds(Write, values, text=text),
    st.builds(Write, values, hex=st.binary(max_size=20).map(bytes.hex)),
    st.builds(Write, values, auxv=pairs),
    st.builds(Write, values, identity_map=st.just(True)),
)
free = st.one_of(
    contents,
    st.builds(Unmap, values, values),
    st.builds(Protect, values, permissions, values),
    st.builds(Brk, values, maybe),
    st.builds(Read, values, st.integers(1, 8), maybe),
    st.builds(Limit, st.sampled_from(RESOURCES), values, maybe),
    st.builds(Become, small),
    st.just(LosePrivilege(True)),
    st.builds(UserNamespace, st.just(True), st.booleans()),
    st.just(ReleaseExecutable(True)),
)
naming = st.tuples(
    st.builds(Map, st.just("m"), values, maybe, permissions, st.booleans(), st.booleans()),
    st.builds(MemoryFile, st.just("f"), st.integers(0, 0o7777)),
    st.builds(OwnMount, st.just("n"), st.booleans()),
    st.builds(Open, st.just("o"), no_zero.filter(bool), st.sampled_from(["read", "directory"])),
    st.just(Close("f")),
)
setups: st.SearchStrategy[tuple[Step, ...]] = st.one_of(
    st.lists(free, max_size=3).map(tuple),
    naming,
)
subjects = st.builds(
    Subject,
    st.sampled_from(["static", "static-pie"]),
    st.lists(no_zero, min_size=1, max_size=3).map(tuple),
    st.lists(no_zero.map("NAME={}".format), max_size=2).map(tuple),
    st.integers(0, 1 << 16),
    st.booleans(),
)
experiments = st.builds(
    Experiment,
    id=shown.filter(bool),
    title=shown,
    explanation=shown.map("{}\nnext".format),
    specimen=subjects,
    setup=setups,
    change=st.dictionaries(
        st.sampled_from(ADDRESSES),
        st.integers(0, (1 << 64) - 1) | st.just("end_data + 1") | st.just("page"),
    ).filter(lambda change: "end_data" not in change),
    call=st.builds(Call, maybe, values),
    after=st.lists(free, max_size=2).map(tuple),
    predict=st.sampled_from(["", *VERDICTS]),
    rule=st.sampled_from(["", *RULE, *LEGACY_RULE]),
    effect=st.sampled_from(["", *EFFECT]),
    requirement=st.sampled_from(["", *PLACES]),
    needs=st.lists(
        st.sampled_from(["order.code", "not heap.above_data", "hole_shrinks"]), max_size=2
    ).map(tuple),
)
alone = st.builds(
    Experiment,
    id=st.just("alone"),
    call=st.builds(
        Call,
        maybe,
        values,
        operation=st.sampled_from(["0", "99", *(o.name for o in Operation if o.name != "MAP")]),
        value=values,
    ),
)


@given(st.lists(experiments | alone, min_size=1, max_size=3, unique_by=lambda e: e.id), shown)
@settings(max_examples=100, deadline=None)
def test_what_is_written_reads_the_same(listed: list[Experiment], title: str) -> None:
    recipe = Recipe(title, tuple(listed))
    written = recipe_text(recipe)
    assert parse_recipe(written) == recipe
    # TOML holds what the record's JSON holds.
    tables = tomllib.loads(written)["experiment"]
    assert tables == [plain(experiment_data(experiment)) for experiment in listed]
    assert [experiment_from(table) for table in tables] == listed


def test_every_step_is_written() -> None:
    """The strategies above leave no step out."""
    made = {Map, Write, Read, Unmap, Protect, Brk, Limit, Become, LosePrivilege, UserNamespace,
            Open, MemoryFile, OwnMount, Close, ReleaseExecutable}  # fmt: skip
    assert set(STEPS.values()) == made


def test_bytes_that_toml_cannot_hold_are_refused() -> None:
    experiment = Experiment("x", specimen=Subject(arguments=("\udcff",)))
    with pytest.raises(InputError) as refused:
        recipe_text(Recipe("", (experiment,)))
    assert str(refused.value) == "recipe: U+DCFF cannot be written in TOML; expected UTF-8, or hex"


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_an_experiment_survives_pickle_and_copy(name: str) -> None:
    for experiment in shipped_recipes()[name].experiments:
        assert pickle.loads(pickle.dumps(experiment)) == experiment  # noqa: S301 - our own
        assert copy.deepcopy(experiment) == experiment
