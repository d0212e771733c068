"""Experiments on the real kernel: a record's fields against what the test reads for itself."""

from __future__ import annotations

import errno
import os
import pickle
import re
import resource
import signal
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest

from prctlmm_lab.cli import main
from prctlmm_lab.errors import InputError, SpecimenGone
from prctlmm_lab.experiments import experiment as experiment_module
from prctlmm_lab.experiments.experiment import (
    Call,
    Experiment,
    SetupError,
    Subject,
    prepare,
    run,
)
from prctlmm_lab.experiments.formula import evaluate
from prctlmm_lab.experiments.record import Record, Request, View
from prctlmm_lab.experiments.steps import (
    Become,
    Bench,
    Brk,
    Close,
    Limit,
    LosePrivilege,
    Map,
    MemoryFile,
    Open,
    OwnMount,
    Protect,
    ReleaseExecutable,
    Step,
    Unmap,
    UserNamespace,
    Write,
    known_names,
)
from prctlmm_lab.kernel import rules
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.effects import Memory, shown_after
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.model import specification
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.situation import exe_file, may_set_members
from tests.needs import needs_root, needs_user_namespaces

PAGE = os.sysconf("SC_PAGE_SIZE")
HEADER = """start_code end_code start_data end_data start_brk brk start_stack arg_start arg_end
env_start env_end auxv auxv_size exe_fd""".split()
"""struct prctl_mm_map as include/uapi/linux/prctl.h has it: twelve 64-bit words, two of 32 bits."""
STAT = {
    "start_code": 26, "end_code": 27, "start_stack": 28, "start_data": 45, "end_data": 46,
    "start_brk": 47, "arg_start": 48, "arg_end": 49, "env_start": 50, "env_end": 51,
}  # fmt: skip
"""The fields of /proc/PID/stat by proc(5)."""

MOVED = Experiment(
    "moved",
    setup=(
        Map("arena", pages=2),
        Write("arena.start", text="a-new-name\0--flag\0"),
        Write("arena.start + page", auxv=(("AT_PAGESZ", 0x2000), ("AT_NULL", 0))),
    ),
    change={
        "arg_start": "arena.start",
        "arg_end": "arg_start + 18",
        "env_start": "before.arg_start",
        "env_end": "before.arg_end",
        "end_code": "end_code + 5 * page",
        "start_stack": "arena.start + 16",
        "auxv": "arena.start + page",
        "auxv_size": 32,
    },
)
NO_CODE = Experiment("no code", change={"end_code": "before.start_code"})


