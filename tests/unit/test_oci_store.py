"""The image store over layouts written by hand: no tool is run."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from hyper_kernel.errors import HostError, NotFoundError, RequestError
from hyper_kernel.oci.disk import find_kernels, resolve_inside
from hyper_kernel.oci.layout import DamagedError, ImageConfig, blob_path, parse_config
from hyper_kernel.oci.store import Image, ImageStore


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def put(store: ImageStore, name: str = "", **config: Any) -> Image:
    """An image of one layer of eight bytes."""
    with store.new_layout() as layout:
        layer = add_blob(layout, b"a layer\n")
        document = {"architecture": "amd64", "created": "2026-01-01T00:00:00Z", "config": config}
        document["rootfs"] = {"type": "layers", "diff_ids": [layer["digest"]]}
        manifest = {"schemaVersion": 2, "config": add_blob(layout, json.dumps(document).encode()), "layers": [layer]}
        index = {"schemaVersion": 2, "manifests": [add_blob(layout, json.dumps(manifest).encode())]}
        (layout / "index.json").write_text(json.dumps(index))
        return store.add(layout, name)


def add_blob(layout: Path, content: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    blob_path(layout, digest).write_bytes(content)
    return {"digest": digest, "size": len(content)}


def test_an_image_is_found_by_every_way_to_name_it(store: ImageStore) -> None:
    image = put(store, "hyper/python", Env=["A=b"], Cmd=["sh"], WorkingDir="/work", User="1000", Labels={"a": "b"})
    assert image.names == ("hyper/python:latest",)
    assert image.config == ImageConfig(
        env=("A=b",), cmd=("sh",), cwd="/work", user="1000", labels={"a": "b"}, architecture="amd64"
    )
    short = image.id.removeprefix("sha256:")[:12]
    by_digest = f"hyper/python@{image.manifest}"
    for ref in ("hyper/python", "docker.io/hyper/python:latest", image.id, short, f"sha256:{short}", by_digest):
        assert store.find(ref) == image, ref
    assert store.images() == [image]


def test_what_is_not_there_is_none_or_an_error_that_lists_what_is(store: ImageStore) -> None:
    with pytest.raises(NotFoundError, match="there is no image nothing") as caught:
        store.get("nothing")
    assert "hyper setup" in caught.value.hint
    put(store, "one")
    assert store.find("nothing") is None and store.find("0000") is None
    with pytest.raises(NotFoundError) as caught:
        store.get("nothing")
    assert "one:latest" in caught.value.hint
    with pytest.raises(RequestError):
        store.find("../names.json")


def test_a_name_moves_and_the_last_one_takes_the_image_with_it(store: ImageStore) -> None:
    first, second = put(store, "a", Cmd=["1"]), put(store, "a", Cmd=["2"])
    assert store.get("a").id == second.id and store.get(first.id).names == ()
    both = store.tag(second, "b:1")
    assert both.names == ("a:latest", "b:1")
    assert store.remove("a") == ["a:latest"]
    assert store.remove("b:1") == ["b:1", second.id]
    assert [image.id for image in store.images()] == [first.id]
    assert store.remove(first.id) == [first.id]
    assert list((store.build_lock.parent / "blobs/sha256").iterdir()) == []
    with pytest.raises(NotFoundError):
        store.remove("a")


def test_a_blob_in_use_by_another_image_stays(store: ImageStore) -> None:
    first, second = put(store, "a", Cmd=["1"]), put(store, "b", Cmd=["2"])
    store.remove("a")
    assert store.get("b") == second and first.layers == second.layers


def test_an_unfinished_layout_leaves_nothing(store: ImageStore) -> None:
    with pytest.raises(KeyboardInterrupt), store.new_layout():
        raise KeyboardInterrupt
    assert store.images() == [] and list((store.build_lock.parent / "scratch").iterdir()) == []


def test_a_damaged_image_is_named_and_can_be_removed(store: ImageStore) -> None:
    image = put(store, "a")
    document = blob_path(image.disk.parent, image.id)
    document.write_bytes(document.read_bytes()[:-1] + b" ")
    with pytest.raises(HostError, match=r"image a:latest is damaged.*do not match its digest") as caught:
        store.get("a")
    assert "hyper rmi a:latest" in caught.value.hint
    assert store.images() == []
    assert store.remove("a") == ["a:latest", image.id]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"manifests": []}', '{"manifests": [{"digest": "sha256:../../../etc/passwd"}]}']
)
def test_a_layout_without_an_image_is_refused(store: ImageStore, text: str) -> None:
    with store.new_layout() as layout:
        (layout / "index.json").write_text(text)
        with pytest.raises(DamagedError):
            store.add(layout, "a")


def test_a_configuration_may_leave_out_or_null_anything() -> None:
    assert parse_config({}) == parse_config({"config": None}) == ImageConfig(labels={})
    assert parse_config({"config": {"Env": None, "Labels": None, "Cmd": None, "User": None}}) == ImageConfig(labels={})


@pytest.mark.parametrize("config", [{"Env": "A=b"}, {"Cmd": [1]}, {"User": 1000}, {"Labels": {"a": 1}}])
def test_a_configuration_of_wrong_types_is_damaged(config: dict[str, Any]) -> None:
    with pytest.raises(DamagedError):
        parse_config({"config": config})


def test_kernelspecs_are_found_and_links_do_not_lead_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    spec = json.dumps({"argv": ["python3"]})
    (secret / "kernel.json").write_text(spec)
    kernels = tmp_path / "root/usr/share/jupyter/kernels"
    for name in ("good", "broken"):
        (kernels / name).mkdir(parents=True)
    (kernels / "good/kernel.json").write_text(spec)
    (kernels / "broken/kernel.json").write_text("{")
    (kernels / "out").symlink_to(secret)
    (kernels / "up").symlink_to("../" * 30 + str(secret))
    (kernels / "loop").symlink_to("loop")
    (kernels / "again").symlink_to("/usr/share/jupyter/kernels/good")
    assert find_kernels(tmp_path / "root") == {"good": {"argv": ["python3"]}, "again": {"argv": ["python3"]}}


def test_a_path_is_resolved_as_in_the_image(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.symlink("/a", tmp_path / "b")
    assert resolve_inside(tmp_path, "b/../../a") == tmp_path / "a"
    assert resolve_inside(tmp_path, "../../..") == tmp_path
    assert resolve_inside(tmp_path, "c") is None
