"""Charts as data: Plotly, Vega-Lite and GeoJSON without what loads, links or computes.

- Plotly shows strings as a little HTML of its own, loads pictures, maps and geometries by address, and sends the chart
  to an address in its configuration.
- Vega and Vega-Lite hold expressions that are made into JavaScript. The checks of these were evaded again and again
  (CVE-2025-25304, CVE-2025-59840, Vega's issues 3018 and 3984), and an expression can put an address together from
  which data are loaded. Vega is nothing without them, so it is dropped; a Vega-Lite chart stays if it has none of them.
- A GeoJSON map writes properties into pop-ups as HTML.
"""

import re
from collections.abc import Iterator
from typing import Any

from hyper_kernel.policy.html import is_image_address
from hyper_kernel.policy.tree import safe_tree
from hyper_kernel.policy.vocabulary import VEGALITE_WORDS

_PLOTLY_TAG = re.compile(r"<(?!/?(?:b|i|u|s|em|strong|sub|sup|br|span|extra)\s*/?>)(?=[A-Za-z/!?])", re.IGNORECASE)
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
#: Attributes of Plotly that are addresses, as keys or as the ends of paths ("images[0].source").
_PLOTLY_ADDRESS = re.compile(
    r"(?:.*[.\]])?(?:source|src|url|href|geojson|style|tiles|sprite|glyphs|link|imageurl|accesstoken)",
    re.IGNORECASE | re.DOTALL,
)
#: What is no address under such a key: styles of fonts, and of maps that Plotly itself knows.
_PLOTLY_STYLES = frozenset(
    ("normal", "italic", "white-bg", "open-street-map", "basic", "streets", "outdoors", "light", "dark", "satellite",
     "satellite-streets", "carto-positron", "carto-darkmatter", "carto-voyager")
)  # fmt: skip
_PLOTLY_CONFIG = frozenset(("displayModeBar", "displaylogo", "responsive", "scrollZoom", "staticPlot"))
_IDENTIFIER = re.compile(r"[A-Za-z_][\w-]{0,100}", re.ASCII)
#: Words of Vega-Lite whose value is a name.
_NAMES = frozenset(("name", "param", "on", "timeUnit", "aggregate", "op", "type", "select", "interpolate", "scheme"))
_LOGIC = frozenset(("filter", "not", "and", "or"))
#: Keys whose value are rows of data, which may be called as they like.
_DATA = frozenset(("values", "datasets"))


def safe_plotly(figure: Any) -> dict[str, Any] | None:
    """:return: the figure without addresses, HTML but for plain tags, and settings; None if it is none."""
    if not isinstance(figure, dict):
        return None
    # SECURITY: the renderer throws at one without data or layout, and a notebook that holds such an output stays blank.
    kept: dict[str, Any] = {"data": [], "layout": {}}
    kept |= {name: figure[name] for name, empty in kept.items() if isinstance(figure.get(name), type(empty))}
    if isinstance(figure.get("frames"), list):
        kept["frames"] = figure["frames"]
    config = figure.get("config")
    if isinstance(config, dict):
        kept["config"] = {name: config[name] for name in _PLOTLY_CONFIG & config.keys()}
    tree = safe_tree(kept, _plotly_text)
    _drop_addresses(tree)
    assert isinstance(tree, dict)
    return tree


def _plotly_text(text: str) -> str:
    return _PLOTLY_TAG.sub("&lt;", text) if "<" in text else text


def _drop_addresses(tree: Any) -> None:
    for node in _dicts(tree):
        for name in [name for name in node if _PLOTLY_ADDRESS.fullmatch(name)]:
            value = node[name]
            if any(not _is_harmless(item) for item in (value if isinstance(value, list) else [value])):
                del node[name]
        for name, value in node.items():
            # Buttons change the figure by paths and values in one list.
            if name.startswith("args") and isinstance(value, list) and any(map(_is_address_path, value)):
                node[name] = []


def _is_address_path(item: Any) -> bool:
    return isinstance(item, str) and bool(_PLOTLY_ADDRESS.fullmatch(item))


def _is_harmless(value: Any) -> bool:
    return not isinstance(value, str) or value in _PLOTLY_STYLES or is_image_address(value)


def _dicts(tree: Any) -> Iterator[dict[str, Any]]:
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            yield node
            todo += [item for item in node.values() if isinstance(item, dict | list)]
        elif isinstance(node, list):
            todo += [item for item in node if isinstance(item, dict | list)]


def safe_vegalite(spec: Any) -> dict[str, Any] | None:
    """:return: the chart, if it neither computes nor loads anything; else None."""
    if not isinstance(spec, dict):
        return None
    spec = {name: value for name, value in spec.items() if name != "usermeta"}
    return spec if _is_plain(spec) else None


def _is_plain(node: Any) -> bool:
    if isinstance(node, list):
        return all(map(_is_plain, node))
    if not isinstance(node, dict):
        # SECURITY: what is called "image" is loaded, be it a mark or a column that a tooltip shows.
        return bool(node != "image")
    return all(_is_plain_pair(name, value) for name, value in node.items())


def _is_plain_pair(name: str, value: Any) -> bool:
    """Whether a key and its value are plain; rows of data are made so."""
    if name in _DATA:
        for row in _dicts(value):
            row.pop("image", None)
        return True
    if name in _NAMES and isinstance(value, str):
        return bool(_IDENTIFIER.fullmatch(value)) and value != "image"
    # SECURITY: expressions stand under words that are not on the list, or in place of an object under these.
    if name in _LOGIC and any(isinstance(item, str) for item in (value if isinstance(value, list) else [value])):
        return False
    return name in VEGALITE_WORDS and _is_plain(value)


def safe_geojson(value: Any) -> dict[str, Any] | None:
    """:return: the geometries, and properties in which no tag begins; None if it is no object."""
    return safe_tree(value, lambda text: _TAG.sub("< ", text)) if isinstance(value, dict) else None
