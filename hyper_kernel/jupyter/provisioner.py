"""The kernel provisioner: Jupyter starts, watches and ends kernels in sandboxes through it.

Its methods are short calls to hyperd and keep nothing alive in between: the synchronous ``KernelManager`` runs each on
an event loop that stands still until the next (jupyter_client issue 959).
"""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Enum, Float, Int, List, Unicode

from hyper_kernel.client import Client
from hyper_kernel.errors import BusyError, ConflictError, DeniedError, HyperError, NotFoundError
from hyper_kernel.host.process import read_start_ticks
from hyper_kernel.jupyter.environment import select_environment
from hyper_kernel.jupyter.wishes import WISHES, Wish
from hyper_kernel.spec import DEFAULT_IMAGE, FILES, KernelSpec, Limits, Owner, SandboxSpec

_T = TypeVar("_T")

_SIGKILL, _SIGTERM = 9, 15
#: The exit code of a kernel whose sandbox is gone, record and all: as if killed.
_GONE = 137
#: How long a kernel may take to die of SIGKILL inside its guest, in seconds, before the whole sandbox is killed.
_KILL_S = 5.0
#: One long poll of hyperd, in seconds.
_POLL_S = 20.0
#: How often it is looked whether a change of the kernel is done, in seconds.
_TURN_S = 0.05


