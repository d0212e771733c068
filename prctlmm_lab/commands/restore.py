"""prctlmm-lab restore: make a process of an image, and say what is as it was."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prctlmm_lab.commands.output import DISAGREEMENT, FINE, add_json, complain, wrapped


def add(commands: Any) -> None:
    """Add the command and its arguments to those of the command line."""
    parser = commands.add_parser(
        "restore", help="restore a saved specimen, and compare",
        epilog="Exit status 0: all is equal but what cannot be; 1: it is not, or the kernel "
        "refused the map. Example: prctlmm-lab restore image --omit brk",
    )  # fmt: skip
    parser.add_argument("folder", type=Path, metavar="FOLDER",
                        help="what prctlmm-lab checkpoint has saved")  # fmt: skip
    parser.add_argument("--omit", action="append", default=[], metavar="MEMBER",
                        help="leave a member of the map as the fresh process has it")  # fmt: skip
    parser.add_argument("--no-exe", action="store_true", help="leave the exe link alone")
    parser.add_argument("--hold", action="store_true",
                        help="let it live until standard input ends, to look at it")  # fmt: skip
    add_json(parser)
    parser.set_defaults(command=restore_command)


def restore_command(options: argparse.Namespace) -> int:
    """Do what the command says and return its exit status."""
    from prctlmm_lab.restore.checkpoint import checkpoint
    from prctlmm_lab.restore.equality import equal, is_restored, rows_text
    from prctlmm_lab.restore.image import Image
    from prctlmm_lab.restore.restorer import MapRefused, restore

    image = Image.load(options.folder)
    try:
        restored = restore(image, omit=options.omit, exe=False if options.no_exe else None)
    except MapRefused as refused:
        complain(refused)
        return DISAGREEMENT
    with restored:
        rows = equal(image, checkpoint(restored))
        if options.json:
            table = [asdict(row) for row in rows]
            print(json.dumps({"restored": is_restored(rows), "rows": table}))
        else:
            for line in rows_text(rows).splitlines():
                print(wrapped(line, later=6))
            print(f"restored: {'yes' if is_restored(rows) else 'no'}")
        if options.hold:
            print(f"prctlmm-lab: process {restored.pid} waits", file=sys.stderr, flush=True)
            sys.stdin.read()
    return FINE if is_restored(rows) else DISAGREEMENT
