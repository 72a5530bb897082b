"""Images by the real tools: umoci, skopeo, mkfs.erofs."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyper_kernel.errors import HostError, NotFoundError, RequestError
from hyper_kernel.oci.disk import KERNEL_FOLDERS
from hyper_kernel.oci.layout import blob_path
from hyper_kernel.oci.store import Image, ImageStore
from hyper_kernel.oci.umoci import create_image
from hyper_kernel.rootfs.image import RECIPE_LABEL, build_image, check_kernel, find_built
from hyper_kernel.rootfs.recipe import Recipe, find_recipes, read_recipe

KERNEL = json.dumps({"argv": ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"})


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def layer_of(path: Path, files: dict[str, str], size: int = 0) -> Path:
    """A layer with some files, one of them large and random where a size is given; owners differ."""
    with tarfile.open(path, "w") as archive:
        contents = {name: text.encode() for name, text in files.items()}
        if size:
            contents["large"] = os.urandom(size)
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.gid, member.mtime = len(content), 1234, 1234, 1704067200
            archive.addfile(member, io.BytesIO(content))
    return path


def make_image(store: ImageStore, folder: Path, name: str, files: dict[str, str], size: int = 0) -> Image:
    layer = layer_of(folder / "layer.tar", files, size)
    with store.new_layout() as layout:
        create_image(layout, layer, env=["A=b"], cmd=["sh"], cwd="/work", labels={"x": "y"}, created_by="a test")
        return store.add(layout, name)


def what_is_left(store: ImageStore) -> list[Path]:
    return list((store.build_lock.parent / "scratch").iterdir())


def read_disk(disk: Path) -> str:
    return subprocess.run(["dump.erofs", "-s", str(disk)], check=True, capture_output=True, text=True).stdout


def test_an_image_is_made_and_its_disk_too(store: ImageStore, tmp_path: Path) -> None:
    image = make_image(store, tmp_path, "test/one", {f"{KERNEL_FOLDERS[0]}/python3/kernel.json": KERNEL})
    assert image.config.env == ("A=b",) and image.config.cmd == ("sh",) and image.config.labels == {"x": "y"}
    assert not store.has_disk(image)
    disk = store.get_disk(image)
    assert store.has_disk(image) and "0xE0F5E1E2" in read_disk(disk)
    assert store.get_kernels(image)["python3"]["language"] == "python"
    made = disk.stat()
    assert store.get_disk(image).stat().st_ino == made.st_ino, "the second time it is the same disk"
    assert what_is_left(store) == []


def test_an_image_comes_back_from_an_archive(store: ImageStore, tmp_path: Path) -> None:
    image = make_image(store, tmp_path, "test/one", {"file": "text"})
    archive, other = tmp_path / "one.tar", ImageStore(tmp_path / "other")
    source = f"oci:{image.disk.parent}:image"
    subprocess.run(["skopeo", "copy", "--quiet", source, f"oci-archive:{archive}:one"], check=True)
    taken = other.import_oci(archive, "other/name:1")
    assert (taken.id, taken.names, taken.layers) == (image.id, ("other/name:1",), image.layers)
    assert other.import_oci(image.disk.parent).id == image.id, "a layout will do as well"
    docker = tmp_path / "docker.tar"
    subprocess.run(["skopeo", "copy", "--quiet", source, f"docker-archive:{docker}:one:latest"], check=True)
    assert other.import_oci(docker, "docker").layers == image.layers
    assert what_is_left(other) == []


def test_what_is_no_archive_is_refused(store: ImageStore, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not an image")
    with pytest.raises(RequestError, match="cannot be read as an image"):
        store.import_oci(text)
    with pytest.raises(RequestError, match="holds no image"):
        store.import_oci(layer_of(tmp_path / "layer.tar", {"a": "b"}))
    with pytest.raises(RequestError, match="not the name"):
        store.import_oci(text, "Not A Name")
    assert what_is_left(store) == []


def test_an_image_without_a_kernel_is_told_early(store: ImageStore, tmp_path: Path) -> None:
    bare = make_image(store, tmp_path, "bare", {"bin/sh": "#!"})
    with pytest.raises(NotFoundError, match="image bare:latest has no Jupyter kernel") as caught:
        check_kernel(store, bare)
    assert "ipykernel" in caught.value.hint
    image = make_image(store, tmp_path, "k", {f"{KERNEL_FOLDERS[1]}/{name}/kernel.json": KERNEL for name in ("b", "a")})
    assert check_kernel(store, image) == "a" and check_kernel(store, image, "b") == "b"
    with pytest.raises(NotFoundError, match="has no kernel julia") as caught:
        check_kernel(store, image, "julia")
    assert caught.value.hint == "it has a, b"


def test_a_damaged_layer_is_named_and_a_new_copy_mends_it(store: ImageStore, tmp_path: Path) -> None:
    image = make_image(store, tmp_path, "test/one", {"file": "text"}, size=200_000)
    archive = tmp_path / "one.tar"
    source = f"oci:{image.disk.parent}:image"
    subprocess.run(["skopeo", "copy", "--quiet", source, f"oci-archive:{archive}:one"], check=True)
    layer = max((image.disk.parent / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(layer.read_bytes())
    content[len(content) // 2] ^= 0xFF
    layer.write_bytes(content)
    with pytest.raises(HostError, match=r"image test/one:latest is damaged: 1 of its blobs") as caught:
        store.get_disk(image)
    assert "hyper rmi test/one:latest" in caught.value.hint
    assert what_is_left(store) == [] and not image.disk.exists()
    store.remove("test/one")
    assert store.get_disk(store.import_oci(archive, "test/one")).exists()


def test_a_layer_that_climbs_out_stays_inside(store: ImageStore, tmp_path: Path) -> None:
    """umoci keeps what it unpacks inside the folder; this holds it to that."""
    victim = tmp_path / "victim"
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        for name, link in (("../../../victim", ""), ("out", str(tmp_path)), ("out/victim", "")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
            archive.addfile(member)
    with store.new_layout() as layout:
        create_image(layout, tmp_path / "evil.tar", env=[], cmd=[], cwd="/", labels={}, created_by="a test")
        image = store.add(layout, "evil")
    store.get_disk(image)
    assert not victim.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB, in a mount namespace's tmpfs where this user may mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    store = ImageStore(small_disk / "images")
    image = make_image(store, tmp_path, "test/one", {"file": "text"}, size=2 << 20)
    with pytest.raises(HostError, match=r"needs \d+ MiB in .*/scratch, which has \d+ MiB free") as caught:
        store.get_disk(image)
    assert "HYPER_HOME" in caught.value.hint
    assert what_is_left(store) == []


def test_a_disk_that_fills_up_on_the_way_is_told_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    """A layer that unpacks to far more than was reckoned with."""
    store = ImageStore(small_disk / "images")
    layer = tmp_path / "zeros.tar"
    with tarfile.open(layer, "w") as archive:
        member = tarfile.TarInfo("zeros")
        member.size = 64 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with store.new_layout() as layout:
        create_image(layout, layer, env=[], cmd=[], cwd="/", labels={}, created_by="a test")
        image = store.add(layout, "zeros")
    with pytest.raises(HostError, match="filled up") as caught:
        store.get_disk(image)
    assert "HYPER_HOME" in caught.value.hint
    assert what_is_left(store) == [] and not store.has_disk(image)


def make_in_child(folder: Path, scratch: Path) -> None:
    make_image(store := ImageStore(folder), scratch, "test/one", {"file": "text"}, size=60 << 20)
    store.get_disk(store.get("test/one"))


def test_what_a_killed_process_left_is_swept(store: ImageStore, tmp_path: Path) -> None:
    folder = store.build_lock.parent
    child = multiprocessing.get_context("fork").Process(target=make_in_child, args=(folder, tmp_path))
    child.start()
    deadline = time.monotonic() + 60
    while not what_is_left(store):  # the store tells nobody of its scratch, so there is no event to wait for
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    store.sweep()
    deadline = time.monotonic() + 30
    while what_is_left(store) and time.monotonic() < deadline:  # umoci, orphaned, ends when its output is closed
        time.sleep(0.1)
        store.sweep()
    assert what_is_left(store) == []
    assert all(store.get_disk(image).exists() for image in store.images()), "what had been finished works"


def test_a_build_that_fails_leaves_nothing_and_says_why(store: ImageStore, tmp_path: Path, monkeypatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    recipe = Recipe(
        name="test/none",
        packages=(),
        requirements=("no-such-wheel-at-all==0",),
        run=(),
        env=(),
        cmd=(),
        cwd="/",
        labels={},
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(HostError, match="no-such-wheel-at-all") as caught:
        build_image(store, recipe, lambda what: None)
    assert "pip reaches its package index" in caught.value.hint
    assert list(temporary.iterdir()) == [] and what_is_left(store) == [] and store.images() == []


def test_an_image_of_the_same_recipe_is_not_built_again(store: ImageStore, tmp_path: Path) -> None:
    recipe = read_recipe(find_recipes() / "python")
    layer = layer_of(tmp_path / "layer.tar", {"a": "b"})
    with store.new_layout() as layout:
        labels = {RECIPE_LABEL: "key"}
        create_image(layout, layer, env=[], cmd=[], cwd="/", labels=labels, created_by="a test")
        image = store.add(layout, recipe.name)
    assert find_built(store, recipe, "key") == image
    assert find_built(store, recipe, "another key") is None
    blob_path(image.disk.parent, image.id).unlink()
    assert find_built(store, recipe, "key") is None, "a damaged image is built again"
