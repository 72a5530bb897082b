"""The messages of Jupyter's channels as they pass: signed anew, or refused.

A signed message is ``[identities..., delimiter, signature, header, parent_header, metadata, content, buffers...]``
(``jupyter_client.session.Session.serialize``); the signature covers header to content. Only what it takes to judge a
message is held; buffers pass as they come.
"""

from collections.abc import Callable
from typing import NamedTuple

from hyper_kernel.channels.signing import Signer
from hyper_kernel.channels.zmtp import MAX_COMMAND, MAX_MESSAGE, Message, Steps, ZmtpError, frame

DELIMITER = b"<IDS|MSG>"
#: A kernel's replies have none, its outputs have a topic, and each router on the way adds one.
MAX_IDENTITIES = 16
#: Identities and signature, which come before what can be judged; a topic is at most a subscription.
_MAX_PREFIX = MAX_COMMAND
#: A heartbeat, a subscription.
_MAX_SMALL = MAX_COMMAND


class SignedHead(NamedTuple):
    """Where a message's head stands in what a flow holds."""

    signature: slice
    parts: tuple[slice, slice, slice, slice]
    #: Of the signature's frame, header included.
    frame: slice


def read_head(message: Message, cap: int) -> Steps[SignedHead]:
    """Hold a signed message up to its content.

    :param cap: how long it may be.
    :raise ZmtpError: it is longer, or is no such message.
    """
    for _ in range(MAX_IDENTITIES + 1):
        part = yield from message.hold(_MAX_PREFIX)
        if message.flow.held[part] == DELIMITER:
            break
    else:
        raise ZmtpError(f"a message has over {MAX_IDENTITIES} parts before the delimiter")
    signature = yield from message.hold(_MAX_PREFIX)
    header = yield from message.hold(cap)
    parent = yield from message.hold(cap)
    metadata = yield from message.hold(cap)
    content = yield from message.hold(cap)
    return SignedHead(signature, (header, parent, metadata, content), slice(part.stop, signature.stop))


def is_signed(held: bytearray, head: SignedHead, signer: Signer) -> bool:
    """Whether a head that is held has the signer's signature."""
    view = memoryview(held)
    return signer.verify([view[part] for part in head.parts], view[head.signature])


class Resigner:
    """Passes messages that one key has signed, signed with another.

    :param verify: of the peer they come from.
    :param sign: of the peer they go to.
    :param on_forged: called at a connection's first message that is wrongly signed; it may raise ZmtpError. If it
        returns, that message and those that follow like it are dropped.
    """

    def __init__(self, verify: Signer, sign: Signer, on_forged: Callable[[], None]) -> None:
        self._verify = verify
        self._sign = sign
        self._on_forged: Callable[[], None] | None = on_forged

    def __call__(self, message: Message) -> Steps[None]:
        """Read one message."""
        flow = message.flow
        head = yield from read_head(message, MAX_MESSAGE)
        # SECURITY: nothing of a message passes before it is known who signed it; and what passes has a signature that
        # is made here, so neither side ever sees the other's key or what it signed.
        if is_signed(flow.held, head, self._verify):
            flow.held[head.frame] = frame(self._new_signature(flow.held, head), more=True)
            flow.release()
            while message.more:
                yield from message.let_through()
            return
        if self._on_forged:
            self._on_forged()
            self._on_forged = None
        flow.drop()
        while message.more:
            yield from message.skip()

    def _new_signature(self, held: bytearray, head: SignedHead) -> bytes:
        view = memoryview(held)
        return self._sign.sign([view[part] for part in head.parts])


def pass_small(message: Message) -> Steps[None]:
    """Read a message that has no form of its own, such as the heartbeat's echo."""
    while message.more:
        yield from message.hold(_MAX_SMALL)
    message.flow.release()


def pass_subscription(message: Message) -> Steps[None]:
    """Read what ZMTP 3.0 sends in place of SUBSCRIBE and CANCEL: one frame that begins with 1 or 0 (RFC 23).

    :raise ZmtpError: it is something else.
    """
    part = yield from message.hold(_MAX_SMALL)
    # SECURITY: ipykernel's IOPub thread indexes into each frame it gets, so an empty one would trouble it.
    if message.more or not message.flow.held[part].startswith((b"\0", b"\1")):
        raise ZmtpError("a message to a publisher that is no subscription")
    message.flow.release()
