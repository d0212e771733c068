"""Snapshots of real processes, against other sources and with the most hostile names."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.procfs import LIMIT_NAMES, Limit, Snapshot, Unreadable, Vma, read_snapshot
from prctlmm_lab.specimen.process import PR_SET_NAME, RESOURCES, Specimen
from tests.conftest import StartSpecimen
from tests.needs import needs_ordinary_user, needs_root, needs_tool, skip_unless
from tests.ordinary_user import as_ordinary_user

COMMS = [b"a) b (c\n", b") S 1 1 1", b"\\n\\", b" x ", b"\xff\xfe", b"\t:\tPid: 1", b""]
NAMES = [
    b"x (deleted)",
    b"two\nlines",
    b"literal\\012escape",
    b"a  b ) ( c",
    b"\xff\xfe",
    b"[heap]",
    b"\n (deleted)",
    b" leading and trailing ",
]


# ---- hostile names --------------------------------------------------------------------------


@pytest.mark.parametrize("comm", COMMS)
def test_the_name_of_a_process(specimen: Specimen, comm: bytes) -> None:
    specimen.syscall("prctl", PR_SET_NAME, specimen.place(comm + b"\0"))
    snapshot = specimen.snapshot()
    assert not isinstance(snapshot.stat, Unreadable)
    assert not isinstance(snapshot.status, Unreadable)
    kernel = Path(f"/proc/{specimen.pid}/comm").read_bytes()
    assert kernel == comm + b"\n"
    assert os.fsencode(snapshot.stat.comm) == comm
    assert os.fsencode(snapshot.status["Name"]) == comm
    assert snapshot.stat["pid"] == specimen.pid
    assert snapshot.status["Pid"] == str(specimen.pid)


def mapped(specimen: Specimen, path: bytes, data: bytes = b"contents") -> tuple[Vma, int]:
    """Make a file, map it into the specimen; return the VMA of a snapshot, and the inode."""
    Path(os.fsdecode(path)).write_bytes(data)
    descriptor = specimen.open(path)
    address = specimen.map(4096, permissions="r--", descriptor=descriptor)
    specimen.close(descriptor)
    return vma_at(specimen, address), os.stat(path).st_ino


def vma_at(specimen: Specimen, address: int) -> Vma:
    vma = specimen.snapshot().vma_at(address)
    assert vma is not None
    return vma


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_mapped_file(specimen: Specimen, tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    vma, inode = mapped(specimen, path)
    assert os.fsencode(vma.path) == path
    assert (vma.inode, vma.deleted, vma.label) == (inode, False, "")
    assert (vma.permissions, vma.size, vma.is_anonymous) == ("r--p", 4096, False)


@pytest.mark.parametrize("name", [b"gone", b"x (deleted)", b"two\nlines", b"\xff\xfe"])
def test_the_name_of_a_deleted_file(specimen: Specimen, tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    before, _ = mapped(specimen, path)
    os.unlink(path)
    vma = vma_at(specimen, before.start)
    assert (os.fsencode(vma.path), vma.deleted) == (path, True)


def test_a_new_file_of_a_deleted_ones_name(specimen: Specimen, tmp_path: Path) -> None:
    before, _ = mapped(specimen, os.fsencode(tmp_path / "x"))
    os.unlink(tmp_path / "x")
    (tmp_path / "x (deleted)").write_bytes(b"another")
    vma = vma_at(specimen, before.start)
    assert (vma.path, vma.deleted) == (str(tmp_path / "x"), True)


def test_paths_are_those_of_the_kernels_own_links(specimen: Specimen, tmp_path: Path) -> None:
    needs_root()
    for name in NAMES:
        mapped(specimen, os.path.join(os.fsencode(tmp_path), name))
    (tmp_path / "x (deleted)").unlink()
    folder = Path(f"/proc/{specimen.pid}/map_files")
    links = {link.name: os.readlink(link) for link in folder.iterdir()}
    ours = {
        f"{v.start:x}-{v.end:x}": v.path + " (deleted)" * v.deleted
        for v in specimen.snapshot().vmas
        if v.path
    }
    assert len(ours) >= len(NAMES) + 3
    assert ours == links


def test_a_program_with_a_hostile_name(start_specimen: StartSpecimen, tmp_path: Path) -> None:
    program = tmp_path / "a) b (c\n (deleted)"
    shutil.copy(needs_tool("sleep"), program)
    specimen = start_specimen()
    specimen.execute(str(program), [b"first\n ) (", b"60"], [b"X=\xff", b"no equals sign"])
    snapshot = specimen.snapshot()
    assert not isinstance(snapshot.stat, Unreadable)
    assert snapshot.stat.comm == program.name[:15]
    assert snapshot.exe == str(program)
    assert snapshot.cmdline == b"first\n ) (\x0060\0"
    assert snapshot.environ == b"X=\xff\0no equals sign\0"
    assert snapshot.brk is None
    assert str(program) in {vma.path for vma in snapshot.vmas}


# ---- parsed late ----------------------------------------------------------------------------


def test_a_name_in_doubt_is_what_it_was_at_the_moment(specimen: Specimen, tmp_path: Path) -> None:
    before, _ = mapped(specimen, os.fsencode(tmp_path / "x (deleted)"))
    there = specimen.snapshot(smaps=True)
    os.rename(tmp_path / "x (deleted)", tmp_path / "kept")
    (tmp_path / "x (deleted)").write_bytes(b"another")
    moved = specimen.snapshot(smaps=True)
    os.unlink(tmp_path / "kept")
    for snapshot in (there, moved):
        vma = snapshot.vma_at(before.start)
        assert vma is not None
        path = tmp_path / ("x (deleted)" if snapshot is there else "kept")
        assert (vma.path, vma.deleted) == (str(path), False)
        assert isinstance(snapshot.smaps, tuple)
        assert vma in [area for area, _ in snapshot.smaps]


def test_a_snapshot_is_the_same_whenever_it_is_parsed(specimen: Specimen) -> None:
    snapshot = specimen.snapshot(smaps=True)
    early = pickle.loads(pickle.dumps(snapshot))  # noqa: S301
    names = [field.name for field in fields(Snapshot)]
    whole = Snapshot(**{name: getattr(snapshot, name) for name in names})
    late = pickle.loads(pickle.dumps(snapshot))  # noqa: S301
    assert early == snapshot == whole == late == copy.deepcopy(snapshot)
    assert repr(early) == repr(whole)
    assert replace(early, brk=None) == replace(whole, brk=None) != whole
    assert snapshot.maps is snapshot.maps
    with pytest.raises(FrozenInstanceError):
        snapshot.maps = ()  # type: ignore[misc]


# ---- other sources --------------------------------------------------------------------------


def kilobytes(text: str) -> int:
    assert text.endswith(" kB")
    return int(text.removesuffix(" kB"))


def test_stat_says_what_ps_says(specimen: Specimen) -> None:
    os.kill(specimen.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, specimen.pid, os.WSTOPPED | os.WNOWAIT)
    columns = "pid,ppid,pgid,sid,tpgid,nice,nlwp,vsz,rss,maj_flt,cls,rtprio,psr,state,comm"
    names = columns.split(",")
    command = [needs_tool("ps"), "-ww", "-o", f"{columns.replace(',', '=,')}=", "-p"]
    done = subprocess.run([*command, str(specimen.pid)], capture_output=True, timeout=10)
    shown = dict(zip(names, done.stdout.decode().split(), strict=True))
    stat = read_snapshot(specimen.pid).stat
    assert not isinstance(stat, Unreadable)
    ours = {
        "pid": stat["pid"],
        "ppid": stat["ppid"],
        "pgid": stat["pgrp"],
        "sid": stat["session"],
        "tpgid": stat["tpgid"],
        "nice": stat["nice"],
        "nlwp": stat["num_threads"],
        "vsz": stat["vsize"] // 1024,
        "rss": stat["rss"] * resource.getpagesize() // 1024,
        "maj_flt": stat["majflt"],
        "cls": {0: "TS", 1: "FF", 2: "RR", 3: "B", 5: "IDL"}[stat["policy"]],
        "rtprio": stat["rt_priority"] or "-",
        "psr": stat["processor"],
        "state": stat.state,
        "comm": stat.comm,
    }
    # Resident memory is counted apart on each processor, and summed up now and then.
    assert abs(int(shown.pop("rss")) - int(str(ours.pop("rss")))) < 256
    assert {name: str(value) for name, value in ours.items()} == shown


def test_stat_lies_between_two_looks_at_ones_own_usage() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    stat = read_snapshot().stat
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert not isinstance(stat, Unreadable)
    tick = os.sysconf("SC_CLK_TCK")
    assert before.ru_minflt <= stat["minflt"] <= after.ru_minflt
    assert before.ru_majflt <= stat["majflt"] <= after.ru_majflt
    ticks = stat["utime"] + stat["stime"]
    spent = [(usage.ru_utime + usage.ru_stime) * tick for usage in (before, after)]
    assert int(spent[0]) - 2 <= ticks <= spent[1]
    soft = resource.getrlimit(resource.RLIMIT_RSS)[0]
    assert stat["rsslim"] == soft % (1 << 64)


def test_stat_of_an_own_address_space_says_where_its_parts_are(specimen: Specimen) -> None:
    snapshot = specimen.snapshot()
    stat = snapshot.stat
    assert not isinstance(stat, Unreadable)
    arguments = specimen.read(stat["arg_start"], stat["arg_end"] - stat["arg_start"])
    assert arguments == b"specimen\0" == snapshot.cmdline
    variables = specimen.read(stat["env_start"], stat["env_end"] - stat["env_start"])
    assert variables == b"LAB=prctlmm_lab\0" == snapshot.environ
    (argc,) = specimen.read(stat["start_stack"], 8)[:1]
    assert argc == 1
    assert specimen.read(stat["start_data"], 9) == b"This text"
    assert stat["end_data"] - stat["start_data"] == 72
    assert specimen.read(stat["start_code"], 3) == b"\x48\x81\xec"  # sub $192, %rsp
    stack = snapshot.vma_at(stat["start_stack"])
    assert stack is not None
    assert stack.label == "[stack]"
    assert snapshot.brk == specimen.syscall("brk", 0)


def test_statm_and_stat_say_what_status_says(specimen: Specimen) -> None:
    snapshot = specimen.snapshot(smaps=True)
    statm, status, stat = snapshot.statm, snapshot.status, snapshot.stat
    assert not isinstance(statm, Unreadable)
    assert not isinstance(status, Unreadable)
    assert not isinstance(stat, Unreadable)
    page = resource.getpagesize() // 1024
    size = {name: kilobytes(text) for name, text in status.items() if name.startswith("Vm")}
    assert statm["size"] * page == size["VmSize"] == stat["vsize"] // 1024
    assert statm["text"] * page == size["VmExe"]
    assert statm["data"] * page == size["VmData"] + size["VmStk"]
    assert (statm["lib"], statm["dt"]) == (0, 0)
    assert stat["num_threads"] == int(status["Threads"])
    assert stat["ppid"] == int(status["PPid"]) == os.getpid()
    assert int(status["Uid"].split()[0]) == os.getuid()


def test_smaps_are_maps_with_sizes(specimen: Specimen) -> None:
    specimen.write(specimen.map(1 << 20), b"x" * 10000)
    snapshot = specimen.snapshot(smaps=True)
    assert isinstance(snapshot.smaps, tuple)
    assert not isinstance(snapshot.statm, Unreadable)
    assert tuple(vma for vma, _ in snapshot.smaps) == snapshot.maps
    sizes = [(vma, kilobytes(shown["Size"]) * 1024) for vma, shown in snapshot.smaps]
    assert all(vma.size == size for vma, size in sizes)
    own = sum(size for vma, size in sizes if vma.label != "[vsyscall]")
    assert own == snapshot.statm["size"] * resource.getpagesize()
    for vma, shown in snapshot.smaps:
        flags = shown["VmFlags"].split()
        letters = "".join(
            letter if flag in flags else "-"
            for letter, flag in zip("rwx", ("rd", "wr", "ex"), strict=True)
        )
        assert vma.permissions[:3] == letters
    assert read_snapshot(specimen.pid).smaps is None


def test_limits_are_those_of_prlimit(specimen: Specimen) -> None:
    specimen.set_limit("DATA", (1 << 64) - 2)
    specimen.set_limit("STACK", 4096)
    limits = specimen.snapshot().limits
    assert not isinstance(limits, Unreadable)
    assert set(limits) == set(LIMIT_NAMES.values()) == {f"RLIMIT_{name}" for name in RESOURCES}
    for name in RESOURCES:
        told = specimen.limit(name)
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is not None:
            pair = resource.prlimit(specimen.pid, number)
            assert tuple(value % (1 << 64) for value in pair) == told
        unlimited = (1 << 64) - 1
        assert limits[f"RLIMIT_{name}"] == Limit(*(None if n == unlimited else n for n in told))
    assert limits["RLIMIT_DATA"].soft == (1 << 64) - 2
    assert limits["RLIMIT_STACK"].soft == 4096


def test_the_own_process() -> None:
    snapshot = read_snapshot()
    assert snapshot.pid == os.getpid()
    assert snapshot.exe == os.path.realpath(sys.executable)
    assert isinstance(snapshot.cmdline, bytes)
    assert snapshot.cmdline == Path("/proc/self/cmdline").read_bytes()
    assert snapshot.environ == Path("/proc/self/environ").read_bytes()
    assert snapshot.auxv == Path("/proc/self/auxv").read_bytes()


# ---- what cannot be read ---------------------------------------------------------------------


def test_what_another_users_process_hides_carries_its_errno(start_specimen: StartSpecimen) -> None:
    needs_root()
    needs_ordinary_user()
    specimen = start_specimen()
    code = f"""
