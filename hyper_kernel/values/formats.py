"""Values as bytes, and back: JSON for plain ones, NumPy's npy and Arrow's stream beside it. Never a pickle.

Both sides run this unit: hosts import it, and a kernel in a sandbox gets its code. So it needs the standard library
alone, and NumPy, pandas and pyarrow for what is theirs. The bytes are ``length of the head (4), head, blobs``. The head
is JSON: a tree of nodes and the blobs' lengths. A node ``{"$": [kind, ...]}`` stands for what JSON has no word for.

SECURITY: :func:`decode` reads what a hostile guest wrote. No byte of it names a class or function to be called: kinds
are looked up in a table. What a blob says of its size is held against its length before anything is allocated.
"""

import datetime
import json
import struct
from collections.abc import Callable
from typing import Any

from hyper_kernel.values.arrays import read_array, write_array
from hyper_kernel.values.arrow import read_table, write_table
from hyper_kernel.values.frames import READERS, write_pandas
from hyper_kernel.values.library import USE, CarryError

#: Bytes of all values of one transfer, unless the caller says otherwise; and of the head, whose objects take some ten
#: times as much memory.
MAX_BYTES = 256 << 20
MAX_HEAD = 32 << 20
#: How deep lists and dictionaries may nest.
MAX_DEPTH = 60
#: Integers of more bits are written in hexadecimal: Python converts decimal ones only up to a length.
_LONG_BITS = 4000
_HEAD = struct.Struct(">I")
_PLAIN = (type(None), bool, str, float)


def encode(value: Any, name: str = "value", *, max_bytes: int = MAX_BYTES) -> bytes:
    """Bytes of a value.

    :param name: what to call it in messages; empty: it is a dictionary of variables, each with a name of its own.
    :raise CarryError: it, or something in it, cannot be carried, or it is too large.
    """
    writer = _Writer(max_bytes)
    tree = writer.node(value, name, 0)
    head = json.dumps({"tree": tree, "blobs": [len(blob) for blob in writer.blobs]}).encode()
    if len(head) > min(MAX_HEAD, max_bytes):
        raise CarryError(f"{name or 'all'} is too large as JSON ({len(head) >> 20} MiB): carry numbers as NumPy arrays")
    return b"".join((_HEAD.pack(len(head)), head, *writer.blobs))


