"""hyperd's start on first use, its replacement by another version, and its end."""

import json
import logging
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import hyper_kernel
from hyper_kernel import __version__
from hyper_kernel.client.http import ABSENT, UnixConnection, send_request
from hyper_kernel.errors import HostError
from hyper_kernel.host.lock import hold_lock
from hyper_kernel.paths import Paths, make_private

log = logging.getLogger(__name__)

#: What is run as hyperd.
MODULE = "hyper_kernel.daemon"
#: How long hyperd may take to listen, and to leave, in seconds.
START_S = 30.0
LEAVE_S = 15.0
#: hyperd.log is begun anew once it is over this size, in bytes; the old one is kept once.
MAX_LOG = 8 << 20
_KEPT_VARIABLES = frozenset({"HOME", "PATH", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "HYPER_HOME"})


def ensure_daemon(paths: Paths) -> None:
    """See to it that a hyperd of this version listens; start one, or replace one of another version.

    Safe against races: of many callers at once, one starts it.

    :raise HostError: it does not start; the message has the end of its log.
    """
    make_private(paths.run)
    make_private(paths.state)
    with hold_lock(paths.run / "start.lock"):
        theirs = find_version(paths)
        if theirs == __version__:
            return
        if theirs is not None:
            # Sandboxes outlive hyperd and are adopted by the next one, so that nothing is lost by this.
            log.warning("hyperd is version %s, this is %s: replacing it", theirs, __version__)
            stop_daemon(paths)
        _wait_left(paths)
        _start(paths)


def find_version(paths: Paths) -> str | None:
    """The version of the hyperd that listens, or None where none does."""
    connection = UnixConnection(paths.socket, timeout_s=10.0)
    try:
        response = send_request(connection, "GET", "/version")
        return str(json.loads(response.read())["Version"])
    except ABSENT:
        return None
    except (ConnectionError, TimeoutError):
        return None  # it is leaving
    finally:
        connection.close()


def stop_daemon(paths: Paths) -> bool:
    """Ask hyperd to end, and wait until it has; whether there was one. Sandboxes live on.

    :raise HostError: it does not end.
    """
    connection = UnixConnection(paths.socket, timeout_s=10.0)
    try:
        send_request(connection, "POST", "/hyper/v1/shutdown").read()
    except ABSENT:
        return False
    except ConnectionError:
        pass  # it was leaving by itself
    finally:
        connection.close()
    _wait_left(paths)
    return True


def _wait_left(paths: Paths) -> None:
    """Wait until the hyperd that wrote its pid into the lock is gone.

    :raise HostError: it stays.
    """
    try:
        pid = int((paths.run / "hyperd.lock").read_text())
        pidfd = os.pidfd_open(pid)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return
    try:
        if any(word.endswith(b"hyperd") or b"daemon" in word for word in words):
            left, _, _ = select.select([pidfd], [], [], LEAVE_S)
            if not left:
                raise HostError(f"hyperd (process {pid}) does not answer and does not end", hint=f"run: kill {pid}")
    finally:
        os.close(pidfd)


def _start(paths: Paths) -> None:
    """Start hyperd detached, and wait for the byte that it writes once it listens."""
    log_path = paths.state / "hyperd.log"
    if log_path.exists() and log_path.stat().st_size > MAX_LOG:
        log_path.replace(log_path.with_suffix(".log.1"))
    ready, theirs = os.pipe()
    try:
        # SECURITY: the log names images and commands; it is for this user only.
        with open(log_path, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
            subprocess.run(
                daemon_argv(theirs),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs,),
                cwd="/",
                env=daemon_environment(dict(os.environ)),
                start_new_session=True,
                check=False,
            )
        os.close(theirs)
        theirs = -1
        _wait_ready(ready, log_path)
    finally:
        os.close(ready)
        if theirs >= 0:
            os.close(theirs)


def daemon_argv(ready_fd: int) -> list[str]:
    """hyperd's command line."""
    return [sys.executable, "-P", "-m", MODULE, "--detach", "--ready-fd", str(ready_fd)]


def daemon_environment(env: dict[str, str]) -> dict[str, str]:
    """What hyperd gets of an environment."""
    # SECURITY: hyperd outlives who started it: a hub's or a cloud's tokens must not stay in its environment.
    kept = {name: value for name, value in env.items() if name in _KEPT_VARIABLES or name.startswith(("LC_", "XDG_"))}
    package = str(Path(hyper_kernel.__file__).parent.parent)
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, (package, env.get("PYTHONPATH"))))}


def _wait_ready(ready: int, log_path: Path) -> None:
    deadline = time.monotonic() + START_S
    readable, _, _ = select.select([ready], [], [], max(0.0, deadline - time.monotonic()))
    if readable and os.read(ready, 1):
        return
    tail = log_path.read_text(errors="replace").strip().splitlines()[-5:]
    raise HostError(
        "hyperd did not start" + "".join(f"\n  {line}" for line in tail), hint=f"the whole log is {log_path}"
    )
