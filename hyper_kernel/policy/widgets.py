"""Widgets: only Jupyter's own, and no value of theirs that a browser would run, load or take for its own.

A widget's model is opened by a comm and changed by messages on it. Which JavaScript draws it, it says itself, so
modules, models and views are allow-lists, and what a comm was opened as is remembered.
"""

import re
from dataclasses import dataclass
from typing import Any

from hyper_kernel.policy import css
from hyper_kernel.policy.html import safe_html, with_note
from hyper_kernel.policy.mime import safe_bundle, safe_display_metadata
from hyper_kernel.policy.removed import Removed
from hyper_kernel.policy.terminal import safe_text
from hyper_kernel.policy.tex import without_active
from hyper_kernel.policy.vocabulary import WIDGET_MODELS

_MODULES = frozenset(("@jupyter-widgets/base", "@jupyter-widgets/controls", "@jupyter-widgets/output"))
_VERSION = re.compile(r"[~^]?\d{1,4}(\.\d{1,4}){0,2}")
_VIEW = re.compile(r"(?:[A-Za-z]{1,60}View)?")
#: Views that take a value for more than text, so that they must be their own model's.
_PARTICULAR_VIEWS = frozenset(("HTMLView", "HTMLMathView", "ImageView", "AudioView", "VideoView", "OutputView"))
_REFERENCE = re.compile(r"IPY_MODEL_([\w.:-]{1,100})", re.ASCII)
_ICON = re.compile(r"[\w-]{0,60}", re.ASCII)
#: SECURITY: no "url", which would be loaded, and no SVG, which would be a page when it is opened by itself.
_FORMATS = {
    "ImageModel": frozenset(("png", "jpg", "jpeg", "gif", "webp", "bmp")),
    "AudioModel": frozenset(("mp3", "mpeg", "ogg", "wav", "x-wav", "aac", "flac", "webm", "mp4")),
    "VideoModel": frozenset(("mp4", "ogg", "webm", "mpeg")),
}
#: Models whose value is a number or a truth value, so that linking them in the browser moves no text past the policy.
_LINKABLE = re.compile(
    r"(Bounded)?(Int|Float)(Log|Range)?(Slider|RangeSlider|Text|Progress)?Model|(Float|Int)RangeSliderModel|PlayModel"
    r"|CheckboxModel|ToggleButtonModel|ValidModel"
)
_LINKABLE_TRAITS = frozenset(("value", "min", "max", "step", "disabled", "index", "playing"))
#: Traits that are text for people, shown as text.
_TEXTS = frozenset(("value", "description", "description_tooltip", "tooltip", "placeholder", "readout")) | frozenset(
    ("titles", "options", "_options_labels", "allowed_tags")
)
#: How a number is written, by d3-format; what is not makes it throw.
_NUMBER_FORMAT = re.compile(r"(?:.?[<>=^])?[+\-( ]?[$#]?0?\d{0,3},?(?:\.\d{1,3})?~?[a-zA-Z%]?")
#: Where buffers are put that must go nowhere: no model has this.
_NOWHERE = "hk_removed"


@dataclass(frozen=True, slots=True)
class Model:
    """What a comm was opened as."""

    name: str
    #: It stands for a widget that may not be shown.
    is_placeholder: bool = False


PLACEHOLDER = Model("HTMLModel", is_placeholder=True)


def decide_model(state: dict[str, Any]) -> Model | None:
    """:return: the model of a new widget's state; None if it or its view is not Jupyter's own."""
    name, view = state.get("_model_name"), state.get("_view_name")
    if not isinstance(name, str) or name.removesuffix("Model") not in WIDGET_MODELS:
        return None
    if not _is_own(state, "_model") or not (view is None or _is_own(state, "_view")):
        return None
    view = "" if view is None else view
    if not isinstance(view, str) or not _VIEW.fullmatch(view):
        return None
    own = f"{name.removesuffix('Model')}View"
    return Model(name) if view in ("", own) or not {view, own} & _PARTICULAR_VIEWS else None


def _is_own(state: dict[str, Any], side: str) -> bool:
    # SECURITY: a module that is not Jupyter's own is JavaScript that the browser loads (anywidget's: the guest's).
    module, version = state.get(f"{side}_module"), state.get(f"{side}_module_version")
    return (
        isinstance(module, str)
        and module in _MODULES
        and isinstance(version, str)
        and bool(_VERSION.fullmatch(version))
    )


def placeholder_state(state: dict[str, Any], removed: Removed) -> dict[str, Any]:
    """:return: the state of a widget that says what is not shown in its place."""
    layout = state.get("layout")
    controls = {"module": "@jupyter-widgets/controls", "module_version": "2.0.0"}
    return {
        **{f"_{side}_{key}": value for side in ("model", "view") for key, value in controls.items()},
        "_model_name": "HTMLModel",
        "_view_name": "HTMLView",
        "layout": layout if isinstance(layout, str) and _REFERENCE.fullmatch(layout) else None,
        "style": None,
        "value": with_note("", removed),
    }


