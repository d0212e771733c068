"""The exercises of notebook 09: who believes the notes, and who looks elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prctlmm_lab.course.answers import YOURS, experiment_of, number_of, word_of
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Subject, carry_out, prepare
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.kernel.abi import MEMBER, PrctlMmMap
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import PAGE, Specimen
from prctlmm_lab.witnesses.core_files import told_by_core, why_not_by_kernel
from prctlmm_lab.witnesses.hearing import READINGS, Reading
from prctlmm_lab.witnesses.processes import told_by_pgrep, told_by_ps
from prctlmm_lab.witnesses.suspicion import Suspicion, suspicions

NONE = "none"


def _parts(answer: object, keys: Mapping[str, object]) -> dict[str, object]:
    """Read an answer as a dict with exactly these keys; raise InputError otherwise."""
    if not isinstance(answer, Mapping):
        raise InputError(YOURS, "is no dict", repr(answer)[:40], f"the keys {_keys(keys)}")
    for key in answer:
        if key not in keys:
            raise InputError(YOURS, "is no key of it", repr(key)[:40], ", ".join(keys))
    for key in keys:
        if key not in answer:
            raise InputError(YOURS, f"has no {key!r}", "", f"the keys {_keys(keys)}")
    return dict(answer)


def _keys(names: Mapping[str, object]) -> str:
    return ", ".join(f'"{name}"' for name in names)


# ---- 09.1 -----------------------------------------------------------------------------------


def _reading(who: str, tells: str) -> Reading:
    return next(each for each in READINGS if each.who.startswith(who) and tells in each.tells)


_ASKED: dict[str, Reading] = {
    "ps -f": _reading("ps -f", "command line"),
    "pgrep": next(each for each in READINGS if each.who == "pgrep"),
    "[stack] in gdb": _reading("gdb, info proc mappings", "[stack]"),
    "rsp in gdb": _reading("gdb, info registers", "rsp"),
    "[heap] in perf": _reading("perf", "[heap]"),
    "psargs of a core": _reading("core file, psargs", "command line"),
    "files of a core": _reading("core file", "files"),
}


def _who_believes(answer: object) -> Told:
    said = {name: word_of(word, (*MEMBER, NONE)) for name, word in _parts(answer, _ASKED).items()}
    wrong = [
        name for name, word in said.items() if word not in (_ASKED[name].decided_by or (NONE,))
    ]
    if not wrong:
        return Told(True, "Four pass on what a map decides, three do not: comm is a note that this "
                    "call does not write; registers and mapped files are no notes.")  # fmt: skip
    first = wrong[0]
    reading, word = _ASKED[first], said[first]
    right = len(said) - len(wrong)
    if not reading.decided_by:
        why = f"no member decides what {reading.place} says of it"
    elif word == NONE:
        why = "some member does decide it"
    else:
        why = f"{word} is not what decides it"
    return Told(False, f"{right} of {len(said)} are right. {first!r} reads {reading.place} "
                f"({reading.source}): {why}.")  # fmt: skip


# ---- 09.2 -----------------------------------------------------------------------------------

_KEYS = dict.fromkeys(("file", "letters", "fname"))


def _core_of(prepared: Callable[[Specimen], tuple[int, int]]) -> Mapping[str, str]:
    """Return what the core file says of a specimen whose command line was moved."""
    with Specimen() as specimen:
        start, end = prepared(specimen)
        specimen.set_map(specimen.current_map().changed(arg_start=start, arg_end=end))
        told = told_by_core(specimen)
    if told.refusal:
        raise InputError("core file", told.refusal)
    return told.lines


def _file(specimen: Specimen) -> tuple[int, int]:
    now = specimen.current_map()
    return now.start_data, now.end_data


def _letters(specimen: Specimen) -> tuple[int, int]:
    page = specimen.map(PAGE)
    specimen.write(page, b"x" * 200)
    return page, page + 200


def _gone(specimen: Specimen) -> tuple[int, int]:
    page = specimen.map(PAGE)
    specimen.unmap(page, PAGE)
    return page, page + 200


def _psargs(answer: object) -> Told:
    said = _parts(answer, _KEYS)
    letters = number_of(said["letters"])
    file, fname = (str(said[name]).strip(" \0") for name in ("file", "fname"))
    if file != (real := _core_of(_file)["psargs"]):
        why = "That is what cmdline shows: anonymous memory only, since v4.17. " if not file else ""
        return Told(False, f"file: {why}The dump copies bytes, whatever lies behind them; those "
                    f"from start_data on begin with {real[:16]!r}.")  # fmt: skip
    if letters != (real_length := len(_core_of(_letters)["psargs"])):
        what = "The last byte must be zero." if letters == real_length + 1 else "It is cut off."
        return Told(False, f"file is right. letters: {letters} is not how many the note has room "
                    f"for. {what} `struct elf_prpsinfo` has pr_psargs[80].")  # fmt: skip
    if fname != (real := _core_of(_gone)["fname"]):
        return Told(False, f"file and letters are right. fname: not {fname!r}. fill_psinfo() copies"
                    " the arguments first and gives up if it cannot: what of the note is then "
                    "filled in?")  # fmt: skip
    return Told(True, f"psargs holds {real_length} of 200 letters, with a file behind them or not; "
                "and a command line that cannot be copied costs the whole note.")  # fmt: skip


def _no_core() -> str:
    with Specimen() as specimen:
        return why_not_by_kernel(specimen)


# ---- 09.3 and 09.4 --------------------------------------------------------------------------


@contextmanager
def _disguised(answer: object) -> Iterator[tuple[Specimen, Record]]:
    """Carry an answer out on the usual specimen, and give it while it lives."""
    experiment = experiment_of(answer, specimen=Subject())
    with experiment.specimen.start() as specimen:
        record = carry_out(prepare(experiment, specimen, facts_here()))
        if record.outcome.verdict != "accepted":
            raise InputError(YOURS, f"was refused by the kernel: {record.outcome.verdict}, rule "
                             f"{record.prediction.rule}: {record.prediction.numbers}")  # fmt: skip
        yield specimen, record


def _shown_by_ps(specimen: Specimen) -> str:
    told = told_by_ps(specimen)
    if told.refusal:
        raise InputError("ps", told.refusal)
    return told["args"]


def _list(found: tuple[Suspicion, ...]) -> str:
    """Name the findings: check and subject of each."""
    return "; ".join(f"{each.check.id} ({each.subject})" for each in found)


_TITLE, _TRACE = "/usr/sbin/cron -f", "stack.one"


def _fooled(answer: object) -> Told:
    with _disguised(answer) as (specimen, _):
        args = _shown_by_ps(specimen)
        if args != _TITLE:
            return Told(False, f"ps -f shows {args[:60]!r}, not {_TITLE!r}.")
        pgrep = told_by_pgrep(specimen, "specimen")
        if pgrep.refusal:
            raise InputError("pgrep", pgrep.refusal)
        by_name, by_line = pgrep.lines.values()
        found = suspicions(specimen.snapshot())
    others = tuple(each for each in found if each.check.id not in ("names", _TRACE))
    if by_line == "finds it":
        return Told(False, "ps -f is fooled, but pgrep -f specimen finds it.")
    if others:
        return Told(False, f"ps -f and pgrep -f are fooled, but it leaves other traces: "
                    f"{_list(others)}.")  # fmt: skip
    if not any(each.check.id == _TRACE for each in found):
        return Told(False, f"ps -f and pgrep -f are fooled, and so is {_TRACE}: it found nothing. "
                    "That is exercise 09.4.")  # fmt: skip
    return Told(True, f"ps -f and pgrep -f are fooled. pgrep without -f {by_name} still, and the "
                f"defender has {_list(found)}.")  # fmt: skip


_INNOCENT = "specimen --innocent"


def _unsuspected(answer: object) -> Told:
    with _disguised(answer) as (specimen, record):
        args = _shown_by_ps(specimen)
        if args != _INNOCENT:
            return Told(False, f"ps -f shows {args[:60]!r}, not {_INNOCENT!r}.")
        found = suspicions(specimen.snapshot())
    if found:
        first = found[0]
        return Told(False, f"{len(found)} finding{'s' if len(found) > 1 else ''}: {_list(found)}. "
                    f"The first: {first.noted}, but {first.against}.")  # fmt: skip
    if not record.experiment.get("change"):
        return Told(True, "No finding, and not even a rewritten note: the bytes alone changed, "
                    "and the kernel reads on into the environment, as for "
                    "setproctitle().")  # fmt: skip
    return Told(True, "No finding. The command line lies where execve would have put it, so there "
                "is nothing left in /proc to compare it with.")  # fmt: skip


def _no_procps() -> str:
    missing = [name for name in ("ps", "pgrep") if shutil.which(name) is None]
    return f"{missing[0]} is not installed: apt install procps" if missing else ""


# ---- 09.5 -----------------------------------------------------------------------------------


def _moved_stack(specimen: Specimen, now: PrctlMmMap) -> PrctlMmMap:
    return now.changed(start_stack=specimen.map(2 * PAGE) + PAGE)


def _shorter_environment(_: Specimen, now: PrctlMmMap) -> PrctlMmMap:
    return now.changed(env_end=now.env_end - 8)


def _other_vector(specimen: Specimen, now: PrctlMmMap) -> PrctlMmMap:
    entries = [(e.type, e.value + 8 * (e.name == "AT_EXECFN")) for e in
               specimen.snapshot().aux_entries]  # fmt: skip
    vector = encode_auxv(entries)
    page = specimen.map(PAGE)
    specimen.write(page, vector)
    return now.changed(auxv=page, auxv_size=len(vector))


_Rewrite = Callable[[Specimen, PrctlMmMap], PrctlMmMap]
_SUSPECTS: dict[int, tuple[str, bytes, _Rewrite | None]] = {
    1: ("env_end", b"specimen", _shorter_environment),
    2: (NONE, b"an-honest-program", None),
    3: ("auxv", b"specimen", _other_vector),
    4: ("start_stack", b"specimen", _moved_stack),
}
"""What was rewritten, the command line that it started with, and how."""


def suspect(number: int) -> Specimen:
    """Start one of the four suspects of exercise 09.5; whoever asks for it stops it.

    Raises InputError for another number.
    """
    if number not in _SUSPECTS:
        raise InputError("suspect", "is none of them", repr(number)[:40], "1 to 4")
    _, name, rewrite = _SUSPECTS[number]
    specimen = Specimen(arguments=[name])
    if rewrite is not None:
        specimen.set_map(rewrite(specimen, specimen.current_map()))
    return specimen


_HELP = {
    1: "both sides of the comparison are notes. What is the last byte that environ shows, and what "
       "is it for an honest process?",
    2: "how strong is the finding, and which honest programs have it?",
    3: "the finding names two notes that should be the same. environ ends as it should, so which "
       "of the two was changed?",
    4: "of eight addresses one lies elsewhere.",
}  # fmt: skip


def _culprits(answer: object) -> Told:
    if not isinstance(answer, list | tuple) or len(answer) != len(_SUSPECTS):
        raise InputError(YOURS, "is no list of four words", repr(answer)[:40],
                         '["brk", "none", ...]')  # fmt: skip
    said = [word_of(word, (*MEMBER, NONE)) for word in answer]
    wrong = [n for n, word in enumerate(said, 1) if word != _SUSPECTS[n][0]]
    if not wrong:
        return Told(True, "A comparison tells that two words differ. Which of them lies is told by "
                    "a third, and for one suspect nobody lied.")  # fmt: skip
    right = len(said) - len(wrong)
    return Told(False, f"{right} of 4 are right. Suspect {wrong[0]} is not {said[wrong[0] - 1]!r}: "
                f"{_HELP[wrong[0]]}")  # fmt: skip


EXERCISES = {
    "09.1": Exercise(
        "Who believes what",
        f"A dict with the keys {_keys(_ASKED)}. For each the name of a "
        'member that you would change to fool it, or "none" if no map fools it.',
        _who_believes,
        (
            '`readings_table()` says what each reads; its column "decided by" has the members.',
            "Only four of the seven can be fooled. Notes are what the kernel keeps; registers and "
            "mapped files are what is.",
            "ps -f and psargs: arg_start. [stack]: start_stack. [heap]: start_brk. The others: "
            "none.",
        ),
        {
            "ps -f": "arg_start",
            "pgrep": NONE,
            "[stack] in gdb": "start_stack",
            "rsp in gdb": NONE,
            "[heap] in perf": "start_brk",
            "psargs of a core": "arg_start",
            "files of a core": NONE,
        },
    ),
    "09.2": Exercise(
        "Predict a core file",
        'A dict with three predictions. "file": psargs after `arg_start = start_data` and '
        '`arg_end = end_data`, as text. "letters": how many characters psargs has, after 200 '
        'letters x in a page of its own were made the command line. "fname": what fname is, after '
        "the command line was put where nothing is mapped.",
        _psargs,
        (
            "cmdline and psargs are made by different functions of the kernel. "
            "`specimen.read(start_data, ...)` shows what lies there.",
            "fill_psinfo() copies at most 79 bytes, and turns zero bytes into spaces. If it cannot "
            "copy, it returns before it writes the rest of the note.",
            'The text begins with "This text lies in the data of the specimen"; 79 letters; '
            'and "", the empty text.',
        ),
        {
            "file": "This text lies in the data of the specimen, behind which stands a file.",
            "letters": 79,
            "fname": "",
        },
        _no_core,
    ),
    "09.3": Exercise(
        "Fool two of them",
        f"A recipe after which `ps -f` shows `{_TITLE}` and `pgrep -f specimen` does not find it, "
        f"while of the defender's checks only `names` and `{_TRACE}` do.",
        _fooled,
        (
            "Both read /proc/PID/cmdline, so they need one lie, not two.",
            "Map a page, write the two words into it with a zero byte behind each, and move "
            "arg_start and arg_end there. Leave all else as it is.",
            'setup = [{ map = "arena" }, { write = "arena.start", text = '
            '"/usr/sbin/cron\\u0000-f\\u0000" }], and arg_end is 18 bytes behind arg_start.',
        ),
        r"""[[experiment]]
