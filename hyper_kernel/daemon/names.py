"""Names and ids of sandboxes."""

import random
import re
import secrets
from collections.abc import Collection

from hyper_kernel.errors import RequestError

_ADJECTIVES = """
agile amber bold brave brisk bright calm clever cosmic crisp curious daring deft eager early fair fleet gentle
glad golden happy honest humble jolly keen kind lively lucid lucky merry mellow nimble noble patient plucky
polite proud quick quiet rapid ready serene sharp silent silver smart snug solid spry steady sturdy sunny
swift tidy tranquil upbeat vivid warm wise witty zesty
"""
_NOUNS = """
abbe ampere archimedes babbage banach bessel bohr boole cantor cauchy cori curie darwin dirac einstein erdos
euclid euler faraday fermat fermi feynman franklin galileo gauss germain godel goldberg gosling haibt hamilton
hawking hertz hilbert hopper hypatia joule kepler knuth kovalevskaya lamarr leibniz lovelace maxwell mayer
meitner mendel mirzakhani newton noether pascal pasteur planck ptolemy raman ramanujan ride ritchie rubin
sagan sammet shannon tesla torvalds turing volta wiles wozniak wright yalow
"""
#: What Docker allows as a name.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


def new_id() -> str:
    """64 random hexadecimal characters."""
    return secrets.token_hex(32)


def new_name(taken: Collection[str]) -> str:
    """A name such as ``swift_noether`` that is not taken."""
    choose = random.SystemRandom().choice
    while True:
        name = f"{choose(_ADJECTIVES.split())}_{choose(_NOUNS.split())}"
        if name not in taken:
            return name
        name += f"_{secrets.token_hex(2)}"
        if name not in taken:
            return name


def check_name(name: str) -> str:
    """The name without the slash that Docker puts before it.

    :raise RequestError: it has characters that names do not have.
    """
    name = name.removeprefix("/")
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            hint="use letters, digits, '_', '.' and '-', and begin with a letter or digit",
        )
    return name
