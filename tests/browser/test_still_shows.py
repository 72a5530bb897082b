"""What a person wants to see of a sandboxed kernel still shows, moves and answers in JupyterLab."""

import re

import pytest
from lab import SLOW_MS
from playwright.sync_api import expect

CELLS = {
    "imports": """
import ipywidgets as w, matplotlib.pyplot as plt, pandas as pd
from IPython.display import HTML, JSON, Markdown, Math, clear_output, display""",
    "table": "pd.DataFrame({'city': ['Ulm', 'Bonn'], 'people': [128_000, 331_000]})",
    "png": "plt.plot([1, 3, 2]); plt.title('A line');",
    "svg": "%config InlineBackend.figure_formats = ['svg']\nplt.bar(['a', 'b'], [1, 2], color='green');",
    "plotly": """
trace = {'type': 'scatter', 'x': [1, 2, 3], 'y': [1, 3, 2]}
figure = {'data': [trace], 'layout': {'title': {'text': 'Of plotly'}, 'height': 300}}
display({'application/vnd.plotly.v1+json': figure, 'text/plain': 'Figure'}, raw=True)""",
    "latex": r"Math(r'\frac{a}{b} = \sqrt{2}')",
    "markdown": r"""
Markdown('# Heading\n\n**bold**, `code`, $x^2$, a [link](https://jupyter.org)\n\n| a | b |\n|---|---|\n| 1 | 2 |')""",
    "json": "JSON({'answer': 42}, expanded=True)",
    "traceback": "try: 1 / 0\nexcept ZeroDivisionError: get_ipython().showtraceback()",
    "colours": r"print('\x1b[32mgreen\x1b[0m and \x1b[1mbold\x1b[0m')",
    "slider": """
slider, told = w.IntSlider(3, description='speed'), w.Label('kernel: 3')
slider.observe(lambda change: setattr(told, 'value', f'kernel: {change.new}'), 'value')
display(slider, told)""",
    "html widget": "w.HTML('<b>bold</b> words')",
    "tabs": "w.Tab([w.Label('one'), w.Label('two')], titles=('First', 'Second'))",
    "output widget": """
output = w.Output(); display(output)
with output:
    print('inside'); display(HTML('<i>slanted</i>'))""",
    "progress": "w.IntProgress(7, max=10, description='work')",
    "interact": "w.interact(lambda n: print('square', n * n), n=w.IntSlider(5));",
    "clear": "for i in range(5):\n    clear_output(wait=True); print('count', i)",
    "update": "handle = display('first', display_id=True)\nhandle.update('second')",
    "removed": "HTML('<p>kept</p><script>alert(1)</script><script>alert(2)</script>')",
    "inspect": "len",
    "input": "print('Hello', input('Your name? '))",
}
#: What the slider's label says after a click near the end of its track.
NEAR_THE_END = re.compile(r"kernel: (9[5-9]|100)")
NUMBERS = {name: number for number, name in enumerate(CELLS)}


@pytest.fixture(scope="module")
def notebook(open_notebook):
    with open_notebook("shows.ipynb", "hyper-python", [cell.strip() for cell in CELLS.values()]) as notebook:
        notebook.open()
        notebook.choose("Run", "Run All Cells")
        question = notebook.cell(NUMBERS["input"]).get_by_role("textbox").last
        expect(notebook.output(NUMBERS["input"])).to_contain_text("Your name?", timeout=SLOW_MS)
        question.fill("Ada")
        question.press("Enter")
        notebook.wait_until_run()
        yield notebook


@pytest.fixture
def shown(notebook):
    """A function: the output of a cell, by its name above."""
    return lambda name: notebook.output(NUMBERS[name])


def test_table(shown):
    table = shown("table").get_by_role("table")
    expect(table.get_by_role("columnheader", name="people")).to_be_visible()
    expect(table.get_by_role("row", name="1 Bonn 331000")).to_be_visible()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_picture(shown, kind):
    picture = shown(kind).get_by_role("img")
    expect(picture).to_have_attribute("src", re.compile(f"^data:image/{kind}"))
    assert picture.evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 300


def test_plotly(shown, notebook):
    expect(shown("plotly").get_by_text("Of plotly")).to_be_visible(timeout=SLOW_MS)
    expect(shown("plotly").locator(".scatterlayer .lines path")).to_have_count(1)


