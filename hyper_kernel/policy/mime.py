"""Bundles of one output in several media types: which stay, and as what."""

import html
import re
from collections.abc import Callable
from typing import Any

from hyper_kernel.policy import charts
from hyper_kernel.policy.html import IMAGES, is_base64, safe_html, safe_svg, with_note
from hyper_kernel.policy.markdown import safe_markdown
from hyper_kernel.policy.removed import Removed
from hyper_kernel.policy.terminal import safe_text
from hyper_kernel.policy.tex import without_active

MAX_LATEX = 200_000
_MODEL_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
#: A kind of value, or None if it is not one of that type after all.
_Cleaner = Callable[[Any, Removed], Any]


def _text(value: Any, removed: Removed) -> str | None:
    text = _joined(value)
    return None if text is None else safe_text(text)


def _latex(value: Any, removed: Removed) -> str | None:
    text = _text(value, removed)
    if text is None or len(text) > MAX_LATEX:
        return None
    text, active = without_active(text)
    removed.add("active TeX command", active)
    return text


def _picture(value: Any, removed: Removed) -> str | None:
    text = _joined(value)
    return text if text is not None and is_base64(text) else None


def _markup(clean: Callable[[str, Removed], str]) -> _Cleaner:
    def cleaner(value: Any, removed: Removed) -> str | None:
        text = _joined(value)
        return (clean(text, removed) or None) if text is not None else None

    return cleaner


def _widget(value: Any, removed: Removed) -> dict[str, Any] | None:
    if not isinstance(value, dict) or not isinstance(value.get("model_id"), str):
        return None
    if not _MODEL_ID.fullmatch(value["model_id"]):
        return None
    versions = {name: value[name] for name in ("version_major", "version_minor") if isinstance(value.get(name), int)}
    return {**versions, "model_id": value["model_id"]}


def _joined(value: Any) -> str | None:
    """Front ends join a list of strings, as notebook files have it."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value if isinstance(value, str) else None


#: What becomes of each type. A type that is not here is dropped.
_CLEANERS: dict[str, _Cleaner] = {
    "text/plain": _text,
    "text/csv": _text,
    "text/html": _markup(safe_html),
    "text/markdown": _markup(safe_markdown),
    "text/latex": _latex,
    "image/svg+xml": _markup(safe_svg),
    **dict.fromkeys(IMAGES, _picture),
    "application/json": lambda value, removed: value,
    "application/geo+json": lambda value, removed: charts.safe_geojson(value),
    "application/vnd.dataresource+json": lambda value, removed: value,
    "application/vnd.plotly.v1+json": lambda value, removed: charts.safe_plotly(value),
    **{
        f"application/vnd.vegalite.v{version}+json": lambda value, removed: charts.safe_vegalite(value)
        for version in range(2, 8)
    },
    "application/vnd.jupyter.widget-view+json": _widget,
}


def safe_bundle(data: Any, removed: Removed) -> dict[str, Any]:
    """Clean a bundle, and say in it what was removed.

    :param data: from media type to value, from a guest.
    :param removed: gets what this bundle loses.
    :return: never empty, unless ``data`` was: what is left, or a note as plain text.
    """
    if not isinstance(data, dict):
        return {}
    own = Removed()
    kept: dict[str, Any] = {}
    for name, value in data.items():
        clean = _CLEANERS.get(name)
        cleaned = clean(value, own) if clean else None
        if cleaned is not None:
            kept[name] = cleaned
        elif value is not None:
            own.add(name)
    _settle_html(kept)
    removed.update(own)
    return _noted(kept, own) if own else kept


def _settle_html(kept: dict[str, Any]) -> None:
    """Markdown becomes HTML; HTML with nothing to see gives way to the other types."""
    markdown = kept.pop("text/markdown", None)
    if markdown is not None:
        kept.setdefault("text/html", markdown)
    if "text/html" in kept and len(kept) > 1 and not _is_visible(kept["text/html"]):
        del kept["text/html"]


def _is_visible(markup: str) -> bool:
    text = re.sub(r"<style>[^<]*</style>", "", markup)
    return "<img " in text or "<svg" in text or bool(html.unescape(re.sub(r"<[^>]*>", "", text)).strip())


def _noted(kept: dict[str, Any], own: Removed) -> dict[str, Any]:
    if "text/html" in kept:
        kept["text/html"] = with_note(kept["text/html"], own)
    else:
        text = kept.get("text/plain", "")
        kept["text/plain"] = f"{text}\n{own.note()}" if text else own.note()
    return kept


def safe_display_metadata(metadata: Any) -> dict[str, Any]:
    """:return: sizes of pictures, whether JSON is folded, and what ground a picture needs.

    SECURITY: ``isolated`` would write an output into a frame of the page's origin; ``embed_options`` configure Vega.
    """
    if not isinstance(metadata, dict):
        return {}
    kept: dict[str, Any] = {}
    for name in IMAGES & metadata.keys():
        sizes = metadata[name] if isinstance(metadata[name], dict) else {}
        kept[name] = {key: sizes[key] for key in ("width", "height") if _is_size(sizes.get(key))}
    details = metadata.get("application/json")
    if isinstance(details, dict) and isinstance(details.get("expanded"), bool):
        kept["application/json"] = {"expanded": details["expanded"]}
    if metadata.get("needs_background") in ("light", "dark"):
        kept["needs_background"] = metadata["needs_background"]
    return kept


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < 100_000
