"""``exec`` streams: a program with its standard streams, or its terminal, over one connection."""

import errno
import fcntl
import os
import select
import signal
import struct
import termios
import threading
from typing import Any

from guest.children import Child, Children, Launch
from guest.frames import Frames
from hyper_kernel import wire
from hyper_kernel.wire import Type

#: Bytes of standard input kept for a program that does not read. Up to there the connection is read on, so that a
#: signal that comes after them arrives.
_MAX_BACKLOG = 1024 * 1024
#: Bytes still sent of each output once the program has ended; a pipe holds 64 KiB.
_MAX_LEFT = 1024 * 1024
_END_OF_INPUT = b"\x04"  # what a terminal takes for it (VEOF)


class Program:
    """One program and the connection it is attached to.

    When the peer goes away the program gets SIGHUP; one that ignores it runs on, its input ended, its output discarded.

    :param frames: owned from here on.
    :param children: where it is started.
    """

    def __init__(self, frames: Frames, children: Children) -> None:
        self._frames = frames
        self._children = children
        self._ended = os.eventfd(0)
        self._tty = False
        self._input = -1
        self._outputs: dict[int, Type] = {}
        self._backlog = bytearray()
        self._input_done = False

    def run(self, launch: dict[str, Any], *, tty: bool, rows: int, cols: int) -> None:
        """Start the program and serve the connection until the program has ended.

        :param launch: arguments of :class:`Launch`, but for the descriptors.
        :raise LaunchError: it could not be started.
        :raise WireError: the peer broke the contract; the program got SIGHUP.
        """
        self._tty = tty
        theirs = self._open_terminal(rows, cols) if tty else self._open_pipes()
        try:
            stdin, stdout, stderr = theirs
            start = Launch(**launch, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)
            child = self._children.start(start, self._on_exit)
        except BaseException:
            self._close()
            raise
        finally:
            for fd in set(theirs):
                os.close(fd)
        self._serve(child)

    def _serve(self, child: Child) -> None:
        sender = threading.Thread(target=self._send_output, args=(child,), name=f"output of {child.pid}")
        sender.start()
        try:
            self._receive(child)
        finally:
            self._children.signal(child, signal.SIGHUP)
            self._end_input()
            self._frames.end()
            sender.join()
            self._close()

    def _open_pipes(self) -> tuple[int, int, int]:
        stdin, self._input = os.pipe()
        out, stdout = os.pipe()
        err, stderr = os.pipe()
        self._outputs = {out: Type.STDOUT, err: Type.STDERR}
        for fd in (self._input, out, err):
            os.set_blocking(fd, False)
        return stdin, stdout, stderr

    def _open_terminal(self, rows: int, cols: int) -> tuple[int, int, int]:
        self._input, theirs = os.openpty()
        self._outputs = {self._input: Type.STDOUT}
        self._resize(rows, cols)
        os.set_blocking(self._input, False)
        return theirs, theirs, theirs

    def _close(self) -> None:
        for fd in {self._input, self._ended, *self._outputs}:
            if fd >= 0:
                os.close(fd)

    def _on_exit(self, _child: Child) -> None:
        os.eventfd_write(self._ended, 1)

    # Output has a thread of its own, so that a peer that does not read holds up nothing else.

    def _send_output(self, child: Child) -> None:
        """OPENED, what the program writes until it has ended, EXIT."""
        self._send(Type.OPENED, {"pid": child.pid})
        poll = select.poll()
        for fd in (self._ended, *self._outputs):
            poll.register(fd, select.POLLIN)
        open_outputs = set(self._outputs)
        ready = {-1}
        while self._ended not in ready:
            ready = {fd for fd, _ in poll.poll()}
            for fd in ready & open_outputs:
                if self._forward(fd) == 0:
                    poll.unregister(fd)
                    open_outputs.discard(fd)
        # A process that the program left behind may hold the pipes open: take what is there, wait for no end.
        for fd in open_outputs:
            left = _MAX_LEFT
            while left > 0 and (sent := self._forward(fd)) > 0:
                left -= sent
        self._send(Type.EXIT, self._children.describe_end(child))
        self._frames.end()

    def _forward(self, fd: int) -> int:
        """Send one read's worth: its length, 0 at the end of that output, -1 when there is nothing now."""
        try:
            data = os.read(fd, wire.MAX_DATA)
        except BlockingIOError:
            return -1
        except OSError as exc:
            if exc.errno != errno.EIO:  # what a terminal says when nobody holds its other end any more
                raise
            return 0
        if data:
            self._send(self._outputs[fd], data)
        return len(data)

    def _send(self, kind: Type, payload: bytes | dict[str, Any]) -> None:
        try:
            self._frames.send(kind, payload)
        except OSError:
            self._frames.end()  # the peer is gone: the receiving thread sees it now

    # Input

    def _receive(self, child: Child) -> None:
        """Serve frames until the connection ends."""
        source = self._frames.sock.fileno()
        while True:
            poll = select.poll()
            if len(self._backlog) < _MAX_BACKLOG:
                poll.register(source, select.POLLIN)
            if self._backlog:
                poll.register(self._input, select.POLLOUT)
            ready = {fd for fd, _ in poll.poll()}
            if source in ready:
                frames = self._frames.feed()
                if frames is None:
                    return
                for kind, payload in frames:
                    self._take(child, kind, payload)
            self._write_input()

    def _take(self, child: Child, kind: Type, payload: bytes) -> None:
        if kind is Type.STDIN:
            if self._input >= 0 and not self._input_done:
                self._backlog += payload
        elif kind is Type.STDIN_EOF:
            if self._tty and not self._input_done:
                self._backlog += _END_OF_INPUT
            self._input_done = True
        elif kind is Type.SIGNAL:
            self._children.signal(child, int(wire.parse(kind, payload)["signal"]))
        elif kind is Type.RESIZE:
            size = wire.parse(kind, payload)
            self._resize(int(size["rows"]), int(size["cols"]))
        else:
            raise wire.WireError(f"{kind.name} is not for an exec stream")

    def _write_input(self) -> None:
        """Write what the program takes now; close its input once all is written and the peer has ended it."""
        if self._backlog:
            try:
                del self._backlog[: os.write(self._input, self._backlog)]
            except BlockingIOError:
                return
            except OSError:  # the program has closed its input, or ended
                self._backlog.clear()
                self._input_done = True
        if self._input_done and not self._backlog and not self._tty and self._input >= 0:
            os.close(self._input)
            self._input = -1

    def _end_input(self) -> None:
        """Nothing more will come: a program that reads on must not wait for ever."""
        self._backlog.clear()
        self._input_done = True
        self._write_input()

    def _resize(self, rows: int, cols: int) -> None:
        """Tell the terminal its size (the kernel then signals the program); without a terminal there is none."""
        if self._tty:
            fcntl.ioctl(self._input, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
