"""Comms: which a kernel may open, and what it may say on them."""

import re
from collections.abc import Sequence
from typing import Any

from hyper_kernel.policy import widgets
from hyper_kernel.policy.removed import Removed

#: A kernel that has more widgets open than that gets no more.
MAX_COMMS = 20_000
_COMM_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
TARGETS = frozenset(("jupyter.widget", "jupyter.widget.control", "jupyter.widget.version"))


class Comms:
    """The comms of one kernel that front ends may know, and the screening of what comes on them.

    Comms that a front end opens (it asks for all widgets' states on one) are not known here; what comes on them is
    judged by its form.
    """

    def __init__(self) -> None:
        self._models: dict[str, widgets.Model] = {}
        #: Comms that links in the browser name, open or not.
        self._linked: set[str] = set()

    def screen(
        self, msg_type: str, content: dict[str, Any], buffer_sizes: Sequence[int], removed: Removed
    ) -> dict[str, Any] | None:
        """:return: what is left of the content of a ``comm_*`` message; None drops it."""
        comm_id = content.get("comm_id")
        if not isinstance(comm_id, str) or not _COMM_ID.fullmatch(comm_id):
            removed.add("widget message")
            return None
        data = content.get("data")
        data = data if isinstance(data, dict) else {}
        if msg_type == "comm_close":
            self._models.pop(comm_id, None)
            return {"comm_id": comm_id, "data": {}}
        if msg_type == "comm_open":
            return self._open(comm_id, content.get("target_name"), data, len(buffer_sizes), removed)
        kept = self._message(comm_id, data, len(buffer_sizes), removed)
        return None if kept is None else {"comm_id": comm_id, "data": kept}

    def _open(
        self, comm_id: str, target: Any, data: dict[str, Any], buffers: int, removed: Removed
    ) -> dict[str, Any] | None:
        state = data.get("state")
        # SECURITY: a comm that is opened twice could be one thing to the browser and another to us; and what a link
        # names must not come to hold text.
        is_taken = comm_id in self._models or comm_id in self._linked
        if target != "jupyter.widget" or not isinstance(state, dict) or is_taken:
            removed.add("comm" if target != "jupyter.widget" else "widget message")
            return None
        if len(self._models) + len(self._linked) >= MAX_COMMS:
            removed.add("widget over the limit")
            return None
        model, kept = self._new(comm_id, state, removed)
        paths = [] if model.is_placeholder else widgets.safe_buffer_paths(model, data.get("buffer_paths"), buffers)
        return {"comm_id": comm_id, "target_name": target, "data": {"state": kept, "buffer_paths": paths}}

    def _new(self, comm_id: str, state: dict[str, Any], removed: Removed) -> tuple[widgets.Model, dict[str, Any]]:
        """Remember a model. :return: it and its state; a placeholder's if it may not be shown."""
        model = widgets.decide_model(state)
        if model is None:
            own = Removed()
            module, name = (str(state.get(key, "")) for key in ("_model_module", "_model_name"))
            own.add(f"widget {module}/{name}")
            removed.update(own)
            model = widgets.Model("HTMLModel", is_placeholder=True)
            kept = widgets.placeholder_state(state, own)
        else:
            kept = self._clean(model, state, removed)
        self._models[comm_id] = model
        return model, kept

    def _clean(self, model: widgets.Model, state: Any, removed: Removed) -> dict[str, Any]:
        kept = widgets.safe_state(model, state, removed, self._models)
        self._linked.update(widgets.linked_comms(model, kept))
        return kept

    def _message(self, comm_id: str, data: dict[str, Any], buffers: int, removed: Removed) -> dict[str, Any] | None:
        method = data.get("method")
        model = self._models.get(comm_id)
        if model is None:
            if method == "update_states":
                return self._all_states(data, buffers, removed)
            version = data.get("version")
            return {"version": version} if isinstance(version, str) and len(data) == 1 else None
        if model.is_placeholder:
            return None
        if method in ("update", "echo_update"):
            return self._update(model, method, data, buffers, removed)
        content = data.get("content")
        if method == "custom" and isinstance(content, dict) and content.get("do") in ("focus", "blur"):
            return {"method": method, "content": {"do": content["do"]}}
        removed.add("widget message")
        return None

    def _update(
        self, model: widgets.Model, method: str, data: dict[str, Any], buffers: int, removed: Removed
    ) -> dict[str, Any]:
        state = self._clean(model, data.get("state"), removed)
        # SECURITY: what draws a widget is said once, when it is opened.
        if widgets.decide_model(state) != model:
            state = {name: value for name, value in state.items() if not name.startswith(("_model_", "_view_"))}
        paths = widgets.safe_buffer_paths(model, data.get("buffer_paths"), buffers)
        return {"method": method, "state": state, "buffer_paths": paths}

    def _all_states(self, data: dict[str, Any], buffers: int, removed: Removed) -> dict[str, Any]:
        """The answer to a front end that was just opened: all widgets at once."""
        states = data.get("states")
        kept: dict[str, Any] = {}
        for comm_id, entry in states.items() if isinstance(states, dict) else ():
            state = entry.get("state") if isinstance(entry, dict) else None
            if isinstance(state, dict) and _COMM_ID.fullmatch(comm_id):
                names = {f"_{key}": entry.get(key) for key in ("model_name", "model_module", "model_module_version")}
                shown = self._state_again(comm_id, {**state, **names}, removed)
                if shown is not None:
                    kept[comm_id] = {**{name[1:]: shown[name] for name in names}, "state": shown}
        paths = data.get("buffer_paths")
        return {
            "method": "update_states",
            "states": kept,
            "buffer_paths": [self._path(path) for path in (paths if isinstance(paths, list) else [])[:buffers]],
        }

    def _state_again(self, comm_id: str, state: dict[str, Any], removed: Removed) -> dict[str, Any] | None:
        model = self._models.get(comm_id)
        if model is None:
            is_room = len(self._models) + len(self._linked) < MAX_COMMS and comm_id not in self._linked
            return self._new(comm_id, state, removed)[1] if is_room else None
        if model.is_placeholder:
            own = Removed()
            own.add("widget")
            return widgets.placeholder_state(state, own)
        if widgets.decide_model(state) != model:
            removed.add("widget message")
            return None
        return self._clean(model, state, removed)

    def _path(self, path: Any) -> list[Any]:
        if not isinstance(path, list) or not path or not isinstance(path[0], str):
            return ["", ""]
        model = self._models.get(path[0])
        if model is None:
            return ["", ""]
        return [path[0], *widgets.safe_buffer_paths(model, [path[1:]], 1)[0]]
