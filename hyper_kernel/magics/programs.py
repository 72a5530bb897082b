"""A cell as a program: in a sandbox of its own, where any image will do, or beside a kernel that keeps its state."""

import codecs
import os
import re
import shlex
from contextlib import closing, suppress
from dataclasses import replace

from hyper_kernel.client import Client, Stream
from hyper_kernel.errors import GuestError, HyperError
from hyper_kernel.host.process import read_start_ticks
from hyper_kernel.magics.failure import sandbox_failure
from hyper_kernel.magics.interrupts import interrupts_to
from hyper_kernel.magics.screen import Screen
from hyper_kernel.policy.terminal import safe_text
from hyper_kernel.session import Session
from hyper_kernel.spec import Owner, ProcessSpec, SandboxSpec

_NAMES = {1: "stdout", 2: "stderr"}


def run_in_kernel(session: Session, argv: tuple[str, ...], env: tuple[str, ...], cell: str, screen: Screen) -> int:
    """As :func:`run_alone`, in a sandbox that runs an IPython kernel, by its own magic for that.

    :raise CellError: the kernel cannot do that.
    """
    words = ("env", *env, *argv) if env else argv
    reply = session.execute(f"%%script {shlex.join(words)}\n{cell}", shows=screen)
    if screen.failure is None and reply.get("status") == "ok":
        return 0
    failure = screen.failure or sandbox_failure(reply)
    # IPython raises subprocess.CalledProcessError, whose text ends so.
    code = re.search(r"returned non-zero exit status (\d{1,3})\.$", str(failure))
    if code is None:
        raise failure
    return int(code[1])


def run_alone(
    client: Client, spec: SandboxSpec, argv: tuple[str, ...], env: tuple[str, ...], cell: str, screen: Screen
) -> int:
    """Give a cell to a program as its standard input, and show what it writes; its exit code.

    :param env: ``NAME=value`` each.
    :raise GuestError: the sandbox ended, or the program writes more than it may.
    """
    owner = Owner(pid=os.getpid(), start_ticks=read_start_ticks(os.getpid()))
    process = ProcessSpec(argv=argv, env=env, open_stdin=True)
    record = client.create(replace(spec, process=process, owner=owner, auto_remove=True))
    try:
        with (
            closing(client.attach(record.id, stdin=True)) as stream,
            client.waiting(record.id, "removed") as ends,
            interrupts_to(lambda: client.kill(record.id, "INT")),
        ):
            client.start(record.id)
            with suppress(OSError):  # a program need not read to the end
                stream.send(cell.encode())
            stream.close_stdin()
            _copy(stream, screen, record.spec.limits.output_bytes)
            stream.close()  # as long as somebody reads, a sandbox that removes itself is kept
            end = next(ends)
    except BaseException:
        with suppress(HyperError):
            client.remove(record.id, force=True)
        raise
    if end.reason and end.code:
        raise GuestError(f"sandbox {record.name} ended: {end.reason}")
    return end.code


def _copy(stream: Stream, screen: Screen, most: int) -> None:
    """Show what a program writes until it ends.

    :param most: bytes; 0: any number.
    :raise GuestError: there are more.
    """
    decoders = {number: codecs.getincrementaldecoder("utf-8")("replace") for number in _NAMES}
    count = 0
    for number, data in stream:
        count += len(data)
        if most and count > most:
            raise GuestError(f"output limit: wrote more than {most} bytes")
        # SECURITY: as the firewall does for kernels: no sequence that does more than to colour reaches a terminal.
        screen("stream", {"name": _NAMES[number], "text": safe_text(decoders[number].decode(data))})
