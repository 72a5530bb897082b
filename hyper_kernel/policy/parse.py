"""A policy from the text of its file: TOML, in which nothing is ignored."""

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from hyper_kernel.errors import DeniedError
from hyper_kernel.hypervisor import Tier
from hyper_kernel.limits import MAX_CPUS, MAX_LIVE, MAX_MEMORY_MIB, MIN_MEMORY_MIB
from hyper_kernel.policy.rules import DEFAULT, Amounts, Policy, UserCaps
from hyper_kernel.spec import FILES

#: How the file says that there is no limit.
UNLIMITED = "unlimited"
#: The least and the most of each amount; None: none. Below these a guest cannot even start its kernel.
_RANGES: dict[str, tuple[float, float | None]] = {
    "memory_mib": (MIN_MEMORY_MIB, MAX_MEMORY_MIB),
    "cpus": (1, MAX_CPUS),
    "cpu_percent": (5, None),
    "scratch_mib": (16, None),
    "processes": (64, None),
    "wall_s": (1, None),
    "cell_s": (1, None),
    "output_bytes": (1024, None),
    "output_bytes_per_s": (1024, None),
}
_USER_RANGES: dict[str, tuple[float, float | None]] = {
    "sandboxes": (1, MAX_LIVE),
    "memory_mib": (MIN_MEMORY_MIB, None),
    "cpu_s_per_day": (1, None),
}

_T = TypeVar("_T", Amounts, UserCaps)


class PolicyError(DeniedError):
    """A policy cannot be read: nothing may start before it is mended."""


class _WrongError(Exception):
    """A value is wrong; ``table`` and ``key`` say which."""

    def __init__(self, table: str, key: str, problem: str) -> None:
        super().__init__(problem)
        self.table, self.key = table, key


def parse_policy(text: str, file: str) -> Policy:
    """The policy that a file says; what it does not say is as in :class:`Policy`.

    :param file: its path, for messages.
    :raise PolicyError: it is no TOML, or a key or value is wrong; names the line and what would be right.
    """
    try:
        return _plan(tomllib.loads(text), file)
    except tomllib.TOMLDecodeError as exc:
        problem = f"{file}: {exc}"
    except _WrongError as exc:
        line = find_line(text, exc.table, exc.key)
        problem = f"{file}{f', line {line}' if line else ''}: {exc}"
    raise PolicyError(f"the policy cannot be read: {problem}", hint="mend it; until then nothing is started")


def find_line(text: str, table: str, key: str) -> int:
    """The number of the line on which a key stands, or its table where the key is empty; 0 where it is not found."""
    current, wanted = "", f"{table}.{key}" if key else table
    for number, line in enumerate(text.splitlines(), start=1):
        words = re.sub(r"[\s\"']", "", line)
        if header := re.match(r"\[+([^\[\]]*)\]", words):
            current = name = header[1]
        else:
            name = words.partition("=")[0]
            name = f"{current}.{name}" if current else name
        if name == wanted:
            return number
    return 0


def _plan(data: Mapping[str, Any], file: str) -> Policy:
    for table, value in data.items():
        _check_known("", table, ("default", "sandbox", "user", "output", "isolation", "files"))
        if not isinstance(value, dict):
            raise _WrongError(table, "", f"{table} is not a table: write [{table}] on a line of its own")
    cap = _amounts(data, "sandbox", Policy().sandbox, _RANGES)
    default = _amounts(data, "default", DEFAULT, _RANGES)
    _check_defaults(data, default, cap)
    return Policy(
        default=default,
        sandbox=cap,
        user=_amounts(data, "user", UserCaps(), _USER_RANGES),
        trusted_output=_one(data, "output", "trusted", False, _boolean),
        tier=_one(data, "isolation", "tier", Tier.SOFTWARE, _tier),
        files=_one(data, "files", "modes", Policy().files, _modes),
        file=file,
    )


def _amounts(data: Mapping[str, Any], table: str, base: _T, ranges: Mapping[str, tuple[float, float | None]]) -> _T:
    found = data.get(table, {})
    values = asdict(base)
    for key, value in found.items():
        _check_known(table, key, values)
        is_whole = isinstance(values[key], int)
        values[key] = _number(table, key, value, ranges[key], is_whole=is_whole)
    return type(base)(**values)


def _number(table: str, key: str, value: Any, bounds: tuple[float, float | None], *, is_whole: bool) -> float:
    least, most = bounds
    if value == UNLIMITED:
        # A machine has so much memory and so many processors; all else may be without limit.
        if most is None and (table, key) != ("default", "scratch_mib"):
            return 0
        raise _WrongError(table, key, f"{table}.{key} cannot be {UNLIMITED}")
    kinds = int if is_whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        what = "a whole number" if is_whole else "a number"
        or_none = "" if most is not None else f', nor "{UNLIMITED}"'
        raise _WrongError(table, key, f"{table}.{key} = {value!r} is not {what}{or_none}")
    if not least <= value <= (float("inf") if most is None else most):
        reach = f"below {least}" if most is None else f"outside {least} to {most}"
        or_none = "" if most is not None or value else f'; no limit is "{UNLIMITED}"'
        raise _WrongError(table, key, f"{table}.{key} = {value} is {reach}{or_none}")
    return float(value) if not is_whole else int(value)


def _check_defaults(data: Mapping[str, Any], default: Amounts, cap: Amounts) -> None:
    """A default that the file gives must not be above a cap that it gives; without the former the cap decides."""
    given = data.get("default", {})
    for item in fields(Amounts):
        value, most = getattr(default, item.name), getattr(cap, item.name)
        if item.name in given and most and value > most:
            problem = f"default.{item.name} = {value} is above sandbox.{item.name} = {most}"
            raise _WrongError("default", item.name, problem)


def _one(data: Mapping[str, Any], table: str, name: str, default: Any, read: Callable[[Any], Any]) -> Any:
    """A value of a table that has only one."""
    found = data.get(table, {})
    for key in found:
        _check_known(table, key, (name,))
    if name not in found:
        return default
    try:
        return read(found[name])
    except ValueError as exc:
        raise _WrongError(table, name, f"{table}.{name} = {found[name]!r} is not {exc}") from None


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _tier(value: Any) -> Tier:
    if value in ("software", "hardware"):
        return Tier(value)
    raise ValueError('"software" or "hardware"')


def _modes(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and value and all(isinstance(mode, str) and mode in FILES for mode in value):
        return tuple(dict.fromkeys(value))
    raise ValueError('a list of some of "copy", "none", "ro" and "rw"')


def _check_known(table: str, key: str, known: Collection[str]) -> None:
    if key in known:
        return
    full = f"{table}.{key}" if table else f"[{key}]"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
    meant = f"{table}.{near}" if table else f"[{near}]"
    raise _WrongError(table or key, key if table else "", f"{full} is not known; the nearest that is: {meant}")
