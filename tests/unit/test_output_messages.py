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
texts = st.one_of(st.sampled_from(WORDS), st.text(st.characters(exclude_categories=()), max_size=20))
trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=20,
)


def screen(channel, msg_type, content, metadata=None):
    return OutputPolicy().screen(channel, msg_type, content, metadata or {})


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(CHANNEL_TYPES), st.dictionaries(texts, trees, max_size=6), st.dictionaries(texts, trees, max_size=3)
)
def test_nothing_raises_and_twice_is_once(kind, content, metadata):
    before = repr(content)
    once = screen(*kind, content, metadata)
    assert repr(content) == before, "what came in was changed"
    if once.content is not None:
        json.dumps([once.content, once.metadata], allow_nan=False, ensure_ascii=False).encode()
        twice = screen(*kind, once.content, once.metadata)
        assert (twice.content, twice.metadata) == (once.content, once.metadata)


def test_trusted_passes_everything():
    policy = OutputPolicy("trusted")
    content = {"data": {"application/javascript": "1"}}
    screened = policy.screen("iopub", "display_data", content, {"x": {}})
    assert (screened.content, screened.metadata, screened.removed, screened.keep_buffers) == (
        content,
        {"x": {}},
        (),
        True,
    )


FAILED = {"status": "error", "execution_count": 3, "traceback": ["a"]}
ERROR = {"ename": "E", "traceback": ["a"]}
COMMS = {"comms": {"1": {"target_name": "jupyter.widget"}}}
BAD_COMMS = {"2": {"target_name": "evil"}, "3": 1, "4": {"target_name": ["jupyter.widget"]}}
TYPES = {"_jupyter_types_experimental": [{"text": "a", "type": "function", "start": 0}]}
COMPLETION = {"status": "ok", "matches": ["a"], "cursor_start": 0, "cursor_end": 1, "metadata": TYPES}


@pytest.mark.parametrize(
    ("kind", "content", "left"),
    [
        ("iopub status", {"execution_state": "busy", "x": 1}, {"execution_state": "busy"}),
        ("iopub status", {"execution_state": "dead"}, None),
        ("iopub status", {"execution_state": ["busy"]}, None),
        ("iopub stream", {"name": "stderr", "text": "a\x1b[1mb", "x": 1}, {"name": "stderr", "text": "a\x1b[1mb"}),
        ("iopub stream", {"name": "x", "text": "a"}, {"name": "stdout", "text": "a"}),
        ("iopub stream", {"name": "stdout", "text": ["a"]}, None),
        ("iopub error", {"ename": "E", "evalue": 1, "traceback": ["a\x1b]0;t\x07", 1]}, ERROR),
        ("iopub execute_input", {"code": "1", "execution_count": 2, "y": 1}, {"code": "1", "execution_count": 2}),
        ("iopub clear_output", {"wait": True, "y": 1}, {"wait": True}),
        ("iopub iopub_welcome", {"subscription": ""}, {"subscription": ""}),
        ("iopub debug_event", {"event": "stopped", "body": {"x": 1}}, {"event": "stopped", "body": {"x": 1}}),
        ("iopub shutdown_reply", {"status": "ok", "restart": True}, {"status": "ok", "restart": True}),
        ("iopub display_data", {"data": "x"}, None),
        ("shell is_complete_reply", {"status": "incomplete", "indent": "  "}, {"status": "incomplete", "indent": "  "}),
        ("shell is_complete_reply", {"status": {}, "indent": 4}, {"status": "unknown"}),
        ("shell history_reply", {"status": "ok", "history": [[1, 2, "a"]]}, {"status": "ok", "history": [[1, 2, "a"]]}),
        ("control shutdown_reply", {"status": "ok", "restart": False}, {"status": "ok", "restart": False}),
        ("control interrupt_reply", {"status": "ok", "x": {}}, {"status": "ok"}),
        ("control create_subshell_reply", {"status": "ok", "subshell_id": "a"}, {"status": "ok", "subshell_id": "a"}),
        ("control list_subshell_reply", {"status": "ok", "subshell_id": ["a"]}, {"status": "ok", "subshell_id": ["a"]}),
        ("control usage_reply", {"kernel_cpu": 1.5, "status": "ok"}, {"kernel_cpu": 1.5, "status": "ok"}),
        ("shell comm_info_reply", {"comms": {"1": {"target_name": "jupyter.widget", "x": 1}} | BAD_COMMS}, COMMS),
        ("shell complete_reply", {**COMPLETION, "matches": ["a", 1], "metadata": {**TYPES, "x": 1}}, COMPLETION),
        ("shell execute_reply", {"status": "error", "execution_count": 3, "traceback": ["\x1b[2Ja"], "x": 1}, FAILED),
        ("shell debug_request", {}, None),
        ("iopub nonsense", {}, None),
        ("hb status", {"execution_state": "busy"}, None),
    ],
)  # fmt: skip
def test_shapes(kind, content, left):
    assert screen(*kind.split(" "), content).content == left


def test_inspections_are_outputs():
    content = {"status": "ok", "found": True, "data": {"text/html": "<b onclick=1>x"}, "metadata": {"isolated": 1}}
    kept = screen("shell", "inspect_reply", content).content
    assert (kept["found"], kept["metadata"]) == (True, {}) and kept["data"]["text/html"].startswith("<b>x</b>")


def test_unknown_messages_are_named():
    assert screen("iopub", "bokeh_patch", {}).removed == ("1 message of type bokeh_patch",)


