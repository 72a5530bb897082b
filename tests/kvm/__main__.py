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
from tests.kvm.job import BENCH_DISTRIBUTIONS, DISTRIBUTIONS, open_job
from tests.kvm.outer import run_outer

#: The suites that know the kernel end run it here; what they have for other ends runs elsewhere.
SUITES = ["tests/kvm", "tests/contract/test_vsock_contract.py", "tests/integration/test_vsock_device.py"]
ALL = ["-v", *SUITES, "-k", "kvm or kernel-linux or KernelEnd"]
#: What of the benchmarks has a meaning in a machine this slow; ``many`` and ``cold`` would take an hour.
BENCH = ["--runs", "1", "--only", "start", "on-demand", "restart", "clone", "memory"]
SMOKE = ["-v", "-x", "tests/kvm/test_sandbox.py", "-k", "tier or program"]
PYTEST = ["pytest", "--noconftest", "--durations=8"]
#: The pool leaves 2 GiB free of what it parks ten clones in.
MEMORY_MIB, BENCH_MEMORY_MIB = 3072, 6144
DEADLINES_S = {"all": 600.0, "smoke": 120.0, "bench": 2400.0}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kvm", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="only the tier and one program")
    parser.add_argument("--bench", action="store_true", help="the benchmarks instead")
    parser.add_argument("--deadline", type=float, help="seconds the machine may take (600, smoke 120, bench 2400)")
    parser.add_argument("arguments", nargs="*", help="after --: pytest's or the benchmarks' own")
    asked = parser.parse_args()
    kind = "bench" if asked.bench else "smoke" if asked.smoke else "all"
    arguments = asked.arguments or {"all": ALL, "smoke": SMOKE, "bench": BENCH}[kind]
    deadline_s = asked.deadline or DEADLINES_S[kind]
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that it cleans up behind it
    color = f"--color={'yes' if sys.stdout.isatty() else 'no'}"
    try:
        module = ["tests.kvm.bench"] if asked.bench else [*PYTEST, color]
        distributions = BENCH_DISTRIBUTIONS if asked.bench else DISTRIBUTIONS
        memory_mib = BENCH_MEMORY_MIB if asked.bench else MEMORY_MIB
        code = run(find_paths(), [*module, *arguments], distributions, memory_mib=memory_mib, deadline_s=deadline_s)
    except HyperError as exc:
        print(f"error: {exc}\n{exc.hint}", file=sys.stderr)
        return 2
    print("the hardware path works" if code == 0 else f"{kind} failed (exit code {code})")
    return 1 if code else 0


def run(
    paths: Paths, arguments: list[str], distributions: tuple[str, ...], *, memory_mib: int, deadline_s: float
) -> int:
    """Make what is missing and run a module in the outer machine; its exit code."""
    began = time.monotonic()

    def report(what: str) -> None:
        print(f"[{time.monotonic() - began:5.1f} s] {what}", flush=True)

    folder = paths.data / "kvm-test"
    outer = get_image(folder, report)
    guest = build_guest(paths, lambda what, _done, _size: report(f"guest: {what}"))
    report("making the job")
    with open_job(folder, guest, find_base(paths), arguments, distributions) as job:
        report("starting the outer machine")
        code = asyncio.run(run_outer(outer, job, memory_mib=memory_mib, deadline_s=deadline_s, show=show))
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
