"""HTML and SVG that show what they should, and neither run, load, cover, submit nor navigate.

Everything goes through nh3 (ammonia, html5ever): a browser's own parser, allow-lists of elements and attributes, and
one canonical text of what is left.
"""

import base64
import binascii
import html
import re
from dataclasses import dataclass
from functools import lru_cache

import nh3

from hyper_kernel.policy import css, markup, tex
from hyper_kernel.policy.removed import Removed
from hyper_kernel.policy.vocabulary import ATTRIBUTES, HTML_ELEMENTS, SVG_ATTRIBUTES, SVG_ELEMENTS

#: Longer HTML is not shown (a browser shows it slowly, too).
MAX_HTML = 4 << 20
#: Each takes the parser as long as a tag does.
MAX_REFERENCES = 200_000

#: The media types of pictures that browsers show and that cannot hold scripts.
IMAGES = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"))
_DATA_URL = re.compile(r"data:(image/[a-z]+);base64,([A-Za-z0-9+/=\s]*)", re.IGNORECASE)
_SVG_LOWER = frozenset(name.lower() for name in SVG_ELEMENTS)
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_NOTE_LOOK = 'class="hk-note" style="opacity: 0.6; font-size: 85%"'
_NOTE = re.compile(rf"<div {re.escape(_NOTE_LOOK)}>\[[\w .,:/+@?-]*\]</div>\Z", re.ASCII)
_TEXTS = frozenset(("title", "alt", "aria-label"))
_REL = "noopener noreferrer"
_OPEN, _CLOSE = '<div class="hk-output">', "</div>"
_NAME = re.compile(r"[\w.:+-]{1,200}")


def is_base64(text: str) -> bool:
    """Whether it is base64 as browsers read it."""
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def is_image_address(value: str) -> bool:
    """Whether it is a ``data:`` address that holds a picture."""
    match = _DATA_URL.fullmatch(value.strip())
    return bool(match and match[1].lower() in IMAGES and is_base64(match[2]))


def _safe_attribute(element: str, name: str, value: str) -> str | None:
    """nh3 calls this for each attribute that it would keep. :return: its new value, or None to drop it."""
    return _decide_short(element, name, value) if len(value) < 200 else _decide(element, name, value)


def _decide(element: str, name: str, value: str) -> str | None:
    if name == "style":
        return css.safe_declarations(value) or None
    if name == "class":
        return " ".join(css.safe_name(item) for item in value.split()[:100] if _NAME.fullmatch(item)) or None
    if name in ("id", "for", "headers"):
        return css.safe_id(value) if _NAME.fullmatch(value) else None
    if name in ("src", "href"):
        return _safe_address(element, name, value)
    if css.may_load(name):
        return css.safe_value(name, value)
    return value if name in _TEXTS or not ("url(" in value.lower() or "\\" in value) else None


_decide_short = lru_cache(maxsize=8192)(_decide)


def _safe_address(element: str, name: str, value: str) -> str | None:
    if element in ("img", "image"):
        return value.strip() if is_image_address(value) else None
    if element == "a":
        # SECURITY: a relative address would be the Jupyter server's, opened with the person's cookies.
        return value if re.match(r"(?:https?://|mailto:)", value, re.IGNORECASE) or value.startswith("#") else None
    return value if name == "href" and value.startswith("#") else None


def _relative(address: str) -> str | None:
    """nh3 calls this for each address without a scheme: only those within the output stay."""
    return "#" + css.safe_id(address[1:]) if address.startswith("#") and len(address) > 1 else None


@dataclass(frozen=True)
class _Language:
    """A parser, and the names of elements that it keeps."""

    names: frozenset[str]
    cleaner: nh3.Cleaner


