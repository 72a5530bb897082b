"""The jail tried from inside: a program that attempts to break out runs in it, in QEMU's place."""

import asyncio
import getpass
import json
import os
import platform
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyper_kernel.errors import HostError
from hyper_kernel.host.jail import Jail, start_jailed
from hyper_kernel.hypervisor import MachineConfig, Tier
from hyper_kernel.limits import DEFAULT_CPUS, DEFAULT_MEMORY_MIB
from hyper_kernel.paths import Paths, make_private
from hyper_kernel.qemu.jail import qemu_jail

#: Debian's own, whose files are below /usr.
_PYTHON = Path("/usr/bin/python3")
_DEADLINE_S = 60.0
#: What runs in the jail.
PROGRAM = Path(__file__).with_name("breakout.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What was tried, how that ended, and whether it is as it should be."""

    what: str
    ended: str
    ok: bool


async def try_jail(paths: Paths, jail: Jail | None = None) -> list[Attempt]:
    """Attempt to break out of a jail, by default that of this host's machines.

    What is tried differs from QEMU in two ways: Python's files can be read in addition, and the filter that QEMU puts
    upon itself (``-sandbox``) is not there.

    :raise JailError: this host cannot make the jail.
    :raise HostError: the attempts did not come to their end.
    """
    python = _PYTHON.resolve()
    jail = jail or qemu_jail(plan_machine(_find_tier(paths)))
    jail = replace(jail, readable=(*jail.readable, python, Path("/usr/lib") / python.name))
    with open_targets(paths) as targets, tempfile.TemporaryFile() as output, PROGRAM.open() as file:
        program = file.fileno()
        targets["devices"] = [path.name for path in jail.devices]
        targets["fds"] = [0, 1, 2, program]
        words = breakout_argv(str(python), program, targets)

        def said() -> str:
            return os.pread(output.fileno(), 1 << 20, 0).decode(errors="replace")

        async with (
            start_jailed(jail, words, output=output.fileno(), said=said, pass_fds=(program,)) as jailed,
            asyncio.timeout(_DEADLINE_S),
        ):
            await jailed.wait()
        return parse_attempts(said())


def plan_machine(tier: Tier) -> MachineConfig:
    """A machine of the usual size, to be jailed in name only."""
    return MachineConfig(
        name="selftest",
        tier=tier,
        memory_mib=DEFAULT_MEMORY_MIB,
        cpus=DEFAULT_CPUS,
        kernel=Path(os.devnull),
        initrd=Path(os.devnull),
        cmdline="",
        disks=(),
    )


def breakout_argv(python: str, program: int, targets: dict[str, Any]) -> list[str]:
    """The command line of the attempts; ``program`` is a descriptor of theirs."""
    return [python, "-I", "-S", "-B", "-c", f"exec(open({program}).read())", json.dumps(targets)]


def parse_attempts(text: str) -> list[Attempt]:
    """What the attempts printed.

    :raise HostError: they were cut short.
    """
    lines = text.splitlines()
    try:
        attempts = [Attempt(**json.loads(line)) for line in lines[:-1]]
        if json.loads(lines[-1]) == {"attempts": len(attempts)}:
            return attempts
    except (ValueError, TypeError, IndexError):
        pass
    raise HostError("the attempts to break out of the jail were cut short:\n" + "\n".join(lines[-5:]))


@contextmanager
def open_targets(paths: Paths) -> Iterator[dict[str, Any]]:
    """Things on the host that are worth getting at, for the time of the context: a secret, sockets, a process."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="selftest-", dir=make_private(paths.state)))
        secret = Path(folder) / "secret"
        secret.write_text("of the host")
        unix, abstract = str(Path(folder) / "socket"), f"hyper-{secrets.token_hex(8)}"
        for address in (unix, f"\0{abstract}"):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(address)
            listener.listen()
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        victim = stack.enter_context(subprocess.Popen(["sleep", "600"]))
        stack.callback(victim.kill)
        home = Path.home()
        yield {
            "paths": [str(path) for path in (folder, secret, home, home / ".ssh", paths.state, paths.data)],
            "names": [folder, *([str(home), getpass.getuser()] if os.getuid() else [])],
            "hostname": platform.node(),
            "sockets": [unix, str(paths.socket)],
            "abstract": abstract,
            "port": port,
            "pid": victim.pid,
        }


def _find_tier(paths: Paths) -> Tier:
    """What machines run with here as far as that was found out; with emulation there is a device less in the jail."""
    try:
        return Tier(json.loads(paths.tier.read_text())["tier"])
    except (OSError, ValueError, KeyError, TypeError):
        return Tier.SOFTWARE
