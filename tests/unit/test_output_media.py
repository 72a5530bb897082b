"""Media types of outputs: what real libraries send is shown as before, what acts is not."""

import base64

import output_attacks
import output_samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyper_kernel.policy.markdown import MAX_MARKDOWN, safe_markdown
from hyper_kernel.policy.output import OutputPolicy
from hyper_kernel.policy.removed import Removed
from hyper_kernel.policy.terminal import safe_text

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


def show(data, metadata=None):
    screened = OutputPolicy().screen("iopub", "display_data", {"data": data, "metadata": metadata or {}}, {})
    again = OutputPolicy().screen("iopub", "display_data", screened.content, {})
    assert again.content == screened.content
    return screened


def kept(name, value):
    return show({name: value, "text/plain": "x"}).content["data"].get(name)


@pytest.mark.parametrize("name", output_samples.HTML)
def test_html_of_libraries_loses_nothing(name):
    html, shown = output_samples.HTML[name]
    screened = show({"text/html": html, "text/plain": "x"})
    assert screened.removed == ()
    for part in shown:
        assert part in screened.content["data"]["text/html"]
    assert output_attacks.faults(screened.content["data"]["text/html"]) == []


@pytest.mark.parametrize("name", output_samples.AS_THEY_ARE)
def test_data_of_libraries_are_as_they_were(name):
    for bundle in output_samples.AS_THEY_ARE[name]:
        screened = show(bundle)
        assert (screened.content["data"], screened.removed) == (bundle, ())


def test_plotly_shows_its_data_rather_than_its_script():
    figure = output_samples.PLOTLY
    html = '<div id="a"></div><script src="https://cdn.example/plotly.js"></script><script>Plotly.newPlot("a")</script>'
    screened = show({"application/vnd.plotly.v1+json": figure, "text/html": html})
    assert screened.content["data"]["application/vnd.plotly.v1+json"] == {**figure, "config": {"responsive": True}}
    assert "text/html" not in screened.content["data"] and screened.removed == ("2 scripts",)
    assert screened.content["data"]["text/plain"] == "[removed for safety: 2 scripts]"


def test_svg_of_matplotlib_is_xml_with_its_own_names():
    shown = kept("image/svg+xml", output_samples.SVG)
    assert shown.startswith('<svg xmlns="http://www.w3.org/2000/svg"') and "stroke-linejoin: round" in shown
    assert (
        'xlink:href="#hk-DejaVuSans-31"' in shown
        and 'clip-path="url(#hk-p1)"' in shown
        and "clip-path: url(#hk-p1)" in shown
    )
    assert 'id="hk-DejaVuSans-31"' in shown and "1\u00a0&lt; 2" in shown.replace("&#160;", "\u00a0")


def test_svg_gets_no_namespace_that_it_did_not_name():
    assert kept("image/svg+xml", '<svg width="9"><circle r="4"></circle></svg>').startswith('<svg width="9">')
    linked = kept("image/svg+xml", '<svg><use xlink:href="#a"></use></svg>')
    assert linked.startswith('<svg xmlns:xlink="http://www.w3.org/1999/xlink"><use xlink:href="#hk-a"')


OTHER_TYPES = """
application/javascript application/x-javascript text/javascript text/ecmascript application/ecmascript application/pdf
application/vnd.jupyter.es6-rich-output application/vnd.bokehjs_exec.v0+json application/vnd.bokehjs_load.v0+json
application/vnd.holoviews_exec.v0+json application/vnd.vega.v5+json text/vnd.mermaid application/vnd.jupyter.stdout
application/x-anything TEXT/HTML text/html;charset=utf-8 image/svg image/tiff"""


@pytest.mark.parametrize("name", OTHER_TYPES.split())
def test_other_types_are_dropped_and_named(name):
    screened = show({name: "<script>1</script>", "text/plain": "x"})
    assert screened.content["data"] == {"text/plain": f"x\n[removed for safety: {screened.removed[0]}]"}


