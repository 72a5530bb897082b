"""hyperd under a policy, over fake sandboxes: every door, changes of the file, what a user has together."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from jupyter_client.kernelspec import KernelSpec as HostKernelSpec

from hyper_kernel.client import Client, stop_daemon
from hyper_kernel.daemon.ledger import Ledger
from hyper_kernel.daemon.policy import PolicyFile
from hyper_kernel.errors import BusyError, DeniedError, HyperError
from hyper_kernel.host.process import read_start_ticks
from hyper_kernel.host.usage import read_own_cpu_s, read_tree_cpu_s
from hyper_kernel.jupyter.provisioner import HyperProvisioner
from hyper_kernel.jupyter.wishes import Wish
from hyper_kernel.policy.parse import PolicyError
from hyper_kernel.policy.rules import Policy
from hyper_kernel.sandbox.record import Record, State
from hyper_kernel.spec import KernelSpec, Limits, SandboxSpec
from tests.fakes.fixtures import kernel, shell

HYPER = [sys.executable, "-c", "from hyper_kernel.cli.main import main; main()"]
BURN = "while :; do :; done"


@pytest.fixture
def client(fake_home):
    """hyperd runs already: commands would start one without fakes."""
    client = Client()
    client.version()
    return client


@pytest.fixture
def write(fake_home):
    """Writes the policy's file."""
    return lambda text: (fake_home / "policy.toml").write_text(text)


def run(client, spec):
    record = client.create(spec)
    client.start(record.id)
    return record.id


