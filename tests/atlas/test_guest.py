"""A guest: what it is asked it does, what becomes of it is said, and nothing is left of it."""

from __future__ import annotations

import copy
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prctlmm_lab.atlas import guest as module
from prctlmm_lab.atlas.guest import Guest
from prctlmm_lab.atlas.images import X86_64, Image, user_mode_linux
from prctlmm_lab.atlas.initramfs import initramfs
from prctlmm_lab.atlas.machines import kvm_works
from prctlmm_lab.errors import GuestError, InputError, UnsupportedSystem
from prctlmm_lab.experiments.experiment import Experiment, SetupError
from prctlmm_lab.experiments.steps import Unmap
from prctlmm_lab.kernel.abi import U64
from tests.needs import needs_guest, skip_unless

TOP = Path(__file__).resolve().parents[2]
DEADLINE = 180.0
ALL_CAPABILITIES = 0x1FF_FFFF_FFFF
"""Up to CAP_CHECKPOINT_RESTORE, bit 40: every kernel from 5.9 on has them."""


@pytest.fixture(scope="module")
def image() -> Image:
    return needs_guest()


@pytest.fixture(scope="module")
def guest(image: Image) -> Iterator[Guest]:
    with Guest(image) as started:
        yield started


# ---- what it is asked -------------------------------------------------------------------------


def test_another_kernel_answers_as_root_and_as_ordinary_user(guest: Guest, image: Image) -> None:
    records = [guest.ask("run", who, experiment=Experiment("identity")) for who in ("root", "user")]
    assert [record.facts.release for record in records] == [image.release] * 2
    assert [record.outcome.verdict for record in records] == ["accepted"] * 2
    assert [record.privilege.uid for record in records] == [0, 65534]
    root, user = (int(record.privilege.capabilities, 16) for record in records)
    assert root & ALL_CAPABILITIES == ALL_CAPABILITIES
    assert user == 0


def test_it_stays_warm_and_the_console_is_its_own(guest: Guest) -> None:
    pid = guest.pid
    for _ in range(3):
        assert guest.ask("facts").machine == "x86_64"
    assert guest.pid == pid
    assert guest.alive


def test_an_error_of_the_lab_in_the_guest_is_raised_here(guest: Guest) -> None:
    with pytest.raises(SetupError, match="the kernel refused munmap"):
        guest.ask("run", experiment=Experiment("odd", setup=(Unmap(1, 4096),)))
    assert guest.ask("facts").available, "it goes on"


@pytest.mark.parametrize(("name", "who"), [("eval", "root"), ("facts", "nobody")])
def test_what_it_does_not_know_is_refused_before_it_is_asked(
    guest: Guest, name: str, who: str
) -> None:
    with pytest.raises(InputError, match="is unknown to a guest"):
        guest.ask(name, who)


def test_a_mistake_of_ours_in_the_guest_is_told_with_its_place(guest: Guest) -> None:
    with pytest.raises(GuestError, match=r"failed in its guest at facts(.|\n)*TypeError"):
        guest.ask("facts", nothing=1)
    assert guest.ask("facts").available, "it goes on"


def test_the_ordinary_user_cannot_crash_it(guest: Guest) -> None:
    with pytest.raises(GuestError, match="PermissionError"):
        guest.ask("panic", "user")
    assert guest.ask("facts", "user").available


def test_an_interrupt_ends_the_work_and_not_the_guest(guest: Guest) -> None:
    pid = guest.pid

    def interrupt(tally: object) -> None:
        raise KeyboardInterrupt

    tally = guest.ask("fuzz", on_told=interrupt, calls=10**9, seed=1)
    assert tally.interrupted
    assert 0 < tally.calls < 10**9
    assert tally.disagreements == 0
    assert (guest.pid, guest.ask("facts").available) == (pid, True)


# ---- what becomes of it -----------------------------------------------------------------------


def test_a_crash_is_an_error_with_the_end_of_the_console(image: Image) -> None:
    with Guest(image) as guest:
        with pytest.raises(GuestError, match="crashed in its guest at panic") as caught:
            guest.ask("panic")
        assert "sysrq" in caught.value.console.lower()
        assert "Kernel panic" in caught.value.console
        again = copy.deepcopy(caught.value)
        assert str(again) == str(caught.value)
        assert not guest.alive
        with pytest.raises(GuestError, match="is gone in its guest at facts"):
            guest.ask("facts")


def test_a_guest_that_somebody_ends_has_not_crashed(image: Image) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with Guest(image) as guest:
            os.kill(guest.pid, number)
            with pytest.raises(GuestError, match="was ended"):
                guest.ask("fuzz", calls=10**9)


