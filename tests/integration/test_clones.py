"""Two clones of a template in which a kernel runs: what they would share, and that they do not.

Each hazard is shown twice. Two clones that were told the template's own identity hand out the same value, so the hazard
is real; two that took their own differ. The template's kernel was used before it was saved (``PREAMBLE``), which no
template of a user's ever was: that is the worst that a library could do while a kernel starts.
"""

import ast
import asyncio
import json
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from hyper_kernel.errors import GuestError
from hyper_kernel.hypervisor import Tier
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu.driver import Qemu
from hyper_kernel.sandbox import kernel as kernel_module
from hyper_kernel.sandbox.kernel import open_client, resync_kernel
from hyper_kernel.sandbox.plan import plan_boot, plan_image, plan_shapes
from hyper_kernel.sandbox.source import ColdSource
from hyper_kernel.shim.kernel import Kernel
from hyper_kernel.shim.parked import Parked
from hyper_kernel.spec import DEFAULT_IMAGE, KernelSpec, Limits
from hyper_kernel.template.bake import BakedKernel, bake
from hyper_kernel.template.source import TemplateSource
from hyper_kernel.template.store import TemplateStore
from hyper_kernel.vsock.probe import open_end

NAMES = ("ada", "bob")
ZONES = {"ada": "AAA-9", "bob": "BBB+5"}
#: How long a cell may take, in seconds.
CELL_S = 120

PREAMBLE = """
import ctypes, email.utils, multiprocessing, os, platform, random, secrets, socket, sqlite3, ssl, tempfile, time, uuid
import numpy
libc = ctypes.CDLL(None)
def draw_sqlite():
    return sqlite3.connect(":memory:").execute("select random()").fetchone()[0]
random.gauss(0, 1), numpy.random.standard_normal()  # both keep a second value for the next call
random.random(), numpy.random.rand(), numpy.random.default_rng(), uuid.uuid1(), uuid.uuid4(), uuid.getnode()
tempfile.mktemp(), tempfile.gettempdir(), ssl.RAND_bytes(16), secrets.token_hex(), email.utils.make_msgid("x")
platform.node(), multiprocessing.current_process().authkey, libc.rand(), draw_sqlite()
kept = random.Random(os.urandom(32))  # a generator of somebody's own
machine_id = open("/etc/machine-id").read()
os.mkdir("/tmp/proc")
libc.mount(b"proc", b"/tmp/proc", b"proc", 0, None)
boot_id = open("/tmp/proc/sys/kernel/random/boot_id").read(), open("/proc/sys/kernel/random/boot_id").read()
"""

#: What a kernel draws from what it holds in memory: what to call it, and how to get it.
HELD = {
    "random": "random.random()",
    "second value of random.gauss": "random.gauss(0, 1)",
    "numpy.random": "numpy.random.rand()",
    "second value of numpy.random.standard_normal": "numpy.random.standard_normal()",
    "uuid1 but for its time": "[uuid.uuid1().node, uuid.uuid1().clock_seq]",
    "node of this machine": "uuid.getnode()",
    "names of temporary files": "tempfile.mktemp()",
    "OpenSSL": "ssl.RAND_bytes(16).hex()",
    "authkey of multiprocessing": "bytes(multiprocessing.current_process().authkey).hex()",
    "rand of C": "libc.rand()",
    "random of SQLite": "draw_sqlite()",
    "session of messages": "get_ipython().kernel.session.session",
    "ids of messages": "get_ipython().kernel.session.msg('status')['header']['msg_id']",
    "ident of the kernel": "get_ipython().kernel.ident",
    "topic of results": "str(get_ipython().displayhook.topic)",
    "platform.node": "platform.node()",
    "socket.gethostname": "socket.gethostname()",
}

#: What comes from the guest's kernel each time. Whether clones that were told the same entropy repeat it is a matter of
#: luck (the timing of interrupts, and QEMU's vmgenid, on which Linux reseeds): only that they differ can be tested.
FRESH = {
    "os.urandom": "os.urandom(16).hex()",
    "secrets": "secrets.token_hex()",
    "uuid4": "str(uuid.uuid4())",
    "numpy.random.default_rng": "numpy.random.default_rng().random()",
    "random in a new Python": "os.popen('python3 -c \"import random; print(random.random())\"').read()",
    "/etc/machine-id": "open('/etc/machine-id').read()",
    "boot_id": "open('/proc/sys/kernel/random/boot_id').read()",
}

OTHER = {
    "time": "time.time()",
    "monotonic": "time.monotonic()",
    "WHO": "os.environ.get('WHO')",
    "cwd": "os.getcwd()",
    "zone": "[time.strftime('%Z'), time.strftime('%z')]",
    "hash": "hash('abc')",
    "kept": "kept.random()",
    "template's machine id": "machine_id",
    "template's boot ids": "boot_id",
    "boot_id under it": "open('/tmp/proc/sys/kernel/random/boot_id').read()",
}


