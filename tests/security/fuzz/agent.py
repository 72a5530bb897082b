"""An agent that was taken over: its hello, its answers, the streams that it opens, the archives that it sends."""

import contextlib
import socket
import tempfile
from pathlib import Path

from hyper_kernel import wire
from hyper_kernel.agent.agent import Agent
from hyper_kernel.errors import HyperError
from hyper_kernel.review.kept import read_review
from hyper_kernel.shim.program import OutputLog, Program
from hyper_kernel.shim.work import Work
from hyper_kernel.wire import Type
from tests.security.fuzz.frames import make_json, make_stream
from tests.security.fuzz.one_loop import run_in_loop

_HELLO = wire.pack(Type.HELLO, {"version": wire.VERSION})
_STREAM = (Type.STDOUT, Type.STDOUT, Type.STDERR, Type.EXIT, Type.OPENED, Type.REFUSED, Type.EVENT)
#: Where files go; removed when the process ends.
_FOLDER = tempfile.TemporaryDirectory(prefix="hyper-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def run(choices):
    run_in_loop(_Play(choices).run())


class _Play:
    """One guest; it is the host's ``end``, too, which dials it."""

    def __init__(self, choices):
        self.choices, self.theirs = choices, []
        self.kept = Path(_FOLDER.name) / "work.tar"

    async def connect(self, port, *, deadline_s=10.0):
        """See ``VsockEnd``: the guest says what it has to say at once, and then nothing more."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.theirs.append(theirs)
        with contextlib.suppress(BlockingIOError):
            theirs.send(self.say())
        theirs.shutdown(socket.SHUT_WR)
        return ours

    def say(self):
        choices = self.choices
        if len(self.theirs) == 1:
            start = _HELLO if not choices.rarely(4) else wire.pack(Type.HELLO) + choices.bend(make_json(choices))
            replies = b"".join(
                wire.pack(Type.REPLY, {"id": 1 + number, "result": choices.pick(({}, {"count": 1}, {"count": 1}))})
                for number in range(choices.byte() % 3)
            )
            return start + replies + make_stream(choices, (Type.REPLY, Type.EVENT))
        start = b""
        if not choices.rarely(4):
            start = wire.pack(choices.pick((Type.OPENED, Type.OPENED, Type.REFUSED)), {"code": 3})
        return start + make_stream(choices, _STREAM) + wire.pack(Type.EXIT, {"code": choices.pick((0, 0, 1, 256))})

    async def run(self):
        try:
            await self.talk()
        except HyperError as exc:
            assert len(str(exc)) < 5000
        finally:
            for sock in self.theirs:
                sock.close()
            self.kept.unlink(missing_ok=True)

    async def talk(self):
        agent = await Agent.meet(self, on_event=lambda event: None, deadline_s=5)
        try:
            kind = self.choices.byte() % 8
            if kind == 0:
                await agent.resync(hostname="h", scratch_mib=1, image={})
                await agent.request("stats")
            elif kind == 1:
                frames = await agent.open("exec", argv=["true"])
                frames.close()
            elif kind == 2:
                (await agent.connect(27001, wait_s=0)).close()
            elif kind == 3:
                await self.run_program(agent)
            elif kind == 4:
                work = Work(agent, self.kept.parent)
                count = await work.keep()
                assert 0 <= count < wire.MAX_CHANGES and self.kept.exists() == (count > 0)
            elif kind == 5:
                review = await Work(agent, self.kept.parent).review()
                assert read_review(self.kept.parent) == review
            elif kind == 6:
                await self.follow_log(agent)
            else:
                self.kept.write_bytes(b"kept")
                await Work(agent, self.kept.parent).fill("")
        finally:
            await agent.close()
            assert agent._link._reader.exception() is None

    async def follow_log(self, agent):
        frames = await agent.open("log")
        log = OutputLog(Path(_FOLDER.name) / "output.jsonl", keep=True)
        try:
            await Program(log).follow(frames)
        finally:
            frames.close()
            log.pieces()

    async def run_program(self, agent):
        frames = await agent.open("exec", argv=["true"])
        log = OutputLog(Path(_FOLDER.name) / "output.jsonl")
        try:
            end = await Program(log).run(frames, open_stdin=False)
            assert 0 <= end.code <= 255
        finally:
            frames.close()
            log.pieces()
