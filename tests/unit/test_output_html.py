"""HTML of outputs: what may stay stays, what acts is gone."""

import pytest

from hyper_kernel.policy.html import safe_html
from hyper_kernel.policy.output import OutputPolicy
from hyper_kernel.policy.removed import Removed


def clean(html):
    once = safe_html(html, Removed())
    assert safe_html(once, Removed()) == once
    return once


def show(html):
    return OutputPolicy().screen("iopub", "display_data", {"data": {"text/html": html}}, {})


@pytest.mark.parametrize(
    ("html", "removed"),
    [
        ("<script>1</script><SCRIPT>2</script>x", "2 scripts"),
        ('<b onclick="x()">b</b>', "1 event handler"),
        ("<iframe src=//x></iframe>x", "1 iframe"),
        ("<a href='javascript:1'>x</a>", "1 link or image address"),
    ],
)
def test_what_acts_is_gone_and_noted(html, removed):
    screened = show(html)
    cleaned = screened.content["data"]["text/html"]
    assert screened.removed == (removed,)
    assert cleaned.endswith(f'<div class="hk-note">[removed for safety: {removed}]</div>')
    assert "<script" not in cleaned.lower() and "onclick" not in cleaned and "<iframe" not in cleaned


def test_javascript_is_dropped():
    screened = OutputPolicy().screen("iopub", "display_data", {"data": {"application/javascript": "1"}}, {})
    assert screened.removed == ("application/javascript",)
    assert screened.content["data"] == {"text/plain": "[removed for safety: application/javascript]"}
