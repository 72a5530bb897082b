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
                    "color", "aria-label", "aria-hidden")),
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

#: The words of Vega-Lite that neither compute, load nor link: there is no expr, signal, calculate, test, update,
#: labelExpr, formatType, url, href, cursor, pivot, element, usermeta.
VEGALITE_WORDS = _words(
    """$schema aggregate align anchor and angle angleAxis arc area aria as autosize axis axisBand axisBottom axisLeft
    axisRight axisTop axisX axisY background band bandPosition bandwidth bar barBandPaddingInner base baseline
    bin bind binned binSpacing bottom bounds box boxplot calendar category center circle clamp clip clipAngle
    clipExtent color column columnPadding columns concat cond condition config constant content contentMode
    continuous continuousBandSize continuousHeight continuousPadding continuousWidth cornerRadius
    cornerRadiusBottomLeft cornerRadiusBottomRight cornerRadiusEnd cornerRadiusTopLeft cornerRadiusTopRight
    counts cross cumulative data datasets date day dayofyear default description detail dir direction disable
    discreteBandSize discreteHeight discreteWidth diverging domain domainCap domainColor domainDash
    domainDashOffset domainMax domainMid domainMin domainOpacity domainWidth dx dy empty encoding encodings end
    equal errorBand errorband errorbar errorBar extent facet field fields fill filled fillOpacity filter flatten
    fold font fontSize fontStyle fontWeight format frame from generate gradient gradientDirection gradientLength
    gradientOpacity gradientThickness grid gridCap gridColor gridDash gridDashOffset gridOpacity gridWidth
    groupby gt gte hconcat header headerColumn headerFacet headerRow heatmap height hours ignorePeers impute
    innerRadius interpolate invalid joinaggregate key keyvals label labelAlign labelAnchor labelAngle
    labelBaseline labelBound labelColor labelFlush labelFlushOffset labelFont labelFontSize labelFontStyle
    labelFontWeight labelLimit labelLineHeight labelOffset labelOpacity labelOrient labelOverlap labelPadding
    labels labelSeparation latitude latitude2 layer layout left legend legendX legendY length limit line
    lineBreak lineHeight loess longitude longitude2 lookup lt lte mark maxbins maxExtent maxsteps mean median
    method milliseconds minBandSize minExtent minstep minutes mode month name nice noData not null numberFormat
    offset on oneOf op opacities opacity or order ordinal orient outerRadius outliers pad padAngle padding
    paddingInner paddingOuter param params parse point projection quantile quarter radius radius2 radiusOffset
    ramp range rangeMax rangeMin rect rectBandPaddingInner regression repeat resolve reverse right round row
    rowPadding rule sample scale scheme seconds select selection sequence shape shapes size sizes sort spacing
    spec square stack start step steps stroke strokeCap strokeDash strokeDashOffset strokeJoin strokeMiterLimit
    strokeOffset strokeOpacity strokeWidth style subtitle subtitleColor subtitleFont subtitleFontSize
    subtitleFontStyle subtitleFontWeight subtitleLineHeight subtitlePadding symbol symbolFillColor symbolLimit
    symbolOffset symbolOpacity symbolSize symbolStrokeColor symbolStrokeWidth symbolType tension text theta
    theta2 thetaOffset thickness tick tickBand tickCap tickColor tickCount tickDash tickMinStep tickOffset
    tickOpacity tickRound ticks tickSize ticksPosition tickWidth timeFormat timeUnit title titleAlign
    titleAnchor titleAngle titleBaseline titleColor titleFont titleFontSize titleFontStyle titleFontWeight
    titleLimit titleLineHeight titleOpacity titleOrient titlePadding titleX titleY tooltip top trail transform
    translate type unit utc valid value values vconcat view viewBackground width window x x2 xc xError xError2
    xOffset y y2 yc year yError yError2 yOffset zero zindex zoom"""
)

#: The models of Jupyter's own widgets, without "Model"; not the game controller, which tells what a person does.
WIDGET_MODELS = _words(
    """Accordion Audio BoundedFloatText BoundedIntText Box Button ButtonStyle Checkbox CheckboxStyle ColorPicker
    ColorsInput Combobox DatePicker Datetime DescriptionStyle DirectionalLink Dropdown FileUpload FloatLogSlider
    FloatProgress FloatRangeSlider FloatSlider FloatText FloatsInput GridBox HBox HTML HTMLMath HTMLMathStyle
    HTMLStyle Image IntProgress IntRangeSlider IntSlider IntText IntsInput Label LabelStyle Layout Link
    NaiveDatetime Output Password Play ProgressStyle RadioButtons Select SelectMultiple SelectionRangeSlider
    SelectionSlider SliderStyle Stack Tab TagsInput Text TextStyle Textarea Time ToggleButton ToggleButtonStyle
    ToggleButtons ToggleButtonsStyle VBox Valid Video"""
)
