"""What the kernel calls a piece of memory, by each of its reports that has a name for it.

Source: fs/proc/task_mmu.c, show_map_vma(), show_smap(), show_numa_map(), do_procmap_query();
include/uapi/linux/fs.h, struct procmap_query.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path

from prctlmm_lab.errors import UnsupportedSystem
from prctlmm_lab.kernel.procfs import Vma, parse_maps, parse_smaps
from prctlmm_lab.specimen.process import Specimen
from prctlmm_lab.witnesses.accounts import Account, account

if sys.platform == "linux":  # elsewhere nothing is asked, but the module can be imported
    import fcntl

MAPS, SMAPS, NUMA_MAPS, QUERY = "maps", "smaps", "numa_maps", "PROCMAP_QUERY"
NO_NAME = "no name"
NO_MEMORY = "no memory"
NOT_HERE = "not on this kernel"

_QUERY = struct.Struct("<9Q4I2Q")
"""Own size, flags, address; start, end, flags, page size, offset, inode; device (two numbers), room
for the name, for the build id; where the name, and the build id, shall be put."""
_QUERY_CODE = 0xC0000000 | _QUERY.size << 16 | ord("f") << 8 | 17
_ROOM = 256


def names_of_memory(specimen: Specimen, address: int) -> Account:
    """Ask each of the kernel's reports what it calls the memory at an address of a specimen.

    numa_maps, which needs CONFIG_NUMA, writes [heap] and [stack] without brackets;
    ioctl(PROCMAP_QUERY) came with v6.11.

    >>> with Specimen() as specimen:
    ...     names_of_memory(specimen, specimen.brk() - 1)["maps"]
    '[heap]'

    Equivalent: look for the address in `cat /proc/PID/maps`, and in the others.

    Raises SpecimenGone if the specimen has ended. Where a file cannot be read, the account's
    refusal says so.
    """
    return account(
        specimen, "names", lambda pid: _names(pid, address), asked=f"names at {address:#x}"
    )


def _names(pid: int, address: int) -> Mapping[str, str]:
    folder = Path(f"/proc/{pid}")
    try:
        maps = parse_maps((folder / MAPS).read_bytes())
        smaps = [vma for vma, _ in parse_smaps((folder / SMAPS).read_bytes())]
        return {
            MAPS: _name(maps, address),
            SMAPS: _name(smaps, address),
            NUMA_MAPS: _name_in_numa_maps(folder / NUMA_MAPS, maps, address),
            QUERY: _queried_name(folder / MAPS, address),
        }
    except OSError as error:
        raise UnsupportedSystem(f"{error.filename} cannot be read: {error.strerror}") from None


def _name(vmas: Iterable[Vma], address: int) -> str:
    vma = next((vma for vma in vmas if address in vma), None)
    return NO_MEMORY if vma is None else vma.label or vma.path or NO_NAME


def _name_in_numa_maps(path: Path, maps: Iterable[Vma], address: int) -> str:
    """Return the name in a line `START POLICY NAME ...`; files have file=NAME, others no name."""
    start = next((vma.start for vma in maps if address in vma), None)
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return NOT_HERE
    for line in lines:
        first, _, *rest = line.split()
        if int(first, 16) == start:
            name = os.fsdecode(rest[0]) if rest else ""
            return name if name in ("heap", "stack") or name.startswith("file=") else NO_NAME
    return NO_MEMORY


def _queried_name(path: Path, address: int) -> str:
    name = array("B", bytes(_ROOM))
    place, _ = name.buffer_info()
    query = bytearray(_QUERY.pack(_QUERY.size, 0, address, *[0] * 8, _ROOM, 0, place, 0))
    with path.open("rb") as file:
        try:
            fcntl.ioctl(file, _QUERY_CODE, query)
        except FileNotFoundError:
            return NO_MEMORY
        except OSError:
            return NOT_HERE
    length = _QUERY.unpack(query)[11]
    return os.fsdecode(name.tobytes()[:length].split(b"\0")[0]) or NO_NAME