def safe_state(model: Model, state: Any, removed: Removed, known: dict[str, Model]) -> dict[str, Any]:
    """Clean a widget's state, or a part of it.

    :param known: the models of other comms, which links may name.
    """
    if not isinstance(state, dict):
        return {}
    kept = {}
    for name, value in state.items():
        cleaned = _safe_trait(model.name, name, value, removed)
        if cleaned is not None or value is None:
            kept[name] = cleaned
    if model.name.endswith("LinkModel") and not all(_is_linkable(kept.get(end), known) for end in ("source", "target")):
        # A link between texts could carry what one shows as text to one that shows it as HTML.
        removed.add("widget link", int("source" in kept or "target" in kept))
        kept = {name: value for name, value in kept.items() if name not in ("source", "target")}
    return kept


def _safe_trait(model: str, name: str, value: Any, removed: Removed) -> Any:
    if name == "value" and model in ("HTMLModel", "HTMLMathModel"):
        return _noted_html(value, removed) if isinstance(value, str) else None
    if name == "value" and model in _FORMATS:
        return None
    if name == "format" and model in _FORMATS:
        return value if isinstance(value, str) and value in _FORMATS[model] else None
    if name == "outputs" and model == "OutputModel":
        outputs = value if isinstance(value, list) else []
        return [safe_output(output, removed) for output in outputs if isinstance(output, dict)]
    if name == "_dom_classes":
        return [css.safe_name(item) for item in value if isinstance(item, str)] if isinstance(value, list) else []
    if name == "description_allow_html":
        return False
    if name in ("icon", "icons"):
        return _safe_icons(value)
    if name.startswith(("_view_", "_model_")):
        return None if _has_markup(value) else value
    if name in ("format", "readout_format"):
        return value if isinstance(value, str) and _NUMBER_FORMAT.fullmatch(value) else None
    if isinstance(value, str):
        if model == "LayoutModel" or model.endswith("StyleModel"):
            return _safe_style(model, name.replace("_", "-"), value)
        # Front ends render formulas in these.
        is_typeset = name == "description" or (name == "value" and model == "LabelModel")
        value = without_active(value)[0] if is_typeset else value
    # SECURITY: a widget that cannot use a value shows its error, which quotes it, as HTML (errorwidget.ts of
    # @jupyter-widgets/base): what is no text for people has no markup.
    return value if name in _TEXTS or not _has_markup(value) else None


def _has_markup(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_markup, (*value.keys(), *value.values())))
    if isinstance(value, list):
        return any(map(_has_markup, value))
    return isinstance(value, str) and "<" in value


def _safe_style(model: str, name: str, value: str) -> str | None:
    """A layout's traits are properties; a style's only their values, the browser knows for what."""
    if not value:
        return value
    return css.safe_value(name, value) if css.is_property(name) or model != "LayoutModel" else None


def _noted_html(value: str, removed: Removed) -> str:
    own = Removed()
    clean = safe_html(value, own)
    removed.update(own)
    return with_note(clean, own) if own else clean


def _safe_icons(value: Any) -> Any:
    if isinstance(value, list):
        return [item if isinstance(item, str) and _ICON.fullmatch(item) else "" for item in value]
    return value if isinstance(value, str) and all(map(_ICON.fullmatch, value.split(" "))) else None


def safe_output(output: dict[str, Any], removed: Removed) -> dict[str, Any]:
    """Clean one output as notebook files have it."""
    kind = output.get("output_type")
    if kind in ("display_data", "execute_result", "update_display_data"):
        kept: dict[str, Any] = {"output_type": kind, "data": safe_bundle(output.get("data"), removed)}
        kept["metadata"] = safe_display_metadata(output.get("metadata"))
        if kind == "execute_result":
            count = output.get("execution_count")
            kept["execution_count"] = count if isinstance(count, int) else None
        return kept
    if kind == "error":
        lines = output.get("traceback")
        lines = [safe_text(line) for line in lines if isinstance(line, str)] if isinstance(lines, list) else []
        return {"output_type": kind, "traceback": lines} | {
            name: safe_text(str(output.get(name, ""))) for name in ("ename", "evalue")
        }
    text = output.get("text", "")
    text = "".join(str(line) for line in text) if isinstance(text, list) else str(text)
    name = "stderr" if output.get("name") == "stderr" else "stdout"
    return {"output_type": "stream", "name": name, "text": safe_text(text)}


def _is_linkable(end: Any, known: dict[str, Model]) -> bool:
    if not isinstance(end, list) or len(end) != 2 or not all(isinstance(item, str) for item in end):
        return False
    reference = _REFERENCE.fullmatch(end[0])
    model = known.get(reference[1]) if reference else None
    return bool(model and _LINKABLE.fullmatch(model.name) and end[1] in _LINKABLE_TRAITS)


def safe_buffer_paths(model: Model, paths: Any) -> list[list[Any]]:
    """Say where each binary buffer of a message goes; those that must not go where the guest says go nowhere.

    SECURITY: a browser puts a buffer at its path after the state was cleaned, through prototypes too.
    """
    if not isinstance(paths, list):
        return []
    return [path if _is_media(model, path) else [_NOWHERE] for path in paths]


def _is_media(model: Model, path: Any) -> bool:
    if model.name in _FORMATS:
        return bool(path == ["value"])
    return (
        model.name == "FileUploadModel"
        and isinstance(path, list)
        and len(path) == 3
        and path[0] == "value"
        and isinstance(path[1], int)
        and path[2] == "content"
    )
