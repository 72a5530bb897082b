"""What a guest prints on its console and what its hypervisor says, kept with a bound."""

import asyncio
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from hyper_kernel.limits import MAX_CONSOLE

_READ = 16 * 1024


class Console:
    """Copies two descriptors (the guest's serial line, the hypervisor's own output) into one bounded file.

    :param path: the file; when it would grow over ``MAX_CONSOLE`` bytes, its older half is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._serial, self._guest = socket.socketpair()
        self._output, self._host = os.pipe()
        self._sources: set[int] = set()
        self._size = 0

    @property
    def guest_fd(self) -> int:
        """For the hypervisor: the far side of the serial line."""
        return self._guest.fileno()

    @property
    def host_fd(self) -> int:
        """For the hypervisor: its standard output and error."""
        return self._host

    def __enter__(self) -> Self:
        self._path.write_bytes(b"")
        for fd in (self._serial.fileno(), self._output):
            os.set_blocking(fd, False)
            asyncio.get_running_loop().add_reader(fd, self._copy, fd)
            self._sources.add(fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in tuple(self._sources):
            self._copy(fd)
            self._stop(fd)
        self.close_far_sides()
        self._serial.close()
        os.close(self._output)

    def close_far_sides(self) -> None:
        """Call once the hypervisor has inherited them, so that its end is seen."""
        self._guest.close()
        if self._host >= 0:
            os.close(self._host)
            self._host = -1

    def move(self, path: Path) -> None:
        """Go on in another file, which takes the place of this one."""
        self._path.replace(path)
        self._path = path

    def tail(self, lines: int = 30) -> str:
        """The last lines that came."""
        for fd in tuple(self._sources):
            self._copy(fd)
        text = self._path.read_bytes()[-_READ:].decode(errors="replace").replace("\r", "")
        return "\n".join(text.strip().splitlines()[-lines:])

    def _copy(self, fd: int) -> None:
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stop(fd)
            return
        # SECURITY: the guest writes here without end; the host's disk holds at most MAX_CONSOLE bytes of it.
        if self._size + len(data) > MAX_CONSOLE:
            kept = self._path.read_bytes()[-MAX_CONSOLE // 2 :]
            self._path.write_bytes(kept)
            self._size = len(kept)
        with self._path.open("ab") as file:
            file.write(data)
        self._size += len(data)

    def _stop(self, fd: int) -> None:
        if fd in self._sources:
            self._sources.discard(fd)
            asyncio.get_running_loop().remove_reader(fd)