def test_an_empty_bundle_becomes_a_note():
    assert show({"application/javascript": "1"}).content["data"] == {
        "text/plain": "[removed for safety: application/javascript]"
    }
    assert show({}).content["data"] == {}


def test_a_note_shows_no_formula_of_a_guest():
    name = "x/$\\href{javascript:attack()}{y}$<b>"
    shown = show({name: "1", "text/html": "<b>x</b>"}).content["data"]["text/html"]
    assert output_attacks.faults(shown) == [] and "$" not in shown and "removed for safety" in shown


def test_lists_of_lines_are_one_text():
    assert kept("text/html", ["<img src=x one", "rror=attack()>x"]).startswith("<img>x")
    assert kept("text/html", ["<b>", 1]) is None and kept("text/html", {"a": 1}) is None


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp"])
def test_pictures_are_base64(kind):
    assert kept(f"image/{kind}", PNG) == PNG
    assert kept(f"image/{kind}", '"><script>') is None
    assert kept(f"image/{kind}", [PNG]) == PNG


def test_metadata_of_outputs_are_sizes():
    metadata = {
        "image/png": {"width": 3, "height": 4.5, "unconfined": True, "x": 1},
        "image/jpeg": {"width": "100%", "height": -1},
        "text/html": {"isolated": True},
        "isolated": True,
        "needs_background": "dark",
        "application/json": {"expanded": True, "root": "x"},
        "application/vnd.vegalite.v5+json": {"embed_options": {}},
    }
    content = {
        "data": {"text/plain": "x"},
        "metadata": metadata,
        "transient": {"display_id": "a\x1b[1m", "x": 1},
        "z": 1,
    }
    screened = OutputPolicy().screen("iopub", "update_display_data", content, {})
    assert screened.content == {
        "data": {"text/plain": "x"},
        "metadata": {
            "image/png": {"width": 3, "height": 4.5},
            "image/jpeg": {},
            "needs_background": "dark",
            "application/json": {"expanded": True},
        },
        "transient": {"display_id": "a"},
    }


def test_markdown_is_shown_as_html():
    source = "# T\n\n$\\alpha_1 < b_2$ and **b**\n\n| a |\n|---|\n| 1 |\n\n<span style='color:red'>r</span>\n\n"
    source += "```python\n1 < 2\n```\n"
    screened = show({"text/markdown": source, "text/plain": "x"})
    html = screened.content["data"]["text/html"]
    assert screened.removed == () and "text/markdown" not in screened.content["data"]
    for part in (
        "<h1>T</h1>",
        "\\(\\alpha_1 &lt; b_2\\)",
        "<strong>b</strong>",
        "<td>1</td>",
        'style="color: red"',
        "1 &lt; 2",
    ):
        assert part in html
    assert show({"text/markdown": "a [b](javascript:1)"}).removed == ("1 link or image address",)
    assert safe_markdown("<" * (MAX_MARKDOWN + 1), Removed()).startswith("<pre>&lt;&lt;")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *"[]()<>*_`~#!|$\\&\n\t :-+1.\"'",
                "\n\n",
                "    ",
                "> ",
                "- ",
                "```",
                "$$",
                "](",
                "javascript:",
                "a",
                "<b onclick=x>",
                "@@0@@",
            ]
        )
    )
)
def test_markdown_of_any_form_is_clean(pieces):
    html = safe_markdown("".join(pieces), Removed())
    assert output_attacks.faults(html) == []


