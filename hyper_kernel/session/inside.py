"""Runs in a sandbox's kernel, at the host's request: values come in with a message, and go out with its reply."""

import base64
import builtins
import os
from typing import Any

from hyper_kernel.values.formats import decode, encode
from hyper_kernel.values.library import CarryError

#: The kernel's shell; this is loaded by a cell, so there is one.
_shell: Any = builtins.__dict__["get_ipython"]()
_outgoing = b""


def incoming() -> bytes:
    """The bytes that came with the message that is being answered."""
    parent = _shell.kernel.get_parent("shell")
    return bytes(parent["buffers"][-1])


def set_outgoing(data: bytes) -> None:
    """Say what goes out with the reply."""
    global _outgoing
    _outgoing = data


def take_outgoing(path: str, most: int) -> str:
    """What goes out, as text; ``@``: there were more than ``most`` bytes, which are in a file now."""
    global _outgoing
    data, _outgoing = _outgoing, b""
    if len(data) <= most:
        return base64.b64encode(data).decode()
    with open(path, "wb") as file:
        file.write(data)
    return "@"


def remove_file() -> None:
    """Remove the file that was taken."""
    os.unlink(incoming().decode())


def put_variables() -> None:
    """Make what comes in variables of the notebook."""
    _shell.user_ns.update(decode(incoming()))


def take_variables() -> None:
    """Let variables of the notebook go out: those whose names come in."""
    known: dict[str, Any] = _shell.user_ns
    names: list[str] = decode(incoming())
    for name in names:
        if name not in known:
            raise CarryError(f"there is no variable {name} in the sandbox")
    set_outgoing(encode({name: known[name] for name in names}, ""))