def decode(data: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value of bytes.

    :raise CarryError: they are damaged, too many, or need a library that is not here.
    """
    try:
        (length,) = _HEAD.unpack_from(data)
        if length > MAX_HEAD or len(data) > max_bytes + MAX_HEAD:
            raise CarryError(f"the value is larger than {max_bytes >> 20} MiB")
        head = json.loads(data[_HEAD.size : _HEAD.size + length])
        blobs, start = [], _HEAD.size + length
        for size in head["blobs"]:
            if type(size) is not int or not 0 <= size <= len(data) - start:
                raise ValueError("a blob ends outside")
            blobs.append(data[start : start + size])
            start += size
        return _Reader(blobs).value(head["tree"], 0)
    except CarryError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error) as exc:
        # Among these are the errors of NumPy and pandas for what does not fit together.
        raise CarryError(f"the value is damaged: {type(exc).__name__}") from exc


class _Writer:
    """Makes the tree of a value and collects its blobs."""

    def __init__(self, max_bytes: int) -> None:
        self.blobs: list[bytes] = []
        self._left = max_bytes

    def node(self, value: Any, name: str, depth: int) -> Any:
        """The node of a value; ``name`` is how to reach it."""
        kind = type(value)
        if kind in _PLAIN or (kind is int and value.bit_length() < _LONG_BITS):
            return value
        if depth > MAX_DEPTH:
            raise CarryError(f"{name[:60]}… is nested more than {MAX_DEPTH} deep")
        if kind is list:
            return self.items(value, name, depth + 1)
        if kind is dict and "$" not in value and all(type(key) is str for key in value):
            names = {key: f"{name}[{key!r}]" if name else key for key in value}
            return {key: self.node(item, names[key], depth + 1) for key, item in value.items()}
        library = kind.__module__.partition(".")[0]
        if write := _WRITERS.get(kind) or _LIBRARIES.get(library):
            return {"$": list(write(self, value, name, depth + 1))}
        raise CarryError(f"{name} is a {library}.{kind.__qualname__}, which cannot be carried: {USE}")

    def items(self, values: Any, name: str, depth: int) -> list[Any]:
        """The nodes of all that a collection holds."""
        return [self.node(item, f"{name}[{index}]", depth) for index, item in enumerate(values)]

    def blob(self, data: bytes, name: str) -> int:
        """The number of a new blob."""
        self._left -= len(data)
        if self._left < 0:
            raise CarryError(f"{name} makes it too large: carry a part of it, or files")
        self.blobs.append(data)
        return len(self.blobs) - 1


class _Reader:
    """Makes the value of a tree with its blobs."""

    def __init__(self, blobs: list[bytes]) -> None:
        self._blobs = blobs

    def value(self, node: Any, depth: int) -> Any:
        """The value of a node."""
        if depth > 2 * MAX_DEPTH:
            raise ValueError("nested too deeply")
        if isinstance(node, list):
            return [self.value(item, depth + 1) for item in node]
        if not isinstance(node, dict):
            return node
        if "$" not in node:
            return {key: self.value(item, depth + 1) for key, item in node.items()}
        kind, *rest = node["$"]
        return _READERS[kind](self, depth + 1, *rest)

    def values(self, nodes: Any, depth: int) -> list[Any]:
        """The values of a list of nodes."""
        if not isinstance(nodes, list):
            raise ValueError("no list")
        return [self.value(node, depth) for node in nodes]

    def blob(self, number: Any) -> bytes:
        """A blob by its number."""
        if type(number) is not int or number < 0:
            raise ValueError("no number of a blob")
        return self._blobs[number]


def _write_numpy(writer: _Writer, value: Any, name: str, depth: int) -> tuple[Any, ...]:
    is_scalar = not hasattr(value, "__array_finalize__") or not hasattr(value, "__setitem__")
    return ("npy", writer.blob(write_array(value, name), name), is_scalar)


def _read_numpy(reader: _Reader, depth: int, number: Any, is_scalar: Any) -> Any:
    array = read_array(reader.blob(number))
    return array[()] if is_scalar else array


def _write_dict(writer: _Writer, value: dict[Any, Any], name: str, depth: int) -> tuple[Any, ...]:
    items = [writer.node(item, f"{name}[{key!r}]", depth) for key, item in value.items()]
    return ("dict", writer.items(value, f"{name}.keys()", depth), items)


def _read_dict(reader: _Reader, depth: int, keys: Any, items: Any) -> Any:
    return dict(zip(reader.values(keys, depth), reader.values(items, depth), strict=True))


_Write = Callable[[_Writer, Any, str, int], tuple[Any, ...]]
_WRITERS: dict[type, _Write] = {
    int: lambda writer, value, name, depth: ("int", hex(value)),
    tuple: lambda writer, value, name, depth: ("tuple", writer.items(value, name, depth)),
    set: lambda writer, value, name, depth: ("set", writer.items(value, name, depth)),
    frozenset: lambda writer, value, name, depth: ("frozenset", writer.items(value, name, depth)),
    dict: _write_dict,
    bytes: lambda writer, value, name, depth: ("bytes", writer.blob(value, name)),
    bytearray: lambda writer, value, name, depth: ("bytearray", writer.blob(bytes(value), name)),
    complex: lambda writer, value, name, depth: ("complex", value.real, value.imag),
    datetime.datetime: lambda writer, value, name, depth: ("datetime", value.isoformat()),
    datetime.date: lambda writer, value, name, depth: ("date", value.isoformat()),
    datetime.time: lambda writer, value, name, depth: ("time", value.isoformat()),
    datetime.timedelta: lambda writer, value, name, depth: ("timedelta", value.days, value.seconds, value.microseconds),
}
#: By the library that a value's class is of.
_LIBRARIES: dict[str, _Write] = {
    "numpy": _write_numpy,
    "pandas": write_pandas,
    "pyarrow": lambda writer, value, name, depth: ("arrow", writer.blob(write_table(value, name), name)),
}
_READERS: dict[str, Callable[..., Any]] = {
    "int": lambda reader, depth, text: int(text, 16),
    "tuple": lambda reader, depth, items: tuple(reader.values(items, depth)),
    "set": lambda reader, depth, items: set(reader.values(items, depth)),
    "frozenset": lambda reader, depth, items: frozenset(reader.values(items, depth)),
    "dict": _read_dict,
    "bytes": lambda reader, depth, number: reader.blob(number),
    "bytearray": lambda reader, depth, number: bytearray(reader.blob(number)),
    "complex": lambda reader, depth, real, imag: complex(real, imag),
    "datetime": lambda reader, depth, text: datetime.datetime.fromisoformat(text),
    "date": lambda reader, depth, text: datetime.date.fromisoformat(text),
    "time": lambda reader, depth, text: datetime.time.fromisoformat(text),
    "timedelta": lambda reader, depth, *parts: datetime.timedelta(*parts),
    "npy": _read_numpy,
    "arrow": lambda reader, depth, number: read_table(reader.blob(number)),
    **READERS,
}
