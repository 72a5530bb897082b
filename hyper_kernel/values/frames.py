"""Data frames, series and indexes of pandas: column by column, each in the form of what it holds.

Not as Arrow's stream: it would need pyarrow on both sides, and its columns may be larger than their bytes.
"""

import datetime
import zoneinfo
from collections.abc import Callable
from typing import Any, Protocol

from hyper_kernel.values.library import USE, CarryError, load_library

#: Types of pandas that know missing values, and NumPy's for the others of such a column.
_MASKED = {
    **{f"{sign}{bits}": f"{sign.lower()}{bits}" for sign in ("Int", "UInt") for bits in (8, 16, 32, 64)},
    "Float32": "float32",
    "Float64": "float64",
    "boolean": "bool",
}


class Writer(Protocol):
    """Makes nodes of values, which have a name for messages."""

    def node(self, value: Any, name: str, depth: int) -> Any:
        """The node of a value."""

    def items(self, values: Any, name: str, depth: int) -> list[Any]:
        """The nodes of all that a collection holds."""


class Reader(Protocol):
    """Makes values of nodes."""

    def value(self, node: Any, depth: int) -> Any:
        """The value of a node."""

    def values(self, nodes: Any, depth: int) -> list[Any]:
        """The values of a list of nodes."""


def write_pandas(writer: Writer, value: Any, name: str, depth: int) -> tuple[Any, ...]:
    """The parts of a node for a value whose class is pandas' own.

    :raise CarryError: it, or a column of it, cannot be carried.
    """
    pandas = load_library("pandas")
    if type(value) is pandas.DataFrame:
        columns = [_column(writer, value.iloc[:, at], f"{name}[{label!r}]") for at, label in enumerate(value.columns)]
        return ("frame", _index(writer, value.columns, f"{name}.columns"), _index(writer, value.index, name), columns)
    if type(value) is pandas.Series:
        label = writer.node(value.name, f"{name}.name", depth)
        return ("series", label, _index(writer, value.index, f"{name}.index"), _column(writer, value, name))
    if isinstance(value, pandas.Index):
        return tuple(_index(writer, value, name)["$"])
    if type(value) is pandas.Timestamp:
        return ("timestamp", value.isoformat())
    if value is pandas.NaT or value is pandas.NA:
        return ("missing", value is pandas.NaT)
    raise CarryError(f"{name} is a {type(value).__qualname__} of pandas, which cannot be carried: {USE}")


def _index(writer: Writer, index: Any, name: str) -> dict[str, Any]:
    """The node of an index: of one that counts, or of one column for each of its levels."""
    names = writer.items(index.names, f"{name}.names", 1)
    if type(index) is load_library("pandas").RangeIndex:
        return {"$": ["range", names, index.start, index.stop, index.step]}
    levels = [_column(writer, index.get_level_values(at).to_series(), name) for at in range(index.nlevels)]
    return {"$": ["levels", names, levels]}


def _column(writer: Writer, column: Any, name: str) -> Any:
    """The node of a series without its index, by what it holds."""
    pandas, dtype = load_library("pandas"), column.dtype
    if isinstance(dtype, pandas.CategoricalDtype):
        codes = writer.node(column.cat.codes.to_numpy(), name, 1)
        categories = _column(writer, dtype.categories.to_series(), f"{name}.cat.categories")
        return {"$": ["category", codes, categories, bool(dtype.ordered)]}
    if isinstance(dtype, pandas.DatetimeTZDtype):
        zone = getattr(dtype.tz, "key", "UTC" if str(dtype.tz) == "UTC" else "")
        if not zone:
            raise CarryError(f"{name} has times of {dtype.tz}: convert them with .dt.tz_convert('UTC')")
        times = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        return {"$": ["zoned", writer.node(times, name, 1), zone]}
    if isinstance(dtype, pandas.StringDtype):
        texts = [None if missing else text for text, missing in zip(column, column.isna(), strict=True)]
        return {"$": ["text", texts, dtype.na_value is pandas.NA]}
    if str(dtype) in _MASKED:
        plain, mask = column.to_numpy(_MASKED[str(dtype)], na_value=0), column.isna().to_numpy()
        return {"$": ["masked", writer.node(plain, name, 1), writer.node(mask, name, 1), str(dtype)]}
    if str(dtype) == "object":
        return {"$": ["objects", writer.items(column, name, 1)]}
    if type(dtype).__module__.startswith("numpy"):
        return writer.node(column.to_numpy(), name, 1)
    raise CarryError(f"{name} has the type {dtype}: convert it with .astype() to numbers, str or object")


