"""Why a restorer's call was refused, or what it needs: CRIU's log or image against the rules.

An image or a log tells the values of the call, but not everything that the kernel looks at. What it
does not tell (RLIMIT_DATA, capabilities, the state of the executable's file) is taken as fine.
Where that leaves a refusal unexplained, every rule is named that could have given this errno then,
with what must have been true.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from prctlmm_lab.errors import InputError
from prctlmm_lab.kernel.abi import ADDRESSES, NO_EXE, U64, PrctlMmMap
from prctlmm_lab.kernel.facts import Facts
from prctlmm_lab.kernel.releases import facts_on
from prctlmm_lab.kernel.rules import (
    RULE,
    RULES,
    UNLIMITED,
    ExeFile,
    Explanation,
    Rule,
    Situation,
    errno_name,
    explain,
)
from prctlmm_lab.restore.criu.images import CriuMemory
from prctlmm_lab.restore.criu.log import CriuLog, RefusedCall
from prctlmm_lab.restore.remedies import remedy

SANDBOX = "sandbox"
"""Stands in the place of a rule's id for a seccomp filter that answers before the kernel does."""


@dataclass(frozen=True)
class Condition:
    """One thing that neither image nor log tells, and that can refuse the call."""

    rule: str
    """The id of the rule that would refuse, or `SANDBOX`."""
    errno: int
    broken_if: str
    """What must be true for it to refuse."""

    @property
    def remedy(self) -> str:
        """What helps then."""
        return remedy(self.rule)


@dataclass(frozen=True)
class Diagnosis:
    """One call of a restorer against the rules of a kernel."""

    source: str
    """The file, and of a log the line."""
    process: str
    """Its number, as the file tells it."""
    map: PrctlMmMap
    facts: Facts
    came: int | None
    """The errno that the log tells; None for a call that was not made yet."""
    explanation: Explanation
    """Every rule, with what is not told taken as fine."""
    conditions: tuple[Condition, ...]
    """What is not told, in the kernel's order: of a refused call what may have refused it."""
    notes: tuple[str, ...]
    """What more the log tells, a sentence each."""

    @property
    def decided(self) -> bool:
        """True if the values alone say which rule refuses."""
        broken = self.explanation.deciding is not None
        return broken and self.came in (None, self.explanation.errno)

    @property
    def rule(self) -> str:
        """The id of the rule that refused, "" if the values do not decide or nothing refuses."""
        deciding = self.explanation.deciding
        if self.decided and deciding is not None:
            return deciding.rule.id
        if self.came is not None and len(self.conditions) == 1:
            return self.conditions[0].rule
        return ""

    @property
    def contradicts(self) -> bool:
        """True if no rule of this kernel could have given the errno that came."""
        return self.came is not None and not self.decided and not self.conditions

    @property
    def remedy(self) -> str:
        """What helps, if one rule is known to have refused; else ""."""
        return remedy(self.rule) if self.rule else ""

    @property
    def verdict(self) -> str:
        """One line: what refuses, or that nothing does."""
        deciding = self.explanation.deciding
        if self.decided and deciding is not None:
            return f"{errno_name(self.explanation.errno)} by rule {deciding.rule.id}"
        if self.came is None:
            return "accepted, if what the file does not tell is fine"
        name = errno_name(self.came)
        if self.contradicts:
            return f"{name}, which no rule of {self.facts.release} gives to these values"
        if self.rule:
            return f"{name} by {_named(self.rule)}: nothing else gives it here"
        return f"{name} by one of {len(self.conditions)}: the log does not tell which"


def _named(rule: str) -> str:
    return "a seccomp filter" if rule == SANDBOX else f"rule {rule}"


def diagnose_log(
    log: CriuLog,
    here: Facts,
    *,
    release: str = "",
    rlimit_data: int | None = None,
    exe_file: ExeFile | None = None,
) -> tuple[Diagnosis, ...]:
    """Say of each refused call in a log which rule refused it.

    The rules are those of the kernel that the log names: of the running one (`here`) if it is the
    same, else as documented of that release, or of `release` where that is given. `rlimit_data` is
    the soft RLIMIT_DATA, in bytes, of the shell that started `criu restore`, and `exe_file` how the
    executable's file stands, if that is known.

    Raises InputError for a log without such a call.
    """
    if not log.refused:
        raise InputError(log.source, *_why_nothing(log))
    facts = _facts_of(log, here, release)
    return tuple(_of_refused(log, call, facts, rlimit_data, exe_file) for call in log.refused)


