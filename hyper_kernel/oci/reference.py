"""Names of images, as Docker reads and writes them."""

import re
from dataclasses import dataclass

from hyper_kernel.errors import RequestError

# The grammar of github.com/distribution/reference (reference.go), without its length rules for domains.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_PATTERN = re.compile(
    rf"(?:(?P<domain>(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?)/)?"
    rf"(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_DEFAULT_DOMAIN = "docker.io"
_MAX_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A name in full: ``python`` is ``docker.io/library/python:latest``.

    ``tag`` is empty only where a digest stands in its place.
    """

    domain: str
    path: str
    tag: str
    digest: str = ""

    @property
    def familiar(self) -> str:
        """As people write it and Docker prints it: without the default domain and ``library/``."""
        name = f"{self.domain}/{self.path}"
        if self.domain == _DEFAULT_DOMAIN:
            name = self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path
        return name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.domain}/{self.path}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Read a name as Docker does.

    :raise RequestError: it is not the name of an image.
    """
    first, slash, _ = text.partition("/")
    has_domain = bool(slash) and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    match = _PATTERN.fullmatch(text if has_domain else f"{_DEFAULT_DOMAIN}/{text}")
    if not match or len(match["path"]) > _MAX_NAME:
        raise RequestError(
            f"{text!r} is not the name of an image", hint="write it like hyper/python:latest, in lower case"
        )
    domain = _DEFAULT_DOMAIN if match["domain"] == "index.docker.io" else match["domain"]
    path = match["path"]
    if domain == _DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    digest = match["digest"] or ""
    return Reference(domain=domain, path=path, tag=match["tag"] or ("" if digest else "latest"), digest=digest)
