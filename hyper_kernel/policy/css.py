"""Style sheets and declarations that can neither load anything nor leave the output's own area.

Both properties and the characters and functions of values are allow-lists. No backslash, quote or angle bracket is ever
kept, so what is kept reads the same to any parser of CSS or HTML.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

#: Put before ids and classes, so that they are neither the page's nor names of things in its JavaScript.
PREFIX = "hk-"
#: Classes whose look front ends know, and which do nothing else.
PLAIN_CLASSES = frozenset(("dataframe", "tex2jax_ignore", "mathjax_ignore"))

#: Longer style sheets are cut off.
MAX_SHEET = 1 << 20
_MAX_RULES = 20_000
#: What is remembered is a guest's, and may be no larger.
_MAX_CACHED = 400
_PROPERTIES = re.compile(
    # SECURITY: nothing here takes content out of the flow or paints outside its box: no position, inset, z-index,
    # transform, outline, shadow, filter, content, animation or cursor, and no custom properties (--x), which could
    # carry what the values' rules refuse.
    r"""color|opacity|visibility|display|float|clear|direction|vertical-align|box-sizing|empty-cells|table-layout
    |background|background-color|background-image
    |border(-(top|right|bottom|left))?(-(color|style|width))?|border-(collapse|spacing|radius)
    |border-(top|bottom)-(left|right)-radius
    |padding(-(top|right|bottom|left))?|margin(-(top|right|bottom|left))?|padding-inline-start
    |(min-|max-)?(width|height)|overflow(-[xy]|-wrap)?|text-overflow|column-(count|gap)|row-gap|gap|order
    |font|font-(family|size|style|weight|variant|stretch|variant-numeric)|line-height|letter-spacing|word-spacing
    |text-(align|align-last|decoration|decoration-color|decoration-line|indent|transform|anchor|rendering)
    |white-space|word-break|word-wrap|hyphens|tab-size|user-select|list-style|list-style-type|caption-side
    |flex(-(basis|direction|flow|grow|shrink|wrap))?|align-(content|items|self)|justify-(content|items|self)
    |grid-(template-columns|template-rows|column|row|column-start|column-end|row-start|row-end|area|gap)
    |grid-template-areas
    |grid-auto-(flow|columns|rows)|object-(fit|position)
    |fill|fill-(opacity|rule)|stroke|stroke-(dasharray|dashoffset|linecap|linejoin|miterlimit|opacity|width)
    |clip-rule|clip-path|mask|marker-(start|mid|end)|stop-(color|opacity)|dominant-baseline|alignment-baseline
    |paint-order|shape-rendering|image-rendering|vector-effect|color-scheme""",
    re.VERBOSE,
)
_VALUE = re.compile(r"[\w\s.,#%()+/*!-]{1,400}", re.ASCII)
_FUNCTIONS = re.compile(r"([\w-]*)\s*\(", re.ASCII)
_ALLOWED_FUNCTIONS = frozenset(
    ("rgb", "rgba", "hsl", "hsla", "hwb", "lab", "lch", "oklab", "oklch", "color-mix", "light-dark", "linear-gradient",
     "var", "repeat", "minmax", "fit-content")
)  # fmt: skip
#: SECURITY: with negative lengths content would leave its place; with lengths of six digits it would hide the rest.
_REFUSED_NUMBER = re.compile(r"(?<![\w)])-\s*[\d.]|(?<![#\w.])(?:\d{6}|[\d.]+e[+\d])|/\*", re.IGNORECASE)
_LOCAL_URL = re.compile(r"""url\(\s*["']?#([\w.:-]{1,200})["']?\s*\)""", re.IGNORECASE | re.ASCII)
_AREAS = re.compile(r'(?:\s{0,9}"[\w .-]{0,200}"){1,50}', re.ASCII)
_LOCAL_URL_PROPERTIES = frozenset(
    ("fill", "stroke", "clip-path", "mask", "marker-start", "marker-mid", "marker-end", "marker")
)

_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)|<!--|-->|<!\[CDATA\[|\]\]>", re.DOTALL)
_SELECTOR = re.compile(
    r"""\s*[>+~,]\s*|\s+|\*|[A-Za-z][\w-]*
    |(?P<mark>[.#])(?P<name>-?[A-Za-z_][\w-]*)
    |::?(?:hover|focus|active|checked|disabled|empty|scope|root|before|after|marker
        |(?:first|last|only)-(?:child|of-type|line|letter)
        |nth-(?:last-)?(?:child|of-type)\(\s*(?:odd|even|[\dn+\s-]{1,20})\s*\))(?![\w(-])
    |:not\((?P<notmark>[.#:]?)(?P<notname>[A-Za-z_][\w-]*)\)""",
    re.VERBOSE | re.ASCII,
)


def safe_name(name: str) -> str:
    """:return: an id or class that is the output's own; the same for one that is so already."""
    return name if name.startswith(PREFIX) or name in PLAIN_CLASSES else PREFIX + name


def safe_id(name: str) -> str:
    """:return: an id that is the output's own, whatever it is called."""
    return name if name.startswith(PREFIX) else PREFIX + name


def local_url(value: str) -> str | None:
    """:return: ``url(#id)`` with the id made the output's own; None for any other value."""
    match = _LOCAL_URL.fullmatch(value.strip())
    return f"url(#{safe_id(match[1])})" if match else None


def may_load(name: str) -> bool:
    """Whether it is a property of SVG that may name a paint, a clip or a marker."""
    return name in _LOCAL_URL_PROPERTIES


def is_property(name: str) -> bool:
    """Whether it is a property that may be set."""
    return bool(_PROPERTIES.fullmatch(name))


def safe_value(name: str, value: str) -> str | None:
    """:return: the value of a property if it is harmless, else None."""
    if name in _LOCAL_URL_PROPERTIES and (local := local_url(value)):
        return local
    if name == "grid-template-areas":
        return value if _AREAS.fullmatch(value) else None
    if name.startswith("font"):
        value = value.replace('"', "").replace("'", "")
    value = value.strip()
    if not _VALUE.fullmatch(value) or _REFUSED_NUMBER.search(value) or value.count("(") != value.count(")"):
        return None
    if any(function.lower() not in _ALLOWED_FUNCTIONS for function in _FUNCTIONS.findall(value)):
        return None
    return value


def safe_declarations(text: str) -> str:
    """:return: the harmless ones among the declarations of a ``style`` attribute or of a rule."""
    return _short_declarations(text) if len(text) <= _MAX_CACHED else _declarations(text)


def _declarations(text: str) -> str:
    kept = []
    for declaration in text.split(";"):
        name, _, value = declaration.partition(":")
        name = name.strip().lower()
        if is_property(name) and (safe := safe_value(name, value)) is not None:
            kept.append(f"{name}: {safe}")
    return "; ".join(kept)


_short_declarations = lru_cache(maxsize=4096)(_declarations)


def safe_sheet(text: str) -> str:
    """:return: the harmless rules of a style sheet, confined to the element that holds it; empty if there are none.

    SECURITY: ``@scope`` without a prelude matches only what is inside the style element's parent. A browser that does
    not know it ignores all of the rules.
    """
    rules = [f"{selector}{{{safe}}}" for selector, body in _rules(text) if (safe := safe_declarations(body))]
    return f"@scope{{{' '.join(rules)}}}" if rules else ""


def _rules(text: str) -> Iterator[tuple[str, str]]:
    """Rules that stand alone or in a bare ``@scope``; those of other at-rules, and rules in rules, are left out."""
    inside: list[str] = []
    prelude = ""
    found = 0
    for part in re.split(r"([{}])", _COMMENT.sub(" ", text[:MAX_SHEET])):
        if part == "{":
            inside.append(prelude.rpartition(";")[2].strip())
            prelude = ""
        elif part == "}":
            selector = inside.pop() if inside else ""
            if prelude and all(outer == "@scope" for outer in inside) and (safe := safe_selector(selector)):
                found += 1
                yield safe, prelude
            prelude = ""
        else:
            prelude = part
        if found > _MAX_RULES or len(inside) > 100:
            return


def safe_selector(text: str) -> str:
    """:return: the selector with its ids and classes made the output's own; empty if it has anything unknown."""
    parts, position = [], 0
    text = text.strip()
    while position < len(text):
        match = _SELECTOR.match(text, position)
        if not match:
            return ""
        position = match.end()
        if match["mark"]:
            parts.append(match["mark"] + _owned(match["mark"], match["name"]))
        elif match["notname"]:
            parts.append(f":not({match['notmark']}{_owned(match['notmark'], match['notname'])})")
        else:
            parts.append(match[0])
    return "".join(parts)


def _owned(mark: str, name: str) -> str:
    return safe_id(name) if mark == "#" else safe_name(name) if mark == "." else name
