"""What a server knows and a guest must not: tokens, keys, names and paths of the host, in whatever way it starts."""

import json
import os
import socket
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.host.memory import read_memory
from hyper_kernel.jupyter import kernelspec
from hyper_kernel.paths import find_paths
from hyper_kernel.shim.demand import is_tight
from tests.fakes.fixtures import wait_until
from tests.integration.conftest import assert_nothing_lives, show_logs

#: What each canary begins with. Cells put it together themselves: what they look for must not be in the guest by them.
_MARK = "hkcanary"
#: Variables that a server may have, beside those that name it.
_VARIABLES = (
    *("JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "JUPYTER_TOKEN", "JPY_SESSION_NAME", "CONFIGPROXY_AUTH_TOKEN"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET", "GITHUB_TOKEN"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "SSH_AUTH_SOCK", "DOCKER_HOST", "OPENAI_API_KEY", "HF_TOKEN", "PGPASSWORD"),
    *("KUBECONFIG", "VIRTUAL_ENV", "OLDPWD", "PWD", "MAIL", "LOGNAME", "USER", "HOSTNAME", "XAUTHORITY"),
)
START_S, CELL_S, BAKE_S = 180, 120, 240

#: Where in a guest the mark stands: in what processes are told, and in files that were written since its image.
LOOK = """
import json, os
mark, found = ("hkc" + "anary").encode(), []
def look(path):
    try:
        with open(path, "rb") as file:
            if mark in file.read(64 << 20):
                found.append(path)
    except OSError:
        pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline", "comm", "mountinfo"):
        look(f"/proc/{pid}/{name}")
for name in ("cmdline", "mounts", "sys/kernel/hostname", "sys/kernel/domainname"):
    look(f"/proc/{name}")
guest = "/proc/1/root"
for top in ("/work", "/tmp", "/run", "/var/tmp", f"{guest}/scratch", f"{guest}/run", f"{guest}/tmp"):
    for folder, folders, names in os.walk(top):
        found += [os.path.join(folder, name) for name in folders + names if mark.decode() in name]
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                look(path)
        owners = {(os.lstat(os.path.join(folder, name)).st_uid) for name in names}
        if folder.startswith("/work") and owners - {0}:
            found.append(f"{folder} has owners {owners}")
key = json.load(open("/run/hyper/kernel.json"))["key"]
print(json.dumps({"found": found, "work": os.listdir("/work"), "environment": list(os.environ), "key": key}))
"""


class Canaries:
    """Words that are nowhere else, by what they stand in."""

    def __init__(self):
        self.words = {}

    def new(self, name):
        return self.words.setdefault(name, f"{_MARK}{os.urandom(8).hex()}")

    def find(self, data):
        """Which of them stand in some bytes, also as UTF-16."""
        likely = {code for code in ("ascii", "utf-16-le") if _MARK.encode(code) in data}
        return [
            name
            for name, word in self.words.items()
            if any(word.encode(code) in data for code in (likely if word.startswith(_MARK) else ("ascii",)))
        ]


@pytest.fixture(scope="module")
def canaries():
    return Canaries()


@pytest.fixture(scope="module")
def folder(canaries, tmp_path_factory):
    """A notebook's folder, whose path tells of a user, with things in it that are not for guests."""
    home = tmp_path_factory.mktemp(canaries.new("user's name"))
    folder = home / canaries.new("notebook's folder") / "analysis"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "config").write_text(f"url = https://me:{canaries.new('token in .git/config')}@example.org/x")
    (folder / ".env").write_text(f"SECRET={canaries.new('file .env')}")
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id_ed25519").write_text(canaries.new("private key"))
    (folder / "key").symlink_to(home / ".ssh" / "id_ed25519")
    (folder / "numbers.txt").write_text("1 2 3")
    return folder


@pytest.fixture(scope="module")
def home(shared_data, canaries, folder, tmp_path_factory):
    """A ``HYPER_HOME`` without templates, in an environment full of secrets."""
    root = tmp_path_factory.mktemp(canaries.new("hyperd's folder"))
    (root / "data").mkdir()
    for name in ("guest", "images", "tier.json"):
        (root / "data" / name).symlink_to(shared_data / name)
    with pytest.MonkeyPatch.context() as patch:
        for name in _VARIABLES:
            patch.setenv(name, canaries.new(name))
        patch.setenv("DATABASE_URL", f"postgresql://me:{canaries.new('password in an URL')}@db.example.org/x")
        patch.setenv("HOME", str(folder.parent.parent))
        patch.setenv("HYPER_HOME", str(root))
        patch.setenv("JUPYTER_DATA_DIR", str(root / "jupyter"))
        patch.setenv("IPYTHONDIR", str(root / "ipython"))
        kernelspec.install()
        paths = find_paths()
        try:
            yield root
        finally:
            for sandbox in Client().sandboxes(everything=True):
                Client().remove(sandbox.id, force=True)
            stop_daemon(paths)
            show_logs(paths)
            assert_nothing_lives(root, paths)