def hyper(*words, code=0):
    done = subprocess.run([*HYPER, *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    return done


# -- doors ------------------------------------------------------------------------------------------------------


def test_a_cap_holds_at_every_door_and_is_named_there(client, write, fake_home):
    write("[sandbox]\nmemory_mib = 256\nwall_s = 60\nprocesses = 100\n")
    where = f"(sandbox.memory_mib in {fake_home}/policy.toml)"
    doors = [
        lambda: client.create(shell("true", memory_mib=300)),
        lambda: client.start_kernel(kernel(memory_mib=300)),
        lambda: client.keep_parked(1, "hyper/python", memory_mib=300),
        lambda: client._json("POST", "/containers/create", body={"Image": "hyper/python", "HostConfig": big()}),
    ]
    for door in doors:
        with pytest.raises(DeniedError) as caught:
            door()
        assert str(caught.value) == f"memory of 300 MiB is above the cap of 256 MiB {where}"
    assert client.sandboxes(everything=True) == []
    assert client.pool() == []
    assert (
        "number of processes of 101 is above the cap of 100"
        in hyper("run", "--pids-limit", "101", "hyper/python", "true", code=125).stderr
    )
    client.keep_parked(0, "hyper/python", memory_mib=300)  # a wish of before the cap can be taken back


def big():
    return {"Memory": 300 << 20}


def test_what_nobody_asked_for_is_filled_in_and_shown(client, write):
    write("[default]\nmemory_mib = 300\nwall_s = 90\n[output]\ntrusted = true\n")
    record = client.create(shell("true", limits=Limits(processes=99)))
    assert (record.spec.memory_mib, record.spec.cpus, record.asked) == (300, 1, ("processes",))
    assert record.spec.limits == Limits(
        scratch_mib=150, processes=99, wall_s=90, output_bytes=256 << 20, output_bytes_per_s=64 << 20
    )
    shown = client.inspect(record.id)
    assert shown["Hyper"]["Limits"] == {
        "memory_mib": 300,
        "cpus": 1,
        "cpu_percent": None,
        "scratch_mib": 150,
        "processes": 99,
        "wall_s": 90,
        "cell_s": None,
        "output_bytes": 256 << 20,
        "output_bytes_per_s": 64 << 20,
    }
    host = shown["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (300 << 20, 10**9, 99)
    assert (host["StorageOpt"], host["Annotations"]) == ({"size": "150m"}, {"hyper.wall_s": "90"})
    client.keep_parked(1, "hyper/python")
    assert client.pool()[0]["memory_mib"] == 300


@pytest.mark.usefixtures("client")
def test_limits_of_the_command_line_reach_the_sandbox():
    words = ["--cpus", "0.5", "--pids-limit", "70", "--storage-opt", "size=100m", "--timeout", "1m30s", "-m", "256m"]
    hyper("run", "-d", *words, "hyper/python", "sleep", "60")
    (row,) = json.loads(hyper("ps", "--json").stdout)
    spec = SandboxSpec.from_dict(row["spec"])
    assert (spec.memory_mib, spec.cpus, spec.limits.cpu_percent) == (256, 1, 50)
    assert (spec.limits.processes, spec.limits.scratch_mib, spec.limits.wall_s) == (70, 100, 90)
    assert "write it like 90s" in hyper("run", "--timeout", "soon", "hyper/python", code=125).stderr
    assert "is not known" in hyper("run", "--storage-opt", "iops=3", "hyper/python", code=125).stderr


def test_a_sandbox_that_removes_itself_belongs_to_the_command_that_waits_for_it(client):
    child = subprocess.Popen([*HYPER, "run", "--rm", "hyper/python", "sh", "-c", "echo up; sleep 60"], stdout=-1)
    assert child.stdout.readline() == b"up\n"
    (record,) = client.sandboxes()
    assert (record.spec.owner.pid, record.spec.owner.start_ticks) == (child.pid, read_start_ticks(child.pid))
    client.kill(record.id)
    assert child.wait(10) == 137
    for words in (["--rm", "-d"], ["--name", "stays", "-d"]):
        hyper("run", *words, "hyper/python", "sleep", "60")
    assert [record.spec.owner for record in client.sandboxes()] == [None, None]


def test_traits_of_the_kernelspec_are_requests(fake_home, monkeypatch):
    asked = {"memory_mib": 256, "cpus": 2, "cpu_percent": 150, "scratch_mib": 64, "processes": 80, "wall_s": 9.5}
    asked |= {"cell_s": 2.0, "output_bytes": 5000, "output_bytes_per_s": 6000, "output": "trusted"}
    provisioner = HyperProvisioner(kernel_id="k", kernel_spec=HostKernelSpec(argv=["python3"]), **asked)
    provisioner._trait_values["parent"] = SimpleNamespace(session=SimpleNamespace(key=b"k", signature_scheme="s"))
    with pytest.raises(DeniedError, match=r"output=trusted is not allowed \(output.trusted, by default\)"):
        asyncio.run(provisioner._start(provisioner._sandbox_spec({}, Wish())))
    (fake_home / "policy.toml").write_text("[output]\ntrusted = true")
    asyncio.run(provisioner._start(provisioner._sandbox_spec({}, Wish())))
    (record,) = Client().sandboxes()
    limits = {name: value for name, value in asked.items() if name not in ("memory_mib", "cpus", "output")}
    assert (record.spec.memory_mib, record.spec.cpus, record.spec.limits) == (256, 2, Limits(**limits))
    assert record.spec.kernel.output == "trusted"


# -- the file ---------------------------------------------------------------------------------------------------


def test_a_change_counts_from_the_next_start_on(client, write, fake_home):
    asked, plain = client.create(shell("true", memory_mib=512)), client.create(shell("true"))
    write("[sandbox]\nmemory_mib = 256\n")
    with pytest.raises(DeniedError, match="memory of 512 MiB is above the cap of 256 MiB"):
        client.start(asked.id)
    client.start(plain.id)
    assert client.sandbox(plain.id).spec.memory_mib == 256
    (fake_home / "policy.toml").unlink()
    client.start(asked.id)
    client.start(plain.id)
    assert client.sandbox(plain.id).spec.memory_mib == 512


def test_while_the_file_has_a_mistake_nothing_starts_and_what_lives_goes_on(client, write, fake_home):
    lives = run(client, shell("sleep 60"))
    waits = client.create(shell("true"))
    write("[sandbox]\ncpu = 1\n")
    says = f"the policy cannot be read: {fake_home}/policy.toml, line 2: sandbox.cpu is not known"
    for start in (lambda: client.start(waits.id), lambda: client.create(shell("true"))):
        with pytest.raises(DeniedError) as caught:
            start()
        assert str(caught.value).startswith(says)
        assert caught.value.hint.startswith("mend it")
    assert says in hyper("policy", code=1).stderr
    assert says in str(client.info()["DriverStatus"])
    assert client.sandbox(lives).state is State.RUNNING
    write("[sandbox]\ncpus = 1\n")
    client.start(waits.id)


def test_hyperd_starts_with_a_mistake_in_the_file_and_says_so(client, write):
    write("what is this")
    assert client.policy()["problem"].endswith("(at line 1, column 6)")
    with pytest.raises(DeniedError):
        client.create(shell("true"))


def test_a_kernel_whose_restart_policy_forbids_lives_on(client, write):
    write("[output]\ntrusted = true")
    spec = SandboxSpec(image="hyper/python", kernel=KernelSpec(key="k", output="trusted"))
    ident = client.start_kernel(spec)["id"]
    shim = client.sandbox(ident).shim_pid
    write("[output]\ntrusted = false")
    with pytest.raises(DeniedError, match="output=trusted is not allowed"):
        client.restart_kernel(ident, spec.kernel)
    now = client.sandbox(ident)
    assert (now.state, now.shim_pid) == (State.RUNNING, shim)


def test_a_refusal_by_changed_policy_leaves_no_sandbox_that_removes_itself(client, write):
    record = client.create(shell("true", memory_mib=512, auto_remove=True))
    write("[sandbox]\nmemory_mib = 256\n")
    with client.waiting(record.id, "removed") as ends:
        with pytest.raises(DeniedError):
            client.start(record.id)
        assert next(ends).code == 0
    assert client.sandboxes(everything=True) == []


def test_the_administrators_file_counts_in_place_of_the_users(tmp_path):
    own, host = tmp_path / "own.toml", tmp_path / "host.toml"
    file = PolicyFile(own, host)
    assert (file.get(), file.get().file, file.ignored) == (Policy(), "", "")
    own.write_text("[sandbox]\ncpus = 8\n")
    assert (file.get().sandbox.cpus, file.get().file) == (8, str(own))
    host.write_text("[sandbox]\ncpus = 2\n")
    assert (file.get().sandbox.cpus, file.get().file, file.ignored) == (2, str(host), str(own))
    host.write_text("[sandbox]\ncpus = 0\n")
    with pytest.raises(PolicyError, match=r"host.toml, line 2"):
        file.get()
    assert file.last.sandbox.cpus == 2
    host.unlink()
    assert file.get().sandbox.cpus == 8


def test_a_file_that_cannot_be_read_is_no_absent_one(tmp_path):
    own = tmp_path / "own.toml"
    file = PolicyFile(own, tmp_path / "absent")
    own.mkdir()
    with pytest.raises(PolicyError, match="Is a directory"):
        file.get()
    own.rmdir()
    own.write_bytes(b"\xff\xff")
    with pytest.raises(PolicyError, match="decode"):
        file.get()
    own.unlink()
    own.symlink_to("own.toml")
    with pytest.raises(PolicyError, match="symbolic links"):
        file.get()


# -- what a user has together -----------------------------------------------------------------------------------


def test_a_user_has_so_many_sandboxes_and_so_much_memory(client, write):
    write("[user]\nsandboxes = 2\nmemory_mib = 900\n")
    first = run(client, shell("sleep 60", memory_mib=256))
    with pytest.raises(
        BusyError, match="memory of 700 MiB, with 256 MiB of sandboxes that live, is above the cap of 900"
    ):
        run(client, shell("sleep 60", memory_mib=700))
    run(client, shell("sleep 60", memory_mib=256))
    with pytest.raises(BusyError, match=r"2 sandboxes live, and the limit is 2 \(user.sandboxes in"):
        client.start_kernel(kernel(memory_mib=256))
    facts = client.policy()["user"]
    assert (facts["sandboxes"], facts["memory_mib"]) == ({"cap": 2, "used": 2}, {"cap": 900, "used": 512})
    client.remove(first, force=True)
    run(client, shell("sleep 60", memory_mib=256))


def test_two_that_start_at_once_do_not_both_get_the_last_place(client, write):
    write("[user]\nsandboxes = 1\n")
    idents, outcomes = [client.create(shell("sleep 60")).id for _ in range(4)], []

    def start(ident):
        try:
            client.start(ident)
            outcomes.append("started")
        except HyperError as exc:
            outcomes.append(type(exc))

    threads = [threading.Thread(target=start, args=(ident,)) for ident in idents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == sorted(map(str, ["started", *[BusyError] * 3]))


def test_who_has_used_up_todays_processor_time_is_ended_and_starts_nothing(client, write):
    write("[user]\ncpu_s_per_day = 1\n")
    ident = run(client, shell(BURN))
    with client.waiting(ident, "not-running") as ends:
        end = next(ends)
    assert end.reason.startswith("cpu limit: all of today's 1 s of processor time are used up (user.cpu_s_per_day in")
    record = client.sandbox(ident)
    assert (record.death, record.state) == ("cpu limit", State.EXITED)
    again = client.create(shell("true"))
    stop_daemon(client.paths)
    with pytest.raises(BusyError, match="all of today's 1 s of processor time are used up") as caught:
        client.start(again.id)
    assert "midnight" in caught.value.hint
    assert client.policy()["user"]["cpu_s_per_day"]["used"] > 1
    write("")
    client.start(again.id)


def test_what_a_sandbox_took_to_its_end_is_counted_though_nobody_looked(client):
    before_s = client.policy()["user"]["cpu_s_per_day"]["used"]
    ident = run(client, shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"))
    client.wait(ident)
    took_s = client.sandbox(ident).cpu_s
    used_s = client.policy()["user"]["cpu_s_per_day"]["used"] - before_s
    assert 0.05 < took_s <= used_s + 0.1


# -- processor time ---------------------------------------------------------------------------------------------


class Clock:
    """Processes and days of a test's own."""

    def __init__(self, path):
        self.path, self.day, self.cpu_s = path, "1", {}

    def ledger(self):
        return Ledger(self.path, today=lambda: self.day, read=lambda pid: self.cpu_s.get(pid, 0.0))


def live(ident, pid):
    return Record(id=ident, name=ident, spec=SandboxSpec(), image_id="", created_s=0.0, shim_pid=pid)


def test_nothing_is_lost_or_counted_twice(tmp_path):
    clock = Clock(tmp_path / "cpu.json")
    ledger = clock.ledger()
    ledger.begin("a")
    clock.cpu_s[7] = 2.0
    assert ledger.measure([live("a", 7)]) == 2.0
    clock.cpu_s[7] = 3.0
    ledger = clock.ledger()  # hyperd was killed
    assert ledger.measure([live("a", 7)]) == 3.0
    ledger.settle("a", 3.5)
    ledger.settle("a", 9.0)  # it has ended already
    assert ledger.measure([]) == 3.5
    ledger.begin("a")  # once more, with a process of its own
    clock.cpu_s[7] = 0.25
    assert ledger.measure([live("a", 7)]) == 3.75
    clock.cpu_s.clear()  # its shim was killed
    ledger.settle("a", 0.0)
    assert clock.ledger().measure([]) == 3.75


def test_a_new_day_counts_from_nothing_also_what_goes_on(tmp_path):
    clock = Clock(tmp_path / "cpu.json")
    ledger = clock.ledger()
    ledger.begin("a")
    clock.cpu_s[7] = 50.0
    ledger.measure([live("a", 7)])
    clock.day = "2"
    assert ledger.measure([]) == 0.0
    clock.cpu_s[7] = 51.0
    assert clock.ledger().measure([live("a", 7)]) == 1.0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"day": 3}', '{"day": "1", "used_s": "x", "counted": {}}'])
def test_a_damaged_ledger_is_begun_anew(tmp_path, text):
    clock = Clock(tmp_path / "cpu.json")
    clock.path.write_text(text)
    assert clock.ledger().measure([]) == 0.0


@pytest.mark.parametrize("lie", [float("nan"), float("inf"), -5.0, 0.0])
def test_a_shim_that_lies_takes_nothing_back(tmp_path, lie):
    clock = Clock(tmp_path / "cpu.json")
    ledger = clock.ledger()
    ledger.begin("a")
    clock.cpu_s[7] = 2.0
    ledger.measure([live("a", 7)])
    ledger.settle("a", lie)
    assert ledger.measure([]) == 2.0


def test_processor_time_of_a_process_is_that_of_all_it_started():
    script = (
        "import subprocess, time\ndef burn():\n e = time.process_time() + .2\n while time.process_time() < e: pass\n"
    )
    inner = f"{script}burn(); print('done', flush=True); input()"
    outer = f"{script}import sys; subprocess.run([sys.executable, '-c', sys.argv[1]], input='x'.encode())\n"
    outer += "burn(); subprocess.run([sys.executable, '-c', sys.argv[1]])"
    child = subprocess.Popen([sys.executable, "-c", outer, inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.readline()
    assert 0.6 <= read_tree_cpu_s(child.pid) < 5
    child.communicate(b"\n")
    assert read_tree_cpu_s(child.pid) == 0.0
    assert read_own_cpu_s() >= 0.6
    assert read_tree_cpu_s(os.getpid()) == pytest.approx(read_own_cpu_s(), abs=1.0)


# -- the command ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("client")
def test_the_command_shows_what_holds(write, fake_home):
    assert hyper("policy").stdout.startswith(f"policy: the default; change it in {fake_home}/policy.toml\n")
    write("[sandbox]\nprocesses = 300\n[user]\ncpu_s_per_day = 3600\n[files]\nmodes = ['none']\n")
    lines = hyper("policy").stdout.splitlines()
    assert lines[0] == f"policy: {fake_home}/policy.toml"
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert rows["sandbox.memory_mib"] == ["512", "65536"]
    assert rows["sandbox.processes"] == ["300", "300"]
    assert rows["sandbox.wall_s"] == ["unlimited", "unlimited"]
    assert rows["sandbox.scratch_mib"] == ["half", "of", "memory", "unlimited"]
    assert rows["user.cpu_s_per_day"] == ["3600", "0"]
    assert rows["files.modes"] == ["none"]
    facts = json.loads(hyper("policy", "--json").stdout)
    assert facts["sandbox"]["processes"] == {"default": 300, "cap": 300}
    assert facts["sandbox"]["wall_s"] == {"default": None, "cap": None}
    write(hyper("policy", "--example").stdout)
    assert json.loads(hyper("policy", "--json").stdout)["problem"] == ""
