"""How lively a sandbox is, judged by what the host sees."""

import asyncio
import math
import os
import time

from hyper_kernel.errors import LostError
from hyper_kernel.host.usage import read_wanted_s
from hyper_kernel.sandbox.record import Liveness
from hyper_kernel.shim import liveness as module
from hyper_kernel.shim.liveness import Pulse


class Scene:
    """A machine whose clock and processor are set by hand."""

    def __init__(self, monkeypatch, *, rate=0.0, answers=True, share=1.0):
        monkeypatch.setattr(module, "_WATCH_S", 0.0)
        self.now = 1000.0
        self.used = 0.0
        self.rate = rate
        self.answers = answers
        self.asked = 0
        self.pulse = Pulse(1, self._ping, share=share, wanted_s=self._wanted, clock=lambda: self.now)

    async def _ping(self):
        self.asked += 1
        if not self.answers:
            raise LostError("no answer")

    def _wanted(self, _pid):
        self.now += 0.05
        self.used += 0.05 * self.rate
        return self.used

    def look(self, last_byte_s=0.0):
        return asyncio.run(self.pulse.look(last_byte_s))


def test_idle_since_its_last_byte(monkeypatch):
    scene = Scene(monkeypatch)
    scene.now += 240
    liveness, idle_s = scene.look(last_byte_s=1010.0)
    assert liveness is Liveness.IDLE
    assert math.isclose(idle_s, 230.1, abs_tol=0.2)


def test_busy_without_a_byte_and_idle_from_then_on(monkeypatch):
    scene = Scene(monkeypatch, rate=0.9)
    scene.now += 500
    assert scene.look() == (Liveness.BUSY, 0.0)
    scene.rate = 0.02
    scene.now += 100
    liveness, idle_s = scene.look()
    assert liveness is Liveness.IDLE
    assert 99 < idle_s < 102


def test_busy_is_measured_by_what_it_may_use(monkeypatch):
    assert Scene(monkeypatch, rate=0.09).look()[0] is Liveness.IDLE
    assert Scene(monkeypatch, rate=0.09, share=0.1).look()[0] is Liveness.BUSY
    assert Scene(monkeypatch, rate=0.9, share=4.0).look()[0] is Liveness.BUSY


def test_only_who_has_been_silent_is_asked(monkeypatch):
    scene = Scene(monkeypatch)
    scene.look()
    assert scene.asked == 0
    scene.now += 20
    scene.look(last_byte_s=scene.now)
    assert scene.asked == 0
    scene.now += 20
    scene.look()
    scene.look()
    assert scene.asked == 1


def test_who_does_not_answer_hangs_however_busy_it_is(monkeypatch):
    scene = Scene(monkeypatch, rate=1.0, answers=False)
    scene.now += 30
    assert scene.look() == (Liveness.HUNG, 30.0)
    scene.answers = True
    assert scene.look()[0] is Liveness.BUSY


def test_an_answer_that_never_comes_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "_ANSWER_S", 0.01)
    scene = Scene(monkeypatch)
    scene.now += 30

    async def look():
        pulse = Pulse(1, asyncio.Event().wait, wanted_s=scene._wanted, clock=lambda: scene.now)
        scene.now += 30
        return await pulse.look(0.0)

    assert asyncio.run(look())[0] is Liveness.HUNG


def test_the_kernel_counts_what_a_process_wanted():
    before, deadline = read_wanted_s(os.getpid()), time.monotonic() + 10
    while read_wanted_s(os.getpid()) == before:  # it counts now and then
        assert time.monotonic() < deadline
    assert read_wanted_s(os.getpid()) > before
    assert read_wanted_s(1 << 30) == 0.0
