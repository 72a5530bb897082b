"""The messages of Jupyter's channels as they pass: judged, signed anew, or refused.

A signed message is ``[identities..., delimiter, signature, header, parent_header, metadata, content, buffers...]``
(``jupyter_client.session.Session.serialize``); the signature covers header to content. Only what it takes to judge a
message is held; buffers pass as they come.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hyper_kernel.channels.packet import DELIMITER, pack
from hyper_kernel.channels.signing import Buffer, Signer
from hyper_kernel.channels.zmtp import MAX_COMMAND, Message, Steps, ZmtpError

#: A kernel's replies have none, its outputs have a topic, and each router on the way adds one.
MAX_IDENTITIES = 16
#: A message without its buffers. Read as JSON it may take ten times as much for a moment.
MAX_HEAD = 64 << 20
#: Identities and signature, which come before what can be judged; a topic is at most a subscription.
_MAX_PREFIX = MAX_COMMAND
#: A heartbeat, a subscription.
_MAX_SMALL = MAX_COMMAND


class LongError(ZmtpError):
    """A message's content is too long to be judged; it can be skipped. ``size`` is its length in bytes."""

    def __init__(self, size: int, cap: int) -> None:
        super().__init__(f"a message's content of {size} bytes is over {cap}")
        self.size = size


class SignedHead(NamedTuple):
    """Where a message's head stands in what a flow holds; ``start`` is where the delimiter's frame begins."""

    start: int
    signature: slice
    parts: tuple[slice, slice, slice, slice]


class Judged(NamedTuple):
    """What goes on in a message's place: header, parent header, metadata and content, and whether buffers follow."""

    parts: Sequence[Buffer]
    with_buffers: bool = True


#: Judges the four parts of a message whose signature is right. None: it is dropped.
Judge = Callable[[Sequence[Buffer]], Judged | None]


def read_head(message: Message, cap: int) -> Steps[SignedHead]:
    """Hold a signed message up to its content.

    :param cap: how long that may be.
    :raise LongError: its content is longer.
    :raise ZmtpError: what comes before is, or it is no such message.
    """
    start = 0
    for _ in range(MAX_IDENTITIES + 1):
        part = yield from message.hold(_MAX_PREFIX)
        if message.flow.held[part] == DELIMITER:
            break
        start = part.stop
    else:
        raise ZmtpError(f"a message has over {MAX_IDENTITIES} parts before the delimiter")
    signature = yield from message.hold(_MAX_PREFIX)
    header = yield from message.hold(cap)
    parent = yield from message.hold(cap)
    metadata = yield from message.hold(cap)
    size = yield from message.peek()
    if size > cap:
        raise LongError(size, cap)
    content = yield from message.hold(metadata.stop + cap)
    return SignedHead(start, signature, (header, parent, metadata, content))


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
    :param judge: says what passes; it may raise ZmtpError.
    :param on_long: called with the length of a content that is over ``MAX_HEAD``; the message is dropped.
    """

    def __init__(
        self,
        verify: Signer,
        sign: Signer,
        on_forged: Callable[[], None],
        judge: Judge = Judged,
        on_long: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._verify = verify
        self._sign = sign
        self._on_forged: Callable[[], None] | None = on_forged
        self._judge = judge
        self._on_long = on_long

    def __call__(self, message: Message) -> Steps[None]:
        """Read one message."""
        flow = message.flow
        try:
            head = yield from read_head(message, MAX_HEAD)
            judged = self._replace(message, head)
        except LongError as exc:
            self._on_long(exc.size)
            judged = None
        if judged:
            flow.release()
        else:
            flow.drop()
        passes = judged is not None and judged.with_buffers
        flow.can_insert = not (passes and message.more)
        while message.more:
            yield from message.let_through() if passes else message.skip()

    def _replace(self, message: Message, head: SignedHead) -> Judged | None:
        """Put what may pass in the place of the head that is held; None where nothing may."""
        held = message.flow.held
        # SECURITY: nothing of a message passes before it is known who signed it and what it says; and what passes has
        # a signature that is made here, so neither side ever sees the other's key or what it signed.
        if not is_signed(held, head, self._verify):
            if self._on_forged:
                self._on_forged()
                self._on_forged = None
            return None
        with memoryview(held) as view:
            judged = self._judge([view[part] for part in head.parts])
            if judged:
                more = message.more and judged.with_buffers
                new = bytes(view[: head.start]) + pack(judged.parts, self._sign, more=more)
                message.flow.held = bytearray(new)
        return judged


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
