"""The product as an ordinary user uses it: no privilege, a home of their own."""

import os
import pwd
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import pytest

USER = "hyper-tester"
ROOT = Path(__file__).parents[2]
HYPER = ("-c", "from hyper_kernel.cli.main import main; main()")

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user runs every other test as one")


@pytest.fixture(scope="module")
def account(shared_data):
    """A fresh ordinary user with an installation and images of their own; nothing of root's is reachable for them."""
    subprocess.run(["useradd", "--create-home", USER], check=True)
    entry = pwd.getpwnam(USER)
    home = Path(entry.pw_dir)
    try:
        copy_tree(shared_data, home / "hyper/data", "kvm-test", "templates")
        subprocess.run(["chown", "-R", f"{USER}:", home], check=True)
        install(home)
        yield entry
    finally:
        subprocess.run(["userdel", "--remove", USER], check=True, capture_output=True)


def copy_tree(source, target, *left_out, copy=shutil.copy2):
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*left_out), copy_function=copy)


def link_file(source, target):
    """A second name, where that can be: the user only reads it, and it is a gibibyte in all."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)


def install(home: Path) -> None:
    """The project and what it needs, copied: this environment and its Python may lie in root's own home."""
    # An editable install keeps copies of guest/ and images/ there, as they were when it was made.
    copy_tree(sysconfig.get_path("purelib"), home / "lib", "hyper_kernel", copy=link_file)
    for package in ("hyper_kernel", "guest"):
        shutil.copytree(ROOT / package, home / "lib" / package)
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", home / "venv"], check=True)
    (site,) = (home / "venv/lib").glob("python3*/site-packages")
    (site / "base.pth").write_text(f"{home}/lib\n")


@pytest.fixture
def user(account):
    """Run Python as the user."""
    home = Path(account.pw_dir)
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin:/usr/sbin", "HYPER_HOME": str(home / "hyper"), "LANG": "C.UTF-8"}

    def run(*arguments):
        words = ["setpriv", "--reuid", USER, "--regid", str(account.pw_gid), "--init-groups"]
        command = [*words, home / "venv/bin/python", *arguments]
        return subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=200)

    yield run
    run(*HYPER, "daemon", "stop")
    # Z: ended, and waiting for init to reap it.
    living = subprocess.run(["pgrep", "-u", USER, "-r", "D,R,S,T", "-l"], capture_output=True, text=True)
    assert living.stdout == ""


def test_a_program_runs_and_nothing_is_left(user):
    done = user(*HYPER, "run", "--rm", "hyper/python", "sh", "-c", "id -u; uname -r")
    assert done.returncode == 0, done.stderr
    uid, release = done.stdout.split()
    assert uid == "0"
    assert release != os.uname().release
    assert user(*HYPER, "ps", "-aq").stdout == ""


@pytest.fixture
def roots():
    """A folder that all may look into, with a file that they may not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        (Path(name) / "secret").write_text("root's")
        (Path(name) / "secret").chmod(0o600)
        yield Path(name)


def test_a_folder_of_theirs_is_shared_and_nobody_elses(user, account, roots):
    home = Path(account.pw_dir)
    (home / "hyper/policy.toml").write_text('[files]\nmodes = ["copy", "none", "rw"]\n')
    made = user("-c", "import os; os.mkdir('shared'); open('shared/a', 'w').write('theirs')")
    assert made.returncode == 0, made.stderr
    words = ("run", "--rm", "-v", f"{home}/shared:/data", "-v", f"{roots}:/host", "hyper/python", "sh", "-c")
    done = user(*HYPER, *words, "id -u; cat /data/a; echo new > /data/b; cat /host/secret; echo no > /host/planted")
    assert "0\ntheirs" in done.stdout, done.stderr
    assert done.returncode != 0
    assert done.stderr.count("Permission denied") == 2, done.stderr
    assert (home / "shared/b").stat().st_uid == account.pw_uid
    assert [path.name for path in roots.iterdir()] == ["secret"]
    (home / "hyper/policy.toml").unlink()


def test_nothing_breaks_out_of_their_jail(user):
    done = user(*HYPER, "doctor", "--selftest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none got through" in done.stdout


def test_root_cannot_be_mistaken_for_the_user(user):
    """Sockets of the user's are theirs alone; hyperd answers nobody else but root."""
    assert user(*HYPER, "ps").returncode == 0
    socket = user(*HYPER, "daemon", "socket").stdout.strip().removeprefix("unix://")
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
    done = user("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "42"
