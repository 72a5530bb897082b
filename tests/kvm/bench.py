"""``python -m tests.kvm.bench``, in the outer machine: the benchmarks of ``tests.performance`` on the hardware tier."""

import asyncio
import os
import sys

from guest.machine import start_loopback
from hyper_kernel.jupyter import kernelspec
from hyper_kernel.paths import find_paths
from hyper_kernel.qemu import accel
from hyper_kernel.rootfs.guest import get_guest
from hyper_kernel.sandbox.plan import find_tier
from tests.performance.__main__ import main

#: An emulated machine's KVM is slower than any that people have.
_PROBE_S = 60.0

if __name__ == "__main__":
    start_loopback()  # a local kernel listens there
    accel._DEADLINE_S = _PROBE_S
    paths = find_paths()
    print(asyncio.run(find_tier(paths, get_guest(paths))))
    kernelspec.install()
    os.chdir("/tmp")  # the checkout is on a disk that cannot be written to
    sys.exit(main())
