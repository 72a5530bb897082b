"""Files below a folder, reached without ever following a link: whoever writes there may put one in the way."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def open_folder(root: int, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """A descriptor of a folder below ``root``.

    :param root: a folder's descriptor; stays open.
    :param parts: the names on the way, none of them ``..``.
    :param make: whether what is missing is made.
    :raise OSError: something on the way is missing, or is a link or a file.
    """
    # SECURITY: each step goes from a folder that is held to a child of it, and opens no link.
    assert not {"", ".", ".."} & set(parts), parts
    fd = os.dup(root)
    try:
        for part in parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o777, dir_fd=fd)
            inner = os.open(part, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)
