"""Values as bytes and back; and what hostile bytes come to."""

import contextlib
import io
import json
import struct
from collections import Counter, OrderedDict

import numpy
import pandas
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyper_kernel.values import formats
from hyper_kernel.values.formats import decode, encode
from hyper_kernel.values.library import CarryError

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.timedeltas()
)
_HASHABLE = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(_HASHABLE, inner)
        | st.sets(_HASHABLE)
        | st.frozensets(_HASHABLE)
    ),
    max_leaves=20,
)


@given(_VALUES)
def test_plain_values_come_back_as_they_were(value):
    found = decode(encode(value))
    assert found == value
    assert repr(type(found)) == repr(type(value))


@pytest.mark.parametrize("value", [2**9000, -(2**9000), {"$": 1}, {"$": ["int", "1"]}, bytearray(b"x"), "\ud800"])
def test_odd_values_come_back_as_they_were(value):
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(6).reshape(2, 3),
        numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
        numpy.array(["a", "bb"]),
        numpy.array([b"a"]),
        numpy.array(["2020-01-01"], "datetime64[s]"),
        numpy.zeros((0, 3)),
        numpy.array(5),
        numpy.array([1 + 2j]),
        numpy.arange(10)[::2],
        numpy.arange(3, dtype=">i4"),
    ],
    ids=repr,
)
def test_arrays_come_back_as_they_were(array):
    found = decode(encode(array))
    assert found.dtype == array.dtype and found.shape == array.shape
    assert (found == array).all()
    assert found.flags.writeable


def test_scalars_of_numpy_stay_scalars():
    assert type(decode(encode(numpy.float32(2)))) is numpy.float32


def frame():
    return pandas.DataFrame(
        {
            "int": [1, 2, 3],
            "float": [1.0, numpy.nan, 3],
            "text": ["a", None, "c"],
            "mixed": [1, "x", None],
            "category": pandas.Categorical(["u", "v", "u"], ordered=True),
            "time": pandas.date_range("2020", periods=3),
            "zoned": pandas.date_range("2020", periods=3, tz="Europe/Berlin"),
            "length": pandas.to_timedelta([1, 2, 3]),
            "Int64": pandas.array([1, None, 3], dtype="Int64"),
            "Float32": pandas.array([1.5, None, 3], dtype="Float32"),
            "boolean": pandas.array([True, None, False], dtype="boolean"),
            "string": pandas.array(["q", None, "r"], dtype="string"),
        }
    )


@pytest.mark.parametrize(
    "make",
    [
        frame,
        lambda: frame().set_index(["text", "int"]),
        lambda: frame().set_index("zoned"),
        lambda: frame().groupby("category", observed=True)[["float", "int"]].agg(["mean", "sum"]),
        lambda: pandas.DataFrame([[1, 2]], columns=["a", "a"]),
        lambda: pandas.DataFrame({1: [1.5]}, index=pandas.Index(["x"], name="k")),
        pandas.DataFrame,
    ],
)
def test_frames_come_back_as_they_were(make):
    pandas.testing.assert_frame_equal(decode(encode(make())), make())


def test_series_and_tables_come_back_as_they_were():
    series = frame()["zoned"]
    pandas.testing.assert_series_equal(decode(encode(series)), series)
    table = pyarrow.table({"n": [1, None], "s": ["x", "y"], "d": pyarrow.array(["p", "p"]).dictionary_encode()})
    assert decode(encode(table)).equals(table)


class Own:
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Own(), "c is a test_values.Own, which cannot be carried: use None, numbers"),
        ([{"k": Own()}], "c[0]['k'] is a test_values.Own"),
        (len, "c is a builtins.builtin_function_or_method"),
        (Counter("a"), "c is a collections.Counter"),
        (OrderedDict(), "c is a collections.OrderedDict"),
        (numpy.array([Own()]), "c is a NumPy ndarray of object"),
        (numpy.zeros(1, "i4,f4"), "c is a NumPy ndarray of [('f0'"),
        (numpy.ma.array([1]), "c is a NumPy MaskedArray"),
        (pandas.DataFrame({"x": pandas.period_range("2020", periods=2)}), "c['x'] has the type period[D]: convert"),
        (pandas.DataFrame({"x": [Own()]}), "c['x'][0] is a test_values.Own"),
        (pyarrow.table({"a": [[1]]}), "c['a'] is a column of list"),
        (pandas.Series(pandas.date_range("2020", periods=1, tz="+01:30")), "tz_convert('UTC')"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_carried_is_named(value, words):
    with pytest.raises(CarryError) as info:
        encode({"c": value}, "")
    assert words in str(info.value)


def test_what_is_too_large_or_too_deep_is_refused():
    with pytest.raises(CarryError, match="makes it too large"):
        encode({"c": [b"x" * 600, b"x" * 600]}, "", max_bytes=1000)
    with pytest.raises(CarryError, match="too large as JSON"):
        encode(["x" * 2000], max_bytes=1000)
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(CarryError, match="nested more than"):
        encode(deep)


def packed(tree, *blobs):
    head = json.dumps({"tree": tree, "blobs": [len(blob) for blob in blobs]}).encode()
    return struct.pack(">I", len(head)) + head + b"".join(blobs)


def npy(header, data=b"", version=1):
    text = header if isinstance(header, bytes) else repr(header).encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text) + 1) + text + b"\n" + data


