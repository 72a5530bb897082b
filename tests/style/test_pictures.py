"""The README's pictures: there, small, and told to those who do not see them."""

import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
MAX_BYTES, MAX_WIDTH = 150_000, 1280

PICTURES = re.findall(r"!\[(.*?)\]\((.*?)\)", (ROOT / "README.md").read_text(), re.S)


@pytest.mark.parametrize(("told", "path"), PICTURES, ids=[path for _, path in PICTURES])
def test_picture_is_there_small_and_told(told: str, path: str) -> None:
    assert (ROOT / path).stat().st_size <= MAX_BYTES
    assert len(told.split()) >= 4
    if path.endswith(".png"):
        with Image.open(ROOT / path) as picture:
            assert picture.width <= MAX_WIDTH


def test_no_picture_is_left_over() -> None:
    used = {path for _, path in PICTURES}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.png")} == {path for path in used if ".png" in path}