def proc(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def stat_members(pid: int) -> dict[str, str]:
    text = proc(pid, "stat")
    numbers = text[text.rindex(b")") + 2 :].split()  # the first is field 3
    return {name: hex(int(numbers[field - 3])) for name, field in STAT.items()}


def seen(pid: int) -> dict[str, object]:
    """Read /proc as a record's view of it should look."""
    status = dict(line.split(":", 1) for line in proc(pid, "status").decode().splitlines())
    words = struct.unpack(f"<{len(proc(pid, 'auxv')) // 8}Q", proc(pid, "auxv"))
    lines = [line.split(None, 5) for line in proc(pid, "maps").decode().splitlines()]
    return {
        "stat": stat_members(pid),
        "text": int(proc(pid, "statm").split()[3]),
        "status": {name: status[name].strip() for name in ("VmExe", "VmLib", "VmData", "VmStk")},
        "maps": [(*line[0].split("-"), line[1]) for line in lines],
        "labels": [line[5] for line in lines if len(line) > 5 and line[5].startswith("[")],
        "auxv": [hex(value) for value in words[1::2]],
        "cmdline": proc(pid, "cmdline").decode(),
        "environ": proc(pid, "environ").decode(),
        "exe": os.readlink(f"/proc/{pid}/exe"),
    }


def told(view: View) -> dict[str, object]:
    """Bring a record's view into the same shape."""
    assert isinstance(view.statm, dict)
    assert not isinstance(view.auxv, str)
    lines = [line.split(None, 2) for line in view.maps or ()]
    ranges = [[f"{int(end, 16):x}" for end in line[0].split("-")] for line in lines]
    stat = dict(view.stat) if isinstance(view.stat, Mapping) else {}
    return {
        "stat": {name: stat[name] for name in STAT},
        "text": view.statm["text"],
        "status": view.status,
        "maps": [
            (*(end.zfill(8) for end in range_), line[1])
            for range_, line in zip(ranges, lines, strict=True)
        ],
        "labels": [line[2] for line in lines if len(line) > 2 and line[2].startswith("[")],
        "auxv": [entry.partition("=")[2] for entry in view.auxv or ()],
        "cmdline": view.cmdline,
        "environ": view.environ,
        "exe": view.exe,
    }


# ---- the record ----------------------------------------------------------------------------------


def test_the_struct_holds_the_map() -> None:
    record = run(MOVED)
    words = struct.unpack("<12Q2I", bytes.fromhex(record.struct))
    assert dict(zip(HEADER, map(hex, words), strict=True)) == record.map
    start = int((record.before.regions or {})["arena"][0], 16)
    before = record.before.stat
    assert isinstance(before, Mapping)
    assert record.map == {
        **{name: before[name] for name in STAT},
        "brk": record.before.brk,
        "end_code": hex(int(before["end_code"], 16) + 5 * PAGE),
        "start_stack": hex(start + 16),
        "arg_start": hex(start),
        "arg_end": hex(start + 18),
        "env_start": before["arg_start"],
        "env_end": before["arg_end"],
        "auxv": hex(start + PAGE),
        "auxv_size": "0x20",
        "exe_fd": "0xffffffff",
    }


def test_the_views_show_what_proc_shows(specimen: Specimen) -> None:
    shown: list[dict[str, object]] = []
    record = run(MOVED, specimen=specimen, on_request=lambda _: shown.append(seen(specimen.pid)))
    assert record.outcome.verdict == "accepted"
    assert record.view_after
    assert told(record.before) == shown[0]
    assert told(record.view_after) == seen(specimen.pid) != shown[0]
    assert record.view_after.brk == hex(specimen.brk())


def test_the_difference_is_that_of_two_readings(specimen: Specimen) -> None:
    before: list[dict[str, str]] = []
    record = run(
        MOVED, specimen=specimen, on_request=lambda _: before.append(stat_members(specimen.pid))
    )
    after = stat_members(specimen.pid)
    rows = {name: (old, new) for place, name, old, new in record.difference if place == "stat"}
    assert rows == {
        name: (before[0][name], after[name]) for name in STAT if before[0][name] != after[name]
    }
    assert len(rows) == 6
    (cmdline,) = (row for row in record.difference if row[0] == "cmdline")
    assert cmdline == ("cmdline", "", "specimen\0", proc(specimen.pid, "cmdline").decode())
    assert {row[0] for row in record.difference} >= {"stat", "statm", "auxv", "environ", "maps"}


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        (MOVED, 0),
        (NO_CODE, errno.EINVAL),
        (Experiment("size", call=Call(size="map_size + 1")), errno.EINVAL),
        (Experiment("arg5", call=Call(arg5=1)), errno.EINVAL),
        (Experiment("pointer", call=Call(pointer=8)), errno.EFAULT),
        (Experiment("auxv", change={"auxv": 8, "auxv_size": 16}), errno.EFAULT),
        (Experiment("descriptor", change={"exe_fd": 99}), None),
        (Experiment("high", change={"brk": "highest + 1"}), errno.EINVAL),
    ],
    ids=lambda value: getattr(value, "id", ""),
)
def test_the_outcome_is_that_of_the_bare_call(
    experiment: Experiment, expected: int | None, specimen: Specimen
) -> None:
    record = run(experiment, specimen=specimen)
    bare = -specimen.attempt(
        "prctl", 35, 14,
        int(str(experiment.call.pointer), 0) if experiment.call.pointer is not None
        else specimen.place(bytes.fromhex(record.struct)),
        int(record.size, 16), int(record.arg5, 16), 0,
    )  # fmt: skip
    assert record.outcome.errno == bare
    assert expected in (None, bare)
    assert record.outcome.verdict == (errno.errorcode[bare] if bare else "accepted")
    assert record.agreement.with_lab


