"""Comms: which a kernel may open, and what it may say on them."""

import re
from typing import Any

from hyper_kernel.policy import widgets
from hyper_kernel.policy.removed import Removed

#: A kernel that has opened more widgets than that, closed ones included, gets no more (20 MB are remembered then).
MAX_COMMS = 100_000
_COMM_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
_MODEL_NAMES = ("model_name", "model_module", "model_module_version")
#: What front ends may be told of comms of.
TARGETS = frozenset(("jupyter.widget", "jupyter.widget.control", "jupyter.widget.version"))


class Comms:
    """The comms that one kernel has opened, and the screening of what comes on them.

    All connections share it, each of which may lag behind the others or be told something else by a hostile guest.

    SECURITY: so what a comm is stays for ever, closed or not: else what one browser knows as HTML could be text to us
    by what was said on another's connection.

    Comms that a front end opens (it asks for all widgets' states on one) are not known here; what comes on them is
    judged by its form.
    """

    def __init__(self) -> None:
        self._models: dict[str, widgets.Model] = {}

    def screen(self, msg_type: str, content: dict[str, Any], removed: Removed) -> dict[str, Any] | None:
        """:return: what is left of the content of a ``comm_*`` message; None drops it."""
        comm_id = content.get("comm_id")
        if not isinstance(comm_id, str) or not _COMM_ID.fullmatch(comm_id):
            removed.add("widget message")
            return None
        data = content.get("data")
        data = data if isinstance(data, dict) else {}
        if msg_type == "comm_close":
            return {"comm_id": comm_id, "data": {}}
        if msg_type == "comm_open":
            return self._open(comm_id, content.get("target_name"), data, removed)
        kept = self._message(comm_id, data, removed)
        return None if kept is None else {"comm_id": comm_id, "data": kept}

    def _open(self, comm_id: str, target: Any, data: dict[str, Any], removed: Removed) -> dict[str, Any] | None:
        state = data.get("state")
        if target != "jupyter.widget" or not isinstance(state, dict):
            removed.add("comm")
            return None
        kept = self._whole(comm_id, state, removed)
        if kept is None:
            return None
        paths = widgets.safe_buffer_paths(self._models[comm_id], data.get("buffer_paths"))
        return {"comm_id": comm_id, "target_name": target, "data": {"state": kept, "buffer_paths": paths}}

    def _whole(self, comm_id: str, state: dict[str, Any], removed: Removed) -> dict[str, Any] | None:
        """:return: a widget's state, or that of a note where it may not be shown; None if the comm was another."""
        model = widgets.decide_model(state) or widgets.PLACEHOLDER
        known = self._models.get(comm_id)
        if known is None and len(self._models) >= MAX_COMMS:
            removed.add("widget over the limit")
            return None
        if known not in (None, model):
            removed.add("widget message")
            return None
        self._models[comm_id] = model
        if not model.is_placeholder:
            return widgets.safe_state(model, state, removed, self._models)
        own = Removed()
        own.add(f"widget {state.get('_model_module')}/{state.get('_model_name')}")
        removed.update(own)
        return widgets.placeholder_state(state, own)

    def _message(self, comm_id: str, data: dict[str, Any], removed: Removed) -> dict[str, Any] | None:
        method = data.get("method")
        model = self._models.get(comm_id)
        if model is None:
            if method == "update_states":
                return self._all_states(data, removed)
            version = data.get("version")
            return {"version": version} if isinstance(version, str) and len(data) == 1 else None
        if model.is_placeholder:
            return None
        if method in ("update", "echo_update"):
            return self._update(model, method, data, removed)
        content = data.get("content")
        if method == "custom" and isinstance(content, dict) and content.get("do") in ("focus", "blur"):
            return {"method": method, "content": {"do": content["do"]}}
        removed.add("widget message")
        return None

    def _update(self, model: widgets.Model, method: str, data: dict[str, Any], removed: Removed) -> dict[str, Any]:
        state = widgets.safe_state(model, data.get("state"), removed, self._models)
        # SECURITY: what draws a widget is said once, when it is opened.
        if widgets.decide_model(state) != model:
            state = {name: value for name, value in state.items() if not name.startswith(("_model_", "_view_"))}
        paths = widgets.safe_buffer_paths(model, data.get("buffer_paths"))
        return {"method": method, "state": state, "buffer_paths": paths}

    def _all_states(self, data: dict[str, Any], removed: Removed) -> dict[str, Any]:
        """The answer to a front end that was just opened: all widgets at once."""
        states = data.get("states")
        kept: dict[str, Any] = {}
        for comm_id, entry in states.items() if isinstance(states, dict) else ():
            state = entry.get("state") if isinstance(entry, dict) else None
            if isinstance(state, dict) and _COMM_ID.fullmatch(comm_id):
                named = {**state, **{f"_{name}": entry.get(name) for name in _MODEL_NAMES}}
                shown = self._whole(comm_id, named, removed)
                if shown is not None:
                    kept[comm_id] = {**{name: shown[f"_{name}"] for name in _MODEL_NAMES}, "state": shown}
        paths = data.get("buffer_paths")
        paths = [self._path(path) for path in paths] if isinstance(paths, list) else []
        return {"method": "update_states", "states": kept, "buffer_paths": paths}

    def _path(self, path: Any) -> list[Any]:
        if not isinstance(path, list) or not path or not isinstance(path[0], str):
            return ["", ""]
        model = self._models.get(path[0])
        if model is None:
            return ["", ""]
        return [path[0], *widgets.safe_buffer_paths(model, [path[1:]])[0]]
