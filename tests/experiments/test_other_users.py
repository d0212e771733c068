"""What LXC, systemd and rr do with the call, done for real, and seen by other readers too."""

from __future__ import annotations

import errno
import json
import subprocess
from pathlib import Path

import pytest

from prctlmm_lab.experiments.experiment import Experiment, prepare, run
from prctlmm_lab.experiments.other_users import NEW, OLD, ORDERS, Place, copy_map, rename
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.kernel.abi import PR_SET_MM, Operation, PrctlMmMap
from prctlmm_lab.kernel.releases import facts_on
from prctlmm_lab.kernel.rules import explain
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, PR_SET_NAME, Specimen
from prctlmm_lab.specimen.situation import situation_of
from tests.needs import needs_ordinary_user, needs_tool
from tests.ordinary_user import as_ordinary_user

RECIPES = {each.id: each for each in shipped_recipes()["other-users"].experiments}
TITLE = "[lxc monitor] /containers web"
CAP_SYS_RESOURCE = 1 << 24


def shown_by_ps(pid: int) -> str:
    command = [needs_tool("ps"), "-ww", "-o", "args=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()


def of_stat(pid: int) -> list[int]:
    """Read the ten addresses behind the last bracket, as proc(5) counts them."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(fields[number - 3]) for number in (26, 27, 28, 45, 46, 47, 48, 49, 50, 51)]


# ---- LXC: a title, unprivileged -----------------------------------------------------------------

AS_NOBODY = """
import json, os, subprocess
from prctlmm_lab import run
from prctlmm_lab.experiments.recipe import shipped_recipes
from prctlmm_lab.experiments.experiment import set_up
(title,) = [e for e in shipped_recipes()["other-users"].experiments if e.id == "lxc-title"]
with title.specimen.start() as specimen:
    verdict = run(title, specimen=specimen).outcome.verdict
    pid = specimen.pid
    told = subprocess.run(["ps", "-ww", "-o", "uid=,args=", "-p", str(pid)], capture_output=True)
    print(json.dumps([os.getuid(), verdict, told.stdout.decode().split(None, 1)]))
"""


def test_an_ordinary_user_sets_a_title_that_ps_shows() -> None:
    needs_ordinary_user()
    needs_tool("ps")
    done = as_ordinary_user(AS_NOBODY)
    assert done.returncode == 0, done.stderr
    uid, verdict, (shown_uid, shown) = json.loads(done.stdout)
    assert uid == int(shown_uid) != 0
    assert (verdict, shown.strip()) == ("accepted", TITLE)


def test_the_title_comes_after_the_call_and_lies_in_the_heap() -> None:
    experiment = RECIPES["lxc-title"]
    with experiment.specimen.start() as specimen:
        record = run(experiment, specimen=specimen)
        assert shown_by_ps(specimen.pid) == TITLE
        (vma,) = specimen.snapshot().labelled("[heap]")
        assert int(record.map["arg_start"], 16) in range(vma.start, vma.end)
    assert record.view_after
    assert record.view_after.cmdline == "\0" * (len(TITLE) + 1)
    assert record.later == (("cmdline", "", "\0" * (len(TITLE) + 1), TITLE + "\0"),)
    assert {name for _, name, *_ in record.difference} == {"arg_start", "arg_end", ""}


def by_spaces(stat: bytes) -> dict[str, int]:
    """Find members by counting the spaces from the start of the line, and no brackets."""
    words = stat.split(b" ")
    places = {"start_code": 25, "end_code": 26, "start_stack": 27, "start_data": 44,
              "end_data": 45, "start_brk": 46, "env_start": 49, "env_end": 50}  # fmt: skip
    return {name: int(words[at]) for name, at in places.items()}


@pytest.mark.parametrize("name", [b"one", b"two words"])
def test_counting_spaces_misreads_a_thread_name_that_has_one(name: bytes) -> None:
    with Specimen() as specimen:
        specimen.syscall("prctl", PR_SET_NAME, specimen.place(name + b"\0"))
        own = specimen.current_map()
        counted = by_spaces(Path(f"/proc/{specimen.pid}/stat").read_bytes())
        assert (counted == {key: dict(own)[key] for key in counted}) == (b" " not in name)
        answer = specimen.set_map(own.changed(**counted))
        assert answer == (errno.EINVAL if b" " in name else 0)


# ---- systemd: one end after the other ----------------------------------------------------------


@pytest.mark.parametrize("operation", [Operation.ARG_START, Operation.ARG_END])
def test_one_end_alone_asks_for_the_capability(operation: Operation) -> None:
    with Specimen() as specimen:
        status = specimen.snapshot().status
        assert isinstance(status, dict)
        member = operation.name.lower()
        value = dict(specimen.current_map())[member]
        answer = -specimen.attempt("prctl", PR_SET_MM, operation, value, 0, 0)
        allowed = int(status["CapEff"], 16) & CAP_SYS_RESOURCE
        assert answer == (0 if allowed and in_first_namespace() else errno.EPERM)


def in_first_namespace() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


@pytest.mark.parametrize(
    ("place", "order", "verdicts"),
    [
        ("below", "start first", ["accepted", "accepted"]),
        ("below", "end first", ["EINVAL"]),
        ("above", "start first", ["EINVAL"]),
        ("above", "end first", ["accepted", "accepted"]),
        ("below", "both at once", ["accepted"]),
        ("above", "both at once", ["accepted"]),
    ],
)
def test_the_right_order_depends_on_where_the_new_name_lies(
    place: Place, order: str, verdicts: list[str]
) -> None:
    told = rename(place, order)
    assert [each.verdict for each in told] == verdicts
    if verdicts[-1] == "accepted":
        assert told[-1].cmdline == NEW
    else:
        assert told[-1].cmdline == OLD, "a refused call changes nothing"
    between = told[0].cmdline
    if len(told) == 2:  # both names and all that lies between them
        assert len(between) > PAGE
        assert {OLD.strip(b"\0"), NEW.strip(b"\0")} <= {*between.split(b"\0")}
    assert [tuple(each.members) for each in told] == [*ORDERS[order]][: len(told)]


def test_systemds_two_recipes_end_where_both_at_once_does() -> None:
    accepted = ("systemd-start-first", "systemd-end-first", "systemd-both-at-once")
    told = {name: run(RECIPES[name]) for name in RECIPES if name.startswith("systemd")}
    assert {n for n, r in told.items() if r.outcome.verdict == "accepted"} == {*accepted}
    both = told["systemd-both-at-once"].view_after
    assert both
    assert both.cmdline == "a new name\0"
    between = told["systemd-start-first"].view_after
    assert between
    assert between.cmdline == "a new name".ljust(PAGE, "\0")


# ---- rr: the map of another process -------------------------------------------------------------


@pytest.mark.parametrize("build", ["static", "static-pie"])
def test_one_process_takes_over_the_map_of_another(build: str) -> None:
    with Specimen(build, arguments=[b"one", b"two"]) as source, Specimen() as target:
        before = target.snapshot()
        pages = [(vma.start, vma.end) for vma in before.vmas]
        assert of_stat(source.pid) != of_stat(target.pid)
        assert copy_map(source, target) == 0
        assert of_stat(source.pid) == of_stat(target.pid)
        assert target.brk() == source.brk()
        after = target.snapshot()
        assert (after.auxv, after.exe) == (before.auxv, before.exe)
        assert [(vma.start, vma.end) for vma in after.vmas] == pages
        assert Path(f"/proc/{target.pid}/cmdline").read_bytes() != b"one\0two\0"


def test_the_struct_may_lie_in_the_callers_memory() -> None:
    record = run(RECIPES["rr-struct-in-the-tracee"])
    assert record.outcome.verdict == "accepted"
    assert record.difference == ()
    assert PrctlMmMap.unpack(bytes.fromhex(record.struct)).arg_start > 0


def test_what_rr_tells_its_user_of_was_a_rule_until_v5_14() -> None:
    experiment: Experiment = RECIPES["rr-heap-below-the-data"]
    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, facts_here())
        situation = situation_of(specimen, prepared.map)
    old = explain(situation, facts_on("v5.10", facts_here()))
    assert old.errno == errno.EINVAL
    assert old.deciding
    assert "end_data" in old.deciding.numbers
    now = explain(situation, facts_here())
    assert now.errno == (0 if facts_here().heap_below_data_accepted else errno.EINVAL)
