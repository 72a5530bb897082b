"""``python -m tests.kvm``: the hardware path inside an emulated machine; see README.md."""

import argparse
import asyncio
import signal
import sys
import time

from hyper_kernel.errors import HyperError
from hyper_kernel.oci.store import Image, ImageStore
from hyper_kernel.paths import Paths, find_paths
from hyper_kernel.rootfs.guest import build_guest
from hyper_kernel.spec import DEFAULT_IMAGE
from tests.kvm.image import get_image
from tests.kvm.job import open_job
from tests.kvm.outer import run_outer

#: The suites that know the kernel end run it here; what they have for other ends runs elsewhere.
SUITES = ["tests/kvm", "tests/contract/test_vsock_contract.py", "tests/integration/test_vsock_device.py"]
ALL = ["-v", *SUITES, "-k", "kvm or kernel-linux or KernelEnd"]
SMOKE = ["-v", "-x", "tests/kvm/test_sandbox.py", "-k", "tier or program"]
DEADLINES_S = {"all": 600.0, "smoke": 120.0}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kvm", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only the tier and one program")
    parser.add_argument("--deadline", type=float, help="seconds the machine may take (600, smoke 120)")
    parser.add_argument("arguments", nargs="*", help="pytest's, after --, in place of the usual ones")
    asked = parser.parse_args()
    arguments = asked.arguments or (SMOKE if asked.smoke else ALL)
    deadline_s = asked.deadline or DEADLINES_S["smoke" if asked.smoke else "all"]
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that it cleans up behind it
    color = f"--color={'yes' if sys.stdout.isatty() else 'no'}"
    try:
        code = run(find_paths(), [color, *arguments], deadline_s)
    except HyperError as exc:
        print(f"error: {exc}\n{exc.hint}", file=sys.stderr)
        return 2
    print("the hardware path works" if code == 0 else f"the tests failed (pytest's exit code {code})")
    return 1 if code else 0


def run(paths: Paths, arguments: list[str], deadline_s: float) -> int:
    """Make what is missing and run the tests; pytest's exit code."""
    began = time.monotonic()

    def report(what: str) -> None:
        print(f"[{time.monotonic() - began:5.1f} s] {what}", flush=True)

    folder = paths.data / "kvm-test"
    outer = get_image(folder, report)
    guest = build_guest(paths, lambda what, _done, _size: report(f"guest: {what}"))
    report("making the job")
    with open_job(folder, guest, find_base(paths), arguments) as job:
        report("starting the outer machine")
        code = asyncio.run(run_outer(outer, job, deadline_s=deadline_s, show=show))
    report("the outer machine is done")
    return code


def find_base(paths: Paths) -> Image:
    store = ImageStore(paths.images)
    image = store.get(DEFAULT_IMAGE)
    store.get_disk(image)
    return image


def show(line: bytes) -> None:
    print(line.decode(errors="replace").rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
