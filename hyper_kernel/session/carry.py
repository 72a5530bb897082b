"""Values into a sandbox's kernel and out of it, and calls of our own functions in there."""

import base64
import binascii
import functools
import importlib.util
import json
import marshal
import secrets
import sys
from collections.abc import Iterable
from importlib.abc import InspectLoader
from typing import Any

from hyper_kernel.errors import GuestError, RequestError
from hyper_kernel.sandbox.words import printable
from hyper_kernel.session.session import Session, Shows
from hyper_kernel.values.formats import MAX_BYTES, MAX_HEAD, decode, encode
from hyper_kernel.values.library import CarryError

#: Our code that runs in there, in the order in which it is loaded.
MODULES = (
    *(f"hyper_kernel.values.{name}" for name in ("library", "arrays", "arrow", "frames", "formats")),
    "hyper_kernel.session.inside",
)
#: Up to so many bytes come with the reply. More come as a file: that takes two more calls, and is faster by far.
_INLINE = 256 << 10
_MAX_OUT = MAX_BYTES + MAX_HEAD
_INSIDE = "hyper_kernel.session.inside"
#: Makes modules of what comes with the message, under their own names, whatever the image itself has.
_LOAD = """\
def _hyper_load():
    import json, marshal, sys, types
    head, *parts = get_ipython().kernel.get_parent("shell")["buffers"]
    for (name, is_code), part in zip(json.loads(bytes(head)), parts):
        module = sys.modules[name] = types.ModuleType(name)
        module.__path__ = []
        exec(marshal.loads(part) if is_code else compile(bytes(part), f"<{name}>", "exec"), module.__dict__)
_hyper_load()
del _hyper_load
"""


def pack_variables(variables: dict[str, Any]) -> bytes:
    """Variables for :func:`put_variables`.

    :raise RequestError: one cannot be carried.
    """
    try:
        return encode(variables, "")
    except CarryError as exc:
        raise RequestError(str(exc)) from exc


def put_variables(session: Session, packed: bytes) -> None:
    """Make variables of the kernel's notebook.

    :raise GuestError: the image lacks a library that they need.
    """
    call(session, f"{_INSIDE}.put_variables", packed)


def take_variables(session: Session, names: Iterable[str]) -> dict[str, Any]:
    """Variables of the kernel's notebook, by their names.

    :raise RequestError: one is missing, or cannot be carried.
    :raise GuestError: what came is no value.
    """
    wanted = list(names)
    found = read_value(session, call(session, f"{_INSIDE}.take_variables", encode(wanted)))
    # SECURITY: the guest does not choose which variables it sets here.
    if not isinstance(found, dict) or found.keys() != set(wanted):
        raise GuestError(f"sandbox {session.name} did not send {', '.join(wanted)}")
    return found


def read_value(session: Session, data: bytes) -> Any:
    """A value that came out of a sandbox.

    :raise GuestError: it is damaged, too large, or needs what is not here.
    """
    try:
        return decode(data)
    except CarryError as exc:
        raise GuestError(f"what came out of sandbox {session.name} cannot be used: {exc}") from exc


def call(
    session: Session,
    function: str,
    data: bytes,
    *,
    modules: Iterable[str] = MODULES,
    shows: Shows | None = None,
    deadline_s: float | None = None,
) -> bytes:
    """Call a function of ours in there; see ``session.inside``.

    :param function: its module and name; it takes its argument, and hands out its result, by ``session.inside``.
    :param modules: what it needs; what is not there yet goes along.
    :param shows, deadline_s: as for :meth:`Session.execute`.
    :raise RequestError: it cannot carry a value out.
    :raise GuestError: it fails, or its kernel is no IPython.
    """
    if not session.python:
        raise RequestError(f"the kernel of image {session.spec.image} is no Python: values stay on their side")
    missing = [name for name in modules if name not in session.modules]
    is_code = session.python == sys.version_info[:2]
    head = json.dumps([(name, is_code) for name in missing]).encode()
    module, _, name = function.rpartition(".")
    path = f"/tmp/.hyper-{secrets.token_hex(8)}"
    reply = session.execute(
        (_LOAD if missing else "") + f"{_module(module)}.{name}()",
        silent=True,
        buffers=[head, *(_pack(name, is_code=is_code) for name in missing), data],
        expressions={"out": f"{_module(_INSIDE)}.take_outgoing({path!r}, {_INLINE})"},
        shows=shows,
        deadline_s=deadline_s,
    )
    if reply.get("status") != "ok":
        raise _failure(session, reply)
    session.modules.update(missing)
    outgoing = _read_outgoing(session, reply)
    return _read_file(session, path) if outgoing is None else outgoing


def _read_outgoing(session: Session, reply: dict[str, Any]) -> bytes | None:
    """What came with a reply; None: it is in a file."""
    try:
        # SECURITY: the guest may say anything here. It is a text in quotes, of few bytes, or nothing.
        text = reply["user_expressions"]["out"]["data"]["text/plain"]
        if len(text) > 2 * _INLINE:
            raise ValueError("too long")
        text = text.strip("'")
        return None if text == "@" else base64.b64decode(text.encode(), validate=True)
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as exc:
        raise GuestError(f"sandbox {session.name} answered with no value") from exc


def _read_file(session: Session, path: str) -> bytes:
    data = session.read_file(path, _MAX_OUT)
    session.execute(f"{_module(_INSIDE)}.remove_file()", silent=True, buffers=[path.encode()])
    return data


def _failure(session: Session, reply: dict[str, Any]) -> GuestError | RequestError:
    kind, text = (printable(str(reply.get(key, "")))[:500] for key in ("ename", "evalue"))
    if kind == "CarryError":
        return RequestError(f"sandbox {session.name}: {text}")
    return GuestError(f"sandbox {session.name} cannot do that: {kind or reply.get('status')}: {text}")


def _module(name: str) -> str:
    return f'__import__("sys").modules["{name}"]'


@functools.cache
def _pack(name: str, *, is_code: bool) -> bytes:
    """A module's code, which loads faster but in the same version of Python alone, or its source."""
    spec = importlib.util.find_spec(name)
    assert spec and isinstance(spec.loader, InspectLoader)  # it is a module of ours, or installed with us
    source = spec.loader.get_source(name) or ""
    return marshal.dumps(compile(source, f"<{name}>", "exec")) if is_code else source.encode()
