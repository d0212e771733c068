"""What a test needs of the machine: named skips, which a switch turns into failures.

With PRCTLMM_LAB_FORCE=1 a skip is a failure, unless this machine truly cannot have what is needed.
"""

from __future__ import annotations

import os
import shutil
from functools import cache

import pytest

from prctlmm_lab.atlas.images import X86_64, Image, images, images_elsewhere, preference
from prctlmm_lab.errors import SystemCallError
from prctlmm_lab.specimen.process import Specimen
from tests import ordinary_user

FORCE = "PRCTLMM_LAB_FORCE"


def skip_unless(condition: object, reason: str, *, impossible: bool = False) -> None:
    """Skip the test, with the reason, unless the condition holds.

    `impossible` says that nothing can be done about it here (the kernel lacks it): such a skip
    stays one when skips are forbidden.
    """
    if condition:
        return
    if os.environ.get(FORCE) == "1" and not impossible:
        pytest.fail(f"{FORCE}=1 forbids to skip: {reason}", pytrace=False)
    pytest.skip(reason)


def needs_root() -> None:
    """Skip unless the tests run as root."""
    skip_unless(os.geteuid() == 0, "only root can do this", impossible=True)


def needs_tool(name: str) -> str:
    """Skip unless a program is installed; return its path."""
    path = shutil.which(name)
    skip_unless(path, f"{name} is not installed")
    assert path is not None
    return path


def needs_guest() -> Image:
    """Skip unless another kernel can be started; return the newest that is at hand.

    What is kept by `prctlmm-lab atlas fetch` is taken, else what lies in /boot.
    """
    program = f"qemu-system-{X86_64}"
    skip_unless(shutil.which(program), f"{program} is not installed", impossible=True)
    elsewhere = (image for image in images_elsewhere() if image.machine == X86_64)
    found = images(machine=X86_64) or sorted(elsewhere, key=preference)
    reason = "no kernel is kept: prctlmm-lab atlas fetch"
    skip_unless(found, reason, impossible=True)
    return found[-1]


def needs_user_namespaces() -> None:
    """Skip unless a specimen may create a user namespace."""
    refused = _user_namespace_refusal()
    skip_unless(not refused, f"no user namespaces here: {refused}", impossible=True)


def needs_ordinary_user() -> None:
    """Skip unless a command can be run as an ordinary user."""
    refused = _ordinary_user_refusal()
    skip_unless(not refused, f"no ordinary user here: {refused}", impossible=True)


@cache
def _user_namespace_refusal() -> str:
    with Specimen() as specimen:
        try:
            specimen.enter_user_namespace()
        except SystemCallError as error:
            return str(error)
    return ""


@cache
def _ordinary_user_refusal() -> str:
    return ordinary_user.why_not()
