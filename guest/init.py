"""Process 1 of a sandbox's machine: makes the machine usable, then is the agent."""

import os
import socket
import sys
import threading
import time
from typing import Any, NoReturn

from guest import machine
from guest.agent import Agent
from guest.cage import make_cage
from guest.identity import take_identity
from hyper_kernel import wire

#: Of each thread; Python's own default is sized for programs that recurse.
_STACK = 256 * 1024


def main() -> NoReturn:
    """Boot, then serve the host for as long as the machine lives."""
    try:
        started_s = time.monotonic()
        os.environ.clear()
        threading.stack_size(_STACK)
        threading.excepthook = _fail_thread
        machine.mount_system()
        machine.raise_limits()
        machine.start_loopback()
        machine.load_modules("/modules")
        machine.mount_image()
        agent = Agent(machine.IMAGE, take_identity, make_cage(machine.read_memory()["MemAvailable"]))
        agent.start()
        listener = _listen()
        machine.say(f"started after {started_s:.2f} s, listening after {time.monotonic():.2f} s")
        agent.listen(listener)
    except BaseException:  # noqa: BLE001 - process 1 must not end: that is a kernel panic without a reason
        _fail(*sys.exc_info())


def _listen() -> socket.socket:
    """The listener for streams. It stays while the vsock device comes and goes: only connections end with it."""
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind((socket.VMADDR_CID_ANY, wire.STREAM_PORT))
    listener.listen(64)
    return listener


def _fail_thread(args: threading.ExceptHookArgs) -> None:
    _fail(args.exc_type, args.exc_value, args.exc_traceback)


def _fail(*failure: Any) -> NoReturn:
    """A bug of the agent: say it where the host looks, and end the machine.

    :param failure: as ``sys.exc_info`` gives it.
    """
    machine.say("the agent failed")
    sys.excepthook(*failure)  # not the module traceback, whose import costs all boots; this prints to the console too
    machine.power_off()


if __name__ == "__main__":
    main()
