"""The channels' firewall: what a kernel says is judged, counted and cut; the shim's own words come in between."""

import asyncio
import json
import logging

import pytest

from hyper_kernel.channels import connection as connection_module
from hyper_kernel.channels import message as message_module
from hyper_kernel.channels import missed as missed_module
from hyper_kernel.channels.packet import DELIMITER
from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.splice import Splice
from hyper_kernel.channels.zmtp import GREETING, frame, ready
from hyper_kernel.spec import Limits
from tests.unit.channel_peers import FakeKernel, connect, read_message

CLIENTS, GUEST = Signer(b"the clients'"), Signer(b"the guest's")
OPENING = GREETING + ready(b"ROUTER", b"")
CELL = {"msg_id": "cell", "msg_type": "execute_request", "session": "s"}


def say(kind, content, *, parent=CELL, signer=GUEST, buffers=(), topic=b"topic", metadata=None):
    """A message as a kernel sends it, or as a client does."""
    header = {"msg_id": "m", "msg_type": kind, "session": "k", "date": "2026-01-01T00:00:00Z", "version": "5.3"}
    if signer is CLIENTS:
        header = parent | {"msg_type": kind}
    parts = [json.dumps(part).encode() for part in (header, parent, metadata or {}, content)]
    frames = [*([topic] if topic else []), DELIMITER, signer.sign(parts), *parts, *buffers]
    return b"".join(frame(part, more=number < len(frames)) for number, part in enumerate(frames, 1))


def stream(text):
    return say("stream", {"name": "stdout", "text": text})


class Line:
    """One connection of a client, with both its ends."""

    def __init__(self, reader, writer, guest):
        self.reader, self.writer, self.guest = reader, writer, guest

    @classmethod
    async def open(cls, kernel, info, channel):
        reader, writer = await connect(info, channel)
        _, guest = await kernel.dialled.get()
        line = cls(reader, writer, guest)
        await line.from_kernel(OPENING)
        writer.write(OPENING)
        await reader.readexactly(len(OPENING))
        return line

    async def from_kernel(self, data):
        await asyncio.get_running_loop().sock_sendall(self.guest, data)

    def ask_cell(self, name="cell"):
        self.writer.write(
            say("execute_request", {"code": "1"}, parent=CELL | {"msg_id": name}, signer=CLIENTS, topic=b"")
        )

    async def next(self):
        """What the client gets next: type, content, parent's id."""
        return await asyncio.wait_for(read_message(self.reader, CLIENTS), 10)

    async def texts(self, count):
        return [(await self.next()).content["text"] for _ in range(count)]


@pytest.fixture
def run(tmp_path):
    """Runs a test's work with a splice that has these limits."""

    def go(work, *, output="sanitize", **limits):
        async def main():
            kernel = FakeKernel()
            splice = Splice(kernel.dial, clients=CLIENTS, kernel=GUEST, output=output, limits=Limits(**limits))
            try:
                await asyncio.wait_for(work(kernel, splice, splice.bind_ipc(tmp_path / "k")), 20)
            finally:
                await splice.close()

        asyncio.run(main())

    return go


async def wait_cell(splice, name="cell"):
    while not (splice.cells.current and splice.cells.current.msg_id == name):
        await splice.cells.wait_change()


# --- what passes ---


def test_a_message_passes_as_it_was_read_with_its_buffers(run):
    async def work(kernel, splice, info):
        iopub = await Line.open(kernel, info, "iopub")
        await iopub.from_kernel(say("stream", {"name": "stdout", "text": "häßlich 😀"}, metadata={"a": [1]}))
        got = await iopub.next()
        assert (got.kind, got.content["text"], got.parent["msg_id"], got.topic) == (
            "stream",
            "häßlich 😀",
            "cell",
            b"topic",
        )

    run(work)


