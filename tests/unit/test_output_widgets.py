"""Widgets through the output policy: Jupyter's own work as they are, nothing else gets to the browser."""

import json

import ipywidgets
import output_attacks
import pytest
from comm.base_comm import BaseComm
from ipywidgets.widgets import widget as widget_module

from hyper_kernel.policy import comms
from hyper_kernel.policy.output import OutputPolicy

ATTACK = "<img src=x onerror=attack()>"


class Wire(BaseComm):
    """A comm whose messages go through the policy, and what is left of them into a list."""

    policy = OutputPolicy()
    passed = ()

    def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
        content = json.loads(json.dumps({"comm_id": self.comm_id, "data": data or {}, **keys}))
        screened = self.policy.screen("iopub", msg_type, content, metadata or {})
        self.passed.append((msg_type, content, screened))


@pytest.fixture
def wire(monkeypatch):
    monkeypatch.setattr(Wire, "policy", OutputPolicy())
    monkeypatch.setattr(Wire, "passed", [])
    monkeypatch.setattr(widget_module.comm, "create_comm", lambda **options: Wire(**options))
    yield Wire
    ipywidgets.Widget.close_all()


def opened(name="HTML", policy=None, comm_id="1", **state):
    policy = policy or OutputPolicy()
    screened = policy.screen("iopub", "comm_open", comm_open(name, comm_id, **state), {"version": "2.1.0"})
    return policy, screened


def comm_open(name, comm_id="1", buffer_paths=(), module="@jupyter-widgets/controls", version="2.0.0", **state):
    own = {
        "_model_name": f"{name}Model",
        "_model_module": module,
        "_model_module_version": version,
        "_view_name": f"{name}View",
        "_view_module": module,
        "_view_module_version": version,
    }
    data = {"state": own | state, "buffer_paths": list(buffer_paths)}
    return {"comm_id": comm_id, "target_name": "jupyter.widget", "data": data}


def update(policy, state, buffer_paths=(), method="update"):
    data = {"method": method, "state": state, "buffer_paths": list(buffer_paths)}
    return policy.screen("iopub", "comm_msg", {"comm_id": "1", "data": data}, {})


def state_of(screened):
    return screened.content["data"]["state"]


def core_widgets():
    """The classes of ipywidgets by the names of their models, from its own registry."""
    return {
        name.removesuffix("Model"): cls
        for versions in widget_module._registry._registry.values()
        for models in versions.values()
        for name, views in models.items()
        for view_versions in views.values()
        for view_names in view_versions.values()
        for cls in view_names.values()
    }


CORE = core_widgets()
#: No widget is seen by itself, but for the game controller, which is not let through; links are tested below.
APART = ("DOMWidget", "_Media", "Controller", "ControllerAxis", "ControllerButton", "DirectionalLink", "Link")


@pytest.mark.parametrize("name", sorted(CORE.keys() - set(APART)))
def test_core_widget_opens_as_it_is(wire, name):
    CORE[name](**({"options": ["a", "b"]} if "options" in CORE[name].class_trait_names() else {}))
    assert wire.passed[-1][1]["data"]["state"]["_model_name"] == f"{name}Model"
    for msg_type, content, screened in wire.passed:
        assert msg_type == "comm_open" and screened.removed == ()
        given = dict(content["data"]["state"])
        given.pop("description_allow_html", None)
        shown = dict(state_of(screened))
        shown.pop("description_allow_html", None)
        # A value that comes as a buffer is not in the state.
        assert {name: value for name, value in given.items() if shown.get(name) != value} == {}
        assert screened.content["data"]["buffer_paths"] == content["data"]["buffer_paths"]
        assert screened.keep_buffers


def test_a_whole_dashboard_works(wire):
    slider = ipywidgets.IntSlider(description="n")
    label = ipywidgets.HTML("<b>n</b>")
    tab = ipywidgets.Tab([ipywidgets.VBox([slider, label]), ipywidgets.Output()], titles=["a", "b"])
    play = ipywidgets.Play()
    ipywidgets.jslink((play, "value"), (slider, "value"))
    slider.value = 7
    label.value = "<i>7</i>"
    picture = ipywidgets.Image(value=b"\x89PNG", format="png")
    assert all(screened.removed == () and screened.content for _, _, screened in wire.passed)
    states = [state_of(screened) for _, _, screened in wire.passed]
    assert {"value": 7} in states and {"value": "<i>7</i>"} in states
    assert states[-1]["_model_name"] == "ImageModel"
    assert wire.passed[-1][2].content["data"]["buffer_paths"] == [["value"]]
    assert tab.titles == ("a", "b") and picture.format == "png"


