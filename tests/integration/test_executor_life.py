"""Functions in real sandboxes."""

import platform
import time

import numpy
import pytest

import hyper_kernel
from hyper_kernel.executor import SandboxDied


def test_fresh_calls_run_in_machines_of_their_own_and_nothing_is_left(client):
    def look(number):
        import os  # noqa: PLC0415

        with open("/tmp/mark", "a") as file:
            file.write("x")
        return number, platform.node(), os.path.getsize("/tmp/mark"), numpy.arange(3) * number

    found = hyper_kernel.map(look, [1, 2], n=2)
    assert [number for number, *_ in found] == [1, 2]
    assert len({node for _, node, *_ in found} | {platform.node()}) == 3
    assert [size for _, _, size, _ in found] == [1, 1]
    assert found[1][3].tolist() == [0, 2, 4]
    assert not client.sandboxes(everything=True)


def test_a_reused_sandbox_fails_raises_dies_and_is_replaced(client):
    def eat():
        kept = []
        while True:
            kept.append(bytearray(b"x") * (8 << 20))

    def mark(name):
        import pathlib  # noqa: PLC0415

        path = pathlib.Path("/tmp/mark")
        before = path.read_text() if path.exists() else ""
        path.write_text(name)
        return before

    with hyper_kernel.HyperExecutor(1, reuse=True) as executor:
        assert [executor.submit(mark, name).result(60) for name in ("a", "b")] == ["", "a"]
        with pytest.raises(ZeroDivisionError) as info:
            executor.submit(lambda: 1 / 0).result(60)
        assert "<lambda>" in str(info.value.__cause__)
        with pytest.raises(SandboxDied, match="out of memory"):
            executor.submit(eat).result(60)
        assert executor.submit(mark, "c").result(60) == ""
        running = executor.submit(time.sleep, 100)
        while not running.timeline.sandbox:
            time.sleep(0.02)  # futures have no event for that
        assert running.cancel()
    assert not client.sandboxes(everything=True)
