"""Folders of the host that sandboxes see live: real machines, by `hyper run -v` and as the folder of a kernel."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from hyper_kernel.client import Client
from hyper_kernel.jupyter import kernelspec
from hyper_kernel.paths import find_paths
from tests.fakes.fixtures import wait_until
from tests.integration.conftest import processes_of
from tests.integration.test_kernel_life import START_S, run

HYPER = [sys.executable, "-c", "from hyper_kernel.cli.main import main; main()"]
IMAGE = "hyper/python"


@pytest.fixture
def folder(home, tmp_path):
    """A folder to share, where policy allows all of it."""
    (home / "policy.toml").write_text('[files]\nmodes = ["copy", "none", "ro", "rw"]\n')
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "host.txt").write_text("from the host")
    return folder


def hyper(*words, code=0, stdin=None):
    """What a command prints."""
    done = subprocess.run([*HYPER, *map(str, words)], capture_output=True, text=True, timeout=300, input=stdin)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr if code else done.stdout


@pytest.fixture
def inside(folder):
    """Run Python in a sandbox that has the folder at /data, and stays."""
    hyper("run", "-d", "--name", "box", "-v", f"{folder}:/data", IMAGE, "sleep", "1000")
    return lambda code: hyper("exec", "box", "python3", "-c", code)


def servers_of(root):
    """The processes that serve folders of a test's home: all have its hyperd's environment, or their parents do."""
    return [line for line in processes_of(root) if "bwrap" in line and "--export" in line]


def test_each_side_sees_at_once_what_the_other_does(folder, inside):
    assert inside("print(open('/data/host.txt').read())") == "from the host\n"
    inside("import os; os.makedirs('/data/a/b'); open('/data/a/b/guest.txt', 'w').write('from the guest')")
    made = folder / "a/b/guest.txt"
    assert made.read_text() == "from the guest"
    owner = folder.stat()
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (made, *made.parents[:2])} == {
        (owner.st_uid, owner.st_gid)
    }
    made.write_text("changed, and longer than before")
    (folder / "host.txt").unlink()
    (folder / "late.txt").write_text("late")
    found = inside("import os; print(open('/data/a/b/guest.txt').read(), sorted(os.listdir('/data')))")
    assert found == "changed, and longer than before ['a', 'late.txt']\n"
    inside("open('/data/late.txt', 'a').write('r'); import os; os.rename('/data/late.txt', '/data/a/moved.txt')")
    assert (folder / "a/moved.txt").read_text() == "later"
    assert not (folder / "late.txt").exists()


ORDINARY = """
import mmap, os, shutil, subprocess, tempfile
os.chdir('/data')
with tempfile.NamedTemporaryFile('w', dir='.', delete=False) as file:
    file.write('temporary')
    os.replace(file.name, 'replaced')
    file.write(' and on')
    file.flush()
    os.fsync(file.fileno())
assert open('replaced').read() == 'temporary and on'
with open('mapped', 'w+b') as file:
    file.truncate(8192)
    with mmap.mmap(file.fileno(), 0) as memory:
        memory[4090:4100] = b'x' * 10
        memory.flush()
assert open('mapped', 'rb').read().count(b'x') == 10
os.chmod('mapped', 0o600)
os.utime('mapped', (1, 2))
os.link('mapped', 'twin')
facts = os.stat('mapped')
assert (facts.st_mode & 0o777, facts.st_mtime, facts.st_nlink, facts.st_uid) == (0o600, 2, 2, 0)
os.truncate('mapped', 5)
with open('exclusive', 'x'): pass
os.makedirs('tree/one/two')
open('tree/one/two/file', 'w').write('deep')
shutil.copytree('tree', 'copied')
shutil.rmtree('tree')
print(sorted(os.listdir('.')))
for code in ("os.symlink('/etc/passwd', 'link')", "os.mkfifo('pipe')", "os.chmod('mapped', 0o4755)",
             "os.mknod('device', 0o60666, 1)"):
    try:
        exec(code)
        print('done:', code)
    except OSError as exc:
        print(exc.strerror)