@pytest.mark.parametrize("attack", output_attacks.HTML[::3])
@pytest.mark.parametrize("name", ["HTML", "HTMLMath"])
def test_attack_by_value(name, attack):
    policy, screened = opened(name, value=attack)
    assert output_attacks.faults(state_of(screened)["value"]) == []
    for method in ("update", "echo_update"):
        screened = update(policy, {"value": attack}, method=method)
        assert output_attacks.faults(state_of(screened)["value"]) == []


def test_a_removal_is_said_in_the_widget():
    _, screened = opened(value=f"hello{ATTACK}")
    assert state_of(screened)["value"].startswith("hello<img>")
    assert "1 event handler" in state_of(screened)["value"] and "1 event handler" in screened.removed


@pytest.mark.parametrize(
    "paths", [[["value"]], [["value", 0]], [["__proto__", "value"]], [[]], ["value"], [[["value"]]]]
)
def test_html_does_not_come_as_a_buffer(paths):
    policy, screened = opened("HTML", buffer_paths=paths)
    assert screened.content["data"]["buffer_paths"] == [["hk_removed"]]
    assert update(policy, {}, paths).content["data"]["buffer_paths"] == [["hk_removed"]]


@pytest.mark.parametrize(
    "state",
    [
        {"_model_module": "anywidget"},
        {"_model_module": "https://evil.example/x.js"},
        {"_model_module": ["@jupyter-widgets/controls"]},
        {"_model_module": None},
        {"_view_module": "./../evil"},
        {"_view_module": None},
        {"_model_module_version": "https://evil.example"},
        {"_view_module_version": "1 || 2"},
        {"_model_name": "ControllerModel"},
        {"_model_name": "AnyModel"},
        {"_model_name": None},
        {"_view_name": "HTMLView", "_model_name": "TextModel"},
        {"_view_name": "HTMLMathView"},
        {"_view_name": "TextView", "_model_name": "HTMLModel"},
        {"_view_name": "constructor"},
        {"_view_name": {}},
    ],
)
def test_other_widgets_become_a_note(state):
    policy, screened = opened("HTML", value=ATTACK, _esm="export default {}", layout="IPY_MODEL_2", **{**state})
    shown = state_of(screened)
    assert (shown["_model_name"], shown["_model_module"]) == ("HTMLModel", "@jupyter-widgets/controls")
    assert "removed for safety" in shown["value"] and output_attacks.faults(shown["value"]) == []
    assert "_esm" not in shown and shown["layout"] == "IPY_MODEL_2"
    assert screened.content["data"]["buffer_paths"] == []
    assert update(policy, {"value": ATTACK}).content is None


def test_a_widget_cannot_become_another():
    policy, _ = opened("Text", value="x")
    changed = update(policy, {"_view_name": "HTMLView", "value": ATTACK, "_model_name": "HTMLModel"})
    assert state_of(changed) == {"value": ATTACK}, "text stays text"
    assert policy.screen("iopub", "comm_open", comm_open("HTML"), {}).removed == ("1 widget message",)
    assert policy.screen("iopub", "comm_open", comm_open("Any", module="anywidget"), {}).content is None


def test_a_widget_stays_what_it_is_when_it_is_closed():
    """One connection may be told that it is closed and opened as text while another still has it as HTML."""
    policy, _ = opened("HTML", value="x")
    closed = policy.screen("iopub", "comm_close", {"comm_id": "1", "data": {"x": 1}}, {})
    assert closed.content == {"comm_id": "1", "data": {}}
    assert policy.screen("iopub", "comm_open", comm_open("Text"), {}).content is None
    assert output_attacks.faults(state_of(update(policy, {"value": ATTACK}))["value"]) == []


def test_each_connection_is_told_the_same():
    policy, first = opened("HTML", value=ATTACK)
    assert opened("HTML", policy, value=ATTACK)[1] == first
    policy, first = opened("Any", module="anywidget")
    assert opened("Any", policy, module="anywidget")[1] == first