def _frame(reader: Reader, depth: int, columns: Any, index: Any, data: Any) -> Any:
    index = reader.value(index, depth)
    values = dict(enumerate(_sized(each, index) for each in reader.values(data, depth)))
    made = load_library("pandas").DataFrame(values, index=index)
    made.columns = reader.value(columns, depth)
    return made


def _series(reader: Reader, depth: int, name: Any, index: Any, data: Any) -> Any:
    index = reader.value(index, depth)
    values = _sized(reader.value(data, depth), index)
    return load_library("pandas").Series(values, index=index, name=reader.value(name, depth))


def _sized(values: Any, index: Any) -> Any:
    # SECURITY: pandas repeats a single value as often as the index says, which may count to any number.
    if len(values) != len(index):
        raise ValueError("a column of another length than its index")
    return values


def _range(reader: Reader, depth: int, names: Any, *numbers: Any) -> Any:
    (name,) = reader.values(names, depth)
    return load_library("pandas").RangeIndex(*map(int, numbers), name=name)


def _levels(reader: Reader, depth: int, names: Any, levels: Any) -> Any:
    pandas, names, levels = load_library("pandas"), reader.values(names, depth), reader.values(levels, depth)
    if len(levels) == 1:
        return pandas.Index(levels[0], name=names[0])
    return pandas.MultiIndex.from_arrays(levels, names=names)


def _category(reader: Reader, depth: int, codes: Any, categories: Any, is_ordered: Any) -> Any:
    make = load_library("pandas").Categorical.from_codes
    return make(reader.value(codes, depth), reader.value(categories, depth), ordered=bool(is_ordered))


def _zoned(reader: Reader, depth: int, times: Any, zone: Any) -> Any:
    # SECURITY: pandas itself takes paths of files for names of zones; ZoneInfo takes none that leads elsewhere.
    info, times = zoneinfo.ZoneInfo(zone), reader.value(times, depth)
    return load_library("pandas").DatetimeIndex(times).tz_localize("UTC").tz_convert(info).array


def _masked(reader: Reader, depth: int, values: Any, mask: Any, dtype: Any) -> Any:
    if dtype not in _MASKED:
        raise ValueError("no type with missing values")
    pandas = load_library("pandas")
    column = pandas.array(reader.value(values, depth), dtype=dtype)
    column[reader.value(mask, depth)] = pandas.NA
    return column


def _text(reader: Reader, depth: int, texts: Any, is_nullable: Any) -> Any:
    if not all(item is None or type(item) is str for item in texts):
        raise ValueError("no texts")
    return load_library("pandas").array(texts, dtype="string" if is_nullable else "str")


def _objects(reader: Reader, depth: int, values: Any) -> Any:
    return load_library("pandas").Series(reader.values(values, depth), dtype=object).array


def _timestamp(reader: Reader, depth: int, text: Any) -> Any:
    # SECURITY: not by pandas' own reader of times, which knows too much.
    return load_library("pandas").Timestamp(datetime.datetime.fromisoformat(text))


def _missing(reader: Reader, depth: int, is_time: Any) -> Any:
    pandas = load_library("pandas")
    return pandas.NaT if is_time else pandas.NA


#: How to read the nodes that stand here, by their kind.
READERS: dict[str, Callable[..., Any]] = {
    "frame": _frame,
    "series": _series,
    "range": _range,
    "levels": _levels,
    "category": _category,
    "zoned": _zoned,
    "masked": _masked,
    "text": _text,
    "objects": _objects,
    "timestamp": _timestamp,
    "missing": _missing,
}
