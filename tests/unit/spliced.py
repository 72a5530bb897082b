"""A splice in a loop of its own, between real ZeroMQ sockets of this process or of a kernel's."""

import asyncio
import socket
import threading
from contextlib import contextmanager

from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.splice import Splice

CLIENTS_KEY, KERNEL_KEY = b"what clients sign with", b"what the guest signs with"


@contextmanager
def loop_in_thread():
    """A running event loop; at the end nothing of it may be left."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def spliced(folder, ports, *, clients_key=CLIENTS_KEY, kernel_key=KERNEL_KEY, output="trusted"):
    """A splice to loopback ports by channel: ``(info, run)``; ``run`` runs a coroutine in its loop.

    As in a sandbox, a kernel that does not listen yet refuses, and clients come again.
    """

    async def dial(channel):
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", ports[channel]))
        except BaseException:
            sock.close()
            raise
        return sock

    async def make():
        splice = Splice(dial, clients=Signer(clients_key), kernel=Signer(kernel_key), output=output)
        return splice, splice.bind_ipc(folder / "k")

    with loop_in_thread() as loop:

        def run(work):
            return asyncio.run_coroutine_threadsafe(work, loop).result(60)

        splice, info = run(make())
        try:
            yield info, run
        finally:
            run(splice.close())
