"""The part of CRIU's image format that we read: messages, and the number and type of each field.

The field numbers are those of CRIU's images/mm.proto, images/vma.proto, images/fdinfo.proto and
images/regfile.proto, the same in v3.0 to v4.2 (a field that came later is one more number). The
standard protobuf library makes its classes from this table at run time, so no compiler is needed.
It is imported on use.

Fields that we do not name are skipped by the library. None is marked as required here: what must be
there is checked by the reader, which can then name what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from prctlmm_lab.errors import UnsupportedSystem


@dataclass(frozen=True)
class Field:
    """One field of a message."""

    name: str
    number: int
    type: str
    """uint64, uint32, sint64, int32, bool or string; or the name of another message."""
    repeated: bool = False


def _addresses(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, number, "uint64") for number, name in enumerate(names, 1))


SCHEMA: dict[str, tuple[Field, ...]] = {
    "mm_entry": (
        *_addresses(
            "mm_start_code", "mm_end_code", "mm_start_data", "mm_end_data", "mm_start_stack",
            "mm_start_brk", "mm_brk", "mm_arg_start", "mm_arg_end", "mm_env_start", "mm_env_end",
        ),
        Field("exe_file_id", 12, "uint32"),
        Field("mm_saved_auxv", 13, "uint64", repeated=True),
        Field("vmas", 14, "vma_entry", repeated=True),
        Field("dumpable", 15, "int32"),
        Field("thp_disabled", 17, "bool"),
    ),
    "vma_entry": (
        *_addresses("start", "end", "pgoff", "shmid"),
        Field("prot", 5, "uint32"),
        Field("flags", 6, "uint32"),
        Field("status", 7, "uint32"),
        Field("fd", 8, "sint64"),
    ),
    "file_entry": (
        Field("id", 2, "uint32"),
        Field("reg", 3, "reg_file_entry"),
    ),
    "reg_file_entry": (
        Field("id", 1, "uint32"),
        Field("name", 6, "string"),
    ),
}  # fmt: skip
"""By message. An mm_entry is one address space; file_entry is one open file of files.img."""

_PACKAGE = "prctlmm_lab_criu"


def message_class(name: str) -> Any:
    """Return the protobuf class of a message of the table.

    >>> message_class("mm_entry")(mm_brk=0x1000).SerializeToString().hex()
    '388020'

    Raises UnsupportedSystem without the protobuf library.
    """
    try:
        from google.protobuf import message_factory

        pool = _pool()
    except ImportError as error:
        raise UnsupportedSystem(
            f"CRIU's images cannot be read without the protobuf library ({error})",
            "pip install protobuf brings it.",
        ) from None
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@cache
def _pool() -> Any:
    """Return a pool of its own, in which no name can meet that of another user of the library."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2"
    )
    for message, fields in SCHEMA.items():
        made = file.message_type.add(name=message)
        for field in fields:
            label = kinds.LABEL_REPEATED if field.repeated else kinds.LABEL_OPTIONAL
            entry = made.field.add(name=field.name, number=field.number, label=label)
            if field.type in SCHEMA:
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".{_PACKAGE}.{field.type}"
            else:
                entry.type = kinds.Type.Value(f"TYPE_{field.type.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool
