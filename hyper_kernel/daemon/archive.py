"""Routes of ``docker cp``: files of a running sandbox, as tar archives.

The guest packs and unpacks; hyperd only carries the bytes. It looks into one header, to answer HEAD.
"""

import base64
import io
import json
import posixpath
from collections.abc import AsyncGenerator, AsyncIterator

from hyper_kernel.daemon.box import Box
from hyper_kernel.daemon.docker_json import time_text
from hyper_kernel.daemon.routing import Answer, Routes
from hyper_kernel.daemon.sandboxes import Sandboxes
from hyper_kernel.daemon.server import Call
from hyper_kernel.daemon.shims import RefusedError, open_stream
from hyper_kernel.daemon.streams import archive_chunks
from hyper_kernel.errors import ConflictError, GuestError, NotFoundError, RequestError
from hyper_kernel.host.tar import TarReader
from hyper_kernel.sandbox.record import State
from hyper_kernel.wire import MAX_DATA, Type

#: How much of an archive is read to find its first entry, whose long names may come before it.
_HEAD = 80 * 1024
_GO_DIR, _GO_LINK = 1 << 31, 1 << 27  # os.ModeDir and os.ModeSymlink of Go, which Docker's stat header has


class Archive:
    """Answers for archives."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        for base in ("/containers/{id}", "/hyper/v1/sandboxes/{id}"):
            routes.add("HEAD", f"{base}/archive", self.head)
            routes.add("GET", f"{base}/archive", self.get)
            routes.add("PUT", f"{base}/archive", self.put)

    def _target(self, call: Call) -> tuple[Box, str]:
        box, path = self._sandboxes.get(call.params["id"]), call.query.get("path", "")
        if not path:
            raise RequestError("no path specified", hint="add ?path=/folder")
        if box.record.state is not State.RUNNING:
            raise ConflictError(
                f"container {box.record.name} is not running: files can be copied only while it runs",
                hint=f"run: hyper start {box.record.name}",
            )
        return box, path

    async def head(self, call: Call) -> Answer:
        """HEAD /containers/{id}/archive: what a path is."""
        chunks = self._open(call)
        try:
            data = await _read_head(chunks)
        finally:
            await chunks.aclose()
        return Answer(headers={"X-Docker-Container-Path-Stat": _stat_header(data, call.query["path"])})

    async def get(self, call: Call) -> None:
        """GET /containers/{id}/archive."""
        chunks = self._open(call)
        try:
            data = await _read_head(chunks)
            stat_header = _stat_header(data, call.query["path"])
            await call.begin(headers={"Content-Type": "application/x-tar", "X-Docker-Container-Path-Stat": stat_header})
            await call.write(data)
            async for chunk in chunks:
                await call.write(chunk)
        finally:
            await chunks.aclose()
        call.finish()

    async def put(self, call: Call) -> Answer:
        """PUT /containers/{id}/archive."""
        box, path = self._target(call)
        frames, _ = await open_stream(box.socket, "put", path=path)
        try:
            async for chunk in call.chunks():
                for start in range(0, len(chunk), MAX_DATA):
                    await frames.send(Type.STDIN, chunk[start : start + MAX_DATA])
            await frames.send(Type.STDIN_EOF)
            async for _ in archive_chunks(frames, f"copying to {path}"):
                pass
        except OSError:
            async for _ in archive_chunks(frames, f"copying to {path}"):
                pass
        finally:
            frames.close()
        return Answer(status=200)

    async def _open(self, call: Call) -> AsyncGenerator[bytes, None]:
        box, path = self._target(call)
        try:
            frames, _ = await open_stream(box.socket, "get", path=path)
        except RefusedError as exc:
            raise _not_found(box, path) from exc
        try:
            async for chunk in archive_chunks(frames, f"copying {path}"):
                yield chunk
        except RequestError as exc:
            if "o such file" in str(exc):
                raise _not_found(box, path) from exc
            raise
        finally:
            frames.close()


def _not_found(box: Box, path: str) -> NotFoundError:
    return NotFoundError(f"Could not find the file {path} in container {box.record.name}", hint="check the path")


async def _read_head(chunks: AsyncIterator[bytes]) -> bytes:
    data = b""
    async for chunk in chunks:
        data += chunk
        if len(data) >= _HEAD:
            break
    return data


def _stat_header(data: bytes, path: str) -> str:
    """What Docker tells of a path, from the beginning of its archive.

    :raise GuestError: the guest sent no archive.
    """
    try:
        entry = next(iter(TarReader(io.BytesIO(data))), None)
    except GuestError as exc:
        raise GuestError(f"the guest sent no archive of {path}: {exc}") from exc
    if entry is None:
        raise GuestError(f"the guest sent an empty archive of {path}")
    kinds = {"folder": _GO_DIR, "link": _GO_LINK}
    facts = {
        "name": posixpath.basename(path.rstrip("/")) or "/",
        "size": entry.size,
        "mode": entry.mode | kinds.get(entry.kind, 0),
        "mtime": time_text(entry.mtime),
        "linkTarget": entry.target if entry.kind == "link" else "",
    }
    return base64.b64encode(json.dumps(facts).encode()).decode()
