"""What a kernel wrote, on its way from one machine to the next: the guest that sends it may be hostile."""

import asyncio
import os
import socket

import pytest

from hyper_kernel import wire
from hyper_kernel.errors import GuestError, HostError
from hyper_kernel.link import Frames
from hyper_kernel.shim import work as work_module
from hyper_kernel.shim.work import Work
from hyper_kernel.wire import Type


class Guest:
    """An agent that says ``count`` changes and sends these frames, and keeps what it is sent."""

    def __init__(self, count=1, frames=()):
        self.count, self.frames, self.asked, self.received = count, frames, [], b""

    async def request(self, op, **args):
        return {"count": self.count}

    async def open(self, kind, **args):
        self.asked.append((kind, args))
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        serve = self.take if kind == "put" else self.give
        self.serving = asyncio.create_task(serve(Frames(theirs)))
        return Frames(ours)

    async def give(self, frames):
        for kind, payload in self.frames:
            await frames.send(kind, payload)
        frames.close()

    async def take(self, frames):
        async for kind, payload in frames:
            if kind is Type.STDIN_EOF:
                break
            self.received += payload
        await frames.send(Type.EXIT, {"code": 0, "signal": None})


DONE = (Type.EXIT, {"code": 0, "signal": None})


def keep(guest, kept):
    async def ask():
        async with asyncio.timeout(10):
            return await Work(guest, kept.parent).keep()

    return asyncio.run(ask())


def test_it_goes_to_the_next_machine_once(tmp_path):
    kept = tmp_path / "work.tar"
    data = os.urandom(3 * wire.MAX_DATA)
    pieces = [(Type.STDOUT, data[at : at + wire.MAX_DATA]) for at in range(0, len(data), wire.MAX_DATA)]
    assert keep(Guest(2, [*pieces, DONE]), kept) == 2
    following = Guest()
    assert asyncio.run(Work(following, tmp_path).fill("")) == ""
    assert following.received == data
    assert following.asked == [("put", {"path": "/work", "base": False})]
    assert not kept.exists()


def test_nothing_is_asked_for_where_nothing_has_changed(tmp_path):
    guest = Guest(0)
    assert keep(guest, tmp_path / "work.tar") == 0
    assert guest.asked == []


@pytest.mark.parametrize("count", [None, "1", [1], 1.5, float("inf"), {"x": 1}])
def test_a_count_that_is_no_number_is_an_error(tmp_path, count):
    with pytest.raises(GuestError, match="does not say"):
        keep(Guest(count), tmp_path / "work.tar")


def test_more_than_can_be_counted_is_said_not_cut(tmp_path):
    with pytest.raises(GuestError, match="20000 files"):
        keep(Guest(wire.MAX_CHANGES), tmp_path / "work.tar")


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([(Type.STDOUT, b"x")], "did not hand over"),
        ([(Type.STDOUT, b"x"), (Type.EXIT, {"code": 1, "signal": None})], "did not hand over"),
        ([(Type.STDOUT, b"x"), (Type.EXIT, {"code": [0]})], "did not hand over"),
        ([(Type.STDOUT, b"x" * 60_000)] * 3, "more than 0 MiB"),
    ],
)
def test_what_is_not_whole_or_too_much_is_not_kept(tmp_path, monkeypatch, frames, reason):
    monkeypatch.setattr(work_module, "MAX_COPY_BYTES", 100_000)
    with pytest.raises(GuestError, match=reason):
        keep(Guest(1, frames), tmp_path / "work.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_named(tmp_path):
    with pytest.raises(HostError, match="cannot keep what the kernel wrote"):
        keep(Guest(1, [DONE]), tmp_path / "no such folder/work.tar")