class HyperProvisioner(KernelProvisionerBase):
    """Runs each kernel in its own virtual machine.

    A kernelspec's ``metadata.kernel_provisioner.config`` may set the traits below. They are requests: hyperd caps them.
    """

    image = Unicode(DEFAULT_IMAGE, config=True, help="The OCI image the kernel's sandbox starts from.")
    kernel = Unicode("", config=True, help="The kernelspec of the image to run; empty: its first.")
    memory_mib = Int(
        0, config=True, help="Memory of the virtual machine, in MiB. Zero, here and below: as policy says."
    )
    cpus = Int(0, config=True, help="Virtual processors.")
    cpu_percent = Int(0, config=True, help="Share of the processors, in per cent of one: 150 is one and a half.")
    scratch_mib = Int(0, config=True, help="What the kernel may write beside its image, in MiB of its memory.")
    processes = Int(0, config=True, help="Processes and threads at most.")
    wall_s = Float(0.0, config=True, help="How long the sandbox may live, in seconds.")
    cell_s = Float(0.0, config=True, help="How long a cell may run, in seconds: it is interrupted, and later killed.")
    output_bytes = Int(0, config=True, help="How much a cell may show, in bytes.")
    output_bytes_per_s = Int(0, config=True, help="Output that comes faster is slowed down, in bytes per second.")
    output = Enum(
        ("sanitize", "trusted"),
        "sanitize",
        config=True,
        help="What becomes of HTML, JavaScript and widgets that a cell shows: sanitize takes out what could act in the "
        "browser; trusted lets all pass, where hyperd's policy allows that (output.trusted).",
    )
    files = Enum(
        FILES,
        "copy",
        config=True,
        help="How the guest sees the notebook's folder: as a copy, not at all, or live, if policy allows: ro or rw.",
    )
    transport = Enum(("ipc", "tcp"), "ipc", config=True, help="How clients reach the channels on this host.")
    env_allowed = List(Unicode(), config=True, help="Further environment variables that may enter (shell patterns).")
    owner_grace_s = Float(0.0, config=True, help="How long a sandbox outlives the Jupyter server, in seconds.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # The base class shares one dictionary between all instances.
        self.connection_info: KernelConnectionInfo = {}
        self._client = Client()
        self._sandbox = ""
        self._folder = ""
        self._arguments: tuple[str, ...] = ()
        #: What it was started with, and what it shall have; None until its notebook was asked.
        self._wish = Wish()
        self._wanted: Wish | None = None
        self._running = False
        self._changing = threading.Lock()

    def __repr__(self) -> str:
        return f"<HyperProvisioner sandbox={self._sandbox[:12] or '-'} running={self._running}>"

    @property
    def has_process(self) -> bool:
        """Whether a kernel was launched and not yet waited for, be it alive or dead."""
        return self._running

    def wish(self, wish: Wish) -> None:
        """See :class:`hyper_kernel.jupyter.wishes.Wishing`."""
        self._wanted = wish

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare a launch; called by the manager before each start and restart.

        :raise RuntimeError: encryption of the channels is required, which these sandboxes do not do.
        """
        policy = kwargs.pop("transport_encryption", None) or getattr(self.parent, "transport_encryption", "disabled")
        if policy == "required":
            raise RuntimeError(
                "CurveZMQ is required, but a sandbox's channels are Unix sockets that only this user can open: "
                "they are not encrypted. Set transport_encryption to auto or disabled"
            )
        # The guest's command comes from the image's own kernelspec: the host's names paths of the host.
        self._arguments = tuple(kwargs.pop("extra_arguments", ()))
        return await super().pre_launch(cmd=list(self.kernel_spec.argv), **kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel: in a new sandbox, or in a fresh machine of the one it had (a restart).

        :raise HyperError: it does not start; the message holds the reason and the end of the guest's console.
        """
        async with self._turn():
            return await self._launch(kwargs)

    async def _launch(self, kwargs: dict[str, Any]) -> KernelConnectionInfo:
        self._folder = str(Path(kwargs.get("cwd") or ".").absolute())
        if self._wanted is None:  # only then: by a restart its notebook may have another name, and another its name
            self._wanted = WISHES.find(kwargs["env"].get("JPY_SESSION_NAME", ""))
        wish = self._wanted
        spec = self._sandbox_spec(kwargs["env"], wish)
        info = await self._restart(spec, wish) or await self._start(spec)
        self._running, self._wish = True, wish
        if getattr(self._manager(), "execution_state", "") == "dead":  # a Jupyter server had found it so
            self._manager().execution_state = "starting"
        session = self._manager().session
        info |= {"key": session.key, "signature_scheme": session.signature_scheme}
        self.connection_info = cast("KernelConnectionInfo", info)
        return self.connection_info

    async def poll(self) -> int | None:
        """None while the kernel lives or starts, else its exit code; called every few seconds by the restarter."""
        if self._changing.locked():
            return None
        if not self._running:
            return 0
        return self._exit_code(await self._look())

    async def wait(self) -> int | None:
        """Wait until the kernel has ended."""
        while self._running:
            code = self._exit_code(await self._look(wait_s=_POLL_S))
            if code is not None:
                self._running = False
                return code
        return 0

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel; never raises, since a shutdown signals kernels that are gone."""
        if not (self._running and signum):
            return
        try:
            await _call(self._client.signal_kernel, self._sandbox, signum)
        except HyperError as exc:
            self.log.warning("cannot signal kernel %s: %s", self.kernel_id, exc)

    async def kill(self, restart: bool = False) -> None:
        """End the kernel at once. ``restart`` is False even in a restart (jupyter_client issue 1061), so the sandbox
        stays until :meth:`cleanup`; only a guest that does not obey loses it here.
        """
        async with self._turn():
            await self.send_signal(_SIGKILL)
            if self._running and self._exit_code(await self._look(wait_s=_KILL_S)) is None:
                await self._remove()

    async def terminate(self, restart: bool = False) -> None:
        """Ask the kernel to end."""
        await self.send_signal(_SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:
        """Free what the kernel held; a restart keeps the sandbox. Called again, does nothing."""
        if not restart:
            self._running = False
            await self._remove()

    async def get_provisioner_info(self) -> dict[str, Any]:
        """What :meth:`load_provisioner_info` needs to take this kernel over."""
        info = await super().get_provisioner_info()
        connection: dict[str, Any] = dict(self.connection_info)
        info["connection_info"] = connection | {"key": connection.get("key", b"").decode()}
        return {**info, "sandbox": self._sandbox, "folder": self._folder}

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Take over a kernel that runs."""
        await super().load_provisioner_info(provisioner_info)
        connection = provisioner_info["connection_info"]
        self.connection_info = cast("KernelConnectionInfo", connection | {"key": connection["key"].encode()})
        self._sandbox, self._folder = provisioner_info["sandbox"], provisioner_info["folder"]
        self._running, self._wanted = True, Wish()  # those of its notebook went with the server that it had

    async def take_over(self, sandbox: str, folder: str) -> dict[str, Any]:
        """Take over the kernel of a sandbox whose owner has ended, be it alive or dead.

        Called by a Jupyter server that finds kernels of an earlier one.

        :param folder: the host's folder of its notebook.
        :return: its facts, see ``Client.kernel``.
        :raise ConflictError: its owner lives.
        :raise HyperError: it cannot be had.
        """
        facts = await _call(self._client.own_kernel, sandbox, self._owner())
        signing = {"key": facts["key"], "signature_scheme": facts["signature_scheme"]}
        connection = facts["connection"] | signing
        info = {"kernel_id": self.kernel_id, "connection_info": connection, "sandbox": sandbox, "folder": folder}
        await self.load_provisioner_info(info)
        return facts

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """Emulated guests take longer to end than processes."""
        return max(recommended, 10.0)

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        """A death before this counts as a failed start."""
        return recommended + 20.0

    def resolve_path(self, path: str) -> str | None:
        """The host's file for a path of the guest's copy of the notebook's folder; None outside it, and where the host
        has no such file.
        """
        # SECURITY: the guest names the path; the answer is always inside the folder, whatever it says and links say.
        guest = PurePosixPath(os.path.normpath(PurePosixPath("/work") / path))
        if not self._folder or not guest.is_relative_to("/work"):
            return None
        host = Path(self._folder) / guest.relative_to("/work")
        inside = host.resolve().is_relative_to(Path(self._folder).resolve())
        return str(host) if inside and host.exists() else None

    def _manager(self) -> Any:
        assert self.parent is not None  # the factory always gives the KernelManager
        return self.parent

    def _owner(self) -> Owner:
        return Owner(pid=os.getpid(), start_ticks=read_start_ticks(os.getpid()), grace_s=self.owner_grace_s)

    def _sandbox_spec(self, env: dict[str, str], wish: Wish) -> SandboxSpec:
        """What is asked of hyperd: what the kernelspec says, and before that what was wished."""
        limits = {item.name: getattr(wish.limits, item.name) or getattr(self, item.name) for item in fields(Limits)}
        return SandboxSpec(
            image=wish.image or self.image,
            memory_mib=wish.memory_mib or self.memory_mib,
            cpus=wish.cpus or self.cpus,
            limits=Limits(**limits),
            labels=self._labels(),
            kernel=self._kernel_spec(env, wish),
            owner=self._owner(),
        )

    def _labels(self) -> dict[str, str]:
        """By what a Jupyter server that is started again finds its kernels."""
        manager = self._manager()
        root = getattr(getattr(manager, "parent", None), "root_dir", "")
        return {
            "hyper.kernel-id": self.kernel_id or "",
            "hyper.kernelspec": getattr(manager, "kernel_name", ""),
            "hyper.server-root": str(root),
        }

    def _kernel_spec(self, env: dict[str, str], wish: Wish) -> KernelSpec:
        return KernelSpec(
            name=self.kernel,
            arguments=self._arguments,
            key=self._manager().session.key.decode(),
            signature_scheme=self._manager().session.signature_scheme,
            env=select_environment(env, self.kernel_spec.env, self.env_allowed),
            folder=self._folder,
            files=wish.files or self.files,
            output=wish.output or self.output,
            transport=self.transport,
            channels=self._channels(),
            ports=self._tcp_ports(),
        )

    def _channels(self) -> str:
        """What its Unix sockets are named after: what clients know already, for a kernel that was taken over too."""
        known: dict[str, Any] = dict(self.connection_info)
        if known.get("transport") == "ipc":
            return Path(known["ip"]).name
        return hashlib.sha256(f"{os.getpid()} {self.kernel_id}".encode()).hexdigest()[:16]

    def _tcp_ports(self) -> tuple[int, ...]:
        """The ports that clients know already, for a kernel that gets a new sandbox."""
        known: dict[str, Any] = dict(self.connection_info)
        if self.transport != "tcp" or "shell_port" not in known:
            return ()
        return tuple(known[f"{channel}_port"] for channel in ("shell", "iopub", "stdin", "control", "hb"))

    async def _start(self, spec: SandboxSpec) -> dict[str, Any]:
        started = await _call(self._client.start_kernel, spec)
        self._sandbox = started["id"]
        return cast("dict[str, Any]", started["connection"])

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One change at a time: while a manager starts a kernel again that died, somebody may ask for that, too.

        The second would take the machine that the first one starts for one that does not obey.
        """
        while not self._changing.acquire(blocking=False):  # noqa: ASYNC110 - asyncio's locks are of one loop each
            await asyncio.sleep(_TURN_S)
        try:
            yield
        finally:
            self._changing.release()

    async def _restart(self, spec: SandboxSpec, wish: Wish) -> dict[str, Any] | None:
        """Start the kernel in a fresh machine of its sandbox; None where that is not possible, and the sandbox gone.

        :raise BusyError, DeniedError: there is no room now, or policy has changed; the sandbox stays, and what its
            kernel wrote with it.
        """
        if not self._sandbox:
            return None
        assert spec.kernel is not None  # every spec of ours has one
        try:
            if (wish.image or self.image) != (self._wish.image or self.image):
                raise ConflictError("another image is wished for")
            machine = spec if wish != self._wish else None
            return await _call(self._client.restart_kernel, self._sandbox, spec.kernel, machine)
        except (BusyError, DeniedError):
            raise
        except HyperError as exc:
            self.log.warning("kernel %s gets a new sandbox, without what it wrote: %s", self.kernel_id, exc)
            await self._remove()
            return None

    async def _look(self, wait_s: float = 0.0) -> dict[str, Any] | None:
        """hyperd's view of the kernel, after waiting up to ``wait_s`` for its end; None when it knows it no more."""
        try:
            if wait_s:
                return await _call(self._client.wait_kernel, self._sandbox, wait_s)
            return await _call(self._client.kernel, self._sandbox)
        except NotFoundError:
            return None

    def _exit_code(self, kernel: dict[str, Any] | None) -> int | None:
        """None while it lives; tells the manager the reason of its death, which JupyterLab shows."""
        if kernel is None:
            return _GONE
        if self.parent is not None:
            self.parent.reason = kernel["reason"]
        if kernel["state"] != "exited" and kernel["exit_code"] == -1:
            return None
        return int(kernel["exit_code"])

    async def _remove(self) -> None:
        sandbox, self._sandbox = self._sandbox, ""
        if not sandbox:
            return
        try:
            await _call(self._client.remove_kernel, sandbox)
        except NotFoundError:
            pass
        except HyperError as exc:
            self.log.warning("cannot remove sandbox %s of kernel %s: %s", sandbox[:12], self.kernel_id, exc)


async def _call(function: Callable[..., _T], *args: Any) -> _T:
    """Call the client in a thread of its own.

    Not in the loop's own threads: the loop may be a copy that a forked process inherited without them (nbclient in a
    process pool), and pools start none for callbacks of ``atexit``, in which clients shut their kernels down.
    """
    done: Future[_T] = Future()
    done.set_running_or_notify_cancel()

    def work() -> None:
        try:
            done.set_result(function(*args))
        except BaseException as exc:  # noqa: BLE001 - raised in whoever waits for it
            done.set_exception(exc)

    try:
        threading.Thread(target=work, name="call to hyperd", daemon=True).start()
    except RuntimeError:
        work()  # from 3.12 on, Python starts no thread when it ends; nobody else is waiting then
    return await asyncio.wrap_future(done)
