"""The exercises of notebook 00: what a command line is to the kernel, and to ps."""

from __future__ import annotations

from prctlmm_lab.course.answers import YOURS, Trial, experiment_of, trial
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.experiments.steps import Map, Write
from prctlmm_lab.kernel.abi import ADDRESSES
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable
from prctlmm_lab.specimen.process import PAGE, Specimen

# ---- 00.1 --------------------------------------------------------------------------------------

TAIL = b"tail\0-f\0/var/log/syslog\0"


def _three_words(answer: object) -> Told:
    text = _bytes_of(answer)
    with Specimen() as specimen:
        page = specimen.map(PAGE)
        specimen.write(page, text)
        new = specimen.current_map().changed(arg_start=page, arg_end=page + len(text))
        errno = specimen.set_map(new)
        shown = _cmdline(specimen.snapshot())
    if errno:
        return Told(False, f"The call was refused: errno {errno}.")
    told = f"cmdline shows {shorten(shown)}"
    if shown == TAIL:
        return Told(True, f"cmdline holds {len(shown)} bytes: three words, a zero byte after each. "
                    "ps writes a space for a zero byte; the file has no spaces.")  # fmt: skip
    if len(shown) < len(text):
        return Told(False, f"{told}, {len(text) - len(shown)} bytes less than you wrote. Your last "
                    f"byte is {text[-1:]!r}, not zero: the kernel takes that for a title, and "
                    "a title ends at its first zero byte.")  # fmt: skip
    if shown.replace(b" ", b"\0").rstrip(b"\0") == TAIL.rstrip(b"\0"):
        end = "" if shown.endswith(b"\0") else ", without a zero byte at its end"
        return Told(False, "ps prints the line that you want, but the file says something else: "
                    f"{told}, one word with spaces in it{end}.")  # fmt: skip
    return Told(False, f"{told}. Three words are wanted: tail, -f, /var/log/syslog.")


def _bytes_of(answer: object) -> bytes:
    """Return the bytes of a command line; text stands for its UTF-8 bytes."""
    if isinstance(answer, str):
        answer = answer.encode("utf-8", "replace")
    if not isinstance(answer, bytes | bytearray):
        expected = r'such as b"specimen\0"'
        raise InputError(YOURS, "is no bytes of a command line", shorten(answer), expected)
    if len(answer) > PAGE:
        expected = f"at most {PAGE:#x}"
        raise InputError(YOURS, "bytes are too many", hex(len(answer)), expected)
    return bytes(answer)


def _cmdline(shown: Snapshot) -> bytes:
    """Return the command line that /proc shows.

    Raises InputError where it cannot be read.
    """
    if isinstance(shown.cmdline, Unreadable):
        raise InputError(YOURS, f"leaves a command line that is {shown.cmdline}")
    return shown.cmdline


# ---- 00.2 --------------------------------------------------------------------------------------


def _brackets(answer: object) -> Told:
    tried = trial(experiment_of(answer))
    if refused := _refused(tried):
        return refused
    shown, members = _cmdline(tried.shown), tried.shown.members
    size = members["arg_end"] - members["arg_start"]
    if shown:
        zeros = "" if shown.strip(b"\0") else ": nothing but zero bytes, and yet not empty"
        return Told(False, f"cmdline has {len(shown)} bytes, {shorten(shown)}{zeros}. "
                    "It must have none.")  # fmt: skip
    how = f"arg_start = arg_end = {members['arg_end']:#x}, so there are no bytes"
    if size:
        how = f"not one of the {size:#x} bytes from {members['arg_start']:#x} on can be shown"
    return Told(True, f"cmdline is empty: {how}. A kernel thread's is empty because it has no "
                "memory of its own. In both cases ps falls back on the thread's name.")  # fmt: skip


def _refused(tried: Trial) -> Told | None:
    """Return what to say of a call that was refused, None for one that was accepted."""
    if tried.verdict == "accepted":
        return None
    return Told(False, f"The kernel refuses it: {tried.verdict} by {tried.rule}: {tried.numbers}.")


# ---- 00.3 --------------------------------------------------------------------------------------

PROMISED = (Map("arena"), Write("arena.start", text="systemd\0"))


