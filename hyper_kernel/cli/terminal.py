"""This terminal, joined to a program in a sandbox: raw mode, sizes, signals, input and output."""

import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from hyper_kernel.client import Stream

#: Signals that are for the program, not for `hyper`.
FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
#: The keys that leave a program running: ctrl-p, ctrl-q.
_DETACH = b"\x10\x11"
_READ = 32 * 1024


class Input:
    """Standard input on its way to a program, read by a thread of its own; ``detached`` once the keys were pressed."""

    def __init__(self, stream: Stream) -> None:
        self.detached = False
        self._stream = stream
        self._last = b""
        threading.Thread(target=self._carry, daemon=True).start()

    def _carry(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the program has ended
            while data := os.read(sys.stdin.fileno(), _READ):
                self._last = (self._last + data)[-2:]
                self.detached = self.detached or self._last == _DETACH
                self._stream.send(data)
            self._stream.close_stdin()


def copy_output(stream: Stream) -> None:
    """Write a program's output to ours until it ends."""
    for number, data in stream:
        out = sys.stdout if number == 1 else sys.stderr
        out.buffer.write(data)
        out.buffer.flush()


def terminal_size() -> tuple[int, int]:
    """Rows and columns."""
    size = os.get_terminal_size(sys.stdout.fileno() if sys.stdout.isatty() else sys.stdin.fileno())
    return size.lines, size.columns


@contextmanager
def raw_terminal(resize: Callable[[int, int], None]) -> Iterator[None]:
    """Pass every key on as it is while the context lasts, and sizes as they change.

    :param resize: called with rows and columns, now and on each change.
    """
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def on_resize(number: int = 0, frame: FrameType | None = None) -> None:
        with contextlib.suppress(OSError):
            resize(*terminal_size())

    old = signal.signal(signal.SIGWINCH, on_resize)
    try:
        tty.setraw(fd)
        on_resize()
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, old)


@contextmanager
def forwarded_signals(send: Callable[[str], None]) -> Iterator[None]:
    """Hand signals to ``send`` by name while the context lasts."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        send(signal.Signals(number).name)

    before = {name: signal.signal(getattr(signal, name), on_signal) for name in FORWARDED}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