def test_what_the_host_itself_asks_of_a_kernel_is_nobodys_matter(run):
    async def work(kernel, splice, info):
        iopub = await Line.open(kernel, info, "iopub")
        for msg_type in ("hyper_identity_request", "kernel_info_request"):
            parent = {"msg_id": msg_type, "msg_type": msg_type}
            await iopub.from_kernel(say("status", {"execution_state": "idle"}, parent=parent))
        assert (await iopub.next()).parent["msg_id"] == "kernel_info_request"

    run(work)


def test_what_is_active_is_removed_and_counted(run):
    async def work(kernel, splice, info):
        iopub = await Line.open(kernel, info, "iopub")
        data = {
            "text/html": "<b>x</b><script>alert(1)</script>",
            "application/javascript": "alert(1)",
            "text/plain": "x",
        }
        await iopub.from_kernel(say("display_data", {"data": data, "metadata": {}, "transient": {}}))
        shown = (await iopub.next()).content["data"]
        assert "<b>x</b>" in shown["text/html"] and "script>" not in shown["text/html"]
        assert "application/javascript" not in shown and "alert" not in shown["text/html"]
        assert splice.firewall.removed == {"script": 1, "application/javascript": 1}

    run(work)


def test_trusted_output_passes_whole(run):
    async def work(kernel, splice, info):
        iopub = await Line.open(kernel, info, "iopub")
        data = {"text/html": "<script>alert(1)</script>", "application/javascript": "alert(1)"}
        await iopub.from_kernel(say("display_data", {"data": data, "metadata": {}}, buffers=[b"kept"]))
        got = await iopub.next()
        assert got.content["data"] == data and got.buffers == [b"kept"]

    run(work, output="trusted")


def test_a_dropped_message_takes_its_buffers_along_and_the_next_one_passes(run):
    async def work(kernel, splice, info):
        iopub = await Line.open(kernel, info, "iopub")
        opened = {"comm_id": "c", "target_name": "evil", "data": {}}
        await iopub.from_kernel(say("comm_open", opened, buffers=[b"x" * 300_000, b"y"]) + stream("after"))
        assert await iopub.texts(1) == ["after"]

    run(work)


