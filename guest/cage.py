"""The cgroup around all that runs for the user. The agent stays outside, so that it answers whatever goes on in there.

Root in the image can leave it: it holds accidents, and what holds an attacker is the machine. The agent needs no
further protection: the kernel's OOM killer never picks process 1 (``oom_unkillable_task`` in mm/oom_kill.c).
"""

import os
from typing import Any

#: Where it is, once the machine has its mounts; the image has a view of /sys of its own, without it.
_ROOT = "/sys/fs/cgroup"
_NAME = "user"
#: What the user's programs leave free of the memory that the boot has left, for the agent and the kernel's own use.
_RESERVE = 16 << 20


def make_cage(available: int) -> "Cage":
    """Make the cgroup.

    :param available: the memory that is left, in bytes.
    """
    folder = f"{_ROOT}/{_NAME}"
    os.mkdir(folder)
    # cpu: all that is inside takes turns with the agent as if it were one process.
    _write(f"{_ROOT}/cgroup.subtree_control", "+cpu +memory +pids")
    # Where the whole machine ran out, the agent's own pages would be thrown out and read again without end.
    _write(f"{folder}/memory.max", str(available - _RESERVE))
    return Cage(folder, "/scratch")


class Cage:
    """Takes processes in, and says what they met.

    :param folder: of the cgroup.
    :param scratch: where their disk is mounted.
    """

    def __init__(self, folder: str, scratch: str) -> None:
        self._folder = folder
        self._scratch = scratch
        self._entrance = os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def enter(self) -> None:
        """Take the calling process in, and with it all that it will start; its root may be another already."""
        os.write(self._entrance, b"0")

    def limit(self, processes: int) -> None:
        """Let so many processes and threads be inside at most; 0: as many as the kernel bears.

        The agent's own children get in even so: programs can be started, but start nothing.
        """
        _write(f"{self._folder}/pids.max", str(processes or "max"))

    def read_strain(self) -> dict[str, Any]:
        """What may have ended a program, as EXIT and ``kernel.exit`` say it."""
        disk = os.statvfs(self._scratch)
        return {
            "oom_kills": self._read("memory.events", "oom_kill"),
            "forks_refused": self._read("pids.events", "max"),
            "processes": self._read("pids.current"),
            "scratch_free": disk.f_bavail * disk.f_frsize,
        }

    def _read(self, file: str, name: str = "") -> int:
        """The number in a file, or behind a name in it."""
        with open(f"{self._folder}/{file}", encoding="ascii") as lines:
            for line in lines:
                key, _, value = line.rpartition(" ")
                if key == name:
                    return int(value)
        return 0


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
