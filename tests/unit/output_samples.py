"""What widespread libraries send as outputs, shortened: pandas and its Styler, polars, xarray, rich, plotly..."""

_PANDAS = """<div>
<style scoped>
    .dataframe tbody tr th:only-of-type {
        vertical-align: middle;
    }

    .dataframe thead th {
        text-align: right;
    }
</style>
<table border="1" class="dataframe">
  <thead>
    <tr style="text-align: right;">
      <th></th>
      <th>name</th>
    </tr>
  </thead>
  <tbody>
    <tr>
      <th>0</th>
      <td>1 &lt; 2</td>
    </tr>
  </tbody>
</table>
<p>1 rows × 1 columns</p>
</div>"""

_STYLER = """<style type="text/css">
#T_6e638 th:hover {
  color: red;
}
#T_6e638 thead tr th:nth-child(1) {
  background-color: inherit;
}
#T_6e638_row0_col0, #T_6e638_row1_col0 {
  background: linear-gradient(90deg, #d65f5f 50.0%, transparent 50.0%);
  width: 10em;
}
</style>
<table id="T_6e638">
  <caption>cap</caption>
  <thead>
    <tr>
      <th class="blank level0" >&nbsp;</th>
      <th id="T_6e638_level0_col0" class="col_heading level0 col0" >a</th>
    </tr>
  </thead>
  <tbody>
    <tr>
      <th id="T_6e638_level0_row0" class="row_heading level0 row0" >0</th>
      <td id="T_6e638_row0_col0" class="data row0 col0" >1</td>
    </tr>
  </tbody>
</table>
"""

_XARRAY = """<div><svg style="position: absolute; width: 0; height: 0; overflow: hidden"><defs>
<symbol id="icon-database" viewBox="0 0 32 32"><path d="M16 0c-8.837 0-16 2.239-16 5v4z"></path></symbol></defs></svg>
<style>/* CSS stylesheet for displaying xarray objects in notebooks */
:root { --xr-font-color0: var(--jp-content-font-color0, rgba(0, 0, 0, 1)); }
.xr-section-summary-in + label:before { display: inline-block; content: "►"; width: 15px; }
.xr-section-summary-in:checked ~ .xr-section-details { display: contents; }
.xr-sections { display: grid; grid-template-columns: 150px auto auto 1fr 0 20px 0 20px; }
</style><pre class='xr-text-repr-fallback'>&lt;xarray.Dataset&gt;</pre>
<div class='xr-wrap' style='display:none'><ul class='xr-sections'><li class='xr-section-item'>
<input id='section-1' class='xr-section-summary-in' type='checkbox' checked />
<label for='section-1' class='xr-section-summary' title='Expand/collapse section'>Data: <span>(1)</span></label>
<div class='xr-section-details'><svg class='icon xr-icon-database'><use xlink:href='#icon-database'></use></svg></div>
</li></ul></div></div>"""

_RICH = """<pre style="white-space:pre;overflow-x:auto;line-height:normal;font-family:'DejaVu Sans Mono',monospace">
<span style="color: #008080; text-decoration-color: #008080; font-weight: bold">1</span> &lt; 2
</pre>
"""

_POLARS = """<div><style>
.dataframe > thead > tr,
.dataframe > tbody > tr {
  text-align: right;
  white-space: pre-wrap;
}
</style>
<small>shape: (1, 1)</small><table border="1" class="dataframe"><tbody><tr><td>&quot;x&quot;</td></tr></tbody></table>
</div>"""

#: Each with parts of what must be left of it.
HTML = {
    "pandas": (
        _PANDAS,
        [
            '<div class="hk-output"><style>@scope{.dataframe tbody tr th:only-of-type{vertical-align: middle}',
            '<table border="1" class="dataframe">',
            '<tr style="text-align: right">',
            "<td>1 &lt; 2</td>",
            "1 rows × 1 columns",
        ],
    ),
    "Styler": (
        _STYLER,
        [
            "#hk-T_6e638 th:hover{color: red}",
            "#hk-T_6e638_row0_col0, #hk-T_6e638_row1_col0{background: linear-gradient(90deg, #d65f5f 50.0%",
            '<td id="hk-T_6e638_row0_col0" class="hk-data hk-row0 hk-col0">1</td>',
        ],
    ),
    "xarray": (
        _XARRAY,
        [
            ".hk-xr-section-summary-in:checked ~ .hk-xr-section-details{display: contents}",
            '<input id="hk-section-1" class="hk-xr-section-summary-in"',
            ' type="checkbox"',
            ' checked=""',
            '<label for="hk-section-1"',
            '<use xlink:href="#hk-icon-database">',
            '<symbol id="hk-icon-database" viewBox="0 0 32 32">',
        ],
    ),
    "rich": (
        _RICH,
        ['<span style="color: #008080; text-decoration-color: #008080; font-weight: bold">1</span> &lt; 2'],
    ),
    "polars": (_POLARS, ["@scope{.dataframe > thead > tr,\n.dataframe > tbody > tr{text-align: right", '<td>"x"</td>']),
    "a link and a picture": (
        '<a href="https://example.org/?a=1&b=2">x</a><img src="data:image/png;base64,iVBORw0KGgo=" width="20">',
        [
            '<a href="https://example.org/?a=1&amp;b=2" target="_blank" rel="noopener noreferrer">x</a>',
            '<img src="data:image/png;base64,iVBORw0KGgo=" width="20">',
        ],
    ),
}

