"""The pool over a warm parent that forks nothing: what it parks, gives, lets go of, and when."""

import asyncio
import json
import socket

import pytest

from hyper_kernel.errors import HostError, NotFoundError, RequestError
from hyper_kernel.host.memory import Memory
from hyper_kernel.limits import MAX_KEPT
from hyper_kernel.paths import Paths
from hyper_kernel.sandbox.plan import Shape
from hyper_kernel.sandbox.record import Record
from hyper_kernel.shim.demand import BURST_S, MAX_PARKED, MAX_RECENT, RECENT_S, Demand, Do, Step, decide
from hyper_kernel.shim.keep import Keep, KeepList, full_name
from hyper_kernel.shim.pool import BACKOFF_S, QUIET_S, Pool
from hyper_kernel.spec import SandboxSpec
from tests.fakes.hyperd import FakeImages, FakeShims
from tests.fakes.nursery import FakeNursery, FakeShapes

GIB = 1 << 30
PLENTY = (Memory(name="this host", total_bytes=24 * GIB, available_bytes=20 * GIB),)
TIGHT = (Memory(name="this host", total_bytes=24 * GIB, available_bytes=2 * GIB),)


def shape(image, *, memory_mib=512, kernel=None):
    return Shape(image_id=image, memory_mib=memory_mib, cpus=1, kernel=kernel)


A, B, C = (shape(image) for image in "abc")


@pytest.mark.parametrize(
    ("starts", "now_s", "targets"),
    [
        ([], 0, []),
        ([(0, A)], 1, [(A, 1)]),
        ([(0, A)], RECENT_S - 1, [(A, 1)]),
        ([(0, A)], RECENT_S, []),
        ([(0, A), (1, A), (2, A)], 3, [(A, 3)]),
        ([(0, A), (1, A), (2, A)], BURST_S + 3, [(A, 1)]),
        ([(0, A)] * 10, 1, [(A, MAX_RECENT)]),
        ([(0, A), (1, B)], 2, [(B, 1), (A, 1)]),
        ([(0, A)] * 9 + [(1, B)] * 9 + [(2, C)], 3, [(C, 1), (B, MAX_RECENT), (A, MAX_PARKED - MAX_RECENT - 1)]),
    ],
    ids=["none", "one", "recent", "long ago", "burst", "after a burst", "large burst", "two", "bounded in all"],
)
def test_how_many_are_wanted(starts, now_s, targets):
    demand = Demand()
    for at_s, wanted in starts:
        demand.note(wanted, at_s)
    assert list(demand.targets(now_s).items()) == targets


