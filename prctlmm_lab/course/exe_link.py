"""The exercises of notebook 07: the exe link, in whose way what stands, and what it proves."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from prctlmm_lab.course.answers import YOURS, Trial, experiment_of, trial, word_of
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.errors import InputError, SystemCallError
from prctlmm_lab.experiments.asking import ask, refusal_of
from prctlmm_lab.experiments.exe_turns import OWN_FILES, TURNS, Turn, take_turns
from prctlmm_lab.experiments.experiment import carry_out, prepare
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.experiments.steps import (
    LosePrivilege,
    MemoryFile,
    Open,
    UserNamespace,
)
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.procfs import Snapshot
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen

ORDINARY = LosePrivilege(True)
NAMESPACE = UserNamespace(True)


def _no_namespace() -> str:
    """Say why an ordinary user can create no user namespace here, "" if he can."""
    why = refusal_of(ORDINARY, NAMESPACE)
    return f"it takes a user namespace, and {why}" if why else ""


# ---- 07.1 --------------------------------------------------------------------------------------

DESCRIPTORS = (
    ORDINARY,
    NAMESPACE,
    MemoryFile("ghost"),
    MemoryFile("locked", mode=0o644),
    Open("named", path="/proc/self/fd/{ghost}", access="path"),
    Open("folder", path="/", access="directory"),
)
ERRNOS = ("EBADF", "EACCES", "EBUSY")


def _refusals(answer: object) -> Told:
    given = _by_errno(answer)
    wrong: list[str] = []
    right: list[str] = []
    for errno in ERRNOS:
        if errno not in given:
            wrong.append(f"{errno} has no exe_fd yet")
            continue
        if not isinstance(given[errno], int | str):
            raise InputError(f"{YOURS}: {errno}", "is no exe_fd", shorten(given[errno]),
                             '"ghost", or a number')  # fmt: skip
        found = trial(experiment_of({"exe_fd": given[errno]}, setup=DESCRIPTORS))
        (right if found.verdict == errno else wrong).append(_heard(errno, given[errno], found))
    if wrong:
        return Told(False, f"{len(right)} of 3 are right. {'; '.join(wrong)}.")
    return Told(True, f"{'; '.join(right)}. First the descriptor, then its file, and only then "
                "what is still mapped.")  # fmt: skip


def _by_errno(answer: object) -> dict[str, object]:
    """Read an answer as a dict from errno names."""
    if not isinstance(answer, Mapping):
        raise InputError(YOURS, "is no dict", shorten(answer), '{"EBADF": ..., ...}')
    return {word_of(errno, ERRNOS): value for errno, value in answer.items()}


def _heard(errno: str, given: object, found: Trial) -> str:
    rule = f" by {found.rule}" if found.rule else ""
    return f"exe_fd = {shorten(given)} for {errno}: the kernel says {found.verdict}{rule}"


def _mapping_unseen() -> str:
    if why := _no_namespace():
        return why
    return "" if facts_here().mapped_exe_refused else "this kernel does not see what is mapped"


# ---- 07.2 --------------------------------------------------------------------------------------


def _empty(answer: object) -> Told:
    experiment = experiment_of(answer, setup=(ORDINARY,))
    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, facts_here())
        record = carry_out(prepared)
        if record.outcome.verdict != "accepted":
            prediction = record.prediction
            return Told(False, f"The kernel says {record.outcome.verdict} by {prediction.rule}: "
                        f"{prediction.numbers}.")  # fmt: skip
        before, after = prepared.before.exe, specimen.snapshot().exe
        if before == after:
            return Told(False, f"It was accepted, but the link still reads {after}. Which member "
                        "changes it?")  # fmt: skip
        size = int(specimen.observed("size of exe", _size_of_exe))
    if size:
        return Told(False, f"The link now reads {after}, a file of {size:#x} bytes. Name an empty "
                    "one.")  # fmt: skip
    return Told(True, f"The link reads {after}: a file of 0 bytes, and the process runs on. The "
                "kernel asks if a file may be executed, never if it could be.")  # fmt: skip


def _size_of_exe(pid: int) -> str:
    return str(os.stat(f"/proc/{pid}/exe").st_size)


# ---- 07.3 --------------------------------------------------------------------------------------


def _both_written(answer: object) -> Told:
    words = _turns_of(answer)
    turns = take_turns(words).told or ()
    refused = next((n for n, turn in enumerate(turns) if not turn.accepted), None)
    if refused is not None:
        return Told(False, f'Turn {refused + 1}, "{words[refused]}": {turns[refused].verdict}. '
                    f"{_objection(turns[refused])}")  # fmt: skip
    for name in OWN_FILES:
        named, written = f"exe {name}", f"write {name}"
        if named not in words:
            return Told(False, f"Every turn was accepted, but the link never named the {name} "
                        "file.")  # fmt: skip
        if written not in words:
            return Told(False, f"Every turn was accepted, but nobody opened the {name} file for "
                        "writing.")  # fmt: skip
    return Told(True, f"The link reads {turns[-1].exe}, and both former executables are open for "
                "writing: only the present one is guarded.")  # fmt: skip


def _objection(turn: Turn) -> str:
    if turn.word.startswith("write"):
        return f"The link reads {turn.exe}: what it names cannot be written."
    if turn.verdict == "EBUSY":
        return f"The link reads {turn.exe}, and a page of that file is mapped."
    return "That file is open for writing: it cannot be named."


def _turns_of(answer: object) -> list[str]:
    """Read an answer as a list of turns."""
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes):
        raise InputError(YOURS, "is no list of turns", shorten(answer), '["exe first", ...]')
    if len(answer) > 20:
        raise InputError(YOURS, "turns are too many", hex(len(answer)), "20 at most")
    return [word_of(word, TURNS) for word in answer]


def _unguarded() -> str:
    if why := _no_namespace():
        return why
    facts = facts_here()
    if facts.exe_changes_once:
        return "this kernel lets the link be changed only once"
    return "" if facts.written_exe_refused else "this kernel lets an executable be written"


# ---- 07.4 --------------------------------------------------------------------------------------


def _impostor(answer: object) -> Told:
    if not isinstance(answer, str | bytes):
        raise InputError(YOURS, "is no name", shorten(answer), "a text")
    name = answer if isinstance(answer, str) else os.fsdecode(answer)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(YOURS, "is no text", shorten(name)) from None
    return ask(lambda specimen, facts: _replaced(specimen, facts, name)).told or _refused_name()


def _replaced(specimen: Specimen, _facts: Facts, name: str) -> Told:
    if specimen.syscall("geteuid") == 0:
        specimen.become(65534)
    specimen.enter_user_namespace()
    specimen.release_executable()
    before, old = specimen.snapshot(), specimen.observed("inode of exe", _inode_of_exe)
    try:
        other = specimen.memory_file(name)
    except SystemCallError as error:
        return Told(False, f"No file in memory can have that name: {error}.")
    if specimen.set_map(specimen.current_map().changed(exe_fd=other)):
        return Told(False, "The kernel refused the change.")
    after, new = specimen.snapshot(), specimen.observed("inode of exe", _inode_of_exe)
    return _compared(before, after, old, new)


def _compared(before: Snapshot, after: Snapshot, old: str, new: str) -> Told:
    if before.exe != after.exe:
        return Told(False, f"Before, the link read {before.exe}; now it reads {after.exe}. Anybody "
                    "sees the difference.")  # fmt: skip
    return Told(True, f"Both times the link reads {after.exe}, and the file behind it is another "
                f"one: inode {old} before, {new} now. stat(2) of the link tells, its text does "
                "not.")  # fmt: skip


def _inode_of_exe(pid: int) -> str:
    return str(os.stat(f"/proc/{pid}/exe").st_ino)


def _refused_name() -> Told:
    return Told(False, "No file in memory can be made here.")


def _no_impostor() -> str:
    if why := _no_namespace():
        return why
    with Specimen(heap_pages=0) as specimen:
        link = str(specimen.snapshot().exe)
    return "" if re.match(r"/memfd:", link) else f"the specimen's program is no memory file: {link}"


HEAD = '[[experiment]]\nid = "empty"\ntitle = "An empty program"\n'

EXERCISES = {
    "07.1": Exercise(
        "Three refusals",
        'The specimen is root of a user namespace and has descriptors: "ghost" and "locked" are '
        'files in memory of mode 0o755 and 0o644, "named" is ghost opened with O_PATH, "folder" is '
        'the root folder. Its own executable is still mapped. Which exe_fd gives which errno? A '
        'dict: {"EBADF": ..., "EACCES": ..., "EBUSY": ...}, each with a name from above or a '
        "number.",
        _refusals,
        (
            "Several things are wrong each time: the old executable is mapped in all three. The "
            "first objection in the kernel's order is the one that you hear.",
            "EBADF: the descriptor is not open, or was opened so that nothing can be done with it. "
            "EACCES: the file is of the wrong kind or nobody may execute it.",
            '"named" gives EBADF, "locked" and "folder" give EACCES. What is left has nothing '
            "wrong with its file.",
        ),
        {"EBADF": "named", "EACCES": "locked", "EBUSY": "ghost"},
        _mapping_unseen,
    ),
    "07.2": Exercise(
        "An empty program",
        "A recipe after which the exe link of an ordinary user's specimen names a file of 0 bytes.",
        _empty,
        (
            "Three things must be done before the call: get the right to it, have a file, and let "
            "go of the old executable.",
            "A file that { memory_file = \"NAME\" } makes is empty and has its x bits. Give "
            "exe_fd its name.",
            "setup = [{ user_namespace = true }, { memory_file = \"void\" }, "
            '{ release_executable = true }], and then change.exe_fd = "void".',
        ),
        HEAD + """setup = [
  { user_namespace = true },
  { memory_file = "void" },
  { release_executable = true },
]
change.exe_fd = "void"
""",
        _no_namespace,
    ),
    "07.3": Exercise(
        "Written all the same",
        "An order of turns, each of them accepted, after which both files have once been the exe "
        'link\'s and are open for writing. A list of "exe first", "exe second", "exe shell", '
        '"write first", "write second"; what is opened for writing stays open.',
        _both_written,
        (
            "What the link names cannot be opened for writing, and what is open for writing cannot "
            "be named. So each file must be named before it is written.",
            'The second file is free only when the link names something else, and by then the '
            "first may be open for writing already.",
            "The shell is the third file: let the link name it before you write.",
        ),
        ["exe first", "exe second", "exe shell", "write first", "write second"],
        _unguarded,
    ),
    "07.4": Exercise(
        "Adversarial: an impostor",
        "The specimen makes a new file in memory and lets its exe link name it. Which name must "
        "that file have, so that the link reads as it did before the change? The name, as text.",
        _impostor,
        (
            "What did the link of a fresh specimen read, in the first cells of this notebook?",
            "The kernel itself writes /memfd: before the name of a file in memory, and "
            "(deleted) behind it.",
            "A fresh specimen's link reads /memfd:specimen-static (deleted).",
        ),
        "specimen-static",
        _no_impostor,
    ),
}  # fmt: skip
"""By number."""
