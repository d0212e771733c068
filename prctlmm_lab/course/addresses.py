"""The exercises of notebook 01: what the addresses bound, and where they come from."""

from __future__ import annotations

from prctlmm_lab.course.answers import YOURS, number_of, word_of
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.errors import InputError, LabError, SystemCallError
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.experiments.steps import Bench
from prctlmm_lab.kernel.abi import MAP_SIZE, MEMBER, MEMBERS
from prctlmm_lab.kernel.procfs import Snapshot
from prctlmm_lab.kernel.releases import facts_on
from prctlmm_lab.kernel.rules import RULE, Explanation, explain
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.specimen.situation import situation_of

# ---- 01.1 --------------------------------------------------------------------------------------


def _past_the_code(answer: object) -> Told:
    member = word_of(answer, MEMBER)
    with Specimen() as specimen:
        snapshot = specimen.snapshot()
    value, meaning = snapshot.members.get(member), MEMBER[member].meaning
    if value is None:
        return Told(False, f"{member} is no bound of anything: {meaning}.")
    if member != "end_code":
        return Told(False, f"{member} = {value:#x}: {meaning}.")
    start = snapshot.members["start_code"]
    return Told(True, f"The code is {start:#x} to {value:#x}. The end is exclusive, so the size is "
                f"end_code - start_code = {value - start:#x} bytes.")  # fmt: skip


# ---- 01.2 --------------------------------------------------------------------------------------


def _rest_of_the_page(answer: object) -> Told:
    with Specimen() as specimen:
        number, snapshot = _value_of(answer, specimen), specimen.snapshot()
    start, end = (snapshot.members[name] for name in ("start_code", "end_code"))
    vma = snapshot.vma_at(start)
    if vma is None:
        raise InputError("the specimen", "has no mapping at start_code", hex(start))
    rest = vma.end - end
    if number == rest:
        return Told(True, f"{vma.end:#x} - {end:#x} = {rest:#x}: they are mapped and executable "
                    "like the rest of the page, but they are no part of the code.")  # fmt: skip
    known = {
        end - start: "end_code - start_code: the size of the code itself",
        vma.size: "the size of the whole mapping, the code included",
    }
    if number in known:
        return Told(False, f"{number:#x} is {known[number]}.")
    side = "more" if number > rest else "fewer"
    return Told(False, f"{shorten(number)} are {side} than there are. The code ends at {end:#x}: "
                "where does the mapping end that it lies in?")  # fmt: skip


def _value_of(answer: object, specimen: Specimen) -> int:
    """Return what a number or a formula stands for on a specimen."""
    if isinstance(answer, bool) or not isinstance(answer, int | str):
        expected = 'such as 4096 or "end_data - 8"'
        raise InputError(YOURS, "is no number and no formula", shorten(answer), expected)
    return Bench(specimen, facts_here()).address(answer, YOURS)


# ---- 01.3 --------------------------------------------------------------------------------------


def _in_the_struct(answer: object) -> Told:
    number = number_of(answer)
    exe = MEMBER["exe_fd"]
    if number == exe.offset:
        return Told(True, f"Twelve members of 8 bytes are 96; auxv_size has 4, and exe_fd its 4: "
                    f"{exe.offset} + 4 = {MAP_SIZE} bytes.")  # fmt: skip
    if number == MAP_SIZE:
        return Told(False, f"{MAP_SIZE} is the size of the whole struct, so nothing begins there. "
                    "Not all of its members have 8 bytes.")  # fmt: skip
    holds = next((m for m in MEMBERS if 0 <= number - m.offset < m.size), None)
    if holds is None:
        return Told(False, f"{shorten(number)} lies outside of the {MAP_SIZE} bytes.")
    begins = "begins" if holds.offset == number else "has one of its bytes"
    return Told(False, f"At {number} {holds.name} {begins}; it has {holds.size} bytes.")


# ---- 01.4 --------------------------------------------------------------------------------------

OLD = "5.14"


def _old_rule(answer: object) -> Told:
    rule = word_of(answer, RULE)
    explanation = _on_old_kernel()
    finding = next((f for f in explanation.findings if f.rule.id == rule), None)
    if finding is None:
        return Told(False, f"Linux {OLD} has no {rule}: {RULE[rule].history}.")
    if not finding.broken:
        return Told(False, f"{rule} holds: {finding.numbers}.")
    return Told(True, f"{rule}: {finding.numbers}. The rule held for every program in the textbook "
                "layout, until the kernel began to place the heap elsewhere.")  # fmt: skip


def _on_old_kernel() -> Explanation:
    """Apply an old release's rules to the map of a static-pie specimen that changes nothing."""
    with Specimen("static-pie") as specimen:
        situation = situation_of(specimen, specimen.current_map())
        return explain(situation, facts_on(OLD, facts_here()))


def _heap_is_above() -> str:
    try:
        refused = _on_old_kernel().deciding is not None
    except LabError as error:
        return str(error)
    return "" if refused else "this kernel places the heap of such a program above its data"


# ---- 01.5 --------------------------------------------------------------------------------------

