"""Where the server keeps its sessions, so that one that is started again knows which notebook had which kernel.

jupyter_server's session manager can keep them in a file of SQLite; by itself it keeps them in memory. A server deletes
sessions of kernels that it does not have, so no two may share a file: each locks its own, and takes over what was left
by servers of the same folder that are gone.
"""

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from pathlib import Path

from hyper_kernel.errors import HostError
from hyper_kernel.paths import Paths, make_private

#: More servers than that on the same folder keep their sessions in memory.
_MAX_SERVERS = 32
_TABLE = "CREATE TABLE IF NOT EXISTS session (session_id, path, name, type, kernel_id)"
_COLUMNS = "session_id, path, name, type, kernel_id"


class SessionFile:
    """The file of this server, locked as long as this process lives.

    :param root: the folder that the server serves.
    :raise HostError: there can be none.
    """

    def __init__(self, paths: Paths, root: str) -> None:
        base = hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:16]
        try:
            folder = make_private(paths.state / "jupyter")
            self._lock, self.path = _lock_first(folder, base)
            for other in sorted(folder.glob(f"{base}-*.sqlite")):
                if other != self.path:
                    _take_over(other, self.path)
        except OSError as exc:
            raise HostError(f"cannot keep the server's sessions: {exc}", hint="look at the folder's rights") from exc

    def kernel_ids(self) -> set[str]:
        """The kernels of all sessions."""
        return {row[4] for row in _read(self.path) if row[4]}

    def close(self) -> None:
        """Let go of it; the next server takes it over."""
        os.close(self._lock)


def _lock_first(folder: Path, base: str) -> tuple[int, Path]:
    for number in range(_MAX_SERVERS):
        path = folder / f"{base}-{number}.sqlite"
        lock = _try_lock(path)
        if lock is not None:
            with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(sqlite3.connect(path)) as database:
                database.execute(_TABLE)
                return lock, path
            path.unlink()  # it is none of SQLite's: it was cut off when the disk was full
            return lock, path
    raise HostError(f"{_MAX_SERVERS} servers serve this folder already")


def _try_lock(path: Path) -> int | None:
    """A lock that the system lets go of when this process ends, however; None where another holds it."""
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _take_over(other: Path, mine: Path) -> None:
    """Move the sessions of a server that is gone to our own."""
    lock = _try_lock(other)
    if lock is None:
        return
    try:
        rows = _read(other)
        with contextlib.closing(sqlite3.connect(mine)) as database, database:
            database.execute(_TABLE)
            database.executemany(f"INSERT INTO session ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", rows)
        other.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _read(path: Path) -> list[tuple[str, ...]]:
    if not path.exists():
        return []
    with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(f"SELECT {_COLUMNS} FROM session").fetchall()
    return []