@pytest.mark.parametrize(
    "content", [b"[]", b"nonsense", b'{"a":NaN}', b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"], ids=range(4)
)
def test_what_is_no_message_ends_the_connection_and_never_arrives(run, caplog, content):
    broken = []

    async def work(kernel, splice, info):
        splice.on_violation = broken.append
        iopub = await Line.open(kernel, info, "iopub")
        parts = [b"{}", b"{}", b"{}", content]
        frames = [DELIMITER, GUEST.sign(parts), *parts]
        await iopub.from_kernel(b"".join(frame(part, more=number < 6) for number, part in enumerate(frames, 1)))
        assert await iopub.reader.read() == b""

    run(work)
    assert "ended a connection to iopub for what the kernel sent: a " in caplog.text
    assert broken and broken[0].startswith("iopub: a ")


def test_a_content_that_is_too_long_to_judge_is_left_out_and_told(run, monkeypatch):
    monkeypatch.setattr(message_module, "MAX_HEAD", 100_000)

    async def work(kernel, splice, info):
        iopub = await Line.open(kernel, info, "iopub")
        await iopub.from_kernel(
            say("stream", {"name": "stdout", "text": "x" * 200_000}, buffers=[b"b"]) + stream("after")
        )
        texts = await iopub.texts(2)
        assert "after" in texts and any("is left out" in text for text in texts)

    run(work)


# --- the shim's own words ---


def test_a_line_of_the_shims_belongs_to_the_cell_that_runs(run):
    async def work(kernel, splice, info):
        shell, iopub = [await Line.open(kernel, info, channel) for channel in ("shell", "iopub")]
        shell.ask_cell()
        await wait_cell(splice)
        await splice.say("cell limit: interrupted")
        got = await iopub.next()
        assert (got.kind, got.parent["msg_id"]) == ("stream", "cell")
        assert got.content == {"name": "stderr", "text": "cell limit: interrupted\n"}

    run(work)


def test_nothing_comes_into_the_middle_of_a_message(run):
    async def work(kernel, splice, info):
        iopub = await Line.open(kernel, info, "iopub")
        whole = say("comm_msg", {"comm_id": "c", "data": {}}, buffers=[b"b" * 500_000])
        await iopub.from_kernel(whole[:-1000])
        got = b""
        while len(got) < 400_000:  # its head and most of its buffer have passed
            got += await iopub.reader.read(1 << 20)
        saying = asyncio.create_task(splice.say("in between"))
        await iopub.from_kernel(whole[-1000:] + stream("after"))
        await saying
        got += await iopub.reader.readuntil(b"in between")
        assert got.count(b"b" * 1000) == 500
        assert got.rindex(b"b" * 1000) < got.index(b"in between")

    run(work, output="trusted")


def test_cells_that_wait_are_answered_with_an_error_when_the_kernel_is_gone(run):
    async def work(kernel, splice, info):
        shell, other, iopub = [await Line.open(kernel, info, channel) for channel in ("shell", "shell", "iopub")]
        shell.ask_cell("first")
        await wait_cell(splice, "first")
        other.ask_cell("second")
        await asyncio.get_running_loop().sock_recv(other.guest, 1 << 16)
        await asyncio.get_running_loop().sock_recv(other.guest, 1 << 16)
        for line in (shell, other, iopub):
            line.guest.close()
        await splice.end_cells("OutOfMemory", "used all of its 512 MiB")
        for line, name in ((shell, "first"), (other, "second")):
            reply = await line.next()
            assert (reply.kind, reply.parent["msg_id"], reply.content["status"]) == ("execute_reply", name, "error")
            assert (reply.content["ename"], reply.content["evalue"]) == ("OutOfMemory", "used all of its 512 MiB")
        got = [await iopub.next() for _ in range(4)]
        assert [(one.kind, one.parent["msg_id"]) for one in got] == [
            ("error", "first"),
            ("status", "first"),
            ("error", "second"),
            ("status", "second"),
        ]
        assert splice.cells.current is None

    run(work)


def test_an_answered_cell_is_not_answered_again(run):
    async def work(kernel, splice, info):
        shell, iopub = [await Line.open(kernel, info, channel) for channel in ("shell", "iopub")]
        shell.ask_cell()
        await wait_cell(splice)
        await shell.from_kernel(say("execute_reply", {"status": "ok", "execution_count": 1}, topic=b""))
        assert (await shell.next()).kind == "execute_reply"
        await splice.end_cells("Killed", "killed")
        await iopub.from_kernel(stream("only this"))
        assert await iopub.texts(1) == ["only this"]

    run(work)


def test_a_client_that_does_not_read_does_not_hold_up_the_last_words(run):
    async def work(kernel, splice, info):
        slow, iopub = [await Line.open(kernel, info, "iopub") for _ in range(2)]
        filling = asyncio.create_task(slow.from_kernel(stream("x" * 100_000) * 200))
        began_s = asyncio.get_running_loop().time()
        while splice.traffic.outward < 200_000:
            await asyncio.sleep(0)
        await splice.say("last words")
        assert await iopub.texts(1) == ["last words\n"]
        assert asyncio.get_running_loop().time() - began_s < 10
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)

    run(work)


# --- limits ---


