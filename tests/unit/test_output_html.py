"""HTML of outputs: what may stay stays, what acts is gone."""

import re

import html5lib
import output_attacks
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyper_kernel.policy.html import safe_html, safe_svg
from hyper_kernel.policy.markdown import safe_markdown
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
    assert cleaned.endswith(f">[removed for safety: {removed}]</div>")
    assert "<script" not in cleaned.lower() and "onclick" not in cleaned and "<iframe" not in cleaned


def test_javascript_is_dropped():
    screened = OutputPolicy().screen("iopub", "display_data", {"data": {"application/javascript": "1"}}, {})
    assert screened.removed == ("application/javascript",)
    assert screened.content["data"] == {"text/plain": "[removed for safety: application/javascript]"}


def tree(html):
    return html5lib.serialize(html5lib.parseFragment(html), quote_attr_values="always", omit_optional_tags=False)


def check(cleaned):
    """Nothing active is left, whether it is read once, or written by a browser and read again."""
    assert output_attacks.faults(cleaned) == []
    again = tree(cleaned)
    assert output_attacks.faults(again) == []
    assert "attack" not in again or output_attacks.faults(tree(again)) == []


def test_there_are_enough_attacks():
    assert len(set(output_attacks.HTML)) >= 200 and len(set(output_attacks.MARKDOWN)) > len(output_attacks.HTML) + 30


@pytest.mark.parametrize("attack", output_attacks.HTML)
def test_attack_by_html(attack):
    check(clean(attack))
    check(clean(f"<div><table><tr><td>{attack}</td></tr></table></div>"))
    check(clean(f"<svg><g>{attack}</g></svg>"))


@pytest.mark.parametrize("attack", output_attacks.MARKDOWN)
def test_attack_by_markdown(attack):
    cleaned = safe_markdown(attack, Removed())
    check(cleaned)
    assert safe_html(cleaned, Removed()) == cleaned


@pytest.mark.parametrize("attack", [attack for attack in output_attacks.HTML if "<svg" in attack])
def test_attack_by_svg(attack):
    cleaned = safe_svg(attack, Removed())
    assert safe_svg(cleaned, Removed()) == cleaned
    # A picture is a document of its own, so that its styles need no scope.
    assert output_attacks.faults(cleaned.replace("<style>", "<style>@scope{")) == []


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([part for attack in output_attacks.HTML for part in re.split(r"(?=[<>'\" ])", attack)]))
)
def test_pieces_of_attacks_in_any_order(pieces):
    check(clean("".join(pieces)))


def test_the_judge_knows_an_attack():
    unseen = [attack for attack in output_attacks.HTML if not output_attacks.faults(attack)]
    assert len(unseen) < len(output_attacks.HTML) / 8, unseen
