"""How the messages of Jupyter are signed: an HMAC over header, parent header, metadata and content."""

import hmac
from collections.abc import Sequence

from hyper_kernel.errors import RequestError

Buffer = bytes | bytearray | memoryview


class Signer:
    """A key and the way it signs, as in ``jupyter_client.session.Session``.

    The same message signed again has the same signature, so that a receiver still knows a replayed message by it.

    :param key: empty: messages carry an empty signature, and every signature is right.
    :param scheme: ``hmac-`` and a hash of :mod:`hashlib`.
    :raise RequestError: there is no such scheme.
    """

    def __init__(self, key: bytes, scheme: str = "hmac-sha256") -> None:
        prefix, _, name = scheme.partition("-")
        try:
            if prefix != "hmac":
                raise ValueError(prefix)
            self._start = hmac.new(key, digestmod=name)
            self._start.hexdigest()  # a hash of variable length (shake_128) cannot do this
        except (ValueError, TypeError) as exc:
            raise RequestError(f"{scheme!r} is no signature scheme", hint="use hmac-sha256") from exc
        self._is_keyless = not key
        self._scheme = scheme

    def __repr__(self) -> str:
        # SECURITY: logs and tracebacks show this; the key is not in it.
        return f"<Signer {self._scheme}{' without a key' * self._is_keyless}>"

    def sign(self, parts: Sequence[Buffer]) -> bytes:
        """The signature of ``[header, parent_header, metadata, content]``, in hexadecimal digits."""
        if self._is_keyless:
            return b""
        mac = self._start.copy()
        for part in parts:
            mac.update(part)
        return mac.hexdigest().encode()

    def verify(self, parts: Sequence[Buffer], signature: Buffer) -> bool:
        """Whether the signature is this key's."""
        # SECURITY: in constant time, so that a forger learns nothing from how long a wrong one takes.
        return self._is_keyless or hmac.compare_digest(self.sign(parts), signature)
