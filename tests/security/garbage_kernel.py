"""What serves a kernel's five ports in the kernel's place, inside a guest: ``garbage_kernel.py MODE``. Stdlib only.

``noise`` sends random bytes, ``giant`` a frame that claims 2^63 bytes, ``endless`` a message without an end, ``parts``
one of countless parts, ``forged`` messages that another key has signed, ``stall`` neither reads nor writes, ``reset``
resets each connection at another point.
"""

import contextlib
import hashlib
import hmac
import itertools
import json
import os
import socket
import struct
import sys
import threading
import time

GREETING = b"\xff".ljust(9, b"\0") + b"\x7f\3\1NULL".ljust(55, b"\0")
KINDS = {27001: b"ROUTER", 27002: b"PUB", 27003: b"ROUTER", 27004: b"ROUTER", 27005: b"REP"}


def ready(kind):
    body = b"\5READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    return bytes([4, len(body)]) + body


def frame(body, more=False):
    if len(body) < 256:
        return bytes([more, len(body)]) + body
    return bytes([2 | more]) + len(body).to_bytes(8, "big") + body


def forged(key):
    header = {"msg_id": "x", "msg_type": "stream", "session": "s", "username": "u", "date": "", "version": "5.3"}
    parts = [json.dumps(part).encode() for part in (header, header, {}, {"name": "stdout", "text": "forged"})]
    signature = hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode()
    *most, last = [b"stream", b"<IDS|MSG>", signature, *parts]
    return b"".join(frame(part, True) for part in most) + frame(last)


def serve(sock, mode, number, hello):
    if mode == "stall":
        time.sleep(3600)
    if mode == "noise":
        while True:
            sock.sendall(os.urandom(65536))
    if mode == "reset":
        sock.sendall(hello[: number * 7 % len(hello)])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return
    sock.sendall(hello)
    if mode == "giant":
        sock.sendall(b"\2" + b"\x7f" + b"\xff" * 7)
    elif mode == "endless":
        sock.sendall(b"\3" + (255 << 20).to_bytes(8, "big"))
    while True:
        sock.sendall({"parts": b"\1\0" * 32768, "forged": forged(b"a key of its own") * 50}.get(mode, bytes(65536)))


def listen(port, mode):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(100)
        for number in itertools.count():
            sock, _ = listener.accept()
            threading.Thread(target=serve_one, args=(sock, mode, number, GREETING + ready(KINDS[port]))).start()


def serve_one(sock, *args):
    with sock, contextlib.suppress(OSError):
        serve(sock, *args)


for each in KINDS:
    threading.Thread(target=listen, args=(each, sys.argv[1])).start()