def test_latex_makes_no_links():
    screened = show({"text/latex": "$\\href{javascript:1}{x} \\frac{1}{2} \\\\ \\hrefx \\left( \\definecolor$"})
    assert (
        screened.content["data"]["text/latex"]
        == "$\\ href{javascript:1}{x} \\frac{1}{2} \\\\ \\hrefx \\left( \\definecolor$"
    )
    assert screened.removed == ("1 active TeX command",)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m\tx\r\n\x08", "\x1b[31mred\x1b[0m\tx\r\n\x08"),
        ("\x1b[38;2;1;2;3mx\x1b[38:5:1mx", "\x1b[38;2;1;2;3mx\x1b[38:5:1mx"),
        ("\x1b[2J\x1b[1;1Hx\x1b[?25l\x1b[K", "x"),
        ("\x1b]8;;javascript:attack()\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07x\x1b]52;c;eA==\x1b\\", "x"),
        ("\x9d8;;x\x9cy\x9b31mz", "yz"),
        ("\x1bP1$r\x1b\\x\x1b_y\x1b\\\x1bcz", "xz"),
        ("\x00\x07\x0b\x0c\x7f\x85x", "x"),
        ("\x1b", ""),
        ("\x1b]never ends", "never ends"),
        ("\x1b\x1b[31m", "\x1b[31m"),
        ("\u00e9\u4e2d\U0001f600", "\u00e9\u4e2d\U0001f600"),
    ],
)
def test_text_keeps_its_colours_alone(text, shown):
    assert safe_text(text) == shown
    assert kept("text/plain", text) is not None


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("\x1b[]\x9b\x9d\x9cm;1?8PX^_\\\x07\x00a\n"), max_size=40))
def test_no_control_sequence_is_left(text):
    once = safe_text(text)
    assert safe_text(once) == once
    assert set(once.replace("\x1b[", "")) <= set("[];m1?8PX^_\\a\n") | {"\x1b"} and "\x1b]" not in once


PLOTLY_ATTACKS = [
    {"data": [{"type": "scatter", "text": ["<a href='javascript:attack()'>x</a>", "<b>b</b><br>"]}]},
    {"layout": {"images": [{"source": "/logout"}], "title": {"text": "<img src=x>"}}},
    {"layout": {"images": [{"source": "data:image/svg+xml,<svg>"}]}},
    {"layout": {"mapbox": {"style": "https://evil.example/style.json", "layers": [{"source": "//evil.example"}]}}},
    {"layout": {"map": {"style": {"sources": {"a": {"tiles": ["//evil.example/{z}"], "url": "x"}}, "sprite": "//e"}}}},
    {"data": [{"type": "choropleth", "geojson": "/api/contents"}]},
    {"data": [{"type": "image", "source": "logout"}]},
    {"layout": {"updatemenus": [{"buttons": [{"args": [{"images[0].source": "/logout"}]}]}]}},
    {"layout": {"updatemenus": [{"buttons": [{"args": ["images[0].source", "/logout"]}]}]}},
    {"layout": {"sliders": [{"steps": [{"args2": ["mapbox.style", "//evil.example"]}]}]}},
    {"config": {"plotlyServerURL": "//evil.example", "topojsonURL": "//evil.example", "modeBarButtons": []}},
    {"evil": 1, "frames": [{"layout": {"images": [{"source": ["//evil.example"]}]}}]},
]


@pytest.mark.parametrize("figure", PLOTLY_ATTACKS)
def test_plotly_neither_loads_nor_links(figure):
    text = str(kept("application/vnd.plotly.v1+json", figure))
    for bad in ("evil", "logout", "<a", "<img", "/api", "svg+xml"):
        assert bad not in text


def test_plotly_keeps_its_pictures_and_tags():
    figure = {
        "data": [],
        "layout": {"images": [{"source": f"data:image/png;base64,{PNG}"}], "mapbox": {"style": "open-street-map"}},
    }
    assert kept("application/vnd.plotly.v1+json", figure) == figure
    assert kept("application/vnd.plotly.v1+json", []) is None


@pytest.mark.parametrize("figure", [{}, {"data": []}, {"data": {}, "layout": []}, {"layout": None, "frames": {}}])
def test_a_figure_always_has_what_its_renderer_reads(figure):
    assert kept("application/vnd.plotly.v1+json", figure) == {"data": [], "layout": {}}


