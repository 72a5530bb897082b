"""Two sandboxes on one host: one attacks, the other's user must hardly notice; and what is watched meanwhile."""

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from jupyter_client import BlockingKernelClient

from hyper_kernel.client import Client
from hyper_kernel.host.process import read_start_ticks
from hyper_kernel.spec import KernelSpec, Limits, Owner, SandboxSpec

KEY = "what clients sign with"
#: How much longer another sandbox's round trip may take while one attacks, at the median. Three times is what is aimed
#: at, where nothing else runs: HYPER_MAX_SLOWER=3. On two busy processors, emulation alone may take more.
MAX_SLOWER = float(os.environ.get("HYPER_MAX_SLOWER", "10"))
#: How long hyperd may take to answer, in seconds.
PING_S = 1.0
_CELL_S = 60
_QUIET_ROUNDS, _ROUNDS = 9, 15
#: So many times those rounds are gone through, until one time is good: others use this host's processors, too.
_BATCHES = 3
NO_LIMITS = Limits()


class Arena:
    """The bystander's kernel, and its quiet round trip in seconds."""

    def __init__(self):
        self.client = Client()
        self.sandbox, connection = start_kernel()
        self._kernel = BlockingKernelClient()
        self._kernel.load_connection_info(connection)
        self._kernel.start_channels()
        self.round_trip(1)

    def close(self):
        self._kernel.stop_channels()
        self.client.remove_kernel(self.sandbox)

    def round_trip(self, rounds):
        """Median of the time of ``1+1``, in seconds, and the longest that hyperd took to answer meanwhile."""
        times, pings = [], []
        for _ in range(rounds):
            started = time.monotonic()
            self._kernel.execute_interactive("1+1", timeout=_CELL_S, output_hook=lambda message: None)
            times.append(time.monotonic() - started)
            started = time.monotonic()
            self.client.status()
            pings.append(time.monotonic() - started)
        return statistics.median(times), max(pings)

    @contextmanager
    def attacked(self, code, *, ends="", limits=NO_LIMITS):
        """Run code in a kernel of another sandbox, as a Jupyter server would, and look at the bystander meanwhile.

        Yields an :class:`Attack` once that was looked at; afterwards the sandbox is removed and nothing of it is left.

        :param ends: what the attacker's kernel ends by; empty: it need not end.
        """
        quiet_s, _ = self.round_trip(_QUIET_ROUNDS)
        sandbox, connection = start_kernel(limits)
        attack = Attack(self.client, sandbox, connection, code)
        try:
            attack.begin()
            for _ in range(_BATCHES):
                median_s, ping_s = self.round_trip(_ROUNDS)
                if median_s < MAX_SLOWER * quiet_s:
                    break
            if ends:
                facts = self.client.wait_kernel(sandbox, _CELL_S)
                assert facts["state"] == "exited" and facts["reason"].startswith(ends), facts
            attack.finish()
            print(f"{median_s / quiet_s:.1f} x {quiet_s * 1000:.0f} ms, ping {ping_s:.2f} s, {attack}")
            assert median_s < MAX_SLOWER * quiet_s, f"1+1 took {median_s:.3f} s, quiet {quiet_s:.3f} s"
            assert ping_s < PING_S
            yield attack
        finally:
            record = self.client.sandbox(sandbox)
            started = time.monotonic()
            self.client.remove_kernel(sandbox)
            assert time.monotonic() - started < 10, "the attacker's sandbox could hardly be removed"
            assert_gone(record)


class Attack:
    """One attacker's sandbox. ``heard`` is what the server in front of it heard; ``shim_mib`` the shim's memory."""

    def __init__(self, client, sandbox, connection, code):
        self.client, self.sandbox = client, sandbox
        self._order = {"connection": connection | {"key": connection["key"].decode()}, "code": code}
        self.heard = {}

    def __repr__(self):
        return f"shim {self.shim_mib:.0f} MiB, heard {self.heard | {'texts': self.heard['texts'][-60:]}}"

    def begin(self):
        """Ask for the cell."""
        command = [sys.executable, "-m", "tests.security.server"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._server.stdin.write(json.dumps(self._order) + "\n")
        self._server.stdin.flush()
        assert self._server.stdout.readline() == "asked\n"

    def finish(self):
        self.heard = json.loads(self._server.communicate(timeout=20)[0])
        self.record = self.client.sandbox(self.sandbox)
        self.shim_mib = memory_mib(self.record.shim_pid)


def start_kernel(limits=NO_LIMITS):
    """A kernel in a sandbox, which ends with this process: its id, and connection info as clients take it."""
    kernel, owner = KernelSpec(key=KEY, files="none"), Owner(pid=os.getpid(), start_ticks=read_start_ticks(os.getpid()))
    started = Client().start_kernel(SandboxSpec(kernel=kernel, limits=limits, owner=owner))
    return started["id"], started["connection"] | {"key": KEY.encode()}


def memory_mib(pid):
    """The most memory that a process ever took; 0 once it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def assert_gone(record):
    """Neither QEMU nor shim live, nor any file of theirs."""
    for pid in filter(None, (record.shim_pid, record.qemu_pid)):
        deadline = time.monotonic() + 5
        while _is_live(pid):
            assert time.monotonic() < deadline, f"process {pid} is left"
            time.sleep(0.01)  # another's child has no event for us


def _is_live(pid):
    with suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False
