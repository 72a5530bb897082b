"""What the guest's files are made of: initial RAM disk, kernel, modules, packages; and when they count as built."""

import json
import lzma
import struct
import subprocess

import pytest

from hyper_kernel.errors import HostError
from hyper_kernel.paths import Paths
from hyper_kernel.rootfs import debian, guest
from hyper_kernel.rootfs.initrd import make_initrd
from hyper_kernel.rootfs.kernel import Modules, unpack_kernel


@pytest.fixture
def paths(tmp_path):
    return Paths(data=tmp_path / "data", state=tmp_path / "state", run=tmp_path / "run", config=tmp_path)


def read_cpio(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Name to mode and content, by the format's description."""
    entries, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = at + 110 + name_size + -(110 + name_size) % 4
        if name == "TRAILER!!!":
            return entries
        entries[name] = (mode, archive[start : start + size])
        at = start + size + -size % 4


def test_initrd_holds_console_modules_and_script():
    entries = read_cpio(
        make_initrd(b"BUSYBOX", {"one": b"1", "two": b"22"}, ["/usr/bin/python3.11", "-m", "guest.init"])
    )
    assert entries["dev/console"][0] == 0o20600
    assert entries["bin/busybox"] == (0o100755, b"BUSYBOX")
    assert entries["two.ko"][1] == b"22"
    script = entries["init"][1].decode()
    assert "for module in one two;" in script
    assert script.endswith("switch_root /system /usr/bin/python3.11 -m guest.init\n")


def test_initrd_is_reproducible():
    assert make_initrd(b"b", {"m": b"x"}, ["i"]) == make_initrd(b"b", {"m": b"x"}, ["i"])


def make_bzimage(payload: bytes) -> bytes:
    image = bytearray(1024)
    image[0x1F1], image[0x202:0x206] = 1, b"HdrS"
    struct.pack_into("<II", image, 0x248, 0, len(payload))
    return bytes(image) + payload + b"after"


def test_kernel_is_unpacked_from_its_image():
    elf = b"\x7fELF" + bytes(5000)
    size = struct.pack("<I", len(elf))
    assert unpack_kernel(make_bzimage(lzma.compress(elf) + size)) == elf


@pytest.mark.parametrize("payload", [b"unknown compression", lzma.compress(b"no ELF"), b""])
def test_kernel_that_cannot_be_unpacked_stays_as_it_is(payload):
    image = make_bzimage(payload)
    assert unpack_kernel(image) == image
    assert unpack_kernel(b"short") == b"short"


@pytest.fixture
def modules(tmp_path):
    folder = tmp_path / "modules"
    (folder / "kernel").mkdir(parents=True)
    for name, depends in {"virtio-blk": "virtio,ring", "virtio": "ring", "ring": "", "alone": "built_in"}.items():
        (folder / f"kernel/{name}.ko").write_bytes(f"ELF\0depends={depends}\0name={name}\0".encode())
    (folder / "kernel/packed.ko.xz").write_bytes(lzma.compress(b"\0depends=ring\0"))
    (folder / "modules.builtin").write_text("kernel/built-in.ko\n")
    return Modules(folder)


def test_modules_come_after_what_they_need(modules):
    assert list(modules.load_order(["virtio_blk", "alone", "built_in"])) == ["ring", "virtio", "virtio_blk", "alone"]
    assert modules.load_order(["packed"])["packed"] == b"\0depends=ring\0"


def test_missing_module_is_named(modules):
    with pytest.raises(HostError, match="no module nope"):
        modules.load_order(["nope"])


def test_package_is_read_from_apts_words():
    package = debian._read_package(
        "Package: python3.11-minimal\nVersion: 3.11.2-6\nDescription: a\n long: text\n"
        "Pre-Depends: libc6 (>= 2.35)\nDepends: libpython3.11-minimal (= 3.11.2-6), aa | bb, zlib1g:amd64\n"
        "Size: 2064400\nSHA256: abc"
    )
    assert package == debian.Package(
        name="python3.11-minimal",
        version="3.11.2-6",
        size=2064400,
        sha256="abc",
        depends=("libc6", "libpython3.11-minimal", "aa", "zlib1g"),
    )


def test_installed_package_without_an_archive_does_not_count():
    assert debian._read_package("Package: p\nStatus: install ok installed\nVersion: 1") is None


def test_unpack_takes_what_is_wanted(tmp_path):
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "usr/bin").mkdir(parents=True)
    (root / "DEBIAN/control").write_text("Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m\nDescription: d\n")
    (root / "usr/bin/tool").write_bytes(b"tool")
    (root / "usr/bin/link").symlink_to("tool")
    (root / "usr/bin/other").write_bytes(b"")
    archive = tmp_path / "p.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(root), str(archive)], check=True, capture_output=True)
    debian.unpack(archive, tmp_path / "out", lambda path: not path.endswith("other"))
    assert sorted(path.name for path in (tmp_path / "out/usr/bin").iterdir()) == ["link", "tool"]
    assert (tmp_path / "out/usr/bin/link").read_bytes() == b"tool"


def test_damaged_package_is_an_error(tmp_path):
    archive = tmp_path / "p.deb"
    archive.write_bytes(b"no package")
    with pytest.raises(HostError, match="cannot unpack"):
        debian.unpack(archive, tmp_path / "out")


def make_built(paths: Paths, source: str) -> None:
    folder = paths.guest / "1.0-abc"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"source": source}))
    (paths.guest / "current").symlink_to(folder.name)


def test_guest_that_is_not_built_says_what_to_run(paths):
    assert guest.find_guest(paths) is None
    with pytest.raises(HostError) as caught:
        guest.get_guest(paths)
    assert caught.value.hint == "run: hyper setup"


def test_guest_of_other_sources_does_not_count(paths):
    make_built(paths, "of another version")
    assert guest.find_guest(paths) is None


def test_guest_of_these_sources_is_found(paths):
    make_built(paths, guest._source_digest(guest._read_sources()))
    found = guest.get_guest(paths)
    assert found.version == "1.0-abc"
    assert found.kernel == paths.guest / "1.0-abc/vmlinuz"
    assert "console=ttyS0 panic=-1" in found.cmdline


def test_sources_are_the_guest_and_the_contract_alone():
    sources = guest._read_sources()
    assert {"guest/init.py", "guest/agent.py", "hyper_kernel/wire.py", "hyper_kernel/__init__.py"} <= sources.keys()
    assert not [
        path for path in sources if path.startswith("hyper_kernel/") and "wire" not in path and "init" not in path
    ]


def test_old_versions_go_but_the_one_before_stays(paths):
    for name in ("a", "b", "c"):
        (paths.guest / name).mkdir(parents=True)
        guest._switch(paths.guest, paths.guest / name)
    assert sorted(path.name for path in paths.guest.iterdir()) == ["b", "c", "current"]
    assert (paths.guest / "current").resolve().name == "c"