def _one_member(answer: object) -> Told:
    tried = trial(experiment_of(answer, setup=PROMISED))
    if refused := _refused(tried):
        return refused
    before, after = tried.before.members, tried.shown.members
    moved = [name for name in ADDRESSES if before[name] != after[name]]
    shown = _cmdline(tried.shown)
    if shown.rstrip(b"\0") != b"systemd":
        return Told(False, f"Accepted, with {', '.join(moved) or 'nothing'} changed; but cmdline "
                    f"shows {shorten(shown[:40])}.")  # fmt: skip
    if len(moved) > 1:
        return Told(False, f"ps shows systemd, but {' and '.join(moved)} were changed. "
                    "One of them is enough.")  # fmt: skip
    far = after["arg_end"] - after["arg_start"]
    return Told(True, f"arg_end is still {after['arg_end']:#x}, {far:#x} bytes away. Only "
                f"{len(shown):#x} of them are shown: reading stops at the first byte that it "
                "cannot have. ps leaves out the zero bytes at the end.")  # fmt: skip


# ---- 00.4 --------------------------------------------------------------------------------------

LETTERS = 6000
LONG = (Map("arena", pages=3), Write("arena.start", text="n" * LETTERS))


def _longer(answer: object) -> Told:
    tried = trial(experiment_of(answer, setup=LONG))
    if refused := _refused(tried):
        return refused
    shown, members = _cmdline(tried.shown), tried.shown.members
    asked = members["arg_end"] - members["arg_start"]
    name = shown.rstrip(b"\0")
    if name == b"n" * LETTERS:
        return Told(True, f"All {LETTERS} letters: the byte before arg_end is zero or cannot be "
                    f"read, so the range counts as arguments ({asked:#x} bytes asked for, "
                    f"{len(shown):#x} shown), and arguments have no longest length.")  # fmt: skip
    if name == b"n" * PAGE and asked > PAGE:
        return Told(False, f"You asked for {asked:#x} bytes, and {len(shown):#x} are shown: one "
                    "page. The byte before arg_end is a letter, not zero, so the kernel takes the "
                    "range for a title, and a title has one page at most.")  # fmt: skip
    return Told(False, f"You asked for {asked:#x} bytes; cmdline shows {len(shown):#x}, with "
                f"{shown.count(b'n')} letters. {LETTERS} are wanted, and no others.")  # fmt: skip


EXERCISES = {
    "00.1": Exercise(
        "Three words",
        "The bytes of a command line: the program `tail` with two arguments, `-f` and "
        '`/var/log/syslog`. The form is `answer = b"..."`; `check` notes them in a specimen.',
        _three_words,
        (
            "How would a program know where one argument ends, if an argument may hold spaces?",
            "By a zero byte, which no argument can hold. In Python it is \\0.",
            "Each word ends with a zero byte, the last one too: word, \\0, word, \\0, word, \\0.",
        ),
        TAIL,
    ),
    "00.2": Exercise(
        "In brackets",
        "Changes after which `ps` shows the specimen in brackets, `[specimen]`, as it shows "
        "kernel threads. The form is a dict from members to numbers or formulas, as in "
        '`{"arg_end": "arg_start + 4"}`.',
        _brackets,
        (
            "What can ps know of the command line of something that has no memory at all?",
            "Nothing: cmdline is then empty. It may be empty for other reasons as well.",
            "Let the command line end where it begins: arg_end has the value of arg_start.",
        ),
        {"arg_end": "arg_start"},
    ),
    "00.3": Exercise(
        "One member",
        "The specimen has mapped a page called `arena`, and the word `systemd` stands at its "
        "start. Changes of a single member after which `ps` shows `systemd` and no more. The form "
        "is a dict, as before; `arena.start` may be used in formulas.",
        _one_member,
        (
            "Two members bound the command line. Which of them can stay where it is without being "
            "below the other?",
            "The page lies far below the stack, and the command line's end lies in the stack.",
            "Let arg_start be arena.start. What lies after the word, up to arg_end?",
        ),
        {"arg_start": "arena.start"},
    ),
    "00.4": Exercise(
        "Adversarial: longer than a page",
        f"Now `arena` has three pages, and {LETTERS} letters `n` stand at its start, zero bytes "
        f"after them. Changes after which `/proc/PID/cmdline` shows all {LETTERS} letters and no "
        "others.",
        _longer,
        (
            "Try the obvious range first. How many letters are shown?",
            "What the range counts as is decided by a single byte: the one just before arg_end.",
            "Let the range end one byte further: the byte before arg_end is then zero.",
        ),
        {"arg_start": "arena.start", "arg_end": f"arena.start + {LETTERS + 1}"},
    ),
}
"""By number."""
