"""The output policy by message: shapes, bounds, what is never raised."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyper_kernel.policy.output import MODES, OutputPolicy
from hyper_kernel.policy.replies import SCREENS

CHANNEL_TYPES = [(channel, name) for channel, screens in SCREENS.items() for name in screens] + [
    ("iopub", "comm_open"),
    ("iopub", "comm_msg"),
    ("iopub", "comm_close"),
    ("iopub", "nonsense"),
    ("nowhere", "status"),
]
#: Strings that the policy knows, so that random content goes deeper than its first checks.
WORDS = re.findall(
    r"\S+",
    r"""data metadata text/html text/plain text/markdown text/latex image/svg+xml image/png application/json     value
    application/vnd.plotly.v1+json application/vnd.vegalite.v5+json application/geo+json state method update
    custom     content comm_id target_name jupyter.widget _model_name _view_name HTMLModel HTMLView OutputModel
    outputs output_type     payload buffer_paths states update_states user_expressions source page set_next_input
    traceback status ok history matches     help_links language_info codemirror_mode comms transient display_id
    prompt password body layout config args filter     __proto__ <b>x</b> <script>1</script>
    \href{javascript:1}{x} $x$ # [a](javascript:1)  model_id url""",
)
texts = st.one_of(st.sampled_from(WORDS), st.text(max_size=20))
trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=20,
)


def screen(channel, msg_type, content, metadata=None, buffers=(), policy=None):
    return (policy or OutputPolicy()).screen(channel, msg_type, content, metadata or {}, buffers)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(CHANNEL_TYPES), st.dictionaries(texts, trees, max_size=6), st.dictionaries(texts, trees, max_size=3)
)
def test_nothing_raises_and_twice_is_once(kind, content, metadata):
    before = repr(content)
    once = screen(*kind, content, metadata, [1, 2])
    assert repr(content) == before, "what came in was changed"
    if once.content is not None:
        json.dumps([once.content, once.metadata], allow_nan=False)
        twice = screen(*kind, once.content, once.metadata, [1, 2])
        assert (twice.content, twice.metadata) == (once.content, once.metadata)


def test_trusted_passes_everything():
    policy = OutputPolicy("trusted")
    content = {"data": {"application/javascript": "1"}}
    screened = policy.screen("iopub", "display_data", content, {"x": {}}, [3])
    assert (screened.content, screened.metadata, screened.removed, screened.keep_buffers) == (
        content,
        {"x": {}},
        (),
        True,
    )


def test_modes_are_named():
    assert MODES == ("sanitize", "trusted")
    with pytest.raises(ValueError, match="no output policy is called 'none'"):
        OutputPolicy("none")
