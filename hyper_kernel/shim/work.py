"""A kernel's folder: the host's files go in as a copy, and what the guest wrote goes on to the machine that follows,
or is kept for people to look at."""

import asyncio
import io
import logging
import time
from pathlib import Path
from typing import IO

from hyper_kernel import wire
from hyper_kernel.agent.agent import Agent
from hyper_kernel.errors import GuestError, HostError, LostError
from hyper_kernel.host.tar import TarReader
from hyper_kernel.limits import MAX_COPY_BYTES
from hyper_kernel.link import Frames
from hyper_kernel.review.changes import carry_base, plan_changes, plan_fetch
from hyper_kernel.review.kept import (
    MAX_LISTING,
    Review,
    drop_review,
    parse_listing,
    read_base,
    stage,
    write_base,
    write_review,
)
from hyper_kernel.sandbox.kernel import WORK
from hyper_kernel.shim.folder import open_archive, plan_copy
from hyper_kernel.wire import Type

log = logging.getLogger(__name__)


#: What an archive's headers add to the files in it, at most, in bytes.
_HEADERS = 64 << 20


class Work:
    """The folder of one guest.

    :param agent: the guest's.
    :param folder: the sandbox's, with the file that carries what a guest wrote to the next one.
    """

    def __init__(self, agent: Agent, folder: Path) -> None:
        self._agent = agent
        self._folder = folder
        self._kept = folder / "work.tar"
        self._looking = asyncio.Lock()

    async def fill(self, folder: str) -> str:
        """Put a copy of a host's folder in, then what an earlier guest wrote; what was left out, for people, or empty.

        :param folder: none where empty.
        :raise RequestError: the folder cannot be read.
        :raise GuestError: the guest cannot store it.
        """
        drop_review(self._folder)
        left_out, base = await self._copy(Path(folder)) if folder else (0, {})
        if self._kept.exists():
            base = await asyncio.to_thread(self._carry, base)
            with self._kept.open("rb") as archive:
                await self._put(archive, "putting back what the kernel wrote", base=False)
            self._kept.unlink()
        write_base(self._folder, base)
        what = "entry of the folder was" if left_out == 1 else "entries of the folder were"
        return f"{left_out} {what} not copied (hidden, a link, or over the limit)" if left_out else ""

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
                await self._get(archive, limit=MAX_COPY_BYTES)
        except BaseException as exc:
            self._kept.unlink(missing_ok=True)
            if isinstance(exc, OSError):
                raise HostError(f"cannot keep what the kernel wrote: {exc}", hint="free some space") from exc
            raise
        return count

    async def review(self) -> Review:
        """Look at what the guest's kernel changed, and keep it as it is now.

        :raise GuestError: the guest fails, or hands over what is no archive or too much.
        :raise HostError: the disk refuses.
        """
        async with self._looking:
            seen = parse_listing(await self._list())
            new = [one for one in seen.values() if one.is_new]
            max_size = plan_fetch(new, MAX_COPY_BYTES)
            wanted = [one.path for one in new if one.kind == "f" and one.size <= max_size]
            archive = self._folder / "review.tar"
            try:
                with archive.open("w+b") as file:
                    if wanted:
                        await self._get(file, max_size=max_size, limit=MAX_COPY_BYTES + _HEADERS)
                    file.seek(0)
                    kept = await asyncio.to_thread(stage, file, self._folder, wanted)
            except OSError as exc:
                raise HostError(f"cannot keep what the kernel wrote: {exc}", hint="free some space") from exc
            finally:
                archive.unlink(missing_ok=True)
            is_whole = len(seen) < wire.MAX_LISTED
            changes = plan_changes(seen, kept, read_base(self._folder), is_whole=is_whole)
            notes = (f"there are {wire.MAX_LISTED} files or more: not all of them were looked at",) * (not is_whole)
            review = Review(taken_s=time.time(), changes=tuple(changes[: wire.MAX_CHANGES]), notes=notes)
            await asyncio.to_thread(write_review, self._folder, review)
            return review

    async def _copy(self, folder: Path) -> tuple[int, dict[str, str]]:
        """How many entries were left out, and what was copied."""
        plan, base = await asyncio.to_thread(plan_copy, folder), {}
        if plan.paths:
            with open_archive(folder, plan) as archive:
                base = archive.base
                await self._put(archive.file, f"copying {folder} into the sandbox", base=True)
        log.info("copied %d entries of %s, left out %d", len(plan.paths), folder, plan.left_out)
        return plan.left_out, base

    def _carry(self, base: dict[str, str]) -> dict[str, str]:
        """What the files of the next machine are compared with."""
        before = read_base(self._folder)
        try:
            with self._kept.open("rb") as archive:
                written = [entry.path.rstrip("/") for entry in TarReader(archive)]
        except GuestError:  # it is no archive of ours: then all may have been written
            written = [*before]
        return carry_base(base, before, written)

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

    async def _list(self) -> bytes:
        listing = io.BytesIO()
        await self._receive(await self._agent.open("list", path=WORK), listing, MAX_LISTING)
        return listing.getvalue()

    async def _get(self, archive: IO[bytes], *, limit: int, **options: int) -> None:
        await self._receive(await self._agent.open("get", path=WORK, changes=True, **options), archive, limit)

    async def _receive(self, stream: Frames, file: IO[bytes], limit: int) -> None:
        """Write what a stream of the guest's carries, up to its exit."""
        size = 0
        try:
            async for kind, payload in stream:
                size += len(payload)
                # SECURITY: the guest decides what comes; it is kept as bytes, and so much of it.
                if size > limit:
                    raise GuestError(f"the kernel wrote more than {limit >> 20} MiB of files")
                if kind is Type.STDOUT:
                    file.write(payload)
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
