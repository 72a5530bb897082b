"""The websocket between a front end and a kernel, for kernels that were found again: what was missed comes first."""

import asyncio
import base64
from collections import deque
from typing import TYPE_CHECKING, Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

from hyper_kernel.errors import HyperError

if TYPE_CHECKING:
    from jupyter_ext.app import HyperKernelApp

#: How long the kernel may take to greet a new listener, in seconds; what it says after that is missed by nobody.
_GREETING_S = 2.0
#: So much of what comes meanwhile is held, in bytes.
_MAX_HELD = 16 << 20
_CUT = "[some of what this kernel said while the server was away is lost]"


class HyperWebsocketConnection(ZMQChannelsWebsocketConnection):
    """As the server's own, but for the first connection to a kernel that was found again, and for dead ones."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._is_dead = False
        #: What waits until the missed is out; None: nothing has to.
        self._held: deque[tuple[Any, list[bytes]]] | None = None
        self._held_size = 0
        self._is_cut = False
        #: The header of the request to which what was missed last belongs.
        self._parent: dict[str, Any] = {}
        self._greeted = asyncio.Event()
        #: Messages that were among the missed, and may come a second time.
        self._seen: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        #: Whose missed messages it has claimed and not taken yet.
        self._claimed = ""

    async def prepare(self) -> None:
        """Called before the connection is accepted; a kernel that is known to be dead is not waited for."""
        self._is_dead = getattr(self.kernel_manager, "execution_state", "") == "dead"
        if not self._is_dead:
            await super().prepare()

    def connect(self) -> "asyncio.Future[None] | None":  # type: ignore[override]  # as in our base class
        """Called once the connection is open."""
        if self._is_dead:
            self._send_status_message("dead")  # the front end asks for the reason, and offers a restart
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        self._claimed = self._app.reattach.claim(self.kernel_id)
        if self._claimed:
            self._held = deque()
        connected = super().connect()
        if self._claimed and connected is not None:
            self._task = asyncio.ensure_future(self._catch_up(connected))
        return connected

    def disconnect(self) -> None:  # type: ignore[override]  # as in our base class
        """Called when it is closed, by whichever side."""
        if self._task:
            self._task.cancel()
        if self._claimed:
            self._app.reattach.give_back(self.kernel_id, self._claimed)
            self._claimed = ""
        if not self._is_dead:
            super().disconnect()

    def handle_outgoing_message(self, stream: Any, outgoing_msg: list[Any]) -> None:
        """Called with each message of the kernel's."""
        if self._held is None:
            self._pass_on(stream, outgoing_msg)
            return
        if getattr(stream, "channel", "") == "iopub":
            self._greeted.set()
        self._held_size += sum(map(len, outgoing_msg))
        self._held.append((stream, outgoing_msg))
        while self._held_size > _MAX_HELD:  # SECURITY: a kernel says without end what nobody takes
            _, lost = self._held.popleft()
            self._held_size -= sum(map(len, lost))
            self._is_cut = True

    @property
    def _app(self) -> "HyperKernelApp":
        app: HyperKernelApp = self.websocket_handler.settings["jupyter_ext"]
        return app

    async def _catch_up(self, connected: "asyncio.Future[None]") -> None:
        """Send what was missed, then what came meanwhile."""
        await connected
        try:
            # A busy kernel is not asked for a sign of life, but says of itself that it has a new listener.
            async with asyncio.timeout(_GREETING_S):
                await self._greeted.wait()
        except TimeoutError:
            self.log.debug("kernel %s does not greet", self.kernel_id)
        sandbox, self._claimed = self._claimed, ""
        messages = await self._take_missed(sandbox)
        held, self._held = self._held or deque(), None
        limit, self.limit_rate = self.limit_rate, False  # it took its time; it only comes at once
        try:
            for channel, parts, follows_cut in messages:
                if follows_cut:
                    self._mark_cut()
                self._seen.add(self._read_id(parts))
                if channel == "iopub":
                    self._parent = self._unpack(parts, 1)
                super().handle_outgoing_message(channel, parts)
            if self._is_cut:
                self._mark_cut()
            for stream, message in held:
                self._pass_on(stream, message)
        finally:
            self.limit_rate = limit

    async def _take_missed(self, sandbox: str) -> list[tuple[str, list[bytes], bool]]:
        """Channel, parts, and whether what came before is lost."""
        hyperd = self._app.hyperd
        try:
            missed = await hyperd.call(hyperd.reader.take_missed, sandbox)
        except HyperError as exc:
            self.log.warning("what kernel %s said meanwhile is lost: %s", self.kernel_id, exc)
            self._is_cut = True
            return []
        self._is_cut = self._is_cut or missed["is_cut"]
        return [
            (each["channel"], [base64.b64decode(part) for part in each["parts"]], each["follows_cut"])
            for each in missed["messages"]
        ]

    def _pass_on(self, stream: Any, message: list[Any]) -> None:
        if self._seen:
            ident = self._read_id(message)
            if ident in self._seen:
                self._seen.discard(ident)
                return
        super().handle_outgoing_message(stream, message)

    def _mark_cut(self) -> None:
        """Say so in the cell in which it was cut, or in none where that is not known."""
        self._is_cut = False
        self.write_stderr(_CUT, self._parent)

    def _read_id(self, parts: list[Any]) -> str:
        return str(self._unpack(parts, 0).get("msg_id"))

    def _unpack(self, parts: list[Any], number: int) -> dict[str, Any]:
        """The header (0) or the parent's header (1) of a message."""
        _, rest = self.session.feed_identities(parts)
        part: dict[str, Any] = self.session.unpack(rest[1 + number])
        return part
