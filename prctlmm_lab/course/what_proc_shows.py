"""The exercises of notebook 04: which file shows what, and what of it can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prctlmm_lab.course.answers import YOURS, experiment_of, trial, words_of
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.alone import every_member_alone
from prctlmm_lab.experiments.experiment import Experiment, carry_out, prepare
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.steps import Map, Write
from prctlmm_lab.kernel.difference import shown
from prctlmm_lab.kernel.procfs import Snapshot, Unreadable, Vma
from prctlmm_lab.specimen.probe import facts_here

# ---- 04.1 --------------------------------------------------------------------------------------

FILES = ("stat", "statm", "status", "maps", "cmdline", "environ", "auxv", "exe", "none")
ASKED = ("end_code", "start_data", "brk", "start_stack", "arg_end", "auxv_size")


def _which_file(answer: object) -> Told:
    if not isinstance(answer, Mapping):
        expected = '{"end_code": "stat statm status", ...}'
        raise InputError(YOURS, "is no dict from members to files", shorten(answer), expected)
    for member in answer:
        if member not in ASKED:
            raise InputError(YOURS, "is not asked for", shorten(member), ", ".join(ASKED))
    said = {member: words_of(files, FILES) for member, files in answer.items()}
    missing = [member for member in ASKED if member not in said]
    if missing:
        return Told(False, f"Still to say: {', '.join(missing)}.")
    seen = every_member_alone(ASKED).usual
    right = []
    for member in ASKED:
        showed = {place.split()[0] for place in seen[member].places if place.split()[0] in FILES}
        showed = showed or {"none"}
        if said[member] == showed:
            right.append(member)
            continue
        more, less = said[member] - showed, showed - said[member]
        told = [f"{' and '.join(sorted(more))} did not change"] if more else []
        told += [f"{len(less)} more did"] if less else []
        so_far = f"Right so far: {', '.join(right)}. " if right else ""
        return Told(False, f"{so_far}{member} was moved alone: {', '.join(told)}.")
    return Told(True, "Six moves were made, and each showed where you said. brk stands in no "
                "number of /proc: only a label tells of it.")  # fmt: skip


# ---- 04.2 --------------------------------------------------------------------------------------

PAGE_TEXT = "web server: idle\0DEBUG=1\0"
BOUNDS = {
    "A": ("arena.start + 17", "arena.start + 17", "arena.start + 25"),
    "B": ("arena.start + 3", "arena.start + 4", "arena.start + 25"),
    "C": ("arena.start + 3", "arena.start + 3", "arena.start + 25"),
    "D": ("arena.start + 3", "arena.start + 3", "arena.start + 10"),
}
"""arg_end, env_start and env_end of the four maps; arg_start is where the text begins."""
_RULE = {
    "A": "The last byte of the arguments is zero: no title, all of it is shown.",
    "B": "The last byte is not zero, but env_start is not arg_end: the reading stops at arg_end.",
    "C": "The last byte is not zero and env_start is arg_end: the reading goes on.",
    "D": "As in C, but the title may not go on behind env_end.",
}


def _predict_cmdline(answer: object) -> Told:
    if isinstance(answer, Mapping):
        answer = [answer.get(name) for name in BOUNDS]
    if isinstance(answer, str | bytes) or not isinstance(answer, Sequence) or len(answer) != 4:
        expected = 'four texts, such as ["ab", "a\\0", "", "b"]'
        raise InputError(YOURS, "is no list of four texts", shorten(answer), expected)
    said = [_bytes_of(text) for text in answer]
    right = []
    for name, mine in zip(BOUNDS, said, strict=True):
        arg_end, env_start, env_end = BOUNDS[name]
        change = {"arg_start": "arena.start", "arg_end": arg_end, "env_start": env_start,
                  "env_end": env_end}  # fmt: skip
        setup = (Map("arena"), Write("arena.start", text=PAGE_TEXT))
        showed = trial(experiment_of(change, setup=setup)).shown.cmdline
        if mine == showed:
            right.append(name)
            continue
        so_far = f"Right so far: {', '.join(right)}. " if right else ""
        length = 0 if isinstance(showed, Unreadable) else len(showed)
        nearly = isinstance(showed, bytes) and mine.strip(b"\0") == showed.strip(b"\0")
        how = "only the zero bytes differ" if nearly else f"you said {shown(mine)}"
        return Told(False, f"{so_far}Map {name} shows {length:#x} bytes; {how}. {_RULE[name]}")
    return Told(True, "All four, byte for byte. One byte before arg_end decides whether the rule "
                "for titles holds, and one address whether it reads on.")  # fmt: skip


def _bytes_of(text: object) -> bytes:
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        return text.encode("utf-8", "surrogatepass")
    raise InputError(YOURS, "is no text", shorten(text), r'such as "abc\0" or b"abc\0"')


# ---- 04.3 --------------------------------------------------------------------------------------

ROOM = "daemon"
TITLE = "daemon: 3 clients, 0 errors\0"
BEHIND = "HOME=/\0"


def _title(answer: object) -> Told:
    if not isinstance(answer, Mapping):
        raise InputError(YOURS, "is no dict of changes", shorten(answer),
                         '{"arg_start": "arena.start", ...}')  # fmt: skip
    setup = (Map("arena"), Write("arena.start", text=TITLE + BEHIND))
    tried = trial(experiment_of(answer, setup=setup))
    if tried.verdict != "accepted":
        return Told(False, f"The kernel refused it: {tried.verdict} by {tried.rule}: "
                    f"{tried.numbers}.")  # fmt: skip
    now, cmdline = tried.shown.members, tried.shown.cmdline
    length = now["arg_end"] - now["arg_start"]
    if length > len(ROOM):
        return Told(False, f"Your arguments are {length:#x} bytes long, arg_start to arg_end. They "
                    f"had room for {len(ROOM):#x}: the rest must come by the rule.")  # fmt: skip
    if cmdline != TITLE.encode():
        bounds = ", ".join(f"{name} = {now[name]:#x}" for name in ("arg_end", "env_start"))
        why = f" {bounds}." if now["env_start"] != now["arg_end"] else ""
        return Told(False, f"cmdline shows {shown(cmdline)}.{why}")
    return Told(True, f"{length:#x} bytes of arguments, {len(TITLE):#x} bytes in cmdline. So a "
                "program that only overwrites its own arguments can have a long title, and needs "
                "no call at all.")  # fmt: skip


# ---- 04.4 --------------------------------------------------------------------------------------

SECRET = b"TOKEN=42\0"


def _secret(answer: object) -> Told:
    experiment = experiment_of(answer)
    if any("TOKEN" in entry for entry in experiment.specimen.environment):
        return Told(False, "Then it was started with TOKEN in its environment. It must never have "
                    "had it there.")  # fmt: skip
    tried = trial(experiment)
    if tried.verdict != "accepted":
        return Told(False, f"The kernel refused it: {tried.verdict} by {tried.rule}: "
                    f"{tried.numbers}.")  # fmt: skip
    now = tried.shown
    if now.environ != SECRET:
        return Told(False, f"environ shows {shown(now.environ)} and not {SECRET!r}.")
    if now.cmdline != b"42\0":
        return Told(False, f"environ is right. cmdline shows {shown(now.cmdline)} and not "
                    f"{b'42' + bytes(1)!r}.")  # fmt: skip
    if not _overlap(now):
        return Told(False, "Both show what they should, from two places in memory. Take the same "
                    "bytes for both: the two ranges must overlap.")  # fmt: skip
    return Told(True, "The same bytes are its environment and its command line, and it was started "
                "with neither. Nothing in the call asks where they come from.")  # fmt: skip


def _overlap(snapshot: Snapshot) -> bool:
    now = snapshot.members
    return max(now["arg_start"], now["env_start"]) < min(now["arg_end"], now["env_end"])


# ---- 04.5 --------------------------------------------------------------------------------------


def _grows(answer: object) -> Told:
    experiment = experiment_of(answer)
    if experiment.after:
        raise InputError(YOURS, "has steps after the call", "", "none: the reading shall do it")
    record, before, after = _looked_at_twice(experiment)
    if record.outcome.verdict != "accepted":
        return Told(False, f"The kernel refused it: {record.outcome.verdict} by "
                    f"{record.prediction.rule}: {record.prediction.numbers}.")  # fmt: skip
    grown = _grown(before, after)
    starts = [after.members["arg_start"], after.members["env_start"]]
    found = [(old, new) for old, new in grown if any(new.start <= s < old.start for s in starts)]
    if found:
        old, new = found[0]
        return Told(True, f"Its memory began at {old.start:#x}, and after one look at "
                    f"{new.start:#x}: {old.start - new.start:#x} bytes more, made by whoever "
                    "looked. The process itself did nothing.")  # fmt: skip
    inside = [vma for s in starts if (vma := before.vma_at(s)) is not None]
    if len(inside) == 2:
        return Told(False, "Command line and environment both begin where memory is already: "
                    f"{inside[0]}. Nothing had to grow.")  # fmt: skip
    above = next(s for s in starts if before.vma_at(s) is None)
    if before.labelled("[stack]") and above > before.labelled("[stack]")[-1].end:
        return Told(False, f"{above:#x} lies above the stack. A stack grows downwards.")
    return Told(False, f"Nothing is mapped at {above:#x}, and nothing grew there: what lies above "
                "it does not grow down, or it is too far from it.")  # fmt: skip


def _looked_at_twice(experiment: Experiment) -> tuple[Record, Snapshot, Snapshot]:
    """Make the call; the look that belongs to its record does the reading, the next one tells."""
    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, facts_here())
        record = carry_out(prepared)
        if record.outcome.ended:
            raise InputError(YOURS, f"ended the specimen: {record.outcome.ended}")
        return record, prepared.before, specimen.snapshot()


def _grown(before: Snapshot, after: Snapshot) -> list[tuple[Vma, Vma]]:
    """Return the VMAs that end where they did and begin lower."""
    ends = {vma.end: vma for vma in before.vmas}
    return [(ends[v.end], v) for v in after.vmas if v.end in ends and v.start < ends[v.end].start]


EXERCISES = {
    "04.1": Exercise(
        "Which file tells",
        "Six members, each moved alone in a program that has just started: "
        + ", ".join(f"`{member}`" for member in ASKED)
        + ". In which files of /proc/PID does something change? The answer is a dict from each "
        'member to words: "stat statm status", or "none". Files to choose from: '
        + ", ".join(f"`{name}`" for name in FILES[:-1])
        + ".",
        _which_file,
        (
            "The picture at the top of this notebook has a row for each member.",
            "Ten members stand in stat. Which of the six do not? And a label in maps is a change "
            "of maps.",
            '"end_code": "stat statm status", "start_data": "stat", "brk": "maps", and so on for '
            "start_stack, arg_end and auxv_size.",
        ),
        {
            "end_code": "stat statm status",
            "start_data": "stat",
            "brk": "maps",
            "start_stack": "stat maps",
            "arg_end": "stat cmdline",
            "auxv_size": "auxv",
        },
    ),
    "04.2": Exercise(
        "Predict the bytes",
        r'In memory, from `arena.start` on, lies `"web server: idle\0DEBUG=1\0"` (25 bytes). In '
        "four maps `arg_start` is `arena.start`; the other three are, in bytes from there: "
        "A: arg_end 17, env_start 17, env_end 25; B: arg_end 3, env_start 4, env_end 25; "
        "C: arg_end 3, env_start 3, env_end 25; D: arg_end 3, env_start 3, env_end 10. What "
        "does cmdline show for each? The answer is a list of four texts, zero bytes as `\\0`: "
        r'`["ab\0", "b", "", "c"]`.',
        _predict_cmdline,
        (
            "Look at the byte before arg_end first: is it zero?",
            "If it is not zero, what is shown ends behind the first zero byte, and no later than "
            "arg_end, or, where the environment follows at once, than env_end.",
            r'A is all 17 bytes, "web server: idle\0". B has only three. C is A again. D is cut at '
            "byte 10.",
        ),
        ["web server: idle\0", "web", "web server: idle\0", "web server"],
    ),
    "04.3": Exercise(
        "A title longer than its room",
        r'A page called `arena` holds `"daemon: 3 clients, 0 errors\0HOME=/\0"`. Make cmdline show '
        r"`daemon: 3 clients, 0 errors\0`, all 28 bytes, with arguments (arg_start to arg_end) of "
        'no more than 6. The answer is a dict of changes: `{"arg_start": "arena.start", ...}`.',
        _title,
        (
            "Six bytes of arguments end in the middle of the text, on a byte that is not zero.",
            "What must be true of env_start for the reading to go on?",
            '"arg_end": "arg_start + 6", "env_start": "arg_end", and an env_end that lies behind '
            "the text, such as arena.start + 35.",
        ),
        {
            "arg_start": "arena.start",
            "arg_end": "arg_start + 6",
            "env_start": "arg_end",
            "env_end": "arena.start + 35",
        },
    ),
    "04.4": Exercise(
        "Adversarial: never had it",
        r"Make environ show exactly `TOKEN=42\0` and cmdline exactly `42\0`, from the same bytes "
        "in memory, in a process that was started with neither. The answer is a recipe, or an "
        "Experiment.",
        _secret,
        (
            "A recipe can map a page and write text into it before the call.",
            'setup = [{ map = "arena" }, { write = "arena.start", text = "TOKEN=42\\u0000" }]; '
            "then both pairs of addresses can point into it.",
            'change.env_start = "arena.start", env_end 9 bytes behind it; arg_start 6 bytes behind '
            "it, arg_end = env_end.",
        ),
        """[[experiment]]
id = "never-had-it"
setup = [{ map = "arena" }, { write = "arena.start", text = "TOKEN=42\\u0000" }]
change.env_start = "arena.start"
change.env_end = "env_start + 9"
change.arg_start = "env_start + 6"
change.arg_end = "env_end"
""",
    ),
    "04.5": Exercise(
        "Adversarial: looking changes it",
        "One call after which the next reader of cmdline or environ, whoever that is, makes the "
        "process's memory larger. The answer is changes, a recipe, or an Experiment.",
        _grows,
        (
            "One area of every process becomes larger when something below it is touched.",
            "A formula may say stack.start: where the stack begins now.",
            'Let arg_start be "stack.start - page", and arg_end a few bytes behind it.',
        ),
        {"arg_start": "stack.start - page", "arg_end": "arg_start + 8"},
    ),
}
"""By number."""
