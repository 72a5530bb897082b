"""``python -m hyper_kernel.daemon``: hyperd in the foreground, or left behind by the client that needs it."""

import argparse
import asyncio
import logging
import os
import resource
import sys

from hyper_kernel.daemon.app import IDLE_EXIT_S, run
from hyper_kernel.errors import HyperError
from hyper_kernel.limits import MAX_LIVE
from hyper_kernel.oci.store import ImageStore
from hyper_kernel.paths import find_paths
from hyper_kernel.shim.nursery import Nursery
from hyper_kernel.shim.pool import Pool

#: Descriptors hyperd may need: of each live sandbox its shim, and for who is attached or waits; and some of its own.
MAX_FILES = 4 * MAX_LIVE + 256


def main() -> int:
    """Run hyperd; the exit code."""
    options = parse_options()
    if options.detach and os.fork():
        return 0  # the parent's parent reaps it at once; hyperd belongs to init from here on
    set_up_log(options.log_level)
    raise_file_limit()
    paths = find_paths()
    try:
        asyncio.run(
            run(
                paths,
                Pool(paths, Nursery()),
                ImageStore(paths.images),
                idle_exit_s=options.idle_exit_s,
                on_ready=lambda: tell_ready(options.ready_fd),
            )
        )
    except HyperError as exc:
        logging.getLogger(__name__).error("%s (%s)", exc, exc.hint)
        return 1
    return 0


def parse_options() -> argparse.Namespace:
    """The options of hyperd's command line."""
    parser = argparse.ArgumentParser(prog="hyperd", description=__doc__)
    parser.add_argument("--idle-exit-s", type=float, default=IDLE_EXIT_S, help="leave after so long without work")
    parser.add_argument("--ready-fd", type=int, default=-1, help="a descriptor to write a byte to when listening")
    parser.add_argument("--detach", action="store_true", help="go on in the background")
    parser.add_argument("--log-level", default="INFO", help="DEBUG, INFO, WARNING or ERROR")
    return parser.parse_args()


def raise_file_limit() -> None:
    """Allow this process as many descriptors as it may need; the usual 1024 are for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def set_up_log(level: str) -> None:
    """Log to standard error, which the client sends to hyperd.log."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("tornado.access").setLevel(logging.WARNING)


def tell_ready(fd: int) -> None:
    """Tell whoever started hyperd that it listens."""
    if fd >= 0:
        os.write(fd, b"1")
        os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
