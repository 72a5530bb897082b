"""Messages that are no outputs: which fields they have, and what these may hold."""

import re
from collections.abc import Callable
from typing import Any

from hyper_kernel.policy.comms import TARGETS
from hyper_kernel.policy.mime import safe_bundle, safe_display_metadata
from hyper_kernel.policy.removed import Removed
from hyper_kernel.policy.terminal import plain_text, safe_text
from hyper_kernel.policy.tree import fields

_NUMBER = (int, float)
_STATUSES = frozenset(("ok", "error", "aborted", "abort"))
_STATES = frozenset(("busy", "idle", "starting"))
_WORD = re.compile(r"[\w.+-]{0,100}", re.ASCII)
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,100}(/[\w.+-]{1,100})?", re.ASCII)
_WEB = re.compile(r"https?://[^\s<>\"'\\]{1,2000}", re.IGNORECASE)
_PASSWORD_MARK = "[the code in this sandbox asks] "
Screen = Callable[[dict[str, Any], Removed], dict[str, Any] | None]


def _error(content: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {
        name: safe_text(content[name]) for name in ("ename", "evalue") if isinstance(content.get(name), str)
    }
    lines = content.get("traceback")
    if isinstance(lines, list):
        kept["traceback"] = [safe_text(line) for line in lines if isinstance(line, str)]
    return kept


def _reply(content: dict[str, Any]) -> dict[str, Any]:
    """What all replies have: a status, and an error if it is one."""
    status = content.get("status")
    known = {"status": status} if isinstance(status, str) and status in _STATUSES else {}
    return {**known, **_error(content)}


def _shaped(**kinds: Any) -> Screen:
    """A reply with fields of these kinds."""
    return lambda content, removed: _reply(content) | fields(content, **kinds)


def _display(content: dict[str, Any], removed: Removed) -> dict[str, Any] | None:
    if not isinstance(content.get("data"), dict):
        return None
    kept = {
        "data": safe_bundle(content["data"], removed),
        "metadata": safe_display_metadata(content.get("metadata")),
        **fields(content, execution_count=(int, type(None))),
    }
    transient = content.get("transient")
    if isinstance(transient, dict):
        name = transient.get("display_id")
        kept["transient"] = {"display_id": plain_text(name, 200)} if isinstance(name, str) else {}
    return kept


def _stream(content: dict[str, Any], removed: Removed) -> dict[str, Any] | None:
    if not isinstance(content.get("text"), str):
        return None
    return {"name": "stderr" if content.get("name") == "stderr" else "stdout", "text": safe_text(content["text"])}


def _status(content: dict[str, Any], removed: Removed) -> dict[str, Any] | None:
    # SECURITY: "dead" and "restarting" are for the server to say.
    state = content.get("execution_state")
    return {"execution_state": state} if isinstance(state, str) and state in _STATES else None


def _execute_reply(content: dict[str, Any], removed: Removed) -> dict[str, Any]:
    kept = _reply(content) | fields(content, execution_count=(int, type(None)))
    payload = content.get("payload")
    if isinstance(payload, list):
        safe = (_payload(item, removed) for item in payload if isinstance(item, dict))
        kept["payload"] = [item for item in safe if item]
    expressions = content.get("user_expressions")
    if isinstance(expressions, dict):
        kept["user_expressions"] = {
            name: _expression(value, removed) for name, value in expressions.items() if isinstance(value, dict)
        }
    return kept


def _payload(item: dict[str, Any], removed: Removed) -> dict[str, Any] | None:
    source = item.get("source")
    if source == "set_next_input" and isinstance(item.get("text"), str):
        # SECURITY: text for a new cell is shown, not run; but what the person wrote is not overwritten.
        removed.add("cell replacement", int(bool(item.get("replace"))))
        return {"source": source, "text": safe_text(item["text"]), "replace": False}
    if source == "page":
        return {"source": source, "data": safe_bundle(item.get("data"), removed), **fields(item, start=_NUMBER)}
    if source == "ask_exit":
        return {"source": source, **fields(item, keepkernel=(bool, type(None)))}
    # edit_magic names a file of the host's to open; others are not known.
    removed.add(f"payload {plain_text(str(source), 40)}")
    return None


def _expression(value: dict[str, Any], removed: Removed) -> dict[str, Any]:
    kept = _reply(value)
    if isinstance(value.get("data"), dict):
        kept["data"] = safe_bundle(value["data"], removed)
        kept["metadata"] = safe_display_metadata(value.get("metadata"))
    return kept


def _inspect_reply(content: dict[str, Any], removed: Removed) -> dict[str, Any]:
    return {
        **_reply(content),
        **fields(content, found=bool),
        "data": safe_bundle(content.get("data"), removed),
        "metadata": {},
    }


def _debug(content: dict[str, Any], removed: Removed) -> dict[str, Any]:
    """The debug adapter's protocol; a rich view of a variable is an output."""
    body = content.get("body")
    if not isinstance(body, dict) or not isinstance(body.get("data"), dict):
        return content
    shown = {"data": safe_bundle(body["data"], removed), "metadata": safe_display_metadata(body.get("metadata"))}
    return {**content, "body": {**body, **shown}}


def _debug_event(content: dict[str, Any], removed: Removed) -> dict[str, Any]:
    """Cleaned in the same way; what the adapter tells of itself (telemetry) is not shown, and so nobody misses it."""
    return _debug(content, Removed())


def _kernel_info_reply(content: dict[str, Any], removed: Removed) -> dict[str, Any]:
    kept = _reply(content) | fields(content, debugger=bool, supported_features=list)
    for name in ("protocol_version", "implementation", "implementation_version"):
        if isinstance(content.get(name), str):
            kept[name] = plain_text(content[name], 100)
    if isinstance(content.get("banner"), str):
        kept["banner"] = safe_text(content["banner"][:10_000])
    language = content.get("language_info")
    kept["language_info"] = _language(language) if isinstance(language, dict) else {}
    links = content.get("help_links")
    kept["help_links"] = [
        {"text": plain_text(str(link.get("text", "")), 100), "url": link["url"]}
        for link in (links[:50] if isinstance(links, list) else [])
        if isinstance(link, dict) and isinstance(link.get("url"), str) and _WEB.fullmatch(link["url"])
    ]
    return kept


def _language(info: dict[str, Any]) -> dict[str, Any]:
    """SECURITY: these go into notebook files, where nbconvert takes some for names of modules and of files."""
    kept: dict[str, Any] = {
        name: info[name]
        for name in ("name", "version", "mimetype", "file_extension", "pygments_lexer")
        if isinstance(info.get(name), str) and (_MEDIA_TYPE if name == "mimetype" else _WORD).fullmatch(info[name])
    }
    exporter = info.get("nbconvert_exporter")
    if isinstance(exporter, str) and "." not in exporter and _WORD.fullmatch(exporter):
        kept["nbconvert_exporter"] = exporter
    mode = info.get("codemirror_mode")
    if isinstance(mode, dict):
        mode = {key: value for key, value in mode.items() if isinstance(value, int) or _is_word(value)}
        kept["codemirror_mode"] = {key: value for key, value in mode.items() if _is_word(key)}
    elif _is_word(mode):
        kept["codemirror_mode"] = mode
    return kept


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(_MEDIA_TYPE.fullmatch(value))


def _comm_info_reply(content: dict[str, Any], removed: Removed) -> dict[str, Any]:
    comms = content.get("comms")
    return {
        **_reply(content),
        "comms": {
            plain_text(name, 100): {"target_name": info["target_name"]}
            for name, info in (comms.items() if isinstance(comms, dict) else ())
            if isinstance(info, dict) and isinstance(info.get("target_name"), str) and info["target_name"] in TARGETS
        },
    }


def _complete_reply(content: dict[str, Any], removed: Removed) -> dict[str, Any]:
    kept = _reply(content) | fields(content, cursor_start=int, cursor_end=int)
    matches = content.get("matches")
    kept["matches"] = [text for text in matches if isinstance(text, str)] if isinstance(matches, list) else []
    metadata = content.get("metadata")
    kept["metadata"] = fields(metadata, _jupyter_types_experimental=list) if isinstance(metadata, dict) else {}
    return kept


def _is_complete_reply(content: dict[str, Any], removed: Removed) -> dict[str, Any]:
    status = content.get("status")
    known = status if status in ("complete", "incomplete", "invalid", "unknown") else "unknown"
    indent = content.get("indent")
    return {"status": known} | ({"indent": plain_text(indent, 200)} if isinstance(indent, str) else {})


def _input_request(content: dict[str, Any], removed: Removed) -> dict[str, Any]:
    prompt = content.get("prompt")
    prompt = plain_text(prompt, 4000) if isinstance(prompt, str) else ""
    password = content.get("password") is True
    if password and not prompt.startswith(_PASSWORD_MARK):
        # SECURITY: a field for a password looks the same whoever asks.
        prompt = _PASSWORD_MARK + prompt
    return {"prompt": prompt, "password": password}


_REPLIES: dict[str, Screen] = {
    "execute_reply": _execute_reply,
    "inspect_reply": _inspect_reply,
    "complete_reply": _complete_reply,
    "history_reply": _shaped(history=list),
    "is_complete_reply": _is_complete_reply,
    "kernel_info_reply": _kernel_info_reply,
    "comm_info_reply": _comm_info_reply,
    "connect_reply": _shaped(shell_port=int, iopub_port=int, stdin_port=int, hb_port=int, control_port=int),
    "shutdown_reply": _shaped(restart=bool),
    "interrupt_reply": _shaped(),
    "debug_reply": _debug,
    "usage_reply": lambda content, removed: content | _reply(content),
    "create_subshell_reply": _shaped(subshell_id=str),
    "delete_subshell_reply": _shaped(),
    "list_subshell_reply": _shaped(subshell_id=list),
}
#: What each channel may carry from a kernel, comms aside.
SCREENS: dict[str, dict[str, Screen]] = {
    "iopub": {
        "display_data": _display,
        "update_display_data": _display,
        "execute_result": _display,
        "stream": _stream,
        "error": lambda content, removed: _error(content),
        "status": _status,
        "execute_input": lambda content, removed: fields(content, code=str, execution_count=(int, type(None))),
        "clear_output": lambda content, removed: fields(content, wait=bool),
        "shutdown_reply": _shaped(restart=bool),
        "debug_event": _debug_event,
        "iopub_welcome": lambda content, removed: fields(content, subscription=str),
    },
    "shell": _REPLIES,
    "control": _REPLIES,
    "stdin": {"input_request": _input_request},
}
