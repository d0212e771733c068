"""One problem on a specimen: shown with its numbers, answered, and held against the real call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from html import escape

from prctlmm_lab.course.answered import Answered
from prctlmm_lab.course.exercises import Told
from prctlmm_lab.course.in_words import lies_in, step_in_words
from prctlmm_lab.course.problems import TOPICS, Choice, Posed, Seen, numbers_of
from prctlmm_lab.errors import InputError
from prctlmm_lab.experiments.experiment import Prepared, carry_out, predict, set_up
from prctlmm_lab.experiments.formula import Value, evaluate, shorten
from prctlmm_lab.experiments.logbook import LogFile
from prctlmm_lab.experiments.record import Record
from prctlmm_lab.experiments.steps import Bench, Brk
from prctlmm_lab.kernel.abi import ADDRESSES, MEMBER, U64, PrctlMmMap
from prctlmm_lab.kernel.effects import EFFECT, brk_after
from prctlmm_lab.kernel.procfs import Snapshot
from prctlmm_lab.kernel.rules import RULE
from prctlmm_lab.specimen.probe import facts_here
from prctlmm_lab.specimen.recording.marks import LIVE, PREDICTED, mark_html, mark_text
from prctlmm_lab.specimen.situation import memory_of
from prctlmm_lab.views.layout import Layout, describe, layout
from prctlmm_lab.views.svg import address_space_svg

LETTERS = "abcdefghij"
_CELL = "text-align:left;padding:1px 14px 1px 0;line-height:1.5"


@dataclass(frozen=True, repr=False)
class Explained(Told):
    """What a learner is told about an answer, with the picture and where it is taught."""

    notebook: str = ""
    picture: str = ""
    """The picture as SVG, before and after."""

    def _repr_html_(self) -> str:
        told = super()._repr_html_()
        link = f'<a href="{self.notebook}.ipynb">{self.notebook}</a>'
        taught = f"<small>More in notebook {link}.</small>" if self.notebook else ""
        picture = f'<div style="max-width:760px">{self.picture}</div>' if self.picture else ""
        return f"{told}{taught}{picture}"


class Problem:
    """A problem with its specimen, which waits until it is answered.

    It shows itself; `text()` is the same in words. `answer` takes a letter or the words of a
    choice.
    """

    def __init__(
        self,
        posed: Posed,
        *,
        seed: int,
        number: int,
        logbook: LogFile | None = None,
        on_answer: Callable[[Answered], str] = lambda _: "",
    ) -> None:
        self.posed, self.seed, self.number = posed, seed, number
        self.told: Explained | None = None
        """What came of the first answer; None while there is none."""
        self._logbook, self._on_answer = logbook, on_answer
        self._hints = 0
        facts, experiment = facts_here(), posed.experiment
        specimen = experiment.specimen.start()
        try:
            bench = set_up(experiment, specimen, facts)
            self._prepared = predict(experiment, bench)
            self._request = self._asked_of_brk(bench)
            self._predicted = self._prediction()
            self._lines = tuple(self._set_up_in_words(bench))
        except BaseException:
            specimen.stop()
            raise
        self.specimen = specimen

    # ---- what the specification says ------------------------------------------------------------

    @property
    def _own(self) -> PrctlMmMap:
        own = self._prepared.bench.before
        assert own is not None
        return own

    def _lookup_new(self, name: str) -> int | None:
        """Look a name up as it will be after the call: members have the new values."""
        first, _, part = name.partition(".")
        effective = self._own if self._prepared.explanation.errno else self._prepared.map
        if first == "before":
            return dict(self._own).get(part)
        return dict(effective)[name] if name in MEMBER else self._prepared.bench.lookup(name)

    def _asked_of_brk(self, bench: Bench) -> int:
        steps = [step for step in self.posed.experiment.after if isinstance(step, Brk)]
        return evaluate(steps[0].brk, self._lookup_new, "after[0].brk") if steps else 0

    def _prediction(self) -> Seen:
        prepared, bench = self._prepared, self._prepared.bench
        deciding = prepared.explanation.deciding
        effective = self._own if prepared.explanation.errno else prepared.map
        answer = 0
        if self.posed.experiment.after:
            memory = memory_of(bench.specimen, effective, prepared.shown)
            answer, _ = brk_after(prepared.shown, self._request, memory, bench.facts)
        verdict = prepared.explanation.verdict.partition(":")[0]
        rule = deciding.rule.id if deciding else ""
        return self._seen(verdict, rule, prepared.shown, answer)

    def _seen(self, verdict: str, rule: str, after: Snapshot, answer: int) -> Seen:
        prepared = self._prepared
        return Seen(
            verdict, rule, prepared.before, after, prepared.bench.regions, dict(prepared.map),
            dict(self._own), self._request, answer,
        )  # fmt: skip

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The answers to choose from; the specification's own is always among them."""
        given = self.posed.question.choices
        truth = self.posed.question.truth(self._predicted)
        if any(choice.word == truth for choice in given):
            return given
        return (*given, Choice(truth, RULE[truth].title if truth in RULE else ""))

    # ---- to look at -----------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """Which problem it is."""
        return f"Problem {self.number} (level {self.posed.level} of 3, seed {self.seed})"

    def _set_up_in_words(self, bench: Bench) -> list[str]:
        return [step_in_words(step, bench) for step in self.posed.experiment.setup]

    def _call_in_words(self) -> list[str]:
        prepared, call = self._prepared, self.posed.experiment.call
        lines = []
        if call.size is not None:
            lines.append(f"size = {prepared.size:#x} ({call.size}), the struct has "
                         f"{prepared.bench.facts.map_size:#x} bytes")  # fmt: skip
        if call.arg5 != 0:
            lines.append(f"arg5 = {prepared.arg5:#x}")
        if prepared.pointer is not None:
            lines.append(f"the struct is said to lie at {self._place(prepared.pointer)}")
        return lines

    def _place(self, address: int) -> str:
        return f"{address:#x}, {self._lies_in(address)}"

    def _lies_in(self, address: int) -> str:
        prepared = self._prepared
        return lies_in(address, prepared.before, prepared.bench.regions, prepared.bench.facts)

    def _known(self) -> str:
        facts, before = self._prepared.bench.facts, self._prepared.situation
        limit = "unlimited" if before.rlimit_data == U64 else f"{before.rlimit_data:#x}"
        return (
            f"This kernel: addresses {facts.lowest:#x} to {facts.highest:#x}, pages of "
            f"{facts.page_size:#x}, a saved vector of {facts.auxv_capacity:#x} bytes; RLIMIT_DATA "
            f"{limit}; the caller has uid {self._uid()}."
        )

    def _uid(self) -> str:
        status = self._prepared.before.status
        return status["Uid"].split()[0] if isinstance(status, Mapping) else "?"

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return member, value now, value asked for, what that lies in, and the formula."""
        rows = []
        old, new = dict(self._own), dict(self._prepared.map)
        for name in self.posed.shows:
            changed = name in self.posed.experiment.change
            place = self._lies_in(new[name]) if MEMBER[name].is_address or name == "auxv" else ""
            formula = str(self.posed.experiment.change.get(name, ""))
            numbers_only = self.posed.level == 3 or not isinstance(
                self.posed.experiment.change.get(name), str
            )
            asked = hex(new[name]) if changed else "(as it is)"
            rows.append((name, hex(old[name]), asked, place, "" if numbers_only else formula))
        return rows

    def _then(self) -> str:
        pieces = [f"{name}: {self._range(*ends)}" for name, ends in self.posed.places.items()]
        steps = [f"brk({self._request:#x})"] if self.posed.experiment.after else []
        return "; ".join([*pieces, *(f"after the call the specimen asks {s}" for s in steps)])

    def _range(self, start: Value, end: Value) -> str:
        bench = self._prepared.bench
        return f"{bench.value(start, 'place'):#x}-{bench.value(end, 'place'):#x}"

    @cached_property
    def layout(self) -> Layout:
        """The picture's geometry: what is mapped, and where the draft would put the members."""
        values = dict(self._prepared.map)
        draft = {name: values[name] for name in ADDRESSES}
        return layout(self._prepared.before, draft=draft, facts=self._prepared.bench.facts)

    def text(self) -> str:
        """Return the problem in words."""
        lines = [self.title, self._known()]
        if self._lines:
            lines += ["Before the call the specimen", *(f"  - {line}" for line in self._lines)]
        if rows := self._rows():
            lines.append("The map is the present one, but for these members:")
            lines += [
                f"  {name:11} {old:>14} -> {new:>14}  {place}" + (f"  [{formula}]" * bool(formula))
                for name, old, new, place, formula in rows
            ]
        lines += [f"The call: {line}." for line in self._call_in_words()]
        lines += [self._then()] * bool(self._then())
        lines.append(self.posed.question.text)
        lines += [f"  {letter}) {choice}" for letter, choice in zip(LETTERS, self.choices)]  # noqa: B905
        return "\n".join(lines)

    def picture_text(self) -> str:
        """Return the picture in words."""
        return describe(self.layout)

    def __repr__(self) -> str:
        return f'{self.text()}\nAnswer with .answer("a"), or the words; .hint() helps.'

    __str__ = __repr__

    def question_html(self) -> str:
        """Return the problem as HTML: what is done, the numbers, the question, the picture."""
        steps = "".join(f"<li>{escape(line)}</li>" for line in self._lines)
        calls = "".join(f"<p>The call: {escape(line)}.</p>" for line in self._call_in_words())
        then = f"<p>{escape(self._then())}</p>" if self._then() else ""
        mark = self._mark()
        return (
            f"<div><b>{escape(self.title)}</b><br><small>{escape(self._known())}</small>"
            + (f"<p>Before the call the specimen</p><ul>{steps}</ul>" if steps else "")
            + self._table()
            + f"{calls}{then}<p><b>{escape(self.posed.question.text)}</b></p></div>"
            + mark
        )

    def _mark(self) -> str:
        origin = self._prepared.bench.specimen.weakest
        return "" if origin == LIVE else mark_html(mark_text(origin))

    def _table(self) -> str:
        rows = self._rows()
        if not rows:
            return "<p>No member is changed.</p>"
        head = ("member", "now", "asked for", "lies in", "formula")
        cells = "".join(f'<th scope="col" style="{_CELL}">{name}</th>' for name in head)
        lines = ("".join(f'<td style="{_CELL}">{_code(cell)}</td>' for cell in row) for row in rows)
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"

    def picture_html(self) -> str:
        """Return the picture of the draft as HTML."""
        return f'<div style="max-width:760px">{address_space_svg(self.layout)}</div>{self._mark()}'

    def _repr_html_(self) -> str:
        choices = "".join(
            f"<div>{letter}) <code>{escape(choice.word)}</code> {escape(choice.gloss)}</div>"
            for letter, choice in zip(LETTERS, self.choices)  # noqa: B905
        )
        how = 'Answer with <code>.answer("a")</code>, or the words; <code>.hint()</code> helps.'
        return f"{self.question_html()}{choices}<p><small>{how}</small></p>{self.picture_html()}"

    def hint(self) -> str:
        """Return a hint; the second time the numbers that the checks compare."""
        topic = TOPICS[self.posed.topic]
        self._hints += 1
        if self._hints == 1:
            return f"Hint 1 of 2: {topic.nudge}"
        looked_at = {*self.posed.experiment.change, *self.posed.shows}
        numbers = [
            finding.numbers
            for finding in self._prepared.explanation.findings
            if looked_at.intersection(finding.rule.members) or finding.rule.id == self.posed.topic
        ]
        lines = dict.fromkeys(numbers) or {f"see notebook {topic.notebook}": None}
        return "Hint 2 of 2: " + "; ".join(lines)

    # ---- the answer -----------------------------------------------------------------------------

    def choice(self, said: object) -> str:
        """Return the word of the choice that is meant.

        Raises InputError for what is none of them.
        """
        text = str(said).replace("\0", "\\0").strip()
        for letter, choice in zip(LETTERS, self.choices):  # noqa: B905
            names = {letter, choice.word.lower(), choice.word.strip('"').lower(), str(choice)}
            if text.lower() in names:
                return choice.word
        known = ", ".join(f"{letter} ({choice.word})"
                          for letter, choice in zip(LETTERS, self.choices))  # noqa: B905  # fmt: skip
        raise InputError("your answer", "is none of the choices", shorten(text), known)

    def answer(self, said: object) -> Told:
        """Judge an answer by the real call, and say what decides; the first answer counts.

        What is none of the choices is told so, and does not count.

        Raises SpecimenError if the specimen was ended meanwhile.
        """
        if self.told is not None:
            return self.told
        try:
            word = self.choice(said)
        except InputError as error:
            return Told(None, str(error), "… not understood.")
        record, after = self._make_the_call(word)
        seen, truth, news = self._truth(record, after)
        right = word == truth
        made = Answered(
            topic=self.posed.topic, level=self.posed.level, kind=self.posed.question.kind,
            said=word, truth=truth, right=right, problem=identity_of(self.posed), seed=self.seed,
            time=datetime.now(UTC).isoformat(timespec="seconds"), origin=record.origin,
            record=record.id,
        )  # fmt: skip
        kept = self._on_answer(made)
        message = " ".join(filter(None, (self._explanation(seen, truth, right), news, kept)))
        picture = ""
        if not record.outcome.errno:  # a refused call changes nothing
            picture = address_space_svg(layout(after, before=self._prepared.before)) + self._mark()
        notebook = TOPICS[self.posed.topic].notebook
        self.told = Explained(right, message, "" if right else "✗ no.", notebook, picture)
        self.specimen.stop()
        return self.told

    def _make_the_call(self, word: str) -> tuple[Record, Snapshot]:
        """Make the call, through the logbook if there is one, with the prediction of a verdict."""
        learner = word if self.posed.question.kind == "verdict" else ""
        experiment = replace(self._prepared.experiment, predict=learner)
        prepared: Prepared = replace(self._prepared, experiment=experiment)
        record: Record | None = None
        if self._logbook is not None:
            try:
                record = self._logbook.carry_out(prepared)
            except InputError:  # it cannot be written: told by whoever keeps the answers
                self._logbook = None
        record = carry_out(prepared) if record is None else record
        return record, self.specimen.snapshot()

    def _truth(self, record: Record, after: Snapshot) -> tuple[Seen, str, str]:
        """Return what came of the call, the right word, and what is remarkable about it."""
        agreed = record.outcome.verdict == record.prediction.verdict
        rule = record.prediction.rule if agreed else "a check that the lab does not know"
        answer = int(record.answers[0].answer or "0", 16) if record.answers else 0
        seen = self._seen(record.outcome.verdict, rule, after, answer)
        truth = self.posed.question.truth(seen)
        predicted = self.posed.question.truth(self._predicted)
        told = ""
        if record.origin != LIVE:
            told = f"({mark_text(record.origin)}.)"
        if record.origin != PREDICTED and (truth != predicted or not record.agreement.with_lab):
            wrong = "; ".join(record.agreement.disagreements) or f"predicted {predicted}"
            told = f"News: kernel and specification disagree ({wrong}). Please report it. {told}"
        return seen, truth, told.strip()

    def _explanation(self, seen: Seen, truth: str, right: bool) -> str:
        explanation, topic = self._prepared.explanation, self.posed.topic
        said = "" if right else f"It is: {truth}. "
        deciding = explanation.deciding
        if deciding is not None:
            later = ", ".join(f.rule.id for f in explanation.broken[1:])
            more = f" Broken as well, but checked later: {later}." if later else ""
            nothing = " A refused call changes nothing."
            verdict = explanation.verdict.partition(":")[0]
            return (
                f"{said}{verdict} by {deciding.rule.id} ({deciding.rule.title}): "
                f"{deciding.numbers}.{more}{nothing}"
            )
        if topic in EFFECT:
            effect, numbers = EFFECT[topic], numbers_of(topic, seen)
            told = f": {numbers}" if numbers else ""
            return f"{said}What holds: {effect.title}{told}. ({effect.source}; {effect.history}.)"
        about = [f.numbers for f in explanation.findings if f.rule.id == topic]
        return f"{said}Every check holds. {'; '.join(about)}".strip() + "." * bool(about)

    def stop(self) -> None:
        """End the specimen; a problem that is not answered then cannot be any more."""
        self.specimen.stop()


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>" if text else ""


def identity_of(posed: Posed) -> str:
    """Return a short text that tells a problem from all others."""
    return hashlib.sha256(posed.identity.encode()).hexdigest()[:16]