id = "cron"
setup = [
  { map = "arena" },
  { write = "arena.start", text = "/usr/sbin/cron\u0000-f\u0000" },
]
change.arg_start = "arena.start"
change.arg_end = "arg_start + 18"
""",
        _no_procps,
    ),
    "09.4": Exercise(
        "Adversarial: unsuspected",
        f"A recipe after which `ps -f` shows `{_INNOCENT}`, which is more than the specimen was "
        "started with, and `suspicions` finds nothing at all.",
        _unsuspected,
        (
            "A page of your own is found by stack.one. Where would execve have put a longer "
            "command line?",
            "Behind the 9 bytes of the command line lies the environment. Nobody promised it to "
            "anybody: write over both, but keep the order that stack.order looks for.",
            'Write 20 bytes to "arg_start", and let arg_end and env_start both be 20 bytes behind '
            "it.",
        ),
        r"""[[experiment]]
id = "innocent"
setup = [{ write = "arg_start", text = "specimen\u0000--innocent\u0000" }]
change.arg_end = "arg_start + 20"
change.env_start = "arg_start + 20"
""",
        _no_procps,
    ),
    "09.5": Exercise(
        "Name the lie",
        "Four suspects were started by `suspect(1)` to `suspect(4)`. A list of four words: the "
        'member that was rewritten in each, or "none" for one whose notes are as execve left them.',
        _culprits,
        (
            "A finding names two values. Ask for each of the two what else would have to be "
            "different if it were the true one.",
            "Suspect 4: seven of eight agree. Suspects 1 and 3 have the same finding; "
            "`snapshot().environ` tells them apart.",
            "One has its environment cut short (env_end), one has another vector (auxv), one "
            "another start_stack, and one only a name.",
        ),
        ["env_end", NONE, "auxv", "start_stack"],
    ),
}
"""By number."""
