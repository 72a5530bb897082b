"""Programs in a guest, as the contract suite needs them: in the fake guest, and by remote control in a real one."""

import asyncio
import hashlib
import itertools
import json

from hyper_kernel.vsock.end import dial_until_up
from tests.contract.vsock_peer_guest import CONTROL, pattern
from tests.fakes.vsock_guest import BUFFER, CREDIT_REQUEST, NO_RECEIVE, NO_SEND

BOOT_S = 90
_HOW = {"receive": 0, "send": 1}


class FakePeer:
    """Programs in a ``FakeGuest``."""

    def __init__(self, guest):
        self.guest = guest
        self.listeners = {}

    async def listen(self, port):
        self.listeners[port] = self.guest.listen(port)

    async def accept(self, port):
        return FakePeerStream(await self.listeners[port].get())

    async def dial(self, port):
        return FakePeerStream(await self.guest.dial(port))


class FakePeerStream:
    def __init__(self, stream):
        self.stream = stream
        self.echoing = None

    async def send(self, data):
        await self.stream.send(data)

    async def receive(self, limit):
        return await self.stream.receive_some(limit)

    async def send_pattern(self, count):
        for start in range(0, count, 1 << 20):
            await self.stream.send(pattern(min(1 << 20, count - start), start))

    async def receive_digest(self):
        digest, count = hashlib.sha256(), 0
        while data := await self.stream.receive_some():
            digest.update(data)
            count += len(data)
        return count, digest.hexdigest()

    async def fill(self):
        """Send until the host gives no more credit, though it was asked."""
        stream, sent = self.stream, 0
        while True:
            room = stream.credit - (stream.sent - stream.acknowledged)
            if room:
                await stream.send(pattern(room, sent))
                sent += room
                continue
            stream.control(CREDIT_REQUEST)
            stream.changed.clear()
            await stream.changed.wait()
            if stream.sent - stream.acknowledged == BUFFER:
                return sent

    async def echo(self):
        self.echoing = asyncio.create_task(self._echo())

    async def _echo(self):
        while data := await self.stream.receive_some(1 << 16):
            await self.stream.send(data)
        self.stream.close()

    async def shutdown(self, how):
        self.stream.shutdown({"receive": NO_RECEIVE, "send": NO_SEND}[how])

    async def close(self):
        self.stream.close()


class LinuxPeer:
    """Programs in a Linux guest that runs ``vsock_peer_guest.py``."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self._waiting = {}
        self._numbers = itertools.count()
        self._pump = asyncio.create_task(self._read())

    @classmethod
    async def meet(cls, end):
        sock = await dial_until_up(end, CONTROL, deadline_s=BOOT_S)
        return cls(*await asyncio.open_connection(sock=sock, limit=1 << 22))

    async def _read(self):
        while line := await self._reader.readline():
            answer = json.loads(line)
            self._waiting.pop(answer.pop("id")).set_result(answer)

    async def call(self, do, **arguments):
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
        answer = await self._waiting[number]
        if "error" in answer:
            raise ConnectionError(answer["error"])
        return answer

    async def listen(self, port):
        await self.call("listen", name=f"listener-{port}", port=port)

    async def accept(self, port):
        name = f"stream-{next(self._numbers)}"
        answer = await self.call("accept", name=name, listener=f"listener-{port}")
        assert answer["cid"] == 2
        return LinuxPeerStream(self, name)

    async def dial(self, port):
        name = f"stream-{next(self._numbers)}"
        await self.call("dial", name=name, port=port)
        return LinuxPeerStream(self, name)

    async def close(self):
        self._writer.close()
        self._pump.cancel()


class LinuxPeerStream:
    def __init__(self, peer, name):
        self.peer, self.name = peer, name

    async def send(self, data):
        await self.peer.call("send", name=self.name, data=data.hex())

    async def receive(self, limit):
        return bytes.fromhex((await self.peer.call("receive", name=self.name, limit=limit))["data"])

    async def send_pattern(self, count):
        await self.peer.call("send_pattern", name=self.name, count=count)

    async def receive_digest(self):
        answer = await self.peer.call("receive_digest", name=self.name)
        return answer["count"], answer["digest"]

    async def fill(self):
        return (await self.peer.call("fill", name=self.name))["count"]

    async def echo(self):
        await self.peer.call("echo", name=self.name)

    async def shutdown(self, how):
        await self.peer.call("shutdown", name=self.name, how=_HOW[how])

    async def close(self):
        await self.peer.call("close", name=self.name)
