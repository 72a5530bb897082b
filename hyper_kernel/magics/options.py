"""The line after ``%%hyper``: what it says, what it may say next, and what was meant by a word that nobody knows."""

import argparse
import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

from hyper_kernel.errors import RequestError
from hyper_kernel.limits import parse_bytes, parse_seconds, split_cpus
from hyper_kernel.spec import DEFAULT_IMAGE, KernelSpec, Limits, SandboxSpec

#: Programs that may be named without ``--script``.
PROGRAMS = ("bash", "sh")
#: How the guest may see the notebook's folder; what else there is, hyperd knows.
FILES = ("copy", "none")
_USAGE = "%%hyper [IMAGE] [bash|sh] [--script PROGRAM] [--name NAME [--fresh]] [--in a,b] [--out c] [--memory 2g] ..."


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPlan:
    """What a line asks for; empty and zero: not said."""

    image: str = ""
    program: tuple[str, ...] = ()
    name: str = ""
    fresh: bool = False
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    memory: str = ""
    cpus: float = 0.0
    timeout: str = ""
    files: str = ""
    stdin: bool = False

    @property
    def needs_kernel(self) -> bool:
        """Whether it is no program that has a sandbox for itself alone."""
        return not self.program or bool(self.name) or self.files not in ("", "none")

    def asked(self) -> dict[str, Any]:
        """What decides about the sandbox, as far as it was said."""
        names = ("image", "memory", "cpus", "timeout", "files")
        return {name: value for name in names if (value := getattr(self, name))}

    def spec(self, folder: str) -> SandboxSpec:
        """The sandbox that is asked for.

        :param folder: the notebook's.
        :raise RequestError: a size or a time is none.
        """
        cpus, cpu_percent = split_cpus(self.cpus)
        limit_s = parse_seconds(self.timeout or "0")
        limits = Limits(cpu_percent=cpu_percent)
        limits = replace(limits, cell_s=limit_s) if self.needs_kernel else replace(limits, wall_s=limit_s)
        kernel = KernelSpec(files=self.files or "none", folder=folder) if self.needs_kernel else None
        return SandboxSpec(
            image=self.image or DEFAULT_IMAGE,
            memory_mib=-(-parse_bytes(self.memory or "0") >> 20),
            cpus=cpus,
            limits=limits,
            kernel=kernel,
        )


def parse_line(line: str) -> CellPlan:
    """What a line says.

    :raise RequestError: it says what nobody knows; names what is nearest to that.
    """
    try:
        words = shlex.split(line)
    except ValueError as exc:
        raise RequestError(f"{line!r} cannot be read: {exc}", hint=_USAGE) from exc
    found, unknown = _PARSER.parse_known_intermixed_args(words)
    if unknown:
        raise _unknown_word(unknown[0])
    image, program = _split_words(found.words, tuple(shlex.split(found.script)))
    if found.fresh and not found.name:
        raise RequestError("--fresh is for a sandbox with a --name; others are fresh each time", hint=_USAGE)
    if program and len(found.outputs) > 1:
        raise RequestError("a program has one output, its standard output", hint="name one variable: --out text")
    said = {item.name: getattr(found, item.name) for item in fields(CellPlan) if hasattr(found, item.name)}
    return CellPlan(**{**said, "image": image, "program": program})


def complete_line(words: Sequence[str], incomplete: str, known: Mapping[str, Callable[[], Sequence[str]]]) -> list[str]:
    """What the last word of a line may become.

    :param words: those before it.
    :param known: how to find ``images``, names of ``sandboxes``, and ``variables``; asked only where they matter.
    """
    before = words[-1] if words else ""
    if before in _VALUES:
        head, comma, last = incomplete.rpartition(",")
        source = known.get(_VALUES[before])
        values = source() if source else _CHOICES.get(before, ())
        return [f"{head}{comma}{value}" for value in values if value.startswith(last)]
    if incomplete.startswith("-"):
        return [name for name in _OPTIONS if name.startswith(incomplete) and name not in words]
    return [name for name in (*known["images"](), *PROGRAMS) if name.startswith(incomplete)]


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint at what was meant; empty where nothing is near."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else ""


class _Parser(argparse.ArgumentParser):
    """argparse, which here ends no process."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for what it cannot read."""
        raise RequestError(f"%%hyper: {message}", hint=_USAGE)


def _split_words(words: Sequence[str], script: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The image and the program in words that are no options.

    :raise RequestError: there are too many.
    """
    *images, last = words or [""]
    if last in PROGRAMS and not script:
        script = (last,)
    elif last:
        images.append(last)
    if len(images) > 1:
        raise RequestError(
            f"{images[1]} is one word too many after the image {images[0]}",
            hint=nearest(images[1], PROGRAMS) or f"a program is named like this: --script {shlex.quote(images[1])}",
        )
    return (images or [""])[0], script


def _unknown_word(word: str) -> RequestError:
    option = word.partition("=")[0]
    return RequestError(
        f"%%hyper has no option {option}", hint=nearest(option, _OPTIONS) or f"it has {', '.join(_OPTIONS)}"
    )


def _names(text: str) -> tuple[str, ...]:
    """Names of variables, with commas between them."""
    names = tuple(filter(None, text.replace(" ", "").split(",")))
    for name in names:
        if not name.isidentifier():
            raise RequestError(f"{name!r} is no name of a variable", hint="write names with commas: --in a,b")
    return names


def _make_parser() -> _Parser:
    parser = _Parser(prog="%%hyper", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--script", default="")
    parser.add_argument("--name", default="")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--in", dest="inputs", type=_names, default=())
    parser.add_argument("--out", dest="outputs", type=_names, default=())
    parser.add_argument("--memory", default="")
    parser.add_argument("--cpus", type=float, default=0.0)
    parser.add_argument("--timeout", default="")
    parser.add_argument("--files", default="")
    parser.add_argument("--stdin", action="store_true")
    return parser


_PARSER = _make_parser()
_OPTIONS = sorted(_PARSER._option_string_actions)
#: Options that take a value, and where their values are found.
_VALUES = {
    "--script": "",
    "--name": "sandboxes",
    "--in": "variables",
    "--out": "variables",
    "--memory": "",
    "--cpus": "",
    "--timeout": "",
    "--files": "",
}
_CHOICES = {"--files": FILES, "--memory": ("512m", "1g", "2g"), "--timeout": ("10s", "60s"), "--cpus": ("1", "2")}
