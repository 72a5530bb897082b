"""JSON that is not deeper than front ends can take, and has no key that means more than itself to JavaScript."""

import re
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 60
MAX_KEY = 1000
#: SECURITY: copied into another object, these would change the prototypes of all.
_POISONOUS = frozenset(("__proto__", "prototype", "constructor"))
#: Halves of characters, which JSON can hold and UTF-8 cannot.
_HALVES = re.compile("[\ud800-\udfff]")


def _whole(text: str) -> str:
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def safe_tree(value: Any, text: Callable[[str], str] = _whole, depth: int = MAX_DEPTH) -> Any:
    """Copy a value of JSON.

    :param text: what becomes of each string and of each key; without it, they are made what UTF-8 can hold.
    :return: what is too deep is null, and so are the numbers that JSON does not have; poisonous keys are left out.
    """
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        if depth <= 0:
            return None
        return {
            text(key): safe_tree(item, text, depth - 1)
            for key, item in value.items()
            if isinstance(key, str) and len(key) <= MAX_KEY and key not in _POISONOUS
        }
    if isinstance(value, list | tuple):
        if depth <= 0:
            return None
        # Long lists of numbers, as charts have them, take no call for each.
        return [
            item
            if type(item) is int or (type(item) is float and item - item == 0)
            else safe_tree(item, text, depth - 1)
            for item in value
        ]
    return safe_number(value)


def safe_number(value: Any) -> Any:
    """:return: a number, a truth value or None as it is; None for anything else."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if isinstance(value, int) else None


def fields(content: dict[str, Any], **kinds: type | tuple[type, ...]) -> dict[str, Any]:
    """:return: the named fields that are there and of the right kind."""
    return {name: content[name] for name, kind in kinds.items() if name in content and isinstance(content[name], kind)}