def test_a_refused_call_changes_nothing(specimen: Specimen) -> None:
    record = run(NO_CODE, specimen=specimen)
    assert record.difference == ()
    assert record.view_after == record.before
    assert record.prediction.rule == "order.code"
    assert record.prediction.broken == ("order.code",)
    start = dict(specimen.current_map())["start_code"]
    assert record.prediction.numbers == (
        f"start_code = {start:#x}, end_code = {start:#x}, needed start_code < end_code"
    )


def test_the_record_says_who_asked(specimen: Specimen) -> None:
    record = run(NO_CODE, specimen=specimen)
    status = dict(line.split(":", 1) for line in proc(specimen.pid, "status").decode().splitlines())
    assert record.privilege.uid == int(status["Uid"].split()[0])
    assert int(record.privilege.capabilities, 16) == int(status["CapEff"], 16)
    assert record.privilege.seccomp == int(status["Seccomp"])
    assert record.privilege.own_user_namespace is False
    assert record.facts == facts_here()


def test_the_record_says_that_the_specimen_is_in_a_namespace_of_its_own() -> None:
    needs_user_namespaces()
    with Specimen() as specimen:
        record = run(Experiment("x", setup=(UserNamespace(True),)), specimen=specimen)
        links = [os.readlink(f"/proc/{pid}/ns/user") for pid in ("self", specimen.pid)]
    assert links[0] != links[1]
    assert record.privilege.own_user_namespace is True
    assert int(record.privilege.capabilities, 16)


