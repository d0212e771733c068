"""The exercises of notebook 13: what many kernels promise, and which one answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prctlmm_lab.atlas.recorded import RecordedKernel, questions
from prctlmm_lab.atlas.turns import Row, recorded_atlas
from prctlmm_lab.course.answers import YOURS, word_of, words_of
from prctlmm_lab.course.dating import answers, atlas, fewest, judge_game
from prctlmm_lab.course.exercises import Exercise, Told
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.formula import shorten
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.releases import INTRODUCED, NEWEST, facts_on, following

# ---- 13.1 --------------------------------------------------------------------------------------


def _alike(answer: object) -> Told:
    named = sorted(words_of(answer, questions()))
    rows = {row.id: row for row in recorded_atlas().rows}
    for name in named:
        if rows[name].differs:
            turn = rows[name].turns[0]
            first, second = (rows[name].answers[kernel] for kernel in (turn.older, turn.newer))
            return Told(False, f"{name}: {turn.older} answered {first}, {turn.newer} {second}. "
                        f"{turn.why}.")  # fmt: skip
    if len(named) < 3:
        return Told(False, f"{', '.join(named)}: alike on every one. That is {len(named)}; name "
                    "three.")  # fmt: skip
    note = "".join(f" {name} is no promise all the same: {why}." for name, why in _once(named))
    return Told(True, f"{', '.join(named)}: one answer on all of {len(atlas())} kernels.{note}")


_FACT_OF = {"data-empty": "empty_data_accepted", "heap-below-data": "heap_below_data_accepted"}
"""Questions that every kernel of the atlas accepts, and that some release refused."""


def _once(named: list[str]) -> list[tuple[str, str]]:
    told = []
    for name in named:
        if name in _FACT_OF:
            refused = [
                release
                for release in following(INTRODUCED, NEWEST)
                if not getattr(facts_on(str(release), _base()), _FACT_OF[name])
            ]
            told.append((name, f"{refused[0]} to {refused[-1]} refused it, as documented"))
    return told


def _base() -> Facts:
    """Return facts of an x86-64 kernel, for what documentation leaves open."""
    return RecordedKernel("6.1").recorded(questions()["same-map"]).facts


# ---- 13.2 --------------------------------------------------------------------------------------

UNASKED = "6.5"
"""The release that is to be predicted; the atlas has none of its series."""
ABOUT = ("vector-416", "vector-448", "heap-touches", "brk-over-a-hole")
_PREDICTED: dict[str, Callable[[Facts], str]] = {
    "vector-416": lambda facts: "accepted" if facts.auxv_capacity >= 416 else "EINVAL",
    "vector-448": lambda facts: "accepted" if facts.auxv_capacity >= 448 else "EINVAL",
    "heap-touches": lambda facts: "[heap]" if facts.touching_heap_labelled else "no name",
    "brk-over-a-hole": lambda facts: "moves" if facts.hole_shrinks else "stays",
}


def _unasked(answer: object) -> Told:
    said = _said(answer)
    facts = facts_on(UNASKED, _base())
    right = {name: read(facts) for name, read in _PREDICTED.items()}
    wrong = [name for name in ABOUT if said[name] != right[name]]
    if wrong:
        name = wrong[0]
        row = next(row for row in recorded_atlas().rows if row.id == name)
        correct = f"{len(ABOUT) - len(wrong)} of {len(ABOUT)} are right. "
        return Told(False, f"{correct}{name}: v{UNASKED} is not {said[name]}, by the release "
                    f"beside the commit: {row.turns[-1].why}.")  # fmt: skip
    return Told(True, f"v{UNASKED} lies between 6.1.192 and 6.12.118, and where these differ the "
                "release of the commit decides: v6.3 lies before it, v6.7 behind. That is a "
                "prediction from documentation; nobody ran it here.")  # fmt: skip


def _said(answer: object) -> dict[str, str]:
    """Read an answer as a word for each question.

    Raises InputError for another form.
    """
    if not isinstance(answer, Mapping):
        wanted = '{"vector-416": "accepted", ...}'
        raise InputError(YOURS, "is no dict of answers", shorten(answer), wanted)
    said = {str(name): word for name, word in answer.items()}
    for name in said:
        word_of(name, ABOUT)
    if missing := [name for name in ABOUT if name not in said]:
        raise InputError(YOURS, f"says nothing about {', '.join(missing)}", "", "a word for each")
    return {name: word_of(said[name], sorted({*answers()[name].values()})) for name in ABOUT}


# ---- 13.3 --------------------------------------------------------------------------------------


def _newer_without(answer: object) -> Told:
    older, newer, name = _three(answer)
    row = next(row for row in recorded_atlas().rows if row.id == name)
    oldest, newest = row.answers[atlas()[0]], row.answers[atlas()[-1]]
    one, other = row.answers[older], row.answers[newer]
    if one == other:
        return Told(False, f"{name}: {older} and {newer} both answered {one}.")
    if one != newest or other != oldest:
        return Told(False, f"{name}: {older} answered {one}, {newer} {other}. So the newer one has "
                    f"what {atlas()[-1]} has too: that is the usual order.")  # fmt: skip
    return Told(True, f"{name}: {older} answered {one}, as {atlas()[-1]} does; {newer} {other}, as "
                f"{atlas()[0]} does. {_between(row, older, newer)} A series ends when nobody "
                "carries changes into it any more: a larger number is no later day.")  # fmt: skip


def _between(row: Row, older: str, newer: str) -> str:
    known = atlas()
    span = known[known.index(older) + 1 : known.index(newer) + 1]
    turn = next(turn for turn in row.turns if turn.newer in span)
    return f"{turn.why}."


def _three(answer: object) -> tuple[str, str, str]:
    """Read an answer as two kernels of the atlas and a question.

    Raises InputError for another form.
    """
    said = answer.replace(",", " ").split() if isinstance(answer, str) else answer
    wanted = '("5.10", "6.1", "vector-384")'
    if not isinstance(said, list | tuple) or len(said) != 3:
        raise InputError(YOURS, "is not two kernels and a question", shorten(answer), wanted)
    older, newer = (_kernel(each) for each in said[:2])
    if atlas().index(older) >= atlas().index(newer):
        raise InputError(YOURS, "has not the older one first", shorten(answer), wanted)
    return older, newer, word_of(said[2], questions())


def _kernel(said: object) -> str:
    return RecordedKernel(said if isinstance(said, str) else repr(said)).upstream


# ---- 13.4 --------------------------------------------------------------------------------------

SEED = 7
"""The game that is judged."""


def _dated(answer: object) -> Told:
    return judge_game(SEED, answer)


# ---- 13.5 --------------------------------------------------------------------------------------


def _key(answer: object) -> Told:
    named = sorted(words_of(answer, questions()))
    known, found = atlas(), answers()
    by_named: dict[tuple[str, ...], list[str]] = {}
    for kernel in known:
        by_named.setdefault(tuple(found[name][kernel] for name in named), []).append(kernel)
    for group in by_named.values():
        for other in group[1:]:
            left = [name for name in found if found[name][group[0]] != found[name][other]]
            if left:
                return Told(False, f"{', '.join(named)}: {group[0]} and {other} answer alike, and "
                            f"{left[0]} differently.")  # fmt: skip
    need = fewest(known, known)
    if len(named) > len(need):
        return Told(False, f"They tell apart all that can be told apart: {len(by_named)} groups. "
                    f"But {len(named)} are more than it takes; {len(need)} will do.")  # fmt: skip
    groups = "; ".join(" ".join(group) for group in by_named.values())
    return Told(True, f"{len(named)} questions with two answers each, and {len(by_named)} groups: "
                f"{groups}. Two could make four at most.")  # fmt: skip


EXERCISES = {
    "13.1": Exercise(
        "Alike everywhere",
        "Three questions, by their ids, that every kernel of the atlas answers alike.",
        _alike,
        (
            "In the picture they have one bar from the first kernel to the last.",
            'They stand at its end; `atlas_text()` lists them under "all kernels alike". Mind '
            "the kernel with 5-level page tables.",
            '`["same-map", "code-reversed", ...]`, and where the command line lies in nothing.',
        ),
        ["same-map", "code-reversed", "text-nowhere"],
    ),
    "13.2": Exercise(
        "A kernel that nobody asked",
        "How does the first release of v6.5 answer vector-416, vector-448, heap-touches and "
        'brk-over-a-hole? A dict: {"vector-416": "accepted", ...}, with the words of the atlas.',
        _unasked,
        (
            "It lies between two kernels of the atlas. Where these agree, there is little doubt.",
            "Where they differ, the row names a commit and the first release that has it.",
            "v6.3 made room in the vector, before v6.5; the names changed in v6.7, after it.",
        ),
        {
            "vector-416": "accepted",
            "vector-448": "EINVAL",
            "heap-touches": "[heap]",
            "brk-over-a-hole": "stays",
        },
    ),
    "13.3": Exercise(
        "Newer, and yet without it",
        "An older and a newer kernel of the atlas, and a question to which the older one answers "
        'as the newest of all, and the newer one as the oldest of all: ("5.10", "6.1", "id").',
        _newer_without,
        (
            "Look for a row whose bars go back and forth.",
            "Changes are carried into series that are cared for. A newer series may have ended "
            "before, or this kernel of it may have been built before.",
            "vector-tail: 6.12 is a long-term series, 6.16 was not.",
        ),
        ("6.12", "6.16", "vector-tail"),
    ),
    "13.4": Exercise(
        "Date a kernel by what it does",
        "The first and the last series of the atlas that answer as `unknown_kernel(seed=7)` does: "
        '("5.10", "6.1").',
        _dated,
        (
            '`unknown_kernel(seed=7).ask("vector-416")`: which kernels of the atlas are left? '
            "Choose a question that splits these.",
            "The lengths of the vector bound it from both sides; what is left, vector-tail or "
            "exe-unopened may split.",
            "vector-416 is accepted, vector-448 is not, and of a short vector the rest is kept.",
        ),
        ("6.16", "6.18"),
    ),
    "13.5": Exercise(
        "Adversarial: as few as will do",
        "As few questions as possible, by their ids, whose answers tell apart all kernels of the "
        "atlas (with four levels of page tables) that any question tells apart.",
        _key,
        (
            "How many groups of kernels are there that no question splits? And into how many can "
            "n questions with two answers split at most?",
            "Six groups, so three questions at least. vector-tail goes back and forth, which makes "
            "it worth the most.",
            "vector-tail, one length of the vector, and one that changed between 6.1 and 6.12.",
        ),
        ["vector-tail", "vector-448", "heap-touches"],
    ),
}
"""By number."""