def test_output_over_its_limit_is_left_out_and_told_once(run):
    async def work(kernel, splice, info):
        shell, iopub = [await Line.open(kernel, info, channel) for channel in ("shell", "iopub")]
        shell.ask_cell()
        await wait_cell(splice)
        for _ in range(40):
            await iopub.from_kernel(stream("x" * 10_000))
        await iopub.from_kernel(say("status", {"execution_state": "idle"}))
        texts = []
        while (got := await iopub.next()).kind == "stream":
            texts.append(got.content["text"])
        shown = sum(len(text) for text in texts if text.startswith("x"))
        assert shown <= 100_000 + connection_module.CHUNK
        assert sum("output limit" in text for text in texts) == 1
        assert (got.kind, got.content) == ("status", {"execution_state": "idle"})
        shell.ask_cell("next")
        await wait_cell(splice, "next")
        await iopub.from_kernel(stream("again"))
        assert await iopub.texts(1) == ["again"]

    run(work, output_bytes=100_000)


def test_many_short_messages_count_too(run):
    async def work(kernel, splice, info):
        shell, iopub = [await Line.open(kernel, info, channel) for channel in ("shell", "iopub")]
        shell.ask_cell()
        await wait_cell(splice)
        flood = asyncio.create_task(iopub.from_kernel(stream("x") * 1000))
        while not splice.cells.over_output:
            await splice.cells.wait_change()
        texts = []
        while not texts or "output limit" not in texts[-1]:
            texts += await iopub.texts(1)
        assert len(texts) < 120
        await flood

    run(work, output_bytes=100_000)


def test_what_comes_too_fast_comes_at_its_rate(run):
    async def work(kernel, splice, info):
        loop = asyncio.get_running_loop()
        iopub = await Line.open(kernel, info, "iopub")
        sending = asyncio.create_task(iopub.from_kernel(stream("x" * 100_000) * 30))
        began_s = loop.time()
        await iopub.texts(30)
        await sending
        assert 1.5 < loop.time() - began_s < 6  # 3 MB at 1 MB/s, after one second's worth at once

    run(work, output_bytes_per_s=1_000_000)


def test_a_kernel_that_answers_what_nobody_asked_is_not_heard(run, caplog):
    async def work(kernel, splice, info):
        shell, iopub = [await Line.open(kernel, info, channel) for channel in ("shell", "iopub")]
        shell.ask_cell()
        await wait_cell(splice)
        for parent in ({"msg_id": "other"}, {"msg_id": ["cell"]}, {}):
            await shell.from_kernel(say("execute_reply", {"status": "ok"}, parent=parent, topic=b""))
            await iopub.from_kernel(say("status", {"execution_state": "idle"}, parent=parent))
            await iopub.next()
        assert splice.cells.current.msg_id == "cell"
        reply = say("execute_reply", {"status": "ok", "execution_count": 7}, topic=b"")
        await shell.from_kernel(reply + reply)  # once is enough
        assert (await shell.next()).content["execution_count"] == 7
        shell.ask_cell("next")
        await wait_cell(splice, "next")
        await shell.from_kernel(say("execute_reply", {"status": "ok"}, parent=CELL | {"msg_id": "next"}, topic=b""))
        assert (await shell.next()).parent["msg_id"] == "next"
        assert splice.firewall.removed["answer unasked"] == 1  # all four have the same id

    caplog.set_level(logging.ERROR)
    run(work)
    assert not caplog.records


def test_a_cell_may_ask_its_person_and_nobody_elses(run):
    async def work(kernel, splice, info):
        shell, stdin = [await Line.open(kernel, info, channel) for channel in ("shell", "stdin")]
        ask = {"prompt": "name? ", "password": False}
        await stdin.from_kernel(say("input_request", ask, topic=b""))
        shell.ask_cell()
        await wait_cell(splice)
        await stdin.from_kernel(say("input_request", ask | {"prompt": "now? "}, topic=b"") * 150)
        await stdin.from_kernel(say("input_request", ask, parent={"msg_id": "other"}, topic=b""))
        got = [(await stdin.next()).content["prompt"] for _ in range(100)]
        assert set(got) == {"now? "}
        shell.ask_cell("next")
        await asyncio.get_running_loop().sock_recv(shell.guest, 1 << 16)
        await until(lambda: len(splice.cells.waiting) == 2)
        await stdin.from_kernel(say("input_request", ask, parent=CELL | {"msg_id": "next"}, topic=b""))
        assert (await stdin.next()).parent["msg_id"] == "next"

    run(work)