def test_the_request_comes_before_the_call_and_says_what_the_record_says(
    specimen: Specimen,
) -> None:
    requests: list[Request] = []
    members: list[dict[str, str]] = []

    def on_request(request: Request) -> None:
        requests.append(request)
        members.append(stat_members(specimen.pid))

    untouched = stat_members(specimen.pid)
    record = run(MOVED, specimen=specimen, on_request=on_request)
    assert members == [untouched]
    assert stat_members(specimen.pid) != untouched
    (request,) = requests
    assert type(request) is Request
    same = {field.name for field in fields(Request)} - {"schema"}
    assert {name: getattr(request, name) for name in same} == {
        name: getattr(record, name) for name in same
    }
    assert (request.schema, record.schema) == ("prctlmm-lab/request/2", "prctlmm-lab/record/2")
    assert re.fullmatch("[0-9a-f]{32}", record.id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", record.time)


def test_no_request_no_call(specimen: Specimen) -> None:
    untouched = stat_members(specimen.pid)

    def refuse(_request: Request) -> None:
        raise InputError("logbook", "cannot be written")

    with pytest.raises(InputError, match=r"^logbook: cannot be written$"):
        run(MOVED, specimen=specimen, on_request=refuse)
    assert stat_members(specimen.pid) == untouched


def test_a_struct_may_lie_where_a_step_wrote_it(specimen: Specimen) -> None:
    experiment = Experiment(
        "pointer",
        setup=(Map("arena"), Write("arena.start + 8", identity_map=True)),
        call=Call(pointer="arena.start + 8"),
    )
    record = run(experiment, specimen=specimen)
    start = int((record.before.regions or {})["arena"][0], 16)
    assert specimen.read(start + 8, 104).hex() == record.struct
    assert PrctlMmMap.unpack(bytes.fromhex(record.struct)) == specimen.current_map()
    assert (record.outcome.verdict, record.difference) == ("accepted", ())


# ---- agreement -----------------------------------------------------------------------------------


def without_rule(monkeypatch: pytest.MonkeyPatch, identity: str) -> None:
    """Make the specification blind to one rule."""
    blind = [
        replace(rule, broken=lambda _situation, _facts: False) if rule.id == identity else rule
        for rule in rules.RULES
    ]
    monkeypatch.setattr(rules, "RULES", tuple(blind))


def test_a_wrong_rule_is_a_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    without_rule(monkeypatch, "order.code")
    record = run(NO_CODE)
    assert (record.prediction.verdict, record.outcome.verdict) == ("accepted", "EINVAL")
    assert not record.agreement.verdict
    assert not record.agreement.with_lab
    assert record.agreement.disagreements == ("verdict: predicted accepted, kernel EINVAL",)
    assert record.summary() == "no code: predicted accepted, kernel EINVAL - DISAGREEMENT"


def test_a_disagreement_is_the_exit_status_of_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "wrong.toml"
    recipe.write_text(
        'schema = "prctlmm-lab/recipe/1"\n'
        '[[experiment]]\nid = "right"\n'
        '[[experiment]]\nid = "wrong"\nchange.end_code = "before.start_code"\n'
    )
    assert main(["run", str(recipe)]) == 0
    capsys.readouterr()
    without_rule(monkeypatch, "order.code")
    assert main(["run", str(recipe)]) == 1
    assert capsys.readouterr().out == (
        "right: predicted accepted, kernel accepted\n"
        "wrong: predicted accepted, kernel EINVAL - DISAGREEMENT\n"
        "  DISAGREES verdict: predicted accepted, kernel EINVAL\n"
        "2 experiments: 1 as predicted, 1 not\n"
    )
    assert main(["run", str(recipe), "--only", "right"]) == 0


def test_a_wrong_effect_is_a_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(before: Snapshot, new: PrctlMmMap, memory: Memory, facts: Facts) -> Snapshot:
        shown = shown_after(before, new, memory, facts)
        assert not isinstance(shown.statm, Unreadable)
        return replace(shown, statm={**shown.statm, "text": shown.statm["text"] + 1})

    wrong = replace(specification(facts_here()), shown_after=off_by_one)
    monkeypatch.setattr(experiment_module, "specification", lambda facts: wrong)
    record = run(Experiment("x"))
    assert record.agreement.verdict
    assert not record.agreement.effects
    assert not record.agreement.with_lab
    (text,) = record.agreement.disagreements
    assert re.fullmatch(r"statm text: predicted 0x2, shown 0x1", text)


def test_another_rule_than_the_author_meant_is_a_disagreement() -> None:
    record = run(replace(NO_CODE, rule="order.data"))
    assert record.agreement.verdict
    assert record.agreement.rule is False
    assert not record.agreement.with_lab
    assert record.agreement.disagreements == (
        "rule: the recipe aims at order.data, order.code decides",
    )
    accepted = run(Experiment("x", rule="order.data"))
    assert accepted.agreement.disagreements == (
        "rule: the recipe aims at order.data, none decides",
    )
    assert run(replace(NO_CODE, rule="order.code")).agreement.rule is True
    assert run(NO_CODE).agreement.rule is None


@pytest.mark.parametrize(
    ("prediction", "right"), [("EINVAL", True), ("EPERM", False), ("accepted", False), ("", None)]
)
def test_the_learners_prediction_is_right_or_wrong_and_no_disagreement(
    prediction: str, right: bool | None
) -> None:
    record = run(replace(NO_CODE, predict=prediction))
    assert record.learner == prediction
    assert record.agreement.learner is right
    assert record.agreement.with_lab
    assert record.agreement.disagreements == ()


# ---- names ---------------------------------------------------------------------------------------


def test_names_stand_for_what_maps_and_the_facts_say(specimen: Specimen) -> None:
    bench, facts = Bench(specimen, facts_here()), facts_here()
    areas = {}
    for line in proc(specimen.pid, "maps").decode().splitlines():
        range_, *_, label = line.split(None, 5)
        areas[label] = [int(end, 16) for end in range_.split("-")]
    for name in ("heap", "stack", "vdso"):
        start, end = areas[f"[{name}]"]
        assert bench.value(f"{name}.start", "") == start
        assert bench.value(f"{name}.end", "") == end
        assert bench.value(f"{name}.length", "") == end - start
    members = stat_members(specimen.pid) | {"brk": hex(specimen.brk())}
    for name, value in members.items():
        assert hex(bench.value(name, "")) == hex(bench.value(f"before.{name}", "")) == value
    assert bench.value("exe_fd", "") == 0xFFFFFFFF
    constants = {"page": PAGE, "lowest": facts.lowest, "highest": facts.highest, "map_size": 104,
                 "auxv_capacity": facts.auxv_capacity, "unlimited": 2**64 - 1}  # fmt: skip
    assert {name: bench.value(name, "") for name in constants} == constants


def test_every_name_that_is_known_before_has_a_value_then(specimen: Specimen) -> None:
    """The check before the run and the run itself must not know different names."""
    experiment = Experiment("x", setup=(Map("arena"), MemoryFile("ghost")))
    bench = prepare(experiment, specimen, facts_here()).bench
    known = known_names() | {"arena.start", "arena.end", "arena.length", "ghost"}
    for name in sorted(known):
        assert evaluate(name, bench.lookup, name) >= 0
    for name in ("arena", "ghost.start", "brk.start", "before", "before.arena", "heap.size"):
        with pytest.raises(InputError, match="is not a known name"):
            evaluate(name, bench.lookup, name)


def test_before_means_before_the_call_and_a_bare_member_means_now() -> None:
    experiment = Experiment(
        "x",
        change={"brk": "brk - page"},
        after=(Brk("brk"), Unmap("brk"), Brk("before.brk"), Brk("brk")),
    )
    record = run(experiment)
    before = int(record.before.brk or "", 16)
    answers = [answer.answer for answer in record.answers]
    assert answers == [hex(before - PAGE), "", hex(before), hex(before)]


def test_a_member_means_its_old_value_in_its_own_formula_and_its_new_one_elsewhere() -> None:
    record = run(
        Experiment(
            "x",
            change={
                "env_end": "env_start + 8",
                "env_start": "arg_end",
                "arg_end": "arg_end - 1",
                "arg_start": "before.env_start - 2",
            },
        )
    )
    old = {name: int(value, 16) for name, value in dict(record.before.stat).items()}  # type: ignore[arg-type]
    new = {name: int(value, 16) for name, value in record.map.items()}
    assert new["arg_end"] == old["arg_end"] - 1
    assert new["env_start"] == new["arg_end"]
    assert new["env_end"] == new["env_start"] + 8
    assert new["arg_start"] == old["env_start"] - 2


# ---- steps ---------------------------------------------------------------------------------------


def vma(specimen: Specimen, start: int) -> tuple[int, str] | None:
    """Return length and permissions of the mapping that starts at an address."""
    for line in proc(specimen.pid, "maps").decode().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low == start:
            return high - low, line.split()[1]
    return None


def set_up(specimen: Specimen, *setup: Step) -> Bench:
    return prepare(Experiment("x", setup=setup), specimen, facts_here()).bench


def test_map_protect_and_unmap(specimen: Specimen) -> None:
    bench = set_up(
        specimen,
        Map("plain"),
        Map("wide", pages=3, permissions="r-x"),
        Map("closed", pages="wide.length // page", permissions="---", shared=True),
        Map("there", at="page_down(start_code // 2)"),
        Map("hole", pages=3),
        Unmap("hole.start + page", length="hole.length - 2 * page"),
        Protect("plain.start", "r--"),
    )
    starts = {name: start for name, (start, _) in bench.regions.items()}
    assert vma(specimen, starts["plain"]) == (PAGE, "r--p")
    assert vma(specimen, starts["wide"]) == (3 * PAGE, "r-xp")
    assert vma(specimen, starts["closed"]) == (3 * PAGE, "---s")
    assert starts["there"] == specimen.current_map().start_code // 2 // PAGE * PAGE
    assert vma(specimen, starts["there"]) == (PAGE, "rw-p")
    assert vma(specimen, starts["hole"]) == (PAGE, "rw-p")
    assert vma(specimen, starts["hole"] + PAGE) is None
    assert vma(specimen, starts["hole"] + 2 * PAGE)


def test_memory_that_grows_down_is_marked_so(specimen: Specimen) -> None:
    bench = set_up(specimen, Map("arena", grows_down=True))
    start = f"{bench.regions['arena'][0]:x}-"
    smaps = proc(specimen.pid, "smaps").decode()
    flags = next(line for line in smaps[smaps.index(start) :].splitlines() if "VmFlags" in line)
    assert "gd" in flags.split()


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"text": "é\0"}, "é\0".encode()),
        ({"hex": "00 ff 7f"}, b"\0\xff\x7f"),
        ({"auxv": (("AT_UID", "page"), (0x77, 2**64 - 1))},
         struct.pack("<4Q", 11, PAGE, 0x77, 2**64 - 1)),
        ({"text": ""}, b""),
    ],
)  # fmt: skip
def test_write(contents: dict[str, object], expected: bytes, specimen: Specimen) -> None:
    bench = set_up(specimen, Map("arena"), Write("arena.start + 3", **contents))  # type: ignore[arg-type]
    with open(f"/proc/{specimen.pid}/mem", "rb", buffering=0) as memory:
        memory.seek(bench.regions["arena"][0])
        assert memory.read(64) == (b"\0\0\0" + expected).ljust(64, b"\0")