ARGUMENTS, ENVIRONMENT = (b"a", b"bb", b"ccc"), (b"X=1", b"Y=2")


def _on_the_stack(answer: object) -> Told:
    with Specimen(arguments=ARGUMENTS, environment=ENVIRONMENT) as specimen:
        address, snapshot = _value_of(answer, specimen), specimen.snapshot()
        vector = snapshot.auxv if isinstance(snapshot.auxv, bytes) else b""
        try:
            found = specimen.read(address, len(vector))
        except SystemCallError:
            found = b""
    if vector and found == vector:
        first = snapshot.aux_entries[0]
        return Told(True, f"From {address:#x} on lie the {len(vector)} bytes that /proc/PID/auxv "
                    f"shows too, beginning with {first.name} = {first.value:#x}.")  # fmt: skip
    word = (address - snapshot.members["start_stack"]) / 8
    return Told(False, f"{address:#x} is {_what_lies_there(word, snapshot)}.")


def _what_lies_there(word: float, snapshot: Snapshot) -> str:
    """Name what stands at a word of the new program's stack, counted from start_stack."""
    texts = [f"argv[{n}]" for n in range(len(ARGUMENTS))]
    variables = [f"envp[{n}]" for n in range(len(ENVIRONMENT))]
    null = "the zero word that ends {}"
    words = [
        "argc, the number of arguments",
        *(f"{text}, a pointer to an argument" for text in texts),
        null.format("the pointers to arguments"),
        *(f"{name}, a pointer to an environment entry" for name in variables),
        null.format("the pointers to the environment"),
    ]
    if not word.is_integer():
        return "no whole number of words after start_stack" if 0 < word < 1e6 else "elsewhere"
    if 0 <= word < len(words):
        return f"word {int(word)} from start_stack on: {words[int(word)]}"
    inside, entries = word - len(words), snapshot.aux_entries
    if 0 <= inside < 2 * len(entries):
        return f"inside the vector already, at its entry {entries[int(inside) // 2].name}"
    return "elsewhere: no part of what execve put onto the stack from start_stack on"


EXERCISES = {
    "01.1": Exercise(
        "One past the code",
        "Which member holds the address of the first byte after the program's machine code? "
        'The form is one word: `answer = "..."`.',
        _past_the_code,
        (
            "The table of the 14 members has their meaning.",
            "Ends are exclusive: an end is the address of the first byte that does not belong.",
            "It is the end of the code: end_ and the word code.",
        ),
        "end_code",
    ),
    "01.2": Exercise(
        "The rest of the page",
        'How many bytes of `Specimen("static")` are mapped with the code, after its last byte? '
        "The form is a number, or a formula such as `end_data - start_data`; the tables above hold "
        "all that it takes.",
        _rest_of_the_page,
        (
            "A mapping is made of whole pages; the code need not fill the last of them.",
            "Look for the line of the maps table that holds start_code and end_code.",
            "The number is the end of that line minus end_code; in formulas page_up(end_code) is "
            "the end of the page.",
        ),
        "page_up(end_code) - end_code",
    ),
    "01.3": Exercise(
        "In the struct",
        "At which byte of `struct prctl_mm_map`, counted from 0, does `exe_fd` begin? The form is "
        "a number.",
        _in_the_struct,
        (
            "It is the last member. Do all members have the same size?",
            "The struct has 104 bytes; 14 times 8 would be 112.",
            "The last two have 4 bytes each: 104 minus 4.",
        ),
        MEMBER["exe_fd"].offset,
    ),
    "01.4": Exercise(
        "The old rule",
        f"By which rule did Linux {OLD} refuse the map of a `static-pie` specimen that changes "
        "nothing? The form is the id of a rule, such as `order.code`. (`explain` of notebook 00 "
        f'takes the facts of an old kernel too: `facts_on("{OLD}", facts_here())`.)',
        _old_rule,
        (
            "Look at the picture of that specimen: what lies the other way round than in the "
            "textbook?",
            "[rule.id for rule in prctlmm_lab.RULES] lists the ids, in the kernel's order. One of "
            "them is about heap and data.",
            "explain(situation_of(pie, pie.current_map()), facts_on("
            f'"{OLD}", facts_here())) names the rule that decides.',
        ),
        "heap.above_data",
        _heap_is_above,
    ),
    "01.5": Exercise(
        "Adversarial: the vector on the stack",
        "A formula for the address at which the auxiliary vector lies on the stack of a specimen "
        'that was started with three arguments and two environment entries: `answer = "..."`. It '
        "may use `start_stack` and the other members, numbers, + and *.",
        _on_the_stack,
        (
            "What does a C program find at its stack pointer when it starts, before main()?",
            "From start_stack on, in words of 8 bytes: argc, the pointers to the arguments, a zero "
            "word, the pointers to the environment, a zero word, and then the vector.",
            "One word, three, one, two, one: the vector begins after eight words.",
        ),
        "start_stack + 8 * (1 + 3 + 1 + 2 + 1)",
    ),
}
"""By number."""
