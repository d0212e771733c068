"""What helps when a rule refuses a restorer's call: one sentence or two for each rule."""

from __future__ import annotations

_REMEDIES: dict[str, str] = {
    "call.arg5": "The caller must pass 0 as fifth argument: mend the restorer.",
    "call.option": "Restore on a kernel with CONFIG_CHECKPOINT_RESTORE: "
    "`zgrep CHECKPOINT_RESTORE /proc/config.gz` or `criu check` tells.",
    "call.size": "The restorer was built for another struct: it must pass 0x68 bytes, also for a "
    "32-bit task.",
    "call.struct": "The restorer unmapped its own struct: mend the restorer.",
    "range": "The kernel gives this address to no process: lower vm.mmap_min_addr, or restore on a "
    "machine whose address space is as large as that of the dump.",
    "order.code": "The image shows no code: start_code must lie below end_code. Dump again; or "
    "correct the pair (crit decode, crit encode): nothing but /proc uses it.",
    "order.data_strict": "Restore on v5.2 or newer, or correct the pair with crit: end_data one "
    "byte above start_data.",
    "order": "The image contradicts itself, which no dump of a living process does. Dump again, "
    "or correct the pair with crit decode and crit encode.",
    "heap.above_data": "Restore on v5.15 or newer, or on a stable kernel with e1fbbd073137: "
    "5.14.8, 5.10.69, 5.4.149, 4.19.208, 4.14.248, 4.9.284, 4.4.285. CAP_SYS_RESOURCE does not "
    "help: the older operations make the same check.",
    "limit.data": "Raise RLIMIT_DATA where `criu restore` is started (`ulimit -d unlimited`): the "
    "limits of the image are set only after the call.",
    "auxv.null": "The restorer gave no vector but a size: mend the restorer.",
    "auxv.size": "The vector comes from a kernel that keeps a longer one. Restore on a kernel as "
    "new, or cut pairs of the end off (crit decode, crit encode): programs read the "
    "vector on their stack, not this one.",
    "auxv.readable": "The restorer unmapped its own copy of the vector: mend the restorer.",
    "exe.ids": "Restore as uid and gid 0 of the user namespace.",
    "exe.permission": "Restore with CAP_CHECKPOINT_RESTORE (since v5.9) or CAP_SYS_ADMIN in the "
    "user namespace that the task is restored in: as root, or with `setcap "
    "cap_checkpoint_restore+eip`.",
    "exe.descriptor": "The restorer closed the executable, or opened it with O_PATH: mend the "
    "restorer.",
    "exe.regular": "Put the executable of the dump back where it was: something that is no "
    "regular file has its name.",
    "exe.noexec": "The executable's file system is mounted noexec here: mount it without.",
    "exe.executable": "Give the executable its x bit back: `chmod +x`.",
    "exe.busy": "A mapping of the restorer's own executable is left. A restorer has to move its "
    "code to anonymous memory and unmap the rest first.",
    "exe.once": "The exe link was changed before in this process, which kernels to v4.9 allow "
    "once. Restore in a fresh process.",
    "exe.written": "Somebody has the executable open for writing: `fuser -v FILE` finds who. Wait "
    "until it is closed, or put a copy in its place.",
    "sandbox": "Allow prctl(PR_SET_MM) in the sandbox's seccomp profile, or restore outside of "
    "it: `grep Seccomp /proc/self/status` tells whether there is one.",
}  # fmt: skip


def remedy(rule: str) -> str:
    """Return what helps when this rule refuses, by its id.

    >>> remedy("exe.executable")
    'Give the executable its x bit back: `chmod +x`.'
    """
    family = rule.partition(".")[0]
    return _REMEDIES.get(rule.removesuffix("_early")) or _REMEDIES[family]