def test_brk_and_limit(specimen: Specimen) -> None:
    before = specimen.brk()
    set_up(
        specimen,
        Brk("brk + page"),
        Limit("DATA", "1 << 30"),
        Limit("RLIMIT_STACK", "2 * page", "unlimited - 1 - (unlimited - 1) % page"),
    )
    assert specimen.brk() == before + PAGE
    assert resource.prlimit(specimen.pid, resource.RLIMIT_DATA)[0] == 1 << 30
    assert resource.prlimit(specimen.pid, resource.RLIMIT_STACK)[0] == 2 * PAGE


def test_descriptors_have_names(specimen: Specimen, tmp_path: Path) -> None:
    file = tmp_path / "a{ghost}é"
    bench = set_up(
        specimen,
        MemoryFile("ghost", mode=0o640),
        Open("again", "/proc/self/fd/{ghost}", access="write"),
        Open("folder", "/", access="directory"),
        Open("handle", "/", access="path"),
        Close("folder"),
    )
    folder = Path(f"/proc/{specimen.pid}/fd")
    ghost, again = folder / str(bench.descriptors["ghost"]), bench.descriptors["again"]
    assert os.readlink(ghost) == os.readlink(folder / str(again)) == "/memfd:ghost (deleted)"
    assert ghost.stat().st_mode & 0o7777 == 0o640
    assert not (folder / str(bench.descriptors["folder"])).exists()
    flags = int(proc(specimen.pid, f"fdinfo/{bench.descriptors['handle']}").split()[3], 8)
    assert flags & os.O_PATH
    assert not file.exists()


