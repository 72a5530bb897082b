"""A first pass over hostile HTML: cuts out what has no place in an output and says what that was.

It does not make HTML safe: the parser behind ``html`` does. It leaves that parser nothing that takes it long (its time
grows with the square of the nesting), and it can tell what was removed, which that parser cannot.
"""

import re
from typing import NamedTuple

from hyper_kernel.policy.removed import Removed

#: Tags, comments and the like.
MAX_TAGS = 200_000
MAX_DEPTH = 200
_MAX_ATTRIBUTES = 60

#: What elements are called in the note; those that are not here vanish silently, and their text stays.
_NAMED = {
    **dict.fromkeys(("iframe", "frame", "frameset", "portal"), "iframe"),
    **dict.fromkeys(("animate", "set", "animatetransform", "animatemotion"), "animation"),
    **dict.fromkeys(("object", "embed", "applet"), "embedded object"),
    **dict.fromkeys(("button", "select", "textarea"), "form field"),
    **{name: name for name in ("script", "form", "video", "audio")},
    "link": "style sheet link",
    "meta": "meta element",
    "base": "base address",
    "math": "MathML formula",
    "foreignobject": "foreign object in SVG",
}
#: Dropped with all that is in them.
_RAW = frozenset(
    ("script", "style", "iframe", "textarea", "title", "noembed", "noframes", "noscript", "xmp", "template", "object",
     "select", "metadata", "desc", "datalist")
)  # fmt: skip
_VOID = frozenset(("br", "hr", "img", "col", "input"))
_CELLS = frozenset(("td", "th"))
_ROWS = _CELLS | {"tr"}
_GROUPS = _ROWS | {"tbody", "thead", "tfoot"}
#: What ends of its own when one of these begins; its parent's end will do as well.
_ENDS = {
    **dict.fromkeys(_CELLS, _CELLS),
    "tr": _ROWS,
    **dict.fromkeys(("tbody", "thead", "tfoot"), _GROUPS),
    **dict.fromkeys(("dt", "dd"), frozenset(("dt", "dd"))),
    **{name: frozenset((name,)) for name in ("p", "li", "colgroup")},
}

_NAME = r"[^\s/>][^\s/>=]*+"
_VALUE = r"""(?:\s*+=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^\s"'>][^\s>]*+)?+)?+"""
#: How a browser divides HTML into tags (HTML standard, 13.2.5), but for elements whose content is raw, which are cut
#: out here. Once begun, a tag or comment always matches, so that the time is linear.
_TOKEN = re.compile(
    rf"""(?P<cells>(?:<(?P<cell>t[dh])(?:[ ](?:class|id|style|scope|colspan|rowspan|valign|align)="[^"<>]*+")*+>
        [^<>]*+</(?P=cell)>\s*+)++)
    |<!--.*?(?:-->|\Z)
    |<[!?][^>]*+(?:>|\Z)
    |<(?P<close>/?)(?P<name>[A-Za-z][^\s/>]*+)(?P<attributes>(?:[\s/]*+{_NAME}{_VALUE})*+)[\s/]*+(?P<end>>|\Z)""",
    re.DOTALL | re.VERBOSE,
)
_NAMES = re.compile(rf"[\s/]*+({_NAME}){_VALUE}")


class TooMuchHtmlError(Exception):
    """HTML that would take too long: too many tags, or nested too deeply."""


class Markup(NamedTuple):
    """HTML without what has no place in an output."""

    html: str
    #: The text of its style elements.
    styles: list[str]
    #: How many attributes are addresses.
    addresses: int


def reduce_markup(text: str, allowed: frozenset[str], foreign: frozenset[str], removed: Removed) -> Markup:
    """Keep the text and the tags of allowed elements, as they are.

    :param allowed: names of elements, in lower case.
    :param foreign: those of them that are SVG's, where ``<path/>`` is a whole element.
    :raise TooMuchHtmlError: it has too many tags, or they are nested too deeply.
    """
    pieces: list[str] = []
    styles: list[str] = []
    nesting: list[str] = []
    position = tags = addresses = 0
    while match := _TOKEN.search(text, position):
        tags += 1
        if tags > MAX_TAGS or len(nesting) > MAX_DEPTH:
            raise TooMuchHtmlError
        pieces.append(text[position : match.start()].replace("<", "&lt;"))
        position = match.end()
        if match["cells"]:
            # Most of a large table: each cell ends as it begins, so that the nesting is what it was.
            pieces.append(match[0])
            tags += match[0].count("</")
            continue
        name = (match["name"] or "").lower()
        if not match["end"] or name not in allowed:
            if match["end"] and not match["close"]:
                position = _leave_out(name, text, position, styles, removed)
            continue
        _nest(nesting, name, bool(match["close"]))
        attributes = [word.lower() for word in _NAMES.findall(match["attributes"])]
        if match["close"] or len(attributes) > _MAX_ATTRIBUTES:
            # The parser would compare each attribute's name with all others of its element.
            pieces.append(f"<{match['close']}{name}>")
            continue
        removed.add("event handler", sum(word.startswith("on") for word in attributes))
        addresses += sum(word in ("href", "src", "xlink:href") for word in attributes)
        pieces.append(match[0])
        if name in foreign and match[0].endswith("/>"):
            pieces.append(f"</{name}>")
            _nest(nesting, name, True)
    if tags > MAX_TAGS or len(nesting) > MAX_DEPTH:
        raise TooMuchHtmlError
    pieces.append(text[position:].replace("<", "&lt;"))
    return Markup("".join(pieces), styles, addresses)


def _leave_out(name: str, text: str, position: int, styles: list[str], removed: Removed) -> int:
    """:return: where to read on after an element that does not stay."""
    if name in _NAMED:
        removed.add(_NAMED[name])
    if name not in _RAW:
        return position
    end = re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE).search(text, position)
    stop = end.start() if end else len(text)
    if name == "style":
        styles.append(text[position:stop])
    return stop


def _nest(nesting: list[str], name: str, close: bool) -> None:
    """Follow how deep a parser may be: never less than it is, more where the HTML is untidy."""
    if name in _VOID:
        return
    if not close:
        # In SVG no element ends by itself.
        if nesting and nesting[-1] in _ENDS.get(name, ()) and "svg" not in nesting:
            while nesting and nesting[-1] in _ENDS[name]:
                nesting.pop()
        nesting.append(name)
        return
    for index in range(len(nesting) - 1, -1, -1):
        if nesting[index] == name:
            del nesting[index:]
            return
        if nesting[index] not in _ENDS:
            return
