"""A guest that floods, stalls, half-closes and resets its streams in any state, and a host that does the same."""

import asyncio
import contextlib
import socket

from hyper_kernel.errors import BusyError, GuestError
from hyper_kernel.vsock import listener as listener_module
from hyper_kernel.vsock import mux as mux_module
from hyper_kernel.vsock.connection import BUFFER
from hyper_kernel.vsock.end import ViolationError
from hyper_kernel.vsock.listener import Ports
from hyper_kernel.vsock.mux import Mux
from hyper_kernel.vsock.packet import Header, Op
from tests.security.fuzz.fake_loop import FakeLoop, assert_none_left, lowest_fd

_CID, _LISTENED = 3, 7
_BLOCK = memoryview(bytes(64 * 1024))


def run(choices):
    before = lowest_fd()
    was = mux_module.MAX_STREAMS, mux_module.MAX_REFUSALS, listener_module.BACKLOG
    # So small that short inputs reach them.
    mux_module.MAX_STREAMS, mux_module.MAX_REFUSALS, listener_module.BACKLOG = 5, 4, 2
    play = Play(choices)
    try:
        play.run()
    finally:
        play.close()
        mux_module.MAX_STREAMS, mux_module.MAX_REFUSALS, listener_module.BACKLOG = was
    assert_none_left(before)
    assert not play.loop.readers and not play.loop.writers, "a closed socket is still watched"


class Play:
    """One mux, the guest, and the programs that use its streams."""

    def __init__(self, choices):
        self.choices = choices
        self.loop, self.ports = FakeLoop(), Ports()
        self.mux = Mux(_CID, self.ports, self.loop, lambda: None)
        self.mux._next_port = 49152
        self.listener = self.ports.listen(_LISTENED)
        self.dials, self.socks = [], []
        #: What each stream's sender has said and may say, by (guest port, host port).
        self.sent, self.credit = {}, {}

    def run(self):
        steps = (self.packet, self.packet, self.packet, self.packet, self.take, self.dial, self.accept, self.program)
        while self.choices.left:
            kind = self.choices.byte() % 10
            try:
                if kind < 8:
                    steps[kind]()
                elif kind == 8:
                    self.loop.turn()
                else:
                    self.loop.pass_time()
            except ViolationError:
                return
            self.check()
        self.loop.settle(self.take_all)

    def packet(self):
        """One of the guest's, on a stream that there is, or may be, or not."""
        choices = self.choices
        if self.mux.is_choked:
            return
        key = choices.pick(((40000, _LISTENED), (40001, _LISTENED), (40002, _LISTENED), (9, 49152), (9, 49153), (5, 5)))
        op = 1 + choices.below(7)
        length = choices.pick((0, 1, 44, 4096, 65536, 65535)) if op == Op.RW else 0
        cid = _CID if not choices.rarely(32) else choices.number(64)
        kind = 1 if not choices.rarely(32) else 2
        buf_alloc = choices.pick((BUFFER, BUFFER, 0, 1, 70000, 0xFFFFFFFF))
        sent = self.sent.get(key, 0)
        fwd_cnt = choices.pick((sent, sent, 0, max(sent - 100, 0), sent + 1)) & 0xFFFFFFFF
        flags = choices.below(4)
        self.credit[key] = max(self.credit.get(key, 0), buf_alloc)
        header = Header(cid, 2, *key, length, kind, op, flags, buf_alloc, fwd_cnt)
        if op in (Op.REQUEST, Op.RST):
            self.sent.pop(key, None)
        self.mux.handle(header, _BLOCK[:length])

    def take(self):
        rooms = [self.choices.pick((4096, 1, 65536)) for _ in range(1 + self.choices.byte() % 4)]
        self.fill(rooms)
        if self.choices.rarely():
            self.mux.pause()

    def take_all(self):
        while self.mux.has_output:
            self.fill([65536] * 8)

    def fill(self, rooms):
        packets = self.mux.fill(rooms)
        assert len(packets) <= len(rooms)
        for (header, payload), room in zip(packets, rooms, strict=False):
            assert header.length == len(payload) <= room
            key = header.dst_port, header.src_port
            if header.op == Op.RW:
                assert (header.src_cid, header.dst_cid, header.type) == (2, _CID, 1)
                self.sent[key] = self.sent.get(key, 0) + len(payload)
                assert self.sent[key] <= self.credit[key] + self.sent[key] and len(payload) <= self.credit[key]
            elif header.op in (Op.REQUEST, Op.RESPONSE):
                self.sent[key] = 0

    def dial(self):
        dial = self.mux.dial(9)
        with contextlib.suppress(BusyError):
            dial.send(None)
            self.dials.append(dial)

    def accept(self):
        """Whoever waits goes on: for an answer, or for a connection; or gives up."""
        if self.dials and self.choices.byte() & 1:
            dial = self.dials.pop(self.choices.below(len(self.dials)))
            self.end_dial(dial)
        elif self.listener._waiting.qsize():
            self.socks.append(self.listener._waiting.get_nowait())

    def end_dial(self, dial):
        future = dial.cr_await
        while future.cr_await if hasattr(future, "cr_await") else False:
            future = future.cr_await
        try:
            if self.is_answered(dial):
                dial.send(None)
            else:
                dial.throw(asyncio.CancelledError)
        except StopIteration as done:
            self.socks.append(done.value)
        except (asyncio.CancelledError, GuestError):
            pass
        else:
            raise AssertionError("a dial neither succeeds nor ends")

    def is_answered(self, dial):
        frame = dial.cr_frame
        future = self.mux._dials.get(frame.f_locals["key"])
        return future is not None and future.done()

    def program(self):
        """A program writes, reads, half-closes or closes."""
        if not self.socks:
            return
        sock = self.socks[self.choices.below(len(self.socks))]
        kind = self.choices.byte() % 6
        with contextlib.suppress(OSError):
            if kind < 2:
                sock.send(_BLOCK[: self.choices.pick((1, 44, 65536))])
            elif kind < 4:
                sock.recv(self.choices.pick((1, 65536)))
            elif kind == 4:
                sock.shutdown(self.choices.pick((socket.SHUT_WR, socket.SHUT_RD)))
            else:
                self.socks.remove(sock)
                sock.close()

    def check(self):
        mux = self.mux
        streams = {*mux._streams.values(), *mux._draining}
        assert len(streams) <= mux_module.MAX_STREAMS
        assert len(mux._refusals) <= mux_module.MAX_REFUSALS
        assert all([len(stream._held) <= BUFFER for stream in streams])
        assert len(mux._ready) <= len(mux._streams)

    def close(self):
        self.mux.close()
        self.ports.close()
        for dial in self.dials:
            self.end_dial(dial)
        for sock in self.socks:
            sock.close()
        self.loop.pass_time()