@contextmanager
def start(canaries, folder):
    manager = KernelManager(kernel_name="hyper-python")
    canaries.words[f"clients' key of {id(manager)}"] = manager.session.key.decode()
    manager.start_kernel(cwd=str(folder))
    try:
        yield manager
    finally:
        manager.shutdown_kernel(now=True)


def test_no_guest_knows_the_hosts_secrets(home, canaries, folder):
    """From power-on, restarted, from a template, and parked: one after the other, since each leads to the next."""
    with ExitStack() as stack:
        manager = stack.enter_context(start(canaries, folder))
        check(manager, canaries, "from power-on")
        manager.restart_kernel(now=True)
        check(manager, canaries, "restarted")
    check_templates(canaries)
    if is_tight(read_memory()):
        pytest.skip("hyperd parks nothing on a host with so little memory")
    wait_until(lambda: Client().status()["parked"], BAKE_S)
    parked = {path.name for path in find_paths().parked.iterdir()}
    check_templates(canaries)
    with start(canaries, folder) as manager:
        assert str(record_of(manager).shim_pid) in parked
        check(manager, canaries, "parked")
        with start(canaries, folder) as another:
            check(another, canaries, "from a template")


def check(manager, canaries, how):
    """Look for every canary, first from outside, before a cell runs that knows what they begin with."""
    record = record_of(manager)
    for what in ("environ", "cmdline"):
        assert canaries.find(read_of(record.qemu_pid, what)) == [], f"{how}: QEMU's {what}"
    console = (find_paths().sandboxes / record.id / "console.log").read_bytes()
    assert canaries.find(console) == [], f"{how}: the console"
    own_name = socket.gethostname()
    said = run_cells(manager, [LOOK, "%connect_info", "import socket; print(socket.gethostname())"])
    inside = json.loads(said[0])
    assert inside["found"] == [], how
    assert inside["work"] == ["numbers.txt"]
    assert not set(inside["environment"]) & {*_VARIABLES, "DATABASE_URL"} - {"HOSTNAME", "PWD", "OLDPWD", "USER"}
    assert canaries.find(said[1].encode()) == [], f"{how}: %connect_info"
    assert said[2].strip() != own_name
    try:
        pieces = [(canaries.find(piece), inside["key"].encode() in piece) for piece in guest_memory(record.qemu_pid)]
    except PermissionError:
        pytest.skip("this host lets nobody look into other processes")
    assert any(has_key for _, has_key in pieces), "this looks in the wrong place"
    assert not any(found for found, _ in pieces), f"{how}: the guest's memory"


def check_templates(canaries):
    """Nor do the saved machines that others start from."""
    for path in find_paths().templates.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while data := file.read(16 << 20):
                    assert canaries.find(data) == [], path


def run_cells(manager, cells):
    """What each prints."""
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=START_S)
        said = []
        for code in cells:
            printed = []
            reply = client.execute_interactive(
                code,
                timeout=CELL_S,
                output_hook=lambda message, to=printed: to.append(message["content"].get("text", "")),
            )
            assert reply["content"]["status"] == "ok", reply["content"]
            said.append("".join(printed))
        return said
    finally:
        client.stop_channels()


def record_of(manager):
    return Client().sandbox(manager.provisioner._sandbox)


def read_of(pid, what):
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except PermissionError:
        pytest.skip("this host lets nobody look into other processes")


def guest_memory(pid):
    """All that a guest's machine remembers, piece by piece; the pieces overlap."""
    rows = [row for row in Path(f"/proc/{pid}/maps").read_text().splitlines() if "memfd:hyper-" in row and "rw" in row]
    assert len(rows) == 1, rows
    start, end = (int(number, 16) for number in rows[0].split()[0].split("-"))
    assert end - start >= 256 << 20
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for at in range(start, end, 16 << 20):
            yield os.pread(memory.fileno(), (16 << 20) + 256, at)
