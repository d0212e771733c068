"""prctlmm-lab atlas: other kernels, got, kept and asked."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prctlmm_lab.commands.atlas_surveys import add_run, add_table
from prctlmm_lab.commands.output import FINE, add_json, complain, wrapped
from prctlmm_lab.errors import InputError
from prctlmm_lab.words import size_text

if TYPE_CHECKING:
    from prctlmm_lab.atlas.packages import Image, Offer


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "atlas", help="get other kernels, and ask them the same",
        epilog="Example: prctlmm-lab atlas fetch 5.10 6.1",
    )  # fmt: skip
    subcommands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add_one in (_add_fetch, _add_list, _add_remove, add_run, add_table):
        add_one(subcommands)


_VERSION = "a series (6.1), a release (6.1.192), a package or its version, or a uname -r"


def _add_fetch(commands: Any) -> None:
    parser = commands.add_parser(
        "fetch", help="get kernels through apt, without root",
        description="Get kernels through apt, from the mirror that this machine's apt is set up "
        "for; nothing is installed. Without a VERSION: the newest of each series from 5.10 on. "
        "They are kept in $PRCTLMM_LAB_KERNELS or ~/.cache/prctlmm-lab/kernels.",
        epilog="Example: prctlmm-lab atlas fetch 5.10 6.1.192",
    )  # fmt: skip
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=_VERSION)
    _add_machine(parser)
    add_json(parser)
    parser.set_defaults(command=fetch)


def _add_list(commands: Any) -> None:
    parser = commands.add_parser(
        "list", help="the kernels that are here, or that apt has",
        epilog="Example: prctlmm-lab atlas list --available",
    )  # fmt: skip
    parser.add_argument("--available", action="store_true",
                        help="what apt has: the newest of each series")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="with --available: everything")
    _add_machine(parser, default="")
    add_json(parser)
    parser.set_defaults(command=list_)


def _add_remove(commands: Any) -> None:
    parser = commands.add_parser(
        "remove", help="delete kernels that were fetched",
        epilog="Example: prctlmm-lab atlas remove 6.1",
    )  # fmt: skip
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=_VERSION)
    parser.add_argument("--all", action="store_true", help="every one, and apt's index")
    add_json(parser)
    parser.set_defaults(command=remove)


def _add_machine(parser: argparse.ArgumentParser, default: str = "x86_64") -> None:
    parser.add_argument("--machine", choices=("x86_64", "aarch64"), default=default,
                        help=f"kernels for it ({default or 'any'})")  # fmt: skip


# ---- fetch --------------------------------------------------------------------------------------


def fetch(options: argparse.Namespace) -> int:
    """Get kernels and return the exit status."""
    from prctlmm_lab.atlas import packages

    def choose(wanted: Sequence[Offer]) -> None:
        _clear()
        if not options.json:
            print("\n".join(offers_text(wanted)), flush=True)
        _show(f"getting {_counted(len(wanted))}")

    def tell(image: Image) -> None:
        _clear()
        line = json.dumps(image_data(image)) if options.json else image_line(image)
        print(line, flush=True)

    _show("asking apt's mirror")
    try:
        packages.fetch(options.versions, machine=options.machine, on_choice=choose, on_image=tell,
                       on_note=_note)  # fmt: skip
    finally:
        _clear()
    return FINE


def _note(text: str) -> None:
    _clear()
    complain(f"apt: {text}")


def _show(text: str) -> None:
    """Say on a terminal what takes a while."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"\r{text} ...\x1b[K", end="", file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def offers_text(found: Sequence[Offer]) -> Iterator[str]:
    """Yield the table of what can be had: a kernel a line, with what is to be downloaded."""
    from prctlmm_lab.atlas.packages import kept

    width = max((len(each.package) for each in found), default=0)
    yield f"{'kernel':9}  {'package':{width}}  download"
    total = 0
    for each in found:
        is_here = kept(each) is not None
        total += 0 if is_here else each.size
        what = "is here" if is_here else size_text(each.size)
        yield f"{each.upstream:9}  {each.package:{width}}  {what}"
    yield f"{_counted(len(found))}, {size_text(total)} to download"
    yield ""


# ---- list ---------------------------------------------------------------------------------------


def list_(options: argparse.Namespace) -> int:
    """Print which kernels there are and return the exit status."""
    if options.available:
        return _list_available(options)
    if options.all:
        raise InputError("--all", "is about what apt has", "", "--available with it")
    from prctlmm_lab.atlas.packages import cache_folder, images, images_elsewhere

    kept = images(machine=options.machine)
    elsewhere = [i for i in images_elsewhere() if options.machine in ("", i.machine)]
    if options.json:
        print(json.dumps({
            "folder": str(cache_folder()),
            "kept": [image_data(image) for image in kept],
            "elsewhere": [image_data(image) for image in elsewhere],
        }))  # fmt: skip
        return FINE
    for image in kept:
        print(image_line(image))
    size = sum(image.path.stat().st_size for image in kept)
    print(wrapped(f"{_counted(len(kept))}, {size_text(size)} in {cache_folder()}", later=2))
    if elsewhere:
        print("\nelsewhere on this machine:")
        for image in elsewhere:
            print(wrapped(f"{image.release}  {image.machine}  {image.path}", later=2))
    if not kept:
        print("`prctlmm-lab atlas fetch` gets the newest of each series.")
    return FINE


def _counted(number: int) -> str:
    return "1 kernel" if number == 1 else f"{number} kernels"


def image_line(image: Image) -> str:
    """Return an image's line of the table: what it contains, its release, machine and size.

    >>> from pathlib import Path
    >>> from prctlmm_lab.atlas.packages import Image
    >>> image_line(Image(Path("/dev/null"), "6.1.0-56-cloud-amd64", "", "6.1.192-2", "x86_64"))
    '6.1.192    6.1.0-56-cloud-amd64        x86_64   0 bytes'
    """
    size = size_text(image.path.stat().st_size)
    return f"{image.upstream:9}  {image.release:26}  {image.machine:7}  {size}"


def image_data(image: Image) -> dict[str, Any]:
    """Return an image as JSON has it."""
    return {**vars(image), "path": str(image.path), "upstream": image.upstream,
            "series": image.series, "size": image.path.stat().st_size}  # fmt: skip


def _list_available(options: argparse.Namespace) -> int:
    from prctlmm_lab.atlas.packages import kept, newest_of_each_series, offers

    _show("asking apt's mirror")
    try:
        found = offers(machine=options.machine or "x86_64", on_note=_note)
    finally:
        _clear()
    shown = found if options.all else newest_of_each_series(found)
    if options.json:
        print(json.dumps([
            {**vars(each), "upstream": each.upstream, "series": each.series,
             "kept": kept(each) is not None}
            for each in shown
        ]))  # fmt: skip
    else:
        print("\n".join(offers_text(shown)).rstrip())
    return FINE


# ---- remove -------------------------------------------------------------------------------------


def remove(options: argparse.Namespace) -> int:
    """Delete kernels and return the exit status."""
    from prctlmm_lab.atlas.packages import forget, images, remove

    if bool(options.versions) == options.all:
        raise InputError("atlas remove", "needs to know what", "", "a VERSION or more, or --all")
    names = [image.package for image in images()] if options.all else options.versions
    told = {image: image_data(image) for image in images()}
    gone = remove(names)
    if options.all:
        forget()
    if options.json:
        print(json.dumps([told[image] for image in gone]))
    else:
        size = size_text(sum(told[image]["size"] for image in gone))
        print(wrapped(", ".join(image.release for image in gone) or "nothing was kept", later=2))
        print(f"{_counted(len(gone))} removed, {size}")
    return FINE
