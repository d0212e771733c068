"""The commit message of f606b77f1a (v3.18) by its places, each in a few words of ours.

What the kernel is asked to show can so be cited, sentence by sentence.
"""

from __future__ import annotations

PLACES: dict[str, str] = {
    "privilege": "in a user namespace CAP_SYS_RESOURCE is never there, so the call does without",
    "bundle": "all new values come at once, and are judged together",
    "form": "the call: a pointer to the struct, and its size",
    "struct": "the 14 members, in their order",
    "meaning": "what each member stands for",
    "1": "addresses lie in user space",
    "2": "code and data may point anywhere, the other addresses into a VMA that exists",
    "3": "the start of each pair lies below its end",
    "4": "start_brk and brk lie above end_data",
    "5": "the new values stay within RLIMIT_DATA, and RLIMIT_STACK",
    "6": "the auxiliary vector is not larger than the kernel's own",
    "7": "exe_fd names a file that may be executed",
    "uses: code": "start_code and end_code in stat and statm",
    "uses: data": "start_data and end_data in stat, statm, and brk() under RLIMIT_DATA",
    "uses: start_brk": "start_brk in stat, brk() under RLIMIT_DATA, perf and SELinux",
    "uses: brk": "brk as brk() knows it, and in stat; with start_brk the heap's name in maps",
    "uses: start_stack": "start_stack in stat, the stack's name in maps, perf, vDSO and shmat()",
    "uses: strings": "arguments and environment in stat, cmdline and environ",
    "uses: auxv": "the auxiliary vector in /proc, whatever it says",
    "uses: exe": "exe_fd in the exe link and core dumps, to be changed once",
    "exe permission": "the exe link asks for no more than root of a user namespace",
    "old interface": "the operations for single members should go",
    "map size": "PR_SET_MM_MAP_SIZE tells whether the call is there, and the struct's size",
}
"""Place -> what stands there; 1 to 7 are the numbered requirements."""
