"""What a process uses, as the host's kernel counts it."""

import os
from pathlib import Path


def read_usage(*pids: int) -> dict[str, float]:
    """Memory and processor time of processes together.

    ``pss_bytes`` counts shared pages once over all who share them (smaps_rollup in proc(5)); ``cpu_s`` is user plus
    system time. A process that is gone counts nothing.
    """
    total_pss, total_cpu = 0, 0.0
    for pid in pids:
        try:
            total_pss += read_pss(pid)
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total_cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return {"pss_bytes": total_pss, "cpu_s": total_cpu}


def read_wanted_s(pid: int) -> float:
    """Processor time that the threads of a process had or waited for, in seconds; 0.0 for one that is gone.

    On a host that is short of processors it still tells who wants one. See /proc/PID/schedstat in the kernel's
    Documentation/scheduler/sched-stats.rst.
    """
    wanted_ns = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            had, waited, _ = (task / "schedstat").read_text().split()
            wanted_ns += int(had) + int(waited)
    except OSError:
        pass
    return wanted_ns / 1e9


def read_tree_cpu_s(pid: int) -> float:
    """Processor time of a process and of all it started, those that have ended and were waited for among them; seconds.

    0.0 for one that is gone. See proc(5): stat, fields 14 to 17, and task/TID/children.
    """
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        children = " ".join((task / "children").read_text() for task in (folder / "task").iterdir()).split()
    except OSError:
        return 0.0
    own_s = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own_s + sum(read_tree_cpu_s(int(child)) for child in children)


def read_own_cpu_s() -> float:
    """Processor time of this process and of its children that have ended, and were waited for; seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def read_pss(pid: int) -> int:
    """Proportional set size of a process, in bytes.

    :raise OSError: it is gone or belongs to somebody else.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
