"""Address spaces that a restorer must make again, each built in a specimen.

On the command line: restore each, with both builds, with ASLR and without, and say which is not
equal to what it was. Whoever runs it is the user.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import fields

from prctlmm_lab.errors import LabError
from prctlmm_lab.kernel.auxv import encode_auxv
from prctlmm_lab.restore.checkpoint import checkpoint
from prctlmm_lab.restore.equality import equal
from prctlmm_lab.restore.image import Image
from prctlmm_lab.restore.restorer import restore
from prctlmm_lab.specimen.build import BUILDS
from prctlmm_lab.specimen.process import PAGE, Specimen

MADV_SEQUENTIAL, MADV_DONTFORK, MADV_HUGEPAGE, MADV_NOHUGEPAGE = 2, 10, 14, 15
MADV_DONTDUMP, MADV_WIPEONFORK, MADV_GUARD_INSTALL = 16, 18, 102
CAP_CHECKPOINT_RESTORE = 40
EXECUTABLE = "/bin/sh" if os.path.exists("/bin/sh") else os.path.realpath(sys.executable)
LEFT_OUT = {"proc", "left_out", "kernel", "origin"}
"""Of an image: what differs between two processes, or says where it comes from."""


def _changed(specimen: Specimen, **members: int) -> None:
    errno = specimen.set_map(specimen.current_map().changed(**members))
    assert errno == 0, errno


def plain(specimen: Specimen) -> None:
    """As it was started."""


def moved_heap(specimen: Specimen) -> None:
    heap = specimen.map(16 * PAGE)
    specimen.write(heap, b"heap" * PAGE)
    _changed(specimen, start_brk=heap, brk=heap + 8 * PAGE)
    specimen.brk(heap + 9 * PAGE + 5)


def grown_heap(specimen: Specimen) -> None:
    end = specimen.brk(specimen.brk() + 5 * PAGE)
    specimen.write(end - 8, b"the end.")


def spoofed_arguments(specimen: Specimen) -> None:
    page = specimen.map(PAGE)
    specimen.write(page, b"another\0name\0")
    _changed(specimen, arg_start=page, arg_end=page + 13)


def moved_environment(specimen: Specimen) -> None:
    page = specimen.map(PAGE)
    specimen.write(page, b"X=1\0Y=2\0")
    _changed(specimen, env_start=page, env_end=page + 8)


def another_vector(specimen: Specimen) -> None:
    """With something behind AT_NULL, which only the process itself can see (since v6.4)."""
    vector = encode_auxv([("AT_PAGESZ", 4096), ("AT_ENTRY", 0x1234), ("AT_NULL", 0), ("AT_UID", 5)])
    page = specimen.map(PAGE)
    specimen.write(page, vector)
    _changed(specimen, auxv=page, auxv_size=len(vector))


def thread_stacks(specimen: Specimen) -> None:
    """As the C library lays them out: each with a guard below."""
    for number in range(20):
        stack = specimen.map(65 * PAGE)
        specimen.protect(stack, PAGE, "---")
        specimen.write(stack + 64 * PAGE, b"stack %d" % number)


def huge_pages(specimen: Specimen) -> None:
    area = specimen.map(6 << 20)
    specimen.syscall("madvise", area, 6 << 20, MADV_HUGEPAGE)
    specimen.write((area + (2 << 20)) & -(2 << 20), b"h" * 100_000)


def a_terabyte(specimen: Specimen) -> None:
    """Reserved, with one page in use in its middle."""
    map_noreserve = 0x4022
    area = specimen.syscall("mmap", 0, 1 << 40, 0, map_noreserve, -1, 0)
    specimen.protect(area + (1 << 39), PAGE, "rw-")
    specimen.write(area + (1 << 39), b"far away")


def guard_pages(specimen: Specimen) -> None:
    area = specimen.map(16 * PAGE)
    specimen.write(area, b"g" * 16 * PAGE)
    specimen.attempt("madvise", area + 4 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL)  # since v6.13


def hidden_contents(specimen: Specimen) -> None:
    """Memory that the process itself may not read any more."""
    area = specimen.map(4 * PAGE)
    specimen.write(area, b"secret")
    specimen.protect(area, 4 * PAGE, "---")


def code(specimen: Specimen) -> None:
    area = specimen.map(4 * PAGE)
    specimen.write(area, b"\xc3" * PAGE)
    specimen.protect(area, 2 * PAGE, "r-x")
    specimen.protect(area + 2 * PAGE, PAGE, "rwx")


def shared_memory(specimen: Specimen) -> None:
    area = specimen.map(8 * PAGE, shared=True)
    specimen.write(area, b"shared" * PAGE)
    specimen.protect(area + PAGE, PAGE, "r--")
    specimen.unmap(area + 5 * PAGE, PAGE)


def shared_twice(specimen: Specimen) -> None:
    """Show the same pages at two addresses."""
    area = specimen.map(2 * PAGE, shared=True)
    specimen.write(area + PAGE, b"both")
    specimen.syscall("mremap", area, 0, 2 * PAGE, 1, 0)


def memory_file(specimen: Specimen) -> None:
    descriptor = specimen.memory_file("mine", b"contents" * 2 * PAGE)
    private = specimen.map(4 * PAGE, descriptor=descriptor)
    specimen.write(private + 2 * PAGE, b"written")
    specimen.map(2 * PAGE, shared=True, descriptor=descriptor, offset=PAGE)


def mapped_file(specimen: Specimen) -> None:
    descriptor = specimen.open(__file__)
    private = specimen.map(PAGE, descriptor=descriptor)
    specimen.write(private + 10, b"written")
    specimen.map(PAGE, descriptor=descriptor, permissions="r--")
    specimen.close(descriptor)


def advice(specimen: Specimen) -> None:
    for kind in (MADV_SEQUENTIAL, MADV_DONTFORK, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_WIPEONFORK):
        specimen.syscall("madvise", specimen.map(PAGE), PAGE, kind)
    specimen.syscall("mlock", specimen.map(PAGE), PAGE)
    specimen.map(PAGE, grows_down=True)


def limits_and_name(specimen: Specimen) -> None:
    specimen.set_limit("DATA", 1 << 30)
    specimen.set_limit("NOFILE", 50, 60)
    specimen.syscall("umask", 0o77)
    specimen.syscall("prctl", 15, specimen.place(b"another name\0"))
    specimen.syscall("prctl", 38, 1, 0, 0, 0)


def written_program(specimen: Specimen) -> None:
    specimen.write(specimen.current_map().start_data, b"written")


def no_executable(specimen: Specimen) -> None:
    specimen.release_executable()


def another_exe(specimen: Specimen) -> None:
    specimen.enter_user_namespace()
    specimen.release_executable()
    descriptor = specimen.open(EXECUTABLE)
    _changed(specimen, exe_fd=descriptor)
    specimen.close(descriptor)


def exe_in_memory(specimen: Specimen) -> None:
    specimen.enter_user_namespace(map_ids=False)
    specimen.release_executable()
    writable = specimen.memory_file("program", b"x" * 100)
    descriptor = specimen.open(f"/proc/self/fd/{writable}")
    specimen.close(writable)
    _changed(specimen, exe_fd=descriptor)


def few_capabilities(specimen: Specimen) -> None:
    specimen.enter_user_namespace()
    specimen.keep_capabilities(1 << CAP_CHECKPOINT_RESTORE)


def all_at_once(specimen: Specimen) -> None:
    for build in (moved_heap, thread_stacks, spoofed_arguments, moved_environment, shared_memory,
                  hidden_contents, another_vector, mapped_file):  # fmt: skip
        build(specimen)


NAMESPACES = (another_exe, exe_in_memory, few_capabilities)
"""Those that need a user namespace."""

SPACES: tuple[Callable[[Specimen], None], ...] = (
    plain, moved_heap, grown_heap, spoofed_arguments, moved_environment, another_vector,
    thread_stacks, huge_pages, a_terabyte, guard_pages, hidden_contents, code, shared_memory,
    shared_twice, memory_file, mapped_file, advice, limits_and_name, written_program,
    no_executable, *NAMESPACES, all_at_once,
)  # fmt: skip


def unequal(before: Image, after: Image) -> list[str]:
    """Return what two images have not in common, by both of our ways to compare."""
    rows = [str(row) for row in equal(before, after) if not row.fine]
    names = {each.name for each in fields(Image)} - LEFT_OUT
    return rows + sorted(n for n in names if getattr(before, n) != getattr(after, n))


def image_of(build: str, space: Callable[[Specimen], None], *, randomize: bool) -> Image:
    """Return the image of a specimen with an address space; the specimen has ended."""
    options = {"arguments": (b"one", b"two"), "environment": (b"A=B",), "randomize": randomize}
    with Specimen(build, **options) as specimen:  # type: ignore[arg-type]
        space(specimen)
        return checkpoint(specimen)


def main() -> int:
    """Restore all of them and print what is not equal."""
    failed = 0
    for build in BUILDS:
        for space in SPACES:
            for randomize in (True, False):
                found = []
                try:
                    image = image_of(build, space, randomize=randomize)
                    with restore(image) as restored:
                        found = unequal(image, checkpoint(restored))
                except LabError as error:
                    found = [str(error)]
                failed += bool(found)
                for text in found:
                    print(f"{build} {space.__name__}: {text}")
    print(f"{failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