# --- what is missed ---


def texts_of(missed):
    return [json.loads(one.parts[-1]).get("text") for each in missed for one in each.messages()]


async def until(is_so):
    while not is_so():
        await asyncio.sleep(0)


def test_what_a_cell_says_while_nobody_listens_is_kept_and_handed_out_once(run):
    async def work(kernel, splice, info):
        shell, iopub = [await Line.open(kernel, info, channel) for channel in ("shell", "iopub")]
        shell.ask_cell()
        await wait_cell(splice)
        await iopub.from_kernel(stream("heard"))
        assert await iopub.texts(1) == ["heard"]
        iopub.writer.close()
        shell.writer.close()
        await until(lambda: len([each for each in splice.connections if each.missed]) == 2)
        await iopub.from_kernel(stream("missed") + say("comm_open", {"comm_id": "c"}) + stream("too"))
        await shell.from_kernel(say("execute_reply", {"status": "ok", "execution_count": 1}, topic=b""))
        await until(lambda: splice.cells.current is None)
        await splice.say("said by the shim")
        missed = await splice.take_missed()
        assert sorted(each.channel for each in missed) == ["iopub", "shell"]
        assert texts_of(each for each in missed if each.channel == "iopub") == ["missed", "too", "said by the shim\n"]
        [reply] = [one for each in missed if each.channel == "shell" for one in each.messages()]
        assert json.loads(reply.parts[2])["msg_type"] == "execute_reply" and not any(each.is_cut for each in missed)
        assert CLIENTS.verify(reply.parts[2:6], reply.parts[1])
        assert await splice.take_missed() == []
        assert await asyncio.get_running_loop().sock_recv(iopub.guest, 1 << 16) is not None

    run(work)


def test_what_others_hear_is_not_kept(run):
    async def work(kernel, splice, info):
        first, second = [await Line.open(kernel, info, "iopub") for _ in range(2)]
        first.writer.close()
        while await asyncio.get_running_loop().sock_recv(first.guest, 1 << 16):
            pass  # until the kernel sees it leave
        assert not any(each.missed for each in splice.connections)
        second.writer.close()
        await until(lambda: any(each.missed for each in splice.connections))

    run(work)


def test_what_is_missed_is_bounded_and_cut_between_messages(run, monkeypatch):
    monkeypatch.setattr(missed_module, "MAX_MISSED", 200_000)  # a read has 128 KiB
    monkeypatch.setattr(missed_module, "MAX_LAST", 50_000)

    async def work(kernel, splice, info):
        iopub = await Line.open(kernel, info, "iopub")
        iopub.writer.close()
        await until(lambda: any(each.missed for each in splice.connections))
        await iopub.from_kernel(stream("x" * 30_000) * 10 + stream("late"))
        await until(lambda: splice.traffic.outward > 300_000)
        [missed] = await splice.take_missed()
        texts = texts_of([missed])
        assert missed.is_cut and len(texts) <= 8 and set(texts[:-1]) == {"x" * 30_000}
        assert texts[-1] == "late"  # how it ended is known, whatever is lost
        [after] = [number for number, message in enumerate(missed.messages()) if message.follows_cut]
        assert 0 < after <= 6

    run(work)


def test_the_end_of_what_is_missed_has_no_gap(monkeypatch):
    monkeypatch.setattr(missed_module, "MAX_MISSED", 1000)
    missed = missed_module.Missed("iopub", is_midway=False)
    for size in (600, 600, 100, 1500, 100):  # the second is over the bound, and so is the fourth by itself
        missed.add(b"\x02" + size.to_bytes(8, "big") + bytes(size))
        missed.end_message()
    assert [(message.size, message.follows_cut) for message in missed.messages()] == [(600, False), (100, True)]