@pytest.mark.parametrize(
    ("targets", "parked", "baked", "memories", "step"),
    [
        ({}, {}, [], PLENTY, None),
        ({A: 1}, {}, [], PLENTY, (Do.BAKE, A)),
        ({A: 1}, {}, [A], PLENTY, (Do.PARK, A)),
        ({A: 1}, {A: 1}, [A], PLENTY, None),
        ({A: 2, B: 1}, {A: 1}, [A, B], PLENTY, (Do.PARK, A)),
        ({A: 1, B: 1}, {A: 1}, [A, B], PLENTY, (Do.PARK, B)),
        ({A: 1, B: 1}, {A: 1}, [A], PLENTY, (Do.BAKE, B)),
        ({A: 1}, {A: 2}, [A], PLENTY, (Do.RETIRE, A)),
        ({A: 1}, {B: 1}, [A], PLENTY, (Do.RETIRE, B)),
        ({A: 20, B: 20}, {A: 20}, [A, B], PLENTY, (Do.PARK, B)),
        ({A: 1}, {A: 1}, [A], TIGHT, (Do.RETIRE, A)),
        ({A: 1}, {A: 1, B: 1}, [A], TIGHT, (Do.RETIRE, B)),
        ({A: 1}, {}, [A], TIGHT, None),
        ({A: 1}, {}, [], TIGHT, None),
        ({shape("big", memory_mib=19 << 10): 1, A: 1}, {}, [A], PLENTY, (Do.PARK, A)),
        ({A: 1}, {}, [A], (*PLENTY, *TIGHT), None),
        ({A: 1}, {}, [A], (Memory(name="small", total_bytes=GIB, available_bytes=GIB * 9 // 10),), None),
        ({A: 1}, {}, [A], (Memory(name="small", total_bytes=2 * GIB, available_bytes=GIB * 8 // 5),), (Do.PARK, A)),
    ],
)
def test_the_next_step(targets, parked, baked, memories, step):
    assert decide(targets, parked, baked, iter(memories)) == (Step(*step) if step else None)


# -- what somebody asked to keep ------------------------------------------------------------------------------------


def test_wishes_outlive_hyperd_and_are_replaced(tmp_path):
    path = tmp_path / "pool.json"
    wishes = KeepList(path)
    assert wishes.all() == ()
    wishes.put(Keep(image="a", count=1))
    wishes.put(Keep(image="a", count=1, programs=True))
    wishes.put(Keep(image="a", count=3))
    assert KeepList(path).all() == (Keep(image="a", count=1, programs=True), Keep(image="a", count=3))
    wishes.put(Keep(image="a", count=0))
    wishes.put(Keep(image="b", count=0))
    assert KeepList(path).all() == wishes.all() == (Keep(image="a", count=1, programs=True),)


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", "{}", '[{"image": "a"}]', '["a"]', '[{"image": "a", "count": 99}]', '[{"count": 1, "new": 1}]'],
)
def test_a_damaged_list_of_wishes_is_none(tmp_path, content):
    path = tmp_path / "pool.json"
    path.write_text(content)
    wishes = KeepList(path)
    assert wishes.all() == ()
    wishes.put(Keep(image="a", count=1))
    assert json.loads(path.read_text())[0]["image"] == "a"


def test_a_wish_that_cannot_be_saved_changes_nothing(tmp_path):
    wishes = KeepList(tmp_path / "no folder" / "pool.json")
    with pytest.raises(HostError, match="cannot save"):
        wishes.put(Keep(image="a", count=1))
    assert wishes.all() == ()


def test_wishes_have_limits():
    assert Keep(count=MAX_KEPT).count == MAX_KEPT
    for wrong in ({"count": MAX_KEPT + 1}, {"count": -1}, {"count": 1, "memory_mib": 1}, {"count": 1, "cpus": 0}):
        with pytest.raises(RequestError, match="outside"):
            Keep(**wrong)


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("hyper/python", "hyper/python:latest"),
        ("hyper/python:latest", "hyper/python:latest"),
        ("python", "python:latest"),
        ("abab", "sha256:" + "ab" * 32),
        ("sha256:" + "ab" * 32, "sha256:" + "ab" * 32),
        ("gone", "gone:latest"),
        ("sha256:" + "cd" * 32, "sha256:" + "cd" * 32),
    ],
)
def test_images_are_called_by_their_full_names(ref, name):
    assert full_name(FakeImages(), ref) == name


def test_a_wish_for_programs_or_a_kernel_has_a_shape():
    assert Keep(count=1).shape(FakeImages()).kernel == "python3"
    assert Keep(count=1, programs=True).shape(FakeImages()).kernel is None
    with pytest.raises(NotFoundError, match="no image nowhere"):
        Keep(count=1, image="nowhere").shape(FakeImages())


# -- the pool -------------------------------------------------------------------------------------------------------


class Scene:
    """A pool and what it stands on, at a time that the test says."""

    def __init__(self, folder):
        self.nursery, self.shapes = FakeNursery(), FakeShapes()
        self.now_s, self.memory = 1000.0, PLENTY
        self.paths = Paths(data=folder / "data", state=folder, run=folder / "run", config=folder)
        self.pool = self.new_pool()

    def new_pool(self):
        return Pool(self.paths, self.nursery, shapes=self.shapes, memory=lambda: self.memory, clock=lambda: self.now_s)

    async def get(self, image):
        """Start a sandbox; the pid of its shim."""
        spec = SandboxSpec(image=image, memory_mib=512, cpus=1)
        record = Record(id=f"id-{image}", name=image, spec=spec, image_id=image, created_s=0.0)
        with socket.socket(socket.AF_UNIX) as listener:
            return await self.pool.get(record, listener)

    async def step(self):
        """Let it be quiet for a while, then take a step."""
        self.now_s += QUIET_S
        return await self.pool.step()

    async def steps(self):
        """All steps there are to take now; what was ordered by them."""
        before = len(self.nursery.asked)
        while await self.step():
            pass
        return self.nursery.asked[before:]

    async def park(self, image="a"):
        """Have one clone parked for an image that is used; its process."""
        self.shapes.bake(shape(image), f"key-{image}")
        await self.get(image)
        assert await self.steps() == [("park", image)]
        return self.nursery.processes[-1]


def play(work):
    """Decorate an async test that takes a scene."""

    def test(tmp_path):
        async def run():
            scene = Scene(tmp_path)
            await work(scene)
            await scene.pool.close()
            assert all(process.is_let_go for process in scene.nursery.processes if process.order["do"] != "run")

        asyncio.run(run())

    test.__name__ = work.__name__
    return test


@play
async def test_what_was_wanted_is_parked_and_the_next_start_claims_it(scene):
    parked = await scene.park("a")
    assert (scene.pool.parked, parked.order["template"]) == (1, "key-a")
    assert await scene.get("a") == parked.pid
    claim, (fd,) = parked.take()
    assert claim == {"id": "id-a"}
    assert socket.socket(fileno=fd).family is socket.AF_UNIX
    assert scene.pool.parked == 0
    assert await scene.steps() == [("park", "a"), ("park", "a")]


@play
async def test_other_shapes_get_a_new_shim_with_their_template_at_hand(scene):
    parked = await scene.park("a")
    scene.shapes.bake(B, "key-b")
    assert await scene.get("b") != parked.pid
    assert scene.nursery.asked[-1] == ("run", "key-b")
    assert scene.pool.parked == 1
    assert await scene.get("c") != parked.pid
    assert scene.nursery.asked[-1] == ("run", "")


@play
async def test_a_start_without_its_image_is_left_to_a_shim_that_says_so(scene):
    scene.shapes.gone.add("a")
    await scene.get("a")
    assert scene.nursery.asked == [("run", "")]
    assert scene.pool.describe() == []


@play
async def test_nothing_is_parked_right_after_a_start(scene):
    scene.shapes.bake(A, "key-a")
    await scene.get("a")
    for _ in range(3):
        assert not await scene.pool.step()
        scene.now_s += QUIET_S / 4
    await scene.get("a")
    scene.now_s += QUIET_S / 2
    assert not await scene.pool.step()
    scene.now_s += QUIET_S / 2
    assert await scene.pool.step()
    assert scene.nursery.asked[-1] == ("park", "a")


@play
async def test_a_template_is_baked_where_there_is_none(scene):
    scene.nursery.answers["bake"] = None
    await scene.get("a")
    scene.now_s += QUIET_S
    baking = asyncio.create_task(scene.pool.step())
    while ("bake", "a") not in scene.nursery.asked:
        await asyncio.sleep(0)
    scene.nursery.processes[-1].answer({"doing": "starting its kernel"})
    while not scene.pool.describe()[0]["doing"]:
        await asyncio.sleep(0)
    assert scene.pool.describe()[0]["doing"] == "starting its kernel"
    scene.shapes.bake(A, "key-a")
    scene.nursery.processes[-1].answer({"baked": "key-a"})
    assert await baking
    assert scene.pool.describe()[0]["doing"] == ""
    assert scene.nursery.processes[-1].is_let_go
    assert await scene.steps() == [("park", "a")]


@play
async def test_a_template_without_the_kernel_is_not_enough_to_park(scene):
    wanted = shape("a", kernel="python3")
    scene.shapes.templates[wanted] = scene.shapes.templates.get(A)
    scene.shapes.bake(A, "key-a")
    scene.shapes.templates[wanted] = scene.shapes.templates[A]
    await scene.pool.keep(Keep(image="a", count=1))
    assert await scene.step()
    assert scene.nursery.asked == [("bake", "a")]


@play
async def test_steps_are_taken_one_at_a_time_and_for_the_latest_shape_first(scene):
    for image in "ab":
        scene.shapes.bake(shape(image), f"key-{image}")
    for image in "aab":
        await scene.get(image)
    assert await scene.steps() == [("park", "b"), ("park", "a"), ("park", "a")]
    scene.now_s += BURST_S
    assert await scene.steps() == []
    assert [(row["image_id"], row["parked"]) for row in scene.pool.describe()] == [("b", 1), ("a", 1)]
    scene.now_s += RECENT_S
    assert await scene.steps() == []
    assert scene.pool.describe() == []


@play
async def test_a_stale_one_is_replaced(scene):
    old = await scene.park("a")
    scene.shapes.bake(A, "new key")
    assert await scene.steps() == [("park", "a")]
    assert old.is_let_go
    new = scene.nursery.processes[-1]
    assert (new.order["template"], scene.pool.parked) == ("new key", 1)


@play
async def test_a_stale_one_is_never_given(scene):
    old = await scene.park("a")
    scene.shapes.bake(A, "new key")
    assert await scene.get("a") != old.pid
    assert scene.nursery.asked[-1] == ("run", "new key")
    assert old.is_let_go


@play
async def test_what_has_lost_its_image_goes_and_the_others_stay(scene):
    lost, stays = await scene.park("a"), await scene.park("b")
    scene.shapes.gone.add("a")
    assert await scene.steps() == []
    assert lost.is_let_go
    assert not stays.is_let_go
    scene.shapes.gone.clear()
    assert await scene.steps() == [("park", "a")]


@play
async def test_one_that_died_is_forgotten_and_replaced(scene):
    died = await scene.park("a")
    died.die()
    while scene.pool.parked:
        await asyncio.sleep(0)
    assert await scene.steps() == [("park", "a")]


@play
async def test_a_start_takes_another_where_one_has_just_died(scene):
    scene.shapes.bake(A, "key-a")
    await scene.get("a")
    await scene.get("a")
    assert await scene.steps() == [("park", "a")] * 2
    first, second = scene.nursery.processes[-2:]
    first.die()
    assert await scene.get("a") == second.pid
    second.die()
    assert await scene.get("a") == scene.nursery.processes[-1].pid
    assert scene.nursery.asked[-1] == ("run", "key-a")


@play
async def test_a_shape_that_fails_is_left_alone_for_longer_each_time(scene):
    scene.shapes.bake(A, "key-a")
    scene.nursery.answers["park"] = {"failed": "it has no kernel"}
    await scene.get("a")
    assert await scene.steps() == [("park", "a")]
    assert scene.pool.describe()[0]["problem"] == "it has no kernel"
    scene.nursery.answers["park"] = {"parked": True}
    assert (await scene.park("b")).order["template"] == "key-b"
    scene.nursery.answers["park"] = {"failed": "it has no kernel"}
    scene.now_s += BACKOFF_S
    assert await scene.steps() == [("park", "a")]
    scene.now_s += BACKOFF_S
    assert await scene.steps() == []
    scene.now_s += BACKOFF_S
    scene.nursery.answers["park"] = {"parked": True}
    assert await scene.steps() == [("park", "a")]
    assert scene.pool.describe()[-1]["problem"] == ""


@play
async def test_what_is_parked_stays_when_another_of_its_shape_fails(scene):
    parked = await scene.park("a")
    scene.nursery.answers["park"] = None
    await scene.pool.keep(Keep(image="a", count=2, programs=True))
    scene.now_s += QUIET_S
    parking = asyncio.create_task(scene.pool.step())
    while scene.nursery.processes[-1] is parked:
        await asyncio.sleep(0)
    (row,) = scene.pool.describe()
    assert {"parked": 1, "warming": 1, "target": 2, "kept": 2, "image": "a:latest"}.items() <= row.items()
    scene.nursery.processes[-1].die()
    assert await parking
    assert scene.pool.describe()[0]["problem"] == "its process was killed"
    assert await scene.steps() == []
    assert not parked.is_let_go


@play
async def test_a_bake_that_fails_is_no_end(scene):
    scene.nursery.answers["bake"] = {"failed": "no space"}
    await scene.get("a")
    assert await scene.steps() == [("bake", "a")]
    scene.now_s += BACKOFF_S
    assert await scene.steps() == [("bake", "a")]


@play
async def test_a_warm_parent_that_fails_is_no_end(scene):
    scene.shapes.bake(A, "key-a")
    await scene.get("a")
    scene.nursery.broken = True
    assert await scene.steps() == []
    assert scene.pool.describe()[0]["problem"] == "no shim could be started"
    scene.nursery.broken = False
    scene.now_s += BACKOFF_S
    assert await scene.steps() == [("park", "a")]


@play
async def test_little_memory_lets_go_of_one_after_another(scene):
    scene.shapes.bake(A, "key-a")
    await scene.get("a")
    await scene.get("a")
    assert await scene.steps() == [("park", "a")] * 2
    scene.memory = TIGHT
    assert await scene.step()
    assert scene.pool.parked == 1
    scene.memory = PLENTY
    assert await scene.steps() == [("park", "a")]
    scene.memory = TIGHT
    assert await scene.steps() == []
    assert scene.pool.parked == 0


@play
async def test_what_somebody_asked_for_is_kept_also_by_the_next_pool(scene):
    scene.shapes.bake(A, "key-a")
    await scene.pool.keep(Keep(image="a", count=3, programs=True))
    assert scene.pool.is_kept
    assert await scene.steps() == [("park", "a")] * 3
    await scene.pool.close()
    scene.pool = scene.new_pool()
    assert (scene.pool.is_kept, scene.pool.parked) == (True, 0)
    assert await scene.steps() == [("park", "a")] * 3
    await scene.pool.keep(Keep(image="a", count=0, programs=True))
    assert await scene.steps() == []
    assert (scene.pool.is_kept, scene.pool.parked, scene.pool.describe()) == (False, 0, [])


@play
async def test_a_wish_whose_image_is_gone_waits_and_can_be_taken_back(scene):
    await scene.pool.keep(Keep(image="a", count=1))
    scene.shapes.gone.add("a")
    assert not scene.pool.is_kept
    (row,) = scene.pool.describe()
    assert (row["image"], row["kept"], row["target"], row["problem"]) == ("a", 1, 0, "there is no image a")
    assert await scene.steps() == []
    with pytest.raises(NotFoundError):
        await scene.pool.keep(Keep(image="a", count=2))
    scene.shapes.gone.clear()
    assert scene.pool.is_kept
    scene.shapes.gone.add("a")
    await scene.pool.keep(Keep(image="a", count=0))
    assert scene.pool.describe() == []


@play
async def test_asking_again_tries_again_what_has_failed(scene):
    scene.shapes.bake(A, "key-a")
    scene.nursery.answers["park"] = {"failed": "busy"}
    await scene.pool.keep(Keep(image="a", count=1, programs=True))
    assert await scene.steps() == [("park", "a")]
    await scene.pool.keep(Keep(image="a", count=1, programs=True))
    assert await scene.steps() == [("park", "a")]


@play
async def test_closing_lets_all_go_the_one_on_its_way_too(scene):
    parked = await scene.park("a")
    scene.nursery.answers["park"] = None
    scene.shapes.bake(B, "key-b")
    await scene.pool.start()
    assert scene.nursery.state == "started"
    await scene.get("b")
    scene.now_s += QUIET_S
    await scene.pool.keep(Keep(image="b", count=1, programs=True))  # wakes it
    while ("park", "b") not in scene.nursery.asked:
        await asyncio.sleep(0)
    await scene.pool.close()
    assert parked.is_let_go
    assert scene.nursery.processes[-1].is_let_go
    assert scene.nursery.state == "closed"


@play
async def test_folders_of_clones_that_were_killed_are_swept(scene):
    for name in (str(1 << 23), "nonsense", "1"):
        (scene.paths.parked / name).mkdir(parents=True)
    await scene.pool.start()
    assert [folder.name for folder in scene.paths.parked.iterdir()] == ["1"]


@play
async def test_the_fake_pool_of_the_fake_hyperd_says_the_same(scene):
    fake = FakeShims(FakeImages())
    wish = Keep(image="hyper/python", count=2)
    scene.shapes.bake(scene.shapes.of_wish(wish), "key")
    seen = []
    for pool in (scene.pool, fake):
        assert (pool.is_kept, pool.parked, pool.describe()) == (False, 0, [])
        await pool.keep(wish)
        await scene.steps()
        (row,) = pool.describe()
        seen.append({name: value for name, value in row.items() if name not in ("image", "image_id")})
        assert (pool.is_kept, pool.parked) == (True, 2)
        await pool.keep(Keep(image="hyper/python", count=0))
        await scene.steps()
        assert (pool.is_kept, pool.parked, pool.describe()) == (False, 0, [])
    assert seen[0] == seen[1]