def test_a_guest_that_hangs_is_ended(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    with Guest(image) as guest:
        os.kill(guest.pid, signal.SIGSTOP)
        monkeypatch.setattr(module, "SILENCE", 1.5)
        with pytest.raises(GuestError, match="hangs in its guest at facts"):
            guest.ask("facts")
        assert not guest.alive


def test_work_that_is_not_done_in_time_is_ended(image: Image) -> None:
    with Guest(image) as guest:
        with pytest.raises(GuestError, match="is not done in time in its guest at fuzz"):
            guest.ask("fuzz", calls=10**9, deadline=1.5)
        assert not guest.alive


def test_a_kernel_that_does_not_get_up_is_told_with_its_last_words(image: Image) -> None:
    with pytest.raises(GuestError, match="crashed in its guest at its start") as caught:
        Guest(image, memory=160)
    assert "panic" in caught.value.console


def test_what_qemu_refuses_is_told_in_its_words(tmp_path: Path, image: Image) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bytes(4096))
    wrong = Image(path, "9.9", "", "", X86_64)
    with pytest.raises(GuestError, match="could not be run by QEMU in its guest at its start") as c:
        Guest(wrong)
    assert "qemu" in c.value.console


def test_without_qemu_the_package_is_named(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnsupportedSystem, match="the package qemu-system-x86"):
        Guest(image)


def test_a_machine_or_a_depth_that_no_guest_has_is_refused(image: Image) -> None:
    with pytest.raises(InputError, match="no guest can be"):
        Guest(Image(image.path, "6.1", "", "", "s390x"))
    with pytest.raises(InputError, match="levels"):
        Guest(image, levels=3)


def test_five_levels_of_page_tables_make_a_larger_address_space(guest: Guest, image: Image) -> None:
    if int(image.series.split(".")[0]) < 6:
        pytest.skip("this kernel is built without 5-level page tables")
    assert guest.ask("facts").highest == (1 << 47) - 4096 - 1
    with Guest(image, levels=5) as five:
        assert five.ask("facts").highest == (1 << 56) - 4096 - 1 < U64


def test_kvm_is_used_only_where_it_runs_a_guest(guest: Guest) -> None:
    assert guest.accelerator == ("kvm" if kvm_works() else "tcg")


def test_user_mode_linux_is_a_kernel_without_the_call() -> None:
    image = user_mode_linux()
    skip_unless(image, "user-mode-linux is not installed", impossible=True)
    assert image is not None
    with Guest(image) as guest:
        facts = guest.ask("facts")
        assert (facts.release, facts.available) == (image.release, False)
        for who, errno in (("root", "EINVAL"), ("user", "EPERM")):
            record = guest.ask("run", who, experiment=Experiment("identity"))
            assert (record.outcome.verdict, record.prediction.rule) == (errno, "call.option")
            assert record.agreement.with_lab
        with pytest.raises(GuestError, match="crashed in its guest at panic"):
            guest.ask("panic")


# ---- nothing is left --------------------------------------------------------------------------

OWNER = """
import sys, time
sys.path.insert(0, {top!r})
from pathlib import Path
from prctlmm_lab.atlas.guest import Guest
from prctlmm_lab.atlas.images import image_at
guest = Guest(image_at({path!r}))
print(guest.pid, flush=True)
{then}
"""


@pytest.mark.parametrize("then", ["time.sleep(1000)", "", "import os; os._exit(0)"],
                         ids=["killed", "ends", "ends at once"])  # fmt: skip
def test_a_guest_ends_with_its_owner_however_that_ends(image: Image, then: str) -> None:
    program = OWNER.format(top=str(TOP), path=str(image.path), then=then)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as owner:  # fmt: skip
        assert owner.stdout is not None
        ready, _, _ = select.select([owner.stdout], [], [], DEADLINE)
        assert ready
        pid = int(owner.stdout.readline())
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return  # it has ended with its owner already
        try:
            if "sleep" in then:
                owner.kill()
            assert select.select([pidfd], [], [], 30)[0], "QEMU outlived its owner"
        finally:
            os.close(pidfd)
            owner.kill()
            owner.wait(DEADLINE)


def test_a_fork_of_the_owner_leaves_the_guest_alone(guest: Guest) -> None:
    child = os.fork()
    if child == 0:
        guest.stop()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert guest.ask("facts").available


def test_nothing_has_a_place_in_a_folder(guest: Guest) -> None:
    """QEMU's files and sockets have no names that could be left behind."""
    targets = {os.readlink(f"/proc/{guest.pid}/fd/{number}")
               for number in os.listdir(f"/proc/{guest.pid}/fd")}  # fmt: skip
    named = {target for target in targets if target.startswith("/") and "memfd:" not in target}
    kept = (str(initramfs(X86_64)), str(guest.image.path))
    assert {n for n in named if not n.startswith(("/dev/", "/proc", *kept))} == set()
