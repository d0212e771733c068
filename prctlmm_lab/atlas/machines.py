"""Machines: how a guest of each kind is started, and whether KVM truly runs one.

A machine is an architecture that QEMU emulates, or user-mode Linux: a kernel that is an ordinary
program.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from prctlmm_lab.atlas.initramfs import LAB
from prctlmm_lab.errors import InputError, UnsupportedSystem

if TYPE_CHECKING:
    from prctlmm_lab.atlas.images import Image

UML = "um"
KVM, EMULATED, PROGRAM = "kvm", "tcg", "program"
"""What runs a guest's instructions: the processor, QEMU's translator, or the running kernel."""


@dataclass(frozen=True)
class Machine:
    """How guests of one kind are started."""

    package: str
    """Debian's and Ubuntu's package with the program that runs it."""
    console: str
    line: str
    """The devices of the kernel's console and of our line, as the guest knows them."""
    options: tuple[str, ...] = ()
    """Of QEMU."""
    cpu: tuple[tuple[int, str], ...] = ((4, ""),)
    """By the levels of page tables."""
    without: str = ""
    """What an emulated processor had better not have: it is slow, and decides nothing here."""
    parameters: str = ""
    """Of the kernel."""


MACHINES: dict[str, Machine] = {
    "x86_64": Machine(
        "qemu-system-x86", "ttyS0", "ttyS1",
        ("-serial", "chardev:console", "-serial", "chardev:line"),
        ((4, "max,la57=off"), (5, "max,la57=on")),
        ",erms=off,fsrm=off,smap=off,smep=off",
        "reboot=t tsc=reliable mitigations=off",
    ),
    "aarch64": Machine(
        "qemu-system-arm", "ttyAMA0", "ttyS0",
        ("-machine", "virt", "-serial", "chardev:console",
         "-device", "pci-serial,chardev=line,romfile="),
        # By default QEMU spends most of its time on pointer authentication as Arm defines it.
        ((4, "max,pauth-impdef=on,lpa2=off"), (5, "max,pauth-impdef=on")),
    ),
    UML: Machine("user-mode-linux", "tty0", "ttyS0"),
}  # fmt: skip
"""What guests can be: by `uname -m`, and user-mode Linux."""


def architecture(machine: str) -> str:
    """Return the `uname -m` that programs of a machine are built for."""
    return platform.machine() if machine == UML else machine


def machine_of(image: Image, levels: int) -> Machine:
    """Return the machine for an image.

    Raises InputError if no guest can be one, or has page tables of so many levels.
    """
    machine = MACHINES.get(image.machine)
    if machine is None:
        raise InputError(str(image.path), "is a kernel for a machine that no guest can be",
                         image.machine, " or ".join(MACHINES))  # fmt: skip
    known = dict(machine.cpu)
    if levels not in known:
        raise InputError("levels", "of page tables are none that a guest can have", str(levels),
                         " or ".join(map(str, known)))  # fmt: skip
    return machine


@dataclass(frozen=True)
class Start:
    """A guest that is to be started."""

    image: Image
    levels: int
    memory: int
    """In MiB."""
    cpus: int
    archive: Path
    """Its first file system."""
    program: str
    """The Python in it."""

    def command(self, accelerator: str, console: int) -> list[str]:
        """Return the command line that runs it.

        The console goes to the descriptor `console`, and the line is standard input.

        Raises UnsupportedSystem without QEMU, with the name of its package.
        """
        machine = machine_of(self.image, self.levels)
        if accelerator == PROGRAM:
            return [
                str(self.image.path), f"mem={self.memory}M", f"initrd={self.archive}",
                "con=null", f"con0=null,fd:{console}", "ssl=null", "ssl0=fd:0,fd:0",
                "uml_dir=/dev/null/", "quiet", *self._parameters(machine).split(),
            ]  # fmt: skip
        cpu = dict(machine.cpu)[self.levels] + (machine.without if accelerator == EMULATED else "")
        return [
            qemu(self.image.machine), "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-monitor", "none", "-m", str(self.memory), "-smp", str(self.cpus),
            "-accel", accelerator, "-cpu", cpu,
            "-kernel", str(self.image.path), "-initrd", str(self.archive),
            "-append", self._parameters(machine),
            "-chardev", f"file,id=console,path=/proc/self/fd/{console}",
            "-chardev", "socket,id=line,fd=0", *machine.options,
        ]  # fmt: skip

    def _parameters(self, machine: Machine) -> str:
        """Return the kernel's command line: Python is process 1, and knows the line's device."""
        return (
            f"console={machine.console} panic=-1 oops=panic quiet {machine.parameters} "
            f"rdinit={self.program} -- -S -B -E {LAB} /dev/{machine.line}"
        )


def qemu(machine: str) -> str:
    """Return the emulator for a machine.

    Raises UnsupportedSystem with the name of its package if it is not installed.
    """
    name = f"qemu-system-{machine}"
    if found := shutil.which(name):
        return found
    raise UnsupportedSystem(
        f"{name} is not installed, and other kernels run in it",
        f"Install the package {MACHINES[machine].package}.",
    )


# ---- KVM --------------------------------------------------------------------------------------

_kvm_failed = False


def accelerators(image: Image, levels: int) -> tuple[str, ...]:
    """Return what may run a guest, the fastest first; the last one works everywhere."""
    if image.machine == UML:
        return (PROGRAM,)
    return (KVM, EMULATED) if _may_use_kvm(image.machine, levels) else (EMULATED,)


def distrust_kvm() -> None:
    """Use KVM no more in this process: a guest did not start with it."""
    global _kvm_failed
    _kvm_failed = True


def _may_use_kvm(machine: str, levels: int) -> bool:
    if _kvm_failed or platform.machine() != machine or machine != "x86_64":
        return False
    if levels == 5 and " la57" not in Path("/proc/cpuinfo").read_text():
        return False
    return kvm_works()


@cache
def kvm_works() -> bool:
    """Tell whether KVM truly runs a guest's instructions here: it is asked to run three.

    A /dev/kvm that can be opened is not enough: in a nested machine it may fail later on. The
    guest is a ROM whose first instructions tell QEMU to exit with a certain status.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    rom = bytearray(b"\xf4" * 0x10000)  # hlt
    rom[0xFFF0:0xFFF6] = bytes((0xBA, 0xF4, 0x00, 0xB0, 0x10, 0xEE))  # 0x10 to port 0xf4
    file = os.memfd_create("rom", os.MFD_CLOEXEC)
    try:
        os.write(file, rom)
        script = 'ulimit -c 0; exec "$@"'  # a QEMU that gives up leaves no core file
        ended = subprocess.run(
            ["/bin/sh", "-c", script, "sh", qemu("x86_64"), "-nodefaults", "-no-user-config",
             "-display", "none", "-no-reboot", "-m", "16", "-accel", "kvm", "-cpu", "max",
             "-bios", f"/proc/self/fd/{file}", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"],
            pass_fds=[file], stdin=subprocess.DEVNULL, capture_output=True, timeout=10, cwd="/",
            check=False,
        )  # fmt: skip
    except (OSError, UnsupportedSystem, subprocess.TimeoutExpired):
        return False
    finally:
        os.close(file)
    return ended.returncode == 0x10 << 1 | 1
