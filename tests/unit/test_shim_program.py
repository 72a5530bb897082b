"""The main program of a sandbox, as its shim carries it."""

import asyncio
import socket

import pytest

from hyper_kernel import wire
from hyper_kernel.errors import GuestError
from hyper_kernel.link import Frames
from hyper_kernel.shim import program
from hyper_kernel.shim.program import OutputLog, Program
from hyper_kernel.wire import Type


def follow(sent, output):
    async def work():
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            theirs.sendall(sent)
        stream = Frames(ours)
        try:
            await Program(output).follow(stream)
        finally:
            stream.close()

    asyncio.run(work())


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


def test_a_kernels_log_goes_on_after_that_of_the_machine_before(tmp_path):
    """Jupyter restarts a kernel that crashed before anybody could read why."""
    follow(wire.pack(Type.STDERR, b"Segmentation fault\n"), OutputLog(tmp_path / "output.jsonl", keep=True))
    output = OutputLog(tmp_path / "output.jsonl", keep=True)
    follow(wire.pack(Type.STDERR, b"again\n"), output)
    assert output.pieces() == [(Type.STDERR, b"Segmentation fault\n"), (Type.STDERR, b"again\n")]


def test_a_log_that_half_fills_its_room_begins_anew_with_the_next_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "MAX_LOG", 400)
    follow(wire.pack(Type.STDERR, b"x" * 250), OutputLog(tmp_path / "output.jsonl", keep=True))
    assert OutputLog(tmp_path / "output.jsonl", keep=True).pieces() == []


def test_a_log_that_a_full_disk_cut_begins_anew_with_the_next_machine(tmp_path):
    (tmp_path / "output.jsonl").write_bytes(b'{"log": "cut')
    assert OutputLog(tmp_path / "output.jsonl", keep=True).pieces() == []


def test_a_log_is_no_place_for_an_exit(tmp_path):
    with pytest.raises(GuestError, match="EXIT"):
        follow(wire.pack(Type.EXIT, {"code": 0}), OutputLog(tmp_path / "output.jsonl"))