"""


def test_programs_find_what_they_are_used_to_but_for_what_would_harm_the_host(folder, inside):
    *refused, found = reversed(inside(ORDINARY).splitlines())
    assert found == "['copied', 'exclusive', 'host.txt', 'mapped', 'replaced', 'twin']"
    assert refused == ["Operation not permitted"] * 4
    assert (folder / "mapped").stat().st_size == 5
    assert (folder / "copied/one/two/file").read_text() == "deep"


READ_ONLY = """
import ctypes, errno, os
assert ctypes.CDLL(None).mount(None, b'/data', None, 32, None) == 0  # MS_REMOUNT, without MS_RDONLY
for code in ("open('/data/new', 'w')", "open('/data/host.txt', 'a')", "os.unlink('/data/host.txt')",
             "os.mkdir('/data/new')", "os.rename('/data/host.txt', '/data/new')", "os.chmod('/data/host.txt', 0o777)",
             "os.truncate('/data/host.txt', 0)"):
    try:
        exec(code)
        print('done:', code)
    except OSError as exc:
        print(errno.errorcode[exc.errno])
print(open('/data/host.txt').read())
"""


ANOTHER_USER = """
import os
os.chdir('/data')
open('made.txt', 'w').write('made')
os.makedirs('tree/deep')
os.chmod('host.txt', 0o640)
os.chown('made.txt', os.getuid(), os.getgid())
print({(os.stat(path).st_uid, os.stat(path).st_gid) for path in ('.', 'host.txt', 'made.txt', 'tree/deep')})
try:
    os.chown('made.txt', 4321, -1)
except OSError as exc:
    print(exc.strerror)
"""


def test_a_folder_is_that_of_the_user_whom_the_program_runs_as(folder):
    """As root's it could be read at most: the guest's own kernel judges by what it sees."""
    words = ("run", "--rm", "--user", "1234:4321", "-v", f"{folder}:/data", IMAGE, "python3", "-c", ANOTHER_USER)
    assert hyper(*words) == "{(1234, 4321)}\nOperation not permitted\n"
    owner = folder.stat()
    assert {(path.stat().st_uid, path.stat().st_gid) for path in folder.rglob("*")} == {(owner.st_uid, owner.st_gid)}
    assert (folder / "host.txt").stat().st_mode & 0o777 == 0o640


@pytest.fixture
def small_disk(folder):
    """The folder to share is a disk of one MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
    (folder / "host.txt").write_text("from the host")
    yield
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a disk")
def test_a_full_disk_is_told_to_who_writes_and_nothing_else_ends(small_disk, inside):
    found = inside(
        "import os\n"
        "with open('/data/host.txt', 'ab', buffering=0) as file:\n"
        "    try:\n"
        "        while file.write(bytes(65536)): pass\n"
        "    except OSError as exc: print(exc.strerror)\n"
        "os.truncate('/data/host.txt', 3)\n"
        "print(open('/data/host.txt').read())\n"
    )
    assert found == "No space left on device\nfro\n"


def test_what_is_read_only_is_so_on_the_host_s_side_too(folder):
    """The guest's root lifts its own kernel's word first."""
    printed = hyper("run", "--rm", "-v", f"{folder}:/data:ro", IMAGE, "python3", "-c", READ_ONLY)
    assert printed.split("\n") == [*["EROFS"] * 7, "from the host", ""]
    assert [path.name for path in folder.iterdir()] == ["host.txt"]


GIT = """
set -eu
export PATH=/tools:$PATH GIT_EXEC_PATH=/tools HOME=/tmp GIT_AUTHOR_DATE='2026-01-01 00:00 +0000'
git config --global user.name Ada; git config --global user.email ada@example.org
git init -q -b main /data/repo 2>/dev/null; cd /data/repo
for i in $(seq 4); do mkdir -p folder$i; echo $i > folder$i/file; done
git add . && git commit -q -m first
echo changed >> folder1/file; git mv folder2/file folder2/moved; rm folder3/file
git status --short
git commit -q -a -m second
git gc -q --prune=now
git checkout -q -b side HEAD~1 && git checkout -q main
git fsck --full --strict 2>&1
git log --format=%s
"""