async def ask(agent, key, code, expression="None"):
    """Run code in a kernel, past its user's history; what a JSON-able expression is worth then."""
    content = {
        "code": code,
        "silent": False,
        "store_history": False,
        "user_expressions": {"asked": f"__import__('json').dumps({expression})"},
        "allow_stdin": False,
        "stop_on_error": False,
    }
    async with open_client(agent, key) as client:
        reply = await client.request("execute_request", content, deadline_s=CELL_S)
    assert reply["status"] == "ok", reply
    asked = reply["user_expressions"]["asked"]
    assert asked["status"] == "ok", asked
    return json.loads(ast.literal_eval(asked["data"]["text/plain"]))


class UsedBoots(ColdSource):
    """Boots machines whose kernel is used before their agent's host lets go of it: before they are saved, that is."""

    def __init__(self, key):
        super().__init__(Qemu(), open_end)
        self._key = key
        self.used_ns = 0

    @asynccontextmanager
    async def start(self, *args, **options):
        async with super().start(*args, **options) as guest:
            close = guest.agent.close

            async def use_and_close():
                if not self.used_ns:
                    await ask(guest.agent, self._key, PREAMBLE)
                    self.used_ns = time.time_ns()
                await close()

            guest.agent.close = use_and_close
            yield guest


class Used:
    """The template of a kernel that was used, and how to start clones of it.

    :param folder: for whatever it needs.
    """

    def __init__(self, folder):
        paths = find_paths()
        images = ImageStore(paths.images)
        image = images.get(DEFAULT_IMAGE)
        self.kernel = plan_shapes(images, image, memory_mib=512, cpus=1)[-1].kernel
        self.image = plan_image(image.config)
        self.config = asyncio.run(plan_boot(paths, image, memory_mib=512, cpus=1, name="clones-test"))
        self.folder = folder
        self._store = TemplateStore(folder)
        baked = BakedKernel(self.kernel, self.image)
        boots = UsedBoots(baked.key)
        self.template = asyncio.run(bake(boots, self._store, self.config, kernel=baked))
        self.used_ns = boots.used_ns
        self.source = TemplateSource(ColdSource(Qemu(), open_end), self._store)

    @asynccontextmanager
    async def start(self, name):
        """A clone that has met its host, no more."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        async with self.source.start(self.config, folder, lambda event: None, self.kernel) as guest:
            assert guest.kernel_key == self.template.kernel_key
            yield guest

    async def keep_identity(self, guest):
        """Have the guest take the template's identity again: its time, its name, and entropy that is no secret.

        It serves nothing, its kernel included, before it has taken one.
        """
        await guest.agent.request(
            "resync",
            time_ns=self.used_ns,
            entropy=bytes(64).hex(),
            hostname="template",
            scratch_mib=0,
            processes=0,
            image=self.image,
        )

    async def take_identity(self, guest, name):
        """Have guest and kernel take their own, as a start does."""
        await guest.agent.resync(hostname=name, scratch_mib=0, image=self.image)
        env = {"WHO": name, "TZ": ZONES[name]}
        await resync_kernel(guest.agent, guest.kernel_key, env=env, cwd=f"/work/{name}")


@pytest.fixture(scope="module")
def used(shared_data, tmp_path_factory):
    return Used(tmp_path_factory.mktemp("clones"))


@pytest.fixture(scope="module")
def values(used):
    """What clones find, with the template's identity (``same``) and with their own (``own``): all four live at once."""
    expressions = HELD | FRESH | OTHER
    expression = f"{{{', '.join(f'{name!r}: {code}' for name, code in expressions.items())}}}"

    async def look(guest):
        before_s = time.time()
        found = await ask(guest.agent, guest.kernel_key, "", expression)
        return found | {"asked": before_s, "answered": time.time()}

    async def look_everywhere():
        same, own = [], []
        async with AsyncExitStack() as stack:
            for name in NAMES:
                guest = await stack.enter_async_context(used.start(f"same-{name}"))
                await used.keep_identity(guest)
                same.append(await look(guest))
            for name in NAMES:
                guest = await stack.enter_async_context(used.start(name))
                await used.take_identity(guest, name)
                own.append(await look(guest))
        return {"same": same, "own": own}

    return asyncio.run(look_everywhere())


@pytest.fixture
def same(values):
    return values["same"]


@pytest.fixture
def own(values):
    return values["own"]


