"""What an answer may look like, and the real call that judges one.

A learner answers with changes of members, with a recipe, a number, or a word. Whatever has another
form is refused in one sentence, as everywhere in the lab; `check` shows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Experiment, Subject, carry_out, prepare
from prctlmm_lab.experiments.formula import Value, shorten, suggestion
from prctlmm_lab.experiments.recipe import SCHEMA, parse_recipe
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.steps import Step
from prctlmm_lab.kernel.abi import PrctlMmMap
from prctlmm_lab.kernel.procfs import Snapshot
from prctlmm_lab.specimen.probe import facts_here

YOURS = "your answer"
"""The place that messages name."""


def experiment_of(
    answer: object, *, setup: tuple[Step, ...] = (), specimen: Subject | None = None
) -> Experiment:
    """Read an answer as an experiment: changes of members, a recipe, or an Experiment.

    Changes are a dict from members to numbers or formulas: `{"end_data": "start_data"}`. `setup`
    is what the exercise does before the call, on `specimen`; a recipe or an Experiment brings its
    own steps, which come after those.

    >>> experiment_of({"brk": "start_brk"}).change["brk"]
    'start_brk'

    Raises InputError for another form, and as Experiment and `parse_recipe` do.
    """
    if isinstance(answer, PrctlMmMap):
        problem = "holds the addresses of one specimen"
        expected = 'changes with formulas, such as {"brk": "start_brk"}'
        raise InputError(YOURS, problem, "", expected)
    if isinstance(answer, Mapping):
        changes: dict[str, Value] = {str(member): value for member, value in answer.items()}
        # With the set-up at once: the changes may name what it maps.
        return Experiment("your-answer", "", "", specimen or Subject(), setup, changes)
    if isinstance(answer, str):
        read = _only_experiment(answer)
    elif isinstance(answer, Experiment):
        read = answer
    else:
        expected = 'changes, such as {"brk": "start_brk"}, or a recipe as text'
        raise InputError(YOURS, "has no form of an experiment", shorten(answer), expected)
    subject = read.specimen if specimen is None else specimen
    return replace(read, setup=(*setup, *read.setup), specimen=subject)


def _only_experiment(text: str) -> Experiment:
    """Read a recipe of one experiment; the line with the schema may be left out."""
    whole = text if "schema" in text else f'schema = "{SCHEMA}"\n{text}'
    experiments = parse_recipe(whole, "your recipe").experiments
    if len(experiments) != 1:
        raise InputError("your recipe", "experiments are not one", str(len(experiments)), "one")
    return experiments[0]


@dataclass(frozen=True)
class Trial:
    """What came of an answer: the record of its real call, and the specimen before and after."""

    record: Record
    before: Snapshot
    after: Snapshot | None
    """None if the specimen has ended."""

    @property
    def verdict(self) -> str:
        """The kernel's word: "accepted" or the name of an errno."""
        return self.record.outcome.verdict

    @property
    def rule(self) -> str:
        """The id of the rule that decides, "" for none."""
        return self.record.prediction.rule

    @property
    def numbers(self) -> str:
        """The numbers that this rule compared."""
        return self.record.prediction.numbers

    @property
    def shown(self) -> Snapshot:
        """What /proc shows after it.

        Raises InputError if the specimen has ended.
        """
        if self.after is None:
            raise InputError(YOURS, f"ended the specimen: {self.record.outcome.ended}")
        return self.after


def trial(experiment: Experiment) -> Trial:
    """Make the real call of an answer in a fresh specimen.

    >>> trial(experiment_of({"end_code": "start_code"})).rule
    'order.code'

    Raises as `run`.
    """
    with experiment.specimen.start() as specimen:
        prepared = prepare(experiment, specimen, facts_here())
        record = carry_out(prepared)
        alive = specimen.alive and not record.outcome.ended
        return Trial(record, prepared.before, specimen.snapshot() if alive else None)


def number_of(answer: object) -> int:
    """Read an answer as a whole number; text may be decimal or hex.

    >>> number_of("0x10") == number_of(16)
    True

    Raises InputError for anything else.
    """
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer
    try:
        return int(str(answer).strip().replace("_", ""), 0)
    except ValueError:
        expected = "such as 4096 or 0x1000"
        raise InputError(YOURS, "is no number", shorten(answer), expected) from None


def word_of(answer: object, known: Collection[str]) -> str:
    """Read an answer as one of the words that are known, in either case.

    >>> word_of(" einval ", ["accepted", "EINVAL"])
    'EINVAL'

    Raises InputError for another word.
    """
    said = str(answer).strip()
    for word in known:
        if said.lower() == word.lower():
            return word
    raise InputError(YOURS, "is none of the words", shorten(said), suggestion(said, known))


def words_of(answer: object, known: Collection[str]) -> frozenset[str]:
    """Read an answer as a set of known words: a list, a set, or text with commas or spaces.

    >>> sorted(words_of("brk, start_brk", ["brk", "start_brk", "start_stack"]))
    ['brk', 'start_brk']

    Raises InputError as `word_of`, and for what is no list.
    """
    if isinstance(answer, str):
        said: Collection[object] = answer.replace(",", " ").split()
    elif isinstance(answer, list | tuple | set | frozenset):
        said = answer
    else:
        raise InputError(YOURS, "is no list of words", shorten(answer), '"one, two" or a list')
    return frozenset(word_of(each, known) for each in said)
