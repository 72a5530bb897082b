"""NumPy's arrays as npy, without objects."""

import io
import math
import tokenize
from typing import Any

from hyper_kernel.values.library import USE, CarryError, load_library

#: NumPy's kinds of elements that have a size and refer to nothing.
KINDS = frozenset("biufcSUmM")
_MAX_HEADER = 4096


def write_array(value: Any, name: str) -> bytes:
    """An array or a scalar of NumPy as npy.

    :raise CarryError: it holds what has no safe form.
    """
    numpy = load_library("numpy")
    if not (type(value) is numpy.ndarray or isinstance(value, numpy.generic)) or value.dtype.kind not in KINDS:
        what = f"{type(value).__name__} of {value.dtype}" if hasattr(value, "dtype") else type(value).__qualname__
        raise CarryError(f"{name} is a NumPy {what}, which has no safe form: {USE}")
    file = io.BytesIO()
    numpy.save(file, numpy.asanyarray(value), allow_pickle=False)
    return file.getvalue()


def read_array(data: bytes) -> Any:
    """The array in npy, which can be written to.

    SECURITY: a guest chose the bytes; what the header says must be what is there, and objects would be pickles.

    :raise ValueError: it is none that :func:`write_array` makes.
    """
    numpy, layout, file = load_library("numpy"), load_library("numpy.lib.format"), io.BytesIO(data)
    version = layout.read_magic(file)
    read = {(1, 0): layout.read_array_header_1_0, (2, 0): layout.read_array_header_2_0}[version]
    try:
        shape, is_fortran, dtype = read(file, max_header_size=_MAX_HEADER)
    except (SyntaxError, MemoryError, tokenize.TokenError) as exc:
        raise ValueError("no header of an array") from exc
    if dtype.hasobject or dtype.kind not in KINDS or not dtype.itemsize or any(size < 0 for size in shape):
        raise ValueError("an array of what has no safe form")
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError("an array of another size than its bytes")
    flat = numpy.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C").copy(order="K")