def diagnose_image(
    memory: CriuMemory,
    facts: Facts,
    *,
    exe: bool = True,
    rlimit_data: int | None = None,
    exe_file: ExeFile | None = None,
) -> Diagnosis:
    """Say what a kernel will answer to the call that restores an image, and what it needs.

    The restorer gives the vector, and the executable unless `exe` is false. `rlimit_data` and
    `exe_file` are as in `diagnose_log`.
    """
    new = memory.map(auxv=facts.lowest if memory.auxv else 0, exe_fd=3 if exe else NO_EXE)
    notes = [
        f"{name} = {value:#x} lies in none of the image's VMAs, which no rule asks for"
        for name, value in memory.addresses.items()
        if memory.vma_at(value) is None and memory.vma_at(value - 1) is None
    ]
    return _diagnosis(
        memory.source, memory.pid, new, facts, None, rlimit_data, exe_file, tuple(notes)
    )


def _of_refused(
    log: CriuLog,
    call: RefusedCall,
    facts: Facts,
    rlimit_data: int | None,
    exe_file: ExeFile | None,
) -> Diagnosis:
    return _diagnosis(
        f"{log.source}, line {call.line}",
        call.pid,
        call.map,
        facts,
        call.errno,
        rlimit_data,
        exe_file,
        (*_kernel_note(log, facts), *_notes(call)),
    )


def _diagnosis(
    source: str,
    process: int,
    new: PrctlMmMap,
    facts: Facts,
    came: int | None,
    rlimit_data: int | None,
    exe_file: ExeFile | None,
    notes: tuple[str, ...],
) -> Diagnosis:
    asks = new.exe_fd != NO_EXE
    fine = ExeFile(is_open=asks, is_regular=asks, is_executable=asks)
    situation = Situation(
        map=new,
        rlimit_data=UNLIMITED if rlimit_data is None else rlimit_data,
        capabilities=U64,
        namespace_root=True,
        exe=exe_file if exe_file and asks else fine,
        exe_mapped=False,
    )
    explanation = explain(situation, facts)
    told = {"limit.data"} if rlimit_data is not None else set()
    if exe_file is not None:  # that nobody writes to it now says nothing of then
        told |= _OF_THE_FILE | ({"exe.written"} if exe_file.is_written else set())
    open_ = tuple(_conditions(situation, facts, told))
    if came is not None:
        open_ = tuple(c for c in (*open_, *_outdated(situation, facts), *_sandboxed(came))
                      if c.errno == came)  # fmt: skip
        if explanation.errno == came:
            open_ = ()
    return Diagnosis(source, str(process), new, facts, came, explanation, open_, notes)


# ---- what is not told ---------------------------------------------------------------------------

_Broken = Callable[[Situation, Facts], str]


def _capability(s: Situation, f: Facts) -> str:
    return (
        f"the restored task has none of the capabilities {f.exe_capabilities:#x} in its user "
        f"namespace (CAP_SYS_ADMIN is {1 << 21:#x}, CAP_CHECKPOINT_RESTORE {1 << 40:#x})"
    )


_UNTOLD: dict[str, _Broken] = {
    "limit.data": lambda s, f: (
        f"RLIMIT_DATA of the one who restores is below {_need(s.map):#x}, which is brk - start_brk "
        f"= {s.map.brk - s.map.start_brk:#x} and end_data - start_data = "
        f"{s.map.end_data - s.map.start_data:#x}"
    ),
    "auxv.size": lambda s, f: (
        f"the kernel keeps a vector shorter than {s.map.auxv_size:#x} bytes "
        f"({f.auxv_capacity:#x} are documented)"
    ),
    "exe.ids": lambda s, f: "real uid and gid of the task are not 0 in its user namespace",
    "exe.permission_early": _capability,
    "exe.permission": _capability,
    "exe.descriptor": lambda s, f: "the restorer's descriptor of the executable is not open",
    "exe.regular": lambda s, f: "what has the executable's name is no regular file",
    "exe.noexec": lambda s, f: "the executable lies on a noexec mount",
    "exe.executable": lambda s, f: "the executable lacks its x bit",
    "exe.busy": lambda s, f: "a mapping of the restorer's own executable is left",
    "exe.once": lambda s, f: "the exe link was changed before in this process",
    "exe.written": lambda s, f: "somebody has the executable open for writing",
}
"""What must be true for a rule to refuse, of those that look at more than an image or a log tells.
"""


def _need(new: PrctlMmMap) -> int:
    return new.brk - new.start_brk + new.end_data - new.start_data & U64


_OF_THE_FILE = {f"exe.{what}" for what in ("descriptor", "regular", "noexec", "executable")}


def _conditions(s: Situation, f: Facts, told: set[str]) -> Iterator[Condition]:
    for rule in RULES:
        if rule.id == "call.option" and "available" in f.assumed:
            for number in (errno.EPERM, errno.EINVAL):
                who = "without" if number == errno.EPERM else "with"
                text = f"the kernel lacks CONFIG_CHECKPOINT_RESTORE ({who} CAP_SYS_RESOURCE)"
                yield Condition(rule.id, number, text)
        if rule.id not in _UNTOLD.keys() - told or not rule.exists(f) or not _concerns(rule, s, f):
            continue
        yield Condition(rule.id, rule.errno_on(f), _UNTOLD[rule.id](s, f))


