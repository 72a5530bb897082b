"""A warm parent that forks nothing, and lookups without a disk: what a pool stands on, in-process."""

import itertools
import os
import socket
from pathlib import Path

from hyper_kernel.errors import InternalError, NotFoundError
from hyper_kernel.host.orders import send_order, take_order
from hyper_kernel.sandbox.plan import Shape
from hyper_kernel.template.store import Template

#: Process ids that no process can have.
_NO_PIDS = 1 << 23


class FakeProcess:
    """What an order was given to: it answers on a copy of the order's descriptor."""

    def __init__(self, pid, order, fd):
        self.pid, self.order = pid, order
        self._sock = socket.socket(fileno=os.dup(fd))
        self._sock.setblocking(False)

    def answer(self, answer):
        send_order(self._sock, answer)

    def take(self):
        """The claim that came, None where none did; EOFError once it was let go of."""
        try:
            return take_order(self._sock)
        except BlockingIOError:
            return None

    @property
    def is_let_go(self):
        try:
            self.take()
            return False
        except EOFError:
            return True
        except OSError:  # it died
            return True

    def die(self):
        self._sock.close()


class FakeNursery:
    """Answers each order at once, by ``answers``; an answer of None leaves it to the test.

    ``broken`` makes every fork fail.
    """

    def __init__(self):
        self.answers = {"park": {"parked": True}, "bake": {"baked": "key"}}
        self.processes = []
        self.broken = False
        self.state = "new"
        self._pids = itertools.count(_NO_PIDS)

    @property
    def asked(self):
        """What was ordered, in order: (do, shape's image), or (run, template)."""
        orders = [process.order for process in self.processes]
        return [(each["do"], each["shape"]["image_id"] if "shape" in each else each["template"]) for each in orders]

    async def start(self):
        self.state = "started"

    async def fork(self, order, fd):
        if self.broken:
            raise InternalError("no shim could be started")
        process = FakeProcess(next(self._pids), order, fd)
        self.processes.append(process)
        if answer := self.answers.get(order["do"]):
            process.answer(answer)
        return process.pid

    async def close(self):
        self.state = "closed"


class FakeShapes:
    """Templates by shape, for any image but those that are ``gone``."""

    def __init__(self):
        self.templates = {}
        self.gone = set()

    def bake(self, shape, key):
        self.templates[shape] = Template(
            key=key,
            folder=Path("/nowhere"),
            facts={"kernel": shape.kernel},
            memory_bytes=1,
            memory_digest="",
            state_digest="",
            kernel_key="",
        )

    def of_record(self, record):
        spec = record.spec
        kernel = "python3" if spec.kernel else None
        return self._check(Shape(image_id=spec.image, memory_mib=spec.memory_mib, cpus=spec.cpus, kernel=kernel))

    def of_wish(self, keep):
        kernel = None if keep.programs else "python3"
        return self._check(Shape(image_id=keep.image, memory_mib=keep.memory_mib, cpus=keep.cpus, kernel=kernel))

    def settle(self, keep):
        if keep.count:
            self.of_wish(keep)
        return keep

    def name(self, shape):
        return f"{shape.image_id}:latest"

    async def find_template(self, shape):
        self._check(shape)
        return self.templates.get(shape)

    def _check(self, shape):
        if shape.image_id in self.gone:
            raise NotFoundError(f"there is no image {shape.image_id}")
        return shape
