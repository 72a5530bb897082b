"""HTML of outputs: what may stay stays, what acts is gone."""

import pytest

from hyper_kernel.policy.html import safe_html
from hyper_kernel.policy.output import OutputPolicy
from hyper_kernel.policy.removed import Removed


def clean(html):
    once = safe_html(html, Removed())
    assert safe_html(once, Removed()) == once
    return once


@pytest.mark.parametrize("html", ["<script>1</script>", '<b onclick="x()">b</b>', "<iframe src=//x></iframe>"])
def test_what_acts_is_gone_and_noted(html):
    cleaned = clean(html)
    assert "script>" not in cleaned and "onclick" not in cleaned and "<iframe" not in cleaned
    assert "removed for safety: 1 " in cleaned


def test_javascript_is_dropped():
    screened = OutputPolicy().screen("iopub", "display_data", {"data": {"application/javascript": "1"}}, {})
    assert screened.removed == ("application/javascript",)
