"""The initial RAM disk: modules, in the order they are loaded in, and a script that mounts the system image.

An archive in the kernel's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst), uncompressed:
under software emulation unpacking costs more than reading.
"""

import stat
from collections.abc import Mapping, Sequence

#: /dev moves along: without /dev/urandom Python does not start on a processor that has no random instruction. Loading
#: the modules with one modprobe, or without their signatures, takes as long [measured].
_INIT = """\
#!/bin/busybox sh
for module in {modules}; do /bin/busybox insmod /$module.ko; done
/bin/busybox mount -t devtmpfs dev /dev
while ! /bin/busybox mount -t erofs -o ro /dev/vda /system 2>/dev/null; do /bin/busybox usleep 5000; done
/bin/busybox mount -o move /dev /system/dev
exec /bin/busybox switch_root /system {init}
"""


def make_initrd(busybox: bytes, modules: Mapping[str, bytes], init: Sequence[str]) -> bytes:
    """The archive.

    :param busybox: a static busybox.
    :param modules: name to content of each kernel module, in the order they must be loaded in.
    :param init: the command in the system image that becomes process 1.
    """
    script = _INIT.format(modules=" ".join(modules), init=" ".join(init))
    entries = [
        *(_entry(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev", "system")),
        # The kernel opens /dev/console for process 1 before anything is mounted there.
        _entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        _entry("bin/busybox", stat.S_IFREG | 0o755, busybox),
        *(_entry(f"{name}.ko", stat.S_IFREG | 0o644, content) for name, content in modules.items()),
        _entry("init", stat.S_IFREG | 0o755, script.encode()),
        _entry("TRAILER!!!", 0),
    ]
    return b"".join(entries)


def _entry(name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One member: owner root, time zero, so that the same input gives the same archive."""
    encoded = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device of the file (2), device it is (2), length of name, checksum
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
