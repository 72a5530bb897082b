"""The outer machine: emulated by QEMU, whatever the host's own KVM does; its console is shown as it comes."""

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

from hyper_kernel.errors import HostError
from hyper_kernel.host.process import Child
from hyper_kernel.qemu.argv import BINARY
from tests.kvm.image import OuterImage

#: loglevel: kvm_amd complains of what TCG does not emulate, harmlessly, in the middle of pytest's lines.
CMDLINE = "console=ttyS0 loglevel=3 panic=-1 mitigations=off random.trust_cpu=on"
VERDICT = re.compile(rb"OUTER RESULT (\d+)")
#: Longest line that is kept whole.
MAX_LINE = 1 << 20


def argv(image: OuterImage, job: Path, memory_mib: int) -> list[str]:
    """QEMU's command line. TCG emulates AMD's SVM well enough for kvm_amd; it has no VMX."""
    return [
        BINARY,
        *("-name", "hyper-kvm-test"),
        *("-machine", "q35"),
        *("-accel", "tcg,thread=multi"),
        *("-cpu", "EPYC,check=off"),
        *("-smp", "1"),  # two are slower
        *("-m", str(memory_mib)),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-serial", "stdio"),
        *(word for disk in (image.root, job) for word in ("-drive", drive(disk))),
        *("-kernel", str(image.kernel)),
        *("-initrd", str(image.initrd)),
        *("-append", CMDLINE),
    ]


def drive(disk: Path) -> str:
    return f"if=virtio,format=raw,readonly=on,file={str(disk).replace(',', ',,')}"


async def run_outer(
    image: OuterImage, job: Path, *, memory_mib: int, deadline_s: float, show: Callable[[bytes], None]
) -> int:
    """Boot the machine and let it do its job; the job's exit code.

    :param show: gets each line of its console.
    :raise HostError: it ended without a verdict or took too long; it is gone then.
    """
    ours, theirs = os.pipe()
    try:
        child = Child(argv(image, job, memory_mib), output=theirs)
    except HostError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    try:
        async with asyncio.timeout(deadline_s):
            return await watch(ours, show)
    except TimeoutError as exc:
        raise HostError(
            f"the outer machine was not done within {deadline_s:g} s",
            hint="see its console above; on a busy host give it longer: --deadline",
        ) from exc
    except EOFError as exc:
        raise HostError(
            f"the outer machine ended without a verdict: {child.command}", hint="see its console above"
        ) from exc
    finally:
        await child.kill()


async def watch(console: int, show: Callable[[bytes], None]) -> int:
    """Show the console until the verdict.

    :raise EOFError: the console ended without one.
    """
    reader = asyncio.StreamReader(limit=MAX_LINE)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(console, "rb"))
    try:
        while line := await reader.readline():
            if verdict := VERDICT.match(line):
                return int(verdict[1])
            show(line)
        raise EOFError
    finally:
        transport.close()