def test_links_between_texts_are_cut():
    policy, _ = opened("Text", value=ATTACK)
    opened("HTML", policy, "2")
    opened("IntSlider", policy, "3")
    opened("Play", policy, "4")
    ends = {end: ["IPY_MODEL_" + end, "value"] for end in "12349"}
    for number, (source, target, trait, allowed) in enumerate(
        [
            ("1", "2", "value", 0),
            ("3", "2", "value", 0),
            ("3", "4", "value", 1),
            ("3", "9", "value", 0),
            ("3", "4", "layout", 0),
        ]
    ):
        state = {"source": ends[source], "target": [ends[target][0], trait], "_view_name": None, "_view_module": None}
        _, screened = opened("DirectionalLink", policy, f"link{number}", **state)
        assert ("target" in state_of(screened)) == bool(allowed)
        assert screened.removed == (() if allowed else ("1 widget link",))


def test_descriptions_are_text():
    _, screened = opened("Checkbox", description=f"{ATTACK} $\\href{{javascript:1}}{{x}}$", description_allow_html=True)
    assert state_of(screened)["description_allow_html"] is False
    assert "\\ href" in state_of(screened)["description"]


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("Image", {"format": "url"}),
        ("Image", {"format": "svg+xml"}),
        ("Image", {"format": ["url"]}),
        ("Video", {"format": "url"}),
        ("Audio", {"format": "x", "value": "https://evil.example"}),
        ("Layout", {"top": "0px", "left": "0px", "position": "fixed"}),
        ("Layout", {"margin": "-900px", "grid_area": "1;position:fixed", "width": "calc(0px - 1px)"}),
        ("ButtonStyle", {"button_color": "url(//evil.example)", "x": "expression(1)"}),
        ("Button", {"icon": 'x jp-Dialog"><b>'}),
        ("ToggleButtons", {"icons": ["x jp-Dialog", 1]}),
    ],
)
def test_what_loads_or_covers_is_left_out(name, state):
    _, screened = opened(name, **state)
    kept = {key: value for key, value in state_of(screened).items() if key in state}
    assert all(value in (None, ["", ""]) for value in kept.values()), kept


EVIL = "<img src=data:, onerror=alert(1)>"


@pytest.mark.parametrize(
    ("name", "trait"),
    [
        ("FloatSlider", "readout_format"),
        ("FloatsInput", "format"),
        ("IntText", "button_style"),
        ("Checkbox", "_view_count"),
        ("Box", "children"),
        ("Play", "anything"),
    ],
)
@pytest.mark.parametrize("value", [EVIL, [EVIL], {"x": [EVIL]}, {EVIL: 1}])
def test_no_error_of_a_widget_can_quote_markup(name, trait, value):
    _, screened = opened(name, **{trait: value})
    assert "<" not in str(state_of(screened).get(trait))


@pytest.mark.parametrize("value", [".2f", "d", ",.3r", "0>+$06,.1%", "", "s", ".3~g"])
def test_number_formats_stay(value):
    _, screened = opened("FloatSlider", readout_format=value)
    assert state_of(screened)["readout_format"] == value


def test_texts_for_people_keep_what_looks_like_markup():
    state = {"value": "a < b", "placeholder": "<name>", "description": "x <y>", "_options_labels": ["<none>"]}
    _, screened = opened("Combobox", **state)
    assert state.items() <= state_of(screened).items()


def test_layouts_stay():
    state = {
        "width": "50%",
        "grid_template_areas": '"a b"\n"c d"',
        "border_top": "1px solid red",
        "flex_flow": "row wrap",
    }
    _, screened = opened("Layout", **state)
    assert state.items() <= state_of(screened).items()


def test_classes_are_the_outputs_own():
    _, screened = opened("HTML", _dom_classes=["jp-Dialog", "mine", 3])
    assert state_of(screened)["_dom_classes"] == ["hk-jp-Dialog", "hk-mine"]