VEGALITE_ATTACKS = [
    {"data": {"url": "/api/contents"}},
    {"transform": [{"calculate": "attack()", "as": "x"}]},
    {"transform": [{"filter": "attack()"}]},
    {"transform": [{"filter": {"not": "attack()"}}]},
    {"transform": [{"filter": {"and": ["attack()", {"field": "a", "lt": 1}]}}]},
    {"transform": [{"lookup": "a", "from": {"data": {"url": "//evil.example"}}}]},
    {"params": [{"name": "p", "expr": "attack()"}]},
    {"params": [{"name": "p;attack()", "select": "point"}]},
    {"params": [{"name": "p", "bind": {"input": "range", "element": "body"}}]},
    {"params": [{"name": "p", "select": {"type": "point", "on": "click[attack()]"}}]},
    {"encoding": {"x": {"condition": {"test": "attack()", "value": 1}}}},
    {"encoding": {"href": {"field": "a"}}},
    {"encoding": {"url": {"field": "a"}}},
    {"encoding": {"x": {"axis": {"labelExpr": "attack()"}}}},
    {"encoding": {"x": {"formatType": "attack"}}},
    {"encoding": {"x": {"timeUnit": "x');attack()//"}}},
    {"encoding": {"tooltip": {"field": "a", "title": "image"}}},
    {"mark": "image"},
    {"mark": {"type": "image", "url": "/logout"}},
    {"mark": {"type": "bar", "cursor": "url(//evil.example)"}},
    {"width": {"signal": "attack()"}},
    {"config": {"signals": []}},
    {"layer": [{"mark": {"type": "bar", "href": "javascript:attack()"}}]},
    {"unknown": 1},
    [],
]


@pytest.mark.parametrize("spec", VEGALITE_ATTACKS, ids=str)
def test_vegalite_that_computes_or_loads_is_dropped(spec):
    assert kept("application/vnd.vegalite.v5+json", spec) is None


def test_vegalite_loses_what_configures_its_frame_and_pictures_in_tooltips():
    spec = {
        "mark": "bar",
        "usermeta": {"embedOptions": {}},
        "data": {"values": [{"image": "/logout", "a": {"image": 1}}]},
    }
    assert kept("application/vnd.vegalite.v5+json", spec) == {"mark": "bar", "data": {"values": [{"a": {}}]}}


def test_geojson_has_no_tags():
    value = {"type": "Feature", "properties": {"<b>": "<img src=x onerror=attack()> 1 < 2"}}
    shown = kept("application/geo+json", value)
    assert shown == {"type": "Feature", "properties": {"< b>": "< img src=x onerror=attack()> 1 < 2"}}
    assert kept("application/geo+json", "x") is None


def test_widget_views_name_a_model():
    name = "application/vnd.jupyter.widget-view+json"
    view = {"version_major": 2, "version_minor": 0, "model_id": "abc-1"}
    assert kept(name, {**view, "x": 1}) == view
    assert kept(name, {"model_id": "<b>"}) is None and kept(name, "x") is None


@pytest.mark.parametrize(
    "html",
    ["<div>" * 5000, "<b a=1>" * 5000, "<x>" * 300_000, "&amp;" * 250_000, "x" * (5 << 20), "<p><b c=1></p>" * 3000],
    ids=["deep", "formatting", "tags", "references", "long", "untidy"],
)
def test_html_that_would_take_long_is_not_shown(html):
    screened = show({"text/html": html, "text/plain": "x"})
    assert set(screened.content["data"]) == {"text/plain"} and "HTML text" in screened.removed[0]


def test_many_attributes_and_untidy_lists_are_shown():
    assert kept("text/html", "<b " + " ".join(f"a{number}=1" for number in range(5000)) + ">x</b>") == "<b>x</b>"
    assert kept("text/html", "<ul>" + "<li>x" * 1000 + "</ul>").count("<li>") == 1000
    assert kept("text/html", "<table>" + "<tr><td>x<td>y" * 1000 + "</table>").count("<td>") == 2000
