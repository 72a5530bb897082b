"""vsock packets as they lie in a virtqueue (virtio 1.2, section 5.10.6); pure."""

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from hyper_kernel.vsock.end import ViolationError

#: The host's address, as every guest knows it.
HOST_CID = 2
#: The type of a stream socket's packets.
STREAM = 1
#: Largest payload of one packet: VIRTIO_VSOCK_MAX_PKT_BUF_SIZE of Linux.
MAX_PAYLOAD = 64 * 1024

_HEADER = struct.Struct("<QQIIIHHIII")
HEADER_SIZE = _HEADER.size


class Op(IntEnum):
    """What a packet does."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Shut(IntFlag):
    """Flags of SHUTDOWN: what its sender will not do any more."""

    NONE = 0
    RECEIVE = 1
    SEND = 2
    BOTH = 3


class Address(NamedTuple):
    """One side of a connection."""

    cid: int
    port: int


class Header(NamedTuple):
    """``struct virtio_vsock_hdr``; ``length`` counts the payload alone, in bytes."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    length: int
    type: int
    op: int
    flags: int
    buf_alloc: int
    fwd_cnt: int

    def pack(self) -> bytes:
        """The header's 44 bytes."""
        return _HEADER.pack(*self)


def parse(data: bytes | bytearray | memoryview) -> Header:
    """The header at the start of a packet.

    :param data: the packet as the guest gave it: header, then payload.
    :raise ViolationError: too short, an unknown op, or a length that is over the limit or past the packet's end.
    """
    # SECURITY: every number here is the guest's; the length is believed only after it fits what was really given.
    if len(data) < HEADER_SIZE:
        raise ViolationError(f"the guest sent a vsock packet of {len(data)} bytes, too few for its header")
    header = Header._make(_HEADER.unpack_from(data))
    if header.length > MAX_PAYLOAD:
        raise ViolationError(f"the guest sent a vsock packet that claims {header.length} bytes of payload")
    if header.length > len(data) - HEADER_SIZE:
        raise ViolationError(f"the guest sent a vsock packet shorter than its payload of {header.length} bytes")
    if not Op.REQUEST <= header.op <= Op.CREDIT_REQUEST:
        raise ViolationError(f"the guest sent a vsock packet with the unknown operation {header.op}")
    return header


def refusal(header: Header) -> Header:
    """The RST that answers a packet which belongs to no connection."""
    return Header(
        header.dst_cid, header.src_cid, header.dst_port, header.src_port, 0, header.type, Op.RST, 0, 0, 0
    )  # fmt: skip
