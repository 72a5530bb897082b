"""The product as an ordinary user uses it: no privilege, a home of their own."""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USER = "hyper-tester"
HYPER = Path(sys.executable).parent / "hyper"

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user runs every other test as one")


@pytest.fixture
def user(shared_data, tmp_path_factory):
    """Run commands as a fresh ordinary user whose HYPER_HOME holds a copy of the images."""
    subprocess.run(["useradd", "--create-home", USER], check=True)
    entry = pwd.getpwnam(USER)
    home = Path(entry.pw_dir)
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "HYPER_HOME": str(home / "hyper"), "LANG": "C.UTF-8"}

    def run(*command, **options):
        words = ["setpriv", "--reuid", USER, "--regid", str(entry.pw_gid), "--init-groups", *map(str, command)]
        return subprocess.run(words, env=env, cwd=home, capture_output=True, text=True, timeout=200, **options)

    try:
        shutil.copytree(shared_data, home / "hyper/data", symlinks=True)
        subprocess.run(["chown", "-R", f"{USER}:", home / "hyper"], check=True)
        assert run("test", "-x", HYPER).returncode == 0, f"an ordinary user cannot reach {HYPER}: use another folder"
        yield run
        run(HYPER, "daemon", "stop")
        # Z: ended, and waiting for init to reap it.
        living = subprocess.run(["pgrep", "-u", USER, "-r", "D,R,S,T", "-l"], capture_output=True, text=True)
        assert living.stdout == ""
    finally:
        subprocess.run(["userdel", "--remove", USER], check=True, capture_output=True)


def test_a_program_runs_and_nothing_is_left(user):
    done = user(HYPER, "run", "--rm", "hyper/python", "sh", "-c", "id -u; uname -r")
    assert done.returncode == 0, done.stderr
    uid, release = done.stdout.split()
    assert uid == "0"
    assert release != os.uname().release
    assert user(HYPER, "ps", "-aq").stdout == ""


def test_root_cannot_be_mistaken_for_the_user(user):
    """Sockets of the user's are theirs alone; hyperd answers nobody else but root."""
    assert user(HYPER, "ps").returncode == 0
    socket = user(HYPER, "daemon", "socket").stdout.strip().removeprefix("unix://")
    assert os.stat(socket).st_uid == pwd.getpwnam(USER).pw_uid
    assert os.stat(socket).st_mode & 0o077 == 0
    denied = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", "ls", socket], capture_output=True)
    assert denied.returncode != 0


def test_a_kernel_runs(user):
    code = (
        "from hyper_kernel.jupyter import kernelspec; kernelspec.install()\n"
        "from jupyter_client.manager import start_new_kernel\n"
        "manager, client = start_new_kernel(kernel_name='hyper-python', startup_timeout=180)\n"
        "reply = client.execute_interactive('print(6 * 7)', timeout=60)\n"
        "client.stop_channels(); manager.shutdown_kernel()\n"
    )
    done = user(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "42"
