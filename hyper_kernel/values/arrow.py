"""Tables of Arrow as its stream (IPC), of columns that are no larger than their bytes."""

import struct
from typing import Any

from hyper_kernel.values.library import CarryError, load_library

#: Earlier ones unpickle some extension types (CVE-2023-47248).
_SAFE_VERSION = 15
#: Kinds of messages (MessageHeader in Message.fbs).
_SCHEMA, _DICTIONARY = 1, 2


def write_table(value: Any, name: str) -> bytes:
    """A table, or a batch of one.

    :raise CarryError: it is none, or has a column of another type.
    """
    arrow = load_library("pyarrow")
    if type(value) is arrow.RecordBatch:
        value = arrow.Table.from_batches([value])
    if type(value) is not arrow.Table:
        raise CarryError(f"{name} is a {type(value).__qualname__} of pyarrow: carry a Table")
    _check_schema(arrow, value.schema, name)
    sink = arrow.BufferOutputStream()
    with load_library("pyarrow.ipc").new_stream(sink, value.schema) as stream:
        stream.write_table(value)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_table(data: bytes) -> Any:
    """The table in a stream.

    SECURITY: a guest chose the bytes.

    :raise ValueError: they are damaged, or compressed.
    :raise CarryError: a column, or the library here, is of a kind that is not safe.
    """
    arrow, ipc = load_library("pyarrow"), load_library("pyarrow.ipc")
    if int(arrow.__version__.partition(".")[0]) < _SAFE_VERSION:
        raise CarryError(f"an Arrow table needs pyarrow {_SAFE_VERSION} or later here: pip install -U pyarrow")
    buffer = arrow.py_buffer(data)
    try:
        for message in ipc.MessageReader.open_stream(buffer):
            # SECURITY: compressed buffers could become any size.
            if _is_compressed(message.metadata.to_pybytes()):
                raise ValueError("a compressed table")
        with ipc.open_stream(buffer) as stream:
            _check_schema(arrow, stream.schema, "the table")
            table = stream.read_all()
        table.validate(full=True)
    except (arrow.ArrowException, struct.error, OSError) as exc:
        raise ValueError("no table of Arrow") from exc
    return table


def _check_schema(arrow: Any, schema: Any, name: str) -> None:
    """Refuse columns whose data may be larger than their bytes, or that name code."""
    types = arrow.types
    good = [types.is_integer, types.is_floating, types.is_boolean, types.is_temporal, types.is_decimal]
    good += [types.is_string, types.is_large_string, types.is_binary, types.is_large_binary]
    for field in schema:
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        if isinstance(kind, arrow.BaseExtensionType) or not any(is_kind(kind) for is_kind in good):
            raise CarryError(f"{name}[{field.name!r}] is a column of {field.type}: cast it to numbers, texts or times")


def _is_compressed(metadata: bytes) -> bool:
    """Whether the buffers of a message are; from its FlatBuffer (Message.fbs and Schema.fbs of Arrow's format).

    :raise struct.error: it is damaged.
    """

    def field(table: int, slot: int) -> int:
        """Where a field of a table stands; 0: nowhere."""
        vtable = table - struct.unpack_from("<i", metadata, table)[0]
        if vtable < 0 or 4 + 2 * slot >= struct.unpack_from("<H", metadata, vtable)[0]:
            return 0
        offset: int = struct.unpack_from("<H", metadata, vtable + 4 + 2 * slot)[0]
        return table + offset if offset else 0

    def follow(place: int) -> int:
        offset: int = struct.unpack_from("<I", metadata, place)[0]
        return place + offset

    message = follow(0)
    kind, header = metadata[field(message, 1)], follow(field(message, 2))
    if kind == _DICTIONARY:
        header = follow(field(header, 1))  # the batch in it
    return kind != _SCHEMA and bool(field(header, 3))
