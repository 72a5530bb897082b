"""Cells and sandboxes that go over their limits, with the cells as the firewall counts them."""

import asyncio

import pytest

from hyper_kernel.channels.cells import Cells
from hyper_kernel.errors import LostError
from hyper_kernel.sandbox.death import Death
from hyper_kernel.shim import limits as limits_module
from hyper_kernel.shim.limits import MAX_VIOLATIONS, Patience, hold_cells, wait_wall
from hyper_kernel.spec import Limits

_PATIENCE_S = 10.0


class Scene:
    """A kernel that hears interrupts, and what its people are told."""

    def __init__(self, monkeypatch, limits, *, heeds):
        monkeypatch.setattr(limits_module, "_GRACE_S", 0.05)
        self.cells = Cells(limits.output_bytes)
        self.said = []
        self.interrupts = 0
        self._limits = limits
        self._heeds = heeds
        self._told = asyncio.Event()

    def ask(self, msg_id):
        self.cells.ask({"msg_id": msg_id}, None)

    async def interrupt(self):
        self.interrupts += 1
        if self._heeds:
            self.cells.end(self.cells.current.msg_id)

    async def say(self, text):
        self.said.append(text)
        self._told.set()

    async def told(self):
        await self._told.wait()
        self._told.clear()

    def hold(self):
        return asyncio.create_task(hold_cells(self.cells, self._limits, self.interrupt, self.say))


def play(scene):
    async def bounded():
        async with asyncio.timeout(_PATIENCE_S):
            return await scene()

    return asyncio.run(bounded())


def test_a_cell_that_heeds_its_interrupt_costs_nothing_but_itself(monkeypatch):
    async def scene():
        scene = Scene(monkeypatch, Limits(cell_s=0.02), heeds=True)
        holding = scene.hold()
        for number in range(2):
            scene.ask(f"cell {number}")
            await scene.told()
        assert not holding.done()
        holding.cancel()
        return scene

    scene = play(scene)
    assert scene.interrupts == 2
    assert scene.said == ["[cell limit: the cell ran for 0.02 s, as long as it may, and was interrupted]"] * 2


def test_a_cell_that_does_not_is_the_end(monkeypatch):
    async def scene():
        scene = Scene(monkeypatch, Limits(cell_s=0.02), heeds=False)
        scene.ask("endless")
        return await scene.hold()

    cause = play(scene)
    assert cause.death is Death.CELL_LIMIT
    assert cause.reason.startswith("cell limit: the cell ran for 0.02 s")


def test_time_counts_from_when_a_cell_began_to_run(monkeypatch):
    async def scene():
        scene = Scene(monkeypatch, Limits(cell_s=1000), heeds=False)
        holding = scene.hold()
        scene.ask("first")
        scene.ask("second")
        waiting = scene.cells.waiting[1]
        assert waiting.began_s == 0.0
        scene.cells.end("first")
        assert waiting.began_s > 0.0
        await asyncio.sleep(0)
        holding.cancel()
        return scene.interrupts

    assert play(scene) == 0


def test_a_guest_that_cannot_be_interrupted_is_the_end_too(monkeypatch):
    async def scene():
        scene = Scene(monkeypatch, Limits(cell_s=0.02), heeds=False)

        async def lost():
            raise LostError("the guest did not answer")

        scene.interrupt = lost
        scene.ask("endless")
        return await scene.hold()

    assert play(scene).death is Death.CELL_LIMIT


def test_a_cell_that_shows_too_much_may_live_if_it_stops_showing(monkeypatch):
    async def scene():
        scene = Scene(monkeypatch, Limits(output_bytes=1000), heeds=False)
        holding = scene.hold()
        scene.ask("loud")
        scene.cells.charge(1001)
        await scene.told()
        await asyncio.sleep(0.2)  # four times its grace: that nothing happens has no event
        assert not holding.done()
        scene.cells.charge(2500)
        return await holding, scene.said

    cause, said = play(scene)
    assert cause.death is Death.OUTPUT_LIMIT
    assert said == ["[output limit: the cell has shown 0.000954 MiB, as much as it may, and was interrupted]"]


def test_the_wall_limit():
    cause = play(lambda: wait_wall(0.01))
    assert (cause.death, cause.reason) == (Death.WALL_LIMIT, "wall limit: it ran for 0.01 s, as long as it may")


@pytest.mark.parametrize(("every_s", "ends"), [(1.0, True), (60.0, False)])
def test_rules_are_broken_by_mishap_or_on_purpose(every_s, ends):
    """SECURITY: each time costs the host a connection; who does nothing else is ended."""
    now = iter(number * every_s for number in range(100))
    patience = Patience(lambda: next(now))
    causes = [patience.take("shell: garbage") for _ in range(MAX_VIOLATIONS)]
    assert causes[:-1] == [None] * (MAX_VIOLATIONS - 1)
    assert (causes[-1] is not None and causes[-1].death is Death.VIOLATION) == ends