SVG = """<?xml version="1.0" encoding="utf-8" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN"
  "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="460.8pt" height="345.6pt" viewBox="0 0 460.8 345.6"
 xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><title>x</title></rdf:RDF></metadata>
 <defs><style type="text/css"><![CDATA[*{stroke-linejoin: round; stroke-linecap: butt}]]></style></defs>
 <g id="figure_1">
  <path d="M 0 345.6 L 460.8 345.6 z" style="fill: #ffffff"/>
  <path d="M 57.6 41.472" clip-path="url(#p1)" style="clip-path: url(#p1); fill: none; stroke-width: 1.5"/>
  <text style="font: 12px 'DejaVu Sans'; text-anchor: middle" x="1" y="2">1&#160;&lt; 2</text>
  <g transform="translate(1 2) scale(0.1 -0.1)">
   <defs><path id="DejaVuSans-31" d="M 794 531 z" transform="scale(0.015625)"/></defs>
   <use xlink:href="#DejaVuSans-31"/>
   <image xlink:href="data:image/png;base64,iVBORw0KGgo=" id="i1" width="3" height="4"/>
  </g>
 </g>
 <defs><clipPath id="p1"><rect x="57.6" y="41.472" width="357.12" height="266.112"/></clipPath></defs>
</svg>
"""

PLOTLY = {
    "data": [
        {
            "type": "scatter",
            "x": {"dtype": "i1", "bdata": "AQI="},
            "y": [3, 4.5, None],
            "text": ["a<br>b", "<b>c</b>"],
            "hovertemplate": "x=%{x}<br>y=%{y}<extra></extra>",
            "marker": {"color": "#636efa", "symbol": "circle"},
        }
    ],
    "layout": {"title": {"text": "A < B"}, "font": {"style": "italic"}, "xaxis": {"domain": [0, 1]}},
    "config": {"plotlyServerURL": "https://plot.ly", "responsive": True},
}

_ALTAIR = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.20.1.json",
    "config": {"view": {"continuousWidth": 300, "continuousHeight": 300}},
    "data": {"name": "data-9a1f"},
    "datasets": {"data-9a1f": [{"a": "x", "b": 28, "url": "https://example.org"}, {"a": "y", "b": 55, "expr": 1}]},
    "encoding": {
        "color": {"condition": {"param": "brush", "field": "a", "type": "nominal"}, "value": "lightgray"},
        "tooltip": [{"field": "a", "type": "nominal"}],
        "x": {
            "axis": {"labelAngle": 0, "format": ".1f"},
            "field": "a",
            "sort": "-y",
            "timeUnit": "yearmonth",
            "type": "temporal",
        },
        "y": {"aggregate": "mean", "field": "b", "scale": {"zero": False}, "stack": None, "type": "quantitative"},
    },
    "mark": {"type": "bar", "opacity": 0.5},
    "params": [
        {"bind": "scales", "name": "param_1", "select": {"encodings": ["x", "y"], "type": "interval"}},
        {"name": "brush", "select": {"type": "point", "fields": ["a"], "on": "pointerover"}},
    ],
    "transform": [{"filter": {"field": "b", "gt": 3}}],
    "title": "t",
}

AS_THEY_ARE = {
    "altair": [{"application/vnd.vegalite.v5+json": _ALTAIR, "text/plain": "<VegaLite 5 object>"}],
    "sympy": [
        {"text/latex": "$\\displaystyle \\int \\frac{x^{2}}{\\sqrt{2}}\\, dx$", "text/plain": "Integral(x**2, x)"}
    ],
    "matplotlib": [{"image/png": "iVBORw0KGgo=\n", "text/plain": "<Figure size 640x480 with 1 Axes>"}],
    "JSON": [{"application/json": {"a": [1, "<b>", None, True]}, "text/plain": "<IPython.core.display.JSON object>"}],
    "tables": [
        {"text/csv": "a,b\n1,2\n", "text/plain": "x"},
        {"application/vnd.dataresource+json": {"schema": {"fields": []}, "data": [{"a": 1}]}, "text/plain": "x"},
    ],
    "GeoJSON": [{"application/geo+json": {"type": "Point", "coordinates": [1, 2.5]}, "text/plain": "x"}],
    "ipywidgets": [
        {
            "application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": "0a-1"},
            "text/plain": "IntSlider(value=0)",
        }
    ],
}
