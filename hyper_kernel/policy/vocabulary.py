"""The elements and attributes of HTML and SVG that may stay in an output."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


HTML_ELEMENTS = _words(
    """a abbr b bdi bdo big blockquote br caption center cite code col colgroup dd del details dfn div dl dt em
    figcaption figure font h1 h2 h3 h4 h5 h6 hr i img input ins kbd label li mark ol p pre q rp rt ruby s samp section
    small span strike strong sub summary sup table tbody td tfoot th thead time tr tt u ul var"""
)
#: Shapes, text, paints; no scripts, styles, links, animations, filters, foreign objects; no title or desc either, in
#: which HTML may stand.
SVG_ELEMENTS = _words(
    """svg g defs symbol use path rect circle ellipse line polyline polygon text tspan clipPath mask marker pattern
    linearGradient radialGradient stop image"""
)

#: SECURITY: no name (it clobbers the page's variables), no data-* (JupyterLab runs commands by them), no on*, no
#: srcset, ping, download, form*, action, background, poster, srcdoc, contenteditable, draggable, accesskey, autofocus.
ATTRIBUTES = {
    "*": frozenset(("class", "id", "style", "title", "dir", "lang", "align", "valign", "width", "height", "bgcolor",
                    "color", "role", "aria-label", "aria-hidden")),
    "a": frozenset(("href",)),
    "img": frozenset(("src", "alt")),
    "input": frozenset(("checked", "disabled")),
    "label": frozenset(("for",)),
    "details": frozenset(("open",)),
    "font": frozenset(("face", "size")),
    "ol": frozenset(("start", "type", "reversed")),
    "li": frozenset(("value",)),
    "table": frozenset(("border", "cellpadding", "cellspacing", "rules", "frame")),
    "td": frozenset(("colspan", "rowspan", "nowrap", "headers")),
    "th": frozenset(("colspan", "rowspan", "nowrap", "scope")),
    "col": frozenset(("span",)),
    "colgroup": frozenset(("span",)),
}  # fmt: skip
SVG_ATTRIBUTES = _words(
    """id class style viewBox preserveAspectRatio transform x y x1 y1 x2 y2 dx dy cx cy r rx ry fx fy d points width
    height pathLength offset rotate textLength lengthAdjust gradientUnits gradientTransform spreadMethod patternUnits
    patternContentUnits patternTransform clipPathUnits maskUnits maskContentUnits markerWidth markerHeight markerUnits
    refX refY orient href version color opacity fill fill-opacity fill-rule stroke stroke-dasharray stroke-dashoffset
    stroke-linecap stroke-linejoin stroke-miterlimit stroke-opacity stroke-width stop-color stop-opacity clip-path
    clip-rule mask marker-start marker-mid marker-end font-family font-size font-style font-weight text-anchor
    dominant-baseline alignment-baseline letter-spacing word-spacing vector-effect shape-rendering text-rendering
    image-rendering paint-order display visibility overflow"""
)