def test_git(folder, tmp_path):
    """The host's own git, run in the guest on a folder of the host, and the host's git on what came of it."""
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copy2(shutil.which("git"), tools / "git")
    words = ["-v", f"{folder}:/data", "-v", f"{tools}:/tools:ro"]
    printed = hyper("run", "--rm", *words, IMAGE, "sh", "-c", GIT)
    assert printed.splitlines() == [
        " M folder1/file", "R  folder2/file -> folder2/moved", " D folder3/file", "second", "first"
    ]  # fmt: skip

    def git(*arguments):
        done = subprocess.run(["git", "-C", folder / "repo", *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    assert git("log", "--format=%s") == "second\nfirst\n"
    assert git("status", "--short") == ""
    git("fsck", "--full", "--strict")


SQLITE = """
import sqlite3, subprocess, sys
def connect(): return sqlite3.connect('/data/MODE.db', timeout=60, isolation_level=None)
if len(sys.argv) > 1:
    base = connect()
    for number in range(25):
        base.execute('begin immediate')
        base.execute('insert into rows values (?, ?)', (sys.argv[1], number))
        base.execute('commit')
    sys.exit()
base = connect()
print(base.execute('pragma journal_mode=MODE').fetchone()[0])
base.execute('create table rows (who text, number integer)')
writers = [subprocess.Popen([sys.executable, '-c', sys.orig_argv[2], who]) for who in 'ab']
while any(writer.poll() is None for writer in writers):
    for who, count, last in base.execute('select who, count(*), max(number) from rows group by who'):
        assert count == last + 1, 'a reader sees what nobody has committed'
print([writer.returncode for writer in writers], base.execute('select count(*) from rows').fetchone()[0])
print(base.execute('pragma integrity_check').fetchone()[0])
"""


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_with_two_writers_and_a_reader(folder, inside, mode):
    printed = inside(SQLITE.replace("MODE", mode))
    assert printed.splitlines() == [mode, "[0, 0] 50", "ok"]
    with sqlite3.connect(folder / f"{mode}.db") as base:
        assert base.execute("select who, count(*) from rows group by who").fetchall() == [("a", 25), ("b", 25)]
    base.close()


#: Under software emulation a message takes a millisecond or more, and a file some thirty of them.
MANY = int(os.environ.get("HYPER_SMALL_FILES", "200"))
SMALL_FILES = """
import json, os, sys, time
def work(top):
    times, began = {}, time.monotonic()
    def note(what):
        nonlocal began
        times[what], began = round(time.monotonic() - began, 2), time.monotonic()
    os.makedirs(top)
    for number in range(MANY):
        with open(f'{top}/{number}', 'w') as file: file.write(str(number))
    note('create')
    names = os.listdir(top)
    assert len(names) == MANY
    note('list')
    assert sum(os.stat(f'{top}/{name}').st_size for name in names) > len(names)
    note('stat')
    assert all(open(f'{top}/{name}').read() == name for name in names)
    note('read')
    for name in names: os.unlink(f'{top}/{name}')
    os.rmdir(top)
    note('delete')
    return times
print(json.dumps([work('/data/many'), work('/tmp/many')]))
"""


def test_many_small_files(folder, inside):
    live, own = json.loads(inside(SMALL_FILES.replace("MANY", str(MANY))))
    print(f"{MANY} small files, live and on the guest's own disk, in seconds:")
    for what in live:
        print(f"  {what:7} {live[what]:7.2f} {own[what]:7.2f}  {live[what] / max(own[what], 0.01):6.1f} x")
    assert [path.name for path in folder.iterdir()] == ["host.txt"]


# --- a kernel's folder ---


@pytest.fixture
def start(folder, tmp_path, monkeypatch):
    """Starts a kernel that has the folder in a way."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    path = kernelspec.install() / "kernel.json"
    managers = []

    def start(files):
        spec = json.loads(path.read_text())
        spec["metadata"]["kernel_provisioner"]["config"] = {"files": files}
        path.write_text(json.dumps(spec))
        manager = KernelManager(kernel_name="hyper-python")
        managers.append(manager)
        manager.start_kernel(cwd=str(folder))
        client = manager.client()
        client.start_channels()
        managers.append(client)
        client.wait_for_ready(timeout=START_S)
        return manager, client

    yield start
    for each in reversed(managers):
        each.shutdown_kernel(now=True) if isinstance(each, KernelManager) else each.stop_channels()


def test_a_kernel_works_in_its_folder_through_a_restart_and_the_end_of_hyperd(start, folder, home):
    manager, kernel = start("rw")
    code = "import os; print(os.getcwd(), open('host.txt').read()); _ = open('made.txt', 'w').write('1')"
    assert run(kernel, code)[0] == "/work from the host\n"
    assert (folder / "made.txt").read_text() == "1"
    refused = hyper("diff", manager.provisioner._sandbox, code=1)
    assert "there is nothing to review" in refused
    assert "what it writes is there already" in refused

    daemon = next(line for line in processes_of(home) if "hyper_kernel.daemon" in line)
    os.kill(int(daemon.split()[0]), signal.SIGKILL)
    run(kernel, "_ = open('made.txt', 'a').write('2')")
    assert (folder / "made.txt").read_text() == "12"

    manager.restart_kernel()
    kernel.wait_for_ready(timeout=START_S)
    assert run(kernel, "print(open('made.txt').read()); _ = open('made.txt', 'a').write('3')")[0] == "12\n"
    assert (folder / "made.txt").read_text() == "123"
    assert len(servers_of(home)) == 1
    manager.shutdown_kernel(now=True)
    wait_until(lambda: not servers_of(home))


def test_a_kernel_that_may_only_read(start, folder):
    _, kernel = start("ro")
    printed, reply = run(kernel, "print(open('host.txt').read()); open('made.txt', 'w')")
    assert printed.startswith("from the host")
    assert reply["evalue"].startswith("[Errno 30] Read-only file system")
    assert [path.name for path in folder.iterdir()] == ["host.txt"]


# --- trouble ---


def test_the_end_of_a_server_is_told_and_the_sandbox_goes_on(folder, inside, home):
    (server,) = servers_of(home)
    os.kill(int(server.split()[0]), signal.SIGKILL)
    notes = lambda: Client().sandbox("box").notes  # noqa: E731 - asked again until there is one
    wait_until(notes)
    assert "/data is lost, and answers with errors: its server ended with -9" in notes()[-1]
    code = "try: open('/data/host.txt').read()\nexcept OSError as exc: print(type(exc).__name__)"
    assert inside(code) in ("OSError\n", "ConnectionResetError\n", "BrokenPipeError\n")
    assert inside("print(6 * 7)") == "42\n"
    hyper("rm", "-f", "box")


def test_what_cannot_be_shared_is_said(folder, home, tmp_path):
    missing = hyper("run", "--rm", "-v", f"{tmp_path}/missing:/data", IMAGE, "true", code=125)
    assert f"cannot share the folder {tmp_path}/missing: No such file or directory" in missing
    file = hyper("run", "--rm", "-v", f"{folder}/host.txt:/data", IMAGE, "true", code=125)
    assert "it is no folder" in file
    own = hyper("run", "--rm", "-v", f"{tmp_path}:/data", IMAGE, "true", code=125)
    assert "hyperd keeps its own files" in own
    (home / "policy.toml").unlink()
    denied = hyper("run", "--rm", "-v", f"{folder}:/data:ro", IMAGE, "true", code=125)
    assert f"{folder}:/data:ro is not allowed: no folder is read live (files.modes, by default)" in denied
    assert not servers_of(home)
    assert Path(find_paths().policy).parent == home