def test_latex(shown):
    expect(shown("latex").locator("mjx-container")).to_be_visible(timeout=SLOW_MS)


def test_markdown(shown):
    output = shown("markdown")
    expect(output.get_by_role("heading", name="Heading")).to_be_visible(timeout=SLOW_MS)
    expect(output.get_by_role("strong")).to_have_text("bold")
    expect(output.get_by_role("row", name="1 2")).to_be_visible()
    expect(output.get_by_role("link", name="link")).to_have_attribute("href", re.compile("^https://jupyter.org/?$"))
    expect(output.locator("mjx-container")).to_be_visible()


def test_json(shown):
    expect(shown("json").get_by_text("answer")).to_be_visible(timeout=SLOW_MS)
    expect(shown("json").get_by_text("42")).to_be_visible()


def test_colours(shown):
    expect(shown("traceback").locator(".ansi-red-fg").first).to_be_visible()
    expect(shown("traceback")).to_contain_text("ZeroDivisionError: division by zero")
    expect(shown("colours").locator(".ansi-green-fg")).to_have_text("green")


def test_slider_moves_the_kernels_value(shown):
    shown("slider").get_by_role("slider").press("ArrowRight")
    expect(shown("slider").get_by_text("kernel: 4")).to_be_visible(timeout=SLOW_MS)


def test_slider_by_mouse(shown):
    track = shown("slider").locator(".noUi-target")
    track.click(position={"x": track.bounding_box()["width"] - 2, "y": 2}, force=True)
    expect(shown("slider").get_by_text(NEAR_THE_END)).to_be_visible(timeout=SLOW_MS)


def test_widgets(shown):
    expect(shown("html widget").locator("b")).to_have_text("bold")
    shown("tabs").get_by_role("tab", name="Second").click()
    expect(shown("tabs").get_by_text("two")).to_be_visible()
    expect(shown("output widget").get_by_text("inside")).to_be_visible()
    expect(shown("output widget").locator("i")).to_have_text("slanted")
    expect(shown("progress").locator(".progress-bar")).to_have_attribute("style", re.compile("width: 70%"))


def test_interact(shown):
    expect(shown("interact").get_by_text("square 25")).to_be_visible()
    shown("interact").get_by_role("slider").press("ArrowRight")
    expect(shown("interact").get_by_text("square 36")).to_be_visible(timeout=SLOW_MS)


def test_clear_and_update(shown):
    expect(shown("clear")).to_have_text("count 4")
    expect(shown("update")).to_have_text("'second'")


def test_what_was_removed_is_said(shown):
    expect(shown("removed").get_by_text("kept")).to_be_visible()
    expect(shown("removed").get_by_text("[removed for safety: 2 scripts]")).to_be_visible()


def test_input(shown):
    expect(shown("input")).to_contain_text("Hello Ada")


def test_tooltip_and_completion(notebook):
    code = notebook.cell(NUMBERS["inspect"]).get_by_role("textbox")
    code.click()
    code.press("End")
    code.press("Shift+Tab")
    expect(notebook.page.locator(".jp-Tooltip")).to_contain_text("number of items in a container", timeout=SLOW_MS)
    notebook.page.keyboard.press("Escape")
    code.click()  # the key may have left the editor, too
    code.press("End")
    notebook.page.keyboard.type("; pd.read_cs")
    notebook.page.keyboard.press("Tab")
    expect(notebook.page.locator(".jp-Completer")).to_contain_text("read_csv", timeout=SLOW_MS)
    notebook.page.keyboard.press("Enter")
    expect(code).to_contain_text("pd.read_csv", timeout=SLOW_MS)


def test_saved_and_opened_again(notebook, shown):
    notebook.save()
    cells = notebook.server.saved(notebook.name)
    assert "application/vnd.plotly.v1+json" in cells[NUMBERS["plotly"]]["outputs"][0]["data"]
    notebook.open()
    expect(shown("table").get_by_role("table")).to_be_visible()
    expect(shown("slider").get_by_text(NEAR_THE_END)).to_be_visible(timeout=SLOW_MS)
    expect(shown("html widget").locator("b")).to_have_text("bold")