def test_a_path_may_be_any_bytes(specimen: Specimen, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(name)).touch()
    bench = set_up(specimen, Open("f", os.fsdecode(name)))
    link = f"/proc/{specimen.pid}/fd/{bench.descriptors['f']}"
    assert os.fsencode(os.readlink(link)) == name


def test_become_and_lose_privilege() -> None:
    needs_root()
    for step in (Become(65534), LosePrivilege(True)):
        with Specimen() as specimen:
            set_up(specimen, step)
            status = proc(specimen.pid, "status").decode()
            assert re.search(r"^Uid:\t65534\t65534\t65534\t65534$", status, re.MULTILINE)
            assert re.search(r"^Gid:\t65534\t65534\t65534\t65534$", status, re.MULTILINE)
            assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
            set_up(specimen, LosePrivilege(True))  # has none to lose, and is content


def test_release_executable(specimen: Specimen) -> None:
    path = os.readlink(f"/proc/{specimen.pid}/exe")
    assert path in proc(specimen.pid, "maps").decode()
    set_up(specimen, ReleaseExecutable(True))
    assert path not in proc(specimen.pid, "maps").decode()


@pytest.mark.parametrize("noexec", [False, True])
def test_own_mount(noexec: bool, specimen: Specimen) -> None:
    needs_user_namespaces()
    before = mounts_on_tmp(os.getpid())
    bench = set_up(specimen, UserNamespace(True), OwnMount("only_of_the_specimen", noexec=noexec))
    descriptor = bench.descriptors["only_of_the_specimen"]
    file = Path(f"/proc/{specimen.pid}/fd/{descriptor}")
    assert os.readlink(file) == "/tmp/only_of_the_specimen"
    assert file.stat().st_mode & 0o7777 == 0o755
    found = exe_file(specimen, descriptor)
    assert (found.is_open, found.is_regular, found.is_executable) == (True, True, True)
    assert found.is_noexec is noexec
    *_, (kind, options) = mounts_on_tmp(specimen.pid)
    assert (kind, "noexec" in options.split(",")) == ("tmpfs", noexec)
    assert os.listdir(f"/proc/{specimen.pid}/root/tmp") == ["only_of_the_specimen"]
    assert not Path("/tmp/only_of_the_specimen").exists()
    assert mounts_on_tmp(os.getpid()) == before