def test_pager_and_expressions_are_outputs():
    bundle = {"text/html": "<script>1</script>x", "text/plain": "x"}
    content = {
        "status": "ok",
        "execution_count": 1,
        "payload": [{"source": "page", "data": bundle, "start": 0}],
        "user_expressions": {
            "a": {"status": "ok", "data": bundle, "metadata": {"isolated": True}},
            "b": {"status": "error", "ename": "E"},
        },
    }
    screened = screen("shell", "execute_reply", content)
    page, expression = screened.content["payload"][0], screened.content["user_expressions"]["a"]
    assert "<script" not in str(page) and page["start"] == 0
    assert "<script" not in str(expression) and expression["metadata"] == {}
    assert screened.removed == ("2 scripts",)


def test_payloads_write_over_nothing():
    payload = [
        {"source": "set_next_input", "text": "x = 1", "replace": True},
        {"source": "set_next_input", "text": "y"},
        {"source": "edit_magic", "filename": "/etc/passwd", "line_number": 1},
        {"source": "ask_exit", "keepkernel": False},
        {"source": ["page"]},
        "x",
    ]
    screened = screen("shell", "execute_reply", {"status": "ok", "payload": payload})
    assert screened.content["payload"] == [
        {"source": "set_next_input", "text": "x = 1", "replace": False},
        {"source": "set_next_input", "text": "y", "replace": False},
        {"source": "ask_exit", "keepkernel": False},
    ]
    assert screened.removed[:2] == ("1 cell replacement", "1 payload edit_magic")


def test_a_question_for_a_password_says_who_asks():
    plain = screen("stdin", "input_request", {"prompt": "name\x1b[31m> ", "password": False}).content
    assert plain == {"prompt": "name> ", "password": False}
    secret = screen("stdin", "input_request", {"prompt": "Jupyter password:", "password": True}).content
    assert secret == {"prompt": "[the code in this sandbox asks] Jupyter password:", "password": True}
    assert screen("stdin", "input_request", secret).content == secret
    assert len(screen("stdin", "input_request", {"prompt": "x" * 9999}).content["prompt"]) == 4000


def test_kernel_info_names_no_module_and_no_file():
    language = {
        "name": "python",
        "version": "3.11.2",
        "mimetype": "text/x-python",
        "file_extension": ".py",
        "pygments_lexer": "ipython3",
        "nbconvert_exporter": "python",
        "codemirror_mode": {"name": "ipython", "version": 3},
    }
    links = [{"text": "Python", "url": "https://docs.python.org"}]
    info = {
        "status": "ok",
        "protocol_version": "5.3",
        "implementation": "ipython",
        "implementation_version": "9",
        "banner": "Python\n\x1b[31mx",
        "help_links": links,
        "debugger": True,
        "supported_features": ["debugger"],
        "language_info": language,
    }
    assert screen("shell", "kernel_info_reply", info).content == info
    hostile = {
        "language_info": {
            "nbconvert_exporter": "os.system",
            "file_extension": "/../x",
            "mimetype": "text/<b>",
            "codemirror_mode": {"name": "<b>", "<b>": 1},
            "x": 1,
        },
        "help_links": [*links, {"text": "x", "url": "javascript:1"}, {"text": "y", "url": "/logout"}, {"url": 3}, 4],
    }
    kept = screen("control", "kernel_info_reply", hostile).content
    assert kept == {"language_info": {"codemirror_mode": {}}, "help_links": links}


def test_rich_variables_of_the_debugger_are_outputs():
    body = {"data": {"text/html": "<iframe></iframe>x", "text/plain": "x"}, "metadata": {"isolated": 1}}
    kept = screen("control", "debug_reply", {"success": True, "command": "richInspectVariables", "body": body}).content
    assert "iframe>" not in kept["body"]["data"]["text/html"] and kept["body"]["metadata"] == {}
    assert kept["success"] is True


def test_telemetry_of_the_debugger_is_cleaned_and_not_missed():
    body = {"category": "telemetry", "output": "ptvsd", "data": {"packageVersion": "1.8", "text/html": "<script>"}}
    screened = screen("iopub", "debug_event", {"type": "event", "event": "output", "body": body})
    assert "<script>" not in str(screened.content) and screened.counts == {}


def test_what_was_removed_is_counted_by_kind():
    screened = screen("iopub", "display_data", {"data": {"text/html": "x<script></script><script></script>"}})
    assert (screened.removed, screened.counts) == (("2 scripts",), {"script": 2})


def test_metadata_of_a_message_are_facts():
    metadata = {
        "started": "2026",
        "dependencies_met": True,
        "engine": "x" * 2000,
        "status": "ok",
        "x": {"y": 1},
        "z": None,
    }
    kept = screen("iopub", "status", {"execution_state": "idle"}, metadata).metadata
    assert kept == {"started": "2026", "dependencies_met": True, "engine": "x" * 1000, "status": "ok"}
    assert len(screen("iopub", "status", {}, {str(number): 1 for number in range(99)}).metadata) == 32


def test_buffers_are_for_widgets():
    assert not screen("iopub", "display_data", {"data": {"text/plain": "x"}}).keep_buffers


def test_json_is_not_too_deep_and_has_no_poison():
    deep = leaf = {}
    for _ in range(500):
        leaf["a"] = leaf = {}
    kept = screen("iopub", "display_data", {"data": {"application/json": deep}}).content["data"]["application/json"]
    depth = 0
    while kept:
        kept, depth = kept["a"], depth + 1
    assert 40 < depth < 60
    poison = json.loads('{"__proto__": 1, "constructor": 1, "b": {"prototype": 1, "c": NaN, "d": "\\ud800"}}')
    kept = screen("iopub", "display_data", {"data": {"application/json": poison}}).content["data"]["application/json"]
    assert kept == {"b": {"c": None, "d": "\ufffd"}}


def test_modes_are_named():
    assert MODES == ("sanitize", "trusted")
    with pytest.raises(ValueError, match="no output policy is called 'none'"):
        OutputPolicy("none")
