"""hyperd with fake shims and a fake image: ``python -m tests.fakes.hyperd [hyperd's options]``."""

import asyncio
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from hyper_kernel.daemon.__main__ import parse_options, set_up_log, tell_ready
from hyper_kernel.daemon.admission import Admission
from hyper_kernel.daemon.app import run
from hyper_kernel.errors import NotFoundError
from hyper_kernel.host.memory import Memory, read_memory
from hyper_kernel.oci.layout import ImageConfig
from hyper_kernel.oci.store import Image
from hyper_kernel.paths import find_paths


class FakeShims:
    """Starts each shim as a process of its own; clones that shall be kept are "parked" at once."""

    def __init__(self, images):
        self._images = images
        self._children = []
        self._kept = {}

    async def start(self):
        pass

    async def get(self, record, listener):
        for child in self._children:
            child.poll()
        fd = listener.fileno()
        argv = [sys.executable, "-m", "tests.fakes.shim", record.id, str(fd)]
        child = subprocess.Popen(argv, start_new_session=True, pass_fds=[fd])
        self._children.append(child)
        return child.pid

    async def close(self):
        pass

    @property
    def is_kept(self):
        return bool(self._kept)

    @property
    def parked(self):
        return sum(keep.count for keep in self._kept.values())

    async def keep(self, keep):
        shape = keep.shape(self._images)
        self._kept.pop(shape, None)
        if keep.count:
            self._kept[shape] = keep

    def describe(self):
        return [
            asdict(shape)
            | {
                "image": self._images.get(shape.image_id).names[0],
                "parked": keep.count,
                "warming": 0,
                "target": keep.count,
                "kept": keep.count,
                "doing": "",
                "problem": "",
            }
            for shape, keep in self._kept.items()
        ]


class FakeImages:
    """One image, ``hyper/python:latest``, whose programs are the host's."""

    def __init__(self):
        config = ImageConfig(env=("IMAGE=yes",), cmd=("sh", "-c", "echo hello from cmd"), labels={"kind": "fake"})
        self._images = [
            Image(
                id="sha256:" + "ab" * 32,
                names=("hyper/python:latest", "python:latest"),
                manifest="sha256:" + "cd" * 32,
                config=config,
                created="2026-01-02T03:04:05Z",
                size=12_345_678,
                layers=("sha256:" + "ef" * 32,),
                disk=Path("/nowhere/disk.erofs"),
            )
        ]

    def images(self):
        return self._images

    def get_kernels(self, image):
        return {"python3": {"argv": ["python3", "-m", "ipykernel_launcher"], "language": "python"}}

    def find(self, ref):
        for image in self._images:
            if ref in image.names or f"{ref}:latest" in image.names or image.id.startswith((ref, f"sha256:{ref}")):
                return image
        return None

    def get(self, ref):
        if image := self.find(ref):
            return image
        raise NotFoundError(f"there is no image {ref}", hint="images here: hyper/python:latest")


def read_fake_memory():
    """What the file ``memory`` in the home says, in MiB of 24 GiB; this host's memory where there is none."""
    try:
        free_mib = int((Path(os.environ["HYPER_HOME"]) / "memory").read_text())
    except OSError:
        return read_memory()
    return (Memory(name="this host", total_bytes=24 << 30, available_bytes=free_mib << 20),)


def main():
    options = parse_options()
    if options.detach and os.fork():
        return
    set_up_log(options.log_level)
    images = FakeImages()
    asyncio.run(
        run(
            find_paths(),
            FakeShims(images),
            images,
            idle_exit_s=options.idle_exit_s,
            on_ready=lambda: tell_ready(options.ready_fd),
            admission=Admission(read_fake_memory),
        )
    )


if __name__ == "__main__":
    main()