def _concerns(rule: Rule, s: Situation, f: Facts) -> bool:
    """Tell whether this call asks for what a rule looks at, so that it could refuse."""
    if rule.id == "limit.data":
        return bool(0 < _need(s.map) <= s.rlimit_data)
    if rule.id == "auxv.size":
        return "auxv_capacity" in f.assumed and bool(0 < s.map.auxv_size <= f.auxv_capacity)
    return bool(s.map.exe_fd != NO_EXE)


def _outdated(s: Situation, f: Facts) -> Iterator[Condition]:
    """Yield the rules that this kernel should no longer have, and that these values break."""
    for name in ("order.data_strict", "heap.above_data"):
        rule = RULE[name]
        if not rule.exists(f) and rule.broken(s, f):
            text = f"the kernel still makes this check ({rule.history}): {rule.numbers(s, f)}"
            yield Condition(rule.id, rule.errno, text)


def _sandboxed(came: int) -> Iterator[Condition]:
    """Yield the sandbox as a reason, for what filters answer; they can answer anything."""
    if came in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        yield Condition(SANDBOX, came, "a seccomp filter answers in place of the kernel")


# ---- what the log tells besides -----------------------------------------------------------------


def _facts_of(log: CriuLog, here: Facts, release: str) -> Facts:
    """Return the facts of the kernel that the log names, with the bounds that CRIU found."""
    if release:
        facts = facts_on(release, here)
    elif not log.kernel or log.kernel == here.release:
        facts = here
    else:
        facts = _facts_on_kernel_of(log, here)
    if facts is not here:
        facts = replace(facts, assumed=(*facts.assumed, "available"))
    if log.lowest is not None:
        facts = replace(facts, lowest=log.lowest)
    if log.task_size is not None:
        facts = replace(facts, highest=log.task_size - 1)
    return facts


def _facts_on_kernel_of(log: CriuLog, here: Facts) -> Facts:
    try:
        return facts_on(_release_of(log.kernel), here)
    except InputError:
        raise InputError(log.source, "is a kernel without documented rules", repr(log.kernel),
                         "the release it comes from, as --on v5.10") from None  # fmt: skip


def _release_of(kernel: str) -> str:
    """Return the release in a name as `uname -r` has it.

    >>> _release_of("5.10.0-28-amd64"), _release_of("6.18.44-fc-v595")
    ('5.10.0', '6.18.44')
    """
    found = re.match(r"\d{1,3}\.\d{1,3}(\.\d{1,3})?", kernel)
    return found[0] if found else kernel


def _kernel_note(log: CriuLog, facts: Facts) -> Iterator[str]:
    """Warn where a kernel's name may not tell which changes it has."""
    if log.kernel and "documented" in facts.release:
        yield (
            f"the log's kernel is {log.kernel}; a distribution's kernel keeps a first release's "
            "name and contains a later stable one: name that with --on"
        )
    elif not log.kernel:
        yield "the log does not name its kernel: the rules of this one are taken"


def _notes(call: RefusedCall) -> Iterator[str]:
    if call.singles:
        codes = ", ".join(
            sorted({errno_name(-each if each < 0 else each) for each in call.singles})
        )
        yield (
            f"CRIU went on with the operations for single members: {len(call.singles)} of 13 "
            f"failed too ({codes})" + _SINGLE_HINT.get(codes, "")
        )
    elif call.errno == errno.EINVAL:
        yield (
            "CRIU went on with the operations for single members, and none of them failed: the "
            "restore may have succeeded all the same"
        )
    outside = [name for name in ADDRESSES if not _is_mapped(call, call.members[name])]
    if call.mappings and outside:
        yield (
            f"{', '.join(outside)}: in none of the {len(call.mappings)} mappings restored before; "
            f"no rule asks for that"
        )
    elif call.mappings:
        yield f"all 11 addresses lie in or at the end of the {len(call.mappings)} mappings restored"


_SINGLE_HINT = {
    "EPERM": ": they need CAP_SYS_RESOURCE in the first user namespace, so they tell nothing more",
    "EINVAL": ": they make the same checks",
}


def _is_mapped(call: RefusedCall, address: int) -> bool:
    return any(m.start <= address <= m.end for m in call.mappings)


def _why_nothing(log: CriuLog) -> tuple[str, str, str]:
    """Return what to say of a log that tells of no refused call with its values."""
    if log.bare:
        pid, number = log.bare[0]
        return (
            f"tells that PR_SET_MM_MAP of process {pid} gave {errno_name(number)}, but not the "
            "values", "", "the log of `criu restore -v4` of CRIU 3.18 or newer, or mm-PID.img",
        )  # fmt: skip
    last = next((each for each in log.errors if "FAILED" not in each and "rlimit" not in each), "")
    told = f"; it fails with: {last[:100]}" if last else ""
    return (f"tells of no refused PR_SET_MM_MAP{told}", "",
            "the log of a restore that failed in this call, made with -v4")  # fmt: skip
