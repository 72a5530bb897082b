"""Docker's ``filters`` argument: a JSON object from a name to wanted values."""

import json
import re
from typing import Any

from hyper_kernel.daemon.box import Box
from hyper_kernel.daemon.docker_json import status_word
from hyper_kernel.errors import RequestError

Filters = dict[str, list[str]]


def parse_filters(text: str, known: frozenset[str]) -> Filters:
    """The filters of a query argument, in both forms that Docker knows (lists, and maps to booleans).

    :raise RequestError: it is not JSON of that shape, or names a filter that is not known here.
    """
    try:
        data = json.loads(text or "{}")
        filters = {str(name): _values(values) for name, values in data.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise RequestError(f"invalid filter: {text[:200]!r}") from exc
    if unknown := sorted(set(filters) - known):
        raise RequestError(f"invalid filter '{unknown[0]}'", hint=f"these are known: {', '.join(sorted(known))}")
    return filters


def _values(values: list[Any] | dict[str, bool]) -> list[str]:
    return [str(value) for value in values if isinstance(values, list) or values[str(value)]]


#: Filters of a list of containers.
CONTAINER_FILTERS = frozenset({"id", "name", "label", "status", "ancestor", "exited"})


def is_wanted(box: Box, filters: Filters) -> bool:
    """Whether a sandbox passes filters: every name, by at least one of its values (labels: by all)."""
    record = box.record
    tests = {
        "id": lambda value: record.id.startswith(value),
        "name": lambda value: _is_match(value, record.name),
        "status": lambda value: value == status_word(record.state),
        "ancestor": lambda value: value in (record.spec.image, record.image_id, f"{record.spec.image}:latest"),
        "exited": lambda value: value == str(record.exit_code),
    }
    return all(any(map(tests[name], values)) for name, values in filters.items() if name != "label") and has_labels(
        record.spec.labels, filters.get("label", [])
    )


def has_labels(labels: dict[str, str], wanted: list[str]) -> bool:
    """Whether labels hold each of ``name`` or ``name=value``."""
    return all(
        name in labels and (not eq or labels[name] == value)
        for name, eq, value in (entry.partition("=") for entry in wanted)
    )


def _is_match(pattern: str, name: str) -> bool:
    """Docker's name filter: a regular expression anywhere in the name, which it writes with a slash before it."""
    # SECURITY: not run as an expression, since Python's can take forever: anchors and a plain part are what is used.
    begin, end = pattern.startswith("^"), pattern.endswith("$")
    part = pattern.removeprefix("^").removesuffix("$").removeprefix("/")
    part = re.sub(r"\\(.)", r"\1", part)
    if begin and end:
        return name == part
    return name.startswith(part) if begin else name.endswith(part) if end else part in name
