"""Runs in a guest: sockets under remote control. Standard library only.

One JSON command per line on the connection to CONTROL, one answer each: the methods of ``Remote``. Bytes are in hex, or
a pattern (see ``pattern``) where they are many.
"""

import hashlib
import json
import socket
import threading

CONTROL = 900
HOST = 2


def pattern(count, start=0):
    """Bytes that show where they belong: no two nearby windows are equal."""
    block = b"".join(number.to_bytes(4, "big") for number in range(16384))
    offset = start % len(block)
    return (block * (count // len(block) + 2))[offset : offset + count]


class Remote:
    def __init__(self):
        self.sockets = {}

    def listen(self, name, port):
        sock = self.sockets[name] = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        sock.bind((socket.VMADDR_CID_ANY, port))
        sock.listen(128)

    def accept(self, name, listener):
        self.sockets[name], (cid, _) = self.sockets[listener].accept()
        return {"cid": cid}

    def dial(self, name, port):
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            sock.connect((HOST, port))
        except OSError:
            sock.close()
            raise
        self.sockets[name] = sock

    def send(self, name, data):
        self.sockets[name].sendall(bytes.fromhex(data))

    def receive(self, name, limit):
        return {"data": self.sockets[name].recv(limit).hex()}

    def send_pattern(self, name, count):
        sent = 0
        while sent < count:
            size = min(count - sent, 1 << 20)
            self.sockets[name].sendall(pattern(size, sent))
            sent += size

    def receive_digest(self, name):
        """Until end of file."""
        digest, count, view = hashlib.sha256(), 0, memoryview(bytearray(1 << 18))
        while size := self.sockets[name].recv_into(view):
            digest.update(view[:size])
            count += size
        return {"count": count, "digest": digest.hexdigest()}

    def fill(self, name):
        """Send until nothing fits any more."""
        sock, sent = self.sockets[name], 0
        sock.settimeout(2.0)
        try:
            while True:
                sent += sock.send(pattern(65536, sent))
        except TimeoutError:
            sock.settimeout(None)
            return {"count": sent}

    def echo(self, name):
        """Echo until end of file, then close; in the background."""
        sock = self.sockets.pop(name)

        def run():
            with sock:
                while data := sock.recv(65536):
                    sock.sendall(data)

        threading.Thread(target=run, daemon=True).start()

    def shutdown(self, name, how):
        self.sockets[name].shutdown(how)

    def close(self, name):
        self.sockets.pop(name).close()


def serve(control):
    remote, lines = Remote(), control.makefile("rb")
    lock = threading.Lock()

    def run(command):
        number, name = command.pop("id"), command.pop("do")
        try:
            answer = getattr(remote, name)(**command) or {}
        except OSError as exc:
            answer = {"error": exc.strerror or str(exc)}
        with lock:
            control.sendall(json.dumps({"id": number, **answer}).encode() + b"\n")

    for line in lines:
        threading.Thread(target=run, args=(json.loads(line),), daemon=True).start()


def main():
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, CONTROL))
    listener.listen()
    while True:
        control, _ = listener.accept()
        threading.Thread(target=serve, args=(control,), daemon=True).start()


if __name__ == "__main__":
    main()