def mounts_on_tmp(pid: int) -> list[tuple[str, str]]:
    """Return type and options of what is mounted on /tmp in the eyes of a process."""
    lines = (line.split() for line in proc(pid, "mounts").decode().splitlines())
    return [(kind, options) for _, place, kind, options, *_ in lines if place == "/tmp"]


def test_a_mount_of_its_own_is_refused_without_cap_sys_admin(specimen: Specimen) -> None:
    with pytest.raises(SetupError) as refused:
        set_up(specimen, LosePrivilege(True), OwnMount("program"))
    assert str(refused.value) == (
        'experiment "x": setup[1]: the kernel refused unshare(0x20000) = '
        "EPERM (Operation not permitted)"
    )


def test_the_specimen_is_the_one_that_was_asked_for() -> None:
    subject = Subject("static-pie", ("naïve", "\udcff"), ("A=1", "B=\udc80"), 7)
    with subject.start() as specimen:
        assert proc(specimen.pid, "cmdline") == "naïve".encode() + b"\0\xff\0"
        assert proc(specimen.pid, "environ") == b"A=1\0B=\x80\0"
        assert b"specimen-static-pie" in os.fsencode(os.readlink(f"/proc/{specimen.pid}/exe"))
        members = stat_members(specimen.pid)
        assert specimen.brk() - int(members["start_brk"], 16) == 7 * PAGE


# ---- when things go wrong ------------------------------------------------------------------------


def test_a_step_that_the_kernel_refuses_is_named_and_the_next_are_not_done(
    specimen: Specimen,
) -> None:
    experiment = Experiment(
        "x",
        setup=(Map("a"), Open("f", "/none/at/all"), Close("f"), MemoryFile("ghost")),
        change={"end_code": "end_code + 1"},
    )
    before = stat_members(specimen.pid)
    with pytest.raises(SetupError) as refused:
        run(experiment, specimen=specimen)
    assert re.fullmatch(
        r'experiment "x": setup\[1\]: the kernel refused '
        r"openat\(-100, 0x[0-9a-f]+, 0x200000, 0x180\) = ENOENT \(No such file or directory\)",
        str(refused.value),
    )
    assert not any("ghost" in os.readlink(p) for p in Path(f"/proc/{specimen.pid}/fd").iterdir())
    assert stat_members(specimen.pid) == before
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)  # noqa: S301


SUICIDE = Unmap("page_down(start_code)", length="page_up(end_code) - page_down(start_code)")


def test_a_specimen_that_ends_in_its_set_up_says_where(specimen: Specimen) -> None:
    with pytest.raises(SpecimenGone) as gone:
        run(Experiment("x", setup=(Map("a"), SUICIDE, Map("b"))), specimen=specimen)
    assert re.fullmatch(
        rf"specimen {specimen.pid} was killed by SIGSEGV at munmap\(0x[0-9a-f]+, 0x1000\) "
        r'in experiment "x": setup\[1\]',
        str(gone.value),
    )
    assert gone.value.signal == signal.SIGSEGV
    assert str(pickle.loads(pickle.dumps(gone.value))) == str(gone.value)  # noqa: S301


