"""A guest that answers requests with anything: out of order, twice, unasked, for others, or with no answer at all."""

import asyncio
import socket

from hyper_kernel.errors import GuestError, LostError
from hyper_kernel.link import Frames, Link
from hyper_kernel.wire import Type
from tests.security.fuzz.frames import make_stream
from tests.security.fuzz.one_loop import run_in_loop

_KINDS = (Type.REPLY, Type.REPLY, Type.REPLY, Type.EVENT, Type.EVENT, Type.REQUEST, Type.HELLO)


def run(choices):
    run_in_loop(_play(choices))


async def _play(choices):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    events, stream = [], make_stream(choices, _KINDS)
    link = Link(Frames(ours), on_event=events.append, peer="the guest")
    asked = [asyncio.create_task(link.request("stats")) for _ in range(choices.byte() % 4)]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    for piece in choices.cut(stream):
        try:
            await loop.sock_sendall(theirs, piece)
        except OSError:
            break
    theirs.close()
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, dict | GuestError | LostError), answer
        assert len(str(answer)) < 3000 or isinstance(answer, dict)
    await link.wait_closed()
    await link.close()
    assert link._reader.exception() is None
    assert not link._waiting and all(isinstance(event, dict) for event in events)
