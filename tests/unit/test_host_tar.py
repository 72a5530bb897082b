"""Archives that a guest made, honest and hostile."""

import io
import os
import tarfile

import pytest

from hyper_kernel.errors import GuestError, HostError
from hyper_kernel.host.tar import MAX_EXTENDED, TarReader, extract


def archive(*entries, format=tarfile.PAX_FORMAT):
    """A tar file of ``(path, content or type, fields)``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for path, content, *fields in entries:
            entry = tarfile.TarInfo(path)
            entry.mode = 0o644
            for name, value in (fields[0] if fields else {}).items():
                setattr(entry, name, value)
            if content is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return io.BytesIO(buffer.getvalue())


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_folder_comes_out_as_it_went_in(tmp_path, format):
    deep = "top/" + "/".join(["sub" * 8] * 6)
    entries = [("top", None), ("top/a", b"x" * 1000), (f"{deep}/b", b"", {"mode": 0o4755, "mtime": 1000})]
    assert extract(archive(*entries, format=format), tmp_path, "new") == 0
    assert (tmp_path / "new/a").read_bytes() == b"x" * 1000
    last = tmp_path / deep.replace("top", "new", 1) / "b"
    assert last.stat().st_mode & 0o7777 == 0o755
    assert last.stat().st_mtime == 1000


def test_long_names_and_other_letters_come_out(tmp_path):
    name = "é" * 120
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        extract(archive((f"top/{name}", b"1"), format=format), tmp_path, "n")
        assert (tmp_path / "n" / name).read_bytes() == b"1"


def test_one_file_takes_the_new_name(tmp_path):
    extract(archive(("old.txt", b"1")), tmp_path, "new.txt")
    assert os.listdir(tmp_path) == ["new.txt"]


@pytest.mark.parametrize("path", ["top/../../x", "..", "a/b/../../../x", "top/.."])
def test_a_path_that_leads_out_is_refused(tmp_path, path):
    inside = tmp_path / "in"
    inside.mkdir()
    with pytest.raises(GuestError, match="outside"):
        extract(archive((path, b"1")), inside, "new")
    assert os.listdir(tmp_path) == ["in"]


def test_an_absolute_path_lands_inside(tmp_path):
    extract(archive(("/etc/passwd", b"1")), tmp_path, "new")
    assert (tmp_path / "new/passwd").read_bytes() == b"1"


def test_links_and_devices_are_left_out_and_never_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    inside = tmp_path / "in"
    inside.mkdir()
    hostile = archive(
        ("t", None),
        ("t/link", b"", {"type": tarfile.SYMTYPE, "linkname": str(outside)}),
        ("t/hard", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}),
        ("t/null", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("t/link/file", b"1"),
    )
    assert extract(hostile, inside, "t") == 3
    assert (inside / "t/link/file").read_bytes() == b"1"
    assert list(outside.iterdir()) == []


def test_links_that_stand_in_the_way_are_refused(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "new/file").symlink_to(tmp_path / "secret")
    (tmp_path / "new/folder").symlink_to(tmp_path)
    for path in ("t/file", "t/folder/secret"):
        with pytest.raises(HostError):
            extract(archive((path, b"theirs")), tmp_path, "new")
    assert (tmp_path / "secret").read_text() == "mine"


def test_sizes_are_bounded(tmp_path):
    with pytest.raises(GuestError, match="larger than 100 bytes"):
        extract(archive(("t/a", bytes(60)), ("t/b", bytes(60))), tmp_path, "t", max_bytes=100)
    huge = bytearray(archive(("t", b"")).getvalue())
    huge[124:136] = b"\x80" + (1 << 60).to_bytes(11, "big")
    huge[148:156] = b"%06o\0 " % (sum(huge[:148]) + 256 + sum(huge[156:512]))
    with pytest.raises(GuestError, match="larger than"):
        extract(io.BytesIO(huge), tmp_path, "t")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_an_extended_header_is_held_only_to_a_limit(kind):
    header = bytearray(archive(("t", b"")).getvalue()[:512])
    header[156:157] = kind
    header[124:136] = b"%011o\0" % (MAX_EXTENDED + 1)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
    with pytest.raises(GuestError, match="over the limit"):
        list(TarReader(io.BytesIO(bytes(header) + bytes(MAX_EXTENDED + 1024))))


@pytest.mark.parametrize(
    "pax", [b"99 path=x\n", b"0 path=x\n", b"x", b"3 \n\n", b"18 size=xxxxxxxxxx\n", b"12 size=-50\n", b"\xb2 path=x\n"]
)
def test_a_damaged_pax_header_is_an_error_and_nothing_else(pax):
    header = bytearray(archive(("t", b"")).getvalue()[:512])
    header[156:157] = b"x"
    header[124:136] = b"%011o\0" % len(pax)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
    with pytest.raises(GuestError):
        list(TarReader(io.BytesIO(bytes(header) + pax.ljust(512, b"\0") + archive(("t", b"")).getvalue())))


def test_damage_and_ends_in_the_middle_are_errors_and_nothing_else(tmp_path):
    whole = archive(("t", None), ("t/a", b"x" * 3000)).getvalue()
    for length in range(0, 4096, 128):
        try:
            extract(io.BytesIO(whole[:length]), tmp_path, "t")
        except GuestError:
            continue
        assert length in (0, 512)
    for place in range(0, 512, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        with pytest.raises(GuestError):
            extract(io.BytesIO(damaged), tmp_path, "t")
