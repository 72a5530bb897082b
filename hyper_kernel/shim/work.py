"""A kernel's folder: the host's files go in as a copy, and what the guest wrote goes on to the machine that follows."""

import asyncio
import logging
from pathlib import Path
from typing import IO

from hyper_kernel import wire
from hyper_kernel.agent.agent import Agent
from hyper_kernel.errors import GuestError, HostError, LostError
from hyper_kernel.limits import MAX_COPY_BYTES
from hyper_kernel.link import Frames
from hyper_kernel.sandbox.kernel import WORK
from hyper_kernel.shim.folder import open_archive, plan_copy
from hyper_kernel.wire import Type

log = logging.getLogger(__name__)


class Work:
    """The folder of one guest.

    :param agent: the guest's.
    :param kept: the file that carries what a guest wrote to the next one.
    """

    def __init__(self, agent: Agent, kept: Path) -> None:
        self._agent = agent
        self._kept = kept

    async def fill(self, folder: str) -> str:
        """Put a copy of a host's folder in, then what an earlier guest wrote; what was left out, for people, or empty.

        :param folder: none where empty.
        :raise RequestError: the folder cannot be read.
        :raise GuestError: the guest cannot store it.
        """
        left_out = await self._copy(Path(folder)) if folder else 0
        if self._kept.exists():
            with self._kept.open("rb") as archive:
                await self._put(archive, "putting back what the kernel wrote", base=False)
            self._kept.unlink()
        return f"{left_out} entries of the folder were not copied (hidden, links, or over the limit)" * bool(left_out)

    async def keep(self) -> int:
        """Keep what the guest wrote for the one that follows; how many entries.

        :raise GuestError: it is too much, or the guest fails; nothing is kept then.
        :raise HostError: the disk refuses; nothing is kept then, too.
        """
        count = (await self._agent.request("changes", path=WORK)).get("count")
        # SECURITY: the guest says it; what is no count must not get any further.
        if not isinstance(count, int) or count < 0:
            raise GuestError("the guest does not say how much its kernel wrote")
        if count == 0:
            return 0
        if count >= wire.MAX_CHANGES:  # it counts no further: not all would be kept
            raise GuestError(f"the kernel wrote {wire.MAX_CHANGES} files or more")
        try:
            with self._kept.open("wb") as archive:
                await self._get(archive)
        except BaseException as exc:
            self._kept.unlink(missing_ok=True)
            if isinstance(exc, OSError):
                raise HostError(f"cannot keep what the kernel wrote: {exc}", hint="free some space") from exc
            raise
        return count

    async def _copy(self, folder: Path) -> int:
        plan = await asyncio.to_thread(plan_copy, folder)
        if plan.paths:
            with open_archive(folder, plan) as archive:
                await self._put(archive, f"copying {folder} into the sandbox", base=True)
        log.info("copied %d entries of %s, left out %d", len(plan.paths), folder, plan.left_out)
        return plan.left_out

    async def _put(self, archive: IO[bytes], what: str, *, base: bool) -> None:
        stream = await self._agent.open("put", path=WORK, base=base)
        try:
            while data := archive.read(wire.MAX_DATA):
                await stream.send(Type.STDIN, data)
            await stream.send(Type.STDIN_EOF)
            await expect_success(stream, what)
        except ConnectionError as exc:
            raise LostError(f"{what} failed: the guest ended the connection") from exc
        except wire.WireError as exc:
            raise GuestError(f"{what} failed: the guest broke the contract: {exc}") from exc
        finally:
            stream.close()

    async def _get(self, archive: IO[bytes]) -> None:
        stream = await self._agent.open("get", path=WORK, changes=True)
        size = 0
        try:
            async for kind, payload in stream:
                size += len(payload)
                # SECURITY: the guest decides what comes; it is only kept as bytes, for a guest, and so much of it.
                if size > MAX_COPY_BYTES:
                    raise GuestError(f"the kernel wrote more than {MAX_COPY_BYTES >> 20} MiB of files")
                if kind is Type.STDOUT:
                    archive.write(payload)
                elif kind is Type.EXIT and wire.parse(kind, payload).get("code") == 0:
                    return
            raise GuestError("the guest did not hand over what its kernel wrote")
        except wire.WireError as exc:
            raise GuestError(f"the guest broke the contract: {exc}") from exc
        finally:
            stream.close()


async def expect_success(stream: Frames, what: str) -> None:
    """Read a put stream to its exit.

    :raise GuestError: it failed, with the guest's reason.
    :raise WireError: the guest broke the contract.
    """
    words = b""
    async for kind, payload in stream:
        if kind is Type.STDERR:
            words = (words + payload)[-2000:]
        elif kind is Type.EXIT:
            if wire.parse(kind, payload).get("code") == 0:
                return
            break
    raise GuestError(f"{what} failed: {words.decode(errors='replace').strip() or 'the guest gave no reason'}")