def test_outputs_in_a_widget_are_cleaned():
    outputs = [
        {
            "output_type": "display_data",
            "data": {"text/html": ATTACK, "application/javascript": "1"},
            "metadata": {"isolated": True},
        },
        {"output_type": "stream", "name": "stdout", "text": ["a", "\x1b]52;c;eA==\x07"]},
        {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["\x1b[31mx", 1]},
        {"output_type": "pyout", "text": 3},
        "nonsense",
    ]
    _, screened = opened("Output", module="@jupyter-widgets/output", version="1.0.0", outputs=outputs)
    display, stream, error, _ = state_of(screened)["outputs"]
    assert output_attacks.faults(display["data"]["text/html"]) == [] and display["metadata"] == {}
    assert set(display["data"]) == {"text/html"}
    assert stream == {"output_type": "stream", "name": "stdout", "text": "a"}
    assert error["traceback"] == ["\x1b[31mx"]


def test_a_front_end_that_was_just_opened_gets_clean_states():
    policy, _ = opened("HTML", value="x")
    opened("Any", policy, "2", module="anywidget")

    def entry(name, module="@jupyter-widgets/controls"):
        content = comm_open(name, module=module, value=ATTACK)["data"]["state"]
        head = {key: content.pop(f"_{key}") for key in ("model_name", "model_module", "model_module_version")}
        return {**head, "state": content}

    states = {
        "1": entry("HTML"),
        "2": entry("Any", "anywidget"),
        "3": entry("HTML"),
        "4": entry("Any", "anywidget"),
        "5": 1,
    }
    data = {
        "method": "update_states",
        "states": {**states, "6": {"model_name": "TextModel", "state": {}}},
        "buffer_paths": [["1", "value"], ["4", "value"], "x", ["9", "value"]],
    }
    screened = policy.screen("iopub", "comm_msg", {"comm_id": "of the browser".replace(" ", "-"), "data": data}, {})
    shown = screened.content["data"]
    assert set(shown["states"]) == {"1", "2", "3", "4", "6"}
    for one in shown["states"].values():
        assert one["model_name"] == "HTMLModel" and output_attacks.faults(one["state"]["value"]) == []
    assert shown["buffer_paths"] == [["1", "hk_removed"], ["4", "hk_removed"], ["", ""], ["", ""]]
    lying = {"method": "update_states", "states": {"1": entry("Text")}, "buffer_paths": []}
    assert policy.screen("iopub", "comm_msg", {"comm_id": "b", "data": lying}, {}).content["data"]["states"] == {}


@pytest.mark.parametrize("target", ["jupyter.widget.control", "evil", None, ["jupyter.widget"]])
def test_other_comms_are_not_opened(target):
    content = comm_open("HTML") | {"target_name": target, "target_module": "//evil.example"}
    screened = OutputPolicy().screen("iopub", "comm_open", content, {})
    assert screened.content is None and screened.removed == ("1 comm",) and not screened.keep_buffers


def test_no_module_is_named_by_a_comm():
    content = comm_open("HTML") | {"target_module": "//evil.example"}
    assert "target_module" not in OutputPolicy().screen("iopub", "comm_open", content, {}).content


@pytest.mark.parametrize(
    ("data", "left"),
    [
        ({"method": "custom", "content": {"do": "focus", "x": 1}}, {"method": "custom", "content": {"do": "focus"}}),
        ({"method": "custom", "content": {"do": "eval"}}, None),
        ({"method": "else"}, None),
        ({"method": ["update"]}, None),
    ],
)
def test_other_messages(data, left):
    policy, _ = opened("Text")
    content = policy.screen("iopub", "comm_msg", {"comm_id": "1", "data": data}, {}).content
    assert (content and content["data"]) == left


def test_unknown_comms_say_their_version_alone():
    def said(data):
        return OutputPolicy().screen("iopub", "comm_msg", {"comm_id": "x", "data": data}, {}).content

    assert said({"version": "2"})["data"] == {"version": "2"}
    assert said({"method": "update", "state": {"value": ATTACK}}) is None


def test_the_memory_of_comms_is_bounded(monkeypatch):
    monkeypatch.setattr(comms, "MAX_COMMS", 10)
    policy = OutputPolicy()
    for number in range(10):
        assert opened("Text", policy, str(number))[1].content
    assert opened("Text", policy, "more")[1].removed == ("1 widget over the limit",)
    assert opened("Text", policy, "5")[1].content, "those that are known go on"