def _language(elements: frozenset[str]) -> _Language:
    attributes = {name: set(allowed) for name, allowed in ATTRIBUTES.items() if name == "*" or name in elements}
    attributes |= {name: set(SVG_ATTRIBUTES) for name in SVG_ELEMENTS}
    cleaner = nh3.Cleaner(
        tags=set(elements),
        clean_content_tags={"script", "style"},
        attributes=attributes,
        attribute_filter=_safe_attribute,
        url_schemes={"http", "https", "mailto", "data"},
        url_relative=_relative,
        link_rel=_REL,
        # SECURITY: a field that is no checkbox could ask for a password.
        set_tag_attribute_values={"a": {"target": "_blank"}, "input": {"type": "checkbox"}},
    )
    return _Language(frozenset(name.lower() for name in elements), cleaner)


_HTML_LANGUAGE = _language(HTML_ELEMENTS | SVG_ELEMENTS)
_SVG_LANGUAGE = _language(SVG_ELEMENTS)


def safe_html(text: str, removed: Removed) -> str:
    """Clean HTML.

    :param removed: gets what this text loses.
    :return: the same again if it is cleaned again, note included; empty if nothing is left.
    """
    note = _NOTE.search(text)
    text = text[: note.start()] if note else text
    if text.startswith(f"{_OPEN}<style>") and text.endswith(_CLOSE):
        text = text[len(_OPEN) : -len(_CLOSE)]
    clean, styles = _clean(text, _HTML_LANGUAGE, removed)
    if sheet := css.safe_sheet(styles):
        # The element that a style element stands in is all that it can change; the note stays outside.
        clean = f"{_OPEN}<style>{sheet}</style>{clean}{_CLOSE}"
    return clean + (note[0] if note else "")


def with_note(clean: str, removed: Removed) -> str:
    """:return: clean HTML that ends with a note of what was removed."""
    return f"{_NOTE.sub('', clean)}<div {_NOTE_LOOK}>{removed.note()}</div>"


def safe_svg(text: str, removed: Removed) -> str:
    """Clean an SVG document.

    :return: an XML document with one ``svg`` element, or empty; it names its namespace if ``text`` does.
    """
    clean, styles = _clean(text, _SVG_LANGUAGE, removed)
    sheet = css.safe_sheet(html.unescape(styles))
    if not clean.startswith("<svg"):
        start = clean.find("<svg")
        clean = clean[start:] if start >= 0 else ""
    end = clean.rfind("</svg>")
    if end < 0:
        return ""
    clean = clean[: end + len("</svg>")].replace("&nbsp;", "&#160;")
    start = clean.index(">")
    # Only what was there: the cleaner drops both, and who compares outputs wants neither where there was none.
    spaces = f' xmlns="{_SVG}"' if _SVG in text else ""
    spaces += f' xmlns:xlink="{_XLINK}"' if _XLINK in text or " xlink:" in clean else ""
    style = f"<style>{sheet}</style>" if sheet else ""
    return f"{clean[:4]}{spaces}{clean[4 : start + 1]}{style}{clean[start + 1 :]}"


def _clean(text: str, language: _Language, removed: Removed) -> tuple[str, str]:
    """:return: clean markup, and the text of its style sheets."""
    if len(text) > MAX_HTML or text.count("&") > MAX_REFERENCES:
        removed.add("too long HTML text")
        return "", ""
    try:
        reduced = markup.reduce_markup(text, language.names, _SVG_LOWER, removed)
    except markup.TooMuchHtmlError:
        removed.add("too tangled HTML text")
        return "", ""
    clean = language.cleaner.clean(reduced.html)
    if f' rel="{_REL}" ' in clean:
        # A link lost its address, after which its attributes stand in another order than they do next time.
        clean = language.cleaner.clean(clean)
    left = clean.count(' href="') + clean.count(' src="') + clean.count(':href="')
    removed.add("link or image address", reduced.addresses - left)
    clean, active = tex.without_active(clean)
    removed.add("active TeX command", active if any(mark in clean for mark in ("$", r"\(", r"\[", r"\begin")) else 0)
    return clean, "\n".join(reduced.styles)
