"""A Jupyter kernel in a guest, as the host itself uses it: started, warmed, given its own identity."""

import asyncio
import contextlib
import secrets
import select
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hyper_kernel import wire
from hyper_kernel.agent.agent import Agent
from hyper_kernel.channels.client import KernelClient
from hyper_kernel.channels.signing import Signer
from hyper_kernel.errors import GuestError, HyperError

#: Where a notebook's folder stands in the guest.
WORK = "/work"
#: How kernels in guests sign, whatever their clients do.
SCHEME = "hmac-sha256"
#: How long a started kernel may take until it listens, and to answer the host, in seconds.
LISTEN_S = 60.0
_ANSWER_S = 60.0
#: What a kernel runs to become able to take an identity.
IDENTITY_SOURCE = Path(__file__).with_name("identity.py").read_text()


def new_key() -> str:
    """A key for a kernel to sign with. SECURITY: never the clients', which so enters no guest."""
    return secrets.token_hex(32)


def sign_with(key: str) -> Signer:
    """What signs as a kernel in a guest does."""
    return Signer(key.encode(), SCHEME)


@asynccontextmanager
async def open_client(agent: Agent, key: str) -> AsyncIterator[KernelClient]:
    """The host's own client of a kernel that listens or is about to.

    :raise GuestError: nobody listens, or it does not speak as a kernel does.
    """
    sock = await agent.connect(wire.KERNEL_PORTS["shell"], wait_s=LISTEN_S)
    async with KernelClient.open(sock, sign_with(key)) as client:
        yield client


class KernelPorts:
    """Connections to a kernel's channels, of which each can be made before it is wanted."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._ahead: dict[str, asyncio.Task[socket.socket]] = {}

    def dial_ahead(self) -> None:
        """Begin to dial each channel once: who comes first finds the connection made."""
        for channel in wire.KERNEL_PORTS:
            if channel not in self._ahead:
                self._ahead[channel] = asyncio.create_task(self.connect(channel))

    async def wait_dialled(self) -> None:
        """Wait until that is done, or has failed."""
        await asyncio.gather(*self._ahead.values(), return_exceptions=True)

    async def dial(self, channel: str) -> socket.socket:
        """A connection, made ahead or now.

        :raise GuestError: the kernel does not listen.
        """
        if ahead := self._ahead.pop(channel, None):
            with contextlib.suppress(HyperError, OSError):
                sock = await ahead
                if not _has_ended(sock):
                    return sock
                sock.close()
        return await self.connect(channel)

    async def connect(self, channel: str, *, wait_s: float = 0.0) -> socket.socket:
        """A connection made now.

        :param wait_s: how long the kernel may take until it listens.
        :raise GuestError: it does not listen.
        """
        return await self._agent.connect(wire.KERNEL_PORTS[channel], wait_s=wait_s)

    async def close(self) -> None:
        """Close those that nobody has asked for."""
        ahead, self._ahead = list(self._ahead.values()), {}
        for task in ahead:
            task.cancel()
        for found in await asyncio.gather(*ahead, return_exceptions=True):
            if isinstance(found, socket.socket):
                found.close()


async def prepare_kernel(agent: Agent, key: str) -> None:
    """Get a kernel that was just started ready for being cloned: have it answer what follows, then use it.

    :raise GuestError: it does not answer, or cannot do this.
    """
    async with open_client(agent, key) as client:
        # One silent expression with a namespace of its own: the user's session sees nothing of it.
        code = f"exec({IDENTITY_SOURCE!r}, {{'__name__': 'hyper_identity'}})"
        await _execute(client, code, silent=True)
    await warm_kernel(agent, key)


async def warm_kernel(agent: Agent, key: str, *, times: int = 1) -> None:
    """Use a kernel as its user will, without a trace in the session: what that needs is loaded and translated then.

    :param times: how often; the first time translates, the next ones find what is left.
    :raise GuestError: it does not answer.
    """
    async with open_client(agent, key) as client:
        for _ in range(times):
            await client.request("kernel_info_request", {}, deadline_s=_ANSWER_S)
            await _execute(client, "1+1", silent=False)
        _check(await client.request("hyper_forget_request", {}, deadline_s=_ANSWER_S))


async def resync_kernel(agent: Agent, key: str, *, env: Mapping[str, str], cwd: str) -> None:
    """Give a cloned kernel its own randomness, names, environment and folder; after the agent's resync.

    :raise GuestError: it does not acknowledge.
    """
    content = {"seed": secrets.token_hex(64), "env": dict(env), "cwd": cwd}
    async with open_client(agent, key) as client:
        # SECURITY: an answer other than "ok" is an error here, and nobody reaches the kernel then.
        _check(await client.request("hyper_identity_request", content, deadline_s=_ANSWER_S))


def _has_ended(sock: socket.socket) -> bool:
    """Whether the far side has closed a connection, also behind a greeting that waits to be read.

    libzmq does that to one that does not shake hands within half a minute (ZMQ_HANDSHAKE_IVL in zmq_setsockopt(3)).
    """
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


async def _execute(client: KernelClient, code: str, *, silent: bool) -> None:
    content = {
        "code": code,
        "silent": silent,
        "store_history": not silent,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }
    _check(await client.request("execute_request", content, deadline_s=_ANSWER_S))


def _check(reply: dict[str, Any]) -> None:
    if reply.get("status") != "ok":
        problem = f"{reply.get('ename')}: {reply.get('evalue')}"[:500]
        raise GuestError(f"the kernel did not take what makes it its own: {problem}", hint="run: hyper template rm")