def test_a_specimen_that_ends_in_the_call_is_an_outcome(specimen: Specimen) -> None:
    record = run(
        MOVED, specimen=specimen, on_request=lambda _: os.kill(specimen.pid, signal.SIGKILL)
    )
    assert (record.outcome.verdict, record.outcome.errno) == ("", -1)
    assert record.outcome.ended.startswith(f"specimen {specimen.pid} was killed by SIGKILL at p")
    assert record.view_after is None
    assert (record.difference, record.answers, record.later) == ((), (), ())
    assert not record.agreement.with_lab
    assert record.agreement.disagreements == ("verdict: predicted accepted, kernel no answer",)
    assert record.summary() == (
        f"moved: predicted accepted, kernel no answer ({record.outcome.ended}) - DISAGREEMENT"
    )


def test_a_specimen_that_ends_after_the_call_keeps_what_was_answered(specimen: Specimen) -> None:
    record = run(
        replace(MOVED, after=(Brk("brk + page"), SUICIDE, Brk("brk"))), specimen=specimen
    )  # fmt: skip
    assert record.outcome.verdict == "accepted"
    assert re.fullmatch(
        rf"specimen {specimen.pid} was killed by SIGSEGV at munmap\(.*\) "
        r'in experiment "moved": after\[1\]',
        record.outcome.ended,
    )
    assert [answer.step for answer in record.answers] == ["brk"]
    assert record.answers[0].answer == hex(int(record.map["brk"], 16) + PAGE)
    assert record.view_after
    assert record.view_after.cmdline == "a-new-name\0--flag\0"
    assert record.later == ()
    assert record.agreement.with_lab


def test_what_is_refused_after_the_call_is_an_answer(specimen: Specimen) -> None:
    experiment = Experiment(
        "x",
        after=(
            Unmap(1),
            Open("f", "/none/at/all"),
            Close("f"),
            Map("a", pages="before.brk - brk"),
            Brk("brk + page"),
        ),
    )
    record = run(experiment, specimen=specimen)
    refusals = [answer.refusal for answer in record.answers]
    assert refusals[0] == "munmap(0x1, 0x1000) = EINVAL (Invalid argument)"
    assert refusals[1].endswith("= ENOENT (No such file or directory)")
    assert refusals[2].startswith("experiment \"x\": after[2].close: 'f' is not a known name")
    assert refusals[3] == (
        'experiment "x": after[3].pages: 0x0 pages cannot be mapped; '
        "expected 1 or more, inside user space"
    )
    assert refusals[4] == ""
    assert record.answers[4].answer == hex(int(record.map["brk"], 16) + PAGE)


def test_a_specimen_that_ended_before_is_no_specimen(
    start_specimen: Callable[..., Specimen],
) -> None:
    specimen = start_specimen()
    specimen.stop()
    with pytest.raises(SpecimenGone, match=rf"specimen {specimen.pid} was killed by SIGKILL at "):
        run(Experiment("x"), specimen=specimen)


def test_a_specimen_that_is_given_lives_on_and_one_that_is_not_ends(
    specimen: Specimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(MOVED, specimen=specimen)
    assert specimen.alive
    started: list[Specimen] = []
    start = Subject.start

    def noted(subject: Subject) -> Specimen:
        started.append(start(subject))
        return started[-1]

    monkeypatch.setattr(Subject, "start", noted)
    record: Record = run(MOVED)
    assert record.outcome.verdict == "accepted"
    assert not started[0].alive
    assert not Path(f"/proc/{started[0].pid}").exists()


@pytest.mark.parametrize("setup", [(), (LosePrivilege(True),)], ids=["as we are", "uid 65534"])
def test_without_the_call_the_errno_depends_on_a_capability(setup: tuple[Step, ...]) -> None:
    """A guest with user-mode Linux answers so; here only the prediction is to be had."""
    facts = replace(facts_here(), available=False, refusal_errno=errno.EINVAL)
    with Specimen() as specimen:
        prepared = prepare(Experiment("x", setup=setup), specimen, facts)
        may = may_set_members(prepared.before)
    assert not (may and setup)
    assert prepared.explanation.errno == (errno.EINVAL if may else errno.EPERM)
