"""What the guest reads in an image: users, kernelspecs, the image's configuration."""

import json

import pytest

from guest import kernels
from guest.identity import read_image_config
from guest.users import User, find_user


@pytest.fixture
def etc(tmp_path):
    (tmp_path / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nbroken line\njo:x:1000:1001:Jo:/home/jo:/bin/sh\nho:x:1002:1002:::\n"
    )
    (tmp_path / "group").write_text("root:x:0:\njo:x:1001:\nvideo:x:44:jo,ho\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("wanted", "user"),
    [
        ("", User(0, 0, [0], "/root")),
        ("jo", User(1000, 1001, [44, 1001], "/home/jo")),
        ("1000", User(1000, 1001, [44, 1001], "/home/jo")),
        ("ho", User(1002, 1002, [44, 1002], "/")),
        ("77", User(77, 0, [0], "/")),
        ("77:88", User(77, 88, [88], "/")),
        ("jo:video", User(1000, 44, [44], "/home/jo")),
    ],
)
def test_find_user(etc, wanted, user):
    assert find_user(wanted, etc) == user


@pytest.mark.parametrize("wanted", ["who", "jo:who", "-1"])
def test_unknown_user_is_an_error(etc, wanted):
    with pytest.raises(LookupError):
        find_user(wanted, etc)


def test_image_without_passwd_has_root(tmp_path):
    assert find_user("", str(tmp_path)) == User(0, 0, [0], "/root")


@pytest.fixture
def specs(tmp_path):
    for name in ("python3", "ir"):
        folder = tmp_path / "share/jupyter/kernels" / name
        folder.mkdir(parents=True)
        argv = ["python", "-m", name, "-f", "{connection_file}", "{resource_dir}/x"]
        (folder / "kernel.json").write_text(json.dumps({"argv": argv, "env": {"A": "${B}:${C}:$B", "N": 1}}))
    return tmp_path / "share/jupyter/kernels"


def test_find_spec(specs):
    parents = ["/nope", str(specs)]
    assert kernels._find_spec("python3", parents)[0] == f"{specs}/python3"
    assert kernels._find_spec("", parents)[0] == f"{specs}/ir"
    with pytest.raises(OSError, match="the image has no kernel julia: it has ir, python3"):
        kernels._find_spec("julia", parents)
    with pytest.raises(OSError, match="no Jupyter kernel: install one"):
        kernels._find_spec("", ["/nope"])


def test_spec_without_argv_is_refused(specs):
    (specs / "ir/kernel.json").write_text("{}")
    with pytest.raises(OSError, match="names no argv"):
        kernels._find_spec("ir", [str(specs)])


def test_argv_takes_the_specs_own_python(specs):
    folder, spec = kernels._find_spec("python3", [str(specs)])
    expected = ["-m", "python3", "-f", "/run/hyper/kernel.json", f"{folder}/x"]
    assert kernels._fill_argv(spec, folder) == ["python", *expected]
    own = specs.parents[2] / "bin/python"
    own.parent.mkdir()
    own.touch(0o755)
    assert kernels._fill_argv(spec, folder) == [str(own), *expected]


def test_spec_env_takes_the_images_variables(specs):
    _, spec = kernels._find_spec("python3", [str(specs)])
    assert kernels._spec_env(spec, {"B": "b"}) == {"A": "b:${C}:$B", "N": "1"}


def test_image_config():
    config = read_image_config({"image": {"env": ["A=1=2", "B="], "user": "jo", "cwd": ""}})
    assert config == ({"A": "1=2", "B": ""}, "jo", "/")
    assert read_image_config({}) == ({}, "", "/")