import json
from prctlmm_lab.kernel.procfs import STAT_MEMBERS, Unreadable, read_snapshot
snapshot = read_snapshot({specimen.pid}, smaps=True)
parts = "stat statm status maps auxv cmdline environ exe limits smaps".split()
refused = dict((p, getattr(snapshot, p).errno_name) for p in parts
               if isinstance(getattr(snapshot, p), Unreadable))
print(json.dumps([refused, [snapshot.stat[m] for m in STAT_MEMBERS], snapshot.statm["text"],
    snapshot.cmdline.decode(), snapshot.vmas, snapshot.aux_entries, str(snapshot.exe)]))
"""
    done = as_ordinary_user(code)
    assert done.stderr == ""
    refused, members, text, cmdline, vmas, entries, exe = json.loads(done.stdout)
    assert set(refused) == {"maps", "auxv", "environ", "exe", "smaps"}
    assert set(refused.values()) <= {"EACCES", "EPERM"}
    assert members == [1, 1] + [0] * 8
    assert (text, cmdline, vmas, entries) == (1, "specimen\0", [], [])
    assert exe in ("not readable (EACCES)", "not readable (EPERM)")


def test_a_pid_that_is_gone_is_one_sentence() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(InputError) as caught:
        read_snapshot(process.pid)
    shown = f"no process has number {process.pid} ({process.pid:#x}); it may have ended"
    assert str(caught.value) == f"pid: {shown}"


@pytest.mark.parametrize("pid", [0, -1, True, 1 << 31, "1", "../self", "", None])
def test_what_is_no_pid_is_refused(pid: object) -> None:
    with pytest.raises(InputError, match=r"^pid: .* is not a process number; expected a whole"):
        read_snapshot(pid)  # type: ignore[arg-type]


def test_a_huge_pid_is_refused_briefly() -> None:
    with pytest.raises(InputError, match=r"^pid: .{,80} is not a process number"):
        read_snapshot(1 << 20000)


def test_a_zombie_has_no_address_space() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    snapshot = read_snapshot(process.pid, smaps=True)
    assert not isinstance(snapshot.stat, Unreadable)
    assert not isinstance(snapshot.status, Unreadable)
    assert snapshot.stat.state == "Z"
    assert set(snapshot.stat.members.values()) == {0}
    assert "VmSize" not in snapshot.status
    assert (snapshot.vmas, snapshot.cmdline, snapshot.smaps) == ((), b"", ())
    assert isinstance(snapshot.exe, Unreadable)
    assert snapshot.exe.errno_name == "ENOENT"
    process.wait()


def test_a_kernel_thread() -> None:
    threads = [f for f in Path("/proc").glob("[0-9]*/stat") if b"(kthreadd)" in f.read_bytes()]
    skip_unless(threads, "no kernel threads in this pid namespace", impossible=True)
    snapshot = read_snapshot(int(threads[0].parent.name))
    assert snapshot.cmdline == b""
    assert isinstance(snapshot.exe, Unreadable)


def test_memory_that_the_kernel_maps_is_not_anonymous(specimen: Specimen) -> None:
    page = specimen.map(4096)
    snapshot = specimen.snapshot()
    names = {vma.label or vma.path: vma.is_anonymous for vma in snapshot.vmas}
    assert names["[vdso]"] is False
    assert (names["[heap]"], names["[stack]"]) == (True, True)
    assert vma_at(specimen, page).is_anonymous
    assert page in vma_at(specimen, page)
    assert page + 4096 not in vma_at(specimen, page)
    assert re.fullmatch(rf"{page:#x}-{page + 4096:#x} rw-p", str(vma_at(specimen, page)))


def test_several_areas_may_carry_one_label(specimen: Specimen) -> None:
    pages = specimen.map(3 * 4096)
    specimen.protect(pages + 4096, 4096, "r--")
    new = specimen.current_map().changed(start_brk=pages, brk=pages + 3 * 4096)
    assert specimen.set_map(new) == 0
    heap = specimen.snapshot().labelled("[heap]")
    assert [(vma.start - pages, vma.permissions) for vma in heap] == [
        (0, "rw-p"),
        (4096, "r--p"),
        (8192, "rw-p"),
    ]


def test_a_process_that_is_stopped_can_be_looked_at(specimen: Specimen) -> None:
    os.kill(specimen.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, specimen.pid, os.WSTOPPED | os.WNOWAIT)
    snapshot = read_snapshot(specimen.pid)
    assert not isinstance(snapshot.stat, Unreadable)
    assert snapshot.stat.state == "T"
    os.kill(specimen.pid, signal.SIGCONT)
    assert specimen.syscall("getpid") == specimen.pid
