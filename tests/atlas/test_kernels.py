"""A kernel is a parameter: here and in a guest the same is asked, and comes back alike."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prctlmm_lab import Axis, Experiment, Sweep, run
from prctlmm_lab.atlas.images import FOLDER, Image, user_mode_linux
from prctlmm_lab.atlas.kernels import Kernel
from prctlmm_lab.errors import GuestError, InputError
from prctlmm_lab.experiments.claims import CLAIM, Finding, Verdict
from prctlmm_lab.experiments.conformance import FAIL, PASS, SKIP, CaseResult
from prctlmm_lab.experiments.record import RECORD_SCHEMA, Request, to_json
from prctlmm_lab.experiments.schema import check_line
from prctlmm_lab.specimen.probe import facts_here
from tests.needs import needs_guest, skip_unless

MOVED = Experiment("moved", change={"end_code": "end_code + page"})
REFUSED = Experiment("refused", change={"start_code": "end_code"}, rule="order.code")
HEAP = Sweep("heap", Axis("brk", "start_brk - page", "start_brk + page"))


@pytest.fixture(scope="module")
def image() -> Image:
    return needs_guest()


@pytest.fixture(scope="module")
def other(image: Image) -> Iterator[Kernel]:
    with Kernel(image.path) as kernel:
        yield kernel


@pytest.fixture(params=["here", "guest"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    if request.param == "here":
        return Kernel.here()
    found: Kernel = request.getfixturevalue("other")
    return found


def test_records_say_which_kernel_they_are_of(kernel: Kernel) -> None:
    for experiment in (MOVED, REFUSED):
        record = kernel.run(experiment)
        assert record.facts == kernel.facts()
        assert record.facts.release == kernel.release
        assert record.agreement.with_lab, record.summary()
    assert kernel.upstream in kernel.name


def test_a_record_of_a_guest_reads_as_any_other(other: Kernel) -> None:
    record = other.run(MOVED)
    assert check_line(to_json(record).encode(), RECORD_SCHEMA, "line 1") == record


def test_the_request_is_told_before_the_call(kernel: Kernel) -> None:
    told: list[Request] = []
    record = kernel.run(MOVED, on_request=told.append)
    assert [request.id for request in told] == [record.id]


def test_a_fuzz_run_finds_no_disagreement(kernel: Kernel) -> None:
    tally = kernel.fuzz(2000, seed=1)
    assert (tally.disagreements, tally.kernel, tally.seed) == (0, kernel.release, 1)
    assert tally.calls >= 2000


def test_a_sweep_finds_the_same_boundary(kernel: Kernel) -> None:
    result = kernel.sweep(HEAP)
    assert result.facts.release == kernel.release
    assert result.disagreements == 0
    assert [(each.formula, each.above.errno) for each in result.boundaries] == [("start_brk", 0)]


def test_cases_pass_and_are_told_one_by_one(kernel: Kernel) -> None:
    told: list[CaseResult] = []
    results = kernel.conformance(["order.code", "limit.data"], on_result=told.append)
    assert tuple(told) == results
    assert len(results) > 5
    assert {result.result for result in results} <= {PASS, SKIP}
    assert not [each.reasons for each in results if each.result == FAIL]


def test_root_in_a_guest_really_tests_the_legacy_operations(other: Kernel) -> None:
    results = other.conformance(["legacy.accepted"], who="root")
    assert results
    assert {result.result for result in results} == {PASS}
    refused = other.conformance(["legacy.accepted.brk"], who="user")
    assert [result.result for result in refused] == [SKIP]


def test_claims_are_settled_and_held_to_the_release_that_it_contains(kernel: Kernel) -> None:
    told: list[Finding] = []
    findings = kernel.claims(["limit.data", "brk.in_stat"], on_finding=told.append)
    assert tuple(told) == findings
    assert [found.claim for found in findings] == [
        claim for claim in CLAIM.values() if claim.id in ("limit.data", "brk.in_stat")
    ]
    assert not [found.evidence for found in findings if found.contradicts]
    assert {found.verdict for found in findings} == {Verdict.HOLDS, Verdict.FAILS}
    assert all(found.expected is not None for found in findings)


def test_a_log_of_here_is_replayed_there(kernel: Kernel) -> None:
    records = [run(MOVED), run(REFUSED), run(MOVED)]
    replayed = [*kernel.replay(records)]
    assert [each.result for each in replayed] == ["same"] * 3, [each.text() for each in replayed]
    assert [each.here for each in replayed] == ["accepted", "EINVAL", "accepted"]


def test_what_cannot_be_replayed_says_why(other: Kernel) -> None:
    record = run(MOVED)
    broken = replace(record, experiment={**record.experiment, "change": {"nothing": 1}})
    (told,) = other.replay([broken])
    assert told.result == "cannot"
    assert "nothing" in told.reason


def test_the_doctor_of_a_guest_is_of_the_guest(other: Kernel) -> None:
    diagnosis = other.doctor()
    assert diagnosis.facts is not None
    assert diagnosis.facts.release == other.release
    assert diagnosis.healthy


# ---- which kernel -----------------------------------------------------------------------------


def test_here_is_this_kernel_and_whoever_we_are() -> None:
    here = Kernel.here()
    assert here.is_here
    assert here.facts() == facts_here()
    we = "root" if os.geteuid() == 0 else "user"
    assert here.run(MOVED, who=we).outcome.verdict == "accepted"
    with pytest.raises(InputError, match="is not who we are"):
        here.run(MOVED, who="user" if we == "root" else "root")
    with pytest.raises(InputError, match="runs here"):
        _ = here.guest
    here.start().stop()


def test_a_kernel_that_is_not_kept_is_refused_with_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(InputError, match=r"prctlmm-lab atlas fetch 6\.1") as caught:
        Kernel("6.1")
    assert str(caught.value).count("\n") == 0


def test_a_file_that_is_no_kernel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"MZ" + bytes(5000))
    with pytest.raises(InputError, match="is no kernel"):
        Kernel(path)


def test_a_guest_is_started_on_first_use_and_again_after_a_crash(image: Image) -> None:
    with Kernel(image) as kernel:
        assert not kernel.is_warm
        assert kernel.start().is_warm
        first = kernel.guest.pid
        with pytest.raises(GuestError, match="crashed"):
            kernel.guest.ask("panic")
        assert not kernel.is_warm
        assert kernel.run(MOVED).outcome.verdict == "accepted"
        assert kernel.guest.pid != first
    assert not kernel.is_warm


def test_user_mode_linux_is_a_kernel_without_the_call() -> None:
    """Every request is large: its line takes only so much at a time."""
    reason = "linux.uml is not installed (package user-mode-linux)"
    skip_unless(user_mode_linux(), reason, impossible=True)
    with Kernel("um") as kernel:
        refusals = {who: kernel.facts(who=who).refusal_errno for who in ("root", "user")}
        assert refusals == {"root": errno.EINVAL, "user": errno.EPERM}
        assert not {"lowest", "highest", "auxv_capacity"} & {*kernel.facts().assumed}
        for who, least in (("root", 60), ("user", 20), ("root", 60)):
            told = kernel.conformance(who=who)
            assert [case for case in told if case.result == FAIL] == []
            assert sum(case.result == PASS for case in told) > least
