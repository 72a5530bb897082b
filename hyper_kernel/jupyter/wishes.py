"""What kernels of certain notebooks shall have: noted by the server's extension, read by the provisioner.

jupyter_client gives nobody a way to pass parameters to a kernel that a session starts, so they meet here, in the
server's process. Wishes are requests: hyperd's policy caps them.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol, runtime_checkable

from hyper_kernel.spec import Limits

#: More notebooks than that have no wishes: the oldest are forgotten.
MAX_WISHES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a kernel shall have; empty or zero is what its kernelspec says."""

    image: str = ""
    memory_mib: int = 0
    cpus: int = 0
    limits: Limits = field(default_factory=Limits)
    files: str = ""
    output: str = ""


@runtime_checkable
class Wishing(Protocol):
    """What has a kernel for which something can be wished: a provisioner of ours."""

    def wish(self, wish: Wish) -> None:
        """Have its kernel get this from its next start on."""


class Wishes:
    """Wishes by notebook: its path on the host, as the server tells kernels in ``JPY_SESSION_NAME``."""

    def __init__(self) -> None:
        self._by_path: OrderedDict[str, Wish] = OrderedDict()
        self._lock = Lock()  # synchronous managers start kernels in any thread

    def put(self, path: str, wish: Wish) -> None:
        """Note a wish in place of an earlier one; an empty one takes that back."""
        with self._lock:
            self._by_path.pop(path, None)
            if wish != Wish():
                self._by_path[path] = wish
            while len(self._by_path) > MAX_WISHES:
                self._by_path.popitem(last=False)

    def move(self, path: str, new: str | None) -> None:
        """A notebook, or a folder with all in it, has another path from here on; None: it is deleted."""
        with self._lock:
            for old in [old for old in self._by_path if old == path or old.startswith(f"{path}/")]:
                wish = self._by_path.pop(old)
                if new is not None:
                    self._by_path[new + old[len(path) :]] = wish

    def find(self, path: str) -> Wish:
        """What was wished for a notebook; an empty wish where nothing was."""
        with self._lock:
            return self._by_path.get(path, Wish())


#: Those of this process.
WISHES = Wishes()
