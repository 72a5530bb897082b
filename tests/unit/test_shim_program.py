"""The main program of a sandbox, as its shim carries it."""

import asyncio
import socket

import pytest

from hyper_kernel import wire
from hyper_kernel.link import Frames
from hyper_kernel.shim.program import OutputLog, Program
from hyper_kernel.wire import Type


@pytest.mark.parametrize("open_stdin", [False, True])
def test_a_program_that_ended_before_it_was_given_its_empty_input_is_read_to_its_end(tmp_path, open_stdin):
    async def work():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            theirs.sendall(wire.pack(Type.STDOUT, b"hi\n") + wire.pack(Type.EXIT, {"code": 3, "signal": None}))
        output = OutputLog(tmp_path / "output.jsonl")
        stream = Frames(ours)
        code = (await Program(output).run(stream, open_stdin=open_stdin)).code
        stream.close()
        return code, output.pieces()

    assert asyncio.run(work()) == (3, [(Type.STDOUT, b"hi\n")])
