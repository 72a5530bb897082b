"""``folder`` streams: a folder of the host, mounted in the image by 9P over the stream itself."""

import os

from guest import kernel_calls, machine
from guest.children import ask_inside
from guest.frames import Frames
from hyper_kernel import wire

#: access=any: the host serves everybody in here as one user. cache=mmap: what is mapped is cached, as SQLite's shared
#: memory needs, and all else is as the host has it now.
_OPTIONS = f"trans=fd,version=9p2000.L,aname={wire.FOLDER},uname={wire.FOLDER_USER}"
_OPTIONS += f",msize={wire.FOLDER_MSIZE},access=any,cache=mmap,nosuid,nodev"


def mount_folder(frames: Frames, root: str, path: str, *, read_only: bool) -> None:
    """Let the stream carry a mount at ``path`` in the image, which is made where it is missing.

    :raise OSError: a module cannot be loaded, or the host does not serve.
    """
    machine.load_modules("/modules-9p")
    fd = frames.sock.fileno()
    options = f"{_OPTIONS},rfdno={fd},wfdno={fd}{',ro' if read_only else ''}"

    def mount() -> None:
        os.makedirs(path, exist_ok=True)
        kernel_calls.mount("folder", path, "9p", options)

    ask_inside(root, mount)
    os.close(frames.sock.detach())  # the mount holds the connection from here on; nobody may shut it down