def node(kind, *rest):
    return {"$": [kind, *rest]}


_NAMED = {"descr": "<f8", "fortran_order": False}
_ARRAYS = [
    npy({**_NAMED, "shape": (10**13,)}),
    npy({**_NAMED, "shape": (2,)}, b"x" * 8),
    npy({**_NAMED, "shape": (-1, -1)}, b"x" * 8),
    npy({"descr": "|O", "fortran_order": False, "shape": (1,)}, b"\x80\x04N."),
    npy({"descr": "<U0", "fortran_order": False, "shape": (10**15,)}),
    npy({"descr": "|V8", "fortran_order": False, "shape": (1,)}, b"x" * 8),
    npy({"descr": [("a", "|O")], "fortran_order": False, "shape": (1,)}, b"x" * 8),
    npy(b"__import__('os').system('true')"),
    npy(b"(" * 3000),
    npy(b"-" * 3000 + b"1"),
    npy(b" " * 60_000),
    b"\x93NUMPY\x09\x00",
    b"\x80\x04cos\nsystem\n.",
    b"",
]


@pytest.mark.parametrize("blob", _ARRAYS, ids=range(len(_ARRAYS)))
def test_hostile_arrays_are_refused(blob):
    with pytest.raises(CarryError):
        decode(packed(node("npy", 0, False), blob))


def compressed(options):
    table, sink = pyarrow.table({"n": [0] * 100_000, "s": ["a"] * 100_000}), io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_tables_are_refused(codec):
    data = compressed(pyarrow.ipc.IpcWriteOptions(compression=codec))
    with pytest.raises(CarryError, match="damaged"):
        decode(packed(node("arrow", 0), data))


@pytest.mark.parametrize(
    "table",
    [
        pyarrow.table({"x": pyarrow.nulls(3)}),
        pyarrow.table({"x": pyarrow.array([b""], pyarrow.binary(0))}),
        pyarrow.table({"x": pyarrow.RunEndEncodedArray.from_arrays([1 << 30], [1])}),
        pyarrow.table({"x": pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(["1"]))}),
    ],
    ids=["null", "empty", "runs", "extension"],
)
def test_tables_of_columns_that_are_larger_than_their_bytes_are_refused(table):
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(CarryError, match="is a column of"):
        decode(packed(node("arrow", 0), sink.getvalue()))


@settings(max_examples=40)
@given(st.data())
def test_damaged_tables_are_refused_or_read(data):
    good = bytearray(compressed(pyarrow.ipc.IpcWriteOptions())[:4000])
    for _ in range(data.draw(st.integers(1, 5))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CarryError):
        decode(packed(node("arrow", 0), bytes(good)))


_TREES = [
    node("nobody"),
    node("__class__"),
    {"$": []},
    {"$": 7},
    {"$": [[]]},
    node("npy", 5),
    node("npy", -1),
    node("npy", True),
    node("int", "x"),
    node("int"),
    node("set", [[]]),
    node("dict", [1, 2], [3]),
    node("datetime", "x" * 100),
    node("datetime", 7),
    node("timedelta", 10**20),
    node("range", ["a"], 0, "x", 1),
    node("frame", node("levels", [None], [["a"]]), node("range", [None], 0, 5, 1), [["only one"]]),
    node("frame", node("levels", [None], [["a"]]), node("range", [None], 0, 10**12, 1), [7]),
    node("series", "a", node("range", [None], 0, 10**12, 1), 7),
    node("zoned", [1], "../../../etc/passwd"),
    node("zoned", [1], "/etc/passwd"),
    node("zoned", [1], "dateutil//etc/passwd"),
    node("masked", [1], [True], "object"),
    node("masked", [1], [[True]], "Int64"),
    node("text", [1], False),
    node("category", [7], ["a"], False),
    node("timestamp", "now"),
]


@pytest.mark.parametrize("tree", _TREES, ids=range(len(_TREES)))
def test_hostile_trees_are_refused(tree):
    with pytest.raises(CarryError):
        decode(packed(tree))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        b"\xff\xff\xff\xff{}",
        struct.pack(">I", 2) + b"{}",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 100_000) + b"[" * 100_000,
        struct.pack(">I", 9000) + b"1" * 9000,
        packed(None)[:-3],
        struct.pack(">I", 40) + b'{"tree": null, "blobs": [9000000000000]}',
        struct.pack(">I", 31) + b'{"tree": null, "blobs": [true]}',
        struct.pack(">I", 29) + b'{"tree": null, "blobs": [-1]}',
    ],
)
def test_hostile_heads_are_refused(data):
    with pytest.raises(CarryError):
        decode(data)


def test_more_than_may_come_is_refused():
    with pytest.raises(CarryError, match="larger than"):
        decode(bytes(formats.MAX_HEAD + 2000), max_bytes=1000)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data):
    with contextlib.suppress(CarryError):
        decode(data)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner), max_leaves=15))
def test_any_nodes_are_refused_or_read(tree):
    for kind in formats._READERS:
        with contextlib.suppress(CarryError):
            decode(packed({"$": [kind, *(tree if isinstance(tree, list) else [tree])]}, b"abc"))
