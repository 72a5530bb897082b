"""Where Hyper Kernel keeps things on the host, by the XDG rules; ``HYPER_HOME`` moves all of it (tests use that).

``data`` (images, guest kernel: large, can be made again), ``state`` (records and logs of sandboxes), ``run``
(sockets: short paths, private to the user) and ``config`` (what people write).
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

#: A Unix socket's path must stay under 108 bytes (sun_path in <sys/un.h>), its own name included.
MAX_SOCKET_PATH = 107
#: The policy of this host's administrator; where it exists, it counts in place of the user's own.
HOST_POLICY = Path("/etc/hyper-kernel/policy.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The four roots, and the places below them that more than one part needs."""

    data: Path
    state: Path
    run: Path
    config: Path

    @property
    def guest(self) -> Path:
        """Guest kernel, initial RAM disk and system image, one folder per version, and ``current``."""
        return self.data / "guest"

    @property
    def images(self) -> Path:
        """OCI images and the disks made from them."""
        return self.data / "images"

    @property
    def templates(self) -> Path:
        """Saved machines that others start from."""
        return self.data / "templates"

    @property
    def tier(self) -> Path:
        """What was found of this host's isolation."""
        return self.data / "tier.json"

    @property
    def sandboxes(self) -> Path:
        """A folder per sandbox: record, console, logs. Lives until the sandbox is removed."""
        return self.state / "sandboxes"

    @property
    def parked(self) -> Path:
        """A folder per clone that waits for a sandbox; nothing in it outlives hyperd."""
        return self.state / "parked"

    @property
    def socket(self) -> Path:
        """The socket hyperd listens on."""
        return self.run / "hyperd.sock"

    @property
    def policy(self) -> Path:
        """This user's policy, see ``HOST_POLICY``."""
        return self.config / "policy.toml"

    def sandbox_run(self, sandbox_id: str) -> Path:
        """The folder of a sandbox's sockets; eight characters of its id keep the path short."""
        return self.run / "s" / sandbox_id[:8]

    def channels(self, name: str) -> Path:
        """What the paths of a kernel's channel sockets start with; they outlive a sandbox that is replaced."""
        return self.run / "k" / name


def find_paths() -> Paths:
    """The paths of this user, from the environment; creates nothing."""
    env, home = os.environ, Path.home()
    if root := env.get("HYPER_HOME"):
        base = Path(root).absolute()
        return Paths(data=base / "data", state=base / "state", run=_short_run(base / "run"), config=base)
    data = Path(env.get("XDG_DATA_HOME") or home / ".local/share")
    state = Path(env.get("XDG_STATE_HOME") or home / ".local/state")
    run = Path(env.get("XDG_RUNTIME_DIR") or f"/tmp/hyper-{os.getuid()}")
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    return Paths(
        data=data / "hyper-kernel",
        state=state / "hyper-kernel",
        run=_short_run(run / "hyper-kernel"),
        config=config / "hyper-kernel",
    )


def make_private(folder: Path) -> Path:
    """Create a folder (and its parents) that only this user may enter; return it.

    :raise PermissionError: it exists and belongs to somebody else.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SECURITY: run may be below /tmp, where another user can make our folder first; never use theirs.
    if folder.stat(follow_symlinks=False).st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    folder.chmod(0o700)
    return folder


def _short_run(run: Path) -> Path:
    """The run folder, or one below /tmp where its socket paths would grow over the limit."""
    longest = run / "s" / "12345678" / "shim.sock"
    if len(os.fsencode(longest)) <= MAX_SOCKET_PATH:
        return run
    return Path(f"/tmp/hyper-{os.getuid()}-{hashlib.sha256(os.fsencode(run)).hexdigest()[:12]}")
