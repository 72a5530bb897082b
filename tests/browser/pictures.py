"""The README's pictures: what the tests see on their way, in few bytes."""

from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page

#: A page of flat colours needs no more of them.
_COLOURS = 128


class Pictures:
    """Takes them into a folder; where there is none, does nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def take(self, name: str, of: Page | Locator, margin: int = 0, height: int = 0) -> None:
        """What is seen of a page, or of a part of it and so many pixels around it.

        :param height: only its upper part.
        """
        if self._folder is None:
            return
        page = of if isinstance(of, Page) else of.page
        page.mouse.move(0, 0)
        clip = None if isinstance(of, Page) else _around(of.bounding_box(), margin, page.viewport_size)
        if height:
            clip = (clip or {"x": 0, "y": 0, "width": page.viewport_size["width"]}) | {"height": height}
        shot = Image.open(BytesIO(page.screenshot(clip=clip, animations="disabled", caret="hide"))).convert("RGB")
        small = shot.quantize(_COLOURS, dither=Image.Dither.NONE)
        small.save(self._folder / f"{name}.png", optimize=True)


def _around(box: dict, margin: int, size: dict) -> dict:
    left, top = max(box["x"] - margin, 0), max(box["y"] - margin, 0)
    right = min(box["x"] + box["width"] + margin, size["width"])
    bottom = min(box["y"] + box["height"] + margin, size["height"])
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}
