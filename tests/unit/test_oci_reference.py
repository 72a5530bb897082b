"""Names of images, against what Docker makes of them."""

import pytest

from hyper_kernel.errors import RequestError
from hyper_kernel.oci.reference import parse_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("python", "docker.io/library/python:latest", "python:latest"),
        ("python:3.11-slim", "docker.io/library/python:3.11-slim", "python:3.11-slim"),
        ("hyper/python", "docker.io/hyper/python:latest", "hyper/python:latest"),
        ("docker.io/library/python", "docker.io/library/python:latest", "python:latest"),
        ("docker.io/python", "docker.io/library/python:latest", "python:latest"),
        ("index.docker.io/hyper/python:1", "docker.io/hyper/python:1", "hyper/python:1"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest", "127.0.0.1:5000/x:latest"),
        (
            "quay.io/jupyter/base-notebook",
            "quay.io/jupyter/base-notebook:latest",
            "quay.io/jupyter/base-notebook:latest",
        ),
        (f"python@{DIGEST}", f"docker.io/library/python@{DIGEST}", f"python@{DIGEST}"),
        (f"python:3@{DIGEST}", f"docker.io/library/python:3@{DIGEST}", f"python:3@{DIGEST}"),
    ],
)
def test_names_read_as_docker_reads_them(text: str, full: str, familiar: str) -> None:
    parsed = parse_reference(text)
    assert (str(parsed), parsed.familiar) == (full, familiar)
    assert parse_reference(full) == parse_reference(familiar) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Python",
        "a//b",
        "/a",
        "a/",
        "a:",
        "a:b:c",
        "../x",
        "a b",
        "-a",
        "a@sha256:12",
        "a:" + "t" * 129,
        "a" * 300,
        "ä",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is not the name of an image") as caught:
        parse_reference(text)
    assert "lower case" in caught.value.hint
