"""Both ends of a splice for tests: a kernel's streams, and a client that reads messages."""

import asyncio
import json
import socket
from typing import Any, NamedTuple

from hyper_kernel.channels.packet import DELIMITER


class FakeKernel:
    """Gives the far side of each dialled stream to the test."""

    def __init__(self):
        self.dialled = asyncio.Queue()

    async def dial(self, channel):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.dialled.put_nowait((channel, ours))
        return theirs


async def connect(info, channel):
    return await asyncio.open_unix_connection(f"{info['ip']}-{info[channel + '_port']}")


class Got(NamedTuple):
    """A message as a client reads it."""

    kind: str
    content: dict[str, Any]
    parent: dict[str, Any]
    topic: bytes
    buffers: list[bytes]


async def read_message(reader, signer):
    """The next message; its signature must be right."""
    parts, more = [], True
    while more:
        flags, size = await reader.readexactly(2)
        if flags & 2:
            size = int.from_bytes(bytes([size]) + await reader.readexactly(7), "big")
        parts.append(await reader.readexactly(size))
        more = flags & 1
    at = parts.index(DELIMITER)
    head = parts[at + 2 : at + 6]
    assert signer.verify(head, parts[at + 1])
    header, parent, _, content = map(json.loads, head)
    return Got(header["msg_type"], content, parent, parts[0] if at else b"", parts[at + 6 :])