@pytest.mark.parametrize("what", HELD)
def test_what_a_kernel_holds_is_its_own(same, own, what):
    assert same[0][what] == same[1][what], "this would be no hazard: the test proves nothing"
    assert own[0][what] != own[1][what]
    assert same[0][what] not in (own[0][what], own[1][what])


@pytest.mark.parametrize("what", FRESH)
def test_what_comes_from_the_guests_kernel_differs(own, what):
    assert own[0][what]
    assert own[0][what] != own[1][what]


def test_machine_id_and_boot_id_are_not_the_templates(same, own):
    for each in own:
        assert each["/etc/machine-id"] != each["template's machine id"]
        assert each["boot_id"] not in each["template's boot ids"]
    # The kernel's own boot id was drawn in the template, and stays for good: the hazard, below what is mounted over it.
    (drawn,) = {each["boot_id under it"] for each in (*same, *own)}
    assert drawn == same[0]["template's boot ids"][0]


def test_the_clock_stands_still_in_a_template_and_is_right_in_a_clone(same, own):
    first, second = same
    passed_s = second["answered"] - first["answered"]
    for clock in ("time", "monotonic"):
        # The second clone started after the first had answered. Had its clock run on, all that time would show.
        assert second[clock] - first[clock] < passed_s
    for each in own:
        assert each["asked"] - 2 < each["time"] < each["answered"] + 2


def test_environment_folder_and_zone_are_its_own(same, own):
    for each in same:
        assert (each["WHO"], each["cwd"], each["zone"]) == (None, "/work", ["UTC", "+0000"])
    assert [each["WHO"] for each in own] == list(NAMES)
    assert [each["cwd"] for each in own] == ["/work/ada", "/work/bob"]
    assert [each["zone"] for each in own] == [["AAA", "+0900"], ["BBB", "-0500"]]


def test_what_cannot_be_renewed_is_shared_as_security_md_says(own):
    assert own[0]["hash"] == own[1]["hash"]
    assert own[0]["kept"] == own[1]["kept"]


# A kernel that does not take its identity


def sockets(folder):
    return [path for path in folder.rglob("*") if path.is_socket()]


async def refuse(guest, folder, match):
    """Start the kernel of a guest, in vain: there is no way in then."""
    kernel = Kernel(guest, KernelSpec(key="the clients'", files="none"), Limits())
    try:
        with pytest.raises(GuestError, match=match):
            await kernel.start("python3", folder / "k")
        assert sockets(folder) == []
    finally:
        await kernel.close()


def test_nobody_reaches_a_kernel_that_does_not_take_its_identity(used, tmp_path, monkeypatch):
    async def attempt():
        async with used.start("stubborn") as guest:
            await used.keep_identity(guest)
            # It fails at that, and says so.
            await ask(guest.agent, guest.kernel_key, "import os; chdir, os.chdir = os.chdir, None")
            await refuse(guest, tmp_path, "not callable")
            await ask(guest.agent, guest.kernel_key, "os.chdir = chdir")
            # It has another key: it drops what is not signed with its own, and answers nothing.
            monkeypatch.setattr(kernel_module, "_ANSWER_S", 1.0)
            monkeypatch.setattr(kernel_module, "LISTEN_S", 1.0)
            await refuse(replace(guest, kernel_key=kernel_module.new_key()), tmp_path, "did not answer .* within 1 s")
            # It hangs.
            await guest.agent.request("kernel.signal", signal=signal.SIGSTOP)
            await refuse(guest, tmp_path, "did not .* within")
            # It is gone.
            await guest.agent.request("kernel.signal", signal=signal.SIGKILL)
            await refuse(guest, tmp_path, None)

    asyncio.run(attempt())


def test_what_was_parked_is_not_used_for_another_machine(used, tmp_path):
    config = used.config
    others = [
        replace(config, memory_mib=1024),
        replace(config, cpus=2),
        replace(config, tier=Tier.HARDWARE),
        replace(config, cmdline=f"{config.cmdline} quiet"),
        replace(config, kernel=tmp_path / "vmlinuz"),
        replace(config, initrd=tmp_path / "initrd"),
        replace(config, disks=config.disks[::-1]),
    ]

    async def attempt():
        parked = Parked(config, used.kernel)
        assert await parked.wake(config, tmp_path, lambda event: None, used.kernel) is None
        async with used.start("parked") as guest:
            await parked.warm(guest, used.image, 0)
            await parked.rest()
            for other in others:
                assert await parked.wake(other, tmp_path, lambda event: None, used.kernel) is None
            for kernel in ("another", None):
                assert await parked.wake(config, tmp_path, lambda event: None, kernel) is None
            woken = await parked.wake(replace(config, name="mine"), tmp_path, lambda event: None, used.kernel)
            assert woken.machine is guest.machine
            if woken.ports:
                await woken.ports.close()

    asyncio.run(attempt())
