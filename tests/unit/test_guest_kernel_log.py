"""What a kernel's process writes, as the guest keeps it and sends it."""

import os
import socket
import threading
from contextlib import contextmanager

import pytest

from guest import kernels
from guest.frames import Frames
from guest.kernels import KernelLog
from hyper_kernel import wire
from hyper_kernel.wire import Type, WireError

WAIT_S = 20


@contextmanager
def host_of(log):
    """A host that asks for the log: its socket, which closes at the end."""
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT_S)
    serving = threading.Thread(target=log.send_to, args=(Frames(theirs),), daemon=True)
    serving.start()
    try:
        yield ours
    finally:
        ours.close()
        serving.join(WAIT_S)
        assert not serving.is_alive()


def read(sock, size):
    """So many bytes of the log."""
    decoder, found = wire.Decoder(), b""
    while len(found) < size:
        for kind, payload in decoder.feed(sock.recv(1 << 16)):
            assert kind is Type.STDERR
            found += payload
    return found


@pytest.fixture
def log(monkeypatch, tmp_path):
    with (tmp_path / "console").open("wb") as console:
        monkeypatch.setattr(kernels.machine, "CONSOLE", console.fileno())
        yield KernelLog()


@pytest.fixture
def write(log):
    """Writes as a kernel would; what was written before it returns is kept or sent soon."""
    theirs, ours = os.pipe()
    copying = threading.Thread(target=log.copy, args=(theirs,))
    copying.start()
    yield lambda data: os.write(ours, data)
    os.close(ours)
    copying.join(WAIT_S)
    assert not copying.is_alive(), "the log must be read, whoever hears it"


def test_what_was_written_before_the_host_asked_comes_first(log, write, tmp_path):
    write(b"before ")
    with host_of(log) as host:
        assert read(host, 7) == b"before "
        write(b"after")
        assert read(host, 5) == b"after"
    assert (tmp_path / "console").read_bytes() == b"before after"


def test_the_newest_host_is_the_live_one(log, write):
    with host_of(log) as old:
        write(b"one")
        assert read(old, 3) == b"one"
        with host_of(log) as new:
            assert old.recv(1) == b""
            write(b"two")
            assert read(new, 3) == b"two"


def test_of_what_nobody_hears_the_beginning_is_kept(log, write, monkeypatch):
    monkeypatch.setattr(kernels, "_MAX_LOG", 6)
    log.copy(_pipe_with(b"Traceback"))
    with host_of(log) as host:
        assert read(host, 6) == b"Traceb"


def test_a_host_that_talks_is_refused(log):
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(wire.pack(Type.STDIN, b"x"))
        with pytest.raises(WireError, match="STDIN"):
            log.send_to(Frames(theirs))
    theirs.close()


def _pipe_with(data):
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader
